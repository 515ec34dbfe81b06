//! What a broken or hostile server does with our requests, played by a server of ours.

use futures_util::FutureExt;

use super::*;
use crate::idp::{Answer, Delivery, Idp};

const SECRET: &str = "/v1/secret/data/veratad/main";
const LOGIN: &str = "/v1/auth/approle/login";
const LOOKUP: &str = "/v1/auth/token/lookup-self";
const RENEW: &str = "/v1/auth/token/renew-self";
const LIMIT: usize = 64 * 1024;

fn secret() -> String {
    json!({"data": {
        "data": {"user": "canary-user", "pass": "canary-pass"},
        "metadata": {"version": 1, "deletion_time": "", "destroyed": false},
    }})
    .to_string()
}

fn login(lease: u64) -> String {
    json!({"auth": {
        "client_token": "canary-issued", "lease_duration": lease, "renewable": true,
    }})
    .to_string()
}

/// A server that lets the role in for an hour and has the secret.
fn good_server() -> Idp {
    let server = Idp::start();
    server.answer(LOGIN, Answer::ok(login(3600)));
    server.answer(SECRET, Answer::ok(secret()));
    server
}

fn padded(text: &str, length: usize) -> String {
    format!("{text}{}", " ".repeat(length - text.len()))
}

/// What may come in place of any answer.
fn hostile(good: &str) -> Vec<(VaultError, Answer)> {
    let ok = || Answer::ok(good);
    let redirect = |status| ok().status(status).header("Location: /other");
    let of_status = |status: u16, error| (error, ok().status(status));
    vec![
        (VaultError::Redirected, redirect(302)),
        (VaultError::Redirected, redirect(307)),
        (VaultError::Redirected, redirect(308)),
        of_status(203, VaultError::Status),
        of_status(405, VaultError::Status),
        of_status(412, VaultError::Standby),
        of_status(429, VaultError::Limited),
        of_status(472, VaultError::Standby),
        of_status(473, VaultError::Standby),
        of_status(500, VaultError::ServerError),
        of_status(502, VaultError::ServerError),
        of_status(503, VaultError::Sealed),
        (VaultError::Encoded, ok().header("Content-Encoding: gzip")),
        (
            VaultError::Encoded,
            ok().header("Content-Encoding: identity"),
        ),
        (VaultError::TooLarge, Answer::ok(padded(good, LIMIT + 1))),
        (
            VaultError::TooLarge,
            Answer::ok(padded(good, LIMIT + 1)).delivery(Delivery::Unannounced),
        ),
        (
            VaultError::TooLarge,
            ok().delivery(Delivery::Lie(LIMIT + 1)),
        ),
        (
            VaultError::TimedOut,
            Answer::ok(padded(good, 1_000)).delivery(Delivery::Drip),
        ),
        (VaultError::Interrupted, ok().delivery(Delivery::Cut)),
        (VaultError::Malformed, Answer::ok("")),
        (
            VaultError::Malformed,
            Answer::ok("<html>canary</html>").header("Content-Type: text/html"),
        ),
        (VaultError::Malformed, Answer::ok("[]")),
        (VaultError::Malformed, Answer::ok(format!("{good}{good}"))),
        (
            VaultError::Malformed,
            Answer::ok(format!("{{\"data\":1,\"auth\":1,{}", &good[1..])),
        ),
        (VaultError::Malformed, Answer::ok("[".repeat(LIMIT))),
    ]
}

#[tokio::test]
async fn a_login_that_is_refused_is_told_from_one_that_is_not_there() {
    for (status, error) in [
        (400, VaultError::LoginRefused),
        (401, VaultError::LoginRefused),
        (403, VaultError::LoginRefused),
        (404, VaultError::LoginNotFound),
    ] {
        let server = good_server();
        server.answer(LOGIN, Answer::ok(login(60)).status(status));
        let vault = Vault::new(impatient(&server)).unwrap();
        let result = vault.read(&main_path()).await;
        assert_eq!(result.unwrap_err(), error, "{status}");
    }
}

fn impatient(server: &Idp) -> VaultSettings {
    let mut settings = settings(&server.url(""), app_role());
    settings.timeout = Duration::from_secs(2);
    settings
}

