//! The XDP program of a device: attached, kept, taken over, given back.
//!
//! The link between program and device is pinned in a bpffs of our own, so that it outlives the
//! process: after a stop, a crash or a kill the program still runs, finds no socket, and drops. The
//! next start updates that link in place. At no moment is the device without a dropping program.
//! (Only a measuring tool wants the opposite, a device that is free again however the tool ends:
//! [`attach_for_process`].)
//!
//! ```text
//! <run_dir>/bpf/              a bpffs
//! <run_dir>/bpf/<device>/     link, xsks, unclaimed
//! <run_dir>/<device>.lock     locked by the instance that has the device
//! ```

use std::ffi::CString;
use std::fs::{self, File, TryLockError};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::maps::{Map, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::{XdpLink, XdpLinkId, XdpMode};
use aya::programs::{ProgramError as AyaProgramError, Xdp};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};

use super::bpf;
use super::socket::Socket;
use crate::device::Device;

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.o"));

/// `BPF_FS_MAGIC` of `linux/magic.h`.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// Where in the kernel the program runs.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum AttachMode {
    /// In the driver.
    #[default]
    Native,
    /// In the network core, after the packet was copied: slow, for drivers without XDP.
    Generic,
}

/// How a device was found by [`attach_or_take_over`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attached {
    /// It had no program of ours.
    Fresh,
    /// An earlier run's program was there, closed, and was replaced in place. It keeps its mode.
    TakenOver,
}

/// What went wrong with a program.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// Another process works on the device.
    #[error("another instance of Postern has device {device} ({lock} is locked)")]
    AnotherInstance {
        /// The device.
        device: String,
        /// The lock's path.
        lock: PathBuf,
    },
    /// The device has an XDP program that is not ours.
    #[error("device {0} has an XDP program of somebody else's (`ip link show` tells which)")]
    ForeignProgram(String),
    /// The driver cannot.
    #[error("device {device} cannot run XDP programs in {mode:?} mode: {source}")]
    NotSupported {
        /// The device.
        device: String,
        /// The mode asked for.
        mode: AttachMode,
        /// What the kernel said: EOPNOTSUPP, ENOSPC (too few queues), ERANGE (too large an MTU).
        source: io::Error,
    },
    /// A step failed: EPERM without CAP_BPF and CAP_NET_ADMIN.
    #[error("XDP program of device {device}: {step}: {reason}")]
    Step {
        /// The device.
        device: String,
        /// What was being done, for people.
        step: &'static str,
        /// What the kernel or the loader said.
        reason: String,
    },
}

/// The paths of one device.
struct Place {
    device: String,
    lock: PathBuf,
    bpffs: PathBuf,
    pins: PathBuf,
}

impl Place {
    fn new(device: &str, run_dir: &Path) -> Self {
        let bpffs = run_dir.join("bpf");
        // A bpffs has no dots in its names; interfaces do.
        let pins = bpffs.join(device.replace('%', "%25").replace('.', "%2e"));
        let lock = run_dir.join(format!("{device}.lock"));
        Self { device: device.to_owned(), lock, bpffs, pins }
    }

    fn link(&self) -> PathBuf {
        self.pins.join("link")
    }

    fn step<E: std::fmt::Display>(&self, step: &'static str) -> impl Fn(E) -> ProgramError {
        let device = self.device.clone();
        move |reason| ProgramError::Step {
            device: device.clone(),
            step,
            reason: reason.to_string(),
        }
    }

    /// Takes the device's lock.
    fn lock(&self) -> Result<Lock, ProgramError> {
        let directory = self.lock.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory).map_err(self.step("making the run directory"))?;
        loop {
            let file = File::create(&self.lock).map_err(self.step("opening its lock"))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(ProgramError::AnotherInstance {
                        device: self.device.clone(),
                        lock: self.lock.clone(),
                    });
                }
                Err(TryLockError::Error(error)) => {
                    return Err(self.step("taking its lock")(error));
                }
            }
            let about = file.metadata().map_err(self.step("taking its lock"))?;
            // Removed by a `release` between the opening and the locking: it locks nothing.
            if about.nlink() > 0 {
                return Ok(Lock(file));
            }
        }
    }
}

/// The lock of a device, free again when this is dropped or the process ends, however it ends.
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing alone would leave it locked for as long as a child between fork and exec has it too.
        let _ = self.0.unlock();
    }
}

/// A device's program, with its maps, and the lock that says the device is ours. Dropping it leaves
/// the program attached: without sockets it drops everything. ([`attach_for_process`] is the exception.)
pub struct Program {
    xsks: XskMap<MapData>,
    unclaimed: PerCpuArray<MapData, u64>,
    attached: Attached,
    device: String,
    _hold: Hold,
}

