//! What the configuration says of DPoP proofs: `server.public_urls`, and three keys of an issuer.
//!
//! Invariant: an issuer that requires proofs is one whose proofs can be checked.

use std::time::Duration;

use crate::{
    auth::{
        IssuerSettings,
        dpop::{DpopRules, DpopSettings, NonceKey, PublicUrl},
    },
    config::{
        cursor::{Context, Section},
        field::Field,
        mistake::Mistake,
    },
};

const MAX_AGE: Duration = Duration::from_mins(1);

/// A proof is made for one request. With a longest age of minutes the memory of used ones would be
/// full at a tenth of the load.
const LONGEST_AGE: Duration = Duration::from_mins(5);
const SHORTEST_AGE: Duration = Duration::from_secs(1);

const EXAMPLE: &str = "write it as \"https://gateway.example\", as clients have it before the path";

/// Reads `public_urls` of `[server]`.
pub(super) fn public_urls(section: &mut Section<'_>) -> Option<Vec<PublicUrl>> {
    section.required("public_urls")?.list(true, |item| {
        PublicUrl::parse(item.text()?)
            .inspect_err(|error| item.mistake(error.to_string(), EXAMPLE))
            .ok()
    })
}

/// Reads what an issuer's section says of proofs.
pub(super) fn rules(section: &mut Section<'_>) -> Option<DpopRules> {
    let flag = |field: Option<Field<'_>>| field.map_or(Some(false), |f| f.flag());
    let required = flag(section.optional("require_dpop"));
    let max_age = section
        .optional("dpop_max_age")
        .map_or(Some(MAX_AGE), |f| f.duration(&(SHORTEST_AGE..=LONGEST_AGE)));
    let nonce = flag(section.optional("dpop_nonce"));
    Some(DpopRules {
        required: required?,
        max_age: max_age?,
        nonce: nonce?,
    })
}

/// The settings of the whole process. Without a public URL no proof can be checked, so an issuer that
/// requires them would be refused altogether.
pub(super) fn settings(
    context: Context<'_>,
    public_urls: Vec<PublicUrl>,
    issuers: &[IssuerSettings],
    state_key: &[u8; 32],
) -> DpopSettings {
    let counts_on_proofs = |issuer: &&IssuerSettings| issuer.dpop.required || issuer.dpop.nonce;
    let requiring = issuers.iter().find(counts_on_proofs);
    if let Some(issuer) = requiring.filter(|_| public_urls.is_empty()) {
        let problem = format!(
            "is empty, though issuers[{}] counts on proofs, so no bound token of it would pass",
            issuer.id
        );
        let mistake = Mistake::new(context.name, "server.public_urls", problem, EXAMPLE);
        context.report.mistake(mistake);
    }
    DpopSettings {
        public_urls,
        nonces: NonceKey::derive(state_key),
    }
}
