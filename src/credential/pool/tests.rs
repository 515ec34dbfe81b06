use futures_util::{FutureExt, future::join_all};

use super::*;

const PACE: Pace = Pace {
    canary_percent: 5,
    canary_time: Duration::from_mins(5),
    retry_after: Duration::from_mins(1),
    retry_max: Duration::from_mins(15),
    probes: false,
};
const PATIENCE: Duration = Duration::from_secs(30);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn id(name: &str) -> CredentialId {
    name.try_into().unwrap()
}

fn offer(value: &str, facts: Option<Facts>) -> Offer {
    Offer {
        credential: Credential::new("user".into(), value.into()).unwrap(),
        facts,
    }
}

fn slot(name: &str, offer: Option<Offer>) -> Slot {
    Slot {
        id: id(name),
        validity: Validity::default(),
        offer,
    }
}

/// A pool of these credentials, each with its name as its password.
fn pool(names: &[&str]) -> Arc<Pool> {
    let pool = Pool::new("main".try_into().unwrap(), Arc::default());
    configure(&pool, names, 0);
    pool
}

fn pool_of_old() -> Arc<Pool> {
    pool(&["old"])
}

fn configure(pool: &Pool, names: &[&str], seconds: i64) {
    let slots = names.iter().map(|name| slot(name, Some(offer(name, None))));
    pool.configure(PACE, slots.collect(), at(seconds));
}

fn states(pool: &Pool) -> Vec<(String, &'static str)> {
    let standings = pool.standings().into_iter();
    standings
        .map(|s| (s.id.to_string(), s.state.as_str()))
        .collect()
}

