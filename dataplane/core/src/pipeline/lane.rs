//! The fast lane: a [plain](crate::parse::plain) packet of a connection that has been answered, that comes as those
//! before it came and whose cached decision and next hop hold.
//!
//! All that could be out of the ordinary is looked at first, without changing a thing. If anything is,
//! the packet takes the long way ([`established`](super::established)), which does the same for an ordinary
//! packet in more steps: the lane saves time and decides nothing.

use super::Context;
use super::family::Family;
use super::leg;
use crate::burst::Packet;
use crate::conntrack::ctstate::CtState;
use crate::conntrack::datagram;
use crate::conntrack::entry::{self, HotState, flags};
use crate::conntrack::table::{Promise, Table, deadline};
use crate::conntrack::tcp;
use crate::conntrack::tuple::{Direction, protocol};
use crate::forward::NeighbourState;
use crate::nat::rewrite::Deltas;
use crate::parse::plain::{self, Plain};
use crate::rules::{AcceptedPath, PathId};
use crate::units::{InterfaceId, Mac, NeighbourIdx};

/// Where a packet goes whose way is clear.
struct Way<'a> {
    egress: InterfaceId,
    /// The next hop's on that link, and our own.
    macs: [Mac; 2],
    path: AcceptedPath<'a>,
}

/// The whole walk of a plain packet off the wire; where it is to be sent. `None` if anything else about it is out of the ordinary: nothing
/// was touched then. Connections with timeouts of their own (`POLICED`) have a lane of their own, so that the others need not ask.
#[inline(never)] // it needs all registers, and so does its caller
pub(super) fn pass<H: Family, const POLICED: bool>(
    table: &mut Table<'_, H>,
    packet: &mut Packet<'_>,
    Plain { shape, ip_len, zone }: Plain,
    promise: Promise,
    context: &Context<'_>,
) -> Option<InterfaceId> {
    let Packet { room, start, len, interface, .. } = packet;
    let bytes = room.get_mut(*start..*start + *len)?;
    let (row, direction) = table.promised(promise, &H::plain_tuple(bytes, zone)?)?;
    let (hot, warm) = table.hot_and_warm(row)?;
    let way = clear::<POLICED>(hot.state(), direction, ip_len, *interface, context)?;

    // Track.
    let state = hot.state_mut();
    let timeout_before = state.timeout_ms;
    let timeouts = match POLICED {
        false => &context.snapshot.timeouts,
        true => context.snapshot.terms_of(state.timeout_policy()).timeouts,
    };
    if shape.is_tcp() {
        let (segment, options) = plain::segment(bytes, H::PLAIN_L4, ip_len)?;
        let mut ordinary =
            |state: &mut _| tcp::ordinary(direction, &segment, options, timeouts, state, warm);
        let is_ordinary = match POLICED {
            false => ordinary(state),
            true => HotState::with_machine(state, ordinary),
        };
        if !is_ordinary {
            return None;
        }
    } else {
        state.timeout_ms = datagram::settled(protocol::UDP, timeouts, state)?;
    }
    state.last_seen = context.tick.0;
    if context.snapshot.options.accounting {
        warm.count(direction, ip_len);
    }
    way.path.count(u32::from(ip_len));

    // Rewrite.
    let deltas = Deltas { l3: state.l3_delta, l4: state.l4_delta };
    let deltas = match direction {
        Direction::Original => deltas,
        Direction::Reply => deltas.reversed(),
    };
    let shorter = state.timeout_ms < timeout_before;
    H::rewrite_plain(bytes, shape, hot.tuple(direction.opposite()), deltas);
    leg::write_macs(bytes, way.macs);
    if shorter {
        table.rearm(row);
    }
    Some(way.egress)
}

/// Whether nothing stands in the way of a packet in `direction` that came in by `ingress`: the connection lives and
/// was answered, the packet came the way it came before and may be sent on, and the rules accept it.
#[inline(always)]
fn clear<'a, const POLICED: bool>(
    state: &HotState,
    direction: Direction,
    ip_len: u16,
    ingress: InterfaceId,
    context: &Context<'a>,
) -> Option<Way<'a>> {
    let d = direction.index();
    let snapshot = context.snapshot;
    let [came_in_by, egress] = state.interfaces[d];
    let expected = CtState::Established as u8 | if POLICED { entry::POLICED } else { 0 };
    let as_before = state.stamps == snapshot.stamps
        && came_in_by == ingress.0
        && state.flags & (flags::SEEN_REPLY | flags::HELPED) == flags::SEEN_REPLY
        && state.path_states >> (4 * d) & 0x0f == expected
        && !context.tick.reached(deadline(state));
    if !as_before {
        return None;
    }
    let interface = snapshot.interfaces.0.get(usize::from(egress))?;
    if ip_len > interface.mtu {
        return None;
    }
    let next_hop = snapshot.neighbours.get(NeighbourIdx(state.next_hops[d]))?;
    if !matches!(next_hop.state, NeighbourState::Reachable | NeighbourState::Stale) {
        return None;
    }
    let path = context.paths?.accepted(PathId(state.paths[d]))?;
    Some(Way { egress: InterfaceId(egress), macs: [next_hop.mac, interface.mac], path })
}
