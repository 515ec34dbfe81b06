//! What operators do is on record, with who it was: before it takes effect and when it has, or it is not
//! done.

use std::{fs, path::Path, time::Duration};

use dcams_gateway::{
    audit::{
        AuditTrail,
        operator::{About, Action, Actor, Scribe},
    },
    clock,
    operation::Operation::{CreateOrUpdateCustomer, GetStatus},
};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    audit_reading::flaws,
    durable::{lines, on_a_disk, until_refused, until_served},
    program::{self, Ended, Served},
    support::{Answer, EMAIL, Lines, OTHER_TENANT, World, answer, load, lookup, write_secrets},
};

const NAME: &str = "night-shift";
const SUBJECT: &str = "canary-subject";

/// A second tenant, with a ledger and a limit.
fn ledger() -> String {
    format!("{OTHER_TENANT}isolation = \"ledger\"\n[tenants.quota]\ndaily = 5\n")
}

async fn call(world: &World, method: Method, path: &str, body: Option<&Value>) -> Answer {
    let url = format!("http://{}/api/{path}", world.admin);
    let request = world.client.request(method, url).header("X-Operator", NAME);
    let request = match body {
        Some(body) => request.json(body),
        None => request,
    };
    answer(request.send().await.unwrap()).await
}

fn admin(lines: Vec<Value>) -> Vec<Value> {
    let acts = lines.into_iter().filter(|line| line["event"] == "admin");
    acts.collect()
}

/// Calls that change something, with what there is for them to change.
fn changes() -> [(&'static str, Value, &'static str); 6] {
    let who = json!({"tenant": "other", "email": EMAIL});
    let many = json!({"tenant": "other", "emails": [EMAIL, "b@example.com", "no address"]});
    let credential = json!({"account": "demo", "credential": "demo-1"});
    let grant = json!({"policy": "daily", "amount": 3});
    [
        ("customers/remove", many, "customer_remove"),
        ("customers/forget", who.clone(), "customer_forget"),
        ("cache/purge", who, "cache_purge"),
        ("credentials/retry", credential, "credential_retry"),
        (
            "revocations",
            json!({"issuer": "demo-idp", "subject": SUBJECT}),
            "revocation_add",
        ),
        ("usage/other/grant", grant, "usage_grant"),
    ]
}

