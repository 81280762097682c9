//! Helpers: protocols that name, inside one connection, the endpoint of another.
//!
//! A connection that has a helper is read along: its packets take the long way, and what its peers say to each
//! other is looked at byte by byte, once, in order. A helper that finds an endpoint makes an [`expect`]ation, so
//! that the connection announced is RELATED and goes where it should; behind NAT it writes the endpoint that the
//! other side can reach over the one that was named, and from then on sequence numbers of the two sides differ
//! by what lengths have changed ([`adjust`]).
//!
//! - [`ftp`], [`irc`], [`tftp`], [`sip`] and [`sdp`]: text in, what it names out. Pure; no byte sequence makes them panic.
//! - [`expect`]: the one table that workers share. [`pool`]: what one worker remembers of each such connection, and [`calls`] of
//!   the calls that it is about.
//!
//! Helpers are off unless asked for, and strict: they believe a command only if it is a whole line that begins
//! with a segment and follows whole lines (NAT slipstreaming, 2020), an endpoint only if it is the speaker's own
//! (RFC 2577 §3: the bounce attack) with a port of 1024 or more, and never open anything to the appliance itself.

use arrayvec::ArrayVec;
use core::net::IpAddr;
use core::ops::Range;

use crate::conntrack::tuple::protocol;

pub mod adjust;
pub mod calls;
pub mod edit;
pub mod expect;
pub mod ftp;
pub mod irc;
pub mod pool;
pub mod sdp;
pub mod sip;
pub mod tftp;

/// Longest text that a helper writes: `PORT`'s twenty-three characters, and room for others to come. Bytes.
pub const TEXT_MAX: usize = 56;

/// What a helper writes over what it found.
pub type Text = ArrayVec<u8, TEXT_MAX>;

/// A protocol that has a helper.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    /// File transfer, RFC 959, RFC 2428: control connections to TCP port 21.
    Ftp = 1,
    /// DCC among IRC clients: connections to TCP port 6667.
    Irc = 2,
    /// Trivial file transfer, RFC 1350: requests to UDP port 69.
    Tftp = 3,
    /// Telephony, RFC 3261: signalling over UDP or TCP, to port 5060 or others.
    Sip = 4,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ftp, Self::Irc, Self::Tftp, Self::Sip];

    /// Its name, as nf_conntrack has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ftp => "ftp",
            Self::Irc => "irc",
            Self::Tftp => "tftp",
            Self::Sip => "sip",
        }
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The one of that number.
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// The protocols that it is spoken over.
    pub const fn protocols(self) -> &'static [u8] {
        match self {
            Self::Ftp | Self::Irc => &[protocol::TCP],
            Self::Tftp => &[protocol::UDP],
            Self::Sip => &[protocol::UDP, protocol::TCP],
        }
    }

    /// The port of its servers (IANA), if none is configured.
    pub const fn port(self) -> u16 {
        match self {
            Self::Ftp => 21,
            Self::Irc => 6667,
            Self::Tftp => 69,
            Self::Sip => sip::PORT,
        }
    }

    /// Most expectations of one master at a time: with one more the oldest goes (nf_conntrack's `max_expected`;
    /// a client may offer several files at once only in DCC). SIP's are counted by medium ([`calls::MEDIA_MAX`]).
    pub const fn expected_max(self) -> usize {
        match self {
            Self::Ftp | Self::Tftp | Self::Sip => 1,
            Self::Irc => pool::EXPECTED_MAX,
        }
    }
}

/// How long an expectation waits, milliseconds (nf_conntrack_ftp, _irc, _tftp: five minutes), unless its master goes
/// before.
pub const EXPECT_MS: u32 = 300_000;

/// The least port that may be expected: those below belong to services.
pub const PORT_MIN: u16 = 1024;

/// Which helpers are on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Helpers {
    /// A bit for each [`Kind`].
    on: u8,
    /// SIP's ports; 0 is none.
    sip_ports: [u16; SIP_PORTS_MAX],
}

