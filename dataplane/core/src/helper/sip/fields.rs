//! The header fields of a message, and the words that stand in them: RFC 3261 §7.3, §20 and §25.1.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::ops::Range;

use super::{Endpoint, Expires, Method, PORT, Transport};
use crate::helper::{decimal, port};

/// The line at `at` without its end, and where the next one begins; `None` if it has no end.
pub(super) fn line(bytes: &[u8], at: usize) -> Option<(Range<usize>, usize)> {
    let len = bytes.get(at..)?.iter().position(|&b| b == b'\n')?;
    let end = at + len;
    let bare = if len > 0 && bytes.get(end - 1) == Some(&b'\r') { end - 1 } else { end };
    Some((at..bare, end + 1))
}

/// §25.1, `token`.
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&byte)
}

/// The header fields that matter, by either of their names (§7.3.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Name {
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
    pub(super) fn of(name: &[u8]) -> Self {
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

pub(super) struct Field {
    pub(super) name: Name,
    pub(super) value: Range<usize>,
}

/// The header fields one after another, each with the lines that continue it.
pub(super) struct Fields<'m> {
    pub(super) bytes: &'m [u8],
    pub(super) at: usize,
    pub(super) end: usize,
}

impl<'m> Fields<'m> {
    pub(super) fn of(bytes: &'m [u8], range: Range<usize>) -> Self {
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
pub(super) struct Host {
    pub(super) range: Range<usize>,
    pub(super) endpoint: Endpoint,
    /// Whether the port is written.
    pub(super) has_port: bool,
}

/// One element of a list of addresses (§20.10): `"name" <uri>;parameters`.
pub(super) struct Element {
    pub(super) host: Option<Host>,
    pub(super) transport: Transport,
    pub(super) expires: Expires,
}

/// Reads a header field's value from its beginning. The ends of lines that are continued are spaces.
#[derive(Clone)]
pub(super) struct Cursor<'m> {
    pub(super) bytes: &'m [u8],
    pub(super) at: usize,
    pub(super) end: usize,
}

impl<'m> Cursor<'m> {
    pub(super) fn rest(&self) -> &'m [u8] {
        self.bytes.get(self.at..self.end).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.rest().first().copied()
    }

    pub(super) fn is_done(&mut self) -> bool {
        self.space();
        self.at >= self.end
    }

    pub(super) fn space(&mut self) {
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

    pub(super) fn number(&mut self) -> Option<u32> {
        let rest = self.rest();
        let (number, after) = decimal(rest, 10)?;
        self.at += rest.len() - after.len();
        Some(number)
    }

    /// Where the digits that begin at `from` end.
    pub(super) fn digits_end(&self, from: usize) -> usize {
        let text = self.bytes.get(from..self.end).unwrap_or_default();
        from + text.iter().take_while(|b| b.is_ascii_digit()).count()
    }

    /// `CSeq`: a number and a method (§20.16).
    pub(super) fn cseq(&mut self) -> Option<(u32, Method)> {
        let number = self.number()?;
        self.space();
        let word = self.word();
        (!word.is_empty()).then(|| (number, Method::of(word)))
    }

    /// The rest as an address with or without a port.
    pub(super) fn host(&mut self) -> Option<Host> {
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
    pub(super) fn uri_host(&self) -> Option<Host> {
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
    pub(super) fn sent_by(&mut self) -> Option<(Transport, Host)> {
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
    pub(super) fn parameter(&mut self) -> Option<(&'m [u8], Cursor<'m>)> {
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
    pub(super) fn element(&mut self) -> Option<Element> {
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
