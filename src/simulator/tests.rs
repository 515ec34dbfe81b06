//! The simulator through real sockets: what it answers, what it records, how its faults look.

#![expect(
    clippy::string_slice,
    clippy::too_many_lines,
    reason = "answers are ASCII, and tables of cases are long"
)]

use std::io::ErrorKind;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    behaviour::{
        Echo, EmailFolding, MissingDocuments, OmittedFields, RequiredField, Status, Undocumented,
    },
    fault::{DocumentedError, FaultKind},
    record::{Credentials, ImageRecord},
    *,
};

const AUTH: &str = r#""user":"demo-user","pass":"demo-pass""#;
const MAX: &str = r#""email":"max@specimen.example","fn":"Max","ln":"Muster","addr":"1 Nowhere St","city":"Nowhere","state":"CT","zip":"06614","dob":"19700101","phone":"2015106000""#;
const SHOWN: &str = r#""fn":"Max","ln":"Muster","addr":"1 Nowhere St","city":"Nowhere","state":"CT","zip":"06614","dob":"19700101","email":"max@specimen.example","phone":"2015106000""#;
const LINK: &str = "https://register.veratad.com/admin/customers.php?a=edit&id=100001";

async fn start(settings: SimulatorSettings) -> (SimulatorHandle, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let shutdown = CancellationToken::new();
    let handle = Simulator::start(listener, settings, shutdown.clone()).unwrap();
    (handle, shutdown)
}

async fn sim() -> SimulatorHandle {
    start(SimulatorSettings::default()).await.0
}

/// Everything that came before the connection ended, and how it ended.
struct Got {
    text: String,
    end: Result<(), ErrorKind>,
}

impl Got {
    fn status(&self) -> u16 {
        self.text[9..12].parse().unwrap()
    }

    fn head(&self) -> &str {
        self.text.split_once("\r\n\r\n").unwrap().0
    }

    fn body(&self) -> &str {
        self.text.split_once("\r\n\r\n").unwrap().1
    }
}

async fn raw(sim: &SimulatorHandle, request: &[u8]) -> Got {
    let mut stream = TcpStream::connect(sim.address()).await.unwrap();
    // A fault may end the connection while this is still writing.
    drop(stream.write_all(request).await);
    let mut bytes = Vec::new();
    let end = loop {
        let mut block = [0; 8_192];
        match stream.read(&mut block).await {
            Ok(0) => break Ok(()),
            Ok(read) => bytes.extend_from_slice(&block[..read]),
            Err(error) => break Err(error.kind()),
        }
    };
    Got {
        text: String::from_utf8(bytes).unwrap(),
        end,
    }
}

async fn call(sim: &SimulatorHandle, method: &str, path: &str, body: &str) -> Got {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: sim\r\nauthorization: Bearer s3cret\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    raw(sim, request.as_bytes()).await
}

async fn post(sim: &SimulatorHandle, body: &str) -> Got {
    call(sim, "POST", STORAGE_PATH, body).await
}

async fn get_status(sim: &SimulatorHandle) -> Got {
    let body = r#""service":"getStatus","target":{"email":"max@specimen.example"}"#;
    post(sim, &format!("{{{AUTH},{body}}}")).await
}

async fn create(sim: &SimulatorHandle) -> Got {
    let body = format!(
        r#"{{{AUTH},"service":"createOrUpdateCustomer","reference":"888888812","target":{{{MAX},"documents":{{"front":"AAAA","back":"QkJC"}}}}}}"#
    );
    post(sim, &body).await
}

async fn images(sim: &SimulatorHandle) -> Value {
    let body = r#""service":"getDocumentImages","target":{"email":"max@specimen.example"}"#;
    let got = post(sim, &format!("{{{AUTH},{body}}}")).await;
    serde_json::from_str(got.body()).unwrap()
}

async fn control(sim: &SimulatorHandle, method: &str, path: &str, body: &str) -> (u16, Value) {
    let got = call(sim, method, path, body).await;
    (
        got.status(),
        serde_json::from_str(got.body()).unwrap_or_default(),
    )
}

