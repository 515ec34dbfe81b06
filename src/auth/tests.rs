//! Tokens, good and forged. All keys are made when the tests run.

mod bad_tokens;
mod cache;
mod matrix;
mod minting;
mod proofs;

use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::FutureExt;
use http::{HeaderMap, Request, header::AUTHORIZATION};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, jwk::Jwk};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, RsaKeySize};
use serde_json::Value as Json;

use super::{
    dpop::{DpopSettings, NonceKey},
    keys::KeySet,
    *,
};
use crate::operation::Operation;

const NOW: i64 = 1_800_000_000;
pub(super) const HS: &str = "https://hs.example/";
const ES: &str = "https://es.example/";
const RS: &str = "https://rs.example/";

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

/// A caller as verification would make it, for the tests of what comes after.
pub(super) fn caller(scopes: &[Operation], customer: Option<&str>) -> Caller {
    let mut claims = Members::good(HS)
        .set("tenant", r#""acme""#)
        .remove("customer_email");
    if let Some(email) = customer {
        claims = claims.set("customer_email", &format!("\"{email}\""));
    }
    caller_of(&claims, scopes, hs_issuer())
}

/// A caller with these claims of this issuer.
pub(super) fn caller_of(claims: &Members, scopes: &[Operation], issuer: IssuerSettings) -> Caller {
    let issuer = &Arc::new(issuer);
    let claims = claims.json();
    let object = Object::parse(claims.as_bytes()).unwrap();
    let mut caller = Caller::new(Claims::read(&object, issuer).unwrap(), issuer, [None; 2], 0);
    caller.operations = scopes.iter().copied().collect();
    caller
}

/// Every kind of key, made once for all tests.
struct Keys {
    secret: Vec<u8>,
    p256: KeyPair,
    other_p256: KeyPair,
    p384: KeyPair,
    ed25519: KeyPair,
    rsa: KeyPair,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    install_crypto();
    let mut secret = vec![0; 64];
    aws_lc_rs::rand::fill(&mut secret).unwrap();
    Keys {
        secret,
        p256: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
        other_p256: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
        p384: KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap(),
        ed25519: KeyPair::generate_for(&PKCS_ED25519).unwrap(),
        rsa: KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap(),
    }
});

impl Keys {
    fn hmac(&self) -> EncodingKey {
        EncodingKey::from_secret(&self.secret)
    }
}

fn ec(pair: &KeyPair) -> EncodingKey {
    EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap()
}

/// The public half as a JWK without `alg`.
fn jwk(pair: &KeyPair, kid: Option<&str>) -> Json {
    let pem = pair.public_key_pem();
    let key = if pair.is_compatible(&PKCS_ED25519) {
        DecodingKey::from_ed_pem(pem.as_bytes())
    } else if pair.is_compatible(&rcgen::PKCS_RSA_SHA256) {
        DecodingKey::from_rsa_pem(pem.as_bytes())
    } else {
        DecodingKey::from_ec_pem(pem.as_bytes())
    };
    let mut jwk =
        serde_json::to_value(Jwk::from_decoding_key(&key.unwrap(), None).unwrap()).unwrap();
    if let Some(kid) = kid {
        jwk["kid"] = kid.into();
    }
    jwk
}

fn jwks(keys: &[Json]) -> Vec<u8> {
    serde_json::json!({ "keys": keys }).to_string().into_bytes()
}

fn customer_services() -> Operations {
    Operation::ALL
        .into_iter()
        .filter(|o| o.allowed_to_customers())
        .collect()
}

fn issuer(id: &str, iss: &str, keys: KeySet, tenants: &[&str]) -> IssuerSettings {
    IssuerSettings {
        id: IssuerId::try_from(id).unwrap(),
        issuer: iss.to_owned(),
        audiences: vec!["dcams-gateway".to_owned(), "urn:gateway".to_owned()],
        keys: KeySource::Fixed(keys),
        tenants: tenants
            .iter()
            .map(|tenant| TenantId::try_from(*tenant).unwrap())
            .collect(),
        tenant_claim: "tenant".to_owned(),
        customer_claim: "customer_email".to_owned(),
        leeway: Duration::from_secs(30),
        max_ttl: Duration::from_hours(1),
        types: vec!["JWT".to_owned(), "at+jwt".to_owned()],
        customer_services: customer_services(),
        bind: Vec::new(),
        dpop: DpopRules {
            required: false,
            max_age: Duration::from_mins(1),
            nonce: false,
        },
    }
}

pub(super) fn hs_issuer() -> IssuerSettings {
    let keys = KeySet::from_secret(&[Algorithm::HS256], &KEYS.secret).unwrap();
    issuer("hs", HS, keys, &["acme", "initech"])
}

