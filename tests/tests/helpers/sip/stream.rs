//! SIP over TCP.

use postern_core::verdict::DropReason;
use postern_tests::{Firewall, Flow, LAN, WAN, for_workers};

use super::*;
use crate::control::Control;
use crate::expectations;

/// A connection to the proxy over TCP, from the port of the phone's endpoint.
fn over_tcp(fw: &mut Firewall) -> Control {
    let flow = Flow::outward(PHONE, PROXY).seqs(0xffff_ff00, 7_000);
    Control::open(fw, flow)
}

fn tcp_invite(at: &str, call: u32, address: &str, port: u16) -> String {
    invite(at, 1, &sdp(address, port)).replace("UDP", "TCP").replace("one@", &format!("{call}@"))
}

/// C125: each message of a segment is translated, however long, and numbers are shifted.
#[test]
fn over_tcp_whole_messages_are_translated() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(strict(setup));
        let mut control = over_tcp(&mut fw);
        let (phone, seen) = (phone_sip(), seen_sip());
        control.client_says(&mut fw, "\r\n\r\n", "\r\n\r\n");
        for call in 0..8 {
            let port = 40_000 + 4 * call as u16;
            let said = tcp_invite(&phone, call, CLIENT, port);
            let heard = tcp_invite(&seen, call, OUTER, port);
            let sent = control.client_segment(&said, 0);
            assert_eq!(fw.lan(&sent).out(WAN), control.at_server(&sent, &heard, control.grown[0]));
            control.client_says(&mut fw, &said, &heard); // it comes again
            let body = sdp(SERVER, 30_000);
            let answer = |at: &str| response(at, "200 OK", "1 INVITE", &body).replace("UDP", "TCP");
            control.server_says(&mut fw, &answer(&seen), &answer(&phone));
            control.client_says(&mut fw, "\r\n\r\n", "\r\n\r\n");
        }
        // Two in one segment.
        let options = |at: &str| request("OPTIONS", at, 5).replace("UDP", "TCP");
        let said = format!("{}\r\n{}", options(&phone), tcp_invite(&phone, 9, CLIENT, 40_100));
        let heard = format!("{}\r\n{}", options(&seen), tcp_invite(&seen, 9, OUTER, 40_100));
        control.client_says(&mut fw, &said, &heard);
        let sound = rtp((SERVER, 30_000), (OUTER, 40_100));
        assert_eq!(fw.wan(&sound).out(LAN), sound.hop().to((CLIENT, 40_100)));
    });
}

/// C125: segments that come again in other pieces.
#[test]
fn over_tcp_what_comes_again_is_the_same() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(with_helpers(setup));
        let mut control = over_tcp(&mut fw);
        let (phone, seen) = (phone_sip(), seen_sip());
        let (one, two) = (tcp_invite(&phone, 1, CLIENT, 40_000), request("OPTIONS", &phone, 2));
        let (heard_one, heard_two) =
            (tcp_invite(&seen, 1, OUTER, 40_000), request("OPTIONS", &seen, 2));
        let (two, heard_two) = (two.replace("UDP", "TCP"), heard_two.replace("UDP", "TCP"));
        let first = control.client_segment(&one, 0);
        let all = control.client_segment(&format!("{one}{two}"), 0);
        assert_eq!(fw.lan(&first).out(WAN), control.at_server(&first, &heard_one, 0));
        control.heard_from_client(&one, &heard_one);
        let second = control.client_segment(&two, 0);
        let grown = control.grown[0];
        control.heard_from_client(&two, &heard_two);
        let third = control.client_segment("\r\n\r\n", 0);
        assert_eq!(fw.lan(&third).dropped(), DropReason::HelperAhead);
        assert_eq!(fw.lan(&second).out(WAN), control.at_server(&second, &heard_two, grown));
        let both = format!("{heard_one}{heard_two}");
        assert_eq!(fw.lan(&all).out(WAN), control.at_server(&all, &both, 0));
        assert_eq!(fw.lan(&first).out(WAN), control.at_server(&first, &heard_one, 0));
        let part = control.client_segment(&two[..20], (two.len()) as u32);
        assert_eq!(fw.lan(&part).dropped(), DropReason::HelperSplit);
        assert_eq!(
            fw.lan(&third).out(WAN),
            control.at_server(&third, "\r\n\r\n", control.grown[0])
        );
        assert_eq!(expectations(&fw), 2, "it is one call however often it comes");
    });
}

/// C121: a message that does not end where its segment does stays as it is; the next one is found if its length was known.
#[test]
fn over_tcp_a_message_in_pieces_stays_and_opens_nothing() {
    for_workers([1, 2], |setup| {
        let (phone, seen) = (phone_sip(), seen_sip());
        let whole = tcp_invite(&phone, 1, CLIENT, 40_000);
        let body = whole.find("\r\n\r\n").unwrap() + 4;
        for (cut, goes_on) in [(body, true), (body + 10, true), (body - 30, false), (20, false)] {
            let mut fw = Firewall::with(with_helpers(setup.clone()));
            let mut control = over_tcp(&mut fw);
            control.client_says(&mut fw, &whole[..cut], &whole[..cut]);
            control.client_says(&mut fw, &whole[cut..], &whole[cut..]);
            assert_eq!(expectations(&fw), 0);
            assert_eq!(fw.values().helpers_declined, 1);
            let said = tcp_invite(&phone, 2, CLIENT, 40_002);
            let heard = if goes_on { tcp_invite(&seen, 2, OUTER, 40_002) } else { said.clone() };
            control.client_says(&mut fw, &said, &heard);
            assert_eq!(expectations(&fw), 2 * u32::from(goes_on), "{cut}");
        }
        // What is not SIP is left alone for good: a browser that was told to send this.
        for foreign in ["POST / HTTP/1.1\r\nContent-Length: 2000\r\n\r\n", "x\r\n"] {
            let mut fw = Firewall::with(with_helpers(setup.clone()));
            let mut control = over_tcp(&mut fw);
            control.client_says(&mut fw, foreign, foreign);
            control.client_says(&mut fw, &whole, &whole);
            assert_eq!(expectations(&fw), 0);
        }
        // A body that holds a message is a body.
        let mut fw = Firewall::with(with_helpers(setup));
        let mut control = over_tcp(&mut fw);
        let said = message("MESSAGE sip:b@example.org SIP/2.0\nCSeq: 1 MESSAGE\n", &whole);
        control.client_says(&mut fw, &said, &said);
        assert_eq!(expectations(&fw), 0);
    });
}
