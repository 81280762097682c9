//! The targets of the `nat` table: their options to a [`Translation`], and back.

use std::fmt::Write;
use std::net::IpAddr;

use postern_core::conntrack::tuple::protocol;
use postern_core::rules::{Addresses, Blocks, Family, Independence, Ports, Translation};

use crate::error::{Error, visible};
use crate::model::{Spoken, Target};
use crate::options::{Opt, Scanner, unknown};
use crate::{print, sides, values};

/// Which target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Snat,
    Masquerade,
    Dnat,
    Redirect,
    Netmap,
}

/// Collects the options of one target.
#[derive(Clone, Debug)]
pub(crate) struct Builder {
    kind: Kind,
    to: Option<To>,
    spoken: Spoken,
    independent: Option<Independence>,
    /// Ports of each block.
    blocks: Option<u16>,
}

/// What `--to-source`, `--to-destination`, `--to-ports` or `--to` says.
#[derive(Clone, Debug, PartialEq)]
enum To {
    Endpoint(Option<Addresses>, Option<PortRange>),
    Network { network: IpAddr, mask: IpAddr },
}

/// First and last port, and what the first one stands for.
type PortRange = (u16, u16, Option<u16>);

impl Builder {
    /// For the target of this name, if it is one of the `nat` table's.
    pub(crate) fn new(name: &str) -> Option<Self> {
        let kind = match name {
            "SNAT" => Kind::Snat,
            "MASQUERADE" => Kind::Masquerade,
            "DNAT" => Kind::Dnat,
            "REDIRECT" => Kind::Redirect,
            "NETMAP" => Kind::Netmap,
            _ => return None,
        };
        let spoken = Spoken::default();
        Some(Self { kind, to: None, spoken, independent: None, blocks: None })
    }

    /// Takes one of the target's options.
    pub(crate) fn option(
        &mut self,
        opt: Opt,
        family: Family,
        scanner: &mut Scanner<'_>,
    ) -> Result<(), Error> {
        let spelling = scanner.spelling().to_owned();
        let refuse = || unknown(&spelling).hint(format!("{} has no such option", self.name()));
        // `--to` is short for what the target has of the sort.
        match (opt, self.kind) {
            (Opt::ToSource | Opt::To, Kind::Snat) | (Opt::ToDestination | Opt::To, Kind::Dnat) => {
                let (kind, text) = (self.kind, scanner.value()?);
                self.set(endpoint(text, family, kind == Kind::Dnat)?, &spelling)
            }
            (Opt::ToPorts | Opt::To, Kind::Masquerade | Kind::Redirect) => {
                let (first, last, _) = ports(scanner.value()?, false)?;
                self.set(To::Endpoint(None, Some((first, last, None))), &spelling)
            }
            (Opt::To, Kind::Netmap) => self.set(network(scanner.value()?, family)?, &spelling),
            (Opt::Random, Kind::Snat | Kind::Masquerade | Kind::Dnat | Kind::Redirect) => {
                self.spoken.random = true;
                Ok(())
            }
            (Opt::RandomFully, Kind::Snat | Kind::Masquerade) => {
                self.spoken.random_fully = true;
                Ok(())
            }
            (Opt::Persistent, Kind::Snat | Kind::Dnat) => {
                self.spoken.persistent = true;
                Ok(())
            }
            (Opt::EndpointIndependent, Kind::Snat | Kind::Masquerade) => {
                self.set_independent(scanner.value()?, family, &spelling)
            }
            (Opt::PortBlocks, Kind::Snat) => self.set_blocks(scanner.value()?, family, &spelling),
            _ => Err(refuse()),
        }
    }

    fn set_blocks(&mut self, value: &str, family: Family, spelling: &str) -> Result<(), Error> {
        let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
        let size = digits.then(|| value.parse::<u16>().ok()).flatten();
        let most = u16::MAX - Blocks::PORT_MIN;
        let Some(size) = size.filter(|size| (Blocks::SIZE_MIN..=most).contains(size)) else {
            let least = Blocks::SIZE_MIN;
            let what = visible(value);
            let message = format!("{spelling}: \"{what}\" is not a number from {least} to {most}");
            return Err(Error::usage(message));
        };
        if family == Family::V6 {
            let error = Error::usage(format!("{spelling} is for IPv4 only"));
            return Err(error.hint("IPv6 has addresses for everybody"));
        }
        if self.blocks.replace(size).is_some() {
            let message = format!("{}: option \"{spelling}\" can only be used once.", self.name());
            return Err(Error::usage(message));
        }
        Ok(())
    }

