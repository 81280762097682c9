//! Fragments, IPv4 and IPv6: gathered, translated, and cut on the way out.

use std::time::Duration;

use postern_core::forward::NeighbourState;
use postern_core::fragments::{SOURCE_MAX, WAITING_MAX};
use postern_core::verdict::DropReason;
use postern_tests::draw::Draw;
use postern_tests::fragments::{cut, cut_anywhere, cut_to, fragment, reassemble};
use postern_tests::packet::{Pkt, echo_reply, echo_request, icmp, other, tcp, udp};
use postern_tests::wire::{get16, mend_ip_checksum, set16};
use postern_tests::{
    At, Firewall, Flow, HOST_LAN, HOST_WAN, LAN, Sent, Setup, WAN, for_workers, moved,
};

const CLIENT: &str = "192.168.1.2:5000";
const SERVER: &str = "192.0.2.9:53";
const US: &str = "203.0.113.2:5000";
const CLIENT6: &str = "[2001:db8:1::2]:5000";
const SERVER6: &str = "[2001:db8:9::9]:53";

/// Sends fragments one by one; all that came out.
fn send_all(fw: &mut Firewall, at: At, fragments: &[Vec<u8>]) -> Sent {
    let mut all = Sent::default();
    for bytes in fragments {
        let sent = fw.send(at, bytes.clone());
        all.outs.extend(sent.outs);
        all.drops.extend(sent.drops);
        all.verdicts.extend(sent.verdicts);
    }
    all
}

/// What came out at `at`, put together: every length and checksum in it is right.
#[track_caller]
fn whole(sent: &Sent, at: At) -> Pkt {
    assert!(sent.outs.iter().all(|out| out.at == at), "{}", sent.describe());
    let fragments: Vec<_> = sent.outs.iter().map(|out| out.l3().to_vec()).collect();
    let bytes = reassemble(&fragments).unwrap_or_else(|why| panic!("{why}: {}", sent.describe()));
    Pkt::decode(&bytes).unwrap_or_else(|why| panic!("{why}"))
}

/// Why fragments were dropped, in no order.
#[track_caller]
fn dropped(sent: &Sent, expected: &[DropReason]) {
    let sorted = |reasons: &[DropReason]| {
        let mut reasons = reasons.to_vec();
        reasons.sort();
        reasons
    };
    assert_eq!(sorted(&sent.drops), sorted(expected), "{}", sent.describe());
}

/// Sizes of what came out, and which is first.
fn sizes(sent: &Sent) -> Vec<usize> {
    sent.outs.iter().map(|out| out.l3().len()).collect()
}

#[derive(Clone, Copy, Debug)]
enum Order {
    Kept,
    Reversed,
    Drawn,
}

fn order(mut fragments: Vec<Vec<u8>>, order: Order, draw: &mut Draw) -> Vec<Vec<u8>> {
    match order {
        Order::Kept => {}
        Order::Reversed => fragments.reverse(),
        Order::Drawn => (1..fragments.len()).for_each(|i| fragments.swap(i, draw.below(i + 1))),
    }
    fragments
}

/// C126, C127, C129: datagrams of every protocol, both ways, whatever order their fragments come in.
#[test]
fn fragments_cross_both_ways_in_any_order_and_make_the_datagram_again() {
    for_workers([1, 2, 4], |setup| {
        let mut draw = Draw::new(setup.seed);
        let mut fw = Firewall::with(setup);
        let there = [
            udp(CLIENT, SERVER).len(8_228),
            echo_request("192.168.1.2", "192.0.2.9", 77, 1).len(4_028),
            other("192.168.1.2", "192.0.2.9", 47, &[7; 3_000]),
        ];
        let back = [
            udp(SERVER, US).len(8_228),
            echo_reply("192.0.2.9", "203.0.113.2", 77, 1).len(4_028),
            other("192.0.2.9", "203.0.113.2", 47, &[8; 3_000]),
        ];
        for round in 0..3u16 {
            for how in [Order::Kept, Order::Reversed, Order::Drawn] {
                for (there, back) in there.iter().zip(&back) {
                    let id = draw.bits() as u16;
                    let there = there.clone().id(id);
                    let cut = cut_to(&there.build(), 0, 1500 - usize::from(round) * 100);
                    let sent = send_all(&mut fw, LAN, &order(cut.clone(), how, &mut draw));
                    let mut expected = there.clone().hop();
                    expected.src = "203.0.113.2".parse().unwrap();
                    assert_eq!(whole(&sent, WAN), expected, "{how:?}");
                    let lens: Vec<_> = cut.iter().map(Vec::len).collect();
                    assert_eq!(sizes(&sent), lens, "as they were sent, the first one first");

                    let back = back.clone().id(id ^ 1);
                    let cut = cut_to(&back.build(), 0, 1500);
                    let sent = send_all(&mut fw, WAN, &order(cut, how, &mut draw));
                    let mut expected = back.clone().hop();
                    expected.dst = "192.168.1.2".parse().unwrap();
                    assert_eq!(whole(&sent, LAN), expected, "{how:?}");
                }
            }
        }
        assert_eq!(fw.connections().len(), 3);
    });
}

/// C126: a datagram of the largest size.
#[test]
fn the_largest_datagram_crosses() {
    let mut fw = Firewall::new();
    let pkt = udp(CLIENT, SERVER).len(65_535);
    let sent = send_all(&mut fw, LAN, &cut_to(&pkt.build(), 0, 1500));
    assert_eq!(whole(&sent, WAN), pkt.from(US).hop());
    assert_eq!(sent.outs.len(), 45);
}

