//! Changes while connections live: rules, forwards, addresses, steering epochs; and the table as control
//! sees it.

use std::collections::{BTreeSet, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use postern_core::conntrack::timeouts::TimeoutKind;
use postern_core::conntrack::tuple::protocol;
use postern_core::forward::RouteKind;
use postern_core::pipeline::{ConnectionId, Cursor, Filter};
use postern_core::rules::RejectKind;
use postern_core::snapshot::Snapshot;
use postern_core::units::WorkerId;
use postern_core::verdict::DropReason;
use postern_tests::packet::{icmp, tcp, udp};
use postern_tests::{Firewall, Flow, HOST_WAN, LAN, Setup, WAN, for_workers, moved};

const OUTSIDE: &str = "192.0.2.7:40000";

fn dns(port: u16) -> Flow {
    Flow::outward(("192.168.1.2", port), "192.0.2.9:53")
}

/// C190
#[test]
fn reloading_the_same_set_up_loses_nothing_and_keeps_mappings() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        let mut first = Flow::outward("192.168.1.3:5000", "192.0.2.9:80").open(&mut fw);
        let mut second = Flow::outward("192.168.1.2:5000", "192.0.2.9:80").open(&mut fw);
        let seen = second.seen();
        for _ in 0..50 {
            fw.change(|_| {});
            second.talk(&mut fw);
            first.talk(&mut fw);
        }
        assert_eq!(second.seen(), seen);
        assert_eq!(fw.connections().len(), 2);
        assert_eq!(fw.values().dropped(), 0);
    });
}

/// C190: after a change of rules each direction is judged once more, after a change of routes or addresses it finds
/// its way once more; then it goes by what it found. What did not change costs nothing.
#[test]
fn a_change_costs_each_direction_one_new_decision_of_its_kind() {
    let mut fw = Firewall::new();
    let mut f = dns(5000);
    f.exchange(&mut fw);
    f.exchange(&mut fw);
    fw.take_moved();
    type Change = fn(&mut Setup);
    let changes: [(Change, u64, u64); 5] = [
        (|_| {}, 0, 0),
        (|setup| setup.iptables("-A FORWARD -p tcp --dport 25 -j DROP"), 0, 2),
        (
            |setup| {
                *setup = setup.clone().route("198.51.100.0/24", RouteKind::Unreachable, WAN, None)
            },
            2,
            0,
        ),
        (|setup| setup.set_addresses(WAN, &["203.0.113.2/24", "203.0.113.3/24"]), 2, 0),
        (|setup| setup.add_forward(protocol::TCP, (80, 80), "192.168.1.9:80"), 0, 0),
    ];
    for (change, rerouted, rejudged) in changes {
        fw.change(change);
        f.exchange(&mut fw);
        let moved = fw.take_moved();
        let by = |name| moved.iter().find(|(n, _)| n == name).map_or(0, |&(_, by)| by);
        assert_eq!((by("rerouted"), by("rejudged")), (rerouted, rejudged), "{moved:?}");
        f.exchange(&mut fw);
        moved!(fw, received: 2, forwarded: 2, tracked: 2);
    }
}

/// C190: the stamps of policy and way wrap; an entry that slept through all of them is not taken for up to date.
#[test]
fn an_entry_that_slept_while_the_stamps_wrapped_is_judged_again() {
    let mut fw = Firewall::new();
    let mut f = dns(5000);
    f.exchange(&mut fw);
    f.exchange(&mut fw);
    let stamps = fw.snapshot().stamps;
    let mut policies = [fw.snapshot().policy.clone(), fw.snapshot().policy.clone()];
    fw.change(|setup| setup.iptables("-I FORWARD -d 192.0.2.9 -j DROP"));
    policies[0] = fw.snapshot().policy.clone();
    while fw.snapshot().stamps != stamps {
        policies.rotate_left(1);
        let before = fw.snapshot().clone();
        let next = Snapshot { policy: policies[0].clone(), ..before.clone() };
        fw.publish(next.following(&before));
        fw.housekeep(8);
    }
    assert!(fw.snapshot().policy.rule_count() > policies[1].rule_count(), "the one that forbids");
    // The new policy has paths of the numbers that the sleeper remembers.
    let mut other = Flow::outward("192.168.1.3:5000", "192.0.2.8:53");
    other.exchange(&mut fw);
    other.exchange(&mut fw);
    assert_eq!(f.try_c2s(&mut fw, &f.ask()).dropped(), DropReason::DeniedByRule);
}

