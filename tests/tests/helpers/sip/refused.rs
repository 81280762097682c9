//! What opens nothing, and what is refused.

use postern_core::conntrack::tuple::protocol;
use postern_core::helper::{Helpers, Kind};
use postern_core::verdict::DropReason;
use postern_tests::fragments::cut;
use postern_tests::packet::{Body, udp};
use postern_tests::{Firewall, LAN, Sent, Setup, WAN, for_workers};

use super::*;
use crate::{expectations, refused};

/// C116: another port, or no helper.
#[test]
fn messages_on_other_ports_are_left_alone() {
    for_workers([1, 2], |setup| {
        let said = invite(&phone_sip(), 1, &sdp(CLIENT, 40_000));
        let with = |helpers| {
            let mut setup = with_helpers(setup.clone());
            setup.options.helpers = helpers;
            Firewall::with(setup)
        };
        let sip = Helpers::NONE.with(Kind::Sip);
        for (helpers, port, expected) in [
            (sip, 5060, 2),
            (sip, 5080, 0),
            (sip.with_sip_ports(&[5070, 5080]), 5080, 2),
            (sip.with_sip_ports(&[5070, 5080]), 5060, 0),
            (Helpers::NONE.with(Kind::Ftp), 5060, 0),
        ] {
            let mut fw = with(helpers);
            let heard = fw.lan(udp(PHONE, (SERVER, port)).payload(&said)).out(WAN);
            assert_eq!(expectations(&fw), expected);
            assert_eq!(payload(&heard) != said, expected != 0);
        }
    });
}

/// C121, C122: what is no message of the speaker's own opens nothing.
#[test]
fn nobody_speaks_for_others_or_from_the_middle_of_something() {
    for_workers([1, 2], |setup| {
        let own = |port: u16| invite(&phone_sip(), 1, &sdp(CLIENT, port));
        let passes = [
            format!("POST / HTTP/1.1\r\nContent-Length: 9999\r\n\r\n{}", own(40_000)),
            format!("\r\n\r\n{}", own(40_000)),
            format!("x{}", own(40_000)).replacen(' ', "  ", 1),
            own(40_000).replace("SIP/2.0\r\nVia", "SIP/1.0\r\nVia"),
            own(40_000).replace("application/sdp", "text/plain"),
            own(40_000).replace("Content-Length: ", "Content-Length: 9"),
        ];
        for said in passes {
            let mut fw = Firewall::with(with_helpers(setup.clone()));
            let sent = udp(PHONE, PROXY).payload(&said);
            let heard = payload(&fw.lan(&sent).out(WAN));
            if said.contains("text/plain") {
                assert!(heard.contains(CLIENT), "the body is nobody's business");
            } else {
                assert_eq!(heard, said);
            }
            assert_eq!(expectations(&fw), 0, "{said}");
        }
        let others = [
            sdp("192.168.1.3", 40_000),
            sdp(OUTER, 40_000),
            sdp("192.0.2.66", 40_000),
            sdp("192.168.1.1", 40_000),
            sdp("192.168.1.2.example.org", 40_000),
            session(
                "192.168.1.3",
                &format!("m=audio 40000 RTP/AVP 0\na=rtcp:40001 IN IP4 {CLIENT}\n"),
            ),
        ];
        for body in others {
            let mut fw = Firewall::with(with_helpers(setup.clone()));
            fw.lan(udp(PHONE, PROXY).payload(invite(&phone_sip(), 1, &body))).out(WAN);
            assert_eq!(expectations(&fw), 0, "{body}");
        }
        let dropped = [
            own(22),
            own(1023),
            invite(&phone_sip(), 1, &session(CLIENT, "m=audio 40000 RTP/AVP 0\na=rtcp:53\n")),
            own(40_000).replace("CSeq: 1 INVITE\r\n", ""),
            own(40_000).replace("CSeq: 1 INVITE", "CSeq: one INVITE"),
            own(40_000).replace("CSeq: 1 INVITE", "CSeq: 1 BYE"),
            own(40_000).replace("Content-Length", "l: 0\r\nContent-Length"),
            register(&phone_sip(), &phone_sip(), 1, ";expires=soon"),
            register(&phone_sip(), &phone_sip(), 1, &format!(",<sip:{CLIENT}>").repeat(60)),
        ];
        for said in dropped {
            let mut fw = Firewall::with(with_helpers(setup.clone()));
            let sent = fw.lan(udp(PHONE, PROXY).payload(&said));
            assert_eq!(sent.dropped(), DropReason::HelperMalformed, "{said}");
            assert_eq!(expectations(&fw), 0, "{said}");
            fw.pass_secs(100);
            assert!(fw.connections().is_empty(), "it leaves nothing behind");
        }
        for contact in
            ["192.168.1.3:5060", "192.168.1.2:1023", "192.168.1.1:5060", "192.0.2.66:5060"]
        {
            let mut fw = Firewall::with(with_helpers(setup.clone()));
            let said = register(&phone_sip(), contact, 1, ";expires=60");
            let heard = fw.lan(udp(PHONE, PROXY).payload(&said)).out(WAN);
            assert_eq!(expectations(&fw), 0, "{contact}");
            assert!(payload(&heard).contains(contact));
        }
    });
}

