//! A rule's own options, one by one, to a [`Spec`].

use std::net::IpAddr;

use postern_core::conntrack::tuple::protocol;
use postern_core::headers::tcp_flags;
use postern_core::rules::model::Side;
use postern_core::rules::{Family, RejectKind, TableId};

use crate::connlimit;
use crate::ct;
use crate::error::{Error, visible};
use crate::model::{FlagsTest, Interface, Match, Network, PortTest, Spec, Target};
use crate::names::{self, DCCP};
use crate::options::{Opt, Scanner, unknown};
use crate::parse::no_drop_in_nat;
use crate::{nat, values};

/// Most rules one command line with several addresses may make.
const EXPANDED_MAX: usize = 4096;

/// Collects the options of one rule.
pub(crate) struct SpecBuilder {
    family: Family,
    sources: Option<Addresses>,
    destinations: Option<Addresses>,
    spec: Spec,
    protocol_given: bool,
    loaded: Vec<Loaded>,
    has_target: bool,
    reject_with: bool,
    nat: Option<nat::Builder>,
    ct: Option<ct::Builder>,
}

/// Addresses with masks, before they become one rule each.
struct Addresses {
    list: Vec<(IpAddr, IpAddr)>,
    negated: bool,
}

/// A match that was loaded, and what its options said so far.
enum Loaded {
    Transport {
        protocol: u8,
        source: Option<PortTest>,
        destination: Option<PortTest>,
        flags: Option<FlagsTest>,
    },
    Icmp(Option<Match>),
    Multiport(Option<Match>),
    Conntrack(Option<Match>),
    State(Option<Match>),
    Connlimit(connlimit::Builder),
    Comment(Option<Match>),
}

impl Loaded {
    fn name(&self, family: Family) -> &'static str {
        match self {
            Self::Transport { protocol, .. } => names::protocol_name(*protocol).unwrap_or("tcp"),
            Self::Icmp(_) if family == Family::V4 => "icmp",
            Self::Icmp(_) => "icmp6",
            Self::Multiport(_) => "multiport",
            Self::Conntrack(_) => "conntrack",
            Self::State(_) => "state",
            Self::Connlimit(_) => "connlimit",
            Self::Comment(_) => "comment",
        }
    }

    fn transport(protocol: u8) -> Self {
        Self::Transport { protocol, source: None, destination: None, flags: None }
    }
}

fn set<T>(slot: &mut Option<T>, value: T, what: &str) -> Result<(), Error> {
    if slot.replace(value).is_some() {
        return Err(Error::usage(format!("option \"{what}\" can only be used once.")));
    }
    Ok(())
}

impl SpecBuilder {
    pub(crate) fn new(family: Family) -> Self {
        Self {
            family,
            sources: None,
            destinations: None,
            spec: Spec::default(),
            protocol_given: false,
            loaded: Vec::new(),
            has_target: false,
            reject_with: false,
            nat: None,
            ct: None,
        }
    }

