//! The tables `nat` and `raw`: what their rules do to packets, with one worker and with several.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use postern_core::forward::RouteKind;
use postern_core::rules::{Count, Family, Hook, TableId};
use postern_core::verdict::DropReason;
use postern_tests::flow::Ping;
use postern_tests::fragments::{cut, reassemble};
use postern_tests::packet::{Address, Pkt, echo_reply, echo_request, icmp, other, tcp, udp};
use postern_tests::{Firewall, Flow, HOST_LAN, HOST_WAN, LAN, LAN2, Sent, Setup, WAN, for_workers};

const SERVER: &str = "192.0.2.9:53";

/// An appliance with these rules, whose WAN masquerades nothing by itself.
fn ruled(setup: Setup, rules: &[&str]) -> Firewall {
    with_rules(setup.routed(), rules)
}

fn with_rules(mut setup: Setup, rules: &[&str]) -> Firewall {
    rules.iter().for_each(|rule| setup.iptables(rule));
    Firewall::with(setup)
}

/// What was counted at a hook by its chain's policy.
fn fell_through(fw: &Firewall, hook: Hook) -> u64 {
    fw.snapshot().policy.counters().policies[0][hook.index()].packets
}

fn host(last: u8, port: u16) -> SocketAddr {
    ([192, 168, 1, last], port).into()
}

// --- SNAT ------------------------------------------------------------------------------------------

/// C072, C073, C075: behind a fixed address, the port kept where it is free, replies and errors translated back.
#[test]
fn snat_hides_the_inside_behind_one_address() {
    for_workers([1, 2, 4], |setup| {
        let mut fw =
            ruled(setup, &["-t nat -A POSTROUTING -o wan -j SNAT --to-source 203.0.113.9"]);
        let mut flow = Flow::outward("192.168.1.2:5000", SERVER);
        flow.exchange(&mut fw);
        assert_eq!(flow.seen().to_string(), "203.0.113.9:5000");
        let mut other = Flow::outward("192.168.1.3:5000", SERVER);
        other.exchange(&mut fw);
        assert_eq!(other.seen().ip(), flow.seen().ip());
        assert_ne!(other.seen().port(), 5000);
        let mut tcp = Flow::outward("192.168.1.2:5000", "192.0.2.9:80").open(&mut fw);
        tcp.talk(&mut fw);

        // C052, C053: errors about it, of the server and of a router, and its own about the answer.
        let about = flow.at_server(&flow.ask());
        let out = fw.wan(icmp("192.0.2.9", about.src, 3, 3, 0, &about.build())).out(LAN);
        assert_eq!((out.dst, out.src), ("192.168.1.2".address(), "192.0.2.9".address()));
        let out = fw.wan(icmp("198.51.100.7", about.src, 11, 0, 0, &about.build())).out(LAN);
        assert_eq!(out.dst, "192.168.1.2".address());
        let answer = flow.at_client(&flow.tell());
        let out = fw.lan(icmp("192.168.1.2", answer.src, 3, 3, 0, &answer.build())).out(WAN);
        assert_eq!(out.source().ip(), flow.seen().ip());

        // C049, C084: queries, and protocols without ports.
        let out = fw.lan(echo_request("192.168.1.2", "192.0.2.9", 7, 1)).out(WAN);
        assert_eq!(out.source().to_string(), "203.0.113.9:7");
        fw.wan(echo_reply("192.0.2.9", "203.0.113.9", 7, 1)).out(LAN);
        let out = fw.lan(self::other("192.168.1.2", "192.0.2.9", 47, b"gre")).out(WAN);
        assert_eq!(out.src, "203.0.113.9".address());
        fw.wan(self::other("192.0.2.9", "203.0.113.9", 47, b"back")).out(LAN);
    });
}

/// C078, C079, C086: nobody else gets in by a pool's address, and what is for no connection does not reach the host.
#[test]
fn a_pool_address_lets_nobody_in() {
    for_workers([1, 2, 4], |setup| {
        let mut fw =
            ruled(setup, &["-t nat -A POSTROUTING -o wan -j SNAT --to-source 203.0.113.9"]);
        let mut flow = Flow::outward("192.168.1.2:5000", SERVER);
        flow.exchange(&mut fw);
        for from in ["192.0.2.9:54", "192.0.2.10:53"] {
            assert_eq!(fw.wan(udp(from, "203.0.113.9:5000")).dropped(), DropReason::DeniedByPolicy);
        }
        assert_eq!(fw.wan(udp(SERVER, "203.0.113.9:5001")).dropped(), DropReason::DeniedByPolicy);
    });
}

