//! Snapshots from control to the threads: one place each, the newest wins, nobody waits.
//!
//! Control publishes an `Arc<Snapshot>` and keeps a clone until every reader has acknowledged that
//! snapshot or a newer one. So a reader that lets go of an old snapshot is never the last to hold it:
//! memory is freed by control only.
//!
//! A snapshot is handed to every reader before it is announced, and no reader goes by one that was not. So
//! whoever hears from a reader in any way, by a ring say, and adopts after that, is no older than that reader was.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;
use postern_core::snapshot::Snapshot;
use postern_core::units::Generation;

/// Snapshots that wait in a place: the newest that was announced, and the one that is being handed out.
const WAITING_MAX: usize = 2;

/// Where one reader finds its next snapshot.
struct Place {
    next: ArrayQueue<Arc<Snapshot>>,
    adopted: CachePadded<AtomicU32>,
}

struct Shared {
    /// The newest generation; read by all, written on a change only.
    latest: CachePadded<AtomicU32>,
    places: Box<[Place]>,
}

impl Shared {
    fn hand_out(&self, snapshot: &Arc<Snapshot>) {
        for place in &self.places {
            // What a slow reader has not taken yet is displaced, and let go of here.
            drop(place.next.force_push(Arc::clone(snapshot)));
        }
    }

    fn announce(&self, snapshot: &Snapshot) {
        self.latest.store(snapshot.generation.0, Ordering::Release);
    }
}

/// Control's end.
pub struct SnapshotMailbox {
    shared: Arc<Shared>,
    /// Snapshots that a reader may still hold, oldest first; the last one is the newest.
    kept: Mutex<VecDeque<Arc<Snapshot>>>,
}

/// A thread's end: the snapshot it runs on.
pub struct SnapshotReader {
    shared: Arc<Shared>,
    place: usize,
    current: Arc<Snapshot>,
}

/// A mailbox for `readers` threads, which all begin with `first`.
pub fn mailbox(first: Arc<Snapshot>, readers: usize) -> (SnapshotMailbox, Vec<SnapshotReader>) {
    let generation = first.generation.0;
    let place = || Place {
        next: ArrayQueue::new(WAITING_MAX),
        adopted: CachePadded::new(AtomicU32::new(generation)),
    };
    let shared = Arc::new(Shared {
        latest: CachePadded::new(AtomicU32::new(generation)),
        places: (0..readers).map(|_| place()).collect(),
    });
    let ends = (0..readers)
        .map(|place| SnapshotReader {
            shared: Arc::clone(&shared),
            place,
            current: Arc::clone(&first),
        })
        .collect();
    (SnapshotMailbox { shared, kept: Mutex::new(VecDeque::from([first])) }, ends)
}

impl SnapshotMailbox {
    /// Hands `snapshot` to every reader, and lets go of the older ones that none holds any more. Its
    /// generation is newer than that of every snapshot published before.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back(Arc::clone(&snapshot));
        self.shared.hand_out(&snapshot);
        self.shared.announce(&snapshot);
        self.retire(&mut kept);
    }

    /// Whether every reader runs on the newest snapshot. Lets go of those that none holds any more.
    pub fn is_adopted(&self) -> bool {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        self.retire(&mut kept);
        kept.len() == 1
    }

    /// The newest snapshot.
    pub fn latest(&self) -> Arc<Snapshot> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(kept.back().expect("the newest snapshot is always kept"))
    }

    /// The generation reader `place` runs on: workers by their number, the host thread last.
    pub fn adopted(&self, place: usize) -> Option<Generation> {
        let place = self.shared.places.get(place)?;
        Some(Generation(place.adopted.load(Ordering::Acquire)))
    }

    fn retire(&self, kept: &mut VecDeque<Arc<Snapshot>>) {
        // A reader has let go of everything older than what it acknowledged.
        let position = |place: &Place| {
            let adopted = place.adopted.load(Ordering::Acquire);
            kept.iter().position(|snapshot| snapshot.generation.0 == adopted).unwrap_or(0)
        };
        let newest = kept.len() - 1;
        let oldest_held = self.shared.places.iter().map(position).min().unwrap_or(newest);
        kept.drain(..oldest_held);
    }
}

