//! The corridor: the order of the steps is written here and nowhere else.
//!
//! [`Pipeline::process_burst`] takes a burst through *parse, steer, find*, all packets one step at a
//! time so that memory is asked for before it is needed; then each packet alone through
//!
//! - *track, judge, rewrite* if it belongs to a connection whose cached decision holds: no other
//!   room is entered ([`lane`]; [`established`] if anything about it is out of the ordinary);
//! - *track, nat destination, route, limits, judge, nat source, confirm, rewrite* if it is a
//!   first packet ([`admit`]);
//! - besides, what a helper reads and changes, if its connection has one ([`helped`], [`calls`]);
//! - before all that *raw*, if the table of that name has rules ([`raw`]); in the place of *nat destination* and *nat
//!   source* the rules of the table `nat`, if there are any ([`ruled`]);
//! - *related* if it is an ICMP error ([`related`]); *route, limits, judge* if it belongs to
//!   nothing ([`stray`]): ARP, neighbour discovery, INVALID.
//!
//! Fragments do none of this until their datagram is whole ([`fragments`](crate::fragments)).
//!
//! It is netfilter's order, so that what a rule sees here is what it sees there. Packet bytes, a
//! snapshot, `now` and the state of a seeded generator go in; verdicts and rewritten bytes come out.
//!
//! Owner: one worker. Allocates: never after [`Pipeline::new`].

use core::net::IpAddr;

use arrayvec::ArrayVec;

use crate::burst::{BURST_MAX, Burst, Origin, Packet, Seen};
use crate::conntrack::entry::{Hot, HotV4, HotV6};
use crate::conntrack::siphash::{ABREAST, Pairs, SipKey};
use crate::conntrack::table::{Layout, Promise, Table, TupleHash};
use crate::conntrack::tuple::Tuple;
use crate::counters::Counters;
use crate::fragments::{Gathering, Settled};
use crate::headers::{Headers, Kind};
use crate::helper::expect::Expectations;
use crate::helper::pool::{Capacity, Key, Pool};
use crate::limits::Books;
use crate::nat::plan::Random;
use crate::nat::trigger::TRIGGERS_MAX;
use crate::parse::{
    self,
    plain::{self, Plain},
};
use crate::reply::RateLimit;
use crate::rules::{Paths, Zoned};
use crate::snapshot::{Interface, Snapshot};
use crate::time::{Instant, Tick};
use crate::units::{INTERFACES_MAX, InterfaceId, WorkerId};
use crate::verdict::{DropReason, Verdict};

mod admit;
mod calls;
mod clamp;
mod established;
mod family;
mod fragments;
mod helped;
mod lane;
mod leg;
mod mapped;
mod raw;
mod refuse;
mod related;
mod resume;
mod ruled;
mod stray;
mod table_changes;
mod table_view;
mod triggered;
mod zone;

pub use table_changes::{Edit, Told};
pub use table_view::{ConnectionId, ConnectionView, Cursor, Filter};

/// How large a worker's tables are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most IPv4 connections.
    pub connections_v4: u32,
    /// Most IPv6 connections.
    pub connections_v6: u32,
}

impl Limits {
    /// Bytes of memory [`Pipeline::new`] wants for each family's table and for the helpers' pool, aligned to 64.
    pub fn bytes(&self) -> [usize; 3] {
        let [v4, v6] = self.layouts();
        [v4.bytes(), v6.bytes(), self.helped().bytes()]
    }

    fn helped(&self) -> Capacity {
        Capacity::of_connections(self.connections_v4.saturating_add(self.connections_v6))
    }

    fn layouts(&self) -> [Layout; 2] {
        [Layout::new::<HotV4>(self.connections_v4), Layout::new::<HotV6>(self.connections_v6)]
    }
}

/// One worker's packet path: its tables and what else it remembers between bursts.
pub struct Pipeline<'m> {
    v4: Table<'m, HotV4>,
    v6: Table<'m, HotV6>,
    desk: Desk<'m>,
    gathering: Gathering,
    review: table_view::Review,
    /// When tables that fill up were seen to last.
    relieved: Tick,
}

