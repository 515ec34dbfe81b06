//! The decisions themselves, in the order in which a request meets them.

use std::time::Duration;

use jiff::Timestamp;

use super::{Active, Denied, Loaded, Step};
use crate::{
    limits::{Limits, Policy, bucket::Pace},
    quota::{
        Now, Shared, between,
        window::{Meter, Window},
    },
    store::redis::settings::OnStoreFailure,
};

/// How long a store that failed is left alone by requests of one tenant, in nanoseconds.
pub(super) const LEFT_ALONE: u64 = 200_000_000;
/// After how long a node asks again for allowance where there was none: another node may have put
/// some back.
const ASK_AGAIN: u64 = 1_000_000_000;
/// What a node knows of an account is good for a share of it no longer than this.
const FRESH: u64 = 10_000_000_000;
/// When a place among those at a time may be free again.
const SOON: Duration = Duration::from_secs(1);
/// How much of an hour's or second's use a node of its own takes ahead: a tenth of a second's.
pub(in crate::quota) const OWN_LEASE: u64 = 100_000_000;

/// One limit of a period, and what a request takes of it.
struct Claim<'a> {
    policy: Policy,
    amount: u64,
    limit: u64,
    meter: &'a mut Meter,
    debt: &'a mut u64,
    /// What all nodes have taken, and what was granted, as of the last answer.
    seen: Option<(u64, u64)>,
    /// What this node gives back, which is not in that yet.
    returning: u64,
    asked: u64,
    ends: Timestamp,
}

impl Claim<'_> {
    fn lacking(&self) -> u64 {
        self.amount.saturating_sub(self.meter.left)
    }

    /// What nobody has taken yet; unknown before the first answer.
    fn free(&self) -> Option<u64> {
        let (taken, extra) = self.seen?;
        Some(self.limit.saturating_add(extra).saturating_sub(taken))
    }

    fn is_denied(&self) -> bool {
        let free = self.free();
        free.is_some_and(|free| free.saturating_add(self.returning) < self.lacking())
    }

    /// What this node may go on with while nobody can be asked: its part of what was free, or of the
    /// whole limit.
    fn share(&mut self, shared: &Shared, now: &Now) -> u64 {
        if let Some(share) = self.meter.share {
            return share;
        }
        let nodes = u64::from(shared.nodes.get());
        let fresh = now.mono.saturating_sub(self.asked) <= FRESH;
        let free = if fresh { self.free().unwrap_or(0) } else { 0 };
        // What was not reported yet is not in what was seen.
        let free = free.saturating_sub(*self.debt);
        let of_all = (self.limit / nodes).saturating_sub(self.meter.own);
        let share = match shared.away {
            OnStoreFailure::Lease => free / nodes,
            OnStoreFailure::LocalShare => of_all.max(free / nodes),
            OnStoreFailure::Refuse => 0,
        };
        self.meter.share = Some(share);
        share
    }
}

impl Active {
    /// Rate and concurrency of a node that has its tenants alone.
    pub(super) fn admit(&mut self, limits: &Limits, now: &Now) -> Step {
        if limits.rate.is_some() && self.loaded != Loaded::Here {
            // What an earlier process left of the burst is not known yet.
            return self.wait(now).unwrap_or(Step::Refuse);
        }
        let full = |most: u32| self.in_flight >= most;
        if limits.concurrency.is_some_and(|most| full(most.get())) {
            return denied(Policy::Concurrency, SOON);
        }
        if let Some(rate) = &limits.rate
            && let Err(after) = self.bucket.take(Pace::of(rate), now.mono)
        {
            return denied(Policy::Rate, Duration::from_nanos(after));
        }
        self.in_flight += 1;
        Step::Admit { call: false }
    }

    /// Waits for an answer, unless there was just none.
    fn wait(&mut self, now: &Now) -> Option<Step> {
        let recently = now.mono.saturating_sub(self.asked) < LEFT_ALONE;
        if self.away && recently && !self.attention.called {
            return None;
        }
        let call = self.call();
        Some(Step::Wait { call })
    }

