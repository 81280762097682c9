//! UDP through masquerade, packet by packet.

use std::time::Duration;

use postern_core::verdict::DropReason;
use postern_tests::packet::udp;
use postern_tests::wire::set16;
use postern_tests::{Firewall, Flow, LAN, WAN, for_workers, moved};

/// C041, C078
#[test]
fn a_reply_from_the_same_peer_reaches_the_socket_inside() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
        flow.c2s(&mut fw, &flow.ask());
        moved!(fw, received: 1, forwarded: 1, tracked: 1, connections_new: 1);
        assert_eq!(flow.seen().to_string(), "203.0.113.2:5000");
        flow.s2c(&mut fw, &flow.tell());
        // The reply direction's way was not known yet.
        moved!(fw, received: 1, forwarded: 1, tracked: 1, rerouted: 1, rejudged: 1);
        // The original direction was judged as NEW, and is ESTABLISHED now.
        flow.exchange(&mut fw);
        moved!(fw, received: 2, forwarded: 2, tracked: 2, rejudged: 1);
        flow.exchange(&mut fw);
        moved!(fw, received: 2, forwarded: 2, tracked: 2);
        let connection = fw.connection();
        assert_eq!(connection.packets, [3, 3]);
        assert_eq!(connection.bytes, [3 * 36, 3 * 34]);
    });
}

/// C078: the packet that begins anew behind the current address is tracked once.
#[test]
fn a_connection_whose_address_went_begins_anew() {
    let mut fw = Firewall::new();
    let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
    flow.exchange(&mut fw);
    fw.change(|setup| setup.set_addresses(WAN, &["203.0.113.3/24"]));
    fw.take_moved();
    flow.try_c2s(&mut fw, &flow.ask());
    moved!(fw, received: 1, forwarded: 1, tracked: 1, rerouted: 1, connections_new: 1,
        connections_gone: 1);
    assert_eq!(fw.connection().reply.dst().to_string(), "203.0.113.3");
}

/// C042
#[test]
fn an_absent_checksum_stays_absent_both_ways() {
    let mut fw = Firewall::new();
    let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
    flow.c2s(&mut fw, &flow.ask().unsummed());
    flow.s2c(&mut fw, &flow.tell().unsummed());
    // Port changed as well.
    let mut other = Flow::outward("192.168.1.3:5000", "192.0.2.9:53");
    other.c2s(&mut fw, &other.ask().unsummed());
    other.s2c(&mut fw, &other.tell().unsummed());
}

/// C042: a checksum that comes out as zero is sent as 0xffff (RFC 768).
#[test]
fn a_checksum_that_happens_to_be_zero_is_written_as_ones() {
    let mut fw = Firewall::new();
    let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
    // Every value of one word of the payload is tried: so one of each way's checksums is the rare one.
    let mut ones = [0, 0];
    for word in 0..=u16::MAX {
        let payload = word.to_be_bytes();
        let there = flow.c2s(&mut fw, &flow.ask().payload(payload));
        let back = flow.s2c(&mut fw, &flow.tell().payload(payload));
        for (count, pkt) in ones.iter_mut().zip([there, back]) {
            *count += u32::from(pkt.build()[26..28] == [0xff, 0xff]);
        }
    }
    assert_eq!(ones, [1, 1]);
}

/// C044
#[test]
fn first_packets_of_one_flow_back_to_back_make_one_connection_and_all_cross() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        let flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
        let packets: Vec<_> = (0..30).map(|i| (LAN, flow.ask().id(i).payload([i as u8]))).collect();
        let sent = fw.burst(&packets);
        let mut out = sent.all(WAN);
        out.sort_by_key(|pkt| pkt.id);
        let expected: Vec<_> =
            packets.iter().map(|(_, pkt)| pkt.clone().from("203.0.113.2:5000").hop()).collect();
        assert_eq!(out, expected);
        moved!(fw, received: 30, forwarded: 30, tracked: 30, connections_new: 1);
        fw.connection();
    });
}

