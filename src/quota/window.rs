//! What a node has of one day's or month's allowance, and how much of it it should hold. Pure.
//!
//! Invariant: what is admitted comes out of what was given (`left`), or is written down as a debt; so
//! the account's sum is never behind what was admitted by more than the debts that are not reported yet.

use jiff::Timestamp;

use super::{
    Now,
    account::{Kind, MEASURES, Op, Report, Seen, Told, Which},
};
use crate::limits::{Limits, calendar::Period};

/// What a node holds of one limit.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Meter {
    /// Given and not yet used.
    pub(super) left: u64,
    /// What requests wait for that nobody was asked for yet.
    pub(super) need: u64,
    /// What this node admitted in the period.
    pub(super) own: u64,
    /// What it may still admit of its share, while nobody can be asked; none before that was looked at.
    pub(super) share: Option<u64>,
    pace: Usage,
}

/// How much is used in one lease's time: what a node should hold.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Usage {
    since: u64,
    now: u64,
    before: u64,
}

impl Usage {
    /// Counts, and begins anew when a lease's time has passed.
    pub(super) fn add(&mut self, amount: u64, now: u64, lease: u64) {
        let passed = now.saturating_sub(self.since);
        if passed >= lease {
            let leases = passed.checked_div(lease).unwrap_or(1).max(1);
            self.before = self.now / leases;
            (self.now, self.since) = (0, now);
        }
        self.now = self.now.saturating_add(amount);
    }

    /// What should be held: as much as was used in the last such time.
    pub(super) fn block(&self) -> u64 {
        self.now.max(self.before)
    }
}

impl Meter {
    /// Takes what is certainly there.
    pub(super) fn spend(&mut self, amount: u64, now: u64, lease: u64) {
        self.left = self.left.saturating_sub(amount);
        self.own = self.own.saturating_add(amount);
        self.pace.add(amount, now, lease);
    }

    /// Takes back what was spent and is not used.
    pub(super) fn take_back(&mut self, amount: u64) {
        let amount = amount.min(self.own);
        self.own -= amount;
        self.left = self.left.saturating_add(amount);
    }

    /// Whether it is time to ask for more, before requests have to wait.
    pub(super) fn is_low(&self) -> bool {
        self.left < self.pace.block() / 2
    }

    fn want(&self) -> u64 {
        let ahead = self.pace.block().saturating_sub(self.left);
        self.need.saturating_add(ahead)
    }
}

/// A node's part of one period.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) which: Which,
    pub(super) start: Timestamp,
    pub(super) end: Timestamp,
    pub(super) meters: [Meter; MEASURES],
    /// The account as of the last answer; none before the first.
    pub(super) seen: Option<Seen>,
    /// When that was, on the monotonic clock.
    pub(super) asked: u64,
    /// Whether more is held back for now.
    pub(super) held: bool,
    /// What is to be reported next.
    pub(super) pending: Report,
    /// What of `own` stays charged, by requests that have ended.
    pub(super) kept: u64,
    /// A report that is not acknowledged: it is sent again until it is.
    sent: Option<Box<Report>>,
    seq: u64,
}

impl Window {
    /// One that begins now. Reports are numbered from there on, so that no number comes twice where
    /// this process had another part of the same period before.
    pub(super) fn of(kind: Kind, period: Period, now: &Now) -> Self {
        Self {
            which: Which {
                kind,
                first: period.first,
            },
            start: period.start,
            end: period.end,
            meters: [Meter::default(); MEASURES],
            seen: None,
            asked: 0,
            held: false,
            pending: Report::default(),
            kept: 0,
            sent: None,
            seq: now.mono / 1_000,
        }
    }

    /// The same account with other bounds: those of another time zone or billing day.
    pub(super) const fn move_to(&mut self, period: Period) {
        (self.start, self.end) = (period.start, period.end);
    }

    /// The limits that hold in it.
    pub(super) const fn limits(kind: Kind, limits: &Limits) -> [Option<u64>; MEASURES] {
        match kind {
            Kind::Day => [limits.daily, limits.bytes_daily],
            Kind::Month => [limits.monthly, None],
        }
    }