/// C190: shorter timeouts reach connections that no packet reaches; longer ones do not lengthen what is idle.
#[test]
fn timeouts_made_shorter_end_idle_connections_too() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        Flow::outward("192.168.1.2:5000", "192.0.2.9:80").open(&mut fw);
        dns(5000).exchange(&mut fw);
        assert_eq!(fw.connections().len(), 2);
        let timeout = |kind, seconds| {
            move |setup: &mut Setup| setup.timeouts.set(kind, Duration::from_secs(seconds))
        };
        fw.change(timeout(TimeoutKind::TcpEstablished, 20));
        fw.change(timeout(TimeoutKind::Udp, 3_000));
        fw.pass_secs(21);
        assert_eq!(fw.connections().len(), 1, "the UDP flow lives as long as before");
        fw.pass_secs(10);
        assert!(fw.connections().is_empty());
    });
}

/// C190: what has been idle for longer than a timeout made shorter is gone at the next turn, and makes room.
#[test]
fn a_timeout_made_shorter_than_connections_have_been_idle_ends_them_at_once() {
    for_workers([1, 2], |setup| {
        let workers = setup.workers;
        let mut fw = Firewall::with(setup.capacity(50));
        for port in 5000..5025 {
            Flow::outward(("192.168.1.2", port), "192.0.2.9:80").open(&mut fw);
        }
        fw.pass_secs(60);
        for port in 6000..6025 {
            Flow::outward(("192.168.1.2", port), "192.0.2.9:80").open(&mut fw);
        }
        fw.pass_secs(5);
        let held = |fw: &mut Firewall| -> u32 {
            (0..usize::from(workers)).map(|w| fw.pipeline(w).connections()).sum()
        };
        let listed = |fw: &Firewall| fw.connections().len() as u32;
        assert_eq!((held(&mut fw), listed(&fw)), (50, 50));
        fw.change(|setup| setup.timeouts.set(TimeoutKind::TcpEstablished, Duration::from_secs(20)));
        fw.housekeep(u32::MAX);
        fw.pass_secs(1);
        assert_eq!((held(&mut fw), listed(&fw)), (25, 25), "half had been idle for over 20 s");
        for port in 7000..7025 {
            Flow::outward(("192.168.1.2", port), "192.0.2.9:80").open(&mut fw);
        }
        fw.pass_secs(15);
        assert_eq!((held(&mut fw), listed(&fw)), (25, 25));
        fw.pass_secs(6);
        assert_eq!((held(&mut fw), listed(&fw)), (0, 0));
    });
}

/// C193: new flows are refused at once; existing ones are judged again with the state they have, so the
/// rule that accepts ESTABLISHED lets them go on.
#[test]
fn a_deny_rule_refuses_new_flows_at_once_and_established_ones_go_on() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        let mut old = dns(5000);
        old.exchange(&mut fw);
        let mut unreplied = dns(6000);
        unreplied.c2s(&mut fw, &unreplied.ask());
        fw.change(|setup| setup.iptables("-I FORWARD 3 -d 192.0.2.9 -j DROP"));
        let new = dns(5001);
        assert_eq!(new.try_c2s(&mut fw, &new.ask()).dropped(), DropReason::DeniedByRule);
        old.exchange(&mut fw);
        // What has no answer yet is still NEW.
        let sent = unreplied.try_c2s(&mut fw, &unreplied.ask());
        assert_eq!(sent.dropped(), DropReason::DeniedByRule);
        fw.change(|setup| setup.iptables("-D FORWARD 3"));
        let mut new = new;
        new.exchange(&mut fw);
        unreplied.exchange(&mut fw);
    });
}

