//! TCP (RFC 9293 §3.1).

/// Source port.
pub const SRC: usize = 0;
/// Destination port.
pub const DST: usize = 2;
/// Sequence number.
pub const SEQ: usize = 4;
/// Acknowledgment number.
pub const ACK: usize = 8;
/// Data offset in 32-bit words, upper four bits.
pub const DATA_OFFSET: usize = 12;
/// Flags; see [`tcp_flags`](crate::headers::tcp_flags).
pub const FLAGS: usize = 13;
/// Window.
pub const WINDOW: usize = 14;
/// Checksum.
pub const CHECKSUM: usize = 16;
/// Length of the header without options.
pub const HEADER_LEN: usize = 20;
