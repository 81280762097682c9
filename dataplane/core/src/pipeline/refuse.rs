//! Turning a packet away, with an answer to its sender where one is due.

use super::{Context, Desk};
use crate::burst::{Origin, Packet};
use crate::headers::{Headers, Kind};
use crate::parse;
use crate::reply::{self, IcmpErrorKind};
use crate::rules::RejectKind;
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

/// Carries a refusal out. The packet must not have been rewritten yet: the answer quotes it.
#[cold]
pub(super) fn refuse(
    refusal: Refusal,
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
    if answer_in_place(answer, packet, desk, context).is_none() {
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
