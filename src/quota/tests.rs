mod edges;
mod shared;

use std::{num::NonZeroU32, path::Path, slice};

use futures_util::future::join_all;
use jiff::tz::TimeZone;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use super::*;
use crate::{
    auth::permit::Permit,
    limits::{LARGEST, Policy, Rate, SubjectLimits, calendar::Calendar},
};

const KEY: [u8; 32] = [3; 32];

/// Quotas on a store of their own.
struct World {
    folder: TempDir,
    quotas: Quotas,
    keeper: JoinHandle<()>,
    crossed: Arc<Mutex<Vec<Crossed>>>,
}

impl World {
    fn start() -> Self {
        Self::at(tempfile::tempdir().unwrap())
    }

    fn at(folder: TempDir) -> Self {
        let (quotas, keeper) = open(folder.path());
        let crossed = Arc::<Mutex<Vec<Crossed>>>::default();
        let told = Arc::clone(&crossed);
        let keep = keeper.run(move |_, crossed| told.lock().unwrap().push(*crossed));
        let keeper = TaskTracker::new().spawn(keep);
        Self {
            folder,
            quotas,
            keeper,
            crossed,
        }
    }

    fn tenant(&self, limits: &Limits) -> Tenant {
        self.tenant_of("acme", limits)
    }

    fn tenant_of(&self, name: &str, limits: &Limits) -> Tenant {
        let limits = Arc::new(limits.clone());
        let quota = self.quotas.of(&name.try_into().unwrap(), &limits);
        Tenant { quota, limits }
    }

    /// Ends in order, and begins anew.
    async fn restart(self) -> Self {
        self.quotas.close().await;
        self.crash().await
    }

    /// Ends without a word, and begins anew.
    async fn crash(self) -> Self {
        let Self {
            folder,
            quotas,
            keeper,
            ..
        } = self;
        keeper.abort();
        drop(keeper.await);
        drop(quotas);
        Self::at(folder)
    }
}

/// A tenant and its limits.
#[derive(Clone)]
struct Tenant {
    quota: TenantQuota,
    limits: Arc<Limits>,
}

impl Tenant {
    async fn admit(&self) -> Result<Admission, QuotaError> {
        self.quota.admit(Some("ann"), &self.limits, tariff()).await
    }
}

fn open(folder: &Path) -> (Quotas, Keeper) {
    Quotas::open(
        Store::embedded(folder, &KEY).unwrap(),
        PseudonymKey::derive(&KEY),
    )
}

fn none() -> Limits {
    Limits::unlimited()
}

fn limited(daily: u64) -> Limits {
    let daily = Some(daily);
    Limits { daily, ..none() }
}

fn tariff() -> Tariff {
    Tariff {
        cost: [1; 4],
        refused: Billing::Keep,
        unknown: Billing::Keep,
        unavailable: Billing::Refund,
        max_subjects: 1000,
    }
}

const WRITE: Permit = Permit::of(Operation::CreateOrUpdateCustomer);

async fn charged(quota: &Tenant, bytes: u64) -> Result<Admission, QuotaError> {
    let mut admission = quota.admit().await?;
    admission.charge(&WRITE, bytes).await?;
    Ok(admission)
}

/// A request that was sent and answered.
async fn served(quota: &Tenant) -> Result<(), QuotaError> {
    let mut admission = charged(quota, 1).await?;
    admission.sending(Operation::CreateOrUpdateCustomer);
    admission.replied(true);
    admission.settle(Outcome::Sent(Ending::Succeeded));
    Ok(())
}

fn policy(refused: QuotaError) -> Policy {
    let QuotaError::Denied(denied) = refused else {
        panic!("{refused:?}")
    };
    denied.policy
}

