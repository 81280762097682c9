//! UDP (RFC 768) and UDP-Lite (RFC 3828). The ports of TCP and SCTP stand in the same place.

/// Source port.
pub const SRC: usize = 0;
/// Destination port.
pub const DST: usize = 2;
/// Length of header and data; for UDP-Lite how much of it the checksum covers, 0 being all.
pub const LENGTH: usize = 4;
/// Checksum.
pub const CHECKSUM: usize = 6;
/// Length of the header.
pub const HEADER_LEN: usize = 8;
