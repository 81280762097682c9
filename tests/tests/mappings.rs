//! Endpoint-independent mapping and filtering: RFC 4787 REQ-1, REQ-8, REQ-9; RFC 5382 REQ-1, REQ-3, REQ-8.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use postern_core::helper::{Helpers, Kind};
use postern_core::nat::mapping::{Cursor, Mapping};
use postern_core::rules::Independence;
use postern_core::verdict::DropReason;
use postern_tests::packet::{echo_reply, echo_request, icmp, tcp, udp};
use postern_tests::{Draw, Firewall, Flow, HOST_WAN, LAN, LAN2, Setup, WAN, for_workers, moved};

const MAPPING: &str = "-t nat -A POSTROUTING -o wan -j MASQUERADE --endpoint-independent mapping";
const FILTERING: &str =
    "-t nat -A POSTROUTING -o wan -j MASQUERADE --endpoint-independent filtering";

fn with(setup: Setup, rules: &[&str]) -> Firewall {
    let mut setup = setup.routed();
    rules.iter().for_each(|rule| setup.iptables(rule));
    Firewall::with(setup)
}

fn host(last: u8, port: u16) -> SocketAddr {
    ([192, 168, 1, last], port).into()
}

/// All mappings that live.
fn mappings(fw: &Firewall) -> Vec<Mapping> {
    let mut all = Vec::new();
    let mut next = Some(Cursor::default());
    while let Some(cursor) = next {
        next = fw.snapshot().mappings.show(cursor, fw.now.tick(), |mapping| all.push(mapping));
    }
    all
}

/// C077; RFC 4787 REQ-1, REQ-2, RFC 5382 REQ-1: whomever it talks to, and whoever else wants its port, an inside endpoint
/// appears as one external endpoint, of TCP and of UDP.
#[test]
fn an_inside_endpoint_appears_as_one_to_everybody() {
    let by_interface = |mut setup: Setup| {
        setup.interfaces[1].independent = Some(Independence::Mapping);
        Firewall::with(setup)
    };
    let snat = "-t nat -A POSTROUTING -o wan -j SNAT --to-source 203.0.113.8-203.0.113.11 \
                --endpoint-independent mapping";
    let ways: [&dyn Fn(Setup) -> Firewall; 4] = [
        &by_interface,
        &|setup| with(setup, &[MAPPING]),
        &|setup| with(setup, &[snat]),
        &|setup| with(setup, &[&format!("{MAPPING} --random")]),
    ];
    for way in ways {
        for_workers([1, 2, 4], |setup| {
            let mut fw = way(setup.capacity(1024));
            let mut seen: HashMap<(bool, SocketAddr), SocketAddr> = HashMap::new();
            for round in 0..120u16 {
                // Few hosts and ports, so that they conflict; many servers.
                let client = host(2 + (round % 3) as u8, 5000 + round / 3 % 4);
                let server = SocketAddr::from(([192, 0, 2, 1 + (round % 50) as u8], 53 + round));
                let is_tcp = round % 2 == 0;
                let mut flow = Flow::outward(client, server);
                if is_tcp {
                    flow = flow.open(&mut fw);
                    flow.talk(&mut fw);
                } else {
                    flow.exchange(&mut fw);
                }
                let known = *seen.entry((is_tcp, client)).or_insert(flow.seen());
                assert_eq!(flow.seen(), known, "{client} to {server}");
            }
            for is_tcp in [false, true] {
                let of: Vec<_> = seen.iter().filter(|((tcp, _), _)| *tcp == is_tcp).collect();
                let external: HashSet<_> = of.iter().map(|(_, external)| **external).collect();
                assert_eq!(external.len(), of.len(), "no two share one: RFC 4787 REQ-3");
            }
            assert_eq!(fw.values().mappings_made, seen.len() as u64);
            assert_eq!(mappings(&fw).len(), seen.len());
        });
    }
}

