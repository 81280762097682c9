//! SIP messages: RFC 3261 §7, §20 and §25.1 (syntax), RFC 3581 (`rport`), as far as they name endpoints.
//!
//! [`read`] finds where a message begins and ends and what it is about; [`Edits::head`] what has to be written over
//! its head where one side's endpoints mean nothing to the other: the request's URI, the topmost `Via` with `maddr`,
//! `received` and `rport`, all `Contact`s, `From` and `To`, as nf_nat_sip does. `Route` and `Record-Route` belong to
//! proxies, which are not behind translation. The session that the body describes is in [`sdp`](super::sdp).
//!
//! Strict in form: a message begins where it is looked for, with a request or status line of this version, and its head
//! ends with an empty line. Lines end with CRLF or LF; a line that begins with a space or tab continues the one before
//! (§7.3.1). Pure; no byte sequence makes it panic.

use arrayvec::ArrayVec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::ops::Range;

use super::{decimal, port};

/// The port of an endpoint that names none: §19.1.2.
pub const PORT: u16 = 5060;

/// Address and port.
pub type Endpoint = (IpAddr, u16);

/// What a request asks for, and what a response is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// Begins or changes a call (§13, §14).
    Invite,
    /// Ends the handshake of INVITE (§17.1.1.3); may carry an answer.
    Ack,
    /// Ends a call (§15).
    Bye,
    /// Acknowledges a provisional response: RFC 3262.
    Prack,
    /// Changes a call that may not be there yet: RFC 3311.
    Update,
    /// Says where calls for a name are to be sent (§10).
    Register,
    /// Any other.
    Other,
}

impl Method {
    /// Methods are told apart by case (§7.1).
    fn of(name: &[u8]) -> Self {
        match name {
            b"INVITE" => Self::Invite,
            b"ACK" => Self::Ack,
            b"BYE" => Self::Bye,
            b"PRACK" => Self::Prack,
            b"UPDATE" => Self::Update,
            b"REGISTER" => Self::Register,
            _ => Self::Other,
        }
    }
}

/// What sort of message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// A request.
    Request,
    /// A response with this code: 100 to 699.
    Response(u16),
}

/// A message. Ranges are of the bytes that it was read from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// Request or response.
    pub start: Start,
    /// The request's method; of a response, that of the request it answers (`CSeq`).
    pub method: Method,
    /// The number in `CSeq`.
    pub cseq: u32,
    /// A hash of `Call-ID`: tells the calls of one connection apart.
    pub call: u32,
    /// The header fields, without the start line and the empty line.
    fields: Range<usize>,
    /// A request's URI.
    uri: Range<usize>,
    /// The digits of `Content-Length`, if it is there.
    length: Option<Range<usize>>,
    /// The body.
    pub body: Range<usize>,
    /// Whether the body describes a session (`application/sdp`).
    pub has_session: bool,
}

/// How the end of a message is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// A datagram holds one (§18.3).
    Datagram,
    /// `Content-Length` says (§20.14).
    Stream,
}

/// What bytes begin with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reading {
    /// A whole message.
    Message(Message),
    /// One that goes on beyond the bytes; how long it is, if its head is all there.
    Unfinished(Option<usize>),
    /// Nothing of SIP's.
    Foreign,
    /// A message that contradicts itself, or lacks what every message has.
    Malformed,
}

