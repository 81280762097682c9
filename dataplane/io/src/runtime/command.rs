//! What control asks of a worker, answered a slice at a time so that no question stops a packet.
//!
//! Buffers come with the question and go back with the answer: the worker neither allocates nor frees.
//! One question is under way at a time; [`CommandPort::ask`] sees to that, and to answers that come after
//! their asker has given up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant as StdInstant};

use arrayvec::ArrayVec;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use postern_core::conntrack::changes::Ended;
use postern_core::counters::Counters;
use postern_core::helper::expect::{Expectation, Expectations};
use postern_core::nat::mapping::{self, Mapping, Mappings, SHOWN_MAX};
use postern_core::pipeline::{ConnectionId, ConnectionView, Cursor, Edit, Filter, Pipeline, Told};
use postern_core::time::Instant;
use postern_core::units::WorkerId;

use super::handover::Doorbell;

/// Rows looked at, or connections deleted, in one turn.
const SLICE: u32 = 128;
/// Questions and answers under way: one that is waited for, and those that were given up.
const DEPTH: usize = 8;

/// A question.
#[derive(Debug)]
pub enum Command {
    /// Which connections does `filter` mean, from `cursor` on? As many as `buffer` has capacity for.
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
    /// Delete these.
    Delete {
        /// Which.
        ids: Vec<ConnectionId>,
    },
    /// Change something about these.
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
    /// Delete all that `filter` means.
    DeleteMatching {
        /// Which.
        filter: Filter,
    },
    /// How many does `filter` mean?
    Count {
        /// Which.
        filter: Filter,
    },
    /// Connections held and capacity, IPv4 then IPv6.
    Usage,
}

/// An answer, variant by variant that of the [`Command`].
#[derive(Debug)]
pub enum Answer {
    /// To [`Command::Visit`].
    Visited {
        /// What was found.
        buffer: Vec<ConnectionView>,
        /// Where to go on; `None` at the end.
        cursor: Option<Cursor>,
    },
    /// To [`Command::Get`]; `None` if it is gone.
    Got(Option<ConnectionView>),
    /// To [`Command::Delete`].
    Deleted {
        /// How many were there.
        count: u64,
        /// The list, back.
        ids: Vec<ConnectionId>,
    },
    /// To [`Command::Edit`].
    Edited {
        /// How many were there.
        count: u64,
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
    /// To [`Command::DeleteMatching`]: how many.
    DeletedMatching(u64),
    /// To [`Command::Count`].
    Counted(u64),
    /// To [`Command::Usage`].
    Usage([(u32, u32); 2]),
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
                Ok(_late) => {}
                Err(RecvTimeoutError::Timeout) => return Err(AskError::TimedOut),
                Err(RecvTimeoutError::Disconnected) => return Err(AskError::Gone),
            }
        }
    }
}

/// The worker's end, with the question it is at.
pub(crate) struct Clerk {
    commands: Receiver<Numbered<Command>>,
    answers: Sender<Numbered<Answer>>,
    job: Option<Numbered<Job>>,
}

/// A question with how far it got.
enum Job {
    Visit { filter: Filter, cursor: Cursor, buffer: Vec<ConnectionView> },
    Delete { ids: Vec<ConnectionId>, next: usize, count: u64 },
    Edit { ids: Vec<ConnectionId>, edit: Edit, next: usize, count: u64 },
    Follow { buffer: Vec<Told> },
    Unfollow,
    Expectations { buffer: Vec<Expectation>, shard: usize },
    Mappings { buffer: Vec<Mapping>, cursor: mapping::Cursor },
    DeleteMatching { filter: Filter, cursor: Cursor, count: u64 },
    Count { filter: Filter, cursor: Cursor, count: u64 },
}

/// What a clerk may use.
pub(crate) struct Office<'a> {
    pub(crate) pipeline: &'a mut Pipeline<'static>,
    pub(crate) me: WorkerId,
    pub(crate) counters: &'a Counters,
    pub(crate) expectations: &'a Expectations,
    pub(crate) mappings: &'a Mappings,
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
        one_at_a_time: Mutex::new(()),
    };
    (port, Clerk { commands: commands_in, answers: answers_out, job: None })
}

