//! Packets that belong to no connection: ARP, neighbour discovery, DHCP exceptions, INVALID.
//!
//! INVALID and UNTRACKED packets are judged by the rules like any others (the built-in policy drops
//! INVALID); an INVALID packet that a rule drops is counted under what made it INVALID.

use super::established::judge;
use super::leg::{self, Leg, NextHop, Oversize};
use super::refuse::{Refusal, refuse_stray};
use super::{Context, Desk, clamp};
use crate::burst::{Origin, Packet};
use crate::conntrack::ctstate::{CtState, CtStates};
use crate::conntrack::tuple::{Tuple, protocol};
use crate::headers::{Headers, Kind};
use crate::nat::rewrite::{self, Deltas, TtlChange};
use crate::parse;
use crate::reply::IcmpErrorKind;
use crate::rules::{Action, Judgement};
use crate::units::InterfaceId;
use crate::verdict::{DropReason, HostClass, Verdict};

/// The whole walk of a packet that is not tracked.
#[cold]
pub(super) fn pass(desk: &mut Desk, packet: &mut Packet<'_>, context: &Context<'_>) -> Verdict {
    let Some(headers) = packet.parsed else {
        return Verdict::Drop(DropReason::Stopping);
    };
    match headers.kind {
        Kind::Arp => between_wire_and_host(packet),
        Kind::Untracked => {
            context.counters.untracked.add(1);
            untracked(desk, packet, &headers, context)
        }
        _ => {
            let reason = headers.invalid.unwrap_or(DropReason::TransportChecksum);
            invalid(desk, packet, &headers, reason, context)
        }
    }
}

/// What crosses between the link and the host and is never forwarded.
fn between_wire_and_host(packet: &Packet<'_>) -> Verdict {
    match packet.origin {
        Origin::Wire => Verdict::Deliver { interface: packet.interface, class: HostClass::Link },
        Origin::Host => Verdict::Forward { egress: packet.interface },
    }
}

/// Neighbour discovery and multicast listener discovery, which the rules see as UNTRACKED; and DHCP on
/// interfaces that use it, which no rule sees (its clients read the wire before any filter elsewhere).
fn untracked(
    desk: &mut Desk,
    packet: &mut Packet<'_>,
    headers: &Headers,
    context: &Context<'_>,
) -> Verdict {
    if headers.protocol != protocol::UDP {
        let leg = match packet.origin {
            Origin::Wire => Leg::to_host(packet.interface),
            Origin::Host => Leg::from_host(packet.interface),
        };
        let destination = headers.tuple.dst();
        let for_host = destination.is_multicast() || context.snapshot.steering.is_ours(destination);
        if packet.origin == Origin::Wire && !for_host {
            return Verdict::Drop(DropReason::NotForHost);
        }
        let judgement = judge_stray(packet, headers, CtState::Untracked, &leg, context);
        if let Err(refusal) = super::established::consent(&judgement) {
            return refuse_stray(refusal, packet, desk, context);
        }
    }
    between_wire_and_host(packet)
}

/// The walk of an INVALID packet: route, limits, judge; untranslated if a rule accepts it.
#[cold]
pub(super) fn invalid(
    desk: &mut Desk,
    packet: &mut Packet<'_>,
    headers: &Headers,
    reason: DropReason,
    context: &Context<'_>,
) -> Verdict {
    context.counters.invalid.add(1);
    // An ICMP error's tuple is that of its quote: the rules see the error's own addresses.
    let own = match own_headers(packet, headers) {
        Some(own) => own,
        None => return Verdict::Drop(reason),
    };
    match walk(desk, packet, &own, Some(reason), context) {
        Ok(verdict) => verdict,
        Err(refusal) => refuse_stray(refusal, packet, desk, context),
    }
}

/// The walk of a packet that a rule of the raw table does not track: route, limits, judge; never translated.
pub(super) fn not_tracked(
    desk: &mut Desk,
    packet: &mut Packet<'_>,
    headers: &Headers,
    context: &Context<'_>,
) -> Verdict {
    match walk(desk, packet, headers, None, context) {
        Ok(verdict) => verdict,
        Err(refusal) => refuse_stray(refusal, packet, desk, context),
    }
}

