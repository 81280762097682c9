//! Endpoint-independent mappings on the walk: who is let in by one, and what a connection appears as that has one. See
//! [`mapping`](crate::nat::mapping). No packet comes here unless a rule or an interface asks for such mappings.

use core::net::{IpAddr, SocketAddrV4};

use super::Context;
use super::admit::no_port;
use super::leg::Leg;
use super::ruled::Behind;
use crate::conntrack::entry::{Warm, flags, peer_flags};
use crate::conntrack::timeouts::TimeoutKind;
use crate::conntrack::tuple::{Direction, Tuple, protocol};
use crate::nat::mapping::{HoldError, Refused, Wanted, maps};
use crate::nat::plan::{self, Random};
use crate::rules::{Independence, Ports};
use crate::snapshot::Snapshot;
use crate::units::{InterfaceId, WorkerId};
use crate::verdict::DropReason;

/// How often a port is chosen anew because another worker took it meanwhile.
const TRIES: usize = 4;

/// Ports below this one are for services, not for strangers.
const PRIVILEGED: u16 = 1024;

/// Nat destination: the inside endpoint that an unsolicited packet is let in to.
#[cold]
pub(super) fn destination(tuple: &Tuple, context: &Context<'_>) -> Option<(IpAddr, u16)> {
    let external = endpoint(tuple.dst(), tuple.dst_id())?;
    let steering = &context.snapshot.steering;
    let is_candidate = maps(tuple.protocol())
        && external.port() >= PRIVILEGED
        && steering.is_external(tuple.dst())
        && !steering.is_static(tuple.dst(), tuple.protocol(), external.port());
    if !is_candidate {
        return None;
    }
    let mappings = &context.snapshot.mappings;
    let mapping = mappings.of_external(tuple.protocol(), external, context.tick)?;
    let is_open = mapping.independence == Independence::Filtering;
    is_open.then(|| ((*mapping.inside.ip()).into(), mapping.inside.port()))
}

/// Nat source, where no rule speaks: what the interface asks for; and whoever sends to a mapping from inside appears by
/// its own (hairpin, RFC 4787 REQ-9). `reply` is the reply tuple so far, `dialled` the destination before translation.
#[cold]
pub(super) fn unsaid(
    behind: &mut Option<Behind>,
    reply: &Tuple,
    dialled: Option<IpAddr>,
    leg: &Leg,
    context: &Context<'_>,
) {
    let steering = &context.snapshot.steering;
    if let (Some(dialled), Some(inside)) = (dialled, endpoint(reply.dst(), reply.dst_id()))
        && steering.is_mappable(reply.protocol(), *inside.ip(), inside.port())
        && steering.is_host_inside(reply.dst())
    {
        let mappings = &context.snapshot.mappings;
        let own = mappings.any_of_inside(reply.protocol(), inside, context.tick);
        let address = own.map_or(dialled, |own| IpAddr::V4(*own.external.ip()));
        // One that is made for this lets nobody in: no rule has said so yet.
        let independence = own.map_or(Independence::Mapping, |own| own.independence);
        let ports = Ports { independent: Some(independence), ..Ports::default() };
        *behind = Some(match steering.is_ours(address) {
            true => Behind::interface(address, ports),
            false => Behind { address, ports, flags: flags::SNAT | flags::RULED },
        });
        return;
    }
    let independent = context.interface(leg.egress).and_then(|egress| egress.independent);
    if let Some(behind) = behind {
        behind.ports.independent = independent;
    }
}

/// Whether an external endpoint belongs to a mapping, and so is nobody else's.
pub(super) fn is_reserved(reply: &Tuple, context: &Context<'_>) -> bool {
    owns(reply.protocol(), reply.dst(), reply.dst_id(), context)
}

/// Whether that external endpoint belongs to a mapping.
pub(super) fn owns(protocol: u8, address: IpAddr, port: u16, context: &Context<'_>) -> bool {
    maps(protocol)
        && endpoint(address, port).is_some_and(|external| {
            let mappings = &context.snapshot.mappings;
            mappings.of_external(protocol, external, context.tick).is_some()
        })
}

/// What a connection's source is to become.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    /// The reply tuple so far.
    pub(super) reply: &'a Tuple,
    pub(super) behind: &'a Behind,
    pub(super) ingress: InterfaceId,
}

