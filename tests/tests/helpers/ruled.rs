//! Helpers of connections that nat rules translate.

use postern_core::conntrack::entry::flags;
use postern_tests::packet::tcp;
use postern_tests::{Firewall, Flow, LAN, Setup, WAN, for_workers};

use crate::control::Control;
use crate::{CLIENT, SERVER, connection_flags, syn, with_helpers};

/// An appliance with helpers that translates by these rules alone.
fn ruled(setup: Setup, rules: &[&str]) -> Firewall {
    let mut setup = with_helpers(setup.routed());
    rules.iter().for_each(|rule| setup.iptables(rule));
    Firewall::with(setup)
}

/// C110, C112: active and passive, behind an address that no interface has; of a pool, of a network, one to one.
#[test]
fn a_client_behind_rules_gets_its_data_connections() {
    for_workers([1, 2, 4], |setup| {
        for (rule, outer) in [
            ("-t nat -A POSTROUTING -o wan -j SNAT --to-source 203.0.113.9", "203.0.113.9"),
            ("-t nat -A POSTROUTING -o wan -j MASQUERADE", "203.0.113.100"),
            (
                "-t nat -A POSTROUTING -s 192.168.1.0/24 -o wan -j NETMAP --to 198.51.100.0/24",
                "198.51.100.2",
            ),
        ] {
            let mut fw = ruled(setup.clone(), &[rule]);
            let mut control = Control::ftp(&mut fw, CLIENT);
            let commas = outer.replace('.', ",");
            let heard = format!("PORT {commas},156,64\r\n");
            control.client_says(&mut fw, "PORT 192,168,1,2,156,64\r\n", &heard);
            let data = syn((SERVER, 20), (outer, 40_000));
            assert_eq!(fw.wan(&data).out(LAN), data.hop().to((CLIENT, 40_000)), "{rule}");
            let answer = tcp((CLIENT, 40_000), (SERVER, 20)).syn().seq(5).ack(2);
            assert_eq!(fw.lan(&answer).out(WAN), answer.hop().from((outer, 40_000)), "{rule}");
            let more = tcp((SERVER, 20), (outer, 40_000)).seq(2).ack(6).payload("data");
            assert_eq!(fw.wan(&more).out(LAN), more.hop().to((CLIENT, 40_000)));

            control.client_says(&mut fw, "PASV\r\n", "PASV\r\n");
            let here = "227 Entering Passive Mode (192,0,2,9,156,64).\r\n";
            control.server_says(&mut fw, here, here);
            let data = syn((CLIENT, 50_001), (SERVER, 40_000));
            let arrived = fw.lan(&data).out(WAN);
            assert_eq!(arrived, data.hop().from((outer, arrived.source().port())), "{rule}");
            assert_ne!(connection_flags(&fw, 50_001, 40_000) & flags::EXPECTED, 0);
            let answer = tcp((SERVER, 40_000), arrived.source()).syn().seq(5).ack(2);
            assert_eq!(fw.wan(&answer).out(LAN), answer.hop().to((CLIENT, 50_001)), "{rule}");
            control.goes_on(&mut fw);
        }
    });
}

/// C112, C113: a server behind an address of its own, which no interface has.
#[test]
fn a_server_behind_an_address_of_its_own_is_reached_where_it_says() {
    for_workers([1, 2, 4], |setup| {
        for rule in [
            "-t nat -A PREROUTING -d 198.51.100.9 -j DNAT --to-destination 192.168.1.10",
            "-t nat -A PREROUTING -d 198.51.100.10 -j NETMAP --to 192.168.1.10",
        ] {
            let outer = rule.split(' ').nth(5).unwrap();
            let mut fw = ruled(setup.clone(), &[rule]);
            let client = "192.0.2.7";
            let flow = Flow::inward((client, 50_000), (outer, 21), "192.168.1.10:21");
            let mut control = Control::open(&mut fw, flow);
            control.server_says(&mut fw, "220 Welcome.\r\n", "220 Welcome.\r\n");
            control.client_says(&mut fw, "PASV\r\n", "PASV\r\n");
            let there = format!("227 Here ({},156,64).\r\n", outer.replace('.', ","));
            control.server_says(&mut fw, "227 Here (192,168,1,10,156,64).\r\n", &there);
            let data = syn((client, 50_001), (outer, 40_000));
            assert_eq!(fw.wan(&data).out(LAN), data.hop().to("192.168.1.10:40000"), "{rule}");
            let answer = tcp("192.168.1.10:40000", (client, 50_001)).syn().seq(5).ack(2);
            assert_eq!(fw.lan(&answer).out(WAN), answer.hop().from((outer, 40_000)), "{rule}");
            control.goes_on(&mut fw);
        }
    });
}
