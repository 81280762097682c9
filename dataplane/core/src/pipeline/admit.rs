//! The side room for first packets. Each decision is made once, in netfilter's order, and kept in the
//! entry: track, nat destination, route, limits, judge, nat source, confirm. A packet that is refused
//! on the way leaves nothing behind.

use core::net::IpAddr;

use super::established::{UNSEEN, consent, judge, send, states, tcp_options, transport};
use super::family::Family;
use super::leg::{self, Leg, Oversize};
use super::refuse::{Refusal, refuse};
use super::ruled::{self, Behind, Source};
use super::{Context, Desk, helped, mapped, stray, triggered, zone};
use crate::burst::{Origin, Packet};
use crate::conntrack::changes::Ended;
use crate::conntrack::ctstate::CtState;
use crate::conntrack::datagram;
use crate::conntrack::entry::{Cold, Warm, flags};
use crate::conntrack::pressure::Room;
use crate::conntrack::sctp;
use crate::conntrack::table::{InsertError, Table, TupleHash, deadline};
use crate::conntrack::tcp;
use crate::conntrack::timeouts::TimeoutPolicyId;
use crate::conntrack::tuple::{Direction, FamilyTuple, Tuple, protocol};
use crate::headers::{Headers, Kind};
use crate::helper::expect::{Expectation, Handle};
use crate::limits::Account;
use crate::nat::{plan, rewrite};
use crate::rules::{Family as RuleFamily, Judgement, PathId, Ports};
use crate::snapshot::Terms;
use crate::steering::has_ids;
use crate::units::{EntryIdx, InterfaceId, NeighbourIdx, WorkerId};
use crate::verdict::{DropReason, Verdict};

/// A connection that is not in the table yet.
struct Provisional<H> {
    hot: H,
    warm: Warm,
    cold: Cold,
    /// The place of the port trigger that lets it in, plus one; 0 for none.
    trigger: u8,
}

/// What a helper expected, if a first packet is that. Few are, so it travels apart.
pub(super) type Expected = Option<(Handle, Expectation)>;

impl<H: Family> Provisional<H> {
    fn ctstate(&self) -> CtState {
        let expected = self.hot.state().flags & flags::EXPECTED != 0;
        if expected { CtState::Related } else { CtState::New }
    }
}

/// The reply tuple that a connection will get if nothing stands in its way, and its hash: the bucket is asked for while
/// the rules are walked.
struct Foreseen<H: Family> {
    reply: H::Tuple,
    hash: TupleHash,
}

impl<H: Family> Foreseen<H> {
    /// `reply` is the reply tuple so far, `address` the one to appear behind.
    fn new(table: &Table<'_, H>, reply: &Tuple, address: Option<IpAddr>) -> Option<Self> {
        let reply = match address {
            Some(address) => reply.with_dst(address, reply.dst_id())?,
            None => *reply,
        };
        let reply = *H::Tuple::of(&reply)?;
        let hash = table.hash(&reply);
        table.prefetch_bucket(hash);
        Some(Self { reply, hash })
    }
}

/// The hash of a reply tuple.
fn hash_of<H: Family>(
    table: &Table<'_, H>,
    reply: &H::Tuple,
    foreseen: Option<&Foreseen<H>>,
) -> TupleHash {
    match foreseen {
        Some(foreseen) if foreseen.reply.same(reply) => foreseen.hash,
        _ => table.hash(reply),
    }
}

