//! What parsing found out about a packet: offsets, lengths and the tuple. Plain data, so that it
//! travels with the frame when another worker takes over.

use crate::conntrack::tuple::Tuple;

/// What sort of packet it is: decides which rooms it visits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Kind {
    /// A segment or datagram that belongs to a connection by its tuple alone.
    #[default]
    Flow,
    /// TCP: the same, with state and window to check ([`Headers::tcp`] is filled).
    Tcp,
    /// An ICMP or ICMPv6 query or its reply; the tuple carries the identifier.
    IcmpQuery,
    /// An ICMP or ICMPv6 error; the tuple is the *inverse* of the quoted packet's: the way the error travels.
    IcmpError,
    /// Tracked by nobody: neighbour discovery, multicast listener discovery, DHCP exceptions.
    /// The host takes it, or sent it.
    Untracked,
    /// ARP, between the wire and the host.
    Arp,
    /// A fragment of a datagram that is not whole: its tuple's ids are the datagram's identification, and for IPv6 its
    /// protocol is 0, so that all fragments of one datagram have one tuple. [`Headers::l4`] is where its data begins.
    Fragment,
    /// A fragment, not the first, of a datagram that is whole: of a flow by its tuple, but without a transport header.
    Later,
    /// Reads as nothing that conntrack may track (bad flags, bad transport checksum, a reply type
    /// without a query): INVALID, with the reason in [`Headers::invalid`].
    Invalid,
}

/// TCP flags as they stand in the header's fourteenth byte (RFC 9293 §3.1).
pub mod tcp_flags {
    #![allow(missing_docs)]
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
    pub const URG: u8 = 0x20;
    pub const ECE: u8 = 0x40;
    pub const CWR: u8 = 0x80;
}

/// The TCP header's numbers, host order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpSummary {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number; meaningful with ACK only.
    pub ack: u32,
    /// Window as in the header, unscaled.
    pub window: u16,
    /// Payload bytes (without SYN and FIN, which take a sequence number each).
    pub payload_len: u16,
    /// See [`tcp_flags`].
    pub flags: u8,
    /// Length of the header with options, bytes: 20..=60.
    pub header_len: u8,
}

/// A packet's headers. Offsets count from the start of the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Headers {
    /// The tuple as it stands in the packet. For an ICMP error: the inverse of the quoted packet's tuple, so that
    /// the table finds the connection in the direction in which the error itself travels; its destination is the
    /// error's own. [`parse::addresses`](crate::parse::addresses) has the addresses of the error itself.
    pub tuple: Tuple,
    /// TCP numbers; zero for other protocols.
    pub tcp: TcpSummary,
    /// Where the IP header begins.
    pub l3: u16,
    /// Where the transport header begins (past IPv4 options or IPv6 extension headers).
    pub l4: u16,
    /// Length of the IP packet, bytes: the total length field, or 40 + payload length.
    pub ip_len: u16,
    /// Of the first fragment of a datagram that is whole: bytes of its transport packet that the others bring.
    pub more_len: u16,
    /// For an ICMP error: where the quoted IP header begins.
    pub quote_l3: u16,
    /// For an ICMP error: where the quoted transport header begins.
    pub quote_l4: u16,
    /// What sort of packet.
    pub kind: Kind,
    /// TTL or hop limit as it arrived.
    pub ttl: u8,
    /// TOS or traffic class.
    pub tos: u8,
    /// The packet's own transport protocol (for an ICMP error that of the error, not of the quote).
    pub protocol: u8,
    /// ICMP type, if it is ICMP.
    pub icmp_type: u8,
    /// ICMP code, if it is ICMP.
    pub icmp_code: u8,
    /// Whether IPv4's Don't Fragment is set; always true for IPv6.
    pub dont_fragment: bool,
    /// Whether the frame was not for us alone: its destination MAC is a group address, or another station's that
    /// only promiscuous mode let in. Such a packet may be delivered, never forwarded or answered.
    pub l2_group: bool,
    /// Why, if `kind` is [`Kind::Invalid`].
    pub invalid: Option<crate::verdict::DropReason>,
}

impl Headers {
    /// Whether the packet is IPv4 (otherwise IPv6; meaningless for ARP).
    #[inline]
    pub const fn is_v4(&self) -> bool {
        matches!(self.tuple, Tuple::V4(_))
    }
}
