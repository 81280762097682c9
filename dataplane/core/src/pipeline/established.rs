//! A packet of a known connection, the long way: track, the cached decision, rewrite. [`lane`](super::lane) is the short one.
//!
//! The decision, the way out and the next hop are kept in the entry's hot line. They hold while the
//! snapshot's stamps, the interface and the conntrack state are those they were made for; on a
//! mismatch [`reroute`] or [`rejudge`] makes them again, and the entry stays.

use super::family::Family;
use super::leg::{self, Leg, NextHop, Oversize};
use super::refuse::{Refusal, refuse};
use super::{Context, Desk, admit, clamp, fragments, helped, stray, zone};
use crate::burst::{Accepted, Origin, Packet, Seen};
use crate::conntrack::changes::Ended;
use crate::conntrack::ctstate::{CtState, CtStates};
use crate::conntrack::datagram;
use crate::conntrack::entry::{Cold, HotState, Warm, flags};
use crate::conntrack::sctp;
use crate::conntrack::table::{Row, Table, TupleHash, deadline};
use crate::conntrack::tcp::{self, Outcome};
use crate::conntrack::timeouts::TimeoutKind;
use crate::conntrack::tuple::{Direction, FamilyTuple, Tuple, protocol};
use crate::headers::{Headers, Kind};
use crate::limits::Account;
use crate::nat::rewrite::{Deltas, TtlChange};
use crate::reply::IcmpErrorKind;
use crate::rules::{self, Action, Judgement, PathId, Subject};
use crate::snapshot::{Snapshot, Terms};
use crate::units::{EntryIdx, InterfaceId, NeighbourIdx, NextHopTag};
use crate::verdict::{DropReason, HostClass, Verdict};

/// In an entry's interfaces: no packet of this direction was seen yet.
pub(super) const UNSEEN: u8 = u8::MAX - 1;
const _: () = assert!(UNSEEN as usize >= crate::units::INTERFACES_MAX);

/// The whole walk of a packet that was found in the table.
#[inline]
pub(super) fn pass<H: Family>(
    table: &mut Table<'_, H>,
    desk: &mut Desk,
    packet: &mut Packet<'_>,
    hash: TupleHash,
    row: EntryIdx,
    direction: Direction,
    context: &Context<'_>,
) -> Verdict {
    let Some(mut headers) = packet.parsed else {
        return Verdict::Drop(DropReason::Stopping);
    };
    let before = *table.hot(row).state();
    let helped = before.flags & flags::HELPED != 0;
    if context.tick.reached(deadline(&before)) {
        // Past its deadline it counts as absent, even if the wheel has not come to it.
        let why = Ended::by_itself(&before);
        return anew(table, desk, packet, hash, row, direction, why, context);
    }

    // What its sender may claim comes before what it does to the state.
    if let Err(refusal) = may_come_here(&before, packet, &headers, direction, context) {
        return refuse(refusal, packet, desk, context);
    }
    if headers.kind == Kind::IcmpQuery
        && admit::is_query(&headers) != (direction == Direction::Original)
    {
        // An identifier can look like a type, and a request like the answer to another.
        return stray::invalid(desk, packet, &headers, DropReason::IcmpNotQuery, context);
    }

    // Track.
    if helped {
        helped::arrive(table, desk, packet, &mut headers, row, direction);
    }
    let outcome = track(table.row(row), packet, &headers, direction, context);
    match outcome {
        Outcome::Pass | Outcome::Ignore | Outcome::Delete => {}
        Outcome::Invalid(reason) => {
            table.settle(row, before.flags, before.timeout_ms); // it may live shorter now
            return stray::invalid(desk, packet, &headers, reason, context);
        }
        Outcome::Reopen => {
            return anew(table, desk, packet, hash, row, direction, Ended::Reopened, context);
        }
    }
    table.settle(row, before.flags, before.timeout_ms);
    if table.is_followed() {
        tell(table, row, &before, context);
    }
    let ctstate = ctstate(&before, direction);

    // The decision and the way out: cached, or made again.
    let decided = decide(table, packet, &headers, row, direction, ctstate, context);
    if matches!(decided, Err(Refusal::Drop(DropReason::AddressGone))) {
        table.remove(row, Ended::AddressGone, context.tick, context.books());
        context.counters.connections_gone.add(1);
        if direction == Direction::Original {
            // It may begin anew behind the current address.
            let tuple = H::Tuple::of(&headers.tuple).copied().unwrap_or_default();
            return admit::pass(table, desk, packet, hash, &tuple, context);
        }
        context.counters.tracked.add(1);
        return Verdict::Drop(DropReason::AddressGone);
    }
    context.counters.tracked.add(1);
    let decided = match decided {
        Ok(leg) if helped => {
            helped::depart(table, desk, packet, &mut headers, row, direction, &leg, context)
                .map(|()| leg)
        }
        decided => decided,
    };
    let verdict = match decided {
        Ok(leg) => send(table, desk, packet, &headers, row, direction, &leg, context),
        Err(refusal) => refuse(refusal, packet, desk, context),
    };
    match (outcome, verdict) {
        // The packet that ends it waits for its next hop, and has to find its connection then.
        (Outcome::Delete, Verdict::Hold { .. }) => close_soon(table, row, context),
        (Outcome::Delete, _) => {
            table.remove(row, Ended::Closed, context.tick, context.books());
            context.counters.connections_gone.add(1);
        }
        _ => {}
    }
    verdict
}

