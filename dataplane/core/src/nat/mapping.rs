//! Endpoint-independent mappings: an inside endpoint that appears as one external endpoint to everybody (RFC 4787 REQ-1,
//! RFC 5382 REQ-1), and, if its filtering is endpoint-independent as well, may be reached there by everybody (REQ-8, REQ-3).
//!
//! Only rules and interfaces that ask for it make mappings; all other translation is the reply tuple alone. A mapping begins
//! with the first connection that is let out by it. Connections hold it, in both directions; after the last of them it
//! stays for a while, counted from that one's last packet, so that what an application told its peers stays true (REQ-5, REQ-6).
//!
//! The table is shared by the workers, as [expectations](crate::helper::expect) are: words under a lock, asked about first
//! packets only. It has one shard for each worker, since the inside port and the external port of a mapping lie in the
//! blocks of one worker, which owns all it sends and is sent. Another worker comes to a shard only with packets
//! between two such hosts (hairpin). The external endpoint of a mapping is nobody else's, whatever the server: no other
//! connection gets it while the mapping lives.
//!
//! Bounded: a shard has a fixed number of places, and one that is full refuses. IPv4; TCP and UDP.

use alloc::boxed::Box;
use core::hint::spin_loop;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use arrayvec::ArrayVec;
use zerocopy::{FromBytes, FromZeros, KnownLayout};

use crate::conntrack::siphash::SipKey;
use crate::conntrack::tuple::protocol;
use crate::rules::Independence;
use crate::steering::block_of;
use crate::time::Tick;

/// Most mappings shown by one call of [`Mappings::show`].
pub const SHOWN_MAX: usize = 64;
/// Most places looked at by one call of [`Mappings::show`].
const LOOKED_AT_MAX: u32 = 1024;

/// Whether there are mappings for this protocol.
#[inline]
pub const fn maps(protocol: u8) -> bool {
    matches!(protocol, protocol::TCP | protocol::UDP)
}

/// A mapping, as it was at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// IP protocol number: TCP or UDP.
    pub protocol: u8,
    /// The endpoint of the host inside.
    pub inside: SocketAddrV4,
    /// What it appears as.
    pub external: SocketAddrV4,
    /// Who gets in by it.
    pub independence: Independence,
    /// Connections that hold it.
    pub connections: u32,
    /// Until when it stays without any.
    pub deadline: Tick,
}

/// How far a listing got. The default is the beginning.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cursor {
    worker: u8,
    place: u32,
}

/// A mapping that a first packet asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// IP protocol number: TCP or UDP.
    pub protocol: u8,
    /// The endpoint of the host inside.
    pub inside: SocketAddrV4,
    /// What it is to appear as, if it has no mapping to that address yet.
    pub external: SocketAddrV4,
    /// Who is to get in by it.
    pub independence: Independence,
    /// How long it stays after the last packet of its connections, milliseconds.
    pub linger_ms: u32,
}

/// Why there is no mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HoldError {
    /// The external endpoint belongs to another mapping.
    Taken,
    /// There is no place.
    Full,
}

/// One place: words, so that whoever holds the lock needs nothing but them.
#[derive(Debug, Default, FromBytes, KnownLayout)]
#[repr(C)]
struct Place {
    /// Inside address, port, protocol, flags.
    inside: AtomicU64,
    /// External address, port.
    external: AtomicU64,
    /// Connections, deadline.
    life: AtomicU64,
    /// How long it stays without connections, milliseconds.
    linger_ms: AtomicU32,
    /// The next place with the same hash of the inside endpoint, plus one; of a free one, the next free one.
    next_inside: AtomicU32,
    /// The same for the external endpoint.
    next_external: AtomicU32,
    reserved: AtomicU32,
}

const LIVE: u64 = 1;
const OPEN: u64 = 2;

