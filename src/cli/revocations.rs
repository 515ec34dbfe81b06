//! `revocations add|list|remove`: refuses tokens before they expire.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};

use super::{CommandError, complain, reach::Reach, say};
use crate::{
    admin::api::show,
    auth::{register::Register, revocation::request::RevocationRequest},
    clock,
    config::Config,
    ident::Pseudonym,
};

#[derive(Debug, Args)]
pub(super) struct RevocationsArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Refuse tokens: one of --jti, --subject, --kid (each with --issuer), --tenant, or --issued-before
    Add(Add),
    /// Print what is in force, one JSON object a line
    List(Configured),
    /// Take a revocation back
    Remove(Remove),
}

#[derive(Debug, Args)]
struct Configured {
    /// A TOML file, or a folder of them
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    config: Vec<PathBuf>,
}

#[derive(Debug, Args)]
struct Add {
    #[command(flatten)]
    configured: Configured,
    /// The issuer's id in the configuration
    #[arg(long, value_name = "ID")]
    issuer: Option<String>,
    /// The token of this id
    #[arg(long, value_name = "JTI")]
    jti: Option<String>,
    /// All tokens of this subject
    #[arg(long, value_name = "SUB")]
    subject: Option<String>,
    /// All tokens signed under this key, now and later
    #[arg(long, value_name = "KID")]
    kid: Option<String>,
    /// All tokens for this tenant
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
    /// Only tokens issued before this instant, such as 2026-11-23T08:00:00Z
    #[arg(long, value_name = "INSTANT")]
    issued_before: Option<Timestamp>,
    /// When the last of these tokens expires, where that is known
    #[arg(long, value_name = "INSTANT")]
    expires: Option<Timestamp>,
}

#[derive(Debug, Args)]
struct Remove {
    #[command(flatten)]
    configured: Configured,
    /// The revocation's id, as `list` prints it
    #[arg(long, value_name = "ID")]
    id: Pseudonym,
}

pub(super) async fn run(args: RevocationsArgs) -> Result<(), CommandError> {
    match args.action {
        Action::Add(args) => add(args).await,
        Action::List(args) => list(&args).await,
        Action::Remove(args) => remove(&args).await,
    }
}

async fn add(args: Add) -> Result<(), CommandError> {
    let config = Config::load_with_env(&args.configured.config)?;
    let request = RevocationRequest {
        issuer: args.issuer,
        jti: args.jti,
        subject: args.subject,
        kid: args.kid,
        tenant: args.tenant,
        issued_before: args.issued_before,
        expires: args.expires,
    };
    // Before anything is asked for: wrong usage is told apart from work that failed.
    let revocation = request
        .resolve(&config.terms, clock::now())
        .map_err(|error| CommandError::Usage(error.to_string()))?;
    let entry = match Reach::open(&config)? {
        Reach::Running(operator) => {
            let body = serde_json::to_value(&request).unwrap_or_default();
            operator
                .ask(Method::POST, "api/revocations", Some(&body))
                .await?
        }
        Reach::Store(store) => {
            let register = Register::open(store, config.pseudonyms, config.revocations).await?;
            complain(
                "note: no gateway runs on this state; the next one that starts will refuse them",
            );
            show(&register.add(revocation).await?)
        }
    };
    say(&entry.to_string())
}

async fn list(args: &Configured) -> Result<(), CommandError> {
    let config = Config::load_with_env(&args.config)?;
    let list = match Reach::open(&config)? {
        Reach::Running(operator) => operator.ask(Method::GET, "api/revocations", None).await?,
        Reach::Store(store) => {
            let register = Register::open(store, config.pseudonyms, config.revocations).await?;
            let entries = register.entries(clock::now()).await?;
            json!({ "revocations": entries.iter().map(show).collect::<Vec<_>>() })
        }
    };
    let entries = list.get("revocations").and_then(Value::as_array);
    for entry in entries.into_iter().flatten() {
        say(&entry.to_string())?;
    }
    Ok(())
}

async fn remove(args: &Remove) -> Result<(), CommandError> {
    let config = Config::load_with_env(&args.configured.config)?;
    match Reach::open(&config)? {
        Reach::Running(operator) => {
            let path = format!("api/revocations/{}", args.id);
            operator.ask(Method::DELETE, &path, None).await?;
        }
        Reach::Store(store) => {
            let register = Register::open(store, config.pseudonyms, config.revocations).await?;
            if !register.remove(args.id).await? {
                let why = "there is no such revocation, or it stands in the configuration";
                return Err(CommandError::Usage(why.to_owned()));
            }
        }
    }
    say("removed")
}
