//! What we originate, decoded by etherparse with every checksum verified.

use std::format;
use std::vec;
use std::vec::Vec;

use etherparse::{LinkSlice, NetSlice, TransportSlice};
use proptest::prelude::*;

use super::*;
use crate::burst::{Origin, Seen, Visit};
use crate::conntrack::tuple::{Tuple, protocol};
use crate::parse::parse;
use crate::units::InterfaceId;
use crate::wire::testing::*;

const HEADROOM: usize = 64;

/// Space before and behind a frame.
struct Room {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Room {
    fn new(before: usize, frame: &[u8], behind: usize) -> Self {
        let bytes = [&vec![0xee; before], frame, &vec![0xee; behind]].concat();
        Self { bytes, start: before, len: frame.len() }
    }

    fn packet(&mut self) -> Packet<'_> {
        Packet {
            room: &mut self.bytes,
            start: self.start,
            len: self.len,
            interface: InterfaceId(0),
            origin: Origin::Wire,
            seen: Seen::Unseen,
            parsed: Some(Headers::default()),
            visit: Visit::default(),
        }
    }
}

fn headers_of(frame: &[u8]) -> Headers {
    let mut interface = interface();
    interface.mtu = 9000;
    parse(frame, &interface, Origin::Wire, true).unwrap()
}

fn our_address(frame: &[u8]) -> IpAddr {
    if frame[12] == 8 { ip("192.0.2.1") } else { ip("2001:db8::1") }
}

fn error_in(
    room: &mut Room,
    headers: &Headers,
    what: IcmpErrorKind,
) -> Result<Vec<u8>, DropReason> {
    let source = if headers.is_v4() { ip("192.0.2.1") } else { ip("2001:db8::1") };
    let mut packet = room.packet();
    icmp_error(&mut packet, headers, what, source, OURS)?;
    assert!(packet.parsed.is_none());
    Ok(packet.bytes().to_vec())
}

fn error_about(frame: &[u8], what: IcmpErrorKind) -> Result<Vec<u8>, DropReason> {
    error_in(&mut Room::new(HEADROOM, frame, 0), &headers_of(frame), what)
}

fn reset_for(frame: &[u8]) -> Result<Vec<u8>, DropReason> {
    let mut room = Room::new(HEADROOM, frame, 0);
    let mut packet = room.packet();
    tcp_reset(&mut packet, &headers_of(frame), OURS)?;
    Ok(packet.bytes().to_vec())
}

/// Type, code and second word of an ICMP message; asserts addresses, MACs, TTL and checksums, and that it
/// quotes the beginning of `about`.
fn read_error(bytes: &[u8], about: &[u8]) -> (u8, u8, u32) {
    let packet = decode(bytes);
    let Some(LinkSlice::Ethernet2(ethernet)) = &packet.link else { panic!("no Ethernet") };
    assert_eq!((ethernet.source(), ethernet.destination()), (OURS.0, PEER.0));
    let asked = headers_of(about);
    let (to, _) = addresses(about, &asked).unwrap();
    let message = match (packet.net.as_ref().unwrap(), packet.transport.as_ref().unwrap()) {
        (NetSlice::Ipv4(ip), TransportSlice::Icmpv4(icmp)) => {
            let header = ip.header();
            assert_eq!(
                (IpAddr::from(header.source()), IpAddr::from(header.destination())),
                (our_address(about), to)
            );
            assert_eq!(
                (header.ttl(), header.dont_fragment(), header.identification()),
                (64, true, 0)
            );
            // RFC 1812 §4.3.2.5: precedence 6, the other bits as asked; no ECN.
            assert_eq!(about[15] & 0x1c | 0xc0, bytes[15]);
            assert!(header.total_len() <= 576);
            icmp.slice().to_vec()
        }
        (NetSlice::Ipv6(ip), TransportSlice::Icmpv6(icmp)) => {
            let header = ip.header();
            assert_eq!(
                (IpAddr::from(header.source()), IpAddr::from(header.destination())),
                (our_address(about), to)
            );
            assert_eq!((header.hop_limit(), header.traffic_class()), (64, 0));
            assert!(40 + header.payload_length() <= 1280);
            icmp.slice().to_vec()
        }
        other => panic!("{other:?}"),
    };
    let quote = &message[8..];
    assert_eq!(quote, &about[14..14 + quote.len()]);
    let word = u32::from_be_bytes(message[4..8].try_into().unwrap());
    (message[0], message[1], word)
}