#[derive(Debug, Default)]
struct Shard {
    locked: AtomicBool,
    /// Places in use.
    live: AtomicU32,
    /// Places from here on were never used.
    fresh: AtomicU32,
    /// The first free place below that, plus one.
    free: AtomicU32,
    /// Where the next tidying begins.
    hand: AtomicU32,
    /// By hash of the inside endpoint, of the external one: the first place, plus one.
    heads: [Box<[AtomicU32]>; 2],
    places: Box<[Place]>,
}

/// All mappings. The default has no places.
#[derive(Debug, Default)]
pub struct Mappings {
    key: SipKey,
    shards: Box<[Shard]>,
}

/// Which of an endpoint's two chains.
#[derive(Clone, Copy)]
enum Chain {
    Inside,
    External,
}

impl Mappings {
    /// An empty table for `workers` with `capacity` places each; `key` keys its hash.
    pub fn new(workers: u8, capacity: u32, key: SipKey) -> Self {
        let (places, heads) = (capacity as usize, capacity.next_power_of_two() as usize);
        let shard = |_| Shard {
            heads: [zeroed(heads), zeroed(heads)],
            places: zeroed(places),
            ..Shard::default()
        };
        Self { key, shards: (0..workers).map(shard).collect() }
    }

    /// How many there are, those that are over and not tidied yet included.
    pub fn len(&self) -> u32 {
        self.shards.iter().map(|shard| shard.live.load(Relaxed)).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The mapping of an inside endpoint to this external address.
    pub fn of_inside(
        &self,
        protocol: u8,
        inside: SocketAddrV4,
        address: Ipv4Addr,
        now: Tick,
    ) -> Option<Mapping> {
        self.locked(inside.port(), |shard| {
            let place = self.find_inside(shard, protocol, inside, address)?;
            self.read_live(shard, place, now)
        })?
    }

    /// Any mapping of an inside endpoint, whatever its external address.
    pub fn any_of_inside(&self, protocol: u8, inside: SocketAddrV4, now: Tick) -> Option<Mapping> {
        self.locked(inside.port(), |shard| {
            let key = inside_word(inside, protocol);
            // Each that is over is taken out of the chain.
            loop {
                let place = self.find(shard, Chain::Inside, key, |p| p.inside() == key)?;
                if let Some(mapping) = self.read_live(shard, place, now) {
                    return Some(mapping);
                }
            }
        })?
    }

    /// The mapping that an external endpoint belongs to.
    pub fn of_external(&self, protocol: u8, external: SocketAddrV4, now: Tick) -> Option<Mapping> {
        self.locked(external.port(), |shard| {
            let place = self.find_external(shard, protocol, external)?;
            self.read_live(shard, place, now)
        })?
    }

    /// Has one connection more hold the mapping of an inside endpoint, which is made if there is none. Returns the
    /// mapping: its external port may be another one than wanted, if there was one.
    ///
    /// # Errors
    /// See [`HoldError`].
    pub fn hold(&self, wanted: &Wanted, now: Tick) -> Result<Mapping, HoldError> {
        let Wanted { protocol, inside, external, independence, linger_ms } = *wanted;
        debug_assert!(self.is_of_one_shard(inside.port(), external.port()));
        let held = self.locked(inside.port(), |shard| {
            let known = self.find_inside(shard, protocol, inside, *external.ip());
            let known = known.filter(|&place| self.read_live(shard, place, now).is_some());
            let place = match known {
                Some(place) => place,
                None => {
                    let other = self.find_external(shard, protocol, external);
                    if other.is_some_and(|other| self.read_live(shard, other, now).is_some()) {
                        return Err(HoldError::Taken);
                    }
                    self.add(shard, inside_word(inside, protocol), external_word(external))?
                }
            };
            let at = &shard.places[place];
            let (connections, deadline) = at.life();
            // Held, it needs none. If what holds a fresh one is refused it goes; one that was there stays as long as before.
            let deadline = if known.is_some() { deadline } else { now };
            at.set_life(connections.saturating_add(1), deadline);
            at.linger_ms.store(linger_ms, Relaxed);
            // RFC 4787 REQ-11: an open one is not shut by whom else the host talks to.
            if known.is_none() || independence == Independence::Filtering {
                at.set_independence(independence);
            }
            Ok(at.read())
        });
        held.unwrap_or(Err(HoldError::Full))
    }

    /// One connection more, which came in by it, holds a mapping. `false` if it is gone.
    pub fn hold_external(&self, protocol: u8, external: SocketAddrV4, now: Tick) -> bool {
        let held = self.locked(external.port(), |shard| {
            let place = self.find_external(shard, protocol, external)?;
            self.read_live(shard, place, now)?;
            let (connections, deadline) = shard.places[place].life();
            shard.places[place].set_life(connections.saturating_add(1), deadline);
            Some(())
        });
        held.flatten().is_some()
    }

    /// A connection that held the mapping of an external endpoint is gone; its last packet was then. If it was `refused`
    /// before it began, now, it leaves no mapping behind that was not there before.
    pub fn release(&self, protocol: u8, external: SocketAddrV4, last_seen: Tick, refused: Refused) {
        self.locked(external.port(), |shard| {
            let Some(place) = self.find_external(shard, protocol, external) else { return };
            let at = &shard.places[place];
            let (connections, deadline) = at.life();
            debug_assert!(connections > 0, "who releases a mapping held it");
            let connections = connections.saturating_sub(1);
            match refused {
                Refused::Yes if connections == 0 && last_seen.reached(deadline) => {
                    self.remove(shard, place);
                }
                Refused::Yes => at.set_life(connections, deadline),
                Refused::No => {
                    let later = last_seen.plus_ms(at.linger_ms.load(Relaxed));
                    let deadline = if deadline.since(later) > 0 { deadline } else { later };
                    at.set_life(connections, deadline);
                }
            }
        });
    }

    /// Removes what is over among at most `steps` places of a worker's shard. Called again and again, it comes round.
    pub fn tidy(&self, worker: usize, steps: u32, now: Tick) {
        let Some(shard) = self.shards.get(worker) else { return };
        if shard.live.load(Relaxed) == 0 {
            return;
        }
        shard.locked(|| {
            let fresh = shard.fresh.load(Relaxed);
            let mut hand = shard.hand.load(Relaxed);
            for _ in 0..steps.min(fresh) {
                hand = if hand + 1 < fresh { hand + 1 } else { 0 };
                let at = &shard.places[hand as usize];
                if !at.is_live() || self.read_live(shard, hand as usize, now).is_none() {
                    continue;
                }
                // A deadline must not be so long past that ticks come round.
                let (connections, deadline) = at.life();
                if connections > 0 && now.reached(deadline) {
                    at.set_life(connections, now);
                }
            }
            shard.hand.store(hand, Relaxed);
        });
    }

    /// Shows what some of the places from `from` on hold, at most [`SHOWN_MAX`] mappings. Returns where to go on, `None` at
    /// the end.
    pub fn show(&self, from: Cursor, now: Tick, take: impl FnMut(Mapping)) -> Option<Cursor> {
        let Cursor { worker, place: from } = from;
        let shard = self.shards.get(usize::from(worker))?;
        let fresh = shard.fresh.load(Relaxed);
        let mut end = from;
        let last = from.saturating_add(LOOKED_AT_MAX).min(fresh);
        // Copied out first: `take` is not ours.
        let mut shown = ArrayVec::<Mapping, SHOWN_MAX>::new();
        shard.locked(|| {
            while end < last && !shown.is_full() {
                let at = &shard.places[end as usize];
                end += 1;
                let live = at.is_live().then(|| at.read());
                shown.extend(live.filter(|mapping| !mapping.is_over(now)));
            }
        });
        shown.into_iter().for_each(take);
        if end < fresh {
            return Some(Cursor { worker, place: end });
        }
        let worker = worker + 1;
        (usize::from(worker) < self.shards.len()).then_some(Cursor { worker, place: 0 })
    }

    /// How many workers it is for.
    pub fn workers(&self) -> usize {
        self.shards.len()
    }

    fn is_of_one_shard(&self, inside: u16, external: u16) -> bool {
        let workers = self.shards.len() as u8; // there are few
        workers == 0 || block_of(inside, workers) == block_of(external, workers)
    }

    /// Does something to the shard of a port that nobody else does anything to meanwhile. It must be short, and not
    /// panic. `None` if there are no places at all.
    fn locked<R>(&self, port: u16, act: impl FnOnce(&Shard) -> R) -> Option<R> {
        let workers = self.shards.len() as u8; // there are few
        if workers == 0 {
            return None;
        }
        let shard = &self.shards[usize::from(block_of(port, workers))];
        Some(shard.locked(|| act(shard)))
    }

    fn find_inside(
        &self,
        shard: &Shard,
        protocol: u8,
        inside: SocketAddrV4,
        address: Ipv4Addr,
    ) -> Option<usize> {
        let key = inside_word(inside, protocol);
        self.find(shard, Chain::Inside, key, |place| {
            place.inside() == key && *place.read().external.ip() == address
        })
    }

    fn find_external(&self, shard: &Shard, protocol: u8, external: SocketAddrV4) -> Option<usize> {
        let key = external_word(external);
        self.find(shard, Chain::External, key, |place| {
            place.external.load(Relaxed) == key && place.read().protocol == protocol
        })
    }

    /// The place in the chain of `key` that `is` it.
    fn find(
        &self,
        shard: &Shard,
        chain: Chain,
        key: u64,
        is: impl Fn(&Place) -> bool,
    ) -> Option<usize> {
        let mut next = self.head(shard, chain, key).load(Relaxed);
        while let Some(place) = (next as usize).checked_sub(1) {
            let at = &shard.places[place];
            if is(at) {
                return Some(place);
            }
            next = at.next(chain).load(Relaxed);
        }
        None
    }

    fn head<'s>(&self, shard: &'s Shard, chain: Chain, key: u64) -> &'s AtomicU32 {
        let heads = &shard.heads[chain as usize];
        // A power of two.
        &heads[self.key.hash_words(&[key]) as usize & (heads.len() - 1)]
    }

    /// The mapping at a place, unless it is over: then the place is free from now on.
    fn read_live(&self, shard: &Shard, place: usize, now: Tick) -> Option<Mapping> {
        let mapping = shard.places[place].read();
        if mapping.is_over(now) {
            self.remove(shard, place);
            return None;
        }
        Some(mapping)
    }

    /// A place for a mapping that no connection holds yet.
    fn add(&self, shard: &Shard, inside: u64, external: u64) -> Result<usize, HoldError> {
        let place = match (shard.free.load(Relaxed) as usize).checked_sub(1) {
            Some(place) => {
                shard.free.store(shard.places[place].next_inside.load(Relaxed), Relaxed);
                place
            }
            None => {
                let fresh = shard.fresh.load(Relaxed);
                if fresh as usize >= shard.places.len() {
                    return Err(HoldError::Full);
                }
                shard.fresh.store(fresh + 1, Relaxed);
                fresh as usize
            }
        };
        let at = &shard.places[place];
        at.inside.store(inside | LIVE, Relaxed);
        at.external.store(external, Relaxed);
        at.set_life(0, Tick(0));
        for (chain, key) in [(Chain::Inside, inside), (Chain::External, external)] {
            let head = self.head(shard, chain, key);
            at.next(chain).store(head.load(Relaxed), Relaxed);
            head.store(place as u32 + 1, Relaxed);
        }
        shard.live.fetch_add(1, Relaxed);
        Ok(place)
    }

    fn remove(&self, shard: &Shard, place: usize) {
        let at = &shard.places[place];
        let keys = [at.inside(), at.external.load(Relaxed)];
        for (chain, key) in [Chain::Inside, Chain::External].into_iter().zip(keys) {
            let mut link = self.head(shard, chain, key);
            while let Some(other) = (link.load(Relaxed) as usize).checked_sub(1) {
                let next = shard.places[other].next(chain);
                if other == place {
                    link.store(next.load(Relaxed), Relaxed);
                    break;
                }
                link = next;
            }
        }
        at.inside.store(0, Relaxed);
        at.next_inside.store(shard.free.load(Relaxed), Relaxed);
        shard.free.store(place as u32 + 1, Relaxed);
        if shard.live.fetch_sub(1, Relaxed) == 1 {
            // None is left: what comes next begins at the first place, and who lists them has nothing to walk.
            shard.free.store(0, Relaxed);
            shard.fresh.store(0, Relaxed);
        }
    }
}

