//! A whole appliance in memory: threads, doors, TAPs; and the books to be checked at the end.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_core::counters::Values;
use postern_core::snapshot::Snapshot;
use postern_core::units::InterfaceId;
use postern_core::verdict::DropReason;
use postern_io::frame::{BATCH, Depot, Marks};
use postern_io::runtime::testing::{self, LAN, WAN};
use postern_io::runtime::{
    Clock, Device, Door, Handle, HostBudget, Idle, MemoryDoor, MemoryTap, Plan, Runtime, Settings,
    Threads, Wire, WorkerPlan, memory_door, memory_tap,
};
use postern_io::umem::Umem;

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What a lab is like.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) workers: u8,
    /// Queues of LAN and WAN.
    pub(crate) queues: [usize; 2],
    pub(crate) frames: u32,
    /// Packets in each ring of a door.
    pub(crate) depth: usize,
    /// Packets in each ring of the host's end.
    pub(crate) tap_depth: usize,
    pub(crate) ring: usize,
    pub(crate) idle: Idle,
    pub(crate) budget: HostBudget,
    /// IPv4 connections that a worker has room for.
    pub(crate) connections: u32,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            workers: 2,
            queues: [2, 2],
            frames: 8192,
            depth: 256,
            tap_depth: 256,
            ring: 512,
            // The builders' machines have fewer cores than these tests have threads.
            idle: Idle::SleepAfter(Duration::from_micros(20)),
            budget: HostBudget::default(),
            connections: 4096,
        }
    }
}

pub(crate) struct Lab<D: Door = MemoryDoor> {
    pub(crate) handle: Handle,
    pub(crate) threads: Threads<D, MemoryTap>,
    /// The far ends of the queues of LAN and WAN.
    pub(crate) wires: [Vec<Wire>; 2],
    /// The host's ends of the TAPs of LAN and WAN.
    pub(crate) host: [Wire; 2],
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) depot: Arc<Depot>,
}

impl Lab {
    pub(crate) fn new(shape: Shape) -> Self {
        Self::with_doors(shape, |door| door)
    }
}

impl<D: Door> Lab<D> {
    pub(crate) fn with_doors(shape: Shape, mut door: impl FnMut(MemoryDoor) -> D) -> Self {
        let (umem, frames) = Umem::new(shape.frames).expect("frame memory");
        let depot = Depot::new(frames);
        let clock = Clock::start();
        let snapshot = Arc::new(testing::snapshot(shape.workers));
        let mut wires = [Vec::new(), Vec::new()];
        let mut devices = Vec::new();
        for interface in [LAN, WAN] {
            let mut queues = Vec::new();
            for _ in 0..shape.queues[interface.index()] {
                let (end, wire) = memory_door(&umem, shape.depth).expect("eventfd");
                queues.push(door(end));
                wires[interface.index()].push(wire);
            }
            devices.push(Device { interface, queues });
        }
        let (lan_tap, lan_host) = memory_tap(shape.tap_depth).expect("eventfd");
        let (wan_tap, wan_host) = memory_tap(shape.tap_depth).expect("eventfd");
        let worker = |_| WorkerPlan {
            pipeline: testing::pipeline(shape.connections, clock.now()),
            core: None,
        };
        let plan = Plan {
            workers: (0..shape.workers).map(worker).collect(),
            devices,
            taps: vec![(LAN, lan_tap), (WAN, wan_tap)],
            umem,
            depot: Arc::clone(&depot),
            snapshot: Arc::clone(&snapshot),
            clock,
            settings: Settings {
                idle: shape.idle,
                ring: shape.ring,
                marks: Marks { low: BATCH, high: 3 * BATCH },
                host_budget: shape.budget,
                host_core: None,
            },
        };
        let (runtime, handle) = Runtime::build(plan).expect("a sound plan");
        let threads = runtime.spawn().expect("threads");
        Self { handle, threads, wires, host: [lan_host, wan_host], snapshot, depot }
    }

