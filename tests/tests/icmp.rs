//! ICMP: queries, and errors with what they quote.

use postern_core::verdict::DropReason;
use postern_tests::flow::Ping;
use postern_tests::packet::{Body, echo_reply, echo_request, icmp, tcp, udp};
use postern_tests::wire::{checksum, set16};
use postern_tests::{Firewall, Flow, HOST_WAN, LAN, Pkt, Setup, WAN, for_workers, moved};

/// Unreachable, by code.
const UNREACHABLE: u8 = 3;
const TIME_EXCEEDED: u8 = 11;

/// An error from `router` to whoever sent `about`, quoting all of it.
fn error(router: &str, kind: u8, code: u8, rest: u32, about: &Pkt) -> Pkt {
    icmp(router, about.src, kind, code, rest, &about.build())
}

/// What the appliance answers leaves by OUTPUT, as a packet of its own that is RELATED to what it answers.
#[test]
fn its_own_errors_and_resets_leave_by_output() {
    let expiring = || udp("192.168.1.2:5000", "192.0.2.9:53").ttl(1);
    let refused = |port: u16| tcp("192.168.1.2:5000", ("192.0.2.9", port)).syn();
    // An INVALID one that is answered: of no connection, so the answer is of none either.
    let stray = || tcp("192.168.1.2:5000", "192.0.2.9:96").ack(7);
    for (rules, answered) in [
        (&[][..], [true; 4]),
        (
            &["-A OUTPUT -o lan -p icmp --icmp-type time-exceeded -j DROP"],
            [false, true, true, true],
        ),
        (&["-A OUTPUT -p icmp -j DROP"], [false, false, true, true]),
        (
            &["-A OUTPUT -o lan -d 192.168.1.2 -p tcp --tcp-flags RST RST -j DROP"],
            [true, true, false, false],
        ),
        (&["-A OUTPUT -m conntrack --ctstate INVALID -j DROP"], [true, true, true, false]),
        (&["-t raw -A OUTPUT -p icmp -j DROP"], [false, false, true, true]),
        (&["-P OUTPUT DROP"], [false; 4]),
        (
            &["-P OUTPUT DROP", "-A OUTPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"],
            [true, true, true, false],
        ),
    ] {
        for_workers([1, 2], |setup| {
            let mut setup = setup.routed();
            setup.iptables("-I FORWARD -p tcp --dport 98 -j REJECT");
            setup.iptables("-I FORWARD -p tcp --dport 97 -j REJECT --reject-with tcp-reset");
            setup.iptables("-I FORWARD -p tcp --dport 96 -j REJECT --reject-with tcp-reset");
            rules.iter().for_each(|rule| setup.iptables(rule));
            let mut fw = Firewall::with(setup);
            let packets = [expiring(), refused(98), refused(97), stray()];
            let said = packets.map(|pkt| !fw.lan(pkt).is_silent());
            assert_eq!(said, answered, "{rules:?}");
        });
    }
}

/// C049
#[test]
fn two_hosts_that_use_one_identifier_each_get_their_own_replies() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        let mut first = Ping::outward("192.168.1.2", "192.0.2.9", 7);
        let mut second = Ping::outward("192.168.1.3", "192.0.2.9", 7);
        first.ask(&mut fw, 1);
        second.ask(&mut fw, 1);
        assert_eq!(first.seen.unwrap().to_string(), "203.0.113.2:7", "kept when free");
        assert_ne!(first.seen, second.seen);
        moved!(fw, received: 2, forwarded: 2, tracked: 2, connections_new: 2, ports_changed: 1);
        second.tell(&mut fw, 1);
        first.tell(&mut fw, 1);
        first.ask(&mut fw, 2);
        first.tell(&mut fw, 2);
    });
}

/// C049: 0 is an identifier like any other.
#[test]
fn identifier_zero_is_legal() {
    let mut fw = Firewall::new();
    let mut ping = Ping::outward("192.168.1.2", "192.0.2.9", 0);
    ping.ask(&mut fw, 1);
    ping.tell(&mut fw, 1);
}

/// C050
#[test]
fn a_reply_with_another_identifier_or_from_another_host_is_dropped() {
    let mut fw = Firewall::new();
    let mut ping = Ping::outward("192.168.1.2", "192.0.2.9", 7);
    ping.ask(&mut fw, 1);
    let other_id = echo_reply("192.0.2.9", "203.0.113.2", 8, 1);
    let other_host = echo_reply("192.0.2.10", "203.0.113.2", 7, 1);
    for stranger in [other_id, other_host] {
        assert_eq!(fw.wan(stranger).dropped(), DropReason::IcmpNotQuery);
    }
    ping.tell(&mut fw, 1);
}

