//! How many live connections each counted address has: one hash table of counters for all workers.
//!
//! A key chooses a shard; each shard has a lock, under which a handful of words are read or written: whoever holds it
//! waits for nothing, takes a bounded number of steps and cannot panic, as with
//! [expectations](crate::helper::expect). Within a shard a key lies at or behind the place that its hash names, with no
//! free place between (linear probing); what is taken out leaves no gap.
//!
//! All is made of atomic words on memory that is zero at first, so that a table for millions costs nothing until addresses are
//! counted. Bounded: a full shard refuses. Keyed, because addresses are the attacker's to choose.

use alloc::vec::Vec;
use core::hint::spin_loop;
use core::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use zerocopy::FromZeros;

use crate::conntrack::siphash::SipKey;

/// Places in a shard.
const PLACES: usize = 64;
/// Words of a place: the address, then the tag in the high and the count in the low half of a word that is zero if
/// the place is free.
const WORDS: usize = 3;
/// Words of a shard: the lock with what fills its line, then the places.
const SHARD: usize = 8 + PLACES * WORDS;

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Key {
    /// Masked; IPv4 in the low 32 bits.
    pub(super) address: u128,
    /// For which limit of which family: whatever the caller likes.
    pub(super) tag: u32,
}

/// The table.
#[derive(Debug)]
pub(super) struct Counts {
    key: SipKey,
    words: Vec<AtomicU64>,
}

impl Counts {
    /// An empty table with room for about twice as many keys as `keys`. Hardly any memory is touched.
    pub(super) fn new(keys: usize, key: SipKey) -> Self {
        let shards = keys.div_ceil(PLACES / 2).max(1);
        let words = AtomicU64::new_vec_zeroed(shards * SHARD);
        Self { key, words: words.unwrap_or_default() }
    }

    /// Counts one more under `key`; how many there are with it. `None` if there is no place for it.
    pub(super) fn add(&self, key: Key) -> Option<u32> {
        self.locked(key, |shard, home| {
            let place = shard.find(home, key).or_else(|| shard.free(home))?;
            let count = shard.count(place).saturating_add(1);
            shard.write(place, key, count);
            Some(count)
        })
        .flatten()
    }

    /// Counts one less under `key`, which must have been counted.
    pub(super) fn remove(&self, key: Key) {
        let found = self.locked(key, |shard, home| {
            let place = shard.find(home, key)?;
            match shard.count(place) - 1 {
                0 => shard.close_gap(place, |key| self.home(key)),
                count => shard.write(place, key, count),
            }
            Some(())
        });
        debug_assert!(found.flatten().is_some(), "what ends was counted");
    }

    /// How many are counted under `key`.
    pub(super) fn get(&self, key: Key) -> u32 {
        let found =
            self.locked(key, |shard, home| shard.find(home, key).map(|place| shard.count(place)));
        found.flatten().unwrap_or(0)
    }

    fn hash(&self, Key { address, tag }: Key) -> u64 {
        self.key.hash_words(&[(address >> 64) as u64, address as u64, u64::from(tag)])
    }

    /// The place of its shard that a key's hash names.
    fn home(&self, key: Key) -> usize {
        self.hash(key) as usize % PLACES
    }

    /// Does something to a key's shard that nobody else does anything to meanwhile. It must be short, and not panic.
    fn locked<R>(&self, key: Key, act: impl FnOnce(Shard<'_>, usize) -> R) -> Option<R> {
        let (shards, hash) = (self.words.len() / SHARD, self.hash(key));
        let number = (((hash >> 32) * shards as u64) >> 32) as usize;
        let (lock, places) = self.words.get(number * SHARD..)?.get(..SHARD)?.split_first()?;
        while lock.compare_exchange_weak(0, 1, Acquire, Relaxed).is_err() {
            spin_loop();
        }
        let result = act(Shard(places), hash as usize % PLACES);
        lock.store(0, Release);
        Some(result)
    }
}

/// The places of a shard that is locked.
#[derive(Clone, Copy)]
struct Shard<'a>(&'a [AtomicU64]);

