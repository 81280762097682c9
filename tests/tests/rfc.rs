//! Clauses of the RFCs on NAT that no other test shows (`tests/rfc/*.toml`).

use std::collections::HashSet;
use std::time::Duration;

use postern_core::conntrack::timeouts::TimeoutKind;
use postern_core::verdict::DropReason;
use postern_tests::flow::Ping;
use postern_tests::packet::{Pkt, echo_reply, echo_request, icmp, tcp};
use postern_tests::{Firewall, Flow, LAN, LAN2, WAN, for_workers};

/// C053: RFC 4787 REQ-12, RFC 5382 REQ-10, RFC 5508 REQ-6: whatever an error says, what it is about lives on, and no longer
/// than without it.
#[test]
fn an_error_neither_refreshes_nor_ends_what_it_is_about() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup.timeout(TimeoutKind::Udp, Duration::from_secs(60)));
        let mut datagrams = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
        let mut stream = Flow::outward("192.168.1.2:5001", "192.0.2.9:80").open(&mut fw);
        let mut ping = Ping::outward("192.168.1.2", "192.0.2.9", 7);
        let report = |fw: &mut Firewall, about: &Pkt| {
            for (kind, code) in [(3, 0), (3, 1), (3, 2), (3, 3), (3, 13), (11, 0), (12, 0)] {
                let error = icmp("198.51.100.7", about.src, kind, code, 0, &about.build());
                assert_eq!(fw.wan(error).out(LAN).dst.to_string(), "192.168.1.2");
            }
        };
        let asked = datagrams.c2s(&mut fw, &datagrams.ask());
        let pinged = ping.ask(&mut fw, 1);
        let said = stream.at_server(&stream.client_segment());
        for about in [&asked, &pinged, &said] {
            report(&mut fw, about);
        }
        fw.pass_secs(59);
        for about in [&asked, &pinged, &said] {
            report(&mut fw, about);
        }
        ping.tell(&mut fw, 1);
        datagrams.s2c(&mut fw, &datagrams.tell());
        stream.talk(&mut fw);
        fw.pass_secs(59);
        report(&mut fw, &asked);
        fw.pass_secs(1);
        assert_eq!(fw.connections().len(), 1, "the errors have kept neither of the two alive");
        stream.talk(&mut fw);
    });
}

/// RFC 5508 REQ-3b, REQ-3c: options in the quoted header, and a quoted transport checksum that is wrong.
#[test]
fn a_quote_with_ip_options_or_a_wrong_transport_checksum_is_translated() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
        let asked = flow.c2s(&mut fw, &flow.ask()).build();
        let report = |fw: &mut Firewall, quote: &[u8]| {
            let out = fw.wan(icmp("198.51.100.7", flow.seen().ip(), 3, 3, 0, quote)).out(LAN);
            let at = 20 + 8;
            out.build()[at..].to_vec()
        };
        // The checksum was wrong when the host sent it, and so it is told.
        let mut wrong = asked.clone();
        wrong[26] ^= 0x10;
        let (right, told) = (report(&mut fw, &asked), report(&mut fw, &wrong));
        assert_eq!(right[12..16], [192, 168, 1, 2]);
        let off = |wrong: &[u8], right: &[u8]| wrong[26].wrapping_sub(right[26]);
        assert_eq!(off(&told, &right), off(&wrong, &asked), "as wrong as it was");
        assert_eq!((&told[..26], &told[27..]), (&right[..26], &right[27..]));

        // A router on the way has put no-operations in.
        let mut longer = asked[..20].to_vec();
        longer.extend([1, 1, 1, 0]);
        longer.extend(&asked[20..]);
        longer[0] = 0x46;
        let length = longer.len() as u16;
        longer[2..4].copy_from_slice(&length.to_be_bytes());
        let told = report(&mut fw, &longer);
        assert_eq!((&told[12..16], &told[20..24]), (&[192, 168, 1, 2][..], &[1, 1, 1, 0][..]));
        assert_eq!(told[24..], right[20..], "ports and what follows them");
    });
}

/// RFC 5508 REQ-5c: a router inside reports about a reply; outside it is the appliance that does.
#[test]
fn an_error_of_a_router_inside_leaves_with_our_address() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
        flow.exchange(&mut fw);
        let about = flow.at_client(&flow.tell());
        let error = icmp("192.168.1.77", "192.0.2.9", 11, 0, 0, &about.build());
        let out = fw.lan(error).out(WAN);
        assert_eq!((out.src, out.dst), (flow.seen().ip(), flow.server.ip()));
    });
}

/// RFC 5382 REQ-4: silence for whoever dials in, and a SYN from inside that meets it opens.
#[test]
fn an_unsolicited_syn_is_answered_by_nothing_and_may_be_met_by_one_from_inside() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        let early = tcp("192.0.2.9:80", "203.0.113.2:5000").syn().seq(899_999);
        for _ in 0..3 {
            assert_eq!(fw.wan(&early).dropped(), DropReason::DeniedByPolicy);
            fw.pass_secs(2);
        }
        assert!(fw.connections().is_empty());
        let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:80");
        flow.c2s(&mut fw, &flow.syn());
        flow.s2c(&mut fw, &early);
        flow.c2s(&mut fw, &flow.syn().ack(flow.seq[1]));
        flow.s2c(&mut fw, &flow.syn_ack());
        flow.talk(&mut fw);
    });
}

