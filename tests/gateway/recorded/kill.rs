//! A gateway that is killed at any moment under load, over and over: of each request that DCAMS saw the
//! intent is on disk, of each that a client was answered the outcome, and the chain is whole.
//!
//! `AUDIT_KILLS=100` is the long form.

use std::{
    collections::BTreeSet,
    env,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex},
    time::Duration,
};

use dcams_gateway::operation::Operation;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

use super::{Recorded, verify};
use crate::{program::Site, support::client};

/// Request ids, with the status that their client was answered.
type Answered = Arc<Mutex<Vec<(String, u16)>>>;

/// Asks until the gateway is gone, each time for another customer.
async fn ask(url: String, token: String, name: String, answered: Answered) {
    let client = client();
    for number in 0.. {
        let email = format!("{name}-{number}@example.com");
        let body = json!({"service": "getStatus", "target": {"email": email}});
        let asked = client
            .post(&url)
            .bearer_auth(&token)
            .json(&body)
            .send()
            .await;
        let Ok(response) = asked else { return };
        let (status, id) = (
            response.status().as_u16(),
            response.headers()["x-request-id"].clone(),
        );
        // Answered is who has the whole answer.
        if response.bytes().await.is_err() {
            return;
        }
        let id = id.to_str().unwrap().to_owned();
        answered.lock().unwrap().push((id, status));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_moment_it_is_killed_at_nothing_was_sent_or_answered_without_a_record() {
    let kills: u64 = env::var("AUDIT_KILLS").map_or(4, |kills| kills.parse().unwrap());
    let site = Site::prepare().await;
    // Files end under load, too.
    let toml = "[audit]\nrotate_size = \"256KiB\"\ncheckpoint_events = 100\n";
    let answered = Answered::default();
    let mut sent = BTreeSet::new();
    let (trail, key) = ["audit", "audit.key"]
        .map(|name| site.folder.path().join(name))
        .into();
    for kill in 0..=kills {
        let served = site.serve(toml, &[]).await;
        if kill > 0 {
            verify(&trail, &key).await;
        }
        if kill == kills {
            break;
        }
        let token = site.token(&[Operation::GetStatus]);
        let mut clients = JoinSet::new();
        for worker in 0..16 {
            let name = format!("k{kill}-w{worker}");
            clients.spawn(ask(
                served.url(),
                token.clone(),
                name,
                Arc::clone(&answered),
            ));
        }
        sleep(Duration::from_millis(
            RandomState::new().hash_one(kill) % 700,
        ))
        .await;
        served.program.signal("KILL");
        clients.join_all().await;
        drop(served);
        for record in site.simulator.requests() {
            let body: Value = serde_json::from_str(record.body.unwrap().as_str()).unwrap();
            sent.insert(body["target"]["email"].as_str().unwrap().to_owned());
        }
        site.simulator.clear_requests();
    }
    let recorded = Recorded::read(&trail, &key);
    let begun = Recorded::texts(recorded.of_phase("intent"), "customer");
    for email in &sent {
        assert!(
            begun.contains(recorded.name_of(email).as_str()),
            "{email} has no intent"
        );
    }
    let ended = Recorded::texts(recorded.of_phase("outcome"), "request_id");
    let answered = answered.lock().unwrap();
    for (id, status) in answered.iter() {
        assert!(
            ended.contains(id.as_str()),
            "{id} was answered {status} and has no outcome"
        );
    }
    // Each intent has one end, the killed ones too.
    let ids = Recorded::texts(recorded.of_phase("intent"), "request_id");
    assert_eq!(ids.len(), recorded.of_phase("intent").count());
    assert_eq!(ended.len(), recorded.of_phase("outcome").count());
    assert!(ids.is_subset(&ended));
    let interrupted = recorded
        .of_phase("outcome")
        .filter(|event| event["code"] == "unknown");
    println!(
        "{kills} kills: {} requests at DCAMS, all with an intent; {} answers, all with an outcome; {} requests \
         ended by the next start; {} events, {} torn ends set aside",
        sent.len(),
        answered.len(),
        interrupted.count(),
        recorded.events.len(),
        recorded.acts("audit_gap").len(),
    );
}