    /// Takes an option if it is one of a rule's.
    pub(crate) fn option(
        &mut self,
        opt: Opt,
        negated: bool,
        scanner: &mut Scanner<'_>,
    ) -> Result<bool, Error> {
        let spelling = scanner.spelling().to_owned();
        let twice = |is: bool| {
            let letter = spelling.as_str();
            if is {
                Err(Error::usage(format!("multiple {letter} flags not allowed")))
            } else {
                Ok(())
            }
        };
        match opt {
            Opt::Source => {
                twice(self.sources.is_some())?;
                self.sources = Some(self.addresses(scanner.value()?, negated)?);
            }
            Opt::Destination => {
                twice(self.destinations.is_some())?;
                self.destinations = Some(self.addresses(scanner.value()?, negated)?);
            }
            Opt::In => {
                twice(self.spec.ingress.is_some())?;
                let name = values::interface(scanner.value()?)?;
                self.spec.ingress = Some(Interface { name, negated });
            }
            Opt::Out => {
                twice(self.spec.egress.is_some())?;
                let name = values::interface(scanner.value()?)?;
                self.spec.egress = Some(Interface { name, negated });
            }
            Opt::Protocol => {
                twice(std::mem::replace(&mut self.protocol_given, true))?;
                let number = values::protocol(scanner.value()?)?;
                if number.is_none() && negated {
                    return Err(Error::usage("rule would never match protocol"));
                }
                self.spec.protocol = number.map(|number| (number, negated));
            }
            Opt::Match if !negated => self.load(scanner.value()?)?,
            Opt::Jump if !negated => {
                twice(std::mem::replace(&mut self.has_target, true))?;
                let name = scanner.value()?;
                self.nat = nat::Builder::new(name);
                self.ct = (name == "CT").then(ct::Builder::default);
                if self.nat.is_none() && self.ct.is_none() {
                    self.spec.target = target(name)?;
                }
            }
            Opt::Goto if !negated => {
                let error = Error::usage("option \"-g\" is not supported yet");
                return Err(error.hint("-j with a RETURN behind it does the same"));
            }
            Opt::Fragment => {
                let error = Error::usage("option \"-f\" is not supported yet");
                return Err(error.hint("rules see a datagram in fragments once, by its first one: no rule ever sees the others"));
            }
            Opt::RejectWith if !negated => {
                if !matches!(self.spec.target, Target::Reject(_)) {
                    return Err(unknown(&spelling).hint("it belongs behind -j REJECT"));
                }
                if std::mem::replace(&mut self.reject_with, true) {
                    return Err(Error::usage(
                        "REJECT: option \"--reject-with\" can only be used once.",
                    ));
                }
                self.spec.target = Target::Reject(values::reject(scanner.value()?, self.family)?);
            }
            Opt::NoTrack
            | Opt::Zone
            | Opt::ZoneOrig
            | Opt::ZoneReply
            | Opt::Helper
            | Opt::Timeout
            | Opt::CtEvents
            | Opt::ExpEvents
                if !negated =>
            {
                let hint = "it belongs behind -j CT";
                let ct = self.ct.as_mut().ok_or_else(|| unknown(&spelling).hint(hint))?;
                ct.option(opt, scanner)?;
            }
            Opt::To
            | Opt::ToSource
            | Opt::ToDestination
            | Opt::ToPorts
            | Opt::Random
            | Opt::RandomFully
            | Opt::Persistent
            | Opt::EndpointIndependent
            | Opt::PortBlocks
                if !negated =>
            {
                let hint = "it belongs behind -j SNAT, DNAT, MASQUERADE, REDIRECT or NETMAP";
                let nat = self.nat.as_mut().ok_or_else(|| unknown(&spelling).hint(hint))?;
                nat.option(opt, self.family, scanner)?;
            }
            _ => return self.match_option(opt, negated, scanner),
        }
        Ok(true)
    }

    fn addresses(&self, text: &str, negated: bool) -> Result<Addresses, Error> {
        let list = values::networks(text, self.family)?;
        if negated && list.len() > 1 {
            let message = "! not allowed with multiple source or destination IP addresses";
            return Err(Error::usage(message));
        }
        Ok(Addresses { list, negated })
    }

    /// `-m`
    fn load(&mut self, name: &str) -> Result<(), Error> {
        let transport = match name {
            "tcp" => Some(protocol::TCP),
            "udp" => Some(protocol::UDP),
            "sctp" => Some(protocol::SCTP),
            "dccp" => Some(DCCP),
            _ => None,
        };
        let loaded = match (name, transport) {
            // The kernel's tcp match is one, however often it is named.
            (_, Some(number)) if self.transport(number).is_some() => return Ok(()),
            (_, Some(number)) => Loaded::transport(number),
            ("icmp", _) if self.family == Family::V4 => Loaded::Icmp(None),
            ("icmp6" | "icmpv6", _) if self.family == Family::V6 => Loaded::Icmp(None),
            ("multiport", _) => Loaded::Multiport(None),
            ("conntrack", _) => Loaded::Conntrack(None),
            ("state", _) => Loaded::State(None),
            ("connlimit", _) => Loaded::Connlimit(connlimit::Builder::default()),
            ("comment", _) => Loaded::Comment(None),
            _ => return Err(unknown_match(name)),
        };
        self.loaded.push(loaded);
        Ok(())
    }

    fn transport(&mut self, number: u8) -> Option<&mut Loaded> {
        self.loaded
            .iter_mut()
            .find(|one| matches!(one, Loaded::Transport { protocol, .. } if *protocol == number))
    }

    /// The protocol that the rule demands.
    fn demanded(&self) -> Option<u8> {
        self.spec.protocol.and_then(|(number, negated)| (!negated).then_some(number))
    }

