//! Protocols beyond TCP, UDP, ICMP and SCTP: UDP-Lite (RFC 3828), GRE, ESP, AH, DCCP and those nobody has heard of.

use postern_core::conntrack::entry::flags;
use postern_core::verdict::DropReason;
use postern_tests::fragments::cut_to;
use postern_tests::packet::{Body, icmp, other};
use postern_tests::udp_lite::{UDP_LITE, udp_lite};
use postern_tests::wire::{get16, set16};
use postern_tests::{Firewall, LAN, Pkt, Setup, WAN, for_workers};

const GRE: u8 = 47;
/// ESP, AH, DCCP, and one that RFC 3692 keeps for experiments.
const BY_ADDRESS: [u8; 5] = [GRE, 50, 51, 33, 253];
const CLIENT: &str = "192.168.1.2";
const US: &str = "203.0.113.2";
const SERVER: &str = "192.0.2.9";

fn lite(src: (&str, u16), dst: (&str, u16), coverage: u16) -> Pkt {
    udp_lite(src, dst, coverage, b"sixteen bytes!!!")
}

/// C084: ports are translated as UDP's are, and the checksum is right, however much it covers (RFC 3828 §3.1).
#[test]
fn udp_lite_is_translated_by_port() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        for client in [CLIENT, "192.168.1.3"] {
            for coverage in [0, 8, 9, 12, 24] {
                let pkt = lite((client, 5000), (SERVER, 4000), coverage);
                let out = fw.lan(&pkt).out(WAN);
                let Body::Other { payload, .. } = &out.body else { panic!("{out:?}") };
                let port = get16(payload, 0);
                assert_eq!(port == 5000, client == CLIENT, "kept when free");
                assert_eq!(out, lite((US, port), (SERVER, 4000), coverage).hop());
                let back = fw.wan(lite((SERVER, 4000), (US, port), coverage)).out(LAN);
                assert_eq!(back, lite((SERVER, 4000), (client, 5000), coverage).hop());
            }
        }
        let stranger = lite(("192.0.2.10", 4000), (US, 5000), 0);
        assert_eq!(fw.wan(stranger).dropped(), DropReason::DeniedByPolicy);
    });
}

/// C047, C164: a coverage that cannot be, no checksum, and a wrong one.
#[test]
fn wrong_udp_lite_is_dropped() {
    let mut fw = Firewall::new();
    let good = lite((CLIENT, 5000), (SERVER, 4000), 12);
    for (coverage, reason) in
        [(7, DropReason::TruncatedTransport), (25, DropReason::TruncatedTransport)]
    {
        let mut bytes = good.build();
        set16(&mut bytes, 24, coverage);
        assert_eq!(fw.lan(bytes).dropped(), reason);
    }
    for sum in [0, 1] {
        let mut bytes = good.build();
        set16(&mut bytes, 26, sum);
        assert_eq!(fw.lan(bytes).dropped(), DropReason::TransportChecksum);
    }
    let mut uncovered = good.build();
    *uncovered.last_mut().unwrap() ^= 1;
    assert!(!fw.lan(uncovered).is_silent(), "what is not covered may be damaged");
}

/// C047, C131: in fragments too a checksum covers no more than there is (RFC 3828 §3.1).
#[test]
fn udp_lite_in_fragments_covers_no_more_than_there_is() {
    let mut fw = Firewall::new();
    let good = udp_lite((CLIENT, 5000), (SERVER, 4000), 0, &[b'l'; 2_992]).build();
    for (coverage, crosses) in [(0, true), (3_000, true), (3_001, false), (0xffff, false)] {
        let mut l3 = good.clone();
        set16(&mut l3, 24, coverage);
        // The sum is right for 0; what covers a part is not verified in fragments.
        let sent: Vec<_> = cut_to(&l3, 0, 1500).into_iter().map(|part| fw.lan(part)).collect();
        let outs: usize = sent.iter().map(|sent| sent.outs.len()).sum();
        let drops: Vec<_> = sent.into_iter().flat_map(|sent| sent.drops).collect();
        if crosses {
            assert_eq!((outs, drops), (3, vec![]), "{coverage}");
        } else {
            assert_eq!((outs, drops), (0, vec![DropReason::TruncatedTransport; 3]), "{coverage}");
        }
    }
}

/// C084: by address, both ways, and nothing but addresses changes; unsolicited ones are dropped.
#[test]
fn protocols_without_ports_are_translated_by_address() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        for protocol in BY_ADDRESS {
            let bytes = [0x20, 0, 0x88, 0x0b, 0, 4, 0, 7, 1, 2, 3, 4];
            let answer = other(SERVER, US, protocol, &bytes);
            assert_eq!(fw.wan(&answer).dropped(), DropReason::DeniedByPolicy, "{protocol}");
            let pkt = other(CLIENT, SERVER, protocol, &bytes);
            assert_eq!(fw.lan(&pkt).out(WAN), other(US, SERVER, protocol, &bytes).hop());
            assert_eq!(fw.wan(&answer).out(LAN), other(SERVER, CLIENT, protocol, &bytes).hop());
            let rival = other("192.168.1.3", SERVER, protocol, &bytes);
            assert_eq!(fw.lan(rival).dropped(), DropReason::TupleInUse, "{protocol}");
            let stranger = other("192.0.2.10", US, protocol, &bytes);
            assert_eq!(fw.wan(stranger).dropped(), DropReason::DeniedByPolicy, "{protocol}");
        }
    });
}

