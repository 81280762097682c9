//! TAPs: the kernel's side of an interface.
//!
//! Every configured interface has a persistent TAP named after it, with the NIC's MAC, MTU and carrier.
//! Addresses, ARP, neighbour discovery, DHCP clients and daemons live there as on any Linux box. A TAP
//! of ours is marked by its alias; another's is never touched. Order: [`prepare_host`] once, then
//! [`Tap::open`] for each interface (writing the host's `all` settings resets those of interfaces).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::device::{Carrier, HOST, read_record, record_path, write_record};
use crate::netdev::{Control, request};
use crate::netlink::Netlink;
use crate::sysctl::{self, Sysctl};

/// Marks a TAP as ours; `ip link` shows it.
const ALIAS: &str = "Postern: the host's side";

/// `TUNSETCARRIER` of `linux/if_tun.h`: `_IOW('T', 226, int)`.
const TUNSETCARRIER: libc::c_ulong = 0x4004_54e2;

/// How long attaching is tried again while the TAP is in use: its last user may be on its way out, or
/// have a child between fork and exec that still has the descriptor.
const ATTACH_PATIENCE: Duration = Duration::from_millis(500);
const ATTACH_PAUSE: Duration = Duration::from_millis(10);

/// Why a TAP cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// An interface of this name exists and is not a TAP that Postern made.
    #[error(
        "interface {name} exists and is not a TAP of Postern's: rename it, or name the interface otherwise"
    )]
    NotOurs {
        /// Its name.
        name: String,
    },
    /// Another process has the TAP open, and kept it for half a second.
    #[error("TAP {name} is in use by another process")]
    InUse {
        /// Its name.
        name: String,
    },
    /// A step failed: EPERM without CAP_NET_ADMIN, ENOENT for `/dev/net/tun` without the tun module.
    #[error("TAP {name}: {step}: {source}")]
    Step {
        /// Its name.
        name: String,
        /// What was being done, for people.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Whether the kernel configures itself by router advertisements on a TAP.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum RouterAdvertisements {
    /// `accept_ra=0`.
    #[default]
    Ignore,
    /// `accept_ra=2`: also while forwarding, which every TAP has on.
    Follow,
}

/// What a TAP is to be like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TapOptions {
    /// Its name, at most 15 bytes: the interface's name in the configuration.
    pub name: String,
    /// Its Ethernet address: the NIC's.
    pub mac: [u8; 6],
    /// Its MTU in bytes, 68 ..= [`MTU_MAX`](crate::frame::MTU_MAX): the NIC's.
    pub mtu: u32,
    /// Router advertisements.
    pub router_advertisements: RouterAdvertisements,
}

/// An open TAP. Reading and writing never blocks. Dropping closes it; the TAP stays, without carrier.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
    ifindex: u32,
}

impl Tap {
    /// Makes the TAP, or takes up the one an earlier run left, and brings it up. Its carrier is what
    /// [`set_carrier`](Self::set_carrier) says last; on at first.
    ///
    /// # Errors
    /// See [`TapError`].
    pub fn open(options: &TapOptions) -> Result<Self, TapError> {
        let TapOptions { name, mac, mtu, router_advertisements } = options;
        let step = |step| move |source| TapError::Step { name: name.clone(), step, source };
        let tap = Self::attach(name)?;
        tap.ioctl_int(libc::TUNSETPERSIST as _, 1).map_err(step("making it persistent"))?;
        // Packets from the host come whole, with their checksums: no one fills them in later.
        tap.ioctl_int(libc::TUNSETOFFLOAD as _, 0).map_err(step("offloads off"))?;
        let control = Control::open().map_err(step("control socket"))?;
        control.set_mac(name, *mac).map_err(step("setting its MAC"))?;
        control.set_mtu(name, *mtu).map_err(step("setting its MTU"))?;
        for setting in settings(name, *router_advertisements) {
            setting.apply().map_err(step("settings"))?;
        }
        tap.set_carrier(Carrier::Up).map_err(step("setting its carrier"))?;
        control.change_flags(name, libc::IFF_UP, 0).map_err(step("bringing it up"))?;
        Ok(tap)
    }

