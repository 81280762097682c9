//! Connections that a helper expects: the one table that workers share.
//!
//! The worker that owns the master (the connection that announced another) writes an expectation *before* it lets
//! the announcing packet out, so that nothing can answer what is not expected yet. Any worker reads it, but only
//! for a first packet, and only while there is any expectation at all ([`Expectations::any`]): that is what the
//! established path, and everybody without helpers, pays.
//!
//! An expectation is found by protocol, destination address and port; these choose a shard. Each shard has a
//! lock, under which a handful of words are read or written: whoever holds it waits for nothing, takes a bounded number
//! of steps and cannot panic, so a spinning reader waits for less than a microsecond unless the kernel takes the
//! holder's core away. All is made of atomic words, without pointers: nothing is allocated after start, and the table may
//! as well live in memory handed in. A lock around each shard, and not one around all, keeps workers with
//! helpers out of each other's way; a lock-free table would save nobody anything that shows.
//!
//! Bounded: [`EXPECTATIONS_MAX`] in all; how many of one master, the master's owner sees to
//! ([`pool`](super::pool)), which also removes them when it dies. A full shard refuses.

use alloc::boxed::Box;
use core::hint::spin_loop;
use core::net::{IpAddr, Ipv6Addr};
use core::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use crate::conntrack::tuple::Tuple;
use crate::time::Tick;
use crate::units::InterfaceId;

/// Shards, each with a lock.
const SHARDS: usize = 64;
/// Places in a shard.
const PLACES: usize = 32;
/// Most expectations at a time.
pub const EXPECTATIONS_MAX: usize = SHARDS * PLACES;

/// A connection that is expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expectation {
    /// The connection that announced it ([`ConnectionId`](crate::pipeline::ConnectionId)).
    pub master: u64,
    /// IP protocol number.
    pub protocol: u8,
    /// Who may begin it, from any port; `None` is anybody.
    pub src: Option<IpAddr>,
    /// The conntrack zone it arrives in: its master's, on that side.
    pub zone: u16,
    /// The address it is sent to, as it arrives here.
    pub dst: IpAddr,
    /// The port it is sent to, as it arrives here.
    pub dst_port: u16,
    /// The endpoint that is meant; another one than `dst` if it is translated.
    pub to: (IpAddr, u16),
    /// The interface that leads to the endpoint: that of its master, on that side. Where several lead to such an address,
    /// it is this one.
    pub via: InterfaceId,
    /// The address behind which whoever begins it is to appear, if not its own.
    pub appear_as: Option<IpAddr>,
    /// A port of whoever begins it, and the one that is to stand for it outside: so that media appear from where they are
    /// expected. Not 0, neither of them.
    pub pair: Option<(u16, u16)>,
    /// How often it comes true.
    pub term: Term,
    /// From when on it counts no more.
    pub deadline: Tick,
}

/// How often an expectation comes true.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Term {
    /// Once.
    #[default]
    Once = 0,
    /// Not yet: somebody has to agree first (`NF_CT_EXPECT_INACTIVE`).
    Waiting = 1,
    /// Until its deadline (`NF_CT_EXPECT_PERMANENT`): signalling, which gets the helper of its master.
    Lasting = 2,
}

impl Expectation {
    /// Whether the destination is translated.
    pub fn is_translated(&self) -> bool {
        self.to != (self.dst, self.dst_port)
    }
}

/// Names an expectation; never reused. 0 is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handle(pub u64);

/// Why an expectation was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExpectError {
    /// The same connection is expected already.
    Clash,
    /// There is no place.
    Full,
}

/// What a place holds, as words.
const WORDS: usize = 12;

#[derive(Default, Debug)]
struct Place {
    /// The handle; 0 if the place is free.
    handle: AtomicU64,
    words: [AtomicU64; WORDS],
}

#[derive(Debug)]
struct Shard {
    locked: AtomicBool,
    /// Places in use.
    live: AtomicU32,
    places: [Place; PLACES],
}

impl Default for Shard {
    fn default() -> Self {
        Self {
            locked: AtomicBool::default(),
            live: AtomicU32::default(),
            places: core::array::from_fn(|_| Place::default()),
        }
    }
}