    /// Whether all was reported.
    pub(super) fn is_done(&self) -> bool {
        self.sent.is_none() && self.pending.is_empty()
    }

    /// Whether something was granted that the account does not know yet.
    pub(super) fn owes_grant(&self) -> bool {
        let granted = |report: &Report| report.grant != [0; MEASURES];
        granted(&self.pending) || self.sent.as_deref().is_some_and(granted)
    }

    /// What of the account's requests is neither charged there nor lost: this node holds it, a request
    /// is under way with it, or it is not reported yet.
    pub(super) fn outstanding(&self) -> u64 {
        let [requests, _] = &self.meters;
        let held = requests.left.saturating_add(requests.own);
        let mut outstanding = held.saturating_sub(self.kept);
        for report in [Some(&self.pending), self.sent.as_deref()]
            .into_iter()
            .flatten()
        {
            let ([back, _], [debt, _]) = (report.back, report.debt);
            let unsaid = report.tally.charged.saturating_add(back);
            outstanding = outstanding.saturating_add(unsaid).saturating_sub(debt);
        }
        outstanding
    }

    /// What is on its way back of each measure: nobody has it, and what was seen does not say so yet.
    pub(super) fn returning(&self) -> [u64; MEASURES] {
        let mut returning = self.pending.back;
        if let Some(sent) = &self.sent {
            for (sum, back) in returning.iter_mut().zip(sent.back) {
                *sum = sum.saturating_add(back);
            }
        }
        returning
    }

    /// Gives back what is not used: the period is over, nobody comes, or the process ends.
    pub(super) fn put_back(&mut self) {
        for (meter, back) in self.meters.iter_mut().zip(&mut self.pending.back) {
            *back = back.saturating_add(std::mem::take(&mut meter.left));
            (meter.need, meter.pace) = (0, Usage::default());
        }
    }

    /// What is to be asked for; nothing where there is nothing to say.
    pub(super) fn ask(&mut self, limits: &Limits, node: u64, urgent: bool) -> Option<Op> {
        let limit = Self::limits(self.which.kind, limits);
        let mut want = [0; MEASURES];
        let mut need = [0; MEASURES];
        // All that is owed is to be known there before more is given.
        let owes = self.sent.is_some() && self.pending.debt != [0; MEASURES];
        for (place, meter) in self.meters.iter_mut().enumerate() {
            if owes || limit.get(place).copied().flatten().is_none() {
                continue;
            }
            if let (Some(want), Some(need)) = (want.get_mut(place), need.get_mut(place)) {
                *want = meter.want();
                // From here on it counts those that come while the store is asked: their need is not
                // in this question, so its answer must not end it.
                *need = std::mem::take(&mut meter.need);
            }
        }
        if self.sent.is_none() && !self.pending.is_empty() {
            self.seq += 1;
            self.sent = Some(Box::new(std::mem::take(&mut self.pending)));
        }
        if self.sent.is_none() && want == [0; MEASURES] && !urgent {
            return None;
        }
        Some(Op {
            which: self.which,
            limit,
            node,
            seq: self.seq,
            report: self.sent.as_deref().copied().unwrap_or_default(),
            want,
            need,
            holds: self.meters.map(|meter| meter.left),
            warn_at: limits.warn_at,
            seen: self.seen.unwrap_or_default(),
            bucket: None,
        })
    }

    /// Takes what was given.
    pub(super) fn told(&mut self, told: &Told, now: u64) {
        self.sent = None;
        self.seen = Some(told.seen);
        self.asked = now;
        self.held = told.held;
        for (place, (meter, given)) in self.meters.iter_mut().zip(told.given).enumerate() {
            meter.left = meter.left.saturating_add(given);
            let owed = self.pending.debt.get(place).copied().unwrap_or(0);
            let part = told.part.and_then(|part| part.get(place).copied());
            meter.share = part.map(|part| part.saturating_sub(owed));
        }
    }
}
