//! Decides how long the shipper waits after a failure, and how many lines it sends at once.
//!
//! Invariant: a pause is between half and all of what its place in a row of failures says, or what the
//! receiver asked for if that is longer. Pure.

use std::time::Duration;

/// What a receiver may ask for is cut to this: a wrong date would stop the shipping for ever.
const LONGEST_ASKED: Duration = Duration::from_hours(1);

/// Failures in a row.
#[derive(Debug)]
pub(super) struct Pace {
    first: Duration,
    longest: Duration,
    failures: u32,
}

/// Chance, from 0 up to all of a [`u16`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Dice(pub(super) u16);

impl Pace {
    pub(super) const fn new((first, longest): (Duration, Duration)) -> Self {
        Self {
            first,
            longest,
            failures: 0,
        }
    }

    /// Notes a failure. Returns the pause after it.
    pub(super) fn fail(&mut self, asked: Option<Duration>, dice: Dice) -> Duration {
        let doubled = self.first.saturating_mul(1 << self.failures.min(16));
        let pause = doubled.min(self.longest);
        self.failures = self.failures.saturating_add(1);
        // Gateways that lost one receiver together do not come back together.
        let pause = pause / 2 + (pause / 2 / 65_536) * u32::from(dice.0);
        pause.max(asked.unwrap_or_default().min(LONGEST_ASKED))
    }

    /// Notes that it works.
    pub(super) const fn succeed(&mut self) {
        self.failures = 0;
    }
}

/// How many lines go at once: fewer after a refusal, until the line is found that is not taken.
#[derive(Debug)]
pub(super) struct Portion(Option<usize>);

impl Portion {
    /// As many as there are.
    pub(super) const ALL: Self = Self(None);

    /// Of so many lines that wait.
    pub(super) fn of(&self, lines: usize) -> usize {
        self.0.unwrap_or(lines).clamp(1, lines.max(1))
    }

    /// So many were taken.
    pub(super) fn taken(&mut self, lines: usize) {
        self.0 = self.0.map(|_| lines.saturating_mul(2));
    }

    /// So many were refused. Says whether fewer can be tried.
    pub(super) fn refused(&mut self, lines: usize) -> bool {
        self.0 = Some((lines / 2).max(1));
        lines > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew_after_a_success() {
        let longest = Duration::from_secs(30);
        let mut pace = Pace::new((SECOND, longest));
        let high = Dice(u16::MAX);
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            let whole = Duration::from_secs(seconds);
            let pause = pace.fail(None, high);
            assert!(pause <= whole && pause > whole * 99 / 100, "{pause:?}");
        }
        for _ in 0..100 {
            assert!(pace.fail(None, high) <= longest);
        }
        assert_eq!(pace.fail(None, Dice(0)), longest / 2);
        pace.succeed();
        assert_eq!(pace.fail(None, Dice(0)), SECOND / 2);
    }

    #[test]
    fn a_receiver_may_ask_for_more_and_not_for_ever() {
        let mut pace = Pace::new((SECOND, SECOND));
        assert_eq!(pace.fail(Some(SECOND * 90), Dice(0)), SECOND * 90);
        assert_eq!(pace.fail(Some(Duration::ZERO), Dice(0)), SECOND / 2);
        assert_eq!(pace.fail(Some(Duration::MAX), Dice(0)), LONGEST_ASKED);
    }

    #[test]
    fn a_refused_line_is_found_by_halving() {
        for bad in 0..1000_usize {
            let (mut portion, mut from, mut tries) = (Portion::ALL, 0, 0);
            loop {
                let lines = portion.of(1000 - from);
                tries += 1;
                assert!(tries < 100, "{bad}");
                if (from..from + lines).contains(&bad) {
                    if !portion.refused(lines) {
                        break;
                    }
                } else {
                    from += lines;
                    portion.taken(lines);
                }
            }
            assert_eq!(from, bad);
        }
    }
}
