//! The values of options: addresses, ports, states, types.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use postern_core::conntrack::ctstate::{CtState, CtStates};
use postern_core::headers::tcp_flags;
use postern_core::rules::{Family, RejectKind};

use crate::error::{Error, is_deceptive, visible};
use crate::names;

/// Longest interface name: `IFNAMSIZ` less the final zero.
const INTERFACE_NAME_MAX: usize = 15;
/// Longest chain name, bytes.
const CHAIN_NAME_MAX: usize = 28;
/// Longest comment, bytes (`XT_MAX_COMMENT_LEN` less the final zero).
const COMMENT_MAX: usize = 255;

/// A number as iptables reads it: decimal, `0x` hexadecimal or `0` octal.
fn number(text: &str, max: u64) -> Option<u64> {
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (text.get(2..)?, 16),
        [b'0', _, ..] => (text.get(1..)?, 8),
        _ => (text, 10),
    };
    let plain = digits.bytes().all(|b| b.is_ascii_alphanumeric());
    let number = plain.then(|| u64::from_str_radix(digits, radix).ok()).flatten()?;
    (number <= max).then_some(number)
}

/// A rule number, from 1.
pub(crate) fn rule_number(text: &str) -> Result<usize, Error> {
    match number(text, u32::MAX.into()) {
        Some(n) if n > 0 => Ok(n as usize),
        _ => Err(Error::usage(format!("Invalid rule number `{}'", visible(text)))),
    }
}

/// A packet or byte counter.
pub(crate) fn counter(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// A protocol by name or number; `None` is every protocol.
pub(crate) fn protocol(text: &str) -> Result<Option<u8>, Error> {
    if text.eq_ignore_ascii_case("all") {
        return Ok(None);
    }
    let found = number(text, 255).map(|n| n as u8).or_else(|| names::protocol_number(text));
    let found = found
        .ok_or_else(|| Error::usage(format!("unknown protocol \"{}\" specified", visible(text))))?;
    Ok((found != 0).then_some(found))
}

/// A chain's name where one may be made.
pub(crate) fn new_chain_name(text: &str) -> Result<&str, Error> {
    let shown = visible(text);
    if let Some(first @ ('-' | '!')) = text.chars().next() {
        return Err(Error::usage(format!("chain name not allowed to start with `{first}'")));
    }
    if text.len() > CHAIN_NAME_MAX {
        let limit = CHAIN_NAME_MAX + 1;
        let message = format!("chain name `{shown}' too long (must be under {limit} chars)");
        return Err(Error::usage(message));
    }
    let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'\\');
    if text.is_empty() || !text.bytes().all(plain) {
        let hint = "letters, digits and - _ . : may be used, no spaces or quotes";
        return Err(Error::usage(format!("Invalid chain name `{shown}'")).hint(hint));
    }
    if names::TARGETS.contains(&text) || names::OTHER_TARGETS.contains(&text) {
        return Err(Error::usage("chain name may not clash with target name"));
    }
    Ok(text)
}

/// An interface's name or the beginning of names (`eth+`).
pub(crate) fn interface(text: &str) -> Result<String, Error> {
    if text.is_empty() {
        return Err(Error::usage("Empty interface is likely to be undesired"));
    }
    let shown = visible(text);
    if text.len() > INTERFACE_NAME_MAX {
        let message = format!(
            "interface name `{shown}' must be shorter than IFNAMSIZ ({INTERFACE_NAME_MAX})"
        );
        return Err(Error::usage(message));
    }
    let odd =
        |c: char| c.is_whitespace() || is_deceptive(c) || matches!(c, '/' | '"' | '\'' | '\\');
    if text.chars().any(odd) {
        return Err(Error::usage(format!("weird character in interface `{shown}'")));
    }
    Ok(text.to_owned())
}

/// Addresses with masks, separated by commas: address and mask of each, the address already masked.
pub(crate) fn networks(text: &str, family: Family) -> Result<Vec<(IpAddr, IpAddr)>, Error> {
    text.split(',').map(|one| network(one, family)).collect()
}

