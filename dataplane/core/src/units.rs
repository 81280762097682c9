//! Newtypes for numbers that must not be swapped.
//!
//! Ports and query identifiers are in host order throughout the core; only `wire` knows network order.

use core::fmt;
use core::net::IpAddr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An interface of the appliance: its index in the snapshot's [`Interfaces`](crate::snapshot::Interfaces),
/// which is its order in the configuration. Never a kernel ifindex.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct InterfaceId(pub u8);

/// Most interfaces one appliance can have. Interface ids are `0..INTERFACES_MAX`.
pub const INTERFACES_MAX: usize = 32;

impl InterfaceId {
    /// Stands for "no interface": the ingress of a locally generated packet, the egress of a delivered one.
    pub const NONE: Self = Self(u8::MAX);

    /// The id as an array index.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A worker: one pinned thread with its own rings and tables. Workers are `0..workers`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct WorkerId(pub u8);

/// Most workers one appliance can have (the owner sets of steering are 16-bit masks).
pub const WORKERS_MAX: usize = 16;

impl WorkerId {
    /// The id as an array index.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Port (TCP, UDP, SCTP) or ICMP query identifier, host order. Zero is a legal ICMP identifier.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct L4Id(pub u16);

/// Counts the snapshots published since start. Two equal generations are the same snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Generation(pub u32);

impl Generation {
    /// The generation after this one. Skips zero when the counter wraps.
    pub const fn next(self) -> Self {
        let next = self.0.wrapping_add(1);
        Self(if next == 0 { 1 } else { next })
    }
}

/// Which policy a connection was judged under, and which routes and addresses its way was found under: counted
/// apart, so that a new route does not have the rules walked again, nor a new rule the routes looked up.
///
/// Zero is never published, so a zeroed entry matches no snapshot. The counts wrap; before one comes round, every
/// entry with an old one has been cleared ([`Snapshot::reviews`](crate::snapshot::Snapshot::reviews)).
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Stamps {
    /// Of the rules.
    pub policy: u16,
    /// Of interfaces, addresses, routes and the neighbour array.
    pub way: u16,
}

impl Stamps {
    /// What no snapshot carries.
    pub const NONE: Self = Self { policy: 0, way: 0 };

    /// The stamps of a first snapshot.
    pub const FIRST: Self = Self { policy: 1, way: 1 };

    /// The count after `stamp`; skips zero.
    pub const fn after(stamp: u16) -> u16 {
        let next = stamp.wrapping_add(1);
        if next == 0 { 1 } else { next }
    }
}

/// A row of one worker's connection slab. Rows never move.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct EntryIdx(pub u32);

impl EntryIdx {
    /// The row as an array index.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A slot of the snapshot's neighbour array; see [`Neighbours`](crate::forward::Neighbours).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NeighbourIdx(pub u16);

impl NeighbourIdx {
    /// Stands for "next hop not known yet", or not needed.
    pub const NONE: Self = Self(u16::MAX);
    /// In an entry: the way of this direction has to be looked up.
    pub const UNROUTED: Self = Self(u16::MAX - 1);
}

/// A number that packets for one next hop share, and those for others hardly ever. Not for finding anything:
/// it is for sharing limits out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NextHopTag(u32);

impl NextHopTag {
    /// Of that address on that interface; next hops without an address are one.
    pub fn of(interface: InterfaceId, address: Option<IpAddr>) -> Self {
        let wide = match address {
            Some(IpAddr::V4(address)) => u128::from(u32::from(address)),
            Some(IpAddr::V6(address)) => u128::from(address),
            None => 0,
        };
        // Every bit of the address counts; of two on one link the last bits differ.
        let mixed = (wide as u64 ^ (wide >> 64) as u64 ^ u64::from(interface.0) << 56)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self((mixed >> 32) as u32)
    }
}

/// An Ethernet (EUI-48) address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether the group bit is set: multicast or broadcast (IEEE 802-2014 §8.2.2).
    #[inline]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}
