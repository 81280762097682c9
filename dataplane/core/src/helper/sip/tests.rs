use proptest::prelude::*;
use std::string::String;
use std::vec::Vec;

use super::*;

fn endpoint(text: &str) -> Endpoint {
    let endpoint: core::net::SocketAddr = text.parse().unwrap();
    (endpoint.ip(), endpoint.port())
}

/// A phone inside, 192.168.1.2:5060, that is seen as 203.0.113.100:31000, and its proxy.
fn outward() -> View {
    View {
        own: [endpoint("192.168.1.2:5060"), endpoint("203.0.113.100:31000")],
        peer: [endpoint("192.0.2.9:5060"); 2],
        registered: None,
    }
}

/// What the proxy says to it.
fn inward() -> View {
    let View { own: [inside, outside], peer: [proxy, _], .. } = outward();
    View { own: [proxy; 2], peer: [outside, inside], registered: None }
}

fn applied(edits: Edits, bytes: &[u8], message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    let put = |piece: &[u8]| {
        out.extend(piece);
        Ok(())
    };
    edits.apply(bytes, message, put).unwrap();
    out
}

fn message(bytes: &[u8]) -> Message {
    match read(bytes, Framing::Datagram) {
        Reading::Message(message) => message,
        other => panic!("{other:?}"),
    }
}

fn translated(text: &str, view: &View) -> String {
    let (bytes, mut edits) = (text.as_bytes(), Edits::default());
    let message = message(bytes);
    edits.head(bytes, &message, Transport::Udp, view).unwrap();
    String::from_utf8(applied(edits, bytes, &message)).unwrap()
}

/// A request with one field besides those that every one has.
fn with(field: &str) -> String {
    std::format!("OPTIONS sip:b@example.org SIP/2.0\r\nCSeq: 1 OPTIONS\r\n{field}\r\n\r\n")
}

#[test]
fn each_field_is_translated_outward() {
    let rows = [
        ("Contact: <sip:a@192.168.1.2>", "Contact: <sip:a@203.0.113.100:31000>"),
        ("Contact: <sip:a@192.168.1.2:5060>", "Contact: <sip:a@203.0.113.100:31000>"),
        ("m: <sip:192.168.1.2;ob>;x=1", "m: <sip:203.0.113.100:31000;ob>;x=1"),
        ("Contact: sip:a@192.168.1.2;expires=5", "Contact: sip:a@203.0.113.100:31000;expires=5"),
        ("CONTACT :\t<sip:192.168.1.2>", "CONTACT :\t<sip:203.0.113.100:31000>"),
        (
            "Contact: \"A <sip:192.168.1.2>, \\\"B\" <sip:a@192.168.1.2>,<sip:192.168.1.2>",
            "Contact: \"A <sip:192.168.1.2>, \\\"B\" <sip:a@203.0.113.100:31000>,<sip:203.0.113.100:31000>",
        ),
        ("Contact:\r\n <sip:a@192.168.1.2>", "Contact:\r\n <sip:a@203.0.113.100:31000>"),
        ("From: sip:a@192.168.1.2;tag=1", "From: sip:a@203.0.113.100:31000;tag=1"),
        ("f: A <sip:a@192.168.1.2>;tag=1", "f: A <sip:a@203.0.113.100:31000>;tag=1"),
        ("To: <sip:192.168.1.2>", "To: <sip:203.0.113.100:31000>"),
        (
            "Via: SIP/2.0/UDP 192.168.1.2:5060;rport;branch=z9hG4bK1",
            "Via: SIP/2.0/UDP 203.0.113.100:31000;rport;branch=z9hG4bK1",
        ),
        (
            "v: SIP / 2.0 / UDP 192.168.1.2 : 5060 ;maddr=192.168.1.2",
            "v: SIP / 2.0 / UDP 203.0.113.100:31000 ;maddr=203.0.113.100",
        ),
    ];
    for (field, expected) in rows {
        assert_eq!(translated(&with(field), &outward()), with(expected), "{field}");
    }
}

