//! Translated packets byte for byte against packets that etherparse builds in translated form.

use core::net::IpAddr;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::burst::Origin;
use crate::conntrack::tuple::FamilyTuple;
use crate::headers::Kind;
use crate::parse::parse;
use crate::wire::testing::*;

const TTL: u8 = 64;

fn parsed(frame: &[u8]) -> Headers {
    let mut interface = interface();
    interface.mtu = 9000;
    parse(frame, &interface, Origin::Wire, true).unwrap()
}

fn flow(bytes: &mut [u8], headers: &Headers, to: &Tuple, deltas: Deltas, ttl: TtlChange) {
    match to {
        Tuple::V4(to) => flow_v4(bytes, headers, to, deltas, ttl),
        Tuple::V6(to) => flow_v6(bytes, headers, to, deltas, ttl),
    }
}

/// Translates and forwards, as the pipeline does.
fn translated(frame: &[u8], to: &Tuple) -> Vec<u8> {
    let headers = parsed(frame);
    let mut out = frame.to_vec();
    flow(&mut out, &headers, to, deltas(&headers.tuple, to), TtlChange::Decrement);
    out
}

/// Of each protocol and family: a tuple and what it becomes, as masquerading or a port forward would.
fn pairs() -> Vec<(Tuple, Tuple)> {
    use protocol::*;
    let mut all = Vec::new();
    for (a, b, c, d, icmp, echo) in [
        ("10.0.0.2", "198.51.100.9", "203.0.113.5", "192.168.77.8", ICMP, 8u16 << 8),
        ("fd00::2", "2001:db8:9::9", "2001:db8:ffff::5", "fd00:7::8", ICMPV6, 128 << 8),
    ] {
        for protocol in [TCP, UDP, UDP_LITE, SCTP] {
            let from = tuple(a, 5000, b, 80, protocol);
            all.push((from, tuple(c, 61_234, b, 80, protocol)));
            all.push((from, tuple(a, 5000, d, 8080, protocol)));
            all.push((from, tuple(c, 1, d, 2, protocol)));
            all.push((from, tuple(a, 5000, b, 8080, protocol)));
        }
        all.push((tuple(a, 0x4711, b, echo, icmp), tuple(c, 7, b, echo, icmp)));
        all.push((tuple(a, echo, b, 0x4711, icmp), tuple(a, echo, d, 0, icmp)));
        all.push((tuple(a, 0, b, 0, GRE), tuple(c, 0, b, 0, GRE)));
        all.push((tuple(a, 0, b, 0, ESP), tuple(c, 0, d, 0, ESP)));
        all.push((tuple(a, 0, b, 0, 253), tuple(a, 0, d, 0, 253)));
    }
    all
}

#[test]
fn a_translated_packet_is_as_if_built_so() {
    // C034, C140, C146: all else is the same, since the whole frame is.
    for (from, to) in pairs() {
        for payload in [&b""[..], b"x", b"0123456789"] {
            let out = translated(&frame(&from, TTL, payload), &to);
            assert_eq!(out, frame(&to, TTL - 1, payload), "{from:?} to {to:?}");
            decode(&out);
        }
    }
}

#[test]
fn the_way_back_uses_the_same_deltas_reversed() {
    for (from, to) in pairs() {
        let reply = to.inverted();
        let mut bytes = frame(&reply, TTL, b"answer");
        let headers = parsed(&bytes);
        let back = deltas(&from, &to).reversed();
        flow(&mut bytes, &headers, &from.inverted(), back, TtlChange::Keep);
        assert_eq!(bytes, frame(&from.inverted(), TTL, b"answer"), "{reply:?}");
    }
}