/// C092; RFC 4787 REQ-2, RFC 7857 §4: paired pooling, whatever the protocol.
#[test]
fn a_host_keeps_its_address_of_a_pool_and_hosts_spread_over_all() {
    for_workers([1, 2, 4], |setup| {
        let pool = "-t nat -A POSTROUTING -o wan -j SNAT --to-source 203.0.113.8-203.0.113.11";
        let mut fw = ruled(setup.capacity(4096), &[pool]);
        let mut used = HashSet::new();
        for last in 2..42 {
            let mut of_host = HashSet::new();
            for round in 0..20u16 {
                let server = SocketAddr::from(([192, 0, 2, round as u8 + 1], 1000 + round));
                let mut flow = Flow::outward(host(last, 4000 + round * 7), server);
                let seen = match round % 3 {
                    0 => {
                        flow.exchange(&mut fw);
                        flow.seen().ip()
                    }
                    1 => flow.open(&mut fw).seen().ip(),
                    _ => {
                        let mut ping = Ping::outward(flow.client.ip(), server.ip(), round);
                        let asked = ping.ask(&mut fw, 1);
                        ping.tell(&mut fw, 1);
                        asked.src
                    }
                };
                of_host.insert(seen);
            }
            assert_eq!(of_host.len(), 1, "host {last}: {of_host:?}");
            used.extend(of_host);
        }
        let all: HashSet<IpAddr> = (8..12).map(|last| [203, 0, 113, last].into()).collect();
        assert_eq!(used, all);
    });
}

/// C080: a range of ports runs out by name, harms nobody, and recovers.
#[test]
fn a_port_range_that_is_used_up_refuses_by_name_and_recovers() {
    for_workers([1, 2, 4], |setup| {
        let workers = u16::from(setup.workers);
        let last = 40_000 + 2 * workers - 1; // ports belong to workers in pairs
        let rule = format!(
            "-t nat -A POSTROUTING -o wan -p udp -j SNAT --to-source 203.0.113.9:40000-{last}"
        );
        let mut fw = ruled(setup, &[&rule]);
        let mut flows = Vec::new();
        for pair in 0..workers {
            // Ports of one worker: the pairs repeat.
            for place in 0..3 {
                let port = 5000 + pair * 2 + place * 2 * workers;
                let mut flow = Flow::outward(host(2 + place as u8, port), SERVER);
                if place < 2 {
                    flow.exchange(&mut fw);
                    assert!((40_000..=last).contains(&flow.seen().port()));
                    flows.push(flow);
                } else {
                    let sent = flow.try_c2s(&mut fw, &flow.ask());
                    assert_eq!(sent.dropped(), DropReason::PortsExhausted);
                }
            }
        }
        let seen: HashSet<_> = flows.iter().map(Flow::seen).collect();
        assert_eq!(seen.len(), flows.len());
        flows.iter_mut().for_each(|flow| flow.exchange(&mut fw));
        // To another server the same ports serve again.
        Flow::outward(host(9, 5000), "192.0.2.10:53").exchange(&mut fw);
        fw.pass_secs(301);
        Flow::outward(host(4, 5000 + 4 * workers), SERVER).exchange(&mut fw);
    });
}

/// C080: a range with no port for a worker says so, rather than giving out one whose replies would go elsewhere.
#[test]
fn a_range_without_a_port_for_the_worker_is_refused_by_name() {
    let rule = "-t nat -A POSTROUTING -o wan -p udp -j SNAT --to-source 203.0.113.9:40000-40001";
    let mut fw = ruled(Setup::default().workers(4), &[rule]);
    let mut outcomes = HashSet::new();
    for port in 5000..5008 {
        let mut flow = Flow::outward(host(2, port), SERVER);
        let sent = flow.try_c2s(&mut fw, &flow.ask());
        if sent.is_silent() {
            assert_eq!(sent.dropped(), DropReason::PortsNotHere);
            outcomes.insert("refused");
        } else {
            flow.seen = Some(sent.out(WAN).source());
            flow.exchange(&mut fw);
            outcomes.insert("served");
        }
    }
    assert_eq!(outcomes.len(), 2);
}

/// RFC 6056: `--random` does not keep the port.
#[test]
fn random_ports_are_not_those_of_the_client() {
    for rule in [
        "-t nat -A POSTROUTING -o wan -j SNAT --to-source 203.0.113.9 --random",
        "-t nat -A POSTROUTING -o wan -j MASQUERADE --random-fully",
    ] {
        let mut fw = ruled(Setup::default(), &[rule]);
        let mut kept = 0;
        for port in 5000..5050 {
            let mut flow = Flow::outward(host(2, port), SERVER);
            flow.exchange(&mut fw);
            kept += usize::from(flow.seen().port() == port);
        }
        assert!(kept < 5, "{kept}");
    }
}

/// C072: MASQUERADE by a rule follows the interface's address as the configured one does, and ends with it.
#[test]
fn masquerade_by_rule_follows_the_address() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = ruled(
            setup,
            &["-t nat -A POSTROUTING -o wan -p udp -j MASQUERADE --to-ports 30000-30999"],
        );
        let mut flow = Flow::outward("192.168.1.2:5000", SERVER);
        flow.exchange(&mut fw);
        assert_eq!(flow.seen().ip().to_string(), "203.0.113.2");
        assert!((30_000..31_000).contains(&flow.seen().port()));
        fw.change(|setup| {
            setup.set_addresses(WAN, &["198.51.100.7/24"]);
            setup.gateways = vec!["198.51.100.1".parse().unwrap()];
        });
        flow.seen = None;
        flow.exchange(&mut fw);
        assert_eq!(flow.seen().ip().to_string(), "198.51.100.7");
    });
}

