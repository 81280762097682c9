//! IPv6: a stateful filter without translation.

use postern_core::units::Mac;
use postern_core::verdict::DropReason;
use postern_tests::packet::{Pkt, echo_reply, echo_request, icmp, tcp, udp};
use postern_tests::sent::frame;
use postern_tests::setup::{host_mac, interface_mac};
use postern_tests::wire::set16;
use postern_tests::{Firewall, Flow, HOST_LAN, HOST_WAN, LAN, Setup, WAN, for_workers, moved};

const CLIENT: &str = "[2001:db8:1::2]:5000";
const SERVER: &str = "[2001:db8:9::9]:53";

/// An error that the appliance originates, quoting as much as 1280 bytes hold.
fn own_error(src: &str, kind: u8, code: u8, rest: u32, about: &Pkt) -> Pkt {
    let mut quote = about.build();
    quote.truncate(1280 - 48);
    icmp(src, about.src, kind, code, rest, &quote).id(0)
}

/// C148
#[test]
fn udp_and_tcp_go_out_and_back_with_nothing_changed_but_the_hop_limit() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        let mut flow = Flow::outward(CLIENT, SERVER);
        flow.exchange(&mut fw);
        assert_eq!(flow.seen(), flow.client);
        moved!(fw, received: 2, forwarded: 2, tracked: 2, connections_new: 1, rerouted: 1, rejudged: 1);
        let mut tcp = Flow::outward(CLIENT, SERVER).open(&mut fw);
        tcp.talk(&mut fw);
        tcp.client_fin(&mut fw);
        tcp.server_fin(&mut fw);
        assert_eq!(tcp.seen(), tcp.client);
    });
}

/// C148
#[test]
fn echo_goes_out_and_back() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        for host in ["2001:db8:1::2", "2001:db8:1::3"] {
            let ask = echo_request(host, "2001:db8:9::9", 7, 1);
            assert_eq!(fw.lan(&ask).out(WAN), ask.hop());
            let answer = echo_reply("2001:db8:9::9", host, 7, 1);
            assert_eq!(fw.wan(&answer).out(LAN), answer.hop());
        }
    });
}

/// C149
#[test]
fn unsolicited_packets_from_outside_are_dropped() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        for dst in ["2001:db8:1::2", "2001:db8:2::2"] {
            for pkt in [
                udp(SERVER, (dst, 5000)),
                tcp(SERVER, (dst, 80)).syn(),
                echo_request("2001:db8:9::9", dst, 1, 1),
            ] {
                assert_eq!(fw.wan(pkt).dropped(), DropReason::DeniedByPolicy);
            }
            for pkt in [tcp(SERVER, (dst, 80)).syn().ack(1), tcp(SERVER, (dst, 80)).ack(1)] {
                assert_eq!(fw.wan(pkt).dropped(), DropReason::TcpNotSyn);
            }
            let reply = echo_reply("2001:db8:9::9", dst, 1, 1);
            assert_eq!(fw.wan(reply).dropped(), DropReason::IcmpNotQuery);
        }
        assert!(fw.connections().is_empty());
    });
}

/// C150
#[test]
fn packet_too_big_crosses_for_a_live_flow_and_not_otherwise() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        let mut flow = Flow::outward(CLIENT, SERVER).open(&mut fw);
        let big = flow.client_segment().len(1500);
        let arrived = flow.c2s(&mut fw, &big);
        let report = |about: &Pkt| {
            let mut quote = about.build();
            quote.truncate(1232);
            icmp("2001:db8:5::1", about.src, 2, 0, 1400, &quote)
        };
        assert_eq!(fw.wan(report(&arrived)).out(LAN), report(&arrived).hop());
        let stranger = Pkt { dst: "2001:db8:9::8".parse().unwrap(), ..arrived };
        assert_eq!(fw.wan(report(&stranger)).dropped(), DropReason::IcmpErrorUnrelated);
        flow.talk(&mut fw);
    });
}

/// C150: the other errors, those of a type that is yet unknown included (RFC 4443 §2.4), and those of the host inside.
#[test]
fn errors_about_live_flows_cross_both_ways() {
    let mut fw = Firewall::new();
    let mut flow = Flow::outward(CLIENT, SERVER);
    let arrived = flow.c2s(&mut fw, &flow.ask());
    for (kind, code) in [(1, 0), (1, 3), (1, 4), (3, 0), (4, 1), (0, 0), (100, 0), (127, 0)] {
        let report = icmp("2001:db8:5::1", "2001:db8:1::2", kind, code, 0, &arrived.build());
        assert_eq!(fw.wan(&report).out(LAN), report.hop());
    }
    let received = flow.s2c(&mut fw, &flow.tell());
    let report = icmp("2001:db8:1::2", "2001:db8:9::9", 1, 4, 0, &received.build());
    assert_eq!(fw.lan(&report).out(WAN), report.hop());
    for len in [0, 1, 39, 40, 47] {
        let report = icmp("2001:db8:5::1", "2001:db8:1::2", 1, 4, 0, &arrived.build()[..len]);
        assert_eq!(fw.wan(report).dropped(), DropReason::IcmpErrorQuote, "{len} bytes");
    }
}

