//! Workers neither allocate nor free, whatever happens: forwarded, handed over, held, delivered and dropped
//! packets, full tables, new snapshots, commands.

#[path = "runtime/lab.rs"]
#[allow(dead_code, reason = "the other tests need the rest")]
mod lab;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddrV4;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lab::{Lab, Shape, count, drops, inside, outside};
use postern_core::helper::expect::EXPECTATIONS_MAX;
use postern_core::pipeline::{ConnectionId, Cursor, Filter};
use postern_core::snapshot::Snapshot;
use postern_core::verdict::DropReason;
use postern_io::frame::{FramePool, FrameSpan};
use postern_io::runtime::testing::{LAN, STRANGER, WAN, WAN_ADDRESS, arp_request, read_udp, udp};
use postern_io::runtime::{Answer, Command, Door, MemoryDoor};
use postern_io::xdp::socket::{Kick, SocketError};

thread_local! {
    /// Whether this thread is a worker.
    static WATCHED: Cell<bool> = const { Cell::new(false) };
}
/// Whether workers are past their start.
static ARMED: AtomicBool = AtomicBool::new(false);
static ALLOCATED: AtomicU64 = AtomicU64::new(0);
static FREED: AtomicU64 = AtomicU64::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn note(counter: &AtomicU64) {
    if ARMED.load(Ordering::Relaxed) && WATCHED.get() {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: everything is left to the system's allocator; counting touches no memory of its.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(&ALLOCATED);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        note(&FREED);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// A door that tells the allocator which thread is a worker.
struct Watched(MemoryDoor);

impl Door for Watched {
    fn receive(&mut self, max: u32, out: impl FnMut(FrameSpan)) -> Result<u32, SocketError> {
        WATCHED.set(true);
        self.0.receive(max, out)
    }
    fn refill(&mut self, pool: &mut FramePool) -> u32 {
        self.0.refill(pool)
    }
    fn transmit(&mut self, batch: &mut Vec<FrameSpan>) -> u32 {
        self.0.transmit(batch)
    }
    fn kick(&mut self) -> Result<Kick, SocketError> {
        self.0.kick()
    }
    fn reclaim(&mut self, pool: &mut FramePool) -> Result<u32, SocketError> {
        self.0.reclaim(pool)
    }
    fn waiting(&self) -> u32 {
        self.0.waiting()
    }
    fn frames_in_kernel(&self) -> u32 {
        self.0.frames_in_kernel()
    }
    fn poll_fd(&self) -> BorrowedFd<'_> {
        self.0.poll_fd()
    }
}

#[test]
fn a_running_worker_neither_allocates_nor_frees() {
    let mut lab = Lab::with_doors(Shape { ring: 8, ..Shape::default() }, Watched);
    let stranger = SocketAddrV4::new(STRANGER, 9);
    lab.settle();
    ARMED.store(true, Ordering::SeqCst);
    let mut snapshot = Snapshot::clone(&lab.snapshot);
    for round in 0..200u16 {
        // Far more connections than the tables hold, some to where nobody answers, some for the host.
        for i in 0..100 {
            let port = 1_000 + round * 200 + i * 2;
            let queue = usize::from(i / 2 % 2); // the owner's, or the other
            lab.send(LAN, queue, &udp(LAN, inside(10, port), outside(53), b"first"));
            lab.send(LAN, queue, &udp(LAN, inside(11, port), stranger, b"held"));
        }
        lab.send(LAN, 0, &arp_request(LAN, *inside(10, 0).ip()));
        lab.send(WAN, 0, &udp(WAN, outside(7), SocketAddrV4::new(WAN_ADDRESS, 9), b"host"));
        for _ in 0..20 {
            if let Some(packet) = lab.take(WAN) {
                let (from, to, _) = read_udp(&packet);
                lab.send(WAN, 1, &udp(WAN, to, from, b"answer"));
            }
        }
        snapshot.generation = snapshot.generation.next();
        lab.handle.publish(Arc::new(snapshot.clone()));
        let worker = &lab.handle.workers[usize::from(round % 2)];
        let buffer = Vec::with_capacity(500);
        let filter = Filter::default();
        let visit = Command::Visit { filter, cursor: Cursor::default(), buffer };
        worker.commands.ask(visit, lab::PATIENCE).expect("an answer");
        let nobody = Command::Get { id: ConnectionId(0) };
        worker.commands.ask(nobody, lab::PATIENCE).expect("an answer");
        let nobody = Command::Get { id: ConnectionId(0) };
        worker.commands.ask(nobody, lab::PATIENCE).expect("an answer");
        let follow = Command::Follow { buffer: Vec::with_capacity(300) };
        let followed = worker.commands.ask(follow, lab::PATIENCE).expect("an answer");
        assert!(matches!(followed, Answer::Followed(told) if told.capacity() == 300));
        if round % 10 == 9 {
            worker.commands.ask(Command::Unfollow, lab::PATIENCE).expect("an answer");
            let buffer = Vec::with_capacity(EXPECTATIONS_MAX);
            let expected = Command::Expectations { buffer };
            worker.commands.ask(expected, lab::PATIENCE).expect("an answer");
        }
        if round % 50 == 49 {
            let cursor = Cursor::default();
            let flush = Command::DeleteMatching { filter, cursor };
            worker.commands.ask(flush, lab::PATIENCE).expect("an answer");
        }
        while lab.take(WAN).is_some() {}
        while lab.take(LAN).is_some() {}
        std::thread::sleep(Duration::from_millis(1));
    }
    let values = lab.settle();
    ARMED.store(false, Ordering::SeqCst);
    let (allocated, freed) = (ALLOCATED.load(Ordering::SeqCst), FREED.load(Ordering::SeqCst));
    assert_eq!((allocated, freed), (0, 0), "allocations and frees in workers");
    // It was not for want of trying.
    assert!(values.forwarded > 1_000 && values.delivered > 100, "{values:?}");
    assert!(values.held > 0 && values.connections_new > 8_192, "{values:?}");
    assert!(count(&values, DropReason::HoldFull) > 0, "{:?}", drops(&values));
    assert!(count(&values, DropReason::HandOverFull) > 0, "{:?}", drops(&values));
    lab.stop();
}
