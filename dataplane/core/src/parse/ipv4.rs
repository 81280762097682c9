//! IPv4: header, options, fragments; then what it carries.

use super::transport::{self, Found, is_dhcp};
use super::{Context, L3, fragment, icmp};
use crate::conntrack::tuple::{Tuple, TupleV4, protocol};
use crate::headers::{Headers, Kind};
use crate::verdict::DropReason;
use crate::wire::checksum::Sum;
use crate::wire::ipv4::{self, option};
use crate::wire::{array, be16, part};

/// Parses an IPv4 packet (RFC 791; RFC 1812 §5.2.2).
#[inline(always)]
pub(super) fn parse(
    out: &mut Headers,
    bytes: &[u8],
    context: Context<'_>,
) -> Result<(), DropReason> {
    let Some(header) = array::<{ ipv4::HEADER_LEN }>(bytes, L3) else {
        return Err(DropReason::Ipv4Header);
    };
    let fixed = Fixed::of(header);
    if header[ipv4::VERSION_IHL] == ipv4::VERSION_IHL_PLAIN {
        if !fixed.sum().is_right() {
            return Err(DropReason::Ipv4Checksum);
        }
        // All offsets are constants here.
        return with_header(out, bytes, context, header, fixed, ipv4::HEADER_LEN);
    }
    parse_with_options(out, bytes, context, header, fixed)
}

#[cold]
fn parse_with_options(
    out: &mut Headers,
    bytes: &[u8],
    context: Context<'_>,
    header: &[u8; ipv4::HEADER_LEN],
    fixed: Fixed,
) -> Result<(), DropReason> {
    let Some(len) = ipv4::header_len(header[ipv4::VERSION_IHL]) else {
        return Err(DropReason::Ipv4Header);
    };
    let total_len = usize::from(be16(header, ipv4::TOTAL_LEN));
    let (true, Some(all)) = (len <= total_len, bytes.get(L3 + ipv4::HEADER_LEN..L3 + len)) else {
        return Err(DropReason::Ipv4Header);
    };
    options(all, fixed.sum())?;
    with_header(out, bytes, context, header, fixed, len)
}

/// Sums of the parts of a header without options.
#[derive(Clone, Copy)]
struct Fixed {
    /// All before the addresses.
    numbers: Sum,
    addresses: Sum,
}

impl Fixed {
    #[inline(always)]
    fn of(header: &[u8; ipv4::HEADER_LEN]) -> Self {
        Self {
            numbers: Sum::ZERO.eight(part(header, 0)).four(part(header, ipv4::TTL)),
            addresses: Sum::ZERO.eight(part(header, ipv4::SRC)),
        }
    }

    #[inline(always)]
    fn sum(self) -> Sum {
        self.numbers.plus(self.addresses)
    }
}

/// Goes on after the header, whose checksum is right.
#[inline(always)]
fn with_header(
    out: &mut Headers,
    bytes: &[u8],
    context: Context<'_>,
    header: &[u8; ipv4::HEADER_LEN],
    fixed: Fixed,
    header_len: usize,
) -> Result<(), DropReason> {
    let ip_len = be16(header, ipv4::TOTAL_LEN);
    let l4 = L3 + header_len;
    // Shorter than the frame is fine: Ethernet pads.
    let Some(payload) = bytes.get(l4..L3 + usize::from(ip_len)) else {
        return Err(DropReason::Ipv4Header);
    };
    if header[ipv4::TTL] == 0 {
        return Err(DropReason::TtlZero);
    }
    let fragment = be16(header, ipv4::FRAGMENT);
    if fragment & (ipv4::MORE_FRAGMENTS | ipv4::OFFSET_MASK) != 0 {
        return fragment_of(out, header, context, l4, payload.len());
    }
    // Each its own end, so that what does not concern it is not there.
    match header[ipv4::PROTOCOL] {
        protocol::UDP => {
            let found = transport::parse_udp::<false>(payload, context, fixed.addresses)?;
            together(out, header, context, l4, found);
            Ok(())
        }
        protocol::TCP => {
            let found = transport::parse_tcp(payload, context, fixed.addresses)?;
            together(out, header, context, l4, found);
            Ok(())
        }
        _ => other_protocol(out, payload, context, header, fixed.addresses, l4),
    }
}