/// C050: a timestamp reply does not answer an echo request.
#[test]
fn a_reply_of_another_type_is_dropped() {
    let mut fw = Firewall::new();
    let mut ping = Ping::outward("192.168.1.2", "192.0.2.9", 7);
    ping.ask(&mut fw, 1);
    let timestamp = icmp("192.0.2.9", "203.0.113.2", 14, 0, 7 << 16 | 1, &[0; 12]);
    assert_eq!(fw.wan(timestamp).dropped(), DropReason::IcmpNotQuery);
    let mask = icmp("192.0.2.9", "203.0.113.2", 18, 0, 7 << 16 | 1, &[0; 4]);
    assert_eq!(fw.wan(mask).dropped(), DropReason::IcmpNotQuery);
}

/// C051
#[test]
fn unsolicited_queries_and_replies_from_outside_never_reach_the_lan() {
    let mut fw = Firewall::new();
    for kind in [0, 8, 13, 14, 15, 16, 17, 18] {
        for dst in ["203.0.113.2", "192.168.1.2"] {
            let pkt = icmp("192.0.2.9", dst, kind, 0, 7 << 16 | 1, &[0; 12]);
            assert!(fw.wan(pkt).is_silent());
        }
    }
    for kind in [1, 2, 6, 7, 9, 10, 19, 30, 37, 40, 42, 255] {
        let pkt = icmp("192.0.2.9", "203.0.113.2", kind, 0, 0, &[0; 12]);
        assert_eq!(fw.wan(pkt).dropped(), DropReason::IcmpNotQuery);
    }
    assert!(fw.connections().is_empty());
}

/// C049: timestamp queries are translated as echo is.
#[test]
fn a_timestamp_query_and_its_reply_cross() {
    let mut fw = Firewall::new();
    let ask = icmp("192.168.1.2", "192.0.2.9", 13, 0, 7 << 16 | 1, &[1; 12]);
    assert_eq!(fw.lan(&ask).out(WAN), ask.from("203.0.113.2:7").hop());
    let answer = icmp("192.0.2.9", "203.0.113.2", 14, 0, 7 << 16 | 1, &[2; 12]);
    assert_eq!(fw.wan(&answer).out(LAN), answer.to("192.168.1.2:7").hop());
}

/// C052
#[test]
fn port_unreachable_reaches_the_host_with_the_quote_as_it_sent_it() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        // The second one has its port changed too.
        for client in ["192.168.1.2:5000", "192.168.1.3:5000"] {
            let mut flow = Flow::outward(client, "192.0.2.9:53");
            let arrived = flow.c2s(&mut fw, &flow.ask());
            fw.take_moved();
            let report = error("192.0.2.9", UNREACHABLE, 3, 0, &arrived);
            let received = fw.wan(&report).out(LAN);
            assert_eq!(received, error("192.0.2.9", UNREACHABLE, 3, 0, &flow.ask().hop()).hop());
            moved!(fw, received: 1, forwarded: 1, tracked: 1);
        }
    });
}

/// C052: TCP's checksum lies within the quote, or beyond it.
#[test]
fn a_quoted_segment_is_translated_however_much_of_it_is_quoted() {
    let mut fw = Firewall::new();
    let mut flow = Flow::outward("192.168.1.3:5000", "192.0.2.9:80").open(&mut fw);
    let segment = flow.client_segment().payload([b'x'; 100]);
    let arrived = flow.c2s(&mut fw, &segment).build();
    let sent = segment.hop().build();
    for len in [28, 30, 36, 38, 40, 60, arrived.len()] {
        let report = icmp("192.0.2.9", "203.0.113.2", UNREACHABLE, 3, 0, &arrived[..len]);
        let expected = icmp("192.0.2.9", "192.168.1.3", UNREACHABLE, 3, 0, &sent[..len]).hop();
        assert_eq!(fw.wan(report).out(LAN), expected, "{len} bytes");
    }
}

/// C053
#[test]
fn time_exceeded_from_a_router_on_the_way_keeps_the_routers_address() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        let mut flow = Flow::outward("192.168.1.2:40000", "192.0.2.9:33434");
        for hop in 1..5 {
            let probe = flow.ask().ttl(hop + 1);
            let arrived = flow.c2s(&mut fw, &probe);
            let router = format!("198.51.100.{hop}");
            let received = fw.wan(error(&router, TIME_EXCEEDED, 0, 0, &arrived)).out(LAN);
            assert_eq!(received, error(&router, TIME_EXCEEDED, 0, 0, &probe.hop()).hop());
            assert_eq!(received.src.to_string(), router);
        }
    });
}