#[test]
fn untranslated_packets_change_ttl_and_header_checksum_only() {
    // C140.
    for (tuple, _) in pairs() {
        for ttl in [2, 64, 128, 255] {
            let before = frame(&tuple, ttl, b"payload");
            assert_eq!(translated(&before, &tuple), frame(&tuple, ttl - 1, b"payload"));
            let mut kept = before.clone();
            let headers = parsed(&before);
            flow(&mut kept, &headers, &tuple, deltas(&tuple, &tuple), TtlChange::Keep);
            assert_eq!(kept, before);
        }
        assert_eq!(deltas(&tuple, &tuple), Deltas::default());
        assert_eq!(deltas(&tuple, &tuple).reversed(), Deltas::default());
    }
}

#[test]
fn a_udp_checksum_of_zero_stays_zero_both_ways() {
    // C042; RFC 3022 §4.1.
    let from = tuple("10.0.0.2", 5000, "198.51.100.9", 53, protocol::UDP);
    let to = tuple("203.0.113.5", 61_234, "198.51.100.9", 53, protocol::UDP);
    for (from, to) in [(from, to), (to.inverted(), from.inverted())] {
        let mut none = frame(&from, TTL, b"query");
        none[40..42].fill(0);
        let mut expected = frame(&to, TTL - 1, b"query");
        expected[40..42].fill(0);
        assert_eq!(translated(&none, &to), expected);
    }
}

#[test]
fn a_udp_checksum_that_becomes_zero_goes_out_as_all_ones() {
    // RFC 768. The payload is chosen so that the translated datagram sums to zero's complement.
    for (from, to) in pairs().into_iter().filter(|(a, _)| a.protocol() == protocol::UDP) {
        let l4 = if matches!(to, Tuple::V4(_)) { 34 } else { 54 };
        let plain = frame(&to, TTL, &[0, 0]);
        let checksum = [plain[l4 + 6], plain[l4 + 7]];
        let expected = frame(&to, TTL - 1, &checksum);
        assert_eq!(expected[l4 + 6..l4 + 8], [0xff, 0xff], "etherparse's zero");
        assert_eq!(translated(&frame(&from, TTL, &checksum), &to), expected);
        // And onwards from there.
        assert_eq!(translated(&expected, &from), frame(&from, TTL - 2, &checksum));
    }
}

#[test]
fn a_wrong_checksum_leaves_as_wrong_as_it_came() {
    for (from, to) in pairs().into_iter().filter(|(a, _)| a.protocol() == protocol::TCP) {
        let l4 = if matches!(to, Tuple::V4(_)) { 34 } else { 54 };
        let mut bytes = frame(&from, TTL, b"payload");
        let headers = parsed(&bytes);
        // Corrupted on the way: payload, not checksum.
        *bytes.last_mut().unwrap() ^= 0x20;
        flow(&mut bytes, &headers, &to, deltas(&from, &to), TtlChange::Decrement);
        let mut expected = frame(&to, TTL - 1, b"payload");
        *expected.last_mut().unwrap() ^= 0x20;
        assert_eq!(bytes, expected);
        assert_eq!(headers.l4, l4);
    }
}

#[test]
fn icmp_checksums_cover_addresses_in_ipv6_only() {
    let deltas = |a: &str, b: &str, id: u16, protocol, echo: u16| {
        deltas(&tuple(a, 1, b, echo, protocol), &tuple(b, id, a, echo, protocol))
    };
    let v4 = deltas("10.0.0.1", "10.9.0.2", 1, protocol::ICMP, 8 << 8);
    assert_eq!(v4.l4, 0);
    let swapped = deltas("fd00::1", "fd00::2", 3, protocol::ICMPV6, 128 << 8);
    assert_eq!((swapped.l3, apply(0x1234, swapped.l4)), (0, apply(0x1234, 2)));
}

/// An ICMP error from `src` to the sender of `quoted`, quoting `len` bytes of its packet.
fn error(src: IpAddr, dst: IpAddr, ttl: u8, quoted: &[u8]) -> Vec<u8> {
    let (src, dst) = (std::format!("{src}"), std::format!("{dst}"));
    // Fragmentation needed with an MTU (C054), packet too big.
    let kind = if quoted[0] >> 4 == 4 { (3, 4, 1400) } else { (2, 0, 1400) };
    icmp_frame(&src, &dst, ttl, kind, quoted)
}

