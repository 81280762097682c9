//! Zones on the walk: networks that use the same addresses, kept apart (nf_conntrack_zones).
//!
//! A tuple is in the zone that its packets arrive in: that of the interface they come in by, put there where the tuple is
//! read, or what a rule of the raw table says instead ([`Zoned`]). So a packet of either direction is looked for by its own
//! zone, and no look-up knows of zones but by the tuple. What is left is here: a rule may speak of one direction alone,
//! and whoever begins a connection has to know in which zone its replies will come.
//!
//! Steering does not look at zones: the same addresses in two zones have one owner, and so has each of their connections.

use super::Context;
use super::established;
use super::family::Family;
use super::leg::{Leg, Preferred};
use crate::burst::Packet;
use crate::conntrack::table::{Table, deadline};
use crate::conntrack::tuple::{Direction, FamilyTuple, Tuple};
use crate::rules::Zoned;
use crate::units::InterfaceId;

/// The zone of what comes in by an interface.
fn of_interface(interface: InterfaceId, context: &Context<'_>) -> u16 {
    context.interface(interface).map_or(0, |interface| interface.zone)
}

/// The interface through which a packet is sent to begin a connection, if several lead to such an address: the one that its
/// receiver was seen behind, where that has a zone of its own.
pub(super) fn preferred(via: InterfaceId, context: &Context<'_>) -> Preferred {
    (of_interface(via, context) != 0).then_some(via)
}

/// The interface through which a packet of a connection's direction is sent, if several lead to such an address.
pub(super) fn behind<H: Family>(hot: &H, direction: Direction, context: &Context<'_>) -> Preferred {
    match direction {
        Direction::Reply => Some(established::came_in_by(hot)),
        Direction::Original => preferred(established::went_out_by(hot), context),
    }
}

/// The tuple that a packet is looked for by, of which a rule said in which zone it is.
#[cold]
pub(super) fn looked_for<H: Family>(
    table: &Table<'_, H>,
    tuple: &H::Tuple,
    said: Zoned,
    context: &Context<'_>,
) -> H::Tuple {
    let [original, reply] =
        [Direction::Original, Direction::Reply].map(|d| tuple.in_zone(said.of(d, tuple.zone())));
    let lives = |tuple: &H::Tuple, direction: Direction| {
        let found = table.find(table.hash(tuple), tuple);
        found.is_some_and(|(row, found)| {
            found == direction && !context.tick.reached(deadline(table.hot(row).state()))
        })
    };
    if original.zone() != reply.zone()
        && lives(&reply, Direction::Reply)
        && !lives(&original, Direction::Original)
    {
        return reply;
    }
    original
}

/// The tuple of a packet that begins another connection than the one it was found to belong to.
pub(super) fn of_first<H: Family>(
    packet: &Packet<'_>,
    tuple: H::Tuple,
    context: &Context<'_>,
) -> H::Tuple {
    let own = of_interface(packet.interface, context);
    let said = packet.visit.assigned.zone;
    tuple.in_zone(said.of(Direction::Original, own))
}

/// Puts the reply tuple of a first packet that takes this way into the zone that its replies will come in: what a rule said,
/// or that of the interface they come in by.
#[inline]
pub(super) fn enter_replies(
    reply: &mut Tuple,
    packet: &Packet<'_>,
    leg: &Leg,
    context: &Context<'_>,
) {
    // The host answers by the interface it was asked by.
    let from = if leg.egress == InterfaceId::NONE { packet.interface } else { leg.egress };
    let zone = of_interface(from, context);
    if zone != reply.zone() || context.raw {
        enter_other(reply, packet, zone);
    }
}

#[cold]
fn enter_other(reply: &mut Tuple, packet: &Packet<'_>, otherwise: u16) {
    let said = packet.visit.assigned.zone.of_replies();
    *reply = reply.in_zone(said.unwrap_or(otherwise));
}