/// C153
#[test]
fn ipv6_fragments_cross_in_order_and_reversed() {
    for_workers([1, 2, 4], |setup| {
        let mut draw = Draw::new(setup.seed);
        let mut fw = Firewall::with(setup);
        for how in [Order::Kept, Order::Reversed, Order::Drawn] {
            let id = draw.bits() as u32;
            for (there, back) in [
                (udp(CLIENT6, SERVER6).len(5_000), udp(SERVER6, CLIENT6).len(6_000)),
                (
                    echo_request("2001:db8:1::2", "2001:db8:9::9", 9, 1).len(4_000),
                    echo_reply("2001:db8:9::9", "2001:db8:1::2", 9, 1).len(4_000),
                ),
                // With extension headers of the datagram's own, which are cut with it.
                (
                    udp(CLIENT6, SERVER6).len(3_000).extension(60, &[0, 1, 4, 0, 0, 0, 0]),
                    udp(SERVER6, CLIENT6).len(3_000).extension(60, &[0, 1, 4, 0, 0, 0, 0]),
                ),
            ] {
                let fragments = order(cut_to(&there.build(), id, 1280), how, &mut draw);
                assert_eq!(whole(&send_all(&mut fw, LAN, &fragments), WAN), there.hop());
                let fragments = order(cut_to(&back.build(), id, 1500), how, &mut draw);
                assert_eq!(whole(&send_all(&mut fw, WAN, &fragments), LAN), back.hop());
            }
        }
        assert_eq!(fw.connections().len(), 2);
    });
}

/// C153; RFC 6946: what has a fragment header and is all of it waits for nothing, and meets no other fragment.
#[test]
fn an_atomic_fragment_is_a_packet() {
    let mut fw = Firewall::new();
    let pkt = udp(CLIENT6, SERVER6).extension(44, &[0, 0, 0, 0, 0, 0, 1]);
    let first = &cut_to(&udp(CLIENT6, SERVER6).len(2_000).build(), 1, 1280)[0];
    fw.lan(first.clone());
    fw.take_moved();
    assert_eq!(fw.lan(&pkt).out(WAN), pkt.hop());
    moved!(fw, received: 1, forwarded: 1, tracked: 1, connections_new: 1);
}

/// C126, C127, C153: random datagrams, cut anywhere, shuffled, with duplicates, many at once.
#[test]
fn random_datagrams_cut_anywhere_arrive_as_they_were_sent() {
    for_workers([1, 2, 4], |setup| {
        let mut draw = Draw::new(setup.seed ^ 0xf4a6);
        let mut fw = Firewall::with(setup.capacity(4_096));
        for round in 0..60u32 {
            // A few datagrams of different hosts, their fragments in between each other.
            let mut fragments = Vec::new();
            let mut expected = Vec::new();
            for host in 0..4u8 {
                let v6 = draw.below(2) == 1;
                let (client, server) = (draw.port(), draw.port());
                let inside = 10 + host;
                let pkt = if v6 {
                    let client = format!("[2001:db8:1::{inside}]:{client}");
                    udp(&client[..], (SERVER6_ADDRESS, server))
                } else {
                    let client = format!("192.168.1.{inside}:{client}");
                    udp(&client[..], ("192.0.2.9", server))
                };
                let pkt = pkt.len(100 + draw.below(3_000)).id(draw.bits() as u16);
                let count = 2 + draw.below(12);
                let these = cut_anywhere(&pkt.build(), round, count, 8, &mut draw);
                if these.len() < 2 {
                    continue;
                }
                for bytes in these {
                    // Cut anywhere, one may be longer than the link allows.
                    if bytes.len() <= 1500 {
                        fragments.push(bytes);
                    } else {
                        fragments.clear();
                    }
                }
                expected.push(pkt);
            }
            if fragments.iter().map(Vec::len).sum::<usize>() == 0 {
                continue;
            }
            let again: Vec<_> = (0..draw.below(4)).map(|_| draw.of(&fragments).clone()).collect();
            let fragments = order([fragments, again].concat(), Order::Drawn, &mut draw);
            let sent = send_all(&mut fw, LAN, &fragments);
            check_round(&sent, &expected);
            fw.pass_secs(61);
        }
    });
}

const SERVER6_ADDRESS: &str = "2001:db8:9::9";

/// Each datagram that came out is one of those sent, translated.
fn check_round(sent: &Sent, expected: &[Pkt]) {
    let mut by_datagram: Vec<(Vec<u8>, Vec<Vec<u8>>)> = Vec::new();
    for out in &sent.outs {
        let l3 = out.l3();
        let key = match l3[0] >> 4 {
            4 => [&l3[4..6], &l3[12..20]].concat(),
            _ => [&l3[8..40], &l3[44..48]].concat(),
        };
        match by_datagram.iter_mut().find(|(known, _)| *known == key) {
            Some((_, fragments)) => fragments.push(l3.to_vec()),
            None => by_datagram.push((key, vec![l3.to_vec()])),
        }
    }
    for (_, fragments) in by_datagram {
        let bytes = reassemble(&fragments).unwrap_or_else(|why| panic!("{why}"));
        let pkt = Pkt::decode(&bytes).unwrap_or_else(|why| panic!("{why}"));
        let is_it = |sent: &&Pkt| sent.id == pkt.id && sent.dst == pkt.dst;
        let sent = expected.iter().find(is_it).expect("one of those sent");
        let expected = if sent.src.is_ipv4() {
            sent.clone().from(("203.0.113.2", pkt.source().port()))
        } else {
            sent.clone()
        };
        assert_eq!(pkt, expected.hop());
    }
}

