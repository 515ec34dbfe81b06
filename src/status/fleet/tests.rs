//! Several gateways on a real Redis.

use futures_util::future::join_all;
use tokio::{task::JoinHandle, time::sleep};
use tokio_util::task::TaskTracker;

use super::*;
use crate::store::redis::{
    server::RedisServer,
    settings::{Login, Mode, Password, RedisSettings},
};

const KEY: [u8; 32] = [3; 32];
const LAG: Duration = Duration::from_millis(400);
const MINUTE: Duration = Duration::from_mins(1);
const NOW: Duration = Duration::ZERO;

/// One gateway's part of the fleet, and what it has heard.
struct Node {
    fleet: Arc<Fleet>,
    heard: Arc<Mutex<Vec<Heard>>>,
    following: JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.following.abort();
    }
}

impl Node {
    /// One that is in touch.
    async fn start(server: &RedisServer) -> Self {
        let node = Self::follow(fleet(server, MINUTE).await);
        node.in_touch().await;
        node
    }

    fn follow(fleet: Fleet) -> Self {
        let fleet = Arc::new(fleet);
        let heard = Arc::<Mutex<Vec<Heard>>>::default();
        let (own, told) = (Arc::clone(&fleet), Arc::clone(&heard));
        let following = TaskTracker::new().spawn(async move {
            let act = |heard| told.lock().unwrap().push(heard);
            own.follow(|| LAG, act).await;
        });
        Self {
            fleet,
            heard,
            following,
        }
    }

    async fn in_touch(&self) {
        until(|| self.fleet.is_in_touch(clock::instant(), LAG)).await;
    }

    /// Waits until it knows all that was announced before, and takes what it has heard.
    async fn heard(&self) -> Vec<Heard> {
        let asked = clock::instant();
        until(|| self.fleet.is_in_touch(asked, NOW)).await;
        std::mem::take(&mut *self.heard.lock().unwrap())
    }
}

async fn until(holds: impl Fn() -> bool) {
    let began = clock::instant();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(20), "not so");
        sleep(Duration::from_millis(1)).await;
    }
}

fn settings(server: &RedisServer) -> RedisSettings {
    RedisSettings::of_test(&server.url())
}

async fn fleet(server: &RedisServer, horizon: Duration) -> Fleet {
    fleet_with(&settings(server), horizon).await
}

async fn fleet_with(settings: &RedisSettings, horizon: Duration) -> Fleet {
    let redis = Redis::connect(settings).await.unwrap();
    Fleet::new(redis, &KEY, PseudonymKey::derive(&KEY), horizon)
}

fn tenant(name: &str) -> TenantId {
    name.try_into().unwrap()
}

fn acme() -> TenantId {
    tenant("acme")
}

fn customer_of(tenant: &TenantId, email: &str) -> StatusKey {
    let account = "main".try_into().unwrap();
    StatusKey::new(&PseudonymKey::derive(&KEY), tenant, &account, email)
}

fn customer(email: &str) -> StatusKey {
    customer_of(&acme(), email)
}

fn learnt(value: &[u8]) -> Learnt<'_> {
    Learnt {
        value,
        age: NOW,
        ttl: MINUTE,
    }
}

fn settled(value: &[u8]) -> End<'_> {
    End::Settled(Some(learnt(value)))
}

async fn begin(fleet: &Fleet, of: StatusKey) -> Write {
    let write = fleet.begin(&acme(), of).await;
    assert!(write.is_told());
    write
}

async fn write(fleet: &Fleet, of: StatusKey, value: &[u8]) {
    let begun = begin(fleet, of).await;
    fleet.end(begun, settled(value)).await;
}

/// What it owes it will not say, as if its process had ended.
fn gone(fleet: &Fleet) {
    owed(&fleet.owed).writes.clear();
}

/// What is kept of a customer.
async fn kept(fleet: &Fleet, of: StatusKey) -> Option<Vec<u8>> {
    let seen = fleet.look_up(&acme(), of).await.unwrap();
    seen.value.map(|(value, _)| value)
}