/// Reads the message that `bytes` begin with.
pub fn read(bytes: &[u8], framing: Framing) -> Reading {
    let Some((first, after_first)) = line(bytes, 0) else {
        return if may_begin(bytes) { Reading::Unfinished(None) } else { Reading::Foreign };
    };
    let Some((start, method, uri)) = start_line(bytes, first) else { return Reading::Foreign };
    let Some((fields, head)) = head_end(bytes, after_first) else {
        return Reading::Unfinished(None);
    };
    let mut message = Message {
        start,
        method: method.unwrap_or(Method::Other),
        cseq: 0,
        call: 0,
        fields: fields.clone(),
        uri,
        length: None,
        body: head..bytes.len(),
        has_session: false,
    };
    let (mut length, mut has_cseq) = (None, false);
    for field in Fields::of(bytes, fields) {
        let mut value = Cursor { bytes, at: field.value.start, end: field.value.end };
        value.space();
        match field.name {
            Name::CSeq if !has_cseq => {
                let Some((number, asked)) = value.cseq() else { return Reading::Malformed };
                // §8.1.1.5: that of a request is its own.
                if method.is_some_and(|method| method != asked) {
                    return Reading::Malformed;
                }
                (message.cseq, message.method, has_cseq) = (number, asked, true);
            }
            Name::CallId => message.call = hash(value.rest().trim_ascii()),
            Name::ContentLength => {
                let from = value.at;
                let Some(number) = value.number() else { return Reading::Malformed };
                // Two that say different things are for two readers (request smuggling).
                if length.is_some_and(|length| length != number) || !value.is_done() {
                    return Reading::Malformed;
                }
                (length, message.length) = (Some(number), Some(from..value.digits_end(from)));
            }
            Name::ContentType => {
                let media = value.rest().split(|b| matches!(b, b';' | b' ' | b'\t')).next();
                let is_sdp =
                    |media: &[u8]| media.trim_ascii().eq_ignore_ascii_case(b"application/sdp");
                message.has_session = media.is_some_and(is_sdp);
            }
            _ => {}
        }
    }
    if !has_cseq {
        return Reading::Malformed;
    }
    match (length, framing) {
        (Some(length), _) => {
            let Some(end) = head.checked_add(length as usize) else { return Reading::Malformed };
            if end > bytes.len() {
                return Reading::Unfinished(Some(end));
            }
            message.body.end = end;
        }
        (None, Framing::Datagram) => {}
        (None, Framing::Stream) => return Reading::Malformed,
    }
    Reading::Message(message)
}

impl Message {
    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.body.end
    }

    /// Whether it has none; it has.
    pub fn is_empty(&self) -> bool {
        self.body.end == 0
    }

    /// The value of `Expires`, seconds, if there is one that can be read.
    pub fn expires(&self, bytes: &[u8]) -> Option<u32> {
        let mut fields = Fields::of(bytes, self.fields.clone());
        let field = fields.find(|field| field.name == Name::Expires)?;
        let mut value = Cursor { bytes, at: field.value.start, end: field.value.end };
        value.space();
        value.number()
    }

    /// Where the `Contact` fields say calls are to be sent to.
    pub fn contacts<'m>(&self, bytes: &'m [u8]) -> impl Iterator<Item = Contact> + use<'m> {
        let fields = Fields::of(bytes, self.fields.clone());
        fields.filter(|field| field.name == Name::Contact).flat_map(move |field| {
            let mut value = Cursor { bytes, at: field.value.start, end: field.value.end };
            core::iter::from_fn(move || value.element()).map(move |element| Contact {
                host: element.host.as_ref().map(|host| host.endpoint),
                transport: element.transport,
                expires: element.expires,
            })
        })
    }
}

/// One `Contact`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Contact {
    /// The endpoint, if it is an address and not a name.
    pub host: Option<Endpoint>,
    /// What its URI says to send over.
    pub transport: Transport,
    /// How long it is to count.
    pub expires: Expires,
}

/// What a URI says to send over (§19.1.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// Nothing: what is used already.
    Unsaid,
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
    /// Something else.
    Other,
}

/// The parameter `expires` of a `Contact`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expires {
    /// There is none.
    Unsaid,
    /// Seconds.
    After(u32),
    /// It is no number.
    Unreadable,
}

/// What the endpoints of one side are for the other, for one direction of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct View {
    /// The speaker: as it sends, and as it is seen.
    pub own: [Endpoint; 2],
    /// The listener: as the speaker knows it, and as it is.
    pub peer: [Endpoint; 2],
    /// An endpoint that was registered: as the speaker names it, and as the listener knows it.
    pub registered: Option<[Endpoint; 2]>,
}

