//! Audit events: what a tenant did to a customer and how it ended, and what the gateway did by itself.
//!
//! Invariant: an event is a struct of allowed fields. People appear as keyed pseudonyms, fields by
//! name, images by side, format and size; there is no field that a value, a token or a credential
//! could be put in.
//!
//! Each event is one line of JSON, numbered, with a MAC over the line up to it, so that a changed
//! or invented line is found by whoever holds `audit.key`.

pub mod chain;
pub mod folder;
pub mod key;
pub mod line;
pub mod note;
pub mod tree;

use std::{
    io::{self, Write},
    sync::{Mutex, PoisonError},
};

use aws_lc_rs::hmac;
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    address::Client,
    ident::{Pseudonym, RequestId, hex},
};

/// Where events go: a writer, and the key that authenticates each line.
pub struct AuditTrail {
    key: hmac::Key,
    // One writer: events are numbered in the order in which they are written. The lock is held for
    // one `write_all`, never across an await.
    sink: Mutex<Sink>,
}

struct Sink {
    seq: u64,
    line: Vec<u8>,
    out: Box<dyn Write + Send>,
}

/// The version of the event's form (`v`).
const VERSION: u8 = 1;

impl AuditTrail {
    /// A trail that writes to `out`, authenticated with `audit.key`.
    pub fn new(key: &[u8; 32], out: Box<dyn Write + Send>) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
            sink: Mutex::new(Sink {
                seq: 0,
                line: Vec::with_capacity(1024),
                out,
            }),
        }
    }

    /// Writes one event as one line.
    ///
    /// # Errors
    /// What the writer says; the event is lost then, and its number is not used again.
    pub fn record(&self, event: &impl Serialize) -> io::Result<()> {
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        let Sink { seq, line, out } = &mut *sink;
        *seq += 1;
        line.clear();
        serde_json::to_writer(
            &mut *line,
            &Numbered {
                v: VERSION,
                seq: *seq,
                event,
            },
        )?;
        // The MAC takes the place of the closing brace: the line up to it is what it covers.
        line.pop();
        let mac = hmac::sign(&self.key, line);
        line.extend_from_slice(b",\"mac\":\"");
        line.extend_from_slice(&digits(&mac));
        line.extend_from_slice(b"\"}\n");
        out.write_all(line)?;
        out.flush()
    }

    /// Whether a line is one that this key wrote, unchanged.
    pub fn verify(&self, line: &str) -> bool {
        let Some((covered, rest)) = line.trim_end_matches('\n').rsplit_once(",\"mac\":\"") else {
            return false;
        };
        let mac = hmac::sign(&self.key, covered.as_bytes());
        rest.strip_suffix("\"}")
            .is_some_and(|given| given.as_bytes() == digits(&mac))
    }
}

/// A MAC of SHA-256 in hexadecimal digits.
fn digits(mac: &hmac::Tag) -> [u8; 64] {
    let mut text = [b'0'; 64];
    hex(mac.as_ref(), &mut text);
    text
}

#[derive(Serialize)]
struct Numbered<'a, E> {
    v: u8,
    seq: u64,
    #[serde(flatten)]
    event: &'a E,
}

/// What the gateway did by itself, or on an operator's word.
#[derive(Debug, Serialize)]
pub struct Act<'a> {
    /// When it was done.
    #[serde(serialize_with = "as_text")]
    pub time: Timestamp,
    /// Always `event`.
    pub phase: Phase,
    /// What it was.
    #[serde(flatten)]
    pub deed: Deed<'a>,
}