/// What a [`Program`] keeps alive.
enum Hold {
    /// The device's lock: the link is pinned.
    Pinned { _lock: Lock },
    /// The loaded object with the only reference to the link: dropped, the kernel detaches the program.
    Process { _object: Ebpf },
}

/// Attaches the program to `device`, or takes over the link that an earlier run left pinned, and locks
/// the device for this process. Until [`Program::set_socket`] every frame is dropped.
///
/// # Errors
/// [`ProgramError`]. The device is as closed as it was before.
pub fn attach_or_take_over(
    device: &Device,
    run_dir: &Path,
    mode: AttachMode,
) -> Result<Program, ProgramError> {
    let place = Place::new(&device.name, run_dir);
    let lock = place.lock()?;
    attach_or_clean(&place, device.ifindex, mode, lock)
}

/// Attaches the program to `device` for as long as the [`Program`] or this process lives: nothing is
/// pinned, written or locked, and however the process ends the device is the kernel's again. For tools
/// that measure, never for an appliance, which must stay closed.
///
/// # Errors
/// [`ProgramError`]; [`ProgramError::ForeignProgram`] if any program is attached already.
pub fn attach_for_process(device: &Device, mode: AttachMode) -> Result<Program, ProgramError> {
    let place = Place::new(&device.name, Path::new(""));
    let mut object = load(&place)?;
    attach_link(&place, steer(&place, &mut object)?, device.ifindex, mode)?;
    let xsks = find_map(&place, &mut object, "xsks")?;
    let unclaimed = find_map(&place, &mut object, "unclaimed")?;
    Ok(Program {
        xsks: XskMap::try_from(xsks).map_err(place.step("its map of sockets"))?,
        unclaimed: PerCpuArray::try_from(unclaimed).map_err(place.step("its counter"))?,
        attached: Attached::Fresh,
        device: place.device,
        _hold: Hold::Process { _object: object },
    })
}

/// Closes `device`: attaches the program without sockets, unless an earlier run's is still there. For
/// the time before the network comes up.
///
/// # Errors
/// [`ProgramError`].
pub fn attach_drop_only(
    device: &Device,
    run_dir: &Path,
    mode: AttachMode,
) -> Result<(), ProgramError> {
    let place = Place::new(&device.name, run_dir);
    let lock = place.lock()?;
    mount_bpffs(&place.bpffs).map_err(place.step("mounting a bpffs"))?;
    if attached_to(&place)? == Some(device.ifindex) {
        return Ok(());
    }
    attach_or_clean(&place, device.ifindex, mode, lock).map(drop)
}

/// Detaches the program an earlier run left on the device named `device`, if there is one, and removes
/// its pins. The device is open to the kernel from then on: restore its settings beforehand or after,
/// as the operator wishes.
///
/// # Errors
/// [`ProgramError::AnotherInstance`] while one runs; [`ProgramError::Step`].
pub fn release(device: &str, run_dir: &Path) -> Result<(), ProgramError> {
    let place = Place::new(device, run_dir);
    let _lock = place.lock()?;
    if let Some(link) = bpf::pinned_link(&place.link()).map_err(place.step("opening its link"))? {
        bpf::detach_link(link.as_fd()).map_err(place.step("detaching it"))?;
    }
    remove_pins(&place).map_err(place.step("removing its pins"))?;
    fs::remove_file(&place.lock).map_err(place.step("removing its lock"))
}

/// The devices whose programs runs with this directory have left attached.
///
/// # Errors
/// What reading the directory said; that there is none is no error.
pub fn pinned(run_dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(run_dir.join("bpf")) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.push(entry.file_name().to_string_lossy().replace("%2e", ".").replace("%25", "%"));
        }
    }
    names.sort();
    Ok(names)
}

/// Unmounts the bpffs of `run_dir` if it holds no device any more.
///
/// # Errors
/// What umount said. That a device is left is no error.
pub fn release_bpffs(run_dir: &Path) -> io::Result<()> {
    let directory = run_dir.join("bpf");
    if !is_bpffs(&directory)? {
        return Ok(());
    }
    // Beside the devices' directories there are files of the kernel's own.
    for entry in fs::read_dir(&directory)? {
        if entry?.file_type()?.is_dir() {
            return Ok(());
        }
    }
    let path = CString::new(directory.as_os_str().as_bytes())?;
    // SAFETY: `path` is a terminated string.
    if unsafe { libc::umount2(path.as_ptr(), libc::UMOUNT_NOFOLLOW) } != 0 {
        return Err(io::Error::last_os_error());
    }
    fs::remove_dir(&directory)
}

