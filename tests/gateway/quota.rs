//! Quotas as a client sees them.

use std::{fs, path::PathBuf, time::Duration};

use dcams_gateway::{
    operation::Operation,
    simulator::fault::{Fault, FaultKind},
};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    audit::assert_ends_sound,
    durable::on_a_disk,
    support::{Answer, OTHER_TENANT, World, answer, lookup},
};

/// A gateway with a second tenant that has these limits.
async fn limited(quota: &str) -> World {
    let world = World::with(&format!("{OTHER_TENANT}{quota}"), &[]).await;
    let login =
        dcams_gateway::simulator::Login::new(crate::support::OTHER_USER, crate::support::PASS);
    world.simulator.set_credentials(vec![login]);
    world
}

impl World {
    async fn ask(&self, operation: Operation) -> Answer {
        let token = self.token_of("other", &Operation::ALL, None);
        self.post(&token, &lookup(operation)).await
    }

    async fn usage(&self) -> Answer {
        let token = self.token_of("other", &Operation::ALL, None);
        let url = format!("http://{}/v1/usage", self.gateway);
        answer(
            self.client
                .get(url)
                .bearer_auth(token)
                .send()
                .await
                .unwrap(),
        )
        .await
    }

    /// What is used of one limit.
    async fn used(&self, policy: &str) -> u64 {
        let document = self.usage().await.json();
        let limits = document["limits"].as_array().unwrap().clone();
        let limit = limits.iter().find(|limit| limit["policy"] == policy);
        limit.unwrap_or_else(|| panic!("no {policy} in {document}"))["used"]
            .as_u64()
            .unwrap()
    }
}

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer
        .headers
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

fn refused(answer: &Answer) -> (u16, String) {
    (answer.status, answer.code())
}

const STATUS: Operation = Operation::GetStatus;