impl View {
    /// What an endpoint that the speaker names is for the listener; `None` if it stays as it is.
    pub fn map(&self, named: Endpoint) -> Option<Endpoint> {
        let pairs = [Some(self.own), Some(self.peer), self.registered];
        let found = pairs.into_iter().flatten().find(|[from, _]| *from == named);
        found.map(|[_, to]| to).filter(|to| *to != named)
    }
}

/// Longest text that is written: `255.255.255.255:65535`, and a `Content-Length`. Bytes.
const EDIT_MAX: usize = 21;

/// A text and what it is written over.
#[derive(Clone, Debug)]
struct Edit {
    range: Range<usize>,
    text: ArrayVec<u8, EDIT_MAX>,
}

/// Most edits of one message: of a head and of as many media as are read, and room for a list of `Contact`s.
const EDITS_MAX: usize = 40;

/// There is more to change in one message than any honest one has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooMany;

/// What is to be written over a message.
#[derive(Clone, Debug, Default)]
pub struct Edits(ArrayVec<Edit, EDITS_MAX>);

impl Edits {
    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Writes an address over a range.
    ///
    /// # Errors
    /// If there are too many.
    pub fn address(&mut self, range: Range<usize>, address: Ipv4Addr) -> Result<(), TooMany> {
        let mut text = ArrayVec::new();
        for (place, octet) in address.octets().into_iter().enumerate() {
            if place > 0 {
                let _ = text.try_push(b'.');
            }
            write_number(&mut text, octet.into());
        }
        self.push(range, text)
    }

    /// Writes a number over a range.
    ///
    /// # Errors
    /// If there are too many.
    pub fn number(&mut self, range: Range<usize>, number: u32) -> Result<(), TooMany> {
        let mut text = ArrayVec::new();
        write_number(&mut text, number);
        self.push(range, text)
    }

    /// Writes an endpoint over another one. A port that is the standard one is left out where it was.
    fn endpoint(&mut self, host: &Host, (address, port): Endpoint) -> Result<(), TooMany> {
        // IPv6 is not translated, so there is nothing to write.
        let IpAddr::V4(address) = address else { return Ok(()) };
        self.address(host.range.clone(), address)?;
        if (host.has_port || port != PORT)
            && let Some(Edit { text, .. }) = self.0.last_mut()
        {
            let _ = text.try_push(b':');
            write_number(text, port.into());
        }
        Ok(())
    }

    fn push(&mut self, range: Range<usize>, text: ArrayVec<u8, EDIT_MAX>) -> Result<(), TooMany> {
        self.0.try_push(Edit { range, text }).map_err(|_| TooMany)
    }

    /// What is to be written over the head.
    ///
    /// # Errors
    /// If it is too much.
    pub fn head(
        &mut self,
        bytes: &[u8],
        message: &Message,
        protocol: Transport,
        view: &View,
    ) -> Result<(), TooMany> {
        let map = |host: &Host| view.map(host.endpoint);
        if message.start == Start::Request {
            let uri = message.uri.clone();
            let uri = Cursor { bytes, at: uri.start, end: uri.end };
            if let Some(host) = uri.uri_host()
                && let Some(to) = map(&host)
            {
                self.endpoint(&host, to)?;
            }
        }
        let (mut via, mut from, mut to) = (false, false, false);
        for field in Fields::of(bytes, message.fields.clone()) {
            let mut value = Cursor { bytes, at: field.value.start, end: field.value.end };
            // Of those that stand once, the first counts.
            let is_first = match field.name {
                Name::Via => !core::mem::replace(&mut via, true),
                Name::From => !core::mem::replace(&mut from, true),
                Name::To => !core::mem::replace(&mut to, true),
                Name::Contact => true,
                _ => false,
            };
            if !is_first {
                continue;
            }
            if field.name == Name::Via {
                self.via(&mut value, message.start, protocol, view)?;
                continue;
            }
            while let Some(element) = value.element() {
                if let Some(host) = element.host
                    && let Some(to) = map(&host)
                {
                    self.endpoint(&host, to)?;
                }
                if field.name != Name::Contact {
                    break;
                }
            }
        }
        Ok(())
    }