/// C126: two hosts behind one address: the port is translated in the first fragment, the checksum over all is right.
#[test]
fn translated_ports_and_absent_checksums() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        let first = udp(CLIENT, SERVER).len(3_000).id(1);
        let second = udp("192.168.1.3:5000", SERVER).len(3_000).id(1);
        let unsummed = udp("192.168.1.3:5000", SERVER).len(3_000).id(2).unsummed();
        let a = whole(&send_all(&mut fw, LAN, &cut_to(&first.build(), 0, 1500)), WAN);
        let b = whole(&send_all(&mut fw, LAN, &cut_to(&second.build(), 0, 1500)), WAN);
        let c = whole(&send_all(&mut fw, LAN, &cut_to(&unsummed.build(), 0, 1500)), WAN);
        assert_eq!(a, first.from(US).hop());
        assert_ne!(b.source().port(), 5000);
        assert_eq!(b, second.from(b.source()).hop());
        assert_eq!(c, unsummed.from(b.source()).hop(), "an absent checksum stays absent");
        // And back.
        let answer = udp(SERVER, b.source()).len(5_000).id(9);
        let sent = send_all(&mut fw, WAN, &cut_to(&answer.build(), 0, 1500));
        assert_eq!(whole(&sent, LAN), answer.to("192.168.1.3:5000").hop());
    });
}

/// C126: a segment in fragments is judged by its header, and by all of its length.
#[test]
fn a_tcp_segment_in_fragments_moves_the_window_by_all_of_it() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        let mut flow = Flow::outward(CLIENT, "192.0.2.9:80").open(&mut fw);
        let [seq, ack] = flow.seq;
        let segment = tcp(flow.client, flow.server).may_fragment().ack(ack).seq(seq).len(3_040);
        for how in [Order::Kept, Order::Reversed] {
            let fragments = order(cut_to(&segment.build(), 0, 1500), how, &mut Draw::new(1));
            let sent = send_all(&mut fw, LAN, &fragments);
            assert_eq!(whole(&sent, WAN), flow.at_server(&segment));
        }
        // The server acknowledges all of it, which must have been seen.
        let acked = tcp(flow.server, flow.seen()).ack(seq + 3_000).seq(ack);
        flow.s2c(&mut fw, &acked);
        let too_much = tcp(flow.server, flow.seen()).ack(seq + 3_001).seq(ack);
        assert_eq!(fw.wan(&too_much).dropped(), DropReason::TcpAckUnsent);
    });
}

/// C130, C154: whichever comes first, overlapping fragments cost the whole datagram, and what still comes of it.
#[test]
fn overlapping_fragments_discard_the_datagram() {
    for_workers([1, 4], |setup| {
        let mut fw = Firewall::with(setup);
        let v4 = udp(CLIENT, SERVER).len(20 + 3_000);
        let v6 = udp(CLIENT6, SERVER6).len(40 + 3_000);
        let mut id = 1;
        for pkt in [v4, v6] {
            for (begin, end, how) in [
                (992, 1_000 + 8, "one eight of the one before"),
                (0, 1_000, "another first"),
                (0, 8, "a short first"),
                (1_000, 2_000, "the same, with other bytes"),
                (1_000, 1_008, "its head"),
                (1_992, 2_000, "its tail"),
                (1_200, 1_400, "its middle"),
                (800, 2_200, "all of it and more"),
                (2_000, 3_008, "beyond the end"),
                (3_008, 3_016, "behind the end"),
            ] {
                for place in 0..4 {
                    id += 1;
                    let pkt = pkt.clone().id(id);
                    let l3 = pkt.build();
                    let mut fragments = cut(&l3, id.into(), &[1_000, 2_000]);
                    let evil = fragment(&l3, id.into(), begin, &vec![0xee; end - begin], true);
                    fragments.insert(place, evil);
                    let sent = send_all(&mut fw, LAN, &fragments);
                    let whole_before = place == 3;
                    if whole_before {
                        // It had crossed: the late one waits for others in vain.
                        assert_eq!(sent.outs.len(), 3, "{how}");
                        continue;
                    }
                    assert!(sent.is_silent(), "{how}, {place}: {}", sent.describe());
                    dropped(&sent, &[DropReason::FragmentOverlap; 4]);
                }
            }
        }
        fw.pass_secs(60);
        assert_eq!(fw.values().held, fw.values().resumed);
    });
}

/// C130: two ends, or a part behind the end, are a contradiction like any overlap.
#[test]
fn fragments_that_disagree_about_the_length_discard_the_datagram() {
    let mut fw = Firewall::new();
    let l3 = udp(CLIENT, SERVER).len(20 + 3_000).build();
    let last = |begin: usize, len: usize| fragment(&l3, 0, begin, &vec![1; len], false);
    for (second, third) in [(last(2_000, 500), last(2_504, 8)), (last(2_504, 8), last(2_000, 500))]
    {
        let first = fragment(&l3, 0, 0, &l3[20..1_020], true);
        let sent = send_all(&mut fw, LAN, &[first, second, third]);
        dropped(&sent, &[DropReason::FragmentOverlap; 3]);
        fw.pass_secs(30);
    }
}

