//! What the kernel knows of neighbours: a fixed array of slots that control updates in place.
//!
//! One writer (control), any number of readers (workers). A slot's key is written once, before the
//! slot is published, and not changed while any snapshot lives; its MAC and state are one atomic
//! word, so a reader always sees a MAC and the state that belongs to it. Workers write one thing:
//! the `used` mark, and only when it is clear, so that no shared line is written per packet.

use alloc::boxed::Box;
use core::net::{IpAddr, Ipv6Addr};
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::units::{InterfaceId, Mac, NeighbourIdx};

/// What the kernel thinks of a neighbour (NUD_*), as far as forwarding cares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum NeighbourState {
    /// Being asked for: hold packets.
    Incomplete = 0,
    /// Known: send.
    Reachable = 1,
    /// Known but old: send, and control has the kernel ask again because it is used.
    Stale = 2,
    /// Did not answer: refuse with host unreachable.
    Failed = 3,
}

/// A neighbour as read at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Neighbour {
    /// Its MAC; meaningful when reachable or stale.
    pub mac: Mac,
    /// What the kernel thinks of it.
    pub state: NeighbourState,
}

#[derive(Debug, Default)]
struct Slot {
    /// Interface and family; the address follows. Written once, before publication.
    scope: AtomicU64,
    address: [AtomicU64; 2],
    /// MAC in bits 0-47, state in bits 48-55.
    value: AtomicU64,
    used: AtomicBool,
}

/// The array. Slots are found by open addressing over a power of two of places.
#[derive(Debug)]
pub struct Neighbours {
    slots: Box<[Slot]>,
    count: AtomicUsize,
    changes: AtomicUsize,
}

/// Marks a slot's scope as taken, so that an all-zero slot is empty.
const TAKEN: u64 = 1 << 63;
/// Longest probe; a full neighbourhood means "no slot", which is a counted refusal.
const PROBES_MAX: usize = 32;

impl Neighbours {
    /// An empty array of `capacity` slots, rounded up to a power of two, at most 32,768.
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.clamp(64, 32_768).next_power_of_two();
        let slots = (0..capacity).map(|_| Slot::default()).collect();
        Self { slots, count: AtomicUsize::new(0), changes: AtomicUsize::new(0) }
    }

    /// The slot of `address` on `interface`, if there is one.
    pub fn find(&self, interface: InterfaceId, address: IpAddr) -> Option<NeighbourIdx> {
        let key = Key::of(interface, address);
        for place in key.places(self.slots.len()) {
            let slot = &self.slots[place];
            match slot.scope.load(Ordering::Acquire) {
                0 => return None,
                scope if scope == key.scope && slot.address_is(key.address) => {
                    return Some(NeighbourIdx(place as u16));
                }
                _ => {}
            }
        }
        None
    }

    /// Reads a slot on behalf of a packet: a stale neighbour is marked as used. `None` for
    /// [`NeighbourIdx::NONE`] and other indices outside the array.
    #[inline(always)]
    pub fn get(&self, idx: NeighbourIdx) -> Option<Neighbour> {
        let slot = self.slots.get(idx.0 as usize)?;
        let neighbour = slot.read();
        if neighbour.state == NeighbourState::Stale && !slot.used.load(Ordering::Relaxed) {
            slot.used.store(true, Ordering::Relaxed);
        }
        Some(neighbour)
    }

    /// The address of a slot's neighbour.
    pub fn address(&self, idx: NeighbourIdx) -> Option<IpAddr> {
        self.slots.get(idx.0 as usize)?.address()
    }

    /// Control only: sets what is known of a neighbour, taking a slot if it has none. `None` if no
    /// slot is free near its place.
    pub fn set(
        &self,
        interface: InterfaceId,
        address: IpAddr,
        neighbour: Neighbour,
    ) -> Option<NeighbourIdx> {
        let key = Key::of(interface, address);
        let mac = neighbour.mac.0;
        let value = u64::from_le_bytes([
            mac[0],
            mac[1],
            mac[2],
            mac[3],
            mac[4],
            mac[5],
            neighbour.state as u8,
            0,
        ]);
        for place in key.places(self.slots.len()) {
            let slot = &self.slots[place];
            let scope = slot.scope.load(Ordering::Relaxed);
            if scope == 0 {
                slot.address[0].store(key.address[0], Ordering::Relaxed);
                slot.address[1].store(key.address[1], Ordering::Relaxed);
                slot.value.store(value, Ordering::Relaxed);
                slot.scope.store(key.scope, Ordering::Release);
                self.count.fetch_add(1, Ordering::Relaxed);
                self.changes.fetch_add(1, Ordering::Release);
                return Some(NeighbourIdx(place as u16));
            }
            if scope == key.scope && slot.address_is(key.address) {
                slot.value.store(value, Ordering::Relaxed);
                self.changes.fetch_add(1, Ordering::Release);
                return Some(NeighbourIdx(place as u16));
            }
        }
        None
    }

    /// How often something was set, modulo 2^64. Whoever finds it as it was finds every neighbour as it was.
    pub fn changes(&self) -> usize {
        self.changes.load(Ordering::Acquire)
    }

    /// Control only: whether a stale neighbour was used since the last call.
    pub fn take_used(&self, idx: NeighbourIdx) -> bool {
        self.slots.get(idx.0 as usize).is_some_and(|slot| slot.used.swap(false, Ordering::Relaxed))
    }

    /// Every taken slot: its index, interface, address and value.
    pub fn iter(
        &self,
    ) -> impl Iterator<Item = (NeighbourIdx, InterfaceId, IpAddr, Neighbour)> + '_ {
        self.slots.iter().enumerate().filter_map(|(place, slot)| {
            let scope = slot.scope.load(Ordering::Acquire);
            let address = slot.address()?;
            let idx = NeighbourIdx(place as u16);
            Some((idx, InterfaceId(scope as u8), address, slot.read()))
        })
    }

    /// Slots taken.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether no slot is taken.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Slot {
    #[inline]
    fn read(&self) -> Neighbour {
        let value = self.value.load(Ordering::Relaxed);
        let [m0, m1, m2, m3, m4, m5, state, _] = value.to_le_bytes();
        let state = match state {
            1 => NeighbourState::Reachable,
            2 => NeighbourState::Stale,
            3 => NeighbourState::Failed,
            _ => NeighbourState::Incomplete,
        };
        Neighbour { mac: Mac([m0, m1, m2, m3, m4, m5]), state }
    }

    /// `None` if the slot is not taken.
    fn address(&self) -> Option<IpAddr> {
        let scope = self.scope.load(Ordering::Acquire);
        if scope == 0 {
            return None;
        }
        let [high, low] = [&self.address[0], &self.address[1]].map(|a| a.load(Ordering::Relaxed));
        let wide = u128::from(high) << 64 | u128::from(low);
        Some(if scope & 1 << 8 == 0 {
            IpAddr::V4((low as u32).into())
        } else {
            IpAddr::V6(Ipv6Addr::from(wide))
        })
    }

    fn address_is(&self, address: [u64; 2]) -> bool {
        self.address[0].load(Ordering::Relaxed) == address[0]
            && self.address[1].load(Ordering::Relaxed) == address[1]
    }
}