/// What is heard in one go, by one who knows the log up to `position`.
async fn hear(fleet: &Fleet, position: &mut Position) -> Vec<Heard> {
    let heard = Mutex::new(Vec::new());
    let act = |told| heard.lock().unwrap().push(told);
    while matches!(fleet.hear(position, LAG, &act).await.unwrap(), Answer::More) {}
    heard.into_inner().unwrap()
}

#[tokio::test]
async fn what_a_gateway_does_is_heard_by_the_others_in_order() {
    let server = RedisServer::start();
    let (one, two) = (Node::start(&server).await, Node::start(&server).await);
    for node in [&one, &two] {
        assert_eq!(node.heard().await, [Heard::Everything]);
    }
    let [a, b, c] = ["a", "b", "c"].map(customer);
    let first = begin(&one.fleet, a).await;
    let second = begin(&one.fleet, b).await;
    let tokens = [first.token, second.token];
    one.fleet.end(second, End::Unknown).await;
    one.fleet.end(first, End::Settled(None)).await;
    assert!(!one.fleet.forget(&acme(), c).await.unwrap());
    one.fleet.forget_tenant(&acme()).await.unwrap();
    let heard = two.heard().await;
    let [
        Heard::Begun(of_0, token_0, time_0),
        Heard::Begun(of_1, token_1, time_1),
        Heard::Begun(of_2, token_2, time_2),
        Heard::Ended(of_3, token_3),
        Heard::Ended(of_4, _),
        Heard::TenantForgotten(name),
    ] = heard.as_slice()
    else {
        panic!("{heard:?}");
    };
    assert_eq!([*of_0, *of_1, *of_2, *of_3, *of_4], [a, b, b, a, c]);
    let told = [*token_0, *token_1, *token_2, *token_3];
    assert_eq!(told, [tokens[0], tokens[1], tokens[1], tokens[0]]);
    assert!(*time_0 > MINUTE && *time_1 > MINUTE && *time_2 <= MINUTE);
    assert_eq!(*name, two.fleet.name_of(&acme()));
    // Whoever did it needs not be told.
    assert_eq!(one.heard().await, []);
}

#[tokio::test]
async fn nothing_counts_as_known_before_it_is_acted_on() {
    let server = RedisServer::start();
    let fleet = Arc::new(fleet(&server, MINUTE).await);
    let (own, early) = (Arc::clone(&fleet), Arc::new(Mutex::new(Vec::new())));
    let told = Arc::clone(&early);
    let following = TaskTracker::new().spawn(async move {
        let act = |_| {
            let known = own.heard.load(Ordering::Acquire);
            told.lock()
                .unwrap()
                .push((known, own.is_in_touch(clock::instant(), NOW)));
        };
        own.follow(|| LAG, act).await;
    });
    until(|| fleet.is_in_touch(clock::instant(), LAG)).await;
    assert_eq!(*early.lock().unwrap(), [(0, false)]);
    following.abort();
}

#[tokio::test]
async fn more_than_a_page_is_heard_in_order() {
    let server = RedisServer::start();
    let (one, two) = (fleet(&server, MINUTE).await, fleet(&server, MINUTE).await);
    let mut position = Position::default();
    assert_eq!(hear(&two, &mut position).await, [Heard::Everything]);
    let all: Vec<_> = (0..PAGE * 2 + 7)
        .map(|n| customer(&n.to_string()))
        .collect();
    for of in &all {
        one.forget(&acme(), *of).await.unwrap();
    }
    let heard = hear(&two, &mut position).await;
    let heard: Vec<_> = heard
        .into_iter()
        .map(|heard| match heard {
            Heard::Ended(of, _) => of,
            Heard::Begun(..) | Heard::TenantForgotten(_) | Heard::Everything => panic!("{heard:?}"),
        })
        .collect();
    assert_eq!(heard, all);
    assert_eq!(hear(&two, &mut position).await, []);
}

#[tokio::test]
async fn who_is_behind_by_more_than_the_log_has_forgets_everything() {
    let server = RedisServer::start();
    let (one, two) = (fleet(&server, MINUTE).await, fleet(&server, MINUTE).await);
    let (mut near, mut far) = (Position::default(), Position::default());
    hear(&two, &mut far).await;
    one.forget(&acme(), customer("a")).await.unwrap();
    hear(&two, &mut near).await;
    let tenant = acme();
    for _ in 0..64 {
        let some = (0..128).map(|_| one.forget(&tenant, customer("a")));
        for told in join_all(some).await {
            told.unwrap();
        }
    }
    assert_eq!(hear(&two, &mut near).await.len(), 8192);
    assert_eq!(hear(&two, &mut far).await, [Heard::Everything]);
    assert_eq!(hear(&two, &mut far).await, []);
}