/// The kinds of acts, with what there is to know of each (`event`).
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Deed<'a> {
    /// An operator asked for something, or did it.
    Admin {
        /// `cache_purge`, `customer_forget`, `usage_read`, `usage_grant` or `statement_read`.
        action: &'static str,
        /// Whose; none where it is about all tenants.
        #[serde(skip_serializing_if = "Option::is_none")]
        tenant: Option<&'a str>,
        /// Of which month.
        #[serde(skip_serializing_if = "Option::is_none")]
        month: Option<&'a str>,
        /// What was granted.
        #[serde(flatten)]
        grant: Option<Granting>,
        /// What was forgotten.
        #[serde(flatten)]
        forgetting: Option<Forgetting>,
    },
    /// The configuration was read again.
    ConfigReloaded {
        /// `ok`, or why it stays as it was: `refused`.
        result: &'static str,
        /// What asked for it: `signal`, `file` or `api`.
        cause: &'static str,
        /// How many mistakes it was refused for.
        mistakes: usize,
    },
    /// A credential towards DCAMS has another state.
    CredentialChanged {
        /// The account.
        account: &'a str,
        /// The credential's id.
        credential: &'a str,
        /// Counts the values that this id has had in this process.
        generation: u64,
        /// The state before; none for a credential that is new.
        #[serde(skip_serializing_if = "Option::is_none")]
        from: Option<&'static str>,
        /// The state from now on.
        to: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// A customer's status was asked for anew before a client did.
    StatusRefreshed {
        /// The tenant in whose name.
        tenant: &'a str,
        /// The customer, as a pseudonym.
        #[serde(
            skip_serializing_if = "Option::is_none",
            serialize_with = "as_text_option"
        )]
        customer: Option<Pseudonym>,
        /// The credential it was sent with.
        #[serde(skip_serializing_if = "Option::is_none")]
        credential: Option<&'a str>,
        /// How often it was sent.
        attempts: u8,
        /// What the upstream answered.
        #[serde(skip_serializing_if = "Option::is_none")]
        upstream_status: Option<u16>,
        /// `ok`, or an error's code.
        result: &'static str,
    },
    /// A tenant has taken so much of a limit that somebody is told.
    QuotaWarning {
        /// The tenant.
        tenant: &'a str,
        /// The limit.
        policy: &'static str,
        /// How much it is.
        limit: u64,
        /// How much of it is taken.
        taken: u64,
    },
}

/// An allowance on top of a limit.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Granting {
    /// The limit.
    pub policy: &'static str,
    /// How much.
    pub amount: u64,
    /// `begun`, then how it ended: `granted`, `granted_before`, `refused`, or `unknown` where it may yet
    /// take effect.
    pub result: &'static str,
}

/// What the gateway was told to keep no more.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Forgetting {
    /// Of whom, as in outcome events; none where it is about a whole tenant.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "as_text_option"
    )]
    pub customer: Option<Pseudonym>,
    /// Whether a status was kept: `removed`, `none`, or `untold` where other gateways are yet to be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<&'static str>,
    /// Whether the ledger had the customer: `removed`, `not_owned`, `no_ledger`, or `unknown` where the
    /// ledger did not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ownership: Option<&'static str>,
    /// `begun`, then how it ended: `done`, or `incomplete`.
    pub result: &'static str,
}

/// How a request that passed authentication ended.
#[derive(Debug, Serialize)]
pub struct Outcome<'a> {
    /// When it ended.
    #[serde(serialize_with = "as_text")]
    pub time: Timestamp,
    /// Always `outcome`.
    pub phase: Phase,
    /// The gateway's id of the request.
    #[serde(serialize_with = "as_text")]
    pub request_id: RequestId,
    /// The client's own id of it, where it sent a plain one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_request_id: Option<&'a str>,
    /// The tenant.
    pub tenant: &'a str,
    /// The issuer whose token it carried.
    pub issuer: &'a str,
    /// The token's subject, as a pseudonym.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "as_text_option"
    )]
    pub subject: Option<Pseudonym>,
    /// Where it came from: a network, never an address.
    #[serde(serialize_with = "as_text")]
    pub client: Client,
    /// What the body asked for, once that is known.
    #[serde(flatten)]
    pub content: Option<&'a Content>,
    /// Whether it was sent upstream.
    pub decision: Decision,
    /// What part the status cache had in the answer, where it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<&'static str>,
    /// `ok`, an error's code, `client_gone`, or `shutting_down` where the process ended first.
    pub code: &'static str,
    /// Finer than the code, for the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The credential it was sent with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<&'a str>,
    /// How often it was sent.
    pub attempts: u8,
    /// What the client was answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// What the upstream answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_status: Option<u16>,
    /// The customer's status in the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub customer_status: Option<&'static str>,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// Milliseconds from the request's head to the answer.
    pub ms: f64,
}

