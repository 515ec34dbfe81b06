//! Two gateways on one Redis: what one learns the other knows, and what both do while it is away.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use dcams_gateway::operation::Operation::{CreateOrUpdateCustomer, GetStatus};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::server::{RedisServer, free_port};
use crate::{
    ownership::{tokens, toml},
    program,
    support::{Answer, EMAIL, OTHER_USER, PASS, USER, World, answer, lookup, write_secrets},
};
use dcams_gateway::simulator::Login;

/// What the simulator says of a customer that nobody created: the request passed.
const PASSED: u16 = 404;

/// The state in this Redis, with a bound that a busy machine keeps.
fn state(server: &RedisServer) -> String {
    state_at(&server.url())
}

fn state_at(url: &str) -> String {
    format!(
        "[state]\nbackend = \"redis\"\n[state.redis]\nurls = [\"{url}\"]\nnodes = 2\ntimeout = \"500ms\"\n"
    )
}

async fn gateway(server: &RedisServer) -> World {
    let world = World::with(&(state(server) + &toml("", "")), &[]).await;
    let logins = [USER, OTHER_USER].map(|user| Login::new(user, PASS));
    world.simulator.set_credentials(logins.into());
    world
}

async fn revoke(world: &World) -> Answer {
    let url = format!("http://{}/api/revocations", world.admin);
    let body = json!({"issuer": "demo-idp", "subject": "subject-of-the-token"});
    answer(world.client.post(url).json(&body).send().await.unwrap()).await
}

async fn take_back(world: &World, id: &Value) {
    let url = format!(
        "http://{}/api/revocations/{}",
        world.admin,
        id.as_str().unwrap()
    );
    let answer = answer(world.client.delete(url).send().await.unwrap()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}

async fn status(world: &World) -> u16 {
    world
        .post(&world.full_token(), &lookup(GetStatus))
        .await
        .status
}

/// How long it took until the gateway answers so.
async fn until_status(world: &World, expected: u16) -> Duration {
    let began = Instant::now();
    while status(world).await != expected {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "never {expected}"
        );
        sleep(Duration::from_millis(20)).await;
    }
    began.elapsed()
}

