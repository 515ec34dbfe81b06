//! Several nodes on one Redis: what they admit together, and what while it is away.

use super::*;
use crate::quota::redis::SubjectOp;
use crate::store::{
    Backend, StateSettings,
    redis::{Script, server::RedisServer},
};

/// Gateways that share a Redis, each with its own memory and connection.
struct Nodes {
    server: RedisServer,
    nodes: Vec<Node>,
}

struct Node {
    quotas: Quotas,
    store: Store,
    keeper: JoinHandle<()>,
}

impl Nodes {
    async fn start(count: u16, away: OnStoreFailure) -> Self {
        let server = RedisServer::start();
        let mut nodes = Vec::new();
        for _ in 0..count {
            nodes.push(Node::start(&server, count, away).await);
        }
        Self { server, nodes }
    }

    fn tenants(&self, limits: &Limits) -> Vec<Tenant> {
        let nodes = self.nodes.iter();
        nodes.map(|node| node.tenant(limits)).collect()
    }

    /// All of them ask at once, in turns, until each has asked so often; how many were served.
    async fn rush(&self, limits: &Limits, times: usize) -> usize {
        let tenants = self.tenants(limits);
        let tasks =
            tenants.iter().cycle().take(times).cloned().map(|tenant| {
                TaskTracker::new().spawn(async move { served(&tenant).await.is_ok() })
            });
        let served = join_all(tasks.collect::<Vec<_>>()).await.into_iter();
        served.filter(|served| *served.as_ref().unwrap()).count()
    }
}

impl Node {
    async fn start(server: &RedisServer, nodes: u16, away: OnStoreFailure) -> Self {
        let redis = RedisSettings {
            timeout: Duration::from_millis(500),
            nodes,
            on_store_failure: away,
            ..RedisSettings::of_test(&server.url())
        };
        let settings = StateSettings {
            key: KEY.into(),
            backend: Backend::Redis(Box::new(redis)),
        };
        let store = Store::open(&settings).await.unwrap();
        let (quotas, keeper) = Quotas::open(store.clone(), PseudonymKey::derive(&KEY));
        let keeper = TaskTracker::new().spawn(keeper.run(|_, _| {}));
        Self {
            quotas,
            store,
            keeper,
        }
    }

    fn tenant(&self, limits: &Limits) -> Tenant {
        let limits = Arc::new(limits.clone());
        let quota = self.quotas.of(&"acme".try_into().unwrap(), &limits);
        Tenant { quota, limits }
    }
}

const FOUR: u16 = 4;

