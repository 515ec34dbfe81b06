//! The events: what a tenant did to a customer and how it ended, and what the gateway did by itself.
//!
//! Invariant: an event is a struct of allowed fields. People appear as keyed pseudonyms, fields by
//! name, images by side, format, size and keyed digest; there is no field that a value, a token or a credential
//! could be put in.

use jiff::Timestamp;
use serde::Serialize;

use super::{
    chain::Mark,
    digest::ImageDigest,
    operator::{Actor, Doing},
};
use crate::{
    address::Client,
    ident::{Pseudonym, RequestId},
};

/// What can be written into the trail: as JSON an object with at least one member.
pub trait Event: Serialize {
    /// What it says of a request under way.
    fn mark(&self) -> Mark {
        Mark::None
    }
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

impl Event for Act<'_> {
    fn mark(&self) -> Mark {
        match self.deed {
            Deed::StatusRefreshed { request_id, .. } => Mark::Closes(request_id),
            Deed::Admin(_)
            | Deed::AnswerWithheld { .. }
            | Deed::ConfigReloaded { .. }
            | Deed::CredentialChanged { .. }
            | Deed::QuotaWarning { .. } => Mark::None,
        }
    }
}

impl Event for Intent<'_> {
    fn mark(&self) -> Mark {
        Mark::Opens(self.head.request_id)
    }
}

impl Event for Outcome<'_> {
    fn mark(&self) -> Mark {
        match self.attempts {
            0 => Mark::Refuses(self.head.request_id),
            _ => Mark::Closes(self.head.request_id),
        }
    }
}

/// The kinds of acts, with what there is to know of each (`event`).
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Deed<'a> {
    /// An operator asked for something, or did it.
    Admin(Doing<'a>),
    /// An outcome did not get onto the disk in time, so that its answer was not given.
    AnswerWithheld {
        /// The request's id.
        #[serde(serialize_with = "as_text")]
        request_id: RequestId,
        /// What the client was answered instead.
        http_status: u16,
    },
    /// The configuration was read again.
    ConfigReloaded {
        /// `begun` before another one is put in force; then `ok`, or why it stays as it was: `refused`.
        result: &'static str,
        /// Who asked for it.
        #[serde(flatten)]
        actor: &'a Actor,
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
        /// Its own id, as in its intent.
        #[serde(serialize_with = "as_text")]
        request_id: RequestId,
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

/// What an intent and an outcome begin with.
#[derive(Debug, Serialize)]
pub struct Head<'a> {
    /// When it was about to go upstream, or ended.
    #[serde(serialize_with = "as_text")]
    pub time: Timestamp,
    /// `intent` or `outcome`.
    pub phase: Phase,
    /// The gateway's id of the request; what closes an intent has the same.
    #[serde(serialize_with = "as_text")]
    pub request_id: RequestId,
    /// The client's own id of it, where it sent a plain one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_request_id: Option<&'a str>,
    /// The trace that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<&'a str>,
    /// The tenant.
    pub tenant: &'a str,
    /// Who asks; nobody where the gateway does by itself.
    #[serde(flatten)]
    pub asker: Option<Asker<'a>>,
    /// What is asked for, once that is known.
    #[serde(flatten)]
    pub content: Option<&'a Content>,
}

/// What is about to go upstream, in a tenant's name: on disk before its first byte leaves.
#[derive(Debug, Serialize)]
pub struct Intent<'a> {
    /// Of what.
    #[serde(flatten)]
    pub head: Head<'a>,
    /// The credential that it is sent with first.
    pub credential: &'a str,
    /// Why, where no client asks: `refresh`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<&'static str>,
}

/// Who asks for something to be sent.
#[derive(Debug, Serialize)]
pub struct Asker<'a> {
    /// The issuer whose token the request carried.
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
}

/// How a request that passed authentication ended.
#[derive(Debug, Serialize)]
pub struct Outcome<'a> {
    /// Of what.
    #[serde(flatten)]
    pub head: Head<'a>,
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
    /// What the upstream called its answer: `Success` or `Error`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<&'static str>,
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

