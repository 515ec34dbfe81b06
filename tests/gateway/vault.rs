//! Credentials from Vault: a real server (`OpenBao`) for all that it does, and one that is played for
//! what it should never do (`hostile`).

mod hostile;
mod kubernetes;
mod rotated;
mod server;

use std::{future::Future, sync::Arc, time::Duration};

use dcams_gateway::credential::vault::{
    ApiPath, AuthToken, Part, Vault, VaultAuth, VaultError, VaultPair, VaultPath, VaultSettings,
};
use futures_util::future::join_all;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::server::{Bao, PATH, ROLE_ID, ROOT, SECRET_ID, settings};
use crate::support::Lines;

fn app_role() -> VaultAuth {
    app_role_with(SECRET_ID)
}

fn app_role_with(secret_id: &str) -> VaultAuth {
    VaultAuth::AppRole {
        mount: ApiPath::parse("approle").unwrap(),
        role_id: ROLE_ID.to_owned(),
        secret_id: secret_id.into(),
    }
}

fn token(text: &str) -> VaultAuth {
    VaultAuth::Token(AuthToken::new(text.into()).unwrap())
}

fn main_path() -> VaultPath {
    at(PATH)
}

fn at(path: &str) -> VaultPath {
    VaultPath::parse("secret", path, "user", "pass").unwrap()
}

fn opened(pair: &VaultPair) -> (&str, &str, u64) {
    let (user, pass) = (pair.user.expose_secret(), pair.pass.expose_secret());
    (user, pass, pair.version)
}

/// A Vault whose token is kept until this is dropped.
struct Kept {
    vault: Arc<Vault>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Kept {
    fn start(settings: VaultSettings) -> Self {
        let vault = Arc::new(Vault::new(settings).unwrap());
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(Arc::clone(&vault).keep_token(stop.clone()));
        tasks.close();
        Self { vault, stop, tasks }
    }

    async fn version(&self) -> Result<u64, VaultError> {
        Ok(self.vault.read(&main_path()).await?.version)
    }
}

/// Asks until it is so.
async fn until<F: Future<Output = bool>>(mut is: impl FnMut() -> F) {
    let becomes = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        while !is().await {
            ticks.tick().await;
        }
    };
    timeout(Duration::from_secs(30), becomes).await.unwrap();
}

/// Levels and messages from INFO up.
fn said(log: &Lines) -> Vec<(String, String)> {
    let text = |line: &Value, name: &str| line[name].as_str().unwrap().to_owned();
    log.events()
        .iter()
        .filter(|line| line["level"] != "DEBUG" && line["level"] != "TRACE")
        .map(|line| (text(line, "level"), text(line, "message")))
        .collect()
}

fn count(log: &Lines, message: &str) -> usize {
    said(log)
        .iter()
        .filter(|(_, said)| said.contains(message))
        .count()
}

#[tokio::test]
async fn a_role_reads_the_current_version_of_its_secret() {
    let server = Bao::start().await;
    let vault = Vault::new(server.settings(app_role())).unwrap();
    let pair = vault.read(&main_path()).await.unwrap();
    assert_eq!(opened(&pair), ("user-1", "pass-1", 1));
    let odd = "<&>\"\\/'\u{1}\n é \u{2028} 🔑";
    server.write(json!({"user": "user-2", "pass": odd})).await;
    let pair = vault.read(&main_path()).await.unwrap();
    assert_eq!(opened(&pair), ("user-2", odd, 2));
    assert_eq!(server.tokens().await.len(), 1);
}

#[tokio::test]
async fn mounts_fields_and_paths_are_those_that_are_named() {
    let server = Bao::start().await;
    let terms = json!({"type": "kv", "options": {"version": "2"}});
    server.root("POST", "sys/mounts/kv/team", terms).await;
    let secret = json!({"data": {"user": "no", "login": "u", "word": "p"}});
    let path = "a/b%2fc?version=9#d";
    let escaped = "a/b%252fc%3Fversion=9%23d";
    server
        .root("POST", &format!("kv/team/data/{escaped}"), secret)
        .await;
    let vault = Vault::new(server.settings(token(ROOT))).unwrap();
    let named = VaultPath::parse("kv/team", path, "login", "word").unwrap();
    assert_eq!(opened(&vault.read(&named).await.unwrap()), ("u", "p", 1));
}

