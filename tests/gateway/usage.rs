//! What operators see of tenants' quotas and do about them, and the month's statement.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
};

use csv_core::{ReadRecordResult, Reader};
use dcams_gateway::{
    clock,
    operation::Operation::{self, *},
    simulator::{
        Login, SimulatorHandle,
        fault::{DocumentedError, Fault, FaultKind},
        record::Credentials,
    },
};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    program::{self, NOT_RECORDED, Served, limit_files, limitable},
    support::{
        Answer, EMAIL, OTHER_TENANT, OTHER_USER, PASS, USER, World, answer, client, load, lookup,
        mint, simulator, write_secrets,
    },
};

const OTHER_LIMITS: &str = "
[tenants.quota]
rate = \"100/s\"
daily = 2
bytes_daily = \"1GB\"
time_zone = \"Europe/Berlin\"
";

/// The second tenant, with limits.
fn limited() -> String {
    OTHER_TENANT.to_owned() + OTHER_LIMITS
}

async fn world() -> World {
    let world = World::with(&limited(), &[]).await;
    let logins = [USER, OTHER_USER].map(|user| Login::new(user, PASS));
    world.simulator.set_credentials(logins.to_vec());
    world
}

async fn ask(url: &str, token: &str, operation: Operation) -> Answer {
    let request = client()
        .post(url)
        .bearer_auth(token)
        .json(&lookup(operation));
    answer(request.send().await.unwrap()).await
}

async fn grant(admin: impl std::fmt::Display, tenant: &str, body: Value) -> Answer {
    let url = format!("http://{admin}/api/usage/{tenant}/grant");
    answer(client().post(url).json(&body).send().await.unwrap()).await
}

async fn get(admin: impl std::fmt::Display, path: &str) -> Answer {
    let url = format!("http://{admin}/api/usage{path}");
    answer(client().get(url).send().await.unwrap()).await
}

/// How a tenant's limit stands, of an answer about it.
fn limit(of: &Value, policy: &str) -> Value {
    let mut limits = of["limits"].as_array().unwrap().iter();
    limits
        .find(|limit| limit["policy"] == policy)
        .unwrap()
        .clone()
}

