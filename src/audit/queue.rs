//! What waits for the disk.
//!
//! Invariant: whoever hands an event over never waits, and what waits is bounded in bytes. An event that is
//! not taken is counted. While the disk fails, no intent is taken: what cannot be recorded is not begun.

use std::{
    mem,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use super::{AuditUnavailable, Health, chain::Mark, line::Position};
use crate::clock;

/// Events on their way to the thread that writes.
pub(super) struct Queue {
    // Held for a push or a swap, never while the disk is written.
    inner: Mutex<Inner>,
    arrived: Condvar,
    write_timeout: Duration,
}

#[derive(Default)]
struct Inner {
    entries: Vec<Entry>,
    /// Of all that is not written yet, what the writer has taken included.
    bytes: usize,
    /// Since when the oldest of them waits.
    oldest: Option<Instant>,
    taken: Option<Instant>,
    failing: Option<AuditUnavailable>,
    lost: u64,
    unsaid: u64,
    uncopied: u64,
    syncs: u64,
    closing: Vec<oneshot::Sender<()>>,
    state: Phase,
    /// Whether the writer waits for an event.
    asleep: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Open,
    Closing,
    Closed,
}

/// One event that waits.
pub(super) struct Entry {
    /// An object in JSON.
    pub(super) event: Vec<u8>,
    pub(super) mark: Mark,
    /// Whether a checkpoint follows it at once.
    pub(super) sealed: bool,
    pub(super) done: Option<oneshot::Sender<Result<Position, AuditUnavailable>>>,
}

impl Entry {
    /// How much memory it takes, nearly.
    fn cost(&self) -> usize {
        self.event.len() + 200
    }
}

/// What the writer has to do.
pub(super) struct Work {
    pub(super) entries: Vec<Entry>,
    /// How many events were not taken since it was said last.
    pub(super) lost: u64,
    /// Whether this is the last.
    pub(super) last: bool,
}

/// Most bytes that wait; some 10,000 events.
const LIMIT: usize = 8 * 1024 * 1024;

impl Queue {
    pub(super) fn new(write_timeout: Duration) -> Self {
        Self {
            inner: Mutex::default(),
            arrived: Condvar::new(),
            write_timeout,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an event. While the disk fails its sender is told at once, and an event that begins nothing is
    /// kept all the same, to be written when that is over.
    pub(super) fn push(
        &self,
        event: Vec<u8>,
        mark: Mark,
        done: Option<oneshot::Sender<Result<Position, AuditUnavailable>>>,
    ) -> Result<(), AuditUnavailable> {
        self.put(Entry {
            event,
            mark,
            sealed: false,
            done,
        })
    }

    /// Takes an event that is followed by a checkpoint, and whose writing is waited for in any case.
    pub(super) fn push_sealed(
        &self,
        event: Vec<u8>,
    ) -> Result<oneshot::Receiver<Result<Position, AuditUnavailable>>, AuditUnavailable> {
        let (done, receiver) = oneshot::channel();
        self.put(Entry {
            event,
            mark: Mark::None,
            sealed: true,
            done: Some(done),
        })?;
        Ok(receiver)
    }

    fn put(&self, entry: Entry) -> Result<(), AuditUnavailable> {
        let now = clock::instant();
        let mut inner = self.lock();
        let begins = matches!(entry.mark, Mark::Opens(_));
        let waits = entry.done.is_some();
        if inner.state == Phase::Closed {
            return Err(inner.lose(AuditUnavailable::Closed));
        }
        // Nothing is begun of which the record would come late; who does not wait does not mind.
        if let Some(why) = inner.failing.filter(|_| begins && waits) {
            return Err(why);
        }
        if inner.bytes.saturating_add(entry.cost()) > LIMIT {
            return Err(inner.lose(AuditUnavailable::Full));
        }
        let failing = inner.failing.filter(|_| waits);
        inner.bytes += entry.cost();
        inner.oldest.get_or_insert(now);
        inner.entries.push(entry);
        self.wake(&mut inner);
        // It is kept; but nobody is to wait for a disk that fails.
        failing.map_or(Ok(()), Err)
    }

    /// Wakes the writer if it sleeps: that is a system call, and often it does not.
    fn wake(&self, inner: &mut Inner) {
        if mem::take(&mut inner.asleep) {
            self.arrived.notify_one();
        }
    }

    /// Counts an event that could not be made into bytes.
    pub(super) fn unwritable(&self) -> AuditUnavailable {
        self.lock().lose(AuditUnavailable::Full)
    }

    /// Waits for events, but no longer than until `latest`, and not to be asked again before `earliest`.
    pub(super) fn take(&self, earliest: Instant, latest: Instant) -> Work {
        let mut inner = self.lock();
        loop {
            let now = clock::instant();
            let closing = inner.state != Phase::Open;
            let due = latest <= now;
            let ready = due || closing || !inner.entries.is_empty();
            if ready && (earliest <= now || closing) {
                break;
            }
            inner.asleep = !ready;
            let until = if ready { earliest } else { latest };
            let left = until.saturating_duration_since(now);
            let waited = self.arrived.wait_timeout(inner, left);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if inner.taken.is_none() {
            inner.taken = inner.oldest;
        }
        inner.oldest = None;
        Work {
            entries: mem::take(&mut inner.entries),
            lost: mem::take(&mut inner.unsaid),
            last: inner.state == Phase::Closing,
        }
    }

    /// The writer has written, and synced, entries.
    pub(super) fn written(&self, entries: &[Entry], uncopied: u64) {
        let mut inner = self.lock();
        inner.forget(entries);
        inner.taken = None;
        inner.failing = None;
        inner.syncs += 1;
        inner.uncopied += uncopied;
    }

    /// The writer could not write. Some of what it has taken will not be written at all: intents, which were
    /// not acted upon.
    pub(super) fn failed(&self, why: AuditUnavailable, given_up: &[Entry]) {
        let mut inner = self.lock();
        inner.forget(given_up);
        inner.failing = Some(why);
    }

    pub(super) fn is_closing(&self) -> bool {
        self.lock().state == Phase::Closing
    }

    /// Ends it; the receiver is told when everything was written.
    pub(super) fn close(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        let mut inner = self.lock();
        if inner.state == Phase::Closed {
            sender.send(()).ok();
            return receiver;
        }
        inner.state = Phase::Closing;
        inner.closing.push(sender);
        // It may be waiting for the next sync to be due.
        self.arrived.notify_one();
        receiver
    }

    /// Nothing is written any more, this many events of those that were taken included.
    pub(super) fn end(&self, unwritten: usize) {
        let mut inner = self.lock();
        inner.state = Phase::Closed;
        inner.lost += u64::try_from(unwritten + inner.entries.len()).unwrap_or(u64::MAX);
        inner.entries.clear();
    }

    /// The folder is free.
    pub(super) fn closed(&self) {
        for waiting in self.lock().closing.drain(..) {
            // Who has gone does not want to know.
            waiting.send(()).ok();
        }
    }

    pub(super) fn health(&self) -> Health {
        let inner = self.lock();
        let waits = inner.taken.or(inner.oldest);
        let slow = waits.is_some_and(|since| since.elapsed() > self.write_timeout);
        let available = match inner.failing {
            Some(why) => Err(why),
            None if inner.state == Phase::Closed => Err(AuditUnavailable::Closed),
            None if slow => Err(AuditUnavailable::Slow),
            None => Ok(()),
        };
        Health {
            available,
            lost: inner.lost,
            uncopied: inner.uncopied,
            waiting: inner.bytes,
            syncs: inner.syncs,
        }
    }
}

impl Inner {
    const fn lose(&mut self, why: AuditUnavailable) -> AuditUnavailable {
        self.lost += 1;
        self.unsaid += 1;
        why
    }

    fn forget(&mut self, entries: &[Entry]) {
        let bytes: usize = entries.iter().map(Entry::cost).sum();
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ident::RequestId;

    const EVENT: usize = 1_000;

    fn queue() -> Queue {
        Queue::new(Duration::from_secs(1))
    }

    fn push(queue: &Queue, mark: Mark, waits: bool) -> Result<(), AuditUnavailable> {
        let done = waits.then(|| oneshot::channel().0);
        queue.push(vec![b'x'; EVENT], mark, done)
    }

    fn take(queue: &Queue) -> Work {
        let now = clock::instant();
        queue.take(now, now)
    }

    #[test]
    fn what_waits_is_bounded_until_it_was_written_and_what_is_not_taken_is_counted_once() {
        let queue = queue();
        let accepted = (0..20_000)
            .filter(|_| push(&queue, Mark::None, false).is_ok())
            .count();
        assert!((6_000..=LIMIT / EVENT).contains(&accepted), "{accepted}");
        let lost = u64::try_from(20_000 - accepted).unwrap();
        let work = take(&queue);
        assert_eq!((work.entries.len(), work.lost), (accepted, lost));
        // They were taken, and are not on disk: there still is no room.
        assert_eq!(push(&queue, Mark::None, false), Err(AuditUnavailable::Full));
        queue.written(&work.entries, 0);
        assert_eq!(push(&queue, Mark::None, false), Ok(()));
        assert_eq!(take(&queue).lost, 1);
        assert_eq!(queue.health().lost, lost + 1);
    }

    #[test]
    fn while_the_disk_fails_nothing_is_begun_and_what_ends_is_kept() {
        let (queue, id) = (queue(), RequestId::mint());
        let why = AuditUnavailable::Disk(std::io::ErrorKind::StorageFull);
        queue.failed(why, &[]);
        assert_eq!(push(&queue, Mark::Opens(id), true), Err(why));
        assert_eq!(push(&queue, Mark::Closes(id), true), Err(why));
        // Who does not wait does not mind.
        assert_eq!(push(&queue, Mark::Opens(id), false), Ok(()));
        let work = take(&queue);
        let marks: Vec<_> = work.entries.iter().map(|entry| entry.mark).collect();
        assert_eq!(marks, [Mark::Closes(id), Mark::Opens(id)]);
        assert_eq!(queue.health().available, Err(why));
        queue.written(&work.entries, 0);
        assert_eq!(queue.health().available, Ok(()));
        assert_eq!(queue.health().waiting, 0);
    }

    #[test]
    fn a_disk_that_keeps_an_event_waiting_is_slow_until_it_has_written() {
        let queue = Queue::new(Duration::ZERO);
        assert_eq!(queue.health().available, Ok(()));
        push(&queue, Mark::None, false).unwrap();
        assert_eq!(queue.health().available, Err(AuditUnavailable::Slow));
        let work = take(&queue);
        assert_eq!(queue.health().available, Err(AuditUnavailable::Slow));
        queue.written(&work.entries, 0);
        assert_eq!(queue.health().available, Ok(()));
    }
}
