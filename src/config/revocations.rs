//! The list `[[revocations]]`: tokens that are refused for as long as the entry stands there.
//!
//! Invariant: an entry that leaves here covers tokens of a configured issuer or tenant.

use crate::{
    auth::revocation::{
        Revocation,
        request::{RequestError, RevocationRequest, Terms},
    },
    clock,
    config::{
        cursor::{Context, Section},
        field::Field,
        layers::Entry,
    },
};

/// Reads `[[revocations]]`. Without `terms` what the entries name cannot be judged.
pub(super) fn revocations(
    context: Context<'_>,
    entries: Vec<Entry>,
    terms: Option<&Terms>,
) -> Option<Vec<Revocation>> {
    let read = |entry| {
        let section = Field::entry(context, "revocations", entry).section();
        revocation(section, terms)
    };
    let revocations: Vec<Option<Revocation>> = entries.into_iter().map(read).collect();
    revocations.into_iter().collect()
}

fn revocation(mut section: Section<'_>, terms: Option<&Terms>) -> Option<Revocation> {
    let mut sound = true;
    let mut text = |section: &mut Section<'_>, key| {
        let field = section.optional(key)?;
        let text = field.printable();
        sound &= text.is_some();
        text
    };
    let request = RevocationRequest {
        issuer: text(&mut section, "issuer"),
        jti: text(&mut section, "jti"),
        subject: text(&mut section, "subject"),
        kid: text(&mut section, "kid"),
        tenant: text(&mut section, "tenant"),
        issued_before: None,
        expires: None,
    };
    let issued_before = match section.optional("issued_before") {
        Some(field) => {
            let instant = field.instant();
            sound &= instant.is_some();
            instant
        }
        None => None,
    };
    let request = RevocationRequest {
        issued_before,
        ..request
    };
    let revocation = request.standing(terms.filter(|_| sound)?, clock::now());
    if request.tenant.is_some() && issued_before.is_none() && revocation.is_ok() {
        section.warning(
            "tenant",
            "refuses every token of this tenant, those that are still to come too",
            "write issued_before beside it to refuse older ones only",
        );
    }
    if let Err(error) = &revocation {
        section.mistake(
            key_of(*error),
            format!("is refused: {error}"),
            "mend it, or remove the entry",
        );
    }
    section.finish();
    revocation.ok()
}

/// The key that an error is about.
const fn key_of(error: RequestError) -> &'static str {
    match error {
        RequestError::Expired => "expires",
        RequestError::Future | RequestError::Time => "issued_before",
        RequestError::Length { name, .. } => name,
        RequestError::Several { other, .. } => other,
        RequestError::Nothing
        | RequestError::UnknownIssuer
        | RequestError::WithoutIssuer { .. } => "issuer",
        RequestError::UnknownKey => "kid",
        RequestError::UnknownTenant => "tenant",
    }
}