#[tokio::test]
async fn operators_see_how_every_tenant_stands_and_grant_more() {
    let world = world().await;
    let token = mint(
        &load(world.folder(), &world.simulator.url(), &[]),
        1,
        &Operation::ALL,
        None,
    );
    for status in [404, 404, 429] {
        assert_eq!(ask(&world.url(), &token, GetStatus).await.status, status);
    }
    let usage = get(world.admin, "").await.json();
    assert_eq!(usage["stale"], false);
    assert_eq!(
        usage["tenants"][0],
        json!({"tenant": "demo", "time_zone": "UTC", "limits": []})
    );
    let other = &usage["tenants"][1];
    assert_eq!(
        (&other["tenant"], &other["time_zone"]),
        (&json!("other"), &json!("Europe/Berlin"))
    );
    let midnight = clock::now()
        .in_tz("Europe/Berlin")
        .unwrap()
        .tomorrow()
        .unwrap();
    let midnight = midnight.start_of_day().unwrap().timestamp().to_string();
    assert_eq!(
        limit(other, "daily"),
        json!({
            "policy": "daily", "unit": "requests", "limit": 2, "granted": 0, "used": 2, "left": 0,
            "resets_at": midnight,
        })
    );
    let bytes = limit(other, "bytes_daily");
    let sent: u64 = 2 * u64::try_from(lookup(GetStatus).to_string().len()).unwrap();
    assert_eq!(
        (&bytes["unit"], &bytes["used"]),
        (&json!("content-bytes"), &json!(sent))
    );

    let granted = grant(
        world.admin,
        "other",
        json!({"policy": "daily", "amount": 3}),
    )
    .await;
    assert_eq!(granted.status, 200, "{}", granted.text);
    let granted = granted.json();
    let daily = limit(&granted, "daily");
    assert_eq!(
        [
            &granted["counted"],
            &daily["limit"],
            &daily["granted"],
            &daily["used"],
            &daily["left"]
        ],
        [&json!(true), &json!(5), &json!(3), &json!(2), &json!(3)]
    );
    for status in [404, 404, 404, 429] {
        assert_eq!(ask(&world.url(), &token, GetStatus).await.status, status);
    }
    let alone = get(world.admin, "?tenant=other").await.json();
    assert_eq!(alone["tenants"].as_array().unwrap().len(), 1);
    assert_eq!(limit(&alone["tenants"][0], "daily")["used"], 5);
    let metrics = world.operator("/metrics").await.text;
    let line = "dcams_gateway_quota_granted{tenant=\"other\",policy=\"daily\"} 3";
    assert!(metrics.contains(line), "{metrics}");
    // To be asked about makes nobody active.
    assert!(!metrics.contains("dcams_gateway_quota_limit{tenant=\"demo\""));

    let month = clock::now().strftime("%Y-%m").to_string();
    let statement = get(
        world.admin,
        &format!("/statement?month={month}&tenant=other"),
    )
    .await;
    assert_eq!(
        statement.json()["tenants"][0]["services"]["getStatus"]["refused"],
        5
    );
    let enough = |acts: &[Value]| acts.len() >= 5;
    let acts = world.audit.until_acts("admin", enough).await.into_iter();
    let acts = acts.map(|act| {
        let all = act.as_object().unwrap().iter();
        let told = all.filter(|(name, _)| {
            !["v", "seq", "node", "time", "phase", "event", "prev", "mac"].contains(&name.as_str())
        });
        Value::Object(
            told.map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        )
    });
    let granting = |result: &str| {
        json!({
            "action": "usage_grant", "tenant": "other", "policy": "daily", "amount": 3,
            "result": result, "via": "api", "client": "loopback", "authenticated": "loopback",
        })
    };
    let reading = |mut act: Value| {
        act["via"] = json!("api");
        act["client"] = json!("loopback");
        act["authenticated"] = json!("loopback");
        act
    };
    assert_eq!(
        acts.collect::<Vec<_>>(),
        [
            reading(json!({"action": "usage_read"})),
            granting("begun"),
            granting("granted"),
            reading(json!({"action": "usage_read", "tenant": "other"})),
            reading(json!({"action": "statement_read", "tenant": "other", "month": month})),
        ]
    );
}

#[tokio::test]
async fn each_mistake_is_named_and_grants_nothing() {
    let world = world().await;
    let body = |policy: &str, amount: Value| json!({"policy": policy, "amount": amount});
    let more = |name: &str, value: Value| {
        let mut body = body("daily", json!(1));
        body[name] = value;
        body
    };
    for (tenant, body, status, word) in [
        ("nobody", body("daily", json!(1)), 404, "usage show"),
        ("other", body("rate", json!(1)), 400, "bytes_daily"),
        ("other", body("monthly", json!(1)), 409, "no such limit"),
        ("demo", body("daily", json!(1)), 409, "no such limit"),
        ("other", body("daily", json!(0)), 400, "`amount`"),
        (
            "other",
            body("daily", json!(1_000_000_000_000_001_u64)),
            400,
            "`amount`",
        ),
        ("other", body("daily", json!(-1)), 400, "`policy`, `amount`"),
        (
            "other",
            body("daily", json!(1.5)),
            400,
            "`policy`, `amount`",
        ),
        ("other", more("id", json!("a b")), 400, "`id`"),
        ("other", more("id", json!("a".repeat(65))), 400, "`id`"),
        ("other", more("note", json!("x")), 400, "no other member"),
    ] {
        let answer = grant(world.admin, tenant, body.clone()).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.text);
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(word), "{body}: {detail}");
    }
    for (path, status) in [
        ("?tenant=nobody", 404),
        ("?tenant=other&tenant=demo", 400),
        ("?tenant=%6fther", 400),
        ("?tenants=other", 400),
        ("?month=2026-11", 400),
        ("/statement", 400),
        ("/statement?month=2026-13", 400),
        ("/statement?month=2099-01", 400),
        ("/statement?month=2020-01", 400),
        ("/other", 404),
        ("/other/grant", 405),
        ("/other/x/grant", 404),
        ("x", 404),
    ] {
        assert_eq!(get(world.admin, path).await.status, status, "{path}");
    }
    let form = format!("http://{}/api/usage/other/grant", world.admin);
    let form = world
        .client
        .post(form)
        .body(r#"{"policy":"daily","amount":1}"#);
    assert_eq!(form.send().await.unwrap().status(), 415);
    let usage = get(world.admin, "?tenant=other").await.json();
    assert_eq!(limit(&usage["tenants"][0], "daily")["granted"], 0);
    let acts = world.recorded().await.acts("admin");
    assert!(
        !acts.iter().any(|act| act["result"] == "granted"),
        "{acts:?}"
    );
}