fn left(quota: &Tenant, policy: Policy) -> u64 {
    let standings = quota.quota.standings(None, &quota.limits);
    let mut standings = standings.iter();
    standings.find(|s| s.policy == policy).unwrap().left
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_at_once_exactly_as_many_as_the_limit_are_admitted() {
    let world = World::start();
    for round in 0..50 {
        let quota = world.tenant_of(&format!("tenant-{round}"), &limited(100));
        let tasks = (0..200).map(|_| {
            let quota = quota.clone();
            TaskTracker::new().spawn(async move {
                loop {
                    match served(&quota).await {
                        // A busy disk is no answer.
                        Err(QuotaError::Unavailable) => {}
                        served => return served.is_ok(),
                    }
                }
            })
        });
        let admitted = join_all(tasks)
            .await
            .into_iter()
            .filter(|a| *a.as_ref().unwrap());
        assert_eq!(admitted.count(), 100, "round {round}");
        assert_eq!(left(&quota, Policy::Daily), 0);
    }
}

#[tokio::test]
async fn what_was_used_is_known_after_a_restart() {
    let world = World::start();
    for _ in 0..7 {
        served(&world.tenant(&limited(10))).await.unwrap();
    }
    let world = world.restart().await;
    let quota = world.tenant(&limited(10));
    for _ in 0..3 {
        served(&quota).await.unwrap();
    }
    assert_eq!(policy(served(&quota).await.unwrap_err()), Policy::Daily);
}

#[tokio::test]
async fn a_crash_loses_allowance_and_never_gains_any() {
    let mut world = World::start();
    let mut admitted = 0;
    for _ in 0..20 {
        let quota = world.tenant(&limited(300));
        for _ in 0..17 {
            admitted += u32::from(served(&quota).await.is_ok());
        }
        world = world.crash().await;
    }
    let quota = world.tenant(&limited(300));
    while served(&quota).await.is_ok() {
        admitted += 1;
    }
    assert!((150..=300).contains(&admitted), "{admitted}");
}

#[tokio::test]
async fn what_did_nothing_is_given_back() {
    let world = World::start();
    let quota = world.tenant(&limited(3));
    // Dropped before it was sent, certainly not sent, and answered with a failure.
    drop(charged(&quota, 1).await.unwrap());
    let mut unsent = charged(&quota, 1).await.unwrap();
    unsent.sending(Operation::CreateOrUpdateCustomer);
    unsent.replied(false);
    unsent.settle(Outcome::Undone);
    let failed = charged(&quota, 1).await.unwrap();
    failed.settle(Outcome::Sent(Ending::Unavailable));
    assert_eq!(left(&quota, Policy::Daily), 3);
    // Cut off while it was on its way.
    let mut cut_off = charged(&quota, 1).await.unwrap();
    cut_off.sending(Operation::CreateOrUpdateCustomer);
    drop(cut_off);
    assert_eq!(left(&quota, Policy::Daily), 2);
    for ending in [Ending::Refused, Ending::Unknown] {
        charged(&quota, 1)
            .await
            .unwrap()
            .settle(Outcome::Sent(ending));
    }
    assert_eq!(policy(served(&quota).await.unwrap_err()), Policy::Daily);
}

#[tokio::test]
async fn all_limits_are_charged_or_none() {
    let world = World::start();
    let limits = Limits {
        daily: Some(10),
        bytes_daily: Some(100),
        monthly: Some(10),
        ..none()
    };
    let quota = world.tenant(&limits);
    charged(&quota, 60)
        .await
        .unwrap()
        .settle(Outcome::Sent(Ending::Succeeded));
    let refused = charged(&quota, 60).await.err().unwrap();
    assert_eq!(policy(refused), Policy::BytesDaily);
    assert_eq!(left(&quota, Policy::Daily), 9);
    assert_eq!(left(&quota, Policy::Monthly), 9);
    assert_eq!(left(&quota, Policy::BytesDaily), 40);
}

#[tokio::test]
async fn so_many_at_a_time() {
    let world = World::start();
    let concurrency = NonZeroU32::new(2);
    let quota = world.tenant(&Limits {
        concurrency,
        ..none()
    });
    let first = quota.admit().await.unwrap();
    let second = quota.admit().await.unwrap();
    let refused = quota.admit().await.err().unwrap();
    assert_eq!(policy(refused), Policy::Concurrency);
    drop(first);
    let third = quota.admit().await.unwrap();
    assert_eq!(left(&quota, Policy::Concurrency), 0);
    drop((second, third));
    assert_eq!(left(&quota, Policy::Concurrency), 2);
}

fn per_hour(burst: u32) -> Limits {
    let rate = Rate {
        count: NonZeroU32::new(10).unwrap(),
        period: Duration::from_hours(1),
        burst: NonZeroU32::new(burst).unwrap(),
    };
    Limits {
        rate: Some(rate),
        ..none()
    }
}

#[tokio::test]
async fn a_restart_gives_no_second_burst_and_a_crash_none_at_all() {
    let world = World::start();
    let quota = world.tenant(&per_hour(3));
    for _ in 0..2 {
        quota.admit().await.unwrap();
    }
    let world = world.restart().await;
    let quota = world.tenant(&per_hour(3));
    quota.admit().await.unwrap();
    let refused = quota.admit().await.err().unwrap();
    let QuotaError::Denied(denied) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(denied.policy, Policy::Rate);
    assert!(denied.retry_after <= Duration::from_mins(6), "{denied:?}");

    let world = World::start();
    world.tenant(&per_hour(3)).admit().await.unwrap();
    let world = world.crash().await;
    let refused = world.tenant(&per_hour(3)).admit().await.err();
    assert_eq!(policy(refused.unwrap()), Policy::Rate);
}

#[tokio::test]
async fn other_limits_hold_at_once_and_what_was_used_stays_used() {
    let world = World::start();
    let quota = world.tenant(&limited(5));
    for _ in 0..5 {
        served(&quota).await.unwrap();
    }
    quota.quota.limit(&Arc::new(limited(7)));
    for _ in 0..2 {
        served(&quota).await.unwrap();
    }
    assert_eq!(policy(served(&quota).await.unwrap_err()), Policy::Daily);
    quota.quota.limit(&Arc::new(limited(3)));
    assert_eq!(left(&quota, Policy::Daily), 0);
}

#[tokio::test]
async fn the_soft_limit_is_told_once() {
    let world = World::start();
    let quota = world.tenant(&limited(10));
    for _ in 0..10 {
        served(&quota).await.unwrap();
    }
    let crossed = world.crossed.lock().unwrap().clone();
    let [crossed] = crossed.try_into().unwrap();
    assert_eq!((crossed.policy, crossed.limit), (Policy::Daily, 10));
    let world = world.restart().await;
    served(&world.tenant(&limited(10))).await.unwrap_err();
    assert!(world.crossed.lock().unwrap().is_empty());
}

async fn granted(quota: &Tenant, policy: &str, amount: u64, id: Option<&str>) -> bool {
    let id = id.map(|id| id.try_into().unwrap());
    let grant = Grant::new(policy, amount, id.as_ref()).unwrap();
    quota.quota.grant(grant).await.unwrap()
}

#[tokio::test]
async fn a_grant_holds_at_once_and_is_known_after_a_restart_and_a_crash() {
    let world = World::start();
    let quota = world.tenant(&limited(2));
    for _ in 0..2 {
        served(&quota).await.unwrap();
    }
    assert_eq!(policy(served(&quota).await.unwrap_err()), Policy::Daily);
    assert!(granted(&quota, "daily", 3, None).await);
    assert_eq!(left(&quota, Policy::Daily), 3);
    served(&quota).await.unwrap();
    let world = world.restart().await;
    let quota = world.tenant(&limited(2));
    served(&quota).await.unwrap();
    assert!(granted(&quota, "daily", 1, None).await);
    let world = world.crash().await;
    let quota = world.tenant(&limited(2));
    assert!(world.quotas.survey(slice::from_ref(&quota.quota)).await);
    let standing = quota.quota.limits()[0];
    assert_eq!((standing.limit, standing.granted), (6, 4));
}

#[tokio::test]
async fn under_one_id_a_period_takes_one_grant_also_after_a_crash() {
    let world = World::start();
    let limits = Limits {
        bytes_daily: Some(10),
        monthly: Some(10),
        ..limited(10)
    };
    let quota = world.tenant(&limits);
    for (policy, new) in [
        ("daily", true),
        ("daily", false),
        ("bytes_daily", true),
        ("monthly", true),
        ("monthly", false),
    ] {
        assert_eq!(granted(&quota, policy, 5, Some("a-1")).await, new);
    }
    let world = world.crash().await;
    let quota = world.tenant(&limits);
    assert!(!granted(&quota, "daily", 5, Some("a-1")).await);
    assert!(granted(&quota, "daily", 5, Some("a-2")).await);
    assert!(granted(&quota, "daily", 5, None).await);
    let granted = quota.quota.limits();
    let granted: Vec<u64> = granted.iter().map(|standing| standing.granted).collect();
    assert_eq!(granted, [15, 5, 5]);
}

#[tokio::test]
async fn nothing_is_granted_where_there_is_no_limit_and_no_more_than_can_be_counted() {
    let world = World::start();
    let quota = world.tenant(&limited(2));
    for (policy, amount, why) in [
        ("rate", 1, GrantError::Policy),
        ("Daily", 1, GrantError::Policy),
        ("daily", 0, GrantError::Amount),
        ("daily", LARGEST + 1, GrantError::Amount),
    ] {
        assert_eq!(Grant::new(policy, amount, None), Err(why));
    }
    let monthly = Grant::new("monthly", 1, None).unwrap();
    assert_eq!(quota.quota.grant(monthly).await, Err(GrantError::NoLimit));
    let most = Grant::new("daily", LARGEST, None).unwrap();
    assert_eq!(quota.quota.grant(most).await, Ok(true));
    let one = Grant::new("daily", 1, None).unwrap();
    assert_eq!(quota.quota.grant(one).await, Err(GrantError::TooMuch));
}

/// What the account of the month says.
async fn month(world: &World, limits: &Limits) -> Sums {
    let firsts = vec![limits.calendar.month(clock::now()).first];
    let tenant = "acme".try_into().unwrap();
    let months = world.quotas.months(vec![Wanted { tenant, firsts }]);
    let [Used(used)] = months.await.unwrap().try_into().unwrap();
    used[0].unwrap()
}

#[tokio::test]
async fn a_months_sums_are_complete_at_any_moment_and_a_crash_shows_in_them() {
    let world = World::start();
    let limits = Limits {
        monthly: Some(1000),
        ..none()
    };
    let quota = world.tenant(&limits);
    for round in 1..=20 {
        served(&quota).await.unwrap();
        // Held, under way, given back: nothing of that is lost.
        let under_way = charged(&quota, 1).await.unwrap();
        let sums = month(&world, &limits).await;
        let creations = sums.services.of(Operation::CreateOrUpdateCustomer);
        assert_eq!((creations.calls, creations.succeeded), (round, round));
        assert_eq!((sums.charged, sums.unaccounted), (round, 0));
        drop(under_way);
    }
    let under_way = charged(&quota, 1).await.unwrap();
    assert_eq!(month(&world, &limits).await.unaccounted, 0);
    let world = world.crash().await;
    drop(under_way);
    let sums = month(&world, &limits).await;
    assert_eq!(sums.charged, 20);
    assert!(sums.unaccounted >= 1, "{sums:?}");
    // Whoever ends in order leaves nothing behind.
    let before = sums.unaccounted;
    served(&world.tenant(&limits)).await.unwrap();
    let world = world.restart().await;
    let sums = month(&world, &limits).await;
    assert_eq!((sums.charged, sums.unaccounted), (21, before));
}

#[tokio::test]
async fn a_tenant_that_is_quiet_for_long_is_forgotten_here_and_known_in_the_store() {
    let world = World::start();
    let tenant = world.tenant(&limited(3));
    for _ in 0..2 {
        served(&tenant).await.unwrap();
    }
    let book = &tenant.quota.book;
    let at = |n| clock::instant() + Duration::from_secs(n);
    let [seven, nine, eleven] = [7, 9, 11].map(at);
    assert!(book.rests(seven) && !book.rests(nine));
    // It went to sleep again since, and then something is under way.
    assert_eq!(book.forget(seven), Some(nine));
    world.quotas.survey(slice::from_ref(&tenant.quota)).await;
    while !book.sleeps() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let held = tenant.admit().await.unwrap();
    assert_eq!((book.forget(nine), book.is_active()), (None, true));
    drop(held);
    assert!(book.rests(eleven));
    assert_eq!((book.forget(eleven), book.is_active()), (None, false));
    served(&tenant).await.unwrap();
    assert_eq!(policy(served(&tenant).await.unwrap_err()), Policy::Daily);
}
