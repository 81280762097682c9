//! Several workers that share the traffic as on a device that knows nothing of connections: any packet may come
//! to any worker, and the pipeline says whose it is.
//!
//! Each worker makes frames of random flows, of all there are, and has them decided; those that another worker
//! owns go to it through a bounded ring, a burst at a time, with what parsing found out, and are decided there.
//! Frames are handed over by pointer, and empty ones come back by a second ring. Where the appliance drops (a
//! full ring), this waits, and works off its own ring meanwhile.
//!
//! Timed is everything but the making of frames and the waiting: deciding, and putting into rings and taking out
//! of them. So the figures say what hand-over costs, not how well the machine schedules threads.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant as Wall};

use anyhow::{Result, bail, ensure};
use arrayvec::ArrayVec;
use postern_core::arch::prefetch;
use postern_core::burst::{BURST_MAX, Burst, Origin, Packet, Seen, Visit};
use postern_core::conntrack::siphash::SipKey;
use postern_core::conntrack::tuple::{Tuple, protocol};
use postern_core::counters::Counters;
use postern_core::pipeline::Pipeline;
use postern_core::snapshot::Snapshot;
use postern_core::steering::Steering;
use postern_core::time::Instant;
use postern_core::units::{InterfaceId, WorkerId};
use postern_core::verdict::Verdict;
use postern_io::memory::Pages;
use rtrb::{Consumer, Producer, RingBuffer};

use crate::rounds::{Gate, Round};
use crate::stopwatch::Stopwatch;
use crate::traffic::{self, HEADROOM, ROOM, Transport};
use crate::work::{KEY, Measured, Settings};
use crate::world::{self, LAN, WAN};

/// Parcels a ring holds.
const DEPTH: usize = 2048;

/// A frame, and what is known of the packet in it.
struct Parcel {
    room: Box<[u8; ROOM]>,
    len: usize,
    seen: Seen,
    visit: Visit,
}

impl Parcel {
    fn empty() -> Self {
        Self { room: Box::new([0; ROOM]), len: 0, seen: Seen::Unseen, visit: Visit::default() }
    }
}

/// A worker's ends of the rings from and to one other worker.
struct Peer {
    worker: WorkerId,
    outbox: Producer<Parcel>,
    inbox: Consumer<Parcel>,
    /// Emptied frames on their way back to whose they are.
    give_back: Producer<Parcel>,
    got_back: Consumer<Parcel>,
    /// This burst's parcels for it.
    staged: Vec<Parcel>,
}

/// A worker's ends of all rings.
pub struct Peers(Vec<Peer>);

/// The ends of all rings, worker by worker.
pub struct Mesh(Vec<Option<Vec<Peer>>>);

impl Mesh {
    /// Ties so many workers together.
    pub fn new(workers: u8) -> Self {
        let count = usize::from(workers);
        let mut peers: Vec<Vec<Peer>> = (0..count).map(|_| Vec::new()).collect();
        for one in 0..count {
            for other in one + 1..count {
                let (out_one, in_other) = RingBuffer::new(DEPTH);
                let (out_other, in_one) = RingBuffer::new(DEPTH);
                let (back_one, return_other) = RingBuffer::new(2 * DEPTH);
                let (back_other, return_one) = RingBuffer::new(2 * DEPTH);
                peers[one].push(Peer {
                    worker: WorkerId(other as u8),
                    outbox: out_one,
                    inbox: in_one,
                    give_back: back_one,
                    got_back: return_one,
                    staged: Vec::with_capacity(BURST_MAX),
                });
                peers[other].push(Peer {
                    worker: WorkerId(one as u8),
                    outbox: out_other,
                    inbox: in_other,
                    give_back: back_other,
                    got_back: return_other,
                    staged: Vec::with_capacity(BURST_MAX),
                });
            }
        }
        Self(peers.into_iter().map(Some).collect())
    }

    /// The ends of one worker.
    ///
    /// # Panics
    /// If they were taken already.
    pub fn take(&mut self, worker: WorkerId) -> Peers {
        Peers(self.0[worker.index()].take().expect("taken once"))
    }
}

/// What a steered worker measured besides.
#[derive(Clone, Copy, Debug, Default)]
pub struct Handed {
    /// Packets that it made.
    pub made: u64,
    /// Of these, packets that others owned.
    pub handed_over: u64,
}

