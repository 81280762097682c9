//! What `-L` and `-S` print, column by column as iptables prints it.
//!
//! One difference: addresses are never looked up. Without `-n` protocols and ports have names and "everywhere"
//! is `anywhere`, but an address stays an address.

use std::fmt::Write;

use postern_core::rules::model::Side;
use postern_core::rules::{Count, Family, Hook};

use crate::command::Format;
use crate::error::visible;
use crate::model::{
    Chain, Counts, Interface, Match, Network, PortTest, Rule, Table, Target, policy_name,
};
use crate::names::{self, ALL_CODES};
use crate::{nat, print};

/// What a listing shows.
pub(crate) struct Listing<'a> {
    pub(crate) table: &'a Table,
    pub(crate) family: Family,
    pub(crate) live: &'a Counts,
    pub(crate) format: Format,
}

impl Listing<'_> {
    fn chosen(&self, chain: Option<&str>) -> Vec<(&str, &Chain)> {
        self.table.chains().filter(|(name, _)| chain.is_none_or(|chain| chain == *name)).collect()
    }

    fn policy_count(&self, hook: Hook, chain: &Chain) -> Count {
        chain.base.plus(self.live.policies[self.family.index()][hook.index()])
    }

    /// `-L`
    pub(crate) fn show(&self, chain: Option<&str>, number: Option<usize>) -> String {
        let mut out = String::new();
        for (place, (name, chain)) in self.chosen(chain).into_iter().enumerate() {
            if let Some(number) = number {
                if let Some(rule) = chain.rules.get(number - 1) {
                    self.row(&mut out, number, rule);
                }
                continue;
            }
            if place > 0 {
                out.push('\n');
            }
            self.head(&mut out, name, chain);
            for (place, rule) in chain.rules.iter().enumerate() {
                self.row(&mut out, place + 1, rule);
            }
        }
        out
    }

    /// `-S`
    pub(crate) fn commands(&self, chain: Option<&str>, number: Option<usize>) -> String {
        let mut out = String::new();
        let verbose = self.format.verbose;
        let chosen = self.chosen(chain);
        if number.is_none() {
            for &(name, chain) in &chosen {
                let Some(hook) = self.table.hook_of(name) else {
                    let _ = writeln!(out, "-N {}", visible(name));
                    continue;
                };
                let _ = write!(out, "-P {name} {}", policy_name(chain.policy));
                if verbose {
                    let Count { packets, bytes } = self.policy_count(hook, chain);
                    let _ = write!(out, " -c {packets} {bytes}");
                }
                out.push('\n');
            }
        }
        for (name, chain) in chosen {
            for (place, rule) in chain.rules.iter().enumerate() {
                if number.is_none_or(|number| number == place + 1) {
                    let count = verbose.then(|| rule.count(self.live));
                    let options = print::options(&rule.spec, self.family, count);
                    let _ = writeln!(out, "-A {}{options}", visible(name));
                }
            }
        }
        out
    }

    fn head(&self, out: &mut String, name: &str, chain: &Chain) {
        let format = self.format;
        let _ = write!(out, "Chain {}", visible(name));
        if let Some(hook) = self.table.hook_of(name) {
            let _ = write!(out, " (policy {}", policy_name(chain.policy));
            if format.verbose {
                let Count { packets, bytes } = self.policy_count(hook, chain);
                // Not in columns here: no padding.
                let (packets, bytes) = (self.number(packets), self.number(bytes));
                let _ = write!(out, " {} packets, {} bytes", packets.trim(), bytes.trim());
            }
            out.push_str(")\n");
        } else {
            let references = self.table.references(name);
            let _ = writeln!(out, " ({references} references)");
        }
        if format.line_numbers {
            let _ = write!(out, "{:<4} ", "num");
        }
        if format.verbose {
            let (packets, bytes) = if format.exact { (8, 10) } else { (5, 5) };
            let _ = write!(out, "{:>packets$} {:>bytes$} ", "pkts", "bytes");
        }
        let _ = write!(out, "{:<9}  prot opt", "target");
        if format.verbose {
            let _ = write!(out, " {:<6} {:<6} ", "in", "out");
        }
        let _ = writeln!(out, " {:<19}  {:<19} ", "source", "destination");
    }

    fn row(&self, out: &mut String, number: usize, rule: &Rule) {
        let format = self.format;
        let spec = &rule.spec;
        if format.line_numbers {
            let _ = write!(out, "{number:<4} ");
        }
        if format.verbose {
            let Count { packets, bytes } = rule.count(self.live);
            let _ = write!(out, "{}{}", self.number(packets), self.number(bytes));
        }
        let _ = write!(out, "{:<9} ", visible(print::target_name(&spec.target)));
        let (protocol_number, negated) = spec.protocol.unwrap_or((0, false));
        let protocol = match (format.numeric, protocol_number) {
            (true, number) => number.to_string(),
            (false, 0) => "all".to_owned(),
            (false, number) => print::protocol(number),
        };
        let _ = write!(out, "{}{protocol:<4} -- ", mark(negated));
        if format.verbose {
            for interface in [&spec.ingress, &spec.egress] {
                let any = if format.numeric { "*" } else { "any" };
                let shown = match interface {
                    Some(Interface { name, negated: true }) => format!("!{}", visible(name)),
                    Some(Interface { name, .. }) => visible(name),
                    None => any.to_owned(),
                };
                let lead = if std::ptr::eq(interface, &spec.ingress) { " " } else { "" };
                let _ = write!(out, "{lead}{shown:<6} ");
            }
        }
        for network in [&spec.source, &spec.destination] {
            self.address(out, network.as_ref());
        }
        for one in &spec.matches {
            self.write_match(out, one, protocol_number);
        }
        match &spec.target {
            Target::Reject(kind) => {
                let _ = write!(out, " reject-with {}", print::reject_name(*kind, self.family));
            }
            Target::Nat(translation, spoken) => out.push_str(&nat::shown(translation, *spoken)),
            Target::NoTrack => out.push_str(" NOTRACK"),
            Target::Ct(ct) => out.push_str(&ct.shown()),
            _ => {}
        }
        out.push('\n');
    }

    fn address(&self, out: &mut String, network: Option<&Network>) {
        let negated = network.is_some_and(|network| network.negated);
        let shown = match (network, self.family) {
            (None, _) if !self.format.numeric => "anywhere".to_owned(),
            (None, Family::V4) => "0.0.0.0/0".to_owned(),
            (None, Family::V6) => "::/0".to_owned(),
            (Some(network), _) if print::is_host(network) => network.address.to_string(),
            (Some(network), _) => format!("{}/{}", network.address, print::mask(network.mask)),
        };
        let _ = write!(out, "{}{shown:<19} ", mark(negated));
    }

    /// A counter in its column: exact, or with K, M, G, T as iptables rounds.
    fn number(&self, mut n: u64) -> String {
        if self.format.exact {
            return format!("{n:>8} ");
        }
        if n <= 99_999 {
            return format!("{n:>5} ");
        }
        for unit in ["K", "M", "G"] {
            n = n.saturating_add(500) / 1000;
            if n <= 9999 {
                return format!("{n:>4}{unit} ");
            }
        }
        format!("{:>4}T ", n.saturating_add(500) / 1000)
    }

    fn write_match(&self, out: &mut String, one: &Match, protocol_number: u8) {
        let numeric = self.format.numeric;
        let bang = |negated| if negated { "!" } else { "" };
        let _ = match one {
            Match::Transport { protocol, source, destination, flags } => {
                let _ = write!(out, " {}", print::protocol(*protocol));
                for (name, test) in [("spt", source), ("dpt", destination)] {
                    if let Some(test) = test.filter(|test| !print::is_any(test)) {
                        self.ports(out, name, test, *protocol);
                    }
                }
                let Some(test) = flags else { return };
                let not = bang(test.negated);
                if numeric {
                    write!(out, " flags:{not}0x{:02X}/0x{:02X}", test.mask, test.set)
                } else {
                    let (mask, set) = (print::flag_names(test.mask), print::flag_names(test.set));
                    write!(out, " flags:{not}{mask}/{set}")
                }
            }
            &Match::Icmp { kind, codes, negated } => self.icmp(out, kind, codes, negated),
            Match::Multiport { side, ranges, negated } => {
                let word = match side {
                    Side::Source => "sports",
                    Side::Destination => "dports",
                    Side::Either => "ports",
                };
                let not = if *negated { " !" } else { "" };
                let shown = |&(first, last): &(u16, u16)| match first == last {
                    true => self.port(first, protocol_number),
                    false => {
                        let last = self.port(last, protocol_number);
                        format!("{}:{last}", self.port(first, protocol_number))
                    }
                };
                let ranges: Vec<_> = ranges.iter().map(shown).collect();
                write!(out, " multiport {word} {not}{}", ranges.join(","))
            }
            Match::Conntrack { states, negated } => {
                let not = if *negated { "! " } else { "" };
                write!(out, " {not}ctstate {}", print::state_names(*states))
            }
            Match::State { states, negated } => {
                let not = if *negated { "! " } else { "" };
                write!(out, " {not}state {}", print::state_names(*states))
            }
            Match::Connlimit(limit) => limit.list(out, self.family),
            Match::Comment(text) => write!(out, " /* {} */", visible_whole(text)),
        };
    }

    fn ports(&self, out: &mut String, name: &str, test: PortTest, protocol: u8) {
        let (first, last) = test.range;
        let not = if test.negated { "!" } else { "" };
        let shown = |port| self.port(port, protocol);
        let _ = if first == last {
            write!(out, " {name}:{not}{}", shown(first))
        } else {
            write!(out, " {name}s:{not}{}:{}", shown(first), shown(last))
        };
    }

    fn port(&self, port: u16, protocol: u8) -> String {
        let name = names::service_name(port, protocol).filter(|_| !self.format.numeric);
        name.map_or_else(|| port.to_string(), str::to_owned)
    }

    fn icmp(&self, out: &mut String, kind: u8, codes: (u8, u8), negated: bool) -> std::fmt::Result {
        let word = if self.family == Family::V4 { "icmp" } else { "ipv6-icmp" };
        let not = if negated { "!" } else { "" };
        let mut known = names::icmp_types(self.family).iter();
        let name = known.find(|&&(_, k, c)| (k, c) == (kind, codes) && !self.format.numeric);
        if let Some((name, ..)) = name {
            return write!(out, " {word} {not}{name}");
        }
        let gap = if negated { " !" } else { "" };
        write!(out, " {word}{gap}type {kind}")?;
        if codes == ALL_CODES {
            return Ok(());
        }
        write!(out, " code {}", codes.0)
    }
}

fn mark(negated: bool) -> char {
    if negated { '!' } else { ' ' }
}

/// A comment in full, with nothing in it that could pass for another line.
fn visible_whole(text: &str) -> String {
    let escape = |c: char| match crate::error::is_deceptive(c) {
        true => c.escape_unicode().to_string(),
        false => c.to_string(),
    };
    text.chars().map(escape).collect()
}
