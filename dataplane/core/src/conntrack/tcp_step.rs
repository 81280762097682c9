//! The segments that are not simply one more of an established connection: opening, closing, RST,
//! and whatever tells that we and the peers are out of step. The fast path is in `tcp.rs`.

use super::entry::{Cold, HotState, Warm, flags, peer_flags};
use super::tcp::{Outcome, count_retransmission, timeout_ms};
use super::tcp_machine::{Class, Next, State, next};
use super::tcp_options::{Offer, highest_acknowledged, offer};
use super::timeouts::{TimeoutKind, Timeouts};
use super::tuple::Direction;
use super::window::{self, Belief, Segment, sequence};
use crate::headers::tcp_flags;
use crate::time::Tick;
use crate::verdict::DropReason;

/// What [`Cold::last_kind`] and [`Cold::last_options`] hold about a noted segment.
mod note {
    /// `last_kind`: the class in the low bits, and whether it went in reply direction.
    pub(super) const CLASS: u8 = 0x07;
    pub(super) const REPLY: u8 = 0x80;
    /// `last_options`: window scale in the low bits; offers.
    pub(super) const SCALE: u8 = 0x0f;
    pub(super) const WINDOW_SCALE: u8 = 0x10;
    pub(super) const SACK_PERMITTED: u8 = 0x20;
    /// `last_options`: a SYN was ignored in LAST_ACK; a challenge ACK may answer it.
    pub(super) const CHALLENGE_EXPECTED: u8 = 0x40;
    /// `last_options`: it opened from both sides.
    pub(super) const SIMULTANEOUS_OPEN: u8 = 0x80;
}

/// How a RST fares before its window is looked at.
enum Reset {
    /// It needs no window check. `exact` says whether it certainly ends the connection.
    Sure { exact: bool },
    /// The window decides; then the connection goes to this state.
    Check { state: State, exact: bool },
    /// Decided already.
    Decided(Outcome),
}

/// A segment that is not simply one more of an established connection, and all it needs.
pub(super) struct Step<'a> {
    pub(super) segment: Segment,
    pub(super) class: Class,
    pub(super) options: &'a [u8],
    pub(super) liberal: bool,
    pub(super) timeouts: &'a Timeouts,
    pub(super) now: Tick,
    pub(super) hot: &'a mut HotState,
    pub(super) warm: &'a mut Warm,
    pub(super) cold: &'a mut Cold,
    /// It passes only because windows are not checked.
    pub(super) unchecked: bool,
}