#[tokio::test]
async fn what_is_not_understood_is_everything() {
    let server = RedisServer::start();
    let (one, two) = (fleet(&server, MINUTE).await, fleet(&server, MINUTE).await);
    let mut position = Position::default();
    hear(&two, &mut position).await;
    one.forget(&acme(), customer("a")).await.unwrap();
    server.cli(&["HINCRBY", "dcams-gateway:{cache}:head", "seq", "1"]);
    server.cli(&["RPUSH", "dcams-gateway:{cache}:log", "?of a newer version"]);
    let heard = hear(&two, &mut position).await;
    assert_eq!(heard.last(), Some(&Heard::Everything), "{heard:?}");
    assert_eq!(hear(&two, &mut position).await, []);
}

#[tokio::test]
async fn what_one_gateway_learns_is_told_by_another_with_its_age() {
    let server = RedisServer::start();
    let (one, two) = (fleet(&server, MINUTE).await, fleet(&server, MINUTE).await);
    let of = customer("a");
    let seen = one.look_up(&acme(), of).await.unwrap();
    assert!(seen.value.is_none() && !seen.is_in_doubt);
    let old = Learnt {
        age: Duration::from_secs(7),
        ..learnt(b"PASS")
    };
    assert!(one.keep(&acme(), of, &seen, old).await.unwrap());
    let (value, age) = two.look_up(&acme(), of).await.unwrap().value.unwrap();
    assert_eq!(value, b"PASS");
    assert!((7..9).contains(&age.as_secs()), "{age:?}");
    // Who has read earlier does not replace what was read later.
    let older = Learnt {
        age: Duration::from_secs(20),
        ..learnt(b"FAIL")
    };
    assert!(!two.keep(&acme(), of, &seen, older).await.unwrap());
    assert!(two.keep(&acme(), of, &seen, learnt(b"FAIL")).await.unwrap());
    assert_eq!(kept(&one, of).await.unwrap(), b"FAIL");
    // A write brings its own.
    write(&two, of, b"PENDING").await;
    assert_eq!(kept(&one, of).await.unwrap(), b"PENDING");
    assert!(one.forget(&acme(), of).await.unwrap());
    assert_eq!(kept(&two, of).await, None);
    assert!(!one.forget(&acme(), of).await.unwrap());
}

#[tokio::test]
async fn nothing_is_kept_of_a_read_during_which_something_happened() {
    let server = RedisServer::start();
    let (one, two) = (fleet(&server, MINUTE).await, fleet(&server, MINUTE).await);
    for (number, happened) in ["begun", "ended", "unknown", "customer", "tenant", "all"]
        .into_iter()
        .enumerate()
    {
        let of = customer(happened);
        if number % 2 > 0 {
            write(&one, of, b"before").await;
        }
        let seen = two.look_up(&acme(), of).await.unwrap();
        let mut open = None;
        match happened {
            "begun" => open = Some(begin(&one, of).await),
            "ended" => one.end(begin(&one, of).await, End::Settled(None)).await,
            "unknown" => one.end(begin(&one, of).await, End::Unknown).await,
            "customer" => drop(one.forget(&acme(), of).await.unwrap()),
            "tenant" => one.forget_tenant(&acme()).await.unwrap(),
            _ => {
                owed(&one.owed).everything = true;
                one.pay().await.unwrap();
            }
        }
        assert!(
            !two.keep(&acme(), of, &seen, learnt(b"x")).await.unwrap(),
            "{happened}"
        );
        assert_eq!(kept(&two, of).await, None, "{happened}");
        let doubt = matches!(happened, "begun" | "unknown");
        let seen = two.look_up(&acme(), of).await.unwrap();
        assert_eq!(seen.is_in_doubt, doubt, "{happened}");
        let kept = two.keep(&acme(), of, &seen, learnt(b"x")).await.unwrap();
        assert_eq!(kept, !doubt, "{happened}");
        if let Some(open) = open {
            one.end(open, settled(b"after")).await;
            let seen = two.look_up(&acme(), of).await.unwrap();
            assert_eq!(seen.value.unwrap().0, b"after");
        }
    }
}

