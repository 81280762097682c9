//! What control asks of a worker, answered a slice at a time so that no question stops a packet.
//!
//! No question takes more than [`TURNS_MAX`] turns of the worker's, however large its tables are: a walk that is not over
//! by then is answered with a cursor, and so is one that would note more than whoever follows could hear of.
//!
//! Buffers come with the question and go back with the answer: the worker neither allocates nor frees.
//! One question is under way at a time; [`CommandPort::ask`] sees to that, and to answers that come after
//! their asker has given up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant as StdInstant};

use arrayvec::ArrayVec;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use postern_core::conntrack::changes::{Ended, Happened};
use postern_core::counters::Counters;
use postern_core::helper::expect::Expectation;
use postern_core::nat::mapping::{self, Mapping, SHOWN_MAX};
use postern_core::pipeline::{ConnectionId, ConnectionView, Cursor, Edit, Filter, Pipeline, Told};
use postern_core::snapshot::Snapshot;
use postern_core::time::Instant;
use postern_core::units::WorkerId;

use super::handover::Doorbell;

/// Rows looked at, or connections deleted, in one turn.
const SLICE: usize = 128;
/// Turns that a walk goes on for: 16,384 rows, a second with turns of 8 ms.
const TURNS_MAX: u32 = 128;
/// Questions and answers under way: one that is waited for, and those that were given up.
const DEPTH: usize = 8;

/// A question.
#[derive(Debug)]
pub enum Command {
    /// Which connections does `filter` mean, from `cursor` on? At most as many as `buffer` has capacity for, and those of
    /// a bounded number of rows.
    Visit {
        /// Which connections.
        filter: Filter,
        /// Where to begin: [`Cursor::default`], or where the last answer stopped.
        cursor: Cursor,
        /// Empty; its capacity bounds the answer.
        buffer: Vec<ConnectionView>,
    },
    /// One connection.
    Get {
        /// Which.
        id: ConnectionId,
    },
    /// Delete these, as many as there is room to note if somebody follows.
    Delete {
        /// Which.
        ids: Vec<ConnectionId>,
    },
    /// Change something about these, as many as there is room to note if somebody follows.
    Edit {
        /// Which.
        ids: Vec<ConnectionId>,
        /// What.
        edit: Edit,
    },
    /// What happened to connections since this was asked last? As much as `buffer` has capacity for. From the first
    /// time on the worker takes notes, until it is told [`Command::Unfollow`].
    Follow {
        /// Empty; its capacity bounds the answer.
        buffer: Vec<Told>,
    },
    /// Nobody wants to know any more.
    Unfollow,
    /// What do helpers expect? The answer is the same from every worker.
    Expectations {
        /// Empty, with room for [`EXPECTATIONS_MAX`](postern_core::helper::expect::EXPECTATIONS_MAX).
        buffer: Vec<Expectation>,
    },
    /// Which endpoint-independent mappings are there? The answer is the same from every worker.
    Mappings {
        /// From where on.
        cursor: mapping::Cursor,
        /// Empty, with room for [`SHOWN_MAX`] at least.
        buffer: Vec<Mapping>,
    },
    /// Delete all that `filter` means, from `cursor` on: those of a bounded number of rows, as many as there is room to
    /// note if somebody follows.
    DeleteMatching {
        /// Which.
        filter: Filter,
        /// Where to begin: [`Cursor::default`], or where the last answer stopped.
        cursor: Cursor,
    },
}

