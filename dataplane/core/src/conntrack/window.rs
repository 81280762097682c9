//! Is this segment believable? TCP's windows, as seen from the middle.
//!
//! `tcp.rs` asks whether a segment is *expected*; here its numbers are checked against what both
//! peers said before. The equations are Guido van Rooij's ("Real Stateful TCP Packet Filtering in IP
//! Filter", 2001), with the slack and the leniency of Linux 6.18. For a segment `seq..end` that
//! acknowledges `ack` (`sack`: the furthest of `ack` and its SACK blocks), with `sender` and `receiver`
//! the two [`Peer`]s:
//!
//! - I. `seq <= sender.max_end`: it begins within what the receiver offered.
//! - II. `end >= sender.end - receiver.max_window`: it is no older than one window.
//! - III. `sack <= receiver.end`: it acknowledges what was sent.
//! - IV. `sack >= receiver.end - max(66000, sender.max_window)`: its ACK is not too old.
//!
//! A segment that fails I or III is INVALID. One that fails II or IV is late, not false: it passes and
//! teaches nothing ([`Belief::Ignore`]). All arithmetic is modulo 2^32 (RFC 9293 §3.4).
//!
//! Owner: one worker. Allocates: never. A segment that is not accepted changes nothing, with the one
//! exception of [`Belief::Overshot`].

use super::entry::{Peer, Warm, peer_flags};
use super::tcp_options::{Offer, offer};
use super::tuple::Direction;
use crate::headers::{TcpSummary, tcp_flags};
use crate::verdict::DropReason;

/// Sequence numbers compare by signed difference: RFC 9293 §3.4.
pub mod sequence {
    /// Whether `a` comes before `b`.
    #[inline]
    pub const fn before(a: u32, b: u32) -> bool {
        (a.wrapping_sub(b) as i32) < 0
    }

    /// Whether `a` comes after `b`.
    #[inline]
    pub const fn after(a: u32, b: u32) -> bool {
        before(b, a)
    }
}

use sequence::{after, before};

/// RFC 7323 §2.3: the window must be less than 2^30. Bounds what a peer can make us believe.
pub const WINDOW_MAX: u32 = (1 << 30) - 1;
const _: () = assert!(WINDOW_MAX == 1_073_741_823);
const _: () = assert!((u16::MAX as u32) << super::tcp_options::WINDOW_SCALE_MAX <= WINDOW_MAX);

/// Least slack of equation IV: the largest unscaled window and some (Linux's MAXACKWINCONST).
pub const ACK_SLACK_MIN: u32 = 66_000;

/// A segment's numbers, ready for the equations.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Which way it goes.
    pub direction: Direction,
    /// First sequence number.
    pub seq: u32,
    /// Last sequence number plus one; SYN and FIN take one each.
    pub end: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// The furthest number acknowledged, SACK blocks included.
    pub sack: u32,
    /// Window as in the header.
    pub window: u16,
    /// See [`tcp_flags`].
    pub flags: u8,
}

impl Segment {
    /// The numbers of a segment, SACK not looked at yet.
    #[inline]
    pub fn new(direction: Direction, tcp: &TcpSummary) -> Self {
        // SYN is bit 1, FIN bit 0.
        let control = (tcp.flags & tcp_flags::FIN) + ((tcp.flags & tcp_flags::SYN) >> 1);
        Self {
            direction,
            seq: tcp.seq,
            end: tcp.seq.wrapping_add(u32::from(tcp.payload_len)).wrapping_add(u32::from(control)),
            ack: tcp.ack,
            sack: tcp.ack,
            window: tcp.window,
            flags: tcp.flags,
        }
    }

    /// The numbers of a segment known to be an ACK without SYN, FIN or RST.
    #[inline]
    pub fn of_ack(direction: Direction, tcp: &TcpSummary) -> Self {
        Self {
            direction,
            seq: tcp.seq,
            end: tcp.seq.wrapping_add(u32::from(tcp.payload_len)),
            ack: tcp.ack,
            sack: tcp.ack,
            window: tcp.window,
            flags: tcp_flags::ACK,
        }
    }

    /// Whether any of `flags` is set.
    #[inline]
    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }
}

/// What the equations say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Belief {
    /// All four hold; the peers were updated.
    Accept,
    /// II or IV fails: late. Passes, nothing was changed.
    Ignore,
    /// I fails by no more than a window, the rest holds: a sender that does not keep to the window.
    /// Passes without a state change, but `sender.end` was moved: should the rules let it through,
    /// its ACK must not look like an ACK of data never sent.
    Overshot,
    /// I or III fails.
    Invalid(DropReason),
}