/// C193: a rule before the one that accepts ESTABLISHED stops existing connections too; the entry stays.
#[test]
fn a_deny_rule_before_established_stops_existing_flows_and_its_removal_lets_them_go_on() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        let mut f = Flow::outward("192.168.1.2:5000", "192.0.2.9:80").open(&mut fw);
        fw.change(|setup| setup.iptables("-I FORWARD -s 192.168.1.2 -j DROP"));
        let segment = f.client_segment();
        assert_eq!(f.try_c2s(&mut fw, &segment).dropped(), DropReason::DeniedByRule);
        // Only that direction was forbidden.
        f.s2c(&mut fw, &f.server_segment());
        assert_eq!(fw.connections().len(), 1);
        fw.change(|setup| setup.iptables("-D FORWARD 1"));
        f.talk(&mut fw);
    });
}

/// C193: what is refused may be told so.
#[test]
fn reject_rules_answer_with_what_they_say() {
    let mut fw = Firewall::new();
    fw.change(|setup| {
        setup.iptables("-I FORWARD -p tcp --dport 25 -j REJECT --reject-with tcp-reset");
        setup.iptables("-I FORWARD -p udp --dport 25 -j REJECT");
        setup.ip6tables("-I FORWARD -p tcp --dport 25 -j REJECT --reject-with tcp-reset");
        setup.ip6tables("-I FORWARD -p udp --dport 25 -j REJECT");
    });
    assert!(RejectKind::ALL.len() > 2);
    let v4 = [("192.168.1.2:5000", "192.0.2.9:25"), ("[2001:db8:1::2]:5000", "[2001:db8:9::9]:25")];
    for (client, server) in v4 {
        let syn = tcp(client, server).syn().seq(77).payload(b"abc");
        let sent = fw.lan(&syn);
        assert_eq!(sent.reason(), DropReason::RejectedByRule);
        let reset = tcp(server, client).rst().ack(77 + 1 + 3).window(0);
        let answer = sent.answer(LAN);
        assert_eq!(answer, reset.id(0).ttl(answer.ttl));
        let ask = udp(client, server);
        let answer = fw.lan(&ask).answer(LAN);
        let expected = match ask.src.is_ipv4() {
            true => icmp("192.168.1.1", ask.src, 3, 3, 0, &ask.build()).tos(0xc0).id(0).df(),
            false => icmp("2001:db8:1::1", ask.src, 1, 4, 0, &ask.build()).id(0),
        };
        assert_eq!(answer, expected);
    }
    assert!(fw.connections().is_empty());
}

/// C190: rules count exactly, also for packets that went by a cached decision.
#[test]
fn rules_count_every_packet_and_byte() {
    for_workers([1, 2, 4], |mut setup| {
        setup.iptables("-I FORWARD -p udp --dport 53");
        let mut fw = Firewall::with(setup);
        let mut f = dns(5000);
        for _ in 0..10 {
            f.exchange(&mut fw);
        }
        let counts = fw.snapshot().policy.counters();
        // Rules are numbered by chain: INPUT's come first.
        let counted = counts.rules.iter().filter(|count| count.packets == 10).count();
        assert_eq!(counted, 1, "{counts:?}");
        let all: u64 = counts.rules.iter().map(|count| count.packets).sum();
        // The first rule: 10. Then NEW by the last rule: 1; ESTABLISHED: 9 there, 10 back.
        assert_eq!(all, 10 + 1 + 19, "{counts:?}");
        let bytes: u64 = counts.rules.iter().map(|count| count.bytes).sum();
        assert_eq!(bytes, 10 * 36 + 36 + 9 * 36 + 10 * 34);
    });
}

/// C104: our policy: existing connections of a removed forward go on, new ones are refused at once.
#[test]
fn a_removed_forward_refuses_new_connections_and_existing_ones_go_on() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup.forward_tcp(8080, "192.168.1.10:80"));
        let dial = |client| Flow::inward(client, "203.0.113.2:8080", "192.168.1.10:80");
        let mut old = dial(OUTSIDE).open(&mut fw);
        fw.change(|setup| setup.forwards.clear());
        for client in ["192.0.2.8:40000", "192.0.2.7:40001"] {
            let new = dial(client);
            assert_eq!(new.try_c2s(&mut fw, &new.syn()).dropped(), DropReason::DeniedByPolicy);
        }
        old.talk(&mut fw);
        old.client_fin(&mut fw);
        old.server_fin(&mut fw);
    });
}

