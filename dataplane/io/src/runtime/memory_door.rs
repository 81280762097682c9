//! Doors in memory: what tests and benchmarks put where AF_XDP sockets and TAPs would be.
//!
//! A [`MemoryDoor`] behaves as a queue does: packets are received into frames it was given before, sent
//! frames come back by [`Door::reclaim`], its rings have ends, and its device can go away. The other end of
//! each is a [`Wire`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrayvec::ArrayVec;
use rtrb::{Consumer, Producer, RingBuffer};

use super::door::{Door, HostDoor};
use crate::frame::{FRAME_HEADROOM, FRAME_LEN_MAX, FrameIdx, FramePool, FrameSpan};
use crate::umem::Umem;
use crate::wait::Wake;
use crate::xdp::socket::{Kick, SocketError};

type Bytes = ArrayVec<u8, { FRAME_LEN_MAX as usize }>;

/// What both ends of a door share.
struct Line {
    wake: Wake,
    /// Whether the door was rung and has not yet found its ring empty.
    rung: AtomicBool,
    gone: AtomicBool,
}

/// The far end of a door: sends packets to it, and takes what it sent.
pub struct Wire {
    to: Producer<Bytes>,
    from: Consumer<Bytes>,
    line: Arc<Line>,
}

impl Wire {
    /// Sends a packet to the door; `false` if its ring is full.
    ///
    /// # Panics
    /// If the packet does not fit a frame.
    pub fn send(&mut self, packet: &[u8]) -> bool {
        let bytes = Bytes::try_from(packet).expect("a packet that fits a frame");
        let sent = self.to.push(bytes).is_ok();
        if sent && !self.line.rung.swap(true, Ordering::AcqRel) {
            self.line.wake.ring();
        }
        sent
    }

    /// Packets sent to the door that it has not received yet.
    pub fn unread(&self) -> usize {
        self.to.buffer().capacity() - self.to.slots()
    }

    /// Takes the next packet that the door sent.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        self.from.pop().ok().map(|bytes| bytes.to_vec())
    }

    /// Takes all packets that the door sent; returns how many.
    pub fn drain(&mut self, mut each: impl FnMut(&[u8])) -> usize {
        let mut count = 0;
        while let Ok(bytes) = self.from.pop() {
            each(&bytes);
            count += 1;
        }
        count
    }

    /// Takes the device away.
    pub fn unplug(&self) {
        self.line.gone.store(true, Ordering::Release);
    }
}

/// The near end of either kind.
struct End {
    to: Producer<Bytes>,
    from: Consumer<Bytes>,
    line: Arc<Line>,
}

impl End {
    /// A line with rings of `depth` packets.
    fn pair(depth: usize) -> io::Result<(Self, Wire)> {
        let line = Arc::new(Line {
            wake: Wake::new()?,
            rung: AtomicBool::new(false),
            gone: AtomicBool::new(false),
        });
        let (to, from_near) = RingBuffer::new(depth);
        let (to_near, from) = RingBuffer::new(depth);
        let wire = Wire { to: to_near, from: from_near, line: Arc::clone(&line) };
        Ok((Self { to, from, line }, wire))
    }

    /// Gives up to `max` packets to `take`; the bell is silenced when none is left.
    fn receive(&mut self, max: usize, mut take: impl FnMut(&[u8])) -> usize {
        if self.from.is_empty() && self.line.rung.swap(false, Ordering::AcqRel) {
            self.line.wake.clear();
        }
        let count = self.from.slots().min(max);
        let Ok(chunk) = self.from.read_chunk(count) else { return 0 };
        let (first, second) = chunk.as_slices();
        first.iter().chain(second).for_each(|bytes| take(bytes));
        chunk.commit_all();
        count
    }
}

/// A queue in memory.
pub struct MemoryDoor {
    end: End,
    umem: Arc<Umem>,
    fill: Vec<FrameIdx>,
    sending: Vec<FrameSpan>,
    sent: Vec<FrameIdx>,
    depth: usize,
}

