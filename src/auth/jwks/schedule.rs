//! Decides when a key set is fetched, and when it is too old to be believed.
//!
//! Invariant: a key that nobody knows costs one fetch a cooldown at most, whoever asks and however
//! often; the same key costs ever fewer; and a set that was not confirmed for `max_stale` is
//! withdrawn. Pure: every function takes `now`, and dice where chance has a say.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use tokio::time::Instant;

/// How often, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rhythm {
    /// The least time between a fetch and the next one for the sake of an unknown key.
    pub cooldown: Duration,
    /// A set is taken to be fresh for this long at least, whatever the issuer says.
    pub min_refresh: Duration,
    /// And for this long at most; also where the issuer says nothing.
    pub max_refresh: Duration,
    /// How long after its last successful fetch a set is believed.
    pub max_stale: Duration,
}

/// What the background task does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Fetch, then report how it went.
    Fetch(Cause),
    /// Sleep until then, or until somebody asks.
    Wait(Instant),
    /// Take the keys away.
    Withdraw,
}

/// Why there is a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// It is time for it.
    Due,
    /// A token named a key that is not known.
    UnknownKey,
}

/// Chance, from 0 up to all of a [`u16`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Dice(pub(super) u16);

/// The number of a fetch, from 1. It has ended once that many have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Round(u64);

impl Round {
    pub(super) const NONE: Self = Self(0);
    /// Later than every fetch that there will be.
    pub(super) const LAST: Self = Self(u64::MAX);

    fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// The state of one issuer's fetching.
pub(super) struct Schedule {
    rhythm: Rhythm,
    activity: Activity,
    /// When to fetch of our own accord.
    due: Instant,
    /// Until then an unknown key causes no fetch.
    quiet_until: Option<Instant>,
    /// When the set was fetched last, unless it was withdrawn since.
    confirmed: Option<Instant>,
    ended: Round,
    failures: u64,
    failures_in_row: u32,
    last_failure: Option<&'static str>,
    unknown: UnknownKeys,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activity {
    Fetching(Cause),
    Idle,
    Stopped,
    /// Somebody asked, and the fetch has not begun yet.
    Wanted,
}

impl Schedule {
    pub(super) fn new(rhythm: Rhythm, now: Instant) -> Self {
        Self {
            rhythm,
            activity: Activity::Wanted,
            due: now,
            quiet_until: None,
            confirmed: None,
            ended: Round::NONE,
            failures: 0,
            failures_in_row: 0,
            last_failure: None,
            unknown: UnknownKeys::default(),
        }
    }

    /// What to do now. A fetch counts as under way from here to `succeed` or `fail`.
    pub(super) fn next(&mut self, now: Instant) -> Step {
        let stale_at = self.confirmed.map(|at| at + self.rhythm.max_stale);
        if stale_at.is_some_and(|at| at <= now) {
            self.confirmed = None;
            return Step::Withdraw;
        }
        if self.due <= now {
            return self.begin(Cause::Due);
        }
        if self.activity == Activity::Wanted {
            return self.begin(Cause::UnknownKey);
        }
        Step::Wait(stale_at.map_or(self.due, |at| at.min(self.due)))
    }

    const fn begin(&mut self, cause: Cause) -> Step {
        self.activity = Activity::Fetching(cause);
        Step::Fetch(cause)
    }

    /// A token named a key that is not known: the fetch that may bring it, if one may.
    pub(super) fn ask(&mut self, kid: Option<&str>, now: Instant) -> Option<Round> {
        match self.activity {
            Activity::Stopped => return None,
            Activity::Idle => {
                let quiet = self.quiet_until.is_some_and(|until| now < until);
                if quiet || self.unknown.is_quiet(kid, now) {
                    return None;
                }
                self.activity = Activity::Wanted;
            }
            Activity::Fetching(_) | Activity::Wanted => {}
        }
        self.unknown.look_for(kid);
        Some(self.ended.next())
    }

