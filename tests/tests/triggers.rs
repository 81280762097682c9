//! Port triggers: a host that goes out by one port has others opened, for a while.

use postern_core::nat::trigger::TriggerRule;
use postern_core::verdict::DropReason;
use postern_tests::packet::{Pkt, udp};
use postern_tests::{Firewall, LAN, Setup, WAN, for_workers};

const GAMER: &str = "192.168.1.2";
const OTHER: &str = "192.168.1.3";
const SERVER: &str = "192.0.2.9";
const PEER: &str = "192.0.2.77";
const OUTER: &str = "203.0.113.2";

fn with_trigger(setup: Setup) -> Setup {
    setup.trigger_udp(6112, (6113, 6115), 60)
}

fn pull(host: &str) -> Pkt {
    udp((host, 5000), (SERVER, 6112))
}

fn call(peer: (&str, u16), port: u16) -> Pkt {
    udp(peer, (OUTER, port))
}

/// C106
#[test]
fn what_a_host_triggered_is_open_to_it_alone_for_a_time() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(with_trigger(setup));
        assert_eq!(fw.wan(call((PEER, 7000), 6113)).dropped(), DropReason::DeniedByPolicy);
        fw.lan(pull(GAMER)).out(WAN);
        for port in 6113..=6115 {
            let called = call((PEER, 7000), port);
            assert_eq!(fw.wan(&called).out(LAN), called.hop().to((GAMER, port)));
            let answer = udp((GAMER, port), (PEER, 7000));
            assert_eq!(fw.lan(&answer).out(WAN), answer.hop().from((OUTER, port)));
        }
        for port in [6112, 6116] {
            assert_eq!(fw.wan(call((PEER, 7000), port)).dropped(), DropReason::DeniedByPolicy);
        }
        fw.pass_secs(59);
        fw.wan(call((PEER, 7001), 6113)).out(LAN);
        fw.pass_secs(59);
        fw.wan(call((PEER, 7002), 6113)).out(LAN); // the last one refreshed it
        fw.pass_secs(60);
        assert_eq!(fw.wan(call((PEER, 7003), 6113)).dropped(), DropReason::DeniedByPolicy);
    });
}

/// C106: refreshed by use, and use is any packet of the connection that triggered.
#[test]
fn it_stays_open_while_the_connection_that_triggered_is_used() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(with_trigger(setup));
        let outer = fw.lan(pull(GAMER)).out(WAN).source();
        for _ in 0..20 {
            fw.pass_secs(20);
            fw.wan(udp((SERVER, 6112), outer)).out(LAN);
        }
        fw.pass_secs(59);
        fw.wan(call((PEER, 7000), 6113)).out(LAN);
    });
}

/// C106: one that is removed, or put before it, makes no difference to a trigger's use.
#[test]
fn it_stays_open_whatever_triggers_come_and_go_beside_it() {
    for_workers([1, 2, 4], |setup| {
        let before = setup.trigger_udp(7000, (7001, 7001), 60);
        let mut fw = Firewall::with(with_trigger(before));
        let outer = fw.lan(pull(GAMER)).out(WAN).source();
        let beside = fw.lan(udp((GAMER, 5001), (SERVER, 7000))).out(WAN).source();
        for round in 0..20 {
            fw.pass_secs(20);
            fw.wan(udp((SERVER, 6112), outer)).out(LAN);
            fw.wan(udp((SERVER, 7000), beside)).out(LAN);
            fw.change(|setup| match round % 4 {
                0 => setup.triggers.swap(0, 1),
                1 => setup.triggers.insert(0, trigger(8000 + round)),
                2 => _ = setup.triggers.remove(0),
                _ => setup.triggers.push(trigger(9000 + round)),
            });
        }
        fw.pass_secs(59);
        fw.wan(call((PEER, 7000), 6113)).out(LAN);
        fw.wan(call((PEER, 7000), 7001)).out(LAN);
    });
}

fn trigger(port: u16) -> TriggerRule {
    Setup::default().trigger_udp(port, (port, port), 60).triggers[0]
}

/// C109: the first host keeps it; a forward and a live mapping go first.
#[test]
fn nobody_else_gets_the_ports_and_a_forward_goes_first() {
    for_workers([1, 2, 4], |setup| {
        let setup = with_trigger(setup).forward_udp(6114, "192.168.1.10:53");
        let mut fw = Firewall::with(setup);
        // Another host's mapping, by chance of one of these ports.
        let mapped = udp((OTHER, 6115), (SERVER, 9999));
        assert_eq!(fw.lan(&mapped).out(WAN).source().port(), 6115);
        fw.lan(pull(GAMER)).out(WAN);
        fw.lan(pull(OTHER)).out(WAN);
        let called = call((PEER, 7000), 6113);
        assert_eq!(fw.wan(&called).out(LAN), called.hop().to((GAMER, 6113)));
        let called = call((PEER, 7000), 6114);
        assert_eq!(fw.wan(&called).out(LAN), called.hop().to("192.168.1.10:53"));
        let answer = call((SERVER, 9999), 6115);
        assert_eq!(fw.wan(&answer).out(LAN), answer.hop().to((OTHER, 6115)));
    });
}

/// C106: only what is let out triggers.
#[test]
fn what_the_rules_refuse_triggers_nothing() {
    for_workers([1, 2], |setup| {
        let mut setup = with_trigger(setup);
        setup.iptables("-I FORWARD 1 -s 192.168.1.2 -j DROP");
        let mut fw = Firewall::with(setup);
        assert_eq!(fw.lan(pull(GAMER)).dropped(), DropReason::DeniedByRule);
        assert_eq!(fw.wan(call((PEER, 7000), 6113)).dropped(), DropReason::DeniedByPolicy);
        fw.lan(pull(OTHER)).out(WAN);
        fw.wan(call((PEER, 7000), 6113)).out(LAN);
    });
}

/// A change of something else leaves it with its holder.
#[test]
fn a_change_of_the_configuration_keeps_the_holder() {
    let mut fw = Firewall::with(with_trigger(Setup::default()));
    fw.lan(pull(GAMER)).out(WAN);
    fw.change(|setup| setup.add_forward(17, (9, 9), "192.168.1.10:9"));
    fw.wan(call((PEER, 7000), 6113)).out(LAN);
    fw.change(|setup| setup.triggers.clear());
    assert_eq!(fw.wan(call((PEER, 7001), 6113)).dropped(), DropReason::DeniedByPolicy);
}
