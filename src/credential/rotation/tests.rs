use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);

const PACE: Pace = Pace {
    canary_percent: 5,
    canary_time: Duration::from_mins(5),
    retry_after: MINUTE,
    retry_max: Duration::from_mins(15),
    probes: false,
};

fn at(minutes: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + 60 * minutes).unwrap()
}

/// A new value, of which nothing is known.
fn new() -> Candidate {
    Candidate {
        state: State::Pending,
        since: at(0),
        said: None,
        proven: false,
        accepted: None,
        refused: None,
        refusals: 0,
        chance: None,
        retry: false,
        place: Place::Configured,
        validity: Validity::default(),
        in_flight: false,
    }
}

/// Candidates, and what a pool does with them.
struct Account {
    list: Vec<Candidate>,
    pace: Pace,
    now: Timestamp,
}

impl Account {
    fn of(list: impl Into<Vec<Candidate>>, pace: Pace) -> Self {
        let (list, now) = (list.into(), at(0));
        let mut account = Self { list, pace, now };
        account.settle();
        account
    }

    /// One that works, and a newer one before it.
    fn rotating(pace: Pace) -> Self {
        let mut account = Self::of([new()], pace);
        account.accept(0);
        account.list.insert(0, new());
        account.settle();
        account
    }

    /// Takes every step that is due, and tells them.
    fn settle(&mut self) -> Vec<(usize, State, Reason)> {
        let mut steps = Vec::new();
        while let Some(step) = next_step(&self.list, &self.pace, self.now) {
            let c = &mut self.list[step.index];
            assert_ne!(c.state, step.to, "a step that is none: {step:?}");
            (c.state, c.since, c.said) = (step.to, self.now, None);
            if step.reason == Reason::SecondChance {
                c.chance = Some(self.now);
            }
            c.retry = false;
            steps.push((step.index, step.to, step.reason));
            assert!(steps.len() < 50, "no end: {steps:?}");
        }
        steps
    }

    fn accept(&mut self, index: usize) -> Vec<(usize, State, Reason)> {
        let c = &mut self.list[index];
        (c.said, c.proven) = (Some(Login::Accepted), true);
        (c.accepted, c.refusals) = (Some(self.now), 0);
        self.settle()
    }

    fn refuse(&mut self, index: usize) -> Vec<(usize, State, Reason)> {
        let c = &mut self.list[index];
        (c.said, c.proven) = (Some(Login::Refused), false);
        (c.refused, c.refusals) = (Some(self.now), c.refusals + 1);
        self.settle()
    }

    fn pass(&mut self, time: Duration) -> Vec<(usize, State, Reason)> {
        self.now = later(self.now, time);
        self.settle()
    }

    fn states(&self) -> Vec<&'static str> {
        self.list.iter().map(|c| c.state.as_str()).collect()
    }
}

#[test]
fn the_first_that_may_be_used_is() {
    assert_eq!(
        Account::of([new(), new()], PACE).states(),
        ["active", "pending"]
    );
    let later = |minutes| Candidate {
        validity: Validity {
            not_before: Some(at(minutes)),
            not_after: None,
        },
        ..new()
    };
    let mut account = Account::of([later(60), new()], PACE);
    assert_eq!(account.states(), ["pending", "active"]);
    assert_eq!(next_time(&account.list, &PACE, account.now), Some(at(60)));
    // One that has worked goes before one that nobody knows.
    let known = Candidate {
        proven: true,
        ..new()
    };
    assert_eq!(
        Account::of([new(), known], PACE).states(),
        ["canary", "active"]
    );
    account.accept(1);
    let steps = account.pass(60 * MINUTE);
    assert_eq!(steps, [(0, State::Canary, Reason::CanaryStarted)]);
}

