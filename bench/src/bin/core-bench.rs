//! The whole core in memory, one burst after another: what the packet path itself costs.
//!
//! A burst of 64 frames is written by the generator, which is not timed, and decided by the pipeline, which
//! is. Flows are visited in random order. One JSON object on standard output.

use std::time::{Duration, Instant as Wall};

use anyhow::{Result, bail, ensure};
use bench::stopwatch::Stopwatch;
use bench::traffic::{self, HEADROOM, ROOM, Segment, Transport};
use bench::world::{self, LAN, WAN};
use clap::{Parser, ValueEnum};
use postern_core::burst::{BURST_MAX, Burst, Origin, Packet, Visit};
use postern_core::conntrack::siphash::SipKey;
use postern_core::counters::Counters;
use postern_core::headers::tcp_flags::{ACK, SYN};
use postern_core::pipeline::{Limits, Pipeline};
use postern_core::snapshot::Snapshot;
use postern_core::time::Instant;
use postern_core::units::{InterfaceId, WorkerId};
use postern_core::verdict::Verdict;
use serde::Serialize;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Work {
    /// UDP packets of connections that have seen replies.
    Established,
    /// UDP, every packet the first of a connection.
    New,
    /// TCP data one way and ACKs the other, with the window check.
    Tcp,
    /// First packets against a table full of assured connections: each is refused.
    Full,
}

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
    /// Packets to measure, per worker.
    #[arg(long, default_value_t = 4_000_000, value_parser = clap::value_parser!(u64).range(64..=1_000_000_000))]
    packets: u64,
    /// Accepted for scripts: the output is always JSON.
    #[arg(long)]
    json: bool,
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
    ns_per_packet: f64,
    mpps: f64,
    dropped: u64,
    cpu_share: f64,
    bytes_per_connection: f64,
}

/// What one worker measured.
struct Measured {
    packets: u64,
    elapsed: Duration,
    dropped: u64,
    cpu_share: f64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let started: Vec<_> = (0..arguments.workers)
        .map(|worker| {
            let core = cores.get(usize::from(worker)).copied();
            let settings = Settings::from(&arguments);
            std::thread::spawn(move || {
                if let Some(core) = core {
                    core_affinity::set_for_current(core);
                }
                Bench::new(settings)?.measure()
            })
        })
        .collect();
    let mut measured = Vec::new();
    for thread in started {
        match thread.join() {
            Ok(result) => measured.push(result?),
            Err(_) => bail!("a worker panicked"),
        }
    }

