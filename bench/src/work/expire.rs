//! Connections that expire, and what one costs.
//!
//! All connections are made; then, over twenty seconds, each is used once more, in an order that has nothing to
//! do with that of the rows. So they run out of their time over twenty seconds, too, and one expiry finds its
//! lines where the last one was not. Only that turning of the wheel is timed.

use std::time::{Duration, Instant as Wall};

use anyhow::{Result, ensure};
use postern_core::burst::BURST_MAX;
use postern_core::conntrack::timeouts::TimeoutKind;
use postern_core::time::Instant;

use super::{Bench, ME};
use crate::traffic::Transport;
use crate::world::LAN;

/// How long it takes until all of them were used once more.
const SPREAD: Duration = Duration::from_secs(20);
/// Timer steps at a time, as a worker of the appliance takes them.
const HOUSEKEEPING: u32 = 128;

impl Bench {
    /// Makes every connection, and times how they go.
    pub(super) fn expire(&mut self) -> Result<()> {
        let counted = std::mem::take(&mut self.round);
        let flows = self.settings.flows;
        self.establish(Transport::Udp)?;
        self.now = self.now.plus(Duration::from_secs(3));
        let pause = SPREAD.div_f64(f64::from(flows.div_ceil(BURST_MAX as u32)));
        let begin = self.now;
        let stride = u64::from(stride(flows));
        for first in (0..flows).step_by(BURST_MAX) {
            self.now = self.now.plus(pause);
            let count = (flows - first).min(BURST_MAX as u32);
            self.burst(LAN, count as usize, |_, index| {
                let flow = (u64::from(first) + index as u64) * stride % u64::from(flows);
                (flow as u32, Transport::Udp)
            });
            self.expect_forwarded("a packet of a stream")?;
        }
        self.round = counted;

        let streams = self.snapshot.timeouts.ms(TimeoutKind::UdpStream);
        let due = begin.plus(Duration::from_millis(u64::from(streams)));
        self.turn_to(due);
        ensure!(self.pipeline.connections() == flows, "some are gone before their time");
        self.now = due;
        while self.pipeline.connections() > 0 {
            self.now = self.now.plus(pause);
            let before = self.pipeline.connections();
            let begin = Wall::now();
            self.turn_to(self.now);
            let elapsed = begin.elapsed();
            match before - self.pipeline.connections() {
                0 => self.round.elapsed += elapsed,
                gone => self.round.add(u64::from(gone), elapsed),
            }
        }
        Ok(())
    }

    fn turn_to(&mut self, now: Instant) {
        while self.pipeline.housekeep(ME, &self.snapshot, &self.counters, now, HOUSEKEEPING) {}
    }
}

/// A step that visits each of `flows` once before it comes back to the first.
fn stride(flows: u32) -> u32 {
    let golden = (f64::from(flows) * 0.618) as u32;
    (golden.max(1)..).find(|&step| gcd(step, flows) == 1).expect("the next prime is coprime")
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::super::{Settings, Work};
    use super::*;

    #[test]
    fn every_flow_is_visited_once() {
        for flows in [1, 2, 3, 64, 1000, 4096] {
            let stride = stride(flows);
            let mut seen: Vec<u32> = (0..flows).map(|n| n * stride % flows).collect();
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..flows), "{flows}");
        }
    }

    #[test]
    fn every_connection_expires_and_is_counted_once() {
        for flows in [1, 1000] {
            let settings = Settings {
                work: Work::Expire,
                flows,
                nat: true,
                v6: false,
                packets: 1,
                rounds: 1,
                floor: false,
                small_pages: false,
            };
            let mut bench = Bench::new(settings).expect("memory");
            for time in 1..=2 {
                bench.expire().expect("all are forwarded and go");
                assert_eq!(bench.round.packets, u64::from(time * flows));
                assert_eq!(bench.pipeline.connections(), 0);
            }
        }
    }
}
