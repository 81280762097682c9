//! Packets for tests, built by `etherparse`, which knows nothing of this crate.

use core::net::IpAddr;
use std::boxed::Box;
use std::vec;
use std::vec::Vec;

use etherparse::checksum::Sum16BitWords;
use etherparse::{
    IpHeaders, IpNumber, Ipv4Header, Ipv6Header, NetSlice, PacketBuilder, PacketBuilderStep,
    SlicedPacket, TcpHeader, TcpOptionElement, TransportSlice,
};

use super::crc32c::Crc32c;
use crate::conntrack::tuple::{Tuple, protocol};
use crate::snapshot::{Interface, InterfaceAddress, ReversePath};
use crate::units::Mac;

/// The interface's MAC.
pub(crate) const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);
/// The neighbour's MAC.
pub(crate) const PEER: Mac = Mac([2, 0, 0, 0, 0, 2]);

/// An interface with 192.0.2.1/24 and 2001:db8::1/64.
pub(crate) fn interface() -> Interface {
    let address = |text: &str, length| InterfaceAddress { address: ip(text), length };
    Interface {
        mac: OURS,
        other_macs: Box::new([]),
        promiscuous: false,
        mtu: 1500,
        up: true,
        masquerade: false,
        independent: None,
        clamp_mss: None,
        dhcp: false,
        reverse_path: ReversePath::Strict,
        zone: 0,
        addresses: vec![address("192.0.2.1", 24), address("2001:db8::1", 64)].into(),
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// `tuple("10.0.0.2", 5000, "192.0.2.9", 53, protocol::UDP)`.
pub(crate) fn tuple(src: &str, src_id: u16, dst: &str, dst_id: u16, protocol: u8) -> Tuple {
    Tuple::new(ip(src), ip(dst), src_id, dst_id, protocol).unwrap()
}

/// Fields of the IP header that a translation must leave alone.
pub(crate) const TOS: u8 = 0xb9;
pub(crate) const IDENTIFICATION: u16 = 0x4321;

fn start(tuple: &Tuple, ttl: u8, options: &[u8]) -> PacketBuilderStep<IpHeaders> {
    let headers = match tuple {
        Tuple::V4(t) => {
            let mut header = Ipv4Header::new(0, ttl, IpNumber(t.protocol), t.src, t.dst).unwrap();
            header.dscp = (TOS >> 2).try_into().unwrap();
            header.ecn = (TOS & 3).try_into().unwrap();
            header.identification = IDENTIFICATION;
            header.dont_fragment = true;
            header.options = options.try_into().unwrap();
            IpHeaders::Ipv4(header, Default::default())
        }
        Tuple::V6(t) => IpHeaders::Ipv6(
            Ipv6Header {
                traffic_class: TOS,
                flow_label: 0xabcde.try_into().unwrap(),
                payload_length: 0,
                next_header: IpNumber(t.protocol),
                hop_limit: ttl,
                source: t.src,
                destination: t.dst,
            },
            Default::default(),
        ),
    };
    PacketBuilder::ethernet2(PEER.0, OURS.0).ip(headers)
}

/// A frame from the neighbour to us with this tuple. TCP is a segment in mid-stream with options; ICMP ids are
/// those of an echo; protocols without ids carry `payload` as it is.
pub(crate) fn frame(tuple: &Tuple, ttl: u8, payload: &[u8]) -> Vec<u8> {
    frame_with(tuple, ttl, &[], payload)
}

/// [`frame`] with IPv4 options.
pub(crate) fn frame_with(tuple: &Tuple, ttl: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let ip = start(tuple, ttl, options);
    let (src, dst) = (tuple.src_id(), tuple.dst_id());
    let mut out = Vec::new();
    let request = dst == 8 << 8 || dst == 128 << 8;
    let id = if request { src } else { dst };
    match (tuple.protocol(), tuple) {
        (protocol::TCP, _) => {
            let mut header = TcpHeader::new(src, dst, 0x0102_0304, 0x2345);
            (header.ack, header.psh, header.urg, header.ece) = (true, true, true, true);
            (header.acknowledgment_number, header.urgent_pointer) = (0xa0b0_c0d0, 7);
            let options = [TcpOptionElement::Timestamp(1, 2), TcpOptionElement::Noop];
            header.set_options(&options).unwrap();
            ip.tcp_header(header).write(&mut out, payload).unwrap();
        }
        (protocol::UDP, _) => ip.udp(src, dst).write(&mut out, payload).unwrap(),
        (protocol::ICMP, Tuple::V4(_)) if request => {
            ip.icmpv4_echo_request(id, 7).write(&mut out, payload).unwrap();
        }
        (protocol::ICMP, Tuple::V4(_)) => {
            ip.icmpv4_echo_reply(id, 7).write(&mut out, payload).unwrap();
        }
        (protocol::ICMPV6, Tuple::V6(_)) if request => {
            ip.icmpv6_echo_request(id, 7).write(&mut out, payload).unwrap();
        }
        (protocol::ICMPV6, Tuple::V6(_)) => {
            ip.icmpv6_echo_reply(id, 7).write(&mut out, payload).unwrap();
        }
        (protocol::SCTP, _) => {
            let mut packet = [&src.to_be_bytes()[..], &dst.to_be_bytes(), &[9, 9, 9, 9]].concat();
            packet.extend([0; 4]);
            packet.extend(payload);
            let crc = Crc32c::START.update(&packet).finish();
            packet[8..12].copy_from_slice(&crc.to_le_bytes());
            ip.write(&mut out, IpNumber(protocol::SCTP), &packet).unwrap();
        }
        (protocol::UDP_LITE, _) => {
            // Half of the payload is covered.
            let coverage = 8 + payload.len() / 4 * 2;
            let mut packet = [src, dst, coverage as u16, 0].map(u16::to_be_bytes).concat();
            packet.extend(payload);
            let mut sum = Sum16BitWords::new()
                .add_2bytes([0, protocol::UDP_LITE])
                .add_2bytes((packet.len() as u16).to_be_bytes())
                .add_slice(&packet[..coverage]);
            sum = match tuple {
                Tuple::V4(t) => sum.add_4bytes(t.src).add_4bytes(t.dst),
                Tuple::V6(t) => sum.add_16bytes(t.src).add_16bytes(t.dst),
            };
            packet[6..8].copy_from_slice(&sum.to_ones_complement_with_no_zero().to_ne_bytes());
            ip.write(&mut out, IpNumber(protocol::UDP_LITE), &packet).unwrap();
        }
        (other, _) => ip.write(&mut out, IpNumber(other), payload).unwrap(),
    }
    out
}

/// A TCP frame made to measure.
pub(crate) fn tcp_frame(tuple: &Tuple, change: impl Fn(&mut TcpHeader), payload: &[u8]) -> Vec<u8> {
    let mut header = TcpHeader::new(tuple.src_id(), tuple.dst_id(), 1000, 2000);
    change(&mut header);
    let mut out = Vec::new();
    start(tuple, 64, &[]).tcp_header(header).write(&mut out, payload).unwrap();
    out
}

/// An ICMP or ICMPv6 message of any type; `rest` is the second word.
pub(crate) fn icmp_frame(
    src: &str,
    dst: &str,
    ttl: u8,
    (kind, code, rest): (u8, u8, u32),
    body: &[u8],
) -> Vec<u8> {
    let protocol = if ip(src).is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 };
    let step = start(&tuple(src, 0, dst, 0, protocol), ttl, &[]);
    let mut out = Vec::new();
    let rest = rest.to_be_bytes();
    match protocol {
        protocol::ICMP => step.icmpv4_raw(kind, code, rest).write(&mut out, body).unwrap(),
        _ => step.icmpv6_raw(kind, code, rest).write(&mut out, body).unwrap(),
    }
    out
}

/// Writes the checksums of the IPv4 header and of UDP, TCP, ICMP or ICMPv6 anew, after a test has changed
/// the packet: as far as they are there and lengths do not point out of the frame.
pub(crate) fn mend(frame: &mut [u8]) {
    if frame.len() < 34 {
        return;
    }
    let number = |at| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    let (l4, end, protocol) = match number(12) {
        0x0800 => (14 + usize::from(frame[14] & 15) * 4, 14 + number(16), frame[23]),
        0x86dd => (54, 54 + number(18), frame[20]),
        _ => return,
    };
    let v4 = frame[12] == 8;
    if l4 > frame.len() || l4 < 34 {
        return;
    }
    if v4 {
        frame[24..26].fill(0);
        let sum = Sum16BitWords::new().add_slice(&frame[14..l4]).ones_complement();
        frame[24..26].copy_from_slice(&sum.to_ne_bytes());
    }
    let at = l4
        + match protocol {
            protocol::TCP => 16,
            protocol::UDP => 6,
            protocol::ICMP | protocol::ICMPV6 => 2,
            _ => return,
        };
    if end > frame.len() || at + 2 > end {
        return;
    }
    frame[at..at + 2].fill(0);
    let mut sum = Sum16BitWords::new().add_slice(&frame[l4..end]);
    if protocol != protocol::ICMP {
        let addresses = if v4 { &frame[26..34] } else { &frame[22..54] };
        let len = ((end - l4) as u16).to_be_bytes();
        sum = sum.add_slice(addresses).add_2bytes([0, protocol]).add_2bytes(len);
    }
    let sum = match protocol {
        protocol::UDP => sum.to_ones_complement_with_no_zero(),
        _ => sum.ones_complement(),
    };
    frame[at..at + 2].copy_from_slice(&sum.to_ne_bytes());
}

/// Decodes a frame strictly and asserts every checksum that is in it.
pub(crate) fn decode(frame: &[u8]) -> SlicedPacket<'_> {
    let packet = SlicedPacket::from_ethernet(frame).expect("etherparse reads it");
    match (packet.net.as_ref(), packet.transport.as_ref()) {
        (Some(NetSlice::Ipv4(ip)), transport) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum(), "IPv4 checksum");
            let (src, dst) = (header.source, header.destination);
            match transport {
                Some(TransportSlice::Tcp(tcp)) => {
                    assert_eq!(
                        Ok(tcp.checksum()),
                        tcp.calc_checksum_ipv4(src, dst),
                        "TCP checksum"
                    );
                }
                Some(TransportSlice::Udp(udp)) if udp.checksum() != 0 => {
                    let sum = udp.to_header().calc_checksum_ipv4_raw(src, dst, udp.payload());
                    assert_eq!(Ok(udp.checksum()), sum, "UDP checksum");
                }
                Some(TransportSlice::Icmpv4(icmp)) => {
                    let sum = Sum16BitWords::new().add_slice(icmp.slice()).ones_complement();
                    assert_eq!(sum, 0, "ICMP checksum");
                }
                _ => {}
            }
        }
        (Some(NetSlice::Ipv6(ip)), transport) => {
            let (src, dst) = (ip.header().source(), ip.header().destination());
            match transport {
                Some(TransportSlice::Tcp(tcp)) => {
                    assert_eq!(
                        Ok(tcp.checksum()),
                        tcp.calc_checksum_ipv6(src, dst),
                        "TCP checksum"
                    );
                }
                Some(TransportSlice::Udp(udp)) => {
                    let sum = udp.to_header().calc_checksum_ipv6_raw(src, dst, udp.payload());
                    assert_eq!(Ok(udp.checksum()), sum, "UDP checksum");
                }
                Some(TransportSlice::Icmpv6(icmp)) => {
                    assert!(icmp.is_checksum_valid(src, dst), "ICMPv6 checksum");
                }
                _ => {}
            }
        }
        _ => {}
    }
    packet
}
