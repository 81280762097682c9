//! One worker's pipeline, on a kernel that is assumed from the configuration, packet by packet.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use postern_core::burst::{Burst, Origin, Packet, Seen, Visit};
use postern_core::conntrack::siphash::SipKey;
use postern_core::counters::{Counters, Values};
use postern_core::forward::neighbour::Neighbour;
use postern_core::forward::{NeighbourState, Neighbours};
use postern_core::fragments::{self, Settled};
use postern_core::parse;
use postern_core::pipeline::{Limits, Pipeline};
use postern_core::snapshot::Snapshot;
use postern_core::time::Instant;
use postern_core::units::{InterfaceId, Mac, WorkerId};
use postern_core::verdict::{DropReason, Verdict};

use crate::appliance::parts::{self, Inputs};
use crate::appliance::policy::{self, PolicyError};
use crate::compile;
use crate::config::Settings;

/// Most connections of each family: a capture rarely has more.
const CAPACITY_MAX: u32 = 1 << 18;
/// Room in front of a packet, for headers that grow.
const HEADROOM: usize = 256;
/// Room for the largest packet.
const ROOM: usize = HEADROOM + (1 << 18);
/// Turns of the timer wheel a packet may cost: all that became due since the last one.
const HOUSEKEEP_STEPS: u32 = 1 << 20;
/// The first packet's time, so that nothing happens at 0.
const BEGIN: Instant = Instant(1_000_000_000);
/// Keys everything that is random, so that a replay can be repeated.
const KEY: SipKey = SipKey([0x706f_7374_6572_6e00, 1]);

/// What became of a packet. What left because of it, [`Driver::next_out`] has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Left by this interface, in one piece or several.
    Sent(InterfaceId),
    /// Given to the host.
    Delivered(InterfaceId),
    /// Dropped, and an answer about it sent.
    Answered {
        /// By which interface.
        egress: InterfaceId,
        /// Or to the host.
        to_host: bool,
    },
    /// A fragment: waits for the rest of its datagram, and leaves when that has come ([`Driver::pass`]).
    Waits,
    /// Dropped.
    Dropped(DropReason),
}

impl Fate {
    /// Where something leaves, if anything does, and whether to the host.
    pub const fn leaves(&self) -> Option<(InterfaceId, bool)> {
        match *self {
            Self::Sent(egress) => Some((egress, false)),
            Self::Delivered(interface) => Some((interface, true)),
            Self::Answered { egress, to_host } => Some((egress, to_host)),
            Self::Waits | Self::Dropped(_) => None,
        }
    }
}

/// A frame that left.
pub struct Out {
    /// By which interface.
    pub interface: InterfaceId,
    /// Or to the host.
    pub to_host: bool,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A fragment that waits.
struct Waiting {
    interface: InterfaceId,
    origin: Origin,
    bytes: Vec<u8>,
}

/// The pipeline and what it stands on.
pub struct Driver {
    pipeline: Pipeline<'static>,
    snapshot: Snapshot,
    counters: Counters,
    neighbours: Arc<Neighbours>,
    room: Vec<u8>,
    /// Fragments that wait for the rest of their datagram, by slot.
    gathered: Vec<Option<Waiting>>,
    outs: VecDeque<Out>,
    /// The first packet's time, and the latest.
    first: Option<Duration>,
    now: Instant,
}

impl Driver {
    /// Everything that `config` says, with these MACs instead of the assumed ones.
    ///
    /// # Errors
    /// If the rules files cannot be read or are refused.
    pub fn new(config: &Settings, macs: &[(InterfaceId, Mac)]) -> Result<Self, PolicyError> {
        let mut kernel = compile::assumed_kernel(config);
        for (id, mac) in macs {
            if let Some(link) = kernel.links.get_mut(id.index()).and_then(Option::as_mut) {
                link.mac = *mac;
            }
        }
        let forwards = compile::configured_forwards(config);
        let mut rulesets = policy::load(config)?;
        policy::set_forwards(&mut rulesets, &forwards)?;
        let rules = parts::compile_rules(config, &rulesets, 1, None)?;
        let neighbours = Arc::new(Neighbours::new(usize::from(u16::MAX)));
        let key = config.conntrack.hash_key.unwrap_or(KEY);
        let snapshot = parts::first_snapshot(Inputs {
            config,
            kernel: &kernel,
            forwards: &forwards,
            rulesets: &rulesets,
            rules: &rules,
            neighbours: &neighbours,
            workers: 1,
            key,
        });
        let [connections_v4, connections_v6] =
            compile::rows(config, 1).map(|rows| rows.min(CAPACITY_MAX));
        let limits = Limits { connections_v4, connections_v6 };
        let pipeline = Pipeline::new(limits, limits.bytes().map(memory), key, key, BEGIN);
        Ok(Self {
            pipeline,
            snapshot,
            counters: Counters::default(),
            neighbours,
            room: vec![0; ROOM],
            gathered: (0..fragments::SLOTS).map(|_| None).collect(),
            outs: VecDeque::new(),
            first: None,
            now: BEGIN,
        })
    }

