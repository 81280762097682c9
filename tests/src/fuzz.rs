//! What a fuzzer drives: functions from bytes to nothing, which panic if something is not as it must be.
//!
//! `tests/fuzz` is the fuzzer. Inputs that once were trouble lie in `tests/fuzz/regressions/<target>/` and are fed in again by an
//! ordinary test, as are some random ones.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use postern_core::burst::Origin;
use postern_core::conntrack::tuple::Tuple;
use postern_core::helper::sdp::Session;
use postern_core::helper::sip::{Edits, Framing, Reading, Transport, View};
use postern_core::helper::{Finding, Helpers, Kind, ftp, irc, sip, tftp};
use postern_core::parse;
use postern_core::rules::Family;
use postern_rules::{Counts, RestoreOptions, Rulesets, restore, save};

use crate::fragments::cut;
use crate::model::{FORWARDS, INSIDE, OUTSIDE, Op, PORTS, SERVICES, World};
use crate::packet::{echo_reply, echo_request, icmp, other, tcp, udp};
use crate::{Firewall, Flow, HOST_LAN, HOST_WAN, LAN, Pkt, Setup, WAN};

/// Something to feed bytes to.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: of the fuzzer's binary and of its directory of regressions.
    pub name: &'static str,
    /// Feeds them.
    pub feed: fn(&[u8]),
}

/// All there are.
pub const TARGETS: [Target; 9] = [
    Target { name: "parser", feed: parser },
    Target { name: "core", feed: core },
    Target { name: "sequence", feed: sequence },
    Target { name: "ftp", feed: ftp },
    Target { name: "irc", feed: irc },
    Target { name: "tftp", feed: tftp },
    Target { name: "sip", feed: sip },
    Target { name: "control_connection", feed: control_connection },
    Target { name: "rules", feed: rules },
];

/// Reads an input from its beginning. Beyond its end there are zeros.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or_default()
    }

    fn short(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn below(&mut self, below: usize) -> usize {
        usize::from(self.byte()) % below
    }

    fn of<T: Copy, const N: usize>(&mut self, these: [T; N]) -> T {
        these[self.below(N)]
    }

    /// At most `len` bytes.
    fn bytes(&mut self, len: usize) -> &'a [u8] {
        self.0.split_off(..len.min(self.0.len())).unwrap_or_default()
    }
}

/// One frame: whatever it is, what is said of it lies within it, and a frame that is taken for an ordinary one is one.
pub fn parser(input: &[u8]) {
    let mut input = Input(input);
    let how = input.byte();
    let (host, verify) = (how & 1 != 0, how & 2 != 0);
    let setup = Setup::default();
    let snapshot = setup.snapshot(None);
    let at = if host { HOST_WAN } else { WAN };
    let interface = &snapshot.interfaces.0[at.interface().index()];
    let origin = if host { Origin::Host } else { Origin::Wire };
    let frame = input.0;
    let parsed = parse::parse(frame, interface, origin, verify);
    let Ok(headers) = parsed else { return };
    let (l3, l4, end) = (
        usize::from(headers.l3),
        usize::from(headers.l4),
        usize::from(headers.l3) + usize::from(headers.ip_len),
    );
    assert!(l3 <= l4 && l4 <= end && end <= frame.len(), "{headers:?} of {}", frame.len());
    if let Tuple::V4(_) = headers.tuple {
        let header = &frame[l3..l3 + 4 * usize::from(frame[l3] & 15)];
        assert_eq!(ones_complement(header), 0xffff, "{headers:?}");
    }
}

/// The sum of RFC 1071, as plainly as possible.
fn ones_complement(header: &[u8]) -> u32 {
    let words = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) + (sum >> 16)
}

