//! What happens to connections, from the workers' logs to everybody who follows.
//!
//! Workers take notes only while somebody follows ([`Command::Follow`]). One task asks them by turns and hands each event
//! to all followers through a ring of bounded length: a follower that does not keep up misses the oldest and is told
//! how many; nobody waits for it, neither another follower nor a worker.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::stream;
use postern_core::pipeline::Told;
use postern_core::units::InterfaceId;
use postern_io::runtime::{Answer, Command};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{Notify, broadcast, watch};
use tracing::debug;

use super::backend::Running;
use super::views;
use crate::api::backend::BackendError;
use crate::api::event::{Event, Events};

/// Events that wait for the slowest follower.
const WAITING_MAX: usize = 8192;
/// Events that a follower takes at once.
const BATCH: usize = 256;
/// Events that a worker is asked for at once.
const ANSWER: usize = 512;
/// How long the workers are left alone once all was told.
const PERIOD: Duration = Duration::from_millis(10);

/// Where followers come together.
pub struct Hub {
    line: Mutex<Line>,
    /// Somebody came.
    came: Notify,
    /// Somebody waits until what workers noted is taken from them.
    hurry: Notify,
    /// Whether all workers take notes.
    open: watch::Sender<bool>,
}

/// The ring, and how much has gone into it.
struct Line {
    /// `None` once the appliance stops.
    sender: Option<broadcast::Sender<Arc<Entry>>>,
    /// Of all that happened: what was told, and what was missed and is known of.
    total: u64,
}

/// An event in the ring, with the [total](Line::total) before and after it: a follower who misses entries knows by that
/// how much they stood for.
struct Entry {
    event: Event,
    before: u64,
    after: u64,
}

/// A follower's end of the ring.
struct Listener {
    receiver: broadcast::Receiver<Arc<Entry>>,
    /// What it knows of, of the total.
    heard: u64,
}

impl Default for Hub {
    fn default() -> Self {
        let sender = Some(broadcast::Sender::new(WAITING_MAX));
        Self {
            line: Mutex::new(Line { sender, total: 0 }),
            came: Notify::new(),
            hurry: Notify::new(),
            open: watch::Sender::new(false),
        }
    }
}

impl Hub {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many follow; `None` once the appliance stops.
    fn listeners(&self) -> Option<usize> {
        Some(self.line().sender.as_ref()?.receiver_count())
    }

    /// How many follow.
    pub fn followers(&self) -> usize {
        self.listeners().unwrap_or(0)
    }

    /// Tells everybody.
    fn send(&self, event: Event) {
        let mut line = self.line();
        let before = line.total;
        let weight = if let Event::Overrun { missed, .. } = event { missed } else { 1 };
        line.total += weight;
        if let Some(sender) = &line.sender {
            // The last follower may have left.
            let _ = sender.send(Arc::new(Entry { event, before, after: before + weight }));
        }
    }

    /// Has what the workers noted taken from them soon.
    pub fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// Ends all streams.
    pub fn close(&self) {
        self.line().sender = None;
        self.came.notify_one();
        self.open.send_replace(true); // for who waits to begin: the end comes at once
    }

    /// Everything that happens from when this is done.
    ///
    /// # Errors
    /// `Unavailable` if the appliance stops.
    pub async fn follow(&self) -> Result<Events, BackendError> {
        let stopping = || BackendError::Unavailable("the appliance stops".to_owned());
        let listener = {
            let line = self.line();
            let receiver = line.sender.as_ref().ok_or_else(stopping)?.subscribe();
            Listener { receiver, heard: line.total }
        };
        // Counted from here on: who finds the notes open now finds them open until it leaves.
        let mut open = self.open.subscribe();
        self.came.notify_one();
        open.wait_for(|&open| open).await.map_err(|_| stopping())?;
        Ok(Box::pin(stream::unfold(listener, |mut listener| async {
            Some((listener.next().await?, listener))
        })))
    }
}

/// A gap of so many events.
fn overrun(missed: u64) -> Event {
    Event::Overrun { time_unix_ms: views::unix_ms(SystemTime::now()), missed }
}

