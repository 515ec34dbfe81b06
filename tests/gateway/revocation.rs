//! Revoked tokens: by every kind of target, at once, also where they are remembered, after a restart,
//! and by whoever holds the state.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use dcams_gateway::{
    operation::Operation::{self, *},
    simulator::Login,
};
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    program::{self, NOT_RECORDED, Served, limit_files, limitable},
    support::{
        Answer, ISSUER_KEY, PASS, USER, World, answer, client, load, lookup, mint, simulator,
        write_secrets,
    },
};

/// A token of the demo's issuer that says these things of itself.
fn token(kid: Option<&str>, claims: Value) -> String {
    dcams_gateway::auth::install_crypto();
    let now = dcams_gateway::clock::now().as_second();
    let mut all = json!({
        "iss": "https://idp.demo.example/", "aud": "dcams-gateway", "tenant": "demo",
        "scope": "dcams:status:read", "iat": now - 60, "exp": now + 600,
    });
    all.as_object_mut()
        .unwrap()
        .extend(claims.as_object().unwrap().clone());
    all.as_object_mut()
        .unwrap()
        .retain(|_, value| !value.is_null());
    let header = Header {
        kid: kid.map(str::to_owned),
        ..Header::default()
    };
    encode(
        &header,
        &all,
        &EncodingKey::from_secret(ISSUER_KEY.as_bytes()),
    )
    .unwrap()
}

async fn status(world: &World, token: &str) -> u16 {
    world.post(token, &lookup(GetStatus)).await.status
}

async fn revoke(world: &World, body: Value) -> Answer {
    let url = format!("http://{}/api/revocations", world.admin);
    answer(world.client.post(url).json(&body).send().await.unwrap()).await
}

/// What the simulator says of a customer that nobody created: the token was good.
const PASSED: u16 = 404;

#[tokio::test]
async fn each_kind_of_target_refuses_its_tokens_and_no_others() {
    let past = "2026-01-01T00:00:00Z";
    for (request, refused, kept) in [
        (
            json!({"issuer": "demo-idp", "jti": "t-1"}),
            token(None, json!({"jti": "t-1"})),
            token(None, json!({"jti": "t-2", "sub": "t-1"})),
        ),
        (
            json!({"issuer": "demo-idp", "subject": "ann"}),
            token(None, json!({"sub": "ann", "jti": "t-1"})),
            token(None, json!({"sub": "bob", "jti": "ann"})),
        ),
        (
            json!({"tenant": "demo", "issued_before": past}),
            token(None, json!({"iat": null})),
            token(None, json!({})),
        ),
        (
            json!({"issuer": "demo-idp", "issued_before": past}),
            token(None, json!({"iat": null})),
            token(None, json!({})),
        ),
        (
            json!({"issued_before": past}),
            token(None, json!({"iat": null})),
            token(None, json!({})),
        ),
    ] {
        let world = World::start().await;
        // Both are remembered before the one is revoked.
        assert_eq!(status(&world, &refused).await, PASSED, "{request}");
        assert_eq!(status(&world, &kept).await, PASSED);
        let answer = revoke(&world, request.clone()).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let answer = world.post(&refused, &lookup(GetStatus)).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (401, "invalid_token"),
            "{request}"
        );
        assert_eq!(status(&world, &kept).await, PASSED, "{request}");
        assert_eq!(world.simulator.requests().len(), 3);
    }
}

#[tokio::test]
async fn from_the_moment_that_it_is_acknowledged_no_request_is_accepted() {
    let world = Arc::new(World::start().await);
    let token = Arc::new(token(None, json!({"jti": "leaked"})));
    let acknowledged = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        let (world, token) = (Arc::clone(&world), Arc::clone(&token));
        let acknowledged = Arc::clone(&acknowledged);
        clients.spawn(async move {
            let (mut accepted, mut after) = (0, 0);
            while after < 50 {
                let begun_after = acknowledged.load(Relaxed);
                let status = status(&world, &token).await;
                accepted += usize::from(status == PASSED);
                assert!(
                    !begun_after || status == 401,
                    "accepted after it was revoked"
                );
                after += usize::from(begun_after);
            }
            accepted
        });
    }
    // They are under way, and the token is remembered.
    while world.simulator.requests().len() < 20 {
        tokio::task::yield_now().await;
    }
    let answer = revoke(&world, json!({"issuer": "demo-idp", "jti": "leaked"})).await;
    assert_eq!(answer.status, 201);
    acknowledged.store(true, Relaxed);
    let accepted: usize = clients.join_all().await.into_iter().sum();
    assert!(accepted >= 20);
}