    fn set_independent(
        &mut self,
        value: &str,
        family: Family,
        spelling: &str,
    ) -> Result<(), Error> {
        let independence = match value {
            "mapping" => Independence::Mapping,
            "filtering" => Independence::Filtering,
            _ => {
                let message =
                    format!("{spelling}: \"{}\" is neither mapping nor filtering", visible(value));
                let hint = "mapping: one external port towards everybody; filtering: and everybody gets in there";
                return Err(Error::usage(message).hint(hint));
            }
        };
        if family == Family::V6 {
            let error = Error::usage(format!("{spelling} is for IPv4 only"));
            return Err(
                error.hint("IPv6 needs no translation of ports; let in what is to get in by rules")
            );
        }
        if self.independent.replace(independence).is_some() {
            let message = format!("{}: option \"{spelling}\" can only be used once.", self.name());
            return Err(Error::usage(message));
        }
        Ok(())
    }

    fn set(&mut self, to: To, spelling: &str) -> Result<(), Error> {
        if self.to.replace(to).is_some() {
            let name = self.name();
            let message = format!("{name}: option \"{spelling}\" can only be used once.");
            return Err(Error::usage(message));
        }
        Ok(())
    }

    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Snat => "SNAT",
            Kind::Masquerade => "MASQUERADE",
            Kind::Dnat => "DNAT",
            Kind::Redirect => "REDIRECT",
            Kind::Netmap => "NETMAP",
        }
    }

    /// The target, in a rule that demands this protocol and one of these sources.
    pub(crate) fn finish(
        self,
        demanded: Option<u8>,
        sources: &[(IpAddr, IpAddr)],
    ) -> Result<Target, Error> {
        let name = self.name();
        let missing =
            |option: &str| Error::usage(format!("{name}: option \"{option}\" must be specified"));
        let random = self.spoken.random || self.spoken.random_fully;
        let independent = self.independent;
        let ports = |range: Option<PortRange>| -> Result<Ports, Error> {
            let Some((first, last, base)) = range else {
                return Ok(Ports { random, independent, ..Ports::default() });
            };
            match demanded {
                Some(protocol::TCP | protocol::UDP | protocol::SCTP) => {}
                Some(crate::names::DCCP) => {
                    return Err(Error::usage("ports of DCCP are not translated here"));
                }
                _ => {
                    let message = "Need TCP, UDP, SCTP or DCCP with port specification";
                    return Err(Error::usage(message));
                }
            }
            Ok(Ports { range: Some((first, last)), base, random, independent, blocks: None })
        };
        let translation = match (self.kind, self.to) {
            (Kind::Snat, Some(To::Endpoint(addresses, range))) => {
                let blocks = self.blocks.map(|size| blocks(size, addresses, range, sources));
                Translation::Source(
                    addresses,
                    Ports { blocks: blocks.transpose()?, ..ports(range)? },
                )
            }
            (Kind::Dnat, Some(To::Endpoint(addresses, range))) => {
                Translation::Destination(addresses, ports(range)?)
            }
            (Kind::Masquerade, Some(To::Endpoint(_, range))) => {
                Translation::Masquerade(ports(range)?)
            }
            (Kind::Redirect, Some(To::Endpoint(_, range))) => Translation::Redirect(ports(range)?),
            (Kind::Masquerade, _) => Translation::Masquerade(ports(None)?),
            (Kind::Redirect, _) => Translation::Redirect(ports(None)?),
            (Kind::Netmap, Some(To::Network { network, mask })) => {
                Translation::Netmap { network, mask }
            }
            (Kind::Snat, _) => return Err(missing("--to-source")),
            (Kind::Dnat, _) => return Err(missing("--to-destination")),
            (Kind::Netmap, _) => return Err(missing("--to")),
        };
        Ok(Target::Nat(translation, self.spoken))
    }
}

