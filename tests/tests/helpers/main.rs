//! Helpers: what FTP, DCC and TFTP announce comes true, and nothing else does.

mod control;
mod ruled;
mod sip;

use std::net::SocketAddr;

use control::Control;
use postern_core::conntrack::entry::flags;
use postern_core::conntrack::tuple::protocol;
use postern_core::forward::NeighbourState;
use postern_core::helper::{Helpers, Kind};
use postern_core::verdict::DropReason;
use postern_tests::fragments::{cut, reassemble};
use postern_tests::packet::{Body, Pkt, tcp, udp};
use postern_tests::{Draw, Firewall, Flow, LAN, Sent, Setup, WAN, for_workers};

/// The appliance's address outside: longer to write than the client's, shorter than the other client's.
const OUTER: &str = "203.0.113.100";
const CLIENT: &str = "192.168.1.2";
const OTHER_CLIENT: &str = "192.168.1.100";
const SERVER: &str = "192.0.2.9";

fn with_helpers(mut setup: Setup) -> Setup {
    setup.set_addresses(WAN, &["203.0.113.100/24", "2001:db8:2::2/64"]);
    setup.options.helpers = Kind::ALL.into_iter().fold(Helpers::NONE, Helpers::with);
    setup
}

fn syn(from: (&str, u16), to: (&str, u16)) -> Pkt {
    tcp(from, to).syn().seq(1).mss(1460)
}

fn expectations(fw: &Firewall) -> u32 {
    fw.snapshot().expectations.len()
}

/// The connection between those two ports, original direction.
fn connection_flags(fw: &Firewall, src: u16, dst: u16) -> u16 {
    let found = fw
        .connections()
        .into_iter()
        .find(|c| (c.original.src_id(), c.original.dst_id()) == (src, dst));
    found.unwrap_or_else(|| panic!("no connection from {src} to {dst}")).flags
}

/// The endpoint that `PORT` or 227 names.
fn named(text: &str) -> SocketAddr {
    let begin = text.char_indices().skip(4).find(|(_, c)| c.is_ascii_digit()).unwrap().0;
    let numbers: Vec<u8> = text[begin..]
        .split(|c: char| !c.is_ascii_digit())
        .take(6)
        .map(|n| n.parse().unwrap())
        .collect();
    let [a, b, c, d, high, low] = numbers[..] else { panic!("{text}") };
    ([a, b, c, d], u16::from_be_bytes([high, low])).into()
}

fn payload(pkt: &Pkt) -> String {
    let bytes = match &pkt.body {
        Body::Tcp(tcp) => &tcp.payload,
        Body::Udp { payload, .. } => payload,
        _ => panic!("{pkt:?}"),
    };
    String::from_utf8(bytes.clone()).unwrap()
}

/// What must not be expected: silence, or an answer of our own; nothing crosses.
#[track_caller]
fn refused(sent: &Sent) {
    assert!(sent.outs.iter().all(|out| out.generated), "{}", sent.describe());
}

/// C110: longer and shorter texts.
#[test]
fn port_is_rewritten_numbers_are_shifted_and_the_data_connection_is_related() {
    for_workers([1, 2, 4], |setup| {
        for (client, comma) in [(CLIENT, "192,168,1,2"), (OTHER_CLIENT, "192,168,1,100")] {
            let mut setup = with_helpers(setup.clone());
            setup.iptables("-I FORWARD 1 -i wan -m conntrack --ctstate NEW -j DROP");
            let mut fw = Firewall::with(setup);
            let mut control = Control::ftp(&mut fw, client);
            let said = format!("PORT {comma},156,64\r\n");
            control.client_says(&mut fw, &said, "PORT 203,0,113,100,156,64\r\n");
            control.server_says(&mut fw, "200 PORT.\r\n", "200 PORT.\r\n");
            control.goes_on(&mut fw);

            let data = syn((SERVER, 20), (OUTER, 40_000));
            let arrived = fw.wan(&data).out(LAN);
            assert_eq!(arrived, data.hop().to((client, 40_000)));
            let both = flags::EXPECTED | flags::DNAT;
            assert_eq!(connection_flags(&fw, 20, 40_000) & both, both);
            let answer = tcp((client, 40_000), (SERVER, 20)).syn().seq(5).ack(2);
            assert_eq!(fw.lan(&answer).out(WAN), answer.hop().from((OUTER, 40_000)));
            control.goes_on(&mut fw);
        }
    });
}

/// C110: a text in fragments is in no frame whole, and the one that comes again is read.
#[test]
fn a_command_in_fragments_waits_until_it_comes_whole() {
    for_workers([1, 4], |setup| {
        let mut fw = Firewall::with(with_helpers(setup));
        let mut control = Control::ftp(&mut fw, CLIENT);
        let said = "PORT 192,168,1,2,156,64\r\n";
        let whole = control.client_segment(said, 0).may_fragment().id(9);
        for fragment in cut(&whole.build(), 9, &[32]) {
            assert!(fw.lan(fragment).outs.is_empty(), "a part of a text that nobody read");
        }
        assert_eq!(expectations(&fw), 0);
        control.client_says(&mut fw, said, "PORT 203,0,113,100,156,64\r\n");
        assert_eq!(expectations(&fw), 1);
        control.goes_on(&mut fw);
    });
}