pub(super) fn own_headers(packet: &Packet<'_>, headers: &Headers) -> Option<Headers> {
    if headers.kind != Kind::IcmpError {
        return Some(*headers);
    }
    let (src, dst) = parse::addresses(packet.bytes(), headers)?;
    let tuple = Tuple::new(src, dst, 0, 0, headers.protocol)?;
    Some(Headers { tuple: tuple.in_zone(headers.tuple.zone()), ..*headers })
}

/// Route, limits, judge, send. `invalid` is what makes the packet INVALID; without, it is UNTRACKED.
fn walk(
    desk: &mut Desk,
    packet: &mut Packet<'_>,
    headers: &Headers,
    invalid: Option<DropReason>,
    context: &Context<'_>,
) -> Result<Verdict, Refusal> {
    let (source, destination) = (headers.tuple.src(), headers.tuple.dst());
    let leg = match packet.origin {
        Origin::Host => Leg::from_host(packet.interface),
        Origin::Wire => {
            leg::check_source(packet.interface, source, destination, context)?;
            leg::route(packet.interface, destination, None, context)?
        }
    };
    let forwarded = leg.ingress != InterfaceId::NONE && leg.egress != InterfaceId::NONE;
    if forwarded {
        if leg::is_link_local_source(source) {
            return Err(Refusal::Drop(DropReason::LinkLocalScope));
        }
        let oversize = if invalid.is_none() { Oversize::Split } else { Oversize::Refuse };
        leg::limits(headers, leg.egress, leg.route_mtu, oversize, context)?;
        if let Some(reason) = invalid
            && would_leak(source, &leg, context)
        {
            return Err(Refusal::Drop(reason));
        }
    }
    let state = invalid.map_or(CtState::Untracked, |_| CtState::Invalid);
    let judgement = judge_stray(packet, headers, state, &leg, context);
    match (judgement.action, invalid) {
        (Action::Accept, _) => {}
        (Action::Drop, Some(reason)) => return Err(Refusal::Drop(reason)),
        (Action::Reject(kind), Some(reason)) => return Err(Refusal::Reject(reason, kind)),
        (_, None) => super::established::consent(&judgement)?,
    }
    if !forwarded {
        return Ok(match packet.origin {
            Origin::Wire => {
                Verdict::Deliver { interface: packet.interface, class: HostClass::Other }
            }
            Origin::Host => Verdict::Forward { egress: packet.interface },
        });
    }
    match leg::next_hop_mac(&leg, packet, desk, context) {
        NextHop::Known(mac) => {
            decrement_ttl(packet, headers);
            if clamp::applies(headers, &leg, context) {
                clamp::clamp(packet, headers, source, &leg, context);
            }
            leg::write_link_header(packet, leg.egress, mac, context);
            let (egress, mtu) = (leg.egress, leg::mtu(leg.egress, leg.route_mtu, context));
            if headers.ip_len > mtu {
                return Ok(Verdict::Split { egress, mtu });
            }
            Ok(Verdict::Forward { egress })
        }
        // It belongs to nothing that could take it up again later.
        NextHop::Unknown(_) => Err(Refusal::Drop(DropReason::NeighbourUnknown)),
        NextHop::Failed => {
            Err(Refusal::Icmp(DropReason::NeighbourFailed, IcmpErrorKind::HostUnreachable))
        }
    }
}

/// Whether a packet that nobody translates would show an inside address outside (C072), whatever the rules say.
fn would_leak(source: core::net::IpAddr, leg: &Leg, context: &Context<'_>) -> bool {
    source.is_ipv4()
        && context.interface(leg.egress).is_some_and(|egress| egress.masquerade)
        && !context.snapshot.steering.is_ours(source)
}

/// The one thing that changes in a packet that is forwarded untracked.
fn decrement_ttl(packet: &mut Packet<'_>, headers: &Headers) {
    let (bytes, deltas, ttl) = (packet.bytes_mut(), Deltas::default(), TtlChange::Decrement);
    match &headers.tuple {
        Tuple::V4(same) => rewrite::flow_v4(bytes, headers, same, deltas, ttl),
        Tuple::V6(same) => rewrite::flow_v6(bytes, headers, same, deltas, ttl),
    }
}

fn judge_stray(
    packet: &Packet<'_>,
    headers: &Headers,
    state: CtState,
    leg: &Leg,
    context: &Context<'_>,
) -> Judgement {
    let tuple = headers.tuple;
    judge(packet, headers, tuple.dst(), tuple.dst_id(), CtStates::of(state), leg, None, context)
}
