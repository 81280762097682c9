//! `parse` against etherparse, against a table of faults, and against noise.

use core::net::IpAddr;
use std::boxed::Box;
use std::collections::BTreeSet;
use std::format;
use std::vec;
use std::vec::Vec;

use etherparse::{NetSlice, TransportSlice};
use proptest::prelude::*;

use super::*;
use crate::conntrack::tuple::{Tuple, protocol};
use crate::headers::TcpSummary;
use crate::wire::testing::*;

fn on_wire(frame: &[u8]) -> Result<Headers, DropReason> {
    parse(frame, &interface(), Origin::Wire, true)
}

fn from_host(frame: &[u8]) -> Result<Headers, DropReason> {
    parse(frame, &interface(), Origin::Host, true)
}

/// As a person sees it: kind and reason, or the error.
fn outcome(result: Result<Headers, DropReason>) -> Result<(Kind, Option<DropReason>), DropReason> {
    result.map(|headers| (headers.kind, headers.invalid))
}

fn udp4() -> Tuple {
    tuple("198.51.100.7", 5000, "192.0.2.1", 53, protocol::UDP)
}

fn udp6() -> Tuple {
    tuple("2001:db8:7::7", 5000, "2001:db8::1", 53, protocol::UDP)
}

/// A tuple of every protocol and family with transport checks of its own, and one without.
fn every_tuple() -> Vec<Tuple> {
    use protocol::*;
    let mut all = Vec::new();
    for (src, dst, icmp, echo) in [
        ("198.51.100.7", "203.0.113.9", ICMP, 8 << 8),
        ("2001:db8:7::7", "2001:db8:9::9", ICMPV6, 128 << 8),
    ] {
        for protocol in [TCP, UDP, UDP_LITE, SCTP] {
            all.push(tuple(src, 5000, dst, 80, protocol));
        }
        all.push(tuple(src, 0x4711, dst, echo, icmp));
        all.push(tuple(src, echo, dst, 0x4711, icmp));
        all.push(tuple(src, 0, dst, 0, GRE));
        all.push(tuple(src, 0, dst, 0, ESP));
        all.push(tuple(src, 0, dst, 0, 253));
    }
    all
}

fn error_about(quote: &Tuple) -> Vec<u8> {
    let packet = frame(quote, 3, b"abcdefgh");
    let dst = format!("{}", quote.src());
    match quote {
        Tuple::V4(_) => icmp_frame("203.0.113.254", &dst, 60, (3, 3, 0), &packet[14..]),
        Tuple::V6(_) => icmp_frame("2001:db8:fe::1", &dst, 60, (1, 4, 0), &packet[14..]),
    }
}

#[test]
fn every_protocol_yields_its_tuple_and_offsets() {
    for expected in every_tuple() {
        let bytes = frame(&expected, 61, b"some payload");
        let headers = on_wire(&bytes).unwrap();
        assert_eq!(headers.tuple, expected);
        let ip_header_len = if headers.is_v4() { 20 } else { 40 };
        assert_eq!((headers.l3, headers.l4), (14, 14 + ip_header_len));
        assert_eq!(usize::from(headers.ip_len), bytes.len() - 14);
        assert_eq!((headers.ttl, headers.tos, headers.dont_fragment), (61, TOS, true));
        assert_eq!(headers.protocol, expected.protocol());
        assert_eq!(headers.invalid, None);
        let kind = match expected.protocol() {
            protocol::TCP => Kind::Tcp,
            protocol::ICMP | protocol::ICMPV6 => Kind::IcmpQuery,
            _ => Kind::Flow,
        };
        assert_eq!(headers.kind, kind);
        assert_eq!(addresses(&bytes, &headers), Some((expected.src(), expected.dst())));
        assert!(!headers.l2_group);
    }
}

#[test]
fn tcp_numbers_are_those_of_the_header() {
    let wanted = tuple("198.51.100.7", 5000, "192.0.2.1", 80, protocol::TCP);
    let headers = on_wire(&frame(&wanted, 64, b"12345")).unwrap();
    let expected = TcpSummary {
        seq: 0x0102_0304,
        ack: 0xa0b0_c0d0,
        window: 0x2345,
        payload_len: 5,
        flags: 0x10 | 0x08 | 0x20 | 0x40,
        header_len: 32,
    };
    assert_eq!(headers.tcp, expected);
}

#[test]
fn all_four_icmp_queries_carry_their_identifier_on_the_queriers_side() {
    for (request, reply) in [(8, 0), (13, 14), (15, 16), (17, 18)] {
        let word = 0x4711_0007;
        let body = [0; 12];
        let out = icmp_frame("198.51.100.7", "203.0.113.9", 64, (request, 0, word), &body);
        let back = icmp_frame("203.0.113.9", "198.51.100.7", 64, (reply, 0, word), &body);
        let (out, back) = (on_wire(&out).unwrap(), on_wire(&back).unwrap());
        assert_eq!((out.kind, back.kind), (Kind::IcmpQuery, Kind::IcmpQuery));
        assert_eq!(out.icmp_type, request);
        assert_eq!((out.tuple.src_id(), out.tuple.dst_id()), (0x4711, u16::from(request) << 8));
        assert_eq!(back.tuple, out.tuple.inverted());
    }
}

