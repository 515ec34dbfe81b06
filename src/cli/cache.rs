//! `cache purge`: the gateway that runs keeps a tenant's statuses no more, or one customer's.
//!
//! Invariant: no address is ever printed. There is nothing to do where no gateway runs: what one has in
//! memory ends with it.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::json;

use super::{CommandError, Session, customers::mailbox, reach::Operator, say};
use crate::{config::origin::Origin, ident::TenantId};

#[derive(Debug, Args)]
pub(super) struct CacheArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Have the next request of each of a tenant's customers, or of one, ask DCAMS
    Purge(Purge),
}

#[derive(Debug, Args)]
struct Purge {
    /// A TOML file, or a folder of them
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    config: Vec<PathBuf>,
    /// The tenant's id
    #[arg(long, value_name = "ID")]
    tenant: String,
    /// Of the customer with this address alone
    #[arg(long, value_name = "EMAIL")]
    email: Option<String>,
}

pub(super) async fn run(args: CacheArgs, session: &Session) -> Result<(), CommandError> {
    match args.action {
        Action::Purge(args) => purge(&args, session).await,
    }
}

async fn purge(args: &Purge, session: &Session) -> Result<(), CommandError> {
    let wrong = |error| CommandError::Usage(format!("--tenant: {error}"));
    let tenant = TenantId::try_from(args.tenant.as_str()).map_err(|e| wrong(e.to_string()))?;
    let email = args.email.as_deref().map(mailbox).transpose()?;
    let admin = Origin::with_env(&args.config).read_admin()?;
    let operator = Operator::new(&admin, session)?;
    if !operator.answers().await {
        return Err(CommandError::Operator(format!(
            "no gateway answers at {}: where none runs, none has a status in memory; else set admin.listen \
             to that of the one that runs",
            operator.base()
        )));
    }
    let mut body = json!({ "tenant": tenant });
    if let (Some(members), Some(email)) = (body.as_object_mut(), email) {
        members.insert("email".to_owned(), email.into());
    }
    let answer = operator.ask(Method::POST, "api/cache/purge", Some(&body));
    say(&answer.await?.to_string())
}
