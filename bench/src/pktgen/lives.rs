//! Whole TCP connections, both ends of them here: SYN, SYN/ACK, ACK, FIN, FIN, ACK.
//!
//! The ends keep no tuples: a connection's number is in its sequence numbers, so a segment that was
//! translated still says which it is of, and answers go to where it came from. Numbers begin at four
//! times the connection's number at both ends; SYN and FIN take one each. Nothing is sent again: a life
//! that misses a packet for a second has failed.
//!
//! The table has two places for each connection there may be at a time. A connection whose place is
//! still another's is passed over, so starting one never searches.

use anyhow::{Result, bail, ensure};

use super::accounts::observe;
use super::frame::tcp_flags::{ACK, FIN, SYN};
use super::frame::{Link, Segment, Template, Transport, Unusable, parse};
use super::port::{Bench, Side};
use super::report::Connections;
use super::run::{Generator, Measured, Plan};
use super::schedule::{BATCH, Pacer};
use super::topology::{Family, Flows, Tuple};

/// Packets of a whole life.
pub const PACKETS: u64 = 6;
const ALL: u8 = (1 << PACKETS) - 1;
/// Numbers a connection can have: the sequence number's other two bits count SYN and FIN.
const NUMBERS: u32 = 1 << 30;
/// A life without a packet for so long, in nanoseconds, has failed.
const LIFE_PATIENCE: u64 = 1_000_000_000;
/// Nothing for so long, and there is nobody there.
const PATIENCE: u64 = 1_500_000_000;
/// Places looked at for failed lives each turn.
const SWEEP: usize = 64;
/// Places tried for a new life before the next turn.
const PASSED_OVER: u32 = 16;

/// The six packets, as bits of [`Life::seen`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Packet {
    Syn = 1 << 0,
    SynAck = 1 << 1,
    Ack = 1 << 2,
    Fin = 1 << 3,
    FinBack = 1 << 4,
    LastAck = 1 << 5,
}

/// A place in the table.
#[derive(Clone, Copy, Default, Debug)]
struct Life {
    number: u32,
    seen: u8,
    alive: bool,
    /// When its latest packet was sent.
    sent_at: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Lives {
    bench: Bench,
    state: State,
    account: Vec<u32>,
}

#[derive(Debug)]
struct State {
    family: Family,
    near: Template,
    near_link: Link,
    /// Known from the first frame that comes through.
    far: Option<Template>,
    flows: Flows,
    table: Box<[Life]>,
    alive: u32,
    alive_max: u32,
    next: u32,
    sweep: usize,
    started: u64,
    completed: u64,
    failed: u64,
    measured: Measured,
}

/// Which packet of which connection a segment is; `None` for those that are none of ours.
fn identify(side: Side, segment: Segment) -> Option<(u32, Packet)> {
    let Segment { sequence, acknowledgment, flags } = segment;
    // What the sender of the segment began with says it on the way there; on the way back, what is
    // acknowledged.
    let (own, packet) = match (side, flags, sequence & 3, acknowledgment & 3) {
        (Side::Far, SYN, 0, _) => (sequence, Packet::Syn),
        (Side::Far, ACK, 1, 1) => (sequence, Packet::Ack),
        (Side::Far, ACK, 2, 2) => (sequence, Packet::LastAck),
        (Side::Far, flags, 1, 1) if flags == FIN | ACK => (sequence, Packet::Fin),
        (Side::Near, flags, 0, 1) if flags == SYN | ACK => (acknowledgment, Packet::SynAck),
        (Side::Near, flags, 1, 2) if flags == FIN | ACK => (acknowledgment, Packet::FinBack),
        _ => return None,
    };
    let whole = packet == Packet::Syn || sequence >> 2 == acknowledgment >> 2;
    whole.then_some((own >> 2, packet))
}

/// What follows on a packet that arrived: flags, and how many of its own SYN and FIN the sender of the
/// answer, and of the packet, have sent.
const fn answers(packet: Packet) -> &'static [(u8, u32, u32)] {
    match packet {
        Packet::Syn => &[(SYN | ACK, 0, 1)],
        Packet::SynAck => &[(ACK, 1, 1), (FIN | ACK, 1, 1)],
        Packet::Fin => &[(FIN | ACK, 1, 2)],
        Packet::FinBack => &[(ACK, 2, 2)],
        Packet::Ack | Packet::LastAck => &[],
    }
}

