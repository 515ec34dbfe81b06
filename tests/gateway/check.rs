//! The commands: what they print, where, and with which exit code.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use dcams_gateway::{operation::Operation::*, simulator::Login};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::{
    program::{Ended, Program, Served, command, run},
    support::{PASS, USER, answer, client, customer, lookup, simulator, write_secrets},
};

/// A folder with the demo's configuration, in order.
fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    write_secrets(folder.path());
    for file in fs::read_dir(folder.path()).unwrap() {
        fs::set_permissions(file.unwrap().path(), Permissions::from_mode(0o600)).unwrap();
    }
    folder
}

fn path(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).display().to_string()
}

async fn check(folder: &TempDir) -> Ended {
    run(&["check", "--config", &path(folder, "demo.toml")], &[]).await
}

/// Changes one place of the demo's configuration.
fn edit(folder: &TempDir, from: &str, to: &str) {
    let file = folder.path().join("demo.toml");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(from), "{from}");
    fs::write(file, text.replacen(from, to, 1)).unwrap();
}

#[tokio::test]
async fn check_names_every_mistake_at_once_with_file_key_and_mend() {
    let folder = folder();
    edit(
        &folder,
        "[upstream]",
        "[server]\nlissten = \"127.0.0.1:1\"\n[upstream]\ntimeout = 5",
    );
    edit(&folder, "file = \"pass\"", "file = \"no-such-file\"");
    edit(&folder, "account = \"demo\"", "account = \"demmo\"");
    fs::write(folder.path().join("issuer.key"), "a-weak-secret").unwrap();
    let ended = check(&folder).await;
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(ended.out, "");
    let lines: Vec<&str> = ended.err.lines().collect();
    let file = path(&folder, "demo.toml");
    for (key, mend) in [
        ("server.lissten", "listen"),
        ("upstream.timeout", "30s"),
        ("accounts[demo].credentials[demo-1].pass", "path"),
        ("issuers[demo-idp].secret", "32"),
        ("tenants[demo].account", "`demo`"),
    ] {
        let about: Vec<_> = lines.iter().filter(|line| line.contains(key)).collect();
        let [line] = about[..] else {
            panic!("one line about {key}: {}", ended.err)
        };
        assert!(line.starts_with(&format!("{file}: `")), "{line}");
        let (_, said) = line.split_once("; ").unwrap();
        assert!(said.contains(mend), "{key} is mended by {mend}: {line}");
    }
    assert_eq!(lines.len(), 5, "{}", ended.err);
    assert!(!ended.err.contains("a-weak-secret"));
}

#[tokio::test]
async fn check_accepts_a_good_configuration_and_warns_of_open_secrets() {
    let folder = folder();
    let ended = check(&folder).await;
    assert_eq!((ended.status.code(), ended.err.as_str()), (Some(0), ""));
    assert!(ended.out.starts_with("the configuration is valid"));
    assert_eq!(ended.out.lines().count(), 1, "{}", ended.out);
    fs::set_permissions(folder.path().join("pass"), Permissions::from_mode(0o644)).unwrap();
    let ended = check(&folder).await;
    assert_eq!(ended.status.code(), Some(0));
    let [warning] = ended.err.lines().collect::<Vec<_>>()[..] else {
        panic!("{}", ended.err)
    };
    assert!(
        warning.starts_with("warning: ") && warning.contains("chmod o-r"),
        "{warning}"
    );
}

#[tokio::test]
async fn wrong_usage_exits_2() {
    let folder = folder();
    let config = path(&folder, "demo.toml");
    let config = config.as_str();
    for arguments in [
        &[][..],
        &["sreve"],
        &["check"],
        &["serve"],
        &["check", "--config"],
        &["check", "--config", config, "--fast"],
        &["simulator"],
        &["simulator", "--listen", "nowhere"],
        &["token", "--config", config],
        &["demo", "--twice"],
    ] {
        let ended = run(arguments, &[]).await;
        assert_eq!(ended.status.code(), Some(2), "{arguments:?}: {}", ended.err);
        assert!(
            ended.out.is_empty() && !ended.err.is_empty(),
            "{arguments:?}"
        );
    }
    for arguments in [["--version"], ["--help"]] {
        assert_eq!(run(&arguments, &[]).await.status.code(), Some(0));
    }
}

