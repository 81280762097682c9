//! Every idle timeout: its name in the configuration, its value in each profile, its source and floor; and the policies that
//! some connections have in place of the general ones.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use super::tcp::TcpPolicy;
use crate::time::TIMEOUT_MAX;

/// What a timeout is for; the index into [`Timeouts`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
#[allow(missing_docs)] // each is described by its row in `ROWS`
pub enum TimeoutKind {
    TcpSynSent,
    TcpSynRecv,
    TcpEstablished,
    TcpFinWait,
    TcpCloseWait,
    TcpLastAck,
    TcpTimeWait,
    TcpClose,
    TcpMaxRetrans,
    TcpUnacknowledged,
    Udp,
    UdpStream,
    Icmp,
    IcmpV6,
    Generic,
    SctpClosed,
    SctpCookieWait,
    SctpCookieEchoed,
    SctpEstablished,
    SctpShutdownSent,
    SctpShutdownRecd,
    SctpShutdownAckSent,
    SctpHeartbeatSent,
    Gre,
    GreStream,
}

/// Names a set of timeouts that a connection may begin with in place of the general ones.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct TimeoutPolicyId(pub u8);

impl TimeoutPolicyId {
    /// The general ones.
    pub const NONE: Self = Self(0);

    /// Most policies there can be: a connection keeps the number of its own in four bits.
    pub const MAX: usize = 15;
}

/// What a connection may have in place of the general timeouts and switches (nfct's timeout policies, of all protocols).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TimeoutPolicy {
    /// Its idle timeouts.
    pub timeouts: Timeouts,
    /// Mid-stream pick-up and window checks.
    pub tcp: TcpPolicy,
}

/// All policies by their number, and which zones have one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TimeoutPolicies {
    /// From number 1 on.
    policies: Box<[Option<TimeoutPolicy>]>,
    /// By zone.
    zones: Box<[(u16, TimeoutPolicyId)]>,
}

