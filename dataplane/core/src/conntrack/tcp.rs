//! TCP connection state, as seen from the middle.
//!
//! Two questions: *is this segment expected?* (`tcp_machine.rs`, a table) and *is it believable?*
//! (`window.rs`). Both must say yes before the state moves. What is done about segments is Linux 6.18's
//! (`nf_conntrack_proto_tcp.c`), told in our own words; where we differ on purpose a comment begins
//! with `Differs:`. This file is the way in: [`first`] begins a connection, [`packet`] carries it on
//! and is the whole path of an ordinary segment; `tcp_step.rs` is the path of all others.
//!
//! Of the flags of an entry these set ASSURED and CLOSED and read SEEN_REPLY. **The caller sets
//! SEEN_REPLY**, after [`Outcome::Pass`] or [`Outcome::Ignore`] of a packet in reply direction, as
//! Linux does: this packet itself is still judged as unreplied. `last_seen` and `timeout_ms` are set
//! here, because not everything that passes extends a connection's life.
//!
//! CLOSED is set in TIME_WAIT, and in CLOSE if the RST that led there was exact.
//!
//! Owner: one worker. Allocates: never. Reads the clock: never.

use super::entry::{Cold, HotState, Warm, flags, peer_flags};
use super::tcp_options::only_timestamp;
use super::tcp_step::Step;
use super::timeouts::{TimeoutKind, Timeouts};
use super::tuple::Direction;
use super::window::{self, Segment};
use crate::headers::{TcpSummary, tcp_flags};
use crate::time::Tick;
use crate::verdict::DropReason;

pub use super::tcp_machine::{Class, Next, State, flags_valid, next};

/// What a zone says of its TCP connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpPolicy {
    /// Whether a connection may be picked up in the middle of its life.
    pub loose: bool,
    /// Whether segments outside the window pass (RSTs still have to be right).
    pub liberal: bool,
}

/// What becomes of a packet of a known connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Outcome {
    /// Part of the connection; state, windows, timeout and last seen were updated as they should be.
    Pass,
    /// It passes, but we may be out of step: the connection is as it was, and lives no longer for it.
    Ignore,
    /// INVALID: not part of the connection, which is as it was.
    Invalid(DropReason),
    /// A SYN on a connection that is over: delete the entry and treat the packet as a first one.
    Reopen,
    /// A RST before any reply: the packet passes as part of the connection; delete the entry then.
    Delete,
}

/// Linux's `nf_conntrack_tcp_max_retrans`: so many retransmissions without an answer shorten the
/// timeout.
const RETRANSMISSIONS_MAX: u8 = 3;

/// May this segment begin a connection? Fills in the state of a new entry if so; changes nothing if
/// not. The bytes are those of the TCP options. The caller has checked [`flags_valid`].
#[allow(clippy::too_many_arguments)] // an entry's three parts travel apart
#[cold]
pub fn first(
    tcp: &TcpSummary,
    options: &[u8],
    policy: &TcpPolicy,
    timeouts: &Timeouts,
    now: Tick,
    hot: &mut HotState,
    warm: &mut Warm,
    cold: &mut Cold,
) -> Result<(), DropReason> {
    let class = Class::of(tcp.flags);
    let state = match next(State::None, Direction::Original, class) {
        Next::To(State::SynSent) => State::SynSent,
        Next::To(state) if policy.loose => state,
        _ => return Err(DropReason::TcpNotSyn),
    };
    let segment = Segment::new(Direction::Original, tcp);
    let liberal = policy.liberal;
    let unchecked = false;
    Step { segment, class, options, liberal, timeouts, now, hot, warm, cold, unchecked }
        .begin(state);
    Ok(())
}

