//! The system calls of AF_XDP, one thin function each. `net/xdp/xsk.c` is the other side.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use super::abi::{self, SockaddrXdp, XdpMmapOffsets, XdpOptions, XdpStatistics, XdpUmemReg};
use crate::umem::Umem;

/// Types the kernel may fill in: any bytes are a value, and there is no padding.
///
/// # Safety
/// Only for `repr(C)` integers and structs of integers without padding.
unsafe trait Plain: Copy + Default {}
// SAFETY: an integer.
unsafe impl Plain for u32 {}
// SAFETY: an integer.
unsafe impl Plain for i32 {}
// SAFETY: sixteen u64.
unsafe impl Plain for XdpMmapOffsets {}
// SAFETY: six u64.
unsafe impl Plain for XdpStatistics {}
// SAFETY: one u32.
unsafe impl Plain for XdpOptions {}
// SAFETY: two u64 and four u32, sizes asserted in `abi`.
unsafe impl Plain for XdpUmemReg {}

/// An option of a socket: its level and its name.
#[derive(Clone, Copy)]
struct Name(libc::c_int, libc::c_int);

const fn xdp(name: libc::c_int) -> Name {
    Name(libc::SOL_XDP, name)
}

pub(crate) fn socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the descriptor is new and nobody else's.
    unsafe {
        let fd = libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

fn set<T: Plain>(fd: BorrowedFd<'_>, Name(level, name): Name, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is `len` initialised bytes (`Plain`); the kernel only reads them.
    let done =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, ptr::from_ref(value).cast(), len) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn get<T: Plain>(fd: BorrowedFd<'_>, Name(level, name): Name) -> io::Result<T> {
    let mut value = MaybeUninit::new(T::default());
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes; any bytes are a `T` (`Plain`).
    let value = unsafe {
        let to = value.as_mut_ptr().cast();
        if libc::getsockopt(fd.as_raw_fd(), level, name, to, &mut len) != 0 {
            return Err(io::Error::last_os_error());
        }
        value.assume_init()
    };
    if len as usize == size_of::<T>() {
        Ok(value)
    } else {
        Err(io::Error::other(format!("socket option {name}: a kernel too old ({len} bytes)")))
    }
}

/// Registers the UMEM's memory with a socket. The kernel pins the pages.
pub(crate) fn register_umem(fd: BorrowedFd<'_>, umem: &Umem) -> io::Result<()> {
    let (addr, len) = umem.region();
    let chunk_size = crate::frame::FRAME_SIZE;
    let registration = XdpUmemReg { addr, len, chunk_size, ..XdpUmemReg::default() };
    set(fd, xdp(abi::XDP_UMEM_REG), &registration)
}

/// Sets the number of entries of a ring; `option` is one of the four `XDP_*_RING`.
pub(crate) fn set_ring_size(
    fd: BorrowedFd<'_>,
    option: libc::c_int,
    entries: u32,
) -> io::Result<()> {
    set(fd, xdp(option), &entries)
}

pub(crate) fn mmap_offsets(fd: BorrowedFd<'_>) -> io::Result<XdpMmapOffsets> {
    get(fd, xdp(abi::XDP_MMAP_OFFSETS))
}

pub(crate) fn options(fd: BorrowedFd<'_>) -> io::Result<u32> {
    get::<XdpOptions>(fd, xdp(abi::XDP_OPTIONS)).map(|options| options.flags)
}

pub(crate) fn statistics(fd: BorrowedFd<'_>) -> io::Result<XdpStatistics> {
    get(fd, xdp(abi::XDP_STATISTICS))
}

pub(crate) fn set_tx_budget(fd: BorrowedFd<'_>, frames: u32) -> io::Result<()> {
    set(fd, xdp(abi::XDP_MAX_TX_SKB_BUDGET), &frames)
}

/// Lets the application's own system calls drive the device instead of interrupts.
pub(crate) fn set_busy_poll(fd: BorrowedFd<'_>, microseconds: u32, budget: u32) -> io::Result<()> {
    const PREFER: Name = Name(libc::SOL_SOCKET, libc::SO_PREFER_BUSY_POLL);
    const TIME: Name = Name(libc::SOL_SOCKET, libc::SO_BUSY_POLL);
    const BUDGET: Name = Name(libc::SOL_SOCKET, libc::SO_BUSY_POLL_BUDGET);
    set(fd, PREFER, &1i32)?;
    set(fd, TIME, &microseconds)?;
    set(fd, BUDGET, &budget)
}

/// Binds to a queue. With `share`, the UMEM is that socket's and flags are inherited from it.
pub(crate) fn bind(
    fd: BorrowedFd<'_>,
    ifindex: u32,
    queue_id: u32,
    flags: u16,
    share: Option<RawFd>,
) -> io::Result<()> {
    let address = SockaddrXdp {
        family: libc::AF_XDP as u16,
        flags,
        ifindex,
        queue_id,
        shared_umem_fd: share.map_or(0, RawFd::cast_unsigned),
    };
    let len = size_of::<SockaddrXdp>() as libc::socklen_t;
    // SAFETY: `address` is `len` initialised bytes; the kernel only reads them.
    let done = unsafe { libc::bind(fd.as_raw_fd(), ptr::from_ref(&address).cast(), len) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Asks the kernel to send what is in the tx ring.
pub(crate) fn wake_tx(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = libc::MSG_DONTWAIT;
    // SAFETY: no bytes and no address are passed.
    let done = unsafe { libc::sendto(fd.as_raw_fd(), ptr::null(), 0, flags, ptr::null(), 0) };
    if done >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Tells the kernel that there are frames in the fill ring again.
pub(crate) fn wake_rx(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = libc::MSG_DONTWAIT;
    // SAFETY: no buffer and no address are passed.
    let done = unsafe {
        libc::recvfrom(fd.as_raw_fd(), ptr::null_mut(), 0, flags, ptr::null_mut(), ptr::null_mut())
    };
    if done >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
