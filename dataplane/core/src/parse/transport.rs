//! TCP, UDP, UDP-Lite, SCTP, and protocols of which nothing is known.

use super::{Context, invalid};
use crate::conntrack::tcp::flags_valid;
use crate::conntrack::tuple::protocol;
use crate::headers::{Headers, Kind, TcpSummary};
use crate::verdict::DropReason;
use crate::wire::checksum::Sum;
use crate::wire::{array, be16, be32, tcp, udp};

/// Parses the transport header and returns the ids of the tuple. `packet` ends where the IP packet ends;
/// `addresses` is the sum of both addresses, for the pseudo header.
#[inline(always)]
pub(super) fn parse<const V6: bool>(
    packet: &[u8],
    context: Context<'_>,
    headers: &mut Headers,
    addresses: Sum,
) -> Result<(u16, u16), DropReason> {
    let l4 = packet.get(usize::from(headers.l4)..).unwrap_or_default();
    // Of the pseudo header (RFC 9293 §3.1, RFC 8200 §8.1) all but the length.
    let pseudo = addresses.word(u16::from(headers.protocol));
    let ids = match headers.protocol {
        protocol::TCP => parse_tcp(l4, context, headers, pseudo)?,
        protocol::UDP => parse_udp::<V6>(l4, context, headers, pseudo)?,
        protocol::SCTP => match array::<{ udp::SCTP_HEADER_LEN }>(l4, 0) {
            Some(header) => (be16(header, udp::SRC), be16(header, udp::DST)),
            None => return Err(DropReason::TruncatedTransport),
        },
        protocol::UDP_LITE => parse_udp_lite(l4, context, headers, pseudo)?,
        _ => return Ok((0, 0)),
    };
    // RFC 6335 §6: port 0 is reserved (C167).
    if ids.0 == 0 || ids.1 == 0 {
        return Err(DropReason::PortZero);
    }
    Ok(ids)
}

#[inline(always)]
fn parse_tcp(
    segment: &[u8],
    context: Context<'_>,
    headers: &mut Headers,
    pseudo: Sum,
) -> Result<(u16, u16), DropReason> {
    let Some(header) = array::<{ tcp::HEADER_LEN }>(segment, 0) else {
        return Err(DropReason::TruncatedTransport);
    };
    // C163.
    let header_len = usize::from(header[tcp::DATA_OFFSET] >> 4) * 4;
    if header_len < tcp::HEADER_LEN || header_len > segment.len() {
        return Err(DropReason::TruncatedTransport);
    }
    headers.kind = Kind::Tcp;
    headers.tcp = TcpSummary {
        seq: be32(header, tcp::SEQ),
        ack: be32(header, tcp::ACK),
        window: be16(header, tcp::WINDOW),
        payload_len: (segment.len() - header_len) as u16,
        flags: header[tcp::FLAGS],
        header_len: header_len as u8,
    };
    // C164.
    if context.verify_checksums && !pseudo.word(segment.len() as u16).bytes(segment).is_right() {
        invalid(headers, DropReason::TransportChecksum);
    } else if !flags_valid(headers.tcp.flags) {
        invalid(headers, DropReason::TcpFlags);
    }
    Ok((be16(header, tcp::SRC), be16(header, tcp::DST)))
}

#[inline(always)]
fn parse_udp<const V6: bool>(
    payload: &[u8],
    context: Context<'_>,
    headers: &mut Headers,
    pseudo: Sum,
) -> Result<(u16, u16), DropReason> {
    let Some(header) = array::<{ udp::HEADER_LEN }>(payload, 0) else {
        return Err(DropReason::TruncatedTransport);
    };
    // C047. Bytes behind the datagram are nobody's.
    let len = be16(header, udp::LENGTH);
    let (true, Some(datagram)) =
        (usize::from(len) >= udp::HEADER_LEN, payload.get(..usize::from(len)))
    else {
        return Err(DropReason::TruncatedTransport);
    };
    headers.kind = Kind::Flow;
    if context.verify_checksums {
        let right = match be16(header, udp::CHECKSUM) {
            // No checksum: RFC 768 allows it, RFC 8200 §8.1 does not.
            0 => !V6,
            _ => pseudo.word(len).bytes(datagram).is_right(),
        };
        if !right {
            invalid(headers, DropReason::TransportChecksum);
        }
    }
    Ok((be16(header, udp::SRC), be16(header, udp::DST)))
}

/// RFC 3828 §3.1: the length field says how much the checksum covers; the pseudo header has the length of
/// the IP payload. Zero is not a checksum.
#[cold]
fn parse_udp_lite(
    payload: &[u8],
    context: Context<'_>,
    headers: &mut Headers,
    pseudo: Sum,
) -> Result<(u16, u16), DropReason> {
    let Some(header) = array::<{ udp::HEADER_LEN }>(payload, 0) else {
        return Err(DropReason::TruncatedTransport);
    };
    let covered = match usize::from(be16(header, udp::LENGTH)) {
        0 => Some(payload),
        coverage if coverage < udp::HEADER_LEN => None,
        coverage => payload.get(..coverage),
    };
    let Some(covered) = covered else { return Err(DropReason::TruncatedTransport) };
    let right = be16(header, udp::CHECKSUM) != 0
        && pseudo.word(payload.len() as u16).bytes(covered).is_right();
    if context.verify_checksums && !right {
        invalid(headers, DropReason::TransportChecksum);
    }
    Ok((be16(header, udp::SRC), be16(header, udp::DST)))
}
