//! Wire formats: where each field stands.
//!
//! One protocol a file: the offsets of the fields that Postern reads or writes, counted from the start of
//! that protocol's header, the constants of its standard, and the few decisions that depend on nothing else.
//! Headers are taken as arrays ([`array()`]): one length check, after which a constant offset needs none and
//! cannot panic. Numbers are in network order here and in host order everywhere else.

pub mod arp;
pub mod checksum;
pub mod crc32c;
pub mod ethernet;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod sctp;
pub mod tcp;
pub mod udp;

#[cfg(test)]
pub(crate) mod testing;

/// The `N` bytes at `at`, or `None` if `bytes` ends before them.
#[inline(always)]
pub fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<&[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// The `N` bytes at `at`, to be changed.
#[inline(always)]
pub fn array_mut<const N: usize>(bytes: &mut [u8], at: usize) -> Option<&mut [u8; N]> {
    bytes.get_mut(at..at.checked_add(N)?)?.try_into().ok()
}

/// The 16-bit number at `at`, a constant below `N - 1`.
#[inline(always)]
pub const fn be16<const N: usize>(header: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([header[at], header[at + 1]])
}

/// The 32-bit number at `at`, a constant below `N - 3`.
#[inline(always)]
pub const fn be32<const N: usize>(header: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

/// Writes a 16-bit number at `at`, a constant below `N - 1`.
#[inline(always)]
pub const fn put16<const N: usize>(header: &mut [u8; N], at: usize, value: u16) {
    [header[at], header[at + 1]] = value.to_be_bytes();
}

/// The `M` bytes at `at`, a constant of at most `N - M`.
#[inline(always)]
pub const fn part<const N: usize, const M: usize>(header: &[u8; N], at: usize) -> [u8; M] {
    let mut out = [0; M];
    let mut i = 0;
    while i < M {
        out[i] = header[at + i];
        i += 1;
    }
    out
}

/// Writes `M` bytes at `at`, a constant of at most `N - M`.
#[inline(always)]
pub const fn put<const N: usize, const M: usize>(header: &mut [u8; N], at: usize, value: [u8; M]) {
    let mut i = 0;
    while i < M {
        header[at + i] = value[i];
        i += 1;
    }
}
