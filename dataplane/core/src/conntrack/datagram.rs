//! UDP, ICMP queries and every other protocol without a handshake: unreplied, then replied.
//!
//! As Linux does (nf_conntrack_proto_udp.c, _icmp.c, _gre.c, _generic.c): a UDP flow gets the longer stream
//! timeout, and counts as assured, once it has seen replies and lived for over two seconds, so that a
//! DNS exchange does not occupy the table for long; one of UDP-Lite or GRE does with the first packet after a reply.
//! Queries and other protocols have one timeout.

use super::entry::{Cold, HotState, flags};
use super::timeouts::{TimeoutKind, Timeouts};
use super::tuple::protocol;
use crate::time::Tick;

/// A replied UDP flow older than this is a stream, milliseconds (nf_conntrack_proto_udp.c).
const STREAM_AFTER_MS: u32 = 2_000;

/// The timeout of a connection whose first packet was just seen.
pub fn first(ip_protocol: u8, timeouts: &Timeouts) -> u32 {
    timeouts.ms(kind(ip_protocol))
}

/// A further packet of a known connection, in either direction.
pub fn packet(ip_protocol: u8, timeouts: &Timeouts, now: Tick, hot: &mut HotState, cold: &Cold) {
    let timeout_ms = settled(ip_protocol, timeouts, hot);
    hot.timeout_ms = timeout_ms.unwrap_or_else(|| {
        promote(ip_protocol, hot, cold, now);
        settled(ip_protocol, timeouts, hot).unwrap_or_else(|| first(ip_protocol, timeouts))
    });
}

/// The timeout after a further packet, milliseconds; `None` for a replied flow that may have to become a
/// stream first: only [`packet`] can tell.
#[inline]
pub fn settled(ip_protocol: u8, timeouts: &Timeouts, hot: &HotState) -> Option<u32> {
    let Some(stream) = stream(ip_protocol).filter(|_| hot.flags & flags::SEEN_REPLY != 0) else {
        return Some(timeouts.ms(kind(ip_protocol)));
    };
    (hot.flags & flags::ASSURED != 0).then(|| timeouts.ms(stream))
}

/// The timeout of a flow that both sides keep up, if the protocol has one of its own for that.
const fn stream(ip_protocol: u8) -> Option<TimeoutKind> {
    match ip_protocol {
        protocol::UDP | protocol::UDP_LITE => Some(TimeoutKind::UdpStream),
        protocol::GRE => Some(TimeoutKind::GreStream),
        _ => None,
    }
}

/// Makes a stream of a flow that is old enough.
#[cold]
fn promote(ip_protocol: u8, hot: &mut HotState, cold: &Cold, now: Tick) {
    // A flow may be older than ticks can tell by their order; one whose age is a multiple of all that they can count
    // becomes a stream two seconds later.
    if ip_protocol != protocol::UDP || now.0.wrapping_sub(cold.last_end) > STREAM_AFTER_MS {
        hot.flags |= flags::ASSURED;
    }
}

const fn kind(ip_protocol: u8) -> TimeoutKind {
    match ip_protocol {
        protocol::UDP | protocol::UDP_LITE => TimeoutKind::Udp,
        protocol::GRE => TimeoutKind::Gre,
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
        let cold = Cold { last_end: 1000, ..Cold::default() };
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

    /// C182: also of one that was only asked for so long that ticks have gone half round.
    #[test]
    fn a_flow_that_is_answered_after_weeks_becomes_a_stream() {
        let timeouts = Timeouts::linux();
        let cold = Cold { last_end: 1000, ..Cold::default() };
        for days in [1, 24, 25, 30, 49] {
            let mut hot = HotState { flags: flags::SEEN_REPLY, ..HotState::default() };
            let now = Tick(1000).plus_ms(days * 86_400_000);
            packet(protocol::UDP, &timeouts, now, &mut hot, &cold);
            assert_ne!(hot.flags & flags::ASSURED, 0, "after {days} days");
        }
    }

    #[test]
    fn a_replied_flow_of_udp_lite_or_gre_is_a_stream_at_once() {
        let timeouts = Timeouts::linux();
        for (ip_protocol, stream_ms) in [(protocol::UDP_LITE, 120_000), (protocol::GRE, 180_000)] {
            let mut hot = HotState { flags: flags::SEEN_REPLY, ..HotState::default() };
            packet(ip_protocol, &timeouts, Tick(1), &mut hot, &Cold::default());
            assert_eq!(hot.timeout_ms, stream_ms);
            assert_ne!(hot.flags & flags::ASSURED, 0);
        }
    }

    /// C181, C185
    #[test]
    fn each_protocol_has_its_timeout() {
        let timeouts = Timeouts::rfc();
        assert_eq!(first(protocol::UDP, &timeouts), 30_000);
        assert_eq!(first(protocol::ICMP, &timeouts), 60_000);
        assert_eq!(first(protocol::ICMPV6, &timeouts), 60_000);
        assert_eq!(first(protocol::GRE, &timeouts), 30_000);
        assert_eq!(first(protocol::ESP, &timeouts), 600_000);
    }
}
