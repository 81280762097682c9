//! Turning a packet away, with an answer to its sender where one is due. An answer is the appliance's own packet: it
//! leaves by OUTPUT, like any other, and is RELATED to the connection that the packet is of.

use super::{Context, Desk, stray};
use crate::burst::{Origin, Packet};
use crate::conntrack::ctstate::{CtState, CtStates};
use crate::headers::{Headers, Kind};
use crate::parse;
use crate::reply::{self, IcmpErrorKind};
use crate::rules::{Action, Answer as Said, Family, Hook, HookSet, RejectKind, Subject};
use crate::units::InterfaceId;
use crate::verdict::{DropReason, Verdict};

/// Why a packet goes no further, and what its sender is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    /// Nothing.
    Drop(DropReason),
    /// An ICMP error.
    Icmp(DropReason, IcmpErrorKind),
    /// What a REJECT rule asks for.
    Reject(DropReason, RejectKind),
}

/// Carries out the refusal of a packet that belongs to a connection, or would have begun one. It must not have been rewritten
/// yet: the answer quotes it.
#[cold]
pub(super) fn refuse(
    refusal: Refusal,
    packet: &mut Packet<'_>,
    desk: &mut Desk,
    context: &Context<'_>,
) -> Verdict {
    carry_out(refusal, CtState::Related, packet, desk, context)
}

/// The same for a packet that belongs to no connection: neither does the answer.
#[cold]
pub(super) fn refuse_stray(
    refusal: Refusal,
    packet: &mut Packet<'_>,
    desk: &mut Desk,
    context: &Context<'_>,
) -> Verdict {
    carry_out(refusal, CtState::Invalid, packet, desk, context)
}

fn carry_out(
    refusal: Refusal,
    answers_state: CtState,
    packet: &mut Packet<'_>,
    desk: &mut Desk,
    context: &Context<'_>,
) -> Verdict {
    let (reason, answer) = match refusal {
        Refusal::Drop(reason) => return Verdict::Drop(reason),
        Refusal::Icmp(reason, kind) => (reason, Answer::Icmp(kind)),
        Refusal::Reject(reason, RejectKind::TcpReset) => (reason, Answer::Reset),
        Refusal::Reject(reason, kind) => (reason, Answer::Icmp(IcmpErrorKind::Reject(kind))),
    };
    if answer_in_place(answer, packet, desk, context).is_none()
        || !may_leave(packet, answers_state, context)
    {
        return Verdict::Drop(reason);
    }
    context.counters.drop(reason);
    Verdict::Reply { egress: packet.interface, to_host: packet.origin == Origin::Host }
}

enum Answer {
    Icmp(IcmpErrorKind),
    Reset,
}

/// Writes the answer over the packet; `None` if none is due, allowed or possible.
fn answer_in_place(
    answer: Answer,
    packet: &mut Packet<'_>,
    desk: &mut Desk,
    context: &Context<'_>,
) -> Option<()> {
    let headers: Headers = packet.parsed?;
    // C147; RFC 1812 §4.3.2.7: about the first fragment only.
    if headers.kind == Kind::Later {
        return None;
    }
    let interface = context.interface(packet.interface)?;
    match answer {
        Answer::Reset => reply::tcp_reset(packet, &headers, interface.mac).ok(),
        Answer::Icmp(kind) => {
            // The error comes from our address on the sender's side (RFC 1812 §4.3.2.4).
            let (sender, _) = parse::addresses(packet.bytes(), &headers)?;
            let source = interface.address_towards(sender)?;
            let limits = desk.reply_limits.get_mut(packet.interface.index())?;
            let too_big = matches!(kind, IcmpErrorKind::PacketTooBig { .. });
            limits[usize::from(too_big)].take(context.now).then_some(())?;
            reply::icmp_error(packet, &headers, kind, source, interface.mac).ok()
        }
    }
}

/// Whether the rules let an answer out that stands in the packet now. One to the host itself never goes out.
fn may_leave(packet: &Packet<'_>, state: CtState, context: &Context<'_>) -> bool {
    if packet.origin == Origin::Host {
        return true;
    }
    let own = context
        .interface(packet.interface)
        .and_then(|egress| parse::parse(packet.bytes(), egress, Origin::Host, false).ok())
        .and_then(|headers| stray::own_headers(packet, &headers));
    let Some(own) = own else { return false };
    let subject = |state| Subject {
        tuple: &own.tuple,
        protocol: own.protocol,
        icmp_type: own.icmp_type,
        icmp_code: own.icmp_code,
        icmp_query: false,
        tcp_flags: own.tcp.flags,
        ingress: InterfaceId::NONE,
        egress: packet.interface,
        states: CtStates::of(state),
        packet_len: own.ip_len.into(),
    };
    let (policy, me) = (&context.snapshot.policy, context.me);
    let asks_raw = policy.asks(Family::of(&own.tuple), HookSet::of(&[Hook::RawOutput]));
    let refused = asks_raw
        && matches!(
            policy.consult(me, Hook::RawOutput, &subject(CtState::Invalid), &mut false),
            Said::Drop(_)
        );
    !refused && policy.judge(me, Hook::Output, &subject(state)).action == Action::Accept
}
