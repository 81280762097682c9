//! What the rules of the `nat` table say about a connection's first packet: where it goes, and behind what it appears.
//!
//! Expectations, port forwards and triggers come first, so that what the operator said with them holds whatever the rules
//! are; the masquerading of an interface comes last, for connections of which no rule said anything.

use core::net::IpAddr;

use super::Context;
use super::family::Family;
use super::fragments;
use super::leg::{self, Leg};
use super::refuse::Refusal;
use crate::burst::{Origin, Packet};
use crate::conntrack::ctstate::CtStates;
use crate::conntrack::entry::flags;
use crate::conntrack::tuple::Tuple;
use crate::headers::{Headers, Kind};
use crate::nat::plan::Random;
use crate::rules::translation::netmapped;
use crate::rules::{Answer, Hook, HookSet, Ports, Subject, TableId, Tracking, Translation};
use crate::snapshot::is_link_local;
use crate::units::InterfaceId;
use crate::verdict::DropReason;

/// Behind which address a connection is to appear, and among which ports.
#[derive(Clone, Copy, Debug)]
pub(super) struct Behind {
    pub(super) address: IpAddr,
    pub(super) ports: Ports,
    /// What the connection is flagged with if its source changes.
    pub(super) flags: u16,
}

impl Behind {
    /// An interface's own address, with which the connection ends.
    pub(super) fn interface(address: IpAddr, ports: Ports) -> Self {
        Self { address, ports, flags: flags::SNAT | flags::MASQUERADE }
    }
}

/// What the rules say about the source.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    /// Nothing.
    Unsaid,
    /// What it appears behind; or that it stays.
    Ruled(Option<Behind>),
}

/// Whether the `nat` table has any rules for this family.
#[inline]
pub(super) fn is_asked<H: Family>(context: &Context<'_>) -> bool {
    const NAT: HookSet = HookSet::of(TableId::Nat.hooks());
    context.snapshot.policy.asks(H::FAMILY, NAT)
}

/// Nat destination: the tuple of a first packet after the rules of PREROUTING, or for the host's own of OUTPUT.
#[cold]
pub(super) fn destination<H: Family>(
    packet: &Packet<'_>,
    headers: &Headers,
    states: CtStates,
    random: &mut Random,
    row_flags: &mut u16,
    context: &Context<'_>,
) -> Result<Tuple, Refusal> {
    let tuple = headers.tuple;
    let (hook, way) = match packet.origin {
        Origin::Wire => (Hook::NatPrerouting, [packet.interface, InterfaceId::NONE]),
        Origin::Host => (Hook::NatOutput, [InterfaceId::NONE, packet.interface]),
    };
    let translation = match ask::<H>(packet, headers, &tuple, hook, way, states, context)? {
        Answer::Translate(translation) => translation,
        _ => return Ok(tuple),
    };
    let (client, port) = (tuple.src(), tuple.dst_id());
    let (address, port) = match translation {
        Translation::Destination(addresses, ports) => {
            let steering = &context.snapshot.steering;
            let among = |range: crate::rules::Addresses| {
                let client = steering.pairing(client);
                range.rendezvous(client, |to| steering.affinity(client, to))
            };
            (addresses.map_or(tuple.dst(), among), target_port(ports, port, random))
        }
        Translation::Redirect(ports) => {
            (own_address(packet.interface, &tuple, context)?, target_port(ports, port, random))
        }
        Translation::Netmap { network, mask } => {
            (netmapped(tuple.dst(), network, mask).unwrap_or(tuple.dst()), port)
        }
        Translation::Source(..) | Translation::Masquerade(_) => return Ok(tuple), // compile refuses it here
    };
    let translated = tuple.with_dst(address, port).unwrap_or(tuple);
    *row_flags |= flags::RULED;
    if translated != tuple {
        *row_flags |= flags::DNAT;
    }
    Ok(translated)
}

/// The port to go to: as `nf_nat_l4proto_unique_tuple` chooses one that nobody holds yet.
fn target_port(ports: Ports, wanted: u16, random: &mut Random) -> u16 {
    let Some((first, last)) = ports.range else { return wanted };
    let many = u32::from(last.saturating_sub(first)) + 1;
    let offset = match ports.base {
        Some(base) => u32::from(wanted.wrapping_sub(base)) % many,
        None if ports.random => random.below(many as usize) as u32,
        None if (first..=last).contains(&wanted) => return wanted,
        None => 0,
    };
    (u32::from(first) + offset) as u16
}

/// The address of an interface that packets of this tuple are redirected to: its first one (as nf_nat_redirect).
fn own_address(
    interface: InterfaceId,
    tuple: &Tuple,
    context: &Context<'_>,
) -> Result<IpAddr, Refusal> {
    let addresses = context.interface(interface).map_or(&[][..], |i| &i.addresses);
    let mut of_family =
        addresses.iter().map(|own| own.address).filter(|a| a.is_ipv4() == tuple.dst().is_ipv4());
    let address = of_family.clone().find(|a| !is_link_local(*a)).or_else(|| of_family.next());
    address.ok_or(Refusal::Drop(DropReason::NoExternalAddress))
}

