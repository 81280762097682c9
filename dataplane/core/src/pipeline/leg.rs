//! Where a packet goes: the route step, with the checks that hang on it, and the way out.

use core::net::{IpAddr, Ipv4Addr};

use super::refuse::Refusal;
use super::{Context, Desk, WANTED_ASKERS_MAX, WANTED_SOURCE_MAX, Wanted};
use crate::burst::{Origin, Packet};
use crate::forward::{NeighbourState, Route, RouteKind};
use crate::fragments;
use crate::headers::Headers;
use crate::reply::IcmpErrorKind;
use crate::rules::{DecidedBy, Hook};
use crate::snapshot::{ReversePath, is_link_local};
use crate::units::{InterfaceId, Mac, NeighbourIdx, NextHopTag};
use crate::verdict::DropReason;

/// One direction's way through the appliance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Leg {
    /// Where it comes in; [`InterfaceId::NONE`] if from the host.
    pub(super) ingress: InterfaceId,
    /// Where it goes out; [`InterfaceId::NONE`] if to the host.
    pub(super) egress: InterfaceId,
    /// Whom it is sent to on the link; [`NeighbourIdx::NONE`] if not known yet, or not needed.
    pub(super) next_hop: NeighbourIdx,
    /// The address of the next hop, for asking after it.
    pub(super) next_hop_address: Option<IpAddr>,
    /// The route's own MTU, 0 if it has none.
    pub(super) route_mtu: u16,
}

impl Leg {
    /// From the host: the kernel chose the interface and wrote the link-layer header.
    pub(super) fn from_host(interface: InterfaceId) -> Self {
        Self { ingress: InterfaceId::NONE, egress: interface, ..Self::to_host(interface) }
    }

    /// To the host.
    pub(super) fn to_host(ingress: InterfaceId) -> Self {
        Self {
            ingress,
            egress: InterfaceId::NONE,
            next_hop: NeighbourIdx::NONE,
            next_hop_address: None,
            route_mtu: 0,
        }
    }

    /// Which chain judges packets on this leg.
    #[inline]
    pub(super) fn hook(&self) -> Hook {
        if self.ingress == InterfaceId::NONE {
            Hook::Output
        } else if self.egress == InterfaceId::NONE {
            Hook::Input
        } else {
            Hook::Forward
        }
    }
}

/// The reason to drop a packet for that a rule, or a chain's policy, drops.
pub(super) fn denied(by: DecidedBy) -> DropReason {
    match by {
        DecidedBy::Rule(_) => DropReason::DeniedByRule,
        DecidedBy::ChainPolicy(..) => DropReason::DeniedByPolicy,
    }
}

/// Whom a reply is sent back through: the interface its connection came in by, if routes lead there.
pub(super) type Preferred = Option<InterfaceId>;

/// The route step for a packet off the wire whose destination, after translation, is `destination`.
pub(super) fn route(
    ingress: InterfaceId,
    destination: IpAddr,
    preferred: Preferred,
    context: &Context<'_>,
) -> Result<Leg, Refusal> {
    let snapshot = context.snapshot;
    if snapshot.steering.is_ours(destination) || is_to_all(destination) {
        return Ok(Leg::to_host(ingress));
    }
    if is_nobody(destination) {
        return Err(Refusal::Drop(DropReason::MartianDestination));
    }
    if is_link_local(destination) {
        return Err(Refusal::Drop(DropReason::LinkLocalScope));
    }
    let route = preferred
        .and_then(|egress| snapshot.routes.lookup_via(destination, egress))
        .or_else(|| snapshot.routes.lookup(destination))
        .ok_or(Refusal::Icmp(DropReason::NoRoute, IcmpErrorKind::NetUnreachable))?;
    match route.kind {
        RouteKind::Unicast => forward(ingress, destination, route, context),
        RouteKind::Local => Ok(Leg::to_host(ingress)),
        RouteKind::Broadcast if route.egress == ingress => Ok(Leg::to_host(ingress)),
        RouteKind::Broadcast => Err(Refusal::Drop(DropReason::MartianDestination)),
        RouteKind::Unreachable => {
            Err(Refusal::Icmp(DropReason::RouteUnreachable, IcmpErrorKind::HostUnreachable))
        }
        RouteKind::Prohibit => {
            Err(Refusal::Icmp(DropReason::RouteUnreachable, IcmpErrorKind::AdminProhibited))
        }
        RouteKind::Blackhole => Err(Refusal::Drop(DropReason::RouteUnreachable)),
    }
}

