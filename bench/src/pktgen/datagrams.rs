//! Stamped UDP both ways, first packets, and SYN floods.
//!
//! Life: [`open`](Generator::open) sends the first packet of every flow at a bounded rate. The far side
//! reads from the translated packet which flow it is and where answers to it must go, and sends one; when
//! that has come back to the near side the flow is open. Then traffic is measured, each packet by its
//! stamp. A SYN has no payload: its sequence number is its number, and its time is kept here.

use anyhow::{Result, bail, ensure};

use super::accounts::observe;
use super::args::Work;
use super::frame::{
    Link, Parsed, Segment, Template, Transport, Unusable, parse, tcp_flags, udp_len_min,
};
use super::port::{Bench, Side};
use super::report::histogram;
use super::run::{Generator, Measured, Plan};
use super::schedule::{Pacer, Picker, Slots};
use super::stamp::{Kind, Stamp};
use super::topology::{Family, Flows, Tuple};
use super::tracker::{Counts, Seen, Tracker};
use hdrhistogram::Histogram;

/// Nothing for so long, in nanoseconds, and there is nobody there.
const PATIENCE: u64 = 500_000_000;
/// Nothing for so long, and nothing more will come.
const QUIET: u64 = 300_000_000;
/// Stragglers are waited for at most so long.
const DRAIN_MAX: u64 = 3_000_000_000;
/// Times a flow's first packet is sent before it counts as not opened.
const OPEN_ROUNDS: u32 = 4;
/// Times of SYNs that are kept.
const TIMES: usize = 1 << 20;

/// See the module.
#[derive(Debug)]
pub struct Datagrams {
    bench: Bench,
    state: State,
    account: Vec<u32>,
}

/// All but the devices.
#[derive(Debug)]
struct State {
    work: Work,
    family: Family,
    near_link: Link,
    /// Known from the first frame that comes through.
    answering: Option<Template>,
    originals: Vec<Template>,
    opening: Template,
    syn: Template,
    replies: Vec<Template>,
    lengths: Vec<usize>,
    /// Which of the templates is next, original and reply.
    next_length: [usize; 2],
    flows: Flows,
    slots: Slots,
    picker: Picker,
    /// The next flow of `new` and `syn`.
    next_flow: u64,
    churn: f64,
    /// Where replies to each flow go; only with traffic both ways.
    external: Option<External>,
    opened: Bits,
    openings_arrived: u64,
    /// Changes with each trial, so that a late packet of one is none of the next.
    run: u16,
    /// Packets sent in the trial: original, reply.
    sent: [u64; 2],
    trackers: Vec<Tracker>,
    latency: Histogram<u64>,
    times: Box<[u64]>,
    corrupted: u64,
    unexpected: u64,
    /// Frames of this run, of any kind.
    ours: u64,
    open_rate: f64,
    flow_count: u32,
    opens: bool,
}

/// One bit a flow.
#[derive(Debug)]
struct Bits {
    words: Box<[u64]>,
    set: u32,
}

impl Bits {
    fn new(bits: u32) -> Self {
        Self { words: vec![0; bits.div_ceil(64) as usize].into(), set: 0 }
    }

    fn get(&self, bit: u32) -> bool {
        self.words[(bit / 64) as usize] >> (bit % 64) & 1 != 0
    }

    fn set(&mut self, bit: u32) {
        if let Some(word) = self.words.get_mut((bit / 64) as usize) {
            let mask = 1 << (bit % 64);
            self.set += u32::from(*word & mask == 0);
            *word |= mask;
        }
    }
}

/// The endpoint a flow was given, by flow: 8 bytes of IPv4, 18 of IPv6. Port zero: not known.
#[derive(Debug)]
enum External {
    V4(Box<[(u32, u16)]>),
    V6(Box<[([u8; 16], u16)]>),
}

impl External {
    fn new(family: Family, flows: u32) -> Self {
        match family {
            Family::V4 => Self::V4(vec![(0, 0); flows as usize].into()),
            Family::V6 => Self::V6(vec![([0; 16], 0); flows as usize].into()),
        }
    }

    fn learn(&mut self, flow: u32, address: u128, port: u16) {
        match self {
            Self::V4(all) => {
                if let Some(entry) = all.get_mut(flow as usize) {
                    *entry = (address as u32, port);
                }
            }
            Self::V6(all) => {
                if let Some(entry) = all.get_mut(flow as usize) {
                    *entry = (address.to_be_bytes(), port);
                }
            }
        }
    }