#[tokio::test]
async fn a_namespace_has_its_own_logins_and_secrets() {
    let server = Bao::start().await;
    for path in ["sys/namespaces/team", "team/sys/namespaces/a"] {
        server.root("POST", path, json!({})).await;
    }
    let terms = json!({"type": "kv", "options": {"version": "2"}});
    server.root("POST", "team/a/sys/mounts/secret", terms).await;
    let secret = json!({"data": {"user": "u", "pass": "of the namespace"}});
    let path = format!("team/a/secret/data/{PATH}");
    server.root("POST", &path, secret).await;
    let mut settings = server.settings(token(ROOT));
    settings.namespace = Some(ApiPath::parse("team/a").unwrap());
    let pair = Vault::new(settings).unwrap().read(&main_path()).await;
    assert_eq!(opened(&pair.unwrap()).1, "of the namespace");
    // The role is not in that namespace.
    let mut settings = server.settings(app_role());
    settings.namespace = Some(ApiPath::parse("team/a").unwrap());
    let error = Vault::new(settings).unwrap().read(&main_path()).await;
    assert_eq!(error.unwrap_err(), VaultError::LoginRefused);
}

#[tokio::test]
async fn a_secret_that_is_no_pair_or_no_more_says_why() {
    let server = Bao::start().await;
    let vault = Vault::new(server.settings(app_role())).unwrap();
    let read = || async { vault.read(&main_path()).await.map(|pair| pair.version) };
    let long = "x".repeat(1025);
    for (data, error) in [
        (json!({"user": "u"}), VaultError::MissingField(Part::Pass)),
        (json!({"pass": "p"}), VaultError::MissingField(Part::User)),
        (
            json!({"user": 7, "pass": "p"}),
            VaultError::NotText(Part::User),
        ),
        (
            json!({"user": "u", "pass": ""}),
            VaultError::EmptyField(Part::Pass),
        ),
        (
            json!({"user": "u", "pass": long}),
            VaultError::TooLong(Part::Pass),
        ),
        (
            json!({"user": "u", "pass": "p", "more": "x".repeat(70_000)}),
            VaultError::TooLarge,
        ),
    ] {
        server.write(data).await;
        assert_eq!(read().await, Err(error));
    }
    server.write(json!({"user": "u", "pass": "p"})).await;
    let version = read().await.unwrap();
    let path = format!("secret/data/{PATH}");
    server.root("DELETE", &path, Value::Null).await;
    assert_eq!(read().await, Err(VaultError::Deleted));
    let body = json!({ "versions": [version] });
    let path = |what| format!("secret/{what}/{PATH}");
    server.root("POST", &path("undelete"), body.clone()).await;
    assert_eq!(read().await, Ok(version));
    server.root("PUT", &path("destroy"), body).await;
    assert_eq!(read().await, Err(VaultError::Destroyed));
    server.root("DELETE", &path("metadata"), Value::Null).await;
    assert_eq!(read().await, Err(VaultError::NotFound));
}

#[tokio::test]
async fn fifty_readers_cost_one_login() {
    let server = Bao::start().await;
    let vault = Vault::new(server.settings(app_role())).unwrap();
    let path = main_path();
    for read in join_all((0..50).map(|_| vault.read(&path))).await {
        assert_eq!(read.unwrap().version, 1);
    }
    assert_eq!(server.tokens().await.len(), 1);
    // And when all of them are refused at a time.
    server.revoke_all().await;
    for read in join_all((0..50).map(|_| vault.read(&path))).await {
        assert_eq!(read.unwrap().version, 1);
    }
    assert_eq!(server.tokens().await.len(), 1);
}

#[tokio::test]
async fn a_refused_login_is_refused_to_all_and_not_repeated_at_once() {
    let server = Bao::start().await;
    let vault = Vault::new(server.settings(app_role_with("canary-wrong"))).unwrap();
    let log = Lines::default();
    let _guard = log.collect_log();
    let path = main_path();
    for read in join_all((0..50).map(|_| vault.read(&path))).await {
        assert_eq!(read.unwrap_err(), VaultError::LoginRefused);
    }
    let refused = "the login to Vault failed";
    assert_eq!(count(&log, refused), 1);
    assert!(!log.text().contains("failed again"), "{}", log.text());
}

#[tokio::test]
async fn what_the_policy_does_not_allow_is_forbidden_and_costs_no_login_each_time() {
    let server = Bao::start().await;
    let vault = Vault::new(server.settings(app_role())).unwrap();
    for _ in 0..20 {
        let error = vault.read(&at("veratad/other")).await.unwrap_err();
        assert_eq!(error, VaultError::Forbidden);
        assert_eq!(vault.read(&main_path()).await.unwrap().version, 1);
    }
    assert_eq!(server.tokens().await.len(), 1);
}

