//! Frames: written from a template, read with every checksum checked.
//!
//! A [`Template`] is a whole frame with zeros for what differs between packets, and the sums over all
//! that does not, so writing a packet is a copy and the sum of a dozen words. [`parse`] takes nothing on
//! trust: a device under test that gets a checksum wrong is found out.

use super::stamp::STAMP_LEN;
use super::topology::{Family, Tuple};

/// The smallest Ethernet frame without its FCS.
pub const FRAME_MIN: usize = 60;
/// The FCS, which the sizes people name include and the frames here do not.
pub const FCS: usize = 4;

const ETHERNET: usize = 14;
const TAG: usize = 4;
const UDP: u8 = 17;
const TCP: u8 = 6;
const UDP_HEADER: usize = 8;
const TCP_HEADER: usize = 20;
/// RFC 2544 names no hop limit; this is what hosts use.
const HOP_LIMIT: u8 = 64;

/// TCP flags.
pub mod tcp_flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 0x02;
    /// The acknowledgment number counts.
    pub const ACK: u8 = 0x10;
}

/// What a TCP segment says beside its ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number.
    pub acknowledgment: u32,
    /// Flags, of [`tcp_flags`].
    pub flags: u8,
}

/// The part of a frame before IP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// Destination.
    pub dst: [u8; 6],
    /// Source.
    pub src: [u8; 6],
    /// VLAN identifier, if the frame has a tag.
    pub vlan: Option<u16>,
}

