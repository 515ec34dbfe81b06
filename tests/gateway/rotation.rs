//! Rotations of the credentials towards DCAMS, over real sockets: no request fails in one, whatever the
//! vendor does in between.
//!
//! Seconds of load here; `scripts/campaign rotation` runs them for `ROTATION_SECONDS`.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{FileExt, symlink},
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use dcams_gateway::{
    auth::install_crypto,
    operation::Operation::{CreateOrUpdateCustomer, GetStatus},
    simulator::{
        Login, SimulatorHandle,
        fault::{Fault, FaultKind},
        record::Credentials,
    },
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    audit_reading::flaws,
    disk::Disk,
    durable::until_refused,
    program::{Ended, Served, run},
    support::{
        Answer, Lines, OTHER_TENANT, OTHER_USER, World, answer, client, customer, load, lookup,
        mint, simulator, write_secrets,
    },
    wire::{Wire, head},
};

const MAIN_USER: &str = "main-api-user@veratad.example";
/// Files are looked at often, so that no test waits for long.
const WATCHED: [(&str, &str); 1] = [("RELOAD__WATCH", "100ms")];
/// What an operator puts into files, and what the vendor accepts.
const OLD: &str = "old-Pa\"ss-1";
const NEW: &str = "new-Pa\\ss-2";

fn login(pass: &str) -> Login {
    Login::new(MAIN_USER, pass)
}

/// An account with these credentials, in this order, each of the file of its name; and its tenant.
pub fn account(credentials: &[&str], more: &str) -> String {
    let credentials = credentials.iter().map(|id| {
        format!(
            "{{ id = \"{id}\", user = {{ file = \"main-user\" }}, pass = {{ file = \"{id}\" }} }}"
        )
    });
    let credentials: Vec<String> = credentials.collect();
    format!(
        "[[accounts]]\nid = \"main\"\ncredentials = [{}]\n{more}\n\
         [[issuers]]\nid = \"main-idp\"\nissuer = \"https://idp.main.example/\"\n\
         audiences = [\"dcams-gateway\"]\nalgorithms = [\"HS256\"]\nsecret = {{ file = \"issuer.key\" }}\n\
         tenants = [\"main\"]\n[[tenants]]\nid = \"main\"\naccount = \"main\"\n\
         services = [\"getStatus\", \"createOrUpdateCustomer\"]\n",
        credentials.join(", ")
    )
}

pub fn write_passes(folder: &Path) {
    for (name, content) in [
        ("main-user", MAIN_USER),
        ("old", OLD),
        ("new", NEW),
        ("third", "third-pass-3"),
    ] {
        fs::write(folder.join(name), content).unwrap();
    }
}

/// A gateway whose second account is rotated, and the token of its tenant.
struct Scene {
    world: Arc<World>,
    token: String,
}

impl Scene {
    async fn start(credentials: &[&str], more: &str) -> Self {
        Self::accepting(&[OLD], credentials, more).await
    }

    async fn accepting(accepted: &[&str], credentials: &[&str], more: &str) -> Self {
        let world = World::prepared(&account(credentials, more), &WATCHED, write_passes).await;
        let scene = Self::of(world);
        scene.accept(accepted);
        scene
    }

    fn of(world: World) -> Self {
        let config = load(world.folder(), &world.simulator.url(), &[]);
        let token = mint(&config, 1, &[GetStatus, CreateOrUpdateCustomer], None);
        let world = Arc::new(world);
        Self { world, token }
    }

    /// Has a credential tested by the gateway.
    async fn test(&self, test: &Value) -> Answer {
        let url = format!("http://{}/api/credentials/test", self.world.admin);
        answer(client().post(url).json(test).send().await.unwrap()).await
    }

    /// From now on the vendor accepts these passwords, and at this instant no others.
    fn accept(&self, passes: &[&str]) {
        let passes = passes.iter().map(|pass| login(pass));
        self.world.simulator.set_credentials(passes.collect());
    }

    async fn ask(&self) -> Answer {
        self.world.post(&self.token, &lookup(GetStatus)).await
    }

    /// How the credentials of the account stand: id, value, state.
    async fn standing(&self) -> Vec<(String, u64, String)> {
        let list = self.world.operator("/api/credentials").await.json();
        let accounts = list["accounts"].as_array().unwrap();
        let main = accounts.iter().find(|a| a["id"] == "main").unwrap();
        let credentials = main["credentials"].as_array().unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let one = |c: &Value| {
            (
                text(&c["id"]),
                c["generation"].as_u64().unwrap(),
                text(&c["state"]),
            )
        };
        credentials.iter().map(one).collect()
    }

    async fn states(&self) -> Vec<String> {
        let standing = self.standing().await;
        standing
            .into_iter()
            .map(|(id, _, state)| format!("{id} {state}"))
            .collect()
    }

    /// The receipts of the account, once one of them is this: id, state, reason.
    async fn receipt(&self, id: &str, to: &str, reason: &str) -> Vec<Value> {
        let is = |act: &Value| {
            json!([act["account"], act["credential"], act["to"], act["reason"]])
                == json!(["main", id, to, reason])
        };
        let audit = &self.world.audit;
        audit
            .until_acts("credential_changed", |acts| acts.iter().any(is))
            .await
    }

    /// Sends a request whose client leaves when it has reached DCAMS, which takes its time.
    async fn leave(&self) {
        let slow = Fault::once(FaultKind::Delay { ms: 300 });
        self.world.simulator.add_fault(slow).unwrap();
        tokio::select! {
            answer = self.ask() => panic!("answered before its time: {}", answer.text),
            () = self.world.simulator.arrived(1) => {}
        }
    }

    /// How many calls with a pair that was not accepted have reached the simulator.
    fn refused_calls(&self) -> usize {
        let records = self.world.simulator.requests();
        records
            .iter()
            .filter(|r| r.credentials == Credentials::Refused)
            .count()
    }
}

/// What came of a steady load.
#[derive(Default, Debug)]
struct Load {
    answered: u64,
    failed: Vec<(u16, String)>,
    slowest: Duration,
}

/// Sends this many requests a second for this long, whatever becomes of them.
async fn steady(scene: &Scene, rate: u32, time: Duration) -> Load {
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut requests = JoinSet::new();
    let begun = Instant::now();
    while begun.elapsed() < time {
        ticks.tick().await;
        let (world, token) = (Arc::clone(&scene.world), scene.token.clone());
        requests.spawn(async move {
            let begun = Instant::now();
            let answer = world.post(&token, &lookup(GetStatus)).await;
            (answer.status, answer.code(), begun.elapsed())
        });
    }
    let mut load = Load::default();
    while let Some(request) = requests.join_next().await {
        let (status, code, took) = request.unwrap();
        load.answered += 1;
        load.slowest = load.slowest.max(took);
        // The simulator knows no customer.
        if code != "customer_not_found" {
            load.failed.push((status, code));
        }
    }
    load
}

