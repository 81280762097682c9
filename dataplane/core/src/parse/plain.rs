//! Plain packets, at a glance: what most packets are.
//!
//! A plain packet came off the wire to the interface's own MAC; it is an unfragmented IP packet without options
//! or extension headers; it carries a whole UDP datagram or a TCP segment that is an ACK and nothing more; its
//! checksums are right and its TTL lasts. Of such a packet everything stands at a constant offset, and three numbers
//! ([`Plain`]) say all there is to know: the fast lane needs no [`Headers`].
//!
//! [`glance`] is no judge: of what is not plain it says nothing, and [`parse_into`](super::parse_into) looks properly.
//! What it calls plain, parsing accepts, with the same result.

use super::L3;
use super::transport::is_right;
use crate::conntrack::tuple::{Tuple, TupleV4, TupleV6, protocol};
use crate::headers::{Headers, Kind, TcpSummary, tcp_flags};
use crate::snapshot::Interface;
use crate::wire::checksum::Sum;
use crate::wire::ethernet::{self, ethertype};
use crate::wire::{array, be16, be32, ipv4, ipv6, part, tcp, udp};

/// Where the transport header of a plain IPv4 packet begins.
pub const L4_V4: usize = L3 + ipv4::HEADER_LEN;
/// Where the transport header of a plain IPv6 packet begins.
pub const L4_V6: usize = L3 + ipv6::HEADER_LEN;

/// What a plain packet is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// IPv4 and UDP.
    UdpV4,
    /// IPv4 and TCP.
    TcpV4,
    /// IPv6 and UDP.
    UdpV6,
    /// IPv6 and TCP.
    TcpV6,
}

impl Shape {
    /// Whether it is IPv4.
    #[inline]
    pub const fn is_v4(self) -> bool {
        matches!(self, Self::UdpV4 | Self::TcpV4)
    }

    /// Whether it is TCP.
    #[inline]
    pub const fn is_tcp(self) -> bool {
        matches!(self, Self::TcpV4 | Self::TcpV6)
    }
}

/// A packet that is plain. One word: it is copied from room to room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(align(4))]
pub struct Plain {
    /// What it is made of.
    pub shape: Shape,
    /// Length of the IP packet, bytes.
    pub ip_len: u16,
    /// The conntrack zone of the interface it came in by.
    pub zone: u16,
}

const _: () = assert!(size_of::<Option<Plain>>() == 8);

/// Whether a segment is an ACK, with or without data, and nothing more.
#[inline(always)]
const fn is_ack(flags: u8) -> bool {
    use tcp_flags::{ACK, FIN, RST, SYN, URG};
    flags & (FIN | SYN | RST | ACK | URG) == ACK
}

/// Looks whether a packet is plain IPv4; also its tuple. `bytes` came in by `interface` off the wire; `verify` as for
/// [`parse`](super::parse).
#[inline(always)]
pub fn glance_v4(bytes: &[u8], interface: &Interface, verify: bool) -> Option<(Plain, TupleV4)> {
    let frame = array::<{ L4_V4 + udp::HEADER_LEN }>(bytes, 0)?;
    let fragment = be16(frame, L3 + ipv4::FRAGMENT) & (ipv4::MORE_FRAGMENTS | ipv4::OFFSET_MASK);
    let addresses = Sum::ZERO.eight(part(frame, L3 + ipv4::SRC));
    let numbers = Sum::ZERO.eight(part(frame, L3)).four(part(frame, L3 + ipv4::TTL));
    let plain = is_for(bytes, frame, interface, ethertype::IPV4)
        && frame[L3 + ipv4::VERSION_IHL] == ipv4::VERSION_IHL_PLAIN
        && fragment == 0
        && frame[L3 + ipv4::TTL] > 1
        && numbers.plus(addresses).is_right();
    if !plain {
        return None;
    }
    let ip_len = be16(frame, L3 + ipv4::TOTAL_LEN);
    let payload = bytes.get(L4_V4..L3 + usize::from(ip_len))?;
    let shape = match frame[L3 + ipv4::PROTOCOL] {
        protocol::UDP if is_datagram::<false>(payload, addresses, interface, verify) => {
            Shape::UdpV4
        }
        protocol::TCP if is_segment(payload, addresses, verify) => Shape::TcpV4,
        _ => return None,
    };
    let zone = interface.zone;
    Some((Plain { shape, ip_len, zone }, tuple_of_v4(frame, zone)))
}