/// C130: the network may deliver a fragment twice.
#[test]
fn exact_duplicates_are_dropped_and_harm_nothing() {
    for (pkt, expected) in [
        (udp(CLIENT, SERVER).len(3_028), udp(US, SERVER).len(3_028).hop()),
        (udp(CLIENT6, SERVER6).len(3_028), udp(CLIENT6, SERVER6).len(3_028).hop()),
    ] {
        let mut fw = Firewall::new();
        let [a, b, c] = &cut_to(&pkt.build(), 5, 1300)[..] else { panic!() };
        let these = [a.clone(), a.clone(), c.clone(), c.clone(), a.clone(), b.clone()];
        let sent = send_all(&mut fw, LAN, &these);
        assert_eq!(whole(&sent, WAN), expected);
        dropped(&sent, &[DropReason::FragmentDuplicate; 3]);
    }
}

/// C131: teardrop, ping of death, lengths beyond 65535, empty and ill-cut fragments.
#[test]
fn broken_fragments_are_dropped_by_name() {
    let mut fw = Firewall::new();
    let l3 = echo_request("192.168.1.2", "192.0.2.9", 1, 1).len(1_020).build();
    let l6 = echo_request("2001:db8:1::2", "2001:db8:9::9", 1, 1).len(1_040).build();
    for l3 in [&l3, &l6] {
        let at = |offset: usize, len: usize, more| fragment(l3, 1, offset, &vec![0; len], more);
        for bytes in [
            at(65_528, 8, false),
            at(65_528, 100, false),
            at(65_504, 1_000, false),
            at(64_800, 800, true),
            at(0, 0, true),
            at(8, 0, false),
            at(8, 0, true),
            at(0, 9, true),
            at(800, 7, true),
        ] {
            let sent = fw.lan(bytes.clone());
            assert_eq!(sent.dropped(), DropReason::Fragment, "{bytes:02x?}");
        }
        // Teardrop: the second lies inside the first.
        let first = fragment(l3, 1, 0, &l3[l3.len() - 1_000..][..40], true);
        let sent = send_all(&mut fw, LAN, &[first, at(24, 4, false)]);
        dropped(&sent, &[DropReason::FragmentOverlap; 2]);
    }
    // The last byte that an IPv4 packet can have.
    fw.pass_secs(60);
    let last = fragment(&l3, 1, 65_504, &[0; 11], false);
    assert!(fw.lan(last).drops.is_empty(), "a last fragment that waits");
    assert!(fw.connections().is_empty());
}

/// C131; RFC 1858, RFC 7112: the headers that decide are in the first fragment, or nothing of it passes.
#[test]
fn a_first_fragment_without_the_whole_transport_header_is_refused() {
    let mut fw = Firewall::new();
    let syn = tcp(CLIENT, SERVER).may_fragment().syn().mss(1460).len(200);
    let udp6 = udp(CLIENT6, SERVER6).extension(60, &[0, 1, 4, 0, 0, 0, 0]).len(200);
    for (l3, at) in [
        (syn.build(), 8),
        (syn.build(), 16),
        // The options too: 24 bytes in all, so the header is there only from 24 on.
        (syn.build(), 16),
        (udp6.build(), 8),
    ] {
        let sent = send_all(&mut fw, LAN, &cut(&l3, 3, &[at]));
        dropped(&sent, &[DropReason::FragmentTiny, DropReason::FragmentRefused]);
        fw.pass_secs(60);
    }
    let sent = send_all(&mut fw, LAN, &cut(&syn.build(), 3, &[24]));
    assert_eq!(whole(&sent, WAN), syn.from(US).hop());
}

/// C132: without a first fragment that is let in, nothing comes in.
#[test]
fn later_fragments_without_a_first_never_cross() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        Flow::outward(CLIENT, SERVER).exchange(&mut fw);
        fw.take_moved();
        let answer = udp(SERVER, US).len(3_000).build();
        let [_, later @ ..] = &cut_to(&answer, 0, 1500)[..] else { panic!() };
        assert!(send_all(&mut fw, WAN, later).is_silent());
        fw.pass_secs(30);
        // The connection, too, was idle for so long.
        moved!(fw, received: 2, held: 2, resumed: 2, FragmentExpired: 2, connections_gone: 1);
    });
}

/// C132: the rest of a datagram does what its first fragment did.
#[test]
fn the_others_share_the_first_ones_fate() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        for (at, pkt, reason) in [
            (WAN, udp(SERVER, "203.0.113.2:9"), DropReason::DeniedByPolicy),
            (WAN, udp(SERVER, "192.168.1.2:9"), DropReason::DeniedByPolicy),
            (WAN, udp("192.168.1.9:53", US), DropReason::ReversePath),
            (LAN, tcp(CLIENT, "192.0.2.9:80").may_fragment().ack(1), DropReason::TcpNotSyn),
        ] {
            let sent = send_all(&mut fw, at, &cut_to(&pkt.len(4_000).build(), 0, 1500));
            assert!(sent.is_silent(), "{}", sent.describe());
            let refused = DropReason::FragmentRefused;
            dropped(&sent, &[reason, refused, refused]);
        }
        assert!(fw.connections().is_empty());
    });
}

/// C130: what is wrong in any of the fragments is seen in all of them.
#[test]
fn a_wrong_transport_checksum_over_all_fragments_is_invalid() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup.clone());
        for pkt in [udp(CLIENT, SERVER).len(3_000), udp(CLIENT6, SERVER6).len(3_000)] {
            let mut l3 = pkt.build();
            *l3.last_mut().unwrap() ^= 1;
            let sent = send_all(&mut fw, LAN, &cut_to(&l3, 0, 1500));
            dropped(&sent, &[DropReason::TransportChecksum; 3]);
        }
        assert!(fw.connections().is_empty());
        let mut trusting = setup;
        trusting.options.verify_checksums = false;
        let mut fw = Firewall::with(trusting);
        let mut l3 = udp(CLIENT, SERVER).len(3_000).build();
        *l3.last_mut().unwrap() ^= 1;
        let sent = send_all(&mut fw, LAN, &cut_to(&l3, 0, 1500));
        assert_eq!(sent.outs.len(), 3, "left for the receiver to find");
    });
}

