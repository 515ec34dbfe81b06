//! The arithmetic of a rate with a burst: the generic cell rate algorithm (ITU-T I.371, annex A). Pure:
//! takes `now`.
//!
//! All that is kept is the theoretical arrival time: when the bucket will be full again. Invariant: in
//! any stretch of time no more is let through than `rate × time + burst`; what does not divide evenly
//! is rounded against the caller.
//!
//! Times are nanoseconds of one monotonic clock.

use std::time::Duration;

use crate::limits::Rate;

/// How fast a bucket fills, and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Between two requests, when they come evenly.
    interval: u64,
    /// How far ahead of them the theoretical arrival time may run: the burst.
    tolerance: u64,
}

impl Pace {
    /// The pace of a configured rate.
    pub(crate) fn of(rate: &Rate) -> Self {
        Self::part_of(rate, 1, rate.burst.get())
    }

    /// One part in so many of a rate, with a burst of its own.
    pub(crate) fn part_of(rate: &Rate, parts: u32, burst: u32) -> Self {
        let period = nanoseconds(rate.period).saturating_mul(u64::from(parts.max(1)));
        let interval = period.div_ceil(u64::from(rate.count.get()));
        Self {
            interval,
            tolerance: interval.saturating_mul(u64::from(burst.max(1))),
        }
    }
}

/// A bucket that requests take from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bucket {
    full_at: u64,
}

impl Bucket {
    /// One that is full.
    pub(crate) const FULL: Self = Self { full_at: 0 };

    /// One that is empty now.
    pub(crate) const fn empty(pace: Pace, now: u64) -> Self {
        Self::full_in(pace, now, pace.tolerance)
    }

    /// One that will be full after this time; none takes longer than an empty one.
    pub(crate) const fn full_in(pace: Pace, now: u64, left: u64) -> Self {
        let left = if left < pace.tolerance {
            left
        } else {
            pace.tolerance
        };
        Self {
            full_at: now.saturating_add(left),
        }
    }

    /// One that will be full after this time, whatever its pace.
    pub(crate) const fn fills(now: u64, left: u64) -> Self {
        Self {
            full_at: now.saturating_add(left),
        }
    }

    /// How long it takes to be full.
    pub(crate) const fn fills_in(self, now: u64) -> u64 {
        self.full_at.saturating_sub(now)
    }

    /// Lets one request through, or says after how many nanoseconds it would.
    pub(crate) fn take(&mut self, pace: Pace, now: u64) -> Result<(), u64> {
        let next = self.full_at.max(now).saturating_add(pace.interval);
        let latest = now.saturating_add(pace.tolerance);
        if next > latest {
            return Err(next - latest);
        }
        self.full_at = next;
        Ok(())
    }

    /// How many would be let through at once.
    pub(crate) fn left(self, pace: Pace, now: u64) -> u64 {
        let room = pace.tolerance.saturating_sub(self.fills_in(now));
        room.checked_div(pace.interval).unwrap_or(0)
    }
}

/// A duration as nanoseconds; 584 years are the most.
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use super::*;

    fn rate(count: u32, period: u64, burst: u32) -> Rate {
        Rate {
            count: NonZeroU32::new(count).unwrap(),
            period: Duration::from_secs(period),
            burst: NonZeroU32::new(burst).unwrap(),
        }
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let pace = Pace::of(&rate(20, 1, 3));
        let mut bucket = Bucket::FULL;
        let second = 1_000_000_000;
        for _ in 0..3 {
            bucket.take(pace, 5 * second).unwrap();
        }
        assert_eq!(bucket.take(pace, 5 * second), Err(50_000_000));
        assert_eq!(bucket.left(pace, 5 * second), 0);
        bucket.take(pace, 5 * second + 50_000_000).unwrap();
        bucket.take(pace, 5 * second + 50_000_000).unwrap_err();
        assert_eq!(bucket.left(pace, 6 * second), 3);
    }

    proptest! {
        /// The promise of the invariant, over every stretch of a random run.
        #[test]
        fn no_stretch_of_time_lets_more_through_than_rate_and_burst(
            count in 1_u32..5_000, period in prop::sample::select(vec![1_u64, 60, 3600]), burst in 1_u32..50,
            waits in prop::collection::vec(0_u64..2_000_000_000, 1..200),
        ) {
            let (rate, mut bucket, mut now) = (rate(count, period, burst), Bucket::FULL, 0);
            let pace = Pace::of(&rate);
            let mut admitted: Vec<u64> = Vec::new();
            for wait in waits {
                now += wait;
                match bucket.take(pace, now) {
                    Ok(()) => admitted.push(now),
                    // Waiting as long as was said is enough, and no shorter time is.
                    Err(after) => {
                        prop_assert!(bucket.clone().take(pace, now + after - 1).is_err());
                        prop_assert!(bucket.clone().take(pace, now + after).is_ok());
                    }
                }
            }
            for (first, start) in admitted.iter().enumerate() {
                for (last, end) in admitted.iter().enumerate().skip(first) {
                    let time = u128::from(end - start);
                    let allowed = time * u128::from(count) / (u128::from(period) * 1_000_000_000);
                    let count = u128::try_from(last - first).unwrap();
                    prop_assert!(count <= allowed + u128::from(burst));
                }
            }
        }

        #[test]
        fn what_is_left_can_be_taken_and_no_more(
            count in 1_u32..5_000, burst in 1_u32..50, taken in 0_u32..60, now in 0_u64..10_000_000_000,
        ) {
            let (pace, mut bucket) = (Pace::of(&rate(count, 1, burst)), Bucket::FULL);
            for _ in 0..taken {
                bucket.take(pace, now).ok();
            }
            for _ in 0..bucket.left(pace, now) {
                bucket.take(pace, now).unwrap();
            }
            prop_assert!(bucket.take(pace, now).is_err());
        }
    }
}
