//! TCP, UDP, UDP-Lite, SCTP, and protocols of which nothing is known.
//!
//! `payload` or `segment` is the payload of the IP packet; `addresses` is the sum of both addresses, for the
//! pseudo header (RFC 9293 §3.1, RFC 8200 §8.1).

use super::Context;
use crate::burst::Origin;
use crate::conntrack::tcp::flags_valid;
use crate::conntrack::tuple::protocol;
use crate::headers::{Headers, Kind, TcpSummary};
use crate::verdict::DropReason;
use crate::wire::checksum::Sum;
use crate::wire::crc32c::Crc32c;
use crate::wire::{array, be16, be32, part, sctp, tcp, udp};

/// What the transport header said.
#[derive(Clone, Copy)]
pub(super) struct Found {
    /// Of the tuple.
    pub(super) ids: (u16, u16),
    kind: Kind,
    invalid: Option<DropReason>,
    tcp: Option<TcpSummary>,
}

impl Found {
    #[inline(always)]
    fn new(ids: (u16, u16), kind: Kind, invalid: Option<DropReason>) -> Self {
        let kind = if invalid.is_some() { Kind::Invalid } else { kind };
        Self { ids, kind, invalid, tcp: None }
    }

    /// Puts it beside the IP header's findings, all but the ids. `untracked`: whether it is an exception that is
    /// not tracked if it is right.
    #[inline(always)]
    pub(super) fn write(self, out: &mut Headers, untracked: bool) {
        let untracked = untracked && self.kind == Kind::Flow;
        out.kind = if untracked { Kind::Untracked } else { self.kind };
        out.invalid = self.invalid;
        if let Some(tcp) = self.tcp {
            out.tcp = tcp;
        }
    }
}

/// Parses a TCP segment.
#[inline(always)]
pub(super) fn parse_tcp(
    segment: &[u8],
    context: Context<'_>,
    addresses: Sum,
) -> Result<Found, DropReason> {
    let Some(header) = array::<{ tcp::HEADER_LEN }>(segment, 0) else {
        return Err(DropReason::TruncatedTransport);
    };
    // C163.
    let header_len = usize::from(header[tcp::DATA_OFFSET] >> 4) * 4;
    if header_len < tcp::HEADER_LEN || header_len > segment.len() {
        return Err(DropReason::TruncatedTransport);
    }
    let flags = header[tcp::FLAGS];
    let ids = ports(be16(header, tcp::SRC), be16(header, tcp::DST))?;
    // C164.
    let len = segment.len() as u16;
    let wrong = context.verify_checksums && !is_right(addresses, protocol::TCP, len, segment);
    let invalid = if wrong {
        Some(DropReason::TransportChecksum)
    } else if !flags_valid(flags) {
        Some(DropReason::TcpFlags)
    } else {
        None
    };
    let tcp = TcpSummary {
        seq: be32(header, tcp::SEQ),
        ack: be32(header, tcp::ACK),
        window: be16(header, tcp::WINDOW),
        payload_len: (segment.len() - header_len) as u16,
        flags,
        header_len: header_len as u8,
    };
    Ok(Found { tcp: Some(tcp), ..Found::new(ids, Kind::Tcp, invalid) })
}

/// Parses a UDP datagram.
#[inline(always)]
pub(super) fn parse_udp<const V6: bool>(
    payload: &[u8],
    context: Context<'_>,
    addresses: Sum,
) -> Result<Found, DropReason> {
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
    let ids = ports(be16(header, udp::SRC), be16(header, udp::DST))?;
    let wrong = context.verify_checksums
        && match be16(header, udp::CHECKSUM) {
            // No checksum: RFC 768 allows it, RFC 8200 §8.1 does not.
            0 => V6,
            _ => !is_right(addresses, protocol::UDP, len, datagram),
        };
    Ok(Found::new(ids, Kind::Flow, wrong.then_some(DropReason::TransportChecksum)))
}

/// Whether a datagram belongs to a DHCP client of the host, by its ports: an answer from a `server` port to a
/// `client` port, or a question the other way. Clients read past any filter, and answers match no connection.
#[cold]
#[inline(never)]
pub(super) fn is_dhcp(ids: (u16, u16), origin: Origin, (server, client): (u16, u16)) -> bool {
    match origin {
        Origin::Wire => ids == (server, client),
        Origin::Host => ids == (client, server),
    }
}

/// Parses anything else: ports where there are some.
pub(super) fn parse_other(
    payload: &[u8],
    context: Context<'_>,
    protocol: u8,
    addresses: Sum,
) -> Result<Found, DropReason> {
    let (ids, wrong) = match protocol {
        protocol::SCTP => parse_sctp(payload, context)?,
        protocol::UDP_LITE => parse_udp_lite(payload, context, addresses)?,
        _ => ((0, 0), false),
    };
    Ok(Found::new(ids, Kind::Flow, wrong.then_some(DropReason::TransportChecksum)))
}

/// Ports, and whether the CRC32c is wrong (RFC 9260 §6.8).
fn parse_sctp(payload: &[u8], context: Context<'_>) -> Result<((u16, u16), bool), DropReason> {
    let Some((header, chunks)) = payload.split_first_chunk::<{ sctp::HEADER_LEN }>() else {
        return Err(DropReason::TruncatedTransport);
    };
    let ids = ports(be16(header, udp::SRC), be16(header, udp::DST))?;
    let mut unsummed = *header;
    unsummed[sctp::CRC..].fill(0);
    let wrong = context.verify_checksums && {
        let crc = Crc32c::START.update(&unsummed).update(chunks).finish();
        part(header, sctp::CRC) != crc.to_le_bytes()
    };
    Ok((ids, wrong))
}

/// Ports, and whether the checksum is wrong. RFC 3828 §3.1: the length field says how much the checksum
/// covers; the pseudo header has the length of the IP payload. Zero is not a checksum.
fn parse_udp_lite(
    payload: &[u8],
    context: Context<'_>,
    addresses: Sum,
) -> Result<((u16, u16), bool), DropReason> {
    let Some(header) = array::<{ udp::HEADER_LEN }>(payload, 0) else {
        return Err(DropReason::TruncatedTransport);
    };
    let covered = match usize::from(be16(header, udp::LENGTH)) {
        0 => Some(payload),
        coverage if coverage < udp::HEADER_LEN => None,
        coverage => payload.get(..coverage),
    };
    let Some(covered) = covered else { return Err(DropReason::TruncatedTransport) };
    let len = payload.len() as u16;
    let right =
        be16(header, udp::CHECKSUM) != 0 && is_right(addresses, protocol::UDP_LITE, len, covered);
    let ids = ports(be16(header, udp::SRC), be16(header, udp::DST))?;
    Ok((ids, context.verify_checksums && !right))
}

/// RFC 6335 §6: port 0 is reserved (C167).
#[inline(always)]
fn ports(src: u16, dst: u16) -> Result<(u16, u16), DropReason> {
    if src == 0 || dst == 0 { Err(DropReason::PortZero) } else { Ok((src, dst)) }
}

/// Whether pseudo header and `covered` sum up.
#[inline(always)]
pub(super) fn is_right(addresses: Sum, protocol: u8, len: u16, covered: &[u8]) -> bool {
    addresses.word(u16::from(protocol)).word(len).bytes(covered).is_right()
}
