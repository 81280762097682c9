//! What control asks of running workers.

use std::collections::HashSet;
use std::time::Duration;

use postern_core::conntrack::changes::{CHANGES_MAX, Ended, Happened};
use postern_core::pipeline::{ConnectionId, ConnectionView, Cursor, Edit, Filter, Told};
use postern_io::runtime::testing::{LAN, udp};
use postern_io::runtime::{Answer, AskError, Command};

use crate::lab::{self, Lab, Shape, drops, inside, outside};
use crate::{ping_pong, ping_pong_while};

/// Deletes all of a worker's connections, which nobody follows. How many there were.
fn flush(lab: &Lab, worker: usize) -> u64 {
    let (mut all, mut from) = (0, Some(Cursor::default()));
    while let Some(cursor) = from {
        let command = Command::DeleteMatching { filter: Filter::default(), cursor };
        let Ok(Answer::DeletedMatching { count, cursor }) =
            lab.handle.workers[worker].commands.ask(command, lab::PATIENCE)
        else {
            panic!("an answer")
        };
        (all, from) = (all + count, cursor);
    }
    all
}

/// All connections of a worker, by as many questions as it takes.
fn visit_all(lab: &Lab, worker: usize, capacity: usize) -> Vec<ConnectionView> {
    let (mut all, mut cursor) = (Vec::new(), Some(Cursor::default()));
    while let Some(from) = cursor {
        let buffer = Vec::with_capacity(capacity);
        let command = Command::Visit { filter: Filter::default(), cursor: from, buffer };
        match lab.handle.workers[worker].commands.ask(command, lab::PATIENCE) {
            Ok(Answer::Visited { buffer, cursor: next }) => {
                assert!(buffer.len() <= buffer.capacity() && buffer.capacity() == capacity);
                all.extend(buffer);
                cursor = next;
            }
            other => panic!("{other:?}"),
        }
    }
    all
}

/// What both workers noted since they were asked last.
fn follow(lab: &Lab) -> Vec<Told> {
    let mut all = Vec::new();
    for worker in &lab.handle.workers {
        loop {
            let command = Command::Follow { buffer: Vec::with_capacity(64) };
            let Ok(Answer::Followed(told)) = worker.commands.ask(command, lab::PATIENCE) else {
                panic!("an answer")
            };
            let full = told.len() == 64;
            all.extend(told);
            if !full {
                break;
            }
        }
    }
    all
}

/// Every connection of running workers is told of once as it comes and once as it goes; packets wait for nobody.
#[test]
fn workers_are_followed_under_load() {
    let mut lab = Lab::new(Shape::default());
    assert!(follow(&lab).is_empty());
    let mut told = Vec::new();
    ping_pong_while(&mut lab, 300, 4, |lab| told.extend(follow(lab)));
    let ids = |happened: &[Told], wanted: fn(&Happened) -> bool| -> Vec<ConnectionId> {
        let of = happened.iter().filter(|told| wanted(&told.happened));
        of.map(|told| told.connection.expect("nothing was missed").id).collect()
    };
    let new: HashSet<_> = ids(&told, |h| *h == Happened::New).into_iter().collect();
    assert_eq!(new.len(), 300);
    assert_eq!(ids(&told, |h| *h == Happened::New).len(), 300);
    assert!(ids(&told, |h| *h == Happened::Updated).iter().all(|id| new.contains(id)));

    let ask = |worker: usize, command| {
        lab.handle.workers[worker].commands.ask(command, lab::PATIENCE).expect("an answer")
    };
    let owned = |worker| new.iter().copied().filter(|id| id.worker().index() == worker).collect();
    for worker in 0..2 {
        let ids: Vec<_> = owned(worker);
        let (count, edit) = (ids.len() as u64, Edit { mark: Some((9, 0xff)), timeout_ms: None });
        let edited = ask(worker, Command::Edit { ids, edit });
        assert!(matches!(edited, Answer::Edited { count: done, .. } if done == count));
    }
    let marked = follow(&lab);
    assert!(marked.iter().all(|told| told.connection.is_some_and(|c| c.mark == 9)));
    assert_eq!(ids(&marked, |h| *h == Happened::Updated).len(), 300);
    for worker in 0..2 {
        flush(&lab, worker);
    }
    let gone = follow(&lab);
    let flushed = ids(&gone, |h| *h == Happened::Destroyed(Ended::Flushed));
    assert_eq!(flushed.into_iter().collect::<HashSet<_>>(), new);
    for worker in 0..2 {
        assert!(matches!(ask(worker, Command::Unfollow), Answer::Unfollowed));
    }
    ping_pong(&mut lab, 100, 1);
    assert!(follow(&lab).is_empty(), "nobody followed");
    assert_eq!(lab.settle().changes_missed, 0);
    lab.stop();
}

