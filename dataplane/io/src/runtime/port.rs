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
    /// What it said that leaves it up, so many times.
    pub(crate) troubles: u32,
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
            troubles: 0,
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
        let offered = self.offer(counters);
        let kicked = self.kick();
        if offered > 0 || self.queue.is_empty() {
            self.stuck_since = None;
        }
        if self.queue.is_empty() {
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

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, BorrowedFd};

    use super::*;
    use crate::frame::{Depot, FrameIdx, Marks};
    use crate::umem::Umem;
    use crate::wait::Wake;

    /// A device with a full ring that sends by itself, between turns and never while it is kicked.
    struct Steady {
        free: u32,
        sent: Vec<FrameIdx>,
        wake: Wake,
    }

    impl Door for Steady {
        fn receive(&mut self, _: u32, _: impl FnMut(FrameSpan)) -> Result<u32, SocketError> {
            Ok(0)
        }
        fn refill(&mut self, _: &mut FramePool) -> u32 {
            0
        }
        fn transmit(&mut self, batch: &mut Vec<FrameSpan>) -> u32 {
            let count = batch.len().min(self.free as usize);
            self.free -= count as u32;
            self.sent.extend(batch.drain(..count).map(FrameSpan::into_frame));
            count as u32
        }
        fn kick(&mut self) -> Result<Kick, SocketError> {
            Ok(Kick::Done)
        }
        fn reclaim(&mut self, pool: &mut FramePool) -> Result<u32, SocketError> {
            let count = self.sent.len() as u32;
            self.sent.drain(..).for_each(|frame| pool.give(frame));
            Ok(count)
        }
        fn waiting(&self) -> u32 {
            0
        }
        fn frames_in_kernel(&self) -> u32 {
            self.sent.len() as u32
        }
        fn poll_fd(&self) -> BorrowedFd<'_> {
            self.wake.as_fd()
        }
    }

    /// One frame each 120 µs, as 100 Mb/s have it: slow, and never without progress.
    #[test]
    fn what_waits_is_kept_while_the_ring_takes_some_of_it_each_turn() {
        const FRAMES: u64 = 400;
        let (_umem, frames) = Umem::new(1024).expect("memory");
        let depot = Depot::new(frames);
        let mut pool = FramePool::new(&depot, Marks::default());
        let door = Steady { free: 0, sent: Vec::new(), wake: Wake::new().expect("eventfd") };
        let mut port = Port::new(door, InterfaceId(0));
        let counters = Counters::default();
        for _ in 0..FRAMES {
            if pool.is_empty() {
                pool.balance();
            }
            let span = FrameSpan::new(pool.take().expect("a frame"), 0, 60).expect("fits");
            assert!(port.push(span).is_ok());
        }
        for turn in 1..=FRAMES {
            port.door.free = 1;
            port.flush(&mut pool, &counters, Instant(turn * 120_000)).expect("no error");
            assert_eq!(port.queued() as u64, FRAMES - turn);
        }
        assert_eq!(counters.values().forwarded, FRAMES);
        // Then it is stuck, and what waits goes in the end.
        let span = FrameSpan::new(pool.take().expect("a frame"), 0, 60).expect("fits");
        assert!(port.push(span).is_ok());
        let stuck = Instant(FRAMES * 120_000);
        for (since, queued) in [(Duration::ZERO, 1), (PATIENCE, 0)] {
            port.flush(&mut pool, &counters, stuck.plus(since)).expect("no error");
            assert_eq!(port.queued(), queued);
        }
        port.door.reclaim(&mut pool).expect("no error");
    }
}
