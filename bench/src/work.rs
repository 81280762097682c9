//! The works: what is measured, one burst after another, in one worker.
//!
//! A burst of 64 frames is written by the generator, which is not timed, and decided by the pipeline, which
//! is. The generator makes a flow from its number by arithmetic and writes it into the same 64 rooms again and
//! again: 8 KiB that stay in the first cache, so what it takes from the pipeline's share of the caches is small
//! and the same for every work. But the frame is then always in the nearest cache, which it is not when a device
//! has just written it.
//!
//! Whole TCP lives are in [`lives`], expiry is in [`expire`].

mod expire;
mod lives;

use std::time::{Duration, Instant as Wall};

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use postern_core::burst::{BURST_MAX, Burst, Origin, Packet, Seen, Visit};
use postern_core::conntrack::siphash::SipKey;
use postern_core::counters::Counters;
use postern_core::headers::tcp_flags::{ACK, SYN};
use postern_core::pipeline::Pipeline;
use postern_core::snapshot::Snapshot;
use postern_core::time::Instant;
use postern_core::units::{InterfaceId, WorkerId};
use postern_core::verdict::Verdict;
use postern_io::memory::Pages;
use serde::Serialize;

use crate::floor::Floor;
use crate::rounds::{Gate, Round};
use crate::stopwatch::Stopwatch;
use crate::traffic::{self, HEADROOM, PAYLOAD_MAX, ROOM, Segment, Transport};
use crate::world::{self, LAN, WAN, WAN_ADDRESS};

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Work {
    /// UDP packets of connections that have seen replies.
    Established,
    /// UDP, every packet the first of a connection.
    New,
    /// TCP data one way and ACKs the other, with the window check.
    Tcp,
    /// First packets against a table full of assured connections: each is refused.
    Full,
    /// The same with SYNs.
    #[serde(rename = "full-tcp")]
    FullTcp,
    /// Whole TCP connections: SYN, SYN/ACK, ACK, FIN, FIN, ACK, and the wheel that takes them away.
    Lives,
    /// Connections that expire: the figures are for one connection.
    Expire,
}

impl Work {
    /// How many connections a packet of this work stands for, where connections come or go.
    pub fn connections_per_packet(self) -> Option<f64> {
        match self {
            Self::New | Self::Expire => Some(1.0),
            Self::Lives => Some(1.0 / lives::PACKETS as f64),
            Self::Established | Self::Tcp | Self::Full | Self::FullTcp => None,
        }
    }
}

/// What a worker is to do.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// What is measured.
    pub work: Work,
    /// Connections.
    pub flows: u32,
    /// Whether the WAN masquerades.
    pub nat: bool,
    /// IPv6.
    pub v6: bool,
    /// Packets to measure, in all rounds together.
    pub packets: u64,
    /// Rounds to measure them in.
    pub rounds: u32,
    /// Whether each round is followed by one of the [`Floor`].
    pub floor: bool,
    /// Whether the table is to have small pages only.
    pub small_pages: bool,
}

/// What one worker measured.
#[derive(Debug, Default)]
pub struct Measured {
    /// The rounds of the pipeline.
    pub rounds: Vec<Round>,
    /// The rounds of the floor between them.
    pub floor: Vec<Round>,
    /// Packets dropped.
    pub dropped: u64,
    /// Share of the processor in all rounds.
    pub cpu_share: f64,
    /// What kind of pages the table got.
    pub pages: Option<Pages>,
}

/// A pipeline, a clock that the bench turns, and frames.
pub struct Bench {
    settings: Settings,
    pipeline: Pipeline<'static>,
    pages: Pages,
    snapshot: Snapshot,
    counters: Counters,
    now: Instant,
    rooms: Vec<[u8; ROOM]>,
    lens: [usize; BURST_MAX],
    verdicts: Vec<Verdict>,
    random: u64,
    /// The next connection that never was.
    sequence: u32,
    /// Of `tcp`, by connection: the sequence number that its next data has.
    sent: Vec<u32>,
    /// Of the lives under way: the port that their packets leave by.
    outside_ports: Vec<u16>,
    round: Round,
}

const ME: WorkerId = WorkerId(0);
/// Keys the tables: the same on every run, so that the same packets are the same work.
pub(crate) const KEY: SipKey = SipKey([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]);

