//! ICMP errors: they belong to the connection of the packet they quote.
//!
//! Parsing gives the inverse of the quoted tuple, so the table finds the connection and the direction in
//! which the *error* travels. It is RELATED if its outer destination is that direction's (as
//! nf_conntrack_inet_error checks); the outer addresses are translated as that direction's packets
//! are, and the quote back into what the receiver sent (RFC 5508 §4.2).

use core::net::IpAddr;

use super::established::{consent, hold, judge, states, still_accepted};
use super::family::Family;
use super::leg::{self, Leg, NextHop, Oversize, Preferred};
use super::refuse::{Refusal, refuse};
use super::{Context, Desk, stray, zone};
use crate::burst::{Origin, Packet};
use crate::conntrack::ctstate::CtState;
use crate::conntrack::table::{Table, TupleHash, deadline};
use crate::conntrack::tuple::{Direction, Tuple};
use crate::headers::Headers;
use crate::nat::rewrite::{self, ErrorPlan, TtlChange};
use crate::parse;
use crate::reply::IcmpErrorKind;
use crate::units::{EntryIdx, InterfaceId};
use crate::verdict::{DropReason, HostClass, Verdict};

/// The whole walk of an ICMP error.
#[cold]
pub(super) fn pass<H: Family>(
    table: &mut Table<'_, H>,
    desk: &mut Desk,
    packet: &mut Packet<'_>,
    hash: TupleHash,
    tuple: &H::Tuple,
    context: &Context<'_>,
) -> Verdict {
    let Some(headers) = packet.parsed else {
        return Verdict::Drop(DropReason::Stopping);
    };
    let Some((outer_src, outer_dst)) = parse::addresses(packet.bytes(), &headers) else {
        return Verdict::Drop(DropReason::IcmpErrorQuote);
    };
    let live = table
        .find(hash, tuple)
        .filter(|&(row, _)| !context.tick.reached(deadline(table.hot(row).state())));
    let Some((row, direction)) = live else {
        if let Some(verdict) = super::admit::elsewhere(packet, &headers.tuple, None, context) {
            return verdict;
        }
        return stray::invalid(desk, packet, &headers, DropReason::IcmpErrorUnrelated, context);
    };
    let expected: Tuple = (*table.hot(row).tuple(direction)).into();
    if expected.dst() != outer_dst {
        return stray::invalid(desk, packet, &headers, DropReason::IcmpErrorUnrelated, context);
    }
    context.counters.tracked.add(1);
    match relate(table, desk, packet, &headers, row, direction, outer_src, context) {
        Ok(verdict) => verdict,
        Err(refusal) => refuse(refusal, packet, desk, context),
    }
}

/// Route, limits, judge (unless that was done before it was put on hold), rewrite.
#[allow(clippy::too_many_arguments)] // the corridor's luggage
fn relate<H: Family>(
    table: &Table<'_, H>,
    desk: &mut Desk,
    packet: &mut Packet<'_>,
    headers: &Headers,
    row: EntryIdx,
    direction: Direction,
    outer_src: IpAddr,
    context: &Context<'_>,
) -> Result<Verdict, Refusal> {
    let incoming: Tuple = (*table.hot(row).tuple(direction)).into();
    let other: Tuple = (*table.hot(row).tuple(direction.opposite())).into();
    let preferred = zone::behind(table.hot(row), direction, context);
    let leg = way(packet, headers, [outer_src, other.src()], preferred, context)?;
    let outer = Headers {
        tuple: Tuple::new(outer_src, incoming.dst(), 0, 0, headers.protocol)
            .ok_or(Refusal::Drop(DropReason::IcmpErrorQuote))?,
        ..*headers
    };
    if !still_accepted(packet, &leg, context) {
        let states = states(CtState::Related, table.hot(row).state().flags);
        consent(&judge(packet, &outer, other.src(), 0, states, &leg, None, context))?;
    }
    finish(desk, packet, headers, &incoming, &other, &leg, context)
}

/// An error that waited for its next hop.
pub(super) fn take_up<H: Family>(
    table: &Table<'_, H>,
    desk: &mut Desk,
    packet: &mut Packet<'_>,
    row: EntryIdx,
    direction: Direction,
    context: &Context<'_>,
) -> Verdict {
    let headers = packet.parsed;
    let outer = headers.and_then(|headers| parse::addresses(packet.bytes(), &headers));
    let (Some(headers), Some((outer_src, _))) = (headers, outer) else {
        return Verdict::Drop(DropReason::HeldTooLong);
    };
    relate(table, desk, packet, &headers, row, direction, outer_src, context)
        .unwrap_or_else(|refusal| refuse(refusal, packet, desk, context))
}

/// Where the error goes, from and to these addresses, with what must hold on the way.
fn way(
    packet: &Packet<'_>,
    headers: &Headers,
    [outer_src, destination]: [IpAddr; 2],
    preferred: Preferred,
    context: &Context<'_>,
) -> Result<Leg, Refusal> {
    if packet.origin == Origin::Host {
        return Ok(Leg::from_host(packet.interface));
    }
    leg::check_source(packet.interface, outer_src, destination, context)?;
    let leg = leg::route(packet.interface, destination, preferred, context)?;
    if leg.egress != InterfaceId::NONE {
        if leg::is_link_local_source(outer_src) {
            return Err(Refusal::Drop(DropReason::LinkLocalScope));
        }
        leg::limits(headers, leg.egress, leg.route_mtu, Oversize::Refuse, context)?;
    }
    Ok(leg)
}

/// Next hop, rewrite, out.
fn finish(
    desk: &mut Desk,
    packet: &mut Packet<'_>,
    headers: &Headers,
    incoming: &Tuple,
    other: &Tuple,
    leg: &Leg,
    context: &Context<'_>,
) -> Result<Verdict, Refusal> {
    let forwarded = leg.ingress != InterfaceId::NONE && leg.egress != InterfaceId::NONE;
    let mac = if forwarded {
        match leg::next_hop_mac(leg, packet, desk, context) {
            NextHop::Known(mac) => Some(mac),
            NextHop::Unknown(next_hop) => return Ok(hold(packet, next_hop, leg, context)),
            NextHop::Failed => {
                let kind = IcmpErrorKind::HostUnreachable;
                return Err(Refusal::Icmp(DropReason::NeighbourFailed, kind));
            }
        }
    } else {
        None
    };
    let plan = ErrorPlan {
        // As for every packet of this direction: a translated source hides whoever reports the error.
        src: (other.dst() != incoming.src()).then(|| other.dst()),
        dst: (other.src() != incoming.dst()).then(|| other.src()),
        quote: *other,
        ttl: if forwarded { TtlChange::Decrement } else { TtlChange::Keep },
    };
    rewrite::icmp_error(packet.bytes_mut(), headers, &plan);
    Ok(match mac {
        Some(mac) => {
            leg::write_link_header(packet, leg.egress, mac, context);
            Verdict::Forward { egress: leg.egress }
        }
        None if leg.egress == InterfaceId::NONE => {
            Verdict::Deliver { interface: packet.interface, class: HostClass::Established }
        }
        None => Verdict::Forward { egress: leg.egress },
    })
}