#[test]
fn what_is_not_the_speakers_own_stays() {
    let rows = [
        "Contact: <sip:a@192.168.1.3>",
        "Contact: <sip:a@192.168.1.2:5062>",
        "Contact: <sips:a@192.168.1.2>",
        "Contact: <sip:a@192.168.1.2.example.org>",
        "Contact: <sip:192.168.1.2@example.org>",
        "Contact: *",
        "Contact: <sip:a@192.168.1.2",
        "Via: SIP/2.0/TCP 192.168.1.2:5060",
        "Via: SIP/2.0/UDP 192.168.1.2:5062;maddr=192.168.1.2",
        "Via: SIP/2.0/UDP 192.0.2.1\r\nVia: SIP/2.0/UDP 192.168.1.2",
        "Record-Route: <sip:192.168.1.2>",
        "Route: <sip:192.168.1.2>",
        "X: 192.168.1.2\r\n Contact: <sip:192.168.1.2>",
        "From <sip:192.168.1.2>",
    ];
    for field in rows {
        assert_eq!(translated(&with(field), &outward()), with(field), "{field}");
    }
}

#[test]
fn a_response_is_translated_back() {
    let response = |host: &str, received: &str, rport: u16| {
        std::format!(
            "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP {host};received={received};branch=z9hG4bK1;rport={rport}\r\n\
             From: <sip:a@{host}>;tag=1\r\nTo: <sip:b@example.org>\r\nCSeq: 1 OPTIONS\r\n\
             Contact: <sip:b@192.0.2.9:5060>\r\n\r\n"
        )
    };
    assert_eq!(
        translated(&response("203.0.113.100:31000", "203.0.113.100", 31000), &inward()),
        response("192.168.1.2:5060", "192.168.1.2", 5060)
    );
    let others = response("198.51.100.7:5060", "203.0.113.100", 31000);
    assert_eq!(translated(&others, &inward()), others, "somebody else asked");
}

#[test]
fn a_request_from_outside_is_sent_to_the_endpoint_inside() {
    let request = |host: &str| {
        std::format!("INVITE sip:a@{host} SIP/2.0\r\nTo: <sip:a@{host}>\r\nCSeq: 1 INVITE\r\n\r\n")
    };
    assert_eq!(
        translated(&request("203.0.113.100:31000;x=1"), &inward()),
        request("192.168.1.2:5060;x=1")
    );
    let registered = [endpoint("203.0.113.100:40000"), endpoint("192.168.1.2:5070")];
    let view = View { registered: Some(registered), ..inward() };
    assert_eq!(translated(&request("203.0.113.100:40000"), &view), request("192.168.1.2:5070"));
}

#[test]
fn what_is_a_message() {
    let rows: [(&str, &str); 20] = [
        ("OPTIONS sip:a SIP/2.0\r\nCSeq: 1 OPTIONS\r\n\r\n", "whole"),
        ("OPTIONS sip:a SIP/2.0\nCSeq: 1 OPTIONS\n\n", "whole"),
        ("SIP/2.0 200 OK\r\nCSeq:\r\n 7\r\n\tBYE\r\n\r\n", "whole"),
        ("SIP/2.0 100\r\nCSeq: 7 BYE\r\nl: 2\r\n\r\nab", "whole"),
        ("SIP/2.0 200 OK\r\nCSeq: 7 BYE\r\nl: 3\r\n\r\nab", "unfinished"),
        ("SIP/2.0 200 OK\r\nCSeq: 7 BYE\r\n", "unfinished"),
        ("INV", "unfinished"),
        ("GET / HTTP/1.1\r\n\r\n", "foreign"),
        ("POST /sip:a HTTP/1.1\r\nContent-Length: 5\r\n\r\nINVITE", "foreign"),
        ("\r\n\r\n", "foreign"),
        (" INVITE sip:a SIP/2.0\r\nCSeq: 1 INVITE\r\n\r\n", "foreign"),
        ("INVITE sip:a SIP/3.0\r\nCSeq: 1 INVITE\r\n\r\n", "foreign"),
        ("INVITE sip:a b SIP/2.0\r\nCSeq: 1 INVITE\r\n\r\n", "foreign"),
        ("SIP/2.0 20 OK\r\nCSeq: 7 BYE\r\n\r\n", "foreign"),
        ("INVITE sip:a SIP/2.0\r\n\r\n", "malformed"),
        ("INVITE sip:a SIP/2.0\r\nCSeq: x INVITE\r\n\r\n", "malformed"),
        ("INVITE sip:a SIP/2.0\r\nCSeq: 1 BYE\r\n\r\n", "malformed"),
        ("BYE sip:a SIP/2.0\r\nCSeq: 1 BYE\r\nl: 0\r\nl: 9\r\n\r\n", "malformed"),
        ("BYE sip:a SIP/2.0\r\nCSeq: 1 BYE\r\nl: 0\r\nl: 0\r\n\r\n", "malformed"),
        ("BYE sip:a SIP/2.0\r\nCSeq: 1 BYE\r\nl: -1\r\n\r\n", "malformed"),
    ];
    for (text, expected) in rows {
        let read = match read(text.as_bytes(), Framing::Datagram) {
            Reading::Message(message) => {
                assert_eq!(message.len(), text.len());
                "whole"
            }
            Reading::Unfinished(_) => "unfinished",
            Reading::Foreign => "foreign",
            Reading::Malformed => "malformed",
        };
        assert_eq!(read, expected, "{text:?}");
    }
    let no_length = "BYE sip:a SIP/2.0\r\nCSeq: 1 BYE\r\n\r\n";
    assert_eq!(read(no_length.as_bytes(), Framing::Stream), Reading::Malformed);
}

