//! Port forwards and hairpin.

use std::net::SocketAddr;

use postern_core::conntrack::entry::flags;
use postern_core::conntrack::tuple::protocol;
use postern_core::forward::NeighbourState;
use postern_core::verdict::DropReason;
use postern_tests::packet::{Pkt, icmp, tcp, udp};
use postern_tests::{At, Firewall, Flow, HOST_WAN, LAN, LAN2, Setup, WAN, for_workers, moved};

const OUTSIDE: &str = "192.0.2.7:40000";

fn hairpin(client: &str, dialled: &str, server: &str) -> Flow {
    let dialled = dialled.parse::<SocketAddr>().unwrap();
    Flow { dialled, ..Flow::between(LAN, client, LAN, server) }
}

/// C095
#[test]
fn tcp_hairpin_shows_the_server_our_address_and_the_client_the_one_it_dialled() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup.forward_tcp(8080, "192.168.1.10:80"));
        let mut f =
            hairpin("192.168.1.2:5000", "203.0.113.2:8080", "192.168.1.10:80").open(&mut fw);
        assert_eq!(f.seen().ip().to_string(), "192.168.1.1");
        f.talk(&mut fw);
        f.client_fin(&mut fw);
        f.server_fin(&mut fw);
        let both = flags::SNAT | flags::DNAT;
        assert_eq!(fw.connection().flags & both, both);
    });
}

/// C096
#[test]
fn udp_hairpin_works_also_for_the_server_itself_and_for_many_clients() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup.forward_udp(5353, "192.168.1.10:53"));
        for client in ["192.168.1.2:5000", "192.168.1.3:5000", "192.168.1.10:5000"] {
            let mut f = hairpin(client, "203.0.113.2:5353", "192.168.1.10:53");
            f.exchange(&mut fw);
            assert_eq!(f.seen().ip().to_string(), "192.168.1.1");
            f.exchange(&mut fw);
        }
        assert_eq!(fw.connections().len(), 3);
    });
}

/// C095: from another LAN nothing has to be hidden.
#[test]
fn a_forward_dialled_from_a_second_lan_keeps_the_clients_address() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup.second_lan().forward_tcp(8080, "192.168.1.10:80"));
        let dialled = "203.0.113.2:8080".parse().unwrap();
        let between = Flow::between(LAN2, "192.168.2.2:5000", LAN, "192.168.1.10:80");
        let mut f = Flow { dialled, ..between }.open(&mut fw);
        f.talk(&mut fw);
        assert_eq!(f.seen(), f.client);
    });
}

/// C099
#[test]
fn a_forward_keeps_the_clients_address_and_rewrites_replies_for_a_whole_life() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup.forward_tcp(8080, "192.168.1.10:80"));
        let mut f = Flow::inward(OUTSIDE, "203.0.113.2:8080", "192.168.1.10:80").open(&mut fw);
        assert_eq!(f.seen(), f.client);
        f.talk(&mut fw);
        f.server_fin(&mut fw);
        f.client_fin(&mut fw);
        assert_eq!(fw.connection().flags & (flags::SNAT | flags::DNAT), flags::DNAT);
    });
}

/// C099: the counters of a forward's first packet.
#[test]
fn a_forwarded_first_packet_moves_the_counters_of_any_first_packet() {
    let mut fw = Firewall::with(Setup::default().forward_udp(5353, "192.168.1.10:53"));
    let mut f = Flow::inward(OUTSIDE, "203.0.113.2:5353", "192.168.1.10:53");
    f.c2s(&mut fw, &f.ask());
    moved!(fw, received: 1, forwarded: 1, tracked: 1, connections_new: 1);
}

/// C100
#[test]
fn two_outside_clients_with_one_source_port_stay_apart() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup.forward_tcp(8080, "192.168.1.10:80"));
        let dial = |client| Flow::inward(client, "203.0.113.2:8080", "192.168.1.10:80");
        let mut first = dial("192.0.2.7:40000").open(&mut fw);
        let mut second = dial("192.0.2.8:40000").open(&mut fw);
        first.talk(&mut fw);
        second.talk(&mut fw);
        first.talk(&mut fw);
    });
}