#[tokio::test]
async fn what_an_operator_does_is_on_disk_with_who_it_was_when_he_is_answered() {
    let world = World::with(&ledger(), &[]).await;
    let emails = json!({"tenant": "other", "emails": [EMAIL, "b@example.com", "no address"]});
    let owner = |email: &str| json!({"account": "other", "email": email});
    let mut seen = 0;
    let mut told = |count: usize| {
        let acts = admin(lines(world.folder()));
        let new = acts[seen..].to_vec();
        assert_eq!(new.len(), count, "{new:#?}");
        seen = acts.len();
        for act in &new {
            let who = ["via", "client", "authenticated", "operator"];
            assert_eq!(
                json!(who.map(|name| &act[name])),
                json!(["api", "loopback", "loopback", NAME]),
                "{act}"
            );
        }
        new
    };
    let post = async |path: &str, body: &Value| call(&world, Method::POST, path, Some(body)).await;
    assert_eq!(post("customers/import", &emails).await.status, 200);
    let import = told(2);
    assert_eq!(import[0]["action"], "customer_import");
    let counted = ["tenant", "customers", "done", "result"];
    assert_eq!(
        json!([
            counted.map(|name| &import[0][name]),
            counted.map(|name| &import[1][name])
        ]),
        json!([["other", 3, null, "begun"], ["other", 3, 2, "done"]])
    );
    assert_eq!(
        post("customers/owner", &owner(EMAIL)).await.json()["tenant"],
        "other"
    );
    let [owned] = &told(1)[..] else { panic!() };
    assert_eq!(
        json!([owned["action"], owned["tenant"], owned["result"]]),
        json!(["customer_owner", "other", null])
    );
    let nobody = post("customers/owner", &owner("nobody@example.com")).await;
    assert_eq!(nobody.status, 200);
    let [unowned] = &told(1)[..] else { panic!() };
    assert!(unowned["customer"].is_null() && unowned["tenant"].is_null());

    for (path, body, action) in changes() {
        post(path, &body).await;
        let acts = told(2);
        let ended = match action {
            "credential_retry" => "refused",
            "usage_grant" => "granted",
            _ => "done",
        };
        let said = ["action", "result"];
        assert_eq!(
            json!([
                said.map(|name| &acts[0][name]),
                said.map(|name| &acts[1][name])
            ]),
            json!([[action, "begun"], [action, ended]])
        );
        if action == "customer_forget" {
            assert_eq!(owned["customer"], acts[0]["customer"]);
        }
        if action == "revocation_add" {
            assert_eq!(
                json!([acts[1]["kind"], acts[1]["issuer"]]),
                json!(["subject", "demo-idp"])
            );
        }
    }
    let listed = call(&world, Method::GET, "revocations", None).await.json();
    let [listing] = &told(1)[..] else { panic!() };
    assert_eq!(listing["action"], "revocation_list");
    let id = listed["revocations"][0]["id"].as_str().unwrap();
    for (status, ended) in [(200, "done"), (404, "refused")] {
        let path = format!("revocations/{id}");
        let removed = call(&world, Method::DELETE, &path, None).await;
        assert_eq!(removed.status, status, "{}", removed.text);
        let acts = told(2);
        let said = ["action", "result", "revocation"];
        assert_eq!(
            json!([
                said.map(|name| &acts[0][name]),
                said.map(|name| &acts[1][name])
            ]),
            json!([
                ["revocation_remove", "begun", id],
                ["revocation_remove", ended, id]
            ])
        );
    }
    let unknown = json!({"account": "demo", "credential": "made-up"});
    assert_eq!(post("credentials/retry", &unknown).await.status, 404);
    assert_eq!(told(0), [json!(null); 0]);
    let all = lines(world.folder());
    let start = all.iter().find(|line| line["event"] == "start").unwrap();
    assert_eq!(start["via"], json!(null), "{start}");
    let text = json!(all).to_string();
    for person in [EMAIL, SUBJECT, "b@example.com", "made-up"] {
        assert!(!text.contains(person), "{text}");
    }
}

#[tokio::test]
async fn a_reload_that_changes_something_is_on_record_before_it_is_in_force() {
    let world = World::start().await;
    let reloads = || {
        let acts = lines(world.folder()).into_iter();
        let acts = acts.filter(|line| line["event"] == "config_reloaded");
        let told = acts.map(|act| json!([act["result"], act["via"], act["client"]]));
        told.collect::<Vec<_>>()
    };
    let told = |result: &str| json!([result, "api", "loopback"]);
    world.change(OTHER_TENANT).await;
    let mut all = vec![told("begun"), told("ok")];
    assert_eq!(reloads(), all);
    // Where nothing takes effect, nothing has begun.
    assert_eq!(world.reload().await.status, 200);
    world.rewrite("tenants = 5");
    assert_eq!(world.reload().await.status, 422);
    all.extend([told("ok"), told("refused")]);
    assert_eq!(reloads(), all);
}