/// Waits until the admin page says this of the store, or no more.
async fn until_page(world: &World, says: &str, expected: bool) {
    let began = Instant::now();
    loop {
        let page = world.operator("/readyz").await;
        assert_eq!(page.status, 200, "{}", page.text);
        if page.text.contains(says) == expected {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{}", page.text);
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_revocation_on_one_gateway_bites_on_the_other_within_a_second_or_two() {
    let mut server = RedisServer::start();
    let (a, b) = (gateway(&server).await, gateway(&server).await);
    assert_eq!((status(&a).await, status(&b).await), (PASSED, PASSED));
    let entry = revoke(&a).await;
    assert_eq!(entry.status, 201, "{}", entry.text);
    assert_eq!(status(&a).await, 401);
    let took = until_status(&b, 401).await;
    assert!(took < Duration::from_secs(3), "{took:?}");
    println!("in force on the other gateway after {took:?}");
    take_back(&a, &entry.json()["id"]).await;
    assert_eq!(status(&a).await, PASSED);
    let took = until_status(&b, PASSED).await;
    assert!(took < Duration::from_secs(3), "{took:?}");

    // Away: what is known stays in force, and what is asked for is, here, and not acknowledged.
    revoke(&a).await;
    until_status(&b, 401).await;
    server.kill();
    until_page(&b, "Redis does not answer", true).await;
    sleep(Duration::from_millis(1_500)).await;
    assert_eq!((status(&a).await, status(&b).await), (401, 401));
    assert_eq!(revoke(&b).await.status, 503);
    let page = b.operator("/metrics").await.text;
    assert!(page.contains("dcams_gateway_state_store_up 0"), "{page}");
    server.run();
    until_page(&b, "Redis does not answer", false).await;
    take_back(&b, &entry.json()["id"]).await;
    until_status(&a, PASSED).await;
    let page = b.operator("/metrics").await.text;
    assert!(page.contains("dcams_gateway_state_store_up 1"), "{page}");
    assert!(
        page.contains("dcams_gateway_state_store_round_trips_total "),
        "{page}"
    );
}

#[tokio::test]
async fn a_revocation_that_redis_has_forgotten_is_written_again() {
    let server = RedisServer::start();
    let (a, b) = (gateway(&server).await, gateway(&server).await);
    revoke(&a).await;
    until_status(&b, 401).await;
    // As after a failover to a replica that had not heard of it.
    let table = "dcams-gateway:{revocations}";
    server.cli(&["DEL", table, &format!("{table}:version")]);
    let began = Instant::now();
    while server.cli(&["HLEN", table]) != "1" {
        assert!(began.elapsed() < Duration::from_secs(20));
        sleep(Duration::from_millis(50)).await;
    }
    sleep(Duration::from_millis(2_500)).await;
    assert_eq!((status(&a).await, status(&b).await), (401, 401));
    assert_eq!(server.cli(&["HLEN", table]), "1");
}

#[tokio::test]
async fn a_customer_created_through_one_gateway_is_its_tenants_on_the_other() {
    let mut server = RedisServer::start();
    let (a, b) = (gateway(&server).await, gateway(&server).await);
    let (one, two) = tokens(a.folder(), &a.simulator.url());
    let created = a.post(&one, &lookup(CreateOrUpdateCustomer)).await;
    assert_eq!(created.status, 200, "{}", created.text);
    // Whose it is not, for whom nothing is sent; and whose it is, though this simulator has it not.
    let other = b.post(&two, &lookup(GetStatus)).await;
    assert_eq!((other.status, b.simulator.requests().len()), (404, 0));
    let taken = b.post(&two, &lookup(CreateOrUpdateCustomer)).await;
    assert_eq!(
        (taken.status, taken.code().as_str()),
        (409, "customer_unavailable")
    );
    assert_eq!(b.simulator.requests().len(), 0);
    let own = b.post(&one, &lookup(GetStatus)).await;
    assert_eq!((own.status, b.simulator.requests().len()), (404, 1));

    // Away: what needs to know the owner is refused, and quickly; the rest goes on.
    server.kill();
    until_page(&b, "Redis does not answer", true).await;
    let began = Instant::now();
    for operation in [GetStatus, CreateOrUpdateCustomer] {
        let refused = b.post(&one, &lookup(operation)).await;
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (503, "state_unavailable")
        );
    }
    println!("two refusals took {:?}", began.elapsed());
    assert_eq!(b.simulator.requests().len(), 1);
    assert_eq!(status(&b).await, PASSED);
    server.run();
    until_page(&a, "Redis does not answer", false).await;
    let own = a.post(&one, &lookup(GetStatus)).await;
    assert_eq!(own.status, 200, "{}", own.text);
}

#[tokio::test]
async fn redis_holds_nothing_of_a_person_and_no_secret() {
    let server = RedisServer::start();
    let a = gateway(&server).await;
    let (one, _) = tokens(a.folder(), &a.simulator.url());
    assert_eq!(
        a.post(&one, &lookup(CreateOrUpdateCustomer)).await.status,
        200
    );
    assert_eq!(a.post(&one, &lookup(GetStatus)).await.status, 200);
    assert_eq!(revoke(&a).await.status, 201);
    let keys = server.cli(&["KEYS", "*"]);
    assert!(keys.lines().count() >= 4, "{keys}");
    assert!(
        keys.lines().all(|key| key.starts_with("dcams-gateway:")),
        "{keys}"
    );
    // Every key and value, and every script, as Redis wrote them down.
    let mut written = Vec::new();
    for entry in fs::read_dir(server.home().join("appendonlydir")).unwrap() {
        written.extend(fs::read(entry.unwrap().path()).unwrap());
    }
    let holds = |text: &str| {
        let text = text.as_bytes();
        written
            .windows(text.len())
            .any(|window| window.eq_ignore_ascii_case(text))
    };
    assert!(holds("dcams-gateway:customers:"));
    for plain in [
        EMAIL,
        "Specimen",
        "example.com",
        "Sample Street",
        "19700101",
        "2015550100",
        USER,
        OTHER_USER,
        PASS,
        "Gateway-",
        "subject-of-the-token",
        "demo-idp",
        "reference-0001",
        "0123456789abcdefghijklmnopqrstuv",
        one.as_str(),
    ] {
        assert!(!holds(plain), "{plain}");
    }
}

/// The demo's configuration in a folder, with its state there.
fn configured(folder: &Path, url: &str) -> [String; 2] {
    write_secrets(folder);
    fs::write(folder.join("more.toml"), state_at(url)).unwrap();
    ["demo.toml", "more.toml"].map(|name| folder.join(name).display().to_string())
}

#[tokio::test]
async fn a_start_without_redis_fails_and_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("redis://127.0.0.1:{}", free_port());
    let [first, second] = configured(folder.path(), &url);
    // Wherever there is a port.
    let anywhere = [
        ("DCAMS_GATEWAY__SERVER__LISTEN", "127.0.0.1:0"),
        ("DCAMS_GATEWAY__ADMIN__LISTEN", "127.0.0.1:0"),
    ];
    let ended = program::run(&["serve", "--config", &first, &second], &anywhere).await;
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(
        ended.err.contains(&url) && ended.err.contains("state.redis"),
        "{}",
        ended.err
    );
    // What is written down is right, though nobody is there.
    let ended = program::run(&["check", "--config", &first, &second], &[]).await;
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
}

#[tokio::test]
async fn a_command_works_beside_a_gateway_on_another_machine() {
    let server = RedisServer::start();
    let gateway = gateway(&server).await;
    assert_eq!(status(&gateway).await, PASSED);
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = configured(folder.path(), &server.url());
    let admin = format!("127.0.0.1:{}", free_port());
    let variables = [("DCAMS_GATEWAY__ADMIN__LISTEN", admin.as_str())];
    let ended = program::run(
        &[
            "revocations",
            "add",
            "--config",
            &first,
            &second,
            "--issuer",
            "demo-idp",
            "--subject",
            "subject-of-the-token",
        ],
        &variables,
    )
    .await;
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(ended.err.contains("every gateway"), "{}", ended.err);
    until_status(&gateway, 401).await;
}

#[tokio::test]
async fn another_redis_takes_a_restart() {
    let server = RedisServer::start();
    let world = gateway(&server).await;
    let lists = toml("", "");
    let refusal = async |state: String| {
        world.rewrite(&(state + &lists));
        let answer = world.reload().await;
        assert_eq!(answer.status, 409, "{}", answer.text);
        answer.json()["mistakes"].as_array().unwrap().clone()
    };
    let more = refusal(state(&server) + "database = 1\n").await;
    assert_eq!(more.len(), 1, "{more:?}");
    assert!(
        more[0].as_str().unwrap().contains("`state.redis`"),
        "{more:?}"
    );
    let other = refusal(String::new()).await;
    assert_eq!(other.len(), 1, "{other:?}");
    assert!(
        other[0].as_str().unwrap().contains("`state.backend`"),
        "{other:?}"
    );
}