/// C100: one client reaches one server by two forwards with one source port: the second is refused, not
/// mixed up with the first, since to the server both would be the same connection.
#[test]
fn one_client_by_two_forwards_to_one_server_is_not_mixed_up() {
    for_workers([1, 2, 4], |setup| {
        let setup = setup.forward_udp(5353, "192.168.1.10:53").forward_udp(5354, "192.168.1.10:53");
        let mut fw = Firewall::with(setup);
        let mut first = Flow::inward(OUTSIDE, "203.0.113.2:5353", "192.168.1.10:53");
        first.exchange(&mut fw);
        let second = Flow::inward(OUTSIDE, "203.0.113.2:5354", "192.168.1.10:53");
        assert_eq!(second.try_c2s(&mut fw, &second.ask()).dropped(), DropReason::TupleInUse);
        first.exchange(&mut fw);
    });
}

/// C101
#[test]
fn neighbouring_ports_and_the_other_protocol_are_closed() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup.forward_tcp(8080, "192.168.1.10:80"));
        for port in [8079, 8081, 80] {
            let sent = fw.wan(tcp(OUTSIDE, ("203.0.113.2", port)).syn());
            assert_eq!(sent.dropped(), DropReason::DeniedByPolicy, "{port}");
        }
        let sent = fw.wan(udp(OUTSIDE, "203.0.113.2:8080"));
        assert_eq!(sent.dropped(), DropReason::DeniedByPolicy);
        // The server's own port, addressed directly.
        let sent = fw.wan(tcp(OUTSIDE, "192.168.1.10:80").syn());
        assert_eq!(sent.dropped(), DropReason::DeniedByPolicy);
        // A forward begins with a SYN like everything else (C013).
        let sent = fw.wan(tcp(OUTSIDE, "203.0.113.2:8080").ack(1));
        assert_eq!(sent.dropped(), DropReason::TcpNotSyn);
    });
}

/// C103
#[test]
fn a_forward_to_a_dead_server_answers_host_unreachable_and_leaks_no_state() {
    let mut fw = Firewall::with(Setup::default().forward_tcp(8080, "192.168.1.10:80"));
    fw.neighbour(LAN, "192.168.1.10", NeighbourState::Failed);
    let f = Flow::inward(OUTSIDE, "203.0.113.2:8080", "192.168.1.10:80");
    let sent = f.try_c2s(&mut fw, &f.syn());
    assert_eq!(sent.reason(), DropReason::NeighbourFailed);
    let expected = icmp("203.0.113.2", "192.0.2.7", 3, 1, 0, &f.syn().build());
    assert_eq!(sent.answer(WAN), expected.tos(0xc0).id(0).df());
    fw.pass_secs(241);
    assert!(fw.connections().is_empty());
}

/// C103: a server that has not answered ARP yet: its packets wait, in order, and cross when it does.
#[test]
fn packets_to_a_server_being_asked_for_wait_and_then_cross() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup.forward_tcp(8080, "192.168.1.10:80"));
        fw.neighbour(LAN, "192.168.1.10", NeighbourState::Incomplete);
        let mut f = Flow::inward(OUTSIDE, "203.0.113.2:8080", "192.168.1.10:80");
        for _ in 0..3 {
            f.try_c2s(&mut fw, &f.syn()).held();
        }
        assert_eq!(fw.wanted(), [(LAN.interface(), "192.168.1.10".parse().unwrap())]);
        assert!(fw.resume().is_silent(), "not yet");
        fw.neighbour(LAN, "192.168.1.10", NeighbourState::Reachable);
        f.seen = Some(f.client);
        let out = fw.resume().all(LAN);
        assert_eq!(out, vec![f.at_server(&f.syn()); 3]);
        f.s2c(&mut fw, &f.syn_ack());
        f.c2s(&mut fw, &f.client_segment());
        f.talk(&mut fw);
        assert_eq!(fw.connections().len(), 1);
    });
}

/// C103: held packets of a server that turns out to be dead are answered, and quote what was sent.
#[test]
fn packets_held_for_a_server_that_does_not_answer_are_refused() {
    let mut fw = Firewall::with(Setup::default().forward_udp(5353, "192.168.1.10:53"));
    fw.neighbour(LAN, "192.168.1.10", NeighbourState::Incomplete);
    let f = Flow::inward(OUTSIDE, "203.0.113.2:5353", "192.168.1.10:53");
    f.try_c2s(&mut fw, &f.ask()).held();
    fw.neighbour(LAN, "192.168.1.10", NeighbourState::Failed);
    let sent = fw.resume();
    assert_eq!(sent.reason(), DropReason::NeighbourFailed);
    let expected = icmp("203.0.113.2", "192.0.2.7", 3, 1, 0, &f.ask().build());
    assert_eq!(sent.answer(WAN), expected.tos(0xc0).id(0).df());
}

