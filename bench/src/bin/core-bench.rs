//! The whole core in memory, one burst after another: what the packet path itself costs.
//!
//! Flows are visited in random order. One JSON object on standard output; the fields are explained in the
//! README beside.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use anyhow::{Result, bail, ensure};
use bench::rounds::{Gate, Round, median};
use bench::steered::{Handed, Mesh, Worker};
use bench::stopwatch::CONTENDED_BELOW;
use bench::work::{Bench, Measured, Settings, Work};
use bench::world;
use clap::Parser;
use postern_core::pipeline::Limits;
use postern_core::units::WorkerId;
use serde::Serialize;

/// Measures the packet path in memory.
#[derive(Parser, Debug)]
struct Arguments {
    /// What is measured.
    #[arg(long, value_enum, default_value = "established")]
    work: Work,
    /// Connections.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    flows: u32,
    /// Threads, each with a pipeline and `flows` connections of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    workers: u8,
    /// Masquerade (the default).
    #[arg(long, overrides_with = "no_nat")]
    nat: bool,
    /// Do not translate.
    #[arg(long)]
    no_nat: bool,
    /// IPv6, which is never masqueraded here.
    #[arg(long)]
    v6: bool,
    /// Rounds in which the packets are measured; the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// One gateway: the workers share `flows` connections, any packet comes to any worker, and is handed over to
    /// the one that owns it. For `established` only.
    #[arg(long)]
    steered: bool,
    /// Measure beside it, round by round, what the memory system alone costs.
    #[arg(long)]
    floor: bool,
    /// Keep the table in pages of 4 KiB, to see what large ones are worth.
    #[arg(long)]
    small_pages: bool,
    /// Packets to measure in all rounds together, per worker.
    #[arg(long, default_value_t = 4_000_000, value_parser = clap::value_parser!(u64).range(64..=1_000_000_000))]
    packets: u64,
    /// Accepted for scripts: the output is always JSON.
    #[arg(long)]
    json: bool,
}

impl Arguments {
    fn settings(&self) -> Settings {
        Settings {
            work: self.work,
            flows: self.flows,
            nat: !self.no_nat && !self.v6,
            v6: self.v6,
            packets: self.packets,
            rounds: self.rounds,
            floor: self.floor,
            small_pages: self.small_pages,
        }
    }
}

/// The figures of one run.
#[derive(Serialize, Debug)]
struct Report {
    work: Work,
    flows: u32,
    workers: u8,
    nat: bool,
    v6: bool,
    packets: u64,
    rounds: u32,
    ns_per_packet: f64,
    ns_min: f64,
    ns_max: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    floor_ns_per_packet: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
    mpps: f64,
    mpps_per_worker: Vec<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connections_per_second: Option<f64>,
    /// Of bursts, not of rounds: the middle one, and the one that 99 of 100 undercut.
    burst_ns_p50: f64,
    burst_ns_p99: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    floor_burst_ns_p50: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio_p50: Option<f64>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    hand_over: Option<HandOver>,
    dropped: u64,
    cpu_share: f64,
    contended: bool,
    bytes_per_connection: f64,
    pages: &'static str,
}

/// What workers that hand over report besides.
#[derive(Serialize, Debug)]
struct HandOver {
    /// Packets that came to another worker than their owner, of all.
    hand_over_share: f64,
    /// Packets that the busiest worker decided, beside the mean.
    imbalance: f64,
}

