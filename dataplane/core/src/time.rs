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
}

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
    fn ticks_order_across_the_wrap() {
        let before = Tick(u32::MAX - 5);
        let after = before.plus_ms(10);
        assert_eq!(after.0, 4);
        assert_eq!(after.since(before), 10);
        assert!(after.reached(before) && !before.reached(after));
    }
}
