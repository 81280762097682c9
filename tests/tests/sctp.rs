//! SCTP: associations through NAT, their verification tags, states and timeouts (RFC 9260).

use std::net::SocketAddr;

use postern_core::conntrack::entry::flags;
use postern_core::conntrack::sctp::State;
use postern_core::verdict::DropReason;
use postern_tests::fragments::cut_to;
use postern_tests::packet::icmp;
use postern_tests::sctp::chunk_type::*;
use postern_tests::sctp::{SCTP, between, chunk, chunk_with, ends, mend_crc, sctp};
use postern_tests::{At, Draw, Firewall, LAN, Pkt, Sent, Setup, WAN, for_workers, moved};

const SERVER: &str = "192.0.2.9:3868";
/// The tags that each side wants to be sent.
const CLIENT_TAG: u32 = 0x1111_0001;
const SERVER_TAG: u32 = 0x2222_0002;

/// An association between a client inside and a server outside, or the other way round by a forward.
struct Association {
    client: SocketAddr,
    server: SocketAddr,
    /// The ends as the server sees them: the client's, its own.
    seen: (SocketAddr, SocketAddr),
    at: [At; 2],
}

impl Association {
    fn outward(client: &str, server: &str) -> Self {
        let (client, server) = (client.parse().unwrap(), server.parse().unwrap());
        Self { client, server, seen: (client, server), at: [LAN, WAN] }
    }

    fn inward(client: &str, server: &str, inside: &str) -> Self {
        let (client, server) = (client.parse().unwrap(), server.parse().unwrap());
        Self { client, server, seen: (client, inside.parse().unwrap()), at: [WAN, LAN] }
    }

    fn ask(&self, kinds: &[u8]) -> Pkt {
        let tag = if kinds == [INIT] { 0 } else { SERVER_TAG };
        let chunks: Vec<_> = kinds.iter().map(|&kind| chunk(kind, CLIENT_TAG)).collect();
        sctp(self.client, self.server, tag, &chunks)
    }

    fn tell(&self, kinds: &[u8]) -> Pkt {
        let chunks: Vec<_> = kinds.iter().map(|&kind| chunk(kind, SERVER_TAG)).collect();
        sctp(self.seen.1, self.seen.0, CLIENT_TAG, &chunks)
    }

    /// From client to server: it must arrive, with nothing but its ends changed.
    fn c2s(&mut self, fw: &mut Firewall, kinds: &[u8]) {
        let pkt = self.ask(kinds);
        let out = fw.send(self.at[0], &pkt).out(self.at[1]);
        self.seen = ends(&out);
        assert_eq!(out, between(&pkt, self.seen.0, self.seen.1).hop());
    }

    /// From server to client.
    fn s2c(&self, fw: &mut Firewall, kinds: &[u8]) {
        let pkt = self.tell(kinds);
        let out = fw.send(self.at[1], &pkt).out(self.at[0]);
        assert_eq!(out, between(&pkt, self.server, self.client).hop());
    }

    fn open(mut self, fw: &mut Firewall) -> Self {
        self.c2s(fw, &[INIT]);
        self.s2c(fw, &[INIT_ACK]);
        self.c2s(fw, &[COOKIE_ECHO, DATA]);
        self.s2c(fw, &[COOKIE_ACK, SACK]);
        self
    }

    fn talk(&mut self, fw: &mut Firewall) {
        self.c2s(fw, &[DATA, DATA]);
        self.s2c(fw, &[SACK, DATA]);
        self.c2s(fw, &[SACK]);
    }
}

fn state(fw: &Firewall) -> State {
    State::from_number(fw.connection().protocol_state)
}

