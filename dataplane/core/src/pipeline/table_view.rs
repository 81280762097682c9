//! The tables as control sees them: connections as values, a slice at a time, so that a dump of
//! millions costs the packet path a bounded amount a turn.

use super::Pipeline;
use super::established::{has_lost_address, states};
use super::family::Family;
use super::leg::Leg;
use crate::conntrack::changes::Ended;
use crate::conntrack::ctstate::CtState;
use crate::conntrack::datagram;
use crate::conntrack::entry::{Cold, HotState, Warm, flags};
use crate::conntrack::sctp;
use crate::conntrack::table::{Table, deadline};
use crate::conntrack::tcp;
use crate::conntrack::timeouts::Timeouts;
use crate::conntrack::tuple::{Direction, FamilyTuple, Tuple, protocol};
use crate::counters::Counters;
use crate::headers::tcp_flags;
use crate::helper::Kind as Helper;
use crate::helper::pool::{Key, Pool, Record};
use crate::limits::{Account, Books, Ledger};
use crate::rules::{self, PathId, Subject};
use crate::snapshot::Snapshot;
use crate::time::{Instant, Tick};
use crate::units::{EntryIdx, InterfaceId, NeighbourIdx, Stamps, WorkerId};

/// Names a connection. Worker, family, row and the row's incarnation in 64 bits: an id comes again when its row has had
/// 2^29 other connections. The row that was left last is taken first, so that is the time in which so many connections
/// come and go one at a time: at a thousand a second, six days.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ConnectionId(pub u64);

impl ConnectionId {
    const ROW_BITS: u32 = 30;
    const FAMILY_BIT: u32 = 30;
    const WORKER_SHIFT: u32 = 31;
    const INCARNATION_SHIFT: u32 = 35;

    pub(super) fn new(worker: WorkerId, v6: bool, row: u32, incarnation: u32) -> Self {
        Self(
            u64::from(row)
                | u64::from(v6) << Self::FAMILY_BIT
                | u64::from(worker.0) << Self::WORKER_SHIFT
                | u64::from(incarnation) << Self::INCARNATION_SHIFT,
        )
    }

    /// The worker that holds it.
    pub const fn worker(self) -> WorkerId {
        WorkerId((self.0 >> Self::WORKER_SHIFT) as u8 & 0x0f)
    }

    pub(super) const fn is_v6(self) -> bool {
        self.0 >> Self::FAMILY_BIT & 1 != 0
    }

    pub(super) const fn row(self) -> EntryIdx {
        EntryIdx(self.0 as u32 & ((1 << Self::ROW_BITS) - 1))
    }
}

/// One connection, as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionView {
    /// Its id.
    pub id: ConnectionId,
    /// As packets of the original direction arrive.
    pub original: Tuple,
    /// As packets of the reply direction arrive.
    pub reply: Tuple,
    /// See [`flags`].
    pub flags: u16,
    /// [`tcp::State`](crate::conntrack::tcp::State) for TCP, [`sctp::State`](crate::conntrack::sctp::State) for SCTP,
    /// else 0.
    pub protocol_state: u8,
    /// Milliseconds until it goes unless it is used.
    pub remaining_ms: u32,
    /// Packets by direction, modulo 2^44; 0 without accounting.
    pub packets: [u64; 2],
    /// Bytes by direction, modulo 2^52; 0 without accounting.
    pub bytes: [u64; 2],
    /// Connection mark.
    pub mark: u32,
    /// The interface its first packet came in by; [`InterfaceId::NONE`] if from the host.
    pub ingress: InterfaceId,
    /// The interface that packets of the original direction leave by; [`InterfaceId::NONE`] if the host takes them.
    pub egress: InterfaceId,
    /// Its helper, if it has one that has not given up.
    pub helper: Option<Helper>,
    /// Milliseconds since it was made, to 64 ms.
    pub age_ms: u64,
}

