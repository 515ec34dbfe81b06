//! `revocations add|list|remove`: refuses tokens before they expire.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use reqwest::Method;
use serde_json::Value;

use super::{CommandError, Session, complain, reach::Reach, say};
use crate::{
    admin::revocations::{self, RevocationError, removed, show},
    auth::{
        register::{Register, entry_id},
        revocation::request::RevocationRequest,
    },
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
    #[command(flatten)]
    tokens: Tokens,
    /// When the last of these tokens expires, where that is known
    #[arg(long, value_name = "INSTANT")]
    expires: Option<Timestamp>,
}

/// Which tokens are meant.
#[derive(Debug, Args)]
struct Tokens {
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
}

impl Tokens {
    fn request(self, expires: Option<Timestamp>) -> RevocationRequest {
        RevocationRequest {
            issuer: self.issuer,
            jti: self.jti,
            subject: self.subject,
            kid: self.kid,
            tenant: self.tenant,
            issued_before: self.issued_before,
            expires,
        }
    }
}

#[derive(Debug, Args)]
struct Remove {
    #[command(flatten)]
    configured: Configured,
    /// The revocation's id, as `list` prints it; or name it as it was added
    #[arg(long, value_name = "ID")]
    id: Option<Pseudonym>,
    #[command(flatten)]
    tokens: Tokens,
}

pub(super) async fn run(args: RevocationsArgs, session: &mut Session) -> Result<(), CommandError> {
    match args.action {
        Action::Add(args) => add(args, session).await,
        Action::List(args) => list(&args, session).await,
        Action::Remove(args) => remove(args, session).await,
    }
}

impl From<RevocationError> for CommandError {
    fn from(error: RevocationError) -> Self {
        Self::Operator(error.to_string())
    }
}

async fn add(args: Add, session: &mut Session) -> Result<(), CommandError> {
    let config = Config::load_with_env(&args.configured.config)?;
    let request = args.tokens.request(args.expires);
    // Before anything is asked for: wrong usage is told apart from work that failed.
    let revocation = request
        .resolve(&config.terms, clock::now())
        .map_err(|error| CommandError::Usage(error.to_string()))?;
    let entry = match Reach::open(&config, session).await? {
        Reach::Running(operator) => {
            let body = serde_json::to_value(&request).unwrap_or_default();
            operator
                .ask(Method::POST, "api/revocations", Some(&body))
                .await?
        }
        Reach::Store(store, books) => {
            let note = if store.redis().is_some() {
                "note: every gateway that shares this Redis refuses them within seconds"
            } else {
                "note: no gateway runs on this state; the next one that starts will refuse them"
            };
            let register = Register::open(store, config.pseudonyms, config.revocations).await?;
            complain(note);
            show(&revocations::revoke(&register, books.scribe(), revocation).await?)
        }
    };
    say(&entry.to_string())
}

async fn list(args: &Configured, session: &mut Session) -> Result<(), CommandError> {
    let config = Config::load_with_env(&args.config)?;
    let list = match Reach::open(&config, session).await? {
        Reach::Running(operator) => operator.ask(Method::GET, "api/revocations", None).await?,
        Reach::Store(store, books) => {
            let register = Register::open(store, config.pseudonyms, config.revocations).await?;
            revocations::list(&register, books.scribe()).await?
        }
    };
    let entries = list.get("revocations").and_then(Value::as_array);
    for entry in entries.into_iter().flatten() {
        say(&entry.to_string())?;
    }
    Ok(())
}

async fn remove(args: Remove, session: &mut Session) -> Result<(), CommandError> {
    let config = Config::load_with_env(&args.configured.config)?;
    let id = if let Some(id) = args.id {
        id
    } else {
        let request = args.tokens.request(None);
        let meant = request.resolve(&config.terms, clock::now());
        let meant = meant.map_err(|error| CommandError::Usage(error.to_string()))?;
        entry_id(&config.pseudonyms, &meant.target)
    };
    let answer = match Reach::open(&config, session).await? {
        Reach::Running(operator) => {
            let path = format!("api/revocations/{id}");
            operator.ask(Method::DELETE, &path, None).await?
        }
        Reach::Store(store, books) => {
            let register = Register::open(store, config.pseudonyms, config.revocations).await?;
            let removal = revocations::take_back(&register, books.scribe(), id).await?;
            removed(id, removal).map_err(|why| CommandError::Usage(why.to_owned()))?
        }
    };
    say(&answer.to_string())
}