#[tokio::test]
async fn writes_at_the_same_time_teach_nothing_in_whatever_order_they_end() {
    let server = RedisServer::start();
    let (one, two) = (fleet(&server, MINUTE).await, fleet(&server, MINUTE).await);
    for last_in_first_out in [true, false] {
        let of = customer(if last_in_first_out { "a" } else { "b" });
        let first = begin(&one, of).await;
        let second = begin(&two, of).await;
        let (sooner, later) = if last_in_first_out {
            ((&two, second), (&one, first))
        } else {
            ((&one, first), (&two, second))
        };
        sooner.0.end(sooner.1, settled(b"sooner")).await;
        let seen = one.look_up(&acme(), of).await.unwrap();
        assert!(seen.is_in_doubt && seen.value.is_none());
        later.0.end(later.1, settled(b"later")).await;
        let seen = one.look_up(&acme(), of).await.unwrap();
        assert!(!seen.is_in_doubt && seen.value.is_none());
        // The next one does.
        write(&two, of, b"next").await;
        assert_eq!(kept(&one, of).await.unwrap(), b"next");
    }
}

#[tokio::test]
async fn an_end_that_is_told_twice_ends_no_other_write() {
    let server = RedisServer::start();
    let (one, two) = (fleet(&server, MINUTE).await, fleet(&server, MINUTE).await);
    let of = customer("a");
    let (first, second) = (begin(&one, of).await, begin(&two, of).await);
    let token = first.token;
    one.end(first, End::Settled(None)).await;
    one.say_ended(token, of, Owing::Settled, None)
        .await
        .unwrap();
    assert!(two.look_up(&acme(), of).await.unwrap().is_in_doubt);
    two.end(second, End::Settled(None)).await;
    assert!(!two.look_up(&acme(), of).await.unwrap().is_in_doubt);
}

#[tokio::test]
async fn a_write_that_nobody_ends_leaves_a_doubt_which_ends_by_itself() {
    let horizon = Duration::from_millis(500);
    let server = RedisServer::start();
    let (one, two) = (fleet(&server, horizon).await, fleet(&server, horizon).await);
    let of = customer("a");
    let began = clock::instant();
    let token = begin(&one, of).await.token;
    gone(&one);
    // Who comes later is told too.
    let heard = hear(&two, &mut Position::default()).await;
    let [Heard::Everything, Heard::Begun(whom, told, time)] = heard.as_slice() else {
        panic!("{heard:?}");
    };
    assert_eq!((*whom, *told), (of, token));
    assert!(*time > horizon && *time <= horizon * 2, "{time:?}");
    // Another write that overlaps it teaches nothing, also when the doubt is over.
    write(&two, of, b"other").await;
    while two.look_up(&acme(), of).await.unwrap().is_in_doubt {
        sleep(Duration::from_millis(5)).await;
    }
    let lasted = began.elapsed();
    assert!(lasted >= horizon * 2, "{lasted:?}");
    assert_eq!(kept(&two, of).await, None);
    write(&two, of, b"next").await;
    assert_eq!(kept(&one, of).await.unwrap(), b"next");
    let heard = hear(&two, &mut Position::default()).await;
    assert_eq!(heard, [Heard::Everything]);
    // The end that comes after all ends nothing and teaches nothing.
    one.say_ended(token, of, Owing::Settled, None)
        .await
        .unwrap();
    assert_eq!(kept(&one, of).await, None);
}

#[tokio::test]
async fn a_write_that_is_dropped_is_one_of_unknown_outcome() {
    let server = RedisServer::start();
    let (one, two) = (Node::start(&server).await, Node::start(&server).await);
    two.heard().await;
    drop(begin(&one.fleet, customer("a")).await);
    one.heard().await;
    let heard = two.heard().await;
    let [Heard::Begun(_, first, _), Heard::Begun(_, second, time)] = heard.as_slice() else {
        panic!("{heard:?}");
    };
    assert!(first == second && *time <= MINUTE, "{heard:?}");
    assert!(owed(&one.fleet.owed).writes.is_empty());
}

