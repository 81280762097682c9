//! IPv6 and its extension headers (RFC 8200).

/// Length of what follows the fixed header.
pub const PAYLOAD_LEN: usize = 4;
/// Protocol of what follows.
pub const NEXT_HEADER: usize = 6;
/// Hop limit.
pub const HOP_LIMIT: usize = 7;
/// Source address.
pub const SRC: usize = 8;
/// Destination address.
pub const DST: usize = 24;
/// Length of the fixed header.
pub const HEADER_LEN: usize = 40;
/// Length of a fragment header (RFC 8200 §4.5).
pub const FRAGMENT_LEN: usize = 8;

/// Next Header values that are extension headers to be walked over (RFC 8200 §4). AH and ESP are not: they
/// end the walk, as a transport protocol does.
pub mod extension {
    #![allow(missing_docs)]
    pub const HOP_BY_HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const DESTINATION: u8 = 60;
}

/// Option types of hop-by-hop and destination options (RFC 8200 §4.2, RFC 2675).
pub mod option {
    #![allow(missing_docs)]
    pub const PAD1: u8 = 0;
    pub const JUMBO: u8 = 0xc2;
}
