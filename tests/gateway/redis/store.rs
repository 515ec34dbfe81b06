//! The store in Redis: what every backend keeps, and what becomes of it when Redis does not.

#[path = "../../../src/store/tests/contract.rs"]
mod contract;

use std::{fs, time::Duration};

use dcams_gateway::{
    ident::{AccountId, Pseudonym, PseudonymKey, Purpose},
    store::{
        Backend, Change, OpenError, Standing, StateSettings, Store, StoreError, Table,
        redis::settings::{Mode, RedisSettings},
    },
};
use futures_util::future::join_all;
use tokio::time::timeout;
use zeroize::Zeroizing;

use self::contract::{KEY, contract, count, get, increment, key, put, undoing};
use super::{
    link::{self, until},
    many::Nodes,
    proxy::Proxy,
    server::{RedisServer, free_port},
};

fn redis_at(server: &RedisServer) -> StateSettings {
    with(RedisSettings {
        timeout: Duration::from_secs(1),
        prefix: "pre*fix:".to_owned(),
        ..link::settings(&[server.url()], Mode::Single)
    })
}

fn with(settings: RedisSettings) -> StateSettings {
    StateSettings {
        key: Zeroizing::new(KEY),
        backend: Backend::Redis(Box::new(settings)),
    }
}

async fn in_redis(server: &RedisServer) -> Store {
    Store::open(&redis_at(server)).await.unwrap()
}

#[tokio::test]
async fn the_store_in_redis_keeps_the_contract() {
    let server = RedisServer::start();
    // Somebody else's, which the pattern of a scan must not take for ours.
    server.cli(&["SET", "prefix:customers:x", "other"]);
    server.cli(&["SET", "pre-fix:customers:x", "other"]);
    contract(in_redis(&server).await).await;
}

#[tokio::test]
async fn the_store_in_a_cluster_keeps_the_contract() {
    let nodes = Nodes::start(false).await;
    let settings = with(RedisSettings {
        timeout: Duration::from_secs(1),
        ..nodes.settings()
    });
    contract(Store::open(&settings).await.unwrap()).await;
    undoing(Store::open(&settings).await.unwrap()).await;
}

#[tokio::test]
async fn the_store_in_redis_undoes_what_nobody_waits_for() {
    let server = RedisServer::start();
    undoing(in_redis(&server).await).await;
}

#[tokio::test]
async fn two_gateways_change_one_entry_in_redis_without_losing_a_change() {
    let server = RedisServer::start();
    let stores = [in_redis(&server).await, in_redis(&server).await];
    let more =
        (0..100).map(|n| stores[n % 2].update(Table::Credentials, vec![key("n")], increment));
    let former = join_all(more).await.into_iter();
    let mut former: Vec<u32> = former.map(|v| count(v.unwrap()[0].as_deref())).collect();
    former.sort_unstable();
    assert_eq!(former, (0..100).collect::<Vec<u32>>());
    let scanned = stores[1].scan(Table::Credentials).await.unwrap();
    assert_eq!(scanned, [(key("n"), 100_u32.to_le_bytes().to_vec())]);
    let version = stores[0].version(Table::Credentials).await;
    assert_eq!(version, Ok(Some(100)));
    assert_eq!(stores[0].version(Table::Revocations).await, Ok(Some(0)));
}

#[tokio::test]
async fn a_large_table_in_redis_is_scanned_page_by_page() {
    let server = RedisServer::start();
    let store = in_redis(&server).await;
    let keys: Vec<_> = (0..1_000).map(|n| key(&n.to_string())).collect();
    let put = |place: usize, _: Option<&[u8]>| Change::Put(place.to_string().into_bytes());
    for table in [Table::Revocations, Table::Customers] {
        store.update(table, keys.clone(), put).await.unwrap();
        let mut values: Vec<u32> = (store.scan(table).await.unwrap().into_iter())
            .map(|(_, value)| String::from_utf8(value).unwrap().parse().unwrap())
            .collect();
        values.sort_unstable();
        assert_eq!(values, (0..1_000).collect::<Vec<u32>>());
    }
}

#[tokio::test]
async fn another_key_or_format_in_redis_is_refused_and_changes_nothing() {
    let server = RedisServer::start();
    put(&in_redis(&server).await, "a", b"1").await;
    let mut other = redis_at(&server);
    other.key = Zeroizing::new([8; 32]);
    let error = Store::open(&other).await.unwrap_err();
    assert!(matches!(error, OpenError::RedisKey(_)), "{error}");
    assert!(error.to_string().contains("state.key"), "{error}");
    assert_eq!(get(&in_redis(&server).await, "a").await.unwrap(), b"1");
    server.cli(&["HSET", "pre*fix:meta", "schema", "2"]);
    let error = Store::open(&redis_at(&server)).await.unwrap_err();
    assert!(
        matches!(error, OpenError::RedisNewer { found: 2, .. }),
        "{error}"
    );
    server.cli(&["HSET", "pre*fix:meta", "schema", "many"]);
    let error = Store::open(&redis_at(&server)).await.unwrap_err();
    assert!(matches!(error, OpenError::RedisDamaged(_)), "{error}");
}

