//! What waits for the disk.
//!
//! Invariant: whoever hands an event over never waits, and what waits is bounded in bytes. An event that is
//! not taken is counted. While the disk fails, no intent is taken: what cannot be recorded is not begun.
//! Rejections, of which anybody can make as many as they like, have a bound of their own.

use std::{
    mem,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use super::{AuditUnavailable, Health, chain::Mark, line::Position, rejections::Rejections};
use crate::clock;

/// Events on their way to the thread that writes.
pub(super) struct Queue {
    // Held for a push or a swap, never while the disk is written.
    inner: Mutex<Inner>,
    arrived: Condvar,
    write_timeout: Duration,
}

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
    rejections: Rejections,
    uncopied: u64,
    syncs: u64,
    closing: Vec<oneshot::Sender<()>>,
    state: Phase,
    /// Whether the writer waits for an event.
    asleep: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
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
    /// How many rejections were left out, where that is to be said now.
    pub(super) left_out: u64,
    /// Whether this is the last.
    pub(super) last: bool,
}

/// Most bytes that wait; some 10,000 events.
const LIMIT: usize = 8 * 1024 * 1024;
/// Beyond this no rejection is taken: the rest is for what somebody is known to have done.
const LIMIT_OF_REJECTIONS: usize = LIMIT / 2;

/// Beyond this, while the disk fails, nothing is taken of requests of which nothing was sent.
const LIMIT_OF_REFUSALS: usize = LIMIT / 2;

