//! ICMP (RFC 792) and ICMPv6 (RFC 4443): one layout, two lists of types.

/// Type.
pub const TYPE: usize = 0;
/// Code.
pub const CODE: usize = 1;
/// Checksum; over the message, and for ICMPv6 the pseudo-header too.
pub const CHECKSUM: usize = 2;
/// Identifier of a query.
pub const IDENTIFIER: usize = 4;
/// Length of the header, after which an error quotes the packet it is about.
pub const HEADER_LEN: usize = 8;

/// ICMP types (IANA).
pub mod v4 {
    #![allow(missing_docs)]
    pub const ECHO_REPLY: u8 = 0;
    pub const UNREACHABLE: u8 = 3;
    pub const SOURCE_QUENCH: u8 = 4;
    pub const REDIRECT: u8 = 5;
    pub const ECHO: u8 = 8;
    pub const TIME_EXCEEDED: u8 = 11;
    pub const PARAMETER_PROBLEM: u8 = 12;
    pub const TIMESTAMP: u8 = 13;
    pub const TIMESTAMP_REPLY: u8 = 14;
    pub const INFORMATION: u8 = 15;
    pub const INFORMATION_REPLY: u8 = 16;
    pub const MASK: u8 = 17;
    pub const MASK_REPLY: u8 = 18;
}

/// ICMPv6 types (IANA).
pub mod v6 {
    #![allow(missing_docs)]
    pub const UNREACHABLE: u8 = 1;
    pub const PACKET_TOO_BIG: u8 = 2;
    pub const TIME_EXCEEDED: u8 = 3;
    pub const PARAMETER_PROBLEM: u8 = 4;
    pub const ECHO: u8 = 128;
    pub const ECHO_REPLY: u8 = 129;
    pub const MLD_QUERY: u8 = 130;
    pub const MLD_DONE: u8 = 132;
    pub const ROUTER_SOLICITATION: u8 = 133;
    pub const REDIRECT: u8 = 137;
    pub const MLD2_REPORT: u8 = 143;
}

/// What an ICMP type is to a connection tracker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// A query.
    Request,
    /// The answer to a query of type `request`.
    Reply {
        /// The query's type.
        request: u8,
    },
    /// An error, which quotes the packet it is about.
    Error,
    /// Neighbour or router discovery (RFC 4861).
    Discovery,
    /// Multicast listener discovery (RFC 2710, RFC 9777).
    Listener,
    /// Anything else.
    Other,
}

impl Class {
    /// The class of an ICMP type.
    #[inline]
    pub const fn of_v4(kind: u8) -> Self {
        match kind {
            v4::ECHO | v4::TIMESTAMP | v4::INFORMATION | v4::MASK => Self::Request,
            v4::ECHO_REPLY => Self::Reply { request: v4::ECHO },
            v4::TIMESTAMP_REPLY | v4::INFORMATION_REPLY | v4::MASK_REPLY => {
                Self::Reply { request: kind - 1 }
            }
            v4::UNREACHABLE
            | v4::SOURCE_QUENCH
            | v4::REDIRECT
            | v4::TIME_EXCEEDED
            | v4::PARAMETER_PROBLEM => Self::Error,
            _ => Self::Other,
        }
    }

    /// The class of an ICMPv6 type. Errors have the highest bit clear, also those of a type yet unknown: whom they are for
    /// decides about them (RFC 4443 §2.1, §2.4).
    #[inline]
    pub const fn of_v6(kind: u8) -> Self {
        match kind {
            v6::ECHO => Self::Request,
            v6::ECHO_REPLY => Self::Reply { request: v6::ECHO },
            0..v6::ECHO => Self::Error,
            v6::ROUTER_SOLICITATION..=v6::REDIRECT => Self::Discovery,
            v6::MLD_QUERY..=v6::MLD_DONE | v6::MLD2_REPORT => Self::Listener,
            _ => Self::Other,
        }
    }

    /// The ids of the tuple of a query or reply: the identifier on the querier's side, on the other the
    /// request's type, shifted; see [`TupleV4`](crate::conntrack::tuple::TupleV4). `None` if it is neither.
    #[inline]
    pub const fn query_ids(self, kind: u8, identifier: u16) -> Option<(u16, u16)> {
        match self {
            Self::Request => Some((identifier, (kind as u16) << 8)),
            Self::Reply { request } => Some(((request as u16) << 8, identifier)),
            _ => None,
        }
    }

    /// Of the ids of a query's or reply's tuple, the identifier.
    #[inline]
    pub const fn identifier(self, src_id: u16, dst_id: u16) -> Option<u16> {
        match self {
            Self::Request => Some(src_id),
            Self::Reply { .. } => Some(dst_id),
            _ => None,
        }
    }
}
