//! Taking the devices over and starting the threads, in an order that never leaves a device open.
//!
//! For each interface: the XDP program first, which drops everything; then the raw device's settings, the
//! sockets, the TAP and its addresses; then the sockets enter the program's map, and packets wait in their rings
//! until the threads that serve them have started, which is the last step. Whatever fails on the way leaves the
//! devices closed, as sockets that go leave the map; `release` opens them.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use postern_core::burst::BURST_MAX;
use postern_core::conntrack::siphash::SipKey;
use postern_core::pipeline::{Limits, Pipeline};
use postern_core::units::InterfaceId;
use postern_io::device::{Device, Polling, Reception, TakenOver};
use postern_io::frame::{Depot, Marks};
use postern_io::memory::{self, Pages, SharedMemory};
use postern_io::numa;
use postern_io::runtime::{
    self, Clock, Handle, Idle, Plan, Runtime, Settings as RuntimeSettings, Threads, WorkerPlan,
};
use postern_io::tap::{RouterAdvertisements, Tap, TapOptions, prepare_host};
use postern_io::umem::Umem;
use postern_io::xdp::program::{AttachMode, Program, attach_or_take_over};
use postern_io::xdp::socket::{BindMode, BusyPoll, CopyMode, Socket, SocketOptions, open_queues};
use tracing::{info, warn};

use super::ApplianceError;
use super::board::Board;
use super::carrier::Carriers;
use super::{leftovers, reload};
use crate::compile;
use crate::config::{self, Config, InterfaceSettings, XdpMode};
use crate::netlink::{Configurator, ConfigureError, Follower, GATEWAY_METRIC};

/// Slots for neighbours: what the kernel keeps by default (gc_thresh3 is 1024) for every interface, with room.
const NEIGHBOURS: usize = 8192;

/// A device that was taken over.
pub struct Taken {
    /// Its program, and the lock that says it is ours.
    pub program: Program,
    /// How packets get in and out.
    pub mode: CopyMode,
    /// How many queues are served.
    pub queues: u32,
}

