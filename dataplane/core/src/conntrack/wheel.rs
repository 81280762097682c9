//! A hierarchical timer wheel over the rows of a table (Varghese and Lauck, 1987).
//!
//! Three levels of slots; a slot is a doubly linked list through the rows' cold parts, so arming,
//! disarming and firing are O(1) and allocate nothing. Touching a connection does not move it: when its
//! slot fires, the row's real deadline is looked at and the row is armed anew if it was extended.
//!
//! Resolution is [`UNIT_MS`]; a row never fires early, and at most one unit late when the wheel is
//! advanced in time. `advance` does a bounded amount of work and goes on where it stopped.

use super::entry::Cold;
use crate::time::{TIMEOUT_MAX, Tick};

/// Milliseconds a slot of the finest level spans.
pub const UNIT_MS: u32 = 1 << UNIT_SHIFT;
const UNIT_SHIFT: u32 = 6;

/// Slots of each level: 256 × 64 ms, 256 × 16.4 s, 1024 × 70 min. Together they span the whole
/// range of a [`Tick`], so no deadline lies beyond the wheel.
const SLOTS: [u32; 3] = [256, 256, 1024];
/// Where each level's slots begin.
const BASE: [u32; 3] = [0, 256, 512];
/// How many units' bits lie below each level.
const SHIFT: [u32; 3] = [0, 8, 16];
/// Slots of all levels.
pub const SLOTS_ALL: usize = 256 + 256 + 1024;
/// Units are counted modulo 2^26.
const UNITS_MASK: u32 = (1 << (32 - UNIT_SHIFT)) - 1;

const _: () = assert!(SLOTS[0].trailing_zeros() == SHIFT[1]);
const _: () = assert!(SLOTS[1].trailing_zeros() + SHIFT[1] == SHIFT[2]);
const _: () = assert!(SLOTS[2].trailing_zeros() + SHIFT[2] == 32 - UNIT_SHIFT);

/// No row.
pub const NONE: u32 = u32::MAX;
/// In `wheel_prev`: the row is first of its slot, whose number is in the low bits.
const HEAD: u32 = 1 << 31;

/// A rough length of time, of eight: half a second, four, 33, 262, and so on to twelve days. For how long a row
/// is armed, in three bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span(u16);

impl Span {
    const SHORTEST_LOG2: u32 = 9;
    const STEP_LOG2: u32 = 3;
    const COUNT: u16 = 8;

    /// The span of a number below eight.
    pub const fn from_number(number: u16) -> Self {
        Self(number % Self::COUNT)
    }

    /// Which of the eight it is.
    pub const fn number(self) -> u16 {
        self.0
    }

    /// The shortest span that is not shorter than `ms`, which is [`TIMEOUT_MAX`] at most.
    pub const fn at_least(ms: u32) -> Self {
        debug_assert!(ms <= Self(Self::COUNT - 1).ms());
        let log2 = u32::BITS - ms.saturating_sub(1).leading_zeros();
        Self(log2.saturating_sub(Self::SHORTEST_LOG2).div_ceil(Self::STEP_LOG2) as u16)
    }

    /// The longest span that is not longer than `ms`, if there is one.
    pub const fn at_most(ms: u32) -> Option<Self> {
        if ms < Self(0).ms() {
            return None;
        }
        let number = (ms.ilog2() - Self::SHORTEST_LOG2) / Self::STEP_LOG2;
        Some(Self(if number < Self::COUNT as u32 { number as u16 } else { Self::COUNT - 1 }))
    }

    /// Milliseconds.
    #[inline]
    pub const fn ms(self) -> u32 {
        1 << (Self::SHORTEST_LOG2 + Self::STEP_LOG2 * self.0 as u32)
    }
}

const _: () = assert!(Span(Span::COUNT - 1).ms() as u128 >= TIMEOUT_MAX.as_millis());
const _: () = assert!(Span(Span::COUNT - 1).ms() <= i32::MAX as u32);

/// The wheel of one table: its slots and how far it has turned. The links are in the table's rows.
#[derive(Debug)]
pub struct Wheel<'m> {
    /// First row of each slot, or [`NONE`].
    slots: &'m mut [u32],
    /// The unit whose slot is being emptied.
    cursor: u32,
}

