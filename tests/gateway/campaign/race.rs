//! Two hundred clients at once for a day of a hundred: exactly a hundred of them reach DCAMS, each time.
//!
//! `RACE_RUNS=1000` is the long form.

use std::fmt::Write as _;

use futures_util::future::join_all;

use super::{
    Dcams, configure, folder,
    load::{Line, Reply},
    noon, number,
};
use crate::{
    program::Served,
    redis::server::RedisServer,
    support::{load as read, lookup},
    wire::{head, token_of},
};
use dcams_gateway::operation::Operation;

const CLIENTS: usize = 200;
const LIMIT: usize = 100;

/// A tenant for each run, all on one account.
fn toml(runs: u32) -> String {
    let tenants: Vec<String> = (0..runs).map(|run| format!("\"race-{run}\"")).collect();
    let mut toml = format!(
        r#"
[[accounts]]
id = "race"
credentials = [{{ id = "race-1", user = {{ file = "other-user" }}, pass = {{ file = "pass" }} }}]
[[issuers]]
id = "race-idp"
issuer = "https://race.example/"
audiences = ["dcams-gateway"]
algorithms = ["HS256"]
secret = {{ file = "issuer.key" }}
tenants = [{}]
"#,
        tenants.join(",")
    );
    for tenant in tenants {
        write!(
            toml,
            r#"
[[tenants]]
id = {tenant}
account = "race"
services = ["getStatus"]
isolation = "ledger"
unowned = "allow"
quota = {{ daily = {LIMIT}, time_zone = "{}" }}
"#,
            noon()
        )
        .unwrap();
    }
    toml
}

/// All lines ask at once; how many were admitted. The others are told that the day is used up.
async fn rush(lines: &mut [Line], request: &[u8]) -> usize {
    let asked = lines.iter_mut().map(|line| line.ask(request));
    let replies: Vec<Reply> = join_all(asked)
        .await
        .into_iter()
        .map(Option::unwrap)
        .collect();
    let (admitted, refused): (Vec<Reply>, Vec<Reply>) =
        replies.into_iter().partition(Reply::is_admitted);
    let exhausted = Reply {
        status: 429,
        code: "quota_exhausted".to_owned(),
    };
    let other = refused.iter().find(|reply| **reply != exhausted);
    assert_eq!(other, None);
    admitted.len()
}

/// Races through these gateways in turn; how many were admitted in the first and, where there are several
/// gateways, in a second rush for what one of them had taken and not used.
async fn races(runs: u32, gateways: usize, state: &str) -> Vec<(usize, usize)> {
    let mut dcams = Dcams::start().await;
    let (url, toml) = (dcams.simulator.url(), toml(runs) + state);
    let folders: Vec<_> = (0..gateways).map(|_| folder()).collect();
    let mut served = Vec::new();
    for folder in &folders {
        served.push(Served::start(folder.path(), &url, &toml, &[]).await);
    }
    configure(folders[0].path(), &toml);
    let config = read(folders[0].path(), &url, &[]);
    let mut lines = Vec::new();
    for client in 0..CLIENTS {
        lines.push(Line::open(served[client % gateways].gateway).await);
    }
    let (mut before, mut all) = (0, Vec::new());
    for run in 0..runs {
        let token = token_of(
            &config,
            &format!("race-{run}"),
            &[Operation::GetStatus],
            None,
        );
        let body = lookup(Operation::GetStatus).to_string();
        let request = head(&token, body.len(), "") + &body;
        let first = rush(&mut lines, request.as_bytes()).await;
        let second = if gateways > 1 {
            rush(&mut lines, request.as_bytes()).await
        } else {
            0
        };
        let arrived = dcams.count();
        assert_eq!(arrived - before, first + second, "run {run}");
        assert!(first + second <= LIMIT, "run {run}: {first} and {second}");
        before = arrived;
        all.push((first, second));
    }
    all
}

fn exactly(name: &str, all: &[(usize, usize)]) {
    let exact = all.iter().filter(|(first, second)| first + second == LIMIT);
    let least = all.iter().map(|(first, _)| first).min();
    println!(
        "{name}: {} runs of {CLIENTS} clients for {LIMIT}: exactly {LIMIT} reached DCAMS in {}; \
         fewest of a first rush {least:?}",
        all.len(),
        exact.clone().count()
    );
    assert_eq!(exact.count(), all.len());
}

fn on(redis: &RedisServer, nodes: usize) -> String {
    format!(
        "[state]\nbackend = \"redis\"\n[state.redis]\nurls = [\"{}\"]\nnodes = {nodes}\n\
         timeout = \"5s\"\n",
        redis.url()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_the_limit_is_admitted_on_an_embedded_store() {
    let runs = number("RACE_RUNS", 3);
    exactly("embedded", &races(runs, 1, "").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_the_limit_is_admitted_on_redis() {
    let runs = number("RACE_RUNS", 3);
    let redis = RedisServer::start();
    exactly("redis", &races(runs, 1, &on(&redis, 1)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_the_limit_is_admitted_by_two_gateways() {
    let runs = number("RACE_RUNS", 3);
    let redis = RedisServer::start();
    exactly("two on redis", &races(runs, 2, &on(&redis, 2)).await);
}
