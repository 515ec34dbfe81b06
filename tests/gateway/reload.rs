//! The configuration, changed while the gateway runs: what takes effect, what does not, who is told,
//! and that no request notices.

use std::{
    env, fs,
    os::unix::fs::symlink,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use dcams_gateway::{
    auth::install_crypto,
    operation::Operation::{self, GetStatus},
    simulator::{
        Login,
        fault::{Fault, FaultKind},
    },
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpStream, task::JoinSet, time::interval};
use tokio_util::sync::CancellationToken;

use crate::{
    durable::lines,
    identity::{issuer, pair, token},
    idp::{self, Idp, KEYS, jwk},
    program::{Served, command, run},
    support::{
        Answer, Lines, OTHER_TENANT, OTHER_USER, PASS, USER, World, answer, client, load, lookup,
        mint, simulator, write_secrets,
    },
    wire::{Wire, head},
};

/// What the simulator says of a customer that nobody created: the request went through.
const PASSED: u16 = 404;

async fn ask(world: &World, token: &str) -> Answer {
    world.post(token, &lookup(GetStatus)).await
}

/// A token of the second issuer and tenant that stand in the files.
fn other_token(world: &World) -> String {
    let config = load(world.folder(), &world.simulator.url(), &[]);
    mint(&config, 1, &Operation::ALL, None)
}

async fn metric(world: &World, line: &str) -> bool {
    let page = world.operator("/metrics").await.text;
    page.lines().any(|found| found == line)
}

/// Waits until this many reloads are on record.
async fn until_recorded(world: &World, count: usize) {
    let ended = |act: &&Value| act["result"] != "begun";
    let enough = |acts: &[Value]| acts.iter().filter(ended).count() >= count;
    world.audit.until_acts("config_reloaded", enough).await;
}

/// How the reloads that the audit trail holds ended: which way they were asked for, result, mistakes.
fn recorded(lines: &Lines) -> Vec<(String, String, usize)> {
    let reloads = lines.acts("config_reloaded").into_iter();
    let text = |event: &Value, key: &str| event[key].as_str().unwrap().to_owned();
    reloads
        .filter(|e| e["result"] != "begun")
        .map(|e| {
            let mistakes = usize::try_from(e["mistakes"].as_u64().unwrap()).unwrap();
            (text(&e, "via"), text(&e, "result"), mistakes)
        })
        .collect()
}

#[tokio::test]
async fn a_tenant_and_its_issuer_come_are_switched_off_and_go() {
    let world = World::start().await;
    let logins = [Login::new(USER, PASS), Login::new(OTHER_USER, PASS)];
    world.simulator.set_credentials(logins.into());
    let own = world.full_token();
    assert_eq!(ask(&world, &own).await.status, PASSED);
    world.change(OTHER_TENANT).await;
    let other = other_token(&world);
    for _ in 0..2 {
        assert_eq!(ask(&world, &other).await.status, PASSED);
        assert_eq!(ask(&world, &own).await.status, PASSED);
    }
    let off = format!("{OTHER_TENANT}enabled = false\n");
    world.change(&off).await;
    let answer = ask(&world, &other).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (403, "tenant_disabled")
    );
    // The token is remembered. With its issuer it is worth nothing.
    world.change("").await;
    let answer = ask(&world, &other).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (401, "invalid_token")
    );
    assert_eq!(ask(&world, &own).await.status, PASSED);
}

#[tokio::test]
async fn limits_and_the_operators_token_are_the_new_ones() {
    let world = World::start().await;
    let token = world.full_token();
    let body = lookup(GetStatus).to_string();
    let of = |size: usize| format!("{body}{}", " ".repeat(size - body.len()));
    assert_eq!(world.post_text(&token, of(301)).await.status, PASSED);
    fs::write(world.folder().join("admin.token"), "a-token-of-operators").unwrap();
    let toml = "[limits]\nmax_lookup_body = 300\nbody_memory = \"20MB\"\n\
                [admin]\ntoken = { file = \"admin.token\" }\n";
    world.change(toml).await;
    assert_eq!(world.post_text(&token, of(300)).await.status, PASSED);
    assert_eq!(world.post_text(&token, of(301)).await.status, 413);
    assert_eq!(world.operator("/metrics").await.status, 401);
    assert_eq!(world.reload().await.status, 401);
    let url = format!("http://{}/metrics", world.admin);
    let with_token = world.client.get(url).bearer_auth("a-token-of-operators");
    let page = answer(with_token.send().await.unwrap()).await.text;
    assert!(
        page.contains("dcams_gateway_body_memory_limit_bytes 20000000\n"),
        "{page}"
    );
}

