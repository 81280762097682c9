//! Held packets, taken up again: all was decided but the next hop.

use super::established;
use super::family::Family;
use super::leg::{self, Leg};
use super::refuse::refuse;
use super::related;
use super::{Context, Desk, Pipeline, fragments, parse, zone};
use crate::burst::{Burst, Packet, Seen};
use crate::conntrack::table::{Table, deadline};
use crate::conntrack::tuple::{FamilyTuple, Tuple};
use crate::counters::Counters;
use crate::headers::Kind;
use crate::snapshot::Snapshot;
use crate::time::Instant;
use crate::units::WorkerId;
use crate::verdict::{DropReason, Verdict};

impl Pipeline<'_> {
    /// Offers held packets again: each is sent if its next hop is known by now, refused if that has
    /// failed, and otherwise stays [`Verdict::Hold`]. Their connections are not tracked a second time.
    /// The caller counts them as resumed first.
    pub fn resume(
        &mut self,
        burst: &mut Burst<'_>,
        me: WorkerId,
        snapshot: &Snapshot,
        counters: &Counters,
        now: Instant,
    ) {
        let context = Context::new(me, snapshot, counters, now);
        burst.verdicts.clear();
        for packet in &mut burst.packets {
            let desk = &mut self.desk;
            let verdict = match parse(packet, &context) {
                Ok((Tuple::V4(tuple), kind)) => {
                    let tuple = looked_for(&self.v4, desk, packet, &tuple, kind, &context);
                    take_up(&mut self.v4, desk, packet, &tuple, &context)
                }
                Ok((Tuple::V6(tuple), kind)) => {
                    let tuple = looked_for(&self.v6, desk, packet, &tuple, kind, &context);
                    take_up(&mut self.v6, desk, packet, &tuple, &context)
                }
                Err(verdict) => verdict,
            };
            if let Seen::Gathered(gathered) = &packet.seen {
                self.desk.fates.settle(gathered, verdict);
            }
            burst.verdicts.push(verdict);
        }
    }
}

/// The tuple that a held packet was looked for by when it came.
fn looked_for<H: Family>(
    table: &Table<'_, H>,
    desk: &mut Desk,
    packet: &Packet<'_>,
    tuple: &H::Tuple,
    kind: Kind,
    context: &Context<'_>,
) -> H::Tuple {
    match (kind, &packet.seen) {
        (Kind::Later, Seen::Gathered(gathered)) => {
            desk.fates.zone(gathered).map_or(*tuple, |zone| tuple.in_zone(zone))
        }
        _ => zone::looked_for(table, tuple, packet.visit.assigned.zone, context),
    }
}

fn take_up<H: Family>(
    table: &mut Table<'_, H>,
    desk: &mut Desk,
    packet: &mut Packet<'_>,
    tuple: &H::Tuple,
    context: &Context<'_>,
) -> Verdict {
    let live = table
        .find(table.hash(tuple), tuple)
        .filter(|&(row, _)| !context.tick.reached(deadline(table.hot(row).state())));
    let (Some((row, direction)), Some(headers)) = (live, packet.parsed) else {
        return Verdict::Drop(DropReason::HeldTooLong);
    };
    if headers.kind == Kind::IcmpError {
        return related::take_up(table, desk, packet, row, direction, context);
    }
    if let (Kind::Later, Seen::Gathered(gathered)) = (headers.kind, packet.seen) {
        return fragments::follow_held(table, desk, packet, &gathered, row, direction, context);
    }
    let out: Tuple = (*table.hot(row).tuple(direction.opposite())).into();
    let preferred = zone::behind(table.hot(row), direction, context);
    let leg: Leg = match leg::route(packet.interface, out.src(), preferred, context) {
        Ok(leg) => leg,
        Err(refusal) => return refuse(refusal, packet, desk, context),
    };
    if established::still_accepted(packet, &leg, context) {
        return established::send(table, desk, packet, &headers, row, direction, &leg, context);
    }
    // It waited through a change.
    let ctstate = established::ctstate(table.hot(row).state(), direction);
    match established::decide(table, packet, &headers, row, direction, ctstate, context) {
        Ok(leg) => established::send(table, desk, packet, &headers, row, direction, &leg, context),
        Err(refusal) => refuse(refusal, packet, desk, context),
    }
}