/// C131: a datagram that says another length than it has.
#[test]
fn a_udp_length_that_is_not_the_datagrams_is_refused() {
    let mut fw = Firewall::new();
    let mut l3 = udp(CLIENT, SERVER).len(3_000).build();
    set16(&mut l3, 24, 2_000);
    let sent = send_all(&mut fw, LAN, &cut_to(&l3, 0, 1500));
    dropped(&sent, &[DropReason::TruncatedTransport; 3]);
}

/// C134: whatever one source sends, others have room; and so has whoever comes after any number of sources.
#[test]
fn a_flood_of_fragments_is_bounded_and_a_fresh_datagram_crosses() {
    for_workers([1, 2], |setup| {
        let workers = usize::from(setup.workers);
        let mut fw = Firewall::with(setup);
        let fresh = |fw: &mut Firewall, id: u16| {
            let pkt = udp(CLIENT, SERVER).len(8_000).id(id);
            let sent = send_all(fw, LAN, &cut_to(&pkt.build(), 0, 1500));
            assert_eq!(whole(&sent, WAN), pkt.from(US).hop());
        };
        let waiting = |fw: &Firewall| (fw.values().held - fw.values().resumed) as usize;
        // One source, many datagrams.
        for id in 0..2_000u16 {
            let l3 = udp("192.168.1.66:9", SERVER).len(2_000).id(id).build();
            fw.lan(cut_to(&l3, 0, 1500)[0].clone());
        }
        assert!(waiting(&fw) <= workers * SOURCE_MAX, "{}", waiting(&fw));
        fresh(&mut fw, 1);
        // One source, long datagrams without an end.
        for id in 0..100u16 {
            let l3 = udp("192.168.1.67:9", SERVER).len(60_000).id(id).build();
            let fragments = cut_to(&l3, 0, 1500);
            send_all(&mut fw, LAN, &fragments[..fragments.len() - 1]);
        }
        assert!(waiting(&fw) <= 2 * workers * SOURCE_MAX, "{}", waiting(&fw));
        fresh(&mut fw, 2);
        // One that waits through a flood of another source.
        let slow = udp("192.168.1.5:5000", SERVER).len(2_000).id(7);
        let [a, b] = &cut_to(&slow.build(), 0, 1500)[..] else { panic!() };
        assert!(fw.lan(a.clone()).is_silent());
        for id in 0..2_000u16 {
            let l3 = udp("192.168.1.66:9", SERVER).len(2_000).id(id).build();
            fw.lan(cut_to(&l3, 0, 1500)[0].clone());
        }
        let sent = fw.lan(b.clone());
        assert_eq!(sent.outs.len(), 2, "{}", sent.describe());
        // One that waits through a flood of any number of sources at the other side.
        assert!(fw.lan(a.clone()).is_silent());
        for n in 0..5_000u16 {
            let [x, y] = n.to_be_bytes();
            let source = format!("198.18.{x}.{y}:9");
            let l3 = udp(&source[..], US).len(2_000).id(n).build();
            fw.wan(cut_to(&l3, 0, 1500)[0].clone());
        }
        assert!(waiting(&fw) <= workers * WAITING_MAX, "{}", waiting(&fw));
        let sent = fw.lan(b.clone());
        assert_eq!(sent.outs.len(), 2, "{}", sent.describe());
        fresh(&mut fw, 3);
        fw.pass_secs(30);
        assert_eq!(waiting(&fw), 0, "none waits for ever");
        assert!(fw.values().drops[DropReason::FragmentLimit as usize] > 5_000);
    });
}

/// C134: more fragments than any honest sender makes.
#[test]
fn a_datagram_in_too_many_fragments_is_refused() {
    let mut fw = Firewall::new();
    let pkt = udp(CLIENT, SERVER).len(20 + 8 * 66);
    for (fragments, crosses) in [(64, true), (65, false)] {
        let at: Vec<_> = (1..fragments).map(|i| i * 8).collect();
        let sent = send_all(&mut fw, LAN, &cut(&pkt.build(), 0, &at));
        assert_eq!(sent.outs.len(), if crosses { 64 } else { 0 });
        assert_eq!(sent.drops.len(), if crosses { 0 } else { 65 });
        assert!(sent.drops.iter().all(|reason| *reason == DropReason::FragmentLimit));
    }
}

/// C135
#[test]
fn an_incomplete_datagram_expires_and_leaves_nothing() {
    for (pkt, seconds) in
        [(udp(CLIENT, SERVER).len(2_000), 30), (udp(CLIENT6, SERVER6).len(2_000), 60)]
    {
        let mut fw = Firewall::new();
        let [a, b] = &cut_to(&pkt.build(), 1, 1500)[..] else { panic!() };
        assert!(fw.lan(a.clone()).is_silent());
        fw.pass(Duration::from_secs(seconds) - Duration::from_millis(1));
        assert_eq!(fw.lan(b.clone()).outs.len(), 2, "just in time");
        fw.pass_secs(300);
        fw.take_moved();

        assert!(fw.lan(a.clone()).is_silent());
        fw.pass_secs(seconds);
        moved!(fw, received: 1, held: 1, resumed: 1, FragmentExpired: 1);
        // A late second is the first of another one that never is whole.
        assert!(fw.lan(b.clone()).is_silent());
        // What is over is so even if nobody tidied up.
        fw.pass_untidied(Duration::from_secs(seconds));
        let sent = fw.lan(a.clone());
        assert_eq!((sent.outs.len(), &sent.drops[..]), (0, &[DropReason::FragmentExpired][..]));
    }
}

