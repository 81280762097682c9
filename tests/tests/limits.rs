//! Limits by address: what one host may have, how it is counted over all workers, and that the count is right whatever
//! happens to connections.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use postern_core::pipeline::{ConnectionView, Cursor, Filter};
use postern_core::time::Instant;
use postern_core::units::WorkerId;
use postern_core::verdict::DropReason;
use postern_tests::packet::{Address, echo_request, icmp, tcp, udp};
use postern_tests::{
    Draw, Firewall, Flow, HOST_LAN, HOST_WAN, LAN, Setup, WAN, for_workers, moved,
};
use proptest::prelude::*;

fn host(last: u8, port: u16) -> SocketAddr {
    ([192, 168, 1, last], port).into()
}

fn with_rules(mut setup: Setup, rules: &[&str]) -> Firewall {
    rules.iter().for_each(|rule| setup.iptables(rule));
    Firewall::with(setup)
}

/// What the ledger counts for a source.
fn of_source(fw: &Firewall, address: &str) -> u32 {
    fw.snapshot().policy.ledger().expect("something is counted").of_source(address.address())
}

/// What the ledger counts for an address under the first limit of the rules.
fn of_rule(fw: &Firewall, address: &str) -> u32 {
    fw.snapshot().policy.ledger().expect("something is counted").of_rule(0, address.address())
}

// --- Of the configuration -----------------------------------------------------------------------------

/// C094; RFC 6888 REQ-4: the limit drops the new connections of that host only, and those it has go on.
#[test]
fn a_host_at_its_limit_can_open_no_more_and_others_can() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup.per_source(20));
        let mut kept: Vec<_> = (0..20)
            .map(|i| Flow::outward(host(2, 2000 + i), "192.0.2.9:80").open(&mut fw))
            .collect();
        fw.take_moved();
        for i in 0..50 {
            let refused = fw.lan(tcp(host(2, 3000 + i), "192.0.2.9:80").syn());
            assert_eq!(refused.dropped(), DropReason::SourceLimit);
            let refused = fw.lan(udp(host(2, 3000 + i), "198.51.100.7:53"));
            assert_eq!(refused.dropped(), DropReason::SourceLimit);
        }
        assert_eq!(fw.values().drops[DropReason::SourceLimit as usize], 100);
        assert_eq!(of_source(&fw, "192.168.1.2"), 20);
        for i in 0..20 {
            Flow::outward(host(3, 2000 + i), "192.0.2.9:80").open(&mut fw).talk(&mut fw);
        }
        for flow in &mut kept {
            flow.talk(&mut fw);
        }
        // One goes, one comes.
        fw.lan(kept[7].client_segment().rst()).out(WAN);
        fw.pass_secs(11);
        Flow::outward(host(2, 4000), "192.0.2.9:80").open(&mut fw).talk(&mut fw);
        assert_eq!(fw.lan(udp(host(2, 4001), "192.0.2.9:53")).dropped(), DropReason::SourceLimit);
    });
}

/// C094: from outside, through a forward and to the appliance itself, by the address that the client has there.
#[test]
fn clients_outside_are_limited_too_and_the_appliance_is_not() {
    for_workers([1, 4], |setup| {
        let mut setup = setup.per_source(3).forward_tcp(8080, "192.168.1.10:80");
        setup.iptables("-I INPUT -p tcp --dport 22 -j ACCEPT");
        let mut fw = Firewall::with(setup);
        for port in 0..2 {
            let forwarded = fw.wan(tcp(("198.51.100.7", 4000 + port), "203.0.113.2:8080").syn());
            forwarded.out(LAN);
        }
        fw.wan(tcp("198.51.100.7:4002", "203.0.113.2:22").syn()).out(HOST_WAN);
        for (port, to) in [(4003, "203.0.113.2:22"), (4004, "203.0.113.2:8080")] {
            let refused = fw.wan(tcp(("198.51.100.7", port), to).syn());
            assert_eq!(refused.dropped(), DropReason::SourceLimit);
        }
        fw.wan(tcp("198.51.100.8:4003", "203.0.113.2:8080").syn()).out(LAN);
        for port in 0..10 {
            fw.send(HOST_LAN, udp(("192.168.1.1", 5000 + port), "192.168.1.9:53")).out(LAN);
        }
    });
}

