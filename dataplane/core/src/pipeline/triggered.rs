//! Port triggers on the walk: who is let in by one, and who pulls or keeps it. See [`trigger`](crate::nat::trigger).

use core::net::{IpAddr, Ipv4Addr};

use super::family::Family;
use super::leg::Leg;
use super::{Context, Desk};
use crate::conntrack::entry::{HotV4, flags};
use crate::conntrack::table::Table;
use crate::conntrack::tuple::{Direction, Tuple};
use crate::nat::trigger::{TRIGGERS_MAX, TriggerRule};
use crate::rules;
use crate::snapshot::Snapshot;
use crate::time::Tick;
use crate::units::{EntryIdx, InterfaceId};

/// A connection that uses a trigger.
#[derive(Clone, Copy, Debug)]
pub(super) struct Use {
    row: EntryIdx,
    incarnation: u32,
    rule: TriggerRule,
}

/// Nat destination: the trigger that lets a first packet in, and to whom.
#[inline]
pub(super) fn destination(
    tuple: &Tuple,
    ingress: InterfaceId,
    context: &Context<'_>,
) -> Option<(usize, Ipv4Addr)> {
    let triggers = &context.snapshot.triggers;
    if triggers.is_empty() {
        return None;
    }
    let (place, trigger) = triggers.opening(ingress, tuple.protocol(), tuple.dst_id())?;
    let (destination, interface) = (tuple.dst(), context.interface(ingress)?);
    let is_its_own = interface.addresses.iter().any(|own| own.address == destination);
    if !destination.is_ipv4() || !is_its_own {
        return None;
    }
    Some((place, trigger.holder(context.tick)?))
}

/// After *confirm*: a connection that was let out pulls triggers, one that was let in by one keeps it: the one at that
/// place plus one, 0 being none.
#[inline]
pub(super) fn used<H: Family>(
    table: &Table<'_, H>,
    desk: &mut Desk,
    row: EntryIdx,
    let_in_by: u8,
    leg: &Leg,
    context: &Context<'_>,
) {
    if !context.snapshot.triggers.is_empty() && matches!(H::FAMILY, rules::Family::V4) {
        note(table, desk, row, let_in_by, leg, context);
    }
}

/// Whether routes lead to the source of a connection, and to nobody else with its address in another zone.
fn leads_back(original: &Tuple, leg: &Leg, context: &Context<'_>) -> bool {
    let route = || context.snapshot.routes.lookup(original.src());
    original.zone() == 0 || route().is_some_and(|route| route.egress == leg.ingress)
}

#[cold]
fn note<H: Family>(
    table: &Table<'_, H>,
    desk: &mut Desk,
    row: EntryIdx,
    let_in_by: u8,
    leg: &Leg,
    context: &Context<'_>,
) {
    let triggers = &context.snapshot.triggers;
    let original: Tuple = (*table.hot(row).tuple(Direction::Original)).into();
    let (protocol, port) = (original.protocol(), original.dst_id());
    let forwarded = leg.ingress != InterfaceId::NONE && leg.ingress != leg.egress;
    let mut keep = |place: usize, host: IpAddr| {
        let (Some(trigger), IpAddr::V4(host)) = (triggers.get(place), host) else { return };
        let deadline = context.tick.plus_ms(trigger.rule.timeout_ms);
        if trigger.hold(host, deadline, context.tick)
            && let Some(used) = desk.triggered.get_mut(place)
        {
            let incarnation = table.cold(row).incarnation;
            *used = Some(Use { row, incarnation, rule: trigger.rule });
        }
    };
    match usize::from(let_in_by).checked_sub(1) {
        Some(place) => {
            let reply: Tuple = (*table.hot(row).tuple(Direction::Reply)).into();
            keep(place, reply.src());
        }
        // Whoever is let in goes where the routes lead, whatever the zone.
        None if forwarded && leads_back(&original, leg, context) => {
            let pulled = triggers.pulled(leg.egress, protocol, port);
            pulled.for_each(|(place, _)| keep(place, original.src()));
        }
        None => {}
    }
}

/// Puts each note where its trigger is now; triggers that went take theirs along.
#[cold]
fn sort_anew(uses: &mut [Option<Use>; TRIGGERS_MAX], snapshot: &Snapshot) {
    let before = core::mem::replace(uses, [None; TRIGGERS_MAX]);
    for (noted, trigger) in uses.iter_mut().zip(snapshot.triggers.iter()) {
        *noted = before.iter().flatten().find(|noted| noted.rule == trigger.rule).copied();
    }
}

/// Between bursts: whoever holds a trigger keeps it as long as its last connection there has packets.
pub(super) fn keep(
    table: &Table<'_, HotV4>,
    uses: &mut [Option<Use>; TRIGGERS_MAX],
    snapshot: &Snapshot,
    now: Tick,
) {
    let is_in_place = |(place, noted): (usize, &Option<Use>)| {
        let there = snapshot.triggers.get(place).map(|trigger| trigger.rule);
        noted.is_none_or(|noted| there == Some(noted.rule))
    };
    if !uses.iter().enumerate().all(is_in_place) {
        sort_anew(uses, snapshot);
    }
    for (place, noted) in uses.iter_mut().enumerate() {
        let Some(Use { row, incarnation, rule }) = *noted else { continue };
        let trigger = snapshot.triggers.get(place);
        let lives = table.is_live(row) && table.cold(row).incarnation == incarnation;
        let (Some(trigger), true) = (trigger, lives) else {
            *noted = None;
            continue;
        };
        let hot = table.hot(row);
        let let_in = hot.state.flags & flags::DNAT != 0;
        let direction = if let_in { Direction::Reply } else { Direction::Original };
        let host = hot.tuples[direction.index()].src.into();
        let deadline = Tick(hot.state.last_seen).plus_ms(rule.timeout_ms);
        if !now.reached(deadline) {
            trigger.hold(host, deadline, now);
        }
    }
}
