//! The rules as the operator sees them: chains by name, rules as written, counters that survive edits.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use postern_core::conntrack::ctstate::CtStates;
use postern_core::conntrack::timeouts::TimeoutPolicyId;
use postern_core::rules::model::{ChainPolicy, Side};
use postern_core::rules::{Count, Family, Hook, RejectKind, TableId, Translation};

use crate::RESERVED_PREFIX;
use crate::connlimit::Connlimit;
use crate::ct::Ct;
use crate::error::{Error, visible};

/// The rulesets of both families. Cheap to clone: rules are shared.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Rulesets {
    pub(crate) families: [Ruleset; 2],
    pub(crate) last_id: RuleId,
    /// Timeout policies that `CT --timeout` may name, by number from 1 on: those that are gone keep theirs until it is needed.
    timeouts: Vec<Named>,
}

/// A timeout policy's name, and whether there is one of that name now.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    name: String,
    lives: bool,
}

/// One family's tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// By [`TableId::index`].
    pub(crate) tables: [Table; TableId::ALL.len()],
}

impl Default for Ruleset {
    fn default() -> Self {
        Self { tables: TableId::ALL.map(Table::new) }
    }
}

/// A table: the base chains and, sorted by name, the user's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) id: TableId,
    /// Whether a dump shows it: `filter` always, others once they have been edited, as in Linux.
    pub(crate) present: bool,
    /// In the order of the table's [hooks](TableId::hooks).
    pub(crate) base: Vec<Chain>,
    pub(crate) user: BTreeMap<String, Chain>,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Chain {
    /// What becomes of packets that no rule decided; user chains do not use it.
    pub(crate) policy: ChainPolicy,
    /// Added to what the policy counts live.
    pub(crate) base: Count,
    pub(crate) rules: Vec<Rule>,
}

/// Names a rule for as long as it exists, whatever happens around it. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct RuleId(pub u64);

/// A rule in its chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub(crate) id: RuleId,
    /// Added to what the rule counts live: earlier policies' counts, less what was zeroed.
    pub(crate) base: Count,
    pub(crate) spec: Arc<Spec>,
}

/// What a rule says. Two rules with equal specs are the same to `-D` and `-C`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Spec {
    /// `-s`
    pub(crate) source: Option<Network>,
    /// `-d`
    pub(crate) destination: Option<Network>,
    /// `-i`
    pub(crate) ingress: Option<Interface>,
    /// `-o`
    pub(crate) egress: Option<Interface>,
    /// `-p`: the number and whether it is negated
    pub(crate) protocol: Option<(u8, bool)>,
    /// Everything said by `-m`, in the order it was loaded.
    pub(crate) matches: Vec<Match>,
    /// `-j`
    pub(crate) target: Target,
}

/// Addresses: those that agree with `address` in the bits of `mask`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) address: IpAddr,
    pub(crate) mask: IpAddr,
    pub(crate) negated: bool,
}

/// An interface's name, or with a final `+` the beginning of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) negated: bool,
}

/// A range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortTest {
    pub(crate) range: (u16, u16),
    pub(crate) negated: bool,
}

/// TCP flags: of those in `mask` exactly those in `set` are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlagsTest {
    pub(crate) mask: u8,
    pub(crate) set: u8,
    pub(crate) negated: bool,
}

/// One `-m` with its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    /// `tcp`, `udp`, `sctp` and `dccp`
    Transport {
        protocol: u8,
        source: Option<PortTest>,
        destination: Option<PortTest>,
        flags: Option<FlagsTest>,
    },
    /// `icmp`, in the IPv6 table `icmp6`
    Icmp { kind: u8, codes: (u8, u8), negated: bool },
    /// `multiport`
    Multiport { side: Side, ranges: Vec<(u16, u16)>, negated: bool },
    /// `conntrack`
    Conntrack { states: CtStates, negated: bool },
    /// `state`
    State { states: CtStates, negated: bool },
    /// `connlimit`
    Connlimit(Connlimit),
    /// `comment`
    Comment(String),
}