/// Of IPv6, a network counts as one source: a host has all its addresses to choose from.
#[test]
fn an_ipv6_network_is_one_source() {
    let mut fw = Firewall::with(Setup::default().per_source(4));
    for last in 0..4 {
        let src = SocketAddr::new(format!("2001:db8:1::{:x}", 16 + last).address(), 5000);
        assert_eq!(fw.lan(udp(src, "[2001:db8:9::9]:53")).outs.len(), 1);
    }
    let refused = fw.lan(udp("[2001:db8:1::99]:5000", "[2001:db8:9::9]:53"));
    assert_eq!(refused.dropped(), DropReason::SourceLimit);
}

/// What is refused for any other reason was not counted, or gives back what it took.
#[test]
fn what_is_refused_is_not_counted() {
    let mut setup = Setup::default().capacity(8).per_source(2).forward_udp(500, "192.168.1.10:500");
    setup.iptables("-I FORWARD -p udp --dport 99 -j DROP");
    setup.iptables("-t nat -A POSTROUTING -p udp --dport 77 -j SNAT --to-source 203.0.113.9:6000");
    let mut fw = Firewall::with(setup);
    for port in 0..10 {
        let refused = fw.lan(udp(host(2, 2000 + port), "192.0.2.9:99"));
        assert_eq!(refused.dropped(), DropReason::DeniedByRule);
    }
    fw.lan(udp(host(3, 2000), "192.0.2.9:77")).out(WAN);
    for port in 0..10 {
        let refused = fw.lan(udp(host(2, 2000 + port), "192.0.2.9:77"));
        assert_eq!(refused.dropped(), DropReason::PortsExhausted);
    }
    assert_eq!((of_source(&fw, "192.168.1.2"), of_source(&fw, "192.168.1.3")), (0, 1));
    fw.lan(udp(host(2, 2000), "192.0.2.9:53")).out(WAN);
}

// --- Of the rules ------------------------------------------------------------------------------------

/// C094: as xt_connlimit: the new connection is counted in, and only those count that come as far as the test.
#[test]
fn a_rule_counts_the_connections_that_reach_it() {
    for_workers([1, 2, 4], |setup| {
        let rule = "-I FORWARD -p tcp --syn --dport 80 -m connlimit --connlimit-above 3 -j REJECT --reject-with tcp-reset";
        let mut fw = with_rules(setup, &[rule]);
        for i in 0..30 {
            Flow::outward(host(2, 1000 + i), "192.0.2.9:443").open(&mut fw);
        }
        let mut kept: Vec<_> = (0..3)
            .map(|i| Flow::outward(host(2, 2000 + i), "192.0.2.9:80").open(&mut fw))
            .collect();
        for i in 0..20 {
            let refused = fw.lan(tcp(host(2, 3000 + i), "192.0.2.9:80").syn());
            assert_eq!(refused.outs.len(), 1, "it is told: {}", refused.describe());
        }
        assert_eq!(fw.values().drops[DropReason::RejectedByRule as usize], 20);
        assert_eq!(of_rule(&fw, "192.168.1.2"), 3);
        Flow::outward(host(2, 1100), "192.0.2.9:443").open(&mut fw);
        Flow::outward(host(3, 2000), "192.0.2.9:80").open(&mut fw);
        for flow in &mut kept {
            flow.talk(&mut fw);
        }
        kept[0].client_fin(&mut fw);
        kept[0].server_fin(&mut fw);
        fw.pass_secs(241);
        Flow::outward(host(2, 4000), "192.0.2.9:80").open(&mut fw);
    });
}

