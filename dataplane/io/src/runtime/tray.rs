//! A burst between frames and pipeline: borrowing up to 64 frames at once, and taking them back.

use std::net::IpAddr;

use arrayvec::ArrayVec;
use postern_core::burst::{BURST_MAX, Burst, Origin, Packet, Seen, Visit};
use postern_core::counters::Counters;
use postern_core::pipeline::Pipeline;
use postern_core::snapshot::Snapshot;
use postern_core::time::Instant;
use postern_core::units::{Generation, InterfaceId, WorkerId};
use postern_core::verdict::{DropReason, Verdict};

use super::count_drop;
use super::door::Door;
use super::exits::Exits;
use super::handover::Luggage;
use super::hold::Held;
use crate::frame::{FRAME_SIZE, FrameSpan};
use crate::umem::Umem;

/// Where the packets of a tray came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// Just received by an interface; nothing is known of them.
    Wire(InterfaceId),
    /// Handed over; each has its luggage.
    Parcels,
    /// Held until now; each has its luggage and its time.
    Held,
}

/// Up to a burst of frames to be decided about. The three lists are parallel as far as [`Source`] says.
#[derive(Default)]
pub(crate) struct Tray {
    pub(crate) spans: ArrayVec<FrameSpan, BURST_MAX>,
    pub(crate) luggage: ArrayVec<Luggage, BURST_MAX>,
    pub(crate) since: ArrayVec<Instant, BURST_MAX>,
}

/// What a worker decides with.
pub(crate) struct Court<'a> {
    pub(crate) pipeline: &'a mut Pipeline<'static>,
    pub(crate) umem: &'a Umem,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) me: WorkerId,
    pub(crate) now: Instant,
}

/// What became of a packet, until its frame is free of the borrow.
struct Fate {
    verdict: Verdict,
    start: u16,
    len: u16,
}

impl Fate {
    /// Whether what is known of the packet is needed again.
    const fn travels_on(&self) -> bool {
        matches!(
            self.verdict,
            Verdict::HandOver { .. } | Verdict::Hold { .. } | Verdict::Gather { .. }
        )
    }
}

/// What is kept of a packet that travels on.
pub(crate) struct Kept {
    pub(crate) luggage: Luggage,
    /// Whose it is.
    pub(crate) source: Option<IpAddr>,
}

const _: () = assert!(FRAME_SIZE <= u16::MAX as u32, "an offset in a frame fits 16 bits");

impl Luggage {
    /// Of a packet that nobody will look at again.
    pub(crate) const fn of_decided(interface: InterfaceId) -> Self {
        let visit = Visit::NONE;
        let steered_by = Generation(0);
        Self { interface, origin: Origin::Wire, visit, seen: Seen::Unseen, steered_by }
    }
}

impl Tray {
    /// Decides all packets on the tray and carries the verdicts out; the tray is empty then.
    #[inline]
    pub(crate) fn run<D: Door>(&mut self, source: Source, court: Court<'_>, exits: &mut Exits<D>) {
        if self.spans.is_empty() {
            return;
        }
        let now = court.now;
        // Filled in place: what is returned by value is copied, all of it.
        let (mut fates, mut kept) = (ArrayVec::new(), ArrayVec::new());
        self.decide(source, court, &exits.counters, &mut fates, &mut kept);
        let mut kept = kept.drain(..);
        for (index, (span, fate)) in self.spans.drain(..).zip(fates).enumerate() {
            let kept = if fate.travels_on() { kept.next() } else { None };
            let Fate { verdict, start, len } = fate;
            let span = match FrameSpan::new(span.into_frame(), u32::from(start), u32::from(len)) {
                Ok(span) => span,
                Err(frame) => {
                    // The pipeline never makes one; a packet that is none cannot be sent.
                    count_drop(&exits.counters, DropReason::TruncatedEthernet);
                    exits.pool.give(frame);
                    continue;
                }
            };
            match verdict {
                Verdict::Forward { egress } if source != Source::Held => exits.send(span, egress),
                verdict if source == Source::Held => {
                    take_up(exits, span, verdict, kept, self.since[index], now);
                }
                verdict => exits.carry_out(span, verdict, kept, now),
            }
        }
        self.since.clear();
    }

    /// Lends the frames to the pipeline. Adds every packet's fate, and what is kept of those that travel on, in
    /// order.
    #[inline]
    fn decide(
        &mut self,
        source: Source,
        court: Court<'_>,
        counters: &Counters,
        fates: &mut ArrayVec<Fate, BURST_MAX>,
        kept: &mut ArrayVec<Kept, BURST_MAX>,
    ) {
        let Court { pipeline, umem, snapshot, me, now } = court;
        let mut burst = Burst::default();
        let mut luggage = self.luggage.drain(..);
        for span in &mut self.spans {
            let (start, len) = (span.offset() as usize, span.len() as usize);
            let room = umem.bytes(span.frame_mut());
            let packet = match (source, luggage.next()) {
                (Source::Wire(interface), _) => Packet {
                    room,
                    start,
                    len,
                    interface,
                    origin: Origin::Wire,
                    seen: Seen::Unseen,
                    parsed: None,
                    visit: Visit::default(),
                },
                (_, Some(Luggage { interface, origin, visit, seen, .. })) => {
                    Packet { room, start, len, interface, origin, seen, parsed: None, visit }
                }
                (_, None) => unreachable!("a parcel has its luggage"),
            };
            burst.packets.push(packet);
        }
        match source {
            Source::Held => pipeline.resume(&mut burst, me, snapshot, counters, now),
            _ => pipeline.process_burst(&mut burst, me, snapshot, counters, now),
        }
        for (packet, &verdict) in burst.packets.iter().zip(&burst.verdicts) {
            let fate = Fate { verdict, start: packet.start as u16, len: packet.len as u16 };
            if fate.travels_on() {
                let luggage = Luggage {
                    interface: packet.interface,
                    origin: packet.origin,
                    visit: packet.visit,
                    seen: packet.seen,
                    steered_by: snapshot.generation,
                };
                let source = packet.parsed.as_ref().map(|headers| headers.tuple.src());
                kept.push(Kept { luggage, source });
            }
            fates.push(fate);
        }
        debug_assert_eq!(fates.len(), burst.packets.len(), "one verdict a packet");
    }
}

/// What becomes of a packet that was on hold: it waits on, uncounted and as old as it is, or leaves.
fn take_up<D: Door>(
    exits: &mut Exits<D>,
    span: FrameSpan,
    verdict: Verdict,
    kept: Option<Kept>,
    since: Instant,
    now: Instant,
) {
    if let (Verdict::Hold { next_hop }, Some(Kept { luggage, source })) = (verdict, &kept) {
        let (luggage, source) = (*luggage, *source);
        exits.holds.put_back(Held { span, luggage, source, next_hop, since });
    } else {
        exits.counters.resumed.add(1);
        exits.carry_out(span, verdict, kept, now);
    }
}