/// A fragment: `len` bytes of a datagram.
#[cold]
fn fragment_of(
    out: &mut Headers,
    header: &[u8; ipv4::HEADER_LEN],
    context: Context<'_>,
    l4: usize,
    len: usize,
) -> Result<(), DropReason> {
    fragment::Slice::v4(header, l4..l4 + len).check(l4 - L3)?;
    ip(out, header, context, l4);
    out.tuple = Tuple::V4(tuple(header, (be16(header, ipv4::IDENTIFICATION), 0)));
    out.kind = Kind::Fragment;
    Ok(())
}

#[inline(never)]
fn other_protocol(
    out: &mut Headers,
    payload: &[u8],
    context: Context<'_>,
    header: &[u8; ipv4::HEADER_LEN],
    addresses: Sum,
    l4: usize,
) -> Result<(), DropReason> {
    let protocol = header[ipv4::PROTOCOL];
    if protocol == protocol::ICMP {
        ip(out, header, context, l4);
        *out = icmp::parse_v4(payload, context, *out, tuple(header, (0, 0)))?;
        return Ok(());
    }
    let found = transport::parse_other(payload, context, protocol, addresses)?;
    together(out, header, context, l4, found);
    Ok(())
}

/// What both headers said.
#[inline(always)]
fn together(
    out: &mut Headers,
    header: &[u8; ipv4::HEADER_LEN],
    context: Context<'_>,
    l4: usize,
    found: Found,
) {
    let tuple = tuple(header, found.ids);
    // RFC 2131 §4.1.
    let dhcp = context.interface.dhcp
        && tuple.protocol == protocol::UDP
        && is_dhcp(found.ids, context.origin, (67, 68));
    ip(out, header, context, l4);
    out.tuple = Tuple::V4(tuple);
    found.write(out, dhcp);
}

#[inline(always)]
fn tuple(header: &[u8; ipv4::HEADER_LEN], (src_id, dst_id): (u16, u16)) -> TupleV4 {
    // In two halves, as it is read: a load over several small stores would wait for them.
    let addresses: [u8; 8] = part(header, ipv4::SRC);
    let protocol = u16::from_ne_bytes([header[ipv4::PROTOCOL], 0]);
    let rest: u64 = zerocopy::transmute!([src_id, dst_id, 0, protocol]);
    zerocopy::transmute!([u64::from_ne_bytes(addresses), rest])
}

/// What the IP header said.
#[inline(always)]
fn ip(out: &mut Headers, header: &[u8; ipv4::HEADER_LEN], context: Context<'_>, l4: usize) {
    out.l3 = L3 as u16;
    out.l4 = l4 as u16;
    out.ip_len = be16(header, ipv4::TOTAL_LEN);
    out.ttl = header[ipv4::TTL];
    out.tos = header[ipv4::TOS];
    out.protocol = header[ipv4::PROTOCOL];
    out.dont_fragment = be16(header, ipv4::FRAGMENT) & ipv4::DONT_FRAGMENT != 0;
    out.l2_group = context.l2_group;
}

/// Verifies the checksum of a header with options and walks them (RFC 791 §3.1). Source routes are refused
/// (RFC 7126 §4.3, §4.4; C144), what is malformed too; all others pass as they are.
#[cold]
fn options(options: &[u8], fixed: Sum) -> Result<(), DropReason> {
    if !fixed.bytes(options).is_right() {
        return Err(DropReason::Ipv4Checksum);
    }
    let mut rest = options;
    // Each turn takes at least a byte of at most forty.
    while let [kind, after @ ..] = rest {
        match *kind {
            option::END => break,
            option::NO_OPERATION => rest = after,
            kind => {
                let [len, ..] = *after else { return Err(DropReason::Ipv4Options) };
                let len = usize::from(len);
                let (true, Some(next)) = (len >= 2, rest.get(len..)) else {
                    return Err(DropReason::Ipv4Options);
                };
                option(kind, rest.get(2..len).unwrap_or_default())?;
                rest = next;
            }
        }
    }
    Ok(())
}

/// One option with a length: its type and what follows the length byte.
fn option(kind: u8, data: &[u8]) -> Result<(), DropReason> {
    // Pointers count from the option's first byte, from 1.
    let pointer_min = match kind {
        option::LOOSE_SOURCE_ROUTE | option::STRICT_SOURCE_ROUTE => {
            return Err(DropReason::Ipv4SourceRoute);
        }
        option::RECORD_ROUTE => 4,
        option::TIMESTAMP if data.len() < 2 => return Err(DropReason::Ipv4Options),
        option::TIMESTAMP => 5,
        _ => return Ok(()),
    };
    match data.first() {
        Some(pointer) if *pointer >= pointer_min => Ok(()),
        _ => Err(DropReason::Ipv4Options),
    }
}