/// Ends a connection within the few seconds that a packet may wait.
#[cold]
fn close_soon<H: Family>(table: &mut Table<'_, H>, row: EntryIdx, context: &Context<'_>) {
    let before = *table.hot(row).state();
    let state = table.row(row).hot.state_mut();
    state.flags |= flags::CLOSED;
    let terms = context.snapshot.terms_of(state.timeout_policy());
    state.timeout_ms = terms.timeouts.ms(TimeoutKind::TcpClose);
    table.settle(row, before.flags, before.timeout_ms);
}

/// The source check, for a packet that comes in by another interface than those before it, or the first
/// since something changed.
#[inline]
pub(super) fn may_come_here(
    state: &HotState,
    packet: &Packet<'_>,
    headers: &Headers,
    direction: Direction,
    context: &Context<'_>,
) -> Result<(), Refusal> {
    let d = direction.index();
    let known = state.interfaces[d][0] == packet.interface.0
        && state.next_hops[d] != NeighbourIdx::UNROUTED.0
        && state.stamps.way == context.snapshot.stamps.way;
    if known || packet.origin == Origin::Host {
        return Ok(());
    }
    leg::check_source(packet.interface, headers.tuple.src(), headers.tuple.dst(), context)
}

/// Removes what is over and takes the packet for a first one.
#[cold]
#[allow(clippy::too_many_arguments)] // the corridor's luggage
fn anew<H: Family>(
    table: &mut Table<'_, H>,
    desk: &mut Desk,
    packet: &mut Packet<'_>,
    hash: TupleHash,
    row: EntryIdx,
    direction: Direction,
    why: Ended,
    context: &Context<'_>,
) -> Verdict {
    let found = *table.hot(row).tuple(direction);
    let tuple = zone::of_first::<H>(packet, found, context);
    let hash = if tuple.same(&found) { hash } else { table.hash(&tuple) };
    if let Some(headers) = &mut packet.parsed {
        headers.tuple = tuple.into();
    }
    table.remove(row, why, context.tick, context.books());
    context.counters.connections_gone.add(1);
    admit::pass(table, desk, packet, hash, &tuple, context)
}

/// Tells who follows, if the packet changed what conntrack calls the connection's state.
#[cold]
fn tell<H: Family>(
    table: &mut Table<'_, H>,
    row: EntryIdx,
    before: &HotState,
    context: &Context<'_>,
) {
    const TOLD: u16 = flags::SEEN_REPLY | flags::ASSURED | flags::CLOSED;
    let state = table.hot(row).state();
    if (state.flags ^ before.flags) & TOLD != 0 || state.protocol_state != before.protocol_state {
        table.note_update(row, context.tick);
    }
}

/// Protocol state, window, timeout, counters.
#[inline]
fn track<H: Family>(
    row: Row<'_, H>,
    packet: &Packet<'_>,
    headers: &Headers,
    direction: Direction,
    context: &Context<'_>,
) -> Outcome {
    let Row { hot, warm, cold } = row;
    let state = hot.state_mut();
    if state.has_timeout_policy() {
        return track_policed(state, warm, cold, packet, headers, direction, context);
    }
    let terms = context.snapshot.terms();
    track_under(terms, state, warm, cold, packet, headers, direction, context)
}

