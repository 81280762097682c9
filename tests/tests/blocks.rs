//! Blocks of ports for each host (`--port-blocks`), as carriers have them.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use postern_core::rules::{Addresses, Blocks};
use postern_core::verdict::DropReason;
use postern_tests::flow::Ping;
use postern_tests::packet::{other, udp};
use postern_tests::{Firewall, Flow, Setup, WAN, for_workers};

const RULE: &str = "-t nat -A POSTROUTING -o wan -s 192.168.1.0/25 -j SNAT --to-source 203.0.113.8-203.0.113.9 \
                    --port-blocks 1000";

/// What the rule says.
fn blocks() -> (Blocks, Addresses) {
    let network = Ipv4Addr::new(192, 168, 1, 0);
    let pool = Addresses { first: [203, 0, 113, 8].into(), last: [203, 0, 113, 9].into() };
    (Blocks { network, length: 25, size: 1000 }, pool)
}

fn ruled(setup: Setup, rules: &[&str]) -> Firewall {
    let mut setup = setup.routed();
    rules.iter().for_each(|rule| setup.iptables(rule));
    Firewall::with(setup)
}

fn host(last: u8, port: u16) -> SocketAddr {
    ([192, 168, 1, last], port).into()
}

/// RFC 7422, RFC 6888 REQ-2: whatever a host sends, TCP, UDP or ICMP, by whichever worker, is seen from its block, and
/// from there it is known whose it was.
#[test]
fn a_host_is_seen_from_its_own_ports_only() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = ruled(setup, &[RULE]);
        let (blocks, pool) = blocks();
        let mut seen = HashSet::new();
        for last in [2, 3, 63, 64, 65, 126, 127] {
            let mut endpoints = HashSet::new();
            for round in 0..40u16 {
                let server = SocketAddr::from(([192, 0, 2, round as u8], 1000 + round));
                let client = host(last, 4000 + 3 * round);
                let mut flow = Flow::outward(client, server);
                let outside = match round % 3 {
                    0 => {
                        flow.exchange(&mut fw);
                        flow.seen()
                    }
                    1 => flow.open(&mut fw).seen(),
                    _ => {
                        let mut ping = Ping::outward(client.ip(), server.ip(), round);
                        ping.ask(&mut fw, 1);
                        ping.tell(&mut fw, 1);
                        ping.seen.expect("it was asked")
                    }
                };
                let IpAddr::V4(address) = outside.ip() else { panic!("IPv4") };
                let owner = blocks.owner(pool, address, outside.port());
                assert_eq!(owner.map(IpAddr::V4), Some(client.ip()), "{outside}");
                endpoints.insert((outside.ip(), outside.port() / 1000));
                seen.insert(outside.ip());
            }
            let addresses: HashSet<_> = endpoints.iter().map(|(address, _)| address).collect();
            assert_eq!(addresses.len(), 1, "one host, one address");
        }
        assert_eq!(seen.len(), 2, "both addresses of the pool");
    });
}

/// C080, RFC 6888 REQ-4: who has used his block up is refused, and nobody else.
#[test]
fn a_host_that_has_used_up_its_ports_hurts_itself_alone() {
    for_workers([1, 2, 4], |setup| {
        let setup = setup.capacity(4096);
        let rule = RULE.replace("1000", "64").replace("203.0.113.8-", "");
        let mut fw = ruled(setup, &[&rule]);
        // To one server: each connection takes a port.
        let mut through = 0;
        for port in 0..400 {
            let sent = fw.lan(udp(host(5, 10_000 + port), "192.0.2.9:53"));
            match sent.outs.len() {
                0 => assert_eq!(sent.dropped(), DropReason::PortsExhausted),
                _ => through += 1,
            }
        }
        assert_eq!(through, 64, "all of them, whichever worker has them");
        let short = fw.shortages();
        assert!(
            !short.is_empty() && short.iter().all(|s| s.address == IpAddr::from([203, 0, 113, 9]))
        );
        Flow::outward(host(6, 10_000), "192.0.2.9:53").exchange(&mut fw);
        // To another server they can be used once more.
        Flow::outward(host(5, 10_000), "192.0.2.10:53").exchange(&mut fw);
        fw.pass_secs(31);
        Flow::outward(host(5, 20_000), "192.0.2.9:53").exchange(&mut fw);
    });
}

/// With an endpoint-independent mapping, too; and what has no ports has the address.
#[test]
fn mappings_and_other_protocols_keep_to_the_block() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = ruled(setup, &[&format!("{RULE} --endpoint-independent filtering")]);
        let (blocks, pool) = blocks();
        for last in [2, 70] {
            let mut seen = HashSet::new();
            for server in ["192.0.2.9:53", "192.0.2.10:54", "192.0.2.11:55"] {
                let mut flow = Flow::outward(host(last, 5000), server);
                flow.exchange(&mut fw);
                seen.insert(flow.seen());
            }
            assert_eq!(seen.len(), 1, "{seen:?}");
            for outside in seen {
                let IpAddr::V4(address) = outside.ip() else { panic!("IPv4") };
                assert_eq!(
                    blocks.owner(pool, address, outside.port()),
                    Some([192, 168, 1, last].into())
                );
                Flow::inward("198.51.100.7:4000", outside, host(last, 5000)).exchange(&mut fw);
            }
            let address = blocks.of(pool, [192, 168, 1, last].into()).expect("it has one").0;
            let sent = fw
                .lan(other(IpAddr::from([192, 168, 1, last]), "192.0.2.77", 50, &[7; 24]))
                .out(WAN);
            assert_eq!(sent.src, address);
        }
    });
}
