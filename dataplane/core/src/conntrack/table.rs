//! The connection table of one family and one worker: an index of cache-line buckets over a slab of rows.
//!
//! Life of a connection: `insert` takes a row, writes its parts, puts both tuples into the index and
//! arms the wheel; packets find it by either tuple; it goes by `remove`, when it expires, is deleted,
//! evicted or found past its deadline. Rows never move, so a dump walks the slab and a row with its
//! incarnation is an id that is never reused.
//!
//! The index has two candidate buckets for a tuple and never displaces what is in them. A tuple goes to
//! its first bucket while that has room to spare, so most look-ups read one bucket line; a bucket
//! counts the tuples that had to go to their second (`spilled`), so that a miss reads one line too.
//!
//! A full table makes room: see [`pressure`](super::pressure).
//!
//! All memory is handed in, and taken once: nothing here allocates. Owner: one worker.

use alloc::sync::Arc;
use core::net::SocketAddrV4;

use arrayvec::ArrayVec;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::changes::{Change, Changes, Ended, Happened};
use super::entry::{Cold, Hot, Pair, Warm, flags, peer_flags};
use super::pressure::{Evictable, is_own};
use super::rowset::RowSet;
use super::siphash::{ABREAST, Pairs, SipKey};
use super::tuple::{Direction, FamilyTuple, Tuple, TupleV4};
use super::wheel::{self, Span, Wheel};
use crate::arch::{self, prefetch};
use crate::limits::Books;
use crate::nat::mapping::{self, Mappings, Refused};
use crate::time::Tick;
use crate::units::EntryIdx;

/// Places in a bucket.
const WAYS: usize = 8;
/// A first bucket with this many tuples has no more room to spare: the emptier of the two is taken.
const COMFORTABLE: u32 = 6;

/// One cache line of the index.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
struct Bucket {
    /// Sixteen bits of each tuple's hash; 0 is an empty place.
    tags: [u16; WAYS],
    /// Row × 2 + direction, parallel to `tags`.
    rows: [u32; WAYS],
    /// Tuples whose first bucket this is but that live in their second.
    spilled: u32,
    reserved: [u32; 3],
}

const _: () = assert!(size_of::<Bucket>() == 64 && core::mem::offset_of!(Bucket, tags) == 0);

impl Bucket {
    /// Bit mask of the places whose tag is `tag`.
    #[inline]
    fn matches(&self, tag: u16) -> u32 {
        arch::matches(&self.tags, tag)
    }

    fn len(&self) -> u32 {
        WAYS as u32 - self.matches(0).count_ones()
    }
}

/// Hash of a tuple, split into what the index uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TupleHash(u64);

impl TupleHash {
    #[inline]
    fn tag(self) -> u16 {
        // Bits that hardly count for either bucket number; never 0.
        (self.0 as u16).max(1)
    }
}

/// The row that a bucket's tags promised, with the direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Promise(u32);

impl Promise {
    /// Nothing was promised.
    pub const NONE: Self = Self(u32::MAX);
    /// Nothing yet: the tuple may be in its second bucket, whose line was asked for.
    pub const SPILLED: Self = Self(u32::MAX - 1);
}

/// Why a connection could not be inserted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InsertError {
    /// No row is free.
    Full,
    /// Both buckets of one of its tuples are full.
    BucketFull,
}

/// How much memory a table takes, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    buckets: usize,
    capacity: usize,
    pair: usize,
}

impl Layout {
    /// The layout of a table of `capacity` connections of the family of `H`. At most 2^30.
    pub fn new<H: Hot>(capacity: u32) -> Self {
        assert!((1..=1 << 30).contains(&capacity), "capacity is validated by configuration");
        let capacity = capacity as usize;
        // Two tuples a connection, about four of eight places taken when full: with two choices, both
        // buckets of a tuple being full is then a matter of one connection in many millions. A few
        // buckets less make up for the sets and the wheel: an IPv4 connection takes 192 bytes at most.
        let buckets = ((capacity * 2).div_ceil(4) - capacity / 128).max(2);
        Self { buckets, capacity, pair: size_of::<H::Pair>() }
    }

    /// Words of each set of rows, in whole cache lines.
    const fn set_words(&self) -> usize {
        RowSet::words(self.capacity).next_multiple_of(8)
    }

