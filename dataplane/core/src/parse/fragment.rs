//! Fragments: what one says of itself (RFC 791 §3.2, RFC 8200 §4.5), what the first one says of the datagram, and what
//! any of them is once the datagram is whole.

use core::ops::Range;

use super::ipv6::{self, Fragment};
use super::{L3, parse_into};
use crate::burst::{Checksum, Gathered, Origin};
use crate::conntrack::tcp::flags_valid;
use crate::conntrack::tuple::{Tuple, protocol};
use crate::headers::{Headers, Kind, TcpSummary};
use crate::snapshot::Interface;
use crate::verdict::DropReason;
use crate::wire::checksum::Sum;
use crate::wire::icmp::{self, Class};
use crate::wire::{array, be16, be32, ipv4, ipv6 as v6, sctp, tcp, udp};

/// Most bytes of an IP packet, header and all for IPv4, without the header for IPv6.
const LEN_MAX: usize = 65_535;

/// Which bytes of a datagram a fragment brings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slice {
    /// Where they belong, bytes.
    pub offset: u16,
    /// Whether others follow.
    pub more: bool,
    /// Where they stand in the frame.
    pub data: Range<usize>,
}

impl Slice {
    pub(super) fn v4(header: &[u8; ipv4::HEADER_LEN], data: Range<usize>) -> Self {
        let word = be16(header, ipv4::FRAGMENT);
        let offset = (word & ipv4::OFFSET_MASK) * 8;
        Self { offset, more: word & ipv4::MORE_FRAGMENTS != 0, data }
    }

    pub(super) fn v6(Fragment { data, offset, more, .. }: Fragment, end: usize) -> Self {
        Self { offset, more, data: data..end }
    }

    /// Of a packet of [`Kind::Fragment`], or of a fragment whose datagram is whole.
    pub fn of(bytes: &[u8], headers: &Headers) -> Option<Self> {
        let end = usize::from(headers.l3) + usize::from(headers.ip_len);
        let data = usize::from(headers.l4);
        if headers.is_v4() {
            let header = array::<{ ipv4::HEADER_LEN }>(bytes, usize::from(headers.l3))?;
            Some(Self::v4(header, data..end))
        } else {
            Some(Self::v6(Fragment::read(bytes, data)?, end))
        }
    }

    /// How many bytes.
    pub fn len(&self) -> u16 {
        self.data.len() as u16
    }

    /// Whether it brings nothing.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// What can be told from one fragment: it brings something (C131), is cut at eight bytes, and lies within what
    /// a packet can hold behind `before` bytes (CVE-1999-0128).
    pub(super) fn check(&self, before: usize) -> Result<(), DropReason> {
        let len = self.data.len();
        let cut = !self.more || len.is_multiple_of(8);
        let fits = before + usize::from(self.offset) + len <= LEN_MAX;
        if len > 0 && cut && fits { Ok(()) } else { Err(DropReason::Fragment) }
    }
}

/// What the first fragment says of its datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct First {
    /// Of the tuple.
    pub ids: (u16, u16),
    /// The transport protocol.
    pub protocol: u8,
    /// Bytes of extension headers before the transport header; an even number.
    pub before: u16,
    /// Their sum.
    pub sum_before: u16,
    /// How long the transport packet says that it is; `None` if it does not.
    pub declared: Option<u16>,
    /// How long it must be at least, bytes: as much as its checksum says that it covers.
    pub covered: u16,
    /// Which sum should be right.
    pub covers: Covers,
}

/// What a transport checksum covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Covers {
    /// There is none, or none that can be told from the fragments' own sums.
    Nothing,
    /// There must be one and there is none.
    Missing,
    /// All of the transport packet.
    Packet,
    /// That, and the pseudo header.
    PseudoHeader,
}

