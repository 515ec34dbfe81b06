//! A whole gateway whose credential is in Vault.

use std::{fs, path::Path};

use dcams_gateway::{operation::Operation::GetStatus, simulator::Login};
use serde_json::json;

use super::server::{Bao, PATH, ROLE_ID, SECRET_ID};
use crate::{
    program::{Program, Served, run},
    support::{Answer, USER, World, load, lookup, mint, write_secrets},
};

/// An account whose one credential is in Vault, and its tenant.
fn toml(address: &str) -> String {
    format!(
        "[vault]\naddress = \"{address}\"\nauth = \"approle\"\nrole_id = \"{ROLE_ID}\"\n\
         secret_id = {{ file = \"secret-id\" }}\nrefresh = \"1s\"\ntimeout = \"2s\"\n\
         [[accounts]]\nid = \"main\"\n\
         credentials = [{{ id = \"kept\", vault = {{ path = \"{PATH}\" }} }}]\n\
         [accounts.rotation]\ncanary_percent = 0\n\
         [[issuers]]\nid = \"main-idp\"\nissuer = \"https://idp.main.example/\"\n\
         audiences = [\"dcams-gateway\"]\nalgorithms = [\"HS256\"]\n\
         secret = {{ file = \"issuer.key\" }}\ntenants = [\"main\"]\n\
         [[tenants]]\nid = \"main\"\naccount = \"main\"\nservices = [\"getStatus\"]\n"
    )
}

fn prepare(folder: &Path) {
    fs::write(folder.join("secret-id"), SECRET_ID).unwrap();
}

async fn ask(world: &World) -> Answer {
    let config = load(world.folder(), &world.simulator.url(), &[]);
    let token = mint(&config, 1, &[GetStatus], None);
    world.post(&token, &lookup(GetStatus)).await
}

#[tokio::test]
async fn a_new_version_in_vault_takes_over_and_vaults_end_costs_nothing() {
    let mut bao = Bao::start().await;
    let world = World::prepared(&toml(&bao.url()), &[], prepare).await;
    let pairs = ["pass-1", "pass-2"].map(|pass| Login::new("user-1", pass));
    world.simulator.set_credentials(pairs.to_vec());
    assert_eq!(ask(&world).await.code(), "customer_not_found");
    bao.write(json!({"user": "user-1", "pass": "pass-2"})).await;
    let replaced = |acts: &[serde_json::Value]| {
        let retired = |act: &serde_json::Value| {
            json!([
                act["credential"],
                act["generation"],
                act["to"],
                act["reason"]
            ]) == json!(["kept", 1, "retired", "replaced"])
        };
        acts.iter().any(retired)
    };
    let taken = |acts: &[serde_json::Value]| {
        let active = |act: &serde_json::Value| act["generation"] == 2 && act["to"] == "active";
        acts.iter().any(active)
    };
    world.audit.until_acts("credential_changed", taken).await;
    // The former one is kept until this one has worked.
    assert_eq!(ask(&world).await.code(), "customer_not_found");
    world.audit.until_acts("credential_changed", replaced).await;
    world.simulator.set_credentials(pairs[1..].to_vec());
    assert_eq!(ask(&world).await.code(), "customer_not_found");
    bao.kill().await;
    let trouble = "account main: the source of kept cannot be read (";
    while !world.operator("/readyz").await.text.contains(trouble) {}
    assert_eq!(ask(&world).await.code(), "customer_not_found");
    let page = world.operator("/metrics").await.text;
    let count = "credential_source_failures_total{account=\"main\",credential=\"kept\"} 1";
    assert!(page.contains(count), "{page}");
    // A reload goes on with the value that is there.
    let more = format!("[limits]\nmax_lookup_body = 300\n{}", toml(&bao.url()));
    world.change(&more).await;
    assert_eq!(ask(&world).await.code(), "customer_not_found");
}