#[test]
fn an_errors_tuple_is_the_inverse_of_what_it_quotes() {
    for quoted in every_tuple() {
        let bytes = error_about(&quoted);
        let headers = on_wire(&bytes).unwrap();
        assert_eq!(headers.kind, Kind::IcmpError);
        assert_eq!(headers.tuple, quoted.inverted());
        let ip_header_len: u16 = if headers.is_v4() { 20 } else { 40 };
        assert_eq!(headers.l4, 14 + ip_header_len);
        assert_eq!(headers.quote_l3, headers.l4 + 8);
        assert_eq!(headers.quote_l4, headers.quote_l3 + ip_header_len);
        let (src, dst) = addresses(&bytes, &headers).unwrap();
        assert_eq!(dst, quoted.src());
        assert_ne!(src, quoted.dst());
    }
}

#[test]
fn an_error_may_quote_options_and_just_eight_bytes() {
    // C054: 28 bytes of a packet without options are enough; C057: and of one with, its header and eight.
    let quoted = tuple("198.51.100.7", 5000, "203.0.113.9", 80, protocol::TCP);
    for options in [&[][..], &[1, 1, 1, 0], &[7, 39, 4]] {
        let mut padded = options.to_vec();
        padded.resize(options.len().div_ceil(4) * 4 + if options.len() == 3 { 36 } else { 0 }, 0);
        let packet = frame_with(&quoted, 9, &padded, b"payload");
        let header_len = 20 + padded.len();
        for len in 0..=header_len + 12 {
            let quote = &packet[14..14 + len];
            let bytes = icmp_frame("203.0.113.1", "198.51.100.7", 60, (3, 4, 1400), quote);
            let result = on_wire(&bytes);
            if len < header_len + 8 {
                assert_eq!(outcome(result), Err(DropReason::IcmpErrorQuote), "{len}");
            } else {
                let headers = result.unwrap();
                assert_eq!(headers.tuple, quoted.inverted());
                assert_eq!(usize::from(headers.quote_l4 - headers.quote_l3), header_len);
            }
        }
    }
}

#[test]
fn quotes_that_lie_are_refused() {
    use DropReason::*;
    let quoted = tuple("198.51.100.7", 5000, "203.0.113.9", 80, protocol::UDP);
    let packet = frame(&quoted, 9, b"payload")[14..].to_vec();
    let about = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut quote = packet.clone();
        change(&mut quote);
        on_wire(&icmp_frame("203.0.113.1", "198.51.100.7", 60, (3, 1, 0), &quote)).err()
    };
    // C057.
    assert_eq!(about(&|q| q[0] = 0x41), Some(IcmpErrorQuote), "IHL 1");
    assert_eq!(about(&|q| q[0] = 0x4f), Some(IcmpErrorQuote), "IHL 15 of 35 bytes");
    assert_eq!(about(&|q| q[0] = 0x65), Some(IcmpErrorQuote), "version 6");
    assert_eq!(about(&|q| q[7] = 1), Some(IcmpErrorQuote), "fragment offset 1");
    assert_eq!(about(&|q| q[6] = 0x20), None, "first fragment");
    assert_eq!(about(&|q| q[10] ^= 1), None, "quoted header checksum");
    assert_eq!(about(&|q| q[3] = 0), None, "quoted length");
    assert_eq!(about(&|q| q[15] ^= 1), Some(IcmpErrorUnrelated), "somebody else's packet");
    // C060.
    assert_eq!(about(&|q| (q[9], q[20]) = (1, 3)), Some(IcmpErrorNested));
    assert_eq!(about(&|q| (q[9], q[20]) = (1, 11)), Some(IcmpErrorNested));
    assert_eq!(
        about(&|q| (q[9], q[20]) = (1, 9)),
        Some(IcmpErrorUnrelated),
        "router advertisement"
    );
    let quoted = tuple("2001:db8:7::7", 5000, "2001:db8:9::9", 80, protocol::UDP);
    let packet = frame(&quoted, 9, b"payload")[14..].to_vec();
    let about = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut quote = packet.clone();
        change(&mut quote);
        on_wire(&icmp_frame("2001:db8:fe::1", "2001:db8:7::7", 60, (3, 0, 0), &quote)).err()
    };
    assert_eq!(about(&|q| q[0] = 0x45), Some(IcmpErrorQuote));
    assert_eq!(about(&|q| q.truncate(47)), Some(IcmpErrorQuote));
    assert_eq!(about(&|q| q.truncate(48)), None);
    assert_eq!(about(&|q| (q[6], q[40]) = (58, 2)), Some(IcmpErrorNested));
    assert_eq!(about(&|q| (q[6], q[40]) = (58, 135)), Some(IcmpErrorUnrelated));
    assert_eq!(about(&|q| q[23] ^= 1), Some(IcmpErrorUnrelated));
    let fragment = |offset: u8| {
        move |q: &mut Vec<u8>| {
            q[6] = 44;
            let _ = q.splice(40..40, [17, 0, 0, offset, 0, 0, 0, 1]);
        }
    };
    assert_eq!(about(&fragment(1)), None, "first fragment, more to come");
    assert_eq!(about(&fragment(8)), Some(IcmpErrorQuote), "later fragment");
}

/// What happens to a frame after a change, checksums mended or not.
struct Fault {
    name: &'static str,
    frame: Vec<u8>,
    expect: Result<(Kind, Option<DropReason>), DropReason>,
}

fn fault(
    name: &'static str,
    base: &[u8],
    change: impl Fn(&mut Vec<u8>),
    expect: Result<Kind, DropReason>,
) -> Fault {
    let mut frame = base.to_vec();
    change(&mut frame);
    Fault { name, frame, expect: expect.map(|kind| (kind, None)) }
}

fn invalid_fault(
    name: &'static str,
    base: &[u8],
    change: impl Fn(&mut Vec<u8>),
    reason: DropReason,
) -> Fault {
    let mut frame = base.to_vec();
    change(&mut frame);
    Fault { name, frame, expect: Ok((Kind::Invalid, Some(reason))) }
}