/// A running appliance.
pub struct Started {
    /// Control's handle on the threads.
    pub handle: Handle,
    /// The threads.
    pub threads: Threads<Socket, Tap>,
    /// The devices, by interface.
    pub taken: Vec<Taken>,
    /// What is in force.
    pub board: Board,
    /// Follows the kernel.
    pub follower: Follower,
    /// Passes the cards' links on.
    pub carriers: Carriers,
    /// The core of each worker.
    pub cores: Vec<u16>,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// Takes everything over and starts.
///
/// # Errors
/// See [`ApplianceError`]; the devices that were taken over stay closed.
pub fn start(config: Config) -> Result<Started, ApplianceError> {
    let run_dir = config.run_dir.clone();
    let mut warnings = Vec::new();
    let cores = worker_cores(&config)?;
    let devices = open_devices(&config)?;
    prepare_host(&run_dir).map_err(failed("the host's settings"))?;
    if let Err(error) = memory::release_host() {
        warn!(
            "vm.nr_overcommit_hugepages is not as it was before a start that was killed: {error}"
        );
    }

    leftovers::see_to(&config, &mut warnings);
    let mut programs = Vec::new();
    for (interface, device) in config.interfaces.iter().zip(&devices) {
        programs.push(close(interface, device, &run_dir)?);
    }

    // The frame memory is as large as all that can hold frames.
    let options = socket_options;
    let queues = devices
        .iter()
        .zip(&config.interfaces)
        .map(|(device, interface)| queues(device, interface))
        .collect::<Result<Vec<_>, _>>()?;
    let frames = frames_needed(&config, &queues, cores.len());
    let (umem, all) = Umem::new(frames).map_err(failed("the frame memory"))?;
    let depot = Depot::new(all);
    note_pages("frames", umem.pages(), &mut warnings);

    let mut sockets = Vec::new();
    let mut taps = Vec::new();
    for ((id, interface), (device, &count)) in
        (0u8..).zip(&config.interfaces).zip(devices.iter().zip(&queues))
    {
        let opened = open_queues(&umem, device.ifindex, 0..count, &options(interface))
            .map_err(failed(&format!("interface {}", interface.name)))?;
        check_mode(interface, &opened, &mut warnings)?;
        sockets.push((InterfaceId(id), opened));
        taps.push((InterfaceId(id), open_tap(interface, device)?));
    }
    configure_kernel(&config)?;

    let clock = Clock::start();
    let key = config.conntrack.hash_key.map_or_else(random_key, Ok)?;
    let workers = tables(&config, &cores, key, clock, &mut warnings)?;
    let names = config.interfaces.iter().map(|i| i.name.clone()).collect();
    let follower = Follower::open(names, NEIGHBOURS).map_err(failed("rtnetlink"))?;
    let count = cores.len() as u8;
    let idle = idle(&config, cores.len());
    let neighbours = Arc::clone(follower.neighbours());
    let interfaces: Vec<_> =
        config.interfaces.iter().map(|i| i.name.clone()).zip(devices).collect();
    let board = Board::new(config, follower.state().clone(), neighbours, count, key)?;

    let taken = enter_sockets(programs, &sockets)?;
    let plan = Plan {
        workers,
        devices: sockets
            .into_iter()
            .map(|(interface, queues)| runtime::Device { interface, queues })
            .collect(),
        taps,
        umem,
        depot,
        snapshot: Arc::clone(board.snapshot()),
        clock,
        settings: RuntimeSettings {
            idle,
            host_core: spare_core(&cores),
            ..RuntimeSettings::default()
        },
    };
    let (runtime, handle) = Runtime::build(plan).map_err(failed("the runtime"))?;
    let threads = runtime.spawn().map_err(failed("the threads"))?;
    let carriers = Carriers::new(interfaces);
    Ok(Started { handle, threads, taken, board, follower, carriers, cores, warnings })
}

fn failed<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> ApplianceError {
    let what = what.to_owned();
    move |error| ApplianceError::Start(format!("{what}: {error}"))
}

fn open_devices(config: &Config) -> Result<Vec<Device>, ApplianceError> {
    let open = |interface: &InterfaceSettings| {
        Device::open(&interface.device).map_err(failed(&format!("interface {}", interface.name)))
    };
    config.interfaces.iter().map(open).collect()
}

/// Attaches the program, so that nothing passes, and then puts the raw device out of the kernel's use.
pub fn close(
    interface: &InterfaceSettings,
    device: &Device,
    run_dir: &Path,
) -> Result<Program, ApplianceError> {
    let what = format!("interface {}", interface.name);
    let program =
        attach_or_take_over(device, run_dir, attach_mode(interface)).map_err(failed(&what))?;
    device
        .take_over(run_dir, &interface.name, reception(interface), polling(interface))
        .map_err(failed(&what))?;
    Ok(program)
}

/// What the card lets in.
pub const fn reception(interface: &InterfaceSettings) -> Reception {
    if interface.promiscuous { Reception::Promiscuous } else { Reception::AllMulticast }
}

/// Who has the card looked at.
pub const fn polling(interface: &InterfaceSettings) -> Polling {
    if interface.busy_poll { Polling::Busy } else { Polling::Interrupts }
}

/// Native or generic, as configured.
pub const fn attach_mode(interface: &InterfaceSettings) -> AttachMode {
    match interface.mode {
        XdpMode::Generic => AttachMode::Generic,
        XdpMode::Auto | XdpMode::Copy | XdpMode::ZeroCopy => AttachMode::Native,
    }
}

fn socket_options(interface: &InterfaceSettings) -> SocketOptions {
    let mode = match interface.mode {
        XdpMode::Auto | XdpMode::ZeroCopy => BindMode::Auto,
        XdpMode::Copy | XdpMode::Generic => BindMode::Copy,
    };
    // A worker's calls do not wait, and bring a burst each.
    let busy_poll =
        interface.busy_poll.then_some(BusyPoll { microseconds: 20, budget: BURST_MAX as u32 });
    SocketOptions { mode, busy_poll, ..SocketOptions::default() }
}

/// Every queue that can receive must have a socket, or its packets are dropped: a smaller number is the
/// operator's own risk (he has steered the device's queues himself).
fn queues(device: &Device, interface: &InterfaceSettings) -> Result<u32, ApplianceError> {
    let all = device.rx_queues().map_err(failed(&format!("interface {}", interface.name)))?;
    let wanted = interface.queues.map_or(all, u32::from);
    if wanted < all {
        warn!(
            interface = interface.name,
            "serves {wanted} of {all} queues; the others' packets are dropped"
        );
    }
    Ok(wanted.min(all).max(1))
}

fn frames_needed(config: &Config, queues: &[u32], workers: usize) -> u32 {
    if let Some(frames) = config.frames {
        return frames.saturating_mul(workers as u32);
    }
    let sockets: u32 = queues.iter().sum();
    let per_socket = SocketOptions::default().frames();
    let threads = workers as u32 + 1;
    let per_thread = (Marks::default().high + 1024) as u32;
    let between = threads * threads * RuntimeSettings::default().ring as u32;
    sockets * per_socket + threads * per_thread + between
}

fn check_mode(
    interface: &InterfaceSettings,
    sockets: &[Socket],
    warnings: &mut Vec<String>,
) -> Result<(), ApplianceError> {
    let zero_copy = sockets.iter().all(|socket| socket.mode() == CopyMode::ZeroCopy);
    let name = &interface.name;
    match (interface.mode, zero_copy) {
        (XdpMode::ZeroCopy, false) => Err(ApplianceError::Start(format!(
            "interface {name}: the driver of {} has no zero-copy",
            interface.device
        ))),
        (XdpMode::Auto, false) => {
            let text = format!(
                "interface {name}: copy mode (the driver of {} has no zero-copy)",
                interface.device
            );
            info!("{text}");
            warnings.push(text);
            Ok(())
        }
        _ => Ok(()),
    }
}

fn open_tap(interface: &InterfaceSettings, device: &Device) -> Result<Tap, ApplianceError> {
    let mtu = interface.mtu.map_or(device.mtu, u32::from);
    let router_advertisements = if interface.accept_ra {
        RouterAdvertisements::Follow
    } else {
        RouterAdvertisements::Ignore
    };
    let name = interface.name.clone();
    Tap::open(&TapOptions { name, mac: device.mac, mtu, router_advertisements })
        .map_err(failed(&format!("interface {}", interface.name)))
}

/// Gives the TAPs the addresses and gateways that the configuration names, and takes from them those that an
/// earlier run gave them.
fn configure_kernel(config: &Config) -> Result<(), ApplianceError> {
    let mut kernel = Configurator::open().map_err(failed("rtnetlink"))?;
    for (metric, interface) in (GATEWAY_METRIC..).zip(&config.interfaces) {
        configure_tap(&mut kernel, interface, metric)
            .map_err(failed(&format!("interface {}", interface.name)))?;
    }
    Ok(())
}

fn configure_tap(
    kernel: &mut Configurator,
    interface: &InterfaceSettings,
    metric: u32,
) -> Result<(), ConfigureError> {
    kernel.set_addresses(&interface.name, &interface.addresses)?;
    kernel.set_gateways(&interface.name, &interface.gateways, metric)
}

/// Brings TAPs and cards from one configuration's addresses, gateways and reception to another's of the same
/// interfaces. Where nothing differs nothing is touched.
///
/// # Errors
/// What failed, and whether everything was brought back to where it was.
pub fn reconfigure(old: &Config, new: &Config) -> Result<(), String> {
    let pairs = (GATEWAY_METRIC..).zip(old.interfaces.iter().zip(&new.interfaces));
    let differ: Vec<_> = pairs.filter(|(_, (old, new))| has_to_tell(old, new)).collect();
    if differ.is_empty() {
        return Ok(());
    }
    let kernel = RefCell::new(Configurator::open().map_err(|e| e.to_string())?);
    let apply = |interface: &InterfaceSettings, was: &InterfaceSettings, metric| {
        let failed = |e: &dyn std::fmt::Display| format!("interface {}: {e}", interface.name);
        configure_tap(&mut kernel.borrow_mut(), interface, metric).map_err(|e| failed(&e))?;
        if interface.promiscuous == was.promiscuous {
            return Ok(());
        }
        match TakenOver::load(&new.run_dir, &interface.device).map_err(|e| failed(&e))? {
            Some(device) => device.set_reception(reception(interface)).map_err(|e| failed(&e)),
            None => Err(failed(&"there is no record of its device")),
        }
    };
    reload::all_or_nothing(
        &differ,
        |&(metric, (old, new))| apply(new, old, metric),
        |&(metric, (old, new))| apply(old, new, metric),
    )
}

/// Whether the kernel has to be told of a change.
fn has_to_tell(old: &InterfaceSettings, new: &InterfaceSettings) -> bool {
    (&old.addresses, &old.gateways, old.promiscuous)
        != (&new.addresses, &new.gateways, new.promiscuous)
}

/// The tables of every worker, on shared memory. IPv6 gets a quarter as many connections as IPv4.
fn tables(
    config: &Config,
    cores: &[u16],
    key: SipKey,
    clock: Clock,
    warnings: &mut Vec<String>,
) -> Result<Vec<WorkerPlan>, ApplianceError> {
    let [connections_v4, connections_v6] = compile::rows(config, cores.len() as u8);
    let limits = Limits { connections_v4, connections_v6 };
    let mut plans = Vec::new();
    for (worker, &core) in cores.iter().enumerate() {
        let mut memory = Vec::new();
        for (family, bytes) in ["v4", "v6", "helpers"].into_iter().zip(limits.bytes()) {
            let name = format!("postern-table-{worker}-{family}");
            let shared = numa::near(core.into(), || SharedMemory::new(&name, bytes))
                .map_err(failed("the connection tables"))?;
            if worker == 0 && family == "v4" {
                note_pages("connection tables", shared.pages(), warnings);
            }
            let (slice, _fd) = shared.leak();
            memory.push(&mut slice[..bytes]);
        }
        let memory: [&'static mut [u8]; 3] =
            memory.try_into().unwrap_or_else(|_| unreachable!("three names, three regions"));
        let pipeline = Pipeline::new(limits, memory, key, random_key()?, clock.now());
        plans.push(WorkerPlan { pipeline, core: Some(usize::from(core)) });
    }
    Ok(plans)
}

fn note_pages(what: &str, pages: Pages, warnings: &mut Vec<String>) {
    if pages == Pages::Small {
        warnings.push(format!(
            "{what}: no huge pages (set vm.nr_hugepages, or shmem_enabled to advise)"
        ));
    }
}

/// Puts every socket into its device's program: from now on packets arrive.
fn enter_sockets(
    programs: Vec<Program>,
    sockets: &[(InterfaceId, Vec<Socket>)],
) -> Result<Vec<Taken>, ApplianceError> {
    let mut taken = Vec::new();
    for (mut program, (_, queues)) in programs.into_iter().zip(sockets) {
        for socket in queues {
            program.set_socket(socket).map_err(failed("the XDP program"))?;
        }
        let mode = queues.first().map_or(CopyMode::Copy, Socket::mode);
        taken.push(Taken { program, mode, queues: queues.len() as u32 });
    }
    Ok(taken)
}

fn worker_cores(config: &Config) -> Result<Vec<u16>, ApplianceError> {
    let cores = config.workers.cores(&available_cores());
    if cores.is_empty() {
        return Err(ApplianceError::Start("no processor may be used".to_owned()));
    }
    Ok(cores)
}

fn available_cores() -> Vec<u16> {
    let ids = core_affinity::get_core_ids().unwrap_or_default();
    ids.iter().map(|core| core.id as u16).collect()
}

/// A core that no worker is pinned to, for the host thread and control.
pub fn spare_core(workers: &[u16]) -> Option<usize> {
    available_cores().into_iter().find(|core| !workers.contains(core)).map(usize::from)
}

/// Spin while a core is left for everyone else; otherwise sleep soon.
fn idle(config: &Config, workers: usize) -> Idle {
    match config.idle {
        Some(config::Idle::Spin) => Idle::Spin,
        Some(config::Idle::SleepAfter(after)) => Idle::SleepAfter(after),
        None if workers < available_cores().len() => Idle::Spin,
        None => Idle::SleepAfter(std::time::Duration::from_micros(50)),
    }
}

fn random_key() -> Result<SipKey, ApplianceError> {
    use std::io::Read;
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(failed("a random key"))?;
    let [low, high] = [0, 8].map(|at| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i])));
    Ok(SipKey([low, high]))
}
