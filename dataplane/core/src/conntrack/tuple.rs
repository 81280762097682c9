//! Tuples: what one direction of a connection looks like on the wire.
//!
//! An entry holds two, original and reply; when nothing is translated one is the other inverted. The
//! two families have their own compact types, stored in entries and compared as a whole; [`Tuple`] is
//! either of them, for first packets and for control.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// IP protocol numbers (IANA) the core treats specially.
pub mod protocol {
    #![allow(missing_docs)]
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const GRE: u8 = 47;
    pub const ESP: u8 = 50;
    pub const AH: u8 = 51;
    pub const ICMPV6: u8 = 58;
    pub const SCTP: u8 = 132;
    pub const UDP_LITE: u8 = 136;
}

/// Way of the first packet, or the way back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Direction {
    /// As the first packet went.
    Original = 0,
    /// The way back.
    Reply = 1,
}

impl Direction {
    /// The other direction.
    #[inline]
    #[must_use]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }

    /// The direction as an array index.
    #[inline]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The direction with that index: 0 original, otherwise reply.
    #[inline]
    pub const fn from_index(index: u32) -> Self {
        if index == 0 { Self::Original } else { Self::Reply }
    }
}

/// One direction of an IPv4 connection. Sixteen bytes, no padding, so that it is hashed and compared
/// as a whole.
///
/// Its zone is the one that packets of this direction arrive in: networks that use the same addresses have one each, so
/// that their connections do not meet (nf_conntrack_zones). The two directions of a connection may have different ones.
///
/// For an ICMP query the identifier stands on the querier's side, as a port would: a request has
/// `src_id` = identifier and `dst_id` = request type << 8; its reply the two exchanged. Protocols
/// without ports have both ids zero.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct TupleV4 {
    /// Source address, network order.
    pub src: [u8; 4],
    /// Destination address, network order.
    pub dst: [u8; 4],
    /// Source port or query identifier, host order.
    pub src_id: u16,
    /// Destination port or query identifier, host order.
    pub dst_id: u16,
    /// Conntrack zone; 0 unless something says otherwise.
    pub zone: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
}

/// One direction of an IPv6 connection; see [`TupleV4`].
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct TupleV6 {
    /// Source address.
    pub src: [u8; 16],
    /// Destination address.
    pub dst: [u8; 16],
    /// Source port or query identifier, host order.
    pub src_id: u16,
    /// Destination port or query identifier, host order.
    pub dst_id: u16,
    /// Conntrack zone; 0 unless something says otherwise.
    pub zone: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
}

const _: () = assert!(size_of::<TupleV4>() == 16 && size_of::<TupleV6>() == 40);

/// What the table needs to know of a tuple: one implementation for each family.
pub trait FamilyTuple:
    Copy + Eq + Default + FromBytes + IntoBytes + Immutable + KnownLayout + Into<Tuple> + 'static
{
    /// The tuple of the way back when nothing is translated.
    #[must_use]
    fn inverted(self) -> Self;
    /// Whether both are the same, all bytes at once.
    fn same(&self, other: &Self) -> bool;
    /// IP protocol number.
    fn protocol(&self) -> u8;
    /// Conntrack zone.
    fn zone(&self) -> u16;
    /// The same tuple in another zone.
    #[must_use]
    fn in_zone(self, zone: u16) -> Self;
    /// The tuple if it is of this family.
    fn of(tuple: &Tuple) -> Option<&Self>;
}

macro_rules! family_tuple {
    ($type:ident, $variant:ident, $words:literal) => {
        impl FamilyTuple for $type {
            #[inline]
            fn inverted(self) -> Self {
                Self {
                    src: self.dst,
                    dst: self.src,
                    src_id: self.dst_id,
                    dst_id: self.src_id,
                    ..self
                }
            }

            #[inline]
            fn same(&self, other: &Self) -> bool {
                // Word by word: a wider load over what was just stored in words would wait for it.
                let [a, b]: [[u64; $words]; 2] =
                    [zerocopy::transmute!(*self), zerocopy::transmute!(*other)];
                a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
            }

            #[inline]
            fn protocol(&self) -> u8 {
                self.protocol
            }

            #[inline]
            fn zone(&self) -> u16 {
                self.zone
            }

            #[inline]
            fn in_zone(self, zone: u16) -> Self {
                Self { zone, ..self }
            }

            #[inline]
            fn of(tuple: &Tuple) -> Option<&Self> {
                match tuple {
                    Tuple::$variant(tuple) => Some(tuple),
                    _ => None,
                }
            }
        }

        impl From<$type> for Tuple {
            fn from(tuple: $type) -> Self {
                Self::$variant(tuple)
            }
        }
    };
}