/// `--connlimit-mask`, `--connlimit-daddr`, `--connlimit-upto`, and a test with nothing behind it.
#[test]
fn masks_sides_and_senses() {
    let all_new = "-m conntrack --ctstate NEW";
    // Networks of the clients.
    let rule = format!(
        "-I FORWARD {all_new} -m connlimit --connlimit-above 4 --connlimit-mask 29 -j DROP"
    );
    let mut fw = with_rules(Setup::default(), &[&rule]);
    let ask = |fw: &mut Firewall, last, port, to: &str| {
        let sent = fw.lan(udp(host(last, port), to));
        sent.outs.len()
    };
    let passed = |fw: &mut Firewall, last, to: &str| -> usize {
        (0..10).map(|port| ask(fw, last, 2000 + port, to)).sum()
    };
    assert_eq!(passed(&mut fw, 17, "192.0.2.9:53"), 4);
    assert_eq!(passed(&mut fw, 18, "192.0.2.9:53"), 0, "of the same network");
    assert_eq!(passed(&mut fw, 25, "192.0.2.9:53"), 4, "of the next one");
    // Servers.
    let rule =
        format!("-I FORWARD {all_new} -m connlimit --connlimit-above 4 --connlimit-daddr -j DROP");
    let mut fw = with_rules(Setup::default(), &[&rule]);
    assert_eq!(passed(&mut fw, 17, "192.0.2.9:53"), 4);
    assert_eq!(passed(&mut fw, 18, "192.0.2.9:53"), 0);
    assert_eq!(passed(&mut fw, 18, "192.0.2.10:53"), 4);
    // The other sense.
    let accept = format!("-A FORWARD {all_new} -m connlimit --connlimit-upto 4 -j ACCEPT");
    let mut fw = with_rules(Setup::default(), &["-F FORWARD", "-P FORWARD DROP", &accept]);
    assert_eq!(passed(&mut fw, 17, "192.0.2.9:53"), 4);
    assert_eq!(fw.lan(udp(host(17, 99), "192.0.2.9:53")).dropped(), DropReason::DeniedByPolicy);
    // With a mask that holds nothing, all connections are of one address, each once.
    let rule = "-I FORWARD -m connlimit --connlimit-above 6 --connlimit-mask 0 -j DROP";
    let mut fw = with_rules(Setup::default(), &[rule]);
    for last in 10..13 {
        let mut flow = Flow::outward(host(last, 2000), "192.0.2.9:53");
        flow.exchange(&mut fw);
        flow.exchange(&mut fw);
        let mut flow = Flow::outward(host(last, 2001), "192.0.2.9:80").open(&mut fw);
        flow.talk(&mut fw);
    }
    assert_eq!(passed(&mut fw, 19, "192.0.2.9:53"), 0);
}

/// A rule that packets of both directions come to counts a connection for either of its ends, as Linux does.
#[test]
fn a_rule_for_all_packets_counts_for_the_sender_of_each() {
    let rule = "-I FORWARD -m connlimit --connlimit-above 2 -j DROP";
    let mut fw = with_rules(Setup::default(), &[rule]);
    let mut first = Flow::outward(host(2, 2000), "192.0.2.9:53");
    first.exchange(&mut fw);
    let mut second = Flow::outward(host(3, 2000), "192.0.2.9:53");
    second.exchange(&mut fw);
    assert_eq!((of_rule(&fw, "192.168.1.2"), of_rule(&fw, "192.0.2.9")), (1, 2));
    // The third client may ask, and the server may not answer it.
    let asked = fw.lan(udp(host(4, 2000), "192.0.2.9:53")).out(WAN);
    let refused = fw.wan(udp("192.0.2.9:53", asked.source()));
    assert_eq!(refused.dropped(), DropReason::DeniedByRule);
}

/// An ICMP error is judged by its own sender and counts for nobody.
#[test]
fn errors_and_strays_are_not_counted() {
    let rule = "-I FORWARD -m connlimit --connlimit-above 1 -j DROP";
    let mut fw = with_rules(Setup::default(), &[rule]);
    let flow = Flow::outward(host(2, 2000), "192.0.2.9:53");
    let asked = fw.lan(flow.ask()).out(WAN);
    for _ in 0..3 {
        fw.wan(icmp("198.51.100.7", asked.src, 11, 0, 0, &asked.build())).out(LAN);
    }
    assert_eq!(of_rule(&fw, "198.51.100.7"), 0);
    fw.lan(tcp(host(2, 2001), "192.0.2.9:80").ack(1));
    assert_eq!(of_rule(&fw, "192.168.1.2"), 1);
}

// --- However connections end --------------------------------------------------------------------------------

/// Expired, deleted, flushed, evicted, reset: each end is counted once.
#[test]
fn every_end_is_counted() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup.capacity(64).per_source(1000));
        let ask = |fw: &mut Firewall, port: u16| {
            fw.lan(udp(host(2, 2000 + port), "192.0.2.9:53"));
        };
        (0..10).for_each(|port| ask(&mut fw, port));
        assert_eq!(of_source(&fw, "192.168.1.2"), 10);
        fw.pass_secs(31);
        assert_eq!(of_source(&fw, "192.168.1.2"), 0, "expired");
        (0..10).for_each(|port| ask(&mut fw, port));
        for view in fw.connections() {
            assert!(fw.delete(view.id));
        }
        assert_eq!(of_source(&fw, "192.168.1.2"), 0, "deleted");
        (0..10).for_each(|port| ask(&mut fw, port));
        for number in 0..1000 {
            fw.lan(echo_request("192.168.1.3", "192.0.2.9", number, 1));
        }
        assert_eq!(of_source(&fw, "192.168.1.2"), 0, "evicted");
        assert_eq!(of_source(&fw, "192.168.1.3"), fw.connections().len() as u32);
        fw.change(|setup| setup.set_addresses(WAN, &["203.0.113.77/24"]));
        fw.housekeep(u32::MAX);
        assert_eq!(of_source(&fw, "192.168.1.3"), 0, "their address is gone");
    });
}