/// Which connections are meant. Every field that is set must match; the default means all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// Only IPv6 (`true`) or only IPv4 (`false`).
    pub v6: Option<bool>,
    /// Original source address.
    pub orig_src: Option<core::net::IpAddr>,
    /// Original destination address.
    pub orig_dst: Option<core::net::IpAddr>,
    /// Reply source address.
    pub reply_src: Option<core::net::IpAddr>,
    /// Reply destination address.
    pub reply_dst: Option<core::net::IpAddr>,
    /// Original source port.
    pub sport: Option<u16>,
    /// Original destination port.
    pub dport: Option<u16>,
    /// [`tcp::State`](crate::conntrack::tcp::State), TCP only.
    pub tcp_state: Option<u8>,
    /// Connection mark.
    pub mark: Option<u32>,
}

impl Filter {
    /// Whether `view` is meant.
    pub fn matches(&self, view: &ConnectionView) -> bool {
        fn fits<T: PartialEq>(wanted: Option<T>, found: T) -> bool {
            wanted.is_none_or(|wanted| wanted == found)
        }
        let original = &view.original;
        fits(self.protocol, original.protocol())
            && fits(self.v6, matches!(original, Tuple::V6(_)))
            && fits(self.orig_src, original.src())
            && fits(self.orig_dst, original.dst())
            && fits(self.reply_src, view.reply.src())
            && fits(self.reply_dst, view.reply.dst())
            && fits(self.sport, original.src_id())
            && fits(self.dport, original.dst_id())
            && self.tcp_state.is_none_or(|state| {
                (original.protocol(), view.protocol_state) == (protocol::TCP, state)
            })
            && fits(self.mark, view.mark)
    }
}

/// Where a walk over both tables stands: rows of the IPv4 table, then of the IPv6 one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    v6: bool,
    row: u32,
}

impl Cursor {
    /// The cursor as one number, for those who keep it elsewhere.
    pub const fn to_bits(self) -> u32 {
        (self.v6 as u32) << 31 | self.row
    }

    /// The cursor that [`to_bits`](Self::to_bits) gave.
    pub const fn from_bits(bits: u32) -> Self {
        Self { v6: bits >> 31 != 0, row: bits & !(1 << 31) }
    }
}

/// The round that looks at every connection once, used or not, after a change that asks for it
/// ([`Snapshot::reviews`]).
#[derive(Debug, Default)]
pub(super) struct Review {
    /// Where it goes on.
    cursor: Cursor,
    /// Where it began, and how often it has passed from one table to the other since; `None` if it is over.
    round: Option<(Cursor, u8)>,
    /// The change it is for.
    number: u32,
    /// The change of timeouts that every connection is held to, or will be by this round.
    timeout_changes: u32,
    /// Whether this round holds connections to the timeouts.
    holds: bool,
}