/// What `-j` says.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) enum Target {
    /// Nothing: the rule only counts.
    #[default]
    None,
    Accept,
    Drop,
    Return,
    Reject(RejectKind),
    /// `SNAT`, `MASQUERADE`, `DNAT`, `REDIRECT`, `NETMAP`, and what only a listing needs to know of them.
    Nat(Translation, Spoken),
    /// `NOTRACK`: as `CT --notrack`.
    NoTrack,
    Ct(Ct),
    Jump(String),
}

/// Options that change nothing here and are printed back: Postern always chooses an address by the client alone, and a port
/// as unpredictably as it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Spoken {
    /// `--random`
    pub(crate) random: bool,
    /// `--random-fully`
    pub(crate) random_fully: bool,
    /// `--persistent`
    pub(crate) persistent: bool,
}

/// What the workers counted: by rule, and for the base chains' policies.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Counts {
    pub(crate) rules: HashMap<RuleId, Count>,
    pub(crate) policies: [[Count; Hook::COUNT]; 2],
}

impl Counts {
    /// Adds what another policy counted: while a new policy is being taken over, both count.
    pub fn add(&mut self, other: &Self) {
        for (&id, &count) in &other.rules {
            let sum = self.rules.entry(id).or_default();
            *sum = sum.plus(count);
        }
        for family in 0..2 {
            for hook in 0..Hook::COUNT {
                let sum = &mut self.policies[family][hook];
                *sum = sum.plus(other.policies[family][hook]);
            }
        }
    }

    pub(crate) fn of(&self, id: RuleId) -> Count {
        self.rules.get(&id).copied().unwrap_or_default()
    }
}

impl Rulesets {
    /// Empty chains, policies ACCEPT: what Linux starts with. See [`builtin`](crate::builtin) for what Postern starts with.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says which timeout policies there are. Each keeps its number while it lives; where it can be helped none gets that of
    /// one that is gone, whose connections may live on. Of more than [`TimeoutPolicyId::MAX`] the last are left out.
    pub fn set_timeout_policies(&mut self, names: &[&str]) {
        let timeouts = &mut self.timeouts;
        for known in &mut *timeouts {
            known.lives = names.contains(&known.name.as_str());
        }
        for name in names {
            if timeouts.iter().any(|known| known.name == *name) {
                continue;
            }
            let named = Named { name: (*name).to_owned(), lives: true };
            if timeouts.len() < TimeoutPolicyId::MAX {
                timeouts.push(named);
            } else if let Some(gone) = timeouts.iter_mut().find(|known| !known.lives) {
                *gone = named;
            }
        }
    }

    /// Whether every timeout policy that a rule names is there.
    ///
    /// # Errors
    /// If one is not: its name.
    pub fn check_timeout_policies(&self) -> Result<(), Error> {
        let tables = self.families.iter().flat_map(|family| &family.tables);
        let chains = tables.flat_map(Table::chains).flat_map(|(_, chain)| &chain.rules);
        for rule in chains {
            if let Target::Ct(ct) = &rule.spec.target
                && let Some(name) = ct.timeout()
                && self.timeout_policy(name).is_none()
            {
                let message = format!("a rule names the timeout policy `{}'", visible(name));
                return Err(Error::refused(message).hint("take the rule out first"));
            }
        }
        Ok(())
    }

    /// The names of the timeout policies from number 1 on; `None` in the place of one that is gone.
    pub fn timeout_policies(&self) -> impl Iterator<Item = Option<&str>> {
        self.timeouts.iter().map(|known| known.lives.then_some(known.name.as_str()))
    }

    /// The number of the timeout policy of that name.
    pub fn timeout_policy(&self, name: &str) -> Option<TimeoutPolicyId> {
        let place = self.timeout_policies().position(|known| known == Some(name))?;
        Some(TimeoutPolicyId(place as u8 + 1)) // there are few
    }

    /// The ruleset of a family.
    pub fn family(&self, family: Family) -> &Ruleset {
        &self.families[family.index()]
    }

    pub(crate) fn next_id(&mut self) -> RuleId {
        self.last_id.0 += 1;
        self.last_id
    }

    /// Takes over what a policy counted in its life: call it once, when the last worker has left the policy. From then on the
    /// policy's counts must not be part of the live counts any more.
    pub fn settle(&mut self, counts: &Counts) {
        for family in Family::ALL {
            for table in &mut self.families[family.index()].tables {
                for (hook, chain) in table.base_mut() {
                    let count = counts.policies[family.index()][hook.index()];
                    chain.base = chain.base.plus(count);
                }
                for rule in table.chains_mut().flat_map(|chain| &mut chain.rules) {
                    rule.base = rule.base.plus(counts.of(rule.id));
                }
            }
        }
    }
}