#[tokio::test]
async fn what_is_in_force_is_listed_without_subjects_and_can_be_taken_back() {
    let world = World::start().await;
    let ann = token(None, json!({"sub": "ann-of-the-canaries"}));
    let made = revoke(
        &world,
        json!({"issuer": "demo-idp", "subject": "ann-of-the-canaries"}),
    )
    .await;
    let id = made.json()["id"].as_str().unwrap().to_owned();
    let list = world.operator("/api/revocations").await;
    assert_eq!(list.json()["revocations"][0], made.json());
    assert_eq!(list.json()["revocations"][0]["kind"], "subject");
    assert!(!list.text.contains("canaries"), "{}", list.text);
    assert_eq!(status(&world, &ann).await, 401);
    let url = format!("http://{}/api/revocations/{id}", world.admin);
    let gone = answer(world.client.delete(&url).send().await.unwrap()).await;
    assert_eq!(gone.status, 200);
    assert_eq!(status(&world, &ann).await, PASSED);
    let again = answer(world.client.delete(&url).send().await.unwrap()).await;
    assert_eq!(again.status, 404);
    assert_eq!(
        world.operator("/api/revocations").await.json()["revocations"],
        json!([])
    );
}

#[tokio::test]
async fn what_stands_in_the_configuration_is_in_force_and_removed_only_there() {
    let toml = r#"
[[revocations]]
issuer = "demo-idp"
subject = "ann"
[[revocations]]
tenant = "demo"
issued_before = "2026-01-01T00:00:00Z"
"#;
    let world = World::with(toml, &[]).await;
    let refused = [json!({"sub": "ann"}), json!({"iat": null})];
    for claims in refused {
        assert_eq!(status(&world, &token(None, claims)).await, 401);
    }
    assert_eq!(
        status(&world, &token(None, json!({"sub": "bob"}))).await,
        PASSED
    );
    let list = world.operator("/api/revocations").await.json();
    assert_eq!(list["revocations"].as_array().unwrap().len(), 2);
    for entry in list["revocations"].as_array().unwrap() {
        assert_eq!(entry["configured"], true);
        let id = entry["id"].as_str().unwrap();
        let url = format!("http://{}/api/revocations/{id}", world.admin);
        let answer = answer(world.client.delete(url).send().await.unwrap()).await;
        assert_eq!(answer.status, 409);
    }
    // One more for the same subject, taken back again: the configured one stays.
    let made = revoke(&world, json!({"issuer": "demo-idp", "subject": "ann"})).await;
    let id = made.json()["id"].as_str().unwrap().to_owned();
    let url = format!("http://{}/api/revocations/{id}", world.admin);
    assert_eq!(world.client.delete(url).send().await.unwrap().status(), 200);
    assert_eq!(
        status(&world, &token(None, json!({"sub": "ann"}))).await,
        401
    );
}