/// C110: the next command, after one that changed lengths, is shifted by both.
#[test]
fn every_further_command_is_shifted_by_all_before_it() {
    for_workers([1, 4], |setup| {
        let mut fw = Firewall::with(with_helpers(setup));
        let mut control = Control::ftp(&mut fw, CLIENT);
        for port in 40_000..40_012u16 {
            let [high, low] = port.to_be_bytes();
            let said = format!("PORT 192,168,1,2,{high},{low}\r\n");
            control.client_says(&mut fw, &said, &format!("PORT 203,0,113,100,{high},{low}\r\n"));
            let data = syn((SERVER, 20), (OUTER, port));
            assert_eq!(fw.wan(&data).out(LAN), data.hop().to((CLIENT, port)));
            control.goes_on(&mut fw);
        }
        assert_eq!(control.grown[0], 24);
    });
}

/// C112
#[test]
fn eprt_is_rewritten_for_ipv4_and_left_alone_for_ipv6() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(with_helpers(setup));
        let mut control = Control::ftp(&mut fw, CLIENT);
        control.client_says(
            &mut fw,
            "EPRT |1|192.168.1.2|40000|\r\n",
            "EPRT |1|203.0.113.100|40000|\r\n",
        );
        control.goes_on(&mut fw);
        let data = syn((SERVER, 20), (OUTER, 40_000));
        assert_eq!(fw.wan(&data).out(LAN), data.hop().to((CLIENT, 40_000)));

        let (client, server) = ("2001:db8:1::10", "2001:db8:9::9");
        let mut control = Control::open(&mut fw, Flow::outward((client, 50_000), (server, 21)));
        let data = syn((server, 20), (client, 40_000));
        refused(&fw.wan(&data));
        let said = "EPRT |2|2001:db8:1::10|40000|\r\n";
        control.client_says(&mut fw, said, said);
        assert_eq!(fw.wan(&data).out(LAN), data.hop());
        refused(&fw.wan(syn((server, 21), (client, 40_000))));
    });
}

/// C112, C113: the client asks, the server behind the forward tells where.
#[test]
fn a_passive_server_behind_a_forward_is_rewritten_and_admitted() {
    for_workers([1, 2, 4], |setup| {
        for (ask, here, there) in [
            (
                "PASV\r\n",
                "227 Entering Passive Mode (192,168,1,10,156,64).\r\n",
                "227 Entering Passive Mode (203,0,113,100,156,64).\r\n",
            ),
            (
                "EPSV\r\n",
                "229 Entering Extended Passive Mode (|||40000|)\r\n",
                "229 Entering Extended Passive Mode (|||40000|)\r\n",
            ),
            (
                // The server was told the outer address (vsftpd's pasv_address).
                "PASV\r\n",
                "227 Entering Passive Mode (203,0,113,100,156,64).\r\n",
                "227 Entering Passive Mode (203,0,113,100,156,64).\r\n",
            ),
        ] {
            let mut fw =
                Firewall::with(with_helpers(setup.clone()).forward_tcp(21, "192.168.1.10:21"));
            let (client, data) = ("192.0.2.7", syn(("192.0.2.7", 50_001), (OUTER, 40_000)));
            let flow = Flow::inward((client, 50_000), (OUTER, 21), "192.168.1.10:21");
            let mut control = Control::open(&mut fw, flow);
            refused(&fw.wan(&data));
            control.server_says(&mut fw, "220 Welcome.\r\n", "220 Welcome.\r\n");
            control.client_says(&mut fw, ask, ask);
            control.server_says(&mut fw, here, there);
            control.goes_on(&mut fw);
            refused(&fw.wan(syn(("192.0.2.8", 50_001), (OUTER, 40_000))));
            assert_eq!(fw.wan(&data).out(LAN), data.hop().to("192.168.1.10:40000"));
            let answer = tcp("192.168.1.10:40000", (client, 50_001)).syn().seq(5).ack(2);
            assert_eq!(fw.lan(&answer).out(WAN), answer.hop().from((OUTER, 40_000)));
            control.goes_on(&mut fw);
        }
    });
}

