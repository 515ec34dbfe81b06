//! Keys by URL: an issuer's server that works, fails or attacks, and what the gateway knows then.

use std::{sync::Arc, time::Duration};

use dcams_gateway::{
    auth::{
        jwks::{JwksSettings, JwksSource, KeysStatus, RemoteKeys, Rhythm},
        keys::parse_algorithm,
    },
    endpoint::Endpoint,
    ident::IssuerId,
};
use futures_util::{FutureExt, future::join_all};
use serde_json::{Value, json};
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    idp::{Answer, DISCOVERY, Delivery, Idp, KEYS, published_key},
    support::Lines,
};

/// Long enough that nothing happens of itself in a test.
const RHYTHM: Rhythm = Rhythm {
    cooldown: Duration::from_millis(50),
    min_refresh: Duration::from_mins(10),
    max_refresh: Duration::from_hours(1),
    max_stale: Duration::from_hours(24),
};

fn at_url(idp: &Idp) -> JwksSettings {
    let endpoint = Endpoint::parse(&idp.url(KEYS)).unwrap();
    with(JwksSource::Url(endpoint))
}

fn discovered(idp: &Idp) -> JwksSettings {
    with(JwksSource::discovery(&idp.url("")).unwrap())
}

fn with(source: JwksSource) -> JwksSettings {
    JwksSettings {
        source,
        algorithms: vec![parse_algorithm("ES256").unwrap()],
        timeout: Duration::from_secs(5),
        rhythm: RHYTHM,
        roots: Vec::new(),
    }
}

