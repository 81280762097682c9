//! Calls: out, in by a forward, over IPv6, behind rules; and their media.

use postern_core::conntrack::entry::flags;
use postern_core::forward::NeighbourState;
use postern_tests::packet::udp;
use postern_tests::{Firewall, HOST_LAN, LAN, WAN, for_workers};

use super::*;
use crate::{OTHER_CLIENT, connection_flags, expectations, refused};

/// RTP and RTCP are two ports of a pair, each way, and RELATED.
#[test]
fn a_call_is_translated_and_its_media_cross_both_ways() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(strict(setup));
        call(&mut fw, 40_000);
        assert_eq!(expectations(&fw), 4);
        // From outside RTP comes first, from inside RTCP.
        let sound = rtp((SERVER, 30_000), (OUTER, 40_000));
        assert_eq!(fw.wan(&sound).out(LAN), sound.hop().to((CLIENT, 40_000)));
        assert_ne!(connection_flags(&fw, 30_000, 40_000) & flags::EXPECTED, 0);
        let answer = rtp((CLIENT, 40_000), (SERVER, 30_000));
        assert_eq!(fw.lan(&answer).out(WAN), answer.hop().from((OUTER, 40_000)));
        let report = rtp((CLIENT, 40_001), (SERVER, 30_001));
        assert_eq!(fw.lan(&report).out(WAN), report.hop().from((OUTER, 40_001)));
        let answer = rtp((SERVER, 30_001), (OUTER, 40_001));
        assert_eq!(fw.wan(&answer).out(LAN), answer.hop().to((CLIENT, 40_001)));
        refused(&fw.wan(rtp(("192.0.2.66", 30_000), (OUTER, 40_000))));
        refused(&fw.wan(rtp((SERVER, 30_000), (OUTER, 40_002))));
        refused(&fw.lan(rtp((CLIENT, 40_000), (SERVER, 30_002))));
    });
}

/// Two phones with one port for media: the second one is announced by another, and its media come from there.
#[test]
fn media_appear_from_the_port_that_was_announced() {
    for_workers([1, 2, 4], |setup| {
        for from_inside in [true, false] {
            let mut fw = Firewall::with(strict(setup.clone()));
            call(&mut fw, 40_000);
            let other = (OTHER_CLIENT, 5062);
            let at = format!("{OTHER_CLIENT}:5062");
            let sent = udp(other, PROXY).payload(invite(&at, 1, &sdp(OTHER_CLIENT, 40_000)));
            let heard = fw.lan(&sent).out(WAN);
            let seen = heard.source();
            let text = payload(&heard);
            let port = text.split("m=audio ").nth(1).unwrap().split(' ').next().unwrap();
            let port: u16 = port.parse().unwrap();
            assert!(port != 40_000 && port.is_multiple_of(2), "{port}");
            assert_eq!(text, invite(&seen.to_string(), 1, &sdp(OUTER, port)));
            assert_eq!(fw.lan(&sent).out(WAN), heard, "again, to the byte");
            let body = sdp(SERVER, 30_002);
            let answer = response(&seen.to_string(), "200 OK", "1 INVITE", &body);
            let answer = fw.wan(udp(PROXY, seen).payload(answer)).out(LAN);
            assert_eq!(payload(&answer), response(&at, "200 OK", "1 INVITE", &body));

            for (here, there, outside) in [(40_000, 30_002, port), (40_001, 30_003, port + 1)] {
                let inward = rtp((SERVER, there), (OUTER, outside));
                let outward = rtp((OTHER_CLIENT, here), (SERVER, there));
                if from_inside {
                    assert_eq!(
                        fw.lan(&outward).out(WAN),
                        outward.clone().hop().from((OUTER, outside))
                    );
                }
                assert_eq!(fw.wan(&inward).out(LAN), inward.hop().to((OTHER_CLIENT, here)));
                assert_eq!(fw.lan(&outward).out(WAN), outward.hop().from((OUTER, outside)));
            }
        }
    });
}