/// [`track`] for a connection with timeouts of its own.
#[cold]
fn track_policed(
    state: &mut HotState,
    warm: &mut Warm,
    cold: &mut Cold,
    packet: &Packet<'_>,
    headers: &Headers,
    direction: Direction,
    context: &Context<'_>,
) -> Outcome {
    let terms = context.snapshot.terms_of(state.timeout_policy());
    HotState::with_machine(state, |state| {
        track_under(terms, state, warm, cold, packet, headers, direction, context)
    })
}

#[inline]
#[allow(clippy::too_many_arguments)] // an entry's three parts travel apart
fn track_under(
    Terms { timeouts, tcp: policy }: Terms<'_>,
    state: &mut HotState,
    warm: &mut Warm,
    cold: &mut Cold,
    packet: &Packet<'_>,
    headers: &Headers,
    direction: Direction,
    context: &Context<'_>,
) -> Outcome {
    let snapshot = context.snapshot;
    let outcome = if headers.kind == Kind::Tcp {
        let options = tcp_options(packet.bytes(), headers);
        tcp::packet(
            direction,
            &headers.tcp,
            options,
            policy,
            timeouts,
            context.tick,
            state,
            warm,
            cold,
        )
    } else if headers.protocol == protocol::SCTP {
        let bytes = transport(packet.bytes(), headers);
        sctp::packet(direction, bytes, timeouts, context.tick, state, warm)
    } else {
        datagram::packet(headers.protocol, timeouts, context.tick, state, cold);
        state.last_seen = context.tick.0;
        Outcome::Pass
    };
    if !matches!(outcome, Outcome::Pass | Outcome::Ignore | Outcome::Delete) {
        return outcome;
    }
    if direction == Direction::Reply {
        state.flags |= flags::SEEN_REPLY;
    }
    // Differs: Linux counts neither what the TCP and SCTP machines ignore nor a repeated SYN; all of it crosses, though.
    if snapshot.options.accounting {
        warm.count(direction, headers.ip_len);
    }
    outcome
}

/// The transport packet, without what pads the frame; of a first fragment, what it has of it.
pub(super) fn transport<'p>(bytes: &'p [u8], headers: &Headers) -> &'p [u8] {
    let end = usize::from(headers.l3) + usize::from(headers.ip_len);
    bytes.get(usize::from(headers.l4)..end).unwrap_or_default()
}

/// The option bytes of a TCP header.
#[inline]
pub(super) fn tcp_options<'p>(bytes: &'p [u8], headers: &Headers) -> &'p [u8] {
    let header = usize::from(headers.l4);
    let end = header + usize::from(headers.tcp.header_len);
    bytes.get(header + 20..end).unwrap_or_default()
}

/// What conntrack calls the packet, going by the entry as the packet found it.
#[inline]
pub(super) fn ctstate(before: &HotState, direction: Direction) -> CtState {
    match direction {
        Direction::Reply => CtState::Established,
        Direction::Original if before.flags & flags::SEEN_REPLY != 0 => CtState::Established,
        Direction::Original if before.flags & flags::EXPECTED != 0 => CtState::Related,
        Direction::Original => CtState::New,
    }
}

/// The states a rule sees: the packet's own, and what its connection's translation is.
#[inline]
pub(super) fn states(state: CtState, row_flags: u16) -> CtStates {
    let mut states = CtStates::of(state);
    if row_flags & flags::SNAT != 0 {
        states = states.union(CtStates::SNAT);
    }
    if row_flags & flags::DNAT != 0 {
        states = states.union(CtStates::DNAT);
    }
    states
}

/// The way out, and the rules' consent, from the entry if they still hold.
#[inline]
pub(super) fn decide<H: Family>(
    table: &mut Table<'_, H>,
    packet: &Packet<'_>,
    headers: &Headers,
    row: EntryIdx,
    direction: Direction,
    ctstate: CtState,
    context: &Context<'_>,
) -> Result<Leg, Refusal> {
    let d = direction.index();
    let leg = way(table, packet, headers, row, direction, context)?;

    let state = table.hot(row).state();
    let judged_as = state.path_states >> (4 * d) & 0x07;
    let path = PathId(state.paths[d]);
    let holds = path != PathId::UNCACHED
        && judged_as == ctstate as u8
        && state.stamps.policy == context.snapshot.stamps.policy;
    let cached = if holds {
        let len = fragments::judged_len(packet, headers);
        context.snapshot.policy.cached(context.me, path, len)
    } else {
        None
    };
    let judgement = match cached {
        Some(judgement) => judgement,
        None => rejudge(table, packet, headers, row, direction, ctstate, &leg, context),
    };
    consent(&judgement)?;
    Ok(leg)
}

