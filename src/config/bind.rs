//! The list `[[issuers.bind]]`: claims that members of the body must equal.
//!
//! Invariant: a rule that leaves here can be kept: its pointer names a text that a body of its
//! services may hold, and its claim means nothing else.

use crate::{
    auth::permit::BindRule,
    config::{cursor::Section, entries::service, field::Field, issuers::claim},
    operation::{Operation, Operations},
    payload,
};

/// Most rules of one issuer: each costs memory in every token that is remembered.
const MAX_RULES: usize = 8;

/// Reads `[[issuers.bind]]`; none where it is left out.
pub(super) fn rules(section: &mut Section<'_>) -> Option<Vec<BindRule>> {
    let Some(field) = section.optional("bind") else {
        return Some(Vec::new());
    };
    let items = field.items()?;
    if items.len() > MAX_RULES {
        section.mistake("bind", "has more than 8 rules", "keep 8 at most");
        return None;
    }
    let rules: Vec<Option<BindRule>> = items.into_iter().map(rule).collect();
    rules.into_iter().collect()
}

fn rule(field: Field<'_>) -> Option<BindRule> {
    let mut section = field.section();
    let claim = section.required("claim").and_then(|f| claim(&f));
    let member = section
        .required("pointer")
        .and_then(|f| f.choice(&members()));
    let named = section.optional("services");
    let all = named.is_none();
    let services = named.map_or(Some(Operation::ALL.to_vec()), |f| f.list(false, service));
    let required = section
        .optional("required")
        .map_or(Some(true), |f| f.flag());
    if let (Some(member), Some(services)) = (member, &services)
        && !services.iter().any(|service| member.belongs_to(*service))
    {
        section.mistake(
            "pointer",
            "is a member that none of the rule's services has",
            "name services that have it, or another member",
        );
        return None;
    }
    if all
        && let Some(member) = member
        && !Operation::ALL
            .into_iter()
            .all(|service| member.belongs_to(service))
    {
        section.warning(
            "services",
            "is left out, so the services that do not have the member are closed by the rule",
            "name the services that have it",
        );
    }
    section.finish();
    Some(BindRule {
        claim: claim?,
        pointer: member?.pointer(),
        services: services?.into_iter().collect::<Operations>(),
        required: required?,
    })
}

/// The texts of a body, by pointer; images are not compared.
fn members() -> Vec<(&'static str, payload::Field)> {
    payload::Field::ALL
        .into_iter()
        .filter(|field| field.is_text())
        .map(|field| (field.pointer(), field))
        .collect()
}