/// The whole appliance on frames that are anything, from anywhere, with time between them. The harness looks after the books.
pub fn core(input: &[u8]) {
    let mut input = Input(input);
    let workers = input.of([1, 2, 4]);
    let mut setup = Setup::default().workers(workers).seed(u64::from(input.byte()));
    setup.options.helpers = Kind::ALL.into_iter().fold(Helpers::NONE, Helpers::with);
    setup.add_forward(17, (5000, 5009), "192.168.1.10:5000");
    let mut fw = Firewall::with(setup);
    while !input.is_empty() {
        let at = input.of([LAN, WAN, HOST_LAN, HOST_WAN]);
        let len = usize::from(input.short() & 0x7ff);
        match len {
            0 => fw.pass(Duration::from_millis(u64::from(input.short()))),
            _ => drop(fw.send_frame_no_looks(at, input.bytes(len))),
        }
    }
    fw.pass(Duration::from_secs(3600));
}

/// The whole appliance on sensible packets in any order, beside a naive model of it.
pub fn sequence(input: &[u8]) {
    let mut input = Input(input);
    let (workers, seed) = (input.of([1, 2, 3, 8]), u64::from(input.short()));
    let mut world = World::new(workers, seed);
    for _ in 0..120 {
        if input.is_empty() {
            break;
        }
        world.run(op(&mut input));
    }
    world.finish();
}

fn op(input: &mut Input<'_>) -> Op {
    let protocol = input.of([1, 6, 17, 17]);
    let host = input.below(INSIDE.len());
    let port = input.below(PORTS.len());
    let server = input.below(OUTSIDE.len());
    let service = input.below(SERVICES.len());
    match input.below(16) {
        0..4 => Op::Out { protocol, host, port, server, service },
        4 => {
            let protocol = if protocol == 1 { 6 } else { protocol };
            Op::Loop { protocol, host, port, dialled: input.below(FORWARDS.len()) }
        }
        5..7 => {
            let port = input.of([500, 5000, 5001, 8080, 40_000]);
            Op::In { protocol, server, service, port, answer: input.byte() & 1 != 0 }
        }
        7 => Op::Bypass { server, host, port },
        8..11 => Op::Answer { which: usize::from(input.short()) },
        11 => Op::Report { which: usize::from(input.short()) },
        12 | 13 => {
            let unit = input.of([1, 10, 100]);
            Op::Pass { ms: u64::from(input.short()) * unit, tidied: input.byte() & 1 != 0 }
        }
        14 => Op::Forward { which: input.below(FORWARDS.len()) },
        _ => Op::Deny { host },
    }
}

/// Lines of an FTP control connection, the first byte of each says whose. An endpoint that was found is
/// found again when another one is written in its place.
pub fn ftp(input: &[u8]) {
    let mut talk = ftp::Talk::default();
    for line in input.split_inclusive(|&byte| byte == b'\n') {
        let [whose, line @ ..] = line else { continue };
        let before = talk;
        let listen = if whose & 1 == 0 { ftp::client } else { ftp::server };
        if let ftp::Said::Here(found) = listen(&mut talk, line) {
            again(line, &found, |line| match listen(&mut before.clone(), line) {
                ftp::Said::Here(found) => Some(found),
                _ => None,
            });
        }
    }
}

/// Lines of an IRC client.
pub fn irc(input: &[u8]) {
    for line in input.split_inclusive(|&byte| byte == b'\n') {
        if let Some(found) = irc::client(line) {
            again(line, &found, irc::client);
        }
    }
}

/// A datagram to a TFTP server: RFC 1350 §5, said another way.
pub fn tftp(input: &[u8]) {
    let zeros: Vec<usize> =
        input.iter().enumerate().skip(2).filter(|(_, b)| **b == 0).map(|(at, _)| at).collect();
    let is_request = match (input, &zeros[..]) {
        ([0, 1 | 2, ..], [first, second, ..]) => *first > 2 && *second > first + 1,
        _ => false,
    };
    assert_eq!(tftp::is_request(input), is_request);
}