/// C084: from INIT to SHUTDOWN COMPLETE, translated, the CRC right on every packet.
#[test]
fn an_association_lives_and_ends_through_nat() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        let mut association = Association::outward("192.168.1.2:5000", SERVER);
        association.c2s(&mut fw, &[INIT]);
        assert_eq!(association.seen.0.to_string(), "203.0.113.2:5000", "kept when free");
        assert_eq!(state(&fw), State::Closed);
        moved!(fw, received: 1, forwarded: 1, tracked: 1, connections_new: 1);
        association.s2c(&mut fw, &[INIT_ACK]);
        assert_eq!(state(&fw), State::CookieWait);
        association.c2s(&mut fw, &[COOKIE_ECHO, DATA]);
        assert_eq!(state(&fw), State::CookieEchoed);
        association.s2c(&mut fw, &[COOKIE_ACK]);
        assert_eq!(state(&fw), State::Established);
        association.talk(&mut fw);
        association.c2s(&mut fw, &[SHUTDOWN]);
        assert_eq!(state(&fw), State::ShutdownSent);
        association.s2c(&mut fw, &[SHUTDOWN_ACK]);
        assert_eq!(state(&fw), State::ShutdownAckSent);
        association.c2s(&mut fw, &[SHUTDOWN_COMPLETE]);
        assert_eq!(state(&fw), State::Closed);
        fw.pass_secs(10);
        assert!(fw.connections().is_empty());
        assert!(fw.wan(association.tell(&[DATA])).is_silent());
    });
}

/// C073, C084: two clients with one port and one server.
#[test]
fn two_hosts_with_one_port_are_told_apart_by_another() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        let mut one = Association::outward("192.168.1.2:5000", SERVER).open(&mut fw);
        let mut two = Association::outward("192.168.1.3:5000", SERVER).open(&mut fw);
        assert_ne!(one.seen.0, two.seen.0);
        one.talk(&mut fw);
        two.talk(&mut fw);
    });
}

/// C084, C099: in by a forward to another port.
#[test]
fn an_association_comes_in_by_a_forward() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup.forward(SCTP, (2905, 2905), "192.168.1.10:3868"));
        let (outside, inside) = ("203.0.113.2:2905", "192.168.1.10:3868");
        let association = Association::inward("192.0.2.7:6000", outside, inside);
        association.open(&mut fw).talk(&mut fw);
    });
}

/// C079, C084: RFC 9260 §8.5: who does not know the verification tag takes no part, and changes nothing.
#[test]
fn a_wrong_verification_tag_is_dropped_and_ends_nothing() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        let mut association = Association::outward("192.168.1.2:5000", SERVER).open(&mut fw);
        for kind in [DATA, SACK, ABORT, SHUTDOWN, SHUTDOWN_COMPLETE, COOKIE_ACK, ERROR] {
            for tag in [0, CLIENT_TAG ^ 1, SERVER_TAG] {
                let forged = sctp(SERVER, association.seen.0, tag, &[chunk(kind, 0)]);
                assert_eq!(fw.wan(forged).dropped(), DropReason::SctpTag, "{kind}");
            }
        }
        assert_eq!(state(&fw), State::Established);
        association.talk(&mut fw);
        association.s2c(&mut fw, &[ABORT]);
        assert_eq!(state(&fw), State::Closed);
    });
}

/// C084: what is out of the blue begins nothing, from either side.
#[test]
fn unsolicited_packets_begin_nothing() {
    let mut fw = Firewall::new();
    for kind in [DATA, ABORT, COOKIE_ACK, SHUTDOWN_COMPLETE] {
        let pkt = sctp("192.168.1.2:5000", SERVER, 7, &[chunk(kind, 0)]);
        assert_eq!(fw.lan(pkt).dropped(), DropReason::SctpState);
        let pkt = sctp(SERVER, "203.0.113.2:5000", 7, &[chunk(kind, 0)]);
        assert_eq!(fw.wan(pkt).dropped(), DropReason::SctpState);
    }
    let init = sctp(SERVER, "203.0.113.2:5000", 0, &[chunk(INIT, 9)]);
    assert_eq!(fw.wan(init).dropped(), DropReason::DeniedByPolicy);
    assert!(fw.connections().is_empty());
}

/// C162: chunks that are cut short, empty or wrongly bundled (RFC 9260 §6.10).
#[test]
fn malformed_chunks_are_dropped_by_name() {
    let mut fw = Firewall::new();
    let mut association = Association::outward("192.168.1.2:5000", SERVER).open(&mut fw);
    for chunks in [
        vec![],
        vec![vec![DATA, 3, 0, 0]],
        vec![chunk(DATA, 0), chunk(COOKIE_ECHO, 0)],
        vec![chunk(INIT, 1), chunk(DATA, 0)],
        vec![chunk_with(INIT_ACK, 0, &[0; 8])],
    ] {
        let pkt = sctp(association.client, association.server, SERVER_TAG, &chunks);
        assert_eq!(fw.lan(pkt).dropped(), DropReason::SctpChunk, "{chunks:?}");
    }
    association.talk(&mut fw);
}