/// What was counted under the rules before is counted under the new ones, as if it began anew under them.
#[test]
fn a_change_of_rules_keeps_the_count() {
    for_workers([1, 2, 4], |setup| {
        let limit = "FORWARD -p tcp --syn --dport 80 -m connlimit --connlimit-above 5 -j DROP";
        let mut fw = with_rules(setup, &[&format!("-I {limit}")]);
        for i in 0..4 {
            Flow::outward(host(2, 2000 + i), "192.0.2.9:80").open(&mut fw);
            Flow::outward(host(2, 2000 + i), "192.0.2.9:443").open(&mut fw);
        }
        fw.lan(udp(host(2, 80), "192.0.2.9:80")).out(WAN);
        fw.change(|setup| setup.iptables("-I FORWARD -p tcp --dport 99 -j DROP"));
        fw.housekeep(u32::MAX);
        assert_eq!(of_rule(&fw, "192.168.1.2"), 4);
        // Without the limit, then with it again, and one of the configuration besides.
        fw.change(|setup| setup.iptables(&format!("-D {limit}")));
        assert!(fw.snapshot().policy.ledger().is_none());
        Flow::outward(host(2, 2004), "192.0.2.9:80").open(&mut fw);
        fw.change(|setup| {
            setup.iptables(&format!("-I {limit}"));
            *setup = setup.clone().per_source(10);
        });
        fw.housekeep(u32::MAX);
        assert_eq!((of_rule(&fw, "192.168.1.2"), of_source(&fw, "192.168.1.2")), (5, 10));
        fw.take_moved();
        for dst in ["192.0.2.9:80", "192.0.2.9:443"] {
            assert_eq!(fw.lan(tcp(host(2, 2005), dst).syn()).outs.len(), 0);
        }
        moved!(fw, received: 2, DeniedByRule: 1, SourceLimit: 1);
    });
}

/// Who is at the limit stays there, before anybody has looked at a single connection again.
#[test]
fn a_change_of_other_rules_hands_nobody_a_new_quota() {
    for_workers([1, 2, 4], |setup| {
        let limit = "FORWARD -p udp --dport 54 -m connlimit --connlimit-above 20 -j DROP";
        let mut fw = with_rules(setup.capacity(1024).per_source(40), &[&format!("-I {limit}")]);
        for i in 0..20 {
            Flow::outward(host(2, 2000 + i), "192.0.2.9:53").exchange(&mut fw);
            Flow::outward(host(2, 3000 + i), "192.0.2.9:54").exchange(&mut fw);
        }
        for turn in 0..5 {
            fw.change(|setup| setup.iptables(&format!("-I FORWARD -p tcp --dport {turn} -j DROP")));
            fw.take_moved();
            assert!(fw.lan(udp(host(2, 5000 + turn), "192.0.2.9:53")).outs.is_empty());
            assert!(fw.lan(udp(host(2, 6000 + turn), "192.0.2.9:54")).outs.is_empty());
            moved!(fw, received: 2, SourceLimit: 1, DeniedByRule: 1);
            fw.housekeep(8);
        }
        // Where the rules count fewer of them, the others are counted no more, as soon as they have been looked at.
        fw.change(|setup| setup.iptables("-I FORWARD -p udp --sport 3000:3009 -j ACCEPT"));
        (0..2).for_each(|_| fw.housekeep(u32::MAX));
        assert_eq!((of_rule(&fw, "192.168.1.2"), of_source(&fw, "192.168.1.2")), (10, 40));
    });
}