/// A SIP message, over UDP or TCP: with other endpoints written over those of one side, it is a message still, about the same, and
/// names the first ones no more.
pub fn sip(input: &[u8]) {
    let mut input = Input(input);
    let (framing, inward) = (input.of([Framing::Datagram, Framing::Stream]), input.byte() & 1);
    let endpoint = |text: &str| {
        let endpoint: std::net::SocketAddr = text.parse().expect("an endpoint");
        (endpoint.ip(), endpoint.port())
    };
    let (inside, outside) = (endpoint("192.168.1.2:5060"), endpoint("203.0.113.100:31000"));
    let proxy = endpoint("192.0.2.9:5060");
    let view = match inward {
        0 => View { own: [inside, outside], peer: [proxy; 2], registered: None },
        _ => View { own: [proxy; 2], peer: [outside, inside], registered: None },
    };
    let translated = |bytes: &[u8]| {
        let Reading::Message(message) = sip::read(bytes, framing) else { return None };
        assert!(message.len() <= bytes.len() && message.body.start <= message.body.end);
        let mut edits = Edits::default();
        edits.head(bytes, &message, Transport::Udp, &view).ok()?;
        if let Some(session) = Session::read(bytes, message.body.clone()) {
            for (range, address) in &session.addresses {
                let text = std::str::from_utf8(&bytes[range.clone()]).expect("an address");
                assert_eq!(text.parse(), Ok(*address));
                if *address == view.own[0].0
                    && let IpAddr::V4(to) = view.own[1].0
                {
                    edits.address(range.clone(), to).ok()?;
                }
            }
            for media in &session.media {
                let digits = std::str::from_utf8(&bytes[media.range.clone()]).expect("digits");
                assert_eq!(digits.parse(), Ok(media.port));
            }
        }
        let mut text = Vec::new();
        let put = |piece: &[u8]| {
            text.extend(piece);
            Ok(())
        };
        edits.apply(bytes, &message, put).ok()?;
        let contacts = message.contacts(bytes).count();
        Some((text, message.method, message.cseq, message.call, contacts))
    };
    let Some((text, method, cseq, call, contacts)) = translated(input.0) else { return };
    let again = translated(&text).expect("it is a message still");
    assert_eq!(again, (text, method, cseq, call, contacts));
}

/// Whether the line with another endpoint written over `found` names that one, at the same place.
fn again(line: &[u8], found: &Finding, listen: impl Fn(&[u8]) -> Option<Finding>) {
    assert!(found.range.start < found.range.end && found.range.end <= line.len(), "{found:?}");
    let (address, port): (IpAddr, u16) = ([203, 0, 113, 100].into(), 40_321);
    if found.address.is_some_and(|address| address.is_ipv6()) {
        return; // helpers write no IPv6 addresses
    }
    let text = found.style.write(address, port).expect("an IPv4 address");
    let changed = [&line[..found.range.start], &text[..], &line[found.range.end..]].concat();
    let heard = listen(&changed).expect("what was written is understood");
    assert_eq!((heard.port, heard.style), (port, found.style));
    assert_eq!(heard.address, found.address.map(|_| address));
    assert_eq!(heard.range, found.range.start..found.range.start + text.len());
}

/// Two ends of a control connection that say anything, and sometimes again: both streams arrive in order and whole, however long
/// what was written over them.
pub fn control_connection(input: &[u8]) {
    let mut input = Input(input);
    let mut setup = Setup::default();
    setup.options.helpers = Kind::ALL.into_iter().fold(Helpers::NONE, Helpers::with);
    let mut fw = Firewall::with(setup);
    let port = input.of([21, 6667, 5060]);
    let mut flow = Flow::outward(("192.168.1.2", 50_000), ("192.0.2.9", port))
        .seqs(u32::MAX - u32::from(input.byte()), 7_000)
        .open(&mut fw);
    // By how much each side's stream has grown.
    let mut grown = [0_u32; 2];
    for _ in 0..40 {
        if input.is_empty() {
            break;
        }
        let how = input.byte();
        let text = input.bytes(usize::from(how >> 2));
        let (side, other) = if how & 1 == 0 { (0, 1) } else { (1, 0) };
        let ack = flow.seq[other].wrapping_add(grown[other]);
        let (segment, at, to) = match side {
            0 => (flow.client_segment(), flow.client_at, flow.server_at),
            _ => (flow.server_segment(), flow.server_at, flow.client_at),
        };
        let segment = segment.ack(ack).payload(text);
        let sent = fw.send(at, &segment);
        if sent.is_silent() {
            continue; // with its reason: the harness has looked
        }
        let out = sent.out(to);
        let shifted = |pkt: &Pkt| {
            let seq = pkt.tcp().seq.wrapping_add(grown[side]);
            let ack = pkt.tcp().ack.wrapping_sub(grown[other]);
            let pkt =
                pkt.clone().seq(seq).ack(ack).payload(announced(text, &out.tcp().payload, side));
            if side == 0 { flow.at_server(&pkt) } else { flow.at_client(&pkt) }
        };
        let expected = shifted(&segment);
        let texts = [&out, &expected].map(|pkt| String::from_utf8_lossy(&pkt.tcp().payload));
        assert_eq!(texts[0], texts[1], "what arrives of {:?}", String::from_utf8_lossy(text));
        assert_eq!(out, expected);
        if how & 2 != 0 {
            assert_eq!(fw.send(at, &segment).out(to), out, "a repeated segment is another one");
        }
        let growth = (out.tcp().payload.len() as u32).wrapping_sub(text.len() as u32);
        flow.seq[side] = flow.seq[side].wrapping_add(text.len() as u32);
        grown[side] = grown[side].wrapping_add(growth);
    }
}