#[tokio::test]
async fn a_revoked_token_is_replaced_at_the_next_read() {
    let server = Bao::start().await;
    let vault = Vault::new(server.settings(app_role())).unwrap();
    for _ in 0..3 {
        vault.read(&main_path()).await.unwrap();
        assert_eq!(server.tokens().await.len(), 1);
        server.revoke_all().await;
    }
    assert_eq!(server.tokens().await.len(), 0);
    assert_eq!(vault.read(&main_path()).await.unwrap().version, 1);
}

#[tokio::test]
async fn a_short_lease_is_renewed_and_its_token_kept() {
    let server = Bao::start().await;
    server.role(json!({"token_ttl": "3s"})).await;
    let kept = Kept::start(server.settings(app_role()));
    kept.version().await.unwrap();
    let first = server.tokens().await.remove(0);
    // Twice: that is beyond the first lease, whose end nobody but the server needs to see.
    let renewed = |token: &Value| {
        let number = |name: &str| token[name].as_i64().unwrap_or(0);
        number("last_renewal_time") - number("creation_time")
    };
    until(|| async { server.tokens().await.iter().any(|t| renewed(t) > 3) }).await;
    let tokens = server.tokens().await;
    assert_eq!(tokens.len(), 1);
    assert_eq!(tokens[0]["accessor"], first["accessor"]);
    assert_eq!(kept.version().await, Ok(1));
    assert_eq!(server.tokens().await.len(), 1);
}

#[tokio::test]
async fn a_token_whose_last_day_comes_is_replaced_before() {
    let log = Lines::default();
    let _guard = log.collect_log();
    let server = Bao::start().await;
    server
        .role(json!({"token_ttl": "4s", "token_max_ttl": "6s"}))
        .await;
    let kept = Kept::start(server.settings(app_role()));
    kept.version().await.unwrap();
    let first = server.tokens().await.remove(0);
    until(|| async { count(&log, "logged in to Vault") == 2 }).await;
    // The old one was still good when the new one came: nothing failed meanwhile.
    assert!(
        said(&log).iter().all(|(level, _)| level == "INFO"),
        "{}",
        log.text()
    );
    assert_eq!(kept.version().await, Ok(1));
    let new = server.tokens().await;
    let new = new
        .iter()
        .find(|token| token["accessor"] != first["accessor"]);
    assert!(new.is_some());
    assert!(first["last_renewal_time"].is_null());
}

#[tokio::test]
async fn a_batch_token_cannot_be_renewed_and_is_replaced_before_its_end() {
    let log = Lines::default();
    let _guard = log.collect_log();
    let server = Bao::start().await;
    server
        .role(json!({"token_ttl": "4s", "token_type": "batch"}))
        .await;
    let kept = Kept::start(server.settings(app_role()));
    kept.version().await.unwrap();
    until(|| async { count(&log, "logged in to Vault") == 2 }).await;
    assert_eq!(kept.version().await, Ok(1));
    assert!(
        said(&log).iter().all(|(level, _)| level == "INFO"),
        "{:?}",
        said(&log)
    );
}

#[tokio::test]
async fn a_given_token_is_renewed_until_its_last_day_and_that_is_warned_of() {
    let log = Lines::default();
    let _guard = log.collect_log();
    let server = Bao::start().await;
    let body = json!({"policies": ["gateway"], "ttl": "3s", "explicit_max_ttl": "6s"});
    let made = server.root("POST", "auth/token/create", body).await;
    let given = made["auth"]["client_token"].as_str().unwrap();
    let kept = Kept::start(server.settings(token(given)));
    assert_eq!(kept.version().await, Ok(1));
    until(|| async { count(&log, "cannot be renewed") == 1 }).await;
    // It was renewed, and is good until it ends.
    let tokens = server.tokens().await;
    assert!(tokens[0]["last_renewal_time"].is_i64(), "{tokens:?}");
    assert_eq!(kept.version().await, Ok(1));
    until(|| async { kept.version().await == Err(VaultError::Forbidden) }).await;
    assert_eq!(count(&log, "cannot be renewed"), 1);
    assert_eq!(said(&log).len(), 1, "{:?}", said(&log));
}

#[tokio::test]
async fn a_given_token_that_cannot_be_renewed_is_warned_of_at_once_and_one_without_an_end_never() {
    let log = Lines::default();
    let _guard = log.collect_log();
    let server = Bao::start().await;
    let known = "the lease of Vault's token is known";
    let root = Kept::start(server.settings(token(ROOT)));
    until(|| async { log.text().contains(known) }).await;
    assert_eq!(root.version().await, Ok(1));
    let body = json!({"policies": ["gateway"], "ttl": "1h", "renewable": false});
    let made = server.root("POST", "auth/token/create", body).await;
    let given = made["auth"]["client_token"].as_str().unwrap();
    let kept = Kept::start(server.settings(token(given)));
    until(|| async { count(&log, "cannot be renewed") == 1 }).await;
    assert_eq!(kept.version().await, Ok(1));
    assert_eq!(said(&log).len(), 1, "{:?}", said(&log));
}

