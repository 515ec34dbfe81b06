//! Decides when the gateway logs in to Vault, and when its token is looked up and renewed.
//!
//! Invariants: a login that fails is followed by a pause that grows, whoever wants the next one; a
//! renewal that fails takes nothing away, the token counts until its end; and where a login is
//! possible, it comes before that end. Pure: every function takes `now`, and dice where chance has a
//! say.

use std::time::Duration;

use tokio::time::Instant;

/// The first pause after a failure; each further one is twice as long, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// No two steps of the upkeep follow each other faster, however short the leases are.
const LEAST_LEASE: Duration = Duration::from_millis(750);

/// Longer leases are taken to be this long, so that no sum of times overflows.
const LONGEST_LEASE: Duration = Duration::from_hours(365 * 24);

/// A token that never could read a path is not replaced for that path's sake before it is this old.
const PROBATION: Duration = Duration::from_mins(1);

/// What Vault says of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grant {
    /// For how long it is valid from now on; none where it does not end.
    pub(super) ttl: Option<Duration>,
    /// Whether that can be made longer.
    pub(super) renewable: bool,
}

/// What the background task does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Log in, then report how it went.
    LogIn,
    /// Ask what Vault says of the token, then report.
    LookUp,
    /// Renew the token, then report.
    Renew,
    /// Sleep until then, or until there is another token.
    Wait(Option<Instant>),
    /// Say that the token ends and cannot be replaced from here.
    Warn {
        /// How long it is still valid.
        left: Duration,
    },
}

/// Chance, from 0 up to all of a [`u16`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Dice(pub(super) u16);

impl Dice {
    /// The duration, or up to a tenth less: gateways that were started together drift apart.
    fn shorten(self, duration: Duration) -> Duration {
        duration.saturating_sub((duration / 655_360) * u32::from(self.0))
    }
}

/// Where a token stands in its life.
pub(super) struct Tenure {
    /// Whether there can be another token than the one that was configured.
    can_log_in: bool,
    lease: Lease,
    obtained: Option<Instant>,
    logins: Failures,
    upkeep: Failures,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lease {
    /// It ends then, unless something is done about it when it is due.
    Ends(Term),
    Endless,
    /// There is no token.
    None,
    /// There is a token, and Vault was not asked yet.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Term {
    due: Instant,
    until: Instant,
    /// What is granted while the token's last day is far; none where that is not known yet.
    full: Option<Duration>,
    renewable: bool,
    warned: bool,
}

/// Failures in a row, and the pause after the last of them.
struct Failures {
    count: u32,
    quiet_until: Option<Instant>,
}

impl Failures {
    const NONE: Self = Self {
        count: 0,
        quiet_until: None,
    };

    fn add(&mut self, most: Duration, now: Instant, dice: Dice) -> u32 {
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.count.min(6));
        let pause = doubled.min(LONGEST_PAUSE).min(most);
        self.quiet_until = Some(now + dice.shorten(pause));
        self.count = self.count.saturating_add(1);
        self.count
    }

    fn wait(&self, now: Instant) -> Option<Instant> {
        self.quiet_until.filter(|until| now < *until)
    }
}

impl Tenure {
    /// Of a token that was configured.
    pub(super) const fn of_given_token() -> Self {
        Self::new(false, Lease::Unknown)
    }

    /// Of a token that is to be had by a login.
    pub(super) const fn of_login() -> Self {
        Self::new(true, Lease::None)
    }

    const fn new(can_log_in: bool, lease: Lease) -> Self {
        Self {
            can_log_in,
            lease,
            obtained: None,
            logins: Failures::NONE,
            upkeep: Failures::NONE,
        }
    }

    /// What to do now.
    pub(super) fn next(&self, now: Instant) -> Step {
        match self.lease {
            Lease::Endless => Step::Wait(None),
            Lease::None => self.log_in(now),
            Lease::Unknown => when(self.upkeep.wait(now), Step::LookUp),
            Lease::Ends(term) => self.next_in(term, now),
        }
    }