fn network(text: &str, family: Family) -> Result<(IpAddr, IpAddr), Error> {
    let (host, mask) = text.split_once('/').map_or((text, None), |(host, mask)| (host, Some(mask)));
    let unknown = || {
        let error = Error::usage(format!("host/network `{}' not found", visible(host)));
        let other = match family {
            Family::V4 => host.parse::<Ipv6Addr>().is_ok(),
            Family::V6 => v4_address(host).is_some(),
        };
        error.hint(match (other, family) {
            (true, Family::V4) => "this is an IPv6 address: use ip6tables",
            (true, Family::V6) => "this is an IPv4 address: use iptables",
            _ => "names are not resolved here: write the address",
        })
    };
    let bad_mask =
        || Error::usage(format!("invalid mask `{}' specified", visible(mask.unwrap_or_default())));
    match family {
        Family::V4 => {
            let address = v4_address(host).ok_or_else(unknown)?;
            let mask = mask.map_or(Some(u32::MAX), v4_mask).ok_or_else(bad_mask)?;
            let masked = u32::from(address) & mask;
            Ok((IpAddr::V4(masked.into()), IpAddr::V4(mask.into())))
        }
        Family::V6 => {
            let address: Ipv6Addr = host.parse().map_err(|_| unknown())?;
            let mask = mask.map_or(Some(u128::MAX), v6_mask).ok_or_else(bad_mask)?;
            let masked = u128::from(address) & mask;
            Ok((IpAddr::V6(masked.into()), IpAddr::V6(mask.into())))
        }
    }
}

/// One to four numbers with dots; missing ones are zero (`10/8`).
fn v4_address(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    let mut count = 0;
    for (slot, part) in octets.iter_mut().zip(&mut parts) {
        let decimal = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        *slot = decimal.then(|| part.parse().ok()).flatten()?;
        count += 1;
    }
    (count > 0 && parts.next().is_none()).then(|| octets.into())
}

fn v4_mask(text: &str) -> Option<u32> {
    if text.contains('.') {
        return text.parse::<Ipv4Addr>().ok().map(u32::from);
    }
    let length = number(text, 32)? as u32;
    Some(u32::MAX.checked_shl(32 - length).unwrap_or(0))
}

fn v6_mask(text: &str) -> Option<u128> {
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().ok().map(u128::from);
    }
    let length = number(text, 128)? as u32;
    Some(u128::MAX.checked_shl(128 - length).unwrap_or(0))
}

/// A port by number or service name.
fn port(text: &str, protocol: u8) -> Result<u16, Error> {
    number(text, u16::MAX.into())
        .map(|n| n as u16)
        .or_else(|| names::service_port(text, protocol))
        .ok_or_else(|| Error::usage(format!("invalid port/service `{}' specified", visible(text))))
}

/// `80`, `http`, `1000:2000`, `:1023`, `1024:`.
pub(crate) fn port_range(text: &str, protocol: u8) -> Result<(u16, u16), Error> {
    let Some((first, last)) = text.split_once(':') else {
        let port = port(text, protocol)?;
        return Ok((port, port));
    };
    let first = if first.is_empty() { 0 } else { port(first, protocol)? };
    let last = if last.is_empty() { u16::MAX } else { port(last, protocol)? };
    if first > last {
        return Err(Error::usage("invalid portrange (min > max)"));
    }
    Ok((first, last))
}

/// The list of `-m multiport`: fifteen ports, a range counting as two.
pub(crate) fn port_list(text: &str, protocol: u8) -> Result<Vec<(u16, u16)>, Error> {
    const PORTS_MAX: usize = 15;
    let mut ranges = Vec::new();
    let mut ports = 0;
    for one in text.split(',') {
        let range = match one.split_once(':') {
            None => (port(one, protocol)?, port(one, protocol)?),
            Some((first, last)) => (port(first, protocol)?, port(last, protocol)?),
        };
        ports += if one.contains(':') { 2 } else { 1 };
        if ports > PORTS_MAX {
            let hint = "fifteen fit, a range counts as two: use a second rule";
            return Err(Error::usage("too many ports specified").hint(hint));
        }
        if range.0 > range.1 || (one.contains(':') && range.0 == range.1) {
            return Err(Error::usage("invalid portrange specified"));
        }
        ranges.push(range);
    }
    Ok(ranges)
}

/// Conntrack states by name, in the order in which they are printed.
pub(crate) const STATES: [(&str, CtStates); 7] = [
    ("INVALID", CtStates::of(CtState::Invalid)),
    ("NEW", CtStates::of(CtState::New)),
    ("RELATED", CtStates::of(CtState::Related)),
    ("ESTABLISHED", CtStates::of(CtState::Established)),
    ("UNTRACKED", CtStates::of(CtState::Untracked)),
    ("SNAT", CtStates::SNAT),
    ("DNAT", CtStates::DNAT),
];

