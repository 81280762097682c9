//! Who owns which frame.
//!
//! A frame is in exactly one place: a ring of a socket, a hand-over ring, somebody's hold, a worker's
//! [`FramePool`], or the shared [`Depot`]. The sum over all places is the number of frames of the UMEM,
//! always. Frames migrate between workers with hand-over; pools level that out by trading batches of
//! [`BATCH`] frames through the depot, so the cost of sharing is one queue operation per 64 frames.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrayvec::ArrayVec;
use crossbeam::queue::ArrayQueue;

use crate::umem::Frames;

/// Bytes of one frame of the UMEM. A power of two, so an address splits into frame and offset.
pub const FRAME_SIZE: u32 = 2048;

/// Bytes the kernel keeps free before a received packet (`XDP_PACKET_HEADROOM`, `linux/bpf.h`).
pub const FRAME_HEADROOM: u32 = 256;

/// The longest L2 frame that can be received, in bytes, without FCS.
pub const FRAME_LEN_MAX: u32 = FRAME_SIZE - FRAME_HEADROOM;

/// The shortest L2 frame that may be sent, in bytes: an Ethernet header.
pub const FRAME_LEN_MIN: u32 = 14;

/// The largest MTU a device of ours may have: [`FRAME_LEN_MAX`] less Ethernet and two VLAN tags.
pub const MTU_MAX: u32 = FRAME_LEN_MAX - FRAME_LEN_MIN - 8;

/// Frames traded at once between a [`FramePool`] and the [`Depot`].
pub const BATCH: usize = 64;

const _: () = assert!(FRAME_SIZE.is_power_of_two(), "aligned chunks are powers of two");
const _: () = assert!(FRAME_SIZE <= 4096, "a chunk of the UMEM fits a page");
const _: () = assert!(MTU_MAX >= 1500, "plain Ethernet must fit");

/// A frame of the UMEM: whoever holds this value owns the frame's bytes.
///
/// Not `Copy`, not `Clone`; each number exists once in a process, so two holders cannot be written
/// down. Dropping one loses the frame until the process ends: give it to a [`FramePool`] instead.
#[derive(PartialEq, Eq)]
#[must_use = "a dropped frame is lost; give it back to a pool"]
pub struct FrameIdx(u32);

impl FrameIdx {
    /// Makes the owner of frame `number`.
    ///
    /// # Safety
    /// No other `FrameIdx` with this number may exist, now or until this one is given up, and the
    /// kernel must not hold the frame either.
    pub(crate) const unsafe fn own(number: u32) -> Self {
        Self(number)
    }

    /// The frame's number, unique among all UMEMs of this process. For diagnostics.
    pub const fn number(&self) -> u32 {
        self.0
    }
}

impl fmt::Debug for FrameIdx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "frame {}", self.0)
    }
}

/// A frame and the part of it that is the L2 frame: what rx gives and tx takes.
///
/// Invariant: `offset + len <= FRAME_SIZE` and `len >= FRAME_LEN_MIN`. The kernel swallows tx
/// descriptors that break this, and the frame with them.
#[derive(PartialEq, Eq, Debug)]
#[must_use = "a dropped frame is lost; give it back to a pool"]
pub struct FrameSpan {
    frame: FrameIdx,
    offset: u16,
    len: u16,
}

impl FrameSpan {
    /// The bytes `offset .. offset + len` of `frame`.
    ///
    /// # Errors
    /// Gives `frame` back if the span does not lie within it or is shorter than [`FRAME_LEN_MIN`].
    #[inline]
    pub fn new(frame: FrameIdx, offset: u32, len: u32) -> Result<Self, FrameIdx> {
        if !(FRAME_LEN_MIN..=FRAME_SIZE).contains(&len) || offset > FRAME_SIZE - len {
            return Err(frame);
        }
        // Both are at most FRAME_SIZE here, so the casts keep the value.
        Ok(Self { frame, offset: offset as u16, len: len as u16 })
    }

