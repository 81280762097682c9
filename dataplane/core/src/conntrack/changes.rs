//! What has happened to a table's connections lately: the bounded log behind the event stream.
//!
//! Closed as long as nobody follows, and then it costs one branch when a connection comes, goes or changes its
//! state. Open, each of these is noted as a value, because what went cannot be looked up any more. It belongs to the
//! worker; whoever follows takes from it between bursts, and a follower that is slow finds a gap of known size:
//! the packet path never waits for one.
//!
//! Every change is noted while there is room. Once the log is half full, a connection that changes again before its last
//! change was taken is noted once: its row says so ([`flags::CHANGED`]), and the taker sees it as it is by then.

use alloc::boxed::Box;
use alloc::vec;

use super::entry::{Cold, Hot, HotState, Warm, flags};
use crate::time::Tick;
use crate::units::EntryIdx;

/// Most changes that wait to be taken.
pub const CHANGES_MAX: u32 = 2048;
/// A smaller table has a smaller log, but none smaller than this.
const CHANGES_MIN: u32 = 64;

/// Why a connection is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// It was not used for its timeout.
    Timeout,
    /// Its peers ended it, and what lingers after that has passed; or it was refused at once.
    Closed,
    /// It was over, and a first packet of the same tuple began another.
    Reopened,
    /// It made room for another one.
    Evicted,
    /// Somebody deleted it.
    Deleted,
    /// Somebody deleted all.
    Flushed,
    /// An address that its translation rests on, or its way out, is not ours any more.
    AddressGone,
}

impl Ended {
    /// Why a connection went that is past its deadline.
    #[inline]
    pub const fn by_itself(state: &HotState) -> Self {
        if state.flags & flags::CLOSED != 0 { Self::Closed } else { Self::Timeout }
    }
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Happened {
    /// A connection was confirmed.
    #[default]
    New,
    /// Its state changed, or its mark or timeout was set.
    Updated,
    /// It is gone.
    Destroyed(Ended),
    /// So many changes are not here: there was no room.
    Missed(u64),
}

/// A change, with the row as it was then; of [`Happened::Missed`] the row says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change<H> {
    /// What.
    pub happened: Happened,
    /// When.
    pub at: Tick,
    /// Whether it stands for those that followed it before it was taken, too.
    pub folds: bool,
    /// Where.
    pub row: EntryIdx,
    /// The row's hot part.
    pub hot: H,
    /// Its counters.
    pub warm: Warm,
    /// The rest; its incarnation is that of the connection.
    pub cold: Cold,
}

/// The log of one table: a ring.
pub(super) struct Changes<H> {
    open: bool,
    ring: Box<[Change<H>]>,
    first: usize,
    len: usize,
    /// Since the last one that had room.
    missed: u64,
}

impl<H: Hot> Changes<H> {
    /// A closed log for a table of `capacity` connections.
    pub(super) fn new(capacity: u32) -> Self {
        let depth = capacity.clamp(CHANGES_MIN, CHANGES_MAX) as usize;
        let ring = vec![Change::default(); depth].into_boxed_slice();
        Self { open: false, ring, first: 0, len: 0, missed: 0 }
    }

    /// Whether somebody follows.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Begins or ends to note. What was noted stays, to be taken.
    pub(super) fn open(&mut self, open: bool) {
        self.open = open;
    }

    /// Whether there is nothing to take.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0 && self.missed == 0
    }

    /// Whether changes should take less room.
    pub(super) fn is_pressed(&self) -> bool {
        self.len >= self.ring.len() / 2
    }

    /// How many more fit into the half of it that those may fill who can wait: the rest is for packets.
    pub(super) fn spare(&self) -> usize {
        let taken = self.len + usize::from(self.missed != 0);
        (self.ring.len() / 2).saturating_sub(taken)
    }

    /// Notes a change, and first how many were missed before it; `false` if there is no room for that.
    pub(super) fn note(&mut self, change: &Change<H>) -> bool {
        let gap = self.missed != 0;
        if self.ring.len() - self.len < 1 + usize::from(gap) {
            self.missed += 1;
            return false;
        }
        if gap {
            let happened = Happened::Missed(core::mem::take(&mut self.missed));
            self.put(&Change { happened, at: change.at, ..Change::default() });
        }
        self.put(change);
        true
    }

    fn put(&mut self, change: &Change<H>) {
        let place = (self.first + self.len) % self.ring.len();
        self.ring[place] = *change;
        self.len += 1;
    }

    /// The oldest change that was not taken.
    pub(super) fn take(&mut self) -> Option<Change<H>> {
        if self.len == 0 {
            let happened = Happened::Missed(core::mem::take(&mut self.missed));
            return (happened != Happened::Missed(0))
                .then(|| Change { happened, ..Change::default() });
        }
        let change = self.ring[self.first];
        self.first = (self.first + 1) % self.ring.len();
        self.len -= 1;
        Some(change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conntrack::entry::HotV4;

    fn noted(row: u32) -> Change<HotV4> {
        Change { row: EntryIdx(row), ..Change::default() }
    }

    #[test]
    fn a_gap_stands_where_it_is_and_says_how_much_is_missing() {
        let mut log = Changes::<HotV4>::new(1);
        log.open(true);
        for row in 0..CHANGES_MIN + 10 {
            assert_eq!(log.note(&noted(row)), row < CHANGES_MIN);
        }
        // Room for one is not room for the gap and one.
        assert_eq!(log.take().map(|c| c.row), Some(EntryIdx(0)));
        assert!(!log.note(&noted(100)));
        assert_eq!(log.take().map(|c| c.row), Some(EntryIdx(1)));
        assert!(log.note(&noted(101)));
        let rows: std::vec::Vec<_> =
            core::iter::from_fn(|| log.take()).map(|c| (c.happened, c.row.0)).collect();
        let last = [(Happened::Missed(11), 0), (Happened::New, 101)];
        assert_eq!(rows.len() as u32, CHANGES_MIN);
        assert_eq!(rows[..2], [(Happened::New, 2), (Happened::New, 3)]);
        assert_eq!(rows[rows.len() - 2..], last);
    }

    #[test]
    fn a_gap_at_the_end_is_told_of_without_waiting_for_what_comes_next() {
        let mut log = Changes::<HotV4>::new(1);
        log.open(true);
        (0..CHANGES_MIN + 3).for_each(|row| _ = log.note(&noted(row)));
        (0..CHANGES_MIN).for_each(|row| assert_eq!(log.take().map(|c| c.row), Some(EntryIdx(row))));
        assert_eq!(log.take().map(|c| c.happened), Some(Happened::Missed(3)));
        assert!(log.take().is_none() && log.is_empty());
    }
}
