//! Writing another tuple into a packet.
//!
//! What translating one tuple into another does to the checksums is a constant of the connection
//! ([`Deltas`]): it is worked out once, kept in the entry, and added to each packet's checksums (RFC 1624;
//! RFC 3022 §4.2). So a packet costs the same however long it is, and a checksum that arrived wrong leaves
//! wrong. Nothing but addresses, ports or identifier, TTL and checksums is touched (C034, C146).
//!
//! These functions trust [`Headers`] from [`parse`](crate::parse::parse) on the same bytes; on other bytes
//! they write nonsense, or nothing, but do not panic.

mod icmp_error;
#[cfg(test)]
mod tests;

pub use icmp_error::{ErrorPlan, icmp_error};

use zerocopy::IntoBytes;

use crate::conntrack::tuple::{Tuple, TupleV4, TupleV6, protocol};
use crate::headers::{Headers, Kind};
use crate::parse::plain::{L4_V4, L4_V6, Shape};
use crate::wire::checksum::{self, apply, apply_udp, combine};
use crate::wire::crc32c::Crc32c;
use crate::wire::ethernet::HEADER_LEN as L3;
use crate::wire::icmp::{self, Class};
use crate::wire::{array_mut, be16, ipv4, ipv6, part, put, put16, sctp, tcp, udp};

/// What translating a tuple does to the checksums, as one's complement differences.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Deltas {
    /// To the IPv4 header checksum; 0 for IPv6.
    pub l3: u16,
    /// To the transport checksum, if the protocol has one that Postern knows.
    pub l4: u16,
}

impl Deltas {
    /// Those of the other direction of the same connection: what is undone there was done here.
    #[inline]
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self { l3: checksum::reverse(self.l3), l4: checksum::reverse(self.l4) }
    }
}

/// What to do with TTL or hop limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TtlChange {
    /// One less: the packet is forwarded (RFC 1812 §5.3.1). It must not be 0.
    Decrement,
    /// As it is: the packet goes to the host or comes from it.
    Keep,
}

/// The delta of the 16-bit word that TTL is the upper half of, TTL being one less.
const TTL_DELTA: u16 = !0x0100;

/// What turning a packet of tuple `from` into one of tuple `to` does to its checksums. Nothing, if the two
/// are of different families.
///
/// An ICMP checksum does not cover addresses, so there only the identifier counts; that of ICMPv6 covers
/// the pseudo header, as TCP and UDP do (RFC 4443 §2.3).
pub fn deltas(from: &Tuple, to: &Tuple) -> Deltas {
    let ids =
        |id: fn(&Tuple) -> u16| checksum::delta(&id(from).to_be_bytes(), &id(to).to_be_bytes());
    let ids = combine(ids(Tuple::src_id), ids(Tuple::dst_id));
    match (from, to) {
        (Tuple::V4(a), Tuple::V4(b)) => {
            let addresses =
                combine(checksum::delta(&a.src, &b.src), checksum::delta(&a.dst, &b.dst));
            let l4 = if a.protocol == protocol::ICMP { ids } else { combine(addresses, ids) };
            Deltas { l3: addresses, l4 }
        }
        (Tuple::V6(a), Tuple::V6(b)) => {
            let addresses =
                combine(checksum::delta(&a.src, &b.src), checksum::delta(&a.dst, &b.dst));
            Deltas { l3: 0, l4: combine(addresses, ids) }
        }
        _ => Deltas::default(),
    }
}

/// Translates an IPv4 packet to `to` and changes its TTL. `deltas` must be those from the packet's tuple to
/// `to`. A packet that already has that tuple changes its TTL only.
#[inline(always)]
pub fn flow_v4(bytes: &mut [u8], headers: &Headers, to: &TupleV4, deltas: Deltas, ttl: TtlChange) {
    let Tuple::V4(own) = &headers.tuple else { return };
    let Some(header) = array_mut::<{ ipv4::HEADER_LEN }>(bytes, usize::from(headers.l3)) else {
        return;
    };
    let mut delta = 0;
    if ttl == TtlChange::Decrement {
        header[ipv4::TTL] = header[ipv4::TTL].wrapping_sub(1);
        delta = TTL_DELTA;
    }
    let translated = ends::<12>(own.as_bytes()) != ends(to.as_bytes());
    if translated {
        put(header, ipv4::SRC, to.src);
        put(header, ipv4::DST, to.dst);
        delta = combine(delta, deltas.l3);
    }
    let sum = be16(header, ipv4::CHECKSUM);
    put16(header, ipv4::CHECKSUM, apply(sum, delta));
    if translated {
        transport(bytes, headers, (to.src_id, to.dst_id), deltas.l4);
    }
}

