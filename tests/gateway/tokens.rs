//! Forged, broken and misused tokens against the whole gateway: what RFC 8725 warns of, and what
//! libraries and gateways were caught with. None is forwarded, and no two answers can be told apart.

use std::{collections::BTreeSet, fs};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use dcams_gateway::operation::Operation::GetStatus;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, crypto::sign, jwk::Jwk};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::pem::PemObject;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::support::{ISSUER_KEY, World, lookup};

const HS: &str = "https://idp.demo.example/";
const ES: &str = "https://idp.es.example/";

/// A second issuer, of public keys, beside the demo's.
const ES_ISSUER: &str = r#"
[[issuers]]
id = "es-idp"
issuer = "https://idp.es.example/"
audiences = ["dcams-gateway"]
algorithms = ["ES256"]
jwks_file = "es.jwks"
tenants = ["globex"]
[[accounts]]
id = "globex"
credentials = [{ id = "globex-1", user = { file = "other-user" }, pass = { file = "pass" } }]
[[tenants]]
id = "globex"
account = "globex"
services = ["getStatus"]
"#;

/// What makes tokens, good and bad.
struct Forge {
    pair: KeyPair,
    other: KeyPair,
    now: i64,
    /// A listener that a URL in a token's header names.
    lure: String,
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn jwk(pair: &KeyPair, kid: &str) -> Value {
    let key = DecodingKey::from_ec_pem(pair.public_key_pem().as_bytes()).unwrap();
    let mut jwk = serde_json::to_value(Jwk::from_decoding_key(&key, None).unwrap()).unwrap();
    jwk["kid"] = kid.into();
    jwk
}

/// A JSON object with one member written otherwise, or left out; raw, so that anything can stand there.
fn with(object: &str, name: &str, raw: Option<&str>) -> String {
    let map: serde_json::Map<String, Value> = serde_json::from_str(object).unwrap();
    let kept = map.iter().filter(|(member, _)| *member != name);
    let mut members: Vec<String> = kept.map(|(n, v)| format!("\"{n}\":{v}")).collect();
    members.extend(raw.map(|raw| format!("\"{name}\":{raw}")));
    format!("{{{}}}", members.join(","))
}

impl Forge {
    fn claims(&self, iss: &str) -> String {
        let tenant = if iss == HS { "demo" } else { "globex" };
        let (now, exp) = (self.now, self.now + 600);
        format!(
            r#"{{"iss":"{iss}","aud":"dcams-gateway","tenant":"{tenant}","iat":{now},"exp":{exp},"scope":"dcams:status:read"}}"#
        )
    }

    fn hs(header: &str, claims: &str) -> String {
        signed(
            header,
            claims,
            &EncodingKey::from_secret(ISSUER_KEY.as_bytes()),
            Algorithm::HS256,
        )
    }

    fn es(header: &str, claims: &str, pair: &KeyPair) -> String {
        let key = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
        signed(header, claims, &key, Algorithm::ES256)
    }

