//! Model to policy. Everything that can be wrong with a model is found here, so that the walk needs no checks.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;

use super::condition::{Condition, Masked, Rule, Step, Test};
use super::model::{self, ChainRef, FamilyTables, Network, RANGES_MAX, Tables, Target};
use super::policy::Policy;
use super::{
    Family, Hook, HookSet, InterfaceSet, JUMPS_MAX, RejectKind, STEPS_MAX, TableId, Translation,
};
use crate::conntrack::tuple::protocol;
use crate::limits::{LIMITS_MAX, Ledger, Limit, Room};
use crate::units::WORKERS_MAX;

/// Why a model was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CompileError {
    /// The family whose table is wrong.
    pub family: Family,
    /// The chain.
    pub chain: ChainRef,
    /// The rule's place in the chain, from 0; `None` if the chain as a whole is meant.
    pub rule: Option<usize>,
    /// What is wrong.
    pub fault: Fault,
}

/// What can be wrong with a model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A jump to a chain that does not exist.
    NoSuchChain,
    /// A jump back into a chain that led here.
    Loop,
    /// More than [`JUMPS_MAX`] jumps, one inside the other.
    TooDeep,
    /// A packet could be compared with more than [`STEPS_MAX`] rules.
    TooLong,
    /// More rules, conditions or chains than can be numbered.
    TooMany,
    /// An address or mask of the other family.
    WrongFamily,
    /// A second condition of a sort that a rule has only one of: source, destination, protocol.
    Duplicate,
    /// No port range, more than [`RANGES_MAX`], or one that ends before it begins.
    Ports,
    /// Ports, ICMP types, TCP flags or a TCP reset without the protocol they belong to.
    Protocol,
    /// A reject kind that the family does not have.
    RejectKind,
    /// A target that its table does not have, or not at the hook that leads to it.
    WrongHook,
    /// A translation to addresses or ports that nobody can have.
    Translation,
    /// A condition that counts connections, elsewhere than in the filter table.
    CountsElsewhere,
    /// More than [`LIMITS_MAX`] conditions that count connections.
    TooManyLimits,
    /// A condition that counts connections, and no room to ([`Policy::compile`]).
    Uncounted,
    /// More than [`WORKERS_MAX`] workers, or none.
    Workers,
}

impl Fault {
    /// A clause for people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::NoSuchChain => "it jumps to a chain that does not exist",
            Self::Loop => "its jumps lead back into the same chain",
            Self::TooDeep => "its jumps are nested too deep (at most 16)",
            Self::TooLong => "a packet could visit more than a million rules",
            Self::TooMany => "there are too many rules",
            Self::WrongFamily => "an address of the other family",
            Self::Duplicate => "the same condition twice",
            Self::Ports => "its ports are not one to fifteen ascending ranges",
            Self::Protocol => "it looks at something its protocol does not have",
            Self::RejectKind => "this family has no such reject type",
            Self::WrongHook => "its target cannot be used at a hook that leads there",
            Self::Translation => "it translates to an address or port that no host can have",
            Self::CountsElsewhere => "connections are counted in the filter table only",
            Self::TooManyLimits => {
                "there are too many conditions that count connections (at most 31)"
            }
            Self::Uncounted => "it counts connections, for which there is no room here",
            Self::Workers => "the number of workers is not possible",
        }
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.chain {
            ChainRef::Base(hook) => write!(f, "chain {}", hook.chain_name())?,
            ChainRef::User(place) => write!(f, "user chain {}", place + 1)?,
        }
        if let Some(rule) = self.rule {
            write!(f, ", rule {}", rule + 1)?;
        }
        write!(f, ": {}", self.fault.text())
    }
}

impl core::error::Error for CompileError {}

impl Policy {
    /// [`compile_counting`](Self::compile_counting), for rules that count no connections.
    ///
    /// # Errors
    /// The first thing that is wrong with the model.
    pub fn compile(filters: &Tables, workers: usize) -> Result<Self, CompileError> {
        Self::compile_counting(filters, workers, None)
    }

