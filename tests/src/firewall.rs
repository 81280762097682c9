//! The appliance in memory: its workers, the frames between them, a clock that the test turns.
//!
//! What the worker loop does around the core is done here, as plainly as possible: give packets in, carry
//! verdicts out, hand frames over, keep held ones, count. After every send the books must balance, the
//! link-layer addresses of what came out must be right, and nothing private may have left by the WAN.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use postern_core::burst::{BURST_MAX, Burst, Seen};
use postern_core::conntrack::changes::Ended;
use postern_core::counters::{Counters, Values};
use postern_core::forward::NeighbourState;
use postern_core::forward::neighbour::Neighbour;
use postern_core::fragments::{self, SLOTS, Settled};
use postern_core::nat::exhausted::Shortage;
use postern_core::pipeline::{
    ConnectionId, ConnectionView, Cursor, Edit, Filter, Limits, Pipeline, Told,
};
use postern_core::snapshot::Snapshot;
use postern_core::time::Instant;
use postern_core::units::{InterfaceId, Mac, WorkerId};
use postern_core::verdict::{DropReason, Verdict};

use self::flight::Flight;
use self::report::describe;
use crate::memory::Region;
use crate::packet::{Address, Pkt};
use crate::sent::{Out, Sent, at_of, ethertype_of, frame};
use crate::setup::{At, LAN, Setup, WAN, host_mac, interface_mac, reachable};

mod flight;
mod report;

/// Events remembered for a person to read when a test fails.
const LOG_MAX: usize = 40;

struct Worker {
    pipeline: Pipeline<'static>,
    /// The snapshot it runs on, which may be an older one for a while.
    snapshot: Snapshot,
    counters: Box<Counters>,
    /// Frames handed over by others, not taken up yet.
    inbox: VecDeque<Flight>,
    held: Vec<Flight>,
    /// Fragments that wait for the rest of their datagram, by slot.
    gathered: Vec<Option<Flight>>,
}

/// What `send` takes: a packet, or an IP packet's bytes.
pub trait Sendable {
    /// The IP packet's bytes.
    fn l3(&self) -> Vec<u8>;
}

impl Sendable for Pkt {
    fn l3(&self) -> Vec<u8> {
        self.build()
    }
}

impl Sendable for &Pkt {
    fn l3(&self) -> Vec<u8> {
        self.build()
    }
}

impl Sendable for Vec<u8> {
    fn l3(&self) -> Vec<u8> {
        self.clone()
    }
}

/// The appliance.
pub struct Firewall {
    workers: Vec<Worker>,
    setup: Setup,
    snapshot: Snapshot,
    /// The virtual clock.
    pub now: Instant,
    /// Whether private addresses may leave by the WAN.
    pub private_may_leave: bool,
    /// Whether frames handed over wait in their inboxes until [`settle`](Self::settle).
    pub slow_hand_over: bool,
    /// Whether workers adopt a new snapshot only when told to ([`adopt`](Self::adopt)).
    pub slow_adoption: bool,
    /// Called with `true` before and `false` after every call into the core.
    pub watch: fn(bool),
    /// Whether to look at what comes out.
    look: bool,
    draws: u64,
    marked: Values,
    log: VecDeque<(Instant, String)>,
    // Behind `workers`, whose tables live on it: fields are dropped in order.
    _memory: Vec<Region>,
}

impl Firewall {
    /// The default appliance.
    pub fn new() -> Self {
        Self::with(Setup::default())
    }

