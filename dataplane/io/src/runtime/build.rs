//! Putting the runtime together: from sockets, TAPs and tables to threads and control's handle on them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use crossbeam::channel::{Receiver, Sender, bounded};
use postern_core::counters::{Counters, Values};
use postern_core::fragments::SLOTS;
use postern_core::pipeline::Pipeline;
use postern_core::snapshot::Snapshot;
use postern_core::units::{INTERFACES_MAX, InterfaceId, WORKERS_MAX, WorkerId};

use super::census::{Census, Gauges};
use super::command::{Clerk, CommandPort, command_port};
use super::door::{Door, HostDoor};
use super::exits::{Exits, Way};
use super::gathered::GatheredFrames;
use super::handover::{Doorbell, HostLinks, WorkerLinks, mesh};
use super::hold::{HOLD_MAX, Holds};
use super::host::{Host, HostBudget, HostPort};
use super::mailbox::{SnapshotMailbox, SnapshotReader, mailbox};
use super::port::{Port, QUEUE_MAX};
use super::tray::Tray;
use super::worker::{Offered, Worker, WorkerParts};
use super::{Clock, Event, Idle, Node, Presence, Wanted};
use crate::frame::{BATCH, Depot, FramePool, Marks};
use crate::umem::Umem;
use crate::wait::PollSet;

/// Events and wanted next hops under way to control.
const NOTES: usize = 1024;

/// One worker to be.
pub struct WorkerPlan {
    /// Its tables.
    pub pipeline: Pipeline<'static>,
    /// The core to pin it to.
    pub core: Option<usize>,
}

/// One interface's device.
pub struct Device<D> {
    /// Which interface.
    pub interface: InterfaceId,
    /// One door for each of its queues, in order.
    pub queues: Vec<D>,
}

/// What may be tuned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// What idle workers do.
    pub idle: Idle,
    /// Parcels in one hand-over ring.
    pub ring: usize,
    /// How many free frames each thread keeps.
    pub marks: Marks,
    /// What an interface may put on the host.
    pub host_budget: HostBudget,
    /// The core to pin the host thread to.
    pub host_core: Option<usize>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            idle: Idle::Spin,
            ring: 2048, // a device's queue, too, takes that many while its worker is away
            marks: Marks::default(),
            host_budget: HostBudget::default(),
            host_core: None,
        }
    }
}

impl Settings {
    /// How many frames the UMEM should have besides those that rest in the doors' rings
    /// ([`SocketOptions::frames`](crate::xdp::socket::SocketOptions::frames) each): pools, queues, holds, fragments, and
    /// a full ring to each worker. With fewer, or more rings full at once, fill rings run short and devices
    /// drop; nothing else happens.
    pub const fn frames(&self, workers: usize) -> usize {
        (workers + 1) * (self.marks.high + BATCH)
            + workers * (QUEUE_MAX + HOLD_MAX + SLOTS + self.ring)
    }
}

/// Everything a runtime is made of.
pub struct Plan<D, T> {
    /// One for each worker.
    pub workers: Vec<WorkerPlan>,
    /// The interfaces' devices.
    pub devices: Vec<Device<D>>,
    /// The interfaces' TAPs.
    pub taps: Vec<(InterfaceId, T)>,
    /// The frame memory.
    pub umem: Arc<Umem>,
    /// All of its frames that no door has.
    pub depot: Arc<Depot>,
    /// What all threads begin with. Its steering knows this number of workers.
    pub snapshot: Arc<Snapshot>,
    /// The clock that the tables were made with.
    pub clock: Clock,
    /// What may be tuned.
    pub settings: Settings,
}