/// What is to arrive of `text`, which that side says: the same, but where it names the client's own endpoint, in any notation,
/// another may stand, and the other way round where the server names it (SIP), and the length of a message follows. Nothing
/// is taken from `out` but the port of that endpoint, and that length.
fn announced(text: &[u8], out: &[u8], side: usize) -> Vec<u8> {
    let runs = |text: &[u8]| -> Vec<Vec<u8>> {
        let runs = text.chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit());
        runs.map(<[u8]>::to_vec).collect()
    };
    let number = |runs: &[Vec<u8>], at: usize| -> Option<u32> {
        str::from_utf8(runs.get(at)?).ok()?.parse().ok()
    };
    let mut known = [Ipv4Addr::new(192, 168, 1, 2), Ipv4Addr::new(203, 0, 113, 2)];
    if side == 1 {
        known.reverse();
    }
    let octets = known.map(|address| address.octets().map(u32::from).to_vec());
    let decimal = known.map(|address| vec![u32::from(address)]);
    let (mut told, out) = (runs(text), runs(out));
    for at in 0..told.len() {
        for [own, outer] in [&octets, &decimal] {
            let stands = |runs: &[Vec<u8>], address: &[u32]| {
                let numbers = (0..address.len()).map(|n| number(runs, at + 2 * n));
                numbers.eq(address.iter().map(|&number| Some(number)))
            };
            if stands(&told, own) && stands(&out, outer) {
                let behind = at + 2 * own.len();
                // A byte each, behind commas.
                let ports = if told[behind - 1] == b"," { 2 } else { 1 };
                for (n, part) in outer.iter().enumerate() {
                    told[at + 2 * n] = part.to_string().into_bytes();
                }
                for place in (behind..).step_by(2).take(ports) {
                    let port = number(&out, place).expect("a port behind the address");
                    assert!(port <= if ports == 2 { 0xff } else { 0xffff }, "{port}");
                    told[place] = port.to_string().into_bytes();
                }
            }
        }
    }
    for at in 1..told.len() {
        let before = told[at - 1].trim_ascii_end().to_ascii_lowercase();
        let is_length =
            [&b"\nl:"[..], b"content-length:"].iter().any(|name| before.ends_with(name));
        if is_length && number(&told, at).is_some() && number(&out, at).is_some() {
            told[at].clone_from(&out[at]);
        }
    }
    told.concat()
}

/// A dump of rules: refused with its place, or taken; and then what is saved is taken again and saved the same.
pub fn rules(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    for family in Family::ALL {
        let take = |text: &str| {
            let mut rulesets = Rulesets::new();
            let options = RestoreOptions { counters: true, ..RestoreOptions::default() };
            restore(text, family, options, &mut rulesets, &Counts::default()).map(|_| rulesets)
        };
        match take(text) {
            Err(error) => assert!(error.line <= 1 + text.matches('\n').count(), "{error:?}"),
            Ok(rulesets) => {
                let saved = save(&rulesets, family, None, &Counts::default(), true);
                let again = take(&saved).unwrap_or_else(|error| panic!("{error:?} in:\n{saved}"));
                assert_eq!(save(&again, family, None, &Counts::default(), true), saved);
            }
        }
    }
}

