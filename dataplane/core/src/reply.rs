//! Packets that the appliance originates about packets that it drops: ICMP errors and TCP resets, written
//! into the offending packet's frame, which goes back where it came from.
//!
//! Both refuse when an answer is forbidden (RFC 1122 §3.2.2, RFC 1812 §4.3.2.7, RFC 4443 §2.4 (e)) or would
//! not fit; the packet is then dropped in silence and its bytes are untouched. How many are sent is the
//! caller's to limit: [`RateLimit`].
//!
//! The packet answered must stand as it arrived: answer before translating.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;

use crate::burst::Packet;
use crate::conntrack::tuple::protocol;
use crate::headers::{Headers, Kind, tcp_flags};
use crate::parse::{addresses, is_unicast};
use crate::rules::{Family, RejectKind};
use crate::time::Instant;
use crate::units::Mac;
use crate::verdict::DropReason;
use crate::wire::checksum::Sum;
use crate::wire::ethernet::{self, ethertype};
use crate::wire::icmp::{self, Class};
use crate::wire::{array, array_mut, be16, ipv4, ipv6, part, put, put16, tcp};

#[cfg(test)]
mod tests;

/// TTL and hop limit of what we originate (RFC 1700 "IP time to live").
const TTL: u8 = 64;
/// Largest ICMP error, as an IP packet: RFC 1812 §4.3.2.3.
const ICMP_ERROR_MAX: usize = 576;
/// Largest ICMPv6 error: the minimum IPv6 MTU, RFC 4443 §2.4 (c).
const ICMPV6_ERROR_MAX: usize = 1280;
/// Precedence "internetwork control", RFC 1812 §4.3.2.5.
const INTERNETWORK_CONTROL: u8 = 0xc0;
/// The TOS bits that an error copies from the packet it is about (RFC 1812 §4.3.2.5), without ECN's two.
const TOS_COPIED: u8 = 0x1c;

/// What an ICMP error says. Where the families differ each says it in its own way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IcmpErrorKind {
    /// TTL or hop limit ran out (C141, C151).
    TimeExceeded,
    /// Too big for the next network, and not to be fragmented: "fragmentation needed" (RFC 1191 §4),
    /// "packet too big" (RFC 4443 §3.2).
    PacketTooBig {
        /// MTU of the egress interface.
        mtu: u16,
    },
    /// No route (v4: network unreachable).
    NetUnreachable,
    /// The next hop does not answer (v6: address unreachable).
    HostUnreachable,
    /// Nobody listens there.
    PortUnreachable,
    /// Communication administratively prohibited.
    AdminProhibited,
    /// As a REJECT rule says.
    Reject(RejectKind),
}

impl IcmpErrorKind {
    /// Type and code; `None` for a REJECT that the family does not have.
    const fn type_and_code(self, family: Family) -> Option<(u8, u8)> {
        let v4 = matches!(family, Family::V4);
        Some(match self {
            Self::Reject(kind) => return kind.icmp(family),
            Self::TimeExceeded if v4 => (icmp::v4::TIME_EXCEEDED, 0),
            Self::TimeExceeded => (icmp::v6::TIME_EXCEEDED, 0),
            Self::PacketTooBig { .. } if v4 => (icmp::v4::UNREACHABLE, 4),
            Self::PacketTooBig { .. } => (icmp::v6::PACKET_TOO_BIG, 0),
            Self::NetUnreachable if v4 => (icmp::v4::UNREACHABLE, 0),
            Self::NetUnreachable => (icmp::v6::UNREACHABLE, 0),
            Self::HostUnreachable if v4 => (icmp::v4::UNREACHABLE, 1),
            Self::HostUnreachable => (icmp::v6::UNREACHABLE, 3),
            Self::PortUnreachable if v4 => (icmp::v4::UNREACHABLE, 3),
            Self::PortUnreachable => (icmp::v6::UNREACHABLE, 4),
            Self::AdminProhibited if v4 => (icmp::v4::UNREACHABLE, 13),
            Self::AdminProhibited => (icmp::v6::UNREACHABLE, 1),
        })
    }
}