/// The way out alone.
#[inline]
pub(super) fn way<H: Family>(
    table: &mut Table<'_, H>,
    packet: &Packet<'_>,
    headers: &Headers,
    row: EntryIdx,
    direction: Direction,
    context: &Context<'_>,
) -> Result<Leg, Refusal> {
    let d = direction.index();
    let state = table.hot(row).state();
    let [ingress, egress] = state.interfaces[d];
    let here = match packet.origin {
        Origin::Wire => ingress == packet.interface.0,
        Origin::Host => ingress == InterfaceId::NONE.0 && egress == packet.interface.0,
    };
    let next_hop = NeighbourIdx(state.next_hops[d]);
    let forwarded = ingress != InterfaceId::NONE.0 && egress != InterfaceId::NONE.0;
    let routed =
        next_hop != NeighbourIdx::UNROUTED && (!forwarded || next_hop != NeighbourIdx::NONE);
    let leg = if here && routed && state.stamps.way == context.snapshot.stamps.way {
        Leg {
            ingress: InterfaceId(ingress),
            egress: InterfaceId(egress),
            next_hop,
            next_hop_address: None,
            route_mtu: 0,
        }
    } else {
        reroute(table, packet, headers, row, direction, context)?
    };
    if leg.ingress != InterfaceId::NONE && leg.egress != InterfaceId::NONE {
        leg::limits(headers, leg.egress, leg.route_mtu, Oversize::Split, context)?;
    }
    Ok(leg)
}

/// The interface the connection's first packet came in by.
pub(super) fn came_in_by<H: Family>(hot: &H) -> InterfaceId {
    InterfaceId(hot.state().interfaces[Direction::Original.index()][0])
}

/// The interface that packets of the original direction left by so far.
pub(super) fn went_out_by<H: Family>(hot: &H) -> InterfaceId {
    InterfaceId(hot.state().interfaces[Direction::Original.index()][1])
}

/// What a judgement means for the packet.
#[inline]
pub(super) fn consent(judgement: &Judgement) -> Result<(), Refusal> {
    match (judgement.action, judgement.drop_reason()) {
        (Action::Accept, _) | (_, None) => Ok(()),
        (Action::Drop, Some(reason)) => Err(Refusal::Drop(reason)),
        (Action::Reject(kind), Some(reason)) => Err(Refusal::Reject(reason, kind)),
    }
}

/// Looks the way out up, for the first packet of a direction or after a change of routes, addresses or
/// interface, and keeps it.
#[cold]
fn reroute<H: Family>(
    table: &mut Table<'_, H>,
    packet: &Packet<'_>,
    headers: &Headers,
    row: EntryIdx,
    direction: Direction,
    context: &Context<'_>,
) -> Result<Leg, Refusal> {
    let d = direction.index();
    context.counters.rerouted.add(1);
    let state = table.row(row).hot.state_mut();
    if state.stamps.way != context.snapshot.stamps.way {
        state.stamps.way = context.snapshot.stamps.way;
        state.next_hops = [NeighbourIdx::UNROUTED.0; 2];
    }
    if has_lost_address(table.hot(row), context.snapshot) {
        return Err(Refusal::Drop(DropReason::AddressGone));
    }
    let out: Tuple = (*table.hot(row).tuple(direction.opposite())).into();
    let leg = match packet.origin {
        Origin::Host => Leg::from_host(packet.interface),
        Origin::Wire => {
            let preferred = zone::behind(table.hot(row), direction, context);
            leg::route(packet.interface, out.src(), preferred, context)?
        }
    };
    if direction == Direction::Original && packet.origin == Origin::Wire {
        check_translation(table.hot(row), headers, &leg, context)?;
    }
    let state = table.row(row).hot.state_mut();
    let interfaces = [leg.ingress.0, leg.egress.0];
    if state.interfaces[d] != interfaces {
        state.paths[d] = PathId::UNCACHED.0; // rules look at both
    }
    state.interfaces[d] = interfaces;
    state.next_hops[d] = leg.next_hop.0;
    if leg.route_mtu != 0 {
        // Only the route knows: ask it again next time.
        state.next_hops[d] = NeighbourIdx::UNROUTED.0;
    }
    Ok(leg)
}