/// A neighbour's key in the form slots hold it.
struct Key {
    scope: u64,
    address: [u64; 2],
}

impl Key {
    fn of(interface: InterfaceId, address: IpAddr) -> Self {
        let (family, wide) = match address {
            IpAddr::V4(a) => (0, u128::from(u32::from(a))),
            IpAddr::V6(a) => (1 << 8, u128::from(a)),
        };
        Self {
            scope: TAKEN | family | u64::from(interface.0),
            address: [(wide >> 64) as u64, wide as u64],
        }
    }

    /// Where to look, in order. Unkeyed: only the kernel's neighbours get here, and the kernel bounds them.
    fn places(&self, len: usize) -> impl Iterator<Item = usize> + use<> {
        let mixed = (self.address[0] ^ self.address[1].rotate_left(23) ^ self.scope)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let start = (mixed >> 32) as usize;
        (0..PROBES_MAX).map(move |i| (start + i) & (len - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;

    #[test]
    fn a_slot_keeps_its_place_and_shows_its_latest_value() {
        let neighbours = Neighbours::new(64);
        let lan = InterfaceId(0);
        let host: IpAddr = Ipv4Addr::new(192, 168, 1, 7).into();
        assert_eq!(neighbours.find(lan, host), None);
        let incomplete = Neighbour { mac: Mac::default(), state: NeighbourState::Incomplete };
        let idx = neighbours.set(lan, host, incomplete).unwrap();
        assert_eq!(neighbours.get(idx).unwrap().state, NeighbourState::Incomplete);
        let known = Neighbour { mac: Mac([2, 0, 0, 0, 0, 7]), state: NeighbourState::Reachable };
        let before = neighbours.changes();
        assert_eq!(neighbours.set(lan, host, known), Some(idx));
        assert_ne!(neighbours.changes(), before);
        assert_eq!(neighbours.find(lan, host), Some(idx));
        assert_eq!(neighbours.get(idx), Some(known));
        assert_eq!(neighbours.find(InterfaceId(1), host), None, "another interface is another key");
        assert!(neighbours.iter().eq([(idx, lan, host, known)]));
    }

    #[test]
    fn only_a_stale_neighbour_is_marked_used() {
        let neighbours = Neighbours::new(64);
        let host: IpAddr = "fe80::1".parse().unwrap();
        let mut neighbour = Neighbour { mac: Mac([2; 6]), state: NeighbourState::Reachable };
        let idx = neighbours.set(InterfaceId(3), host, neighbour).unwrap();
        neighbours.get(idx);
        assert!(!neighbours.take_used(idx));
        neighbour.state = NeighbourState::Stale;
        neighbours.set(InterfaceId(3), host, neighbour);
        neighbours.get(idx);
        assert!(neighbours.take_used(idx) && !neighbours.take_used(idx));
    }

    #[test]
    fn a_full_array_refuses_and_keeps_what_it_has() {
        let neighbours = Neighbours::new(64);
        let known = Neighbour { mac: Mac([2; 6]), state: NeighbourState::Reachable };
        let taken = (0..200u32)
            .filter(|&i| neighbours.set(InterfaceId(0), Ipv4Addr::from(i).into(), known).is_some())
            .count();
        assert!((32..=64).contains(&taken), "{taken}");
        assert_eq!(neighbours.len(), taken);
        assert_eq!(neighbours.get(NeighbourIdx::NONE), None);
    }
}