/// Replaces `packet` by an ICMP error about it, from `source` to where it came from. It quotes as much of the
/// packet as 576 bytes hold, 1280 for IPv6.
///
/// # Errors
/// Why it must not or cannot be answered, as the drop reason nearest to that; the packet is as before.
pub fn icmp_error(
    packet: &mut Packet<'_>,
    headers: &Headers,
    what: IcmpErrorKind,
    source: IpAddr,
    our_mac: Mac,
) -> Result<(), DropReason> {
    let to = sender_to_answer(packet.bytes(), headers)?;
    let family = if headers.is_v4() { Family::V4 } else { Family::V6 };
    let Some((kind, code)) = what.type_and_code(family) else {
        return Err(DropReason::RejectedByRule);
    };
    let mut header = [0; icmp::HEADER_LEN];
    header[icmp::TYPE] = kind;
    header[icmp::CODE] = code;
    if let IcmpErrorKind::PacketTooBig { mtu } = what {
        // The lower half of the second word in both: RFC 1191 §4, RFC 4443 §3.2.
        put16(&mut header, 6, mtu);
    }
    let (ip_header_len, len_max) = match family {
        Family::V4 => (ipv4::HEADER_LEN, ICMP_ERROR_MAX),
        Family::V6 => (ipv6::HEADER_LEN, ICMPV6_ERROR_MAX),
    };
    let overhead = ip_header_len + icmp::HEADER_LEN;
    let quote_len = usize::from(headers.ip_len).min(len_max - overhead);
    let frame = match (source, to) {
        (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => {
            make_room(packet, usize::from(headers.l3), ethernet::HEADER_LEN + overhead, quote_len)?
        }
        _ => return Err(DropReason::NoExternalAddress),
    };
    write_ethernet(packet.bytes_mut(), frame, our_mac);
    let message = packet.bytes_mut().get_mut(ethernet::HEADER_LEN + ip_header_len..);
    let Some(message) = message else { return Err(DropReason::NoFrame) };
    if let Some(start) = message.first_chunk_mut() {
        *start = header;
    }
    let sum = Sum::ZERO.bytes(message);
    let transport = Transport { protocol: protocol::ICMP, len: message.len(), sum };
    match (source, to) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            // RFC 1812 §4.3.2.5.
            let tos = INTERNETWORK_CONTROL | (headers.tos & TOS_COPIED);
            let sum = transport.sum.checksum();
            write_ipv4(packet.bytes_mut(), src, dst, tos, transport);
            write_checksum(packet.bytes_mut(), ip_header_len + icmp::CHECKSUM, sum);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let transport = Transport { protocol: protocol::ICMPV6, ..transport };
            let sum = write_ipv6(packet.bytes_mut(), src, dst, transport);
            write_checksum(packet.bytes_mut(), ip_header_len + icmp::CHECKSUM, sum);
        }
        _ => {}
    }
    Ok(())
}

/// Replaces a TCP segment by the reset that a closed port would answer it with: RFC 9293 §3.10.7.1. A reset is
/// never answered.
///
/// # Errors
/// As [`icmp_error`].
pub fn tcp_reset(
    packet: &mut Packet<'_>,
    headers: &Headers,
    our_mac: Mac,
) -> Result<(), DropReason> {
    let to = sender_to_answer(packet.bytes(), headers)?;
    if headers.protocol != protocol::TCP || headers.tcp.flags & tcp_flags::RST != 0 {
        return Err(DropReason::RejectedByRule);
    }
    let Some((_, from)) = addresses(packet.bytes(), headers) else {
        return Err(DropReason::RejectedByRule);
    };
    let segment = reset(headers);
    let ip_header_len = if from.is_ipv4() { ipv4::HEADER_LEN } else { ipv6::HEADER_LEN };
    let l4 = ethernet::HEADER_LEN + ip_header_len;
    // Never longer than what it answers.
    let frame = make_room(packet, usize::from(headers.l3), l4 + segment.len(), 0)?;
    write_ethernet(packet.bytes_mut(), frame, our_mac);
    if let Some(place) = array_mut(packet.bytes_mut(), l4) {
        *place = segment;
    }
    let sum = Sum::ZERO.bytes(&segment);
    let transport = Transport { protocol: protocol::TCP, len: segment.len(), sum };
    let sum = match (from, to) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            write_ipv4(packet.bytes_mut(), src, dst, 0, transport);
            let pseudo = Sum::ZERO.four(src.octets()).four(dst.octets());
            transport.with_pseudo(pseudo)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => write_ipv6(packet.bytes_mut(), src, dst, transport),
        _ => return Err(DropReason::RejectedByRule),
    };
    write_checksum(packet.bytes_mut(), ip_header_len + tcp::CHECKSUM, sum);
    Ok(())
}

