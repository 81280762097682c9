//! A worker: one thread, its queues, its tables, and the loop that never ends.
//!
//! ```text
//! turn ─ now ─ snapshot ─ parcels ─┐
//!                 each door: receive ─ decide ─ carry out ─ flush      (one kick, one publish a burst)
//!        held packets ─ wanted next hops ─ timers ─ commands ─ restock ─ census ─ (sleep)
//! ```
//!
//! Everything in a turn is bounded. Nothing in it allocates, frees, locks or waits; the only system calls are
//! those of the doors, the bell of a sleeping peer, and poll(2) when there was nothing to do for a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam::channel::Sender;
use postern_core::burst::{BURST_MAX, Seen};
use postern_core::fragments::Settled;
use postern_core::pipeline::Pipeline;
use postern_core::time::Instant;
use postern_core::units::{InterfaceId, WorkerId};
use postern_core::verdict::DropReason;

use super::census::{Census, Gauges};
use super::command::{Clerk, Office};
use super::door::Door;
use super::exits::Exits;
use super::handover::{Doorbell, Errand, Inbox, Luggage, Parcel};
use super::hold::Held;
use super::mailbox::SnapshotReader;
use super::port::Health;
use super::tray::{Court, Source, Tray};
use super::{Clock, Event, Idle, Node, Presence, WIND_DOWN, Wanted};
use crate::umem::Umem;
use crate::wait::PollSet;

/// How often held packets are offered again and wanted next hops reported.
const CHORES_EVERY: Duration = Duration::from_millis(2);

/// The longest sleep: timers, sweeps and counters must not wait for packets.
const SLEEP_MAX: Duration = Duration::from_millis(10);

/// Timers and swept rows handled in one turn: as many as a turn can make connections.
const HOUSEKEEPING: u32 = 128;

/// One worker, ready to run.
pub struct Worker<D> {
    pub(super) pipeline: Pipeline<'static>,
    pub(super) exits: Exits<D>,
    pub(super) inboxes: Vec<Inbox>,
    pub(super) bell: Arc<Doorbell>,
    pub(super) snapshots: SnapshotReader,
    pub(super) clerk: Clerk,
    pub(super) umem: Arc<Umem>,
    pub(super) clock: Clock,
    pub(super) idle: Idle,
    pub(super) wanted: Sender<Wanted>,
    pub(super) gauges: Arc<Gauges>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) presence: Presence,
    pub(super) core: Option<usize>,
    pub(super) tray: Tray,
    pub(super) census: Census,
    pub(super) polls: PollSet,
}

/// What is left of a worker that ended: its tables, and its doors, which still hold frames.
pub struct WorkerParts<D> {
    /// Which worker it was.
    pub worker: WorkerId,
    /// Its tables.
    pub pipeline: Pipeline<'static>,
    /// Its doors, each with its interface.
    pub doors: Vec<(InterfaceId, D)>,
}

impl<D: Door> Worker<D> {
    /// Runs until told to stop.
    pub fn run(mut self) -> WorkerParts<D> {
        if let Some(core) = self.core
            && !core_affinity::set_for_current(core_affinity::CoreId { id: core })
        {
            let node = Node::Worker(self.exits.me);
            let _ = self.exits.events.try_send(Event::NotPinned { node, core });
        }
        self.build_poll_set();
        self.exits.restock();
        let mut last_work = self.clock.now();
        let mut next_chores = last_work;
        while !self.stop.load(Ordering::Relaxed) {
            let now = self.clock.now();
            let mut worked = self.turn(now);
            if now >= next_chores {
                next_chores = now.plus(CHORES_EVERY);
                self.chores(now);
            }
            worked |= self.inform(now);
            self.publish_census(worked);
            if worked {
                last_work = now;
            } else {
                self.rest(now, last_work);
            }
        }
        self.wind_down()
    }

    /// The packets of one turn. Returns whether there were any.
    #[inline]
    fn turn(&mut self, now: Instant) -> bool {
        self.snapshots.adopt();
        let mut worked = self.take_parcels(now);
        for place in 0..self.exits.ports.len() {
            worked |= self.receive(place, now);
        }
        if self.exits.ports.iter().any(|port| port.is_pressed()) {
            self.exits.flush(now);
            worked = true;
        }
        self.exits.restock();
        worked
    }

    /// A burst from one door.
    #[inline]
    fn receive(&mut self, place: usize, now: Instant) -> bool {
        let Self { exits, tray, umem, .. } = self;
        let port = &mut exits.ports[place];
        if port.health == Health::Gone {
            return false;
        }
        let interface = port.interface;
        let mut bytes = 0;
        let received = port.door.receive(BURST_MAX as u32, |span| {
            umem.prefetch(&span);
            bytes += u64::from(span.len());
            tray.spans.push(span);
        });
        exits.counters.received.add(tray.spans.len() as u64);
        exits.counters.received_bytes.add(bytes);
        if let Err(error) = received {
            exits.trouble(place, error);
        }
        if tray.spans.is_empty() {
            return false;
        }
        self.decide(Source::Wire(interface), now);
        true
    }