    /// Compiles all tables for `workers` workers, with all the room they will ever need; `room` says how much it takes to
    /// count connections.
    ///
    /// # Errors
    /// The first thing that is wrong with the model.
    pub fn compile_counting(
        filters: &Tables,
        workers: usize,
        room: Option<&Room>,
    ) -> Result<Self, CompileError> {
        if workers == 0 || workers > WORKERS_MAX {
            let chain = ChainRef::Base(Hook::Input);
            return Err(CompileError {
                family: Family::V4,
                chain,
                rule: None,
                fault: Fault::Workers,
            });
        }
        let mut out = Compiler { may_count: room.is_some(), ..Compiler::default() };
        let base = Family::ALL.map(|family| {
            let filter = &filters.0[family.index()];
            let first = out.chains.len() as u32;
            Reach::check(family, filter)?;
            out.filter(family, filter)?;
            Ok(Hook::ALL.map(|hook| (first + hook as u32, filter.base[hook.index()].policy)))
        });
        let [v4, v6] = base;
        let base = [v4?, v6?];
        let ledger = room.and_then(|room| Ledger::new(workers, room, out.limits));
        Ok(Self::new(
            out.rules,
            out.conditions,
            out.ranges,
            out.chains,
            base,
            out.translations,
            ledger,
            workers,
        ))
    }
}

impl Tables {
    /// Checks what jumps lead to, without compiling: every chain exists and can be left again.
    ///
    /// # Errors
    /// [`Fault::NoSuchChain`], [`Fault::Loop`], [`Fault::TooDeep`], [`Fault::TooLong`], [`Fault::TooMany`] or
    /// [`Fault::WrongHook`].
    pub fn check(&self) -> Result<(), CompileError> {
        Family::ALL.into_iter().try_for_each(|f| Reach::check(f, &self.0[f.index()]))
    }
}

#[derive(Default)]
struct Compiler {
    rules: Vec<Rule>,
    conditions: Vec<Condition>,
    ranges: Vec<(u16, u16)>,
    chains: Vec<(u32, u32)>,
    translations: Vec<Translation>,
    /// What is counted, by family.
    limits: [Vec<Limit>; 2],
    may_count: bool,
}

impl Compiler {
    fn filter(&mut self, family: Family, filter: &FamilyTables) -> Result<(), CompileError> {
        let first_user = self.chains.len() + Hook::COUNT;
        for (chain, rules) in filter.chains() {
            let start = self.rules.len();
            for (place, rule) in rules.iter().enumerate() {
                let compiled = self
                    .rule(family, first_user, rule)
                    .map_err(|fault| CompileError { family, chain, rule: Some(place), fault })?;
                self.rules.push(compiled);
            }
            self.chains.push((start as u32, self.rules.len() as u32));
        }
        Ok(())
    }

    fn rule(
        &mut self,
        family: Family,
        first_user: usize,
        rule: &model::Rule,
    ) -> Result<Rule, Fault> {
        const NUMBERS: usize = u32::MAX as usize / 2;
        if self.rules.len().max(self.conditions.len()).max(self.ranges.len()) >= NUMBERS {
            return Err(Fault::TooMany);
        }
        let mut head = Rule {
            ingress: InterfaceSet::ALL,
            egress: InterfaceSet::ALL,
            has_networks: false,
            source: Masked::default(),
            destination: Masked::default(),
            protocol: None,
            step: self.step(family, first_user, rule.target)?,
            conditions: (0, 0),
        };
        let start = self.conditions.len();
        let mut has_network = [false; 2];
        for condition in &rule.conditions {
            let negated = condition.negated;
            match &condition.test {
                model::Test::Ingress(set) => narrow(&mut head.ingress, *set, negated),
                model::Test::Egress(set) => narrow(&mut head.egress, *set, negated),
                model::Test::Source(network) => {
                    once(&mut has_network[0])?;
                    head.source = masked(family, *network, negated)?;
                }
                model::Test::Destination(network) => {
                    once(&mut has_network[1])?;
                    head.destination = masked(family, *network, negated)?;
                }
                model::Test::Protocol(number) => {
                    once(&mut head.protocol.is_some())?;
                    head.protocol = Some((*number, negated));
                }
                other => {
                    let test = self.test(family, other)?;
                    self.conditions.push(Condition { negated, test });
                }
            }
        }
        head.has_networks = has_network.contains(&true);
        let own = self.conditions.get_mut(start..);
        if let Some(own) = own.filter(|own| !own.iter().any(|c| c.test.is_counting())) {
            own.sort_by_key(|condition| condition.test.is_per_packet());
        }
        head.conditions = (start as u32, self.conditions.len() as u32);
        self.check_protocol(family, &head)?;
        Ok(head)
    }