/// The whole walk of a packet that was not found in the table.
#[cold]
pub(super) fn pass<H: Family>(
    table: &mut Table<'_, H>,
    desk: &mut Desk,
    packet: &mut Packet<'_>,
    hash: TupleHash,
    tuple: &H::Tuple,
    context: &Context<'_>,
) -> Verdict {
    let Some(mut headers) = packet.parsed else {
        return Verdict::Drop(DropReason::Stopping);
    };
    let reply = redirected_reply(table, packet, &headers.tuple, context);
    if let Some(verdict) = elsewhere(packet, &headers.tuple, reply.as_ref(), context) {
        return verdict;
    }
    if packet.visit.clash {
        return Verdict::Drop(DropReason::TupleInUse);
    }
    let mut first: Provisional<H> = match begin(packet, &headers, tuple, context) {
        Ok(first) => first,
        Err(reason) => return stray::invalid(desk, packet, &headers, reason, context),
    };
    table.prefetch_free_row();
    let expected = expected(&headers.tuple, context);
    if expected.is_some() {
        first.hot.state_mut().flags |= flags::EXPECTED;
    }
    match admit(table, desk, packet, hash, &headers, &expected, &mut first, context) {
        Ok((row, leg)) => {
            let assigned =
                helped::assign(table, desk, packet, &mut headers, row, &expected, &leg, context);
            if let Err(refusal) = assigned {
                table.remove(row, Ended::Closed, context.tick, context.books());
                return refuse(refusal, packet, desk, context);
            }
            triggered::used(table, desk, row, first.trigger, &leg, context);
            context.counters.tracked.add(1);
            context.counters.connections_new.add(1);
            send(table, desk, packet, &headers, row, Direction::Original, &leg, context)
        }
        Err(refusal) => refuse(refusal, packet, desk, context),
    }
}

/// The order of the steps.
#[allow(clippy::too_many_arguments)] // the corridor's luggage
fn admit<H: Family>(
    table: &mut Table<'_, H>,
    desk: &mut Desk,
    packet: &Packet<'_>,
    hash: TupleHash,
    headers: &Headers,
    expected: &Expected,
    first: &mut Provisional<H>,
    context: &Context<'_>,
) -> Result<(EntryIdx, Leg), Refusal> {
    let mut original = headers.tuple;
    let (mut by_mapping, mut preferred) = (false, None);
    if packet.origin == Origin::Wire {
        leg::check_source(packet.interface, original.src(), original.dst(), context)?;
        if let Some(leads) = destination(&original, packet.interface, expected, context) {
            original = original.with_dst(leads.to, leads.port).unwrap_or(original);
            preferred = zone::preferred(leads.via, context);
            first.hot.state_mut().flags |= flags::DNAT;
            first.trigger = leads.trigger;
            by_mapping = leads.by_mapping;
        }
    }
    let by_rules = ruled::is_asked::<H>(context);
    let decided = expected.as_ref().is_some_and(|(_, expectation)| expectation.is_translated());
    if by_rules && !decided && first.hot.state().flags & flags::DNAT == 0 {
        let states = states(first.ctstate(), first.hot.state().flags);
        let (random, row_flags) = (&mut desk.random, &mut first.hot.state_mut().flags);
        original = ruled::destination::<H>(packet, headers, states, random, row_flags, context)?;
    }
    let leg = match packet.origin {
        Origin::Wire => leg::route(packet.interface, original.dst(), preferred, context)?,
        Origin::Host => Leg::from_host(packet.interface),
    };
    if leg.ingress != InterfaceId::NONE && leg.egress != InterfaceId::NONE {
        if leg::is_link_local_source(original.src()) {
            return Err(Refusal::Drop(DropReason::LinkLocalScope));
        }
        leg::limits(headers, leg.egress, leg.route_mtu, Oversize::Split, context)?;
    }
    let states = states(first.ctstate(), first.hot.state().flags);
    let (to, to_id) = (original.dst(), original.dst_id());
    let mut reply = original.inverted();
    zone::enter_replies(&mut reply, packet, &leg, context);
    let unruled = appearance::<H>(&reply, &leg, expected, first, context);
    // What is for the appliance itself is refused more often than not.
    let foreseen = match leg.egress {
        InterfaceId::NONE => None,
        _ => Foreseen::new(table, &reply, unruled.unwrap_or_default()),
    };
    let foreseen = foreseen.as_ref();
    let ledger = context.snapshot.policy.ledger();
    let mut account = ledger.map(|ledger| Account::of_first(ledger, &headers.tuple, &reply));
    let judgement = judge(packet, headers, to, to_id, states, &leg, account.as_mut(), context);
    consent(&judgement)?;
    if let Some(account) = &mut account
        && packet.origin == Origin::Wire
    {
        account.check_source().map_err(Refusal::Drop)?;
    }
    let said = match expected.as_ref().and_then(|(_, expectation)| expectation.appear_as) {
        None if by_rules => ruled::source::<H>(packet, headers, &reply, &leg, states, context)?,
        _ => Source::Unsaid,
    };
    let behind = match said {
        Source::Unsaid => {
            let zone = headers.tuple.zone();
            let mut behind =
                unruled?.map(|address| behind_unruled(address, &reply, expected, context));
            if context.mapped {
                let dialled = by_mapping.then(|| headers.tuple.dst());
                mapped::unsaid(&mut behind, &reply, zone, dialled, &leg, context);
            }
            behind
        }
        Source::Ruled(behind) => {
            first.hot.state_mut().flags |= flags::RULED;
            behind
        }
    };
    let reply = source(table, desk, reply, behind, foreseen, &leg, first, context)?;
    if first.hot.state().flags & (flags::RULED | flags::DNAT) != 0
        && let Err(refusal) = ruled::check_replies(&reply, context)
    {
        return Err(give_up(refusal, headers, &reply, first, context));
    }
    if context.mapped {
        table.hold_mappings(&context.snapshot.mappings);
        if by_mapping {
            let row_flags = &mut first.hot.state_mut().flags;
            mapped::enter(&headers.tuple, row_flags, &mut first.warm, context);
        }
    }
    let chosen = H::Tuple::of(&reply).ok_or(Refusal::Drop(DropReason::TupleInUse))?;
    let hashes = [hash, hash_of(table, chosen, foreseen)];
    match confirm(table, hashes, headers, *chosen, &leg, &judgement, expected, first, context) {
        Ok(row) => {
            if let Some(account) = account {
                account.keep(context.me, row);
            }
            Ok((row, leg))
        }
        Err(refusal) => Err(give_up(refusal, headers, &reply, first, context)),
    }
}