/// Shift count of a peer's windows.
#[inline]
const fn scale(scales: u8, direction: Direction) -> u32 {
    (scales >> (direction as u32 * 4)) as u32 & 0xf
}

/// `scales` with the shift count of one peer replaced.
const fn with_scale(scales: u8, direction: Direction, shift: u8) -> u8 {
    match direction {
        Direction::Original => (scales & 0xf0) | shift,
        Direction::Reply => (scales & 0x0f) | (shift << 4),
    }
}

/// Checks a segment whose sender is known ([`Peer::max_window`] not 0) against the equations, and
/// updates both peers if it is accepted.
///
/// `segment.ack` and `segment.sack` must mean something: see [`effective_ack`].
#[inline]
pub fn believe(segment: &Segment, warm: &mut Warm) -> Belief {
    let (from, to) = (segment.direction.index(), segment.direction.opposite().index());
    let (sender, receiver) = (warm.peers[from], warm.peers[to]);
    let &Segment { seq, end, ack, sack, .. } = segment;
    if after(seq, sender.max_end) {
        return beyond_window(segment, warm); // I
    }
    if after(sack, receiver.end) {
        return Belief::Invalid(DropReason::TcpAckUnsent); // III
    }
    let oldest = sender.end.wrapping_sub(receiver.max_window);
    if receiver.max_window != 0 && before(end, oldest) {
        return Belief::Ignore; // II
    }
    let slack = sender.max_window.max(ACK_SLACK_MIN);
    if before(sack, receiver.end.wrapping_sub(slack)) {
        return Belief::Ignore; // IV
    }
    update(segment, warm, ack == receiver.end);
    Belief::Accept
}

/// The same, shorter, for an ACK without SACK blocks if all is plain: both peers known and
/// heard of, the segment wholly within the window. Says whether it was accepted; if not, nothing was
/// changed, and [`believe`] knows why.
#[inline]
pub fn believe_plain(segment: &Segment, warm: &mut Warm) -> bool {
    let (from, to) = (segment.direction.index(), segment.direction.opposite().index());
    let (mut sender, mut receiver) = (warm.peers[from], warm.peers[to]);
    let &Segment { seq, end, ack, .. } = segment;
    let slack = sender.max_window.max(ACK_SLACK_MIN);
    // The equations hold if no difference is negative: one test for all.
    let differences = sender.max_end.wrapping_sub(seq)
        | sender.max_end.wrapping_sub(end)
        | end.wrapping_sub(sender.end.wrapping_sub(receiver.max_window))
        | receiver.end.wrapping_sub(ack)
        | ack.wrapping_sub(receiver.end.wrapping_sub(slack));
    let mut flags = warm.peer_flags;
    let known = receiver.max_window != 0 && flags[from] & peer_flags::MAX_ACK_SET != 0;
    if !known || (differences as i32) < 0 {
        return false;
    }
    // From here on as `update`.
    let window = u32::from(segment.window) << scale(warm.scales, segment.direction);
    sender.max_window = sender.max_window.max(window);
    if after(end, sender.end) {
        sender.end = end;
        flags[from] |= peer_flags::DATA_UNACKNOWLEDGED;
    }
    if after(ack, sender.max_ack) {
        sender.max_ack = ack;
    }
    let edge = ack.wrapping_add(window);
    if !before(edge, receiver.max_end) {
        receiver.max_end = edge.wrapping_add(u32::from(window == 0));
    }
    if ack == receiver.end {
        flags[to] &= !peer_flags::DATA_UNACKNOWLEDGED;
    }
    warm.peers[from] = sender;
    warm.peers[to].max_end = receiver.max_end;
    warm.peer_flags = flags;
    true
}

