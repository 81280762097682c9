//! The host thread: owns every TAP, and trades packets with the workers as if it were one of them.
//!
//! From a TAP: read into a frame, parse, hand to the owner of the connection; counted `from_host` and
//! `handed_out`. To a TAP: taken from the workers' rings, the best class first, each class within a
//! budget of packets a second for its interface; counted `handed_in` and `delivered`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam::channel::Sender;
use postern_core::burst::{BURST_MAX, Origin, Seen, Visit};
use postern_core::counters::Counters;
use postern_core::parse;
use postern_core::time::Instant;
use postern_core::units::{INTERFACES_MAX, InterfaceId};
use postern_core::verdict::{DropReason, HostClass};

use super::census::{Census, Gauges};
use super::door::HostDoor;
use super::handover::{Errand, HostLinks, Luggage, Parcel};
use super::mailbox::SnapshotReader;
use super::{Clock, Event, Node, Presence, WIND_DOWN, count_drop};
use crate::frame::{FRAME_HEADROOM, FramePool, FrameSpan};
use crate::umem::Umem;
use crate::wait::PollSet;

/// The longest sleep; everything that matters rings.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// How many packets a second of each class an interface may put on the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostBudget {
    /// Packets a second.
    pub rate: u32,
    /// Packets at once.
    pub burst: u32,
}

impl Default for HostBudget {
    fn default() -> Self {
        Self { rate: 200_000, burst: 4_096 }
    }
}

/// What is left of a budget.
#[derive(Debug)]
struct Allowance {
    budget: HostBudget,
    /// In millionths of a packet, so that nothing is lost between turns.
    micropackets: u64,
    refilled: Instant,
}

const MICRO: u64 = 1_000_000;

impl Allowance {
    fn new(budget: HostBudget, now: Instant) -> Self {
        Self { budget, micropackets: u64::from(budget.burst) * MICRO, refilled: now }
    }

    fn refill(&mut self, now: Instant) {
        // A microsecond earns `rate` micropackets. A second fills any budget that matters.
        let micros = now.0.saturating_sub(self.refilled.0) / 1_000;
        let earned = micros.min(MICRO) * u64::from(self.budget.rate);
        let most = u64::from(self.budget.burst) * MICRO;
        self.micropackets = (self.micropackets + earned).min(most);
        self.refilled = self.refilled.plus(Duration::from_micros(micros));
    }

    fn spend(&mut self) -> bool {
        let left = self.micropackets.checked_sub(MICRO);
        self.micropackets = left.unwrap_or(self.micropackets);
        left.is_some()
    }
}

/// One TAP.
pub(super) struct HostPort<T> {
    tap: T,
    interface: InterfaceId,
    /// By class: none can starve another.
    allowances: [Allowance; HostClass::COUNT],
    gone: bool,
}

impl<T> HostPort<T> {
    pub(super) fn new(interface: InterfaceId, tap: T, budget: HostBudget, now: Instant) -> Self {
        let allowances = HostClass::ALL.map(|_| Allowance::new(budget, now));
        Self { tap, interface, allowances, gone: false }
    }
}

/// The host thread, ready to run.
pub struct Host<T> {
    pub(super) ports: Vec<HostPort<T>>,
    pub(super) links: HostLinks,
    pub(super) snapshots: SnapshotReader,
    pub(super) pool: FramePool,
    pub(super) umem: Arc<Umem>,
    pub(super) counters: Arc<Counters>,
    pub(super) gauges: Arc<Gauges>,
    pub(super) clock: Clock,
    pub(super) events: Sender<Event>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) presence: Presence,
    pub(super) core: Option<usize>,
    pub(super) places: [Option<usize>; INTERFACES_MAX],
    pub(super) census: Census,
    pub(super) polls: PollSet,
}

