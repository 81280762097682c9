//! What became of the packets of one direction: received, twice received, out of order.
//!
//! The sender numbers its packets through all flows, so it keeps nothing per flow. The receiver keeps
//!
//! - a window of [`WINDOW`] bits over the latest numbers: has this one been here? (512 KiB, always);
//! - per flow the low 32 bits of the highest number seen: is this one late? (4 bytes a flow).
//!
//! *Reordered* is RFC 4737's sense, flow by flow: a packet whose number is lower than one of its flow
//! that came before it. A packet that carries the highest number of all is in order in any flow, so a
//! flow may rest for longer than 2^31 packets. A packet older than the window can no longer be told from
//! a duplicate: it is *stale*, and counts as lost. Lost is what was sent less what was received.

/// Numbers remembered one by one: two seconds at two million packets a second.
pub const WINDOW: u64 = 1 << 22;

/// What a packet was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// Its first time, in order.
    InOrder,
    /// Its first time, after a later one of its flow.
    Late,
    /// Not its first time.
    Again,
    /// Too old to tell.
    Stale,
}

/// Counts of one direction.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Different packets that arrived.
    pub received: u64,
    /// Arrivals of a packet that had arrived.
    pub duplicated: u64,
    /// Of `received`: late in their flow.
    pub reordered: u64,
    /// Arrivals too old to tell what they were.
    pub stale: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Tracker {
    seen: Box<[u64]>,
    /// One more than the highest number seen.
    next: u64,
    last_of_flow: Box<[u32]>,
    counts: Counts,
}

impl Tracker {
    /// For `flows` flows; zero if the packets of a flow are not to be compared with each other.
    pub fn new(flows: u32) -> Self {
        Self {
            seen: vec![0; (WINDOW / 64) as usize].into_boxed_slice(),
            next: 0,
            last_of_flow: vec![u32::MAX; flows as usize].into_boxed_slice(),
            counts: Counts::default(),
        }
    }

    /// Forgets everything: the next number expected is zero.
    pub fn reset(&mut self) {
        self.seen.fill(0);
        self.last_of_flow.fill(u32::MAX);
        (self.next, self.counts) = (0, Counts::default());
    }

    /// What was counted since the last reset.
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// One more than the highest number that arrived.
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Begins at a number that is not zero: for a sink that came late. Only before the first packet.
    pub fn start_at(&mut self, sequence: u32) {
        debug_assert_eq!(self.counts, Counts::default(), "nothing has arrived yet");
        self.next = u64::from(sequence);
        self.last_of_flow.fill(sequence.wrapping_sub(1));
    }

    /// Counts an arrival; `sequence` is the low 32 bits of its number.
    #[inline]
    pub fn arrived(&mut self, flow: u32, sequence: u32) -> Seen {
        // At most 2^31 from the highest so far, to either side.
        let ahead = i64::from(sequence.wrapping_sub(self.next as u32).cast_signed());
        let number = self.next.wrapping_add_signed(ahead);
        if ahead < 0 && (number >= self.next || self.next - number > WINDOW) {
            self.counts.stale += 1;
            return Seen::Stale;
        }
        if ahead >= 0 {
            self.advance(number);
        }
        let bit = number % WINDOW;
        let (word, mask) = ((bit / 64) as usize, 1 << (bit % 64));
        if self.seen[word] & mask != 0 {
            self.counts.duplicated += 1;
            return Seen::Again;
        }
        self.seen[word] |= mask;
        self.counts.received += 1;
        let Some(last) = self.last_of_flow.get_mut(flow as usize) else { return Seen::InOrder };
        if ahead >= 0 || sequence.wrapping_sub(*last).cast_signed() > 0 {
            *last = sequence;
            return Seen::InOrder;
        }
        self.counts.reordered += 1;
        Seen::Late
    }

    /// Moves the window so that `number` is its highest.
    #[inline]
    fn advance(&mut self, number: u64) {
        if number - self.next >= WINDOW {
            self.seen.fill(0);
        } else {
            for passed in self.next..=number {
                let bit = passed % WINDOW;
                self.seen[(bit / 64) as usize] &= !(1 << (bit % 64));
            }
        }
        self.next = number + 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn late_twice_and_lost_are_told_apart() {
        let mut tracker = Tracker::new(2);
        // Flow 0 sends even numbers, flow 1 odd ones; 4 is lost.
        let arrivals = [
            (0, 0, Seen::InOrder),
            (1, 3, Seen::InOrder),
            (0, 2, Seen::InOrder),
            (1, 1, Seen::Late),
            (1, 1, Seen::Again),
            (0, 6, Seen::InOrder),
            (1, 5, Seen::InOrder),
            (0, 6, Seen::Again),
        ];
        for (flow, sequence, expected) in arrivals {
            assert_eq!(tracker.arrived(flow, sequence), expected, "{sequence} of flow {flow}");
        }
        let counts = Counts { received: 6, duplicated: 2, reordered: 1, stale: 0 };
        assert_eq!(tracker.counts(), counts);
        tracker.reset();
        assert_eq!(tracker.arrived(0, 0), Seen::InOrder);
    }

    #[test]
    fn numbers_go_on_where_32_bits_wrap() {
        let mut tracker = Tracker::new(1);
        tracker.start_at(u32::MAX - 1);
        for sequence in [u32::MAX - 1, u32::MAX, 0, 1] {
            assert_eq!(tracker.arrived(0, sequence), Seen::InOrder, "{sequence}");
        }
        assert_eq!(tracker.arrived(0, u32::MAX), Seen::Again);
        assert_eq!(tracker.counts().received, 4);
    }

    #[test]
    fn what_is_older_than_the_window_is_stale() {
        let mut tracker = Tracker::new(1);
        tracker.arrived(0, 0);
        tracker.arrived(0, WINDOW as u32 + 1);
        assert_eq!(tracker.arrived(0, 2), Seen::Late, "the oldest inside");
        assert_eq!(tracker.arrived(0, 1), Seen::Stale, "the first outside");
        tracker.reset();
        assert_eq!(tracker.arrived(0, u32::MAX), Seen::Stale, "before the first");
    }

    #[test]
    fn a_flow_may_rest_for_longer_than_the_numbers_last() {
        let mut tracker = Tracker::new(2);
        tracker.arrived(1, 0);
        for lap in 1..=6u64 {
            tracker.arrived(0, (lap << 30) as u32);
        }
        assert_eq!(tracker.arrived(1, ((6u64 << 30) + 1) as u32), Seen::InOrder);
    }

    proptest! {
        /// Against the definitions, written with a set and a map.
        #[test]
        fn counts_are_those_of_the_naive_way(
            arrivals in prop::collection::vec((0u32..4, 0u32..200), 0..400),
        ) {
            let mut tracker = Tracker::new(4);
            let (mut seen, mut last) = (HashSet::new(), HashMap::new());
            let mut expected = Counts::default();
            for (_, number) in arrivals {
                let flow = number % 4;
                if seen.insert(number) {
                    expected.received += 1;
                    let last = last.entry(flow).or_insert(number);
                    if number < *last {
                        expected.reordered += 1;
                    }
                    *last = number.max(*last);
                } else {
                    expected.duplicated += 1;
                }
                tracker.arrived(flow, number);
            }
            prop_assert_eq!(tracker.counts(), expected);
        }
    }
}
