//! `POST /api/customers/import`, `…/remove` and `…/owner`: what operators do with the ledger.
//!
//! Invariant: neither an answer nor the log repeats an address.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;

use crate::{
    customer::{
        Outcome,
        import::{Action, BATCH, Importer, of_account},
    },
    ident::TenantId,
    payload::email::is_mailbox,
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

/// Customers of a tenant. It has no `Debug`: it holds people's addresses.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchRequest {
    tenant: String,
    emails: Vec<String>,
}

/// A customer of an account. It has no `Debug` either.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OwnerRequest {
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

/// Imports one batch, or takes it out. The answer's `results` are in the order of `emails`.
pub(super) async fn apply(
    importers: &HashMap<TenantId, Importer>,
    action: Action,
    request: &BatchRequest,
) -> Result<Value, ImportError> {
    let importer = importers.get(request.tenant.as_str());
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
        }
    }
    let results: Vec<&str> = outcomes.into_iter().map(Outcome::as_str).collect();
    Ok(json!({ "results": results }))
}

/// Says who has a customer: `tenant` is null where nobody has.
pub(super) async fn owner(
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
