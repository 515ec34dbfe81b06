//! Tokens at the gateway's door: one answer for all forgeries, one place for a token, and what each
//! scope and binding opens.

use aws_lc_rs::hmac;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use dcams_gateway::{clock, operation::Operation};
use serde_json::{Value, json};

use super::Attempt;
use crate::{
    support::{EMAIL, PATH, World, customer, lookup},
    wire::tenant,
};

/// What `support.rs` writes into `issuer.key`.
const ISSUER_KEY: &str = "an-issuer-key-of-32-bytes-or-more";
const STRANGER: &str = "a-key-that-nobody-has-configured";

/// A token signed with HS256, whatever its header says.
fn sign(header: &Value, claims: &Value, key: &str) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    let signature = BASE64_URL_SAFE_NO_PAD.encode(hmac::sign(&key, message.as_bytes()));
    format!("{message}.{signature}")
}

fn header() -> Value {
    json!({"alg": "HS256", "typ": "JWT"})
}

fn claims() -> Value {
    let now = clock::now().as_second();
    json!({
        "iss": "https://idp.demo.example/", "aud": "dcams-gateway", "tenant": "demo",
        "exp": now + 600, "iat": now, "scope": "dcams:status:read",
    })
}

/// A token that was good once.
pub fn expired() -> String {
    let mut claims = claims();
    let now = clock::now().as_second();
    (claims["iat"], claims["exp"]) = ((now - 660).into(), (now - 60).into());
    sign(&header(), &claims, ISSUER_KEY)
}

/// Tokens that are not valid, by what is wrong with them.
fn forgeries() -> Vec<(&'static str, String)> {
    let good = sign(&header(), &claims(), ISSUER_KEY);
    let (message, signature) = good.rsplit_once('.').unwrap();
    let of_header = |name: &str, value: Value| {
        let mut header = header();
        header[name] = value;
        sign(&header, &claims(), ISSUER_KEY)
    };
    let of_claims = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        sign(&header(), &claims, ISSUER_KEY)
    };
    let mut late = claims();
    (late["iat"], late["exp"]) = (1.into(), 2.into());
    let flipped = if signature.starts_with('A') { "B" } else { "A" };
    let now = clock::now().as_second();
    let none = of_header("alg", "none".into());
    let unsigned = none[..=none.rfind('.').unwrap()].to_owned();
    let another = format!("{message}.{flipped}{}", &signature[1..]);
    let elsewhere = "https://idp.evil.example/";
    vec![
        ("no parts", "x".to_owned()),
        ("two parts", message.to_owned()),
        ("four parts", format!("{good}.AA")),
        ("no signature", format!("{message}.")),
        ("a short signature", good[..good.len() - 4].to_owned()),
        ("another signature", another),
        ("another key", sign(&header(), &claims(), STRANGER)),
        ("expired, and another key", sign(&header(), &late, STRANGER)),
        ("alg none", none),
        ("alg none, unsigned", unsigned),
        ("another HMAC", of_header("alg", "HS512".into())),
        ("another family", of_header("alg", "RS256".into())),
        ("a critical extension", of_header("crit", json!(["exp"]))),
        ("another type", of_header("typ", "dpop+jwt".into())),
        ("an unencoded payload", of_header("b64", false.into())),
        ("a number for a key id", of_header("kid", 7.into())),
        ("another issuer", of_claims("iss", elsewhere.into())),
        ("another audience", of_claims("aud", json!(["other"]))),
        ("a foreign tenant", of_claims("tenant", "acme".into())),
        ("no tenant", of_claims("tenant", Value::Null)),
        ("not yet valid", of_claims("nbf", (now + 600).into())),
        ("issued tomorrow", of_claims("iat", (now + 86_400).into())),
        ("for ever", of_claims("exp", (now + 100_000_000).into())),
        ("an expiry in words", of_claims("exp", "never".into())),
        ("over 8 KiB", of_claims("pad", "x".repeat(7000).into())),
    ]
}