impl Pipeline<'_> {
    /// Connections held, of both families.
    pub fn connections(&self) -> u32 {
        self.v4.len() + self.v6.len()
    }

    /// Connections held and capacity, IPv4 then IPv6.
    pub fn usage(&self) -> [(u32, u32); 2] {
        [(self.v4.len(), self.v4.capacity()), (self.v6.len(), self.v6.capacity())]
    }

    /// Looks at up to `rows` rows from `cursor` on and gives the connections in them that `filter` means
    /// to `take`. Returns where to go on, or `None` at the end. Rows never move, so a walk in slices
    /// sees every connection that lives throughout it exactly once.
    pub fn visit(
        &self,
        me: WorkerId,
        cursor: Cursor,
        rows: u32,
        filter: &Filter,
        now: Instant,
        mut take: impl FnMut(ConnectionView),
    ) -> Option<Cursor> {
        let Cursor { v6, row } = cursor;
        let used = if v6 { self.v6.rows_used() } else { self.v4.rows_used() };
        let end = used.min(row.saturating_add(rows));
        for row in (row..end).map(EntryIdx) {
            let view = if v6 {
                live(&self.v6, &self.desk.helpers, me, row, now)
            } else {
                live(&self.v4, &self.desk.helpers, me, row, now)
            };
            if let Some(view) = view.filter(|view| filter.matches(view)) {
                take(view);
            }
        }
        match (end < used, v6) {
            (true, _) => Some(Cursor { v6, row: end }),
            (false, false) => Some(Cursor { v6: true, row: 0 }),
            (false, true) => None,
        }
    }

    /// One connection, if it lives.
    pub fn get(&self, me: WorkerId, id: ConnectionId, now: Instant) -> Option<ConnectionView> {
        let row = id.row();
        let found = if id.is_v6() {
            live(&self.v6, &self.desk.helpers, me, row, now)
        } else {
            live(&self.v4, &self.desk.helpers, me, row, now)
        };
        found.filter(|view| view.id == id)
    }

    /// Removes one connection; `false` if it was gone already.
    pub fn delete(
        &mut self,
        me: WorkerId,
        id: ConnectionId,
        why: Ended,
        snapshot: &Snapshot,
        counters: &Counters,
        now: Instant,
    ) -> bool {
        if self.get(me, id, now).is_none() {
            return false;
        }
        let books = Books::new(snapshot.policy.ledger(), me);
        if id.is_v6() {
            self.v6.remove(id.row(), why, now.tick(), books);
        } else {
            self.v4.remove(id.row(), why, now.tick(), books);
        }
        counters.connections_gone.add(1);
        true
    }

    /// Goes on with, or begins, the round that a change asked for: at most `rows` rows. Whether there is more to
    /// do. Another change in the midst of it makes the round longer; it does not start over, so that no row
    /// waits for ever.
    pub(super) fn review(
        &mut self,
        me: WorkerId,
        snapshot: &Snapshot,
        counters: &Counters,
        now: Instant,
        rows: u32,
    ) -> bool {
        if self.review.number != snapshot.reviews {
            self.review.number = snapshot.reviews;
            self.review.round = Some((self.review.cursor, 0));
            self.review.holds |= self.review.timeout_changes != snapshot.timeout_changes;
            self.review.timeout_changes = snapshot.timeout_changes;
        }
        let Some((began, passed)) = self.review.round else {
            return false;
        };
        let Cursor { v6, row } = self.review.cursor;
        let used = if v6 { self.v6.rows_used() } else { self.v4.rows_used() };
        let last = if passed == 2 { began.row } else { used };
        let end = last.min(row.saturating_add(rows));
        let timeouts = self.review.holds.then_some(&*snapshot.timeouts);
        for row in (row..end).map(EntryIdx) {
            let removed = if v6 {
                review_row(&mut self.v6, me, row, snapshot, timeouts, now.tick())
            } else {
                review_row(&mut self.v4, me, row, snapshot, timeouts, now.tick())
            };
            counters.connections_gone.add(u64::from(removed));
        }
        self.review.cursor = Cursor { v6, row: end };
        if end == last {
            self.review.round = (passed < 2).then_some((began, passed + 1));
            if passed < 2 {
                self.review.cursor = Cursor { v6: !v6, row: 0 };
            } else {
                self.review.holds = false;
            }
        }
        self.review.round.is_some()
    }
}

/// Removes a connection whose external address is gone; otherwise has it begin anew under these stamps, and end
/// under these timeouts, if they are others. Whether it was removed.
fn review_row<H: Family>(
    table: &mut Table<'_, H>,
    me: WorkerId,
    row: EntryIdx,
    snapshot: &Snapshot,
    timeouts: Option<&Timeouts>,
    now: Tick,
) -> bool {
    if !table.is_live(row) {
        return false;
    }
    if has_lost_address(table.hot(row), snapshot) {
        table.remove(row, Ended::AddressGone, now, Books::new(snapshot.policy.ledger(), me));
        return true;
    }
    if let Some(ledger) = snapshot.policy.ledger() {
        enlist(ledger, table.hot(row), me, row, snapshot);
    }
    let protocol = table.hot(row).tuple(Direction::Original).protocol();
    let state = table.row(row).hot.state_mut();
    let before = *state;
    if state.stamps != snapshot.stamps {
        // What is kept under other stamps is of no use; under these it might be taken for valid once they wrap.
        state.stamps = Stamps::NONE;
        state.next_hops = [NeighbourIdx::UNROUTED.0; 2];
        state.paths = [PathId::UNCACHED.0; 2];
    }
    if let Some(timeouts) = timeouts {
        state.timeout_ms = state.timeout_ms.min(longest_timeout(protocol, state, timeouts));
    }
    table.settle(row, before.flags, before.timeout_ms);
    false
}