/// C103: what is held longer than its connection lives is dropped.
#[test]
fn a_packet_held_longer_than_its_connection_lives_is_dropped() {
    let mut fw = Firewall::with(Setup::default().forward_udp(5353, "192.168.1.10:53"));
    fw.neighbour(LAN, "192.168.1.10", NeighbourState::Incomplete);
    let f = Flow::inward(OUTSIDE, "203.0.113.2:5353", "192.168.1.10:53");
    f.try_c2s(&mut fw, &f.ask()).held();
    fw.pass_secs(31);
    fw.neighbour(LAN, "192.168.1.10", NeighbourState::Reachable);
    assert_eq!(fw.resume().dropped(), DropReason::HeldTooLong);
}

/// C105
#[test]
fn a_range_maps_one_to_one_with_its_offset() {
    for_workers([1, 2, 4], |setup| {
        let setup = setup.forward(protocol::TCP, (8000, 8010), "192.168.1.10:9000");
        let mut fw = Firewall::with(setup);
        for offset in [0, 5, 10] {
            let dialled: SocketAddr = ([203, 0, 113, 2], 8000 + offset).into();
            let server: SocketAddr = ([192, 168, 1, 10], 9000 + offset).into();
            Flow::inward(OUTSIDE, dialled, server).open(&mut fw).talk(&mut fw);
        }
        for port in [7999, 8011] {
            let sent = fw.wan(tcp(OUTSIDE, ("203.0.113.2", port)).syn());
            assert_eq!(sent.dropped(), DropReason::DeniedByPolicy);
        }
    });
}

/// C105: at the very end of the ports.
#[test]
fn a_range_may_end_at_the_last_port() {
    let setup = Setup::default().forward(protocol::UDP, (65_530, 65_535), "192.168.1.10:65530");
    let mut fw = Firewall::with(setup);
    for port in [65_530, 65_535] {
        let server: SocketAddr = ([192, 168, 1, 10], port).into();
        Flow::inward(OUTSIDE, ("203.0.113.2", port), server).exchange(&mut fw);
    }
}

/// C109: no outbound flow takes over a forwarded port.
#[test]
fn an_outbound_flow_is_never_given_a_forwarded_port() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup.forward_udp(5353, "192.168.1.10:53"));
        // Neither one that asks for it, nor the server itself, towards the very client that dials in next.
        for client in ["192.168.1.2:5353", "192.168.1.10:5353"] {
            let mut out = Flow::outward(client, OUTSIDE);
            out.exchange(&mut fw);
            assert_ne!(out.seen().port(), 5353);
        }
        let mut f = Flow::inward(OUTSIDE, "203.0.113.2:5353", "192.168.1.10:53");
        f.exchange(&mut fw);
    });
}

/// C099: the server behind a forward dials out from the forwarded port to another host.
#[test]
fn a_forwards_server_may_open_connections_outward() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup.forward_udp(53, "192.168.1.10:53"));
        let mut out = Flow::outward("192.168.1.10:53", "192.0.2.99:53");
        out.exchange(&mut fw);
        assert_ne!(out.seen().port(), 53, "the port is the forward's");
        let mut f = Flow::inward("192.0.2.99:53", "203.0.113.2:53", "192.168.1.10:53");
        // To the server this would be the reply of what it asked: refused, not mixed up.
        let sent = f.try_c2s(&mut fw, &f.ask());
        assert_eq!(sent.dropped(), DropReason::TupleInUse);
        f = Flow::inward("192.0.2.98:53", "203.0.113.2:53", "192.168.1.10:53");
        f.exchange(&mut fw);
        out.exchange(&mut fw);
    });
}

