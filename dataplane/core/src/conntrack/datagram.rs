//! UDP, ICMP queries and every other protocol without a handshake: unreplied, then replied.
//!
//! As Linux does (nf_conntrack_proto_udp.c, _icmp.c, _generic.c): a UDP flow gets the longer stream
//! timeout, and counts as assured, once it has seen replies and lived for over two seconds, so that a
//! DNS exchange does not occupy the table for long. Queries and other protocols have one timeout.

use super::entry::{Cold, HotState, flags};
use super::timeouts::{TimeoutKind, Timeouts};
use super::tuple::protocol;
use crate::time::Tick;

/// A replied UDP flow older than this is a stream, milliseconds (nf_conntrack_proto_udp.c).
const STREAM_AFTER_MS: i32 = 2_000;

/// The timeout of a connection whose first packet was just seen.
pub fn first(ip_protocol: u8, timeouts: &Timeouts) -> u32 {
    timeouts.ms(kind(ip_protocol))
}

/// A further packet of a known connection, in either direction.
pub fn packet(ip_protocol: u8, timeouts: &Timeouts, now: Tick, hot: &mut HotState, cold: &Cold) {
    let timeout_ms = settled(ip_protocol, timeouts, hot);
    hot.timeout_ms = timeout_ms.unwrap_or_else(|| {
        promote(hot, cold, now);
        settled(ip_protocol, timeouts, hot).unwrap_or_else(|| first(ip_protocol, timeouts))
    });
}

/// The timeout after a further packet, milliseconds; `None` for a replied UDP flow that may have to become a
/// stream first: only [`packet`] can tell.
#[inline]
pub fn settled(ip_protocol: u8, timeouts: &Timeouts, hot: &HotState) -> Option<u32> {
    let may_stream = ip_protocol == protocol::UDP || ip_protocol == protocol::UDP_LITE;
    if !may_stream || hot.flags & flags::SEEN_REPLY == 0 {
        return Some(timeouts.ms(kind(ip_protocol)));
    }
    (hot.flags & flags::UDP_STREAM != 0).then(|| timeouts.ms(TimeoutKind::UdpStream))
}

/// Makes a stream of a flow that is old enough.
#[cold]
fn promote(hot: &mut HotState, cold: &Cold, now: Tick) {
    if now.since(Tick(cold.created)) > STREAM_AFTER_MS {
        hot.flags |= flags::UDP_STREAM | flags::ASSURED;
    }
}

const fn kind(ip_protocol: u8) -> TimeoutKind {
    match ip_protocol {
        protocol::UDP | protocol::UDP_LITE => TimeoutKind::Udp,
        protocol::ICMP => TimeoutKind::Icmp,
        protocol::ICMPV6 => TimeoutKind::IcmpV6,
        _ => TimeoutKind::Generic,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// C182
    #[test]
    fn a_replied_udp_flow_becomes_a_stream_after_two_seconds() {
        let timeouts = Timeouts::linux();
        let mut hot =
            HotState { timeout_ms: first(protocol::UDP, &timeouts), ..HotState::default() };
        let cold = Cold { created: 1000, ..Cold::default() };
        let at = |hot: &mut HotState, ms| {
            packet(protocol::UDP, &timeouts, Tick(ms), hot, &cold);
            hot.timeout_ms
        };
        assert_eq!(at(&mut hot, 9000), 30_000, "unreplied, however old");
        hot.flags |= flags::SEEN_REPLY;
        assert_eq!(at(&mut hot, 3000), 30_000, "two seconds are not over two seconds");
        assert_eq!(hot.flags & flags::ASSURED, 0);
        assert_eq!(at(&mut hot, 3001), 120_000);
        assert_ne!(hot.flags & flags::ASSURED, 0);
    }

    /// C181, C185
    #[test]
    fn each_protocol_has_its_timeout() {
        let timeouts = Timeouts::rfc();
        assert_eq!(first(protocol::UDP, &timeouts), 30_000);
        assert_eq!(first(protocol::ICMP, &timeouts), 60_000);
        assert_eq!(first(protocol::ICMPV6, &timeouts), 60_000);
        assert_eq!(first(protocol::GRE, &timeouts), 600_000);
    }
}
