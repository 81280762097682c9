//! Rulesets to the core's policy.

use std::collections::HashMap;
use std::sync::Arc;

use postern_core::limits::Room;
use postern_core::rules::model::{
    BaseChain, ChainRef, Condition, FamilyTables, Network, Rule as CoreRule, Side, Tables,
    Target as CoreTarget, Test,
};
use postern_core::rules::{CompileError, Family, Fault, Hook, InterfaceSet, Policy, TableId};
use postern_core::units::InterfaceId;

use crate::error::Error;
use crate::model::{Counts, Interface, Match, Rule, RuleId, Ruleset, Rulesets, Spec, Target};
use crate::names::ICMP_ANY;

/// A policy, and which rule is which in it.
#[derive(Clone, Debug)]
pub struct Compiled {
    policy: Arc<Policy>,
    /// By [`RuleIdx`](postern_core::rules::RuleIdx).
    rules: Arc<[RuleId]>,
}

impl Compiled {
    /// What the snapshot carries.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// The rules by their number in the policy.
    pub fn rules(&self) -> &[RuleId] {
        &self.rules
    }

    /// What was counted under this policy so far.
    pub fn counts(&self) -> Counts {
        let counted = self.policy.counters();
        let rules = self.rules.iter().copied().zip(counted.rules);
        Counts { rules: rules.collect(), policies: counted.policies }
    }
}

/// Compiles the rulesets. Interfaces that are not in `interfaces` never match, as in Linux; `room` says how much it takes to
/// count connections.
///
/// # Errors
/// Chains that packets could not leave; see [`Fault`].
pub fn compile(
    rulesets: &Rulesets,
    interfaces: &[(&str, InterfaceId)],
    workers: usize,
    room: &Room,
) -> Result<Compiled, Error> {
    let (tables, rules) = tables(rulesets, interfaces);
    let policy = Policy::compile_counting(&tables, workers, Some(room))
        .map_err(|error| explain(rulesets, error))?;
    Ok(Compiled { policy: Arc::new(policy), rules: rules.into() })
}

/// Refuses jumps that lead in circles or too deep.
pub(crate) fn check(rulesets: &Rulesets, family: Family) -> Result<(), Error> {
    let mut all = Tables::default();
    all.0[family.index()] = family_tables(rulesets, family, &[], &mut Vec::new());
    all.check().map_err(|error| explain(rulesets, error))
}

fn tables(rulesets: &Rulesets, interfaces: &[(&str, InterfaceId)]) -> (Tables, Vec<RuleId>) {
    let mut ids = Vec::new();
    let families = Family::ALL.map(|family| family_tables(rulesets, family, interfaces, &mut ids));
    (Tables(families), ids)
}

/// Where the user chains of a table are in the core's list of all tables' chains: from here on, by name.
fn first_user(ruleset: &Ruleset, table: TableId) -> usize {
    ruleset.tables.iter().take(table.index()).map(|earlier| earlier.user.len()).sum()
}

/// A family's tables in the core's words. Adds the rules' ids in the order that numbers them there.
fn family_tables(
    rulesets: &Rulesets,
    family: Family,
    interfaces: &[(&str, InterfaceId)],
    ids: &mut Vec<RuleId>,
) -> FamilyTables {
    let ruleset = rulesets.family(family);
    let timeout_policy = |name: &str| rulesets.timeout_policy(name);
    let places = TableId::ALL.map(|table| {
        let names = ruleset.table(table).user.keys().map(String::as_str);
        names.zip(first_user(ruleset, table)..).collect::<HashMap<_, _>>()
    });
    let mut rules = |table: TableId, rules: &[Rule]| -> Vec<CoreRule> {
        let places = &places[table.index()];
        ids.extend(rules.iter().map(|rule| rule.id));
        rules
            .iter()
            .map(|rule| CoreRule {
                conditions: conditions(&rule.spec, family, interfaces),
                target: match &rule.spec.target {
                    Target::None => CoreTarget::Continue,
                    Target::Accept => CoreTarget::Accept,
                    Target::Drop => CoreTarget::Drop,
                    Target::Return => CoreTarget::Return,
                    Target::Reject(kind) => CoreTarget::Reject(*kind),
                    Target::Nat(translation, _) => CoreTarget::Translate(*translation),
                    Target::NoTrack => CoreTarget::NoTrack,
                    Target::Ct(ct) if ct.notrack => CoreTarget::NoTrack,
                    Target::Ct(ct) => {
                        // One that is not there was refused.
                        let timeouts = ct.timeout().and_then(timeout_policy);
                        CoreTarget::Assign(ct.assignment(timeouts.unwrap_or_default()))
                    }
                    // A chain that is not there is refused by the core.
                    Target::Jump(to) => {
                        CoreTarget::Jump(places.get(to.as_str()).copied().unwrap_or(usize::MAX))
                    }
                },
            })
            .collect()
    };
    let base = Hook::ALL.map(|hook| {
        let chain = ruleset.table(hook.table()).base_chain(hook);
        chain.map_or_else(BaseChain::default, |chain| BaseChain {
            policy: chain.policy,
            rules: rules(hook.table(), &chain.rules),
        })
    });
    let user = TableId::ALL
        .into_iter()
        .flat_map(|id| ruleset.table(id).user.values().map(move |chain| (id, &chain.rules)));
    FamilyTables { base, chains: user.map(|(id, chain)| rules(id, chain)).collect() }
}