/// An answer, variant by variant that of the [`Command`].
#[derive(Debug)]
pub enum Answer {
    /// To [`Command::Visit`].
    Visited {
        /// What was found.
        buffer: Vec<ConnectionView>,
        /// Where to go on; `None` at the end. There may be more though `buffer` has room left, or is empty.
        cursor: Option<Cursor>,
    },
    /// To [`Command::Get`]; `None` if it is gone.
    Got(Option<ConnectionView>),
    /// To [`Command::Delete`].
    Deleted {
        /// How many were there.
        count: u64,
        /// How many of the list were seen to: fewer than all when there was no room to note more.
        done: usize,
        /// The list, back.
        ids: Vec<ConnectionId>,
    },
    /// To [`Command::Edit`].
    Edited {
        /// How many were there.
        count: u64,
        /// How many of the list were seen to: fewer than all when there was no room to note more.
        done: usize,
        /// The list, back.
        ids: Vec<ConnectionId>,
    },
    /// To [`Command::Follow`].
    Followed(Vec<Told>),
    /// To [`Command::Unfollow`].
    Unfollowed,
    /// To [`Command::Expectations`].
    Expected(Vec<Expectation>),
    /// To [`Command::Mappings`].
    Mapped {
        /// What was found.
        buffer: Vec<Mapping>,
        /// Where to go on; `None` at the end.
        cursor: Option<mapping::Cursor>,
    },
    /// To [`Command::DeleteMatching`].
    DeletedMatching {
        /// How many.
        count: u64,
        /// Where to go on; `None` at the end. Where it began, if there was no room to note even one.
        cursor: Option<Cursor>,
    },
}

/// Why there is no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AskError {
    /// It did not come in time. The command may still be carried out.
    #[error("the worker did not answer in time")]
    TimedOut,
    /// The worker ended.
    #[error("the worker is gone")]
    Gone,
}

struct Numbered<T> {
    serial: u64,
    what: T,
}

/// Control's end: asks one worker.
pub struct CommandPort {
    commands: Sender<Numbered<Command>>,
    answers: Receiver<Numbered<Answer>>,
    bell: Arc<Doorbell>,
    serial: AtomicU64,
    /// Changes in answers that came too late.
    unheard: AtomicU64,
    one_at_a_time: Mutex<()>,
}

impl CommandPort {
    /// Asks and waits for the answer, at most `patience`. Blocks the calling thread.
    ///
    /// # Errors
    /// See [`AskError`].
    pub fn ask(&self, command: Command, patience: Duration) -> Result<Answer, AskError> {
        let _turn = self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        let deadline = StdInstant::now() + patience;
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        match self.commands.try_send(Numbered { serial, what: command }) {
            Ok(()) => self.bell.knock(),
            Err(TrySendError::Full(_)) => return Err(AskError::TimedOut),
            Err(TrySendError::Disconnected(_)) => return Err(AskError::Gone),
        }
        loop {
            match self.answers.recv_deadline(deadline) {
                Ok(answer) if answer.serial == serial => return Ok(answer.what),
                Ok(late) => self.note_late(&late.what),
                Err(RecvTimeoutError::Timeout) => return Err(AskError::TimedOut),
                Err(RecvTimeoutError::Disconnected) => return Err(AskError::Gone),
            }
        }
    }

    /// How much of what happened was in answers to [`Command::Follow`] that came too late, since this was called last:
    /// nobody heard of that, or will.
    pub fn take_unheard(&self) -> u64 {
        self.unheard.swap(0, Ordering::Relaxed)
    }

    fn note_late(&self, answer: &Answer) {
        if let Answer::Followed(told) = answer {
            let weight = |told: &Told| match told.happened {
                Happened::Missed(missed) => missed,
                _ => 1,
            };
            self.unheard.fetch_add(told.iter().map(weight).sum(), Ordering::Relaxed);
        }
    }
}

/// The worker's end, with the question it is at.
pub(crate) struct Clerk {
    commands: Receiver<Numbered<Command>>,
    answers: Sender<Numbered<Answer>>,
    job: Option<Numbered<Job>>,
    /// What goes out at the end of the turn.
    ready: Option<Numbered<Answer>>,
}