/// Why a plan cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// No worker, or more than [`WORKERS_MAX`].
    #[error("{0} workers: allowed are 1 to {max}", max = WORKERS_MAX)]
    Workers(usize),
    /// The snapshot's steering divides connections among another number of workers.
    #[error("the snapshot steers to {steering} workers, but there are {workers}")]
    Steering {
        /// As the snapshot has it.
        steering: usize,
        /// As planned.
        workers: usize,
    },
    /// An interface number out of range, or twice.
    #[error("interface {0} does not exist, or has two devices or TAPs")]
    Interface(u8),
    /// A device without queues.
    #[error("the device of interface {0} has no queue")]
    NoQueue(u8),
    /// No eventfd to be had.
    #[error("eventfd: {0}")]
    Wake(#[from] io::Error),
}

/// Control's view of one worker.
pub struct WorkerHandle {
    /// Which.
    pub worker: WorkerId,
    /// What it counts.
    pub counters: Arc<Counters>,
    /// Where its frames are, how full its tables.
    pub gauges: Arc<Gauges>,
    /// Asks it.
    pub commands: CommandPort,
}

/// Control's view of the host thread.
pub struct HostHandle {
    /// What it counts.
    pub counters: Arc<Counters>,
    /// Where its frames are.
    pub gauges: Arc<Gauges>,
}

/// Control's handle on the running threads.
pub struct Handle {
    /// The workers, by number.
    pub workers: Vec<WorkerHandle>,
    /// The host thread.
    pub host: HostHandle,
    /// The time as the threads have it.
    pub clock: Clock,
    /// What went wrong.
    pub events: Receiver<Event>,
    /// Next hops to be resolved.
    pub wanted: Receiver<Wanted>,
    snapshots: SnapshotMailbox,
    bells: Vec<Arc<Doorbell>>,
    depot: Arc<Depot>,
    stop: Arc<AtomicBool>,
}

impl Handle {
    /// Hands a newer snapshot to every thread.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        self.snapshots.publish(snapshot);
        self.wake();
    }

    /// Which snapshot each thread runs on, and the newest one.
    pub const fn snapshots(&self) -> &SnapshotMailbox {
        &self.snapshots
    }

    /// Counters of all threads together.
    pub fn values(&self) -> Values {
        let mut sum = self.host.counters.values();
        for worker in &self.workers {
            sum.add(&worker.counters.values());
        }
        sum
    }

    /// Frames accounted for: in the depot and with each thread. While no packet is under way between
    /// threads it is [`frames_total`](Self::frames_total), always.
    pub fn frames(&self) -> u64 {
        let gauges = self.workers.iter().map(|worker| &worker.gauges).chain([&self.host.gauges]);
        self.depot.len() as u64 + gauges.map(|gauges| gauges.read().frames()).sum::<u64>()
    }

    /// Frames there are.
    pub fn frames_total(&self) -> u64 {
        self.depot.total() as u64
    }

    /// Has all threads stop; [`Threads::join`] waits for them.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.wake();
    }

    fn wake(&self) {
        self.bells.iter().for_each(|bell| bell.knock());
    }
}

/// Threads to be.
pub struct Runtime<D, T> {
    workers: Vec<Worker<D>>,
    host: Host<T>,
}

/// Running threads.
pub struct Threads<D, T> {
    workers: Vec<JoinHandle<WorkerParts<D>>>,
    host: JoinHandle<Vec<(InterfaceId, T)>>,
}

/// What ended threads leave behind. An error is the payload of a panic.
pub struct Remains<D, T> {
    /// Each worker's tables and doors.
    pub workers: Vec<thread::Result<WorkerParts<D>>>,
    /// The TAPs.
    pub host: thread::Result<Vec<(InterfaceId, T)>>,
}

/// What every thread gets a share of.
struct Common {
    umem: Arc<Umem>,
    depot: Arc<Depot>,
    clock: Clock,
    settings: Settings,
    events: Sender<Event>,
    wanted: Sender<Wanted>,
    stop: Arc<AtomicBool>,
    senders: Arc<AtomicUsize>,
}