/// C151
#[test]
fn hop_limit_one_is_answered_with_time_exceeded() {
    let mut fw = Firewall::new();
    let pkt = udp(CLIENT, SERVER).ttl(1);
    let sent = fw.lan(&pkt);
    assert_eq!(sent.answer(LAN), own_error("2001:db8:1::1", 3, 0, 0, &pkt));
    assert_eq!(sent.reason(), DropReason::TtlExceeded);
    assert_eq!(fw.lan(udp(CLIENT, SERVER).ttl(0)).dropped(), DropReason::TtlZero);
    assert!(fw.connections().is_empty());
}

/// C152
#[test]
fn too_big_is_answered_with_the_mtu_and_never_fragmented() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup.mtu(WAN, 1400));
        let mut flow = Flow::outward(CLIENT, SERVER);
        flow.c2s(&mut fw, &flow.ask().len(1400));
        for pkt in [flow.ask().len(1401), udp("[2001:db8:1::3]:1", SERVER).len(1500)] {
            let sent = fw.lan(&pkt);
            assert_eq!(sent.answer(LAN), own_error("2001:db8:1::1", 2, 0, 1400, &pkt));
            assert_eq!(sent.reason(), DropReason::MtuExceeded);
        }
    });
}

/// C156
#[test]
fn addresses_that_are_nobodys_or_the_links_are_not_forwarded() {
    let mut fw = Firewall::new();
    let not_forwarded = |fw: &mut Firewall, at, src: &str, dst: &str| {
        let sent = fw.send(at, udp((src, 5000), (dst, 53)));
        let wires = sent.outs.iter().filter(|out| matches!(out.at, postern_tests::At::Wire(_)));
        assert_eq!(wires.count(), 0, "{src} > {dst}: {}", sent.describe());
        sent
    };
    for at in [LAN, WAN] {
        for src in ["fe80::1", "ff02::1", "ff0e::1", "::1", "::", "::ffff:192.0.2.1", "::192.0.2.1"]
        {
            not_forwarded(
                &mut fw,
                at,
                src,
                if at == LAN { "2001:db8:9::9" } else { "2001:db8:1::2" },
            );
        }
        for dst in ["fe80::1", "ff02::1", "ff05::2", "ff0e::1", "::1", "::", "::ffff:192.0.2.1"] {
            not_forwarded(
                &mut fw,
                at,
                if at == LAN { "2001:db8:1::2" } else { "2001:db8:9::9" },
                dst,
            );
        }
    }
    // Our own prefix from outside, and a foreign one from inside.
    let sent = not_forwarded(&mut fw, WAN, "2001:db8:1::3", "2001:db8:1::2");
    assert_eq!(sent.dropped(), DropReason::ReversePath);
    let sent = not_forwarded(&mut fw, LAN, "2001:db8:9::3", "2001:db8:9::9");
    assert_eq!(sent.dropped(), DropReason::ReversePath);
    for ours in ["2001:db8:1::1", "2001:db8:2::2"] {
        for at in [LAN, WAN] {
            let sent = not_forwarded(&mut fw, at, ours, "2001:db8:9::9");
            assert_eq!(sent.dropped(), DropReason::MartianSource);
        }
    }
}

/// C157
#[test]
fn a_payload_length_beyond_the_frame_is_dropped() {
    let mut fw = Firewall::new();
    for more in [1, 100, 60_000] {
        let mut bytes = udp(CLIENT, SERVER).build();
        let len = bytes.len() as u16 - 40;
        set16(&mut bytes, 4, len + more);
        assert_eq!(fw.lan(bytes).dropped(), DropReason::Ipv6Header);
    }
}

/// C162
#[test]
fn frames_cut_at_every_byte_are_dropped() {
    let mut fw = Firewall::new();
    let mut flow = Flow::outward(CLIENT, SERVER);
    let arrived = flow.c2s(&mut fw, &flow.ask());
    let error = icmp("2001:db8:5::1", "2001:db8:1::2", 1, 4, 0, &arrived.build());
    let extended = udp(CLIENT, SERVER).extension(60, &[0, 1, 4, 0, 0, 0, 0]);
    let syn = tcp(CLIENT, SERVER).syn().mss(1440);
    for (at, pkt) in
        [(LAN, udp(CLIENT, SERVER)), (LAN, extended), (LAN, syn), (WAN, flow.tell()), (WAN, error)]
    {
        let whole = fw.frame(at, &pkt.build());
        for len in 0..whole.len() {
            assert!(fw.send_frame(at, &whole[..len]).is_silent(), "{len} bytes of {pkt:?}");
        }
        for len in 40..whole.len() - 14 {
            let mut bytes = whole[14..14 + len].to_vec();
            set16(&mut bytes, 4, (len - 40) as u16);
            assert!(fw.send(at, bytes).is_silent(), "{len} bytes of {pkt:?}");
        }
        assert_eq!(fw.send_frame(at, &whole).outs.len(), 1);
    }
}