/// C078, C079: the mapping alone opens nothing.
#[test]
fn with_independent_mapping_strangers_stay_out() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = with(setup, &[MAPPING]);
        let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
        flow.exchange(&mut fw);
        for stranger in ["192.0.2.9:54", "192.0.2.10:53"] {
            let sent = fw.wan(udp(stranger, flow.seen()));
            assert_eq!(sent.dropped(), DropReason::DeniedByPolicy);
            let sent = fw.wan(tcp(stranger, flow.seen()).syn());
            assert_eq!(sent.dropped(), DropReason::DeniedByPolicy);
        }
        flow.exchange(&mut fw);
    });
}

/// C078; RFC 4787 REQ-8, RFC 5382 REQ-3: with endpoint-independent filtering anybody gets in at the mapped port, over the
/// rule of FORWARD that lets in what is translated; at no other port, and with no other protocol.
#[test]
fn with_independent_filtering_strangers_get_in_at_the_mapped_port() {
    for rule in [
        FILTERING,
        "-t nat -A POSTROUTING -o wan -j SNAT --to-source 203.0.113.9 --endpoint-independent filtering",
    ] {
        for_workers([1, 2, 4], |setup| {
            let mut fw = with(setup.capacity(1024), &[rule]);
            for port in 5000..5008 {
                // The second host does not keep its port.
                for last in [2, 3] {
                    let mut flow = Flow::outward(host(last, port), "192.0.2.9:53");
                    flow.exchange(&mut fw);
                    for stranger in ["192.0.2.9:54", "198.51.100.7:4000"] {
                        let mut inward = Flow::inward(stranger, flow.seen(), flow.client);
                        inward.exchange(&mut fw);
                        assert_eq!(inward.seen().to_string(), stranger, "seen as who it is");
                        inward.exchange(&mut fw);
                        // C070: the host's error about it leaves translated.
                        let about = inward.at_server(&inward.ask());
                        let error = icmp(flow.client.ip(), about.src, 3, 3, 0, &about.build());
                        assert_eq!(fw.lan(error).out(WAN).source().ip(), flow.seen().ip());
                    }
                    let syn = tcp("198.51.100.7:4000", flow.seen()).syn();
                    assert_eq!(fw.wan(syn).dropped(), DropReason::DeniedByPolicy, "TCP");
                    let mut dialled = Flow::outward(host(last, port), "192.0.2.9:80").open(&mut fw);
                    let mut stream =
                        Flow::inward("198.51.100.7:4000", dialled.seen(), dialled.client)
                            .open(&mut fw);
                    stream.talk(&mut fw);
                    dialled.talk(&mut fw);
                    // What is no first packet is none here either.
                    let stray = tcp("198.51.100.8:4000", dialled.seen()).ack(1);
                    assert_eq!(fw.wan(stray).dropped(), DropReason::TcpNotSyn);
                }
            }
            let free =
                udp("192.0.2.9:54", (mappings(&fw)[0].external.ip().to_string().as_str(), 6000));
            assert_eq!(fw.wan(free).dropped(), DropReason::DeniedByPolicy);
            assert_eq!(fw.values().mappings_made, 32);
        });
    }
}

/// The rules of FORWARD judge who comes in by a mapping; what they refuse leaves nothing behind.
#[test]
fn rules_judge_who_comes_in_by_a_mapping() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = with(setup, &[FILTERING, "-I FORWARD -i wan -s 198.51.100.7 -j DROP"]);
        let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
        flow.exchange(&mut fw);
        let before = mappings(&fw);
        let refused = fw.wan(udp("198.51.100.7:4000", flow.seen()));
        assert_eq!(refused.dropped(), DropReason::DeniedByRule);
        assert_eq!((fw.connections().len(), mappings(&fw)), (1, before));
        Flow::inward("198.51.100.8:4000", flow.seen(), flow.client).exchange(&mut fw);
        assert_eq!(mappings(&fw)[0].connections, 2);
        // Without the rule that accepts what is translated, nobody is let in.
        fw.change(|setup| {
            setup.iptables("-D FORWARD -m conntrack --ctstate DNAT -j ACCEPT");
        });
        let refused = fw.wan(udp("198.51.100.9:4000", flow.seen()));
        assert_eq!(refused.dropped(), DropReason::DeniedByPolicy);
        flow.exchange(&mut fw);
    });
}