/// A connection that was refused when its translation was chosen already leaves none of it behind.
#[cold]
fn give_up<H: Family>(
    refusal: Refusal,
    headers: &Headers,
    reply: &Tuple,
    first: &Provisional<H>,
    context: &Context<'_>,
) -> Refusal {
    if context.mapped {
        mapped::undo(&headers.tuple, reply, &first.warm, context);
    }
    refusal
}

/// While steering has older epochs, a packet that was not found may belong to a connection that was made
/// under one of them: it is offered to each of their owners once, then comes back to be admitted. So are
/// the owners of `reply`, if the packet is to be forwarded: a connection among them may hold that tuple.
pub(super) fn elsewhere(
    packet: &mut Packet<'_>,
    tuple: &Tuple,
    reply: Option<&Tuple>,
    context: &Context<'_>,
) -> Option<Verdict> {
    let snapshot = context.snapshot;
    if packet.visit.admit || snapshot.older_steering.is_empty() {
        return None;
    }
    packet.visit.visited |= 1 << context.me.0;
    let visited = packet.visit.visited;
    let older = &snapshot.older_steering;
    // When there are as many epochs as are kept, older ones may have been let go of: ask everybody.
    let everybody = if older.is_full() { snapshot.steering.workers() } else { 0 };
    let next = older
        .iter()
        .flat_map(|steering| [Some(tuple), reply].into_iter().flatten().map(|t| steering.owner(t)))
        .chain((0..everybody).map(WorkerId))
        .find(|worker| visited & 1 << worker.0 == 0);
    if let Some(worker) = next {
        return Some(Verdict::HandOver { worker });
    }
    packet.visit.admit = true;
    let owner = snapshot.steering.owner(tuple);
    (owner != context.me).then_some(Verdict::HandOver { worker: owner })
}

