//! Ring arithmetic: two free-running 32-bit cursors and a power of two of entries between them.
//!
//! Mirrors `xsk_ring_prod` and `xsk_ring_cons` of the kernel's uapi contract (`net/xdp/xsk_queue.h`,
//! comment "The structure of the shared state of the rings"). Each cursor has one writer, so a plain
//! load of one's own cursor and a release store suffice. Nothing is cached between calls: the mapping
//! is the truth, and a successor that maps the same ring carries on where this process stopped.

use std::cell::UnsafeCell;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::abi::{XDP_RING_NEED_WAKEUP, XdpDesc, XdpRingOffset};
use crate::memory::Mapping;

mod sealed {
    /// Entries of rings: plain data for which any bytes are a value.
    pub trait Entry: Copy + Default + Send + 'static {}
    impl Entry for u64 {}
    impl Entry for super::XdpDesc {}
}
use sealed::Entry;

/// A ring: where its parts are, and what keeps them there.
struct Ring<T: Entry> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    size: u32,
    _memory: Memory<T>,
}

/// What the pointers of a [`Ring`] point into. Only held, to be dropped with the ring.
#[expect(dead_code, reason = "held for its drop")]
enum Memory<T: Entry> {
    Kernel(Mapping),
    Ordinary(Arc<Ordinary<T>>),
}

/// A ring in ordinary memory, for tests: what the kernel would have allocated.
struct Ordinary<T> {
    producer: AtomicU32,
    consumer: AtomicU32,
    flags: AtomicU32,
    entries: Box<[UnsafeCell<T>]>,
}

// SAFETY: the entries are reached through one `Producer` and one `Consumer` only, which take turns
// with each entry by the cursors' release and acquire.
unsafe impl<T: Entry> Sync for Ordinary<T> {}
// SAFETY: entries are plain data.
unsafe impl<T: Entry> Send for Ordinary<T> {}
// SAFETY: the pointers lead into `_memory`, which moves with the ring and is valid in any thread.
unsafe impl<T: Entry> Send for Ring<T> {}

impl<T: Entry> Ring<T> {
    /// A ring in a mapping of the kernel's. The caller maps the ring that `offsets` speak of, whole.
    fn of_kernel(map: Mapping, offsets: &XdpRingOffset, size: u32) -> io::Result<Self> {
        let place = |offset: u64, bytes: usize, align: usize| {
            let start = usize::try_from(offset).ok()?;
            let end = start.checked_add(bytes)?;
            // SAFETY: the offset is inside the mapping.
            (end <= map.bytes() && start.is_multiple_of(align))
                .then(|| unsafe { map.base().add(start) })
        };
        let cursor = |offset| place(offset, 4, 4).map(NonNull::cast::<AtomicU32>);
        let entries = place(offsets.desc, size as usize * size_of::<T>(), align_of::<T>());
        let (Some(producer), Some(consumer), Some(flags), Some(entries), true) = (
            cursor(offsets.producer),
            cursor(offsets.consumer),
            cursor(offsets.flags),
            entries,
            size.is_power_of_two(),
        ) else {
            return Err(io::Error::other("ring offsets do not fit the ring's mapping"));
        };
        let entries = entries.cast();
        Ok(Self { producer, consumer, flags, entries, size, _memory: Memory::Kernel(map) })
    }

    fn of_ordinary(memory: &Arc<Ordinary<T>>) -> Self {
        let entries = memory.entries.as_ptr().cast::<T>().cast_mut();
        Self {
            producer: NonNull::from(&memory.producer),
            consumer: NonNull::from(&memory.consumer),
            flags: NonNull::from(&memory.flags),
            entries: NonNull::new(entries).expect("a box is not null"),
            size: memory.entries.len() as u32,
            _memory: Memory::Ordinary(Arc::clone(memory)),
        }
    }