/// C046; RFC 4787 REQ-5, REQ-6: five minutes after the last packet of its last connection, however short that one's own
/// timeout is, and not a millisecond later.
#[test]
fn a_mapping_stays_for_a_while_after_its_last_connection() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = with(setup, &[FILTERING]);
        let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
        flow.c2s(&mut fw, &flow.ask());
        let mut elsewhere = Flow::outward("192.168.1.2:5000", "192.0.2.10:53");
        fw.pass_secs(20);
        elsewhere.c2s(&mut fw, &elsewhere.ask()); // outbound packets refresh it
        fw.pass_secs(40);
        assert!(fw.connections().is_empty(), "both are over: they had no answer");
        assert_eq!(mappings(&fw)[0].connections, 0);
        fw.pass(Duration::from_millis(260_000 - 1));
        assert_eq!(mappings(&fw).len(), 1);
        let stranger = udp("198.51.100.7:4000", flow.seen());
        fw.wan(&stranger).out(LAN);
        // That one's unanswered packet holds it, and then lets go.
        fw.pass_secs(31);
        assert!(fw.connections().is_empty());
        fw.pass_secs(270);
        assert_eq!(fw.wan(&stranger).dropped(), DropReason::DeniedByPolicy);
        assert!(mappings(&fw).is_empty());
        assert_eq!(fw.snapshot().mappings.len(), 0, "and its place is free");
    });
}

/// RFC 5382 REQ-5: a TCP mapping lasts as long as its connections, and after a reset as long as TIME_WAIT would.
#[test]
fn a_tcp_mapping_outlives_a_reset() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = with(setup, &[FILTERING]);
        let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:80").open(&mut fw);
        fw.pass_secs(7_000);
        flow.talk(&mut fw);
        Flow::inward("198.51.100.7:4000", flow.seen(), flow.client).open(&mut fw);
        fw.pass_secs(7_441);
        assert_eq!((fw.connections().len(), mappings(&fw)), (0, Vec::new()));
        let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:80").open(&mut fw);
        let reset = flow.client_segment().rst();
        flow.c2s(&mut fw, &reset);
        fw.pass_secs(200);
        assert!(fw.connections().is_empty());
        Flow::inward("198.51.100.7:4000", flow.seen(), flow.client).open(&mut fw);
    });
}

/// C046: while its connections talk, a mapping stays, also towards those that it never heard of.
#[test]
fn a_mapping_stays_while_its_connections_talk() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = with(setup, &[FILTERING]);
        let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
        flow.exchange(&mut fw);
        for _ in 0..100 {
            fw.pass_secs(29);
            flow.exchange(&mut fw);
        }
        let mut late = Flow::inward("198.51.100.7:4000", flow.seen(), flow.client);
        late.exchange(&mut fw);
        let mut other = Flow::outward("192.168.1.2:5000", "192.0.2.77:53");
        other.exchange(&mut fw);
        assert_eq!(other.seen(), flow.seen());
        assert_eq!(fw.values().mappings_made, 1);
    });
}