/// Takes an accepted segment's numbers over into both peers.
#[inline]
fn update(segment: &Segment, warm: &mut Warm, acknowledges_all: bool) {
    let (from, to) = (segment.direction.index(), segment.direction.opposite().index());
    let (mut sender, mut receiver) = (warm.peers[from], warm.peers[to]);
    let &Segment { end, ack, sack, .. } = segment;
    let mut sender_flags = warm.peer_flags[from];
    let mut receiver_flags = warm.peer_flags[to];

    // RFC 7323 §2.2: the window field of a SYN is never scaled.
    let shift = if segment.has(tcp_flags::SYN) { 0 } else { scale(warm.scales, segment.direction) };
    let window = u32::from(segment.window) << shift;

    // The offer reaches from the ACK; what SACK blocks took beyond it counts as offered too.
    let offered = window.wrapping_add(sack.wrapping_sub(ack)).min(WINDOW_MAX);
    sender.max_window = sender.max_window.max(offered);
    if after(end, sender.end) {
        sender.end = end;
        sender_flags |= peer_flags::DATA_UNACKNOWLEDGED;
    }
    if segment.has(tcp_flags::ACK)
        && (sender_flags & peer_flags::MAX_ACK_SET == 0 || after(ack, sender.max_ack))
    {
        sender.max_ack = ack;
        sender_flags |= peer_flags::MAX_ACK_SET;
    }

    if receiver.max_window != 0 && after(end, sender.max_end) {
        receiver.max_window = enlarged(receiver.max_window, end.wrapping_sub(sender.max_end));
    }
    let edge = sack.wrapping_add(window);
    if !before(edge, receiver.max_end) {
        // A window of 0 still admits a probe of one byte (RFC 9293 §3.8.6.1).
        receiver.max_end = edge.wrapping_add(u32::from(window == 0));
    }
    if acknowledges_all {
        receiver_flags &= !peer_flags::DATA_UNACKNOWLEDGED;
    }

    warm.peers[from] = sender;
    warm.peers[to] = receiver;
    warm.peer_flags[from] = sender_flags;
    warm.peer_flags[to] = receiver_flags;
}

/// A segment that begins inside the window may end beyond it: the receiver's window was larger than
/// we knew.
#[cold]
fn enlarged(window: u32, excess: u32) -> u32 {
    window.saturating_add(excess).min(WINDOW_MAX)
}

/// Equation I failed: false, or a sender that does not keep to the window by less than a window.
#[cold]
fn beyond_window(segment: &Segment, warm: &mut Warm) -> Belief {
    let (from, to) = (segment.direction.index(), segment.direction.opposite().index());
    let (sender, receiver) = (warm.peers[from], warm.peers[to]);
    let &Segment { end, sack, .. } = segment;
    let overshot = end.wrapping_sub(sender.max_end).wrapping_add(1);
    let slack = sender.max_window.max(ACK_SLACK_MIN);
    let tolerable = receiver.max_window != 0
        && !before(end, sender.end.wrapping_sub(receiver.max_window))
        && !before(sack, receiver.end.wrapping_sub(slack))
        && overshot <= receiver.max_window
        && !after(sack, receiver.end);
    if !tolerable {
        return Belief::Invalid(DropReason::TcpBeyondWindow);
    }
    // Differs: Linux moves it back too, and then refuses the ACK of what was sent before.
    if after(end, sender.end) {
        warm.peers[from].end = end;
    }
    warm.peer_flags[from] |= peer_flags::DATA_UNACKNOWLEDGED;
    Belief::Overshot
}

/// Makes `ack` and `sack` of a segment mean something where the header's do not: without ACK, and in
/// the RST of stacks that set ACK with the number 0, they are what the sender would acknowledge.
#[inline]
pub fn effective_ack(segment: &mut Segment, warm: &Warm) {
    let ack_means_nothing =
        !segment.has(tcp_flags::ACK) || (segment.has(tcp_flags::RST) && segment.ack == 0);
    if ack_means_nothing {
        let receiver = &warm.peers[segment.direction.opposite().index()];
        segment.ack = receiver.end;
        segment.sack = receiver.end;
    }
}

/// Takes over what a SYN or SYN/ACK says of its sender: sequence number, window, options.
#[cold]
pub fn learn_syn(segment: &Segment, offer: Offer, warm: &mut Warm) {
    let (from, to) = (segment.direction.index(), segment.direction.opposite().index());
    // The initial sequence number waits in `max_ack` for the first ACK to be recorded.
    warm.peers[from] = Peer {
        end: segment.end,
        max_end: segment.end,
        max_window: u32::from(segment.window).max(1),
        max_ack: segment.seq,
    };
    let kept = peer_flags::BE_LIBERAL | peer_flags::MAPPED | peer_flags::NOTED;
    let mut flags = warm.peer_flags[from] & kept;
    if offer.window_scale.is_some() {
        flags |= peer_flags::WINDOW_SCALE;
    }
    if offer.sack_permitted {
        flags |= peer_flags::SACK_PERMITTED;
    }
    warm.peer_flags[from] = flags;
    let shift = offer.window_scale.unwrap_or(0);
    warm.scales = with_scale(warm.scales, segment.direction, shift);
    // RFC 7323 §2.2: both sides must send the option to enable scaling in either direction. The
    // second to speak decides.
    let both = warm.peer_flags[from] & warm.peer_flags[to] & peer_flags::WINDOW_SCALE != 0;
    if warm.peers[to].max_window != 0 && !both {
        warm.scales = 0;
    }
}