    #[inline]
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: inside `_memory` and aligned (`of_kernel`); the kernel too treats it as atomic.
        unsafe { self.producer.as_ref() }
    }

    #[inline]
    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as for `producer`.
        unsafe { self.consumer.as_ref() }
    }

    #[inline]
    fn flags(&self) -> &AtomicU32 {
        // SAFETY: as for `producer`.
        unsafe { self.flags.as_ref() }
    }

    /// Where the entry of a cursor value is.
    #[inline]
    fn entry(&self, cursor: u32) -> NonNull<T> {
        // SAFETY: masked to the ring's size, so inside `_memory`.
        unsafe { self.entries.add((cursor & (self.size - 1)) as usize) }
    }

    /// Entries written and not yet read. A peer that breaks the rules cannot make it exceed the size.
    #[inline]
    fn distance(&self, producer: u32, consumer: u32) -> u32 {
        let filled = producer.wrapping_sub(consumer);
        debug_assert!(filled <= self.size, "cursors {producer} and {consumer} are too far apart");
        filled.min(self.size)
    }

    #[inline]
    fn needs_wakeup(&self) -> bool {
        self.flags().load(Ordering::Relaxed) & XDP_RING_NEED_WAKEUP != 0
    }
}

/// Our end of a fill or tx ring.
pub struct Producer<T: Entry>(Ring<T>);

impl<T: Entry> Producer<T> {
    pub(crate) fn of_kernel(map: Mapping, offsets: &XdpRingOffset, size: u32) -> io::Result<Self> {
        Ring::of_kernel(map, offsets, size).map(Self)
    }

    /// Entries that can be written now.
    #[inline]
    pub fn free(&self) -> u32 {
        let ring = &self.0;
        // Acquire: the consumer has finished reading the entries it gave back.
        let consumer = ring.consumer().load(Ordering::Acquire);
        ring.size - ring.distance(ring.producer().load(Ordering::Relaxed), consumer)
    }

    /// Entries written that the consumer has not taken yet.
    #[inline]
    pub fn pending(&self) -> u32 {
        self.0.size - self.free()
    }

    /// Whether the kernel waits for a system call before it looks at the ring.
    #[inline]
    pub fn needs_wakeup(&self) -> bool {
        self.0.needs_wakeup()
    }

    /// Writes what `next` gives, until it gives `None` or the ring is full, and publishes all of it
    /// with one release store. `next` is not asked for an entry there is no room for. Returns how many.
    #[inline]
    pub fn produce(&mut self, mut next: impl FnMut() -> Option<T>) -> u32 {
        let free = self.free();
        let ring = &self.0;
        let start = ring.producer().load(Ordering::Relaxed);
        let mut written = 0;
        while written < free {
            let Some(value) = next() else { break };
            // SAFETY: the entry is inside the memory; it is free, so the consumer does not touch it
            // until the store below, and `&mut self` is the only producer.
            unsafe { ring.entry(start.wrapping_add(written)).write(value) };
            written += 1;
        }
        if written > 0 {
            ring.producer().store(start.wrapping_add(written), Ordering::Release);
        }
        written
    }
}

/// Our end of an rx or completion ring.
pub struct Consumer<T: Entry>(Ring<T>);

impl<T: Entry> Consumer<T> {
    pub(crate) fn of_kernel(map: Mapping, offsets: &XdpRingOffset, size: u32) -> io::Result<Self> {
        Ring::of_kernel(map, offsets, size).map(Self)
    }

    /// Entries that can be read now.
    #[inline]
    pub fn available(&self) -> u32 {
        let ring = &self.0;
        // Acquire: the producer has finished writing the entries it published.
        let producer = ring.producer().load(Ordering::Acquire);
        ring.distance(producer, ring.consumer().load(Ordering::Relaxed))
    }

    /// Hands up to `max` entries to `take`, in order, and gives their places back with one release
    /// store. Returns how many.
    #[inline]
    pub fn consume(&mut self, max: u32, mut take: impl FnMut(T)) -> u32 {
        let count = self.available().min(max);
        let ring = &self.0;
        let start = ring.consumer().load(Ordering::Relaxed);
        for index in 0..count {
            // SAFETY: the entry is inside the memory and published, so the producer does not touch
            // it until the store below; any bytes are a `T` (`Entry`).
            take(unsafe { ring.entry(start.wrapping_add(index)).read() });
        }
        if count > 0 {
            ring.consumer().store(start.wrapping_add(count), Ordering::Release);
        }
        count
    }
}

