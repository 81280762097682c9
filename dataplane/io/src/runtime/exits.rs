//! Carrying verdicts out: every way a packet can leave a worker, each counted where it really leaves.
//!
//! - out of an interface: by the worker's own queue of that device, or, where the device has fewer queues
//!   than there are workers, as a parcel to the worker that has the queue. Counted `forwarded` by
//!   whoever puts it into the ring;
//! - to the host: as a parcel, counted `handed_out` here, and `delivered` by the host thread;
//! - to its owner: as a parcel; on hold, for its next hop or the rest of its datagram; or back to the pool.

use std::sync::Arc;

use arrayvec::ArrayVec;
use crossbeam::channel::Sender;
use postern_core::counters::Counters;
use postern_core::fragments::{self, PARTS_MAX};
use postern_core::time::Instant;
use postern_core::units::{INTERFACES_MAX, InterfaceId, WorkerId};
use postern_core::verdict::{DropReason, HostClass, Verdict};

use super::door::Door;
use super::gathered::GatheredFrames;
use super::handover::{Errand, Luggage, Outbox, Parcel};
use super::hold::{Held, Holds};
use super::port::{Health, Port};
use super::tray::Kept;
use super::{Event, Node, count_drop};
use crate::frame::{FRAME_HEADROOM, FrameIdx, FramePool, FrameSpan};
use crate::umem::Umem;
use crate::xdp::socket::SocketError;

/// How a worker reaches an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// There is no such interface.
    None,
    /// By a port of its own: the place among them.
    Own(usize),
    /// By another worker's.
    Via(WorkerId),
}

/// Everything by which packets leave a worker.
pub(crate) struct Exits<D> {
    pub(crate) me: WorkerId,
    pub(crate) ports: Vec<Port<D>>,
    pub(crate) ways: [Way; INTERFACES_MAX],
    pub(crate) peers: Vec<Option<Outbox>>,
    /// To the host, by class.
    pub(crate) host: [Outbox; HostClass::COUNT],
    pub(crate) holds: Holds,
    /// Fragments.
    pub(crate) gathered: GatheredFrames,
    pub(crate) umem: Arc<Umem>,
    pub(crate) pool: FramePool,
    pub(crate) counters: Arc<Counters>,
    pub(crate) events: Sender<Event>,
    /// A port is gone: it must not be polled any more.
    pub(crate) polls_are_stale: bool,
}

impl<D: Door> Exits<D> {
    /// Takes a decided packet where it belongs; what is staged leaves with [`flush`](Self::flush). Packets that
    /// are handed over or put on hold come with what was kept of them.
    #[inline]
    pub(crate) fn carry_out(
        &mut self,
        span: FrameSpan,
        verdict: Verdict,
        kept: Option<Kept>,
        now: Instant,
    ) {
        match verdict {
            Verdict::Forward { egress } => self.send(span, egress),
            Verdict::Deliver { interface, class } => self.deliver(span, interface, class),
            Verdict::Reply { egress, to_host } => {
                self.counters.generated.add(1);
                if to_host {
                    self.deliver(span, egress, HostClass::Established);
                } else {
                    self.send(span, egress);
                }
            }
            Verdict::Drop(reason) => self.discard(span, reason),
            Verdict::Split { egress, mtu } => self.split(span, egress, mtu, now),
            Verdict::HandOver { .. } | Verdict::Hold { .. } | Verdict::Gather { .. } => {
                self.send_on(span, verdict, kept, now);
            }
        }
    }

    /// To another worker, or on hold, for one reason or another.
    #[inline]
    fn send_on(&mut self, span: FrameSpan, verdict: Verdict, kept: Option<Kept>, now: Instant) {
        match (verdict, kept) {
            (Verdict::HandOver { worker }, Some(Kept { luggage, .. })) => {
                self.pass_on(worker, Parcel { span, luggage, errand: Errand::Process });
            }
            (Verdict::Hold { next_hop }, Some(Kept { luggage, source })) => {
                self.hold(Held { span, luggage, source, next_hop, since: now });
            }
            (Verdict::Gather { slot }, Some(Kept { luggage, .. })) => {
                match self.gathered.put(slot, span, luggage) {
                    Ok(()) => self.counters.held.add(1),
                    Err(span) => self.discard(span, DropReason::FragmentLimit),
                }
            }
            _ => unreachable!("what travels on is kept"),
        }
    }

    /// Out of an interface.
    #[inline]
    pub(crate) fn send(&mut self, span: FrameSpan, egress: InterfaceId) {
        match self.ways.get(egress.index()) {
            Some(&Way::Own(place)) => {
                if let Err((span, reason)) = self.ports[place].push(span) {
                    self.discard(span, reason);
                }
            }
            Some(&Way::Via(worker)) => {
                let luggage = Luggage::of_decided(egress);
                self.pass_on(worker, Parcel { span, luggage, errand: Errand::Send { egress } });
            }
            Some(Way::None) | None => self.discard(span, DropReason::InterfaceDown),
        }
    }

    /// How many more frames can be sent out of an interface before the next [`flush`](Self::flush), and the reason to
    /// drop others.
    fn room(&self, egress: InterfaceId) -> (usize, DropReason) {
        match self.ways.get(egress.index()) {
            Some(&Way::Own(place)) => self.ports[place].room(),
            Some(&Way::Via(worker)) => {
                let outbox = self.peers.get(worker.index()).and_then(Option::as_ref);
                (outbox.map_or(0, Outbox::room), DropReason::HandOverFull)
            }
            Some(Way::None) | None => (0, DropReason::InterfaceDown),
        }
    }