/// Two ES256 keys in a key set, `one` and `two`.
fn es_issuer() -> IssuerSettings {
    let set = jwks(&[
        jwk(&KEYS.p256, Some("one")),
        jwk(&KEYS.other_p256, Some("two")),
    ]);
    let keys = KeySet::from_jwks(&[Algorithm::ES256], &set).unwrap();
    issuer("es", ES, keys, &["globex"])
}

/// One RS256 key, under the same `kid` as a key of the other issuer.
fn rs_issuer() -> IssuerSettings {
    let set = jwks(&[jwk(&KEYS.rsa, Some("one"))]);
    let keys = KeySet::from_jwks(&[Algorithm::RS256], &set).unwrap();
    issuer("rs", RS, keys, &["umbrella"])
}

fn authenticator() -> Authenticator {
    of_issuers(vec![hs_issuer(), es_issuer(), rs_issuer()])
}

fn of_issuers(issuers: Vec<IssuerSettings>) -> Authenticator {
    let proofs = DpopSettings {
        public_urls: Vec::new(),
        nonces: NonceKey::derive(&[7; 32]),
    };
    let proofs = ProofChecker::new(proofs, now());
    Authenticator::new(issuers, RevocationList::default(), proofs)
}

impl Authenticator {
    /// Who sent these headers; nothing has to be waited for.
    fn judge(&self, headers: &HeaderMap, now: Timestamp) -> Result<Arc<Caller>, AuthError> {
        let mut request = Request::post("/v3/stable/api/storage").body(()).unwrap();
        *request.headers_mut() = headers.clone();
        let (parts, ()) = request.into_parts();
        self.authenticate(&parts, now).now_or_never().unwrap()
    }
}

/// A JSON object as a list of raw members, so that a test can write what no serializer would.
#[derive(Clone)]
pub(super) struct Members(Vec<(String, String)>);