fn some_frames() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (src, dst) in [("198.51.100.7", "203.0.113.9"), ("2001:db8:7::7", "2001:db8:9::9")] {
        for protocol in [protocol::TCP, protocol::UDP, protocol::GRE] {
            let ids = if protocol == protocol::GRE { (0, 0) } else { (5000, 80) };
            for len in [0, 1, 100, 519, 520, 521, 1193, 1400] {
                all.push(frame(&tuple(src, ids.0, dst, ids.1, protocol), 1, &vec![7; len]));
            }
        }
        let (icmp, echo) = if src.contains(':') { (58, 128 << 8) } else { (1, 8 << 8) };
        all.push(frame(&tuple(src, 77, dst, echo, icmp), 1, b"ping"));
    }
    all
}

#[test]
fn errors_quote_the_original_and_go_back_where_it_came_from() {
    use IcmpErrorKind::*;
    // C141, C151: time exceeded; C138, C152: too big, with the MTU.
    let rows = [
        (TimeExceeded, (11, 0, 0), (3, 0, 0)),
        (PacketTooBig { mtu: 1400 }, (3, 4, 1400), (2, 0, 1400)),
        (NetUnreachable, (3, 0, 0), (1, 0, 0)),
        (HostUnreachable, (3, 1, 0), (1, 3, 0)),
        (PortUnreachable, (3, 3, 0), (1, 4, 0)),
        (AdminProhibited, (3, 13, 0), (1, 1, 0)),
        (Reject(RejectKind::PortUnreachable), (3, 3, 0), (1, 4, 0)),
        (Reject(RejectKind::AdminProhibited), (3, 13, 0), (1, 1, 0)),
    ];
    for about in some_frames() {
        for (what, v4, v6) in rows {
            let reply = error_about(&about, what).unwrap();
            let (expected, overhead, max) =
                if about[12] == 8 { (v4, 28, 576) } else { (v6, 48, 1280) };
            assert_eq!(read_error(&reply, &about), expected);
            assert_eq!(reply.len() - 14, (about.len() - 14 + overhead).min(max));
        }
    }
}

#[test]
fn every_reject_of_the_family_is_an_error_and_others_are_none() {
    for about in some_frames() {
        let family = if about[12] == 8 { Family::V4 } else { Family::V6 };
        for kind in RejectKind::ALL {
            let reply = error_about(&about, IcmpErrorKind::Reject(kind));
            match kind.icmp(family) {
                Some((t, c)) => assert_eq!(read_error(&reply.unwrap(), &about), (t, c, 0)),
                None => assert_eq!(reply, Err(DropReason::RejectedByRule)),
            }
        }
    }
}

#[test]
fn padding_is_not_quoted() {
    let short = frame(&tuple("198.51.100.7", 5000, "203.0.113.9", 80, protocol::UDP), 1, b"x");
    let padded = [&short[..], &[0; 17]].concat();
    let expected = error_about(&short, IcmpErrorKind::TimeExceeded).unwrap();
    assert_eq!(error_about(&padded, IcmpErrorKind::TimeExceeded).unwrap(), expected);
}

#[test]
fn the_room_decides_whether_there_is_an_answer() {
    for about in some_frames() {
        let headers = headers_of(&about);
        let expected = error_about(&about, IcmpErrorKind::TimeExceeded).unwrap();
        let grows = expected.len().saturating_sub(about.len());
        for before in 0..HEADROOM {
            // Just enough in all, and one byte less.
            let behind = grows.saturating_sub(before);
            let mut enough = Room::new(before, &about, behind);
            let reply = error_in(&mut enough, &headers, IcmpErrorKind::TimeExceeded);
            assert_eq!(reply.as_ref(), Ok(&expected), "{before}");
            if behind > 0 {
                let mut scant = Room::new(before, &about, behind - 1);
                let untouched = scant.bytes.clone();
                let reply = error_in(&mut scant, &headers, IcmpErrorKind::TimeExceeded);
                assert_eq!(reply, Err(DropReason::NoFrame));
                assert_eq!(scant.bytes, untouched);
            }
        }
    }
}