/// Nat source: the reply tuple of a connection whose source has a mapping, or gets one; of any other, one whose external
/// endpoint is of no mapping.
#[cold]
pub(super) fn source(
    asked: Asked<'_>,
    random: &mut Random,
    warm: &mut Warm,
    context: &Context<'_>,
    taken: impl Fn(&Tuple) -> bool,
) -> Result<Tuple, DropReason> {
    let Asked { reply, behind, .. } = asked;
    let steering = &context.snapshot.steering;
    let dealer = steering.dealer(reply, behind.address, context.me);
    let free_port = |random: &mut Random| {
        let taken = |reply: &Tuple| taken(reply) || is_reserved(reply, context);
        let (ports, address) = (behind.ports, behind.address);
        plan::external_among(ports, *reply, address, dealer, steering, random, taken)
            .ok_or_else(|| no_port(behind, reply, dealer, context))
    };
    for _ in 0..TRIES {
        let Some(mut wanted) = wanted(&asked, dealer, context) else { break };
        let known = wanted.external.port() != 0;
        if !known {
            wanted.external.set_port(free_port(random)?.dst_id());
        }
        let mappings = &context.snapshot.mappings;
        let held = match mappings.hold(&wanted, context.tick) {
            Ok(held) => held,
            Err(HoldError::Taken) => continue, // by another worker, meanwhile
            Err(HoldError::Full) => {
                context.counters.mappings_refused.add(1);
                break;
            }
        };
        let chosen = reply.with_dst(behind.address, held.external.port());
        let Some(chosen) = chosen.filter(|chosen| !taken(chosen)) else {
            // Another one's connection to this very server, from before the mapping or by a rule without.
            mappings.release(wanted.protocol, held.external, context.tick, Refused::Yes);
            return Err(DropReason::TupleInUse);
        };
        context.counters.mappings_made.add(u64::from(!known));
        warm.peer_flags[Direction::Original.index()] |= peer_flags::MAPPED;
        return Ok(chosen);
    }
    free_port(random)
}

/// The mapping that a connection's source has or may have; its external port is 0 if it has none yet. `None` if it can have
/// none: then it is translated as any other.
fn wanted(asked: &Asked<'_>, dealer: WorkerId, context: &Context<'_>) -> Option<Wanted> {
    let &Asked { reply, behind, ingress } = asked;
    let independence = behind.ports.independent?;
    let (mut external, inside) =
        (endpoint(behind.address, 0)?, endpoint(reply.dst(), reply.dst_id())?);
    let (steering, protocol) = (&context.snapshot.steering, reply.protocol());
    // Of its ports, the one inside and the one outside, both must be of one worker.
    let is_mappable = ingress != InterfaceId::NONE
        && steering.block(inside.port()) == dealer
        && steering.is_mappable(protocol, *inside.ip(), inside.port());
    if !is_mappable {
        return None;
    }
    let mappings = &context.snapshot.mappings;
    if let Some(known) = mappings.of_inside(protocol, inside, *external.ip(), context.tick) {
        external = known.external;
        let older = context.snapshot.older_steering.iter().map(|older| &**older);
        let mut steerings = core::iter::once(&*context.snapshot.steering).chain(older);
        if steerings.any(|s| s.is_static(behind.address, protocol, external.port())) {
            return None; // a forward or a rule has its port, or had it and may have connections there
        }
    }
    let linger_ms = linger_ms(protocol, context);
    Some(Wanted { protocol, inside, external, independence, linger_ms })
}

/// A connection that came in by a mapping holds it.
#[cold]
pub(super) fn enter(dialled: &Tuple, row_flags: &mut u16, warm: &mut Warm, context: &Context<'_>) {
    let Some(external) = endpoint(dialled.dst(), dialled.dst_id()) else { return };
    let Snapshot { mappings, steering, .. } = context.snapshot;
    if !steering.is_ours(dialled.dst()) {
        *row_flags |= flags::RULED; // a pool's address: no interface has to have it
    }
    if mappings.hold_external(dialled.protocol(), external, context.tick) {
        warm.peer_flags[Direction::Reply.index()] |= peer_flags::MAPPED;
    }
}

/// A connection that was refused after all lets go of its mappings. `original` is as it arrived, `reply` the reply tuple it
/// would have had.
#[cold]
pub(super) fn undo(original: &Tuple, reply: &Tuple, warm: &Warm, context: &Context<'_>) {
    let mappings = &context.snapshot.mappings;
    for (tuple, flags) in [reply, original].into_iter().zip(warm.peer_flags) {
        if flags & peer_flags::MAPPED != 0
            && let Some(external) = endpoint(tuple.dst(), tuple.dst_id())
        {
            mappings.release(tuple.protocol(), external, context.tick, Refused::Yes);
        }
    }
}

/// How long a mapping stays after the last packet of its connections: for UDP as long as a stream (RFC 4787 REQ-5), for TCP
/// as long as a connection that closed (RFC 5382 REQ-5, transitory).
fn linger_ms(protocol: u8, context: &Context<'_>) -> u32 {
    context.snapshot.timeouts.ms(match protocol {
        protocol::TCP => TimeoutKind::TcpTimeWait,
        _ => TimeoutKind::UdpStream,
    })
}

fn endpoint(address: IpAddr, port: u16) -> Option<SocketAddrV4> {
    match address {
        IpAddr::V4(address) => Some(SocketAddrV4::new(address, port)),
        IpAddr::V6(_) => None,
    }
}