impl<T: HostDoor> Host<T> {
    /// Runs until told to stop. Returns the TAPs.
    pub fn run(mut self) -> Vec<(InterfaceId, T)> {
        if let Some(core) = self.core
            && !core_affinity::set_for_current(core_affinity::CoreId { id: core })
        {
            let _ = self.events.try_send(Event::NotPinned { node: Node::Host, core });
        }
        self.build_poll_set();
        while !self.stop.load(Ordering::Relaxed) {
            let now = self.clock.now();
            self.snapshots.adopt();
            let mut worked = self.deliver(now);
            for place in 0..self.ports.len() {
                worked |= self.read(place);
                self.flush();
            }
            self.pool.balance();
            self.publish_census(worked);
            if !worked {
                self.sleep();
            }
        }
        self.wind_down()
    }

    /// From the workers to the TAPs: a burst of each ring.
    fn deliver(&mut self, now: Instant) -> bool {
        for allowance in self.ports.iter_mut().flat_map(|port| &mut port.allowances) {
            allowance.refill(now);
        }
        let mut worked = false;
        for class in HostClass::ALL {
            for place in 0..self.links.workers.len() {
                let Self { links, ports, places, umem, counters, pool, .. } = self;
                let inbox = &mut links.inboxes[class.index()][place];
                for Parcel { mut span, errand, .. } in inbox.take(BURST_MAX) {
                    worked = true;
                    counters.handed_in.add(1);
                    let port = match errand {
                        Errand::Send { egress } => {
                            places.get(egress.index()).copied().flatten().map(|p| &mut ports[p])
                        }
                        Errand::Process => None, // workers send none
                    };
                    match write(port, umem.packet(&mut span), class) {
                        Ok(()) => counters.delivered.add(1),
                        Err(reason) => count_drop(counters, reason),
                    }
                    pool.give(span.into_frame());
                }
            }
        }
        worked
    }

    /// From one TAP to the workers: up to a burst.
    fn read(&mut self, place: usize) -> bool {
        let mut worked = false;
        for _ in 0..BURST_MAX {
            if self.ports[place].gone {
                break;
            }
            // No frame: what the host sends waits in its TAP's queue.
            let Some(mut frame) = self.pool.take() else { break };
            let port = &mut self.ports[place];
            let read = port.tap.read(&mut self.umem.bytes(&mut frame)[FRAME_HEADROOM as usize..]);
            match read {
                Ok(Some(len)) => {
                    worked = true;
                    self.counters.from_host.add(1);
                    match FrameSpan::new(frame, FRAME_HEADROOM, len as u32) {
                        Ok(span) => self.steer(span, place),
                        Err(frame) => {
                            count_drop(&self.counters, DropReason::TruncatedEthernet);
                            self.pool.give(frame);
                        }
                    }
                }
                Ok(None) => {
                    self.pool.give(frame);
                    break;
                }
                Err(error) => {
                    self.pool.give(frame);
                    self.trouble(place, error);
                    break;
                }
            }
        }
        worked
    }

    /// Hands a packet from the host to the owner of its connection.
    fn steer(&mut self, mut span: FrameSpan, place: usize) {
        let snapshot = self.snapshots.current();
        let interface = self.ports[place].interface;
        let parsed = match snapshot.interfaces.get(interface) {
            // The kernel's own checksums are taken on trust.
            Some(known) => parse::parse(self.umem.packet(&mut span), known, Origin::Host, false),
            None => Err(DropReason::InterfaceDown),
        };
        let headers = match parsed {
            Ok(headers) => headers,
            Err(reason) => return self.discard(span, reason),
        };
        let owner = snapshot.steering.owner_of(&headers.tuple, headers.kind);
        let luggage = Luggage {
            interface,
            origin: Origin::Host,
            visit: Visit::default(),
            seen: Seen::Sound,
            steered_by: snapshot.generation,
        };
        let parcel = Parcel { span, luggage, errand: Errand::Process };
        let refused = match self.links.workers.get_mut(owner.index()) {
            Some(outbox) => outbox.stage(parcel).err(),
            None => Some(parcel),
        };
        if let Some(parcel) = refused {
            self.discard(parcel.span, DropReason::HandOverFull);
        }
    }

    /// Publishes what was read, once a worker.
    fn flush(&mut self) {
        let Self { links, counters, pool, .. } = self;
        for outbox in links.workers.iter_mut().filter(|outbox| !outbox.is_empty()) {
            let (sent, refused) = outbox.flush();
            counters.handed_out.add(sent as u64);
            for parcel in refused {
                count_drop(counters, DropReason::HandOverFull);
                pool.give(parcel.span.into_frame());
            }
        }
    }