/// C095, C096; RFC 4787 REQ-9, RFC 5382 REQ-8: two hosts inside talk by their external endpoints, each seen by the other's;
/// in one LAN and from another one, whichever workers their ports belong to.
#[test]
fn hosts_inside_talk_by_their_external_endpoints() {
    for rule in [
        FILTERING,
        "-t nat -A POSTROUTING -o wan -j SNAT --to-source 203.0.113.9 --endpoint-independent filtering",
    ] {
        for_workers([1, 2, 4, 7], |setup| {
            let mut fw = with(setup.capacity(2048).second_lan(), &[rule]);
            let mut draw = Draw::new(77);
            for round in 0..60 {
                let second = host(2 + draw.below(100) as u8, draw.port());
                let (first_at, first) = match draw.below(2) {
                    0 => (LAN, host(110 + draw.below(100) as u8, draw.port())),
                    _ => {
                        let last = 2 + draw.below(100) as u8;
                        (LAN2, SocketAddr::from(([192, 168, 2, last], draw.port())))
                    }
                };
                let dial = |fw: &mut Firewall, at, client| {
                    let mut flow = Flow::between(at, client, WAN, "192.0.2.9:53");
                    flow.exchange(fw);
                    flow.seen()
                };
                // The one that dials may have no mapping yet.
                let external = match draw.below(3) {
                    0 => None,
                    _ => Some(dial(&mut fw, first_at, first)),
                };
                let dialled = dial(&mut fw, LAN, second);
                if dialled.port() < 1024 {
                    continue;
                }
                let mut hairpin = Flow { dialled, ..Flow::between(first_at, first, LAN, second) };
                hairpin.exchange(&mut fw);
                hairpin.exchange(&mut fw);
                let external = external.unwrap_or_else(|| dial(&mut fw, first_at, first));
                assert_eq!(hairpin.seen(), external, "round {round}: {first} > {second}");
                // And the other way: that is another connection only if the first one has ended.
                fw.pass_secs(301);
                if external.port() >= 1024 {
                    dial(&mut fw, first_at, first);
                    let dialled = dial(&mut fw, LAN, second);
                    let external = dial(&mut fw, first_at, first);
                    let mut back =
                        Flow { dialled: external, ..Flow::between(LAN, second, first_at, first) };
                    back.exchange(&mut fw);
                    assert_eq!(back.seen(), dialled);
                }
                fw.pass_secs(301);
            }
            assert_eq!(fw.values().dropped(), 0);
            assert!(mappings(&fw).is_empty());
        });
    }
}

/// Dialling a neighbour's mapping opens none of one's own: only a rule that is met on the way out does.
#[test]
fn a_hairpin_opens_nothing_towards_the_one_who_dials() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = with(setup, &[FILTERING]);
        let mut out = Flow::outward("192.168.1.3:6000", "192.0.2.9:53");
        out.exchange(&mut fw);
        let hairpin = Flow::between(LAN, "192.168.1.2:5000", LAN, "192.168.1.3:6000");
        let mut hairpin = Flow { dialled: out.seen(), ..hairpin };
        hairpin.exchange(&mut fw);
        let stranger = udp("198.51.100.7:4000", hairpin.seen());
        assert_eq!(fw.wan(&stranger).dropped(), DropReason::DeniedByPolicy);
        Flow::outward("192.168.1.2:5000", "192.0.2.9:53").exchange(&mut fw);
        fw.wan(&stranger).out(LAN);
    });
}

/// RFC 5382 REQ-8: TCP too, and a host that dials itself.
#[test]
fn a_tcp_hairpin_lives_its_whole_life() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = with(setup, &[FILTERING]);
        let out = Flow::outward("192.168.1.3:6002", "192.0.2.9:80").open(&mut fw);
        let mut hairpin = Flow {
            dialled: out.seen(),
            ..Flow::between(LAN, "192.168.1.2:5000", LAN, "192.168.1.3:6002")
        }
        .open(&mut fw);
        hairpin.talk(&mut fw);
        // RFC 5382 REQ-8a: who dials is seen as anybody outside sees it.
        let outward = Flow::outward("192.168.1.2:5000", "192.0.2.9:80").open(&mut fw);
        assert_eq!(hairpin.seen(), outward.seen());
        assert_eq!(hairpin.seen().ip(), out.seen().ip());
        hairpin.client_fin(&mut fw);
        hairpin.server_fin(&mut fw);
        let mut own = Flow {
            dialled: out.seen(),
            ..Flow::between(LAN, "192.168.1.3:7000", LAN, "192.168.1.3:6002")
        }
        .open(&mut fw);
        own.talk(&mut fw);
        assert_eq!(mappings(&fw).len(), 3);
    });
}

