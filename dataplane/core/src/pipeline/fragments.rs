//! Fragments on their way: kept until their datagram is whole ([`gather`]), then the first as any packet of its flow,
//! and the others after it ([`follow`]).
//!
//! All fragments of a datagram leave their collector one behind the other, the first one first, and take the same ways
//! between workers; so whoever decides about the first meets the others next, and remembers what he decided.

use super::family::Family;
use super::refuse::refuse;
use super::{Context, Desk, Ours, admit, established};
use crate::burst::{Gathered, Origin, Packet, Seen};
use crate::conntrack::table::{Promise, Table, deadline};
use crate::conntrack::tuple::{Direction, FamilyTuple};
use crate::fragments::{Arrival, Gathering};
use crate::headers::{Headers, Kind};
use crate::units::{EntryIdx, WORKERS_MAX};
use crate::verdict::{DropReason, Verdict};

/// How many datagrams of each collector are remembered: more than can come between a first fragment that visits other
/// workers and those behind it.
const FATES: usize = 8;

/// What became of the first fragments of the latest datagrams, by collector.
pub(super) struct Fates([[Fate; FATES]; WORKERS_MAX]);

/// What became of a first fragment.
#[derive(Clone, Copy)]
enum Passed {
    /// It left as a packet of its connection, in whose zone it was found.
    Yes { zone: u16 },
    /// It was refused.
    No,
}

#[derive(Clone, Copy)]
struct Fate {
    datagram: u16,
    /// None: there was no such datagram yet.
    passed: Option<Passed>,
}

impl Fates {
    pub(super) const fn new() -> Self {
        Self([[Fate { datagram: 0, passed: None }; FATES]; WORKERS_MAX])
    }

    fn of(&mut self, gathered: &Gathered) -> Option<&mut Fate> {
        let of_collector = self.0.get_mut(gathered.collector.index())?;
        of_collector.get_mut(usize::from(gathered.datagram) % FATES)
    }

    fn passed(&mut self, gathered: &Gathered) -> Option<Passed> {
        let fate = self.of(gathered)?;
        fate.passed.filter(|_| fate.datagram == gathered.datagram)
    }

    /// Remembers a first fragment that leaves as a packet of its connection. One that belongs to none is followed by
    /// nobody, even if a rule accepts what is INVALID.
    #[cold]
    pub(super) fn pass(&mut self, gathered: &Gathered, zone: u16) {
        self.note(gathered, Passed::Yes { zone });
    }

    /// The zone in which the first fragment's connection was found, if it passed.
    pub(super) fn zone(&mut self, gathered: &Gathered) -> Option<u16> {
        match self.passed(gathered)? {
            Passed::Yes { zone } => Some(zone),
            Passed::No => None,
        }
    }

    /// Remembers a first fragment that was refused, if this is what `verdict` says.
    #[cold]
    pub(super) fn settle(&mut self, gathered: &Gathered, verdict: Verdict) {
        if matches!(verdict, Verdict::Drop(_) | Verdict::Reply { .. }) {
            self.note(gathered, Passed::No);
        }
    }

    fn note(&mut self, gathered: &Gathered, passed: Passed) {
        if let Some(fate) = self.of(gathered) {
            *fate = Fate { datagram: gathered.datagram, passed: Some(passed) };
        }
    }
}

/// A fragment that came to its collector.
#[cold]
pub(super) fn gather(
    gathering: &mut Gathering,
    packet: &Packet<'_>,
    headers: &Headers,
    context: &Context<'_>,
) -> Verdict {
    let arrival = Arrival {
        bytes: packet.bytes(),
        headers,
        interface: packet.interface,
        origin: packet.origin,
        // The kernel's own checksums are taken on trust.
        verify: context.snapshot.options.verify_checksums && packet.origin == Origin::Wire,
    };
    gathering.take(&arrival, context.me, context.tick)
}

/// A later fragment goes where the first one went: it changes no state, and no rule is asked again.
#[cold]
pub(super) fn follow<H: Family>(
    table: &mut Table<'_, H>,
    desk: &mut Desk,
    packet: &mut Packet<'_>,
    ours: Ours,
    tuple: &H::Tuple,
    context: &Context<'_>,
) -> Verdict {
    let (Some(headers), Seen::Gathered(gathered)) = (packet.parsed, packet.seen) else {
        return Verdict::Drop(DropReason::Stopping);
    };
    let alone = Verdict::Drop(DropReason::FragmentRefused);
    let zone = match desk.fates.passed(&gathered) {
        Some(Passed::Yes { zone }) => zone,
        Some(Passed::No) => return alone,
        // The first one was not decided here, but visited others, if there are any: so does this one.
        None => {
            let reply = admit::redirected_reply(table, packet, &headers.tuple, context);
            let next = admit::elsewhere(packet, &headers.tuple, reply.as_ref(), context);
            return next.unwrap_or(alone);
        }
    };
    // A rule is asked about the first one only.
    let (tuple, ours) = if zone == tuple.zone() {
        (*tuple, ours)
    } else {
        let tuple = tuple.in_zone(zone);
        (tuple, Ours { promise: Promise::NONE, hash: table.hash(&tuple), ..ours })
    };
    let found = table
        .find_promised(ours.promise, ours.hash, &tuple)
        .filter(|&(row, _)| !context.tick.reached(deadline(table.hot(row).state())));
    let Some((row, direction)) = found else { return alone };
    let state = *table.hot(row).state();
    let way = established::may_come_here(&state, packet, &headers, direction, context)
        .and_then(|()| established::way(table, packet, &headers, row, direction, context));
    match way {
        Ok(leg) => {
            let row_parts = table.row(row);
            row_parts.hot.state_mut().last_seen = context.tick.0;
            if context.snapshot.options.accounting {
                row_parts.warm.count(direction, headers.ip_len);
            }
            context.counters.tracked.add(1);
            established::send(table, desk, packet, &headers, row, direction, &leg, context)
        }
        Err(refusal) => refuse(refusal, packet, desk, context),
    }
}

/// A later fragment that was on hold goes where the first one went, which was on hold before it.
#[cold]
pub(super) fn follow_held<H: Family>(
    table: &mut Table<'_, H>,
    desk: &mut Desk,
    packet: &mut Packet<'_>,
    gathered: &Gathered,
    row: EntryIdx,
    direction: Direction,
    context: &Context<'_>,
) -> Verdict {
    let (Some(headers), Some(_)) = (packet.parsed, desk.fates.zone(gathered)) else {
        return Verdict::Drop(DropReason::FragmentRefused);
    };
    match established::way(table, packet, &headers, row, direction, context) {
        Ok(leg) => established::send(table, desk, packet, &headers, row, direction, &leg, context),
        Err(refusal) => refuse(refusal, packet, desk, context),
    }
}

/// How long the rules take a packet to be: of a datagram in fragments, which they see once, all of it.
#[inline]
pub(super) fn judged_len(packet: &Packet<'_>, headers: &Headers) -> u32 {
    match packet.seen {
        Seen::Gathered(gathered) if headers.kind != Kind::Later => {
            // All that stands before the fragments' data, and that.
            let header = if headers.is_v4() { headers.l4 - headers.l3 } else { 40 };
            u32::from(header) + u32::from(gathered.len)
        }
        _ => u32::from(headers.ip_len),
    }
}