/// What the rooms keep besides the tables.
struct Desk<'m> {
    random: Random,
    /// Connections with a helper.
    helpers: Pool<'m>,
    /// The last connection here that used each trigger.
    triggered: [Option<triggered::Use>; TRIGGERS_MAX],
    /// Which shard of the expectations is tidied next.
    tidy: usize,
    /// Which shard of the mappings is.
    tidy_mappings: usize,
    /// By ingress interface: for "too big", on which path MTU discovery rests, and for all others.
    reply_limits: [[RateLimit; 2]; INTERFACES_MAX],
    wanted: ArrayVec<Wanted, WANTED_MAX>,
    fates: fragments::Fates,
}

/// Most next hops reported as wanted between two calls of [`Pipeline::take_wanted`].
pub const WANTED_MAX: usize = 64;

/// Most of those on behalf of one source: a scan must leave room for its neighbours' wishes.
pub const WANTED_SOURCE_MAX: usize = 8;

/// Most of those for one next hop: another source's wish counts on its own, because the first one may have
/// used up what it may ask for.
pub const WANTED_ASKERS_MAX: usize = 4;

/// A next hop whose MAC is wanted: have the kernel resolve it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Wanted {
    /// On which interface.
    pub interface: InterfaceId,
    /// Which address.
    pub address: IpAddr,
    /// The interface that the packet came in by for which it is wanted.
    pub ingress: InterfaceId,
    /// That packet's source.
    pub source: IpAddr,
}

/// How many steps of the wheel are as much work as a look at a row that may be in no cache.
const STEPS_PER_ROW: u32 = 16;

/// How much more work than other housekeeping a table that fills up may take: it is seen to once a millisecond, not each turn.
const RELIEF: u32 = 8;

/// How many packets ahead a row is asked for. A processor keeps some tens of lines under way and may drop
/// what is asked beyond that; a row is two lines.
const AHEAD: usize = 16;

/// The same for rows that are not in their tuple's first bucket, one in twenty of a full table: by then the line of the
/// second one has come.
const AHEAD_SPILLED: usize = AHEAD / 2;

/// A packet of the burst that is this worker's to decide.
#[derive(Clone, Copy)]
struct Ours {
    /// Which.
    index: u8,
    /// What it is, if it is plain.
    plain: Option<Plain>,
    hash: TupleHash,
    promise: Promise,
}

impl Ours {
    #[inline(always)]
    fn is_plain_v4(&self) -> bool {
        self.plain.is_some_and(|plain| plain.shape.is_v4())
    }
}

/// What a room may consult; the same for a whole burst.
#[derive(Clone, Copy)]
struct Context<'a> {
    me: WorkerId,
    snapshot: &'a Snapshot,
    counters: &'a Counters,
    now: Instant,
    tick: Tick,
    /// See [`Instant::moment`].
    moment: u32,
    /// Whether the raw table is asked about every packet.
    raw: bool,
    /// The worker's paths under the snapshot's policy, for the lane; none while the raw table is asked.
    paths: Option<Paths<'a>>,
    /// Whether there is no other worker.
    alone: bool,
    /// Whether there are endpoint-independent mappings.
    mapped: bool,
    /// Whether some connections have timeouts of their own.
    policed: bool,
}

impl<'a> Context<'a> {
    fn new(me: WorkerId, snapshot: &'a Snapshot, counters: &'a Counters, now: Instant) -> Self {
        let raw = raw::is_asked(&snapshot.policy);
        let (tick, paths) = (now.tick(), snapshot.policy.paths(me).filter(|_| !raw));
        let alone = snapshot.steering.workers() == 1;
        let mapped = snapshot.steering.is_mapped();
        let (moment, policed) = (now.moment(), !snapshot.timeout_policies.is_empty());
        Self { me, snapshot, counters, now, tick, moment, raw, paths, alone, mapped, policed }
    }

