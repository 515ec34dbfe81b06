//! Who is believed by the whole gateway: keys that issuers publish and change, tokens that are bound to
//! a key of their holder's, and claims that are bound to the body.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use dcams_gateway::{
    clock,
    operation::Operation::{CreateOrUpdateCustomer, GetStatus},
};
use jsonwebtoken::{Algorithm, EncodingKey, crypto::sign};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};

use crate::{
    idp::{self, DISCOVERY, Idp, KEYS, jwk},
    support::{Answer, ISSUER_KEY, World, answer, customer, lookup},
};

/// What the simulator says of a customer that nobody created: the token was good.
const PASSED: u16 = 404;

pub fn pair() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// A JWS of ES256.
fn es256(header: &Value, claims: &Value, pair: &KeyPair) -> String {
    let message = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
    let key = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
    let signature = sign(message.as_bytes(), &key, Algorithm::ES256).unwrap();
    format!("{message}.{signature}")
}

fn claims(issuer: &str) -> Value {
    let now = clock::now().as_second();
    json!({
        "iss": issuer, "aud": "dcams-gateway", "tenant": "demo", "iat": now, "exp": now + 600,
        "scope": "dcams:status:read dcams:customers:write",
    })
}

/// A token of an issuer that publishes its keys, signed under this `kid`.
pub fn token(idp: &Idp, pair: &KeyPair, kid: &str) -> String {
    let header = json!({"alg": "ES256", "kid": kid});
    es256(&header, &claims(&idp.url("")), pair)
}

/// An issuer that publishes its keys, beside the demo's own.
pub fn issuer(id: &str, idp: &Idp) -> String {
    format!(
        "[[issuers]]\nid = \"{id}\"\nissuer = \"{}\"\naudiences = [\"dcams-gateway\"]\n\
         algorithms = [\"ES256\"]\ntenants = [\"demo\"]\njwks_url = \"{}\"\n",
        idp.url(""),
        idp.url(KEYS)
    )
}

async fn ask(world: &World, token: &str) -> Answer {
    world.post(token, &lookup(GetStatus)).await
}

#[tokio::test]
async fn a_key_that_an_issuer_changes_to_is_accepted_at_once_and_the_old_one_no_longer() {
    let (idp, old, new) = (Idp::start(), pair(), pair());
    idp.answer(KEYS, idp::Answer::keys(&[jwk(&old, "old")]));
    let world = World::with(&issuer("live", &idp), &[]).await;
    let before = token(&idp, &old, "old");
    assert_eq!(ask(&world, &before).await.status, PASSED);
    assert_eq!(ask(&world, &before).await.status, PASSED);
    // Nobody tells the gateway. The first token under the new key makes it look.
    idp.answer(KEYS, idp::Answer::keys(&[jwk(&new, "new")]));
    assert_eq!(ask(&world, &token(&idp, &new, "new")).await.status, PASSED);
    assert_eq!(idp.asked(KEYS), 2);
    // It was remembered as good, by a key that the issuer has taken back since.
    let answer = ask(&world, &before).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (401, "invalid_token")
    );
}

#[tokio::test]
async fn a_revoked_key_counts_under_no_name() {
    let (idp, key) = (Idp::start(), pair());
    idp.answer(KEYS, idp::Answer::keys(&[jwk(&key, "stolen")]));
    let world = World::with(&issuer("live", &idp), &[]).await;
    // Whoever has the key writes the header; with one key there is only one that can be meant.
    let named = token(&idp, &key, "stolen");
    let nameless = es256(&json!({"alg": "ES256"}), &claims(&idp.url("")), &key);
    for token in [&named, &nameless] {
        assert_eq!(ask(&world, token).await.status, PASSED);
    }
    let url = format!("http://{}/api/revocations", world.admin);
    let body = json!({"issuer": "live", "kid": "stolen"});
    let request = world.client.post(url).json(&body);
    assert_eq!(request.send().await.unwrap().status(), 201);
    for token in [&named, &nameless] {
        assert_eq!(ask(&world, token).await.status, 401);
    }
}