    /// An appliance as set up.
    pub fn with(setup: Setup) -> Self {
        let now = Instant::default().plus(Duration::from_secs(1_000));
        let limits = Limits { connections_v4: setup.capacity, connections_v6: setup.capacity };
        let mut memory = Vec::new();
        let mut region = |bytes: usize| {
            let mut region = Region::new(bytes);
            // SAFETY: lent once, here; `_memory` is dropped after `workers`, which borrow from it.
            let lent = unsafe { region.lend() };
            memory.push(region);
            lent
        };
        let snapshot = setup.snapshot(None);
        let workers = (0..setup.workers)
            .map(|number| {
                let regions = limits.bytes().map(&mut region);
                let (key, seed) = (setup.key(2), setup.key(100 + u64::from(number)));
                Worker {
                    pipeline: Pipeline::new(limits, regions, key, seed, now),
                    snapshot: snapshot.clone(),
                    counters: Box::default(),
                    inbox: VecDeque::new(),
                    held: Vec::new(),
                    gathered: (0..SLOTS).map(|_| None).collect(),
                }
            })
            .collect();
        let mut firewall = Self {
            workers,
            setup,
            snapshot,
            now,
            private_may_leave: false,
            slow_hand_over: false,
            slow_adoption: false,
            watch: |_| (),
            look: true,
            draws: 0,
            marked: Values::default(),
            log: VecDeque::new(),
            _memory: memory,
        };
        firewall.meet_neighbours();
        firewall
    }

    /// What it is made of.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// What its workers read.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Changes it while it runs: a new snapshot, adopted by every worker before its next burst unless
    /// [`slow_adoption`](Self::slow_adoption) says that they wait to be told.
    pub fn change(&mut self, change: impl FnOnce(&mut Setup)) {
        let before = self.setup.clone();
        change(&mut self.setup);
        self.snapshot = self.setup.snapshot(Some((&before, &self.snapshot)));
        self.meet_neighbours();
        self.note(|| "the set-up changes".into());
        if !self.slow_adoption {
            (0..self.workers.len()).for_each(|worker| self.adopt(worker));
        }
    }

    /// Has every worker adopt a snapshot that the test made itself.
    pub fn publish(&mut self, snapshot: Snapshot) {
        self.snapshot = snapshot;
        (0..self.workers.len()).for_each(|worker| self.adopt(worker));
    }

    /// One worker adopts the newest snapshot.
    pub fn adopt(&mut self, worker: usize) {
        self.workers[worker].snapshot = self.snapshot.clone();
        if self.slow_adoption {
            self.note(|| format!("worker {worker} adopts the newest snapshot"));
        }
    }

    /// Forgets the older steering epochs that no connection needs any more, as control does.
    pub fn forget_epochs(&mut self) {
        let needed = |view: &ConnectionView| {
            self.snapshot.epochs_needed(view.id.worker(), [&view.original, &view.reply])
        };
        let needed = self.connections().iter().map(needed).max().unwrap_or(0);
        self.snapshot.older_steering.truncate(needed);
        (0..self.workers.len()).for_each(|worker| self.adopt(worker));
    }

    /// Every host of every network near by answers, but those already known otherwise.
    fn meet_neighbours(&mut self) {
        for (index, interface) in self.setup.interfaces.iter().enumerate() {
            let id = InterfaceId(index as u8);
            for own in &interface.addresses {
                for host in 1..=254u8 {
                    let address: IpAddr = match own.address {
                        IpAddr::V4(a) => {
                            let [a, b, c, _] = a.octets();
                            [a, b, c, host].into()
                        }
                        IpAddr::V6(a) => {
                            let mut octets = a.octets();
                            octets[15] = host;
                            octets.into()
                        }
                    };
                    if self.snapshot.neighbours.find(id, address).is_none() {
                        let set = self.snapshot.neighbours.set(id, address, reachable(address));
                        assert!(set.is_some(), "no slot for {address}");
                    }
                }
            }
        }
    }

    /// Sets what is known of a neighbour.
    pub fn neighbour(&mut self, at: At, address: impl Address, state: NeighbourState) {
        let address = address.address();
        let neighbour = Neighbour { mac: host_mac(address), state };
        let set = self.snapshot.neighbours.set(at.interface(), address, neighbour);
        assert!(set.is_some(), "no slot for {address}");
    }