    /// The topmost `Via`: that of whoever sent the request (§8.1.1.7, §18.2.1), if it is over this protocol and was sent
    /// from the endpoint that it names.
    fn via(
        &mut self,
        value: &mut Cursor<'_>,
        start: Start,
        protocol: Transport,
        view: &View,
    ) -> Result<(), TooMany> {
        let Some((over, host)) = value.sent_by() else { return Ok(()) };
        let sender = if start == Start::Request { view.own } else { view.peer };
        if over != protocol || host.endpoint != sender[0] {
            return Ok(());
        }
        if sender[0] != sender[1] {
            self.endpoint(&host, sender[1])?;
        }
        while let Some((name, value)) = value.parameter() {
            let is = |word: &[u8]| name.eq_ignore_ascii_case(word);
            let number = || value.clone().number();
            let address = || value.clone().host().filter(|host| !host.has_port);
            // The address to answer to (§18.2.1), then the ones that were seen (§18.2.1; RFC 3581 §4).
            let of = match () {
                () if is(b"maddr") => view.own,
                () if is(b"received") => view.peer,
                () if is(b"rport") => {
                    let [from, to] = view.peer.map(|(_, port)| port);
                    if number() == Some(from.into()) && from != to {
                        self.number(value.at..value.digits_end(value.at), to.into())?;
                    }
                    continue;
                }
                () => continue,
            };
            if let (IpAddr::V4(to), Some(host)) = (of[1].0, address())
                && host.endpoint.0 == of[0].0
                && of[0].0 != of[1].0
            {
                self.address(host.range, to)?;
            }
        }
        Ok(())
    }

    /// The message with all of it done, and its `Content-Length` brought up to date.
    ///
    /// # Errors
    /// If there is too much of it, or no room for the new message.
    pub fn apply<const N: usize>(
        mut self,
        bytes: &[u8],
        message: &Message,
        out: &mut ArrayVec<u8, N>,
    ) -> Result<(), TooMany> {
        let Message { body, length, .. } = message;
        let in_body = self.0.iter().filter(|edit| edit.range.start >= body.start);
        let new_len = in_body
            .fold(body.len(), |len, edit| (len + edit.text.len()).wrapping_sub(edit.range.len()));
        if let Some(length) = length
            && new_len != body.len()
        {
            self.number(length.clone(), new_len as u32)?;
        }
        self.0.sort_unstable_by_key(|edit| edit.range.start);
        let mut at = 0;
        for Edit { range, text } in &self.0 {
            // They are of different words.
            let between = bytes.get(at..range.start).unwrap_or_default();
            out.try_extend_from_slice(between).map_err(|_| TooMany)?;
            out.try_extend_from_slice(text).map_err(|_| TooMany)?;
            at = range.end;
        }
        let rest = bytes.get(at..message.len()).unwrap_or_default();
        out.try_extend_from_slice(rest).map_err(|_| TooMany)
    }
}