/// The reply tuple that the connection would get if its destination is to be translated, looked for in this worker's
/// table while steering has older epochs: `clash` is set if a connection holds it.
pub(super) fn redirected_reply<H: Family>(
    table: &Table<'_, H>,
    packet: &mut Packet<'_>,
    tuple: &Tuple,
    context: &Context<'_>,
) -> Option<Tuple> {
    if context.snapshot.older_steering.is_empty() || packet.origin == Origin::Host {
        return None;
    }
    let leads = destination(tuple, packet.interface, &expected(tuple, context), context)?;
    let mut reply = tuple.with_dst(leads.to, leads.port)?.inverted();
    let preferred = zone::preferred(leads.via, context);
    let leg = leg::route(packet.interface, leads.to, preferred, context).ok()?;
    zone::enter_replies(&mut reply, packet, &leg, context);
    packet.visit.clash |=
        H::Tuple::of(&reply).is_none_or(|reply| in_use(table, table.hash(reply), reply, context));
    Some(reply)
}

/// Whether a live connection of this worker holds the tuple, in either direction.
fn in_use<H: Family>(
    table: &Table<'_, H>,
    hash: TupleHash,
    tuple: &H::Tuple,
    context: &Context<'_>,
) -> bool {
    let found = table.find(hash, tuple);
    found.is_some_and(|(row, _)| !context.tick.reached(deadline(table.hot(row).state())))
}

/// The timeouts of their own that a rule, or its zone, gives the connection of a first packet.
#[cold]
fn timeouts_of_first(packet: &Packet<'_>, zone: u16, context: &Context<'_>) -> TimeoutPolicyId {
    let said = packet.visit.assigned.timeouts;
    if context.raw && said != TimeoutPolicyId::NONE {
        return said;
    }
    context.snapshot.timeout_policies.of_zone(zone)
}

/// Track: may this packet begin a connection, and in which state.
fn begin<H: Family>(
    packet: &Packet<'_>,
    headers: &Headers,
    tuple: &H::Tuple,
    context: &Context<'_>,
) -> Result<Provisional<H>, DropReason> {
    let policy_id = match context.policed {
        true => timeouts_of_first(packet, tuple.zone(), context),
        false => TimeoutPolicyId::NONE,
    };
    let Terms { timeouts, tcp: policy } = match policy_id {
        TimeoutPolicyId::NONE => context.snapshot.terms(),
        id => context.snapshot.terms_of(id),
    };
    let (hot, warm, cold) = Default::default();
    let mut first = Provisional::<H> { hot, warm, cold, trigger: 0 };
    let state = first.hot.state_mut();
    let snapshot = context.snapshot;
    match headers.kind {
        Kind::Tcp => {
            let options = tcp_options(packet.bytes(), headers);
            let (warm, cold) = (&mut first.warm, &mut first.cold);
            let tick = context.tick;
            tcp::first(&headers.tcp, options, policy, timeouts, tick, state, warm, cold)?;
        }
        _ if headers.protocol == protocol::SCTP => {
            let (bytes, tick) = (transport(packet.bytes(), headers), context.tick);
            sctp::first(bytes, timeouts, tick, state, &mut first.warm)?;
        }
        Kind::IcmpQuery if !is_query(headers) => return Err(DropReason::IcmpNotQuery),
        _ => {
            state.timeout_ms = datagram::first(headers.protocol, timeouts);
            first.cold.last_end = context.tick.0;
        }
    }
    state.last_seen = context.tick.0;
    if policy_id != TimeoutPolicyId::NONE {
        state.set_timeout_policy(policy_id);
    }
    if packet.origin == Origin::Host {
        state.flags |= flags::FROM_HOST;
    }
    first.cold.created = context.moment;
    if snapshot.options.accounting {
        first.warm.count(Direction::Original, headers.ip_len);
    }
    first.hot.set_tuples(*tuple, tuple.inverted());
    Ok(first)
}

/// Whether an ICMP query packet asks rather than answers.
pub(super) fn is_query(headers: &Headers) -> bool {
    match headers.protocol {
        protocol::ICMP => matches!(headers.icmp_type, 8 | 13 | 15 | 17),
        _ => headers.icmp_type == 128,
    }
}

/// Track: what a helper expected, if this is it. One branch as long as nothing is expected.
#[inline]
fn expected(tuple: &Tuple, context: &Context<'_>) -> Expected {
    let expectations = &context.snapshot.expectations;
    if expectations.any() { expectations.find(tuple, context.tick) } else { None }
}