    /// Next hops that packets wait for, or waited for.
    pub fn wanted(&mut self) -> Vec<(InterfaceId, IpAddr)> {
        let wanted = self.workers.iter_mut().flat_map(|w| w.pipeline.take_wanted());
        wanted.map(|wanted| (wanted.interface, wanted.address)).collect()
    }

    /// Sends one packet in from the LAN.
    pub fn lan(&mut self, packet: impl Sendable) -> Sent {
        self.send(LAN, packet)
    }

    /// Sends one packet in from the WAN.
    pub fn wan(&mut self, packet: impl Sendable) -> Sent {
        self.send(WAN, packet)
    }

    /// Sends one packet in.
    pub fn send(&mut self, at: At, packet: impl Sendable) -> Sent {
        self.burst(&[(at, packet)])
    }

    /// Sends one packet in without looking at what comes out, which may be anything: for broken packets.
    pub fn send_no_looks(&mut self, at: At, packet: impl Sendable) -> Sent {
        self.look = false;
        let sent = self.send(at, packet);
        self.look = true;
        sent
    }

    /// Sends one frame in, Ethernet header and all.
    pub fn send_frame(&mut self, at: At, frame: &[u8]) -> Sent {
        self.send_frames(&[(at, frame.to_vec())])
    }

    /// Sends one frame in without looking at what comes out.
    pub fn send_frame_no_looks(&mut self, at: At, frame: &[u8]) -> Sent {
        self.look = false;
        let sent = self.send_frame(at, frame);
        self.look = true;
        sent
    }

    /// Sends several packets in, in one burst for each worker that receives some.
    pub fn burst(&mut self, packets: &[(At, impl Sendable)]) -> Sent {
        let frames: Vec<_> =
            packets.iter().map(|(at, p)| (*at, self.frame(*at, &p.l3()))).collect();
        self.send_frames(&frames)
    }

    /// The frame that brings an IP packet in: from the station that would send it here.
    pub fn frame(&self, at: At, l3: &[u8]) -> Vec<u8> {
        let address = |v4_at: usize, v6_at: usize| -> Option<IpAddr> {
            match l3.first()? >> 4 {
                6 => Some(<[u8; 16]>::try_from(l3.get(v6_at..v6_at + 16)?).ok()?.into()),
                _ => Some(<[u8; 4]>::try_from(l3.get(v4_at..v4_at + 4)?).ok()?.into()),
            }
        };
        let own = interface_mac(at.interface());
        let station = |address: Option<IpAddr>| {
            let hop = address.and_then(|a| self.setup.next_hop(a));
            hop.filter(|(id, _)| *id == at.interface())
                .map_or(Mac([2, 0, 0, 0, 0, 9]), |(_, hop)| host_mac(hop))
        };
        let (dst, src) = match at {
            At::Wire(_) => (own, station(address(12, 8))),
            At::Host(_) => (station(address(16, 24)), own),
        };
        frame(dst, src, ethertype_of(l3), l3)
    }

    /// Sends several frames in, in one burst for each worker that receives some.
    pub fn send_frames(&mut self, frames: &[(At, Vec<u8>)]) -> Sent {
        let mut sent = Sent::default();
        let before = self.values();
        let mut received: Vec<Vec<Flight>> = self.workers.iter().map(|_| Vec::new()).collect();
        for (at, bytes) in frames {
            let worker = self.draw_worker();
            let counters = &self.workers[worker].counters;
            match at {
                At::Wire(_) => {
                    counters.received.add(1);
                    counters.received_bytes.add(bytes.len() as u64);
                }
                At::Host(_) => counters.from_host.add(1),
            }
            self.note(|| format!("worker {worker} receives at {at:?}: {}", describe(bytes)));
            received[worker].push(Flight::new(*at, bytes, self.setup.long_way));
        }
        for (worker, flights) in received.into_iter().enumerate() {
            self.work(worker, flights, &mut sent);
        }
        if !self.slow_hand_over {
            self.carry(&mut sent);
        }
        self.check(&before, &mut sent);
        sent
    }

