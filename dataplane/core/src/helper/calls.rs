//! What a worker remembers of the calls that one signalling connection is about: a part of its
//! [`Record`](super::pool::Record).
//!
//! A [`Medium`] stands for one `m=` that one side announced in one call: the ports it named, those that the other side
//! was told, and the expectations made. It outlives these, so that the same announcement, sent again or renewed within the call,
//! is given the same ports. What is known by call ends with it; so the calls of a trunk do not end each other's expectations.
//!
//! Differs: nf_conntrack_sip knows no calls. There each INVITE of a connection ends all that it expected before.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::expect::{Expectations, Handle};
use crate::conntrack::tuple::Direction;

/// Most media of one signalling connection that are remembered: with one more the oldest is forgotten, and with it what was expected
/// of it (nf_conntrack_sip expects ten connections of one at most).
pub const MEDIA_MAX: usize = 16;

/// One medium of one side.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Medium {
    /// Expectations of RTP and RTCP; 0 is none.
    expected: [u64; 2],
    /// Which call ([`Message::call`](super::sip::Message::call)).
    call: u32,
    /// The request that last announced it, or that the announcement answered.
    cseq: u32,
    /// When it was first announced, counted.
    turn: u32,
    /// The ports of RTP and RTCP that were announced.
    pub inner: [u16; 2],
    /// The ports that stand for them outside.
    pub outer: [u16; 2],
    /// Who announced it, plus one; 0 if this place is free.
    side: u8,
    /// Which `m=`.
    line: u8,
    reserved: [u8; 2],
}

/// An endpoint that was registered for calls.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Contact {
    /// The expectation of calls; 0 is none.
    expected: u64,
    /// The last REGISTER.
    pub cseq: u32,
    /// The port that was registered; 0 if none was.
    pub inner: u16,
    /// The port that stands for it outside.
    pub outer: u16,
    /// Who registered it, plus one; 0 if nobody did.
    side: u8,
    reserved: [u8; 7],
}

impl Contact {
    /// Whether that side registered it.
    pub fn is_of(&self, side: Direction) -> bool {
        self.side == side.index() as u8 + 1
    }

    /// The expectation.
    pub fn handle(&self) -> Handle {
        Handle(self.expected)
    }

    /// Another one is registered, or the same one again.
    pub fn set(&mut self, side: Direction, ports: [u16; 2], Handle(expected): Handle) {
        [self.inner, self.outer] = ports;
        (self.side, self.expected) = (side.index() as u8 + 1, expected);
    }

    /// Calls are expected no more. The ports are remembered.
    pub fn end(&mut self, expectations: &Expectations) {
        expectations.take(Handle(core::mem::take(&mut self.expected)));
    }
}

/// All of one connection.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Calls {
    media: [Medium; MEDIA_MAX],
    /// The registration.
    pub contact: Contact,
    /// Media remembered so far, counted.
    turns: u32,
    /// By direction, over TCP: bytes that are still to come of a message that did not come in one segment.
    pub left: [u32; 2],
    /// By direction, over TCP: not zero once it is unknown where a message begins.
    pub lost: [u16; 2],
}

/// Which medium: of whom, in which call, and which `m=`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MediumId {
    /// Who announced it.
    pub side: Direction,
    /// See [`Message::call`](super::sip::Message::call).
    pub call: u32,
    /// Which `m=`.
    pub line: u8,
}

impl Medium {
    fn is(&self, id: MediumId) -> bool {
        (self.side, self.call, self.line) == (id.side.index() as u8 + 1, id.call, id.line)
    }

    /// The expectations of RTP and RTCP.
    pub fn handles(&self) -> [Handle; 2] {
        self.expected.map(Handle)
    }

    /// Keeps the expectations, and the request they were made for.
    pub fn expect(&mut self, cseq: u32, handles: [Handle; 2]) {
        (self.cseq, self.expected) = (cseq, handles.map(|Handle(handle)| handle));
    }