fn seconds(variable: &str, short: u64) -> Duration {
    let long = std::env::var(variable).map(|text| text.parse().unwrap());
    Duration::from_secs(long.unwrap_or(short))
}

const RATE: u32 = 300;

#[tokio::test]
async fn no_request_fails_when_the_vendor_switches_passwords_wherever_the_new_one_waits() {
    let time = seconds("ROTATION_SECONDS", 2);
    for credentials in [["old", "new"], ["new", "old"]] {
        // While the disk is busy more would be under way.
        let unawaited = "[audit]\ndurability = \"best_effort\"";
        let scene = Scene::start(&credentials, unawaited).await;
        // The new one in front is refused at first, because it is too early, and nobody notices.
        assert_eq!(scene.ask().await.code(), "customer_not_found");
        let half = u64::from(RATE) * time.as_secs() / 2;
        let switch = async {
            scene.world.simulator.arrived(half).await;
            let before = scene.refused_calls();
            scene.accept(&[NEW]);
            before
        };
        let (load, before) = tokio::join!(steady(&scene, RATE, time), switch);
        let dead = scene.refused_calls() - before;
        println!(
            "{credentials:?}: {} requests, {} failed, slowest {:?}; calls with the dead pair: {before} \
             before the switch, {dead} after it",
            load.answered,
            load.failed.len(),
            load.slowest
        );
        assert_eq!(load.failed, [], "{credentials:?}");
        assert!(load.answered >= u64::from(RATE) * time.as_secs() * 9 / 10);
        // What was under way, and no more.
        assert!(dead <= 20, "{dead}");
        scene
            .receipt("old", "rejected", "refused_by_upstream")
            .await;
        scene.receipt("new", "active", "takes_over").await;
    }
}

#[tokio::test]
async fn no_request_fails_when_the_file_is_changed_after_the_vendor_accepts_the_new_password() {
    let time = seconds("ROTATION_SECONDS", 4);
    let scene = Scene::start(&["old"], "[accounts.rotation]\ncanary_time = \"1s\"").await;
    scene.ask().await;
    let rotate = async {
        scene.accept(&[OLD, NEW]);
        let file = scene.world.folder().join("old");
        fs::write(file.with_extension("tmp"), format!("{NEW}\n")).unwrap();
        fs::rename(file.with_extension("tmp"), file).unwrap();
        scene.receipt("old", "active", "canary_passed").await;
        scene.receipt("old", "retired", "replaced").await;
        scene.accept(&[NEW]);
    };
    let (load, ()) = tokio::join!(steady(&scene, RATE, time), rotate);
    println!("{load:?}");
    assert_eq!(load.failed, []);
    assert_eq!(scene.refused_calls(), 0);
    let expected = [("old", 2, "active"), ("old", 1, "retired")];
    let expected = expected.map(|(id, n, state)| (id.to_owned(), n, state.to_owned()));
    assert_eq!(scene.standing().await, expected);
}

#[tokio::test]
async fn with_all_refused_dcams_is_left_alone_and_all_is_well_when_one_is_accepted_again() {
    let log = Lines::default();
    let _guard = log.collect_log();
    let time = seconds("ROTATION_SECONDS", 4);
    let pace = "[accounts.rotation]\nretry_after = \"2s\"";
    let pace = if time < Duration::from_secs(10) {
        pace
    } else {
        ""
    };
    let scene = Scene::start(&["new", "old"], pace).await;
    scene.accept(&[]);
    assert_eq!(scene.ask().await.status, 502);
    let ready = scene.world.operator("/readyz").await.text;
    assert!(ready.starts_with("ready\n"), "{ready}");
    assert!(
        ready.contains("account main: no credential may be used"),
        "{ready}"
    );
    let load = steady(&scene, 100, time).await;
    let calls = scene.refused_calls();
    println!(
        "both dead for {time:?}: {} requests, {calls} calls reached DCAMS, slowest answer {:?}",
        load.answered, load.slowest
    );
    let codes = |load: &Load| -> Vec<String> {
        let mut codes: Vec<_> = load
            .failed
            .iter()
            .map(|(s, c)| format!("{s} {c}"))
            .collect();
        codes.sort_unstable();
        codes.dedup();
        codes
    };
    assert_eq!(codes(&load), ["502 upstream_credentials_rejected"]);
    assert_eq!(u64::try_from(load.failed.len()), Ok(load.answered));
    // Each of the two at once, and again when its rest is over.
    assert!((2..=4).contains(&calls), "{calls}");
    let alerts = log
        .text()
        .matches("no credential of the account may be used")
        .count();
    assert!(alerts >= 1);
    // The vendor mends one of them: it is found out without a restart, at the latest after its rest.
    scene.accept(&[OLD]);
    scene.world.retry_credential_of("main", "old").await;
    assert_eq!(scene.ask().await.code(), "customer_not_found");
    scene
        .receipt("old", "rejected", "refused_by_upstream")
        .await;
    assert!(scene.states().await.contains(&"old active".to_owned()));
}

#[tokio::test]
async fn a_rest_ends_by_itself() {
    let pace = "[accounts.rotation]\nretry_after = \"1s\"\nretry_max = \"1s\"";
    let scene = Scene::start(&["old"], pace).await;
    scene.accept(&[]);
    assert_eq!(scene.ask().await.code(), "upstream_credentials_rejected");
    scene.accept(&[OLD]);
    scene.receipt("old", "active", "retry_due").await;
    assert_eq!(scene.ask().await.code(), "customer_not_found");
}

#[tokio::test]
async fn a_canary_that_is_refused_is_rolled_back_with_a_receipt_and_no_client_notices() {
    let scene = Scene::start(&["old"], "").await;
    scene.ask().await;
    drop(scene);
    let scene = Scene::start(&["new", "old"], "").await;
    let world = &scene.world;
    // The new one works at first, so it is active; the vendor takes both for a moment.
    scene.accept(&[OLD, NEW]);
    scene.ask().await;
    // An operator puts a wrong password in.
    fs::write(world.folder().join("new"), "wrong").unwrap();
    scene.receipt("new", "canary", "canary_started").await;
    let load = steady(&scene, RATE, Duration::from_secs(1)).await;
    assert_eq!(load.failed, []);
    let acts = scene
        .receipt("new", "rejected", "refused_by_upstream")
        .await;
    let rolled_back = acts.iter().find(|act| act["to"] == "rejected").unwrap();
    let said = [
        "account",
        "credential",
        "generation",
        "from",
        "to",
        "reason",
        "phase",
    ];
    assert_eq!(
        json!(said.map(|name| &rolled_back[name])),
        json!([
            "main",
            "new",
            2,
            "canary",
            "rejected",
            "refused_by_upstream",
            "event"
        ])
    );
    assert_eq!(
        scene.refused_calls(),
        1,
        "one request met it, and was sent again"
    );
    let twice = world
        .audit
        .events()
        .iter()
        .filter(|e| e["attempts"] == 2)
        .count();
    assert_eq!(twice, 1);
    assert_eq!(
        scene.states().await,
        ["new rejected", "new active", "old pending"]
    );
}

