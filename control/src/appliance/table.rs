//! Walks through the workers' tables, by as many questions as it takes: a page of connections, some of them, all.
//!
//! No worker is asked for longer than it may take ([`Command`]), and none is passed over because another did not answer:
//! what failed is told at the end, with what was done.

use async_trait::async_trait;
use postern_core::pipeline::{ConnectionId, ConnectionView, Cursor as Place, Filter};
use postern_io::runtime::{Answer, Command};

use crate::api::backend::{BackendError, Cursor};

/// Connections asked for at once.
pub(super) const PAGE: usize = 512;
/// How often in a row a worker may find no room to note what it is to do before whoever takes the notes is given up.
const WAITS_MAX: u32 = 1000;

/// Those who have the tables.
#[async_trait]
pub(super) trait Workers: Sync {
    /// How many there are.
    fn count(&self) -> usize;

    /// Asks one of them.
    async fn ask(&self, worker: usize, command: Command) -> Result<Answer, BackendError>;

    /// Has what happened taken from them for those who follow, and lets a moment pass.
    async fn make_room(&self);
}

/// Which connections are meant: by what the workers can tell, and of those by what else is asked.
pub(super) struct Meant<F> {
    pub(super) filter: Filter,
    pub(super) also: F,
}

/// What is said of an answer to another question.
pub(super) fn unexpected() -> BackendError {
    BackendError::Internal("not an answer to what was asked".to_owned())
}

/// The connections that are meant in a slice of rows, and where to go on.
pub(super) async fn page(
    workers: &impl Workers,
    meant: &Meant<impl Fn(&ConnectionView) -> bool + Sync>,
    Cursor(cursor): Cursor,
) -> Result<(Vec<ConnectionView>, Option<Cursor>), BackendError> {
    let worker = (cursor >> 32) as usize;
    if worker >= workers.count() {
        return Err(BackendError::Invalid("the cursor leads nowhere".to_owned()));
    }
    let (views, next) = visit(workers, worker, meant, Place::from_bits(cursor as u32)).await?;
    let next = match next {
        Some(place) => Some(Cursor((worker as u64) << 32 | u64::from(place.to_bits()))),
        None => (worker + 1 < workers.count()).then_some(Cursor((worker as u64 + 1) << 32)),
    };
    Ok((views, next))
}

async fn visit(
    workers: &impl Workers,
    worker: usize,
    meant: &Meant<impl Fn(&ConnectionView) -> bool + Sync>,
    cursor: Place,
) -> Result<(Vec<ConnectionView>, Option<Place>), BackendError> {
    let (filter, buffer) = (meant.filter, Vec::with_capacity(PAGE));
    let command = Command::Visit { filter, cursor, buffer };
    let Answer::Visited { mut buffer, cursor } = workers.ask(worker, command).await? else {
        return Err(unexpected());
    };
    buffer.retain(|view| (meant.also)(view));
    Ok((buffer, cursor))
}

/// Has something done, by `command`, to all connections that are meant; to how many it was.
pub(super) async fn to_all(
    workers: &impl Workers,
    meant: &Meant<impl Fn(&ConnectionView) -> bool + Sync>,
    command: impl Fn(Vec<ConnectionId>) -> Command + Sync,
) -> Result<u64, BackendError> {
    let mut sum = Sum::default();
    for worker in 0..workers.count() {
        let mut from = Some(Place::default());
        while let Some(place) = from.take() {
            let walked = visit(workers, worker, meant, place).await;
            let Some((views, next)) = sum.note(worker, walked) else { break };
            let ids = views.iter().map(|view| view.id).collect();
            let done = to_some_of(workers, worker, ids, &command, &mut sum.done).await;
            from = sum.note(worker, done).and(next);
        }
    }
    sum.end()
}

/// Has something done, by `command`, to one connection; whether it was there.
pub(super) async fn to_one(
    workers: &impl Workers,
    id: ConnectionId,
    command: impl Fn(Vec<ConnectionId>) -> Command + Sync,
) -> Result<bool, BackendError> {
    let mut done = 0;
    to_some_of(workers, id.worker().index(), vec![id], &command, &mut done).await?;
    Ok(done > 0)
}

/// The same to some connections of one worker; `sum` counts them.
async fn to_some_of(
    workers: &impl Workers,
    worker: usize,
    mut ids: Vec<ConnectionId>,
    command: &(impl Fn(Vec<ConnectionId>) -> Command + Sync),
    sum: &mut u64,
) -> Result<(), BackendError> {
    let mut waits = Waits::default();
    while !ids.is_empty() {
        let (Answer::Deleted { count, done, ids: mut list }
        | Answer::Edited { count, done, ids: mut list }) =
            workers.ask(worker, command(ids)).await?
        else {
            return Err(unexpected());
        };
        *sum += count;
        list.drain(..done);
        ids = list;
        if !ids.is_empty() {
            waits.wait(workers, done > 0).await?;
        }
    }
    Ok(())
}