#[test]
fn commands_are_answered_under_load() {
    let mut lab = Lab::new(Shape::default());
    let mut total = 0;
    for round in 0..10 {
        total += ping_pong(&mut lab, 300, 2);
        let views: Vec<_> =
            (0..2).flat_map(|worker| visit_all(&lab, worker, 7 + 40 * round)).collect();
        assert_eq!(views.iter().map(|view| view.id).collect::<HashSet<_>>().len(), 300);
        assert_eq!(views.len(), 300);
        let ask = |worker: usize, command| {
            lab.handle.workers[worker].commands.ask(command, lab::PATIENCE).expect("an answer")
        };
        let one = views[0];
        let owner = one.id.worker().index();
        let filter = Filter { sport: Some(one.original.src_id()), ..Filter::default() };
        let (cursor, buffer) = (Cursor::default(), Vec::with_capacity(2));
        let Answer::Visited { buffer: found, .. } =
            ask(owner, Command::Visit { filter, cursor, buffer })
        else {
            panic!()
        };
        assert_eq!(found.len(), 1);
        assert!(
            matches!(ask(owner, Command::Get { id: one.id }), Answer::Got(Some(v)) if v.id == one.id)
        );
        let ids = vec![one.id, one.id];
        assert!(matches!(
            ask(owner, Command::Delete { ids }),
            Answer::Deleted { count: 1, done: 2, ids } if ids.len() == 2
        ));
        assert!(matches!(ask(owner, Command::Get { id: one.id }), Answer::Got(None)));
        let mut left = 0;
        for worker in 0..2 {
            let live = lab.handle.workers[worker].gauges.read().connections_v4;
            let gone = flush(&lab, worker);
            assert_eq!(live, gone, "whoever has an answer finds it in the gauges");
            left += gone;
        }
        assert_eq!(left, 299);
    }
    let values = lab.settle();
    assert_eq!((values.forwarded, values.dropped()), (2 * total, 0), "{:?}", drops(&values));
    assert_eq!((values.connections_new, values.connections_gone), (3_000, 3_000));
    let handle = &lab.handle.workers[0].commands;
    lab.handle.stop();
    let late = std::iter::repeat_with(|| {
        std::thread::sleep(Duration::from_millis(5));
        handle.ask(Command::Get { id: ConnectionId(0) }, Duration::from_millis(5))
    });
    assert!(late.take(1_000).any(|answer| matches!(answer, Err(AskError::Gone))));
}

/// So many connections from inside, the first datagram of each.
fn open_connections(lab: &mut Lab, connections: u32, mut meanwhile: impl FnMut(&Lab)) {
    for n in 0..connections {
        let from = inside(10 + (n % 200) as u8, 10_000 + (n / 200) as u16);
        lab.send(LAN, 0, &udp(LAN, from, outside(53), b"one of many"));
        // A window, so that no ring can overflow.
        if n % 40 == 39 || n + 1 == connections {
            let mut left = (n % 40 + 1) as usize;
            lab.wait_for("what was sent", |lab| {
                left -= lab.wires[1].iter_mut().map(|wire| wire.drain(|_| ())).sum::<usize>();
                left == 0
            });
            meanwhile(lab);
        }
    }
}

