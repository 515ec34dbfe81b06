//! Looks at the configuration's files now and then, and asks for a reload when they have changed.

use std::{future, path::PathBuf, time::Duration};

use tokio::{sync::watch, time::sleep};
use tokio_util::task::TaskTracker;

use crate::{
    audit::operator::Via,
    config::sources::Sources,
    reload::{Refused, ReloadSettings, Reloaded, Reloads},
    watch::{Look, Settled},
};

/// What is looked at, and how often; none leaves it alone.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Watched {
    files: Vec<PathBuf>,
    every: Option<Duration>,
}

impl Watched {
    /// After a reading that brought a configuration. Credentials are watched by themselves.
    pub(super) fn of(sources: &Sources, settings: ReloadSettings) -> Self {
        if sources.once && settings.watch.is_some() {
            tracing::info!("the configuration is read from a pipe, so it is not watched");
        }
        Self {
            files: sources.files.clone(),
            every: settings.watch.filter(|_| !sources.once),
        }
    }

    /// After a reading that did not: whatever was looked at may be what is mended.
    pub(super) fn of_failed(sources: &Sources, settings: ReloadSettings) -> Self {
        let files = [&sources.files[..], &sources.credentials].concat();
        Self {
            files,
            every: settings.watch.filter(|_| !sources.once),
        }
    }
}

/// Looks, and asks, for as long as it is polled.
pub(super) async fn keep_watch(reloads: Reloads, mut watched: watch::Receiver<Watched>) {
    let blocking = TaskTracker::new();
    // As if there had been nothing: what has changed since the files were read is noticed too. Where
    // nothing has, the reading that this costs finds the same and ends there.
    let mut settled = Settled::new(Look::at(&[]));
    loop {
        let Watched { files, every } = watched.borrow_and_update().clone();
        let pause = async {
            match every {
                Some(every) => sleep(every).await,
                None => future::pending().await,
            }
        };
        tokio::select! {
            () = pause => {}
            changed = watched.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        }
        // A network disk may take its time. Until it has answered there is nothing else to do here.
        let Ok(look) = blocking.spawn_blocking(move || Look::at(&files)).await else {
            continue;
        };
        if !settled.observe(look) {
            continue;
        }
        let reloaded = reloads.ask(Via::File.into()).await;
        if let Reloaded::Refused(Refused::Unrecorded(_)) = reloaded {
            // Nobody writes the files again because a disk was full.
            settled = Settled::new(Look::at(&[]));
        }
    }
}
