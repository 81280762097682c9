//! Every packet of a connection, in both directions, meets the worker that made it: the cases of
//! [`postern_core::steering`], driven through real appliances of 1 to 16 workers. A packet that missed its owner
//! would be dropped, or make a second connection; neither may happen once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use postern_core::conntrack::tuple::{Tuple, protocol};
use postern_core::units::WorkerId;
use postern_core::verdict::DropReason;
use postern_tests::packet::{Pkt, echo_reply, echo_request, icmp, other, tcp, udp};
use postern_tests::{
    At, Draw, Firewall, Flow, HOST_LAN, HOST_WAN, LAN, LAN2, Setup, WAN, for_workers,
};

/// Draws of one case with one number of workers.
const DRAWS: usize = 100;
const OURS: &str = "203.0.113.2";

/// C164: whichever worker sees the packet first, and whichever owns it.
#[test]
fn a_wrong_checksum_is_noticed_whoever_looks_first() {
    for_workers([1, 2, 4, 8], |setup| {
        let mut fw = Firewall::with(setup);
        for port in 5000..5032 {
            let (client, server) = (("192.168.1.2", port), "192.0.2.9:53");
            let (datagram, syn) = (udp(client, server), tcp(client, server).syn());
            let ping = echo_request("192.168.1.2", "192.0.2.9", port, 1);
            for (pkt, sum_at) in [(datagram, 26), (syn, 36), (ping, 22)] {
                let mut bytes = pkt.build();
                bytes[sum_at] ^= 0x10;
                assert_eq!(fw.lan(bytes).dropped(), DropReason::TransportChecksum, "{pkt:?}");
            }
        }
        assert!(fw.connections().is_empty());
    });
}

/// A host in the Internet.
fn remote(draw: &mut Draw) -> IpAddr {
    Ipv4Addr::from(0xc612_0000 + 1 + draw.below(0x1_fffe) as u32).into()
}

/// A host in the LAN that no forward leads to.
fn inside(draw: &mut Draw) -> IpAddr {
    [192, 168, 1, 20 + draw.below(200) as u8].into()
}

fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

fn ours(port: u16) -> SocketAddr {
    at(OURS.parse().unwrap(), port)
}

/// Forwards of every sort: with equal and changed port, a range, to the appliance itself.
fn setup(workers: u8, seed: u64) -> Setup {
    let mut setup = Setup::default()
        .workers(workers)
        .seed(seed)
        .capacity(1024)
        .second_lan()
        .forward(protocol::UDP, (53, 53), "192.168.1.10:53")
        .forward(protocol::UDP, (5353, 5353), "192.168.1.10:53")
        .forward(protocol::UDP, (8000, 8099), "192.168.1.11:9000")
        .forward(protocol::UDP, (2222, 2222), "192.168.1.1:22");
    setup.iptables("-A INPUT -p udp --dport 22 -j ACCEPT");
    setup.iptables("-A FORWARD -i lan -o lan2 -j ACCEPT");
    setup
}

/// Runs a case for every number of workers. `case` gives a new connection for each draw.
fn for_every_worker_count(case: impl Fn(&mut Draw) -> Flow) {
    with_nat_rules(&[], case);
}

/// The same with these rules in the table `nat`.
fn with_nat_rules(rules: &[&str], case: impl Fn(&mut Draw) -> Flow) {
    for workers in 1..=16 {
        let mut setup = setup(workers, u64::from(workers) * 77);
        rules.iter().for_each(|rule| setup.iptables(&format!("-t nat {rule}")));
        let mut fw = Firewall::with(setup);
        let mut draw = Draw::new(u64::from(workers));
        for _ in 0..DRAWS {
            let mut flow = case(&mut draw);
            meets_its_owner(&mut fw, &mut flow);
        }
        assert_eq!(fw.values().dropped(), 0);
        assert_eq!(fw.values().connections_new, DRAWS as u64);
        fw.pass_secs(31);
        assert!(fw.connections().is_empty());
    }
}

