//! What is sent next: which flow, which size, and how many packets are due.

use super::topology::{Flows, Tuple};

/// Packets sent at once: one system call in copy mode.
pub const BATCH: u64 = 64;

/// Draws of a skewed distribution, made beforehand and repeated: 4 MiB, read in order.
const DRAWS: usize = 1 << 20;

/// Xorshift64*: quick, seeded, good enough to choose flows.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    #[inline]
    pub const fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// The next number below `end`.
    #[inline]
    pub const fn below(&mut self, end: u32) -> u32 {
        (((self.next() >> 32) * end as u64) >> 32) as u32
    }
}

/// Chooses flows.
#[derive(Debug)]
pub enum Picker {
    /// Each as often as any other.
    Uniform {
        /// Where the numbers come from.
        random: Random,
        /// How many flows.
        flows: u32,
    },
    /// From draws made beforehand.
    Drawn {
        /// The draws.
        draws: Box<[u32]>,
        /// The next.
        at: usize,
    },
}

impl Picker {
    /// Uniform over `flows` flows.
    pub const fn uniform(flows: u32, seed: u64) -> Self {
        Self::Uniform { random: Random::new(seed), flows }
    }

    /// Zipf with exponent 1: flow `n` is chosen in proportion to 1 / (n + 1).
    pub fn zipf(flows: u32, seed: u64) -> Self {
        let mut cumulative = Vec::with_capacity(flows as usize);
        let mut total = 0.0;
        for rank in 1..=flows {
            total += 1.0 / f64::from(rank);
            cumulative.push(total);
        }
        let mut random = Random::new(seed);
        let mut draw = || {
            let point = (random.next() >> 11) as f64 / (1u64 << 53) as f64 * total;
            let flow = cumulative.partition_point(|&sum| sum <= point) as u32;
            flow.min(flows - 1)
        };
        Self::Drawn { draws: (0..DRAWS).map(|_| draw()).collect(), at: 0 }
    }

    /// The next flow.
    #[inline]
    pub fn pick(&mut self) -> u32 {
        match self {
            Self::Uniform { random, flows } => random.below(*flows),
            Self::Drawn { draws, at } => {
                let flow = draws[*at];
                *at = (*at + 1) % draws.len();
                flow
            }
        }
    }
}

/// The simple IMIX: seven frames of 64, four of 594 and one of 1518 bytes in twelve, with FCS.
pub const IMIX: [u16; 12] = [64, 594, 64, 64, 594, 64, 1518, 64, 594, 64, 594, 64];

/// Says how many packets are due.
#[derive(Debug)]
pub struct Pacer {
    /// Packets a second; none for as many as go.
    rate: Option<f64>,
    start: u64,
    sent: u64,
    skipped: u64,
}

/// A generator that was held up sends at most this much of what it missed, in seconds: a burst of more
/// would be a test of the burst.
const CATCH_UP: f64 = 0.002;

impl Pacer {
    /// Begins at `now`, in nanoseconds.
    pub fn new(rate: Option<f64>, now: u64) -> Self {
        Self { rate, start: now, sent: 0, skipped: 0 }
    }

    /// Packets to send now, at most [`BATCH`].
    #[inline]
    pub fn due(&mut self, now: u64) -> u64 {
        let Some(rate) = self.rate else { return BATCH };
        let by_now = ((now - self.start) as f64 * 1e-9 * rate) as u64 + 1;
        let mut due = by_now.saturating_sub(self.sent + self.skipped);
        let catch_up = (rate * CATCH_UP) as u64 + BATCH;
        if due > catch_up {
            self.skipped += due - catch_up;
            due = catch_up;
        }
        due.min(BATCH)
    }

    /// Says that packets were sent.
    #[inline]
    pub const fn sent(&mut self, packets: u64) {
        self.sent += packets;
    }

    /// Packets that should have been sent and were not, because the generator was held up.
    pub const fn skipped(&self) -> u64 {
        self.skipped
    }
}

/// Flows that take the place of others: slot `f` holds flow number `f` first, then `f + slots`, and so
/// on. How often each slot was taken follows from how often any was, so nothing is kept per slot.
#[derive(Debug)]
pub struct Slots {
    flows: Flows,
    slots: u32,
    replaced: u64,
}