/// C113: the server's port outside is another one if its own is forwarded elsewhere.
#[test]
fn a_port_that_is_forwarded_is_not_given_to_an_expectation() {
    for_workers([1, 2, 4], |setup| {
        let setup = with_helpers(setup)
            .forward_tcp(21, "192.168.1.10:21")
            .forward_tcp(40_000, "192.168.1.20:80");
        let mut fw = Firewall::with(setup);
        let flow = Flow::inward("192.0.2.7:50000", (OUTER, 21), "192.168.1.10:21");
        let mut control = Control::open(&mut fw, flow);
        control.server_says(&mut fw, "220 Welcome.\r\n", "220 Welcome.\r\n");
        for ask in ["PASV\r\n", "EPSV\r\n"] {
            control.client_says(&mut fw, ask, ask);
            let here = match ask {
                "PASV\r\n" => "227 Entering Passive Mode (192,168,1,10,156,64).\r\n",
                _ => "229 Entering Extended Passive Mode (|||40000|)\r\n",
            };
            let sent = control.server_segment(here);
            let heard = payload(&fw.lan(&sent).out(WAN));
            let port = match ask {
                "PASV\r\n" => named(&heard).port(),
                _ => heard.split('|').nth(3).unwrap().parse().unwrap(),
            };
            assert_ne!(port, 40_000);
            assert_eq!(fw.lan(&sent).out(WAN), control.at_client(&sent, &heard, control.grown[1]));
            control.server_says(&mut fw, here, &heard);
            let data = syn(("192.0.2.7", 50_001), (OUTER, port));
            assert_eq!(fw.wan(&data).out(LAN), data.hop().to("192.168.1.10:40000"));
            let answer = tcp("192.168.1.10:40000", "192.0.2.7:50001").ack(2).rst();
            fw.lan(&answer).out(WAN);
            control.goes_on(&mut fw);
        }
        let data = syn(("192.0.2.7", 50_002), (OUTER, 40_000));
        assert_eq!(fw.wan(&data).out(LAN), data.hop().to("192.168.1.20:80"), "the forward's");
    });
}

/// A passive client behind NAT needs nothing but to be let out; the data connection is RELATED all the same.
#[test]
fn a_passive_clients_data_connection_is_related() {
    for_workers([1, 2, 4], |setup| {
        let mut setup = with_helpers(setup);
        setup
            .iptables("-I FORWARD 1 -i lan -p tcp ! --dport 21 -m conntrack --ctstate NEW -j DROP");
        let mut fw = Firewall::with(setup);
        let mut control = Control::ftp(&mut fw, CLIENT);
        let data = syn((CLIENT, 50_001), (SERVER, 40_000));
        refused(&fw.lan(&data));
        control.client_says(&mut fw, "PASV\r\n", "PASV\r\n");
        let here = "227 Entering Passive Mode (192,0,2,9,156,64).\r\n";
        control.server_says(&mut fw, here, here);
        let arrived = fw.lan(&data).out(WAN);
        assert_eq!(arrived, data.hop().from((OUTER, arrived.source().port())));
        assert_ne!(connection_flags(&fw, 50_001, 40_000) & flags::EXPECTED, 0);
    });
}

/// The active server behind a forward appears, in its data connections, as the address that the client dialled.
#[test]
fn an_active_server_behind_a_forward_appears_as_its_control_connection_does() {
    for_workers([1, 2, 4], |setup| {
        let setup = with_helpers(setup).forward_tcp(21, "192.168.1.10:21");
        // The forward is of the second address; the first one is what others appear behind.
        let mut setup = setup.address(WAN, "203.0.113.7/24");
        setup.forwards[0].address = "203.0.113.7".parse().unwrap();
        let mut fw = Firewall::with(setup);
        let flow = Flow::inward("192.0.2.7:50000", "203.0.113.7:21", "192.168.1.10:21");
        let mut control = Control::open(&mut fw, flow);
        control.server_says(&mut fw, "220 Welcome.\r\n", "220 Welcome.\r\n");
        let said = "PORT 192,0,2,7,156,64\r\n";
        control.client_says(&mut fw, said, said);
        let data = syn(("192.168.1.10", 20), ("192.0.2.7", 40_000));
        let arrived = fw.lan(&data).out(WAN);
        assert_eq!(arrived.source().ip().to_string(), "203.0.113.7");
        let answer = tcp("192.0.2.7:40000", arrived.source()).syn().seq(9).ack(2);
        assert_eq!(fw.wan(&answer).out(LAN), answer.hop().to("192.168.1.10:20"));
    });
}

/// C114
#[test]
fn an_expectation_admits_its_peer_once_and_for_five_minutes() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(with_helpers(setup));
        let mut control = Control::ftp(&mut fw, CLIENT);
        let port = "PORT 192,168,1,2,156,64\r\n";
        let rewritten = "PORT 203,0,113,100,156,64\r\n";
        control.client_says(&mut fw, port, rewritten);
        refused(&fw.wan(syn(("192.0.2.66", 20), (OUTER, 40_000)))); // a third party
        refused(&fw.wan(syn((SERVER, 20), (OUTER, 40_001)))); // another port
        refused(&fw.wan(udp((SERVER, 20), (OUTER, 40_000)))); // another protocol
        fw.wan(syn((SERVER, 20), (OUTER, 40_000))).out(LAN);
        assert_eq!(expectations(&fw), 0);
        refused(&fw.wan(syn((SERVER, 2020), (OUTER, 40_000)))); // a second one

        for (passed, comes) in [(299, true), (300, false)] {
            control.client_says(&mut fw, port, rewritten);
            fw.pass_secs(passed);
            let sent = fw.wan(syn((SERVER, 3000), (OUTER, 40_000)));
            assert_eq!(!sent.outs.is_empty() && !sent.outs[0].generated, comes, "{passed} s");
            fw.pass_secs(300);
        }
    });
}