/// C104: a retargeted forward.
#[test]
fn a_retargeted_forward_leads_new_connections_elsewhere_and_old_ones_where_they_were() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup.forward_tcp(8080, "192.168.1.10:80"));
        let mut old = Flow::inward(OUTSIDE, "203.0.113.2:8080", "192.168.1.10:80").open(&mut fw);
        fw.change(|setup| {
            setup.forwards.clear();
            setup.add_forward(protocol::TCP, (8080, 8080), "192.168.1.11:8081");
        });
        let mut new =
            Flow::inward("192.0.2.8:40000", "203.0.113.2:8080", "192.168.1.11:8081").open(&mut fw);
        for _ in 0..3 {
            old.talk(&mut fw);
            new.talk(&mut fw);
        }
    });
}

/// C104, C190: a forward added on a port that a live connection preserved leaves that connection alone.
#[test]
fn a_forward_added_on_a_port_in_use_leaves_the_connection_that_uses_it_alone() {
    for_workers([1, 2, 4, 8], |setup| {
        for port in [5000, 5002, 5004, 5006] {
            let mut fw = Firewall::with(setup.clone());
            let client = SocketAddr::from(([192, 168, 1, 2], port));
            let mut tcp = Flow::outward(client, "192.0.2.9:80").open(&mut fw);
            let mut udp = Flow::outward(client, "192.0.2.9:53");
            udp.exchange(&mut fw);
            fw.change(|setup| {
                setup.add_forward(protocol::TCP, (port, port), "192.168.1.10:80");
                setup.add_forward(protocol::UDP, (port, port), "192.168.1.10:53");
            });
            for _ in 0..3 {
                tcp.talk(&mut fw);
                udp.exchange(&mut fw);
            }
            // And the forward works beside it, but for the peer of the old connection.
            let dialled = SocketAddr::from(([203, 0, 113, 2], port));
            let mut new = Flow::inward(OUTSIDE, dialled, "192.168.1.10:80").open(&mut fw);
            new.talk(&mut fw);
            tcp.talk(&mut fw);
            assert_eq!(fw.connections().len(), 3);
            // An error about it is related still.
            let arrived = udp.c2s(&mut fw, &udp.ask());
            let report = icmp("192.0.2.9", "203.0.113.2", 3, 3, 0, &arrived.build());
            assert_eq!(fw.wan(report).out(LAN).dst, client.ip());
        }
    });
}

/// C190: many changes in a row: as many epochs as are kept.
#[test]
fn connections_of_older_epochs_are_still_found() {
    for_workers([2, 4, 16], |setup| {
        let mut fw = Firewall::with(setup);
        let mut flows = Vec::new();
        for epoch in 0..7u16 {
            for port in 0..4 {
                let client = SocketAddr::from(([192, 168, 1, 2], 5000 + 100 * epoch + 2 * port));
                flows.push(Flow::outward(client, "192.0.2.9:80").open(&mut fw));
            }
            let first = 5000 + 100 * epoch;
            fw.change(|setup| {
                setup.add_forward(protocol::TCP, (first, first + 10), ("192.168.1.10", first))
            });
        }
        for flow in &mut flows {
            flow.talk(&mut fw);
            flow.client_fin(&mut fw);
            flow.server_fin(&mut fw);
        }
        assert_eq!(fw.connections().len(), flows.len());
    });
}

/// C190: and more changes than epochs are kept of.
#[test]
fn connections_outlive_more_changes_than_epochs_are_kept() {
    for_workers([2, 4, 16], |setup| {
        let mut fw = Firewall::with(setup);
        let mut flows: Vec<_> = (0..8)
            .map(|n| SocketAddr::from(([192, 168, 1, 2], 5000 + 2 * n)))
            .map(|client| Flow::outward(client, "192.0.2.9:80").open(&mut fw))
            .collect();
        for change in 0..12u16 {
            let first = if change == 0 { 5000 } else { 7000 + 100 * change };
            fw.change(|setup| {
                setup.add_forward(protocol::TCP, (first, first + 20), ("192.168.1.10", first))
            });
        }
        for flow in &mut flows {
            flow.talk(&mut fw);
        }
        assert_eq!(fw.connections().len(), flows.len());
    });
}

