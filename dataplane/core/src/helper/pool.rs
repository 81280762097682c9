//! What a worker remembers of the connections that have a helper: a side pool, found by row.
//!
//! A [`Record`] lives from the connection's first packet to its end. It holds, for each direction, how far the text was
//! read and what was changed in it, and the expectations made. The table notes which rows with a helper go
//! ([`Table::take_departed`](crate::conntrack::table::Table::take_departed)); their records go before the next
//! packet is looked at, and their expectations with them. When the pool is full, further connections get no helper.
//!
//! All memory is handed in. Owner: one worker.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::adjust::Adjustment;
use super::calls::Calls;
use super::expect::{Expectations, Handle};
use super::{Kind, ftp};
use crate::units::EntryIdx;

/// Most expectations of one master at a time.
pub const EXPECTED_MAX: usize = 8;

/// One direction of a connection with a helper.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Side {
    /// What was changed.
    pub adjustment: Adjustment,
    /// The first sequence number that was not read yet, as the sender counts.
    pub next: u32,
    /// See [`side_flags`].
    pub flags: u16,
    /// Segments in a row that were dropped because they ran ahead.
    pub ahead: u16,
}

/// Flags of a [`Side`].
pub mod side_flags {
    /// `next` means something.
    pub const KNOWN: u16 = 1 << 0;
    /// What was read last is not the end of a line.
    pub const MID_LINE: u16 = 1 << 1;
}

/// A connection with a helper.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Record {
    /// By direction.
    pub sides: [Side; 2],
    /// Expectations made; 0 is none.
    expected: [u64; EXPECTED_MAX],
    /// Whose it is ([`Key`]); 0 if it is free.
    key: u32,
    /// The row's incarnation then.
    incarnation: u32,
    /// The next free one, plus one.
    next_free: u32,
    /// FTP: see [`ftp::Talk::within`].
    ftp_within: u16,
    /// FTP: see [`ftp::Talk::asked`].
    ftp_asked: u8,
    /// The helper, as [`Kind`]; 0 once it has given up.
    kind: u8,
    /// Which of `expected` goes next.
    turn: u32,
    reserved: u32,
    /// SIP: its calls.
    pub calls: Calls,
}

impl Record {
    /// The helper; `None` once it has given up.
    pub fn kind(&self) -> Option<Kind> {
        Kind::from_number(self.kind)
    }

    /// The helper gives up. What was changed stays changed.
    pub fn give_up(&mut self) {
        self.kind = 0;
    }

    /// FTP's memory between lines.
    pub fn talk(&self) -> ftp::Talk {
        ftp::Talk { asked: self.ftp_asked, within: self.ftp_within }
    }

    /// Keeps FTP's memory between lines.
    pub fn set_talk(&mut self, talk: ftp::Talk) {
        (self.ftp_asked, self.ftp_within) = (talk.asked, talk.within);
    }

    /// Keeps an expectation of `kind`. If there are as many as there may be, the oldest goes: call this before the new one
    /// is made, so that there is room (C123).
    pub fn make_room(&mut self, kind: Kind, expectations: &Expectations) {
        let place = &mut self.expected[self.turn as usize % kind.expected_max()];
        expectations.take(Handle(core::mem::take(place)));
    }

    /// Keeps an expectation in the room made.
    pub fn keep(&mut self, kind: Kind, Handle(handle): Handle) {
        self.expected[self.turn as usize % kind.expected_max()] = handle;
        self.turn = self.turn.wrapping_add(1);
    }

    /// Takes all its expectations back.
    pub fn release(&mut self, expectations: &Expectations) {
        for handle in &mut self.expected {
            expectations.take(Handle(core::mem::take(handle)));
        }
        self.calls.release(expectations);
    }
}

const _: () = assert!(size_of::<Record>() <= 1400);

/// A row of one of the two tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key(u32);

impl Key {
    /// The row's.
    pub const fn new(v6: bool, row: EntryIdx) -> Self {
        Self((row.0 << 1 | v6 as u32) + 1) // rows are below 2^30
    }