/// Translates an IPv6 packet to `to` and changes its hop limit; as [`flow_v4`].
#[inline(always)]
pub fn flow_v6(bytes: &mut [u8], headers: &Headers, to: &TupleV6, deltas: Deltas, ttl: TtlChange) {
    let Tuple::V6(own) = &headers.tuple else { return };
    let Some(header) = array_mut::<{ ipv6::HEADER_LEN }>(bytes, usize::from(headers.l3)) else {
        return;
    };
    if ttl == TtlChange::Decrement {
        header[ipv6::HOP_LIMIT] = header[ipv6::HOP_LIMIT].wrapping_sub(1);
    }
    let translated = ends::<36>(own.as_bytes()) != ends(to.as_bytes());
    if translated {
        put(header, ipv6::SRC, to.src);
        put(header, ipv6::DST, to.dst);
        transport(bytes, headers, (to.src_id, to.dst_id), deltas.l4);
    }
}

/// [`flow_v4`] for a [plain](crate::parse::plain) packet that is forwarded: writes the inverse of `from`, the tuple of
/// the connection's other direction.
#[inline(always)]
pub fn plain_v4(bytes: &mut [u8], shape: Shape, from: &TupleV4, deltas: Deltas) {
    let Some(frame) = array_mut::<{ L4_V4 + udp::HEADER_LEN }>(bytes, 0) else { return };
    let sum = be16(frame, L3 + ipv4::CHECKSUM);
    put16(frame, L3 + ipv4::CHECKSUM, apply(sum, combine(TTL_DELTA, deltas.l3)));
    frame[L3 + ipv4::TTL] = frame[L3 + ipv4::TTL].wrapping_sub(1);
    let (addresses, ids) = from.inverse_wire();
    put(frame, L3 + ipv4::SRC, addresses);
    put(frame, L4_V4 + udp::SRC, ids);
    plain_checksum::<L4_V4>(bytes, shape.is_tcp(), deltas.l4);
}

/// [`plain_v4`] for IPv6.
#[inline(always)]
pub fn plain_v6(bytes: &mut [u8], shape: Shape, from: &TupleV6, deltas: Deltas) {
    let Some(frame) = array_mut::<{ L4_V6 + udp::HEADER_LEN }>(bytes, 0) else { return };
    frame[L3 + ipv6::HOP_LIMIT] = frame[L3 + ipv6::HOP_LIMIT].wrapping_sub(1);
    put(frame, L3 + ipv6::SRC, from.dst);
    put(frame, L3 + ipv6::DST, from.src);
    put16(frame, L4_V6 + udp::SRC, from.dst_id);
    put16(frame, L4_V6 + udp::DST, from.src_id);
    plain_checksum::<L4_V6>(bytes, shape.is_tcp(), deltas.l4);
}

/// Brings a transport checksum up to date.
#[inline(always)]
fn plain_checksum<const L4: usize>(bytes: &mut [u8], is_tcp: bool, delta: u16) {
    let at = L4 + if is_tcp { tcp::CHECKSUM } else { udp::CHECKSUM };
    let Some(checksum) = array_mut::<2>(bytes, at) else { return };
    let before = u16::from_be_bytes(*checksum);
    let after = if is_tcp { apply(before, delta) } else { apply_udp(before, delta) };
    *checksum = after.to_be_bytes();
}

/// The first bytes of a tuple: addresses and ids.
#[inline(always)]
fn ends<const N: usize>(tuple: &[u8]) -> Option<&[u8; N]> {
    tuple.first_chunk()
}

