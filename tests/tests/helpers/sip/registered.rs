//! Phones that register, and are called.

use postern_core::conntrack::entry::flags;
use postern_tests::packet::udp;
use postern_tests::{Firewall, LAN, WAN, for_workers};

use super::*;
use crate::{connection_flags, expectations, refused};

/// Registers the phone, and has it agreed to for an hour.
fn registers(fw: &mut Firewall) {
    let (phone, seen) = (phone_sip(), seen_sip());
    out(
        fw,
        &register(&phone, &phone, 1, ";expires=3600"),
        &register(&seen, &seen, 1, ";expires=3600"),
    );
    let challenge = "401 Unauthorized";
    back(
        fw,
        &registered(challenge, &seen, &seen, 1, ""),
        &registered(challenge, &phone, &phone, 1, ""),
    );
    refused(&fw.wan(udp((SERVER, 6000), SEEN).payload(incoming(&seen, ""))));
    out(
        fw,
        &register(&phone, &phone, 2, ";expires=3600"),
        &register(&seen, &seen, 2, ";expires=3600"),
    );
    let agreed = |at: &str| registered("200 OK", at, at, 2, ";expires=3600");
    back(fw, &agreed(&seen), &agreed(&phone));
    assert_eq!(expectations(fw), 1);
}

#[test]
fn a_registered_phone_is_called_by_its_registrar_and_by_nobody_else() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(strict(setup));
        registers(&mut fw);
        let (phone, seen) = (phone_sip(), seen_sip());
        refused(&fw.wan(udp(("192.0.2.66", 6000), SEEN).payload(incoming(&seen, ""))));
        // From any of its ports, and more than once.
        for (number, port) in [(0, 6000), (1, 6001), (2, 7000)] {
            let media = 50_000 + 2 * number;
            let sent = udp((SERVER, port), SEEN).payload(incoming(&seen, &sdp(SERVER, media)));
            let heard = incoming(&phone, &sdp(SERVER, media));
            assert_eq!(fw.wan(&sent).out(LAN), sent.hop().to(PHONE).payload(heard));
            let found = connection_flags(&fw, port, 5060);
            assert_eq!(found & (flags::EXPECTED | flags::HELPED), flags::EXPECTED | flags::HELPED);
            assert_eq!(expectations(&fw), 3 + u32::from(number), "RTP has come, RTCP not");
            let sound = rtp((CLIENT, 41_000), (SERVER, media));
            assert_eq!(fw.lan(&sound).out(WAN), sound.hop().from((OUTER, 41_000)));
        }
    });
}

#[test]
fn a_registration_lasts_as_long_as_the_registrar_says() {
    for_workers([1, 2, 4], |setup| {
        let (phone, seen) = (phone_sip(), seen_sip());
        let is_called = |fw: &mut Firewall, port: u16| {
            let sent = fw.wan(udp((SERVER, port), SEEN).payload(incoming(&seen, "")));
            sent.outs.iter().any(|out| !out.generated)
        };
        // `Expires` of all, or the contact's own.
        for expires in [";expires=60", "\nExpires: 60", ";expires=60\nExpires: 7"] {
            let mut fw = Firewall::with(strict(setup.clone()));
            registers(&mut fw);
            out(&mut fw, &register(&phone, &phone, 3, ""), &register(&seen, &seen, 3, ""));
            let agreed = |at: &str| registered("200 OK", at, at, 3, expires);
            back(&mut fw, &agreed(&seen), &agreed(&phone));
            fw.pass_secs(59);
            assert!(is_called(&mut fw, 6000), "{expires:?}");
            fw.pass_secs(1);
            assert!(!is_called(&mut fw, 6001), "{expires:?}");
        }
        // It goes when that was agreed to, or the registrar has had enough.
        for (expires, status) in
            [(";expires=0", "200 OK"), ("\nExpires: 0", "200 OK"), ("", "403 Forbidden")]
        {
            let mut fw = Firewall::with(strict(setup.clone()));
            registers(&mut fw);
            out(
                &mut fw,
                &register(&phone, &phone, 3, expires),
                &register(&seen, &seen, 3, expires),
            );
            assert_eq!(expectations(&fw), 1);
            let agreed = |at: &str| registered(status, at, at, 3, expires);
            back(&mut fw, &agreed(&seen), &agreed(&phone));
            assert_eq!(expectations(&fw), 0, "{expires:?} {status}");
            assert!(!is_called(&mut fw, 6000));
        }
        // A late answer to an earlier request changes nothing.
        let mut fw = Firewall::with(strict(setup));
        registers(&mut fw);
        let late = |at: &str| registered("200 OK", at, at, 1, ";expires=0");
        back(&mut fw, &late(&seen), &late(&phone));
        assert!(is_called(&mut fw, 6000));
        // Its signalling connection lives for an hour, and takes it along.
        fw.pass_secs(3_700);
        assert_eq!(expectations(&fw), 0);
    });
}