/// Where the destination of a first packet leads.
struct Destination {
    to: IpAddr,
    port: u16,
    /// The place of the port trigger by which it does, plus one; 0 for none.
    trigger: u8,
    /// Whether it does by an endpoint-independent mapping.
    by_mapping: bool,
    /// The interface that whoever is there was seen behind, if that is known.
    via: InterfaceId,
}

impl Destination {
    fn of((to, port): (IpAddr, u16)) -> Self {
        Self { to, port, trigger: 0, by_mapping: false, via: InterfaceId::NONE }
    }
}

/// Nat destination: where an expectation, a port forward, an endpoint-independent mapping or a port trigger leads, in this
/// order, if there is one.
fn destination(
    tuple: &Tuple,
    ingress: InterfaceId,
    expected: &Expected,
    context: &Context<'_>,
) -> Option<Destination> {
    if let Some((_, expectation)) = expected
        && expectation.is_translated()
    {
        return Some(Destination { via: expectation.via, ..Destination::of(expectation.to) });
    }
    let dst_id = tuple.dst_id();
    if let Some((forward, port)) =
        context.snapshot.nat.forward(tuple.dst(), tuple.protocol(), dst_id)
    {
        return Some(Destination::of((forward.to, port)));
    }
    if context.mapped
        && let Some((inside, via)) = mapped::destination(tuple, context)
    {
        return Some(Destination { by_mapping: true, via, ..Destination::of(inside) });
    }
    let (place, host) = triggered::destination(tuple, ingress, context)?;
    let trigger = place as u8 + 1; // there are few
    Some(Destination { trigger, ..Destination::of((host.into(), dst_id)) })
}

/// Nat source: behind which address and port the connection appears. `reply` is the reply tuple so
/// far, `behind` what to appear behind if there is anything; returns the tuple to use, which is not in the table.
#[allow(clippy::too_many_arguments)] // the corridor's luggage
fn source<H: Family>(
    table: &Table<'_, H>,
    desk: &mut Desk,
    reply: Tuple,
    behind: Option<Behind>,
    foreseen: Option<&Foreseen<H>>,
    leg: &Leg,
    first: &mut Provisional<H>,
    context: &Context<'_>,
) -> Result<Tuple, Refusal> {
    let taken = |reply: &Tuple| {
        H::Tuple::of(reply).is_none_or(|reply| {
            let hash = hash_of(table, reply, foreseen);
            in_use(table, hash, reply, context)
        })
    };
    let Some(behind) = behind else {
        // Not translated; yet no two connections may share a tuple.
        if !taken(&reply) {
            return Ok(reply);
        }
        let sent_elsewhere = flags::DNAT | flags::RULED;
        let is_sent = first.hot.state().flags & sent_elsewhere == sent_elsewhere;
        let leaves_zone = first.hot.tuple(Direction::Original).zone() != reply.zone();
        let may_change = is_sent || leaves_zone && leg.egress != InterfaceId::NONE;
        if !may_change {
            return Err(Refusal::Drop(DropReason::TupleInUse));
        }
        // A rule sends to one place what was for several, or clients of several zones have one address: the port tells them
        // apart (as Linux's null binding does).
        let (random, me) = (&mut desk.random, context.me);
        let steering = &context.snapshot.steering;
        let chosen = plan::apart(reply, me, steering, random, taken);
        let chosen = chosen.ok_or_else(|| {
            context.counters.exhausted.count(reply.dst(), reply.protocol());
            Refusal::Drop(DropReason::PortsExhausted)
        })?;
        first.hot.state_mut().flags |= flags::SNAT;
        context.counters.ports_changed.add(1);
        return Ok(chosen);
    };
    let steering = &context.snapshot.steering;
    // Connections of a forward that is gone may live on with other workers: its port is not free yet.
    let was_static = |reply: &Tuple| {
        let (address, port) = (reply.dst(), reply.dst_id());
        let older = &context.snapshot.older_steering;
        older.iter().any(|older| older.is_static(address, reply.protocol(), port))
    };
    let taken = |reply: &Tuple| was_static(reply) || taken(reply);
    let Behind { address, ports, flags: own_flags } = behind;
    let (me, random) = (context.me, &mut desk.random);
    let chosen = if context.mapped {
        let zone = first.hot.tuple(Direction::Original).zone();
        let asked = mapped::Asked { reply: &reply, zone, behind: &behind, ingress: leg.ingress };
        mapped::source(asked, random, &mut first.warm, context, taken)
    } else {
        plan::external_among(ports, reply, address, me, steering, random, taken)
            .ok_or_else(|| no_port(&behind, &reply, me, context))
    };
    let chosen = chosen.map_err(Refusal::Drop)?;
    if chosen != reply {
        first.hot.state_mut().flags |= own_flags;
    }
    if chosen.dst_id() != reply.dst_id() {
        context.counters.ports_changed.add(1);
    }
    Ok(chosen)
}

