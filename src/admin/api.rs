//! The operators' interface under `/api/`: JSON in, JSON out.
//!
//! Invariant: who gets here has the admin token, or is on loopback and no web page: what a page in a
//! browser can send without being asked about it first is refused. Answers name
//! configured things and show no subject, customer or token; errors repeat nothing of a request.

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, HOST},
    request::Parts,
    uri::Authority,
};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Admin, credentials, forget, import, respond, revocations, usage};
use crate::{
    address::Client,
    audit::operator::{Actor, Scribe, Unrecorded},
    error::ErrorCode,
    reload::{Refused, Reloaded},
    segments::Segments,
    store::StoreError,
};

/// Most bytes of a request's body, and how long they may take.
const MAX_BODY: usize = 1024 * 1024;
const BODY_TIME: Duration = Duration::from_secs(10);

/// Why a request was not done; the text says what to do next.
pub(super) struct Refusal {
    status: StatusCode,
    detail: String,
    /// What there is to mend in the configuration, where that is what stands in the way.
    mistakes: Vec<String>,
    allow: Option<&'static str>,
    /// For a machine, where there is more than one reason for the status.
    code: Option<&'static str>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            mistakes: Vec::new(),
            allow: None,
            code: None,
        }
    }

    fn into_response(self) -> Response<Segments> {
        let mut problem = json!({
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if let Some(members) = problem.as_object_mut() {
            if let Some(code) = self.code {
                members.insert("code".to_owned(), code.into());
            }
            if !self.mistakes.is_empty() {
                members.insert("mistakes".to_owned(), self.mistakes.into());
            }
        }
        let mut response = json_response(self.status, "application/problem+json", &problem);
        if let Some(allow) = self.allow {
            let allow = HeaderValue::from_static(allow);
            response.headers_mut().insert(ALLOW, allow);
        }
        response
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

impl From<Unrecorded> for Refusal {
    fn from(error: Unrecorded) -> Self {
        Self {
            code: Some(ErrorCode::AuditUnavailable.as_str()),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
        }
    }
}

/// Answers one request to `/api/`.
pub(super) async fn answer<B>(
    admin: &Admin,
    peer: Client,
    parts: &Parts,
    body: B,
) -> Response<Segments>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    let answer = match Actor::at_api(&parts.headers, peer, admin.token.is_some()) {
        Ok(actor) => {
            let scribe = Scribe::new(&admin.observers.audit, &actor);
            route(admin, scribe, parts, body).await
        }
        Err(error) => {
            let detail = format!("X-Operator: {error}; leave it out to remain unnamed");
            Err(Refusal::new(StatusCode::BAD_REQUEST, detail))
        }
    };
    answer.map_or_else(Refusal::into_response, |(status, document)| {
        json_response(status, "application/json", &document)
    })
}

/// Why a body broke off; it is not looked at.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a body holds, as it is told to who sent another.
const CREDENTIAL: &str = "`account` and `credential`";
const TEST: &str = "`account`, `credential` and, if you like, `email`";
pub(super) type Answer = Result<(StatusCode, Value), Refusal>;

async fn route<B>(admin: &Admin, scribe: Scribe<'_>, parts: &Parts, body: B) -> Answer
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    let path = parts.uri.path();
    if let Some(rest) = usage::below(path) {
        return usage::answer(&admin.usage, scribe, rest, parts, body).await;
    }
    if let Some(call) = forget::Call::at(path) {
        return forget::answer(admin, scribe, call, parts, body).await;
    }
    if let Some(call) = import::Call::at(path) {
        return import::answer(admin, scribe, call, parts, body).await;
    }
    if let Some(rest) = revocations::below(path) {
        return revocations::answer(admin, scribe, rest, parts, body).await;
    }
    match (path, &parts.method) {
        ("/api/credentials", &Method::GET) => {
            Ok((StatusCode::OK, credentials::list(&admin.rotator)))
        }
        ("/api/credentials", _) => Err(not_allowed("GET")),
        ("/api/credentials/retry", &Method::POST) => {
            let named = read(&parts.headers, body, CREDENTIAL).await?;
            let retried = credentials::retry(&admin.rotator, scribe, &named).await?;
            Ok((StatusCode::OK, retried))
        }
        ("/api/credentials/test", &Method::POST) => {
            let tested = read(&parts.headers, body, TEST).await?;
            let told = credentials::test(&admin.rotator, scribe, tested).await?;
            Ok((StatusCode::OK, told))
        }
        ("/api/reload", &Method::POST) => {
            require_json(&parts.headers)?;
            reload(admin, scribe.actor()).await
        }
        ("/api/credentials/retry" | "/api/credentials/test" | "/api/reload", _) => {
            Err(not_allowed("POST"))
        }
        _ => {
            let detail = "served here: /api/cache/purge, /api/credentials, /api/credentials/{retry,test}, \
                          /api/customers/{forget,import,owner,remove}, /api/reload, /api/revocations, \
                          /api/usage, /api/usage/statement, /api/usage/TENANT/grant";
            Err(Refusal::new(StatusCode::NOT_FOUND, detail))
        }
    }
}

/// Reads the configuration again. There is no body: what is read is what the process was started with.
async fn reload(admin: &Admin, actor: &Actor) -> Answer {
    let refused = match admin.reloads.ask(actor.clone()).await {
        Reloaded::InForce { changed } => {
            let document = json!({ "result": "ok", "changed": changed });
            return Ok((StatusCode::OK, document));
        }
        Reloaded::Refused(refused) => refused,
    };
    let (status, detail) = match &refused {
        Refused::Draining => (
            StatusCode::CONFLICT,
            "the gateway is draining and will end: what starts next reads the files".to_owned(),
        ),
        Refused::Mistakes(lines) => (StatusCode::UNPROCESSABLE_ENTITY, lines.join("\n")),
        Refused::Restart(lines) => (StatusCode::CONFLICT, lines.join("\n")),
        Refused::Unrecorded(why) => return Err(Refusal::from(*why)),
    };
    Err(Refusal {
        mistakes: refused.lines().to_vec(),
        ..Refusal::new(status, detail)
    })
}

/// Reads a body of JSON, and nothing that a form or a link in a page could send.
pub(super) async fn read<B, T>(headers: &HeaderMap, body: B, expected: &str) -> Result<T, Refusal>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
    T: DeserializeOwned,
{
    require_json(headers)?;
    let unread = |status, detail: &str| Refusal::new(status, detail);
    let body = timeout(BODY_TIME, Limited::new(body, MAX_BODY).collect())
        .await
        .map_err(|_| unread(StatusCode::REQUEST_TIMEOUT, "send the body without pauses"))?
        .map_err(|_| {
            unread(
                StatusCode::PAYLOAD_TOO_LARGE,
                "send a whole body of at most 1 MiB",
            )
        })?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| {
        // Its text would repeat the input.
        let place = format!("line {}, column {}", error.line(), error.column());
        let detail =
            format!("at {place}: expected a JSON object of {expected}, and no other member");
        Refusal::new(StatusCode::BAD_REQUEST, detail)
    })
}

/// Nothing that a form or a link in a page could send.
fn require_json(headers: &HeaderMap) -> Result<(), Refusal> {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    if kind.is_none_or(|kind| !kind.to_ascii_lowercase().starts_with(b"application/json")) {
        let detail = "send Content-Type: application/json";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    Ok(())
}

pub(super) fn not_allowed(allow: &'static str) -> Refusal {
    Refusal {
        allow: Some(allow),
        ..Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("served here: {allow}"),
        )
    }
}

/// Whether `Host` is this machine: a page that had its own name resolve to 127.0.0.1 is not.
pub(super) fn names_loopback(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let authority = host.and_then(|host| host.parse::<Authority>().ok());
    authority.is_some_and(|authority| is_loopback(authority.host()))
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let address = bare.parse::<std::net::IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|a| a.to_canonical().is_loopback())
}

fn json_response(
    status: StatusCode,
    kind: &'static str,
    document: &impl Serialize,
) -> Response<Segments> {
    // Values of our own: writing them into memory has nothing to fail on.
    let body = serde_json::to_vec(document).unwrap_or_default();
    respond(status, kind, body.into())
}