/// Every row that is in use, past its deadline or not.
fn rows(fw: &mut Firewall) -> Vec<ConnectionView> {
    let mut rows = Vec::new();
    for worker in 0..fw.setup().workers {
        let mut cursor = Some(Cursor::default());
        while let Some(at) = cursor {
            let (me, all) = (WorkerId(worker), Filter::default());
            // As seen at the beginning of time, no deadline has come.
            let pipeline = fw.pipeline(worker.into());
            cursor = pipeline.visit(me, at, 100, &all, Instant::default(), |view| rows.push(view));
        }
    }
    rows
}

/// Random lives; after each step every count is what a recount of the tables says.
fn count_lives(workers: u8, seed: u64, steps: usize) -> Result<(), TestCaseError> {
    let limit =
        "FORWARD -p udp --dport 53 -m connlimit --connlimit-above 12 --connlimit-mask 31 -j DROP";
    let setup = Setup::default().workers(workers).seed(seed).capacity(48).per_source(30);
    let mut setup = setup.forward_udp(5353, "192.168.1.10:53");
    setup.iptables(&format!("-I {limit}"));
    let mut fw = Firewall::with(setup);
    let mut draw = Draw::new(seed);
    let mut open: Vec<Flow> = Vec::new();
    for _ in 0..steps {
        let (last, port) = (2 + draw.below(5) as u8, 1024 + draw.below(300) as u16);
        match draw.below(16) {
            0..=3 => drop(fw.lan(udp(host(last, port), "192.0.2.9:53"))),
            4 => drop(fw.lan(udp(host(last, port), "192.0.2.9:54"))),
            5 | 6 => {
                let flow = Flow::outward(host(last, port), "192.0.2.9:80");
                if fw.lan(flow.syn()).outs.len() == 1 {
                    open.push(flow);
                }
            }
            7 => drop(fw.lan(echo_request(host(last, 0).ip(), "192.0.2.9", port, 1))),
            8 => drop(fw.wan(udp(("198.51.100.7", port), "203.0.113.2:5353"))),
            9 => {
                if let Some(flow) = open.pop() {
                    fw.lan(flow.client_segment().rst());
                }
            }
            10 => {
                let connections = fw.connections();
                if let Some(view) = connections.get(draw.below(connections.len().max(1))) {
                    fw.delete(view.id);
                }
            }
            11 => fw.pass(Duration::from_millis(draw.below(9_000) as u64)),
            12 => fw.pass_untidied(Duration::from_millis(draw.below(40_000) as u64)),
            13 if draw.below(8) == 0 => {
                fw.change(|setup| setup.iptables("-A FORWARD -p tcp --dport 1 -j DROP"));
                // Another round may have been under way, so it takes a second turn to come round.
                (0..2).for_each(|_| fw.housekeep(u32::MAX));
            }
            14 if draw.below(8) == 0 => {
                let last = 20 + draw.below(30);
                let address = format!("203.0.113.{last}/24");
                fw.change(|setup| setup.set_addresses(WAN, &[&address, "2001:db8:2::2/64"]));
            }
            _ => fw.housekeep(4),
        }
        let (mut sources, mut ruled) =
            (HashMap::<IpAddr, u32>::new(), HashMap::<IpAddr, u32>::new());
        for row in rows(&mut fw) {
            *sources.entry(row.original.src()).or_default() += 1;
            if row.original.protocol() == 17 && row.reply.src_id() == 53 {
                *ruled.entry(row.original.src()).or_default() += 1;
            }
        }
        let ledger = fw.snapshot().policy.ledger().expect("something is counted");
        let clients = (0..8).map(|last| host(last, 0).ip());
        for address in clients.chain(["198.51.100.7".address()]) {
            let of =
                |counted: &HashMap<IpAddr, u32>, a: IpAddr| counted.get(&a).copied().unwrap_or(0);
            prop_assert_eq!(ledger.of_source(address), of(&sources, address), "{}", address);
            let IpAddr::V4(v4) = address else { continue };
            let pair =
                [u32::from(v4) & !1, u32::from(v4) | 1].map(|a| IpAddr::from(a.to_be_bytes()));
            let sum: u32 = pair.map(|a| of(&ruled, a)).iter().sum();
            prop_assert_eq!(ledger.of_rule(0, address), sum, "{} and its neighbour", address);
            prop_assert!(of(&sources, address) <= 30 && sum <= 12);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// C094: the counts never drift.
    #[test]
    fn counts_are_what_a_recount_says(workers in prop_oneof![Just(1u8), Just(2), Just(4)], seed: u64) {
        count_lives(workers, seed, 250)?;
    }
}
