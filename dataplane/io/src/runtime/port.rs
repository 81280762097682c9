//! One door of a worker: what came in by it, and the short queue of what is to leave by it.
//!
//! A frame that finds the transmit ring full gets a second chance in the same turn, once sent frames were
//! reclaimed, and then waits in the queue for a few turns; after [`PATIENCE`] without progress all that
//! waits is dropped and counted.

use std::time::Duration;

use postern_core::burst::BURST_MAX;
use postern_core::counters::Counters;
use postern_core::time::Instant;
use postern_core::units::InterfaceId;
use postern_core::verdict::DropReason;

use super::door::Door;
use crate::frame::{FramePool, FrameSpan};
use crate::xdp::socket::{Kick, SocketError};

/// Most frames that wait for room in a transmit ring.
pub(crate) const QUEUE_MAX: usize = 512;

/// How long they wait while the ring takes none.
const PATIENCE: Duration = Duration::from_millis(5);

/// Whether a door works.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Health {
    /// It does.
    Up,
    /// Its device is down; it works again when that is up.
    Down,
    /// Its device is gone for good.
    Gone,
}

pub(crate) struct Port<D> {
    pub(crate) door: D,
    pub(crate) interface: InterfaceId,
    pub(crate) health: Health,
    queue: Vec<FrameSpan>,
    /// Bytes of the packets in `queue`.
    queued_bytes: u64,
    /// The kernel was busy at the last kick.
    kick_again: bool,
    /// Since when the ring has taken nothing although something waits.
    stuck_since: Option<Instant>,
}

impl<D: Door> Port<D> {
    pub(crate) fn new(door: D, interface: InterfaceId) -> Self {
        Self {
            door,
            interface,
            health: Health::Up,
            queue: Vec::with_capacity(QUEUE_MAX),
            queued_bytes: 0,
            kick_again: false,
            stuck_since: None,
        }
    }

    /// Frames waiting for room in the ring.
    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// How many more frames there is room for, and the reason to drop others.
    #[inline]
    pub(crate) fn room(&self) -> (usize, DropReason) {
        match self.health {
            Health::Gone => (0, DropReason::InterfaceDown),
            Health::Up | Health::Down => (QUEUE_MAX - self.queue.len(), DropReason::TransmitFull),
        }
    }

    /// Whether another burst might find no room.
    #[inline]
    pub(crate) fn is_crowded(&self) -> bool {
        self.queue.len() > QUEUE_MAX - BURST_MAX
    }

    /// Whether the next turn must come soon.
    #[inline]
    pub(crate) fn is_pressed(&self) -> bool {
        self.kick_again || !self.queue.is_empty()
    }

    /// Queues a frame; gives it back, with the reason, if it cannot leave.
    #[inline]
    pub(crate) fn push(&mut self, span: FrameSpan) -> Result<(), (FrameSpan, DropReason)> {
        if let (0, reason) = self.room() {
            return Err((span, reason));
        }
        self.queued_bytes += u64::from(span.len());
        self.queue.push(span);
        Ok(())
    }

    /// Sends what is queued, with one kick, or two if the ring was full.
    ///
    /// # Errors
    /// What the kick said; what is queued then waits on.
    #[inline]
    pub(crate) fn flush(
        &mut self,
        pool: &mut FramePool,
        counters: &Counters,
        now: Instant,
    ) -> Result<(), SocketError> {
        if !self.is_pressed() {
            return Ok(());
        }
        self.offer(counters);
        let kicked = self.kick();
        if self.queue.is_empty() {
            self.stuck_since = None;
            return kicked;
        }
        self.second_chance(pool, counters, now).and(kicked)
    }

    #[cold]
    fn second_chance(
        &mut self,
        pool: &mut FramePool,
        counters: &Counters,
        now: Instant,
    ) -> Result<(), SocketError> {
        self.door.reclaim(pool)?;
        let mut kicked = Ok(());
        if self.offer(counters) > 0 {
            self.stuck_since = None;
            kicked = self.kick();
        }
        if self.queue.is_empty() {
            return kicked;
        }
        let since = *self.stuck_since.get_or_insert(now);
        if now >= since.plus(PATIENCE) {
            self.drop_queue(DropReason::TransmitFull, pool, counters);
        }
        kicked
    }

    /// Moves what fits into the ring, and counts it.
    #[inline]
    fn offer(&mut self, counters: &Counters) -> u32 {
        let taken = self.door.transmit(&mut self.queue);
        let left: u64 = self.queue.iter().map(|span| u64::from(span.len())).sum();
        counters.forwarded.add(u64::from(taken));
        counters.forwarded_bytes.add(self.queued_bytes - left);
        self.queued_bytes = left;
        taken
    }

    #[inline]
    fn kick(&mut self) -> Result<(), SocketError> {
        let kick = self.door.kick()?;
        self.kick_again = kick == Kick::Again;
        if self.health == Health::Down {
            self.health = Health::Up;
        }
        Ok(())
    }

    /// Gives up all that waits.
    #[cold]
    pub(crate) fn drop_queue(
        &mut self,
        reason: DropReason,
        pool: &mut FramePool,
        counters: &Counters,
    ) {
        for span in self.queue.drain(..) {
            counters.drop(reason);
            pool.give(span.into_frame());
        }
        self.queued_bytes = 0;
        self.stuck_since = None;
        self.kick_again = false;
    }
}
