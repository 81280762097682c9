//! IPv6: header and extension headers; then what it carries.

use core::net::Ipv6Addr;

use super::fragment::Slice;
use super::transport::{self, Found, is_dhcp};
use super::{Context, L3, icmp};
use crate::conntrack::tuple::{Tuple, TupleV6, protocol};
use crate::headers::{Headers, Kind};
use crate::verdict::DropReason;
use crate::wire::checksum::Sum;
use crate::wire::ipv6::{self, extension, option};
use crate::wire::{array, be16, be32, part};

/// Most extension headers walked over.
const EXTENSIONS_MAX: usize = 8;
/// Most bytes of extension headers walked over.
const EXTENSION_BYTES_MAX: usize = 256;

/// Parses an IPv6 packet (RFC 8200).
#[inline(always)]
pub(super) fn parse(
    out: &mut Headers,
    bytes: &[u8],
    context: Context<'_>,
) -> Result<(), DropReason> {
    let Some(header) = array::<{ ipv6::HEADER_LEN }>(bytes, L3) else {
        return Err(DropReason::Ipv6Header);
    };
    let ip_len = ipv6::HEADER_LEN + usize::from(be16(header, ipv6::PAYLOAD_LEN));
    let (6, Some(packet)) = (header[0] >> 4, bytes.get(..L3 + ip_len)) else {
        return Err(DropReason::Ipv6Header);
    };
    if header[ipv6::HOP_LIMIT] == 0 {
        return Err(DropReason::TtlZero);
    }
    let next = header[ipv6::NEXT_HEADER];
    let start = L3 + ipv6::HEADER_LEN;
    if is_extension(next) {
        return parse_with_extensions(out, packet, context, header, next);
    }
    with_header(out, packet, context, header, next, start)
}

#[cold]
fn parse_with_extensions(
    out: &mut Headers,
    packet: &[u8],
    mut context: Context<'_>,
    header: &[u8; ipv6::HEADER_LEN],
    next: u8,
) -> Result<(), DropReason> {
    let walk = walk(packet, L3 + ipv6::HEADER_LEN, next)?;
    // RFC 6946: an atomic fragment is a whole datagram, whatever others have its identification.
    if let Some(fragment) = walk.fragment.filter(|fragment| !fragment.is_atomic()) {
        return fragment_of(out, packet, context, header, fragment);
    }
    // RFC 8200 §8.1: the pseudo header has the final destination, which is not the one in the header while
    // segments are left, so the sum cannot be told right from wrong.
    context.verify_checksums &= !walk.routed;
    with_header(out, packet, context, header, walk.protocol, walk.l4)
}

/// A fragment. Its tuple has the datagram's identification (RFC 8200 §4.5: addresses and identification, and not the
/// next header, make it one datagram).
fn fragment_of(
    out: &mut Headers,
    packet: &[u8],
    context: Context<'_>,
    header: &[u8; ipv6::HEADER_LEN],
    fragment: Fragment,
) -> Result<(), DropReason> {
    let Fragment { data, next, id, .. } = fragment;
    Slice::v6(fragment, packet.len()).check(data - ipv6::FRAGMENT_LEN - L3 - ipv6::HEADER_LEN)?;
    let ids = ((id >> 16) as u16, id as u16);
    let ip = Ip { header, protocol: next, l4: data, len: packet.len() - L3 };
    ip.write(out, context);
    out.tuple = Tuple::V6(TupleV6 { protocol: 0, ..ip.tuple(ids) });
    out.kind = Kind::Fragment;
    Ok(())
}

/// Goes on after the header and its extensions. `packet` begins with the frame and ends with the packet.
#[inline(always)]
fn with_header(
    out: &mut Headers,
    packet: &[u8],
    context: Context<'_>,
    header: &[u8; ipv6::HEADER_LEN],
    protocol: u8,
    l4: usize,
) -> Result<(), DropReason> {
    let Some(payload) = packet.get(l4..) else { return Err(DropReason::Ipv6Header) };
    let addresses = Sum::ZERO
        .eight(part(header, ipv6::SRC))
        .eight(part(header, ipv6::SRC + 8))
        .eight(part(header, ipv6::DST))
        .eight(part(header, ipv6::DST + 8));
    let ip = Ip { header, protocol, l4, len: packet.len() - L3 };
    // Each its own end, so that what does not concern it is not there.
    match protocol {
        protocol::UDP => {
            let found = transport::parse_udp::<true>(payload, context, addresses)?;
            ip.together(out, context, found);
            Ok(())
        }
        protocol::TCP => {
            let found = transport::parse_tcp(payload, context, addresses)?;
            ip.together(out, context, found);
            Ok(())
        }
        _ => other_protocol(out, payload, context, ip, addresses),
    }
}

#[inline(never)]
fn other_protocol(
    out: &mut Headers,
    payload: &[u8],
    context: Context<'_>,
    ip: Ip<'_>,
    addresses: Sum,
) -> Result<(), DropReason> {
    if ip.protocol == protocol::ICMPV6 {
        ip.write(out, context);
        *out = icmp::parse_v6(payload, context, *out, ip.tuple((0, 0)), addresses)?;
        return Ok(());
    }
    let found = transport::parse_other(payload, context, ip.protocol, addresses)?;
    ip.together(out, context, found);
    Ok(())
}

/// The IP header and what follows from the extension headers.
#[derive(Clone, Copy)]
struct Ip<'a> {
    header: &'a [u8; ipv6::HEADER_LEN],
    protocol: u8,
    l4: usize,
    len: usize,
}