/// Makes sure that a bpffs is mounted at `directory`, which is made if need be. A mount in a private
/// mount namespace goes with it, pins and all: the service must not have one.
///
/// # Errors
/// What mkdir or mount said: EPERM without CAP_SYS_ADMIN, unless it was mounted beforehand.
pub fn mount_bpffs(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    // Two at once would mount one over the other and hide its pins.
    let parent = File::open(directory.parent().unwrap_or(Path::new("/")))?;
    parent.lock()?;
    if is_bpffs(directory)? {
        return Ok(());
    }
    let path = CString::new(directory.as_os_str().as_bytes())?;
    // SAFETY: all five are terminated strings.
    let done = unsafe {
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        let data = c"mode=0700".as_ptr().cast();
        libc::mount(c"bpf".as_ptr(), path.as_ptr(), c"bpf".as_ptr(), flags, data)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn is_bpffs(directory: &Path) -> io::Result<bool> {
    let path = CString::new(directory.as_os_str().as_bytes())?;
    let mut about = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `path` is terminated; the kernel fills `about` when it answers 0, and only then it is read.
    unsafe {
        if libc::statfs(path.as_ptr(), about.as_mut_ptr()) == 0 {
            return Ok(about.assume_init().f_type as u64 == BPF_FS_MAGIC);
        }
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::NotFound { Ok(false) } else { Err(error) }
}

/// The interface that the pinned link is attached to, if there is one.
fn attached_to(place: &Place) -> Result<Option<u32>, ProgramError> {
    bpf::pinned_link(&place.link())
        .and_then(|link| link.map(|link| bpf::link_ifindex(link.as_fd())).transpose())
        .map_err(place.step("looking at its pinned link"))
}

fn attach_or_clean(
    place: &Place,
    ifindex: u32,
    mode: AttachMode,
    lock: Lock,
) -> Result<Program, ProgramError> {
    attach(place, ifindex, mode, lock).inspect_err(|_| {
        // Fails unless it is empty: nothing that was pinned goes.
        let _ = fs::remove_dir(&place.pins);
    })
}

fn attach(
    place: &Place,
    ifindex: u32,
    mode: AttachMode,
    lock: Lock,
) -> Result<Program, ProgramError> {
    mount_bpffs(&place.bpffs).map_err(place.step("mounting a bpffs"))?;
    fs::create_dir_all(&place.pins).map_err(place.step("making its directory in the bpffs"))?;
    let mut object = load(place)?;
    let program = steer(place, &mut object)?;
    let attached = match attached_to(place)? {
        Some(present) if present == ifindex => {
            update_link(place, program)?;
            Attached::TakenOver
        }
        other => {
            if other.is_some() {
                // Its device is gone, or has another name now: it is of no use to this one.
                fs::remove_file(place.link()).map_err(place.step("removing a stale link"))?;
            }
            attach_afresh(place, program, ifindex, mode)?;
            Attached::Fresh
        }
    };
    let xsks = take_map(place, &mut object, "xsks")?;
    let unclaimed = take_map(place, &mut object, "unclaimed")?;
    Ok(Program {
        xsks: XskMap::try_from(xsks).map_err(place.step("its map of sockets"))?,
        unclaimed: PerCpuArray::try_from(unclaimed).map_err(place.step("its counter"))?,
        attached,
        device: place.device.clone(),
        _hold: Hold::Pinned { _lock: lock },
    })
}

/// Creates the maps.
fn load(place: &Place) -> Result<Ebpf, ProgramError> {
    EbpfLoader::new().load(OBJECT).map_err(place.step("loading its maps"))
}

/// Loads the program of `object` into the kernel.
fn steer<'a>(place: &Place, object: &'a mut Ebpf) -> Result<&'a mut Xdp, ProgramError> {
    let program: &mut Xdp = object
        .program_mut("steer")
        .ok_or("no program `steer` in the object")
        .map_err(place.step("finding it"))?
        .try_into()
        .map_err(place.step::<AyaProgramError>("finding it"))?;
    program.load().map_err(place.step("loading it"))?;
    Ok(program)
}

fn update_link(place: &Place, program: &mut Xdp) -> Result<(), ProgramError> {
    let pinned = PinnedLink::from_pin(place.link()).map_err(place.step("opening its link"))?;
    let link = XdpLink::try_from(FdLink::from(pinned)).map_err(place.step("opening its link"))?;
    // The link's descriptor goes to `program` and is closed with it; the pin keeps the link.
    program.attach_to_link(link).map(drop).map_err(place.step("updating its link"))
}

fn attach_afresh(
    place: &Place,
    program: &mut Xdp,
    ifindex: u32,
    mode: AttachMode,
) -> Result<(), ProgramError> {
    let id = attach_link(place, program, ifindex, mode)?;
    let link = program.take_link(id).map_err(place.step("attaching it"))?;
    // Without bpf_link (before Linux 5.9) this fails, and dropping `link` detaches again.
    let link = FdLink::try_from(link).map_err(place.step("attaching it by a bpf_link"))?;
    link.pin(place.link()).map(drop).map_err(place.step("pinning its link"))
}

/// Attaches the program; the link stays with `program` and goes with it.
fn attach_link(
    place: &Place,
    program: &mut Xdp,
    ifindex: u32,
    mode: AttachMode,
) -> Result<XdpLinkId, ProgramError> {
    let flags = match mode {
        AttachMode::Native => XdpMode::Driver,
        AttachMode::Generic => XdpMode::Skb,
    };
    program.attach_to_if_index(ifindex, flags).map_err(|error| match error {
        AyaProgramError::SyscallError(error) => match error.io_error.raw_os_error() {
            Some(libc::EBUSY | libc::EEXIST) => ProgramError::ForeignProgram(place.device.clone()),
            Some(libc::EOPNOTSUPP | libc::ENOSPC | libc::ERANGE) => ProgramError::NotSupported {
                device: place.device.clone(),
                mode,
                source: error.io_error,
            },
            _ => place.step("attaching it")(error),
        },
        error => place.step("attaching it")(error),
    })
}

/// Takes a map out of the object.
fn find_map(place: &Place, object: &mut Ebpf, name: &str) -> Result<Map, ProgramError> {
    object
        .take_map(name)
        .ok_or_else(|| format!("no map `{name}` in the object"))
        .map_err(place.step("finding its maps"))
}

/// Takes a map out of the object and pins it, in place of an earlier run's, for others to read.
fn take_map(place: &Place, object: &mut Ebpf, name: &str) -> Result<Map, ProgramError> {
    let map = find_map(place, object, name)?;
    let fresh = place.pins.join(format!("new-{name}"));
    let stale = fs::remove_file(&fresh);
    match stale {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(place.step("removing a stale pin")(error));
        }
        _ => {}
    }
    map.pin(&fresh).map_err(place.step("pinning its maps"))?;
    fs::rename(&fresh, place.pins.join(name)).map_err(place.step("pinning its maps"))?;
    Ok(map)
}