/// Carries an established connection on by one segment, if that is simply one more: an ACK wholly within the
/// windows, with or without data. `false` if it is not; nothing was changed then, and [`packet`] knows why.
/// The caller sets last seen.
#[inline]
pub fn ordinary(
    direction: Direction,
    tcp: &TcpSummary,
    options: &[u8],
    timeouts: &Timeouts,
    hot: &mut HotState,
    warm: &mut Warm,
) -> bool {
    use tcp_flags::{ACK, FIN, RST, SYN};
    let receiver = direction.opposite().index();
    // SACK blocks count only where they were permitted.
    let plain_options = options.is_empty()
        || warm.peer_flags[receiver] & peer_flags::SACK_PERMITTED == 0
        || only_timestamp(options);
    let expected = tcp.flags & (FIN | SYN | RST | ACK) == ACK
        && hot.protocol_state == State::Established as u8
        && hot.flags & flags::ASSURED != 0
        && warm.peer_flags[0] & peer_flags::NOTED == 0
        && plain_options;
    let segment = Segment::of_ack(direction, tcp);
    if !expected || !window::believe_plain(&segment, warm) {
        return false;
    }
    count_retransmission(&segment, warm);
    hot.timeout_ms = timeout_ms(State::Established, Class::Ack, &segment, warm, timeouts);
    true
}

/// Carries a known connection on by one segment. The bytes are those of the TCP options; `tcp` is as
/// the segment arrived, its ACK corrected where a helper changed lengths. The caller has checked
/// [`flags_valid`]; see the file's head for who sets which flag.
#[allow(clippy::too_many_arguments)] // an entry's three parts travel apart
pub fn packet(
    direction: Direction,
    tcp: &TcpSummary,
    options: &[u8],
    policy: &TcpPolicy,
    timeouts: &Timeouts,
    now: Tick,
    hot: &mut HotState,
    warm: &mut Warm,
    cold: &mut Cold,
) -> Outcome {
    if ordinary(direction, tcp, options, timeouts, hot, warm) {
        hot.last_seen = now.0;
        return Outcome::Pass;
    }
    let segment = Segment::new(direction, tcp);
    let class = Class::of(tcp.flags);
    let liberal = policy.liberal;
    let unchecked = false;
    Step { segment, class, options, liberal, timeouts, now, hot, warm, cold, unchecked }.run()
}

/// Counts how often the same ACK segment came again. The lowest bit of [`Warm::last_segment`] is its
/// direction.
#[inline]
pub(super) fn count_retransmission(segment: &Segment, warm: &mut Warm) {
    // Multiply-shift of both halves: two different segments rarely look the same.
    let numbers = u64::from(segment.seq) << 32 | u64::from(segment.ack);
    let shape = u64::from(segment.end) << 32 | u64::from(segment.window);
    let mix = numbers
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(shape.wrapping_mul(0xc2b2_ae3d_27d4_eb4f));
    let mix = (mix >> 32) as u32;
    let mix = mix & !1 | segment.direction as u32;
    if mix == warm.last_segment {
        warm.retransmissions = warm.retransmissions.saturating_add(1);
    } else {
        warm.last_segment = mix;
        warm.retransmissions = 0;
    }
}

/// The idle timeout after an accepted segment: that of the state, less while something is amiss.
#[inline]
pub(super) fn timeout_ms(
    state: State,
    class: Class,
    segment: &Segment,
    warm: &Warm,
    timeouts: &Timeouts,
) -> u32 {
    let full = timeouts.ms(state.timeout());
    let max_retrans = timeouts.ms(TimeoutKind::TcpMaxRetrans);
    let unacknowledged = timeouts.ms(TimeoutKind::TcpUnacknowledged);
    let pending = (warm.peer_flags[0] | warm.peer_flags[1]) & peer_flags::DATA_UNACKNOWLEDGED != 0;
    if warm.retransmissions >= RETRANSMISSIONS_MAX && full > max_retrans {
        max_retrans
    } else if class == Class::Rst {
        // Also of a RST that is not exact: its receiver answers with a challenge ACK if it lives
        // (RFC 5961 §3.2), and that restores the timeout.
        timeouts.ms(TimeoutKind::TcpClose)
    } else if pending && full > unacknowledged {
        unacknowledged
    } else if class == Class::Ack && segment.window == 0 && full > max_retrans {
        max_retrans
    } else {
        full
    }
}

#[cfg(test)]
#[path = "tcp_tests/mod.rs"]
mod tests;