/// A queue in memory with rings of `depth` packets, and its far end.
///
/// # Errors
/// What eventfd said.
pub fn memory_door(umem: &Arc<Umem>, depth: usize) -> io::Result<(MemoryDoor, Wire)> {
    let (end, wire) = End::pair(depth)?;
    let door = MemoryDoor {
        end,
        umem: Arc::clone(umem),
        fill: Vec::with_capacity(depth),
        sending: Vec::with_capacity(depth),
        sent: Vec::with_capacity(depth),
        depth,
    };
    Ok((door, wire))
}

impl MemoryDoor {
    fn check(&self) -> Result<(), SocketError> {
        let gone = self.end.line.gone.load(Ordering::Acquire);
        if gone { Err(SocketError::DeviceGone) } else { Ok(()) }
    }
}

impl Door for MemoryDoor {
    fn receive(&mut self, max: u32, mut out: impl FnMut(FrameSpan)) -> Result<u32, SocketError> {
        self.check()?;
        let Self { end, umem, fill, .. } = self;
        let max = (max as usize).min(fill.len());
        let count = end.receive(max, |bytes| {
            let Some(mut frame) = fill.pop() else { return };
            umem.bytes(&mut frame)[FRAME_HEADROOM as usize..][..bytes.len()].copy_from_slice(bytes);
            match FrameSpan::new(frame, FRAME_HEADROOM, bytes.len() as u32) {
                Ok(span) => out(span),
                Err(frame) => fill.push(frame), // a runt: a device would not have received it
            }
        });
        Ok(count as u32)
    }

    fn refill(&mut self, pool: &mut FramePool) -> u32 {
        pool.balance();
        let before = self.fill.len();
        while self.fill.len() < self.depth
            && let Some(frame) = pool.take()
        {
            self.fill.push(frame);
        }
        (self.fill.len() - before) as u32
    }

    fn transmit(&mut self, batch: &mut Vec<FrameSpan>) -> u32 {
        let room = self.depth - self.sending.len() - self.sent.len();
        let count = batch.len().min(room);
        self.sending.extend(batch.drain(..count));
        count as u32
    }

    fn kick(&mut self) -> Result<Kick, SocketError> {
        self.check()?;
        let Self { end, umem, sending, sent, .. } = self;
        let room = end.to.slots().min(sending.len());
        for mut span in sending.drain(..room) {
            let bytes = Bytes::try_from(&*umem.packet(&mut span)).unwrap_or_default();
            let _ = end.to.push(bytes); // there is room: it was asked for above
            sent.push(span.into_frame());
        }
        Ok(Kick::Done)
    }

    fn reclaim(&mut self, pool: &mut FramePool) -> Result<u32, SocketError> {
        let count = self.sent.len();
        self.sent.drain(..).for_each(|frame| pool.give(frame));
        if !self.sending.is_empty() {
            self.kick()?; // a device goes on by itself when the line is free again
        }
        Ok(count as u32)
    }

    fn waiting(&self) -> u32 {
        if self.fill.is_empty() { 0 } else { self.end.from.slots() as u32 }
    }

    fn frames_in_kernel(&self) -> u32 {
        (self.fill.len() + self.sending.len() + self.sent.len()) as u32
    }

    fn poll_fd(&self) -> BorrowedFd<'_> {
        self.end.line.wake.as_fd()
    }
}

/// A TAP in memory.
pub struct MemoryTap {
    end: End,
}

/// A TAP in memory with rings of `depth` packets, and the host's end.
///
/// # Errors
/// What eventfd said.
pub fn memory_tap(depth: usize) -> io::Result<(MemoryTap, Wire)> {
    let (end, wire) = End::pair(depth)?;
    Ok((MemoryTap { end }, wire))
}

impl HostDoor for MemoryTap {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        if self.end.line.gone.load(Ordering::Acquire) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let mut len = 0;
        let count = self.end.receive(1, |bytes| {
            len = bytes.len();
            buffer[..len].copy_from_slice(bytes);
        });
        Ok((count > 0).then_some(len))
    }

    fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        let bytes = Bytes::try_from(frame).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.end.to.push(bytes).map_err(|_| io::ErrorKind::WouldBlock.into())
    }

    fn poll_fd(&self) -> BorrowedFd<'_> {
        self.end.line.wake.as_fd()
    }
}