/// Nat source: what the rules of POSTROUTING, or for packets to the host of INPUT, say. `reply` is the reply tuple so far.
#[cold]
pub(super) fn source<H: Family>(
    packet: &Packet<'_>,
    headers: &Headers,
    reply: &Tuple,
    leg: &Leg,
    states: CtStates,
    context: &Context<'_>,
) -> Result<Source, Refusal> {
    let hook = match leg.egress {
        InterfaceId::NONE => Hook::NatInput,
        _ => Hook::NatPostrouting,
    };
    let (tuple, way) = (reply.inverted(), [leg.ingress, leg.egress]);
    let translation = match ask::<H>(packet, headers, &tuple, hook, way, states, context)? {
        Answer::Translate(translation) => translation,
        Answer::Accept => return Ok(Source::Ruled(None)),
        Answer::Nothing | Answer::Drop(_) => return Ok(Source::Unsaid),
    };
    let inside = tuple.src();
    Ok(match translation {
        Translation::Source(Some(pool), ports @ Ports { blocks: Some(blocks), .. }) => {
            let own = blocks.of(pool, inside);
            let (address, range) = own.ok_or(Refusal::Drop(DropReason::NoExternalAddress))?;
            let ports = Ports { range: Some(range), blocks: None, ..ports };
            Source::Ruled(Some(Behind { address, ports, flags: flags::SNAT }))
        }
        Translation::Source(addresses, ports) => {
            // One host inside keeps one address (RFC 4787 REQ-2), and what is of the pool already stays.
            let pairing = context.snapshot.steering.pairing(inside);
            let pick = |pool: crate::rules::Addresses| {
                if pool.hold(inside) { inside } else { pool.pick(pairing) }
            };
            let address = addresses.map_or(inside, pick);
            Source::Ruled(Some(Behind { address, ports, flags: flags::SNAT }))
        }
        // A DHCP client has no address yet.
        Translation::Masquerade(_) if inside.is_unspecified() => Source::Ruled(None),
        Translation::Masquerade(ports) => {
            let hop = leg.next_hop_address.filter(|hop| !is_link_local(*hop));
            let egress = context.interface(leg.egress);
            let address =
                egress.and_then(|egress| egress.address_towards(hop.unwrap_or(tuple.dst())));
            let address = address.ok_or(Refusal::Drop(DropReason::NoExternalAddress))?;
            Source::Ruled(Some(Behind::interface(address, ports)))
        }
        Translation::Netmap { network, mask } => {
            let address = netmapped(inside, network, mask).unwrap_or(inside);
            let ports = Ports::default();
            Source::Ruled(Some(Behind { address, ports, flags: flags::SNAT }))
        }
        Translation::Destination(..) | Translation::Redirect(_) => Source::Unsaid, // compile refuses it here
    })
}

/// Whether this worker will get the replies to a connection that rules have translated so. Another one would take them for
/// first packets, so it is better not begun.
pub(super) fn check_replies(reply: &Tuple, context: &Context<'_>) -> Result<(), Refusal> {
    if context.alone || context.snapshot.steering.owner(reply) == context.me {
        return Ok(());
    }
    Err(Refusal::Drop(DropReason::RepliesElsewhere))
}

fn ask<H: Family>(
    packet: &Packet<'_>,
    headers: &Headers,
    tuple: &Tuple,
    hook: Hook,
    way: [InterfaceId; 2],
    states: CtStates,
    context: &Context<'_>,
) -> Result<Answer, Refusal> {
    let policy = &context.snapshot.policy;
    if !policy.asks(H::FAMILY, HookSet::of(&[hook])) {
        return Ok(Answer::Nothing);
    }
    let subject = subject(packet, headers, tuple, way, states);
    match policy.consult(context.me, hook, &subject, &mut Tracking::Unsaid) {
        Answer::Drop(by) => Err(Refusal::Drop(leg::denied(by))),
        answer => Ok(answer),
    }
}

/// What the rules see of a packet with this tuple.
pub(super) fn subject<'a>(
    packet: &Packet<'_>,
    headers: &Headers,
    tuple: &'a Tuple,
    [ingress, egress]: [InterfaceId; 2],
    states: CtStates,
) -> Subject<'a> {
    Subject {
        tuple,
        protocol: headers.protocol,
        icmp_type: headers.icmp_type,
        icmp_code: headers.icmp_code,
        icmp_query: headers.kind == Kind::IcmpQuery,
        tcp_flags: headers.tcp.flags,
        ingress,
        egress,
        states,
        packet_len: fragments::judged_len(packet, headers),
    }
}
