//! Decides what becomes of an account's credentials: from what the configuration says of them, what
//! DCAMS said to them, and the time.
//!
//! Invariants: one credential at most is active and one a canary; where there is one that may be used,
//! one is active; what is no longer configured, or outside of its validity, gets no request; and what
//! DCAMS has refused is tried again when its backoff ends, when an operator says so, or once when the
//! credential that was accepted since then is refused in its turn.

use std::{ops::Range, time::Duration};

use jiff::Timestamp;

/// Where a credential stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Gets the requests.
    Active,
    /// Gets a share of the requests, to see whether DCAMS accepts it.
    Canary,
    /// Gets no request any more; some are under way.
    Draining,
    /// Waits: for its time, for its turn, or in reserve.
    Pending,
    /// Is being tried with a harmless question.
    Probing,
    /// DCAMS has refused it.
    Rejected,
    /// Is not used any more, and wiped.
    Retired,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::Active,
        Self::Canary,
        Self::Draining,
        Self::Pending,
        Self::Probing,
        Self::Rejected,
        Self::Retired,
    ];

    /// The word in answers, metrics and audit events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Canary => "canary",
            Self::Draining => "draining",
            Self::Pending => "pending",
            Self::Probing => "probing",
            Self::Rejected => "rejected",
            Self::Retired => "retired",
        }
    }

    /// The state of this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

/// Why a credential changes its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// DCAMS accepted it for as long as a canary is watched.
    CanaryPassed,
    /// It is to be seen on a share of the requests first.
    CanaryStarted,
    /// Its value has been read for the first time.
    Loaded,
    /// Its `not_after` has passed.
    NotAfter,
    /// Its `not_before` is to come.
    NotBefore,
    /// An operator wants it tried again.
    OperatorRetry,
    /// Another one, which the configuration prefers, is in use.
    Outranked,
    /// DCAMS accepted the probe.
    ProbePassed,
    /// The probe says nothing, or there is none any more.
    ProbeSilent,
    /// It is to be seen with a probe first.
    ProbeStarted,
    /// DCAMS refused it.
    RefusedByUpstream,
    /// It is not in the configuration any more.
    Removed,
    /// A newer value of its own is in use.
    Replaced,
    /// It was out of use, and the configuration allows it again.
    Returned,
    /// Its backoff has ended.
    RetryDue,
    /// It was refused, and the one that was accepted since then is refused too.
    SecondChance,
    /// Of those that may be used it is the best.
    TakesOver,
}

impl Reason {
    /// The word in log lines and audit events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CanaryPassed => "canary_passed",
            Self::CanaryStarted => "canary_started",
            Self::Loaded => "loaded",
            Self::NotAfter => "not_after",
            Self::NotBefore => "not_before",
            Self::OperatorRetry => "operator_retry",
            Self::Outranked => "outranked",
            Self::ProbePassed => "probe_passed",
            Self::ProbeSilent => "probe_silent",
            Self::ProbeStarted => "probe_started",
            Self::RefusedByUpstream => "refused_by_upstream",
            Self::Removed => "removed",
            Self::Replaced => "replaced",
            Self::Returned => "returned",
            Self::RetryDue => "retry_due",
            Self::SecondChance => "second_chance",
            Self::TakesOver => "takes_over",
        }
    }
}

/// How an account's rotations are paced (`[accounts.rotation]`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Of a hundred requests, how many a canary gets; with 0 there is none.
    pub canary_percent: u8,
    /// How long a canary is watched at least.
    pub canary_time: Duration,
    /// How long a refused credential rests the first time; each further time it is twice as long.
    pub retry_after: Duration,
    /// The longest rest.
    pub retry_max: Duration,
    /// Whether there is a question that can be asked without harm.
    pub probes: bool,
}

impl Pace {
    /// When a credential may be tried again that was refused this often in a row, lastly then.
    pub fn retry_at(&self, refused: Timestamp, refusals: u32) -> Timestamp {
        let doublings = refusals.saturating_sub(1).min(16);
        let rest = self.retry_after.saturating_mul(1 << doublings);
        later(refused, rest.min(self.retry_max))
    }
}