/// Sends packets both ways, and errors about them both ways; all must arrive.
fn meets_its_owner(fw: &mut Firewall, flow: &mut Flow) {
    for _ in 0..2 {
        flow.exchange(fw);
    }
    let view = fw.connections().into_iter().find(|c| is_of(c.original, flow));
    let view = view.unwrap_or_else(|| panic!("no connection of {flow:?}"));
    let steering = &fw.snapshot().steering;
    for tuple in [view.original, view.reply] {
        assert_eq!(steering.owner(&tuple), view.id.worker(), "{tuple:?}");
    }
    // The server's own error about what the client sent, and the client's about what it was sent.
    let (ask, tell) = (flow.ask(), flow.tell());
    let error = |src: IpAddr, about: &Pkt| {
        let (kind, code) = if src.is_ipv4() { (3, 3) } else { (1, 4) };
        icmp(src, about.src, kind, code, 0, &about.build())
    };
    let router: IpAddr =
        if flow.client.is_ipv4() { "198.51.100.77" } else { "2001:db8:77::1" }.parse().unwrap();
    if matches!(flow.server_at, At::Wire(_)) {
        let report = error(flow.server.ip(), &flow.at_server(&ask));
        let out = fw.send(flow.server_at, report).out(flow.client_at);
        assert_eq!((out.dst, out.src), (flow.client.ip(), flow.dialled.ip()));
    }
    if matches!(flow.client_at, At::Wire(_)) {
        let report = error(flow.client.ip(), &flow.at_client(&tell));
        let out = fw.send(flow.client_at, report).out(flow.server_at);
        assert_eq!((out.dst, out.src), (flow.server.ip(), flow.seen().ip()));
    }
    // A router's, somewhere in the Internet.
    if flow.server_at == WAN {
        let out = fw.wan(error(router, &flow.at_server(&ask))).out(flow.client_at);
        assert_eq!((out.dst, out.src), (flow.client.ip(), router));
    }
    if flow.client_at == WAN {
        let out = fw.wan(error(router, &flow.at_client(&tell))).out(flow.server_at);
        assert_eq!((out.dst, out.src), (flow.server.ip(), router));
    }
}

fn is_of(original: Tuple, flow: &Flow) -> bool {
    let sides = (at(original.src(), original.src_id()), at(original.dst(), original.dst_id()));
    sides == (flow.client, flow.dialled)
}

/// C092: behind a pool, whichever address of it; also the target of a forward, from its forwarded port.
#[test]
fn a_pool() {
    with_nat_rules(
        &["-A POSTROUTING -o wan -j SNAT --to-source 203.0.113.8-203.0.113.11"],
        |draw| match draw.below(4) {
            0 => Flow::outward(("192.168.1.10", 53), at(remote(draw), draw.port())),
            _ => Flow::outward(at(inside(draw), draw.port()), at(remote(draw), draw.port())),
        },
    );
}

/// C080: behind a range of ports, of which every worker has some.
#[test]
fn a_pool_with_a_range_of_ports() {
    with_nat_rules(
        &["-A POSTROUTING -o wan -p udp -j SNAT --to-source 203.0.113.8:20000-29999"],
        |draw| Flow::outward(at(inside(draw), draw.port()), at(remote(draw), draw.port())),
    );
}

/// C099: rules for certain ports of our address, of any address, and for several servers.
#[test]
fn rules_that_lead_inside() {
    with_nat_rules(
        &[
            "-A PREROUTING -i wan -d 203.0.113.2 -p udp --dport 700 -j DNAT --to 192.168.1.12:70",
            "-A PREROUTING -p udp --dport 1000:1099 -j DNAT --to-destination 192.168.1.13",
            "-A PREROUTING -i wan -p udp --dport 1500:1599 -j DNAT --to 192.168.1.14:500-599/1500",
        ],
        |draw| {
            let client = at(remote(draw), draw.port());
            let offset = draw.below(100) as u16;
            match draw.below(4) {
                0 => Flow::inward(client, ours(700), "192.168.1.12:70"),
                1 => Flow::inward(client, ours(1000 + offset), ("192.168.1.13", 1000 + offset)),
                2 => Flow::inward(client, ours(1500 + offset), ("192.168.1.14", 500 + offset)),
                _ => Flow::outward(at(inside(draw), draw.port()), at(remote(draw), draw.port())),
            }
        },
    );
}

