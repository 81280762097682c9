//! Packets that wait for their next hop's MAC: bounded in number and in time.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::IpAddr;
use std::time::Duration;

use postern_core::time::Instant;
use postern_core::units::{INTERFACES_MAX, InterfaceId, NextHopTag};

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

/// A worker's held packets, oldest first. To refuse one more costs no look at those that are there.
#[derive(Debug)]
pub(crate) struct Holds {
    queue: VecDeque<Held>,
    of_interface: [u16; INTERFACES_MAX],
    of_source: Tally<(InterfaceId, Option<IpAddr>)>,
    of_next_hop: Tally<NextHopTag>,
}

/// How many packets there are of each kind.
#[derive(Debug)]
struct Tally<K>(HashMap<K, usize>);

impl<K: Eq + Hash> Tally<K> {
    /// Twice the room that is ever needed: what is taken out leaves traces, and these are cleared in place, without
    /// another allocation, as long as half of the room is free.
    fn new() -> Self {
        Self(HashMap::with_capacity(2 * HOLD_MAX))
    }

    fn of(&self, kind: &K) -> usize {
        self.0.get(kind).copied().unwrap_or(0)
    }

    fn add(&mut self, kind: K) {
        *self.0.entry(kind).or_default() += 1;
    }

    fn take(&mut self, kind: &K) {
        let Some(count) = self.0.get_mut(kind) else { return };
        *count -= 1;
        if *count == 0 {
            self.0.remove(kind);
        }
    }
}

impl Holds {
    pub(crate) fn new() -> Self {
        Self {
            queue: VecDeque::with_capacity(HOLD_MAX),
            of_interface: [0; INTERFACES_MAX],
            of_source: Tally::new(),
            of_next_hop: Tally::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Puts a packet on hold; gives it back if it is one too many.
    pub(crate) fn put(&mut self, held: Held) -> Result<(), Held> {
        let interface = held.luggage.interface;
        let of_interface = self.of_interface.get(interface.index()).copied().unwrap_or(0);
        if self.queue.len() >= HOLD_MAX
            || usize::from(of_interface) >= HOLD_INTERFACE_MAX
            || self.of_source.of(&(interface, held.source)) >= HOLD_SOURCE_MAX
            || self.of_next_hop.of(&held.next_hop) >= HOLD_NEXT_HOP_MAX
        {
            return Err(held);
        }
        self.put_back(held);
        Ok(())
    }

    /// Takes the oldest. Whoever goes through all of them once, putting back what must wait on, keeps
    /// their order.
    pub(crate) fn pop(&mut self) -> Option<Held> {
        let held = self.queue.pop_front()?;
        let interface = held.luggage.interface;
        if let Some(count) = self.of_interface.get_mut(interface.index()) {
            *count -= 1;
        }
        self.of_source.take(&(interface, held.source));
        self.of_next_hop.take(&held.next_hop);
        Some(held)
    }

    /// Puts back what was just taken.
    pub(crate) fn put_back(&mut self, held: Held) {
        debug_assert!(self.queue.len() < HOLD_MAX, "its place is free");
        let interface = held.luggage.interface;
        if let Some(count) = self.of_interface.get_mut(interface.index()) {
            *count += 1;
        }
        self.of_source.add((interface, held.source));
        self.of_next_hop.add(held.next_hop);
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

    #[test]
    fn what_has_left_leaves_its_room_to_others() {
        let mut bench = Bench::new();
        for _round in 0..3 {
            let held = (0..HOLD_NEXT_HOP_MAX).filter(|_| bench.put(0, 1, 2)).count();
            assert_eq!(held, HOLD_NEXT_HOP_MAX);
            assert!(!bench.put(0, 1, 2));
            // Gone through once: one leaves, the others wait on.
            for place in 0..HOLD_NEXT_HOP_MAX {
                let held = bench.holds.pop().expect("as many as were put");
                if place > 0 {
                    bench.holds.put_back(held);
                }
            }
            assert!(bench.put(0, 1, 2) && !bench.put(0, 1, 2));
            while bench.holds.pop().is_some() {}
            assert_eq!(bench.holds.of_interface, [0; INTERFACES_MAX]);
            assert!(bench.holds.of_source.0.is_empty() && bench.holds.of_next_hop.0.is_empty());
        }
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