    /// The interface whose MAC is the packet's destination.
    pub fn interface_of(&self, bytes: &[u8]) -> Option<InterfaceId> {
        let destination = Mac(bytes.get(..6)?.try_into().ok()?);
        let at = self.snapshot.interfaces.0.iter().position(|i| i.mac == destination)?;
        u8::try_from(at).ok().map(InterfaceId)
    }

    /// Takes the sender's MAC for its address, if that lies in one of the interface's networks.
    pub fn learn(&self, interface: InterfaceId, bytes: &[u8]) {
        let Some(on) = self.snapshot.interfaces.get(interface) else { return };
        let Ok(headers) = parse::parse(bytes, on, Origin::Wire, false) else { return };
        let addresses = parse::addresses(bytes, &headers);
        let (Some((src, _)), Some(mac)) = (addresses, bytes.get(6..12)) else { return };
        let Ok(mac) = mac.try_into().map(Mac) else { return };
        if !mac.is_group() && on.addresses.iter().any(|network| network.holds(src)) {
            let neighbour = Neighbour { mac, state: NeighbourState::Reachable };
            self.neighbours.set(interface, src, neighbour);
        }
    }

    /// Passes one packet through, at `time` (never earlier than the one before). A fragment that makes a datagram whole
    /// takes those with it that waited.
    pub fn pass(
        &mut self,
        interface: InterfaceId,
        origin: Origin,
        time: Duration,
        bytes: &[u8],
    ) -> Fate {
        let since = time.saturating_sub(*self.first.get_or_insert(time));
        self.now = self.now.max(BEGIN.plus(since));
        self.pipeline.housekeep(
            WorkerId(0),
            &self.snapshot,
            &self.counters,
            self.now,
            HOUSEKEEP_STEPS,
        );
        self.settle();
        match origin {
            Origin::Wire => {
                self.counters.received.add(1);
                self.counters.received_bytes.add(bytes.len() as u64);
            }
            Origin::Host => self.counters.from_host.add(1),
        }
        let fate = self.decide(interface, origin, Seen::Unseen, bytes);
        self.settle();
        fate
    }

    /// Takes out the fragments whose wait is over.
    fn settle(&mut self) {
        while let Some((slot, settled)) = self.pipeline.next_settled() {
            let waiting = self.gathered.get_mut(usize::from(slot)).and_then(Option::take);
            let Some(Waiting { interface, origin, bytes }) = waiting else { continue };
            self.counters.resumed.add(1);
            match settled {
                Settled::Go(gathered) => {
                    self.decide(interface, origin, Seen::Gathered(gathered), &bytes);
                }
                Settled::Drop(reason) => self.counters.drop(reason),
            }
        }
    }