/// An offer in the response and an answer in ACK (RFC 3264 §5): the pairs of ports are known once both are.
#[test]
fn an_offer_may_come_late() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(strict(setup).forward_udp(40_000, "192.168.1.77:9"));
        let (phone, seen) = (phone_sip(), seen_sip());
        out(&mut fw, &request("INVITE", &phone, 1), &request("INVITE", &seen, 1));
        let offer = sdp(SERVER, 30_000);
        back(
            &mut fw,
            &response(&seen, "200 OK", "1 INVITE", &offer),
            &response(&phone, "200 OK", "1 INVITE", &offer),
        );
        let ack = |at: &str, body: &str| {
            invite(at, 1, body).replace("INVITE sip", "ACK sip").replace("1 INVITE", "1 ACK")
        };
        let sent = udp(PHONE, PROXY).payload(ack(&phone, &sdp(CLIENT, 40_000)));
        let heard = payload(&fw.lan(&sent).out(WAN));
        let port: u16 = heard.split("m=audio ").nth(1).unwrap()[..5].trim().parse().unwrap();
        assert_ne!(port, 40_000, "that is forwarded elsewhere");
        assert_eq!(heard, ack(&seen, &sdp(OUTER, port)));
        let sound = rtp((CLIENT, 40_000), (SERVER, 30_000));
        assert_eq!(fw.lan(&sound).out(WAN), sound.hop().from((OUTER, port)));
    });
}

/// A first message that waits for its next hop is translated once.
#[test]
fn a_message_that_waits_for_its_next_hop_is_changed_once() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(strict(setup));
        let sent = udp(PHONE, PROXY).payload(invite(&phone_sip(), 1, &sdp(CLIENT, 40_000)));
        let heard = invite(&seen_sip(), 1, &sdp(OUTER, 40_000));
        fw.neighbour(WAN, "203.0.113.1", NeighbourState::Incomplete);
        fw.lan(&sent).held();
        fw.neighbour(WAN, "203.0.113.1", NeighbourState::Reachable);
        assert_eq!(fw.resume().all(WAN), [sent.hop().from(SEEN).payload(heard)]);
        assert_eq!(expectations(&fw), 2);
    });
}

/// BYE, a refusal, and one that comes late for a request before the last.
#[test]
fn media_are_expected_until_the_call_is_over() {
    for_workers([1, 2, 4], |setup| {
        for end in ["BYE", "486 Busy Here", "487 Request Terminated", "deletion"] {
            let mut fw = Firewall::with(strict(setup.clone()));
            let (phone, seen) = (phone_sip(), seen_sip());
            call(&mut fw, 40_000);
            match end {
                "BYE" => out(&mut fw, &request("BYE", &phone, 2), &request("BYE", &seen, 2)),
                "deletion" => {
                    let id = fw.connection().id;
                    assert!(fw.delete(id));
                }
                status => {
                    back(
                        &mut fw,
                        &response(&seen, status, "0 INVITE", ""),
                        &response(&phone, status, "0 INVITE", ""),
                    );
                    assert_eq!(expectations(&fw), 4, "of another request");
                    back(
                        &mut fw,
                        &response(&seen, status, "1 INVITE", ""),
                        &response(&phone, status, "1 INVITE", ""),
                    );
                }
            }
            assert_eq!(expectations(&fw), 0, "{end}");
            refused(&fw.wan(rtp((SERVER, 30_000), (OUTER, 40_000))));
        }
        let mut fw = Firewall::with(strict(setup));
        call(&mut fw, 40_000);
        fw.pass_secs(179);
        assert_eq!(expectations(&fw), 4);
        fw.pass_secs(1);
        refused(&fw.wan(rtp((SERVER, 30_000), (OUTER, 40_000))));
    });
}