/// One worker among several.
pub struct Worker<'g> {
    me: WorkerId,
    settings: Settings,
    pipeline: Pipeline<'static>,
    pages: Pages,
    snapshot: Snapshot,
    counters: Counters,
    now: Instant,
    peers: Vec<Peer>,
    empty: Vec<Parcel>,
    random: u64,
    round: Round,
    handed: Handed,
    gate: &'g Gate,
    /// Workers that make no more frames, counted on from round to round.
    done: &'g AtomicUsize,
}

impl<'g> Worker<'g> {
    /// Worker `me` of `workers`, whose table holds what it owns of `settings.flows` connections.
    pub fn new(
        me: WorkerId,
        workers: u8,
        settings: Settings,
        Peers(peers): Peers,
        gate: &'g Gate,
        done: &'g AtomicUsize,
    ) -> Result<Self> {
        // A share may be larger than the mean; that it cannot be known before is what is measured here.
        let (pipeline, pages) = world::pipeline(
            settings.flows + BURST_MAX as u32,
            settings.v6,
            KEY,
            settings.small_pages,
        )?;
        Ok(Self {
            me,
            settings,
            pipeline,
            pages,
            snapshot: world::snapshot(settings.nat, KEY, workers)?,
            counters: Counters::default(),
            now: Instant(1_000_000_000),
            peers,
            empty: (0..BURST_MAX).map(|_| Parcel::empty()).collect(),
            random: SipKey([0x9e37, 0x79b9]).hash_words(&[u64::from(me.0)]),
            round: Round::default(),
            handed: Handed::default(),
            gate,
            done,
        })
    }

    /// Establishes what this worker owns, and measures the rounds together with the others.
    pub fn measure(mut self) -> Result<(Measured, Handed)> {
        let mine: Vec<u32> = (0..self.settings.flows)
            .filter(|&flow| owner(&self.snapshot.steering, flow, self.settings.v6) == self.me)
            .collect();
        self.exchange(&mine, true)?;
        self.now = self.now.plus(Duration::from_secs(3));
        // As in [`work`](crate::work): one packet more makes a stream of each, and has it judged as established.
        self.exchange(&mine, false)?;
        let share = (self.settings.packets / u64::from(self.settings.rounds)).max(1);
        let mut measured = Measured { pages: Some(self.pages), ..Measured::default() };
        let mut watch = Stopwatch::default();
        for turn in 0..=self.settings.rounds {
            self.gate.wait()?;
            let packets = if turn == 0 { share / 4 } else { share };
            watch.run(|| self.turn(packets, turn as usize))?;
            let round = std::mem::take(&mut self.round);
            if turn > 0 {
                measured.rounds.push(round);
            } else {
                (watch, self.handed) = (Stopwatch::default(), Handed::default());
            }
        }
        measured.dropped = self.counters.values().dropped();
        ensure!(measured.dropped == 0, "packets were dropped: {:?}", self.counters);
        measured.cpu_share = watch.cpu_share();
        Ok((measured, self.handed))
    }

    /// Makes `packets` and works off what comes, until nobody makes any more and nothing is under way.
    fn turn(&mut self, packets: u64, turn: usize) -> Result<()> {
        let mut made = 0;
        while made < packets {
            self.work_off()?;
            let mut frames = std::mem::take(&mut self.empty);
            for frame in &mut frames {
                let flow = self.pick();
                let room = &mut frame.room[HEADROOM..];
                frame.len = traffic::outbound(room, flow, self.settings.v6, Transport::Udp);
                frame.seen = Seen::Unseen;
                frame.visit = Visit::default();
            }
            made += frames.len() as u64;
            self.handed.made += frames.len() as u64;
            self.decide(frames, None)?;
            self.refill();
        }
        self.done.fetch_add(1, Ordering::SeqCst);
        let all = (self.peers.len() + 1) * (turn + 1);
        // What was sent before the last one was done is in the rings by then.
        while self.done.load(Ordering::SeqCst) < all {
            self.gate.check()?;
            if self.work_off()? == 0 {
                std::thread::yield_now();
            }
        }
        while self.work_off()? > 0 {}
        Ok(())
    }