/// [`glance_v4`] for IPv6.
#[inline(never)]
pub fn glance_v6(bytes: &[u8], interface: &Interface, verify: bool) -> Option<(Plain, TupleV6)> {
    let frame = array::<{ L4_V6 + udp::HEADER_LEN }>(bytes, 0)?;
    let plain = is_for(bytes, frame, interface, ethertype::IPV6)
        && frame[L3] >> 4 == 6
        && frame[L3 + ipv6::HOP_LIMIT] > 1;
    if !plain {
        return None;
    }
    let len = be16(frame, L3 + ipv6::PAYLOAD_LEN);
    let payload = bytes.get(L4_V6..L4_V6 + usize::from(len))?;
    let addresses = (0..4).fold(Sum::ZERO, |sum, i| sum.eight(part(frame, L3 + ipv6::SRC + 8 * i)));
    let shape = match frame[L3 + ipv6::NEXT_HEADER] {
        protocol::UDP if is_datagram::<true>(payload, addresses, interface, verify) => Shape::UdpV6,
        protocol::TCP if is_segment(payload, addresses, verify) => Shape::TcpV6,
        _ => return None,
    };
    let zone = interface.zone;
    let plain = Plain { shape, ip_len: ipv6::HEADER_LEN as u16 + len, zone };
    Some((plain, tuple_of_v6(frame, zone)))
}

/// Whether a frame is addressed to the interface alone, fits its MTU and carries `ethertype`.
#[inline(always)]
fn is_for<const N: usize>(
    bytes: &[u8],
    frame: &[u8; N],
    interface: &Interface,
    ethertype: u16,
) -> bool {
    bytes.len() <= usize::from(interface.mtu) + ethernet::HEADER_LEN
        && frame.first_chunk() == Some(&interface.mac.0)
        && be16(frame, ethernet::ETHERTYPE) == ethertype
}

/// Whether the payload is one datagram and a flow's.
#[inline(always)]
fn is_datagram<const V6: bool>(
    payload: &[u8],
    addresses: Sum,
    interface: &Interface,
    verify: bool,
) -> bool {
    let Some(header) = payload.first_chunk::<{ udp::HEADER_LEN }>() else { return false };
    let (src, dst) = (be16(header, udp::SRC), be16(header, udp::DST));
    let len = be16(header, udp::LENGTH);
    let right = match be16(header, udp::CHECKSUM) {
        // RFC 8200 §8.1: over IPv6 there must be one.
        0 => !V6,
        _ => is_right(addresses, protocol::UDP, len, payload),
    };
    // Whoever answers a DHCP client of the host belongs to no flow.
    let dhcp = interface.dhcp && (src == 67 || src == 547);
    src != 0 && dst != 0 && usize::from(len) == payload.len() && (right || !verify) && !dhcp
}

/// Whether the payload is a segment that is an ACK and nothing more.
#[inline(always)]
fn is_segment(payload: &[u8], addresses: Sum, verify: bool) -> bool {
    let Some(header) = payload.first_chunk::<{ tcp::HEADER_LEN }>() else { return false };
    let header_len = usize::from(header[tcp::DATA_OFFSET] >> 4) * 4;
    header_len >= tcp::HEADER_LEN
        && header_len <= payload.len()
        && be16(header, tcp::SRC) != 0
        && be16(header, tcp::DST) != 0
        && is_ack(header[tcp::FLAGS])
        && (!verify || is_right(addresses, protocol::TCP, payload.len() as u16, payload))
}

/// The tuple of a plain IPv4 packet in that zone.
#[inline(always)]
pub fn tuple_v4(bytes: &[u8], zone: u16) -> Option<TupleV4> {
    Some(tuple_of_v4(array::<{ L4_V4 + 4 }>(bytes, 0)?, zone))
}