impl Slots {
    /// `slots` flows at a time.
    pub const fn new(flows: Flows, slots: u32) -> Self {
        Self { flows, slots, replaced: 0 }
    }

    /// The tuple of the flow that has the slot now.
    #[inline]
    pub fn tuple(&self, slot: u32) -> Tuple {
        if self.replaced == 0 {
            return self.flows.tuple(u64::from(slot));
        }
        let slots = u64::from(self.slots);
        let laps = self.replaced / slots + u64::from(u64::from(slot) < self.replaced % slots);
        self.flows.tuple((u64::from(slot) + laps * slots) % self.flows.capacity())
    }

    /// Gives the next slot in turn to a new flow, and returns the slot.
    #[inline]
    pub const fn replace(&mut self) -> u32 {
        let slot = (self.replaced % self.slots as u64) as u32;
        self.replaced += 1;
        slot
    }

    /// How many flows took another's place.
    pub const fn replaced(&self) -> u64 {
        self.replaced
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn uniform_visits_every_flow_about_equally() {
        let mut picker = Picker::uniform(10, 7);
        let mut counts = [0u32; 10];
        (0..100_000).for_each(|_| counts[picker.pick() as usize] += 1);
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }

    #[test]
    fn zipf_follows_one_over_the_rank() {
        let mut picker = Picker::zipf(1000, 7);
        let mut counts = vec![0u32; 1000];
        (0..DRAWS).for_each(|_| counts[picker.pick() as usize] += 1);
        // The sum of 1/n to 1000 is 7.485.
        for (rank, divisor) in [(0usize, 1.0), (1, 2.0), (9, 10.0), (99, 100.0)] {
            let expected = DRAWS as f64 / 7.485_470_860_55 / divisor;
            let got = f64::from(counts[rank]);
            assert!((got / expected - 1.0).abs() < 0.1, "rank {rank}: {got}, not {expected}");
        }
        assert_eq!(Picker::zipf(1, 7).pick(), 0);
    }

    #[test]
    fn imix_is_seven_four_one() {
        let count = |size| IMIX.iter().filter(|&&s| s == size).count();
        assert_eq!((count(64), count(594), count(1518)), (7, 4, 1));
    }

    #[test]
    fn the_pacer_keeps_the_rate_in_batches() {
        let mut pacer = Pacer::new(Some(1e6), 1_000);
        let mut sent = 0;
        for step in 0..=100_000u64 {
            let due = pacer.due(1_000 + step * 10_000); // a turn each 10 us
            assert!(due <= BATCH);
            pacer.sent(due);
            sent += due;
        }
        assert_eq!(sent, 1_000_001, "one second, and the packet at its beginning");
        assert_eq!(pacer.skipped(), 0);
    }

    #[test]
    fn what_a_long_pause_missed_is_not_sent_at_once() {
        let mut pacer = Pacer::new(Some(1e6), 0);
        let mut sent = 0;
        for _ in 0..1000 {
            let due = pacer.due(1_000_000_000);
            pacer.sent(due);
            sent += due;
        }
        assert_eq!(sent, 2_064);
        assert_eq!(pacer.skipped(), 1_000_001 - 2_064);
        assert_eq!(Pacer::new(None, 0).due(5), BATCH);
    }

    #[test]
    fn each_slot_is_given_to_flows_never_seen() {
        let prefix = |text: &str| text.parse().expect("a prefix");
        let flows = Flows::new(prefix("10.0.0.0/24"), prefix("198.18.0.0/30"), 9).expect("allowed");
        let mut slots = Slots::new(flows, 3);
        let mut seen: HashSet<_> = (0..3).map(|slot| format!("{:?}", slots.tuple(slot))).collect();
        for round in 0..7u32 {
            let slot = slots.replace();
            assert_eq!(slot, round % 3);
            assert!(seen.insert(format!("{:?}", slots.tuple(slot))), "round {round}");
        }
        assert_eq!(slots.replaced(), 7);
    }
}