    fn of(&self, flow: u32) -> Option<(u128, u16)> {
        let (address, port) = match self {
            Self::V4(all) => all.get(flow as usize).map(|&(a, port)| (u128::from(a), port))?,
            Self::V6(all) => {
                all.get(flow as usize).map(|&(a, port)| (u128::from_be_bytes(a), port))?
            }
        };
        (port != 0).then_some((address, port))
    }
}

impl Datagrams {
    /// A generator of UDP flows, first packets or SYNs.
    pub fn new(plan: &Plan, bench: Bench, link: Link) -> Self {
        let (args, family) = (&plan.args, plan.flows.family());
        let flow_count = if args.work == Work::Udp { args.flows } else { 1 };
        let seed = args.seed;
        let picker = if plan.zipf() {
            Picker::zipf(flow_count, seed)
        } else {
            Picker::uniform(flow_count, seed)
        };
        // `new` and `syn` have one packet a flow: there is no order to watch.
        let tracked = if args.work == Work::Udp { args.flows } else { 0 };
        let directions = if args.bidirectional { 2 } else { 1 };
        let template = |&len: &usize| Template::udp(family, link, len);
        let state = State {
            work: args.work,
            family,
            near_link: link,
            answering: None,
            originals: plan.lengths.iter().map(template).collect(),
            opening: Template::udp(family, link, udp_len_min(family, link.vlan)),
            syn: Template::tcp(family, link),
            replies: Vec::new(),
            lengths: plan.lengths.clone(),
            next_length: [0; 2],
            flows: plan.flows,
            slots: Slots::new(plan.flows, flow_count),
            picker,
            next_flow: 0,
            churn: f64::from(args.churn),
            external: args.bidirectional.then(|| External::new(family, args.flows)),
            opened: Bits::new(flow_count),
            openings_arrived: 0,
            run: (std::process::id() as u16) ^ (seed as u16),
            sent: [0; 2],
            trackers: (0..directions).map(|_| Tracker::new(tracked)).collect(),
            latency: histogram(),
            times: vec![0; if args.work == Work::Syn { TIMES } else { 0 }].into(),
            corrupted: 0,
            unexpected: 0,
            ours: 0,
            open_rate: f64::from(args.open_rate),
            flow_count,
            opens: args.work == Work::Udp && !args.no_open,
        };
        Self { bench, state, account: plan.account.clone() }
    }

    /// Receives what is there on both sides and sends the answers to it.
    #[inline]
    fn poll(&mut self) -> Result<()> {
        let Self { bench, state, .. } = self;
        bench.receive(Side::Far, |bench, frame, now| state.far(bench, frame, now))?;
        bench.receive(Side::Near, |_, frame, now| state.near(frame, now))?;
        bench.flush(Side::Far)
    }

    /// Sends at `rate` until `end`, as measured traffic or as warming up; returns what was not sent.
    fn send_until(&mut self, rate: Option<f64>, end: u64, measured: bool) -> Result<u64> {
        let start = self.bench.clock.now();
        let mut pacer = Pacer::new(rate, start);
        let patience = PATIENCE + rate.map_or(0, |rate| (10e9 / rate) as u64);
        let (mut ours, mut heard) = (self.state.ours, start);
        let mut replaced = 0;
        loop {
            let now = self.bench.clock.now();
            if now >= end {
                break;
            }
            let Self { bench, state, .. } = self;
            let mut due = pacer.due(now).min(bench.room(Side::Near));
            if state.external.is_some() {
                due = due.min(bench.room(Side::Far));
            }
            let new = if measured && state.churn > 0.0 {
                let by_now = ((now - start) as f64 * 1e-9 * state.churn) as u64;
                (by_now - replaced).min(due)
            } else {
                0
            };
            let sent =
                (0..due).take_while(|&at| state.emit(bench, now, measured, at < new)).count();
            replaced += new.min(sent as u64);
            pacer.sent(sent as u64);
            bench.flush(Side::Near)?;
            self.poll()?;
            if self.state.ours != ours {
                (ours, heard) = (self.state.ours, now);
            } else if now - heard > patience {
                break;
            }
        }
        let silent = self.bench.clock.now() - heard;
        if silent > patience {
            bail!(
                "nothing has come back for {:.1} s: the device under test is gone or does not forward",
                silent as f64 * 1e-9
            );
        }
        Ok(pacer.skipped())
    }

