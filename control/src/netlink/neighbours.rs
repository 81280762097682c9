//! Keeps the core's neighbour array as the kernel has it, and has the kernel resolve what workers ask for.
//!
//! The array finds a slot by interface and address; here is beside it what control has to remember of
//! each: when it was asked for, when it failed.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use postern_core::forward::neighbour::Neighbour;
use postern_core::forward::{NeighbourState, Neighbours};
use postern_core::pipeline::Wanted;
use postern_core::units::{INTERFACES_MAX, InterfaceId, Mac, NeighbourIdx};

use super::decode::NeighbourRow;
use super::socket::Requests;

/// New resolutions that one interface may start per second; so many may also come at once.
pub const RESOLUTIONS_PER_SECOND: u32 = 100;
/// New resolutions that one source may have started per second, and at once: a scan by one host must leave
/// most of its interface's budget to the others.
pub const SOURCE_RESOLUTIONS_PER_SECOND: u32 = 25;
/// Sources share so many budgets; which ones share is drawn anew at every start.
const SOURCE_BUDGETS: usize = 256;
/// How long a neighbour stays failed before a packet to it asks again. The kernel itself needs three
/// seconds (mcast_solicit times retrans_time) to find out.
pub const FAILED_HOLD: Duration = Duration::from_secs(2);
/// A neighbour that was asked for is not asked for again within this time.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How long an answer to our question may take: the kernel's three seconds, with room.
const PENDING: Duration = Duration::from_secs(5);

/// What became of a worker's wish to know a neighbour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resolution {
    /// The kernel was asked; the answer will appear in the slot.
    Asked(NeighbourIdx),
    /// It is being asked already, or is known, or has just failed.
    Known(NeighbourIdx),
    /// Refused: too many were asked for on the interface, or by the source; counted.
    OverBudget,
    /// Refused: the array has no slot for it; counted.
    NoSlot,
    /// Refused: the interface has no TAP at the moment, or the kernel would not have it; counted.
    Refused,
}

/// Counts of refused resolutions, since start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ResolveCounters {
    /// Asked of the kernel.
    pub asked: u64,
    /// [`Resolution::OverBudget`].
    pub over_budget: u64,
    /// [`Resolution::NoSlot`], also for neighbours the kernel told of by itself.
    pub no_slot: u64,
    /// [`Resolution::Refused`].
    pub refused: u64,
}

/// What control remembers of a slot.
#[derive(Clone, Copy, Debug)]
struct Known {
    idx: NeighbourIdx,
    state: NeighbourState,
    mac: Mac,
    asked: Option<Instant>,
    failed: Option<Instant>,
}

/// Tokens of one interface or source: refilled by time, spent by resolutions.
#[derive(Clone, Copy, Debug, Default)]
struct Budget {
    /// Thousandths of a token.
    millis: u32,
    refilled: Option<Instant>,
}

impl Budget {
    fn spend(&mut self, per_second: u32, now: Instant) -> bool {
        let passed = self.refilled.map_or(Duration::from_secs(1), |at| now.duration_since(at));
        let ms = passed.as_millis().min(1_000) as u32;
        if ms > 0 {
            self.millis = (self.millis + ms * per_second).min(per_second * 1_000);
            self.refilled = Some(now);
        }
        let enough = self.millis >= 1_000;
        self.millis -= if enough { 1_000 } else { 0 };
        enough
    }
}

/// The array and what goes with it.
#[derive(Debug)]
pub(super) struct Table {
    array: Arc<Neighbours>,
    capacity: usize,
    known: BTreeMap<(InterfaceId, IpAddr), Known>,
    budgets: [Budget; INTERFACES_MAX],
    source_budgets: Box<[Budget]>,
    source_hash: RandomState,
    pub(super) counters: ResolveCounters,
}

