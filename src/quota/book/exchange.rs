//! What the keeper takes to the store for a book, and what it brings back.

use tokio::time::Instant;

use super::{Active, Book, Loaded, State};
use crate::{
    limits::{
        Limits, Policy,
        bucket::{Bucket, Pace},
    },
    quota::{
        Now, Shared,
        account::{Kind, Left, Op, Told},
        portion::{PortionOp, PortionTold},
        window::Window,
    },
};

/// For how many looks of the keeper a book must be quiet until what it holds is put back.
const QUIET: u8 = 2;

/// What is asked of the store for one tenant, all at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::quota) struct Exchange {
    pub(in crate::quota) ops: Vec<Op>,
    pub(in crate::quota) portion: Option<PortionOp>,
}

/// What the store said to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::quota) struct Answered {
    pub(in crate::quota) told: Vec<Told>,
    pub(in crate::quota) portion: Option<PortionTold>,
}

/// A soft limit that was crossed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crossed {
    /// Of which limit.
    pub policy: Policy,
    /// The limit, with what was granted on top.
    pub limit: u64,
    /// What of it is taken.
    pub taken: u64,
}

/// Why the keeper looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::quota) enum Look {
    /// An operator wants to know everything.
    All,
    /// It was called.
    Called,
    /// The process ends.
    Last,
    /// As it does now and then.
    Now,
}

impl Book {
    /// What there is to ask and to report; nothing where there is nothing. Where there is something,
    /// [`answered`](Self::answered) has to follow before this is asked again. And whether the keeper is to
    /// look again by itself from now on, which it did not.
    pub(in crate::quota) fn exchange(
        &self,
        look: Look,
        node: u64,
        now: &Now,
        shared: Option<&Shared>,
    ) -> (Option<Exchange>, bool) {
        let mut state = self.lock();
        let State { limits, active } = &mut *state;
        let active = match look {
            Look::All => super::opened(active, limits, now),
            Look::Called | Look::Last | Look::Now => match active.as_deref_mut() {
                Some(active) => active,
                None => return (None, false),
            },
        };
        active.attention.called = false;
        let woken = !std::mem::replace(&mut active.attention.awake, true);
        active.roll(limits, now);
        active.settle_down(look);
        let all = look == Look::All;
        // From here on requests wait until the bucket is loaded again: what is written down now would
        // not be true any more.
        let rests = look == Look::Last || active.attention.quiet >= QUIET;
        let here = active.loaded == Loaded::Here;
        let parting = rests && shared.is_none() && limits.rate.is_some() && here;
        if parting {
            active.loaded = Loaded::Resting;
        }
        let mut ops = Vec::new();
        for window in &mut active.closed {
            ops.extend(window.ask(limits, node, false));
        }
        // A soft limit is noticed by the store, and other nodes take of the same accounts: each second
        // both are looked at.
        let all = all || (look == Look::Now && active.attention.quiet == 0);
        ops.extend(active.day.ask(limits, node, all && limits_day(limits)));
        let load = matches!(look, Look::All | Look::Called) && active.loaded != Loaded::Here;
        let load = load && limits.rate.is_some() && shared.is_none();
        let month_too = (all && limits.monthly.is_some()) || load || parting;
        let month = active.month.ask(limits, node, month_too);
        let full_at = parting.then(|| full_at(active, now));
        ops.extend(month.map(|op| Op {
            bucket: full_at,
            ..op
        }));
        let portion = shared.and_then(|shared| {
            active
                .portion
                .ask(limits, active.in_flight, now, shared, all)
        });
        let exchange = (!ops.is_empty() || portion.is_some()).then_some(Exchange { ops, portion });
        (exchange, woken)
    }

    /// Whether the keeper need not look any more, until it is called.
    pub(in crate::quota) fn sleeps(&self) -> bool {
        let mut state = self.lock();
        let Some(active) = &mut state.active else {
            return true;
        };
        let done = active.closed.is_empty() && active.day.is_done() && active.month.is_done();
        let sleeps = done
            && active.attention.quiet > QUIET
            && active.in_flight == 0
            && !active.attention.called;
        active.attention.awake = !sleeps;
        sleeps
    }

    /// Notes since when it sleeps. Returns whether that was not noted yet.
    pub(in crate::quota) fn rests(&self, since: Instant) -> bool {
        let mut state = self.lock();
        let Some(active) = &mut state.active else {
            return false;
        };
        active.attention.asleep_since.replace(since).is_none()
    }