    /// Waits for stragglers.
    fn drain(&mut self, done: impl Fn(&State) -> bool) -> Result<()> {
        let start = self.bench.clock.now();
        let (mut ours, mut heard) = (self.state.ours, start);
        loop {
            self.bench.flush(Side::Near)?;
            self.poll()?;
            let now = self.bench.clock.now();
            if self.state.ours != ours {
                (ours, heard) = (self.state.ours, now);
            }
            if done(&self.state) || now - heard > QUIET || now - start > DRAIN_MAX {
                return Ok(());
            }
        }
    }

    /// Sends the first packet of every flow that is not open.
    fn open_round(&mut self) -> Result<()> {
        let start = self.bench.clock.now();
        let mut pacer = Pacer::new(Some(self.state.open_rate), start);
        let mut next = 0;
        while next < self.state.flow_count {
            let now = self.bench.clock.now();
            let Self { bench, state, .. } = self;
            let mut due = pacer.due(now).min(bench.room(Side::Near));
            while due > 0 && next < state.flow_count {
                if !state.opened.get(next) {
                    if !state.emit_open(bench, now, next) {
                        break;
                    }
                    pacer.sent(1);
                    due -= 1;
                }
                next += 1;
            }
            bench.flush(Side::Near)?;
            self.poll()?;
            if self.state.openings_arrived == 0 && now - start > 2 * PATIENCE {
                break;
            }
        }
        self.drain(|state| state.opened.set == state.flow_count)
    }
}

impl Generator for Datagrams {
    fn open(&mut self) -> Result<Option<u32>> {
        if !self.state.opens {
            return Ok(None);
        }
        for _ in 0..OPEN_ROUNDS {
            self.open_round()?;
            let state = &self.state;
            let (near, far) = (self.bench.port(Side::Near), self.bench.port(Side::Far));
            ensure!(
                state.openings_arrived > 0,
                "nothing that {} sent has come out at {}: the device under test is gone or does not forward",
                near.device().name,
                far.device().name
            );
            ensure!(
                state.opened.set > 0,
                "first packets came out at {}, but no answer came back to {}: --no-open measures one way only",
                far.device().name,
                near.device().name
            );
            if state.opened.set == state.flow_count {
                break;
            }
        }
        Ok(Some(self.state.opened.set))
    }

    fn warm_up(&mut self, rate: Option<f64>, seconds: f64) -> Result<()> {
        if seconds == 0.0 {
            return Ok(());
        }
        let end = self.bench.clock.now() + (seconds * 1e9) as u64;
        self.send_until(rate, end, false)?;
        self.drain(|_| false)
    }

    fn measure(&mut self, rate: Option<f64>, seconds: f64) -> Result<Measured> {
        self.state.reset();
        let dropped = self.bench.drops()?;
        let replaced = self.state.slots.replaced();
        let start = self.bench.clock.now();
        let end = start + (seconds * 1e9) as u64;
        let pids = self.account.clone();
        let (not_sent, stopwatch, accounts) = observe(&pids, || self.send_until(rate, end, true));
        let not_sent = not_sent?;
        let elapsed = (self.bench.clock.now() - start) as f64 * 1e-9;
        self.drain(|state| state.counts().received == state.sent.iter().sum::<u64>())?;
        let state = &mut self.state;
        let counts = state.counts();
        ensure!(
            counts.received > 0,
            "nothing has come back: the device under test is gone or does not forward"
        );
        Ok(Measured {
            sent: state.sent.iter().sum(),
            counts,
            corrupted: state.corrupted,
            unexpected: state.unexpected,
            lost_by_sink: self.bench.drops()? - dropped,
            not_sent,
            flows_replaced: state.slots.replaced() - replaced,
            ordered: state.work == Work::Udp,
            connections: None,
            latency: std::mem::replace(&mut state.latency, histogram()),
            seconds: elapsed,
            cpu_share: stopwatch.cpu_share(),
            accounts,
        })
    }
}

impl State {
    fn reset(&mut self) {
        self.run = self.run.wrapping_add(1);
        self.sent = [0; 2];
        self.trackers.iter_mut().for_each(Tracker::reset);
        self.latency.reset();
        (self.corrupted, self.unexpected, self.ours) = (0, 0, 0);
    }

    /// Of both directions.
    fn counts(&self) -> Counts {
        self.trackers.iter().map(Tracker::counts).fold(Counts::default(), |sum, one| Counts {
            received: sum.received + one.received,
            duplicated: sum.duplicated + one.duplicated,
            reordered: sum.reordered + one.reordered,
            stale: sum.stale + one.stale,
        })
    }