/// An expectation dies with its control connection, however that ends.
#[test]
fn an_expectation_dies_with_its_master() {
    for_workers([1, 2, 4], |setup| {
        for end in ["RST", "FIN", "expiry", "deletion"] {
            let mut fw = Firewall::with(with_helpers(setup.clone()));
            let mut control = Control::ftp(&mut fw, CLIENT);
            control.client_says(
                &mut fw,
                "PORT 192,168,1,2,156,64\r\n",
                "PORT 203,0,113,100,156,64\r\n",
            );
            assert_eq!(expectations(&fw), 1);
            match end {
                "RST" => {
                    fw.lan(control.client_segment("", 0).rst()).out(WAN);
                }
                "FIN" => {
                    fw.lan(control.client_segment("", 0).fin()).out(WAN);
                    control.flow.seq[0] = control.flow.seq[0].wrapping_add(1);
                    fw.wan(control.server_segment("").fin()).out(LAN);
                    control.flow.seq[1] = control.flow.seq[1].wrapping_add(1);
                    fw.lan(control.client_segment("", 0)).out(WAN);
                }
                "expiry" => fw.pass_secs(7_440),
                _ => {
                    let id = fw.connection().id;
                    assert!(fw.delete(id));
                }
            }
            assert_eq!(expectations(&fw), 0, "{end}");
            refused(&fw.wan(syn((SERVER, 20), (OUTER, 40_000))));
        }
    });
}

/// C116
#[test]
fn text_on_other_ports_and_without_a_helper_is_left_alone() {
    for_workers([1, 2], |setup| {
        let said = "PORT 192,168,1,2,156,64\r\n";
        let mut fw = Firewall::with(with_helpers(setup.clone()));
        let flow = Flow::outward((CLIENT, 50_000), (SERVER, 2121));
        let mut control = Control::open(&mut fw, flow);
        control.client_says(&mut fw, said, said);
        let dcc = "PRIVMSG bob :\x01DCC CHAT chat 3232235778 40000\x01\r\n";
        control.client_says(&mut fw, dcc, dcc);
        assert_eq!(expectations(&fw), 0);

        let mut off = with_helpers(setup);
        off.options.helpers = Helpers::NONE.with(Kind::Irc);
        let mut fw = Firewall::with(off);
        let mut control = Control::ftp(&mut fw, CLIENT);
        control.client_says(&mut fw, said, said);
        assert_eq!(expectations(&fw), 0);
    });
}

/// C118
#[test]
fn dcc_offers_are_rewritten_and_whoever_takes_them_up_is_admitted() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(with_helpers(setup));
        let flow = Flow::outward((CLIENT, 50_000), (SERVER, 6667));
        let mut control = Control::open(&mut fw, flow);
        control.client_says(&mut fw, "NICK alice\r\n", "NICK alice\r\n");
        for (port, offer) in [(40_000, "SEND a.txt"), (40_004, "CHAT chat")] {
            let line =
                |address: u32| format!("PRIVMSG bob :\x01DCC {offer} {address} {port}\x01\r\n");
            control.client_says(&mut fw, &line(0xc0a8_0102), &line(0xcb00_7164));
            let peer = syn(("198.51.100.77", 31_000), (OUTER, port));
            assert_eq!(fw.wan(&peer).out(LAN), peer.hop().to((CLIENT, port)));
            refused(&fw.wan(syn(("198.51.100.78", 31_000), (OUTER, port))));
        }
        control.goes_on(&mut fw);
    });
}

/// C121: NAT slipstreaming.
#[test]
fn what_is_not_a_line_of_its_own_opens_nothing() {
    for_workers([1, 2], |setup| {
        let command = "PORT 192,168,1,2,156,64\r\n";
        let pieces: [&[&str]; 6] = [
            &["SITE an unterminated line", command],
            &["SITE an unterminated line, ", "PORT 192,168,1,2,156,64", "\r\n", "NOOP\r\n"],
            &["SITE a line\r\nPORT 192,168,1,2,156,64\r\n"],
            &["POST / HTTP/1.1\r\nHost: x\r\n\r\nPORT 192,168,1,2,156,64\r\n"],
            &["POST / HTTP/1.1\r\n", command],
            &["Content-Length: 100\r\n", "\r\n", command],
        ];
        for pieces in pieces {
            let mut fw = Firewall::with(with_helpers(setup.clone()));
            let mut control = Control::ftp(&mut fw, CLIENT);
            for piece in pieces {
                control.client_says(&mut fw, piece, piece);
            }
            assert_eq!(expectations(&fw), 0, "{pieces:?}");
            refused(&fw.wan(syn((SERVER, 20), (OUTER, 40_000))));
        }
    });
}

/// C121: what a server shows of somebody's making is not what it says.
#[test]
fn a_reply_that_nobody_asked_for_opens_nothing() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(with_helpers(setup).forward_tcp(21, "192.168.1.10:21"));
        let flow = Flow::inward("192.0.2.7:50000", (OUTER, 21), "192.168.1.10:21");
        let mut control = Control::open(&mut fw, flow);
        let here = "227 Entering Passive Mode (192,168,1,10,156,64).\r\n";
        control.server_says(&mut fw, here, here);
        control.client_says(&mut fw, "PASV\r\n", "PASV\r\n");
        control.server_says(&mut fw, "230-Read this:\r\n", "230-Read this:\r\n");
        control.server_says(&mut fw, here, here);
        assert_eq!(expectations(&fw), 0);
    });
}