fn check(faults: Vec<Fault>) {
    for Fault { name, frame, expect } in faults {
        assert_eq!(outcome(on_wire(&frame)), expect, "{name}");
    }
}

#[test]
fn ethernet_faults_are_named() {
    use DropReason::*;
    let good = frame(&udp4(), 64, b"x");
    check(vec![
        fault("13 bytes (C172)", &good, |f| f.truncate(13), Err(TruncatedEthernet)),
        fault("MTU + 14", &good, |f| f.resize(1514, 0), Ok(Kind::Flow)),
        fault("MTU + 15 (C172)", &good, |f| f.resize(1515, 0), Err(FrameTooBig)),
        fault("foreign MAC (C170)", &good, |f| f[5] ^= 1, Err(ForeignMac)),
        fault("VLAN (C169)", &good, |f| f[12..14].copy_from_slice(&[0x81, 0]), Err(VlanTagged)),
        fault("service VLAN", &good, |f| f[12..14].copy_from_slice(&[0x88, 0xa8]), Err(VlanTagged)),
        fault(
            "802.3 length",
            &good,
            |f| f[12..14].copy_from_slice(&[0, 38]),
            Err(UnknownEtherType),
        ),
        fault("LLDP", &good, |f| f[12..14].copy_from_slice(&[0x88, 0xcc]), Err(UnknownEtherType)),
        fault(
            "IPv6 as IPv4 (C161)",
            &good,
            |f| f[12..14].copy_from_slice(&[0x86, 0xdd]),
            Err(Ipv6Header),
        ),
        fault("padding", &good, |f| f.resize(60, 0xff), Ok(Kind::Flow)),
    ]);
}

