//! Every room of the packet path alone: what each step costs, to be held against the whole.
//!
//! A room gets the same 64 frames of random flows as the whole path does, a table that holds all of them, and only its
//! own step is timed. The rows of those flows were touched just before: rooms show the work, not the waiting for memory.
//! The sum of the rooms of a packet of an established connection is less than the whole: between the rooms stand the
//! loop, the verdicts and the registers that are saved.

use std::hint::black_box;
use std::time::Instant as Wall;

use anyhow::{Context as _, Result, ensure};
use postern_core::burst::{BURST_MAX, Origin};
use postern_core::conntrack::changes::Ended;
use postern_core::conntrack::ctstate::{CtState, CtStates};
use postern_core::conntrack::datagram;
use postern_core::conntrack::entry::{Cold, HotState, HotV4, Peer, Warm, flags, peer_flags};
use postern_core::conntrack::siphash::{ABREAST, Pairs};
use postern_core::conntrack::table::{Layout, Promise, Table, TupleHash};
use postern_core::conntrack::tcp;
use postern_core::conntrack::tuple::{Direction, FamilyTuple, Tuple, TupleV4, protocol};
use postern_core::headers::{Headers, TcpSummary, tcp_flags};
use postern_core::limits::Books;
use postern_core::nat::plan::{self, Random};
use postern_core::nat::rewrite::{self, Deltas};
use postern_core::parse;
use postern_core::parse::plain::{self, Shape};
use postern_core::rules::{Hook, PathId, Subject};
use postern_core::snapshot::{Interface, Snapshot};
use postern_core::time::Tick;
use postern_core::units::{EntryIdx, NeighbourIdx, WorkerId};
use postern_io::memory::SharedMemory;
use serde::Serialize;

use crate::rounds::{Round, median};
use crate::stopwatch::{CONTENDED_BELOW, Stopwatch};
use crate::traffic::{self, FRAME_LEN, HEADROOM, ROOM, Transport};
use crate::work::KEY;
use crate::world::{self, LAN, WAN, WAN_ADDRESS};

const ME: WorkerId = WorkerId(0);
/// When it all happens.
const NOW: Tick = Tick(1_000_000);

/// What one room costs.
#[derive(Debug, Serialize)]
pub struct Cost {
    /// Its name.
    pub room: &'static str,
    /// Whether a packet of an established connection passes through it.
    pub established: bool,
    /// Connections in the table.
    pub flows: u32,
    /// Nanoseconds a packet: the median of the rounds.
    pub ns_per_packet: f64,
    /// The same of the middle burst, which hardly feels who else ran on the core.
    pub burst_ns_p50: f64,
    /// Whether others used the core meanwhile.
    pub contended: bool,
}

/// What the rooms work on.
struct Site {
    flows: u32,
    snapshot: Snapshot,
    /// The same for two workers.
    shared: Snapshot,
    table: Table<'static, HotV4>,
    path: PathId,
    next_hop: NeighbourIdx,
    random: u64,
    /// The frames of this burst, and what earlier rooms found out about them.
    frames: Vec<[u8; ROOM]>,
    tuples: [TupleV4; BURST_MAX],
    hashes: [TupleHash; BURST_MAX],
    promises: [Promise; BURST_MAX],
    rows: [EntryIdx; BURST_MAX],
    ports: Random,
    /// Connections that are not in the table.
    fresh: Vec<(HotV4, [TupleHash; 2])>,
}

impl Site {
    fn new(flows: u32) -> Result<Self> {
        let [snapshot, shared] = [world::snapshot(true, KEY, 1)?, world::snapshot(true, KEY, 2)?];
        // Room for a burst of connections that the last room makes.
        let layout = Layout::new::<HotV4>(flows + BURST_MAX as u32);
        let memory = SharedMemory::new("bench-rooms", layout.bytes())?.leak().0;
        let mut table = Table::new(layout, memory, KEY, NOW);
        for number in 0..flows {
            let (hot, hashes) = connection(&table, number);
            table
                .insert(&hot, &warm(), &Cold::default(), hashes, 0)
                .ok()
                .with_context(|| format!("connection {number} finds no room"))?;
        }
        let next_hop = snapshot.neighbours.find(WAN, world::WAN_GATEWAY[0]);
        let next_hop = next_hop.context("the gateway has a slot")?;
        let mut site = Self {
            flows,
            table,
            path: PathId::UNCACHED,
            next_hop,
            random: 0x9e37_79b9_7f4a_7c15,
            frames: vec![[0; ROOM]; BURST_MAX],
            tuples: [TupleV4::default(); BURST_MAX],
            hashes: [TupleHash::default(); BURST_MAX],
            promises: [Promise::NONE; BURST_MAX],
            rows: [EntryIdx(0); BURST_MAX],
            ports: Random::new(KEY),
            fresh: Vec::new(),
            snapshot,
            shared,
        };
        let fresh = (flows..).take(BURST_MAX).map(|number| connection(&site.table, number));
        site.fresh = fresh.collect();
        site.path = judge(&site.snapshot, &tuple(0).into());
        Ok(site)
    }