#[tokio::test]
async fn while_the_disk_is_full_nothing_an_operator_wants_is_done_or_told() {
    let Some((world, disk)) = on_a_disk(&ledger(), &[]).await else {
        return;
    };
    let emails = json!({"tenant": "other", "emails": [EMAIL]});
    let import = call(&world, Method::POST, "customers/import", Some(&emails)).await;
    assert_eq!(import.status, 200, "{}", import.text);
    let tenant = json!({"tenant": "other"});
    let revoked = call(&world, Method::POST, "revocations", Some(&tenant)).await;
    let revoked = format!("revocations/{}", revoked.json()["id"].as_str().unwrap());
    disk.fill();
    let token = world.full_token();
    until_refused(&world, &token, &lookup(GetStatus)).await;
    let refused = |path: &str, answer: &Answer| {
        assert_eq!(answer.status, 503, "{path}: {}", answer.text);
        assert_eq!(answer.code(), "audit_unavailable", "{path}");
        assert!(
            answer.text.contains("nothing was"),
            "{path}: {}",
            answer.text
        );
    };
    for (path, body, _) in changes() {
        let answer = call(&world, Method::POST, path, Some(&body)).await;
        refused(path, &answer);
    }
    let others = json!({"tenant": "other", "emails": ["b@example.com"]});
    let answer = call(&world, Method::POST, "customers/import", Some(&others)).await;
    refused("customers/import", &answer);
    refused(
        &revoked,
        &call(&world, Method::DELETE, &revoked, None).await,
    );
    let owner = |email: &str| json!({"account": "other", "email": email});
    let mine = owner(EMAIL);
    let asked = call(&world, Method::POST, "customers/owner", Some(&mine)).await;
    refused("customers/owner", &asked);
    let month = clock::now().strftime("usage/statement?month=%Y-%m");
    for path in ["revocations", "usage", &month.to_string()] {
        refused(path, &call(&world, Method::GET, path, None).await);
    }
    world.rewrite("");
    refused("reload", &world.reload().await);

    disk.free();
    until_served(&world, &token, &lookup(CreateOrUpdateCustomer)).await;
    let acts = lines(world.folder()).into_iter();
    let acts = acts.filter(|line| line["event"] == "admin" || line["event"] == "config_reloaded");
    // Import and revocation were done before.
    says_that_nothing_was_done(&acts.skip(4).collect::<Vec<_>>(), 13);
    let usage = call(&world, Method::GET, "usage?tenant=other", None).await;
    assert_eq!(usage.json()["tenants"][0]["limits"][0]["granted"], 0);
    let listed = call(&world, Method::GET, "revocations", None).await.json();
    assert_eq!(listed["revocations"].as_array().unwrap().len(), 1);
    for (email, tenant) in [(EMAIL, json!("other")), ("b@example.com", json!(null))] {
        let body = owner(email);
        let owner = call(&world, Method::POST, "customers/owner", Some(&body)).await;
        assert_eq!(owner.json()["tenant"], tenant, "{email}");
    }
    assert_eq!(world.reload().await.json()["changed"], true);
}

/// All that was announced has a result behind it that says that nothing came of it.
fn says_that_nothing_was_done(acts: &[Value], count: usize) {
    let refused = |act: &&Value| act["result"] == "refused";
    let (refused, announced): (Vec<_>, Vec<_>) = acts.iter().partition(refused);
    assert_eq!(refused.len(), count, "{acts:#?}");
    for act in announced {
        let what = [
            "event",
            "action",
            "tenant",
            "customers",
            "revocation",
            "policy",
        ];
        let same = |end: &&Value| what.iter().all(|name| end[name] == act[name]);
        let end = refused.iter().find(|end| same(&&***end));
        let end = end.unwrap_or_else(|| panic!("{act} has no end"));
        assert!(end["seq"].as_u64() > act["seq"].as_u64());
    }
}

