//! Takes back what was written though nobody was told so: the answer did not come in time.
//!
//! Invariant: of what may not have happened only that is taken back which is there byte by byte as it was
//! sent. It may arrive late, out of a connection that was given up, so it is looked for twice.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::entries::Tables;
use crate::{
    clock,
    ident::Pseudonym,
    store::{Decide, Table},
};

/// Most that wait to be taken back, at a few hundred bytes each: 5 MB, twice.
const WAITING: usize = 10_000;

/// When it is looked for again.
const AGAIN: Duration = Duration::from_secs(10);

/// A pause after a failure.
const PAUSE: Duration = Duration::from_millis(200);

/// An update that may have happened, and what takes it back.
pub(super) struct Undo {
    pub(super) table: Table,
    pub(super) key: Pseudonym,
    /// The entry as it was sent; nothing where it did happen.
    pub(super) written: Option<Vec<u8>>,
    /// What takes it back.
    pub(super) change: Decide,
}

/// Where such updates are handed in.
#[derive(Clone)]
pub(super) struct Undoing(mpsc::Sender<Undo>);

impl Undoing {
    pub(super) fn start(
        tables: Arc<Tables>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        let (sender, waiting) = mpsc::channel(WAITING);
        let working = work(tables, waiting);
        drop(tasks.spawn(stop.clone().run_until_cancelled_owned(working)));
        Self(sender)
    }

    /// Has it taken back when Redis can be asked again.
    pub(super) fn later(&self, undo: Undo) {
        if self.0.try_send(undo).is_err() {
            tracing::error!(
                "too much was left undecided while Redis was away: some customers stay held by the \
                 tenant that asked for them"
            );
        }
    }
}

async fn work(tables: Arc<Tables>, mut waiting: mpsc::Receiver<Undo>) {
    let mut again: VecDeque<(Instant, Undo)> = VecDeque::new();
    loop {
        let due = again.front().map(|(due, _)| *due);
        let second = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = second => {
                if let Some((_, undo)) = again.pop_front() {
                    take_back(&tables, &undo).await;
                }
            }
            first = waiting.recv(), if again.len() < WAITING => {
                let Some(undo) = first else { return };
                take_back(&tables, &undo).await;
                if undo.written.is_some() {
                    again.push_back((clock::instant() + AGAIN, undo));
                }
            }
        }
    }
}

/// Waits for Redis as long as that takes.
async fn take_back(tables: &Tables, undo: &Undo) {
    loop {
        let mut changes = tables.redis().changes();
        if changes.wait_for(|up| *up).await.is_err() {
            return;
        }
        if tables.take_back(undo).await.is_ok() {
            return;
        }
        sleep(PAUSE).await;
    }
}
