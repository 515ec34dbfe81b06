//! What Redis holds of a person when gateways share what they know: nothing that it could read.

use std::{collections::BTreeSet, fs, time::Duration};

use dcams_gateway::operation::Operation::{GetDocumentImages, GetStatus};
use tokio::time::timeout;

use super::{
    SHARED_USER, TENANTS, beside, body, course, gateway, in_redis, submission, tokens, update,
};
use crate::{
    redis::server::RedisServer,
    support::{ISSUER_KEY, OTHER_USER, PASS, USER},
};

/// Everything that Redis has, by key: names, and values as its own dumps of them and in clear.
fn everything(redis: &RedisServer) -> Vec<u8> {
    let mut all = Vec::new();
    let keys = redis.cli(&["--scan"]);
    for key in keys.lines() {
        let read: &[&str] = match redis.cli(&["TYPE", key]).as_str() {
            "string" => &["GET", key],
            "hash" => &["HGETALL", key],
            "list" => &["LRANGE", key, "0", "-1"],
            "set" => &["SMEMBERS", key],
            "zset" => &["ZRANGE", key, "0", "-1", "WITHSCORES"],
            "stream" => &["XRANGE", key, "-", "+"],
            "none" => continue,
            other => panic!("{key} is a {other}"),
        };
        all.extend(format!("{key}\n{}\n", redis.cli(read)).into_bytes());
        all.extend(redis.cli(&["DUMP", key]).into_bytes());
    }
    all
}

/// Every command that changed something, as Redis wrote it down.
fn written(redis: &RedisServer) -> Vec<u8> {
    let files = fs::read_dir(redis.home().join("appendonlydir")).unwrap();
    let texts = files.map(|file| fs::read(file.unwrap().path()).unwrap());
    texts.flatten().collect()
}

fn holds(hay: &[u8], text: &str) -> bool {
    let text = text.as_bytes();
    hay.windows(text.len())
        .any(|part| part.eq_ignore_ascii_case(text))
}

#[tokio::test]
async fn redis_cannot_read_what_gateways_share() {
    let redis = RedisServer::start();
    let toml = "[cache]\nfull = true\nshared = true\npending_ttl = \"10m\"\nfail_ttl = \"10m\"\n\
                pass_ttl = \"10m\"\n"
        .to_owned()
        + &in_redis(&redis.url());
    let first = gateway(&toml, true, &[]).await;
    let second = beside(&first, &toml, true, &[]).await;
    let mut canaries: BTreeSet<String> = BTreeSet::new();
    let (token, mut courses) = (tokens(&first), Vec::new());
    for (tenant, (name, _)) in TENANTS.iter().enumerate() {
        for (customer, status) in ["PENDING", "FAIL", "PASS"].into_iter().enumerate() {
            let place = ["alone", "alone", "one", "two"][tenant];
            let email = format!("canary.{place}.{customer}@canary.example");
            let reference = format!("reference-canary-{name}-{customer}");
            let mut created = submission(&email, &reference);
            created["target"]["fn"] = "Canaryfirst".into();
            created["target"]["ln"] = "Canarylast".into();
            let all = [
                (&first, created),
                (&first, update(&email, status)),
                (&first, body(GetStatus, &email)),
                (&second, body(GetDocumentImages, &email)),
            ];
            for (gateway, body) in all {
                let told = gateway.post(&token[tenant], &body).await;
                assert_eq!(told.status, 200, "{body}: {}", told.text);
            }
            // The other gateway knows it from Redis, once it is there.
            let sharing = async {
                loop {
                    let told = second.post(&token[tenant], &body(GetStatus, &email)).await;
                    assert_eq!(told.status, 200, "{}", told.text);
                    assert_eq!(told.json()["status"], status);
                    if course(&told) == "hit" {
                        return told;
                    }
                }
            };
            let told = timeout(Duration::from_secs(20), sharing).await;
            courses.push(course(&told.expect("the other gateway keeps nothing")));
            canaries.extend([email, reference]);
        }
    }
    assert_eq!(courses, ["hit"; 12]);
    let (everything, written) = (everything(&redis), written(&redis));
    // Something is there, and is found where it is there.
    assert!(holds(&everything, "dcams-gateway:") && holds(&written, "dcams-gateway:"));
    let keys = redis.cli(&["--scan"]);
    assert!(keys.lines().count() >= 12, "{keys}");
    for canary in &canaries {
        assert!(!holds(&everything, canary), "{canary}");
        assert!(!holds(&written, canary), "{canary}");
    }
    for canary in [
        "canary",
        "Canaryfirst",
        "Canarylast",
        "Sample Street",
        "Anytown",
        "19700101",
        "2015550100",
        "getStatus",
        "PENDING",
        "reference",
        "\"status\"",
        "subject-of-the-token",
        USER,
        OTHER_USER,
        SHARED_USER,
        PASS,
        ISSUER_KEY,
        token[0].as_str(),
        token[3].as_str(),
    ] {
        assert!(!holds(&everything, canary), "{canary}");
        assert!(!holds(&written, canary), "{canary}");
    }
    // Quotas are counted by the tenant's name, in a key of their own.
    for word in ["PASS", "FAIL", "demo", "other"] {
        let lines = everything.split(|byte| *byte == b'\n');
        let lines = lines.filter(|line| !holds(line, "dcams-gateway:quota:{"));
        let line = lines
            .filter(|line| holds(line, word))
            .map(String::from_utf8_lossy);
        assert_eq!(line.collect::<Vec<_>>(), [""; 0], "{word}");
    }
}