#[tokio::test]
async fn a_forgotten_tenants_values_are_unreadable_and_no_other_ones() {
    let server = RedisServer::start();
    let one = fleet(&server, MINUTE).await;
    let other = tenant("other");
    let theirs = customer_of(&other, "a");
    let begun = one.begin(&other, theirs).await;
    one.end(begun, settled(b"theirs")).await;
    let ours = customer("a");
    write(&one, ours, b"ours").await;
    let begun = begin(&one, customer("b")).await;
    one.forget_tenant(&acme()).await.unwrap();
    assert_eq!(kept(&one, ours).await, None);
    one.end(begun, settled(b"begun before")).await;
    assert_eq!(kept(&one, customer("b")).await, None);
    let seen = one.look_up(&other, theirs).await.unwrap();
    assert_eq!(seen.value.unwrap().0, b"theirs");
}

static COPY: Script = Script::new(
    "for _, field in ipairs({ 'v', 's', 'e', 'x' }) do
       redis.call('HSET', KEYS[2], field, redis.call('HGET', KEYS[1], field))
     end
     return redis.call('HINCRBY', KEYS[2], 's', ARGV[1])",
);

#[tokio::test]
async fn a_value_is_told_of_its_customer_and_as_old_as_it_is_or_not_at_all() {
    let server = RedisServer::start();
    let one = fleet(&server, MINUTE).await;
    let other = tenant("other");
    write(&one, customer("a"), b"PASS").await;
    let copy = async |to: StatusKey, younger: &str| {
        let [.., from] = one.keys(customer("a"));
        let [.., to] = one.keys(to);
        let args = [younger.as_bytes().to_vec()];
        one.redis.invoke(&COPY, &[from, to], &args).await.unwrap();
    };
    copy(customer("a"), "0").await;
    assert_eq!(kept(&one, customer("a")).await.unwrap(), b"PASS");
    copy(customer("b"), "0").await;
    assert_eq!(kept(&one, customer("b")).await, None);
    copy(customer_of(&other, "a"), "0").await;
    let seen = one.look_up(&other, customer_of(&other, "a")).await;
    assert!(seen.unwrap().value.is_none());
    // Asked for by the wrong tenant.
    let seen = one.look_up(&other, customer("a")).await;
    assert!(seen.unwrap().value.is_none());
    copy(customer("a"), "1").await;
    assert_eq!(kept(&one, customer("a")).await, None);
}

#[tokio::test]
async fn what_redis_could_not_take_is_told_when_it_is_back() {
    let server = RedisServer::start();
    let (one, two) = (Node::start(&server).await, Node::start(&server).await);
    let [a, b, c] = ["a", "b", "c"].map(customer);
    write(&two.fleet, a, b"before").await;
    two.heard().await;
    server.signal("STOP");
    let began = clock::instant();
    let settled_later = one.fleet.begin(&acme(), a).await;
    let open = one.fleet.begin(&acme(), b).await;
    let unknown = one.fleet.begin(&acme(), c).await;
    assert!(!settled_later.is_told() && !open.is_told());
    let tokens = [settled_later.token, open.token, unknown.token];
    one.fleet.end(settled_later, settled(b"after")).await;
    one.fleet.end(unknown, End::Unknown).await;
    one.fleet.forget(&acme(), customer("d")).await.unwrap_err();
    one.fleet.forget_tenant(&tenant("gone")).await.unwrap_err();
    // One was waited for.
    assert!(began.elapsed() < Duration::from_secs(4));
    until(|| !one.fleet.is_in_touch(clock::instant(), LAG)).await;
    server.signal("CONT");
    one.in_touch().await;
    let heard = two.heard().await;
    let ended = |of| {
        let told = heard.iter();
        told.filter(move |heard| matches!(heard, Heard::Ended(whom, _) if *whom == of))
            .count()
    };
    // Some of it was in a connection, and is told twice.
    assert!(ended(a) >= 1 && ended(customer("d")) >= 1, "{heard:?}");
    let begun = |token| {
        let mut told = heard.iter();
        told.any(|heard| matches!(heard, Heard::Begun(_, of, _) if *of == token))
    };
    assert!(begun(tokens[1]) && begun(tokens[2]), "{heard:?}");
    let forgotten = Heard::TenantForgotten(two.fleet.name_of(&tenant("gone")));
    assert!(heard.contains(&forgotten), "{heard:?}");
    assert_eq!(kept(&two.fleet, a).await, None);
    assert!(two.fleet.look_up(&acme(), b).await.unwrap().is_in_doubt);
    assert!(two.fleet.look_up(&acme(), c).await.unwrap().is_in_doubt);
    one.fleet.end(open, End::Settled(None)).await;
    assert!(!two.fleet.look_up(&acme(), b).await.unwrap().is_in_doubt);
    let owed = owed(&one.fleet.owed);
    assert!(owed.writes.is_empty() && owed.tenants.is_empty());
}