    /// Out of an interface, in parts: all of them or none.
    #[cold]
    fn split(&mut self, span: FrameSpan, egress: InterfaceId, mtu: u16, now: Instant) {
        let umem = Arc::clone(&self.umem);
        let (start, len) = (span.offset() as usize, span.len() as usize);
        let bytes = &umem.peek(span.frame())[start..start + len];
        let Some(split) = fragments::split(bytes, mtu) else {
            return self.discard(span, DropReason::MtuExceeded);
        };
        if self.room(egress).0 < split.parts() {
            self.flush(now);
        }
        let (room, full) = self.room(egress);
        if room < split.parts() {
            return self.discard(span, full);
        }
        let mut frames = ArrayVec::<FrameIdx, PARTS_MAX>::new();
        frames.extend(std::iter::from_fn(|| self.pool.take()).take(split.parts()));
        if frames.len() < split.parts() {
            frames.into_iter().for_each(|frame| self.pool.give(frame));
            return self.discard(span, DropReason::NoFrame);
        }
        self.counters.split(frames.len());
        for (part, mut frame) in frames.into_iter().enumerate() {
            let room = &mut umem.bytes(&mut frame)[FRAME_HEADROOM as usize..];
            let len = split.write(part, room).unwrap_or(0);
            match FrameSpan::new(frame, FRAME_HEADROOM, len as u32) {
                Ok(span) => self.send(span, egress),
                Err(frame) => {
                    // A part has more than an Ethernet header, and is shorter than what it is of.
                    count_drop(&self.counters, DropReason::TruncatedEthernet);
                    self.pool.give(frame);
                }
            }
        }
        self.pool.give(span.into_frame());
    }

    #[inline]
    fn pass_on(&mut self, worker: WorkerId, parcel: Parcel) {
        let refused = match self.peers.get_mut(worker.index()) {
            Some(Some(outbox)) => outbox.stage(parcel).err(),
            _ => Some(parcel),
        };
        if let Some(parcel) = refused {
            self.discard(parcel.span, DropReason::HandOverFull);
        }
    }

    fn deliver(&mut self, span: FrameSpan, interface: InterfaceId, class: HostClass) {
        let luggage = Luggage::of_decided(interface);
        let parcel = Parcel { span, luggage, errand: Errand::Send { egress: interface } };
        if let Err(parcel) = self.host[class.index()].stage(parcel) {
            self.discard(parcel.span, DropReason::HostQueueFull);
        }
    }

    fn hold(&mut self, held: Held) {
        match self.holds.put(held) {
            Ok(()) => self.counters.held.add(1),
            Err(held) => self.discard(held.span, DropReason::HoldFull),
        }
    }

    /// Back to the pool, under a reason.
    #[inline]
    pub(crate) fn discard(&mut self, span: FrameSpan, reason: DropReason) {
        count_drop(&self.counters, reason);
        self.pool.give(span.into_frame());
    }

    /// Publishes what a burst left behind: once a destination.
    #[inline]
    pub(crate) fn flush(&mut self, now: Instant) {
        let Self { peers, host, pool, counters, .. } = self;
        for peer in peers.iter_mut().flatten().filter(|peer| !peer.is_empty()) {
            publish(peer, DropReason::HandOverFull, pool, counters);
        }
        for outbox in host {
            if !outbox.is_empty() {
                publish(outbox, DropReason::HostQueueFull, pool, counters);
            }
        }
        for place in 0..self.ports.len() {
            if let Err(error) = self.ports[place].flush(&mut self.pool, &self.counters, now) {
                self.trouble(place, error);
            }
        }
    }

    /// Takes sent frames back and gives the devices new ones.
    #[inline]
    pub(crate) fn restock(&mut self) {
        for place in 0..self.ports.len() {
            let port = &mut self.ports[place];
            let reclaimed = port.door.reclaim(&mut self.pool);
            port.door.refill(&mut self.pool);
            if let Err(error) = reclaimed {
                self.trouble(place, error);
            }
        }
        self.pool.balance();
    }

    /// Tells control what a door said, once for each change of its health; of what leaves it up the first time, the second, the
    /// fourth and so on.
    #[cold]
    pub(crate) fn trouble(&mut self, place: usize, error: SocketError) {
        let port = &mut self.ports[place];
        let (worker, interface) = (self.me, port.interface);
        let health = match error {
            SocketError::DeviceGone => Health::Gone,
            SocketError::DeviceDown => Health::Down,
            _ => port.health,
        };
        if health == Health::Gone {
            port.drop_queue(DropReason::InterfaceDown, &mut self.pool, &self.counters);
            self.polls_are_stale = true;
        }
        let told = if health == Health::Up {
            port.troubles = port.troubles.saturating_add(1);
            port.troubles.is_power_of_two()
        } else {
            health != port.health
        };
        if told {
            port.health = health;
            let _ =
                self.events.try_send(Event::Door { node: Node::Worker(worker), interface, error });
        }
    }
}

/// Publishes an outbox, counts what went, and takes back what found no room.
fn publish(outbox: &mut Outbox, full: DropReason, pool: &mut FramePool, counters: &Counters) {
    let (sent, refused) = outbox.flush();
    counters.handed_out.add(sent as u64);
    for parcel in refused {
        counters.drop(full);
        pool.give(parcel.span.into_frame());
    }
}