/// Rules that match win over `masquerade = true`; of what they say nothing about, that decides.
#[test]
fn a_rule_wins_over_the_interface() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = with_rules(
            setup,
            &[
                "-t nat -A POSTROUTING -s 192.168.1.2 -j SNAT --to-source 203.0.113.9",
                "-t nat -A POSTROUTING -s 192.168.1.3 -j ACCEPT",
                "-t nat -A POSTROUTING -s 192.168.1.4 -j RETURN",
            ],
        );
        fw.private_may_leave = true;
        for (client, seen) in [
            ("192.168.1.2:5000", "203.0.113.9:5000"),
            ("192.168.1.3:5000", "192.168.1.3:5000"),
            ("192.168.1.4:5000", "203.0.113.2:5000"),
            ("192.168.1.5:5002", "203.0.113.2:5002"),
        ] {
            let mut flow = Flow::outward(client, SERVER);
            flow.exchange(&mut fw);
            assert_eq!(flow.seen().to_string(), seen);
            // A new route has their ways looked up anew; none of them ends.
            fw.change(|setup| {
                *setup = setup.clone().route(
                    "198.51.100.0/24",
                    RouteKind::Unicast,
                    WAN,
                    Some("203.0.113.1"),
                );
            });
            flow.exchange(&mut fw);
            assert_eq!(flow.seen().to_string(), seen);
        }
        assert_eq!(fw.connections().len(), 4);
    });
}

/// Linux asks the nat table about first packets only, and counts just them: also those that the filter then drops.
#[test]
fn nat_rules_count_first_packets() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = ruled(
            setup,
            &[
                "-t nat -N out",
                "-t nat -A POSTROUTING -o wan -j out",
                "-t nat -A out -p udp -j SNAT --to-source 203.0.113.9",
                "-I FORWARD -p udp --dport 99 -j DROP",
            ],
        );
        let mut flow = Flow::outward("192.168.1.2:5000", SERVER);
        (0..5).for_each(|_| flow.exchange(&mut fw));
        // POSTROUTING comes after the filter, so what that drops is not counted; PREROUTING comes before.
        let dropped = fw.lan(udp("192.168.1.2:5000", "192.0.2.9:99"));
        assert_eq!(dropped.dropped(), DropReason::DeniedByRule);
        fw.private_may_leave = true;
        fw.lan(tcp("192.168.1.2:5000", "192.0.2.9:99").syn()).out(WAN);
        // Rules are numbered by family, and the chains of one's own come last: the jump, then the target.
        let ipv4 = fw.setup().rules.family(Family::V4);
        let chains = TableId::ALL.into_iter().flat_map(|table| ipv4.chains(table));
        let last = chains.map(|(_, chain)| chain.rules().len()).sum::<usize>();
        let rules = fw.snapshot().policy.counters().rules;
        let of_nat = [rules[last - 2].packets, rules[last - 1].packets];
        assert_eq!(of_nat, [2, 1], "the jump, and the target for UDP");
        assert_eq!(fell_through(&fw, Hook::NatPostrouting), 1, "TCP came to the end");
        assert_eq!(fell_through(&fw, Hook::NatPrerouting), 0, "nobody is asked there");
    });
}

// --- DNAT ------------------------------------------------------------------------------------------

const DNAT: &str = "-t nat -A PREROUTING -i wan -d 203.0.113.2 -p tcp -m tcp";

/// C099, C100, C101, C105; `--ctstate DNAT`: the built-in policy lets in what rules translate.
#[test]
fn dnat_leads_to_a_server_inside() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = with_rules(
            setup,
            &[
                &format!("{DNAT} --dport 8080 -j DNAT --to-destination 192.168.1.10:80"),
                &format!("{DNAT} --dport 9000:9009 -j DNAT --to-destination 192.168.1.11"),
                &format!(
                    "{DNAT} --dport 7000:7009 -j DNAT --to-destination 192.168.1.12:5000-5009/7000"
                ),
            ],
        );
        for (client, dialled, server) in [
            ("198.51.100.7:4000", "203.0.113.2:8080", "192.168.1.10:80"),
            ("198.51.100.8:4000", "203.0.113.2:8080", "192.168.1.10:80"),
            ("198.51.100.7:4000", "203.0.113.2:9000", "192.168.1.11:9000"),
            ("198.51.100.7:4000", "203.0.113.2:9009", "192.168.1.11:9009"),
            ("198.51.100.7:4000", "203.0.113.2:7000", "192.168.1.12:5000"),
            ("198.51.100.7:4000", "203.0.113.2:7009", "192.168.1.12:5009"),
        ] {
            let mut flow = Flow::inward(client, dialled, server).open(&mut fw);
            assert_eq!(flow.seen().to_string(), client, "the client keeps its address");
            flow.talk(&mut fw);
            flow.client_fin(&mut fw);
            flow.server_fin(&mut fw);
        }
        for closed in ["203.0.113.2:8081", "203.0.113.2:9010", "203.0.113.2:7010"] {
            let sent = fw.wan(tcp("198.51.100.7:4000", closed).syn());
            assert_eq!(sent.dropped(), DropReason::DeniedByPolicy, "{closed}");
        }
        // C070, C071
        let f = Flow::inward("198.51.100.9:4000", "203.0.113.2:8080", "192.168.1.10:80");
        let f = f.open(&mut fw);
        let about = f.at_server(&f.client_segment());
        let out = fw.lan(icmp("192.168.1.10", about.src, 3, 3, 0, &about.build())).out(WAN);
        assert_eq!(out.src, "203.0.113.2".address());
    });
}