/// C190: a packet that is on its way between workers while the set-up changes is not lost.
#[test]
fn a_hand_over_interrupted_by_a_change_reaches_its_connection() {
    for_workers([2, 4], |setup| {
        for port in (5000..5032).step_by(2) {
            let mut fw = Firewall::with(setup.clone());
            let client = SocketAddr::from(([192, 168, 1, 2], port));
            let mut f = Flow::outward(client, "192.0.2.9:53");
            f.exchange(&mut fw);
            fw.slow_hand_over = true;
            let mut outs = fw.lan(f.ask()).outs;
            outs.extend(fw.wan(f.tell()).outs);
            fw.change(|setup| setup.add_forward(protocol::UDP, (port, port), "192.168.1.10:53"));
            outs.extend(fw.settle().outs);
            let mut out: Vec<_> = outs.iter().map(|out| out.pkt()).collect();
            out.sort_by_key(|pkt| pkt.src);
            let mut expected = vec![f.at_server(&f.ask()), f.at_client(&f.tell())];
            expected.sort_by_key(|pkt| pkt.src);
            assert_eq!(out, expected);
            fw.slow_hand_over = false;
            f.exchange(&mut fw);
            assert_eq!(fw.connections().len(), 1);
        }
    });
}

/// C190, C044: a first packet on its way to its owner while the owner changes, and its twin behind it.
#[test]
fn first_packets_interrupted_by_a_change_make_one_connection() {
    for_workers([2, 4], |setup| {
        for port in (5000..5032).step_by(2) {
            let mut fw = Firewall::with(setup.clone());
            fw.slow_hand_over = true;
            let client = SocketAddr::from(([192, 168, 1, 2], port));
            let mut f = Flow::outward(client, "192.0.2.9:53");
            let mut outs = fw.lan(f.ask()).outs;
            fw.change(|setup| setup.add_forward(protocol::UDP, (port, port), "192.168.1.10:53"));
            outs.extend(fw.lan(f.ask()).outs);
            outs.extend(fw.settle().outs);
            fw.slow_hand_over = false;
            let arrived: HashSet<_> = outs.iter().map(|out| out.pkt().source()).collect();
            assert_eq!((outs.len(), arrived.len()), (2, 1), "{arrived:?}");
            f.seen = arrived.into_iter().next();
            f.exchange(&mut fw);
            assert_eq!(fw.connections().len(), 1);
        }
    });
}

/// C072, C190: a renumbered WAN drops exactly the connections of the lost address.
#[test]
fn a_lost_address_takes_exactly_its_own_connections_with_it() {
    for_workers([1, 2, 4], |setup| {
        let setup = setup.address(WAN, "203.0.113.3/24").forward_tcp(8080, "192.168.1.10:80");
        let mut fw = Firewall::with(setup);
        let mut masqueraded = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
        masqueraded.exchange(&mut fw);
        let mut second = Flow::outward("192.168.1.3:6000", "192.0.2.9:53");
        second.exchange(&mut fw);
        let _hairpin = Flow {
            dialled: "203.0.113.2:8080".parse().unwrap(),
            ..Flow::between(LAN, "192.168.1.4:5000", LAN, "192.168.1.10:80")
        }
        .open(&mut fw);
        let mut v6 = Flow::outward("[2001:db8:1::2]:5000", "[2001:db8:9::9]:53");
        v6.exchange(&mut fw);
        assert_eq!(fw.connections().len(), 4);

        fw.change(|setup| {
            setup.set_addresses(WAN, &["203.0.113.3/24", "2001:db8:2::2/64"]);
        });
        // From outside nobody finds it any more.
        let late = masqueraded.tell();
        assert!(fw.wan(late).is_silent());
        // From inside it begins anew behind the address there is.
        masqueraded.seen = None;
        masqueraded.exchange(&mut fw);
        assert_eq!(masqueraded.seen().to_string(), "203.0.113.3:5000");
        // What does not depend on the lost address goes on.
        v6.exchange(&mut fw);
        // What was idle is swept: behind the lost address, or dialled to it (the hairpin).
        fw.pass_secs(1);
        let clients: BTreeSet<_> =
            fw.connections().iter().map(|c| c.original.src().to_string()).collect();
        assert!(!clients.contains("192.168.1.3"), "{clients:?}");
        assert!(!clients.contains("192.168.1.4"), "{clients:?}");
        assert_eq!(fw.connections().len(), 2);
    });
}