/// A transparent rule for whatever address is asked, to a server in another LAN or to the appliance; those it is not for.
#[test]
fn transparent_rules() {
    with_nat_rules(
        &[
            "-A PREROUTING -i lan -p udp --dport 53 -j DNAT --to-destination 192.168.2.53",
            "-A PREROUTING -i lan -p udp --dport 123 -j REDIRECT",
            "-A PREROUTING -i lan -p udp -m multiport --dports 80,443 -j REDIRECT --to-ports 3128",
        ],
        |draw| {
            // The source port of some is the one that the rule is for, too.
            let port = *draw.of(&[53, 80, 123, 5000, 50_001]);
            let client = at(inside(draw), port);
            let far = remote(draw);
            match draw.below(5) {
                0 => Flow {
                    dialled: at(far, 53),
                    ..Flow::between(LAN, client, LAN2, "192.168.2.53:53")
                },
                1 => Flow {
                    dialled: at(far, 123),
                    ..Flow::between(LAN, client, HOST_LAN, "192.168.1.1:123")
                },
                2 => Flow {
                    dialled: at(far, *draw.of(&[80, 443])),
                    ..Flow::between(LAN, client, HOST_LAN, "192.168.1.1:3128")
                },
                3 => {
                    let client = at([192, 168, 2, 2 + draw.below(200) as u8].into(), draw.port());
                    Flow::between(LAN2, client, WAN, at(far, *draw.of(&[53, 80, 123, 443])))
                }
                _ => Flow::between(HOST_WAN, ours(draw.port()), WAN, at(far, 53)),
            }
        },
    );
}

/// NETMAP, and DNAT with SNAT for one host: in, out, and from another LAN by the outer address.
#[test]
fn one_to_one() {
    for outside in ["198.51.100", "203.0.113"] {
        let (dnat, snat) = (
            format!("-A PREROUTING -d {outside}.160/28 -j NETMAP --to 192.168.1.224/28"),
            format!("-A POSTROUTING -o wan -s 192.168.1.224/28 -j NETMAP --to {outside}.160/28"),
        );
        let (one_in, one_out) = (
            format!("-A PREROUTING -d {outside}.9 -j DNAT --to-destination 192.168.1.9"),
            format!("-A POSTROUTING -o wan -s 192.168.1.9 -j SNAT --to-source {outside}.9"),
        );
        with_nat_rules(&[&dnat, &snat, &one_in, &one_out], |draw| {
            let port = draw.port();
            let last = draw.below(16) as u8;
            let (inner, outer) = match draw.below(2) {
                0 => (format!("192.168.1.{}", 224 + last), format!("{outside}.{}", 160 + last)),
                _ => ("192.168.1.9".to_owned(), format!("{outside}.9")),
            };
            let (inner, outer) = (inner.parse().unwrap(), outer.parse().unwrap());
            let far = at(remote(draw), draw.port());
            match draw.below(3) {
                0 => Flow::outward(at(inner, port), far),
                1 => Flow::inward(far, at(outer, port), at(inner, port)),
                _ => {
                    let client = at([192, 168, 2, 2 + draw.below(200) as u8].into(), draw.port());
                    let dialled = at(outer, port);
                    Flow { dialled, ..Flow::between(LAN2, client, LAN, at(inner, port)) }
                }
            }
        });
    }
}

/// C041, C049: masquerade and its replies, errors of the server, of the client and of routers.
#[test]
fn masquerade() {
    for_every_worker_count(|draw| {
        Flow::outward(at(inside(draw), draw.port()), at(remote(draw), draw.port()))
    });
}

/// C077: a second remote of the same inside endpoint: same owner, same external port.
#[test]
fn a_second_remote() {
    for workers in 1..=16 {
        let mut fw = Firewall::with(setup(workers, 5));
        let mut draw = Draw::new(u64::from(workers) + 100);
        for _ in 0..DRAWS {
            let client = at(inside(&mut draw), draw.port());
            let mut first = Flow::outward(client, at(remote(&mut draw), draw.port()));
            let mut second = Flow::outward(client, at(remote(&mut draw), draw.port()));
            meets_its_owner(&mut fw, &mut first);
            meets_its_owner(&mut fw, &mut second);
            let forwarded = fw.snapshot().steering.is_static(first.seen().ip(), 17, client.port());
            assert!(forwarded || first.seen().port() == client.port(), "the port is kept");
            assert_eq!(first.seen().port() == client.port(), second.seen().port() == client.port());
        }
    }
}

