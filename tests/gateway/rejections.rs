//! Requests that are refused before anybody knows who asks: an event each, as many as there is room for, and a
//! count of all others.

use std::time::Instant;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use dcams_gateway::operation::Operation::GetStatus;
use serde_json::{Value, json};

use crate::{
    durable::on_a_disk,
    support::{Answer, World, answer, lookup},
};

/// An issuer whose keys cannot be had.
const AWAY: &str = r#"
[[issuers]]
id = "away-idp"
issuer = "https://idp.away.example/"
audiences = ["dcams-gateway"]
algorithms = ["ES256"]
jwks_url = "http://127.0.0.1:9/keys"
tenants = ["demo"]
"#;

/// What looks like a token of the issuer whose keys cannot be had.
fn token_of_away() -> String {
    let part = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let head = part(json!({"alg": "ES256", "typ": "JWT", "kid": "k"}));
    let claims = part(json!({"iss": "https://idp.away.example/"}));
    format!("{head}.{claims}.{}", BASE64_URL_SAFE_NO_PAD.encode([7; 64]))
}

async fn ask(world: &World, token: &str) -> Answer {
    world.post(token, &lookup(GetStatus)).await
}

/// Ends the gateway; all that its trail says.
async fn ended(world: &World) -> Vec<Value> {
    world.drain();
    let stopped = |acts: &[Value]| !acts.is_empty();
    world.audit.until_acts("stop", stopped).await;
    let text = world.audit.text();
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The events of rejections, and how many were left out as they and the count say.
fn rejections(trail: &[Value]) -> (Vec<&Value>, u64) {
    let events = trail.iter().filter(|event| event["phase"] == "rejected");
    let of = |member| trail.iter().filter_map(move |event| event[member].as_u64());
    (events.collect(), of("left_out").chain(of("count")).sum())
}

#[tokio::test]
async fn who_has_no_good_token_leaves_an_event_without_a_name() {
    let world = World::with(AWAY, &[]).await;
    let away = token_of_away();
    let expected = [
        ("not-a-token", 401, "invalid_token", "malformed_token"),
        (away.as_str(), 503, "issuer_unavailable", "keys_unavailable"),
    ];
    let mut ids = Vec::new();
    for (token, status, code, _) in expected {
        let refused = ask(&world, token).await;
        assert_eq!((refused.status, refused.code().as_str()), (status, code));
        ids.push(refused.headers["x-request-id"].to_str().unwrap().to_owned());
    }
    // What is not served here, or was let in, is no rejection.
    let elsewhere = world.client.get(world.url()).send().await.unwrap();
    let nowhere = format!("http://{}/nowhere", world.gateway);
    let nowhere = world.client.post(nowhere).bearer_auth("x").send();
    assert_eq!(elsewhere.status(), 405);
    assert_eq!(answer(nowhere.await.unwrap()).await.status, 404);
    let forbidden = ask(&world, &world.token(&[])).await;
    assert_eq!(forbidden.status, 403, "{}", forbidden.text);

    let trail = ended(&world).await;
    let (events, left_out) = rejections(&trail);
    assert_eq!((events.len(), left_out), (2, 0), "{trail:#?}");
    for ((event, id), (_, status, code, reason)) in events.iter().zip(ids).zip(expected) {
        let names: Vec<_> = event.as_object().unwrap().keys().collect();
        let allowed = [
            "client",
            "code",
            "http_status",
            "mac",
            "node",
            "phase",
            "prev",
            "reason",
            "request_id",
            "seq",
            "time",
            "v",
        ];
        let mut sorted = names.clone();
        sorted.sort();
        assert_eq!(sorted, allowed);
        let said = ["request_id", "client", "code", "reason", "http_status"];
        assert_eq!(
            json!(said.map(|name| &event[name])),
            json!([id, "127.0.0.0/24", code, reason, status])
        );
    }
    assert!(!world.audit.text().contains(&away));
}

#[tokio::test]
async fn of_many_bad_tokens_each_is_an_event_or_counted_and_the_events_are_few() {
    const COUNT: u64 = 300;
    let world = World::with("", &[("AUDIT__REJECTED_RATE", "5/s")]).await;
    let began = Instant::now();
    for _ in 0..COUNT / 10 {
        let asked = (0..10).map(|_| ask(&world, "not-a-token"));
        for refused in futures_util::future::join_all(asked).await {
            assert_eq!(refused.status, 401);
        }
    }
    let most = 5 + 5 * (began.elapsed().as_secs() + 1);
    let page = world.operator("/metrics").await.text;
    let trail = ended(&world).await;
    let (events, left_out) = rejections(&trail);
    let written = u64::try_from(events.len()).unwrap();
    assert_eq!(written + left_out, COUNT);
    assert!((5..=most).contains(&written), "{written} of {most}");
    for line in [
        format!("audit_rejections_left_out_total {left_out}"),
        "audit_lost_total 0".to_owned(),
    ] {
        let line = format!("dcams_gateway_{line}");
        assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
    }
}

#[tokio::test]
async fn with_a_rate_of_zero_there_is_the_count_alone() {
    let world = World::with("", &[("AUDIT__REJECTED_RATE", "0/s")]).await;
    for _ in 0..5 {
        ask(&world, "not-a-token").await;
    }
    let trail = ended(&world).await;
    let (events, left_out) = rejections(&trail);
    assert_eq!((events.len(), left_out), (0, 5));
    let said = trail
        .iter()
        .filter(|event| event["event"] == "rejections_left_out");
    assert_eq!(said.count(), 1);
}

#[tokio::test]
async fn a_disk_that_is_full_changes_nothing_for_who_has_no_good_token() {
    const COUNT: u64 = 60;
    let variables = [("AUDIT__REJECTED_RATE", "30/s")];
    let Some((world, disk)) = on_a_disk("", &variables).await else {
        return;
    };
    disk.fill();
    // The room that a block has left runs out on the way.
    for _ in 0..COUNT {
        let refused = ask(&world, "not-a-token").await;
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (401, "invalid_token")
        );
    }
    let page = world.operator("/metrics").await.text;
    assert!(page.contains("dcams_gateway_audit_available 0\n"), "{page}");
    disk.free();
    let enough = |acts: &[Value]| !acts.is_empty();
    world.audit.until_acts("audit_gap", enough).await;
    let trail = ended(&world).await;
    let (events, left_out) = rejections(&trail);
    let written = u64::try_from(events.len()).unwrap();
    assert_eq!(written + left_out, COUNT);
    assert!(written >= 30, "{written}");
    assert!(!trail.iter().any(|event| event["cause"] == "lost"));
}