/// C054
#[test]
fn fragmentation_needed_with_the_least_quote_keeps_its_mtu_and_the_session_lives_on() {
    let mut fw = Firewall::new();
    let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:80").open(&mut fw);
    let segment = flow.client_segment().len(1500);
    let arrived = flow.c2s(&mut fw, &segment).build();
    let report = icmp("198.51.100.1", "203.0.113.2", UNREACHABLE, 4, 1400, &arrived[..28]);
    let expected =
        icmp("198.51.100.1", "192.168.1.2", UNREACHABLE, 4, 1400, &segment.hop().build()[..28]);
    assert_eq!(fw.wan(report).out(LAN), expected.hop());
    flow.talk(&mut fw);
}

/// C055
#[test]
fn errors_about_unknown_sessions_are_dropped() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
        let known = flow.c2s(&mut fw, &flow.ask());
        let strangers = [
            udp("203.0.113.2:5001", "192.0.2.9:53"),
            udp("203.0.113.2:5000", "192.0.2.10:53"),
            tcp("203.0.113.2:5000", "192.0.2.9:53").syn(),
            udp("192.168.1.2:5000", "192.0.2.9:53"),
            echo_request("203.0.113.2", "192.0.2.9", 5000, 1),
        ];
        for (kind, code) in [(3, 0), (3, 1), (3, 3), (3, 4), (11, 0), (11, 1), (12, 0)] {
            for stranger in &strangers {
                // To us, whatever is quoted.
                let report = icmp("192.0.2.9", "203.0.113.2", kind, code, 0, &stranger.build());
                assert_eq!(fw.wan(report).dropped(), DropReason::IcmpErrorUnrelated);
            }
            assert_eq!(fw.wan(error("192.0.2.9", kind, code, 0, &known)).outs.len(), 1);
        }
    });
}

/// C057
#[test]
fn truncated_and_corrupt_quotes_are_dropped_and_a_right_one_after_them_is_delivered() {
    let mut fw = Firewall::new();
    let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
    let arrived = flow.c2s(&mut fw, &flow.ask());
    let quote = arrived.build();
    let report = |quote: &[u8]| icmp("192.0.2.9", "203.0.113.2", UNREACHABLE, 3, 0, quote);
    for len in [0, 1, 8, 19, 20, 23, 27] {
        let sent = fw.wan(report(&quote[..len]));
        assert_eq!(sent.dropped(), DropReason::IcmpErrorQuote, "{len} bytes");
    }
    for ihl in [0, 1, 4, 15] {
        let mut quote = quote.clone();
        quote[0] = 0x40 | ihl;
        assert_eq!(fw.wan(report(&quote)).dropped(), DropReason::IcmpErrorQuote, "IHL {ihl}");
    }
    for version in [0x05, 0x65, 0xf5] {
        let mut quote = quote.clone();
        quote[0] = version;
        assert_eq!(fw.wan(report(&quote)).dropped(), DropReason::IcmpErrorQuote);
    }
    let received = fw.wan(report(&quote[..28])).out(LAN);
    let expected =
        icmp("192.0.2.9", "192.168.1.2", UNREACHABLE, 3, 0, &flow.ask().hop().build()[..28]);
    assert_eq!(received, expected.hop());
}

/// C060
#[test]
fn an_error_about_an_error_is_dropped() {
    let mut fw = Firewall::new();
    let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
    let arrived = flow.c2s(&mut fw, &flow.ask());
    let inner = error("203.0.113.2", UNREACHABLE, 3, 0, &arrived);
    let report = icmp("192.0.2.9", "203.0.113.2", UNREACHABLE, 3, 0, &inner.build());
    assert_eq!(fw.wan(report).dropped(), DropReason::IcmpErrorNested);
}

/// C061
#[test]
fn an_error_with_a_wrong_checksum_is_dropped() {
    let mut fw = Firewall::new();
    let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
    let arrived = flow.c2s(&mut fw, &flow.ask());
    let mut bytes = error("192.0.2.9", UNREACHABLE, 3, 0, &arrived).build();
    bytes[23] ^= 0x40;
    assert_eq!(fw.wan(bytes).dropped(), DropReason::TransportChecksum);
}

/// C062
#[test]
fn an_error_about_an_echo_restores_the_identifier_in_the_quote_and_its_checksum() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        Ping::outward("192.168.1.2", "192.0.2.9", 7).ask(&mut fw, 1);
        let mut ping = Ping::outward("192.168.1.3", "192.0.2.9", 7);
        let arrived = ping.ask(&mut fw, 1);
        assert_ne!(arrived.source().port(), 7, "the identifier is translated");
        let received = fw.wan(error("192.0.2.9", UNREACHABLE, 1, 0, &arrived)).out(LAN);
        assert_eq!(received, error("192.0.2.9", UNREACHABLE, 1, 0, &ping.request(1).hop()).hop());
    });
}

/// C063
#[test]
fn an_error_of_the_host_inside_about_a_reply_leaves_fully_translated() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
        flow.c2s(&mut fw, &flow.ask());
        let received = flow.s2c(&mut fw, &flow.tell());
        let report = error("192.168.1.2", UNREACHABLE, 3, 0, &received);
        let out = fw.lan(report).out(WAN);
        assert_eq!(out, error("203.0.113.2", UNREACHABLE, 3, 0, &flow.tell().hop()).hop());
    });
}