#[test]
fn contacts_are_listed_with_what_is_said_of_them() {
    let text = with(
        "Contact: \"A\" <sip:a@192.168.1.2:5070;transport=tcp>;q=0.5;expires=60, <sip:b@example.org>\r\n\
         Expires: 3600\r\nContact: sip:192.168.1.3;expires=x",
    );
    let found = message(text.as_bytes());
    assert_eq!(found.expires(text.as_bytes()), Some(3600));
    let contacts: Vec<_> = found.contacts(text.as_bytes()).collect();
    let contact = |host: Option<&str>, transport, expires| Contact {
        host: host.map(endpoint),
        transport,
        expires,
    };
    assert_eq!(
        contacts,
        [
            contact(Some("192.168.1.2:5070"), Transport::Tcp, Expires::After(60)),
            contact(None, Transport::Unsaid, Expires::Unsaid),
            contact(Some("192.168.1.3:5060"), Transport::Unsaid, Expires::Unreadable),
        ]
    );
}

#[test]
fn a_list_without_end_is_too_much() {
    let text = with(&std::format!("Contact: {}", "<sip:192.168.1.2>,".repeat(100)));
    let mut edits = Edits::default();
    let found = message(text.as_bytes());
    let done = edits.head(text.as_bytes(), &found, Transport::Udp, &outward());
    assert_eq!(done, Err(TooMany));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(
        field in prop::sample::select(std::vec![
            "Contact: \"A\" <sip:a@192.168.1.2:5060;transport=udp>;expires=60, <sip:[2001:db8::1]:5>",
            "Via: SIP/2.0/UDP 192.168.1.2:5060;received=1.2.3.4;rport=5;maddr=192.168.1.2",
            "From: <sip:192.168.1.2\r\n ;x>\r\nTo: sip:192.168.1.2\r\nExpires: 7\r\nl: 3",
        ]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        keep: prop::sample::Index,
    ) {
        let mut bytes = (with(field) + "abc").into_bytes();
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(keep.index(bytes.len()) + 1);
        for framing in [Framing::Datagram, Framing::Stream] {
            let Reading::Message(message) = read(&bytes, framing) else { continue };
            let _ = (message.contacts(&bytes).count(), message.expires(&bytes));
            for view in [outward(), inward()] {
                let mut edits = Edits::default();
                prop_assert_eq!(edits.head(&bytes, &message, Transport::Udp, &view), Ok(()));
                let out = applied(edits, &bytes, &message);
                let is_message = matches!(read(&out, framing), Reading::Message(_));
                prop_assert!(is_message);
            }
        }
    }
}
