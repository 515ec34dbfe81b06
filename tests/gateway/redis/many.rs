//! More than one server: a cluster, and a master that sentinels replace.

use std::time::{Duration, Instant};

use dcams_gateway::store::{
    StoreError,
    redis::{
        Redis,
        settings::{Mode, RedisSettings},
    },
};
use tokio::time::{sleep, timeout};

use super::{
    link::{count, fault, settings, until},
    server::{RedisServer, free_port},
};

/// Masters and as many replicas, each of the n-th master.
pub struct Nodes(Vec<RedisServer>);

const MASTERS: usize = 3;

impl Nodes {
    /// A cluster of three, and of three replicas where that is wanted.
    pub async fn start(replicas: bool) -> Self {
        let count = if replicas { 2 * MASTERS } else { MASTERS };
        let nodes: Vec<RedisServer> = (0..count).map(|_| node()).collect();
        let first = &nodes[0];
        for (index, node) in nodes.iter().enumerate() {
            let epoch = (index + 1).to_string();
            node.cli(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]);
            if index < MASTERS {
                let bounds = [0, 5_461, 10_923, 16_384];
                let (from, to) = (
                    bounds[index].to_string(),
                    (bounds[index + 1] - 1).to_string(),
                );
                assert_eq!(node.cli(&["CLUSTER", "ADDSLOTSRANGE", &from, &to]), "OK");
            }
            let (port, bus) = (node.port.to_string(), (node.port + 1).to_string());
            assert_eq!(
                first.cli(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]),
                "OK"
            );
        }
        let known = format!("cluster_known_nodes:{count}");
        settled(&nodes, |node| {
            node.cli(&["CLUSTER", "INFO"]).contains(&known)
        })
        .await;
        for (index, replica) in nodes.iter().enumerate().skip(MASTERS) {
            let master = nodes[index - MASTERS].cli(&["CLUSTER", "MYID"]);
            assert_eq!(replica.cli(&["CLUSTER", "REPLICATE", &master]), "OK");
        }
        settled(&nodes, |node| {
            node.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
        })
        .await;
        settled(&nodes[MASTERS..], |node| {
            node.cli(&["INFO", "replication"])
                .contains("master_link_status:up")
        })
        .await;
        Self(nodes)
    }

    pub fn settings(&self) -> RedisSettings {
        // One seed: the others are learnt.
        settings(&[self.0[1].url()], Mode::Cluster)
    }
}

fn node() -> RedisServer {
    let port = free_port();
    RedisServer::on(
        port,
        &[
            "--cluster-enabled",
            "yes",
            "--cluster-port",
            &(port + 1).to_string(),
            "--cluster-node-timeout",
            "1000",
            "--cluster-require-full-coverage",
            "no",
        ],
    )
}