    fn stamp(
        &self,
        kind: Kind,
        flow: u32,
        sequence: u64,
        time: u64,
    ) -> [u8; super::stamp::STAMP_LEN] {
        Stamp { run: self.run, kind, flow, sequence: sequence as u32, time }.encode()
    }

    fn emit_open(&self, bench: &mut Bench, now: u64, flow: u32) -> bool {
        let stamp = self.stamp(Kind::Open, flow, 0, now);
        let tuple = self.slots.tuple(flow);
        bench.send(Side::Near, flow, |frame| self.opening.write_udp(frame, &tuple, &stamp))
    }

    /// Sends one packet, or one each way; of a new flow if `replace`. False if there is no room.
    #[inline]
    fn emit(&mut self, bench: &mut Bench, now: u64, measured: bool, replace: bool) -> bool {
        let went = match self.work {
            Work::Syn => self.emit_syn(bench, now),
            _ => self.emit_original(bench, now, measured, replace),
        };
        self.sent[0] += u64::from(went && measured);
        if went && self.external.is_some() {
            let replied = self.emit_reply(bench, now, measured);
            self.sent[1] += u64::from(replied && measured);
        }
        went
    }

    #[inline]
    fn emit_original(
        &mut self,
        bench: &mut Bench,
        now: u64,
        measured: bool,
        replace: bool,
    ) -> bool {
        let (flow, queue, tuple) = match self.work {
            Work::New => {
                let number = self.next_flow;
                self.next_flow += 1;
                (0, number as u32, self.flows.tuple(number % self.flows.capacity()))
            }
            _ => {
                let flow = if replace { self.slots.replace() } else { self.picker.pick() };
                (flow, flow, self.slots.tuple(flow))
            }
        };
        let kind = match (measured, replace) {
            (false, _) => Kind::WarmUp,
            (true, false) => Kind::Original,
            (true, true) => Kind::OriginalOpen,
        };
        let stamp = self.stamp(kind, flow, self.sent[0], now);
        let template = &self.originals[self.next_length[0]];
        self.next_length[0] = (self.next_length[0] + 1) % self.originals.len();
        bench.send(Side::Near, queue, |frame| template.write_udp(frame, &tuple, &stamp))
    }

    #[inline]
    fn emit_reply(&mut self, bench: &mut Bench, now: u64, measured: bool) -> bool {
        let flow = self.picker.pick();
        let Some((address, port)) = self.external.as_ref().and_then(|all| all.of(flow)) else {
            return false;
        };
        let Some(template) = self.replies.get(self.next_length[1]) else { return false };
        let original = self.slots.tuple(flow);
        let tuple =
            Tuple { src: original.dst, src_port: original.dst_port, dst: address, dst_port: port };
        let kind = if measured { Kind::Reply } else { Kind::WarmUp };
        let stamp = self.stamp(kind, flow, self.sent[1], now);
        self.next_length[1] = (self.next_length[1] + 1) % self.replies.len();
        bench.send(Side::Far, flow, |frame| template.write_udp(frame, &tuple, &stamp))
    }

    #[inline]
    fn emit_syn(&mut self, bench: &mut Bench, now: u64) -> bool {
        let number = self.next_flow;
        self.next_flow += 1;
        let sequence = self.sent[0] as u32;
        let tuple = self.flows.tuple(number % self.flows.capacity());
        let segment = Segment { sequence, acknowledgment: 0, flags: tcp_flags::SYN };
        self.times[sequence as usize % TIMES] = now;
        bench.send(Side::Near, number as u32, |frame| self.syn.write_tcp(frame, &tuple, segment))
    }

    /// A frame at the far side.
    #[inline]
    fn far(&mut self, bench: &mut Bench, frame: &[u8], now: u64) {
        let Some(parsed) = self.sound(frame) else { return };
        match parsed.transport {
            Transport::Udp(payload) => match Stamp::decode(payload) {
                Some(stamp) if stamp.run == self.run => {
                    self.far_stamped(bench, &parsed, &stamp, now);
                }
                _ => self.unexpected += 1,
            },
            Transport::Tcp(segment) if self.work == Work::Syn => {
                self.far_syn(&parsed, segment, now)
            }
            Transport::Tcp(_) => self.unexpected += 1,
        }
    }

