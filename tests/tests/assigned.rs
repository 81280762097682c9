//! What a rule of `raw` or a zone gives a connection at its first packet: timeouts and helpers.

use std::time::Duration;

use postern_core::conntrack::tcp::State;
use postern_core::conntrack::timeouts::{TimeoutKind, TimeoutPolicy};
use postern_core::helper::Kind;
use postern_core::pipeline::{ConnectionView, Edit};
use postern_core::verdict::DropReason;
use postern_tests::packet::{Endpoint, echo_request, tcp, udp};
use postern_tests::{Firewall, Flow, LAN, Setup, WAN, for_workers};

const SERVER: &str = "192.0.2.9:53";
const CLIENT: &str = "192.168.1.2:4000";
const OUTER: &str = "203.0.113.2";

/// Half a minute longer than Linux would let any of them be, or short: what no general timeout is.
fn slow(policy: &mut TimeoutPolicy) {
    for (kind, seconds) in [
        (TimeoutKind::TcpSynSent, 501),
        (TimeoutKind::TcpSynRecv, 502),
        (TimeoutKind::TcpEstablished, 90),
        (TimeoutKind::TcpCloseWait, 504),
        (TimeoutKind::TcpClose, 77),
        (TimeoutKind::Udp, 505),
        (TimeoutKind::UdpStream, 506),
        (TimeoutKind::Icmp, 507),
    ] {
        policy.timeouts.set(kind, Duration::from_secs(seconds));
    }
}

fn quick(policy: &mut TimeoutPolicy) {
    policy.timeouts.set(TimeoutKind::Udp, Duration::from_secs(3));
    policy.timeouts.set(TimeoutKind::UdpStream, Duration::from_secs(4));
}

/// Two policies; DNS has one, and so has zone 7.
fn policed(setup: Setup) -> Setup {
    let mut setup = setup.policy("quick", &[], quick).policy("slow", &[7], slow);
    setup.iptables("-t raw -A PREROUTING -p udp --dport 53 -j CT --timeout quick");
    setup
}

fn left(fw: &Firewall) -> u32 {
    (fw.connection().remaining_ms + 500) / 1000
}

fn by_port(fw: &Firewall, port: u16) -> ConnectionView {
    let found = fw.connections().into_iter().find(|c| c.original.src_id() == port);
    found.unwrap_or_else(|| panic!("no connection from port {port}"))
}

/// C186: two policies side by side, and what has none is as ever; each lives as long as its own says.
#[test]
fn a_rule_gives_the_connections_it_names_timeouts_of_their_own() {
    for_workers([1, 2, 4], |setup| {
        let mut setup = policed(setup);
        setup.iptables("-t raw -A PREROUTING -p udp --dport 54 -j CT --timeout slow");
        let mut fw = Firewall::with(setup);
        for (port, server) in [(4000, 53), (4001, 54), (4002, 55)] {
            fw.lan(udp(("192.168.1.2", port), ("192.0.2.9", server))).out(WAN);
        }
        let left = |fw: &Firewall, port| by_port(fw, port).remaining_ms;
        assert_eq!([4000, 4001, 4002].map(|port| left(&fw, port)), [3_000, 505_000, 30_000]);
        fw.pass_secs(4);
        assert_eq!(fw.connections().len(), 2, "the quick one is over");
        fw.pass_secs(27);
        assert_eq!(fw.connections().len(), 1, "and the ordinary one");
        fw.pass_secs(473);
        assert_eq!(fw.connections().len(), 1);
        fw.pass_secs(2);
        assert!(fw.connections().is_empty());
    });
}