#[tokio::test]
async fn a_bad_request_is_refused_with_its_mend_and_repeats_nothing() {
    let world = World::start().await;
    for (body, status) in [
        (r#"{"issuer":"canary-idp","jti":"x"}"#, 400),
        (r#"{"jti":"canary"}"#, 400),
        (r#"{"issuer":"demo-idp","kid":"canary"}"#, 400),
        (
            r#"{"tenant":"demo","issued_before":"2099-01-01T00:00:00Z"}"#,
            400,
        ),
        (r#"{"tenant":"canary"}"#, 400),
        (r#"{"subjekt":"canary"}"#, 400),
        (r#"{"tenant":["canary"]}"#, 400),
        (r#"{"tenant":"demo","issued_before":"canary"}"#, 400),
        (r#"{"tenant":"demo","expires":"2020-01-01T00:00:00Z"}"#, 400),
        (r#"{"tenant":"demo","tenant":"demo"}"#, 400),
        ("canary", 400),
        ("", 400),
        ("[]", 400),
    ] {
        let url = format!("http://{}/api/revocations", world.admin);
        let request = world.client.post(url).body(body);
        let request = request.header("content-type", "application/json");
        let answer = answer(request.send().await.unwrap()).await;
        assert_eq!(answer.status, status, "{body}");
        assert!(!answer.text.contains("canary"), "{}", answer.text);
        assert!(
            answer.json()["detail"].as_str().unwrap().len() > 10,
            "{}",
            answer.text
        );
    }
    let url = format!("http://{}/api/revocations", world.admin);
    let long = world
        .client
        .post(&url)
        .header("content-type", "application/json");
    let long = long.body(" ".repeat(1024 * 1024 + 1)).send().await.unwrap();
    assert_eq!(long.status(), 413);
    assert_eq!(world.client.put(&url).send().await.unwrap().status(), 405);
    assert_eq!(world.operator("/api/nothing").await.status, 404);
    assert_eq!(
        world.operator("/api/revocations").await.json()["revocations"],
        json!([])
    );
}

#[tokio::test]
async fn no_web_page_can_revoke_in_the_operators_name() {
    let world = World::start().await;
    let url = format!("http://{}/api/revocations", world.admin);
    let body = r#"{"tenant":"demo"}"#;
    // What a form or a script of another origin can send without being asked about it first.
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
    ] {
        let request = world
            .client
            .post(&url)
            .header("content-type", kind)
            .body(body);
        assert_eq!(request.send().await.unwrap().status(), 415, "{kind}");
    }
    // A page whose own name resolves to this machine.
    for host in [
        "attacker.example",
        "attacker.example:9090",
        "127.0.0.1.example",
        "",
    ] {
        let request = world
            .client
            .post(&url)
            .header("content-type", "application/json");
        let request = request.header("host", host).body(body);
        assert_eq!(request.send().await.unwrap().status(), 403, "{host}");
    }
    let metrics = format!("http://{}/metrics", world.admin);
    let request = world
        .client
        .get(&metrics)
        .header("host", "attacker.example");
    assert_eq!(request.send().await.unwrap().status(), 403);
    // A probe may come by any name.
    let probe = format!("http://{}/livez", world.admin);
    let request = world.client.get(&probe).header("host", "gateway.example");
    assert_eq!(request.send().await.unwrap().status(), 200);
    for host in ["localhost", "127.0.0.1:1", "[::1]:9090"] {
        let request = world.client.get(&url).header("host", host);
        assert_eq!(request.send().await.unwrap().status(), 200, "{host}");
    }
    assert_eq!(
        world.operator("/api/revocations").await.json()["revocations"],
        json!([])
    );
}

#[tokio::test]
async fn with_an_admin_token_nothing_is_done_without_it() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("admin");
    fs::write(&path, "an-admin-token-of-the-tests").unwrap();
    let toml = format!("[admin]\ntoken = {{ file = {path:?} }}\n");
    let world = World::with(&toml, &[]).await;
    let url = format!("http://{}/api/revocations", world.admin);
    for given in [None, Some("another-admin-token-of-tests")] {
        let mut request = world.client.post(&url).json(&json!({"tenant": "demo"}));
        if let Some(token) = given {
            request = request.bearer_auth(token);
        }
        assert_eq!(request.send().await.unwrap().status(), 401);
    }
    assert_eq!(status(&world, &token(None, json!({}))).await, PASSED);
    let request = world.client.post(&url).json(&json!({"tenant": "demo"}));
    let request = request.bearer_auth("an-admin-token-of-the-tests");
    assert_eq!(request.send().await.unwrap().status(), 201);
    assert_eq!(status(&world, &token(None, json!({}))).await, 401);
}

/// The binary's own commands, on a folder that a gateway may have open.
async fn command(
    folder: &TempDir,
    variables: &[(&str, &str)],
    arguments: &[&str],
) -> program::Ended {
    let path = |name: &str| folder.path().join(name).display().to_string();
    let mut all: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
    all.splice(
        2..2,
        ["--config".to_owned(), path("demo.toml"), path("more.toml")],
    );
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    program::run(&all, variables).await
}

#[tokio::test]
async fn a_revocation_survives_a_kill_and_is_made_by_command_with_and_without_a_gateway() {
    dcams_gateway::auth::install_crypto();
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let simulator = simulator(Login::new(USER, PASS), stop).await;
    let folder = TempDir::new().unwrap();
    write_secrets(folder.path());
    let url = simulator.url();
    let (first, second, third) = (
        token(None, json!({"jti": "first"})),
        token(None, json!({"jti": "second"})),
        mint_of(&folder, &url),
    );
    let ask = async |served: &Served, token: &str| {
        let request = client().post(served.url()).bearer_auth(token);
        let request = request.json(&lookup(GetStatus));
        request.send().await.unwrap().status().as_u16()
    };
    // While it runs, through the gateway.
    let served = Served::start(folder.path(), &url, "", &[]).await;
    assert_eq!(ask(&served, &first).await, PASSED);
    let admin = served.admin.to_string();
    let listen = [("DCAMS_GATEWAY__ADMIN__LISTEN", admin.as_str())];
    let add = [
        "revocations",
        "add",
        "--issuer",
        "demo-idp",
        "--jti",
        "first",
    ];
    let ended = command(&folder, &listen, &add).await;
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(ask(&served, &first).await, 401);
    served.program.signal("KILL");
    drop(served);
    // While none runs, in the store itself.
    let add = [
        "revocations",
        "add",
        "--issuer",
        "demo-idp",
        "--jti",
        "second",
    ];
    let ended = command(&folder, &listen, &add).await;
    assert!(ended.status.success(), "{ended:?}");
    let entry: Value = serde_json::from_str(&ended.out).unwrap();
    let ended = command(&folder, &listen, &["revocations", "list"]).await;
    assert_eq!(ended.out.lines().count(), 2, "{ended:?}");

    let served = Served::start(folder.path(), &url, "", &[]).await;
    assert_eq!(ask(&served, &first).await, 401);
    assert_eq!(ask(&served, &second).await, 401);
    assert_eq!(ask(&served, &third).await, PASSED);
    drop(served);
    let id = entry["id"].as_str().unwrap();
    let ended = command(&folder, &listen, &["revocations", "remove", "--id", id]).await;
    assert!(ended.status.success(), "{ended:?}");
    let ended = command(&folder, &listen, &["revocations", "remove", "--id", id]).await;
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    let ended = command(&folder, &listen, &["revocations", "add", "--jti", "x"]).await;
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    assert!(ended.err.contains("issuer"), "{ended:?}");
}

#[tokio::test]
async fn a_command_asks_the_gateway_that_runs_wherever_it_is_run_itself() {
    dcams_gateway::auth::install_crypto();
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let simulator = simulator(Login::new(USER, PASS), stop).await;
    let folder = TempDir::new().unwrap();
    write_secrets(folder.path());
    let url = simulator.url();
    let served = Served::start(folder.path(), &url, "", &[]).await;
    let leaked = token(None, json!({"sub": "ann"}));
    let ask = async || {
        let request = client().post(served.url()).bearer_auth(&leaked);
        let request = request.json(&lookup(GetStatus));
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(ask().await, PASSED);
    // A relative `state.path` leads elsewhere from another folder.
    let elsewhere = folder.path().join("elsewhere");
    let (admin, state) = (served.admin.to_string(), elsewhere.display().to_string());
    let variables = [
        ("DCAMS_GATEWAY__ADMIN__LISTEN", admin.as_str()),
        ("DCAMS_GATEWAY__STATE__PATH", state.as_str()),
    ];
    let ann = ["--issuer", "demo-idp", "--subject", "ann"];
    let add = [&["revocations", "add"], &ann[..]].concat();
    let ended = command(&folder, &variables, &add).await;
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(ask().await, 401);
    assert!(!elsewhere.exists());
    // What was added by its name can be taken back by it, though `list` does not show the subject.
    let remove = [&["revocations", "remove"], &ann[..]].concat();
    let ended = command(&folder, &variables, &remove).await;
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(ask().await, PASSED);
}

#[tokio::test]
async fn a_revocation_that_the_disk_does_not_take_is_in_force_and_not_acknowledged() {
    dcams_gateway::auth::install_crypto();
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let simulator = simulator(Login::new(USER, PASS), stop).await;
    let folder = TempDir::new().unwrap();
    write_secrets(folder.path());
    let program = Served::command(folder.path(), &simulator.url(), "", &NOT_RECORDED);
    let served = Served::run(&mut limitable(&program)).await;
    let leaked = token(None, json!({"jti": "leaked"}));
    let ask = async || {
        let request = client().post(served.url()).bearer_auth(&leaked);
        let request = request.json(&lookup(GetStatus));
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(ask().await, PASSED);
    limit_files(served.program.id, "0");
    let url = format!("http://{}/api/revocations", served.admin);
    let body = json!({"issuer": "demo-idp", "jti": "leaked"});
    let request = client().post(url).json(&body);
    assert_eq!(request.send().await.unwrap().status(), 503);
    assert_eq!(ask().await, 401);
}

fn mint_of(folder: &TempDir, url: &str) -> String {
    fs::write(folder.path().join("more.toml"), "").unwrap();
    mint(&load(folder.path(), url, &[]), 0, &Operation::ALL, None)
}
