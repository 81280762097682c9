//! Translating an ICMP error: its own addresses, and the packet it quotes (RFC 5508 §4.2).
//!
//! Whoever gets the error must recognise his own packet in the quote. So the quote is made to show the
//! tuple that he sent, and every checksum in it that covers what was changed follows, if it is in the quote
//! at all. The error's own checksum is updated by the sum of all these changes: the quote's length, and
//! whatever follows it (RFC 4884), stay.

use core::net::IpAddr;

use super::{TTL_DELTA, TtlChange, put_ports, sctp_header};
use crate::conntrack::tuple::{Tuple, TupleV4, TupleV6, protocol};
use crate::headers::Headers;
use crate::wire::checksum::{apply, apply_udp, combine, delta, delta16};
use crate::wire::icmp::{self, Class};
use crate::wire::{array, array_mut, be16, ipv4, ipv6, part, put, put16, sctp, tcp, udp};

/// What an ICMP error is to become.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ErrorPlan {
    /// The error's new source, if it is to have one: errors of routers on the way keep theirs (C053), those
    /// of a translated end do not (C063, C070).
    pub src: Option<IpAddr>,
    /// The error's new destination, if it is to have one.
    pub dst: Option<IpAddr>,
    /// The tuple that the quoted packet is to show: source and destination as in the quote, which goes the
    /// other way than the error.
    pub quote: Tuple,
    /// What to do with the error's own TTL.
    pub ttl: TtlChange,
}

/// Translates an ICMP or ICMPv6 error in place. Addresses of another family than the packet's are ignored.
pub fn icmp_error(bytes: &mut [u8], headers: &Headers, plan: &ErrorPlan) {
    // Padding behind the packet is no part of the quote.
    let end = usize::from(headers.l3) + usize::from(headers.ip_len);
    let Some(packet) = bytes.get_mut(..end) else { return };
    match &plan.quote {
        Tuple::V4(quote) if headers.is_v4() => {
            let inner = quote_v4(packet, headers, quote);
            change_checksum(packet, usize::from(headers.l4) + icmp::CHECKSUM, inner, apply);
            outer_v4(packet, headers, plan);
        }
        Tuple::V6(quote) if !headers.is_v4() => {
            let inner = quote_v6(packet, headers, quote);
            let outer = outer_v6(packet, headers, plan);
            let change = combine(inner, outer);
            change_checksum(packet, usize::from(headers.l4) + icmp::CHECKSUM, change, apply);
        }
        _ => {}
    }
}

/// The IPv4 header of the error itself.
fn outer_v4(packet: &mut [u8], headers: &Headers, plan: &ErrorPlan) {
    let Some(header) = array_mut::<{ ipv4::HEADER_LEN }>(packet, usize::from(headers.l3)) else {
        return;
    };
    let mut change = 0;
    for (at, address) in [(ipv4::SRC, plan.src), (ipv4::DST, plan.dst)] {
        if let Some(IpAddr::V4(new)) = address {
            change = combine(change, delta(&part::<_, 4>(header, at), &new.octets()));
            put(header, at, new.octets());
        }
    }
    if plan.ttl == TtlChange::Decrement {
        header[ipv4::TTL] = header[ipv4::TTL].wrapping_sub(1);
        change = combine(change, TTL_DELTA);
    }
    let sum = be16(header, ipv4::CHECKSUM);
    put16(header, ipv4::CHECKSUM, apply(sum, change));
}

/// The IPv6 header of the error itself. Returns what that does to the pseudo header.
fn outer_v6(packet: &mut [u8], headers: &Headers, plan: &ErrorPlan) -> u16 {
    let Some(header) = array_mut::<{ ipv6::HEADER_LEN }>(packet, usize::from(headers.l3)) else {
        return 0;
    };
    let mut change = 0;
    for (at, address) in [(ipv6::SRC, plan.src), (ipv6::DST, plan.dst)] {
        if let Some(IpAddr::V6(new)) = address {
            change = combine(change, delta(&part::<_, 16>(header, at), &new.octets()));
            put(header, at, new.octets());
        }
    }
    if plan.ttl == TtlChange::Decrement {
        header[ipv6::HOP_LIMIT] = header[ipv6::HOP_LIMIT].wrapping_sub(1);
    }
    change
}