/// How often packets may be originated: a token bucket. One for each worker and kind
/// (RFC 1812 §4.3.2.8, RFC 4443 §2.4 (f); Linux's net.ipv4.icmp_msgs_per_sec and icmp_msgs_burst).
#[derive(Clone, Copy, Debug)]
pub struct RateLimit {
    /// Nanoseconds of waiting that one packet costs; `None` if none may be sent.
    cost: Option<u64>,
    /// Most credit that can be saved, nanoseconds.
    credit_max: u64,
    /// Credit saved, nanoseconds.
    credit: u64,
    /// When it was last reckoned.
    last: Instant,
}

impl RateLimit {
    /// Linux's default, packets a second.
    pub const PER_SECOND: u32 = 1000;
    /// Linux's default, packets at once.
    pub const BURST: u32 = 50;

    /// `per_second` packets a second in the long run, `burst` at once; the bucket is full.
    pub const fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        let cost = Duration::from_secs(1).as_nanos() as u64
            / if per_second == 0 { 1 } else { per_second as u64 };
        let credit = cost * burst as u64;
        Self {
            cost: if per_second == 0 { None } else { Some(cost) },
            credit_max: credit,
            credit,
            last: now,
        }
    }

    /// Whether one may be sent now; if so it is taken as sent.
    pub fn take(&mut self, now: Instant) -> bool {
        let earned = now.0.saturating_sub(self.last.0);
        self.last = now.max(self.last);
        self.credit = self.credit.saturating_add(earned).min(self.credit_max);
        match self.cost.and_then(|cost| self.credit.checked_sub(cost)) {
            Some(left) => {
                self.credit = left;
                true
            }
            None => false,
        }
    }
}

/// Whom to answer, if anybody (C147).
fn sender_to_answer(bytes: &[u8], headers: &Headers) -> Result<IpAddr, DropReason> {
    let Some((from, to)) = addresses(bytes, headers) else {
        return Err(DropReason::UnknownEtherType);
    };
    if headers.l2_group {
        return Err(DropReason::MartianDestination);
    }
    // What cannot be trusted to say whom it is from (as nf_reject_verify_csum).
    if headers.invalid == Some(DropReason::TransportChecksum) {
        return Err(DropReason::TransportChecksum);
    }
    let (sender_ok, receiver_ok) = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            (is_unicast(from), !to.is_multicast() && !to.is_broadcast() && !to.is_unspecified())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => (
            !from.is_multicast() && !from.is_unspecified() && !from.is_loopback(),
            !to.is_multicast() && !to.is_unspecified(),
        ),
        _ => (false, false),
    };
    if !sender_ok {
        return Err(DropReason::MartianSource);
    }
    if !receiver_ok {
        return Err(DropReason::MartianDestination);
    }
    // No errors about errors, nor about what may be one.
    let class = match (headers.is_v4(), headers.protocol) {
        (true, protocol::ICMP) => Some(Class::of_v4(headers.icmp_type)),
        (false, protocol::ICMPV6) => Some(Class::of_v6(headers.icmp_type)),
        _ => None,
    };
    if headers.kind == Kind::IcmpError || matches!(class, Some(Class::Error | Class::Other)) {
        return Err(DropReason::IcmpErrorNested);
    }
    let later = array::<{ ipv4::HEADER_LEN }>(bytes, usize::from(headers.l3))
        .is_some_and(|h| be16(h, ipv4::FRAGMENT) & ipv4::OFFSET_MASK != 0);
    if headers.is_v4() && later {
        return Err(DropReason::Fragment);
    }
    Ok(from)
}

/// The reset that answers a segment, but for its checksum.
fn reset(headers: &Headers) -> [u8; tcp::HEADER_LEN] {
    let mut segment = [0; tcp::HEADER_LEN];
    put16(&mut segment, tcp::SRC, headers.tuple.dst_id());
    put16(&mut segment, tcp::DST, headers.tuple.src_id());
    segment[tcp::DATA_OFFSET] = 5 << 4;
    let offending = headers.tcp;
    if offending.flags & tcp_flags::ACK != 0 {
        // <SEQ=SEG.ACK><CTL=RST>
        put(&mut segment, tcp::SEQ, offending.ack.to_be_bytes());
        segment[tcp::FLAGS] = tcp_flags::RST;
    } else {
        // <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>; SYN and FIN count.
        let controls = (offending.flags & (tcp_flags::SYN | tcp_flags::FIN)).count_ones();
        let len = u32::from(offending.payload_len) + controls;
        put(&mut segment, tcp::ACK, offending.seq.wrapping_add(len).to_be_bytes());
        segment[tcp::FLAGS] = tcp_flags::RST | tcp_flags::ACK;
    }
    segment
}

