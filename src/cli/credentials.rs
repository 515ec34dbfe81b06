//! `credentials list|retry|test`: how the credentials towards DCAMS stand, and whether it accepts them.
//!
//! Invariant: no value is printed, nor its length, nor anything made of it.

use std::{path::PathBuf, sync::Arc};

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    CommandError, Session,
    reach::{Books, Operator, Record},
    say,
};
use crate::{
    admin,
    audit::operator::Unrecorded,
    config::{Config, origin::Origin},
    credential::{
        Account, Credential, CredentialSettings,
        source::{Source, SourceError},
        vault::Vault,
    },
    ident::{AccountId, CredentialId},
    payload::email::is_mailbox,
    redact::Redacted,
    rotator::Question,
    upstream::client::UpstreamClient,
};

#[derive(Debug, Args)]
pub(super) struct CredentialsArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show how the running gateway's credentials stand
    List(List),
    /// Have a rejected credential tried again now, after it was mended at the vendor
    Retry(Retry),
    /// Ask DCAMS with each configured credential whether it accepts it: the gateway that runs does, with
    /// what its sources hold now, or where there is none this command
    Test(Test),
}

#[derive(Debug, Args)]
struct List {
    /// A TOML file, or a folder of them
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    config: Vec<PathBuf>,
    /// Print the gateway's answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Retry {
    /// A TOML file, or a folder of them
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    config: Vec<PathBuf>,
    /// The account's id
    #[arg(long, value_name = "ID")]
    account: String,
    /// The credential's id
    #[arg(long, value_name = "ID")]
    credential: String,
}

#[derive(Debug, Args)]
struct Test {
    /// A TOML file, or a folder of them
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    config: Vec<PathBuf>,
    /// Of this account alone
    #[arg(long, value_name = "ID")]
    account: Option<String>,
    /// This credential alone
    #[arg(long, value_name = "ID")]
    credential: Option<String>,
    /// Whose status to ask for, where the account has no [accounts.probe]; nobody needs to have it
    #[arg(long, value_name = "EMAIL")]
    email: Option<String>,
}

pub(super) async fn run(args: CredentialsArgs, session: &mut Session) -> Result<(), CommandError> {
    match args.action {
        Action::List(args) => list(&args, session).await,
        Action::Retry(args) => retry(&args, session).await,
        Action::Test(args) => test(&args, session).await,
    }
}

async fn list(args: &List, session: &Session) -> Result<(), CommandError> {
    let admin = Origin::with_env(&args.config).read_admin()?;
    let operator = Operator::reach(&admin, session).await?;
    let answer = operator.ask(Method::GET, "api/credentials", None).await?;
    if args.json {
        return say(&answer.to_string());
    }
    for line in table(&answer) {
        say(&line)?;
    }
    Ok(())
}

async fn retry(args: &Retry, session: &Session) -> Result<(), CommandError> {
    let unusable = |_| CommandError::Usage("an id is 1 to 64 of A-Z a-z 0-9 . _ -".to_owned());
    let account = AccountId::try_from(args.account.as_str()).map_err(unusable)?;
    let credential = CredentialId::try_from(args.credential.as_str()).map_err(unusable)?;
    let admin = Origin::with_env(&args.config).read_admin()?;
    let operator = Operator::reach(&admin, session).await?;
    let named = json!({ "account": account, "credential": credential });
    let answer = operator
        .ask(Method::POST, "api/credentials/retry", Some(&named))
        .await?;
    say(&answer.to_string())
}

async fn test(args: &Test, session: &mut Session) -> Result<(), CommandError> {
    let config = Config::load_with_env(&args.config)?;
    let given = args.email.as_deref();
    if given.is_some_and(|email| !is_mailbox(email)) {
        return Err(CommandError::Usage(
            "--email is no email address".to_owned(),
        ));
    }
    let tested = meant(args, &config)?;
    let tester = Tester::new(&config, session).await?;
    let mut failed = 0_u64;
    for (account, credential, email) in &tested {
        let (good, said) = tester.test(&account.id, credential, email).await?;
        failed += u64::from(!good);
        say(&format!("{} {}: {said}", account.id, credential.id))?;
    }
    if failed > 0 {
        let tested = u64::try_from(tested.len()).unwrap_or(u64::MAX);
        return Err(CommandError::Untrusted { failed, tested });
    }
    Ok(())
}

/// A credential that is to be tested: of which account, and whose status is asked for.
type Meant<'a> = (&'a Account, &'a CredentialSettings, Redacted<String>);

/// The credentials that were named; all, where none was.
fn meant<'a>(args: &Test, config: &'a Config) -> Result<Vec<Meant<'a>>, CommandError> {
    let is_meant = |wanted: &Option<String>, id: &str| wanted.as_deref().is_none_or(|w| w == id);
    let mut meant = Vec::new();
    for account in &config.accounts {
        if !is_meant(&args.account, account.id.as_str()) {
            continue;
        }
        let email = probe_of(account, args.email.as_deref())?;
        let own = account.credentials.iter();
        let own = own.filter(|c| is_meant(&args.credential, c.id.as_str()));
        meant.extend(own.map(|credential| (account, credential, email.clone())));
    }
    if meant.is_empty() {
        let what = "no configured credential has this --account and --credential";
        return Err(CommandError::Usage(what.to_owned()));
    }
    Ok(meant)
}