    /// The queue of a TAP of ours, made if there is no interface of that name.
    fn attach(name: &str) -> Result<Self, TapError> {
        let step = |step| move |source| TapError::Step { name: name.to_owned(), step, source };
        let existed = check_ours(name)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .map_err(step("opening /dev/net/tun"))?;
        let deadline = Instant::now() + ATTACH_PATIENCE;
        while let Err(source) = set_interface(&file, name) {
            match source.raw_os_error() {
                Some(libc::EBUSY) if Instant::now() < deadline => thread::sleep(ATTACH_PAUSE),
                Some(libc::EBUSY) => return Err(TapError::InUse { name: name.to_owned() }),
                _ => return Err(step("attaching")(source)),
            }
        }
        let ifindex = Control::open()
            .and_then(|control| control.index(name))
            .map_err(step("asking for its index"))?;
        if !existed {
            Netlink::open()
                .and_then(|mut netlink| netlink.set_alias(ifindex, ALIAS))
                .map_err(step("marking it"))?;
        }
        Ok(Self { file, name: name.to_owned(), ifindex })
    }

    fn ioctl_int(&self, code: libc::c_ulong, value: libc::c_ulong) -> io::Result<()> {
        // SAFETY: these codes take an integer by value.
        let done = unsafe { libc::ioctl(self.file.as_raw_fd(), code as _, value) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Reads one L2 frame from the host into `buffer`; `None` when there is none. A frame longer than
    /// `buffer` is cut off.
    ///
    /// # Errors
    /// EIO when the TAP was deleted by someone else.
    #[inline]
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match (&self.file).read(buffer) {
            Ok(read) => Ok(Some(read.min(buffer.len()))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives the host one L2 frame.
    ///
    /// # Errors
    /// The frame was not taken: EIO while the TAP is down, EINVAL when it is shorter than an Ethernet
    /// header, ENOMEM.
    #[inline]
    pub fn write(&self, frame: &[u8]) -> io::Result<()> {
        (&self.file).write(frame).map(|_| ())
    }

    /// Tells the host whether there is a link.
    ///
    /// # Errors
    /// Only what the kernel invents; none is known.
    pub fn set_carrier(&self, carrier: Carrier) -> io::Result<()> {
        let value = libc::c_int::from(carrier == Carrier::Up);
        // SAFETY: the kernel reads one integer, borrowed for the call.
        let done = unsafe {
            libc::ioctl(self.file.as_raw_fd(), TUNSETCARRIER as _, ptr::from_ref(&value))
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// The TAP's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The kernel's index of the TAP.
    pub const fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Removes the TAP.
    ///
    /// # Errors
    /// [`TapError::Step`].
    pub fn delete(self) -> Result<(), TapError> {
        self.ioctl_int(libc::TUNSETPERSIST as _, 0).map_err(|source| TapError::Step {
            name: self.name.clone(),
            step: "removing it",
            source,
        })
    }
}

impl AsFd for Tap {
    /// For a poll set: readable when the host has something to send.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Removes the TAP `name` that an earlier run left, if it is there. Whether it was.
///
/// # Errors
/// [`TapError::NotOurs`], [`TapError::InUse`], [`TapError::Step`].
pub fn delete(name: &str) -> Result<bool, TapError> {
    let there = check_ours(name)?;
    if there {
        Tap::attach(name)?.delete()?;
    }
    Ok(there)
}

/// The TAPs that runs of Postern have made in the calling thread's network namespace, whatever their directory.
///
/// # Errors
/// What listing the interfaces said.
pub fn ours() -> io::Result<Vec<String>> {
    let all = fs::read_to_string("/proc/thread-self/net/dev")?;
    // Two lines of headings; then one an interface, its name before a colon.
    let names = all.lines().skip(2).filter_map(|line| Some(line.rsplit_once(':')?.0.trim()));
    Ok(names.filter(|name| matches!(check_ours(name), Ok(true))).map(str::to_owned).collect())
}

/// Whether there is an interface of that name; an error if it is not a TAP of ours.
fn check_ours(name: &str) -> Result<bool, TapError> {
    let step = |source| TapError::Step { name: name.to_owned(), step: "looking it up", source };
    let control = Control::open().map_err(step)?;
    let ifindex = match control.index(name) {
        Ok(ifindex) => ifindex,
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(false),
        Err(error) => return Err(step(error)),
    };
    let is_tap = control.driver(name).is_ok_and(|(driver, bus)| driver == "tun" && bus == "tap");
    let alias = Netlink::open().and_then(|mut netlink| netlink.alias(ifindex)).map_err(step)?;
    if is_tap && alias.as_deref() == Some(ALIAS) {
        Ok(true)
    } else {
        Err(TapError::NotOurs { name: name.to_owned() })
    }
}

fn set_interface(file: &File, name: &str) -> io::Result<()> {
    let mut request = request(name)?;
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the kernel reads and writes the `ifreq`, which is borrowed for the call.
    let done =
        unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, ptr::from_mut(&mut request)) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn settings(name: &str, router_advertisements: RouterAdvertisements) -> Vec<Sysctl> {
    let accept_ra = match router_advertisements {
        RouterAdvertisements::Ignore => "0",
        RouterAdvertisements::Follow => "2",
    };
    let v4 = |key: &str, value| Sysctl::new(format!("ipv4/conf/{name}/{key}"), value);
    let v6 = |key: &str, value| Sysctl::new(format!("ipv6/conf/{name}/{key}"), value);
    vec![
        v4("forwarding", "0"),
        v4("accept_redirects", "0"),
        v4("send_redirects", "0"),
        // The firewall judges sources; the kernel has only half of the picture.
        v4("rp_filter", "0"),
        v6("disable_ipv6", "0"),
        // A link-local address made from the MAC: neighbour discovery needs one.
        v6("addr_gen_mode", "0"),
        // Neighbour advertisements carry the router flag only so. Sets accept_redirects: comes before.
        v6("forwarding", "1"),
        v6("accept_ra", accept_ra),
        v6("accept_redirects", "0"),
    ]
}

/// The host's settings as they were before [`prepare_host`].
#[derive(Serialize, Deserialize)]
struct HostState {
    sysctls: Vec<Sysctl>,
}

fn host_settings() -> Vec<Sysctl> {
    [
        ("ipv4/ip_forward", "0"),
        ("ipv6/conf/all/forwarding", "0"),
        // Redirects are taken if `all` or the interface says so, while not forwarding.
        ("ipv4/conf/all/accept_redirects", "0"),
        // The larger of `all` and the interface counts; raw devices have 1 of their own.
        ("ipv4/conf/all/rp_filter", "0"),
    ]
    .map(|(key, value)| Sysctl::new(key, value))
    .into()
}

fn host_state(run_dir: &Path) -> PathBuf {
    record_path(run_dir, HOST)
}

/// Stops the kernel from forwarding by itself, beside Postern. Records the settings as found in
/// `<run_dir>/host.state.json` unless an earlier run did. Before any [`Tap::open`].
///
/// # Errors
/// What reading or writing a setting or the record said, naming it.
pub fn prepare_host(run_dir: &Path) -> io::Result<()> {
    let wanted = host_settings();
    let record = host_state(run_dir);
    if !record.exists() {
        let state = HostState { sysctls: sysctl::present(&wanted)? };
        write_record(&record, &state)?;
    }
    wanted.iter().try_for_each(Sysctl::apply)
}

/// Puts the host's settings back as [`prepare_host`] found them. Nothing to do without a record.
///
/// # Errors
/// What reading the record or writing a setting said, naming it.
pub fn release_host(run_dir: &Path) -> io::Result<()> {
    let record = host_state(run_dir);
    let state: HostState = match read_record(&record)? {
        Some(state) => state,
        None => return Ok(()),
    };
    sysctl::try_all(state.sysctls.iter().map(Sysctl::apply))?;
    fs::remove_file(&record)
}