    fn step(&mut self, family: Family, first_user: usize, target: Target) -> Result<Step, Fault> {
        Ok(match target {
            Target::Continue => Step::Continue,
            Target::Accept => Step::Accept,
            Target::Drop => Step::Drop,
            Target::Return => Step::Return,
            Target::Reject(kind) if kind != RejectKind::TcpReset && kind.icmp(family).is_none() => {
                return Err(Fault::RejectKind);
            }
            Target::Reject(kind) => Step::Reject(kind),
            Target::Translate(translation) if !translation.is_sound(family == Family::V4) => {
                return Err(Fault::Translation);
            }
            Target::Translate(translation) => {
                self.translations.push(translation);
                Step::Translate(self.translations.len() as u32 - 1)
            }
            Target::NoTrack => Step::NoTrack,
            Target::Assign(assignment) => Step::Assign(assignment),
            Target::Jump(chain) => Step::Jump((first_user + chain) as u32),
            Target::Goto(chain) => Step::Goto((first_user + chain) as u32),
        })
    }

    fn test(&mut self, family: Family, test: &model::Test) -> Result<Test, Fault> {
        Ok(match test {
            model::Test::Ports { side, ranges } => {
                let ascending = ranges.iter().all(|(first, last)| first <= last);
                match ranges.as_slice() {
                    _ if !ascending || ranges.len() > RANGES_MAX => return Err(Fault::Ports),
                    [] => return Err(Fault::Ports),
                    &[(first, last)] => Test::Port { side: *side, first, last },
                    several => {
                        let start = self.ranges.len() as u32;
                        self.ranges.extend_from_slice(several);
                        Test::Ports { side: *side, start, len: several.len() as u8 }
                    }
                }
            }
            model::Test::States(states) => Test::States(*states),
            model::Test::Icmp { kind, codes } => Test::Icmp { kind: *kind, codes: *codes },
            model::Test::TcpFlags { mask, set } => Test::TcpFlags { mask: *mask, set: *set },
            &model::Test::Connections { of, mask, above } => {
                let mask = masked(family, Network { address: mask, mask }, false)?.mask;
                let limits = &mut self.limits[family.index()];
                if limits.len() == LIMITS_MAX {
                    return Err(Fault::TooManyLimits);
                }
                limits.push(Limit { of, mask });
                if !self.may_count {
                    return Err(Fault::Uncounted);
                }
                Test::Connections { limit: limits.len() as u8 - 1, above }
            }
            model::Test::Ingress(_)
            | model::Test::Egress(_)
            | model::Test::Source(_)
            | model::Test::Destination(_)
            | model::Test::Protocol(_) => return Err(Fault::Duplicate),
        })
    }

    fn check_protocol(&self, family: Family, rule: &Rule) -> Result<(), Fault> {
        let number = rule.protocol.and_then(|(number, negated)| (!negated).then_some(number));
        let icmp = if family == Family::V4 { protocol::ICMP } else { protocol::ICMPV6 };
        let own = self.conditions.get(rule.conditions.0 as usize..).unwrap_or_default();
        let fits = own.iter().all(|condition| match condition.test {
            Test::Port { .. } | Test::Ports { .. } => number.is_some_and(has_ports),
            Test::Icmp { .. } => number == Some(icmp),
            Test::TcpFlags { .. } => number == Some(protocol::TCP),
            Test::States(_) | Test::Connections { .. } => true,
        });
        let reset = rule.step == Step::Reject(RejectKind::TcpReset);
        let fits = fits && (!reset || number == Some(protocol::TCP));
        if fits { Ok(()) } else { Err(Fault::Protocol) }
    }
}

/// Whether packets of this protocol begin with source and destination port.
fn has_ports(number: u8) -> bool {
    const DCCP: u8 = 33;
    matches!(number, protocol::TCP | protocol::UDP | protocol::SCTP | protocol::UDP_LITE | DCCP)
}

fn once(seen: &mut bool) -> Result<(), Fault> {
    if core::mem::replace(seen, true) { Err(Fault::Duplicate) } else { Ok(()) }
}

fn narrow(set: &mut InterfaceSet, with: InterfaceSet, negated: bool) {
    *set = set.intersection(if negated { with.complement() } else { with });
}

fn masked(family: Family, network: Network, negated: bool) -> Result<Masked, Fault> {
    let (address, mask) = match (family, network.address, network.mask) {
        (Family::V4, IpAddr::V4(address), IpAddr::V4(mask)) => {
            (u128::from(u32::from(address)), u128::from(u32::from(mask)))
        }
        (Family::V6, IpAddr::V6(address), IpAddr::V6(mask)) => {
            (u128::from(address), u128::from(mask))
        }
        _ => return Err(Fault::WrongFamily),
    };
    Ok(Masked { address: address & mask, mask, negated })
}