    /// Whether what was expected of it was made for that request.
    pub fn is_announced_by(&self, cseq: u32) -> bool {
        self.cseq == cseq && self.expected != [0; 2]
    }

    /// It is expected no more. Its ports are remembered.
    pub fn end(&mut self, expectations: &Expectations) {
        for handle in &mut self.expected {
            expectations.take(Handle(core::mem::take(handle)));
        }
    }
}

impl Calls {
    /// A medium that was announced.
    pub fn find(&mut self, id: MediumId) -> Option<&mut Medium> {
        self.media.iter_mut().find(|medium| medium.is(id))
    }

    /// A place for a medium that was not announced before: it has no ports yet.
    pub fn enter(&mut self, id: MediumId, expectations: &Expectations) -> &mut Medium {
        let turns = self.turns;
        let age = |medium: &Medium| match medium.side {
            0 => u32::MAX,
            _ => turns.wrapping_sub(medium.turn),
        };
        let mut oldest = 0;
        for place in 1..MEDIA_MAX {
            if age(&self.media[place]) > age(&self.media[oldest]) {
                oldest = place;
            }
        }
        let medium = &mut self.media[oldest];
        medium.end(expectations);
        *medium = zerocopy::FromZeros::new_zeroed();
        (medium.side, medium.call, medium.line) = (id.side.index() as u8 + 1, id.call, id.line);
        medium.turn = turns;
        self.turns = turns.wrapping_add(1);
        medium
    }

    /// A request that may change the media of a call: what others announced is expected no more.
    pub fn renew(&mut self, call: u32, cseq: u32, expectations: &Expectations) {
        let stale = |medium: &&mut Medium| medium.call == call && medium.cseq != cseq;
        self.media.iter_mut().filter(stale).for_each(|medium| medium.end(expectations));
    }

    /// A request was refused: what it announced is expected no more.
    pub fn refuse(&mut self, call: u32, cseq: u32, expectations: &Expectations) {
        let refused = |medium: &&mut Medium| medium.call == call && medium.cseq == cseq;
        self.media.iter_mut().filter(refused).for_each(|medium| medium.end(expectations));
    }

    /// A call is over.
    pub fn end(&mut self, call: u32, expectations: &Expectations) {
        for medium in self.media.iter_mut().filter(|medium| medium.call == call) {
            medium.end(expectations);
            *medium = zerocopy::FromZeros::new_zeroed();
        }
    }

    /// Whether there is a call or a registration.
    pub fn is_engaged(&self) -> bool {
        self.contact.expected != 0 || self.media.iter().any(|medium| medium.expected != [0; 2])
    }

    /// Takes all expectations back.
    pub fn release(&mut self, expectations: &Expectations) {
        self.media.iter_mut().for_each(|medium| medium.end(expectations));
        self.contact.end(expectations);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(call: u32, line: u8) -> MediumId {
        MediumId { side: Direction::Original, call, line }
    }

    #[test]
    fn the_oldest_makes_room_and_a_call_that_ends_is_forgotten() {
        let expectations = Expectations::new();
        let mut calls: Calls = zerocopy::FromZeros::new_zeroed();
        for call in 0..MEDIA_MAX as u32 {
            calls.enter(id(call, 0), &expectations).inner = [4000, 4001];
        }
        calls.enter(id(100, 0), &expectations);
        assert!(calls.find(id(0, 0)).is_none());
        assert!(calls.find(id(1, 0)).is_some());
        calls.end(7, &expectations);
        assert!(calls.find(id(7, 0)).is_none());
        calls.enter(id(101, 1), &expectations);
        assert!(calls.find(id(1, 0)).is_some(), "there was a free place");
        assert!(calls.find(id(101, 0)).is_none());
        let other = MediumId { side: Direction::Reply, ..id(101, 1) };
        assert!(calls.find(other).is_none());
    }
}
