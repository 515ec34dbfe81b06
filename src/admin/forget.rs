//! `POST /api/cache/purge` and `/api/customers/forget`: statuses are kept no more, a person's traces are
//! removed.
//!
//! Invariant: neither an answer nor the log nor an audit event repeats an address. Each leaves an audit
//! event before and after, and nothing is done where the first cannot be written.

use bytes::Bytes;
use http::{Method, StatusCode, request::Parts};
use http_body::Body;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

use super::{
    Admin,
    api::{Answer, BoxError, Refusal, not_allowed, read},
};
use crate::{
    audit::operator::{About, Action as Deed, Found, Scribe, Underway, Unrecorded},
    customer::{
        EmailCase, Outcome,
        import::{Action, Importer},
    },
    ident::{AccountId, Purpose, TenantId},
    payload::email::is_mailbox,
    status::StatusCache,
    store::StoreError,
};

/// Where a tenant's customers are.
#[derive(Debug, Clone)]
pub struct Home {
    /// The account that knows them.
    pub account: AccountId,
    /// How it compares addresses.
    pub email_case: EmailCase,
}

/// Whose statuses are to be kept no more. It has no `Debug`: it may hold a person's address.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PurgeRequest {
    tenant: String,
    /// One customer's; of all where it is left out. A script that has lost the address does not mean all.
    #[serde(default, deserialize_with = "present")]
    email: Option<String>,
}

/// Whose traces are to be removed. It has no `Debug` either.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForgetRequest {
    tenant: String,
    email: String,
}

/// A member that is not null.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    String::deserialize(deserializer).map(Some)
}

/// What was removed of a person, by part.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Removed {
    /// See [`Found::cache`].
    pub(crate) cache: &'static str,
    /// See [`Found::ownership`].
    pub(crate) ownership: &'static str,
}

const NONE: &str = "none";
const REMOVED: &str = "removed";
const UNKNOWN: &str = "unknown";
const UNTOLD: &str = "untold";

/// Why nothing was removed, or not all of it.
#[derive(Debug, Clone, Copy, Error)]
pub(crate) enum ForgetError {
    #[error(
        "not everything is known to be removed (cache: {}, ownership: {}): look at Redis, or at the disk of `state.path`, then try again; where the cache is `untold`, this gateway has forgotten the status, and other gateways are told when Redis is back",
        .0.cache,
        .0.ownership
    )]
    Incomplete(Removed),
    #[error("`email` is not an email address")]
    Invalid,
    #[error(transparent)]
    Unrecorded(#[from] Unrecorded),
    #[error("`tenant` names no tenant: name one of the configuration that this gateway runs with")]
    Unknown,
    #[error(
        "this gateway has forgotten it, but other gateways cannot be told: look at Redis, then try again; they are told when it is back"
    )]
    Untold,
}

impl From<ForgetError> for Refusal {
    fn from(error: ForgetError) -> Self {
        let status = match error {
            ForgetError::Unrecorded(why) => return why.into(),
            ForgetError::Invalid | ForgetError::Unknown => StatusCode::BAD_REQUEST,
            ForgetError::Incomplete(_) | ForgetError::Untold => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

/// What can be asked for.
#[derive(Clone, Copy)]
pub(super) enum Call {
    Forget,
    Purge,
}

impl Call {
    /// The call that is made at this path.
    pub(super) fn at(path: &str) -> Option<Self> {
        match path {
            "/api/cache/purge" => Some(Self::Purge),
            "/api/customers/forget" => Some(Self::Forget),
            _ => None,
        }
    }
}

/// Answers one request there.
pub(super) async fn answer<B>(
    admin: &Admin,
    scribe: Scribe<'_>,
    call: Call,
    parts: &Parts,
    body: B,
) -> Answer
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    if parts.method != Method::POST {
        return Err(not_allowed("POST"));
    }
    let document = match call {
        Call::Forget => {
            let request = read(&parts.headers, body, "`tenant` and `email`").await?;
            forget(admin, scribe, &request).await?
        }
        Call::Purge => {
            let expected = "`tenant` and, for one customer alone, `email`";
            let request = read(&parts.headers, body, expected).await?;
            purge(admin, scribe, &request).await?
        }
    };
    Ok((StatusCode::OK, document))
}

/// Has a tenant's statuses kept no more, or those of one of its customers.
async fn purge(
    admin: &Admin,
    scribe: Scribe<'_>,
    request: &PurgeRequest,
) -> Result<Value, ForgetError> {
    let (tenant, home) = find(admin, &request.tenant)?;
    let email = request.email.as_deref().map(address).transpose()?;
    let about = about(scribe, tenant, home, email);
    let act = scribe.begins(Deed::CachePurge, about).await?;
    let (cache, document) = match email {
        None => {
            let told = admin.statuses.forget_tenant(tenant).await;
            let document = json!({ "purged": "tenant", "tenant": tenant });
            (told.err().map(|_| UNTOLD), document)
        }
        Some(email) => {
            let cache = forget_status(&admin.statuses, tenant, home, email).await;
            let document = json!({ "purged": "customer", "tenant": tenant, "cache": cache });
            (Some(cache), document)
        }
    };
    if !end((act, "cache_purge"), tenant, cache, None).await {
        return Err(ForgetError::Untold);
    }
    Ok(document)
}

/// Removes what the gateway has of a person.
async fn forget(
    admin: &Admin,
    scribe: Scribe<'_>,
    request: &ForgetRequest,
) -> Result<Value, ForgetError> {
    let (tenant, home) = find(admin, &request.tenant)?;
    let forgetting = Forgetting {
        tenant,
        home,
        importer: admin.importers.get(tenant),
        email: address(&request.email)?,
    };
    let removed = forgetting.run(scribe, Some(&admin.statuses)).await?;
    Ok(document(tenant, removed))
}

/// What an operator is told of a person who was forgotten.
pub(crate) fn document(tenant: &TenantId, removed: Removed) -> Value {
    #[derive(Serialize)]
    struct Forgotten<'a> {
        tenant: &'a TenantId,
        #[serde(flatten)]
        removed: Removed,
    }
    // Words: making a document of them has nothing to fail on.
    serde_json::to_value(Forgotten { tenant, removed }).unwrap_or_default()
}

/// Takes a customer out of the tenant's ledger, where it has one; the word on what came of it.
async fn disown(importer: Option<&Importer>, email: &str) -> Result<&'static str, StoreError> {
    let Some(importer) = importer else {
        return Ok("no_ledger");
    };
    let emails = [email.to_owned()];
    let outcomes = importer.apply(Action::Remove, &emails).await?;
    Ok(outcomes.first().map_or(UNKNOWN, |o| Outcome::as_str(*o)))
}