    /// Takes up all frames that were handed over, until none is on its way.
    pub fn settle(&mut self) -> Sent {
        let mut sent = Sent::default();
        let before = self.values();
        self.carry(&mut sent);
        self.check(&before, &mut sent);
        sent
    }

    /// Offers held packets again, as the worker loop does once a next hop is known or given up.
    pub fn resume(&mut self) -> Sent {
        let mut sent = Sent::default();
        let before = self.values();
        for worker in 0..self.workers.len() {
            let held = std::mem::take(&mut self.workers[worker].held);
            self.workers[worker].counters.resumed.add(held.len() as u64);
            self.process(worker, held, true, &mut sent);
        }
        self.check(&before, &mut sent);
        sent
    }

    fn draw_worker(&mut self) -> usize {
        self.draws += 1;
        let mixed =
            (self.draws ^ self.setup.seed.rotate_left(17)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((mixed >> 33) % self.workers.len() as u64) as usize
    }

    fn carry(&mut self, sent: &mut Sent) {
        while let Some(worker) =
            (0..self.workers.len()).find(|&w| !self.workers[w].inbox.is_empty())
        {
            let mut flights: Vec<_> = self.workers[worker].inbox.drain(..).collect();
            self.workers[worker].counters.handed_in.add(flights.len() as u64);
            // No older than whoever sent them; numbers of a test never wrap.
            let newest_needed = flights.iter().map(|flight| flight.steered_by).max();
            if newest_needed > Some(self.workers[worker].snapshot.generation) {
                self.adopt(worker);
            }
            let generation = self.workers[worker].snapshot.generation;
            flights.iter_mut().for_each(|flight| flight.steer_anew_unless(generation));
            self.work(worker, flights, sent);
        }
    }

    fn work(&mut self, worker: usize, flights: Vec<Flight>, sent: &mut Sent) {
        let mut flights = flights.into_iter();
        loop {
            let burst: Vec<_> = flights.by_ref().take(BURST_MAX).collect();
            if burst.is_empty() {
                return;
            }
            self.process(worker, burst, false, sent);
        }
    }

    /// One burst of one worker, with what the worker loop does about its verdicts.
    fn process(&mut self, number: usize, mut flights: Vec<Flight>, resume: bool, sent: &mut Sent) {
        let me = WorkerId(number as u8);
        let came_in: Vec<_> = flights.iter().map(|f| (f.at(), f.bytes().to_vec())).collect();
        let worker = &mut self.workers[number];
        let mut burst = Burst::default();
        burst.packets.extend(flights.iter_mut().map(Flight::packet));
        (self.watch)(true);
        if resume {
            worker.pipeline.resume(&mut burst, me, &worker.snapshot, &worker.counters, self.now);
        } else {
            worker.pipeline.process_burst(
                &mut burst,
                me,
                &worker.snapshot,
                &worker.counters,
                self.now,
            );
        }
        (self.watch)(false);
        assert_eq!(burst.verdicts.len(), burst.packets.len(), "a verdict for each packet");
        let after: Vec<_> =
            burst.packets.iter().map(|p| (p.start, p.len, p.seen, p.visit)).collect();
        let verdicts = burst.verdicts.clone();
        drop(burst);
        for (((mut flight, after), verdict), came_in) in
            flights.into_iter().zip(after).zip(verdicts).zip(came_in)
        {
            (flight.start, flight.len, flight.seen, flight.visit) = after;
            self.workers[number].counters.settle(verdict, flight.len);
            sent.visits.push(me.0);
            self.note(|| format!("worker {number} says {verdict:?}"));
            match verdict {
                Verdict::HandOver { worker } => {
                    flight.hops += 1;
                    flight.steered_by = self.workers[number].snapshot.generation;
                    let most = 2 + 2 * self.workers.len() as u32;
                    assert!(flight.hops <= most, "handed over {} times", flight.hops);
                    self.workers[worker.index()].inbox.push_back(flight);
                }
                Verdict::Hold { .. } => {
                    sent.verdicts.push(verdict);
                    self.workers[number].held.push(flight);
                }
                Verdict::Gather { slot } => {
                    sent.verdicts.push(verdict);
                    let before = self.workers[number].gathered[usize::from(slot)].replace(flight);
                    assert!(before.is_none(), "slot {slot} is taken");
                }
                Verdict::Split { egress, mtu } => {
                    sent.verdicts.push(verdict);
                    self.send_parts(number, &flight, egress, mtu, &came_in, sent);
                }
                _ => {
                    sent.verdicts.push(verdict);
                    if let Some(at) = at_of(verdict) {
                        let generated = matches!(verdict, Verdict::Reply { .. });
                        let out = Out { at, frame: flight.bytes().to_vec(), generated };
                        self.note(|| format!("out at {at:?}: {}", describe(&out.frame)));
                        if self.look {
                            self.check_out(&out, &came_in);
                        }
                        sent.outs.push(out);
                    }
                }
            }
        }
        self.settle_fragments(number, sent);
    }

    /// Takes out the fragments whose wait is over; those of whole datagrams go on.
    fn settle_fragments(&mut self, number: usize, sent: &mut Sent) {
        let mut go_on = Vec::new();
        let worker = &mut self.workers[number];
        while let Some((slot, settled)) = worker.pipeline.next_settled() {
            let flight = worker.gathered[usize::from(slot)].take();
            let mut flight = flight.unwrap_or_else(|| panic!("nothing in slot {slot}"));
            worker.counters.resumed.add(1);
            match settled {
                Settled::Go(gathered) => {
                    flight.seen = Seen::Gathered(gathered);
                    flight.hops = 0;
                    go_on.push(flight);
                }
                Settled::Drop(reason) => Counters::drop(&worker.counters, reason),
            }
        }
        self.work(number, go_on, sent);
    }

    /// A packet that leaves in several.
    fn send_parts(
        &mut self,
        number: usize,
        flight: &Flight,
        egress: InterfaceId,
        mtu: u16,
        came_in: &(At, Vec<u8>),
        sent: &mut Sent,
    ) {
        let split = fragments::split(flight.bytes(), mtu).expect("it may be split");
        self.workers[number].counters.split(split.parts());
        for part in 0..split.parts() {
            let mut frame = vec![0; flight.len];
            let len = split.write(part, &mut frame).expect("there is room");
            frame.truncate(len);
            assert!(len <= 14 + usize::from(mtu), "part {part} has {len} bytes");
            self.workers[number].counters.settle(Verdict::Forward { egress }, len);
            let out = Out { at: At::Wire(egress), frame, generated: false };
            self.note(|| format!("part {part} out at {egress:?}: {}", describe(&out.frame)));
            if self.look {
                self.check_out(&out, came_in);
            }
            sent.outs.push(out);
        }
    }

    /// The link-layer addresses, and what must not leave by the WAN (C072).
    fn check_out(&self, out: &Out, (came_in_at, came_in): &(At, Vec<u8>)) {
        let (dst, src) = out.macs();
        let part = |at: usize| Mac(came_in[at..at + 6].try_into().expect("a frame"));
        let forwarded = matches!((came_in_at, out.at), (At::Wire(_), At::Wire(_)));
        if out.generated {
            let whom = (part(6), interface_mac(out.at.interface()));
            assert_eq!((dst, src), whom, "an answer goes back to the station it came from");
        } else if forwarded {
            let pkt = out.read();
            let hop = self.setup.next_hop(pkt.dst);
            let (egress, hop) = hop.unwrap_or_else(|| panic!("no route for {pkt:?}"));
            assert_eq!(At::Wire(egress), out.at, "{pkt:?} left by the wrong interface");
            assert_eq!((dst, src), (host_mac(hop), interface_mac(egress)), "{pkt:?} to {hop}");
        } else {
            assert_eq!((dst, src), (part(0), part(6)), "the kernel's own link-layer header");
        }
        let masquerades = self.setup.interfaces[out.at.interface().index()].masquerade;
        let leaves = matches!(out.at, At::Wire(_)) && masquerades && out.ethertype() == 0x0800;
        if leaves && !self.private_may_leave {
            let pkt = out.read();
            let quoted = pkt.quoted_addresses().map_or(vec![], |(src, dst)| vec![src, dst]);
            let private = |a: &IpAddr| matches!(a, IpAddr::V4(a) if a.is_private());
            let leaked = [pkt.src, pkt.dst].into_iter().chain(quoted).find(private);
            assert_eq!(leaked, None, "C072: a private address left by the WAN: {pkt:?}");
        }
    }

    fn check(&mut self, before: &Values, sent: &mut Sent) {
        let after = self.values();
        for (index, &reason) in DropReason::ALL.iter().enumerate() {
            let times = after.drops[index] - before.drops[index];
            sent.drops.extend((0..times).map(|_| reason));
        }
        let on_their_way: usize = self.workers.iter().map(|w| w.inbox.len()).sum();
        assert_eq!(after.imbalance(), 0, "the books do not balance");
        assert_eq!(
            after.handed_out - after.handed_in,
            on_their_way as u64,
            "frames handed over got lost"
        );
        let held: usize =
            self.workers.iter().map(|w| w.held.len() + w.gathered.iter().flatten().count()).sum();
        assert_eq!(after.held - after.resumed, held as u64, "held frames got lost");
        let live = after.connections_new - after.connections_gone;
        let held: u32 = self.workers.iter().map(|w| w.pipeline.connections()).sum();
        assert_eq!(live, u64::from(held), "connections made, less those gone, are those that live");
    }

    /// Lets time pass, and has every worker tidy up.
    pub fn pass(&mut self, duration: Duration) {
        self.now = self.now.plus(duration);
        self.housekeep(u32::MAX);
    }

    /// [`pass`](Self::pass), whole seconds.
    pub fn pass_secs(&mut self, seconds: u64) {
        self.pass(Duration::from_secs(seconds));
    }

    /// Lets time pass, and nobody tidies up.
    pub fn pass_untidied(&mut self, duration: Duration) {
        self.now = self.now.plus(duration);
    }

    /// Has every worker tidy up, with a bounded amount of work.
    pub fn housekeep(&mut self, steps: u32) {
        (self.watch)(true);
        for (number, worker) in self.workers.iter_mut().enumerate() {
            let Worker { pipeline, snapshot, counters, .. } = worker;
            // The sweep takes one family a turn.
            let turns = if steps == u32::MAX { 2 } else { 1 };
            for _ in 0..turns {
                pipeline.housekeep(WorkerId(number as u8), snapshot, counters, self.now, steps);
            }
        }
        (self.watch)(false);
        self.tidy_fragments();
        let now = self.now;
        self.note(|| format!("it is {:.3} s", now.0 as f64 / 1e9));
    }

    /// What waited too long is dropped.
    fn tidy_fragments(&mut self) {
        let mut sent = Sent::default();
        (0..self.workers.len()).for_each(|worker| self.settle_fragments(worker, &mut sent));
        assert!(sent.outs.is_empty(), "time makes nothing whole: {}", sent.describe());
    }

    /// Every live connection, worker by worker.
    pub fn connections(&self) -> Vec<ConnectionView> {
        let mut views = Vec::new();
        for (number, worker) in self.workers.iter().enumerate() {
            let mut cursor = Some(Cursor::default());
            while let Some(at) = cursor {
                let me = WorkerId(number as u8);
                cursor = worker
                    .pipeline
                    .visit(me, at, 100, &Filter::default(), self.now, |v| views.push(v));
            }
        }
        views
    }

    /// The one live connection.
    #[track_caller]
    pub fn connection(&self) -> ConnectionView {
        let connections = self.connections();
        assert_eq!(connections.len(), 1, "{connections:#?}");
        connections[0]
    }

    /// A worker's pipeline.
    pub fn pipeline(&mut self, worker: usize) -> &mut Pipeline<'static> {
        &mut self.workers[worker].pipeline
    }

