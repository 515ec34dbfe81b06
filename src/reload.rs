//! Asking for the configuration to be read again, and what came of it.
//!
//! Invariant: a reload takes effect as a whole or changes nothing. What it was refused for is told in
//! the words of `check`, which name files and keys and repeat no value.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use tokio::sync::{mpsc, oneshot};

use crate::audit::operator::{Actor, Unrecorded};

/// The `[reload]` section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReloadSettings {
    /// How often files are looked at; none leaves them alone.
    pub watch: Option<Duration>,
}

/// What came of a reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reloaded {
    /// What was read is in force.
    InForce {
        /// Whether it is anything else than before.
        changed: bool,
    },
    /// Nothing has changed.
    Refused(Refused),
}

/// Why a reload has changed nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The gateway is about to end.
    Draining,
    /// The configuration has these mistakes, or asks for what is not to be had.
    Mistakes(Arc<[String]>),
    /// These are settings that only a restart changes, each with what to do.
    Restart(Arc<[String]>),
    /// That it takes effect could not be written down.
    Unrecorded(Unrecorded),
}

impl Refused {
    /// What there is to mend, a line each.
    pub fn lines(&self) -> &[String] {
        match self {
            Self::Draining | Self::Unrecorded(_) => &[],
            Self::Mistakes(lines) | Self::Restart(lines) => lines,
        }
    }
}

/// Asks for reloads; a clone asks the same. They are done one after the other.
#[derive(Clone)]
pub struct Reloads {
    requests: mpsc::Sender<Request>,
    refused: Arc<ArcSwapOption<Refused>>,
}

/// One reload that is asked for.
pub struct Request {
    /// Who asks for it.
    pub actor: Actor,
    /// Where the answer goes; who asked may have left.
    pub answer: oneshot::Sender<Reloaded>,
}

/// How many may wait; those beyond wait to be let in.
const WAITING: usize = 16;

impl Reloads {
    /// The asking side, and the one that answers.
    pub fn channel() -> (Self, mpsc::Receiver<Request>) {
        let (requests, received) = mpsc::channel(WAITING);
        let refused = Arc::default();
        (Self { requests, refused }, received)
    }

    /// Reads the configuration again, and says what came of it.
    pub async fn ask(&self, actor: Actor) -> Reloaded {
        let (answer, answered) = oneshot::channel();
        // Nobody answers any more once the gateway drains.
        let draining = Reloaded::Refused(Refused::Draining);
        if self.requests.send(Request { actor, answer }).await.is_err() {
            return draining;
        }
        answered.await.unwrap_or(draining)
    }

    /// Why the last reload was refused, if it was: what the files say is not what is in force.
    pub fn last_refusal(&self) -> Option<Arc<Refused>> {
        self.refused.load_full()
    }

    /// Notes what came of a reload.
    pub fn note(&self, reloaded: &Reloaded) {
        self.refused.store(match reloaded {
            Reloaded::InForce { .. } => None,
            Reloaded::Refused(refused) => Some(Arc::new(refused.clone())),
        });
    }
}