#[tokio::test]
async fn what_was_announced_too_late_is_said_not_to_have_been_done() {
    let folder = TempDir::new().unwrap();
    write_secrets(folder.path());
    fs::write(folder.path().join("more.toml"), "").unwrap();
    let mut settings = load(folder.path(), "http://127.0.0.1:1", &[]).audit;
    // Nobody waits for so long, and the disk takes it all the same.
    settings.write_timeout = Duration::from_millis(1);
    settings.sync_interval = Duration::from_mins(1);
    let trail = AuditTrail::open(&settings, None).unwrap();
    let actor = Actor::at_cli(None);
    let scribe = Scribe::new(&trail, &actor);
    let begun = scribe.begins(Action::CachePurge, About::default()).await;
    assert!(begun.is_err());
    let told = scribe.tells(Action::RevocationList, About::default()).await;
    assert!(told.is_err());
    assert!(trail.close(Duration::from_secs(20)).await);
    let acts = admin(lines(folder.path())).into_iter();
    let said: Vec<_> = acts
        .map(|act| json!([act["action"], act["result"]]))
        .collect();
    let expected = [
        json!(["cache_purge", "begun"]),
        json!(["cache_purge", "refused"]),
        json!(["revocation_list", null]),
        json!(["revocation_list", "refused"]),
    ];
    assert_eq!(said, expected);
}

#[tokio::test]
async fn a_changed_file_is_taken_up_when_there_is_room_to_say_so() {
    let watched = [("RELOAD__WATCH", "1s")];
    let Some((world, disk)) = on_a_disk("", &watched).await else {
        return;
    };
    disk.fill();
    until_refused(&world, &world.full_token(), &lookup(GetStatus)).await;
    world.rewrite(&ledger());
    let patience = clock::instant() + Duration::from_secs(30);
    let until = async |path: &str, what: &str| {
        while !world.operator(path).await.text.contains(what) {
            assert!(clock::instant() < patience, "{what}");
            tokio::task::yield_now().await;
        }
    };
    until("/readyz", "the last reload was refused").await;
    disk.free();
    until("/api/usage", r#""tenant":"other""#).await;
}

#[tokio::test]
async fn an_operator_has_the_token_or_is_on_loopback_and_is_no_address() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("admin");
    fs::write(&path, "an-admin-token-of-the-tests").unwrap();
    let world = World::with(&format!("[admin]\ntoken = {{ file = {path:?} }}\n"), &[]).await;
    let url = format!("http://{}/api/revocations", world.admin);
    let ask = || {
        let request = world.client.get(&url);
        request.bearer_auth("an-admin-token-of-the-tests")
    };
    let long = "a".repeat(65);
    for name in ["jane@example.com", "a b", "", &long] {
        let refused = answer(ask().header("X-Operator", name).send().await.unwrap()).await;
        assert_eq!(refused.status, 400, "{name}");
        assert!(refused.text.contains("X-Operator"), "{}", refused.text);
    }
    let two = ask().header("X-Operator", "a").header("X-Operator", "b");
    assert_eq!(two.send().await.unwrap().status(), 400);
    assert_eq!(admin(lines(world.folder())), [json!(null); 0]);
    assert_eq!(ask().send().await.unwrap().status(), 200);
    let [act] = &admin(lines(world.folder()))[..] else {
        panic!()
    };
    assert_eq!(
        json!([act["authenticated"], act["client"], act["operator"]]),
        json!(["token", "loopback", null])
    );
    are_on_record_who_have_not_got_the_token(&world, &url).await;
}