/// When a credential may be used: from the start to before the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Validity {
    /// Not before this.
    pub not_before: Option<Timestamp>,
    /// Not from this on.
    pub not_after: Option<Timestamp>,
}

impl Validity {
    /// Whether its time has come and not passed.
    pub fn covers(&self, now: Timestamp) -> bool {
        let begun = self.not_before.is_none_or(|time| now >= time);
        begun && self.not_after.is_none_or(|time| now < time)
    }
}

/// What the configuration says of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It is the value of a configured credential.
    Configured,
    /// Its credential is configured, and has a newer value.
    Superseded,
    /// Its credential is not configured any more.
    Removed,
}

/// What DCAMS said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    /// The user and password are right.
    Accepted,
    /// They are not.
    Refused,
}

/// All that is known of one value of one credential.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// Where it stands.
    pub state: State,
    /// Since when.
    pub since: Timestamp,
    /// What DCAMS said to it last since then.
    pub said: Option<Login>,
    /// Whether it was accepted the last time that DCAMS said anything.
    pub proven: bool,
    /// When it was accepted last.
    pub accepted: Option<Timestamp>,
    /// When it was refused last.
    pub refused: Option<Timestamp>,
    /// How often in a row it was refused.
    pub refusals: u32,
    /// When it was given a second chance last.
    pub chance: Option<Timestamp>,
    /// Whether an operator wants it tried again.
    pub retry: bool,
    /// What the configuration says of it.
    pub place: Place,
    /// When it may be used.
    pub validity: Validity,
    /// Whether requests are under way with it.
    pub in_flight: bool,
}

/// One change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Which of the candidates.
    pub index: usize,
    /// Its state from now on.
    pub to: State,
    /// Why.
    pub reason: Reason,
}

/// The next change that is due, if one is. `candidates` stand in the order in which the configuration
/// prefers them, a newer value before an older one of the same credential. After each step this is
/// asked again, until there is none.
pub fn next_step(candidates: &[Candidate], pace: &Pace, now: Timestamp) -> Option<Step> {
    let plan = Plan {
        candidates,
        pace,
        now,
    };
    plan.leave()
        .or_else(|| plan.listen())
        .or_else(|| plan.elect())
        .or_else(|| plan.make_room())
        .or_else(|| plan.prefer())
        .or_else(|| plan.retry())
}

/// When time alone may make a step due.
pub fn next_time(candidates: &[Candidate], pace: &Pace, now: Timestamp) -> Option<Timestamp> {
    let times = candidates.iter().flat_map(|c| {
        let canary = (c.state == State::Canary).then(|| later(c.since, pace.canary_time));
        let retry = (c.state == State::Rejected).then(|| c.retry_at(pace));
        let silent = |after| (c.state == State::Probing).then(|| later(c.since, after));
        [
            c.validity.not_before,
            c.validity.not_after,
            canary,
            retry.flatten(),
            silent(pace.retry_after),
            silent(pace.retry_max),
        ]
    });
    times.flatten().filter(|time| *time > now).min()
}

impl Candidate {
    fn is_valid(&self, now: Timestamp) -> bool {
        self.validity.covers(now)
    }

    fn has_ended(&self, now: Timestamp) -> bool {
        self.validity.not_after.is_some_and(|time| now >= time)
    }

    fn has_left(&self) -> bool {
        matches!(self.state, State::Draining | State::Retired)
    }

    /// Whether it was refused before, and is tried again now.
    fn is_on_trial(&self) -> bool {
        self.refused.is_some() && !self.proven
    }

    fn retry_at(&self, pace: &Pace) -> Option<Timestamp> {
        self.refused.map(|then| pace.retry_at(then, self.refusals))
    }

    /// Whether its backoff has ended. A refusal that is yet to come was written down before the
    /// clock was set back.
    fn is_due(&self, pace: &Pace, now: Timestamp) -> bool {
        let rests = |until| now < until && self.refused.is_some_and(|then| then <= now);
        !self.retry_at(pace).is_some_and(rests)
    }
}

