//! What end users have used: in memory, and no more of them than there is room for.
//!
//! Invariant: no subject is let through more often than its limits say, also when there are more subjects
//! than room. Who is pushed out leaves its use behind as the tenant's floor, and whoever comes in later,
//! perhaps the same one, begins with that. So a crowd makes limits stricter, never wider.
//!
//! A restart forgets; a day's use of a subject is not worth a write to a disk for each request.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;

use super::{Denied, Now, Standing};
use crate::{
    ident::TenantId,
    limits::{
        Limits, Policy, Rate,
        bucket::{Bucket, Pace, nanoseconds},
    },
};

/// The map is in so many parts, each with a lock, held for the few lookups of a decision.
const PARTS: usize = 16;
/// Of so many the one with the least use is pushed out.
const CANDIDATES: usize = 8;

/// All subjects that are known.
pub(super) struct Subjects {
    parts: [Mutex<Part>; PARTS],
    hashers: [RandomState; 2],
}

/// A tenant's end user, by 128 bits of a keyed hash: nobody outside can make two of them meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct SubjectKey {
    tenant: u64,
    subject: [u64; 2],
}

/// What is known of one elsewhere.
pub(super) struct Known {
    /// In how many nanoseconds its bucket is full.
    pub(super) fills_in: u64,
    /// What it has used of a day, and when that ends.
    pub(super) day: Option<(u64, Timestamp)>,
}

#[derive(Default)]
struct Part {
    places: HashMap<SubjectKey, usize>,
    subjects: Vec<Subject>,
    /// Where the search for whom to push out goes on.
    hand: usize,
    /// By tenant: the most use that was pushed out.
    floors: HashMap<u64, Use>,
}

struct Subject {
    key: SubjectKey,
    uses: Use,
}

/// What was used.
#[derive(Debug, Clone, Copy)]
struct Use {
    bucket: Bucket,
    units: u64,
    /// When the day ends that they were used on.
    day_ends: Timestamp,
}

impl Use {
    const NONE: Self = Self {
        bucket: Bucket::FULL,
        units: 0,
        day_ends: Timestamp::MIN,
    };

    /// What of it still counts.
    fn at(&self, now: &Now) -> (u64, u64) {
        let units = if now.wall < self.day_ends {
            self.units
        } else {
            0
        };
        (units, self.bucket.fills_in(now.mono))
    }

    /// The worse of both, of each kind.
    fn or(self, other: Self, now: &Now) -> Self {
        let (mine, theirs) = (self.at(now), other.at(now));
        let most = if mine.0 >= theirs.0 { self } else { other };
        let last = if mine.1 >= theirs.1 { self } else { other };
        Self {
            bucket: last.bucket,
            ..most
        }
    }
}

impl Subjects {
    pub(super) fn new() -> Self {
        Self {
            parts: Default::default(),
            hashers: [RandomState::new(), RandomState::new()],
        }
    }

    /// Tokens without a subject are one end user together.
    pub(super) fn key(&self, tenant: &TenantId, subject: Option<&str>) -> SubjectKey {
        let [one, other] = &self.hashers;
        let subject = subject.unwrap_or_default();
        SubjectKey {
            tenant: one.hash_one(tenant.as_str()),
            subject: [
                one.hash_one((tenant.as_str(), subject)),
                other.hash_one((tenant.as_str(), subject)),
            ],
        }
    }

    /// Decides on the rate of one.
    pub(super) fn admit(
        &self,
        key: SubjectKey,
        rate: &Rate,
        now: &Now,
        room: usize,
    ) -> Result<(), Denied> {
        let mut part = self.part(key);
        let uses = part.of(key, now, room);
        let taken = uses.bucket.take(Pace::of(rate), now.mono);
        taken.map_err(|after| Denied {
            policy: Policy::SubjectRate,
            retry_after: Duration::from_nanos(after),
        })
    }

    /// Decides on the day of one; when that day ends.
    pub(super) fn charge(
        &self,
        key: SubjectKey,
        limits: &Limits,
        units: u64,
        now: &Now,
        room: usize,
    ) -> Result<Timestamp, Denied> {
        let Some(most) = limits.per_subject.daily else {
            return Ok(Timestamp::MIN);
        };
        let mut part = self.part(key);
        let uses = part.of(key, now, room);
        let day = limits.calendar.day(now.wall);
        // A day that a wrong clock began, years ahead, does not last until then.
        let wrong = super::between(day.end, uses.day_ends) > Duration::from_hours(48);
        if now.wall >= uses.day_ends || wrong {
            uses.units = 0;
            uses.day_ends = day.end;
        }
        let sum = uses.units.saturating_add(units);
        if units > 0 && sum > most {
            return Err(Denied {
                policy: Policy::SubjectDaily,
                retry_after: super::between(now.wall, uses.day_ends),
            });
        }
        uses.units = sum;
        Ok(uses.day_ends)
    }