/// Whether an address that the connection's translation rests on, of ours or of a nat rule that is gone, is there no more.
pub(super) fn has_lost_address<H: Family>(hot: &H, snapshot: &Snapshot) -> bool {
    let original: Tuple = (*hot.tuple(Direction::Original)).into();
    let reply: Tuple = (*hot.tuple(Direction::Reply)).into();
    let row_flags = hot.state().flags;
    (row_flags & flags::MASQUERADE != 0 && !snapshot.steering.is_ours(reply.dst()))
        || (row_flags & (flags::DNAT | flags::RULED) == flags::DNAT
            && !snapshot.steering.is_outer(original.dst()))
}

/// Holds a way out that was made again against the translation that the connection has: if the two do not
/// fit, the connection is over, and its next packet begins another (as nf_nat_oif_changed does).
fn check_translation<H: Family>(
    hot: &H,
    headers: &Headers,
    leg: &Leg,
    context: &Context<'_>,
) -> Result<(), Refusal> {
    let row_flags = hot.state().flags;
    let had = hot.state().interfaces[Direction::Original.index()][1];
    let to_host = leg.egress == InterfaceId::NONE;
    let masquerades = H::FAMILY == rules::Family::V4
        && context.interface(leg.egress).is_some_and(|egress| egress.masquerade);
    let is_masqueraded = row_flags & flags::MASQUERADE != 0;
    let fits = to_host == (row_flags & flags::TO_HOST != 0)
        && (!is_masqueraded || had == leg.egress.0)
        && (!masquerades
            || is_masqueraded
            // A rule may have said where it goes, and not behind what it appears.
            || row_flags & flags::RULED != 0 && (row_flags & flags::DNAT == 0 || had == leg.egress.0)
            || context.snapshot.steering.is_ours(headers.tuple.src()));
    if fits { Ok(()) } else { Err(Refusal::Drop(DropReason::AddressGone)) }
}

/// Walks the rules again, and keeps the path.
#[cold]
#[allow(clippy::too_many_arguments)] // the corridor's luggage
fn rejudge<H: Family>(
    table: &mut Table<'_, H>,
    packet: &Packet<'_>,
    headers: &Headers,
    row: EntryIdx,
    direction: Direction,
    ctstate: CtState,
    leg: &Leg,
    context: &Context<'_>,
) -> Judgement {
    let d = direction.index();
    context.counters.rejudged.add(1);
    let out: Tuple = (*table.hot(row).tuple(direction.opposite())).into();
    let row_flags = table.hot(row).state().flags;
    let states = states(ctstate, row_flags);
    let mut account = context.snapshot.policy.ledger().map(|ledger| {
        let own: Tuple = (*table.hot(row).tuple(direction)).into();
        let tuples = match direction {
            Direction::Original => [&own, &out],
            Direction::Reply => [&out, &own],
        };
        Account::of_known(ledger, context.me, row, tuples, direction)
    });
    let (to, to_id, account_now) = (out.src(), out.src_id(), account.as_mut());
    let judgement = judge(packet, headers, to, to_id, states, leg, account_now, context);
    if let Some(account) = account {
        account.keep(context.me, row);
    }
    let state = table.row(row).hot.state_mut();
    if state.stamps.policy != context.snapshot.stamps.policy {
        state.stamps.policy = context.snapshot.stamps.policy;
        state.paths = [PathId::UNCACHED.0; 2];
    }
    state.paths[d] = judgement.path.0;
    let keep = state.path_states & !(0x07 << (4 * d));
    state.path_states = keep | (ctstate as u8) << (4 * d);
    judgement
}