fn write_number(text: &mut ArrayVec<u8, EDIT_MAX>, number: u32) {
    let mut digits = ArrayVec::<u8, 10>::new(); // the lowest first: u32::MAX has ten
    let mut rest = number;
    loop {
        let _ = digits.try_push(b'0' + (rest % 10) as u8);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    for &digit in digits.iter().rev() {
        let _ = text.try_push(digit);
    }
}

/// FNV-1a: whoever finds two calls with one hash has to be a party of the same signalling connection, and gains the end of
/// his own call's expectations.
fn hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// The line at `at` without its end, and where the next one begins; `None` if it has no end.
fn line(bytes: &[u8], at: usize) -> Option<(Range<usize>, usize)> {
    let len = bytes.get(at..)?.iter().position(|&b| b == b'\n')?;
    let end = at + len;
    let bare = if len > 0 && bytes.get(end - 1) == Some(&b'\r') { end - 1 } else { end };
    Some((at..bare, end + 1))
}

const VERSION: &[u8] = b"SIP/2.0";

/// Whether a first line without its end may become one.
fn may_begin(bytes: &[u8]) -> bool {
    let word = bytes.iter().take_while(|b| is_token(**b)).count();
    let is_status = bytes.iter().zip(VERSION).all(|(a, b)| a.eq_ignore_ascii_case(b));
    is_status || word == bytes.len() || word > 0 && bytes.get(word) == Some(&b' ')
}

/// A request line or a status line (§7.1, §7.2): what sort of message, a request's method and URI.
#[allow(clippy::type_complexity)] // said once
fn start_line(bytes: &[u8], line: Range<usize>) -> Option<(Start, Option<Method>, Range<usize>)> {
    let text = bytes.get(line.clone())?;
    let version = text.get(..VERSION.len())?;
    if version.eq_ignore_ascii_case(VERSION) {
        let rest = text.get(VERSION.len()..)?.strip_prefix(b" ")?;
        let (code, rest) = decimal(rest, 3)?;
        let whole = rest.is_empty() || rest.first() == Some(&b' ');
        let is_code = whole && (100..700).contains(&code);
        return is_code.then_some((Start::Response(code as u16), None, 0..0));
    }
    let method = text.iter().position(|&b| b == b' ')?;
    let end = text.iter().rposition(|&b| b == b' ')?;
    let (uri, version) = (text.get(method + 1..end)?, text.get(end + 1..)?);
    let is_request = text.get(..method)?.iter().all(|&b| is_token(b))
        && method > 0
        && !uri.is_empty()
        && !uri.contains(&b' ')
        && version.eq_ignore_ascii_case(VERSION);
    let uri = line.start + method + 1..line.start + end;
    is_request.then(|| (Start::Request, text.get(..method).map(Method::of), uri))
}

/// The header fields from `at` on, and where the body begins; `None` if no empty line ends them.
fn head_end(bytes: &[u8], begin: usize) -> Option<(Range<usize>, usize)> {
    let mut at = begin;
    loop {
        let (this, next) = line(bytes, at)?;
        if this.is_empty() {
            return Some((begin..at, next));
        }
        at = next;
    }
}

/// §25.1, `token`.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&byte)
}

/// The header fields that matter, by either of their names (§7.3.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Name {
    CallId,
    Contact,
    ContentLength,
    ContentType,
    CSeq,
    Expires,
    From,
    To,
    Via,
    Other,
}

impl Name {
    fn of(name: &[u8]) -> Self {
        const NAMES: [(&[u8], &[u8], Name); 9] = [
            (b"Call-ID", b"i", Name::CallId),
            (b"Contact", b"m", Name::Contact),
            (b"Content-Length", b"l", Name::ContentLength),
            (b"Content-Type", b"c", Name::ContentType),
            (b"CSeq", b"CSeq", Name::CSeq),
            (b"Expires", b"Expires", Name::Expires),
            (b"From", b"f", Name::From),
            (b"To", b"t", Name::To),
            (b"Via", b"v", Name::Via),
        ];
        let is = |word: &[u8]| name.eq_ignore_ascii_case(word);
        let found = NAMES.iter().find(|(long, short, _)| is(long) || is(short));
        found.map_or(Self::Other, |(_, _, name)| *name)
    }
}

struct Field {
    name: Name,
    value: Range<usize>,
}

/// The header fields one after another, each with the lines that continue it.
struct Fields<'m> {
    bytes: &'m [u8],
    at: usize,
    end: usize,
}

impl<'m> Fields<'m> {
    fn of(bytes: &'m [u8], range: Range<usize>) -> Self {
        Self { bytes, at: range.start, end: range.end }
    }
}

impl Iterator for Fields<'_> {
    type Item = Field;

    fn next(&mut self) -> Option<Field> {
        let bytes = self.bytes.get(..self.end)?;
        let (first, mut next) = line(bytes, self.at)?;
        let mut value_end = first.end;
        while matches!(bytes.get(next), Some(b' ' | b'\t'))
            && let Some((more, after)) = line(bytes, next)
        {
            (value_end, next) = (more.end, after);
        }
        self.at = next;
        let text = bytes.get(first.start..value_end)?;
        // §7.3.1: a name, spaces perhaps, a colon.
        let len = text.iter().take_while(|b| is_token(**b)).count();
        let spaces = text.get(len..)?.iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
        let name = match text.get(len + spaces) {
            Some(b':') => Name::of(text.get(..len)?),
            _ => Name::Other,
        };
        Some(Field { name, value: (first.start + len + spaces + 1).min(value_end)..value_end })
    }
}

