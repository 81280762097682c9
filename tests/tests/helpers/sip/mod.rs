//! SIP: calls and registrations through the appliance, what becomes of their messages and their media.

mod calls;
mod refused;
mod registered;
mod stream;

use postern_tests::packet::{Pkt, udp};
use postern_tests::{Firewall, LAN, Setup, WAN};

use crate::{CLIENT, OUTER, SERVER, payload, with_helpers};

/// A phone inside, the address it has outside, and the proxy that it calls through.
pub(super) const PHONE: (&str, u16) = (CLIENT, 5060);
pub(super) const SEEN: (&str, u16) = (OUTER, 5060);
pub(super) const PROXY: (&str, u16) = (SERVER, 5060);

/// A message: its head without `Content-Length`, and its body.
pub(super) fn message(head: &str, body: &str) -> String {
    let head = head.trim_end().replace('\n', "\r\n");
    let body = body.replace('\n', "\r\n");
    format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A session of sound only.
pub(super) fn sdp(address: &str, port: u16) -> String {
    session(address, &format!("m=audio {port} RTP/AVP 0\n"))
}

pub(super) fn session(address: &str, media: &str) -> String {
    format!("v=0\no=- 1 1 IN IP4 {address}\ns=-\nc=IN IP4 {address}\nt=0 0\n{media}")
}

/// The phone's INVITE, in which its endpoint is written `at`.
pub(super) fn invite(at: &str, cseq: u32, body: &str) -> String {
    message(
        &format!(
            "INVITE sip:bob@example.org SIP/2.0
Via: SIP/2.0/UDP {at};rport;branch=z9hG4bK{cseq}
From: <sip:alice@{at}>;tag=1
To: <sip:bob@example.org>
Call-ID: one@phone
CSeq: {cseq} INVITE
Contact: <sip:alice@{at}>
Content-Type: application/sdp
"
        ),
        body,
    )
}

/// A response to it.
pub(super) fn response(at: &str, status: &str, cseq: &str, body: &str) -> String {
    let host = at.split(':').next().unwrap();
    let port = at.split(':').nth(1).unwrap_or("5060");
    message(
        &format!(
            "SIP/2.0 {status}
v: SIP/2.0/UDP {at};rport={port};received={host};branch=z9hG4bK1
f: <sip:alice@{at}>;tag=1
t: <sip:bob@example.org>;tag=2
i: one@phone
CSeq: {cseq}
m: <sip:bob@{SERVER}:5060>
c: application/sdp
"
        ),
        body,
    )
}

/// A request within the call, without a body.
pub(super) fn request(method: &str, at: &str, cseq: u32) -> String {
    message(
        &format!(
            "{method} sip:bob@{SERVER} SIP/2.0
Via: SIP/2.0/UDP {at};rport;branch=z9hG4bKx{cseq}
From: <sip:alice@{at}>;tag=1
To: <sip:bob@example.org>;tag=2
Call-ID: one@phone
CSeq: {cseq} {method}
"
        ),
        "",
    )
}

/// The phone says something that the proxy must hear so.
#[track_caller]
pub(super) fn out(fw: &mut Firewall, said: &str, heard: &str) {
    let sent = udp(PHONE, PROXY).payload(said);
    assert_eq!(payload(&fw.lan(&sent).out(WAN)), heard);
    // Again, to the byte.
    assert_eq!(fw.lan(&sent).out(WAN), sent.hop().from(SEEN).payload(heard));
}

/// The proxy says something that the phone must hear so.
#[track_caller]
pub(super) fn back(fw: &mut Firewall, said: &str, heard: &str) {
    let sent = udp(PROXY, SEEN).payload(said);
    assert_eq!(payload(&fw.wan(&sent).out(LAN)), heard);
    assert_eq!(fw.wan(&sent).out(LAN), sent.hop().to(PHONE).payload(heard));
}

pub(super) fn rtp(from: (&str, u16), to: (&str, u16)) -> Pkt {
    udp(from, to).payload([0x80; 40])
}

pub(super) fn phone_sip() -> String {
    format!("{CLIENT}:5060")
}

pub(super) fn seen_sip() -> String {
    format!("{OUTER}:5060")
}

/// The phone calls, and is answered; its media are at this port, the proxy's at 30000.
pub(super) fn call(fw: &mut Firewall, port: u16) {
    let (phone, seen) = (phone_sip(), seen_sip());
    out(fw, &invite(&phone, 1, &sdp(CLIENT, port)), &invite(&seen, 1, &sdp(OUTER, port)));
    let body = sdp(SERVER, 30_000);
    back(
        fw,
        &response(&seen, "180 Ringing", "1 INVITE", ""),
        &response(&phone, "180 Ringing", "1 INVITE", ""),
    );
    back(
        fw,
        &response(&seen, "200 OK", "1 INVITE", &body),
        &response(&phone, "200 OK", "1 INVITE", &body),
    );
}

/// Nothing but what was asked for crosses.
pub(super) fn strict(setup: Setup) -> Setup {
    let mut setup = with_helpers(setup);
    setup.iptables("-I FORWARD 1 -i lan -p udp ! --dport 5060 -m conntrack --ctstate NEW -j DROP");
    setup
}

/// The phone's REGISTER, for so long.
pub(super) fn register(at: &str, contact: &str, cseq: u32, expires: &str) -> String {
    message(
        &format!(
            "REGISTER sip:example.org SIP/2.0
Via: SIP/2.0/UDP {at};rport;branch=z9hG4bKr{cseq}
From: <sip:alice@example.org>;tag=1
To: <sip:alice@example.org>
Call-ID: reg@phone
CSeq: {cseq} REGISTER
Contact: <sip:alice@{contact}>{expires}
"
        ),
        "",
    )
}

pub(super) fn registered(
    status: &str,
    at: &str,
    contact: &str,
    cseq: u32,
    expires: &str,
) -> String {
    message(
        &format!(
            "SIP/2.0 {status}
Via: SIP/2.0/UDP {at};rport=5060;branch=z9hG4bKr{cseq}
Call-ID: reg@phone
CSeq: {cseq} REGISTER
Contact: <sip:old@192.0.2.77>;expires=7, <sip:alice@{contact}>{expires}
"
        ),
        "",
    )
}

/// A call from outside.
pub(super) fn incoming(uri: &str, body: &str) -> String {
    message(
        &format!(
            "INVITE sip:alice@{uri} SIP/2.0
Via: SIP/2.0/UDP {SERVER}:6000;branch=z9hG4bKi
From: <sip:carol@example.org>;tag=5
To: <sip:alice@{uri}>
Call-ID: two@proxy
CSeq: 9 INVITE
Contact: <sip:carol@{SERVER}:6000>
Content-Type: application/sdp
"
        ),
        body,
    )
}