/// The table.
#[derive(Debug)]
pub struct Expectations {
    live: AtomicU32,
    /// Handles given.
    given: AtomicU64,
    shards: Box<[Shard]>,
}

impl Default for Expectations {
    fn default() -> Self {
        Self::new()
    }
}

impl Expectations {
    /// An empty table.
    pub fn new() -> Self {
        let shards = (0..SHARDS).map(|_| Shard::default()).collect();
        Self { live: AtomicU32::default(), given: AtomicU64::default(), shards }
    }

    /// Whether there is any.
    #[inline]
    pub fn any(&self) -> bool {
        self.live.load(Relaxed) != 0
    }

    /// How many there are, those past their deadline included.
    pub fn len(&self) -> u32 {
        self.live.load(Relaxed)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        !self.any()
    }

    /// Adds an expectation. The packet that announces it must not leave before this returned.
    ///
    /// # Errors
    /// See [`ExpectError`].
    pub fn insert(&self, expectation: &Expectation, now: Tick) -> Result<Handle, ExpectError> {
        self.insert_or(expectation, now, |_| false)
    }

    /// The same, in the place of one that leads to the same endpoint: whoever announced it first, it is where its host
    /// listens now.
    ///
    /// # Errors
    /// See [`ExpectError`].
    pub fn replace(&self, expectation: &Expectation, now: Tick) -> Result<Handle, ExpectError> {
        self.insert_or(expectation, now, |other| {
            (other.to, other.via) == (expectation.to, expectation.via)
        })
    }

    fn insert_or(
        &self,
        expectation: &Expectation,
        now: Tick,
        yields: impl Fn(&Expectation) -> bool,
    ) -> Result<Handle, ExpectError> {
        let shard = shard_of(expectation.protocol, expectation.dst, expectation.dst_port);
        self.locked(shard, |places| {
            let mut free = None;
            for (index, place) in places.iter().enumerate() {
                let (handle, other) = match place.read() {
                    Some((handle, other)) if !now.reached(other.deadline) => (handle, other),
                    Some((handle, _)) => {
                        self.clear(shard, place, handle);
                        free = free.or(Some(index));
                        continue;
                    }
                    None => {
                        free = free.or(Some(index));
                        continue;
                    }
                };
                let endpoint = |e: &Expectation| (e.protocol, e.zone, e.dst, e.dst_port);
                let same = endpoint(&other) == endpoint(expectation);
                let anybody = other.src.is_none() || expectation.src.is_none();
                if same && (anybody || other.src == expectation.src) {
                    if !yields(&other) {
                        return Err(ExpectError::Clash);
                    }
                    self.clear(shard, place, handle);
                    free = free.or(Some(index));
                }
            }
            let index = free.ok_or(ExpectError::Full)?;
            let number = self.given.fetch_add(1, Relaxed).wrapping_add(1);
            let place_number = (shard * PLACES + index) as u64;
            let handle = number * EXPECTATIONS_MAX as u64 + place_number;
            places[index].write(handle, expectation);
            self.shards[shard].live.fetch_add(1, Relaxed);
            self.live.fetch_add(1, Release);
            Ok(Handle(handle))
        })
    }

    /// The expectation that a first packet of this tuple meets.
    pub fn find(&self, tuple: &Tuple, now: Tick) -> Option<(Handle, Expectation)> {
        let (dst, port) = (tuple.dst(), tuple.dst_id());
        let shard = shard_of(tuple.protocol(), dst, port);
        if self.shards[shard].live.load(Acquire) == 0 {
            return None;
        }
        self.locked(shard, |places| {
            let mut held = places.iter().filter_map(Place::read);
            let found = held.find(|(_, e)| {
                (e.protocol, e.dst, e.dst_port) == (tuple.protocol(), dst, port)
                    && e.zone == tuple.zone()
                    && e.src.is_none_or(|src| src == tuple.src())
                    && e.term != Term::Waiting
                    && !now.reached(e.deadline)
            });
            found.map(|(handle, expectation)| (Handle(handle), expectation))
        })
    }