fn forward(
    ingress: InterfaceId,
    destination: IpAddr,
    route: &Route,
    context: &Context<'_>,
) -> Result<Leg, Refusal> {
    let Some(egress) = context.interface(route.egress) else {
        return Err(Refusal::Icmp(DropReason::NoRoute, IcmpErrorKind::NetUnreachable));
    };
    if !egress.up {
        return Err(Refusal::Icmp(DropReason::InterfaceDown, IcmpErrorKind::HostUnreachable));
    }
    let address = route.gateway.unwrap_or(destination);
    let next_hop = context.snapshot.neighbours.find(route.egress, address);
    Ok(Leg {
        ingress,
        egress: route.egress,
        next_hop: next_hop.unwrap_or(NeighbourIdx::NONE),
        next_hop_address: Some(address),
        route_mtu: route.mtu,
    })
}

/// Whether a packet off the wire may claim its source, asked of packets that belong to no connection.
/// C087, C089, C156; RFC 1812 §5.3.7, RFC 3704.
pub(super) fn check_source(
    ingress: InterfaceId,
    source: IpAddr,
    destination: IpAddr,
    context: &Context<'_>,
) -> Result<(), Refusal> {
    let snapshot = context.snapshot;
    let asks_for_address = source.is_unspecified() && is_to_all(destination);
    if asks_for_address {
        return Ok(()); // a DHCP client, or duplicate address detection; never forwarded
    }
    if is_nobody(source) || is_to_all(source) || snapshot.steering.is_ours(source) {
        return Err(Refusal::Drop(DropReason::MartianSource));
    }
    if is_link_local(source) {
        return Ok(()); // its own link only: whoever forwards asks `is_link_local_source`
    }
    let (mode, zone) = context
        .interface(ingress)
        .map_or((ReversePath::Strict, 0), |interface| (interface.reverse_path, interface.zone));
    // Others may lead to the same addresses as an interface with a zone of its own.
    let own = if zone == 0 { None } else { snapshot.routes.lookup_via(source, ingress) };
    let back = own.or_else(|| snapshot.routes.lookup(source));
    match (mode, back) {
        (ReversePath::Off, _) => Ok(()),
        (_, Some(route)) if route.kind == RouteKind::Broadcast => {
            Err(Refusal::Drop(DropReason::MartianSource))
        }
        (ReversePath::Loose, Some(_)) => Ok(()),
        (ReversePath::Strict, Some(route)) if route.egress == ingress => Ok(()),
        _ => Err(Refusal::Drop(DropReason::ReversePath)),
    }
}

/// What must hold before a packet is forwarded out of `egress`: it was meant for us on the link, its
/// scope is not the link, its TTL lasts (RFC 1812 §5.3.1) and it fits (RFC 1191, RFC 8201). In
/// netfilter's order these come before the rules.
#[inline]
pub(super) fn limits(
    headers: &Headers,
    egress: InterfaceId,
    route_mtu: u16,
    oversize: Oversize,
    context: &Context<'_>,
) -> Result<(), Refusal> {
    if headers.l2_group {
        return Err(Refusal::Drop(DropReason::ForeignMac));
    }
    if headers.ttl <= 1 {
        return Err(Refusal::Icmp(DropReason::TtlExceeded, IcmpErrorKind::TimeExceeded));
    }
    let mtu = mtu(egress, route_mtu, context);
    if headers.ip_len > mtu {
        return match (headers.dont_fragment, oversize) {
            (true, _) => {
                Err(Refusal::Icmp(DropReason::MtuExceeded, IcmpErrorKind::PacketTooBig { mtu }))
            }
            (false, Oversize::Split) if mtu >= fragments::MTU_MIN => Ok(()),
            (false, _) => Err(Refusal::Drop(DropReason::MtuExceeded)),
        };
    }
    Ok(())
}

/// What happens to a packet that is too long for where it goes and may be fragmented.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Oversize {
    /// It is.
    Split,
    /// It is dropped all the same: an ICMP error, or what belongs to nothing.
    Refuse,
}