    /// A rightly signed token of the HMAC issuer, with one claim written otherwise.
    fn claim(&self, name: &str, raw: Option<&str>) -> String {
        Self::hs(r#"{"alg":"HS256"}"#, &with(&self.claims(HS), name, raw))
    }

    /// The same with more in its header.
    fn header(&self, more: &str) -> String {
        Self::hs(&format!(r#"{{"alg":"HS256",{more}}}"#), &self.claims(HS))
    }
}

fn signed(header: &str, claims: &str, key: &EncodingKey, algorithm: Algorithm) -> String {
    let message = format!("{}.{}", b64(header), b64(claims));
    let signature = sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

/// The signature of a token replaced by these bytes.
fn resigned(token: &str, signature: &[u8]) -> String {
    let (message, _) = token.rsplit_once('.').unwrap();
    format!("{message}.{}", b64(signature))
}

type Case = (&'static str, String);

/// RFC 8725 3.1 and 3.2: the algorithm and the key are ours to choose.
fn algorithms(forge: &Forge) -> Vec<Case> {
    let es = r#"{"alg":"ES256","kid":"one"}"#;
    let claims = forge.claims(ES);
    let pem = forge.pair.public_key_pem();
    let der = rustls_pki_types::SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).unwrap();
    let set = jwk(&forge.pair, "one").to_string();
    let hmac = |secret: &[u8]| {
        let header = r#"{"alg":"HS256","kid":"one"}"#;
        signed(
            header,
            &claims,
            &EncodingKey::from_secret(secret),
            Algorithm::HS256,
        )
    };
    let unsigned = |alg: &str| {
        let header = format!(r#"{{"alg":"{alg}","kid":"one"}}"#);
        format!("{}.{}.", b64(header), b64(&claims))
    };
    let good = Forge::es(es, &claims, &forge.pair);
    let cross = Forge::es(
        r#"{"alg":"ES256","kid":"one"}"#,
        &forge.claims(HS),
        &forge.pair,
    );
    vec![
        ("HMAC with the public key as PEM", hmac(pem.as_bytes())),
        ("HMAC with the public key as DER", hmac(&der)),
        ("HMAC with the public key as JWK", hmac(set.as_bytes())),
        ("HMAC with an empty key", hmac(b"")),
        ("alg none, no signature", unsigned("none")),
        ("alg None", unsigned("None")),
        ("alg NONE", unsigned("NONE")),
        ("alg nOnE", unsigned("nOnE")),
        (
            "alg none with a signature",
            resigned(&unsigned("none"), b"x"),
        ),
        (
            "alg es256 in lower case",
            Forge::es(r#"{"alg":"es256","kid":"one"}"#, &claims, &forge.pair),
        ),
        (
            "alg missing",
            Forge::es(r#"{"kid":"one"}"#, &claims, &forge.pair),
        ),
        (
            "alg twice",
            Forge::es(
                r#"{"alg":"none","alg":"ES256","kid":"one"}"#,
                &claims,
                &forge.pair,
            ),
        ),
        (
            "alg as a list",
            Forge::es(r#"{"alg":["ES256"],"kid":"one"}"#, &claims, &forge.pair),
        ),
        (
            "another algorithm of the key's family",
            Forge::es(r#"{"alg":"ES384","kid":"one"}"#, &claims, &forge.pair),
        ),
        ("another issuer's key", cross),
        (
            "a key that nobody published",
            Forge::es(es, &claims, &forge.other),
        ),
        ("psychic signature: r = s = 0", resigned(&good, &[0; 64])),
        ("signature of no bytes", resigned(&good, b"")),
        (
            "signature in DER form",
            resigned(&good, &[0x30, 0x06, 2, 1, 1, 2, 1, 1]),
        ),
        ("signature cut in half", resigned(&good, &[1; 32])),
        ("signature twice as long", resigned(&good, &[1; 128])),
    ]
}

/// RFC 8725 3.5, 3.10 and 3.11: what a header may not ask for.
fn token_headers(forge: &Forge) -> Vec<Case> {
    let evil = jwk(&forge.other, "one");
    let lure = &forge.lure;
    let claims = forge.claims(ES);
    let embed = |member: &str| {
        let header = format!(r#"{{"alg":"ES256",{member}}}"#);
        Forge::es(&header, &claims, &forge.other)
    };
    vec![
        (
            "embedded jwk of the attacker",
            embed(&format!(r#""jwk":{evil}"#)),
        ),
        (
            "jku to the attacker's key set",
            embed(&format!(r#""kid":"one","jku":"{lure}""#)),
        ),
        (
            "x5u to the attacker's certificate",
            embed(&format!(r#""kid":"one","x5u":"{lure}""#)),
        ),
        (
            "x5c with the attacker's certificate",
            embed(r#""kid":"one","x5c":["AAAA"]"#),
        ),
        ("kid with a path", embed(r#""kid":"../../../../dev/null""#)),
        ("kid with SQL", embed(r#""kid":"x' UNION SELECT 'key'--""#)),
        ("kid of another issuer's key", embed(r#""kid":"hs""#)),
        (
            "kid of 10 KiB",
            embed(&format!(r#""kid":"{}""#, "k".repeat(4000))),
        ),
        (
            "crit with an unknown extension",
            forge.header(r#""crit":["x"],"x":1"#),
        ),
        ("crit that is empty", forge.header(r#""crit":[]"#)),
        (
            "b64 false (RFC 7797)",
            forge.header(r#""b64":false,"crit":["b64"]"#),
        ),
        ("compressed (zip)", forge.header(r#""zip":"DEF""#)),
        ("encrypted (enc)", forge.header(r#""enc":"A256GCM""#)),
        (
            "a token inside a token (cty JWT)",
            forge.header(r#""cty":"JWT""#),
        ),
        (
            "typ of a logout token",
            forge.header(r#""typ":"logout+jwt""#),
        ),
        ("typ of a DPoP proof", forge.header(r#""typ":"dpop+jwt""#)),
        (
            "typ of a security event",
            forge.header(r#""typ":"secevent+jwt""#),
        ),
        (
            "duplicate member in the header",
            forge.header(r#""typ":"JWT","typ":"JWT""#),
        ),
    ]
}

/// RFC 8725 3.8, 3.9 and 3.12: who issued it, for whom, for what, and when.
fn claims(forge: &Forge) -> Vec<Case> {
    let now = forge.now;
    let set = |name, raw: &str| forge.claim(name, Some(raw));
    let second = |claims: &str, member: &str| {
        Forge::hs(
            r#"{"alg":"HS256"}"#,
            &claims.replacen('{', &format!("{{{member},"), 1),
        )
    };
    let good = forge.claims(HS);
    vec![
        ("exp as a string", set("exp", &format!("\"{}\"", now + 600))),
        ("exp as a fraction", set("exp", &format!("{}.5", now + 600))),
        ("exp in exponent form", set("exp", "2e9")),
        ("exp missing", forge.claim("exp", None)),
        ("exp null", set("exp", "null")),
        ("exp of 2^64 - 1", set("exp", "18446744073709551615")),
        (
            "exp in ten years",
            set("exp", &(now + 315_360_000).to_string()),
        ),
        ("nbf as a string", set("nbf", &format!("\"{now}\""))),
        ("nbf in the future", set("nbf", &(now + 3600).to_string())),
        ("iat in the future", set("iat", &(now + 3600).to_string())),
        (
            "iat and exp further apart than max_ttl",
            set("iat", &(now - 200_000).to_string()),
        ),
        ("iss missing", forge.claim("iss", None)),
        (
            "iss as a list with ours",
            set("iss", &format!("[\"{HS}\"]")),
        ),
        (
            "iss without its slash",
            set("iss", "\"https://idp.demo.example\""),
        ),
        ("iss of nobody", set("iss", "\"https://evil.example/\"")),
        ("iss of another issuer", set("iss", &format!("\"{ES}\""))),
        ("aud missing", forge.claim("aud", None)),
        ("aud of another service", set("aud", "\"another-service\"")),
        (
            "aud with ours inside a longer one",
            set("aud", "\"dcams-gateway-test\""),
        ),
        ("aud of mixed types", set("aud", "[\"dcams-gateway\",1]")),
        ("tenant missing", forge.claim("tenant", None)),
        ("tenant of another issuer", set("tenant", "\"globex\"")),
        ("tenant as a list", set("tenant", "[\"demo\"]")),
        ("tenant in capitals", set("tenant", "\"DEMO\"")),
        (
            "scope as an object",
            set("scope", "{\"dcams:status:read\":true}"),
        ),
        (
            "customer as a list",
            set("customer_email", "[\"a@b.example\"]"),
        ),
        ("customer null", set("customer_email", "null")),
        ("jti as a number", set("jti", "1")),
        ("sub as an object", set("sub", "{}")),
        ("two tenants", second(&good, r#""tenant":"globex""#)),
        ("two exp", second(&good, r#""exp":1"#)),
        (
            "two iss, one of them escaped",
            second(&good, r#""i\u0073s":"https://evil.example/""#),
        ),
        (
            "bound to a key that is not shown",
            set(
                "cnf",
                r#"{"x5t#S256":"bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"}"#,
            ),
        ),
        (
            "claims that are no object",
            Forge::hs(r#"{"alg":"HS256"}"#, "[]"),
        ),
        (
            "claims with something after them",
            Forge::hs(r#"{"alg":"HS256"}"#, &format!("{good} {{}}")),
        ),
    ]
}

/// RFC 7515 and RFC 6750: one token, in one form.
fn shapes(forge: &Forge) -> Vec<Case> {
    let good = Forge::hs(r#"{"alg":"HS256"}"#, &forge.claims(HS));
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (header, payload) = message.split_once('.').unwrap();
    vec![
        ("four parts", format!("{good}.x")),
        ("two parts", message.to_owned()),
        ("five parts, as of an encrypted one", format!("{good}.x.x")),
        (
            "padded base64url",
            format!("{header}=.{payload}.{signature}"),
        ),
        (
            "standard base64",
            format!("{header}.{payload}.{signature}+/"),
        ),
        (
            "JSON serialisation",
            format!(r#"{{"payload":"{payload}"}}"#),
        ),
        ("one character more", format!("{good}A")),
        ("two tokens in one header", format!("{good},{good}")),
        ("9 KiB", format!("{good}{}", "A".repeat(9000))),
    ]
}

#[tokio::test]
async fn no_bad_token_is_forwarded_or_answered_unlike_another() {
    let lure = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let forge = Forge {
        pair: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
        other: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
        now: dcams_gateway::clock::now().as_second(),
        lure: format!("http://{}/jwks", lure.local_addr().unwrap()),
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("es.jwks");
    let set = serde_json::json!({ "keys": [jwk(&forge.pair, "one")] });
    fs::write(&path, set.to_string()).unwrap();
    let toml = ES_ISSUER.replace("\"es.jwks\"", &format!("{path:?}"));
    let world = World::with(&toml, &[]).await;
    // The forge makes good ones too: what follows is refused for what is wrong with it alone.
    let es = Forge::es(
        r#"{"alg":"ES256","kid":"one"}"#,
        &forge.claims(ES),
        &forge.pair,
    );
    let hs = Forge::hs(r#"{"alg":"HS256"}"#, &forge.claims(HS));
    for good in [es, hs] {
        let answer = world.post(&good, &lookup(GetStatus)).await;
        assert_ne!(answer.status, 401, "{answer:?}");
    }
    let forwarded = world.simulator.requests().len();

    let mut cases = algorithms(&forge);
    cases.extend(token_headers(&forge));
    cases.extend(claims(&forge));
    cases.extend(shapes(&forge));
    let mut answers = BTreeSet::new();
    for (name, token) in &cases {
        let answer = world.post(token, &lookup(GetStatus)).await;
        let mut document = answer.json();
        document["request_id"] = Value::Null;
        let challenge = answer.headers["www-authenticate"]
            .to_str()
            .unwrap()
            .to_owned();
        answers.insert((answer.status, document.to_string(), challenge));
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (401, "invalid_token"),
            "{name}"
        );
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(world.simulator.requests().len(), forwarded);
    assert!(cases.len() >= 80, "{}", cases.len());
    // Expired is said of a token that was good, and of no forgery.
    let expired = with(
        &forge.claims(HS),
        "exp",
        Some(&(forge.now - 31).to_string()),
    );
    let expired = with(&expired, "iat", None);
    let answer = world
        .post(
            &Forge::hs(r#"{"alg":"HS256"}"#, &expired),
            &lookup(GetStatus),
        )
        .await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (401, "expired_token")
    );
    let url_was_followed = futures_util::FutureExt::now_or_never(lure.accept()).is_some();
    assert!(!url_was_followed);
}
