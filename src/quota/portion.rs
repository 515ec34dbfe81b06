//! A node's portion of a rate and of the places among requests at a time, where several nodes share
//! them. Pure: takes `now`.
//!
//! Invariant: all nodes together let no more through than `rate × time + burst`. What they hold ahead is
//! cut out of the burst: each of n nodes holds at most an n-th of half of it, and the bucket in the
//! store has the rest. While nobody can be asked, each node uses what it holds and then an n-th of the
//! rate. A node that alone is cut off does so beside the others, who have all of it.

use std::num::NonZeroU32;

use super::{Now, Shared, window::Usage};
use crate::limits::{
    Limits, Rate,
    bucket::{Bucket, Pace, nanoseconds},
};

/// After a node was given less than it wanted it does not ask again for this long, in nanoseconds.
const PAUSE: u64 = 20_000_000;
/// For how long places are a node's own unless it asks again, in nanoseconds; the store keeps them for
/// a second longer.
const PLACES: u64 = 4_000_000_000;
/// After how long all who wait have taken what was given to them, in nanoseconds.
const TAKEN_BY: u64 = 100_000_000;
/// For how long the store surely knows a bucket, in nanoseconds: an hour less than it is kept.
const REMEMBERED: u64 = 23 * 3_600_000_000_000;
/// The same, as the store is told it, in microseconds.
pub(super) const PLACES_KEPT: u64 = 5_000_000;

/// What a node holds.
#[derive(Debug, Default)]
pub(super) struct Portion {
    tokens: u64,
    needed: u64,
    usage: Usage,
    /// Let through without a token, while nobody could be asked.
    debt: u64,
    back: u64,
    /// The store had no more: until then there is nothing to ask for.
    empty_until: u64,
    /// What is let through while nobody can be asked.
    alone: Option<Bucket>,
    seen: bool,
    /// When that was last, in nanoseconds.
    heard: u64,
    /// What the store has left for all, as of the last answer.
    seen_left: u64,
    places: u32,
    places_until: u64,
    places_needed: u32,
    /// When they were last asked for, and until when there is no use in it.
    places_asked: u64,
    places_denied_until: u64,
    /// What was asked and not answered yet.
    sent: Option<(u64, u64)>,
    seq: u64,
}

/// What is asked of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PortionOp {
    /// A rate's count, period in microseconds, and the burst that the store's bucket has.
    pub(super) rate: Option<(u64, u64, u64)>,
    /// Whether the store has answered before.
    pub(super) seen: bool,
    pub(super) seq: u64,
    pub(super) back: u64,
    pub(super) debt: u64,
    pub(super) want: u64,
    /// The most at a time, and how many of those this node wants to hold from now on.
    pub(super) concurrency: Option<(u64, u64)>,
}

/// What the store says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct PortionTold {
    pub(super) tokens: u64,
    /// How long until there is another token, in microseconds.
    pub(super) wait: u64,
    pub(super) left: u64,
    pub(super) places: u64,
}

impl Portion {
    /// How many tokens it may hold ahead.
    fn most(rate: &Rate, shared: &Shared) -> u64 {
        let nodes = u64::from(shared.nodes.get());
        let of_burst = u64::from(rate.burst.get()) / (2 * nodes);
        let of_lease = u128::from(rate.count.get()) * u128::from(shared.lease)
            / u128::from(nanoseconds(rate.period).max(1))
            / u128::from(nodes);
        of_burst.min(u64::try_from(of_lease).unwrap_or(u64::MAX))
    }

    /// The burst of the store's bucket: the whole one, less what nodes may hold.
    fn burst_left(rate: &Rate, shared: &Shared) -> u64 {
        let held = Self::most(rate, shared) * u64::from(shared.nodes.get());
        u64::from(rate.burst.get()).saturating_sub(held).max(1)
    }

    /// Lets one request through; or says after how many nanoseconds it would, or (nothing) that a token
    /// has to be had first.
    pub(super) fn take(
        &mut self,
        rate: &Rate,
        now: &Now,
        shared: &Shared,
        away: bool,
    ) -> Result<(), Option<u64>> {
        if self.tokens > 0 {
            self.tokens -= 1;
            self.usage.add(1, now.mono, shared.lease);
            return Ok(());
        }
        if away {
            // It may hold as much ahead as while it is not alone.
            let burst = u32::try_from(Self::most(rate, shared)).unwrap_or(u32::MAX);
            let pace = Pace::part_of(rate, shared.nodes.get(), burst);
            let bucket = self.alone.get_or_insert(Bucket::empty(pace, now.mono));
            bucket.take(pace, now.mono).map_err(Some)?;
            self.debt += 1;
            return Ok(());
        }
        if now.mono < self.empty_until {
            return Err(Some(self.empty_until - now.mono));
        }
        self.needed += 1;
        Err(None)
    }