impl Step<'_> {
    /// Enters the state that a first segment leads to.
    pub(super) fn begin(mut self, state: State) {
        window::begin(&self.segment, self.options, self.warm);
        self.cold.last_options = 0;
        self.note();
        self.hot.protocol_state = state as u8;
        self.hot.flags &= !flags::CLOSED;
        self.hot.timeout_ms = self.timeout_ms(state);
        self.hot.last_seen = self.now.0;
    }

    /// Judges the segment and carries the connection on.
    pub(super) fn run(mut self) -> Outcome {
        let old = State::from_number(self.hot.protocol_state);
        if self.closed_refuses(old) {
            return Outcome::Invalid(DropReason::ConnectionClosed);
        }
        match next(old, self.segment.direction, self.class) {
            Next::Invalid => Outcome::Invalid(DropReason::TcpState),
            Next::Ignore => self.out_of_step(old),
            Next::To(State::SynSent) if self.may_reopen() => Outcome::Reopen,
            Next::To(State::SynSent) => self.out_of_step(old),
            Next::Stay => self.expected(old, old),
            Next::To(new) => self.expected(old, new),
        }
    }

    /// Whether the segment brings something new to a connection that is certainly over.
    ///
    /// Differs: Linux lets data pass as long as the entry lives, and live as long as data passes.
    fn closed_refuses(&self, old: State) -> bool {
        if self.hot.flags & flags::CLOSED == 0 || !matches!(self.class, Class::Ack | Class::Fin) {
            return false;
        }
        let &Segment { seq, end, direction, .. } = &self.segment;
        let carries = end != seq;
        if old == State::TimeWait {
            // Both sent FIN: nothing follows but what was sent before.
            return carries && sequence::after(end, self.warm.peers[direction.index()].end);
        }
        // Who was reset may still say so (RFC 5961 §3.2); who reset says no more.
        carries || self.noted() == Some((Class::Rst, direction))
    }

    /// Whether a SYN on a connection that is over may begin another. RFC 9293 §3.6.1 allows it under
    /// conditions which we leave to the peers; who aborted may begin again too.
    fn may_reopen(&self) -> bool {
        let closed_properly =
            (self.warm.peer_flags[0] | self.warm.peer_flags[1]) & peer_flags::CLOSE_INIT != 0;
        closed_properly || self.noted() == Some((Class::Rst, self.segment.direction))
    }

    /// The segment may tell of a connection between the peers that is not the one we know: let it
    /// pass. A SYN/ACK that acknowledges a SYN which passed like this is proof: get in step.
    fn out_of_step(mut self, old: State) -> Outcome {
        let Segment { direction, ack, .. } = self.segment;
        if self.class == Class::SynAck
            && self.noted() == Some((Class::Syn, direction.opposite()))
            && ack == self.cold.last_end
        {
            let before = *self.warm;
            self.resynchronise();
            let outcome = self.expected(State::SynSent, State::SynReceived);
            if outcome != Outcome::Pass {
                *self.warm = before;
            }
            return outcome;
        }
        if self.class == Class::Syn && direction == Direction::Original {
            let offer = offer(self.options);
            let mut options = offer.window_scale.unwrap_or(0) & note::SCALE;
            if offer.window_scale.is_some() {
                options |= note::WINDOW_SCALE;
            }
            if offer.sack_permitted {
                options |= note::SACK_PERMITTED;
            }
            if old == State::LastAck {
                options |= note::CHALLENGE_EXPECTED;
            }
            self.cold.last_options = options;
        }
        self.note();
        Outcome::Ignore
    }

    /// Makes the noted SYN the beginning of the connection.
    fn resynchronise(&mut self) {
        let direction = self.segment.direction;
        let options = self.cold.last_options;
        let offer = Offer {
            window_scale: (options & note::WINDOW_SCALE != 0).then_some(options & note::SCALE),
            sack_permitted: options & note::SACK_PERMITTED != 0,
        };
        self.cold.last_options &= !note::CHALLENGE_EXPECTED;
        let syn = Segment {
            direction: direction.opposite(),
            // Equal to its ACK, so that this SYN/ACK covers it and an older one does not.
            seq: self.cold.last_end.wrapping_sub(1),
            end: self.cold.last_end,
            ack: 0,
            sack: 0,
            window: self.cold.last_window,
            flags: tcp_flags::SYN,
        };
        self.warm.peers = Default::default();
        let [first, second] = self.warm.peer_flags.map(|flags| flags & peer_flags::MAPPED);
        self.warm.peer_flags = [first | peer_flags::NOTED, second];
        window::learn_syn(&syn, offer, self.warm);
    }

    /// The machine expects the segment: is it believable?
    fn expected(&mut self, old: State, new: State) -> Outcome {
        let direction = self.segment.direction;
        let mut new = new;
        match (self.class, new) {
            (Class::Rst, _) => return self.reset(old),
            (Class::Ack, State::TimeWait) if self.is_challenge(old) => {
                // RFC 5961 §4: the ACK answers a SYN, not the FIN.
                self.cold.last_options &= !note::CHALLENGE_EXPECTED;
                return Outcome::Ignore;
            }
            (Class::SynAck, State::SynReceived) if !self.covers_syn(old) => {
                // Differs: Linux lets one pass whose ACK is too low, and learns from it.
                return Outcome::Invalid(DropReason::TcpAckInvalid);
            }
            (_, State::SynSent2) => self.cold.last_options |= note::SIMULTANEOUS_OPEN,
            (Class::Ack, State::SynReceived)
                if self.cold.last_options & note::SIMULTANEOUS_OPEN != 0 =>
            {
                new = State::Established;
            }
            (Class::Fin, State::LastAck)
                if self.warm.peer_flags[direction.index()] & peer_flags::CLOSE_INIT != 0 =>
            {
                // Differs: Linux takes a retransmitted first FIN for the second.
                new = old;
            }
            _ => {}
        }
        match self.believe(old) {
            Belief::Accept => self.accept(old, new, false),
            Belief::Ignore | Belief::Overshot => Outcome::Ignore,
            Belief::Invalid(reason) => self.refuse(reason),
        }
    }

    /// Whether an ACK in LAST_ACK may answer a SYN that passed there.
    fn is_challenge(&self, old: State) -> bool {
        old == State::LastAck
            && self.cold.last_options & note::CHALLENGE_EXPECTED != 0
            && self.noted() == Some((Class::Syn, self.segment.direction.opposite()))
    }

    /// Whether a SYN/ACK acknowledges the SYN it answers.
    fn covers_syn(&self, old: State) -> bool {
        let peer = self.segment.direction.opposite().index();
        !matches!(old, State::SynSent | State::SynSent2)
            || self.is_liberal()
            || window::covers_syn(self.segment.ack, &self.warm.peers[peer])
    }

    fn is_liberal(&self) -> bool {
        let sender = self.warm.peer_flags[self.segment.direction.index()];
        self.liberal || sender & peer_flags::BE_LIBERAL != 0
    }

    /// Judges a RST: RFC 5961 §3, from the middle.
    fn reset(&mut self, old: State) -> Outcome {
        let (state, exact) = match self.judge_reset(old) {
            Reset::Decided(outcome) => return outcome,
            Reset::Sure { exact } => return self.accept(old, State::Close, exact),
            Reset::Check { state, exact } => (state, exact),
        };
        // A RST teaches us nothing: believed or not, the windows stay.
        let warm = *self.warm;
        let belief = self.believe(old);
        *self.warm = warm;
        match belief {
            Belief::Accept => self.accept(old, state, exact),
            Belief::Ignore | Belief::Overshot => Outcome::Ignore,
            Belief::Invalid(DropReason::TcpBeyondWindow) => self.refuse(DropReason::TcpRstSequence),
            Belief::Invalid(reason) => self.refuse(reason),
        }
    }

    fn judge_reset(&self, old: State) -> Reset {
        let Segment { seq, ack, direction, .. } = self.segment;
        let sender = &self.warm.peers[direction.index()];
        let receiver = &self.warm.peers[direction.opposite().index()];
        let receiver_flags = self.warm.peer_flags[direction.opposite().index()];
        let acknowledged = receiver_flags & peer_flags::MAX_ACK_SET != 0;
        let exact = acknowledged && seq == receiver.max_ack;
        if old.is_closing() {
            return Reset::Sure { exact: exact || seq == sender.end };
        }
        let has_ack = self.segment.has(tcp_flags::ACK);
        if old == State::SynSent && direction == Direction::Reply {
            // RFC 9293 §3.10.7.3: in SYN-SENT only a RST that acknowledges the SYN counts. The client
            // will ignore others.
            // Differs: Linux lets them end the connection too.
            if !has_ack || ack == 0 || !sequence::after(ack, receiver.max_ack) {
                return Reset::Decided(Outcome::Ignore);
            }
            if sequence::after(ack, receiver.end) {
                return Reset::Decided(Outcome::Invalid(DropReason::TcpRstSequence));
            }
        }
        let after_syn = matches!(self.noted(), Some((Class::Syn, _)));
        if !acknowledged || after_syn {
            // What was acknowledged is not known, or belongs to another connection.
            if self.answers_ignored(old) {
                return Reset::Sure { exact: true };
            }
            return Reset::Check { state: State::Close, exact };
        }
        if self.follows_unchecked(seq) {
            return Reset::Sure { exact: true };
        }
        let established = old == State::Established && self.hot.flags & flags::ASSURED != 0;
        if !established {
            // Sequence number 0 before the handshake is done: probably the answer to a SYN.
            if seq != 0 && sequence::before(seq, receiver.max_ack) {
                return Reset::Decided(Outcome::Invalid(DropReason::TcpRstSequence));
            }
            return Reset::Check { state: State::Close, exact };
        }
        if sequence::before(seq, receiver.max_ack) {
            return Reset::Decided(Outcome::Invalid(DropReason::TcpRstSequence));
        }
        // As good as exact is a RST right behind the data it follows.
        let follows = self.noted().is_none_or(|(class, _)| class == Class::Ack)
            && self.warm.last_segment & 1 == direction as u32
            && seq == sender.end;
        let exact = exact || follows;
        Reset::Check { state: if exact { State::Close } else { old }, exact }
    }

    /// Whether a RST begins where the other side's last segment acknowledged, and that one passed only because the
    /// connection was picked up in the middle: then what we hold against the RST may be what is wrong.
    fn follows_unchecked(&self, seq: u32) -> bool {
        let receiver = self.segment.direction.opposite();
        self.warm.peer_flags[receiver.index()] & peer_flags::BE_LIBERAL != 0
            && self.noted() == Some((Class::Ack, receiver))
            && seq == self.cold.last_ack
    }

    /// Whether a RST answers a SYN or ACK of the other side that passed unchecked: it acknowledges
    /// it, or begins where it acknowledged; nothing else is known.
    fn answers_ignored(&self, old: State) -> bool {
        let Segment { seq, ack, direction, .. } = self.segment;
        let acknowledges = self.segment.has(tcp_flags::ACK) && ack == self.cold.last_end;
        let seen_reply = self.hot.flags & flags::SEEN_REPLY != 0;
        let assured = self.hot.flags & flags::ASSURED != 0;
        match self.noted().filter(|&(_, noted)| noted != direction) {
            Some((Class::Syn, _)) => seen_reply && acknowledges,
            Some((Class::Ack, noted)) => {
                let challenged = old == State::SynSent && noted == Direction::Reply;
                !assured && acknowledges || challenged && seq == self.cold.last_ack
            }
            _ => false,
        }
    }
}

