//! A table that fills up: who goes, who may not, and which rows are kept for whom.
//!
//! A full table makes room: an expired connection goes, else one that nobody would miss much. Rows that may be
//! evicted are kept in sets, so that one is found at once however few they are; a packet that does not
//! change what its connection is worth does not touch them.
//!
//! Some rows may be kept free for the appliance's own connections, so that a flood of others leaves its operator a way in; and
//! above a certain fill, what may be evicted is let go of the sooner, the fuller the table is.

use super::changes::Ended;
use super::entry::{Hot, Pair, flags};
use super::rowset::RowSet;
use super::table::{Table, deadline};
use crate::limits::Books;
use crate::time::Tick;
use crate::units::EntryIdx;

/// How room was made for a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Room {
    /// One that was past its deadline went.
    Expired,
    /// One that lived was evicted.
    Evicted,
}

/// How a table that fills up is kept from being full.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pressure {
    /// Above this fill, percent, the timeouts of connections that are not assured, or are closed, shrink; they are nothing where the
    /// second fill is reached, and in proportion between the two (pf's adaptive.start and adaptive.end). `None`: they do not shrink.
    pub adaptive: Option<(u16, u16)>,
    /// Rows of each table that only connections of the appliance itself get, by [`Family`](crate::rules::Family).
    pub headroom: [u32; 2],
}

impl Pressure {
    /// What is left of a timeout in a table that holds `live` of `capacity`; `None` if all of it is.
    fn shrink(&self, timeout_ms: u32, live: u32, capacity: u32) -> Option<u32> {
        let (start, end) = self.adaptive.map(|(start, end)| (u64::from(start), u64::from(end)))?;
        let (fill, whole) = (u64::from(live) * 100, u64::from(capacity));
        if fill <= start * whole {
            return None;
        }
        let left = (end * whole).saturating_sub(fill);
        let all = (end.saturating_sub(start) * whole).max(1);
        Some((u128::from(timeout_ms) * u128::from(left) / u128::from(all)) as u32)
    }
}

/// What a connection is worth when the table is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Worth {
    /// It was not answered: the first to be evicted.
    Unreplied,
    /// It was answered, but is not assured; or it is closed.
    Little,
    /// Assured and not closed: it is not evicted.
    Firm,
}

impl Worth {
    /// The flags that it depends on.
    const FLAGS: u16 = flags::SEEN_REPLY | flags::ASSURED | flags::CLOSED;

    const fn of(row_flags: u16) -> Self {
        if row_flags & (flags::ASSURED | flags::CLOSED) == flags::ASSURED {
            Self::Firm
        } else if row_flags & flags::SEEN_REPLY == 0 {
            Self::Unreplied
        } else {
            Self::Little
        }
    }
}

/// The live rows that may be evicted, each with its flags as they are.
pub(super) struct Evictable<'m> {
    /// Those of [`Worth::Unreplied`].
    unreplied: RowSet<'m>,
    /// Those of [`Worth::Little`].
    little: RowSet<'m>,
    /// Of each of these sets, the row that was held to a shorter timeout last.
    hands: [u32; 2],
    /// How many of them are connections of others, and how many of the appliance itself.
    counts: [u32; 2],
}

impl<'m> Evictable<'m> {
    /// None of the rows `0..rows`; on the words of two [`RowSet`]s, all zero.
    pub(super) fn new(rows: usize, words: [&'m mut [u64]; 2]) -> Self {
        let [unreplied, little] = words.map(|words| RowSet::new(rows, words));
        Self { unreplied, little, hands: [0; 2], counts: [0; 2] }
    }

    /// A row has these flags now.
    pub(super) fn insert(&mut self, row: u32, row_flags: u16) {
        if let Some(set) = self.set_of(row_flags) {
            set.insert(row);
            self.counts[usize::from(is_own(row_flags))] += 1;
        }
    }

    /// A row does not have these flags any more.
    pub(super) fn remove(&mut self, row: u32, row_flags: u16) {
        if let Some(set) = self.set_of(row_flags) {
            set.remove(row);
            self.counts[usize::from(is_own(row_flags))] -= 1;
        }
    }

    /// The set of the rows of these flags, if they may be evicted.
    fn set_of(&mut self, row_flags: u16) -> Option<&mut RowSet<'m>> {
        match Worth::of(row_flags) {
            Worth::Unreplied => Some(&mut self.unreplied),
            Worth::Little => Some(&mut self.little),
            Worth::Firm => None,
        }
    }

    /// Whether connections of others, or of the appliance itself, are among them.
    const fn has(&self, own: bool) -> bool {
        self.counts[own as usize] != 0
    }
}

/// Whether flags are those of a connection of the appliance itself.
pub(super) const fn is_own(row_flags: u16) -> bool {
    row_flags & (flags::TO_HOST | flags::FROM_HOST) != 0
}

