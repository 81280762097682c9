//! The frame memory: one for all interfaces and workers.
//!
//! A packet is received into a frame of this memory, rewritten there and sent from there, whichever
//! interface it leaves by and whichever worker owns its connection.

use std::io;
use std::iter::FusedIterator;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::frame::{FRAME_SIZE, FrameIdx, FrameSpan};
use crate::memory::{Mapping, Pages, map_memfd};

/// Why there is no UMEM.
#[derive(Debug, thiserror::Error)]
pub enum UmemError {
    /// A UMEM has 1 ..= 2^24 frames (32 GiB).
    #[error("a UMEM of {0} frames: allowed are 1 to 16777216")]
    FrameCount(u32),
    /// This process has numbered 2^32 frames in its life.
    #[error("frame numbers are used up")]
    NumbersUsedUp,
    /// The memory could not be had.
    #[error("frame memory: {0}")]
    Memory(#[from] io::Error),
}

/// The frame memory of the appliance.
///
/// Frame numbers of all UMEMs of a process are disjoint: a frame of one is never taken for a frame of
/// another, and the check for that is the bounds check.
#[derive(Debug)]
pub struct Umem {
    map: Mapping,
    fd: OwnedFd,
    pages: Pages,
    first: u32,
    frames: u32,
}

const FRAMES_MAX: u32 = 1 << 24;

/// The number the next UMEM starts with.
static NEXT_NUMBER: AtomicU32 = AtomicU32::new(0);

impl Umem {
    /// A UMEM of `frames` frames of [`FRAME_SIZE`] bytes, and all its frames: the only place where
    /// frames come into being.
    ///
    /// # Errors
    /// [`UmemError`]; `Memory` holds what memfd_create or mmap said.
    pub fn new(frames: u32) -> Result<(Arc<Self>, Frames), UmemError> {
        if frames == 0 || frames > FRAMES_MAX {
            return Err(UmemError::FrameCount(frames));
        }
        let (map, fd, pages) = map_memfd("postern-umem", frames as usize * FRAME_SIZE as usize)?;
        let first = NEXT_NUMBER
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |first| first.checked_add(frames))
            .map_err(|_| UmemError::NumbersUsedUp)?;
        let umem = Self { map, fd, pages, first, frames };
        Ok((Arc::new(umem), Frames { numbers: first..first + frames }))
    }

    /// Frames of this UMEM.
    pub const fn frames(&self) -> u32 {
        self.frames
    }

    /// What kind of pages the memory got.
    pub const fn pages(&self) -> Pages {
        self.pages
    }

    /// All bytes of a frame, to read and write.
    ///
    /// # Panics
    /// If the frame is of another UMEM.
    #[inline]
    pub fn bytes<'a>(&'a self, frame: &'a mut FrameIdx) -> &'a mut [u8] {
        let base = self.locate(frame);
        // SAFETY: `locate` keeps the range inside the mapping, which lives as long as `self`. The
        // only `FrameIdx` of this number is borrowed mutably for as long as the slice lives: nobody
        // else has a reference, and the kernel holds only frames whose `FrameIdx` was consumed.
        unsafe { slice::from_raw_parts_mut(base.as_ptr(), FRAME_SIZE as usize) }
    }

    /// All bytes of a frame, to read.
    ///
    /// # Panics
    /// If the frame is of another UMEM.
    #[inline]
    pub fn peek<'a>(&'a self, frame: &'a FrameIdx) -> &'a [u8] {
        let base = self.locate(frame);
        // SAFETY: as in `bytes`; `&FrameIdx` is shared, so is the slice, and `bytes` needs it whole.
        unsafe { slice::from_raw_parts(base.as_ptr(), FRAME_SIZE as usize) }
    }

    /// The L2 frame in `span`, to read and write.
    ///
    /// # Panics
    /// If the frame is of another UMEM.
    #[inline]
    pub fn packet<'a>(&'a self, span: &'a mut FrameSpan) -> &'a mut [u8] {
        let (start, len) = (span.offset() as usize, span.len() as usize);
        &mut self.bytes(span.frame_mut())[start..start + len]
    }

    /// Asks the processor to have the first lines of a packet at hand soon.
    #[inline]
    pub fn prefetch(&self, span: &FrameSpan) {
        let base = self.locate(span.frame());
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch reads nothing and cannot fault; the offset is inside the frame.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(base.as_ptr().add(span.offset() as usize).cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = base;
    }

    #[inline]
    fn locate(&self, frame: &FrameIdx) -> NonNull<u8> {
        let index = frame.number().wrapping_sub(self.first);
        assert!(index < self.frames, "a frame of another UMEM");
        // SAFETY: index < frames, so the byte is inside the mapping of frames * FRAME_SIZE bytes.
        unsafe { self.map.base().add(index as usize * FRAME_SIZE as usize) }
    }

    /// Gives a frame up, to the kernel: its address as the rings have it.
    #[inline]
    pub(crate) fn surrender(&self, frame: FrameIdx) -> u64 {
        let index = frame.number().wrapping_sub(self.first);
        assert!(index < self.frames, "a frame of another UMEM");
        u64::from(index) * u64::from(FRAME_SIZE)
    }

    /// Takes a frame back from the kernel: the frame at `address` and the offset into it, or `None`
    /// if no frame is there.
    ///
    /// # Safety
    /// `address` must have just come from an rx or completion ring bound to this memory, once.
    #[inline]
    pub(crate) unsafe fn claim(&self, address: u64) -> Option<(FrameIdx, u32)> {
        let index = address / u64::from(FRAME_SIZE);
        let offset = address % u64::from(FRAME_SIZE);
        if index >= u64::from(self.frames) {
            return None;
        }
        // SAFETY: the frame was surrendered when it went into a ring, so no `FrameIdx` of its number
        // is left; the kernel gives each address back once (the caller's promise).
        let frame = unsafe { FrameIdx::own(self.first + index as u32) };
        Some((frame, offset as u32))
    }

    /// Where the memory begins and how long it is, for `XDP_UMEM_REG`.
    pub(crate) fn region(&self) -> (u64, u64) {
        let bytes = u64::from(self.frames) * u64::from(FRAME_SIZE);
        (self.map.base().as_ptr().expose_provenance() as u64, bytes)
    }
}

impl AsFd for Umem {
    /// The memfd behind the memory, for a hand-over to a successor.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// All frames of a new UMEM, each once. Give them to a [`Depot`](crate::frame::Depot).
#[derive(Debug)]
pub struct Frames {
    numbers: Range<u32>,
}

impl Iterator for Frames {
    type Item = FrameIdx;

    fn next(&mut self) -> Option<FrameIdx> {
        let number = self.numbers.next()?;
        // SAFETY: the range belongs to one UMEM alone and each of its numbers is given out once.
        Some(unsafe { FrameIdx::own(number) })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.numbers.size_hint()
    }
}

impl ExactSizeIterator for Frames {}
impl FusedIterator for Frames {}