/// C072: the other address of two stays what it is.
#[test]
fn an_added_address_disturbs_nobody() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        let mut f = Flow::outward("192.168.1.2:5000", "192.0.2.9:80").open(&mut fw);
        fw.change(|setup| {
            setup.set_addresses(WAN, &["203.0.113.9/24", "203.0.113.2/24", "2001:db8:2::2/64"]);
        });
        f.talk(&mut fw);
        let mut new = dns(5001);
        new.exchange(&mut fw);
        assert_eq!(new.seen().ip().to_string(), "203.0.113.9");
        f.talk(&mut fw);
    });
}

/// C194
#[test]
fn one_connection_is_deleted_by_its_id_and_a_wrong_id_deletes_nothing() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        let mut flows: Vec<_> = (0..8).map(|i| dns(5000 + 2 * i)).collect();
        flows.push(Flow::outward("[2001:db8:1::2]:5000", "[2001:db8:9::9]:53"));
        for flow in &mut flows {
            flow.exchange(&mut fw);
        }
        let victim = fw.connections().into_iter().find(|c| c.original.src_id() == 5004).unwrap();
        for bit in 0..60 {
            let wrong = ConnectionId(victim.id.0 ^ 1 << bit);
            let known = fw.connections().iter().any(|c| c.id == wrong);
            if !known && (wrong.worker().index()) < usize::from(fw.setup().workers) {
                assert!(!fw.delete(wrong), "{wrong:?}");
            }
        }
        assert!(fw.delete(victim.id));
        assert!(!fw.delete(victim.id));
        assert_eq!(fw.connections().len(), 8);
        for flow in &mut flows {
            let from_server = flow.try_s2c(&mut fw, &flow.tell());
            assert_eq!(from_server.is_silent(), flow.client.port() == 5004);
        }
        // An id is not used again.
        flows[2].exchange(&mut fw);
        assert!(fw.connections().iter().all(|c| c.id != victim.id));
        assert!(!fw.delete(victim.id));
    });
}

/// C194: by address and by tuple, as control does it: by a filter.
#[test]
fn a_filter_finds_exactly_the_connections_it_means() {
    let mut fw = Firewall::new();
    for host in ["192.168.1.2", "192.168.1.3"] {
        for port in [5000, 5001] {
            Flow::outward((host, port), "192.0.2.9:53").exchange(&mut fw);
            Flow::outward((host, port), "192.0.2.9:80").open(&mut fw);
        }
    }
    let now = fw.now;
    let mut count = |filter: Filter| {
        let mut found = 0;
        fw.pipeline(0).visit(WorkerId(0), Cursor::default(), 1000, &filter, now, |_| found += 1);
        found
    };
    let host = Some("192.168.1.2".parse().unwrap());
    assert_eq!(count(Filter::default()), 8);
    assert_eq!(count(Filter { orig_src: host, ..Filter::default() }), 4);
    assert_eq!(count(Filter { orig_src: host, protocol: Some(6), ..Filter::default() }), 2);
    assert_eq!(count(Filter { sport: Some(5000), dport: Some(53), ..Filter::default() }), 2);
    assert_eq!(
        count(Filter { reply_dst: Some("203.0.113.2".parse().unwrap()), ..Filter::default() }),
        8
    );
    assert_eq!(count(Filter { v6: Some(true), ..Filter::default() }), 0);
    assert_eq!(count(Filter { tcp_state: Some(3), protocol: Some(6), ..Filter::default() }), 4);
}