#[test]
fn a_foreign_mac_is_accepted_where_configured_but_never_as_ours_alone() {
    let mut bytes = frame(&udp4(), 64, b"x");
    bytes[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    let mut own = interface();
    let parsed =
        |own: &Interface, bytes: &[u8]| parse(bytes, own, Origin::Wire, true).map(|h| h.l2_group);
    assert_eq!(parsed(&own, &bytes), Err(DropReason::ForeignMac));
    own.promiscuous = true;
    assert_eq!(parsed(&own, &bytes), Ok(true));
    own.other_macs = Box::new([Mac([2, 0, 0, 0, 0, 9])]);
    assert_eq!(parsed(&own, &bytes), Ok(false));
    own.promiscuous = false;
    for group in [[0xff; 6], [1, 0, 0x5e, 0, 0, 18]] {
        bytes[..6].copy_from_slice(&group);
        assert_eq!(parsed(&own, &bytes), Ok(true));
    }
    bytes[..6].copy_from_slice(&[2, 0, 0, 0, 0, 8]);
    assert_eq!(from_host(&bytes).map(|h| h.l2_group), Ok(false), "the kernel knows its neighbours");
}

#[test]
fn ipv4_faults_are_named() {
    use DropReason::*;
    let good = frame(&udp4(), 64, b"0123456789");
    let mended = |change: fn(&mut Vec<u8>)| {
        move |f: &mut Vec<u8>| {
            change(f);
            mend(f);
        }
    };
    check(vec![
        fault("version 5", &good, |f| f[14] = 0x55, Err(Ipv4Header)),
        fault("IHL 4 (C161)", &good, |f| f[14] = 0x44, Err(Ipv4Header)),
        fault("IHL past the end", &good, |f| f[14] = 0x4f, Err(Ipv4Header)),
        fault("total length 19", &good, mended(|f| f[17] = 19), Err(Ipv4Header)),
        fault("total length beyond the frame", &good, mended(|f| f[17] += 1), Err(Ipv4Header)),
        fault("checksum", &good, |f| f[24] ^= 1, Err(Ipv4Checksum)),
        fault("TTL 0 (C143)", &good, mended(|f| f[22] = 0), Err(TtlZero)),
        fault("TTL 1", &good, mended(|f| f[22] = 1), Ok(Kind::Flow)),
        fault("first fragment", &good, mended(|f| f[20] = 0x20), Err(Fragment)), // 10 bytes and more to come
        fault("last fragment", &good, mended(|f| f[21] = 1), Ok(Kind::Fragment)),
        fault("reserved flag", &good, mended(|f| f[20] |= 0x80), Ok(Kind::Flow)),
    ]);
    for (options, expect) in [
        (&[1, 1, 1, 0][..], Ok(Kind::Flow)),
        (&[148, 4, 0, 0], Ok(Kind::Flow)),
        (&[7, 7, 4, 0, 0, 0, 0, 0], Ok(Kind::Flow)),
        (&[68, 8, 5, 0, 0, 0, 0, 0], Ok(Kind::Flow)),
        (&[0, 131, 3, 4], Ok(Kind::Flow)), // nothing counts behind the end of the list
        (&[131, 7, 4, 1, 2, 3, 4, 0], Err(Ipv4SourceRoute)), // C144
        (&[1, 137, 7, 4, 1, 2, 3, 4], Err(Ipv4SourceRoute)),
        (&[7, 3, 3, 0], Err(Ipv4Options)),
        (&[68, 3, 5, 0], Err(Ipv4Options)),
        (&[68, 4, 4, 0], Err(Ipv4Options)),
        (&[148, 1, 0, 0], Err(Ipv4Options)),
        (&[148, 5, 0, 0], Err(Ipv4Options)),
        (&[1, 1, 1, 148], Err(Ipv4Options)),
    ] {
        let bytes = frame_with(&udp4(), 64, options, b"x");
        let expect = expect.map(|kind| (kind, None));
        assert_eq!(outcome(on_wire(&bytes)), expect, "{options:?}");
        let mut wrong = bytes;
        wrong[35] ^= 0x10;
        assert_eq!(outcome(on_wire(&wrong)), Err(Ipv4Checksum));
    }
}

#[test]
fn ipv6_faults_are_named() {
    use DropReason::*;
    let good = frame(&udp6(), 64, b"0123456789");
    /// Puts extension headers between IPv6 and UDP; `first` is the first one's protocol.
    fn extended(good: &[u8], first: u8, headers: &[u8]) -> Vec<u8> {
        let mut frame = good.to_vec();
        let len = u16::from_be_bytes([frame[18], frame[19]]) + headers.len() as u16;
        frame[18..20].copy_from_slice(&len.to_be_bytes());
        frame[20] = first;
        let _ = frame.splice(54..54, headers.iter().copied());
        frame
    }
    check(vec![
        fault("version 4", &good, |f| f[14] = 0x45, Err(Ipv6Header)),
        fault("payload beyond the frame (C157)", &good, |f| f[19] += 1, Err(Ipv6Header)),
        fault("hop limit 0", &good, |f| f[21] = 0, Err(TtlZero)),
        fault("padding", &good, |f| f.resize(80, 9), Ok(Kind::Flow)),
    ]);
    let udp = protocol::UDP;
    let pad = |next| [next, 0, 1, 4, 0, 0, 0, 0];
    let chain = |n: usize| {
        let mut all = Vec::new();
        for i in 0..n {
            all.extend(pad(if i + 1 == n { udp } else { 60 }));
        }
        all
    };
    let long = |units: u8| {
        let mut header = vec![udp, units];
        header.resize(usize::from(units) * 8 + 8, 0);
        header
    };
    for (name, first, headers, expect) in [
        ("hop-by-hop", 0, pad(udp).to_vec(), Ok(Kind::Flow)),
        ("hop-by-hop, destination", 0, [pad(60), pad(udp)].concat(), Ok(Kind::Flow)),
        ("hop-by-hop second", 60, [pad(0), pad(udp)].concat(), Err(Ipv6Extension)),
        ("option past the end", 0, vec![udp, 0, 5, 5, 0, 0, 0, 0], Err(Ipv6Extension)),
        ("option without length", 0, vec![udp, 0, 1, 3, 0, 0, 0, 5], Err(Ipv6Extension)),
        ("jumbogram", 0, vec![udp, 0, 0xc2, 4, 0, 1, 0, 0], Err(Ipv6Extension)),
        ("routing type 0", 43, vec![udp, 0, 0, 0, 0, 0, 0, 0], Err(Ipv6Extension)),
        ("routing type 4, arrived", 43, vec![udp, 0, 4, 0, 0, 0, 0, 0], Ok(Kind::Flow)),
        ("fragment, not of eights", 44, vec![udp, 0, 0, 1, 0, 0, 0, 1], Err(Fragment)),
        ("beyond 65535", 44, vec![udp, 0, 0xff, 0xf8, 0, 0, 0, 1], Err(Fragment)),
        ("atomic fragment", 44, vec![udp, 0, 0, 0, 0, 0, 0, 1], Ok(Kind::Flow)),
        (
            "a fragment of a fragment",
            44,
            vec![44, 0, 0, 0, 0, 0, 0, 1, udp, 0, 0, 0, 0, 0, 0, 1],
            Err(Ipv6Extension),
        ),
        ("eight headers", 60, chain(8), Ok(Kind::Flow)),
        ("nine headers", 60, chain(9), Err(Ipv6Extension)),
        ("256 bytes", 60, long(31), Ok(Kind::Flow)),
        ("264 bytes", 60, long(32), Err(Ipv6Extension)),
        ("length past the end", 60, vec![udp, 9, 1, 4, 0, 0, 0, 0], Err(Ipv6Extension)),
    ] {
        let bytes = extended(&good, first, &headers);
        let result = on_wire(&bytes);
        if expect.is_ok() {
            let headers_len = headers.len() as u16;
            assert_eq!(result.unwrap().l4, 54 + headers_len, "{name}");
            assert_eq!(result.unwrap().tuple, udp6(), "{name}");
        }
        assert_eq!(outcome(result), expect.map(|kind| (kind, None)), "{name}");
    }
    // All fragments of a datagram have one tuple, whatever header they say comes next.
    for (next, offset) in [(udp, 0x10), (0, 0x20)] {
        let later = on_wire(&extended(&good, 44, &[next, 0, 0, offset, 1, 2, 3, 4])).unwrap();
        let expected = tuple("2001:db8:7::7", 0x0102, "2001:db8::1", 0x0304, 0);
        assert_eq!((later.kind, later.l4, later.tuple), (Kind::Fragment, 62, expected));
    }
    // Segments left: the checksum is over another destination than the header's.
    let mut routed = extended(&good, 43, &[udp, 0, 4, 1, 0, 0, 0, 0]);
    routed[60 + 8] ^= 1;
    assert_eq!(outcome(on_wire(&routed)), Ok((Kind::Flow, None)));
    let none = frame(&tuple("2001:db8:7::7", 0, "2001:db8::1", 0, 59), 64, b"");
    assert_eq!(outcome(on_wire(&none)), Ok((Kind::Flow, None)));
}

#[test]
fn transport_faults_are_named() {
    use DropReason::*;
    let mended = |change: fn(&mut Vec<u8>)| {
        move |f: &mut Vec<u8>| {
            change(f);
            mend(f);
        }
    };
    let v4 = |protocol| {
        frame(&tuple("198.51.100.7", 5000, "192.0.2.1", 80, protocol), 64, b"0123456789")
    };
    let v6 = |protocol| {
        frame(&tuple("2001:db8:7::7", 5000, "2001:db8::1", 80, protocol), 64, b"0123456789")
    };
    let (tcp, udp, lite, sctp) = (v4(6), v4(17), v4(136), v4(132));
    check(vec![
        fault("data offset 4 (C163)", &tcp, mended(|f| f[46] = 0x40), Err(TruncatedTransport)),
        fault("data offset past the end", &tcp, mended(|f| f[46] = 0xf0), Err(TruncatedTransport)),
        fault("TCP source port 0 (C167)", &tcp, mended(|f| f[34..36].fill(0)), Err(PortZero)),
        fault("TCP destination port 0", &tcp, mended(|f| f[36..38].fill(0)), Err(PortZero)),
        invalid_fault("TCP checksum (C164)", &tcp, |f| f[50] ^= 1, TransportChecksum),
        invalid_fault("TCP payload", &tcp, |f| *f.last_mut().unwrap() ^= 1, TransportChecksum),
        invalid_fault("null scan (C014)", &tcp, mended(|f| f[47] = 0), TcpFlags),
        invalid_fault("SYN FIN (C014)", &tcp, mended(|f| f[47] = 3), TcpFlags),
        invalid_fault("TCP over IPv6", &v6(6), |f| f[70] ^= 1, TransportChecksum),
        fault("UDP length 7 (C047)", &udp, mended(|f| f[39] = 7), Err(TruncatedTransport)),
        fault(
            "UDP length beyond the packet (C047)",
            &udp,
            mended(|f| f[39] = 19),
            Err(TruncatedTransport),
        ),
        fault("UDP port 0", &udp, mended(|f| f[34..36].fill(0)), Err(PortZero)),
        invalid_fault("UDP checksum", &udp, |f| f[40] ^= 1, TransportChecksum),
        fault("UDP without checksum (C042)", &udp, |f| f[40..42].fill(0), Ok(Kind::Flow)),
        invalid_fault("the same over IPv6", &v6(17), |f| f[60..62].fill(0), TransportChecksum),
        fault("UDP-Lite coverage 7", &lite, |f| f[39] = 7, Err(TruncatedTransport)),
        fault("UDP-Lite coverage 19 of 18", &lite, |f| f[39] = 19, Err(TruncatedTransport)),
        invalid_fault("UDP-Lite checksum 0", &lite, |f| f[40..42].fill(0), TransportChecksum),
        invalid_fault("UDP-Lite covered byte", &lite, |f| f[42] ^= 1, TransportChecksum),
        fault("UDP-Lite uncovered byte", &lite, |f| f[50] ^= 1, Ok(Kind::Flow)),
        fault("SCTP port 0", &sctp, |f| f[34..36].fill(0), Err(PortZero)),
        invalid_fault("SCTP CRC", &sctp, |f| f[42] ^= 1, TransportChecksum),
    ]);
    // A datagram shorter than its packet: the checksum is over the datagram.
    let mut short = v4(17);
    short[39] = 12;
    short[40..42].fill(0);
    assert_eq!(outcome(on_wire(&short)), Ok((Kind::Flow, None)));
}

#[test]
fn a_wrong_transport_checksum_is_let_be_when_verification_is_off() {
    for good in every_tuple().iter().flat_map(|t| [frame(t, 64, b"0123456789"), error_about(t)]) {
        let mut bad = good;
        if bad[12..14] == [8, 0] {
            bad[24] ^= 1;
            assert_eq!(
                outcome(parse(&bad, &interface(), Origin::Wire, false)),
                Err(DropReason::Ipv4Checksum),
                "the IPv4 header's always is"
            );
            bad[24] ^= 1;
        }
        // Inside the checksum of TCP, UDP or ICMP, whichever it is; of the quote if it is an error.
        *bad.last_mut().unwrap() ^= 1;
        let headers = parse(&bad, &interface(), Origin::Wire, false).unwrap();
        assert_ne!(headers.kind, Kind::Invalid);
        let verified = on_wire(&bad).unwrap();
        let checked = match headers.protocol {
            protocol::TCP | protocol::UDP | protocol::SCTP | protocol::ICMP | protocol::ICMPV6 => {
                Kind::Invalid
            }
            _ => headers.kind, // the last byte of a UDP-Lite datagram is not covered
        };
        assert_eq!(verified.kind, checked);
        if headers.kind != Kind::IcmpError && headers.kind != Kind::IcmpQuery {
            assert_eq!(verified.tuple, headers.tuple);
        }
    }
}

#[test]
fn icmp_faults_are_named() {
    use DropReason::*;
    let icmp = |kind, code| icmp_frame("198.51.100.7", "192.0.2.1", 64, (kind, code, 0), &[0; 20]);
    let icmp6 =
        |kind, code| icmp_frame("2001:db8:7::7", "2001:db8::1", 64, (kind, code, 0), &[0; 24]);
    check(vec![
        fault("redirect (C068)", &icmp(5, 1), |_| {}, Err(IcmpRedirect)),
        invalid_fault("checksum of a query", &icmp(8, 0), |f| f[36] ^= 1, TransportChecksum),
        invalid_fault(
            "checksum of an error (C061)",
            &icmp(3, 1),
            |f| f[36] ^= 1,
            TransportChecksum,
        ),
        invalid_fault("the same, v6", &icmp6(1, 1), |f| f[56] ^= 1, TransportChecksum),
        invalid_fault("router advertisement", &icmp(9, 0), |_| {}, IcmpNotQuery),
        invalid_fault("type 42", &icmp(42, 0), |_| {}, IcmpNotQuery),
        invalid_fault("v6 type 200", &icmp6(200, 0), |_| {}, IcmpNotQuery),
        invalid_fault("v6 node information", &icmp6(139, 0), |_| {}, IcmpNotQuery),
    ]);
    for kind in [130, 131, 132, 143] {
        let from = |source, hops| icmp_frame(source, "ff02::16", hops, (kind, 0, 0), &[0; 24]);
        let listener = Ok((Kind::Untracked, None));
        assert_eq!(outcome(on_wire(&from("fe80::7", 1))), listener);
        assert_eq!(outcome(on_wire(&from("::", 1))), listener);
        for (source, hops) in [("2001:db8:7::7", 1), ("fe80::7", 2), ("fe80::7", 64)] {
            assert_eq!(outcome(on_wire(&from(source, hops))), Err(NeighbourSpoof));
        }
    }
    let headers = on_wire(&icmp(42, 0)).unwrap();
    assert_eq!(headers.tuple, tuple("198.51.100.7", 0, "192.0.2.1", 0, protocol::ICMP));
}

#[test]
fn a_redirect_from_the_host_is_an_error_like_others() {
    let quoted = tuple("198.51.100.7", 5000, "203.0.113.9", 80, protocol::UDP);
    let packet = frame(&quoted, 9, b"payload");
    let bytes = icmp_frame("192.0.2.1", "198.51.100.7", 64, (5, 1, 0), &packet[14..]);
    let headers = from_host(&bytes).unwrap();
    assert_eq!((headers.kind, headers.tuple), (Kind::IcmpError, quoted.inverted()));
}

#[test]
fn neighbour_discovery_counts_only_from_the_link() {
    // C159.
    for kind in 133..=137 {
        let bytes = |ttl, code| icmp_frame("fe80::1", "ff02::1", ttl, (kind, code, 0), &[0; 24]);
        assert_eq!(outcome(on_wire(&bytes(255, 0))), Ok((Kind::Untracked, None)));
        assert_eq!(outcome(from_host(&bytes(255, 0))), Ok((Kind::Untracked, None)));
        assert_eq!(outcome(on_wire(&bytes(254, 0))), Err(DropReason::NeighbourSpoof));
        assert_eq!(outcome(on_wire(&bytes(255, 1))), Err(DropReason::NeighbourSpoof));
        let mut wrong = bytes(255, 0);
        wrong[56] ^= 1;
        assert_eq!(outcome(on_wire(&wrong)), Err(DropReason::NeighbourSpoof));
    }
}

#[test]
fn dhcp_is_untracked_where_a_client_runs_and_only_in_its_direction() {
    let v4 = |src, dst| {
        frame(&tuple("192.0.2.254", src, "192.0.2.77", dst, protocol::UDP), 64, b"offer")
    };
    let v6 = |from, src, dst| frame(&tuple(from, src, "fe80::9", dst, protocol::UDP), 64, b"offer");
    let mut client = interface();
    client.dhcp = true;
    let rows = [
        (v4(67, 68), Kind::Untracked, Kind::Flow),
        (v4(68, 67), Kind::Flow, Kind::Untracked),
        (v4(67, 69), Kind::Flow, Kind::Flow),
        (v6("fe80::1", 547, 546), Kind::Untracked, Kind::Flow),
        (v6("fe80::1", 546, 547), Kind::Flow, Kind::Untracked),
        (v6("2001:db8::9", 547, 546), Kind::Flow, Kind::Flow),
    ];
    for (bytes, wire, host) in rows {
        let kind =
            |interface: &Interface, origin| parse(&bytes, interface, origin, true).unwrap().kind;
        assert_eq!(kind(&client, Origin::Wire), wire);
        assert_eq!(kind(&client, Origin::Host), host);
        assert_eq!(kind(&interface(), Origin::Wire), Kind::Flow);
    }
    let mut wrong = v4(67, 68);
    wrong[40] ^= 1;
    assert_eq!(parse(&wrong, &client, Origin::Wire, true).unwrap().kind, Kind::Invalid);
}

fn arp_frame(operation: u8, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut frame = [&[0xff; 6][..], &PEER.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]].concat();
    frame.extend(PEER.0);
    frame.extend(sender);
    frame.extend([0; 6]);
    frame.extend(target);
    frame
}

