//! IPv4 headers, TTL, MTU, malformed packets, the link layer.

use std::time::Duration;

use postern_core::forward::{NeighbourState, RouteKind};
use postern_core::units::Mac;
use postern_core::verdict::DropReason;
use postern_tests::packet::{Pkt, echo_request, icmp, tcp, udp};
use postern_tests::sent::{arp, frame};
use postern_tests::setup::{host_mac, interface_mac};
use postern_tests::wire::{mend_ip_checksum, set16};
use postern_tests::{Firewall, Flow, HOST_LAN, HOST_WAN, LAN, Setup, WAN, for_workers, moved};

const CLIENT: &str = "192.168.1.2:5000";
const SERVER: &str = "192.0.2.9:53";

/// An error that the appliance originates: RFC 1812 §4.3.2.5 says precedence 6; an atomic datagram.
fn own_error(src: &str, kind: u8, code: u8, rest: u32, about: &Pkt) -> Pkt {
    let mut quote = about.build();
    quote.truncate(576 - 28);
    icmp(src, about.src, kind, code, rest, &quote).tos(0xc0).id(0).df()
}

/// C140, C146
#[test]
fn only_ttl_is_lowered_and_tos_id_and_df_stay() {
    let mut fw = Firewall::new();
    let mut flow = Flow::outward(CLIENT, SERVER);
    for ttl in [2, 3, 64, 128, 255] {
        for tos in [0, 1, 2, 3, 0xb8, 0xff] {
            for id in [0, 1, 0xffff] {
                let there = flow.ask().ttl(ttl).tos(tos).id(id);
                flow.c2s(&mut fw, &there);
                flow.c2s(&mut fw, &there.df());
                flow.s2c(&mut fw, &flow.tell().ttl(ttl).tos(tos).id(id).df());
            }
        }
    }
}

/// C140: the incremental checksum is right for every value the header's checksum can have.
#[test]
fn the_header_checksum_is_right_whatever_it_was() {
    let mut fw = Firewall::new();
    let mut flow = Flow::outward(CLIENT, SERVER);
    for id in 0..=u16::MAX {
        flow.c2s(&mut fw, &flow.ask().id(id).unsummed());
    }
}

/// C141
#[test]
fn ttl_one_from_the_lan_is_answered_from_the_lan_address_and_not_forwarded() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        for pkt in [
            udp(CLIENT, SERVER).ttl(1).tos(0xb8 | 1),
            tcp(CLIENT, SERVER).syn().ttl(1),
            echo_request("192.168.1.2", "192.0.2.9", 1, 1).ttl(1),
        ] {
            let sent = fw.lan(&pkt);
            assert_eq!(sent.reason(), DropReason::TtlExceeded);
            let expected = own_error("192.168.1.1", 11, 0, 0, &pkt);
            assert_eq!(sent.answer(LAN), expected.tos(0xc0 | pkt.tos & 0x1c));
            moved!(fw, received: 1, forwarded: 1, generated: 1, TtlExceeded: 1);
        }
        assert!(fw.connections().is_empty());
    });
}

/// C141: also within a connection, and from outside, where the answer shows the WAN address only.
#[test]
fn ttl_one_within_a_connection_is_answered_too() {
    let mut fw = Firewall::new();
    let mut flow = Flow::outward(CLIENT, SERVER);
    flow.exchange(&mut fw);
    let there = flow.ask().ttl(1);
    assert_eq!(fw.lan(&there).answer(LAN), own_error("192.168.1.1", 11, 0, 0, &there));
    let back = flow.tell().ttl(1);
    assert_eq!(fw.wan(&back).answer(WAN), own_error("203.0.113.2", 11, 0, 0, &back));
    flow.exchange(&mut fw);
}

/// C140: what goes to the appliance itself may have TTL 1.
#[test]
fn ttl_one_to_the_appliance_itself_is_delivered_unchanged() {
    let mut fw = Firewall::new();
    let pkt = echo_request("192.168.1.2", "192.168.1.1", 1, 1).ttl(1);
    assert_eq!(fw.lan(&pkt).out(HOST_LAN), pkt);
}

/// C143
#[test]
fn ttl_zero_is_dropped() {
    let mut fw = Firewall::new();
    assert_eq!(fw.lan(udp(CLIENT, SERVER).ttl(0)).dropped(), DropReason::TtlZero);
    assert_eq!(fw.wan(udp(SERVER, "203.0.113.2:5000").ttl(0)).dropped(), DropReason::TtlZero);
}