impl Ip<'_> {
    /// What both headers said.
    #[inline(always)]
    fn together(self, out: &mut Headers, context: Context<'_>, found: Found) {
        let tuple = self.tuple(found.ids);
        // RFC 8415 §7.2; between link-local addresses, which nobody can send from afar.
        let dhcp = context.interface.dhcp
            && self.protocol == protocol::UDP
            && Ipv6Addr::from(tuple.src).is_unicast_link_local()
            && is_dhcp(found.ids, context.origin, (547, 546));
        self.write(out, context);
        out.tuple = Tuple::V6(tuple);
        found.write(out, dhcp);
    }

    #[inline(always)]
    fn tuple(self, (src_id, dst_id): (u16, u16)) -> TupleV6 {
        TupleV6 {
            src: part(self.header, ipv6::SRC),
            dst: part(self.header, ipv6::DST),
            src_id,
            dst_id,
            protocol: self.protocol,
            ..TupleV6::default()
        }
    }

    /// What the IP header said.
    #[inline(always)]
    fn write(self, out: &mut Headers, context: Context<'_>) {
        out.l3 = L3 as u16;
        out.l4 = self.l4 as u16;
        out.ip_len = self.len as u16;
        out.ttl = self.header[ipv6::HOP_LIMIT];
        out.tos = (be16(self.header, 0) >> 4) as u8;
        out.protocol = self.protocol;
        out.dont_fragment = true;
        out.l2_group = context.l2_group;
    }
}

/// What a fragment header said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fragment {
    /// Where what it brings begins, counted as everything in the packet.
    pub(super) data: usize,
    /// Where that belongs, bytes.
    pub(super) offset: u16,
    /// Whether it is not the last one.
    pub(super) more: bool,
    /// What follows, in the first one.
    pub(super) next: u8,
    /// Of the datagram.
    pub(super) id: u32,
}

impl Fragment {
    /// Reads the header that ends where `data` begins.
    pub(super) fn read(packet: &[u8], data: usize) -> Option<Self> {
        let header = array::<{ ipv6::FRAGMENT_LEN }>(packet, data.checked_sub(8)?)?;
        let word = be16(header, 2);
        let (offset, more) = (word & !7, word & 1 != 0);
        Some(Self { data, offset, more, next: header[0], id: be32(header, 4) })
    }

    /// Whether there are no others.
    const fn is_atomic(&self) -> bool {
        self.offset == 0 && !self.more
    }
}

/// Where a walk over extension headers ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    /// The transport protocol; 59 if nothing follows.
    pub(super) protocol: u8,
    /// Where its header begins.
    pub(super) l4: usize,
    /// If it is a fragment.
    pub(super) fragment: Option<Fragment>,
    /// Whether a routing header has segments left.
    pub(super) routed: bool,
}

const fn is_extension(next: u8) -> bool {
    matches!(
        next,
        extension::HOP_BY_HOP | extension::ROUTING | extension::FRAGMENT | extension::DESTINATION
    )
}

impl Walk {
    /// Whether what follows is from the middle of a datagram.
    pub(super) fn is_later(&self) -> bool {
        self.fragment.is_some_and(|fragment| fragment.offset != 0)
    }
}

/// Walks over the extension headers from `start` to the transport header (RFC 8200 §4.1).
pub(super) fn walk(packet: &[u8], start: usize, next: u8) -> Result<Walk, DropReason> {
    let mut walk = Walk { protocol: next, l4: start, fragment: None, routed: false };
    for index in 0..=EXTENSIONS_MAX {
        if !is_extension(walk.protocol) {
            return Ok(walk);
        }
        let Some(fixed) = array::<8>(packet, walk.l4) else { break };
        let len = match walk.protocol {
            extension::FRAGMENT => ipv6::FRAGMENT_LEN,
            _ => usize::from(fixed[1]) * 8 + 8,
        };
        let end = walk.l4 + len;
        let Some(header) = packet.get(walk.l4..end) else { break };
        if end - start > EXTENSION_BYTES_MAX {
            break;
        }
        match walk.protocol {
            // RFC 8200 §4.1: only immediately after the IPv6 header.
            extension::HOP_BY_HOP if index != 0 => break,
            extension::HOP_BY_HOP => hop_by_hop(header.get(2..).unwrap_or_default())?,
            // RFC 5095: type 0 is deprecated; it must not be acted upon, and it is not passed on to hosts.
            extension::ROUTING if fixed[2] == 0 => break,
            extension::ROUTING => walk.routed |= fixed[3] != 0,
            // A fragment of a fragment.
            extension::FRAGMENT if walk.fragment.is_some() => break,
            extension::FRAGMENT => walk.fragment = Fragment::read(packet, end),
            _ => {}
        }
        (walk.protocol, walk.l4) = (fixed[0], end);
        if walk.is_later() {
            return Ok(walk);
        }
    }
    Err(DropReason::Ipv6Extension)
}

/// Hop-by-hop options, which every router may look at: well formed, and no jumbogram (RFC 2675).
fn hop_by_hop(options: &[u8]) -> Result<(), DropReason> {
    let mut rest = options;
    // Each turn takes at least a byte of at most `EXTENSION_BYTES_MAX`.
    while let [kind, after @ ..] = rest {
        if *kind == option::PAD1 {
            rest = after;
            continue;
        }
        let [len, data @ ..] = after else { return Err(DropReason::Ipv6Extension) };
        let (false, Some(next)) = (*kind == option::JUMBO, data.get(usize::from(*len)..)) else {
            return Err(DropReason::Ipv6Extension);
        };
        rest = next;
    }
    Ok(())
}
