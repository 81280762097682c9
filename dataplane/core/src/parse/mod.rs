//! Bytes to [`Headers`], in one forward pass, or the reason why not.
//!
//! ```text
//! parse ─ Ethernet ─┬─ ARP ──────────────────────────────► Kind::Arp
//!                   ├─ ipv4 ─┬─ transport ───────────────► Tcp, Flow, Untracked (DHCP), Invalid
//!                   │        ├─ fragment ────────────────► Fragment; Later once its datagram is whole
//!                   └─ ipv6 ─┴─ icmp ─┬──────────────────► IcmpQuery, Untracked (ND, MLD), Invalid
//!                                     └─ the quoted packet ► IcmpError
//! ```
//!
//! Two ways to fail. What no rule could sensibly want (truncated, lying about its length, source routed)
//! is an error here. What Linux calls INVALID (wrong transport checksum, impossible flags, ICMP that is
//! neither query nor error) is a result: rules may look at it, so its tuple is filled as far as it goes.
//!
//! Every byte is looked at through a checked slice: no packet can make this panic. Nothing is allocated
//! and nothing is kept.

pub mod fragment;
mod icmp;
mod ipv4;
mod ipv6;
pub mod plain;
mod transport;

#[cfg(test)]
mod tests;

use core::net::{IpAddr, Ipv4Addr};

use crate::burst::Origin;
use crate::headers::{Headers, Kind};
use crate::snapshot::Interface;
use crate::units::Mac;
use crate::verdict::DropReason;
use crate::wire::ethernet::{self, ethertype};
use crate::wire::{arp, array, be16, ipv4 as v4, ipv6 as v6, part};

/// Where the IP header begins.
const L3: usize = ethernet::HEADER_LEN;

/// What parsing depends on besides the bytes.
#[derive(Clone, Copy)]
struct Context<'a> {
    interface: &'a Interface,
    origin: Origin,
    verify_checksums: bool,
    l2_group: bool,
}

/// Parses a frame that came in by `interface`, or from the host by its TAP.
///
/// `verify_checksums` is about transport checksums only: that of the IPv4 header is always verified, since a
/// rewritten header would carry the error on.
pub fn parse(
    bytes: &[u8],
    interface: &Interface,
    origin: Origin,
    verify_checksums: bool,
) -> Result<Headers, DropReason> {
    let mut headers = Headers::default();
    parse_into(&mut headers, bytes, interface, origin, verify_checksums)?;
    Ok(headers)
}

/// [`parse`], in place: `out` is [`Headers::default`] before, and of no use after an error.
#[inline(never)] // it needs all registers, and so do its callers
pub fn parse_into(
    out: &mut Headers,
    bytes: &[u8],
    interface: &Interface,
    origin: Origin,
    verify_checksums: bool,
) -> Result<(), DropReason> {
    let Some(frame) = array::<{ ethernet::HEADER_LEN }>(bytes, 0) else {
        return Err(DropReason::TruncatedEthernet);
    };
    // An offset or an IP length in `Headers` fits 16 bits because the MTU does.
    if bytes.len() > usize::from(interface.mtu) + ethernet::HEADER_LEN {
        return Err(DropReason::FrameTooBig);
    }
    let own_mac = frame.first_chunk() == Some(&interface.mac.0);
    let l2_group = !own_mac && for_others_too(Mac(part(frame, ethernet::DST)), interface, origin)?;
    let context = Context { interface, origin, verify_checksums, l2_group };
    match be16(frame, ethernet::ETHERTYPE) {
        ethertype::IPV4 => ipv4::parse(out, bytes, context)?,
        ethertype::IPV6 => ipv6::parse(out, bytes, context)?,
        ethertype::ARP => *out = parse_arp(bytes, context)?,
        ethertype::VLAN | ethertype::SERVICE_VLAN => return Err(DropReason::VlanTagged),
        _ => return Err(DropReason::UnknownEtherType),
    }
    if interface.zone != 0 {
        out.tuple = out.tuple.in_zone(interface.zone);
    }
    Ok(())
}