#[test]
fn arp_passes_unless_it_cannot_be_right() {
    // C171.
    let ours = [192, 0, 2, 1];
    let ok = |result: Result<Headers, DropReason>| match result {
        Ok(headers) => headers.kind == Kind::Arp,
        Err(reason) => {
            assert_eq!(reason, DropReason::ArpInvalid);
            false
        }
    };
    let rows = [
        ("request for us", arp_frame(1, [192, 0, 2, 9], ours), true),
        ("reply", arp_frame(2, [192, 0, 2, 9], ours), true),
        ("gratuitous", arp_frame(1, [192, 0, 2, 9], [192, 0, 2, 9]), true),
        ("probe", arp_frame(1, [0; 4], ours), true),
        ("reply from nobody", arp_frame(2, [0; 4], ours), false),
        ("claim of our address, asked", arp_frame(1, ours, ours), false),
        ("claim of our address, told", arp_frame(2, ours, [192, 0, 2, 9]), false),
        ("off-subnet", arp_frame(2, [10, 0, 0, 9], ours), false),
        ("multicast sender", arp_frame(2, [224, 0, 0, 9], ours), false),
        ("RARP", arp_frame(3, [192, 0, 2, 9], ours), false),
    ];
    for (name, bytes, expect) in rows {
        assert_eq!(ok(on_wire(&bytes)), expect, "{name}");
        for end in 14..bytes.len() {
            assert!(!ok(on_wire(&bytes[..end])));
        }
    }
    assert!(ok(from_host(&arp_frame(1, ours, ours))), "our own announcement");
    let good = arp_frame(2, [192, 0, 2, 9], ours);
    for (at, value) in [(15, 6), (16, 9), (18, 8), (19, 16), (22, 1)] {
        let mut bad = good.clone();
        bad[at] = value;
        assert!(!ok(on_wire(&bad)), "byte {at}");
    }
    let mut nobody = good.clone();
    nobody[22..28].fill(0);
    assert!(!ok(on_wire(&nobody)));
    // No network known: nobody is off-subnet, but we are still ourselves.
    let mut alone = interface();
    let anyone = arp_frame(2, [10, 0, 0, 9], ours);
    alone.addresses = Box::new([]);
    assert!(ok(parse(&anyone, &alone, Origin::Wire, true)));
    alone.addresses =
        Box::new([crate::snapshot::InterfaceAddress { address: IpAddr::from(ours), length: 32 }]);
    assert!(ok(parse(&anyone, &alone, Origin::Wire, true)));
    assert!(!ok(parse(&arp_frame(2, ours, ours), &alone, Origin::Wire, true)));
}