/// The quoted IPv4 packet. Returns the sum of all changes in it.
fn quote_v4(packet: &mut [u8], headers: &Headers, quote: &TupleV4) -> u16 {
    let Some(header) = array_mut::<{ ipv4::HEADER_LEN }>(packet, usize::from(headers.quote_l3))
    else {
        return 0;
    };
    let addresses = combine(
        delta(&part::<_, 4>(header, ipv4::SRC), &quote.src),
        delta(&part::<_, 4>(header, ipv4::DST), &quote.dst),
    );
    put(header, ipv4::SRC, quote.src);
    put(header, ipv4::DST, quote.dst);
    let old = be16(header, ipv4::CHECKSUM);
    let new = apply(old, addresses);
    put16(header, ipv4::CHECKSUM, new);
    let l3 = combine(addresses, delta16(old, new));
    // ICMP's checksum has no pseudo header.
    let pseudo = if quote.protocol == protocol::ICMP { 0 } else { addresses };
    let ids = (quote.src_id, quote.dst_id);
    combine(l3, quoted_transport(packet, headers, quote.protocol, ids, pseudo))
}

/// The quoted IPv6 packet. Returns the sum of all changes in it.
fn quote_v6(packet: &mut [u8], headers: &Headers, quote: &TupleV6) -> u16 {
    let Some(header) = array_mut::<{ ipv6::HEADER_LEN }>(packet, usize::from(headers.quote_l3))
    else {
        return 0;
    };
    let addresses = combine(
        delta(&part::<_, 16>(header, ipv6::SRC), &quote.src),
        delta(&part::<_, 16>(header, ipv6::DST), &quote.dst),
    );
    put(header, ipv6::SRC, quote.src);
    put(header, ipv6::DST, quote.dst);
    let ids = (quote.src_id, quote.dst_id);
    combine(addresses, quoted_transport(packet, headers, quote.protocol, ids, addresses))
}

/// Ports or identifier of the quoted packet, and its transport checksum if the quote reaches that far.
/// `pseudo` is the change of the pseudo header. Returns the sum of all changes here.
fn quoted_transport(
    packet: &mut [u8],
    headers: &Headers,
    protocol: u8,
    ids: (u16, u16),
    pseudo: u16,
) -> u16 {
    let l4 = usize::from(headers.quote_l4);
    let is_v4 = headers.is_v4();
    let class = array::<1>(packet, l4).and_then(|kind| match (is_v4, protocol) {
        (true, protocol::ICMP) => Some(Class::of_v4(kind[0])),
        (false, protocol::ICMPV6) => Some(Class::of_v6(kind[0])),
        _ => None,
    });
    if protocol == protocol::SCTP
        && let Some(len) = quoted_len(packet, headers)
        && let Some(header) = array_mut::<{ sctp::HEADER_LEN }>(packet, l4)
    {
        let before = *header;
        sctp_header(header, len, ids);
        return delta(&before, header);
    }
    let Some(start) = array_mut::<8>(packet, l4) else { return 0 };
    let before = *start;
    type Apply = fn(u16, u16) -> u16;
    let (checksum, apply): (Option<usize>, Apply) = match protocol {
        protocol::TCP => (Some(tcp::CHECKSUM), apply),
        protocol::UDP | protocol::UDP_LITE => (Some(udp::CHECKSUM), apply_udp),
        protocol::ICMP | protocol::ICMPV6 => (Some(icmp::CHECKSUM), apply),
        _ => (None, apply),
    };
    match (protocol, class) {
        (protocol::TCP | protocol::UDP | protocol::UDP_LITE | protocol::SCTP, _) => {
            put_ports(start, ids);
        }
        (_, Some(class)) => {
            let Some(identifier) = class.identifier(ids.0, ids.1) else { return 0 };
            put16(start, icmp::IDENTIFIER, identifier);
        }
        // Protocols without ids; ICMP of the other family is one of them.
        (_, None) => return 0,
    }
    let written = delta(&before, start);
    let Some(at) = checksum else { return written };
    combine(written, change_checksum(packet, l4 + at, combine(pseudo, written), apply))
}

/// How long the quoted transport packet was, as the quoted IP header says.
fn quoted_len(packet: &[u8], headers: &Headers) -> Option<u16> {
    let l3 = usize::from(headers.quote_l3);
    let end = if headers.is_v4() {
        be16(array::<{ ipv4::HEADER_LEN }>(packet, l3)?, ipv4::TOTAL_LEN)
    } else {
        let payload = be16(array::<{ ipv6::HEADER_LEN }>(packet, l3)?, ipv6::PAYLOAD_LEN);
        payload.checked_add(ipv6::HEADER_LEN as u16)?
    };
    end.checked_sub(headers.quote_l4.checked_sub(headers.quote_l3)?)
}

/// Applies a delta to the checksum at `at`, if that is within the packet. Returns the change of the field
/// itself, as a sum over it sees it.
fn change_checksum(
    packet: &mut [u8],
    at: usize,
    change: u16,
    apply: impl Fn(u16, u16) -> u16,
) -> u16 {
    let Some(field) = array_mut::<2>(packet, at) else { return 0 };
    let old = be16(field, 0);
    let new = apply(old, change);
    put16(field, 0, new);
    if old == new { 0 } else { delta16(old, new) }
}
