//! The connection alone: who waits how long, and when it is back.

use std::time::{Duration, Instant};

use dcams_gateway::store::{
    OpenError, StoreError,
    redis::{
        Redis, Script,
        dial::Fault,
        settings::{Login, Mode, OnStoreFailure, Password, RedisSettings, Server},
    },
};
use redis::Value;
use tokio::time::{sleep, timeout};

use super::{
    proxy::Proxy,
    server::{RedisServer, free_port},
};

static COUNT: Script = Script::new("return redis.call('INCR', KEYS[1])");
static BOUND: Duration = Duration::from_millis(250);

/// The defaults, but for a bound that a busy machine keeps.
pub fn settings(urls: &[String], mode: Mode) -> RedisSettings {
    RedisSettings {
        servers: urls.iter().map(|url| Server::parse(url).unwrap()).collect(),
        mode,
        login: Login::default(),
        sentinel_login: Login::default(),
        roots: Vec::new(),
        database: 0,
        timeout: BOUND,
        connect_timeout: Duration::from_secs(2),
        prefix: "dcams-gateway:".to_owned(),
        nodes: 2,
        lease: Duration::from_millis(200),
        on_store_failure: OnStoreFailure::Lease,
    }
}

pub async fn connect(server: &RedisServer) -> Redis {
    let settings = settings(&[server.url()], Mode::Single);
    Redis::connect(&settings).await.unwrap()
}

pub async fn count(redis: &Redis, key: &str) -> Result<i64, StoreError> {
    let answer = redis
        .invoke(&COUNT, &[key.as_bytes().to_vec()], &[])
        .await?;
    let Value::Int(count) = answer else {
        panic!("{answer:?}");
    };
    Ok(count)
}

/// Waits until it is up or down.
pub async fn until(redis: &Redis, up: bool) {
    let mut changes = redis.changes();
    let waiting = changes.wait_for(|now| *now == up);
    timeout(Duration::from_secs(20), waiting)
        .await
        .unwrap()
        .unwrap();
}

/// What is wrong, where it does not connect.
pub async fn fault(settings: &RedisSettings) -> Fault {
    match Redis::connect(settings).await {
        Err(OpenError::Redis { fault, .. }) => fault,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it connects"),
    }
}

/// How long a call took that had no answer.
async fn refusal(redis: &Redis) -> Duration {
    let began = Instant::now();
    assert_eq!(count(redis, "a").await, Err(StoreError::Unavailable));
    began.elapsed()
}

#[tokio::test]
async fn a_script_takes_one_round_trip_and_outlives_a_flush_of_scripts() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    assert_eq!(count(&redis, "a").await, Ok(1));
    let before = redis.round_trips();
    assert_eq!(count(&redis, "a").await, Ok(2));
    assert_eq!(redis.round_trips() - before, 1);
    server.cli(&["SCRIPT", "FLUSH"]);
    assert_eq!(count(&redis, "a").await, Ok(3));
    assert_eq!(count(&redis, "a").await, Ok(4));
    assert_eq!(redis.round_trips() - before, 4);
}

#[tokio::test]
async fn a_killed_server_costs_nobody_time_and_is_back_after_its_restart() {
    let mut server = RedisServer::start();
    let redis = connect(&server).await;
    assert_eq!(count(&redis, "a").await, Ok(1));
    server.kill();
    let first = refusal(&redis).await;
    assert!(first < BOUND + Duration::from_millis(100), "{first:?}");
    until(&redis, false).await;
    assert!(!redis.is_up());
    for _ in 0..20 {
        let more = refusal(&redis).await;
        assert!(more < Duration::from_millis(20), "{more:?}");
    }
    server.run();
    until(&redis, true).await;
    // Its scripts are gone, what was written is not.
    assert_eq!(count(&redis, "a").await, Ok(2));
}

#[tokio::test]
async fn a_stopped_server_is_waited_for_once_and_is_back_when_it_goes_on() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    assert_eq!(count(&redis, "a").await, Ok(1));
    server.signal("STOP");
    let stopped = Instant::now();
    let first = refusal(&redis).await;
    assert!(first >= BOUND, "{first:?}");
    assert!(first < BOUND + Duration::from_millis(250), "{first:?}");
    while stopped.elapsed() < Duration::from_secs(2) {
        let more = refusal(&redis).await;
        assert!(more < Duration::from_millis(20), "{more:?}");
        sleep(Duration::from_millis(50)).await;
    }
    server.signal("CONT");
    until(&redis, true).await;
    // What was not answered may have happened: it was sent before the stop ended.
    assert!(count(&redis, "a").await.unwrap() >= 2);
}

#[tokio::test]
async fn a_link_that_is_cut_is_noticed_without_being_asked_and_back_when_it_heals() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port).await;
    let settings = settings(&[proxy.url()], Mode::Single);
    let redis = Redis::connect(&settings).await.unwrap();
    assert_eq!(count(&redis, "a").await, Ok(1));
    // A connection that is used: whoever comes first waits, and nobody after.
    proxy.cut();
    let first = refusal(&redis).await;
    assert!(
        first >= BOUND && first < BOUND + Duration::from_millis(250),
        "{first:?}"
    );
    let second = refusal(&redis).await;
    assert!(second < Duration::from_millis(20), "{second:?}");
    until(&redis, false).await;
    proxy.heal();
    until(&redis, true).await;
    count(&redis, "a").await.unwrap();
    // One that is not used: nobody waits.
    proxy.cut();
    until(&redis, false).await;
    let first = refusal(&redis).await;
    assert!(first < Duration::from_millis(20), "{first:?}");
    proxy.heal();
    until(&redis, true).await;
    count(&redis, "a").await.unwrap();
}

#[tokio::test]
async fn what_is_wrong_at_the_start_is_said() {
    let nobody = settings(
        &[format!("redis://127.0.0.1:{}", free_port())],
        Mode::Single,
    );
    assert_eq!(fault(&nobody).await, Fault::Unreachable);
    let server = RedisServer::with(&["--requirepass", "canary-password"]);
    let mut with = settings(&[server.url()], Mode::Single);
    assert_eq!(fault(&with).await, Fault::Login);
    with.login.password = Some(Password::new("canary-wrong".into()));
    assert_eq!(fault(&with).await, Fault::Login);
    let error = Redis::connect(&with).await.unwrap_err().to_string();
    assert!(!error.contains("canary"), "{error}");
    assert!(error.contains(&server.url()), "{error}");
    with.login.password = Some(Password::new("canary-password".into()));
    let redis = Redis::connect(&with).await.unwrap();
    assert_eq!(count(&redis, "a").await, Ok(1));
    with.mode = Mode::Cluster;
    assert_eq!(fault(&with).await, Fault::NoCluster);
    with.mode = Mode::Sentinel {
        master: "m".to_owned(),
    };
    with.sentinel_login = with.login.clone();
    assert_eq!(fault(&with).await, Fault::Strange);
}
