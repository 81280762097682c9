//! What the runtime asks of the ends it carries packets between: a device's queue, a host's TAP.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crate::frame::{FramePool, FrameSpan};
use crate::tap::Tap;
use crate::xdp::socket::{Kick, Socket, SocketError};

/// One queue of one device. [`Socket`] is the real one, [`MemoryDoor`](super::MemoryDoor) the one that
/// tests and benchmarks use; the contract on frames is [`Socket`]'s.
pub trait Door: Send + 'static {
    /// See [`Socket::receive`].
    ///
    /// # Errors
    /// See [`SocketError`].
    fn receive(&mut self, max: u32, out: impl FnMut(FrameSpan)) -> Result<u32, SocketError>;
    /// See [`Socket::refill`].
    fn refill(&mut self, pool: &mut FramePool) -> u32;
    /// See [`Socket::transmit`].
    fn transmit(&mut self, batch: &mut Vec<FrameSpan>) -> u32;
    /// See [`Socket::kick`].
    ///
    /// # Errors
    /// See [`SocketError`].
    fn kick(&mut self) -> Result<Kick, SocketError>;
    /// See [`Socket::reclaim`].
    ///
    /// # Errors
    /// See [`SocketError`].
    fn reclaim(&mut self, pool: &mut FramePool) -> Result<u32, SocketError>;
    /// See [`Socket::waiting`].
    fn waiting(&self) -> u32;
    /// See [`Socket::frames_in_kernel`].
    fn frames_in_kernel(&self) -> u32;
    /// Readable when a packet waits.
    fn poll_fd(&self) -> BorrowedFd<'_>;
}

impl Door for Socket {
    #[inline]
    fn receive(&mut self, max: u32, out: impl FnMut(FrameSpan)) -> Result<u32, SocketError> {
        Self::receive(self, max, out)
    }
    #[inline]
    fn refill(&mut self, pool: &mut FramePool) -> u32 {
        Self::refill(self, pool)
    }
    #[inline]
    fn transmit(&mut self, batch: &mut Vec<FrameSpan>) -> u32 {
        Self::transmit(self, batch)
    }
    #[inline]
    fn kick(&mut self) -> Result<Kick, SocketError> {
        Self::kick(self)
    }
    #[inline]
    fn reclaim(&mut self, pool: &mut FramePool) -> Result<u32, SocketError> {
        Self::reclaim(self, pool)
    }
    #[inline]
    fn waiting(&self) -> u32 {
        Self::waiting(self)
    }
    #[inline]
    fn frames_in_kernel(&self) -> u32 {
        Self::frames_in_kernel(self)
    }
    fn poll_fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }
}

/// The host's side of one interface: [`Tap`], or [`MemoryTap`](super::MemoryTap) in tests. Never blocks.
pub trait HostDoor: Send + 'static {
    /// See [`Tap::read`].
    ///
    /// # Errors
    /// See [`Tap::read`].
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>>;
    /// See [`Tap::write`].
    ///
    /// # Errors
    /// See [`Tap::write`]; `WouldBlock` when the host is too slow.
    fn write(&mut self, frame: &[u8]) -> io::Result<()>;
    /// Readable when the host has something to send.
    fn poll_fd(&self) -> BorrowedFd<'_>;
}

impl HostDoor for Tap {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        Self::read(self, buffer)
    }
    fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        Self::write(self, frame)
    }
    fn poll_fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }
}