#[tokio::test]
async fn a_thousand_requests_at_once_try_a_dead_password_once_each_at_most() {
    let scene = Scene::start(&["old", "new"], "").await;
    scene.ask().await;
    scene.accept(&[]);
    let mut requests = JoinSet::new();
    for _ in 0..1_000 {
        let (world, token) = (Arc::clone(&scene.world), scene.token.clone());
        requests.spawn(async move { world.post(&token, &lookup(GetStatus)).await.code() });
    }
    let codes = requests.join_all().await;
    assert!(
        codes
            .iter()
            .all(|code| code == "upstream_credentials_rejected")
    );
    let records = scene.world.simulator.requests();
    let with = |pass: &str| {
        let body = |r: &dcams_gateway::simulator::record::Record| {
            serde_json::to_value(r).unwrap()["body"]
                .to_string()
                .contains(pass)
        };
        records
            .iter()
            .filter(|r| r.credentials == Credentials::Refused && body(r))
            .count()
    };
    // Of the next one nobody knows anything: one request tries it.
    assert_eq!(with("new-Pa"), 1);
    println!(
        "1,000 at once: {} calls with the first, 1 with the second",
        with("old-Pa")
    );
}

#[tokio::test]
async fn a_probe_tries_a_new_credential_before_any_request_does() {
    let more = "[accounts.probe]\nemail = \"probe@example.com\"";
    let scene = Scene::accepting(&[OLD, NEW], &["old"], more).await;
    // The first one too: it is tried before a request has come.
    scene.world.simulator.arrived(1).await;
    scene.ask().await;
    fs::write(scene.world.folder().join("old"), "wrong").unwrap();
    scene.receipt("old", "probing", "probe_started").await;
    scene
        .receipt("old", "rejected", "refused_by_upstream")
        .await;
    assert_eq!(scene.refused_calls(), 1);
    let records = scene.world.simulator.requests();
    let probe = records
        .iter()
        .find(|r| r.credentials == Credentials::Refused)
        .unwrap();
    assert_eq!(probe.service.as_deref(), Some("getStatus"));
    fs::write(scene.world.folder().join("old"), NEW).unwrap();
    scene.receipt("old", "canary", "probe_passed").await;
    scene.ask().await;
    let recorded = scene.world.recorded().await;
    let text = recorded.text();
    let probes = probes(&text);
    // What DCAMS was sent, but for two requests.
    let sent = scene.world.simulator.requests().len() - 2;
    let codes: Vec<_> = probes.iter().map(|[_, ended]| &ended["code"]).collect();
    assert_eq!(codes, ["ok", "upstream_credentials_rejected", "ok"]);
    assert_eq!(sent, codes.len());
    let requests = recorded.events().into_iter();
    let requests = requests.filter(|event| event["cause"].is_null());
    assert_eq!(requests.count(), 2, "no tenant's request was needed");
    for who in ["probe@example.com", "\"customer\":null"] {
        assert!(!text.contains(who), "{text}");
    }
}

/// What the trail says of probes: an intent and an outcome of each, in this order, and of no person.
fn probes(trail: &str) -> Vec<[Value; 2]> {
    let lines = trail
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let lines: Vec<Value> = lines.filter(|l: &Value| l["cause"] == "probe").collect();
    let (begun, ended): (Vec<Value>, Vec<Value>) = lines
        .into_iter()
        .partition(|line| line["phase"] == "intent");
    assert_eq!(begun.len(), ended.len());
    let pair = |intent: Value| {
        let same = |end: &&Value| end["request_id"] == intent["request_id"];
        let outcome = ended.iter().find(same).unwrap().clone();
        assert!(intent["seq"].as_u64() < outcome["seq"].as_u64());
        for line in [&intent, &outcome] {
            let members = ["account", "credential", "service"].map(|name| !line[name].is_null());
            assert_eq!(members, [true; 3], "{line}");
            assert_eq!(flaws(line), [""; 0], "{line}");
        }
        [intent, outcome]
    };
    begun.into_iter().map(pair).collect()
}

