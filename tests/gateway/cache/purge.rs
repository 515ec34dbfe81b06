//! What operators have the gateway forget: a tenant's statuses, one customer's, all that it has of a person.

use std::time::Duration;

use dcams_gateway::{
    operation::Operation,
    simulator::{Login, SimulatorHandle},
};
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    ownership::{self, toml},
    program::{self, Ended, Served},
    redis::server::RedisServer,
    support::{
        Answer, Lines, OTHER_TENANT, OTHER_USER, PASS, USER, World, answer, client, customer, load,
        mint, simulator, write_secrets,
    },
};

/// A cache that forgets nothing by itself while a test lasts, and asks for nothing by itself.
const KEPT: [(&str, &str); 5] = [
    ("CACHE__ENABLED", "true"),
    ("CACHE__PENDING_TTL", "10m"),
    ("CACHE__NOT_FOUND_TTL", "10m"),
    ("CACHE__REFRESH_PENDING", "false"),
    ("CACHE__JITTER", "0.0"),
];

/// Part of every address: where it shows, a person shows.
const CANARY: &str = "canary-5f1d";

fn email(name: &str) -> String {
    format!("{name}-{CANARY}@example.com")
}

/// Tenants whose customers' statuses may be kept: no person's fields are in them.
fn minimal(toml: &str) -> String {
    toml.replace("\"full\"", "\"minimal\"")
}

async fn world(toml: &str) -> World {
    let world = World::with(&minimal(toml), &KEPT).await;
    let logins = [USER, OTHER_USER].map(|user| Login::new(user, PASS));
    world.simulator.set_credentials(logins.into());
    world
}

fn token(world: &World, tenant: usize) -> String {
    let config = load(world.folder(), &world.simulator.url(), &[]);
    mint(&config, tenant, &Operation::ALL, None)
}

/// Creates a customer, and has its status kept.
async fn create(world: &World, token: &str, email: &str) {
    let mut body = customer();
    body["target"]["email"] = json!(email);
    let created = world.post(token, &body).await;
    assert_eq!(created.status, 200, "{}", created.text);
    status(world, token, email).await;
    assert!(!asks(world, token, email).await, "it is not kept");
}

async fn status(world: &World, token: &str, email: &str) -> Answer {
    let body = json!({"service": "getStatus", "target": {"email": email}});
    world.post(token, &body).await
}

/// Whether a getStatus goes to DCAMS.
async fn asks(world: &World, token: &str, email: &str) -> bool {
    let before = world.simulator.requests().len();
    let answer = status(world, token, email).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    world.simulator.requests().len() > before
}

async fn call(admin: impl std::fmt::Display, path: &str, body: &Value) -> Answer {
    let url = format!("http://{admin}/api/{path}");
    let answer = answer(client().post(url).json(body).send().await.unwrap()).await;
    assert!(!answer.text.contains(CANARY), "{}", answer.text);
    answer
}