/// Inputs to begin with: name of the target and bytes. What a fuzzer would take hours to come upon.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut seeds: Vec<(&str, Vec<u8>)> = Vec::new();
    let (client, server, outer) = (("192.168.1.2", 5000), ("192.0.2.9", 21), ("203.0.113.2", 5000));
    let (client6, server6) = (("2001:db8:1::2", 5000), ("2001:db8:9::9", 443));
    let asked = udp(client, server);
    let packets: Vec<(usize, Pkt)> = vec![
        (0, asked.clone()),
        (1, udp(server, outer)),
        (0, tcp(client, server).syn().seq(1).mss(1460).wscale(7)),
        (1, tcp(server, outer).syn().seq(9).ack(2).mss(1460).wscale(7)),
        (0, tcp(client, server).seq(2).ack(10).payload("PORT 192,168,1,2,200,1\r\n")),
        (1, tcp(server, outer).seq(10).ack(26).payload("227 =192,0,2,9,4,1\r\n")),
        (0, echo_request(client.0, server.0, 7, 1)),
        (1, echo_reply(server.0, outer.0, 7, 1)),
        (1, icmp("198.51.100.1", outer.0, 3, 4, 1400, &asked.clone().from(outer).build())),
        (0, other(client.0, server.0, 47, &[0; 24])),
        (0, other(client.0, server.0, 132, &[0; 32])),
        (0, udp(client6, server6)),
        (1, tcp(server6, client6).syn().seq(1)),
        (0, udp(client6, server6).extension(60, &[0, 1, 4, 0, 0, 0, 0])),
        (0, asked.clone().options(&[7, 7, 4, 0, 0, 0, 0, 0])),
        (3, udp(outer, server)),
    ];
    let fw = Firewall::new();
    let mut all = vec![0, 1];
    for (place, packet) in packets {
        let frame = fw.frame([LAN, WAN, HOST_LAN, HOST_WAN][place], &packet.build());
        seeds.push(("parser", [&[2], &frame[..]].concat()));
        let len = (frame.len() as u16).to_be_bytes();
        all.extend([&[place as u8], &len[..], &frame[..]].concat());
        seeds.push(("core", [&[1, 1, place as u8], &len[..], &frame[..]].concat()));
    }
    for piece in cut(&asked.len(900).build(), 77, &[400, 800]) {
        let frame = fw.frame(LAN, &piece);
        all.extend([&[0], &(frame.len() as u16).to_be_bytes()[..], &frame[..]].concat());
    }
    seeds.push(("core", all));
    seeds.push((
        "ftp",
        b"\0PORT 192,168,1,2,4,1\r\n\0EPRT |1|192.168.1.2|1025|\r\n\0EPRT |2|2001:db8::1|1025|\r\n"
            .into(),
    ));
    seeds.push((
        "ftp",
        b"\0PASV\r\n\x01227 Entering (192,0,2,9,4,1).\r\n\0EPSV\r\n\x01229 Entering (|||1025|)\r\n"
            .into(),
    ));
    seeds.push(("ftp", b"\x01220-Welcome\r\n\x01 to\r\n\x01220 us\r\n".into()));
    let dcc = "PRIVMSG nick :\x01DCC SEND \"a file\" 3232235778 1025 99\x01\r\n";
    seeds.push(("irc", dcc.into()));
    seeds.push(("irc", b"PRIVMSG nick :\x01DCC CHAT chat 3232235778 1025\x01\r\n".into()));
    let session = "v=0\r\no=- 1 1 IN IP4 192.168.1.2\r\ns=-\r\nc=IN IP4 192.168.1.2\r\nt=0 0\r\n\
        m=audio 4000 RTP/AVP 0\r\na=rtcp:4001 IN IP4 192.168.1.2\r\nm=video 0 RTP/AVP 9\r\nc=IN IP6 2001:db8::1\r\n";
    let invite = "INVITE sip:192.168.1.2 SIP/2.0\r\nVia: SIP/2.0/UDP 192.168.1.2:5060;rport;maddr=192.168.1.2\r\n\
        f: <sip:192.168.1.2>\r\nTo: \"A\" <sip:a@192.168.1.2;x>\r\nCall-ID: a@b\r\nCSeq: 1 INVITE\r\n\
        m: <sip:192.168.1.2:5060;transport=udp>;expires=60,\r\n sip:a@192.168.1.2\r\nExpires: 9\r\n\
        Content-Type: application/sdp\r\n";
    let invite = format!("{invite}l: {}\r\n\r\n{session}", session.len());
    let answer = "SIP/2.0 200 OK\nv: SIP/2.0/UDP 203.0.113.100:31000;received=203.0.113.100;rport=31000\n\
        CSeq: 1 REGISTER\nContact: *\nl: 0\n\n";
    for how in [[0, 0], [1, 0], [0, 1]] {
        seeds.push(("sip", [&how, invite.as_bytes()].concat()));
        seeds.push(("sip", [&how, answer.as_bytes()].concat()));
    }
    seeds.push(("tftp", b"\0\x01file\0octet\0blksize\x001428\0".into()));
    let say = |side: u8, text: &str| [&[side | (text.len() as u8) << 2], text.as_bytes()].concat();
    let talk = [
        vec![0, 5],
        say(0, "PASV\r\n"),
        say(1, "227 =192,0,2,9,4,1\r\n"),
        say(0, "PORT 192,168,1,2,4,1\r\n"),
        say(1, "200 Well.\r\n"),
        say(2, "QUIT\r\n"),
    ];
    seeds.push(("control_connection", talk.concat()));
    seeds.push(("control_connection", [vec![1, 0], say(0, dcc)].concat()));
    let asked = "B sip:a SIP/2.0\nCSeq:1 B\nl:0\nm:<sip:192.168.1.2:50000>\n\n";
    let told = "SIP/2.0 200 OK\nCSeq:1 B\nl:1\nf:sip:203.0.113.2:50000\n\nx";
    let signalling = [vec![2, 0], say(0, asked), say(2, asked), say(1, told), say(3, told)];
    seeds.push(("control_connection", signalling.concat()));
    for dump in RULES {
        seeds.push(("rules", dump.as_bytes().into()));
    }
    seeds
}