#[tokio::test]
async fn all_forgeries_get_one_answer_and_an_expired_token_another() {
    let world = World::start().await;
    let body = lookup(Operation::GetStatus).to_string();
    let control = Attempt::new(&sign(&header(), &claims(), ISSUER_KEY), &body);
    assert_eq!(control.play(&world).await.code(), "customer_not_found");
    world.simulator.clear_requests();
    let mut first = None;
    for (name, token) in forgeries() {
        let answer = Attempt::new(&token, &body).play(&world).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (401, "invalid_token"),
            "{name}"
        );
        let id = answer.headers["x-request-id"].to_str().unwrap();
        let text = answer.text.replace(id, "");
        let mut headers = answer.headers.clone();
        headers.remove("x-request-id");
        headers.remove("date");
        let expected = first.get_or_insert_with(|| (text.clone(), headers.clone()));
        assert_eq!((&text, &headers), (&expected.0, &expected.1), "{name}");
    }
    for token in [expired(), expired() + "x"] {
        let answer = Attempt::new(&token, &body).play(&world).await;
        let code = if token.ends_with('x') {
            "invalid_token"
        } else {
            "expired_token"
        };
        assert_eq!((answer.status, answer.code().as_str()), (401, code));
    }
    assert!(world.simulator.requests().is_empty());
}

/// Header lines with a good token (`%`) in them, and what becomes of each.
const LINES: [(&str, &str); 11] = [
    ("missing_token", "Cookie: access_token=%; Authorization=%"),
    ("missing_token", "Proxy-Authorization: Bearer %"),
    ("missing_token", "X-Authorization: Bearer %"),
    ("invalid_token", "Authorization: %"),
    ("invalid_token", "Authorization: Basic %"),
    ("invalid_token", "Authorization: Bearer  %"),
    ("invalid_token", "Authorization: Bearer\t%"),
    ("invalid_token", "Authorization: Bearer %, Bearer %"),
    ("invalid_token", "Authorization: Bearer \"%\""),
    (
        "bad_request",
        "Authorization: Bearer %\r\nAuthorization: Bearer %",
    ),
    ("customer_not_found", "authorization: bEARER %"),
];

#[tokio::test]
async fn a_token_counts_in_the_one_header_and_nowhere_else() {
    let world = World::start().await;
    let token = world.full_token();
    let body = lookup(Operation::GetStatus);
    let mut inside = body.clone();
    inside["access_token"] = token.as_str().into();
    let bare = |body: &Value| Attempt {
        token: None,
        ..Attempt::new("", &body.to_string())
    };
    let mut attempts = vec![
        ("missing_token", bare(&inside)),
        ("bad_request", bare(&body)),
    ];
    attempts[1].1.target = format!("{PATH}?access_token={token}");
    for (code, line) in LINES {
        let mut attempt = bare(&body);
        attempt.lines = (line.replace('%', &token) + "\r\n").leak();
        attempts.push((code, attempt));
    }
    for (code, attempt) in attempts {
        let answer = attempt.play(&world).await;
        assert_eq!(answer.code(), code, "{}{}", attempt.target, attempt.lines);
        assert!(!answer.text.contains(&token));
    }
    assert_eq!(world.simulator.requests().len(), 1);
}

