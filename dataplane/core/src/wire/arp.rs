//! ARP for IPv4 over Ethernet (RFC 826).

/// Hardware address space: 1 is Ethernet.
pub const HARDWARE: usize = 0;
/// Protocol address space: an EtherType.
pub const PROTOCOL: usize = 2;
/// Lengths of hardware and protocol addresses, a byte each: 6 and 4.
pub const LENGTHS: usize = 4;
/// Operation.
pub const OPERATION: usize = 6;
/// Sender's hardware address.
pub const SENDER_MAC: usize = 8;
/// Sender's protocol address.
pub const SENDER: usize = 14;
/// Target's protocol address.
pub const TARGET: usize = 24;
/// Length of the packet.
pub const LEN: usize = 28;

/// "Who has it?"
pub const REQUEST: u16 = 1;
/// "I have."
pub const REPLY: u16 = 2;