/// C144
#[test]
fn source_routes_are_refused() {
    let mut fw = Firewall::new();
    for kind in [131, 137] {
        let route = [kind, 7, 4, 192, 168, 1, 9];
        for options in [route.to_vec(), [&[1, 1][..], &route].concat()] {
            let pkt = udp(CLIENT, SERVER).options(&options);
            assert_eq!(fw.lan(pkt).dropped(), DropReason::Ipv4SourceRoute);
            let pkt = udp(SERVER, "203.0.113.2:5000").options(&options);
            assert_eq!(fw.wan(pkt).dropped(), DropReason::Ipv4SourceRoute);
        }
    }
}

/// C144: other options cross as they are; malformed ones do not cross.
#[test]
fn harmless_options_cross_and_malformed_ones_do_not() {
    let mut fw = Firewall::new();
    let mut flow = Flow::outward(CLIENT, SERVER);
    for options in [&[1, 1, 1, 0][..], &[148, 4, 0, 0], &[7, 7, 4, 0, 0, 0, 0], &[0, 0, 0, 0]] {
        flow.c2s(&mut fw, &flow.ask().options(options));
        flow.s2c(&mut fw, &flow.tell().options(options));
    }
    for options in
        [&[7, 0, 0, 0][..], &[7, 1, 0, 0], &[7, 9, 4, 0], &[148, 200, 0, 0], &[1, 1, 1, 7]]
    {
        let sent = flow.try_c2s(&mut fw, &flow.ask().options(options));
        assert_eq!(sent.dropped(), DropReason::Ipv4Options, "{options:?}");
    }
}

/// C138
#[test]
fn too_big_with_df_is_answered_with_the_mtu_and_a_quote() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup.mtu(WAN, 1400));
        let mut flow = Flow::outward(CLIENT, SERVER);
        flow.c2s(&mut fw, &flow.ask().len(1400).df());
        let big = flow.ask().len(1401).df();
        let sent = fw.lan(&big);
        assert_eq!(sent.reason(), DropReason::MtuExceeded);
        assert_eq!(sent.answer(LAN), own_error("192.168.1.1", 3, 4, 1400, &big));
        let first = udp("192.168.1.3:5000", SERVER).len(1401).df();
        assert_eq!(fw.lan(&first).answer(LAN), own_error("192.168.1.1", 3, 4, 1400, &first));
        assert_eq!(fw.connections().len(), 1);
    });
}

/// C147: a second's worth of answers is bounded; the rest is silent.
#[test]
fn answers_are_rate_limited() {
    let mut fw = Firewall::new();
    let answers = |fw: &mut Firewall, packets: usize| {
        let pkt = udp(CLIENT, SERVER).ttl(1);
        (0..packets).filter(|_| !fw.lan(&pkt).is_silent()).count()
    };
    assert_eq!(answers(&mut fw, 500), 50);
    fw.pass(Duration::from_millis(10));
    assert_eq!(answers(&mut fw, 500), 10);
    fw.pass_secs(100);
    assert_eq!(answers(&mut fw, 500), 50);
    assert_eq!(fw.values().drops[DropReason::TtlExceeded as usize], 1500);
}

/// C147
#[test]
fn nothing_is_answered_about_errors_groups_or_broken_packets() {
    let mut fw = Firewall::new();
    let mut flow = Flow::outward(CLIENT, SERVER);
    let arrived = flow.c2s(&mut fw, &flow.ask());
    // An error, on its last hop.
    let error = icmp("192.0.2.9", "203.0.113.2", 3, 3, 0, &arrived.build()).ttl(1);
    assert_eq!(fw.wan(error).dropped(), DropReason::TtlExceeded);
    // To a group, by address or by frame.
    for dst in ["224.0.0.251:5353", "255.255.255.255:53"] {
        let sent = fw.lan(udp(CLIENT, dst).ttl(1));
        assert!(sent.outs.iter().all(|out| !out.generated), "{}", sent.describe());
    }
    let group =
        frame(Mac::BROADCAST, host_mac(flow.client.ip()), 0x0800, &flow.ask().ttl(1).build());
    assert!(fw.send_frame(LAN, &group).is_silent());
    // A wrong transport checksum.
    let mut broken = flow.ask().ttl(1).build();
    broken[26] ^= 1;
    assert!(fw.lan(broken).is_silent());
}

