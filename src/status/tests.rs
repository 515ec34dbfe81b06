//! Two caches of two gateways on a real Redis, which share what they know.

use super::*;
use crate::{
    caching::CacheSettings,
    store::{
        Backend, StateSettings,
        redis::{server::RedisServer, settings::RedisSettings},
    },
    upstream::verdict::Message,
};

const KEY: [u8; 32] = [5; 32];
const HOUR: Duration = Duration::from_hours(1);

fn settings() -> CacheSettings {
    CacheSettings {
        enabled: true,
        pass_ttl: HOUR,
        fail_ttl: HOUR,
        pending_ttl: HOUR,
        not_found_ttl: HOUR,
        jitter: 0,
        max_entries: 1_000,
        max_bytes: 1 << 20,
        full: false,
        stale_if_error: Duration::ZERO,
        stale_while_revalidate: Duration::ZERO,
        refresh_pending: false,
        shared: true,
        node_lag: Duration::from_secs(10),
        untold_writes: UntoldWrites::Forward,
    }
}

async fn cache(server: &RedisServer) -> (StatusCache, Customer) {
    let redis = RedisSettings::of_test(&server.url());
    let state = StateSettings {
        key: KEY.into(),
        backend: Backend::Redis(Box::new(redis)),
    };
    let store = Store::open(&state).await.unwrap();
    let (pseudonyms, timeout) = (PseudonymKey::derive(&KEY), Duration::from_secs(30));
    let cache = StatusCache::new(&settings(), &store, &KEY, pseudonyms, timeout);
    let (tenant, account) = ("acme".try_into().unwrap(), "main".try_into().unwrap());
    let customer = cache.of(&tenant, &account).customer("ann@example.com");
    (cache, customer)
}

/// That DCAMS does not know the customer: the one answer that a test can make by itself.
fn absent(cache: &StatusCache, of: &Customer, keep: bool) -> Found {
    let message = Message::not_found();
    let refusal = Refusal::NotFound { message }.into();
    let (now, seen) = (clock::instant(), Disclosure::Minimal);
    let found = cache.absence(of, &refusal, seen, now, &settings());
    Found {
        keep,
        ..found.unwrap()
    }
}

/// What another gateway is told of it out of Redis.
async fn shared(cache: &StatusCache, of: &Customer) -> bool {
    let mut reading = cache.read(of);
    let found = reading.look_up(Disclosure::Minimal, &settings()).await;
    found.is_some()
}

async fn keep(cache: &StatusCache, of: &Customer) {
    let mut reading = cache.read(of);
    assert!(
        reading
            .look_up(Disclosure::Minimal, &settings())
            .await
            .is_none()
    );
    assert!(reading.end(Some(&absent(cache, of, true)), None).await);
}

#[tokio::test]
async fn a_write_takes_away_what_is_shared_also_where_nothing_is_kept() {
    let server = RedisServer::start();
    let ((one, of_one), (two, of_two)) = (cache(&server).await, cache(&server).await);
    keep(&one, &of_one).await;
    assert!(shared(&two, &of_two).await);
    let off = CacheSettings {
        enabled: false,
        ..settings()
    };
    two.configure(&off, Duration::from_secs(30));
    let writing = two.write(&of_two, &off).await.unwrap();
    writing.end(&Written::Done(None), &off).await;
    two.configure(&settings(), Duration::from_secs(30));
    assert!(!shared(&two, &of_two).await);
}

#[tokio::test]
async fn what_is_found_and_not_kept_takes_away_what_is_shared() {
    let server = RedisServer::start();
    let (one, of) = cache(&server).await;
    keep(&one, &of).await;
    // The same again changes nothing.
    let mut reading = one.read(&of);
    assert!(
        reading
            .look_up(Disclosure::Minimal, &settings())
            .await
            .is_some()
    );
    assert!(!reading.end(Some(&absent(&one, &of, false)), None).await);
    assert!(shared(&one, &of).await);
    // Something else does.
    let mut reading = one.read(&of);
    assert!(
        reading
            .look_up(Disclosure::Minimal, &settings())
            .await
            .is_some()
    );
    let known = Known::Found(crate::upstream::verdict::CustomerStatus::Fail);
    let (now, seen) = (clock::instant(), Disclosure::Minimal);
    let body = Bytes::from_static(b"{}");
    let entry = one.0.entry(&of, known, body, seen, now, &settings());
    let keep = false;
    assert!(!reading.end(Some(&Found { entry, keep }), None).await);
    assert!(!shared(&one, &of).await);
}

#[tokio::test]
async fn bytes_are_counted_as_they_come_and_go() {
    let server = RedisServer::start();
    let (cache, of) = cache(&server).await;
    let kept = || {
        cache.0.entries.load().map.run_pending_tasks();
        cache.size()
    };
    assert_eq!(kept(), (0, 0));
    keep(&cache, &of).await;
    let one = u64::try_from(OVERHEAD).unwrap();
    assert_eq!(kept(), (1, one));
    let reading = cache.read(&of);
    assert!(reading.end(Some(&absent(&cache, &of, true)), None).await);
    assert_eq!(kept(), (1, one));
    let writing = cache.write(&of, &settings()).await.unwrap();
    assert_eq!(kept(), (0, 0));
    writing.end(&Written::Undone, &settings()).await;
    keep(&cache, &of).await;
    cache.forget_tenant(&of.tenant).await.unwrap();
    cache.0.sweep();
    assert_eq!(kept(), (0, 0));
}