#[tokio::test]
async fn serve_never_starts_with_a_secret_that_is_not_there() {
    let stop = CancellationToken::new();
    let simulator = simulator(Login::new(USER, PASS), stop.clone()).await;
    // Where it would listen, if it did.
    let listen = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let url = simulator.url();
    for (pass, content) in [
        ("pass = { env = \"NOT_SET\" }", "x"),
        ("pass = { env = \"EMPTY\" }", "x"),
        ("pass = { file = \"not-there\" }", "x"),
        ("pass = { file = \"pass\" }", ""),
        ("pass = { file = \"pass\" }", "\n"),
        ("pass = \"hunter2-literal\"", "x"),
        ("pass = { value = \"hunter2-literal\" }", "x"),
        ("pass = {}", "x"),
        ("pass = \"${VARIABLE}\"", "x"),
        ("pass = { file = \"pass\", env = \"VARIABLE\" }", "x"),
    ] {
        let folder = folder();
        edit(&folder, "pass = { file = \"pass\" }", pass);
        fs::write(folder.path().join("pass"), content).unwrap();
        let config = path(&folder, "demo.toml");
        let variables = [
            ("EMPTY", ""),
            ("VARIABLE", "hunter2-variable"),
            ("DCAMS_GATEWAY__UPSTREAM__URL", &url),
            ("DCAMS_GATEWAY__SERVER__LISTEN", &listen),
            ("DCAMS_GATEWAY__ADMIN__LISTEN", "127.0.0.1:0"),
        ];
        let ended = run(&["serve", "--config", &config], &variables).await;
        assert_eq!(ended.status.code(), Some(1), "{pass}: {}", ended.err);
        assert!(
            ended
                .err
                .contains("accounts[demo].credentials[demo-1].pass"),
            "{}",
            ended.err
        );
        assert!(
            !ended.err.contains("ready") && !ended.err.contains("hunter2"),
            "{}",
            ended.err
        );
        assert!(TcpStream::connect(&listen).await.is_err());
    }
    assert!(simulator.requests().is_empty());
    stop.cancel();
}

#[tokio::test]
async fn serve_says_which_address_is_taken() {
    let folder = folder();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let variables = [
        ("DCAMS_GATEWAY__SERVER__LISTEN", address.as_str()),
        ("DCAMS_GATEWAY__ADMIN__LISTEN", "127.0.0.1:0"),
    ];
    let ended = run(
        &["serve", "--config", &path(&folder, "demo.toml")],
        &variables,
    )
    .await;
    assert_eq!(ended.status.code(), Some(1));
    let line = ended.err.lines().last().unwrap();
    assert!(
        line.contains(&address) && line.contains("`listen`"),
        "{line}"
    );
}

#[tokio::test]
async fn token_says_that_an_issuer_by_url_signs_by_itself() {
    let folder = folder();
    let (config, remote) = (path(&folder, "demo.toml"), path(&folder, "remote.toml"));
    let issuer = r#"
[[issuers]]
id = "remote"
issuer = "https://idp.example/"
audiences = ["dcams-gateway"]
algorithms = ["ES256"]
issuer_discovery = true
tenants = ["demo"]
"#;
    fs::write(&remote, issuer).unwrap();
    let names = ["--issuer", "remote", "--tenant", "demo"];
    let ended = run(
        &[&["token", "--config", &config, &remote], &names[..]].concat(),
        &[],
    )
    .await;
    assert_eq!((ended.status.code(), ended.out.as_str()), (Some(2), ""));
    assert!(ended.err.contains("signs by itself"), "{}", ended.err);
}

#[tokio::test]
async fn token_mints_what_the_gateway_accepts_and_refuses_unknown_names() {
    let stop = CancellationToken::new();
    let simulator = simulator(Login::new(USER, PASS), stop.clone()).await;
    let folder = folder();
    let config = path(&folder, "demo.toml");
    let served = Served::start(folder.path(), &simulator.url(), "", &[]).await;
    let fixed = [
        "token", "--config", &config, "--issuer", "demo-idp", "--tenant", "demo",
    ];
    let mint = async |more: &[&str]| run(&[&fixed, more].concat(), &[]).await;
    let send = async |token: &str, body: &Value| {
        let request = client().post(served.url()).bearer_auth(token).json(body);
        answer(request.send().await.unwrap()).await
    };
    let (write, read) = ("dcams:customers:write", "dcams:status:read");
    let ended = mint(&[
        "--scope",
        write,
        "--scope",
        read,
        "--subject",
        "me",
        "--ttl",
        "5m",
    ])
    .await;
    assert_eq!((ended.status.code(), ended.err.as_str()), (Some(0), ""));
    let token = ended.out.strip_suffix('\n').unwrap();
    assert_eq!(send(token, &customer()).await.status, 200);
    assert_eq!(send(token, &lookup(GetStatus)).await.status, 200);
    assert_eq!(
        send(token, &lookup(UpdateStatus)).await.code(),
        "insufficient_scope"
    );

    let bound = mint(&["--scope", read, "--customer", "john.specimen@example.com"])
        .await
        .out;
    assert_eq!(
        send(bound.trim(), &lookup(GetStatus)).await.code(),
        "customer_mismatch"
    );

    for (issuer, tenant, scope) in [
        ("other-idp", "demo", read),
        ("demo-idp", "other", read),
        ("demo-idp", "demo", "dcams:everything"),
    ] {
        let names = ["--issuer", issuer, "--tenant", tenant, "--scope", scope];
        let ended = run(&[&fixed[..3], &names].concat(), &[]).await;
        assert_eq!(
            (ended.status.code(), ended.out.as_str()),
            (Some(2), ""),
            "{}",
            ended.err
        );
        assert!(ended.err.contains("known: "), "{}", ended.err);
    }
    // A lifetime that the gateway itself would refuse.
    let ended = mint(&["--ttl", "100h"]).await;
    assert_eq!(ended.status.code(), Some(2));
    assert!(ended.err.contains("24h at most"), "{}", ended.err);
    stop.cancel();
}

