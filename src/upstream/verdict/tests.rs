use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use Operation::{CreateOrUpdateCustomer, GetDocumentImages, GetStatus, UpdateStatus};

const USER: &str = "gateway-user";
const PASS: &str = "s3cretPassw0rd";

fn echo() -> EchoGuard {
    EchoGuard::of(USER, PASS)
}

fn reply(status: u16, body: impl AsRef<[u8]>) -> UpstreamReply {
    let frames = body
        .as_ref()
        .chunks(997)
        .map(bytes::Bytes::copy_from_slice)
        .collect();
    UpstreamReply::new(StatusCode::from_u16(status).unwrap(), frames)
}

fn judge(status: u16, body: impl AsRef<[u8]>, operation: Operation) -> Result<Answer, Refusal> {
    let reply = reply(status, body);
    interpret(&reply, operation, Disclosure::Full, &echo())
}

/// A verdict in a form that tests compare: its name, and its text or fault.
fn told(verdict: &Result<Answer, Refusal>) -> String {
    match verdict {
        Err(Refusal::CredentialsRejected) => "rejected".into(),
        Err(Refusal::Echo) => "echo".into(),
        Err(Refusal::Malformed(fault)) => format!("malformed {}", fault.reason()),
        Err(Refusal::NotFound { message }) => format!("not found: {}", message.as_str()),
        Err(Refusal::Refused { message }) => format!("refused: {}", message.as_str()),
        Ok(answer) => format!("success {}", answer.customer_status()),
        Err(Refusal::Unavailable { status }) => format!("unavailable {}", status.as_u16()),
    }
}

fn rendered(body: &Value, operation: Operation, disclosure: Disclosure) -> String {
    let reply = reply(200, body.to_string());
    let verdict = interpret(&reply, operation, disclosure, &echo());
    let Ok(answer) = verdict else {
        panic!("{}", told(&verdict));
    };
    let segments = answer.render();
    let bytes: Vec<u8> = segments.iter().flatten().copied().collect();
    assert_eq!(u64::try_from(bytes.len()).unwrap(), segments.len());
    String::from_utf8(bytes).unwrap()
}

fn person() -> Value {
    json!({"fn": "Ann", "ln": "O'Neil \"x\"", "addr": "1 Main St", "city": "Shelton", "state": "CT",
        "zip": "06614", "dob": "19700101", "email": "test@veratad.com", "phone": "2015106000"})
}

/// What the vendor documents for each service, as valid JSON.
fn sample(operation: Operation) -> Value {
    let mut body = json!({"result": "Success", "reference": "888888812", "target": person()});
    match operation {
        CreateOrUpdateCustomer => {
            body["status"] = "PASS".into();
            body["type"] = "updateCustomer".into();
            body["customer_link"] =
                "https://register.veratad.com/admin/customers.php?a=edit&id=7".into();
        }
        GetDocumentImages => {
            body["status"] = "PASS".into();
            body["target"]["documents"] = json!({"front": "/9j/4AAQ", "back": "iVBORw0K"});
        }
        GetStatus => body["status"] = "PASS".into(),
        UpdateStatus => body["target"]["status"] = "PASS".into(),
    }
    body
}

#[test]
fn every_documented_success_is_relayed_in_full_as_it_is() {
    for operation in Operation::ALL {
        let mut expected = sample(operation);
        expected["status"] = "PASS".into();
        let full = rendered(&sample(operation), operation, Disclosure::Full);
        assert_eq!(serde_json::from_str::<Value>(&full).unwrap(), expected);
    }
}

#[test]
fn fields_stand_in_the_vendors_order() {
    let full = rendered(
        &sample(CreateOrUpdateCustomer),
        CreateOrUpdateCustomer,
        Disclosure::Full,
    );
    let expected = concat!(
        r#"{"result":"Success","reference":"888888812","status":"PASS","type":"updateCustomer","#,
        r#""customer_link":"https://register.veratad.com/admin/customers.php?a=edit&id=7","#,
        r#""target":{"fn":"Ann","ln":"O'Neil \"x\"","addr":"1 Main St","city":"Shelton","#,
        r#""state":"CT","zip":"06614","dob":"19700101","email":"test@veratad.com","#,
        r#""phone":"2015106000"}}"#,
    );
    assert_eq!(full, expected);
}

