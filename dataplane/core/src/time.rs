//! Time as the core sees it: an argument. Nothing in this crate can ask what time it is.

use core::time::Duration;

/// Nanoseconds since the appliance's clock base (monotonic). Read once per burst by the caller.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// The instant `duration` later.
    #[must_use]
    pub const fn plus(self, duration: Duration) -> Self {
        Self(self.0 + duration.as_nanos() as u64)
    }

    /// The coarse form kept in table entries.
    #[inline]
    pub const fn tick(self) -> Tick {
        Tick((self.0 / 1_000_000) as u32)
    }

    /// The coarser form kept where ages are asked for: units of 64 ms, modulo 2^32 (8.7 years).
    #[inline]
    pub const fn moment(self) -> u32 {
        (self.0 / MOMENT_NS) as u32
    }

    /// Milliseconds since an earlier [`moment`](Self::moment), to 64 ms.
    pub const fn ms_since(self, moment: u32) -> u64 {
        self.moment().wrapping_sub(moment) as u64 * (MOMENT_NS / 1_000_000)
    }
}

/// See [`Instant::moment`].
const MOMENT_NS: u64 = 64_000_000;

/// Milliseconds since the clock base, modulo 2^32 (49.7 days). Ticks are compared by signed
/// difference, so two ticks that are compared must lie within 24.8 days of each other; every
/// timeout is at most [`TIMEOUT_MAX`] and the wheel visits every entry at its deadline.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tick(pub u32);

/// The longest timeout that can be configured: 10 days.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(864_000);

impl Tick {
    /// Milliseconds from `earlier` to `self`; negative if `earlier` is later.
    #[inline]
    pub const fn since(self, earlier: Tick) -> i32 {
        self.0.wrapping_sub(earlier.0) as i32
    }

    /// The tick `ms` milliseconds later.
    #[inline]
    #[must_use]
    pub const fn plus_ms(self, ms: u32) -> Self {
        Self(self.0.wrapping_add(ms))
    }

    /// Whether `self` is at or after `deadline`.
    #[inline]
    pub const fn reached(self, deadline: Tick) -> bool {
        self.since(deadline) >= 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_told_beyond_what_a_tick_holds() {
        let made = Instant(5_000_000_000);
        let year = Duration::from_secs(365 * 86_400);
        assert_eq!(made.plus(year).ms_since(made.moment()), year.as_millis() as u64);
        assert_eq!(made.plus(Duration::from_millis(63)).ms_since(made.moment()) % 64, 0);
        // Across the wrap of the moments.
        let late = Instant(u64::from(u32::MAX) * MOMENT_NS);
        assert_eq!(late.plus(Duration::from_secs(64)).ms_since(late.moment()), 64_000);
    }

    #[test]
    fn ticks_order_across_the_wrap() {
        let before = Tick(u32::MAX - 5);
        let after = before.plus_ms(10);
        assert_eq!(after.0, 4);
        assert_eq!(after.since(before), 10);
        assert!(after.reached(before) && !before.reached(after));
    }
}