    /// Whether more tokens should be had, before requests have to wait.
    pub(super) fn is_low(&self, rate: Option<&Rate>, shared: &Shared, now: &Now) -> bool {
        let ahead = rate.map_or(0, |rate| Self::most(rate, shared).min(self.usage.block()));
        self.tokens < ahead / 2 && now.mono >= self.empty_until
    }

    /// How many requests at a time this node may have now.
    pub(super) fn places(&self, most: NonZeroU32, now: &Now, shared: &Shared, away: bool) -> u32 {
        if now.mono < self.places_until {
            return self.places;
        }
        if self.places_until == 0 && !away {
            return 0;
        }
        // It has not been heard of for so long that others may have been given its places.
        most.get() / shared.nodes.get()
    }

    /// Whether more places may be had: not while all are its own, nor right after none was free.
    pub(super) const fn may_ask_for_places(&self, most: NonZeroU32, now: &Now) -> bool {
        let all = self.places >= most.get() && now.mono < self.places_until;
        !all && now.mono >= self.places_denied_until
    }

    /// Notes that one more request wants a place.
    pub(super) const fn need_places(&mut self, in_flight: u32) {
        let least = in_flight.saturating_add(1);
        self.places_needed = if self.places_needed >= least {
            self.places_needed.saturating_add(1)
        } else {
            least
        };
    }

    /// Gives back what is not used.
    pub(super) fn put_back(&mut self) {
        self.back += std::mem::take(&mut self.tokens);
        self.usage = Usage::default();
    }

    /// Gives back what was given to requests that have left. It is not cut out of the burst, so it must
    /// not be kept beside a bucket that fills meanwhile.
    fn put_back_more_than(&mut self, most: u64, now: &Now) {
        // Who waits for it has had the time to take it.
        if self.tokens > most && now.mono.saturating_sub(self.heard) >= TAKEN_BY {
            self.back += self.tokens - most;
            self.tokens = most;
        }
    }

    /// What is to be asked; nothing where there is nothing to say.
    pub(super) fn ask(
        &mut self,
        limits: &Limits,
        in_flight: u32,
        now: &Now,
        shared: &Shared,
        all: bool,
    ) -> Option<PortionOp> {
        if let Some(rate) = &limits.rate {
            self.put_back_more_than(Self::most(rate, shared), now);
        }
        let want = limits.rate.as_ref().map_or(0, |rate| {
            let ahead = Self::most(rate, shared).min(self.usage.block());
            self.needed + ahead.saturating_sub(self.tokens)
        });
        let news = self.back > 0 || self.debt > 0;
        if self.sent.is_none() && news {
            self.seq += 1;
            self.sent = Some((
                std::mem::take(&mut self.back),
                std::mem::take(&mut self.debt),
            ));
        }
        // A quarter more than are in use, so that not each request asks; all go back when none is.
        let spare = if in_flight == 0 {
            0
        } else {
            in_flight.div_ceil(4)
        };
        let places = self.places_needed.max(in_flight.saturating_add(spare));
        let renew = self.places_until > 0 && (self.places > 0 || places > 0);
        let concurrency = limits.concurrency.map(|most| {
            let most = u64::from(most.get());
            (most, u64::from(places).min(most))
        });
        let about_places = concurrency.is_some() && (self.places_needed > 0 || renew);
        if want == 0 && self.sent.is_none() && !about_places && !all {
            return None;
        }
        // From before the question on, so that they end here before they end there.
        self.places_asked = now.mono;
        let (back, debt) = self.sent.unwrap_or_default();
        let of_rate = |rate: &Rate| {
            let period = u64::try_from(rate.period.as_micros()).unwrap_or(u64::MAX);
            let burst = Self::burst_left(rate, shared);
            (u64::from(rate.count.get()), period, burst)
        };
        Some(PortionOp {
            rate: limits.rate.as_ref().map(of_rate),
            // After so long the store has forgotten it, and it is full.
            seen: self.seen && now.mono.saturating_sub(self.heard) < REMEMBERED,
            seq: self.seq,
            back,
            debt,
            want,
            concurrency,
        })
    }