    /// Day, month and bytes: all of them, or none.
    pub(super) fn charge(
        &mut self,
        limits: &Limits,
        cost: (u64, u64),
        now: &Now,
        shared: Option<&Shared>,
    ) -> Step {
        let asks_again = self.asks_again(now, shared);
        let refuses =
            self.away && shared.is_some_and(|shared| shared.away == OnStoreFailure::Refuse);
        let (mut short, mut limited) = (false, false);
        let mut worst: Option<Denied> = None;
        for claim in claims(&mut self.day, &mut self.month, limits, cost) {
            limited = true;
            short |= claim.lacking() > 0;
            if claim.is_denied() {
                let (policy, retry_after) = (claim.policy, between(now.wall, claim.ends));
                let longest = worst.is_none_or(|worst| worst.retry_after < retry_after);
                worst = if longest {
                    Some(Denied {
                        policy,
                        retry_after,
                    })
                } else {
                    worst
                };
            }
        }
        if refuses && limited {
            return self.wait_or_refuse(now);
        }
        if let Some(denied) = worst
            && !asks_again
        {
            return Step::Deny(denied);
        }
        if short {
            return self.get_more(limits, cost, now, shared, worst);
        }
        self.spend(limits, cost, now, shared)
    }

    /// Whether another node may have put back what is lacking.
    fn asks_again(&self, now: &Now, shared: Option<&Shared>) -> bool {
        let long_ago = now.mono.saturating_sub(self.asked) >= ASK_AGAIN;
        shared.is_some() && !self.away && long_ago
    }

    fn wait_or_refuse(&mut self, now: &Now) -> Step {
        self.wait(now).unwrap_or(Step::Refuse)
    }

    fn get_more(
        &mut self,
        limits: &Limits,
        cost: (u64, u64),
        now: &Now,
        shared: Option<&Shared>,
        denied: Option<Denied>,
    ) -> Step {
        if let Some(shared) = shared
            && self.away
        {
            return self.go_on(limits, cost, now, shared, denied);
        }
        let recently = now.mono.saturating_sub(self.asked) < LEFT_ALONE;
        if recently && (self.day.held || self.month.held) {
            return Step::Refuse;
        }
        let Some(step) = self.wait(now) else {
            return Step::Refuse;
        };
        for claim in claims(&mut self.day, &mut self.month, limits, cost) {
            claim.meter.need = claim.meter.need.saturating_add(claim.lacking());
        }
        step
    }

    /// Goes on without the store, within this node's share, and writes down what it owes. The store is
    /// asked beside it, so that its return is noticed.
    fn go_on(
        &mut self,
        limits: &Limits,
        cost: (u64, u64),
        now: &Now,
        shared: &Shared,
        denied: Option<Denied>,
    ) -> Step {
        let recently = now.mono.saturating_sub(self.asked) < LEFT_ALONE;
        let mut enough = denied.is_none();
        for mut claim in claims(&mut self.day, &mut self.month, limits, cost) {
            enough &= claim.lacking() <= claim.share(shared, now);
        }
        if !enough {
            return if recently {
                Step::Refuse
            } else {
                self.wait_or_refuse(now)
            };
        }
        for claim in claims(&mut self.day, &mut self.month, limits, cost) {
            let lacking = claim.lacking();
            *claim.debt = claim.debt.saturating_add(lacking);
            claim.meter.share = claim.meter.share.map(|share| share.saturating_sub(lacking));
            claim.meter.spend(claim.amount, now.mono, shared.lease);
        }
        let call = !recently && self.call();
        Step::Admit { call }
    }