impl Link {
    const fn len(&self) -> usize {
        ETHERNET + if self.vlan.is_some() { TAG } else { 0 }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Template {
    bytes: Vec<u8>,
    family: Family,
    l3: usize,
    l4: usize,
    /// Sum of the IPv4 header without its addresses.
    header_sum: u64,
    /// Sum of the transport part and the pseudo-header without what is written per packet.
    transport_sum: u64,
}

/// The length without FCS of the shortest UDP frame that carries a stamp.
pub const fn udp_len_min(family: Family, vlan: Option<u16>) -> usize {
    let ip = match family {
        Family::V4 => 20,
        Family::V6 => 40,
    };
    let link = ETHERNET + if vlan.is_some() { TAG } else { 0 };
    let len = link + ip + UDP_HEADER + STAMP_LEN;
    if len < FRAME_MIN { FRAME_MIN } else { len }
}

impl Template {
    /// A UDP frame of `len` bytes without FCS, or of as many as the stamp needs if that is more.
    pub fn udp(family: Family, link: Link, len: usize) -> Self {
        let len = len.max(udp_len_min(family, link.vlan));
        let ip = if family == Family::V4 { 20 } else { 40 };
        Self::new(family, link, UDP, len - link.len() - ip)
    }

    /// A TCP segment without data and options.
    pub fn tcp(family: Family, link: Link) -> Self {
        Self::new(family, link, TCP, TCP_HEADER)
    }

    fn new(family: Family, link: Link, protocol: u8, transport_len: usize) -> Self {
        let l3 = link.len();
        let l4 = l3 + if family == Family::V4 { 20 } else { 40 };
        let mut bytes = vec![0; (l4 + transport_len).max(FRAME_MIN)];
        bytes[..6].copy_from_slice(&link.dst);
        bytes[6..12].copy_from_slice(&link.src);
        if let Some(vlan) = link.vlan {
            bytes[12..14].copy_from_slice(&[0x81, 0x00]);
            bytes[14..16].copy_from_slice(&vlan.to_be_bytes());
        }
        let total = transport_len as u16;
        match family {
            Family::V4 => {
                bytes[l3 - 2..l3].copy_from_slice(&[0x08, 0x00]);
                bytes[l3] = 0x45;
                bytes[l3 + 2..l3 + 4].copy_from_slice(&(total + 20).to_be_bytes());
                bytes[l3 + 6] = 0x40; // don't fragment
                bytes[l3 + 8..l3 + 10].copy_from_slice(&[HOP_LIMIT, protocol]);
            }
            Family::V6 => {
                bytes[l3 - 2..l3].copy_from_slice(&[0x86, 0xdd]);
                bytes[l3] = 0x60;
                bytes[l3 + 4..l3 + 6].copy_from_slice(&total.to_be_bytes());
                bytes[l3 + 6..l3 + 8].copy_from_slice(&[protocol, HOP_LIMIT]);
            }
        }
        if protocol == UDP {
            bytes[l4 + 4..l4 + 6].copy_from_slice(&total.to_be_bytes());
            let filler = l4 + UDP_HEADER + STAMP_LEN..l4 + transport_len;
            for (at, byte) in bytes[filler].iter_mut().enumerate() {
                *byte = at as u8;
            }
        } else {
            bytes[l4 + 12] = 0x50; // five words, no options
            bytes[l4 + 14..l4 + 16].copy_from_slice(&[0xff, 0xff]); // window
        }
        let header_sum = if family == Family::V4 { sum(&bytes[l3..l4]) } else { 0 };
        let transport = sum(&bytes[l4..l4 + transport_len]);
        let transport_sum = transport + u64::from(protocol) + u64::from(total);
        Self { bytes, family, l3, l4, header_sum, transport_sum }
    }

    /// Length of the frames without FCS.
    #[expect(clippy::len_without_is_empty, reason = "a frame is never empty")]
    pub const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Writes a datagram to the beginning of `frame`; returns its length.
    ///
    /// # Panics
    /// If `frame` is shorter than the template, or this is no template for UDP.
    #[inline]
    pub fn write_udp(&self, frame: &mut [u8], tuple: &Tuple, stamp: &[u8; STAMP_LEN]) -> usize {
        let sum = self.write_common(frame, tuple) + sum(stamp);
        let payload = self.l4 + UDP_HEADER;
        frame[payload..payload + STAMP_LEN].copy_from_slice(stamp);
        // RFC 768: a sum of zero is sent as all ones.
        let checksum = !fold(sum);
        let checksum = if checksum == 0 { 0xffff } else { checksum };
        frame[self.l4 + 6..self.l4 + 8].copy_from_slice(&checksum.to_be_bytes());
        self.len()
    }

    /// Writes a segment to the beginning of `frame`; returns its length.
    ///
    /// # Panics
    /// If `frame` is shorter than the template, or this is no template for TCP.
    #[inline]
    pub fn write_tcp(&self, frame: &mut [u8], tuple: &Tuple, segment: Segment) -> usize {
        let Segment { sequence, acknowledgment, flags } = segment;
        let sum = self.write_common(frame, tuple)
            + u64::from(sequence)
            + u64::from(acknowledgment)
            + u64::from(flags);
        let l4 = &mut frame[self.l4..self.l4 + TCP_HEADER];
        l4[4..8].copy_from_slice(&sequence.to_be_bytes());
        l4[8..12].copy_from_slice(&acknowledgment.to_be_bytes());
        l4[13] = flags;
        l4[16..18].copy_from_slice(&(!fold(sum)).to_be_bytes());
        self.len()
    }

    /// Copies the template and writes what every transport has; returns the transport's sum so far.
    #[inline]
    fn write_common(&self, frame: &mut [u8], tuple: &Tuple) -> u64 {
        let Self { l3, l4, .. } = *self;
        frame[..self.bytes.len()].copy_from_slice(&self.bytes);
        let addresses = match self.family {
            Family::V4 => {
                let (src, dst) = (tuple.src as u32, tuple.dst as u32);
                frame[l3 + 12..l3 + 16].copy_from_slice(&src.to_be_bytes());
                frame[l3 + 16..l3 + 20].copy_from_slice(&dst.to_be_bytes());
                let addresses = u64::from(src) + u64::from(dst);
                let checksum = !fold(self.header_sum + addresses);
                frame[l3 + 10..l3 + 12].copy_from_slice(&checksum.to_be_bytes());
                addresses
            }
            Family::V6 => {
                frame[l3 + 8..l3 + 24].copy_from_slice(&tuple.src.to_be_bytes());
                frame[l3 + 24..l3 + 40].copy_from_slice(&tuple.dst.to_be_bytes());
                sum(&frame[l3 + 8..l3 + 40])
            }
        };
        frame[l4..l4 + 2].copy_from_slice(&tuple.src_port.to_be_bytes());
        frame[l4 + 2..l4 + 4].copy_from_slice(&tuple.dst_port.to_be_bytes());
        let ports = u64::from(tuple.src_port) + u64::from(tuple.dst_port);
        self.transport_sum + addresses + ports
    }
}

/// What a frame that was received holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport<'a> {
    /// A datagram's payload.
    Udp(&'a [u8]),
    /// A segment.
    Tcp(Segment),
}

/// A frame that was received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parsed<'a> {
    /// Who sent it on the link.
    pub link_src: [u8; 6],
    /// The IP version.
    pub family: Family,
    /// Addresses and ports as they arrived.
    pub tuple: Tuple,
    /// What is inside.
    pub transport: Transport<'a>,
}

/// Why a frame is none of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unusable {
    /// Another protocol, a fragment, a frame cut short: somebody else's.
    Foreign,
    /// A checksum is wrong.
    Corrupt,
}