    /// Whether it is of the IPv6 table, and its row.
    const fn row(self) -> (bool, EntryIdx) {
        let coded = self.0.wrapping_sub(1);
        (coded & 1 != 0, EntryIdx(coded >> 1))
    }
}

/// How many records a worker has room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capacity(u32);

impl Capacity {
    /// Enough for one connection in 32, within reason.
    pub fn of_connections(connections: u32) -> Self {
        Self((connections / 32).clamp(16, 4096))
    }

    const fn places(self) -> usize {
        // Half empty, so that probing ends soon.
        (self.0 as usize * 2).next_power_of_two()
    }

    /// Bytes of memory it takes.
    pub const fn bytes(self) -> usize {
        let records = self.0 as usize * size_of::<Record>();
        (records + self.places() * size_of::<u32>()).next_multiple_of(64)
    }
}

/// The pool.
pub struct Pool<'m> {
    records: &'m mut [Record],
    /// Record's number plus one by a hash of its key, linearly probed; 0 is empty.
    places: &'m mut [u32],
    /// First free record, plus one.
    free: u32,
    /// Records from here on were never used.
    fresh: u32,
    live: u32,
}

impl<'m> Pool<'m> {
    /// An empty pool on `memory`, which is zeroed, aligned to 64 and of `capacity.bytes()`.
    ///
    /// # Panics
    /// If the memory is too small or not aligned.
    pub fn new(capacity: Capacity, memory: &'m mut [u8]) -> Self {
        let (records, memory) = <[Record]>::mut_from_prefix_with_elems(memory, capacity.0 as usize)
            .expect("memory is sized and aligned by the capacity");
        let (places, _) = <[u32]>::mut_from_prefix_with_elems(memory, capacity.places())
            .expect("memory is sized by the capacity");
        Self { records, places, free: 0, fresh: 0, live: 0 }
    }