/// What kind of event a line is.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The gateway's own act.
    Event,
    /// A request has ended.
    Outcome,
}

/// What the gateway did with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// The gateway answered it by itself.
    Answer,
    /// It was sent upstream.
    Forward,
    /// It was not.
    Refuse,
}

/// What a valid body asked for: names, sizes and pseudonyms.
#[derive(Debug, Serialize)]
pub struct Content {
    /// The service's name.
    pub service: &'static str,
    /// The customer's email, as a pseudonym.
    #[serde(serialize_with = "as_text")]
    pub customer: Pseudonym,
    /// The caller's reference, as a pseudonym.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "as_text_option"
    )]
    pub reference: Option<Pseudonym>,
    /// Which members were present.
    pub fields: Vec<&'static str>,
    /// Which images were present.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<ImageNote>,
}

/// An image of a request, without anything of its content.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ImageNote {
    /// `front` or `back`.
    pub side: &'static str,
    /// `jpeg` or `png`.
    pub format: &'static str,
    /// Its decoded size.
    pub bytes: u64,
}

fn as_text<T: std::fmt::Display, S: serde::Serializer>(value: &T, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(value)
}

#[expect(clippy::ref_option, reason = "serde hands a field over by reference")]
fn as_text_option<T: std::fmt::Display, S: serde::Serializer>(
    value: &Option<T>,
    s: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => s.collect_str(value),
        None => s.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ident::{PseudonymKey, Purpose, TenantId};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines(count: usize) -> (AuditTrail, Vec<String>) {
        let shared = Shared::default();
        let trail = AuditTrail::new(&[7; 32], Box::new(shared.clone()));
        let tenant: TenantId = "acme".try_into().unwrap();
        let content = Content {
            service: "getStatus",
            customer: PseudonymKey::derive(&[1; 32]).pseudonym(
                Purpose::Customer,
                &tenant,
                b"jane@example.com",
            ),
            reference: None,
            fields: vec!["email"],
            images: Vec::new(),
        };
        for _ in 0..count {
            let event = Outcome {
                time: Timestamp::UNIX_EPOCH,
                phase: Phase::Outcome,
                request_id: RequestId::mint(),
                client_request_id: None,
                tenant: "acme",
                issuer: "idp",
                subject: None,
                client: Client::Unknown,
                content: Some(&content),
                decision: Decision::Forward,
                cache: None,
                code: "ok",
                reason: None,
                credential: None,
                attempts: 1,
                http_status: Some(200),
                upstream_status: Some(200),
                customer_status: Some("PASS"),
                bytes_in: 10,
                bytes_out: 20,
                ms: 1.5,
            };
            trail.record(&event).unwrap();
        }
        let text = String::from_utf8(shared.0.lock().unwrap().clone()).unwrap();
        (trail, text.lines().map(str::to_owned).collect())
    }

    #[test]
    fn an_event_is_one_numbered_line_of_json() {
        let (_, lines) = lines(2);
        let second: serde_json::Value = serde_json::from_str(&lines[1]).unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!(
            (
                &second["seq"],
                &second["phase"],
                &second["service"],
                &second["customer_status"]
            ),
            (
                &2.into(),
                &"outcome".into(),
                &"getStatus".into(),
                &"PASS".into()
            )
        );
        assert!(!lines[1].contains("jane"));
    }

    #[test]
    fn a_changed_line_is_found() {
        let (trail, lines) = lines(1);
        assert!(trail.verify(&lines[0]));
        assert!(!trail.verify(&lines[0].replace("\"ok\"", "\"no\"")));
        assert!(!trail.verify(&lines[0].replace("\"seq\":1", "\"seq\":2")));
        assert!(!AuditTrail::new(&[8; 32], Box::new(io::sink())).verify(&lines[0]));
    }
}