    /// Puts what Redis knows in the place of what is known here.
    pub(super) fn note(&self, key: SubjectKey, told: &Known, now: &Now, room: usize) {
        let mut part = self.part(key);
        let uses = part.of(key, now, room);
        uses.bucket = Bucket::fills(now.mono, told.fills_in);
        if let Some((used, day_ends)) = told.day {
            // Answers overtake each other: of one day the highest is the last.
            let same = uses.day_ends == day_ends;
            uses.units = if same { uses.units.max(used) } else { used };
            uses.day_ends = day_ends;
        }
    }

    /// Gives back what did nothing, unless its day is over.
    pub(super) fn refund(&self, key: SubjectKey, units: u64, day_ends: Timestamp) {
        let mut part = self.part(key);
        let Some(place) = part.places.get(&key).copied() else {
            return;
        };
        if let Some(subject) = part.subjects.get_mut(place)
            && subject.uses.day_ends == day_ends
        {
            subject.uses.units = subject.uses.units.saturating_sub(units);
        }
    }

    /// How the limits of one stand.
    pub(super) fn standings(&self, key: SubjectKey, limits: &Limits, now: &Now) -> Vec<Standing> {
        let part = self.part(key);
        let known = part.places.get(&key).and_then(|at| part.subjects.get(*at));
        let floor = part.floors.get(&key.tenant).copied();
        let uses = known.map_or(floor.unwrap_or(Use::NONE), |subject| subject.uses);
        let (units, fills_in) = uses.at(now);
        let mut standings = Vec::with_capacity(2);
        if let Some(rate) = &limits.per_subject.rate {
            let left = uses.bucket.left(Pace::of(rate), now.mono);
            standings.push(Standing {
                policy: Policy::SubjectRate,
                limit: u64::from(rate.burst.get()),
                granted: 0,
                used: u64::from(rate.burst.get()).saturating_sub(left),
                left,
                window: Some(fill_time(rate)),
                resets: Duration::from_nanos(fills_in),
                ends: None,
            });
        }
        if let Some(daily) = limits.per_subject.daily {
            let day = limits.calendar.day(now.wall);
            standings.push(Standing {
                policy: Policy::SubjectDaily,
                limit: daily,
                granted: 0,
                used: units,
                left: daily.saturating_sub(units),
                window: Some(super::between(day.start, day.end)),
                resets: super::between(now.wall, day.end),
                ends: Some(day.end),
            });
        }
        standings
    }

    fn part(&self, key: SubjectKey) -> MutexGuard<'_, Part> {
        let [low, _] = key.subject;
        let place = usize::try_from(low).unwrap_or_default() % PARTS;
        let [first, ..] = &self.parts;
        let part = self.parts.get(place).unwrap_or(first);
        part.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    /// The use of one; whoever is new begins with the tenant's floor.
    fn of(&mut self, key: SubjectKey, now: &Now, room: usize) -> &mut Use {
        let place = match self.places.get(&key) {
            Some(place) => *place,
            None => self.enter(key, now, (room / PARTS).max(1)),
        };
        match self.subjects.get_mut(place) {
            Some(subject) => &mut subject.uses,
            // Never: the two are changed together.
            None => self.floors.entry(key.tenant).or_insert(Use::NONE),
        }
    }

    fn enter(&mut self, key: SubjectKey, now: &Now, room: usize) -> usize {
        let uses = self.floors.get(&key.tenant).copied().unwrap_or(Use::NONE);
        let subject = Subject { key, uses };
        let place = if self.subjects.len() < room {
            self.subjects.push(subject);
            self.subjects.len() - 1
        } else {
            let place = self.push_out(now);
            // What it left may be this tenant's own floor now.
            let uses = self.floors.get(&key.tenant).copied().unwrap_or(Use::NONE);
            if let Some(old) = self.subjects.get_mut(place) {
                *old = Subject { uses, ..subject };
            }
            place
        };
        self.places.insert(key, place);
        place
    }

