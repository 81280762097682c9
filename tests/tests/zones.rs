//! Zones: networks that use the same addresses, kept apart (nf_conntrack_zones). C186

use std::net::{IpAddr, SocketAddr};

use postern_core::conntrack::entry::flags;
use postern_core::forward::{NeighbourState, RouteKind};
use postern_core::helper::{Helpers, Kind};
use postern_core::pipeline::ConnectionView;
use postern_core::verdict::DropReason;
use postern_tests::fragments::{cut, reassemble};
use postern_tests::packet::{Address, Endpoint, Pkt, echo_reply, echo_request, icmp, tcp, udp};
use postern_tests::{At, Firewall, Flow, HOST_LAN, LAN, LAN2, Sent, Setup, WAN, for_workers};

const SERVER: &str = "192.0.2.9:53";
const HOST: &str = "192.168.1.2";
const OUTER: &str = "203.0.113.2";

/// Two customers with the same addresses, each behind an interface with a zone of its own.
fn customers(setup: Setup) -> Setup {
    let mut setup = setup.second_lan().zone(LAN, 1).zone(LAN2, 2);
    let own = ["192.168.1.254/24", "2001:db8:1::fe/64"];
    setup.set_addresses(LAN2, &own);
    setup
}

/// The same by rules that speak of what customers send alone, as one writes them for one address outside.
fn customers_by_rules(setup: Setup) -> Setup {
    let mut setup = customers(setup).zone(LAN, 0).zone(LAN2, 0);
    // Without zones of interfaces, one set of routes is all there is to hold a source against.
    setup.interfaces[2].reverse_path = postern_core::snapshot::ReversePath::Loose;
    setup.iptables("-t raw -A PREROUTING -i lan -j CT --zone-orig 1");
    setup.iptables("-t raw -A PREROUTING -i lan2 -j CT --zone-orig 2");
    setup
}

/// Both, at each number of workers.
fn for_customers(test: impl Fn(Setup)) {
    for make in [customers, customers_by_rules] {
        for_workers([1, 2, 4], |setup| test(make(setup)));
    }
}

fn zones(view: &ConnectionView) -> [u16; 2] {
    [view.original.zone(), view.reply.zone()]
}

fn all_zones(fw: &Firewall) -> Vec<[u16; 2]> {
    let mut all: Vec<_> = fw.connections().iter().map(zones).collect();
    all.sort_unstable();
    all
}

/// The same address and port of each customer, to one server: two connections, behind two ports outside; every answer
/// finds its own way back.
#[test]
fn customers_with_the_same_addresses_do_not_meet() {
    for_customers(|setup| {
        let mut fw = Firewall::with(setup);
        for port in [4000, 4001, 4002, 5000] {
            let client = SocketAddr::from(([192, 168, 1, 2], port));
            let mut flows = [LAN, LAN2].map(|at| Flow::between(at, client, WAN, SERVER));
            for _ in 0..3 {
                flows.iter_mut().for_each(|flow| flow.exchange(&mut fw));
            }
            assert_ne!(flows[0].seen(), flows[1].seen());
            assert_eq!(flows[0].seen().port(), port, "the first keeps its port");
            let mut tcp = [LAN, LAN2].map(|at| {
                Flow::between(at, client, WAN, "192.0.2.9:80").seqs(port.into(), 7).open(&mut fw)
            });
            for _ in 0..3 {
                tcp.iter_mut().for_each(|flow| flow.talk(&mut fw));
            }
            for flow in &mut tcp {
                flow.client_fin(&mut fw);
                flow.server_fin(&mut fw);
            }
        }
        let mut expected = [[[1, 0]; 8], [[2, 0]; 8]].concat();
        expected.sort_unstable();
        assert_eq!(all_zones(&fw), expected);
    });
}

/// The fast lane carries them: what the long way does, in as many packets.
#[test]
fn a_zone_of_an_interface_is_known_in_the_lane() {
    for v6 in [false, true] {
        let mut ends = Vec::new();
        for long_way in [false, true] {
            let setup = customers(Setup::default().routed());
            let mut fw = Firewall::with(if long_way { setup.long_way() } else { setup });
            fw.private_may_leave = true;
            let (client, server) = match v6 {
                false => ("192.168.1.2:4000", SERVER),
                true => ("[2001:db8:1::2]:4000", "[2001:db8:9::9]:53"),
            };
            let mut flow = Flow::between(LAN2, client, WAN, server);
            flow.exchange(&mut fw);
            fw.take_moved();
            (0..8).for_each(|_| flow.exchange(&mut fw));
            let view = fw.connection();
            assert_eq!(zones(&view), [2, 0]);
            // A packet of the lane is neither routed nor judged again, however it came to its connection.
            assert_eq!((fw.values().tracked, fw.values().connections_new), (18, 1));
            ends.push((view.packets, view.bytes, view.flags, view.remaining_ms));
        }
        assert_eq!(ends[0], ends[1]);
    }
}

