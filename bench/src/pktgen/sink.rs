//! A sink alone: what arrives at a device, for a second box.
//!
//! Loss is told from the numbers themselves, so what was lost after the last packet that arrived is not
//! seen, and two boxes have two clocks: there is no latency.

use anyhow::Result;

use super::args;
use super::frame::{Transport, Unusable, parse};
use super::port::{Bench, Side, pin};
use super::report::SinkReport;
use super::stamp::{FLOWS_MAX, Kind, Stamp};
use super::topology::check_device;
use super::tracker::Tracker;
use crate::stopwatch::{CONTENDED_BELOW, Stopwatch};

/// What has arrived.
struct Arrivals {
    frames: u64,
    corrupted: u64,
    unexpected: u64,
    /// The run of the first stamped packet: others are unexpected.
    run: Option<u16>,
    first: u64,
    tracker: Tracker,
}

/// `pktgen sink`.
///
/// # Errors
/// A device that is refused or fails.
pub fn run(args: &args::Sink) -> Result<SinkReport> {
    check_device(&args.rx)?;
    pin(args.core.map(usize::from))?;
    let mut bench = Bench::open(None, Some(&args.rx), 0)?;
    let tracker = Tracker::new(FLOWS_MAX);
    let mut arrivals =
        Arrivals { frames: 0, corrupted: 0, unexpected: 0, run: None, first: 0, tracker };
    let mut stopwatch = Stopwatch::default();
    let start = bench.clock.now();
    let end = start + (args.seconds * 1e9) as u64;
    stopwatch.run(|| -> Result<()> {
        while bench.clock.now() < end {
            bench.receive(Side::Far, |_, frame, _| arrivals.frame(frame))?;
        }
        Ok(())
    })?;
    let cpu_share = stopwatch.cpu_share();
    let seconds = (bench.clock.now() - start) as f64 * 1e-9;
    let counts = arrivals.tracker.counts();
    let numbers = arrivals.tracker.next() - arrivals.first;
    Ok(SinkReport {
        seconds,
        frames: arrivals.frames,
        received: counts.received,
        missing: numbers.saturating_sub(counts.received),
        duplicated: counts.duplicated,
        reordered: counts.reordered,
        corrupted: arrivals.corrupted,
        unexpected: arrivals.unexpected + counts.stale,
        lost_by_sink: bench.drops()?,
        rx_pps: arrivals.frames as f64 / seconds,
        cpu_share,
        contended: cpu_share < CONTENDED_BELOW,
    })
}

impl Arrivals {
    fn frame(&mut self, frame: &[u8]) {
        self.frames += 1;
        let stamp = match parse(frame) {
            Ok(parsed) => match parsed.transport {
                Transport::Udp(payload) => Stamp::decode(payload),
                Transport::Tcp(_) => None,
            },
            Err(Unusable::Corrupt) => {
                self.corrupted += 1;
                return;
            }
            Err(Unusable::Foreign) => None,
        };
        let measured = |stamp: &Stamp| matches!(stamp.kind, Kind::Original | Kind::OriginalOpen);
        let Some(stamp) = stamp.filter(measured) else {
            self.unexpected += 1;
            return;
        };
        if self.run.is_none() {
            self.run = Some(stamp.run);
            self.first = u64::from(stamp.sequence);
            self.tracker.start_at(stamp.sequence);
        }
        if self.run == Some(stamp.run) {
            self.tracker.arrived(stamp.flow, stamp.sequence);
        } else {
            self.unexpected += 1;
        }
    }
}