/// C109: what `[[forward]]` says comes before the rules.
#[test]
fn a_configured_forward_comes_before_the_rules() {
    let mut fw = with_rules(
        Setup::default().forward_tcp(8080, "192.168.1.10:80"),
        &["-t nat -A PREROUTING -p tcp -j DNAT --to-destination 192.168.1.99"],
    );
    Flow::inward("198.51.100.7:4000", "203.0.113.2:8080", "192.168.1.10:80").open(&mut fw);
    Flow::inward("198.51.100.7:4000", "203.0.113.2:8081", "192.168.1.99:8081").open(&mut fw);
}

/// Load balancing: by the client's address, so that a client stays with its server.
#[test]
fn a_range_of_servers_is_shared_by_client() {
    for_workers([1, 2, 4], |setup| {
        let rule = format!(
            "{DNAT} --dport 80 -j DNAT --to-destination 192.168.1.10-192.168.1.13 --persistent"
        );
        let mut fw = with_rules(setup.capacity(4096), &[&rule]);
        let mut clients = [0; 4];
        for client in 1..=80u8 {
            let mut server = None;
            for port in [4000, 4001, 50_123] {
                let syn = tcp(SocketAddr::from(([198, 51, 100, client], port)), "203.0.113.2:80");
                let out = fw.wan(syn.syn().seq(1)).out(LAN);
                assert_eq!(*server.get_or_insert(out.dst), out.dst);
                let back = tcp(out.destination(), out.source()).syn().seq(9).ack(2);
                fw.lan(back).out(WAN);
            }
            let Some(IpAddr::V4(server)) = server else { panic!() };
            clients[usize::from(server.octets()[3] - 10)] += 1;
        }
        assert!(clients.iter().all(|&n| (8..=35).contains(&n)), "{clients:?}");
    });
}

/// C095, C096: hairpin, by a rule without an interface, as by a forward.
#[test]
fn dnat_is_reachable_from_inside() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = with_rules(
            setup.second_lan(),
            &[
                "-t nat -A PREROUTING -d 203.0.113.2 -p udp --dport 5353 -j DNAT --to 192.168.1.10:53",
            ],
        );
        for port in 5000..5020 {
            let mut flow = Flow {
                dialled: "203.0.113.2:5353".parse().unwrap(),
                ..Flow::between(LAN, host(2, port), LAN, "192.168.1.10:53")
            };
            flow.exchange(&mut fw);
            assert_eq!(flow.seen().ip().to_string(), "192.168.1.1");
            let client = SocketAddr::from(([192, 168, 2, 9], port));
            let mut flow = Flow {
                dialled: "203.0.113.2:5353".parse().unwrap(),
                ..Flow::between(LAN2, client, LAN, "192.168.1.10:53")
            };
            flow.exchange(&mut fw);
            assert_eq!(flow.seen(), client);
        }
    });
}

/// A transparent rule: whoever a host asks for names, one server answers.
#[test]
fn every_question_for_a_name_goes_to_one_server() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = with_rules(
            setup.second_lan(),
            &[
                "-t nat -A PREROUTING -i lan -p udp --dport 53 -j DNAT --to-destination 192.168.2.53",
                "-A FORWARD -i lan -o lan2 -j ACCEPT",
            ],
        );
        for round in 0..40u16 {
            let asked = SocketAddr::from(([8, 8, round as u8, 8], 53));
            // The source port of some resolvers is 53 too.
            let port = if round % 4 == 0 { 53 } else { 5000 + round };
            let mut flow = Flow {
                dialled: asked,
                ..Flow::between(LAN, host(2 + round as u8, port), LAN2, "192.168.2.53:53")
            };
            flow.exchange(&mut fw);
        }
        // Others' questions pass as ever, masqueraded.
        let mut other = Flow::between(LAN2, "192.168.2.9:5000", WAN, "8.8.8.8:53");
        other.exchange(&mut fw);
        other.exchange(&mut fw);
    });
}

/// REDIRECT: to the appliance itself; the client hears the answer from whom it asked.
#[test]
fn redirect_leads_to_the_appliance() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = with_rules(
            setup,
            &[
                "-t nat -A PREROUTING -i lan -p tcp --dport 80 -j REDIRECT --to-ports 3128",
                "-t nat -A PREROUTING -i lan -p udp --dport 123 -j REDIRECT",
            ],
        );
        let mut times = Vec::new();
        for port in 5000..5016 {
            let mut web = Flow {
                dialled: "192.0.2.80:80".parse().unwrap(),
                ..Flow::between(LAN, host(2, port), HOST_LAN, "192.168.1.1:3128")
            }
            .open(&mut fw);
            web.talk(&mut fw);
            // NTP clients ask from 123 themselves, and several servers: their port tells the answers apart.
            let mut time = Flow {
                dialled: SocketAddr::from(([192, 0, 2, port as u8], 123)),
                ..Flow::between(LAN, host(2, 123), HOST_LAN, "192.168.1.1:123")
            };
            time.exchange(&mut fw);
            assert_eq!(time.seen().port() == 123, port == 5000);
            times.push(time);
        }
        times.iter_mut().for_each(|time| time.exchange(&mut fw));
    });
}