/// Queries, and errors about what was sent: the quote is looked for in the zone of who reports.
#[test]
fn queries_and_errors_are_of_their_zone() {
    for_customers(|setup| {
        let mut fw = Firewall::with(setup);
        let ask = echo_request(HOST, "192.0.2.9", 7, 1);
        let mut outer = Vec::new();
        for at in [LAN, LAN2] {
            outer.push((at, fw.send(at, &ask).out(WAN).source().port()));
        }
        assert_ne!(outer[0].1, outer[1].1);
        for &(at, id) in &outer {
            let back = fw.wan(echo_reply("192.0.2.9", OUTER, id, 1)).out(at);
            assert_eq!(back, echo_reply("192.0.2.9", HOST, 7, 1).hop());
        }
        let client = SocketAddr::from(([192, 168, 1, 2], 4000));
        let mut flows = [LAN, LAN2].map(|at| Flow::between(at, client, WAN, SERVER));
        for flow in &mut flows {
            flow.exchange(&mut fw);
        }
        for flow in &flows {
            // A router outside reports about what the customer sent ...
            let quote = flow.at_server(&flow.ask()).build();
            let told = fw.wan(icmp("198.51.100.1", OUTER, 3, 1, 0, &quote)).out(flow.client_at);
            assert_eq!(told.destination().ip(), client.ip());
            // ... and the customer about what it was sent.
            let quote = flow.at_client(&flow.tell()).build();
            let told = fw.send(flow.client_at, icmp(HOST, "192.0.2.9", 3, 3, 0, &quote)).out(WAN);
            assert_eq!(told.source().ip(), OUTER.address());
        }
    });
}

/// What comes in fragments is gathered apart, and goes where the first one goes, whichever zone a rule put that in.
#[test]
fn fragments_are_of_their_zone() {
    for_customers(|setup| {
        let mut fw = Firewall::with(setup);
        let client = SocketAddr::from(([192, 168, 1, 2], 4000));
        let mut flows = [LAN, LAN2].map(|at| Flow::between(at, client, WAN, SERVER));
        let asked = flows.each_ref().map(|flow| flow.ask().payload([7; 100]).may_fragment().id(9));
        let parts = asked.each_ref().map(|asked| cut(&asked.build(), 9, &[32, 64]));
        // The same datagram, as far as anyone could tell but for the interface; the last parts come first.
        for part in (0..3).rev() {
            for (flow, parts) in flows.iter_mut().zip(&parts) {
                let sent = fw.send(flow.client_at, parts[part].clone());
                if part > 0 {
                    assert!(sent.outs.is_empty());
                    continue;
                }
                let arrived = whole(&sent, WAN);
                assert_eq!(arrived.destination(), flow.server);
                flow.seen = Some(arrived.source());
            }
        }
        assert_ne!(flows[0].seen(), flows[1].seen());
        for flow in &flows {
            let told = flow.tell().payload([9; 100]).may_fragment().id(3);
            let mut outs = Sent::default();
            for part in cut(&told.build(), 3, &[40]) {
                outs.outs.extend(fw.wan(part).outs);
            }
            assert_eq!(whole(&outs, flow.client_at).destination(), client);
        }
        let mut expected = [[1, 0], [2, 0]];
        expected.sort_unstable();
        assert_eq!(all_zones(&fw), expected);
    });
}

/// What came out at `at`, put together.
#[track_caller]
fn whole(sent: &Sent, at: At) -> Pkt {
    assert!(sent.outs.iter().all(|out| out.at == at), "{}", sent.describe());
    let fragments: Vec<_> = sent.outs.iter().map(|out| out.l3().to_vec()).collect();
    Pkt::decode(&reassemble(&fragments).expect("it is whole")).expect("it can be read")
}