/// Dumps in which every word of the language stands.
const RULES: [&str; 3] = [
    "*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [1:60]\n:OUTPUT ACCEPT [0:0]\n:own - [0:0]\n\
     -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
     -A INPUT -i lan -p tcp -m tcp --dport 22:23 -m comment --comment \"a b\" -j own\n\
     -A INPUT -p icmp -m icmp --icmp-type 8/0 -j ACCEPT\n\
     [3:180] -A own ! -s 192.168.1.0/24 -p udp -m multiport --dports 53,67:68 -j RETURN\n\
     -A own -p tcp -m tcp --tcp-flags SYN,RST SYN -j REJECT --reject-with tcp-reset\nCOMMIT\n",
    "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n\
     -A PREROUTING -i wan -p tcp -m tcp --dport 80 -j DNAT --to-destination 192.168.1.10-192.168.1.12:8080-8089\n\
     -A PREROUTING -p udp --dport 53 -j REDIRECT --to-ports 5353\n\
     -A POSTROUTING -o wan -j MASQUERADE --to-ports 1024-2000 --random\n\
     -A POSTROUTING -s 10.0.0.0/8 -o wan -j SNAT --to-source 203.0.113.5-203.0.113.9 --persistent\n\
     -A POSTROUTING -s 10.1.0.0/16 -o vpn -j NETMAP --to 10.2.0.0/16\nCOMMIT\n",
    "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A PREROUTING -p udp -j NOTRACK\n\
     -A PREROUTING -p 47 -j CT --notrack\nCOMMIT\n# Completed\n",
];
