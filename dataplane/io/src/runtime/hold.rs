//! Packets that wait for their next hop's MAC: bounded in number and in time.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use postern_core::time::Instant;
use postern_core::units::NextHopTag;

use super::handover::Luggage;
use crate::frame::FrameSpan;

/// Most packets one worker holds.
pub(crate) const HOLD_MAX: usize = 256;

/// Most packets one worker holds of those that came in by one interface, so that a scan from one side
/// leaves room for the others.
pub(crate) const HOLD_INTERFACE_MAX: usize = 192;

/// Most packets one worker holds of those from one source, so that a scan by one host leaves room for the
/// others on its side.
pub(crate) const HOLD_SOURCE_MAX: usize = 64;

/// Most packets one worker holds for one next hop (the kernel's `unres_qlen` is of this order).
pub(crate) const HOLD_NEXT_HOP_MAX: usize = 32;

/// How long a packet is held: the kernel asks three times, a second apart, before it gives up.
pub(crate) const HOLD_TIME: Duration = Duration::from_millis(3_500);

/// A packet on hold.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) span: FrameSpan,
    pub(crate) luggage: Luggage,
    /// Whose it is.
    pub(crate) source: Option<IpAddr>,
    /// Whom it waits for.
    pub(crate) next_hop: NextHopTag,
    /// When it was put on hold first.
    pub(crate) since: Instant,
}

impl Held {
    /// Whether it waited long enough.
    pub(crate) fn is_too_old(&self, now: Instant) -> bool {
        now >= self.since.plus(HOLD_TIME)
    }
}

/// A worker's held packets, oldest first.
#[derive(Debug)]
pub(crate) struct Holds {
    queue: VecDeque<Held>,
}

impl Holds {
    pub(crate) fn new() -> Self {
        Self { queue: VecDeque::with_capacity(HOLD_MAX) }
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Puts a packet on hold; gives it back if it is one too many.
    pub(crate) fn put(&mut self, held: Held) -> Result<(), Held> {
        let (mut of_interface, mut of_source, mut of_next_hop) = (0, 0, 0);
        for other in &self.queue {
            let same_side = other.luggage.interface == held.luggage.interface;
            of_interface += usize::from(same_side);
            of_source += usize::from(same_side && other.source == held.source);
            of_next_hop += usize::from(other.next_hop == held.next_hop);
        }
        if self.queue.len() >= HOLD_MAX
            || of_interface >= HOLD_INTERFACE_MAX
            || of_source >= HOLD_SOURCE_MAX
            || of_next_hop >= HOLD_NEXT_HOP_MAX
        {
            return Err(held);
        }
        self.queue.push_back(held);
        Ok(())
    }

    /// Takes the oldest. Whoever goes through all of them once, putting back what must wait on, keeps
    /// their order.
    pub(crate) fn pop(&mut self) -> Option<Held> {
        self.queue.pop_front()
    }

    /// Puts back what was just taken.
    pub(crate) fn put_back(&mut self, held: Held) {
        debug_assert!(self.queue.len() < HOLD_MAX, "its place is free");
        self.queue.push_back(held);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use postern_core::burst::{Origin, Seen, Visit};
    use postern_core::units::{Generation, InterfaceId};

    use super::*;
    use crate::umem::{Frames, Umem};

    /// A worker's holds, and the frames of the packets put on it.
    struct Bench {
        holds: Holds,
        frames: Frames,
        _umem: Arc<Umem>,
    }

    impl Bench {
        fn new() -> Self {
            let (umem, frames) = Umem::new(1024).expect("memory");
            Self { holds: Holds::new(), frames, _umem: umem }
        }

        /// Puts a packet on hold that came in by `interface` from `source` and is to go to `next_hop`. Whether there
        /// was room.
        fn put(&mut self, interface: u8, source: u32, next_hop: u32) -> bool {
            let frame = self.frames.next().expect("a frame");
            let source = Some(Ipv4Addr::from(source).into());
            let interface = InterfaceId(interface);
            let luggage = Luggage {
                interface,
                origin: Origin::Wire,
                visit: Visit::default(),
                seen: Seen::Sound,
                steered_by: Generation(1),
            };
            let span = FrameSpan::new(frame, 0, 60).expect("it fits");
            let address = Ipv4Addr::from(next_hop).into();
            let next_hop = NextHopTag::of(InterfaceId(9), Some(address));
            self.holds.put(Held { span, luggage, source, next_hop, since: Instant(0) }).is_ok()
        }
    }

    #[test]
    fn one_next_hop_one_source_one_interface_and_all_together_have_their_limits() {
        let mut bench = Bench::new();
        let to_one = (0..100).filter(|&source| bench.put(0, source, 1)).count();
        assert_eq!(to_one, HOLD_NEXT_HOP_MAX);
        let of_one = (2..102).filter(|&to| bench.put(0, 500, to)).count();
        assert_eq!(of_one, HOLD_SOURCE_MAX);
        let of_side = (102..502).filter(|&to| bench.put(0, to, to)).count();
        assert_eq!(of_side, HOLD_INTERFACE_MAX - HOLD_SOURCE_MAX - HOLD_NEXT_HOP_MAX);
        let of_others = (502..700).filter(|&to| bench.put(1, to, to)).count();
        assert_eq!(of_others, HOLD_MAX - HOLD_INTERFACE_MAX, "room was left for the other");
        let mut holds = bench.holds;
        assert_eq!(holds.len(), HOLD_MAX);
        let held = holds.pop().expect("the oldest");
        assert!(!held.is_too_old(Instant(HOLD_TIME.as_nanos() as u64 - 1)));
        assert!(held.is_too_old(Instant(HOLD_TIME.as_nanos() as u64)));
    }

    /// Two packets for one address of ours may be forwarded to different hosts, and all the Internet lies
    /// behind one gateway.
    #[test]
    fn what_is_limited_is_the_next_hop_and_not_the_destination() {
        let mut bench = Bench::new();
        let through_gateway = (0..100).filter(|&n| bench.put(0, n, 1)).count();
        assert_eq!(through_gateway, HOLD_NEXT_HOP_MAX);
        let to_forwards = (0..100).filter(|&n| bench.put(1, n, 200 + n)).count();
        assert_eq!(to_forwards, 100);
    }
}