    /// Removes an expectation, because it came true or its master is gone. `false` if it was gone already: of two
    /// that meet one, one gets it.
    pub fn take(&self, Handle(handle): Handle) -> bool {
        if handle == 0 {
            return false;
        }
        let place_number = (handle % EXPECTATIONS_MAX as u64) as usize;
        let shard = place_number / PLACES;
        self.locked(shard, |places| {
            let place = &places[place_number % PLACES];
            let held = place.handle.load(Relaxed) == handle;
            if held {
                self.clear(shard, place, handle);
            }
            held
        })
    }

    /// An expectation came true: it is removed, unless it lasts. `false` if it was gone already.
    pub fn meet(&self, handle: Handle) -> bool {
        let mut lasts = false;
        self.change(handle, |expectation| lasts = expectation.term == Term::Lasting)
            && (lasts || self.take(handle))
    }

    /// Changes what is expected, but not where. `false` if it is gone.
    pub fn change(&self, Handle(handle): Handle, change: impl FnOnce(&mut Expectation)) -> bool {
        if handle == 0 {
            return false;
        }
        let place_number = (handle % EXPECTATIONS_MAX as u64) as usize;
        self.locked(place_number / PLACES, |places| {
            let place = &places[place_number % PLACES];
            let held = place.read().filter(|(held, _)| *held == handle);
            let Some((_, mut expectation)) = held else { return false };
            change(&mut expectation);
            place.write(handle, &expectation);
            true
        })
    }

    /// Removes what is past its deadline from one shard: `turn` says which, modulo their number.
    pub fn tidy(&self, turn: usize, now: Tick) {
        let shard = turn % SHARDS;
        if self.shards[shard].live.load(Relaxed) == 0 {
            return;
        }
        self.locked(shard, |places| {
            for place in places {
                if let Some((handle, expectation)) = place.read()
                    && now.reached(expectation.deadline)
                {
                    self.clear(shard, place, handle);
                }
            }
        });
    }

    /// Shows what one shard holds, those past their deadline left out. Returns whether there is such a shard: to be
    /// asked for 0, 1, 2 and so on.
    pub fn show(&self, shard: usize, now: Tick, mut take: impl FnMut(Expectation)) -> bool {
        let Some(Shard { live, .. }) = self.shards.get(shard) else { return false };
        if live.load(Acquire) != 0 {
            // Copied out first: `take` is not ours.
            let held: [Option<Expectation>; PLACES] = self.locked(shard, |places| {
                core::array::from_fn(|place| places[place].read().map(|(_, held)| held))
            });
            held.into_iter()
                .flatten()
                .filter(|held| !now.reached(held.deadline))
                .for_each(&mut take);
        }
        true
    }

    /// Frees a place of a locked shard.
    fn clear(&self, shard: usize, place: &Place, handle: u64) {
        debug_assert_eq!(place.handle.load(Relaxed), handle);
        place.handle.store(0, Relaxed);
        self.shards[shard].live.fetch_sub(1, Relaxed);
        self.live.fetch_sub(1, Relaxed);
    }

    /// Does something to a shard that nobody else does anything to meanwhile. It must be short, and not panic.
    fn locked<R>(&self, shard: usize, act: impl FnOnce(&[Place; PLACES]) -> R) -> R {
        let shard = &self.shards[shard];
        while shard.locked.compare_exchange_weak(false, true, Acquire, Relaxed).is_err() {
            spin_loop();
        }
        let result = act(&shard.places);
        shard.locked.store(false, Release);
        result
    }
}

/// Which shard holds the expectations of a destination. Not keyed: who could fill a shard by choosing ports can fill
/// it anyway, and then is refused.
fn shard_of(protocol: u8, dst: IpAddr, port: u16) -> usize {
    let wide = wide(dst);
    let mixed = (wide as u64 ^ (wide >> 64) as u64)
        .wrapping_add(u64::from(port) << 8 | u64::from(protocol))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 40) as usize % SHARDS
}

/// An address as a number; IPv4 mapped into IPv6 (RFC 4291 §2.5.5.2), which no packet may carry.
fn wide(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().into(),
        IpAddr::V6(address) => address.into(),
    }
}

fn narrow(high: u64, low: u64) -> IpAddr {
    let address = Ipv6Addr::from(u128::from(high) << 64 | u128::from(low));
    address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
}