#[tokio::test]
async fn a_listener_moves_and_what_is_under_way_on_the_old_one_is_answered() {
    let log = Lines::default();
    let _guard = log.collect_log();
    let world = World::start().await;
    let token = world.full_token();
    let mut idle = Wire::open(world.gateway).await;
    idle.send(head(&token, 0, "")).await;
    assert_eq!(idle.answer().await.status, 400);
    let fault = Fault::once(FaultKind::Delay { ms: 1_000 });
    world.simulator.add_fault(fault).unwrap();
    let body = lookup(GetStatus).to_string();
    let mut under_way = Wire::open(world.gateway).await;
    under_way.send(head(&token, body.len(), "")).await;
    under_way.send(&body).await;
    world.simulator.arrived(1).await;

    let elsewhere = "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n";
    world.change(elsewhere).await;
    let moved: Vec<Value> = log
        .events()
        .into_iter()
        .filter(|line| line["message"] == "listening elsewhere")
        .collect();
    assert_eq!(moved.len(), 2);
    let (gateway, admin) = (&moved[0]["server.listen"], &moved[1]["admin.listen"]);
    let (gateway, admin) = (gateway.as_str().unwrap(), admin.as_str().unwrap());
    let url = world.url().replace(&world.gateway.to_string(), gateway);
    let request = client()
        .post(url)
        .bearer_auth(&token)
        .json(&lookup(GetStatus));
    assert_eq!(request.send().await.unwrap().status(), PASSED);
    let probe = client().get(format!("http://{admin}/readyz"));
    assert_eq!(probe.send().await.unwrap().status(), 200);
    // Nobody gets in by the old ones, and who had nothing to wait for is sent away.
    for old in [world.gateway, world.admin] {
        assert!(TcpStream::connect(old).await.is_err());
    }
    assert!(idle.is_closed().await);
    assert_eq!(under_way.answer().await.status, PASSED);
}

#[tokio::test]
async fn a_listener_that_cannot_be_had_changes_nothing() {
    let world = World::start().await;
    let taken = crate::support::listen().await.local_addr().unwrap();
    let holder = tokio::net::TcpListener::bind(taken).await.unwrap();
    // The other one could be had, and is not kept.
    let toml = format!(
        "[server]\nlisten = \"{taken}\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [limits]\nmax_lookup_body = 300\n"
    );
    world.rewrite(&toml);
    let refused = world.reload().await;
    assert_eq!(refused.status, 422, "{}", refused.text);
    let mistakes = refused.json()["mistakes"].as_array().unwrap().clone();
    assert_eq!(mistakes.len(), 1);
    assert!(
        mistakes[0].as_str().unwrap().contains("`server.listen`"),
        "{mistakes:?}"
    );
    let token = world.full_token();
    let long = format!("{}{}", lookup(GetStatus), " ".repeat(300));
    assert_eq!(world.post_text(&token, long).await.status, PASSED);
    drop(holder);
    assert_eq!(world.reload().await.status, 200);
}

#[tokio::test]
async fn new_connections_have_the_new_settings_and_open_ones_go_on() {
    let world = World::start().await;
    let token = world.full_token();
    let body = lookup(GetStatus).to_string();
    let mut open = Wire::open(world.gateway).await;
    let mut post = async || {
        open.send(head(&token, body.len(), "")).await;
        open.send(&body).await;
        open.answer().await.status
    };
    assert_eq!(post().await, PASSED);
    world.change("[server]\nmax_headers = 8\n").await;
    assert_eq!(post().await, PASSED);
    let many = "x-more: 1\r\n".repeat(8);
    let mut new = Wire::open(world.gateway).await;
    new.send(head(&token, 0, &many)).await;
    assert_eq!(new.answer().await.status, 431);
}

