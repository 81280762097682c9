//! Three commands of bpf(2) that aya has no safe face for: what a pinned link is attached to, and
//! detaching it at once instead of some time after its last reference is gone.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

// enum bpf_cmd, enum bpf_link_type of linux/bpf.h
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_DETACH: libc::c_long = 34;
const BPF_LINK_TYPE_XDP: u32 = 6;

/// The part of `union bpf_attr` for `BPF_OBJ_GET`.
#[repr(C)]
#[derive(Default)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The part of `union bpf_attr` for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
#[derive(Default)]
struct GetInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The beginning of `struct bpf_link_info`, up to the XDP part of its union.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
struct LinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    _pad: u32,
    ifindex: u32,
    _rest: u32,
}

const _: () = assert!(size_of::<ObjGet>() == 16);
const _: () = assert!(size_of::<GetInfo>() == 16);
const _: () = assert!(size_of::<LinkInfo>() == 24);

/// # Safety
/// `attr` must be the part of `union bpf_attr` that `command` reads, and what it points at be there.
unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: the caller's promise; the kernel takes the part it is given as zero-extended.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_mut(attr), size_of::<T>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done as i32) }
}

/// Opens a pinned link; `None` if nothing is pinned there.
pub(crate) fn pinned_link(path: &Path) -> io::Result<Option<OwnedFd>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr =
        ObjGet { pathname: path.as_ptr().expose_provenance() as u64, ..ObjGet::default() };
    // SAFETY: `pathname` points at a terminated string that outlives the call; the descriptor that
    // comes back is new and nobody else's.
    match unsafe { bpf(BPF_OBJ_GET, &mut attr).map(|fd| OwnedFd::from_raw_fd(fd)) } {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The interface an XDP link is attached to: 0 once its device is gone or it was detached.
pub(crate) fn link_ifindex(link: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = LinkInfo::default();
    let mut attr = GetInfo {
        bpf_fd: link.as_raw_fd().cast_unsigned(),
        info_len: size_of::<LinkInfo>() as u32,
        info: ptr::from_mut(&mut info).expose_provenance() as u64,
    };
    // SAFETY: `info` is `info_len` bytes, borrowed until after the call; integers only.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)? };
    if info.kind != BPF_LINK_TYPE_XDP {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the pinned object is no XDP link"));
    }
    Ok(info.ifindex)
}

/// Detaches a link's program now. A link whose device is gone is detached already.
pub(crate) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut link_fd = link.as_raw_fd().cast_unsigned();
    // SAFETY: the command reads one integer.
    unsafe { bpf(BPF_LINK_DETACH, &mut link_fd).map(|_| ()) }
}