/// C186: a zone's connections have its policy, whatever they are, in every state; in the lane and on the long way.
#[test]
fn a_zone_gives_its_connections_timeouts_of_their_own() {
    for (workers, long_way) in [(1, false), (1, true), (2, false), (4, false)] {
        let setup = Setup::default().workers(workers).zone(LAN, 7).policy("slow", &[7], slow);
        let mut fw = Firewall::with(if long_way { setup.long_way() } else { setup });
        let mut flow = Flow::outward(CLIENT, SERVER);
        flow.exchange(&mut fw);
        assert_eq!(left(&fw), 505);
        fw.pass_secs(3);
        flow.exchange(&mut fw);
        flow.exchange(&mut fw);
        assert_eq!(left(&fw), 506);
        assert!(fw.delete(fw.connection().id));

        let mut flow = Flow::outward(CLIENT, "192.0.2.9:80");
        flow.seen = Some(fw.lan(flow.syn()).out(WAN).source());
        assert_eq!(left(&fw), 501);
        fw.wan(flow.syn_ack()).out(LAN);
        assert_eq!(left(&fw), 502);
        assert!(fw.delete(fw.connection().id));
        let mut flow = Flow::outward(CLIENT, "192.0.2.9:80").open(&mut fw);
        (0..3).for_each(|_| flow.talk(&mut fw));
        flow.client_data(&mut fw, 0);
        assert_eq!(left(&fw), 90);
        assert_eq!(fw.connection().protocol_state, State::Established as u8);
        flow.client_fin(&mut fw);
        assert_eq!(left(&fw), 504);
        fw.wan(flow.server_segment().rst()).out(LAN);
        assert_eq!(left(&fw), 77);
        assert_eq!(fw.connection().protocol_state, State::Close as u8);
        assert!(fw.delete(fw.connection().id));

        fw.lan(echo_request("192.168.1.2", "192.0.2.9", 7, 1)).out(WAN);
        assert_eq!(left(&fw), 507);
    }
}

/// The lane takes them, as many packets as without: neither routed nor judged again.
#[test]
fn they_have_a_lane_too() {
    let mut counts = Vec::new();
    for policy in [false, true] {
        let setup = Setup::default().zone(LAN, 7);
        let setup = if policy { setup.policy("slow", &[7], slow) } else { setup };
        let mut fw = Firewall::with(setup);
        let mut udp = Flow::outward(CLIENT, SERVER);
        udp.exchange(&mut fw);
        fw.pass_secs(3);
        udp.exchange(&mut fw);
        let mut tcp = Flow::outward(CLIENT, "192.0.2.9:80").open(&mut fw);
        tcp.talk(&mut fw);
        for _ in 0..5 {
            udp.exchange(&mut fw);
            tcp.talk(&mut fw);
        }
        let values = fw.values();
        counts.push((values.tracked, values.rejudged, values.rerouted));
        let packets: u64 = fw.connections().iter().map(|c| c.packets[0] + c.packets[1]).sum();
        assert_eq!(packets, values.tracked);
    }
    assert_eq!(counts[0], counts[1]);
}

/// C186: a change of a policy's values holds for the connections that have it, as a change of the general ones does; one that
/// is gone leaves them the general ones.
#[test]
fn a_change_of_a_policy_is_for_its_connections() {
    for_workers([1, 4], |setup| {
        let mut fw = Firewall::with(setup.zone(LAN, 7).policy("slow", &[7], slow));
        let mut flow = Flow::outward(CLIENT, SERVER);
        flow.exchange(&mut fw);
        fw.pass_secs(3);
        flow.exchange(&mut fw);
        flow.exchange(&mut fw);
        assert_eq!(left(&fw), 506);
        let short = |policy: &mut TimeoutPolicy| {
            policy.timeouts.set(TimeoutKind::UdpStream, Duration::from_secs(20));
        };
        fw.change(|setup| *setup = setup.clone().policy("slow", &[7], short));
        fw.housekeep(100_000);
        assert_eq!(left(&fw), 20);
        flow.exchange(&mut fw);
        assert_eq!(left(&fw), 20);
        // The operator's own word holds until its next packet.
        let id = fw.connection().id;
        fw.edit(id, Edit { timeout_ms: Some(1_000_000), ..Edit::default() }).unwrap();
        assert_eq!(left(&fw), 1_000);
        flow.exchange(&mut fw);
        assert_eq!(left(&fw), 20);
        // Another one of another name does not come into what is left of it.
        fw.change(|setup| {
            setup.policies.clear();
            setup.name_policies();
            *setup = setup.clone().policy("other", &[], slow);
        });
        fw.housekeep(100_000);
        flow.exchange(&mut fw);
        assert_eq!(left(&fw), 300);
    });
}