#[tokio::test]
async fn a_service_is_open_to_its_own_scope_alone() {
    let world = World::start().await;
    world.post(&world.full_token(), &customer()).await;
    world.simulator.clear_requests();
    let odd = "dcams:customers dcams:STATUS:read dcams:images:read:x dcams:* dcams:status:write,";
    let mut odd_claims = claims();
    odd_claims["scope"] = odd.into();
    let mut tokens: Vec<_> = Operation::ALL.map(|o| (Some(o), world.token(&[o]))).into();
    tokens.push((None, world.token(&[])));
    tokens.push((None, sign(&header(), &odd_claims, ISSUER_KEY)));
    for service in Operation::ALL {
        for (scope, token) in &tokens {
            // Without images: who may not create customers may not send so much.
            let mut body = lookup(service);
            body["target"].as_object_mut().unwrap().remove("documents");
            let answer = world.post(token, &body).await;
            if *scope == Some(service) {
                assert_eq!(answer.status, 200, "{service}");
                continue;
            }
            let expected = (403, "insufficient_scope".to_owned());
            assert_eq!(
                (answer.status, answer.code()),
                expected,
                "{service} {scope:?}"
            );
            let challenge = answer.headers["www-authenticate"].to_str().unwrap();
            assert!(
                challenge.ends_with(&format!(r#"scope="{}""#, service.scope())),
                "{challenge}"
            );
            assert!(
                answer.json()["detail"]
                    .as_str()
                    .unwrap()
                    .contains(service.scope())
            );
        }
    }
    assert_eq!(world.simulator.requests().len(), 4);
}

#[tokio::test]
async fn a_tenant_is_served_what_it_was_granted() {
    let toml = tenant("other", r#"services = ["getStatus"]"#, "")
        + &tenant("closed", "services = [\"getStatus\"]\nenabled = false", "");
    let world = World::with_other(&toml, &[]).await;
    let narrow = world.token_of("other", &Operation::ALL, None);
    let closed = world.token_of("closed", &Operation::ALL, None);
    for service in Operation::ALL {
        let expected = if service == Operation::GetStatus {
            (404, "customer_not_found")
        } else {
            (403, "service_not_allowed")
        };
        let answer = world.post(&narrow, &lookup(service)).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            expected,
            "{service}"
        );
        let answer = world.post(&closed, &lookup(service)).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (403, "tenant_disabled")
        );
    }
    assert_eq!(world.simulator.requests().len(), 1);
}

#[tokio::test]
async fn a_customers_token_changes_no_status_and_shows_no_image_unless_its_issuer_may() {
    let all = r#"services = ["createOrUpdateCustomer", "getStatus", "getDocumentImages", "updateStatus"]"#;
    let issuer = r#"customer_services = ["updateStatus"]"#;
    let world = World::with_other(&tenant("other", all, issuer), &[]).await;
    for tenant in ["demo", "other"] {
        let token = world.token_of(tenant, &Operation::ALL, Some(EMAIL));
        for service in [
            Operation::CreateOrUpdateCustomer,
            Operation::GetStatus,
            Operation::UpdateStatus,
            Operation::GetDocumentImages,
        ] {
            let allowed = match service {
                Operation::CreateOrUpdateCustomer | Operation::GetStatus => true,
                Operation::UpdateStatus => tenant == "other",
                Operation::GetDocumentImages => false,
            };
            let answer = world.post(&token, &lookup(service)).await;
            if allowed {
                assert_eq!(answer.status, 200, "{tenant} {service}: {}", answer.text);
            } else {
                assert_eq!(answer.code(), "service_not_allowed", "{tenant} {service}");
            }
        }
    }
    assert_eq!(world.simulator.requests().len(), 5);
}

#[tokio::test]
async fn a_customers_token_is_for_that_address_letter_by_letter() {
    let world = World::start().await;
    let token = world.token_for(&Operation::ALL, Some(EMAIL));
    for other in [
        "Jane.specimen@example.com",
        "jane.specimen@EXAMPLE.com",
        "janespecimen@example.com",
        "jane.specimen+tag@example.com",
        "jane.specimen@example.com.example",
        "\"jane.specimen\"@example.com",
        "jane.specimen@example.co",
    ] {
        for service in [Operation::CreateOrUpdateCustomer, Operation::GetStatus] {
            let mut body = lookup(service);
            body["target"]["email"] = other.into();
            let answer = world.post(&token, &body).await;
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (403, "customer_mismatch"),
                "{other}"
            );
        }
    }
    assert!(world.simulator.requests().is_empty());
    let answer = world.post(&token, &lookup(Operation::GetStatus)).await;
    assert_eq!(answer.code(), "customer_not_found");
}