impl Place {
    fn read(&self) -> Option<(u64, Expectation)> {
        let handle = self.handle.load(Relaxed);
        if handle == 0 {
            return None;
        }
        let word = |index: usize| self.words[index].load(Relaxed);
        let address = |index: usize| narrow(word(index), word(index + 1));
        let flags = word(0);
        let pair = ((word(2) >> 32) as u16, (word(2) >> 48) as u16);
        let expectation = Expectation {
            protocol: flags as u8,
            src: (flags & 1 << 8 != 0).then(|| address(3)),
            appear_as: (flags & 1 << 9 != 0).then(|| address(9)),
            dst_port: (flags >> 16) as u16,
            to: (address(7), (flags >> 32) as u16),
            dst: address(5),
            zone: (flags >> 48) as u16,
            master: word(1),
            deadline: Tick(word(2) as u32),
            pair: (pair != (0, 0)).then_some(pair),
            term: match flags >> 10 & 3 {
                0 => Term::Once,
                1 => Term::Waiting,
                _ => Term::Lasting,
            },
            via: InterfaceId(word(11) as u8),
        };
        Some((handle, expectation))
    }

    fn write(&self, handle: u64, e: &Expectation) {
        let put = |index: usize, value: u64| self.words[index].store(value, Relaxed);
        let put_address = |index: usize, address: Option<IpAddr>| {
            let wide = address.map_or(0, wide);
            put(index, (wide >> 64) as u64);
            put(index + 1, wide as u64);
        };
        let flags = u64::from(e.protocol)
            | u64::from(e.src.is_some()) << 8
            | u64::from(e.appear_as.is_some()) << 9
            | u64::from(e.term as u8) << 10
            | u64::from(e.dst_port) << 16
            | u64::from(e.to.1) << 32
            | u64::from(e.zone) << 48;
        put(0, flags);
        put(1, e.master);
        let (inner, outer) = e.pair.unwrap_or_default();
        put(2, u64::from(e.deadline.0) | u64::from(inner) << 32 | u64::from(outer) << 48);
        put(11, e.via.0.into());
        put_address(3, e.src);
        put_address(5, Some(e.dst));
        put_address(7, Some(e.to.0));
        put_address(9, e.appear_as);
        self.handle.store(handle, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conntrack::tuple::protocol;
    use std::vec::Vec;

    fn expectation(port: u16) -> Expectation {
        Expectation {
            master: 7,
            protocol: protocol::TCP,
            zone: 0,
            via: InterfaceId(0),
            src: Some("192.0.2.9".parse().unwrap()),
            dst: "203.0.113.2".parse().unwrap(),
            dst_port: port,
            to: ("192.168.1.2".parse().unwrap(), 1025),
            appear_as: Some("2001:db8::1".parse().unwrap()),
            pair: Some((1, u16::MAX)),
            term: Term::Once,
            deadline: Tick(1000),
        }
    }

    fn tuple(src: &str, port: u16) -> Tuple {
        let dst = "203.0.113.2".parse().unwrap();
        Tuple::new(src.parse().unwrap(), dst, 20, port, protocol::TCP).unwrap()
    }

    /// C114
    #[test]
    fn it_is_found_by_its_peer_until_its_deadline_and_taken_once() {
        let table = Expectations::new();
        assert!(!table.any());
        let handle = table.insert(&expectation(4000), Tick(0)).unwrap();
        let peer = tuple("192.0.2.9", 4000);
        assert_eq!(table.find(&peer, Tick(999)), Some((handle, expectation(4000))));
        assert_eq!(table.find(&peer, Tick(1000)), None);
        assert_eq!(table.find(&tuple("192.0.2.8", 4000), Tick(0)), None, "a third party");
        assert_eq!(table.find(&tuple("192.0.2.9", 4001), Tick(0)), None);
        assert!(table.take(handle));
        assert!(!table.take(handle) && !table.any());
        assert_eq!(table.find(&peer, Tick(0)), None);
    }

    /// C186
    #[test]
    fn it_is_found_in_its_zone_only_and_clashes_there_only() {
        let table = Expectations::new();
        let of_zone = |zone, via| Expectation { zone, via: InterfaceId(via), ..expectation(4000) };
        let peer = tuple("192.0.2.9", 4000);
        let there = table.insert(&of_zone(u16::MAX, 31), Tick(0)).unwrap();
        assert_eq!(table.find(&peer, Tick(0)), None);
        let here = table.insert(&of_zone(0, 2), Tick(0)).unwrap();
        assert_eq!(table.insert(&of_zone(0, 2), Tick(0)), Err(ExpectError::Clash));
        assert_eq!(table.find(&peer, Tick(0)), Some((here, of_zone(0, 2))));
        let far = peer.in_zone(u16::MAX);
        assert_eq!(table.find(&far, Tick(0)), Some((there, of_zone(u16::MAX, 31))));
    }

    #[test]
    fn what_clashes_is_refused_and_a_stale_handle_takes_nothing() {
        let table = Expectations::new();
        let first = table.insert(&expectation(4000), Tick(0)).unwrap();
        assert_eq!(table.insert(&expectation(4000), Tick(0)), Err(ExpectError::Clash));
        let anybody = Expectation { src: None, ..expectation(4000) };
        assert_eq!(table.insert(&anybody, Tick(0)), Err(ExpectError::Clash));
        let other = Expectation { src: Some("192.0.2.8".parse().unwrap()), ..expectation(4000) };
        table.insert(&other, Tick(0)).unwrap();
        assert!(table.take(first));
        let again = table.insert(&expectation(4000), Tick(0)).unwrap();
        assert!(!table.take(first) && table.take(again));
    }

    #[test]
    fn one_that_waits_is_not_found_and_one_that_lasts_is_found_again() {
        let table = Expectations::new();
        let waiting = Expectation { term: Term::Waiting, ..expectation(4000) };
        let handle = table.insert(&waiting, Tick(0)).unwrap();
        let peer = tuple("192.0.2.9", 4000);
        assert_eq!(table.find(&peer, Tick(0)), None);
        let lasting = Expectation { term: Term::Lasting, deadline: Tick(9000), ..waiting };
        assert!(table.change(handle, |expectation| *expectation = lasting));
        for now in [0, 8999] {
            assert_eq!(table.find(&peer, Tick(now)), Some((handle, lasting)));
            assert!(table.meet(handle));
        }
        assert_eq!(table.find(&peer, Tick(9000)), None);
        assert!(table.take(handle));
        assert!(!table.meet(handle) && !table.change(handle, |_| {}) && !table.any());
        let once = table.insert(&expectation(4000), Tick(0)).unwrap();
        assert!(table.meet(once) && !table.meet(once) && !table.any());
    }

    #[test]
    fn one_is_replaced_only_by_one_that_leads_to_the_same_endpoint() {
        let table = Expectations::new();
        let first = table.insert(&expectation(4000), Tick(0)).unwrap();
        let (host, _) = expectation(4000).to;
        let elsewhere = Expectation { to: (host, 1026), ..expectation(4000) };
        assert_eq!(table.replace(&elsewhere, Tick(0)), Err(ExpectError::Clash));
        let other_master = Expectation { master: 8, ..expectation(4000) };
        let second = table.replace(&other_master, Tick(0)).unwrap();
        assert!(!table.take(first) && table.take(second) && !table.any());
    }

    /// C123
    #[test]
    fn it_is_bounded_and_what_is_past_its_deadline_makes_room() {
        let table = Expectations::new();
        let handles: Vec<_> = (1024..=u16::MAX)
            .filter_map(|port| table.insert(&expectation(port), Tick(0)).ok())
            .collect();
        assert!(handles.len() <= EXPECTATIONS_MAX && handles.len() > EXPECTATIONS_MAX * 9 / 10);
        assert_eq!(table.len() as usize, handles.len());
        let late = Expectation { deadline: Tick(3000), ..expectation(4000) };
        table.insert(&late, Tick(2000)).unwrap();
        (0..SHARDS).for_each(|turn| table.tidy(turn, Tick(2000)));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn of_many_who_meet_one_one_gets_it() {
        let table = Expectations::new();
        for port in 2000..2100 {
            let handle = table.insert(&expectation(port), Tick(0)).unwrap();
            let taken: usize = std::thread::scope(|scope| {
                let take = || scope.spawn(|| usize::from(table.take(handle)));
                let takers: Vec<_> = (0..4).map(|_| take()).collect();
                takers.into_iter().map(|taker| taker.join().unwrap()).sum()
            });
            assert_eq!(taken, 1);
        }
        assert!(!table.any());
    }
}