/// The source and destination address of the packet itself; for an ICMP error those are not the tuple's.
/// `None` for what is not IP.
pub fn addresses(bytes: &[u8], headers: &Headers) -> Option<(IpAddr, IpAddr)> {
    let l3 = usize::from(headers.l3);
    if headers.kind == Kind::Arp {
        return None;
    }
    if headers.is_v4() {
        let header = array::<{ v4::HEADER_LEN }>(bytes, l3)?;
        let at = |at| IpAddr::from(part::<_, 4>(header, at));
        Some((at(v4::SRC), at(v4::DST)))
    } else {
        let header = array::<{ v6::HEADER_LEN }>(bytes, l3)?;
        let at = |at| IpAddr::from(part::<_, 16>(header, at));
        Some((at(v6::SRC), at(v6::DST)))
    }
}

/// Whether a frame that is not addressed to the interface's own MAC reaches others too: a group address, or
/// another station's that only promiscuous mode lets in. The latter the host may look at, but the appliance
/// must not forward it: the station it is meant for does (C170; RFC 1812 §3.3).
#[cold]
fn for_others_too(dst: Mac, interface: &Interface, origin: Origin) -> Result<bool, DropReason> {
    if dst.is_group() {
        return Ok(true);
    }
    if origin == Origin::Host || interface.other_macs.contains(&dst) {
        return Ok(false);
    }
    if interface.promiscuous { Ok(true) } else { Err(DropReason::ForeignMac) }
}

/// ARP (RFC 826): between the wire and the host, which answers, asks and keeps the cache. Only what cannot
/// be right is kept from it.
#[cold]
fn parse_arp(bytes: &[u8], context: Context<'_>) -> Result<Headers, DropReason> {
    let Some(packet) = array::<{ arp::LEN }>(bytes, L3) else {
        return Err(DropReason::ArpInvalid);
    };
    let well_formed = be16(packet, arp::HARDWARE) == 1
        && be16(packet, arp::PROTOCOL) == ethertype::IPV4
        && be16(packet, arp::LENGTHS) == 0x0604;
    let operation = be16(packet, arp::OPERATION);
    let mac = Mac(part(packet, arp::SENDER_MAC));
    let sender = Ipv4Addr::from(part::<_, 4>(packet, arp::SENDER));
    // RFC 5227 §1.1: a probe is a request from the all-zero address.
    let probe = operation == arp::REQUEST && sender.is_unspecified();
    let sane = well_formed
        && matches!(operation, arp::REQUEST | arp::REPLY)
        && !mac.is_group()
        && mac != Mac::default()
        && (probe || is_unicast(sender));
    if !sane || (context.origin == Origin::Wire && !probe && !may_claim(context.interface, sender))
    {
        return Err(DropReason::ArpInvalid);
    }
    Ok(Headers {
        l3: L3 as u16,
        ip_len: arp::LEN as u16,
        kind: Kind::Arp,
        l2_group: context.l2_group,
        ..Headers::default()
    })
}

/// Whether somebody on the wire may say that `sender` is theirs: not if it is ours (C171), nor if it lies
/// outside the interface's networks. An interface that knows of no network (no address yet, or lone
/// addresses with a gateway elsewhere) cannot tell.
fn may_claim(interface: &Interface, sender: Ipv4Addr) -> bool {
    let mut networks = 0;
    let mut inside = false;
    for own in interface.addresses.iter().filter(|a| a.address.is_ipv4()) {
        if own.address == sender {
            return false;
        }
        if own.length < 32 {
            networks += 1;
            inside |= own.holds(IpAddr::V4(sender));
        }
    }
    inside || networks == 0
}

/// Whether an IPv4 address can be one host's.
pub(crate) fn is_unicast(address: Ipv4Addr) -> bool {
    // 0/8 "this network", 127/8 loopback, 224/4 multicast, 240/4 reserved and broadcast (RFC 1122 §3.2.1.3).
    !matches!(address.octets()[0], 0 | 127 | 224..=255)
}
