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
use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    Admin, credentials, forget,
    import::{self, ImportError},
    respond, usage,
};
use crate::{
    auth::{
        register::{Entry, RegisterError, Removal},
        revocation::{
            Revocation, Target,
            request::{RequestError, RevocationRequest},
        },
    },
    clock,
    ident::{IssuerId, Pseudonym},
    reload::{Cause, Refused, Reloaded},
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
}

impl Refusal {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            mistakes: Vec::new(),
            allow: None,
        }
    }
}

impl From<RequestError> for Refusal {
    fn from(error: RequestError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error.to_string())
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

impl From<ImportError> for Refusal {
    fn from(error: ImportError) -> Self {
        let status = match error {
            ImportError::Invalid
            | ImportError::NoAccount
            | ImportError::NoLedger
            | ImportError::TooMany => StatusCode::BAD_REQUEST,
            ImportError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

impl From<RegisterError> for Refusal {
    fn from(error: RegisterError) -> Self {
        let status = match error {
            RegisterError::Full => StatusCode::CONFLICT,
            RegisterError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

/// Answers one request to `/api/`.
pub(super) async fn answer<B>(admin: &Admin, parts: &Parts, body: B) -> Response<Segments>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    match route(admin, parts, body).await {
        Ok((status, document)) => json_response(status, "application/json", &document),
        Err(refusal) => {
            let mut problem = json!({
                "title": refusal.status.canonical_reason(),
                "status": refusal.status.as_u16(),
                "detail": refusal.detail,
            });
            if let Some(members) = problem
                .as_object_mut()
                .filter(|_| !refusal.mistakes.is_empty())
            {
                members.insert("mistakes".to_owned(), refusal.mistakes.into());
            }
            let mut response = json_response(refusal.status, "application/problem+json", &problem);
            if let Some(allow) = refusal.allow {
                let allow = HeaderValue::from_static(allow);
                response.headers_mut().insert(ALLOW, allow);
            }
            response
        }
    }
}

/// Why a body broke off; it is not looked at.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a body holds, as it is told to who sent another.
const CREDENTIAL: &str = "`account` and `credential`";
const TOKENS: &str = "`issuer`, `jti`, `subject`, `kid`, `tenant`, `issued_before` and `expires` (the last \
                      two as \"2026-11-23T08:00:00Z\")";

pub(super) type Answer = Result<(StatusCode, Value), Refusal>;

async fn route<B>(admin: &Admin, parts: &Parts, body: B) -> Answer
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    let path = parts.uri.path();
    if let Some(rest) = usage::below(path) {
        return usage::answer(admin, rest, parts, body).await;
    }
    if let Some(call) = forget::Call::at(path) {
        return forget::answer(admin, call, parts, body).await;
    }
    if let Some(call) = import::Call::at(path) {
        return import::answer(admin, call, parts, body).await;
    }
    match (path, &parts.method) {
        ("/api/credentials", &Method::GET) => {
            return Ok((StatusCode::OK, credentials::list(&admin.rotator)));
        }
        ("/api/credentials", _) => return Err(not_allowed("GET")),
        ("/api/credentials/retry", &Method::POST) => {
            let named = read(&parts.headers, body, CREDENTIAL).await?;
            return Ok((StatusCode::OK, credentials::retry(&admin.rotator, &named)?));
        }
        ("/api/credentials/retry", _) => return Err(not_allowed("POST")),
        _ => {}
    }
    if path == "/api/reload" {
        if parts.method != Method::POST {
            return Err(not_allowed("POST"));
        }
        require_json(&parts.headers)?;
        return reload(admin).await;
    }
    if path == "/api/revocations" {
        return match parts.method {
            Method::GET => list_revocations(admin).await,
            Method::POST => revoke(admin, read(&parts.headers, body, TOKENS).await?).await,
            _ => Err(not_allowed("GET, POST")),
        };
    }
    if let Some(id) = path.strip_prefix("/api/revocations/") {
        return match parts.method {
            Method::DELETE => take_back(admin, id).await,
            _ => Err(not_allowed("DELETE")),
        };
    }
    let detail = "served here: /api/cache/purge, /api/credentials, /api/credentials/retry, \
                  /api/customers/{forget,import,owner,remove}, /api/reload, /api/revocations, \
                  /api/usage, /api/usage/statement, /api/usage/TENANT/grant";
    Err(Refusal::new(StatusCode::NOT_FOUND, detail))
}

/// Reads the configuration again. There is no body: what is read is what the process was started with.
async fn reload(admin: &Admin) -> Answer {
    let refused = match admin.reloads.ask(Cause::Api).await {
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
    };
    Err(Refusal {
        mistakes: refused.lines().to_vec(),
        ..Refusal::new(status, detail)
    })
}

async fn list_revocations(admin: &Admin) -> Answer {
    let entries = admin.register.entries(clock::now()).await?;
    let shown: Vec<Value> = entries.iter().map(show).collect();
    Ok((StatusCode::OK, json!({ "revocations": shown })))
}

async fn revoke(admin: &Admin, request: RevocationRequest) -> Answer {
    let revocation = request.resolve(&admin.terms, clock::now())?;
    let entry = admin.register.add(revocation).await?;
    tracing::info!(
        revocation.id = %entry.id, kind = entry.revocation.target.kind(), "tokens revoked"
    );
    Ok((StatusCode::CREATED, show(&entry)))
}

async fn take_back(admin: &Admin, id: &str) -> Answer {
    let unknown = |_| Refusal::new(StatusCode::NOT_FOUND, NO_SUCH_REVOCATION);
    let id: Pseudonym = id.parse().map_err(unknown)?;
    let removal = admin.register.remove(id).await?;
    let answer = removed(id, removal).map_err(|why| {
        let status = if removal == Removal::Unknown {
            StatusCode::NOT_FOUND
        } else {
            StatusCode::CONFLICT
        };
        Refusal::new(status, why)
    })?;
    tracing::info!(revocation.id = %id, "revocation taken back");
    Ok((StatusCode::OK, answer))
}

const IN_CONFIGURATION: &str = "it stands in the configuration: remove it there";
const NO_SUCH_REVOCATION: &str = "there is no such revocation";

/// What an operator is told of a revocation that was to be taken back.
pub(crate) fn removed(id: Pseudonym, removal: Removal) -> Result<Value, &'static str> {
    let id = id.to_string();
    match removal {
        Removal::Configured => Err(IN_CONFIGURATION),
        Removal::ConfiguredToo => Ok(json!({ "removed": id, "still_in_force": IN_CONFIGURATION })),
        Removal::Done => Ok(json!({ "removed": id })),
        Removal::Unknown => Err(NO_SUCH_REVOCATION),
    }
}

/// An entry for operators. A subject may name a person: the entry's id stands for it.
pub(crate) fn show(entry: &Entry) -> Value {
    #[derive(Default, Serialize)]
    struct Named<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        issuer: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        jti: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        kid: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        tenant: Option<&'a str>,
    }
    #[derive(Serialize)]
    struct Shown<'a> {
        id: String,
        kind: &'static str,
        #[serde(flatten)]
        named: Named<'a>,
        issued_before: Option<Timestamp>,
        ends: Option<Timestamp>,
        configured: bool,
    }
    let Revocation {
        target,
        issued_before,
        ends,
    } = &entry.revocation;
    let mut named = Named {
        issuer: target.issuer().map(IssuerId::as_str),
        ..Named::default()
    };
    match target {
        Target::Everything { .. } | Target::Subject { .. } => {}
        Target::Key { kid, .. } => named.kid = Some(kid),
        Target::Tenant { tenant } => named.tenant = Some(tenant.as_str()),
        Target::Token { jti, .. } => named.jti = Some(jti),
    }
    let shown = Shown {
        id: entry.id.to_string(),
        kind: target.kind(),
        named,
        issued_before: *issued_before,
        ends: *ends,
        configured: entry.configured,
    };
    // Texts, times and a flag: making a document of them has nothing to fail on.
    serde_json::to_value(shown).unwrap_or_default()
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