#[test]
fn frames_cut_anywhere_never_pass_as_whole() {
    // C162: cut at every byte; the IP length then lies, so nothing shorter than the packet is accepted.
    for base in every_tuple().iter().flat_map(|t| [frame(t, 64, b"0123456789"), error_about(t)]) {
        for end in 0..base.len() {
            for origin in [Origin::Wire, Origin::Host] {
                assert!(parse(&base[..end], &interface(), origin, true).is_err(), "{end}");
            }
        }
    }
    // The same with lengths that agree with the cut.
    for base in every_tuple().iter().flat_map(|t| [frame(t, 64, b""), error_about(t)]) {
        for end in 34..base.len() {
            let mut cut = base[..end].to_vec();
            if cut[12..14] == [8, 0] {
                cut[16..18].copy_from_slice(&((end - 14) as u16).to_be_bytes());
            } else if end >= 54 {
                cut[18..20].copy_from_slice(&((end - 54) as u16).to_be_bytes());
            }
            // The IPv4 header's checksum only: cut the frame, so that mending stops there.
            mend(&mut cut[..34]);
            match parse(&cut, &interface(), Origin::Wire, true) {
                Ok(headers) => {
                    let bare = !crate::steering::has_ids(headers.protocol);
                    assert!(
                        bare || headers.kind == Kind::Invalid
                            || headers.protocol == 132
                            || end == base.len()
                    );
                }
                Err(reason) => assert!(matches!(
                    reason,
                    DropReason::TruncatedTransport
                        | DropReason::Ipv6Header
                        | DropReason::IcmpErrorQuote
                )),
            }
        }
    }
}

