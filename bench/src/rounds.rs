//! Rounds: a measurement is taken several times and the middle one counts.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use hdrhistogram::Histogram;
use postern_core::burst::BURST_MAX;

/// A burst that takes longer is counted as this long.
const BURST_NS_MAX: u64 = 1_000_000_000;

/// Packets and the time they took, in all and burst by burst.
#[derive(Clone, Debug)]
pub struct Round {
    /// Packets (or connections, where those are what is counted).
    pub packets: u64,
    /// The timed part.
    pub elapsed: Duration,
    /// Nanoseconds of each burst, as if it had been a full one.
    bursts: Histogram<u32>,
}

impl Default for Round {
    fn default() -> Self {
        let bursts = Histogram::new_with_bounds(1, BURST_NS_MAX, 3).expect("bounds and digits fit");
        Self { packets: 0, elapsed: Duration::ZERO, bursts }
    }
}

impl Round {
    /// Adds a burst.
    pub fn add(&mut self, packets: u64, elapsed: Duration) {
        self.packets += packets;
        self.elapsed += elapsed;
        let full = elapsed.as_nanos() as u64 * BURST_MAX as u64 / packets.max(1);
        self.bursts.saturating_record(full);
    }

    /// Nanoseconds a packet.
    pub fn ns(&self) -> f64 {
        self.elapsed.as_nanos() as f64 / self.packets.max(1) as f64
    }

    /// Nanoseconds a packet in the burst at `percentile`. The middle one (50) hardly feels who else ran on the
    /// core; nor does it feel what is rare but ours.
    pub fn burst_ns(&self, percentile: f64) -> f64 {
        self.bursts.value_at_percentile(percentile) as f64 / BURST_MAX as f64
    }
}

/// The middle of the values; the mean of the middle two if they are even in number, 0 if there are none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        len if len.is_multiple_of(2) => f64::midpoint(values[len / 2 - 1], values[len / 2]),
        len => values[len / 2],
    }
}

/// Where workers wait for one another, so that all of them work at once.
#[derive(Debug)]
pub struct Gate {
    workers: usize,
    arrived: AtomicUsize,
    failed: AtomicBool,
}

impl Gate {
    /// For so many workers.
    pub fn new(workers: usize) -> Self {
        Self { workers, arrived: AtomicUsize::new(0), failed: AtomicBool::new(false) }
    }

    /// Waits until every worker is here.
    ///
    /// # Errors
    /// When another worker failed: it will never come.
    pub fn wait(&self) -> Result<()> {
        let arrived = self.arrived.fetch_add(1, Ordering::SeqCst) + 1;
        let all = arrived.next_multiple_of(self.workers);
        while self.arrived.load(Ordering::SeqCst) < all {
            self.check()?;
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Whoever waits for another worker in some other way looks here, too.
    ///
    /// # Errors
    /// When another worker failed.
    pub fn check(&self) -> Result<()> {
        if self.failed.load(Ordering::SeqCst) {
            bail!("another worker failed");
        }
        Ok(())
    }

    /// Does a worker's `work`; if it fails, or panics, the others do not wait for it.
    pub fn guard<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        struct Alarm<'a>(&'a AtomicBool, bool);
        impl Drop for Alarm<'_> {
            fn drop(&mut self) {
                if self.1 {
                    self.0.store(true, Ordering::SeqCst);
                }
            }
        }
        let mut alarm = Alarm(&self.failed, true);
        let result = work();
        alarm.1 = result.is_err();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_that_was_interrupted_is_in_the_mean_but_not_in_the_middle() {
        let mut round = Round::default();
        for _ in 0..9 {
            round.add(64, Duration::from_nanos(6_400));
        }
        round.add(64, Duration::from_millis(4));
        assert!((99.0..101.0).contains(&round.burst_ns(50.0)), "{}", round.burst_ns(50.0));
        assert!(round.ns() > 6_000.0);
    }

    #[test]
    fn the_median_is_the_middle_and_ignores_an_outlier() {
        assert_eq!(median([3.0, 1000.0, 1.0]), 3.0);
        assert_eq!(median([4.0, 2.0]), 3.0);
        assert_eq!(median([]), 0.0);
    }

    #[test]
    fn nobody_passes_the_gate_before_the_last_has_come() {
        let gate = Gate::new(3);
        let steps: Vec<AtomicUsize> = (0..5).map(|_| AtomicUsize::new(0)).collect();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for step in &steps {
                        step.fetch_add(1, Ordering::SeqCst);
                        gate.wait().expect("nobody fails");
                        assert_eq!(step.load(Ordering::SeqCst), 3);
                    }
                });
            }
        });
    }

    #[test]
    fn a_worker_that_fails_is_not_waited_for() {
        let gate = Gate::new(2);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| gate.guard(|| gate.wait()));
            scope.spawn(|| gate.guard::<()>(|| bail!("no memory")).expect_err("it fails"));
            assert!(waits.join().expect("no panic").is_err());
        });
    }
}