    /// Takes out the one with the least use of the next few, and keeps its use as a floor.
    fn push_out(&mut self, now: &Now) -> usize {
        let count = self.subjects.len().max(1);
        let candidates = (0..CANDIDATES).map(|step| (self.hand + step) % count);
        let least =
            candidates.min_by_key(|place| self.subjects.get(*place).map(|s| s.uses.at(now)));
        self.hand = (self.hand + CANDIDATES) % count;
        let place = least.unwrap_or(0);
        if let Some(old) = self.subjects.get(place) {
            let (key, uses) = (old.key, old.uses);
            self.places.remove(&key);
            if uses.at(now) != (0, 0) {
                let floor = self.floors.entry(key.tenant).or_insert(Use::NONE);
                *floor = floor.or(uses, now);
            }
        }
        place
    }
}

/// The time in which an empty bucket fills.
pub(super) fn fill_time(rate: &Rate) -> Duration {
    let interval = nanoseconds(rate.period) / u64::from(rate.count.get());
    Duration::from_nanos(interval.saturating_mul(u64::from(rate.burst.get())))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::limits::SubjectLimits;

    fn limits(daily: u64) -> Limits {
        let per_subject = SubjectLimits {
            rate: Some(Rate {
                count: NonZeroU32::new(1).unwrap(),
                period: Duration::from_mins(1),
                burst: NonZeroU32::new(3).unwrap(),
            }),
            daily: Some(daily),
        };
        Limits {
            per_subject,
            ..Limits::unlimited()
        }
    }

    fn at(wall: &str, seconds: u64) -> Now {
        Now {
            wall: wall.parse().unwrap(),
            mono: seconds * 1_000_000_000,
        }
    }

    fn tenant(name: &str) -> TenantId {
        name.try_into().unwrap()
    }

    #[test]
    fn each_subject_has_its_own_rate_and_day() {
        let (subjects, limits, now) = (Subjects::new(), limits(2), at("2026-11-23T12:00:00Z", 100));
        let rate = limits.per_subject.rate.unwrap();
        for subject in [Some("ann"), Some("bob"), None] {
            let key = subjects.key(&tenant("acme"), subject);
            for _ in 0..3 {
                subjects.admit(key, &rate, &now, 1000).unwrap();
            }
            let denied = subjects.admit(key, &rate, &now, 1000).unwrap_err();
            assert_eq!(denied.retry_after, Duration::from_mins(1));
            let mut ends = Timestamp::MIN;
            for _ in 0..2 {
                ends = subjects.charge(key, &limits, 1, &now, 1000).unwrap();
            }
            let denied = subjects.charge(key, &limits, 1, &now, 1000).unwrap_err();
            assert_eq!(denied.retry_after, Duration::from_hours(12));
            subjects.refund(key, 1, ends);
            subjects.charge(key, &limits, 1, &now, 1000).unwrap();
            let left = subjects
                .standings(key, &limits, &now)
                .into_iter()
                .map(|s| s.left);
            assert_eq!(left.collect::<Vec<_>>(), [0, 0]);
            let tomorrow = at("2026-11-24T00:00:00Z", 160);
            subjects.charge(key, &limits, 1, &tomorrow, 1000).unwrap();
        }
        let other = subjects.key(&tenant("other"), Some("ann"));
        subjects.charge(other, &limits, 2, &now, 1000).unwrap();
    }

    #[test]
    fn a_crowd_never_gives_anybody_more() {
        let (subjects, limits) = (Subjects::new(), limits(5));
        let mut used: HashMap<String, u64> = HashMap::new();
        // Room for 32, and 500 who come in turns; one comes all the time.
        for round in 0..20_u64 {
            for subject in 0..500 {
                let now = at("2026-11-23T12:00:00Z", round * 500 + subject);
                for name in [format!("s{subject}"), "eager".to_owned()] {
                    let key = subjects.key(&tenant("acme"), Some(&name));
                    let charged = subjects.charge(key, &limits, 1, &now, 32);
                    *used.entry(name).or_default() += u64::from(charged.is_ok());
                }
            }
        }
        assert!(
            used.values().all(|used| *used <= 5),
            "{:?}",
            used.values().max()
        );
        let held: usize = subjects
            .parts
            .iter()
            .map(|p| p.lock().unwrap().subjects.len())
            .sum();
        assert!(held <= 32);
        // Another tenant's users do not feel it.
        let key = subjects.key(&tenant("other"), Some("ann"));
        let now = at("2026-11-23T12:00:00Z", 20_000);
        subjects.charge(key, &limits, 5, &now, 32).unwrap();
    }
}