#[test]
fn a_new_one_is_a_canary_first_and_takes_over_when_its_time_has_passed_without_a_refusal() {
    let mut account = Account::rotating(PACE);
    assert_eq!(account.states(), ["canary", "active"]);
    assert_eq!(account.pass(10 * MINUTE), [], "nobody has said anything");
    assert_eq!(
        account.accept(0),
        [
            (0, State::Active, Reason::CanaryPassed),
            (1, State::Pending, Reason::Outranked)
        ]
    );
    let mut account = Account::rotating(PACE);
    assert_eq!(account.accept(0), []);
    assert_eq!(account.pass(299 * SECOND), []);
    assert_eq!(next_time(&account.list, &PACE, account.now), Some(at(5)));
    account.pass(SECOND);
    assert_eq!(account.states(), ["active", "pending"]);
    // Without a canary it takes over at once.
    let none = Pace {
        canary_percent: 0,
        ..PACE
    };
    assert_eq!(Account::rotating(none).states(), ["active", "pending"]);
}

#[test]
fn a_canary_that_is_refused_goes_back_and_the_one_in_use_stays() {
    let mut account = Account::rotating(PACE);
    account.accept(0);
    assert_eq!(
        account.refuse(0),
        [(0, State::Rejected, Reason::RefusedByUpstream)]
    );
    assert_eq!(account.states(), ["rejected", "active"]);
    // Without a probe it is left alone for as long as another one works.
    assert_eq!(account.pass(24 * 60 * MINUTE), []);
    account.list[0].retry = true;
    assert_eq!(
        account.settle(),
        [
            (0, State::Pending, Reason::OperatorRetry),
            (0, State::Canary, Reason::CanaryStarted)
        ]
    );
}

#[test]
fn the_next_one_takes_over_from_one_that_is_refused() {
    let mut account = Account::of([new(), new(), new()], PACE);
    account.accept(0);
    assert_eq!(
        account.refuse(0),
        [
            (0, State::Rejected, Reason::RefusedByUpstream),
            (1, State::Active, Reason::TakesOver)
        ]
    );
    account.refuse(1);
    assert_eq!(account.states(), ["rejected", "rejected", "active"]);
    // Somewhere along a rotation too: the canary is there already.
    let mut account = Account::rotating(PACE);
    account.refuse(1);
    assert_eq!(account.states(), ["active", "rejected"]);
}

#[test]
fn one_that_was_refused_too_early_gets_its_chance_when_the_vendor_has_switched() {
    let mut account = Account::rotating(PACE);
    account.refuse(0);
    account.pass(SECOND);
    account.accept(1);
    account.pass(SECOND);
    assert_eq!(
        account.refuse(1),
        [
            (1, State::Rejected, Reason::RefusedByUpstream),
            (0, State::Active, Reason::SecondChance)
        ]
    );
    // Once: then both rest.
    account.pass(SECOND);
    account.refuse(0);
    assert_eq!(account.states(), ["rejected", "rejected"]);
    assert_eq!(account.pass(10 * SECOND), []);
}

#[test]
fn with_none_left_each_is_tried_again_after_longer_and_longer_rests() {
    let mut account = Account::of([new()], PACE);
    let mut rests = Vec::new();
    for _ in 0..7 {
        account.refuse(0);
        let due = next_time(&account.list, &PACE, account.now).unwrap();
        let rest = Duration::try_from(due.duration_since(account.now)).unwrap();
        assert_eq!(account.pass(rest.saturating_sub(SECOND)), []);
        assert_eq!(account.pass(SECOND), [(0, State::Active, Reason::RetryDue)]);
        rests.push(rest.as_secs() / 60);
    }
    assert_eq!(rests, [1, 2, 4, 8, 15, 15, 15]);
    // A clock that was set back by a year does not make it rest for a year.
    account.refuse(0);
    account.now = at(-525_600);
    assert_eq!(account.settle(), [(0, State::Active, Reason::RetryDue)]);
}

