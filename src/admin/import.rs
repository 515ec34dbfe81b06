//! `POST /api/customers/import`: customers from before the gateway, as a tenant's own.
//!
//! Invariant: neither the answer nor the log repeats an address.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;

use crate::{
    customer::import::{BATCH, Importer, Outcome},
    ident::TenantId,
    store::StoreError,
};

/// What is asked for. It has no `Debug`: it holds people's addresses.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ImportRequest {
    tenant: String,
    emails: Vec<String>,
}

/// Why nothing was imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum ImportError {
    #[error(
        "`tenant` names no tenant with isolation = \"ledger\": name one of the configuration that this gateway runs with"
    )]
    NoLedger,
    #[error("send at most {BATCH} emails at a time")]
    TooMany,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Imports one batch. The answer's `results` are in the order of `emails`.
pub(super) async fn import(
    importers: &HashMap<TenantId, Importer>,
    request: &ImportRequest,
) -> Result<Value, ImportError> {
    let importer = importers.get(request.tenant.as_str());
    let importer = importer.ok_or(ImportError::NoLedger)?;
    if request.emails.len() > BATCH {
        return Err(ImportError::TooMany);
    }
    let outcomes = importer.import(&request.emails).await?;
    let imported = outcomes.iter().filter(|o| **o == Outcome::Imported).count();
    tracing::info!(
        tenant.id = %importer.tenant, imported, asked = outcomes.len(), "customers imported"
    );
    let results: Vec<&str> = outcomes.into_iter().map(Outcome::as_str).collect();
    Ok(json!({ "results": results }))
}