#[tokio::test]
async fn a_value_that_was_moved_in_redis_is_damage_and_nothing_is_written_beside_it() {
    let server = RedisServer::start();
    let store = in_redis(&server).await;
    put(&store, "mine", b"owner: mine").await;
    let name = |of: &str| format!("pre*fix:customers:{}", key(of));
    server.cli(&["COPY", &name("mine"), &name("other")]);
    let damaged = Err(StoreError::Damaged);
    assert_eq!(store.get(Table::Customers, &key("other")).await, damaged);
    assert!(store.scan(Table::Customers).await.is_err());
    let keys = vec![key("new"), key("other"), key("mine")];
    let updated = store.update(Table::Customers, keys, increment).await;
    assert_eq!(updated, Err(StoreError::Damaged));
    assert_eq!(get(&store, "new").await, None);
    assert_eq!(get(&store, "mine").await.unwrap(), b"owner: mine");
}

#[tokio::test]
async fn a_redis_that_lost_its_data_is_refused_until_it_is_restored() {
    let mut server = RedisServer::start();
    let store = in_redis(&server).await;
    put(&store, "a", b"1").await;
    let saved = fs::read_dir(server.home().join("appendonlydir")).unwrap();
    let saved: Vec<_> = saved.map(|entry| entry.unwrap().path()).collect();
    let saved: Vec<_> = saved
        .iter()
        .map(|path| (path, fs::read(path).unwrap()))
        .collect();
    server.kill();
    until(store.redis().unwrap(), false).await;
    for (path, _) in &saved {
        fs::remove_file(path).unwrap();
    }
    server.run();
    until(store.redis().unwrap(), true).await;
    // The very first question finds that out, before it writes.
    let updated = store
        .update(Table::Customers, vec![key("a")], increment)
        .await;
    assert_eq!(updated, Err(StoreError::Damaged));
    assert_eq!(
        store.get(Table::Customers, &key("a")).await,
        Err(StoreError::Damaged)
    );
    assert_eq!(store.standing(), Standing::Lost);
    assert_eq!(server.cli(&["DBSIZE"]), "0");
    server.kill();
    for (path, bytes) in &saved {
        fs::write(path, bytes).unwrap();
    }
    server.run();
    let back = async {
        while store.get(Table::Customers, &key("a")).await != Ok(Some(b"1".to_vec())) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), back).await.unwrap();
    assert_eq!(store.standing(), Standing::Up);
}

#[tokio::test]
async fn an_update_without_an_answer_is_undone_when_redis_is_back() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port).await;
    let settings = with(RedisSettings {
        timeout: Duration::from_millis(300),
        ..link::settings(&[proxy.url()], Mode::Single)
    });
    let store = Store::open(&settings).await.unwrap();
    put(&store, "other", b"there").await;
    let held = |_: Option<&[u8]>| Change::Put(b"held".to_vec());
    let undo = |_: Option<&[u8]>| Change::Remove;
    let name = format!("dcams-gateway:customers:{}", key("a"));
    // The script arrives, and nobody hears of it.
    proxy.mute_after("EVALSHA");
    let updated = store.update_or_undo(Table::Customers, key("a"), held, undo);
    assert_eq!(updated.await, Err(StoreError::Unavailable));
    assert_eq!(server.cli(&["EXISTS", &name]), "1");
    proxy.heal();
    let undone = async {
        while server.cli(&["EXISTS", &name]) != "0" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), undone).await.unwrap();
    until(store.redis().unwrap(), true).await;
    assert_eq!(get(&store, "other").await.unwrap(), b"there");
    // What somebody else wrote meanwhile is not taken back.
    proxy.mute_after("EVALSHA");
    let updated = store.update_or_undo(Table::Customers, key("a"), held, undo);
    assert_eq!(updated.await, Err(StoreError::Unavailable));
    server.cli(&["SET", &name, "somebody else's"]);
    proxy.heal();
    until(store.redis().unwrap(), true).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(server.cli(&["GET", &name]), "somebody else's");
}

#[tokio::test]
async fn a_start_without_redis_says_what_to_do() {
    let url = format!("redis://127.0.0.1:{}", free_port());
    let settings = with(link::settings(&[url], Mode::Single));
    let error = Store::open(&settings).await.unwrap_err().to_string();
    assert!(error.contains("cannot be reached"), "{error}");
    assert!(error.contains("state.redis"), "{error}");
}