/// Why there is no port for a connection among those of one worker.
#[cold]
pub(super) fn no_port(
    behind: &Behind,
    reply: &Tuple,
    whose: WorkerId,
    context: &Context<'_>,
) -> DropReason {
    let steering = &context.snapshot.steering;
    let none_here =
        behind.ports.range.is_some_and(|range| plan::own_of(steering, whose, range).is_empty());
    match has_ids(reply.protocol()) {
        false => DropReason::TupleInUse, // there is nothing but the address to tell it by
        true if none_here => DropReason::PortsNotHere,
        true => {
            context.counters.exhausted.count(behind.address, reply.protocol());
            DropReason::PortsExhausted
        }
    }
}

/// The address to appear behind if no rule is asked: that of its master, if it was expected.
fn appearance<H: Family>(
    reply: &Tuple,
    leg: &Leg,
    expected: &Expected,
    first: &Provisional<H>,
    context: &Context<'_>,
) -> Result<Option<IpAddr>, Refusal> {
    let appear_as = expected.as_ref().and_then(|(_, expectation)| expectation.appear_as);
    match appear_as.filter(|address| context.snapshot.steering.is_outer(*address)) {
        Some(address) => Ok(Some(address)),
        None => external_address::<H>(reply, leg, first.hot.state().flags, context),
    }
}

/// Behind an address that no rule chose.
fn behind_unruled(
    address: IpAddr,
    reply: &Tuple,
    expected: &Expected,
    context: &Context<'_>,
) -> Behind {
    // Media appear from where they are expected; if somebody has that port towards the same peer, not at all.
    let ports = match expected.as_ref().and_then(|(_, expectation)| expectation.pair) {
        Some((inner, outer)) if inner == reply.dst_id() => {
            Ports { range: Some((outer, outer)), ..Ports::default() }
        }
        _ => Ports::default(),
    };
    match expected {
        // A master's, of a pool or translated as a whole: it does not go when an interface's does.
        Some(_) if !context.snapshot.steering.is_ours(address) => {
            Behind { address, ports, flags: flags::SNAT }
        }
        _ => Behind::interface(address, ports),
    }
}

/// The address to appear behind: the egress interface's, if it masquerades; also on the way back to
/// the interface it came in by when forwarded there (hairpin), so that the answer comes back to us.
fn external_address<H: Family>(
    reply: &Tuple,
    leg: &Leg,
    row_flags: u16,
    context: &Context<'_>,
) -> Result<Option<IpAddr>, Refusal> {
    let Some(egress) = context.interface(leg.egress) else {
        return Ok(None); // to the host
    };
    let hairpin = row_flags & flags::DNAT != 0 && leg.ingress == leg.egress;
    let masquerade = egress.masquerade && H::FAMILY == RuleFamily::V4;
    if !hairpin && !masquerade {
        return Ok(None);
    }
    if leg.ingress == InterfaceId::NONE {
        let source = reply.dst();
        if egress.addresses.iter().any(|own| own.address == source) {
            return Ok(Some(source)); // the host's own choice: only the port may have to change
        }
        if !context.snapshot.steering.is_ours(source) {
            return Ok(None); // a DHCP client has no address yet
        }
    }
    let towards = leg.next_hop_address.unwrap_or_else(|| reply.src());
    let address = egress.address_towards(towards);
    Ok(Some(address.ok_or(Refusal::Drop(DropReason::NoExternalAddress))?))
}

