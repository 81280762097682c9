//! What can become of a packet.
//!
//! Every packet ends in exactly one [`Verdict`]; every drop has exactly one [`DropReason`]; every
//! reason has exactly one counter ([`counters`](crate::counters)).

use crate::units::{InterfaceId, NextHopTag, WorkerId};

/// What the caller does with the frame after `process_burst`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Send the (rewritten) frame out of `egress`.
    Forward {
        /// Where it leaves.
        egress: InterfaceId,
    },
    /// Hand the frame to the host, through the TAP of `interface`.
    Deliver {
        /// Whose TAP.
        interface: InterfaceId,
        /// What goes first if not all can.
        class: HostClass,
    },
    /// The frame now holds a packet that we originate (ICMP error, TCP RST) about the dropped one:
    /// send it out of `egress`, or to the host if the offender came from the host.
    Reply {
        /// The interface the offender came in by, or whose TAP it came from.
        egress: InterfaceId,
        /// Whether the offender came from the host.
        to_host: bool,
    },
    /// Another worker owns the connection: pass frame and parse results on.
    HandOver {
        /// The owner.
        worker: WorkerId,
    },
    /// All is decided but the next hop's MAC: keep the frame and offer it to
    /// [`Pipeline::resume`](crate::pipeline::Pipeline::resume) when the neighbour is known or given up.
    Hold {
        /// Whom it waits for.
        next_hop: NextHopTag,
    },
    /// A fragment of a datagram that is not whole yet, or has just become whole: keep the frame as number `slot` until
    /// [`Pipeline::next_settled`](crate::pipeline::Pipeline::next_settled) names it. The slot is free.
    Gather {
        /// Below [`fragments::SLOTS`](crate::fragments::SLOTS).
        slot: u16,
    },
    /// As [`Forward`](Self::Forward), but it is longer than `mtu` and may be fragmented: send what
    /// [`fragments::split`](crate::fragments::split) makes of it.
    Split {
        /// Where it leaves.
        egress: InterfaceId,
        /// The longest IP packet that may leave there, bytes.
        mtu: u16,
    },
    /// Give the frame back, nothing more to do; already counted under its reason.
    Drop(DropReason),
}

/// What a packet is to the host. A flood of one class must not cost the host those of a better one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum HostClass {
    /// What keeps the links alive: ARP, neighbour discovery, DHCP.
    Link,
    /// Of a connection that was answered, an operator's login for one; or an answer to the host.
    Established,
    /// What anybody can send: first packets, INVALID.
    Other,
}

impl HostClass {
    /// All classes, the best first.
    pub const ALL: [Self; 3] = [Self::Link, Self::Established, Self::Other];

    /// Number of classes.
    pub const COUNT: usize = Self::ALL.len();

    /// Its place in arrays by class.
    #[inline]
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// Defines [`DropReason`] with a stable machine name and a sentence for people.
macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $text:literal;)*) => {
        /// Why a packet was dropped: one reason each, one counter each.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])* #[doc = $text] $variant,)* }

        impl DropReason {
            /// All reasons, in counter order.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)*];

            /// Stable name used in counters, listings and metrics.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)* }
            }

            /// One sentence for people.
            pub const fn text(self) -> &'static str {
                match self { $(DropReason::$variant => $text,)* }
            }
        }
    };
}

