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

mod fields;

use arrayvec::ArrayVec;
use core::net::{IpAddr, Ipv4Addr};
use core::ops::Range;

use self::fields::{Cursor, Fields, Host, Name, is_token, line};
use super::decimal;

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
                // Two of them are for two readers (request smuggling).
                if length.is_some() || !value.is_done() {
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

    /// Hands the message on with all of it done, and its `Content-Length` brought up to date: piece by piece to `put`.
    ///
    /// # Errors
    /// If there is too much of it, or as `put` says.
    pub fn apply(
        mut self,
        bytes: &[u8],
        message: &Message,
        mut put: impl FnMut(&[u8]) -> Result<(), TooMany>,
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
            put(between)?;
            put(text)?;
            at = range.end;
        }
        let rest = bytes.get(at..message.len()).unwrap_or_default();
        put(rest)
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

#[cfg(test)]
mod tests;
