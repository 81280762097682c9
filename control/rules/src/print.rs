//! Rules as `-S` and `iptables-save` print them: such that they can be typed again.

use std::fmt::Write;
use std::net::IpAddr;

use postern_core::conntrack::ctstate::CtStates;
use postern_core::rules::model::Side;
use postern_core::rules::{Count, Family};

use crate::error::visible;
use crate::model::{Interface, Match, Network, PortTest, Spec, Target};
use crate::names::{self, ALL_CODES, ICMP_ANY};
use crate::nat;
use crate::values::{FLAGS, STATES};

/// The rule's options, with `-c` and its count before the target if one is given.
pub(crate) fn options(spec: &Spec, family: Family, count: Option<Count>) -> String {
    let mut out = String::new();
    for (letter, network) in [('s', &spec.source), ('d', &spec.destination)] {
        if let Some(network) = network {
            let not = not(network.negated);
            let _ = write!(out, " {not}-{letter} {}/{}", network.address, mask(network.mask));
        }
    }
    for (letter, interface) in [('i', &spec.ingress), ('o', &spec.egress)] {
        if let Some(Interface { name, negated }) = interface {
            let _ = write!(out, " {}-{letter} {}", not(*negated), visible(name));
        }
    }
    if let Some((number, negated)) = spec.protocol {
        let _ = write!(out, " {}-p {}", not(negated), protocol(number));
    }
    for one in &spec.matches {
        write_match(&mut out, one, family);
    }
    if let Some(Count { packets, bytes }) = count {
        let _ = write!(out, " -c {packets} {bytes}");
    }
    match &spec.target {
        Target::None => {}
        Target::Reject(kind) => {
            let name = reject_name(*kind, family);
            let _ = write!(out, " -j REJECT --reject-with {name}");
        }
        Target::Nat(translation, spoken) => {
            let _ = write!(out, " -j {}", target_name(&spec.target));
            out.push_str(&nat::options(translation, *spoken));
        }
        Target::NoTrack => out.push_str(" -j NOTRACK"),
        Target::Ct(ct) => {
            let _ = write!(out, " -j CT{}", ct.options());
        }
        target => {
            let _ = write!(out, " -j {}", target_name(target));
        }
    }
    out
}

fn write_match(out: &mut String, one: &Match, family: Family) {
    let _ = match one {
        Match::Transport { protocol, source, destination, flags } => {
            let _ = write!(out, " -m {}", self::protocol(*protocol));
            for (name, test) in [("sport", source), ("dport", destination)] {
                if let Some(test) = test.filter(|test| !is_any(test)) {
                    let _ = write!(out, " {}--{name} {}", not(test.negated), range(test.range));
                }
            }
            let Some(test) = flags else { return };
            let (mask, set) = (flag_names(test.mask), flag_names(test.set));
            write!(out, " {}--tcp-flags {mask} {set}", not(test.negated))
        }
        Match::Icmp { kind, codes, negated } => {
            let (name, option) = match family {
                Family::V4 => ("icmp", "icmp-type"),
                Family::V6 => ("icmp6", "icmpv6-type"),
            };
            let _ = write!(out, " -m {name} {}--{option} ", not(*negated));
            match (*kind, *codes) {
                (ICMP_ANY, ALL_CODES) if family == Family::V4 => write!(out, "any"),
                (kind, ALL_CODES) => write!(out, "{kind}"),
                (kind, (code, _)) => write!(out, "{kind}/{code}"),
            }
        }
        Match::Multiport { side, ranges, negated } => {
            let option = match side {
                Side::Source => "sports",
                Side::Destination => "dports",
                Side::Either => "ports",
            };
            let ranges: Vec<_> = ranges.iter().map(|&one| range(one)).collect();
            write!(out, " -m multiport {}--{option} {}", not(*negated), ranges.join(","))
        }
        Match::Conntrack { states, negated } => {
            write!(out, " -m conntrack {}--ctstate {}", not(*negated), state_names(*states))
        }
        Match::State { states, negated } => {
            write!(out, " -m state {}--state {}", not(*negated), state_names(*states))
        }
        Match::Connlimit(limit) => write!(out, " -m connlimit {}", limit.options(family)),
        Match::Comment(text) => write!(out, " -m comment --comment {}", quoted(text)),
    };
}

fn not(negated: bool) -> &'static str {
    if negated { "! " } else { "" }
}

/// A test that every port passes is not printed, as in iptables.
pub(crate) fn is_any(test: &PortTest) -> bool {
    test.range == (0, u16::MAX) && !test.negated
}

/// A mask as its length if it has no holes.
pub(crate) fn mask(mask: IpAddr) -> String {
    prefix_length(mask).map_or_else(|| mask.to_string(), |length| length.to_string())
}

/// The length of a mask without holes.
pub(crate) fn prefix_length(mask: IpAddr) -> Option<u32> {
    let bits = match mask {
        IpAddr::V4(mask) => u128::from(u32::from(mask)) << 96,
        IpAddr::V6(mask) => u128::from(mask),
    };
    let length = bits.leading_ones();
    (bits.count_ones() == length).then_some(length)
}

/// Whether a network is one host.
pub(crate) fn is_host(network: &Network) -> bool {
    match network.mask {
        IpAddr::V4(mask) => u32::from(mask) == u32::MAX,
        IpAddr::V6(mask) => u128::from(mask) == u128::MAX,
    }
}

/// A protocol by name, or by number if it has none.
pub(crate) fn protocol(number: u8) -> String {
    names::protocol_name(number).map_or_else(|| number.to_string(), str::to_owned)
}

/// `80` or `80:90`.
pub(crate) fn range((first, last): (u16, u16)) -> String {
    if first == last { first.to_string() } else { format!("{first}:{last}") }
}

/// The names of a set of TCP flags.
pub(crate) fn flag_names(set: u8) -> String {
    let names: Vec<_> =
        FLAGS.iter().filter(|(_, bit)| set & bit != 0).map(|(name, _)| *name).collect();
    if names.is_empty() { "NONE".to_owned() } else { names.join(",") }
}

/// The names of a set of conntrack states.
pub(crate) fn state_names(set: CtStates) -> String {
    let names: Vec<_> =
        STATES.iter().filter(|(_, one)| set.intersects(*one)).map(|(name, _)| *name).collect();
    names.join(",")
}

/// What `-j` says, without the target's own options.
pub(crate) fn target_name(target: &Target) -> &str {
    match target {
        Target::None => "",
        Target::Accept => "ACCEPT",
        Target::Drop => "DROP",
        Target::Return => "RETURN",
        Target::Reject(_) => "REJECT",
        Target::Nat(translation, _) => nat::name(translation),
        Target::NoTrack | Target::Ct(_) => "CT",
        Target::Jump(chain) => chain,
    }
}

/// What `--reject-with` says.
pub(crate) fn reject_name(kind: postern_core::rules::RejectKind, family: Family) -> &'static str {
    let found = names::rejects(family).iter().find(|&&(.., known)| known == kind);
    found.map_or("", |&(name, ..)| name)
}

/// A string that a dump's reader takes for one word.
pub(crate) fn quoted(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        if matches!(c, '"' | '\\' | '\'') {
            out.push('\\');
        }
        if crate::error::is_deceptive(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out.push('"');
    out
}

impl Spec {
    /// The rule as one would type it behind `-A CHAIN`.
    pub fn to_text(&self, family: Family) -> String {
        options(self, family, None).trim_start().to_owned()
    }
}
