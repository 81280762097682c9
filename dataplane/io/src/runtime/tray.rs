//! A burst between frames and pipeline: borrowing up to 64 frames at once, and taking them back.

use arrayvec::ArrayVec;
use postern_core::burst::{BURST_MAX, Burst, Origin, Packet, Visit};
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
        matches!(self.verdict, Verdict::HandOver { .. } | Verdict::Hold { .. })
    }
}

const _: () = assert!(FRAME_SIZE <= u16::MAX as u32, "an offset in a frame fits 16 bits");

impl Luggage {
    /// Of a packet that nobody will look at again.
    pub(crate) const fn of_decided(interface: InterfaceId) -> Self {
        let visit = Visit { visited: 0, admit: false, clash: false, accepted: None };
        let steered_by = Generation(0);
        Self { interface, origin: Origin::Wire, visit, parsed: None, steered_by }
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
            let luggage = if fate.travels_on() { kept.next() } else { None };
            match (verdict, luggage) {
                (Verdict::Forward { egress }, _) if source != Source::Held => {
                    exits.send(span, egress);
                }
                (verdict, luggage) if source == Source::Held => {
                    take_up(exits, span, verdict, luggage, self.since[index], now);
                }
                (verdict, luggage) => exits.carry_out(span, verdict, luggage, now),
            }
        }
        self.since.clear();
    }

    /// Lends the frames to the pipeline. Adds every packet's fate, and the luggage of those that travel on with it,
    /// in order.
    #[inline]
    fn decide(
        &mut self,
        source: Source,
        court: Court<'_>,
        counters: &Counters,
        fates: &mut ArrayVec<Fate, BURST_MAX>,
        kept: &mut ArrayVec<Luggage, BURST_MAX>,
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
                    parsed: None,
                    visit: Visit::default(),
                },
                (_, Some(Luggage { interface, origin, visit, parsed, .. })) => {
                    Packet { room, start, len, interface, origin, parsed, visit }
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
                kept.push(Luggage {
                    interface: packet.interface,
                    origin: packet.origin,
                    visit: packet.visit,
                    parsed: packet.parsed,
                    steered_by: snapshot.generation,
                });
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
    luggage: Option<Luggage>,
    since: Instant,
    now: Instant,
) {
    if let (Verdict::Hold { next_hop }, Some(luggage)) = (verdict, luggage) {
        exits.holds.put_back(Held { span, luggage, next_hop, since });
    } else {
        exits.counters.resumed.add(1);
        exits.carry_out(span, verdict, luggage, now);
    }
}