/// That many zeroes, which take no memory until they are written.
///
/// # Panics
/// If there is no address space.
fn zeroed<T: FromZeros + KnownLayout>(count: usize) -> Box<[T]> {
    FromZeros::new_box_zeroed_with_elems(count).expect("address space for a table")
}

/// Whether a connection that held a mapping was refused before it began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// It was.
    Yes,
    /// It lived.
    No,
}

impl Mapping {
    fn is_over(&self, now: Tick) -> bool {
        self.connections == 0 && now.reached(self.deadline)
    }
}

impl Shard {
    fn locked<R>(&self, act: impl FnOnce() -> R) -> R {
        while self.locked.compare_exchange_weak(false, true, Acquire, Relaxed).is_err() {
            spin_loop();
        }
        let result = act();
        self.locked.store(false, Release);
        result
    }
}

/// Flags are the low byte.
const FLAGS: u64 = 0xff;

fn inside_word(inside: SocketAddrV4, protocol: u8) -> u64 {
    external_word(inside) | u64::from(protocol) << 8
}

fn external_word(external: SocketAddrV4) -> u64 {
    u64::from(u32::from(*external.ip())) << 32 | u64::from(external.port()) << 16
}

fn endpoint(word: u64) -> SocketAddrV4 {
    SocketAddrV4::new(((word >> 32) as u32).into(), (word >> 16) as u16)
}