/// C148: routed without translation, IPv6.
#[test]
fn routed() {
    for_every_worker_count(|draw| {
        let net = |base: u128, host: usize| IpAddr::from(Ipv6Addr::from(base | host as u128));
        let client = net(0x2001_0db8_0001_0000_0000_0000_0000_0000, 2 + draw.below(250));
        let server = net(0x2001_0db8_0099_0000_0000_0000_0000_0000, 1 + draw.below(1 << 40));
        Flow::outward(at(client, draw.port()), at(server, draw.port()))
    });
}

/// C082: routed without translation, from one LAN to the other: both ends lie in inside prefixes.
#[test]
fn routed_between_lans() {
    for_every_worker_count(|draw| {
        let server = at([192, 168, 2, 2 + draw.below(200) as u8].into(), draw.port());
        Flow::between(LAN, at(inside(draw), draw.port()), LAN2, server)
    });
}

/// C099: forwards with equal port, with changed port, and of a range.
#[test]
fn forwards() {
    for_every_worker_count(|draw| {
        let client = at(remote(draw), draw.port());
        let offset = draw.below(100) as u16;
        match draw.below(3) {
            0 => Flow::inward(client, ours(53), "192.168.1.10:53"),
            1 => Flow::inward(client, ours(5353), "192.168.1.10:53"),
            _ => Flow::inward(client, ours(8000 + offset), ("192.168.1.11", 9000 + offset)),
        }
    });
}

/// C099: the target of a forward opens a connection outward, from the forwarded port or another.
#[test]
fn a_forwards_target_opening_outward() {
    for_every_worker_count(|draw| {
        let port = *draw.of(&[53, 5353, 40_000, 123]);
        Flow::outward(("192.168.1.10", port), at(remote(draw), draw.port()))
    });
}

/// C095, C096: hairpin, with equal and changed port, also of the target itself.
#[test]
fn hairpin() {
    for_every_worker_count(|draw| {
        let client = match draw.below(4) {
            0 => at("192.168.1.10".parse().unwrap(), draw.port()),
            _ => at(inside(draw), draw.port()),
        };
        let dialled = ours(*draw.of(&[53, 5353]));
        Flow { dialled, ..Flow::between(LAN, client, LAN, "192.168.1.10:53") }
    });
}

/// C095: a forward dialled from another LAN.
#[test]
fn a_forward_from_another_lan() {
    for_every_worker_count(|draw| {
        let client = at([192, 168, 2, 2 + draw.below(200) as u8].into(), draw.port());
        let dialled = ours(*draw.of(&[53, 5353]));
        Flow { dialled, ..Flow::between(LAN2, client, LAN, "192.168.1.10:53") }
    });
}

/// C099: a forward to the appliance itself. Its packets arrive by the TAP of the interface they came in by.
#[test]
fn a_forward_to_the_appliance() {
    for_every_worker_count(|draw| {
        let client = at(remote(draw), draw.port());
        Flow { dialled: ours(2222), ..Flow::between(WAN, client, HOST_WAN, "192.168.1.1:22") }
    });
}

/// C041: the appliance's own connections out, and connections to it.
#[test]
fn the_host_out_and_in() {
    for_every_worker_count(|draw| {
        let far = at(remote(draw), draw.port());
        match draw.below(3) {
            0 => Flow::between(HOST_WAN, ours(draw.port()), WAN, far),
            1 => Flow::between(LAN, at(inside(draw), draw.port()), HOST_LAN, "192.168.1.1:22"),
            _ => Flow::between(WAN, far, HOST_WAN, ours(22)),
        }
    });
}

/// C072: the appliance sends from an address of another interface: masqueraded like anybody's.
#[test]
fn the_host_masqueraded() {
    for_every_worker_count(|draw| {
        Flow::between(HOST_WAN, ("192.168.1.1", draw.port()), WAN, at(remote(draw), draw.port()))
    });
}

