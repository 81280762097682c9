//! UDP (RFC 768), UDP-Lite (RFC 3828) and the common header of SCTP (RFC 9260 §3.1), whose ports stand in
//! the same place.

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

/// SCTP: CRC32c, least significant byte first.
pub const SCTP_CRC: usize = 8;
/// SCTP: length of the common header.
pub const SCTP_HEADER_LEN: usize = 12;
