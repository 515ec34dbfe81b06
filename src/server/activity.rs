//! What happened on one connection, and until when something must happen next.
//!
//! Invariant: at each moment at most one rule applies, and it is named by the [`Cut`] it ends in. Times
//! are milliseconds since the connection was opened, in atomics, because an HTTP/2 connection and its
//! requests are different tasks; a value is only ever a time, so the order of two stores matters
//! nowhere by more than one early look at the clock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

use super::{Cut, Protocol, ServerSettings};
use crate::clock;

/// The preface and an empty SETTINGS frame: less than that is no HTTP/2 client yet.
const H2_OPENING: u64 = 24 + 9;

/// How long a connection that was asked to end may stand still when nothing is under way: long enough
/// for HTTP/2's two GOAWAYs, or for the rest of a head that was on its way.
const FAREWELL: Duration = Duration::from_millis(500);

/// The same for HTTP/2 in a drain, where the last pieces of answers may still wait for the client to
/// grant room.
const H2_FAREWELL: Duration = Duration::from_secs(2);

/// Shared by a connection's task, its watched stream and its requests.
pub(super) struct Activity {
    opened: Instant,
    limits: Limits,
    under_way: AtomicUsize,
    served: AtomicBool,
    unread: AtomicBool,
    ended: AtomicBool,
    received: AtomicU64,
    quiet_since: AtomicU64,
    head_since: Moment,
    blocked_since: Moment,
    draining_since: Moment,
    asked_since: Moment,
    /// Woken when the last request under way ends in another task than the connection's.
    pub(super) watcher: AtomicWaker,
}

#[derive(Debug, Clone)]
struct Limits {
    protocol: Protocol,
    header: Duration,
    idle: Duration,
    write: Duration,
    drain: Duration,
}

impl Activity {
    pub(super) fn new(settings: &ServerSettings) -> Self {
        Self {
            opened: clock::instant(),
            limits: Limits {
                protocol: settings.protocol,
                header: settings.header_timeout,
                idle: settings.idle_timeout,
                write: settings.write_timeout,
                drain: settings.drain_timeout,
            },
            under_way: AtomicUsize::new(0),
            served: AtomicBool::new(false),
            unread: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            received: AtomicU64::new(0),
            quiet_since: AtomicU64::new(0),
            head_since: Moment::default(),
            blocked_since: Moment::default(),
            draining_since: Moment::default(),
            asked_since: Moment::default(),
            watcher: AtomicWaker::new(),
        }
    }

    /// Bytes came in. Whether they may be the first of a head on HTTP/1.
    pub(super) fn received(&self, bytes: usize) -> bool {
        if self.limits.protocol == Protocol::H2c {
            let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
            self.received.fetch_add(bytes, Relaxed);
            return false;
        }
        if self.under_way.load(Relaxed) > 0 || self.head_since.get().is_some() {
            return false;
        }
        self.head_since.set(self.now());
        true
    }

    /// The client closed its sending side.
    pub(super) fn ended(&self) {
        self.ended.store(true, Relaxed);
    }

    /// Bytes were taken by the client's side.
    pub(super) fn wrote(&self) {
        self.blocked_since.clear();
        self.quiet_since.store(self.now(), Relaxed);
    }

    /// The client's side took no byte.
    pub(super) fn blocked(&self) {
        if self.blocked_since.get().is_none() {
            self.blocked_since.set(self.now());
        }
    }

    /// A body was left unread, so that its bytes may still be coming when the connection closes.
    pub(super) fn left_unread(&self) {
        self.unread.store(true, Relaxed);
    }

    /// The drain began.
    pub(super) fn draining(&self) {
        // Twice where it began before the connection had said for whom it is: the first counts.
        if self.draining_since.get().is_none() {
            self.draining_since.set(self.now());
        }
    }

    /// Idle for too long: the connection was asked to end.
    pub(super) fn asked_to_end(&self) {
        self.asked_since.set(self.now());
    }

    /// Whether no request is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.load(Relaxed) == 0
    }

    /// Whether bytes may be coming that nobody will read, so that closing now could reset the
    /// connection under the client's answer.
    pub(super) fn needs_linger(&self) -> bool {
        let midway = self.unread.load(Relaxed) || self.head_since.get().is_some();
        midway && !self.ended.load(Relaxed)
    }

    /// When the connection is overdue, and for what; nothing while others keep the time.
    pub(super) fn deadline(&self) -> Option<Deadline> {
        let mut deadline = self.rule();
        // Above any other rule: the drain ends when it ends.
        if let Some(since) = self.draining_since.get() {
            let end = self.at(since, self.limits.drain);
            if deadline.is_none_or(|deadline| end < deadline.at) {
                deadline = Some(Deadline {
                    at: end,
                    cut: Cut::Drain,
                });
            }
        }
        deadline
    }

    fn rule(&self) -> Option<Deadline> {
        let after = |since, limit, cut| {
            let at = self.at(since, limit);
            Some(Deadline { at, cut })
        };
        if let Some(since) = self.blocked_since.get() {
            return after(since, self.limits.write, Cut::Write);
        }
        if !self.is_idle() {
            // The body, the handler and the upstream have their own times.
            return None;
        }
        let quiet = self.quiet_since.load(Relaxed);
        if let Some(since) = self.draining_since.get() {
            let farewell = match self.limits.protocol {
                Protocol::H2c => H2_FAREWELL,
                Protocol::Http1 => FAREWELL,
            };
            return after(since.max(quiet), farewell, Cut::Idle);
        }
        if let Some(since) = self.asked_since.get() {
            return after(since.max(quiet), FAREWELL, Cut::Idle);
        }
        let begun = match self.limits.protocol {
            Protocol::H2c => self.received.load(Relaxed) >= H2_OPENING,
            Protocol::Http1 => self.served.load(Relaxed),
        };
        match self.head_since.get() {
            Some(since) => after(since, self.limits.header, Cut::Header),
            None if begun => after(quiet, self.limits.idle, Cut::Idle),
            None => after(0, self.limits.header, Cut::Header),
        }
    }

    fn now(&self) -> u64 {
        let since = clock::instant().saturating_duration_since(self.opened);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn at(&self, since: u64, limit: Duration) -> Instant {
        self.opened + Duration::from_millis(since) + limit
    }
}