#[inline(always)]
fn tuple_of_v4<const N: usize>(frame: &[u8; N], zone: u16) -> TupleV4 {
    // In two halves, as it is read: a load over several small stores would wait for them.
    let addresses: [u8; 8] = part(frame, L3 + ipv4::SRC);
    let protocol = u16::from_ne_bytes([frame[L3 + ipv4::PROTOCOL], 0]);
    let [src_id, dst_id] = ids(frame, L4_V4);
    let [rest, zone]: [u64; 2] =
        zerocopy::transmute!([[src_id, dst_id, 0, protocol], [0, 0, zone, 0]]);
    zerocopy::transmute!([u64::from_ne_bytes(addresses), rest | zone])
}

/// The tuple of a plain IPv6 packet in that zone.
#[inline(always)]
pub fn tuple_v6(bytes: &[u8], zone: u16) -> Option<TupleV6> {
    Some(tuple_of_v6(array::<{ L4_V6 + 4 }>(bytes, 0)?, zone))
}

#[inline(always)]
fn tuple_of_v6<const N: usize>(frame: &[u8; N], zone: u16) -> TupleV6 {
    let [src_id, dst_id] = ids(frame, L4_V6);
    TupleV6 {
        src: part(frame, L3 + ipv6::SRC),
        dst: part(frame, L3 + ipv6::DST),
        src_id,
        dst_id,
        zone,
        protocol: frame[L3 + ipv6::NEXT_HEADER],
        reserved: 0,
    }
}

/// What [`parse_into`](super::parse_into) would find out about a plain packet, without looking for faults again.
pub fn headers(bytes: &[u8], plain: Plain) -> Option<Headers> {
    let l4 = if plain.shape.is_v4() { L4_V4 } else { L4_V6 };
    let (tuple, [ttl, tos], dont_fragment) = if plain.shape.is_v4() {
        let header = array::<{ ipv4::HEADER_LEN }>(bytes, L3)?;
        let dont_fragment = be16(header, ipv4::FRAGMENT) & ipv4::DONT_FRAGMENT != 0;
        let tuple = Tuple::V4(tuple_v4(bytes, plain.zone)?);
        (tuple, [header[ipv4::TTL], header[ipv4::TOS]], dont_fragment)
    } else {
        let header = array::<{ ipv6::HEADER_LEN }>(bytes, L3)?;
        let tuple = Tuple::V6(tuple_v6(bytes, plain.zone)?);
        (tuple, [header[ipv6::HOP_LIMIT], (be16(header, 0) >> 4) as u8], true)
    };
    let is_tcp = plain.shape.is_tcp();
    Some(Headers {
        tuple,
        tcp: if is_tcp { segment(bytes, l4, plain.ip_len)?.0 } else { TcpSummary::default() },
        l3: L3 as u16,
        l4: l4 as u16,
        ip_len: plain.ip_len,
        kind: if is_tcp { Kind::Tcp } else { Kind::Flow },
        ttl,
        tos,
        protocol: if is_tcp { protocol::TCP } else { protocol::UDP },
        dont_fragment,
        ..Headers::default()
    })
}

/// Both ports.
#[inline(always)]
fn ids<const N: usize>(frame: &[u8; N], l4: usize) -> [u16; 2] {
    [be16(frame, l4 + udp::SRC), be16(frame, l4 + udp::DST)]
}

/// The numbers of a plain TCP segment whose header begins at `l4`, and its option bytes.
#[inline(always)]
pub fn segment(bytes: &[u8], l4: usize, ip_len: u16) -> Option<(TcpSummary, &[u8])> {
    let header = array::<{ tcp::HEADER_LEN }>(bytes, l4)?;
    let header_len = (header[tcp::DATA_OFFSET] >> 4) * 4;
    let options = bytes.get(l4 + tcp::HEADER_LEN..l4 + usize::from(header_len))?;
    let summary = TcpSummary {
        seq: be32(header, tcp::SEQ),
        ack: be32(header, tcp::ACK),
        window: be16(header, tcp::WINDOW),
        payload_len: ip_len.wrapping_sub((l4 - L3) as u16 + u16::from(header_len)),
        flags: header[tcp::FLAGS],
        header_len,
    };
    Some((summary, options))
}

#[cfg(test)]
#[path = "plain_tests.rs"]
mod tests;