impl<'m> Wheel<'m> {
    /// An empty wheel that begins at `now`. `slots` has [`SLOTS_ALL`] words.
    pub fn new(slots: &'m mut [u32], now: Tick) -> Self {
        assert_eq!(slots.len(), SLOTS_ALL);
        slots.fill(NONE);
        Self { slots, cursor: now.0 >> UNIT_SHIFT }
    }

    /// Whether it has been turned as far as `now`.
    #[inline]
    pub fn is_at(&self, now: Tick) -> bool {
        self.cursor == now.0 >> UNIT_SHIFT
    }

    /// Arms `row` for `deadline`; if that lies behind the cursor, for the next turn. The row must not be armed.
    pub fn arm(&mut self, cold: &mut [Cold], row: u32, deadline: Tick) {
        // Rounded up: a row may fire late, never early.
        let unit = (deadline.0.wrapping_add(UNIT_MS - 1)) >> UNIT_SHIFT;
        let ahead = unit.wrapping_sub(self.cursor) & UNITS_MASK;
        // Behind the cursor, compared as ticks are: a timeout became shorter than the row had been idle.
        let (unit, ahead) = if ahead > UNITS_MASK / 2 { (self.cursor, 0) } else { (unit, ahead) };
        let level = match ahead {
            0..0x100 => 0,
            0x100..0x1_0000 => 1,
            _ => 2,
        };
        let slot = BASE[level] + ((unit >> SHIFT[level]) & (SLOTS[level] - 1));
        let first = self.slots[slot as usize];
        self.slots[slot as usize] = row;
        cold[row as usize].wheel_next = first;
        cold[row as usize].wheel_prev = HEAD | slot;
        if first != NONE {
            cold[first as usize].wheel_prev = row;
        }
    }

    /// Takes `row` out of its slot. The row must be armed.
    pub fn disarm(&mut self, cold: &mut [Cold], row: u32) {
        let Cold { wheel_next, wheel_prev, .. } = cold[row as usize];
        if wheel_prev & HEAD != 0 {
            self.slots[(wheel_prev & !HEAD) as usize] = wheel_next;
        } else {
            cold[wheel_prev as usize].wheel_next = wheel_next;
        }
        if wheel_next != NONE {
            cold[wheel_next as usize].wheel_prev = wheel_prev;
        }
    }