/// Has a connection counted as if it were new under these rules, and no longer as it was under others.
#[cold]
fn enlist<H: Family>(ledger: &Ledger, hot: &H, me: WorkerId, row: EntryIdx, snapshot: &Snapshot) {
    let [original, reply]: [Tuple; 2] =
        [Direction::Original, Direction::Reply].map(|direction| (*hot.tuple(direction)).into());
    let state = hot.state();
    let [ingress, egress] = state.interfaces[Direction::Original.index()].map(InterfaceId);
    let Some(tuple) = original.with_dst(reply.src(), reply.src_id()) else { return };
    let ip_protocol = original.protocol();
    let is_query = matches!(ip_protocol, protocol::ICMP | protocol::ICMPV6);
    // The tuple of a query has its type where others have the high half of a port.
    let icmp_type = if is_query { original.dst_id().to_be_bytes()[0] } else { 0 };
    let ctstate = if state.flags & flags::EXPECTED != 0 { CtState::Related } else { CtState::New };
    let subject = Subject {
        tuple: &tuple,
        protocol: ip_protocol,
        icmp_type,
        icmp_code: 0,
        icmp_query: is_query,
        tcp_flags: if ip_protocol == protocol::TCP { tcp_flags::SYN } else { 0 },
        ingress,
        egress,
        // A first packet is judged before its source is translated.
        states: states(ctstate, state.flags & !flags::SNAT),
        packet_len: 0,
    };
    let tuples = [&original, &reply];
    let mut account = Account::of_known(ledger, me, row, tuples, Direction::Original);
    let leg = Leg { egress, ..Leg::to_host(ingress) };
    snapshot.policy.enlist(leg.hook(), &subject, &mut account);
    if state.flags & flags::FROM_HOST == 0 {
        let _ = account.check_source(); // above the limit it lives on, and is counted
    }
    account.forget_the_rest();
    account.keep(me, row);
}

/// The idle timeout of an undisturbed connection in its state, milliseconds.
fn longest_timeout(ip_protocol: u8, state: &HotState, timeouts: &Timeouts) -> u32 {
    let number = state.protocol_state;
    match ip_protocol {
        protocol::TCP => timeouts.ms(tcp::State::from_number(number).timeout()),
        protocol::SCTP => timeouts.ms(sctp::State::from_number(number).timeout()),
        _ => datagram::settled(ip_protocol, timeouts, state)
            .unwrap_or_else(|| datagram::first(ip_protocol, timeouts)),
    }
}

/// A connection that lives.
fn live<H: Family>(
    table: &Table<'_, H>,
    helpers: &Pool<'_>,
    me: WorkerId,
    row: EntryIdx,
    now: Instant,
) -> Option<ConnectionView> {
    if !table.is_live(row) {
        return None;
    }
    let (hot, cold) = (table.hot(row), table.cold(row));
    if now.tick().reached(deadline(hot.state())) {
        return None;
    }
    let mut view = view(hot, table.warm(row), cold, me, row, now);
    if hot.state().flags & flags::HELPED != 0 {
        let key = Key::new(view.id.is_v6(), row);
        view.helper = helpers.peek(key, cold.incarnation).and_then(Record::kind);
    }
    Some(view)
}

/// A row as a value, whether it lives or not.
pub(super) fn view<H: Family>(
    hot: &H,
    warm: &Warm,
    cold: &Cold,
    me: WorkerId,
    row: EntryIdx,
    now: Instant,
) -> ConnectionView {
    let v6 = matches!(H::FAMILY, rules::Family::V6);
    let [ingress, egress] = hot.state().interfaces[Direction::Original.index()].map(InterfaceId);
    ConnectionView {
        id: ConnectionId::new(me, v6, row.0, cold.incarnation),
        original: (*hot.tuple(Direction::Original)).into(),
        reply: (*hot.tuple(Direction::Reply)).into(),
        flags: hot.state().flags & !(flags::ARMED | flags::CHANGED),
        protocol_state: hot.state().protocol_state,
        remaining_ms: deadline(hot.state()).since(now.tick()).max(0) as u32,
        packets: warm.packets(),
        bytes: warm.bytes(),
        mark: cold.mark,
        ingress,
        egress,
        helper: None,
        age_ms: now.ms_since(cold.created),
    }
}