/// Two connected ends of a ring in ordinary memory, for tests without a kernel. Both cursors begin at
/// `start`.
///
/// # Panics
/// If `size` is not a power of two.
pub fn in_memory<T: Entry>(size: u32, start: u32) -> (Producer<T>, Consumer<T>) {
    assert!(size.is_power_of_two(), "a ring of {size} entries");
    let memory = Arc::new(Ordinary {
        producer: AtomicU32::new(start),
        consumer: AtomicU32::new(start),
        flags: AtomicU32::new(0),
        entries: (0..size).map(|_| UnsafeCell::new(T::default())).collect(),
    });
    (Producer(Ring::of_ordinary(&memory)), Consumer(Ring::of_ordinary(&memory)))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Produce(u32),
        Consume(u32),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![(0u32..40).prop_map(Op::Produce), (0u32..40).prop_map(Op::Consume)]
    }

    proptest! {
        /// The ring against a queue of bounded length, over the place where cursors wrap.
        #[test]
        fn a_ring_is_a_bounded_queue(
            bits in 0u32..6,
            before_wrap in 0u32..80,
            ops in prop::collection::vec(op(), 1..120),
        ) {
            let size = 1 << bits;
            let start = u32::MAX - before_wrap;
            let (mut producer, mut consumer) = in_memory::<u64>(size, start);
            let mut oracle = VecDeque::new();
            let mut next_value = 0u64;
            for op in ops {
                match op {
                    Op::Produce(wanted) => {
                        let room = size - oracle.len() as u32;
                        let mut asked = 0;
                        let written = producer.produce(|| {
                            (asked < wanted).then(|| {
                                asked += 1;
                                next_value += 1;
                                oracle.push_back(next_value);
                                next_value
                            })
                        });
                        prop_assert_eq!(written, wanted.min(room));
                        prop_assert_eq!(asked, written, "an entry was asked for and not stored");
                    }
                    Op::Consume(max) => {
                        let there = oracle.len() as u32;
                        let mut values = Vec::new();
                        let read = consumer.consume(max, |value| values.push(value));
                        prop_assert_eq!(read, max.min(there));
                        let expected: Vec<u64> = oracle.drain(..read as usize).collect();
                        prop_assert_eq!(values, expected);
                    }
                }
                let filled = oracle.len() as u32;
                prop_assert_eq!(consumer.available(), filled);
                prop_assert_eq!(producer.pending(), filled);
                prop_assert_eq!(producer.free(), size - filled);
            }
        }
    }

    #[test]
    fn entries_arrive_whole_and_in_order_across_threads() {
        const COUNT: u64 = 200_000;
        let (mut producer, mut consumer) = in_memory::<XdpDesc>(64, u32::MAX - 100);
        let writer = std::thread::spawn(move || {
            let mut next = 0u64;
            while next < COUNT {
                let end = COUNT.min(next + 17);
                let written = producer.produce(|| {
                    (next < end).then(|| {
                        next += 1;
                        XdpDesc { addr: next, len: next as u32, options: !(next as u32) }
                    })
                });
                if written == 0 {
                    std::thread::yield_now();
                }
            }
        });
        let mut expected = 0u64;
        while expected < COUNT {
            let read = consumer.consume(23, |desc| {
                expected += 1;
                assert_eq!((desc.addr, desc.len), (expected, expected as u32));
                assert_eq!(desc.options, !desc.len);
            });
            if read == 0 {
                std::thread::yield_now();
            }
        }
        writer.join().expect("the writer does not panic");
    }

    #[test]
    fn offsets_outside_the_mapping_are_refused() {
        let good = XdpRingOffset { producer: 0, consumer: 64, desc: 128, flags: 192 };
        let cases = [
            (good, 8, true),
            (XdpRingOffset { producer: 4096, ..good }, 8, false),
            (XdpRingOffset { consumer: 2, ..good }, 8, false),
            (XdpRingOffset { desc: 4096 - 7 * 8, ..good }, 8, false),
            (XdpRingOffset { flags: u64::MAX, ..good }, 8, false),
            (good, 6, false),
            (good, 1 << 31, false),
        ];
        for (offsets, size, accepted) in cases {
            let (map, _fd, _pages) =
                crate::memory::map_memfd("postern-test", 4096).expect("memory");
            let ring = Consumer::<u64>::of_kernel(map, &offsets, size);
            assert_eq!(ring.is_ok(), accepted, "{offsets:?} {size}");
        }
    }
}