impl Lives {
    /// A generator of TCP connections.
    pub fn new(plan: &Plan, bench: Bench, link: Link) -> Self {
        let (family, alive_max) = (plan.flows.family(), plan.args.flows);
        let places = (alive_max as usize * 2).next_power_of_two().max(SWEEP);
        let state = State {
            family,
            near: Template::tcp(family, link),
            near_link: link,
            far: None,
            flows: plan.flows,
            table: vec![Life { number: u32::MAX, ..Life::default() }; places].into(),
            alive: 0,
            alive_max,
            next: 0,
            sweep: 0,
            started: 0,
            completed: 0,
            failed: 0,
            measured: Measured::nothing(),
        };
        Self { bench, state, account: plan.account.clone() }
    }

    #[inline]
    fn poll(&mut self) -> Result<()> {
        let Self { bench, state, .. } = self;
        for side in [Side::Far, Side::Near] {
            bench.receive(side, |bench, frame, now| state.arrived(bench, side, frame, now))?;
        }
        bench.flush(Side::Far)?;
        bench.flush(Side::Near)
    }

    /// Lives and dies at `rate` packets a second until `end`; returns the lives not begun.
    fn live_until(&mut self, rate: Option<f64>, end: u64) -> Result<u64> {
        let start = self.bench.clock.now();
        let lives = rate.map(|rate| rate / PACKETS as f64);
        let mut pacer = Pacer::new(lives, start);
        let patience = PATIENCE + lives.map_or(0, |lives| (10e9 / lives) as u64);
        let (mut received, mut heard) = (self.state.measured.counts.received, start);
        loop {
            let now = self.bench.clock.now();
            if now >= end {
                return Ok(pacer.skipped());
            }
            let Self { bench, state, .. } = self;
            // Half of the room is left to the packets that lives already begun will need.
            let room = bench.room(Side::Near).min(bench.room(Side::Far)).min(BATCH / 2);
            let due = pacer.due(now).min(room);
            let begun = (0..due).take_while(|_| state.begin(bench, now)).count();
            pacer.sent(begun as u64);
            state.expire(now);
            bench.flush(Side::Near)?;
            self.poll()?;
            if self.state.measured.counts.received != received {
                (received, heard) = (self.state.measured.counts.received, now);
            } else if now - heard > patience {
                bail!(
                    "nothing has come back for {:.1} s: the device under test is gone or does not forward",
                    (now - heard) as f64 * 1e-9
                );
            }
        }
    }

    /// Waits until every life is over.
    fn drain(&mut self) -> Result<()> {
        let patience = self.bench.clock.now() + LIFE_PATIENCE + LIFE_PATIENCE / 2;
        while self.state.alive > 0 && self.bench.clock.now() < patience {
            self.poll()?;
            self.state.expire(self.bench.clock.now());
        }
        self.state.bury_the_rest();
        Ok(())
    }
}

impl Generator for Lives {
    fn open(&mut self) -> Result<Option<u32>> {
        Ok(None)
    }

    fn warm_up(&mut self, rate: Option<f64>, seconds: f64) -> Result<()> {
        if seconds == 0.0 {
            return Ok(());
        }
        let end = self.bench.clock.now() + (seconds * 1e9) as u64;
        self.live_until(rate, end)?;
        self.drain()
    }