async fn purge(world: &World, body: Value) -> Value {
    let answer = call(world.admin, "cache/purge", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

async fn forget(world: &World, tenant: &str, email: &str) -> Value {
    let body = json!({"tenant": tenant, "email": email});
    let answer = call(world.admin, "customers/forget", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

/// The last of what operators did is this far; all of it, without what every such line has.
async fn acts(trail: &Lines, result: &str, count: usize) -> Vec<Value> {
    let own = |(name, _): &(String, Value)| {
        let every = ["v", "seq", "node", "time", "phase", "event", "prev", "mac"];
        // Who it was is looked at in `operators.rs`.
        let actor = ["via", "client", "authenticated"];
        ![&every[..], &actor].concat().contains(&name.as_str())
    };
    let enough = |acts: &[Value]| {
        let last = acts.last().is_some_and(|act| act["result"] == result);
        last && acts.len() >= count
    };
    let acts = trail.until_acts("admin", enough).await.into_iter();
    acts.map(|act| {
        let members: Map<String, Value> = act.as_object().unwrap().clone();
        Value::Object(members.into_iter().filter(own).collect())
    })
    .collect()
}

#[tokio::test]
async fn after_a_purge_dcams_is_asked_again_and_another_tenants_statuses_stay() {
    let log = Lines::default();
    let _guard = log.collect_log();
    let world = world(OTHER_TENANT).await;
    let (demo, other) = (token(&world, 0), token(&world, 1));
    let (a, b) = (email("a"), email("b"));
    create(&world, &demo, &a).await;
    create(&world, &demo, &b).await;
    create(&world, &other, &a).await;

    let typed = format!(" {} ", a.to_uppercase());
    let purged = purge(&world, json!({"tenant": "demo", "email": typed})).await;
    assert_eq!(
        purged,
        json!({"purged": "customer", "tenant": "demo", "cache": "removed"})
    );
    assert!(!asks(&world, &demo, &b).await);
    assert!(!asks(&world, &other, &a).await);
    assert!(asks(&world, &demo, &a).await);
    assert!(!asks(&world, &demo, &a).await);

    let purged = purge(&world, json!({"tenant": "demo"})).await;
    assert_eq!(purged, json!({"purged": "tenant", "tenant": "demo"}));
    assert!(!asks(&world, &other, &a).await);
    assert!(asks(&world, &demo, &a).await);
    assert!(asks(&world, &demo, &b).await);
    let nobody = json!({"tenant": "demo", "email": email("nobody")});
    assert_eq!(purge(&world, nobody).await["cache"], "none");

    let events = world.recorded().await.events();
    let customer = &events[0]["customer"];
    assert!(customer.is_string(), "{events:?}");
    let act = |more: Value| {
        let mut act = json!({"action": "cache_purge", "tenant": "demo"});
        act.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        act
    };
    let acts = acts(&world.audit, "done", 6).await;
    assert_eq!(
        acts[..4],
        [
            act(json!({"customer": customer, "result": "begun"})),
            act(json!({"customer": customer, "cache": "removed", "result": "done"})),
            act(json!({"result": "begun"})),
            act(json!({"result": "done"})),
        ]
    );
    assert_eq!(acts.len(), 6);
    for text in [world.audit.text(), log.text()] {
        assert!(!text.to_lowercase().contains(CANARY), "{text}");
    }
    assert!(log.text().contains("cache_purge"), "{}", log.text());
}

#[tokio::test]
async fn whoever_is_forgotten_leaves_no_trace_and_the_answer_says_what_was_removed() {
    let log = Lines::default();
    let _guard = log.collect_log();
    let world = world(&toml("", "")).await;
    let (demo, one, two) = (token(&world, 0), token(&world, 1), token(&world, 2));
    let (a, b, c) = (email("a"), email("b"), email("c"));
    create(&world, &one, &a).await;
    create(&world, &two, &b).await;
    create(&world, &demo, &c).await;
    let gone = |tenant: &str, cache: &str, ownership: &str| json!({"tenant": tenant, "cache": cache, "ownership": ownership});

    // Another tenant's customer stays that one's.
    assert_eq!(
        forget(&world, "one", &b).await,
        gone("one", "none", "not_owned")
    );
    assert!(!asks(&world, &two, &b).await);
    assert_eq!(
        forget(&world, "one", &a.to_uppercase()).await,
        gone("one", "removed", "removed")
    );
    assert_eq!(
        forget(&world, "one", &a).await,
        gone("one", "none", "not_owned")
    );
    let before = world.simulator.requests().len();
    assert_eq!(status(&world, &one, &a).await.status, 404);
    assert_eq!(world.simulator.requests().len(), before);
    // Without a ledger too; DCAMS still has the customer.
    assert_eq!(
        forget(&world, "demo", &c).await,
        gone("demo", "removed", "no_ledger")
    );
    assert!(asks(&world, &demo, &c).await);

    let events = world.recorded().await.events();
    let of = |tenant: &str| {
        let mut of = events.iter().filter(|event| event["tenant"] == tenant);
        of.next().unwrap()["customer"].clone()
    };
    let acts = acts(&world.audit, "done", 8).await;
    assert_eq!(acts.len(), 8);
    for (at, tenant, cache, ownership) in [
        (2, "one", "removed", "removed"),
        (4, "one", "none", "not_owned"),
        (6, "demo", "removed", "no_ledger"),
    ] {
        let begun = json!({
            "action": "customer_forget", "tenant": tenant, "customer": of(tenant), "result": "begun",
        });
        let mut done = begun.clone();
        done["result"] = json!("done");
        done["cache"] = json!(cache);
        done["ownership"] = json!(ownership);
        assert_eq!(acts[at..at + 2], [begun, done]);
    }
    for text in [world.audit.text(), log.text()] {
        assert!(!text.to_lowercase().contains(CANARY), "{text}");
    }
}

#[tokio::test]
async fn a_customer_that_is_taken_out_of_the_ledger_has_no_status_kept() {
    let world = world(&toml("", "")).await;
    let one = token(&world, 1);
    let a = email("a");
    create(&world, &one, &a).await;
    let batch = json!({"tenant": "one", "emails": ["bad", a.to_uppercase()]});
    let removed = call(world.admin, "customers/remove", &batch).await;
    assert_eq!(removed.json()["results"], json!(["invalid", "removed"]));
    let imported = call(world.admin, "customers/import", &batch).await;
    assert_eq!(imported.json()["results"], json!(["invalid", "imported"]));
    assert!(asks(&world, &one, &a).await);
}

#[tokio::test]
async fn what_cannot_be_meant_or_written_down_is_refused_and_nothing_is_forgotten() {
    let world = world("").await;
    let demo = token(&world, 0);
    let a = email("a");
    create(&world, &demo, &a).await;
    let long = format!("{CANARY}.example.com");
    for (path, body, word) in [
        (
            "cache/purge",
            json!({"tenant": "nobody"}),
            "names no tenant",
        ),
        (
            "cache/purge",
            json!({"tenant": "demo", "email": long}),
            "not an email address",
        ),
        (
            "cache/purge",
            json!({"tenant": "demo", "email": null}),
            "`tenant` and",
        ),
        (
            "cache/purge",
            json!({"tenant": "demo", "emails": [a]}),
            "no other member",
        ),
        ("cache/purge", json!({}), "`tenant` and"),
        (
            "customers/forget",
            json!({"tenant": "nobody", "email": a}),
            "names no tenant",
        ),
        (
            "customers/forget",
            json!({"tenant": "demo", "email": long}),
            "not an email address",
        ),
        ("customers/forget", json!({"tenant": "demo"}), "`email`"),
    ] {
        let answer = call(world.admin, path, &body).await;
        assert_eq!(answer.status, 400, "{path} {body}: {}", answer.text);
        assert!(answer.text.contains(word), "{path} {body}: {}", answer.text);
    }
    for path in ["cache/purge", "customers/forget"] {
        let url = format!("http://{}/api/{path}", world.admin);
        let got = answer(world.client.get(&url).send().await.unwrap()).await;
        assert_eq!(
            (got.status, &got.headers["allow"]),
            (405, &"POST".parse().unwrap())
        );
        let form = world.client.post(&url).body(r#"{"tenant":"demo"}"#);
        assert_eq!(form.send().await.unwrap().status(), 415);
    }
    assert!(world.recorded().await.acts("admin").is_empty());
    assert!(!asks(&world, &demo, &a).await);
}

/// A folder for the binary's own commands, and for a gateway that they find.
struct Place {
    folder: TempDir,
    simulator: SimulatorHandle,
    toml: String,
    _stop: DropGuard,
}

impl Place {
    async fn new(toml: String) -> Self {
        dcams_gateway::auth::install_crypto();
        let stop = CancellationToken::new();
        let simulator = simulator(Login::new(USER, PASS), stop.clone()).await;
        let logins = [USER, OTHER_USER].map(|user| Login::new(user, PASS));
        simulator.set_credentials(logins.into());
        let folder = tempfile::tempdir().unwrap();
        write_secrets(folder.path());
        std::fs::write(folder.path().join("more.toml"), &toml).unwrap();
        Self {
            folder,
            simulator,
            toml,
            _stop: stop.drop_guard(),
        }
    }

    async fn serve(&self) -> Served {
        let names = KEPT.map(|(name, _)| format!("DCAMS_GATEWAY__{name}"));
        let values = KEPT.map(|(_, value)| value);
        let variables: Vec<(&str, &str)> = names.iter().map(String::as_str).zip(values).collect();
        let url = self.simulator.url();
        Served::start(self.folder.path(), &url, &self.toml, &variables).await
    }

    /// Runs a command, which finds the gateway that is served, or nobody.
    async fn command(&self, served: Option<&Served>, arguments: &[&str]) -> Ended {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let (demo, more) = (path("demo.toml"), path("more.toml"));
        let admin = served.map_or_else(|| "127.0.0.1:1".to_owned(), |s| s.admin.to_string());
        let configured = ["--config", &demo, &more];
        let all = [&arguments[..2], &configured, &arguments[2..]].concat();
        let ended = program::run(&all, &[("DCAMS_GATEWAY__ADMIN__LISTEN", &admin)]).await;
        for text in [&ended.out, &ended.err] {
            assert!(!text.contains(CANARY), "{text}");
        }
        ended
    }

    /// The same, and its answer.
    async fn told(&self, served: Option<&Served>, arguments: &[&str]) -> Value {
        let ended = self.command(served, arguments).await;
        assert!(ended.status.success(), "{ended:?}");
        serde_json::from_str(&ended.out).unwrap()
    }
}

async fn post(served: &Served, token: &str, body: &Value) -> Answer {
    let request = client().post(served.url()).bearer_auth(token).json(body);
    answer(request.send().await.unwrap()).await
}

#[tokio::test]
async fn it_is_done_by_command_too() {
    let place = Place::new(minimal(&toml("", ""))).await;
    let (one, _) = ownership::tokens(place.folder.path(), &place.simulator.url());
    let (a, b) = (email("a"), email("b"));
    let purge = ["cache", "purge", "--tenant", "one"];
    let forget = |email| ["customers", "forget", "--tenant", "one", "--email", email];

    let mut served = place.serve().await;
    for email in [&a, &b] {
        let mut body = customer();
        body["target"]["email"] = json!(email);
        assert_eq!(post(&served, &one, &body).await.status, 200);
    }
    let only_a = [&purge[..], &["--email", &a]].concat();
    let running = Some(&served);
    assert_eq!(
        place.told(running, &only_a).await,
        json!({"purged": "customer", "tenant": "one", "cache": "removed"})
    );
    assert_eq!(
        place.told(running, &purge).await,
        json!({"purged": "tenant", "tenant": "one"})
    );
    assert_eq!(
        place.told(running, &forget(&a)).await,
        json!({"tenant": "one", "cache": "none", "ownership": "removed"})
    );
    for (arguments, code, word) in [
        (
            &["cache", "purge", "--tenant", "nobody"][..],
            1,
            "no tenant",
        ),
        (&["cache", "purge", "--tenant", "a b"], 2, "--tenant"),
        (
            &["cache", "purge", "--tenant", "one", "--email", CANARY],
            2,
            "--email",
        ),
        (&forget(CANARY), 2, "--email"),
        (
            &["customers", "forget", "--tenant", "nobody", "--email", &a],
            2,
            "known: demo, one, two",
        ),
    ] {
        let ended = place.command(running, arguments).await;
        assert_eq!(ended.status.code(), Some(code), "{ended:?}");
        assert!(ended.err.contains(word), "{ended:?}");
    }
    let trail = served.program.out.says("customer_forget", 2).await;
    assert!(!trail.contains(CANARY), "{trail}");
    served.program.signal("TERM");
    let ended = served.program.end().await;
    assert!(ended.status.success(), "{ended:?}");
    assert!(!ended.err.contains(CANARY), "{}", ended.err);

    // While none runs there is nothing in memory, and the ledger is in the folder.
    let ended = place.command(None, &purge).await;
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.err.contains("no gateway answers at"), "{ended:?}");
    let ended = place.command(None, &forget(&b)).await;
    assert!(
        ended.status.success() && ended.err.contains("no status is kept"),
        "{ended:?}"
    );
    let told: Value = serde_json::from_str(&ended.out).unwrap();
    let gone = |ownership: &str| json!({"tenant": "one", "cache": "none", "ownership": ownership});
    assert_eq!(told, gone("removed"));
    assert_eq!(place.told(None, &forget(&b)).await, gone("not_owned"));
    let demo = ["customers", "forget", "--tenant", "demo", "--email", &b];
    assert_eq!(
        place.told(None, &demo).await,
        json!({"tenant": "demo", "cache": "none", "ownership": "no_ledger"})
    );
}

fn in_redis(server: &RedisServer) -> String {
    let url = server.url();
    format!(
        "[state]\nbackend = \"redis\"\n[state.redis]\nurls = [\"{url}\"]\nnodes = 2\ntimeout = \"500ms\"\n"
    )
}

#[tokio::test]
async fn every_gateway_forgets_and_while_one_cannot_tell_the_others_it_says_so() {
    let mut server = RedisServer::start();
    let toml = in_redis(&server) + &toml("", "");
    let (here, there) = (world(&toml).await, world(&toml).await);
    let (demo, one) = (token(&here, 0), token(&here, 1));
    let (a, b) = (email("a"), email("b"));
    for world in [&here, &there] {
        create(world, &demo, &b).await;
    }
    create(&here, &one, &a).await;
    // Until the other gateway's word of these writes has come everywhere.
    let lag = Duration::from_millis(1_500);
    sleep(lag).await;
    for world in [&here, &there] {
        asks(world, &demo, &b).await;
        assert!(!asks(world, &demo, &b).await);
    }
    forget(&here, "demo", &b).await;
    assert!(asks(&here, &demo, &b).await);
    sleep(lag).await;
    assert!(asks(&there, &demo, &b).await);

    server.kill();
    let body = json!({"tenant": "one", "email": a});
    for (path, body, word) in [
        ("cache/purge", json!({"tenant": "one"}), "cannot be told"),
        ("cache/purge", body.clone(), "cannot be told"),
        (
            "customers/forget",
            body,
            "(cache: untold, ownership: unknown)",
        ),
        (
            "customers/forget",
            json!({"tenant": "demo", "email": b}),
            "(cache: untold, ownership: no_ledger)",
        ),
    ] {
        let answer = call(here.admin, path, &body).await;
        assert_eq!(answer.status, 503, "{}", answer.text);
        assert!(answer.text.contains(word), "{}", answer.text);
    }
    let last = acts(&here.audit, "incomplete", 6).await.pop().unwrap();
    assert_eq!(
        [&last["cache"], &last["ownership"], &last["result"]],
        ["untold", "no_ledger", "incomplete"]
    );
    server.run();
    for _ in 0..100 {
        let body = json!({"tenant": "one", "email": a});
        let answer = call(here.admin, "customers/forget", &body).await;
        if answer.status == 200 {
            assert_eq!(answer.json()["ownership"], "removed");
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("it is not forgotten though Redis is back");
}
