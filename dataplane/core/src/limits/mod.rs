//! Limits by address: how many connections one host, or one network, may have.
//!
//! A rule may ask how many live connections an address has (`-m connlimit`, [`Limit`]), and the configuration may
//! say how many any source may have at most ([`PerSource`]). A policy that does either has a [`Ledger`], made with it:
//!
//! - the counters, by limit and masked address, which all workers share, because one host's
//!   connections are spread over all of them;
//! - for each row of each worker's tables, under which limits its connection is counted. Only its owner reads and writes that.
//!
//! A first packet is counted when it is judged ([`Account`]), so that of two workers that have room for one more, one gets it; it
//! gives back what it took if it is refused later on. As in xt_connlimit, a rule counts the connections that came as far as its
//! test, and no others. When a row ends, however it ends, what it holds is given back ([`Books`]): that is done where the row is freed,
//! so there is no other way. A policy that asks for the same limits as the one before it goes on with its ledger, so that a change
//! of other rules hands nobody a new quota; another one begins with nothing counted. Either way every connection is judged once
//! under the new rules as if it were new, and is counted as they would have it.
//!
//! Owner: control makes it, workers share it. Allocates: when made, never after. What nobody is counted in is never
//! touched, so a ledger for millions of rows takes no memory until there are connections.

mod counts;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use zerocopy::FromZeros;

use crate::conntrack::siphash::SipKey;
use crate::conntrack::tuple::{Direction, Tuple};
use crate::rules::Family;
use crate::units::{EntryIdx, WorkerId};
use crate::verdict::DropReason;
use counts::{Counts, Key};

/// Most different limits that the rules of one family may ask for.
pub const LIMITS_MAX: usize = 31;

/// The place behind those of the rules: [`PerSource`].
const PER_SOURCE: usize = LIMITS_MAX;

/// A counted connection may hold each limit for either of its ends.
const _: () = assert!((LIMITS_MAX + 1) * 2 <= u64::BITS as usize);

/// Which address of a packet is meant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Of {
    /// Its source.
    Source,
    /// Its destination.
    Destination,
}

/// What a rule has counted: the connections of all addresses that agree in the bits of a mask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Limit {
    pub(crate) of: Of,
    /// IPv4 in the low 32 bits.
    pub(crate) mask: u128,
}

/// How many connections any source may have, whatever the rules say (RFC 6888 REQ-4). The appliance's own are not meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PerSource {
    /// At most so many live connections.
    pub most: u32,
    /// What counts as one source: addresses that agree in so many leading bits, by [`Family`].
    pub lengths: [u8; 2],
}

/// What a ledger is made for.
#[derive(Clone, Debug)]
pub struct Room {
    /// Rows of each worker's tables, by [`Family`].
    pub rows: [u32; 2],
    /// Keys the counters' hash: to be drawn by chance.
    pub key: SipKey,
    /// The limit of the configuration, if there is one.
    pub per_source: Option<PerSource>,
    /// The ledger of the policy before, if it had one.
    pub before: Option<Arc<Ledger>>,
}

/// The counters of one policy, and who is counted in them. See the [module](self).
#[derive(Debug)]
pub struct Ledger {
    counts: Counts,
    /// Of the rules, by family and place.
    limits: [Box<[Limit]>; 2],
    per_source: Option<PerSource>,
    /// By worker, family and row: the limits a connection is counted under, two bits each, one for either end.
    held: Box<[[Vec<AtomicU64>; 2]]>,
}

impl Ledger {
    /// The ledger of a policy: that of the one before, if it is for the same limits, else an empty one. `None` if there is
    /// nothing to count.
    pub(crate) fn new(workers: usize, room: &Room, limits: [Vec<Limit>; 2]) -> Option<Arc<Self>> {
        let most = limits.iter().map(Vec::len).max()? + usize::from(room.per_source.is_some());
        if most == 0 {
            return None;
        }
        if let Some(before) = &room.before
            && before.is_for(workers, room, &limits)
        {
            return Some(Arc::clone(before));
        }
        // An address may have a counter for each limit; that every connection has its own address, and is counted under
        // more than a few, is not to be expected.
        let rows: usize = room.rows.iter().map(|&rows| rows as usize).sum();
        let counts = Counts::new(rows * workers * most.min(4), room.key);
        let rows =
            |_| room.rows.map(|rows| AtomicU64::new_vec_zeroed(rows as usize).unwrap_or_default());
        let held = (0..workers).map(rows).collect();
        let limits = limits.map(Vec::into_boxed_slice);
        Some(Arc::new(Self { counts, limits, per_source: room.per_source, held }))
    }