/// C137: a packet for a smaller link is cut; what came in fragments too.
#[test]
fn what_is_too_long_and_may_be_fragmented_is_cut_to_the_mtu() {
    for_workers([1, 2], |setup| {
        for mtu in [68, 576, 1_006, 1_400, 1_499] {
            let mut fw = Firewall::with(setup.clone().mtu(WAN, mtu));
            let mut draw = Draw::new(mtu.into());
            for (len, id) in (0..40u16).map(|i| (29 + draw.below(1_472), i)).chain([(1_500, 99)]) {
                let pkt = udp(CLIENT, SERVER).len(len).id(id).tos(0xb9);
                let sent = fw.lan(&pkt);
                let expected = pkt.clone().from(US).hop();
                if len <= usize::from(mtu) {
                    assert_eq!(sent.out(WAN), expected);
                    continue;
                }
                assert_eq!(whole(&sent, WAN), expected);
                let step = (usize::from(mtu) - 20) & !7;
                assert_eq!(sent.outs.len(), (len - 20).div_ceil(step), "as few as can be");
                assert!(sizes(&sent).iter().all(|len| *len <= usize::from(mtu)));
            }
            let long = udp(CLIENT, SERVER).len(4_000).id(1_000);
            let sent = send_all(&mut fw, LAN, &cut_to(&long.build(), 0, 1500));
            assert_eq!(whole(&sent, WAN), long.from(US).hop());
            assert_eq!(fw.values().dropped(), 0);
        }
    });
}

/// C137: of the options, all fragments get those that say so (RFC 791 §3.1), the first one all.
#[test]
fn options_are_copied_into_the_parts_that_should_have_them() {
    let mut fw = Firewall::with(Setup::default().mtu(WAN, 600));
    // Router alert is copied, record route is not; a no-operation between them.
    let options = [1, 7, 7, 4, 0, 0, 0, 0, 148, 4, 0, 0];
    let pkt = udp(CLIENT, SERVER).options(&options).len(1_500);
    let sent = fw.lan(&pkt);
    let parts: Vec<_> = sent.outs.iter().map(|out| Pkt::read(out.l3()).unwrap()).collect();
    assert_eq!(parts[0].options, options);
    let mut payload: Vec<u8> = Vec::new();
    for (index, out) in sent.outs.iter().enumerate() {
        let l3 = out.l3();
        let mut mended = l3.to_vec();
        mend_ip_checksum(&mut mended);
        assert_eq!(mended, l3);
        assert!(l3.len() <= 600);
        assert_eq!(usize::from(get16(l3, 6) & 0x1fff) * 8, payload.len());
        assert_eq!(get16(l3, 6) & 0x2000 != 0, index + 1 < sent.outs.len());
        payload.extend(&l3[usize::from(l3[0] & 15) * 4..]);
    }
    assert!(parts[1..].iter().all(|part| part.options == [148, 4, 0, 0]));
    let mut expected = pkt.from(US).build();
    assert_eq!(payload, expected.split_off(32));
}

/// C137: counted as what it became.
#[test]
fn the_books_know_that_one_packet_became_several() {
    let mut fw = Firewall::with(Setup::default().mtu(WAN, 576));
    fw.lan(udp(CLIENT, SERVER).len(1_500));
    moved!(fw, received: 1, generated: 2, forwarded: 3, tracked: 1, connections_new: 1);
}

/// C138: with Don't Fragment the sender is told, about the first fragment only, and none crosses. C147
#[test]
fn fragments_that_may_not_be_cut_are_answered_once() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup.mtu(WAN, 1_400));
        let whole_one = udp(CLIENT, SERVER).len(1_500).df();
        let told = fw.lan(&whole_one).answer(LAN);
        assert_eq!(told, frag_needed("192.168.1.1", 1_400, &whole_one.build()));
        let pkt = udp(CLIENT, SERVER).len(4_000).df();
        let fragments = cut_to(&pkt.build(), 0, 1500);
        let sent = send_all(&mut fw, LAN, &fragments);
        assert_eq!(sent.outs.len(), 1, "{}", sent.describe());
        assert_eq!(sent.outs[0].pkt(), frag_needed("192.168.1.1", 1_400, &fragments[0]));
        let refused = DropReason::FragmentRefused;
        dropped(&sent, &[DropReason::MtuExceeded, refused, refused]);

        let pkt = udp(CLIENT6, SERVER6).len(4_000);
        let fragments = cut_to(&pkt.build(), 0, 1500);
        let sent = send_all(&mut fw, LAN, &fragments);
        assert_eq!(sent.outs.len(), 1);
        let told = sent.outs[0].pkt();
        assert_eq!((told.src.to_string(), told.dst), ("2001:db8:1::1".into(), pkt.src));
    });
}

fn frag_needed(from: &str, mtu: u32, about: &[u8]) -> Pkt {
    let mut quote = about.to_vec();
    let to: std::net::IpAddr = "192.168.1.2".parse().unwrap();
    quote.truncate(576 - 28);
    icmp(from, to, 3, 4, mtu, &quote).tos(0xc0).id(0).df()
}

