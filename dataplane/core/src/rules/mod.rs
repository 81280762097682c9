//! The rules: what a rule may look at, what it may say, and how a packet is judged.
//!
//! Semantics are netfilter's: tables with base chains, a policy each, user chains, first match,
//! jump and return. Control writes a [`model::Tables`] and compiles it into a [`Policy`]; a policy is
//! immutable, shared by all workers inside the snapshot and replaced as a whole.
//!
//! A packet is judged once by a walk ([`Policy::judge`]). What the walk found is interned as a *path*
//! (the verdict and every rule that matched on the way) and the connection keeps the path's id; its
//! later packets only add to the path's counters ([`Policy::cached`]). Readers spread the
//! paths' counters over the rules ([`Policy::counters`]), so every rule's count is exact. That is how the `filter`
//! table is asked; `raw` and `nat` are walked each time they are asked ([`Policy::consult`]).
//!
//! * [`model`]: the input, plain data that control produces.
//! * `compile`: model to policy, all that can be wrong with a model found here.
//! * `condition`: one compiled rule against one packet.
//! * `policy`: the walk, and the counting.
//! * `translation`: what a rule of `nat` may ask for; `assignment`: what one of `raw` may.
//! * `paths`: the interned paths of one worker.
//!
//! Owner: control builds it, workers share it. Allocates: when compiled, never afterwards.

mod assignment;
mod compile;
mod condition;
mod lines;
pub mod model;
mod paths;
mod policy;
#[cfg(test)]
mod tests;
pub(crate) mod translation;

pub use assignment::{Assignment, Zoned};
pub use compile::{CompileError, Fault};
pub use paths::{AcceptedPath, PATHS_MAX};
pub use policy::{Paths, Policy, PolicyCounts};
pub use translation::{Addresses, Blocks, Independence, Ports, Translation};

use crate::conntrack::ctstate::CtStates;
use crate::conntrack::tuple::Tuple;
use crate::units::{INTERFACES_MAX, InterfaceId};
use crate::verdict::DropReason;

/// Most jumps that may lie between a base chain and a rule, as in nf_tables (`NFT_JUMP_STACK_SIZE`).
pub const JUMPS_MAX: usize = 16;
/// Most rules one packet may be compared with on its longest way through the chains.
pub const STEPS_MAX: u64 = 1 << 20;

/// Address family of a table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Family {
    /// IPv4: what `iptables` edits.
    V4 = 0,
    /// IPv6: what `ip6tables` edits.
    V6 = 1,
}

impl Family {
    /// Both, in index order.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family as an array index.
    #[inline]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The family of a tuple.
    #[inline]
    pub const fn of(tuple: &Tuple) -> Self {
        match tuple {
            Tuple::V4(_) => Self::V4,
            Tuple::V6(_) => Self::V6,
        }
    }
}

/// A table: rules of one purpose, with a base chain for each hook they are asked at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum TableId {
    /// What is not tracked: asked about every packet, before the table of connections is.
    Raw = 0,
    /// What may pass: asked about every packet, the answer cached with its connection.
    Filter = 1,
    /// How connections are translated: asked about first packets only.
    Nat = 2,
}

impl TableId {
    /// All tables, in the order in which `iptables-save` prints them.
    pub const ALL: [Self; 3] = [Self::Raw, Self::Filter, Self::Nat];

    /// The table as an array index.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Its name, as `-t` has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }

    /// The hooks it has base chains for, in the order in which they are printed.
    pub const fn hooks(self) -> &'static [Hook] {
        match self {
            Self::Raw => &[Hook::RawPrerouting, Hook::RawOutput],
            Self::Filter => &Hook::FILTER,
            Self::Nat => {
                &[Hook::NatPrerouting, Hook::NatInput, Hook::NatOutput, Hook::NatPostrouting]
            }
        }
    }
}

/// Where in its walk a packet meets rules, and those of which table; each has its base chain.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Hook {
    /// `filter`: to the appliance itself.
    Input = 0,
    /// `filter`: through the appliance.
    Forward = 1,
    /// `filter`: from the appliance itself.
    Output = 2,
    /// `raw`: off the wire, before anything is known of its connection.
    RawPrerouting = 3,
    /// `raw`: from the appliance itself, before anything is known of its connection.
    RawOutput = 4,
    /// `nat`: off the wire, before it is routed. The destination may be translated.
    NatPrerouting = 5,
    /// `nat`: to the appliance itself, after the filter. The source may be translated.
    NatInput = 6,
    /// `nat`: from the appliance itself.
    NatOutput = 7,
    /// `nat`: on the way out, after the filter. The source may be translated.
    NatPostrouting = 8,
}

impl Hook {
    /// Those of the filter table, in index order.
    pub const FILTER: [Self; 3] = [Self::Input, Self::Forward, Self::Output];