/// C123: as many media as are remembered, however many calls.
#[test]
fn of_many_calls_of_one_connection_the_last_ones_count() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(strict(setup));
        for call in 0..100 {
            let port = 40_000 + 2 * call;
            let said =
                invite(&phone_sip(), 1, &sdp(CLIENT, port)).replace("one@", &format!("{call}@"));
            fw.lan(udp(PHONE, PROXY).payload(said)).out(WAN);
        }
        assert_eq!(expectations(&fw), 32);
        refused(&fw.wan(rtp((SERVER, 30_000), (OUTER, 40_166))));
        fw.wan(rtp((SERVER, 30_000), (OUTER, 40_168))).out(LAN);
    });
}

/// What comes in fragments cannot be changed, and is refused where it would have to be; what is too long is answered.
#[test]
fn a_message_in_fragments_or_too_long_is_refused_with_a_reason() {
    for_workers([1, 2], |setup| {
        let long = |len: usize| {
            let said = invite(&phone_sip(), 1, &sdp(CLIENT, 40_000));
            let filler = format!("X: {}\r\n", "x".repeat(len - 5 - said.len()));
            said.replace("Content-Type", &format!("{filler}Content-Type"))
        };
        let mut fw = Firewall::with(with_helpers(setup.clone()));
        let whole = udp(PHONE, PROXY).payload(long(1400)).may_fragment().id(9);
        for piece in cut(&whole.build(), 9, &[800]) {
            assert!(fw.lan(piece).outs.is_empty());
        }
        assert_eq!(expectations(&fw), 0);
        // 1472 bytes are 1500 with their headers; translated it takes eleven more.
        let sent = fw.lan(udp(PHONE, PROXY).payload(long(1472)).df());
        assert_eq!(sent.reason(), DropReason::MtuExceeded);
        let mtu = match sent.answer(LAN).body {
            Body::Icmp { kind: 3, code: 4, rest, .. } => u16::from_be_bytes([rest[2], rest[3]]),
            _ => panic!("{}", sent.describe()),
        };
        let fits = usize::from(mtu) - 28;
        let heard = fw.lan(udp(PHONE, PROXY).payload(long(fits)).df()).out(WAN);
        assert_eq!(payload(&heard).len(), 1472);
        let sent = fw.lan(udp(PHONE, PROXY).payload(long(1472)).may_fragment());
        assert_eq!(sent.outs.len(), 2, "{}", sent.describe());
    });
}

/// No port outside: the message is refused, not passed on half done.
#[test]
fn without_a_port_for_its_media_a_call_is_refused() {
    let mut setup = with_helpers(Setup::default());
    setup.add_forward(protocol::UDP, (1024, 65_535), "192.168.1.77:1024");
    let mut fw = Firewall::with(setup);
    let sent: Sent = fw.lan(udp((CLIENT, 900), PROXY).payload(invite(
        &format!("{CLIENT}:900"),
        1,
        &sdp(CLIENT, 40_000),
    )));
    assert_eq!(sent.dropped(), DropReason::HelperFull);
    assert_eq!(expectations(&fw), 0);
}

/// A message that is refused opens nothing, whichever of its media was wrong.
#[test]
fn a_message_with_one_medium_at_a_low_port_opens_none() {
    let mut fw = Firewall::with(with_helpers(Setup::default()));
    fw.lan(udp(PHONE, PROXY).payload(request("OPTIONS", &phone_sip(), 1))).out(WAN);
    let media = "m=audio 40000 RTP/AVP 0\nm=video 22 RTP/AVP 99\n";
    let said = invite(&phone_sip(), 2, &session(CLIENT, media));
    assert_eq!(fw.lan(udp(PHONE, PROXY).payload(said)).dropped(), DropReason::HelperMalformed);
    assert_eq!(expectations(&fw), 0);
}
