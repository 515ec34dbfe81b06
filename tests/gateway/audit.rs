//! What a request leaves behind: one audit event, its numbers, one line of log; and what happens
//! when leaving it fails.

use std::{collections::BTreeSet, io, path::Path};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use dcams_gateway::{
    audit::{key::AuditKey, line::Line},
    config::Config,
    operation::Operation::{self, *},
    simulator::{
        Login,
        behaviour::{Behaviour, Echo},
        fault::{DocumentedError, Fault, FaultKind},
    },
};
use http::Request;
use http_body_util::{Full, StreamBody};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    Broken, EMAIL, Lines, OTHER_TENANT, OTHER_USER, PASS, PATH, USER, World, answer, customer,
    load, lookup, mint, simulator,
};

/// A third tenant, which is switched off.
const CLOSED_TENANT: &str = r#"
[[accounts]]
id = "closed"
credentials = [{ id = "closed-1", user = { file = "closed-user" }, pass = { file = "pass" } }]
[[issuers]]
id = "closed-idp"
issuer = "https://idp.closed.example/"
audiences = ["dcams-gateway"]
algorithms = ["HS256"]
secret = { file = "issuer.key" }
tenants = ["closed"]
[[tenants]]
id = "closed"
account = "closed"
enabled = false
services = ["getStatus"]
"#;

async fn three_tenants(variables: &[(&str, &str)]) -> (World, Config) {
    let stop = tokio_util::sync::CancellationToken::new();
    let simulator = simulator(Login::new(USER, PASS), stop.clone()).await;
    simulator.set_credentials(vec![Login::new(USER, PASS), Login::new(OTHER_USER, PASS)]);
    let url = simulator.url();
    let toml = format!("{OTHER_TENANT}{CLOSED_TENANT}");
    let world = World::before(simulator, stop, &url, &toml, variables).await;
    let config = load(world.folder(), &url, &[]);
    (world, config)
}

/// Whole requests as bytes, for what no ordinary client would send.
fn raw(token: &str, headers: &str, body: &str) -> String {
    format!(
        "POST {PATH} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {token}\r\n{headers}\r\n\
         {body}"
    )
}

const JSON: &str = "Content-Type: application/json\r\n";

/// Sends bytes and reads the status that comes back.
async fn play(world: &World, bytes: &str) -> u16 {
    let mut stream = TcpStream::connect(world.gateway).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer)[9..].parse().unwrap()
}

/// The code of the one event that was added.
async fn one_more(world: &World, count: &mut usize) -> Value {
    *count += 1;
    let events = world.audit.until(*count).await;
    assert_eq!(
        events.len(),
        *count,
        "one outcome a request: {:#?}",
        events.last()
    );
    events.last().unwrap().clone()
}

fn get_status(email: &str) -> Value {
    json!({"service": "getStatus", "target": {"email": email}})
}

#[tokio::test]
async fn every_authenticated_request_leaves_one_outcome() {
    let short = [
        ("SERVER__BODY_IDLE_TIMEOUT", "300ms"),
        ("UPSTREAM__TIMEOUT", "3s"),
        ("UPSTREAM__CONNECT_TIMEOUT", "1s"),
    ];
    let (world, config) = three_tenants(&short).await;
    let mut count = 0;
    answered(&world, &mut count).await;
    refused(&world, &config, &mut count).await;
    refused_by_head(&world, &mut count).await;
    left_early(&world, &mut count).await;
    failed_upstream(&world, &mut count).await;
    unknown_callers(&world).await;
    // The next event follows the last one, so that none came between.
    let status = get_status(EMAIL).to_string();
    world.post_text(&world.full_token(), status).await;
    one_more(&world, &mut count).await;
    assert_sound(&world);
}

async fn answered(world: &World, count: &mut usize) {
    let full = world.full_token();
    for operation in [
        CreateOrUpdateCustomer,
        GetStatus,
        GetDocumentImages,
        UpdateStatus,
    ] {
        let answer = world.post(&full, &lookup(operation)).await;
        let event = one_more(world, count).await;
        let expected = json!([
            answer.status,
            "ok",
            "forward",
            operation.name(),
            1,
            200,
            "Success",
            "demo-1"
        ]);
        let members = [
            "http_status",
            "code",
            "decision",
            "service",
            "attempts",
            "upstream_status",
            "result",
            "credential",
        ];
        assert_eq!(json!(members.map(|name| &event[name])), expected);
        assert_eq!(
            event["request_id"],
            answer.headers["x-request-id"].to_str().unwrap()
        );
        assert_eq!(event["bytes_out"], answer.text.len());
    }
}