/// A question with how far it got.
enum Job {
    Visit { filter: Filter, cursor: Cursor, turns: u32, buffer: Vec<ConnectionView> },
    Delete { ids: Vec<ConnectionId>, next: usize, count: u64 },
    Edit { ids: Vec<ConnectionId>, edit: Edit, next: usize, count: u64 },
    Follow { buffer: Vec<Told> },
    Unfollow,
    Expectations { buffer: Vec<Expectation>, shard: usize },
    Mappings { buffer: Vec<Mapping>, turns: u32, cursor: mapping::Cursor },
    DeleteMatching { filter: Filter, cursor: Cursor, turns: u32, count: u64 },
}

/// What a clerk may use.
pub(crate) struct Office<'a> {
    pub(crate) pipeline: &'a mut Pipeline<'static>,
    pub(crate) me: WorkerId,
    pub(crate) counters: &'a Counters,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) now: Instant,
}

/// Both ends, for the worker that `bell` wakes.
pub(crate) fn command_port(bell: &Arc<Doorbell>) -> (CommandPort, Clerk) {
    let (commands, commands_in) = bounded(DEPTH);
    let (answers_out, answers) = bounded(2 * DEPTH);
    let port = CommandPort {
        commands,
        answers,
        bell: Arc::clone(bell),
        serial: AtomicU64::new(0),
        unheard: AtomicU64::new(0),
        one_at_a_time: Mutex::new(()),
    };
    (port, Clerk { commands: commands_in, answers: answers_out, job: None, ready: None })
}

impl Clerk {
    /// Whether there is something to do.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.job.is_none() && self.commands.is_empty()
    }

    /// Does one slice of work. Returns whether there was any. What is answered goes out with [`reply`](Self::reply).
    #[inline]
    pub(crate) fn work(&mut self, office: Office<'_>) -> bool {
        let busy = !self.is_idle();
        if busy {
            self.slice(office);
        }
        busy
    }

    #[cold]
    fn slice(&mut self, mut office: Office<'_>) {
        let Some(Numbered { serial, what }) = self.job.take().or_else(|| self.begin(&mut office))
        else {
            return;
        };
        match what.advance(&mut office) {
            Progress::More(what) => self.job = Some(Numbered { serial, what }),
            Progress::Done(what) => self.ready = Some(Numbered { serial, what }),
        }
        // Before another packet: what helpers expected of a connection goes with it.
        office.pipeline.bury(office.snapshot);
    }

    /// Sends the answer if there is one. After the turn's census: whoever has the answer finds it counted there.
    #[inline]
    pub(crate) fn reply(&mut self) {
        if let Some(answer) = self.ready.take() {
            // Full only when every answer of the last many was given up on: nobody waits for this one.
            let _ = self.answers.try_send(answer);
        }
    }

    /// Takes the next question; answers it at once if it is a short one.
    fn begin(&mut self, office: &mut Office<'_>) -> Option<Numbered<Job>> {
        let Numbered { serial, what } = self.commands.try_recv().ok()?;
        let what = match what {
            Command::Visit { filter, cursor, buffer } => {
                Job::Visit { filter, cursor, turns: 1, buffer }
            }
            Command::Delete { ids } => Job::Delete { ids, next: 0, count: 0 },
            Command::Edit { ids, edit } => Job::Edit { ids, edit, next: 0, count: 0 },
            Command::Follow { buffer } => {
                office.pipeline.follow(true);
                Job::Follow { buffer }
            }
            Command::Unfollow => {
                office.pipeline.follow(false);
                Job::Unfollow
            }
            Command::Expectations { buffer } => Job::Expectations { buffer, shard: 0 },
            Command::Mappings { buffer, cursor } => Job::Mappings { buffer, turns: 1, cursor },
            Command::DeleteMatching { filter, cursor } => {
                Job::DeleteMatching { filter, cursor, turns: 1, count: 0 }
            }
            Command::Get { id } => {
                let what = Answer::Got(office.pipeline.get(office.me, id, office.now));
                self.ready = Some(Numbered { serial, what });
                return None;
            }
        };
        Some(Numbered { serial, what })
    }
}

enum Progress {
    More(Job),
    Done(Answer),
}