/// `router` tells the translated end about the packet that it knows as `outside`; `inside` is what the
/// packet was before translation. If `router` is an end itself, it is translated too.
fn check_error(outside: &Tuple, inside: &Tuple, router: (IpAddr, IpAddr), change: fn(&mut [u8])) {
    let packet = |tuple: &Tuple| {
        let mut packet = frame(tuple, 9, b"0123456789ab").split_off(14);
        change(&mut packet);
        packet
    };
    let (seen, meant) = (packet(outside), packet(inside));
    let header_len = if outside.src().is_ipv4() { 20 } else { 40 };
    for len in header_len + 8..=seen.len() {
        match (outside.protocol(), len - header_len) {
            (protocol::TCP, 17) | (protocol::SCTP, 9..=11) => continue, // half a checksum
            _ => {}
        }
        let before = error(router.0, outside.src(), TTL, &seen[..len]);
        let headers = parsed(&before);
        assert_eq!((headers.kind, headers.tuple), (Kind::IcmpError, outside.inverted()));
        let plan = ErrorPlan {
            src: (router.0 != router.1).then_some(router.1),
            dst: (outside.src() != inside.src()).then_some(inside.src()),
            quote: *inside,
            ttl: TtlChange::Decrement,
        };
        let mut out = before;
        icmp_error(&mut out, &headers, &plan);
        let expected = error(router.1, inside.src(), TTL - 1, &meant[..len]);
        assert_eq!(out, expected, "{outside:?} to {inside:?}, {len} bytes");
        decode(&out);
    }
}

#[test]
fn an_error_is_translated_outside_and_inside() {
    // C052, C062 (echo), C063, C070: from the other end; C053, C054, C071: from a router, whose address stays.
    for (inside, outside) in pairs() {
        if inside.src() != outside.src() && inside.dst() == outside.dst() {
            check_error(&outside, &inside, (outside.dst(), outside.dst()), |_| {});
        }
        // A translated end reports: its address is the quote's destination on either side.
        check_error(&outside, &inside, (outside.dst(), inside.dst()), |_| {});
        check_error(&inside, &outside, (inside.dst(), outside.dst()), |_| {});
        let router = if inside.src().is_ipv4() { ip("100.64.0.1") } else { ip("2001:db8:fe::1") };
        check_error(&outside, &inside, (router, router), |_| {});
        check_error(&inside, &outside, (router, router), |_| {});
    }
}

#[test]
fn a_quoted_udp_checksum_of_zero_stays_zero() {
    // C067.
    let inside = tuple("10.0.0.2", 5000, "198.51.100.9", 53, protocol::UDP);
    let outside = tuple("203.0.113.5", 61_234, "198.51.100.9", 53, protocol::UDP);
    let router = (ip("100.64.0.1"), ip("100.64.0.1"));
    check_error(&outside, &inside, router, |packet| packet[26..28].fill(0));
}

#[test]
fn a_quote_with_options_is_translated_behind_them() {
    let inside = tuple("10.0.0.2", 5000, "198.51.100.9", 80, protocol::TCP);
    let outside = tuple("203.0.113.5", 61_234, "198.51.100.9", 80, protocol::TCP);
    let packet = |tuple: &Tuple| frame_with(tuple, 9, &[148, 4, 0, 0], b"").split_off(14);
    let mut out = error(ip("100.64.0.1"), outside.src(), TTL, &packet(&outside));
    let headers = parsed(&out);
    let plan =
        ErrorPlan { src: None, dst: Some(inside.src()), quote: inside, ttl: TtlChange::Keep };
    icmp_error(&mut out, &headers, &plan);
    assert_eq!(out, error(ip("100.64.0.1"), inside.src(), TTL, &packet(&inside)));
}