#[tokio::test]
async fn one_kid_at_two_issuers_is_two_keys() {
    let (one, two) = (Idp::start(), Idp::start());
    let (first, second) = (pair(), pair());
    one.answer(KEYS, idp::Answer::keys(&[jwk(&first, "k")]));
    two.answer(KEYS, idp::Answer::keys(&[jwk(&second, "k")]));
    let toml = issuer("one", &one) + &issuer("two", &two);
    let world = World::with(&toml, &[]).await;
    for _ in 0..2 {
        assert_eq!(ask(&world, &token(&one, &first, "k")).await.status, PASSED);
        assert_eq!(ask(&world, &token(&two, &second, "k")).await.status, PASSED);
        assert_eq!(ask(&world, &token(&one, &second, "k")).await.status, 401);
        assert_eq!(ask(&world, &token(&two, &first, "k")).await.status, 401);
    }
}

#[tokio::test]
async fn a_tenant_of_another_issuer_is_out_of_an_issuers_reach() {
    let (idp, key) = (Idp::start(), pair());
    idp.answer(KEYS, idp::Answer::keys(&[jwk(&key, "k")]));
    let toml = issuer("live", &idp) + crate::support::OTHER_TENANT;
    let world = World::with(&toml, &[]).await;
    assert_eq!(ask(&world, &token(&idp, &key, "k")).await.status, PASSED);
    let mut foreign = claims(&idp.url(""));
    foreign["tenant"] = "other".into();
    let foreign = es256(&json!({"alg": "ES256", "kid": "k"}), &foreign, &key);
    let answer = ask(&world, &foreign).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (401, "invalid_token")
    );
}

#[tokio::test]
async fn without_any_keys_a_token_is_not_called_bad_and_operators_are_told() {
    let (idp, key) = (Idp::start(), pair());
    // A short cooldown, so that the recovery is seen by the next request.
    let toml = issuer("live", &idp) + "[issuers.jwks]\ncooldown = \"1s\"\n";
    let world = World::with(&toml, &[]).await;
    let good = token(&idp, &key, "k");
    let answer = ask(&world, &good).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "issuer_unavailable")
    );
    assert!(answer.headers.contains_key("retry-after"));
    // The demo's own issuer has its key, so the gateway is of use.
    let ready = world.operator("/readyz").await;
    assert_eq!(ready.status, 200);
    assert!(
        ready.text.contains("issuer live: no keys"),
        "{}",
        ready.text
    );
    assert!(
        ready.text.contains("last fetch failed: status"),
        "{}",
        ready.text
    );
    assert_eq!(ask(&world, &world.full_token()).await.status, PASSED);

    idp.answer(KEYS, idp::Answer::keys(&[jwk(&key, "k")]));
    while ask(&world, &good).await.status != PASSED {
        tokio::task::yield_now().await;
    }
    let ready = world.operator("/readyz").await;
    assert!(
        ready.text.contains("issuer live: keys 1, confirmed"),
        "{}",
        ready.text
    );
    let page = world.operator("/metrics").await.text;
    for line in [
        "dcams_gateway_issuer_keys{issuer=\"live\"} 1",
        "dcams_gateway_issuer_key_fetches_total{issuer=\"live\",result=\"ok\"} 1",
        "dcams_gateway_issuer_keys_age_seconds{issuer=\"live\"} ",
    ] {
        assert!(page.contains(line), "{line} not in\n{page}");
    }
}