fn is(pool: &Pool, expected: &[(&str, &'static str)]) {
    let expected: Vec<_> = expected
        .iter()
        .map(|(n, s)| ((*n).to_owned(), *s))
        .collect();
    assert_eq!(states(pool), expected);
}

async fn lease(pool: &Arc<Pool>) -> Lease {
    pool.lease(PATIENCE).await.unwrap()
}

async fn accept(pool: &Arc<Pool>, seconds: i64) -> String {
    let lease = lease(pool).await;
    let name = lease.id().to_string();
    lease.end(Some(Login::Accepted), at(seconds));
    name
}

#[tokio::test]
async fn a_value_that_nobody_knows_is_tried_by_one_request_and_then_used_by_all() {
    let pool = pool(&["a"]);
    // As it is when they are written down.
    pool.take_changes();
    let first = lease(&pool).await;
    let mut waiting = Box::pin(pool.lease(PATIENCE));
    assert!((&mut waiting).now_or_never().is_none(), "it is being tried");
    // Nothing was said: the next one tries.
    drop(first);
    let second = waiting.await.unwrap();
    let others = (0..1_000).map(|_| pool.lease(PATIENCE));
    let others = join_all(others);
    tokio::pin!(others);
    assert!(others.as_mut().now_or_never().is_none());
    second.end(Some(Login::Accepted), at(1));
    let all = others.await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(pool.standings()[0].in_flight, 1_000);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_trial_longer_than_they_want_to() {
    let pool = pool(&["a"]);
    let _trial = lease(&pool).await;
    let begun = crate::clock::instant();
    let error = pool.lease(Duration::from_secs(3)).await.err();
    assert_eq!(error, Some(LeaseError::OnTrial));
    assert_eq!(begun.elapsed(), Duration::from_secs(3));
}

#[tokio::test]
async fn a_thousand_requests_that_meet_a_dead_password_try_the_next_one_one_at_a_time() {
    let pool = pool(&["one", "two", "three"]);
    accept(&pool, 0).await;
    let under_way = join_all((0..1_000).map(|_| lease(&pool))).await;
    let mut leases = under_way.into_iter();
    leases.next().unwrap().end(Some(Login::Refused), at(1));
    is(
        &pool,
        &[("one", "rejected"), ("two", "active"), ("three", "pending")],
    );
    // All others come back with a refusal too; it is one refusal.
    let rest = pool.standings()[0].retry_at;
    for lease in leases {
        lease.end(Some(Login::Refused), at(2));
    }
    assert_eq!(pool.standings()[0].retry_at, rest);
    // They want to try again. One does.
    let trial = lease(&pool).await;
    let mut others = Box::pin(join_all((0..999).map(|_| lease(&pool))));
    assert!((&mut others).now_or_never().is_none());
    trial.end(Some(Login::Refused), at(3));
    assert!((&mut others).now_or_never().is_none());
    is(
        &pool,
        &[
            ("one", "rejected"),
            ("two", "rejected"),
            ("three", "active"),
        ],
    );
    // Of those who waited one has it now, and the others wait for that one.
    assert_eq!(pool.standings()[2].in_flight, 1);
}

#[tokio::test]
async fn while_a_new_one_is_tried_the_others_use_the_one_that_works() {
    let none = Pace {
        canary_percent: 0,
        ..PACE
    };
    let pool = Pool::new("main".try_into().unwrap(), Arc::default());
    pool.configure(none, vec![slot("a", Some(offer("old", None)))], at(0));
    accept(&pool, 0).await;
    pool.offer(&id("a"), &offer("new", None), at(1));
    let trial = lease(&pool).await;
    let others = join_all((0..100).map(|_| lease(&pool))).await;
    let new = |lease: &Lease| lease.value.generation == 2;
    assert!(new(&trial) && !others.iter().any(new));
    trial.end(Some(Login::Accepted), at(2));
    assert!(new(&lease(&pool).await));
    drop(others);
    pool.keep_up(at(3));
    is(&pool, &[("a", "active"), ("a", "retired")]);
}

#[tokio::test]
async fn a_vendor_that_fails_does_not_make_all_stand_in_line() {
    let pool = pool(&["a"]);
    let mut widths = Vec::new();
    for _ in 0..6 {
        let mut leases = Vec::new();
        while let Some(leased) = pool.lease(PATIENCE).now_or_never() {
            leases.push(leased.unwrap());
        }
        widths.push(leases.len());
        leases.pop().unwrap().end(None, at(1));
    }
    assert_eq!(widths, [1, 2, 4, 8, 16, 16]);
    // A refusal: one at a time again.
    lease(&pool).await.end(Some(Login::Refused), at(2));
    pool.keep_up(at(100));
    let _one = lease(&pool).await;
    assert!(pool.lease(PATIENCE).now_or_never().is_none());
}

#[tokio::test]
async fn a_reserve_that_worked_a_year_ago_is_tried_by_one() {
    let pool = pool(&["a", "b"]);
    accept(&pool, 0).await;
    lease(&pool).await.end(Some(Login::Refused), at(1));
    accept(&pool, 2).await;
    pool.retry(&id("a"), at(3));
    accept(&pool, 4).await;
    pool.keep_up(at(400));
    is(&pool, &[("a", "active"), ("b", "pending")]);
    let year = 365 * 24 * 3600;
    accept(&pool, year).await;
    lease(&pool).await.end(Some(Login::Refused), at(year));
    is(&pool, &[("a", "rejected"), ("b", "active")]);
    let _one = lease(&pool).await;
    assert!(pool.lease(PATIENCE).now_or_never().is_none());
}

#[tokio::test]
async fn a_clock_that_is_set_back_does_not_let_a_dead_password_through() {
    let pool = pool(&["a"]);
    accept(&pool, 3_600).await;
    let mut tries = 0;
    for second in 0..50 {
        if let Some(Ok(leased)) = pool.lease(PATIENCE).now_or_never() {
            tries += 1;
            leased.end(Some(Login::Refused), at(second));
        }
        pool.keep_up(at(second));
    }
    assert_eq!(tries, 1);
}

#[tokio::test]
async fn with_none_left_nobody_waits() {
    let pool = pool(&["a"]);
    accept(&pool, 0).await;
    let (first, late) = (lease(&pool).await, lease(&pool).await);
    first.end(Some(Login::Refused), at(1));
    let leased = pool.lease(PATIENCE).now_or_never();
    assert_eq!(leased.unwrap().err(), Some(LeaseError::NoneUsable));
    assert!(!pool.is_usable());
    // An answer to a question from before the refusal changes nothing.
    late.end(Some(Login::Accepted), at(2));
    is(&pool, &[("a", "rejected")]);
    assert_eq!(pool.keep_up(at(60)), Some(at(61)));
    is(&pool, &[("a", "rejected")]);
    pool.keep_up(at(61));
    is(&pool, &[("a", "active")]);
    assert_eq!(accept(&pool, 61).await, "a");
}

#[tokio::test]
async fn a_canary_gets_its_share_and_the_first_request() {
    let pool = pool_of_old();
    accept(&pool, 0).await;
    configure(&pool, &["new", "old"], 1);
    is(&pool, &[("new", "canary"), ("old", "active")]);
    assert_eq!(accept(&pool, 2).await, "new");
    let mut shares = Vec::new();
    for _ in 0..3 {
        let mut share = 0;
        for _ in 0..100 {
            share += usize::from(accept(&pool, 2).await == "new");
        }
        shares.push(share);
    }
    assert_eq!(shares, [5, 5, 5]);
    // And they are evenly spread.
    let mut turns = Vec::new();
    for turn in 0..100 {
        if accept(&pool, 2).await == "new" {
            turns.push(turn);
        }
    }
    assert!(turns.windows(2).all(|w| w[1] - w[0] == 20), "{turns:?}");
    // While it is being tried, the others use the one that works.
    let pool = pool_of_old();
    accept(&pool, 0).await;
    configure(&pool, &["new", "old"], 1);
    let trial = lease(&pool).await;
    for _ in 0..100 {
        assert_eq!(accept(&pool, 2).await, "old");
    }
    trial.end(Some(Login::Refused), at(3));
    is(&pool, &[("new", "rejected"), ("old", "active")]);
    // Whoever is a canary again has the first request again.
    assert!(pool.retry(&id("new"), at(4)));
    assert_eq!(accept(&pool, 5).await, "new");
}

#[tokio::test]
async fn one_that_was_refused_is_tried_by_one_request_when_it_is_back() {
    let pool = pool(&["a"]);
    accept(&pool, 0).await;
    lease(&pool).await.end(Some(Login::Refused), at(1));
    assert!(pool.retry(&id("a"), at(2)));
    let _trial = lease(&pool).await;
    assert!(pool.lease(PATIENCE).now_or_never().is_none());
    assert!(!pool.retry(&id("a"), at(3)), "it does not rest");
    assert_eq!(pool.standings()[0].retry_at, None);
}

#[tokio::test]
async fn with_no_canaries_wanted_one_that_was_refused_gets_one_request() {
    let none = Pace {
        canary_percent: 0,
        ..PACE
    };
    let pool = pool_of_old();
    accept(&pool, 0).await;
    let of = |name: &str| slot(name, Some(offer(name, None)));
    pool.configure(none, vec![of("new"), of("old")], at(1));
    is(&pool, &[("new", "active"), ("old", "pending")]);
    lease(&pool).await.end(Some(Login::Refused), at(2));
    pool.retry(&id("new"), at(3));
    is(&pool, &[("new", "canary"), ("old", "active")]);
    assert_eq!(accept(&pool, 4).await, "new");
    is(&pool, &[("new", "active"), ("old", "pending")]);
}

#[tokio::test]
async fn rests_begin_anew_once_it_was_accepted_or_an_operator_says_so() {
    let pool = pool(&["a"]);
    let refuse = async |seconds| {
        lease(&pool).await.end(Some(Login::Refused), at(seconds));
        let rest = pool.standings()[0].retry_at.unwrap();
        rest.duration_since(at(seconds)).as_secs()
    };
    assert_eq!(refuse(0).await, 60);
    pool.keep_up(at(60));
    assert_eq!(refuse(60).await, 120);
    pool.keep_up(at(180));
    accept(&pool, 180).await;
    let standing = pool.standings().remove(0);
    assert_eq!(
        (standing.accepted, standing.used),
        (Some(at(180)), Some(at(180)))
    );
    assert_eq!(refuse(181).await, 60);
    pool.keep_up(at(241));
    assert_eq!(refuse(241).await, 120);
    pool.retry(&id("a"), at(242));
    assert_eq!(refuse(243).await, 60);
}

#[tokio::test]
async fn a_retry_is_of_the_one_that_is_named() {
    let pool = pool(&["a", "b"]);
    for seconds in 0..2 {
        lease(&pool).await.end(Some(Login::Refused), at(seconds));
    }
    is(&pool, &[("a", "rejected"), ("b", "rejected")]);
    assert!(pool.retry(&id("b"), at(3)));
    is(&pool, &[("a", "rejected"), ("b", "active")]);
}

#[tokio::test]
async fn what_was_accepted_before_it_was_a_canary_has_to_be_accepted_again() {
    let pool = pool_of_old();
    accept(&pool, 0).await;
    configure(&pool, &["new", "old"], 1);
    accept(&pool, 2).await;
    pool.keep_up(at(301));
    is(&pool, &[("new", "active"), ("old", "pending")]);
    // The operator changes the order.
    configure(&pool, &["old", "new"], 302);
    pool.keep_up(at(602));
    is(&pool, &[("old", "canary"), ("new", "active")]);
    assert_eq!(accept(&pool, 603).await, "old");
    is(&pool, &[("old", "active"), ("new", "pending")]);
}

#[tokio::test]
async fn a_value_that_comes_back_is_a_new_one() {
    let pool = pool(&["a"]);
    accept(&pool, 0).await;
    pool.offer(&id("a"), &offer("new", None), at(1));
    pool.offer(&id("a"), &offer("a", None), at(2));
    let newest = &pool.standings()[0];
    assert_eq!((newest.generation, newest.state), (3, State::Canary));
}

#[tokio::test]
async fn when_it_may_be_used_is_what_the_configuration_says_now() {
    let pool = pool(&["a", "b"]);
    let until = |name: &str, seconds, value| Slot {
        validity: Validity {
            not_before: None,
            not_after: Some(at(seconds)),
        },
        ..slot(name, value)
    };
    pool.configure(PACE, vec![until("a", 100, None), slot("b", None)], at(1));
    assert_eq!(pool.keep_up(at(2)), Some(at(100)));
    pool.keep_up(at(100));
    is(&pool, &[("b", "active"), ("a", "retired")]);
    // What is over is not even taken.
    pool.take_changes();
    let over = until("a", 100, Some(offer("another", None)));
    pool.configure(PACE, vec![over, slot("b", None)], at(101));
    assert!(pool.take_changes().is_empty());
}

#[tokio::test]
async fn the_end_of_the_last_request_is_told_to_who_writes_it_down() {
    let work = Arc::new(Notify::new());
    let pool = Pool::new("main".try_into().unwrap(), Arc::clone(&work));
    configure(&pool, &["a", "b"], 0);
    // No trial, whose end is told too.
    accept(&pool, 0).await;
    let held = lease(&pool).await;
    configure(&pool, &["b"], 1);
    is(&pool, &[("b", "active"), ("a", "draining")]);
    work.notified().now_or_never();
    held.end(None, at(2));
    assert!(work.notified().now_or_never().is_some());
}

#[tokio::test]
async fn a_probe_is_of_the_value_that_waits_for_it() {
    let pool = Pool::new("main".try_into().unwrap(), Arc::default());
    let of = |name: &str| slot(name, Some(offer(name, None)));
    let pace = Pace {
        probes: true,
        ..PACE
    };
    pool.configure(pace, vec![of("old")], at(0));
    accept(&pool, 0).await;
    pool.configure(pace, vec![of("new"), of("old")], at(1));
    assert_eq!(pool.probing(), [(id("new"), 1)]);
    assert!(pool.lease_to_probe(&id("old"), 1).is_none());
    assert!(pool.lease_to_probe(&id("new"), 2).is_none());
    let probe = pool.lease_to_probe(&id("new"), 1).unwrap();
    assert!(
        pool.lease_to_probe(&id("new"), 1).is_none(),
        "one at a time"
    );
    probe.end(Some(Login::Accepted), at(2));
    is(&pool, &[("new", "canary"), ("old", "active")]);
    assert!(pool.probing().is_empty());
    assert!(pool.lease_to_probe(&id("new"), 1).is_none());
}

#[test]
fn a_user_is_found_among_all_values() {
    let pool = pool(&["a", "b"]);
    let with = |user: &str| Credential::new(user.into(), "another".into()).unwrap();
    assert!(pool.has_user_of(&with("user")));
    assert!(!pool.has_user_of(&with("users")));
}

#[test]
fn of_retired_ones_the_latest_few_are_remembered() {
    let names: Vec<String> = (0..MAX_RETIRED + 4).map(|n| format!("c{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let pool = pool(&names);
    pool.dismiss(at(1));
    assert_eq!(pool.standings().len(), MAX_RETIRED);
}

#[tokio::test]
async fn a_new_value_of_a_credential_takes_over_and_the_old_one_is_dropped_with_its_last_lease() {
    let pool = pool(&["a"]);
    accept(&pool, 0).await;
    let old = Arc::downgrade(&lease(&pool).await.value.credential);
    let long = lease(&pool).await;
    assert!(pool.holds(&id("a"), long.credential()));
    pool.offer(&id("a"), &offer("new", None), at(1));
    // The same again is no other.
    pool.offer(&id("a"), &offer("new", None), at(1));
    is(&pool, &[("a", "canary"), ("a", "active")]);
    accept(&pool, 2).await;
    pool.keep_up(at(301));
    is(&pool, &[("a", "active"), ("a", "draining")]);
    assert!(old.upgrade().is_some());
    long.end(Some(Login::Accepted), at(302));
    pool.keep_up(at(302));
    is(&pool, &[("a", "active"), ("a", "retired")]);
    assert!(old.upgrade().is_none(), "the value is gone");
    let generations: Vec<u64> = pool.standings().iter().map(|s| s.generation).collect();
    assert_eq!(generations, [2, 1]);
}

#[tokio::test]
async fn an_account_that_is_dismissed_keeps_nothing() {
    let pool = pool(&["a", "b"]);
    accept(&pool, 0).await;
    let held = lease(&pool).await;
    pool.dismiss(at(1));
    is(&pool, &[("a", "draining"), ("b", "retired")]);
    drop(held);
    pool.keep_up(at(2));
    is(&pool, &[("a", "retired"), ("b", "retired")]);
    assert!(pool.facts().is_empty());
}

#[tokio::test]
async fn what_was_known_before_a_restart_is_known_again() {
    let of = |state, accepted, refused, refusals| {
        Some(Facts {
            state,
            since: at(0),
            accepted,
            refused,
            refusals,
            proven: accepted.is_some(),
        })
    };
    let pool = Pool::new("main".try_into().unwrap(), Arc::default());
    let slots = vec![
        slot(
            "dead",
            Some(offer("1", of(State::Rejected, None, Some(at(90)), 3))),
        ),
        slot(
            "new",
            Some(offer("2", of(State::Canary, Some(at(80)), None, 0))),
        ),
        slot(
            "old",
            Some(offer("3", of(State::Active, Some(at(99)), Some(at(5)), 0))),
        ),
    ];
    pool.configure(PACE, slots, at(100));
    is(
        &pool,
        &[("dead", "rejected"), ("new", "canary"), ("old", "active")],
    );
    let dead = pool.standings().remove(0);
    assert_eq!(dead.refused, Some(at(90)));
    assert_eq!(dead.retry_at, None, "another one does the work");
    // Both are known to work: nobody waits for a trial.
    let held = join_all((0..100).map(|_| lease(&pool))).await;
    let canaries = held.iter().filter(|lease| *lease.id() == id("new")).count();
    assert_eq!(canaries, 5);
    pool.keep_up(at(300));
    is(
        &pool,
        &[("dead", "rejected"), ("new", "active"), ("old", "pending")],
    );
    // One that was refused since it was accepted is tried by one request.
    let pool = Pool::new("main".try_into().unwrap(), Arc::default());
    let doubtful = offer("1", of(State::Active, Some(at(10)), Some(at(20)), 1));
    pool.configure(PACE, vec![slot("a", Some(doubtful))], at(100));
    let _trial = lease(&pool).await;
    assert!(pool.lease(PATIENCE).now_or_never().is_none());
}

#[tokio::test]
async fn every_change_is_told_once_with_its_reason() {
    let pool = pool(&["a"]);
    accept(&pool, 0).await;
    lease(&pool).await.end(Some(Login::Refused), at(1));
    let told: Vec<_> = pool
        .take_changes()
        .iter()
        .map(|c| (c.from.map(State::as_str), c.to.as_str(), c.reason.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            (None, "pending", "loaded"),
            (Some("pending"), "active", "takes_over"),
            (Some("active"), "rejected", "refused_by_upstream"),
        ]
    );
    assert!(pool.take_changes().is_empty());
}

#[test]
fn a_pool_prints_no_value() {
    let pool = pool(&["canary-pass"]);
    let shown = format!("{pool:?} {:?}", pool.take_changes());
    assert!(!shown.contains("user"), "{shown}");
}
