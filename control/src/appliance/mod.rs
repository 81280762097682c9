//! The appliance: joins devices, tables, threads, kernel and control socket into one running thing.
//!
//! - [`start`]: takes the devices over and starts the threads; [`leftovers`]: those it had before.
//! - [`board`]: what is in force, and the snapshots made of it.
//! - [`reload`]: what of a changed configuration can be put into force; [`carrier`]: the cards' links.
//! - [`epochs`]: how long older steering is kept.
//! - [`events`]: what happens to connections, for those who follow.
//! - [`backend`]: what the control socket asks for; [`table`]: walks through the tables; [`views`]: how it is shown.
//! - here: the control loop, which follows the kernel, the threads and signals; and `guard` and `release`.
//!
//! Everything on this side runs on one thread, pinned off the workers' cores.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use postern_core::units::Generation;
use postern_io::device::{Device, TakenOver};
use postern_io::runtime::{Event, Wanted};
use postern_io::xdp::program;
use postern_io::{memory, tap, xdp};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

pub mod backend;
pub mod board;
pub mod carrier;
pub mod epochs;
pub mod events;
mod leftovers;
pub mod parts;
pub mod policy;
pub mod reload;
pub mod start;
mod table;
pub mod views;

use crate::api::backend::Backend;
use crate::api::server::{Limits, Server};
use crate::api::socket::{GROUP, control_group, group_named, reading_path};
use crate::config::{self, Config, Fault, ThisHost};
use crate::netlink::{Changes, Follower};
use backend::{Running, Shared};
use board::BoardError;
use carrier::Carriers;
use start::Started;

/// Why the appliance did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ApplianceError {
    /// The configuration was refused.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Faults(Vec<Fault>),
    /// Something could not be taken over or started.
    #[error("{0}")]
    Start(String),
    /// Rules or forwards could not be put into force.
    #[error(transparent)]
    Board(#[from] BoardError),
    /// It ended though nobody asked it to.
    #[error("{0}")]
    Ended(String),
}

/// How often the kernel's stale neighbours and retired policies are seen to.
const TICK: Duration = Duration::from_secs(1);
/// Longest the bridge from the threads' channels sleeps.
const BRIDGE: Duration = Duration::from_millis(100);

/// Runs the appliance until SIGTERM or SIGINT.
///
/// # Errors
/// See [`ApplianceError`]. The devices stay closed, however it ends.
pub fn run(path: &Path) -> Result<(), ApplianceError> {
    init_log();
    let config = load(path)?;
    let run_dir = config.run_dir.clone();
    fs::create_dir_all(&run_dir)
        .map_err(|e| ApplianceError::Start(format!("{}: {e}", run_dir.display())))?;
    // Before anything is taken over: a second instance must not disturb the first.
    let group = control_group();
    if group.is_none() {
        info!("there is no group `{GROUP}`: the control socket is for root only");
    }
    let server = Server::open(&config.control, group, Limits::default())
        .map_err(|e| ApplianceError::Start(e.to_string()))?;
    let server = match &config.control_read_group {
        Some(name) => admit_readers(server, &config.control, name)?,
        None => server,
    };
    let started = start::start(config)?;
    if let Some(core) = start::spare_core(&started.cores) {
        core_affinity::set_for_current(core_affinity::CoreId { id: core });
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| ApplianceError::Start(e.to_string()))?;
    runtime.block_on(control(server, started))
}

/// Opens the socket for those who may only look. That their group is missing keeps no firewall from starting.
fn admit_readers(server: Server, control: &Path, group: &str) -> Result<Server, ApplianceError> {
    let Some(gid) = group_named(group) else {
        warn!(
            "control_read_group: there is no group `{group}`: nobody may look who may not change"
        );
        return Ok(server);
    };
    server
        .with_readers(&reading_path(control), gid)
        .map_err(|e| ApplianceError::Start(e.to_string()))
}

fn load(path: &Path) -> Result<Config, ApplianceError> {
    policy::load_config(path, &ThisHost).map_err(ApplianceError::Faults)
}

fn init_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("POSTERN_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .try_init();
}

/// What the threads tell control.
enum Note {
    Wanted(Wanted),
    Event(Event),
}