    fn spend(
        &mut self,
        limits: &Limits,
        cost: (u64, u64),
        now: &Now,
        shared: Option<&Shared>,
    ) -> Step {
        let lease = shared.map_or(OWN_LEASE, |shared| shared.lease);
        let mut low = false;
        for claim in claims(&mut self.day, &mut self.month, limits, cost) {
            claim.meter.spend(claim.amount, now.mono, lease);
            low |= claim.meter.is_low() && claim.free().is_some_and(|free| free > 0);
        }
        let recently = now.mono.saturating_sub(self.asked) < LEFT_ALONE;
        let call = low && !(self.away && recently) && self.call();
        Step::Admit { call }
    }

    /// Rate and concurrency, of which nodes have portions.
    pub(super) fn admit_shared(&mut self, limits: &Limits, now: &Now, shared: &Shared) -> Step {
        let limited = limits.rate.is_some() || limits.concurrency.is_some();
        if limited && self.away && shared.away == OnStoreFailure::Refuse {
            return self.wait_or_refuse(now);
        }
        if let Some(most) = limits.concurrency {
            let places = self.portion.places(most, now, shared, self.away);
            if self.in_flight >= places {
                // Its part may be in use elsewhere, as far as is known: nobody can say.
                if self.away && self.in_flight < most.get() / shared.nodes.get() {
                    return self.wait_or_refuse(now);
                }
                if self.away || !self.portion.may_ask_for_places(most, now) {
                    return denied(Policy::Concurrency, SOON);
                }
                self.portion.need_places(self.in_flight);
                return self.wait_or_refuse(now);
            }
        }
        if let Some(rate) = &limits.rate {
            match self.portion.take(rate, now, shared, self.away) {
                Ok(()) => {}
                Err(Some(after)) => return denied(Policy::Rate, Duration::from_nanos(after)),
                Err(None) => return self.wait_or_refuse(now),
            }
        }
        self.in_flight += 1;
        let recently = now.mono.saturating_sub(self.asked) < LEFT_ALONE;
        let low = self.portion.is_low(limits.rate.as_ref(), shared, now);
        let call = if self.away { !recently } else { low };
        let call = call && self.call();
        Step::Admit { call }
    }
}

fn denied(policy: Policy, retry_after: Duration) -> Step {
    Step::Deny(Denied {
        policy,
        retry_after,
    })
}

/// The limits that hold for a request of this cost.
fn claims<'a>(
    day: &'a mut Window,
    month: &'a mut Window,
    limits: &Limits,
    (units, bytes): (u64, u64),
) -> impl Iterator<Item = Claim<'a>> {
    let (day_seen, month_seen) = (day.seen, month.seen);
    let [requests_back, bytes_back] = day.returning();
    let [month_back, _] = month.returning();
    let (of_day, of_month) = ((day.asked, day.end), (month.asked, month.end));
    let [daily, bytes_daily] = &mut day.meters;
    let [monthly, _] = &mut month.meters;
    let [daily_debt, bytes_debt] = &mut day.pending.debt;
    let [monthly_debt, _] = &mut month.pending.debt;
    let [requests, of_bytes] = [0, 1].map(|at| day_seen.map(|s| s.at(at)));
    let all = [
        (
            Policy::Daily,
            limits.daily,
            units,
            daily,
            daily_debt,
            (requests, requests_back),
            of_day,
        ),
        (
            Policy::BytesDaily,
            limits.bytes_daily,
            bytes,
            bytes_daily,
            bytes_debt,
            (of_bytes, bytes_back),
            of_day,
        ),
        (
            Policy::Monthly,
            limits.monthly,
            units,
            monthly,
            monthly_debt,
            (month_seen.map(|s| s.at(0)), month_back),
            of_month,
        ),
    ];
    all.into_iter().filter_map(
        |(policy, limit, amount, meter, debt, (seen, returning), (asked, ends))| {
            let limit = limit.filter(|_| amount > 0)?;
            Some(Claim {
                policy,
                amount,
                limit,
                meter,
                debt,
                seen,
                returning,
                asked,
                ends,
            })
        },
    )
}
