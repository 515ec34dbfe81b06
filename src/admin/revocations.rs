//! `/api/revocations`: tokens are refused before they expire, and what is refused.
//!
//! Invariant: no subject is shown or recorded: the entry's id stands for it. Nothing is revoked or taken
//! back, and nothing told, that is not in the audit trail.

use bytes::Bytes;
use http::{Method, StatusCode, request::Parts};
use http_body::Body;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use thiserror::Error;

use super::{
    Admin,
    api::{Answer, BoxError, Refusal, not_allowed, read},
};
use crate::{
    audit::operator::{About, Action, Found, Scribe, Unrecorded},
    auth::{
        register::{Entry, Register, RegisterError, Removal},
        revocation::{
            Revocation, Target,
            request::{RequestError, RevocationRequest},
        },
    },
    clock,
    ident::{IssuerId, Pseudonym, TenantId},
    store::StoreError,
};

const TOKENS: &str = "`issuer`, `jti`, `subject`, `kid`, `tenant`, `issued_before` and `expires` (the last \
                      two as \"2026-11-23T08:00:00Z\")";

/// Why nothing was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum RevocationError {
    #[error(transparent)]
    Register(#[from] RegisterError),
    #[error(transparent)]
    Unrecorded(#[from] Unrecorded),
}

impl From<StoreError> for RevocationError {
    fn from(error: StoreError) -> Self {
        Self::Register(RegisterError::Store(error))
    }
}

impl From<RevocationError> for Refusal {
    fn from(error: RevocationError) -> Self {
        let status = match error {
            RevocationError::Unrecorded(why) => return why.into(),
            RevocationError::Register(RegisterError::Full) => StatusCode::CONFLICT,
            RevocationError::Register(RegisterError::Store(_)) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

impl From<RequestError> for Refusal {
    fn from(error: RequestError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error.to_string())
    }
}

/// What stands behind `/api/revocations` in a path.
pub(super) fn below(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/api/revocations")?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

/// Answers one request there.
pub(super) async fn answer<B>(
    admin: &Admin,
    scribe: Scribe<'_>,
    rest: &str,
    parts: &Parts,
    body: B,
) -> Answer
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    let register = &admin.register;
    match (rest.strip_prefix('/'), &parts.method) {
        (None, &Method::GET) => Ok((StatusCode::OK, list(register, scribe).await?)),
        (None, &Method::POST) => {
            let request: RevocationRequest = read(&parts.headers, body, TOKENS).await?;
            let revocation = request.resolve(&admin.terms, clock::now())?;
            let entry = revoke(register, scribe, revocation).await?;
            Ok((StatusCode::CREATED, show(&entry)))
        }
        (None, _) => Err(not_allowed("GET, POST")),
        (Some(id), &Method::DELETE) => {
            let unknown = |_| Refusal::new(StatusCode::NOT_FOUND, NO_SUCH_REVOCATION);
            let id: Pseudonym = id.parse().map_err(unknown)?;
            let removal = take_back(register, scribe, id).await?;
            let answer = removed(id, removal).map_err(|why| {
                let status = if removal == Removal::Unknown {
                    StatusCode::NOT_FOUND
                } else {
                    StatusCode::CONFLICT
                };
                Refusal::new(status, why)
            })?;
            Ok((StatusCode::OK, answer))
        }
        (Some(_), _) => Err(not_allowed("DELETE")),
    }
}

/// What is refused.
pub(crate) async fn list(
    register: &Register,
    scribe: Scribe<'_>,
) -> Result<Value, RevocationError> {
    let entries = register.entries(clock::now()).await?;
    let told = scribe.tells(Action::RevocationList, About::default());
    told.await?;
    let shown: Vec<Value> = entries.iter().map(show).collect();
    Ok(json!({ "revocations": shown }))
}

/// Refuses tokens from now on.
pub(crate) async fn revoke(
    register: &Register,
    scribe: Scribe<'_>,
    revocation: Revocation,
) -> Result<Entry, RevocationError> {
    let target = revocation.target.clone();
    let (id, kind) = (register.id(&target), target.kind());
    let about = About {
        revocation: Some(id),
        kind: Some(kind),
        issuer: target.issuer().map(IssuerId::as_str),
        tenant: target.tenant().map(TenantId::as_str),
        ..About::default()
    };
    let act = scribe.begins(Action::RevocationAdd, about).await?;
    let added = register.add(revocation).await;
    let result = match added {
        Ok(_) => "done",
        Err(RegisterError::Full) => "refused",
        Err(RegisterError::Store(_)) => "unknown",
    };
    act.ends(result, Found::default()).await;
    let entry = added?;
    tracing::info!(revocation.id = %id, kind, "tokens revoked");
    Ok(entry)
}

/// Refuses them no more.
pub(crate) async fn take_back(
    register: &Register,
    scribe: Scribe<'_>,
    id: Pseudonym,
) -> Result<Removal, RevocationError> {
    let about = About {
        revocation: Some(id),
        ..About::default()
    };
    let act = scribe.begins(Action::RevocationRemove, about).await?;
    let removal = register.remove(id).await;
    let result = match removal {
        Ok(Removal::Done | Removal::ConfiguredToo) => "done",
        Ok(Removal::Configured | Removal::Unknown) => "refused",
        Err(_) => "unknown",
    };
    act.ends(result, Found::default()).await;
    let removal = removal?;
    if result == "done" {
        tracing::info!(revocation.id = %id, "revocation taken back");
    }
    Ok(removal)
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