fn remove_pins(place: &Place) -> io::Result<()> {
    let entries = match fs::read_dir(&place.pins) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        fs::remove_file(entry?.path())?;
    }
    fs::remove_dir(&place.pins)
}

impl Program {
    /// From now on the frames of the socket's queue go to the socket. It must be a socket of this
    /// device; when it is closed the kernel takes it out again.
    ///
    /// # Errors
    /// [`ProgramError::Step`]: a queue beyond 255.
    pub fn set_socket(&mut self, socket: &Socket) -> Result<(), ProgramError> {
        let fd = socket.as_fd().as_raw_fd();
        self.xsks.set(socket.queue(), fd, 0).map_err(|error| self.fault("setting a socket", &error))
    }

    /// Closes a queue: its frames are dropped from now on.
    ///
    /// # Errors
    /// [`ProgramError::Step`]: a queue beyond 255, or one without a socket.
    pub fn remove_socket(&mut self, queue: u32) -> Result<(), ProgramError> {
        self.xsks.unset(queue).map_err(|error| self.fault("removing a socket", &error))
    }

    /// Frames dropped because their queue had no socket, since this program was loaded.
    ///
    /// # Errors
    /// [`ProgramError::Step`]; none is known.
    pub fn frames_without_socket(&self) -> Result<u64, ProgramError> {
        let counts = self.unclaimed.get(&0, 0);
        counts
            .map(|counts| counts.iter().sum())
            .map_err(|error| self.fault("reading its counter", &error))
    }

    /// Whether an earlier run's program was there.
    pub const fn attached(&self) -> Attached {
        self.attached
    }

    fn fault(&self, step: &'static str, error: &MapError) -> ProgramError {
        ProgramError::Step { device: self.device.clone(), step, reason: error.to_string() }
    }
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "XDP program of device {}, {:?}", self.device, self.attached)
    }
}

/// Frames dropped for want of a socket on `device`, of the program that is attached now, whoever
/// attached it; `None` if none is.
///
/// # Errors
/// [`ProgramError::Step`].
pub fn frames_without_socket(device: &str, run_dir: &Path) -> Result<Option<u64>, ProgramError> {
    let place = Place::new(device, run_dir);
    let pin = place.pins.join("unclaimed");
    if !pin.exists() {
        return Ok(None);
    }
    let map = MapData::from_pin(&pin).and_then(Map::from_map_data);
    let array = map.and_then(PerCpuArray::<MapData, u64>::try_from);
    let counts = array.and_then(|array| array.get(&0, 0));
    counts.map(|counts| Some(counts.iter().sum())).map_err(place.step("reading its counter"))
}