/// C147; RFC 1812 §4.3.2.7
#[test]
fn errors_are_about_first_fragments_only() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        // All of them have TTL 1.
        let pkt = udp(CLIENT, SERVER).len(4_000).ttl(1);
        let sent = send_all(&mut fw, LAN, &cut_to(&pkt.build(), 0, 1500));
        assert_eq!(sent.outs.len(), 1, "{}", sent.describe());
        // Only those behind the first.
        let pkt = udp(CLIENT, SERVER).len(4_000).id(9);
        let mut fragments = cut_to(&pkt.build(), 0, 1500);
        for later in &mut fragments[1..] {
            later[8] = 1;
            mend_ip_checksum(later);
        }
        let sent = send_all(&mut fw, LAN, &fragments);
        assert_eq!(sent.outs.len(), 1, "{}", sent.describe());
        assert_eq!(sent.outs[0].at, WAN);
        dropped(&sent, &[DropReason::TtlExceeded; 2]);
    });
}

/// C126: the appliance's own, in and out.
#[test]
fn fragments_to_the_host_and_from_it() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        let ask = echo_request("203.0.113.2", "192.0.2.9", 5, 1).len(4_000);
        let sent = send_all(&mut fw, HOST_WAN, &cut_to(&ask.build(), 0, 1500));
        assert_eq!(whole(&sent, WAN), ask, "as the kernel wrote it");
        let answer = echo_reply("192.0.2.9", "203.0.113.2", 5, 1).len(4_000);
        let sent = send_all(&mut fw, WAN, &cut_to(&answer.build(), 0, 1500));
        assert_eq!(whole(&sent, HOST_WAN), answer);
        // To the LAN's address, which the built-in policy allows.
        let ask = udp(CLIENT, "192.168.1.1:53").len(4_000);
        let sent = send_all(&mut fw, LAN, &cut_to(&ask.build(), 0, 1500));
        assert_eq!(whole(&sent, HOST_LAN), ask);
    });
}

/// C126: a forward, and back.
#[test]
fn fragments_reach_a_forwards_server() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup.forward_udp(8_053, "192.168.1.10:53"));
        let ask = udp("198.51.100.7:4000", "203.0.113.2:8053").len(5_000);
        let sent = send_all(&mut fw, WAN, &cut_to(&ask.build(), 0, 1500));
        assert_eq!(whole(&sent, LAN), ask.to("192.168.1.10:53").hop());
        let answer = udp("192.168.1.10:53", "198.51.100.7:4000").len(5_000);
        let sent = send_all(&mut fw, LAN, &cut_to(&answer.build(), 0, 1500));
        assert_eq!(whole(&sent, WAN), answer.from("203.0.113.2:8053").hop());
    });
}

/// C126: while connections of older epochs are looked for, the others visit whom the first visited.
#[test]
fn fragments_find_a_connection_of_an_older_epoch() {
    for_workers([2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        let mut flows: Vec<_> =
            (0..12u16).map(|i| Flow::outward(("192.168.1.2", 5_000 + i), SERVER)).collect();
        flows.iter_mut().for_each(|flow| flow.exchange(&mut fw));
        // Their ports are not what says who owns them any more.
        fw.change(|setup| setup.add_forward(17, (5_000, 5_011), "192.168.1.10:5000"));
        for (flow, id) in flows.iter().zip(1..) {
            let there = udp(flow.client, SERVER).len(4_000).id(id);
            let sent = send_all(&mut fw, LAN, &cut_to(&there.build(), 0, 1500));
            assert_eq!(whole(&sent, WAN), flow.at_server(&there));
            let back = udp(SERVER, flow.seen()).len(4_000).id(id);
            let sent = send_all(&mut fw, WAN, &cut_to(&back.build(), 0, 1500));
            assert_eq!(whole(&sent, LAN), flow.at_client(&back));
        }
        // And new ones.
        for i in 0..8u16 {
            let pkt = udp(("192.168.1.3", 6_000 + i), SERVER).len(4_000).id(i);
            let sent = send_all(&mut fw, LAN, &cut_to(&pkt.build(), 0, 1500));
            assert_eq!(whole(&sent, WAN), pkt.from(("203.0.113.2", 6_000 + i)).hop());
        }
    });
}

/// C126: a next hop that is not known yet.
#[test]
fn fragments_wait_for_their_next_hop_together() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        fw.neighbour(WAN, "203.0.113.1", NeighbourState::Incomplete);
        let pkt = udp(CLIENT, SERVER).len(4_000);
        assert!(send_all(&mut fw, LAN, &cut_to(&pkt.build(), 0, 1500)).is_silent());
        fw.neighbour(WAN, "203.0.113.1", NeighbourState::Reachable);
        assert_eq!(whole(&fw.resume(), WAN), pkt.from(US).hop());
    });
}

/// C126, C190: rules that change while they wait are asked about the datagram, not about each of its parts.
#[test]
fn fragments_that_wait_through_a_change_share_one_judgement() {
    for_workers([1, 2], |setup| {
        for (rule, passes) in
            [("-I FORWARD -p udp -j ACCEPT", true), ("-I FORWARD -p udp -j DROP", false)]
        {
            let mut fw = Firewall::with(setup.clone());
            fw.neighbour(WAN, "203.0.113.1", NeighbourState::Incomplete);
            let pkt = udp(CLIENT, SERVER).len(4_000);
            assert!(send_all(&mut fw, LAN, &cut_to(&pkt.build(), 0, 1500)).is_silent());
            fw.change(|setup| setup.iptables(rule));
            fw.neighbour(WAN, "203.0.113.1", NeighbourState::Reachable);
            let before = fw.values().rejudged;
            let sent = fw.resume();
            assert_eq!(fw.values().rejudged, before + 1);
            if passes {
                assert_eq!(whole(&sent, WAN), pkt.from(US).hop());
            } else {
                let refused = DropReason::FragmentRefused;
                dropped(&sent, &[DropReason::DeniedByRule, refused, refused]);
            }
        }
    });
}