    /// Bytes of memory the table needs, to be handed in aligned to 64.
    pub const fn bytes(&self) -> usize {
        let rows = self.pair + size_of::<Cold>();
        self.buckets * size_of::<Bucket>()
            + wheel::SLOTS_ALL * size_of::<u32>()
            + 2 * self.set_words() * size_of::<u64>()
            + (self.capacity * rows).next_multiple_of(64)
    }
}

/// Mutable views of the three parts of one row.
pub struct Row<'t, H> {
    /// Tuples, last seen, decision.
    pub hot: &'t mut H,
    /// Windows and counters.
    pub warm: &'t mut Warm,
    /// The rest.
    pub cold: &'t mut Cold,
}

/// The table.
pub struct Table<'m, H: Hot> {
    key: SipKey,
    buckets: &'m mut [Bucket],
    pub(super) rows: &'m mut [H::Pair],
    cold: &'m mut [Cold],
    pub(super) wheel: Wheel<'m>,
    /// First row of the free list (through `wheel_next`).
    free: u32,
    /// Rows from here on were never used.
    fresh: u32,
    pub(super) live: u32,
    /// Of those, connections of the appliance itself.
    pub(super) own: u32,
    pub(super) evictable: Evictable<'m>,
    departed: Departed,
    changes: Changes<H>,
    /// What connections of this table may hold; `None` until one does.
    mappings: Option<Arc<Mappings>>,
}

/// Rows with a helper that went, each with its incarnation then.
#[derive(Clone, Debug, Default)]
pub struct Departed {
    /// Which.
    pub rows: ArrayVec<(EntryIdx, u32), DEPARTED_MAX>,
    /// There were more than are noted: look at all.
    pub more: bool,
}

/// Most rows with a helper that are noted between two calls of [`Table::take_departed`].
pub const DEPARTED_MAX: usize = 8;

impl<H: Hot<Tuple = TupleV4>> Table<'_, H> {
    /// [`hash`](Self::hash) of the first `count` tuples, given as [`TupleV4::words`].
    #[inline]
    pub fn hashes(&self, tuples: &Pairs, count: usize) -> [TupleHash; ABREAST] {
        self.key.hash_pairs(tuples, count).map(TupleHash)
    }
}

impl<'m, H: Hot> Table<'m, H> {
    /// An empty table on `memory`, which is zeroed, aligned to 64 bytes and of `layout.bytes()`.
    ///
    /// # Panics
    /// If the memory is too small or not aligned: the caller computed it from the same layout.
    pub fn new(layout: Layout, memory: &'m mut [u8], key: SipKey, now: Tick) -> Self {
        // The rows first: two lines each, which then begin where a pair of lines does.
        let (rows, memory) = <[H::Pair]>::mut_from_prefix_with_elems(memory, layout.capacity)
            .expect("memory is sized and aligned by the layout");
        let (buckets, memory) = <[Bucket]>::mut_from_prefix_with_elems(memory, layout.buckets)
            .expect("memory is sized by the layout");
        let (slots, memory) = <[u32]>::mut_from_prefix_with_elems(memory, wheel::SLOTS_ALL)
            .expect("memory is sized by the layout");
        let (unreplied, memory) = <[u64]>::mut_from_prefix_with_elems(memory, layout.set_words())
            .expect("memory is sized by the layout");
        let (little, memory) = <[u64]>::mut_from_prefix_with_elems(memory, layout.set_words())
            .expect("memory is sized by the layout");
        let (cold, _) = <[Cold]>::mut_from_prefix_with_elems(memory, layout.capacity)
            .expect("memory is sized by the layout");
        Self {
            key,
            buckets,
            rows,
            cold,
            wheel: Wheel::new(slots, now),
            free: wheel::NONE,
            fresh: 0,
            live: 0,
            own: 0,
            evictable: Evictable::new(layout.capacity, [unreplied, little]),
            departed: Departed::default(),
            changes: Changes::new(layout.capacity as u32),
            mappings: None,
        }
    }

    /// Most connections it holds.
    pub fn capacity(&self) -> u32 {
        self.rows.len() as u32
    }

    /// Connections it holds.
    pub fn len(&self) -> u32 {
        self.live
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Hash of a tuple under this table's key.
    #[inline]
    pub fn hash(&self, tuple: &H::Tuple) -> TupleHash {
        let bytes = tuple.as_bytes();
        let mut words = [0u64; 5];
        let count = bytes.len() / 8;
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(chunk.try_into().expect("chunks of eight"));
        }
        TupleHash(self.key.hash_words(&words[..count]))
    }