#[tokio::test]
async fn a_doubt_lasts_as_long_as_the_configuration_says_by_now() {
    let server = RedisServer::start();
    let one = fleet(&server, Duration::from_hours(1)).await;
    let (a, b) = (customer("a"), customer("b"));
    one.end(begin(&one, a).await, End::Unknown).await;
    one.set_horizon(Duration::from_millis(50));
    one.end(begin(&one, b).await, End::Unknown).await;
    sleep(Duration::from_millis(110)).await;
    assert!(one.look_up(&acme(), a).await.unwrap().is_in_doubt);
    assert!(!one.look_up(&acme(), b).await.unwrap().is_in_doubt);
}

#[tokio::test]
async fn who_owes_something_believes_nothing_that_is_kept() {
    let server = RedisServer::start();
    let (one, two) = (fleet(&server, MINUTE).await, fleet(&server, MINUTE).await);
    let of = customer("a");
    write(&one, of, b"before").await;
    // Of this write Redis knows nothing yet.
    let token = one.new_token();
    owed(&one.owed).add(token, of, Owing::Settled);
    assert!(one.look_up(&acme(), of).await.is_err());
    assert_eq!(kept(&two, of).await.unwrap(), b"before");
    one.pay().await.unwrap();
    assert_eq!(kept(&one, of).await, None);
}

#[tokio::test]
async fn who_owes_too_much_has_everything_forgotten() {
    let server = RedisServer::start();
    let (one, two) = (fleet(&server, MINUTE).await, Node::start(&server).await);
    write(&one, customer("a"), b"before").await;
    two.heard().await;
    let unknown = one.new_token();
    owed(&one.owed).add(unknown, customer("b"), Owing::Unknown);
    for _ in 0..MOST_OWED {
        let token = one.new_token();
        owed(&one.owed).add(token, customer("c"), Owing::Settled);
    }
    assert_eq!(owed(&one.owed).writes.len(), 1);
    one.pay().await.unwrap();
    let heard = two.heard().await;
    assert_eq!(heard.first(), Some(&Heard::Everything));
    let told = |heard: &Heard| matches!(heard, Heard::Begun(_, token, _) if *token == unknown);
    assert!(heard.iter().any(told), "{heard:?}");
    assert_eq!(kept(&one, customer("a")).await, None);
    assert!(!owed(&one.owed).everything);
}

#[tokio::test]
async fn nobody_is_in_touch_for_longer_than_the_lag_after_redis_is_gone() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    server.signal("STOP");
    let stopped = clock::instant();
    until(|| !node.fleet.is_in_touch(clock::instant(), LAG)).await;
    let lasted = stopped.elapsed();
    assert!(lasted < LAG + Duration::from_millis(200), "{lasted:?}");
    server.signal("CONT");
    node.in_touch().await;
    // It lost nothing.
    assert_eq!(*node.heard.lock().unwrap(), [Heard::Everything]);
}

#[tokio::test]
async fn a_redis_that_was_emptied_has_everything_forgotten() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    node.heard().await;
    let of = customer("a");
    let seen = node.fleet.look_up(&acme(), of).await.unwrap();
    write(&node.fleet, of, b"before").await;
    server.cli(&["FLUSHALL"]);
    assert_eq!(node.heard().await, [Heard::Everything]);
    assert_eq!(kept(&node.fleet, of).await, None);
    let kept = node.fleet.keep(&acme(), of, &seen, learnt(b"x")).await;
    assert!(!kept.unwrap());
}