/// C049: echo, whose identifier counts as a port.
#[test]
fn echo() {
    for workers in 1..=16 {
        let mut fw = Firewall::with(setup(workers, 9));
        let mut draw = Draw::new(u64::from(workers) + 300);
        for round in 0..DRAWS {
            let (client, server, id) = (inside(&mut draw), remote(&mut draw), draw.bits() as u16);
            let arrived = fw.lan(echo_request(client, server, id, 1)).out(WAN);
            assert_eq!(arrived.source(), ours(id));
            fw.wan(echo_reply(server, arrived.src, id, 1)).out(LAN);
            let report = icmp("198.51.100.77", arrived.src, 11, 0, 0, &arrived.build());
            fw.wan(report).out(LAN);
            assert_eq!(fw.values().connections_new, round as u64 + 1);
        }
    }
}

/// C084: protocols without ports go by their number alone.
#[test]
fn protocols_without_ports() {
    for workers in 1..=16 {
        let mut fw = Firewall::with(setup(workers, 11));
        let mut draw = Draw::new(u64::from(workers) + 400);
        for number in (2..255).filter(|n| ![1, 2, 6, 17, 58, 132, 136].contains(n)) {
            let (client, server) = (inside(&mut draw), remote(&mut draw));
            fw.lan(other(client, server, number, b"there")).out(WAN);
            fw.wan(other(server, OURS.parse::<IpAddr>().unwrap(), number, b"back")).out(LAN);
            let owner = WorkerId(number % workers);
            let views = fw.connections();
            let view = views.iter().find(|c| c.original.protocol() == number).unwrap();
            assert_eq!(view.id.worker(), owner);
        }
    }
}

const INDEPENDENT: &str = "-A POSTROUTING -o wan -j MASQUERADE --endpoint-independent filtering";

/// C041, C095, C099: what has no mapping meets its owner while others have: the appliance's own connections, those to it,
/// forwards, and what is masqueraded into a LAN.
#[test]
fn beside_endpoint_independent_mappings() {
    let into_lan = "-A POSTROUTING -o lan2 -s 192.168.1.0/24 -j MASQUERADE";
    with_nat_rules(&[INDEPENDENT, into_lan], |draw| {
        let far = at(remote(draw), draw.port());
        let client = at(inside(draw), draw.port());
        let second = at([192, 168, 2, 2 + draw.below(200) as u8].into(), draw.port());
        match draw.below(8) {
            0 => Flow::between(HOST_WAN, ours(draw.port()), WAN, far),
            1 => Flow::between(LAN, client, HOST_LAN, "192.168.1.1:22"),
            2 => Flow::between(HOST_LAN, ("192.168.1.1", draw.port()), LAN, client),
            3 => Flow::between(WAN, far, HOST_WAN, ours(22)),
            4 => Flow::inward(far, ours(5353), "192.168.1.10:53"),
            5 => Flow { dialled: ours(5353), ..Flow::between(LAN, client, LAN, "192.168.1.10:53") },
            6 => Flow::between(LAN, client, LAN2, second),
            _ => Flow::outward(client, far),
        }
    });
}

/// C077, C078, C096: behind mappings, in by them, and from one to another.
#[test]
fn endpoint_independent_mappings() {
    for workers in 1..=16 {
        let mut setup = setup(workers, u64::from(workers) * 77);
        setup.iptables(&format!("-t nat {INDEPENDENT}"));
        let mut fw = Firewall::with(setup);
        let mut draw = Draw::new(u64::from(workers));
        for _ in 0..DRAWS / 2 {
            let client = at(inside(&mut draw), draw.port());
            let mut out = Flow::outward(client, at(remote(&mut draw), draw.port()));
            meets_its_owner(&mut fw, &mut out);
            if out.seen().port() < 1024 {
                continue;
            }
            let stranger = at(remote(&mut draw), draw.port());
            meets_its_owner(&mut fw, &mut Flow::inward(stranger, out.seen(), client));
            let (neighbour_at, neighbour) = match draw.below(2) {
                0 => (LAN, at([192, 168, 1, 240 + draw.below(10) as u8].into(), draw.port())),
                _ => (LAN2, at([192, 168, 2, 2 + draw.below(200) as u8].into(), draw.port())),
            };
            let hairpin = Flow::between(neighbour_at, neighbour, LAN, client);
            meets_its_owner(&mut fw, &mut Flow { dialled: out.seen(), ..hairpin });
        }
        assert_eq!(fw.values().dropped(), 0);
    }
}
