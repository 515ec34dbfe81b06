//! The path from end to end: what is answered, what reaches DCAMS, and in which order is decided.

mod errors;
mod tokens;

use dcams_gateway::{
    operation::Operation,
    simulator::{
        behaviour::Behaviour,
        fault::{Fault, FaultKind},
        record::Credentials,
    },
};
use serde_json::{Value, json};

use crate::{
    support::{Answer, EMAIL, OTHER_USER, PASS, PATH, USER, World, customer, lookup},
    wire::{Wire, head, tenant},
};

/// A request, to be spoilt.
#[derive(Clone)]
pub struct Attempt {
    pub method: &'static str,
    pub target: String,
    pub token: Option<String>,
    pub media: &'static str,
    /// Further lines of the head, each with its end.
    pub lines: &'static str,
    /// What is said of the body's length; `None` says nothing.
    pub length: Option<usize>,
    pub body: String,
}

impl Attempt {
    pub fn new(token: &str, body: &str) -> Self {
        Self {
            method: "POST",
            target: PATH.to_owned(),
            token: Some(token.to_owned()),
            media: "application/json",
            lines: "",
            length: Some(body.len()),
            body: body.to_owned(),
        }
    }

    /// Sends it on a connection of its own.
    pub async fn play(&self, world: &World) -> Answer {
        let mut wire = Wire::open(world.gateway).await;
        wire.send(self.text()).await;
        wire.answer().await
    }

    fn text(&self) -> String {
        let token = self.token.as_ref();
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
        let length = self
            .length
            .map(|length| format!("Content-Length: {length}\r\n"));
        format!(
            "{} {} HTTP/1.1\r\nHost: gateway.example\r\nContent-Type: {}\r\n{}{}{}\r\n{}",
            self.method,
            self.target,
            self.media,
            token.unwrap_or_default(),
            length.unwrap_or_default(),
            self.lines,
            self.body,
        )
    }
}

fn images() -> Value {
    customer()["target"]["documents"].take()
}

/// Asks all four services in turn; the last changes the status to FAIL.
async fn tour(world: &World, token: &str) -> [Answer; 4] {
    let mut answers = Vec::new();
    for operation in [
        Operation::CreateOrUpdateCustomer,
        Operation::GetStatus,
        Operation::GetDocumentImages,
        Operation::UpdateStatus,
    ] {
        let answer = world.post(token, &lookup(operation)).await;
        assert_eq!(answer.status, 200, "{operation}: {}", answer.text);
        answers.push(answer);
    }
    answers.try_into().unwrap()
}