/// Confirm: both tuples go into the table.
#[allow(clippy::too_many_arguments)] // the corridor's luggage
fn confirm<H: Family>(
    table: &mut Table<'_, H>,
    hashes: [TupleHash; 2],
    headers: &Headers,
    reply: H::Tuple,
    leg: &Leg,
    judgement: &Judgement,
    expected: &Expected,
    first: &mut Provisional<H>,
    context: &Context<'_>,
) -> Result<EntryIdx, Refusal> {
    let original = *first.hot.tuple(Direction::Original);
    if reply.same(&original) {
        return Err(Refusal::Drop(DropReason::TupleInUse)); // a packet that claims to come from its own destination
    }
    let deltas = rewrite::deltas(&headers.tuple, &reply.inverted().into());
    let ctstate = first.ctstate();
    first.hot.set_tuples(original, reply);
    let state = first.hot.state_mut();
    (state.l3_delta, state.l4_delta) = (deltas.l3, deltas.l4);
    state.stamps = context.snapshot.stamps;
    state.paths = [judgement.path.0, PathId::UNCACHED.0];
    state.path_states |= ctstate as u8; // of the reply direction nothing is known
    state.interfaces = [[leg.ingress.0, leg.egress.0], [UNSEEN; 2]];
    state.next_hops = [leg.next_hop.0, NeighbourIdx::UNROUTED.0];
    if leg.egress == InterfaceId::NONE {
        state.flags |= flags::TO_HOST;
    }
    if leg.route_mtu != 0 {
        state.next_hops[0] = NeighbourIdx::UNROUTED.0; // only the route knows: ask it again next time
    }

    // A connection past its deadline that still holds the reply tuple makes way.
    if let Some((row, _)) = table.find(hashes[1], &reply) {
        let why = Ended::by_itself(table.hot(row).state());
        table.remove(row, why, context.tick, context.books());
        context.counters.connections_gone.add(1);
    }
    let row = insert(table, first, hashes, context)?;

    // An expectation comes true once, and only with a place in the table: whoever else met it meanwhile is refused.
    if let Some((handle, _)) = *expected {
        if !context.snapshot.expectations.meet(handle) {
            table.remove(row, Ended::Closed, context.tick, context.books());
            first.warm.peer_flags = [0; 2]; // the row has let go of what it held
            return Err(Refusal::Drop(DropReason::TupleInUse));
        }
        context.counters.expectations_met.add(1);
    }
    Ok(row)
}

/// Inserts, making room if the table is full.
fn insert<H: Family>(
    table: &mut Table<'_, H>,
    first: &Provisional<H>,
    hashes: [TupleHash; 2],
    context: &Context<'_>,
) -> Result<EntryIdx, Refusal> {
    /// One that expired may have been the appliance's own, and its room is then kept for another of those.
    const TRIES: usize = 4;
    let Provisional { hot, warm, cold, .. } = first;
    let headroom = context.snapshot.options.pressure.headroom[H::FAMILY.index()];
    let mut inserted = table.insert(hot, warm, cold, hashes, headroom);
    for _ in 0..TRIES {
        let (row_flags, books) = (hot.state().flags, context.books());
        if inserted != Err(InsertError::Full) {
            break;
        }
        let Some(room) = table.make_room(context.tick, row_flags, headroom, books) else { break };
        context.counters.connections_evicted.add(u64::from(room == Room::Evicted));
        context.counters.connections_gone.add(1);
        inserted = table.insert(hot, warm, cold, hashes, headroom);
    }
    inserted.map_err(|error| {
        Refusal::Drop(match error {
            InsertError::Full => DropReason::TableFull,
            InsertError::BucketFull => DropReason::BucketFull,
        })
    })
}