    fn next_in(&self, term: Term, now: Instant) -> Step {
        if now < term.due {
            return Step::Wait(Some(term.due));
        }
        let over = term.until <= now;
        if self.can_log_in && (over || !term.renewable) {
            return self.log_in(now);
        }
        if term.renewable {
            return when(self.upkeep.wait(now), Step::Renew);
        }
        if term.warned {
            return Step::Wait(None);
        }
        Step::Warn {
            left: term.until.saturating_duration_since(now),
        }
    }

    fn log_in(&self, now: Instant) -> Step {
        when(self.logins.wait(now), Step::LogIn)
    }

    /// Whether a login may be tried now.
    pub(super) fn may_log_in(&self, now: Instant) -> bool {
        self.can_log_in && self.logins.wait(now).is_none()
    }

    /// Whether a login may help who was refused a path with the token. If the token could read it
    /// before (`proven`), it has been revoked or its rights have; if not, its rights may have grown
    /// since it was made, but to ask that at every refusal would be a login at every refusal.
    pub(super) fn may_help(&self, proven: bool, now: Instant) -> bool {
        let age = self.obtained.map(|at| now.saturating_duration_since(at));
        let old = age.is_none_or(|age| age >= PROBATION);
        self.can_log_in && (proven || old)
    }

    /// A login brought a token. Returns how many had failed before.
    pub(super) fn logged_in(&mut self, grant: Grant, now: Instant, dice: Dice) -> u32 {
        let failed = self.logins.count;
        self.obtained = Some(now);
        self.logins = Failures::NONE;
        self.upkeep = Failures::NONE;
        self.lease = of(grant, grant.ttl, now, dice);
        failed
    }

    /// A login brought nothing; a token that was there stays. Returns how many have failed in a row.
    pub(super) fn login_failed(&mut self, now: Instant, dice: Dice) -> u32 {
        self.logins.add(LONGEST_PAUSE, now, dice)
    }

    /// Vault said what it knows of the token. Returns how many attempts had failed before.
    pub(super) fn looked_up(&mut self, grant: Grant, now: Instant, dice: Dice) -> u32 {
        let failed = self.upkeep.count;
        self.upkeep = Failures::NONE;
        // Somebody else has made it, and may have been granted more than renewals are.
        self.lease = of(grant, None, now, dice);
        self.warn_soon(now);
        failed
    }

    /// The token was renewed. Returns how many attempts had failed before.
    pub(super) fn renewed(&mut self, grant: Grant, now: Instant, dice: Dice) -> u32 {
        let failed = self.upkeep.count;
        self.upkeep = Failures::NONE;
        let full = match self.lease {
            Lease::Ends(term) => term.full,
            Lease::Endless | Lease::None | Lease::Unknown => None,
        };
        let full = full.or(grant.ttl);
        // What would reach beyond the token's last day is cut there. Vault tells whole seconds, so a
        // little less is nothing.
        let whole = |full: Duration| full / 10 * 9;
        let waning = grant
            .ttl
            .zip(full)
            .is_some_and(|(ttl, full)| ttl < whole(full));
        let renewable = grant.renewable && !waning;
        self.lease = of(Grant { renewable, ..grant }, full, now, dice);
        self.warn_soon(now);
        failed
    }

    /// What Vault knows of the token was not to be had. Returns how many have failed in a row.
    pub(super) fn look_up_failed(&mut self, now: Instant, dice: Dice) -> u32 {
        self.upkeep.add(LONGEST_PAUSE, now, dice)
    }

    /// The token was not renewed. Where Vault refused to (`refused`), it is not asked again.
    pub(super) fn renewal_failed(&mut self, refused: bool, now: Instant, dice: Dice) -> u32 {
        let mut left = LONGEST_PAUSE;
        if let Lease::Ends(term) = &mut self.lease {
            term.renewable = term.renewable && !refused;
            left = term.until.saturating_duration_since(now);
        }
        // So that there is time for one more before the end.
        self.upkeep.add((left / 2).max(FIRST_PAUSE), now, dice)
    }

    /// It was said that the token ends.
    pub(super) const fn warned(&mut self) {
        if let Lease::Ends(term) = &mut self.lease {
            term.warned = true;
        }
    }

    /// An end that nobody here can put off is said as soon as it is known.
    fn warn_soon(&mut self, now: Instant) {
        if let Lease::Ends(term) = &mut self.lease
            && !term.renewable
            && !self.can_log_in
        {
            term.due = now;
        }
    }
}

