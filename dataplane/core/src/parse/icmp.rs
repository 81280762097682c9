//! ICMP and ICMPv6: queries, discovery, and errors with the packet they quote.
//!
//! An error's tuple is the quoted packet's, *inverted*: the way the error itself travels (RFC 5508 §4).
//! So the table finds the connection and the direction that the error belongs to, and its ids are those
//! of a packet that the error's receiver would have been sent by the other end.

use core::net::Ipv6Addr;

use super::Context;
use super::ipv6;
use crate::burst::Origin;
use crate::conntrack::tuple::{FamilyTuple, Tuple, TupleV4, TupleV6, protocol};
use crate::headers::{Headers, Kind};
use crate::verdict::DropReason;
use crate::wire::checksum::Sum;
use crate::wire::icmp::{self, Class};
use crate::wire::{array, be16, ipv4, ipv6 as v6, part, udp};

/// Parses an ICMP message (RFC 792). `base` has the IP header's findings, `outer` the packet's addresses.
pub(super) fn parse_v4(
    message: &[u8],
    context: Context<'_>,
    base: Headers,
    outer: TupleV4,
) -> Result<Headers, DropReason> {
    let Some(header) = message.first_chunk::<{ icmp::HEADER_LEN }>() else {
        return Err(DropReason::TruncatedTransport);
    };
    let (kind, code) = (header[icmp::TYPE], header[icmp::CODE]);
    let base = Headers { tuple: Tuple::V4(outer), icmp_type: kind, icmp_code: code, ..base };
    // C068; RFC 1812 §5.2.7.2: redirects are for hosts on the link that they came from.
    if kind == icmp::v4::REDIRECT && context.origin == Origin::Wire {
        return Err(DropReason::IcmpRedirect);
    }
    // C061; RFC 5508 REQ-3.
    if context.verify_checksums && !Sum::ZERO.bytes(message).is_right() {
        return Ok(invalid(base, DropReason::TransportChecksum));
    }
    let class = Class::of_v4(kind);
    if class == Class::Error {
        let quote = quoted_v4(message)?;
        // The error goes to whom the quoted packet came from (RFC 792), here as there: a host that is told
        // about somebody else's packet is being lied to.
        if quote.tuple.src != outer.dst {
            return Err(DropReason::IcmpErrorUnrelated);
        }
        return Ok(quote.into_headers(base));
    }
    Ok(match class.query_ids(kind, be16(header, icmp::IDENTIFIER)) {
        Some((src_id, dst_id)) => query(base, Tuple::V4(TupleV4 { src_id, dst_id, ..outer })),
        None => invalid(base, DropReason::IcmpNotQuery),
    })
}

/// Parses an ICMPv6 message (RFC 4443); as [`parse_v4`].
pub(super) fn parse_v6(
    message: &[u8],
    context: Context<'_>,
    base: Headers,
    outer: TupleV6,
    addresses: Sum,
) -> Result<Headers, DropReason> {
    let Some(header) = message.first_chunk::<{ icmp::HEADER_LEN }>() else {
        return Err(DropReason::TruncatedTransport);
    };
    let (kind, code) = (header[icmp::TYPE], header[icmp::CODE]);
    let base = Headers { tuple: Tuple::V6(outer), icmp_type: kind, icmp_code: code, ..base };
    let pseudo = addresses.word(u16::from(protocol::ICMPV6)).word(message.len() as u16);
    let right = !context.verify_checksums || pseudo.bytes(message).is_right();
    let class = Class::of_v6(kind);
    if class == Class::Discovery {
        // RFC 4861 §6.1, §7.1, §8.1: what a router could have forwarded is not from the link (C159).
        if base.ttl != 255 || code != 0 || !right {
            return Err(DropReason::NeighbourSpoof);
        }
        return Ok(Headers { kind: Kind::Untracked, ..base });
    }
    if !right {
        return Ok(invalid(base, DropReason::TransportChecksum));
    }
    if class == Class::Error {
        let quote = quoted_v6(message)?;
        if quote.tuple.src != outer.dst {
            return Err(DropReason::IcmpErrorUnrelated);
        }
        return Ok(quote.into_headers(base));
    }
    Ok(match class.query_ids(kind, be16(header, icmp::IDENTIFIER)) {
        Some((src_id, dst_id)) => query(base, Tuple::V6(TupleV6 { src_id, dst_id, ..outer })),
        None if class == Class::Listener => {
            // RFC 2710 §3, RFC 3810 §5: sent with hop limit 1 from a link-local address, or from none yet.
            let source = Ipv6Addr::from(outer.src);
            if base.ttl != 1 || !(source.is_unicast_link_local() || source.is_unspecified()) {
                return Err(DropReason::NeighbourSpoof);
            }
            Headers { kind: Kind::Untracked, ..base }
        }
        None => invalid(base, DropReason::IcmpNotQuery),
    })
}