/// C122
#[test]
fn no_low_port_no_third_host_and_never_the_appliance() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(with_helpers(setup));
        let mut control = Control::ftp(&mut fw, CLIENT);
        for said in [
            "PORT 192,168,1,2,0,22\r\n",
            "PORT 192,168,1,2,3,255\r\n",
            "PORT 192,168,1,3,156,64\r\n",
            "PORT 192,168,1,1,156,64\r\n",
            "PORT 203,0,113,100,156,64\r\n",
            "PORT 192,0,2,66,156,64\r\n",
            "EPRT |1|192.168.1.3|40000|\r\n",
            "EPRT |2|2001:db8:1::2|40000|\r\n",
        ] {
            let before = fw.values().expectations_refused;
            control.client_says(&mut fw, said, said);
            assert_eq!(expectations(&fw), 0, "{said:?}");
            assert_eq!(fw.values().expectations_refused, before + 1, "{said:?}");
        }
        control.client_says(&mut fw, "PORT 192,168,1,2,4,0\r\n", "PORT 203,0,113,100,4,0\r\n");
        assert_eq!(expectations(&fw), 1, "1024 is the first that may be");
    });
}

/// C123
#[test]
fn of_a_thousand_announcements_the_last_ones_count() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(with_helpers(setup));
        let mut control = Control::ftp(&mut fw, CLIENT);
        for port in 40_000..41_000u16 {
            let [high, low] = port.to_be_bytes();
            let said = format!("PORT 192,168,1,2,{high},{low}\r\n");
            control.client_says(&mut fw, &said, &format!("PORT 203,0,113,100,{high},{low}\r\n"));
            assert_eq!(expectations(&fw), 1);
        }
        refused(&fw.wan(syn((SERVER, 20), (OUTER, 40_998))));
        let data = syn((SERVER, 20), (OUTER, 40_999));
        assert_eq!(fw.wan(&data).out(LAN), data.hop().to((CLIENT, 40_999)));

        let flow = Flow::outward((CLIENT, 50_000), (SERVER, 6667));
        let mut control = Control::open(&mut fw, flow);
        for port in 40_000..40_100 {
            let line =
                |address: u32| format!("PRIVMSG bob :\x01DCC CHAT c {address} {port}\x01\r\n");
            control.client_says(&mut fw, &line(0xc0a8_0102), &line(0xcb00_7164));
        }
        assert_eq!(expectations(&fw), 8);
        refused(&fw.wan(syn(("198.51.100.77", 20), (OUTER, 40_091))));
        fw.wan(syn(("198.51.100.77", 20), (OUTER, 40_092))).out(LAN);
    });
}

/// C124
#[test]
fn a_text_that_does_not_fit_stays_and_opens_nothing() {
    for_workers([1, 2], |setup| {
        // A line that fills a segment of 1500 bytes but for one: the new text takes two more.
        for (len, fits) in [(1498, true), (1499, false), (1500, false)] {
            let mut fw = Firewall::with(with_helpers(setup.clone()));
            let mut control = Control::ftp(&mut fw, CLIENT);
            let bare = control.client_segment("", 0).build().len();
            let command = "PORT 192,168,1,2,156,64\r\n";
            let rest = format!("SITE {}\r\n", "x".repeat(len - bare - command.len() - 7));
            let said = format!("{command}{rest}");
            let heard =
                if fits { format!("PORT 203,0,113,100,156,64\r\n{rest}") } else { said.clone() };
            control.client_says(&mut fw, &said, &heard);
            assert_eq!(expectations(&fw), u32::from(fits), "{len}");
            assert_eq!(fw.values().helpers_declined, u64::from(!fits));
            control.goes_on(&mut fw);
        }
    });
}

/// C124: it fitted when it was alone, and comes again in a longer segment.
#[test]
fn a_changed_text_that_comes_again_in_too_long_a_segment_is_answered() {
    let mut fw = Firewall::with(with_helpers(Setup::default()));
    let mut control = Control::ftp(&mut fw, CLIENT);
    let command = "PORT 192,168,1,2,156,64\r\n";
    control.client_says(&mut fw, command, "PORT 203,0,113,100,156,64\r\n");
    let back = command.len() as u32;
    let bare = control.client_segment("", 0).build().len();
    let longer = format!("{command}{}", "x".repeat(1500 - bare - command.len()));
    let sent = fw.lan(control.client_segment(&longer, back));
    assert_eq!(sent.reason(), DropReason::MtuExceeded);
    let mtu = match sent.answer(LAN).body {
        Body::Icmp { kind: 3, code: 4, rest, .. } => u16::from_be_bytes([rest[2], rest[3]]),
        _ => panic!("{}", sent.describe()),
    };
    assert_eq!(mtu, 1498);
}