    /// Where the L2 frame starts, in bytes from the start of the UMEM frame.
    #[inline]
    pub const fn offset(&self) -> u32 {
        self.offset as u32
    }

    /// Length of the L2 frame in bytes; never zero.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "a span is never empty")]
    pub const fn len(&self) -> u32 {
        self.len as u32
    }

    /// The frame the span lies in.
    #[inline]
    pub const fn frame(&self) -> &FrameIdx {
        &self.frame
    }

    /// The frame the span lies in, with the right to its bytes.
    #[inline]
    pub const fn frame_mut(&mut self) -> &mut FrameIdx {
        &mut self.frame
    }

    /// The whole frame again.
    #[inline]
    pub fn into_frame(self) -> FrameIdx {
        self.frame
    }
}

type Batch = ArrayVec<FrameIdx, BATCH>;

/// Where pools put what they have too much of and find what they lack. Shared by all workers.
pub struct Depot {
    batches: ArrayQueue<Batch>,
    /// Frames inside `batches`. Raised before a push and lowered after a pop, so never less than there are.
    held: AtomicUsize,
    /// Frames of the UMEM this depot was filled with.
    total: usize,
}

impl Depot {
    /// A depot that holds all frames of a UMEM.
    pub fn new(frames: Frames) -> Arc<Self> {
        let total = frames.len();
        // Twice the batches that can be full at once, for the partial ones that dropped pools leave.
        let batches = ArrayQueue::new((total / BATCH + 1) * 2 + 64);
        let depot = Self { batches, held: AtomicUsize::new(0), total };
        let mut batch = Batch::new();
        for frame in frames {
            batch.push(frame);
            if batch.is_full() {
                depot.put(std::mem::take(&mut batch)).expect("the queue has room for every frame");
            }
        }
        if !batch.is_empty() {
            depot.put(batch).expect("the queue has room for every frame");
        }
        Arc::new(depot)
    }

    /// Frames in the depot. Exact when no pool is trading.
    pub fn len(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    /// Whether there is nothing to take.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Frames of the UMEM: what the sum over all places must be.
    pub const fn total(&self) -> usize {
        self.total
    }

    /// Gives the batch back if the queue is full.
    #[expect(clippy::result_large_err, reason = "frames are moved, never boxed")]
    fn put(&self, batch: Batch) -> Result<(), Batch> {
        let frames = batch.len();
        self.held.fetch_add(frames, Ordering::AcqRel);
        let put = self.batches.push(batch);
        if put.is_err() {
            self.held.fetch_sub(frames, Ordering::AcqRel);
        }
        put
    }

    fn get(&self) -> Option<Batch> {
        let batch = self.batches.pop()?;
        self.held.fetch_sub(batch.len(), Ordering::AcqRel);
        Some(batch)
    }
}

impl fmt::Debug for Depot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "depot of {} of {} frames", self.len(), self.total)
    }
}

/// How many free frames a worker keeps for itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marks {
    /// Below this many the pool asks the depot for a batch.
    pub low: usize,
    /// From this many on the pool gives a batch to the depot. At least `low + 2 * BATCH`.
    pub high: usize,
}

impl Default for Marks {
    fn default() -> Self {
        Self { low: 2 * BATCH, high: 8 * BATCH }
    }
}

/// One worker's free frames: a stack, kept between two marks by trading with the depot.
///
/// A UMEM needs, for no worker ever to starve while another is full: the sizes of all fill and tx
/// rings, plus `high` per worker, plus what is held or under way between workers.
pub struct FramePool {
    free: Vec<FrameIdx>,
    depot: Arc<Depot>,
    marks: Marks,
}

impl FramePool {
    /// An empty pool on `depot`; the first [`take`](Self::take) brings frames.
    ///
    /// # Panics
    /// If the marks are closer together than two batches: the pool would trade on every packet.
    pub fn new(depot: &Arc<Depot>, marks: Marks) -> Self {
        assert!(marks.high >= marks.low + 2 * BATCH, "marks must be two batches apart");
        // Room for every frame, so that a pool never allocates, whatever the depot answers.
        let free = Vec::with_capacity(depot.total());
        Self { free, depot: Arc::clone(depot), marks }
    }

