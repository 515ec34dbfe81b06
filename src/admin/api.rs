//! The operators' interface under `/api/`: JSON in, JSON out.
//!
//! Invariant: who gets here has the admin token, or is on loopback and no web page: a page in a
//! browser on this machine could otherwise ask for things in the operator's name. Answers name
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

use super::{
    Admin,
    import::{ImportError, import},
    respond,
};
use crate::{
    auth::{
        register::{Entry, RegisterError},
        revocation::{
            Target,
            request::{RequestError, RevocationRequest},
        },
    },
    clock,
    ident::Pseudonym,
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
    allow: Option<&'static str>,
}

impl Refusal {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
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
            ImportError::NoLedger | ImportError::TooMany => StatusCode::BAD_REQUEST,
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
            let problem = json!({
                "title": refusal.status.canonical_reason(),
                "status": refusal.status.as_u16(),
                "detail": refusal.detail,
            });
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

type Answer = Result<(StatusCode, Value), Refusal>;

async fn route<B>(admin: &Admin, parts: &Parts, body: B) -> Answer
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    if admin.token.is_none() && !names_loopback(&parts.headers) {
        let detail = "without admin.token only a loopback Host is served: use http://127.0.0.1";
        return Err(Refusal::new(StatusCode::FORBIDDEN, detail));
    }
    let path = parts.uri.path();
    if path == "/api/customers/import" {
        return match parts.method {
            Method::POST => {
                let request = read(&parts.headers, body).await?;
                Ok((StatusCode::OK, import(&admin.importers, &request).await?))
            }
            _ => Err(not_allowed("POST")),
        };
    }
    if path == "/api/revocations" {
        return match parts.method {
            Method::GET => list_revocations(admin).await,
            Method::POST => revoke(admin, read(&parts.headers, body).await?).await,
            _ => Err(not_allowed("GET, POST")),
        };
    }
    if let Some(id) = path.strip_prefix("/api/revocations/") {
        return match parts.method {
            Method::DELETE => take_back(admin, id).await,
            _ => Err(not_allowed("DELETE")),
        };
    }
    let detail = "served here: /api/customers/import, /api/revocations";
    Err(Refusal::new(StatusCode::NOT_FOUND, detail))
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
    let unknown = || Refusal::new(StatusCode::NOT_FOUND, "there is no such revocation");
    let id: Pseudonym = id.parse().map_err(|_| unknown())?;
    if admin.register.remove(id).await? {
        tracing::info!(revocation.id = %id, "revocation taken back");
        return Ok((StatusCode::OK, json!({ "removed": id.to_string() })));
    }
    let configured = admin.register.entries(clock::now()).await?;
    if configured.iter().any(|entry| entry.id == id) {
        let detail = "this one stands in the configuration: remove it there";
        return Err(Refusal::new(StatusCode::CONFLICT, detail));
    }
    Err(unknown())
}

/// An entry for operators. A subject may name a person: the entry's id stands for it.
pub(crate) fn show(entry: &Entry) -> Value {
    let Entry {
        id,
        revocation,
        configured,
    } = entry;
    let mut shown = json!({
        "id": id.to_string(),
        "kind": revocation.target.kind(),
        "issued_before": revocation.issued_before,
        "ends": revocation.ends,
        "configured": configured,
    });
    if let Some(issuer) = revocation.target.issuer() {
        shown["issuer"] = issuer.as_str().into();
    }
    match &revocation.target {
        Target::Key { kid, .. } => shown["kid"] = kid.as_ref().into(),
        Target::Tenant { tenant } => shown["tenant"] = tenant.as_str().into(),
        Target::Token { jti, .. } => shown["jti"] = jti.as_ref().into(),
        Target::Everything { .. } | Target::Subject { .. } => {}
    }
    shown
}

/// Reads a body of JSON, and nothing that a form or a link in a page could send.
async fn read<B, T>(headers: &HeaderMap, body: B) -> Result<T, Refusal>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
    T: DeserializeOwned,
{
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    if kind.is_none_or(|kind| !kind.to_ascii_lowercase().starts_with(b"application/json")) {
        let detail = "send Content-Type: application/json";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
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
            format!("the body is not the JSON that is taken here ({place}); see the README");
        Refusal::new(StatusCode::BAD_REQUEST, detail)
    })
}

fn not_allowed(allow: &'static str) -> Refusal {
    Refusal {
        allow: Some(allow),
        ..Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("served here: {allow}"),
        )
    }
}

/// Whether `Host` is this machine: a page that had its own name resolve to 127.0.0.1 is not.
fn names_loopback(headers: &HeaderMap) -> bool {
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
