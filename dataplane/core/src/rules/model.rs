//! Rules as plain data: what control writes and [`Policy::compile`](super::Policy::compile) reads.
//!
//! Names, comments and counters stay with control. Whatever depends on names (interface wildcards,
//! host names, services) is resolved before.

use alloc::vec::Vec;
use core::net::IpAddr;

use super::{Assignment, Hook, HookSet, InterfaceSet, RejectKind, TableId, Translation};
use crate::conntrack::ctstate::CtStates;
use crate::limits::Of;

/// The tables of both families, indexed by [`Family`](super::Family).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tables(pub [FamilyTables; 2]);

/// One family's tables.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FamilyTables {
    /// The base chains, indexed by [`Hook`].
    pub base: [BaseChain; Hook::COUNT],
    /// The user chains of all tables; [`Target::Jump`] names one by its place here.
    pub chains: Vec<Vec<Rule>>,
}

/// A chain that packets enter at a hook.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BaseChain {
    /// What becomes of packets that no rule decided.
    pub policy: ChainPolicy,
    /// The rules, first to last.
    pub rules: Vec<Rule>,
}

/// Policy of a base chain.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum ChainPolicy {
    /// Accept.
    #[default]
    Accept,
    /// Drop.
    Drop,
}

/// A rule: all its conditions must hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// The conditions, in any order.
    pub conditions: Vec<Condition>,
    /// What to do then.
    pub target: Target,
}

impl Rule {
    /// Whether it counts the connections that come as far as one of its conditions.
    pub fn is_counting(&self) -> bool {
        self.conditions.iter().any(|c| matches!(c.test, Test::Connections { .. }))
    }
}

/// What a matching rule does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Target {
    /// Nothing but count: go on with the next rule.
    Continue,
    /// Accept.
    Accept,
    /// Drop.
    Drop,
    /// Reject; `filter` only.
    Reject(RejectKind),
    /// Translate the connection; `nat` only, at the [hooks](Translation::hooks) it has.
    Translate(Translation),
    /// Do not track the packet, and go on with the next rule; `raw` only.
    NoTrack,
    /// Give the packet's connection a zone, a helper, timeouts, unless an earlier rule spoke of any of this or of not tracking
    /// it; and go on with the next rule; `raw` only.
    Assign(Assignment),
    /// Back to the calling chain; in a base chain: to its policy.
    Return,
    /// Into a user chain, and back behind this rule.
    Jump(usize),
    /// Into a user chain; at its end back to where this chain would have returned to.
    Goto(usize),
}

impl Target {
    /// The hooks at which a rule may say so.
    pub const fn hooks(&self) -> HookSet {
        match self {
            Self::Continue | Self::Accept | Self::Return | Self::Jump(_) | Self::Goto(_) => {
                HookSet::of(&Hook::ALL)
            }
            Self::Drop => HookSet::of(&[
                Hook::Input,
                Hook::Forward,
                Hook::Output,
                Hook::RawPrerouting,
                Hook::RawOutput,
            ]),
            Self::Reject(_) => HookSet::of(&Hook::FILTER),
            Self::NoTrack | Self::Assign(_) => HookSet::of(TableId::Raw.hooks()),
            Self::Translate(translation) => translation.hooks(),
        }
    }
}

/// One condition, possibly negated (`!`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Condition {
    /// Whether it must not hold.
    pub negated: bool,
    /// What is compared.
    pub test: Test,
}

impl From<Test> for Condition {
    fn from(test: Test) -> Self {
        Self { negated: false, test }
    }
}

/// What a condition compares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Test {
    /// Ingress interface.
    Ingress(InterfaceSet),
    /// Egress interface.
    Egress(InterfaceSet),
    /// Source address.
    Source(Network),
    /// Destination address.
    Destination(Network),
    /// Transport protocol.
    Protocol(u8),
    /// Ports, of a protocol that has them and that the rule names: TCP, UDP, UDP-Lite, SCTP, DCCP.
    Ports {
        /// Which of the packet's ports.
        side: Side,
        /// First and last port of each range; at most [`RANGES_MAX`].
        ranges: Vec<(u16, u16)>,
    },
    /// Conntrack state: the packet's states intersect these.
    States(CtStates),
    /// ICMP type and code (ICMPv6 in the IPv6 table); the rule names the protocol.
    Icmp {
        /// The type; `None` is any type.
        kind: Option<u8>,
        /// First and last code.
        codes: (u8, u8),
    },
    /// TCP flags: of those in `mask`, exactly those in `set` are set; the rule names the protocol.
    TcpFlags {
        /// Flags to look at.
        mask: u8,
        /// Flags that must be set.
        set: u8,
    },
    /// The packet's address, or all that agree with it in the bits of a mask, have more connections than `above`, the
    /// packet's own included (xt_connlimit); `filter` only. Conditions that stand before it decide which connections count.
    Connections {
        /// Which address.
        of: Of,
        /// The mask, of the family.
        mask: IpAddr,
        /// How many are too few.
        above: u32,
    },
}

/// Most ranges of one port condition (`-m multiport` takes fifteen ports, a range counting as two).
pub const RANGES_MAX: usize = 15;

/// Which of a packet's ports.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Side {
    /// The source port.
    Source,
    /// The destination port.
    Destination,
    /// Either of them.
    Either,
}

/// Addresses that agree with `address` in the bits of `mask`. The mask may have holes, as netfilter allows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Network {
    /// The address.
    pub address: IpAddr,
    /// The mask, of the same family.
    pub mask: IpAddr,
}

/// Names a chain of one family.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ChainRef {
    /// A base chain.
    Base(Hook),
    /// A user chain, by its place in [`FamilyTables::chains`].
    User(usize),
}

impl FamilyTables {
    /// Every chain with its rules, in the order that numbers the rules ([`RuleIdx`](super::RuleIdx)).
    pub fn chains(&self) -> impl Iterator<Item = (ChainRef, &[Rule])> {
        let base = Hook::ALL
            .into_iter()
            .map(|hook| (ChainRef::Base(hook), self.base[hook.index()].rules.as_slice()));
        let user = self
            .chains
            .iter()
            .enumerate()
            .map(|(place, rules)| (ChainRef::User(place), rules.as_slice()));
        base.chain(user)
    }
}
