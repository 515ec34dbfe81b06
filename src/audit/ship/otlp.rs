//! Lines as log records of OpenTelemetry, and a collector's answer: OTLP 1.x over HTTP, as JSON
//! (<https://opentelemetry.io/docs/specs/otlp/#otlphttp>). Pure.
//!
//! Invariant: a record's body is the line as it stands in the file, so that it can still be verified.

use std::borrow::Cow;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, value::RawValue};

use super::{batch::Slice, failure::Failure};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    resource_logs: [ResourceLogs<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceLogs<'a> {
    resource: Resource<'a>,
    scope_logs: [ScopeLogs<'a>; 1],
}

#[derive(Serialize)]
struct Resource<'a> {
    attributes: [Attribute<'a>; 2],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ScopeLogs<'a> {
    scope: Scope,
    log_records: Vec<Record<'a>>,
}

#[derive(Serialize)]
struct Scope {
    name: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    time_unix_nano: Decimal,
    body: AnyValue<'a>,
    attributes: Vec<Attribute<'a>>,
}

#[derive(Serialize)]
struct Attribute<'a> {
    key: &'static str,
    value: AnyValue<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum AnyValue<'a> {
    IntValue(Decimal),
    StringValue(Cow<'a, str>),
}

/// A number of 64 bits, which JSON has as text.
struct Decimal(i128);

impl Serialize for Decimal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// What of an event becomes an attribute.
#[derive(Deserialize)]
struct Known<'a> {
    seq: Option<u64>,
    time: Option<Timestamp>,
    #[serde(borrow)]
    phase: Option<Cow<'a, str>>,
    #[serde(borrow)]
    event: Option<Cow<'a, str>>,
    #[serde(borrow)]
    request_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    tenant: Option<Cow<'a, str>>,
    #[serde(borrow)]
    code: Option<Cow<'a, str>>,
}

/// The request with these lines.
pub(super) fn request(lines: Slice<'_>) -> Vec<u8> {
    let each: Vec<Bytes> = lines.each().map(|(_, line)| line).collect();
    let request = Request {
        resource_logs: [ResourceLogs {
            resource: Resource {
                attributes: [
                    Attribute::text("service.name", "dcams-gateway"),
                    Attribute::text("service.instance.id", lines.node().as_str()),
                ],
            },
            scope_logs: [ScopeLogs {
                scope: Scope {
                    name: "dcams-gateway.audit",
                },
                log_records: each.iter().map(|line| record(line)).collect(),
            }],
        }],
    };
    // Texts and numbers always are JSON.
    serde_json::to_vec(&request).unwrap_or_default()
}

fn record(line: &[u8]) -> Record<'_> {
    // Whatever it is that stands there, it is what is sent.
    let known: Option<Known<'_>> = serde_json::from_slice(line).ok();
    let mut attributes = Vec::new();
    let mut time = 0;
    if let Some(known) = known {
        time = known.time.map_or(0, Timestamp::as_nanosecond);
        if let Some(seq) = known.seq {
            let value = AnyValue::IntValue(Decimal(seq.into()));
            let key = "audit.seq";
            attributes.push(Attribute { key, value });
        }
        let texts = [
            ("audit.phase", known.phase),
            ("audit.event", known.event),
            ("audit.request_id", known.request_id),
            ("audit.tenant", known.tenant),
            ("audit.code", known.code),
        ];
        for (key, text) in texts {
            attributes.extend(text.map(|text| Attribute::text(key, text)));
        }
    }
    Record {
        time_unix_nano: Decimal(time.max(0)),
        body: AnyValue::StringValue(String::from_utf8_lossy(line)),
        attributes,
    }
}

impl<'a> Attribute<'a> {
    fn text(key: &'static str, text: impl Into<Cow<'a, str>>) -> Self {
        Self {
            key,
            value: AnyValue::StringValue(text.into()),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    #[serde(borrow)]
    partial_success: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PartialSuccess {
    rejected_log_records: Option<Value>,
}

/// Whether all records were taken, from the body of an answer with a good status. One without a body
/// says yes: some collectors answer 204.
pub(super) fn taken(body: &[u8]) -> Result<(), Failure> {
    if body.is_empty() {
        return Ok(());
    }
    let answer: Answer<'_> = serde_json::from_slice(body).map_err(|_| Failure::Malformed)?;
    let Some(partial) = answer.partial_success else {
        return Ok(());
    };
    let partial: Option<PartialSuccess> =
        serde_json::from_str(partial.get()).map_err(|_| Failure::Malformed)?;
    match partial.and_then(|partial| partial.rejected_log_records) {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Number(number)) if number.as_i64() == Some(0) => Ok(()),
        Some(Value::String(text)) if text == "0" => Ok(()),
        Some(_) => Err(Failure::Refused),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::{
            batch::{Batch, Entry},
            cursor::Cursor,
        },
        *,
    };
    use crate::ident::NodeId;

    #[test]
    fn a_line_is_a_record_of_the_documented_shape() {
        let line = br#"{"v":1,"seq":17,"node":"gw-1","time":"2026-11-23T08:00:00.5Z","phase":"outcome","tenant":"a\"b","code":"ok","prev":"00","mac":"00"}"#;
        let node = NodeId::try_from("gw-1").unwrap();
        let batch = Batch {
            bytes: [&line[..], b"\n"].concat().into(),
            lines: vec![Entry {
                at: Cursor { seq: 17, file: 1 },
                end: line.len() + 1,
            }],
            ..Batch::default()
        };
        let request = request(batch.slice(&node, 0, 1));
        let text = |text: &str| json!({"stringValue": text});
        let expected = json!({"resourceLogs": [{
            "resource": {"attributes": [
                {"key": "service.name", "value": text("dcams-gateway")},
                {"key": "service.instance.id", "value": text("gw-1")},
            ]},
            "scopeLogs": [{
                "scope": {"name": "dcams-gateway.audit"},
                "logRecords": [{
                    "timeUnixNano": "1795420800500000000",
                    "body": text(str::from_utf8(line).unwrap()),
                    "attributes": [
                        {"key": "audit.seq", "value": {"intValue": "17"}},
                        {"key": "audit.phase", "value": text("outcome")},
                        {"key": "audit.tenant", "value": text("a\"b")},
                        {"key": "audit.code", "value": text("ok")},
                    ],
                }],
            }],
        }]});
        let sent: Value = serde_json::from_slice(&request).unwrap();
        assert_eq!(sent, expected);
    }

    #[test]
    fn rejected_records_are_noticed_in_every_form() {
        for good in [
            "",
            "{}",
            r#"{"partialSuccess":null}"#,
            r#"{"partialSuccess":{}}"#,
            r#"{"partialSuccess":{"rejectedLogRecords":0,"errorMessage":"a warning"}}"#,
            r#"{"partialSuccess":{"rejectedLogRecords":"0"}}"#,
        ] {
            assert_eq!(taken(good.as_bytes()), Ok(()), "{good}");
        }
        for rejected in ["1", "\"1\"", "-1", "1.5", "true", "[]"] {
            let body = format!(r#"{{"partialSuccess":{{"rejectedLogRecords":{rejected}}}}}"#);
            assert_eq!(taken(body.as_bytes()), Err(Failure::Refused), "{body}");
        }
        for other in ["<html>", "[]", "1", r#"{"partialSuccess":7}"#, "{}{}"] {
            assert_eq!(taken(other.as_bytes()), Err(Failure::Malformed), "{other}");
        }
    }
}
