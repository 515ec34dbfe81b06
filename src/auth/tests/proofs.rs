//! Proofs of possession, good and bad: each rule of RFC 9449 4.3 broken alone, replay, and restarts.
#![expect(
    clippy::string_slice,
    clippy::too_many_lines,
    reason = "tables of cases, cut from ASCII text"
)]

use std::{
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use http::Method;
use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;
use crate::auth::{
    dpop::{
        ALGORITHMS, Confirmation, DPOP, DpopSettings, NonceKey, Presented, ProofChecker,
        ProofError::{self, *},
        PublicUrl, Thumbprint,
    },
    keys::KeyFault,
    token::Scheme,
};

/// Every reason there is.
pub(super) const ERRORS: [ProofError; 20] = [
    BadSignature,
    Doubled,
    FromFuture,
    Full,
    InvalidClaim,
    InvalidKey(KeyFault::Private),
    Malformed,
    Missing,
    NoPublicUrl,
    NonceRequired,
    OtherKey,
    OtherMethod,
    OtherToken,
    OtherUrl,
    RefusedAlgorithm,
    RefusedHeader,
    RefusedType,
    Replayed,
    Stale,
    TooLong,
];

const PATH: &str = "/v3/stable/api/storage";
const URL: &str = "https://gateway.example/v3/stable/api/storage";
const TOKEN: &str = "DPoP the.access.token";
const RULES: DpopRules = DpopRules {
    required: false,
    max_age: Duration::from_mins(1),
    nonce: false,
};
const NONCE_RULES: DpopRules = DpopRules {
    nonce: true,
    ..RULES
};
const LEEWAY: Duration = Duration::from_secs(30);

fn settings(urls: &[&str], key: u8) -> DpopSettings {
    DpopSettings {
        public_urls: urls.iter().map(|u| PublicUrl::parse(u).unwrap()).collect(),
        nonces: NonceKey::derive(&[key; 32]),
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A checker of one key that has run since a second.
fn since(started: i64) -> ProofChecker {
    let urls = ["https://gateway.example", "http://127.0.0.1:8080"];
    ProofChecker::new(settings(&urls, 1), at(started))
}

/// One that has run for an hour.
fn checker() -> ProofChecker {
    since(NOW - 3600)
}

fn proof_headers(proofs: &[&[u8]]) -> HeaderMap {
    let mut headers = headers(&[TOKEN.as_bytes()]);
    for proof in proofs {
        headers.append(DPOP, HeaderValue::from_bytes(proof).unwrap());
    }
    headers
}

/// What this checker makes of a request with these headers.
fn judge(
    checker: &ProofChecker,
    headers: &HeaderMap,
    pair: &KeyPair,
    rules: &DpopRules,
    now: Timestamp,
) -> Result<(), ProofError> {
    let presented = Presented {
        token: AccessToken::from_headers(headers).unwrap(),
        headers,
        method: &Method::POST,
        path: PATH,
    };
    checker.check(&presented, &thumbprint(pair), rules, LEEWAY, now)
}

/// The same for one proof by the usual key.
fn one(checker: &ProofChecker, proof: &str, rules: &DpopRules, now: i64) -> Result<(), ProofError> {
    let headers = proof_headers(&[proof.as_bytes()]);
    judge(checker, &headers, &KEYS.p256, rules, at(now))
}

/// The thumbprint of a key, written out a second time.
fn thumbprint(pair: &KeyPair) -> Thumbprint {
    let jwk = jwk(pair, None);
    let names: &[&str] = match jwk["kty"].as_str().unwrap() {
        "EC" => &["crv", "kty", "x", "y"],
        "OKP" => &["crv", "kty", "x"],
        _ => &["e", "kty", "n"],
    };
    let members: Vec<String> = names
        .iter()
        .map(|name| format!("\"{name}\":{}", jwk[name]))
        .collect();
    let hash = sha256(format!("{{{}}}", members.join(",")).as_bytes());
    Thumbprint::parse(&b64(hash)).unwrap()
}

fn signer(pair: &KeyPair) -> EncodingKey {
    let pem = pair.serialize_pem();
    if pair.is_compatible(&PKCS_ED25519) {
        return EncodingKey::from_ed_pem(pem.as_bytes()).unwrap();
    }
    if pair.is_compatible(&rcgen::PKCS_RSA_SHA256) {
        return EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap();
    }
    ec(pair)
}

fn header(alg: &str, pair: &KeyPair) -> Members {
    Members::header(alg)
        .set("typ", r#""dpop+jwt""#)
        .set("jwk", &jwk(pair, None).to_string())
}

/// The header that most tests spoil.
fn es() -> Members {
    header("ES256", &KEYS.p256)
}

/// Claims that pass, with a `jti` of their own.
fn claims() -> Members {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let ath = b64(sha256(&TOKEN.as_bytes()[5..]));
    Members(vec![])
        .set("htm", r#""POST""#)
        .set("htu", &format!("\"{URL}\""))
        .set("iat", &NOW.to_string())
        .set(
            "jti",
            &format!("\"{}\"", NEXT.fetch_add(1, Ordering::Relaxed)),
        )
        .set("ath", &format!("\"{ath}\""))
}

fn signed(header: &Members, claims: &Members) -> String {
    let key = signer(&KEYS.p256);
    sign(header.json(), claims.json(), &key, Algorithm::ES256)
}

/// A proof of these claims by the usual key.
fn with(claims: &Members) -> String {
    signed(&es(), claims)
}

#[test]
fn a_good_proof_passes_under_every_algorithm_that_is_offered() {
    let checker = checker();
    let mut passed = 0;
    for name in ALGORITHMS.split(' ') {
        let pair = match name {
            "ES256" => &KEYS.p256,
            "ES384" => &KEYS.p384,
            "EdDSA" => &KEYS.ed25519,
            _ => &KEYS.rsa,
        };
        let algorithm = keys::parse_algorithm(name).unwrap();
        let header = header(name, pair).json();
        let proof = sign(header, claims().json(), &signer(pair), algorithm);
        let headers = proof_headers(&[proof.as_bytes()]);
        assert_eq!(
            judge(&checker, &headers, pair, &RULES, now()),
            Ok(()),
            "{name}"
        );
        passed += 1;
    }
    assert_eq!(passed, 9);
}

#[test]
fn what_stands_close_to_a_bad_proof_and_is_none_passes() {
    let checker = checker();
    let url = |url: &str| claims().set("htu", &format!("\"{url}\""));
    for claims in [
        url("HTTPS://Gateway.EXAMPLE/v3/stable/api/storage"),
        url("https://gateway.example:443/v3/stable/api/storage"),
        url("https://gateway.example:/v3/stable/api/storage"),
        url("https://gateway.example/v3/stable/api/storage?a=/b#c"),
        url("https://gateway.example/v3/stable/api/storage#@evil.example/"),
        url("http://127.0.0.1:8080/v3/stable/api/storage"),
        // Written as some JSON libraries do.
        url(r"https:\/\/gateway.example\/v3\/stable\/api\/storage"),
        claims().set("jti", &format!("\"{}\"", "j".repeat(256))),
        claims().set("iat", &(NOW - 90).to_string()),
        claims().set("iat", &(NOW + 30).to_string()),
        claims().set("exp", "0").set("more", r#"{"any":["thing"]}"#),
    ] {
        let json = claims.json();
        assert_eq!(one(&checker, &with(&claims), &RULES, NOW), Ok(()), "{json}");
    }
    for header in [
        es().set("kid", r#""x""#).set("x5u", r#""https://evil/""#),
        Members::header("ES256")
            .set(
                "jwk",
                &with_member(&KEYS.p256, "use", r#""sig""#).to_string(),
            )
            .set("typ", r#""dpop+jwt""#),
    ] {
        let proof = signed(&header, &claims());
        assert_eq!(one(&checker, &proof, &RULES, NOW), Ok(()));
    }
}

fn with_member(pair: &KeyPair, name: &str, raw: &str) -> Json {
    let mut jwk = jwk(pair, None);
    jwk[name] = serde_json::from_str(raw).unwrap();
    jwk
}

type Case = (String, HeaderMap, ProofError);

fn case(name: &str, proof: &str, error: ProofError) -> Case {
    let headers = proof_headers(&[proof.as_bytes()]);
    (name.to_owned(), headers, error)
}

#[test]
fn every_broken_rule_is_refused_for_its_own_reason() {
    let checker = checker();
    let mut cases = shapes();
    cases.extend(proof_heads());
    cases.extend(embedded_keys());
    cases.extend(signatures());
    cases.extend(spoilt_claims());
    cases.extend(urls());
    for (name, headers, error) in &cases {
        // Twice: the first refusal must not have taught it anything.
        for _ in 0..2 {
            let result = judge(&checker, headers, &KEYS.p256, &RULES, now());
            assert_eq!(result, Err(*error), "{name}");
        }
    }
    assert!(cases.len() >= 100, "{}", cases.len());
}

fn shapes() -> Vec<Case> {
    let good = with(&claims());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (head, payload) = message.split_once('.').unwrap();
    let key = signer(&KEYS.p256);
    let raw = |header: &str, claims: &str| sign(header, claims, &key, Algorithm::ES256);
    let json = claims().json();
    let doubled = format!("{},\"jti\":\"2\"}}", &json[..json.len() - 1]);
    let (one, other) = (with(&claims()), with(&claims()));
    let twice_x = es().json().replacen("{\"", "{\"x\":\"\",\"x\":\"\",\"", 2);
    let headers =
        |name: &str, proofs: &[&[u8]], error| (name.to_owned(), proof_headers(proofs), error);
    vec![
        headers("none", &[], Missing),
        headers("two", &[one.as_bytes(), other.as_bytes()], Doubled),
        headers("the same twice", &[one.as_bytes(), one.as_bytes()], Doubled),
        headers("one and an empty one", &[one.as_bytes(), b""], Doubled),
        headers("not utf-8", &[b"\xff.\xff.\xff"], Malformed),
        case("two in one header", &format!("{one}, {other}"), Malformed),
        case("empty", "", Malformed),
        case("dots", "..", Malformed),
        case("two parts", message, Malformed),
        case("four parts", &format!("{good}.{signature}"), Malformed),
        case("five parts", &format!("{good}.."), Malformed),
        case("no header", &format!(".{payload}.{signature}"), Malformed),
        case("no payload", &format!("{head}..{signature}"), BadSignature),
        case(
            "padded",
            &format!("{head}=.{payload}.{signature}"),
            Malformed,
        ),
        case(
            "white space",
            &format!("{head} .{payload}.{signature}"),
            Malformed,
        ),
        case("header no object", &raw("[]", &json), Malformed),
        case("claims no object", &raw(&es().json(), "[]"), Malformed),
        case("claims no json", &raw(&es().json(), "htm"), Malformed),
        case(
            "header in front of more",
            &raw(&format!("{}{{}}", es().json()), &json),
            Malformed,
        ),
        case(
            "claims in front of more",
            &raw(&es().json(), &format!("{json}x")),
            Malformed,
        ),
        case("doubled claim", &raw(&es().json(), &doubled), Malformed),
        case("doubled header member", &raw(&twice_x, &json), Malformed),
        case(
            "doubled alg",
            &signed(&es().add("alg", r#""none""#), &claims()),
            Malformed,
        ),
        case("too long", &of_length(8 * 1024 + 1), TooLong),
    ]
}

/// A good proof of exactly this many bytes.
fn of_length(bytes: usize) -> String {
    let fill = |bytes: usize| format!("\"{}\"", "x".repeat(bytes));
    let filled = |header, claim| {
        let header = es().set("fill", &fill(header));
        signed(&header, &claims().set("fill", &fill(claim)))
    };
    let rest = (bytes - filled(0, 0).len()) * 3 / 4 - 8;
    (0..4)
        .flat_map(|header| (rest..rest + 12).map(move |claim| (header, claim)))
        .map(|(header, claim)| filled(header, claim))
        .find(|proof| proof.len() == bytes)
        .unwrap()
}

#[test]
fn a_proof_of_8_kib_is_the_longest() {
    let checker = checker();
    assert_eq!(one(&checker, &of_length(8 * 1024), &RULES, NOW), Ok(()));
    let longer = of_length(8 * 1024 + 1);
    assert_eq!(one(&checker, &longer, &RULES, NOW), Err(TooLong));
}

fn proof_heads() -> Vec<Case> {
    let head = |name: &str, header: &Members, error| case(name, &signed(header, &claims()), error);
    let mut cases = vec![
        head("no typ", &es().remove("typ"), RefusedType),
        head("typ JWT", &es().set("typ", r#""JWT""#), RefusedType),
        head("typ at+jwt", &es().set("typ", r#""at+jwt""#), RefusedType),
        head(
            "typ in capitals",
            &es().set("typ", r#""DPOP+JWT""#),
            RefusedType,
        ),
        head("typ a number", &es().set("typ", "1"), RefusedType),
        head("no alg", &es().remove("alg"), RefusedAlgorithm),
        head(
            "alg a list",
            &es().set("alg", r#"["ES256"]"#),
            RefusedAlgorithm,
        ),
    ];
    for alg in [
        "none", "None", "", "es256", "ES256K", "ES512", "HS256", "HS384", "HS512", "RSA1_5",
    ] {
        let header = es().set("alg", &format!("\"{alg}\""));
        cases.push(head(alg, &header, RefusedAlgorithm));
    }
    for name in ["crit", "b64", "enc", "zip"] {
        cases.push(head(name, &es().set(name, "null"), RefusedHeader));
    }
    // The public key as a secret, which everybody knows.
    let secret = KEYS.p256.public_key_raw();
    let header = es().set("alg", r#""HS256""#).json();
    let key = EncodingKey::from_secret(secret);
    let proof = sign(header, claims().json(), &key, Algorithm::HS256);
    cases.push(case("signed with the public key", &proof, RefusedAlgorithm));
    let unsigned = format!(
        "{}.{}.",
        b64(es().set("alg", r#""none""#).json()),
        b64(claims().json())
    );
    cases.push(case("unsigned", &unsigned, RefusedAlgorithm));
    cases
}

fn embedded_keys() -> Vec<Case> {
    let refused = |name: &str, jwk: &str, fault| {
        let proof = signed(&es().set("jwk", jwk), &claims());
        case(name, &proof, InvalidKey(fault))
    };
    let member = |name, raw| with_member(&KEYS.p256, name, raw).to_string();
    let missing = KeyFault::Member { name: "jwk" };
    let coordinate = KeyFault::Member { name: "x" };
    let x = jwk(&KEYS.p256, None)["x"].as_str().unwrap().to_owned();
    let (padded, short) = (format!("\"{x}=\""), format!("\"{}\"", &x[..40]));
    let mut cases = vec![
        case(
            "no jwk",
            &signed(&es().remove("jwk"), &claims()),
            InvalidKey(missing),
        ),
        refused("jwk null", "null", missing),
        refused("jwk a text", r#""key""#, missing),
        refused("jwk a list", "[]", missing),
        refused("jwk empty", "{}", KeyFault::Member { name: "kty" }),
        refused(
            "private key",
            &member("d", &format!("\"{x}\"")),
            KeyFault::Private,
        ),
        refused(
            "private member null",
            &member("d", "null"),
            KeyFault::Private,
        ),
        refused("prime", &member("p", r#""AQ""#), KeyFault::Private),
        refused(
            "secret beside it",
            &member("k", r#""AQ""#),
            KeyFault::Symmetric,
        ),
        refused("secret", r#"{"kty":"oct","k":"AAAA"}"#, KeyFault::Symmetric),
        refused("use enc", &member("use", r#""enc""#), KeyFault::Use),
        refused(
            "key_ops sign",
            &member("key_ops", r#"["sign"]"#),
            KeyFault::Operations,
        ),
        refused(
            "another alg",
            &member("alg", r#""ES384""#),
            KeyFault::Unlisted,
        ),
        refused("another curve", &member("crv", r#""P-384""#), coordinate),
        refused(
            "another kty",
            &member("kty", r#""OKP""#),
            KeyFault::Unlisted,
        ),
        refused(
            "a key of another curve",
            &jwk(&KEYS.p384, None).to_string(),
            KeyFault::Unlisted,
        ),
        refused(
            "another kind",
            &jwk(&KEYS.rsa, None).to_string(),
            KeyFault::Unlisted,
        ),
        refused("padded", &member("x", &padded), coordinate),
        refused("short", &member("x", &short), coordinate),
        refused("x a number", &member("x", "1"), coordinate),
        refused(
            "off the curve",
            &member("x", &format!("\"{}\"", b64([1; 32]))),
            KeyFault::Unfit { name: "ES256" },
        ),
    ];
    let weak = format!(r#"{{"kty":"RSA","e":"AQAB","n":"{}"}}"#, b64([0xff; 128]));
    let header = es().set("alg", r#""RS256""#).set("jwk", &weak);
    let key = signer(&KEYS.rsa);
    let proof = sign(header.json(), claims().json(), &key, Algorithm::RS256);
    cases.push(case("1024 bits", &proof, InvalidKey(KeyFault::WeakRsa)));
    let header = header_of_other();
    let key = signer(&KEYS.other_p256);
    let proof = sign(header.json(), claims().json(), &key, Algorithm::ES256);
    cases.push(case("another's proof", &proof, OtherKey));
    cases
}

fn header_of_other() -> Members {
    header("ES256", &KEYS.other_p256)
}

fn signatures() -> Vec<Case> {
    let good = with(&claims());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let bad =
        |name: &str, signature: &str| case(name, &format!("{message}.{signature}"), BadSignature);
    let mut spare_bit = signature.to_owned();
    let last = spare_bit.pop().unwrap();
    spare_bit.push(char::from(u8::try_from(last).unwrap() + 1));
    let other = with(&claims());
    let by_other = sign(
        es().json(),
        claims().json(),
        &signer(&KEYS.other_p256),
        Algorithm::ES256,
    );
    vec![
        bad("none", ""),
        bad("psychic", &b64([0; 64])),
        bad("der", &b64(der(signature))),
        bad("cut", &signature[..signature.len() - 4]),
        bad("longer", &format!("{signature}AAAA")),
        bad("padded", &format!("{signature}==")),
        bad("white space", &format!("{signature} ")),
        bad("spare bit", &spare_bit),
        bad("another's", other.rsplit_once('.').unwrap().1),
        case("by another key", &by_other, BadSignature),
    ]
}

/// A signature of two numbers side by side as the structure that X.509 has for it.
fn der(signature: &str) -> Vec<u8> {
    let raw = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let mut numbers = Vec::new();
    for number in raw.chunks(32) {
        let zeros = number.iter().take_while(|b| **b == 0).count();
        let mut number = number[zeros..].to_vec();
        if number[0] > 0x7f {
            number.insert(0, 0);
        }
        numbers.extend([2, u8::try_from(number.len()).unwrap()]);
        numbers.extend(number);
    }
    let mut der = vec![0x30, u8::try_from(numbers.len()).unwrap()];
    der.extend(numbers);
    der
}

fn spoilt_claims() -> Vec<Case> {
    let set = |name: &str, raw: &str, error| {
        case(
            &format!("{name} {raw}"),
            &with(&claims().set(name, raw)),
            error,
        )
    };
    let ath = b64(sha256(&TOKEN.as_bytes()[5..]));
    let long = format!("\"{}\"", "j".repeat(257));
    let mut cases = vec![
        set("htm", r#""GET""#, OtherMethod),
        set("htm", r#""post""#, OtherMethod),
        set("htm", r#""POST ""#, OtherMethod),
        set("htm", r#""""#, OtherMethod),
        set("iat", &(NOW - 91).to_string(), Stale),
        set("iat", "0", Stale),
        set("iat", &(NOW + 31).to_string(), FromFuture),
        set("iat", &format!("{NOW}000"), InvalidClaim),
        set("iat", &format!("{NOW}.5"), InvalidClaim),
        set("iat", &format!("\"{NOW}\""), InvalidClaim),
        set("iat", "-1", InvalidClaim),
        set("iat", "18446744073709551615", InvalidClaim),
        set("jti", r#""""#, InvalidClaim),
        set("jti", "1", InvalidClaim),
        set("jti", &long, InvalidClaim),
        set("ath", &format!("\"{}\"", b64(sha256(b"other"))), OtherToken),
        set("ath", &format!("\"{ath}=\""), OtherToken),
        set("ath", &format!("\"{}\"", &ath[..42]), OtherToken),
        set("ath", r#""""#, OtherToken),
        set("nonce", "1", InvalidClaim),
        set("nonce", "null", InvalidClaim),
        set("nonce", r#""""#, NonceRequired),
        set("nonce", r#""of another server""#, NonceRequired),
    ];
    for name in ["htm", "htu", "iat", "jti", "ath"] {
        cases.push(case(name, &with(&claims().remove(name)), InvalidClaim));
        cases.push(set(name, "null", InvalidClaim));
        cases.push(set(name, "[]", InvalidClaim));
    }
    cases
}

fn urls() -> Vec<Case> {
    [
        "",
        PATH,
        "https://gateway.example",
        "https://gateway.example/",
        "https://gateway.example/v3/stable/api/storage/",
        "https://gateway.example//v3/stable/api/storage",
        "https://gateway.example/V3/stable/api/storage",
        "https://gateway.example/v3/stable/api",
        "https://gateway.example/v3/./stable/api/storage",
        "https://gateway.example/x/../v3/stable/api/storage",
        "https://gateway.example/v3/stable/api/%73torage",
        "https://gateway.example/v3%2Fstable/api/storage",
        "https://gateway.example/v3/stable/api/storage;x",
        "https://gateway.example/v3/stable/api/storage ",
        " https://gateway.example/v3/stable/api/storage",
        "https://gateway.example?/v3/stable/api/storage",
        "https://gateway.example#/v3/stable/api/storage",
        "http://gateway.example/v3/stable/api/storage",
        "http://gateway.example:443/v3/stable/api/storage",
        "https://gateway.example:80/v3/stable/api/storage",
        "https://gateway.example:8443/v3/stable/api/storage",
        "https://gateway.example:443:443/v3/stable/api/storage",
        "https://gateway.example:+443/v3/stable/api/storage",
        "https://gateway.example:65979/v3/stable/api/storage",
        "https://other.example/v3/stable/api/storage",
        "https://evil.gateway.example/v3/stable/api/storage",
        "https://gateway.example.evil/v3/stable/api/storage",
        "https://gateway.example./v3/stable/api/storage",
        "https://user@gateway.example/v3/stable/api/storage",
        "https://gateway.example@evil.example/v3/stable/api/storage",
        "https://evil.example/?https://gateway.example/v3/stable/api/storage",
        "https://%67ateway.example/v3/stable/api/storage",
        "https:/gateway.example/v3/stable/api/storage",
        "https:gateway.example/v3/stable/api/storage",
        "//gateway.example/v3/stable/api/storage",
        "wss://gateway.example/v3/stable/api/storage",
        "http://127.0.0.1/v3/stable/api/storage",
        "https://127.0.0.1:8080/v3/stable/api/storage",
        "http://localhost:8080/v3/stable/api/storage",
    ]
    .into_iter()
    .map(|url| {
        let claims = claims().set("htu", &format!("\"{url}\""));
        case(url, &with(&claims), OtherUrl)
    })
    .collect()
}

#[test]
fn a_proof_is_for_the_method_and_path_of_its_request() {
    let checker = checker();
    let usage = "https://gateway.example/v1/usage";
    let claims = claims()
        .set("htm", r#""GET""#)
        .set("htu", &format!("\"{usage}\""));
    let headers = proof_headers(&[with(&claims).as_bytes()]);
    let ask = |method: &Method, path: &str| {
        let presented = Presented {
            token: AccessToken::from_headers(&headers).unwrap(),
            headers: &headers,
            method,
            path,
        };
        checker.check(&presented, &thumbprint(&KEYS.p256), &RULES, LEEWAY, now())
    };
    assert_eq!(ask(&Method::POST, "/v1/usage"), Err(OtherMethod));
    assert_eq!(ask(&Method::GET, PATH), Err(OtherUrl));
    assert_eq!(ask(&Method::GET, "/v1/usage"), Ok(()));
}

#[test]
fn the_age_of_a_proof_is_exact() {
    let checker = checker();
    let judge_at = |now: Timestamp| {
        let headers = proof_headers(&[with(&claims()).as_bytes()]);
        judge(&checker, &headers, &KEYS.p256, &RULES, now)
    };
    let nanosecond = SignedDuration::from_nanos(1);
    assert_eq!(judge_at(at(NOW + 90)), Ok(()));
    assert_eq!(judge_at(at(NOW + 90) + nanosecond), Err(Stale));
    assert_eq!(judge_at(at(NOW - 30)), Ok(()));
    assert_eq!(judge_at(at(NOW - 30) - nanosecond), Err(FromFuture));
    assert_eq!(judge_at(Timestamp::MAX), Err(Stale));
    assert_eq!(judge_at(Timestamp::MIN), Err(FromFuture));
}

#[test]
fn a_proof_passes_once_until_it_is_too_old() {
    let checker = checker();
    let claims = claims().set("iat", &(NOW + 30).to_string());
    let proof = with(&claims);
    assert_eq!(one(&checker, &proof, &RULES, NOW), Ok(()));
    for later in [0, 1, 60, 120] {
        assert_eq!(one(&checker, &proof, &RULES, NOW + later), Err(Replayed));
    }
    assert_eq!(one(&checker, &proof, &RULES, NOW + 121), Err(Stale));
    // Another proof makes it forget; a clock that then goes back does not bring it to life.
    let next = with(&self::claims().set("iat", &(NOW + 121).to_string()));
    assert_eq!(one(&checker, &next, &RULES, NOW + 121), Ok(()));
    assert_eq!(one(&checker, &proof, &RULES, NOW), Err(Stale));
}

#[test]
fn the_other_signature_that_anybody_can_make_of_one_is_the_same_proof() {
    // The order of P-256: with (r, s) also (r, n - s) is a signature of the same text.
    const ORDER: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc,
        0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let proof = with(&claims());
    let (message, signature) = proof.rsplit_once('.').unwrap();
    let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let mut borrow = 0;
    for place in (0..32).rev() {
        let difference = i16::from(ORDER[place]) - i16::from(signature[32 + place]) - borrow;
        borrow = i16::from(difference < 0);
        signature[32 + place] = u8::try_from(difference.rem_euclid(256)).unwrap();
    }
    let twin = format!("{message}.{}", b64(signature));
    // It is a good signature indeed.
    assert_eq!(one(&checker(), &twin, &RULES, NOW), Ok(()));
    let checker = checker();
    assert_eq!(one(&checker, &proof, &RULES, NOW), Ok(()));
    assert_eq!(one(&checker, &twin, &RULES, NOW), Err(Replayed));
}

#[test]
fn two_holders_may_choose_the_same_id() {
    let checker = checker();
    let claims = claims();
    assert_eq!(one(&checker, &with(&claims), &RULES, NOW), Ok(()));
    let key = signer(&KEYS.other_p256);
    let proof = sign(
        header_of_other().json(),
        claims.json(),
        &key,
        Algorithm::ES256,
    );
    let headers = proof_headers(&[proof.as_bytes()]);
    let other = judge(&checker, &headers, &KEYS.other_p256, &RULES, now());
    assert_eq!(other, Ok(()));
    // One holder may not, whatever else the proof says.
    let again = with(&claims.set("iat", &(NOW + 1).to_string()));
    assert_eq!(one(&checker, &again, &RULES, NOW), Err(Replayed));
}

#[test]
fn of_a_thousand_at_once_one_passes() {
    let (checker, proof) = (checker(), with(&claims()));
    let (start, passed, replayed) = (
        Barrier::new(1_000),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    );
    thread::scope(|scope| {
        for _ in 0..1_000 {
            scope.spawn(|| {
                start.wait();
                let count = match one(&checker, &proof, &RULES, NOW) {
                    Ok(()) => &passed,
                    Err(error) => {
                        assert_eq!(error, Replayed);
                        &replayed
                    }
                };
                count.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    assert_eq!((passed.into_inner(), replayed.into_inner()), (1, 999));
}

#[test]
fn a_refused_proof_takes_no_memory() {
    let checker = checker();
    let claims = claims();
    // Good but for its time, and for a nonce; then good.
    let proof = with(&claims);
    assert_eq!(one(&checker, &proof, &RULES, NOW - 31), Err(FromFuture));
    assert_eq!(one(&checker, &proof, &NONCE_RULES, NOW), Err(NonceRequired));
    assert_eq!(one(&checker, &proof, &RULES, NOW), Ok(()));
}

/// A fresh proof with the nonce that a checker gives at a second.
fn with_nonce(checker: &ProofChecker, second: i64) -> String {
    let nonce = checker.nonce(at(second));
    with(&claims().set("nonce", &format!("\"{}\"", nonce.to_str().unwrap())))
}

#[test]
fn an_issuers_nonce_is_asked_for_and_must_be_ours_and_recent() {
    let (ours, node) = (checker(), checker());
    let stranger = ProofChecker::new(settings(&["https://gateway.example"], 2), at(NOW - 3600));
    let start = NOW - NOW.rem_euclid(60);
    let judged = |proof: &str, now| one(&ours, proof, &NONCE_RULES, now);
    assert_eq!(judged(&with(&claims()), NOW), Err(NonceRequired));
    assert_eq!(judged(&with_nonce(&ours, NOW), NOW), Ok(()));
    assert_eq!(judged(&with_nonce(&node, NOW), NOW), Ok(()));
    assert_eq!(judged(&with_nonce(&ours, start - 60), start), Ok(()));
    for (proof, now) in [
        (with_nonce(&ours, start - 61), start),
        (with_nonce(&ours, start + 60), start),
        (with_nonce(&stranger, NOW), NOW),
    ] {
        assert_eq!(one(&ours, &proof, &NONCE_RULES, now), Err(NonceRequired));
        // Where none is asked for, one that is there must be good all the same.
        assert_eq!(one(&ours, &proof, &RULES, now), Err(NonceRequired));
    }
}

#[test]
fn after_a_start_a_proof_needs_a_nonce_of_this_process() {
    let (before, after, node) = (checker(), since(NOW), checker());
    let old = with_nonce(&before, NOW - 1);
    assert_eq!(one(&before, &old, &RULES, NOW - 1), Ok(()));
    assert_eq!(one(&after, &old, &RULES, NOW), Err(NonceRequired));
    let old = with(&claims());
    assert_eq!(one(&before, &old, &RULES, NOW), Ok(()));
    assert_eq!(one(&after, &old, &RULES, NOW), Err(NonceRequired));
    let of_node = with_nonce(&node, NOW);
    assert_eq!(one(&after, &of_node, &RULES, NOW), Err(NonceRequired));
    assert_eq!(one(&after, &with_nonce(&after, NOW), &RULES, NOW), Ok(()));
    // What a process before could have accepted needs one for as long as it could pass.
    let issued = |iat: i64| with(&claims().set("iat", &iat.to_string()));
    let last = issued(NOW + 30);
    for now in [NOW + 30, NOW + 120] {
        assert_eq!(one(&after, &last, &RULES, now), Err(NonceRequired));
    }
    assert_eq!(one(&after, &last, &RULES, NOW + 121), Err(Stale));
    // What was made later needs none.
    assert_eq!(one(&after, &issued(NOW + 31), &RULES, NOW + 31), Ok(()));
}

/// An issuer whose proofs can pass for this many seconds.
fn window(issuer: &str, seconds: u64) -> impl Iterator<Item = (String, Duration)> {
    [(issuer.to_owned(), Duration::from_secs(seconds))].into_iter()
}

#[test]
fn a_used_proof_stays_used_when_the_urls_change_and_no_nonce_is_asked_for_anew() {
    let before = checker().serving(window("idp", 90), at(NOW - 3600));
    let (plain, nonced) = (with(&claims()), with_nonce(&before, NOW));
    assert_eq!(one(&before, &plain, &RULES, NOW), Ok(()));
    let elsewhere = settings(&["https://elsewhere.example"], 1).public_urls;
    let after = before
        .at(elsewhere.clone())
        .serving(window("idp", 90), at(NOW));
    assert_eq!(one(&after, &plain, &RULES, NOW), Err(OtherUrl));
    let back = after.at(before.public_urls().to_vec());
    let back = back.serving(window("idp", 90), at(NOW));
    assert_eq!(one(&back, &plain, &RULES, NOW), Err(Replayed));
    assert_eq!(one(&back, &nonced, &NONCE_RULES, NOW), Ok(()));
    assert_eq!(one(&before, &nonced, &NONCE_RULES, NOW), Err(Replayed));
    let new = with(&claims().set("jti", "\"new\""));
    assert_eq!(one(&back, &new, &RULES, NOW), Ok(()));
}

#[test]
fn a_proof_that_was_forgotten_in_good_time_does_not_pass_where_proofs_may_be_older() {
    let short = DpopRules {
        max_age: Duration::from_secs(1),
        ..RULES
    };
    let before = checker().serving(window("idp", 31), at(NOW - 3600));
    let used = with_nonce(&before, NOW);
    assert_eq!(one(&before, &used, &short, NOW), Ok(()));
    // Something later has it forgotten: it was too old by then.
    let later = claims()
        .set("iat", &(NOW + 40).to_string())
        .set("jti", "\"later\"");
    assert_eq!(one(&before, &with(&later), &short, NOW + 40), Ok(()));
    let again = |checker: &ProofChecker| one(checker, &used, &RULES, NOW + 45);
    // As it would be if nobody took care.
    assert_eq!(again(&before.at(before.public_urls().to_vec())), Ok(()));

    let before = checker().serving(window("idp", 31), at(NOW - 3600));
    let used = with_nonce(&before, NOW);
    assert_eq!(one(&before, &used, &short, NOW), Ok(()));
    assert_eq!(one(&before, &with(&later), &short, NOW + 40), Ok(()));
    // Also where the issuer was gone in between.
    let urls = || before.public_urls().to_vec();
    let between = before.at(urls()).serving(window("other", 90), at(NOW + 41));
    let after = between.at(urls()).serving(window("idp", 90), at(NOW + 42));
    assert_eq!(one(&after, &used, &RULES, NOW + 45), Err(NonceRequired));
    let fresh = with_nonce(&after, NOW + 45);
    assert_eq!(one(&after, &fresh, &RULES, NOW + 45), Ok(()));
    // From then on it is as it was, also after another reload.
    let same = after.at(urls()).serving(window("idp", 90), at(NOW + 50));
    assert_eq!(one(&same, &fresh, &RULES, NOW + 51), Err(Replayed));
    let plain = claims()
        .set("iat", &(NOW + 80).to_string())
        .set("jti", "\"plain\"");
    assert_eq!(one(&same, &with(&plain), &RULES, NOW + 80), Ok(()));
}

#[test]
fn without_a_public_url_no_proof_passes() {
    let checker = ProofChecker::new(settings(&[], 1), at(NOW - 3600));
    let result = one(&checker, &with(&claims()), &RULES, NOW);
    assert_eq!(result, Err(NoPublicUrl));
}

#[test]
fn a_bound_token_counts_with_its_scheme_and_an_unbound_one_where_it_may() {
    let bound = Confirmation::Key(thumbprint(&KEYS.p256));
    let required = DpopRules {
        required: true,
        ..RULES
    };
    for rules in [RULES, required] {
        let demand = bound.demand(Scheme::Dpop, &rules).unwrap();
        assert_eq!(demand, Some(&thumbprint(&KEYS.p256)));
        let plain = bound.demand(Scheme::Bearer, &rules);
        assert_eq!(plain, Err(AuthError::BoundKey));
        let unbound = Confirmation::None.demand(Scheme::Dpop, &rules);
        assert_eq!(unbound, Err(AuthError::NotBound));
    }
    let none = Confirmation::None;
    assert_eq!(none.demand(Scheme::Bearer, &RULES), Ok(None));
    let refused = none.demand(Scheme::Bearer, &required);
    assert_eq!(refused, Err(AuthError::NotBound));
}

#[test]
fn a_confirmation_that_cannot_be_checked_is_never_none() {
    let read = |claims: &Members| {
        let json = claims.json();
        let object = Object::parse(json.as_bytes()).unwrap();
        Claims::read(&object, &hs_issuer()).map(|claims| claims.confirmation)
    };
    let jkt = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";
    let bound = format!(r#"{{"jkt":"{jkt}"}}"#);
    let key = Thumbprint::parse(jkt).unwrap();
    let good = Members::good(HS);
    assert_eq!(read(&good), Ok(Confirmation::None));
    let set = |raw: &str| read(&good.clone().set("cnf", raw));
    assert_eq!(set(&bound), Ok(Confirmation::Key(key)));
    for raw in [
        "null",
        "true",
        "1",
        "[]",
        "{}",
        &format!("\"{jkt}\""),
        &format!("[{bound}]"),
        &format!(r#"{{"x5t#S256":"{jkt}"}}"#),
        &format!(r#"{{"jkt":"{jkt}","x5t#S256":"{jkt}"}}"#),
        &format!(r#"{{"jkt":"{jkt}","more":null}}"#),
        &format!(r#"{{"JKT":"{jkt}"}}"#),
        r#"{"jwk":{"kty":"EC"}}"#,
        r#"{"kid":"one"}"#,
        r#"{"jku":"https://idp.example/"}"#,
        r#"{"jkt":null}"#,
        r#"{"jkt":""}"#,
        r#"{"jkt":1}"#,
        &format!(r#"{{"jkt":["{jkt}"]}}"#),
        &format!(r#"{{"jkt":"{jkt}="}}"#),
        &format!(r#"{{"jkt":"{}"}}"#, &jkt[..42]),
        &format!(r#"{{"jkt":"{jkt}AA"}}"#),
    ] {
        assert_eq!(set(raw), Err(AuthError::UncheckedConfirmation), "{raw}");
    }
}

#[test]
fn the_scheme_says_how_a_token_is_presented() {
    let scheme = |value: &str| {
        let headers = headers(&[value.as_bytes()]);
        AccessToken::from_headers(&headers).map(AccessToken::scheme)
    };
    for (value, expected) in [
        ("Bearer a.b.c", Ok(Scheme::Bearer)),
        ("bEaReR a.b.c", Ok(Scheme::Bearer)),
        ("DPoP a.b.c", Ok(Scheme::Dpop)),
        ("dpop a.b.c", Ok(Scheme::Dpop)),
        ("DPOP a.b.c", Ok(Scheme::Dpop)),
        ("DPoP  a.b.c", Err(AuthError::MalformedToken)),
        ("DPoP a.b.c, Bearer a.b.c", Err(AuthError::MalformedToken)),
        ("DPoP ", Err(AuthError::MalformedToken)),
        ("DPoP", Err(AuthError::NotBearer)),
        ("DPoP\ta.b.c", Err(AuthError::NotBearer)),
        ("DPoPa.b.c", Err(AuthError::NotBearer)),
        ("DPo", Err(AuthError::NotBearer)),
        ("Basic a.b.c", Err(AuthError::NotBearer)),
    ] {
        assert_eq!(scheme(value), expected, "{value}");
    }
    let long = format!("DPoP {}", "a".repeat(8 * 1024 + 1));
    assert_eq!(scheme(&long), Err(AuthError::TooLong));
    let both = headers(&[b"Bearer a.b.c", b"DPoP a.b.c"]);
    let both = AccessToken::from_headers(&both).map(AccessToken::scheme);
    assert_eq!(both, Err(AuthError::DoubledHeader));
}

#[test]
fn nothing_of_a_key_or_a_proof_is_printed() {
    let settings = settings(&["https://gateway.example"], b'c');
    let printed = format!("{settings:?} {:?}", thumbprint(&KEYS.p256));
    assert!(!printed.contains("99, 99") && !printed.contains(&format!("{:?}", [b'c'; 2])));
    assert!(printed.ends_with("[redacted]"), "{printed}");
    let checker = ProofChecker::new(settings, now());
    assert!(format!("{checker:?}").contains("gateway.example"));
}

proptest! {
    #[test]
    fn random_bytes_are_no_proof(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(value) = HeaderValue::from_bytes(&bytes) {
            let headers = proof_headers(&[value.as_bytes()]);
            prop_assert!(judge(&checker(), &headers, &KEYS.p256, &RULES, now()).is_err());
        }
    }

    #[test]
    fn random_parts_are_no_proof(parts in proptest::collection::vec(".{0,80}", 3)) {
        let proof = parts.iter().map(b64).collect::<Vec<_>>().join(".");
        prop_assert!(one(&checker(), &proof, &RULES, NOW).is_err());
    }

    #[test]
    fn a_proof_with_any_one_byte_changed_is_none(place in any::<prop::sample::Index>(), byte: u8) {
        let proof = with(&claims());
        let mut changed = proof.clone().into_bytes();
        let place = place.index(changed.len());
        prop_assume!(changed[place] != byte);
        changed[place] = byte;
        if let Ok(value) = HeaderValue::from_bytes(&changed) {
            let headers = proof_headers(&[value.as_bytes()]);
            prop_assert!(judge(&checker(), &headers, &KEYS.p256, &RULES, now()).is_err());
        }
    }
}
