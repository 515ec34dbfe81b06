//! What happens at the edges: calendars that change, days and months that end, exchanges under way.

use std::collections::HashMap;

use super::*;
use crate::quota::{
    account::{Account, Which},
    book::{Answered, Exchange, Look},
};

/// A book, and in the place of keeper and store what is done step by step.
struct Desk {
    book: Book,
    accounts: HashMap<Which, Account>,
}

impl Desk {
    fn new(limits: &Limits) -> Self {
        let book = Book::new("acme".try_into().unwrap(), Arc::new(limits.clone()));
        let accounts = HashMap::new();
        Self { book, accounts }
    }

    fn ask(&self, look: Look, now: &Now) -> Option<Exchange> {
        self.book.exchange(look, 7, now, None).0
    }

    fn answer(&mut self, exchange: &Exchange, now: &Now) {
        let ops = exchange.ops.iter();
        let told = ops.map(|op| self.accounts.entry(op.which).or_default().apply(op, 1));
        let (told, portion) = (told.collect(), None);
        let answered = Answered { told, portion };
        drop(self.book.answered(exchange, Some(&answered), now, None));
    }

    fn look(&mut self, look: Look, now: &Now) {
        if let Some(exchange) = self.ask(look, now) {
            self.answer(&exchange, now);
        }
    }

    /// Decides as often as it is told to wait.
    fn decide<T>(&mut self, now: &Now, decide: impl Fn(&Book) -> (Step, T)) -> Option<T> {
        for _ in 0..5 {
            match decide(&self.book) {
                (Step::Admit { call }, value) => {
                    if call {
                        self.look(Look::Called, now);
                    }
                    return Some(value);
                }
                (Step::Wait { .. }, _) => self.look(Look::Called, now),
                _ => return None,
            }
        }
        None
    }

    fn charge(&mut self, now: &Now) -> Option<Charged> {
        self.decide(now, |book| book.charge((1, 1), now, None))
    }

    fn admit(&mut self, now: &Now) -> bool {
        let admitted = self.decide(now, |book| (book.admit(now, None), ()));
        admitted.is_some()
    }

    fn serve(&mut self, now: &Now) -> bool {
        let Some(charged) = self.charge(now) else {
            return false;
        };
        let what = Operation::CreateOrUpdateCustomer;
        self.book.called(what, now);
        let ended = (what, Ending::Succeeded);
        self.book.ended(ended, Some(&charged), 1, now);
        true
    }
}

fn at(wall: &str, milliseconds: u64) -> Now {
    let mono = milliseconds * 1_000_000;
    let wall: Timestamp = wall.parse().unwrap();
    let wall = wall + Duration::from_millis(milliseconds);
    Now { wall, mono }
}

fn calendar(zone: &str, billing_day: i8) -> Arc<Calendar> {
    Arc::new(Calendar::new(TimeZone::get(zone).unwrap(), billing_day))
}

const NOON: &str = "2026-11-23T12:00:00Z";

#[test]
fn a_billing_day_that_is_changed_gives_nothing_of_the_day_back_twice() {
    let limits = limited(1000);
    let mut desk = Desk::new(&limits);
    let mut admitted = 0;
    for second in 0..120 {
        let now = at(NOON, second * 1000);
        for _ in 0..10 {
            admitted += u32::from(desk.serve(&now));
        }
        if second == 20 {
            let other = Limits {
                calendar: calendar("UTC", 15),
                ..limits.clone()
            };
            desk.book.limit(&Arc::new(other), &now);
        }
        desk.look(Look::Now, &now);
    }
    assert_eq!(admitted, 1000);
}

#[test]
fn a_time_zone_that_is_changed_loses_nothing_of_the_months_counts() {
    let mut desk = Desk::new(&none());
    for second in 0..10 {
        let now = at(NOON, second * 1000);
        assert!(desk.serve(&now));
        desk.look(Look::Now, &now);
        desk.look(Look::Called, &now);
        let zone = if second % 2 == 0 {
            "Europe/Paris"
        } else {
            "UTC"
        };
        let other = Limits {
            calendar: calendar(zone, 1),
            ..none()
        };
        desk.book.limit(&Arc::new(other), &now);
    }
    let now = at(NOON, 10_000);
    desk.look(Look::Now, &now);
    desk.look(Look::Now, &now);
    let calls: u64 = desk.accounts.values().map(|a| a.tally.calls[0]).sum();
    assert_eq!(calls, 10);
}

#[test]
fn a_new_month_gives_no_second_burst() {
    let limits = per_hour(3);
    let mut desk = Desk::new(&limits);
    let now = at("2026-11-30T23:59:55Z", 0);
    for _ in 0..3 {
        assert!(desk.admit(&now));
    }
    assert!(!desk.admit(&now));
    // Quiet: the bucket is written down. Then it is December.
    for second in 1..10 {
        desk.look(Look::Now, &at("2026-11-30T23:59:55Z", second * 1000));
    }
    assert!(!desk.admit(&at("2026-11-30T23:59:55Z", 10_000)));
}

#[test]
fn who_was_let_through_before_there_was_a_limit_takes_nobodys_place_with_it() {
    let mut desk = Desk::new(&none());
    let now = at(NOON, 0);
    for _ in 0..10 {
        assert!(desk.admit(&now));
    }
    let concurrency = NonZeroU32::new(12);
    let limits = Limits {
        concurrency,
        ..none()
    };
    desk.book.limit(&Arc::new(limits), &now);
    let more = (0..12).filter(|_| desk.admit(&now)).count();
    assert_eq!(more, 2);
    for _ in 0..10 {
        desk.book.release();
    }
    let more = (0..12).filter(|_| desk.admit(&now)).count();
    assert_eq!(more, 10);
}