/// A harmless question of the gateway's own, which shows whether DCAMS accepts a credential: an intent,
/// on disk before its first byte leaves; with its end an outcome. It is asked in no tenant's name.
#[derive(Debug, Serialize)]
pub struct Probe<'a> {
    /// When it was about to go, or ended.
    #[serde(serialize_with = "as_text")]
    pub time: Timestamp,
    /// `intent`, then `outcome`.
    pub phase: Phase,
    /// Its own id, the same in both.
    #[serde(serialize_with = "as_text")]
    pub request_id: RequestId,
    /// Whose credential it is.
    pub account: &'a str,
    /// What is asked for.
    pub service: &'static str,
    /// How it ended; nothing before.
    #[serde(flatten)]
    pub end: Option<ProbeEnd>,
    /// The credential that it is about.
    pub credential: &'a str,
    /// Always `probe`.
    pub cause: &'static str,
}

/// How a question of the gateway's own ended.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ProbeEnd {
    /// Whether it was sent.
    pub decision: Decision,
    /// `ok` where DCAMS accepted the credential; an error's code, or `shutting_down`.
    pub code: &'static str,
    /// Finer than the code, for the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// How often it was sent.
    pub attempts: u8,
    /// What DCAMS answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_status: Option<u16>,
}

impl Event for Probe<'_> {
    fn mark(&self) -> Mark {
        match self.end {
            None => Mark::Opens(self.request_id),
            Some(ProbeEnd { attempts: 0, .. }) => Mark::Refuses(self.request_id),
            Some(_) => Mark::Closes(self.request_id),
        }
    }
}

/// A request that was refused for its token, its proof or its issuer: nobody is known who asked.
#[derive(Debug, Serialize)]
pub struct Rejected {
    /// When it was refused.
    #[serde(serialize_with = "as_text")]
    pub time: Timestamp,
    /// Always `rejected`.
    pub phase: Phase,
    /// The gateway's id of the request.
    #[serde(serialize_with = "as_text")]
    pub request_id: RequestId,
    /// Where it came from: a network, never an address.
    #[serde(serialize_with = "as_text")]
    pub client: Client,
    /// The error's code.
    pub code: &'static str,
    /// Finer than the code, for the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// What the client was answered.
    pub http_status: u16,
    /// How many more were refused, and left no event, since the last that said so.
    #[serde(skip_serializing_if = "is_zero")]
    pub left_out: u64,
}

/// How a request ended that was under way when the process was killed.
#[derive(Debug, Serialize)]
pub struct Interrupted {
    #[serde(serialize_with = "as_text")]
    time: Timestamp,
    phase: Phase,
    request_id: RequestId,
    decision: Decision,
    code: &'static str,
    reason: &'static str,
}

impl Interrupted {
    /// This request, of which nobody knows what DCAMS made of it.
    pub const fn new(request_id: RequestId, now: Timestamp) -> Self {
        Self {
            time: now,
            phase: Phase::Outcome,
            request_id,
            decision: Decision::Forward,
            code: "unknown",
            reason: "interrupted",
        }
    }
}

impl Event for Interrupted {
    fn mark(&self) -> Mark {
        Mark::Closes(self.request_id)
    }
}

/// What kind of event a line is.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The gateway's own act.
    Event,
    /// A request is about to go upstream.
    Intent,
    /// A request has ended.
    Outcome,
    /// A request was refused before anybody knew who asks.
    Rejected,
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
    /// Which one it is, to whoever has the key, once the request may go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<ImageDigest>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands a field over by reference"
)]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn as_text<T: std::fmt::Display, S: serde::Serializer>(value: &T, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(value)
}

#[expect(clippy::ref_option, reason = "serde hands a field over by reference")]
pub(super) fn as_text_option<T: std::fmt::Display, S: serde::Serializer>(
    value: &Option<T>,
    s: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => s.collect_str(value),
        None => s.serialize_none(),
    }
}
