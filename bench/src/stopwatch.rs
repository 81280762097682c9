//! Time and processor share of the calling thread.

use std::fs;
use std::time::{Duration, Instant};

/// Runs from its making on.
#[derive(Debug)]
pub struct Stopwatch {
    wall: Instant,
    cpu: Duration,
}

impl Stopwatch {
    /// Starts now.
    pub fn start() -> Self {
        Self { wall: Instant::now(), cpu: thread_cpu() }
    }

    /// Share of the elapsed time that this thread was on a processor: 0 to 1. Below 0.85 the machine was
    /// contended and the figure beside it should not be used.
    pub fn cpu_share(&self) -> f64 {
        let cpu = thread_cpu().saturating_sub(self.cpu).as_secs_f64();
        (cpu / self.wall.elapsed().as_secs_f64().max(1e-9)).min(1.0)
    }
}

/// Processor time of the calling thread so far; zero where the kernel does not tell.
fn thread_cpu() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split_whitespace().next().and_then(|word| word.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}