async fn refused(world: &World, config: &Config, count: &mut usize) {
    let full = world.full_token();
    let status = get_status(EMAIL).to_string();
    let lookups = world.token(&[GetStatus]);
    let bound = world.token_for(&Operation::ALL, Some("john.specimen@example.com"));
    let closed = mint(config, 2, &[GetStatus], None);
    let long = json!({"service": "getStatus", "target": {"email": EMAIL}, "x": "y".repeat(20_000)});
    for (token, body, answered, code) in [
        (
            &lookups,
            lookup(UpdateStatus).to_string(),
            403,
            "insufficient_scope",
        ),
        (&bound, status.clone(), 403, "customer_mismatch"),
        (
            &bound,
            lookup(UpdateStatus).to_string(),
            403,
            "service_not_allowed",
        ),
        (&closed, status.clone(), 403, "tenant_disabled"),
        (&lookups, long.to_string(), 413, "payload_too_large"),
        (&full, "{".to_owned(), 400, "malformed_json"),
        (
            &full,
            r#"{"service":"getStatus","service":"getStatus"}"#.into(),
            400,
            "duplicate_member",
        ),
        (
            &full,
            r#"{"service":"deleteCustomer"}"#.into(),
            400,
            "unknown_service",
        ),
        (
            &full,
            get_status("nobody").to_string(),
            400,
            "invalid_payload",
        ),
    ] {
        let answer = world.post_text(token, body).await;
        let event = one_more(world, count).await;
        assert_eq!((answer.status, answer.code().as_str()), (answered, code));
        assert_eq!(
            json!([event["code"], event["http_status"]]),
            json!([code, answered])
        );
        assert_eq!(
            json!([event["decision"], event["attempts"]]),
            json!(["refuse", 0])
        );
    }
}

/// What no ordinary client would send.
async fn refused_by_head(world: &World, count: &mut usize) {
    let full = world.full_token();
    let status = get_status(EMAIL).to_string();
    let length = format!("{JSON}Content-Length: {}\r\n", status.len());
    for (bytes, answered, code) in [
        (raw(&full, JSON, ""), 411, "length_required"),
        (
            raw(&full, "Content-Length: 2\r\n", "{}"),
            415,
            "unsupported_media_type",
        ),
        (
            raw(&full, &format!("{length}Expect: a-miracle\r\n"), &status),
            417,
            "expectation_failed",
        ),
        (raw(&full, &length, "{"), 408, "request_timeout"),
    ] {
        assert_eq!(play(world, &bytes).await, answered, "{code}");
        let event = one_more(world, count).await;
        assert_eq!(
            json!([event["code"], event["http_status"]]),
            json!([code, answered])
        );
    }
}

/// The client goes before its body has come: nothing is sent for it.
async fn left_early(world: &World, count: &mut usize) {
    let full = world.full_token();
    let status = get_status(EMAIL).to_string();
    let length = format!("{JSON}Content-Length: {}\r\n", status.len());
    world.simulator.clear_requests();
    for reset in [false, true] {
        let mut stream = TcpStream::connect(world.gateway).await.unwrap();
        stream
            .write_all(raw(&full, &length, "{").as_bytes())
            .await
            .unwrap();
        if reset {
            stream.set_zero_linger().unwrap();
        }
        drop(stream);
        let event = one_more(world, count).await;
        assert_eq!(
            json!([event["decision"], event["attempts"]]),
            json!(["refuse", 0])
        );
        // A connection that ends inside a body is a broken body, if not a client that is gone.
        assert!(["bad_request", "client_gone"].contains(&event["code"].as_str().unwrap()));
    }
    assert!(world.simulator.requests().is_empty());
}