#[test]
fn a_probe_comes_before_a_canary_and_after_a_rest() {
    let probes = Pace {
        probes: true,
        ..PACE
    };
    let mut account = Account::rotating(probes);
    assert_eq!(account.states(), ["probing", "active"]);
    assert_eq!(account.pass(14 * MINUTE), [], "nobody has answered");
    assert_eq!(account.accept(0), [(0, State::Canary, Reason::ProbePassed)]);
    account.refuse(0);
    assert_eq!(
        account.pass(MINUTE),
        [(0, State::Probing, Reason::RetryDue)]
    );
    account.refuse(0);
    assert_eq!(account.states(), ["rejected", "active"]);
    account.pass(2 * MINUTE);
    account.accept(0);
    assert_eq!(account.states(), ["canary", "active"]);
    // With nobody else, requests wait until its probe has passed.
    account.refuse(1);
    account.refuse(0);
    assert_eq!(account.states(), ["rejected", "rejected"]);
    account.pass(4 * MINUTE);
    assert_eq!(account.states(), ["probing", "probing"]);
    account.accept(1);
    assert_eq!(account.states(), ["probing", "active"]);
}

#[test]
fn what_is_taken_away_leaves_when_its_last_request_has_ended() {
    let mut account = Account::of([new(), new()], PACE);
    account.list[0].in_flight = true;
    account.list[0].place = Place::Removed;
    assert_eq!(
        account.settle(),
        [
            (0, State::Draining, Reason::Removed),
            (1, State::Active, Reason::TakesOver)
        ]
    );
    account.list[0].in_flight = false;
    assert_eq!(account.settle(), [(0, State::Retired, Reason::Removed)]);
    // It came back to the configuration while it drained.
    let mut account = Account::of([new(), new()], PACE);
    account.list[0].in_flight = true;
    account.list[0].place = Place::Removed;
    account.settle();
    account.list[0].place = Place::Configured;
    assert_eq!(account.settle()[0], (0, State::Pending, Reason::Returned));
}

#[test]
fn a_value_that_was_replaced_stays_until_the_new_one_is_in_use() {
    let mut account = Account::rotating(PACE);
    account.list[1].place = Place::Superseded;
    assert_eq!(account.settle(), []);
    assert_eq!(account.states(), ["canary", "active"]);
    account.accept(0);
    let steps = account.pass(5 * MINUTE);
    assert_eq!(
        steps,
        [
            (0, State::Active, Reason::CanaryPassed),
            (1, State::Retired, Reason::Replaced)
        ]
    );
    // A value between the two that was never in use is not waited for.
    let mut account = Account::rotating(PACE);
    account.list[0].place = Place::Superseded;
    account.list[1].place = Place::Superseded;
    account.list.insert(0, new());
    account.settle();
    assert_eq!(account.states(), ["canary", "retired", "active"]);
    // Nor one that DCAMS refuses.
    account.refuse(2);
    assert_eq!(account.states(), ["active", "retired", "retired"]);
}

#[test]
fn after_its_end_it_is_not_used_and_before_its_end_another_takes_over() {
    let ends = Candidate {
        validity: Validity {
            not_before: None,
            not_after: Some(at(10)),
        },
        ..new()
    };
    let mut account = Account::of([ends, new()], PACE);
    assert_eq!(next_time(&account.list, &PACE, account.now), Some(at(10)));
    assert_eq!(
        account.pass(10 * MINUTE),
        [
            (0, State::Retired, Reason::NotAfter),
            (1, State::Active, Reason::TakesOver)
        ]
    );
}

#[test]
fn two_that_are_refused_by_turns_are_not_tried_by_turns() {
    let mut account = Account::of([new(), new()], PACE);
    let mut calls = 0;
    for second in 0..60 {
        account.now = later(at(0), second * SECOND);
        account.settle();
        let Some(index) = account.list.iter().position(|c| c.state == State::Active) else {
            continue;
        };
        calls += 1;
        if second % 2 == 0 {
            account.accept(index);
        } else {
            account.refuse(index);
        }
    }
    assert!(calls < 12, "{calls}");
}