/// C084: PPTP's GRE has a call id for each direction; one client at a time gets through by its address.
#[test]
fn a_pptp_tunnel_passes_by_address() {
    let mut fw = Firewall::new();
    let version_1 = |call: u16| {
        let [high, low] = call.to_be_bytes();
        [0x30, 0x01, 0x88, 0x0b, 0, 4, high, low, 0, 0, 0, 1, 9, 9, 9, 9]
    };
    let out = other(CLIENT, SERVER, GRE, &version_1(7));
    assert_eq!(fw.lan(&out).out(WAN), other(US, SERVER, GRE, &version_1(7)).hop());
    let back = other(SERVER, US, GRE, &version_1(0x4000));
    assert_eq!(fw.wan(&back).out(LAN), other(SERVER, CLIENT, GRE, &version_1(0x4000)).hop());
}

/// C186: GRE has timeouts of its own, and UDP-Lite has UDP's.
#[test]
fn timeouts_are_those_of_linux() {
    let left = |fw: &Firewall| fw.connection().remaining_ms / 1000;
    type Make = fn(&str, &str) -> Pkt;
    let sent: [(Make, u32, u32); 2] = [
        (|a, b| other(a, b, GRE, &[0; 12]), 30, 180),
        (|a, b| lite((a, 5000), (b, 5000), 0), 30, 120),
    ];
    for (pkt, unreplied, stream) in sent {
        let mut fw = Firewall::with(Setup::default().linux_timeouts());
        fw.lan(pkt(CLIENT, SERVER)).out(WAN);
        assert_eq!(left(&fw), unreplied);
        fw.wan(pkt(SERVER, US)).out(LAN);
        assert_eq!(left(&fw), unreplied, "as Linux: the reply itself does not count yet");
        fw.lan(pkt(CLIENT, SERVER)).out(WAN);
        assert_eq!(left(&fw), stream);
        assert_ne!(fw.connection().flags & flags::ASSURED, 0);
    }
    let mut fw = Firewall::with(Setup::default().linux_timeouts());
    fw.lan(other(CLIENT, SERVER, 50, &[0; 12])).out(WAN);
    assert_eq!(left(&fw), 600);
}

/// C052, C053, C057, C063: errors about each of these, from the server, a router, and the host inside; quotes of any
/// length that has eight bytes of them, IP options or not, and what follows the quote untouched (RFC 4884).
#[test]
fn errors_about_every_protocol_are_translated_with_what_they_quote() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        let bytes = [0x20, 0, 0x88, 0x0b, 0, 4, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        for protocol in BY_ADDRESS.into_iter().chain([UDP_LITE]) {
            let pkt = |src: &str, dst: &str| match protocol {
                UDP_LITE => lite((src, 5000), (dst, 5000), 0),
                _ => other(src, dst, protocol, &bytes),
            };
            fw.lan(pkt(CLIENT, SERVER)).out(WAN);
            fw.wan(pkt(SERVER, US)).out(LAN);
            for options in [&[][..], &[148, 4, 0, 0]] {
                let quote = |src: &str, dst: &str| pkt(src, dst).options(options).hop().build();
                let header = 20 + options.len();
                for keep in [header + 8, header + 12, header + 20] {
                    let error = |from: &str, to: &str, about: &[u8]| {
                        // RFC 4884 §7: an extension with its own checksum behind the quote.
                        let extension = [0x20, 0, 0xab, 0xcd, 0, 8, 1, 1, 0, 1, 2, 3];
                        let body = [&about[..keep], &extension].concat();
                        icmp(from, to, 11, 0, 0, &body)
                    };
                    for router in [SERVER, "198.51.100.1"] {
                        let report = error(router, US, &quote(US, SERVER));
                        let expected = error(router, CLIENT, &quote(CLIENT, SERVER)).hop();
                        assert_eq!(fw.wan(report).out(LAN), expected, "{protocol}, {keep}");
                    }
                    let report = error(CLIENT, SERVER, &quote(SERVER, CLIENT));
                    let expected = error(US, SERVER, &quote(SERVER, US)).hop();
                    assert_eq!(fw.lan(report).out(WAN), expected, "{protocol}, {keep}");
                }
                for keep in [0, 8, 19, 20, header + 7] {
                    let cut = &quote(US, SERVER)[..keep];
                    let report = icmp(SERVER, US, 11, 0, 0, cut);
                    assert_eq!(fw.wan(report).dropped(), DropReason::IcmpErrorQuote, "{keep}");
                }
            }
            // C055.
            let forged = pkt(US, "192.0.2.77").hop().build();
            let report = icmp("198.51.100.1", US, 11, 0, 0, &forged);
            assert_eq!(fw.wan(report).dropped(), DropReason::IcmpErrorUnrelated);
        }
    });
}