/// Deletes every connection; how many there were.
pub(super) async fn flush(workers: &impl Workers) -> Result<u64, BackendError> {
    let mut sum = Sum::default();
    for worker in 0..workers.count() {
        let flushed = flush_one(workers, worker, &mut sum.done).await;
        let _ = sum.note(worker, flushed);
    }
    sum.end()
}

async fn flush_one(
    workers: &impl Workers,
    worker: usize,
    sum: &mut u64,
) -> Result<(), BackendError> {
    let (mut from, mut waits) = (Some(Place::default()), Waits::default());
    while let Some(place) = from {
        let command = Command::DeleteMatching { filter: Filter::default(), cursor: place };
        let Answer::DeletedMatching { count, cursor } = workers.ask(worker, command).await? else {
            return Err(unexpected());
        };
        *sum += count;
        from = cursor;
        // Nothing came of it for want of room, or more was noted than should wait.
        if from.is_some() && (count > 0 || from == Some(place)) {
            waits.wait(workers, count > 0).await?;
        }
    }
    Ok(())
}

/// How often in a row nothing could be done.
#[derive(Default)]
struct Waits(u32);

impl Waits {
    async fn wait(&mut self, workers: &impl Workers, progress: bool) -> Result<(), BackendError> {
        self.0 = if progress { 0 } else { self.0 + 1 };
        if self.0 > WAITS_MAX {
            let what = "nobody takes the notes of what happens";
            return Err(BackendError::Unavailable(what.to_owned()));
        }
        workers.make_room().await;
        Ok(())
    }
}

/// What was done, and by whom it was not.
#[derive(Default)]
struct Sum {
    done: u64,
    failures: Vec<String>,
}

impl Sum {
    fn note<T>(&mut self, worker: usize, result: Result<T, BackendError>) -> Option<T> {
        result.map_err(|error| self.failures.push(format!("worker {worker}: {error}"))).ok()
    }

    fn end(self) -> Result<u64, BackendError> {
        if self.failures.is_empty() {
            return Ok(self.done);
        }
        let failures = self.failures.join("; ");
        let done = self.done;
        Err(BackendError::Unavailable(format!("{failures}; {done} connections were done before")))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use postern_core::conntrack::tuple::{Tuple, protocol};
    use postern_core::units::InterfaceId;

    use super::*;

    /// Workers with connections, by row. Notes of what happened find room only when it is made.
    struct Fake {
        tables: Vec<Mutex<Vec<bool>>>,
        noted: Mutex<usize>,
        deaf: Option<usize>,
        takes_notes: bool,
    }

    /// Rows that one question looks at, and notes that find room.
    const ROWS: usize = 100;
    const NOTES: usize = 60;

    impl Fake {
        fn new(tables: &[usize]) -> Self {
            let tables = tables.iter().map(|&rows| Mutex::new(vec![true; rows])).collect();
            Self { tables, noted: Mutex::new(0), deaf: None, takes_notes: true }
        }

        fn left(&self) -> Vec<usize> {
            let live =
                |rows: &Mutex<Vec<bool>>| rows.lock().unwrap().iter().filter(|r| **r).count();
            self.tables.iter().map(live).collect()
        }
    }

    #[async_trait]
    impl Workers for Fake {
        fn count(&self) -> usize {
            self.tables.len()
        }

        async fn ask(&self, worker: usize, command: Command) -> Result<Answer, BackendError> {
            if self.deaf == Some(worker) {
                return Err(BackendError::Unavailable("no answer".to_owned()));
            }
            let mut table = self.tables[worker].lock().unwrap();
            let mut noted = self.noted.lock().unwrap();
            let next = |end: usize, rows: usize| (end < rows).then(|| Place::from_bits(end as u32));
            Ok(match command {
                Command::DeleteMatching { cursor, .. } => {
                    let from = cursor.to_bits() as usize;
                    let end = table.len().min(from + ROWS.min(NOTES - *noted));
                    let count = table[from..end].iter().filter(|row| **row).count();
                    table[from..end].fill(false);
                    *noted += count;
                    let cursor = next(end, table.len());
                    Answer::DeletedMatching { count: count as u64, cursor }
                }
                Command::Visit { cursor, mut buffer, .. } => {
                    let from = cursor.to_bits() as usize;
                    let end = table.len().min(from + ROWS);
                    let live = (from..end).filter(|row| table[*row]);
                    buffer.extend(live.map(|row| connection(worker, row)));
                    Answer::Visited { buffer, cursor: next(end, table.len()) }
                }
                Command::Delete { ids } => {
                    let done = ids.len().min(NOTES - *noted);
                    let gone = |id: &ConnectionId| std::mem::take(&mut table[row_of(*id)]);
                    let count = ids[..done].iter().map(gone).filter(|was| *was).count();
                    *noted += count;
                    Answer::Deleted { count: count as u64, done, ids }
                }
                _ => panic!("not asked here"),
            })
        }

        async fn make_room(&self) {
            if self.takes_notes {
                *self.noted.lock().unwrap() = 0;
            }
        }
    }

    /// The id of a row, as the core has it.
    fn id(worker: usize, row: usize) -> ConnectionId {
        ConnectionId((worker as u64) << 31 | row as u64)
    }

    fn row_of(id: ConnectionId) -> usize {
        (id.0 & ((1 << 30) - 1)) as usize
    }

    /// A connection whose mark is its row.
    fn connection(worker: usize, row: usize) -> ConnectionView {
        let [src, dst] = [[192, 168, 1, 2], [192, 0, 2, 9]].map(std::net::IpAddr::from);
        let original = Tuple::new(src, dst, 5000, 53, protocol::UDP).expect("one family");
        ConnectionView {
            id: id(worker, row),
            original,
            reply: original.inverted(),
            flags: 0,
            protocol_state: 0,
            remaining_ms: 1000,
            packets: [1, 1],
            bytes: [40, 40],
            mark: row as u32,
            ingress: InterfaceId(0),
            egress: InterfaceId(1),
            helper: None,
            age_ms: 0,
        }
    }

    /// Those whose mark is a multiple of that.
    fn multiples_of(number: u32) -> Meant<impl Fn(&ConnectionView) -> bool + Sync> {
        let also = move |view: &ConnectionView| view.mark.is_multiple_of(number);
        Meant { filter: Filter::default(), also }
    }

    #[tokio::test]
    async fn pages_go_through_all_workers_and_hold_what_is_meant() {
        let workers = Fake::new(&[250, 0, 130]);
        let (mut next, mut pages) = (Some(Cursor(0)), Vec::new());
        while let Some(cursor) = next {
            let (views, after) = page(&workers, &multiples_of(10), cursor).await.expect("a page");
            pages.push(views.iter().map(|view| view.id).collect::<Vec<_>>());
            next = after;
        }
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [10, 10, 5, 0, 10, 3]);
        let expected = [(0, 250), (2, 130)];
        let expected = expected
            .into_iter()
            .flat_map(|(worker, rows)| (0..rows).step_by(10).map(move |row| id(worker, row)));
        assert_eq!(pages.concat(), expected.collect::<Vec<_>>());
        let nowhere = page(&workers, &multiples_of(10), Cursor(3 << 32)).await;
        assert!(matches!(nowhere, Err(BackendError::Invalid(_))));
    }

