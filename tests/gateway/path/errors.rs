//! Every error that a request can end with: its status, code, headers and document.

use std::collections::BTreeSet;

use dcams_gateway::{
    error::ErrorCode,
    operation::Operation,
    simulator::fault::{DocumentedError, Fault, FaultKind},
};
use serde_json::{Value, json};

use super::{Attempt, tokens::expired};
use crate::{
    support::{Answer, PATH, World, customer, lookup},
    wire::{Wire, head, tenant},
};

const MISSING: &str = r#"Bearer realm="dcams-gateway""#;
const INVALID: &str = r#"Bearer realm="dcams-gateway", error="invalid_token""#;
const EXPIRED: &str =
    r#"Bearer realm="dcams-gateway", error="invalid_token", error_description="expired""#;
const SCOPE: &str =
    r#"Bearer realm="dcams-gateway", error="insufficient_scope", scope="dcams:status:read""#;

/// Status, code, and the one header that goes with it.
type Row = (u16, &'static str, Option<(&'static str, &'static str)>);

/// CONTRACT.md, section 2, as far as this version has it.
const TABLE: &[Row] = &[
    (400, "bad_request", None),
    (400, "duplicate_member", None),
    (400, "invalid_payload", None),
    (400, "malformed_json", None),
    (400, "unknown_service", None),
    (401, "expired_token", Some(("www-authenticate", EXPIRED))),
    (401, "invalid_token", Some(("www-authenticate", INVALID))),
    (401, "missing_token", Some(("www-authenticate", MISSING))),
    (403, "address_not_allowed", None),
    (403, "customer_mismatch", None),
    (403, "insufficient_scope", Some(("www-authenticate", SCOPE))),
    (403, "service_not_allowed", None),
    (403, "tenant_disabled", None),
    (404, "customer_not_found", None),
    (404, "not_found", None),
    (405, "method_not_allowed", Some(("allow", "POST"))),
    (408, "request_timeout", None),
    (411, "length_required", None),
    (413, "payload_too_large", None),
    (415, "unsupported_media_type", None),
    (417, "expectation_failed", None),
    (431, "headers_too_large", None),
    (502, "upstream_credentials_rejected", None),
    (502, "upstream_malformed", None),
    (502, "upstream_unavailable", None),
    (503, "overloaded", Some(("retry-after", "1"))),
    (504, "upstream_timeout", None),
];

/// Checks an error against its row, and returns its document.
fn check(answer: &Answer, code: &str) -> Value {
    let (status, _, more) = TABLE.iter().find(|row| row.1 == code).unwrap();
    let document = answer.json();
    assert_eq!(answer.code(), code, "{document}");
    assert_eq!(answer.status, *status, "{code}");
    assert_eq!(document["status"], *status, "{code}");
    assert_eq!(
        document["type"],
        format!("urn:dcams-gateway:problem:{code}")
    );
    assert_eq!(document["result"], "Error");
    assert_eq!(
        answer.headers["x-request-id"],
        document["request_id"].as_str().unwrap()
    );
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    assert_eq!(answer.headers["cache-control"], "no-store");
    let mut members: Vec<&str> = document
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    members.retain(|name| *name != "errors");
    let expected = [
        "code",
        "detail",
        "message",
        "request_id",
        "result",
        "status",
        "title",
        "type",
    ];
    assert_eq!(members, expected, "{code}");
    for member in ["title", "detail", "message"] {
        assert!(
            document[member].as_str().unwrap().len() > 10,
            "{code}: {member}"
        );
    }
    for name in ["www-authenticate", "allow", "retry-after"] {
        let expected = more.filter(|(own, _)| *own == name).map(|(_, value)| value);
        let found = answer
            .headers
            .get(name)
            .map(|value| value.to_str().unwrap());
        assert_eq!(found, expected, "{code}: {name}");
    }
    document
}

/// A world in which every limit is near.
async fn narrow_world() -> World {
    let toml = tenant("closed", "services = [\"getStatus\"]\nenabled = false", "")
        + &tenant("other", r#"services = ["updateStatus"]"#, "")
        + &tenant(
            "elsewhere",
            "services = [\"getStatus\"]\nallow = [\"192.0.2.0/24\"]",
            "",
        );
    let variables = [
        ("LIMITS__MAX_BODY", "20KB"),
        ("LIMITS__BODY_MEMORY", "20KB"),
        ("LIMITS__BODY_WAIT", "0s"),
        ("SERVER__BODY_IDLE_TIMEOUT", "500ms"),
        ("UPSTREAM__TIMEOUT", "2s"),
        ("UPSTREAM__CONNECT_TIMEOUT", "2s"),
    ];
    World::with_other(&toml, &variables).await
}

/// Further lines of a head, and the code that each is refused with.
const LINES: [(&str, &str); 6] = [
    ("bad_request", "Authorization: Bearer second\r\n"),
    ("bad_request", "Content-Type: application/json\r\n"),
    ("bad_request", "Host: second.example\r\n"),
    ("expectation_failed", "Expect: 200-ok\r\n"),
    ("length_required", "Transfer-Encoding: chunked\r\n"),
    ("unsupported_media_type", "Content-Encoding: gzip\r\n"),
];

const BODIES: [(&str, &str); 4] = [
    ("duplicate_member", r#"{"service":"x","service":"x"}"#),
    ("invalid_payload", r#"{"service":"getStatus","target":{}}"#),
    ("malformed_json", "{"),
    ("unknown_service", r#"{"service":"deleteCustomer"}"#),
];

/// Requests that are refused before anything is asked of DCAMS.
fn refused(world: &World) -> Vec<(&'static str, Attempt)> {
    let get = Operation::GetStatus;
    let token = world.token(&[get]);
    let good = Attempt::new(&token, &lookup(get).to_string());
    let mut all = Vec::new();
    let mut spoil = |code, change: &dyn Fn(&mut Attempt)| {
        let mut attempt = good.clone();
        change(&mut attempt);
        all.push((code, attempt));
    };
    for (code, lines) in LINES {
        spoil(code, &|a| a.lines = lines);
    }
    for (code, body) in BODIES {
        spoil(code, &|a| *a = Attempt::new(&token, body));
    }
    let other = world.token_for(&[get], Some("x@y.example"));
    for (code, token) in [
        (
            "address_not_allowed",
            world.token_of("elsewhere", &[get], None),
        ),
        ("customer_mismatch", other),
        ("expired_token", expired()),
        (
            "insufficient_scope",
            world.token(&[Operation::UpdateStatus]),
        ),
        ("invalid_token", "a.b.c".to_owned()),
        ("service_not_allowed", world.token_of("other", &[get], None)),
        ("tenant_disabled", world.token_of("closed", &[get], None)),
    ] {
        spoil(code, &|a| a.token = Some(token.clone()));
    }
    spoil("missing_token", &|a| a.token = None);
    for (code, target) in [
        ("bad_request", format!("{PATH}?user=x")),
        ("headers_too_large", format!("/{}", "x".repeat(70_000))),
        ("not_found", format!("{PATH}/")),
    ] {
        spoil(code, &|a| a.target.clone_from(&target));
    }
    let long = format!("X-Long: {}\r\n", "x".repeat(17 * 1024)).leak();
    spoil("headers_too_large", &|a| a.lines = long);
    spoil("method_not_allowed", &|a| a.method = "DELETE");
    spoil("length_required", &|a| a.length = None);
    spoil("payload_too_large", &|a| a.length = Some(20_001));
    spoil("unsupported_media_type", &|a| a.media = "text/json");
    all
}

const INVALID_EMAIL: FaultKind = FaultKind::Error {
    error: DocumentedError::InvalidEmail,
};
const BAD_LOGIN: FaultKind = FaultKind::Error {
    error: DocumentedError::BadLogin,
};

#[tokio::test]
async fn every_code_is_answered_as_the_contract_says() {
    let world = narrow_world().await;
    let mut seen = BTreeSet::new();
    for (code, attempt) in refused(&world) {
        let document = check(&attempt.play(&world).await, code);
        assert_eq!(document["message"], document["detail"], "{code}");
        assert_eq!(document.get("errors").is_some(), code == "invalid_payload");
        seen.insert(code);
    }
    assert!(world.simulator.requests().is_empty());
    let body = lookup(Operation::GetStatus);
    for (code, fault, message) in [
        (
            "customer_not_found",
            None,
            "The email address was not found",
        ),
        (
            "invalid_payload",
            Some(INVALID_EMAIL),
            "The email address is invalid",
        ),
        ("upstream_credentials_rejected", Some(BAD_LOGIN), ""),
        ("upstream_malformed", Some(FaultKind::Malformed {}), ""),
        ("upstream_unavailable", Some(FaultKind::Close {}), ""),
        ("upstream_timeout", Some(FaultKind::Hang {}), ""),
    ] {
        if let Some(fault) = fault {
            world.simulator.add_fault(Fault::once(fault)).unwrap();
        }
        let document = check(&world.post(&world.full_token(), &body).await, code);
        if message.is_empty() {
            assert_eq!(document["message"], document["detail"], "{code}");
        } else {
            assert_eq!(document["message"], message, "{code}");
        }
        assert!(document.get("errors").is_none());
        seen.insert(code);
        if code == "upstream_credentials_rejected" {
            world.restore_credential().await;
        }
    }
    // The first holds all the memory there is, and then says nothing.
    let mut first = Wire::open(world.gateway).await;
    let expect = "Expect: 100-continue\r\n";
    first.send(head(&world.full_token(), 20_000, expect)).await;
    assert_eq!(first.answer().await.status, 100);
    check(&world.post(&world.full_token(), &body).await, "overloaded");
    check(&first.answer().await, "request_timeout");
    seen.extend(["overloaded", "request_timeout"]);
    let all: BTreeSet<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
    let unseen: Vec<_> = all.difference(&seen).collect();
    // A panic cannot be had from outside, and a target that hyper finds too long is longer than any
    // head may be. Proofs, a ledger, quotas, fetched keys, the cache and a full disk have tests of their own.
    let elsewhere = [
        "audit_unavailable",
        "customer_unavailable",
        "internal_error",
        "invalid_dpop_proof",
        "issuer_unavailable",
        "not_cached",
        "quota_exhausted",
        "rate_limited",
        "state_unavailable",
        "too_many_concurrent_requests",
        "uri_too_long",
        "use_dpop_nonce",
    ];
    assert_eq!(unseen, elsewhere.iter().collect::<Vec<_>>());
    assert_eq!(TABLE.len(), seen.len());
}

/// Members that break a rule each, and what is told of each.
fn spoilt() -> (Value, Vec<(&'static str, &'static str)>) {
    let mut body = customer();
    body["reference"] = "canary".repeat(30).into();
    body["extra"] = "canary-extra".into();
    let target = &mut body["target"];
    target["email"] = "canary at example.com".into();
    target["fn"] = "canary\u{7}".into();
    target["ln"] = "canary".repeat(50).into();
    target["addr"] = 471_147_114.into();
    target["state"] = "".into();
    target["zip"] = Value::Null;
    target["dob"] = "19701301".into();
    target["phone"] = json!(["canary"]);
    target["status"] = "canary".into();
    target["more"] = json!({"canary-name is no plain name": "canary"});
    target["documents"] = json!({"front": "canary!!", "back": {"a": "canary"}});
    target.as_object_mut().unwrap().remove("city");
    let told = vec![
        ("/extra", "unknown_member"),
        ("/reference", "length"),
        ("/target/addr", "wrong_type"),
        ("/target/city", "required"),
        ("/target/dob", "date_format"),
        ("/target/documents/back", "wrong_type"),
        ("/target/documents/front", "base64"),
        ("/target/email", "email_format"),
        ("/target/fn", "control_character"),
        ("/target/ln", "length"),
        ("/target/more", "unknown_member"),
        ("/target/phone", "wrong_type"),
        ("/target/state", "length"),
        ("/target/status", "not_allowed"),
        ("/target/zip", "wrong_type"),
    ];
    (body, told)
}

#[tokio::test]
async fn all_violations_are_told_at_once_and_no_value_is() {
    let world = World::start().await;
    let (body, expected) = spoilt();
    let answer = world.post(&world.full_token(), &body).await;
    let document = check(&answer, "invalid_payload");
    let errors = document["errors"].as_array().unwrap();
    let text = |error: &Value, name: &str| error[name].as_str().unwrap().to_owned();
    let mut told: Vec<_> = errors
        .iter()
        .map(|error| (text(error, "pointer"), text(error, "code")))
        .collect();
    told.sort();
    let told: Vec<_> = told.iter().map(|(p, c)| (p.as_str(), c.as_str())).collect();
    assert_eq!(told, expected);
    for error in errors {
        assert_eq!(error.as_object().unwrap().len(), 3, "{error}");
        assert!(text(error, "message").starts_with("expected "), "{error}");
    }
    assert_eq!(document["message"], "15 fields are invalid");
    let shown = format!("{answer:?}");
    for value in ["canary", "471147114", "19701301"] {
        assert!(!shown.contains(value), "{shown}");
    }
    assert!(world.simulator.requests().is_empty());
}

#[tokio::test]
async fn an_error_repeats_nothing_that_the_client_wrote() {
    let world = World::start().await;
    let good = Attempt::new(
        &world.full_token(),
        &lookup(Operation::GetStatus).to_string(),
    );
    for attempt in [
        Attempt {
            target: "/canary".to_owned(),
            ..good.clone()
        },
        Attempt {
            target: format!("{PATH}?canary=canary"),
            ..good.clone()
        },
        Attempt {
            method: "CANARY",
            ..good.clone()
        },
        Attempt {
            media: "canary/canary",
            ..good.clone()
        },
        Attempt {
            lines: "Expect: canary\r\n",
            ..good.clone()
        },
        Attempt {
            lines: "X-Request-Id: canary\r\nHost: canary\r\n",
            ..good.clone()
        },
        Attempt {
            token: Some("canary.canary.canary".to_owned()),
            ..good.clone()
        },
        Attempt::new(&world.full_token(), "canary"),
        Attempt::new(&world.full_token(), r#"{"service":"canary"}"#),
        Attempt::new(&world.full_token(), r#"{"a canary":1,"a canary":2}"#),
        Attempt::new(
            &world.full_token(),
            r#"{"service":"getStatus","target":{"email":"canary"}}"#,
        ),
    ] {
        let answer = attempt.play(&world).await;
        let shown = format!("{answer:?}").to_ascii_lowercase();
        assert!(answer.status >= 400 && !shown.contains("canary"), "{shown}");
    }
}
