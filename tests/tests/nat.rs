//! Masquerade: which address and port a connection appears behind, and who may answer.

use std::collections::HashSet;
use std::net::SocketAddr;

use postern_core::conntrack::entry::flags;
use postern_core::nat::exhausted::Shortage;
use postern_core::verdict::DropReason;
use postern_tests::packet::{echo_request, other, tcp, udp};
use postern_tests::{Firewall, Flow, HOST_WAN, LAN, LAN2, Setup, WAN, for_workers, moved};

/// C072: the check that nothing private leaves by the WAN is made on every packet of every test; here on
/// all sorts of packets at once.
#[test]
fn whatever_leaves_by_the_wan_has_the_wan_address() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        for pkt in [
            udp("192.168.1.2:5000", "192.0.2.9:53"),
            tcp("192.168.1.2:5000", "192.0.2.9:80").syn(),
            echo_request("192.168.1.2", "192.0.2.9", 1, 1),
            other("192.168.1.2", "192.0.2.9", 47, b"gre"),
            udp("192.168.1.2:5000", "192.0.2.9:53").options(&[7, 7, 4, 0, 0, 0, 0]),
        ] {
            let out = fw.lan(&pkt).out(WAN);
            assert_eq!(out, pkt.from(("203.0.113.2", out.source().port())).hop());
        }
    });
}

/// C072: a renumbered WAN is what new connections appear behind.
#[test]
fn masquerade_follows_the_current_address() {
    let mut fw = Firewall::new();
    fw.change(|setup| {
        setup.set_addresses(WAN, &["198.51.100.7/24"]);
        setup.gateways = vec!["198.51.100.1".parse().unwrap()];
    });
    let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
    flow.exchange(&mut fw);
    assert_eq!(flow.seen().to_string(), "198.51.100.7:5000");
}

/// C073
#[test]
fn two_hosts_with_one_source_port_to_one_server_are_told_apart() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        let mut first = Flow::outward("192.168.1.2:5000", "192.0.2.9:80").open(&mut fw);
        let mut second = Flow::outward("192.168.1.3:5000", "192.0.2.9:80").open(&mut fw);
        assert_ne!(first.seen(), second.seen());
        second.talk(&mut fw);
        first.talk(&mut fw);
        second.talk(&mut fw);
    });
}

/// C073: many hosts.
#[test]
fn two_hundred_hosts_with_one_source_port_are_told_apart() {
    for_workers([1, 4], |setup| {
        let mut fw = Firewall::with(setup.capacity(1024));
        let mut seen = HashSet::new();
        let mut flows = Vec::new();
        for host in 2..202 {
            let client: SocketAddr = ([192, 168, 1, host], 40_001).into();
            let mut flow = Flow::outward(client, "192.0.2.9:53");
            flow.c2s(&mut fw, &flow.ask());
            assert!(seen.insert(flow.seen()), "{} twice", flow.seen());
            assert_eq!(flow.seen().port() % 2, 1, "RFC 4787 REQ-4: parity is kept");
            flows.push(flow);
        }
        for flow in &mut flows {
            flow.s2c(&mut fw, &flow.tell());
        }
    });
}

/// C075
#[test]
fn the_source_port_is_kept_when_it_is_free() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup.capacity(1024));
        for port in [1, 22, 1023, 1024, 5000, 40_000, 65_535] {
            let client: SocketAddr = ([192, 168, 1, 2], port).into();
            let mut flow = Flow::outward(client, "192.0.2.9:53");
            flow.exchange(&mut fw);
            assert_eq!(flow.seen().port(), port);
        }
        moved!(fw, received: 14, forwarded: 14, tracked: 14, connections_new: 7, rerouted: 7, rejudged: 7);
    });
}

/// C076
#[test]
fn privileged_ports_map_to_privileged_ones_and_others_never_do() {
    let mut fw = Firewall::with(Setup::default().capacity(1024));
    for port in [500, 1023, 1024, 5000] {
        for host in 2..40 {
            let client: SocketAddr = ([192, 168, 1, host], port).into();
            let mut flow = Flow::outward(client, "192.0.2.9:53");
            flow.c2s(&mut fw, &flow.ask());
            assert_eq!(flow.seen().port() < 1024, port < 1024, "{client} as {}", flow.seen());
            assert_ne!(flow.seen().port(), 0);
        }
    }
}

