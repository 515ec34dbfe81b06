//! `token`: mints a token where the configuration holds a signing key of the issuer.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{CommandError, complain, say};
use crate::{
    auth::{
        AuthError, IssuerSettings,
        jwks::KeySource,
        mint::{Grant, MintError},
    },
    clock,
    config::Config,
    ident::TenantId,
    operation::{Operation, Operations},
    units,
};

#[derive(Debug, Args)]
pub(super) struct TokenArgs {
    /// A TOML file, or a folder of them
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    config: Vec<PathBuf>,
    /// The issuer's id
    #[arg(long, value_name = "ID")]
    issuer: String,
    /// The tenant's id
    #[arg(long, value_name = "ID")]
    tenant: String,
    /// A scope; may be given several times
    #[arg(long, value_name = "SCOPE")]
    scope: Vec<String>,
    /// Who the token is for
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    /// The one customer that the token may touch
    #[arg(long, value_name = "EMAIL")]
    customer: Option<String>,
    /// How long it is good for
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = units::parse_duration)]
    ttl: Duration,
}

/// Prints a token that the gateway would accept now.
pub(super) fn mint(args: &TokenArgs) -> Result<(), CommandError> {
    let config = Config::load_with_env(&args.config)?;
    let issuer = config
        .issuers
        .iter()
        .find(|issuer| issuer.id.as_str() == args.issuer)
        .ok_or_else(|| {
            unknown(
                "issuer",
                config.issuers.iter().map(|issuer| issuer.id.as_str()),
            )
        })?;
    let tenant = issuer.tenants.get(args.tenant.as_str()).ok_or_else(|| {
        unknown(
            "tenant of this issuer",
            issuer.tenants.iter().map(TenantId::as_str),
        )
    })?;
    let key = config.signing_keys.get(&issuer.id);
    let key = key.ok_or_else(|| cannot_sign(issuer))?;
    let grant = Grant {
        tenant,
        operations: operations(&args.scope)?,
        subject: args.subject.as_deref(),
        customer: args.customer.as_deref(),
        ttl: args.ttl,
    };
    if args.scope.is_empty() {
        complain("note: without --scope the token may do nothing");
    }
    match grant.mint(issuer, key, clock::now()) {
        Ok(token) => say(&token),
        Err(MintError::Refused(AuthError::LivesTooLong)) => Err(CommandError::Usage(format!(
            "a token of {} may live {} at most (its `max_ttl`); ask for less with --ttl",
            issuer.id,
            units::show_duration(issuer.max_ttl)
        ))),
        Err(MintError::Refused(AuthError::NotBound)) => Err(CommandError::Usage(format!(
            "issuer {} has `require_dpop`, and only a client can bind a token to its key; for \
             development, name another issuer without it",
            issuer.id
        ))),
        Err(error) => Err(error.into()),
    }
}

fn cannot_sign(issuer: &IssuerSettings) -> CommandError {
    let why = match issuer.keys {
        KeySource::Fixed(_) => {
            "has no `secret` or `private_key` to sign with; for development, add one"
        }
        KeySource::Remote(_) => {
            "publishes its keys and signs by itself; ask it for a token, or for development add an \
             issuer with a `secret`"
        }
    };
    CommandError::Usage(format!("issuer {} {why}", issuer.id))
}

fn operations(scopes: &[String]) -> Result<Operations, CommandError> {
    for scope in scopes {
        if !Operation::ALL
            .iter()
            .any(|operation| operation.scope() == scope)
        {
            return Err(unknown(
                "scope (give --scope once for each)",
                Operation::ALL.iter().map(|operation| operation.scope()),
            ));
        }
    }
    Ok(Operations::of_scopes(scopes.iter().map(String::as_str)))
}

fn unknown<'a>(what: &str, known: impl Iterator<Item = &'a str>) -> CommandError {
    let known = known.collect::<Vec<_>>().join(", ");
    CommandError::Usage(format!("there is no such {what}; known: {known}"))
}