impl<D: Door, T: HostDoor> Runtime<D, T> {
    /// Puts everything together.
    ///
    /// # Errors
    /// See [`PlanError`].
    pub fn build(plan: Plan<D, T>) -> Result<(Self, Handle), PlanError> {
        let count = plan.workers.len();
        check(&plan, count)?;
        let Plan { workers, devices, taps, umem, depot, snapshot, clock, settings } = plan;
        let (events, events_in) = bounded(NOTES);
        let (wanted, wanted_in) = bounded(NOTES);
        let common = Common {
            umem,
            depot,
            clock,
            settings,
            events,
            wanted,
            stop: Arc::default(),
            senders: Arc::default(),
        };
        let (links, host_links) = mesh(count, settings.ring)?;
        let (snapshots, mut readers) = mailbox(snapshot, count + 1);
        let host_reader = readers.pop().expect("a reader more than there are workers");
        let mut bells: Vec<_> = links.iter().map(|links| Arc::clone(&links.bell)).collect();
        bells.push(Arc::clone(&host_links.bell));

        let mut handles = Vec::new();
        let mut ready = Vec::new();
        let shares = share_out(devices, count);
        for (((me, plan), (ports, ways)), (links, reader)) in
            (0..).map(WorkerId).zip(workers).zip(shares).zip(links.into_iter().zip(readers))
        {
            let (commands, clerk) = command_port(&links.bell);
            let worker = common.worker(me, plan, ports, ways, links, reader, clerk);
            let counters = Arc::clone(&worker.exits.counters);
            let gauges = Arc::clone(&worker.gauges);
            handles.push(WorkerHandle { worker: me, counters, gauges, commands });
            ready.push(worker);
        }
        let host = common.host(taps, host_links, host_reader);
        let handle = Handle {
            workers: handles,
            host: HostHandle {
                counters: Arc::clone(&host.counters),
                gauges: Arc::clone(&host.gauges),
            },
            clock,
            events: events_in,
            wanted: wanted_in,
            snapshots,
            bells,
            depot: common.depot,
            stop: common.stop,
        };
        Ok((Self { workers: ready, host }, handle))
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// EAGAIN when there may be no more threads; those that were started end when `handle` is told to stop.
    pub fn spawn(self) -> io::Result<Threads<D, T>> {
        let mut workers = Vec::new();
        for worker in self.workers {
            let name = format!("postern-w{}", worker.exits.me.0);
            workers.push(thread::Builder::new().name(name).spawn(move || worker.run())?);
        }
        let host = self.host;
        let host = thread::Builder::new().name("postern-host".into()).spawn(move || host.run())?;
        Ok(Threads { workers, host })
    }
}

impl<D, T> Threads<D, T> {
    /// Whether a thread ended, told to or not.
    pub fn any_finished(&self) -> bool {
        self.host.is_finished() || self.workers.iter().any(JoinHandle::is_finished)
    }

    /// Waits for all of them. Call [`Handle::stop`] first.
    pub fn join(self) -> Remains<D, T> {
        let workers = self.workers.into_iter().map(JoinHandle::join).collect();
        Remains { workers, host: self.host.join() }
    }
}

impl Common {
    #[allow(clippy::too_many_arguments)] // what tells one worker from another
    fn worker<D: Door>(
        &self,
        me: WorkerId,
        plan: WorkerPlan,
        ports: Vec<Port<D>>,
        ways: [Way; INTERFACES_MAX],
        links: WorkerLinks,
        snapshots: SnapshotReader,
        clerk: Clerk,
    ) -> Worker<D> {
        let WorkerLinks { peers, host, inboxes, bell } = links;
        let exits = Exits {
            me,
            ports,
            ways,
            peers,
            host,
            holds: Holds::new(),
            gathered: GatheredFrames::new(),
            umem: Arc::clone(&self.umem),
            pool: FramePool::new(&self.depot, self.settings.marks),
            counters: Arc::default(),
            events: self.events.clone(),
            polls_are_stale: true,
        };
        Worker {
            pipeline: plan.pipeline,
            exits,
            inboxes,
            bell,
            snapshots,
            clerk,
            umem: Arc::clone(&self.umem),
            clock: self.clock,
            idle: self.settings.idle,
            wanted: self.wanted.clone(),
            gauges: Arc::default(),
            stop: Arc::clone(&self.stop),
            presence: Presence::new(&self.senders, Node::Worker(me), &self.events),
            core: plan.core,
            tray: Tray::default(),
            census: Census::default(),
            polls: PollSet::new(),
            offered: Offered::default(),
        }
    }