    /// Index of the first bucket of a hash.
    #[inline]
    fn first(&self, hash: TupleHash) -> usize {
        (((hash.0 >> 32) * self.buckets.len() as u64) >> 32) as usize
    }

    /// Index of the second bucket of a hash, which is never the first.
    #[inline]
    fn second(&self, hash: TupleHash) -> usize {
        let len = self.buckets.len() as u64;
        let step = 1 + (((hash.0 & 0xffff_ffff) * (len - 1)) >> 32) as usize;
        let sum = self.first(hash) + step;
        if sum >= self.buckets.len() { sum - self.buckets.len() } else { sum }
    }

    /// Asks for the first bucket's line.
    #[inline]
    pub fn prefetch_bucket(&self, hash: TupleHash) {
        prefetch(&self.buckets[self.first(hash)]);
    }

    /// Looks at the first bucket's tags and asks for the lines of the row they promise. The row may
    /// turn out to be another connection's: [`find_promised`](Self::find_promised) compares.
    #[inline]
    pub fn prefetch_row(&self, hash: TupleHash) -> Promise {
        let bucket = &self.buckets[self.first(hash)];
        let mask = bucket.matches(hash.tag());
        if mask != 0 {
            let coded = bucket.rows[mask.trailing_zeros() as usize % WAYS];
            let row = (coded >> 1) as usize;
            if let Some(row) = self.rows.get(row) {
                prefetch(row.hot());
                prefetch(row.warm());
                return Promise(coded);
            }
        } else if bucket.spilled != 0 {
            prefetch(&self.buckets[self.second(hash)]);
            return Promise::SPILLED;
        }
        Promise::NONE
    }

    /// What [`prefetch_row`](Self::prefetch_row) could not promise because it may be in the second bucket, whose
    /// line has come meanwhile.
    #[inline]
    pub fn prefetch_spilled_row(&self, hash: TupleHash) -> Promise {
        let bucket = &self.buckets[self.second(hash)];
        let mask = bucket.matches(hash.tag());
        if mask == 0 {
            return Promise::NONE;
        }
        let coded = bucket.rows[mask.trailing_zeros() as usize % WAYS];
        let Some(row) = self.rows.get((coded >> 1) as usize) else { return Promise::NONE };
        prefetch(row.hot());
        prefetch(row.warm());
        Promise(coded)
    }

    /// Asks for the lines of the row that the next connection gets.
    #[inline]
    pub fn prefetch_free_row(&self) {
        if let Some(row) = self.free_row().map(|row| row as usize)
            && let (Some(both), Some(cold)) = (self.rows.get(row), self.cold.get(row))
        {
            prefetch(both.hot());
            prefetch(both.warm());
            prefetch(cold);
        }
    }

    /// The hot and the warm part of a row, to be changed; as [`row`](Self::row).
    #[inline]
    pub fn hot_and_warm(&mut self, row: EntryIdx) -> Option<(&mut H, &mut Warm)> {
        Some(self.rows.get_mut(row.index())?.both())
    }

    /// [`find`](Self::find), looking at the promised row first. What happened to the table since the promise
    /// was made does not matter.
    #[inline]
    pub fn find_promised(
        &self,
        promise: Promise,
        hash: TupleHash,
        tuple: &H::Tuple,
    ) -> Option<(EntryIdx, Direction)> {
        self.promised(promise, tuple).or_else(|| self.find(hash, tuple))
    }

    /// The promised row, if it is the one that holds `tuple`.
    #[inline]
    pub fn promised(
        &self,
        Promise(coded): Promise,
        tuple: &H::Tuple,
    ) -> Option<(EntryIdx, Direction)> {
        let direction = Direction::from_index(coded & 1);
        let hot = self.rows.get((coded >> 1) as usize)?.hot();
        // A row that was freed since keeps its tuples, but is not live.
        let held = hot.tuple(direction).same(tuple) && hot.state().flags & flags::LIVE != 0;
        held.then_some((EntryIdx(coded >> 1), direction))
    }

    /// The row that holds `tuple`, and as which direction.
    #[inline]
    pub fn find(&self, hash: TupleHash, tuple: &H::Tuple) -> Option<(EntryIdx, Direction)> {
        let first = &self.buckets[self.first(hash)];
        if let Some(found) = self.find_in(first, hash.tag(), tuple) {
            return Some(found);
        }
        if first.spilled == 0 {
            return None;
        }
        self.find_in(&self.buckets[self.second(hash)], hash.tag(), tuple)
    }