/// A host and port that stand somewhere.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Host {
    range: Range<usize>,
    endpoint: Endpoint,
    /// Whether the port is written.
    has_port: bool,
}

/// One element of a list of addresses (§20.10): `"name" <uri>;parameters`.
struct Element {
    host: Option<Host>,
    transport: Transport,
    expires: Expires,
}

/// Reads a header field's value from its beginning. The ends of lines that are continued are spaces.
#[derive(Clone)]
struct Cursor<'m> {
    bytes: &'m [u8],
    at: usize,
    end: usize,
}

impl<'m> Cursor<'m> {
    fn rest(&self) -> &'m [u8] {
        self.bytes.get(self.at..self.end).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.rest().first().copied()
    }

    fn is_done(&mut self) -> bool {
        self.space();
        self.at >= self.end
    }

    fn space(&mut self) {
        let is_space = |b: &&u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n');
        self.at += self.rest().iter().take_while(is_space).count();
    }

    fn eat(&mut self, byte: u8) -> Option<()> {
        (self.peek() == Some(byte)).then(|| self.at += 1)
    }

    /// A word, and the spaces behind it.
    fn word(&mut self) -> &'m [u8] {
        let rest = self.rest();
        let len = rest.iter().take_while(|b| is_token(**b)).count();
        self.at += len;
        self.space();
        rest.get(..len).unwrap_or_default()
    }

    fn number(&mut self) -> Option<u32> {
        let rest = self.rest();
        let (number, after) = decimal(rest, 10)?;
        self.at += rest.len() - after.len();
        Some(number)
    }

    /// Where the digits that begin at `from` end.
    fn digits_end(&self, from: usize) -> usize {
        let text = self.bytes.get(from..self.end).unwrap_or_default();
        from + text.iter().take_while(|b| b.is_ascii_digit()).count()
    }

    /// `CSeq`: a number and a method (§20.16).
    fn cseq(&mut self) -> Option<(u32, Method)> {
        let number = self.number()?;
        self.space();
        let word = self.word();
        (!word.is_empty()).then(|| (number, Method::of(word)))
    }

    /// The rest as an address with or without a port.
    fn host(&mut self) -> Option<Host> {
        let (start, rest) = (self.at, self.rest());
        let (address, len): (IpAddr, usize) = if rest.first() == Some(&b'[') {
            let len = rest.iter().position(|&b| b == b']')?;
            let text = core::str::from_utf8(rest.get(1..len)?).ok()?;
            (text.parse::<Ipv6Addr>().ok()?.into(), len + 1)
        } else {
            let is_name = |b: &&u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            let len = rest.iter().take_while(is_name).count();
            let text = core::str::from_utf8(rest.get(..len)?).ok()?;
            (text.parse::<Ipv4Addr>().ok()?.into(), len)
        };
        self.at += len;
        let (bare, mut after) = (self.at, self.clone());
        after.space();
        let number = if after.eat(b':').is_some() {
            after.space();
            let (number, rest) = port(after.rest())?;
            self.at = after.end - rest.len();
            Some(number)
        } else {
            None
        };
        let end = if number.is_some() { self.at } else { bare };
        let endpoint = (address, number.unwrap_or(PORT));
        Some(Host { range: start..end, endpoint, has_port: number.is_some() })
    }

    /// The host of a URI that is all there is (§19.1.1): `sip:user@host:port;parameters?headers`.
    fn uri_host(&self) -> Option<Host> {
        let mut uri = self.clone();
        let scheme = uri.rest().get(..4)?;
        if !scheme.eq_ignore_ascii_case(b"sip:") {
            return None;
        }
        uri.at += 4;
        if let Some(user) = uri.rest().iter().position(|&b| b == b'@') {
            uri.at += user + 1;
        }
        let host = uri.host()?;
        matches!(uri.peek(), None | Some(b';' | b'?' | b' ' | b'\t' | b'\r')).then_some(host)
    }

    /// `Via` up to its parameters: what it was sent over, and by whom (§20.42).
    fn sent_by(&mut self) -> Option<(Transport, Host)> {
        self.space();
        for expected in [&b"SIP"[..], b"2.0"] {
            if !self.word().eq_ignore_ascii_case(expected) {
                return None;
            }
            self.eat(b'/')?;
            self.space();
        }
        let over = transport(self.word());
        Some((over, self.host()?))
    }

    /// The next parameter: its name, and what follows the equals sign. Stops at the end of a list's element.
    fn parameter(&mut self) -> Option<(&'m [u8], Cursor<'m>)> {
        self.space();
        self.eat(b';')?;
        self.space();
        let name = self.word();
        let mut value = Cursor { end: self.at, ..self.clone() };
        if self.eat(b'=').is_some() {
            self.space();
            value.at = self.at;
            self.skip_to(b";,");
            value.end = self.at;
        }
        Some((name, value))
    }

    /// Goes on to one of `stops` that is not within quotes (§25.1, `quoted-string`), or to the end.
    fn skip_to(&mut self, stops: &[u8]) {
        let mut is_quoted = false;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => is_quoted = !is_quoted,
                b'\\' if is_quoted => self.at += 1,
                _ if !is_quoted && stops.contains(&byte) => return,
                _ => {}
            }
            self.at += 1;
        }
        self.at = self.at.min(self.end);
    }

    /// The next element of a list.
    fn element(&mut self) -> Option<Element> {
        self.space();
        if self.at >= self.end {
            return None;
        }
        let mut bare = self.clone();
        self.skip_to(b"<;,");
        let mut uri = if self.peek() == Some(b'<') {
            let mut uri = Cursor { at: self.at + 1, ..self.clone() };
            // What is not closed is no URI.
            let len = uri.rest().iter().position(|&b| b == b'>');
            self.at = len.map_or(self.end, |len| uri.at + len + 1);
            uri.end = len.map_or(uri.at, |len| uri.at + len);
            self.skip_to(b";,");
            uri
        } else {
            // Without brackets the parameters are the field's, not the URI's.
            bare.end = self.at;
            bare
        };
        let host = uri.uri_host();
        let mut found = Element { host, transport: Transport::Unsaid, expires: Expires::Unsaid };
        uri.skip_to(b";");
        while let Some((name, value)) = uri.parameter() {
            if name.eq_ignore_ascii_case(b"transport") {
                found.transport = transport(value.rest().trim_ascii());
            }
        }
        while let Some((name, value)) = self.parameter() {
            if name.eq_ignore_ascii_case(b"expires") {
                let seconds = value.clone().number();
                found.expires = seconds.map_or(Expires::Unreadable, Expires::After);
            }
            self.skip_to(b";,");
        }
        self.skip_to(b",");
        let _ = self.eat(b',');
        Some(found)
    }
}

fn transport(name: &[u8]) -> Transport {
    match () {
        () if name.eq_ignore_ascii_case(b"UDP") => Transport::Udp,
        () if name.eq_ignore_ascii_case(b"TCP") => Transport::Tcp,
        () => Transport::Other,
    }
}

#[cfg(test)]
mod tests {
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
        let mut out = ArrayVec::<u8, 4096>::new();
        edits.apply(bytes, &message, &mut out).unwrap();
        String::from_utf8(out.to_vec()).unwrap()
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
            (
                "Contact: sip:a@192.168.1.2;expires=5",
                "Contact: sip:a@203.0.113.100:31000;expires=5",
            ),
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
            std::format!(
                "INVITE sip:a@{host} SIP/2.0\r\nTo: <sip:a@{host}>\r\nCSeq: 1 INVITE\r\n\r\n"
            )
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
        let rows: [(&str, &str); 19] = [
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
                    let mut out = ArrayVec::<u8, 4096>::new();
                    prop_assert_eq!(edits.apply(&bytes, &message, &mut out), Ok(()));
                }
            }
        }
    }
}