/// `--ctstate SNAT` and `DNAT` hold for what rules translate, and for nothing else.
#[test]
fn ctstate_snat_and_dnat_hold_for_rules() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = ruled(
            setup,
            &[
                "-t nat -A POSTROUTING -o wan -s 192.168.1.2 -j SNAT --to-source 203.0.113.9",
                "-t nat -A PREROUTING -i wan -p udp --dport 5353 -j DNAT --to 192.168.1.10:53",
                "-I FORWARD -i wan -o lan -m conntrack --ctstate SNAT -j ACCEPT",
                "-I FORWARD 2 -o wan -m conntrack --ctstate DNAT -j ACCEPT",
                "-I FORWARD 3 -i wan -o lan -m conntrack ! --ctstate DNAT -j DROP",
            ],
        );
        fw.private_may_leave = true;
        Flow::outward("192.168.1.2:5000", SERVER).exchange(&mut fw);
        Flow::inward("198.51.100.7:4000", "203.0.113.2:5353", "192.168.1.10:53").exchange(&mut fw);
        let mut plain = Flow::outward("192.168.1.3:5000", SERVER);
        plain.c2s(&mut fw, &plain.ask());
        let sent = plain.try_s2c(&mut fw, &plain.tell());
        assert_eq!(sent.dropped(), DropReason::DeniedByRule);
    });
}

// --- one to one ------------------------------------------------------------------------------------

/// NETMAP both ways: a network inside appears as another one, host by host, port by port.
#[test]
fn netmap_maps_a_network_both_ways() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = ruled(
            setup.second_lan(),
            &[
                "-t nat -A PREROUTING -d 198.51.100.0/24 -j NETMAP --to 192.168.1.0/24",
                "-t nat -A POSTROUTING -o wan -s 192.168.1.0/24 -j NETMAP --to 198.51.100.0/24",
            ],
        );
        for port in [22, 80, 5000, 5001, 5002, 5003, 40_000] {
            let mut out = Flow::outward(host(7, port), "192.0.2.9:80").open(&mut fw);
            assert_eq!(out.seen(), SocketAddr::from(([198, 51, 100, 7], port)));
            out.talk(&mut fw);
            let dialled = SocketAddr::from(([198, 51, 100, 9], port));
            let mut inward = Flow::inward("192.0.2.44:4000", dialled, host(9, port)).open(&mut fw);
            inward.talk(&mut fw);
            // From another LAN, by the outer address (RFC 4787 REQ-9).
            let client = SocketAddr::from(([192, 168, 2, 3], port));
            let mut other = Flow { dialled, ..Flow::between(LAN2, client, LAN, host(9, port)) };
            other.exchange(&mut fw);
        }
        let out = fw.lan(echo_request("192.168.1.7", "192.0.2.9", 7, 1)).out(WAN);
        assert_eq!(out.source().to_string(), "198.51.100.7:7");
        let out = fw.wan(echo_request("192.0.2.9", "198.51.100.7", 3, 1)).out(LAN);
        assert_eq!(out.dst, "192.168.1.7".address());
        fw.lan(echo_reply("192.168.1.7", "192.0.2.9", 3, 1)).out(WAN);
    });
}

/// The usual pair of rules for a server with an address of its own, be that the appliance's or not.
#[test]
fn one_to_one_by_dnat_and_snat() {
    for_workers([1, 2, 4], |setup| {
        for outside in ["203.0.113.3", "203.0.113.9"] {
            let mut fw = with_rules(
                setup.clone().address(WAN, "203.0.113.3/24").second_lan(),
                &[
                    &format!(
                        "-t nat -A PREROUTING -d {outside} -j DNAT --to-destination 192.168.1.10"
                    ),
                    &format!(
                        "-t nat -A POSTROUTING -o wan -s 192.168.1.10 -j SNAT --to-source {outside}"
                    ),
                ],
            );
            for port in [80, 81, 82, 83, 5000, 5002] {
                let dialled = SocketAddr::new(outside.address(), port);
                Flow::inward("192.0.2.44:4000", dialled, host(10, port))
                    .open(&mut fw)
                    .talk(&mut fw);
                let mut out = Flow::outward(host(10, port), "192.0.2.9:443").open(&mut fw);
                assert_eq!(out.seen(), dialled);
                out.talk(&mut fw);
                let client = SocketAddr::from(([192, 168, 2, 3], 4000 + port));
                Flow { dialled, ..Flow::between(LAN2, client, LAN, host(10, port)) }
                    .exchange(&mut fw);
                // Everybody else masquerades as before.
                let mut rest = Flow::outward(host(20, port), "192.0.2.9:443").open(&mut fw);
                assert_eq!(rest.seen().ip().to_string(), "203.0.113.2");
                rest.talk(&mut fw);
            }
        }
    });
}

/// C104, C190: rules may come and go while connections live; those that are there stay.
#[test]
fn connections_outlive_a_change_of_rules() {
    for_workers([1, 2, 4], |setup| {
        let mut fw =
            with_rules(setup, &[&format!("{DNAT} --dport 8080 -j DNAT --to 192.168.1.10:80")]);
        let mut flows: Vec<_> = (4000..4016)
            .map(|port| {
                let client = SocketAddr::from(([198, 51, 100, 7], port));
                Flow::inward(client, "203.0.113.2:8080", "192.168.1.10:80").open(&mut fw)
            })
            .collect();
        let mut out: Vec<_> = (5000..5016)
            .map(|port| Flow::outward(host(2, port), "192.0.2.9:8080").open(&mut fw))
            .collect();
        for rules in [
            ["-t nat -F", "-t nat -A POSTROUTING -o wan -j SNAT --to-source 203.0.113.9"],
            ["-t nat -A PREROUTING -p tcp --dport 8080 -j REDIRECT", "-t nat -L"],
        ] {
            fw.change(|setup| rules.iter().for_each(|rule| setup.iptables(rule)));
            flows.iter_mut().chain(&mut out).for_each(|flow| flow.talk(&mut fw));
        }
        // New ones go by the rules as they are now: to the appliance, whose policy refuses them.
        let sent = fw.wan(tcp("198.51.100.9:4000", "203.0.113.2:8080").syn());
        assert_eq!(sent.dropped(), DropReason::DeniedByPolicy);
    });
}