impl Job {
    fn advance(self, office: &mut Office<'_>) -> Progress {
        let Office { pipeline, me, counters, snapshot, now } = office;
        let (me, now) = (*me, *now);
        match self {
            Self::Visit { filter, cursor, turns, mut buffer } => {
                // Each turn has room for all that its rows may hold.
                let rows = buffer.capacity().min(SLICE);
                let keep = |view| buffer.push(view);
                let next = pipeline.visit(me, cursor, rows as u32, &filter, now, keep);
                match next {
                    Some(cursor)
                        if turns < TURNS_MAX && buffer.capacity() - buffer.len() >= rows =>
                    {
                        Progress::More(Self::Visit { filter, cursor, turns: turns + 1, buffer })
                    }
                    cursor => Progress::Done(Answer::Visited { buffer, cursor }),
                }
            }
            Self::Delete { ids, next, mut count } => {
                let slice = SLICE.min(pipeline.spare_changes());
                let end = ids.len().min(next + slice);
                for &id in &ids[next..end] {
                    count +=
                        u64::from(pipeline.delete(me, id, Ended::Deleted, snapshot, counters, now));
                }
                if slice > 0 && end < ids.len() {
                    Progress::More(Self::Delete { ids, next: end, count })
                } else {
                    Progress::Done(Answer::Deleted { count, done: end, ids })
                }
            }
            Self::Edit { ids, edit, next, mut count } => {
                let slice = SLICE.min(pipeline.spare_changes());
                let end = ids.len().min(next + slice);
                for &id in &ids[next..end] {
                    count += u64::from(pipeline.edit(me, id, &edit, now).is_some());
                }
                if slice > 0 && end < ids.len() {
                    Progress::More(Self::Edit { ids, edit, next: end, count })
                } else {
                    Progress::Done(Answer::Edited { count, done: end, ids })
                }
            }
            Self::Follow { mut buffer } => {
                let room = (buffer.capacity() - buffer.len()).min(SLICE);
                pipeline.take_changes(me, room, counters, now, |told| buffer.push(told));
                if pipeline.has_no_changes() || buffer.len() == buffer.capacity() {
                    Progress::Done(Answer::Followed(buffer))
                } else {
                    Progress::More(Self::Follow { buffer })
                }
            }
            Self::Unfollow => {
                pipeline.take_changes(me, SLICE, counters, now, drop);
                if pipeline.has_no_changes() {
                    Progress::Done(Answer::Unfollowed)
                } else {
                    Progress::More(Self::Unfollow)
                }
            }
            Self::Expectations { mut buffer, shard } => {
                let room = buffer.capacity();
                let keep = |expected| {
                    // Never full, if it was made as asked.
                    if buffer.len() < room {
                        buffer.push(expected);
                    }
                };
                if snapshot.expectations.show(shard, now.tick(), keep) {
                    Progress::More(Self::Expectations { buffer, shard: shard + 1 })
                } else {
                    Progress::Done(Answer::Expected(buffer))
                }
            }
            Self::Mappings { mut buffer, turns, cursor } => {
                if buffer.capacity() - buffer.len() < SHOWN_MAX {
                    return Progress::Done(Answer::Mapped { buffer, cursor: Some(cursor) });
                }
                match snapshot.mappings.show(cursor, now.tick(), |mapping| buffer.push(mapping)) {
                    Some(cursor) if turns < TURNS_MAX => {
                        Progress::More(Self::Mappings { buffer, turns: turns + 1, cursor })
                    }
                    cursor => Progress::Done(Answer::Mapped { buffer, cursor }),
                }
            }
            Self::DeleteMatching { filter, cursor, turns, mut count } => {
                let all = filter == Filter::default();
                let why = if all { Ended::Flushed } else { Ended::Deleted };
                let rows = SLICE.min(pipeline.spare_changes());
                let mut ids = ArrayVec::<ConnectionId, SLICE>::new();
                let keep = |view: ConnectionView| ids.push(view.id);
                let next = pipeline.visit(me, cursor, rows as u32, &filter, now, keep);
                for id in ids {
                    count += u64::from(pipeline.delete(me, id, why, snapshot, counters, now));
                }
                match next {
                    Some(cursor) if rows > 0 && turns < TURNS_MAX => {
                        let turns = turns + 1;
                        Progress::More(Self::DeleteMatching { filter, cursor, turns, count })
                    }
                    cursor => Progress::Done(Answer::DeletedMatching { count, cursor }),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV4;

    use postern_core::conntrack::siphash::SipKey;
    use postern_core::nat::mapping::{Mappings, Refused, Wanted};
    use postern_core::rules::Independence;
    use postern_core::time::Tick;

    use super::*;

    #[test]
    fn what_a_late_answer_told_is_counted() {
        let bell = Doorbell::new().expect("eventfd");
        let (port, mut clerk) = command_port(&bell);
        let soon = Duration::from_millis(1);
        let follow = Command::Follow { buffer: Vec::with_capacity(2) };
        assert!(matches!(port.ask(follow, soon), Err(AskError::TimedOut)));
        let Ok(Numbered { serial, what: Command::Follow { mut buffer } }) =
            clerk.commands.try_recv()
        else {
            panic!("what was asked")
        };
        for happened in [Happened::New, Happened::Missed(50_000)] {
            buffer.push(Told { happened, connection: None, ago_ms: 0 });
        }
        clerk.ready = Some(Numbered { serial, what: Answer::Followed(buffer) });
        clerk.reply();
        assert_eq!(port.take_unheard(), 0, "it has not been looked at");
        let get = Command::Get { id: ConnectionId(0) };
        assert!(matches!(port.ask(get, soon), Err(AskError::TimedOut)));
        assert_eq!((port.take_unheard(), port.take_unheard()), (50_001, 0));
    }

    /// Two thousand slices of places, of which one is taken.
    #[test]
    fn a_sparse_table_of_mappings_is_listed_in_a_bounded_number_of_turns() {
        let wanted = |number: u32| Wanted {
            protocol: 17,
            inside: SocketAddrV4::new((0x0a00_0000 + number).into(), 5000),
            external: SocketAddrV4::new((0x0b00_0000 + number).into(), 5000),
            independence: Independence::Mapping,
            linger_ms: 1,
        };
        let places = 1 << 18;
        let mappings = Mappings::new(1, places, SipKey([1, 2]));
        for number in 0..places {
            mappings.hold(&wanted(number), Tick(0)).expect("room");
        }
        for number in 0..places - 1 {
            mappings.release(17, wanted(number).external, Tick(0), Refused::Yes);
        }
        let mut snapshot = crate::runtime::testing::snapshot(1);
        snapshot.mappings = Arc::new(mappings);
        let now = Instant(2_000_000_000);
        let mut pipeline = crate::runtime::testing::pipeline(64, now);
        let bell = Doorbell::new().expect("eventfd");
        let (port, mut clerk) = command_port(&bell);
        let (counters, me) = (Counters::default(), WorkerId(0));
        let (mut next, mut found, mut questions) = (Some(mapping::Cursor::default()), 0, 0);
        while let Some(cursor) = next {
            questions += 1;
            let ask = Command::Mappings { cursor, buffer: Vec::with_capacity(512) };
            assert!(port.ask(ask, Duration::from_millis(1)).is_err(), "nobody works yet");
            let mut turns = 0;
            while clerk.ready.is_none() {
                turns += 1;
                let (pipeline, counters) = (&mut pipeline, &counters);
                clerk.work(Office { pipeline, me, counters, snapshot: &snapshot, now });
            }
            assert!(turns <= TURNS_MAX, "{turns} turns");
            let answer = clerk.ready.take().map(|Numbered { what, .. }| what);
            let Some(Answer::Mapped { buffer, cursor }) = answer else {
                panic!("not an answer to that")
            };
            (next, found) = (cursor, found + buffer.len());
        }
        assert_eq!((found, questions), (1, 2));
    }
}