    /// Other frames, and all that is to be known of them.
    fn next_burst(&mut self) -> Result<()> {
        for place in 0..BURST_MAX {
            self.random = self.random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let number = (((self.random >> 32) * u64::from(self.flows)) >> 32) as u32;
            let frame = &mut self.frames[place][HEADROOM..HEADROOM + FRAME_LEN];
            traffic::outbound(frame, number, false, Transport::Udp);
            self.tuples[place] = plain::tuple_v4(frame, 0).context("a whole frame")?;
            self.hashes[place] = self.table.hash(&self.tuples[place]);
        }
        for place in 0..BURST_MAX {
            let (row, direction) =
                self.table.find(self.hashes[place], &self.tuples[place]).context("it is there")?;
            ensure!(direction == Direction::Original, "a frame of the LAN");
            self.rows[place] = row;
            // As the path does a few packets ahead: no room waits for a row.
            self.promises[place] = self.table.prefetch_row(self.hashes[place]);
        }
        Ok(())
    }

    fn lan(&self) -> &Interface {
        &self.snapshot.interfaces.0[LAN.index()]
    }
}

fn frame(frames: &[[u8; ROOM]], place: usize) -> &[u8] {
    &frames[place][HEADROOM..HEADROOM + FRAME_LEN]
}

/// The tuple of flow `number`, original direction.
fn tuple(number: u32) -> TupleV4 {
    let mut frame = [0; ROOM];
    traffic::outbound(&mut frame, number, false, Transport::Udp);
    plain::tuple_v4(&frame, 0).unwrap_or_default()
}

/// A connection as the pipeline would have made it, masqueraded, answered.
fn connection(table: &Table<'_, HotV4>, number: u32) -> (HotV4, [TupleHash; 2]) {
    let original = tuple(number);
    let reply = TupleV4 { dst: WAN_ADDRESS.to_be_bytes(), ..original.inverted() };
    let deltas = rewrite::deltas(&original.into(), &reply.inverted().into());
    let state = HotState {
        last_seen: NOW.0,
        timeout_ms: 300_000,
        flags: flags::SEEN_REPLY | flags::ASSURED | flags::SNAT,
        protocol_state: tcp::State::Established as u8,
        l3_delta: deltas.l3,
        l4_delta: deltas.l4,
        ..HotState::default()
    };
    let hot = HotV4 { tuples: [original, reply], state };
    (hot, [table.hash(&original), table.hash(&reply)])
}

/// Windows in which segment 1000 with ACK 5000 lies.
fn warm() -> Warm {
    let peer = |end| Peer { end, max_end: end + 60_000, max_window: 60_000, max_ack: end };
    Warm {
        peers: [peer(1_000), peer(5_000)],
        peer_flags: [peer_flags::MAX_ACK_SET; 2],
        ..Warm::default()
    }
}

/// Walks the rules for an established packet of `tuple`.
fn judge(snapshot: &Snapshot, tuple: &Tuple) -> PathId {
    let subject = Subject {
        tuple,
        protocol: protocol::UDP,
        icmp_type: 0,
        icmp_code: 0,
        icmp_query: false,
        tcp_flags: 0,
        ingress: LAN,
        egress: WAN,
        states: CtStates::of(CtState::Established),
        packet_len: 46,
    };
    snapshot.policy.judge(ME, Hook::Forward, &subject).path
}