    /// Waits until `done` says so.
    pub(crate) fn wait_for(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            let values = self.handle.values();
            assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}\n{values:?}");
            std::thread::yield_now();
        }
    }

    /// Waits until nothing moves any more: every packet is where it will be, every frame is found.
    pub(crate) fn settle(&mut self) -> Values {
        let total = self.handle.frames_total();
        self.wait_for("quiescence", |lab| {
            let turns = |lab: &Self| -> Vec<u64> {
                lab.handle.workers.iter().map(|worker| worker.gauges.read().turns).collect()
            };
            let (before, turns_before) = (lab.handle.values(), turns(lab));
            std::thread::sleep(Duration::from_millis(15));
            let unread = lab.wires.iter().flatten().chain(&lab.host).any(|wire| wire.unread() > 0);
            // Every worker had a look in between, and found nothing.
            let looked = turns(lab).iter().zip(&turns_before).all(|(now, then)| now > &(then + 1));
            let quiet = lab.handle.values() == before && lab.handle.frames() == total;
            let balanced = before.handed_in == before.handed_out && before.imbalance() == 0;
            looked && !unread && quiet && balanced
        });
        for worker in &self.handle.workers {
            assert_eq!(worker.counters.values().imbalance(), 0, "{:?}", worker.worker);
        }
        assert_eq!(self.handle.host.counters.values().imbalance(), 0, "the host thread");
        self.handle.values()
    }

    /// Stops the threads and looks for every frame once more. Returns the final counters.
    pub(crate) fn stop(self) -> Values {
        self.handle.stop();
        let remains = self.threads.join();
        let mut frames = self.depot.len() as u64;
        for parts in remains.workers {
            let parts = parts.expect("no worker panicked");
            frames += parts.doors.iter().map(|(_, d)| u64::from(d.frames_in_kernel())).sum::<u64>();
        }
        assert_eq!(remains.host.expect("the host thread did not panic").len(), 2);
        assert_eq!(frames, self.handle.frames_total(), "a frame was lost");
        assert_eq!(frames, self.handle.frames(), "the last census");
        let values = self.handle.values();
        assert_eq!((values.imbalance(), values.handed_in), (0, values.handed_out), "{values:?}");
        values
    }

    /// Sends by one queue of an interface, waiting for room.
    pub(crate) fn send(&mut self, interface: InterfaceId, queue: usize, packet: &[u8]) {
        self.wait_for("room on the wire", |lab| lab.wires[interface.index()][queue].send(packet));
    }

    /// Takes the next packet that left by any queue of an interface.
    pub(crate) fn take(&mut self, interface: InterfaceId) -> Option<Vec<u8>> {
        self.wires[interface.index()].iter_mut().find_map(Wire::take)
    }

    /// Waits for it.
    pub(crate) fn expect(&mut self, interface: InterfaceId) -> Vec<u8> {
        let mut taken = None;
        self.wait_for("a packet", |lab| {
            taken = lab.take(interface);
            taken.is_some()
        });
        taken.expect("waited for")
    }

    /// Waits for a packet to the host.
    pub(crate) fn expect_host(&mut self, interface: InterfaceId) -> Vec<u8> {
        let mut taken = None;
        self.wait_for("a packet to the host", |lab| {
            taken = lab.host[interface.index()].take();
            taken.is_some()
        });
        taken.expect("waited for")
    }
}

pub(crate) fn inside(host: u8, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(192, 168, 1, host), port)
}

pub(crate) fn outside(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 7), port)
}

pub(crate) fn count(values: &Values, reason: DropReason) -> u64 {
    values.drops[reason as usize]
}

/// Every reason that was counted, for messages.
pub(crate) fn drops(values: &Values) -> Vec<(&'static str, u64)> {
    let counted = DropReason::ALL.iter().map(|&reason| (reason.name(), count(values, reason)));
    counted.filter(|&(_, n)| n > 0).collect()
}

/// A generator that is the same every time (Vigna's splitmix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}