/// What a policy says of TCP: mid-stream pick-up and windows, where the general switches say otherwise.
#[test]
fn a_policy_may_be_loose_and_liberal() {
    for_workers([1, 2], |setup| {
        let mut setup = setup.policy("careless", &[], |policy| {
            policy.tcp.loose = true;
            policy.tcp.liberal = true;
        });
        setup.iptables("-t raw -A PREROUTING -p tcp --dport 179 -j CT --timeout careless");
        let mut fw = Firewall::with(setup);
        let strict = tcp(CLIENT, "192.0.2.9:80").ack(1).seq(9);
        assert_eq!(fw.lan(&strict).dropped(), DropReason::TcpNotSyn);
        let loose = tcp(CLIENT, "192.0.2.9:179").ack(1).seq(9);
        let seen = fw.lan(&loose).out(WAN).source();
        assert_eq!(left(&fw), 300, "nobody has answered what was picked up");
        let far = tcp("192.0.2.9:179", seen).ack(9).seq(1_000_000_000);
        fw.wan(&far).out(LAN);
        fw.lan(tcp(CLIENT, "192.0.2.9:179").ack(7).seq(2_000_000_000)).out(WAN);
    });
}

/// The policy is chosen at the first packet and holds for the connection's life, whatever the rules say later.
#[test]
fn a_policy_holds_for_life() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(policed(setup));
        let mut flow = Flow::outward(CLIENT, SERVER);
        flow.exchange(&mut fw);
        fw.change(|setup| setup.iptables("-t raw -F"));
        flow.exchange(&mut fw);
        assert_eq!(left(&fw), 3);
        fw.pass(Duration::from_millis(2_100));
        flow.exchange(&mut fw);
        flow.exchange(&mut fw);
        assert_eq!(left(&fw), 4);
        let mut other = Flow::outward("192.168.1.3:4000", SERVER);
        other.exchange(&mut fw);
        assert!(fw.connections().iter().any(|c| c.remaining_ms == 30_000));
    });
}

/// C110: a rule gives a connection its helper, whatever its port, and no other connection; together with a zone.
#[test]
fn a_rule_gives_the_connections_it_names_a_helper() {
    for zone in ["", " --zone-orig 3"] {
        for_workers([1, 2, 4], |setup| {
            let mut setup = setup;
            setup.iptables(&format!(
                "-t raw -A PREROUTING -i lan -p tcp --dport 2121 -j CT --helper ftp{zone}"
            ));
            let mut fw = Firewall::with(setup);
            let said = "PORT 192,168,1,2,156,64\r\n";
            let plain = Flow::outward("192.168.1.2:50000", "192.0.2.9:21").open(&mut fw);
            let heard = fw.lan(plain.client_segment().payload(said)).out(WAN);
            assert_eq!(heard.tcp().payload, said.as_bytes(), "no helper reads it");

            let helped = Flow::outward("192.168.1.2:50001", "192.0.2.9:2121").open(&mut fw);
            assert_eq!(by_port(&fw, 50_001).helper, Some(Kind::Ftp));
            let heard = fw.lan(helped.client_segment().payload(said)).out(WAN);
            assert_eq!(heard.tcp().payload, b"PORT 203,0,113,2,156,64\r\n");
            let data = tcp("192.0.2.9:20", (OUTER, 40_000)).syn().seq(1);
            assert_eq!(fw.wan(&data).out(LAN), data.hop().to("192.168.1.2:40000"));
            let answer = tcp("192.168.1.2:40000", "192.0.2.9:20").syn().seq(5).ack(2);
            assert_eq!(fw.lan(&answer).out(WAN).source(), (OUTER, 40_000).endpoint());
        });
    }
}

/// TFTP's first datagram is its whole control connection; and a rule's helper comes before the port's.
#[test]
fn a_rules_helper_reads_the_first_packet_too() {
    let mut setup = Setup::default();
    setup.options.helpers = setup.options.helpers.with(Kind::Ftp);
    setup.iptables("-t raw -A PREROUTING -p udp --dport 6969 -j CT --helper tftp");
    setup.iptables("-t raw -A PREROUTING -p tcp --dport 21 -j CT --helper irc");
    let mut fw = Firewall::with(setup);
    fw.lan(udp("192.168.1.2:5000", "192.0.2.9:6969").payload(b"\0\x01file\0octet\0")).out(WAN);
    let answer = udp("192.0.2.9:3000", (OUTER, 5000)).payload(b"\0\x03\0\x01");
    assert_eq!(fw.wan(&answer).out(LAN), answer.hop().to("192.168.1.2:5000"));
    fw.lan(tcp("192.168.1.2:6000", "192.0.2.9:21").syn()).out(WAN);
    assert_eq!(by_port(&fw, 6000).helper, Some(Kind::Irc));
}
