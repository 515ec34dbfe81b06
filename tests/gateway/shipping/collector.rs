//! A collector of OpenTelemetry, which takes what is documented and nothing else.

use serde::Deserialize;

use super::*;

// The shape of `ExportLogsServiceRequest` in the JSON of protocol buffers: no other member passes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Request {
    resource_logs: Vec<ResourceLogs>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ResourceLogs {
    resource: Attributes,
    scope_logs: Vec<ScopeLogs>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Attributes {
    attributes: Vec<Attribute>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ScopeLogs {
    #[serde(rename = "scope")]
    _scope: Scope,
    log_records: Vec<Record>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scope {
    #[serde(rename = "name")]
    _name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Record {
    /// A fixed64 is a decimal text.
    time_unix_nano: String,
    body: AnyValue,
    attributes: Vec<Attribute>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Attribute {
    key: String,
    value: AnyValue,
}

#[derive(Deserialize, Debug, PartialEq, Clone)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum AnyValue {
    StringValue(String),
    IntValue(String),
}

fn otlp(receiver: &Receiver) -> ShipSettings {
    settings(Place::Otlp(Endpoint::parse(&receiver.url()).unwrap()))
}

fn value(attributes: &[Attribute], key: &str) -> Option<AnyValue> {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    found.map(|attribute| attribute.value.clone())
}

/// The lines in a request, each checked against its attributes.
fn records(body: &str) -> Vec<String> {
    let request: Request = serde_json::from_str(body).unwrap();
    let [logs] = &request.resource_logs[..] else {
        panic!("one resource")
    };
    let text = |text: &str| Some(AnyValue::StringValue(text.to_owned()));
    let of_resource = &logs.resource.attributes;
    assert_eq!(value(of_resource, "service.name"), text("dcams-gateway"));
    assert_eq!(value(of_resource, "service.instance.id"), text(NODE));
    let [scope] = &logs.scope_logs[..] else {
        panic!("one scope")
    };
    let line = |record: &Record| {
        let AnyValue::StringValue(line) = &record.body else {
            panic!("a line is text")
        };
        let event: Value = serde_json::from_str(line).unwrap();
        let time: jiff::Timestamp = event["time"].as_str().unwrap().parse().unwrap();
        assert_eq!(record.time_unix_nano, time.as_nanosecond().to_string());
        let seq = AnyValue::IntValue(event["seq"].to_string());
        assert_eq!(value(&record.attributes, "audit.seq"), Some(seq));
        for name in ["phase", "event", "request_id", "tenant", "code"] {
            let expected = event[name].as_str().and_then(text);
            assert_eq!(
                value(&record.attributes, &format!("audit.{name}")),
                expected
            );
        }
        line.clone()
    };
    scope.log_records.iter().map(line).collect()
}

fn all_records(receiver: &Receiver, taken: bool) -> Vec<String> {
    let heard = receiver.heard().into_iter().filter(|h| h.taken || !taken);
    heard
        .flat_map(|heard| records(std::str::from_utf8(&heard.body).unwrap()))
        .collect()
}

#[tokio::test]
async fn a_collector_gets_every_line_as_a_record() {
    let receiver = Receiver::start(|_| Reaction::Answer(200, "", "{}")).await;
    let chain = Written::begin(4_096);
    chain.write(100).await;
    chain.close().await;
    let mut settings = otlp(&receiver);
    settings.batch.lines = 30;
    let shipped = chain.ship(&settings);
    shipped.until_all().await;
    assert_same(&all_records(&receiver, true), &chain.lines());
    let heard = receiver.heard().remove(0);
    assert_eq!(heard.headers["content-type"], "application/json");
    assert_eq!(heard.headers["authorization"], format!("Bearer {TOKEN}"));
}

#[tokio::test]
async fn a_record_that_a_collector_rejects_is_not_taken() {
    let rejects = r#"{"partialSuccess":{"rejectedLogRecords":"1","errorMessage":"canary"}}"#;
    let receiver = Receiver::start(move |body| {
        let answer = if body.contains("\\\"mistakes\\\":7,") {
            rejects
        } else {
            r#"{"partialSuccess":{"rejectedLogRecords":"0","errorMessage":"a warning"}}"#
        };
        Reaction::Answer(200, "", answer)
    })
    .await;
    let chain = Written::begin(u64::MAX);
    chain.write(20).await;
    let log = Lines::default();
    let _guard = log.collect_log();
    let shipped = chain.ship(&otlp(&receiver));
    let health = shipped.until(|health| health.reason.is_some()).await;
    assert_eq!(health.reason, Some("line_refused"));
    let bad = chain.lines();
    let bad = bad.iter().find(|l| l.contains("\"mistakes\":7,")).unwrap();
    assert_eq!(health.last_taken_seq, seq(bad) - 1);
    receiver.react(|_| Reaction::Answer(200, "", "{}"));
    shipped.until_all().await;
    assert_same(&first_times(&all_records(&receiver, false)), &chain.lines());
    assert!(!log.text().contains("canary"), "{}", log.text());
}

#[tokio::test]
async fn an_answer_that_is_no_collectors_takes_nothing() {
    for (reason, header, body) in [
        ("malformed_answer", "", "<html>Welcome</html>"),
        ("encoded", "Content-Encoding: gzip", "{}"),
    ] {
        let receiver = Receiver::start(move |_| Reaction::Answer(200, header, body)).await;
        let chain = Written::begin(u64::MAX);
        let shipped = chain.ship(&otlp(&receiver));
        let health = shipped.until(|health| health.reason.is_some()).await;
        assert_eq!((health.reason, health.last_taken_seq), (Some(reason), 0));
    }
    let long: &'static str = "x".repeat(64 * 1024 + 1).leak();
    let receiver = Receiver::start(move |_| Reaction::Answer(200, "", long)).await;
    let chain = Written::begin(u64::MAX);
    let shipped = chain.ship(&otlp(&receiver));
    let health = shipped.until(|health| health.reason.is_some()).await;
    assert_eq!(health.reason, Some("too_large"));
}