impl Members {
    /// Claims that pass, for each of the three issuers.
    pub(super) fn good(iss: &str) -> Self {
        let tenant = match iss {
            ES => "globex",
            RS => "umbrella",
            _ => "acme",
        };
        Self(vec![])
            .set("iss", &format!("\"{iss}\""))
            .set("aud", r#""dcams-gateway""#)
            .set("exp", &(NOW + 600).to_string())
            .set("tenant", &format!("\"{tenant}\""))
            .set("scope", r#""openid dcams:status:read""#)
    }

    fn header(alg: &str) -> Self {
        Self(vec![]).set("alg", &format!("\"{alg}\""))
    }

    pub(super) fn set(self, name: &str, raw: &str) -> Self {
        self.remove(name).add(name, raw)
    }

    fn add(mut self, name: &str, raw: &str) -> Self {
        self.0.push((name.to_owned(), raw.to_owned()));
        self
    }

    fn remove(mut self, name: &str) -> Self {
        self.0.retain(|(member, _)| member != name);
        self
    }

    pub(super) fn json(&self) -> String {
        let members: Vec<String> = self
            .0
            .iter()
            .map(|(name, raw)| format!("\"{name}\":{raw}"))
            .collect();
        format!("{{{}}}", members.join(","))
    }
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn sign(
    header: impl AsRef<[u8]>,
    claims: impl AsRef<[u8]>,
    key: &EncodingKey,
    algorithm: Algorithm,
) -> String {
    let message = format!("{}.{}", b64(header), b64(claims));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

/// A token of the HMAC issuer with this header and these claims, rightly signed.
fn hs(header: &Members, claims: &Members) -> String {
    sign(header.json(), claims.json(), &KEYS.hmac(), Algorithm::HS256)
}

fn hs_claims(claims: &Members) -> String {
    hs(&Members::header("HS256"), claims)
}

fn good() -> String {
    hs_claims(&Members::good(HS))
}

fn bearer(token: &str) -> HeaderMap {
    headers(&[format!("Bearer {token}").as_bytes()])
}

fn headers(authorizations: &[&[u8]]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for value in authorizations {
        headers.append(AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
    }
    headers
}

#[test]
fn a_good_token_makes_a_caller_of_what_it_says() {
    let claims = Members::good(HS)
        .set("aud", r#"["other","urn:gateway"]"#)
        .set("sub", r#""user-7""#)
        .set("nbf", &NOW.to_string())
        .set("iat", &NOW.to_string())
        .set("jti", r#""x""#)
        .set("email", r#"{"any":["thing",null,1.5]}"#)
        .set("customer_email", r#""ann@example.com""#);
    let caller = authenticator()
        .judge(&bearer(&hs_claims(&claims)), now())
        .unwrap();
    assert_eq!(caller.tenant().as_str(), "acme");
    assert_eq!(caller.issuer().as_str(), "hs");
    assert_eq!(caller.subject(), Some("user-7"));
    assert_eq!(caller.customer(), Some("ann@example.com"));
    assert_eq!(
        caller.operations().iter().collect::<Vec<_>>(),
        [Operation::GetStatus]
    );
    assert_eq!(caller.customer_services(), customer_services());
    assert_eq!(caller.expires().as_second(), NOW + 600);
}

#[test]
fn what_prints_shows_no_token_person_or_key() {
    let claims = Members::good(HS)
        .set("sub", r#""canary-subject""#)
        .set("customer_email", r#""canary-customer""#);
    let (token, authenticator) = (hs_claims(&claims), authenticator());
    let headers = bearer(&token);
    let caller = authenticator.judge(&headers, now()).unwrap();
    let key = keys::SigningKey::from_secret(Algorithm::HS256, &[b'c'; 64]).unwrap();
    let printed = format!(
        "{:?} {caller:?} {authenticator:?} {key:?} {:?}",
        AccessToken::from_headers(&headers).unwrap(),
        issuer(
            "hs",
            HS,
            KeySet::from_secret(&[Algorithm::HS256], &[b'c'; 64]).unwrap(),
            &["acme"]
        ),
    );
    for canary in ["canary", "cccc", "99, 99", &token] {
        assert!(!printed.contains(canary), "{canary} in {printed}");
    }
    assert!(printed.contains("Caller { tenant: acme, issuer: hs, operations: {GetStatus}, .. }"));
}

#[test]
fn the_scopes_are_read_from_scope_or_scp() {
    let of = |claims: Members| {
        let headers = bearer(&hs_claims(&claims));
        let caller = authenticator().judge(&headers, now());
        caller.map(|c| {
            c.operations()
                .iter()
                .map(Operation::name)
                .collect::<Vec<_>>()
        })
    };
    let none = Members::good(HS).remove("scope");
    assert_eq!(of(none.clone()), Ok(vec![]));
    assert_eq!(of(none.clone().set("scope", r#""""#)), Ok(vec![]));
    assert_eq!(
        of(none
            .clone()
            .set("scope", r#""dcams:status:write  dcams:images:read""#)),
        Ok(vec!["getDocumentImages", "updateStatus"])
    );
    for nothing in [
        r#""dcams:status""#,
        r#""DCAMS:STATUS:READ""#,
        r#""dcams:status:readx""#,
        r#""dcams:status:read,dcams:status:write""#,
        r#""dcams:status:read\tdcams:status:write""#,
        r#""dcams:*""#,
    ] {
        assert_eq!(of(none.clone().set("scope", nothing)), Ok(vec![]));
    }
    let scp = none.clone().set("scp", r#"["dcams:customers:write","x"]"#);
    assert_eq!(of(scp.clone()), Ok(vec!["createOrUpdateCustomer"]));
    // Both may stand as long as they agree.
    assert_eq!(
        of(scp.clone().set("scope", r#""dcams:customers:write""#)),
        Ok(vec!["createOrUpdateCustomer"])
    );
    assert_eq!(
        of(scp.set("scope", r#""dcams:status:read""#)),
        Err(AuthError::InvalidClaim)
    );
}

#[test]
fn every_reason_is_a_word_of_its_own() {
    let reasons = [
        AuthError::BadSignature,
        AuthError::BoundKey,
        AuthError::DoubledHeader,
        AuthError::Expired,
        AuthError::ForeignTenant,
        AuthError::InvalidClaim,
        AuthError::KeysUnavailable,
        AuthError::IssuedInFuture,
        AuthError::LivesTooLong,
        AuthError::MalformedHeader,
        AuthError::MalformedToken,
        AuthError::Missing,
        AuthError::NotBearer,
        AuthError::NotBound,
        AuthError::NotYetValid,
        AuthError::RefusedAlgorithm,
        AuthError::RefusedHeader,
        AuthError::RefusedType,
        AuthError::Revoked,
        AuthError::TooLong,
        AuthError::UncheckedConfirmation,
        AuthError::UnknownIssuer,
        AuthError::UnknownKey,
        AuthError::WrongAudience,
    ];
    let proofs = proofs::ERRORS.map(AuthError::Proof);
    let reasons = [reasons.as_slice(), &proofs].concat();
    let words: std::collections::HashSet<&str> =
        reasons.iter().map(|reason| reason.reason()).collect();
    assert_eq!(words.len(), reasons.len());
    // What an operator reads in the log is explained.
    let explained = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/REASONS.md"));
    for word in words {
        assert!(explained.contains(&format!("`{word}`")), "{word}");
    }
}