    /// A free frame, or `None` when the pool and the depot are both empty.
    #[inline]
    pub fn take(&mut self) -> Option<FrameIdx> {
        if let Some(frame) = self.free.pop() {
            return Some(frame);
        }
        self.fetch();
        self.free.pop()
    }

    /// Gives a frame back.
    #[inline]
    pub fn give(&mut self, frame: FrameIdx) {
        self.free.push(frame);
        if self.free.len() >= self.marks.high {
            self.surrender();
        }
    }

    /// Brings the pool above its low mark if the depot can. Once a burst is enough.
    #[inline]
    pub fn balance(&mut self) {
        if self.free.len() < self.marks.low {
            self.fetch();
        }
    }

    /// Free frames in this pool.
    #[inline]
    pub fn len(&self) -> usize {
        self.free.len()
    }

    /// Whether this pool (not the depot) is empty.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.free.is_empty()
    }

    #[cold]
    fn fetch(&mut self) {
        if let Some(batch) = self.depot.get() {
            self.free.extend(batch);
        }
    }

    #[cold]
    fn surrender(&mut self) {
        let start = self.free.len() - BATCH;
        let batch = self.free.drain(start..).collect();
        if let Err(batch) = self.depot.put(batch) {
            self.free.extend(batch);
        }
    }
}

impl Drop for FramePool {
    /// Leaves the frames to the others.
    fn drop(&mut self) {
        while !self.free.is_empty() {
            let start = self.free.len().saturating_sub(BATCH);
            if self.depot.put(self.free.drain(start..).collect()).is_err() {
                return;
            }
        }
    }
}