    #[tokio::test]
    async fn what_is_done_to_all_is_done_to_those_meant_as_fast_as_it_is_noted() {
        let workers = Fake::new(&[250, 0, 130]);
        let delete = |ids| Command::Delete { ids };
        assert_eq!(to_all(&workers, &multiples_of(2), delete).await, Ok(190));
        assert_eq!(workers.left(), [125, 0, 65]);
        assert_eq!(to_all(&workers, &multiples_of(2), delete).await, Ok(0));
    }

    #[tokio::test]
    async fn a_worker_that_does_not_answer_keeps_no_other_from_being_asked() {
        let workers = Fake { deaf: Some(1), ..Fake::new(&[30, 20, 10]) };
        let delete = |ids| Command::Delete { ids };
        let error = to_all(&workers, &multiples_of(1), delete).await.unwrap_err().to_string();
        assert_eq!(error, "worker 1: no answer; 40 connections were done before");
        assert_eq!(workers.left(), [0, 20, 0]);
        assert!(to_one(&workers, id(1, 7), delete).await.is_err());
    }

    #[tokio::test]
    async fn one_connection_is_done_once() {
        let workers = Fake::new(&[0, 20]);
        let delete = |ids| Command::Delete { ids };
        assert_eq!(to_one(&workers, id(1, 7), delete).await, Ok(true));
        assert_eq!(to_one(&workers, id(1, 7), delete).await, Ok(false));
        assert_eq!(workers.left(), [0, 19]);
    }

    /// C202: a flush goes on until all are gone, as fast as what happens is taken.
    #[tokio::test]
    async fn a_flush_is_cut_into_questions_and_waits_for_those_who_follow() {
        let workers = Fake::new(&[1000, 0, 250]);
        assert_eq!(flush(&workers).await, Ok(1250));
        assert_eq!(workers.left(), [0, 0, 0]);
    }

    #[tokio::test]
    async fn a_worker_that_does_not_answer_keeps_no_other_from_being_flushed() {
        let workers = Fake { deaf: Some(0), ..Fake::new(&[100, 200, 300]) };
        let error = flush(&workers).await.unwrap_err().to_string();
        assert_eq!(error, "worker 0: no answer; 500 connections were done before");
        assert_eq!(workers.left(), [100, 0, 0]);
    }

    #[tokio::test]
    async fn a_flush_whose_notes_nobody_takes_ends() {
        let workers = Fake { takes_notes: false, ..Fake::new(&[100]) };
        let error = flush(&workers).await.unwrap_err().to_string();
        assert!(error.contains("nobody takes the notes"), "{error}");
        assert_eq!(workers.left(), [100 - NOTES]);
    }
}