/// C099: a service on the appliance itself, on the WAN, needs a rule; its replies go by themselves.
#[test]
fn a_service_on_the_appliance_is_reached_if_a_rule_says_so() {
    for_workers([1, 2, 4], |mut setup| {
        setup.iptables("-A INPUT -p tcp --dport 22 -j ACCEPT");
        let mut fw = Firewall::with(setup);
        let mut f = Flow::between(WAN, OUTSIDE, HOST_WAN, "203.0.113.2:22").open(&mut fw);
        f.talk(&mut fw);
        f.client_fin(&mut fw);
        f.server_fin(&mut fw);
        let other: Pkt = tcp(OUTSIDE, "203.0.113.2:23").syn();
        assert_eq!(fw.wan(other).dropped(), DropReason::DeniedByPolicy);
    });
}

/// C099: a forward changed to the appliance itself stays within it.
#[test]
fn a_forward_may_lead_to_the_appliance_itself() {
    let mut fw = Firewall::with(Setup::default().forward_tcp(2222, "203.0.113.2:22"));
    let f = Flow::inward(OUTSIDE, "203.0.113.2:2222", "203.0.113.2:22");
    // INPUT: the built-in policy lets in from the LAN only.
    assert_eq!(f.try_c2s(&mut fw, &f.syn()).dropped(), DropReason::DeniedByPolicy);
    let lan = Flow {
        client_at: LAN,
        server_at: HOST_WAN,
        ..hairpin("192.168.1.2:5000", "203.0.113.2:2222", "203.0.113.2:22")
    };
    let sent = lan.try_c2s(&mut fw, &lan.syn());
    let At::Host(_) = sent.outs[0].at else { panic!("{}", sent.describe()) };
    assert_eq!(sent.outs[0].pkt().destination().to_string(), "203.0.113.2:22");
}

/// C095: for IPv6 too, although nothing else is translated there.
#[test]
fn hairpin_works_for_ipv6() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup.forward_tcp(8080, "[2001:db8:1::10]:80"));
        let (client, server) = ("[2001:db8:1::2]:5000", "[2001:db8:1::10]:80");
        let mut f = hairpin(client, "[2001:db8:2::2]:8080", server).open(&mut fw);
        assert_eq!(f.seen().ip().to_string(), "2001:db8:1::1");
        f.talk(&mut fw);
    });
}

/// C099: a forward to a host outside: what comes in by the WAN goes out by it, behind our address.
#[test]
fn a_forward_may_lead_back_outside() {
    for_workers([1, 2, 4, 8], |setup| {
        let mut fw = Firewall::with(setup.forward_tcp(8080, "198.51.100.50:80"));
        let dialled = "203.0.113.2:8080".parse().unwrap();
        let between = Flow::between(WAN, OUTSIDE, WAN, "198.51.100.50:80");
        let mut f = Flow { dialled, ..between }.open(&mut fw);
        assert_eq!(f.seen().ip().to_string(), "203.0.113.2");
        f.talk(&mut fw);
    });
}

/// C103: a neighbour that is known but old is sent to, and control is told that it is used.
#[test]
fn a_stale_neighbour_is_used_and_marked() {
    let mut fw = Firewall::with(Setup::default().forward_udp(5353, "192.168.1.10:53"));
    fw.neighbour(LAN, "192.168.1.10", NeighbourState::Stale);
    let mut f = Flow::inward(OUTSIDE, "203.0.113.2:5353", "192.168.1.10:53");
    f.exchange(&mut fw);
    let neighbours = &fw.snapshot().neighbours;
    let slot = neighbours.find(LAN.interface(), f.server.ip()).unwrap();
    assert!(neighbours.take_used(slot));
}

/// C103, C071: errors wait for their next hop as other packets do.
#[test]
fn an_error_waits_for_its_next_hop_and_is_then_translated() {
    let mut fw = Firewall::with(Setup::default().forward_udp(5353, "192.168.1.10:53"));
    let mut f = Flow::inward(OUTSIDE, "203.0.113.2:5353", "192.168.1.10:53");
    f.exchange(&mut fw);
    let arrived = f.at_client(&f.tell());
    fw.neighbour(LAN, "192.168.1.10", NeighbourState::Incomplete);
    let report = icmp("198.51.100.1", arrived.src, 11, 0, 0, &arrived.build());
    fw.wan(report).held();
    f.try_c2s(&mut fw, &f.ask()).held();
    fw.neighbour(LAN, "192.168.1.10", NeighbourState::Reachable);
    let expected = icmp("198.51.100.1", "192.168.1.10", 11, 0, 0, &f.tell().hop().build()).hop();
    assert_eq!(fw.resume().all(LAN), [expected, f.at_server(&f.ask())]);
}