    /// Whether it counts the same for the same tables.
    fn is_for(&self, workers: usize, room: &Room, limits: &[Vec<Limit>; 2]) -> bool {
        let rows = room.rows.map(|rows| rows as usize);
        let same_rows = self.held.len() == workers
            && self.held.iter().all(|own| own.each_ref().map(Vec::len) == rows);
        let same_limits = self.limits.iter().zip(limits).all(|(own, other)| **own == **other);
        same_rows && same_limits && self.per_source == room.per_source
    }

    /// Live connections that are counted for the source `address` under the limit of the configuration.
    pub fn of_source(&self, address: IpAddr) -> u32 {
        let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
        self.key(family, PER_SOURCE, number(address)).map_or(0, |key| self.counts.get(key))
    }

    /// Live connections that are counted for `address` under the `place`th limit of its family's rules, in the order in
    /// which they stand in the policy.
    pub fn of_rule(&self, place: usize, address: IpAddr) -> u32 {
        let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
        self.key(family, place, number(address)).map_or(0, |key| self.counts.get(key))
    }

    /// Under which key an address is counted for a limit; `None` if there is no such limit.
    fn key(&self, family: Family, place: usize, address: u128) -> Option<Key> {
        let mask = match self.per_source {
            Some(limit) if place == PER_SOURCE => {
                let bits = if family == Family::V4 { 32 } else { 128 };
                let host = bits - u32::from(limit.lengths[family.index()]).min(bits);
                u128::MAX.checked_shl(host).unwrap_or(0)
            }
            _ => self.limits[family.index()].get(place)?.mask,
        };
        let tag = (place as u32) << 1 | family as u32;
        Some(Key { address: address & mask, tag })
    }

    /// The keys of what is held, for the ends of a connection.
    fn keys(
        &self,
        family: Family,
        held: u64,
        ends: [u128; 2],
    ) -> impl Iterator<Item = Key> + use<'_> {
        let bits = (0..u64::BITS).filter(move |bit| held >> bit & 1 != 0);
        bits.filter_map(move |bit| self.key(family, bit as usize / 2, ends[bit as usize % 2]))
    }

    fn held(&self, worker: WorkerId, family: Family, row: EntryIdx) -> Option<&AtomicU64> {
        self.held.get(worker.index())?[family.index()].get(row.index())
    }
}

/// An address as a number; IPv4 in the low 32 bits.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// A connection's two ends as rules see them, before its source is translated and after its destination is: who began
/// it, and whom it leads to.
fn ends(original: &Tuple, reply: &Tuple) -> [u128; 2] {
    [number(original.src()), number(reply.src())]
}

/// What a connection takes from a ledger while a packet of it is judged. What it has taken since is given back unless it is
/// [kept](Self::keep).
#[derive(Debug)]
pub struct Account<'l> {
    ledger: &'l Ledger,
    family: Family,
    ends: [u128; 2],
    direction: Direction,
    /// What it held when it was opened.
    before: u64,
    held: u64,
    /// Of that, what was asked for since.
    asked: u64,
}

impl<'l> Account<'l> {
    /// For a first packet whose reply tuple, before its source is translated, is the other one.
    pub(crate) fn of_first(ledger: &'l Ledger, original: &Tuple, reply: &Tuple) -> Self {
        let family = Family::of(original);
        let ends = ends(original, reply);
        let direction = Direction::Original;
        Self { ledger, family, ends, direction, before: 0, held: 0, asked: 0 }
    }

    /// For a packet of a known connection.
    pub(crate) fn of_known(
        ledger: &'l Ledger,
        worker: WorkerId,
        row: EntryIdx,
        [original, reply]: [&Tuple; 2],
        direction: Direction,
    ) -> Self {
        let family = Family::of(original);
        let held = ledger.held(worker, family, row).map_or(0, |held| held.load(Relaxed));
        let ends = ends(original, reply);
        Self { ledger, family, ends, direction, before: held, held, asked: 0 }
    }