    /// Forgets a tenant that sleeps since then: what there is to know of it is in the store. One
    /// that went to sleep later says since when.
    pub(in crate::quota) fn forget(&self, since: Instant) -> Option<Instant> {
        let mut state = self.lock();
        let active = state.active.as_mut()?;
        let attention = &mut active.attention;
        let later = attention.asleep_since.filter(|later| *later > since);
        if later.is_some() {
            return later;
        }
        attention.asleep_since = None;
        if !attention.awake && !attention.called && active.in_flight == 0 {
            state.active = None;
        }
        None
    }

    /// Takes what the store said, or that it said nothing; the soft limits that were crossed.
    pub(in crate::quota) fn answered(
        &self,
        exchange: &Exchange,
        answer: Option<&Answered>,
        now: &Now,
        shared: Option<&Shared>,
    ) -> Vec<Crossed> {
        let mut crossed = Vec::new();
        let mut state = self.lock();
        let State { limits, active } = &mut *state;
        if let Some(active) = active {
            active.asked = now.mono;
            active.away = answer.is_none();
            if let Some(answer) = answer {
                active.told(exchange, answer, limits, now, &mut crossed);
                if let (Some(shared), Some(told)) = (shared, &answer.portion) {
                    active
                        .portion
                        .told(told, exchange.portion.as_ref(), now, shared);
                }
            }
        }
        drop(state);
        self.refilled.notify_waiters();
        crossed
    }
}

impl Active {
    /// Counts looks without a request; after some, what is held goes back.
    fn settle_down(&mut self, look: Look) {
        match look {
            Look::All | Look::Called => return,
            Look::Last => self.attention.quiet = QUIET,
            Look::Now if std::mem::take(&mut self.attention.touched) => self.attention.quiet = 0,
            Look::Now => self.attention.quiet = self.attention.quiet.saturating_add(1),
        }
        if self.attention.quiet >= QUIET {
            self.day.put_back();
            self.month.put_back();
            self.portion.put_back();
        }
    }

    fn told(
        &mut self,
        exchange: &Exchange,
        answer: &Answered,
        limits: &Limits,
        now: &Now,
        crossed: &mut Vec<Crossed>,
    ) {
        for (op, told) in exchange.ops.iter().zip(&answer.told) {
            if let Some(window) = self.window(op) {
                window.told(told, now.mono);
                crossed.extend(of_policies(op, told));
            }
            if op.which == self.month.which && op.bucket.is_none() {
                let before = std::mem::replace(&mut self.loaded, Loaded::Here);
                // This node knows it best, once it was here: what was written may be of the month
                // before, where nobody reads it any more.
                if before == Loaded::Never {
                    self.load(told.bucket, limits, now);
                }
            }
        }
        // What was given to a period that is over by now goes back.
        for window in &mut self.closed {
            window.put_back();
        }
        self.closed.retain(|window| !window.is_done());
    }

    fn window(&mut self, op: &Op) -> Option<&mut Window> {
        let current = [&mut self.day, &mut self.month];
        let mut windows = current.into_iter().chain(&mut self.closed);
        windows.find(|window| window.which == op.which)
    }

    /// Goes on with the bucket that an earlier process left.
    fn load(&mut self, left: Left, limits: &Limits, now: &Now) {
        let Some(rate) = &limits.rate else { return };
        let pace = Pace::of(rate);
        self.bucket = match left {
            Left::Nothing => Bucket::FULL,
            Left::Unknown => Bucket::empty(pace, now.mono),
            Left::At(full_at) => {
                let left = full_at.saturating_sub(now.wall.as_millisecond());
                let left = u64::try_from(left).unwrap_or(0).saturating_mul(1_000_000);
                Bucket::full_in(pace, now.mono, left)
            }
        };
    }
}

/// When the bucket is full, on the wall's clock; rounded up.
fn full_at(active: &Active, now: &Now) -> i64 {
    let left = active.bucket.fills_in(now.mono).div_ceil(1_000_000);
    let left = i64::try_from(left).unwrap_or(i64::MAX);
    now.wall.as_millisecond().saturating_add(left)
}

fn of_policies(op: &Op, told: &Told) -> impl Iterator<Item = Crossed> {
    let policies = match op.which.kind {
        Kind::Day => [Policy::Daily, Policy::BytesDaily],
        Kind::Month => [Policy::Monthly, Policy::Monthly],
    };
    let seen = told.seen;
    let limit = op.limit;
    policies
        .into_iter()
        .zip(told.crossed)
        .enumerate()
        .filter(|(_, (_, crossed))| *crossed)
        .map(move |(place, (policy, _))| Crossed {
            policy,
            limit: limit.get(place).copied().flatten().unwrap_or(0) + seen.at(place).1,
            taken: seen.at(place).0,
        })
}

/// Whether anything is limited by the day.
const fn limits_day(limits: &Limits) -> bool {
    limits.daily.is_some() || limits.bytes_daily.is_some()
}
