//! What happens to connections, told to whoever follows; and what control changes about one. See
//! [`changes`](crate::conntrack::changes) for the log.

use super::Pipeline;
use super::family::Family;
use super::table_view::{ConnectionId, ConnectionView, view};
use crate::conntrack::changes::{Change, Happened};
use crate::conntrack::table::Table;
use crate::counters::Counters;
use crate::rules::PathId;
use crate::time::{Instant, Tick};
use crate::units::WorkerId;

/// One thing that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// What.
    pub happened: Happened,
    /// To which connection, as it was then; `None` of [`Happened::Missed`].
    pub connection: Option<ConnectionView>,
    /// Milliseconds since then; of [`Happened::Missed`] 0.
    pub ago_ms: u32,
}

/// What is to be changed about a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    /// A mark, and which of its bits count: those are cleared, then the mark is combined by XOR (as ctnetlink does).
    pub mark: Option<(u32, u32)>,
    /// Milliseconds until it goes unless it is used, at most [`TIMEOUT_MAX`](crate::time::TIMEOUT_MAX). The next packet
    /// gives it the timeout of its state again.
    pub timeout_ms: Option<u32>,
}

impl Pipeline<'_> {
    /// Begins or ends to note what happens to connections.
    pub fn follow(&mut self, follow: bool) {
        self.v4.follow(follow);
        self.v6.follow(follow);
    }

    /// Whether [`take_changes`](Self::take_changes) has nothing to say.
    pub fn has_no_changes(&self) -> bool {
        self.v4.has_no_changes() && self.v6.has_no_changes()
    }

    /// How many connections of either family may be deleted or edited before [`take_changes`](Self::take_changes), so that
    /// whoever follows hears of each; no bound if nobody follows.
    pub fn spare_changes(&self) -> usize {
        self.v4.spare_changes().min(self.v6.spare_changes())
    }

    /// Hands over up to `most` of what happened since the last call, those of one family in order.
    pub fn take_changes(
        &mut self,
        me: WorkerId,
        most: usize,
        counters: &Counters,
        now: Instant,
        mut take: impl FnMut(Told),
    ) {
        // By turns, so that a flood in one family does not hold up the other.
        let (mut v6, mut empty) = (false, 0);
        for _ in 0..most {
            let mut told = None;
            while told.is_none() && empty < 2 {
                told = if v6 { next(&mut self.v6, me, now) } else { next(&mut self.v4, me, now) };
                (v6, empty) = (!v6, if told.is_some() { 0 } else { empty + 1 });
            }
            let Some(told) = told else { return };
            if let Happened::Missed(count) = told.happened {
                counters.changes_missed.add(count);
            }
            take(told);
        }
    }

    /// Changes something about a connection; `None` if it is gone, else as it is now.
    pub fn edit(
        &mut self,
        me: WorkerId,
        id: ConnectionId,
        edit: &Edit,
        now: Instant,
    ) -> Option<ConnectionView> {
        self.get(me, id, now)?;
        if id.is_v6() {
            edit_row(&mut self.v6, id, edit, now.tick());
        } else {
            edit_row(&mut self.v4, id, edit, now.tick());
        }
        self.get(me, id, now)
    }
}

fn next<H: Family>(table: &mut Table<'_, H>, me: WorkerId, now: Instant) -> Option<Told> {
    let Change { happened, at, row, hot, warm, cold, .. } = table.take_change(now.tick())?;
    if matches!(happened, Happened::Missed(_)) {
        return Some(Told { happened, connection: None, ago_ms: 0 });
    }
    let ago_ms = now.tick().since(at).max(0) as u32;
    let then = Instant(now.0.saturating_sub(u64::from(ago_ms) * 1_000_000));
    let connection = Some(view(&hot, &warm, &cold, me, row, then));
    Some(Told { happened, connection, ago_ms })
}

fn edit_row<H: Family>(table: &mut Table<'_, H>, id: ConnectionId, edit: &Edit, now: Tick) {
    let row = id.row();
    let parts = table.row(row);
    let state = parts.hot.state_mut();
    let before = *state;
    if let Some((mark, mask)) = edit.mark {
        parts.cold.mark = parts.cold.mark & !mask ^ mark;
        state.paths = [PathId::UNCACHED.0; 2]; // a rule may look at it
    }
    if let Some(timeout_ms) = edit.timeout_ms {
        (state.last_seen, state.timeout_ms) = (now.0, timeout_ms);
    }
    table.settle(row, before.flags, before.timeout_ms);
    if table.is_followed() {
        table.note_update(row, now);
    }
}