/// Reads a first fragment, a packet of [`Kind::Fragment`]. All headers must be in it, or nothing could be decided about
/// the datagram (RFC 1858 §3, RFC 3128, RFC 7112 §5).
pub fn first(bytes: &[u8], headers: &Headers) -> Result<First, DropReason> {
    let (ip_protocol, l4, routed) = transport_header(bytes, headers)?;
    let end = usize::from(headers.l3) + usize::from(headers.ip_len);
    let before = bytes.get(usize::from(headers.l4)..l4).ok_or(DropReason::FragmentTiny)?;
    let segment = bytes.get(l4..end).ok_or(DropReason::FragmentTiny)?;
    let transport = Transport::read(segment, ip_protocol, headers.is_v4())?;
    Ok(First {
        ids: transport.ids,
        protocol: ip_protocol,
        before: before.len() as u16,
        sum_before: Sum::ZERO.bytes(before).fold(),
        declared: transport.declared,
        covered: transport.covered,
        // RFC 8200 §8.1: the pseudo header has the final destination.
        covers: if routed { Covers::Nothing } else { transport.covers },
    })
}

/// The transport protocol of a first fragment, where its header begins, and whether a routing header has segments left.
fn transport_header(bytes: &[u8], headers: &Headers) -> Result<(u8, usize, bool), DropReason> {
    if headers.is_v4() {
        return Ok((headers.protocol, usize::from(headers.l4), false));
    }
    let end = usize::from(headers.l3) + usize::from(headers.ip_len);
    let packet = bytes.get(..end).ok_or(DropReason::Ipv6Header)?;
    let next = *packet.get(L3 + v6::NEXT_HEADER).ok_or(DropReason::Ipv6Header)?;
    let walk = ipv6::walk(packet, L3 + v6::HEADER_LEN, next)?;
    Ok((walk.protocol, walk.l4, walk.routed))
}

/// What a transport header says whose packet is not all there.
struct Transport {
    ids: (u16, u16),
    kind: Kind,
    tcp: TcpSummary,
    icmp: (u8, u8),
    declared: Option<u16>,
    covered: u16,
    covers: Covers,
}

impl Transport {
    fn new(ids: (u16, u16), covers: Covers) -> Self {
        let (tcp, icmp) = (TcpSummary::default(), (0, 0));
        Self { ids, kind: Kind::Flow, tcp, icmp, declared: None, covered: 0, covers }
    }

    fn read(segment: &[u8], ip_protocol: u8, v4: bool) -> Result<Self, DropReason> {
        match (ip_protocol, v4) {
            (protocol::TCP, _) => Self::tcp(segment),
            (protocol::UDP, _) => Self::udp(segment, v4),
            (protocol::UDP_LITE, _) => Self::udp_lite(segment),
            (protocol::SCTP, _) => {
                let header = header::<{ sctp::HEADER_LEN }>(segment)?;
                Ok(Self::new(ports(header)?, Covers::Nothing))
            }
            (protocol::ICMP, true) | (protocol::ICMPV6, false) => Self::icmp(segment, v4),
            _ => Ok(Self::new((0, 0), Covers::Nothing)),
        }
    }

    fn tcp(segment: &[u8]) -> Result<Self, DropReason> {
        let header = header::<{ tcp::HEADER_LEN }>(segment)?;
        let header_len = usize::from(header[tcp::DATA_OFFSET] >> 4) * 4;
        if header_len < tcp::HEADER_LEN {
            return Err(DropReason::TruncatedTransport);
        }
        if header_len > segment.len() {
            return Err(DropReason::FragmentTiny);
        }
        let tcp = TcpSummary {
            seq: be32(header, tcp::SEQ),
            ack: be32(header, tcp::ACK),
            window: be16(header, tcp::WINDOW),
            payload_len: 0,
            flags: header[tcp::FLAGS],
            header_len: header_len as u8,
        };
        Ok(Self { kind: Kind::Tcp, tcp, ..Self::new(ports(header)?, Covers::PseudoHeader) })
    }

    fn udp(segment: &[u8], v4: bool) -> Result<Self, DropReason> {
        let header = header::<{ udp::HEADER_LEN }>(segment)?;
        let covers = match (be16(header, udp::CHECKSUM), v4) {
            (0, true) => Covers::Nothing,
            (0, false) => Covers::Missing,
            _ => Covers::PseudoHeader,
        };
        let declared = Some(be16(header, udp::LENGTH));
        Ok(Self { declared, ..Self::new(ports(header)?, covers) })
    }