#[tokio::test]
async fn a_gateway_whose_issuers_all_lack_keys_is_not_ready() {
    let idp = Idp::start();
    let folder = tempfile::tempdir().unwrap();
    // The demo's issuer made a fetched one.
    let demo = include_str!("../../config/demo.toml");
    let url = format!("jwks_url = \"{}\"", idp.url(KEYS));
    let toml = demo
        .replace("algorithms = [\"HS256\"]", "algorithms = [\"ES256\"]")
        .replace("secret = { file = \"issuer.key\" }", &url);
    crate::support::write_secrets(folder.path());
    std::fs::write(folder.path().join("demo.toml"), toml).unwrap();
    let served = crate::program::Served::start(folder.path(), "http://127.0.0.1:1/", "", &[]).await;
    let ready = async || {
        let url = format!("http://{}/readyz", served.admin);
        answer(crate::support::client().get(url).send().await.unwrap()).await
    };
    let first = ready().await;
    assert_eq!(first.status, 503);
    assert!(
        first.text.starts_with("no issuer has keys\n"),
        "{}",
        first.text
    );
    idp.answer(KEYS, idp::Answer::keys(&[jwk(&pair(), "k")]));
    while ready().await.status != 200 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_issuers_keys_are_found_by_discovery() {
    let (idp, key) = (Idp::start(), pair());
    idp.answer(KEYS, idp::Answer::keys(&[jwk(&key, "k")]));
    idp.locate(&idp.url(KEYS));
    let url = format!("jwks_url = \"{}\"", idp.url(KEYS));
    let toml = issuer("live", &idp).replace(&url, "issuer_discovery = true");
    let world = World::with(&toml, &[]).await;
    assert_eq!(ask(&world, &token(&idp, &key, "k")).await.status, PASSED);
    assert_eq!((idp.asked(DISCOVERY), idp.asked(KEYS)), (1, 1));
}

/// The demo's issuer with proofs, at the gateway's public URL.
const PUBLIC: &str = "[server]\npublic_urls = [\"https://gateway.example\"]\n";
const HTU: &str = "https://gateway.example/v3/stable/api/storage";

/// A client that holds a key, with a token that is bound to it.
struct Holder {
    key: KeyPair,
    token: String,
}

impl Holder {
    fn new() -> Self {
        let key = pair();
        let public = public(&key);
        // RFC 7638: the required members in their order.
        let canonical = format!(
            r#"{{"crv":"P-256","kty":"EC","x":{},"y":{}}}"#,
            public["x"], public["y"]
        );
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, canonical.as_bytes());
        let mut claims = claims("https://idp.demo.example/");
        claims["cnf"] = json!({ "jkt": b64(hash) });
        let secret = EncodingKey::from_secret(ISSUER_KEY.as_bytes());
        let message = format!("{}.{}", b64(r#"{"alg":"HS256"}"#), b64(claims.to_string()));
        let signature = sign(message.as_bytes(), &secret, Algorithm::HS256).unwrap();
        let token = format!("{message}.{signature}");
        Self { key, token }
    }

    /// A proof for this URL, with more claims.
    fn proof(&self, url: &str, more: Value) -> String {
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, self.token.as_bytes());
        let mut claims = json!({
            "htm": "POST", "htu": url, "iat": clock::now().as_second(),
            "jti": uuid::Uuid::now_v7().to_string(), "ath": b64(hash),
        });
        let more = more.as_object().unwrap().clone();
        claims.as_object_mut().unwrap().extend(more);
        let header = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": public(&self.key)});
        es256(&header, &claims, &self.key)
    }
}

fn public(key: &KeyPair) -> Value {
    let mut public = jwk(key, "");
    public
        .as_object_mut()
        .unwrap()
        .retain(|name, _| ["kty", "crv", "x", "y"].contains(&name.as_str()));
    public
}

async fn prove(world: &World, token: &str, proofs: &[&str]) -> Answer {
    let mut request = world
        .client
        .post(world.url())
        .header("authorization", format!("DPoP {token}"))
        .json(&lookup(GetStatus));
    for proof in proofs {
        request = request.header("dpop", *proof);
    }
    answer(request.send().await.unwrap()).await
}

fn nonce(answer: &Answer) -> String {
    answer.headers["dpop-nonce"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_bound_token_passes_with_a_proof_and_only_once_with_the_same() {
    let world = World::with(PUBLIC, &[]).await;
    let holder = Holder::new();
    // A gateway that has just started knows of no proofs that were used before.
    let challenged = prove(&world, &holder.token, &[&holder.proof(HTU, json!({}))]).await;
    assert_eq!(
        (challenged.status, challenged.code().as_str()),
        (401, "use_dpop_nonce")
    );
    let challenge = challenged.headers["www-authenticate"].to_str().unwrap();
    assert!(
        challenge.starts_with("DPoP ") && challenge.contains("use_dpop_nonce"),
        "{challenge}"
    );
    let nonce = nonce(&challenged);
    let proof = holder.proof(HTU, json!({ "nonce": nonce }));
    assert_eq!(prove(&world, &holder.token, &[&proof]).await.status, PASSED);
    let again = prove(&world, &holder.token, &[&proof]).await;
    assert_eq!(
        (again.status, again.code().as_str()),
        (401, "invalid_dpop_proof")
    );
    // The token is remembered now, and still worth nothing by itself.
    let proof = |more: Value| {
        let mut all = json!({ "nonce": nonce });
        all.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        all
    };
    let thief = Holder {
        key: pair(),
        token: holder.token.clone(),
    };
    for (name, proofs) in [
        ("none", vec![]),
        (
            "two",
            vec![
                holder.proof(HTU, proof(json!({}))),
                holder.proof(HTU, proof(json!({}))),
            ],
        ),
        ("another key's", vec![thief.proof(HTU, proof(json!({})))]),
        (
            "another URL's",
            vec![holder.proof(
                "https://evil.example/v3/stable/api/storage",
                proof(json!({})),
            )],
        ),
        (
            "another method's",
            vec![holder.proof(HTU, proof(json!({"htm": "GET"})))],
        ),
        (
            "another token's",
            vec![holder.proof(HTU, proof(json!({"ath": b64([0; 32])})))],
        ),
        (
            "an old one",
            vec![holder.proof(HTU, proof(json!({"iat": clock::now().as_second() - 91})))],
        ),
    ] {
        let proofs: Vec<&str> = proofs.iter().map(String::as_str).collect();
        let answer = prove(&world, &holder.token, &proofs).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (401, "invalid_dpop_proof"),
            "{name}"
        );
    }
    let bare = ask(&world, &holder.token).await;
    assert_eq!((bare.status, bare.code().as_str()), (401, "invalid_token"));
    let challenges = bare.headers.get_all("www-authenticate").iter().count();
    assert_eq!(challenges, 2);
    assert_eq!(world.simulator.requests().len(), 1);
}

#[tokio::test]
async fn a_bound_token_is_refused_where_its_proof_cannot_be_checked() {
    let world = World::start().await;
    let holder = Holder::new();
    let answer = prove(&world, &holder.token, &[&holder.proof(HTU, json!({}))]).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (401, "invalid_token")
    );
    // An unbound token is no better for a proof beside it.
    let unbound = world.full_token();
    let answer = prove(&world, &unbound, &[&holder.proof(HTU, json!({}))]).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (401, "invalid_token")
    );
    assert_eq!(world.simulator.requests().len(), 0);
}

