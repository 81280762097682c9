//! RFC 2544 §26.1: the highest rate at which not one packet is lost, found by halving.
//!
//! The search knows nothing of packets: it offers a rate to something and is told what came of it.

use serde::Serialize;

/// What came of one rate.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Trial {
    /// The rate asked for, in packets a second.
    pub asked_pps: f64,
    /// The rate that was sent.
    pub offered_pps: f64,
    /// Packets sent.
    pub sent: u64,
    /// Of those, packets that did not come back.
    pub lost: u64,
    /// Of those, packets that the generator's own receiver dropped.
    pub lost_by_sink: u64,
    /// The generator's thread had too little of its processor.
    pub contended: bool,
}

/// Where a search looks.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Bounds {
    /// The highest rate to try, in packets a second.
    pub highest_pps: f64,
    /// The search ends when the answer is known to this.
    pub resolution_pps: f64,
    /// Packets in a million that may be lost; RFC 2544 says none.
    pub tolerance_ppm: f64,
}

/// Why the rate found is not higher.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitedBy {
    /// The next higher rate that was tried lost packets.
    Loss,
    /// No rate up to the highest asked for lost packets.
    HighestAsked,
    /// The generator could not send faster, or not take all that came: the device under test may do more.
    Generator,
}

/// What a search found.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Found {
    /// The highest rate sent without loss, in packets a second; zero if every rate lost some.
    pub throughput_pps: f64,
    /// Why it is not higher.
    pub limited_by: LimitedBy,
    /// All that was tried, in order.
    pub trials: Vec<Trial>,
}

/// A generator that sends less than this share of what was asked is the limit itself.
const KEEPS_UP: f64 = 0.98;

/// Halvings at most: from 2^64 to one packet a second.
const TRIALS_MAX: usize = 64;

/// Searches. `offer` sends at a rate and says what came of it.
///
/// # Errors
/// Those of `offer`.
pub fn throughput<E>(
    bounds: &Bounds,
    mut offer: impl FnMut(f64) -> Result<Trial, E>,
) -> Result<Found, E> {
    let mut trials = Vec::new();
    let (mut good, mut bad) = (0.0, bounds.highest_pps);
    let mut limited_by = LimitedBy::HighestAsked;
    // The highest first: a device that is not the limit is known by one trial.
    let mut rate = bounds.highest_pps;
    while trials.len() < TRIALS_MAX {
        let trial = offer(rate)?;
        trials.push(trial);
        let tolerated = trial.sent as f64 * bounds.tolerance_ppm * 1e-6;
        let lost = trial.lost.saturating_sub(trial.lost_by_sink);
        if lost as f64 <= tolerated {
            good = trial.offered_pps.min(rate).max(good);
            if trial.offered_pps < rate * KEEPS_UP || trial.lost_by_sink as f64 > tolerated {
                limited_by = LimitedBy::Generator;
                break;
            }
        } else {
            // What was lost was lost at the rate that was sent, whatever was asked.
            bad = trial.offered_pps.clamp(good, rate);
            limited_by = LimitedBy::Loss;
        }
        if bad - good <= bounds.resolution_pps {
            break;
        }
        rate = f64::midpoint(good, bad);
    }
    Ok(Found { throughput_pps: good, limited_by, trials })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A device that forwards `capacity` packets a second, offered by a generator that sends at most
    /// `generator`, for a second.
    fn simulated(capacity: f64, generator: f64) -> impl FnMut(f64) -> Result<Trial, ()> {
        move |rate| {
            let offered_pps = rate.min(generator);
            let sent = offered_pps as u64;
            let lost = (offered_pps - capacity).max(0.0).ceil() as u64;
            Ok(Trial {
                asked_pps: rate,
                offered_pps,
                sent,
                lost,
                lost_by_sink: 0,
                contended: false,
            })
        }
    }

    fn bounds(highest_pps: f64) -> Bounds {
        Bounds { highest_pps, resolution_pps: 1000.0, tolerance_ppm: 0.0 }
    }

    proptest! {
        #[test]
        fn what_the_device_can_do_is_found_to_the_resolution(
            capacity in 1_000.0..10_000_000.0f64,
            highest in 10_000.0..20_000_000.0f64,
        ) {
            let found = throughput(&bounds(highest), simulated(capacity, f64::MAX)).expect("no fault");
            let expected = capacity.min(highest);
            prop_assert!(found.throughput_pps <= expected + 1.0);
            prop_assert!(found.throughput_pps >= expected - 1000.0, "{found:?}");
            prop_assert!(found.trials.len() <= 16, "{} trials", found.trials.len());
            let by = if capacity < highest { LimitedBy::Loss } else { LimitedBy::HighestAsked };
            prop_assert_eq!(found.limited_by, by);
        }
    }

    #[test]
    fn a_generator_that_is_the_limit_is_named() {
        let found = throughput(&bounds(10e6), simulated(5e6, 2e6)).expect("no fault");
        assert_eq!((found.throughput_pps, found.limited_by), (2e6, LimitedBy::Generator));
        assert_eq!(found.trials.len(), 1);
    }

    #[test]
    fn a_device_that_always_loses_has_no_throughput() {
        let found = throughput(&bounds(1e6), simulated(-1.0, f64::MAX)).expect("no fault");
        assert_eq!((found.throughput_pps, found.limited_by), (0.0, LimitedBy::Loss));
    }

    #[test]
    fn loss_within_the_tolerance_is_none() {
        let tolerant = Bounds { tolerance_ppm: 1000.0, ..bounds(1.0005e6) };
        let found = throughput(&tolerant, simulated(1e6, f64::MAX)).expect("no fault");
        assert_eq!(found.limited_by, LimitedBy::HighestAsked);
        let strict = throughput(&bounds(1.0005e6), simulated(1e6, f64::MAX)).expect("no fault");
        assert_eq!(strict.limited_by, LimitedBy::Loss);
    }

    #[test]
    fn a_fault_ends_the_search() {
        let mut left = 3;
        let result = throughput(&bounds(1e6), |rate| {
            left -= 1;
            if left == 0 { Err("gone") } else { simulated(1e5, f64::MAX)(rate).map_err(|()| "no") }
        });
        assert_eq!(result, Err("gone"));
    }
}