/// A room: its name, whether established packets pass through it, and its step for one burst.
type Room = (&'static str, bool, fn(&mut Site));

const ROOMS: [Room; 14] = [
    ("glance (plain packets)", true, |site| {
        for place in 0..BURST_MAX {
            black_box(plain::glance_v4(frame(&site.frames, place), site.lan(), true));
        }
    }),
    ("parse (all others)", false, |site| {
        for place in 0..BURST_MAX {
            let mut headers = Headers::default();
            let bytes = frame(&site.frames, place);
            let _ = parse::parse_into(&mut headers, bytes, site.lan(), Origin::Wire, true);
            black_box(&headers);
        }
    }),
    ("steer (several workers)", false, |site| {
        for tuple in &site.tuples {
            black_box(site.shared.steering.owner(&(*tuple).into()));
        }
    }),
    ("hash", true, |site| {
        for (tuples, hashes) in
            site.tuples.chunks_exact(ABREAST).zip(site.hashes.chunks_exact_mut(ABREAST))
        {
            let mut pairs = Pairs::default();
            for (place, tuple) in tuples.iter().enumerate() {
                [pairs.first[place], pairs.second[place]] = tuple.words();
            }
            hashes.copy_from_slice(&site.table.hashes(&pairs, ABREAST));
        }
    }),
    ("find (bucket and row)", true, |site| {
        for hash in &site.hashes {
            site.table.prefetch_bucket(*hash);
        }
        for (hash, promise) in site.hashes.iter().zip(&mut site.promises) {
            *promise = site.table.prefetch_row(*hash);
        }
        for (tuple, promise) in site.tuples.iter().zip(&site.promises) {
            black_box(site.table.promised(*promise, tuple));
        }
    }),
    ("track UDP", true, |site| {
        for row in site.rows {
            let Some((hot, warm)) = site.table.hot_and_warm(row) else { continue };
            let state = &mut hot.state;
            let timeouts = &site.snapshot.timeouts;
            state.timeout_ms = datagram::settled(protocol::UDP, timeouts, state).unwrap_or(0);
            state.last_seen = NOW.0;
            warm.count(Direction::Original, 46);
        }
    }),
    ("track TCP (window check)", false, |site| {
        let segment = TcpSummary {
            seq: 1_000,
            ack: 5_000,
            window: 60_000,
            payload_len: 6,
            flags: tcp_flags::ACK,
            header_len: 20,
        };
        for row in site.rows {
            let Some((hot, warm)) = site.table.hot_and_warm(row) else { continue };
            let (timeouts, state) = (&site.snapshot.timeouts, &mut hot.state);
            black_box(tcp::ordinary(Direction::Original, &segment, &[], timeouts, state, warm));
        }
    }),
    ("judge (cached)", true, |site| {
        let Some(paths) = site.snapshot.policy.paths(ME) else { return };
        for _ in 0..BURST_MAX {
            if let Some(path) = paths.accepted(black_box(site.path)) {
                path.count(46);
            }
        }
    }),
    ("judge (three rules)", false, |site| {
        for tuple in &site.tuples {
            black_box(judge(&site.snapshot, &(*tuple).into()));
        }
    }),
    ("next hop", true, |site| {
        for _ in 0..BURST_MAX {
            black_box(site.snapshot.neighbours.get(black_box(site.next_hop)));
        }
    }),
    ("rewrite", true, |site| {
        for place in 0..BURST_MAX {
            let hot = site.table.hot(site.rows[place]);
            let deltas = Deltas { l3: hot.state.l3_delta, l4: hot.state.l4_delta };
            let bytes = &mut site.frames[place][HEADROOM..HEADROOM + FRAME_LEN];
            rewrite::plain_v4(bytes, Shape::UdpV4, &hot.tuples[1], deltas);
        }
    }),
    ("route", false, |site| {
        for tuple in &site.tuples {
            black_box(site.snapshot.routes.lookup(Tuple::from(*tuple).dst()));
        }
    }),
    ("NAT source", false, |site| {
        for (hot, _) in &site.fresh {
            let reply = Tuple::from(hot.tuples[0].inverted());
            let address = WAN_ADDRESS.to_be_bytes().into();
            let steering = &site.snapshot.steering;
            let table = &site.table;
            let taken = |reply: &Tuple| match reply {
                Tuple::V4(reply) => table.find(table.hash(reply), reply).is_some(),
                Tuple::V6(_) => false,
            };
            black_box(plan::external(reply, address, ME, steering, &mut site.ports, taken));
        }
    }),
    ("confirm, and remove", false, |site| {
        for (place, (hot, hashes)) in site.fresh.iter().enumerate() {
            let inserted = site.table.insert(hot, &Warm::default(), &Cold::default(), *hashes, 0);
            site.rows[place] = inserted.unwrap_or(EntryIdx(0));
        }
        for row in site.rows {
            site.table.remove(row, Ended::Deleted, NOW, Books::NONE);
        }
    }),
];

/// One step of one room, behind a name that callgrind can be told to count in.
#[inline(never)]
fn enter(step: fn(&mut Site), site: &mut Site) {
    step(site);
}

/// Measures every room, or the one named `only`, with so many connections.
///
/// # Errors
/// There is no room of that name, or no memory.
pub fn measure(flows: u32, packets: u64, rounds: u32, only: Option<&str>) -> Result<Vec<Cost>> {
    let wanted = |room: &&Room| only.is_none_or(|only| only == room.0);
    ensure!(ROOMS.iter().any(|room| wanted(&room)), "no such room; --names lists them");
    let mut site = Site::new(flows)?;
    let bursts = (packets / u64::from(rounds) / BURST_MAX as u64).max(1);
    let one = |&(room, established, step): &Room| {
        let mut watch = Stopwatch::default();
        let mut measured = Vec::new();
        for round in 0..=rounds {
            let mut done = Round::default();
            watch.run(|| -> Result<()> {
                for _ in 0..bursts {
                    site.next_burst()?;
                    let begin = Wall::now();
                    enter(step, &mut site);
                    done.add(BURST_MAX as u64, begin.elapsed());
                }
                Ok(())
            })?;
            // The first one warms up.
            if round > 0 {
                measured.push(done);
            }
        }
        Ok(Cost {
            room,
            established,
            flows,
            ns_per_packet: median(measured.iter().map(Round::ns)),
            burst_ns_p50: median(measured.iter().map(|round| round.burst_ns(50.0))),
            contended: watch.cpu_share() < CONTENDED_BELOW,
        })
    };
    ROOMS.iter().filter(wanted).map(one).collect()
}

/// The names of all rooms.
pub fn names() -> impl Iterator<Item = &'static str> {
    ROOMS.iter().map(|room| room.0)
}