/// The states of `--ctstate`.
pub(crate) fn ctstates(text: &str) -> Result<CtStates, Error> {
    states(text, &STATES, "ctstate")
}

/// The states of `-m state`, which knows no SNAT and DNAT.
pub(crate) fn plain_states(text: &str) -> Result<CtStates, Error> {
    states(text, &STATES[..5], "state")
}

fn states(text: &str, known: &[(&str, CtStates)], option: &str) -> Result<CtStates, Error> {
    text.split(',').try_fold(CtStates::default(), |sum, one| {
        let state = known.iter().find(|(name, _)| name.eq_ignore_ascii_case(one));
        let bad = || Error::usage(format!("Bad {option} \"{}\"", visible(one)));
        Ok(sum.union(state.ok_or_else(bad)?.1))
    })
}

/// An ICMP type: a name or its beginning, or `type` or `type/code`.
pub(crate) fn icmp(text: &str, family: Family) -> Result<(u8, (u8, u8)), Error> {
    let version = if family == Family::V4 { "ICMP" } else { "ICMPv6" };
    let begins =
        |name: &str| name.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text));
    let mut named = names::icmp_types(family).iter().filter(|(name, ..)| begins(name));
    if let (false, Some(&(name, kind, codes))) = (text.is_empty(), named.next()) {
        return match named.next() {
            Some((other, ..)) => {
                let shown = visible(text);
                Err(Error::usage(format!(
                    "Ambiguous {version} type `{shown}': `{name}' or `{other}'?"
                )))
            }
            None => Ok((kind, codes)),
        };
    }
    let (kind, code) = text.split_once('/').map_or((text, None), |(kind, code)| (kind, Some(code)));
    let bad = |what: &str| Error::usage(format!("Unknown {version} {what} `{}'", visible(text)));
    let kind = number(kind, 255).ok_or_else(|| bad("type"))? as u8;
    let Some(code) = code else { return Ok((kind, names::ALL_CODES)) };
    let code = number(code, 255).ok_or_else(|| bad("code"))? as u8;
    Ok((kind, (code, code)))
}

/// TCP flags by name, in the order in which they are printed.
pub(crate) const FLAGS: [(&str, u8); 6] = [
    ("FIN", tcp_flags::FIN),
    ("SYN", tcp_flags::SYN),
    ("RST", tcp_flags::RST),
    ("PSH", tcp_flags::PSH),
    ("ACK", tcp_flags::ACK),
    ("URG", tcp_flags::URG),
];

/// A list of TCP flags, `ALL` or `NONE`.
pub(crate) fn flags(text: &str) -> Result<u8, Error> {
    text.split(',').try_fold(0, |sum, one| {
        let flag = match one {
            one if one.eq_ignore_ascii_case("ALL") => 0x3f,
            one if one.eq_ignore_ascii_case("NONE") => 0,
            one => {
                let bad = || Error::usage(format!("Unknown TCP flag `{}'", visible(one)));
                FLAGS.iter().find(|(name, _)| name.eq_ignore_ascii_case(one)).ok_or_else(bad)?.1
            }
        };
        Ok(sum | flag)
    })
}

/// A reject type, its old name, or the beginning of either.
pub(crate) fn reject(text: &str, family: Family) -> Result<RejectKind, Error> {
    let begins =
        |name: &str| name.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text));
    let known = names::rejects(family);
    let found = known.iter().find(|(name, old, _)| begins(name) || begins(old));
    found.map(|&(.., kind)| kind).ok_or_else(|| {
        let all: Vec<_> = known.iter().map(|(name, ..)| *name).collect();
        let message = format!("unknown reject type \"{}\"", visible(text));
        Error::usage(message).hint(format!("one of {}", all.join(", ")))
    })
}

/// A comment.
pub(crate) fn comment(text: &str) -> Result<String, Error> {
    if text.len() > COMMENT_MAX {
        return Err(Error::usage(format!(
            "a comment may have {COMMENT_MAX} bytes, not {}",
            text.len()
        )));
    }
    if let Some(c) = text.chars().find(|&c| is_deceptive(c)) {
        let message = format!("a comment may not hold the character U+{:04X}", c as u32);
        return Err(Error::usage(message).hint("control characters and line breaks are refused"));
    }
    Ok(text.to_owned())
}
