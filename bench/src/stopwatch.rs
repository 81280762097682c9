//! Time and processor share of the calling thread.

use std::fs;
use std::time::{Duration, Instant};

/// Below this share of the processor the machine was contended, and a figure should not be used.
pub const CONTENDED_BELOW: f64 = 0.85;

/// Wall and processor time of the calling thread over several stretches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stopwatch {
    wall: Duration,
    cpu: Duration,
}

impl Stopwatch {
    /// Does `work`, and adds the time it took.
    pub fn run<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let (wall, cpu) = (Instant::now(), thread_cpu());
        let result = work();
        self.cpu += thread_cpu().saturating_sub(cpu);
        self.wall += wall.elapsed();
        result
    }

    /// Share of the time that this thread was on a processor: 0 to 1.
    pub fn cpu_share(&self) -> f64 {
        (self.cpu.as_secs_f64() / self.wall.as_secs_f64().max(1e-9)).min(1.0)
    }
}

/// Processor time of the calling thread so far; zero where the kernel does not tell.
fn thread_cpu() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split_whitespace().next().and_then(|word| word.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_sleeps_has_little_of_the_processor() {
        let mut watch = Stopwatch::default();
        watch.run(|| std::thread::sleep(Duration::from_millis(50)));
        assert!(watch.cpu_share() < 0.5, "{watch:?}");
    }
}