/// C147: no route and refusing routes are answered as they say.
#[test]
fn routes_that_refuse_are_answered_as_they_say() {
    let setup = Setup::default()
        .route("198.51.100.0/26", RouteKind::Unreachable, WAN, None)
        .route("198.51.100.64/26", RouteKind::Prohibit, WAN, None)
        .route("198.51.100.128/26", RouteKind::Blackhole, WAN, None);
    let mut fw = Firewall::with(setup);
    for (dst, code) in [("198.51.100.1:53", 1), ("198.51.100.65:53", 13)] {
        let pkt = udp(CLIENT, dst);
        let sent = fw.lan(&pkt);
        assert_eq!(sent.answer(LAN), own_error("192.168.1.1", 3, code, 0, &pkt));
        assert_eq!(sent.reason(), DropReason::RouteUnreachable);
    }
    assert_eq!(fw.lan(udp(CLIENT, "198.51.100.129:53")).dropped(), DropReason::RouteUnreachable);
    fw.change(|setup| setup.gateways.clear());
    let pkt = udp(CLIENT, SERVER);
    let sent = fw.lan(&pkt);
    assert_eq!(sent.answer(LAN), own_error("192.168.1.1", 3, 0, 0, &pkt));
    assert_eq!(sent.reason(), DropReason::NoRoute);
}

/// C147: a dead gateway, and a link that is down.
#[test]
fn a_dead_gateway_or_link_is_answered_host_unreachable() {
    let mut fw = Firewall::new();
    fw.neighbour(WAN, "203.0.113.1", NeighbourState::Failed);
    let pkt = udp(CLIENT, SERVER);
    let sent = fw.lan(&pkt);
    assert_eq!(sent.answer(LAN), own_error("192.168.1.1", 3, 1, 0, &pkt));
    assert_eq!(sent.reason(), DropReason::NeighbourFailed);
    fw.change(|setup| setup.interfaces[1].up = false);
    let pkt = udp("192.168.1.3:5000", SERVER);
    let sent = fw.lan(&pkt);
    assert_eq!(sent.answer(LAN), own_error("192.168.1.1", 3, 1, 0, &pkt));
    assert_eq!(sent.reason(), DropReason::InterfaceDown);
}

/// C161
#[test]
fn broken_headers_are_dropped() {
    let mut fw = Firewall::new();
    let mut check =
        |what: &str, reason: DropReason, break_it: &dyn Fn(&mut Vec<u8>), mend: bool| {
            for (at, pkt) in [(LAN, udp(CLIENT, SERVER)), (WAN, udp(SERVER, "203.0.113.2:5000"))] {
                let mut bytes = pkt.build();
                break_it(&mut bytes);
                if mend {
                    mend_ip_checksum(&mut bytes);
                }
                let frame = fw.frame(at, &pkt.build());
                let frame = [&frame[..14], &bytes].concat();
                assert_eq!(fw.send_frame(at, &frame).dropped(), reason, "{what} at {at:?}");
            }
        };
    let header = DropReason::Ipv4Header;
    check("checksum", DropReason::Ipv4Checksum, &|b| b[10] ^= 1, false);
    for ihl in 0..5 {
        check("IHL below five", header, &|b| b[0] = 0x40 | ihl, true);
    }
    check("IHL past the end", header, &|b| b[0] = 0x4f, true);
    for len in [0, 19] {
        check("total length below the header", header, &|b| set16(b, 2, len), true);
    }
    check("total length past the frame", header, &|b| set16(b, 2, 33), true);
    check("total length past the frame", header, &|b| set16(b, 2, 0xffff), true);
    for version in [0, 1, 5, 6, 15] {
        check("version", header, &|b| b[0] = version << 4 | 5, true);
    }
    for (at, ethertype) in [(LAN, 0x86dd), (WAN, 0x86dd)] {
        let mut bytes = fw.frame(at, &udp(CLIENT, SERVER).build());
        set16(&mut bytes, 12, ethertype);
        assert_eq!(fw.send_frame(at, &bytes).dropped(), DropReason::Ipv6Header);
    }
}

/// C161: what Ethernet pads a short packet with is not part of it.
#[test]
fn padding_behind_a_short_packet_is_ignored() {
    let mut fw = Firewall::new();
    let mut flow = Flow::outward(CLIENT, SERVER);
    let mut bytes = fw.frame(LAN, &flow.ask().build());
    bytes.resize(60, 0xee);
    assert_eq!(fw.send_frame(LAN, &bytes).out(WAN), flow.ask().from("203.0.113.2:5000").hop());
    flow.exchange(&mut fw);
}