impl SnapshotReader {
    /// The snapshot to go by.
    #[inline]
    pub fn current(&self) -> &Snapshot {
        &self.current
    }

    /// Whether there is a newer one to adopt.
    #[inline]
    pub fn is_stale(&self) -> bool {
        self.shared.latest.load(Ordering::Acquire) != self.current.generation.0
    }

    /// Takes up the newest snapshot; one comparison when there is none.
    #[inline]
    pub fn adopt(&mut self) {
        if self.is_stale() {
            self.take();
        }
    }

    #[cold]
    fn take(&mut self) {
        let place = &self.shared.places[self.place];
        // Up to the announced one and no further: another reader may not have the next one yet. Only what a newer
        // one has displaced is missing, and that is announced before the newer one is handed out.
        while self.is_stale()
            && let Some(next) = place.next.pop()
        {
            self.current = next; // frees nothing: control holds the old one until it is acknowledged
        }
        place.adopted.store(self.current.generation.0, Ordering::Release);
    }
}

impl Drop for SnapshotReader {
    /// A thread that ended holds nothing back.
    fn drop(&mut self) {
        // Not acknowledged: `current` is still ours until this function has returned. Control keeps the
        // last few snapshots until it is dropped itself, which is when the appliance stops.
        while self.shared.places[self.place].next.pop().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use super::*;
    use crate::runtime::testing;

    fn generation(n: u32) -> Arc<Snapshot> {
        Arc::new(Snapshot { generation: Generation(n), ..testing::snapshot(1) })
    }

    #[test]
    fn a_snapshot_is_kept_until_the_slowest_reader_has_a_newer_one() {
        let first = generation(1);
        let mut weak: Vec<Weak<Snapshot>> = vec![Arc::downgrade(&first)];
        let (mailbox, mut readers) = mailbox(first, 2);
        for n in 2..=5 {
            let next = generation(n);
            weak.push(Arc::downgrade(&next));
            mailbox.publish(next);
        }
        let alive = |weak: &[Weak<Snapshot>]| {
            weak.iter().map(|weak| weak.strong_count() > 0).collect::<Vec<_>>()
        };
        assert!(readers.iter().all(SnapshotReader::is_stale));
        readers[0].adopt();
        assert_eq!(readers[0].current().generation, Generation(5), "the newest, not the next");
        assert!(!mailbox.is_adopted());
        assert_eq!(alive(&weak), [true; 5], "the other reader may hold any of them");
        assert_eq!(mailbox.adopted(1), Some(Generation(1)));
        readers[1].adopt();
        assert!(alive(&weak)[0], "a reader frees nothing");
        assert!(mailbox.is_adopted());
        assert_eq!(alive(&weak), [false, false, false, false, true]);
        assert_eq!(mailbox.latest().generation, Generation(5));
        readers[1].adopt();
        assert_eq!((readers[1].is_stale(), readers[1].current().generation.0), (false, 5));
    }

    /// Two readers hand packets to each other: one that goes by a snapshot the other cannot have yet would have it
    /// decide by an older one.
    #[test]
    fn nobody_goes_by_a_snapshot_before_all_can_have_it() {
        let (mailbox, mut readers) = mailbox(generation(1), 2);
        let numbers = |readers: &[SnapshotReader]| {
            readers.iter().map(|reader| reader.current().generation.0).collect::<Vec<_>>()
        };
        let publish_but_announce = |n| {
            let next = generation(n);
            mailbox.kept.lock().unwrap().push_back(Arc::clone(&next));
            mailbox.shared.hand_out(&next);
            next
        };
        let mut announced = 1;
        for behind in 0..4 {
            // One snapshot more each time that the readers do not take before the next one comes.
            for _ in 0..behind {
                announced += 1;
                mailbox.publish(generation(announced));
            }
            let next = publish_but_announce(announced + 1);
            readers.iter_mut().for_each(SnapshotReader::adopt);
            assert_eq!(numbers(&readers), [announced; 2], "the newest of those announced");
            mailbox.shared.announce(&next);
            announced += 1;
            readers[0].adopt();
            assert_eq!(numbers(&readers), [announced, announced - 1]);
            readers[1].adopt();
            assert_eq!(numbers(&readers), [announced; 2]);
            assert!(mailbox.is_adopted());
        }
    }
}