#[tokio::test]
async fn with_a_user_of_another_account_in_vault_the_gateway_does_not_start() {
    let bao = Bao::start().await;
    let other = json!({"user": USER, "pass": "pass-1"});
    bao.write(other).await;
    let folder = tempfile::tempdir().unwrap();
    write_secrets(folder.path());
    prepare(folder.path());
    let url = "http://127.0.0.1:1/v3/stable/api/storage";
    let mut serve = Served::command(folder.path(), url, &toml(&bao.url()), &[]);
    let ended = Program::start(&mut serve).end().await;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.err);
    let last = ended.err.lines().last().unwrap();
    assert!(
        last.contains("its user is that of another account"),
        "{last}"
    );
    assert!(!ended.err.contains("pass-1") && !ended.err.contains(USER));
}

#[tokio::test]
async fn without_its_credential_the_gateway_does_not_start_and_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    write_secrets(folder.path());
    prepare(folder.path());
    let nobody = "http://127.0.0.1:1";
    let url = "http://127.0.0.1:1/v3/stable/api/storage";
    let mut serve = Served::command(folder.path(), url, &toml(nobody), &[]);
    let ended = Program::start(&mut serve).end().await;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.err);
    let last = ended.err.lines().last().unwrap();
    assert!(
        last.contains("accounts[main].credentials[kept]: there is no value to begin with: "),
        "{last}"
    );
    assert!(!ended.err.contains(SECRET_ID));

    // The configuration itself is fine, and says so without asking Vault.
    let paths = ["demo.toml", "more.toml"].map(|name| folder.path().join(name));
    let paths = paths.map(|path| path.display().to_string());
    let checked = run(
        &["check", "--config", &paths[0], &paths[1]],
        &[("DCAMS_GATEWAY__UPSTREAM__URL", url)],
    )
    .await;
    assert_eq!(checked.status.code(), Some(0), "{}", checked.err);
}

#[tokio::test]
async fn the_command_tries_what_is_in_vault() {
    let bao = Bao::start().await;
    let world = World::prepared(&toml(&bao.url()), &[], prepare).await;
    let url = world.simulator.url();
    let paths = ["demo.toml", "more.toml"].map(|name| world.folder().join(name));
    let paths = paths.map(|path| path.display().to_string());
    let test = || async {
        let arguments = [
            "credentials",
            "test",
            "--config",
            &paths[0],
            &paths[1],
            "--account",
            "main",
            "--email",
            "probe@example.com",
        ];
        let admin = world.admin.to_string();
        let variables = [
            ("DCAMS_GATEWAY__UPSTREAM__URL", &url[..]),
            ("DCAMS_GATEWAY__ADMIN__LISTEN", &admin),
        ];
        run(&arguments, &variables).await
    };
    world
        .simulator
        .set_credentials(vec![Login::new("user-1", "pass-1")]);
    let ended = test().await;
    assert_eq!(ended.out, "main kept: accepted by DCAMS\n", "{}", ended.err);
    assert_eq!(ended.status.code(), Some(0));
    world.simulator.set_credentials(Vec::new());
    let ended = test().await;
    assert!(
        ended.out.starts_with("main kept: REFUSED by DCAMS"),
        "{}",
        ended.out
    );
    assert_eq!(ended.status.code(), Some(1));
    assert!(!ended.out.contains("pass-1") && !ended.err.contains("pass-1"));
}

#[tokio::test]
async fn an_account_in_vault_with_another_accounts_user_does_not_start() {
    let bao = Bao::start().await;
    let folder = tempfile::tempdir().unwrap();
    write_secrets(folder.path());
    prepare(folder.path());
    // What the demo's account has.
    bao.write(json!({"user": USER, "pass": "another"})).await;
    let url = "http://127.0.0.1:1/v3/stable/api/storage";
    let mut serve = Served::command(folder.path(), url, &toml(&bao.url()), &[]);
    let ended = Program::start(&mut serve).end().await;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.err);
    for id in [
        "accounts[main].credentials[kept]",
        "accounts[demo].credentials[demo-1]",
    ] {
        let says = format!("{id}: its user is that of another account");
        assert!(ended.err.contains(&says), "{}", ended.err);
    }
    assert!(!ended.err.contains(USER));
}