#[tokio::test]
async fn a_sealed_server_is_told_from_one_that_is_gone() {
    let server = Bao::start().await;
    let vault = Vault::new(server.settings(app_role())).unwrap();
    vault.read(&main_path()).await.unwrap();
    server.root("PUT", "sys/seal", json!({})).await;
    let error = vault.read(&main_path()).await.unwrap_err();
    assert_eq!(error, VaultError::Sealed);
    let new = Vault::new(server.settings(app_role())).unwrap();
    let error = new.read(&main_path()).await.unwrap_err();
    assert_eq!(error, VaultError::Sealed);
    server.unseal().await;
    assert_eq!(vault.read(&main_path()).await.unwrap().version, 1);
}

#[tokio::test]
async fn a_server_that_was_killed_and_has_forgotten_all_is_logged_in_to_anew() {
    let mut server = Bao::start().await;
    let vault = Vault::new(server.settings(app_role())).unwrap();
    vault.read(&main_path()).await.unwrap();
    server.kill().await;
    let error = vault.read(&main_path()).await.unwrap_err();
    assert_eq!(error, VaultError::Unreachable);
    server.run().await;
    server.furnish().await;
    server.write(json!({"user": "u", "pass": "p"})).await;
    assert_eq!(vault.read(&main_path()).await.unwrap().version, 2);
}

#[tokio::test]
async fn a_server_that_comes_late_is_logged_in_to_when_it_is_there() {
    let log = Lines::default();
    let _guard = log.collect_log();
    let mut server = Bao::new(false);
    let kept = Kept::start(server.settings(app_role()));
    until(|| async { log.text().contains("failed again") }).await;
    assert_eq!(kept.version().await, Err(VaultError::Unreachable));
    server.run().await;
    server.furnish().await;
    // By the task alone: nobody reads.
    until(|| async { count(&log, "logged in to Vault") == 1 }).await;
    assert_eq!(kept.version().await, Ok(1));
    // The role may have been made later than the server was there.
    assert_eq!(count(&log, "the login to Vault failed"), 1);
}

#[tokio::test]
async fn a_certificate_is_verified_and_an_extra_root_is_believed() {
    let server = Bao::start_tls().await;
    let vault = Vault::new(server.settings(app_role())).unwrap();
    let error = vault.read(&main_path()).await.unwrap_err();
    assert_eq!(error, VaultError::Certificate);
    assert_eq!(server.tokens().await.len(), 0);
    let mut settings = server.settings(app_role());
    settings.roots.push(server.root_certificate());
    let vault = Vault::new(settings).unwrap();
    assert_eq!(vault.read(&main_path()).await.unwrap().version, 1);
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_told_from_one_with_a_wrong_certificate() {
    let server = Bao::start().await;
    let address = server.url().replace("http:", "https:");
    let vault = Vault::new(settings(&address, app_role())).unwrap();
    let error = vault.read(&main_path()).await.unwrap_err();
    assert_eq!(error, VaultError::Tls);
}

#[tokio::test]
async fn no_secret_is_in_a_log_line_an_error_or_a_debug_text() {
    let log = Lines::default();
    let _guard = log.collect_log();
    let mut server = Bao::start().await;
    server.role(json!({"token_ttl": "2s"})).await;
    server
        .write(json!({"user": "canary-user", "pass": "canary-pass"}))
        .await;
    let wrong = Kept::start(server.settings(app_role_with("canary-wrong")));
    let root = Kept::start(server.settings(token(ROOT)));
    let kept = Kept::start(server.settings(app_role()));
    let mut shown = Vec::new();
    for kept in [&wrong, &root, &kept] {
        let read = kept.vault.read(&main_path()).await;
        shown.push(format!("{read:?} {:?}", kept.vault));
        shown.extend(read.err().map(|error| error.to_string()));
    }
    until(|| async { log.text().contains("Renew") }).await;
    server.revoke_all().await;
    kept.version().await.unwrap();
    server.kill().await;
    let error = kept.version().await.unwrap_err();
    shown.push(format!("{error:?} {error}"));
    let text = log.text() + &shown.concat();
    assert!(text.contains("logged in to Vault") && text.contains("AppRole"));
    let issued = ["hvs.", "\"s.", "client_token", "X-Vault", "x-vault"];
    for secret in ["canary", "pass-1"].into_iter().chain(issued) {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}
