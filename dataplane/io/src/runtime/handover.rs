//! Frames between threads: bounded rings, one for each ordered pair, and a doorbell for who sleeps.
//!
//! A [`Parcel`] carries a frame by descriptor, with what was found out about it; nothing is copied. A
//! sender stages the parcels of a burst and publishes them once ([`Outbox::flush`]); what finds no room
//! stays with the sender, who counts it. Each thread has one [`Doorbell`]: a flag on a cache line of
//! its own that says whether it sleeps, and an eventfd in its poll set that is written only then.
//!
//! The host thread has a ring from each worker for each [`HostClass`], so that a flood of packets for the host
//! cannot starve it of what keeps the links and the logins alive.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam::utils::CachePadded;
use postern_core::burst::{BURST_MAX, Origin, Seen, Visit};
use postern_core::units::{Generation, InterfaceId};
use postern_core::verdict::HostClass;
use rtrb::{Consumer, Producer, RingBuffer};

use crate::frame::FrameSpan;
use crate::wait::Wake;

/// What the receiver of a [`Parcel`] is to do with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Errand {
    /// Decide about it: the receiver owns its connection.
    Process,
    /// All is decided: send it out of `egress` (a worker), or give it to that interface's TAP (the host).
    Send {
        /// Where it leaves.
        egress: InterfaceId,
    },
}

/// What is known of a packet besides its frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Luggage {
    /// The interface it came in by, or whose TAP it came from.
    pub(crate) interface: InterfaceId,
    /// Wire or host.
    pub(crate) origin: Origin,
    /// Which workers were asked already.
    pub(crate) visit: Visit,
    /// What it was found to be.
    pub(crate) seen: Seen,
    /// The snapshot by which it was steered.
    pub(crate) steered_by: Generation,
}

impl Luggage {
    /// Forgets where a packet was sent to and by whom it was sought, unless that is what the snapshot `by` says: it
    /// will be parsed and steered like one that was just received.
    ///
    /// By another snapshot it may have another owner; and who was asked for its connection under the older one may
    /// have got it since, from a packet that was steered by the newer.
    #[inline]
    pub(crate) fn steer_anew_unless(&mut self, by: Generation) {
        if self.steered_by != by {
            self.visit = Visit::default();
            self.seen = self.seen.anew();
        }
    }
}

/// A frame on its way to another thread.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) span: FrameSpan,
    pub(crate) luggage: Luggage,
    pub(crate) errand: Errand,
}

// A ring's parcels should stay in a core's own cache.
const _: () = assert!(size_of::<Parcel>() <= 48);

/// How a thread is woken.
///
/// The protocol that loses no wake-up: a sender publishes, fences, looks at the flag; a sleeper raises the
/// flag ([`announce`](Self::announce)), fences, looks at everything once more, and only then sleeps.
#[derive(Debug)]
pub(crate) struct Doorbell {
    sleeping: CachePadded<AtomicBool>,
    wake: Wake,
}

impl Doorbell {
    pub(crate) fn new() -> io::Result<Arc<Self>> {
        let sleeping = CachePadded::new(AtomicBool::new(false));
        Ok(Arc::new(Self { sleeping, wake: Wake::new()? }))
    }