#[test]
fn every_reason_of_parsing_is_reached() {
    use DropReason::*;
    let mut seen = BTreeSet::new();
    let mut see = |frame: &[u8]| match on_wire(frame) {
        Ok(headers) => seen.extend(headers.invalid),
        Err(reason) => drop(seen.insert(reason)),
    };
    // Every byte of the headers changed in a few ways, checksums left wrong and mended.
    let mut bases: Vec<_> =
        every_tuple().iter().flat_map(|t| [frame(t, 64, b"01"), error_about(t)]).collect();
    bases.push(arp_frame(1, [192, 0, 2, 9], [192, 0, 2, 1]));
    bases.push(frame_with(&udp4(), 64, &[148, 4, 0, 0], b"x"));
    bases.push(icmp_frame("fe80::1", "ff02::1", 255, (135, 0, 0), &[0; 24]));
    for base in bases {
        see(&base[..10]);
        see(&[&base[..], &[0; 1600]].concat());
        for at in 0..base.len().min(110) {
            for value in [0, 1, 2, 3, 5, 11, 17, 42, 43, 44, 131, 60, 0x41, 0x81, 0xff] {
                let mut frame = base.clone();
                frame[at] = value;
                see(&frame);
                mend(&mut frame);
                see(&frame);
            }
        }
    }
    see(&[&OURS.0[..], &PEER.0, &[0x81, 0, 0, 1]].concat());
    let zero = tuple("198.51.100.7", 0, "192.0.2.1", 80, protocol::UDP);
    see(&frame(&zero, 64, b"x"));
    let expected = [
        TruncatedEthernet,
        ForeignMac,
        VlanTagged,
        UnknownEtherType,
        FrameTooBig,
        ArpInvalid,
        Ipv4Header,
        Ipv4Checksum,
        Ipv4SourceRoute,
        Ipv4Options,
        Ipv6Header,
        Ipv6Extension,
        Fragment,
        TtlZero,
        TruncatedTransport,
        PortZero,
        TransportChecksum,
        TcpFlags,
        IcmpErrorUnrelated,
        IcmpErrorQuote,
        IcmpErrorNested,
        IcmpRedirect,
        IcmpNotQuery,
        NeighbourSpoof,
    ];
    let missing: Vec<_> = expected.iter().filter(|r| !seen.contains(r)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(seen.len(), expected.len(), "{seen:?}");
}

/// What must hold of any result, whatever the bytes: later steps rely on it.
fn assert_sound(bytes: &[u8], headers: &Headers) {
    let end = usize::from(headers.l3) + usize::from(headers.ip_len);
    assert!(headers.l3 == 14 && end <= bytes.len());
    assert_eq!(headers.kind == Kind::Invalid, headers.invalid.is_some());
    if headers.kind == Kind::Arp {
        return;
    }
    assert!(headers.ttl != 0 && headers.l3 < headers.l4 && usize::from(headers.l4) <= end);
    let (src, dst) = addresses(bytes, headers).unwrap();
    let tuple = headers.tuple;
    assert_eq!((tuple.zone(), src.is_ipv4()), (0, headers.is_v4()));
    if headers.kind == Kind::IcmpError {
        assert_eq!(tuple.dst(), dst);
        assert!(headers.quote_l3 == headers.l4 + 8 && headers.quote_l4 > headers.quote_l3);
        assert!(usize::from(headers.quote_l4) <= end);
    } else if headers.kind == Kind::Fragment {
        assert_eq!((tuple.src(), tuple.dst()), (src, dst));
        assert!(usize::from(headers.l4) < end, "it brings something");
    } else {
        assert_eq!((tuple.src(), tuple.dst(), tuple.protocol()), (src, dst, headers.protocol));
        if matches!(headers.protocol, 6 | 17 | 132 | 136) {
            assert!(tuple.src_id() != 0 && tuple.dst_id() != 0);
        }
    }
    if headers.kind == Kind::Tcp {
        let segment = headers.ip_len + headers.l3 - headers.l4;
        assert_eq!(headers.tcp.payload_len + u16::from(headers.tcp.header_len), segment);
    }
}

/// etherparse's view of a frame: addresses, protocol, ports.
fn oracle(bytes: &[u8]) -> Option<(IpAddr, IpAddr, u8, u16, u16)> {
    let packet = decode(bytes);
    let (src, dst, protocol) = match packet.net? {
        NetSlice::Ipv4(ip) => (
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
            ip.payload_ip_number(),
        ),
        NetSlice::Ipv6(ip) => (
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
            ip.payload().ip_number,
        ),
        NetSlice::Arp(_) => return None,
    };
    let (src_port, dst_port) = match packet.transport {
        Some(TransportSlice::Tcp(t)) => (t.source_port(), t.destination_port()),
        Some(TransportSlice::Udp(u)) => (u.source_port(), u.destination_port()),
        _ => (0, 0),
    };
    Some((src, dst, protocol.0, src_port, dst_port))
}

fn any_tuple() -> impl Strategy<Value = Tuple> {
    let protocols = prop::sample::select(vec![6u8, 17, 132, 136, 1, 58, 47, 253]);
    (any::<[u8; 16]>(), any::<[u8; 16]>(), any::<bool>(), 1u16.., 1u16.., protocols).prop_map(
        |(src, dst, v4, src_id, dst_id, protocol)| {
            let cut = |b: [u8; 16]| [b[0], b[1], b[2], b[3]];
            let (src, dst) = if v4 {
                (IpAddr::from(cut(src)), IpAddr::from(cut(dst)))
            } else {
                (IpAddr::from(src), IpAddr::from(dst))
            };
            let (protocol, dst_id) = match (protocol, v4) {
                (1 | 58, true) => (1, 8 << 8),
                (1 | 58, false) => (58, 128 << 8),
                (p, _) => (p, dst_id),
            };
            let ids = if matches!(protocol, 47 | 253) { (0, 0) } else { (src_id, dst_id) };
            Tuple::new(src, dst, ids.0, ids.1, protocol).unwrap()
        },
    )
}

proptest! {
    #[test]
    fn agrees_with_etherparse_on_valid_packets(tuple in any_tuple(), ttl in 1u8.., payload: Vec<u8>) {
        let bytes = frame(&tuple, ttl, &payload);
        let headers = on_wire(&bytes).unwrap();
        assert_sound(&bytes, &headers);
        prop_assert_eq!(headers.tuple, tuple);
        prop_assert_eq!((headers.ttl, headers.invalid), (ttl, None));
        let (src, dst, protocol, src_port, dst_port) = oracle(&bytes).unwrap();
        prop_assert_eq!((src, dst, protocol), (tuple.src(), tuple.dst(), headers.protocol));
        if matches!(protocol, 6 | 17) && headers.kind != Kind::Fragment {
            prop_assert_eq!((src_port, dst_port), (tuple.src_id(), tuple.dst_id()));
        }
    }

    #[test]
    fn noise_never_panics(bytes: Vec<u8>, kind in 0usize..4, verify: bool, host: bool) {
        let kinds = [[8u8, 0], [8, 6], [0x86, 0xdd], [0x81, 0]];
        let frame = [&OURS.0[..], &PEER.0, &kinds[kind], &bytes].concat();
        let origin = if host { Origin::Host } else { Origin::Wire };
        for frame in [&frame[..], &bytes] {
            if let Ok(headers) = parse(frame, &interface(), origin, verify) {
                assert_sound(frame, &headers);
            }
        }
    }

    #[test]
    fn mutated_packets_never_panic_and_results_stay_sound(
        tuple in any_tuple(),
        error: bool,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        keep: bool,
        mended: bool,
    ) {
        let mut bytes = if error { error_about(&tuple) } else { frame(&tuple, 64, b"0123456789") };
        for (at, value) in changes {
            // The Ethernet header has been dealt with.
            let at = 14 + at.index(bytes.len() - 14);
            bytes[at] = value;
        }
        if mended {
            mend(&mut bytes);
        }
        if !keep {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        for (origin, verify) in [(Origin::Wire, true), (Origin::Wire, false), (Origin::Host, false)] {
            if let Ok(headers) = parse(&bytes, &interface(), origin, verify) {
                assert_sound(&bytes, &headers);
            }
        }
    }
}