/// The blocks of so many ports that hosts of the one source network have of these addresses.
fn blocks(
    size: u16,
    addresses: Option<Addresses>,
    range: Option<PortRange>,
    sources: &[(IpAddr, IpAddr)],
) -> Result<Blocks, Error> {
    let refuse = |message: &str, hint: &str| Error::usage(message).hint(hint);
    let (Some(pool), None) = (addresses, range) else {
        let hint = "blocks have the ports from 1024 on: --to-source A-B";
        return Err(refuse("--port-blocks needs addresses without ports", hint));
    };
    let network = match sources {
        &[(IpAddr::V4(network), mask)] => {
            print::prefix_length(mask).map(|length| (network, length))
        }
        _ => None,
    };
    let Some((network, length)) = network.filter(|(_, length)| *length > 0) else {
        let hint = "-s NETWORK: its hosts have the blocks in order; one rule for each network";
        return Err(refuse("--port-blocks needs one source network", hint));
    };
    let blocks = Blocks { network, length: length as u8, size };
    if !blocks.fit(pool) {
        let each = blocks.of_address();
        let message =
            format!("--port-blocks: there are more hosts in {network}/{length} than blocks");
        let hint = format!(
            "an address has {each} blocks of {size} ports: more addresses, or smaller blocks"
        );
        return Err(Error::usage(message).hint(hint));
    }
    Ok(blocks)
}

/// `192.0.2.1`, `192.0.2.1-192.0.2.9`, with `:80` or `:80-90` behind, or only that; IPv6 addresses in brackets if ports
/// follow.
fn endpoint(text: &str, family: Family, may_have_base: bool) -> Result<To, Error> {
    let (addresses, range) = match (family, text.strip_prefix('[')) {
        (Family::V4, _) => text.split_once(':').map_or((text, None), |(a, p)| (a, Some(p))),
        (Family::V6, None) => (text, None),
        (Family::V6, Some(inner)) => {
            let unclosed = || Error::usage(format!("Invalid address format `{}'", visible(text)));
            let (inside, rest) = inner.split_once(']').ok_or_else(unclosed)?;
            match rest.strip_prefix(':') {
                Some(range) => (inside, Some(range)),
                None if rest.is_empty() => (inside, None),
                None => return Err(unclosed()),
            }
        }
    };
    let range = range.map(|range| ports(range, may_have_base)).transpose()?;
    if addresses.is_empty() && range.is_some() {
        return Ok(To::Endpoint(None, range));
    }
    let (first, last) = addresses.split_once('-').unwrap_or((addresses, addresses));
    let range_of = Addresses { first: address(first, family)?, last: address(last, family)? };
    if !range_of.is_range() {
        let message = format!("the range `{}' ends before it begins", visible(addresses));
        return Err(Error::usage(message));
    }
    if !range_of.may_be_hosts() {
        return Err(nobodys(addresses));
    }
    Ok(To::Endpoint(Some(range_of), range))
}

/// Packets neither come from such an address nor go there (C091).
fn nobodys(addresses: &str) -> Error {
    let error = Error::usage(format!("`{}' can be no host's address", visible(addresses)));
    error.hint("packets translated to it would come back to nobody")
}

fn address(text: &str, family: Family) -> Result<IpAddr, Error> {
    let parsed: Result<IpAddr, _> = text.parse();
    let of_family = parsed.ok().filter(|a| a.is_ipv4() == (family == Family::V4));
    of_family.ok_or_else(|| Error::usage(format!("Bad IP address \"{}\"", visible(text))))
}

/// `80`, `80-90`, `80-90/8080`.
fn ports(text: &str, may_have_base: bool) -> Result<PortRange, Error> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let port = digits.then(|| text.parse::<u16>().ok()).flatten();
        port.ok_or_else(|| Error::usage(format!("Port `{}' not valid", visible(text))))
    };
    let (range, base) = match text.split_once('/') {
        Some((range, base)) if may_have_base => (range, Some(number(base)?)),
        _ => (text, None),
    };
    let (first, last) = match range.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(range)?, number(range)?),
    };
    if first > last {
        let last = range.split_once('-').map_or(range, |(_, last)| last);
        return Err(Error::usage(format!("Port range `{}' funky", visible(last))));
    }
    if first == 0 {
        let error = Error::usage("port 0 is nobody's port");
        return Err(error.hint("ports begin at 1; without ports they stay as they are"));
    }
    if base.is_some_and(|base| base.checked_add(last - first).is_none()) {
        return Err(Error::usage(format!("`{}' leads beyond port 65535", visible(text))));
    }
    Ok((first, last, base))
}