fn probe_of(account: &Account, given: Option<&str>) -> Result<Redacted<String>, CommandError> {
    let given = given.map(|email| Redacted::new(email.to_owned()));
    given.or_else(|| account.probe.clone()).ok_or_else(|| {
        CommandError::Usage(format!(
            "account {} has no [accounts.probe]: add one, or pass --email ADDRESS",
            account.id
        ))
    })
}

/// Who asks DCAMS: the gateway that runs, or where there is none this command. Either way it is on record
/// first.
enum Tester {
    Here(Box<Here>),
    Running(Operator),
}

/// With what a command asks.
struct Here {
    books: Books,
    upstream: UpstreamClient,
    vault: Option<Vault>,
}

impl Tester {
    async fn new(config: &Config, session: &mut Session) -> Result<Self, CommandError> {
        let books = match Record::open(config, session).await? {
            Record::Here(books) => books,
            Record::Running(operator) => return Ok(Self::Running(operator)),
        };
        let upstream = UpstreamClient::new(&config.upstream);
        let upstream = upstream.map_err(|error| CommandError::Start(error.into()))?;
        let vault = config.vault.clone().map(Vault::new).transpose();
        let vault = vault.map_err(|error| CommandError::Start(error.into()))?;
        Ok(Self::Here(Box::new(Here {
            books,
            upstream,
            vault,
        })))
    }

    /// Whether DCAMS accepts it, and what it said.
    async fn test(
        &self,
        account: &AccountId,
        credential: &CredentialSettings,
        email: &Redacted<String>,
    ) -> Result<(bool, String), CommandError> {
        let answer = match self {
            Self::Here(here) => {
                let scribe = here.books.scribe();
                let question = Question {
                    audit: scribe.audit(),
                    account,
                    id: &credential.id,
                    email,
                };
                let value = read(credential, here.vault.as_ref()).await;
                let asked = admin::credentials::ask(scribe, question, &here.upstream, value);
                let unrecorded = |why: Unrecorded| CommandError::Operator(why.to_string());
                asked.await.map_err(unrecorded)?
            }
            Self::Running(operator) => {
                let tested = json!({
                    "account": account, "credential": credential.id, "email": email.reveal(),
                });
                let asked = operator.ask(Method::POST, "api/credentials/test", Some(&tested));
                match asked.await {
                    Ok(answer) => answer,
                    // The others may be good.
                    Err(why) => return Ok((false, format!("not tried: {why}"))),
                }
            }
        };
        Ok(judge(&answer))
    }
}

async fn read(
    credential: &CredentialSettings,
    vault: Option<&Vault>,
) -> Result<Arc<Credential>, SourceError> {
    match (&credential.value, &credential.source, vault) {
        (Some(value), _, _) => Ok(Arc::clone(value)),
        (None, Source::Vault(path), Some(vault)) => Source::read_vault(path, vault).await,
        (None, _, _) => Err(SourceError::Elsewhere),
    }
}

/// What an answer says, for a person.
fn judge(answer: &Value) -> (bool, String) {
    let of = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or("-");
    let reason = of("reason");
    match of("result") {
        "accepted" => (true, "accepted by DCAMS".to_owned()),
        "refused" => (
            false,
            "REFUSED by DCAMS: compare user and pass with what the vendor gave you".to_owned(),
        ),
        "unread" => (false, format!("not tried, as it cannot be read: {reason}")),
        _ => (
            false,
            format!("no answer that says anything of it ({reason}): try again"),
        ),
    }
}

/// A line for each credential, in columns.
fn table(answer: &Value) -> Vec<String> {
    let head = [
        "ACCOUNT",
        "CREDENTIAL",
        "VALUE",
        "STATE",
        "SINCE",
        "LAST USED",
        "LAST REFUSED",
        "IN FLIGHT",
        "NOTE",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Array(_) | Value::Bool(_) | Value::Null | Value::Object(_) => "-".to_owned(),
    };
    let items = |value: &Value, name: &str| {
        let list = value.get(name).and_then(Value::as_array);
        list.cloned().unwrap_or_default()
    };
    for account in items(answer, "accounts") {
        for credential in items(&account, "credentials") {
            let of = |name: &str| credential.get(name).map_or_else(|| "-".to_owned(), text);
            let second = |name: &str| of(name).split('.').next().unwrap_or_default().to_owned();
            let mut notes = Vec::new();
            if of("retry_at") != "-" {
                notes.push(format!("tried again at {}", second("retry_at")));
            }
            for (name, word) in [("not_before", "from"), ("not_after", "until")] {
                if of(name) != "-" {
                    notes.push(format!("{word} {}", second(name)));
                }
            }
            if of("source_failure") != "-" {
                notes.push(format!("source: {}", of("source_failure")));
            }
            rows.push([
                account.get("id").map_or_else(String::new, text),
                of("id"),
                of("generation"),
                of("state"),
                second("since"),
                second("last_used"),
                second("last_refused"),
                of("in_flight"),
                notes.join(", "),
            ]);
        }
    }
    align(&rows)
}

/// Cells in columns.
pub(super) fn align<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(String::len).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}