impl Ruleset {
    /// Every chain of a table with its name: the base chains as the kernel orders them, then the user chains by name.
    pub fn chains(&self, table: TableId) -> impl Iterator<Item = (&str, &Chain)> {
        self.table(table).chains()
    }

    /// The chain of that name.
    pub fn chain(&self, table: TableId, name: &str) -> Option<&Chain> {
        self.table(table).chain(name)
    }

    pub(crate) fn table(&self, id: TableId) -> &Table {
        &self.tables[id.index()]
    }

    pub(crate) fn table_mut(&mut self, id: TableId) -> &mut Table {
        &mut self.tables[id.index()]
    }
}

impl Table {
    pub(crate) fn new(id: TableId) -> Self {
        let base = vec![Chain::default(); id.hooks().len()];
        Self { id, present: id == TableId::Filter, base, user: BTreeMap::new() }
    }

    /// The hook whose base chain has this name.
    pub(crate) fn hook_of(&self, name: &str) -> Option<Hook> {
        hook_of(self.id, name)
    }

    /// The base chain of one of the table's hooks.
    pub(crate) fn base_chain(&self, hook: Hook) -> Option<&Chain> {
        let place = self.id.hooks().iter().position(|&own| own == hook)?;
        self.base.get(place)
    }

    /// The base chains with their hooks.
    pub(crate) fn base_mut(&mut self) -> impl Iterator<Item = (Hook, &mut Chain)> {
        self.id.hooks().iter().copied().zip(&mut self.base)
    }

    pub(crate) fn chains(&self) -> impl Iterator<Item = (&str, &Chain)> {
        let base = self.id.hooks().iter().map(|hook| hook.chain_name()).zip(&self.base);
        base.chain(self.user.iter().map(|(name, chain)| (name.as_str(), chain)))
    }

    pub(crate) fn chains_mut(&mut self) -> impl Iterator<Item = &mut Chain> {
        self.base.iter_mut().chain(self.user.values_mut())
    }

    pub(crate) fn chain(&self, name: &str) -> Option<&Chain> {
        match self.hook_of(name) {
            Some(hook) => self.base_chain(hook),
            None => self.user.get(name),
        }
    }

    pub(crate) fn chain_mut(&mut self, name: &str) -> Option<&mut Chain> {
        match self.hook_of(name) {
            Some(wanted) => {
                self.base_mut().find(|&(hook, _)| hook == wanted).map(|(_, chain)| chain)
            }
            None => self.user.get_mut(name),
        }
    }

    /// How many rules jump to a chain.
    pub(crate) fn references(&self, name: &str) -> usize {
        let rules = self.chains().flat_map(|(_, chain)| &chain.rules);
        rules.filter(|rule| matches!(&rule.spec.target, Target::Jump(to) if to == name)).count()
    }
}

impl Chain {
    /// Its rules, first to last.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Its policy; meaningless for user chains.
    pub fn policy(&self) -> ChainPolicy {
        self.policy
    }
}

impl Rule {
    /// Its id.
    pub fn id(&self) -> RuleId {
        self.id
    }

    /// What it says.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// What it counted, given what is counted live.
    pub fn count(&self, live: &Counts) -> Count {
        self.base.plus(live.of(self.id))
    }

    pub(crate) fn jumps_to_reserved(&self) -> bool {
        matches!(&self.spec.target, Target::Jump(to) if is_reserved(to))
    }
}

/// The hook of a table whose base chain has this name.
pub(crate) fn hook_of(table: TableId, name: &str) -> Option<Hook> {
    table.hooks().iter().copied().find(|hook| hook.chain_name() == name)
}

/// Whether a chain belongs to the daemon.
pub(crate) fn is_reserved(chain: &str) -> bool {
    chain.starts_with(RESERVED_PREFIX)
}

/// The word for a policy.
pub(crate) fn policy_name(policy: ChainPolicy) -> &'static str {
    match policy {
        ChainPolicy::Accept => "ACCEPT",
        ChainPolicy::Drop => "DROP",
    }
}
