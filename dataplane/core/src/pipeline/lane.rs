//! The fast lane: a packet of a connection that has been answered, that comes as those before it came and
//! whose cached decision and next hop hold.
//!
//! All that could be out of the ordinary is looked at first, without changing a thing. If anything is,
//! the packet takes the long way ([`established`](super::established)), which does the same for an ordinary
//! packet in more steps: the lane saves time and decides nothing.

use super::Context;
use super::family::Family;
use super::leg;
use crate::burst::{Origin, Packet};
use crate::conntrack::ctstate::CtState;
use crate::conntrack::datagram;
use crate::conntrack::entry::{HotState, flags};
use crate::conntrack::table::{Promise, Row, Table, deadline};
use crate::conntrack::tcp;
use crate::conntrack::tuple::{Direction, FamilyTuple};
use crate::forward::NeighbourState;
use crate::headers::{Headers, Kind};
use crate::nat::rewrite::{Deltas, TtlChange};
use crate::rules::{AcceptedPath, PathId};
use crate::units::{InterfaceId, Mac, NeighbourIdx};
use crate::verdict::Verdict;

/// Where a packet goes whose way is clear.
struct Way<'a> {
    egress: InterfaceId,
    /// Our own on that link, and the next hop's.
    macs: [Mac; 2],
    path: AcceptedPath<'a>,
}

/// The whole walk of an ordinary packet. `None` if it is not: nothing was touched then.
#[inline(never)] // it needs all registers, and so does its caller
pub(super) fn pass<H: Family>(
    table: &mut Table<'_, H>,
    packet: &mut Packet<'_>,
    promise: Promise,
    context: &Context<'_>,
) -> Option<Verdict> {
    let Packet { room, start, len, interface, origin: Origin::Wire, parsed: Some(headers), .. } =
        packet
    else {
        return None;
    };
    let headers: &Headers = headers;
    let (row, direction) = table.promised(promise, H::Tuple::of(&headers.tuple)?)?;
    let Row { hot, warm, .. } = table.row(row);
    let way = clear(hot.state(), direction, headers, *interface, context)?;
    let bytes = room.get_mut(*start..*start + *len)?;

    // Track.
    let state = hot.state_mut();
    let timeout_before = state.timeout_ms;
    match headers.kind {
        Kind::Tcp => {
            let options = super::established::tcp_options(bytes, headers);
            let timeouts = &context.snapshot.timeouts;
            if !tcp::ordinary(direction, &headers.tcp, options, timeouts, state, warm) {
                return None;
            }
        }
        Kind::Flow => {
            state.timeout_ms =
                datagram::settled(headers.protocol, &context.snapshot.timeouts, state)?;
        }
        _ => return None,
    }
    state.last_seen = context.tick.0;
    if context.snapshot.options.accounting {
        warm.count(direction, headers.ip_len);
    }
    way.path.count(u32::from(headers.ip_len));

    // Rewrite.
    let deltas = Deltas { l3: state.l3_delta, l4: state.l4_delta };
    let deltas = match direction {
        Direction::Original => deltas,
        Direction::Reply => deltas.reversed(),
    };
    let shorter = state.timeout_ms < timeout_before;
    let to = hot.tuple(direction.opposite()).inverted();
    H::rewrite(bytes, headers, &to, deltas, TtlChange::Decrement);
    leg::write_macs(bytes, way.macs);
    if shorter {
        table.rearm(row);
    }
    Some(Verdict::Forward { egress: way.egress })
}

/// Whether nothing stands in the way of a packet in `direction` that came in by `ingress`: the connection lives and
/// was answered, the packet came the way it came before and may be sent on, and the rules accept it.
#[inline(always)]
fn clear<'a>(
    state: &HotState,
    direction: Direction,
    headers: &Headers,
    ingress: InterfaceId,
    context: &Context<'a>,
) -> Option<Way<'a>> {
    let d = direction.index();
    let snapshot = context.snapshot;
    let [came_in_by, egress] = state.interfaces[d];
    let as_before = state.stamps == snapshot.stamps
        && came_in_by == ingress.0
        && state.flags & flags::SEEN_REPLY != 0
        && state.path_states >> (4 * d) & 0x0f == CtState::Established as u8
        && !context.tick.reached(deadline(state));
    if !as_before || headers.ttl <= 1 || headers.l2_group {
        return None;
    }
    let interface = snapshot.interfaces.0.get(usize::from(egress))?;
    if headers.ip_len > interface.mtu {
        return None;
    }
    let next_hop = snapshot.neighbours.get(NeighbourIdx(state.next_hops[d]))?;
    if !matches!(next_hop.state, NeighbourState::Reachable | NeighbourState::Stale) {
        return None;
    }
    let path = context.paths?.accepted(PathId(state.paths[d]))?;
    Some(Way { egress: InterfaceId(egress), macs: [next_hop.mac, interface.mac], path })
}