impl Table {
    /// A table over an empty array with room for `capacity` neighbours.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            array: Arc::new(Neighbours::new(capacity)),
            capacity,
            known: BTreeMap::new(),
            budgets: Default::default(),
            source_budgets: vec![Budget::default(); SOURCE_BUDGETS].into(),
            source_hash: RandomState::new(),
            counters: ResolveCounters::default(),
        }
    }

    pub(super) fn array(&self) -> &Arc<Neighbours> {
        &self.array
    }

    /// Takes over what the kernel says of a neighbour. Whether that was news.
    pub(super) fn set(&mut self, id: InterfaceId, row: &NeighbourRow, now: Instant) -> bool {
        let before = self.known.get(&(id, row.address)).copied();
        if before.is_some_and(|k| (k.state, k.mac) == (row.state, row.mac)) {
            return false;
        }
        let neighbour = Neighbour { mac: row.mac, state: row.state };
        let Some(idx) = self.array.set(id, row.address, neighbour) else {
            self.counters.no_slot += 1;
            return false;
        };
        let failed = (row.state == NeighbourState::Failed).then_some(now);
        let asked = before.and_then(|k| k.asked);
        let known = Known { idx, state: row.state, mac: row.mac, asked, failed };
        self.known.insert((id, row.address), known);
        true
    }

    /// The kernel has forgotten a neighbour: whoever needs it has to ask.
    pub(super) fn forget(&mut self, id: InterfaceId, address: IpAddr) -> bool {
        let Some(known) = self.known.get_mut(&(id, address)) else { return false };
        let news = known.state != NeighbourState::Incomplete;
        (known.state, known.mac, known.failed) = (NeighbourState::Incomplete, Mac::default(), None);
        known.asked = None;
        let unknown = Neighbour { mac: Mac::default(), state: NeighbourState::Incomplete };
        self.array.set(id, address, unknown);
        news
    }

    /// Takes over a dump: what is not in `rows` is forgotten, except what was just asked for.
    pub(super) fn replace(&mut self, rows: &[(InterfaceId, NeighbourRow)], now: Instant) -> bool {
        let seen: std::collections::BTreeSet<_> =
            rows.iter().map(|(id, row)| (*id, row.address)).collect();
        let gone: Vec<_> = self.known.keys().filter(|key| !seen.contains(key)).copied().collect();
        let mut news = false;
        for (id, address) in gone {
            news |= self.forget(id, address);
        }
        for (id, row) in rows {
            news |= self.set(*id, row, now);
        }
        news
    }

    /// A worker wants to send to an address and does not know how.
    pub(super) fn resolve(
        &mut self,
        requests: &mut Requests,
        ifindex: Option<u32>,
        wanted: Wanted,
        now: Instant,
    ) -> Resolution {
        let Wanted { interface: id, address, ingress, source } = wanted;
        if let Some(known) = self.known.get(&(id, address)) {
            let asked = known.asked.is_some_and(|at| now.duration_since(at) < ASK_AGAIN);
            if asked || known.state != NeighbourState::Incomplete {
                return Resolution::Known(known.idx);
            }
        }
        let (Some(budget), Some(ifindex)) = (self.budgets.get_mut(id.index()), ifindex) else {
            self.counters.refused += 1;
            return Resolution::Refused;
        };
        let place = self.source_hash.hash_one((ingress, source)) as usize % SOURCE_BUDGETS;
        // The source's first: what it has not got must cost its interface nothing.
        if !self.source_budgets[place].spend(SOURCE_RESOLUTIONS_PER_SECOND, now)
            || !budget.spend(RESOLUTIONS_PER_SECOND, now)
        {
            self.counters.over_budget += 1;
            return Resolution::OverBudget;
        }
        let unknown = Neighbour { mac: Mac::default(), state: NeighbourState::Incomplete };
        let Some(idx) = self.array.set(id, address, unknown) else {
            self.counters.no_slot += 1;
            return Resolution::NoSlot;
        };
        let known = Known {
            idx,
            state: NeighbourState::Incomplete,
            mac: Mac::default(),
            asked: Some(now),
            failed: None,
        };
        self.known.insert((id, address), known);
        match requests.change(use_neighbour(ifindex, address), NLM_F_CREATE) {
            Ok(()) => {
                self.counters.asked += 1;
                Resolution::Asked(idx)
            }
            Err(error) => {
                tracing::debug!("the kernel would not resolve {address}: {error}");
                self.counters.refused += 1;
                Resolution::Refused
            }
        }
    }

    /// Slots are taken and never given back, because workers remember their places. Once more than three
    /// quarters are taken, an array of those still needed takes the old one's place: those the kernel has, or
    /// is asking for. Not if more than half are needed, which would soon come to the same again. Whether
    /// there is another array now: nobody is told of changes by the old one any more.
    pub(super) fn renew(&mut self, now: Instant) -> bool {
        if self.array.len() * 4 <= self.capacity * 3 {
            return false;
        }
        let needed = |known: &Known| {
            let pending = known.asked.is_some_and(|at| now.duration_since(at) < PENDING);
            known.state != NeighbourState::Incomplete || pending
        };
        if self.known.values().filter(|known| needed(known)).count() * 2 > self.capacity {
            return false;
        }
        let array = Neighbours::new(self.capacity);
        let mut no_slot = 0;
        self.known.retain(|&(id, address), known| {
            if !needed(known) {
                return false;
            }
            let neighbour = Neighbour { mac: known.mac, state: known.state };
            match array.set(id, address, neighbour) {
                Some(idx) => known.idx = idx,
                None => no_slot += 1,
            }
            array.find(id, address).is_some()
        });
        self.counters.no_slot += no_slot;
        self.array = Arc::new(array);
        true
    }

    /// Lets failed neighbours be asked for anew after a while, and tells the kernel which stale ones
    /// are in use, so that it verifies them. To be called about once a second.
    pub(super) fn tick(
        &mut self,
        requests: &mut Requests,
        ifindex: impl Fn(InterfaceId) -> Option<u32>,
        now: Instant,
    ) {
        for (&(id, address), known) in &mut self.known {
            match known.state {
                NeighbourState::Failed
                    if known.failed.is_none_or(|at| now.duration_since(at) >= FAILED_HOLD) =>
                {
                    known.state = NeighbourState::Incomplete;
                    (known.asked, known.failed) = (None, None);
                    let unknown = Neighbour { mac: Mac::default(), state: known.state };
                    self.array.set(id, address, unknown);
                }
                NeighbourState::Stale if self.array.take_used(known.idx) => {
                    let Some(ifindex) = ifindex(id) else { continue };
                    match requests.change(use_neighbour(ifindex, address), 0) {
                        // Deleted meanwhile: the event is on its way.
                        Err(error) if error.kind() != io::ErrorKind::NotFound => {
                            tracing::debug!("the kernel would not verify {address}: {error}");
                        }
                        _ => {}
                    }
                }
                _ => {}
            }
        }
    }
}