#[tokio::test]
async fn a_hostile_answer_to_a_reading_has_its_reason_and_leads_nowhere() {
    for (case, (error, answer)) in hostile(&secret()).into_iter().enumerate() {
        let server = good_server();
        let vault = Vault::new(impatient(&server)).unwrap();
        server.answer(SECRET, answer);
        let result = vault.read(&main_path()).await;
        assert_eq!(result.unwrap_err(), error, "{case}");
        assert_eq!(server.asked("/other"), 0, "{case}");
        // Nothing of it stays.
        server.answer(SECRET, Answer::ok(secret()));
        assert_eq!(vault.read(&main_path()).await.unwrap().version, 1);
        assert_eq!(server.asked(LOGIN), 1, "{case}");
    }
}

#[tokio::test]
async fn a_hostile_answer_to_a_login_has_its_reason_and_leads_nowhere() {
    let log = Lines::default();
    let _guard = log.collect_log();
    for (case, (error, answer)) in hostile(&login(60)).into_iter().enumerate() {
        let server = good_server();
        let vault = Vault::new(impatient(&server)).unwrap();
        server.answer(LOGIN, answer);
        let result = vault.read(&main_path()).await;
        assert_eq!(result.unwrap_err(), error, "{case}");
        assert_eq!(server.asked("/other") + server.asked(SECRET), 0, "{case}");
        // In the pause after it nothing is sent, and the reason is the same.
        let result = vault.read(&main_path()).await;
        assert_eq!(result.unwrap_err(), error, "{case}");
        assert_eq!(server.asked(LOGIN), 1, "{case}");
    }
    assert!(!log.text().contains("canary"), "{}", log.text());
}

#[tokio::test]
async fn a_redirect_elsewhere_takes_no_token_along() {
    let (server, elsewhere) = (good_server(), good_server());
    let there = format!("Location: {}", elsewhere.url(SECRET));
    server.answer(SECRET, Answer::ok("").status(307).header(there));
    let vault = Vault::new(impatient(&server)).unwrap();
    let error = vault.read(&main_path()).await.unwrap_err();
    assert_eq!(error, VaultError::Redirected);
    assert!(elsewhere.heard().is_empty());
}

#[tokio::test]
async fn an_answer_of_exactly_the_limit_is_read() {
    for delivery in [Delivery::Whole, Delivery::Unannounced] {
        let server = good_server();
        let answer = Answer::ok(padded(&secret(), LIMIT));
        server.answer(SECRET, answer.delivery(delivery));
        let vault = Vault::new(impatient(&server)).unwrap();
        assert_eq!(vault.read(&main_path()).await.unwrap().version, 1);
    }
}