/// When a connection is ended, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Deadline {
    pub(super) at: Instant,
    pub(super) cut: Cut,
}

/// A request under way, from its complete head to the last byte handed to hyper (or until what it
/// left of its body was discarded).
pub(super) struct UnderWay(Arc<Activity>);

impl UnderWay {
    pub(super) fn begin(activity: &Arc<Activity>) -> Self {
        activity.under_way.fetch_add(1, Relaxed);
        activity.served.store(true, Relaxed);
        activity.head_since.clear();
        Self(Arc::clone(activity))
    }

    /// The same request, for a second part of it.
    pub(super) fn share(&self) -> Self {
        self.0.under_way.fetch_add(1, Relaxed);
        Self(Arc::clone(&self.0))
    }

    pub(super) fn activity(&self) -> &Activity {
        &self.0
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let activity = &self.0;
        activity.quiet_since.store(activity.now(), Relaxed);
        let last = activity.under_way.fetch_sub(1, Relaxed) == 1;
        // On HTTP/1 this is nearly always the connection's own task, which looks by itself.
        if last && activity.limits.protocol == Protocol::H2c {
            activity.watcher.wake();
        }
    }
}

/// A time that may be unset: one more than the milliseconds, or zero.
#[derive(Default)]
struct Moment(AtomicU64);

impl Moment {
    fn set(&self, millis: u64) {
        self.0.store(millis.saturating_add(1), Relaxed);
    }

    fn clear(&self) {
        self.0.store(0, Relaxed);
    }

    fn get(&self) -> Option<u64> {
        self.0.load(Relaxed).checked_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn activity(protocol: Protocol) -> Arc<Activity> {
        let mut settings = super::super::tests::settings();
        settings.protocol = protocol;
        settings.header_timeout = Duration::from_secs(10);
        settings.idle_timeout = Duration::from_mins(1);
        settings.write_timeout = Duration::from_secs(30);
        settings.drain_timeout = Duration::from_secs(25);
        Arc::new(Activity::new(&settings))
    }

    async fn pass(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    /// The seconds from opening to the deadline.
    fn due(activity: &Activity) -> Option<(u64, Cut)> {
        let deadline = activity.deadline()?;
        Some(((deadline.at - activity.opened).as_secs(), deadline.cut))
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_has_the_header_timeout_and_so_has_each_head() {
        let activity = activity(Protocol::Http1);
        assert_eq!(due(&activity), Some((10, Cut::Header)));
        pass(5).await;
        assert!(activity.received(1));
        pass(1).await;
        // A drip gains no time.
        assert!(!activity.received(1));
        assert_eq!(due(&activity), Some((15, Cut::Header)));
        drop(UnderWay::begin(&activity));
        assert_eq!(due(&activity), Some((66, Cut::Idle)));
        pass(20).await;
        activity.received(1);
        assert_eq!(due(&activity), Some((36, Cut::Header)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_under_way_has_no_deadline_here_until_a_write_is_blocked() {
        let activity = activity(Protocol::Http1);
        activity.received(1);
        let request = UnderWay::begin(&activity);
        let discard = request.share();
        drop(request);
        assert_eq!(due(&activity), None);
        assert!(!activity.received(1), "a byte of the body");
        pass(7).await;
        activity.blocked();
        pass(1).await;
        activity.blocked();
        assert_eq!(due(&activity), Some((37, Cut::Write)));
        activity.wrote();
        assert_eq!(due(&activity), None);
        drop(discard);
        assert_eq!(due(&activity), Some((68, Cut::Idle)));
    }

    #[tokio::test(start_paused = true)]
    async fn http2_has_the_header_timeout_for_its_preface_and_then_the_idle_timeout() {
        let activity = activity(Protocol::H2c);
        activity.received(24);
        assert_eq!(due(&activity), Some((10, Cut::Header)));
        activity.received(9);
        assert_eq!(due(&activity), Some((60, Cut::Idle)));
        pass(3).await;
        drop(UnderWay::begin(&activity));
        assert_eq!(due(&activity), Some((63, Cut::Idle)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_gives_requests_its_time_and_the_rest_a_moment() {
        let activity = activity(Protocol::Http1);
        pass(4).await;
        let request = UnderWay::begin(&activity);
        activity.draining();
        assert_eq!(due(&activity), Some((29, Cut::Drain)));
        pass(5).await;
        drop(request);
        assert_eq!(due(&activity), Some((9, Cut::Idle)));
        activity.blocked();
        assert_eq!(due(&activity), Some((29, Cut::Drain)));
    }

    #[tokio::test(start_paused = true)]
    async fn lingering_is_for_clients_that_may_still_be_sending() {
        let activity = activity(Protocol::Http1);
        assert!(!activity.needs_linger());
        activity.received(1);
        assert!(activity.needs_linger());
        drop(UnderWay::begin(&activity));
        assert!(!activity.needs_linger());
        activity.left_unread();
        assert!(activity.needs_linger());
        activity.ended();
        assert!(!activity.needs_linger());
    }
}