// --- raw -------------------------------------------------------------------------------------------

/// NOTRACK: UNTRACKED to the rules, never in the table, never translated; what is not meant is tracked as ever.
#[test]
fn what_is_not_tracked_passes_by_the_rules_alone() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = with_rules(
            setup,
            &[
                "-t raw -A PREROUTING -p udp --dport 53 -j NOTRACK",
                "-t raw -A PREROUTING -p udp --sport 53 -j CT --notrack",
                "-I FORWARD -m conntrack --ctstate UNTRACKED -j ACCEPT",
            ],
        );
        fw.private_may_leave = true;
        let ask = udp("192.168.1.2:5000", SERVER);
        let tell = udp(SERVER, "192.168.1.2:5000");
        for _ in 0..3 {
            assert_eq!(fw.lan(&ask).out(WAN), ask.clone().hop());
            assert_eq!(fw.wan(&tell).out(LAN), tell.clone().hop());
        }
        assert!(fw.connections().is_empty());
        assert_eq!(fw.values().untracked, 6);
        let mut tracked = Flow::outward("192.168.1.2:5000", "192.0.2.9:54");
        (0..3).for_each(|_| tracked.exchange(&mut fw));
        assert_eq!(tracked.seen().to_string(), "203.0.113.2:5000");
        assert_eq!(fw.connections().len(), 1);
        // Every packet was asked about once, and NOTRACK is no last word.
        let counts = fw.snapshot().policy.counters();
        assert_eq!(counts.policies[0][Hook::RawPrerouting.index()].packets, 12);
    });
}

/// A rule may drop in raw, and without an ACCEPT for it an UNTRACKED packet meets the policy.
#[test]
fn raw_drops_and_the_filter_refuses_untracked() {
    let mut fw = with_rules(
        Setup::default(),
        &[
            "-t raw -A PREROUTING -s 192.168.1.66 -j DROP",
            "-t raw -A PREROUTING -i wan -p udp --dport 7 -j NOTRACK",
            "-t raw -A OUTPUT -p udp --dport 9 -j DROP",
        ],
    );
    assert_eq!(fw.lan(udp("192.168.1.66:1", SERVER)).dropped(), DropReason::DeniedByRule);
    let stray = udp("198.51.100.7:1", "203.0.113.2:7");
    assert_eq!(fw.wan(stray).dropped(), DropReason::DeniedByPolicy);
    let own = udp("203.0.113.2:1", "192.0.2.9:9");
    assert_eq!(fw.send(HOST_WAN, own).dropped(), DropReason::DeniedByRule);
    assert!(fw.connections().is_empty());
}

/// The appliance's own datagrams can go untracked too, both ways.
#[test]
fn the_hosts_own_packets_can_go_untracked() {
    let mut fw = with_rules(
        Setup::default(),
        &[
            "-t raw -A OUTPUT -p udp --sport 53 -j NOTRACK",
            "-t raw -A PREROUTING -p udp --dport 53 -j NOTRACK",
            "-A INPUT -p udp --dport 53 -m conntrack --ctstate UNTRACKED -j ACCEPT",
        ],
    );
    let ask = udp("198.51.100.7:4000", "203.0.113.2:53");
    assert_eq!(fw.wan(&ask).out(HOST_WAN), ask);
    let tell = udp("203.0.113.2:53", "198.51.100.7:4000");
    assert_eq!(fw.send(HOST_WAN, &tell).out(WAN), tell);
    assert!(fw.connections().is_empty());
}

/// IPv6: SNAT, DNAT and MASQUERADE as in IPv4.
#[test]
fn ipv6_is_translated_when_a_rule_says_so() {
    for_workers([1, 2, 4], |mut setup| {
        setup.ip6tables("-t nat -A POSTROUTING -o wan -p udp -j SNAT --to-source 2001:db8:2::9");
        setup.ip6tables("-t nat -A POSTROUTING -o wan -p tcp -j MASQUERADE");
        setup.ip6tables(
            "-t nat -A PREROUTING -i wan -p tcp --dport 80 -j DNAT --to [2001:db8:1::10]:8080",
        );
        let mut fw = Firewall::with(setup);
        let server = "[2001:db8:99::9]:53";
        let mut flow = Flow::outward("[2001:db8:1::2]:5000", server);
        flow.exchange(&mut fw);
        assert_eq!(flow.seen().to_string(), "[2001:db8:2::9]:5000");
        let mut flow = Flow::outward("[2001:db8:1::2]:5000", server).open(&mut fw);
        assert_eq!(flow.seen().to_string(), "[2001:db8:2::2]:5000");
        flow.talk(&mut fw);
        Flow::inward("[2001:db8:77::7]:4000", "[2001:db8:2::2]:80", "[2001:db8:1::10]:8080")
            .open(&mut fw)
            .talk(&mut fw);
    });
}