impl Clerk {
    /// Whether there is something to do.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.job.is_none() && self.commands.is_empty()
    }

    /// Does one slice of work. Returns whether there was any.
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
        match what.advance(office) {
            Progress::More(what) => self.job = Some(Numbered { serial, what }),
            Progress::Done(answer) => self.answer(serial, answer),
        }
    }

    /// Takes the next question; answers it at once if it is a short one.
    fn begin(&self, office: &mut Office<'_>) -> Option<Numbered<Job>> {
        let Numbered { serial, what } = self.commands.try_recv().ok()?;
        let cursor = Cursor::default();
        let what = match what {
            Command::Visit { filter, cursor, buffer } => Job::Visit { filter, cursor, buffer },
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
            Command::Mappings { buffer, cursor } => Job::Mappings { buffer, cursor },
            Command::DeleteMatching { filter } => Job::DeleteMatching { filter, cursor, count: 0 },
            Command::Count { filter } => Job::Count { filter, cursor, count: 0 },
            Command::Get { id } => {
                let found = office.pipeline.get(office.me, id, office.now);
                self.answer(serial, Answer::Got(found));
                return None;
            }
            Command::Usage => {
                self.answer(serial, Answer::Usage(office.pipeline.usage()));
                return None;
            }
        };
        Some(Numbered { serial, what })
    }

    fn answer(&self, serial: u64, what: Answer) {
        // Full only when every answer of the last many was given up on: nobody waits for this one.
        let _ = self.answers.try_send(Numbered { serial, what });
    }
}

enum Progress {
    More(Job),
    Done(Answer),
}

impl Job {
    fn advance(self, office: Office<'_>) -> Progress {
        let Office { pipeline, me, counters, expectations, mappings, now } = office;
        match self {
            Self::Visit { filter, cursor, mut buffer } => {
                let room = (buffer.capacity() - buffer.len()).min(SLICE as usize) as u32;
                if room == 0 {
                    return Progress::Done(Answer::Visited { buffer, cursor: Some(cursor) });
                }
                let next = pipeline.visit(me, cursor, room, &filter, now, |view| buffer.push(view));
                match next {
                    Some(cursor) => Progress::More(Self::Visit { filter, cursor, buffer }),
                    None => Progress::Done(Answer::Visited { buffer, cursor: None }),
                }
            }
            Self::Delete { ids, next, mut count } => {
                let end = ids.len().min(next + SLICE as usize);
                for &id in &ids[next..end] {
                    count += u64::from(pipeline.delete(me, id, Ended::Deleted, counters, now));
                }
                if end < ids.len() {
                    Progress::More(Self::Delete { ids, next: end, count })
                } else {
                    Progress::Done(Answer::Deleted { count, ids })
                }
            }
            Self::Edit { ids, edit, next, mut count } => {
                let end = ids.len().min(next + SLICE as usize);
                for &id in &ids[next..end] {
                    count += u64::from(pipeline.edit(me, id, &edit, now).is_some());
                }
                if end < ids.len() {
                    Progress::More(Self::Edit { ids, edit, next: end, count })
                } else {
                    Progress::Done(Answer::Edited { count, ids })
                }
            }
            Self::Follow { mut buffer } => {
                let room = (buffer.capacity() - buffer.len()).min(SLICE as usize);
                pipeline.take_changes(me, room, counters, now, |told| buffer.push(told));
                if pipeline.has_no_changes() || buffer.len() == buffer.capacity() {
                    Progress::Done(Answer::Followed(buffer))
                } else {
                    Progress::More(Self::Follow { buffer })
                }
            }
            Self::Unfollow => {
                pipeline.take_changes(me, SLICE as usize, counters, now, drop);
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
                if expectations.show(shard, now.tick(), keep) {
                    Progress::More(Self::Expectations { buffer, shard: shard + 1 })
                } else {
                    Progress::Done(Answer::Expected(buffer))
                }
            }
            Self::Mappings { mut buffer, cursor } => {
                if buffer.capacity() - buffer.len() < SHOWN_MAX {
                    return Progress::Done(Answer::Mapped { buffer, cursor: Some(cursor) });
                }
                match mappings.show(cursor, now.tick(), |mapping| buffer.push(mapping)) {
                    Some(cursor) => Progress::More(Self::Mappings { buffer, cursor }),
                    None => Progress::Done(Answer::Mapped { buffer, cursor: None }),
                }
            }
            Self::DeleteMatching { filter, cursor, mut count } => {
                let all = filter == Filter::default();
                let why = if all { Ended::Flushed } else { Ended::Deleted };
                let mut ids = ArrayVec::<ConnectionId, { SLICE as usize }>::new();
                let next =
                    pipeline.visit(me, cursor, SLICE, &filter, now, |view| ids.push(view.id));
                for id in ids {
                    count += u64::from(pipeline.delete(me, id, why, counters, now));
                }
                match next {
                    Some(cursor) => Progress::More(Self::DeleteMatching { filter, cursor, count }),
                    None => Progress::Done(Answer::DeletedMatching(count)),
                }
            }
            Self::Count { filter, cursor, mut count } => {
                match pipeline.visit(me, cursor, SLICE, &filter, now, |_| count += 1) {
                    Some(cursor) => Progress::More(Self::Count { filter, cursor, count }),
                    None => Progress::Done(Answer::Counted(count)),
                }
            }
        }
    }
}