/// The longest IP packet that may leave by `egress`.
#[inline]
pub(super) fn mtu(egress: InterfaceId, route_mtu: u16, context: &Context<'_>) -> u16 {
    let mtu = context.interface(egress).map_or(0, |interface| interface.mtu);
    if route_mtu != 0 { mtu.min(route_mtu) } else { mtu }
}

/// The MAC of the next hop, or what to do without one.
#[inline]
pub(super) fn next_hop_mac(
    leg: &Leg,
    packet: &Packet<'_>,
    desk: &mut Desk,
    context: &Context<'_>,
) -> NextHop {
    match context.snapshot.neighbours.get(leg.next_hop) {
        Some(n) if matches!(n.state, NeighbourState::Reachable | NeighbourState::Stale) => {
            NextHop::Known(n.mac)
        }
        other => unknown_next_hop(leg, packet, other.map(|n| n.state), desk, context),
    }
}

#[cold]
fn unknown_next_hop(
    leg: &Leg,
    packet: &Packet<'_>,
    state: Option<NeighbourState>,
    desk: &mut Desk,
    context: &Context<'_>,
) -> NextHop {
    // A way that an entry remembers has only the slot.
    let slot = || context.snapshot.neighbours.address(leg.next_hop);
    let address = leg.next_hop_address.or_else(slot);
    if let (Some(address), Some(headers)) = (address, &packet.parsed) {
        let (interface, ingress) = (leg.egress, packet.interface);
        let source = headers.tuple.src();
        desk.want(Wanted { interface, address, ingress, source });
    }
    match state {
        Some(NeighbourState::Failed) => NextHop::Failed,
        _ => NextHop::Unknown(NextHopTag::of(leg.egress, address)),
    }
}

impl Desk<'_> {
    /// Notes a next hop that control is to have resolved, unless there is a note of it or its source has
    /// had its share.
    fn want(&mut self, wanted: Wanted) {
        let (mut askers, mut of_source) = (0, 0);
        for other in &self.wanted {
            if *other == wanted {
                return;
            }
            let same = (other.interface, other.address) == (wanted.interface, wanted.address);
            askers += usize::from(same);
            let same = (other.ingress, other.source) == (wanted.ingress, wanted.source);
            of_source += usize::from(same);
        }
        if askers < WANTED_ASKERS_MAX && of_source < WANTED_SOURCE_MAX {
            // Full: those on hold ask again.
            let _ = self.wanted.try_push(wanted);
        }
    }
}

/// What is known of a next hop.
pub(super) enum NextHop {
    /// Send to this MAC.
    Known(Mac),
    /// Being asked for: hold the packet.
    Unknown(NextHopTag),
    /// It does not answer.
    Failed,
}

/// Writes the link-layer header for sending out of `egress`.
#[inline]
pub(super) fn write_link_header(
    packet: &mut Packet<'_>,
    egress: InterfaceId,
    to: Mac,
    context: &Context<'_>,
) {
    let from = context.interface(egress).map_or(Mac::default(), |interface| interface.mac);
    write_macs(packet.bytes_mut(), [to, from]);
}

/// Writes destination and source MAC.
#[inline]
pub(super) fn write_macs(bytes: &mut [u8], [to, from]: [Mac; 2]) {
    if let Some(header) = bytes.first_chunk_mut::<12>() {
        header[..6].copy_from_slice(&to.0);
        header[6..].copy_from_slice(&from.0);
    }
}

/// The interface a packet came in by, as rules see it.
pub(super) fn ingress_of(packet: &Packet<'_>) -> InterfaceId {
    match packet.origin {
        Origin::Wire => packet.interface,
        Origin::Host => InterfaceId::NONE,
    }
}

/// Whether the address means many hosts: multicast or limited broadcast.
fn is_to_all(address: IpAddr) -> bool {
    address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// Whether a packet from `source` must not leave its link.
pub(super) fn is_link_local_source(source: IpAddr) -> bool {
    is_link_local(source) || source.is_unspecified()
}

/// Whether the address can be nobody's on a wire: unspecified, loopback, class E, or an IPv4-mapped or
/// -compatible IPv6 address (RFC 6890, RFC 4291 §2.5).
fn is_nobody(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => {
            a.octets()[0] == 0
                || a.is_loopback()
                || (a.octets()[0] >= 240 && a != Ipv4Addr::BROADCAST)
        }
        IpAddr::V6(a) => a.is_unspecified() || a.is_loopback() || a.to_ipv4().is_some(),
    }
}