/// A new INVITE within the call replaces what the one before announced; a call on hold announces nothing.
#[test]
fn a_call_that_changes_its_media_is_followed() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(strict(setup));
        let (phone, seen) = (phone_sip(), seen_sip());
        call(&mut fw, 40_000);
        out(
            &mut fw,
            &invite(&phone, 2, &sdp(CLIENT, 40_010)),
            &invite(&seen, 2, &sdp(OUTER, 40_010)),
        );
        assert_eq!(expectations(&fw), 2);
        refused(&fw.wan(rtp((SERVER, 30_000), (OUTER, 40_000))));
        let sound = rtp((SERVER, 30_000), (OUTER, 40_010));
        assert_eq!(fw.wan(&sound).out(LAN), sound.hop().to((CLIENT, 40_010)));

        let hold =
            "v=0\no=- 1 1 IN IP4 0.0.0.0\ns=-\nc=IN IP4 0.0.0.0\nt=0 0\nm=audio 40010 RTP/AVP 0\n";
        out(&mut fw, &invite(&phone, 3, hold), &invite(&seen, 3, hold));
        assert_eq!(expectations(&fw), 0);
        // And on with it.
        out(
            &mut fw,
            &invite(&phone, 4, &sdp(CLIENT, 40_010)),
            &invite(&seen, 4, &sdp(OUTER, 40_010)),
        );
        assert_eq!(expectations(&fw), 2);
    });
}

/// Several media, each with what is its own; those that are not wanted stay.
#[test]
fn each_medium_of_a_session_is_expected() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(strict(setup));
        let body = |address: &str| {
            format!(
                "v=0\no=- 1 1 IN IP4 {address}\ns=-\nt=0 0\n\
                 m=audio 40000 RTP/AVP 0\nc=IN IP4 {address}\na=rtcp:40101 IN IP4 {address}\n\
                 m=video 0 RTP/AVP 99\nc=IN IP4 {address}\n\
                 m=video 40002 RTP/SAVP 99\nc=IN IP4 {address}\na=rtcp:40002\n\
                 m=image 40005 udptl t38\nc=IN IP4 {address}\n\
                 m=audio 40006 RTP/AVP 0\nc=IN IP4 192.168.1.3\n\
                 m=application 40008 UDP/BFCP *\nc=IN IP4 {address}\n"
            )
        };
        out(
            &mut fw,
            &invite(&phone_sip(), 1, &body(CLIENT)),
            &invite(&seen_sip(), 1, &body(OUTER)),
        );
        let expected = [40_000, 40_101, 40_002, 40_005, 40_004];
        assert_eq!(expectations(&fw), expected.len() as u32);
        for port in expected {
            let sound = rtp((SERVER, 31_000), (OUTER, port));
            assert_eq!(fw.wan(&sound).out(LAN), sound.hop().to((CLIENT, port)), "{port}");
        }
        for port in [40_001, 40_003, 40_006, 40_008] {
            refused(&fw.wan(rtp((SERVER, 31_000), (OUTER, port))));
        }
    });
}

/// Behind a forward: the one who calls is outside, and what the PBX says is translated.
#[test]
fn a_pbx_behind_a_forward_is_called() {
    for_workers([1, 2, 4], |setup| {
        let setup = strict(setup).forward_udp(5060, "192.168.1.10:5060");
        let mut fw = Firewall::with(setup);
        let (pbx, seen) = ("192.168.1.10:5060", seen_sip());
        let call = udp((SERVER, 6000), SEEN).payload(incoming(&seen, &sdp(SERVER, 30_000)));
        let heard = incoming(pbx, &sdp(SERVER, 30_000));
        assert_eq!(fw.wan(&call).out(LAN), call.hop().to(pbx).payload(heard));

        let answer = |at: &str, address: &str| {
            message(
                &format!(
                    "SIP/2.0 200 OK
Via: SIP/2.0/UDP {SERVER}:6000;branch=z9hG4bKi
From: <sip:carol@example.org>;tag=5
To: <sip:alice@{at}>;tag=6
Call-ID: two@proxy
CSeq: 9 INVITE
Contact: <sip:alice@{at}>
Content-Type: application/sdp
"
                ),
                &sdp(address, 10_000),
            )
        };
        let sent = udp(pbx, (SERVER, 6000)).payload(answer(pbx, "192.168.1.10"));
        assert_eq!(fw.lan(&sent).out(WAN), sent.hop().from(SEEN).payload(answer(&seen, OUTER)));
        assert_eq!(expectations(&fw), 4);
        let sound = rtp((SERVER, 30_000), (OUTER, 10_000));
        assert_eq!(fw.wan(&sound).out(LAN), sound.hop().to("192.168.1.10:10000"));
        let report = rtp(("192.168.1.10", 10_001), (SERVER, 30_001));
        assert_eq!(fw.lan(&report).out(WAN), report.hop().from((OUTER, 10_001)));
    });
}