    /// Deletes a connection, as control has it done; `false` if there was none of that id.
    pub fn delete(&mut self, id: ConnectionId) -> bool {
        let number = id.worker();
        let Worker { pipeline, snapshot, counters, .. } = &mut self.workers[number.index()];
        let deleted = pipeline.delete(number, id, Ended::Deleted, snapshot, counters, self.now);
        pipeline.bury(snapshot);
        deleted
    }

    /// Begins or ends to have every worker note what happens to connections.
    pub fn follow(&mut self, follow: bool) {
        self.workers.iter_mut().for_each(|worker| worker.pipeline.follow(follow));
    }

    /// What happened to connections since this was asked last, worker by worker.
    pub fn changes(&mut self) -> Vec<Told> {
        let mut changes = Vec::new();
        for (number, worker) in self.workers.iter_mut().enumerate() {
            let me = WorkerId(number as u8);
            let Worker { pipeline, counters, .. } = worker;
            pipeline.take_changes(me, usize::MAX, counters, self.now, |told| changes.push(told));
            assert!(pipeline.has_no_changes());
        }
        changes
    }

    /// Changes something about a connection; `None` if there is none of that id.
    pub fn edit(&mut self, id: ConnectionId, edit: Edit) -> Option<ConnectionView> {
        let number = id.worker();
        self.workers[number.index()].pipeline.edit(number, id, &edit, self.now)
    }