#[tokio::test]
async fn a_day_that_is_used_up_says_so_and_when_the_next_one_begins() {
    let world = limited("[tenants.quota]\ndaily = 3").await;
    for left in (0..3).rev() {
        let answer = world.ask(STATUS).await;
        assert_eq!(answer.status, 404, "{}", answer.text);
        let now = header(&answer, "ratelimit");
        assert!(now.starts_with(&format!("\"daily\";r={left};t=")), "{now}");
        assert_eq!(header(&answer, "ratelimit-policy"), "\"daily\";q=3;w=86400");
    }
    let answer = world.ask(STATUS).await;
    assert_eq!(refused(&answer), (429, "quota_exhausted".into()));
    assert!(answer.json()["detail"].as_str().unwrap().contains("daily"));
    let wait: u64 = header(&answer, "retry-after").parse().unwrap();
    assert!((1..=86_400).contains(&wait), "{wait}");
    assert_eq!(
        header(&answer, "ratelimit"),
        format!("\"daily\";r=0;t={wait}")
    );
    assert_eq!(world.simulator.requests().len(), 3);
    let event = world.audit.until(4).await.pop().unwrap();
    assert_eq!(
        (&event["code"], &event["reason"]),
        (&"quota_exhausted".into(), &"daily".into())
    );
    let metrics = world.operator("/metrics").await.text;
    let denied = r#"dcams_gateway_quota_denied_total{tenant="other",policy="daily"} 1"#;
    assert!(metrics.contains(denied), "{metrics}");
    assert!(metrics.contains(r#"dcams_gateway_quota_left{tenant="other",policy="daily"} 0"#));
}

#[tokio::test]
async fn who_waits_as_long_as_retry_after_says_is_let_through() {
    let world = limited("[tenants.quota]\nrate = \"1/s\"\nburst = 2").await;
    let answers = join_all((0..2).map(|_| world.ask(STATUS))).await;
    assert!(answers.iter().all(|answer| answer.status == 404));
    for _ in 0..2 {
        let mut answer = world.ask(STATUS).await;
        while answer.status != 429 {
            answer = world.ask(STATUS).await;
        }
        assert_eq!(refused(&answer), (429, "rate_limited".into()));
        let wait = header(&answer, "retry-after").parse().unwrap();
        tokio::time::sleep(Duration::from_secs(wait)).await;
        assert_eq!(world.ask(STATUS).await.status, 404);
    }
}

#[tokio::test]
async fn no_more_at_a_time_than_may_be() {
    let world = limited("[tenants.quota]\nconcurrency = 2").await;
    // The first shows that the credential is good; until then there is one at a time.
    assert_eq!(world.ask(STATUS).await.status, 404);
    world
        .simulator
        .add_fault(Fault::times(FaultKind::Hang {}, 2))
        .unwrap();
    let held = join_all((0..2).map(|_| world.ask(STATUS)));
    let more = async {
        world.simulator.arrived(3).await;
        let more = world.ask(STATUS).await;
        world.simulator.clear_faults();
        more
    };
    let (held, more) = tokio::join!(held, more);
    assert_eq!(refused(&more), (429, "too_many_concurrent_requests".into()));
    assert_eq!(header(&more, "retry-after"), "1");
    assert_eq!(
        header(&more, "ratelimit-policy"),
        "\"concurrency\";q=2;qu=\"concurrent-requests\""
    );
    assert_eq!(held.len(), 2);
    assert_eq!(world.ask(STATUS).await.status, 404);
}

#[tokio::test]
async fn what_is_refused_for_its_body_costs_its_rate_alone() {
    let world = limited("[tenants.quota]\nrate = \"1/h\"\nburst = 2\ndaily = 5").await;
    let token = world.token_of("other", &Operation::ALL, None);
    let bad = world
        .post(&token, &json!({"service": "getStatus", "target": {}}))
        .await;
    assert_eq!(bad.status, 400);
    assert!(
        header(&bad, "ratelimit").starts_with("\"rate\";r=1;"),
        "{bad:?}"
    );
    assert_eq!(world.ask(STATUS).await.status, 404);
    assert_eq!(
        refused(&world.ask(STATUS).await),
        (429, "rate_limited".into())
    );
    assert_eq!(world.used("daily").await, 1);
}

#[tokio::test]
async fn each_service_costs_what_is_configured() {
    let quota =
        "[tenants.quota]\nmonthly = 10\n[quota.cost]\ncreateOrUpdateCustomer = 7\ngetStatus = 0";
    let world = limited(quota).await;
    for _ in 0..5 {
        assert_eq!(world.ask(STATUS).await.status, 404);
    }
    assert_eq!(
        world.ask(Operation::CreateOrUpdateCustomer).await.status,
        200
    );
    assert_eq!(world.used("monthly").await, 7);
    let answer = world.ask(Operation::CreateOrUpdateCustomer).await;
    assert_eq!(refused(&answer), (429, "quota_exhausted".into()));
    for _ in 0..3 {
        assert_eq!(world.ask(Operation::GetDocumentImages).await.status, 200);
    }
    assert_eq!(world.ask(STATUS).await.status, 200);
    assert_eq!(world.ask(Operation::GetDocumentImages).await.status, 429);
}

/// The table of `docs/QUOTAS.md`: what came of a request, and whether its charge stays.
#[tokio::test]
async fn a_charge_is_kept_or_given_back_by_what_happened() {
    let world = World::with(
        &format!("{OTHER_TENANT}[tenants.quota]\ndaily = 100"),
        &[
            ("UPSTREAM__TIMEOUT", "1s"),
            ("UPSTREAM__CONNECT_TIMEOUT", "1s"),
        ],
    )
    .await;
    let accepted = || {
        let login =
            dcams_gateway::simulator::Login::new(crate::support::OTHER_USER, crate::support::PASS);
        world.simulator.set_credentials(vec![login]);
    };
    accepted();
    let said = |status| FaultKind::Status {
        status,
        message: "busy".to_owned(),
        retry_after: None,
    };
    let table = [
        ("succeeded", None, 200, 1),
        (
            "closed without an answer",
            Some(FaultKind::Close {}),
            502,
            1,
        ),
        ("no answer in time", Some(FaultKind::Hang {}), 504, 1),
        (
            "an answer without sense",
            Some(FaultKind::Malformed {}),
            502,
            1,
        ),
        ("unavailable", Some(said(503)), 502, 0),
        ("another failure", Some(said(500)), 502, 1),
    ];
    let mut used = 0;
    for (what, fault, status, cost) in table {
        if let Some(fault) = fault {
            world.simulator.add_fault(Fault::once(fault)).unwrap();
        }
        let answer = world.ask(Operation::CreateOrUpdateCustomer).await;
        assert_eq!(answer.status, status, "{what}: {}", answer.text);
        used += cost;
        assert_eq!(world.used("daily").await, used, "{what}");
    }
    // Every login is refused: nothing was done.
    world.simulator.set_credentials(Vec::new());
    assert_eq!(
        world.ask(Operation::CreateOrUpdateCustomer).await.status,
        502
    );
    assert_eq!(world.used("daily").await, used, "the login was refused");
}

#[tokio::test]
async fn a_client_that_hangs_up_is_charged_for_what_was_sent() {
    let world = limited("[tenants.quota]\ndaily = 100").await;
    world
        .simulator
        .add_fault(Fault::always(FaultKind::Delay { ms: 300 }))
        .unwrap();
    let asked = world.ask(STATUS);
    let left = async {
        tokio::select! {
            answer = asked => panic!("{answer:?}"),
            () = world.simulator.arrived(1) => {}
        }
    };
    left.await;
    world.audit.until(1).await;
    assert_eq!(world.used("daily").await, 1);
    assert_ends_sound(&world).await;
}

/// The last file of a world's trail.
fn newest(world: &World) -> PathBuf {
    let files = fs::read_dir(world.folder().join("audit")).unwrap();
    let files = files.map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|kind| kind == "jsonl"));
    files.max().unwrap()
}