/// RFC 5382 REQ-3b: rules choose by protocol.
#[test]
fn tcp_and_udp_may_be_mapped_differently() {
    for_workers([1, 2, 4], |setup| {
        let mut setup = setup.routed();
        let rule = "-t nat -A POSTROUTING -o wan";
        setup.iptables(&format!("{rule} -p udp -j MASQUERADE --endpoint-independent filtering"));
        setup.iptables(&format!("{rule} -p tcp -j MASQUERADE --endpoint-independent mapping"));
        let mut fw = Firewall::with(setup);
        let mut datagrams = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
        datagrams.exchange(&mut fw);
        let stream = Flow::outward("192.168.1.2:5001", "192.0.2.9:80").open(&mut fw);
        Flow::inward("198.51.100.7:4000", datagrams.seen(), datagrams.client).exchange(&mut fw);
        let syn = tcp("198.51.100.7:4000", stream.seen()).syn();
        assert_eq!(fw.wan(syn).dropped(), DropReason::DeniedByPolicy);
        let mut again = Flow::outward("192.168.1.2:5001", "192.0.2.10:80").open(&mut fw);
        again.talk(&mut fw);
        assert_eq!(again.seen(), stream.seen());
    });
}

/// RFC 5382 REQ-3a: who may come in at a port that a client has open is up to the rules.
#[test]
fn filtering_of_tcp_is_as_it_is_configured() {
    let independent = |kind| format!(" --endpoint-independent {kind}");
    for (option, gets_in) in
        [(String::new(), false), (independent("mapping"), false), (independent("filtering"), true)]
    {
        for_workers([1, 2, 4], |setup| {
            let mut setup = setup.routed();
            setup.iptables(&format!("-t nat -A POSTROUTING -o wan -p tcp -j MASQUERADE{option}"));
            let mut fw = Firewall::with(setup);
            let stream = Flow::outward("192.168.1.2:5001", "192.0.2.9:80").open(&mut fw);
            let stranger = Flow::inward("198.51.100.7:4000", stream.seen(), stream.client);
            if gets_in {
                stranger.open(&mut fw).talk(&mut fw);
            } else {
                let sent = stranger.try_c2s(&mut fw, &stranger.syn());
                assert_eq!(sent.dropped(), DropReason::DeniedByPolicy, "{option}");
            }
        });
    }
}

/// RFC 5508 REQ-7: a query to the outer address of a host that has one of its own, from its LAN and from another.
#[test]
fn a_query_hairpins_where_a_host_has_an_outer_address_of_its_own() {
    for_workers([1, 2, 4], |setup| {
        let mut setup = setup.second_lan().routed();
        setup.iptables("-t nat -A PREROUTING -d 203.0.113.9 -j DNAT --to-destination 192.168.1.9");
        setup.iptables(
            "-t nat -A POSTROUTING -o wan -s 192.168.1.9 -j SNAT --to-source 203.0.113.9",
        );
        let mut fw = Firewall::with(setup);
        for (at, client) in [(LAN2, "192.168.2.5"), (LAN, "192.168.1.5")] {
            for id in 0..8 {
                let asked = fw.send(at, echo_request(client, "203.0.113.9", id, 1)).out(LAN);
                assert_eq!(asked.dst.to_string(), "192.168.1.9");
                let reply = echo_reply(asked.dst, asked.src, asked.source().port(), 1);
                let told = fw.lan(reply).out(at);
                assert_eq!(told, echo_reply("203.0.113.9", client, id, 1).hop());
            }
        }
    });
}

/// RFC 7857 §4: where its address of a pool has no port left, a host is refused, and does not appear behind another one.
#[test]
fn a_host_whose_address_of_a_pool_is_used_up_moves_to_no_other() {
    for_workers([1, 2, 4], |setup| {
        let workers = u16::from(setup.workers);
        let last = 40_000 + 2 * workers - 1; // ports belong to workers in pairs
        let rule = format!(
            "-t nat -A POSTROUTING -o wan -p udp -j SNAT --to-source 203.0.113.8-203.0.113.11:40000-{last}"
        );
        let mut setup = setup.routed();
        setup.iptables(&rule);
        let mut fw = Firewall::with(setup);
        let mut used = HashSet::new();
        for pair in 0..workers {
            for place in 0..3 {
                let port = 5000 + pair * 2 + place * 2 * workers;
                let mut flow = Flow::outward(("192.168.1.2", port), "192.0.2.9:53");
                if place < 2 {
                    flow.exchange(&mut fw);
                    used.insert(flow.seen().ip());
                } else {
                    let sent = flow.try_c2s(&mut fw, &flow.ask());
                    assert_eq!(sent.dropped(), DropReason::PortsExhausted);
                }
            }
        }
        assert_eq!(used.len(), 1, "{used:?}");
    });
}
