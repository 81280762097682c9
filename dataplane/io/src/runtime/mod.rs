//! The runtime: threads that carry packets between the doors and the core.
//!
//! ```text
//!   NIC queue ══► worker 0 ═══╗ parcels ╔═══ worker 1 ◄══ NIC queue        ══ frames, by descriptor
//!   NIC queue ◄══    │        ╚═════════╝       │    ══► NIC queue         ── values
//!                    ╚═══════► host ◄═══════════╝
//!                               ║ TAPs ◄─► the kernel
//!   control ── snapshots, commands ──►       ──► wanted next hops, events, counters, census
//! ```
//!
//! The life of a frame: a worker's [`FramePool`](crate::frame::FramePool) → fill ring → the device writes a
//! packet into it → rx ring → that worker's tray → (a ring, to the owner of the connection) → decided and
//! rewritten in place → transmit queue, or a ring to the worker that has one, or a ring to the host →
//! completion ring → the pool of whoever sent it, and over the [`Depot`](crate::frame::Depot) back to
//! whoever lacks frames. It is never copied, but for the host: a TAP is read and written.
//!
//! Who owns what: a [`Worker`] owns its tables, its queues' sockets, its holds and its pool, and shares
//! nothing but rings; worker `i` has the queues `q` of each device with `q mod workers = i`, and sends by
//! queue `i mod queues`. The [`Host`] owns every TAP. Control owns the [`Handle`]: it publishes snapshots
//! ([`SnapshotMailbox`]), asks ([`CommandPort`]), reads counters and [`Census`], hears [`Event`]s and
//! [`Wanted`] next hops, and frees memory, which the threads never do.
//!
//! The books: for every thread `received + from_host + generated + handed_in + resumed = forwarded +
//! delivered + handed_out + dropped + held` once it is quiescent
//! ([`Values::imbalance`](postern_core::counters::Values::imbalance)), and over all threads
//! `handed_in = handed_out`. Frames: depot + every census = those of the UMEM ([`Handle::frames`]).
//!
//! A panic in a thread is reported as [`Event::Died`] and by its join handle. The others go on, find its
//! ring full, and drop: nothing passes unjudged. Control shuts down then.

mod build;
mod census;
mod command;
mod door;
mod exits;
mod gathered;
mod handover;
mod hold;
mod host;
mod mailbox;
mod memory_door;
mod port;
pub mod testing;
mod tray;
mod worker;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam::channel::Sender;
use postern_core::counters::Counters;
use postern_core::time::Instant;
use postern_core::units::{InterfaceId, WorkerId};
use postern_core::verdict::DropReason;

pub use postern_core::pipeline::Wanted;

pub use build::{
    Device, Handle, HostHandle, Plan, PlanError, Remains, Runtime, Settings, Threads, WorkerHandle,
    WorkerPlan,
};
pub use census::{Census, Gauges};
pub use command::{Answer, AskError, Command, CommandPort};
pub use door::{Door, HostDoor};
pub use host::{Host, HostBudget};
pub use mailbox::{SnapshotMailbox, SnapshotReader, mailbox};
pub use memory_door::{MemoryDoor, MemoryTap, Wire, memory_door, memory_tap};
pub use worker::{Worker, WorkerParts};

use crate::xdp::socket::SocketError;

/// How long a thread that stops waits for the others to stop sending.
const WIND_DOWN: Duration = Duration::from_millis(500);

/// Which thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Node {
    /// A worker.
    Worker(WorkerId),
    /// The host thread.
    Host,
}

/// What control should know.
#[derive(Debug)]
pub enum Event {
    /// A door said something: [`SocketError::DeviceGone`] once, [`SocketError::DeviceDown`] once until it is
    /// up again, anything else each time.
    Door {
        /// Whose door.
        node: Node,
        /// Of which interface.
        interface: InterfaceId,
        /// What it said.
        error: SocketError,
    },
    /// A TAP cannot be read any more, and is not tried again.
    Tap {
        /// Of which interface.
        interface: InterfaceId,
        /// What the kernel said.
        error: io::Error,
    },
    /// A thread could not be pinned to its core; it runs where the kernel puts it.
    NotPinned {
        /// Which thread.
        node: Node,
        /// Which core.
        core: usize,
    },
    /// A thread panicked. What it owned is dropped: shut down.
    Died(Node),
}

/// What a worker does when there is nothing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Idle {
    /// Looks again at once, for ever.
    Spin,
    /// After that long without work, sleeps until something comes or a timer is due.
    SleepAfter(Duration),
}

/// Time since a base: the same for all threads of a run.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base: std::time::Instant,
}

impl Clock {
    /// A clock that begins now.
    pub fn start() -> Self {
        Self { base: std::time::Instant::now() }
    }

    /// A clock that began `elapsed` ago: the tables of an earlier run go on with it.
    pub fn started_ago(elapsed: Duration) -> Option<Self> {
        std::time::Instant::now().checked_sub(elapsed).map(|base| Self { base })
    }

    /// The time. One system call that is none (vDSO), about 20 ns.
    #[inline]
    pub fn now(&self) -> Instant {
        let elapsed = self.base.elapsed();
        Instant(elapsed.as_secs() * 1_000_000_000 + u64::from(elapsed.subsec_nanos()))
    }
}

/// Counts a drop. (An `Arc`'s own `drop` hides [`Counters::drop`].)
#[inline]
fn count_drop(counters: &Counters, reason: DropReason) {
    counters.drop(reason);
}

/// Counts the threads that may still send parcels, and says so when one panics.
struct Presence {
    senders: Arc<AtomicUsize>,
    node: Node,
    events: Sender<Event>,
    sends: bool,
}

impl Presence {
    fn new(senders: &Arc<AtomicUsize>, node: Node, events: &Sender<Event>) -> Self {
        senders.fetch_add(1, Ordering::Relaxed);
        Self { senders: Arc::clone(senders), node, events: events.clone(), sends: true }
    }

    /// This thread puts nothing more into any ring.
    fn send_no_more(&mut self) {
        if std::mem::take(&mut self.sends) {
            self.senders.fetch_sub(1, Ordering::Release);
        }
    }

    /// Whether no thread does: what is in the rings now is all there will be.
    fn nobody_sends(&self) -> bool {
        self.senders.load(Ordering::Acquire) == 0
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.send_no_more();
        if thread::panicking() {
            let _ = self.events.try_send(Event::Died(self.node));
        }
    }
}
