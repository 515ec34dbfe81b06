//! What is on disk before what: an intent before its first byte goes upstream, an outcome before its answer
//! goes out; and what becomes of requests while the disk takes nothing.

use std::{fs, path::Path, process::Command, sync::OnceLock, time::Duration};

use dcams_gateway::{
    clock,
    operation::Operation::{self, *},
    simulator::{
        Login,
        fault::{Fault, FaultKind},
    },
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    disk::Disk,
    program::Served,
    support::{
        Answer, PASS, USER, World, answer, client, load, lookup, mint, simulator, write_secrets,
    },
};

/// A world whose trail has a disk of its own; nothing where there can be none.
pub async fn on_a_disk(toml: &str, variables: &[(&str, &str)]) -> Option<(World, Disk)> {
    let disk = OnceLock::new();
    let world = World::prepared(toml, variables, |folder| {
        disk.set(Disk::mount(folder)).ok();
    })
    .await;
    disk.into_inner().flatten().map(|disk| (world, disk))
}

/// All that is in the trail's files.
pub fn lines(folder: &Path) -> Vec<Value> {
    let mut files: Vec<_> = fs::read_dir(folder.join("audit"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "jsonl"))
        .collect();
    files.sort();
    let texts = files.iter().map(|path| fs::read_to_string(path).unwrap());
    let texts: Vec<String> = texts.collect();
    let lines = texts.iter().flat_map(|text| text.lines());
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn of<'a>(lines: &'a [Value], id: &str) -> Vec<&'a Value> {
    lines
        .iter()
        .filter(|line| line["request_id"] == id)
        .collect()
}

fn id(answer: &Answer) -> &str {
    answer.headers["x-request-id"].to_str().unwrap()
}

#[tokio::test]
async fn an_intent_is_in_the_file_when_dcams_is_asked_and_an_outcome_when_the_client_is_answered() {
    let world = World::start().await;
    let token = world.full_token();
    for (index, operation) in [
        CreateOrUpdateCustomer,
        GetStatus,
        GetDocumentImages,
        UpdateStatus,
    ]
    .into_iter()
    .enumerate()
    {
        world
            .simulator
            .add_fault(Fault::once(FaultKind::Delay { ms: 300 }))
            .unwrap();
        let body = lookup(operation);
        let asked = world.post(&token, &body);
        let seen = async {
            world
                .simulator
                .arrived(u64::try_from(index).unwrap() + 1)
                .await;
            lines(world.folder())
        };
        let (answered, then) = tokio::join!(asked, seen);
        assert_eq!(answered.status, 200, "{}", answered.text);
        let [intent] = of(&then, id(&answered))[..] else {
            panic!("{operation:?}: {then:#?}")
        };
        let said = ["phase", "tenant", "service", "credential", "issuer"];
        assert_eq!(
            json!(said.map(|name| &intent[name])),
            json!(["intent", "demo", operation.name(), "demo-1", "demo-idp"])
        );
        let now = lines(world.folder());
        let [before, outcome] = of(&now, id(&answered))[..] else {
            panic!("{operation:?}: {now:#?}")
        };
        for name in [
            "customer",
            "reference",
            "subject",
            "client",
            "fields",
            "images",
            "service",
        ] {
            assert_eq!(before[name], outcome[name], "{name}");
        }
        assert_eq!(
            json!([before["phase"], outcome["phase"], outcome["decision"]]),
            json!(["intent", "outcome", "forward"])
        );
    }
}

#[tokio::test]
async fn a_refusal_and_the_usage_are_in_the_file_when_they_are_answered_and_have_no_intent() {
    let world = World::start().await;
    let token = world.full_token();
    let refused = world.post_text(&token, "{").await;
    let usage = format!("http://{}/v1/usage", world.gateway);
    let usage = world.client.get(usage).bearer_auth(&token);
    let usage = answer(usage.send().await.unwrap()).await;
    assert_eq!((refused.status, usage.status), (400, 200), "{}", usage.text);
    let now = lines(world.folder());
    for answered in [refused, usage] {
        let [outcome] = of(&now, id(&answered))[..] else {
            panic!("{now:#?}")
        };
        assert_eq!(outcome["phase"], "outcome");
    }
}

/// Asks until it is refused for want of a disk. A block that was begun takes some more.
pub async fn until_refused(world: &World, token: &str, body: &Value) -> Answer {
    for _ in 0..100 {
        let answered = world.post(token, body).await;
        if answered.status == 503 {
            return answered;
        }
    }
    panic!("a full disk is never noticed")
}