    /// Decides what is on the tray, and sends what comes of it.
    #[inline]
    fn decide(&mut self, source: Source, now: Instant) {
        let Self { tray, pipeline, umem, snapshots, exits, .. } = self;
        let snapshot = snapshots.current();
        let court = Court { pipeline, umem, snapshot, me: exits.me, now };
        tray.run(source, court, exits);
        exits.flush(now);
        if self.pipeline.has_settled() {
            self.settle_fragments(now);
        }
    }

    /// Takes out the fragments whose wait is over: those of whole datagrams go on, as parcels of our own.
    #[cold]
    fn settle_fragments(&mut self, now: Instant) {
        // What goes on settles nothing.
        while self.pipeline.has_settled() {
            let Self { tray, pipeline, umem, snapshots, exits, .. } = self;
            let snapshot = snapshots.current();
            while !tray.spans.is_full()
                && let Some((slot, settled)) = pipeline.next_settled()
            {
                let Some((span, luggage)) = exits.gathered.take(slot) else { continue };
                exits.counters.resumed.add(1);
                match settled {
                    Settled::Go(gathered) => {
                        let seen = Seen::Gathered(gathered);
                        let steered_by = snapshot.generation;
                        tray.luggage.push(Luggage { seen, steered_by, ..luggage });
                        tray.spans.push(span);
                    }
                    Settled::Drop(reason) => exits.discard(span, reason),
                }
            }
            let court = Court { pipeline, umem, snapshot, me: exits.me, now };
            tray.run(Source::Parcels, court, exits);
            exits.flush(now);
        }
    }

    /// Takes up to a burst from each of the others.
    #[inline]
    fn take_parcels(&mut self, now: Instant) -> bool {
        let mut worked = false;
        for place in 0..self.inboxes.len() {
            let Self { inboxes, tray, exits, umem, .. } = self;
            let room = BURST_MAX - tray.spans.len();
            let mut count = 0;
            for Parcel { span, luggage, errand } in inboxes[place].take(room) {
                count += 1;
                match errand {
                    Errand::Process => {
                        umem.prefetch(&span);
                        tray.spans.push(span);
                        tray.luggage.push(luggage);
                    }
                    Errand::Send { egress } => exits.send(span, egress),
                }
            }
            exits.counters.handed_in.add(count);
            worked |= count > 0;
            if tray.spans.is_full() {
                self.decide_parcels(now);
            }
        }
        if worked {
            self.decide_parcels(now);
        }
        worked
    }

    /// Decides about parcels by a snapshot no older than that of whoever sent them: a packet that its sender steered
    /// by a newer one may belong to a connection that only the newer one says where to look for.
    #[inline]
    fn decide_parcels(&mut self, now: Instant) {
        self.snapshots.adopt(); // after they were taken: then it is new enough
        let generation = self.snapshots.current().generation;
        for luggage in &mut self.tray.luggage {
            luggage.steer_anew_unless(generation);
        }
        self.decide(Source::Parcels, now);
    }

    /// What is not done every turn.
    fn chores(&mut self, now: Instant) {
        if !self.exits.holds.is_empty() {
            self.resume_held(now);
        }
        for wanted in self.pipeline.take_wanted() {
            // Full: control is behind, and the packets on hold will ask again.
            let _ = self.wanted.try_send(wanted);
        }
        let [v4, v6] = self.pipeline.usage();
        self.census.connections_v4 = u64::from(v4.0);
        self.census.capacity_v4 = u64::from(v4.1);
        self.census.connections_v6 = u64::from(v6.0);
        self.census.capacity_v6 = u64::from(v6.1);
    }

    /// Offers every held packet once more, in order.
    #[cold]
    fn resume_held(&mut self, now: Instant) {
        let mut left = self.exits.holds.len();
        while left > 0 {
            let count = left.min(BURST_MAX);
            left -= count;
            for _ in 0..count {
                let Some(held) = self.exits.holds.pop() else { break };
                if held.is_too_old(now) {
                    self.exits.counters.resumed.add(1);
                    self.exits.discard(held.span, DropReason::HeldTooLong);
                    continue;
                }
                let Held { span, luggage, since, .. } = held;
                self.tray.spans.push(span);
                self.tray.luggage.push(luggage);
                self.tray.since.push(since);
            }
            self.decide(Source::Held, now);
        }
    }

