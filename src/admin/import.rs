//! `POST /api/customers/import`, `…/remove` and `…/owner`: what operators do with the ledger.
//!
//! Invariant: neither an answer nor the log repeats an address.

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
    api::{Answer, BoxError, not_allowed, read},
};
use crate::{
    customer::{
        Outcome,
        import::{Action, BATCH, Importer, of_account},
    },
    ident::TenantId,
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
pub(super) async fn answer<B>(admin: &Admin, call: Call, parts: &Parts, body: B) -> Answer
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    if parts.method != Method::POST {
        return Err(not_allowed("POST"));
    }
    let document = match call {
        Call::Apply(action) => {
            let request = read(&parts.headers, body, "`tenant` and `emails`").await?;
            apply(admin, action, &request).await?
        }
        Call::Owner => {
            let request = read(&parts.headers, body, "`account` and `email`").await?;
            owner(&admin.importers, &request).await?
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
pub(super) enum ImportError {
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
}

/// Imports one batch, or takes it out, and with it the statuses that are kept of its customers. The
/// answer's `results` are in the order of `emails`.
async fn apply(
    admin: &Admin,
    action: Action,
    request: &BatchRequest,
) -> Result<Value, ImportError> {
    let importer = admin.importers.get(request.tenant.as_str());
    let importer = importer.ok_or(ImportError::NoLedger)?;
    if request.emails.len() > BATCH {
        return Err(ImportError::TooMany);
    }
    let outcomes = importer.apply(action, &request.emails).await?;
    let count = |of: Outcome| outcomes.iter().filter(|outcome| **outcome == of).count();
    let (tenant, asked) = (&importer.tenant, outcomes.len());
    match action {
        Action::Import => {
            let imported = count(Outcome::Imported);
            tracing::info!(tenant.id = %tenant, imported, asked, "customers imported");
        }
        Action::Remove => {
            let removed = count(Outcome::Removed);
            tracing::info!(tenant.id = %tenant, removed, asked, "customers removed");
            let all = request.emails.iter().zip(&outcomes);
            forget_statuses(&admin.statuses, importer, all).await;
        }
    }
    let results: Vec<&str> = outcomes.into_iter().map(Outcome::as_str).collect();
    Ok(json!({ "results": results }))
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

/// Says who has a customer: `tenant` is null where nobody has.
async fn owner(
    importers: &HashMap<TenantId, Importer>,
    request: &OwnerRequest,
) -> Result<Value, ImportError> {
    let importer = of_account(importers.values(), &request.account);
    let importer = importer.ok_or(ImportError::NoAccount)?;
    if !is_mailbox(request.email.trim()) {
        return Err(ImportError::Invalid);
    }
    let owner = importer.owner(&request.email).await?;
    Ok(json!({
        "tenant": owner.as_ref().map(|owner| owner.tenant.as_str()),
        "phase": owner.as_ref().map(|owner| owner.phase.as_str()),
    }))
}