#[test]
fn no_answer_where_none_is_allowed() {
    use DropReason::*;
    // C147; RFC 1122 §3.2.2, RFC 4443 §2.4 (e).
    let udp = |src: &str, dst: &str| frame(&tuple(src, 5000, dst, 80, protocol::UDP), 1, b"x");
    let refuse = |name: &str, frame: &[u8], reason| {
        assert_eq!(error_about(frame, IcmpErrorKind::TimeExceeded), Err(reason), "{name}");
        assert_eq!(reset_for(frame), Err(reason), "{name}");
    };
    let good = udp("198.51.100.7", "203.0.113.9");
    let quoting = icmp_frame("203.0.113.1", "198.51.100.7", 1, (3, 1, 0), &good[14..]);
    refuse("an error", &quoting, IcmpErrorNested);
    let good6 = udp("2001:db8:7::7", "2001:db8:9::9");
    let quoting = icmp_frame("2001:db8:fe::1", "2001:db8:7::7", 1, (2, 0, 1280), &good6[14..]);
    refuse("an ICMPv6 error", &quoting, IcmpErrorNested);
    let unknown = icmp_frame("203.0.113.1", "198.51.100.7", 1, (42, 0, 0), &[0; 8]);
    refuse("an unknown ICMP type", &unknown, IcmpErrorNested);
    let unknown = icmp_frame("2001:db8:fe::1", "2001:db8:7::7", 1, (100, 0, 0), &good6[14..]);
    refuse("an unknown ICMPv6 error", &unknown, IcmpErrorNested);
    for dst in ["224.0.0.5", "255.255.255.255", "0.0.0.0", "ff02::1", "::"] {
        let src = if dst.contains(':') { "2001:db8:7::7" } else { "198.51.100.7" };
        refuse(dst, &udp(src, dst), MartianDestination);
    }
    for src in [
        "0.0.0.0",
        "127.0.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "ff02::1",
    ] {
        let dst = if src.contains(':') { "2001:db8:9::9" } else { "203.0.113.9" };
        refuse(src, &udp(src, dst), MartianSource);
    }
    for group in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
        let mut frame = good.clone();
        frame[..6].copy_from_slice(&group);
        refuse("a link-layer broadcast", &frame, MartianDestination);
    }
    let mut wrong = good.clone();
    wrong[40] ^= 1;
    refuse("a wrong checksum", &wrong, TransportChecksum);
    // The parser lets no fragment through; should it one day, still no answer to a later one.
    let headers = headers_of(&good);
    let mut later = good.clone();
    later[21] = 1;
    let reply = error_in(&mut Room::new(64, &later, 0), &headers, IcmpErrorKind::TimeExceeded);
    assert_eq!(reply, Err(Fragment));
    let source = ip("2001:db8::1");
    let mut room = Room::new(64, &good, 0);
    let reply = icmp_error(&mut room.packet(), &headers, IcmpErrorKind::TimeExceeded, source, OURS);
    assert_eq!(reply, Err(NoExternalAddress));
    assert_eq!(reset_for(&good), Err(RejectedByRule), "UDP has no reset");
}

/// Flags of the offending segment, payload; what the reset says.
struct Reset {
    flags: u8,
    payload: usize,
    expect: Option<(u32, u32, bool)>,
}

#[test]
fn resets_follow_rfc_9293() {
    use crate::headers::tcp_flags::*;
    // The segment has SEQ 1000 and ACK 77. RFC 9293 §3.10.7.1.
    let rows = [
        Reset { flags: SYN, payload: 0, expect: Some((0, 1001, true)) },
        Reset { flags: SYN, payload: 5, expect: Some((0, 1006, true)) },
        Reset { flags: SYN | ACK, payload: 0, expect: Some((77, 0, false)) },
        Reset { flags: ACK, payload: 9, expect: Some((77, 0, false)) },
        Reset { flags: FIN | ACK, payload: 0, expect: Some((77, 0, false)) },
        Reset { flags: FIN, payload: 3, expect: Some((0, 1004, true)) },
        Reset { flags: 0, payload: 3, expect: Some((0, 1003, true)) },
        Reset { flags: RST, payload: 0, expect: None },
        Reset { flags: RST | ACK, payload: 0, expect: None },
    ];
    for (src, dst) in [("198.51.100.7", "203.0.113.9"), ("2001:db8:7::7", "2001:db8:9::9")] {
        for Reset { flags, payload, expect } in &rows {
            let change = |h: &mut etherparse::TcpHeader| {
                (h.syn, h.ack, h.fin, h.rst) =
                    (flags & SYN != 0, flags & ACK != 0, flags & FIN != 0, flags & RST != 0);
                h.acknowledgment_number = 77;
            };
            let wanted = tuple(src, 5000, dst, 80, protocol::TCP);
            let about = tcp_frame(&wanted, change, &vec![7; *payload]);
            let reply = reset_for(&about);
            let Some((seq, ack, has_ack)) = *expect else {
                assert_eq!(reply, Err(DropReason::RejectedByRule));
                continue;
            };
            let reply = reply.unwrap();
            let packet = decode(&reply);
            let Some(TransportSlice::Tcp(tcp)) = packet.transport else { panic!("no TCP") };
            assert_eq!((tcp.sequence_number(), tcp.acknowledgment_number()), (seq, ack));
            assert_eq!((tcp.ack(), tcp.rst(), tcp.window_size()), (has_ack, true, 0));
            let headers = headers_of(&[&OURS.0[..], &reply[6..]].concat());
            assert_eq!(headers.tuple, wanted.inverted());
            assert_eq!((headers.ttl, headers.tos, headers.dont_fragment), (64, 0, true));
            assert_eq!((&reply[..6], &reply[6..12]), (&PEER.0[..], &OURS.0[..]));
            assert_eq!(reply.len(), usize::from(headers.l4) + 20);
        }
    }
}

