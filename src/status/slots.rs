//! Who is asking for a customer, or changing it, at this moment.
//!
//! There is a slot for each customer with requests under way, and none for others, so that slots are as
//! many as requests. What is kept of a customer is put in and taken out under the lock of its slot, as
//! the slot's generation says: a read keeps what it found only where nothing happened since it began.
//!
//! Invariant: what is kept was read after every write that was answered before. A write whose end nobody
//! knows leaves its customer in doubt, of whom nothing is kept until it must have happened or failed.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::{entry::Fit, fleet::Token, key::StatusKey};

/// How many customers may be in doubt; with more, all are.
const DOUBTS: usize = 100_000;

/// The slots. `T` is what a flight brings home.
pub(super) struct Slots<T> {
    // Held for a look and a change, never across a wait, and by no request that is answered from what is
    // kept.
    table: Mutex<Table<T>>,
}

struct Table<T> {
    /// How long a customer is in doubt.
    horizon: Duration,
    slots: HashMap<StatusKey, Slot<T>>,
    /// When doubts end, nearly in that order.
    doubts: VecDeque<(Instant, StatusKey)>,
    /// Until when everybody is in doubt.
    blind_until: Option<Instant>,
}

struct Slot<T> {
    readers: u32,
    writers: u32,
    /// Counts what happened.
    generation: u64,
    doubt: Option<Doubt>,
    flight: Option<Flight<T>>,
}

#[derive(Clone, Copy)]
struct Doubt {
    until: Instant,
    /// The one write that is under way elsewhere; none where no end that is told would lift the doubt.
    token: Option<Token>,
}

/// A question to DCAMS that others may wait for.
struct Flight<T> {
    fit: Fit,
    landed: watch::Receiver<Option<T>>,
}

/// What a read or a write has to show at its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticket {
    generation: u64,
    /// It began in doubt, and what it finds may be what was before.
    doubtful: bool,
}

impl Ticket {
    /// One with which nothing is kept.
    pub(super) const fn void() -> Self {
        Self {
            generation: u64::MAX,
            doubtful: true,
        }
    }
}

/// Whether a read asks DCAMS, or waits for one that does.
pub(super) enum Turn<T> {
    Join(watch::Receiver<Option<T>>),
    Lead(Ticket, Option<watch::Sender<Option<T>>>),
}

/// What is known of a write at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// It happened, or certainly did not.
    Certain,
    /// It may yet happen.
    Unknown,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self {
            readers: 0,
            writers: 0,
            generation: 0,
            doubt: None,
            flight: None,
        }
    }
}

impl<T> Slot<T> {
    /// Something happened: reads that are under way keep nothing, and nobody joins them any more.
    fn disturb(&mut self) {
        self.generation += 1;
        self.flight = None;
    }

    fn is_doubtful(&self, now: Instant) -> bool {
        self.doubt.is_some_and(|doubt| now < doubt.until)
    }

    fn is_idle(&self) -> bool {
        self.readers == 0 && self.writers == 0 && self.doubt.is_none()
    }
}

impl<T> Table<T> {
    fn is_blind(&self, now: Instant) -> bool {
        self.blind_until.is_some_and(|until| now < until)
    }

    /// Puts a customer in doubt.
    fn doubt(&mut self, key: StatusKey, until: Instant, token: Option<Token>, now: Instant) {
        if self.doubts.len() >= DOUBTS {
            let ends = self.doubts.iter().map(|(until, _)| *until);
            self.blind_until = ends.max().max(self.blind_until).max(Some(until));
            for (_, key) in mem::take(&mut self.doubts) {
                if let Some(slot) = self.slots.get_mut(&key) {
                    slot.doubt = None;
                }
                self.tidy(key);
            }
        }
        self.doubts.push_back((until, key));
        let slot = self.slots.entry(key).or_default();
        let before = slot.doubt.filter(|doubt| now < doubt.until);
        // Of several writes at once only time tells the end.
        let token = token.filter(|_| before.is_none_or(|before| before.token == token));
        let until = before.map_or(until, |before| until.max(before.until));
        slot.doubt = Some(Doubt { until, token });
    }

    /// Ends the doubts whose time has come.
    fn settle(&mut self, now: Instant) {
        while let Some((until, key)) = self.doubts.front().copied()
            && until <= now
        {
            self.doubts.pop_front();
            if let Some(slot) = self.slots.get_mut(&key)
                && !slot.is_doubtful(now)
            {
                slot.doubt = None;
            }
            self.tidy(key);
        }
    }

    fn tidy(&mut self, key: StatusKey) {
        if self.slots.get(&key).is_some_and(Slot::is_idle) {
            self.slots.remove(&key);
        }
    }
}

impl<T> Slots<T> {
    pub(super) fn new(horizon: Duration) -> Self {
        let table = Table {
            horizon,
            slots: HashMap::new(),
            doubts: VecDeque::new(),
            blind_until: None,
        };
        Self {
            table: Mutex::new(table),
        }
    }