async fn settled(nodes: &[RedisServer], is: impl Fn(&RedisServer) -> bool) {
    for _ in 0..300 {
        if nodes.iter().all(&is) {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("{}", nodes[0].cli(&["CLUSTER", "NODES"]));
}

/// A key of each master: `{tag}` of their slots.
async fn keys(redis: &Redis, nodes: &Nodes) -> Vec<String> {
    let mut keys = vec![String::new(); MASTERS];
    for number in 0..100 {
        let key = format!("q:{{tenant-{number}}}:day");
        let slot: u16 = nodes.0[0]
            .cli(&["CLUSTER", "KEYSLOT", &key])
            .parse()
            .unwrap();
        let master = usize::from(slot >= 5_461) + usize::from(slot >= 10_923);
        keys[master] = key;
    }
    for key in &keys {
        assert_eq!(count(redis, key).await, Ok(1), "{key}");
    }
    keys
}

/// Waits until a key can be counted on.
async fn counted(redis: &Redis, key: &str) -> i64 {
    let counting = async {
        loop {
            if let Ok(count) = count(redis, key).await {
                return count;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(30), counting).await.unwrap()
}

#[tokio::test]
async fn a_node_that_is_away_takes_its_own_keys_with_it_and_its_replica_takes_over() {
    let mut nodes = Nodes::start(true).await;
    let redis = Redis::connect(&nodes.settings()).await.unwrap();
    let keys = keys(&redis, &nodes).await;
    let before = redis.round_trips();
    for key in &keys {
        assert_eq!(count(&redis, key).await, Ok(2));
    }
    assert_eq!(redis.round_trips() - before, 3);
    assert!(redis.is_up());

    nodes.0[0].kill();
    until(&redis, false).await;
    assert_eq!(count(&redis, &keys[0]).await, Err(StoreError::Unavailable));
    // The others' keys are counted all the while.
    let mut calls = 0;
    let killed = Instant::now();
    while count(&redis, &keys[0]).await.is_err() {
        for key in &keys[1..] {
            count(&redis, key).await.unwrap();
            calls += 1;
        }
        assert!(
            killed.elapsed() < Duration::from_secs(30),
            "no replica takes over"
        );
        sleep(Duration::from_millis(20)).await;
    }
    assert!(calls > 10, "{calls}");
    until(&redis, true).await;
    println!("a replica took over within {:?}", killed.elapsed());
    assert_eq!(count(&redis, &keys[0]).await, Ok(4));
    // The old master comes back as a replica of the new one.
    nodes.0[0].run();
    for key in &keys {
        counted(&redis, key).await;
    }
}

#[tokio::test]
async fn a_slot_that_moves_is_followed() {
    let nodes = Nodes::start(false).await;
    let redis = Redis::connect(&nodes.settings()).await.unwrap();
    let keys = keys(&redis, &nodes).await;
    let slot = nodes.0[0].cli(&["CLUSTER", "KEYSLOT", &keys[0]]);
    let (from, to) = (&nodes.0[0], &nodes.0[1]);
    let ids = [from, to].map(|node| node.cli(&["CLUSTER", "MYID"]));
    to.cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &ids[0]]);
    from.cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &ids[1]]);
    // Still there.
    assert_eq!(count(&redis, &keys[0]).await, Ok(2));
    let port = to.port.to_string();
    from.cli(&["MIGRATE", "127.0.0.1", &port, &keys[0], "0", "1000"]);
    // Already over there, though the slot is not: ASK.
    assert_eq!(count(&redis, &keys[0]).await, Ok(3));
    for node in &nodes.0 {
        node.cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &ids[1]]);
    }
    // MOVED, and then the new map.
    assert_eq!(count(&redis, &keys[0]).await, Ok(4));
    sleep(Duration::from_millis(500)).await;
    let before = redis.round_trips();
    assert_eq!(count(&redis, &keys[0]).await, Ok(5));
    assert_eq!(redis.round_trips() - before, 1);
}

#[tokio::test]
async fn the_next_master_is_found_by_the_sentinels() {
    let mut master = RedisServer::start();
    let replica = RedisServer::with(&["--replicaof", &format!("127.0.0.1 {}", master.port)]);
    settled(std::slice::from_ref(&replica), |node| {
        node.cli(&["INFO", "replication"])
            .contains("master_link_status:up")
    })
    .await;
    let sentinel = RedisServer::sentinel(master.port);
    let nobody = format!("redis://127.0.0.1:{}", free_port());
    let mode = Mode::Sentinel {
        master: "main".to_owned(),
    };
    let with = settings(&[nobody, sentinel.url()], mode);
    let redis = Redis::connect(&with).await.unwrap();
    assert_eq!(count(&redis, "a").await, Ok(1));
    // The sentinel has to have heard of the replica.
    settled(std::slice::from_ref(&sentinel), |node| {
        node.cli(&["SENTINEL", "REPLICAS", "main"])
            .contains(&replica.port.to_string())
    })
    .await;
    master.kill();
    until(&redis, false).await;
    let killed = Instant::now();
    assert_eq!(counted(&redis, "a").await, 2);
    println!("the next master was found within {:?}", killed.elapsed());
    assert_eq!(replica.cli(&["GET", "a"]), "2");
    let master = "other".to_owned();
    let unknown = settings(&[sentinel.url()], Mode::Sentinel { master });
    assert_eq!(
        fault(&unknown).await,
        dcams_gateway::store::redis::dial::Fault::NoMaster
    );
}