#[tokio::test]
async fn with_many_tenants_an_answer_has_a_thousand_and_says_where_to_go_on() {
    let mut toml = limited();
    for number in 0..1100 {
        write!(
            toml,
            "[[tenants]]\nid = \"t{number:04}\"\naccount = \"more\"\nservices = [\"getStatus\"]\n\
             response = \"minimal\"\nisolation = \"ledger\"\n[tenants.quota]\ndaily = 5\nmonthly = 9\n"
        )
        .unwrap();
    }
    toml += "[[accounts]]\nid = \"more\"\ncredentials = [{ id = \"more-1\", \
             user = { file = \"elsewhere-user\" }, pass = { file = \"pass\" } }]\n";
    let world = World::with(&toml, &[]).await;
    let month = clock::now().strftime("%Y-%m").to_string();
    for path in ["?".to_owned(), format!("/statement?month={month}&")] {
        let (mut seen, mut pages, mut after) = (BTreeSet::new(), Vec::new(), String::new());
        loop {
            let page = get(world.admin, &format!("{path}{after}")).await;
            assert_eq!(page.status, 200, "{}", page.text);
            let page = page.json();
            let tenants = page["tenants"].as_array().unwrap();
            seen.extend(
                tenants
                    .iter()
                    .map(|of| of["tenant"].as_str().unwrap().to_owned()),
            );
            pages.push(tenants.len());
            let Some(next) = page["next"].as_str() else {
                break;
            };
            after = format!("after={next}");
        }
        assert_eq!((seen.len(), pages), (1102, vec![1000, 102]), "{path}");
    }
}

/// The demo's configuration with more, in a folder that outlives the process which serves it.
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
        simulator.set_credentials(logins.to_vec());
        let folder = TempDir::new().unwrap();
        write_secrets(folder.path());
        fs::write(folder.path().join("second-user"), SECOND_USER).unwrap();
        Self {
            folder,
            simulator,
            toml,
            _stop: stop.drop_guard(),
        }
    }

    async fn serve(&self) -> Served {
        let url = self.simulator.url();
        Served::start(self.folder.path(), &url, &self.toml, &[]).await
    }

    fn token(&self, tenant: usize) -> String {
        fs::write(self.folder.path().join("more.toml"), &self.toml).unwrap();
        let config = load(self.folder.path(), &self.simulator.url(), &[]);
        mint(&config, tenant, &Operation::ALL, None)
    }

    /// The binary's own command, on this folder.
    async fn command(&self, served: Option<&Served>, arguments: &[&str]) -> program::Ended {
        let path = |name: &str| path(self.folder.path(), name);
        let (demo, more) = (path("demo.toml"), path("more.toml"));
        // Where nobody listens, if none is served.
        let admin = served.map_or_else(|| "127.0.0.1:1".to_owned(), |s| s.admin.to_string());
        let configured = ["--config", &demo, &more];
        let all = [&arguments[..2], &configured, &arguments[2..]].concat();
        let listen = [
            ("DCAMS_GATEWAY__ADMIN__LISTEN", admin.as_str()),
            ("DCAMS_GATEWAY__UPSTREAM__URL", &self.simulator.url()),
        ];
        program::run(&all, &listen).await
    }
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

async fn end(served: Served) -> String {
    served.program.signal("TERM");
    let ended = served.program.end().await;
    assert!(ended.status.success(), "{ended:?}");
    ended.out
}