async fn failed_upstream(world: &World, count: &mut usize) {
    let full = world.full_token();
    let status = get_status(EMAIL).to_string();
    let error = |error| FaultKind::Error { error };
    for (fault, answered, code) in [
        (error(DocumentedError::NotFound), 404, "customer_not_found"),
        (error(DocumentedError::MissingInput), 400, "invalid_payload"),
        (
            error(DocumentedError::BadLogin),
            502,
            "upstream_credentials_rejected",
        ),
        (FaultKind::Html { status: 500 }, 502, "upstream_unavailable"),
        (FaultKind::Reset {}, 502, "upstream_unavailable"),
        (FaultKind::Malformed {}, 502, "upstream_malformed"),
        (FaultKind::Hang {}, 504, "upstream_timeout"),
    ] {
        world.simulator.add_fault(Fault::once(fault)).unwrap();
        assert_eq!(
            world.post_text(&full, status.clone()).await.status,
            answered,
            "{code}"
        );
        let event = one_more(world, count).await;
        assert_eq!(
            json!([event["code"], event["http_status"]]),
            json!([code, answered])
        );
        assert_eq!(
            json!([event["decision"], event["attempts"]]),
            json!(["forward", 1])
        );
        let refused = ["customer_not_found", "invalid_payload"].contains(&code);
        assert_eq!(
            event["result"],
            if refused { json!("Error") } else { Value::Null }
        );
        if code == "upstream_credentials_rejected" {
            world.restore_credential().await;
            one_more(world, count).await;
        }
    }
}

/// Before authentication there is nobody in whose name anything was done.
async fn unknown_callers(world: &World) {
    let full = world.full_token();
    let status = get_status(EMAIL).to_string();
    let length = format!("{JSON}Content-Length: {}\r\n", status.len());
    let text = status.as_str();
    for (bytes, answered) in [
        (raw("a.b.c", &length, text), 401),
        (raw(&format!("{full}x"), &length, text), 401),
        (
            raw(&full, &length, text).replace("Authorization", "X-Authorization"),
            401,
        ),
        (
            raw(&full, &length, text).replace("/storage", "/elsewhere"),
            404,
        ),
        (raw(&full, &length, text).replace("POST", "PUT"), 405),
        (
            raw(&full, &length, text).replace("/storage", "/storage?a=b"),
            400,
        ),
        ("nonsense\r\n\r\n".to_owned(), 400),
    ] {
        assert_eq!(play(world, &bytes).await, answered, "{bytes}");
    }
}

/// The members that an event may have (CONTRACT, section 7), and `reason`.
const MEMBERS: [&str; 34] = [
    "v",
    "seq",
    "node",
    "time",
    "phase",
    "request_id",
    "client_request_id",
    "trace_id",
    "tenant",
    "issuer",
    "subject",
    "client",
    "service",
    "customer",
    "reference",
    "fields",
    "images",
    "decision",
    "cache",
    "code",
    "reason",
    "credential",
    "cause",
    "attempts",
    "http_status",
    "left_out",
    "upstream_status",
    "result",
    "customer_status",
    "bytes_in",
    "bytes_out",
    "ms",
    "prev",
    "mac",
];

fn key(folder: &Path) -> AuditKey {
    let text = std::fs::read(folder.join("audit.key")).unwrap();
    let key = BASE64_STANDARD.decode(text).unwrap();
    AuditKey::derive(&key.try_into().unwrap())
}

/// Whether the whole trail of a world is as [`assert_sound_trail`] has it.
pub fn assert_sound(world: &World) {
    assert_sound_trail(world.folder(), &world.audit.text());
}

/// Ends a world, and looks at its trail when nothing is under way any more.
pub async fn assert_ends_sound(world: &World) {
    world.drain();
    world
        .audit
        .until_acts("stop", |acts| !acts.is_empty())
        .await;
    assert_sound(world);
}