/// C067
#[test]
fn an_absent_checksum_in_a_quote_stays_absent() {
    let mut fw = Firewall::new();
    let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
    let arrived = flow.c2s(&mut fw, &flow.ask().unsummed());
    let received = fw.wan(error("192.0.2.9", UNREACHABLE, 3, 0, &arrived)).out(LAN);
    assert_eq!(received, error("192.0.2.9", UNREACHABLE, 3, 0, &flow.ask().unsummed().hop()).hop());
}

/// C068
#[test]
fn redirects_from_outside_never_reach_hosts() {
    let mut fw = Firewall::new();
    let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
    let arrived = flow.c2s(&mut fw, &flow.ask());
    for code in 0..4 {
        let redirect = error("203.0.113.1", 5, code, 0xcb00_7109, &arrived);
        assert_eq!(fw.wan(redirect).dropped(), DropReason::IcmpRedirect);
    }
}

/// C070
#[test]
fn an_error_of_a_forwards_server_leaves_with_the_wan_address_outside_and_inside() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup.forward_udp(5353, "192.168.1.10:53"));
        let mut flow = Flow::inward("192.0.2.7:40000", "203.0.113.2:5353", "192.168.1.10:53");
        let received = flow.c2s(&mut fw, &flow.ask());
        let out = fw.lan(error("192.168.1.10", UNREACHABLE, 3, 0, &received)).out(WAN);
        assert_eq!(out, error("203.0.113.2", UNREACHABLE, 3, 0, &flow.ask().hop()).hop());
    });
}

/// C071
#[test]
fn an_outside_routers_report_about_a_forwards_reply_reaches_the_server_with_its_own_address_quoted()
{
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup.forward_tcp(8080, "192.168.1.10:80"));
        let mut flow =
            Flow::inward("192.0.2.7:40000", "203.0.113.2:8080", "192.168.1.10:80").open(&mut fw);
        let segment = flow.server_segment().len(1500);
        let arrived = flow.s2c(&mut fw, &segment);
        // As much of it as a router of old, or one of today (RFC 1812), quotes.
        for len in [28, 548] {
            let report = |to, quote: &Pkt| {
                icmp("198.51.100.1", to, UNREACHABLE, 4, 1400, &quote.build()[..len])
            };
            let received = fw.wan(report("203.0.113.2", &arrived)).out(LAN);
            assert_eq!(received, report("192.168.1.10", &segment.clone().hop()).hop());
        }
    });
}

/// C055: the quote must be of a packet that its receiver sent.
#[test]
fn an_error_to_somebody_else_than_who_sent_the_quoted_packet_is_dropped() {
    let mut fw = Firewall::with(Setup::default().address(WAN, "203.0.113.3/24"));
    let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
    let arrived = flow.c2s(&mut fw, &flow.ask());
    let report = icmp("192.0.2.9", "203.0.113.3", UNREACHABLE, 3, 0, &arrived.build());
    assert_eq!(fw.wan(report).dropped(), DropReason::IcmpErrorUnrelated);
}

/// C052: the appliance's own packets are reported on to the appliance.
#[test]
fn an_error_about_the_hosts_own_packet_is_delivered_to_the_host() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        let mut flow = Flow::between(HOST_WAN, "203.0.113.2:5000", WAN, "192.0.2.9:53");
        let arrived = flow.c2s(&mut fw, &flow.ask());
        let report = error("192.0.2.9", UNREACHABLE, 3, 0, &arrived);
        assert_eq!(fw.wan(&report).out(HOST_WAN), report);
    });
}

/// C053: RFC 4884 lets an error carry more than the quote; it stays as it is.
#[test]
fn what_follows_the_quote_is_left_alone() {
    let mut fw = Firewall::new();
    let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
    let arrived = flow.c2s(&mut fw, &flow.ask());
    let extension = |pkt: &Pkt| {
        let mut quote = pkt.build();
        quote.resize(128, 0);
        let mut mpls = vec![0x20, 0, 0, 0, 0, 8, 1, 1, 0, 1, 0x11, 1];
        let sum = checksum(&mpls);
        set16(&mut mpls, 2, sum);
        quote.extend(mpls);
        quote
    };
    let report =
        icmp("198.51.100.1", "203.0.113.2", TIME_EXCEEDED, 0, 32 << 16, &extension(&arrived));
    let received = fw.wan(report).out(LAN);
    let Body::Icmp { payload, rest, .. } = &received.body else { panic!("{received:?}") };
    assert_eq!(payload, &extension(&flow.ask().hop()));
    assert_eq!(rest, &[0, 32, 0, 0]);
}