drop_reasons! {
    // parse: Ethernet
    TruncatedEthernet = "truncated_ethernet", "the frame is shorter than its Ethernet header";
    ForeignMac = "foreign_mac", "the destination MAC address is not ours";
    VlanTagged = "vlan_tagged", "VLAN tags are not supported";
    UnknownEtherType = "unknown_ethertype", "neither IPv4, IPv6 nor ARP";
    FrameTooBig = "frame_too_big", "the frame is longer than the interface's MTU allows";
    ArpInvalid = "arp_invalid", "malformed ARP, or ARP about an address that is not on the interface";
    // parse: IP
    Ipv4Header = "ipv4_header", "version, header length or total length of the IPv4 header is wrong";
    Ipv4Checksum = "ipv4_checksum", "the IPv4 header checksum is wrong";
    Ipv4SourceRoute = "ipv4_source_route", "loose or strict source routing was asked for (RFC 7126)";
    Ipv4Options = "ipv4_options", "an IPv4 option is malformed";
    Ipv6Header = "ipv6_header", "version or payload length of the IPv6 header is wrong";
    Ipv6Extension = "ipv6_extension", "an IPv6 extension header is malformed, too long or not allowed";
    Fragment = "fragment", "a fragment that cannot be right: empty, not cut at eight bytes, or beyond 65535 bytes";
    FragmentTiny = "fragment_tiny", "a first fragment without the whole transport header (RFC 1858, RFC 7112)";
    FragmentOverlap = "fragment_overlap", "fragments of one datagram overlap or contradict each other: none is passed on (RFC 5722)";
    FragmentDuplicate = "fragment_duplicate", "the same fragment once more";
    FragmentLimit = "fragment_limit", "more fragments wait than may: of one datagram, one source, one interface, or of all";
    FragmentExpired = "fragment_expired", "the rest of the datagram did not come in time";
    FragmentRefused = "fragment_refused", "another fragment of the same datagram was refused";
    FragmentUnsupported = "fragment_unsupported", "fragments of an ICMP error, of a text that a helper reads, or of what the raw table does not track";
    TtlZero = "ttl_zero", "it arrived with TTL or hop limit 0";
    MartianSource = "martian_source", "the source address can be nobody's: loopback, multicast, broadcast, unspecified or our own";
    MartianDestination = "martian_destination", "the destination address may not be forwarded to";
    ReversePath = "reverse_path", "the route back to the source does not lead out of the ingress interface";
    // parse: transport
    TruncatedTransport = "truncated_transport", "the transport header is cut short or lies about its length";
    PortZero = "port_zero", "source or destination port 0 (RFC 6335)";
    TransportChecksum = "transport_checksum", "the checksum of TCP, UDP, UDP-Lite, SCTP or ICMP is wrong";
    TcpFlags = "tcp_flags", "a combination of TCP flags that no host sends";
    // track
    TcpNotSyn = "tcp_not_syn", "the first packet of a TCP connection is not a SYN and pick-up (loose) is off";
    TcpState = "tcp_state", "the TCP segment does not fit the connection's state";
    TcpBeyondWindow = "tcp_beyond_window", "data beyond what the receiver offered";
    TcpAckUnsent = "tcp_ack_unsent", "it acknowledges data that was never sent";
    TcpAckInvalid = "tcp_ack_invalid", "the SYN/ACK does not acknowledge the SYN that was sent";
    TcpRstSequence = "tcp_rst_sequence", "the RST lies outside the window (RFC 5961)";
    ConnectionClosed = "connection_closed", "the connection is closed and admits nothing new from outside";
    IcmpErrorUnrelated = "icmp_error_unrelated", "an ICMP error about no connection of ours";
    IcmpErrorQuote = "icmp_error_quote", "an ICMP error whose quoted packet is truncated or malformed";
    IcmpErrorNested = "icmp_error_nested", "an ICMP error about an ICMP error (RFC 1122 §3.2.2)";
    IcmpRedirect = "icmp_redirect", "ICMP redirects are never forwarded";
    IcmpNotQuery = "icmp_not_query", "an ICMP reply or unknown type without a query";
    SctpChunk = "sctp_chunk", "an SCTP packet without chunks, with one cut short, or with chunks that do not travel together";
    SctpState = "sctp_state", "the SCTP packet begins no association, or does not fit its state";
    SctpTag = "sctp_tag", "the SCTP verification tag is not its association's";
    // helpers
    HelperAhead = "helper_ahead", "it runs ahead of a segment that its connection's helper has not read yet";
    HelperSplit = "helper_split", "it begins or ends within a text that a helper changed";
    HelperMalformed = "helper_malformed", "a SIP message that contradicts itself, or asks for what is never opened";
    HelperFull = "helper_full", "there is no port or place for what a SIP message asks to be expected";
    // admit
    DeniedByRule = "denied_by_rule", "a rule said DROP";
    DeniedByPolicy = "denied_by_policy", "the chain's policy said DROP";
    RejectedByRule = "rejected_by_rule", "a rule said REJECT";
    TableFull = "table_full", "the connection table is full and nothing in it may be evicted";
    SourceLimit = "source_limit", "its source has as many connections as one may have";
    LimitsFull = "limits_full", "there is no place to count its source's connections";
    BucketFull = "bucket_full", "both index buckets of the connection are full";
    TupleInUse = "tuple_in_use", "another connection already uses this tuple";
    PortsExhausted = "ports_exhausted", "no free external port for this destination";
    PortsNotHere = "ports_not_here", "the nat rule's port range has no port that belongs to this connection's worker";
    RepliesElsewhere = "replies_elsewhere", "a nat rule translates it such that another worker would get its replies";
    AddressGone = "address_gone", "the external address of this connection is not ours any more";
    NoExternalAddress = "no_external_address", "the interface has no address to masquerade behind, or to redirect to";
    // route
    NoRoute = "no_route", "no route to the destination";
    RouteUnreachable = "route_unreachable", "the route says unreachable, prohibit or blackhole";
    TtlExceeded = "ttl_exceeded", "TTL or hop limit ran out here";
    MtuExceeded = "mtu_exceeded", "too big for the egress interface";
    LinkLocalScope = "link_local_scope", "link-local addresses are not forwarded";
    InterfaceDown = "interface_down", "the egress interface is not up";
    NeighbourUnknown = "neighbour_unknown", "the next hop is not known yet, and the packet is of no connection that could wait for it";
    NeighbourFailed = "neighbour_failed", "the next hop does not answer";
    HoldFull = "hold_full", "too many packets already wait for next hops";
    HeldTooLong = "held_too_long", "waited for its next hop until its connection was gone";
    // host
    HostQueueFull = "host_queue_full", "the host did not take its packets fast enough";
    NeighbourSpoof = "neighbour_spoof", "neighbour or listener discovery that cannot come from the link (RFC 4861, RFC 2710)";
    NotForHost = "not_for_host", "link-local control traffic that the host does not take part in";
    // between workers
    HandOverFull = "hand_over_full", "the hand-over ring to the owning worker is full";
    TransmitFull = "transmit_full", "the device did not take frames fast enough";
    NoFrame = "no_frame", "no free frame for it";
    Stopping = "stopping", "the appliance is stopping";
}

impl DropReason {
    /// Number of reasons, and of their counters.
    pub const COUNT: usize = Self::ALL.len();
}

const _: () = assert!(DropReason::COUNT <= u8::MAX as usize);