async fn are_on_record_who_have_not_got_the_token(world: &World, url: &str) {
    let log = Lines::default();
    let _guard = log.collect_log();
    for header in [None, Some("Bearer a-guess"), Some("Basic YTpi")] {
        let request = world.client.get(url).header("X-Operator", "jane");
        let request = match header {
            Some(header) => request.header("Authorization", header),
            None => request,
        };
        assert_eq!(request.send().await.unwrap().status(), 401);
    }
    // Who asks whether it is alive needs none.
    world.operator("/livez").await;
    let request = world.client.get(url.replace("api/revocations", "metrics"));
    let page = request.bearer_auth("an-admin-token-of-the-tests");
    let page = answer(page.send().await.unwrap()).await;
    let counted = "dcams_gateway_admin_refused_total 3\n";
    assert!(page.text.contains(counted), "{}", page.text);
    assert_eq!(
        log.text()
            .matches("without the admin token was refused")
            .count(),
        3
    );
    // What is told now is written behind them.
    let good = world.client.get(url);
    let good = good.bearer_auth("an-admin-token-of-the-tests");
    assert_eq!(good.send().await.unwrap().status(), 200);
    let recorded = lines(world.folder()).into_iter();
    let recorded: Vec<_> = recorded
        .filter(|line| line["phase"] == "rejected")
        .collect();
    let said = |line: &Value| {
        assert_eq!(flaws(line), [""; 0], "{line}");
        json!([
            line["code"],
            line["reason"],
            line["http_status"],
            line["client"]
        ])
    };
    let said: Vec<_> = recorded.iter().map(said).collect();
    let expected = |reason: &str| json!(["admin_token", reason, 401, "127.0.0.0/24"]);
    assert_eq!(said, ["missing", "wrong", "wrong"].map(expected));
    for secret in ["jane", "a-guess", "YTpi"] {
        assert!(!log.text().contains(secret) && !json!(recorded).to_string().contains(secret));
    }
}

#[tokio::test]
async fn of_what_was_broken_off_the_trail_says_so() {
    let folder = TempDir::new().unwrap();
    write_secrets(folder.path());
    fs::write(folder.path().join("more.toml"), "").unwrap();
    let settings = load(folder.path(), "http://127.0.0.1:1", &[]).audit;
    let trail = AuditTrail::open(&settings, None).unwrap();
    let actor = Actor::at_cli(None);
    let scribe = Scribe::new(&trail, &actor);
    let begun = scribe.begins(Action::CachePurge, About::default()).await;
    drop(begun.unwrap());
    assert!(trail.close(Duration::from_secs(20)).await);
    let acts = admin(lines(folder.path())).into_iter();
    let told: Vec<_> = acts.map(|act| act["result"].clone()).collect();
    assert_eq!(told, ["begun", "interrupted"]);
}

/// The binary's own command, with nobody on the admin listener but this one.
async fn command(folder: &Path, listen: &str, arguments: &[&str]) -> Ended {
    let path = |name: &str| folder.join(name).display().to_string();
    let (demo, more) = (path("demo.toml"), path("more.toml"));
    let config = ["--config", &demo, &more, "--as", NAME];
    let all = [&arguments[..2], &config, &arguments[2..]].concat();
    program::run(&all, &[("DCAMS_GATEWAY__ADMIN__LISTEN", listen)]).await
}

const NOBODY: &str = "127.0.0.1:1";