/// Keys that are kept fresh until this is dropped.
struct Kept {
    keys: Arc<RemoteKeys>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Kept {
    fn start(settings: JwksSettings) -> Self {
        let issuer = IssuerId::try_from("idp").unwrap();
        let keys = Arc::new(RemoteKeys::new(issuer, settings).unwrap());
        let stop = CancellationToken::new();
        let task = tokio::spawn(Arc::clone(&keys).keep_fresh(stop.clone()));
        Self { keys, stop, task }
    }

    /// After the first fetch, which succeeds.
    async fn usable(settings: JwksSettings) -> Self {
        let kept = Self::start(settings);
        kept.until(|status| status.usable).await;
        kept
    }

    fn status(&self) -> KeysStatus {
        self.keys.status()
    }

    async fn until(&self, is: impl Fn(&KeysStatus) -> bool) -> KeysStatus {
        until(|| is(&self.status())).await;
        self.status()
    }

    /// Asks for unknown keys until there is a fetch for their sake, and has it end.
    async fn provoke(&self) -> KeysStatus {
        let before = self.status().fetches;
        let provoked = async {
            for number in 0_u64.. {
                self.keys.look_for(Some(&format!("unknown-{number}"))).await;
                if self.status().fetches > before {
                    break;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(20), provoked).await.unwrap();
        self.status()
    }
}

async fn until(is: impl Fn() -> bool) {
    let becomes = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(1));
        while !is() {
            ticks.tick().await;
        }
    };
    timeout(Duration::from_secs(20), becomes).await.unwrap();
}

#[tokio::test]
async fn a_start_does_not_wait_for_the_key_server() {
    let idp = Idp::start();
    idp.answer(KEYS, Answer::keys(&[published_key("a")]));
    idp.hold();
    let kept = Kept::start(at_url(&idp));
    let status = kept.until(|_| idp.asked(KEYS) == 1).await;
    assert_eq!((status.usable, status.generation), (false, 0));
    assert!(kept.keys.current().keys().is_none());
    // A request that comes before the keys waits for them.
    let asking = Arc::clone(&kept.keys);
    let waiter = tokio::spawn(async move {
        asking.look_for(Some("a")).await;
        asking.current().keys().is_some()
    });
    idp.release();
    assert!(waiter.await.unwrap());
    let status = kept.status();
    assert_eq!((status.keys, status.generation), (1, 1));
    assert_eq!((status.fetches, status.failures), (1, 0));
    assert!(status.age.is_some());
}

#[tokio::test]
async fn a_thousand_requests_with_an_unknown_key_cost_one_fetch() {
    let idp = Idp::start();
    idp.answer(KEYS, Answer::keys(&[published_key("a")]));
    let mut settings = at_url(&idp);
    settings.rhythm.cooldown = Duration::from_millis(500);
    let kept = Kept::usable(settings).await;
    idp.answer(
        KEYS,
        Answer::keys(&[published_key("a"), published_key("b")]),
    );
    idp.hold();
    // The first fetch has a cooldown too.
    until(|| {
        let keys = Arc::clone(&kept.keys);
        drop(tokio::spawn(async move { keys.look_for(Some("b")).await }));
        idp.asked(KEYS) == 2
    })
    .await;
    let waiters: Vec<_> = (0..1_000)
        .map(|number| {
            let keys = Arc::clone(&kept.keys);
            tokio::spawn(async move {
                keys.look_for(Some(&format!("{}", number % 10))).await;
                keys.current().generation()
            })
        })
        .collect();
    // All have asked once this one has: there is one thread, and it takes them in turn.
    tokio::task::yield_now().await;
    idp.release();
    for generation in join_all(waiters).await {
        assert_eq!(generation.unwrap(), 2);
    }
    assert_eq!(idp.asked(KEYS), 2);
}

#[tokio::test]
async fn random_key_names_cost_one_fetch_a_cooldown() {
    let idp = Idp::start();
    idp.answer(KEYS, Answer::keys(&[published_key("a")]));
    let mut settings = at_url(&idp);
    settings.rhythm.cooldown = Duration::from_mins(15);
    let kept = Kept::usable(settings).await;
    for number in 0..10_000 {
        kept.keys.look_for(Some(&format!("random-{number}"))).await;
    }
    // The first of all, and one for their sake.
    assert_eq!(idp.asked(KEYS), 2);

    let started = std::time::Instant::now();
    let kept = Kept::usable(at_url(&idp)).await;
    for number in 0..10_000 {
        kept.keys.look_for(Some(&format!("random-{number}"))).await;
    }
    let cooldowns = started.elapsed().as_millis() / RHYTHM.cooldown.as_millis();
    let fetches = u128::from(kept.status().fetches);
    assert!(fetches <= cooldowns + 2, "{fetches} in {cooldowns}");
}

#[tokio::test]
async fn a_new_key_is_there_after_one_fetch() {
    let idp = Idp::start();
    let old = published_key("old");
    idp.answer(KEYS, Answer::keys(std::slice::from_ref(&old)));
    let kept = Kept::usable(at_url(&idp)).await;
    idp.answer(KEYS, Answer::keys(&[old, published_key("new")]));
    let status = kept.provoke().await;
    assert_eq!((status.keys, status.generation), (2, 2));
    assert_eq!(idp.asked(KEYS), 2);
}

#[tokio::test]
async fn a_generation_is_new_only_where_the_keys_are() {
    let idp = Idp::start();
    let (one, two) = (published_key("one"), published_key("two"));
    idp.answer(KEYS, Answer::keys(&[one.clone(), two.clone()]));
    let kept = Kept::usable(at_url(&idp)).await;
    // Another order, and members that say nothing about verifying.
    let mut dressed = one.clone();
    dressed["x5t"] = "thumbprint".into();
    idp.answer(KEYS, Answer::keys(&[two.clone(), dressed]));
    let status = kept.provoke().await;
    assert_eq!((status.fetches, status.generation), (2, 1));
    // The same names for other keys: each token is judged otherwise.
    idp.answer(KEYS, Answer::keys(&[published_key("one"), two.clone()]));
    assert_eq!(kept.provoke().await.generation, 2);
    // The same key under another name.
    let mut renamed = one;
    renamed["kid"] = "three".into();
    idp.answer(KEYS, Answer::keys(&[renamed, two]));
    assert_eq!(kept.provoke().await.generation, 3);
}

#[tokio::test]
async fn keys_are_fetched_anew_before_they_are_old() {
    let idp = Idp::start();
    let answer = |kid| Answer::keys(&[published_key(kid)]).header("Cache-Control: max-age=1");
    idp.answer(KEYS, answer("a"));
    let mut settings = at_url(&idp);
    settings.rhythm.min_refresh = Duration::from_millis(10);
    let kept = Kept::usable(settings).await;
    idp.answer(KEYS, answer("b"));
    let status = kept.until(|status| status.generation == 2).await;
    assert!(status.fetches >= 2);
}

#[tokio::test]
async fn a_key_server_that_fails_at_first_is_asked_again() {
    let idp = Idp::start();
    let kept = Kept::start(at_url(&idp));
    let status = kept.until(|status| status.failures == 1).await;
    assert_eq!(status.last_failure, Some("status"));
    assert_eq!((status.usable, status.age), (false, None));
    idp.answer(KEYS, Answer::keys(&[published_key("a")]));
    let status = kept.until(|status| status.usable).await;
    assert_eq!(status.last_failure, None);
    assert_eq!((status.fetches, status.failures), (2, 1));
}

#[tokio::test]
async fn keys_that_are_not_confirmed_in_time_are_withdrawn() {
    let idp = Idp::start();
    let good = Answer::keys(&[published_key("a")]);
    idp.answer(KEYS, good.clone());
    let mut settings = at_url(&idp);
    settings.rhythm.max_stale = Duration::from_secs(2);
    let kept = Kept::usable(settings).await;
    idp.answer(KEYS, Answer::ok("").status(503));
    let status = kept.provoke().await;
    assert_eq!((status.usable, status.generation), (true, 1));
    let status = kept.until(|status| !status.usable).await;
    assert_eq!((status.keys, status.generation), (0, 2));
    assert!(kept.keys.current().keys().is_none());
    // They come back with the server.
    idp.answer(KEYS, good);
    let status = kept.provoke().await;
    assert_eq!((status.usable, status.generation), (true, 3));
}

/// What a hostile or broken key server may say instead of a set, and the word for it.
fn hostile() -> Vec<(&'static str, Answer)> {
    let good = || published_key("good");
    let with = |name: &str, value: Value| {
        let mut key = published_key("bad");
        key[name] = value;
        key
    };
    let set = json!({ "keys": [good()] }).to_string();
    let padded = |length: usize| format!("{set}{}", " ".repeat(length - set.len()));
    let limit = 256 * 1024;
    let nameless = || {
        let mut key = published_key("x");
        key.as_object_mut().unwrap().remove("kid");
        key
    };
    vec![
        (
            "redirected",
            Answer::ok("").status(302).header("Location: /other"),
        ),
        (
            "redirected",
            Answer::ok("").status(308).header("Location: /other"),
        ),
        ("status", Answer::ok(set.clone()).status(203)),
        ("status", Answer::ok(set.clone()).status(404)),
        ("redirected", Answer::ok("").status(304)),
        (
            "encoded",
            Answer::ok(set.clone()).header("Content-Encoding: gzip"),
        ),
        (
            "encoded",
            Answer::ok(set.clone()).header("Content-Encoding: identity"),
        ),
        ("too_large", Answer::ok(padded(limit + 1))),
        (
            "too_large",
            Answer::ok(padded(limit + 1)).delivery(Delivery::Unannounced),
        ),
        (
            "too_large",
            Answer::ok(set.clone()).delivery(Delivery::Lie(limit + 1)),
        ),
        (
            "timed_out",
            Answer::ok(padded(1_000)).delivery(Delivery::Drip),
        ),
        (
            "interrupted",
            Answer::ok(set.clone()).delivery(Delivery::Cut),
        ),
        ("malformed_json", Answer::ok("")),
        ("malformed_json", Answer::ok("<html>")),
        ("malformed_json", Answer::ok("[]")),
        ("malformed_json", Answer::ok(format!("{set} {set}"))),
        (
            "malformed_json",
            Answer::ok(b"{\"keys\":[\"\xff\"]}".as_slice()),
        ),
        (
            "malformed_json",
            Answer::ok(set.replace("{\"keys\"", "{\"keys\":[],\"keys\"")),
        ),
        (
            "malformed_json",
            Answer::ok(set.replace("\"kid\"", "\"kid\":\"x\",\"kid\"")),
        ),
        ("malformed_json", Answer::ok("[".repeat(100_000))),
        ("not_a_key_set", Answer::ok("{}")),
        ("not_a_key_set", Answer::ok(r#"{"keys":{}}"#)),
        ("not_a_key_set", Answer::keys(&[])),
        ("not_a_key_set", Answer::keys(&vec![good(); 101])),
        (
            "symmetric_key",
            Answer::keys(&[good(), json!({ "kty": "oct", "k": "AAAA" })]),
        ),
        (
            "symmetric_key",
            Answer::keys(&[good(), with("k", "AAAA".into())]),
        ),
        (
            "private_key",
            Answer::keys(&[good(), with("d", ZEROS.into())]),
        ),
        (
            "private_key",
            Answer::keys(&[good(), json!({ "kid": 7, "d": "AAAA" })]),
        ),
        ("ambiguous_keys", Answer::keys(&[good(), good()])),
        (
            "ambiguous_keys",
            Answer::keys(&[good(), json!({ "kty": "RSA", "kid": "good" })]),
        ),
        ("ambiguous_keys", Answer::keys(&[nameless(), nameless()])),
        ("no_usable_key", Answer::keys(&[with("use", "enc".into())])),
        (
            "no_usable_key",
            Answer::keys(&[with("alg", "ES384".into())]),
        ),
    ]
}

/// 32 of them.
const ZEROS: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

#[tokio::test]
async fn a_hostile_answer_changes_no_key_and_has_its_reason() {
    for (case, (reason, answer)) in hostile().into_iter().enumerate() {
        let idp = Idp::start();
        idp.answer(KEYS, Answer::keys(&[published_key("a")]));
        let mut settings = at_url(&idp);
        settings.timeout = Duration::from_secs(2);
        let kept = Kept::usable(settings).await;
        idp.answer(KEYS, answer);
        let status = kept.provoke().await;
        assert_eq!(status.last_failure, Some(reason), "{case}: {reason}");
        assert_eq!((status.keys, status.generation), (1, 1), "{case}: {reason}");
        assert!(status.usable && status.failures == 1, "{case}: {reason}");
        assert_eq!(idp.asked("/other"), 0, "{case}: a redirect was followed");
    }
}

#[tokio::test]
async fn an_answer_of_exactly_the_limit_is_read() {
    let idp = Idp::start();
    let set = json!({ "keys": [published_key("a")] }).to_string();
    let padded = format!("{set}{}", " ".repeat(256 * 1024 - set.len()));
    for delivery in [Delivery::Whole, Delivery::Unannounced] {
        idp.answer(KEYS, Answer::ok(padded.clone()).delivery(delivery));
        assert_eq!(Kept::usable(at_url(&idp)).await.status().keys, 1);
    }
}

#[tokio::test]
async fn a_bad_key_does_not_cost_the_good_ones() {
    let idp = Idp::start();
    let with = |kid: &str, name: &str, value: Value| {
        let mut key = published_key(kid);
        key[name] = value;
        key
    };
    let keys = [
        with("b", "use", "enc".into()),
        with("c", "alg", "ECDH-ES".into()),
        with("d", "crv", "P-521".into()),
        with("e", "x", "not base64url!".into()),
        with("f", "x", "AAAA".into()),
        with("g", "y", ZEROS.into()),
        with("h", "key_ops", json!(["sign"])),
        with("i", "kty", json!(7)),
        with(&"k".repeat(257), "x5c", json!([])),
        json!({ "kty": "RSA", "kid": "j", "n": "AQAB", "e": "AQAB" }),
        json!({ "kty": "AKP", "kid": "k", "alg": "ML-DSA-44", "pub": "AAAA" }),
        json!({ "kty": "from the future", "kid": "l" }),
        json!({ "kid": "m" }),
        json!("a text"),
        Value::Null,
        with("good", "x5c", json!(["ignored"])),
    ];
    idp.answer(KEYS, Answer::keys(&keys));
    let kept = Kept::usable(at_url(&idp)).await;
    assert_eq!(kept.status().keys, 1);
}

#[tokio::test]
async fn discovery_leads_to_the_set_and_an_unknown_key_asks_for_the_set_alone() {
    let idp = Idp::start();
    idp.locate(&idp.url(KEYS));
    idp.answer(KEYS, Answer::keys(&[published_key("a")]));
    let kept = Kept::usable(discovered(&idp)).await;
    kept.provoke().await;
    kept.provoke().await;
    assert_eq!((idp.asked(DISCOVERY), idp.asked(KEYS)), (1, 3));
}

#[tokio::test]
async fn a_set_that_moved_is_found_again() {
    let idp = Idp::start();
    idp.locate(&idp.url(KEYS));
    idp.answer(KEYS, Answer::keys(&[published_key("a")]));
    let kept = Kept::usable(discovered(&idp)).await;
    idp.answer(KEYS, Answer::ok("").status(404));
    idp.locate(&idp.url("/moved"));
    idp.answer("/moved", Answer::keys(&[published_key("b")]));
    assert_eq!(kept.provoke().await.last_failure, Some("status"));
    let status = kept.until(|status| status.generation == 2).await;
    assert_eq!(status.last_failure, None);
    assert_eq!((idp.asked(DISCOVERY), idp.asked("/moved")), (2, 1));
}

#[tokio::test]
async fn a_discovery_document_that_is_wrong_leads_nowhere() {
    let (idp, other) = (Idp::start(), Idp::start());
    let own = idp.url("");
    let document = |issuer: &str, jwks_uri: Value| {
        Answer::ok(json!({ "issuer": issuer, "jwks_uri": jwks_uri }).to_string())
    };
    let good = || Value::from(other.url(KEYS));
    other.answer(KEYS, Answer::keys(&[published_key("a")]));
    for (reason, answer) in [
        ("other_issuer", document(&other.url(""), good())),
        ("other_issuer", document(&format!("{own}/"), good())),
        ("other_issuer", document(&own.to_uppercase(), good())),
        ("other_issuer", Answer::ok("{}")),
        ("malformed_json", Answer::ok("not JSON")),
        ("no_jwks_uri", document(&own, Value::Null)),
        ("no_jwks_uri", document(&own, json!([other.url(KEYS)]))),
        (
            "refused_jwks_uri",
            document(&own, "http://idp.example/keys".into()),
        ),
        (
            "refused_jwks_uri",
            document(&own, "file:///etc/passwd".into()),
        ),
        ("refused_jwks_uri", document(&own, "/keys".into())),
        (
            "refused_jwks_uri",
            document(&own, other.url(KEYS).replace("//", "//user:pass@").into()),
        ),
        (
            "redirected",
            Answer::ok("")
                .status(302)
                .header(format!("Location: {}", other.url("/"))),
        ),
    ] {
        idp.answer(DISCOVERY, answer);
        let kept = Kept::start(discovered(&idp));
        let status = kept.until(|status| status.fetches == 1).await;
        assert_eq!(status.last_failure, Some(reason));
        assert!(!status.usable);
    }
    assert_eq!(other.asked(KEYS) + other.asked("/"), 0);
}

#[tokio::test]
async fn an_issuer_elsewhere_cannot_point_at_this_machine() {
    let (idp, inside) = (Idp::start_tls(), Idp::start());
    inside.answer(KEYS, Answer::keys(&[published_key("a")]));
    idp.locate(&inside.url(KEYS));
    let mut settings = discovered(&idp);
    settings.roots.extend(idp.root.clone());
    let kept = Kept::start(settings);
    let status = kept.until(|status| status.fetches == 1).await;
    assert_eq!(status.last_failure, Some("refused_jwks_uri"));
    assert_eq!(inside.asked(KEYS), 0);
}

#[tokio::test]
async fn a_certificate_is_verified_and_an_extra_root_is_believed() {
    let idp = Idp::start_tls();
    idp.answer(KEYS, Answer::keys(&[published_key("a")]));
    let kept = Kept::start(at_url(&idp));
    let status = kept.until(|status| status.fetches == 1).await;
    assert_eq!(status.last_failure, Some("certificate"));
    assert_eq!(idp.asked(KEYS), 0);
    let mut settings = at_url(&idp);
    settings.roots.extend(idp.root.clone());
    assert_eq!(Kept::usable(settings).await.status().keys, 1);
}

#[tokio::test]
async fn a_key_server_that_is_not_there_is_told_from_one_that_fails() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    drop(listener);
    let kept = Kept::start(with(JwksSource::Url(Endpoint::parse(&url).unwrap())));
    let status = kept.until(|status| status.fetches == 1).await;
    assert_eq!(status.last_failure, Some("unreachable"));
}

#[tokio::test]
async fn a_request_that_leaves_while_it_waits_changes_nothing() {
    let idp = Idp::start();
    idp.answer(KEYS, Answer::keys(&[published_key("a")]));
    let kept = Kept::usable(at_url(&idp)).await;
    idp.answer(KEYS, Answer::keys(&[published_key("b")]));
    idp.hold();
    let keys = Arc::clone(&kept.keys);
    // Each of these is dropped while it waits, among them the one that caused the fetch.
    until(|| {
        let leaving = keys.look_for(Some("b"));
        assert!(leaving.now_or_never().is_none_or(|()| idp.asked(KEYS) < 2));
        idp.asked(KEYS) == 2
    })
    .await;
    let asking = Arc::clone(&kept.keys);
    let stays = tokio::spawn(async move { asking.look_for(Some("b")).await });
    tokio::task::yield_now().await;
    idp.release();
    stays.await.unwrap();
    assert_eq!(kept.status().generation, 2);
    assert_eq!(idp.asked(KEYS), 2);
}

#[tokio::test]
async fn a_stop_ends_a_fetch_and_lets_go_of_those_who_wait() {
    let idp = Idp::start();
    idp.hold();
    let mut kept = Kept::start(at_url(&idp));
    until(|| idp.asked(KEYS) == 1).await;
    let waiter = {
        let keys = Arc::clone(&kept.keys);
        tokio::spawn(async move { keys.look_for(Some("a")).await })
    };
    tokio::task::yield_now().await;
    kept.stop.cancel();
    let second = Duration::from_secs(1);
    timeout(second, &mut kept.task).await.unwrap().unwrap();
    timeout(second, waiter).await.unwrap().unwrap();
    timeout(second, kept.keys.look_for(Some("a")))
        .await
        .unwrap();
    idp.release();
}

#[tokio::test]
async fn a_wait_is_no_longer_than_a_fetch() {
    let idp = Idp::start();
    idp.hold();
    let mut settings = at_url(&idp);
    settings.timeout = Duration::from_millis(200);
    let kept = Kept::start(settings);
    until(|| idp.asked(KEYS) == 1).await;
    let waiting = kept.keys.look_for(Some("a"));
    timeout(Duration::from_secs(2), waiting).await.unwrap();
    let status = kept.until(|status| status.fetches == 1).await;
    assert_eq!(status.last_failure, Some("timed_out"));
    idp.release();
}

#[tokio::test]
async fn the_log_says_what_changed_and_repeats_nothing_of_the_server() {
    let log = Lines::default();
    let _guard = log.collect_log();
    let idp = Idp::start();
    let good = Answer::keys(&[published_key("canary")]);
    idp.answer("/canary?canary", good.clone());
    let endpoint = Endpoint::parse(&idp.url("/canary?canary")).unwrap();
    let mut settings = with(JwksSource::Url(endpoint));
    settings.rhythm.max_stale = Duration::from_secs(3);
    let kept = Kept::usable(settings).await;
    let private = json!({ "kid": "canary", "d": "canary" });
    idp.answer("/canary?canary", Answer::keys(&[private]));
    let failures = kept.provoke().await.failures;
    kept.until(|status| status.failures > failures).await;
    kept.until(|status| !status.usable).await;
    idp.answer("/canary?canary", good);
    kept.provoke().await;

    let said: Vec<_> = log
        .events()
        .iter()
        .filter(|line| line["level"] != "DEBUG" && line["level"] != "TRACE")
        .map(|line| {
            assert_eq!(line["issuer.id"], "idp", "{line}");
            let number = |name: &str| line[name].as_u64();
            let level = line["level"].as_str().unwrap().to_owned();
            let reason = line["reason"].as_str().map(str::to_owned);
            (level, reason, number("keys"), number("generation"))
        })
        .collect();
    let line = |level: &str, reason: Option<&str>, keys, generation| {
        (
            level.to_owned(),
            reason.map(str::to_owned),
            keys,
            generation,
        )
    };
    assert_eq!(
        said,
        [
            line("INFO", None, Some(1), Some(1)),
            line("WARN", Some("private_key"), None, None),
            line("ERROR", None, None, Some(2)),
            line("INFO", None, Some(1), Some(3)),
            line("INFO", None, None, None),
        ]
    );
    assert!(!log.text().contains("canary"), "{}", log.text());
}