    /// Turns towards `now` until a row comes up whose slot has fired, and disarms it. The caller either
    /// removes the row, if its real deadline has passed, or arms it again. `None` when the wheel has
    /// caught up with `now`. `steps` bounds the rows moved between levels and the empty slots passed.
    pub fn pop(&mut self, cold: &mut [Cold], now: Tick, steps: &mut u32) -> Option<u32> {
        let target = now.0 >> UNIT_SHIFT;
        while *steps > 0 {
            *steps -= 1;
            // At a level's boundary the coarser slots are emptied first, through the caller, who arms
            // each row by its real deadline.
            for level in [2, 1, 0] {
                if self.cursor & ((1 << SHIFT[level]) - 1) == 0 {
                    let slot = BASE[level] + ((self.cursor >> SHIFT[level]) & (SLOTS[level] - 1));
                    let row = self.slots[slot as usize];
                    if row != NONE {
                        self.disarm(cold, row);
                        return Some(row);
                    }
                }
            }
            if self.cursor == target {
                return None;
            }
            self.cursor = (self.cursor + 1) & UNITS_MASK;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::vec;
    use std::vec::Vec;

    #[test]
    fn a_row_fires_at_its_deadline_and_not_a_unit_before() {
        for base in [0u32, 5, u32::MAX - 100_000] {
            for timeout in
                [1, 63, 64, 65, 16_383, 16_384, 16_385, 4_194_304, 4_194_305, 864_000_000]
            {
                let mut slots = vec![0; SLOTS_ALL];
                let mut cold = vec![Cold::default(); 1];
                let mut wheel = Wheel::new(&mut slots, Tick(base));
                let deadline = Tick(base).plus_ms(timeout);
                wheel.arm(&mut cold, 0, deadline);
                let mut fired = None;
                // A cascade hands the row out before its time: the caller arms it again.
                let early = Tick(deadline.0.wrapping_sub(1));
                let mut steps = u32::MAX;
                while let Some(row) = wheel.pop(&mut cold, early, &mut steps) {
                    wheel.arm(&mut cold, row, deadline);
                }
                while let Some(row) = wheel.pop(&mut cold, deadline.plus_ms(UNIT_MS), &mut steps) {
                    fired = Some(row);
                }
                assert_eq!(fired, Some(0), "base {base} timeout {timeout}");
            }
        }
    }

    #[test]
    fn a_span_bounds_a_timeout_from_either_side() {
        let numbers = |ms| (Span::at_most(ms).map(Span::number), Span::at_least(ms).number());
        assert_eq!(numbers(0), (None, 0));
        assert_eq!(numbers(511), (None, 0));
        assert_eq!(numbers(512), (Some(0), 0));
        assert_eq!(numbers(513), (Some(0), 1));
        assert_eq!(numbers(262_143), (Some(2), 3));
        assert_eq!(numbers(262_144), (Some(3), 3));
        assert_eq!(numbers(262_145), (Some(3), 4));
        assert_eq!(numbers(864_000_000), (Some(6), 7));
        assert!((0..8).all(|number| numbers(Span(number).ms()) == (Some(number), number)));
    }

    /// A timeout may become shorter than a row has been idle.
    #[test]
    fn a_deadline_behind_the_cursor_fires_at_the_next_turn() {
        for base in [0u32, 5, u32::MAX - 100_000] {
            for late in [1, 63, 64, 65, 16_384, 80_000, 4_194_304, 864_000_000] {
                let mut slots = vec![0; SLOTS_ALL];
                let mut cold = vec![Cold::default(); 1];
                let now = Tick(base).plus_ms(UNIT_MS);
                let mut wheel = Wheel::new(&mut slots, now);
                wheel.arm(&mut cold, 0, Tick(now.0.wrapping_sub(late)));
                let next = now.plus_ms(UNIT_MS);
                assert_eq!(wheel.pop(&mut cold, next, &mut 2), Some(0), "{late} ms at {now:?}");
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        /// So long before the deadline; or after it, if negative.
        Arm(u8, i32),
        Disarm(u8),
        Pass(u32, u32),
    }

    fn op() -> impl Strategy<Value = Op> {
        let span = prop_oneof![0u32..200, 0u32..40_000, 0u32..9_000_000, 0u32..860_000_000];
        prop_oneof![
            (any::<u8>(), span.clone()).prop_map(|(row, ms)| Op::Arm(row % 32, ms as i32 + 1)),
            (any::<u8>(), span.clone()).prop_map(|(row, ms)| Op::Arm(row % 32, -(ms as i32))),
            any::<u8>().prop_map(|row| Op::Disarm(row % 32)),
            (span, 1u32..100_000).prop_map(|(ms, steps)| Op::Pass(ms, steps)),
        ]
    }

    proptest! {
        /// Against a map from row to deadline: whatever is armed fires when it should, once.
        #[test]
        fn agrees_with_a_sorted_map(base in any::<u32>(), ops in proptest::collection::vec(op(), 1..60)) {
            let mut slots = vec![0; SLOTS_ALL];
            let mut cold = vec![Cold::default(); 32];
            let mut now = Tick(base);
            let mut wheel = Wheel::new(&mut slots, now);
            let mut armed: BTreeMap<u32, Tick> = BTreeMap::new();
            let mut behind = false;
            for op in ops {
                match op {
                    Op::Arm(row, ms) => {
                        let (row, deadline) = (u32::from(row), now.plus_ms(ms as u32));
                        if armed.remove(&row).is_some() {
                            wheel.disarm(&mut cold, row);
                        }
                        wheel.arm(&mut cold, row, deadline);
                        armed.insert(row, deadline);
                    }
                    Op::Disarm(row) => {
                        if armed.remove(&u32::from(row)).is_some() {
                            wheel.disarm(&mut cold, u32::from(row));
                        }
                    }
                    Op::Pass(ms, mut steps) => {
                        // Bounded: deadlines stay within the range ticks can compare.
                        now = if behind { now } else { now.plus_ms(ms) };
                        while let Some(row) = wheel.pop(&mut cold, now, &mut steps) {
                            let deadline = armed[&row];
                            if now.reached(deadline) {
                                armed.remove(&row);
                            } else {
                                wheel.arm(&mut cold, row, deadline);
                            }
                        }
                        behind = steps == 0;
                        if !behind {
                            let late: Vec<_> = armed
                                .iter()
                                .filter(|&(_, &d)| now.reached(d.plus_ms(UNIT_MS)))
                                .collect();
                            prop_assert!(late.is_empty(), "{late:?} at {now:?}");
                        }
                    }
                }
            }
        }
    }
}
