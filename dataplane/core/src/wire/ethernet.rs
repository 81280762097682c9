//! Ethernet II (IEEE 802.3 clause 3).

/// Destination MAC.
pub const DST: usize = 0;
/// Source MAC.
pub const SRC: usize = 6;
/// EtherType, or the length of an 802.3 frame.
pub const ETHERTYPE: usize = 12;
/// Length of the header.
pub const HEADER_LEN: usize = 14;

/// EtherTypes (IANA, IEEE).
pub mod ethertype {
    #![allow(missing_docs)]
    pub const IPV4: u16 = 0x0800;
    pub const ARP: u16 = 0x0806;
    pub const IPV6: u16 = 0x86dd;
    /// IEEE 802.1Q.
    pub const VLAN: u16 = 0x8100;
    /// IEEE 802.1ad.
    pub const SERVICE_VLAN: u16 = 0x88a8;
}
