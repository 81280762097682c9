//! What the runtime costs on top of the core: run by hand, in release, on a quiet machine.
//!
//! `cargo test --release -p postern-io --test runtime_cost -- --ignored --nocapture`

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_core::units::WorkerId;
use postern_io::frame::{Depot, FRAME_HEADROOM, FrameIdx, FramePool, FrameSpan, Marks};
use postern_io::runtime::testing::{self, LAN, WAN, udp};
use postern_io::runtime::{
    Clock, Device, Door, Idle, MemoryTap, Plan, Runtime, Settings, WorkerPlan,
};
use postern_io::umem::Umem;
use postern_io::wait::Wake;
use postern_io::xdp::socket::{Kick, SocketError};

/// A device that always has packets, and sends at once.
struct Treadmill {
    umem: Arc<Umem>,
    wake: Wake,
    packets: Vec<Vec<u8>>,
    next: usize,
    fill: Vec<FrameIdx>,
    sent: Vec<FrameIdx>,
}

impl Treadmill {
    fn new(umem: &Arc<Umem>, packets: Vec<Vec<u8>>) -> Self {
        let wake = Wake::new().expect("eventfd");
        let (fill, sent) = (Vec::with_capacity(2048), Vec::with_capacity(2048));
        Self { umem: Arc::clone(umem), wake, packets, next: 0, fill, sent }
    }
}

impl Door for Treadmill {
    fn receive(&mut self, max: u32, mut out: impl FnMut(FrameSpan)) -> Result<u32, SocketError> {
        if self.packets.is_empty() {
            return Ok(0);
        }
        let count = (max as usize).min(self.fill.len());
        for mut frame in self.fill.drain(self.fill.len() - count..) {
            let packet = &self.packets[self.next];
            self.next = (self.next + 1) % self.packets.len();
            let room = &mut self.umem.bytes(&mut frame)[FRAME_HEADROOM as usize..];
            room[..packet.len()].copy_from_slice(packet);
            out(FrameSpan::new(frame, FRAME_HEADROOM, packet.len() as u32).expect("it fits"));
        }
        Ok(count as u32)
    }
    fn refill(&mut self, pool: &mut FramePool) -> u32 {
        pool.balance();
        while self.fill.len() < 256
            && let Some(frame) = pool.take()
        {
            self.fill.push(frame);
        }
        0
    }
    fn transmit(&mut self, batch: &mut Vec<FrameSpan>) -> u32 {
        let count = batch.len() as u32;
        self.sent.extend(batch.drain(..).map(FrameSpan::into_frame));
        count
    }
    fn kick(&mut self) -> Result<Kick, SocketError> {
        Ok(Kick::Done)
    }
    fn reclaim(&mut self, pool: &mut FramePool) -> Result<u32, SocketError> {
        self.sent.drain(..).for_each(|frame| pool.give(frame));
        Ok(0)
    }
    fn waiting(&self) -> u32 {
        u32::from(!self.packets.is_empty())
    }
    fn frames_in_kernel(&self) -> u32 {
        (self.fill.len() + self.sent.len()) as u32
    }
    fn poll_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// Nanoseconds a packet, or a turn if there are none. `share` of the packets belong to the receiver.
fn measure(workers: u8, flows: u16, owner: Option<WorkerId>) -> f64 {
    let (umem, frames) = Umem::new(8192).expect("memory");
    let depot = Depot::new(frames);
    let clock = Clock::start();
    let snapshot = Arc::new(testing::snapshot(workers));
    let mine = |port: &u16| owner.is_none_or(|owner| snapshot.steering.block(*port) == owner);
    let to = "198.51.100.7:53".parse().expect("an endpoint");
    let packets = (10_000..)
        .filter(mine)
        .take(flows.into())
        .map(|port| {
            let from = format!("192.168.1.10:{port}").parse().expect("an endpoint");
            udp(LAN, from, to, &[0; 18])
        })
        .collect();
    let plan = Plan::<Treadmill, MemoryTap> {
        workers: (0..workers)
            .map(|_| WorkerPlan { pipeline: testing::pipeline(65_536, clock.now()), core: None })
            .collect(),
        devices: vec![
            Device { interface: LAN, queues: vec![Treadmill::new(&umem, packets)] },
            Device {
                interface: WAN,
                queues: (0..workers).map(|_| Treadmill::new(&umem, Vec::new())).collect(),
            },
        ],
        taps: Vec::new(),
        umem,
        depot,
        snapshot,
        clock,
        settings: Settings { idle: Idle::Spin, marks: Marks::default(), ..Settings::default() },
    };
    let (runtime, handle) = Runtime::build(plan).expect("a sound plan");
    let threads = runtime.spawn().expect("threads");
    let look = || {
        let values = handle.values();
        let work = if flows > 0 { values.forwarded } else { handle.workers[0].gauges.read().turns };
        (Instant::now(), work, values.dropped())
    };
    std::thread::sleep(Duration::from_millis(300));
    let before = look();
    std::thread::sleep(Duration::from_secs(2));
    let after = look();
    handle.stop();
    threads.join();
    if after.2 > before.2 {
        println!("  dropped {} of {}", after.2 - before.2, after.1 - before.1 + after.2 - before.2);
    }
    (after.0 - before.0).as_nanos() as f64 / (after.1 - before.1) as f64
}

#[test]
#[ignore = "a measurement, not a check"]
fn what_a_turn_and_a_packet_cost() {
    println!("idle turn, 2 doors:            {:6.1} ns", measure(1, 0, None));
    println!("forwarded, masqueraded:        {:6.1} ns a packet", measure(1, 1_000, None));
    println!(
        "handed over, then forwarded:   {:6.1} ns a packet",
        measure(2, 1_000, Some(WorkerId(1)))
    );
}