/// RTM_NEWNEIGH with NTF_USE: as if the kernel had a packet for it.
fn use_neighbour(ifindex: u32, address: IpAddr) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = ifindex;
    message.header.flags = NeighbourFlags::Use;
    let (family, address) = match address {
        IpAddr::V4(a) => (AddressFamily::Inet, NeighbourAddress::Inet(a)),
        IpAddr::V6(a) => (AddressFamily::Inet6, NeighbourAddress::Inet6(a)),
    };
    message.header.family = family;
    message.attributes.push(NeighbourAttribute::Destination(address));
    RouteNetlinkMessage::NewNeighbour(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(address: &str, state: NeighbourState, last: u8) -> NeighbourRow {
        let mac = Mac([2, 0, 0, 0, 0, last]);
        NeighbourRow { ifindex: 1, address: address.parse().unwrap(), mac, state }
    }

    #[test]
    fn the_array_follows_events_and_dumps() {
        let mut table = Table::new(64);
        let (lan, now) = (InterfaceId(0), Instant::now());
        let one = row("10.0.0.1", NeighbourState::Reachable, 1);
        assert!(table.set(lan, &one, now));
        assert!(!table.set(lan, &one, now), "the same again is no news");
        let read = |table: &Table, address: &str| {
            let idx = table.array.find(lan, address.parse().unwrap()).unwrap();
            table.array.get(idx).unwrap()
        };
        assert_eq!(read(&table, "10.0.0.1"), Neighbour { mac: one.mac, state: one.state });
        let two = row("fe80::2", NeighbourState::Stale, 2);
        assert!(table.replace(&[(lan, two)], now));
        assert_eq!(read(&table, "10.0.0.1").state, NeighbourState::Incomplete);
        assert_eq!(read(&table, "fe80::2").mac, two.mac);
        assert!(!table.replace(&[(lan, two)], now));
        assert!(table.forget(lan, two.address) && !table.forget(lan, two.address));
    }

    #[test]
    fn an_array_that_fills_up_gives_way_to_one_of_what_is_still_needed() {
        let mut table = Table::new(1024);
        let (lan, start) = (InterfaceId(0), Instant::now());
        let host = |i: u32, state| NeighbourRow {
            ifindex: 1,
            address: std::net::Ipv4Addr::from(0x0a00_0000 + i).into(),
            mac: Mac([2, 0, 0, 0, (i >> 8) as u8, i as u8]),
            state,
        };
        for i in 0..700 {
            table.set(lan, &host(i, NeighbourState::Reachable), start);
        }
        for i in 0..690 {
            table.forget(lan, host(i, NeighbourState::Reachable).address);
        }
        assert!(!table.renew(start), "there is room");
        for i in 700..900 {
            table.set(lan, &host(i, NeighbourState::Stale), start);
        }
        let pending = host(0, NeighbourState::Incomplete).address;
        table.known.get_mut(&(lan, pending)).unwrap().asked = Some(start);
        let old = Arc::clone(table.array());
        assert!(table.array.len() > 768 && table.renew(start));
        assert!(!Arc::ptr_eq(&old, table.array()));
        // Those the kernel has, and the one it is being asked for, at their new places.
        assert_eq!((table.array.len(), table.known.len()), (211, 211));
        for (&(id, address), known) in &table.known {
            assert_eq!(table.array.find(id, address), Some(known.idx));
            let neighbour = Neighbour { mac: known.mac, state: known.state };
            assert_eq!(table.array.get(known.idx), Some(neighbour));
        }
        assert!(table.array.find(lan, pending).is_some());
        assert!(table.array.find(lan, host(1, NeighbourState::Stale).address).is_none());
        // One that went can come back.
        assert!(table.set(lan, &host(1, NeighbourState::Reachable), start));
        assert!(!table.renew(start));
    }

    #[test]
    fn a_full_array_of_what_is_needed_stays() {
        let mut table = Table::new(1024);
        let now = Instant::now();
        for i in 0..900u32 {
            let address = std::net::Ipv4Addr::from(0x0a00_0000 + i).into();
            let row = NeighbourRow { address, ..row("10.0.0.1", NeighbourState::Reachable, 1) };
            table.set(InterfaceId(0), &row, now);
        }
        assert!(table.array.len() > 768 && !table.renew(now));
    }

    #[test]
    fn a_budget_is_so_many_at_once_and_so_many_a_second() {
        let mut budget = Budget::default();
        let start = Instant::now();
        let spent = |budget: &mut Budget, at| (0..1_000).filter(|_| budget.spend(100, at)).count();
        assert_eq!(spent(&mut budget, start), 100);
        assert_eq!(spent(&mut budget, start + Duration::from_millis(9)), 0);
        assert_eq!(spent(&mut budget, start + Duration::from_millis(500)), 50);
        assert_eq!(spent(&mut budget, start + Duration::from_secs(500)), 100);
    }
}