/// Between two phones behind the appliance that call through a proxy outside: the signalling is translated both ways, and
/// media go by what relays them. Who is told the other one's external endpoint does not reach him there (`sip_direct_media`).
#[test]
fn two_phones_behind_the_appliance_talk_through_a_relay() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(with_helpers(setup));
        call(&mut fw, 40_000);
        let other = (OTHER_CLIENT, 5062);
        let seen = fw.lan(udp(other, PROXY).payload(register(
            &format!("{OTHER_CLIENT}:5062"),
            &format!("{OTHER_CLIENT}:5062"),
            1,
            "",
        )));
        let seen = seen.out(WAN).source();
        // The proxy passes the first one's session on as it is: a third host's.
        let relayed = incoming(&seen.to_string(), &sdp(OUTER, 40_000));
        let heard = incoming(&format!("{OTHER_CLIENT}:5062"), &sdp(OUTER, 40_000));
        assert_eq!(payload(&fw.wan(udp(PROXY, seen).payload(relayed)).out(LAN)), heard);
        let sent = fw.lan(rtp((OTHER_CLIENT, 42_000), (OUTER, 40_000)));
        assert!(sent.outs.iter().all(|out| out.at == HOST_LAN), "{}", sent.describe());
        // It relays: then it names itself.
        let relayed =
            incoming(&seen.to_string(), &sdp(SERVER, 32_000)).replace("9 INVITE", "10 INVITE");
        fw.wan(udp(PROXY, seen).payload(relayed)).out(LAN);
        let sound = rtp((OTHER_CLIENT, 42_000), (SERVER, 32_000));
        assert_eq!(fw.lan(&sound).out(WAN), sound.hop().from((OUTER, 42_000)));
    });
}

/// Over IPv6 nothing is translated, and media are expected all the same.
#[test]
fn a_call_over_ipv6_is_expected_and_left_as_it_is() {
    for_workers([1, 2, 4], |setup| {
        let (phone, proxy) = ("2001:db8:1::10", "2001:db8:9::9");
        let mut setup = with_helpers(setup);
        setup.ip6tables(
            "-I FORWARD 1 -i lan -p udp ! --dport 5060 -m conntrack --ctstate NEW -j DROP",
        );
        let mut fw = Firewall::with(setup);
        let six = |text: String| text.replace("IP4", "IP6");
        let said = invite(&format!("[{phone}]:5060"), 1, &six(sdp(phone, 40_000)));
        let sent = udp((phone, 5060), (proxy, 5060)).payload(&said);
        assert_eq!(fw.lan(&sent).out(WAN), sent.hop());
        let answer = response("h:5060", "200 OK", "1 INVITE", &six(sdp(proxy, 30_000)));
        let answer = udp((proxy, 5060), (phone, 5060)).payload(answer);
        assert_eq!(fw.wan(&answer).out(LAN), answer.hop());
        assert_eq!(expectations(&fw), 4);
        let sound = rtp((proxy, 30_000), (phone, 40_000));
        assert_eq!(fw.wan(&sound).out(LAN), sound.hop());
        refused(&fw.wan(rtp(("2001:db8:9::8", 30_000), (phone, 40_001))));
        let report = rtp((phone, 40_001), (proxy, 30_001));
        assert_eq!(fw.lan(&report).out(WAN), report.hop());
    });
}