#[tokio::test]
async fn the_four_services_answer_byte_for_byte_as_documented() {
    let sim = sim().await;
    let common = format!(r#""reference":"888888812","status":"PASS","target":{{{SHOWN}"#);
    let written = |kind: &str| {
        format!(
            r#"{{"result":"Success","reference":"888888812","status":"PASS","type":"{kind}","customer_link":"{LINK}","target":{{{SHOWN}}}}}"#
        )
    };
    let got = create(&sim).await;
    assert_eq!(got.status(), 200);
    assert!(got.head().contains("content-type: application/json"));
    assert_eq!(got.body(), written("createCustomer"));
    assert_eq!(create(&sim).await.body(), written("updateCustomer"));

    let got = get_status(&sim).await;
    assert_eq!(got.body(), format!(r#"{{"result":"Success",{common}}}}}"#));

    let ask = r#""service":"getDocumentImages","target":{"email":"max@specimen.example"}"#;
    let got = post(&sim, &format!("{{{AUTH},{ask}}}")).await;
    let documents = r#""documents":{"front":"AAAA","back":"QkJC"}"#;
    assert_eq!(
        got.body(),
        format!(r#"{{"result":"Success",{common},{documents}}}}}"#)
    );

    // The one whose status is under `target` alone.
    let ask =
        r#""service":"updateStatus","target":{"email":"max@specimen.example","status":"FAIL"}"#;
    let got = post(&sim, &format!("{{{AUTH},{ask}}}")).await;
    assert_eq!(
        got.body(),
        format!(
            r#"{{"result":"Success","reference":"888888812","target":{{{SHOWN},"status":"FAIL"}}}}"#
        )
    );
    assert!(
        get_status(&sim)
            .await
            .body()
            .contains(r#""status":"FAIL","target""#)
    );
    assert_eq!(sim.customers(), 1);
}

#[tokio::test]
async fn the_documented_errors_have_their_code_and_text() {
    let sim = sim().await;
    let missing = (400, "Missing a required input");
    let invalid = (400, "The email address is invalid");
    let login = (401, "Either your username or password is incorrect");
    let unknown = (404, "The email address was not found");
    let cases = [
        (
            r#""service":"getStatus","target":{"email":"a@b.c"}"#,
            missing,
        ),
        (
            r#""user":"demo-user","pass":"","service":"getStatus","target":{"email":"a@b.c"}"#,
            missing,
        ),
        (
            r#""user":"demo-user","pass":1,"service":"getStatus","target":{"email":"a@b.c"}"#,
            missing,
        ),
        (
            r#""user":"demo-user","pass":"x","service":"getStatus","target":{"email":"a@b.c"}"#,
            login,
        ),
        (
            r#""user":"x","pass":"demo-pass","service":"nonsense""#,
            login,
        ),
        (r#"AUTH,"service":"nonsense""#, missing),
        (r#"AUTH,"target":{"email":"a@b.c"}"#, missing),
        (r#"AUTH,"service":"getStatus""#, missing),
        (
            r#"AUTH,"service":"getStatus","target":{"email":5}"#,
            missing,
        ),
        (
            r#"AUTH,"service":"getStatus","target":{"email":"a.b.c"}"#,
            invalid,
        ),
        (
            r#"AUTH,"service":"createOrUpdateCustomer","target":{"email":"a b@c.d"}"#,
            invalid,
        ),
        (
            r#"AUTH,"service":"getStatus","target":{"email":"a@localhost"}"#,
            invalid,
        ),
        (
            r#"AUTH,"service":"getStatus","target":{"email":"a@b.c"}"#,
            unknown,
        ),
        (
            r#"AUTH,"service":"getDocumentImages","target":{"email":"a@b.c"}"#,
            unknown,
        ),
        (
            r#"AUTH,"service":"updateStatus","target":{"email":"a@b.c","status":"PASS"}"#,
            unknown,
        ),
        (
            r#"AUTH,"service":"updateStatus","target":{"email":"a@b.c"}"#,
            missing,
        ),
    ];
    for as_200 in [false, true] {
        sim.set_behaviour(Behaviour {
            errors_as_200: as_200,
            ..Behaviour::default()
        });
        for (body, (status, message)) in cases {
            let got = post(&sim, &format!("{{{}}}", body.replace("AUTH", AUTH))).await;
            // The answer to an unknown service is not a documented error.
            let kept = body.contains("nonsense") && status == 400;
            assert_eq!(
                got.status(),
                if as_200 && !kept { 200 } else { status },
                "{body}"
            );
            assert_eq!(
                got.body(),
                format!(r#"{{"result":"Error","message":"{message}"}}"#),
                "{body}"
            );
        }
    }
    assert_eq!(sim.customers(), 0);
    assert!(sim.requests().iter().all(|record| !record.stored));
}

#[tokio::test]
async fn other_paths_and_methods_are_recorded_and_refused() {
    let sim = sim().await;
    let got = call(&sim, "GET", STORAGE_PATH, "").await;
    assert_eq!(got.status(), 405);
    assert!(got.head().contains("allow: POST"));
    assert_eq!(
        call(&sim, "POST", "/v3/stable/api/storage/?a=s3cret", "")
            .await
            .status(),
        404
    );
    let records = sim.requests();
    assert_eq!(records.len(), 2);
    assert!(records[1].query && !serde_json::to_string(&records).unwrap().contains("s3cret"));
}

#[tokio::test]
async fn a_record_names_members_and_measures_but_holds_no_value() {
    let sim = sim().await;
    let body = r#"{"us\u0065r":"canary-1","user":"demo-user","pass":"demo-pass","service":"getStatus","target":{"email":"canary-2@b.c","Pass":["canary-3",{"USER":{}}]}}"#;
    post(&sim, body).await;
    create(&sim).await;
    let (status, records) = control(&sim, "GET", "/_sim/requests", "").await;
    assert_eq!(status, 200);
    assert_eq!(records.as_array().unwrap().len(), 2);
    let first = &records[0];
    assert_eq!(
        first["members"],
        json!([
            "/user",
            "/user",
            "/pass",
            "/service",
            "/target",
            "/target/email",
            "/target/Pass",
            "/target/Pass/1/USER"
        ])
    );
    assert_eq!(
        (&first["user_members"], &first["pass_members"]),
        (&json!(3), &json!(2))
    );
    assert_eq!(first["members_total"], json!(8));
    assert_eq!(first["content_length"], json!(body.len()));
    assert_eq!(first["body_bytes"], json!(body.len()));
    assert_eq!(
        (&first["credentials"], &first["user_index"]),
        (&json!("accepted"), &json!(0))
    );
    assert_eq!(
        (&first["status"], &first["stored"]),
        (&json!(404), &json!(false))
    );
    assert_eq!(first["method"], "POST");
    assert_eq!(first["path"], STORAGE_PATH);
    assert_eq!(first["service"], "getStatus");
    assert!(
        first["headers"]
            .as_array()
            .unwrap()
            .contains(&json!(["authorization", "present"]))
    );
    assert_eq!(
        (&first["malformed"], &first["body_complete"]),
        (&Value::Null, &json!(true))
    );
    let second = &records[1];
    assert_eq!(
        (&second["sequence"], &second["stored"]),
        (&json!(2), &json!(true))
    );
    assert_eq!(
        second["images"]["back"],
        serde_json::to_value(ImageRecord::of("QkJC")).unwrap()
    );
    assert!(first.get("body").is_none());
    let all = format!("{records}{:?}{sim:?}", sim.requests());
    for secret in [
        "canary",
        "demo-user",
        "demo-pass",
        "s3cret",
        "specimen.example",
        "AAAA",
    ] {
        assert!(!all.contains(secret), "{secret}");
    }
    assert_eq!(control(&sim, "DELETE", "/_sim/requests", "").await.0, 204);
    assert!(sim.requests().is_empty());
}

#[tokio::test]
async fn bodies_are_recorded_only_where_asked_for() {
    let (sim, _) = start(SimulatorSettings {
        record_bodies: true,
        ..SimulatorSettings::default()
    })
    .await;
    post(&sim, "{\"a\": \"caf\u{e9}\"").await;
    let record = sim.requests().remove(0);
    assert_eq!(
        record.body.as_ref().unwrap().as_str(),
        "{\"a\": \"caf\u{e9}\""
    );
    assert_eq!(record.members, ["/a"]);
    assert!(
        record
            .malformed
            .as_ref()
            .unwrap()
            .starts_with("the document breaks off")
    );
    assert!(!format!("{record:?}").contains("caf"));
}

#[tokio::test]
async fn a_body_that_breaks_off_is_recorded_as_incomplete() {
    let sim = sim().await;
    let mut stream = TcpStream::connect(sim.address()).await.unwrap();
    let head = format!(
        "POST {STORAGE_PATH} HTTP/1.1\r\nhost: sim\r\ncontent-length: 100\r\n\r\n{{\"user\""
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    sim.arrived(1).await;
    let record = sim.requests().remove(0);
    assert!(!record.body_complete);
    assert_eq!((record.content_length, record.body_bytes), (Some(100), 7));
    assert_eq!(record.credentials, Credentials::Missing);
}

#[tokio::test]
async fn a_connection_serves_one_request_after_another() {
    let sim = sim().await;
    let mut stream = TcpStream::connect(sim.address()).await.unwrap();
    for _ in 0..3 {
        let body = "{}";
        let request =
            format!("POST {STORAGE_PATH} HTTP/1.1\r\nhost: sim\r\ncontent-length: 2\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        while !text.ends_with("required input\"}") {
            let mut block = [0; 512];
            let read = stream.read(&mut block).await.unwrap();
            assert!(read > 0, "{text}");
            text.push_str(std::str::from_utf8(&block[..read]).unwrap());
        }
        assert!(text.starts_with("HTTP/1.1 400"), "{text}");
    }
    assert_eq!(sim.requests().len(), 3);
}

#[tokio::test]
async fn accepted_pairs_change_at_run_time() {
    let sim = sim().await;
    let pairs = r#"[{"user":"old","pass":"a"},{"user":"demo-user","pass":"b"},{"user":"demo-user","pass":"demo-pass"}]"#;
    assert_eq!(
        control(&sim, "PUT", "/_sim/credentials", pairs).await,
        (200, json!({"count": 3}))
    );
    assert_eq!(get_status(&sim).await.status(), 404);
    sim.set_credentials(vec![Login::new("x", "y"), Login::new("demo-user", "other")]);
    assert_eq!(get_status(&sim).await.status(), 401);
    sim.set_credentials(Vec::new());
    assert_eq!(get_status(&sim).await.status(), 401);
    let records = sim.requests();
    let seen: Vec<_> = records
        .iter()
        .map(|r| (r.credentials, r.user_index))
        .collect();
    assert_eq!(
        seen,
        [
            (Credentials::Accepted, Some(2)),
            (Credentials::Refused, Some(1)),
            (Credentials::Refused, None)
        ]
    );
}

#[tokio::test]
async fn emails_fold_as_the_switch_says() {
    for (folding, status) in [(EmailFolding::Exact, 404), (EmailFolding::Lowercase, 200)] {
        let sim = sim().await;
        sim.set_behaviour(Behaviour {
            email_folding: folding,
            ..Behaviour::default()
        });
        create(&sim).await;
        let ask = r#""service":"getStatus","target":{"email":"MAX@Specimen.example"}"#;
        assert_eq!(
            post(&sim, &format!("{{{AUTH},{ask}}}")).await.status(),
            status
        );
    }
}

#[tokio::test]
async fn an_update_keeps_or_blanks_what_it_does_not_name() {
    let ask = r#""service":"createOrUpdateCustomer","target":{"email":"max@specimen.example","ln":"New"}"#;
    let body = format!("{{{AUTH},{ask}}}");
    for (omitted, first, reference, documents) in [
        (
            OmittedFields::Keep,
            "Max",
            "888888812",
            json!({"front": "AAAA", "back": "QkJC"}),
        ),
        (OmittedFields::Blank, "", "", Value::Null),
    ] {
        let (sim, _) = start(SimulatorSettings {
            behaviour: Behaviour {
                omitted_fields: omitted,
                initial_status: Status::Pending,
                ..Behaviour::default()
            },
            ..SimulatorSettings::default()
        })
        .await;
        create(&sim).await;
        let got: Value = serde_json::from_str(post(&sim, &body).await.body()).unwrap();
        assert_eq!(got["type"], "updateCustomer");
        assert_eq!(got["status"], "PENDING");
        assert_eq!(got["reference"], reference);
        assert_eq!(
            (&got["target"]["fn"], &got["target"]["ln"]),
            (&json!(first), &json!("New"))
        );
        assert_eq!(images(&sim).await["target"]["documents"], documents);
    }
}

#[tokio::test]
async fn missing_images_have_the_shape_of_the_switch() {
    let one = r#","documents":{"front":"AAAA"}"#;
    for (missing, documents, expected) in [
        (MissingDocuments::Null, "", Some(Value::Null)),
        (
            MissingDocuments::Null,
            one,
            Some(json!({"front": "AAAA", "back": null})),
        ),
        (MissingDocuments::Absent, "", None),
        (
            MissingDocuments::Absent,
            one,
            Some(json!({"front": "AAAA"})),
        ),
        (
            MissingDocuments::Empty,
            "",
            Some(json!({"front": "", "back": ""})),
        ),
        (
            MissingDocuments::Empty,
            one,
            Some(json!({"front": "AAAA", "back": ""})),
        ),
    ] {
        let sim = sim().await;
        sim.set_behaviour(Behaviour {
            missing_documents: missing,
            ..Behaviour::default()
        });
        let ask = format!(r#""service":"createOrUpdateCustomer","target":{{{MAX}{documents}}}"#);
        post(&sim, &format!("{{{AUTH},{ask}}}")).await;
        let got = images(&sim).await;
        assert_eq!(
            got["target"].get("documents"),
            expected.as_ref(),
            "{missing:?}"
        );
    }
}

#[tokio::test]
async fn undocumented_cases_answer_as_switched() {
    let sim = sim().await;
    for (choice, status, text) in [
        (Undocumented::MissingInput, 400, "Missing a required input"),
        (Undocumented::UnknownMessage, 400, "cannot be processed"),
        (Undocumented::ServerError, 500, r#"{"result":"Error","#),
        (Undocumented::Html, 500, "<html>"),
        (Undocumented::EmptyOk, 200, ""),
    ] {
        sim.set_behaviour(Behaviour {
            unknown_service: choice,
            malformed_json: choice,
            invalid_status: choice,
            ..Behaviour::default()
        });
        create(&sim).await;
        let ask =
            r#""service":"updateStatus","target":{"email":"max@specimen.example","status":"pass"}"#;
        for body in [
            format!("{{{AUTH},{ask}}}"),
            format!(r#"{{{AUTH},"service":"getstatus","target":{{"email":"a@b.c"}}}}"#),
            "{".to_owned(),
            "[]".to_owned(),
            String::new(),
        ] {
            let got = post(&sim, &body).await;
            assert_eq!(got.status(), status, "{choice:?} {body}");
            assert!(got.body().contains(text), "{choice:?} {body}");
        }
    }
}

#[tokio::test]
async fn required_fields_extra_fields_and_echoes_follow_their_switches() {
    let sim = sim().await;
    sim.set_behaviour(Behaviour {
        required: vec![RequiredField::Dob, RequiredField::Front],
        extra_fields: true,
        ..Behaviour::default()
    });
    let ask = format!(r#"{{{AUTH},"service":"createOrUpdateCustomer","target":{{{MAX}}}}}"#);
    assert_eq!(post(&sim, &ask).await.status(), 400);
    let got: Value = serde_json::from_str(create(&sim).await.body()).unwrap();
    assert!(got["meta"].is_object() && got["target"]["additionalData"].is_object());
    for (echo, pointer) in [
        (Echo::Link, "/customer_link"),
        (Echo::Message, "/message"),
        (Echo::Reference, "/reference"),
        (Echo::Target, "/target/fn"),
    ] {
        sim.set_behaviour(Behaviour {
            echo,
            ..Behaviour::default()
        });
        let got: Value = serde_json::from_str(create(&sim).await.body()).unwrap();
        let text = got.pointer(pointer).unwrap().as_str().unwrap();
        assert!(text.contains("demo-user demo-pass"), "{text}");
    }
    sim.set_behaviour(Behaviour {
        echo: Echo::Message,
        ..Behaviour::default()
    });
    sim.clear_customers();
    assert!(
        get_status(&sim)
            .await
            .body()
            .contains("not found demo-user demo-pass")
    );
}

#[tokio::test]
async fn faults_in_place_of_the_answer_do_no_work() {
    let sim = sim().await;
    for (fault, status, text) in [
        (
            r#"{"kind":"status","status":503,"message":"later","retry_after":7}"#,
            503,
            r#""message":"later""#,
        ),
        (
            r#"{"kind":"error","error":"bad_login"}"#,
            401,
            "username or password",
        ),
        (
            r#"{"kind":"error_with_200","error":"invalid_email"}"#,
            200,
            "address is invalid",
        ),
        (r#"{"kind":"html"}"#, 502, "<html>"),
        (r#"{"kind":"malformed"}"#, 200, r#""reference":"#),
        (r#"{"kind":"empty"}"#, 200, ""),
        (
            r#"{"kind":"redirect","location":"http://127.0.0.1:9/x"}"#,
            302,
            "",
        ),
    ] {
        assert_eq!(control(&sim, "POST", "/_sim/faults", fault).await.0, 200);
        let got = create(&sim).await;
        assert_eq!(got.status(), status, "{fault}");
        assert!(got.body().contains(text), "{fault}");
        assert!(got.end.is_ok());
        let record = sim.requests().pop().unwrap();
        assert_eq!((record.status, record.stored), (Some(status), false));
        assert_eq!(record.faults.len(), 1);
        match status {
            302 => assert!(got.head().contains("location: http://127.0.0.1:9/x")),
            503 => assert!(got.head().contains("retry-after: 7")),
            _ => {}
        }
    }
    assert!(sim.faults().is_empty());
    assert_eq!(sim.customers(), 0);
    sim.add_fault(Fault::once(FaultKind::Empty {}).with_work(true))
        .unwrap();
    create(&sim).await;
    assert_eq!(sim.customers(), 1);
}

#[tokio::test]
async fn faults_in_the_delivery_come_after_the_work() {
    let sim = sim().await;
    create(&sim).await;
    let whole = create(&sim).await;
    let length = whole.body().len();
    for (kind, end, body, status) in [
        (
            FaultKind::Reset {},
            Err(ErrorKind::ConnectionReset),
            None,
            None,
        ),
        (FaultKind::Close {}, Ok(()), None, None),
        (
            FaultKind::ResetInBody { bytes: 20 },
            Err(ErrorKind::ConnectionReset),
            Some(20),
            Some(200),
        ),
        (
            FaultKind::Truncate { bytes: 30 },
            Ok(()),
            Some(30),
            Some(200),
        ),
        (
            FaultKind::Truncate { bytes: 1 << 20 },
            Ok(()),
            Some(length - 1),
            Some(200),
        ),
        (
            FaultKind::Drip { bytes: 100, ms: 1 },
            Ok(()),
            Some(length),
            Some(200),
        ),
        (
            FaultKind::Headers { bytes: 50_000 },
            Ok(()),
            Some(length),
            Some(200),
        ),
    ] {
        sim.clear_customers();
        sim.add_fault(Fault::once(kind.clone())).unwrap();
        let got = create(&sim).await;
        assert_eq!(got.end, end, "{kind:?}");
        match body {
            None => assert_eq!(got.text, "", "{kind:?}"),
            Some(bytes) => {
                assert_eq!(got.body().len(), bytes, "{kind:?}");
                assert!(
                    got.head().contains(&format!("content-length: {length}")),
                    "{kind:?}"
                );
            }
        }
        let record = sim.requests().pop().unwrap();
        assert_eq!((record.status, record.stored), (status, true), "{kind:?}");
        assert_eq!(record.faults, [kind.name()]);
        assert_eq!(sim.customers(), 1);
    }
    sim.add_fault(Fault::once(FaultKind::NotHttp {})).unwrap();
    assert!(!create(&sim).await.text.starts_with("HTTP"));
    sim.add_fault(Fault::once(FaultKind::Reset {}).with_work(false))
        .unwrap();
    sim.clear_customers();
    create(&sim).await;
    assert_eq!(sim.customers(), 0);
}

#[tokio::test]
async fn an_oversized_answer_is_json_of_exactly_that_size() {
    let sim = sim().await;
    for chunked in [false, true] {
        let bytes = 300_000;
        sim.add_fault(Fault::once(FaultKind::Oversize { bytes, chunked }))
            .unwrap();
        let got = get_status(&sim).await;
        assert_eq!(got.status(), 200);
        let body = if chunked {
            dechunk(got.body())
        } else {
            got.body().to_owned()
        };
        assert_eq!(body.len(), 300_000);
        let json: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(json["result"], "Success");
        assert_eq!(got.head().contains("transfer-encoding: chunked"), chunked);
    }
}

fn dechunk(mut text: &str) -> String {
    let mut body = String::new();
    loop {
        let (size, rest) = text.split_once("\r\n").unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return body;
        }
        body.push_str(&rest[..size]);
        text = &rest[size + 2..];
    }
}

#[tokio::test]
async fn calls_that_hang_are_let_go_when_the_faults_are_cleared() {
    for kind in [
        FaultKind::Hang {},
        FaultKind::Stall {},
        FaultKind::Delay { ms: 600_000 },
    ] {
        let sim = sim().await;
        sim.add_fault(Fault::always(kind.clone())).unwrap();
        let waiting = create(&sim);
        let steering = async {
            sim.arrived(1).await;
            sim.clear_faults();
        };
        let (got, ()) = tokio::join!(waiting, steering);
        let record = sim.requests().pop().unwrap();
        assert_eq!(record.faults, [kind.name()]);
        assert_eq!(record.stored, kind != FaultKind::Stall {});
        assert_eq!(record.body_complete, kind != FaultKind::Stall {});
        assert_eq!(got.text.is_empty(), kind.name() != "delay", "{kind:?}");
    }
}

#[tokio::test]
async fn what_comes_late_is_done_also_for_a_client_that_left() {
    let sim = sim().await;
    let fault = Fault::once(FaultKind::Late { ms: 600_000 });
    sim.add_fault(fault.for_service("createOrUpdateCustomer"))
        .unwrap();
    {
        let creating = create(&sim);
        tokio::pin!(creating);
        // The fault is used up by whom it holds.
        let held = async {
            while !sim.faults().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = &mut creating => panic!("answered"),
            () = held => {}
        }
    }
    assert_eq!(get_status(&sim).await.status(), 404);
    assert_eq!(sim.requests().len(), 1);
    sim.clear_faults();
    sim.arrived(2).await;
    let late = sim.requests().pop().unwrap();
    assert_eq!((late.faults, late.stored), (vec!["late"], true));
    assert_eq!(get_status(&sim).await.status(), 200);

    sim.add_fault(Fault::once(FaultKind::Late { ms: 30 }))
        .unwrap();
    let before = crate::clock::instant();
    assert_eq!(get_status(&sim).await.status(), 200);
    assert!(before.elapsed().as_millis() >= 30);
}

#[tokio::test]
async fn users_may_have_customers_of_their_own() {
    let accepted = ["demo-user", "other"].map(|user| Login::new(user, "demo-pass"));
    let (sim, _stop) = start(SimulatorSettings {
        accepted: accepted.into(),
        ..SimulatorSettings::default()
    })
    .await;
    let of_other = AUTH.replace("demo-user", "other");
    let asked = r#""service":"getStatus","target":{"email":"max@specimen.example"}"#;
    let body = format!("{{{of_other},{asked}}}");
    for (per_user, status) in [(false, 200), (true, 404)] {
        sim.set_behaviour(Behaviour {
            per_user,
            ..Behaviour::default()
        });
        assert_eq!(create(&sim).await.status(), 200);
        assert_eq!(get_status(&sim).await.status(), 200);
        assert_eq!(post(&sim, &body).await.status(), status);
    }
}

#[tokio::test]
async fn delay_status_and_delivery_combine() {
    let sim = sim().await;
    let error = DocumentedError::NotFound;
    sim.add_fault(Fault::always(FaultKind::Delay { ms: 30 }))
        .unwrap();
    sim.add_fault(Fault::once(FaultKind::Error { error }))
        .unwrap();
    sim.add_fault(Fault::once(FaultKind::Truncate { bytes: 5 }))
        .unwrap();
    let before = crate::clock::instant();
    let got = create(&sim).await;
    assert!(before.elapsed().as_millis() >= 30);
    assert_eq!((got.status(), got.body()), (404, r#"{"res"#));
    assert_eq!(sim.requests()[0].faults, ["delay", "error", "truncate"]);
    assert_eq!(sim.faults().len(), 1);
}

#[tokio::test]
async fn a_wrong_control_call_changes_nothing_and_says_what_to_do() {
    let sim = sim().await;
    for (method, path, body, status) in [
        ("POST", "/_sim/faults", r#"{"kind":"nap"}"#, 400),
        ("POST", "/_sim/faults", r#"{"kind":"reset","ms":1}"#, 400),
        ("POST", "/_sim/faults", "", 400),
        (
            "PUT",
            "/_sim/behaviour",
            r#"{"emial_folding":"exact"}"#,
            400,
        ),
        ("PUT", "/_sim/behaviour", r#"{"echo":"everywhere"}"#, 400),
        ("PUT", "/_sim/credentials", r#"[{"user":"hunter2"}]"#, 400),
        ("PUT", "/_sim/credentials", r#"["hunter2"]"#, 400),
        ("GET", "/_sim/requests?after=3", "", 400),
        ("PUT", "/_sim/faults", "{}", 405),
        ("POST", "/_sim/customers", "", 405),
        ("GET", "/_sim/nothing", "", 404),
    ] {
        let (got, answer) = control(&sim, method, path, body).await;
        assert_eq!(got, status, "{method} {path} {body}");
        assert!(
            answer["error"].is_string() && answer["next"].is_string(),
            "{answer}"
        );
        assert!(!answer.to_string().contains("hunter2"), "{answer}");
    }
    assert_eq!(sim.behaviour(), Behaviour::default());
    assert!(sim.faults().is_empty() && sim.requests().is_empty());
    assert_eq!(create(&sim).await.status(), 200);
    let large = "x".repeat(300_000);
    assert_eq!(control(&sim, "POST", "/_sim/faults", &large).await.0, 400);
}

#[tokio::test]
async fn the_control_calls_steer_the_same_state_as_the_handle() {
    let sim = sim().await;
    let (status, overview) = control(&sim, "GET", "/_sim", "").await;
    assert_eq!(status, 200);
    assert!(overview.as_object().unwrap().len() >= 5);
    let (status, behaviour) =
        control(&sim, "PUT", "/_sim/behaviour", r#"{"echo":"message"}"#).await;
    assert_eq!(
        (status, &behaviour["initial_status"]),
        (200, &json!("PASS"))
    );
    assert_eq!(sim.behaviour().echo, Echo::Message);
    assert_eq!(
        control(&sim, "GET", "/_sim/behaviour", "").await.1,
        behaviour
    );
    create(&sim).await;
    assert_eq!(
        control(&sim, "GET", "/_sim/customers", "").await.1,
        json!({"count": 1})
    );
    assert_eq!(control(&sim, "DELETE", "/_sim/customers", "").await.0, 204);
    assert_eq!(sim.customers(), 0);
    let fault = r#"{"kind":"status","status":503,"share":0.25,"service":"getStatus"}"#;
    let (_, faults) = control(&sim, "POST", "/_sim/faults", fault).await;
    assert_eq!(faults[0]["kind"], "status");
    assert_eq!(
        (&faults[0]["share"], &faults[0]["times"]),
        (&json!(0.25), &Value::Null)
    );
    assert_eq!(control(&sim, "GET", "/_sim/faults", "").await.1, faults);
    let mut met = 0;
    for _ in 0..8 {
        met += u32::from(get_status(&sim).await.status() == 503);
    }
    assert_eq!(met, 2);
    assert_eq!(control(&sim, "DELETE", "/_sim/faults", "").await.0, 204);
    assert!(sim.faults().is_empty());
    assert_eq!(
        control(&sim, "GET", "/_sim/credentials", "").await.1,
        json!({"count": 1})
    );
}

#[tokio::test]
async fn the_simulator_ends_with_its_connections() {
    let (sim, shutdown) = start(SimulatorSettings::default()).await;
    let idle = TcpStream::connect(sim.address()).await.unwrap();
    sim.add_fault(Fault::once(FaultKind::Hang {})).unwrap();
    let stopping = async {
        sim.arrived(1).await;
        shutdown.cancel();
        sim.join().await;
    };
    let (got, ()) = tokio::join!(create(&sim), stopping);
    assert_eq!(got.text, "");
    assert!(TcpStream::connect(sim.address()).await.is_err());
    drop(idle);
}

#[tokio::test]
async fn a_large_body_with_two_images_comes_back_whole() {
    let sim = sim().await;
    let (front, back) = ("A".repeat(5 << 20), "B".repeat(4 << 20));
    let documents = format!(r#""documents":{{"front":"{front}","back":"{back}"}}"#);
    let ask = format!(r#""service":"createOrUpdateCustomer","target":{{{MAX},{documents}}}"#);
    assert_eq!(post(&sim, &format!("{{{AUTH},{ask}}}")).await.status(), 200);
    let record = sim.requests().remove(0);
    assert_eq!(record.images.front, Some(ImageRecord::of(&front)));
    let got = images(&sim).await;
    assert!(got["target"]["documents"] == json!({"front": front, "back": back}));
}

#[tokio::test]
async fn run_says_when_the_address_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let outcome = run(
        address,
        SimulatorSettings::default(),
        CancellationToken::new(),
    )
    .await;
    let message = outcome.unwrap_err().to_string();
    assert!(message.contains("--listen"), "{message}");
    let stopped = CancellationToken::new();
    stopped.cancel();
    let free = "127.0.0.1:0".parse().unwrap();
    run(free, SimulatorSettings::default(), stopped)
        .await
        .unwrap();
}