    /// Takes what was given.
    pub(super) fn told(
        &mut self,
        told: &PortionTold,
        asked: Option<&PortionOp>,
        now: &Now,
        shared: &Shared,
    ) {
        let Some(asked) = asked else { return };
        self.sent = None;
        (self.seen, self.heard) = (true, now.mono);
        self.alone = None;
        self.tokens += told.tokens;
        self.needed = 0;
        self.seen_left = told.left;
        if told.tokens < asked.want {
            let wait = told.wait.saturating_mul(1_000);
            // Asked for together with what comes in meanwhile; a bucket fills while nobody asks.
            self.empty_until = now.mono + wait.max(PAUSE.min(shared.lease / 4));
        }
        let Some((_, wanted)) = asked.concurrency else {
            return;
        };
        self.places = u32::try_from(told.places).unwrap_or(u32::MAX);
        self.places_until = self.places_asked + PLACES;
        self.places_needed = 0;
        // None was free: another node's have to end first.
        self.places_denied_until = if told.places < wanted {
            now.mono + PAUSE
        } else {
            0
        };
    }

    /// What is left, and after how many nanoseconds all of it is.
    pub(super) fn standing(&self, rate: &Rate) -> (u64, u64) {
        let burst = u64::from(rate.burst.get());
        let left = self.seen_left.saturating_add(self.tokens).min(burst);
        let interval = nanoseconds(rate.period) / u64::from(rate.count.get());
        (left, (burst - left).saturating_mul(interval))
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use jiff::{Timestamp, tz::TimeZone};

    use super::*;
    use crate::{
        limits::{SubjectLimits, calendar::Calendar},
        store::redis::settings::OnStoreFailure,
    };

    const SECOND: u64 = 1_000_000_000;

    fn at(seconds: u64) -> Now {
        Now {
            wall: Timestamp::UNIX_EPOCH,
            mono: seconds * SECOND,
        }
    }

    fn limits(count: u32, burst: u32) -> Limits {
        Limits {
            rate: Some(Rate {
                count: NonZeroU32::new(count).unwrap(),
                period: Duration::from_secs(1),
                burst: NonZeroU32::new(burst).unwrap(),
            }),
            concurrency: None,
            daily: None,
            bytes_daily: None,
            monthly: None,
            per_subject: SubjectLimits::default(),
            warn_at: 80,
            calendar: Arc::new(Calendar::new(TimeZone::UTC, 1)),
        }
    }

    const SHARED: Shared = Shared {
        nodes: NonZeroU32::MIN,
        lease: 200_000_000,
        away: OnStoreFailure::Lease,
    };

    #[test]
    fn a_bucket_that_nobody_used_for_a_day_is_full_and_not_lost() {
        let (limits, mut portion) = (limits(10, 10), Portion::default());
        for (seconds, seen) in [(1, false), (2, true), (100, true), (2 * 86_400, false)] {
            let now = at(seconds);
            let asked = portion.ask(&limits, 0, &now, &SHARED, true).unwrap();
            assert_eq!(asked.seen, seen, "after {seconds} seconds");
            portion.told(&PortionTold::default(), Some(&asked), &now, &SHARED);
        }
    }

    #[test]
    fn tokens_of_those_who_left_are_not_kept_beside_the_burst() {
        let (limits, mut portion) = (limits(10, 100), Portion::default());
        let rate = limits.rate.unwrap();
        for _ in 0..80 {
            assert_eq!(portion.take(&rate, &at(1), &SHARED, false), Err(None));
        }
        let asked = portion.ask(&limits, 0, &at(1), &SHARED, false).unwrap();
        let tokens = asked.want;
        let told = PortionTold {
            tokens,
            ..PortionTold::default()
        };
        portion.told(&told, Some(&asked), &at(1), &SHARED);
        // Nobody takes them: all of those have hung up.
        let asked = portion.ask(&limits, 0, &at(2), &SHARED, true).unwrap();
        let most = Portion::most(&rate, &SHARED);
        assert_eq!((asked.back, asked.want), (tokens - most, 0));
    }
}
