//! Requests that were refused before anybody knew who asks: how many of them leave an event.
//!
//! Invariant: each leaves an event or is counted, and what was counted is said once, by the next event or,
//! where none comes, by itself. Pure: takes `now`.

use std::time::Duration;

use tokio::time::Instant;

use crate::limits::{
    Rate,
    bucket::{Bucket, Pace, nanoseconds},
};

/// How many of the next are events, and how many of the last were not.
pub(super) struct Rejections {
    /// Nothing: none is an event.
    pace: Option<Pace>,
    bucket: Bucket,
    /// Where the bucket's time begins.
    epoch: Instant,
    /// For how long what was left out may wait for an event that says it.
    patience: Duration,
    unsaid: u64,
    since: Option<Instant>,
    left_out: u64,
}

impl Rejections {
    pub(super) fn new(rate: Option<&Rate>, patience: Duration, now: Instant) -> Self {
        Self {
            pace: rate.map(Pace::of),
            bucket: Bucket::FULL,
            epoch: now,
            patience,
            unsaid: 0,
            since: None,
            left_out: 0,
        }
    }

    /// Whether one more is an event: then how many were left out since the last that said so, which this
    /// one has to say. Where there is no room for it it is left out, too.
    pub(super) fn admit(&mut self, has_room: bool, now: Instant) -> Option<u64> {
        let time = nanoseconds(now.duration_since(self.epoch));
        let is_event = has_room
            && self
                .pace
                .is_some_and(|pace| self.bucket.take(pace, time).is_ok());
        if is_event {
            return Some(self.say());
        }
        self.leave_out(0, now);
        None
    }

    /// Leaves one out after all, with what it would have said.
    pub(super) fn leave_out(&mut self, would_say: u64, now: Instant) {
        self.left_out += 1;
        self.unsaid += would_say + 1;
        self.since.get_or_insert(now);
    }

    /// How many were left out and nothing says it. From now on something does.
    pub(super) const fn say(&mut self) -> u64 {
        self.since = None;
        std::mem::replace(&mut self.unsaid, 0)
    }

    /// When that is to be said by itself, if there is anything to say.
    pub(super) fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + self.patience)
    }

    /// How many were left out since the start.
    pub(super) const fn left_out(&self) -> u64 {
        self.left_out
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::clock;

    const PATIENCE: Duration = Duration::from_secs(10);
    const FLOOD: u64 = 100_000;

    fn rate(count: u32, period: u64) -> Rate {
        let count = NonZeroU32::new(count).unwrap();
        Rate::new(count, Duration::from_secs(period), None)
    }

    /// How many events a flood leaves, and how many they say were left out.
    fn flood(rejections: &mut Rejections, now: Instant) -> (u64, u64) {
        let said: Vec<u64> = (0..FLOOD)
            .filter_map(|_| rejections.admit(true, now))
            .collect();
        (u64::try_from(said.len()).unwrap(), said.iter().sum())
    }

    #[test]
    fn a_flood_leaves_what_a_second_is_worth_and_each_one_is_an_event_or_counted() {
        let now = clock::instant();
        for (rate, at_once) in [
            (Some(rate(10, 1)), 10),
            (Some(rate(600, 60)), 10),
            (Some(rate(1, 3_600)), 1),
            (None, 0),
        ] {
            let mut rejections = Rejections::new(rate.as_ref(), PATIENCE, now);
            assert_eq!(flood(&mut rejections, now), (at_once, 0));
            assert_eq!(rejections.left_out(), FLOOD - at_once);
            // A second later there is room for as many as a second brings, and the first says it.
            let later = now + Duration::from_secs(1);
            let more = if at_once == 10 { 10 } else { 0 };
            let said = if more > 0 { FLOOD - at_once } else { 0 };
            assert_eq!(flood(&mut rejections, later), (more, said));
            assert_eq!(rejections.left_out(), 2 * FLOOD - at_once - more);
            assert_eq!(at_once + more + said + rejections.say(), 2 * FLOOD);
            assert_eq!(rejections.say(), 0, "it is said once");
        }
    }

    #[test]
    fn what_was_left_out_is_due_some_time_after_the_first_unless_it_was_said() {
        let now = clock::instant();
        let mut rejections = Rejections::new(Some(&rate(1, 1)), PATIENCE, now);
        assert_eq!(rejections.admit(true, now), Some(0));
        assert_eq!(rejections.due(), None, "there is nothing to say");
        for half_seconds in [0, 1] {
            let now = now + Duration::from_millis(500) * half_seconds;
            assert_eq!(rejections.admit(true, now), None);
        }
        assert_eq!(rejections.due(), Some(now + PATIENCE));
        let later = now + Duration::from_secs(1);
        assert_eq!(rejections.admit(true, later), Some(2));
        assert_eq!(rejections.due(), None);
    }

    #[test]
    fn without_room_none_is_an_event_and_what_an_event_would_have_said_is_not_forgotten() {
        let now = clock::instant();
        let mut rejections = Rejections::new(Some(&rate(2, 1)), PATIENCE, now);
        assert_eq!(rejections.admit(false, now), None);
        // No room is not held against the rate.
        assert_eq!(rejections.admit(true, now), Some(1));
        let said = rejections.admit(true, now);
        rejections.leave_out(said.unwrap() + 1, now);
        assert_eq!((rejections.say(), rejections.left_out()), (2, 2));
    }
}