#[tokio::test]
async fn a_redis_that_was_restarted_is_believed_nothing_but_which_writes_are_under_way() {
    let mut server = RedisServer::start();
    let (one, two) = (Node::start(&server).await, Node::start(&server).await);
    let of = customer("a");
    write(&one.fleet, of, b"before").await;
    let open = begin(&one.fleet, customer("b")).await;
    let read = customer("c");
    let seen = two.fleet.look_up(&acme(), read).await.unwrap();
    one.heard().await;
    two.heard().await;
    server.kill();
    server.run();
    let heard = two.heard().await;
    let [Heard::Everything, Heard::Begun(_, token, _)] = heard.as_slice() else {
        panic!("{heard:?}");
    };
    assert_eq!(*token, open.token);
    // Own writes are not told.
    assert_eq!(one.heard().await, [Heard::Everything]);
    assert_eq!(kept(&two.fleet, of).await, None);
    let kept_it = two.fleet.keep(&acme(), read, &seen, learnt(b"x")).await;
    assert!(!kept_it.unwrap());
    // Another write may have been forgotten, so this one teaches nothing.
    one.fleet.end(open, settled(b"after")).await;
    assert!(!two.fleet.forget(&acme(), customer("b")).await.unwrap());
}

#[tokio::test]
async fn a_promoted_replica_is_believed_nothing_and_a_demoted_master_is_not_asked() {
    let master = RedisServer::start();
    let replica = RedisServer::start();
    let one = fleet(&master, MINUTE).await;
    let mut position = Position::default();
    hear(&one, &mut position).await;
    let port = master.port.to_string();
    replica.cli(&["REPLICAOF", "127.0.0.1", &port]);
    until(|| {
        master
            .cli(&["INFO", "replication"])
            .contains("state=online")
    })
    .await;
    write(&one, customer("a"), b"before").await;
    assert_eq!(kept(&one, customer("a")).await.unwrap(), b"before");
    let other = fleet(&replica, MINUTE).await;
    let told = async |fleet: &Fleet| fleet.look_up(&acme(), customer("a")).await;
    told(&other).await.err().unwrap();
    assert_eq!(master.cli(&["WAIT", "1", "5000"]), "1");
    replica.cli(&["REPLICAOF", "NO", "ONE"]);
    // It looks for the master first.
    until(|| other.redis.is_up()).await;
    let other_heard = hear(&other, &mut Position::default()).await;
    assert_eq!(other_heard, [Heard::Everything]);
    assert!(told(&other).await.unwrap().value.is_none());
    assert_eq!(hear(&other, &mut position).await, [Heard::Everything]);
    master.cli(&["REPLICAOF", "127.0.0.1", &replica.port.to_string()]);
    told(&one).await.err().unwrap();
}

