//! One compiled rule against one packet.
//!
//! A rule's head holds what nearly every rule looks at (interfaces, addresses, protocol); everything else is a range of
//! the policy's flat array of conditions, those that look at per-packet things last.

use super::model::Side;
use super::{Assignment, Family, InterfaceSet, RejectKind, Subject, Tracking};
use crate::conntrack::ctstate::{CtState, CtStates};
use crate::conntrack::tuple::{Tuple, protocol};
use crate::limits::{self, Account, Ledger};

/// What a compiled rule does; chains by their place among all chains of the policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Continue,
    Accept,
    Drop,
    Reject(RejectKind),
    /// The translation at this place.
    Translate(u32),
    NoTrack,
    Assign(Assignment),
    Return,
    Jump(u32),
    Goto(u32),
}

/// Address and mask; an IPv4 address stands in the low 32 bits. A zero mask matches everything.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Masked {
    pub(super) address: u128,
    pub(super) mask: u128,
    pub(super) negated: bool,
}

impl Masked {
    #[inline]
    fn holds(&self, address: u128) -> bool {
        (address & self.mask == self.address) != self.negated
    }
}

/// A compiled rule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    pub(super) ingress: InterfaceSet,
    pub(super) egress: InterfaceSet,
    /// Whether it says anything about addresses: most rules do not.
    pub(super) has_networks: bool,
    pub(super) source: Masked,
    pub(super) destination: Masked,
    /// The protocol, if it matters, and whether it must be another one.
    pub(super) protocol: Option<(u8, bool)>,
    pub(super) step: Step,
    /// Its conditions: first and one past the last.
    pub(super) conditions: (u32, u32),
}

/// A compiled condition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Condition {
    pub(super) negated: bool,
    pub(super) test: Test,
}

/// What a compiled condition compares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Test {
    /// One range, the usual case.
    Port {
        side: Side,
        first: u16,
        last: u16,
    },
    /// Several: a range of the policy's flat array.
    Ports {
        side: Side,
        start: u32,
        len: u8,
    },
    States(CtStates),
    Icmp {
        kind: Option<u8>,
        codes: (u8, u8),
    },
    TcpFlags {
        mask: u8,
        set: u8,
    },
    /// More connections than so many, under the limit at this place of the ledger.
    Connections {
        limit: u8,
        above: u32,
    },
}

impl Test {
    /// Whether any packet may find another answer than the last one of its connection, direction and state did.
    /// Such conditions come last in their rule, so that they are not looked at without need.
    pub(super) const fn is_per_packet(&self) -> bool {
        matches!(self, Self::TcpFlags { .. } | Self::Icmp { .. } | Self::Connections { .. })
    }

    /// Whether it takes note of the packets that come as far as this: then it stays where it was written.
    pub(super) const fn is_counting(&self) -> bool {
        matches!(self, Self::Connections { .. })
    }

    /// Whether the answer for this packet may differ from that for the next one of its connection, direction and state.
    #[inline]
    fn varies(&self, packet: &Packet<'_>) -> bool {
        match self {
            Self::Port { .. } | Self::Ports { .. } => false,
            // A first packet is judged before its source is translated, the second one after.
            Self::States(states) => {
                states.intersects(CtStates::SNAT) && packet.subject.states.intersects(BEGINNING)
            }
            // The tuple of a query holds its type, but not its code.
            Self::Icmp { codes, .. } => !packet.subject.icmp_query || *codes != (0, u8::MAX),
            Self::TcpFlags { .. } | Self::Connections { .. } => true,
        }
    }
}

/// States that the first packet of a connection can have.
const BEGINNING: CtStates = CtStates::of(CtState::New).union(CtStates::of(CtState::Related));
/// States whose packets have a connection to remember a path.
const CONNECTED: CtStates = BEGINNING.union(CtStates::of(CtState::Established));

/// A subject made ready for many comparisons.
pub(super) struct Packet<'a> {
    pub(super) subject: &'a Subject<'a>,
    pub(super) family: Family,
    source: u128,
    destination: u128,
}

impl<'a> Packet<'a> {
    #[inline]
    pub(super) fn new(subject: &'a Subject<'a>) -> Self {
        let (source, destination) = match subject.tuple {
            Tuple::V4(tuple) => (
                u128::from(u32::from_be_bytes(tuple.src)),
                u128::from(u32::from_be_bytes(tuple.dst)),
            ),
            Tuple::V6(tuple) => (u128::from_be_bytes(tuple.src), u128::from_be_bytes(tuple.dst)),
        };
        Self { subject, family: Family::of(subject.tuple), source, destination }
    }

