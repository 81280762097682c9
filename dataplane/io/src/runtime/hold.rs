//! Packets that wait for their next hop's MAC: bounded in number and in time.

use std::collections::VecDeque;
use std::time::Duration;

use postern_core::time::Instant;

use super::handover::Luggage;
use crate::frame::FrameSpan;

/// Most packets one worker holds.
pub(crate) const HOLD_MAX: usize = 256;

/// Most packets one worker holds of those that came in by one interface, so that a scan from one side
/// leaves room for the others.
pub(crate) const HOLD_INTERFACE_MAX: usize = 192;

/// Most packets one worker holds for one destination (the kernel's `unres_qlen` is of this order).
pub(crate) const HOLD_DESTINATION_MAX: usize = 32;

/// How long a packet is held: the kernel asks three times, a second apart, before it gives up.
pub(crate) const HOLD_TIME: Duration = Duration::from_millis(3_500);

/// A packet on hold.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) span: FrameSpan,
    pub(crate) luggage: Luggage,
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
        let destination = |luggage: &Luggage| luggage.parsed.as_ref().map(|h| h.tuple.dst());
        let wanted = destination(&held.luggage);
        let (mut of_interface, mut of_destination) = (0, 0);
        for other in &self.queue {
            of_interface += usize::from(other.luggage.interface == held.luggage.interface);
            of_destination += usize::from(destination(&other.luggage) == wanted);
        }
        if self.queue.len() >= HOLD_MAX
            || of_interface >= HOLD_INTERFACE_MAX
            || of_destination >= HOLD_DESTINATION_MAX
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

    use postern_core::burst::{Origin, Visit};
    use postern_core::conntrack::tuple::{Tuple, TupleV4};
    use postern_core::headers::Headers;
    use postern_core::units::InterfaceId;

    use super::*;
    use crate::umem::Umem;

    #[test]
    fn one_destination_one_interface_and_all_together_have_their_limits() {
        let (_umem, mut frames) = Umem::new(1024).expect("memory");
        let mut holds = Holds::new();
        let mut put = |interface: u8, destination: u32| {
            let frame = frames.next().expect("a frame");
            let dst = Ipv4Addr::from(destination).octets();
            let tuple = Tuple::V4(TupleV4 { dst, ..TupleV4::default() });
            let parsed = Some(Headers { tuple, ..Headers::default() });
            let interface = InterfaceId(interface);
            let luggage =
                Luggage { interface, origin: Origin::Wire, visit: Visit::default(), parsed };
            let span = FrameSpan::new(frame, 0, 60).expect("it fits");
            holds.put(Held { span, luggage, since: Instant(0) }).is_ok()
        };
        let to_one = (0..100).filter(|_| put(0, 1)).count();
        assert_eq!(to_one, HOLD_DESTINATION_MAX);
        let of_one = (2..402).filter(|&destination| put(0, destination)).count();
        assert_eq!(of_one, HOLD_INTERFACE_MAX - HOLD_DESTINATION_MAX);
        let of_others = (2..402).filter(|&destination| put(1, destination)).count();
        assert_eq!(of_others, HOLD_MAX - HOLD_INTERFACE_MAX, "room was left for the other");
        assert_eq!(holds.len(), HOLD_MAX);
        let held = holds.pop().expect("the oldest");
        assert!(!held.is_too_old(Instant(HOLD_TIME.as_nanos() as u64 - 1)));
        assert!(held.is_too_old(Instant(HOLD_TIME.as_nanos() as u64)));
    }
}