    #[inline]
    fn find_in(
        &self,
        bucket: &Bucket,
        tag: u16,
        tuple: &H::Tuple,
    ) -> Option<(EntryIdx, Direction)> {
        let mut mask = bucket.matches(tag);
        while mask != 0 {
            let coded = bucket.rows[mask.trailing_zeros() as usize % WAYS];
            let direction = Direction::from_index(coded & 1);
            if self.rows[(coded >> 1) as usize].hot().tuple(direction).same(tuple) {
                return Some((EntryIdx(coded >> 1), direction));
            }
            mask &= mask - 1;
        }
        None
    }

    /// The hot part of a row.
    #[inline]
    pub fn hot(&self, row: EntryIdx) -> &H {
        self.rows[row.index()].hot()
    }

    /// The cold part of a row.
    #[inline]
    pub fn cold(&self, row: EntryIdx) -> &Cold {
        &self.cold[row.index()]
    }

    /// All parts of a row, to be changed. Whoever changes `timeout_ms` or the flags SEEN_REPLY, ASSURED and
    /// CLOSED calls [`settle`](Self::settle) after.
    #[inline]
    pub fn row(&mut self, row: EntryIdx) -> Row<'_, H> {
        let (hot, warm) = self.rows[row.index()].both();
        Row { hot, warm, cold: &mut self.cold[row.index()] }
    }

    /// Sees to it that a row whose timeout became shorter is found in the wheel by its deadline. (One that
    /// became longer is found early there, and moved then.)
    #[inline]
    pub fn rearm(&mut self, row: EntryIdx) {
        let state = self.rows[row.index()].hot().state();
        // Its slot fires within that span of a packet that was not after its last.
        if state.timeout_ms < state.armed().ms() {
            self.rearm_sooner(row);
        }
    }

    /// Moves a row to an earlier place in the wheel: a little too early, so that it may stay there when its
    /// timeout, while packets come, goes up and down.
    #[cold]
    fn rearm_sooner(&mut self, row: EntryIdx) {
        let state = self.rows[row.index()].both().0.state_mut();
        let Some(span) = Span::at_most(state.timeout_ms) else {
            self.wheel.disarm(self.cold, row.0);
            return self.arm(row.0);
        };
        state.set_armed(span);
        let early = Tick(state.last_seen).plus_ms(span.ms());
        self.wheel.disarm(self.cold, row.0);
        self.wheel.arm(self.cold, row.0, early);
    }

    /// Arms a row for its deadline.
    fn arm(&mut self, row: u32) {
        let state = self.rows[row as usize].both().0.state_mut();
        state.set_armed(Span::at_least(state.timeout_ms));
        self.wheel.arm(self.cold, row, deadline(state));
    }

    /// Inserts a connection whose tuples are not in the table. `hot` carries both tuples, flags,
    /// timeout and last seen; `headroom` rows are kept for the appliance's own ones.
    pub fn insert(
        &mut self,
        hot: &H,
        warm: &Warm,
        cold: &Cold,
        hashes: [TupleHash; 2],
        headroom: u32,
    ) -> Result<EntryIdx, InsertError> {
        debug_assert!(self.find(hashes[0], hot.tuple(Direction::Original)).is_none());
        debug_assert!(self.find(hashes[1], hot.tuple(Direction::Reply)).is_none());
        if self.is_full_for(hot.state().flags, headroom) {
            return Err(InsertError::Full);
        }
        let row = self.free_row().ok_or(InsertError::Full)?;
        if !self.index(hashes[0], row << 1) {
            return Err(InsertError::BucketFull);
        }
        if !self.index(hashes[1], row << 1 | 1) {
            self.unindex(hashes[0], row << 1);
            return Err(InsertError::BucketFull);
        }
        self.take_row(row);
        let incarnation = self.cold[row as usize].incarnation.wrapping_add(1);
        let (to_hot, to_warm) = self.rows[row as usize].both();
        (*to_hot, *to_warm) = (*hot, *warm);
        to_hot.state_mut().flags |= flags::LIVE;
        self.cold[row as usize] = Cold { incarnation, ..*cold };
        self.arm(row);
        self.live += 1;
        self.own += u32::from(is_own(hot.state().flags));
        self.evictable.insert(row, hot.state().flags);
        if self.changes.is_open() {
            // Its first packet is what was seen of it last.
            let made = Tick(self.hot(EntryIdx(row)).state().last_seen);
            self.note(Happened::New, EntryIdx(row), made);
        }
        Ok(EntryIdx(row))
    }

    /// Removes a connection, from the `books` too. The row must be live.
    pub fn remove(&mut self, row: EntryIdx, why: Ended, now: Tick, books: Books<'_>) {
        self.wheel.disarm(self.cold, row.0);
        self.forget(row.0, why, now, books);
    }

    /// Turns the wheel towards `now` and removes what has expired: at most `steps` of work. Returns
    /// how many connections went, and whether it stopped short of `now`.
    pub fn expire(&mut self, now: Tick, mut steps: u32, books: Books<'_>) -> (u32, bool) {
        let mut gone = 0;
        while self.expire_one(now, &mut steps, books) {
            gone += 1;
        }
        (gone, steps == 0)
    }

    /// Turns the wheel towards `now` until one connection has expired, and removes that.
    pub(super) fn expire_one(&mut self, now: Tick, steps: &mut u32, books: Books<'_>) -> bool {
        while let Some(row) = self.wheel.pop(self.cold, now, steps) {
            let state = self.rows[row as usize].hot().state();
            if now.reached(deadline(state)) {
                let why = Ended::by_itself(state);
                self.forget(row, why, now, books);
                return true;
            }
            self.arm(row);
        }
        false
    }

    /// Whether the row holds a connection.
    pub fn is_live(&self, row: EntryIdx) -> bool {
        self.rows.get(row.index()).is_some_and(|row| row.hot().state().flags & flags::LIVE != 0)
    }

    /// The counters and windows of a row.
    pub fn warm(&self, row: EntryIdx) -> &Warm {
        self.rows[row.index()].warm()
    }

    /// Rows that were ever used: a dump walks `0..` this.
    pub fn rows_used(&self) -> u32 {
        self.fresh
    }

    /// Removes from the index and puts the row on the free list. The row is not armed.
    fn forget(&mut self, row: u32, why: Ended, now: Tick, books: Books<'_>) {
        let hot = *self.rows[row as usize].hot();
        debug_assert!(hot.state().flags & flags::LIVE != 0);
        if self.changes.is_open() {
            self.note(Happened::Destroyed(why), EntryIdx(row), now);
        }
        for direction in [Direction::Original, Direction::Reply] {
            let hash = self.hash(hot.tuple(direction));
            self.unindex(hash, row << 1 | direction as u32);
        }
        self.live -= 1;
        self.own -= u32::from(is_own(hot.state().flags));
        if books.is_kept() {
            let [original, reply] =
                [Direction::Original, Direction::Reply].map(|d| (*hot.tuple(d)).into());
            books.close(EntryIdx(row), &original, &reply);
        }
        self.evictable.remove(row, hot.state().flags);
        if hot.state().flags & flags::HELPED != 0 {
            self.note_departed(row);
        }
        if self.mappings.is_some() {
            self.release(row, &hot);
        }
        self.rows[row as usize].both().0.state_mut().flags = 0;
        self.cold[row as usize].wheel_next = self.free;
        self.free = row;
    }

    /// From now on connections of this table may hold these mappings, always the same: whatever removes one lets go of them.
    pub fn hold_mappings(&mut self, mappings: &Arc<Mappings>) {
        self.mappings.get_or_insert_with(|| Arc::clone(mappings));
    }

    /// Whether connections of this table ever held any.
    pub fn holds_mappings(&self) -> bool {
        self.mappings.is_some()
    }

    /// Lets go of the mappings that a connection holds.
    #[cold]
    fn release(&mut self, row: u32, hot: &H) {
        let held = self.rows[row as usize].warm().peer_flags;
        let external = [Direction::Reply, Direction::Original];
        for (held, external) in held.into_iter().zip(external) {
            let tuple = hot.tuple(external);
            if held & peer_flags::MAPPED != 0
                && let (Some(mappings), Tuple::V4(tuple)) = (&self.mappings, (*tuple).into())
                && mapping::maps(tuple.protocol)
            {
                let external = SocketAddrV4::new(tuple.dst.into(), tuple.dst_id);
                let last_seen = Tick(hot.state().last_seen);
                mappings.release(tuple.protocol, external, last_seen, Refused::No);
            }
        }
    }

    #[cold]
    fn note_departed(&mut self, row: u32) {
        let noted = (EntryIdx(row), self.cold[row as usize].incarnation);
        self.departed.more |= self.departed.rows.try_push(noted).is_err();
    }

    /// Whether [`take_departed`](Self::take_departed) has something to say.
    #[inline]
    pub fn has_departed(&self) -> bool {
        !self.departed.rows.is_empty()
    }

    /// The rows with a helper that went since the last call.
    pub fn take_departed(&mut self) -> Departed {
        core::mem::take(&mut self.departed)
    }

    /// Whether somebody follows what happens to connections.
    #[inline]
    pub fn is_followed(&self) -> bool {
        self.changes.is_open()
    }

    /// Begins or ends to note what happens to connections.
    pub fn follow(&mut self, follow: bool) {
        self.changes.open(follow);
    }

    /// Whether [`take_change`](Self::take_change) has nothing to say.
    pub fn has_no_changes(&self) -> bool {
        self.changes.is_empty()
    }

    /// How many changes may be noted before somebody takes some, so that none is missed; no bound if nobody follows.
    pub fn spare_changes(&self) -> usize {
        if self.changes.is_open() { self.changes.spare() } else { usize::MAX }
    }

    /// Notes that a live connection changed, unless a change stands for it that waits. Only if it
    /// [is followed](Self::is_followed).
    #[cold]
    pub fn note_update(&mut self, row: EntryIdx, now: Tick) {
        if self.hot(row).state().flags & flags::CHANGED != 0 {
            return;
        }
        let folds = self.changes.is_pressed();
        let noted =
            self.changes.note(&Change { folds, ..self.change(Happened::Updated, row, now) });
        if noted && folds {
            self.rows[row.index()].both().0.state_mut().flags |= flags::CHANGED;
        }
    }

    #[cold]
    fn note(&mut self, happened: Happened, row: EntryIdx, now: Tick) {
        self.changes.note(&self.change(happened, row, now));
    }

    fn change(&self, happened: Happened, row: EntryIdx, at: Tick) -> Change<H> {
        let (hot, warm, cold) = (*self.hot(row), *self.warm(row), *self.cold(row));
        Change { happened, at, folds: false, row, hot, warm, cold }
    }

    /// The oldest change that was not taken.
    pub fn take_change(&mut self, now: Tick) -> Option<Change<H>> {
        let change = self.changes.take()?;
        let Change { happened, folds, row, .. } = change;
        let is_same = self.is_live(row) && self.cold(row).incarnation == change.cold.incarnation;
        if !folds || !is_same {
            return Some(change);
        }
        self.rows[row.index()].both().0.state_mut().flags &= !flags::CHANGED;
        Some(self.change(happened, row, now))
    }

    fn free_row(&self) -> Option<u32> {
        if self.free != wheel::NONE {
            return Some(self.free);
        }
        (self.fresh < self.capacity()).then_some(self.fresh)
    }

    fn take_row(&mut self, row: u32) {
        if row == self.free {
            self.free = self.cold[row as usize].wheel_next;
        } else {
            debug_assert_eq!(row, self.fresh);
            self.fresh += 1;
        }
    }

    /// Puts `coded` under `hash` into one of its two buckets; `false` if both are full.
    fn index(&mut self, hash: TupleHash, coded: u32) -> bool {
        let (first, second) = (self.first(hash), self.second(hash));
        let in_first = self.buckets[first].len();
        let spill = in_first >= COMFORTABLE && self.buckets[second].len() < in_first;
        let bucket = &mut self.buckets[if spill { second } else { first }];
        let free = bucket.matches(0);
        if free == 0 {
            return false;
        }
        let place = free.trailing_zeros() as usize;
        bucket.tags[place] = hash.tag();
        bucket.rows[place] = coded;
        self.buckets[first].spilled += u32::from(spill);
        true
    }

    /// Takes `coded` out of the bucket it is in.
    fn unindex(&mut self, hash: TupleHash, coded: u32) {
        let (first, second) = (self.first(hash), self.second(hash));
        for (index, spilled) in [(first, 0), (second, 1)] {
            let bucket = &mut self.buckets[index];
            let place = (0..WAYS).find(|&p| bucket.tags[p] != 0 && bucket.rows[p] == coded);
            if let Some(place) = place {
                bucket.tags[place] = 0;
                self.buckets[first].spilled -= spilled;
                return;
            }
        }
        debug_assert!(false, "a live row is in the index under both tuples");
    }
}

/// When the row goes unless it is used.
#[inline]
pub fn deadline(state: &super::entry::HotState) -> Tick {
    Tick(state.last_seen).plus_ms(state.timeout_ms)
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