impl Listener {
    /// What comes next: as much as there is, within reason. `None` at the end.
    async fn next(&mut self) -> Option<Vec<Event>> {
        let mut batch = Vec::new();
        loop {
            match self.receiver.recv().await {
                Ok(entry) => {
                    self.hear(&entry, &mut batch);
                    break;
                }
                // The next entry says how much is missing before it.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
        while batch.len() < BATCH {
            match self.receiver.try_recv() {
                Ok(entry) => self.hear(&entry, &mut batch),
                Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        Some(batch)
    }

    /// Takes an entry, and before it says what is missing, if something is.
    fn hear(&mut self, entry: &Entry, batch: &mut Vec<Event>) {
        if entry.before > self.heard {
            batch.push(overrun(entry.before - self.heard));
        }
        self.heard = entry.after;
        batch.push(entry.event.clone());
    }
}

/// Tells followers what the workers noted, until the hub is closed.
pub async fn tell(running: Running) {
    let hub = &running.0.events;
    let mut buffer = Vec::with_capacity(ANSWER);
    while let Some(followers) = hub.listeners() {
        if followers == 0 {
            hub.open.send_replace(false);
            // Whoever came before that found it open, and is counted.
            if hub.listeners() == Some(0) {
                if quieten(&running).await {
                    hub.came.notified().await;
                } else {
                    tokio::time::sleep(PERIOD).await;
                }
                continue;
            }
        }
        let (emptied, told) = collect(&running, buffer).await;
        buffer = emptied;
        if told.all_answered {
            hub.open.send_replace(true);
        }
        if !told.more {
            tokio::select! {
                () = tokio::time::sleep(PERIOD) => {}
                () = hub.hurry.notified() => {}
            }
        }
    }
}

/// What came of asking every worker once.
struct Collected {
    /// All take notes.
    all_answered: bool,
    /// One has more to tell.
    more: bool,
}

/// Asks every worker once. Returns the buffer, too.
async fn collect(running: &Running, mut buffer: Vec<Told>) -> (Vec<Told>, Collected) {
    let mut collected = Collected { all_answered: true, more: false };
    for (worker, handle) in running.0.handle.workers.iter().enumerate() {
        let answer = running.ask(worker, Command::Follow { buffer }).await;
        // What an answer held that came too late: counted when it came, which is now.
        let unheard = handle.commands.take_unheard();
        if unheard > 0 {
            running.0.events.send(overrun(unheard));
        }
        let Ok(Answer::Followed(mut told)) = answer else {
            debug!("events: worker {worker}: {answer:?}");
            collected.all_answered = false;
            buffer = Vec::with_capacity(ANSWER);
            continue;
        };
        collected.more |= told.len() == told.capacity();
        if !told.is_empty() {
            let now = SystemTime::now();
            let board = running.0.board();
            let config = board.config();
            let name = |id: InterfaceId| Some(config.interfaces.get(id.index())?.name.clone());
            for told in &told {
                let event = views::event(told, now, config.conntrack.accounting, name);
                running.0.events.send(event);
            }
        }
        told.clear();
        buffer = told;
    }
    (buffer, collected)
}

/// Has every worker take notes no more. Whether they all have said so.
async fn quieten(running: &Running) -> bool {
    let mut quiet = true;
    for worker in 0..running.0.handle.workers.len() {
        if let Err(error) = running.ask(worker, Command::Unfollow).await {
            debug!("events: worker {worker}: {error}");
            quiet = false;
        }
    }
    quiet
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    /// Event number `n`.
    fn noted(n: u64) -> Event {
        let tuple = "{\"src\":\"192.0.2.1\",\"dst\":\"192.0.2.2\",\"sport\":1,\"dport\":2}";
        let text = format!(
            "{{\"event\":\"new\",\"time_unix_ms\":{n},\"connection\":{{\"id\":\"1\",\"family\":\"ipv4\",\
            \"protocol\":\"udp\",\"protocol_number\":17,\"timeout_s\":30,\"seen_reply\":false,\"assured\":false,\
            \"snat\":false,\"dnat\":false,\"original\":{tuple},\"reply\":{tuple},\"mark\":0,\"zone\":0,\
            \"age_s\":0,\"worker\":0}}}}"
        );
        serde_json::from_str(&text).expect("an event")
    }

    /// The numbers of events.
    fn numbers(batch: &[Event]) -> Vec<u64> {
        batch.iter().map(Event::time_unix_ms).collect()
    }

    /// How many are missing, by the first of them.
    fn missed(batch: &[Event]) -> u64 {
        match batch {
            [Event::Overrun { missed, .. }, ..] => *missed,
            _ => panic!("a gap comes first: {batch:?}"),
        }
    }

    /// A hub whose workers take notes as soon as somebody comes.
    async fn follower(hub: &Hub) -> Events {
        hub.open.send_replace(true);
        hub.follow().await.unwrap()
    }

    /// C202: nobody waits for who does not read; he is told how much he missed, and goes on with what is new.
    #[tokio::test]
    async fn a_slow_follower_misses_the_oldest_and_holds_nobody_up() {
        let hub = Hub::default();
        let (mut slow, mut quick) = (follower(&hub).await, follower(&hub).await);
        let all = WAITING_MAX as u64 + 1000;
        let mut heard = Vec::new();
        for n in 1..=all {
            hub.send(noted(n));
            if n % 100 == 0 {
                heard.extend(numbers(&quick.next().await.unwrap()));
            }
        }
        while heard.len() < all as usize {
            heard.extend(numbers(&quick.next().await.unwrap()));
        }
        assert_eq!(heard, (1..=all).collect::<Vec<_>>(), "the quick one has them all, in order");
        let first = slow.next().await.unwrap();
        assert_eq!(missed(&first), all - WAITING_MAX as u64, "how many are gone");
        let mut rest = numbers(&first[1..]);
        while rest.last() != Some(&all) {
            let batch = slow.next().await.unwrap();
            assert!(batch.len() <= BATCH + 1);
            rest.extend(numbers(&batch));
        }
        assert_eq!(rest, (all - WAITING_MAX as u64 + 1..=all).collect::<Vec<_>>());
    }

    /// C202: a gap that a worker told of counts for what it stands for, for those who miss the telling, too.
    #[tokio::test]
    async fn a_gap_within_a_gap_is_counted_whole() {
        let hub = Hub::default();
        let mut slow = follower(&hub).await;
        hub.send(noted(1));
        hub.send(overrun(50_000));
        (0..WAITING_MAX as u64).for_each(|n| hub.send(noted(n)));
        let first = slow.next().await.unwrap();
        assert_eq!(missed(&first), 50_001);
        assert_eq!(numbers(&first[1..4]), [0, 1, 2]);
        // One that comes now has missed nothing.
        let mut late = follower(&hub).await;
        hub.send(noted(7));
        assert_eq!(numbers(&late.next().await.unwrap()), [7]);
    }

    #[tokio::test]
    async fn followers_are_counted_until_they_leave_and_the_end_ends_them() {
        let hub = Hub::default();
        let mut stays = follower(&hub).await;
        let leaves = follower(&hub).await;
        assert_eq!(hub.followers(), 2);
        drop(leaves);
        assert_eq!(hub.followers(), 1);
        hub.close();
        assert!(stays.next().await.is_none());
        assert!(hub.follow().await.is_err());
    }
}