/// C124: what may be fragmented on its way is, if its text makes it too long.
#[test]
fn a_segment_that_outgrows_the_mtu_and_may_be_fragmented_leaves_in_two() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(with_helpers(setup));
        let control = Control::ftp(&mut fw, CLIENT);
        let bare = control.client_segment("", 0).build().len();
        let command = "PORT 192,168,1,2,156,64\r\n";
        let rest = format!("SITE {}\r\n", "x".repeat(1500 - bare - command.len() - 7));
        let sent = control.client_segment(&format!("{command}{rest}"), 0).may_fragment();
        let out = fw.lan(&sent);
        let parts: Vec<_> = out.outs.iter().map(|out| out.l3().to_vec()).collect();
        assert_eq!(parts.len(), 2, "{}", out.describe());
        let arrived = Pkt::decode(&reassemble(&parts).unwrap()).unwrap();
        let heard = format!("PORT 203,0,113,100,156,64\r\n{rest}");
        assert_eq!(arrived, control.at_server(&sent, &heard, 0));
        assert_eq!(expectations(&fw), 1);
    });
}

/// C114, C175: what finds no place in the table has not come true.
#[test]
fn a_full_table_does_not_use_up_an_expectation() {
    let mut fw = Firewall::with(with_helpers(Setup::default().capacity(64)));
    let mut control = Control::ftp(&mut fw, CLIENT);
    control.client_says(&mut fw, "PORT 192,168,1,2,156,64\r\n", "PORT 203,0,113,100,156,64\r\n");
    let mut others: Vec<_> = (0..63u16)
        .map(|n| Flow::outward(("192.168.1.3", 2_000 + n), "192.0.2.10:80").open(&mut fw))
        .collect();
    others.iter_mut().for_each(|flow| flow.talk(&mut fw));
    let data = syn((SERVER, 20), (OUTER, 40_000));
    assert_eq!(fw.wan(&data).dropped(), DropReason::TableFull);
    assert_eq!(expectations(&fw), 1);
    others[0].client_fin(&mut fw);
    others[0].server_fin(&mut fw);
    assert_eq!(fw.wan(&data).out(LAN), data.hop().to("192.168.1.2:40000"));
}

/// C125
#[test]
fn segments_out_of_order_are_shifted_once_or_not_at_all() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(with_helpers(setup));
        let mut control = Control::ftp(&mut fw, CLIENT);
        let early = "NOOP\r\n";
        control.client_says(&mut fw, early, early);
        let (command, rewritten) = ("PORT 192,168,1,2,156,64\r\n", "PORT 203,0,113,100,156,64\r\n");
        let first = control.client_segment(command, 0);
        control.heard_from_client(command, command);
        let second = control.client_segment("LIST\r\n", 0);
        control.flow.seq[0] = control.flow.seq[0].wrapping_sub(command.len() as u32);

        // The one behind it comes first: it has to come again, whatever becomes of the one before.
        assert_eq!(fw.lan(&second).dropped(), DropReason::HelperAhead);
        assert_eq!(fw.lan(&first).out(WAN), control.at_server(&first, rewritten, 0));
        assert_eq!(fw.lan(&second).out(WAN), control.at_server(&second, "LIST\r\n", 2));
        // Both again, and one from before.
        assert_eq!(fw.lan(&second).out(WAN), control.at_server(&second, "LIST\r\n", 2));
        assert_eq!(fw.lan(&first).out(WAN), control.at_server(&first, rewritten, 0));
        let before = control.client_segment(early, early.len() as u32);
        assert_eq!(fw.lan(&before).out(WAN), control.at_server(&before, early, 0));
        // All in one.
        let all = control.client_segment(&format!("{early}{command}LIST\r\n"), early.len() as u32);
        let expected = format!("{early}{rewritten}LIST\r\n");
        assert_eq!(fw.lan(&all).out(WAN), control.at_server(&all, &expected, 0));
        // A part of the changed text cannot be told.
        let part = control.client_segment(&command[..12], 0);
        assert_eq!(fw.lan(&part).dropped(), DropReason::HelperSplit);
        assert_eq!(expectations(&fw), 1, "it is one command however often it comes");
    });
}

/// C125: whoever keeps sending ahead of what never comes is let through in the end, and the helper gives up on it.
#[test]
fn a_connection_with_a_hole_goes_on() {
    let mut fw = Firewall::with(with_helpers(Setup::default()));
    let mut control = Control::ftp(&mut fw, CLIENT);
    control.heard_from_client("MISSED\r\n", "MISSED\r\n");
    let ahead = control.client_segment("NOOP\r\n", 0);
    for _ in 0..8 {
        assert_eq!(fw.lan(&ahead).dropped(), DropReason::HelperAhead);
    }
    assert_eq!(fw.lan(&ahead).out(WAN), control.at_server(&ahead, "NOOP\r\n", 0));
}