/// Numbers without a hole, MACs that verify, each intent with one end, and nothing but what is allowed.
pub fn assert_sound_trail(folder: &Path, trail: &str) {
    let key = key(folder);
    let (mut open, mut ended) = (BTreeSet::new(), BTreeSet::new());
    let mut refreshing = BTreeSet::new();
    for (index, line) in trail.lines().enumerate() {
        let event: Value = serde_json::from_str(line).unwrap();
        let framed = Line::parse(line.as_bytes()).unwrap();
        assert!(framed.is_by(&key), "{line}");
        assert_eq!(json!([event["v"], event["seq"]]), json!([1, index + 1]));
        if event["event"] == "status_refreshed" {
            let id = event["request_id"].as_str().unwrap().to_owned();
            assert_eq!(refreshing.remove(&id), event["attempts"] != 0, "{line}");
            assert!(ended.insert(id), "twice: {line}");
        }
        if event["phase"] == "event" {
            continue;
        }
        let id = event["request_id"].as_str().unwrap().to_owned();
        match event["phase"].as_str().unwrap() {
            "intent" if event["cause"] == "refresh" => {
                assert!(refreshing.insert(id), "twice: {line}");
            }
            "intent" => assert!(open.insert(id), "twice: {line}"),
            "outcome" => {
                let intended = open.remove(&id);
                assert_eq!(intended, event["decision"] == "forward", "{line}");
                assert!(ended.insert(id), "twice: {line}");
            }
            "rejected" => assert!(event.get("tenant").is_none(), "{line}"),
            other => panic!("{other}: {line}"),
        }
        for name in event.as_object().unwrap().keys() {
            assert!(
                MEMBERS.contains(&name.as_str()),
                "{name} is not allowed: {line}"
            );
        }
    }
    open.append(&mut refreshing);
    assert!(open.is_empty(), "intents without an end: {open:?}");
}

#[tokio::test]
async fn events_hold_pseudonyms_of_one_tenant_and_purpose_and_no_value() {
    let (world, config) = three_tenants(&[]).await;
    let (demo, other) = (
        world.full_token(),
        mint(&config, 1, &[CreateOrUpdateCustomer], None),
    );
    // One word as email, and the other way round as reference, to tell purposes apart.
    let mut twin = customer();
    twin["reference"] = EMAIL.into();
    let spelled = get_status(&EMAIL.to_uppercase());
    for (token, body) in [
        (&demo, &twin),
        (&demo, &get_status(EMAIL)),
        (&demo, &spelled),
        (&other, &twin),
    ] {
        world.post(token, body).await;
    }
    let events = world.audit.until(4).await;
    let [first, second, third, fourth] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(
        first["customer"], second["customer"],
        "one customer, one pseudonym"
    );
    assert_eq!(
        first["customer"], third["customer"],
        "in whatever case it is typed"
    );
    assert_eq!(first["subject"], second["subject"]);
    let purposes = ["customer", "reference", "subject"];
    let all = [first, fourth].map(|event| purposes.map(|name| event[name].as_str().unwrap()));
    let distinct: BTreeSet<_> = all.as_flattened().iter().collect();
    assert_eq!(
        distinct.len(),
        6,
        "no tenant and no purpose shares one: {all:?}"
    );

    let fields: BTreeSet<_> = first["fields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    let sent = [
        "reference",
        "email",
        "fn",
        "ln",
        "addr",
        "city",
        "state",
        "zip",
        "dob",
        "phone",
        "documents",
    ];
    assert!(fields.len() >= 10 && fields.is_superset(&BTreeSet::from_iter(sent[..10].to_vec())));
    assert_eq!(first["images"][0]["side"], "front");
    assert_eq!(
        first["images"][0].as_object().unwrap().len(),
        4,
        "side, format, bytes, digest"
    );
    let text = world.audit.text().to_lowercase();
    for value in [
        EMAIL,
        "jane",
        "specimen",
        "sample",
        "anytown",
        "06614",
        "19700101",
        "2015550100",
        "subject-of-the-token",
        USER,
    ] {
        assert!(!text.contains(&value.to_lowercase()), "{value} in {text}");
    }
    assert_sound(&world);
}

/// What the key of a world's trail makes of these images.
fn digests(world: &World, customer: &Value) -> Vec<Value> {
    let documents = &customer["target"]["documents"];
    let texts = ["front", "back"].map(|side| documents[side].as_str().unwrap());
    let key = key(world.folder());
    let digest = |text: &str| json!(key.images().digest([text.as_bytes()]).to_string());
    texts.map(digest).into()
}

