//! IPv4: header, options, fragments; then what it carries.

use super::{Context, L3, icmp, transport};
use crate::burst::Origin;
use crate::conntrack::tuple::{Tuple, TupleV4, protocol};
use crate::headers::{Headers, Kind};
use crate::verdict::DropReason;
use crate::wire::checksum::Sum;
use crate::wire::ipv4::{self, option};
use crate::wire::{array, be16, part};

/// Parses an IPv4 packet (RFC 791; RFC 1812 §5.2.2).
#[inline]
pub(super) fn parse(
    bytes: &[u8],
    context: Context<'_>,
    headers: &mut Headers,
) -> Result<(), DropReason> {
    let Some(header) = array::<{ ipv4::HEADER_LEN }>(bytes, L3) else {
        return Err(DropReason::Ipv4Header);
    };
    let Some(header_len) = ipv4::header_len(header[ipv4::VERSION_IHL]) else {
        return Err(DropReason::Ipv4Header);
    };
    let ip_len = be16(header, ipv4::TOTAL_LEN);
    if usize::from(ip_len) < header_len {
        return Err(DropReason::Ipv4Header);
    }
    // Shorter than the frame is fine: Ethernet pads.
    let Some(packet) = bytes.get(..L3 + usize::from(ip_len)) else {
        return Err(DropReason::Ipv4Header);
    };
    let addresses = Sum::ZERO.eight(part(header, ipv4::SRC));
    let fixed = Sum::ZERO.eight(part(header, 0)).four(part(header, ipv4::TTL)).plus(addresses);
    let l4 = L3 + header_len;
    if header_len == ipv4::HEADER_LEN {
        if !fixed.is_right() {
            return Err(DropReason::Ipv4Checksum);
        }
    } else {
        options(packet.get(L3 + ipv4::HEADER_LEN..l4).unwrap_or_default(), fixed)?;
    }
    let ttl = header[ipv4::TTL];
    if ttl == 0 {
        return Err(DropReason::TtlZero);
    }
    let fragment = be16(header, ipv4::FRAGMENT);
    if fragment & (ipv4::MORE_FRAGMENTS | ipv4::OFFSET_MASK) != 0 {
        return Err(DropReason::Fragment);
    }
    headers.l4 = l4 as u16;
    headers.ip_len = ip_len;
    headers.ttl = ttl;
    headers.tos = header[ipv4::TOS];
    headers.protocol = header[ipv4::PROTOCOL];
    headers.dont_fragment = fragment & ipv4::DONT_FRAGMENT != 0;
    let mut tuple = TupleV4 {
        src: part(header, ipv4::SRC),
        dst: part(header, ipv4::DST),
        protocol: headers.protocol,
        ..TupleV4::default()
    };
    if headers.protocol == protocol::ICMP {
        headers.tuple = Tuple::V4(icmp::parse_v4(packet, context, headers, tuple)?);
        return Ok(());
    }
    (tuple.src_id, tuple.dst_id) = transport::parse::<false>(packet, context, headers, addresses)?;
    if context.interface.dhcp && is_dhcp(&tuple, context.origin) && headers.kind == Kind::Flow {
        headers.kind = Kind::Untracked;
    }
    headers.tuple = Tuple::V4(tuple);
    Ok(())
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

/// Whether it belongs to the host's DHCP client (RFC 2131 §4.1): an answer from a server, or a question to
/// one. Clients read past any filter, and answers match no connection.
fn is_dhcp(tuple: &TupleV4, origin: Origin) -> bool {
    let ports = match origin {
        Origin::Wire => (67, 68),
        Origin::Host => (68, 67),
    };
    tuple.protocol == protocol::UDP && (tuple.src_id, tuple.dst_id) == ports
}