#[tokio::test]
async fn a_grant_is_made_by_command_and_survives_restarts() {
    let place = Place::new(limited()).await;
    let token = place.token(1);
    let mut served = place.serve().await;
    for status in [404, 404, 429] {
        assert_eq!(ask(&served.url(), &token, GetStatus).await.status, status);
    }
    let grant = [
        "usage", "grant", "--tenant", "other", "--policy", "daily", "--amount", "2", "--id", "a",
    ];
    let ended = place.command(Some(&served), &grant).await;
    assert!(ended.status.success(), "{ended:?}");
    let granted: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(limit(&granted, "daily")["left"], 2);
    // The answer was lost, and it is asked for again: by the one process and by the next.
    let ended = place.command(Some(&served), &grant).await;
    assert!(
        ended.status.success() && ended.err.contains("made before"),
        "{ended:?}"
    );
    assert_eq!(ask(&served.url(), &token, GetStatus).await.status, 404);
    served.program.out.says("usage_grant", 4).await;
    let audit = end(served).await;
    assert!(audit.contains("\"result\":\"granted_before\""), "{audit}");
    // While none runs, in the store itself.
    let ended = place.command(None, &grant).await;
    assert!(
        ended.status.success() && ended.err.contains("made before"),
        "{ended:?}"
    );
    let another = [&grant[..9], &["b"]].concat();
    let ended = place.command(None, &another).await;
    assert!(
        ended.status.success() && !ended.err.contains("made before"),
        "{ended:?}"
    );
    let show = ["usage", "show", "--tenant", "other"];
    let offline = place.command(None, &show).await;
    assert!(offline.status.success(), "{offline:?}");

    let mut served = place.serve().await;
    let online = place.command(Some(&served), &show).await;
    // A full rate resets at the moment that it is asked for.
    let lasting = |out: &str| -> Vec<String> {
        let lines = out.lines().filter(|line| !line.contains(" rate "));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(lasting(&online.out), lasting(&offline.out));
    let row = online
        .out
        .lines()
        .find(|line| line.contains(" daily "))
        .unwrap()
        .to_owned();
    let cells: Vec<&str> = row.split_whitespace().take(7).collect();
    assert_eq!(cells, ["other", "daily", "requests", "6", "4", "3", "3"]);
    let ended = place
        .command(Some(&served), &["usage", "show", "--json"])
        .await;
    let all: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(all["tenants"].as_array().unwrap().len(), 2);
    for status in [404, 404, 404, 429] {
        assert_eq!(ask(&served.url(), &token, GetStatus).await.status, status);
    }
    served.program.out.says("usage_read", 2).await;
    for (arguments, code) in [
        (
            &[
                "usage", "grant", "--tenant", "other", "--policy", "rate", "--amount", "1",
            ][..],
            2,
        ),
        (
            &[
                "usage", "grant", "--tenant", "other", "--policy", "daily", "--amount", "0",
            ],
            2,
        ),
        (
            &[
                "usage", "grant", "--tenant", "nobody", "--policy", "daily", "--amount", "1",
            ],
            1,
        ),
        (&["usage", "statement", "--month", "2026-1"], 2),
        (&["usage", "show", "--tenant", "a b"], 2),
    ] {
        let ended = place.command(Some(&served), arguments).await;
        assert_eq!(ended.status.code(), Some(code), "{ended:?}");
    }
}

#[tokio::test]
async fn while_the_disk_takes_nothing_nothing_is_granted_and_numbers_are_said_to_be_stale() {
    let place = Place::new(limited()).await;
    let url = place.simulator.url();
    let program = Served::command(place.folder.path(), &url, &place.toml, &NOT_RECORDED);
    let served = Served::run(&mut limitable(&program)).await;
    let body = json!({"policy": "daily", "amount": 2, "id": "a"});
    let month = clock::now().strftime("/statement?month=%Y-%m").to_string();
    assert_eq!(get(served.admin, &month).await.status, 200);
    limit_files(served.program.id, "0");
    let refused = grant(served.admin, "other", body.clone()).await;
    assert_eq!(refused.status, 503, "{}", refused.text);
    assert!(
        refused.text.contains("nothing was granted"),
        "{}",
        refused.text
    );
    assert_eq!(get(served.admin, "").await.json()["stale"], true);
    let shown = place.command(Some(&served), &["usage", "show"]).await;
    assert!(
        shown.status.success() && shown.err.contains("knew before"),
        "{shown:?}"
    );
    limit_files(served.program.id, "unlimited");
    let mut answered = grant(served.admin, "other", body.clone()).await;
    while answered.status == 503 {
        answered = grant(served.admin, "other", body.clone()).await;
    }
    assert_eq!(answered.json()["counted"], true, "{}", answered.text);
    let usage = get(served.admin, "?tenant=other").await.json();
    assert_eq!(usage["stale"], false);
    assert_eq!(limit(&usage["tenants"][0], "daily")["granted"], 2);
}

const SECOND_USER: &str = "second-api-user@veratad.example";

/// A tenant that has its account alone, with two credentials, and one with a ledger that asks first.
const MIXED: &str = r#"
[upstream]
timeout = "1s"
connect_timeout = "1s"
[[accounts]]
id = "twofold"
credentials = [
  { id = "first", user = { file = "other-user" }, pass = { file = "pass" } },
  { id = "second", user = { file = "second-user" }, pass = { file = "pass" } },
]
[[accounts]]
id = "owned"
credentials = [{ id = "owned-1", user = { file = "elsewhere-user" }, pass = { file = "pass" } }]
[[issuers]]
id = "twofold-idp"
issuer = "https://twofold.example/"
audiences = ["dcams-gateway"]
algorithms = ["HS256"]
secret = { file = "issuer.key" }
tenants = ["twofold"]
[[issuers]]
id = "owned-idp"
issuer = "https://owned.example/"
audiences = ["dcams-gateway"]
algorithms = ["HS256"]
secret = { file = "issuer.key" }
tenants = ["owned"]
[[tenants]]
id = "twofold"
account = "twofold"
services = ["createOrUpdateCustomer", "getStatus", "getDocumentImages", "updateStatus"]
response = "full"
[tenants.quota]
monthly = 10_000
daily = 5_000
time_zone = "America/New_York"
[[tenants]]
id = "owned"
account = "owned"
services = ["createOrUpdateCustomer", "getStatus", "getDocumentImages", "updateStatus"]
response = "full"
isolation = "ledger"
[tenants.quota]
monthly = 10_000
"#;
const ELSEWHERE_USER: &str = "elsewhere-api-user@veratad.example";

/// What goes wrong on the way, each once for each service.
fn faults() -> Vec<FaultKind> {
    let status = |status| FaultKind::Status {
        status,
        message: "simulated".to_owned(),
        retry_after: None,
    };
    vec![
        status(503),
        status(500),
        status(429),
        FaultKind::Reset {},
        FaultKind::Close {},
        FaultKind::ResetInBody { bytes: 10 },
        FaultKind::Truncate { bytes: 10 },
        FaultKind::Malformed {},
        FaultKind::NotHttp {},
        FaultKind::Empty {},
        FaultKind::Error {
            error: DocumentedError::InvalidEmail,
        },
        FaultKind::ErrorWith200 {
            error: DocumentedError::MissingInput,
        },
        FaultKind::Delay { ms: 1_500 },
    ]
}

/// A request of every service for each fault, then many at a time; how each was answered.
async fn run(place: &Place, url: &str, tokens: &[String; 2]) -> Vec<(usize, Operation, u16)> {
    let mut answered = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        // A customer is there.
        answered.push((
            at,
            CreateOrUpdateCustomer,
            ask(url, token, CreateOrUpdateCustomer).await.status,
        ));
        for kind in faults() {
            for operation in Operation::ALL {
                let fault = Fault::once(kind.clone()).for_service(operation.name());
                place.simulator.add_fault(fault).unwrap();
                answered.push((at, operation, ask(url, token, operation).await.status));
            }
            place.simulator.clear_faults();
            // The question that comes first meets it, where one does.
            let fault = Fault::once(kind).for_service(GetStatus.name());
            place.simulator.add_fault(fault).unwrap();
            let mut body = lookup(CreateOrUpdateCustomer);
            body["target"]["email"] = format!("{}.{EMAIL}", answered.len()).into();
            let request = client().post(url).bearer_auth(token).json(&body);
            let status = answer(request.send().await.unwrap()).await.status;
            answered.push((at, CreateOrUpdateCustomer, status));
            place.simulator.clear_faults();
        }
    }
    let one = |number: usize| {
        let (at, operation) = (number % 2, Operation::ALL[number / 2 % 4]);
        let mut body = lookup(operation);
        // Some of whom DCAMS has not heard.
        body["target"]["email"] = format!("n{}{EMAIL}", number % 7).into();
        let request = client().post(url).bearer_auth(&tokens[at]).json(&body);
        async move {
            let status = answer(request.send().await.unwrap()).await.status;
            (at, operation, status)
        }
    };
    let many = |from: usize| join_all((from..from + 40).map(one));
    answered.extend(many(0).await);
    // The first password is dead from here on: who meets that is sent again with the second one.
    let logins = [USER, SECOND_USER, ELSEWHERE_USER].map(|user| Login::new(user, PASS));
    place.simulator.set_credentials(logins.to_vec());
    for from in [40, 80] {
        answered.extend(many(from).await);
    }
    answered
}