    #[inline]
    fn far_stamped(&mut self, bench: &mut Bench, parsed: &Parsed<'_>, stamp: &Stamp, now: u64) {
        if self.answering.is_none() {
            self.meet(bench, parsed.link_src);
        }
        self.ours += 1;
        let first = match stamp.kind {
            Kind::Open => {
                self.openings_arrived += 1;
                true
            }
            Kind::OriginalOpen => {
                self.arrived(0, stamp, now);
                true
            }
            Kind::Original => {
                self.arrived(0, stamp, now);
                false
            }
            Kind::WarmUp => false,
            Kind::Answer | Kind::Reply => {
                self.unexpected += 1;
                false
            }
        };
        if first {
            self.answer(bench, parsed, stamp.flow, now);
        }
    }

    /// The device under test has shown its address on the far link.
    #[cold]
    fn meet(&mut self, bench: &Bench, mac: [u8; 6]) {
        let src = bench.port(Side::Far).device().mac;
        let link = Link { dst: mac, src, vlan: self.near_link.vlan };
        let shortest = udp_len_min(self.family, link.vlan);
        self.answering = Some(Template::udp(self.family, link, shortest));
        let template = |&len: &usize| Template::udp(self.family, link, len);
        self.replies = self.lengths.iter().map(template).collect();
    }

    fn answer(&mut self, bench: &mut Bench, parsed: &Parsed<'_>, flow: u32, now: u64) {
        if let Some(external) = &mut self.external {
            external.learn(flow, parsed.tuple.src, parsed.tuple.src_port);
        }
        let Some(template) = &self.answering else { return };
        let stamp = self.stamp(Kind::Answer, flow, 0, now);
        let tuple = parsed.tuple.inverted();
        // Without room the flow is opened again in the next round.
        bench.send(Side::Far, flow, |frame| template.write_udp(frame, &tuple, &stamp));
    }

    fn far_syn(&mut self, parsed: &Parsed<'_>, segment: Segment, now: u64) {
        if segment.flags != tcp_flags::SYN || parsed.tuple.dst_port != self.flows.dst_port() {
            self.unexpected += 1;
            return;
        }
        self.ours += 1;
        if self.sent[0] == 0 {
            return; // warming up
        }
        let time = self.times[segment.sequence as usize % TIMES];
        let seen = self.trackers[0].arrived(0, segment.sequence);
        if matches!(seen, Seen::InOrder | Seen::Late) {
            self.latency.saturating_record(now.saturating_sub(time).max(1));
        }
    }

    /// A frame at the near side.
    #[inline]
    fn near(&mut self, frame: &[u8], now: u64) {
        let Some(parsed) = self.sound(frame) else { return };
        let stamp = match parsed.transport {
            Transport::Udp(payload) => Stamp::decode(payload).filter(|s| s.run == self.run),
            Transport::Tcp(_) => None,
        };
        let Some(stamp) = stamp.filter(|stamp| self.reached_its_flow(&parsed.tuple, stamp)) else {
            self.unexpected += 1;
            return;
        };
        self.ours += 1;
        match stamp.kind {
            Kind::Answer => self.opened.set(stamp.flow),
            Kind::Reply => self.arrived(1, &stamp, now),
            Kind::WarmUp => {}
            Kind::Open | Kind::Original | Kind::OriginalOpen => self.unexpected += 1,
        }
    }

    /// Whether a reply came to where its flow began. With churn that place changes under way.
    #[inline]
    fn reached_its_flow(&self, tuple: &Tuple, stamp: &Stamp) -> bool {
        self.churn > 0.0
            || stamp.flow < self.flow_count && {
                let begun = self.slots.tuple(stamp.flow);
                tuple.dst == begun.src && tuple.dst_port == begun.src_port
            }
    }

    #[inline]
    fn sound<'a>(&mut self, frame: &'a [u8]) -> Option<Parsed<'a>> {
        match parse(frame) {
            Ok(parsed) => Some(parsed),
            Err(Unusable::Corrupt) => {
                self.corrupted += 1;
                None
            }
            Err(Unusable::Foreign) => {
                self.unexpected += 1;
                None
            }
        }
    }

    /// A measured packet of a direction.
    #[inline]
    fn arrived(&mut self, direction: usize, stamp: &Stamp, now: u64) {
        let Some(tracker) = self.trackers.get_mut(direction) else { return };
        let seen = tracker.arrived(stamp.flow, stamp.sequence);
        if matches!(seen, Seen::InOrder | Seen::Late) {
            self.latency.saturating_record(stamp.age(now).max(1));
        }
    }
}