#[tokio::test]
async fn demo_once_shows_all_services_and_leaves_nothing_behind() {
    let temporary = TempDir::new().unwrap();
    let variables = [("TMPDIR", temporary.path().to_str().unwrap())];
    let ended = run(&["demo", "--once"], &variables).await;
    assert_eq!(ended.status.code(), Some(0), "{}\n{}", ended.out, ended.err);
    for service in [
        CreateOrUpdateCustomer,
        GetStatus,
        UpdateStatus,
        GetDocumentImages,
    ] {
        assert!(
            ended.out.contains(&format!("--> {service}\n")),
            "{}",
            ended.out
        );
    }
    assert_eq!(ended.out.matches("<-- 200 OK").count(), 4, "{}", ended.out);
    assert_empty(temporary.path());
}

#[tokio::test]
async fn demo_ends_with_a_signal_and_leaves_nothing_behind() {
    let temporary = TempDir::new().unwrap();
    let variables = [("TMPDIR", temporary.path().to_str().unwrap())];
    for signal in ["INT", "TERM"] {
        let mut program = Program::start(&mut command(&["demo"], &variables));
        let said = program.out.says("--data-binary", 4).await;
        assert_eq!(said.matches("curl -sS").count(), 4, "{said}");
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 1);
        // As a person would: the address, the token and the file are those that it printed.
        let words: Vec<&str> = said.split_whitespace().collect();
        let after = |word: &str| {
            let at = words.iter().position(|w| *w == word).unwrap();
            words[at + 1].trim_matches('\'')
        };
        let body = fs::read(after("--data-binary").trim_start_matches('@')).unwrap();
        let token = after("Bearer");
        let request = client().post(after("-sS")).bearer_auth(token);
        let request = request
            .header("content-type", "application/json")
            .body(body);
        assert_eq!(answer(request.send().await.unwrap()).await.status, 200);
        program.signal(signal);
        let ended = program.end().await;
        assert_eq!(ended.status.code(), Some(0), "{}", ended.err);
        assert_empty(temporary.path());
    }
}

fn assert_empty(folder: &Path) {
    let left: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn simulator_listens_where_it_is_told_and_answers() {
    let arguments = ["simulator", "--listen", "127.0.0.1:0"];
    let mut program = Program::start(&mut command(&arguments, &[]));
    let said = program.err.says("simulator.listening", 1).await;
    let address = said
        .split_once("address=")
        .unwrap()
        .1
        .split_whitespace()
        .next()
        .unwrap();
    let url = |path: &str| format!("http://{address}{path}");
    let body = json!({"user": "demo-user", "pass": "demo-pass", "service": "getStatus",
        "target": {"email": "nobody@example.com"}});
    let request = client().post(url("/v3/stable/api/storage")).json(&body);
    assert_eq!(answer(request.send().await.unwrap()).await.status, 404);
    let records = answer(client().get(url("/_sim/requests")).send().await.unwrap()).await;
    assert_eq!(
        records.json().as_array().map_or(0, Vec::len),
        1,
        "{}",
        records.text
    );
    assert!(
        !records.text.contains("demo-pass"),
        "bodies are not kept unless asked for"
    );

    let second = run(&["simulator", "--listen", address], &[]).await;
    assert_eq!(second.status.code(), Some(1));
    assert!(
        second.err.contains(address) && second.err.contains("--listen"),
        "{}",
        second.err
    );
    program.signal("TERM");
    assert_eq!(program.end().await.status.code(), Some(0));
}