    /// All hooks, in index order.
    pub const ALL: [Self; 9] = [
        Self::Input,
        Self::Forward,
        Self::Output,
        Self::RawPrerouting,
        Self::RawOutput,
        Self::NatPrerouting,
        Self::NatInput,
        Self::NatOutput,
        Self::NatPostrouting,
    ];

    /// Number of hooks.
    pub const COUNT: usize = Self::ALL.len();

    /// The hook as an array index.
    #[inline]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The table whose rules are asked here.
    pub const fn table(self) -> TableId {
        match self {
            Self::Input | Self::Forward | Self::Output => TableId::Filter,
            Self::RawPrerouting | Self::RawOutput => TableId::Raw,
            Self::NatPrerouting | Self::NatInput | Self::NatOutput | Self::NatPostrouting => {
                TableId::Nat
            }
        }
    }

    /// Name of its base chain.
    pub const fn chain_name(self) -> &'static str {
        match self {
            Self::Input | Self::NatInput => "INPUT",
            Self::Forward => "FORWARD",
            Self::Output | Self::RawOutput | Self::NatOutput => "OUTPUT",
            Self::RawPrerouting | Self::NatPrerouting => "PREROUTING",
            Self::NatPostrouting => "POSTROUTING",
        }
    }
}

/// Some of the hooks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct HookSet(u16);

const _: () = assert!(Hook::COUNT <= u16::BITS as usize);

impl HookSet {
    /// These hooks.
    pub const fn of(hooks: &[Hook]) -> Self {
        let (mut bits, mut place) = (0, 0);
        while place < hooks.len() {
            bits |= 1 << hooks[place] as u8;
            place += 1;
        }
        Self(bits)
    }

    /// Whether `hook` is one of them.
    #[inline]
    pub const fn contains(self, hook: Hook) -> bool {
        self.0 >> hook as u8 & 1 != 0
    }

    /// Whether the two sets share a hook.
    #[inline]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// A set of interfaces. "No interface" ([`InterfaceId::NONE`]) can be a member too: a negated match
/// (`! -i wan`) holds for packets without an ingress interface, as in netfilter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct InterfaceSet(u64);

const _: () = assert!(INTERFACES_MAX < 64, "bit 63 stands for no interface");

impl InterfaceSet {
    /// No member.
    pub const EMPTY: Self = Self(0);
    /// Every interface, and no interface.
    pub const ALL: Self = Self(u64::MAX);

    #[inline]
    const fn bit(id: InterfaceId) -> u64 {
        if id.index() < INTERFACES_MAX { 1 << id.index() } else { 1 << 63 }
    }

    /// The same set and `id`.
    #[must_use]
    pub const fn with(self, id: InterfaceId) -> Self {
        Self(self.0 | Self::bit(id))
    }

    /// All that is not in the set.
    #[must_use]
    pub const fn complement(self) -> Self {
        Self(!self.0)
    }

    /// What both sets have.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether `id` is a member.
    #[inline]
    pub const fn contains(self, id: InterfaceId) -> bool {
        self.0 & Self::bit(id) != 0
    }
}

/// What a rule may look at: a packet as netfilter's filter table sees it at the hook, that is after
/// destination NAT and before source NAT.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The packet's own addresses and ports at this hook. For an ICMP error these are the addresses of
    /// the error, not of the packet it quotes.
    pub tuple: &'a Tuple,
    /// The packet's own transport protocol.
    pub protocol: u8,
    /// ICMP or ICMPv6 type; zero for other protocols.
    pub icmp_type: u8,
    /// ICMP or ICMPv6 code; zero for other protocols.
    pub icmp_code: u8,
    /// Whether the packet belongs to an ICMP query's connection ([`Kind::IcmpQuery`](crate::headers::Kind)),
    /// so that its type is the same for every packet of the direction. False for ICMP errors.
    pub icmp_query: bool,
    /// TCP flags; zero for other protocols.
    pub tcp_flags: u8,
    /// Where it came in, or `NONE`.
    pub ingress: InterfaceId,
    /// Where it goes out, or `NONE`.
    pub egress: InterfaceId,
    /// One conntrack state, with SNAT and DNAT if they hold.
    pub states: CtStates,
    /// Length of the IP packet, bytes: what the rules count.
    pub packet_len: u32,
}

/// What is sent back when a packet is rejected. The words are those of `--reject-with`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum RejectKind {
    /// `tcp-reset`, both families.
    TcpReset,
    /// `icmp-port-unreachable` and `icmp6-port-unreachable`: the default.
    PortUnreachable,
    /// `icmp-net-unreachable`.
    NetUnreachable,
    /// `icmp-host-unreachable`.
    HostUnreachable,
    /// `icmp-proto-unreachable`.
    ProtocolUnreachable,
    /// `icmp-net-prohibited`.
    NetProhibited,
    /// `icmp-host-prohibited`.
    HostProhibited,
    /// `icmp-admin-prohibited` and `icmp6-adm-prohibited`.
    AdminProhibited,
    /// `icmp6-no-route`.
    NoRoute,
    /// `icmp6-addr-unreachable`.
    AddressUnreachable,
    /// `icmp6-policy-fail`.
    PolicyFail,
    /// `icmp6-reject-route`.
    RejectRoute,
}