    /// The fetch brought a set that is fresh for `lifetime`. Says how many had failed before it.
    pub(super) fn succeed(
        &mut self,
        lifetime: Option<Duration>,
        now: Instant,
        dice: Dice,
    ) -> (Round, u32) {
        self.confirmed = Some(now);
        self.due = now + self.rhythm.refresh_after(lifetime, dice);
        // Whatever was looked for and found is not asked for again.
        self.unknown.not_found(self.rhythm.cooldown, now);
        let failed = std::mem::take(&mut self.failures_in_row);
        self.last_failure = None;
        (self.end(now), failed)
    }

    /// The fetch brought nothing. Says the how manieth in a row it was.
    pub(super) fn fail(&mut self, reason: &'static str, now: Instant, dice: Dice) -> (Round, u32) {
        self.failures = self.failures.saturating_add(1);
        self.failures_in_row = self.failures_in_row.saturating_add(1);
        self.last_failure = Some(reason);
        self.due = now + retry_after(self.failures_in_row, dice);
        // Nothing is known about the keys that were looked for.
        self.unknown.forget_search();
        (self.end(now), self.failures_in_row)
    }

    fn end(&mut self, now: Instant) -> Round {
        // From the end on, so that a slow key server is not called without a pause. A fetch of our own
        // accord does not count: a key that is new since then is still found at once.
        if self.activity == Activity::Fetching(Cause::UnknownKey) {
            self.quiet_until = Some(now + self.rhythm.cooldown);
        }
        self.activity = Activity::Idle;
        self.ended = self.ended.next();
        self.ended
    }

    /// When the set was fetched last, unless it was withdrawn since.
    pub(super) const fn confirmed(&self) -> Option<Instant> {
        self.confirmed
    }

    /// Begins with a set that was fetched elsewhere, and when.
    pub(super) const fn confirm(&mut self, at: Option<Instant>) {
        self.confirmed = at;
    }

    /// No fetch will begin any more.
    pub(super) const fn stop(&mut self) {
        self.activity = Activity::Stopped;
    }

    pub(super) const fn fetches(&self) -> u64 {
        self.ended.0
    }

    pub(super) const fn failures(&self) -> u64 {
        self.failures
    }

    /// Why the last fetch failed, if it did.
    pub(super) const fn last_failure(&self) -> Option<&'static str> {
        self.last_failure
    }

    pub(super) fn age(&self, now: Instant) -> Option<Duration> {
        self.confirmed.map(|at| now.saturating_duration_since(at))
    }
}

impl Rhythm {
    /// When a set is fetched anew: at 72 to 80 % of the time that it is fresh, so that a slow or
    /// failing key server has time to recover before the set is old.
    fn refresh_after(&self, lifetime: Option<Duration>, dice: Dice) -> Duration {
        let lifetime = lifetime.unwrap_or(self.max_refresh);
        let lifetime = lifetime.max(self.min_refresh).min(self.max_refresh);
        dice.less(lifetime / 5 * 4, 10)
    }
}

/// The pause after this many failures in a row: 1 s, doubling up to 1 min, or down to half of it so
/// that many gateways do not call at once.
fn retry_after(failures_in_row: u32, dice: Dice) -> Duration {
    const LONGEST: Duration = Duration::from_mins(1);
    let doublings = failures_in_row.saturating_sub(1).min(6);
    let pause = Duration::from_secs(1 << doublings).min(LONGEST);
    dice.less(pause, 2)
}

impl Dice {
    /// The duration, or less by up to one `share`th of it.
    fn less(self, duration: Duration, share: u32) -> Duration {
        let cut = (duration / share / u32::from(u16::MAX)).saturating_mul(u32::from(self.0));
        duration.saturating_sub(cut)
    }
}

/// Keys that tokens named and the issuer does not publish.
///
/// Whoever sends tokens chooses them, so both tables are bounded: 1,000 entries each, of 8 and 40
/// bytes, which make 100 KB an issuer with all overhead. A kid is kept as its keyed hash.
#[derive(Default)]
struct UnknownKeys {
    hasher: RandomState,
    /// Those that the fetch under way is to bring.
    searched: HashSet<u64>,
    /// Those that a fetch did not bring: until when they cause no other, and how long that is.
    missing: HashMap<u64, Pause>,
}

#[derive(Clone, Copy)]
struct Pause {
    until: Instant,
    length: Duration,
}

impl UnknownKeys {
    const MOST: usize = 1_000;
    const LONGEST: Duration = Duration::from_mins(15);