    fn measure(&mut self, rate: Option<f64>, seconds: f64) -> Result<Measured> {
        let state = &mut self.state;
        state.measured = Measured::nothing();
        (state.started, state.completed, state.failed) = (0, 0, 0);
        let dropped = self.bench.drops()?;
        let start = self.bench.clock.now();
        let end = start + (seconds * 1e9) as u64;
        let pids = self.account.clone();
        let (not_begun, stopwatch, accounts) = observe(&pids, || self.live_until(rate, end));
        let not_begun = not_begun?;
        let elapsed = (self.bench.clock.now() - start) as f64 * 1e-9;
        let in_time = self.state.completed;
        self.drain()?;
        let state = &mut self.state;
        ensure!(
            state.measured.counts.received > 0,
            "nothing has come back: the device under test is gone or does not forward"
        );
        let connections = Connections {
            started: state.started,
            completed: state.completed,
            failed: state.failed,
            per_second: in_time as f64 / elapsed,
        };
        let measured = std::mem::replace(&mut state.measured, Measured::nothing());
        Ok(Measured {
            lost_by_sink: self.bench.drops()? - dropped,
            not_sent: not_begun * PACKETS,
            connections: Some(connections),
            seconds: elapsed,
            cpu_share: stopwatch.cpu_share(),
            accounts,
            ..measured
        })
    }
}

impl State {
    fn place(&mut self, number: u32) -> &mut Life {
        let mask = self.table.len() - 1;
        &mut self.table[number as usize & mask]
    }

    fn tuple(&self, number: u32) -> Tuple {
        self.flows.tuple(u64::from(number) % self.flows.capacity())
    }

    /// Begins a life. False if there are as many as there may be, or no room.
    #[inline]
    fn begin(&mut self, bench: &mut Bench, now: u64) -> bool {
        if self.alive >= self.alive_max {
            return false;
        }
        for _ in 0..PASSED_OVER {
            let number = self.next;
            self.next = (self.next + 1) % NUMBERS;
            if self.place(number).alive {
                continue;
            }
            let tuple = self.tuple(number);
            let syn = Segment { sequence: number << 2, acknowledgment: 0, flags: SYN };
            let sent = bench.send(Side::Near, number, |f| self.near.write_tcp(f, &tuple, syn));
            if sent {
                *self.place(number) = Life { number, seen: 0, alive: true, sent_at: now };
                self.alive += 1;
                self.started += 1;
                self.measured.sent += 1;
            }
            return sent;
        }
        false
    }

    /// A frame at either side.
    #[inline]
    fn arrived(&mut self, bench: &mut Bench, side: Side, frame: &[u8], now: u64) {
        let parsed = match parse(frame) {
            Ok(parsed) => parsed,
            Err(Unusable::Corrupt) => {
                self.measured.corrupted += 1;
                return;
            }
            Err(Unusable::Foreign) => {
                self.measured.unexpected += 1;
                return;
            }
        };
        let ours = match parsed.transport {
            Transport::Tcp(segment) => identify(side, segment),
            Transport::Udp(_) => None,
        };
        let Some((number, packet)) = ours else {
            self.measured.unexpected += 1;
            return;
        };
        if side == Side::Near {
            let begun = self.tuple(number);
            if (parsed.tuple.dst, parsed.tuple.dst_port) != (begun.src, begun.src_port) {
                self.measured.unexpected += 1;
                return;
            }
        } else if self.far.is_none() {
            let src = bench.port(Side::Far).device().mac;
            let link = Link { dst: parsed.link_src, src, vlan: self.near_link.vlan };
            self.far = Some(Template::tcp(self.family, link));
        }
        if self.note(number, packet, now) {
            self.answer(bench, side, number, packet, parsed.tuple.inverted(), now);
        }
    }