pub async fn until_served(world: &World, token: &str, body: &Value) {
    let patience = clock::instant() + Duration::from_secs(30);
    while world.post(token, body).await.status == 503 {
        assert!(clock::instant() < patience, "it does not go on");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn while_the_disk_is_full_nothing_is_sent_and_it_goes_on_by_itself_when_there_is_room() {
    let Some((world, disk)) = on_a_disk("", &[]).await else {
        return;
    };
    let token = world.full_token();
    let body = lookup(CreateOrUpdateCustomer);
    assert_eq!(world.post(&token, &body).await.status, 200);
    disk.fill();
    until_refused(&world, &token, &lookup(GetStatus)).await;
    world.simulator.clear_requests();
    for operation in Operation::ALL {
        let refused = world.post(&token, &lookup(operation)).await;
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (503, "audit_unavailable")
        );
        assert_eq!(refused.headers["retry-after"], "5");
        assert!(
            refused.json()["detail"]
                .as_str()
                .unwrap()
                .starts_with("nothing was sent")
        );
    }
    assert!(world.simulator.requests().is_empty());
    let ready = world.operator("/readyz").await;
    assert_eq!(ready.status, 503, "{}", ready.text);
    assert!(
        ready.text.contains("audit: ") && ready.text.contains("make room"),
        "{}",
        ready.text
    );
    let page = world.operator("/metrics").await.text;
    assert!(page.contains("dcams_gateway_audit_available 0\n"), "{page}");
    disk.free();
    until_served(&world, &token, &body).await;
    assert_eq!(world.operator("/readyz").await.status, 200);
    let now = lines(world.folder());
    let refused = now
        .iter()
        .filter(|line| line["code"] == "audit_unavailable");
    assert!(
        refused.count() >= 5,
        "what was refused meanwhile is told: {now:#?}"
    );
    let page = world.operator("/metrics").await.text;
    assert!(page.contains("dcams_gateway_audit_available 1\n"), "{page}");
    assert!(
        page.contains("dcams_gateway_audit_lost_total 0\n"),
        "{page}"
    );
}

#[tokio::test]
async fn an_answer_whose_outcome_cannot_be_recorded_is_withheld_and_that_is_recorded() {
    let Some((world, disk)) = on_a_disk("[audit]\nreceipt = true\n", &[]).await else {
        return;
    };
    let token = world.full_token();
    world.post(&token, &lookup(CreateOrUpdateCustomer)).await;
    // More outcomes than a block takes that was begun.
    let count = 16;
    let delay = Fault::times(FaultKind::Delay { ms: 1_000 }, count);
    world.simulator.add_fault(delay).unwrap();
    let status = lookup(GetStatus);
    let asking = (0..count).map(|_| world.post(&token, &status));
    let filling = async {
        world.simulator.arrived(count + 1).await;
        disk.fill();
    };
    let (answers, ()) = tokio::join!(futures_util::future::join_all(asking), filling);
    let withheld: Vec<_> = answers
        .iter()
        .filter(|answer| answer.status == 503)
        .collect();
    assert!(!withheld.is_empty(), "{answers:?}");
    disk.free();
    until_served(&world, &token, &status).await;
    let now = lines(world.folder());
    for answer in &answers {
        let of_it = of(&now, id(answer));
        let told: Vec<_> = of_it
            .iter()
            .map(|line| line["phase"].as_str().unwrap())
            .collect();
        let said: Vec<_> = of_it.iter().map(|line| &line["code"]).collect();
        assert_eq!(
            (told[0], told[1], said[1]),
            ("intent", "outcome", &json!("ok"))
        );
        let receipt = answer.headers.contains_key("audit-receipt");
        assert_eq!(receipt, answer.status == 200, "{answer:?}");
        if answer.status == 503 {
            assert_eq!(answer.code(), "audit_unavailable");
            assert!(
                answer.text.contains("may have been done"),
                "{}",
                answer.text
            );
            assert_eq!(
                (told.len(), &of_it[2]["event"]),
                (3, &json!("answer_withheld"))
            );
            assert_eq!(of_it[2]["http_status"], 503);
        } else {
            assert_eq!((answer.status, told.len()), (200, 2));
        }
    }
    let page = world.operator("/metrics").await.text;
    let counted = format!("dcams_gateway_answers_withheld_total {}\n", withheld.len());
    assert!(page.contains(&counted), "{counted}{page}");
}

#[tokio::test]
async fn with_best_effort_a_full_disk_refuses_nobody_and_events_are_written_later() {
    let variables = [("AUDIT__DURABILITY", "best_effort")];
    let Some((world, disk)) = on_a_disk("", &variables).await else {
        return;
    };
    let token = world.full_token();
    world.post(&token, &lookup(CreateOrUpdateCustomer)).await;
    disk.fill();
    for _ in 0..20 {
        let answered = world.post(&token, &lookup(GetStatus)).await;
        assert_eq!(answered.status, 200, "{}", answered.text);
        let refused = world.post_text(&token, "{").await;
        assert_eq!(refused.status, 400);
    }
    assert_eq!(world.operator("/readyz").await.status, 200);
    disk.free();
    let outcomes = world.audit.until(41).await;
    assert_eq!(outcomes.len(), 41);
    let page = world.operator("/metrics").await.text;
    assert!(
        page.contains("dcams_gateway_audit_lost_total 0\n"),
        "{page}"
    );
}

#[tokio::test]
async fn standard_output_that_takes_nothing_costs_its_copy_and_no_answer() {
    use crate::support::Broken;
    let world = World::start().await;
    let token = world.full_token();
    world.post(&token, &lookup(CreateOrUpdateCustomer)).await;
    for broken in [Broken::Errors, Broken::Panics] {
        world.audit.fail(Some(broken));
        assert_eq!(world.post(&token, &lookup(GetStatus)).await.status, 200);
        assert_eq!(world.post_text(&token, "{").await.status, 400);
        world.audit.fail(None);
    }
    let now = lines(world.folder());
    let outcomes = now.iter().filter(|line| line["phase"] == "outcome");
    assert_eq!(outcomes.count(), 5);
}

/// The lines of a trace, in the order in which the calls began or ended.
fn find(trace: &[&str], from: usize, what: impl Fn(&str) -> bool) -> usize {
    let found = trace.iter().skip(from).position(|line| what(line));
    from + found.unwrap_or_else(|| panic!("not in {trace:#?}"))
}

#[tokio::test]
async fn the_disk_has_an_intent_before_a_byte_leaves_and_an_outcome_before_the_answer() {
    let stop = CancellationToken::new();
    let simulator = simulator(Login::new(USER, PASS), stop.clone()).await;
    let folder = tempfile::tempdir().unwrap();
    write_secrets(folder.path());
    let quiet = [("DCAMS_GATEWAY__AUDIT__STDOUT", "false")];
    let program = Served::command(folder.path(), &simulator.url(), "", &quiet);
    let trace = folder.path().join("trace");
    let mut traced = Command::new("strace");
    let calls = "trace=fdatasync,fsync,write,writev,sendto,sendmsg";
    traced
        .args(["-D", "-f", "-s", "4000", "-e", calls, "-o"])
        .arg(&trace)
        .arg(program.get_program())
        .args(program.get_args())
        .env_clear()
        .envs(
            program
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    let served = Served::run(&mut traced).await;
    let config = load(folder.path(), &simulator.url(), &[]);
    let token = mint(&config, 0, &Operation::ALL, None);
    let request = client().post(served.url()).bearer_auth(token);
    let request = request.json(&lookup(UpdateStatus));
    let answered = answer(request.send().await.unwrap()).await;
    assert_eq!(answered.code(), "customer_not_found");
    // With -D it is the gateway that was started here.
    served.program.signal("TERM");
    served.program.end().await;
    let text = fs::read_to_string(&trace).unwrap();
    let trace: Vec<&str> = text.lines().collect();
    let written = |phase: &'static str| {
        move |line: &str| {
            line.contains("write") && line.contains(&format!(r#"\"phase\":\"{phase}\""#))
        }
    };
    let synced = |line: &str| line.contains("sync") && line.trim_end().ends_with("= 0");
    let intent = find(&trace, 0, written("intent"));
    let synced_intent = find(&trace, intent, synced);
    let sent = find(&trace, 0, |line| line.contains("POST /"));
    let outcome = find(&trace, intent, written("outcome"));
    let synced_outcome = find(&trace, outcome, synced);
    let told = find(&trace, 0, |line| line.contains("HTTP/1.1 404"));
    assert!(
        intent < synced_intent && synced_intent < sent && sent < outcome,
        "{trace:#?}"
    );
    assert!(synced_outcome < told, "{trace:#?}");
    stop.cancel();
}