    fn is_quiet(&self, kid: Option<&str>, now: Instant) -> bool {
        let missing = self.missing.get(&self.hasher.hash_one(kid));
        missing.is_some_and(|pause| now < pause.until)
    }

    fn look_for(&mut self, kid: Option<&str>) {
        if self.searched.len() < Self::MOST {
            self.searched.insert(self.hasher.hash_one(kid));
        }
    }

    fn forget_search(&mut self) {
        self.searched.clear();
    }

    /// Each key that was searched may cause the next fetch after `first`, and after twice as long as
    /// the last time from then on.
    fn not_found(&mut self, first: Duration, now: Instant) {
        for kid in std::mem::take(&mut self.searched) {
            let length = match self.missing.get(&kid) {
                Some(pause) => pause.length.saturating_mul(2).min(Self::LONGEST),
                None => first,
            };
            self.make_room();
            let until = now + length;
            self.missing.insert(kid, Pause { until, length });
        }
    }

    /// Forgets the one that would be allowed a fetch first. It costs one at most: the cooldown holds.
    fn make_room(&mut self) {
        if self.missing.len() < Self::MOST {
            return;
        }
        let first = self.missing.iter().min_by_key(|(_, pause)| pause.until);
        if let Some(kid) = first.map(|(kid, _)| *kid) {
            self.missing.remove(&kid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const S: Duration = Duration::from_secs(1);
    const LOW: Dice = Dice(0);
    const HIGH: Dice = Dice(u16::MAX);

    const RHYTHM: Rhythm = Rhythm {
        cooldown: Duration::from_secs(30),
        min_refresh: Duration::from_mins(1),
        max_refresh: Duration::from_hours(1),
        max_stale: Duration::from_hours(24),
    };

    /// After its first fetch, which succeeded at the time that is returned.
    fn fetched() -> (Schedule, Instant) {
        let start = clock::instant();
        let mut schedule = Schedule::new(RHYTHM, start);
        assert_eq!(schedule.next(start), Step::Fetch(Cause::Due));
        schedule.succeed(None, start, LOW);
        (schedule, start)
    }

    fn near(one: Duration, other: Duration) -> bool {
        one.abs_diff(other) < Duration::from_millis(50)
    }

    #[test]
    fn a_set_is_fetched_anew_at_four_fifths_of_a_bounded_lifetime() {
        for (lifetime, latest) in [
            (None, 2880),
            (Some(0), 48),
            (Some(59), 48),
            (Some(100), 80),
            (Some(3600), 2880),
            (Some(86_400), 2880),
            (Some(u64::MAX), 2880),
        ] {
            let lifetime = lifetime.map(Duration::from_secs);
            let latest = latest * S;
            assert!(near(RHYTHM.refresh_after(lifetime, LOW), latest));
            assert!(near(RHYTHM.refresh_after(lifetime, HIGH), latest / 10 * 9));
        }
    }

    #[test]
    fn a_failed_fetch_is_repeated_after_ever_longer_pauses() {
        for (failures, pause) in [
            (1, 1),
            (2, 2),
            (3, 4),
            (6, 32),
            (7, 60),
            (8, 60),
            (u32::MAX, 60),
        ] {
            assert!(near(retry_after(failures, LOW), pause * S), "{failures}");
            assert!(
                near(retry_after(failures, HIGH), pause * S / 2),
                "{failures}"
            );
        }
        let (mut schedule, start) = fetched();
        assert_eq!(schedule.fail("x", start, LOW).1, 1);
        assert_eq!(schedule.next(start), Step::Wait(start + S));
        assert_eq!(schedule.next(start + S), Step::Fetch(Cause::Due));
        assert_eq!(schedule.fail("x", start + S, LOW).1, 2);
        assert_eq!(schedule.next(start + S), Step::Wait(start + 3 * S));
        assert_eq!(schedule.succeed(None, start + 3 * S, LOW).1, 2);
        assert_eq!(schedule.fail("x", start + 4 * S, LOW).1, 1);
    }

    #[test]
    fn unknown_keys_cost_one_fetch_a_cooldown_whoever_asks() {
        let (mut schedule, start) = fetched();
        let mut fetches = 0;
        for millisecond in 0..120_000_u32 {
            let now = start + Duration::from_millis(1) * millisecond;
            let asked = schedule.ask(Some(&format!("kid-{millisecond}")), now);
            if let Step::Fetch(cause) = schedule.next(now) {
                assert_eq!(cause, Cause::UnknownKey);
                assert!(asked.is_some());
                fetches += 1;
                schedule.succeed(None, now, LOW);
            }
        }
        // At 0, 30, 60 and 90 s: a fetch of our own accord, such as the first, holds up none.
        assert_eq!(fetches, 4);
        assert!(schedule.unknown.missing.len() <= UnknownKeys::MOST);
    }

    #[test]
    fn all_who_ask_while_a_fetch_is_under_way_wait_for_that_one() {
        let (mut schedule, start) = fetched();
        let now = start + 31 * S;
        let first = schedule.ask(Some("new"), now);
        assert!(first.is_some_and(|round| round > schedule.ended));
        assert_eq!(schedule.ask(Some("new"), now), first);
        assert_eq!(schedule.next(now), Step::Fetch(Cause::UnknownKey));
        assert_eq!(schedule.ask(Some("other"), now), first);
        let (ended, _) = schedule.succeed(None, now, LOW);
        assert_eq!(Some(ended), first);
        assert_eq!(schedule.ask(Some("another"), now), None);
        assert!(matches!(schedule.next(now), Step::Wait(_)));
    }

    #[test]
    fn a_key_that_stays_unknown_costs_ever_fewer_fetches() {
        let (mut schedule, start) = fetched();
        let mut at = Vec::new();
        for second in 0..3600 {
            let now = start + second * S;
            schedule.ask(Some("misconfigured"), now);
            if schedule.next(now) == Step::Fetch(Cause::UnknownKey) {
                schedule.succeed(None, now, LOW);
                at.push(second);
            }
        }
        assert_eq!(at, [0, 30, 90, 210, 450, 930, 1830, 2730]);
        // Another key is not held up by it.
        let now = start + 3600 * S;
        assert!(schedule.ask(Some("rotated"), now).is_some());
    }

    #[test]
    fn a_search_that_failed_is_not_held_against_the_key() {
        let (mut schedule, start) = fetched();
        let mut now = start + 30 * S;
        for _ in 0..10 {
            assert!(schedule.ask(Some("new"), now).is_some());
            assert!(matches!(schedule.next(now), Step::Fetch(_)));
            schedule.fail("unreachable", now, LOW);
            now += 30 * S;
        }
        assert!(schedule.unknown.missing.is_empty());
    }

    #[test]
    fn a_set_that_is_not_confirmed_in_time_is_withdrawn_once() {
        let (mut schedule, start) = fetched();
        let stale = start + RHYTHM.max_stale;
        let mut now = start;
        let mut withdrawn = Vec::new();
        while now < stale + 600 * S {
            match schedule.next(now) {
                Step::Fetch(_) => drop(schedule.fail("unreachable", now, HIGH)),
                Step::Wait(until) => now = until,
                Step::Withdraw => withdrawn.push(now),
            }
        }
        assert_eq!(withdrawn, [stale]);
        assert_eq!(schedule.age(now), None);
        schedule.succeed(None, now, LOW);
        assert_eq!(schedule.age(now + S), Some(S));
    }

    #[test]
    fn nobody_waits_for_a_fetch_that_will_not_come() {
        let (mut schedule, start) = fetched();
        schedule.stop();
        assert_eq!(schedule.ask(Some("new"), start + 60 * S), None);
    }

    #[test]
    fn the_tables_of_unknown_keys_are_bounded() {
        let (mut schedule, start) = fetched();
        for round in 1..5 {
            let now = start + round * 31 * S;
            for kid in 0..3 * UnknownKeys::MOST {
                schedule.ask(Some(&format!("{round}-{kid}")), now);
            }
            assert_eq!(schedule.unknown.searched.len(), UnknownKeys::MOST);
            schedule.next(now);
            schedule.succeed(None, now, LOW);
            assert_eq!(schedule.unknown.missing.len(), UnknownKeys::MOST);
        }
    }
}