impl Place {
    fn is_live(&self) -> bool {
        self.inside.load(Relaxed) & LIVE != 0
    }

    /// Inside endpoint and protocol.
    fn inside(&self) -> u64 {
        self.inside.load(Relaxed) & !FLAGS
    }

    fn next(&self, chain: Chain) -> &AtomicU32 {
        match chain {
            Chain::Inside => &self.next_inside,
            Chain::External => &self.next_external,
        }
    }

    fn life(&self) -> (u32, Tick) {
        let word = self.life.load(Relaxed);
        ((word >> 32) as u32, Tick(word as u32))
    }

    fn set_life(&self, connections: u32, deadline: Tick) {
        self.life.store(u64::from(connections) << 32 | u64::from(deadline.0), Relaxed);
    }

    fn set_independence(&self, independence: Independence) {
        let open = if independence == Independence::Filtering { OPEN } else { 0 };
        self.inside.store(self.inside() | LIVE | open, Relaxed);
    }

    fn read(&self) -> Mapping {
        let inside = self.inside.load(Relaxed);
        let (connections, deadline) = self.life();
        Mapping {
            protocol: (inside >> 8) as u8,
            inside: endpoint(inside),
            external: endpoint(self.external.load(Relaxed)),
            independence: match inside & OPEN {
                0 => Independence::Mapping,
                _ => Independence::Filtering,
            },
            connections,
            deadline,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    const LINGER_MS: u32 = 1_000;

    fn table(workers: u8, capacity: u32) -> Mappings {
        Mappings::new(workers, capacity, SipKey([1, 2]))
    }

    fn inside(port: u16) -> SocketAddrV4 {
        SocketAddrV4::new([192, 168, 1, 2].into(), port)
    }

    fn external(port: u16) -> SocketAddrV4 {
        SocketAddrV4::new([203, 0, 113, 2].into(), port)
    }

    fn wanted(from: u16, to: u16) -> Wanted {
        Wanted {
            protocol: protocol::UDP,
            inside: inside(from),
            external: external(to),
            independence: Independence::Filtering,
            linger_ms: LINGER_MS,
        }
    }

    #[test]
    fn it_is_found_from_both_sides_and_stays_after_its_last_connection() {
        let table = table(2, 8);
        let mapping = table.hold(&wanted(5000, 6000), Tick(0)).unwrap();
        assert_eq!((mapping.inside, mapping.external), (inside(5000), external(6000)));
        // The second connection gets what the first one has.
        let again = table.hold(&wanted(5000, 7000), Tick(100)).unwrap();
        assert_eq!((again.external, again.connections), (external(6000), 2));
        assert_eq!(table.of_external(protocol::UDP, external(6000), Tick(0)), Some(again));
        assert_eq!(table.of_external(protocol::TCP, external(6000), Tick(0)), None);
        assert_eq!(
            table.of_inside(protocol::UDP, inside(5000), *external(0).ip(), Tick(0)),
            Some(again)
        );
        for last_seen in [5_000, 4_000] {
            table.release(protocol::UDP, external(6000), Tick(last_seen), Refused::No);
        }
        let last = Tick(5_000 + LINGER_MS - 1);
        assert!(table.of_external(protocol::UDP, external(6000), last).is_some());
        assert!(table.any_of_inside(protocol::UDP, inside(5000), last).is_some());
        assert_eq!(table.any_of_inside(protocol::UDP, inside(5000), last.plus_ms(1)), None);
        assert!(table.is_empty());
    }

    #[test]
    fn an_external_endpoint_is_one_inside_endpoints() {
        let table = table(1, 8);
        table.hold(&wanted(5000, 6000), Tick(0)).unwrap();
        assert_eq!(table.hold(&wanted(5001, 6000), Tick(0)), Err(HoldError::Taken));
        let tcp = Wanted { protocol: protocol::TCP, ..wanted(5001, 6000) };
        table.hold(&tcp, Tick(0)).unwrap();
        table.release(protocol::UDP, external(6000), Tick(0), Refused::No);
        table.hold(&wanted(5001, 6000), Tick(LINGER_MS)).unwrap();
    }

    #[test]
    fn what_was_refused_leaves_nothing_behind() {
        let table = table(1, 8);
        table.hold(&wanted(5000, 6000), Tick(0)).unwrap();
        table.release(protocol::UDP, external(6000), Tick(0), Refused::Yes);
        assert!(table.is_empty());
        table.hold(&wanted(5000, 6000), Tick(0)).unwrap();
        assert!(table.hold_external(protocol::UDP, external(6000), Tick(0)));
        table.release(protocol::UDP, external(6000), Tick(0), Refused::Yes);
        assert_eq!(table.len(), 1, "the first connection still holds it");
    }

    #[test]
    fn what_was_there_outlives_a_refusal() {
        let table = table(1, 8);
        table.hold(&wanted(5000, 6000), Tick(0)).unwrap();
        table.release(protocol::UDP, external(6000), Tick(100), Refused::No);
        let now = Tick(200);
        table.hold(&wanted(5000, 6000), now).unwrap();
        table.release(protocol::UDP, external(6000), now, Refused::Yes);
        assert!(table.hold_external(protocol::UDP, external(6000), now));
        table.release(protocol::UDP, external(6000), now, Refused::Yes);
        for (tick, lives) in [(100 + LINGER_MS - 1, true), (100 + LINGER_MS, false)] {
            let found = table.of_external(protocol::UDP, external(6000), Tick(tick));
            assert_eq!(found.is_some(), lives, "{tick}");
        }
    }

    #[test]
    fn a_full_shard_refuses_and_what_is_over_makes_room() {
        let table = table(1, 4);
        for port in 0..4 {
            table.hold(&wanted(5000 + port, 6000 + port), Tick(0)).unwrap();
        }
        assert_eq!(table.hold(&wanted(5004, 6004), Tick(0)), Err(HoldError::Full));
        table.hold(&wanted(5003, 9), Tick(0)).unwrap();
        table.release(protocol::UDP, external(6001), Tick(0), Refused::No);
        table.tidy(0, 64, Tick(LINGER_MS - 1));
        assert_eq!(table.len(), 4);
        table.tidy(0, 64, Tick(LINGER_MS));
        assert_eq!(table.len(), 3);
        table.hold(&wanted(5004, 6004), Tick(LINGER_MS)).unwrap();
        let mut shown = Vec::new();
        let keep = |mapping| shown.push(mapping);
        assert_eq!(table.show(Cursor::default(), Tick(LINGER_MS), keep), None);
        assert_eq!(shown.len(), 4);
        assert_eq!(Mappings::default().hold(&wanted(1, 1), Tick(0)), Err(HoldError::Full));
    }

    #[test]
    fn a_long_held_mapping_survives_ticks_coming_round() {
        let table = table(1, 4);
        table.hold(&wanted(5000, 6000), Tick(0)).unwrap();
        let step = 1 << 30;
        for turn in 1..=5u32 {
            table.tidy(0, 4, Tick(turn.wrapping_mul(step)));
        }
        let now = Tick(5u32.wrapping_mul(step));
        table.release(protocol::UDP, external(6000), now, Refused::No);
        assert!(table.of_external(protocol::UDP, external(6000), now).is_some());
        assert!(table.of_external(protocol::UDP, external(6000), now.plus_ms(LINGER_MS)).is_none());
    }

    /// Two addresses, and so two mappings of one inside endpoint: the newer is over, the older is held.
    #[test]
    fn any_mapping_of_an_endpoint_is_one_that_lives() {
        let table = table(1, 8);
        let held = table.hold(&wanted(5000, 5000), Tick(0)).expect("room");
        let second = SocketAddrV4::new([203, 0, 113, 3].into(), 5000);
        table.hold(&Wanted { external: second, ..wanted(5000, 5000) }, Tick(0)).expect("room");
        table.release(protocol::UDP, second, Tick(0), Refused::No);
        let found = table.any_of_inside(protocol::UDP, held.inside, Tick(LINGER_MS));
        assert_eq!(found.map(|mapping| mapping.external), Some(held.external));
    }

    /// RFC 4787 REQ-11: also if who asks again is refused.
    #[test]
    fn a_mapping_that_is_open_is_not_shut_while_it_lives() {
        let table = table(1, 8);
        let hold = |independence| {
            table.hold(&Wanted { independence, ..wanted(5000, 5000) }, Tick(0)).expect("room")
        };
        assert_eq!(hold(Independence::Mapping).independence, Independence::Mapping);
        for independence in [Independence::Filtering, Independence::Mapping] {
            assert_eq!(hold(independence).independence, Independence::Filtering);
        }
        table.release(protocol::UDP, external(5000), Tick(0), Refused::Yes);
        let found = table.of_external(protocol::UDP, external(5000), Tick(0)).expect("held");
        assert_eq!((found.connections, found.independence), (2, Independence::Filtering));
    }

    #[test]
    fn listing_steps_over_what_is_free_and_an_empty_table_has_nothing_to_walk() {
        let table = table(1, 4 * LOOKED_AT_MAX);
        for port in 0..3 * LOOKED_AT_MAX as u16 {
            table.hold(&wanted(port, port), Tick(0)).expect("room");
        }
        let let_go = |ports: core::ops::Range<u16>| {
            for port in ports {
                table.release(protocol::UDP, external(port), Tick(0), Refused::Yes);
            }
        };
        let list = || {
            let (mut calls, mut ports) = (0, Vec::new());
            let mut next = Some(Cursor::default());
            while let Some(cursor) = next {
                calls += 1;
                next = table.show(cursor, Tick(0), |mapping| ports.push(mapping.inside.port()));
            }
            (calls, ports)
        };
        let last = 3 * LOOKED_AT_MAX as u16 - 1;
        let_go(0..last);
        assert_eq!(list(), (3, vec![last]));
        let_go(last..last + 1);
        assert_eq!(list(), (1, vec![]));
        table.hold(&wanted(7, 7), Tick(0)).expect("room");
        assert_eq!(list(), (1, vec![7]));
    }

    proptest! {
        /// Against a naive map: holds, releases and pauses in any order.
        #[test]
        fn it_is_what_a_map_would_be(
            steps in proptest::collection::vec((0u8..4, 0u16..6, 0u16..6, 0u32..700), 1..200),
        ) {
            let table = table(2, 3);
            let mut naive: HashMap<u16, (u16, u32, u32)> = HashMap::new();
            let mut now = 0;
            for (kind, from, to, pause) in steps {
                now += pause;
                let tick = Tick(now);
                naive.retain(|_, &mut (_, connections, deadline)| connections > 0 || deadline > now);
                let (from, to) = (5000 + from, 6000 + (to & !3 | from & 3));
                match kind {
                    0 | 1 => {
                        let owned = naive.iter().any(|(&f, &(t, ..))| f != from && t == to);
                        let of_shard = |port: u16| port / 2 % 2 == from / 2 % 2;
                        // What is over still has its place until somebody looks.
                        table.tidy(usize::from(from / 2 % 2), 64, tick);
                        let full = naive.keys().filter(|&&port| of_shard(port)).count() == 3;
                        let held = table.hold(&wanted(from, to), tick);
                        match naive.get_mut(&from) {
                            Some((known, connections, deadline)) => {
                                *connections += 1;
                                *deadline = (*deadline).max(now + LINGER_MS);
                                prop_assert_eq!(held.unwrap().external, external(*known));
                            }
                            None if owned => prop_assert_eq!(held, Err(HoldError::Taken)),
                            None if full => prop_assert_eq!(held, Err(HoldError::Full)),
                            None => {
                                prop_assert!(held.is_ok());
                                naive.insert(from, (to, 1, now + LINGER_MS));
                            }
                        }
                    }
                    _ => {
                        if let Some((known, connections, deadline)) = naive.get_mut(&from)
                            && *connections > 0
                        {
                            *connections -= 1;
                            *deadline = (*deadline).max(now + LINGER_MS);
                            table.release(protocol::UDP, external(*known), tick, Refused::No);
                        }
                    }
                }
                for port in 5000..5006 {
                    let found = table.any_of_inside(protocol::UDP, inside(port), tick);
                    let known = naive.get(&port).map(|&(to, connections, _)| (external(to), connections));
                    prop_assert_eq!(found.map(|m| (m.external, m.connections)), known);
                }
            }
        }
    }

    #[test]
    fn of_many_who_want_one_endpoint_one_gets_it() {
        let table = table(1, 1024);
        for port in 2000..2100 {
            let got: usize = std::thread::scope(|scope| {
                let table = &table;
                let hold = |from: u16| {
                    scope.spawn(move || {
                        let all = Wanted { external: external(port), ..wanted(from, 0) };
                        usize::from(table.hold(&all, Tick(0)).is_ok())
                    })
                };
                let holders: Vec<_> = (0..4).map(|worker| hold(port + worker * 200)).collect();
                holders.into_iter().map(|holder| holder.join().unwrap()).sum()
            });
            assert_eq!(got, 1);
        }
    }
}