impl<'m, H: Hot> Table<'m, H> {
    /// Keeps the books after a row changed: whether it may be evicted, and, if its timeout became shorter
    /// than `timeout_ms_before`, its place in the wheel.
    #[inline]
    pub fn settle(&mut self, row: EntryIdx, flags_before: u16, timeout_ms_before: u32) {
        let state = self.rows[row.index()].hot().state();
        let (row_flags, timeout_ms) = (state.flags, state.timeout_ms);
        if (row_flags ^ flags_before) & Worth::FLAGS != 0 {
            self.revalue(row, flags_before, row_flags);
        }
        if timeout_ms < timeout_ms_before {
            self.rearm(row);
        }
    }

    /// Moves a row from one set to another.
    #[cold]
    fn revalue(&mut self, row: EntryIdx, before: u16, after: u16) {
        self.evictable.remove(row.0, before);
        self.evictable.insert(row.0, after);
    }

    /// Whether a connection of these flags finds the table full, `headroom` rows being kept for the appliance itself.
    #[inline]
    pub(super) fn is_full_for(&self, row_flags: u16, headroom: u32) -> bool {
        !is_own(row_flags) && self.live - self.own >= self.capacity().saturating_sub(headroom)
    }

    /// Holds connections that may be evicted to shorter timeouts, if there are too many connections: looks at up to `rows` of them,
    /// each in its turn, and removes those that have been idle for too long. Returns how many went.
    pub fn relieve(&mut self, now: Tick, rows: u32, pressure: &Pressure, books: Books<'_>) -> u32 {
        let mut gone = 0;
        for place in 0..2 {
            for _ in 0..rows {
                // With each that goes there is less reason to.
                let capacity = self.capacity();
                if pressure.shrink(0, self.live, capacity).is_none() {
                    return gone;
                }
                let evictable = &mut self.evictable;
                let set = if place == 0 { &evictable.unreplied } else { &evictable.little };
                let hand = &mut evictable.hands[place];
                let Some(row) = set.next_after(*hand) else { break };
                let round_ends = row <= *hand;
                *hand = row;
                let state = self.rows[row as usize].hot().state();
                let left = pressure.shrink(state.timeout_ms, self.live, capacity);
                if left.is_some_and(|ms| now.reached(Tick(state.last_seen).plus_ms(ms))) {
                    let why = Ended::by_itself(state);
                    self.remove(EntryIdx(row), why, now, books);
                    gone += 1;
                }
                if round_ends {
                    break;
                }
            }
        }
        gone
    }

    /// Whether it is full, but for `headroom` rows, of connections that do not go for one that is not the appliance's own:
    /// [`make_room`](Self::make_room) would find none.
    #[inline]
    pub fn is_packed(&self, now: Tick, headroom: u32) -> bool {
        let short = self.is_full_for(0, headroom);
        (short || self.len() == self.capacity())
            && !self.evictable.has(false)
            // These go for others where no row is kept for them.
            && (short || !self.evictable.has(true))
            && self.wheel.is_at(now)
    }

    /// Whether there may be a place for a connection of the appliance itself where others find [none](Self::is_packed).
    #[inline]
    pub fn may_have_own_room(&self) -> bool {
        self.len() < self.capacity() || self.evictable.has(true)
    }

    /// Makes room for a connection of these flags: an expired one goes, else one that was not answered, else one that
    /// is not assured or is closed; of these whose turn it is, so that who came last goes last. Never
    /// one that is assured and lives. `None` if there is no room to be made, which costs little to find out. If the room is
    /// only short of what is kept for the appliance's own connections, none of those goes.
    pub fn make_room(
        &mut self,
        now: Tick,
        row_flags: u16,
        headroom: u32,
        books: Books<'_>,
    ) -> Option<Room> {
        /// How far the wheel is turned: it is hardly ever behind by more.
        const STEPS: u32 = 16;
        /// How many of the appliance's own are passed over.
        const OWN_MAX: usize = 8;
        if self.expire_one(now, &mut { STEPS }, books) {
            return Some(Room::Expired);
        }
        let spares = self.is_full_for(row_flags, headroom);
        let rows = &self.rows;
        let may_go = |row: &u32| !spares || !is_own(rows[*row as usize].hot().state().flags);
        let in_turn =
            |set: &mut RowSet<'m>| (0..OWN_MAX).map_while(|_| set.next_in_turn()).find(may_go);
        let Evictable { unreplied, little, .. } = &mut self.evictable;
        let row = in_turn(unreplied).or_else(|| in_turn(little))?;
        let state = self.rows[row as usize].hot().state();
        let expired = now.reached(deadline(state));
        let why = if expired { Ended::by_itself(state) } else { Ended::Evicted };
        self.remove(EntryIdx(row), why, now, books);
        Some(if expired { Room::Expired } else { Room::Evicted })
    }
}
