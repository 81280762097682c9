//! Network namespaces without names, and raw sockets in them: they are gone when the process is, however it ends.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Room for any frame of an interface with an MTU of 1500.
const FRAME_MAX: usize = 2048;
/// Not to see what is sent (`PACKET_IGNORE_OUTGOING` of linux/if_packet.h).
const IGNORE_OUTGOING: libc::c_int = 23;
/// What a socket may hold while its batch is sent.
const RECEIVE_BUFFER: libc::c_int = 16 << 20;

/// A network namespace, kept by its descriptor.
#[derive(Debug)]
pub(super) struct Namespace(File);

impl Namespace {
    /// Makes a new one and enters it with this thread.
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers; only this thread's namespace changes.
        check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
        File::open("/proc/thread-self/ns/net").map(Self)
    }

    /// Enters it with this thread.
    pub(super) fn enter(&self) -> io::Result<()> {
        // SAFETY: the descriptor is open; only this thread's namespace changes.
        check(unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
    }

    /// Where another process finds it.
    pub(super) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// Keeps this thread on one core: what it sends is then forwarded there too, in order.
pub(super) fn stay_on_one_core(number: usize) {
    // SAFETY: both sets are plain bits, zeroed and of the size given; the calls read and write nothing else.
    unsafe {
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        let size = size_of::<libc::cpu_set_t>();
        if libc::sched_getaffinity(0, size, &mut allowed) != 0 {
            return;
        }
        let cores = (0..libc::CPU_SETSIZE as usize).filter(|&core| libc::CPU_ISSET(core, &allowed));
        let cores: Vec<usize> = cores.collect();
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        if let Some(&core) = cores.get(number % cores.len().max(1)) {
            libc::CPU_SET(core, &mut one);
            libc::sched_setaffinity(0, size, &one);
        }
    }
}

/// A raw socket on an interface of the namespace that its maker is in; receives whatever arrives there.
#[derive(Debug)]
pub(super) struct Wire(OwnedFd);

impl Wire {
    /// On the interface of this name.
    pub(super) fn open(interface: &str) -> io::Result<Self> {
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: takes no pointers.
        let fd = check(unsafe { libc::socket(libc::AF_PACKET, kind, i32::from(protocol)) })?;
        // SAFETY: just opened, and nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let name = CString::new(interface).map_err(io::Error::other)?;
        // SAFETY: the name ends in 0 and outlives the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        // SAFETY: all zeros is a valid address of this kind.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = index as i32;
        let pointer = (&raw const address).cast();
        // SAFETY: the address is valid for its length during the call.
        check(unsafe { libc::bind(fd, pointer, size_of_val(&address) as u32) })?;
        set(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER)?;
        set(fd, libc::SOL_PACKET, IGNORE_OUTGOING, 1)?;
        Ok(Self(socket))
    }

    /// Sends a frame.
    pub(super) fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: the frame is valid for its length during the call.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        check(sent as i32).map(drop)
    }

    /// The next frame that arrived, without waiting.
    pub(super) fn receive(&self) -> io::Result<Option<Vec<u8>>> {
        let mut frame = vec![0; FRAME_MAX];
        // SAFETY: the buffer is valid for its length during the call.
        let got =
            unsafe { libc::recv(self.0.as_raw_fd(), frame.as_mut_ptr().cast(), FRAME_MAX, 0) };
        match check(got as i32) {
            Ok(len) => {
                frame.truncate(len as usize);
                Ok(Some(frame))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits until something arrives, or until then.
    pub(super) fn wait(&self, until: Instant) -> io::Result<()> {
        let left = until.saturating_duration_since(Instant::now());
        if left == Duration::ZERO {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the canary did not arrive"));
        }
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one descriptor, valid during the call.
        let done = check(unsafe { libc::poll(&mut poll, 1, left.as_millis() as i32 + 1) });
        match done {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }
}

/// Sets an option of a socket that is an integer.
fn set(
    fd: libc::c_int,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let pointer = (&raw const value).cast();
    // SAFETY: the option is an integer of that size.
    check(unsafe { libc::setsockopt(fd, level, name, pointer, size_of_val(&value) as u32) })
        .map(drop)
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