/// C164: RFC 9260 §6.8.
#[test]
fn a_wrong_crc_is_dropped_and_stays_wrong_where_it_is_not_verified() {
    let spoilt = |pkt: &Pkt| {
        let mut bytes = pkt.build();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        bytes
    };
    let mut fw = Firewall::new();
    let association = Association::outward("192.168.1.2:5000", SERVER);
    let sent = fw.lan(spoilt(&association.ask(&[INIT])));
    assert_eq!(sent.dropped(), DropReason::TransportChecksum);
    assert!(fw.connections().is_empty());
    let mut setup = Setup::default();
    setup.options.verify_checksums = false;
    let mut fw = Firewall::with(setup.forward(SCTP, (2905, 2905), "192.168.1.10:3868"));
    let init = sctp("192.0.2.7:6000", "203.0.113.2:2905", 0, &[chunk(INIT, 9)]);
    let sent = fw.send_no_looks(WAN, spoilt(&init));
    let inside = "192.168.1.10:3868".parse().unwrap();
    let right = between(&init, "192.0.2.7:6000".parse().unwrap(), inside).hop().build();
    let mut wrong = right.clone();
    *wrong.last_mut().unwrap() ^= 1;
    assert_eq!(sent.outs[0].l3(), wrong);
}

/// C183, C186: each state has its timeout, as Linux's sysctls have it.
#[test]
fn states_have_their_timeouts() {
    let mut fw = Firewall::with(Setup::default().linux_timeouts());
    let mut association = Association::outward("192.168.1.2:5000", SERVER);
    let left = |fw: &Firewall| fw.connection().remaining_ms / 1000;
    association.c2s(&mut fw, &[INIT]);
    assert_eq!(left(&fw), 10);
    fw.pass_secs(4);
    association.c2s(&mut fw, &[INIT]);
    assert_eq!(left(&fw), 6, "an INIT that comes again extends nothing");
    association.s2c(&mut fw, &[INIT_ACK]);
    assert_eq!(left(&fw), 3);
    association.c2s(&mut fw, &[COOKIE_ECHO]);
    association.s2c(&mut fw, &[COOKIE_ACK]);
    assert_eq!(left(&fw), 210);
    assert_ne!(fw.connection().flags & flags::ASSURED, 0);
    fw.pass_secs(209);
    association.s2c(&mut fw, &[HEARTBEAT]);
    association.c2s(&mut fw, &[HEARTBEAT_ACK]);
    assert_eq!(left(&fw), 210, "an idle path lives by its heartbeats");
    association.s2c(&mut fw, &[SHUTDOWN]);
    assert_eq!((state(&fw), left(&fw)), (State::ShutdownReceived, 3));
    fw.pass_secs(3);
    assert!(fw.connections().is_empty());
}

/// C084: RFC 9260 §5.2.2: a client that restarts sets up a new association on the tuple of the old one.
#[test]
fn a_restarted_client_sets_up_anew() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        let mut association = Association::outward("192.168.1.2:5000", SERVER).open(&mut fw);
        let (ours, theirs) = (association.client, association.server);
        let new_tag = 0x3333_0003;
        let init = sctp(ours, theirs, 0, &[chunk(INIT, new_tag)]);
        assert_eq!(fw.lan(&init).out(WAN), between(&init, association.seen.0, theirs).hop());
        let answer = sctp(theirs, association.seen.0, new_tag, &[chunk(INIT_ACK, SERVER_TAG)]);
        assert_eq!(fw.wan(&answer).out(LAN), between(&answer, theirs, ours).hop());
        association.c2s(&mut fw, &[COOKIE_ECHO]);
        let data = sctp(theirs, association.seen.0, new_tag, &[chunk(COOKIE_ACK, 0)]);
        assert_eq!(fw.wan(&data).out(LAN), between(&data, theirs, ours).hop());
        let old = association.tell(&[DATA]);
        assert_eq!(fw.wan(old).dropped(), DropReason::SctpTag);
    });
}

