//! What happens to connections, from the workers' logs to everybody who follows.
//!
//! Workers take notes only while somebody follows ([`Command::Follow`]). One task asks them by turns and hands each event
//! to all followers through a ring of bounded length: a follower that does not keep up misses the oldest and is told
//! how many; nobody waits for it, neither another follower nor a worker.

use std::sync::{Arc, Mutex, PoisonError};
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
    /// `None` once the appliance stops.
    sender: Mutex<Option<broadcast::Sender<Arc<Event>>>>,
    /// Somebody came.
    came: Notify,
    /// Whether all workers take notes.
    open: watch::Sender<bool>,
}

impl Default for Hub {
    fn default() -> Self {
        Self {
            sender: Mutex::new(Some(broadcast::Sender::new(WAITING_MAX))),
            came: Notify::new(),
            open: watch::Sender::new(false),
        }
    }
}

impl Hub {
    fn sender(&self) -> Option<broadcast::Sender<Arc<Event>>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many follow.
    pub fn followers(&self) -> usize {
        self.sender().map_or(0, |sender| sender.receiver_count())
    }

    /// Ends all streams.
    pub fn close(&self) {
        *self.sender.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.came.notify_one();
        self.open.send_replace(true); // for who waits to begin: the end comes at once
    }

    /// Everything that happens from when this is done.
    ///
    /// # Errors
    /// `Unavailable` if the appliance stops.
    pub async fn follow(&self) -> Result<Events, BackendError> {
        let stopping = || BackendError::Unavailable("the appliance stops".to_owned());
        let receiver = self.sender().ok_or_else(stopping)?.subscribe();
        // Counted from here on: who finds the notes open now finds them open until it leaves.
        let mut open = self.open.subscribe();
        self.came.notify_one();
        open.wait_for(|&open| open).await.map_err(|_| stopping())?;
        Ok(Box::pin(stream::unfold(receiver, |mut receiver| async {
            Some((next(&mut receiver).await?, receiver))
        })))
    }
}

/// A gap of so many events; 0 if nobody knows of how many.
fn overrun(missed: u64) -> Event {
    Event::Overrun { time_unix_ms: views::unix_ms(SystemTime::now()), missed }
}

/// What a follower gets next: as much as there is, within reason. `None` at the end.
async fn next(receiver: &mut broadcast::Receiver<Arc<Event>>) -> Option<Vec<Event>> {
    let mut batch = Vec::new();
    match receiver.recv().await {
        Ok(event) => batch.push((*event).clone()),
        Err(RecvError::Lagged(missed)) => return Some(vec![overrun(missed)]),
        Err(RecvError::Closed) => return None,
    }
    while batch.len() < BATCH {
        match receiver.try_recv() {
            Ok(event) => batch.push((*event).clone()),
            Err(TryRecvError::Lagged(missed)) => batch.push(overrun(missed)),
            Err(TryRecvError::Empty | TryRecvError::Closed) => break,
        }
    }
    Some(batch)
}

/// Tells followers what the workers noted, until the hub is closed.
pub async fn tell(running: Running) {
    let hub = &running.0.events;
    let mut buffer = Vec::with_capacity(ANSWER);
    while let Some(sender) = hub.sender() {
        if sender.receiver_count() == 0 {
            hub.open.send_replace(false);
            // Whoever came before that found it open, and is counted.
            if sender.receiver_count() == 0 {
                drop(sender);
                quieten(&running).await;
                hub.came.notified().await;
                continue;
            }
        }
        match collect(&running, &sender, buffer).await {
            Ok((emptied, more)) => {
                buffer = emptied;
                hub.open.send_replace(true);
                if !more {
                    tokio::time::sleep(PERIOD).await;
                }
            }
            Err(error) => {
                // What an answer held that came too late is lost.
                debug!("events: {error}");
                let _ = sender.send(Arc::new(overrun(0)));
                buffer = Vec::with_capacity(ANSWER);
                tokio::time::sleep(PERIOD).await;
            }
        }
    }
}

/// Asks every worker once. Returns the buffer, and whether one has more to tell.
async fn collect(
    running: &Running,
    sender: &broadcast::Sender<Arc<Event>>,
    mut buffer: Vec<Told>,
) -> Result<(Vec<Told>, bool), BackendError> {
    let mut more = false;
    for worker in 0..running.0.handle.workers.len() {
        let Answer::Followed(mut told) = running.ask(worker, Command::Follow { buffer }).await?
        else {
            return Err(BackendError::Internal("not an answer to what was asked".to_owned()));
        };
        more |= told.len() == told.capacity();
        if !told.is_empty() {
            let now = SystemTime::now();
            let board = running.0.board();
            let config = board.config();
            let name = |id: InterfaceId| Some(config.interfaces.get(id.index())?.name.clone());
            for told in &told {
                let event = views::event(told, now, config.conntrack.accounting, name);
                let _ = sender.send(Arc::new(event)); // the last follower may have left
            }
        }
        told.clear();
        buffer = told;
    }
    Ok((buffer, more))
}

/// Has every worker take notes no more.
async fn quieten(running: &Running) {
    for worker in 0..running.0.handle.workers.len() {
        if let Err(error) = running.ask(worker, Command::Unfollow).await {
            debug!("events: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    fn noted(missed: u64) -> Arc<Event> {
        Arc::new(Event::Overrun { time_unix_ms: 0, missed })
    }

    fn numbers(batch: &[Event]) -> Vec<u64> {
        let number = |event: &Event| match event {
            Event::Overrun { missed, .. } => *missed,
            _ => 0,
        };
        batch.iter().map(number).collect()
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
        let sender = hub.sender().unwrap();
        let all = WAITING_MAX as u64 + 1000;
        let mut heard = Vec::new();
        for n in 1..=all {
            sender.send(noted(n)).unwrap();
            if n % 100 == 0 {
                heard.extend(numbers(&quick.next().await.unwrap()));
            }
        }
        while heard.len() < all as usize {
            heard.extend(numbers(&quick.next().await.unwrap()));
        }
        assert_eq!(heard, (1..=all).collect::<Vec<_>>(), "the quick one has them all, in order");
        let first = numbers(&slow.next().await.unwrap());
        assert_eq!(first, [all - WAITING_MAX as u64], "how many are gone");
        let mut rest = Vec::new();
        while rest.last() != Some(&all) {
            let batch = slow.next().await.unwrap();
            assert!(batch.len() <= BATCH);
            rest.extend(numbers(&batch));
        }
        assert_eq!(rest, (first[0] + 1..=all).collect::<Vec<_>>());
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