/// Reads a frame, with at most one VLAN tag.
///
/// # Errors
/// [`Unusable`]; never panics, whatever the bytes.
#[inline]
pub fn parse(frame: &[u8]) -> Result<Parsed<'_>, Unusable> {
    use Unusable::{Corrupt, Foreign};

    let ethertype = |at: usize| frame.get(at..at + 2).map(|t| u16::from_be_bytes([t[0], t[1]]));
    let (kind, l3) = match ethertype(12) {
        Some(0x8100) => (ethertype(16), ETHERNET + TAG),
        kind => (kind, ETHERNET),
    };
    let packet = frame.get(l3..).ok_or(Foreign)?;
    let (family, protocol, transport, pseudo) = match kind {
        Some(0x0800) => ipv4(packet)?,
        Some(0x86dd) => ipv6(packet)?,
        _ => return Err(Foreign),
    };
    let (src, dst) = match family {
        Family::V4 => (number(&packet[12..16]), number(&packet[16..20])),
        Family::V6 => (number(&packet[8..24]), number(&packet[24..40])),
    };
    let header = if protocol == UDP { UDP_HEADER } else { TCP_HEADER };
    if !matches!(protocol, UDP | TCP) || transport.len() < header {
        return Err(Foreign);
    }
    // RFC 768: over IPv4 a datagram may have no checksum.
    let unsummed = protocol == UDP && family == Family::V4 && transport[6..8] == [0, 0];
    if !unsummed && fold(pseudo + sum(transport)) != 0xffff {
        return Err(Corrupt);
    }
    let word = |at: usize| number(&transport[at..at + 4]) as u32;
    let ports = word(0);
    let inside = if protocol == UDP {
        Transport::Udp(&transport[UDP_HEADER..])
    } else {
        let (sequence, acknowledgment) = (word(4), word(8));
        Transport::Tcp(Segment { sequence, acknowledgment, flags: transport[13] })
    };
    Ok(Parsed {
        link_src: std::array::from_fn(|at| frame[6 + at]),
        family,
        tuple: Tuple { src, dst, src_port: (ports >> 16) as u16, dst_port: ports as u16 },
        transport: inside,
    })
}

/// Protocol, transport part, and the sum of the pseudo-header.
type Inside<'a> = (Family, u8, &'a [u8], u64);

fn ipv4(packet: &[u8]) -> Result<Inside<'_>, Unusable> {
    let fixed: &[u8; 20] = packet.first_chunk().ok_or(Unusable::Foreign)?;
    let header = usize::from(fixed[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    let fragment = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x3fff != 0;
    let sound = fixed[0] >> 4 == 4 && header >= 20 && total >= header && packet.len() >= total;
    if !sound || fragment {
        return Err(Unusable::Foreign);
    }
    if fold(sum(&packet[..header])) != 0xffff {
        return Err(Unusable::Corrupt);
    }
    let transport = &packet[header..total];
    let pseudo = sum(&fixed[12..20]) + u64::from(fixed[9]) + transport.len() as u64;
    Ok((Family::V4, fixed[9], transport, pseudo))
}

fn ipv6(packet: &[u8]) -> Result<Inside<'_>, Unusable> {
    let fixed: &[u8; 40] = packet.first_chunk().ok_or(Unusable::Foreign)?;
    let len = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    let transport = packet.get(40..40 + len).ok_or(Unusable::Foreign)?;
    if fixed[0] >> 4 != 6 {
        return Err(Unusable::Foreign);
    }
    let pseudo = sum(&fixed[8..40]) + u64::from(fixed[6]) + len as u64;
    Ok((Family::V6, fixed[6], transport, pseudo))
}

fn number(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u128::from(byte))
}

/// RFC 1071 sum of big-endian words, not yet folded: 32 bits at a time come to the same.
#[inline]
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let sum: u64 = words.iter().map(|&word| u64::from(u32::from_be_bytes(word))).sum();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    sum + u64::from(u32::from_be_bytes(last))
}