    /// How many customers have a slot.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.table.lock().unwrap().slots.len()
    }

    /// What a panic under the lock may leave behind is a count too high, with which nothing is kept.
    fn table(&self, now: Instant) -> MutexGuard<'_, Table<T>> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.settle(now);
        table
    }

    /// Begins a read. With `fit` it joins one that is under way and fits, and lets others join it.
    pub(super) fn begin_read(&self, key: StatusKey, fit: Option<Fit>, now: Instant) -> Turn<T> {
        let mut table = self.table(now);
        let blind = table.is_blind(now);
        let slot = table.slots.entry(key).or_default();
        if let Some(flight) = slot.flight.as_ref().filter(|f| Some(f.fit) == fit) {
            return Turn::Join(flight.landed.clone());
        }
        slot.readers += 1;
        let ticket = Ticket {
            generation: slot.generation,
            doubtful: blind || slot.is_doubtful(now),
        };
        let tell = fit.map(|fit| {
            let (tell, landed) = watch::channel(None);
            slot.flight = Some(Flight { fit, landed });
            tell
        });
        Turn::Lead(ticket, tell)
    }

    /// Ends a read, and has it keep what it found where nothing happened since it began. Whether it did.
    pub(super) fn end_read(
        &self,
        key: StatusKey,
        ticket: Ticket,
        leads: bool,
        now: Instant,
        keep: impl FnOnce(),
    ) -> bool {
        let mut table = self.table(now);
        let blind = table.is_blind(now);
        let Some(slot) = table.slots.get_mut(&key) else {
            return false;
        };
        let undisturbed = slot.generation == ticket.generation;
        if leads && undisturbed {
            slot.flight = None;
        }
        let certain = !ticket.doubtful && !blind && !slot.is_doubtful(now);
        let kept = undisturbed && certain && slot.writers == 0;
        if kept {
            keep();
        }
        slot.readers = slot.readers.saturating_sub(1);
        table.tidy(key);
        kept
    }

    /// Begins a write: what is kept goes.
    pub(super) fn begin_write(
        &self,
        key: StatusKey,
        now: Instant,
        remove: impl FnOnce(),
    ) -> Ticket {
        let mut table = self.table(now);
        let blind = table.is_blind(now);
        let slot = table.slots.entry(key).or_default();
        slot.disturb();
        slot.writers += 1;
        remove();
        Ticket {
            generation: slot.generation,
            doubtful: blind || slot.is_doubtful(now),
        }
    }

    /// Ends a write, and has its answer kept where it is the last word: no other write overlapped it, here or
    /// elsewhere, and nothing was to be forgotten since it began. Whether it was.
    pub(super) fn end_write(
        &self,
        key: StatusKey,
        ticket: Ticket,
        settled: Settled,
        now: Instant,
        keep: impl FnOnce(),
    ) -> bool {
        let mut table = self.table(now);
        let blind = table.is_blind(now);
        let slot = table.slots.entry(key).or_default();
        let undisturbed = slot.generation == ticket.generation;
        slot.disturb();
        slot.writers = slot.writers.saturating_sub(1);
        let alone = undisturbed && slot.writers == 0;
        let certain = !ticket.doubtful && !blind && !slot.is_doubtful(now);
        let kept = alone && certain && settled == Settled::Certain;
        if kept {
            keep();
        }
        if settled == Settled::Unknown {
            let until = now + table.horizon;
            table.doubt(key, until, None, now);
        }
        table.tidy(key);
        kept
    }

    /// Another gateway has begun a write, or does not know what became of it: so long from now its customer
    /// is in doubt, or until the write has ended.
    pub(super) fn begin_elsewhere(
        &self,
        key: StatusKey,
        token: Token,
        doubt: Duration,
        now: Instant,
        remove: impl FnOnce(),
    ) {
        let mut table = self.table(now);
        table.doubt(key, now + doubt, Some(token), now);
        if let Some(slot) = table.slots.get_mut(&key) {
            slot.disturb();
        }
        remove();
    }

    /// What is kept of a customer goes. With a token it is the end of that write elsewhere.
    pub(super) fn disturb(
        &self,
        key: StatusKey,
        token: Option<Token>,
        now: Instant,
        remove: impl FnOnce(),
    ) {
        let mut table = self.table(now);
        if let Some(slot) = table.slots.get_mut(&key) {
            slot.disturb();
            if token.is_some() && slot.doubt.is_some_and(|doubt| doubt.token == token) {
                slot.doubt = None;
            }
        }
        table.tidy(key);
        remove();
    }

    /// How long customers are in doubt from now on.
    pub(super) fn set_horizon(&self, horizon: Duration) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.horizon = horizon;
    }

    /// Ends doubts whose time has come though nobody asks.
    pub(super) fn settle(&self, now: Instant) {
        drop(self.table(now));
    }
}

#[cfg(test)]
mod tests;