    /// All counters, all workers together.
    pub fn values(&self) -> Values {
        let mut sum = Values::default();
        for worker in &self.workers {
            sum.add(&worker.counters.values());
        }
        sum
    }

    /// Which addresses ran out of ports, worker by worker.
    pub fn shortages(&self) -> Vec<Shortage> {
        self.workers.iter().flat_map(|worker| worker.counters.exhausted.shortages()).collect()
    }

    /// What moved since the last call, but bytes and hand-overs: counters by their names, drops by their
    /// reasons'. For [`moved!`](crate::moved).
    pub fn take_moved(&mut self) -> Vec<(String, u64)> {
        let now = self.values();
        let before = std::mem::replace(&mut self.marked, now.clone());
        let silent = ["received_bytes", "forwarded_bytes", "handed_in", "handed_out"];
        let named =
            now.named().zip(before.named()).map(|((name, a), (_, b))| (name.to_string(), a - b));
        let drops = DropReason::ALL.iter().enumerate();
        let drops =
            drops.map(|(i, reason)| (format!("{reason:?}"), now.drops[i] - before.drops[i]));
        let moved = named.filter(|(name, _)| !silent.contains(&name.as_str())).chain(drops);
        moved.filter(|(_, by)| *by != 0).collect()
    }

    fn note(&mut self, event: impl FnOnce() -> String) {
        if self.log.len() == LOG_MAX {
            self.log.pop_front();
        }
        let now = self.now;
        self.log.push_back((now, event()));
    }
}

impl Default for Firewall {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs a test with each of these numbers of workers.
pub fn for_workers<const N: usize>(counts: [u8; N], test: impl Fn(Setup)) {
    for workers in counts {
        for seed in 1..=if workers == 1 { 1 } else { 3 } {
            test(Setup::default().workers(workers).seed(seed));
        }
    }
}

/// States exactly which counters moved since the last time: all others must not have. Drops go by the names
/// of their reasons. Bytes and hand-overs are left out.
#[macro_export]
macro_rules! moved {
    ($fw:expr $(, $name:ident : $by:expr)* $(,)?) => {{
        let mut expected: Vec<(String, u64)> = vec![$((stringify!($name).to_string(), $by)),*];
        expected.retain(|(_, by)| *by != 0);
        expected.sort();
        let mut moved = $fw.take_moved();
        moved.sort();
        assert_eq!(moved, expected, "the counters that moved, and those that should have");
    }};
}