/// A packet that waits for its next hop is taken up as what it came as.
#[test]
fn a_held_packet_is_taken_up_in_its_zone() {
    for_customers(|setup| {
        let mut fw = Firewall::with(setup);
        let gateway: IpAddr = "203.0.113.1".address();
        fw.neighbour(WAN, gateway, NeighbourState::Incomplete);
        let client = SocketAddr::from(([192, 168, 1, 2], 4000));
        for at in [LAN, LAN2] {
            fw.send(at, udp(client, SERVER)).held();
        }
        fw.neighbour(WAN, gateway, NeighbourState::Reachable);
        let sent = fw.resume().all(WAN);
        assert_eq!(sent.len(), 2);
        assert_ne!(sent[0].source(), sent[1].source());
        assert_eq!(all_zones(&fw), [[1, 0], [2, 0]]);
    });
}

/// A connection that is over makes way for another one of its zone.
#[test]
fn what_is_over_begins_anew_in_its_zone() {
    for_customers(|setup| {
        let mut fw = Firewall::with(setup);
        let client = SocketAddr::from(([192, 168, 1, 2], 4000));
        for at in [LAN, LAN2] {
            fw.send(at, udp(client, SERVER));
        }
        let before = fw.connections();
        fw.pass_untidied(std::time::Duration::from_secs(31));
        for at in [LAN, LAN2] {
            fw.send(at, udp(client, SERVER)).out(WAN);
        }
        let after = fw.connections();
        assert!(before.iter().all(|old| after.iter().all(|new| new.id != old.id)));
        assert_eq!(all_zones(&fw), [[1, 0], [2, 0]]);
    });
}

/// A forward leads to whom the routes lead to; his answers, which come in his zone, find it. And from inside too, by the
/// outer address.
#[test]
fn who_is_let_in_is_answered_from_his_zone() {
    for_customers(|setup| {
        let mut fw = Firewall::with(setup.forward_tcp(8080, "192.168.1.10:80"));
        for client in 1..16 {
            let client = SocketAddr::from(([198, 51, 100, client], 50_000));
            let mut flow =
                Flow::inward(client, "203.0.113.2:8080", "192.168.1.10:80").open(&mut fw);
            flow.talk(&mut fw);
        }
        let client = "192.168.1.2:4000";
        let hairpin = Flow {
            dialled: "203.0.113.2:8080".parse().unwrap(),
            ..Flow::between(LAN, client, LAN, "192.168.1.10:80")
        };
        hairpin.open(&mut fw).talk(&mut fw);
        // To the appliance itself, whoever asks.
        fw.change(|setup| setup.iptables("-I INPUT -j ACCEPT"));
        for (at, client) in [(LAN, client), (LAN2, "192.168.1.2:4001")] {
            let mut own = Flow::between(at, client, At::Host(at.interface()), "203.0.113.2:22");
            own.exchange(&mut fw);
            own.exchange(&mut fw);
        }
        let mut host = Flow::between(HOST_LAN, "192.168.1.1:53", LAN, "192.168.1.9:53");
        host.exchange(&mut fw);
    });
}

/// What a helper expects comes in where the peer is, and to the one customer who asked for it.
#[test]
fn what_is_expected_leads_to_who_asked() {
    for_workers([1, 2, 4], |setup| {
        let mut setup = customers(setup);
        setup.options.helpers = Helpers::NONE.with(Kind::Ftp);
        let mut fw = Firewall::with(setup);
        for (at, own_port) in [(LAN2, 40_000), (LAN, 40_001)] {
            let client = SocketAddr::from(([192, 168, 1, 2], 50_000));
            let control = Flow::between(at, client, WAN, "192.0.2.9:21").open(&mut fw);
            let said = format!("PORT 192,168,1,2,{},{}\r\n", own_port >> 8, own_port & 0xff);
            let said = control.client_segment().payload(said);
            let heard = fw.send(at, said).out(WAN);
            let text = String::from_utf8(heard.tcp().payload.clone()).unwrap();
            let numbers: Vec<u16> =
                text.trim_end()[5..].split(',').map(|n| n.parse().unwrap()).collect();
            let port = numbers[4] << 8 | numbers[5];
            let mut expected = None;
            for shard in 0.. {
                let more =
                    fw.snapshot().expectations.show(shard, fw.now.tick(), |e| expected = Some(e));
                if !more {
                    break;
                }
            }
            let expected = expected.expect("a connection is expected");
            assert_eq!((expected.zone, expected.via), (0, at.interface()));
            let data = tcp("192.0.2.9:20", (OUTER, port)).syn().seq(1);
            // Not from a customer who gives himself out for the server.
            let liar = if at == LAN { LAN2 } else { LAN };
            assert_eq!(fw.send(liar, &data).dropped(), DropReason::ReversePath);
            let arrived = fw.wan(&data).out(at);
            assert_eq!(arrived, data.hop().to((HOST, own_port)));
            let answer = tcp((HOST, own_port), "192.0.2.9:20").syn().seq(5).ack(2);
            assert_eq!(fw.send(at, &answer).out(WAN).source(), (OUTER, port).endpoint());
            // A change of routes does not lead it elsewhere.
            fw.change(|setup| {
                *setup = setup.clone().route("198.18.0.0/15", RouteKind::Blackhole, WAN, None);
            });
            let more = tcp("192.0.2.9:20", (OUTER, port)).seq(2).ack(6).payload("data");
            assert_eq!(fw.wan(&more).out(at), more.hop().to((HOST, own_port)));
        }
    });
}