    let packets: u64 = measured.iter().map(|m| m.packets).sum();
    let per_worker = |m: &Measured| m.elapsed.as_nanos() as f64 / m.packets as f64;
    let mpps: f64 = measured.iter().map(|m| 1e3 / per_worker(m)).sum();
    let report = Report {
        work: arguments.work,
        flows: arguments.flows,
        workers: arguments.workers,
        nat: !arguments.no_nat && !arguments.v6,
        v6: arguments.v6,
        packets,
        ns_per_packet: measured.iter().map(per_worker).sum::<f64>() / measured.len() as f64,
        mpps,
        dropped: measured.iter().map(|m| m.dropped).sum(),
        cpu_share: measured.iter().map(|m| m.cpu_share).fold(1.0, f64::min),
        bytes_per_connection: bytes_per_connection(arguments.flows, arguments.v6),
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

fn bytes_per_connection(capacity: u32, v6: bool) -> f64 {
    let limits = Limits { connections_v4: capacity, connections_v6: capacity };
    let [v4_bytes, v6_bytes] = limits.bytes();
    (if v6 { v6_bytes } else { v4_bytes }) as f64 / f64::from(capacity)
}

/// What a worker needs of the arguments.
#[derive(Clone, Copy)]
struct Settings {
    work: Work,
    flows: u32,
    nat: bool,
    v6: bool,
    packets: u64,
}

impl From<&Arguments> for Settings {
    fn from(a: &Arguments) -> Self {
        Self { work: a.work, flows: a.flows, nat: !a.no_nat && !a.v6, v6: a.v6, packets: a.packets }
    }
}

/// A pipeline, a clock that the bench turns, and frames.
struct Bench {
    settings: Settings,
    pipeline: Pipeline<'static>,
    snapshot: Snapshot,
    counters: Counters,
    now: Instant,
    rooms: Vec<[u8; ROOM]>,
    lens: [usize; BURST_MAX],
    verdicts: Vec<Verdict>,
    random: u64,
    elapsed: Duration,
}

const ME: WorkerId = WorkerId(0);

impl Bench {
    fn new(settings: Settings) -> Result<Self> {
        let key = SipKey([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]);
        // Room for one burst more than the flows, so that only `full` runs into the limit.
        let spare = if settings.work == Work::Full { 0 } else { BURST_MAX as u32 };
        let (pipeline, _) = world::pipeline(settings.flows + spare, settings.v6, key)?;
        Ok(Self {
            settings,
            pipeline,
            snapshot: world::snapshot(settings.nat, key)?,
            counters: Counters::default(),
            now: Instant(1_000_000_000),
            rooms: vec![[0; ROOM]; BURST_MAX],
            lens: [0; BURST_MAX],
            verdicts: Vec::with_capacity(BURST_MAX),
            random: 0x9e37_79b9_7f4a_7c15,
            elapsed: Duration::ZERO,
        })
    }

    fn measure(mut self) -> Result<Measured> {
        match self.settings.work {
            Work::Established => self.establish(Transport::Udp)?,
            Work::Tcp | Work::Full => self.establish_tcp()?,
            Work::New => {}
        }
        // Past the two seconds after which a replied UDP flow is a stream.
        self.now = self.now.plus(Duration::from_secs(3));
        let warm_up = self.settings.packets / 8;
        self.run(warm_up)?;
        self.elapsed = Duration::ZERO;
        let dropped_before = self.counters.values().dropped();
        let watch = Stopwatch::start();
        let packets = self.run(self.settings.packets)?;
        let dropped = self.counters.values().dropped() - dropped_before;
        let cpu_share = watch.cpu_share();
        if self.settings.work != Work::Full {
            ensure!(dropped == 0, "{dropped} packets were dropped: {:?}", self.counters);
        } else {
            ensure!(dropped == packets, "{} packets were not refused", packets - dropped);
        }
        Ok(Measured { packets, elapsed: self.elapsed, dropped, cpu_share })
    }

    /// Bursts until `packets` are done. Returns how many were.
    fn run(&mut self, packets: u64) -> Result<u64> {
        let mut done = 0;
        let mut sequence = 0;
        while done < packets {
            done += match self.settings.work {
                Work::Established => self.burst(LAN, BURST_MAX, |bench, _| {
                    let flow = bench.pick();
                    (flow, Transport::Udp)
                }),
                Work::Full => self.burst(LAN, BURST_MAX, |bench, _| {
                    let flow = bench.settings.flows + bench.pick();
                    (flow, Transport::Udp)
                }),
                Work::New => self.new_connections(&mut sequence)?,
                Work::Tcp => self.tcp_exchange(),
            };
        }
        Ok(done)
    }

    /// A random flow.
    fn pick(&mut self) -> u32 {
        self.random = self.random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (((self.random >> 32) * u64::from(self.settings.flows)) >> 32) as u32
    }

    /// One burst of original-direction frames as `frame` says.
    fn burst(
        &mut self,
        ingress: InterfaceId,
        count: usize,
        mut frame: impl FnMut(&mut Self, usize) -> (u32, Transport),
    ) -> u64 {
        for index in 0..count {
            let (flow, transport) = frame(self, index);
            let room = &mut self.rooms[index][HEADROOM..];
            self.lens[index] = traffic::outbound(room, flow, self.settings.v6, transport);
        }
        self.process(ingress, count)
    }

    /// Decides the frames that stand in the rooms; this alone is timed.
    fn process(&mut self, ingress: InterfaceId, count: usize) -> u64 {
        let mut burst = Burst::default();
        for (room, &len) in self.rooms.iter_mut().zip(&self.lens).take(count) {
            burst.packets.push(Packet {
                room,
                start: HEADROOM,
                len,
                interface: ingress,
                origin: Origin::Wire,
                parsed: None,
                visit: Visit::default(),
            });
        }
        let begin = Wall::now();
        self.pipeline.process_burst(&mut burst, ME, &self.snapshot, &self.counters, self.now);
        self.elapsed += begin.elapsed();
        for (packet, &verdict) in burst.packets.iter().zip(&burst.verdicts) {
            self.counters.settle(verdict, packet.len);
        }
        self.verdicts.clear();
        self.verdicts.extend(burst.verdicts);
        count as u64
    }

    /// Makes every connection and answers it once.
    fn establish(&mut self, transport: Transport) -> Result<()> {
        let flows = self.settings.flows;
        for first in (0..flows).step_by(BURST_MAX) {
            let count = (flows - first).min(BURST_MAX as u32) as usize;
            self.burst(LAN, count, |_, index| (first + index as u32, transport));
            self.expect_forwarded("the first packet")?;
            self.answer(count, transport);
            self.expect_forwarded("the answer")?;
        }
        Ok(())
    }

    /// A handshake for every connection.
    fn establish_tcp(&mut self) -> Result<()> {
        let flows = self.settings.flows;
        for first in (0..flows).step_by(BURST_MAX) {
            let count = (flows - first).min(BURST_MAX as u32) as usize;
            let segment = |seq, ack, flags| Transport::Tcp(Segment { seq, ack, flags });
            self.burst(LAN, count, |_, i| (first + i as u32, segment(999, 0, SYN)));
            self.expect_forwarded("SYN")?;
            self.answer(count, segment(4_999, 1000, SYN | ACK));
            self.expect_forwarded("SYN/ACK")?;
            self.burst(LAN, count, |_, i| (first + i as u32, segment(1000, 5_000, ACK)));
            self.expect_forwarded("ACK")?;
        }
        Ok(())
    }

    /// Turns the forwarded frames in the rooms into answers and has them decided.
    fn answer(&mut self, count: usize, transport: Transport) {
        for (room, &len) in self.rooms.iter_mut().zip(&self.lens).take(count) {
            traffic::answer(&mut room[HEADROOM..], len, self.settings.v6, transport);
        }
        self.process(WAN, count);
    }

    /// A burst of data, and a burst of the ACKs to it.
    fn tcp_exchange(&mut self) -> u64 {
        let data = Transport::Tcp(Segment { seq: 1000, ack: 5_000, flags: ACK });
        let out = self.burst(LAN, BURST_MAX, |bench, _| (bench.pick(), data));
        self.answer(BURST_MAX, Transport::Tcp(Segment { seq: 5_000, ack: 1000, flags: ACK }));
        out + BURST_MAX as u64
    }

    /// A burst of connections that never were; when the table is full, time passes until it is empty.
    fn new_connections(&mut self, next: &mut u32) -> Result<u64> {
        let sequence = *next;
        let left = self.settings.flows - sequence % self.settings.flows;
        let count = left.min(BURST_MAX as u32) as usize;
        let done = self.burst(LAN, count, |_, i| (sequence.wrapping_add(i as u32), Transport::Udp));
        self.expect_forwarded("a first packet")?;
        *next = sequence.wrapping_add(count as u32);
        if next.is_multiple_of(self.settings.flows) {
            self.now = self.now.plus(Duration::from_secs(3600));
            while self.pipeline.connections() > 0 {
                self.pipeline.housekeep(&self.snapshot, &self.counters, self.now, 4096);
            }
        }
        Ok(done)
    }

    fn expect_forwarded(&self, what: &str) -> Result<()> {
        let odd = self.verdicts.iter().find(|v| !matches!(v, Verdict::Forward { .. }));
        match odd {
            None => Ok(()),
            Some(verdict) => bail!("{what} was not forwarded: {verdict:?}"),
        }
    }
}
