//! Whose processor time it was: that of other processes and threads, and of each processor, over the very
//! stretch that is measured.

use std::fs;

use serde::Serialize;

use crate::stopwatch::Stopwatch;

/// Processor time of one process, or of one thread of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Account {
    /// Whose.
    pub pid: u32,
    /// Of all its threads, in nanoseconds.
    pub cpu_ns: u64,
}

/// What `--account` asked for.
#[derive(Clone, Default, PartialEq, Debug, Serialize)]
pub struct Accounts {
    /// In the order asked for.
    pub processes: Vec<Account>,
    /// By processor, the share of the time that it was not idle, whoever used it or stole it: from
    /// `/proc/stat`, which counts in hundredths of a second.
    pub busy: Vec<f64>,
}

/// Does `work` and says what processor time it took: its own, and that of `pids` if there are any.
pub fn observe<T>(pids: &[u32], work: impl FnOnce() -> T) -> (T, Stopwatch, Option<Accounts>) {
    let mut stopwatch = Stopwatch::default();
    if pids.is_empty() {
        let result = stopwatch.run(work);
        return (result, stopwatch, None);
    }
    let read = || pids.iter().map(|&pid| process_cpu(pid)).collect::<Vec<_>>();
    let (before, cores) = (read(), core_ticks());
    let result = stopwatch.run(work);
    let (after, cores_after) = (read(), core_ticks());
    let account = |((&pid, before), after): ((&u32, &u64), u64)| Account {
        pid,
        cpu_ns: after.saturating_sub(*before),
    };
    let accounts = Accounts {
        processes: pids.iter().zip(&before).zip(after).map(account).collect(),
        busy: cores.iter().zip(&cores_after).map(|(before, after)| busy(*before, *after)).collect(),
    };
    (result, stopwatch, Some(accounts))
}

/// Processor time of all threads of a process so far, in nanoseconds; zero of one that is gone.
fn process_cpu(pid: u32) -> u64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let cpu = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0)
    };
    tasks.flatten().map(cpu).sum()
}

/// Ticks of a processor so far: idle, and all.
type Ticks = (u64, u64);

fn core_ticks() -> Vec<Ticks> {
    ticks(&fs::read_to_string("/proc/stat").unwrap_or_default())
}

/// The processors of a `/proc/stat`, which begins with a line for all of them together.
fn ticks(stat: &str) -> Vec<Ticks> {
    let core = |line: &str| {
        // user nice system idle iowait irq softirq steal; what follows is in user and nice already.
        let fields: Vec<u64> =
            line.split_whitespace().skip(1).take(8).map_while(|word| word.parse().ok()).collect();
        let idle = fields.get(3).zip(fields.get(4)).map_or(0, |(idle, wait)| idle + wait);
        (idle, fields.iter().sum())
    };
    stat.lines().skip(1).take_while(|line| line.starts_with("cpu")).map(core).collect()
}

fn busy(before: Ticks, after: Ticks) -> f64 {
    let (idle, all) = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
    if all == 0 { 0.0 } else { 1.0 - (idle as f64 / all as f64).min(1.0) }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_processor_is_busy_when_it_is_not_idle() {
        let before = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 10 0 10 100 0 0 0 0 0 0\ncpu1 0 0 0 7 1 0 0 0 0 0\nintr 5";
        let after = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 20 0 20 150 0 10 10 10 0 0\ncpu1 0 0 0 9 2 0 0 0 0 0\nintr 6";
        let (before, after) = (ticks(before), ticks(after));
        assert_eq!(before, [(100, 120), (8, 8)]);
        assert_eq!(busy(before[0], after[0]), 0.5);
        assert_eq!(busy(before[1], after[1]), 0.0);
        assert_eq!(busy((5, 5), (5, 5)), 0.0, "no tick between the two looks");
    }

    #[test]
    fn a_process_that_works_is_charged_and_one_that_is_not_there_is_not() {
        let work = || {
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(30) {
                std::hint::spin_loop();
            }
        };
        let (_, _, accounts) = observe(&[std::process::id(), u32::MAX], work);
        let accounts = accounts.expect("asked for");
        assert!(accounts.processes[0].cpu_ns > 1_000_000, "{accounts:?}");
        assert_eq!(accounts.processes[1], Account { pid: u32::MAX, cpu_ns: 0 });
        assert!(!accounts.busy.is_empty());
        assert_eq!(observe(&[], || 7).2, None);
    }
}
