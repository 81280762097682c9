//! Sleeping until something happens: poll(2) over a fixed set, and an eventfd to be woken by.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};
use std::time::Duration;

/// Wakes a thread that sleeps in [`PollSet::wait`]. Any thread may ring; only the sleeper clears.
#[derive(Debug)]
pub struct Wake(File);

impl Wake {
    /// A new eventfd.
    ///
    /// # Errors
    /// EMFILE, ENFILE or ENOMEM.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the descriptor is new and nobody else's.
        unsafe {
            let fd = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
            if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(Self(File::from_raw_fd(fd))) }
        }
    }

    /// Wakes the sleeper, or keeps it from falling asleep. One system call: ring only if it sleeps.
    pub fn ring(&self) {
        // Fails only when the counter is full: then the sleeper is awake for sure.
        let _ = (&self.0).write(&1u64.to_ne_bytes());
    }

    /// Forgets all rings so far.
    pub fn clear(&self) {
        // Fails only when there was none.
        let _ = (&self.0).read(&mut [0; 8]);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Descriptors to sleep on. Built once; waiting allocates nothing.
#[derive(Debug, Default)]
pub struct PollSet {
    entries: Vec<libc::pollfd>,
}

impl PollSet {
    /// An empty set.
    pub const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// Adds a descriptor to be waited for until it is readable; returns its place in the set. The set
    /// does not keep it open: waiting for a closed one returns at once ([`Ready::Failed`]).
    pub fn add(&mut self, fd: BorrowedFd<'_>) -> usize {
        self.entries.push(libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
        self.entries.len() - 1
    }

    /// Sleeps until a descriptor is readable or failed, or `timeout` (to the millisecond, rounded up)
    /// is over. Returns how many are; an interruption by a signal counts as none.
    ///
    /// # Errors
    /// ENOMEM; nothing else that a set built by [`add`](Self::add) could cause.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<usize> {
        let millis = timeout.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i32;
        let count = self.entries.len() as libc::nfds_t;
        // SAFETY: the kernel reads and writes `count` entries of the vector.
        let ready = unsafe { libc::poll(self.entries.as_mut_ptr(), count, millis) };
        if ready >= 0 {
            return Ok(ready as usize);
        }
        let error = io::Error::last_os_error();
        self.entries.iter_mut().for_each(|entry| entry.revents = 0);
        if error.kind() == io::ErrorKind::Interrupted { Ok(0) } else { Err(error) }
    }

    /// What the last wait found at `place`.
    ///
    /// # Panics
    /// If `place` did not come from [`add`](Self::add).
    pub fn ready(&self, place: usize) -> Ready {
        match self.entries[place].revents {
            0 => Ready::Nothing,
            events if events & libc::POLLIN != 0 => Ready::Readable,
            _ => Ready::Failed,
        }
    }
}

/// What [`PollSet::wait`] found at a descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ready {
    /// It can be read.
    Readable,
    /// It has an error, was hung up or is closed.
    Failed,
    /// Neither.
    Nothing,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_before_the_wait_is_not_lost_and_clear_forgets_it() {
        let wake = Wake::new().expect("an eventfd");
        let mut set = PollSet::new();
        let place = set.add(wake.as_fd());
        assert_eq!(set.wait(Duration::ZERO).expect("poll"), 0);
        wake.ring();
        wake.ring();
        assert_eq!(set.wait(Duration::from_secs(5)).expect("poll"), 1);
        assert_eq!(set.ready(place), Ready::Readable);
        wake.clear();
        assert_eq!(set.wait(Duration::from_micros(10)).expect("poll"), 0);
        assert_eq!(set.ready(place), Ready::Nothing);
    }
}