/// C063, C095; RFC 5508 REQ-7: an error about a hairpin goes to who sent the quoted packet, with what it knows of itself in the
/// quote.
#[test]
fn errors_about_a_hairpin_reach_its_ends() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = with(setup, &[FILTERING]);
        for port in 6000..6008 {
            let mut out = Flow::outward(host(3, port), "192.0.2.9:53");
            out.exchange(&mut fw);
            let client = host(2, 5000);
            let mut hairpin =
                Flow { dialled: out.seen(), ..Flow::between(LAN, client, LAN, out.client) };
            hairpin.exchange(&mut fw);
            let (asked, told) = (hairpin.ask(), hairpin.tell());
            let arrived = hairpin.at_server(&asked);
            let error = icmp(out.client.ip(), arrived.src, 3, 3, 0, &arrived.build());
            let out_error = fw.lan(error).out(LAN);
            assert_eq!((out_error.src, out_error.dst), (out.seen().ip(), client.ip()));
            let arrived = hairpin.at_client(&told);
            let error = icmp(client.ip(), arrived.src, 3, 3, 0, &arrived.build());
            let out_error = fw.lan(error).out(LAN);
            assert_eq!((out_error.src, out_error.dst), (hairpin.seen().ip(), out.client.ip()));
        }
    });
}

/// The table is bounded. When it is full, connections are translated as any other, and counted; nobody is harmed.
#[test]
fn without_a_place_a_connection_is_translated_as_any_other() {
    for_workers([1, 2, 4], |mut setup| {
        setup.mappings = 2;
        let workers = u64::from(setup.workers);
        let mut fw = with(setup.capacity(1024), &[FILTERING]);
        let mut flows: Vec<_> =
            (0..100u16).map(|place| Flow::outward(host(2, 5000 + place), "192.0.2.9:53")).collect();
        flows.iter_mut().for_each(|flow| flow.exchange(&mut fw));
        assert_eq!(fw.values().mappings_made, 2 * workers);
        assert_eq!(fw.values().mappings_refused, 100 - 2 * workers);
        flows.iter_mut().for_each(|flow| flow.exchange(&mut fw));
        fw.pass_secs(301);
        flows.iter_mut().for_each(|flow| flow.exchange(&mut fw));
        assert_eq!(fw.values().mappings_made, 4 * workers, "there is room again");
    });
}

/// A first packet that is refused after all leaves no mapping behind: here the table is full of connections that stay.
#[test]
fn what_is_refused_leaves_no_mapping_behind() {
    let mut fw = with(Setup::default().capacity(2), &[FILTERING]);
    let flows = [5000, 5001].map(|port| Flow::outward(host(2, port), "192.0.2.9:80").open(&mut fw));
    let before = mappings(&fw);
    let late = Flow::outward(host(3, 6000), "192.0.2.9:80");
    assert_eq!(late.try_c2s(&mut fw, &late.syn()).dropped(), DropReason::TableFull);
    let stranger = tcp("198.51.100.7:4000", flows[0].seen()).syn();
    assert_eq!(fw.wan(stranger).dropped(), DropReason::TableFull);
    assert_eq!(mappings(&fw), before);
}

/// C109: a forward comes before a mapping, and its port is nobody's.
#[test]
fn forwards_come_before_mappings() {
    for_workers([1, 2, 4], |setup| {
        let mut setup = setup.forward_udp(8000, "192.168.1.10:8000");
        setup.interfaces[1].independent = Some(Independence::Filtering);
        let mut fw = Firewall::with(setup);
        let mut flow = Flow::outward("192.168.1.2:8000", "192.0.2.9:53");
        flow.exchange(&mut fw);
        assert_ne!(flow.seen().port(), 8000);
        Flow::inward("198.51.100.7:4000", "203.0.113.2:8000", "192.168.1.10:8000")
            .exchange(&mut fw);
        // One side of a forward has that for its mapping.
        Flow::outward("192.168.1.10:8000", "192.0.2.9:53").exchange(&mut fw);
        assert_eq!(fw.values().mappings_made, 1);
        // A forward that takes the port of a mapping later has it.
        let mut other = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
        other.exchange(&mut fw);
        fw.change(|setup| setup.add_forward(17, (5000, 5000), "192.168.1.10:53"));
        Flow::inward("198.51.100.7:4000", "203.0.113.2:5000", "192.168.1.10:53").exchange(&mut fw);
        other.exchange(&mut fw);
        let mut new = Flow::outward("192.168.1.2:5000", "192.0.2.10:53");
        new.exchange(&mut fw);
        assert_ne!(new.seen().port(), 5000);
        // When it is gone its connections may live on: the port is nobody's for a while, but the host goes on talking.
        fw.change(|setup| setup.forwards.retain(|forward| forward.first != 5000));
        let mut later = Flow::outward("192.168.1.2:5000", "192.0.2.11:53");
        later.exchange(&mut fw);
    });
}