    /// How many connections the packet's address has under a limit of the rules, this one included. As many as can be, if
    /// there is no room to count them.
    pub(crate) fn count(&mut self, place: usize) -> u32 {
        let Some(limit) = self.ledger.limits[self.family.index()].get(place) else { return 0 };
        let end = (limit.of == Of::Destination) ^ (self.direction == Direction::Reply);
        self.take(place, usize::from(end)).unwrap_or(u32::MAX)
    }

    /// Counts the connection under the limit of the configuration, if there is one.
    ///
    /// # Errors
    /// Why it may not be.
    pub(crate) fn check_source(&mut self) -> Result<(), DropReason> {
        let Some(limit) = self.ledger.per_source else { return Ok(()) };
        match self.take(PER_SOURCE, 0) {
            None => Err(DropReason::LimitsFull),
            Some(count) if count > limit.most => Err(DropReason::SourceLimit),
            Some(_) => Ok(()),
        }
    }

    /// Counts the connection, unless it is counted already; how many there are with it.
    fn take(&mut self, place: usize, end: usize) -> Option<u32> {
        let key = self.ledger.key(self.family, place, self.ends[end])?;
        // Ends that a mask makes one are one.
        let other = self.ledger.key(self.family, place, self.ends[0]);
        let end = if other == Some(key) { 0 } else { end };
        let bit = 1 << (place * 2 + end);
        self.asked |= bit;
        if self.held & bit != 0 {
            return Some(self.ledger.counts.get(key));
        }
        let count = self.ledger.counts.add(key)?;
        self.held |= bit;
        Some(count)
    }

    /// Gives back what nobody has asked for: the rules do not count the connection there any more.
    pub(crate) fn forget_the_rest(&mut self) {
        for key in self.ledger.keys(self.family, self.held & !self.asked, self.ends) {
            self.ledger.counts.remove(key);
        }
        self.held &= self.asked;
    }

    /// The connection has that row, and keeps what it took until it ends.
    pub(crate) fn keep(mut self, worker: WorkerId, row: EntryIdx) {
        if self.held != self.before
            && let Some(held) = self.ledger.held(worker, self.family, row)
        {
            held.store(self.held, Relaxed);
            self.before = self.held;
        }
    }
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        for key in self.ledger.keys(self.family, self.held & !self.before, self.ends) {
            self.ledger.counts.remove(key);
        }
    }
}

/// How many connections the address of a packet without a connection has, that one included if it became one: `place` of
/// the limits of its family's rules.
pub(crate) fn count_for_stray(ledger: &Ledger, place: usize, tuple: &Tuple) -> u32 {
    let family = Family::of(tuple);
    let Some(limit) = ledger.limits[family.index()].get(place) else { return 0 };
    let address = if limit.of == Of::Source { tuple.src() } else { tuple.dst() };
    let key = ledger.key(family, place, number(address));
    key.map_or(0, |key| ledger.counts.get(key).saturating_add(1))
}

/// The books that a worker's connections stand in: whoever ends one says which.
#[derive(Clone, Copy, Debug)]
pub struct Books<'l> {
    ledger: Option<&'l Ledger>,
    worker: WorkerId,
}

impl<'l> Books<'l> {
    /// Nothing is counted.
    pub const NONE: Self = Self { ledger: None, worker: WorkerId(0) };

    /// Those of a policy's ledger.
    #[inline]
    pub const fn new(ledger: Option<&'l Ledger>, worker: WorkerId) -> Self {
        Self { ledger, worker }
    }

    /// Whether anything is counted.
    #[inline]
    pub const fn is_kept(&self) -> bool {
        self.ledger.is_some()
    }

    /// Gives back all that a row holds. Its connection ends; its tuples are those it had.
    #[cold]
    pub(crate) fn close(&self, row: EntryIdx, original: &Tuple, reply: &Tuple) {
        let Some(ledger) = self.ledger else { return };
        let family = Family::of(original);
        let Some(held) = ledger.held(self.worker, family, row) else { return };
        for key in ledger.keys(family, held.load(Relaxed), ends(original, reply)) {
            ledger.counts.remove(key);
        }
        held.store(0, Relaxed);
    }
}
