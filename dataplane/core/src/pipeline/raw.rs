//! The `raw` table: asked about every packet before its connection is looked for. While it says nothing no packet comes
//! here; while it has rules, none takes the [lane](super::lane).

use super::{Context, Desk, leg, ruled, stray};
use crate::burst::{Origin, Packet, Seen};
use crate::conntrack::ctstate::{CtState, CtStates};
use crate::conntrack::tuple::protocol;
use crate::headers::Kind;
use crate::rules::{Answer, Assignment, Family, Hook, HookSet, Policy, TableId, Tracking};
use crate::units::InterfaceId;
use crate::verdict::{DropReason, Verdict};

/// Whether the table has any rules.
pub(super) fn is_asked(policy: &Policy) -> bool {
    const RAW: HookSet = HookSet::of(TableId::Raw.hooks());
    Family::ALL.into_iter().any(|family| policy.asks(family, RAW))
}

/// The whole walk of a packet that the table drops or does not track; `None` for all others, which have with them then what
/// the table says about their connection.
#[cold]
pub(super) fn pass(
    desk: &mut Desk,
    packet: &mut Packet<'_>,
    context: &Context<'_>,
) -> Option<Verdict> {
    let headers = packet.parsed?;
    let asked_before = packet.visit.visited != 0 || packet.visit.admit;
    if !asked_before {
        packet.visit.assigned = Assignment::default();
    }
    let unseen = match headers.kind {
        // Fragments are seen when their datagram is whole, by the first one.
        Kind::Arp | Kind::Fragment | Kind::Later => true,
        Kind::Untracked => headers.protocol == protocol::UDP, // DHCP
        _ => false,
    };
    if asked_before || unseen {
        return None;
    }
    let own = stray::own_headers(packet, &headers)?;
    let (hook, way) = match packet.origin {
        Origin::Wire => (Hook::RawPrerouting, [packet.interface, InterfaceId::NONE]),
        Origin::Host => (Hook::RawOutput, [InterfaceId::NONE, packet.interface]),
    };
    let policy = &context.snapshot.policy;
    if !policy.asks(Family::of(&own.tuple), HookSet::of(&[hook])) {
        return None;
    }
    // Nothing is known of a connection yet: Linux calls that INVALID too.
    let states = CtStates::of(CtState::Invalid);
    let subject = ruled::subject(packet, &own, &own.tuple, way, states);
    let mut tracking = Tracking::Unsaid;
    if let Answer::Drop(by) = policy.consult(context.me, hook, &subject, &mut tracking) {
        return Some(Verdict::Drop(leg::denied(by)));
    }
    match tracking {
        Tracking::Untracked if headers.kind != Kind::Untracked => {}
        Tracking::Assigned(assignment) => {
            packet.visit.assigned = assignment;
            return None;
        }
        _ => return None,
    }
    if matches!(packet.seen, Seen::Gathered(_)) {
        // Those behind it would find no connection to follow.
        return Some(Verdict::Drop(DropReason::FragmentUnsupported));
    }
    context.counters.untracked.add(1);
    Some(stray::not_tracked(desk, packet, &own, context))
}