/// A rule that no worker could own both sides of: its connections are served or refused by name, and none is lost half way.
#[test]
fn what_steering_cannot_express_is_refused_by_name() {
    let rules = ["-t nat -A PREROUTING -i lan -p tcp -j REDIRECT --to-ports 3128"];
    let mut outcomes = HashSet::new();
    let mut fw = with_rules(Setup::default().workers(4).capacity(1024), &rules);
    for port in 5000..5064 {
        let mut flow = Flow {
            dialled: "192.0.2.80:80".parse().unwrap(),
            ..Flow::between(LAN, host(2, port), HOST_LAN, "192.168.1.1:3128")
        };
        let sent = flow.try_c2s(&mut fw, &flow.syn());
        if sent.is_silent() {
            assert_eq!(sent.dropped(), DropReason::RepliesElsewhere);
            outcomes.insert("refused");
        } else {
            flow.seen = Some(sent.out(HOST_LAN).source());
            flow.open(&mut fw).talk(&mut fw);
            outcomes.insert("served");
        }
    }
    assert_eq!(outcomes.len(), 2);
    let mut alone = with_rules(Setup::default(), &rules);
    for port in 5000..5064 {
        let flow = Flow {
            dialled: "192.0.2.80:80".parse().unwrap(),
            ..Flow::between(LAN, host(2, port), HOST_LAN, "192.168.1.1:3128")
        };
        flow.open(&mut alone).talk(&mut alone);
    }
}

/// Fragments of what a rule translates are translated alike; of what it does not track they are refused by name.
#[test]
fn fragments_are_translated_by_rules_too() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = with_rules(
            setup,
            &[
                "-t nat -A POSTROUTING -o wan -j SNAT --to-source 203.0.113.9",
                "-t raw -A PREROUTING -p udp --dport 99 -j NOTRACK",
                "-I FORWARD -m conntrack --ctstate UNTRACKED -j ACCEPT",
            ],
        );
        let mut send = |port: u16| {
            let whole = udp("192.168.1.2:5000", ("192.0.2.9", port)).may_fragment().len(900);
            let parts = cut(&whole.build(), port.into(), &[400, 800]);
            let mut all = Sent::default();
            for part in parts {
                let sent = fw.send(LAN, part);
                all.outs.extend(sent.outs);
                all.drops.extend(sent.drops);
            }
            all
        };
        let sent = send(53);
        assert_eq!(sent.outs.len(), 3, "{}", sent.describe());
        assert!(sent.outs.iter().all(|out| out.l3()[12..16] == [203, 0, 113, 9]));
        let mut sent = send(99);
        sent.drops.sort();
        let refused = DropReason::FragmentRefused;
        assert_eq!(sent.drops, [refused, refused, DropReason::FragmentUnsupported]);
    });
}

/// While a table has no rules, nobody is asked, and nothing counted.
#[test]
fn empty_tables_are_not_asked() {
    let mut fw = Firewall::new();
    Flow::outward("192.168.1.2:5000", SERVER).exchange(&mut fw);
    let counts = fw.snapshot().policy.counters();
    let other: Vec<&Hook> = Hook::ALL
        .iter()
        .skip(3)
        .filter(|h| counts.policies[0][h.index()] != Count::default())
        .collect();
    assert!(other.is_empty(), "{other:?}");
}

/// C140: a router fragments what may be fragmented, tracked or not.
#[test]
fn an_untracked_packet_too_long_for_its_way_is_fragmented() {
    let rules = ["-t raw -A PREROUTING -p udp -j NOTRACK", "-I FORWARD 1 -j ACCEPT"];
    let mut fw = ruled(Setup::default().mtu(WAN, 1492), &rules);
    let long = udp("192.168.1.2:53", SERVER).len(1500).may_fragment();
    let fragments: Vec<_> = fw.lan(&long).outs.iter().map(|out| out.frame[14..].to_vec()).collect();
    assert!(fragments.len() == 2 && fragments.iter().all(|l3| l3.len() <= 1492));
    assert_eq!(Pkt::decode(&reassemble(&fragments).unwrap()), Ok(long.hop()));
    let whole = udp("192.168.1.2:53", SERVER).len(1500).df();
    assert_eq!(fw.lan(&whole).reason(), DropReason::MtuExceeded);
}

// --- Clashes ---------------------------------------------------------------------------------------

/// C075, C089: two connections that a rule sends to one place from one port, of a host that another rule maps one to one.
#[test]
fn connections_that_a_redirect_joins_are_told_apart_by_their_ports() {
    let rules = [
        "-t nat -A POSTROUTING -s 192.168.1.0/24 -o lan2 -j NETMAP --to 10.50.1.0/24",
        "-t nat -A PREROUTING -i lan -p udp --dport 123 -j REDIRECT",
        "-A INPUT -p udp --dport 123 -j ACCEPT",
    ];
    let mut fw = ruled(Setup::default().second_lan(), &rules);
    for (place, server) in ["192.0.2.9", "192.0.2.10", "192.0.2.11"].into_iter().enumerate() {
        let ask = udp("192.168.1.7:123", (server, 123));
        let seen = fw.lan(&ask).out(HOST_LAN);
        assert_eq!(seen.destination().to_string(), "192.168.1.1:123");
        assert_eq!(seen.source().port() == 123, place == 0, "{}", seen.source());
        let answer = udp(seen.destination(), seen.source());
        let back = fw.send(HOST_LAN, &answer).out(LAN);
        assert_eq!(back, answer.from((server, 123)).to("192.168.1.7:123"));
    }
}