/// A phone that sends from one port and listens on another; it comes back after a restart from a third one.
#[test]
fn a_contact_on_another_port_is_registered_as_it_is() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(strict(setup));
        for (cseq, from) in [(1, 20_000), (1, 20_003)] {
            let contact = format!("{CLIENT}:5070");
            let at = format!("{CLIENT}:{from}");
            let sent =
                udp((CLIENT, from), PROXY).payload(register(&at, &contact, cseq, ";expires=60"));
            let heard = fw.lan(&sent).out(WAN);
            let seen = heard.source();
            let outside = format!("{OUTER}:5070");
            assert_eq!(payload(&heard), register(&seen.to_string(), &outside, cseq, ";expires=60"));
            let agreed = registered("200 OK", &seen.to_string(), &outside, cseq, ";expires=60");
            let told = fw.wan(udp(PROXY, seen).payload(agreed)).out(LAN);
            assert!(
                payload(&told).contains(&format!("<sip:alice@{contact}>")),
                "{}",
                payload(&told)
            );
            assert_eq!(expectations(&fw), 1);
        }
        let sent =
            udp((SERVER, 6000), (OUTER, 5070)).payload(incoming(&format!("{OUTER}:5070"), ""));
        let heard = incoming(&format!("{CLIENT}:5070"), "");
        assert_eq!(fw.wan(&sent).out(LAN), sent.hop().to((CLIENT, 5070)).payload(heard));
    });
}

/// RFC 3261 §10.2.2: `Contact: *` with `Expires: 0` ends what was registered, once the registrar has agreed.
#[test]
fn a_phone_that_takes_everything_back_is_not_called_any_more() {
    let mut fw = Firewall::with(strict(Setup::default()));
    let (phone, seen) = (phone_sip(), seen_sip());
    fw.lan(udp(PHONE, PROXY).payload(register(&phone, &phone, 1, ";expires=3600"))).out(WAN);
    let agreed = registered("200 OK", &seen, &seen, 1, ";expires=3600");
    fw.wan(udp(PROXY, SEEN).payload(agreed)).out(LAN);
    assert_eq!(expectations(&fw), 1);
    let named = format!("<sip:alice@{phone}>\r\nExp");
    let all = register(&phone, &phone, 2, "\nExpires: 0");
    assert!(all.contains(&named), "{all}");
    fw.lan(udp(PHONE, PROXY).payload(all.replace(&named, "*\r\nExp"))).out(WAN);
    let agreed = registered("200 OK", &seen, &seen, 2, "");
    let lines = agreed.lines().filter(|line| !line.starts_with("Contact"));
    let agreed = lines.collect::<Vec<_>>().join("\r\n") + "\r\n\r\n";
    fw.wan(udp(PROXY, SEEN).payload(agreed)).out(LAN);
    assert_eq!(expectations(&fw), 0);
}