    /// Takes a burst from every ring, and decides it. Returns how many packets.
    fn work_off(&mut self) -> Result<u64> {
        let mut count = 0;
        for place in 0..self.peers.len() {
            let waiting = self.peers[place].inbox.slots().min(BURST_MAX);
            if waiting == 0 {
                continue;
            }
            let begin = Wall::now();
            let chunk = self.peers[place].inbox.read_chunk(waiting)?;
            let parcels: Vec<Parcel> = chunk.into_iter().collect();
            for parcel in &parcels {
                // As the appliance does: the other core has written there.
                prefetch(&parcel.room[HEADROOM]);
            }
            self.round.elapsed += begin.elapsed();
            count += waiting as u64;
            self.decide(parcels, Some(place))?;
        }
        Ok(count)
    }

    /// Decides what is in the frames, hands over what is others', and puts the frames back where they belong:
    /// here, or to the peer that they came from.
    fn decide(&mut self, mut frames: Vec<Parcel>, from: Option<usize>) -> Result<()> {
        let mut outcomes = ArrayVec::<(Verdict, Seen, Visit), BURST_MAX>::new();
        let elapsed;
        {
            let mut burst = Burst::default();
            for Parcel { room, len, seen, visit } in &mut frames {
                burst.packets.push(Packet {
                    room: &mut room[..],
                    start: HEADROOM,
                    len: *len,
                    interface: LAN,
                    origin: Origin::Wire,
                    seen: *seen,
                    parsed: None,
                    visit: *visit,
                });
            }
            let begin = Wall::now();
            self.pipeline.process_burst(
                &mut burst,
                self.me,
                &self.snapshot,
                &self.counters,
                self.now,
            );
            elapsed = begin.elapsed();
            for (packet, &verdict) in burst.packets.iter().zip(&burst.verdicts) {
                outcomes.push((verdict, packet.seen, packet.visit));
            }
        }
        let mut decided = 0;
        for (mut parcel, (verdict, seen, visit)) in frames.into_iter().zip(outcomes) {
            match verdict {
                Verdict::Forward { .. } => {
                    decided += 1;
                    self.put_back(parcel, from);
                }
                Verdict::HandOver { worker } if from.is_none() => {
                    (parcel.seen, parcel.visit) = (seen, visit);
                    self.handed.handed_over += 1;
                    let place = self.peers.iter().position(|peer| peer.worker == worker);
                    let Some(place) = place else { bail!("there is no worker {worker:?}") };
                    self.peers[place].staged.push(parcel);
                }
                other => bail!("a packet of an established connection: {other:?}"),
            }
        }
        self.round.add(decided, elapsed);
        if from.is_none() { self.publish() } else { Ok(()) }
    }

    fn put_back(&mut self, parcel: Parcel, from: Option<usize>) {
        match from {
            None => self.empty.push(parcel),
            // The way back is as long as all frames on their way; if it were full, the frame would be freed.
            Some(place) => drop(self.peers[place].give_back.push(parcel)),
        }
    }

    /// Publishes the staged parcels, a ring at a time.
    fn publish(&mut self) -> Result<()> {
        for place in 0..self.peers.len() {
            while !self.peers[place].staged.is_empty() {
                let peer = &mut self.peers[place];
                let room = peer.outbox.slots().min(peer.staged.len());
                if room > 0 {
                    let begin = Wall::now();
                    let chunk = peer.outbox.write_chunk_uninit(room)?;
                    chunk.fill_from_iter(peer.staged.drain(..room));
                    self.round.elapsed += begin.elapsed();
                } else {
                    self.gate.check()?;
                    if self.work_off()? == 0 {
                        std::thread::yield_now();
                    }
                }
            }
        }
        Ok(())
    }

    /// Gathers empty frames for the next burst; makes new ones while too many are under way.
    fn refill(&mut self) {
        for peer in &mut self.peers {
            while self.empty.len() < BURST_MAX {
                let Ok(parcel) = peer.got_back.pop() else { break };
                self.empty.push(parcel);
            }
        }
        while self.empty.len() < BURST_MAX {
            self.empty.push(Parcel::empty());
        }
    }

    /// A random flow, of all there are.
    fn pick(&mut self) -> u32 {
        self.random = self.random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (((self.random >> 32) * u64::from(self.settings.flows)) >> 32) as u32
    }