/// What is to be forgotten, and by whom.
pub(crate) struct Forgetting<'a> {
    /// Whose customer.
    pub(crate) tenant: &'a TenantId,
    /// Where the tenant's customers are.
    pub(crate) home: &'a Home,
    /// What takes them out of its ledger, if it has one.
    pub(crate) importer: Option<&'a Importer>,
    /// The customer's address.
    pub(crate) email: &'a str,
}

impl Forgetting<'_> {
    /// Removes what there is of the person, in these statuses and in the ledger; says what that was, by part.
    /// Where no gateway runs there are no statuses.
    pub(crate) async fn run(
        &self,
        scribe: Scribe<'_>,
        statuses: Option<&StatusCache>,
    ) -> Result<Removed, ForgetError> {
        let (tenant, email) = (self.tenant, self.email);
        let about = about(scribe, tenant, self.home, Some(email));
        let act = scribe.begins(Deed::CustomerForget, about).await?;
        // The ledger first: a status is kept of what is the tenant's alone, so that none comes after.
        let ownership = disown(self.importer, email).await;
        let cache = match statuses {
            Some(statuses) => forget_status(statuses, tenant, self.home, email).await,
            None => NONE,
        };
        let removed = Removed {
            cache,
            ownership: ownership.unwrap_or(UNKNOWN),
        };
        let (act, cache) = ((act, "customer_forget"), Some(removed.cache));
        if !end(act, tenant, cache, Some(removed.ownership)).await {
            return Err(ForgetError::Incomplete(removed));
        }
        Ok(removed)
    }
}

async fn forget_status(
    statuses: &StatusCache,
    tenant: &TenantId,
    home: &Home,
    email: &str,
) -> &'static str {
    let account = &home.account;
    match statuses.forget_customer(tenant, account, email).await {
        Ok(true) => REMOVED,
        Ok(false) => NONE,
        Err(_) => UNTOLD,
    }
}

fn find<'a>(admin: &'a Admin, tenant: &str) -> Result<(&'a TenantId, &'a Home), ForgetError> {
    let known = admin.homes.get_key_value(tenant);
    known.ok_or(ForgetError::Unknown)
}

fn address(email: &str) -> Result<&str, ForgetError> {
    let email = email.trim();
    is_mailbox(email)
        .then_some(email)
        .ok_or(ForgetError::Invalid)
}

/// Whom it is about, as outcome events have it.
fn about<'a>(
    scribe: Scribe<'_>,
    tenant: &'a TenantId,
    home: &Home,
    email: Option<&str>,
) -> About<'a> {
    let customer = email.map(|email| {
        let email = home.email_case.canonical(email);
        let pseudonyms = scribe.pseudonyms();
        pseudonyms.pseudonym(Purpose::Customer, tenant, email.as_bytes())
    });
    About {
        tenant: Some(tenant.as_str()),
        customer,
        ..About::default()
    }
}

/// Says whether all of it was done, once that is recorded or cannot be: it is done either way.
async fn end(
    (act, action): (Underway<'_>, &'static str),
    tenant: &TenantId,
    cache: Option<&'static str>,
    ownership: Option<&'static str>,
) -> bool {
    let whole = cache != Some(UNTOLD) && ownership != Some(UNKNOWN);
    let result = if whole { "done" } else { "incomplete" };
    let found = Found {
        cache,
        ownership,
        ..Found::default()
    };
    act.ends(result, found).await;
    tracing::info!(
        tenant.id = %tenant, action, cache, ownership, result,
        "an operator has the gateway forget"
    );
    whole
}