impl fmt::Debug for FramePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pool of {} frames, {:?}, {:?}", self.free.len(), self.marks, self.depot)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::umem::Umem;

    #[derive(Clone, Debug)]
    enum Op {
        Take { pool: usize, count: usize },
        Give { pool: usize, count: usize },
        Balance { pool: usize },
        Drop { pool: usize },
    }

    fn op() -> impl Strategy<Value = Op> {
        let pool = 0usize..3;
        prop_oneof![
            4 => (pool.clone(), 1usize..300).prop_map(|(pool, count)| Op::Take { pool, count }),
            4 => (pool.clone(), 1usize..300).prop_map(|(pool, count)| Op::Give { pool, count }),
            1 => pool.clone().prop_map(|pool| Op::Balance { pool }),
            1 => pool.prop_map(|pool| Op::Drop { pool }),
        ]
    }

    proptest! {
        /// Whatever workers do, in whichever order, every frame is in exactly one place.
        #[test]
        fn frames_are_neither_lost_nor_doubled(
            frames in 1u32..1500,
            ops in prop::collection::vec(op(), 1..60),
        ) {
            let (_umem, all) = Umem::new(frames).expect("memory");
            let depot = Depot::new(all);
            let marks = Marks { low: BATCH, high: 3 * BATCH };
            let mut pools: [FramePool; 3] = std::array::from_fn(|_| FramePool::new(&depot, marks));
            let capacity = pools[0].free.capacity();
            let mut held: Vec<FrameIdx> = Vec::new();
            for op in ops {
                match op {
                    Op::Take { pool, count } => {
                        held.extend(std::iter::from_fn(|| pools[pool].take()).take(count));
                    }
                    Op::Give { pool, count } => {
                        let start = held.len().saturating_sub(count);
                        held.drain(start..).for_each(|frame| pools[pool].give(frame));
                    }
                    Op::Balance { pool } => pools[pool].balance(),
                    Op::Drop { pool } => pools[pool] = FramePool::new(&depot, marks),
                }
                let pooled: usize = pools.iter().map(FramePool::len).sum();
                prop_assert_eq!(pooled + depot.len() + held.len(), depot.total());
                for pool in &pools {
                    prop_assert!(pool.len() < marks.high, "above its mark");
                    prop_assert_eq!(pool.free.capacity(), capacity, "a pool allocated");
                }
            }
            drop(pools);
            let mut last = FramePool::new(&depot, marks);
            held.extend(std::iter::from_fn(|| last.take()));
            let numbers: HashSet<u32> = held.iter().map(FrameIdx::number).collect();
            prop_assert_eq!(numbers.len(), frames as usize);
        }
    }

    #[test]
    fn frames_migrate_between_threads_and_none_is_lost() {
        const TURNS: usize = 20_000;
        let (umem, all) = Umem::new(1024).expect("memory");
        let depot = Depot::new(all);
        let (sender, receiver) = crossbeam::channel::bounded::<FrameIdx>(256);
        let marks = Marks { low: BATCH, high: 4 * BATCH };
        let source = std::thread::spawn({
            let (umem, depot) = (Arc::clone(&umem), Arc::clone(&depot));
            move || {
                let mut pool = FramePool::new(&depot, marks);
                for turn in 0..TURNS {
                    let mut frame = loop {
                        match pool.take() {
                            Some(frame) => break frame,
                            None => std::thread::yield_now(),
                        }
                    };
                    umem.bytes(&mut frame)[..8].copy_from_slice(&turn.to_ne_bytes());
                    sender.send(frame).expect("the sink runs until the end");
                }
            }
        });
        let mut pool = FramePool::new(&depot, marks);
        for turn in 0..TURNS {
            let frame = receiver.recv().expect("the source runs until the end");
            assert_eq!(umem.peek(&frame)[..8], turn.to_ne_bytes());
            pool.give(frame);
        }
        source.join().expect("the source does not panic");
        drop(pool);
        assert_eq!(depot.len(), depot.total());
    }

    #[test]
    fn a_span_lies_within_its_frame() {
        let (umem, mut all) = Umem::new(1).expect("memory");
        let mut frame = all.next().expect("one frame");
        assert!(all.next().is_none());
        let cases = [
            (0, FRAME_LEN_MIN, true),
            (0, FRAME_LEN_MIN - 1, false),
            (0, FRAME_SIZE, true),
            (1, FRAME_SIZE, false),
            (0, FRAME_SIZE + 1, false),
            (FRAME_SIZE - 14, 14, true),
            (FRAME_SIZE - 13, 14, false),
            (u32::MAX, 14, false),
            (14, u32::MAX, false),
        ];
        for (offset, len, accepted) in cases {
            frame = match FrameSpan::new(frame, offset, len) {
                Ok(mut span) => {
                    assert!(accepted, "{offset} {len}");
                    assert_eq!(umem.packet(&mut span).len(), len as usize);
                    span.into_frame()
                }
                Err(frame) => {
                    assert!(!accepted, "{offset} {len}");
                    frame
                }
            };
        }
    }

    #[test]
    #[should_panic(expected = "a frame of another UMEM")]
    fn a_frame_of_another_umem_is_noticed() {
        let (_one, mut frames) = Umem::new(4).expect("memory");
        let (other, _frames) = Umem::new(4).expect("memory");
        let _ = other.bytes(&mut frames.next().expect("a frame"));
    }

    #[test]
    fn an_address_outside_every_frame_is_refused() {
        let (umem, all) = Umem::new(4).expect("memory");
        let size = u64::from(FRAME_SIZE);
        for (index, frame) in all.enumerate() {
            let address = umem.surrender(frame);
            assert_eq!(address, index as u64 * size);
            // SAFETY: the frame was surrendered above and is claimed once.
            let (frame, offset) = unsafe { umem.claim(address + 7) }.expect("a frame of ours");
            assert_eq!(offset, 7);
            assert_eq!(umem.surrender(frame), address);
        }
        for address in [4 * size, 4 * size + 1, u64::MAX] {
            // SAFETY: no frame is there, so none is claimed.
            assert!(unsafe { umem.claim(address) }.is_none());
        }
    }
}