/// What is known of a chain while all its ways are followed.
#[derive(Clone, Copy)]
enum Known {
    Nothing,
    /// A way leads through it just now: coming here again is a loop.
    Open,
    /// Jumps that nest below it, and the rules on its longest way.
    Done {
        jumps: usize,
        steps: u64,
    },
}

/// Follows every jump of one family: no loops, not too deep, not too long.
struct Reach<'a> {
    family: Family,
    filter: &'a FamilyTables,
    known: Vec<Known>,
}

impl<'a> Reach<'a> {
    fn check(family: Family, filter: &'a FamilyTables) -> Result<(), CompileError> {
        if filter.chains.len() > u32::MAX as usize / 4 {
            let chain = ChainRef::Base(Hook::Input);
            return Err(CompileError { family, chain, rule: None, fault: Fault::TooMany });
        }
        let mut reach = Self { family, filter, known: vec![Known::Nothing; filter.chains.len()] };
        for (chain, rules) in filter.chains() {
            if let ChainRef::User(place) = chain {
                reach.user_chain(place, 0)?;
            } else {
                reach.rules(chain, rules, 0)?;
            }
        }
        Hook::ALL.into_iter().try_for_each(|hook| reach.targets(hook))
    }

    /// Refuses targets that `hook` leads to and that may not stand there. Jumps lead nowhere twice, by now.
    fn targets(&self, hook: Hook) -> Result<(), CompileError> {
        let here = HookSet::of(&[hook]);
        let mut seen = vec![false; self.filter.chains.len()];
        let mut next = vec![ChainRef::Base(hook)];
        while let Some(chain) = next.pop() {
            let rules = match chain {
                ChainRef::Base(hook) => &self.filter.base[hook.index()].rules,
                ChainRef::User(place) => &self.filter.chains[place],
            };
            for (place, rule) in rules.iter().enumerate() {
                let family = self.family;
                let refused = |fault| CompileError { family, chain, rule: Some(place), fault };
                if !rule.target.hooks().intersects(here) {
                    return Err(refused(Fault::WrongHook));
                }
                if rule.is_counting() && hook.table() != TableId::Filter {
                    return Err(refused(Fault::CountsElsewhere));
                }
                if let Target::Jump(to) | Target::Goto(to) = rule.target
                    && !core::mem::replace(&mut seen[to], true)
                {
                    next.push(ChainRef::User(to));
                }
            }
        }
        Ok(())
    }

    /// Jumps below these rules and rules on the longest way through them.
    fn rules(
        &mut self,
        chain: ChainRef,
        rules: &[model::Rule],
        depth: usize,
    ) -> Result<(usize, u64), CompileError> {
        let (mut jumps, mut steps) = (0, 0_u64);
        for (place, rule) in rules.iter().enumerate() {
            steps += 1;
            let (Target::Jump(target) | Target::Goto(target)) = rule.target else { continue };
            let family = self.family;
            let at = |fault| CompileError { family, chain, rule: Some(place), fault };
            let (below, way) = match self.known.get(target) {
                None => return Err(at(Fault::NoSuchChain)),
                Some(Known::Open) => return Err(at(Fault::Loop)),
                Some(&Known::Done { jumps, steps }) => (jumps, steps),
                // A goto takes no room on the stack, but counts here, so that this function's own depth is bounded.
                Some(Known::Nothing) if depth >= JUMPS_MAX => return Err(at(Fault::TooDeep)),
                Some(Known::Nothing) => self.user_chain(target, depth + 1)?,
            };
            jumps = jumps.max(below + 1);
            steps = steps.saturating_add(way);
            if depth + jumps > JUMPS_MAX {
                return Err(at(Fault::TooDeep));
            }
            if steps > STEPS_MAX {
                return Err(at(Fault::TooLong));
            }
        }
        Ok((jumps, steps))
    }

    fn user_chain(&mut self, place: usize, depth: usize) -> Result<(usize, u64), CompileError> {
        if let Some(&Known::Done { jumps, steps }) = self.known.get(place) {
            return Ok((jumps, steps));
        }
        self.set(place, Known::Open);
        let filter = self.filter;
        let rules = filter.chains.get(place).map_or(&[][..], Vec::as_slice);
        let (jumps, steps) = self.rules(ChainRef::User(place), rules, depth)?;
        self.set(place, Known::Done { jumps, steps });
        Ok((jumps, steps))
    }

    fn set(&mut self, place: usize, known: Known) {
        if let Some(slot) = self.known.get_mut(place) {
            *slot = known;
        }
    }
}