/// The control loop.
async fn control(server: Server, started: Started) -> Result<(), ApplianceError> {
    let Started { handle, threads, taken, board, follower, carriers, cores, warnings } = started;
    let mut kernel = Kernel { follower, carriers };
    let shared = Arc::new(Shared {
        board: Mutex::new(board),
        handle,
        taken,
        cores,
        warnings: Mutex::new(warnings),
        events: events::Hub::default(),
        started: Instant::now(),
    });
    let (notes, mut heard) = mpsc::channel(1024);
    let bridge = bridge(Arc::clone(&shared), notes);
    let (stop_server, stopped) = oneshot::channel::<()>();
    let backend: Arc<dyn Backend> = Arc::new(Running(Arc::clone(&shared)));
    let serving = tokio::spawn(server.serve(Arc::clone(&backend), async {
        let _ = stopped.await;
    }));
    let seeing_to_epochs = tokio::spawn(epochs::see_to(Running(Arc::clone(&shared))));
    let telling = tokio::spawn(events::tell(Running(Arc::clone(&shared))));
    info!("running");
    sd_notify("READY=1");

    let why = follow(&shared, &backend, &mut kernel, &mut heard).await;
    sd_notify("STOPPING=1");
    shared.events.close();
    let _ = stop_server.send(());
    let _ = serving.await;
    seeing_to_epochs.abort();
    let _ = seeing_to_epochs.await;
    telling.abort();
    let _ = telling.await;
    shared.handle.stop();
    drop(heard);
    let _ = bridge.join();
    let remains = threads.join();
    let panicked = remains.host.is_err() || remains.workers.iter().any(Result::is_err);
    // `shared` holds the devices' locks until here; their programs stay and drop everything.
    drop((backend, shared));
    info!("stopped; the devices are closed");
    match why {
        Err(error) => Err(error),
        Ok(()) if panicked => Err(ApplianceError::Ended("a thread panicked".to_owned())),
        Ok(()) => Ok(()),
    }
}

/// What is to be followed beside the threads.
struct Kernel {
    follower: Follower,
    carriers: Carriers,
}

/// Follows kernel, threads and signals until one says to stop.
async fn follow(
    shared: &Arc<Shared>,
    backend: &Arc<dyn Backend>,
    Kernel { follower, carriers }: &mut Kernel,
    heard: &mut mpsc::Receiver<Note>,
) -> Result<(), ApplianceError> {
    let failed = |e: std::io::Error| ApplianceError::Ended(e.to_string());
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => match backend.reload().await {
                Ok(done) => info!(generation = done.generation, "reloaded: {:?}", done.changes),
                Err(error) => error!("not reloaded, nothing has changed: {error}"),
            },
            changes = follower.changed() => take_over(shared, follower, changes.map_err(failed)?),
            Some(note) = heard.recv() => {
                hear(note, follower)?;
                while let Ok(note) = heard.try_recv() {
                    hear(note, follower)?;
                }
                // Notes may come so often that `changed` never gets to the end of its patience.
                let changes = follower.poll(Instant::now()).map_err(failed)?;
                take_over(shared, follower, changes);
            }
            _ = tick.tick() => every_second(shared, follower, carriers),
        }
    }
}

/// Puts what the kernel changed into force.
fn take_over(shared: &Shared, follower: &Follower, changes: Changes) {
    if !changes.state() {
        return;
    }
    let snapshot = shared.board().set_kernel(follower.state());
    if let Some(snapshot) = snapshot {
        shared.handle.publish(snapshot);
    }
}

fn hear(note: Note, follower: &mut Follower) -> Result<(), ApplianceError> {
    match note {
        Note::Wanted(wanted) => {
            follower.resolve(wanted, Instant::now());
        }
        Note::Event(Event::Died(node)) => {
            return Err(ApplianceError::Ended(format!("{node:?} panicked")));
        }
        Note::Event(event) => warn!("{event:?}"),
    }
    Ok(())
}

fn every_second(shared: &Shared, follower: &mut Follower, carriers: &mut Carriers) {
    carriers.follow();
    if follower.tick(Instant::now()) {
        let snapshot = shared.board().set_neighbours(Arc::clone(follower.neighbours()));
        shared.handle.publish(snapshot);
    }
    let threads = shared.handle.workers.len() + 1;
    let snapshots = shared.handle.snapshots();
    let newest = shared.board().snapshot().generation;
    // Ages, not numbers: generations wrap.
    let age = |generation: Generation| newest.0.wrapping_sub(generation.0);
    let oldest = (0..threads).filter_map(|place| snapshots.adopted(place)).max_by_key(|&g| age(g));
    shared.board().settle(oldest.unwrap_or(newest));
    let mut warnings = shared.warnings.lock().unwrap_or_else(PoisonError::into_inner);
    for warning in follower.warnings() {
        if !warnings.iter().any(|known| known == warning) {
            warnings.push(warning.to_owned());
        }
    }
}