    fn udp_lite(segment: &[u8]) -> Result<Self, DropReason> {
        let header = header::<{ udp::HEADER_LEN }>(segment)?;
        // RFC 3828 §3.1: 0 is all; a part cannot be told from the fragments' own sums.
        let covered = be16(header, udp::LENGTH);
        let covers = match (be16(header, udp::CHECKSUM), covered) {
            (0, _) => Covers::Missing,
            (_, 0) => Covers::PseudoHeader,
            (_, 1..8) => return Err(DropReason::TruncatedTransport),
            _ => Covers::Nothing,
        };
        Ok(Self { covered, ..Self::new(ports(header)?, covers) })
    }

    fn icmp(segment: &[u8], v4: bool) -> Result<Self, DropReason> {
        let header = header::<{ icmp::HEADER_LEN }>(segment)?;
        let (kind, code) = (header[icmp::TYPE], header[icmp::CODE]);
        let class = if v4 { Class::of_v4(kind) } else { Class::of_v6(kind) };
        match class {
            Class::Error => return Err(DropReason::FragmentUnsupported),
            // RFC 6980 §5.
            Class::Discovery | Class::Listener => return Err(DropReason::NeighbourSpoof),
            _ => {}
        }
        let ids = class.query_ids(kind, be16(header, icmp::IDENTIFIER));
        let covers = if v4 { Covers::Packet } else { Covers::PseudoHeader };
        let new = Self::new(ids.ok_or(DropReason::IcmpNotQuery)?, covers);
        Ok(Self { kind: Kind::IcmpQuery, icmp: (kind, code), ..new })
    }
}

fn header<const N: usize>(segment: &[u8]) -> Result<&[u8; N], DropReason> {
    segment.first_chunk().ok_or(DropReason::FragmentTiny)
}

/// RFC 6335 §6 (C167).
fn ports<const N: usize>(header: &[u8; N]) -> Result<(u16, u16), DropReason> {
    match (be16(header, udp::SRC), be16(header, udp::DST)) {
        (0, _) | (_, 0) => Err(DropReason::PortZero),
        ports => Ok(ports),
    }
}

/// Parses a fragment whose datagram is whole. The first one is as any packet of its flow, but that its transport packet
/// goes on in others; of the others the tuple is known, and nothing more.
#[inline(never)]
pub fn gathered_into(
    out: &mut Headers,
    bytes: &[u8],
    interface: &Interface,
    origin: Origin,
    gathered: &Gathered,
) -> Result<(), DropReason> {
    parse_into(out, bytes, interface, origin, false)?;
    let slice = Slice::of(bytes, out).filter(|_| out.kind == Kind::Fragment);
    let slice = slice.ok_or(DropReason::Fragment)?;
    let (src, dst) = (out.tuple.src(), out.tuple.dst());
    let Gathered { src_id, dst_id, len, protocol, checksum, .. } = *gathered;
    let tuple = Tuple::new(src, dst, src_id, dst_id, protocol).ok_or(DropReason::Fragment)?;
    let tuple = tuple.in_zone(out.tuple.zone());
    if slice.offset == 0 {
        let (_, l4, _) = transport_header(bytes, out)?;
        let before = (l4 - usize::from(out.l4)) as u16;
        let segment = bytes.get(l4..slice.data.end).ok_or(DropReason::FragmentTiny)?;
        let transport = Transport::read(segment, protocol, out.is_v4())?;
        out.l4 = l4 as u16;
        out.kind = transport.kind;
        out.more_len = len.saturating_sub(slice.len());
        (out.icmp_type, out.icmp_code) = transport.icmp;
        out.tcp = transport.tcp;
        if out.kind == Kind::Tcp {
            let headers_len = before + u16::from(out.tcp.header_len);
            out.tcp.payload_len = len.saturating_sub(headers_len);
            out.invalid = (!flags_valid(out.tcp.flags)).then_some(DropReason::TcpFlags);
        }
    } else {
        out.kind = Kind::Later;
    }
    out.tuple = tuple;
    out.protocol = protocol;
    if checksum == Checksum::Wrong {
        out.invalid = Some(DropReason::TransportChecksum);
    }
    if out.invalid.is_some() {
        out.kind = Kind::Invalid;
    }
    Ok(())
}