impl Shard<'_> {
    fn words(&self, place: usize) -> Option<&[AtomicU64; WORDS]> {
        let start = SHARD - 1 - (PLACES - place) * WORDS;
        self.0.get(start..)?.first_chunk()
    }

    /// The key of a place and its count; `None` if it is free.
    fn read(&self, place: usize) -> Option<(Key, u32)> {
        let [high, low, state] = self.words(place)?;
        let state = state.load(Relaxed);
        let address = u128::from(high.load(Relaxed)) << 64 | u128::from(low.load(Relaxed));
        let key = Key { address, tag: (state >> 32) as u32 };
        (state as u32 != 0).then_some((key, state as u32))
    }

    fn count(&self, place: usize) -> u32 {
        self.read(place).map_or(0, |(_, count)| count)
    }

    /// Writes a place; with a count of 0 it becomes free.
    fn write(&self, place: usize, key: Key, count: u32) {
        let Some([high, low, state]) = self.words(place) else { return };
        high.store((key.address >> 64) as u64, Relaxed);
        low.store(key.address as u64, Relaxed);
        state.store(u64::from(key.tag) << 32 | u64::from(count), Relaxed);
    }

    /// The places from `home` on, each once.
    fn from(home: usize) -> impl Iterator<Item = usize> {
        (0..PLACES).map(move |step| (home + step) % PLACES)
    }

    fn find(&self, home: usize, key: Key) -> Option<usize> {
        Self::from(home)
            .map_while(|place| self.read(place).map(|(held, _)| (place, held)))
            .find(|(_, held)| *held == key)
            .map(|(place, _)| place)
    }

    fn free(&self, home: usize) -> Option<usize> {
        Self::from(home).find(|&place| self.read(place).is_none())
    }

    /// Frees a place and moves what lies behind it, so that every key can still be found from its home.
    fn close_gap(&self, freed: usize, home: impl Fn(Key) -> usize) {
        let mut gap = freed;
        for place in Self::from(freed).skip(1) {
            let Some((key, count)) = self.read(place) else { break };
            // It may move into the gap unless its home lies behind that.
            let distance = |from: usize, to: usize| (to + PLACES - from) % PLACES;
            if distance(home(key), place) >= distance(gap, place) {
                self.write(gap, key, count);
                gap = place;
            }
        }
        self.write(gap, Key { address: 0, tag: 0 }, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn key(number: u32) -> Key {
        Key { address: u128::from(number) << 90 | 7, tag: number % 3 }
    }

    #[test]
    fn a_full_shard_refuses_and_takes_again_what_is_freed() {
        let counts = Counts::new(1, SipKey([1, 2]));
        for number in 0..PLACES as u32 {
            assert_eq!(counts.add(key(number)), Some(1));
        }
        assert_eq!(counts.add(key(5)), Some(2), "what has a place can be counted");
        assert_eq!((counts.add(key(1000)), counts.get(key(1000))), (None, 0));
        counts.remove(key(9));
        assert_eq!((counts.add(key(1000)), counts.get(key(9))), (Some(1), 0));
    }

    #[test]
    fn nothing_is_lost_between_workers() {
        let counts = Counts::new(100, SipKey([1, 2]));
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let counts = &counts;
                scope.spawn(move || {
                    for turn in 0..5_000 {
                        assert!(counts.add(key(turn % 40)).is_some());
                        if (turn + worker) % 2 == 0 {
                            counts.remove(key(turn % 40));
                        }
                    }
                });
            }
        });
        let sum: u32 = (0..40).map(|number| counts.get(key(number))).sum();
        assert_eq!(sum, 10_000);
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(
            room in 1usize..70,
            seed: [u64; 2],
            ops in proptest::collection::vec((any::<bool>(), 0u32..100), 1..400),
        ) {
            let counts = Counts::new(room, SipKey(seed));
            let mut model = HashMap::<u32, u32>::new();
            for (add, number) in ops {
                let held = model.get(&number).copied().unwrap_or(0);
                if !add && held > 0 {
                    counts.remove(key(number));
                    model.insert(number, held - 1);
                } else if let Some(count) = counts.add(key(number)) {
                    prop_assert_eq!(count, held + 1);
                    model.insert(number, count);
                } else {
                    prop_assert_eq!(held, 0, "only a new key may find no place");
                }
                for (&number, &count) in &model {
                    prop_assert_eq!(counts.get(key(number)), count);
                }
            }
        }
    }
}
