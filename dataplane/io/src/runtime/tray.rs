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
use super::exits::{Decided, Exits};
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
        let (mut fates, mut kept) = self.decide(source, court, &exits.counters);
        let mut kept = kept.drain(..);
        for (index, (span, fate)) in self.spans.drain(..).zip(fates.drain(..)).enumerate() {
            let Fate { verdict, start, len } = fate;
            let luggage = match verdict {
                Verdict::HandOver { .. } | Verdict::Hold { .. } => kept.next(),
                _ => None,
            };
            let luggage = luggage.unwrap_or(Luggage::of_decided(InterfaceId::NONE));
            match FrameSpan::new(span.into_frame(), u32::from(start), u32::from(len)) {
                Err(frame) => {
                    // The pipeline never makes one; a packet that is none cannot be sent.
                    count_drop(&exits.counters, DropReason::TruncatedEthernet);
                    exits.pool.give(frame);
                }
                Ok(span) if source == Source::Held => {
                    take_up(exits, Decided { span, luggage, verdict }, self.since[index], now);
                }
                Ok(span) => exits.carry_out(Decided { span, luggage, verdict }, now),
            }
        }
        self.since.clear();
    }

    /// Lends the frames to the pipeline. Returns every packet's fate, and the luggage of those that
    /// travel on with it, in order.
    #[inline]
    fn decide(
        &mut self,
        source: Source,
        court: Court<'_>,
        counters: &Counters,
    ) -> (ArrayVec<Fate, BURST_MAX>, ArrayVec<Luggage, BURST_MAX>) {
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
        let mut fates = ArrayVec::new();
        let mut kept = ArrayVec::new();
        for (packet, &verdict) in burst.packets.iter().zip(&burst.verdicts) {
            fates.push(Fate { verdict, start: packet.start as u16, len: packet.len as u16 });
            if matches!(verdict, Verdict::HandOver { .. } | Verdict::Hold { .. }) {
                kept.push(Luggage {
                    interface: packet.interface,
                    origin: packet.origin,
                    visit: packet.visit,
                    parsed: packet.parsed,
                    steered_by: snapshot.generation,
                });
            }
        }
        debug_assert_eq!(fates.len(), burst.packets.len(), "one verdict a packet");
        (fates, kept)
    }
}

/// What becomes of a packet that was on hold: it waits on, uncounted and as old as it is, or leaves.
fn take_up<D: Door>(exits: &mut Exits<D>, packet: Decided, since: Instant, now: Instant) {
    if let Verdict::Hold { next_hop } = packet.verdict {
        let Decided { span, luggage, .. } = packet;
        exits.holds.put_back(Held { span, luggage, next_hop, since });
    } else {
        exits.counters.resumed.add(1);
        exits.carry_out(packet, now);
    }
}