#[test]
fn a_reset_needs_no_room_but_the_packets_own() {
    let about = tcp_frame(
        &tuple("198.51.100.7", 1, "203.0.113.9", 2, protocol::TCP),
        |h| h.syn = true,
        b"",
    );
    let mut room = Room::new(0, &about, 0);
    assert_eq!(tcp_reset(&mut room.packet(), &headers_of(&about), OURS), Ok(()));
    assert_eq!(room.bytes.len(), 54);
}

#[test]
fn the_rate_limit_allows_a_burst_and_then_the_rate() {
    // C147.
    let at = |ms: u64| Instant(5_000_000_000 + ms * 1_000_000);
    let taken =
        |limit: &mut RateLimit, ms, tries: u32| (0..tries).filter(|_| limit.take(at(ms))).count();
    let mut limit = RateLimit::new(1000, 50, at(0));
    assert_eq!(taken(&mut limit, 0, 100), 50);
    assert_eq!(taken(&mut limit, 1, 10), 1);
    assert_eq!(taken(&mut limit, 11, 100), 10);
    assert_eq!(taken(&mut limit, 10_000, 100), 50, "no more than the burst is saved");
    assert_eq!(taken(&mut limit, 9_000, 100), 0, "a clock that goes back gives nothing");
    assert_eq!(taken(&mut limit, 10_001, 10), 1);
    let mut steady = RateLimit::new(1000, 50, at(0));
    assert_eq!((0..2000).map(|ms| taken(&mut steady, ms, 7)).sum::<usize>(), 50 + 1999);
    let mut none = RateLimit::new(0, 50, at(0));
    assert_eq!(taken(&mut none, 60_000, 10), 0);
    let mut no_burst = RateLimit::new(1000, 0, at(0));
    assert_eq!(taken(&mut no_burst, 60_000, 10), 0);
}

proptest! {
    #[test]
    fn whatever_parses_is_answered_or_refused_without_a_panic(
        change in prop::collection::vec((14usize..60, any::<u8>()), 0..3),
        which in 0usize..50, before in 0usize..80, behind in 0usize..80,
    ) {
        let frames = some_frames();
        let mut frame = frames[which % frames.len()].clone();
        for (at, value) in change {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        mend(&mut frame);
        let mut interface = interface();
        interface.mtu = 9000;
        for verify in [true, false] {
            let Ok(headers) = parse(&frame, &interface, Origin::Wire, verify) else { continue };
            let mut room = Room::new(before, &frame, behind);
            if let Ok(reply) = error_in(&mut room, &headers, IcmpErrorKind::TimeExceeded) {
                read_error(&reply, &frame);
            }
            let mut room = Room::new(before, &frame, behind);
            let mut packet = room.packet();
            if tcp_reset(&mut packet, &headers, OURS).is_ok() {
                decode(packet.bytes());
            }
        }
    }
}

#[test]
fn the_tuple_of_an_error_about_us_leads_back() {
    // What we send is what the other side's firewall would accept: its quote is the tuple as sent.
    let sent = tuple("198.51.100.7", 5000, "203.0.113.9", 80, protocol::UDP);
    let mut reply = error_about(&frame(&sent, 1, b"x"), IcmpErrorKind::TimeExceeded).unwrap();
    reply[..6].copy_from_slice(&OURS.0);
    let headers = headers_of(&reply);
    let expected: Tuple = sent.inverted();
    assert_eq!((headers.kind, headers.tuple), (Kind::IcmpError, expected));
    assert_eq!(format!("{:?}", headers.icmp_type), "11");
}