/// C116: an external endpoint that a mapping has is no expectation's.
#[test]
fn what_is_announced_is_not_expected_at_anothers_mapping() {
    for_workers([1, 2, 4], |mut setup| {
        setup.options.helpers = Helpers::NONE.with(Kind::Irc);
        let mut fw = with(setup, &[FILTERING]);
        let mapped = Flow::outward("192.168.1.3:4000", "192.0.2.9:80").open(&mut fw);
        assert_eq!(mapped.seen().port(), 4000);
        let control = Flow::outward("192.168.1.2:5000", "192.0.2.9:6667").open(&mut fw);
        let said = "PRIVMSG nick :\u{1}DCC CHAT chat 3232235778 4000\u{1}\r\n";
        fw.lan(control.client_segment().payload(said)).out(WAN);
        assert_eq!(fw.values().expectations_made, 1);
        let stranger = tcp("198.51.100.7:4000", mapped.seen()).syn();
        assert_eq!(fw.wan(&stranger).out(LAN).destination().to_string(), "192.168.1.3:4000");
    });
}

/// Ports below 1024 are for services: a mapping there lets no stranger in.
#[test]
fn nobody_gets_in_at_a_privileged_port() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = with(setup, &[FILTERING]);
        let mut flow = Flow::outward("192.168.1.2:500", "192.0.2.9:500");
        flow.exchange(&mut fw);
        assert_eq!(flow.seen().port(), 500);
        let sent = fw.wan(udp("198.51.100.7:500", flow.seen()));
        assert_eq!(sent.dropped(), DropReason::DeniedByPolicy);
        let mut again = Flow::outward("192.168.1.2:500", "192.0.2.10:500");
        again.exchange(&mut fw);
        assert_eq!(again.seen(), flow.seen());
    });
}

/// A mapping's port is nobody else's: not the appliance's own, not of hosts that another rule translates.
#[test]
fn a_mapped_port_is_nobody_elses() {
    for_workers([1, 2, 4], |setup| {
        let mut setup = setup;
        setup.interfaces[1].independent = Some(Independence::Filtering);
        setup.iptables("-t nat -A POSTROUTING -o wan -s 192.168.1.3 -j MASQUERADE");
        let mut fw = Firewall::with(setup);
        let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
        flow.exchange(&mut fw);
        let mut own = Flow::between(HOST_WAN, "203.0.113.2:5000", WAN, "192.0.2.10:53");
        own.exchange(&mut fw);
        let mut other = Flow::outward("192.168.1.3:5000", "192.0.2.11:53");
        other.exchange(&mut fw);
        let seen = HashSet::from([flow.seen(), own.seen(), other.seen()]);
        assert_eq!((flow.seen().port(), seen.len()), (5000, 3));
        assert_eq!(fw.values().mappings_made, 1, "the appliance and the other host have none");
    });
}

/// What has no ports of its own is translated as ever: queries by their identifier.
#[test]
fn queries_are_as_ever() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = with(setup, &[FILTERING]);
        for id in 7..20 {
            let out = fw.lan(echo_request("192.168.1.2", "192.0.2.9", id, 1)).out(WAN);
            fw.wan(echo_reply("192.0.2.9", out.src, id, 1)).out(LAN);
        }
        moved!(
            fw, received: 26, forwarded: 26, tracked: 26, connections_new: 13, rerouted: 13,
            rejudged: 13
        );
    });
}