/// C195
#[test]
fn a_dump_while_connections_come_and_go_shows_none_twice_and_ends() {
    let mut fw = Firewall::with(Setup::default().capacity(512));
    let mut kept: Vec<_> = (0..50).map(|i| dns(5000 + i)).collect();
    for flow in &mut kept {
        flow.exchange(&mut fw);
    }
    for round in 0..10u16 {
        let mut seen = HashSet::new();
        let mut cursor = Some(Cursor::default());
        let mut slices = 0;
        while let Some(at) = cursor {
            let now = fw.now;
            let mut duplicate = None;
            cursor = fw.pipeline(0).visit(WorkerId(0), at, 7, &Filter::default(), now, |view| {
                if !seen.insert(view.id) {
                    duplicate = Some(view);
                }
            });
            assert_eq!(duplicate, None);
            slices += 1;
            assert!(slices < 400, "it ends");
            // Some come, some go.
            let mut other = dns(20_000 + 100 * round + slices);
            other.exchange(&mut fw);
            if slices % 2 == 0 {
                let victim = fw.connections().into_iter().find(|c| c.original.src_id() >= 20_000);
                assert!(fw.delete(victim.unwrap().id));
            }
        }
        let ids: Vec<_> =
            fw.connections().iter().filter(|c| c.original.src_id() < 5050).map(|c| c.id).collect();
        assert_eq!(ids.len(), 50);
        assert!(ids.iter().all(|id| seen.contains(id)), "what lives throughout is seen");
        let late: Vec<_> =
            fw.connections().into_iter().filter(|c| c.original.src_id() >= 20_000).collect();
        for view in late {
            fw.delete(view.id);
        }
    }
}

/// C197
#[test]
fn after_a_restart_stale_inbound_is_refused_and_new_flows_work_at_once() {
    let mut before = Firewall::new();
    let mut f = Flow::outward("192.168.1.2:5000", "192.0.2.9:80").open(&mut before);
    let mut u = dns(5000);
    u.exchange(&mut before);
    drop(before);
    let mut fw = Firewall::new();
    let data = f.server_segment().payload(b"stale");
    assert_eq!(f.try_s2c(&mut fw, &data).dropped(), DropReason::TcpNotSyn);
    assert_eq!(u.try_s2c(&mut fw, &u.tell()).dropped(), DropReason::DeniedByPolicy);
    u.exchange(&mut fw);
    f.reopen(&mut fw);
    f.talk(&mut fw);
}

/// C190: an interface that goes down and comes back.
#[test]
fn connections_survive_a_link_that_goes_down_and_comes_back() {
    let mut fw = Firewall::new();
    let mut f = Flow::outward("192.168.1.2:5000", "192.0.2.9:80").open(&mut fw);
    fw.change(|setup| setup.interfaces[1].up = false);
    assert_eq!(f.try_c2s(&mut fw, &f.client_segment()).reason(), DropReason::InterfaceDown);
    fw.change(|setup| setup.interfaces[1].up = true);
    f.talk(&mut fw);
}

/// C190: another gateway.
#[test]
fn connections_follow_a_changed_route() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        let mut f = Flow::outward("192.168.1.2:5000", "192.0.2.9:80").open(&mut fw);
        let mut host = Flow::between(HOST_WAN, "203.0.113.2:6000", WAN, "192.0.2.9:53");
        host.exchange(&mut fw);
        // The harness checks the MAC that every packet is sent to.
        fw.change(|setup| setup.gateways[0] = "203.0.113.200".parse().unwrap());
        f.talk(&mut fw);
        host.exchange(&mut fw);
    });
}