#[test]
fn bytes_behind_the_packet_are_left_alone() {
    let inside = tuple("10.0.0.2", 5000, "198.51.100.9", 80, protocol::TCP);
    let outside = tuple("203.0.113.5", 61_234, "198.51.100.9", 80, protocol::TCP);
    // 28 bytes of a TCP packet: its checksum would stand in the padding.
    let quote = |tuple: &Tuple| frame(tuple, 9, b"").split_off(14)[..28].to_vec();
    let padded = |tuple: &Tuple| {
        let mut bytes = error(ip("100.64.0.1"), tuple.src(), TTL, &quote(tuple));
        bytes.extend([0xaa; 20]);
        bytes
    };
    let mut out = padded(&outside);
    let headers = parsed(&out);
    let plan =
        ErrorPlan { src: None, dst: Some(inside.src()), quote: inside, ttl: TtlChange::Keep };
    icmp_error(&mut out, &headers, &plan);
    assert_eq!(out, padded(&inside));
}

fn any_pair() -> impl Strategy<Value = (Tuple, Tuple)> {
    let protocols = prop::sample::select(vec![6u8, 17, 132, 136, 1, 47]);
    let ids = (1u16.., 1u16.., 1u16.., 1u16..);
    (any::<[[u8; 16]; 4]>(), any::<bool>(), ids, protocols).prop_map(|(addresses, v4, ids, p)| {
        let address = |i: usize| {
            let b: [u8; 16] = addresses[i];
            if v4 { IpAddr::from([b[0], b[1], b[2], b[3]]) } else { IpAddr::from(b) }
        };
        let (protocol, ids) = match (p, v4) {
            (1, true) => (1, (ids.0, 8 << 8, ids.2, 8 << 8)),
            (1, false) => (58, (ids.0, 128 << 8, ids.2, 128 << 8)),
            (47, _) => (47, (0, 0, 0, 0)),
            _ => (p, ids),
        };
        let new = |a, b, c, d| Tuple::new(address(a), address(b), c, d, protocol).unwrap();
        (new(0, 1, ids.0, ids.1), new(2, 3, ids.2, ids.3))
    })
}

proptest! {
    #[test]
    fn any_translation_is_as_if_built_so((from, to) in any_pair(), ttl in 2u8.., payload: Vec<u8>) {
        let out = translated(&frame(&from, ttl, &payload), &to);
        prop_assert_eq!(&out, &frame(&to, ttl - 1, &payload));
        decode(&out);
        let back = translated(&out, &from);
        prop_assert_eq!(back, frame(&from, ttl.wrapping_sub(2), &payload));
    }

    #[test]
    fn any_error_is_as_if_built_so((inside, outside) in any_pair()) {
        check_error(&outside, &inside, (outside.dst(), inside.dst()), |_| {});
    }

    #[test]
    fn headers_of_other_bytes_do_no_harm((from, to) in any_pair(), bytes: Vec<u8>, l3: u16, l4: u16,
                                         ip_len: u16, quote: (u16, u16), icmp_type: u8) {
        let headers = Headers {
            tuple: from, l3: l3 % 100, l4: l4 % 100, ip_len: ip_len % 200, quote_l3: quote.0 % 100,
            quote_l4: quote.1 % 100, protocol: from.protocol(), icmp_type, ..Headers::default()
        };
        let mut out = bytes;
        let plan = ErrorPlan {
            src: Some(to.src()), dst: Some(from.dst()), quote: to, ttl: TtlChange::Decrement,
        };
        flow(&mut out, &headers, &to, deltas(&from, &to), TtlChange::Decrement);
        icmp_error(&mut out, &headers, &plan);
        match (from, to) {
            (Tuple::V4(a), _) => { prop_assert_eq!(Tuple::from(a.inverted()), from.inverted()); }
            (Tuple::V6(a), _) => { prop_assert_eq!(Tuple::from(a.inverted()), from.inverted()); }
        }
    }
}