/// C077: our class is address-and-port dependent, with preservation: one inside endpoint is seen as the same
/// external one by all servers unless there is a conflict.
#[test]
fn mapping_depends_on_the_destination_only_where_ports_conflict() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        let mut to_first = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
        to_first.exchange(&mut fw);
        let mut rival = Flow::outward("192.168.1.3:5000", "192.0.2.9:53");
        rival.exchange(&mut fw);
        let mut rival_elsewhere = Flow::outward("192.168.1.3:5000", "192.0.2.10:53");
        rival_elsewhere.exchange(&mut fw);
        assert_eq!(to_first.seen().port(), 5000);
        assert_ne!(rival.seen().port(), 5000);
        assert_eq!(rival_elsewhere.seen().port(), 5000, "free towards another server");
    });
}

/// C078: filtering is address-and-port dependent.
#[test]
fn only_the_peer_itself_may_answer() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
        flow.c2s(&mut fw, &flow.ask());
        for stranger in ["192.0.2.10:53", "192.0.2.9:54", "192.0.2.10:5000"] {
            let sent = fw.wan(udp(stranger, flow.seen()));
            assert_eq!(sent.dropped(), DropReason::DeniedByPolicy, "{stranger}");
        }
        flow.s2c(&mut fw, &flow.tell());
    });
}

/// C079
#[test]
fn a_third_party_cannot_use_a_tcp_mapping() {
    let mut fw = Firewall::new();
    let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:80").open(&mut fw);
    let syn = tcp("192.0.2.10:80", flow.seen()).syn();
    assert_eq!(fw.wan(syn).dropped(), DropReason::DeniedByPolicy);
    let data = flow.server_segment().payload(b"injected").from("192.0.2.10:80");
    assert_eq!(fw.wan(data).dropped(), DropReason::TcpNotSyn);
    flow.talk(&mut fw);
}

/// C080: with 16 workers each has 64 privileged ports, which is few enough to use them all up.
#[test]
fn when_ports_run_out_further_flows_are_dropped_and_recover_when_some_are_free() {
    let mut fw = Firewall::with(Setup::default().workers(16));
    let owned = (1..1024u16).filter(|port| port / 2 % 16 == 500 / 2 % 16).count();
    let flow = |host: usize| {
        let client: SocketAddr = ([192, 168, 1, host as u8], 500).into();
        Flow::outward(client, "192.0.2.9:500")
    };
    let mut flows: Vec<_> = (0..owned).map(|i| flow(i + 2)).collect();
    for flow in &mut flows {
        flow.exchange(&mut fw);
    }
    fw.take_moved();
    for host in 100..110 {
        let late = flow(host);
        assert_eq!(late.try_c2s(&mut fw, &late.ask()).dropped(), DropReason::PortsExhausted);
    }
    moved!(fw, received: 10, PortsExhausted: 10);
    let shortage = Shortage { address: [203, 0, 113, 2].into(), protocol: 17, packets: 10 };
    assert_eq!(fw.shortages(), [shortage]);
    // Another server is another matter.
    let mut elsewhere = Flow::outward("192.168.1.100:500", "192.0.2.10:500");
    elsewhere.exchange(&mut fw);
    // Existing ones are unharmed; and when they are gone, there is room again.
    for flow in &mut flows {
        flow.exchange(&mut fw);
    }
    fw.pass_secs(31);
    let mut late = flow(100);
    late.exchange(&mut fw);
}

/// C080: the same with the fewest free ports there can be.
#[test]
fn the_last_free_port_is_found() {
    let mut fw = Firewall::with(Setup::default().workers(16));
    let mut seen = HashSet::new();
    for host in 2..66u8 {
        let mut flow = Flow::outward(SocketAddr::from(([192, 168, 1, host], 500)), "192.0.2.9:500");
        flow.exchange(&mut fw);
        assert!(seen.insert(flow.seen()));
    }
    assert_eq!(seen.len(), 64);
}

