//! What a sender on the wrong side, or with a clever identifier, must not bring about.

use postern_core::headers::tcp_flags::{ACK, RST};
use postern_core::verdict::DropReason;
use postern_tests::packet::{echo_reply, echo_request, icmp, tcp, udp};
use postern_tests::{Firewall, LAN, WAN, for_workers};

/// C087, C003: the source is checked before the segment may touch the connection it claims to be of.
#[test]
fn a_reset_with_an_inside_source_from_outside_ends_nothing() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        let syn = tcp("192.168.1.5:4000", "198.51.100.9:80").syn().seq(1_000_000);
        let seen = fw.lan(&syn).out(WAN);
        for seq in [12_345, 1_000_001, 4_000_000_000] {
            let forged = tcp("192.168.1.5:4000", "198.51.100.9:80").rst().seq(seq);
            assert_eq!(fw.wan(&forged).dropped(), DropReason::ReversePath);
        }
        let answer = tcp("198.51.100.9:80", seen.source()).syn().ack(1_000_001).seq(7);
        fw.wan(&answer).out(LAN);
    });
}

/// C087: nor may it refresh, count or translate.
#[test]
fn a_packet_with_an_inside_source_from_outside_does_not_keep_a_connection_alive() {
    let mut fw = Firewall::new();
    let query = udp("192.168.1.5:4000", "198.51.100.9:53");
    fw.lan(&query).out(WAN);
    fw.pass_secs(20);
    assert_eq!(fw.wan(&query).dropped(), DropReason::ReversePath);
    fw.pass_secs(11);
    assert!(fw.connections().is_empty(), "thirty seconds after its own last packet it is gone");
}

/// C051: an identifier may equal the number its own type is kept under.
#[test]
fn a_request_is_never_taken_for_a_reply_whatever_its_identifier() {
    for_workers([1, 2, 4], |setup| {
        for (inside, outside, id) in
            [("192.168.1.5", "198.51.100.9", 0x0800), ("2001:db8:1::5", "2001:db8:9::9", 0x8000)]
        {
            let mut fw = Firewall::with(setup.clone());
            let seen = fw.lan(echo_request(inside, outside, id, 1)).out(WAN);
            let to = seen.src;
            let request = echo_request(outside, to, id, 1);
            assert_eq!(fw.wan(&request).dropped(), DropReason::IcmpNotQuery);
            fw.wan(echo_reply(outside, to, id, 1)).out(LAN);
        }
    });
}

/// C156: what is about a live connection may not come from an address of link scope either.
#[test]
fn an_error_with_a_link_local_source_is_not_forwarded() {
    let mut fw = Firewall::new();
    let query = udp("[2001:db8:1::5]:4000", "[2001:db8:9::9]:53");
    let seen = fw.lan(&query).out(WAN);
    let error = icmp("fe80::bad", "2001:db8:1::5", 2, 0, 1280, &seen.build());
    assert_eq!(fw.wan(&error).dropped(), DropReason::LinkLocalScope);
    let query = udp("192.168.1.5:4000", "198.51.100.9:53");
    let seen = fw.lan(&query).out(WAN);
    let error = icmp("169.254.7.7", "203.0.113.2", 3, 4, 1280, &seen.build());
    assert_eq!(fw.wan(&error).dropped(), DropReason::LinkLocalScope);
}

/// C072: whatever the rules accept. (Every packet that leaves by the WAN is looked at by the harness.)
#[test]
fn an_invalid_packet_that_rules_accept_shows_no_inside_address_outside() {
    let mut fw = Firewall::new();
    fw.change(|setup| {
        setup.iptables("-F FORWARD");
        setup.iptables("-P FORWARD ACCEPT");
    });
    let stray = tcp("192.168.1.5:4000", "198.51.100.9:80").flags(ACK | RST).seq(5);
    assert_eq!(fw.lan(&stray).dropped(), DropReason::TcpNotSyn);
}

/// C072: a connection to the appliance does not become a routed one when the address moves on.
#[test]
fn a_connection_to_an_address_that_is_no_longer_ours_is_over() {
    let mut fw = Firewall::new();
    let to_host = udp("192.168.1.5:4000", "203.0.113.2:53");
    assert!(!fw.lan(&to_host).is_silent());
    fw.change(|setup| setup.set_addresses(WAN, &["203.0.113.77/24"]));
    let out = fw.lan(&to_host).out(WAN);
    assert_eq!(out.source().ip().to_string(), "203.0.113.77", "begun anew, behind the new address");
}

/// C072: a routed connection does not leave untranslated by an interface that masquerades.
#[test]
fn a_routed_connection_that_is_sent_another_way_is_translated_there() {
    let mut fw = Firewall::with(postern_tests::Setup::default().routed());
    let query = udp("192.168.1.5:4000", "198.51.100.9:53");
    fw.send_no_looks(LAN, &query);
    fw.change(|setup| setup.interfaces[1].masquerade = true);
    let out = fw.lan(&query).out(WAN);
    assert_eq!(out.source().ip().to_string(), "203.0.113.2");
}