/// C092: two hosts that become one, or one that becomes the appliance: the second one gets another port, as in Linux.
#[test]
fn a_mapped_source_whose_port_is_taken_gets_another_one() {
    for_workers([1, 2, 4], |setup| {
        let rule = "-t nat -A POSTROUTING -s 192.168.0.0/16 -o wan -j NETMAP --to 198.51.100.0/24";
        let setup = setup.address(LAN, "192.168.2.1/24");
        let mut fw = ruled(setup, &[rule]);
        let mut seen = HashSet::new();
        for client in ["192.168.1.5:5000", "192.168.2.5:5000"] {
            let mut flow = Flow::outward(client, SERVER);
            flow.exchange(&mut fw);
            assert_eq!(flow.seen().ip().to_string(), "198.51.100.5");
            seen.insert(flow.seen().port());
        }
        assert!(seen.contains(&5000) && seen.len() == 2, "{seen:?}");

        let rule = "-t nat -A POSTROUTING -s 192.168.1.0/24 -o wan -j NETMAP --to 203.0.113.0/24";
        let mut fw = ruled(Setup::default().workers(fw.setup().workers), &[rule]);
        let own = udp("203.0.113.2:5000", SERVER);
        assert_eq!(fw.send(HOST_WAN, &own).out(WAN), own);
        let mut flow = Flow::outward("192.168.1.2:5000", SERVER);
        flow.exchange(&mut fw);
        assert_eq!(flow.seen().ip().to_string(), "203.0.113.2");
        assert_ne!(flow.seen().port(), 5000);
    });
}

/// C089: the port of a redirect is not given to others; the address that it takes in need not be ours.
#[test]
fn an_address_redirected_whole_is_answered_from() {
    for_workers([1, 2, 4], |setup| {
        let rules =
            ["-t nat -A PREROUTING -d 198.51.100.9 -j REDIRECT", "-A INPUT -i lan -j ACCEPT"];
        let mut fw = ruled(setup, &rules);
        for port in 5000..5008 {
            let ask = udp(host(5, port), "198.51.100.9:80");
            let seen = fw.lan(&ask).out(HOST_LAN);
            assert_eq!(seen, ask.to("192.168.1.1:80"));
            let answer = udp("192.168.1.1:80", host(5, port));
            assert_eq!(fw.send(HOST_LAN, &answer).out(LAN), answer.from("198.51.100.9:80"));
        }
    });
}

/// RFC 4787 REQ-2 turned round: of servers that serve one name, each client keeps its own when one more serves; IPv6 too.
#[test]
fn most_clients_keep_their_server_when_there_is_one_more() {
    let chosen = |last: &str| -> Vec<String> {
        let mut setup = Setup::default().routed();
        let rule = format!(
            "-t nat -A PREROUTING -d 2001:db8:2::2 -p udp --dport 53 -j DNAT --to-destination [2001:db8:1::10-{last}]"
        );
        setup.ip6tables(&rule);
        let mut fw = Firewall::with(setup);
        (0..200u16)
            .map(|client| {
                let ask =
                    udp((format!("2001:db8:9::{client:x}").as_str(), 999), "[2001:db8:2::2]:53");
                fw.wan(&ask).out(LAN).destination().ip().to_string()
            })
            .collect()
    };
    let (four, five) = (chosen("2001:db8:1::13"), chosen("2001:db8:1::14"));
    let moved = four.iter().zip(&five).filter(|(a, b)| a != b);
    let (to_new, elsewhere): (Vec<_>, Vec<_>) = moved.partition(|(_, b)| b.ends_with("::14"));
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
    assert!((15..70).contains(&to_new.len()), "{} of 200", to_new.len());
}

/// C072: a rule said where it goes, not that its source may be seen: when its way leads to the WAN, it begins anew behind it.
#[test]
fn a_redirected_connection_whose_way_leads_outside_is_hidden_there() {
    for_workers([1, 2, 4], |setup| {
        let rule =
            "-t nat -A PREROUTING -i lan -p udp --dport 53 -j DNAT --to-destination 198.51.100.2";
        let vpn = Some("192.168.2.9");
        let mut setup = setup.second_lan().route("198.51.100.0/24", RouteKind::Unicast, LAN2, vpn);
        setup.iptables(rule);
        setup.iptables("-I FORWARD 1 -i lan -j ACCEPT");
        let mut fw = Firewall::with(setup);
        let ask = udp("192.168.1.5:5000", "192.0.2.9:53");
        assert_eq!(fw.lan(&ask).out(LAN2), ask.clone().hop().to("198.51.100.2:53"));
        fw.change(|setup| setup.routes.clear());
        let out = fw.lan(&ask).out(WAN);
        assert_eq!(out, ask.hop().from(out.source()).to("198.51.100.2:53"));
        assert_eq!(out.source().ip().to_string(), "203.0.113.2");
    });
}