impl Bench {
    /// A gateway that has seen nothing yet.
    pub fn new(settings: Settings) -> Result<Self> {
        // Room for a burst more than the flows, so that only `full` runs into the limit.
        let spare = match settings.work {
            Work::Full | Work::FullTcp => 0,
            Work::Lives => lives::spare(settings.flows),
            _ => BURST_MAX as u32,
        };
        let (pipeline, pages) =
            world::pipeline(settings.flows + spare, settings.v6, KEY, settings.small_pages)?;
        Ok(Self {
            settings,
            pipeline,
            pages,
            snapshot: world::snapshot(settings.nat, KEY, 1)?,
            counters: Counters::default(),
            now: Instant(1_000_000_000),
            rooms: vec![[0; ROOM]; BURST_MAX],
            lens: [0; BURST_MAX],
            verdicts: Vec::with_capacity(BURST_MAX),
            random: 0x9e37_79b9_7f4a_7c15,
            sequence: 0,
            sent: match settings.work {
                Work::Tcp => vec![1000; settings.flows as usize],
                _ => Vec::new(),
            },
            outside_ports: Vec::new(),
            round: Round::default(),
        })
    }

    /// Measures, beginning every round together with whoever else waits at `gate`.
    pub fn measure(mut self, gate: &Gate) -> Result<Measured> {
        let mut floor =
            self.settings.floor.then(|| Floor::new(self.settings.flows, KEY)).transpose()?;
        match self.settings.work {
            Work::Established => self.establish(Transport::Udp)?,
            Work::Tcp | Work::Full | Work::FullTcp => self.establish_tcp()?,
            Work::New | Work::Lives | Work::Expire => {}
        }
        // Past the two seconds after which a replied UDP flow is a stream.
        self.now = self.now.plus(Duration::from_secs(3));
        if self.settings.work == Work::Established {
            self.settle()?;
        }
        let mut measured = Measured { pages: Some(self.pages), ..Measured::default() };
        let mut watch = Stopwatch::default();
        let share = (self.settings.packets / u64::from(self.settings.rounds)).max(1);
        for round in 0..self.settings.rounds {
            // The floor's rounds empty the caches of the pipeline's lines, and the other way round.
            if round == 0 || floor.is_some() {
                self.round(self.warm_up(share))?;
            }
            gate.wait()?;
            let dropped_before = self.counters.values().dropped();
            let done = watch.run(|| self.round(share))?;
            let dropped = self.counters.values().dropped() - dropped_before;
            self.check(done.packets, dropped)?;
            measured.rounds.push(done);
            measured.dropped += dropped;
            if let Some(floor) = &mut floor {
                self.floor_round(floor, share / 4);
                gate.wait()?;
                let done = watch.run(|| self.floor_round(floor, share));
                measured.floor.push(done);
            }
        }
        measured.cpu_share = watch.cpu_share();
        Ok(measured)
    }

    /// Packets before the first one that counts.
    fn warm_up(&self, share: u64) -> u64 {
        match self.settings.work {
            Work::Expire => 1,
            Work::Lives => lives::until_steady(self.settings.flows).max(share / 4),
            _ => share / 4,
        }
    }

    fn check(&self, packets: u64, dropped: u64) -> Result<()> {
        if matches!(self.settings.work, Work::Full | Work::FullTcp) {
            ensure!(dropped == packets, "{} packets were not refused", packets - dropped);
        } else {
            ensure!(dropped == 0, "{dropped} packets were dropped: {:?}", self.counters);
        }
        Ok(())
    }

    /// One round of the pipeline.
    fn round(&mut self, packets: u64) -> Result<Round> {
        self.round = Round::default();
        while self.round.packets < packets {
            self.step()?;
        }
        Ok(std::mem::take(&mut self.round))
    }

    /// One round of the floor, with frames of the same flows as those of [`Work::Established`].
    fn floor_round(&mut self, floor: &mut Floor, packets: u64) -> Round {
        let mut done = Round::default();
        while done.packets < packets {
            for index in 0..BURST_MAX {
                let flow = self.pick();
                traffic::outbound(&mut self.rooms[index][HEADROOM..], flow, false, Transport::Udp);
            }
            let begin = Wall::now();
            floor.pass(&mut self.rooms, BURST_MAX);
            done.add(BURST_MAX as u64, begin.elapsed());
        }
        done
    }

    /// The smallest piece of the work.
    fn step(&mut self) -> Result<()> {
        match self.settings.work {
            Work::Established => {
                self.burst(LAN, BURST_MAX, |bench, _| (bench.pick(), Transport::Udp));
            }
            Work::Full => self.burst(LAN, BURST_MAX, |bench, _| {
                let flow = bench.settings.flows + bench.pick();
                (flow, Transport::Udp)
            }),
            Work::FullTcp => self.burst(LAN, BURST_MAX, |bench, _| {
                let syn = Segment { seq: 999, ack: 0, flags: SYN, payload: 0 };
                (bench.settings.flows + bench.pick(), Transport::Tcp(syn))
            }),
            Work::New => self.new_connections()?,
            Work::Tcp => self.tcp_exchange(),
            Work::Lives => self.lives()?,
            Work::Expire => self.expire()?,
        }
        Ok(())
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
    ) {
        for index in 0..count {
            let (flow, transport) = frame(self, index);
            let room = &mut self.rooms[index][HEADROOM..];
            self.lens[index] = traffic::outbound(room, flow, self.settings.v6, transport);
        }
        self.process(ingress, count);
    }