#[tokio::test]
async fn an_issuer_may_accept_bound_tokens_alone_and_hand_out_nonces() {
    let (idp, key) = (Idp::start(), pair());
    idp.answer(KEYS, idp::Answer::keys(&[jwk(&key, "k")]));
    let strict = issuer("live", &idp) + "require_dpop = true\ndpop_nonce = true\n";
    let world = World::with(&format!("{PUBLIC}{strict}"), &[]).await;
    assert_eq!(ask(&world, &token(&idp, &key, "k")).await.status, 401);
    let mut holder = Holder::new();
    let mut bound = claims(&idp.url(""));
    let jkt = holder.token.split('.').nth(1).unwrap();
    let jkt: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(jkt).unwrap()).unwrap();
    bound["cnf"] = jkt["cnf"].clone();
    holder.token = es256(&json!({"alg": "ES256", "kid": "k"}), &bound, &key);
    let challenged = prove(&world, &holder.token, &[&holder.proof(HTU, json!({}))]).await;
    assert_eq!(challenged.code(), "use_dpop_nonce");
    let first = nonce(&challenged);
    // Each answer carries the nonce for the next proof, so that none has to be sent twice.
    let proof = holder.proof(HTU, json!({ "nonce": first }));
    let passed = prove(&world, &holder.token, &[&proof]).await;
    assert_eq!(passed.status, PASSED);
    let proof = holder.proof(HTU, json!({ "nonce": nonce(&passed) }));
    assert_eq!(prove(&world, &holder.token, &[&proof]).await.status, PASSED);
}