impl Queue {
    pub(super) fn new(write_timeout: Duration, rejections: Rejections) -> Self {
        let inner = Inner {
            entries: Vec::new(),
            bytes: 0,
            oldest: None,
            taken: None,
            failing: None,
            lost: 0,
            unsaid: 0,
            rejections,
            uncopied: 0,
            syncs: 0,
            closing: Vec::new(),
            state: Phase::Open,
            asleep: false,
        };
        Self {
            inner: Mutex::new(inner),
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

    /// Takes the event of a rejection, which is told how many were left out before it; or leaves it out.
    /// Nobody is told, and nobody waits.
    pub(super) fn reject(&self, event: impl FnOnce(u64) -> Option<Vec<u8>>) {
        let now = clock::instant();
        let mut inner = self.lock();
        let has_room = inner.bytes < LIMIT_OF_REJECTIONS && inner.state != Phase::Closed;
        let owed = inner.rejections.due().is_some();
        if let Some(left_out) = inner.rejections.admit(has_room, now) {
            // Few are let through, so that it costs the others little to wait while it is made.
            match event(left_out) {
                Some(event) => {
                    let entry = Entry {
                        event,
                        mark: Mark::None,
                        sealed: false,
                        done: None,
                    };
                    self.add(&mut inner, entry, now);
                    return;
                }
                None => inner.rejections.leave_out(left_out, now),
            }
        }
        if !owed {
            // The writer sleeps until something else is due.
            self.wake(&mut inner);
        }
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
        // While the disk fails, each request that comes is refused: these must leave room for the ends of
        // those that were sent.
        let refuses = matches!(entry.mark, Mark::Refuses(_)) && inner.failing.is_some();
        let limit = if refuses { LIMIT_OF_REFUSALS } else { LIMIT };
        if inner.bytes.saturating_add(entry.cost()) > limit {
            return Err(inner.lose(AuditUnavailable::Full));
        }
        let failing = inner.failing.filter(|_| waits);
        self.add(&mut inner, entry, now);
        // It is kept; but nobody is to wait for a disk that fails.
        failing.map_or(Ok(()), Err)
    }

    fn add(&self, inner: &mut Inner, entry: Entry, now: Instant) {
        inner.bytes += entry.cost();
        inner.oldest.get_or_insert(now);
        inner.entries.push(entry);
        self.wake(inner);
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
        let (closing, unsaid) = loop {
            let now = clock::instant();
            let closing = inner.state != Phase::Open;
            let owed = inner.rejections.due();
            let unsaid = owed.is_some_and(|owed| owed <= now);
            let latest = owed.map_or(latest, |owed| owed.min(latest));
            let due = latest <= now;
            let ready = due || closing || !inner.entries.is_empty();
            if ready && (earliest <= now || closing) {
                break (closing, unsaid);
            }
            inner.asleep = !ready;
            let until = if ready { earliest } else { latest };
            let left = until.saturating_duration_since(now);
            let waited = self.arrived.wait_timeout(inner, left);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        if inner.taken.is_none() {
            inner.taken = inner.oldest;
        }
        inner.oldest = None;
        Work {
            entries: mem::take(&mut inner.entries),
            lost: mem::take(&mut inner.unsaid),
            left_out: if unsaid || closing {
                inner.rejections.say()
            } else {
                0
            },
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
            left_out: inner.rejections.left_out(),
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
    use std::num::NonZeroU32;

    use super::*;
    use crate::{ident::RequestId, limits::Rate};

    const EVENT: usize = 1_000;

    fn queue() -> Queue {
        within(Duration::from_secs(1))
    }

    /// Of rejections it takes one, and has the others said after ten seconds.
    fn within(write_timeout: Duration) -> Queue {
        let rate = Rate::new(NonZeroU32::MIN, Duration::from_hours(1), None);
        let patience = Duration::from_secs(10);
        let rejections = Rejections::new(Some(&rate), patience, clock::instant());
        Queue::new(write_timeout, rejections)
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
    fn what_is_refused_while_the_disk_fails_leaves_room_for_the_ends_of_what_was_sent() {
        let (queue, id) = (queue(), RequestId::mint());
        let why = AuditUnavailable::Disk(std::io::ErrorKind::StorageFull);
        queue.failed(why, &[]);
        for _ in 0..20_000 {
            push(&queue, Mark::Refuses(id), true).unwrap_err();
        }
        let lost = queue.health().lost;
        // It is kept, though nobody is to wait for it.
        assert_eq!(push(&queue, Mark::Closes(id), true), Err(why));
        assert_eq!(queue.health().lost, lost);
    }

    #[test]
    fn what_comes_when_it_is_closed_is_refused_and_counted_and_the_end_waits_for_nothing() {
        let queue = queue();
        push(&queue, Mark::None, false).unwrap();
        let closed = queue.close();
        let now = clock::instant();
        let later = now + Duration::from_secs(20);
        let work = queue.take(later, later);
        assert!(work.last && work.entries.len() == 1 && clock::instant() < later);
        queue.written(&work.entries, 0);
        push(&queue, Mark::None, false).unwrap();
        queue.end(2);
        assert_eq!(queue.health().lost, 3);
        assert_eq!(
            push(&queue, Mark::None, true),
            Err(AuditUnavailable::Closed)
        );
        let health = queue.health();
        assert_eq!(
            (health.lost, health.available),
            (4, Err(AuditUnavailable::Closed))
        );
        queue.closed();
        assert_eq!(closed.blocking_recv(), Ok(()));
    }

    #[test]
    fn a_disk_that_keeps_an_event_waiting_is_slow_until_it_has_written() {
        let queue = within(Duration::ZERO);
        assert_eq!(queue.health().available, Ok(()));
        push(&queue, Mark::None, false).unwrap();
        assert_eq!(queue.health().available, Err(AuditUnavailable::Slow));
        let work = take(&queue);
        assert_eq!(queue.health().available, Err(AuditUnavailable::Slow));
        queue.written(&work.entries, 0);
        assert_eq!(queue.health().available, Ok(()));
    }

    /// Hands a rejection over; whether it is an event, and what it was told.
    fn reject(queue: &Queue) -> Option<u64> {
        let mut told = None;
        queue.reject(|left_out| {
            told = Some(left_out);
            Some(vec![b'x'; EVENT])
        });
        told
    }

    #[test]
    fn with_much_waiting_rejections_are_left_out_first_and_are_not_lost() {
        let queue = queue();
        while queue.health().waiting < LIMIT_OF_REJECTIONS {
            push(&queue, Mark::None, false).unwrap();
        }
        assert_eq!(reject(&queue), None);
        assert_eq!(push(&queue, Mark::None, false), Ok(()));
        let health = queue.health();
        assert_eq!((health.left_out, health.lost), (1, 0));
        let work = take(&queue);
        queue.written(&work.entries, 0);
        assert_eq!(reject(&queue), Some(1), "there is room again");
    }

    #[test]
    fn what_was_left_out_is_said_when_its_time_has_come_or_at_the_end_and_only_then() {
        let queue = queue();
        assert_eq!(reject(&queue), Some(0));
        assert_eq!((reject(&queue), reject(&queue)), (None, None));
        assert_eq!(take(&queue).left_out, 0, "it is not due");
        drop(queue.close());
        assert_eq!(take(&queue).left_out, 2);
        assert_eq!(take(&queue).left_out, 0, "once");

        let rejections = Rejections::new(None, Duration::ZERO, clock::instant());
        let queue = Queue::new(Duration::from_secs(1), rejections);
        assert_eq!(reject(&queue), None);
        let now = clock::instant();
        // Nothing else has arrived, and nothing else is due.
        let work = queue.take(now, now + Duration::from_hours(1));
        assert_eq!((work.left_out, work.entries.len()), (1, 0));
    }

    #[test]
    fn a_rejection_that_cannot_be_made_into_bytes_is_left_out_with_what_it_would_have_said() {
        let queue = queue();
        queue.reject(|_| None);
        queue.reject(|_| None);
        drop(queue.close());
        assert_eq!((take(&queue).left_out, queue.health().left_out), (2, 2));
    }
}