/// An endpoint-independent mapping is one customer's, and lets in to him.
#[test]
fn mappings_are_of_their_zone() {
    const RULE: &str =
        "-t nat -A POSTROUTING -o wan -j MASQUERADE --endpoint-independent filtering";
    for_workers([1, 2, 4], |setup| {
        let mut setup = customers(setup.routed());
        setup.iptables(RULE);
        let mut fw = Firewall::with(setup);
        let client = SocketAddr::from(([192, 168, 1, 2], 4000));
        let mut ends = Vec::new();
        for at in [LAN, LAN2] {
            let mut flow = Flow::between(at, client, WAN, SERVER);
            flow.exchange(&mut fw);
            let mut other = Flow::between(at, client, WAN, "198.51.100.7:99");
            other.exchange(&mut fw);
            assert_eq!(flow.seen(), other.seen(), "it appears as one to everybody");
            ends.push((at, flow.seen()));
        }
        assert_ne!(ends[0].1, ends[1].1);
        for (at, outer) in ends {
            let stranger = udp("198.51.100.99:7", outer);
            assert_eq!(fw.wan(&stranger).out(at), stranger.hop().to(client));
            let back = udp(client, "198.51.100.99:7");
            assert_eq!(fw.send(at, &back).out(WAN).source(), outer);
        }
    });
}

/// Whoever pulls a trigger is let in to, unless the routes would lead to another one of his address.
#[test]
fn a_trigger_is_not_pulled_for_another_customer() {
    for_workers([1, 4], |setup| {
        let mut fw = Firewall::with(customers(setup).trigger_udp(6112, (6113, 6115), 60));
        let inbound = udp("198.51.100.7:9", "203.0.113.2:6113");
        fw.send(LAN2, udp("192.168.1.2:4000", "192.0.2.9:6112")).out(WAN);
        fw.wan(&inbound).dropped();
        fw.send(LAN, udp("192.168.1.2:4000", "192.0.2.9:6112")).out(WAN);
        assert_eq!(fw.wan(&inbound).out(LAN), inbound.hop().to("192.168.1.2:6113"));
    });
}

/// Each zone has counts of its own.
#[test]
fn connections_are_counted_in_their_zone() {
    for_customers(|setup| {
        let mut setup = setup.per_source(5);
        setup.iptables("-I FORWARD -p tcp -m connlimit --connlimit-above 2 -j DROP");
        let mut fw = Firewall::with(setup);
        let host = |port| SocketAddr::from(([192, 168, 1, 2], port));
        for at in [LAN, LAN2] {
            for port in 4000..4002 {
                fw.send(at, tcp(host(port), SERVER).syn()).out(WAN);
            }
            let third = fw.send(at, tcp(host(4002), SERVER).syn());
            assert_eq!(third.dropped(), DropReason::DeniedByRule);
            for port in 5000..5003 {
                fw.send(at, udp(host(port), SERVER)).out(WAN);
            }
            assert_eq!(fw.send(at, udp(host(5003), SERVER)).dropped(), DropReason::SourceLimit);
        }
        // What ends makes room in its own zone.
        let ended = fw.connections().into_iter().find(|c| c.original.zone() == 2).unwrap();
        assert!(fw.delete(ended.id));
        assert_eq!(fw.lan(udp(host(6000), SERVER)).dropped(), DropReason::SourceLimit);
        fw.send(LAN2, udp(host(6000), SERVER)).out(WAN);
        // Counted anew under other rules.
        fw.change(|setup| setup.iptables("-A FORWARD -p udp --dport 9 -j DROP"));
        fw.housekeep(10_000);
        for at in [LAN, LAN2] {
            assert_eq!(fw.send(at, udp(host(7000), SERVER)).dropped(), DropReason::SourceLimit);
        }
    });
}