#[tokio::test]
async fn an_image_has_one_keyed_digest_however_it_is_written_and_none_where_it_is_refused() {
    for (variables, wanted) in [
        (&[][..], true),
        (&[("AUDIT__IMAGE_DIGESTS", "false")], false),
    ] {
        let world = World::with("", variables).await;
        let full = world.full_token();
        let plain = customer();
        let mut as_uri = plain.clone();
        let documents = &mut as_uri["target"]["documents"];
        for side in ["front", "back"] {
            let text = documents[side].as_str().unwrap();
            documents[side] = json!(format!("data:image/jpeg;base64,{text}"));
        }
        let escaped = plain.to_string().replace('/', r"\/");
        let not_allowed = world.token(&[GetStatus, UpdateStatus]);
        for (token, body, status) in [
            (&full, plain.to_string(), 200),
            (&full, as_uri.to_string(), 200),
            (&full, escaped, 200),
            (&not_allowed, plain.to_string(), 413),
            (
                &world.token_for(&Operation::ALL, Some("a@b.example")),
                plain.to_string(),
                403,
            ),
        ] {
            let answer = world.post_text(token, body).await;
            assert_eq!(answer.status, status, "{}", answer.text);
        }
        let expected = digests(&world, &plain);
        let events = world.audit.until(5).await;
        let told = |event: &Value| -> Vec<Value> {
            let images = event["images"].as_array().into_iter().flatten();
            images.map(|image| image["digest"].clone()).collect()
        };
        let lines = world.recorded().await.text();
        let lines = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        let intents: Vec<Value> = lines.filter(|e: &Value| e["phase"] == "intent").collect();
        assert_eq!(intents.len(), 3);
        for event in events[..3].iter().chain(&intents) {
            let expected = if wanted {
                expected.clone()
            } else {
                vec![Value::Null; 2]
            };
            assert_eq!(told(event), expected, "{event}");
        }
        // Too much for a lookup, so that nobody read it; and an image that was read and not sent.
        assert_eq!(told(&events[3]), [Value::Null; 0]);
        assert_eq!(
            told(&events[4]),
            [Value::Null, Value::Null],
            "{}",
            events[4]
        );
        assert_sound(&world);
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_settled_and_audited() {
    for protocol in ["http1", "h2c"] {
        let world = World::with("", &[("SERVER__PROTOCOL", protocol)]).await;
        world
            .simulator
            .add_fault(Fault::once(FaultKind::Delay { ms: 2_000 }))
            .unwrap();
        let token = world.full_token();
        let body = customer().to_string();
        let stream = TcpStream::connect(world.gateway).await.unwrap();
        if protocol == "h2c" {
            let io = TokioIo::new(stream);
            let (mut client, connection) =
                http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::task::spawn(connection);
            let request = Request::post(format!("http://gateway{PATH}"))
                .header("authorization", format!("Bearer {token}"))
                .header("content-type", "application/json")
                .body(Full::new(Bytes::from(body)))
                .unwrap();
            tokio::select! {
                _ = client.send_request(request) => panic!("answered before its time"),
                () = world.simulator.arrived(1) => {}
            }
            // The connection ends with its last handle.
            drop(client);
            // The gateway has seen it leave, and the call upstream is still under way.
            while gauge(&world, "connections").await > 0 {}
        } else {
            let mut stream = stream;
            let length = format!("{JSON}Content-Length: {}\r\n", body.len());
            stream
                .write_all(raw(&token, &length, &body).as_bytes())
                .await
                .unwrap();
            world.simulator.arrived(1).await;
            stream.set_zero_linger().unwrap();
            drop(stream);
        }
        assert!(
            world.audit.events().is_empty(),
            "{protocol}: it left too late to say anything"
        );

        let events = world.audit.until(1).await;
        let event = &events[0];
        let said = [
            "decision",
            "code",
            "attempts",
            "upstream_status",
            "http_status",
        ];
        assert_eq!(
            json!(said.map(|name| &event[name])),
            json!(["forward", "ok", 1, 200, 200]),
            "{protocol}"
        );
        assert_eq!(event["customer_status"], "PASS");
        assert_eq!(world.only_record().status, Some(200));
        assert_eq!(world.simulator.customers(), 1);
        assert_ends_sound(&world).await;
    }
}

/// The value of the first line of the metrics page that begins with this name.
async fn gauge(world: &World, name: &str) -> u64 {
    let page = world.operator("/metrics").await.text;
    let name = format!("dcams_gateway_{name} ");
    let line = page.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap_or_else(|| panic!("no {name} in {page}"))
        .parse()
        .unwrap()
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

#[tokio::test]
async fn a_trace_is_in_intent_and_outcome_and_goes_no_further() {
    let world = World::start().await;
    for (parent, trace) in [
        (format!("00-{TRACE}-00f067aa0ba902b7-01"), json!(TRACE)),
        (format!("01-{TRACE}-00f067aa0ba902b7-01"), Value::Null),
    ] {
        world.simulator.clear_requests();
        let request = world
            .client
            .post(world.url())
            .bearer_auth(world.full_token());
        let request = request.header("traceparent", parent).json(&customer());
        let answer = answer(request.send().await.unwrap()).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let text = world.recorded().await.text();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        let id = answer.headers["x-request-id"].to_str().unwrap();
        let told = lines.filter(|line: &Value| line["request_id"] == id);
        let told: Vec<Value> = told.map(|line| line["trace_id"].clone()).collect();
        assert_eq!(told, [trace.clone(), trace]);
        let sent = world.only_record();
        assert!(!format!("{sent:?}").contains(TRACE), "{sent:?}");
    }
    assert_sound(&world);
}

#[tokio::test]
async fn a_request_leaves_one_line_of_log() {
    let log = Lines::default();
    let _guard = log.collect_log();
    let world = World::start().await;
    let request = world
        .client
        .post(world.url())
        .bearer_auth(world.full_token())
        .header("x-request-id", "the-clients-own")
        .header("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"))
        .json(&customer());
    let answer = request.send().await.unwrap();
    let id = answer.headers()["x-request-id"]
        .to_str()
        .unwrap()
        .to_owned();
    let bytes_out = answer.bytes().await.unwrap().len();
    world.post_text("not-a-token", "{}").await;
    // Four others say that there is a state store now, an audit trail and a credential.
    let mut lines = log.until(6).await;
    assert_eq!(lines.len(), 6, "{lines:#?}");
    lines.retain(|line| line["message"] == "request");
    let [first, second] = &lines[..] else {
        panic!("{lines:?}")
    };
    let said = [
        "level",
        "message",
        "request.id",
        "client_request_id",
        "trace.id",
        "tenant.id",
        "service",
        "status",
        "code",
        "upstream.status",
        "bytes_out",
    ];
    assert_eq!(
        json!(said.map(|name| &first[name])),
        json!([
            "INFO",
            "request",
            id,
            "the-clients-own",
            TRACE,
            "demo",
            "createOrUpdateCustomer",
            200,
            "ok",
            200,
            bytes_out
        ])
    );
    let ms = ["gateway_ms", "upstream_ms"].map(|name| first[name].as_f64().unwrap());
    assert!(ms.iter().all(|ms| *ms > 0.0), "{ms:?}");
    assert_eq!(first["bytes_in"], customer().to_string().len());
    assert_eq!(
        json!([second["status"], second["code"]]),
        json!([401, "invalid_token"])
    );
    assert!(second.get("tenant.id").is_none() && second.get("upstream_ms").is_none());
}

#[tokio::test]
async fn metrics_tell_tenant_service_outcome_code_and_whose_time_it_was() {
    let world = World::start().await;
    let token = world.full_token();
    world
        .simulator
        .add_fault(Fault::once(FaultKind::Delay { ms: 400 }))
        .unwrap();
    let sent = customer().to_string().len();
    let answered = world.post(&token, &customer()).await.text.len();
    world.post(&token, &get_status("nobody")).await;
    world
        .simulator
        .add_fault(Fault::once(FaultKind::Html { status: 503 }))
        .unwrap();
    world.post(&token, &get_status(EMAIL)).await;
    world.simulator.set_credentials(Vec::new());
    world.post(&token, &get_status(EMAIL)).await;
    world.post_text("not-a-token", "{}").await;
    let page = world.operator("/metrics").await.text;
    let create = r#"tenant="demo",service="createOrUpdateCustomer""#;
    let status = r#"tenant="demo",service="getStatus""#;
    for line in [
        format!(r#"requests_total{{{create},outcome="ok",code="ok"}} 1"#),
        r#"requests_total{tenant="demo",service="none",outcome="refused",code="invalid_payload"} 1"#.into(),
        format!(r#"requests_total{{{status},outcome="upstream_error",code="upstream_unavailable"}} 1"#),
        format!(r#"requests_total{{{status},outcome="gateway_error",code="upstream_credentials_rejected"}} 1"#),
        r#"requests_total{tenant="none",service="none",outcome="refused",code="invalid_token"} 1"#.into(),
        format!("bytes_in_total{{{create}}} {sent}"),
        format!("bytes_out_total{{{create}}} {answered}"),
        format!("upstream_seconds_count{{{create}}} 1"),
        format!("upstream_seconds_count{{{status}}} 2"),
        format!("gateway_seconds_count{{{status}}} 2"),
        "panics_total 0".into(),
        "audit_lost_total 0".into(),
        "body_memory_bytes 0".into(),
        "body_memory_limit_bytes 268435456".into(),
    ] {
        let line = format!("dcams_gateway_{line}");
        assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
    }
    // The upstream's 400 ms are its own, and no part of the gateway's time.
    let seconds = |name: &str| -> f64 {
        let start = format!("dcams_gateway_{name}_seconds_sum{{{create}}} ");
        page.lines()
            .find_map(|line| line.strip_prefix(&start))
            .unwrap()
            .parse()
            .unwrap()
    };
    assert!(
        seconds("upstream") >= 0.4 && seconds("gateway") < seconds("upstream"),
        "{page}"
    );
    assert!(!page.contains(EMAIL) && !page.contains("subject-of-the-token"));
}

#[tokio::test]
async fn a_panic_is_that_requests_500_and_a_counter_and_the_next_one_is_served() {
    let log = Lines::default();
    let _guard = log.collect_log();
    let world = World::start().await;
    let token = world.full_token();
    world.post(&token, &customer()).await;
    // The alert about a credential that came back is the path's own; its subscriber panics.
    world.simulator.set_behaviour(Behaviour {
        echo: Echo::Message,
        ..Behaviour::default()
    });
    log.fail(Some(Broken::Panics));
    let answer = world.post(&token, &get_status(EMAIL)).await;
    log.fail(None);
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (500, "internal_error")
    );
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    assert!(gauge(&world, "panics_total").await >= 1);
    let events = world.audit.until(2).await;
    let said = ["decision", "code", "http_status"];
    assert_eq!(
        json!(said.map(|name| &events[1][name])),
        json!(["forward", "internal_error", 500])
    );
    world.simulator.set_behaviour(Behaviour::default());
    assert_eq!(world.post(&token, &get_status(EMAIL)).await.status, 200);
    world.recorded().await;
    assert_sound(&world);
}

#[tokio::test]
async fn a_client_that_resets_its_request_leaves_an_outcome_and_nothing_was_sent() {
    let world = World::with("", &[("SERVER__PROTOCOL", "h2c")]).await;
    let stream = TcpStream::connect(world.gateway).await.unwrap();
    let (mut client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::task::spawn(connection);
    let never = futures_util::stream::pending::<Result<http_body::Frame<Bytes>, io::Error>>();
    let request = Request::post(format!("http://gateway{PATH}"))
        .header("authorization", format!("Bearer {}", world.full_token()))
        .header("content-type", "application/json")
        .header("content-length", "100")
        .body(StreamBody::new(never))
        .unwrap();
    let head_is_there = async { while gauge(&world, "body_memory_bytes").await == 0 {} };
    tokio::select! {
        _ = client.send_request(request) => panic!("answered without its body"),
        () = head_is_there => {}
    }
    drop(client);
    let events = world.audit.until(1).await;
    assert_eq!(
        json!([events[0]["decision"], events[0]["attempts"]]),
        json!(["refuse", 0])
    );
    assert!(["bad_request", "client_gone"].contains(&events[0]["code"].as_str().unwrap()));
    assert!(world.simulator.requests().is_empty());
    while gauge(&world, "body_memory_bytes").await > 0 {}
}