    /// The books that this worker's connections stand in.
    #[inline]
    fn books(&self) -> Books<'a> {
        Books::new(self.snapshot.policy.ledger(), self.me)
    }

    #[inline]
    fn interface(&self, id: InterfaceId) -> Option<&Interface> {
        self.snapshot.interfaces.get(id)
    }
}

impl<'m> Pipeline<'m> {
    /// An empty pipeline for one worker. `memory` is zeroed, aligned to 64 bytes and sized by
    /// [`Limits::bytes`]; `key` keys the tables' hash and seeds the choice of ports.
    pub fn new(
        limits: Limits,
        memory: [&'m mut [u8]; 3],
        key: SipKey,
        seed: SipKey,
        now: Instant,
    ) -> Self {
        let [v4, v6] = limits.layouts();
        let limit = RateLimit::new(RateLimit::PER_SECOND, RateLimit::BURST, now);
        let [memory_v4, memory_v6, memory_helpers] = memory;
        Self {
            v4: Table::new(v4, memory_v4, key, now.tick()),
            v6: Table::new(v6, memory_v6, key, now.tick()),
            desk: Desk {
                random: Random::new(seed),
                helpers: Pool::new(limits.helped(), memory_helpers),
                triggered: [None; TRIGGERS_MAX],
                tidy: 0,
                tidy_mappings: 0,
                reply_limits: [[limit; 2]; INTERFACES_MAX],
                wanted: ArrayVec::new(),
                fates: fragments::Fates::new(),
            },
            gathering: Gathering::new(seed),
            review: table_view::Review::default(),
            relieved: now.tick(),
        }
    }

    /// Decides every packet of `burst` and rewrites what is to be sent. The caller carries the
    /// verdicts out and counts them ([`Counters::settle`]).
    #[inline(never)] // a place for profilers to stand
    pub fn process_burst(
        &mut self,
        burst: &mut Burst<'_>,
        me: WorkerId,
        snapshot: &Snapshot,
        counters: &Counters,
        now: Instant,
    ) {
        let context = Context::new(me, snapshot, counters, now);
        burst.verdicts.clear();

        // Parse and steer. For what is left, which is ours to decide, hash and ask for the buckets: some packets
        // at a time, so that lines are asked for no faster than they come.
        let mut ours = ArrayVec::<Ours, BURST_MAX>::new();
        let mut indices = 0u8..;
        for packets in burst.packets.chunks_mut(ABREAST) {
            let begin = ours.len();
            let mut tuples = Pairs::default();
            for (packet, index) in packets.iter_mut().zip(&mut indices) {
                let place = ours.len() - begin;
                // Spelt out: as one expression it goes through memory.
                let opened = match open_plain(packet, &context) {
                    Some(Ok(opened)) => Ok(opened),
                    Some(Err(verdict)) => Err(verdict),
                    None => open(packet, &context),
                };
                let (plain, words) = match opened {
                    Ok(opened) => opened,
                    Err(verdict) => {
                        burst.verdicts.push(verdict);
                        continue;
                    }
                };
                [tuples.first[place], tuples.second[place]] = words;
                ours.push(Ours {
                    index,
                    plain,
                    hash: TupleHash::default(),
                    promise: Promise::NONE,
                });
                burst.verdicts.push(Verdict::Drop(DropReason::Stopping)); // it gets another one below
            }
            let opened = &mut ours[begin..];
            let any_v4 = opened.iter().any(Ours::is_plain_v4);
            let hashes =
                if any_v4 { self.v4.hashes(&tuples, opened.len()) } else { Default::default() };
            for (ours, hash) in opened.iter_mut().zip(hashes) {
                ours.hash = if ours.is_plain_v4() {
                    self.v4.prefetch_bucket(hash);
                    hash
                } else {
                    self.prefetch_bucket(&packets[usize::from(ours.index) % ABREAST], ours.plain)
                };
            }
        }

        // Everything else, packet by packet, asking for the rows a few packets ahead.
        for ours in ours.iter_mut().take(AHEAD) {
            ours.promise = self.prefetch_row(&burst.packets[usize::from(ours.index)], ours);
        }
        for ours in ours.iter_mut().take(AHEAD_SPILLED) {
            self.prefetch_if_spilled(&burst.packets, ours);
        }
        let mut in_lane = 0;
        for place in 0..ours.len() {
            if let Some(later) = ours.get_mut(place + AHEAD) {
                later.promise = self.prefetch_row(&burst.packets[usize::from(later.index)], later);
            }
            if let Some(later) = ours.get_mut(place + AHEAD_SPILLED) {
                self.prefetch_if_spilled(&burst.packets, later);
            }
            let ours = ours[place];
            let packet = &mut burst.packets[usize::from(ours.index)];
            if let Some(egress) = self.in_lane(packet, ours, &context) {
                in_lane += 1;
                burst.verdicts[usize::from(ours.index)] = Verdict::Forward { egress };
            } else {
                let verdict = self.decide(packet, ours, &context);
                if self.v4.has_departed() | self.v6.has_departed() {
                    self.bury(snapshot);
                }
                burst.verdicts[usize::from(ours.index)] = verdict;
            }
        }
        counters.tracked.add(in_lane);
    }

    /// The fast lane, for a plain packet: where to forward it.
    #[inline(always)]
    fn in_lane(
        &mut self,
        packet: &mut Packet<'_>,
        ours: Ours,
        context: &Context<'_>,
    ) -> Option<InterfaceId> {
        let plain = ours.plain?;
        if plain.shape.is_v4() {
            lane::pass::<_, false>(&mut self.v4, packet, plain, ours.promise, context)
        } else {
            lane::pass::<_, false>(&mut self.v6, packet, plain, ours.promise, context)
        }
    }

    /// The fast lane of connections with timeouts of their own.
    #[cold]
    fn in_other_lane(
        &mut self,
        packet: &mut Packet<'_>,
        plain: Plain,
        promise: Promise,
        context: &Context<'_>,
    ) -> Option<InterfaceId> {
        if plain.shape.is_v4() {
            lane::pass::<_, true>(&mut self.v4, packet, plain, promise, context)
        } else {
            lane::pass::<_, true>(&mut self.v6, packet, plain, promise, context)
        }
    }

    /// Hashes the tuple of a packet and asks for its first bucket.
    #[inline(never)]
    fn prefetch_bucket(&self, packet: &Packet<'_>, plain: Option<Plain>) -> TupleHash {
        let tuple = match (&packet.parsed, plain) {
            (Some(headers), _) => Some(headers.tuple),
            (None, Some(plain)) => plain::tuple_v6(packet.bytes(), plain.zone).map(Tuple::V6),
            (None, None) => None,
        };
        match &tuple {
            Some(Tuple::V4(tuple)) => {
                let hash = self.v4.hash(tuple);
                self.v4.prefetch_bucket(hash);
                hash
            }
            Some(Tuple::V6(tuple)) => {
                let hash = self.v6.hash(tuple);
                self.v6.prefetch_bucket(hash);
                hash
            }
            None => TupleHash::default(),
        }
    }

    /// Asks for the row that a packet's second bucket promises, if it may be there.
    #[inline(always)]
    fn prefetch_if_spilled(&self, packets: &[Packet<'_>], ours: &mut Ours) {
        if ours.promise == Promise::SPILLED {
            ours.promise = if is_v4(&packets[usize::from(ours.index)], ours) {
                self.v4.prefetch_spilled_row(ours.hash)
            } else {
                self.v6.prefetch_spilled_row(ours.hash)
            };
        }
    }

    /// Asks for the row that a packet's first bucket promises.
    #[inline(always)]
    fn prefetch_row(&self, packet: &Packet<'_>, ours: &Ours) -> Promise {
        if is_v4(packet, ours) {
            self.v4.prefetch_row(ours.hash)
        } else {
            self.v6.prefetch_row(ours.hash)
        }
    }

    /// The rest of one packet's walk, the long way.
    #[inline(never)]
    fn decide(
        &mut self,
        packet: &mut Packet<'_>,
        mut ours: Ours,
        context: &Context<'_>,
    ) -> Verdict {
        if let Some(plain) = ours.plain
            && !context.raw
            && self.has_no_place(packet, plain, ours, context)
        {
            return Verdict::Drop(DropReason::TableFull);
        }
        if let Some(plain) = ours.plain {
            if context.policed
                && let Some(egress) = self.in_other_lane(packet, plain, ours.promise, context)
            {
                context.counters.tracked.add(1);
                return Verdict::Forward { egress };
            }
            packet.seen = Seen::Plain(plain);
            packet.parsed = plain::headers(packet.bytes(), plain);
        }
        if context.raw {
            if let Some(verdict) = raw::pass(&mut self.desk, packet, context) {
                if let Seen::Gathered(gathered) = &packet.seen {
                    self.desk.fates.settle(gathered, verdict);
                }
                return verdict;
            }
            self.enter_zone(packet, &mut ours, context);
        }
        let Some(headers) = packet.parsed.as_ref() else {
            return Verdict::Drop(DropReason::Stopping);
        };
        let desk = &mut self.desk;
        let kind = headers.kind;
        let verdict = match (kind, headers.tuple) {
            (Kind::Tcp | Kind::Flow | Kind::IcmpQuery, Tuple::V4(tuple)) => {
                tracked(&mut self.v4, desk, packet, ours, &tuple, context)
            }
            (Kind::Tcp | Kind::Flow | Kind::IcmpQuery, Tuple::V6(tuple)) => {
                tracked(&mut self.v6, desk, packet, ours, &tuple, context)
            }
            (Kind::IcmpError, Tuple::V4(tuple)) => {
                related::pass(&mut self.v4, desk, packet, ours.hash, &tuple, context)
            }
            (Kind::IcmpError, Tuple::V6(tuple)) => {
                related::pass(&mut self.v6, desk, packet, ours.hash, &tuple, context)
            }
            (Kind::Invalid | Kind::Untracked | Kind::Arp, _) => stray::pass(desk, packet, context),
            (Kind::Fragment, _) => {
                return fragments::gather(&mut self.gathering, packet, headers, context);
            }
            (Kind::Later, Tuple::V4(tuple)) => {
                return fragments::follow(&mut self.v4, desk, packet, ours, &tuple, context);
            }
            (Kind::Later, Tuple::V6(tuple)) => {
                return fragments::follow(&mut self.v6, desk, packet, ours, &tuple, context);
            }
        };
        if let Seen::Gathered(gathered) = &packet.seen {
            self.desk.fates.settle(gathered, verdict);
        }
        verdict
    }

    /// Has a packet looked for in the zone that a rule said, if one did.
    #[cold]
    fn enter_zone(&self, packet: &mut Packet<'_>, ours: &mut Ours, context: &Context<'_>) {
        let said = packet.visit.assigned.zone;
        let Some(headers) = packet.parsed.as_mut().filter(|_| said != Zoned::Unsaid) else {
            return;
        };
        ours.promise = Promise::NONE;
        match &mut headers.tuple {
            Tuple::V4(tuple) => {
                *tuple = zone::looked_for(&self.v4, tuple, said, context);
                ours.hash = self.v4.hash(tuple);
            }
            Tuple::V6(tuple) => {
                *tuple = zone::looked_for(&self.v6, tuple, said, context);
                ours.hash = self.v6.hash(tuple);
            }
        }
    }

    /// Whether a plain packet belongs to no connection, and no other can be kept: then its headers need not be read.
    #[inline(always)]
    fn has_no_place(
        &self,
        packet: &Packet<'_>,
        plain: Plain,
        ours: Ours,
        context: &Context<'_>,
    ) -> bool {
        /// The same for one family.
        fn refused<H: family::Family>(
            table: &Table<'_, H>,
            packet: &Packet<'_>,
            plain: Plain,
            ours: Ours,
            context: &Context<'_>,
        ) -> bool {
            is_refusing(table, context)
                && H::plain_tuple(packet.bytes(), plain.zone).is_some_and(|tuple| {
                    !may_use_headroom(table, packet, &tuple, context)
                        && table.find_promised(ours.promise, ours.hash, &tuple).is_none()
                })
        }
        if plain.shape.is_v4() {
            refused(&self.v4, packet, plain, ours, context)
        } else {
            refused(&self.v6, packet, plain, ours, context)
        }
    }

    /// Turns the timer wheels towards `now` and, after a change that asks for it, looks at every connection once:
    /// at most about `steps` of work each. To be called between bursts. Whether there is more to do now.
    pub fn housekeep(
        &mut self,
        me: WorkerId,
        snapshot: &Snapshot,
        counters: &Counters,
        now: Instant,
        steps: u32,
    ) -> bool {
        let books = Books::new(snapshot.policy.ledger(), me);
        let (v4, more_v4) = self.v4.expire(now.tick(), steps, books);
        let (v6, more_v6) = self.v6.expire(now.tick(), steps, books);
        counters.connections_gone.add(u64::from(v4 + v6));
        let pressure = &snapshot.options.pressure;
        if pressure.adaptive.is_some() && now.tick() != self.relieved {
            self.relieved = now.tick(); // nothing is idle for longer before time passes
            let rows = (steps / STEPS_PER_ROW).max(1).saturating_mul(RELIEF);
            let relieved = self.v4.relieve(now.tick(), rows, pressure, books)
                + self.v6.relieve(now.tick(), rows, pressure, books);
            counters.connections_gone.add(u64::from(relieved));
        }
        self.gathering.expire(now.tick());
        if snapshot.expectations.any() || !self.desk.helpers.is_empty() {
            self.bury(snapshot);
            snapshot.expectations.tidy(self.desk.tidy, now.tick());
            self.desk.tidy = self.desk.tidy.wrapping_add(1);
        }
        if !snapshot.triggers.is_empty() {
            triggered::keep(&self.v4, &mut self.desk.triggered, snapshot, now.tick());
        }
        if self.v4.holds_mappings() {
            /// Places looked at each time.
            const PLACES: u32 = 16;
            let worker = self.desk.tidy_mappings % snapshot.mappings.workers().max(1);
            snapshot.mappings.tidy(worker, PLACES, now.tick());
            self.desk.tidy_mappings = self.desk.tidy_mappings.wrapping_add(1);
        }
        let reviewing = self.review(me, snapshot, counters, now, steps);
        more_v4 || more_v6 || reviewing
    }

    /// Whether [`next_settled`](Self::next_settled) has something to say.
    #[inline]
    pub fn has_settled(&self) -> bool {
        self.gathering.has_settled()
    }

    /// The next fragment whose wait is over, the fragments of a datagram in order: the slot of its frame, free from now on,
    /// and what becomes of it. To be asked, until it says nothing, after every burst, when the verdicts were carried out.
    /// The caller counts each fragment as resumed, and either drops it or offers it once more, with nothing else
    /// known of it than [`Seen::Gathered`].
    pub fn next_settled(&mut self) -> Option<(u16, Settled)> {
        self.gathering.next_settled()
    }

    /// Fragments that wait for the rest of their datagram.
    pub fn gathering(&self) -> usize {
        self.gathering.waiting()
    }

    /// Forgets what was kept for connections with a helper that are gone. Their expectations die with them, before
    /// another packet is looked at: to be called after [`delete`](Self::delete).
    #[cold]
    pub fn bury(&mut self, snapshot: &Snapshot) {
        /// The same for one family.
        fn of<H: Hot>(
            table: &mut Table<'_, H>,
            v6: bool,
            pool: &mut Pool<'_>,
            from: &Expectations,
        ) {
            let departed = table.take_departed();
            for (row, incarnation) in departed.rows {
                pool.remove(Key::new(v6, row), incarnation, from);
            }
            if departed.more {
                pool.retain(v6, from, |row, incarnation| {
                    table.is_live(row) && table.cold(row).incarnation == incarnation
                });
            }
        }
        let (pool, expectations) = (&mut self.desk.helpers, &snapshot.expectations);
        of(&mut self.v4, false, pool, expectations);
        of(&mut self.v6, true, pool, expectations);
    }

    /// Next hops that packets were held for, or would have been: control has the kernel resolve them.
    pub fn take_wanted(&mut self) -> ArrayVec<Wanted, WANTED_MAX> {
        core::mem::take(&mut self.desk.wanted)
    }
}

/// A packet of a connection, or the first one of a new connection.
#[inline]
fn tracked<H: family::Family>(
    table: &mut Table<'_, H>,
    desk: &mut Desk,
    packet: &mut Packet<'_>,
    ours: Ours,
    tuple: &H::Tuple,
    context: &Context<'_>,
) -> Verdict {
    match table.find_promised(ours.promise, ours.hash, tuple) {
        Some((row, direction)) => {
            established::pass(table, desk, packet, ours.hash, row, direction, context)
        }
        None if is_refusing(table, context) && !may_use_headroom(table, packet, tuple, context) => {
            Verdict::Drop(DropReason::TableFull)
        }
        None => admit::pass(table, desk, packet, ours.hash, tuple, context),
    }
}

/// Whether a packet belongs in the table of IPv4.
#[inline(always)]
fn is_v4(packet: &Packet<'_>, ours: &Ours) -> bool {
    match ours.plain {
        Some(plain) => plain.shape.is_v4(),
        None => packet.parsed.as_ref().is_some_and(Headers::is_v4),
    }
}

/// Whether a packet without a connection can have none: conntrack drops it before anything else is asked
/// (nf_conntrack_core.c). Not while its connection may be another worker's.
#[inline(always)]
fn is_refusing<H: family::Family>(table: &Table<'_, H>, context: &Context<'_>) -> bool {
    let headroom = context.snapshot.options.pressure.headroom[H::FAMILY.index()];
    table.is_packed(context.tick, headroom) && context.snapshot.older_steering.is_empty()
}

/// Whether a first packet may begin a connection of the appliance itself, and there may be a row for that.
#[inline]
fn may_use_headroom<H: family::Family>(
    table: &Table<'_, H>,
    packet: &Packet<'_>,
    tuple: &H::Tuple,
    context: &Context<'_>,
) -> bool {
    /// The same, if there is one.
    #[cold]
    fn may_be_own(packet: &Packet<'_>, tuple: Tuple, context: &Context<'_>) -> bool {
        packet.origin == Origin::Host || context.snapshot.steering.is_ours(tuple.dst())
    }
    table.may_have_own_room() && may_be_own(packet, (*tuple).into(), context)
}

/// Whether a packet is plain, and if it is plain IPv4, its tuple's words.
type Opened = (Option<Plain>, [u64; 2]);

/// Opens a packet off the wire that is plain IPv4 and was not seen before; of others it says nothing. Or a verdict, if
/// another worker owns it.
#[inline(always)]
fn open_plain(packet: &mut Packet<'_>, context: &Context<'_>) -> Option<Result<Opened, Verdict>> {
    if packet.origin != Origin::Wire || packet.seen != Seen::Unseen {
        return None;
    }
    let interface = context.interface(packet.interface)?;
    let verify = context.snapshot.options.verify_checksums;
    let (plain, tuple) = plain::glance_v4(packet.bytes(), interface, verify)?;
    let steered = steer_plain(packet, plain, tuple, context);
    Some(steered.map(|()| (Some(plain), tuple.words())))
}

/// Hands a plain packet over, unless this worker owns it.
#[inline(always)]
fn steer_plain(
    packet: &mut Packet<'_>,
    plain: Plain,
    tuple: impl Into<Tuple>,
    context: &Context<'_>,
) -> Result<(), Verdict> {
    if context.alone { Ok(()) } else { steer_among(packet, plain, &tuple.into(), context) }
}

/// [`steer_plain`] where there are several.
#[inline(never)]
fn steer_among(
    packet: &mut Packet<'_>,
    plain: Plain,
    tuple: &Tuple,
    context: &Context<'_>,
) -> Result<(), Verdict> {
    let owner = context.snapshot.steering.owner(tuple);
    if owner == context.me {
        return Ok(());
    }
    packet.seen = Seen::Plain(plain);
    Err(Verdict::HandOver { worker: owner })
}

/// Opens any other packet. Or a verdict, if it is wrong or another worker owns it; what was seen before was steered
/// here.
#[inline(never)]
fn open(packet: &mut Packet<'_>, context: &Context<'_>) -> Result<Opened, Verdict> {
    match packet.seen {
        Seen::Plain(plain) if plain.shape.is_v4() => {
            let tuple = plain::tuple_v4(packet.bytes(), plain.zone).unwrap_or_default();
            return Ok((Some(plain), tuple.words()));
        }
        Seen::Plain(plain) => return Ok((Some(plain), [0; 2])),
        Seen::Sound => return parse(packet, context).map(|_| (None, [0; 2])),
        Seen::Gathered(_) => return open_gathered(packet, context),
        Seen::Unseen => {}
    }
    if packet.origin == Origin::Wire
        && let Some(interface) = context.interface(packet.interface)
        && let verify = context.snapshot.options.verify_checksums
        && let Some((plain, tuple)) = plain::glance_v6(packet.bytes(), interface, verify)
    {
        return steer_plain(packet, plain, tuple, context).map(|()| (Some(plain), [0; 2]));
    }
    let (tuple, kind) = parse(packet, context)?;
    let owner = context.snapshot.steering.owner_of(&tuple, kind);
    // What is of no connection is nobody's more than this worker's.
    let local = matches!(kind, Kind::Arp | Kind::Untracked | Kind::Invalid);
    if owner == context.me || local {
        Ok((None, [0; 2]))
    } else {
        Err(Verdict::HandOver { worker: owner })
    }
}

/// Opens a fragment whose datagram is whole. It comes from its collector, or from who handed it over.
#[cold]
fn open_gathered(packet: &mut Packet<'_>, context: &Context<'_>) -> Result<Opened, Verdict> {
    let (tuple, _) = parse(packet, context)?;
    let owner = context.snapshot.steering.owner(&tuple);
    let visits = packet.visit.visited != 0 || packet.visit.admit;
    if owner == context.me || visits {
        Ok((None, [0; 2]))
    } else {
        Err(Verdict::HandOver { worker: owner })
    }
}

/// Parses a packet in place, or drops it for what is wrong with it. Checksums are verified once.
fn parse(packet: &mut Packet<'_>, context: &Context<'_>) -> Result<(Tuple, Kind), Verdict> {
    let Some(interface) = context.interface(packet.interface) else {
        return Err(Verdict::Drop(DropReason::InterfaceDown));
    };
    let verify = context.snapshot.options.verify_checksums
        && packet.origin == Origin::Wire
        && packet.seen == Seen::Unseen;
    let Packet { room, start, len, origin, seen, parsed, .. } = packet;
    let bytes = &room[*start..*start + *len];
    let headers = parsed.insert(Headers::default());
    let result = if let Seen::Gathered(gathered) = seen {
        parse::fragment::gathered_into(headers, bytes, interface, *origin, gathered)
    } else {
        parse::parse_into(headers, bytes, interface, *origin, verify)
    };
    match result {
        Ok(()) => {
            // What is invalid has to be found so again.
            if *seen == Seen::Unseen && headers.invalid.is_none() {
                *seen = Seen::Sound;
            }
            Ok((headers.tuple, headers.kind))
        }
        Err(reason) => {
            *parsed = None;
            Err(Verdict::Drop(reason))
        }
    }
}

const _: () = assert!(BURST_MAX <= u8::MAX as usize);