/// Carries what the threads say into the control loop, which cannot wait for their channels itself.
fn bridge(shared: Arc<Shared>, notes: mpsc::Sender<Note>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let handle = &shared.handle;
        while !notes.is_closed() {
            let note = crossbeam::select! {
                recv(handle.wanted) -> wanted => wanted.map(Note::Wanted),
                recv(handle.events) -> event => event.map(Note::Event),
                default(BRIDGE) => continue,
            };
            match note {
                Ok(note) => {
                    if notes.blocking_send(note).is_err() {
                        return;
                    }
                }
                // The threads are gone.
                Err(_) => return,
            }
        }
    })
}

/// Tells systemd, if it started us and asked for it (sd_notify(3)).
fn sd_notify(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let sent = std::os::unix::net::UnixDatagram::unbound().and_then(|from| {
        match socket.to_str().and_then(|name| name.strip_prefix('@')) {
            Some(name) => {
                use std::os::linux::net::SocketAddrExt;
                let to = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
                from.send_to_addr(state.as_bytes(), &to)
            }
            None => from.send_to(state.as_bytes(), &socket),
        }
    });
    if let Err(error) = sent {
        warn!("cannot notify systemd: {error}");
    }
}

/// Closes the configured devices, before the network comes up: attaches the dropping program and takes the
/// raw devices out of the kernel's use, as the start does. `release` gives them back.
///
/// # Errors
/// See [`ApplianceError`].
pub fn guard(path: &Path) -> Result<(), ApplianceError> {
    let config = load(path)?;
    for interface in &config.interfaces {
        let failed = |e: &dyn std::fmt::Display| {
            ApplianceError::Start(format!("interface {}: {e}", interface.name))
        };
        let device = Device::open(&interface.device).map_err(|e| failed(&e))?;
        let mode = start::attach_mode(interface);
        program::attach_drop_only(&device, &config.run_dir, mode).map_err(|e| failed(&e))?;
        let (reception, polling) = (start::reception(interface), start::polling(interface));
        device
            .take_over(&config.run_dir, &interface.name, reception, polling)
            .map_err(|e| failed(&e))?;
    }
    Ok(())
}

/// Gives devices, TAPs and settings back as they were found: those of the configuration, and those that earlier
/// runs had under another one. All of it is tried, whatever fails.
///
/// # Errors
/// Everything that failed, in one text.
pub fn release(path: &Path) -> Result<(), ApplianceError> {
    // The devices may be gone: only what the file says counts here.
    let text =
        fs::read(path).map_err(|e| ApplianceError::Start(format!("{}: {e}", path.display())))?;
    let config = config::parse(path, &text).map_err(ApplianceError::Faults)?;
    let run_dir = &config.run_dir;
    let mut failures = Vec::new();
    let mut note = |what: &str, error: &dyn std::fmt::Display| {
        failures.push(format!("{what}: {error}"));
    };
    let mut taps: BTreeSet<_> = config.interfaces.iter().map(|i| i.name.clone()).collect();
    for device in &leftovers::devices(&config, &mut note) {
        match program::release(device, run_dir) {
            Err(xdp::program::ProgramError::AnotherInstance { .. }) => {
                return Err(ApplianceError::Start(format!("{device}: the appliance is running")));
            }
            Err(error) => note(device, &error),
            Ok(()) => {}
        }
        match TakenOver::load(run_dir, device) {
            Ok(Some(taken)) => {
                taps.extend(taken.taps().iter().cloned());
                if let Err(error) = taken.release() {
                    note(device, &error);
                }
            }
            Ok(None) => {}
            Err(error) => note(device, &error),
        }
    }
    for tap in &taps {
        let configured = config.interfaces.iter().any(|interface| interface.name == *tap);
        match tap::delete(tap) {
            // Somebody else has used a name of an earlier configuration since.
            Err(tap::TapError::NotOurs { .. }) if !configured => {}
            Err(error) => note(tap, &error),
            Ok(_) => {}
        }
    }
    leftovers::delete_unknown_taps(&mut note);
    // Not before it is clear that no appliance runs.
    if let Err(error) = tap::release_host(run_dir) {
        note("the host's settings", &error);
    }
    if let Err(error) = memory::release_host() {
        note("vm.nr_overcommit_hugepages", &error);
    }
    if let Err(error) = program::release_bpffs(run_dir) {
        note("bpffs", &error);
    }
    if failures.is_empty() { Ok(()) } else { Err(ApplianceError::Start(failures.join("; "))) }
}