#[tokio::test]
async fn a_minimal_tenant_gets_no_name_address_birth_date_phone_or_link() {
    let world = World::start().await;
    let token = world.full_token();
    let documents = images();
    for (kind, extra_fields) in [("createCustomer", false), ("updateCustomer", true)] {
        world.simulator.set_behaviour(Behaviour {
            extra_fields,
            ..Behaviour::default()
        });
        let before = if extra_fields { "FAIL" } else { "PASS" };
        let [create, status, shown, update] = tour(&world, &token).await;
        let plain = |status| {
            format!(r#"{{"result":"Success","reference":"reference-0001","status":"{status}"}}"#)
        };
        let created = plain(before).replace('}', &format!(r#","type":"{kind}"}}"#));
        assert_eq!(create.text, created);
        assert_eq!(status.text, plain(before));
        assert_eq!(update.text, plain("FAIL"));
        let with_images = json!({
            "result": "Success", "reference": "reference-0001", "status": before,
            "target": {"documents": documents},
        });
        assert_eq!(shown.json(), with_images);
    }
}

#[tokio::test]
async fn a_full_tenant_gets_every_documented_field_and_no_other() {
    let services = r#"services = ["createOrUpdateCustomer", "getStatus", "getDocumentImages", "updateStatus"]
        response = "full""#;
    let world = World::with_other(&tenant("other", services, ""), &[]).await;
    world.simulator.set_behaviour(Behaviour {
        extra_fields: true,
        ..Behaviour::default()
    });
    let token = world.token_of("other", &Operation::ALL, None);
    let [create, status, shown, update] = tour(&world, &token).await.map(|a| a.json());
    let mut person = customer()["target"].take();
    person.as_object_mut().unwrap().remove("documents");
    let answer = |status: &str, target: &Value| {
        json!({
            "result": "Success", "reference": "reference-0001", "status": status, "target": target,
        })
    };
    let mut created = answer("PASS", &person);
    created["type"] = "createCustomer".into();
    created["customer_link"] =
        "https://register.veratad.com/admin/customers.php?a=edit&id=100001".into();
    assert_eq!(create, created);
    assert_eq!(status, answer("PASS", &person));
    let mut target = person.clone();
    target["documents"] = images();
    assert_eq!(shown, answer("PASS", &target));
    // DCAMS has the status of this one answer in `target`; the gateway has it in both places.
    target = person.clone();
    target["status"] = "FAIL".into();
    assert_eq!(update, answer("FAIL", &target));
    let records = world.simulator.requests();
    let bodies = records
        .iter()
        .map(|record| record.body.as_ref().unwrap().as_str());
    for body in bodies {
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["user"], OTHER_USER);
    }
}

#[tokio::test]
async fn a_status_is_understood_in_either_place() {
    let world = World::start().await;
    let token = world.full_token();
    world.post(&token, &customer()).await;
    for status in ["PENDING", "PASS", "FAIL"] {
        let mut change = lookup(Operation::UpdateStatus);
        change["target"]["status"] = status.into();
        let changed = world.post(&token, &change).await;
        let read = world.post(&token, &lookup(Operation::GetStatus)).await;
        assert_eq!(changed.json()["status"], status);
        assert_eq!(read.json()["status"], status);
    }
}

#[tokio::test]
async fn an_answer_has_our_headers_and_no_header_of_dcams_or_the_client() {
    let world = World::start().await;
    let token = world.full_token();
    // DCAMS says when to come back; that is between it and the gateway.
    let failing = FaultKind::Status {
        status: 503,
        message: "no".to_owned(),
        retry_after: Some(77),
    };
    let mut ids = Vec::new();
    for (status, kind) in [
        (404, "application/problem+json"),
        (502, "application/problem+json"),
        (200, "application/json"),
    ] {
        if status == 502 {
            world
                .simulator
                .add_fault(Fault::once(failing.clone()))
                .unwrap();
        }
        if status == 200 {
            world.post(&token, &customer()).await;
        }
        let body = lookup(Operation::GetStatus).to_string();
        let mut attempt = Attempt::new(&token, &body);
        attempt.lines = "X-Request-Id: of-the-client\r\nOrigin: https://a.example\r\n";
        let answer = attempt.play(&world).await;
        assert_eq!(answer.status, status);
        let mut names: Vec<_> = answer
            .headers
            .keys()
            .map(http::HeaderName::as_str)
            .collect();
        names.sort_unstable();
        let expected = [
            "age",
            "cache-control",
            "cache-status",
            "content-length",
            "content-type",
            "date",
            "x-request-id",
        ];
        assert_eq!(names, expected);
        assert_eq!(answer.headers["content-type"], kind);
        assert_eq!(answer.headers["cache-control"], "no-store");
        let id: uuid::Uuid = answer.headers["x-request-id"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(id.get_version_num(), 7);
        assert!(!answer.text.contains("of-the-client"));
        ids.push(id);
    }
    ids.dedup();
    assert_eq!(ids.len(), 3);
}

#[tokio::test]
async fn dcams_receives_five_headers_of_ours_and_a_body_written_anew() {
    let world = World::start().await;
    let token = world.full_token();
    let spaced = format!(
        "{{ \"target\" : {{ \"email\" : \"{}\" }},\n \"service\" : \"get\\u0053tatus\" }} ",
        EMAIL.replace('j', "\\u006a")
    );
    let mut attempt = Attempt::new(&token, &spaced);
    attempt.media = "application/json; charset=UTF-8";
    attempt.lines = "User-Agent: spy\r\nCookie: a=b\r\nAccept: text/html\r\nAccept-Encoding: gzip\r\n\
                     Forwarded: for=1.2.3.4\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Host: evil\r\n\
                     traceparent: 00-0123456789abcdef0123456789abcdef-0123456789abcdef-01\r\n\
                     Idempotency-Key: k\r\nX-Request-Id: mine\r\nProxy-Authorization: Basic eDp5\r\n\
                     X-Custom: canary\r\nTE: trailers\r\nUpgrade: h2c\r\n";
    assert_eq!(attempt.play(&world).await.code(), "customer_not_found");
    let record = world.only_record();
    let mut headers = record.headers.clone();
    headers.sort();
    let length = record.body_bytes.to_string();
    let host = world.simulator.address().to_string();
    let expected = [
        ("accept", "application/json"),
        ("content-length", &length),
        ("content-type", "application/json"),
        ("host", &host),
        ("user-agent", "dcams-gateway"),
    ];
    assert_eq!(
        headers,
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
    assert_eq!(
        (record.method.as_str(), record.path.as_str()),
        ("POST", PATH)
    );
    assert!(!record.query && record.body_complete && record.malformed.is_none());
    assert_eq!(record.credentials, Credentials::Accepted);
    let string = |text: &str| serde_json::to_string(text).unwrap();
    let body = format!(
        r#"{{"user":{},"pass":{},"service":"getStatus","target":{{"email":"{EMAIL}"}}}}"#,
        string(USER),
        string(PASS),
    );
    assert_eq!(record.body.unwrap().as_str(), body);
}

#[tokio::test]
async fn every_field_reaches_dcams_as_the_client_wrote_it() {
    let world = World::start().await;
    let mut body = customer();
    body["reference"] = "r \u{1f600} \u{2028} \"\\/".into();
    body["target"]["ln"] = "O'Neill-M\u{fc}ller \"x\" \\ </script> %41".into();
    body["target"]["email"] = "Jane.O'Specimen+Tag@Example.COM".into();
    let answer = world.post(&world.full_token(), &body).await;
    assert_eq!(answer.json()["reference"], body["reference"]);
    let record = world.only_record();
    let sent: Value = serde_json::from_str(record.body.unwrap().as_str()).unwrap();
    body["user"] = USER.into();
    body["pass"] = PASS.into();
    assert_eq!(sent, body);
    assert_eq!(record.content_length, Some(record.body_bytes));
}

type Mend = Box<dyn Fn(&mut Attempt)>;

fn set_body(body: &str) -> Mend {
    let body = body.to_owned();
    Box::new(move |a| (a.length, a.body) = (Some(body.len()), body.clone()))
}

fn set_token(token: String) -> Mend {
    Box::new(move |a| a.token = Some(token.clone()))
}

fn set_lines(lines: &'static str) -> Mend {
    Box::new(move |a| a.lines = lines)
}

/// What a request that is wrong in every way is told, and then mended.
fn mends(world: &World) -> Vec<(&'static str, Mend)> {
    let get = Operation::GetStatus;
    let stranger = Some("stranger@example.com");
    let closed = world.token_of("closed", &[], stranger);
    let powerless = world.token_of("other", &[], stranger);
    let narrow = world.token_of("other", &[get], stranger);
    let bound = world.token_for(&[get], stranger);
    let unfit = r#"{"service":"getStatus","target":{"email":"nobody"}}"#;
    let unknown = r#"{"service":"getstatus","target":{"email":"nobody"}}"#;
    let doubled = r#"{"service":"getstatus","target":{},"target":{}}"#;
    let length = 20_000_000;
    vec![
        ("not_found", Box::new(|a| a.target = format!("{PATH}?x=y"))),
        ("method_not_allowed", Box::new(|a| a.method = "POST")),
        ("bad_request", Box::new(|a| PATH.clone_into(&mut a.target))),
        ("bad_request", set_lines(CHUNKED)),
        ("length_required", set_lines("Expect: 200-ok\r\n")),
        ("missing_token", set_token("eyJ.e30.AA".to_owned())),
        ("invalid_token", set_token(closed)),
        ("tenant_disabled", set_token(powerless)),
        ("unsupported_media_type", Box::new(|a| a.media = JSON)),
        (
            "length_required",
            Box::new(move |a| a.length = Some(length)),
        ),
        ("expectation_failed", set_lines("")),
        ("payload_too_large", set_body("{")),
        ("malformed_json", set_body(doubled)),
        ("duplicate_member", set_body(unknown)),
        ("unknown_service", set_body(unfit)),
        ("invalid_payload", set_body(&lookup(get).to_string())),
        ("insufficient_scope", set_token(narrow)),
        ("service_not_allowed", set_token(bound)),
        ("customer_mismatch", set_token(world.token(&[get]))),
    ]
}

const JSON: &str = "application/json";
const CHUNKED: &str = "Transfer-Encoding: chunked\r\nExpect: 200-ok\r\n";

/// Of all that is wrong with a request the first in the order is told.
#[tokio::test]
async fn decisions_are_made_in_the_promised_order() {
    let toml = tenant("closed", "services = [\"getStatus\"]\nenabled = false", "")
        + &tenant("other", r#"services = ["createOrUpdateCustomer"]"#, "");
    let world = World::with_other(&toml, &[]).await;
    let mut attempt = Attempt {
        method: "PUT",
        target: "/elsewhere?x=y".to_owned(),
        token: None,
        media: "text/plain",
        lines: "Content-Type: a/b\r\nTransfer-Encoding: chunked\r\nExpect: 200-ok\r\n",
        length: None,
        body: String::new(),
    };
    for (code, mend) in mends(&world) {
        assert_eq!(attempt.play(&world).await.code(), code);
        mend(&mut attempt);
    }
    assert!(world.simulator.requests().is_empty());
    assert_eq!(attempt.play(&world).await.code(), "customer_not_found");
    assert_eq!(world.simulator.requests().len(), 1);
}

#[tokio::test]
async fn an_invalid_token_is_401_whatever_else_is_said_of_the_body() {
    let world = World::start().await;
    for (media, lines, length, body) in [
        ("text/plain", "", Some(0), ""),
        ("application/json; charset=utf-16", "", Some(0), ""),
        ("application/json", "", None, ""),
        ("application/json", "", Some(2_000_000_000), ""),
        ("application/json", "Expect: 200-ok\r\n", Some(9), ""),
        (
            "application/json",
            "Content-Encoding: gzip\r\n",
            Some(9),
            "",
        ),
        ("application/json", "", Some(3), "{{{"),
        ("application/json", "", Some(2), "{}"),
    ] {
        for (token, code) in [(None, "missing_token"), (Some("bad"), "invalid_token")] {
            let attempt = Attempt {
                media,
                lines,
                length,
                token: token.map(str::to_owned),
                ..Attempt::new("", body)
            };
            let answer = attempt.play(&world).await;
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (401, code),
                "{media} {lines}"
            );
        }
    }
    assert!(world.simulator.requests().is_empty());
}

#[tokio::test]
async fn a_body_is_not_read_before_the_token() {
    let world = World::start().await;
    let expect = "Expect: 100-continue\r\n";
    // With a good token the body is asked for, so that the silence after a bad one says something.
    let mut good = Wire::open(world.gateway).await;
    good.send(head(&world.full_token(), 9_000_000, expect))
        .await;
    assert_eq!(good.answer().await.status, 100);
    for token in ["", "bad", "eyJhbGciOiJIUzI1NiJ9.e30.AA"] {
        let mut wire = Wire::open(world.gateway).await;
        wire.send(head(token, 9_000_000, expect)).await;
        assert_eq!(wire.answer().await.status, 401);
        assert!(wire.is_closed().await);
        // The answer is there before the body, and of the body no more is taken than the kernel
        // and the polite end of a connection take.
        let mut wire = Wire::open(world.gateway).await;
        wire.send(head(token, 9_000_000, "")).await;
        let answer = wire.answer().await;
        assert_eq!(answer.status, 401);
        assert_eq!(answer.headers["connection"], "close");
        let taken = wire.flood(9_000_000).await;
        assert!(taken < 1_000_000, "{taken}");
    }
}

#[tokio::test]
async fn a_connection_serves_on_after_an_error_where_its_body_was_read() {
    let world = World::start().await;
    let (token, weak) = (world.full_token(), world.token(&[]));
    world.post(&token, &customer()).await;
    let good = lookup(Operation::GetStatus).to_string();
    let mut wire = Wire::open(world.gateway).await;
    for (token, body, code) in [
        (&token, "{", "malformed_json"),
        (&token, r#"{"service":"x"}"#, "unknown_service"),
        (&token, r#"{"service":"getStatus"}"#, "invalid_payload"),
        (&token, r#"{"pass":1,"pass":1}"#, "duplicate_member"),
        (&weak, &good, "insufficient_scope"),
        (&String::new(), &good, "invalid_token"),
        (&token, &good.replace("jane", "john"), "customer_not_found"),
    ] {
        wire.send(head(token, body.len(), "") + body).await;
        let refused = wire.answer().await;
        assert_eq!(refused.code(), code);
        assert!(!refused.headers.contains_key("connection"), "{code}");
        wire.send(head(&world.full_token(), good.len(), "") + &good)
            .await;
        assert_eq!(wire.answer().await.status, 200, "after {code}");
    }
}

#[tokio::test]
async fn the_admin_listener_answers_probes_and_metrics_and_the_public_one_does_not() {
    let world = World::start().await;
    world.post(&world.full_token(), &customer()).await;
    for (path, status, text) in [("/livez", 200, "live\n"), ("/readyz", 200, "ready\n")] {
        let answer = world.operator(path).await;
        assert_eq!((answer.status, answer.text.as_str()), (status, text));
    }
    let metrics = world.operator("/metrics").await;
    assert_eq!(
        metrics.headers["content-type"],
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    let counted = r#"dcams_gateway_requests_total{tenant="demo",service="createOrUpdateCustomer",outcome="ok",code="ok"} 1"#;
    assert!(metrics.text.contains(counted), "{}", metrics.text);
    assert_eq!(world.metric("dcams_gateway_body_memory_bytes").await, 0);
    assert_eq!(world.operator(PATH).await.status, 404);
    let url = format!("http://{}/metrics", world.admin);
    let posted = world.client.post(url).send().await.unwrap();
    assert_eq!(
        (posted.status().as_u16(), &posted.headers()["allow"]),
        (405, &"GET".parse().unwrap())
    );
    for path in ["/livez", "/readyz", "/metrics", "/", "/v1/usage/"] {
        let url = format!("http://{}{path}", world.gateway);
        let answer = world.client.get(url).send().await.unwrap();
        assert_eq!(answer.status(), 404, "{path}");
    }
}