/// C132, C072: what a rule accepts although it is INVALID goes untranslated, and so nothing of it follows a connection.
#[test]
fn no_fragment_of_an_invalid_datagram_is_translated() {
    for_workers([1, 2], |mut setup| {
        setup.iptables("-I INPUT -m conntrack --ctstate INVALID -j ACCEPT");
        setup.iptables("-I FORWARD -m conntrack --ctstate INVALID -j ACCEPT");
        let mut fw = Firewall::with(setup);
        let flow = Flow::outward(CLIENT, "192.0.2.9:80").open(&mut fw);
        let far = flow.seq[1].wrapping_add(100_000_000);
        let segment = flow.server_segment().seq(far).payload("x".repeat(4_000)).may_fragment();
        let sent = send_all(&mut fw, WAN, &cut_to(&segment.build(), 0, 1500));
        assert!(sent.outs.iter().all(|out| out.at != LAN), "{}", sent.describe());
        assert_eq!(sent.drops, [DropReason::FragmentRefused; 2]);
    });
}

/// C132: what one network sends cannot spoil, nor complete, what comes in from another.
#[test]
fn fragments_of_two_interfaces_are_never_one_datagram() {
    let mut fw = Firewall::new();
    Flow::outward(CLIENT, SERVER).exchange(&mut fw);
    let answer = udp(SERVER, US).len(2_000);
    let [a, b] = &cut_to(&answer.build(), 0, 1500)[..] else { panic!() };
    let mut forged = b.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert!(fw.lan(forged).is_silent());
    assert!(fw.wan(a.clone()).is_silent());
    let sent = fw.wan(b.clone());
    let expected = answer.to(CLIENT).hop();
    assert_eq!(whole(&sent, LAN), expected);
}

/// C131: what cannot be tracked in fragments is refused by name.
#[test]
fn unsupported_fragments_are_refused_by_name() {
    let mut fw = Firewall::new();
    let error = icmp("192.168.1.2", "192.0.2.9", 3, 3, 0, &[0; 2_000]);
    let sent = send_all(&mut fw, LAN, &cut_to(&error.build(), 0, 1500));
    dropped(&sent, &[DropReason::FragmentUnsupported, DropReason::FragmentRefused]);
    // RFC 6980: no neighbour discovery in fragments.
    let advertisement = icmp("fe80::1", "ff02::1", 134, 0, 0, &[0; 2_000]).ttl(255);
    let sent = send_all(&mut fw, LAN, &cut_to(&advertisement.build(), 0, 1500));
    dropped(&sent, &[DropReason::NeighbourSpoof, DropReason::FragmentRefused]);
}

/// C126: rules count a datagram once, all of it, as they do in the kernel.
#[test]
fn a_rule_sees_a_datagram_once() {
    let mut setup = Setup::default();
    setup.iptables("-I FORWARD -p udp --dport 53 -j DROP");
    let mut fw = Firewall::with(setup);
    let sent = send_all(&mut fw, LAN, &cut_to(&udp(CLIENT, SERVER).len(4_000).build(), 0, 1500));
    let refused = DropReason::FragmentRefused;
    dropped(&sent, &[DropReason::DeniedByRule, refused, refused]);
}

/// C131: whatever stands in fragments, nothing panics, every frame is accounted for, and none waits for ever.
#[test]
fn mutilated_fragments_harm_nothing() {
    for_workers([1, 3], |setup| {
        let mut draw = Draw::new(setup.seed ^ 0x6d75_7469);
        let mut fw = Firewall::with(setup);
        let bases = [
            udp(CLIENT, SERVER).len(400).options(&[7, 7, 4, 0, 0, 0, 0]),
            tcp(CLIENT, SERVER).may_fragment().syn().mss(1460).len(300),
            echo_request("192.168.1.2", "192.0.2.9", 1, 1).len(200),
            other("192.168.1.2", "192.0.2.9", 132, &[1; 200]),
            udp(CLIENT6, SERVER6).len(400).extension(60, &[0, 1, 4, 0, 0, 0, 0]),
            tcp(CLIENT6, SERVER6).syn().len(300),
            udp(US, SERVER).len(300),
        ];
        for _ in 0..4_000 {
            let pkt = draw.of(&bases).clone().id(draw.bits() as u16);
            let id = draw.bits() as u32;
            let mut fragments = cut_anywhere(&pkt.build(), id, 4, 8, &mut draw);
            for bytes in &mut fragments {
                for _ in 0..draw.below(3) {
                    let (at, any) = (draw.below(bytes.len().min(90)), draw.bits() as u8);
                    bytes[at] = *draw.of(&[0, 1, 2, 8, 44, 60, 0x20, 0x45, 0x60, 0xff, any]);
                }
                if bytes[0] >> 4 == 4 {
                    mend_ip_checksum(bytes);
                }
            }
            let at = *draw.of(&[LAN, LAN, LAN, WAN, HOST_WAN]);
            for bytes in order(fragments, Order::Drawn, &mut draw) {
                fw.send_no_looks(at, bytes);
            }
            if draw.below(200) == 0 {
                fw.pass_secs(20);
            }
        }
        fw.pass_secs(61);
        assert_eq!(fw.values().held, fw.values().resumed);
        assert!(fw.values().forwarded > 100, "some are right all the same");
    });
}