/// What the simulator has read, by tenant and service.
fn arrived(place: &Place) -> BTreeMap<(usize, String), u64> {
    let mut arrived = BTreeMap::new();
    for record in place.simulator.requests() {
        let body: Value = serde_json::from_str(record.body.unwrap().as_str()).unwrap();
        let at = usize::from(body["user"] == ELSEWHERE_USER);
        *arrived.entry((at, record.service.unwrap())).or_default() += 1;
    }
    arrived
}

/// Compares a statement with what arrived at DCAMS, and with what clients were answered.
fn judge(statement: &Value, place: &Place, answered: &[(usize, Operation, u16)]) {
    let arrived = arrived(place);
    let mut sum = 0;
    for (at, tenant) in ["twofold", "owned"].into_iter().enumerate() {
        let mut all = statement["tenants"].as_array().unwrap().iter();
        let billed = all.find(|billed| billed["tenant"] == tenant).unwrap();
        let (mut kept, mut ended) = (0, 0);
        for operation in Operation::ALL {
            let name = operation.name();
            let counts = &billed["services"][name];
            let count = |what: &str| counts[what].as_u64().unwrap();
            let expected = arrived.get(&(at, name.to_owned())).copied().unwrap_or(0);
            assert_eq!(count("calls"), expected, "{tenant} {name}");
            let good = answered
                .iter()
                .filter(|of| **of == (at, operation, 200))
                .count();
            assert_eq!(
                count("succeeded"),
                u64::try_from(good).unwrap(),
                "{tenant} {name}"
            );
            kept += count("succeeded") + count("refused") + count("unknown");
            ended += kept_and("unavailable", counts);
            sum += expected;
        }
        assert!(ended > 50, "{tenant}: {billed}");
        assert_eq!(billed["charged"], kept, "{tenant}: {billed}");
        assert_eq!(billed["unaccounted"], 0, "{tenant}");
    }
    let total = Operation::ALL.map(|operation| {
        statement["total"]["services"][operation.name()]["calls"]
            .as_u64()
            .unwrap()
    });
    assert_eq!(total.iter().sum::<u64>(), sum);
    assert_eq!(
        sum,
        u64::try_from(place.simulator.requests().len()).unwrap()
    );
}