/// Writes ports or identifier and brings the transport checksum up to date.
#[inline(always)]
fn transport(bytes: &mut [u8], headers: &Headers, ids: (u16, u16), delta: u16) {
    if headers.kind == Kind::Later {
        return; // it has none
    }
    let l4 = usize::from(headers.l4);
    match headers.protocol {
        protocol::TCP => {
            let Some(header) = array_mut::<{ tcp::HEADER_LEN }>(bytes, l4) else { return };
            put_ports(header, ids);
            let sum = be16(header, tcp::CHECKSUM);
            put16(header, tcp::CHECKSUM, apply(sum, delta));
        }
        protocol::UDP => udp(bytes, l4, ids, delta),
        _ => other(bytes, headers, ids, delta),
    }
}

#[inline(always)]
fn udp(bytes: &mut [u8], l4: usize, ids: (u16, u16), delta: u16) {
    let Some(header) = array_mut::<{ udp::HEADER_LEN }>(bytes, l4) else { return };
    put_ports(header, ids);
    let sum = be16(header, udp::CHECKSUM);
    put16(header, udp::CHECKSUM, apply_udp(sum, delta));
}

#[inline(never)]
fn other(bytes: &mut [u8], headers: &Headers, ids: (u16, u16), delta: u16) {
    match headers.protocol {
        protocol::ICMP | protocol::ICMPV6 => query(bytes, headers, ids, delta),
        // Its checksum is never zero either (RFC 3828 §3.1), and covers ports and pseudo header however little
        // else.
        protocol::UDP_LITE => udp(bytes, usize::from(headers.l4), ids, delta),
        protocol::SCTP => sctp(bytes, headers, ids),
        _ => {}
    }
}

#[inline(always)]
fn put_ports<const N: usize>(header: &mut [u8; N], (src, dst): (u16, u16)) {
    put16(header, udp::SRC, src);
    put16(header, udp::DST, dst);
}

/// The class of a packet's ICMP type, if it is ICMP of its family.
fn icmp_class(headers: &Headers) -> Option<Class> {
    match (headers.is_v4(), headers.protocol) {
        (true, protocol::ICMP) => Some(Class::of_v4(headers.icmp_type)),
        (false, protocol::ICMPV6) => Some(Class::of_v6(headers.icmp_type)),
        _ => None,
    }
}

fn query(bytes: &mut [u8], headers: &Headers, ids: (u16, u16), delta: u16) {
    let Some(class) = icmp_class(headers) else { return };
    let Some(header) = array_mut::<{ icmp::HEADER_LEN }>(bytes, usize::from(headers.l4)) else {
        return;
    };
    if let Some(identifier) = class.identifier(ids.0, ids.1) {
        put16(header, icmp::IDENTIFIER, identifier);
    } else if headers.is_v4() {
        // Neither an identifier nor a pseudo header: nothing in the message has changed.
        return;
    }
    let sum = be16(header, icmp::CHECKSUM);
    put16(header, icmp::CHECKSUM, apply(sum, delta));
}

/// SCTP's CRC32c covers the whole packet, and no address (RFC 9260 §6.8).
#[cold]
fn sctp(bytes: &mut [u8], headers: &Headers, ids: (u16, u16)) {
    let l4 = usize::from(headers.l4);
    let here = headers.l3.wrapping_add(headers.ip_len).wrapping_sub(headers.l4);
    if let Some(header) = array_mut::<{ sctp::HEADER_LEN }>(bytes, l4) {
        sctp_header(header, here.wrapping_add(headers.more_len), ids);
    }
}

/// Writes the ports of an SCTP packet of `len` bytes, and the CRC32c that they make of the one that was there: one that
/// was wrong stays wrong.
fn sctp_header(header: &mut [u8; sctp::HEADER_LEN], len: u16, ids: (u16, u16)) {
    let before: [u8; 4] = part(header, udp::SRC);
    put_ports(header, ids);
    let after: [u8; 4] = part(header, udp::SRC);
    if before == after {
        return;
    }
    let difference = core::array::from_fn(|i| before[i] ^ after[i]);
    let crc = u32::from_le_bytes(part(header, sctp::CRC)) ^ Crc32c::change(difference, len);
    put(header, sctp::CRC, crc.to_le_bytes());
}
