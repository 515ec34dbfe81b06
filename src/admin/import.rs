//! `POST /api/customers/import`, `…/remove` and `…/owner`: what operators do with the ledger.
//!
//! Invariant: neither an answer nor the log nor an audit event repeats an address.

use std::collections::HashMap;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, StatusCode, request::Parts};
use http_body::Body;
use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;

use super::{
    Admin,
    api::{Answer, BoxError, Refusal, not_allowed, read},
};
use crate::{
    audit::operator::{About, Action as Deed, Found, Scribe, Unrecorded},
    customer::{
        Outcome, Owner,
        import::{Action, BATCH, Importer, of_account},
    },
    ident::{Purpose, TenantId},
    payload::email::is_mailbox,
    status::StatusCache,
    store::StoreError,
};

/// What can be asked for.
#[derive(Clone, Copy)]
pub(super) enum Call {
    Apply(Action),
    Owner,
}

impl Call {
    /// The call that is made at this path.
    pub(super) fn at(path: &str) -> Option<Self> {
        match path.strip_prefix("/api/customers/")? {
            "import" => Some(Self::Apply(Action::Import)),
            "owner" => Some(Self::Owner),
            "remove" => Some(Self::Apply(Action::Remove)),
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
        Call::Apply(action) => {
            let request = read(&parts.headers, body, "`tenant` and `emails`").await?;
            apply(admin, scribe, action, &request).await?
        }
        Call::Owner => {
            let request: OwnerRequest = read(&parts.headers, body, "`account` and `email`").await?;
            let owner = owner(&admin.importers, scribe, &request.account, &request.email);
            let owner = owner.await?;
            json!({
                "tenant": owner.as_ref().map(|owner| owner.tenant.as_str()),
                "phase": owner.as_ref().map(|owner| owner.phase.as_str()),
            })
        }
    };
    Ok((StatusCode::OK, document))
}

/// Customers of a tenant. It has no `Debug`: it holds people's addresses.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchRequest {
    tenant: String,
    emails: Vec<String>,
}

/// A customer of an account. It has no `Debug` either.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnerRequest {
    account: String,
    email: String,
}

/// Why nothing was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum ImportError {
    #[error("`email` is not an email address")]
    Invalid,
    #[error(
        "`account` names no account of a tenant with isolation = \"ledger\": name one of the configuration that this gateway runs with"
    )]
    NoAccount,
    #[error(
        "`tenant` names no tenant with isolation = \"ledger\": name one of the configuration that this gateway runs with"
    )]
    NoLedger,
    #[error("send at most {BATCH} emails at a time")]
    TooMany,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Unrecorded(#[from] Unrecorded),
}

impl From<ImportError> for Refusal {
    fn from(error: ImportError) -> Self {
        let status = match error {
            ImportError::Unrecorded(why) => return why.into(),
            ImportError::Invalid
            | ImportError::NoAccount
            | ImportError::NoLedger
            | ImportError::TooMany => StatusCode::BAD_REQUEST,
            ImportError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

/// Imports one batch, or takes it out, and with it the statuses that are kept of its customers. The
/// answer's `results` are in the order of `emails`.
async fn apply(
    admin: &Admin,
    scribe: Scribe<'_>,
    action: Action,
    request: &BatchRequest,
) -> Result<Value, ImportError> {
    let importer = admin.importers.get(request.tenant.as_str());
    let importer = importer.ok_or(ImportError::NoLedger)?;
    if request.emails.len() > BATCH {
        return Err(ImportError::TooMany);
    }
    let outcomes = applied(importer, scribe, action, &request.emails).await?;
    let (tenant, asked, done) = (&importer.tenant, outcomes.len(), done(&outcomes));
    match action {
        Action::Import => {
            tracing::info!(tenant.id = %tenant, imported = done, asked, "customers imported");
        }
        Action::Remove => {
            tracing::info!(tenant.id = %tenant, removed = done, asked, "customers removed");
            let all = request.emails.iter().zip(&outcomes);
            forget_statuses(&admin.statuses, importer, all).await;
        }
    }
    let results: Vec<&str> = outcomes.into_iter().map(Outcome::as_str).collect();
    Ok(json!({ "results": results }))
}

/// Does it in the ledger: however many customers there are, two events tell of it.
pub(crate) async fn applied(
    importer: &Importer,
    scribe: Scribe<'_>,
    action: Action,
    emails: &[String],
) -> Result<Vec<Outcome>, ImportError> {
    let deed = match action {
        Action::Import => Deed::CustomerImport,
        Action::Remove => Deed::CustomerRemove,
    };
    let about = About {
        tenant: Some(importer.tenant.as_str()),
        customers: Some(emails.len()),
        ..About::default()
    };
    let act = scribe.begins(deed, about).await?;
    let outcomes = importer.apply(action, emails).await;
    let found = Found {
        done: outcomes.as_deref().ok().map(done),
        ..Found::default()
    };
    let result = if outcomes.is_ok() { "done" } else { "unknown" };
    act.ends(result, found).await;
    Ok(outcomes?)
}

/// With how many it was done.
fn done(outcomes: &[Outcome]) -> usize {
    let is_done = |outcome: &&Outcome| matches!(outcome, Outcome::Imported | Outcome::Removed);
    outcomes.iter().filter(is_done).count()
}

/// Has the statuses of these customers kept no more: also of those that were not the tenant's just now, as
/// a removal that is repeated ends what the first has begun.
async fn forget_statuses(
    statuses: &StatusCache,
    importer: &Importer,
    customers: impl Iterator<Item = (&String, &Outcome)>,
) {
    let Importer {
        tenant, account, ..
    } = importer;
    let meant = customers.filter(|(_, outcome)| **outcome != Outcome::Invalid);
    let forgetting =
        meant.map(|(email, _)| statuses.forget_customer(tenant, account, email.trim()));
    // All at a time: in Redis they share their way.
    let told = join_all(forgetting).await.iter().all(Result::is_ok);
    if !told {
        tracing::warn!(
            tenant.id = %tenant,
            "customers were removed, and other gateways cannot be told to keep their statuses no more: they \
             are told when Redis is back, and ask the ledger first in any case"
        );
    }
}

/// Says who has a customer of an account.
pub(crate) async fn owner(
    importers: &HashMap<TenantId, Importer>,
    scribe: Scribe<'_>,
    account: &str,
    email: &str,
) -> Result<Option<Owner>, ImportError> {
    let importer = of_account(importers.values(), account).ok_or(ImportError::NoAccount)?;
    if !is_mailbox(email.trim()) {
        return Err(ImportError::Invalid);
    }
    let owner = importer.owner(email).await?;
    // Each tenant has pseudonyms of its own, so that there is none of a customer whom nobody has.
    let customer = owner.as_ref().map(|owner| {
        let email = importer.email_case.canonical(email);
        let pseudonyms = scribe.pseudonyms();
        pseudonyms.pseudonym(Purpose::Customer, &owner.tenant, email.as_bytes())
    });
    let about = About {
        account: Some(importer.account.as_str()),
        tenant: owner.as_ref().map(|owner| owner.tenant.as_str()),
        customer,
        ..About::default()
    };
    scribe.tells(Deed::CustomerOwner, about).await?;
    Ok(owner)
}