    /// Decides the frames that stand in the rooms; this alone is timed.
    fn process(&mut self, ingress: InterfaceId, count: usize) {
        let mut burst = Burst::default();
        for (room, &len) in self.rooms.iter_mut().zip(&self.lens).take(count) {
            burst.packets.push(Packet {
                room,
                start: HEADROOM,
                len,
                interface: ingress,
                origin: Origin::Wire,
                seen: Seen::Unseen,
                parsed: None,
                visit: Visit::default(),
            });
        }
        let begin = Wall::now();
        self.pipeline.process_burst(&mut burst, ME, &self.snapshot, &self.counters, self.now);
        self.round.add(count as u64, begin.elapsed());
        for (packet, &verdict) in burst.packets.iter().zip(&burst.verdicts) {
            self.counters.settle(verdict, packet.len);
        }
        self.verdicts.clear();
        self.verdicts.extend(burst.verdicts);
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

    /// One packet more of every connection: that makes a stream of it, and has it judged as established. A
    /// measurement with more connections than packets would be of nothing else.
    fn settle(&mut self) -> Result<()> {
        let flows = self.settings.flows;
        for first in (0..flows).step_by(BURST_MAX) {
            let count = (flows - first).min(BURST_MAX as u32) as usize;
            self.burst(LAN, count, |_, index| (first + index as u32, Transport::Udp));
            self.expect_forwarded("a further packet")?;
        }
        Ok(())
    }

    /// A handshake for every connection.
    fn establish_tcp(&mut self) -> Result<()> {
        let flows = self.settings.flows;
        for first in (0..flows).step_by(BURST_MAX) {
            let count = (flows - first).min(BURST_MAX as u32) as usize;
            let segment = |seq, ack, flags| Transport::Tcp(Segment { seq, ack, flags, payload: 0 });
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

    /// A burst of data, and a burst of ACKs to what was sent so far by other connections, all of them random: windows
    /// move at both ends.
    fn tcp_exchange(&mut self) {
        self.burst(LAN, BURST_MAX, |bench, _| {
            let flow = bench.pick();
            let seq = bench.sent[flow as usize];
            bench.sent[flow as usize] = seq.wrapping_add(u32::from(PAYLOAD_MAX));
            (flow, Transport::Tcp(Segment { seq, ack: 5_000, flags: ACK, payload: PAYLOAD_MAX }))
        });
        let translated = self.settings.nat && !self.settings.v6;
        for index in 0..BURST_MAX {
            let flow = self.pick();
            let ack = self.sent[flow as usize];
            let acks = Transport::Tcp(Segment { seq: 5_000, ack, flags: ACK, payload: 0 });
            // These flows keep their ports.
            let outside = translated.then(|| (WAN_ADDRESS, traffic::endpoints(flow).1));
            let room = &mut self.rooms[index][HEADROOM..];
            self.lens[index] = traffic::inbound(room, flow, self.settings.v6, outside, acks);
        }
        self.process(WAN, BURST_MAX);
    }

    /// A burst of connections that never were; when the table is full, time passes until it is empty.
    fn new_connections(&mut self) -> Result<()> {
        let sequence = self.sequence;
        let left = self.settings.flows - sequence % self.settings.flows;
        let count = left.min(BURST_MAX as u32) as usize;
        self.burst(LAN, count, |_, i| (sequence.wrapping_add(i as u32), Transport::Udp));
        self.expect_forwarded("a first packet")?;
        self.sequence = sequence.wrapping_add(count as u32);
        if self.sequence.is_multiple_of(self.settings.flows) {
            self.now = self.now.plus(Duration::from_secs(3600));
            while self.pipeline.connections() > 0 {
                self.pipeline.housekeep(ME, &self.snapshot, &self.counters, self.now, 4096);
            }
        }
        Ok(())
    }

    fn expect_forwarded(&self, what: &str) -> Result<()> {
        let odd = self.verdicts.iter().find(|v| !matches!(v, Verdict::Forward { .. }));
        match odd {
            None => Ok(()),
            Some(verdict) => bail!("{what} was not forwarded: {verdict:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of one connection more is sent than a window holds: all of it crosses only if the ACKs move the window.
    #[test]
    fn windows_move_in_tcp() {
        for v6 in [false, true] {
            let settings = Settings {
                work: Work::Tcp,
                flows: 1,
                nat: true,
                v6,
                packets: 80_000,
                rounds: 1,
                floor: false,
                small_pages: true,
            };
            let measured = Bench::new(settings).and_then(|bench| bench.measure(&Gate::new(1)));
            assert_eq!(measured.expect("all crossed").dropped, 0);
        }
    }
}
