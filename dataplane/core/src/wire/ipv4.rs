//! IPv4 (RFC 791).

/// Version (4 bits) and header length in 32-bit words (4 bits).
pub const VERSION_IHL: usize = 0;
/// [`VERSION_IHL`] of a header without options.
pub const VERSION_IHL_PLAIN: u8 = 0x45;
/// Type of service; DSCP and ECN since RFC 2474 and RFC 3168.
pub const TOS: usize = 1;
/// Length of the packet, header included.
pub const TOTAL_LEN: usize = 2;
/// Which datagram a fragment is of.
pub const IDENTIFICATION: usize = 4;
/// Flags (3 bits) and fragment offset in 8-byte units (13 bits).
pub const FRAGMENT: usize = 6;
/// Time to live.
pub const TTL: usize = 8;
/// Protocol.
pub const PROTOCOL: usize = 9;
/// Header checksum.
pub const CHECKSUM: usize = 10;
/// Source address.
pub const SRC: usize = 12;
/// Destination address.
pub const DST: usize = 16;
/// Length of the header without options.
pub const HEADER_LEN: usize = 20;

/// Don't Fragment, in [`FRAGMENT`].
pub const DONT_FRAGMENT: u16 = 0x4000;
/// More Fragments, in [`FRAGMENT`].
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// The fragment offset, in [`FRAGMENT`].
pub const OFFSET_MASK: u16 = 0x1fff;

/// Options (RFC 791 §3.1).
pub mod option {
    #![allow(missing_docs)]
    pub const END: u8 = 0;
    pub const NO_OPERATION: u8 = 1;
    pub const RECORD_ROUTE: u8 = 7;
    pub const TIMESTAMP: u8 = 68;
    pub const LOOSE_SOURCE_ROUTE: u8 = 131;
    pub const STRICT_SOURCE_ROUTE: u8 = 137;
    /// Set in the type of an option that every fragment carries.
    pub const COPIED: u8 = 0x80;
}

/// Header length in bytes from the first byte; `None` if it is not version 4 or shorter than 20 bytes.
#[inline(always)]
pub const fn header_len(first: u8) -> Option<usize> {
    match first {
        0x45..=0x4f => Some((first & 0x0f) as usize * 4),
        _ => None,
    }
}