fn kept_and(more: &str, counts: &Value) -> u64 {
    let all = ["succeeded", "refused", "unknown", more];
    all.iter().map(|what| counts[what].as_u64().unwrap()).sum()
}

#[tokio::test]
async fn the_statement_of_a_run_equals_what_dcams_counted_also_after_a_restart() {
    let place = Place::new(MIXED.to_owned()).await;
    let logins = [USER, OTHER_USER, SECOND_USER, ELSEWHERE_USER].map(|u| Login::new(u, PASS));
    place.simulator.set_credentials(logins.to_vec());
    let tokens = [place.token(1), place.token(2)];
    let month = clock::now().in_tz("America/New_York").unwrap();
    let month = month.strftime("%Y-%m").to_string();
    let json = ["usage", "statement", "--month", &month, "--format", "json"];
    let csv = ["usage", "statement", "--month", &month];
    let served = place.serve().await;
    let mut answered = run(&place, &served.url(), &tokens).await;
    // It was what it should be: timeouts, breaks, refusals, and logins that were tried again.
    for status in [200, 400, 404, 502, 504] {
        assert!(answered.iter().any(|of| of.2 == status), "{status}");
    }
    let records = place.simulator.requests();
    let refused = records
        .iter()
        .filter(|record| record.credentials == Credentials::Refused);
    assert!(refused.count() > 0);
    let ended = place.command(Some(&served), &json).await;
    assert!(ended.status.success(), "{ended:?}");
    let first: Value = serde_json::from_str(&ended.out).unwrap();
    println!("{}", first["total"]);
    judge(&first, &place, &answered);
    // What is under way when the signal comes is answered, and counts.
    let before = u64::try_from(place.simulator.requests().len()).unwrap();
    let slow = Fault::once(FaultKind::Delay { ms: 500 });
    place.simulator.add_fault(slow).unwrap();
    let url = served.url();
    let (last, ()) = tokio::join!(ask(&url, &tokens[0], GetStatus), async {
        place.simulator.arrived(before + 1).await;
        end(served).await;
    });
    answered.push((0, GetStatus, last.status));
    let ended = place.command(None, &json).await;
    let offline: Value = serde_json::from_str(&ended.out).unwrap();
    judge(&offline, &place, &answered);
    let served = place.serve().await;
    for at in [0, 1] {
        for operation in Operation::ALL {
            let status = ask(&served.url(), &tokens[at], operation).await.status;
            answered.push((at, operation, status));
        }
    }
    let ended = place.command(Some(&served), &json).await;
    let second: Value = serde_json::from_str(&ended.out).unwrap();
    judge(&second, &place, &answered);

    let ended = place.command(Some(&served), &csv).await;
    assert!(ended.status.success(), "{ended:?}");
    let rows = read_csv(&ended.out);
    let of = |tenant: &str, column: &str| {
        let at = rows[0].iter().position(|name| name == column).unwrap();
        let row = rows.iter().find(|row| row[0] == tenant).unwrap();
        row[at].clone()
    };
    assert_eq!(rows.len(), 4);
    for billed in second["tenants"].as_array().unwrap() {
        let tenant = billed["tenant"].as_str().unwrap();
        for operation in Operation::ALL {
            let name = operation.name();
            for (what, count) in billed["services"][name].as_object().unwrap() {
                assert_eq!(of(tenant, &format!("{name}_{what}")), count.to_string());
            }
        }
        for column in ["from", "to", "time_zone", "account"] {
            assert_eq!(of(tenant, column), billed[column].as_str().unwrap());
        }
        for column in ["charged", "bytes", "granted", "unaccounted"] {
            assert_eq!(of(tenant, column), billed[column].to_string());
        }
    }
    // A tenant that is not configured any more is still billed.
    end(served).await;
    fs::write(place.folder.path().join("more.toml"), "").unwrap();
    let gone = [&json[..], &["--tenant", "owned"]].concat();
    let ended = place.command(None, &gone).await;
    let gone: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(gone["tenants"][0]["services"], {
        let mut all = second["tenants"].as_array().unwrap().iter();
        all.find(|billed| billed["tenant"] == "owned").unwrap()["services"].clone()
    });
}

/// Every line, each as fields.
fn read_csv(text: &str) -> Vec<Vec<String>> {
    let mut reader = Reader::new();
    let (mut rest, mut rows) = (text.as_bytes(), Vec::new());
    loop {
        let (mut out, mut ends) = ([0; 4096], [0; 64]);
        let (result, read, _, count) = reader.read_record(rest, &mut out, &mut ends);
        rest = &rest[read..];
        match result {
            ReadRecordResult::Record => {
                let mut from = 0;
                let fields = ends[..count].iter().map(|end| {
                    let field = String::from_utf8(out[from..*end].to_vec()).unwrap();
                    from = *end;
                    field
                });
                rows.push(fields.collect());
            }
            ReadRecordResult::End => return rows,
            ReadRecordResult::InputEmpty => {}
            ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => {
                panic!("a long line")
            }
        }
    }
}