    /// Timers, and a slice of what control asks.
    #[inline]
    fn inform(&mut self, now: Instant) -> bool {
        let Self { pipeline, exits, snapshots, clerk, .. } = self;
        let counters = &*exits.counters;
        let behind = pipeline.housekeep(snapshots.current(), counters, now, HOUSEKEEPING);
        let snapshot = snapshots.current();
        let (expectations, mappings) = (&*snapshot.expectations, &*snapshot.mappings);
        let office = Office { pipeline, me: exits.me, counters, expectations, mappings, now };
        let worked = clerk.work(office) || behind;
        if self.pipeline.has_settled() {
            self.settle_fragments(now);
            return true;
        }
        worked
    }

    #[inline]
    fn publish_census(&mut self, worked: bool) {
        let Self { census, exits, gauges, .. } = self;
        census.pool = exits.pool.len() as u64;
        census.held = (exits.holds.len() + exits.gathered.len()) as u64;
        (census.queued, census.kernel) = (0, 0);
        for port in &exits.ports {
            census.queued += port.queued() as u64;
            census.kernel += u64::from(port.door.frames_in_kernel());
        }
        census.turns += 1;
        census.busy_turns += u64::from(worked);
        gauges.write(census);
    }

    /// A turn found nothing to do.
    #[inline]
    fn rest(&mut self, now: Instant, last_work: Instant) {
        match self.idle {
            Idle::SleepAfter(time) if now >= last_work.plus(time) => self.sleep(),
            _ => std::hint::spin_loop(),
        }
    }

    #[cold]
    fn sleep(&mut self) {
        self.bell.announce();
        if self.something_waits() {
            self.bell.rise(false);
            return;
        }
        if self.exits.polls_are_stale {
            self.build_poll_set();
        }
        let timeout = if self.exits.holds.is_empty() { SLEEP_MAX } else { CHORES_EVERY };
        self.census.sleeps += 1;
        // ENOMEM: then this is a turn without sleep.
        let _ = self.polls.wait(timeout);
        self.bell.rise(true);
    }

    /// The last look before sleeping.
    fn something_waits(&self) -> bool {
        let usable = |health| health != Health::Gone;
        self.stop.load(Ordering::Relaxed)
            || self.snapshots.is_stale()
            || !self.clerk.is_idle()
            || self.inboxes.iter().any(|inbox| !inbox.is_empty())
            || self
                .exits
                .ports
                .iter()
                .any(|port| port.is_pressed() || (usable(port.health) && port.door.waiting() > 0))
    }

    #[cold]
    fn build_poll_set(&mut self) {
        self.exits.polls_are_stale = false;
        self.polls = PollSet::new();
        self.polls.add(self.bell.as_fd());
        for port in self.exits.ports.iter().filter(|port| port.health != Health::Gone) {
            self.polls.add(port.door.poll_fd());
        }
    }

    /// Takes no more packets, waits until nobody sends any, and gives back every frame there is.
    fn wind_down(mut self) -> WorkerParts<D> {
        let now = self.clock.now();
        self.exits.flush(now);
        self.presence.send_no_more();
        let deadline = now.plus(WIND_DOWN);
        loop {
            let alone = self.presence.nobody_sends();
            for place in 0..self.inboxes.len() {
                for parcel in self.inboxes[place].take(usize::MAX) {
                    self.exits.counters.handed_in.add(1);
                    self.exits.discard(parcel.span, DropReason::Stopping);
                }
            }
            if alone || self.clock.now() >= deadline {
                break;
            }
            thread::sleep(Duration::from_micros(100));
        }
        let Self { mut exits, pipeline, .. } = self;
        while let Some(held) = exits.holds.pop() {
            exits.counters.resumed.add(1);
            exits.discard(held.span, DropReason::Stopping);
        }
        while let Some(span) = exits.gathered.take_any() {
            exits.counters.resumed.add(1);
            exits.discard(span, DropReason::Stopping);
        }
        for port in &mut exits.ports {
            let _ = port.flush(&mut exits.pool, &exits.counters, now);
            port.drop_queue(DropReason::Stopping, &mut exits.pool, &exits.counters);
            let _ = port.door.reclaim(&mut exits.pool);
        }
        let kernel = exits.ports.iter().map(|port| u64::from(port.door.frames_in_kernel())).sum();
        // The pool leaves its frames to the depot when `exits` goes.
        let census = Census { pool: 0, held: 0, queued: 0, kernel, ..self.census };
        let Exits { me, ports, pool, .. } = exits;
        drop(pool);
        self.gauges.write(&census);
        let doors = ports.into_iter().map(|port| (port.interface, port.door)).collect();
        WorkerParts { worker: me, pipeline, doors }
    }
}