/// Without the rule nobody gets in any more, at once; connections go on.
#[test]
fn without_its_rule_a_mapping_lets_nobody_in() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = with(setup, &[FILTERING, "-t nat -A POSTROUTING -o wan -j MASQUERADE"]);
        let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
        flow.exchange(&mut fw);
        let mut inward = Flow::inward("198.51.100.7:4000", flow.seen(), flow.client);
        inward.exchange(&mut fw);
        fw.change(|setup| setup.iptables(&FILTERING.replace("-A", "-D")));
        let sent = fw.wan(udp("198.51.100.8:4000", flow.seen()));
        assert_eq!(sent.dropped(), DropReason::DeniedByPolicy);
        flow.exchange(&mut fw);
        inward.exchange(&mut fw);
        fw.change(|setup| setup.iptables(FILTERING));
        flow.exchange(&mut fw);
        inward.exchange(&mut fw);
        fw.pass_secs(301);
        assert!(mappings(&fw).is_empty());
    });
}

/// C072: behind another address there is another mapping; the old one's ends.
#[test]
fn a_new_address_begins_new_mappings() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = with(setup, &[FILTERING]);
        let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
        flow.exchange(&mut fw);
        let mut inward = Flow::inward("198.51.100.7:4000", flow.seen(), flow.client);
        inward.exchange(&mut fw);
        fw.change(|setup| {
            setup.set_addresses(WAN, &["198.18.7.7/24"]);
            setup.gateways = vec!["198.18.7.1".parse().unwrap()];
        });
        flow.seen = None;
        flow.exchange(&mut fw);
        assert_eq!(flow.seen().to_string(), "198.18.7.7:5000");
        fw.pass_secs(1); // every connection is looked at once
        Flow::inward("198.51.100.7:4000", flow.seen(), flow.client).exchange(&mut fw);
        fw.pass_secs(301);
        assert!(mappings(&fw).is_empty() && fw.connections().is_empty());
    });
}

/// A connection that another one of the same port makes impossible is refused, rather than mapped otherwise (RFC 4787 REQ-11:
/// deterministic).
#[test]
fn a_mapping_does_not_change_for_a_conflict() {
    let mut fw = with(Setup::default(), &["-t nat -A POSTROUTING -o wan -j MASQUERADE"]);
    // From before there were mappings: another host has the port towards one server.
    let mut old = Flow::outward("192.168.1.3:5000", "192.0.2.9:53");
    old.exchange(&mut fw);
    fw.change(|setup| setup.iptables(&FILTERING.replace("-A POSTROUTING", "-I POSTROUTING")));
    let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.10:53");
    flow.exchange(&mut fw);
    assert_eq!(flow.seen().port(), 5000);
    let clash = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
    assert_eq!(clash.try_c2s(&mut fw, &clash.ask()).dropped(), DropReason::TupleInUse);
    old.exchange(&mut fw);
    assert_eq!(mappings(&fw)[0].connections, 1);
}

/// RFC 4787 REQ-11: who may come in by a mapping does not depend on whom its host talks to next.
#[test]
fn a_mapping_stays_open_although_its_host_talks_on_by_another_rule() {
    let dns = "-t nat -A POSTROUTING -o wan -p udp --dport 53 -j MASQUERADE --endpoint-independent mapping";
    for_workers([1, 2, 4], |setup| {
        let mut fw = with(setup, &[dns, FILTERING]);
        let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:4000");
        flow.exchange(&mut fw);
        Flow::inward("198.51.100.7:4000", flow.seen(), flow.client).exchange(&mut fw);
        Flow::outward("192.168.1.2:5000", "192.0.2.9:53").exchange(&mut fw);
        Flow::inward("198.51.100.8:4000", flow.seen(), flow.client).exchange(&mut fw);
        // One that is shut is opened when a rule says so.
        let mut shut = Flow::outward("192.168.1.3:5001", "192.0.2.9:53");
        shut.exchange(&mut fw);
        let stranger = udp("198.51.100.8:4000", shut.seen());
        assert!(fw.wan(&stranger).outs.is_empty());
        Flow::outward("192.168.1.3:5001", "192.0.2.9:4000").exchange(&mut fw);
        fw.wan(&stranger).out(LAN);
    });
}