    /// Counts a packet; whether it is the first of its kind in its life.
    #[inline]
    fn note(&mut self, number: u32, packet: Packet, now: u64) -> bool {
        let bit = packet as u8;
        let life = self.place(number);
        if life.number != number {
            self.measured.counts.stale += 1;
            return false;
        }
        if life.seen & bit != 0 {
            self.measured.counts.duplicated += 1;
            return false;
        }
        life.seen |= bit;
        let (seen, sent_at, alive) = (life.seen, life.sent_at, life.alive);
        if alive && seen == ALL {
            life.alive = false;
            self.alive -= 1;
            self.completed += 1;
        }
        let late = packet == Packet::Ack && seen & Packet::Fin as u8 != 0;
        self.measured.counts.reordered += u64::from(late);
        self.measured.counts.received += 1;
        self.measured.latency.saturating_record(now.saturating_sub(sent_at).max(1));
        true
    }

    #[inline]
    fn answer(
        &mut self,
        bench: &mut Bench,
        side: Side,
        number: u32,
        packet: Packet,
        tuple: Tuple,
        now: u64,
    ) {
        for &(flags, own, theirs) in answers(packet) {
            let template = match (side, &self.far) {
                (Side::Near, _) => &self.near,
                (Side::Far, Some(far)) => far,
                (Side::Far, None) => return,
            };
            let first = number << 2;
            let segment = Segment { sequence: first + own, acknowledgment: first + theirs, flags };
            // Without room the life fails: it was the generator that lost the packet, and it shows.
            if bench.send(side, number, |frame| template.write_tcp(frame, &tuple, segment)) {
                self.measured.sent += 1;
                self.place(number).sent_at = now;
            }
        }
    }

    /// Ends some of the lives that miss a packet.
    #[inline]
    fn expire(&mut self, now: u64) {
        for _ in 0..SWEEP {
            let life = &mut self.table[self.sweep];
            if life.alive && now.saturating_sub(life.sent_at) > LIFE_PATIENCE {
                life.alive = false;
                self.alive -= 1;
                self.failed += 1;
            }
            self.sweep = (self.sweep + 1) % self.table.len();
        }
    }

    fn bury_the_rest(&mut self) {
        for life in self.table.iter_mut().filter(|life| life.alive) {
            life.alive = false;
            self.failed += 1;
        }
        self.alive = 0;
        debug_assert_eq!(self.started, self.completed + self.failed, "every life ends once");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays a life between the two sides, without a network.
    #[test]
    fn a_life_is_six_packets_and_each_is_known_where_it_arrives() {
        for number in [0, 1, 77, NUMBERS - 1] {
            let syn = Segment { sequence: number << 2, acknowledgment: 0, flags: SYN };
            let mut under_way = vec![(Side::Far, syn)];
            let mut seen = 0u8;
            let mut packets = 0;
            while let Some((side, segment)) = under_way.pop() {
                let (of, packet) = identify(side, segment).expect("one of ours");
                assert_eq!(of, number);
                assert_eq!(seen & packet as u8, 0, "{packet:?} twice");
                seen |= packet as u8;
                packets += 1;
                for &(flags, own, theirs) in answers(packet) {
                    let first = number << 2;
                    let (sequence, acknowledgment) = (first + own, first + theirs);
                    under_way.push((side.other(), Segment { sequence, acknowledgment, flags }));
                }
            }
            assert_eq!((seen, packets), (ALL, PACKETS));
        }
    }

    #[test]
    fn segments_of_others_are_none_of_ours() {
        let cases = [
            (Side::Far, Segment { sequence: 5, acknowledgment: 0, flags: SYN }),
            (Side::Far, Segment { sequence: 5, acknowledgment: 9, flags: ACK }),
            (Side::Near, Segment { sequence: 4, acknowledgment: 0, flags: SYN }),
            (Side::Near, Segment { sequence: 4, acknowledgment: 5, flags: 0x14 }),
            (Side::Far, Segment { sequence: 4, acknowledgment: 5, flags: 0x04 }),
        ];
        for (side, segment) in cases {
            assert_eq!(identify(side, segment), None, "{segment:?}");
        }
    }
}