    /// One packet's walk.
    fn decide(&mut self, interface: InterfaceId, origin: Origin, seen: Seen, bytes: &[u8]) -> Fate {
        let Some(space) = self.room.get_mut(HEADROOM..HEADROOM + bytes.len()) else {
            self.counters.drop(DropReason::FrameTooBig);
            return Fate::Dropped(DropReason::FrameTooBig);
        };
        space.copy_from_slice(bytes);
        let Self { pipeline, snapshot, counters, neighbours, room, now, .. } = self;
        let mut burst = Burst::default();
        burst.packets.push(Packet {
            room,
            start: HEADROOM,
            len: bytes.len(),
            interface,
            origin,
            seen,
            parsed: None,
            visit: Visit::default(),
        });
        pipeline.process_burst(&mut burst, WorkerId(0), snapshot, counters, *now);
        let mut verdict = burst.verdicts[0];
        if matches!(verdict, Verdict::Hold { .. }) {
            counters.settle(verdict, burst.packets[0].len);
            for wanted in pipeline.take_wanted() {
                neighbours.set(wanted.interface, wanted.address, answer(wanted.address));
            }
            counters.resumed.add(1);
            pipeline.resume(&mut burst, WorkerId(0), snapshot, counters, *now);
            verdict = match burst.verdicts[0] {
                // Every next hop answers; only a full neighbour array can still be in the way.
                Verdict::Hold { .. } => Verdict::Drop(DropReason::HoldFull),
                decided => decided,
            };
        }
        let packet = &burst.packets[0];
        counters.settle(verdict, packet.len);
        let left = packet.bytes().to_vec();
        drop(burst);
        match verdict {
            Verdict::Gather { slot } => {
                let waiting = Waiting { interface, origin, bytes: left };
                self.gathered[usize::from(slot)] = Some(waiting);
            }
            Verdict::Split { egress, mtu } => return self.split(&left, egress, mtu),
            _ => {
                if let Some((interface, to_host)) = fate(verdict).leaves() {
                    self.outs.push_back(Out { interface, to_host, bytes: left });
                }
            }
        }
        fate(verdict)
    }

    /// Sends a packet in parts.
    fn split(&mut self, packet: &[u8], egress: InterfaceId, mtu: u16) -> Fate {
        let Some(split) = fragments::split(packet, mtu) else {
            self.counters.drop(DropReason::MtuExceeded);
            return Fate::Dropped(DropReason::MtuExceeded);
        };
        self.counters.split(split.parts());
        for part in 0..split.parts() {
            let mut bytes = vec![0; packet.len()];
            let len = split.write(part, &mut bytes).unwrap_or(0);
            bytes.truncate(len);
            self.counters.settle(Verdict::Forward { egress }, bytes.len());
            self.outs.push_back(Out { interface: egress, to_host: false, bytes });
        }
        Fate::Sent(egress)
    }

    /// The next frame that left, in order.
    pub fn next_out(&mut self) -> Option<Out> {
        self.outs.pop_front()
    }

    /// What was counted.
    pub fn values(&self) -> Values {
        self.counters.values()
    }

    /// Connections alive.
    pub fn connections(&self) -> u32 {
        self.pipeline.connections()
    }
}

fn fate(verdict: Verdict) -> Fate {
    match verdict {
        Verdict::Forward { egress } | Verdict::Split { egress, .. } => Fate::Sent(egress),
        Verdict::Deliver { interface, .. } => Fate::Delivered(interface),
        Verdict::Reply { egress, to_host } => Fate::Answered { egress, to_host },
        Verdict::Gather { .. } => Fate::Waits,
        Verdict::Drop(reason) => Fate::Dropped(reason),
        // One worker has nobody to hand over to, and holds were resumed.
        Verdict::HandOver { .. } | Verdict::Hold { .. } => Fate::Dropped(DropReason::Stopping),
    }
}

/// A next hop that the capture does not show answers with a MAC made from its address.
fn answer(address: IpAddr) -> Neighbour {
    let [a, b, c, d] = match address {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            [a, b, c, d]
        }
    };
    Neighbour { mac: Mac([0x02, 0xff, a, b, c, d]), state: NeighbourState::Reachable }
}

/// Zeroed memory for a table, aligned to 64, for the rest of the process's life.
fn memory(bytes: usize) -> &'static mut [u8] {
    let memory: &'static mut [u8] = vec![0; bytes + 64].leak();
    let skip = memory.as_ptr().align_offset(64);
    &mut memory[skip..skip + bytes]
}