fn conditions(spec: &Spec, family: Family, interfaces: &[(&str, InterfaceId)]) -> Vec<Condition> {
    let mut out = Vec::new();
    let mut add = |negated, test| out.push(Condition { negated, test });
    if let Some(one) = &spec.ingress {
        add(one.negated, Test::Ingress(interface_set(one, interfaces)));
    }
    if let Some(one) = &spec.egress {
        add(one.negated, Test::Egress(interface_set(one, interfaces)));
    }
    let core = |address, mask| Network { address, mask };
    if let Some(one) = spec.source {
        add(one.negated, Test::Source(core(one.address, one.mask)));
    }
    if let Some(one) = spec.destination {
        add(one.negated, Test::Destination(core(one.address, one.mask)));
    }
    if let Some((number, negated)) = spec.protocol {
        add(negated, Test::Protocol(number));
    }
    for one in &spec.matches {
        match one {
            Match::Transport { source, destination, flags, .. } => {
                for (side, test) in [(Side::Source, source), (Side::Destination, destination)] {
                    if let Some(test) = test {
                        add(test.negated, Test::Ports { side, ranges: vec![test.range] });
                    }
                }
                if let Some(flags) = flags {
                    add(flags.negated, Test::TcpFlags { mask: flags.mask, set: flags.set });
                }
            }
            &Match::Icmp { kind, codes, negated } => {
                let kind = (kind != ICMP_ANY).then_some(kind);
                add(negated, Test::Icmp { kind, codes });
            }
            Match::Multiport { side, ranges, negated } => {
                add(*negated, Test::Ports { side: *side, ranges: ranges.clone() });
            }
            Match::Conntrack { states, negated } | Match::State { states, negated } => {
                add(*negated, Test::States(*states));
            }
            Match::Connlimit(limit) => {
                let (negated, test) = limit.test(family);
                add(negated, test);
            }
            Match::Comment(_) => {}
        }
    }
    out
}

/// The interfaces that a name or the beginning of names (`eth+`) stands for.
fn interface_set(wanted: &Interface, interfaces: &[(&str, InterfaceId)]) -> InterfaceSet {
    match wanted.name.strip_suffix('+') {
        Some("") => InterfaceSet::ALL,
        Some(start) => set_of(interfaces, |name| name.starts_with(start)),
        None => set_of(interfaces, |name| name == wanted.name),
    }
}

fn set_of(interfaces: &[(&str, InterfaceId)], is_in: impl Fn(&str) -> bool) -> InterfaceSet {
    let members = interfaces.iter().filter(|(name, _)| is_in(name));
    members.fold(InterfaceSet::EMPTY, |set, &(_, id)| set.with(id))
}

/// The core's complaint with the chain's name.
fn explain(rulesets: &Rulesets, error: CompileError) -> Error {
    let ruleset = rulesets.family(error.family);
    let mut user = ruleset.tables.iter().flat_map(|table| table.user.keys());
    let chain = match error.chain {
        ChainRef::Base(hook) => hook.chain_name(),
        ChainRef::User(place) => user.nth(place).map_or("?", String::as_str),
    };
    let message = match error.fault {
        Fault::Loop | Fault::TooDeep => "Too many levels of symbolic links.",
        Fault::NoSuchChain => return Error::no_chain(),
        _ => "Invalid argument.",
    };
    let rule = error.rule.map_or(String::new(), |place| format!(", rule {}", place + 1));
    Error::refused(message).hint(format!("chain {chain}{rule}: {}", error.fault.text()))
}