struct Plan<'a> {
    candidates: &'a [Candidate],
    pace: &'a Pace,
    now: Timestamp,
}

impl Plan<'_> {
    /// What may not be used any more goes: at once, or when its last request has ended.
    fn leave(&self) -> Option<Step> {
        self.first(0..self.candidates.len(), |index, c| {
            let reason = if c.place == Place::Removed {
                Reason::Removed
            } else if c.has_ended(self.now) {
                Reason::NotAfter
            } else if c.place == Place::Superseded && self.is_dispensable(index, c) {
                Reason::Replaced
            } else {
                return None;
            };
            let to = if c.in_flight {
                State::Draining
            } else {
                State::Retired
            };
            (c.state != State::Retired && c.state != to).then_some((to, reason))
        })
    }

    /// A value that was replaced is kept for as long as requests depend on it, and one that DCAMS has
    /// accepted until it has accepted another.
    fn is_dispensable(&self, index: usize, c: &Candidate) -> bool {
        let active = self.active();
        let known = active.and_then(|active| self.candidates.get(active));
        let secure = known.is_some_and(|active| active.proven || !c.proven);
        match c.state {
            State::Active => active < Some(index) && secure,
            State::Draining | State::Rejected | State::Retired => true,
            State::Canary | State::Pending | State::Probing => secure,
        }
    }

    /// What DCAMS, the calendar, and operators say.
    fn listen(&self) -> Option<Step> {
        self.first(0..self.candidates.len(), |_, c| {
            if c.place == Place::Removed || c.has_ended(self.now) {
                return None;
            }
            if c.has_left() {
                let returns = c.place == Place::Configured;
                return returns.then_some((State::Pending, Reason::Returned));
            }
            if c.retry && matches!(c.state, State::Probing | State::Rejected) {
                return Some((State::Pending, Reason::OperatorRetry));
            }
            if c.state == State::Rejected {
                return None;
            }
            if !c.is_valid(self.now) {
                return (c.state != State::Pending).then_some((State::Pending, Reason::NotBefore));
            }
            if c.state == State::Probing && !self.pace.probes {
                return Some((State::Pending, Reason::ProbeSilent));
            }
            let refused = c.said == Some(Login::Refused);
            refused.then_some((State::Rejected, Reason::RefusedByUpstream))
        })
    }

    /// Somebody has to do the work: best one that DCAMS has accepted before, then one that it has not
    /// refused, then whoever may.
    fn elect(&self) -> Option<Step> {
        let usable = |c: &Candidate| match c.state {
            State::Canary | State::Pending => c.is_valid(self.now),
            // One that was refused is not asked to work before its probe has passed, or has had its time.
            State::Probing => {
                let silent = self.now >= later(c.since, self.pace.retry_after);
                c.is_valid(self.now) && (!c.is_on_trial() || silent)
            }
            State::Active | State::Draining | State::Rejected | State::Retired => false,
        };
        let proven = |c: &Candidate| c.proven && usable(c);
        let fresh = |c: &Candidate| !c.is_on_trial() && usable(c);
        let good = self.position(proven).or_else(|| self.position(fresh));
        if let Some(active) = self.active() {
            let doubtful = self.candidates.get(active)?.is_on_trial() && good.is_some();
            return doubtful.then_some(step(active, State::Pending, Reason::Outranked));
        }
        let chosen = good.or_else(|| self.position(usable));
        if let Some(index) = chosen {
            return Some(step(index, State::Active, Reason::TakesOver));
        }
        let again = |index: &usize| self.has_another_chance(*index);
        if let Some(index) = (0..self.candidates.len()).find(again) {
            return Some(step(index, State::Active, Reason::SecondChance));
        }
        if self.pace.probes {
            return None;
        }
        let due = |c: &Candidate| self.may_return(c) && c.is_due(self.pace, self.now);
        Some(step(self.position(due)?, State::Active, Reason::RetryDue))
    }

    fn may_return(&self, c: &Candidate) -> bool {
        c.state == State::Rejected && c.place == Place::Configured && c.is_valid(self.now)
    }

    /// Since it was refused another one was accepted, and none is any more: the vendor has changed
    /// something, and what was too early then may be right now. Once in a while: two that are refused by
    /// turns are not tried by turns.
    fn has_another_chance(&self, index: usize) -> bool {
        let Some(c) = self.candidates.get(index).filter(|c| self.may_return(c)) else {
            return false;
        };
        let others = self.candidates.iter().enumerate();
        let others = others.filter(|(other, _)| *other != index);
        let accepted = others.filter_map(|(_, other)| other.accepted).max();
        let rested = |then| self.now >= later(then, self.pace.retry_after) || then > self.now;
        accepted > c.refused && c.chance.is_none_or(rested)
    }

    /// Of two canaries, and of what is behind the active one, the lesser goes back into reserve.
    fn make_room(&self) -> Option<Step> {
        let active = self.active()?;
        let reserve = |_: usize, c: &Candidate| {
            let moves = match c.state {
                State::Active | State::Canary => true,
                State::Probing => !c.is_on_trial(),
                State::Draining | State::Pending | State::Rejected | State::Retired => false,
            };
            moves.then_some((State::Pending, Reason::Outranked))
        };
        let step = self.first(active + 1..self.candidates.len(), reserve);
        step.or_else(|| self.first(self.best_before(active)? + 1..active, reserve))
    }

    /// The best one that stands before the active one goes on towards its place.
    fn prefer(&self) -> Option<Step> {
        let index = self.best_before(self.active()?)?;
        let c = self.candidates.get(index)?;
        // One that was refused is never let loose on all requests while another one works.
        let canary = self.pace.canary_percent > 0 || c.is_on_trial();
        let (to, reason) = match c.state {
            State::Canary => {
                let seen = self.now >= later(c.since, self.pace.canary_time);
                let passed =
                    (seen || self.pace.canary_percent == 0) && c.said == Some(Login::Accepted);
                return passed.then_some(step(index, State::Active, Reason::CanaryPassed));
            }
            State::Pending if self.pace.probes && !c.proven => {
                (State::Probing, Reason::ProbeStarted)
            }
            State::Probing if !c.proven => {
                // Requests say what the probe does not, a few of them.
                let silent = self.now >= later(c.since, self.pace.retry_max);
                return silent.then_some(step(index, State::Canary, Reason::ProbeSilent));
            }
            State::Probing if canary => (State::Canary, Reason::ProbePassed),
            State::Probing => (State::Active, Reason::ProbePassed),
            State::Pending if canary => (State::Canary, Reason::CanaryStarted),
            State::Pending => (State::Active, Reason::TakesOver),
            State::Active | State::Draining | State::Rejected | State::Retired => return None,
        };
        Some(step(index, to, reason))
    }

    /// A rest that is over ends with a probe, where there is one.
    fn retry(&self) -> Option<Step> {
        if !self.pace.probes {
            return None;
        }
        let due = |c: &Candidate| self.may_return(c) && c.is_due(self.pace, self.now);
        Some(step(self.position(due)?, State::Probing, Reason::RetryDue))
    }

    /// The best one: the first, if several are active for a moment.
    fn active(&self) -> Option<usize> {
        self.position(|c| c.state == State::Active)
    }

    fn best_before(&self, active: usize) -> Option<usize> {
        let before = self.candidates.get(..active)?;
        before.iter().position(|c| {
            c.is_valid(self.now)
                && match c.state {
                    State::Canary | State::Pending => true,
                    State::Probing => !c.is_on_trial(),
                    State::Active | State::Draining | State::Rejected | State::Retired => false,
                }
        })
    }

    fn position(&self, is: impl Fn(&Candidate) -> bool) -> Option<usize> {
        self.candidates.iter().position(is)
    }

    fn first(
        &self,
        range: Range<usize>,
        decide: impl Fn(usize, &Candidate) -> Option<(State, Reason)>,
    ) -> Option<Step> {
        range.into_iter().find_map(|index| {
            let (to, reason) = decide(index, self.candidates.get(index)?)?;
            Some(Step { index, to, reason })
        })
    }
}

const fn step(index: usize, to: State, reason: Reason) -> Step {
    Step { index, to, reason }
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