#[tokio::test]
async fn a_claim_that_is_bound_to_a_member_must_equal_it() {
    let (idp, key) = (Idp::start(), pair());
    idp.answer(KEYS, idp::Answer::keys(&[jwk(&key, "k")]));
    let bind = "[[issuers.bind]]\nclaim = \"ref\"\npointer = \"/reference\"\n\
                services = [\"createOrUpdateCustomer\"]\n";
    let world = World::with(&(issuer("live", &idp) + bind), &[]).await;
    let with_ref = |reference: Option<&str>| {
        let mut claims = claims(&idp.url(""));
        claims["ref"] = reference.into();
        claims
            .as_object_mut()
            .unwrap()
            .retain(|_, value| !value.is_null());
        es256(&json!({"alg": "ES256", "kid": "k"}), &claims, &key)
    };
    let create = async |token: &str| world.post(token, &customer()).await;
    assert_eq!(create(&with_ref(Some("reference-0001"))).await.status, 200);
    for foreign in [Some("reference-0002"), Some("REFERENCE-0001"), None] {
        let answer = create(&with_ref(foreign)).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (403, "customer_mismatch")
        );
        assert!(answer.text.contains("/reference"), "{}", answer.text);
        assert!(!answer.text.contains("reference-0"), "{}", answer.text);
    }
    // Services that the rule does not name are not bound by it.
    assert_eq!(ask(&world, &with_ref(None)).await.status, 200);
    let services: Vec<_> = world
        .simulator
        .requests()
        .iter()
        .map(|r| r.service.clone())
        .collect();
    assert_eq!(
        services,
        [CreateOrUpdateCustomer, GetStatus].map(|o| Some(o.name().to_owned()))
    );
}

#[tokio::test]
async fn a_proof_that_was_used_stays_used_over_a_reload_and_a_nonce_stays_good() {
    let world = World::with(PUBLIC, &[]).await;
    let holder = Holder::new();
    let challenged = prove(&world, &holder.token, &[&holder.proof(HTU, json!({}))]).await;
    let with_nonce = || holder.proof(HTU, json!({ "nonce": nonce(&challenged) }));
    let used = with_nonce();
    assert_eq!(prove(&world, &holder.token, &[&used]).await.status, PASSED);
    let more = format!("{PUBLIC}[limits]\nmax_lookup_body = \"8KiB\"\n");
    world.change(&more).await;
    let again = prove(&world, &holder.token, &[&used]).await;
    assert_eq!(
        (again.status, again.code().as_str()),
        (401, "invalid_dpop_proof")
    );
    let new = prove(&world, &holder.token, &[&with_nonce()]).await;
    assert_eq!(new.status, PASSED);
    // The URLs are the new configuration's.
    world.change(&PUBLIC.replace("gateway", "elsewhere")).await;
    let here = prove(&world, &holder.token, &[&with_nonce()]).await;
    assert_eq!(here.code(), "invalid_dpop_proof");
}