/// Walks the rules for a packet of a flow whose destination, after translation, is given; and what it is counted under, if
/// it has a connection.
#[allow(clippy::too_many_arguments)] // the corridor's luggage
pub(super) fn judge(
    packet: &Packet<'_>,
    headers: &Headers,
    destination: core::net::IpAddr,
    destination_id: u16,
    states: CtStates,
    leg: &Leg,
    account: Option<&mut Account<'_>>,
    context: &Context<'_>,
) -> Judgement {
    debug_assert_eq!(leg.ingress, leg::ingress_of(packet));
    let tuple = headers.tuple.with_dst(destination, destination_id).unwrap_or(headers.tuple);
    let subject = Subject {
        tuple: &tuple,
        protocol: headers.protocol,
        icmp_type: headers.icmp_type,
        icmp_code: headers.icmp_code,
        icmp_query: headers.kind == Kind::IcmpQuery,
        tcp_flags: headers.tcp.flags,
        ingress: leg.ingress,
        egress: leg.egress,
        states,
        packet_len: fragments::judged_len(packet, headers),
    };
    context.snapshot.policy.judge_counted(context.me, leg.hook(), &subject, account)
}

/// Puts a packet on hold, with a note that the rules were asked.
#[cold]
pub(super) fn hold(
    packet: &mut Packet<'_>,
    next_hop: NextHopTag,
    leg: &Leg,
    context: &Context<'_>,
) -> Verdict {
    let policy = context.snapshot.stamps.policy;
    packet.visit.accepted = Some(Accepted { policy, egress: leg.egress });
    Verdict::Hold { next_hop }
}

/// Whether what the rules said before the packet was put on hold still counts: they are the same, and so is its way
/// out. Otherwise they are asked again, and count it again.
pub(super) fn still_accepted(packet: &Packet<'_>, leg: &Leg, context: &Context<'_>) -> bool {
    let policy = context.snapshot.stamps.policy;
    packet.visit.accepted == Some(Accepted { policy, egress: leg.egress })
}

/// The last step of a flow's packet: next hop, rewrite, out.
#[inline]
#[allow(clippy::too_many_arguments)] // the corridor's luggage
pub(super) fn send<H: Family>(
    table: &Table<'_, H>,
    desk: &mut Desk,
    packet: &mut Packet<'_>,
    headers: &Headers,
    row: EntryIdx,
    direction: Direction,
    leg: &Leg,
    context: &Context<'_>,
) -> Verdict {
    if let Seen::Gathered(gathered) = &packet.seen {
        desk.fates.pass(gathered, table.hot(row).tuple(direction).zone());
    }
    let forwarded = leg.ingress != InterfaceId::NONE && leg.egress != InterfaceId::NONE;
    let mac = if forwarded {
        match leg::next_hop_mac(leg, packet, desk, context) {
            NextHop::Known(mac) => Some(mac),
            NextHop::Unknown(next_hop) => return hold(packet, next_hop, leg, context),
            NextHop::Failed => {
                let refusal =
                    Refusal::Icmp(DropReason::NeighbourFailed, IcmpErrorKind::HostUnreachable);
                return refuse(refusal, packet, desk, context);
            }
        }
    } else {
        None
    };

    let hot = table.hot(row);
    let state = hot.state();
    let ttl = if forwarded { TtlChange::Decrement } else { TtlChange::Keep };
    if forwarded || state.flags & (flags::SNAT | flags::DNAT) != 0 {
        let deltas = Deltas { l3: state.l3_delta, l4: state.l4_delta };
        let deltas = match direction {
            Direction::Original => deltas,
            Direction::Reply => deltas.reversed(),
        };
        let to = hot.tuple(direction.opposite()).inverted();
        H::rewrite(packet.bytes_mut(), headers, &to, deltas, ttl);
    }
    if forwarded && clamp::applies(headers, leg, context) {
        let own: Tuple = (*hot.tuple(direction)).into();
        clamp::clamp(packet, headers, own.src(), leg, context);
    }
    match mac {
        Some(mac) => {
            leg::write_link_header(packet, leg.egress, mac, context);
            let (egress, mtu) = (leg.egress, leg::mtu(leg.egress, leg.route_mtu, context));
            if headers.ip_len > mtu {
                return Verdict::Split { egress, mtu }; // `limits` has seen that it may be
            }
            Verdict::Forward { egress }
        }
        None if leg.egress == InterfaceId::NONE => {
            let class = match ctstate(state, direction) {
                CtState::Established => HostClass::Established,
                _ => HostClass::Other,
            };
            Verdict::Deliver { interface: packet.interface, class }
        }
        None => Verdict::Forward { egress: leg.egress },
    }
}