#[tokio::test(flavor = "multi_thread")]
async fn nodes_together_admit_exactly_the_limit() {
    let nodes = Nodes::start(FOUR, OnStoreFailure::Lease).await;
    let first = nodes.rush(&limited(100), 400).await;
    assert!(first <= 100, "{first}");
    // What one of them holds and does not use comes back to the others.
    let mut all = first;
    let tenants = nodes.tenants(&limited(100));
    let began = clock::instant();
    while all < 100 && began.elapsed() < Duration::from_secs(30) {
        for tenant in &tenants {
            all += usize::from(served(tenant).await.is_ok());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(all, 100, "{first} at first");
    assert_eq!(nodes.rush(&limited(100), 40).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_on_redis_admits_exactly_the_limit() {
    let nodes = Nodes::start(1, OnStoreFailure::Lease).await;
    for round in 0..20 {
        let limits = Arc::new(limited(100));
        let name = format!("tenant-{round}");
        let quota = nodes.nodes[0]
            .quotas
            .of(&name.as_str().try_into().unwrap(), &limits);
        let tenant = Tenant { quota, limits };
        let tasks = (0..200).map(|_| {
            let tenant = tenant.clone();
            TaskTracker::new().spawn(async move { served(&tenant).await.is_ok() })
        });
        let served = join_all(tasks).await.into_iter();
        assert_eq!(
            served.filter(|s| *s.as_ref().unwrap()).count(),
            100,
            "round {round}"
        );
    }
}

fn per_second(count: u32, burst: u32) -> Limits {
    let rate = Rate {
        count: NonZeroU32::new(count).unwrap(),
        period: Duration::from_secs(1),
        burst: NonZeroU32::new(burst).unwrap(),
    };
    Limits {
        rate: Some(rate),
        ..none()
    }
}

/// Each node asks as fast as it can for so long; when each request was let through.
async fn hammer(tenants: Vec<Tenant>, time: Duration) -> Vec<Duration> {
    let began = clock::instant();
    let tasks = tenants.into_iter().map(|tenant| {
        TaskTracker::new().spawn(async move {
            let mut admitted = Vec::new();
            while began.elapsed() < time {
                // Before the question: no later than it was let through.
                let asked = began.elapsed();
                if tenant.admit().await.is_ok() {
                    admitted.push(asked);
                } else {
                    tokio::time::sleep(Duration::from_micros(300)).await;
                }
            }
            admitted
        })
    });
    let all = join_all(tasks).await.into_iter();
    let mut all: Vec<Duration> = all.flat_map(Result::unwrap).collect();
    all.sort_unstable();
    all
}

/// The most in any stretch of a second.
fn most_in_a_second(admitted: &[Duration]) -> usize {
    let mut first = 0;
    let mut most = 0;
    for (last, time) in admitted.iter().enumerate() {
        while time.saturating_sub(admitted[first]) > Duration::from_secs(1) {
            first += 1;
        }
        most = most.max(last - first + 1);
    }
    most
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_together_keep_to_one_rate() {
    let nodes = Nodes::start(FOUR, OnStoreFailure::Lease).await;
    let time = Duration::from_secs(3);
    let admitted = hammer(nodes.tenants(&per_second(500, 100)), time).await;
    let most = most_in_a_second(&admitted);
    // A few more for the time that passes between asking and being let through.
    assert!(most <= 600 + 20, "{most} in a second");
    assert!(
        admitted.len() >= 1200,
        "{} in three seconds",
        admitted.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn most_requests_of_a_node_need_no_round_trip() {
    let nodes = Nodes::start(1, OnStoreFailure::Lease).await;
    let [node] = &nodes.nodes[..] else { panic!() };
    let limits = Limits {
        daily: Some(1_000_000),
        monthly: Some(10_000_000),
        ..per_second(10_000, 10_000)
    };
    let tenant = node.tenant(&limits);
    let before = node.store.redis().unwrap().round_trips();
    let (mut served_all, began) = (0_u64, clock::instant());
    while began.elapsed() < Duration::from_secs(2) {
        // Twenty each ten milliseconds: 2,000 a second.
        for _ in 0..20 {
            served(&tenant).await.unwrap();
            served_all += 1;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let trips = node.store.redis().unwrap().round_trips() - before;
    assert!(trips * 50 <= served_all, "{trips} for {served_all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_together_have_so_many_at_a_time() {
    let nodes = Nodes::start(2, OnStoreFailure::Lease).await;
    let concurrency = NonZeroU32::new(10);
    let tenants = nodes.tenants(&Limits {
        concurrency,
        ..none()
    });
    let mut held = Vec::new();
    for _ in 0..200 {
        for tenant in &tenants {
            held.extend(tenant.admit().await.ok());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(held.len(), 10);
    // All of it can be had by one of them, when the other has let go.
    held.clear();
    let began = clock::instant();
    while held.len() < 10 && began.elapsed() < Duration::from_secs(20) {
        held.extend(tenants[0].admit().await.ok());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(held.len(), 10);
    assert!(tenants[1].admit().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_loses_what_it_held_and_no_more_is_admitted() {
    let mut nodes = Nodes::start(2, OnStoreFailure::Lease).await;
    let limits = limited(1000);
    let mut all = nodes.rush(&limits, 200).await;
    let killed = nodes.nodes.pop().unwrap();
    killed.keeper.abort();
    drop(killed);
    loop {
        let more = nodes.rush(&limits, 200).await;
        if more == 0 {
            break;
        }
        all += more;
    }
    assert!((800..=1000).contains(&all), "{all}");
}

/// What two nodes admit of a day of 1,000 while Redis stands still, after 200 were used.
/// Returns what it was, and all of the day's.
async fn while_away(away: OnStoreFailure) -> (usize, usize) {
    let nodes = Nodes::start(2, away).await;
    let before = nodes.rush(&limited(1000), 200).await;
    assert_eq!(before, 200);
    // Each node looks once more, and puts back what it does not use.
    tokio::time::sleep(Duration::from_secs(4)).await;
    nodes.server.signal("STOP");
    let began = clock::instant();
    let during = nodes.rush(&limited(1000), 4000).await;
    let quick = began.elapsed() < Duration::from_secs(10);
    nodes.server.signal("CONT");
    let began = clock::instant();
    let mut after = 0;
    while began.elapsed() < Duration::from_secs(9) {
        after += nodes.rush(&limited(1000), 50).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let all = before + during + after;
    assert!(quick, "it took {:?}", began.elapsed());
    assert!(all >= 990, "{before} {during} {after}");
    (during, all)
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_nodes_go_on_within_what_was_left() {
    let (during, all) = while_away(OnStoreFailure::Lease).await;
    // Both together have what was left; one of them may find out late that it is to use its part.
    assert!((390..=800).contains(&during), "{during}");
    assert!(all <= 1000, "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_nodes_may_each_have_their_part_of_the_whole() {
    let (during, all) = while_away(OnStoreFailure::LocalShare).await;
    // Whoever had less than its part by then has that part now.
    assert!((390..=900).contains(&during), "{during}");
    assert!(all <= 1100, "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_nobody_is_let_through_where_that_is_wanted() {
    let (during, all) = while_away(OnStoreFailure::Refuse).await;
    assert_eq!(during, 0);
    assert!(all <= 1000, "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_redis_has_lost_is_made_good_by_what_nodes_have_seen() {
    let mut nodes = Nodes::start(2, OnStoreFailure::Lease).await;
    let limits = limited(1000);
    let mut all = nodes.rush(&limits, 600).await;
    nodes.server.kill();
    nodes.server.forget();
    nodes.server.run();
    let began = clock::instant();
    while began.elapsed() < Duration::from_secs(12) {
        all += nodes.rush(&limits, 100).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Each had its part of what was left when it last looked: at the worst the first of 600.
    assert!((950..=1300).contains(&all), "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_user_has_one_rate_and_one_day_on_all_nodes() {
    let nodes = Nodes::start(2, OnStoreFailure::Lease).await;
    let per_subject = SubjectLimits {
        rate: per_hour(30).rate,
        daily: Some(20),
    };
    let limits = Limits {
        per_subject,
        ..none()
    };
    assert_eq!(nodes.rush(&limits, 25).await, 20);
    let tenants = nodes.tenants(&limits);
    // Five were let through by the rate and refused by the day; five more are left.
    for round in 0..5 {
        let refused = served(&tenants[round % 2]).await.unwrap_err();
        assert_eq!(policy(refused), Policy::SubjectDaily);
    }
    for tenant in &tenants {
        assert_eq!(
            policy(served(tenant).await.unwrap_err()),
            Policy::SubjectRate
        );
    }
    let standings = tenants[0].quota.standings(Some("ann"), &tenants[0].limits);
    assert!(
        standings.iter().all(|standing| standing.left == 0),
        "{standings:?}"
    );
    // Another one of the same tenant is not concerned.
    let limits = &tenants[0].limits;
    let bob = tenants[0].quota.admit(Some("bob"), limits, tariff()).await;
    drop(bob.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_did_nothing_is_given_back_to_an_end_user_on_all_nodes() {
    let nodes = Nodes::start(2, OnStoreFailure::Lease).await;
    let per_subject = SubjectLimits {
        rate: None,
        daily: Some(1),
    };
    let limits = Limits {
        per_subject,
        ..none()
    };
    let tenants = nodes.tenants(&limits);
    drop(charged(&tenants[0], 1).await.unwrap());
    let began = clock::instant();
    let served = loop {
        match served(&tenants[1]).await {
            // It comes back behind the request.
            Err(_) if began.elapsed() < Duration::from_secs(5) => {}
            served => break served,
        }
    };
    served.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_an_end_user_goes_on_from_what_was_known() {
    let nodes = Nodes::start(1, OnStoreFailure::Lease).await;
    let per_subject = SubjectLimits {
        rate: None,
        daily: Some(10),
    };
    let limits = Limits {
        per_subject,
        ..none()
    };
    assert_eq!(nodes.rush(&limits, 4).await, 4);
    nodes.server.signal("STOP");
    assert_eq!(nodes.rush(&limits, 20).await, 6);
    nodes.server.signal("CONT");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_counts_once_on_all_nodes_and_the_month_has_what_all_of_them_did() {
    let nodes = Nodes::start(2, OnStoreFailure::Lease).await;
    let limits = Limits {
        monthly: Some(10),
        ..none()
    };
    let tenants = nodes.tenants(&limits);
    let mut all = nodes.rush(&limits, 30).await;
    let id = "ticket-1".try_into().unwrap();
    let grant = Grant::new("monthly", 5, Some(&id)).unwrap();
    assert_eq!(tenants[0].quota.grant(grant).await, Ok(true));
    assert_eq!(tenants[1].quota.grant(grant).await, Ok(false));
    let began = clock::instant();
    while all < 15 && began.elapsed() < Duration::from_secs(20) {
        all += nodes.rush(&limits, 2).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(all, 15);
    assert_eq!(nodes.rush(&limits, 10).await, 0);
    // What the other node has to say is written down when it is looked at.
    assert!(
        nodes.nodes[1]
            .quotas
            .survey(&[tenants[1].quota.clone()])
            .await
    );
    let first = limits.calendar.month(clock::now()).first;
    let wanted = Wanted {
        tenant: "acme".try_into().unwrap(),
        firsts: vec![first],
    };
    let months = nodes.nodes[0].quotas.months(vec![wanted]).await.unwrap();
    let sums = months[0].0[0].unwrap();
    assert_eq!((sums.charged, sums.granted, sums.unaccounted), (15, 5, 0));
    let creations = sums.services.of(Operation::CreateOrUpdateCustomer);
    assert_eq!((creations.calls, creations.succeeded), (15, 15));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_users_day_begins_once_whatever_nodes_take_it_to_be() {
    use jiff::civil::date;
    let nodes = Nodes::start(1, OnStoreFailure::Lease).await;
    let server = nodes.nodes[0].store.redis().unwrap();
    let tenant = "acme".try_into().unwrap();
    let name = PseudonymKey::derive(&KEY).pseudonym(Purpose::Subject, &tenant, b"ann");
    let ask = async |day, units| {
        let op = SubjectOp {
            rate: None,
            day: Some((day, 3, units)),
        };
        let told = redis::subject(server, &tenant, name, &op).await.unwrap();
        (told.allowed, told.used)
    };
    let (before, after) = (date(2026, 11, 30), date(2026, 12, 1));
    assert_eq!(ask(before, 3).await, (true, 3));
    // A new day, of which nothing is given back that was taken before.
    assert_eq!(ask(after, 2).await, (true, 2));
    ask(before, -1).await;
    assert_eq!(ask(after, 1).await, (true, 3));
    // Nor does a node whose clock is behind begin it anew.
    assert_eq!(ask(before, 1).await, (false, 3));
    assert_eq!(ask(after, 1).await, (false, 3));
    // A clock that is a year off does not stop anybody for a year.
    assert_eq!(ask(date(2027, 12, 1), 1).await, (true, 1));
    assert_eq!(ask(after, 1).await, (true, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_end_users_are_given_back_keeps_no_other_tenant_waiting() {
    let nodes = Nodes::start(1, OnStoreFailure::Lease).await;
    let per_subject = SubjectLimits {
        rate: None,
        daily: Some(1_000_000),
    };
    let busy = nodes.nodes[0].tenant(&Limits {
        per_subject,
        ..none()
    });
    let mut given = Vec::new();
    // Not so many at once that a busy machine does not answer them in time.
    for _ in 0..20 {
        let admissions = (0..200).map(|_| charged(&busy, 1));
        for admission in join_all(admissions).await {
            given.push(admission.unwrap());
        }
    }
    drop(given);
    let limits = Arc::new(limited(10));
    let other = nodes.nodes[0]
        .quotas
        .of(&"other".try_into().unwrap(), &limits);
    let other = Tenant {
        quota: other,
        limits,
    };
    let began = clock::instant();
    served(&other).await.unwrap();
    let waited = began.elapsed();
    assert!(waited < Duration::from_millis(100), "{waited:?}");
    // And all of it is told before the process ends.
    nodes.nodes[0].quotas.close().await;
    let standings = busy.quota.standings(Some("ann"), &busy.limits);
    assert_eq!(standings[0].used, 0);
}

static SET_BACK: Script = Script::new(
    "redis.call('HSET', KEYS[1], 'v', 1)\n\
     return redis.call('HINCRBY', KEYS[1], 'r', -300)",
);

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_given_at_first_of_a_redis_that_comes_back_with_older_data() {
    let nodes = Nodes::start(2, OnStoreFailure::Lease).await;
    let limits = limited(1000);
    assert_eq!(nodes.rush(&limits, 600).await, 600);
    // All that is held is put back.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let day = limits.calendar.day(clock::now()).first;
    let server = nodes.nodes[0].store.redis().unwrap();
    let key = format!("{}quota:{{acme}}:day:{day}", server.prefix()).into_bytes();
    server.invoke(&SET_BACK, &[key], &[]).await.unwrap();
    let began = clock::instant();
    let mut all = 600;
    while began.elapsed() < Duration::from_secs(2) {
        all += nodes.rush(&limits, 20).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(all, 600);
    while began.elapsed() < Duration::from_secs(12) {
        all += nodes.rush(&limits, 100).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The highest count that a node has seen stands, with what another held by then.
    assert!((700..=1000).contains(&all), "{all}");
}
