//! Frames between the workers.

use postern_core::burst::{Origin, Packet, Seen, Visit};
use postern_core::units::{Generation, InterfaceId};

use crate::setup::At;

/// Room before a packet in its frame, and behind it.
const HEADROOM: usize = 128;
const TAILROOM: usize = 256;

/// A frame on its way.
pub(super) struct Flight {
    pub(super) room: Vec<u8>,
    pub(super) start: usize,
    pub(super) len: usize,
    pub(super) interface: InterfaceId,
    pub(super) origin: Origin,
    pub(super) seen: Seen,
    pub(super) visit: Visit,
    pub(super) hops: u32,
    /// The snapshot of the worker that handed it over.
    pub(super) steered_by: Generation,
}

impl Flight {
    pub(super) fn new(at: At, frame: &[u8], long_way: bool) -> Self {
        let mut room = vec![0; HEADROOM];
        room.extend(frame);
        room.resize(room.len() + TAILROOM, 0);
        let origin = match at {
            At::Wire(_) => Origin::Wire,
            At::Host(_) => Origin::Host,
        };
        let (start, len) = (HEADROOM, frame.len());
        let interface = at.interface();
        let (visit, hops, steered_by) = Default::default();
        let seen = if long_way { Seen::Sound } else { Seen::Unseen };
        Self { room, start, len, interface, origin, seen, visit, hops, steered_by }
    }

    /// As a worker does with what was steered by another snapshot than its own.
    pub(super) fn steer_anew_unless(&mut self, by: Generation) {
        if self.steered_by != by {
            self.seen = self.seen.anew();
            (self.visit, self.hops) = Default::default();
        }
    }

    pub(super) fn at(&self) -> At {
        match self.origin {
            Origin::Wire => At::Wire(self.interface),
            Origin::Host => At::Host(self.interface),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.room[self.start..self.start + self.len]
    }

    pub(super) fn packet(&mut self) -> Packet<'_> {
        Packet {
            room: &mut self.room,
            start: self.start,
            len: self.len,
            interface: self.interface,
            origin: self.origin,
            seen: self.seen,
            parsed: None,
            visit: self.visit,
        }
    }
}