/// `--zone` speaks of both directions: replies are looked for in the zone of their own rule, and nowhere else.
#[test]
fn a_zone_of_both_directions_needs_a_rule_for_both() {
    for_workers([1, 2, 4], |setup| {
        let mut setup = setup;
        setup.iptables("-t raw -A PREROUTING -i lan -j CT --zone 7");
        let mut fw = Firewall::with(setup.clone());
        let mut flow = Flow::outward("192.168.1.2:4000", SERVER);
        flow.c2s(&mut fw, &flow.ask());
        assert_eq!(zones(&fw.connection()), [7, 7]);
        fw.wan(flow.tell()).dropped();
        assert_eq!(fw.connection().flags & flags::SEEN_REPLY, 0);

        setup.iptables("-t raw -A PREROUTING -i wan -j CT --zone 7");
        let mut fw = Firewall::with(setup);
        let mut flow = Flow::outward("192.168.1.2:4000", SERVER);
        (0..3).for_each(|_| flow.exchange(&mut fw));
        assert_eq!(zones(&fw.connection()), [7, 7]);
    });
}

/// `--zone-reply` speaks of the way back alone; rules speak louder than interfaces; the first rule has the word.
#[test]
fn a_zone_of_one_direction_is_of_that_one() {
    for_workers([1, 2], |setup| {
        let mut setup = setup.zone(LAN, 3).zone(WAN, 4);
        for rule in [
            "-i wan -p udp --sport 53 -j CT --zone-reply 9",
            "-i lan -p udp --dport 53 -j CT --zone-reply 9",
            "-i lan -p udp --dport 54 -j CT --zone-orig 8",
            "-i lan -p udp --dport 55 -j CT",
            "-i lan -p udp -j CT --zone 99",
        ] {
            setup.iptables(&format!("-t raw -A PREROUTING {rule}"));
        }
        let mut fw = Firewall::with(setup);
        for (port, expected) in [(53, [3, 9]), (54, [8, 4]), (55, [3, 4])] {
            let mut flow = Flow::outward("192.168.1.2:4000", ("192.0.2.9", port));
            (0..3).for_each(|_| flow.exchange(&mut fw));
            let views = fw.connections();
            let view = views.iter().find(|c| c.original.dst_id() == port).unwrap();
            assert_eq!(zones(view), expected, "to port {port}");
        }
    });
}

/// Routed, clients of two zones with one endpoint are told apart by the port, as without translation nobody else could.
#[test]
fn without_translation_the_port_tells_customers_apart() {
    for_customers(|setup| {
        let mut fw = Firewall::with(setup.routed());
        fw.private_may_leave = true;
        let client = SocketAddr::from(([192, 168, 1, 2], 4000));
        let mut flows = [LAN, LAN2].map(|at| Flow::between(at, client, WAN, SERVER));
        for _ in 0..3 {
            flows.iter_mut().for_each(|flow| flow.exchange(&mut fw));
        }
        assert_eq!(flows[0].seen(), client);
        assert_eq!(flows[1].seen().ip(), client.ip());
        assert_ne!(flows[1].seen(), client);
    });
}

/// What spoofs an address of a zone's network from elsewhere is refused, as without zones.
#[test]
fn a_zone_is_no_way_around_the_source_check() {
    let mut fw = Firewall::with(customers(Setup::default()));
    let spoofed = udp("192.168.1.2:4000", SERVER);
    assert_eq!(fw.wan(&spoofed).dropped(), DropReason::ReversePath);
    let foreign = udp("198.51.100.7:4000", SERVER);
    assert_eq!(fw.send(LAN2, &foreign).dropped(), DropReason::ReversePath);
}

/// A change of zones leaves connections where they began: what comes then begins others.
#[test]
fn a_change_of_zones_is_for_new_connections() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        let mut flow = Flow::outward("192.168.1.2:4000", SERVER);
        flow.exchange(&mut fw);
        fw.change(|setup| *setup = setup.clone().zone(LAN, 5));
        let mut again = Flow::outward("192.168.1.2:4000", SERVER);
        again.exchange(&mut fw);
        assert_ne!(flow.seen(), again.seen());
        assert_eq!(all_zones(&fw), [[0, 0], [5, 0]]);
    });
}
