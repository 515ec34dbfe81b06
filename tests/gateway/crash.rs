//! The real program, killed at any moment while it writes, over and over on one state. What it has
//! acknowledged is there afterwards: who owns a customer, and which tokens are revoked.
//!
//! Three rounds here; `scripts/campaign crash` runs as many as it is told in `KILL_ROUNDS`.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use dcams_gateway::{auth::install_crypto, simulator::Login};
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    ownership::{tokens, toml},
    program::Served,
    support::{OTHER_USER, PASS, USER, answer, client, simulator, write_secrets},
};

/// Emails and ids that were acknowledged.
#[derive(Default)]
struct Acknowledged {
    created: Mutex<Vec<String>>,
    revoked: Mutex<Vec<String>>,
    count: AtomicUsize,
}

async fn create(served: &Served, token: &str, email: &str) -> Option<u16> {
    let body = json!({"service": "createOrUpdateCustomer", "target": {"email": email}});
    let request = client().post(served.url()).bearer_auth(token).json(&body);
    Some(request.send().await.ok()?.status().as_u16())
}

async fn revoke(served: &Served, jti: &str) -> Option<u16> {
    let url = format!("http://{}/api/revocations", served.admin);
    let body = json!({"issuer": "one-idp", "jti": jti});
    let request = client().post(url).json(&body);
    Some(request.send().await.ok()?.status().as_u16())
}

/// Writes from several sides until the program is gone.
async fn hammer(served: Arc<Served>, token: String, round: usize, limit: usize) -> Acknowledged {
    let acknowledged = Arc::new(Acknowledged::default());
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        let (served, token) = (Arc::clone(&served), token.clone());
        let acknowledged = Arc::clone(&acknowledged);
        writers.spawn(async move {
            for number in 0.. {
                let name = format!("r{round}-w{writer}-{number}");
                let (list, answered) = if writer == 0 {
                    (&acknowledged.revoked, revoke(&served, &name).await)
                } else {
                    let email = format!("{name}@example.com");
                    (&acknowledged.created, create(&served, &token, &email).await)
                };
                match answered {
                    Some(200 | 201) => list.lock().unwrap().push(name),
                    // The connection broke: nobody knows, and either is right.
                    None => return,
                    Some(other) => panic!("{other}"),
                }
                if acknowledged.count.fetch_add(1, Relaxed) + 1 == limit {
                    served.program.signal("KILL");
                }
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    Arc::into_inner(acknowledged).unwrap()
}

async fn check(served: &Served, foreign: &str, acknowledged: &Acknowledged) {
    let created = acknowledged.created.lock().unwrap().clone();
    for name in created {
        let email = format!("{name}@example.com");
        assert_eq!(create(served, foreign, &email).await, Some(409), "{email}");
    }
    let url = format!("http://{}/api/revocations", served.admin);
    let list = answer(client().get(url).send().await.unwrap()).await.json();
    let known: Vec<&str> = list["revocations"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|entry| entry["jti"].as_str())
        .collect();
    for jti in acknowledged.revoked.lock().unwrap().iter() {
        assert!(known.contains(&jti.as_str()), "{jti}");
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill_at_any_moment() {
    install_crypto();
    let rounds = std::env::var("KILL_ROUNDS").map_or(3, |rounds| rounds.parse().unwrap());
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let simulator = simulator(Login::new(USER, PASS), stop).await;
    simulator.set_credentials([USER, OTHER_USER].map(|user| Login::new(user, PASS)).into());
    let folder = TempDir::new().unwrap();
    write_secrets(folder.path());
    let url = simulator.url();
    // Without the question to DCAMS whether a customer is older than the ledger.
    let claim = "unowned = \"claim\"";
    let toml = toml(claim, claim) + "[validation]\nrequired = [\"email\"]\n";
    let (mut before, mut total) = (Acknowledged::default(), 0);
    for round in 0..=rounds {
        let served = Arc::new(Served::start(folder.path(), &url, &toml, &[]).await);
        let (one, two) = tokens(folder.path(), &url);
        check(&served, &two, &before).await;
        if round == rounds {
            break;
        }
        // Another moment in each round, from the first write on.
        before = hammer(served, one, round, 1 + round * 7 % 40).await;
        total += before.count.load(Relaxed);
    }
    println!("{rounds} kills, {total} acknowledged writes, none lost");
}