#[tokio::test]
async fn what_cannot_be_recorded_costs_nothing_and_says_nothing_of_the_credential() {
    let toml = format!("{OTHER_TENANT}[tenants.quota]\ndaily = 100");
    let seldom = [("AUDIT__CHECKPOINT_EVERY", "1h")];
    let Some((world, disk)) = on_a_disk(&toml, &seldom).await else {
        return;
    };
    let token = world.token_of("other", &Operation::ALL, None);
    // Of the block that was begun so little is left that no intent fits into it.
    let left = || 4096 - fs::metadata(newest(&world)).unwrap().len() % 4096;
    while left() > 500 {
        assert_eq!(world.post_text(&token, "{").await.status, 400);
    }
    disk.fill();
    let refused = world.ask(STATUS).await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (503, "audit_unavailable")
    );
    assert!(world.simulator.requests().is_empty());
    let list = world.operator("/api/credentials").await.json();
    let credential = &list["accounts"][1]["credentials"][0];
    let said = ["last_accepted", "last_refused", "in_flight"];
    assert_eq!(
        json!(said.map(|name| &credential[name])),
        json!([null, null, 0]),
        "{list}"
    );
    disk.free();
    let served = async { while world.usage().await.status != 200 {} };
    timeout(Duration::from_secs(30), served).await.unwrap();
    assert_eq!(world.used("daily").await, 0);
    // It was let through by everything before: what failed is its intent.
    let events = world.recorded().await.events();
    let event = events
        .iter()
        .find(|event| event["request_id"] == header(&refused, "x-request-id"));
    let event = event.unwrap();
    assert_eq!(
        json!([
            event["decision"],
            event["code"],
            event["service"],
            event["attempts"]
        ]),
        json!(["refuse", "audit_unavailable", "getStatus", 0])
    );
    assert_ends_sound(&world).await;
}