/// C079, C104: the port of a forward that is gone is given to nobody while its connections may live: an
/// outward connection to the same peer would share their tuple on another worker.
#[test]
fn the_port_of_a_removed_forward_is_not_given_away_while_its_connections_live() {
    for_workers([1, 2, 4, 8], |setup| {
        let mut fw = Firewall::with(setup.forward_udp(8080, "192.168.1.10:5000"));
        let mut old = Flow::inward(OUTSIDE, "203.0.113.2:8080", "192.168.1.10:5000");
        old.exchange(&mut fw);
        fw.change(|setup| setup.forwards.clear());
        let mut out = Flow::outward("192.168.1.2:8080", OUTSIDE);
        out.exchange(&mut fw);
        assert_ne!(out.seen().port(), 8080);
        old.exchange(&mut fw);
        fw.pass_secs(31);
        fw.forget_epochs();
        out.seen = None;
        out.exchange(&mut fw);
        assert_eq!(out.seen().port(), 8080, "free again");
    });
}

/// C104, C190: connections that only an older steering leads to are found for as long as they are used, and that
/// steering is kept no longer than they live.
#[test]
fn connections_on_the_port_of_a_new_forward_live_as_long_as_they_are_used() {
    for_workers([2, 3, 8], |setup| {
        let mut fw = Firewall::with(setup);
        let client = |n: u16| SocketAddr::from(([192, 168, 1, 2 + (n % 3) as u8], 5000 + n));
        let mut flows: Vec<_> = (0..12).map(|n| Flow::outward(client(n), "192.0.2.9:53")).collect();
        flows.iter_mut().for_each(|flow| flow.exchange(&mut fw));
        assert!(flows.iter().all(|flow| flow.seen().port() == flow.client.port()), "preserved");
        fw.change(|setup| setup.add_forward(protocol::UDP, (5000, 5005), "192.168.1.10:53"));
        fw.change(|setup| setup.add_forward(protocol::UDP, (5006, 5009), "192.168.1.10:54"));
        for _ in 0..3 * 3600 / 25 {
            fw.pass_secs(25);
            fw.forget_epochs();
            flows.iter_mut().for_each(|flow| flow.exchange(&mut fw));
        }
        assert_eq!(fw.connections().len(), flows.len(), "none was made twice");
        assert_eq!(fw.snapshot().older_steering.len(), 2);
        // Of those that the second change left alone one is used on, and needs neither.
        for _ in 0..4 {
            fw.pass_secs(100);
            flows[11].exchange(&mut fw);
        }
        fw.forget_epochs();
        assert!(fw.snapshot().older_steering.is_empty());
        flows[11].exchange(&mut fw);
    });
}

/// C104, C190: after more changes than steering epochs are kept, everybody is asked, and that stays so.
#[test]
fn no_number_of_changes_loses_a_connection() {
    for_workers([2, 3, 8], |setup| {
        let mut fw = Firewall::with(setup);
        let mut flows: Vec<_> = (0..12)
            .map(|n| Flow::outward(SocketAddr::from(([192, 168, 1, 2], 5000 + n)), "192.0.2.9:53"))
            .collect();
        flows.iter_mut().for_each(|flow| flow.exchange(&mut fw));
        fw.change(|setup| setup.add_forward(protocol::UDP, (5000, 5011), "192.168.1.10:53"));
        for port in 8000..8020 {
            fw.change(|setup| setup.add_forward(protocol::UDP, (port, port), "192.168.1.10:53"));
            fw.forget_epochs();
            flows.iter_mut().for_each(|flow| flow.exchange(&mut fw));
        }
        assert_eq!(fw.connections().len(), flows.len());
    });
}

/// C104, C100: a connection from outside by a new forward to an endpoint that already talks to that very
/// peer: refused, as it is when the forward was there before (see `a_forwards_server_may_open_connections_outward`).
#[test]
fn a_forward_does_not_take_over_the_tuple_of_an_outward_connection() {
    for_workers([1, 2, 4, 8], |setup| {
        let mut fw = Firewall::with(setup);
        let mut out = Flow::outward("192.168.1.10:5000", OUTSIDE);
        out.exchange(&mut fw);
        fw.change(|setup| setup.add_forward(protocol::UDP, (8080, 8080), "192.168.1.10:5000"));
        let dialled = Flow::inward(OUTSIDE, "203.0.113.2:8080", "192.168.1.10:5000");
        let sent = dialled.try_c2s(&mut fw, &dialled.ask());
        assert_eq!(sent.dropped(), DropReason::TupleInUse);
        out.exchange(&mut fw);
    });
}