    /// Whether the packet's connection may remember how it was judged. ICMP errors come from anywhere, so the next one about the
    /// same connection is another matter.
    #[inline]
    pub(super) fn may_be_remembered(&self) -> bool {
        let subject = self.subject;
        let is_icmp = matches!(subject.protocol, protocol::ICMP | protocol::ICMPV6);
        subject.states.intersects(CONNECTED) && (!is_icmp || subject.icmp_query)
    }
}

/// The flat arrays that rules point into.
pub(super) struct Pools<'a> {
    pub(super) conditions: &'a [Condition],
    pub(super) ranges: &'a [(u16, u16)],
    pub(super) ledger: Option<&'a Ledger>,
}

/// What a walk finds out besides how it ends.
#[derive(Default)]
pub(super) struct Findings<'a, 'l> {
    /// Something was looked at that the next packet of the same connection, direction and state may answer otherwise.
    pub(super) varies: bool,
    /// What rules of `raw` said about the packet's connection.
    pub(super) tracking: Tracking,
    /// What the packet's connection is counted under, if it has one and anything is counted.
    pub(super) account: Option<&'a mut Account<'l>>,
}

impl Rule {
    /// Whether the rule matches.
    #[inline]
    pub(super) fn matches(
        &self,
        packet: &Packet<'_>,
        pools: &Pools<'_>,
        findings: &mut Findings<'_, '_>,
    ) -> bool {
        let subject = packet.subject;
        let head = self.ingress.contains(subject.ingress)
            && self.egress.contains(subject.egress)
            && self.protocol.is_none_or(|(number, not)| (number == subject.protocol) != not)
            && (!self.has_networks
                || self.source.holds(packet.source) && self.destination.holds(packet.destination));
        if !head {
            return false;
        }
        let (start, end) = (self.conditions.0 as usize, self.conditions.1 as usize);
        for condition in pools.conditions.get(start..end).unwrap_or_default() {
            findings.varies |= condition.test.varies(packet);
            if condition.test.holds(packet, pools, findings) == condition.negated {
                return false;
            }
        }
        true
    }
}

impl Test {
    #[inline]
    fn holds(
        &self,
        packet: &Packet<'_>,
        pools: &Pools<'_>,
        findings: &mut Findings<'_, '_>,
    ) -> bool {
        let subject = packet.subject;
        match *self {
            Self::Port { side, first, last } => {
                any_port(subject, side, |port| (first..=last).contains(&port))
            }
            Self::Ports { side, start, len } => {
                let start = start as usize;
                let ranges = pools.ranges.get(start..start + usize::from(len)).unwrap_or_default();
                any_port(subject, side, |port| ranges.iter().any(|r| (r.0..=r.1).contains(&port)))
            }
            Self::States(states) => states.intersects(subject.states),
            Self::Icmp { kind, codes } => {
                kind.is_none_or(|kind| kind == subject.icmp_type)
                    && (codes.0..=codes.1).contains(&subject.icmp_code)
            }
            Self::TcpFlags { mask, set } => subject.tcp_flags & mask == set,
            Self::Connections { limit, above } => {
                connections(limit.into(), subject, pools, findings) > above
            }
        }
    }
}

/// How many connections the packet's address has under a limit, its own one included.
#[cold]
fn connections(
    limit: usize,
    subject: &Subject<'_>,
    pools: &Pools<'_>,
    findings: &mut Findings<'_, '_>,
) -> u32 {
    match (&mut findings.account, pools.ledger) {
        (Some(account), _) => account.count(limit),
        (None, Some(ledger)) => limits::count_for_stray(ledger, limit, subject.tuple),
        (None, None) => 0, // compile sees to it that there is one
    }
}

#[inline]
fn any_port(subject: &Subject<'_>, side: Side, is_in: impl Fn(u16) -> bool) -> bool {
    match side {
        Side::Source => is_in(subject.tuple.src_id()),
        Side::Destination => is_in(subject.tuple.dst_id()),
        Side::Either => is_in(subject.tuple.src_id()) || is_in(subject.tuple.dst_id()),
    }
}