/// C052, C053, C070: an error about SCTP shows the receiver his own packet, its CRC too if the quote reaches it.
#[test]
fn errors_about_sctp_are_translated_with_what_they_quote() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        Association::outward("192.168.1.2:5000", SERVER).open(&mut fw);
        let mut association = Association::outward("192.168.1.3:5000", SERVER).open(&mut fw);
        assert_ne!(association.seen.0.port(), 5000);
        let sent = association.ask(&[DATA]).hop();
        let arrived = between(&sent, association.seen.0, association.seen.1);
        for keep in [28, 32, 36, 60] {
            let error =
                |about: &Pkt, dst: &str| icmp("192.0.2.1", dst, 3, 4, 1400, &about.build()[..keep]);
            let received = fw.wan(error(&arrived, "203.0.113.2")).out(LAN);
            assert_eq!(received, error(&sent, "192.168.1.3").hop(), "{keep} bytes quoted");
        }
        association.talk(&mut fw);
        // C055, C063: another port is of no association.
        let stranger = between(&sent, "203.0.113.2:5".parse().unwrap(), association.seen.1);
        let error = icmp("192.0.2.1", "203.0.113.2", 3, 4, 1400, &stranger.build());
        assert_eq!(fw.wan(error).dropped(), DropReason::IcmpErrorUnrelated);
    });
}

/// C126, C129: in fragments, though the CRC covers all of them and a port changes.
#[test]
fn fragments_are_translated_and_the_crc_of_the_whole_is_right() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        Association::outward("192.168.1.2:5000", SERVER).open(&mut fw);
        let association = Association::outward("192.168.1.3:5000", SERVER).open(&mut fw);
        assert_ne!(association.seen.0.port(), 5000);
        let data = |src, dst, tag| {
            let value: Vec<u8> = (0..3_001).map(|i| (i * 7) as u8).collect();
            sctp(src, dst, tag, &[chunk_with(DATA, 3, &value)]).may_fragment()
        };
        let out = data(association.client, association.server, SERVER_TAG);
        let sent = send_all(&mut fw, LAN, &cut_to(&out.build(), 0, 1500));
        assert_eq!(sent.outs.len(), 3, "{}", sent.describe());
        assert_eq!(joined(&sent), between(&out, association.seen.0, association.seen.1).hop());
        let back = data(association.seen.1, association.seen.0, CLIENT_TAG);
        let sent = send_all(&mut fw, WAN, &cut_to(&back.build(), 0, 1500));
        assert_eq!(joined(&sent), between(&back, association.server, association.client).hop());
    });
}

fn send_all(fw: &mut Firewall, at: At, packets: &[Vec<u8>]) -> Sent {
    let packets: Vec<(At, Vec<u8>)> = packets.iter().map(|bytes| (at, bytes.clone())).collect();
    fw.burst(&packets)
}

/// The datagram that fragments make, in order.
fn joined(sent: &Sent) -> Pkt {
    let mut whole = sent.outs[0].l3().to_vec();
    for out in &sent.outs[1..] {
        whole.extend(&out.l3()[20..]);
    }
    let len = (whole.len() as u16).to_be_bytes();
    whole[2..4].copy_from_slice(&len);
    whole[6..8].fill(0);
    postern_tests::wire::mend_ip_checksum(&mut whole);
    Pkt::decode(&whole).expect("it is a whole packet")
}

/// C162: whatever stands in chunks, nothing panics and every packet is accounted for.
#[test]
fn mutilated_associations_harm_nothing() {
    for_workers([1, 2, 4], |setup| {
        let mut draw = Draw::new(setup.seed ^ 0x5c79);
        let mut fw = Firewall::with(setup);
        let mut association = Association::outward("192.168.1.2:5000", SERVER).open(&mut fw);
        for _ in 0..3_000 {
            let kinds: Vec<u8> = (0..1 + draw.below(3))
                .map(|_| *draw.of(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14]))
                .collect();
            let (at, pkt) = if draw.below(2) == 0 {
                (LAN, association.ask(&kinds))
            } else {
                (WAN, association.tell(&kinds))
            };
            let mut bytes = pkt.build();
            for _ in 0..draw.below(3) {
                let (at, any) = (24 + draw.below(bytes.len() - 24), draw.bits() as u8);
                bytes[at] = *draw.of(&[0, 1, 2, 4, 0xff, any]);
            }
            mend_crc(&mut bytes[20..]);
            fw.send_no_looks(at, bytes);
        }
        fw.pass_secs(211);
        assert!(fw.connections().is_empty());
        association = Association::outward("192.168.1.2:5000", SERVER).open(&mut fw);
        association.talk(&mut fw);
    });
}