    /// A packet of each of these connections, and the answer to it if `answered`.
    fn exchange(&mut self, flows: &[u32], answered: bool) -> Result<()> {
        let v6 = self.settings.v6;
        let mut rooms = vec![[0; ROOM]; BURST_MAX];
        for flows in flows.chunks(BURST_MAX) {
            let mut lens = [0; BURST_MAX];
            for ((room, len), &flow) in rooms.iter_mut().zip(&mut lens).zip(flows) {
                *len = traffic::outbound(&mut room[HEADROOM..], flow, v6, Transport::Udp);
            }
            self.forward(&mut rooms[..flows.len()], &lens, LAN)?;
            if !answered {
                continue;
            }
            for (room, &len) in rooms.iter_mut().zip(&lens).take(flows.len()) {
                traffic::answer(&mut room[HEADROOM..], len, v6, Transport::Udp);
            }
            self.forward(&mut rooms[..flows.len()], &lens, WAN)?;
        }
        Ok(())
    }

    fn forward(
        &mut self,
        rooms: &mut [[u8; ROOM]],
        lens: &[usize],
        interface: InterfaceId,
    ) -> Result<()> {
        let mut burst = Burst::default();
        for (room, &len) in rooms.iter_mut().zip(lens) {
            burst.packets.push(Packet {
                room,
                start: HEADROOM,
                len,
                interface,
                origin: Origin::Wire,
                seen: Seen::Unseen,
                parsed: None,
                visit: Visit::default(),
            });
        }
        self.pipeline.process_burst(&mut burst, self.me, &self.snapshot, &self.counters, self.now);
        let odd = burst.verdicts.iter().find(|v| !matches!(v, Verdict::Forward { .. }));
        match odd {
            None => Ok(()),
            Some(verdict) => bail!("not forwarded by its owner: {verdict:?}"),
        }
    }
}

/// The worker that owns the original-direction packets of a flow.
fn owner(steering: &Steering, flow: u32, v6: bool) -> WorkerId {
    let (src, dst) = traffic::addresses(flow, v6);
    let (_, src_port, _, dst_port) = traffic::endpoints(flow);
    let tuple = Tuple::new(src, dst, src_port, dst_port, protocol::UDP);
    tuple.map_or(WorkerId(0), |tuple| steering.owner(&tuple))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::Work;

    fn run(workers: u8, v6: bool) -> Vec<(Measured, Handed)> {
        let settings = Settings {
            work: Work::Established,
            flows: 1000,
            nat: !v6,
            v6,
            packets: 20_000,
            rounds: 2,
            floor: false,
            small_pages: false,
        };
        let (gate, done) = (Gate::new(usize::from(workers)), AtomicUsize::new(0));
        let mut mesh = Mesh::new(workers);
        let made: Vec<Worker<'_>> = (0..workers)
            .map(|me| {
                let peers = mesh.take(WorkerId(me));
                Worker::new(WorkerId(me), workers, settings, peers, &gate, &done).expect("memory")
            })
            .collect();
        std::thread::scope(|scope| {
            let threads: Vec<_> = made
                .into_iter()
                .map(|worker| scope.spawn(|| gate.guard(|| worker.measure())))
                .collect();
            threads.into_iter().map(|t| t.join().expect("no panic").expect("no error")).collect()
        })
    }

    #[test]
    fn every_packet_is_decided_once_wherever_it_was_made() {
        for v6 in [false, true] {
            for workers in [1, 2, 3] {
                let measured = run(workers, v6);
                let made: u64 = measured.iter().map(|(_, handed)| handed.made).sum();
                let decided: u64 =
                    measured.iter().flat_map(|(m, _)| &m.rounds).map(|round| round.packets).sum();
                assert_eq!(made, decided, "{workers} workers");
            }
        }
    }

    #[test]
    fn the_share_handed_over_is_that_of_the_other_workers() {
        for workers in [1, 2, 4] {
            let measured = run(workers, false);
            let made: u64 = measured.iter().map(|(_, handed)| handed.made).sum();
            let over: u64 = measured.iter().map(|(_, handed)| handed.handed_over).sum();
            let share = over as f64 / made as f64;
            let expected = 1.0 - 1.0 / f64::from(workers);
            assert!((share - expected).abs() < 0.03, "{workers} workers: {share}");
        }
    }
}