/// `192.0.2.0/24`
fn network(text: &str, family: Family) -> Result<To, Error> {
    match values::networks(text, family)?.as_slice() {
        &[(network, mask)] if print::prefix_length(mask).is_some() => {
            match sides::whole(network, mask) {
                Some(addresses) if !addresses.may_be_hosts() => Err(nobodys(text)),
                _ => Ok(To::Network { network, mask }),
            }
        }
        [_] => Err(Error::usage("NETMAP needs a mask without holes")),
        _ => Err(Error::usage("NETMAP maps to one network")),
    }
}

/// What `-j` says.
pub(crate) fn name(translation: &Translation) -> &'static str {
    match translation {
        Translation::Source(..) => "SNAT",
        Translation::Masquerade(_) => "MASQUERADE",
        Translation::Destination(..) => "DNAT",
        Translation::Redirect(_) => "REDIRECT",
        Translation::Netmap { .. } => "NETMAP",
    }
}

/// The options as one types them, and as iptables-save prints them.
pub(crate) fn options(translation: &Translation, spoken: Spoken) -> String {
    let to = to(translation);
    let mut out = match (translation, to.is_empty()) {
        (_, true) => String::new(),
        (Translation::Source(..), _) => format!(" --to-source {to}"),
        (Translation::Destination(..), _) => format!(" --to-destination {to}"),
        (Translation::Masquerade(_) | Translation::Redirect(_), _) => format!(" --to-ports {to}"),
        (Translation::Netmap { .. }, _) => format!(" --to {to}"),
    };
    words(&mut out, " --", spoken);
    own_words(&mut out, " --", translation);
    out
}

/// The options as `-L` shows them.
pub(crate) fn shown(translation: &Translation, spoken: Spoken) -> String {
    let to = to(translation);
    let mut out = match (translation, to.is_empty()) {
        (_, true) => String::new(),
        (Translation::Masquerade(_), _) => format!(" masq ports: {to}"),
        (Translation::Redirect(_), _) => format!(" redir ports {to}"),
        (_, _) => format!(" to:{to}"),
    };
    words(&mut out, " ", spoken);
    own_words(&mut out, " ", translation);
    out
}

/// The options that are Postern's own, as they are typed.
fn own_words(out: &mut String, lead: &str, translation: &Translation) {
    let (Translation::Source(_, ports) | Translation::Masquerade(ports)) = translation else {
        return;
    };
    if let Some(independence) = ports.independent {
        let word = match independence {
            Independence::Mapping => "mapping",
            Independence::Filtering => "filtering",
        };
        let _ = write!(out, "{lead}endpoint-independent {word}");
    }
    if let Some(Blocks { size, .. }) = ports.blocks {
        let _ = write!(out, "{lead}port-blocks {size}");
    }
}

fn words(out: &mut String, lead: &str, spoken: Spoken) {
    let Spoken { random, random_fully, persistent } = spoken;
    let all = [(random, "random"), (random_fully, "random-fully"), (persistent, "persistent")];
    for (_, word) in all.into_iter().filter(|(said, _)| *said) {
        let _ = write!(out, "{lead}{word}");
    }
}

/// Addresses and ports in one word; empty if there are none.
fn to(translation: &Translation) -> String {
    match translation {
        Translation::Source(addresses, ports) | Translation::Destination(addresses, ports) => {
            let addresses = addresses.map_or(String::new(), |Addresses { first, last }| {
                if first == last { first.to_string() } else { format!("{first}-{last}") }
            });
            match port_words(ports) {
                ports if ports.is_empty() => addresses,
                ports if addresses.contains(':') => format!("[{addresses}]:{ports}"),
                ports => format!("{addresses}:{ports}"),
            }
        }
        Translation::Masquerade(ports) | Translation::Redirect(ports) => port_words(ports),
        Translation::Netmap { network, mask } => format!("{network}/{}", print::mask(*mask)),
    }
}

fn port_words(ports: &Ports) -> String {
    let Some((first, last)) = ports.range else { return String::new() };
    let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
    ports.base.map_or(range.clone(), |base| format!("{range}/{base}"))
}