#[tokio::test]
async fn on_a_master_without_its_replicas_nobody_is_in_touch() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    server.cli(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let began = clock::instant();
    until(|| !node.fleet.is_in_touch(clock::instant(), LAG)).await;
    assert!(began.elapsed() < LAG * 3);
    assert!(!node.fleet.begin(&acme(), customer("a")).await.is_told());
    server.cli(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    node.in_touch().await;
}

#[tokio::test]
async fn what_is_kept_goes_when_its_time_is_over_and_leaves_nothing() {
    let horizon = Duration::from_millis(100);
    let server = RedisServer::start();
    let one = fleet(&server, horizon).await;
    let of = customer("a");
    let seen = one.look_up(&acme(), of).await.unwrap();
    let short = Learnt {
        ttl: Duration::from_millis(60),
        ..learnt(b"x")
    };
    assert!(one.keep(&acme(), of, &seen, short).await.unwrap());
    let long = Learnt {
        ttl: Duration::from_millis(700),
        ..learnt(b"y")
    };
    let began = clock::instant();
    one.end(begin(&one, customer("b")).await, End::Settled(Some(long)))
        .await;
    drop(begin(&one, customer("c")).await);
    gone(&one);
    while kept(&one, of).await.is_some() {
        sleep(Duration::from_millis(1)).await;
    }
    until(|| {
        let names = server.cli(&["KEYS", "*:status:*"]);
        names.lines().count() == 1
    })
    .await;
    assert_eq!(kept(&one, customer("b")).await.unwrap(), b"y");
    until(|| server.cli(&["KEYS", "*:status:*"]).is_empty()).await;
    assert!(began.elapsed() >= Duration::from_millis(690));
    // A read that took longer than any may is not believed that nothing happened since.
    assert!(!one.keep(&acme(), of, &seen, learnt(b"x")).await.unwrap());
}

#[tokio::test]
async fn redis_holds_nothing_of_a_person_and_no_tenant() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    let canary = tenant("canary-tenant");
    let of = customer_of(&canary, "canary@person.example");
    let write = node.fleet.begin(&canary, of).await;
    node.fleet.end(write, settled(b"canary-value")).await;
    let seen = node.fleet.look_up(&canary, of).await.unwrap();
    let late = learnt(b"canary-value, again");
    assert!(node.fleet.keep(&canary, of, &seen, late).await.unwrap());
    node.fleet.forget_tenant(&canary).await.unwrap();
    // All that was ever written.
    let mut written = Vec::new();
    for file in std::fs::read_dir(server.home().join("appendonlydir")).unwrap() {
        written.extend(std::fs::read(file.unwrap().path()).unwrap());
    }
    let holds = |word: &[u8]| written.windows(word.len()).any(|part| part == word);
    assert!(holds(b"dcams-gateway:{cache}:status:") && holds(b"HSET"));
    for word in ["canary", "person", "value"] {
        assert!(!holds(word.as_bytes()), "{word}");
    }
}

/// All that is ever asked.
async fn all_of_it(settings: &RedisSettings) {
    let one = fleet_with(settings, MINUTE).await;
    let two = Node::follow(fleet_with(settings, MINUTE).await);
    two.in_touch().await;
    let of = customer("a");
    write(&one, of, b"first").await;
    one.end(begin(&one, of).await, End::Unknown).await;
    let seen = two.fleet.look_up(&acme(), customer("b")).await.unwrap();
    let (tenant, other) = (acme(), customer("b"));
    let kept = two.fleet.keep(&tenant, other, &seen, learnt(b"x"));
    assert!(kept.await.unwrap());
    assert!(one.forget(&acme(), customer("b")).await.unwrap());
    one.forget_tenant(&acme()).await.unwrap();
    assert_eq!(two.heard().await.len(), 7);
    owed(&one.owed).everything = true;
    one.pay().await.unwrap();
    assert_eq!(two.heard().await.len(), 2);
}

#[tokio::test]
async fn the_user_of_the_documentation_may_do_all_of_it() {
    let server = RedisServer::start();
    let page = include_str!("../../../docs/REDIS.md");
    let (_, rest) = page.split_once("ACL SETUSER dcams-gateway ").unwrap();
    let (rules, _) = rest.split_once("\n```").unwrap();
    let rules = rules.split_whitespace().filter(|word| *word != "\\");
    let mut said = vec!["ACL", "SETUSER", "dcams-gateway"];
    said.extend(rules.map(|word| word.trim_matches('\'')));
    said.push(">canary-password");
    assert_eq!(server.cli(&said), "OK");
    let login = Login {
        user: Some("dcams-gateway".to_owned()),
        password: Some(Password::new("canary-password".into())),
    };
    let with_login = RedisSettings {
        login,
        ..settings(&server)
    };
    all_of_it(&with_login).await;
    let denied = server.cli(&["ACL", "LOG"]);
    assert!(denied.is_empty(), "{denied}");
}

#[tokio::test]
async fn a_cluster_has_all_of_it_in_one_slot() {
    let server = RedisServer::with(&["--cluster-enabled", "yes"]);
    assert_eq!(
        server.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]),
        "OK"
    );
    until(|| {
        server
            .cli(&["CLUSTER", "INFO"])
            .contains("cluster_state:ok")
    })
    .await;
    let cluster = RedisSettings {
        mode: Mode::Cluster,
        ..settings(&server)
    };
    all_of_it(&cluster).await;
}