#[tokio::test]
async fn one_end_user_cannot_spend_the_tenants_day() {
    let world = limited("[tenants.quota]\ndaily = 100\n[tenants.per_subject]\ndaily = 2").await;
    for _ in 0..2 {
        assert_eq!(world.ask(STATUS).await.status, 404);
    }
    let answer = world.ask(STATUS).await;
    assert_eq!(refused(&answer), (429, "quota_exhausted".into()));
    assert!(
        answer.json()["detail"]
            .as_str()
            .unwrap()
            .contains("subject_daily")
    );
    assert!(
        header(&answer, "ratelimit").contains("\"subject_daily\";r=0;"),
        "{answer:?}"
    );
    assert_eq!(world.used("daily").await, 2);
}

#[tokio::test]
async fn a_reload_changes_limits_and_keeps_what_was_used() {
    let world = limited("[tenants.quota]\ndaily = 3").await;
    for _ in 0..3 {
        assert_eq!(world.ask(STATUS).await.status, 404);
    }
    assert_eq!(world.ask(STATUS).await.status, 429);
    world
        .change(&format!("{OTHER_TENANT}[tenants.quota]\ndaily = 4"))
        .await;
    assert_eq!(world.ask(STATUS).await.status, 404);
    assert_eq!(world.ask(STATUS).await.status, 429);
}

#[tokio::test]
async fn a_tenant_is_told_its_own_limits_and_that_costs_nothing() {
    let quota = "[tenants.quota]\nrate = \"100/s\"\nburst = 50\nconcurrency = 5\ndaily = 10\n\
        bytes_daily = \"20MB\"\nmonthly = 20\ntime_zone = \"Asia/Kolkata\"\n[tenants.per_subject]\ndaily = 4";
    let world = limited(quota).await;
    assert_eq!(world.ask(STATUS).await.status, 404);
    for _ in 0..3 {
        let document = world.usage().await.json();
        assert_eq!(document["tenant"], "other");
        let limits: Vec<Value> = document["limits"].as_array().unwrap().clone();
        let shown: Vec<_> = limits
            .iter()
            .map(|l| (l["policy"].as_str().unwrap(), l["limit"].as_u64().unwrap()))
            .collect();
        let expected = [
            ("rate", 50),
            ("concurrency", 5),
            ("daily", 10),
            ("bytes_daily", 20_000_000),
            ("monthly", 20),
            ("subject_daily", 4),
        ];
        assert_eq!(shown, expected);
        assert_eq!(
            (&limits[2]["used"], &limits[2]["left"]),
            (&1.into(), &9.into())
        );
        // Midnight in Kolkata is half past six in the evening in London.
        let resets = limits[2]["resets_at"].as_str().unwrap();
        assert!(resets.contains("T18:30:00"), "{resets}");
    }
    let answer = world
        .client
        .get(format!("http://{}/v1/usage", world.gateway));
    assert_eq!(answer.send().await.unwrap().status(), 401);
    let posted = world
        .client
        .post(format!("http://{}/v1/usage", world.gateway));
    let posted = posted.send().await.unwrap();
    assert_eq!(
        (posted.status().as_u16(), &posted.headers()["allow"]),
        (405, &"GET".parse().unwrap())
    );
    // The other tenant has no limits, and hears of none.
    let token = world.full_token();
    let answer = world.post(&token, &lookup(STATUS)).await;
    assert_eq!(header(&answer, "ratelimit"), "");
}

#[tokio::test]
async fn coming_close_to_a_limit_is_told_once() {
    let world = limited("[tenants.quota]\ndaily = 10\nwarn_at = 0.5").await;
    for _ in 0..8 {
        world.ask(STATUS).await;
    }
    let acts = world
        .audit
        .until_acts("quota_warning", |acts| !acts.is_empty())
        .await;
    let [act] = &acts[..] else { panic!("{acts:?}") };
    assert_eq!(
        (&act["tenant"], &act["policy"]),
        (&"other".into(), &"daily".into())
    );
    assert_eq!(act["limit"], 10);
    let metrics = world.operator("/metrics").await.text;
    let told = r#"dcams_gateway_quota_warnings_total{tenant="other",policy="daily"} 1"#;
    assert!(metrics.contains(told), "{metrics}");
}