/// C082
#[test]
fn without_a_matching_rule_nothing_is_translated_even_if_tuples_collide() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup.routed());
        fw.private_may_leave = true;
        let mut flows: Vec<_> = (2..12u8)
            .map(|host| {
                Flow::outward(SocketAddr::from(([192, 168, 1, host], 5000)), "192.0.2.9:53")
            })
            .collect();
        for _ in 0..3 {
            for flow in &mut flows {
                flow.exchange(&mut fw);
                assert_eq!(flow.seen(), flow.client);
            }
            for connection in fw.connections() {
                assert_eq!(connection.flags & (flags::SNAT | flags::DNAT), 0);
                assert_eq!(connection.original, connection.reply.inverted());
                assert!(fw.delete(connection.id));
            }
        }
    });
}

/// C082: between two LANs nothing is translated either.
#[test]
fn traffic_between_two_lans_is_routed_as_it_is() {
    let mut setup = Setup::default().second_lan();
    setup.iptables("-A FORWARD -i lan -o lan2 -j ACCEPT");
    let mut fw = Firewall::with(setup);
    let mut flow = Flow::between(LAN, "192.168.1.2:5000", LAN2, "192.168.2.9:80").open(&mut fw);
    flow.talk(&mut fw);
    assert_eq!(flow.seen(), flow.client);
}

/// C084
#[test]
fn other_protocols_are_translated_by_address_both_ways() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        for protocol in [47, 50, 51, 253] {
            let unsolicited = other("192.0.2.9", "203.0.113.2", protocol, b"in");
            assert_eq!(fw.wan(&unsolicited).dropped(), DropReason::DeniedByPolicy);
            let there = other("192.168.1.2", "192.0.2.9", protocol, b"there");
            assert_eq!(fw.lan(&there).out(WAN), there.from("203.0.113.2:0").hop());
            let back = other("192.0.2.9", "203.0.113.2", protocol, b"back");
            assert_eq!(fw.wan(&back).out(LAN), back.to("192.168.1.2:0").hop());
            // The address alone tells connections apart: a second host cannot have the same server.
            let second = other("192.168.1.3", "192.0.2.9", protocol, b"there");
            assert_eq!(fw.lan(second).dropped(), DropReason::TupleInUse);
        }
    });
}

/// C086
#[test]
fn packets_from_outside_to_private_addresses_are_dropped() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
        flow.exchange(&mut fw);
        // Even by the peer, even to the very socket.
        let bypass = udp("192.0.2.9:53", "192.168.1.2:5000");
        assert_eq!(fw.wan(bypass).dropped(), DropReason::DeniedByPolicy);
        let syn = tcp("192.0.2.9:53", "192.168.1.2:80").syn();
        assert_eq!(fw.wan(syn).dropped(), DropReason::DeniedByPolicy);
    });
}

/// C087
#[test]
fn spoofed_sources_are_dropped() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        let foreign = [
            (WAN, "192.168.1.2", DropReason::ReversePath),
            (LAN, "192.0.2.9", DropReason::ReversePath),
            (LAN, "203.0.113.9", DropReason::ReversePath),
        ];
        for (at, src, reason) in foreign {
            let dst = if at == LAN { "192.0.2.9:53" } else { "203.0.113.2:53" };
            assert_eq!(fw.send(at, udp((src, 5000), dst)).dropped(), reason, "{src}");
        }
        for src in [
            "127.0.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "255.255.255.255",
            "224.0.0.1",
            "239.1.2.3",
            "240.0.0.1",
            "192.168.1.255",
            "203.0.113.255",
            "192.168.1.1",
            "203.0.113.2",
        ] {
            for (at, dst) in
                [(LAN, "192.0.2.9:53"), (WAN, "203.0.113.2:53"), (WAN, "192.168.1.2:53")]
            {
                let sent = fw.send(at, udp((src, 5000), dst));
                assert_eq!(sent.dropped(), DropReason::MartianSource, "{src} at {at:?}");
                let sent = fw.send(at, tcp((src, 5000), dst).syn());
                assert_eq!(sent.dropped(), DropReason::MartianSource, "{src} at {at:?}");
            }
        }
        assert!(fw.connections().is_empty());
    });
}