/// C148: extension headers are walked over and cross as they are; type 0 routing headers do not (RFC 5095).
#[test]
fn extension_headers_cross_but_for_deprecated_ones() {
    let mut fw = Firewall::new();
    let mut flow = Flow::outward(CLIENT, SERVER);
    let padding = &[0, 1, 4, 0, 0, 0, 0];
    for kind in [0, 60] {
        flow.c2s(&mut fw, &flow.ask().extension(kind, padding));
        flow.s2c(&mut fw, &flow.tell().extension(kind, padding));
    }
    let type0 = flow.ask().extension(43, &[0, 0, 1, 0, 0, 0, 0]);
    assert_eq!(fw.lan(type0).dropped(), DropReason::Ipv6Extension);
    let late_hop_by_hop = flow.ask().extension(60, padding).extension(0, padding);
    assert_eq!(fw.lan(late_hop_by_hop).dropped(), DropReason::Ipv6Extension);
}

/// C042: IPv6 has no absent checksum (RFC 8200 §8.1).
#[test]
fn a_datagram_without_a_checksum_is_dropped() {
    let mut fw = Firewall::new();
    let sent = fw.lan(udp(CLIENT, SERVER).unsummed());
    assert_eq!(sent.dropped(), DropReason::TransportChecksum);
}

/// C159
#[test]
fn neighbour_discovery_stays_on_its_link_and_spoofs_do_not_get_to_the_host() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        let group = |last: u8| Mac([0x33, 0x33, 0, 0, 0, last]);
        for (at, host_at, src) in [(LAN, HOST_LAN, "fe80::9"), (WAN, HOST_WAN, "fe80::8")] {
            for kind in 133..=136 {
                let pkt = icmp(src, "ff02::1", kind, 0, 0, &[0; 16]);
                let bytes = |pkt: &Pkt| frame(group(1), host_mac(pkt.src), 0x86dd, &pkt.build());
                let right = pkt.clone().ttl(255);
                assert_eq!(fw.send_frame(at, &bytes(&right)).out(host_at), right);
                for ttl in [1, 64, 254] {
                    let sent = fw.send_frame(at, &bytes(&pkt.clone().ttl(ttl)));
                    assert_eq!(sent.dropped(), DropReason::NeighbourSpoof);
                }
                let mut broken = bytes(&right);
                broken[58] ^= 1;
                assert_eq!(fw.send_frame(at, &broken).dropped(), DropReason::NeighbourSpoof);
            }
            // From the host out.
            let own = icmp("fe80::1", "ff02::1", 134, 0, 0, &[0; 16]).ttl(255);
            let own_mac = interface_mac(at.interface());
            let sent = fw.send_frame(host_at, &frame(group(1), own_mac, 0x86dd, &own.build()));
            assert_eq!(sent.out(at), own);
        }
        // To somebody else, through us: never.
        let through = icmp("2001:db8:9::9", "2001:db8:1::2", 135, 0, 0, &[0; 16]).ttl(255);
        assert_eq!(fw.wan(through).dropped(), DropReason::NotForHost);
        assert!(fw.connections().is_empty());
    });
}

/// C161, C164
#[test]
fn broken_headers_and_checksums_are_dropped() {
    let mut fw = Firewall::new();
    for version in [0, 4, 5, 7, 15] {
        let mut bytes = fw.frame(LAN, &udp(CLIENT, SERVER).build());
        bytes[14] = version << 4;
        assert_eq!(fw.send_frame(LAN, &bytes).dropped(), DropReason::Ipv6Header);
    }
    for pkt in [
        udp(CLIENT, SERVER),
        tcp(CLIENT, SERVER).syn(),
        echo_request("2001:db8:1::2", "2001:db8:9::9", 1, 1),
    ] {
        let mut bytes = pkt.build();
        bytes[41] ^= 0x10; // a port's low byte, or the code
        assert_eq!(fw.lan(bytes).dropped(), DropReason::TransportChecksum, "{pkt:?}");
    }
    assert!(fw.connections().is_empty());
}

/// C099: forwards are for IPv6 too.
#[test]
fn a_forward_works_for_ipv6() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup.forward_tcp(8080, "[2001:db8:1::10]:80"));
        let mut f =
            Flow::inward("[2001:db8:9::7]:4000", "[2001:db8:2::2]:8080", "[2001:db8:1::10]:80");
        f.reopen(&mut fw);
        f.talk(&mut fw);
        assert_eq!(f.seen(), f.client);
    });
}

/// C147
#[test]
fn no_route_and_refusals_are_answered_in_icmpv6() {
    let mut setup = Setup::default();
    setup.gateways.clear();
    let mut fw = Firewall::with(setup);
    let pkt = udp(CLIENT, SERVER);
    assert_eq!(fw.lan(&pkt).answer(LAN), own_error("2001:db8:1::1", 1, 0, 0, &pkt));
}