    /// Records in use.
    pub fn len(&self) -> u32 {
        self.live
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Where probing for a key begins.
    fn home(&self, Key(key): Key) -> usize {
        let mixed = u64::from(key).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        mixed as usize & (self.places.len() - 1)
    }

    /// The place of a key, if it has one.
    fn place(&self, key: Key) -> Option<usize> {
        let mask = self.places.len() - 1;
        let mut place = self.home(key);
        loop {
            let number = self.places[place].checked_sub(1)? as usize;
            if self.records[number].key == key.0 {
                return Some(place);
            }
            place = (place + 1) & mask;
        }
    }

    /// The record of a row that had this incarnation when it got it.
    pub fn get(&mut self, key: Key, incarnation: u32) -> Option<&mut Record> {
        let place = self.place(key)?;
        let number = self.places[place].checked_sub(1)?;
        let record = &mut self.records[number as usize];
        (record.incarnation == incarnation).then_some(record)
    }

    /// The same, to be looked at.
    pub fn peek(&self, key: Key, incarnation: u32) -> Option<&Record> {
        let number = self.places[self.place(key)?].checked_sub(1)?;
        let record = &self.records[number as usize];
        (record.incarnation == incarnation).then_some(record)
    }

    /// A new record for a row; `None` if there is no room. One of an earlier incarnation goes.
    pub fn insert(
        &mut self,
        key: Key,
        incarnation: u32,
        kind: Kind,
        expectations: &Expectations,
    ) -> Option<&mut Record> {
        if let Some(place) = self.place(key) {
            self.remove_at(place, expectations);
        }
        let number = match self.free.checked_sub(1) {
            Some(number) => {
                self.free = self.records[number as usize].next_free;
                number
            }
            None if (self.fresh as usize) < self.records.len() => {
                self.fresh += 1;
                self.fresh - 1
            }
            None => return None,
        };
        let mask = self.places.len() - 1;
        let mut place = self.home(key);
        while self.places[place] != 0 {
            place = (place + 1) & mask;
        }
        self.places[place] = number + 1;
        self.live += 1;
        let record = &mut self.records[number as usize];
        *record = zerocopy::FromZeros::new_zeroed();
        (record.key, record.incarnation, record.kind) = (key.0, incarnation, kind as u8);
        Some(record)
    }

    /// Removes the record of a row that is gone, and takes its expectations back.
    pub fn remove(&mut self, key: Key, incarnation: u32, expectations: &Expectations) {
        if self.get(key, incarnation).is_some()
            && let Some(place) = self.place(key)
        {
            self.remove_at(place, expectations);
        }
    }

    /// Removes all records of rows of one table of which `lives` does not say, by row and incarnation, that they live.
    pub fn retain(
        &mut self,
        v6: bool,
        expectations: &Expectations,
        lives: impl Fn(EntryIdx, u32) -> bool,
    ) {
        for number in 0..self.fresh as usize {
            let Record { key, incarnation, .. } = self.records[number];
            let (is_v6, row) = Key(key).row();
            if key != 0 && is_v6 == v6 && !lives(row, incarnation) {
                self.remove(Key(key), incarnation, expectations);
            }
        }
    }

    /// Empties a place, and moves up what was only behind it because it was taken (Knuth, vol. 3, §6.4, R).
    fn remove_at(&mut self, place: usize, expectations: &Expectations) {
        let Some(number) = self.places[place].checked_sub(1) else { return };
        let record = &mut self.records[number as usize];
        record.release(expectations);
        (record.key, record.next_free) = (0, self.free);
        self.free = number + 1;
        self.live -= 1;

        let mask = self.places.len() - 1;
        let mut hole = place;
        let mut next = (hole + 1) & mask;
        self.places[hole] = 0;
        while let Some(number) = self.places[next].checked_sub(1) {
            let home = self.home(Key(self.records[number as usize].key));
            // How far it is from its home, and how far the hole is.
            let (from_home, from_hole) = (next.wrapping_sub(home), next.wrapping_sub(hole));
            if from_home & mask >= from_hole & mask {
                self.places[hole] = core::mem::take(&mut self.places[next]);
                hole = next;
            }
            next = (next + 1) & mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::collections::HashMap;

    use super::*;

    fn memory(capacity: Capacity) -> &'static mut [u8] {
        let words = std::vec![0u64; capacity.bytes() / 8].leak();
        zerocopy::IntoBytes::as_mut_bytes(words)
    }

    proptest! {
        #[test]
        fn it_holds_what_a_map_holds(
            steps in prop::collection::vec((0u32..24, any::<bool>(), 0u8..3), 0..200),
        ) {
            let capacity = Capacity::of_connections(1);
            let mut pool = Pool::new(capacity, memory(capacity));
            let expectations = Expectations::new();
            let mut model: HashMap<(bool, u32), u32> = HashMap::new();
            for (step, (row, v6, what)) in (1..).zip(steps) {
                let key = Key::new(v6, EntryIdx(row));
                let before = model.get(&(v6, row)).copied();
                match what {
                    0 => {
                        let full = model.len() == 16 && before.is_none();
                        let made = pool.insert(key, step, Kind::Ftp, &expectations).is_some();
                        prop_assert_eq!(made, !full);
                        if made {
                            model.insert((v6, row), step);
                        }
                    }
                    1 => {
                        pool.remove(key, step, &expectations); // another incarnation
                        pool.remove(key, before.unwrap_or(0), &expectations);
                        model.remove(&(v6, row));
                    }
                    _ => {
                        let keep = |is_v6: bool, row: u32| is_v6 != v6 || row.is_multiple_of(2);
                        pool.retain(v6, &expectations, |row, _| row.0.is_multiple_of(2));
                        model.retain(|&(is_v6, row), _| keep(is_v6, row));
                    }
                }
                prop_assert_eq!(pool.len() as usize, model.len());
                for row in 0..24 {
                    for v6 in [false, true] {
                        let key = Key::new(v6, EntryIdx(row));
                        let held = model.get(&(v6, row));
                        let found = held.is_some_and(|&i| pool.get(key, i).is_some());
                        prop_assert_eq!(found, held.is_some());
                        prop_assert!(pool.get(key, u32::MAX).is_none());
                    }
                }
            }
        }
    }
}
