//! Memory in large pages that can outlive the process: memfds, mapped.
//!
//! Tables and the UMEM live in memfds so that a later restart can hand them over by descriptor.
//! Huge pages are tried first, from the reserve or made on the spot: a table of 10 million connections is a
//! third faster with them.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::slice;

use crate::surplus::Surplus;

const HUGE_PAGE: usize = 2 << 20;
const SMALL_PAGE: usize = 4096;
/// Below this a region would waste most of a huge page, and its few small ones stay in the TLB.
const WORTH_A_HUGE_PAGE: usize = 16 * SMALL_PAGE;

/// What kind of pages a region got: worth a line in the log at start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pages {
    /// 2 MiB pages, from the reserved pool (`vm.nr_hugepages`) or beyond it.
    HugeTlb,
    /// Normal pages that the kernel was asked, and is configured, to join into huge ones.
    Transparent,
    /// 4 KiB pages: no reserve, and transparent huge pages are off for shared memory.
    Small,
}

/// A mapping of ours; unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a mapping is an address range, valid in every thread; who may access which bytes of it is
// decided by its owner (`Umem`, `SharedMemory`, the rings), not here.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&Mapping` gives an address only.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `bytes` of `fd` from `offset`, shared, readable and writable, where the kernel likes.
    pub(crate) fn of_fd(
        fd: BorrowedFd<'_>,
        bytes: usize,
        offset: libc::off_t,
        flags: libc::c_int,
    ) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice cannot touch memory in use
        // (MAP_FIXED is never among `flags`; asserted).
        let base = unsafe {
            assert!(flags & libc::MAP_FIXED == 0);
            let flags = libc::MAP_SHARED | flags;
            libc::mmap(ptr::null_mut(), bytes, access, flags, fd.as_raw_fd(), offset)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base =
            NonNull::new(base.cast()).expect("the kernel never maps at address zero unasked");
        Ok(Self { base, bytes })
    }

    pub(crate) const fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    fn advise(&self, advice: libc::c_int) -> io::Result<()> {
        // SAFETY: the range is our own mapping; the advices used here do not discard its content.
        let done = unsafe { libc::madvise(self.base.as_ptr().cast(), self.bytes, advice) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `base` and `bytes` are what mmap gave; whoever handed out references into the
        // mapping bound them to a borrow of it, so none is left.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// A memfd mapped as a whole, zeroed and populated, in the largest pages to be had.
pub(crate) fn map_memfd(name: &str, bytes: usize) -> io::Result<(Mapping, OwnedFd, Pages)> {
    if bytes == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a region of zero bytes"));
    }
    if bytes < WORTH_A_HUGE_PAGE {
        return map_normal(name, bytes, libc::MADV_HUGEPAGE);
    }
    map_hugetlb(name, bytes)
        .or_else(|_| Surplus::of_host().lend(bytes, || map_hugetlb(name, bytes)))
        .or_else(|_| map_normal(name, bytes, libc::MADV_HUGEPAGE))
}

/// Puts the host's limit on huge pages back, if a start that was killed had raised it. Needs root if there is anything
/// to do.
///
/// # Errors
/// What reading the record or writing the limit said.
pub fn release_host() -> io::Result<()> {
    Surplus::of_host().restore()
}

fn map_hugetlb(name: &str, bytes: usize) -> io::Result<(Mapping, OwnedFd, Pages)> {
    let bytes = round_up(bytes, HUGE_PAGE)?;
    let fd = memfd(name, bytes, libc::MFD_HUGETLB)?;
    // Without enough reserved pages it is this call that fails (ENOMEM), not memfd_create.
    let map = Mapping::of_fd(fd.as_fd(), bytes, 0, libc::MAP_POPULATE)?;
    Ok((map, fd, Pages::HugeTlb))
}

/// Of normal pages, with `advice` whether to join them.
fn map_normal(
    name: &str,
    bytes: usize,
    advice: libc::c_int,
) -> io::Result<(Mapping, OwnedFd, Pages)> {
    let bytes = round_up(bytes, if bytes >= HUGE_PAGE { HUGE_PAGE } else { SMALL_PAGE })?;
    let fd = memfd(name, bytes, 0)?;
    // Populated only after the advice: pages that are there already are not joined.
    let map = Mapping::of_fd(fd.as_fd(), bytes, 0, 0)?;
    let advised = map.advise(advice).is_ok() && advice == libc::MADV_HUGEPAGE;
    map.advise(libc::MADV_POPULATE_WRITE)?;
    let joined = advised && bytes >= HUGE_PAGE && shared_pages_are_joined();
    Ok((map, fd, if joined { Pages::Transparent } else { Pages::Small }))
}

/// Whether the kernel makes huge pages of shared memory on request.
fn shared_pages_are_joined() -> bool {
    fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
        .is_ok_and(|setting| !setting.contains("[never]") && !setting.contains("[deny]"))
}

fn memfd(name: &str, bytes: usize, flags: libc::c_uint) -> io::Result<OwnedFd> {
    let name = CString::new(name)?;
    // SAFETY: `name` is a terminated string; the result is a descriptor nobody else owns.
    let fd = unsafe {
        let fd = libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | flags);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let length = libc::off_t::try_from(bytes).map_err(io::Error::other)?;
    // SAFETY: no pointers involved.
    if unsafe { libc::ftruncate(fd.as_raw_fd(), length) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(fd)
}

fn round_up(bytes: usize, page: usize) -> io::Result<usize> {
    bytes
        .checked_next_multiple_of(page)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a region larger than memory"))
}

/// A zeroed region for tables: connections, wheels, port blocks.
#[derive(Debug)]
pub struct SharedMemory {
    map: Mapping,
    fd: OwnedFd,
    pages: Pages,
    bytes: usize,
}

impl SharedMemory {
    /// A region of `bytes` (at least 1), zeroed and populated, aligned to a page at least.
    /// `name` shows in `/proc/<pid>/maps`.
    ///
    /// # Errors
    /// What memfd_create, ftruncate, mmap or madvise said: ENOMEM when there is too little memory.
    pub fn new(name: &str, bytes: usize) -> io::Result<Self> {
        let (map, fd, pages) = map_memfd(name, bytes)?;
        Ok(Self { map, fd, pages, bytes })
    }

    /// The same in small pages only: to measure what large ones are worth.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn in_small_pages(name: &str, bytes: usize) -> io::Result<Self> {
        let (map, fd, pages) = map_normal(name, bytes.max(1), libc::MADV_NOHUGEPAGE)?;
        Ok(Self { map, fd, pages, bytes })
    }

    /// What kind of pages the region got.
    pub const fn pages(&self) -> Pages {
        self.pages
    }

    /// The memory, for the rest of the process's life, and the memfd behind it, to be handed over to
    /// a successor. Writing through the descriptor changes the bytes: keep it for the hand-over only.
    pub fn leak(self) -> (&'static mut [u8], OwnedFd) {
        let Self { map, fd, bytes, .. } = self;
        let base = map.base();
        std::mem::forget(map);
        // SAFETY: the mapping is at least `bytes` long, zeroed, and never unmapped now that it is
        // forgotten; consuming `self` makes this the only reference into it.
        let memory = unsafe { slice::from_raw_parts_mut(base.as_ptr(), bytes) };
        (memory, fd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_zeroed_and_of_the_length_asked_for() {
        for bytes in [1, 4096, 4097, HUGE_PAGE - 1, HUGE_PAGE + 1] {
            let region = SharedMemory::new("postern-test", bytes).expect("memory");
            let (memory, _fd) = region.leak();
            assert_eq!(memory.len(), bytes);
            assert!(memory.iter().all(|&byte| byte == 0));
            assert!(memory.as_ptr().addr().is_multiple_of(SMALL_PAGE));
            memory.fill(0xa5);
        }
    }

    #[test]
    fn small_pages_are_small() {
        let region = SharedMemory::in_small_pages("postern-test", 3 * HUGE_PAGE).expect("memory");
        assert_eq!(region.pages(), Pages::Small);
    }

    #[test]
    fn a_region_of_nothing_or_of_everything_is_refused() {
        assert!(SharedMemory::new("postern-test", 0).is_err());
        assert!(SharedMemory::new("postern-test", usize::MAX - 5).is_err());
    }
}