impl TimeoutPolicies {
    /// The `policies` from number 1 on, of which some may be gone; and which zones have which. Of a zone named twice the first
    /// counts.
    ///
    /// # Panics
    /// If there are more than [`TimeoutPolicyId::MAX`].
    pub fn new(
        policies: Vec<Option<TimeoutPolicy>>,
        mut zones: Vec<(u16, TimeoutPolicyId)>,
    ) -> Self {
        assert!(policies.len() <= TimeoutPolicyId::MAX, "control numbers no more");
        zones.sort_by_key(|(zone, _)| *zone);
        zones.dedup_by_key(|(zone, _)| *zone);
        Self { policies: policies.into(), zones: zones.into() }
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// The policy of that number, unless it is gone.
    pub fn get(&self, TimeoutPolicyId(number): TimeoutPolicyId) -> Option<&TimeoutPolicy> {
        self.policies.get(usize::from(number).checked_sub(1)?)?.as_ref()
    }

    /// The policy of a zone.
    pub fn of_zone(&self, zone: u16) -> TimeoutPolicyId {
        let found = self.zones.binary_search_by_key(&zone, |(zone, _)| *zone);
        found.ok().and_then(|at| self.zones.get(at)).map_or(TimeoutPolicyId::NONE, |(_, id)| *id)
    }
}

/// One timeout: name, values in seconds in the profiles, and what it is.
#[derive(Debug)]
pub struct TimeoutRow {
    /// Which.
    pub kind: TimeoutKind,
    /// Its key in `[timeouts]`.
    pub name: &'static str,
    /// Seconds in profile `rfc`.
    pub rfc: u32,
    /// Seconds in profile `linux` (nf_conntrack_proto_*.c).
    pub linux: u32,
    /// What it times.
    pub text: &'static str,
}

const fn row(
    kind: TimeoutKind,
    name: &'static str,
    rfc: u32,
    linux: u32,
    text: &'static str,
) -> TimeoutRow {
    TimeoutRow { kind, name, rfc, linux, text }
}

/// All timeouts, in the order of [`TimeoutKind`].
pub const ROWS: &[TimeoutRow] = {
    use TimeoutKind::*;
    &[
        // RFC 5382 REQ-5: the transitory timeout (opening and closing) is at least 4 minutes.
        row(TcpSynSent, "tcp_syn_sent", 240, 120, "SYN sent, no answer yet"),
        row(TcpSynRecv, "tcp_syn_recv", 240, 60, "SYN/ACK seen, handshake not complete"),
        // RFC 5382 REQ-5: established connections at least 2 hours 4 minutes.
        row(TcpEstablished, "tcp_established", 7_440, 432_000, "established, idle"),
        row(TcpFinWait, "tcp_fin_wait", 240, 120, "one side closed"),
        row(TcpCloseWait, "tcp_close_wait", 240, 60, "the close was acknowledged"),
        row(TcpLastAck, "tcp_last_ack", 240, 30, "both closed, last ACK awaited"),
        // RFC 5382 §5: after both FINs the mapping may go after the transitory timeout; RFC 9293: 2 MSL.
        row(TcpTimeWait, "tcp_time_wait", 240, 120, "closed, late segments may come"),
        row(TcpClose, "tcp_close", 10, 10, "reset"),
        row(
            TcpMaxRetrans,
            "tcp_max_retrans",
            300,
            300,
            "a segment retransmitted three times without an answer",
        ),
        row(TcpUnacknowledged, "tcp_unacknowledged", 300, 300, "data without an ACK"),
        row(Udp, "udp", 30, 30, "UDP, unreplied or short-lived"),
        // RFC 4787 REQ-5: at least 2 minutes, 5 recommended.
        row(UdpStream, "udp_stream", 300, 120, "UDP, both ways for over two seconds"),
        // RFC 5508 REQ-2: at least 60 seconds.
        row(Icmp, "icmp", 60, 30, "ICMP query"),
        row(IcmpV6, "icmpv6", 60, 30, "ICMPv6 query"),
        row(Generic, "generic", 600, 600, "any other protocol"),
        row(SctpClosed, "sctp_closed", 10, 10, "SCTP, INIT sent, or over"),
        // RFC 9260 §16: RTO.Max is 60 seconds, the longest pause between two attempts.
        row(SctpCookieWait, "sctp_cookie_wait", 60, 3, "SCTP, INIT answered"),
        row(SctpCookieEchoed, "sctp_cookie_echoed", 60, 3, "SCTP, cookie sent back"),
        // RFC 9260 §8.3, §16: an idle path has a HEARTBEAT every 30 seconds and its RTO, with jitter.
        row(SctpEstablished, "sctp_established", 210, 210, "SCTP, established, idle"),
        row(SctpShutdownSent, "sctp_shutdown_sent", 60, 3, "SCTP, original shuts down"),
        row(SctpShutdownRecd, "sctp_shutdown_recd", 60, 3, "SCTP, reply shuts down"),
        row(
            SctpShutdownAckSent,
            "sctp_shutdown_ack_sent",
            60,
            3,
            "SCTP, the shutdown was answered",
        ),
        row(SctpHeartbeatSent, "sctp_heartbeat_sent", 30, 30, "SCTP, another path, unanswered"),
        row(Gre, "gre", 30, 30, "GRE, unreplied"),
        row(GreStream, "gre_stream", 180, 180, "GRE, both ways"),
    ]
};

/// Number of timeouts.
pub const TIMEOUTS: usize = ROWS.len();

const _: () = {
    let mut i = 0;
    while i < TIMEOUTS {
        assert!(ROWS[i].kind as usize == i, "rows stand in the order of the kinds");
        assert!((ROWS[i].linux as u64) < TIMEOUT_MAX.as_secs() && ROWS[i].rfc > 0);
        i += 1;
    }
    assert!(ROWS[TimeoutKind::TcpEstablished as usize].rfc >= 2 * 3600 + 4 * 60);
    assert!(ROWS[TimeoutKind::TcpSynSent as usize].rfc >= 240);
    assert!(ROWS[TimeoutKind::UdpStream as usize].rfc >= 120);
    assert!(ROWS[TimeoutKind::Icmp as usize].rfc >= 60);
    // HB.interval and RTO.Max, both at the end of their jitter.
    assert!(ROWS[TimeoutKind::SctpEstablished as usize].rfc >= 30 + 60 + 60 / 2);
};

/// The idle timeouts in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    ms: [u32; TIMEOUTS],
}

impl Timeouts {
    /// Profile `rfc`, the default.
    pub fn rfc() -> Self {
        Self { ms: core::array::from_fn(|i| ROWS[i].rfc * 1000) }
    }

    /// Profile `linux`.
    pub fn linux() -> Self {
        Self { ms: core::array::from_fn(|i| ROWS[i].linux * 1000) }
    }

    /// Sets one; clamped to 1 ms ..= [`TIMEOUT_MAX`].
    pub fn set(&mut self, kind: TimeoutKind, value: Duration) {
        self.ms[kind as usize] =
            value.min(TIMEOUT_MAX).max(Duration::from_millis(1)).as_millis() as u32;
    }

    /// One of them, milliseconds.
    #[inline]
    pub const fn ms(&self, kind: TimeoutKind) -> u32 {
        self.ms[kind as usize]
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::rfc()
    }
}