#[tokio::test]
async fn a_request_keeps_the_configuration_that_it_began_with() {
    let world = World::start().await;
    let token = world.full_token();
    let body = lookup(GetStatus).to_string();
    let mut wire = Wire::open(world.gateway).await;
    wire.send(head(&token, body.len(), "")).await;
    let held = format!("dcams_gateway_body_memory_bytes {}", body.len());
    while !metric(&world, &held).await {}
    let text = fs::read_to_string(world.folder().join("demo.toml")).unwrap();
    fs::write(
        world.folder().join("demo.toml"),
        format!("{text}enabled = false\n"),
    )
    .unwrap();
    assert_eq!(world.reload().await.status, 200);
    assert_eq!(ask(&world, &token).await.code(), "tenant_disabled");
    wire.send(&body).await;
    assert_eq!(wire.answer().await.status, PASSED);
}

#[tokio::test]
async fn keys_that_were_fetched_are_kept_where_nothing_about_them_has_changed() {
    let (idp, key) = (Idp::start(), pair());
    idp.answer(KEYS, idp::Answer::keys(&[jwk(&key, "k")]));
    let live = issuer("live", &idp);
    let world = World::with(&live, &[]).await;
    let good = token(&idp, &key, "k");
    assert_eq!(ask(&world, &good).await.status, PASSED);
    // Whatever it may answer from now on: it is not asked.
    idp.answer(KEYS, idp::Answer::ok("").status(500));
    for toml in [
        format!("{live}leeway = \"10s\"\n"),
        format!("[limits]\nmax_lookup_body = \"8KiB\"\n{live}"),
        format!("{OTHER_TENANT}{live}"),
    ] {
        world.change(&toml).await;
        assert_eq!(ask(&world, &good).await.status, PASSED);
        assert_eq!(idp.asked(KEYS), 1);
    }
    // Fetched in another way they hold until they are fetched anew, even where that fails.
    world
        .change(&format!("{live}[issuers.jwks]\ntimeout = \"4s\"\n"))
        .await;
    while idp.asked(KEYS) < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(ask(&world, &good).await.status, PASSED);
    assert!(metric(&world, r#"dcams_gateway_issuer_keys{issuer="live"} 1"#).await);
    assert!(world.operator("/readyz").await.text.contains("issuer live"));
    world.change("").await;
    assert_eq!(ask(&world, &good).await.status, 401);
    let page = world.operator("/metrics").await.text;
    assert!(!page.contains("live"), "{page}");
    assert_eq!(world.operator("/readyz").await.text, "ready\n");
}

#[tokio::test]
async fn revocations_of_the_configuration_come_and_go_with_it() {
    let world = World::start().await;
    let token = world.full_token();
    assert_eq!(ask(&world, &token).await.status, PASSED);
    let entry = "[[revocations]]\nissuer = \"demo-idp\"\nsubject = \"subject-of-the-token\"\n";
    world.change(entry).await;
    assert_eq!(ask(&world, &token).await.status, 401);
    let list = world.operator("/api/revocations").await.json();
    assert_eq!(list["revocations"][0]["configured"], true);
    world
        .change(&format!("{entry}[limits]\nmax_lookup_body = \"8KiB\"\n"))
        .await;
    assert_eq!(ask(&world, &token).await.status, 401);
    world.change("").await;
    assert_eq!(ask(&world, &token).await.status, PASSED);
    let list = world.operator("/api/revocations").await.json();
    assert_eq!(list["revocations"], json!([]));
}

#[tokio::test]
async fn a_wrong_configuration_changes_nothing_and_everybody_is_told_what_to_mend() {
    let log = Lines::default();
    let _guard = log.collect_log();
    let world = World::start().await;
    let token = world.full_token();
    let long = format!("{}{}", lookup(GetStatus), " ".repeat(300));
    let wrong = [
        "[limits]\nmax_lookup_body = 300\n[limits",
        "[limits]\nmax_lookup_body = 300\nmax_bdy = 1\n",
        "[limits]\nmax_lookup_body = 300\n[admin]\ntoken = { file = \"no-such-file\" }\n",
        "[limits]\nmax_lookup_body = 300\n[admin]\ntoken = \"a-literal-secret-of-ours\"\n",
        "[limits]\nmax_lookup_body = 300\n[[tenants]]\nid = \"x\"\naccount = \"demo\"\n\
         services = [\"getStatus\", \"getEverything\"]\n",
    ];
    for (number, toml) in wrong.into_iter().enumerate() {
        world.rewrite(toml);
        // The words of `check`, every one of them.
        let paths = ["demo.toml", "more.toml"].map(|name| world.folder().join(name));
        let variables = [
            ("UPSTREAM__URL", world.simulator.url()),
            ("RELOAD__WATCH", "0s".into()),
        ];
        let variables = variables.map(|(name, value)| (format!("DCAMS_GATEWAY__{name}"), value));
        let mistakes = dcams_gateway::config::Config::load(&paths, variables.into_iter());
        let mistakes: Vec<String> = mistakes
            .unwrap_err()
            .iter()
            .map(ToString::to_string)
            .collect();

        let refused = world.reload().await;
        assert_eq!(refused.status, 422, "{}", refused.text);
        assert_eq!(refused.json()["mistakes"], json!(mistakes));
        assert_eq!(refused.json()["detail"], mistakes.join("\n"));
        assert!(
            !refused.text.contains("a-literal-secret"),
            "{}",
            refused.text
        );
        let ready = world.operator("/readyz").await;
        assert_eq!(ready.status, 200);
        let lines: Vec<&str> = ready.text.lines().collect();
        assert_eq!(lines[0], "ready");
        assert!(lines[1].contains("refused"), "{}", ready.text);
        for mistake in &mistakes {
            assert!(
                lines.contains(&format!("configuration: {mistake}").as_str()),
                "{lines:?}"
            );
            let logged = |line: &Value| line["level"] == "ERROR" && line["message"] == **mistake;
            assert!(log.events().iter().any(logged), "{mistake}");
        }
        until_recorded(&world, number + 1).await;
        let recorded = recorded(&world.audit);
        let last = ("api".to_owned(), "refused".to_owned(), mistakes.len());
        assert_eq!(recorded.last(), Some(&last));
        let count = format!(
            r#"dcams_gateway_config_reloads_total{{result="refused"}} {}"#,
            number + 1
        );
        assert!(metric(&world, &count).await);
        assert!(metric(&world, "dcams_gateway_config_last_reload_success 0").await);
        assert_eq!(world.post_text(&token, long.clone()).await.status, PASSED);
    }
    assert!(!log.text().contains("a-literal-secret"));
    // Back to what is in force: there is nothing to do, and nothing left to mend.
    world.rewrite("");
    let answer = world.reload().await;
    assert_eq!(answer.json(), json!({"result": "ok", "changed": false}));
    assert_eq!(world.operator("/readyz").await.text, "ready\n");
    assert!(metric(&world, "dcams_gateway_config_last_reload_success 1").await);
    assert!(
        metric(
            &world,
            r#"dcams_gateway_config_reloads_total{result="ok"} 1"#
        )
        .await
    );
    let last = ("api".to_owned(), "ok".to_owned(), 0);
    until_recorded(&world, 6).await;
    assert_eq!(recorded(&world.audit).last(), Some(&last));
}

#[tokio::test]
async fn mistakes_are_told_to_operators_alone() {
    let world = World::start().await;
    fs::write(world.folder().join("admin.token"), "a-token-of-operators").unwrap();
    let admin = "[admin]\ntoken = { file = \"admin.token\" }\n";
    world.change(admin).await;
    world.rewrite(&format!("{admin}[limits]\nmax_bdy = 1\n"));
    let url = |path: &str| format!("http://{}{path}", world.admin);
    let bearer = "a-token-of-operators";
    let request = world.client.post(url("/api/reload")).json(&json!({}));
    let refused = request.bearer_auth(bearer).send().await.unwrap();
    assert_eq!(refused.status(), 422);
    assert_eq!(world.operator("/readyz").await.text, "ready\n");
    let told = world.client.get(url("/readyz")).bearer_auth(bearer);
    let told = told.send().await.unwrap().text().await.unwrap();
    assert!(told.contains("limits.max_bdy"), "{told}");
}

#[tokio::test]
async fn what_only_a_restart_changes_is_named_key_by_key_and_refused() {
    let log = Lines::default();
    let _guard = log.collect_log();
    let world = World::start().await;
    let token = world.full_token();
    let key = |byte: char| byte.to_string().repeat(42) + "A=";
    fs::write(world.folder().join("one.key"), key('x')).unwrap();
    fs::write(world.folder().join("two.key"), key('y')).unwrap();
    let toml = "[state]\npath = \"elsewhere\"\nkey = { file = \"one.key\" }\n\
                [audit]\nkey = { file = \"two.key\" }\n\
                [telemetry]\nlog_format = \"json\"\nlog_level = \"debug\"\n\
                [limits]\nmax_lookup_body = 300\n";
    world.rewrite(toml);
    let refused = world.reload().await;
    assert_eq!(refused.status, 409, "{}", refused.text);
    let named: Vec<String> = refused.json()["mistakes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line.as_str().unwrap().to_owned())
        .inspect(|line| assert!(line.contains("restart"), "{line}"))
        .map(|line| line.split('`').nth(1).unwrap().to_owned())
        .collect();
    let keys = [
        "state.path",
        "state.key",
        "telemetry.log_format",
        "telemetry.log_level",
        "audit.key",
    ];
    assert_eq!(named, keys);
    for key in ['x', 'y'].map(key) {
        assert!(!refused.text.contains(&key) && !log.text().contains(&key));
    }
    let long = format!("{}{}", lookup(GetStatus), " ".repeat(300));
    assert_eq!(world.post_text(&token, long).await.status, PASSED);
    assert!(world.operator("/readyz").await.text.contains("restart"));
}

#[tokio::test]
async fn no_page_in_a_browser_can_ask_for_a_reload() {
    let world = World::start().await;
    let url = format!("http://{}/api/reload", world.admin);
    let post = || world.client.post(&url);
    let simple = [
        post(),
        post().header("content-type", "text/plain").body("{}"),
        post()
            .header("content-type", "application/x-www-form-urlencoded")
            .body("a=b"),
    ];
    for request in simple {
        assert_eq!(request.send().await.unwrap().status(), 415);
    }
    let got = world.client.get(&url).send().await.unwrap();
    assert_eq!(
        (
            got.status().as_u16(),
            &got.headers()["allow"].to_str().unwrap()
        ),
        (405, &"POST")
    );
    assert_eq!(recorded(&world.audit), []);
    let bare = post().header("content-type", "application/json");
    assert_eq!(bare.send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_reload_in_a_drain_is_refused() {
    let world = World::start().await;
    let token = world.full_token();
    let fault = Fault::once(FaultKind::Delay { ms: 1_000 });
    world.simulator.add_fault(fault).unwrap();
    let body = lookup(GetStatus);
    let held = tokio::spawn(
        world
            .client
            .post(world.url())
            .bearer_auth(&token)
            .json(&body)
            .send(),
    );
    world.simulator.arrived(1).await;
    world.drain();
    while world.operator("/readyz").await.status == 200 {}
    world.rewrite("[server]\nlisten = \"127.0.0.1:0\"\n");
    let refused = world.reload().await;
    assert_eq!(refused.status, 409, "{}", refused.text);
    assert!(refused.text.contains("draining"), "{}", refused.text);
    assert_eq!(held.await.unwrap().unwrap().status(), PASSED);
}

const WATCHED: [(&str, &str); 1] = [("RELOAD__WATCH", "100ms")];

#[tokio::test]
async fn a_file_that_is_written_is_noticed_and_one_that_is_touched_is_not_worth_a_word() {
    let world = World::with("", &WATCHED).await;
    let expect = async |reloads: &[(&str, usize)]| {
        until_recorded(&world, reloads.len()).await;
        let of =
            |(result, count): &(&str, usize)| ("file".to_owned(), (*result).to_owned(), *count);
        assert_eq!(
            recorded(&world.audit),
            reloads.iter().map(of).collect::<Vec<_>>()
        );
    };
    let readyz = async || world.operator("/readyz").await.text;
    world.rewrite("[limits]\nmax_lookup_body = \"8KiB\"\n");
    expect(&[("ok", 0)]).await;
    // Touched, and read on somebody's word: neither is told again.
    world.rewrite("[limits]\nmax_lookup_body = \"8KiB\"\n");
    // A file that is not there yet.
    world.rewrite("[admin]\ntoken = { file = \"late.token\" }\n");
    expect(&[("ok", 0), ("refused", 1)]).await;
    assert!(readyz().await.contains("admin.token"));
    fs::write(world.folder().join("late.token"), "a-token-of-operators").unwrap();
    expect(&[("ok", 0), ("refused", 1), ("ok", 0)]).await;
    assert_eq!(world.operator("/metrics").await.status, 401);
    fs::write(
        world.folder().join("late.token"),
        "another-token-of-operators",
    )
    .unwrap();
    expect(&[("ok", 0), ("refused", 1), ("ok", 0), ("ok", 0)]).await;
}

#[tokio::test]
async fn a_volume_that_is_swapped_as_kubernetes_does_it_is_noticed() {
    let world = World::with("", &WATCHED).await;
    let at = |name: &str| world.folder().join(name);
    for (version, limit) in [("..1", "8KiB"), ("..2", "4KiB")] {
        fs::create_dir(at(version)).unwrap();
        let toml = format!("[limits]\nmax_lookup_body = \"{limit}\"\n");
        fs::write(at(version).join("more.toml"), toml).unwrap();
    }
    symlink("..1", at("..data")).unwrap();
    symlink("..data/more.toml", at("link")).unwrap();
    fs::rename(at("link"), at("more.toml")).unwrap();
    until_recorded(&world, 1).await;
    symlink("..2", at("..data_tmp")).unwrap();
    fs::rename(at("..data_tmp"), at("..data")).unwrap();
    until_recorded(&world, 2).await;
    let ok = || ("file".to_owned(), "ok".to_owned(), 0);
    assert_eq!(recorded(&world.audit), [ok(), ok()]);
    let token = world.full_token();
    let of = |size: usize| format!("{}{}", lookup(GetStatus), " ".repeat(size));
    assert_eq!(world.post_text(&token, of(3_000)).await.status, PASSED);
    assert_eq!(world.post_text(&token, of(5_000)).await.status, 413);
}

/// The program, with a folder for its configuration and a simulator.
async fn process(
    watch: &str,
    configs: &[&str],
    simulator: &dcams_gateway::simulator::SimulatorHandle,
    folder: &TempDir,
) -> Served {
    let paths: Vec<String> = configs
        .iter()
        .map(|name| folder.path().join(name).display().to_string())
        .collect();
    let mut arguments = vec!["serve", "--config"];
    arguments.extend(paths.iter().map(String::as_str));
    let variables = [
        ("DCAMS_GATEWAY__UPSTREAM__URL", simulator.url()),
        ("DCAMS_GATEWAY__SERVER__LISTEN", "127.0.0.1:0".to_owned()),
        ("DCAMS_GATEWAY__ADMIN__LISTEN", "127.0.0.1:0".to_owned()),
        ("DCAMS_GATEWAY__RELOAD__WATCH", watch.to_owned()),
    ];
    let variables: Vec<_> = variables.iter().map(|(k, v)| (*k, v.as_str())).collect();
    Served::run(&mut command(&arguments, &variables)).await
}

#[tokio::test]
async fn a_folder_that_gains_a_file_is_noticed_and_sighup_does_the_same_at_once() {
    install_crypto();
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let simulator = simulator(Login::new(USER, PASS), stop).await;
    let folder = TempDir::new().unwrap();
    write_secrets(folder.path());
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("conf")).unwrap();
    let demo = fs::read_to_string(at("demo.toml")).unwrap();
    fs::write(
        at("conf/demo.toml"),
        demo.replace("file = \"", "file = \"../"),
    )
    .unwrap();
    let mut served = process("100ms", &["conf"], &simulator, &folder).await;
    let reloaded = "the configuration was reloaded";
    let limit = |limit: &str| format!("[limits]\nmax_lookup_body = \"{limit}\"\n");
    fs::write(at("conf/limits.toml"), limit("8KiB")).unwrap();
    let text = served.program.err.says(reloaded, 1).await;
    assert!(text.contains("cause=\"file\""), "{text}");
    fs::write(at("conf/limits.toml"), limit("many")).unwrap();
    served.program.err.says("limits.max_lookup_body", 1).await;
    drop(served);

    fs::write(at("more.toml"), "").unwrap();
    let mut served = process("0s", &["demo.toml", "more.toml"], &simulator, &folder).await;
    fs::write(at("more.toml"), limit("4KiB")).unwrap();
    served.program.signal("HUP");
    let text = served.program.err.says(reloaded, 1).await;
    assert!(text.contains("cause=\"signal\""), "{text}");
    fs::write(at("more.toml"), limit("many")).unwrap();
    served.program.signal("HUP");
    served.program.err.says("was not reloaded", 1).await;
    fs::write(at("more.toml"), limit("2KiB")).unwrap();
    served.program.signal("HUP");
    served.program.err.says(reloaded, 2).await;
    served.program.signal("TERM");
    assert!(served.program.end().await.status.success());
}

#[tokio::test]
async fn the_command_says_what_came_of_it() {
    install_crypto();
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let simulator = simulator(Login::new(USER, PASS), stop).await;
    let folder = TempDir::new().unwrap();
    write_secrets(folder.path());
    let at = |name: &str| folder.path().join(name);
    fs::write(at("more.toml"), "").unwrap();
    let served = process("0s", &["demo.toml", "more.toml"], &simulator, &folder).await;
    let admin = served.admin.to_string();
    let reload = async || {
        let (demo, more) = (at("demo.toml").display().to_string(), at("more.toml"));
        let arguments = ["reload", "--config", &demo, &more.display().to_string()];
        run(&arguments, &[("DCAMS_GATEWAY__ADMIN__LISTEN", &admin)]).await
    };
    let ended = reload().await;
    assert!(ended.status.success(), "{ended:?}");
    assert!(ended.out.contains("the same"), "{ended:?}");
    fs::write(at("more.toml"), "[limits]\nmax_lookup_body = \"8KiB\"\n").unwrap();
    let ended = reload().await;
    assert!(ended.status.success(), "{ended:?}");
    assert!(ended.out.contains("in force\n"), "{ended:?}");
    // Good for the command, and not for the gateway.
    let toml = "[state]\npath = \"elsewhere\"\n[telemetry]\nlog_level = \"debug\"\n";
    fs::write(at("more.toml"), toml).unwrap();
    let ended = reload().await;
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert_eq!(ended.err.lines().count(), 2, "{ended:?}");
    for key in ["`state.path`", "`telemetry.log_level`"] {
        assert!(
            ended.err.contains(key) && ended.err.contains("restart"),
            "{ended:?}"
        );
    }
    fs::write(at("more.toml"), "[limits]\nmax_bdy = 1\n").unwrap();
    let ended = reload().await;
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.err.contains("limits.max_bdy"), "{ended:?}");
    // Each refusal is on record.
    let recorded = lines(folder.path()).into_iter();
    let refused = recorded.filter(|line| line["result"] == "refused" && line["via"] == "api");
    assert_eq!(refused.count(), 2);
    drop(served);
    fs::write(at("more.toml"), "").unwrap();
    let ended = run(
        &["reload", "--config", &at("demo.toml").display().to_string()],
        &[("DCAMS_GATEWAY__ADMIN__LISTEN", "127.0.0.1:1")],
    )
    .await;
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.err.contains("no gateway answers"), "{ended:?}");
}

/// What a process holds in memory, in KiB.
fn resident(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse().unwrap()
}

/// A size limit that tells the configuration of this round from all others, and now and then a second
/// tenant with an issuer of its own.
fn round(number: usize) -> (usize, String) {
    let limit = 1_000 + number % 1_000;
    let other = if number.is_multiple_of(3) {
        OTHER_TENANT
    } else {
        ""
    };
    (
        limit,
        format!("[limits]\nmax_lookup_body = {limit}\n{other}"),
    )
}

/// `RELOADS` and `RELOAD_SECONDS` make it as long as they say: `scripts/campaign reload`.
#[tokio::test]
async fn under_load_no_request_fails_whatever_is_reloaded_and_the_last_word_counts() {
    let set = |name: &str| env::var(name).ok().map(|text| text.parse::<u32>().unwrap());
    let (rounds, seconds) = (
        set("RELOADS").unwrap_or(40),
        set("RELOAD_SECONDS").unwrap_or(0),
    );
    install_crypto();
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let simulator = simulator(Login::new(USER, PASS), stop).await;
    let folder = TempDir::new().unwrap();
    write_secrets(folder.path());
    let served = Served::start(folder.path(), &simulator.url(), "", &[]).await;
    let token = mint(
        &load(folder.path(), &simulator.url(), &[]),
        0,
        &Operation::ALL,
        None,
    );
    let (ended, answered, failed) =
        <(Arc<AtomicBool>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        let request = client()
            .post(served.url())
            .bearer_auth(&token)
            .json(&lookup(GetStatus));
        let (ended, answered, failed) = (
            Arc::clone(&ended),
            Arc::clone(&answered),
            Arc::clone(&failed),
        );
        clients.spawn(async move {
            while !ended.load(Relaxed) {
                let sent = request.try_clone().unwrap().send().await;
                let passed = sent.is_ok_and(|response| response.status() == PASSED);
                let counter = if passed { &answered } else { &failed };
                counter.fetch_add(1, Relaxed);
            }
        });
    }
    let admin = client();
    let reload = async || {
        let request = admin
            .post(format!("http://{}/api/reload", served.admin))
            .json(&json!({}));
        request.send().await.unwrap().status().as_u16()
    };
    let mut pace = (seconds > 0).then(|| interval(Duration::from_secs(seconds.into()) / rounds));
    let (mut taken, mut refused, mut limit, mut memory) = (0, 0, 0, Vec::new());
    for number in 0..=usize::try_from(rounds).unwrap() {
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        if number % (usize::try_from(rounds).unwrap() / 4) == 0 {
            memory.push(resident(served.program.id));
        }
        // At least one request for each, so that none is reloaded for nobody.
        let before = answered.load(Relaxed);
        let broken = number % 10 == 9;
        let (wanted, toml) = round(number);
        let toml = if broken {
            toml.replace("= 1", "= -1")
        } else {
            toml
        };
        fs::write(folder.path().join("more.toml"), toml).unwrap();
        match (reload().await, broken) {
            (200, false) => (taken, limit) = (taken + 1, wanted),
            (422, true) => refused += 1,
            (status, _) => panic!("{status} in round {number}"),
        }
        while answered.load(Relaxed) == before && failed.load(Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
    }
    ended.store(true, Relaxed);
    clients.join_all().await;
    let of = |size: usize| {
        let body = lookup(GetStatus).to_string();
        format!("{body}{}", " ".repeat(size - body.len()))
    };
    for (size, status) in [(limit, PASSED), (limit + 1, 413)] {
        let request = client().post(served.url()).bearer_auth(&token);
        let request = request
            .header("content-type", "application/json")
            .body(of(size));
        assert_eq!(request.send().await.unwrap().status(), status);
    }
    println!(
        "reloads {taken}, refused {refused}, requests {}, failed {}, resident at each quarter in KiB: {memory:?}",
        answered.load(Relaxed),
        failed.load(Relaxed),
    );
    assert_eq!(failed.load(Relaxed), 0);
}