    fn discard(&mut self, span: FrameSpan, reason: DropReason) {
        count_drop(&self.counters, reason);
        self.pool.give(span.into_frame());
    }

    /// A TAP that cannot be read is gone: its interface has no host any more.
    #[cold]
    fn trouble(&mut self, place: usize, error: io::Error) {
        if error.kind() == io::ErrorKind::Interrupted {
            return;
        }
        let port = &mut self.ports[place];
        port.gone = true;
        let _ = self.events.try_send(Event::Tap { interface: port.interface, error });
        self.build_poll_set();
    }

    fn publish_census(&mut self, worked: bool) {
        self.census.pool = self.pool.len() as u64;
        self.census.turns += 1;
        self.census.busy_turns += u64::from(worked);
        self.gauges.write(&self.census);
    }

    fn sleep(&mut self) {
        let HostLinks { inboxes, bell, .. } = &self.links;
        bell.announce();
        let something_waits = self.stop.load(Ordering::Relaxed)
            || self.snapshots.is_stale()
            || inboxes.iter().flatten().any(|inbox| !inbox.is_empty());
        if !something_waits {
            self.census.sleeps += 1;
            // ENOMEM: then this is a turn without sleep.
            let _ = self.polls.wait(SLEEP_MAX);
        }
        bell.rise(!something_waits);
    }

    fn build_poll_set(&mut self) {
        self.polls = PollSet::new();
        self.polls.add(self.links.bell.as_fd());
        for port in self.ports.iter().filter(|port| !port.gone) {
            self.polls.add(port.tap.poll_fd());
        }
    }

    /// As a worker's: sends no more, takes what still comes, gives every frame back.
    fn wind_down(mut self) -> Vec<(InterfaceId, T)> {
        self.presence.send_no_more();
        let deadline = self.clock.now().plus(WIND_DOWN);
        loop {
            let alone = self.presence.nobody_sends();
            let Self { links: HostLinks { inboxes, .. }, counters, pool, .. } = &mut self;
            for inbox in inboxes.iter_mut().flatten() {
                for parcel in inbox.take(usize::MAX) {
                    counters.handed_in.add(1);
                    count_drop(counters, DropReason::Stopping);
                    pool.give(parcel.span.into_frame());
                }
            }
            if alone || self.clock.now() >= deadline {
                break;
            }
            thread::sleep(Duration::from_micros(100));
        }
        let Self { ports, pool, gauges, census, .. } = self;
        drop(pool);
        gauges.write(&Census { pool: 0, ..census });
        ports.into_iter().map(|port| (port.interface, port.tap)).collect()
    }
}

/// Gives a TAP one packet, if its interface may put one more on the host.
fn write<T: HostDoor>(
    port: Option<&mut HostPort<T>>,
    packet: &[u8],
    class: HostClass,
) -> Result<(), DropReason> {
    let Some(port) = port.filter(|port| !port.gone) else {
        return Err(DropReason::InterfaceDown);
    };
    if !port.allowances[class.index()].spend() {
        return Err(DropReason::HostQueueFull);
    }
    port.tap.write(packet).map_err(|error| match error.raw_os_error() {
        Some(libc::EIO) => DropReason::InterfaceDown,
        _ => DropReason::HostQueueFull,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_allows_its_burst_then_its_rate() {
        let budget = HostBudget { rate: 1_000, burst: 3 };
        let mut allowance = Allowance::new(budget, Instant(0));
        let mut spend_all = |now| {
            allowance.refill(now);
            (0..100).take_while(|_| allowance.spend()).count()
        };
        let at = |ms: u64| Instant(ms * 1_000_000);
        assert_eq!(spend_all(at(0)), 3, "the burst");
        assert_eq!(spend_all(Instant(999_999)), 0, "not a millisecond yet");
        assert_eq!(spend_all(at(1)), 1, "one a millisecond");
        assert_eq!(spend_all(at(3)), 2);
        assert_eq!(spend_all(at(3_600_000)), 3, "no more than the burst, however long it was idle");
    }
}