    /// Wakes the owner if it sleeps. After publishing what it should see.
    #[inline]
    pub(crate) fn knock(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) {
            self.ring();
        }
    }

    #[cold]
    fn ring(&self) {
        if self.sleeping.swap(false, Ordering::AcqRel) {
            self.wake.ring();
        }
    }

    /// Owner: about to sleep. Everything must be looked at once more after this.
    pub(crate) fn announce(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Owner: awake again. A ring that comes too late costs one empty turn.
    pub(crate) fn rise(&self, slept: bool) {
        self.sleeping.store(false, Ordering::Relaxed);
        if slept {
            self.wake.clear();
        }
    }

    /// For the owner's poll set.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// The sending end of a ring.
pub(crate) struct Outbox {
    ring: Producer<Parcel>,
    /// This burst's parcels, at most [`BURST_MAX`].
    staged: Vec<Parcel>,
    bell: Arc<Doorbell>,
}

impl Outbox {
    /// Keeps a parcel for the next [`flush`](Self::flush); gives it back if a whole burst waits already.
    #[inline]
    pub(crate) fn stage(&mut self, parcel: Parcel) -> Result<(), Parcel> {
        if self.staged.len() == BURST_MAX {
            return Err(parcel);
        }
        self.staged.push(parcel);
        Ok(())
    }

    /// How many more parcels are sure to leave with the next flush.
    pub(crate) fn room(&self) -> usize {
        BURST_MAX.min(self.ring.slots()).saturating_sub(self.staged.len())
    }

    /// Whether a flush has anything to do.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.staged.is_empty()
    }

    /// Publishes the staged parcels and wakes the receiver if it sleeps. Returns how many went, and those
    /// that found no room.
    pub(crate) fn flush(&mut self) -> (usize, impl Iterator<Item = Parcel>) {
        let wanted = self.staged.len();
        let room = match self.ring.cached_slots() {
            cached if cached >= wanted => wanted,
            _ => self.ring.slots().min(wanted),
        };
        let mut sent = 0;
        if room > 0
            && let Ok(chunk) = self.ring.write_chunk_uninit(room)
        {
            sent = chunk.fill_from_iter(self.staged.drain(..room));
            self.bell.knock();
        }
        (sent, self.staged.drain(..))
    }
}

/// The receiving end of a ring.
pub(crate) struct Inbox {
    ring: Consumer<Parcel>,
}

impl Inbox {
    /// Takes up to `max` parcels.
    #[inline]
    pub(crate) fn take(&mut self, max: usize) -> impl Iterator<Item = Parcel> {
        let count = self.ring.slots().min(max);
        self.ring.read_chunk(count).into_iter().flatten()
    }

    /// Whether nothing waits.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }
}

/// A worker's ends of all rings.
pub(crate) struct WorkerLinks {
    /// To the other workers, by worker; `None` at its own place.
    pub(crate) peers: Vec<Option<Outbox>>,
    /// To the host, by class.
    pub(crate) host: [Outbox; HostClass::COUNT],
    /// From the other workers and, last, from the host.
    pub(crate) inboxes: Vec<Inbox>,
    pub(crate) bell: Arc<Doorbell>,
}

/// The host thread's ends of all rings.
pub(crate) struct HostLinks {
    /// To the workers.
    pub(crate) workers: Vec<Outbox>,
    /// By class, from each worker.
    pub(crate) inboxes: [Vec<Inbox>; HostClass::COUNT],
    pub(crate) bell: Arc<Doorbell>,
}