#[test]
fn minimal_is_result_reference_status_type_message_and_images() {
    let head = r#"{"result":"Success","reference":"888888812","status":"PASS""#;
    for (operation, rest) in [
        (
            CreateOrUpdateCustomer,
            r#","type":"updateCustomer","message":"done"}"#,
        ),
        (
            GetDocumentImages,
            r#","message":"done","target":{"documents":{"front":"/9j/4AAQ","back":"iVBORw0K"}}}"#,
        ),
        (GetStatus, r#","message":"done"}"#),
        (UpdateStatus, r#","message":"done"}"#),
    ] {
        let mut body = sample(operation);
        body["message"] = "done".into();
        let minimal = rendered(&body, operation, Disclosure::Minimal);
        assert_eq!(minimal, format!("{head}{rest}"));
    }
}

#[test]
fn update_status_has_its_status_in_either_place_but_not_two() {
    for (top, inner, expected) in [
        (None, Some("FAIL"), "success FAIL"),
        (Some("PENDING"), None, "success PENDING"),
        (Some("FAIL"), Some("FAIL"), "success FAIL"),
        (Some("PASS"), Some("FAIL"), "malformed contradiction"),
        (None, None, "malformed unknown_status"),
        (None, Some("pass"), "malformed unknown_status"),
        (Some("DELETED"), Some("PASS"), "malformed unknown_status"),
    ] {
        let mut body = json!({"result": "Success", "reference": "1", "target": {"email": "a@b.c"}});
        if let Some(top) = top {
            body["status"] = top.into();
        }
        if let Some(inner) = inner {
            body["target"]["status"] = inner.into();
        }
        let verdict = judge(200, body.to_string(), UpdateStatus);
        assert_eq!(told(&verdict), expected, "{top:?} {inner:?}");
    }
    let body = json!({"result": "Success", "target": {"status": "PASS"}}).to_string();
    for operation in [CreateOrUpdateCustomer, GetDocumentImages, GetStatus] {
        let verdict = judge(200, &body, operation);
        assert_eq!(told(&verdict), "malformed unknown_status");
    }
}

#[test]
fn every_documented_error_is_understood_by_status_and_body() {
    let not_found = r#"{"result":"Error","message":"The email address was not found"}"#;
    let invalid = r#"{"result":"Error","message":"The email address is invalid"}"#;
    let missing = r#"{"result":"Error","message":"Missing a required input"}"#;
    let login = r#"{"result":"Error","message":"Either your username or password is incorrect"}"#;
    let other = r#"{"result":"Error","message":"Something else"}"#;
    let table = [
        (400, invalid, "refused: The email address is invalid"),
        (400, missing, "refused: Missing a required input"),
        (400, other, "refused: Something else"),
        (400, not_found, "refused: The email address was not found"),
        (404, not_found, "not found: The email address was not found"),
        (404, other, "not found: Something else"),
        (401, login, "rejected"),
        (401, other, "rejected"),
        (401, "<html>", "rejected"),
        (401, "", "rejected"),
        (200, login, "rejected"),
        (400, login, "rejected"),
        (403, login, "rejected"),
        (404, login, "rejected"),
        (500, login, "rejected"),
        (200, not_found, "not found: The email address was not found"),
        (200, invalid, "refused: The email address is invalid"),
        (200, missing, "refused: Missing a required input"),
        (200, other, "malformed unknown_error"),
    ];
    for operation in Operation::ALL {
        for (status, body, expected) in table {
            let verdict = judge(status, body, operation);
            assert_eq!(told(&verdict), expected, "{status} {body}");
        }
    }
}

#[test]
fn a_message_is_known_whatever_its_case_and_full_stop() {
    let body = r#"{"result":"Error","message":" EITHER your username or password is incorrect. "}"#;
    assert_eq!(told(&judge(200, body, GetStatus)), "rejected");
    let body = r#"{"message":"Either your username or password is incorrect"}"#;
    assert_eq!(told(&judge(403, body, GetStatus)), "rejected");
    let body = r#"{"result":"Success","status":"PASS","message":"Either your username or password is incorrect"}"#;
    assert_eq!(
        told(&judge(200, body, GetStatus)),
        "malformed contradiction"
    );
}

#[test]
fn a_status_that_is_not_documented_is_malformed_or_unavailable() {
    let good = sample(GetStatus).to_string();
    let error = r#"{"result":"Error","message":"No"}"#;
    for body in [good.as_str(), error] {
        for status in [
            101, 103, 201, 202, 204, 206, 300, 301, 302, 304, 307, 308, 402, 403, 405, 408, 409,
            413, 415, 422, 426, 451, 499,
        ] {
            let verdict = judge(status, body, GetStatus);
            assert_eq!(
                told(&verdict),
                "malformed unexpected_http_status",
                "{status}"
            );
        }
    }
    for body in [good.as_str(), error, "", "<html>", "{\"result\":7}"] {
        for status in [429, 500, 502, 503, 504, 529, 599] {
            let verdict = judge(status, body, GetStatus);
            assert_eq!(told(&verdict), format!("unavailable {status}"));
        }
    }
    for (status, body, fault) in [
        (400, good.as_str(), "contradiction"),
        (404, good.as_str(), "contradiction"),
        (404, "<html>404</html>", "not_json"),
        (404, "", "not_json"),
        (404, "{}", "unknown_result"),
        (400, r#"{"result":"Error"}"#, "unusable_message"),
    ] {
        let verdict = judge(status, body, GetStatus);
        assert_eq!(
            told(&verdict),
            format!("malformed {fault}"),
            "{status} {body}"
        );
    }
}

const FAULTS: &[(&str, &str)] = &[
    ("", "not_json"),
    ("null", "not_json"),
    ("[]", "not_json"),
    ("\"Success\"", "not_json"),
    ("<html><body>ok</body></html>", "not_json"),
    (
        "\u{feff}{\"result\":\"Success\",\"status\":\"PASS\"}",
        "not_json",
    ),
    (r#"{"result":"Success","status":"PASS""#, "not_json"),
    (r#"{"result":"Success","status":"PASS"} x"#, "not_json"),
    (r#"{"result":"Success","status":"PASS"}{}"#, "not_json"),
    (r#"{"result":"Success","status":"PA"#, "not_json"),
    ("{\"result\":\"Succ\u{0}ess\"}", "not_json"),
    (
        r#"{"result":"Success","status":"PASS","x":"\ud800"}"#,
        "not_json",
    ),
    (r#"{"status":"PASS"}"#, "unknown_result"),
    (r#"{"result":null,"status":"PASS"}"#, "unknown_result"),
    (r#"{"result":"success","status":"PASS"}"#, "unknown_result"),
    (r#"{"result":"Success ","status":"PASS"}"#, "unknown_result"),
    (r#"{"Result":"Success","status":"PASS"}"#, "unknown_result"),
    (
        r#"{"result":{"action":"PASS"},"status":"PASS"}"#,
        "wrong_type",
    ),
    (r#"{"result":true}"#, "wrong_type"),
    (r#"{"result":"Success"}"#, "unknown_status"),
    (r#"{"result":"Success","status":null}"#, "unknown_status"),
    (r#"{"result":"Success","status":""}"#, "unknown_status"),
    (r#"{"result":"Success","status":"Pass"}"#, "unknown_status"),
    (r#"{"result":"Success","status":1}"#, "wrong_type"),
    (
        r#"{"result":"Success","status":"PASS","reference":1}"#,
        "wrong_type",
    ),
    (
        r#"{"result":"Success","status":"PASS","message":[]}"#,
        "wrong_type",
    ),
    (
        r#"{"result":"Success","status":"PASS","target":"x"}"#,
        "wrong_type",
    ),
    (
        r#"{"result":"Success","status":"PASS","target":[1]}"#,
        "wrong_type",
    ),
    (
        r#"{"result":"Success","status":"PASS","target":{"zip":6614}}"#,
        "wrong_type",
    ),
    (
        r#"{"result":"Success","result":"Error"}"#,
        "duplicate_member",
    ),
    (
        r#"{"result":"Success","res\u0075lt":"Success"}"#,
        "duplicate_member",
    ),
    (
        r#"{"result":"Success","status":"PASS","status":"FAIL"}"#,
        "duplicate_member",
    ),
    (
        r#"{"result":"Success","status":"PASS","target":{},"target":{}}"#,
        "duplicate_member",
    ),
    (
        r#"{"result":"Success","status":"PASS","target":{"fn":"a","fn":"a"}}"#,
        "duplicate_member",
    ),
    (
        r#"{"result":"Success","status":"PASS","message":"a\nb"}"#,
        "unusable_message",
    ),
];

#[test]
fn every_fault_of_a_body_is_named() {
    let long = format!(
        r#"{{"result":"Success","status":"PASS","target":{{"addr":"{}"}}}}"#,
        "x".repeat(5000)
    );
    let many = format!(r#"{{"result":"Success","x":{}}}"#, "[1,".repeat(40_000));
    let deep = format!(r#"{{"result":"Success","x":{}"#, "[".repeat(10_000));
    let large = [
        (long.as_str(), "text_too_long"),
        (many.as_str(), "document_too_large"),
        (deep.as_str(), "not_json"),
    ];
    for (body, fault) in FAULTS.iter().copied().chain(large) {
        for disclosure in [Disclosure::Full, Disclosure::Minimal] {
            let verdict = interpret(&reply(200, body), GetStatus, disclosure, &echo());
            assert_eq!(told(&verdict), format!("malformed {fault}"), "{:.80}", body);
        }
    }
    let verdict = judge(
        200,
        b"{\"result\":\"Success\",\"status\":\"PASS\",\"x\":\"\xff\"}",
        GetStatus,
    );
    assert_eq!(told(&verdict), "malformed not_json");
}

#[test]
fn a_message_is_bounded() {
    for (length, good) in [(512, true), (513, false), (5000, false)] {
        let body = json!({"result": "Error", "message": "ü".repeat(length)}).to_string();
        let verdict = judge(400, body, GetStatus);
        assert_eq!(
            matches!(verdict, Err(Refusal::Refused { .. })),
            good,
            "{length}"
        );
    }
}

#[test]
fn what_is_absent_or_null_may_be() {
    for body in [
        json!({"result": "Success", "status": "PASS"}),
        json!({"result": "Success", "status": "PASS", "target": null, "reference": null}),
        json!({"result": "Success", "status": "PASS", "target": [], "message": null}),
        json!({"result": "Success", "status": "PASS", "target": {"fn": null, "documents": null}}),
    ] {
        for operation in [CreateOrUpdateCustomer, GetDocumentImages, GetStatus] {
            let verdict = judge(200, body.to_string(), operation);
            assert_eq!(told(&verdict), "success PASS", "{body}");
        }
    }
}

#[test]
fn members_that_are_not_documented_are_dropped_and_counted() {
    for (operation, others) in [
        (CreateOrUpdateCustomer, 5),
        (GetDocumentImages, 7),
        (GetStatus, 7),
        (UpdateStatus, 6),
    ] {
        let mut body = sample(operation);
        body["status"] = "PASS".into();
        body["internal_id"] = 7.into();
        body["x"] = "y".repeat(5000).into();
        body["target"]["ssn"] = "123-45-6789".into();
        body["target"]["Fn"] = json!({"fn": ["deep"]});
        body["type"] = "deleteCustomer".into();
        body["customer_link"] = "https://x".into();
        body["target"]["status"] = "PASS".into();
        if operation == GetDocumentImages {
            body["target"]["documents"]["selfie"] = "AAAA".into();
            body.as_object_mut().unwrap().remove("type");
        }
        let reply = reply(200, body.to_string());
        for disclosure in [Disclosure::Full, Disclosure::Minimal] {
            let verdict = interpret(&reply, operation, disclosure, &echo());
            let Ok(answer) = verdict else {
                panic!("{}", told(&verdict));
            };
            // An unknown type on a write counts as one more, the known link as one less.
            let expected = match operation {
                CreateOrUpdateCustomer => others + 1,
                GetDocumentImages | GetStatus | UpdateStatus => others,
            };
            assert_eq!(answer.dropped(), expected, "{operation}");
            let text: Vec<u8> = answer.render().iter().flatten().copied().collect();
            let text = String::from_utf8(text).unwrap();
            for gone in [
                "internal_id",
                "ssn",
                "deep",
                "Fn",
                "selfie",
                "deleteCustomer",
                "yyy",
            ] {
                assert!(!text.contains(gone), "{gone} {text}");
            }
        }
    }
}

#[test]
fn our_credential_is_never_relayed() {
    for secret in [
        PASS.to_owned(),
        USER.to_owned(),
        format!("login {USER}:{PASS} failed"),
        "czNjcmV0UGFzc3cwcmQ".to_owned(),
        "s3cret%50assw0rd".to_owned(),
        r#"{"user":"gateway-user","service":"getStatus"}"#.to_owned(),
    ] {
        for status in [200, 400, 404] {
            let body = json!({"result": "Error", "message": secret});
            let verdict = judge(status, body.to_string(), GetStatus);
            let known = if status == 200 {
                "malformed unknown_error"
            } else {
                "echo"
            };
            assert_eq!(told(&verdict), known, "{status} {secret}");
            assert!(!format!("{verdict:?}").contains(&secret));
        }
        for place in [
            "/reference",
            "/message",
            "/customer_link",
            "/target/ln",
            "/target/email",
        ] {
            let mut body = sample(CreateOrUpdateCustomer);
            body["message"] = "ok".into();
            *body.pointer_mut(place).unwrap() = secret.clone().into();
            let reply = reply(200, body.to_string());
            let full = interpret(&reply, CreateOrUpdateCustomer, Disclosure::Full, &echo());
            assert_eq!(told(&full), "echo", "{place} {secret}");
            let minimal = interpret(&reply, CreateOrUpdateCustomer, Disclosure::Minimal, &echo());
            let relayed = ["/reference", "/message"].contains(&place);
            assert_eq!(told(&minimal) == "echo", relayed, "{place} {secret}");
        }
    }
    for length in [0, 5000] {
        let image = format!("{}{PASS}{}", "A".repeat(length), "B".repeat(length));
        let mut body = sample(GetDocumentImages);
        body["target"]["documents"]["back"] = image.into();
        assert_eq!(
            told(&judge(200, body.to_string(), GetDocumentImages)),
            "echo"
        );
    }
}

#[test]
fn a_verdict_prints_nothing_of_a_person() {
    let mut body = sample(GetDocumentImages);
    body["message"] = "hello Ann".into();
    let success = judge(200, body.to_string(), GetDocumentImages);
    assert_eq!(
        success.as_ref().unwrap().customer_status(),
        CustomerStatus::Pass
    );
    let refused = judge(
        400,
        r#"{"result":"Error","message":"a@b.example"}"#,
        GetStatus,
    );
    let shown = format!("{success:?} {refused:?} {:?}", reply(200, body.to_string()));
    for person in ["Ann", "Shelton", "veratad", "a@b", "888888812", "9j/4"] {
        assert!(!shown.contains(person), "{shown}");
    }
}

/// Any JSON whose every string is marked.
fn marked() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[ -~]{0,12}".prop_map(|text| Value::from(format!("CANARY{text}"))),
        Just(Value::from(format!("CANARY{}", "A".repeat(4000)))),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name(), inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "fn",
            "ln",
            "addr",
            "city",
            "state",
            "zip",
            "dob",
            "email",
            "phone",
            "customer_link",
            "type",
            "target",
            "documents",
            "ssn",
            "FN",
            "user",
            "pass",
            "result ",
            "Status",
        ])
        .prop_map(String::from),
        "[a-z_]{1,8}".prop_map(|name| format!("CANARY{name}")),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    prop::sample::select(Operation::ALL.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn minimal_never_relays_what_is_personal_or_not_documented(
        operation in operation(),
        top in prop::collection::vec((name(), marked()), 0..5),
        inner in prop::collection::vec((name(), marked()), 0..5),
        sides in prop::collection::vec((name(), marked()), 0..3),
    ) {
        let mut body = sample(operation);
        for (name, value) in sides {
            if operation == GetDocumentImages {
                body["target"]["documents"][name] = value;
            }
        }
        for (name, value) in inner {
            // `documents` is relayed where it is asked for; its unknown sides are in `sides`.
            if name != "documents" || operation != GetDocumentImages {
                body["target"][name] = value;
            }
        }
        for (name, value) in top {
            if name != "target" {
                body[name] = value;
            }
        }
        let reply = reply(200, body.to_string());
        let verdict = interpret(&reply, operation, Disclosure::Minimal, &echo());
        if let Ok(answer) = verdict {
            let bytes: Vec<u8> = answer.render().iter().flatten().copied().collect();
            let text = String::from_utf8(bytes).unwrap();
            prop_assert!(!text.contains("CANARY"), "{text}");
            let read: Value = serde_json::from_str(&text).unwrap();
            for (name, value) in read.as_object().unwrap() {
                match name.as_str() {
                    "result" | "reference" | "status" | "type" | "message" => {
                        prop_assert!(value.is_string());
                    }
                    "target" => prop_assert!(
                        operation == GetDocumentImages
                            && value.as_object().unwrap().keys().all(|name| name == "documents")
                    ),
                    _ => prop_assert!(false, "{name}"),
                }
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        status in 100u16..600,
        operation in operation(),
    ) {
        let verdict = judge(status, &bytes, operation);
        prop_assert!(verdict.is_err());
    }

    #[test]
    fn no_damage_to_an_answer_makes_it_panic_or_give_a_broken_document(
        operation in operation(),
        at in any::<prop::sample::Index>(),
        with in prop::collection::vec(any::<u8>(), 0..4),
        cut in any::<bool>(),
    ) {
        let mut bytes = sample(operation).to_string().into_bytes();
        let at = at.index(bytes.len());
        if cut {
            bytes.truncate(at);
        } else {
            bytes.splice(at..=at, with);
        }
        for disclosure in [Disclosure::Full, Disclosure::Minimal] {
            let reply = reply(200, &bytes);
            if let Ok(answer) = interpret(&reply, operation, disclosure, &echo()) {
                prop_assert!(!cut);
                let bytes: Vec<u8> = answer.render().iter().flatten().copied().collect();
                prop_assert!(serde_json::from_slice::<Value>(&bytes).is_ok());
            }
        }
    }
}