/// C162
#[test]
fn frames_cut_at_every_byte_are_dropped() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        let mut flow = Flow::outward(CLIENT, SERVER);
        let arrived = flow.c2s(&mut fw, &flow.ask());
        let error = icmp("192.0.2.9", "203.0.113.2", 3, 3, 0, &arrived.build());
        for (at, pkt) in [
            (LAN, udp(CLIENT, SERVER)),
            (LAN, tcp(CLIENT, SERVER).syn().mss(1460).wscale(7).payload(b"hello")),
            (LAN, echo_request("192.168.1.2", "192.0.2.9", 1, 1)),
            (LAN, udp(CLIENT, SERVER).options(&[7, 7, 4, 0, 0, 0, 0])),
            (WAN, flow.tell()),
            (WAN, error),
        ] {
            let whole = fw.frame(at, &pkt.build());
            for len in 0..whole.len() {
                assert!(fw.send_frame(at, &whole[..len]).is_silent(), "{len} bytes of {pkt:?}");
            }
            assert_eq!(fw.send_frame(at, &whole).outs.len(), 1);
        }
    });
}

/// C162: and with lengths that fit the cut, so that the inner parsers see it.
#[test]
fn packets_cut_at_every_byte_and_otherwise_right_never_cross_by_halves() {
    let mut fw = Firewall::new();
    let mut flow = Flow::outward(CLIENT, SERVER);
    let arrived = flow.c2s(&mut fw, &flow.ask());
    let error = icmp("192.0.2.9", "203.0.113.2", 3, 3, 0, &arrived.build());
    let syn = tcp(CLIENT, SERVER).syn().mss(1460).wscale(7);
    for (at, pkt) in [(LAN, flow.ask().unsummed()), (LAN, syn), (WAN, error)] {
        let whole = pkt.build();
        for len in 20..whole.len() {
            let mut bytes = whole[..len].to_vec();
            set16(&mut bytes, 2, len as u16);
            mend_ip_checksum(&mut bytes);
            assert!(fw.send(at, bytes).is_silent(), "{len} bytes of {pkt:?}");
        }
    }
}

/// C167
#[test]
fn port_zero_is_dropped() {
    let mut fw = Firewall::new();
    for (src, dst) in [("192.168.1.2:0", SERVER), (CLIENT, "192.0.2.9:0")] {
        assert_eq!(fw.lan(udp(src, dst)).dropped(), DropReason::PortZero);
        assert_eq!(fw.lan(tcp(src, dst).syn()).dropped(), DropReason::PortZero);
    }
    for (src, dst) in [("192.0.2.9:0", "203.0.113.2:53"), (SERVER, "203.0.113.2:0")] {
        assert_eq!(fw.wan(udp(src, dst)).dropped(), DropReason::PortZero);
        assert_eq!(fw.wan(tcp(src, dst).syn()).dropped(), DropReason::PortZero);
    }
}

/// C169
#[test]
fn tagged_frames_are_not_forwarded() {
    let mut fw = Firewall::new();
    let plain = fw.frame(LAN, &udp(CLIENT, SERVER).build());
    for tpid in [0x8100u16, 0x88a8] {
        for vid in [0u16, 1, 100] {
            let tag = [tpid.to_be_bytes(), vid.to_be_bytes()].concat();
            let tagged = [&plain[..12], &tag, &plain[12..]].concat();
            assert_eq!(fw.send_frame(LAN, &tagged).dropped(), DropReason::VlanTagged);
        }
    }
    for ethertype in [0x0000, 0x0600, 0x8035, 0x8847, 0x8863, 0x8864, 0x9000, 0xffff] {
        let mut strange = plain.clone();
        set16(&mut strange, 12, ethertype);
        assert_eq!(fw.send_frame(LAN, &strange).dropped(), DropReason::UnknownEtherType);
    }
}

/// C170
#[test]
fn frames_to_foreign_or_group_addresses_are_not_forwarded() {
    let mut setup = Setup::default();
    setup.interfaces[0].promiscuous = true;
    for setup in [Setup::default(), setup] {
        let mut fw = Firewall::with(setup);
        let pkt = udp(CLIENT, SERVER);
        for dst in [Mac([2, 0xaa, 0, 0, 0, 1]), Mac::BROADCAST, Mac([1, 0, 0x5e, 0, 0, 1])] {
            let bytes = frame(dst, host_mac(pkt.src), 0x0800, &pkt.build());
            assert_eq!(fw.send_frame(LAN, &bytes).dropped(), DropReason::ForeignMac, "{dst}");
        }
        assert!(fw.connections().is_empty());
        fw.lan(&pkt).out(WAN);
        // Within a connection too.
        for dst in [Mac([2, 0xaa, 0, 0, 0, 1]), Mac::BROADCAST] {
            let bytes = frame(dst, host_mac(pkt.src), 0x0800, &pkt.build());
            assert_eq!(fw.send_frame(LAN, &bytes).dropped(), DropReason::ForeignMac, "{dst}");
        }
    }
}