    /// An option that belongs to a match: the one loaded last that has it, or the protocol's own.
    fn match_option(
        &mut self,
        opt: Opt,
        negated: bool,
        scanner: &mut Scanner<'_>,
    ) -> Result<bool, Error> {
        let open_multiport = matches!(self.loaded.last(), Some(Loaded::Multiport(None)));
        match opt {
            // With multiport open, `--dport 80,443` is short for `--dports`.
            Opt::SourcePort if open_multiport => self.multiport(Side::Source, negated, scanner)?,
            Opt::DestinationPort if open_multiport => {
                self.multiport(Side::Destination, negated, scanner)?;
            }
            Opt::SourcePorts => self.multiport(Side::Source, negated, scanner)?,
            Opt::DestinationPorts => self.multiport(Side::Destination, negated, scanner)?,
            Opt::Ports | Opt::Port => self.multiport(Side::Either, negated, scanner)?,
            Opt::SourcePort | Opt::DestinationPort => self.port(opt, negated, scanner)?,
            Opt::Syn | Opt::TcpFlags => self.flags(opt, negated, scanner)?,
            Opt::IcmpType => self.icmp(Family::V4, negated, scanner)?,
            Opt::Icmp6Type => self.icmp(Family::V6, negated, scanner)?,
            Opt::CtState => {
                let slot = self.loaded.iter_mut().rev().find_map(|one| match one {
                    Loaded::Conntrack(slot) => Some(slot),
                    _ => None,
                });
                let slot = slot.ok_or_else(|| needs(scanner, "-m conntrack"))?;
                let states = values::ctstates(scanner.value()?)?;
                set(slot, Match::Conntrack { states, negated }, "--ctstate")?;
            }
            Opt::State => {
                let slot = self.loaded.iter_mut().rev().find_map(|one| match one {
                    Loaded::State(slot) => Some(slot),
                    _ => None,
                });
                let slot = slot.ok_or_else(|| needs(scanner, "-m state"))?;
                let states = values::plain_states(scanner.value()?)?;
                set(slot, Match::State { states, negated }, "--state")?;
            }
            Opt::ConnlimitAbove
            | Opt::ConnlimitUpto
            | Opt::ConnlimitMask
            | Opt::ConnlimitSaddr
            | Opt::ConnlimitDaddr => {
                let family = self.family;
                let builder = self.loaded.iter_mut().rev().find_map(|one| match one {
                    Loaded::Connlimit(builder) => Some(builder),
                    _ => None,
                });
                let builder = builder.ok_or_else(|| needs(scanner, "-m connlimit"))?;
                builder.option(opt, negated, family, scanner)?;
            }
            Opt::Comment if !negated => {
                let slot = self.loaded.iter_mut().rev().find_map(|one| match one {
                    Loaded::Comment(slot) => Some(slot),
                    _ => None,
                });
                let slot = slot.ok_or_else(|| needs(scanner, "-m comment"))?;
                set(slot, Match::Comment(values::comment(scanner.value()?)?), "--comment")?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn multiport(
        &mut self,
        side: Side,
        negated: bool,
        scanner: &mut Scanner<'_>,
    ) -> Result<(), Error> {
        let demanded = self.demanded();
        let slot = self.loaded.iter_mut().rev().find_map(|one| match one {
            Loaded::Multiport(slot) => Some(slot),
            _ => None,
        });
        let slot = slot.ok_or_else(|| needs(scanner, "-m multiport"))?;
        let number = demanded.filter(|&number| has_multiport(number)).ok_or_else(no_multiport)?;
        let ranges = values::port_list(scanner.value()?, number)?;
        let what = match side {
            Side::Source => "--source-ports",
            Side::Destination => "--destination-ports",
            Side::Either => "--ports",
        };
        set(slot, Match::Multiport { side, ranges, negated }, what)
    }

    /// The transport match that has the option: one of `candidates`, loaded or the protocol's own.
    fn transport_with(
        &mut self,
        candidates: &[u8],
        scanner: &Scanner<'_>,
    ) -> Result<&mut Loaded, Error> {
        let fits = |one: &Loaded| matches!(one, Loaded::Transport { protocol, .. } if candidates.contains(protocol));
        if !self.loaded.iter().any(fits) {
            let own = self.demanded().filter(|number| candidates.contains(number));
            let number = own.ok_or_else(|| {
                let names: Vec<_> =
                    candidates.iter().filter_map(|&n| names::protocol_name(n)).collect();
                needs(scanner, &format!("-p {}", names.join(" or -p ")))
            })?;
            self.loaded.push(Loaded::transport(number));
        }
        self.loaded
            .iter_mut()
            .rev()
            .find(|one| fits(one))
            .ok_or_else(|| unknown(scanner.spelling()))
    }

    fn port(&mut self, opt: Opt, negated: bool, scanner: &mut Scanner<'_>) -> Result<(), Error> {
        const WITH_PORTS: [u8; 4] = [protocol::TCP, protocol::UDP, protocol::SCTP, DCCP];
        let loaded = self.transport_with(&WITH_PORTS, scanner)?;
        let Loaded::Transport { protocol, source, destination, .. } = loaded else { return Ok(()) };
        let range = values::port_range(scanner.value()?, *protocol)?;
        let test = PortTest { range, negated };
        if opt == Opt::SourcePort {
            return set(source, test, "--source-port");
        }
        set(destination, test, "--destination-port")
    }

    fn flags(&mut self, opt: Opt, negated: bool, scanner: &mut Scanner<'_>) -> Result<(), Error> {
        let loaded = self.transport_with(&[protocol::TCP], scanner)?;
        let Loaded::Transport { flags, .. } = loaded else { return Ok(()) };
        let (mask, wanted) = if opt == Opt::Syn {
            let connecting = tcp_flags::FIN | tcp_flags::SYN | tcp_flags::RST | tcp_flags::ACK;
            (connecting, tcp_flags::SYN)
        } else {
            let mask = values::flags(scanner.value()?)?;
            let missing = || Error::usage("--tcp-flags requires two args.");
            (mask, values::flags(scanner.word().ok_or_else(missing)?)?)
        };
        set(flags, FlagsTest { mask, set: wanted, negated }, "--tcp-flags")
    }

    fn icmp(
        &mut self,
        family: Family,
        negated: bool,
        scanner: &mut Scanner<'_>,
    ) -> Result<(), Error> {
        if family != self.family {
            let hint = match self.family {
                Family::V4 => "IPv6 rules are ip6tables' business",
                Family::V6 => "for IPv6 it is -p icmpv6 --icmpv6-type",
            };
            return Err(unknown(scanner.spelling()).hint(hint));
        }
        let own = icmp_protocol(family);
        if !self.loaded.iter().any(|one| matches!(one, Loaded::Icmp(_))) {
            if self.demanded() != Some(own) {
                return Err(needs(scanner, &format!("-p {}", protocol_word(own))));
            }
            self.loaded.push(Loaded::Icmp(None));
        }
        let slot = self.loaded.iter_mut().rev().find_map(|one| match one {
            Loaded::Icmp(slot) => Some(slot),
            _ => None,
        });
        let Some(slot) = slot else { return Ok(()) };
        let what = if family == Family::V4 { "--icmp-type" } else { "--icmpv6-type" };
        let (kind, codes) = values::icmp(scanner.value()?, family)?;
        set(slot, Match::Icmp { kind, codes, negated }, what)
    }

    /// The rules: one for each pair of a source and a destination.
    pub(crate) fn build(mut self, table: TableId, chain: &str) -> Result<Vec<Spec>, Error> {
        if matches!(chain, "INPUT" | "PREROUTING") && self.spec.egress.is_some() {
            return Err(Error::usage(format!("Can't use -o with {chain}")));
        }
        if matches!(chain, "OUTPUT" | "POSTROUTING") && self.spec.ingress.is_some() {
            return Err(Error::usage(format!("Can't use -i with {chain}")));
        }
        if let Some(ct) = self.ct.take() {
            self.spec.target = Target::Ct(ct.finish(self.demanded(), self.family)?);
        }
        if let Some(nat) = self.nat.take() {
            let sources = match &self.sources {
                Some(Addresses { list, negated: false }) => &list[..],
                _ => &[],
            };
            self.spec.target = nat.finish(self.demanded(), sources)?;
        }
        if table == TableId::Nat && self.spec.target == Target::Drop {
            return Err(no_drop_in_nat());
        }
        let counts = self.loaded.iter().any(|one| matches!(one, Loaded::Connlimit(_)));
        if counts && table != TableId::Filter {
            let error = Error::usage("match `connlimit' is for the filter table only");
            return Err(error.hint("elsewhere the packet's connection is not known yet"));
        }
        // `-i +` says nothing.
        for slot in [&mut self.spec.ingress, &mut self.spec.egress] {
            if slot.as_ref().is_some_and(|one| one.name == "+" && !one.negated) {
                *slot = None;
            }
        }
        let demanded = self.demanded();
        let loaded = std::mem::take(&mut self.loaded);
        self.spec.matches = loaded
            .into_iter()
            .map(|one| finished(one, self.family, demanded))
            .collect::<Result<_, _>>()?;
        if self.spec.target == Target::Reject(RejectKind::TcpReset)
            && demanded != Some(protocol::TCP)
        {
            let error = Error::usage("REJECT: --reject-with tcp-reset needs -p tcp");
            return Err(error.hint("only TCP has resets"));
        }
        let sources = networks(self.sources)?;
        let destinations = networks(self.destinations)?;
        if sources.len().saturating_mul(destinations.len()) > EXPANDED_MAX {
            let message = format!("these addresses make more than {EXPANDED_MAX} rules");
            return Err(Error::usage(message));
        }
        let pairs = sources.iter().flat_map(|s| destinations.iter().map(move |d| (*s, *d)));
        let spec = self.spec;
        Ok(pairs
            .map(|(source, destination)| Spec { source, destination, ..spec.clone() })
            .collect())
    }
}

/// The networks of `-s` or `-d`; a mask of nothing is as good as none.
fn networks(addresses: Option<Addresses>) -> Result<Vec<Option<Network>>, Error> {
    let Some(Addresses { list, negated }) = addresses else { return Ok(vec![None]) };
    list.into_iter()
        .map(|(address, mask)| match (mask.is_unspecified(), negated) {
            (false, _) => Ok(Some(Network { address, mask, negated })),
            (true, false) => Ok(None),
            (true, true) => Err(Error::usage("rule would never match address")),
        })
        .collect()
}

fn finished(loaded: Loaded, family: Family, demanded: Option<u8>) -> Result<Match, Error> {
    let name = loaded.name(family);
    let missing =
        |option: &str| Error::usage(format!("{name}: option \"{option}\" must be specified"));
    let fits = |number: u8| {
        let error = || Error::usage(format!("match `{name}' needs -p {}", protocol_word(number)));
        if demanded == Some(number) { Ok(()) } else { Err(error()) }
    };
    match loaded {
        Loaded::Transport { protocol, source, destination, flags } => {
            fits(protocol)?;
            Ok(Match::Transport { protocol, source, destination, flags })
        }
        Loaded::Icmp(test) => {
            fits(icmp_protocol(family))?;
            let option = if family == Family::V4 { "--icmp-type" } else { "--icmpv6-type" };
            test.ok_or_else(|| missing(option))
        }
        Loaded::Multiport(test) => {
            demanded.filter(|&number| has_multiport(number)).ok_or_else(no_multiport)?;
            test.ok_or_else(|| {
                Error::usage("multiport expects an option: --ports, --sports or --dports")
            })
        }
        Loaded::Conntrack(test) => {
            test.ok_or_else(|| Error::usage("conntrack: At least one option is required"))
        }
        Loaded::State(test) => test.ok_or_else(|| missing("--state")),
        Loaded::Connlimit(builder) => builder.finish().map(Match::Connlimit),
        Loaded::Comment(test) => test.ok_or_else(|| missing("--comment")),
    }
}

fn has_multiport(number: u8) -> bool {
    matches!(number, protocol::TCP | protocol::UDP | protocol::UDP_LITE | protocol::SCTP | DCCP)
}

fn no_multiport() -> Error {
    Error::usage("multiport needs `-p tcp', `-p udp', `-p udplite', `-p sctp' or `-p dccp'")
}

fn icmp_protocol(family: Family) -> u8 {
    match family {
        Family::V4 => protocol::ICMP,
        Family::V6 => protocol::ICMPV6,
    }
}

fn protocol_word(number: u8) -> &'static str {
    names::protocol_name(number).unwrap_or("?")
}

/// The last option is one of a match that is not there.
fn needs(scanner: &Scanner<'_>, what: &str) -> Error {
    let option = scanner.spelling();
    unknown(option).hint(format!("{option} needs {what} before it"))
}

fn unknown_match(name: &str) -> Error {
    let shown = visible(name);
    let hint =
        "supported: tcp udp sctp dccp icmp icmp6 multiport conntrack state connlimit comment";
    match name {
        "owner" | "physdev" => Error::usage(format!("match `{name}' cannot be supported"))
            .hint("local sockets and bridges are the host's own, packets here have none"),
        _ if names::OTHER_MATCHES.contains(&name) => {
            Error::usage(format!("match `{name}' is not supported yet")).hint(hint)
        }
        _ => Error::usage(format!("Couldn't load match `{shown}':No such file or directory"))
            .hint(hint),
    }
}

fn target(name: &str) -> Result<Target, Error> {
    Ok(match name {
        "ACCEPT" => Target::Accept,
        "DROP" => Target::Drop,
        "RETURN" => Target::Return,
        "NOTRACK" => Target::NoTrack,
        "REJECT" => Target::Reject(RejectKind::PortUnreachable),
        _ if names::OTHER_TARGETS.contains(&name) => {
            let error = Error::usage(format!("target `{name}' is not supported yet"));
            return Err(error.hint("supported: ACCEPT DROP REJECT RETURN, SNAT DNAT MASQUERADE REDIRECT NETMAP, NOTRACK CT, and user chains"));
        }
        "" => return Err(Error::usage("Invalid target name (too short)")),
        chain => Target::Jump(chain.to_owned()),
    })
}