/// Behind a pool's address, and one to one, where every port is the host's own.
#[test]
fn a_phone_behind_rules_is_heard_where_it_says() {
    for_workers([1, 2, 4], |setup| {
        for (rule, outer) in [
            ("-t nat -A POSTROUTING -o wan -j SNAT --to-source 203.0.113.9", "203.0.113.9"),
            (
                "-t nat -A POSTROUTING -s 192.168.1.0/24 -o wan -j NETMAP --to 198.51.100.0/24",
                "198.51.100.2",
            ),
        ] {
            let mut setup = with_helpers(setup.clone().routed());
            setup.iptables(rule);
            let mut fw = Firewall::with(setup);
            let said = invite(&phone_sip(), 1, &sdp(CLIENT, 40_000));
            let heard = invite(&format!("{outer}:5060"), 1, &sdp(outer, 40_000));
            let sent = udp(PHONE, PROXY).payload(said);
            assert_eq!(payload(&fw.lan(&sent).out(WAN)), heard, "{rule}");
            let sound = rtp((SERVER, 30_000), (outer, 40_000));
            assert_eq!(fw.wan(&sound).out(LAN), sound.hop().to((CLIENT, 40_000)), "{rule}");
            let answer = rtp((CLIENT, 40_000), (SERVER, 30_000));
            assert_eq!(fw.lan(&answer).out(WAN), answer.hop().from((outer, 40_000)));
        }
        // Without translation: expected, and not a byte changed.
        let mut fw = Firewall::with(with_helpers(setup.routed()));
        let sent = udp(PHONE, PROXY).payload(invite(&phone_sip(), 1, &sdp(CLIENT, 40_000)));
        assert_eq!(fw.lan(&sent).out(WAN), sent.hop());
        let sound = rtp((SERVER, 30_000), (CLIENT, 40_000));
        assert_eq!(fw.wan(&sound).out(LAN), sound.hop());
    });
}

/// Whoever lets it ring for longer than media are expected is heard all the same once he answers.
#[test]
fn a_call_that_is_answered_late_has_its_media() {
    for wait in [1, 170, 181, 400] {
        let mut fw = Firewall::with(strict(Setup::default()));
        let (phone, seen) = (phone_sip(), seen_sip());
        let body = sdp(SERVER, 30_000);
        let (said, heard) =
            (invite(&phone, 1, &sdp(CLIENT, 40_000)), invite(&seen, 1, &sdp(OUTER, 40_000)));
        out(&mut fw, &said, &heard);
        for status in ["183 Session Progress", "200 OK"] {
            let [from, to] = [&seen, &phone].map(|at| response(at, status, "1 INVITE", &body));
            back(&mut fw, &from, &to);
            if status.starts_with("183") {
                fw.pass_secs(wait);
                // The caller is asked again meanwhile, as over UDP.
                out(&mut fw, &said, &heard);
            }
        }
        fw.lan(rtp((CLIENT, 40_000), (SERVER, 30_000))).out(WAN);
        fw.wan(rtp((SERVER, 30_000), (OUTER, 40_000))).out(LAN);
    }
}

/// Who knocks and is turned away keeps no record for an hour; who calls does.
#[test]
fn signalling_that_leads_to_nothing_is_forgotten_as_anything_else() {
    let mut fw =
        Firewall::with(with_helpers(Setup::default()).forward_udp(5060, "192.168.1.10:5060"));
    let options = message("OPTIONS sip:x@203.0.113.100 SIP/2.0\nCSeq: 1 OPTIONS\n", "");
    fw.wan(udp("198.51.100.7:2000", SEEN).payload(&options)).out(LAN);
    let refused = "SIP/2.0 404 No\r\nCSeq: 1 OPTIONS\r\n\r\n";
    fw.lan(udp("192.168.1.10:5060", "198.51.100.7:2000").payload(refused)).out(WAN);
    fw.wan(udp("198.51.100.7:2000", SEEN).payload(&options)).out(LAN);
    assert!(fw.connection().remaining_ms <= 300_000);
}