#[tokio::test]
async fn a_request_says_who_asks_for_what_and_no_more() {
    let server = good_server();
    let base = server.url("/behind/a/proxy/");
    let mut settings = settings(&base, app_role());
    settings.namespace = Some(ApiPath::parse("team/a").unwrap());
    let prefixed = |path: &str| format!("/behind/a/proxy{path}");
    server.answer(&prefixed(LOGIN), Answer::ok(login(60)));
    server.answer(&prefixed(SECRET), Answer::ok(secret()));
    Vault::new(settings)
        .unwrap()
        .read(&main_path())
        .await
        .unwrap();
    let host = server.url("").replace("http://", "");
    let lines = |request: &str| {
        let mut lines: Vec<String> = request.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let expected = [
        format!(
            "POST /behind/a/proxy{LOGIN} HTTP/1.1\nx-vault-request: true\n\
             x-vault-namespace: team/a\ncontent-type: application/json\naccept: */*\n\
             host: {host}\ncontent-length: 82\n\n\
             {{\"role_id\":\"{ROLE_ID}\",\"secret_id\":\"{SECRET_ID}\"}}"
        ),
        format!(
            "GET /behind/a/proxy{SECRET} HTTP/1.1\nx-vault-request: true\n\
             x-vault-namespace: team/a\nx-vault-token: canary-issued\naccept: */*\nhost: {host}\n\n"
        ),
    ];
    let heard = server.heard();
    assert_eq!(heard.len(), 2);
    for (heard, expected) in heard.iter().zip(&expected) {
        assert_eq!(lines(heard), lines(expected));
    }
}

#[tokio::test]
async fn a_failed_renewal_does_not_cost_a_good_token() {
    let log = Lines::default();
    let _guard = log.collect_log();
    let server = good_server();
    server.answer(LOGIN, Answer::ok(login(6)));
    server.answer(RENEW, Answer::ok("").status(503));
    let kept = Kept::start(settings(&server.url(""), app_role()));
    until(|| async { count(&log, "was not renewed") == 1 }).await;
    assert_eq!(kept.version().await, Ok(1));
    assert_eq!(server.asked(LOGIN), 1);
    server.answer(RENEW, Answer::ok(login(3600)));
    until(|| async { count(&log, "renews its token again") == 1 }).await;
    assert_eq!(kept.version().await, Ok(1));
    assert_eq!(server.asked(LOGIN), 1);
    let levels: Vec<String> = said(&log).into_iter().map(|(level, _)| level).collect();
    assert_eq!(levels, ["INFO", "WARN", "INFO"]);
}

#[tokio::test]
async fn a_refused_renewal_is_followed_by_a_login_and_the_token_is_used_until_that_succeeds() {
    let server = good_server();
    server.answer(LOGIN, Answer::ok(login(3)));
    server.answer(RENEW, Answer::ok("{}").status(403));
    let kept = Kept::start(settings(&server.url(""), app_role()));
    assert_eq!(kept.version().await, Ok(1));
    server.answer(LOGIN, Answer::ok("").status(503));
    until(|| async { server.asked(LOGIN) == 3 }).await;
    assert_eq!(server.asked(RENEW), 1);
    assert_eq!(kept.version().await, Ok(1));
    server.answer(LOGIN, Answer::ok(login(3600).replace("issued", "second")));
    until(|| async {
        kept.version().await.unwrap();
        server.heard().last().unwrap().contains("canary-second")
    })
    .await;
}

#[tokio::test]
async fn a_given_token_that_is_refused_is_not_tried_twice() {
    let server = Idp::start();
    server.answer(SECRET, Answer::ok("{}").status(403));
    let vault = Vault::new(settings(&server.url(""), token("canary-given"))).unwrap();
    let error = vault.read(&main_path()).await.unwrap_err();
    assert_eq!(error, VaultError::Forbidden);
    assert_eq!(server.heard().len(), 1);
}

#[tokio::test]
async fn a_given_token_is_used_while_nothing_is_known_of_it() {
    let log = Lines::default();
    let _guard = log.collect_log();
    let server = good_server();
    server.answer(LOOKUP, Answer::ok("{}").status(403));
    let kept = Kept::start(settings(&server.url(""), token("canary-given")));
    until(|| async { server.asked(LOOKUP) == 2 }).await;
    assert_eq!(kept.version().await, Ok(1));
    assert_eq!(said(&log).len(), 1, "{:?}", said(&log));
}

#[tokio::test]
async fn a_secret_that_stays_refused_costs_one_more_login_and_one_more_try() {
    let server = good_server();
    let vault = Vault::new(impatient(&server)).unwrap();
    vault.read(&main_path()).await.unwrap();
    server.answer(SECRET, Answer::ok("{}").status(403));
    for _ in 0..10 {
        let error = vault.read(&main_path()).await.unwrap_err();
        assert_eq!(error, VaultError::Forbidden);
    }
    // The first of the ten was tried twice.
    assert_eq!((server.asked(LOGIN), server.asked(SECRET)), (2, 12));
}

#[tokio::test]
async fn a_reader_that_leaves_during_a_login_leaves_it_to_the_next() {
    let server = good_server();
    let vault = Arc::new(Vault::new(impatient(&server)).unwrap());
    server.hold();
    let path = main_path();
    let mut leaving = Box::pin(vault.read(&path));
    until(|| {
        assert!((&mut leaving).now_or_never().is_none());
        async { server.asked(LOGIN) == 1 }
    })
    .await;
    let staying = vault.read(&path);
    drop(leaving);
    server.release();
    assert_eq!(staying.await.unwrap().version, 1);
    assert_eq!(server.asked(LOGIN), 2);
}

#[tokio::test]
async fn a_wait_for_anothers_login_is_no_longer_than_a_login() {
    let server = good_server();
    server.hold();
    let mut settings = impatient(&server);
    settings.timeout = Duration::from_millis(200);
    let vault = Vault::new(settings).unwrap();
    let path = main_path();
    let all = join_all((0..50).map(|_| vault.read(&path)));
    let all = timeout(Duration::from_secs(2), all).await.unwrap();
    for read in all {
        assert_eq!(read.unwrap_err(), VaultError::TimedOut);
    }
    server.release();
}

#[tokio::test]
async fn a_stop_ends_the_task_while_it_waits_for_the_server() {
    let server = good_server();
    server.hold();
    let kept = Kept::start(settings(&server.url(""), app_role()));
    until(|| async { server.asked(LOGIN) == 1 }).await;
    kept.stop.cancel();
    let ended = timeout(Duration::from_secs(2), kept.tasks.wait()).await;
    assert!(ended.is_ok());
    server.release();
}
