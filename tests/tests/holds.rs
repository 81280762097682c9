//! Packets on hold for their next hop, while something changes.

use postern_core::forward::{NeighbourState, RouteKind};
use postern_core::verdict::DropReason;
use postern_tests::packet::{icmp, tcp, udp};
use postern_tests::{At, Firewall, Flow, LAN, LAN2, Sent, Setup, WAN};

fn dns() -> Flow {
    Flow::outward("192.168.1.2:5000", "192.0.2.9:53")
}

/// A packet of an established connection on hold at the WAN; the connection.
fn with_one_on_hold(fw: &mut Firewall) -> Flow {
    let mut f = dns();
    f.exchange(fw);
    f.exchange(fw);
    fw.neighbour(WAN, "203.0.113.1", NeighbourState::Incomplete);
    assert!(f.try_c2s(fw, &f.ask()).is_silent());
    f
}

/// The next hop answers.
fn resume(fw: &mut Firewall, at: At, address: &'static str) -> Sent {
    fw.neighbour(at, address, NeighbourState::Reachable);
    fw.resume()
}

/// C193: whoever waited through a change of rules is judged by the new ones, whatever other packets of its
/// connection were judged in between.
#[test]
fn a_packet_that_waited_through_a_change_of_rules_is_judged_again() {
    for another in [false, true] {
        let mut fw = Firewall::new();
        let f = with_one_on_hold(&mut fw);
        fw.change(|setup| setup.iptables("-I FORWARD -s 192.168.1.2 -j DROP"));
        if another {
            assert_eq!(f.try_c2s(&mut fw, &f.ask()).dropped(), DropReason::DeniedByRule);
        }
        let sent = resume(&mut fw, WAN, "203.0.113.1");
        assert_eq!(sent.dropped(), DropReason::DeniedByRule, "another: {another}");
    }
}

/// C033: the refusal that ends an unanswered connection is not lost with it.
#[test]
fn a_refusal_that_waits_for_its_next_hop_arrives() {
    for wait in [0, 3] {
        let mut fw = Firewall::with(Setup::default().forward_tcp(80, "192.168.1.10:80"));
        let syn = tcp("192.0.2.9:1000", "203.0.113.2:80").syn().seq(1);
        fw.wan(&syn).out(LAN);
        fw.neighbour(WAN, "203.0.113.1", NeighbourState::Incomplete);
        let refusal = tcp("192.168.1.10:80", "192.0.2.9:1000").seq(0).ack(2).rst();
        fw.lan(&refusal).held();
        fw.pass_secs(wait);
        let sent = resume(&mut fw, WAN, "203.0.113.1").out(WAN);
        assert_eq!(sent, refusal.hop().from("203.0.113.2:80"), "after {wait} s");
        fw.pass_secs(11);
        assert!(fw.connections().is_empty(), "it ended all the same");
    }
}

/// C193
#[test]
fn an_icmp_error_that_waited_through_a_change_of_rules_is_judged_again() {
    for denied in [false, true] {
        let mut fw = Firewall::new();
        let mut f = dns();
        let arrived = f.c2s(&mut fw, &f.ask());
        fw.neighbour(LAN, "192.168.1.2", NeighbourState::Incomplete);
        let report = icmp("192.0.2.9", "203.0.113.2", 3, 3, 0, &arrived.build());
        assert!(fw.wan(&report).is_silent());
        if denied {
            fw.change(|setup| setup.iptables("-I FORWARD -p icmp -j DROP"));
        }
        let sent = resume(&mut fw, LAN, "192.168.1.2");
        if denied {
            assert_eq!(sent.dropped(), DropReason::DeniedByRule);
        } else {
            assert_eq!(sent.all(LAN).len(), 1);
        }
    }
}

/// C190: nothing changed: the rules see a packet once, however long it waits.
#[test]
fn a_packet_on_hold_is_counted_once() {
    let mut fw = Firewall::new();
    with_one_on_hold(&mut fw);
    let counted = |fw: &Firewall| -> u64 {
        fw.snapshot().policy.counters().rules.iter().map(|count| count.packets).sum()
    };
    let before = counted(&fw);
    assert_eq!(resume(&mut fw, WAN, "203.0.113.1").all(WAN).len(), 1);
    assert_eq!(counted(&fw), before);
}

/// The kernel forgot the next hop of an established connection: it is asked for as for a new one.
#[test]
fn the_next_hop_of_an_established_connection_is_asked_for() {
    let mut fw = Firewall::new();
    with_one_on_hold(&mut fw);
    assert_eq!(fw.wanted(), [(WAN.interface(), "203.0.113.1".parse().unwrap())]);
}

/// C087: after a change of routes both directions have their source checked, whichever comes first.
#[test]
fn each_direction_has_its_source_checked_after_a_change_of_routes() {
    for original_first in [false, true] {
        let mut fw = Firewall::with(Setup::default().routed().second_lan());
        fw.private_may_leave = true;
        let mut f = dns();
        f.exchange(&mut fw);
        f.exchange(&mut fw);
        fw.change(|setup| {
            let moved = setup.clone();
            *setup = moved.route("192.0.2.0/24", RouteKind::Unicast, LAN2, Some("192.168.2.7"));
        });
        if original_first {
            let ask = udp("192.168.1.2:5000", "192.0.2.9:53").payload(b"q");
            fw.send(LAN, &ask).out(LAN2);
        }
        let tell = udp("192.0.2.9:53", "192.168.1.2:5000").payload(b"a");
        assert_eq!(fw.send(WAN, &tell).dropped(), DropReason::ReversePath, "{original_first}");
    }
}