/// Ties `workers` workers and the host thread together by rings of `depth` parcels.
pub(crate) fn mesh(workers: usize, depth: usize) -> io::Result<(Vec<WorkerLinks>, HostLinks)> {
    let ring = |bell: &Arc<Doorbell>| {
        let (producer, consumer) = RingBuffer::new(depth);
        let staged = Vec::with_capacity(BURST_MAX);
        (Outbox { ring: producer, staged, bell: Arc::clone(bell) }, Inbox { ring: consumer })
    };
    let bells: Vec<_> = (0..workers).map(|_| Doorbell::new()).collect::<io::Result<_>>()?;
    let mut inboxes: Vec<Vec<Inbox>> = (0..workers).map(|_| Vec::new()).collect();
    let mut host =
        HostLinks { workers: Vec::new(), inboxes: Default::default(), bell: Doorbell::new()? };
    let mut outboxes = Vec::new();
    for from in 0..workers {
        let mut peers = Vec::new();
        for to in 0..workers {
            peers.push((from != to).then(|| {
                let (outbox, inbox) = ring(&bells[to]);
                inboxes[to].push(inbox);
                outbox
            }));
        }
        let to_host = HostClass::ALL.map(|class| {
            let (outbox, inbox) = ring(&host.bell);
            host.inboxes[class.index()].push(inbox);
            outbox
        });
        outboxes.push((peers, to_host));
    }
    for to in 0..workers {
        let (outbox, inbox) = ring(&bells[to]);
        inboxes[to].push(inbox);
        host.workers.push(outbox);
    }
    let links = outboxes
        .into_iter()
        .zip(inboxes)
        .zip(bells)
        .map(|(((peers, host), inboxes), bell)| WorkerLinks { peers, host, inboxes, bell })
        .collect();
    Ok((links, host))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::frame::{FrameIdx, FrameSpan};
    use crate::umem::Umem;
    use crate::wait::PollSet;

    fn parcel(frame: FrameIdx) -> Parcel {
        let interface = InterfaceId(0);
        let span = FrameSpan::new(frame, 0, 60).expect("it fits");
        Parcel { span, luggage: Luggage::of_decided(interface), errand: Errand::Process }
    }

    #[test]
    fn what_finds_no_room_stays_with_the_sender_and_order_is_kept() {
        let (_umem, mut frames) = Umem::new(200).expect("memory");
        let (mut links, _host) = mesh(2, 40).expect("eventfds");
        let (mut second, mut first) = (links.pop().expect("two"), links.pop().expect("two"));
        let outbox = first.peers[1].as_mut().expect("a way to the other");
        let numbers: Vec<u32> = (0..BURST_MAX)
            .map(|_| {
                let parcel = parcel(frames.next().expect("a frame"));
                let number = parcel.span.frame().number();
                outbox.stage(parcel).expect("room for a burst");
                number
            })
            .collect();
        assert!(outbox.stage(parcel(frames.next().expect("a frame"))).is_err(), "one too many");
        let (sent, refused) = outbox.flush();
        let refused: Vec<u32> = refused.map(|parcel| parcel.span.frame().number()).collect();
        assert_eq!((sent, &refused[..]), (40, &numbers[40..]));
        assert!(outbox.is_empty());
        let mut taken = Vec::new();
        while !second.inboxes[0].is_empty() {
            let burst = second.inboxes[0].take(7);
            taken.extend(burst.map(|parcel| parcel.span.frame().number()));
        }
        assert_eq!(taken, numbers[..40]);
    }

    /// Two threads that sleep at every opportunity, with nothing but the bell to wake them, pass a few
    /// frames to and fro. A single lost wake-up would stop them for good.
    #[test]
    fn no_wake_up_is_lost() {
        const PASSES: u64 = 30_000;
        let (_umem, mut frames) = Umem::new(3).expect("memory");
        let (mut links, _host) = mesh(2, 8).expect("eventfds");
        let mut second = links.pop().expect("two");
        let mut first = links.pop().expect("two");
        for _ in 0..3 {
            let parcel = parcel(frames.next().expect("a frame"));
            first.peers[1].as_mut().expect("the other").stage(parcel).expect("room");
        }
        assert_eq!(first.peers[1].as_mut().expect("the other").flush().0, 3);
        let pass = |links: &mut WorkerLinks, to: usize| {
            let mut polls = PollSet::new();
            polls.add(links.bell.as_fd());
            let mut passed = 0;
            let start = Instant::now();
            while passed < PASSES {
                let outbox = links.peers[to].as_mut().expect("the other");
                for parcel in links.inboxes[0].take(2) {
                    passed += 1;
                    outbox.stage(parcel).expect("room");
                }
                assert_eq!(outbox.flush().1.count(), 0);
                links.bell.announce();
                let waits = !links.inboxes[0].is_empty();
                if !waits && passed < PASSES {
                    polls.wait(Duration::from_secs(20)).expect("poll");
                }
                links.bell.rise(!waits);
                assert!(start.elapsed() < Duration::from_secs(20), "asleep after {passed} passes");
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| pass(&mut first, 1));
            scope.spawn(|| pass(&mut second, 0));
        });
    }
}
