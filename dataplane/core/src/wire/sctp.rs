//! SCTP (RFC 9260 §3). The ports stand where UDP has them.

/// Verification tag.
pub const TAG: usize = 4;
/// CRC32c, least significant byte first.
pub const CRC: usize = 8;
/// Length of the common header.
pub const HEADER_LEN: usize = 12;

/// Of a chunk: its type.
pub const CHUNK_TYPE: usize = 0;
/// Of a chunk: its flags.
pub const CHUNK_FLAGS: usize = 1;
/// Of a chunk: its length with this header, without padding.
pub const CHUNK_LENGTH: usize = 2;
/// Length of a chunk's header.
pub const CHUNK_HEADER_LEN: usize = 4;
/// Length of the fixed part of INIT and INIT ACK behind the chunk's header, which begins with the initiate tag.
pub const INIT_LEN: usize = 16;

/// The type of DATA.
pub const DATA: u8 = 0;
/// In ABORT and SHUTDOWN COMPLETE: the verification tag is the one that was received, not the receiver's.
pub const FLAG_T: u8 = 1;