/// C089
#[test]
fn land_packets_are_answered_by_nothing() {
    let mut fw = Firewall::with(Setup::default().forward_tcp(8080, "192.168.1.10:80"));
    for at in [LAN, WAN] {
        for address in ["203.0.113.2", "192.168.1.1", "192.168.1.10", "192.0.2.9"] {
            for port in [80, 8080] {
                let land = tcp((address, port), (address, port)).syn();
                assert!(fw.send(at, land).is_silent(), "{address} at {at:?}");
            }
        }
    }
    assert!(fw.connections().is_empty());
}

/// C090
#[test]
fn multicast_and_broadcast_are_not_forwarded() {
    let mut fw = Firewall::new();
    let not_forwarded = |fw: &mut Firewall, at, src: &str, dst: &str| {
        let sent = fw.send(at, udp((src, 5000), (dst, 5353)));
        let wires = sent.outs.iter().filter(|out| matches!(out.at, postern_tests::At::Wire(_)));
        assert_eq!(wires.count(), 0, "{src} > {dst}: {}", sent.describe());
    };
    for dst in
        ["224.0.0.251", "239.255.255.250", "255.255.255.255", "192.168.1.255", "203.0.113.255"]
    {
        not_forwarded(&mut fw, LAN, "192.168.1.2", dst);
        not_forwarded(&mut fw, WAN, "192.0.2.9", dst);
    }
    for dst in ["192.168.1.0", "203.0.113.0", "240.0.0.1", "0.0.0.0", "127.0.0.1"] {
        not_forwarded(&mut fw, LAN, "192.168.1.2", dst);
        not_forwarded(&mut fw, WAN, "192.0.2.9", dst);
    }
}

/// C091: what configuration cannot exclude, a lost lease, is a named drop.
#[test]
fn a_wan_without_an_address_is_a_named_drop_and_recovers() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        fw.change(|setup| setup.set_addresses(WAN, &["2001:db8:2::2/64"]));
        let flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
        for _ in 0..3 {
            assert_eq!(flow.try_c2s(&mut fw, &flow.ask()).dropped(), DropReason::NoExternalAddress);
        }
        fw.change(|setup| setup.set_addresses(WAN, &["203.0.113.77/24"]));
        let mut flow = flow;
        flow.exchange(&mut fw);
        assert_eq!(flow.seen().to_string(), "203.0.113.77:5000");
    });
}

/// C092
#[test]
fn one_host_keeps_one_of_several_wan_addresses() {
    let setup = Setup::default().address(WAN, "203.0.113.3/24").address(WAN, "203.0.113.4/24");
    let mut fw = Firewall::with(setup);
    let mut seen = HashSet::new();
    for port in 5000..5020 {
        let mut flow = Flow::outward(("192.168.1.2", port), ("192.0.2.9", port));
        flow.exchange(&mut fw);
        seen.insert(flow.seen().ip());
    }
    assert_eq!(seen.len(), 1);
}

/// C073: the appliance's own connections share its address with everybody's.
#[test]
fn the_hosts_own_ports_and_those_of_the_lan_do_not_clash() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        let mut host = Flow::between(HOST_WAN, "203.0.113.2:5000", WAN, "192.0.2.9:53");
        host.exchange(&mut fw);
        assert_eq!(host.seen(), host.client);
        let mut lan = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
        lan.exchange(&mut fw);
        assert_ne!(lan.seen(), host.seen());
        host.exchange(&mut fw);

        let mut lan = Flow::outward("192.168.1.2:6000", "192.0.2.9:53");
        lan.exchange(&mut fw);
        let mut host = Flow::between(HOST_WAN, "203.0.113.2:6000", WAN, "192.0.2.9:53");
        host.exchange(&mut fw);
        assert_ne!(lan.seen(), host.seen(), "the later one gives way");
        lan.exchange(&mut fw);
    });
}

/// C087, C079: the packets of a live connection are believed only where they can come from.
#[test]
fn packets_of_a_live_connection_on_the_wrong_wire_are_dropped() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:80").open(&mut fw);
        let segment = flow.client_segment().payload(b"spoofed");
        assert_eq!(fw.wan(segment).dropped(), DropReason::ReversePath);
        let answer = flow.server_segment();
        assert_eq!(fw.lan(answer).dropped(), DropReason::ReversePath);
        flow.talk(&mut fw);
    });
}