/// RFC 2018: SACK blocks are the other side's numbers too.
#[test]
fn acknowledgments_and_sack_blocks_are_shifted_back() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(with_helpers(setup));
        let mut control = Control::ftp(&mut fw, CLIENT);
        control.client_says(
            &mut fw,
            "PORT 192,168,1,2,156,64\r\n",
            "PORT 203,0,113,100,156,64\r\n",
        );
        let acked = control.flow.seq[0];
        control.flow.seq[0] = acked.wrapping_add(10);
        let sack = |left: u32, right: u32| {
            let mut option = vec![1, 1, 5, 10];
            option.extend(left.to_be_bytes());
            option.extend(right.to_be_bytes());
            option
        };
        let with = |ack: u32, shift: u32| {
            let mut pkt = control.flow.server_segment().ack(ack.wrapping_add(shift));
            let Body::Tcp(tcp) = &mut pkt.body else { unreachable!() };
            tcp.options = sack(
                acked.wrapping_add(5).wrapping_add(shift),
                acked.wrapping_add(8).wrapping_add(shift),
            );
            pkt
        };
        let arrived = fw.wan(with(acked, 2)).out(LAN);
        assert_eq!(arrived, control.flow.at_client(&with(acked, 0)));
    });
}

/// What waits for its next hop was changed once and is not changed again when it is taken up.
#[test]
fn a_command_that_waits_for_its_next_hop_is_changed_once() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(with_helpers(setup));
        let mut control = Control::ftp(&mut fw, CLIENT);
        let (command, rewritten) = ("PORT 192,168,1,2,156,64\r\n", "PORT 203,0,113,100,156,64\r\n");
        let sent = control.client_segment(command, 0);
        fw.neighbour(WAN, "203.0.113.1", NeighbourState::Incomplete);
        fw.lan(&sent).held();
        fw.lan(&sent).held();
        fw.neighbour(WAN, "203.0.113.1", NeighbourState::Reachable);
        let expected = control.at_server(&sent, rewritten, 0);
        assert_eq!(fw.resume().all(WAN), [expected.clone(), expected]);
        control.heard_from_client(command, rewritten);
        control.server_acks(&mut fw);
        control.goes_on(&mut fw);
        assert_eq!(expectations(&fw), 1);
    });
}

/// TFTP: the server answers from a port of its own.
#[test]
fn tftp_is_answered_from_another_port_both_ways() {
    for_workers([1, 2, 4], |setup| {
        let request =
            |from: (&str, u16), to: (&str, u16)| udp(from, to).payload("\0\x01file\0octet\0");
        let data = |from: (&str, u16), to: (&str, u16)| udp(from, to).payload("\0\x03\0\x01data");
        let mut fw = Firewall::with(with_helpers(setup.clone()));
        let asked = fw.lan(request((CLIENT, 2000), (SERVER, 69))).out(WAN);
        let outer = (OUTER, asked.source().port());
        refused(&fw.wan(data(("192.0.2.66", 3000), outer)));
        let answer = data((SERVER, 3000), outer);
        assert_eq!(fw.wan(&answer).out(LAN), answer.hop().to((CLIENT, 2000)));
        let ack = udp((CLIENT, 2000), (SERVER, 3000)).payload("\0\x04\0\x01");
        assert_eq!(fw.lan(&ack).out(WAN), ack.hop().from((OUTER, outer.1)));
        refused(&fw.wan(data((SERVER, 3001), outer)));

        let setup = with_helpers(setup).forward(protocol::UDP, (69, 69), "192.168.1.10:69");
        let mut fw = Firewall::with(setup);
        fw.wan(request(("192.0.2.7", 2000), (OUTER, 69))).out(LAN);
        let answer = data(("192.168.1.10", 3000), ("192.0.2.7", 2000));
        let arrived = fw.lan(&answer).out(WAN);
        assert_eq!(arrived, answer.hop().from((OUTER, arrived.source().port())));
        let ack = udp("192.0.2.7:2000", arrived.source()).payload("\0\x04\0\x01");
        assert_eq!(fw.wan(&ack).out(LAN), ack.hop().to("192.168.1.10:3000"));
    });
}

/// What helpers do not change, they leave as it is: not a byte, not a number.
#[test]
fn a_connection_with_a_helper_is_otherwise_like_any_other() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(with_helpers(setup));
        let mut flow = Flow::outward((CLIENT, 50_000), (SERVER, 21)).open(&mut fw);
        flow.talk(&mut fw);
        flow.client_fin(&mut fw);
        flow.server_fin(&mut fw);
    });
}

