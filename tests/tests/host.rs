//! The appliance itself: INPUT, OUTPUT, and what passes before any rule.

use postern_core::verdict::DropReason;
use postern_tests::packet::{echo_reply, echo_request, other, tcp, udp};
use postern_tests::{At, Firewall, Flow, HOST_LAN, HOST_WAN, LAN, Setup, WAN, for_workers, moved};

/// C041, C001: the appliance's own connections are tracked, and leave as the kernel wrote them.
#[test]
fn the_appliance_reaches_out_and_is_answered() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        let mut dns = Flow::between(HOST_WAN, "203.0.113.2:5000", WAN, "192.0.2.9:53");
        dns.c2s(&mut fw, &dns.ask());
        moved!(fw, from_host: 1, forwarded: 1, tracked: 1, connections_new: 1);
        dns.s2c(&mut fw, &dns.tell());
        moved!(fw, received: 1, delivered: 1, tracked: 1, rerouted: 1, rejudged: 1);
        let mut web =
            Flow::between(HOST_WAN, "203.0.113.2:5001", WAN, "192.0.2.9:80").open(&mut fw);
        web.talk(&mut fw);
        assert_eq!((dns.seen(), web.seen()), (dns.client, web.client));
        // Into the LAN too.
        Flow::between(HOST_LAN, "192.168.1.1:5002", LAN, "192.168.1.2:80")
            .open(&mut fw)
            .talk(&mut fw);
    });
}

/// C072: a source address of another interface is hidden like any other.
#[test]
fn the_appliance_hides_an_address_that_is_not_the_wans() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        let mut flow = Flow::between(HOST_WAN, "192.168.1.1:5000", WAN, "192.0.2.9:53");
        flow.exchange(&mut fw);
        assert_eq!(flow.seen().to_string(), "203.0.113.2:5000");
    });
}

/// C051: the appliance answers the LAN's pings, and not the Internet's unless a rule says so.
#[test]
fn the_appliance_is_reached_from_the_lan_and_not_from_outside() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        for ours in ["192.168.1.1", "203.0.113.2"] {
            let ask = echo_request("192.168.1.2", ours, 7, 1);
            assert_eq!(fw.lan(&ask).out(HOST_LAN), ask);
            let answer = echo_reply(ours, "192.168.1.2", 7, 1);
            assert_eq!(fw.send(HOST_LAN, &answer).out(LAN), answer);
            let syn = tcp("192.0.2.9:5000", (ours, 22)).syn();
            assert_eq!(fw.wan(syn).dropped(), DropReason::DeniedByPolicy);
        }
        fw.change(|setup| setup.iptables("-A INPUT -p icmp --icmp-type echo-request -j ACCEPT"));
        let ask = echo_request("192.0.2.9", "203.0.113.2", 7, 1);
        assert_eq!(fw.wan(&ask).out(HOST_WAN), ask);
        let answer = echo_reply("203.0.113.2", "192.0.2.9", 7, 1);
        assert_eq!(fw.send(HOST_WAN, &answer).out(WAN), answer);
    });
}

/// C051: OUTPUT is judged too.
#[test]
fn output_rules_hold_for_the_appliance() {
    let mut setup = Setup::default();
    setup.iptables("-A OUTPUT -d 192.0.2.66 -j DROP");
    let mut fw = Firewall::with(setup);
    let pkt = udp("203.0.113.2:5000", "192.0.2.66:53");
    assert_eq!(fw.send(HOST_WAN, pkt).dropped(), DropReason::DeniedByRule);
    Flow::between(HOST_WAN, "203.0.113.2:5000", WAN, "192.0.2.67:53").exchange(&mut fw);
}

/// A DHCP client reads the wire before any filter; only where one runs.
#[test]
fn dhcp_passes_before_any_rule_only_where_a_client_runs() {
    for client in [false, true] {
        let mut setup = Setup::default();
        setup.interfaces[1].dhcp = client;
        let mut fw = Firewall::with(setup);
        let offer = udp("203.0.113.1:67", "203.0.113.99:68").payload([2; 240]);
        let sent = fw.wan(&offer);
        match client {
            true => assert_eq!(sent.out(HOST_WAN), offer),
            false => assert!(sent.is_silent()),
        }
        let discover = udp("0.0.0.0:68", "255.255.255.255:67").payload([1; 240]);
        assert_eq!(fw.send(HOST_WAN, &discover).out(WAN), discover);
        // A question from outside is for no client.
        assert!(fw.wan(udp("203.0.113.9:68", "203.0.113.2:67")).is_silent());
    }
}

/// VRRP between appliances, both ways, if a rule lets it in.
#[test]
fn vrrp_passes_between_host_and_wire() {
    let mut setup = Setup::default();
    setup.iptables("-A INPUT -p 112 -j ACCEPT");
    let mut fw = Firewall::with(setup);
    let heard = other("203.0.113.3", "224.0.0.18", 112, &[0x31, 1, 100, 1, 0, 1, 0, 0]).ttl(255);
    assert_eq!(fw.wan(&heard).out(HOST_WAN), heard);
    let said = other("203.0.113.2", "224.0.0.18", 112, &[0x31, 1, 101, 1, 0, 1, 0, 0]).ttl(255);
    assert_eq!(fw.send(HOST_WAN, &said).out(WAN), said);
}

/// C141: what the appliance's own answers look like to itself: a refused packet of the host's is answered
/// through the TAP.
#[test]
fn the_appliance_is_told_when_its_own_packet_is_rejected() {
    let mut setup = Setup::default();
    setup.iptables("-A OUTPUT -d 192.0.2.66 -j REJECT");
    let mut fw = Firewall::with(setup);
    let pkt = udp("203.0.113.2:5000", "192.0.2.66:53");
    let sent = fw.send(HOST_WAN, &pkt);
    let At::Host(_) = sent.outs[0].at else { panic!("{}", sent.describe()) };
    assert_eq!(sent.answer(HOST_WAN).quoted(), Ok(pkt));
    moved!(fw, from_host: 1, generated: 1, delivered: 1, RejectedByRule: 1);
}