impl Report {
    /// Of workers that share the packets the slowest decides how fast all are: a round takes as long as the
    /// worker that was busy longest.
    fn add_hand_over(&mut self, measured: &[Measured], handed: &[Handed]) {
        let rounds = 0..measured.iter().map(|m| m.rounds.len()).min().unwrap_or(0);
        self.mpps = median(rounds.map(|round| {
            let of_round = || measured.iter().map(|m| &m.rounds[round]);
            let packets: u64 = of_round().map(|r| r.packets).sum();
            let longest = of_round().map(|r| r.elapsed).max().unwrap_or_default();
            packets as f64 / longest.as_secs_f64() / 1e6
        }));
        let decided = |m: &Measured| m.rounds.iter().map(|r| r.packets).sum::<u64>() as f64;
        let most = measured.iter().map(decided).fold(0.0, f64::max);
        let mean = measured.iter().map(decided).sum::<f64>() / measured.len() as f64;
        let made: u64 = handed.iter().map(|h| h.made).sum();
        let handed_over: u64 = handed.iter().map(|h| h.handed_over).sum();
        let hand_over_share = handed_over as f64 / made.max(1) as f64;
        self.hand_over = Some(HandOver { hand_over_share, imbalance: most / mean });
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let settings = arguments.settings();
    let gate = Gate::new(usize::from(arguments.workers));
    let report = if arguments.steered {
        ensure!(settings.work == Work::Established, "--steered is for --work established");
        ensure!(!settings.floor, "--floor is of one worker: not with --steered");
        let (measured, handed) = steered(&arguments, &gate)?;
        let mut report = report(&arguments, &measured);
        report.add_hand_over(&measured, &handed);
        report
    } else {
        let measured = on_every_worker(arguments.workers, |_| {
            gate.guard(|| Bench::new(settings)?.measure(&gate))
        })?;
        report(&arguments, &measured)
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

fn steered(arguments: &Arguments, gate: &Gate) -> Result<(Vec<Measured>, Vec<Handed>)> {
    let (workers, done) = (arguments.workers, AtomicUsize::new(0));
    let mesh = Mutex::new(Mesh::new(workers));
    let measured = on_every_worker(workers, |me| {
        gate.guard(|| {
            let peers = mesh.lock().expect("nobody panics with it").take(WorkerId(me));
            Worker::new(WorkerId(me), workers, arguments.settings(), peers, gate, &done)?.measure()
        })
    })?;
    Ok(measured.into_iter().unzip())
}

/// Does `work` on so many threads, each on a core of its own as far as there are cores.
fn on_every_worker<T: Send>(workers: u8, work: impl Fn(u8) -> Result<T> + Sync) -> Result<Vec<T>> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers)
            .map(|worker| {
                let (work, core) = (&work, cores.get(usize::from(worker)).copied());
                scope.spawn(move || {
                    core.map(core_affinity::set_for_current);
                    work(worker)
                })
            })
            .collect();
        let joined = threads.into_iter().map(|thread| match thread.join() {
            Ok(result) => result,
            Err(_) => bail!("a worker panicked"),
        });
        joined.collect()
    })
}

fn report(arguments: &Arguments, measured: &[Measured]) -> Report {
    // The middle round of each worker; of several workers, the mean.
    let middle = |figure: fn(&Round) -> f64, rounds: for<'m> fn(&'m Measured) -> &'m [Round]| {
        let of_workers = measured.iter().map(|m| median(rounds(m).iter().map(figure)));
        of_workers.sum::<f64>() / measured.len() as f64
    };
    let of_work = |figure| middle(figure, |m| &m.rounds);
    let of_floor = |figure| arguments.floor.then(|| middle(figure, |m| &m.floor));
    let p50: fn(&Round) -> f64 = |round| round.burst_ns(50.0);

    let all = || measured.iter().flat_map(|m| &m.rounds);
    let ns_per_packet = of_work(Round::ns);
    let floor_ns_per_packet = of_floor(Round::ns);
    let (burst_ns_p50, floor_burst_ns_p50) = (of_work(p50), of_floor(p50));
    let mpps_per_worker: Vec<f64> =
        measured.iter().map(|m| 1e3 / median(m.rounds.iter().map(Round::ns))).collect();
    let mpps: f64 = mpps_per_worker.iter().sum();
    let cpu_share = measured.iter().map(|m| m.cpu_share).fold(1.0, f64::min);
    Report {
        work: arguments.work,
        flows: arguments.flows,
        workers: arguments.workers,
        nat: arguments.settings().nat,
        v6: arguments.v6,
        packets: all().map(|round| round.packets).sum(),
        rounds: arguments.rounds,
        ns_per_packet,
        ns_min: all().map(Round::ns).fold(f64::INFINITY, f64::min),
        ns_max: all().map(Round::ns).fold(0.0, f64::max),
        floor_ns_per_packet,
        ratio: floor_ns_per_packet.map(|floor| ns_per_packet / floor),
        mpps,
        mpps_per_worker,
        connections_per_second: arguments.work.connections_per_packet().map(|c| c * mpps * 1e6),
        burst_ns_p50,
        burst_ns_p99: of_work(|round| round.burst_ns(99.0)),
        floor_burst_ns_p50,
        ratio_p50: floor_burst_ns_p50.map(|floor| burst_ns_p50 / floor),
        hand_over: None,
        dropped: measured.iter().map(|m| m.dropped).sum(),
        cpu_share,
        contended: cpu_share < CONTENDED_BELOW,
        bytes_per_connection: bytes_per_connection(arguments.flows, arguments.v6),
        pages: measured[0].pages.map_or("none", world::pages_name),
    }
}

fn bytes_per_connection(capacity: u32, v6: bool) -> f64 {
    let limits = Limits { connections_v4: capacity, connections_v6: capacity };
    let [v4_bytes, v6_bytes, _] = limits.bytes();
    (if v6 { v6_bytes } else { v4_bytes }) as f64 / f64::from(capacity)
}