#[test]
fn what_is_on_its_way_back_is_no_reason_to_refuse_for_a_day() {
    let mut desk = Desk::new(&limited(1));
    let charged = desk.charge(&at(NOON, 0)).unwrap();
    desk.book.refund(&charged);
    let mut second = 0;
    let exchange = loop {
        second += 1;
        let now = at(NOON, second * 1000);
        if let Some(exchange) = desk.ask(Look::Now, &now) {
            if exchange.ops.iter().any(|op| op.report.back != [0; 2]) {
                break exchange;
            }
            desk.answer(&exchange, &now);
        }
        assert!(second < 10, "it is not put back");
    };
    let now = at(NOON, second * 1000);
    let (step, _) = desk.book.charge((1, 1), &now, None);
    assert!(matches!(step, Step::Wait { .. }), "{step:?}");
    desk.answer(&exchange, &now);
    assert!(desk.charge(&now).is_some());
    assert!(desk.charge(&now).is_none());
}

#[tokio::test]
async fn who_hangs_up_while_it_waits_for_allowance_costs_its_end_user_nothing() {
    let world = World::start();
    let per_subject = SubjectLimits {
        rate: None,
        daily: Some(1),
    };
    let quota = world.tenant(&Limits {
        per_subject,
        ..limited(5)
    });
    let mut admission = quota.admit().await.unwrap();
    {
        let mut charge = Box::pin(admission.charge(&WRITE, 1));
        assert!(futures_util::poll!(charge.as_mut()).is_pending());
    }
    drop(admission);
    served(&quota).await.unwrap();
}

#[test]
fn what_is_given_back_after_midnight_is_not_the_new_days() {
    use crate::quota::subjects::Subjects;
    let subjects = Subjects::new();
    let per_subject = SubjectLimits {
        rate: None,
        daily: Some(2),
    };
    let limits = Limits {
        per_subject,
        ..none()
    };
    let key = subjects.key(&"acme".try_into().unwrap(), Some("ann"));
    let before = at("2026-11-23T23:59:59Z", 0);
    let after = at("2026-11-23T23:59:59Z", 2000);
    let day_ends = subjects.charge(key, &limits, 1, &before, 100).unwrap();
    for _ in 0..2 {
        subjects.charge(key, &limits, 1, &after, 100).unwrap();
    }
    subjects.refund(key, 1, day_ends);
    subjects.charge(key, &limits, 1, &after, 100).unwrap_err();
}

#[tokio::test]
async fn an_account_that_is_damaged_stops_its_own_tenant_alone() {
    use crate::{
        quota::keeper::account_key,
        store::{Change, Table},
    };
    let folder = tempfile::tempdir().unwrap();
    let store = Store::embedded(folder.path(), &KEY).unwrap();
    let limits = limited(1000);
    let first = limits.calendar.day(clock::now()).first;
    let kind = account::Kind::Day;
    let key = account_key(
        &PseudonymKey::derive(&KEY),
        &"bad".try_into().unwrap(),
        Which { kind, first },
    );
    let damage = |_: usize, _: Option<&[u8]>| Change::Put(b"{".to_vec());
    store.update(Table::Usage, vec![key], damage).await.unwrap();
    let (quotas, keeper) = Quotas::open(store, PseudonymKey::derive(&KEY));
    drop(TaskTracker::new().spawn(keeper.run(|_, _| {})));
    let tenant = |name: &str| {
        let limits = Arc::new(limits.clone());
        let quota = quotas.of(&name.try_into().unwrap(), &limits);
        Tenant { quota, limits }
    };
    let (bad, good) = (tenant("bad"), tenant("good"));
    let (one, other) = tokio::join!(served(&bad), served(&good));
    one.unwrap_err();
    other.unwrap();
}

#[tokio::test]
async fn a_crowd_that_asks_how_it_stands_is_one_question_to_the_store() {
    let world = World::start();
    let asking = world.tenant_of("asking", &limited(5));
    let working = world.tenant_of("working", &limited(1000));
    let crowd = (0..5000).map(|_| {
        let asking = asking.clone();
        TaskTracker::new().spawn(async move { asking.quota.look().await.is_ok() })
    });
    let crowd: Vec<_> = crowd.collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let began = clock::instant();
    served(&working).await.unwrap();
    let waited = began.elapsed();
    for asked in crowd {
        assert!(asked.await.unwrap());
    }
    assert!(waited < Duration::from_millis(500), "{waited:?}");
}

#[test]
fn a_clock_that_was_wrong_for_a_moment_stops_nobody_for_years() {
    let mut desk = Desk::new(&limited(10));
    for second in 0..4 {
        assert!(desk.serve(&at(NOON, second * 1000)));
    }
    let year_2036 = |second: u64| at("2036-01-01T00:00:00Z", second * 1000);
    assert_eq!((4..20).filter(|s| desk.serve(&year_2036(*s))).count(), 10);
    // It is right again: the day of before goes on where it was.
    let more = (20..40).filter(|s| desk.serve(&at(NOON, s * 1000)));
    assert_eq!(more.count(), 6);
}