#[tokio::test]
async fn a_probe_of_which_there_would_be_no_record_is_not_sent() {
    let log = Lines::default();
    let _guard = log.collect_log();
    let toml = account(
        &["old"],
        "[accounts.probe]\nemail = \"probe@example.com\"\n\
         [accounts.rotation]\nretry_after = \"1s\"",
    );
    let disk = OnceLock::new();
    let world = World::prepared(&toml, &WATCHED, |folder| {
        write_passes(folder);
        disk.set(Disk::mount(folder)).ok();
    })
    .await;
    let Some(disk) = disk.into_inner().flatten() else {
        return;
    };
    let scene = Scene::of(world);
    scene.accept(&[OLD, NEW]);
    scene.ask().await;
    disk.fill();
    until_refused(&scene.world, &scene.token, &lookup(GetStatus)).await;
    scene.world.simulator.clear_requests();
    fs::write(scene.world.folder().join("old"), NEW).unwrap();
    let given_up = || {
        let lines = log.text();
        let mut lines = lines.lines();
        lines.any(|l| l.contains("a probe says nothing") && l.contains("audit_unavailable"))
    };
    let patience = Instant::now() + Duration::from_secs(30);
    while !given_up() {
        assert!(
            Instant::now() < patience,
            "{:?} {}",
            scene.states().await,
            log.text()
        );
        tokio::task::yield_now().await;
    }
    let test = json!({"account": "main", "credential": "old"});
    let tested = scene.test(&test).await;
    assert_eq!(
        (tested.status, tested.code().as_str()),
        (503, "audit_unavailable")
    );
    assert_eq!(scene.world.simulator.requests().len(), 0);
    disk.free();
    let passed = json!(["old", 2, "probe_passed"]);
    let is = |act: &Value| json!([act["credential"], act["generation"], act["reason"]]) == passed;
    let audit = &scene.world.audit;
    audit
        .until_acts("credential_changed", |acts| acts.iter().any(is))
        .await;
    let text = scene.world.recorded().await.text();
    // The one that was not sent has an end alone, as a request that is refused.
    let refused = |line: &&str| line.contains(r#""cause":"probe""#) && line.contains("refuse\"");
    let (refused, others): (Vec<_>, Vec<_>) = text.lines().partition(refused);
    assert!(!refused.is_empty());
    for line in refused {
        assert_eq!(
            flaws(&serde_json::from_str(line).unwrap()),
            [""; 0],
            "{line}"
        );
    }
    let probes = probes(&others.join("\n"));
    assert_eq!(probes.last().unwrap()[1]["code"], "ok");
}

#[tokio::test]
async fn a_test_of_a_credential_is_on_record_with_who_wanted_it_with_a_gateway_and_without() {
    let process = Process::prepare(&["old", "new"], "").await;
    let mut served = process.serve().await;
    let arguments = [
        "test",
        "--account",
        "main",
        "--email",
        "jane@example.com",
        "--as",
        "night",
    ];
    let expected = "main old: accepted by DCAMS\n\
                    main new: REFUSED by DCAMS: compare user and pass with what the vendor gave you\n";
    // Where a process writes the trail, and it is not that gateway which is asked, nothing is done.
    let elsewhere = process
        .command(([127, 0, 0, 1], 1).into(), &arguments)
        .await;
    assert_eq!((elsewhere.status.code(), &elsewhere.out[..]), (Some(1), ""));
    assert!(elsewhere.err.contains("nothing was done"), "{elsewhere:?}");
    assert_eq!(process.simulator.requests().len(), 0);
    let admin = served.admin;
    let asked = process.command(admin, &arguments).await;
    assert_eq!(
        (asked.status.code(), &asked.out[..]),
        (Some(1), expected),
        "{}",
        asked.err
    );
    served.program.out.says("credential_test", 2).await;
    served.program.signal("TERM");
    served.program.end().await;
    let alone = process.command(admin, &arguments).await;
    assert_eq!(
        (alone.status.code(), &alone.out[..]),
        (Some(1), expected),
        "{}",
        alone.err
    );
    assert_eq!(process.simulator.requests().len(), 4);

    let trail = process.folder.path().join("audit").display().to_string();
    let tail = run(
        &["audit", "tail", "--json", "--all", "-n", "1000", &trail],
        &[],
    )
    .await;
    let probes = probes(&tail.out);
    let told = probes.iter().map(|[_, end]| {
        json!([
            end["account"],
            end["credential"],
            end["code"],
            end["upstream_status"]
        ])
    });
    let round = [
        json!(["main", "old", "ok", 404]),
        json!(["main", "new", "upstream_credentials_rejected", 401]),
    ];
    assert_eq!(told.collect::<Vec<_>>(), [&round[..], &round[..]].concat());
    let lines = tail
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let wanted = lines.filter(|line: &Value| line["action"] == "credential_test");
    let wanted = wanted.map(|line| {
        assert_eq!(flaws(&line), [""; 0], "{line}");
        json!([
            line["via"],
            line["operator"],
            line["account"],
            line["credential"]
        ])
    });
    let by = |via: &str, credential: &str| json!([via, "night", "main", credential]);
    assert_eq!(
        wanted.collect::<Vec<_>>(),
        [
            by("api", "old"),
            by("api", "new"),
            by("cli", "old"),
            by("cli", "new")
        ]
    );
    assert!(!tail.out.contains("jane"), "{}", tail.out);
}

#[tokio::test]
async fn a_source_that_cannot_be_read_costs_nothing_and_is_seen() {
    let log = Lines::default();
    let _guard = log.collect_log();
    let scene = Scene::start(&["old"], "").await;
    let file = scene.world.folder().join("old");
    let large = "x".repeat(70_000);
    let broken: [(&str, Option<&[u8]>); 5] = [
        ("file_empty", Some(b"")),
        ("file_empty", Some(b"\r\n")),
        ("file_too_large", Some(large.as_bytes())),
        ("not_text", Some(b"pass\xFF")),
        ("file_missing", None),
    ];
    let mut failures = 0;
    for (reason, content) in broken {
        match content {
            Some(content) => fs::write(&file, content).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        let lines = format!("({reason}), its last value is kept");
        while !scene.world.operator("/readyz").await.text.contains(&lines) {}
        assert_eq!(scene.ask().await.code(), "customer_not_found", "{reason}");
        failures += 1;
        fs::write(&file, OLD).unwrap();
        while scene
            .world
            .operator("/readyz")
            .await
            .text
            .contains("cannot be read")
        {}
    }
    let metrics = scene.world.operator("/metrics").await.text;
    let counted = format!(
        "dcams_gateway_credential_source_failures_total{{account=\"main\",credential=\"old\"}} {failures}"
    );
    assert!(metrics.contains(&counted), "{metrics}");
    assert_eq!(
        scene.states().await,
        ["old active"],
        "the same value is no new one"
    );
    assert_eq!(
        log.text().matches("its last good value is kept").count(),
        failures
    );
}

#[tokio::test]
async fn the_second_attempt_sends_the_very_same_bytes_behind_the_next_credential() {
    let scene = Scene::accepting(&[NEW], &["old", "new"], "").await;
    let created = scene.world.post(&scene.token, &customer()).await;
    assert_eq!(created.status, 200, "{}", created.text);
    let records = scene.world.simulator.requests();
    let rests: Vec<String> = [OLD, NEW]
        .iter()
        .zip(&records)
        .map(|(pass, record)| {
            let pair = format!("{{\"user\":{},\"pass\":{},", json!(MAIN_USER), json!(pass));
            let body = record.body.as_ref().unwrap().as_str();
            body.strip_prefix(&pair).unwrap().to_owned()
        })
        .collect();
    assert_eq!(records.len(), 2);
    assert!(rests[0].len() > 1_000 && rests[0] == rests[1]);
    let event = scene.world.audit.until(1).await.remove(0);
    assert_eq!(
        json!([event["attempts"], event["credential"]]),
        json!([2, "new"])
    );
}

#[tokio::test]
async fn a_question_that_comes_first_is_asked_again_and_then_comes_the_request() {
    let toml = account(&["old", "new"], "") + "isolation = \"ledger\"\n";
    let world = World::prepared(&toml, &WATCHED, write_passes).await;
    let config = load(world.folder(), &world.simulator.url(), &[]);
    let token = mint(&config, 1, &[GetStatus, CreateOrUpdateCustomer], None);
    world.simulator.set_credentials(vec![login(NEW)]);
    let created = world.post(&token, &customer()).await;
    assert_eq!(created.status, 200, "{}", created.text);
    let records = world.simulator.requests().into_iter();
    let sent: Vec<_> = records
        .map(|r| (r.service.unwrap(), r.credentials))
        .collect();
    let expected = [
        ("getStatus", Credentials::Refused),
        ("getStatus", Credentials::Accepted),
        ("createOrUpdateCustomer", Credentials::Accepted),
    ];
    assert_eq!(sent, expected.map(|(name, said)| (name.to_owned(), said)));
}

#[tokio::test]
async fn a_request_is_tried_twice_and_no_more() {
    let scene = Scene::accepting(&["third-pass-3"], &["old", "new", "third"], "").await;
    let answer = scene.ask().await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (502, "upstream_credentials_rejected")
    );
    assert_eq!(scene.world.simulator.requests().len(), 2);
    assert_eq!(scene.ask().await.code(), "customer_not_found");
    assert_eq!(scene.world.simulator.requests().len(), 3);
}

#[tokio::test]
async fn a_client_that_leaves_in_a_trial_keeps_nobody_from_its_outcome() {
    for (accepted, calls) in [(OLD, 2), (NEW, 3)] {
        let scene = Scene::accepting(&[accepted], &["old", "new"], "").await;
        scene.leave().await;
        // It is being tried, so this one waits, or comes when all is known.
        assert_eq!(scene.ask().await.code(), "customer_not_found");
        let events = scene.world.audit.until(2).await;
        let attempts = |event: &Value| event["attempts"].as_u64().unwrap();
        let total: u64 = events.iter().map(attempts).sum();
        assert_eq!(total, calls);
        let records = scene.world.simulator.requests();
        assert_eq!(u64::try_from(records.len()), Ok(calls));
        assert_eq!(scene.refused_calls(), usize::from(accepted == NEW));
    }
}

#[tokio::test]
async fn a_user_of_another_account_is_not_taken_and_is_taken_once_it_is_nobodys() {
    let other = OTHER_TENANT.replace(
        "[[issuers]]",
        "[accounts.rotation]\ncanary_percent = 0\n[[issuers]]",
    );
    let toml = account(&["old"], "") + &other;
    let world = World::prepared(&toml, &WATCHED, write_passes).await;
    let config = load(world.folder(), &world.simulator.url(), &[]);
    let token = mint(&config, 1, &[GetStatus], None);
    let world = Arc::new(world);
    let scene = Scene { world, token };
    scene.accept(&[OLD]);
    scene.ask().await;
    let world = &scene.world;
    let user = world.folder().join("main-user");
    fs::write(&user, OTHER_USER).unwrap();
    let line = "account main: the source of old cannot be read (user_of_another_account)";
    while !world.operator("/readyz").await.text.contains(line) {}
    assert_eq!(scene.standing().await.len(), 1);
    let list = world.operator("/api/credentials").await.json();
    let failure = &list["accounts"][1]["credentials"][0]["source_failure"];
    assert_eq!(failure, "user_of_another_account");
    // A reload finds the same mistake.
    let refused = world.reload().await;
    assert_eq!(refused.status, 422, "{}", refused.text);
    assert!(refused.text.contains("accounts["), "{}", refused.text);
    // The other account gets another user, and this one is free.
    fs::write(
        world.folder().join("other-user"),
        "third-api-user@veratad.example",
    )
    .unwrap();
    scene.receipt("old", "canary", "canary_started").await;
    while world.operator("/readyz").await.text.contains(line) {}
    // It was looked at several times, and told once.
    let page = world.operator("/metrics").await.text;
    let count = "credential_source_failures_total{account=\"main\",credential=\"old\"} 1\n";
    assert!(page.contains(count), "{page}");
}

#[tokio::test]
async fn what_is_not_configured_any_more_leaves_with_receipts_and_its_trouble_with_it() {
    let scene = Scene::start(&["old", "new"], "").await;
    scene.ask().await;
    let world = &scene.world;
    fs::remove_file(world.folder().join("new")).unwrap();
    let line = "the source of new cannot be read";
    while !world.operator("/readyz").await.text.contains(line) {}
    world.rewrite(&account(&["old"], ""));
    world.reload().await;
    scene.receipt("new", "retired", "removed").await;
    let ready = world.operator("/readyz").await.text;
    assert!(!ready.contains("cannot be read"), "{ready}");
    // One that comes back has no trouble from before.
    fs::write(world.folder().join("new"), NEW).unwrap();
    world.rewrite(&account(&["old", "new"], ""));
    world.reload().await;
    let ready = world.operator("/readyz").await.text;
    assert!(!ready.contains("cannot be read"), "{ready}");
    // And the account as a whole.
    world.rewrite("");
    world.reload().await;
    scene.receipt("old", "retired", "removed").await;
    let list = world.operator("/api/credentials").await.json();
    assert_eq!(list["accounts"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_probe_that_says_nothing_is_repeated_no_sooner_than_a_rest_later() {
    let more = "[accounts.probe]\nemail = \"probe@example.com\"\n\
                [accounts.rotation]\nretry_after = \"1s\"";
    let scene = Scene::accepting(&[OLD, NEW], &["old"], more).await;
    scene.ask().await;
    let broken = FaultKind::Status {
        status: 500,
        message: "x".to_owned(),
        retry_after: None,
    };
    scene
        .world
        .simulator
        .add_fault(Fault::times(broken, 2))
        .unwrap();
    fs::write(scene.world.folder().join("old"), NEW).unwrap();
    scene.receipt("old", "canary", "probe_passed").await;
    let records = scene.world.simulator.requests();
    let times: Vec<jiff::Timestamp> = records.iter().map(|r| r.time.parse().unwrap()).collect();
    assert_eq!(times.len(), 4);
    for pair in times[1..].windows(2) {
        // Less what the first was longer on its way: it waits for the disk before.
        let rest = pair[1].duration_since(pair[0]).as_millis();
        assert!(rest > 500, "{times:?}");
    }
}

#[tokio::test]
async fn of_an_account_that_cannot_be_used_somebody_is_told_once() {
    let log = Lines::default();
    let _guard = log.collect_log();
    let scene = Scene::accepting(&[], &["old"], "").await;
    scene.ask().await;
    scene
        .receipt("old", "rejected", "refused_by_upstream")
        .await;
    let told = || {
        let lines = log.text();
        let lines = lines
            .lines()
            .filter(|l| l.contains("no credential of the account may be used"));
        lines.filter(|l| l.contains("\"main\"")).count()
    };
    // Other things go on: another account's credential is refused too.
    scene
        .world
        .post(&scene.world.full_token(), &lookup(GetStatus))
        .await;
    let demo = |acts: &[Value]| {
        acts.iter()
            .any(|a| json!([a["account"], a["to"]]) == json!(["demo", "rejected"]))
    };
    scene
        .world
        .audit
        .until_acts("credential_changed", demo)
        .await;
    fs::write(scene.world.folder().join("old"), OLD).unwrap();
    assert_eq!(told(), 1);
}

#[tokio::test]
async fn a_folder_that_is_swapped_as_kubernetes_does_is_one_new_pair() {
    // Secret volumes are a link to a folder, and each file a link through it.
    let prepare = |folder: &Path| {
        write_passes(folder);
        let volume = folder.join("volume");
        for (version, pass) in [("..1", OLD), ("..2", NEW)] {
            fs::create_dir_all(volume.join(version)).unwrap();
            fs::write(volume.join(version).join("user"), MAIN_USER).unwrap();
            fs::write(volume.join(version).join("pass"), pass).unwrap();
        }
        symlink("..1", volume.join("..data")).unwrap();
        for name in ["user", "pass"] {
            symlink(format!("..data/{name}"), volume.join(name)).unwrap();
        }
    };
    let toml = account(&["old"], "")
        .replace("\"main-user\"", "\"volume/user\"")
        .replace(
            "pass = { file = \"old\" }",
            "pass = { file = \"volume/pass\" }",
        );
    let world = World::prepared(&toml, &WATCHED, prepare).await;
    let config = load(world.folder(), &world.simulator.url(), &[]);
    let token = mint(&config, 1, &[GetStatus], None);
    let world = Arc::new(world);
    let scene = Scene { world, token };
    scene.accept(&[OLD, NEW]);
    scene.ask().await;
    let volume = scene.world.folder().join("volume");
    symlink("..2", volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    scene.receipt("old", "canary", "canary_started").await;
    assert_eq!(scene.refused_calls(), 0);
}

#[tokio::test]
async fn not_before_and_not_after_are_kept_to_the_second() {
    let now = jiff::Timestamp::now();
    let switch = now + Duration::from_secs(3);
    let toml = account(&["old", "new"], "")
        .replace(
            "{ id = \"old\",",
            &format!("{{ id = \"old\", not_after = \"{switch}\","),
        )
        .replace(
            "{ id = \"new\",",
            &format!("{{ id = \"new\", not_before = \"{switch}\","),
        );
    let world = World::prepared(&toml, &WATCHED, write_passes).await;
    let config = load(world.folder(), &world.simulator.url(), &[]);
    let token = mint(&config, 1, &[GetStatus], None);
    let world = Arc::new(world);
    let scene = Scene { world, token };
    scene.accept(&[OLD, NEW]);
    let load = steady(&scene, 100, Duration::from_secs(5)).await;
    assert_eq!(load.failed, []);
    scene.receipt("old", "retired", "not_after").await;
    let acts = scene.receipt("new", "active", "takes_over").await;
    let taken = acts
        .iter()
        .find(|a| a["credential"] == "new" && a["to"] == "active")
        .unwrap();
    let time: jiff::Timestamp = taken["time"].as_str().unwrap().parse().unwrap();
    assert!(time >= switch, "{time} {switch}");
    assert_eq!(scene.states().await, ["new active", "old retired"]);
}

#[tokio::test]
async fn what_operators_see_names_credentials_and_shows_no_value() {
    let scene = Scene::start(&["old", "new"], "").await;
    scene.ask().await;
    scene.receipt("old", "active", "takes_over").await;
    let answer = scene.world.operator("/api/credentials").await;
    let main = &answer.json()["accounts"][1];
    assert_eq!(main["usable"], true);
    let names: Vec<&String> = main["credentials"][0].as_object().unwrap().keys().collect();
    assert_eq!(
        names,
        [
            "generation",
            "id",
            "in_flight",
            "last_accepted",
            "last_refused",
            "last_used",
            "not_after",
            "not_before",
            "retry_at",
            "since",
            "source_failure",
            "state"
        ]
    );
    assert!(main["credentials"][0]["last_used"].is_string());
    let page = scene.world.operator("/metrics").await.text;
    for line in [
        "dcams_gateway_account_usable{account=\"main\"} 1",
        "dcams_gateway_credential_state{account=\"main\",credential=\"old\",state=\"active\"} 1",
        "dcams_gateway_credential_state{account=\"main\",credential=\"new\",state=\"pending\"} 1",
        "dcams_gateway_credential_changes_total{account=\"main\",state=\"active\"} 1",
    ] {
        assert!(page.contains(line), "{line}\n{page}");
    }
    for (account, credential, status) in [
        ("main", "old", 409),
        ("main", "nobody", 404),
        ("nobody", "old", 404),
        ("main", "not a name", 400),
    ] {
        let refused = scene.world.retry_credential_of(account, credential).await;
        assert_eq!(refused.status, status, "{}", refused.text);
    }
    for secret in [OLD, NEW, MAIN_USER, "Pa"] {
        assert!(!answer.text.contains(secret) && !page.contains(secret));
    }
}

/// The real program on the same account, and its simulator.
struct Process {
    folder: TempDir,
    simulator: SimulatorHandle,
    token: String,
    toml: String,
    _stop: DropGuard,
}

impl Process {
    async fn prepare(credentials: &[&str], more: &str) -> Self {
        install_crypto();
        let stop = CancellationToken::new();
        let simulator = simulator(login(OLD), stop.clone()).await;
        let folder = TempDir::new().unwrap();
        write_secrets(folder.path());
        write_passes(folder.path());
        let toml = account(credentials, more);
        fs::write(folder.path().join("more.toml"), &toml).unwrap();
        let config = load(folder.path(), &simulator.url(), &[]);
        Self {
            token: mint(&config, 1, &[GetStatus], None),
            folder,
            simulator,
            toml,
            _stop: stop.drop_guard(),
        }
    }

    async fn serve(&self) -> Served {
        let url = self.simulator.url();
        let watched = [("DCAMS_GATEWAY__RELOAD__WATCH", "100ms")];
        Served::start(self.folder.path(), &url, &self.toml, &watched).await
    }

    async fn ask(&self, served: &Served) -> String {
        let request = client().post(served.url()).bearer_auth(&self.token);
        let request = request.json(&lookup(GetStatus));
        answer(request.send().await.unwrap()).await.code()
    }

    async fn standings(served: &Served) -> Vec<Value> {
        let url = format!("http://{}/api/credentials", served.admin);
        let list = answer(client().get(url).send().await.unwrap()).await.json();
        let credentials = list["accounts"][1]["credentials"].as_array();
        credentials.unwrap().clone()
    }

    /// Runs `credentials` on the gateway's configuration.
    async fn command(&self, admin: SocketAddr, arguments: &[&str]) -> Ended {
        let paths = ["demo.toml", "more.toml"].map(|name| self.folder.path().join(name));
        let paths = paths.map(|path| path.display().to_string());
        let arguments = [
            &["credentials"],
            arguments,
            &["--config", &paths[0], &paths[1]],
        ]
        .concat();
        let (url, admin) = (self.simulator.url(), admin.to_string());
        let variables = [
            ("DCAMS_GATEWAY__UPSTREAM__URL", &url[..]),
            ("DCAMS_GATEWAY__ADMIN__LISTEN", &admin),
        ];
        run(&arguments, &variables).await
    }

    async fn states(served: &Served) -> Vec<String> {
        let credentials = Self::standings(served).await;
        let one = |c: &Value| {
            format!(
                "{} {}",
                c["id"].as_str().unwrap(),
                c["state"].as_str().unwrap()
            )
        };
        credentials.iter().map(one).collect()
    }

    fn accept(&self, passes: &[&str]) {
        let passes = passes.iter().map(|pass| login(pass));
        self.simulator.set_credentials(passes.collect());
    }
}

#[tokio::test]
async fn a_rotation_that_is_killed_goes_on_from_what_is_true() {
    let process = Process::prepare(&["old"], "").await;
    process.accept(&[OLD, NEW]);
    let served = process.serve().await;
    assert_eq!(process.ask(&served).await, "customer_not_found");
    served.program.signal("TERM");
    served.program.end().await;
    // A new one is put in front: it is a canary, and so it is after every kill.
    let process = Process {
        toml: account(&["new", "old"], ""),
        ..process
    };
    for _ in 0..3 {
        let served = process.serve().await;
        assert_eq!(process.ask(&served).await, "customer_not_found");
        assert_eq!(Process::states(&served).await, ["new canary", "old active"]);
        drop(served);
    }
    // The vendor turns it off again. A start with what was refused does not try it again.
    process.accept(&[OLD]);
    let mut served = process.serve().await;
    let refused = || {
        let records = process.simulator.requests();
        records
            .iter()
            .filter(|r| r.credentials == Credentials::Refused)
            .count()
    };
    // What was told is on disk.
    assert_eq!(process.ask(&served).await, "customer_not_found");
    served
        .program
        .err
        .says("DCAMS refuses the credential", 1)
        .await;
    let before = refused();
    drop(served);
    for _ in 0..3 {
        let served = process.serve().await;
        assert_eq!(process.ask(&served).await, "customer_not_found");
        assert_eq!(
            Process::states(&served).await,
            ["new rejected", "old active"]
        );
        drop(served);
    }
    assert_eq!(refused(), before);
}

#[tokio::test]
async fn nothing_is_known_of_what_was_not_configured_for_a_while() {
    let mut process = Process::prepare(&["old"], "").await;
    process.accept(&[]);
    for (credential, state) in [
        ("old", "active"),
        ("old", "rejected"),
        ("new", "active"),
        ("old", "active"),
    ] {
        process.toml = account(&[credential], "");
        let mut served = process.serve().await;
        let states = Process::states(&served).await;
        assert_eq!(states, [format!("{credential} {state}")]);
        if state == "active" {
            let code = process.ask(&served).await;
            assert_eq!(code, "upstream_credentials_rejected");
            // What was told is on disk.
            let told = "DCAMS refuses the credential";
            served.program.err.says(told, 1).await;
        }
    }
}

#[tokio::test]
async fn the_commands_show_and_retry_what_the_running_gateway_has() {
    let process = Process::prepare(&["old", "new"], "").await;
    let served = process.serve().await;
    let admin = served.admin;
    assert_eq!(process.ask(&served).await, "customer_not_found");
    let columns = |text: &str| -> Vec<Vec<String>> {
        let cells = |line: &str| {
            let cells = line.split("  ").map(str::trim);
            cells.filter(|c| !c.is_empty()).map(str::to_owned).collect()
        };
        text.lines().map(cells).collect()
    };
    let listed = process.command(admin, &["list"]).await;
    assert_eq!(listed.status.code(), Some(0), "{}", listed.err);
    let table = columns(&listed.out);
    assert_eq!(
        table[0],
        [
            "ACCOUNT",
            "CREDENTIAL",
            "VALUE",
            "STATE",
            "SINCE",
            "LAST USED",
            "LAST REFUSED",
            "IN FLIGHT",
            "NOTE"
        ]
    );
    assert_eq!(table.len(), 4, "{}", listed.out);
    assert_eq!(table[2][..4], ["main", "old", "1", "active"]);
    assert_eq!(table[3][..4], ["main", "new", "1", "pending"]);
    // Used, never refused, by nobody now.
    assert!(table[2][5].contains('T'), "{}", listed.out);
    assert_eq!(table[2][6..], ["-", "0"]);
    // Each column begins below its head.
    let lines: Vec<&str> = listed.out.lines().collect();
    let at = lines[0].find("STATE").unwrap();
    assert_eq!(
        (&lines[2][at..at + 6], &lines[3][at..at + 7]),
        ("active", "pending")
    );
    let listed = process.command(admin, &["list", "--json"]).await;
    let printed: Value = serde_json::from_str(&listed.out).unwrap();
    assert_eq!(printed["accounts"][1]["credentials"][0]["state"], "active");

    process.accept(&[]);
    process.ask(&served).await;
    let listed = process.command(admin, &["list"]).await;
    let table = columns(&listed.out);
    for row in &table[2..] {
        assert_eq!(row[3], "rejected");
        assert!(row[8].starts_with("tried again at 20"), "{row:?}");
    }
    // On the night on which a password's file is gone, too.
    let file = process.folder.path().join("old");
    fs::remove_file(&file).unwrap();
    while !process
        .command(admin, &["list"])
        .await
        .out
        .contains("source: file_missing")
    {}
    process.accept(&[NEW]);
    let retry = ["retry", "--account", "main", "--credential"];
    let retried = process
        .command(admin, &[&retry[..], &["new"]].concat())
        .await;
    assert_eq!(retried.status.code(), Some(0), "{}", retried.err);
    let said: Value = serde_json::from_str(&retried.out).unwrap();
    assert_eq!(
        said,
        json!({"retried": {"account": "main", "credential": "new"}})
    );
    assert_eq!(process.ask(&served).await, "customer_not_found");
    assert_eq!(
        Process::states(&served).await,
        ["old rejected", "new active"]
    );
    for (credential, code, said) in [
        ("new", 1, "it is not rejected: there is nothing to retry"),
        ("nobody", 1, "no account has such a credential"),
        ("not a name", 2, "an id is 1 to 64 of"),
    ] {
        let ended = process
            .command(admin, &[&retry[..], &[credential]].concat())
            .await;
        assert_eq!((ended.status.code(), &ended.out[..]), (Some(code), ""));
        assert!(ended.err.contains(said), "{}", ended.err);
    }
    served.program.signal("TERM");
    served.program.end().await;
    for arguments in [
        &["list"][..],
        &["list", "--json"],
        &[&retry[..], &["old"]].concat(),
    ] {
        let ended = process.command(admin, arguments).await;
        assert_eq!((ended.status.code(), &ended.out[..]), (Some(1), ""));
        assert!(ended.err.contains("no gateway answers at"), "{}", ended.err);
    }
}

#[tokio::test]
async fn a_retired_password_is_wiped_from_the_processs_memory() {
    let pace = "[accounts.rotation]\ncanary_percent = 0";
    let process = Process::prepare(&["old"], pace).await;
    process.accept(&[OLD, NEW]);
    let mut served = process.serve().await;
    for _ in 0..20 {
        process.ask(&served).await;
    }
    assert!(
        remembers(served.program.id, OLD),
        "the search finds what is there"
    );
    fs::write(process.folder.path().join("old"), NEW).unwrap();
    let taken = "change.generation=2 from=\"pending\" to=\"active\"";
    served.program.err.says(taken, 1).await;
    // The old one is kept until the new one has worked.
    process.ask(&served).await;
    served.program.err.says("to=\"retired\"", 1).await;
    for _ in 0..20 {
        process.ask(&served).await;
    }
    assert!(remembers(served.program.id, NEW));
    assert!(!remembers(served.program.id, OLD), "it is still in memory");
}

/// Whether a text, or the way JSON escapes it, stands anywhere in a process's writable memory.
fn remembers(process: u32, text: &str) -> bool {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let memory = fs::File::open(format!("/proc/{process}/mem")).unwrap();
    let escaped = serde_json::to_string(text).unwrap();
    let needles = [text, &escaped[1..escaped.len() - 1]];
    maps.lines()
        .filter(|line| line.contains(" rw"))
        .any(|line| {
            let range = line.split(' ').next().unwrap();
            let (from, to) = range.split_once('-').unwrap();
            let [from, to] = [from, to].map(|hex| u64::from_str_radix(hex, 16).unwrap());
            let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
            // Some of it cannot be read, such as what the kernel maps.
            memory.read_exact_at(&mut bytes, from).is_ok()
                && needles
                    .iter()
                    .any(|n| memchr::memmem::find(&bytes, n.as_bytes()).is_some())
        })
}

#[tokio::test]
async fn a_reload_and_a_rotation_take_nothing_back_from_each_other() {
    let scene = Scene::start(&["old"], "[accounts.rotation]\ncanary_percent = 0").await;
    scene.accept(&[OLD, NEW]);
    scene.ask().await;
    let folder = scene.world.folder().to_owned();
    let reload = async || {
        let url = format!("http://{}/api/reload", scene.world.admin);
        let request = scene.world.client.post(url).json(&json!({}));
        let answer = answer(request.send().await.unwrap()).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    };
    // A rotation, then a reload of something else, and the other way round.
    fs::write(folder.join("old"), NEW).unwrap();
    let second = |acts: &[Value]| {
        acts.iter()
            .any(|a| a["generation"] == 2 && a["to"] == "active")
    };
    scene
        .world
        .audit
        .until_acts("credential_changed", second)
        .await;
    scene.ask().await;
    scene.receipt("old", "retired", "replaced").await;
    let more = fs::read_to_string(folder.join("more.toml")).unwrap();
    fs::write(folder.join("more.toml"), format!("{more}enabled = false\n")).unwrap();
    reload().await;
    assert_eq!(scene.ask().await.code(), "tenant_disabled");
    fs::write(folder.join("old"), format!("{OLD}\n")).unwrap();
    let third = |acts: &[Value]| {
        acts.iter()
            .any(|a| a["generation"] == 3 && a["to"] == "active")
    };
    scene
        .world
        .audit
        .until_acts("credential_changed", third)
        .await;
    assert_eq!(scene.ask().await.code(), "tenant_disabled");
    // Both at once: what the reload read before the file changed is not what counts.
    fs::write(folder.join("more.toml"), more).unwrap();
    fs::write(folder.join("old"), NEW).unwrap();
    reload().await;
    let fourth = |acts: &[Value]| {
        acts.iter()
            .any(|a| a["generation"] == 4 && a["to"] == "active")
    };
    scene
        .world
        .audit
        .until_acts("credential_changed", fourth)
        .await;
    assert_eq!(scene.ask().await.code(), "customer_not_found");
    let standing = scene.standing().await;
    assert_eq!(standing[0], ("old".to_owned(), 4, "active".to_owned()));
}

#[tokio::test]
async fn a_request_under_way_outlives_its_accounts_name() {
    let scene = Scene::start(&["old"], "").await;
    scene.ask().await;
    let body = lookup(GetStatus).to_string();
    let mut wire = Wire::open(scene.world.gateway).await;
    wire.send(head(&scene.token, body.len(), "")).await;
    let held = format!("dcams_gateway_body_memory_bytes {}", body.len());
    let metrics = async || scene.world.operator("/metrics").await.text;
    while !metrics().await.contains(&held) {}
    let renamed = account(&["old"], "")
        .replace(
            "id = \"main\"\ncredentials",
            "id = \"renamed\"\ncredentials",
        )
        .replace("account = \"main\"", "account = \"renamed\"");
    scene.world.change(&renamed).await;
    assert_eq!(scene.ask().await.code(), "customer_not_found");
    wire.send(&body).await;
    assert_eq!(wire.answer().await.status, 404);
    // With it the account goes, and leaves its receipt.
    scene.receipt("old", "retired", "removed").await;
}

#[tokio::test]
async fn a_pipe_in_a_files_place_is_no_source_and_holds_nothing_up() {
    let scene = Scene::start(&["old"], "").await;
    let file = scene.world.folder().join("old");
    fs::remove_file(&file).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&file).status();
    assert!(made.unwrap().success());
    let ready = async || scene.world.operator("/readyz").await.text;
    while !ready().await.contains("(no_regular_file)") {}
    scene.accept(&[]);
    scene.ask().await;
    scene
        .receipt("old", "rejected", "refused_by_upstream")
        .await;
}