/// Learns a sender of which nothing is known from a segment in the middle of its life.
#[cold]
pub fn learn_midstream(segment: &Segment, warm: &mut Warm) {
    let (from, to) = (segment.direction.index(), segment.direction.opposite().index());
    let window = u32::from(segment.window) << scale(warm.scales, segment.direction);
    let window = window.max(1);
    let sender = &mut warm.peers[from];
    sender.end = segment.end;
    sender.max_window = window;
    sender.max_end = segment.end.wrapping_add(window);
    let receiver = &mut warm.peers[to];
    if receiver.max_window == 0 {
        // Nothing known of it either: believe what is said of it until it speaks.
        receiver.end = segment.sack;
        receiver.max_end = segment.sack;
    } else if segment.sack == receiver.end.wrapping_add(1) {
        // Probably the answer to a keep-alive: equation III needs the byte it acknowledges.
        receiver.end = segment.sack;
    }
}

/// Whether `ack` covers the SYN that `peer` sent, of which nothing was acknowledged yet. RFC 9293
/// §3.10.7.3: "If SEG.ACK =< ISS, or SEG.ACK > SND.NXT", it is not acceptable.
pub(super) fn covers_syn(ack: u32, peer: &Peer) -> bool {
    after(ack, peer.max_ack) && !after(ack, peer.end)
}

/// Begins a connection: the window part of its first segment.
#[cold]
pub(super) fn begin(segment: &Segment, options: &[u8], warm: &mut Warm) {
    warm.peers = [Peer::default(); 2];
    warm.peer_flags = [0; 2];
    warm.scales = 0;
    warm.last_segment = 0;
    warm.retransmissions = 0;
    if segment.has(tcp_flags::SYN) {
        learn_syn(segment, offer(options), warm);
        return;
    }
    // Mid-stream: the SYNs are gone, so scaling is unknown: assume SACK and be liberal.
    warm.peer_flags = [peer_flags::SACK_PERMITTED | peer_flags::BE_LIBERAL; 2];
    learn_midstream(segment, warm);
    believe(segment, warm);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peer() -> impl Strategy<Value = Peer> {
        let near = || -70_000..70_000i32;
        (near(), near(), 0..200_000u32, near()).prop_map(|(end, max_end, max_window, max_ack)| {
            Peer { end: end as u32, max_end: max_end as u32, max_window, max_ack: max_ack as u32 }
        })
    }

    proptest! {
        #[test]
        fn the_short_way_says_and_does_what_the_long_way_does(
            peers in [peer(), peer()],
            peer_flags in any::<[u8; 2]>(),
            scales in (0..=14u8, 0..=14u8).prop_map(|(original, reply)| original | reply << 4),
            reply in any::<bool>(),
            seq in -70_000..70_000i32,
            ack in -70_000..70_000i32,
            window in any::<u16>(),
            payload_len in 0..3_000u16,
        ) {
            let warm = Warm { peers, peer_flags, scales, ..Warm::default() };
            let direction = Direction::from_index(u32::from(reply));
            let tcp = TcpSummary {
                seq: seq as u32,
                ack: ack as u32,
                window,
                payload_len,
                flags: tcp_flags::ACK,
                header_len: 20,
            };
            let segment = Segment::of_ack(direction, &tcp);
            let (mut short, mut long) = (warm, warm);
            let accepted = believe_plain(&segment, &mut short);
            if accepted {
                prop_assert_eq!(believe(&segment, &mut long), Belief::Accept);
            }
            let expected = if accepted { &long } else { &warm };
            prop_assert_eq!(short.peers, expected.peers);
            prop_assert_eq!(short.peer_flags, expected.peer_flags);
        }
    }

    #[test]
    fn sequence_numbers_compare_by_signed_difference() {
        // RFC 9293 §3.4: the space is a circle of 2^32.
        assert!(sequence::before(0xffff_ffff, 0) && sequence::after(0, 0xffff_ffff));
        assert!(sequence::before(0, 0x7fff_ffff) && !sequence::before(5, 5));
        assert!(sequence::after(1, 0) && !sequence::after(0, 1));
    }
}