#[test]
fn a_probe_that_says_nothing_or_is_gone_keeps_nobody_waiting_for_ever() {
    let probes = Pace {
        probes: true,
        ..PACE
    };
    // Beside one that works: a few requests say what the probe does not.
    let mut account = Account::rotating(probes);
    assert_eq!(
        account.pass(15 * MINUTE),
        [(0, State::Canary, Reason::ProbeSilent)]
    );
    let mut account = Account::rotating(probes);
    account.pace = PACE;
    account.settle();
    assert_eq!(account.states(), ["canary", "active"]);
    // Alone, after a refusal: requests, when the probe has had its time.
    let mut account = Account::of([new()], probes);
    account.refuse(0);
    account.pass(MINUTE);
    assert_eq!(account.states(), ["probing"]);
    assert_eq!(
        next_time(&account.list, &probes, account.now),
        Some(later(account.now, MINUTE))
    );
    account.pass(MINUTE);
    assert_eq!(account.states(), ["active"]);
    // And an operator need not wait.
    account.refuse(0);
    account.pass(2 * MINUTE);
    assert_eq!(account.states(), ["probing"]);
    account.list[0].retry = true;
    account.settle();
    assert_eq!(account.states(), ["active"]);
}

#[test]
fn a_password_that_works_is_kept_until_the_new_one_has_worked() {
    let none = Pace {
        canary_percent: 0,
        ..PACE
    };
    let mut account = Account::rotating(none);
    account.list[1].place = Place::Superseded;
    account.settle();
    assert_eq!(account.states(), ["active", "pending"]);
    account.refuse(0);
    assert_eq!(account.states(), ["rejected", "active"]);
    let mut account = Account::rotating(none);
    account.list[1].place = Place::Superseded;
    account.accept(0);
    assert_eq!(account.states(), ["active", "retired"]);
}

#[test]
fn a_rest_is_not_cut_short_by_a_date() {
    let mut account = Account::rotating(PACE);
    account.refuse(0);
    account.list[0].validity.not_before = Some(at(1));
    assert_eq!(account.settle(), []);
    assert_eq!(account.pass(5 * MINUTE), []);
    assert_eq!(account.states(), ["rejected", "active"]);
}

#[test]
fn a_start_that_is_put_off_takes_it_out_of_use() {
    let mut account = Account::of([new(), new()], PACE);
    account.accept(0);
    account.list[0].validity.not_before = Some(at(60));
    assert_eq!(
        account.settle(),
        [
            (0, State::Pending, Reason::NotBefore),
            (1, State::Active, Reason::TakesOver)
        ]
    );
    assert_eq!(next_time(&account.list, &PACE, account.now), Some(at(60)));
    // A time that has passed is none to wake for.
    account.list[0].validity.not_before = Some(at(-60));
    account.pace.canary_percent = 0;
    account.settle();
    assert_eq!(next_time(&account.list, &account.pace, account.now), None);
}

#[test]
fn what_falls_behind_the_one_in_use_goes_back_into_reserve() {
    let probes = Pace {
        probes: true,
        ..PACE
    };
    // An operator changes the order.
    for pace in [PACE, probes] {
        let mut account = Account::rotating(pace);
        account.list.swap(0, 1);
        assert_eq!(
            account.settle(),
            [(1, State::Pending, Reason::Outranked)],
            "{pace:?}"
        );
    }
    // An operator puts a third one before a canary.
    let mut account = Account::rotating(PACE);
    account.list.insert(0, new());
    assert_eq!(
        account.settle(),
        [
            (1, State::Pending, Reason::Outranked),
            (0, State::Canary, Reason::CanaryStarted)
        ]
    );
    // One that was refused keeps its probe, wherever it stands.
    let mut account = Account::of([new(), new()], probes);
    account.accept(0);
    let refused = &mut account.list[1];
    (refused.state, refused.refused, refused.refusals) = (State::Rejected, Some(at(0)), 1);
    assert_eq!(
        account.pass(MINUTE),
        [(1, State::Probing, Reason::RetryDue)]
    );
}

#[test]
fn with_no_canaries_wanted_one_that_was_refused_has_to_be_accepted_once() {
    let none = Pace {
        canary_percent: 0,
        ..PACE
    };
    let mut account = Account::of([new()], none);
    account.accept(0);
    let refused = Candidate {
        refused: Some(at(-10)),
        refusals: 1,
        ..new()
    };
    account.list.insert(0, refused);
    assert_eq!(
        account.settle(),
        [(0, State::Canary, Reason::CanaryStarted)]
    );
    assert_eq!(
        account.accept(0),
        [
            (0, State::Active, Reason::CanaryPassed),
            (1, State::Pending, Reason::Outranked)
        ]
    );
}