/// C125: however segments are cut, lost, repeated and reordered, the server gets one stream: the client's, with
/// the endpoints of the commands that were understood written over; and the client learns of every byte that
/// arrived.
#[test]
fn any_order_of_segments_makes_one_stream() {
    for seed in 0..60 {
        let mut draw = Draw::new(seed);
        let mut fw = Firewall::with(with_helpers(Setup::default().workers(1 + (seed % 2) as u8)));
        let control = Control::ftp(&mut fw, if seed % 3 == 0 { OTHER_CLIENT } else { CLIENT });
        let client = control.flow.client.ip().to_string().replace('.', ",");
        let mut stream = String::new();
        let mut line_ends = vec![0];
        for number in 0..12 {
            stream += &match draw.below(3) {
                0 => format!("PORT {client},{},{}\r\n", 40 + number, draw.below(256)),
                _ => format!("STOR {}\r\n", "x".repeat(draw.below(30))),
            };
            line_ends.push(stream.len());
        }

        let begin = control.flow.seq[0];
        // What the server has, by its own count; what it acknowledged; what the client knows to have arrived.
        let mut received: Vec<Option<u8>> = vec![None; stream.len() + 1000];
        let (mut acked, mut known) = (0usize, 0usize);
        let mut steps = 0;
        while known < stream.len() {
            steps += 1;
            assert!(steps < 5_000, "seed {seed}: stuck at {known} of {}", stream.len());
            // From what is not acknowledged yet, often at the end of a line.
            let from = known.saturating_sub(draw.below(2) * draw.below(40));
            let ahead = if draw.below(4) == 0 { draw.below(80) } else { 0 };
            let mut from = (from + ahead).min(stream.len() - 1);
            if draw.below(2) == 0 {
                from = *line_ends.iter().rfind(|&&end| end <= from).unwrap();
            }
            let mut to = (from + 1 + draw.below(60)).min(stream.len());
            if draw.below(2) == 0 {
                to = *line_ends.iter().find(|&&end| end >= to).unwrap();
            }
            let mut segment = control.client_segment(&stream[from..to], 0);
            segment = segment.seq(begin.wrapping_add(from as u32));
            let sent = fw.lan(&segment);
            if !sent.outs.is_empty() && draw.below(5) != 0 {
                let arrived = sent.out(WAN);
                let at = arrived.tcp().seq.wrapping_sub(begin) as usize;
                for (offset, &byte) in arrived.tcp().payload.iter().enumerate() {
                    // As any receiver: what was acknowledged is not looked at again.
                    if (at as i32).wrapping_add(offset as i32) < acked as i32 {
                        continue;
                    }
                    let place = &mut received[at + offset];
                    assert!(place.is_none_or(|b| b == byte), "seed {seed}: byte {}", at + offset);
                    *place = Some(byte);
                }
            }
            while received[acked].is_some() {
                acked += 1;
            }
            if draw.below(3) == 0 {
                let ack = control.server_segment("").ack(begin.wrapping_add(acked as u32));
                let arrived = fw.wan(&ack).out(LAN);
                let now = arrived.tcp().ack.wrapping_sub(begin) as usize;
                assert!(now >= known && now <= stream.len(), "seed {seed}");
                known = now;
            }
        }
        let bytes: Vec<u8> = received.into_iter().map_while(|b| b).collect();
        let heard = String::from_utf8(bytes).unwrap();
        let back = heard.replace("PORT 203,0,113,100,", &format!("PORT {client},"));
        assert_eq!(back, stream, "seed {seed}");
    }
}

/// Whatever is said on a connection with a helper, in whatever order, nothing panics and the books balance.
#[test]
fn no_bytes_upset_a_connection_with_a_helper() {
    const WORDS: [&str; 12] = [
        "PORT 192,168,1,2,156,64\r\n",
        "EPRT |1|192.168.1.2|40000|\r\n",
        "PASV\r\n",
        "227 Entering Passive Mode (192,0,2,9,156,64).\r\n",
        "229 Entering Extended Passive Mode (|||40000|)\r\n",
        "PRIVMSG bob :\x01DCC SEND a 3232235778 40000 1\x01\r\n",
        "\0\x01file\0octet\0",
        "220-\r\n",
        "220 \r\n",
        "PORT 192,168,1,2,",
        "\r\n",
        "x",
    ];
    for seed in 0..40 {
        let mut draw = Draw::new(seed);
        let mut fw = Firewall::with(with_helpers(Setup::default().liberal()));
        let port = [21, 6667, 69][seed as usize % 3];
        let mut flow = Flow::outward((CLIENT, 50_000), (SERVER, port));
        if port != 69 {
            flow = flow.open(&mut fw);
        }
        for _ in 0..200 {
            let mut text = String::new();
            for _ in 0..draw.below(4) {
                text += WORDS[draw.below(WORDS.len())];
            }
            let mut bytes = text.into_bytes();
            for _ in 0..draw.below(3) {
                if !bytes.is_empty() {
                    let at = draw.below(bytes.len());
                    bytes[at] = draw.bits() as u8;
                }
            }
            let far = draw.below(20) == 0;
            let shift =
                if far { draw.bits() as u32 } else { draw.below(80) as u32 }.wrapping_sub(20);
            let len = bytes.len() as u32;
            if port == 69 {
                fw.send_no_looks(LAN, udp((CLIENT, 50_000), (SERVER, 69)).payload(bytes));
                continue;
            }
            let client = draw.below(2) == 0;
            let mut sent = if client { flow.client_segment() } else { flow.server_segment() };
            let (seq, ack) = (sent.tcp().seq, sent.tcp().ack);
            sent = sent.seq(seq.wrapping_add(shift)).ack(ack.wrapping_add(draw.below(5) as u32));
            sent = sent.tcp_options(&bytes[..bytes.len().min(12)]).payload(bytes);
            fw.send_no_looks(if client { LAN } else { WAN }, sent);
            let side = usize::from(!client);
            flow.seq[side] = flow.seq[side].wrapping_add(if draw.below(2) == 0 { len } else { 0 });
        }
        assert!(expectations(&fw) <= 8);
    }
}