impl RejectKind {
    /// All kinds, in index order.
    pub const ALL: [Self; 12] = [
        Self::TcpReset,
        Self::PortUnreachable,
        Self::NetUnreachable,
        Self::HostUnreachable,
        Self::ProtocolUnreachable,
        Self::NetProhibited,
        Self::HostProhibited,
        Self::AdminProhibited,
        Self::NoRoute,
        Self::AddressUnreachable,
        Self::PolicyFail,
        Self::RejectRoute,
    ];

    /// Type and code of the ICMP error to send (RFC 792, RFC 1812 §5.2.7.1; RFC 4443 §3.1);
    /// `None` for a TCP reset and for a kind that the family does not have.
    pub const fn icmp(self, family: Family) -> Option<(u8, u8)> {
        match (family, self) {
            (Family::V4, Self::NetUnreachable) => Some((3, 0)),
            (Family::V4, Self::HostUnreachable) => Some((3, 1)),
            (Family::V4, Self::ProtocolUnreachable) => Some((3, 2)),
            (Family::V4, Self::PortUnreachable) => Some((3, 3)),
            (Family::V4, Self::NetProhibited) => Some((3, 9)),
            (Family::V4, Self::HostProhibited) => Some((3, 10)),
            (Family::V4, Self::AdminProhibited) => Some((3, 13)),
            (Family::V6, Self::NoRoute) => Some((1, 0)),
            (Family::V6, Self::AdminProhibited) => Some((1, 1)),
            (Family::V6, Self::AddressUnreachable) => Some((1, 3)),
            (Family::V6, Self::PortUnreachable) => Some((1, 4)),
            (Family::V6, Self::PolicyFail) => Some((1, 5)),
            (Family::V6, Self::RejectRoute) => Some((1, 6)),
            _ => None,
        }
    }
}

/// What the rules of `raw` or `nat` say about a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Nothing: it came to the end of the base chain, whose policy is ACCEPT.
    Nothing,
    /// Let it go on as it is.
    Accept,
    /// Drop it; by a rule, or by the chain's policy.
    Drop(DecidedBy),
    /// Translate its connection.
    Translate(Translation),
}

/// What the rules of `raw` say about a packet's connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Tracking {
    /// Nothing.
    #[default]
    Unsaid,
    /// It has none: it is not tracked.
    Untracked,
    /// It gets this.
    Assigned(Assignment),
}

impl Tracking {
    /// Says this, unless something was said.
    pub(crate) fn settle(&mut self, said: Self) {
        if *self == Self::Unsaid {
            *self = said;
        }
    }
}

/// What the filter rules say about a packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// Let it go on.
    Accept,
    /// Drop it without a word.
    Drop,
    /// Drop it and tell the sender.
    Reject(RejectKind),
}

/// A rule of a [`Policy`]. Rules are numbered in model order: IPv4 before IPv6; within a family the base chains in
/// the order of [`Hook::ALL`], then the user chains of all tables in theirs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct RuleIdx(pub u32);

impl RuleIdx {
    /// The rule as an array index.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Who spoke the last word.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DecidedBy {
    /// A rule.
    Rule(RuleIdx),
    /// The policy of a base chain.
    ChainPolicy(Family, Hook),
}

/// An interned path of one worker under one policy; meaningless with another worker or policy.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct PathId(pub u16);

impl PathId {
    /// No path: the next packet must be judged again.
    pub const UNCACHED: Self = Self(0);
}

/// How a packet was judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Judgement {
    /// What becomes of the packet.
    pub action: Action,
    /// Which rule or policy decided.
    pub by: DecidedBy,
    /// What to remember for the later packets of this direction and state.
    pub path: PathId,
}

impl Judgement {
    /// The reason to drop the packet for, unless it was accepted.
    #[inline]
    pub const fn drop_reason(&self) -> Option<DropReason> {
        match (self.action, self.by) {
            (Action::Accept, _) => None,
            (Action::Drop, DecidedBy::Rule(_)) => Some(DropReason::DeniedByRule),
            (Action::Drop, DecidedBy::ChainPolicy(..)) => Some(DropReason::DeniedByPolicy),
            (Action::Reject(_), _) => Some(DropReason::RejectedByRule),
        }
    }
}

/// Packets and bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes of those packets, IP header included.
    pub bytes: u64,
}

impl Count {
    /// Both sums, modulo 2^64.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            packets: self.packets.wrapping_add(other.packets),
            bytes: self.bytes.wrapping_add(other.bytes),
        }
    }

    /// Both differences, modulo 2^64.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self {
            packets: self.packets.wrapping_sub(other.packets),
            bytes: self.bytes.wrapping_sub(other.bytes),
        }
    }
}