/// A table that was full once is long, however few connections are left in it: no question about it takes a worker
/// longer than another.
#[test]
fn a_long_table_is_walked_by_questions_of_bounded_length() {
    const LONG: u32 = 40_000;
    /// Rows that one question looks at: the runtime's SLICE times TURNS_MAX.
    const ROWS: u32 = 128 * 128;
    let shape = Shape { workers: 1, queues: [1, 1], connections: LONG, ..Shape::default() };
    let mut lab = Lab::new(shape);
    open_connections(&mut lab, LONG, |_| ());
    assert_eq!(flush(&lab, 0), u64::from(LONG));
    ping_pong(&mut lab, 3, 1);
    let commands = &lab.handle.workers[0].commands;

    let (mut found, mut asked, mut from) = (0, 0, Some(Cursor::default()));
    while let Some(cursor) = from {
        let buffer = Vec::with_capacity(512);
        let command = Command::Visit { filter: Filter::default(), cursor, buffer };
        let answer = commands.ask(command, lab::PATIENCE);
        let Ok(Answer::Visited { buffer, cursor: next }) = answer else { panic!("an answer") };
        let rows = next.map_or(LONG, Cursor::to_bits).saturating_sub(cursor.to_bits());
        assert!(rows <= ROWS, "{rows} rows by one question");
        found += buffer.len();
        (asked, from) = (asked + 1, next);
    }
    assert_eq!(found, 3);
    assert!((3..=5).contains(&asked), "{asked} questions");

    let (mut gone, mut asked, mut from) = (0, 0, Some(Cursor::default()));
    while let Some(cursor) = from {
        let command = Command::DeleteMatching { filter: Filter::default(), cursor };
        let Ok(Answer::DeletedMatching { count, cursor }) = commands.ask(command, lab::PATIENCE)
        else {
            panic!("an answer")
        };
        (gone, asked, from) = (gone + count, asked + 1, cursor);
    }
    assert_eq!(gone, 3);
    assert!((3..=5).contains(&asked), "{asked} questions");
    lab.settle();
    lab.stop();
}

/// C202: who follows hears of every connection that is edited and deleted, however many there are at once: the worker
/// stops while there is no room to note more, and goes on once it was asked what happened.
#[test]
fn nothing_of_a_followed_flush_is_missed() {
    const MANY: u32 = 2 * CHANGES_MAX + 1000;
    let shape = Shape { workers: 1, queues: [1, 1], connections: 2 * MANY, ..Shape::default() };
    let mut lab = Lab::new(shape);
    let mut told = follow(&lab);
    open_connections(&mut lab, MANY, |lab| told.extend(follow(lab)));
    told.extend(follow(&lab));
    let ids = |told: &[Told], wanted: Happened| -> Vec<ConnectionId> {
        let id = |told: &Told| told.connection.expect("nothing was missed").id;
        told.iter().filter(|told| told.happened == wanted).map(id).collect()
    };
    let mut all = ids(&told, Happened::New);
    assert_eq!(all.len(), MANY as usize);
    let ask = |command| lab.handle.workers[0].commands.ask(command, lab::PATIENCE);

    let (mut left, mut told) = (all.clone(), Vec::new());
    while !left.is_empty() {
        let edit = Edit { mark: Some((7, 0xff)), timeout_ms: None };
        let Ok(Answer::Edited { count, done, ids }) = ask(Command::Edit { ids: left, edit }) else {
            panic!("an answer")
        };
        assert_eq!(count, done as u64);
        left = ids[done..].to_vec();
        told.extend(follow(&lab));
    }
    assert_eq!(ids(&told, Happened::Updated), all);

    let (some, mut told) = (all.split_off(MANY as usize / 2), Vec::new());
    let mut left = some.clone();
    while !left.is_empty() {
        let Ok(Answer::Deleted { count, done, ids }) = ask(Command::Delete { ids: left }) else {
            panic!("an answer")
        };
        assert_eq!(count, done as u64);
        left = ids[done..].to_vec();
        told.extend(follow(&lab));
    }
    assert_eq!(ids(&told, Happened::Destroyed(Ended::Deleted)), some);

    let (mut flushed, mut from, mut told) = (0, Some(Cursor::default()), Vec::new());
    while let Some(cursor) = from {
        let command = Command::DeleteMatching { filter: Filter::default(), cursor };
        let Ok(Answer::DeletedMatching { count, cursor }) = ask(command) else {
            panic!("an answer")
        };
        (flushed, from) = (flushed + count, cursor);
        told.extend(follow(&lab));
    }
    let heard: HashSet<_> = ids(&told, Happened::Destroyed(Ended::Flushed)).into_iter().collect();
    assert_eq!((flushed, heard), (all.len() as u64, all.into_iter().collect()));
    assert_eq!(lab.settle().changes_missed, 0);
    lab.stop();
}