/// C171
#[test]
fn arp_crosses_between_wire_and_host_and_never_between_wires() {
    let mut fw = Firewall::new();
    let (host, ours) = (host_mac([192, 168, 1, 2].into()), interface_mac(LAN.interface()));
    let none = Mac::default();
    let question = arp(1, (host, [192, 168, 1, 2]), (none, [192, 168, 1, 1]));
    let sent = fw.send_frame(LAN, &frame(Mac::BROADCAST, host, 0x0806, &question));
    assert_eq!(sent.outs.iter().map(|out| out.at).collect::<Vec<_>>(), [HOST_LAN]);
    let answer = arp(2, (ours, [192, 168, 1, 1]), (host, [192, 168, 1, 2]));
    let sent = fw.send_frame(HOST_LAN, &frame(host, ours, 0x0806, &answer));
    assert_eq!(sent.outs.iter().map(|out| out.at).collect::<Vec<_>>(), [LAN]);
    moved!(fw, received: 1, delivered: 1, from_host: 1, forwarded: 1);
    // Claims of our own address, and from off the subnet, do not get as far as the host.
    for (operation, sender) in
        [(1, [192, 168, 1, 1]), (2, [192, 168, 1, 1]), (1, [10, 0, 0, 1]), (2, [203, 0, 113, 9])]
    {
        let claim = arp(operation, (host, sender), (none, [192, 168, 1, 1]));
        let sent = fw.send_frame(LAN, &frame(ours, host, 0x0806, &claim));
        assert_eq!(sent.dropped(), DropReason::ArpInvalid, "{operation} {sender:?}");
    }
}

/// C171
#[test]
fn five_thousand_random_arp_frames_do_no_harm() {
    let mut fw = Firewall::new();
    let mut state = 0x1234_5678_9abc_def0u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    for round in 0..5000 {
        let mut body = arp(1, (Mac([2; 6]), [192, 168, 1, 9]), (Mac::default(), [192, 168, 1, 1]));
        for byte in &mut body {
            if random() < 60 {
                *byte = random();
            }
        }
        body.truncate(if round % 3 == 0 { usize::from(random()) % 29 } else { 28 });
        let sent = fw.send_frame(LAN, &frame(Mac::BROADCAST, Mac([2; 6]), 0x0806, &body));
        assert!(sent.outs.iter().all(|out| out.at == HOST_LAN));
    }
    Flow::outward(CLIENT, SERVER).exchange(&mut fw);
}

/// C172
#[test]
fn oversized_and_runt_frames_are_counted_and_dropped() {
    let mut fw = Firewall::new();
    let mut flow = Flow::outward(CLIENT, SERVER);
    for len in [1501, 3000, 9000] {
        let sent = fw.lan(flow.ask().len(len));
        assert_eq!(sent.dropped(), DropReason::FrameTooBig, "{len}");
    }
    for len in 0..14 {
        let sent = fw.send_frame(WAN, &vec![0xff; len]);
        assert_eq!(sent.dropped(), DropReason::TruncatedEthernet, "{len}");
    }
    flow.c2s(&mut fw, &flow.ask().len(1500));
    flow.exchange(&mut fw);
}

/// C162: whatever comes, nobody panics and the books balance.
#[test]
fn random_bytes_behind_right_headers_do_no_harm() {
    let mut fw = Firewall::new();
    let flow = Flow::outward(CLIENT, SERVER).open(&mut fw);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as usize % below
    };
    fw.private_may_leave = true; // a broken quote may show anything
    for _ in 0..20_000 {
        let (at, pkt) = match random(5) {
            0 => (LAN, flow.client_segment().mss(9)),
            1 => (WAN, flow.server_segment().payload(b"xyz")),
            2 => (
                WAN,
                icmp(
                    "192.0.2.9",
                    "203.0.113.2",
                    3,
                    3,
                    0,
                    &flow.at_server(&flow.client_segment()).build(),
                ),
            ),
            3 => (LAN, udp(CLIENT, SERVER).options(&[7, 7, 4, 0, 0, 0, 0])),
            _ => (HOST_WAN, udp("203.0.113.2:99", SERVER)),
        };
        let mut bytes = pkt.build();
        for _ in 0..1 + random(3) {
            let at = random(bytes.len());
            bytes[at] = random(256) as u8;
        }
        if random(2) == 0 {
            bytes.truncate(random(bytes.len()) + 1);
        }
        if bytes.len() >= 20 && random(2) == 0 {
            mend_ip_checksum(&mut bytes);
        }
        fw.send_no_looks(at, bytes);
    }
    let mut fresh = Flow::outward("192.168.1.77:5000", "192.0.2.77:80").open(&mut fw);
    fresh.talk(&mut fw);
}