impl TupleV4 {
    /// As two words, as they are hashed.
    #[inline]
    pub fn words(&self) -> [u64; 2] {
        let words: [[u8; 8]; 2] = zerocopy::transmute!(*self);
        words.map(u64::from_le_bytes)
    }

    /// Source and destination as the header of a packet of the inverse tuple has them: addresses, ids.
    #[inline]
    pub fn inverse_wire(&self) -> ([u8; 8], [u8; 4]) {
        let addresses: [[u8; 4]; 2] = [self.dst, self.src];
        let ids = u32::from(self.dst_id) << 16 | u32::from(self.src_id);
        (zerocopy::transmute!(addresses), ids.to_be_bytes())
    }
}

family_tuple!(TupleV4, V4, 2);
family_tuple!(TupleV6, V6, 5);

/// A tuple of either family.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Tuple {
    /// IPv4.
    V4(TupleV4),
    /// IPv6.
    V6(TupleV6),
}

impl Default for Tuple {
    fn default() -> Self {
        Self::V4(TupleV4::default())
    }
}

/// Reads a field that both families have.
macro_rules! either {
    ($self:expr, $tuple:ident => $value:expr) => {
        match $self {
            Tuple::V4($tuple) => $value,
            Tuple::V6($tuple) => $value,
        }
    };
}

impl Tuple {
    /// A tuple of the family of its addresses; `None` if the two differ.
    pub fn new(src: IpAddr, dst: IpAddr, src_id: u16, dst_id: u16, protocol: u8) -> Option<Self> {
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Some(Self::V4(TupleV4 {
                src: src.octets(),
                dst: dst.octets(),
                src_id,
                dst_id,
                protocol,
                ..TupleV4::default()
            })),
            (IpAddr::V6(src), IpAddr::V6(dst)) => Some(Self::V6(TupleV6 {
                src: src.octets(),
                dst: dst.octets(),
                src_id,
                dst_id,
                protocol,
                ..TupleV6::default()
            })),
            _ => None,
        }
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> IpAddr {
        match self {
            Self::V4(t) => IpAddr::V4(Ipv4Addr::from(t.src)),
            Self::V6(t) => IpAddr::V6(Ipv6Addr::from(t.src)),
        }
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> IpAddr {
        match self {
            Self::V4(t) => IpAddr::V4(Ipv4Addr::from(t.dst)),
            Self::V6(t) => IpAddr::V6(Ipv6Addr::from(t.dst)),
        }
    }

    /// Source port or query identifier.
    #[inline]
    pub fn src_id(&self) -> u16 {
        either!(self, t => t.src_id)
    }

    /// Destination port or query identifier.
    #[inline]
    pub fn dst_id(&self) -> u16 {
        either!(self, t => t.dst_id)
    }

    /// IP protocol number.
    #[inline]
    pub fn protocol(&self) -> u8 {
        either!(self, t => t.protocol)
    }

    /// Conntrack zone.
    #[inline]
    pub fn zone(&self) -> u16 {
        either!(self, t => t.zone)
    }

    /// The same tuple in another zone.
    #[inline]
    #[must_use]
    pub fn in_zone(self, zone: u16) -> Self {
        match self {
            Self::V4(t) => Self::V4(t.in_zone(zone)),
            Self::V6(t) => Self::V6(t.in_zone(zone)),
        }
    }

    /// The tuple of the way back when nothing is translated.
    #[inline]
    #[must_use]
    pub fn inverted(self) -> Self {
        match self {
            Self::V4(t) => Self::V4(t.inverted()),
            Self::V6(t) => Self::V6(t.inverted()),
        }
    }

    /// The same tuple with another source; `None` if the address is of the other family.
    #[must_use]
    pub fn with_src(mut self, address: IpAddr, id: u16) -> Option<Self> {
        match (&mut self, address) {
            (Self::V4(t), IpAddr::V4(address)) => (t.src, t.src_id) = (address.octets(), id),
            (Self::V6(t), IpAddr::V6(address)) => (t.src, t.src_id) = (address.octets(), id),
            _ => return None,
        }
        Some(self)
    }

    /// The same tuple with another destination; `None` if the address is of the other family.
    #[must_use]
    pub fn with_dst(mut self, address: IpAddr, id: u16) -> Option<Self> {
        match (&mut self, address) {
            (Self::V4(t), IpAddr::V4(address)) => (t.dst, t.dst_id) = (address.octets(), id),
            (Self::V6(t), IpAddr::V6(address)) => (t.dst, t.dst_id) = (address.octets(), id),
            _ => return None,
        }
        Some(self)
    }
}