impl Step<'_> {
    /// Learns the sender if need be, and asks the window. What is not accepted is not learnt.
    fn believe(&mut self, old: State) -> Belief {
        let before = *self.warm;
        let belief = self.learn_and_check(old);
        match belief {
            Belief::Accept | Belief::Overshot => {}
            _ => *self.warm = before,
        }
        belief
    }

    fn learn_and_check(&mut self, old: State) -> Belief {
        let mut segment = self.segment;
        let receiver = segment.direction.opposite().index();
        if self.warm.peer_flags[receiver] & peer_flags::SACK_PERMITTED != 0 {
            segment.sack = highest_acknowledged(self.options, segment.ack);
        }
        let sender = self.warm.peers[segment.direction.index()];
        let is_syn = segment.has(tcp_flags::SYN);
        if is_syn && (sender.max_window == 0 || self.begins_anew(old)) {
            window::learn_syn(&segment, offer(self.options), self.warm);
            if segment.direction == Direction::Reply && !segment.has(tcp_flags::ACK) {
                return Belief::Accept; // simultaneous open: there is nothing to compare with
            }
        } else if sender.max_window == 0 {
            window::learn_midstream(&segment, self.warm);
        }
        window::effective_ack(&mut segment, self.warm);
        if segment.has(tcp_flags::RST) && segment.seq == 0 && old == State::SynSent {
            // A refusal: RFC 9293 §3.10.7.1 gives it the sequence number 0.
            let end = self.warm.peers[segment.direction.index()].end;
            (segment.seq, segment.end) = (end, end);
        }
        let belief = window::believe(&segment, self.warm);
        match belief {
            Belief::Accept if self.class == Class::Ack => {
                count_retransmission(&segment, self.warm);
                belief
            }
            Belief::Accept => belief,
            _ if self.is_liberal() => {
                self.unchecked = true;
                Belief::Accept
            }
            _ => belief,
        }
    }

    /// Whether a SYN is another attempt, with another sequence number, at a connection that is not
    /// open yet (RFC 9293 §3.4.3).
    fn begins_anew(&self, old: State) -> bool {
        let Segment { seq, end, direction, .. } = self.segment;
        let sender = &self.warm.peers[direction.index()];
        match old {
            // Differs: Linux requires a higher number. Without any reply the last SYN counts.
            State::SynSent
                if direction == Direction::Original && self.hot.flags & flags::SEEN_REPLY == 0 =>
            {
                seq != sender.max_ack || sequence::after(end, sender.end)
            }
            State::SynSent | State::SynReceived => sequence::after(end, sender.end),
            _ => false,
        }
    }

    /// The segment is part of the connection: move on.
    fn accept(&mut self, old: State, new: State, exact_reset: bool) -> Outcome {
        let direction = self.segment.direction;
        let is_rst = self.class == Class::Rst;
        let lingers = old == State::Close && self.hot.flags & flags::CLOSED != 0;
        self.note();
        self.hot.protocol_state = new as u8;
        if new == State::FinWait && old != new {
            self.warm.peer_flags[direction.index()] |= peer_flags::CLOSE_INIT;
        }
        match new {
            State::TimeWait => self.hot.flags |= flags::CLOSED,
            State::Close if exact_reset => self.hot.flags |= flags::CLOSED,
            State::Close => {}
            _ => self.hot.flags &= !flags::CLOSED,
        }
        if self.hot.flags & flags::SEEN_REPLY == 0 {
            if is_rst {
                return Outcome::Delete;
            }
            if self.class == Class::Syn && old == State::SynSent {
                // A retransmitted SYN extends nothing: else a client could hold a port for ever.
                return Outcome::Pass;
            }
        } else if new == State::Established
            && matches!(old, State::SynReceived | State::Established)
            && !is_rst
        {
            self.hot.flags |= flags::ASSURED;
        }
        let assured = self.hot.flags & flags::ASSURED != 0;
        if self.class == Class::Ack && new == State::Established && assured && !self.unchecked {
            self.warm.peer_flags[0] &= !peer_flags::NOTED; // an ordinary segment: the fast path's
        }
        if !lingers || is_rst {
            self.hot.timeout_ms = self.timeout_ms(new);
            self.hot.last_seen = self.now.0;
        }
        Outcome::Pass
    }

    /// The segment is INVALID by its numbers. A FIN or RST that answers one which we refused as well
    /// says that the peers know better than we do: let the connection go sooner.
    fn refuse(&mut self, reason: DropReason) -> Outcome {
        let direction = self.segment.direction;
        let refused = Outcome::Invalid(reason);
        if self.hot.flags & flags::ASSURED == 0 || !matches!(self.class, Class::Fin | Class::Rst) {
            return refused;
        }
        let answers = matches!(
            self.noted(),
            Some((Class::Fin | Class::Rst, noted)) if noted != direction
        );
        if !answers {
            self.note();
            return refused;
        }
        let idle = self.now.since(Tick(self.hot.last_seen)).max(0) as u32;
        let left = self.hot.timeout_ms.saturating_sub(idle);
        let unacknowledged = self.timeouts.ms(TimeoutKind::TcpUnacknowledged);
        if left >= 120_000 && left > unacknowledged {
            self.hot.timeout_ms = idle.saturating_add(unacknowledged);
        }
        refused
    }

    fn timeout_ms(&self, state: State) -> u32 {
        let timeout = timeout_ms(state, self.class, &self.segment, self.warm, self.timeouts);
        if state == State::Established && self.hot.flags & flags::SEEN_REPLY == 0 {
            // Picked up in the middle, and nobody answered yet.
            return timeout.min(self.timeouts.ms(TimeoutKind::TcpUnacknowledged));
        }
        timeout
    }

    /// Class and direction of the last segment, if it was not an ordinary one.
    fn noted(&self) -> Option<(Class, Direction)> {
        if self.warm.peer_flags[0] & peer_flags::NOTED == 0 {
            return None;
        }
        let class = match self.cold.last_kind & note::CLASS {
            0 => Class::Syn,
            1 => Class::SynAck,
            2 => Class::Fin,
            3 => Class::Ack,
            4 => Class::Rst,
            _ => Class::None,
        };
        Some((class, Direction::from_index(u32::from(self.cold.last_kind & note::REPLY))))
    }

    /// Remembers the segment as the last one.
    fn note(&mut self) {
        let reply = match self.segment.direction {
            Direction::Original => 0,
            Direction::Reply => note::REPLY,
        };
        self.cold.last_kind = self.class as u8 | reply;
        self.cold.last_end = self.segment.end;
        self.cold.last_ack = self.segment.ack;
        self.cold.last_window = self.segment.window;
        self.warm.peer_flags[0] |= peer_flags::NOTED;
    }
}