#[test]
fn an_older_value_works_where_the_new_one_is_refused() {
    let refused = Candidate {
        state: State::Rejected,
        refused: Some(at(0)),
        refusals: 1,
        ..new()
    };
    let older = Candidate {
        place: Place::Superseded,
        ..new()
    };
    assert_eq!(
        Account::of([refused, older], PACE).states(),
        ["rejected", "active"]
    );
}

#[test]
fn no_number_of_refusals_is_too_much() {
    for refusals in [5, 33, 100, u32::MAX] {
        assert_eq!(PACE.retry_at(at(0), refusals), at(15), "{refusals}");
    }
}

#[derive(Debug, Clone)]
enum Event {
    Accept(usize),
    Pass(u64),
    Refuse(usize),
    Remove(usize),
    Replace(usize),
    Retry(usize),
    Toggle(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (0..8_usize).prop_map(Event::Accept),
        4 => (1..1200_u64).prop_map(Event::Pass),
        4 => (0..8_usize).prop_map(Event::Refuse),
        1 => (0..8_usize).prop_map(Event::Remove),
        1 => (0..8_usize).prop_map(Event::Replace),
        1 => (0..8_usize).prop_map(Event::Retry),
        2 => (0..8_usize).prop_map(Event::Toggle),
    ];
    prop::collection::vec(event, 1..40)
}

/// What may be said of a candidate by DCAMS: only where it was asked.
fn is_asked(c: &Candidate) -> bool {
    matches!(c.state, State::Active | State::Canary | State::Probing)
}

proptest! {
    #[test]
    fn whatever_happens_one_works_where_one_may(
        count in 1..4_usize,
        percent in prop_oneof![Just(0_u8), Just(5)],
        probes: bool,
        events in events(),
    ) {
        let pace = Pace { canary_percent: percent, probes, ..PACE };
        let mut account = Account::of(vec![new(); count], pace);
        for event in events {
            let at = |index: usize| index % account.list.len();
            match event {
                Event::Accept(i) => { let i = at(i); if is_asked(&account.list[i]) { account.accept(i); } }
                Event::Refuse(i) => { let i = at(i); if is_asked(&account.list[i]) { account.refuse(i); } }
                Event::Pass(seconds) => { account.pass(Duration::from_secs(seconds)); }
                Event::Remove(i) => { let i = at(i); account.list[i].place = Place::Removed; account.settle(); }
                Event::Replace(i) => {
                    let i = at(i);
                    if account.list[i].place == Place::Configured {
                        account.list[i].place = Place::Superseded;
                        account.list.insert(i, Candidate { since: account.now, ..new() });
                        account.settle();
                    }
                }
                Event::Retry(i) => { let i = at(i); account.list[i].retry = account.list[i].state == State::Rejected; account.settle(); }
                Event::Toggle(i) => { let i = at(i); account.list[i].in_flight ^= true; account.settle(); }
            }
            let list = &account.list;
            let count = |state| list.iter().filter(|c| c.state == state).count();
            prop_assert!(count(State::Active) <= 1 && count(State::Canary) <= 1, "{:?}", account.states());
            let able = |c: &Candidate| match c.state {
                State::Canary | State::Pending => true,
                State::Probing => c.refused.is_none() || c.proven,
                State::Active | State::Draining | State::Rejected | State::Retired => false,
            };
            prop_assert!(count(State::Active) == 1 || !list.iter().any(able), "{:?}", account.states());
            let gone = list.iter().filter(|c| c.place == Place::Removed);
            for c in gone {
                prop_assert!(c.has_left() && (c.in_flight || c.state == State::Retired));
            }
            // Somebody who works is not given up for somebody who was refused.
            let active = list.iter().find(|c| c.state == State::Active);
            if active.is_some_and(|c| c.refused.is_some() && !c.proven) {
                prop_assert!(!list.iter().any(|c| c.proven && able(c)), "{:?}", account.states());
            }
            // Retired values are dropped by the pool.
            account.list.retain(|c| c.state != State::Retired);
            if account.list.is_empty() {
                break;
            }
        }
    }
}