#[tokio::test]
async fn a_command_without_a_gateway_leaves_its_events_in_a_chain_that_is_whole() {
    let folder = TempDir::new().unwrap();
    let place = folder.path();
    write_secrets(place);
    fs::write(place.join("more.toml"), ledger()).unwrap();
    let file = place.join("customers.csv");
    fs::write(&file, format!("email\n{EMAIL}\nb@example.com\n")).unwrap();
    let file = file.display().to_string();
    let said = |arguments: &'static str| arguments.split(' ').collect::<Vec<_>>();
    for arguments in [
        vec!["customers", "import", "--tenant", "other", &file],
        vec!["customers", "owner", "--account", "other", "--email", EMAIL],
        vec!["customers", "forget", "--tenant", "other", "--email", EMAIL],
        vec!["customers", "remove", "--tenant", "other", &file],
        vec![
            "revocations",
            "add",
            "--issuer",
            "demo-idp",
            "--subject",
            SUBJECT,
        ],
        said("revocations list"),
        said("revocations remove --issuer demo-idp --subject canary-subject"),
        said("usage grant --tenant other --policy daily --amount 3"),
        said("usage show --tenant other"),
        said("usage statement --tenant other --month 2026-11"),
    ] {
        let ended = command(place, NOBODY, &arguments).await;
        // One of the two was forgotten before.
        let expected = i32::from(arguments[..2] == ["customers", "remove"]);
        assert_eq!(ended.status.code(), Some(expected), "{ended:?}");
    }
    // Files of commands that have ended are compressed.
    let all = ["audit", "tail", "--json", "--all", "-n", "1000"];
    let tail = command(place, NOBODY, &all).await;
    assert!(tail.status.success(), "{tail:?}");
    let parsed = tail
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let all: Vec<Value> = parsed.collect();
    // They are no gateway's.
    for kind in ["start", "stop"] {
        let of = all.iter().filter(|line| line["event"] == kind);
        let by: Vec<_> = of.map(|line| (&line["via"], flaws(line))).collect();
        assert_eq!(by, vec![(&json!("cli"), Vec::new()); 10], "{kind}");
    }
    let acts = admin(all);
    let told: Vec<_> = acts
        .iter()
        .map(|act| {
            assert_eq!(
                json!([act["via"], act["operator"], act["client"]]),
                json!(["cli", NAME, null])
            );
            let words = ["action", "result"].map(|name| act[name].as_str().unwrap_or_default());
            words.join(" ").trim_end().to_owned()
        })
        .collect();
    assert_eq!(
        told,
        [
            "customer_import begun",
            "customer_import done",
            "customer_owner",
            "customer_forget begun",
            "customer_forget done",
            "customer_remove begun",
            "customer_remove done",
            "revocation_add begun",
            "revocation_add done",
            "revocation_list",
            "revocation_remove begun",
            "revocation_remove done",
            "usage_grant begun",
            "usage_grant granted",
            "usage_read",
            "statement_read",
        ]
    );
    let verified = command(place, NOBODY, &["audit", "verify"]).await;
    assert!(verified.status.success(), "{verified:?}");
    for person in [EMAIL, SUBJECT, "b@example.com"] {
        assert!(!tail.out.contains(person), "{}", tail.out);
    }
}

#[tokio::test]
async fn a_command_that_cannot_write_the_trail_does_nothing_and_says_what_to_do() {
    let folder = TempDir::new().unwrap();
    let place = folder.path();
    write_secrets(place);
    let mut served = Served::start(place, "http://127.0.0.1:1", "", &[]).await;
    // Another state, so that only the trail is in use.
    let path = |name: &str| place.join(name).display().to_string();
    let (demo, more, state) = (path("demo.toml"), path("more.toml"), path("elsewhere"));
    let add = [
        "revocations",
        "add",
        "--config",
        &demo,
        &more,
        "--tenant",
        "demo",
    ];
    let variables = [
        ("DCAMS_GATEWAY__ADMIN__LISTEN", NOBODY),
        ("DCAMS_GATEWAY__STATE__PATH", &state),
    ];
    let refused = program::run(&add, &variables).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(
        refused.err.contains("admin.listen") && refused.err.contains("nothing was done"),
        "{refused:?}"
    );
    // Through the gateway, the operator's name gets there.
    let admin = served.admin.to_string();
    let listed = command(place, &admin, &["revocations", "list"]).await;
    assert_eq!((listed.status.code(), listed.out.as_str()), (Some(0), ""));
    let trail = served.program.out.says("revocation_list", 1).await;
    assert!(
        trail.contains(r#""operator":"night-shift""#) && trail.contains(r#""via":"api""#),
        "{trail}"
    );
    served.program.signal("TERM");
    served.program.end().await;
    // Nor where the folder is none.
    let folder = ("DCAMS_GATEWAY__AUDIT__PATH", demo.as_str());
    let refused = program::run(&add, &[&variables[..], &[folder]].concat()).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(refused.err.contains("could not be recorded"), "{refused:?}");
    assert!(!place.join("elsewhere").exists(), "a state was made");
    let listed = program::run(
        &["revocations", "list", "--config", &demo, &more],
        &variables,
    )
    .await;
    assert_eq!((listed.status.code(), listed.out.as_str()), (Some(0), ""));
}
