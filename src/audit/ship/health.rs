//! How the shipping goes, for metrics and readiness.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::watch;

use crate::audit::Durable;

/// How the shipping goes at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShipHealth {
    /// The number of the last line that the second place has, and with it all before.
    pub last_taken_seq: u64,
    /// How many durable lines it has not.
    pub behind_events: u64,
    /// How many lines were removed, or damaged, before they could be sent.
    pub missed_events: u64,
    /// Since when it takes nothing; none where it does.
    pub failing_since: Option<Timestamp>,
    /// Why, in a word of a closed set.
    pub reason: Option<&'static str>,
}

/// What the shipper says of itself, to whoever asks.
#[derive(Clone)]
pub struct Shipping {
    durable: watch::Receiver<Durable>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    taken: u64,
    missed: u64,
    failing: Option<(Timestamp, &'static str)>,
}

impl Shipping {
    pub(super) fn new(durable: watch::Receiver<Durable>) -> Self {
        Self {
            durable,
            state: Arc::default(),
        }
    }

    /// How it goes.
    pub fn health(&self) -> ShipHealth {
        let durable = self.durable.borrow().seq;
        let state = self.state();
        ShipHealth {
            last_taken_seq: state.taken,
            behind_events: durable.saturating_sub(state.taken),
            missed_events: state.missed,
            failing_since: state.failing.map(|(since, _)| since),
            reason: state.failing.map(|(_, reason)| reason),
        }
    }

    pub(super) fn taken(&self, seq: u64) {
        self.state().taken = seq;
    }

    pub(super) fn missed(&self, lines: u64) {
        let mut state = self.state();
        state.missed = state.missed.saturating_add(lines);
    }

    /// Notes a failure. Returns whether it is another one than the last.
    pub(super) fn failed(&self, reason: &'static str, now: Timestamp) -> bool {
        let mut state = self.state();
        let before = state.failing;
        state.failing = Some((before.map_or(now, |(since, _)| since), reason));
        before.is_none_or(|(_, before)| before != reason)
    }

    /// Notes that it works. Returns since when it did not.
    pub(super) fn works(&self) -> Option<Timestamp> {
        self.state().failing.take().map(|(since, _)| since)
    }

    /// Held for a few assignments, never across an await.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