fn when(wait: Option<Instant>, step: Step) -> Step {
    wait.map_or(step, |until| Step::Wait(Some(until)))
}

fn of(grant: Grant, full: Option<Duration>, now: Instant, dice: Dice) -> Lease {
    let Some(ttl) = grant.ttl else {
        return Lease::Endless;
    };
    let ttl = ttl.min(LONGEST_LEASE);
    let due = dice.shorten(ttl / 3 * 2).max(LEAST_LEASE);
    Lease::Ends(Term {
        due: now + due,
        until: now + ttl,
        full,
        renewable: grant.renewable,
        warned: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);
    const SECOND: Duration = Duration::from_secs(1);
    const NONE: Dice = Dice(0);

    fn lease(ttl: Duration, renewable: bool) -> Grant {
        Grant {
            ttl: Some(ttl),
            renewable,
        }
    }

    fn logged_in(grant: Grant, now: Instant) -> Tenure {
        let mut tenure = Tenure::of_login();
        assert_eq!(tenure.next(now), Step::LogIn);
        assert_eq!(tenure.logged_in(grant, now, NONE), 0);
        tenure
    }

    fn start() -> Instant {
        crate::clock::instant()
    }

    #[test]
    fn a_token_is_renewed_at_two_thirds_of_its_lease_or_a_little_before() {
        let now = start();
        for (dice, least, most) in [(0, 2_400, 2_400), (u16::MAX, 2_160, 2_161)] {
            let mut tenure = Tenure::of_login();
            tenure.logged_in(lease(HOUR, true), now, Dice(dice));
            let Step::Wait(Some(due)) = tenure.next(now) else {
                panic!("{:?}", tenure.next(now));
            };
            assert!((least..=most).contains(&(due - now).as_secs()), "{dice}");
            assert_eq!(tenure.next(due), Step::Renew);
            tenure.renewed(lease(HOUR, true), due, NONE);
            assert_eq!(tenure.next(due), Step::Wait(Some(due + HOUR / 3 * 2)));
        }
    }

    #[test]
    fn a_lease_that_wanes_is_followed_by_a_login_before_its_end() {
        let now = start();
        let mut tenure = logged_in(lease(HOUR, true), now);
        // What is missing is a matter of whole seconds.
        tenure.renewed(lease(HOUR.saturating_sub(SECOND), true), now, NONE);
        assert_eq!(tenure.next(now + HOUR / 3 * 2), Step::Renew);
        tenure.renewed(lease(HOUR / 6 * 5, true), now, NONE);
        assert_eq!(tenure.next(now + HOUR / 9 * 5), Step::LogIn);
        // What was truncated to nothing is no lease without an end.
        tenure.renewed(lease(Duration::ZERO, true), now, NONE);
        assert_eq!(tenure.next(now), Step::Wait(Some(now + LEAST_LEASE)));
        assert_eq!(tenure.next(now + LEAST_LEASE), Step::LogIn);
    }

    #[test]
    fn a_token_that_cannot_be_renewed_is_replaced_at_two_thirds() {
        let now = start();
        let tenure = logged_in(lease(HOUR, false), now);
        let due = now + HOUR / 3 * 2;
        assert_eq!(tenure.next(now), Step::Wait(Some(due)));
        assert_eq!(tenure.next(due), Step::LogIn);
    }

    #[test]
    fn a_failed_renewal_is_repeated_with_growing_pauses_until_the_end_and_then_there_is_a_login() {
        let now = start();
        let mut tenure = logged_in(lease(HOUR, true), now);
        let mut at = now + HOUR / 3 * 2;
        let mut pauses = Vec::new();
        while tenure.next(at) == Step::Renew {
            tenure.renewal_failed(false, at, NONE);
            let Step::Wait(Some(next)) = tenure.next(at) else {
                break;
            };
            pauses.push((next - at).as_secs());
            at = next;
        }
        assert_eq!(pauses.get(..8), Some(&[1, 2, 4, 8, 16, 32, 60, 60][..]));
        // Ever nearer to the end, and a last time just before it.
        assert!(at >= now + HOUR, "given up before the end");
        assert!(at < now + HOUR + FIRST_PAUSE);
        assert_eq!(tenure.next(at), Step::LogIn);
    }

    #[test]
    fn a_refused_renewal_is_followed_by_a_login_at_once() {
        let now = start();
        let mut tenure = logged_in(lease(HOUR, true), now);
        let due = now + HOUR / 3 * 2;
        tenure.renewal_failed(true, due, NONE);
        assert_eq!(tenure.next(due), Step::LogIn);
    }

    #[test]
    fn logins_that_fail_pause_for_all_and_keep_the_token() {
        let now = start();
        let mut tenure = logged_in(lease(HOUR, false), now);
        let mut at = now + HOUR / 3 * 2;
        for (number, pause) in [1, 2, 4, 8, 16, 32, 60, 60].into_iter().enumerate() {
            assert_eq!(tenure.next(at), Step::LogIn);
            assert!(tenure.may_log_in(at));
            let failed = tenure.login_failed(at, NONE);
            assert_eq!(usize::try_from(failed).unwrap(), number + 1);
            assert!(!tenure.may_log_in(at));
            let next = at + SECOND * pause;
            assert_eq!(tenure.next(at), Step::Wait(Some(next)));
            at = next;
        }
        assert_eq!(tenure.logged_in(lease(HOUR, false), at, NONE), 8);
        assert!(tenure.may_log_in(at));
    }

    #[test]
    fn a_given_token_is_looked_up_and_renewed_and_never_replaced() {
        let now = start();
        let mut tenure = Tenure::of_given_token();
        assert!(!tenure.may_log_in(now));
        assert_eq!(tenure.next(now), Step::LookUp);
        assert_eq!(tenure.look_up_failed(now, NONE), 1);
        assert_eq!(tenure.next(now), Step::Wait(Some(now + SECOND)));
        let now = now + SECOND;
        assert_eq!(tenure.next(now), Step::LookUp);
        assert_eq!(tenure.looked_up(lease(HOUR, true), now, NONE), 1);
        let due = now + HOUR / 3 * 2;
        assert_eq!(tenure.next(due), Step::Renew);
        // Also beyond its end: only Vault can say that it is over.
        assert_eq!(tenure.next(now + HOUR), Step::Renew);
        tenure.renewal_failed(true, due, NONE);
        assert!(matches!(tenure.next(due), Step::Warn { left } if left == HOUR / 3));
        tenure.warned();
        assert_eq!(tenure.next(due), Step::Wait(None));
    }

    #[test]
    fn a_given_token_that_ends_is_warned_of_once_and_as_soon_as_that_is_known() {
        let now = start();
        let mut tenure = Tenure::of_given_token();
        tenure.looked_up(lease(HOUR, false), now, NONE);
        assert_eq!(tenure.next(now), Step::Warn { left: HOUR });
        tenure.warned();
        assert_eq!(tenure.next(now + HOUR), Step::Wait(None));
        // One that was made for ten hours, is renewed by two, and now gets no more than one.
        let mut tenure = Tenure::of_given_token();
        tenure.looked_up(lease(HOUR * 10, true), now, NONE);
        tenure.renewed(lease(HOUR * 2, true), now, NONE);
        assert!(matches!(tenure.next(now), Step::Wait(Some(_))));
        tenure.renewed(lease(HOUR, true), now, NONE);
        assert_eq!(tenure.next(now), Step::Warn { left: HOUR });
        // One without an end.
        let mut tenure = Tenure::of_given_token();
        let grant = Grant {
            ttl: None,
            ..lease(HOUR, false)
        };
        tenure.looked_up(grant, now, NONE);
        assert_eq!(tenure.next(now), Step::Wait(None));
    }

    #[test]
    fn a_login_helps_who_could_read_before_and_else_once_a_probation() {
        let now = start();
        let tenure = logged_in(lease(HOUR, true), now);
        assert!(tenure.may_help(true, now));
        assert!(!tenure.may_help(false, now + PROBATION / 2));
        assert!(tenure.may_help(false, now + PROBATION));
        assert!(!Tenure::of_given_token().may_help(true, now));
    }

    #[test]
    fn no_lease_is_too_long_for_the_clock() {
        let now = start();
        let tenure = logged_in(lease(Duration::MAX, true), now);
        assert!(matches!(tenure.next(now), Step::Wait(Some(_))));
    }
}