fn query(base: Headers, tuple: Tuple) -> Headers {
    Headers { kind: Kind::IcmpQuery, tuple, ..base }
}

fn invalid(base: Headers, reason: DropReason) -> Headers {
    Headers { kind: Kind::Invalid, invalid: Some(reason), ..base }
}

/// The packet that an error quotes.
struct Quote<T> {
    /// Its tuple, as quoted.
    tuple: T,
    /// Where its transport header begins, counted from the ICMP header.
    l4: usize,
}

impl<T: FamilyTuple> Quote<T> {
    fn into_headers(self, base: Headers) -> Headers {
        Headers {
            kind: Kind::IcmpError,
            tuple: self.tuple.inverted().into(),
            quote_l3: base.l4 + icmp::HEADER_LEN as u16,
            quote_l4: base.l4 + self.l4 as u16,
            ..base
        }
    }
}

/// The tuple of the IPv4 packet quoted in an error, as quoted: its header and eight bytes at least
/// (RFC 792; RFC 5508 REQ-3). Its checksums are not looked at, nor is its length: routers have changed the
/// one and stacks of old the other.
fn quoted_v4(message: &[u8]) -> Result<Quote<TupleV4>, DropReason> {
    let Some(header) = array::<{ ipv4::HEADER_LEN }>(message, icmp::HEADER_LEN) else {
        return Err(DropReason::IcmpErrorQuote);
    };
    let Some(header_len) = ipv4::header_len(header[ipv4::VERSION_IHL]) else {
        return Err(DropReason::IcmpErrorQuote);
    };
    let l4 = icmp::HEADER_LEN + header_len;
    // Of a later fragment the transport header is not there (RFC 1122 §3.2.2: no errors about those).
    let later = be16(header, ipv4::FRAGMENT) & ipv4::OFFSET_MASK != 0;
    let (false, Some(transport)) = (later, message.get(l4..)) else {
        return Err(DropReason::IcmpErrorQuote);
    };
    let protocol = header[ipv4::PROTOCOL];
    let class = |kind| (protocol == protocol::ICMP).then_some(Class::of_v4(kind));
    let (src_id, dst_id) = quoted_ids(protocol, transport, class)?;
    let tuple = TupleV4 {
        src: part(header, ipv4::SRC),
        dst: part(header, ipv4::DST),
        src_id,
        dst_id,
        protocol,
        ..TupleV4::default()
    };
    Ok(Quote { tuple, l4 })
}

/// The tuple of the IPv6 packet quoted in an error, as [`quoted_v4`].
fn quoted_v6(message: &[u8]) -> Result<Quote<TupleV6>, DropReason> {
    let Some(header) = array::<{ v6::HEADER_LEN }>(message, icmp::HEADER_LEN) else {
        return Err(DropReason::IcmpErrorQuote);
    };
    let walk = ipv6::walk(message, icmp::HEADER_LEN + v6::HEADER_LEN, header[v6::NEXT_HEADER]);
    let (6, Ok(walk)) = (header[0] >> 4, walk) else {
        return Err(DropReason::IcmpErrorQuote);
    };
    let (false, Some(transport)) = (walk.is_later(), message.get(walk.l4..)) else {
        return Err(DropReason::IcmpErrorQuote);
    };
    let class = |kind| (walk.protocol == protocol::ICMPV6).then_some(Class::of_v6(kind));
    let (src_id, dst_id) = quoted_ids(walk.protocol, transport, class)?;
    let tuple = TupleV6 {
        src: part(header, v6::SRC),
        dst: part(header, v6::DST),
        src_id,
        dst_id,
        protocol: walk.protocol,
        ..TupleV6::default()
    };
    Ok(Quote { tuple, l4: walk.l4 })
}

/// The ids of the quoted packet, from the first eight bytes of its transport header. `class` is of an ICMP
/// type, if the quoted packet is ICMP of its family.
fn quoted_ids(
    protocol: u8,
    transport: &[u8],
    class: impl Fn(u8) -> Option<Class>,
) -> Result<(u16, u16), DropReason> {
    // RFC 792, RFC 4443 §2.4 (c): eight bytes at least, whatever the protocol (C057).
    let Some(start) = transport.first_chunk::<8>() else {
        return Err(DropReason::IcmpErrorQuote);
    };
    if matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP | protocol::UDP_LITE) {
        return Ok((be16(start, udp::SRC), be16(start, udp::DST)));
    }
    let kind = start[icmp::TYPE];
    let Some(class) = class(kind) else { return Ok((0, 0)) };
    // C060; RFC 1122 §3.2.2, RFC 4443 §2.4 (e.1).
    if class == Class::Error {
        return Err(DropReason::IcmpErrorNested);
    }
    class.query_ids(kind, be16(start, icmp::IDENTIFIER)).ok_or(DropReason::IcmpErrorUnrelated)
}
