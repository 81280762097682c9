//! Older steering epochs, and the connections that need them.
//!
//! A connection stays with the worker that has it when forwards or addresses change, though the steering that is in
//! force now may name another one. Its packets find it by the older steering, for as long as it lives. So an older
//! steering is let go of only when a look at every connection of every worker has found none that needs it. New
//! connections are made where the steering in force says: what was not needed once is not needed later.

use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_core::pipeline::{Cursor, Filter};
use postern_core::snapshot::Snapshot;
use postern_io::runtime::{Answer, Command};
use tracing::{debug, warn};

use super::backend::Running;
use super::table::{PAGE, unexpected};
use crate::api::backend::BackendError;

/// How often the connections are looked at while there is an epoch that may be over.
const ASK_EVERY: Duration = Duration::from_secs(600);

/// Sees to them until it is aborted.
pub async fn see_to(running: Running) {
    loop {
        tokio::time::sleep(ASK_EVERY).await;
        if let Err(error) = ask(&running).await {
            // Each older steering costs every first packet of a connection a search.
            warn!("older steering is kept for now: {error}");
        }
    }
}

async fn ask(running: &Running) -> Result<(), BackendError> {
    let shared = &running.0;
    let Some(snapshot) = shared.board().epochs_to_ask_about(Instant::now()) else {
        return Ok(());
    };
    // A worker that is behind might still make connections where an older steering says.
    let snapshots = shared.handle.snapshots();
    if snapshots.latest().generation != snapshot.generation || !snapshots.is_adopted() {
        return Ok(());
    }
    let needed = needed(running, &snapshot).await?;
    let next = shared.board().forget_epochs(&snapshot, needed, Instant::now());
    if let Some(next) = next {
        debug!("{} older steering epochs are kept", next.older_steering.len());
        shared.handle.publish(next);
    }
    Ok(())
}

/// How many of the snapshot's older epochs some connection needs.
async fn needed(running: &Running, snapshot: &Arc<Snapshot>) -> Result<usize, BackendError> {
    let mut needed = 0;
    for worker in 0..running.0.handle.workers.len() {
        let mut from = Some(Cursor::default());
        while let Some(cursor) = from {
            let buffer = Vec::with_capacity(PAGE);
            let command = Command::Visit { filter: Filter::default(), cursor, buffer };
            let Answer::Visited { buffer, cursor } = running.ask(worker, command).await? else {
                return Err(unexpected());
            };
            for view in &buffer {
                let tuples = [&view.original, &view.reply];
                needed = needed.max(snapshot.epochs_needed(view.id.worker(), tuples));
            }
            if needed >= snapshot.older_steering.len() {
                return Ok(needed);
            }
            from = cursor;
        }
    }
    Ok(needed)
}