/// Most ports of SIP (nf_conntrack_sip's `ports`).
pub const SIP_PORTS_MAX: usize = 8;

impl Default for Helpers {
    fn default() -> Self {
        Self::NONE
    }
}

impl Helpers {
    /// None.
    pub const NONE: Self = Self { on: 0, sip_ports: [sip::PORT, 0, 0, 0, 0, 0, 0, 0] };

    /// With one more.
    #[must_use]
    pub const fn with(self, kind: Kind) -> Self {
        Self { on: self.on | 1 << kind as u8, ..self }
    }

    /// With these ports for SIP, the first [`SIP_PORTS_MAX`] of them.
    #[must_use]
    pub fn with_sip_ports(self, ports: &[u16]) -> Self {
        let mut sip_ports = [0; SIP_PORTS_MAX];
        for (to, from) in sip_ports.iter_mut().zip(ports) {
            *to = *from;
        }
        Self { sip_ports, ..self }
    }

    /// Whether it is on.
    pub const fn has(self, kind: Kind) -> bool {
        self.on & 1 << kind as u8 != 0
    }

    /// Whether any is on.
    #[inline]
    pub const fn any(self) -> bool {
        self.on != 0
    }

    /// The helper of a connection to such a server; the port is the server's own, behind any forward (as
    /// nf_conntrack looks at the reply tuple's source).
    pub fn of_service(self, ip_protocol: u8, port: u16) -> Option<Kind> {
        let serves = |kind: &Kind| {
            let is_port = match kind {
                Kind::Sip => port != 0 && self.sip_ports.contains(&port),
                _ => kind.port() == port,
            };
            self.has(*kind) && is_port && kind.protocols().contains(&ip_protocol)
        };
        Kind::ALL.into_iter().find(serves)
    }
}

/// An endpoint that was named in a line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What to write over if another endpoint is to stand there, within the line.
    pub range: Range<usize>,
    /// The address named; `None` if only a port is, and the address is the speaker's.
    pub address: Option<IpAddr>,
    /// The port named.
    pub port: u16,
    /// How it is written.
    pub style: Style,
}

/// How an endpoint is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// `192,168,1,2,4,1`: RFC 959 §4.1.2.
    Commas,
    /// `1|192.168.1.2|1025` and the like, with this delimiter: RFC 2428 §2.
    Delimited(u8),
    /// `1025`.
    Port,
    /// `3232235778 1025`: address and port as decimal numbers, as DCC has them.
    Numbers,
}

impl Style {
    /// An endpoint in this style; `None` if it cannot be said.
    pub fn write(self, address: IpAddr, port: u16) -> Option<Text> {
        let mut text = Text::new();
        match (self, address) {
            (Self::Commas, IpAddr::V4(address)) => {
                let [a, b, c, d] = address.octets().map(u32::from);
                let [high, low] = port.to_be_bytes().map(u32::from);
                list(&mut text, b',', &[a, b, c, d, high, low])?;
            }
            (Self::Delimited(delimiter), IpAddr::V4(address)) => {
                number(&mut text, 1)?;
                push(&mut text, delimiter)?;
                list(&mut text, b'.', &address.octets().map(u32::from))?;
                push(&mut text, delimiter)?;
                number(&mut text, port.into())?;
            }
            (Self::Port, _) => number(&mut text, port.into())?,
            (Self::Numbers, IpAddr::V4(address)) => {
                number(&mut text, address.into())?;
                push(&mut text, b' ')?;
                number(&mut text, port.into())?;
            }
            // IPv6 is not translated, so there is nothing to write.
            (_, IpAddr::V6(_)) => return None,
        }
        Some(text)
    }
}

fn push(text: &mut Text, byte: u8) -> Option<()> {
    text.try_push(byte).ok()
}

fn list(text: &mut Text, between: u8, numbers: &[u32]) -> Option<()> {
    for (place, &value) in numbers.iter().enumerate() {
        if place > 0 {
            push(text, between)?;
        }
        number(text, value)?;
    }
    Some(())
}