/// C044: two flows that want one port, in one burst.
#[test]
fn two_first_packets_in_one_burst_that_want_one_port_get_two() {
    let mut fw = Firewall::new();
    let hosts = ["192.168.1.2:5000", "192.168.1.3:5000"];
    let out = fw.burst(&hosts.map(|host| (LAN, udp(host, "192.0.2.9:53")))).all(WAN);
    assert_ne!(out[0].source(), out[1].source());
    moved!(fw, received: 2, forwarded: 2, tracked: 2, connections_new: 2, ports_changed: 1);
}

/// C046, C182: our choice is that packets of either direction keep a connection alive.
#[test]
fn packets_of_either_direction_refresh_the_mapping() {
    for inbound in [false, true] {
        let mut fw = Firewall::new();
        let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
        flow.exchange(&mut fw);
        for _ in 0..20 {
            fw.pass(Duration::from_secs(29));
            match inbound {
                true => flow.s2c(&mut fw, &flow.tell()),
                false => flow.c2s(&mut fw, &flow.ask()),
            };
        }
        flow.exchange(&mut fw);
    }
}

/// C046: what is refused refreshes nothing.
#[test]
fn strangers_packets_do_not_refresh_a_mapping() {
    let mut fw = Firewall::new();
    let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
    flow.c2s(&mut fw, &flow.ask());
    for _ in 0..31 {
        fw.pass_secs(1);
        let stranger = udp("192.0.2.10:53", flow.seen());
        assert_eq!(fw.wan(stranger).dropped(), DropReason::DeniedByPolicy);
    }
    assert_eq!(flow.try_s2c(&mut fw, &flow.tell()).dropped(), DropReason::DeniedByPolicy);
}

/// C047
#[test]
fn a_length_below_eight_or_beyond_the_packet_is_dropped() {
    let mut fw = Firewall::new();
    let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
    flow.exchange(&mut fw);
    for (at, pkt) in [(LAN, flow.ask().unsummed()), (WAN, flow.tell().unsummed())] {
        let right = pkt.build().len() as u16 - 20;
        for length in [0, 1, 7, right + 1, 0xffff] {
            let mut bytes = pkt.build();
            set16(&mut bytes, 24, length);
            assert_eq!(fw.send(at, bytes).dropped(), DropReason::TruncatedTransport, "{length}");
        }
        let mut cut = pkt.build();
        cut.truncate(27);
        set16(&mut cut, 2, 27);
        postern_tests::wire::mend_ip_checksum(&mut cut);
        assert_eq!(fw.send(at, cut).dropped(), DropReason::TruncatedTransport);
    }
    flow.exchange(&mut fw);
}

/// C164: UDP's part of it.
#[test]
fn a_wrong_checksum_is_not_forwarded_and_makes_nothing() {
    let mut fw = Firewall::new();
    let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
    let mut bytes = flow.ask().build();
    bytes[26] ^= 1;
    assert_eq!(fw.lan(bytes).dropped(), DropReason::TransportChecksum);
    moved!(fw, received: 1, invalid: 1, TransportChecksum: 1);
    assert!(fw.connections().is_empty());
    flow.exchange(&mut fw);
    let mut bytes = flow.tell().build();
    bytes[26] ^= 1;
    assert_eq!(fw.wan(bytes).dropped(), DropReason::TransportChecksum);
}

/// C164: with verification switched off, what came wrong leaves wrong.
#[test]
fn an_unverified_wrong_checksum_stays_wrong() {
    let mut setup = postern_tests::Setup::default();
    setup.options.verify_checksums = false;
    let mut fw = Firewall::with(setup);
    let mut bytes = udp("192.168.1.2:5000", "192.0.2.9:53").build();
    bytes[26] ^= 1;
    let sent = fw.lan(bytes);
    assert_eq!(sent.outs.len(), 1);
    assert!(postern_tests::Pkt::decode(&sent.outs[0].frame[14..]).is_err());
}