#[inline]
const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use etherparse::{SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    use super::*;

    fn families() -> impl Strategy<Value = Family> {
        prop_oneof![Just(Family::V4), Just(Family::V6)]
    }

    fn tuples() -> impl Strategy<Value = Tuple> {
        (any::<u128>(), any::<u128>(), any::<u16>(), any::<u16>())
            .prop_map(|(src, dst, src_port, dst_port)| Tuple { src, dst, src_port, dst_port })
    }

    fn link(vlan: Option<u16>) -> Link {
        Link { dst: [2, 0, 0, 0, 0, 1], src: [2, 0, 0, 0, 0, 2], vlan }
    }

    /// The tuple as the wire carries it: 32 bits of address in IPv4.
    fn on_wire(family: Family, tuple: Tuple) -> Tuple {
        let cut = |address: u128| match family {
            Family::V4 => u128::from(address as u32),
            Family::V6 => address,
        };
        Tuple { src: cut(tuple.src), dst: cut(tuple.dst), ..tuple }
    }

    /// The transport checksum and the IPv4 header checksum as etherparse computes them.
    fn check_with_etherparse(frame: &[u8]) {
        let sliced = SlicedPacket::from_ethernet(frame).expect("a frame");
        let net = sliced.net.expect("a network header");
        let transport = sliced.transport.expect("a transport header");
        let (udp, tcp) = match &transport {
            TransportSlice::Udp(udp) => (Some(udp), None),
            TransportSlice::Tcp(tcp) => (None, Some(tcp)),
            _ => panic!("neither UDP nor TCP"),
        };
        if let Some(ip) = net.ipv4_ref() {
            let ip = ip.header();
            assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum());
            if let Some(udp) = udp {
                let expected = udp.to_header().calc_checksum_ipv4(&ip.to_header(), udp.payload());
                assert_eq!(udp.checksum(), expected.expect("short"));
            }
            if let Some(tcp) = tcp {
                let expected = tcp.to_header().calc_checksum_ipv4(&ip.to_header(), tcp.payload());
                assert_eq!(tcp.checksum(), expected.expect("short"));
            }
        } else {
            let ip = net.ipv6_ref().expect("IPv6").header().to_header();
            if let Some(udp) = udp {
                let expected = udp.to_header().calc_checksum_ipv6(&ip, udp.payload());
                assert_eq!(udp.checksum(), expected.expect("short"));
            }
            if let Some(tcp) = tcp {
                let expected = tcp.to_header().calc_checksum_ipv6(&ip, tcp.payload());
                assert_eq!(tcp.checksum(), expected.expect("short"));
            }
        }
    }

    proptest! {
        #[test]
        fn datagrams_are_sound_and_read_back(
            family in families(),
            vlan in prop::option::of(1u16..4095),
            tuple in tuples(),
            stamp in any::<[u8; STAMP_LEN]>(),
            len in 60usize..=1514,
        ) {
            let template = Template::udp(family, link(vlan), len);
            let mut frame = vec![0xaa; 2048];
            let written = template.write_udp(&mut frame, &tuple, &stamp);
            prop_assert_eq!(written, len.max(udp_len_min(family, vlan)));
            check_with_etherparse(&frame[..written]);
            let parsed = parse(&frame[..written]).expect("sound");
            prop_assert_eq!(parsed.tuple, on_wire(family, tuple));
            let Transport::Udp(payload) = parsed.transport else { panic!("UDP") };
            prop_assert_eq!(&payload[..STAMP_LEN], &stamp);
        }

        #[test]
        fn segments_are_sound_and_read_back(
            family in families(),
            vlan in prop::option::of(1u16..4095),
            tuple in tuples(),
            sequence in any::<u32>(),
            acknowledgment in any::<u32>(),
            flags in any::<u8>(),
        ) {
            let segment = Segment { sequence, acknowledgment, flags };
            let mut frame = vec![0xaa; 2048];
            let written =
                Template::tcp(family, link(vlan)).write_tcp(&mut frame, &tuple, segment);
            check_with_etherparse(&frame[..written]);
            let parsed = parse(&frame[..written]).expect("sound");
            prop_assert_eq!(parsed.tuple, on_wire(family, tuple));
            prop_assert_eq!(parsed.transport, Transport::Tcp(segment));
        }

        #[test]
        fn a_changed_bit_behind_the_link_header_is_never_read_as_the_same(
            family in families(),
            tuple in tuples(),
            bit in 14usize * 8..100 * 8,
        ) {
            let template = Template::udp(family, link(None), 100);
            let mut frame = vec![0; 100];
            template.write_udp(&mut frame, &tuple, &[7; STAMP_LEN]);
            let sound = frame.clone();
            frame[bit / 8] ^= 1 << (bit % 8);
            // IPv6 has no sum over traffic class, flow label and hop limit; a UDP checksum of IPv4
            // that becomes zero means none.
            let unprotected =
                family == Family::V6 && (bit < 18 * 8 || (21 * 8..22 * 8).contains(&bit));
            if !unprotected && frame[40..42] != [0, 0] {
                prop_assert_ne!(parse(&frame).ok(), parse(&sound).ok());
            }
        }

        #[test]
        fn any_bytes_are_read_without_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..120),
            kind in prop_oneof![Just([8u8, 0]), Just([0x86, 0xdd]), Just([0x81, 0])],
        ) {
            if let Some(at) = bytes.get_mut(12..14) {
                at.copy_from_slice(&kind);
            }
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn the_smallest_frames_are_what_the_page_says() {
        assert_eq!(udp_len_min(Family::V4, None) + FCS, 64);
        assert_eq!(udp_len_min(Family::V4, Some(7)) + FCS, 68);
        assert_eq!(udp_len_min(Family::V6, None) + FCS, 84);
        assert_eq!(udp_len_min(Family::V6, Some(7)) + FCS, 88);
        assert_eq!(Template::tcp(Family::V4, link(None)).len() + FCS, 64);
        assert_eq!(Template::tcp(Family::V6, link(None)).len() + FCS, 78);
    }
}