/// Writes a number in decimal.
fn number(text: &mut Text, mut value: u32) -> Option<()> {
    let mut digits = ArrayVec::<u8, 10>::new(); // the lowest first: u32::MAX has ten
    loop {
        push_digit(&mut digits, (value % 10) as u8)?;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    digits.iter().rev().try_for_each(|&digit| push(text, digit))
}

fn push_digit(digits: &mut ArrayVec<u8, 10>, value: u8) -> Option<()> {
    digits.try_push(b'0' + value).ok()
}

/// Reads a decimal number of at most `digits_max` digits off the front of `bytes`; the number and what follows.
pub(crate) fn decimal(bytes: &[u8], digits_max: usize) -> Option<(u32, &[u8])> {
    let len = bytes.iter().take_while(|b| b.is_ascii_digit()).count();
    if len == 0 || len > digits_max {
        return None;
    }
    let (digits, rest) = bytes.split_at(len);
    let add = |sum: u32, digit: &u8| sum.checked_mul(10)?.checked_add(u32::from(digit - b'0'));
    Some((digits.iter().try_fold(0, add)?, rest))
}

/// Reads a port off the front of `bytes`.
pub(crate) fn port(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (port, rest) = decimal(bytes, 5)?;
    Some((u16::try_from(port).ok()?, rest))
}

/// Where `rest`, the end of `line`, begins in it.
pub(crate) fn place(line: &[u8], rest: &[u8]) -> usize {
    line.len() - rest.len()
}

/// Whether `rest` is nothing but spaces and the end of a line.
pub(crate) fn ends_here(rest: &[u8]) -> bool {
    let Some(rest) = rest.strip_suffix(b"\n") else { return false };
    let rest = rest.strip_suffix(b"\r").unwrap_or(rest);
    rest.iter().all(|&b| b == b' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_written_as_their_standards_have_them() {
        let address = "192.168.1.2".parse().unwrap();
        let rows: [(Style, &[u8]); 4] = [
            (Style::Commas, b"192,168,1,2,4,1"),
            (Style::Delimited(b'|'), b"1|192.168.1.2|1025"),
            (Style::Port, b"1025"),
            (Style::Numbers, b"3232235778 1025"),
        ];
        for (style, expected) in rows {
            assert_eq!(style.write(address, 1025).unwrap().as_slice(), expected);
        }
        let longest = "255.255.255.255".parse().unwrap();
        for (style, _) in rows {
            assert!(style.write(longest, 65_535).unwrap().len() <= 23);
        }
        assert_eq!(Style::Commas.write("::1".parse().unwrap(), 1), None);
    }

    #[test]
    fn a_helper_serves_its_own_port_and_only_if_it_is_on() {
        let ftp = Helpers::NONE.with(Kind::Ftp);
        assert_eq!(ftp.of_service(protocol::TCP, 21), Some(Kind::Ftp));
        assert_eq!(ftp.of_service(protocol::UDP, 21), None);
        assert_eq!(ftp.of_service(protocol::TCP, 6667), None);
        let sip = ftp.with(Kind::Sip);
        assert_eq!(sip.of_service(protocol::UDP, 5060), Some(Kind::Sip));
        assert_eq!(sip.of_service(protocol::TCP, 5060), Some(Kind::Sip));
        let others = sip.with_sip_ports(&[5070, 5080]);
        assert_eq!(others.of_service(protocol::UDP, 5080), Some(Kind::Sip));
        assert_eq!(others.of_service(protocol::UDP, 5060), None);
        assert_eq!(others.of_service(protocol::UDP, 0), None);
        assert_eq!(Helpers::NONE.of_service(protocol::TCP, 21), None);
        for kind in Kind::ALL {
            assert_eq!(Kind::from_name(kind.name()), Some(kind));
            assert_eq!(Kind::from_number(kind as u8), Some(kind));
        }
    }
}