/// Makes the packet `prefix` bytes of room followed by its first `keep` bytes from `l3` on. Uses the space
/// before the packet if there is enough, else moves what is kept. Returns the old Ethernet header.
fn make_room(
    packet: &mut Packet<'_>,
    l3: usize,
    prefix: usize,
    keep: usize,
) -> Result<[u8; ethernet::HEADER_LEN], DropReason> {
    let Some(ethernet) = packet.bytes().first_chunk::<{ ethernet::HEADER_LEN }>().copied() else {
        return Err(DropReason::TruncatedEthernet);
    };
    let from = packet.start + l3;
    let start = if keep == 0 { packet.start } else { from.saturating_sub(prefix) };
    let len = prefix + keep;
    if start + len > packet.room.len() || from + keep > packet.room.len() {
        return Err(DropReason::NoFrame);
    }
    packet.room.copy_within(from..from + keep, start + prefix);
    packet.start = start;
    packet.len = len;
    packet.parsed = None;
    Ok(ethernet)
}

/// Back where it came from.
fn write_ethernet(bytes: &mut [u8], old: [u8; ethernet::HEADER_LEN], our_mac: Mac) {
    if let Some(header) = bytes.first_chunk_mut::<{ ethernet::HEADER_LEN }>() {
        *header = old;
        put(header, ethernet::DST, part::<_, 6>(&old, ethernet::SRC));
        put(header, ethernet::SRC, our_mac.0);
        debug_assert!(matches!(
            be16(header, ethernet::ETHERTYPE),
            ethertype::IPV4 | ethertype::IPV6
        ));
    }
}

/// What an IP header we write carries.
#[derive(Clone, Copy)]
struct Transport {
    protocol: u8,
    len: usize,
    /// Of its bytes, checksum field zero.
    sum: Sum,
}

impl Transport {
    /// The checksum over message and pseudo header, of which `addresses` is the sum of the addresses.
    fn with_pseudo(self, addresses: Sum) -> u16 {
        let pseudo = addresses.word(u16::from(self.protocol)).word(self.len as u16);
        pseudo.plus(self.sum).checksum()
    }
}

/// An IPv4 header without options, identification 0 and DF: an atomic datagram (RFC 6864 §4.1).
fn write_ipv4(bytes: &mut [u8], src: Ipv4Addr, dst: Ipv4Addr, tos: u8, transport: Transport) {
    let mut header = [0; ipv4::HEADER_LEN];
    header[ipv4::VERSION_IHL] = 0x45;
    header[ipv4::TOS] = tos;
    put16(&mut header, ipv4::TOTAL_LEN, (ipv4::HEADER_LEN + transport.len) as u16);
    put16(&mut header, ipv4::FRAGMENT, ipv4::DONT_FRAGMENT);
    header[ipv4::TTL] = TTL;
    header[ipv4::PROTOCOL] = transport.protocol;
    put(&mut header, ipv4::SRC, src.octets());
    put(&mut header, ipv4::DST, dst.octets());
    let sum = Sum::ZERO.bytes(&header).checksum();
    put16(&mut header, ipv4::CHECKSUM, sum);
    if let Some(place) = array_mut(bytes, ethernet::HEADER_LEN) {
        *place = header;
    }
}

/// An IPv6 header. Returns the transport's checksum.
fn write_ipv6(bytes: &mut [u8], src: Ipv6Addr, dst: Ipv6Addr, transport: Transport) -> u16 {
    let mut header = [0; ipv6::HEADER_LEN];
    header[0] = 0x60;
    put16(&mut header, ipv6::PAYLOAD_LEN, transport.len as u16);
    header[ipv6::NEXT_HEADER] = transport.protocol;
    header[ipv6::HOP_LIMIT] = TTL;
    put(&mut header, ipv6::SRC, src.octets());
    put(&mut header, ipv6::DST, dst.octets());
    if let Some(place) = array_mut(bytes, ethernet::HEADER_LEN) {
        *place = header;
    }
    transport.with_pseudo(Sum::ZERO.bytes(&src.octets()).bytes(&dst.octets()))
}

/// Writes a checksum `at` bytes behind the Ethernet header.
fn write_checksum(bytes: &mut [u8], at: usize, sum: u16) {
    if let Some(field) = array_mut::<2>(bytes, ethernet::HEADER_LEN + at) {
        put16(field, 0, sum);
    }
}