    fn host<T>(
        &self,
        taps: Vec<(InterfaceId, T)>,
        links: HostLinks,
        snapshots: SnapshotReader,
    ) -> Host<T> {
        let mut places = [None; INTERFACES_MAX];
        for (place, (interface, _)) in taps.iter().enumerate() {
            places[interface.index()] = Some(place);
        }
        let (budget, now) = (self.settings.host_budget, self.clock.now());
        let port = |(interface, tap)| HostPort::new(interface, tap, budget, now);
        Host {
            ports: taps.into_iter().map(port).collect(),
            links,
            snapshots,
            pool: FramePool::new(&self.depot, self.settings.marks),
            umem: Arc::clone(&self.umem),
            counters: Arc::default(),
            gauges: Arc::default(),
            clock: self.clock,
            events: self.events.clone(),
            stop: Arc::clone(&self.stop),
            presence: Presence::new(&self.senders, Node::Host, &self.events),
            core: self.settings.host_core,
            places,
            census: Census::default(),
            polls: PollSet::new(),
        }
    }
}

fn check<D, T>(plan: &Plan<D, T>, workers: usize) -> Result<(), PlanError> {
    if !(1..=WORKERS_MAX).contains(&workers) {
        return Err(PlanError::Workers(workers));
    }
    let steering = usize::from(plan.snapshot.steering.workers());
    if steering != workers {
        return Err(PlanError::Steering { steering, workers });
    }
    let mut seen = [false; INTERFACES_MAX];
    for device in &plan.devices {
        first_of(&mut seen, device.interface)?;
        if device.queues.is_empty() {
            return Err(PlanError::NoQueue(device.interface.0));
        }
    }
    seen.fill(false);
    plan.taps.iter().try_for_each(|&(interface, _)| first_of(&mut seen, interface))
}

fn first_of(seen: &mut [bool; INTERFACES_MAX], interface: InterfaceId) -> Result<(), PlanError> {
    let first = seen.get_mut(interface.index()).is_some_and(|seen| !std::mem::replace(seen, true));
    if first { Ok(()) } else { Err(PlanError::Interface(interface.0)) }
}

type Share<D> = (Vec<Port<D>>, [Way; INTERFACES_MAX]);

/// Gives every queue to a worker: queue `q` to worker `q mod workers`. Worker `i` sends by queue
/// `i mod queues`, its own or another's.
fn share_out<D: Door>(devices: Vec<Device<D>>, workers: usize) -> Vec<Share<D>> {
    let mut shares: Vec<Share<D>> =
        (0..workers).map(|_| (Vec::new(), [Way::None; INTERFACES_MAX])).collect();
    for Device { interface, queues } in devices {
        let count = queues.len();
        for (queue, door) in queues.into_iter().enumerate() {
            let (ports, ways) = &mut shares[queue % workers];
            // Of several queues a worker sends by the first, which is its own number.
            if queue < workers {
                ways[interface.index()] = Way::Own(ports.len());
            }
            ports.push(Port::new(door, interface));
        }
        for (me, (_, ways)) in shares.iter_mut().enumerate().skip(count) {
            ways[interface.index()] = Way::Via(WorkerId((me % count) as u8));
        }
    }
    shares
}
