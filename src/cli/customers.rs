//! `customers import|remove|owner|forget`: what an operator does with the ledger, and with all that the
//! gateway has of one person.
//!
//! A file goes in batches, each one durable before the next begins, so that it can be stopped at
//! any time and run again. Invariant: no address is ever printed; a line is named by its number.

pub(super) mod lines;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, value_parser};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::signal::unix::SignalKind;
use tokio_util::sync::CancellationToken;

use self::lines::{Flaw, Line, Lines};
use super::{
    CommandError, Session, complain, ignore, listen_for,
    reach::{Books, Operator, Reach},
    say, shutdown_on_signals,
};
use crate::{
    admin::{
        forget::{ForgetError, Forgetting, document},
        import::{self, ImportError, applied},
    },
    app,
    config::Config,
    customer::{
        Ledger, Outcome, Owner, Phase,
        import::{Action, Importer},
    },
    ident::TenantId,
    payload::email::is_mailbox,
    store::Backend,
    tenant::{Isolation, Tenant},
};

/// `timeout -s INT` sends its signal to the process and to its group, which is one wish to stop.
const SAME_SIGNAL: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct CustomersArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Remove what the gateway has of a customer, and say what that was; DCAMS still has it
    Forget(ForgetArgs),
    /// Import the email addresses of a CSV file: its column `email`, or its only one
    Import(FileArgs),
    /// Print which tenant a customer belongs to
    Owner(OwnerArgs),
    /// Take the customers of such a file out of the ledger, where they are this tenant's
    Remove(FileArgs),
}

#[derive(Debug, Args)]
struct FileArgs {
    /// A TOML file, or a folder of them
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    config: Vec<PathBuf>,
    /// The tenant whose customers they are
    #[arg(long, value_name = "ID")]
    tenant: String,
    /// Pass over the lines before this one
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u64).range(1..))]
    from_line: u64,
    /// The file
    #[arg(value_name = "FILE.csv")]
    file: PathBuf,
}

#[derive(Debug, Args)]
struct ForgetArgs {
    /// A TOML file, or a folder of them
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    config: Vec<PathBuf>,
    /// The tenant whose customer it is
    #[arg(long, value_name = "ID")]
    tenant: String,
    /// The customer's address
    #[arg(long, value_name = "EMAIL")]
    email: String,
}

#[derive(Debug, Args)]
struct OwnerArgs {
    /// A TOML file, or a folder of them
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    config: Vec<PathBuf>,
    /// The account that the customer is in
    #[arg(long, value_name = "ID")]
    account: String,
    /// The customer's address
    #[arg(long, value_name = "EMAIL")]
    email: String,
}

pub(super) async fn run(args: &CustomersArgs, session: &mut Session) -> Result<(), CommandError> {
    match &args.command {
        Command::Forget(args) => forget(args, session).await,
        Command::Import(args) => apply(Action::Import, args, session).await,
        Command::Owner(args) => owner(args, session).await,
        Command::Remove(args) => apply(Action::Remove, args, session).await,
    }
}

async fn apply(action: Action, args: &FileArgs, session: &mut Session) -> Result<(), CommandError> {
    let config = Config::load_with_env(&args.config)?;
    let tenant = tenant(&config, &args.tenant)?;
    if tenant.isolation == Isolation::None {
        return Err(no_ledger(&tenant.id));
    }
    let tenant = tenant.id.clone();
    let flawed = |flaw| CommandError::Flaw {
        path: args.file.clone(),
        flaw,
    };
    let lines = Lines::open(&args.file, args.from_line).map_err(flawed)?;
    let stop = shutdown_on_signals(SAME_SIGNAL)?;
    ignore(listen_for(SignalKind::hangup())?);
    let way = match Reach::open(&config, session).await? {
        Reach::Running(operator) => Way::Running(operator, tenant),
        Reach::Store(store, books) => {
            let mut importers = app::importers(&config, &Ledger::new(store));
            let importer = importers.remove(&tenant);
            // It has a ledger, as was just seen.
            let importer = importer.ok_or_else(|| no_ledger(&tenant))?;
            Way::Here(Box::new(importer), books)
        }
    };
    let run = Run {
        action,
        way,
        bar: bar(lines.size()),
        counts: Counts::default(),
    };
    match run.over(lines, &stop).await? {
        Some(flaw) => Err(flawed(flaw)),
        None => Ok(()),
    }
}

async fn forget(args: &ForgetArgs, session: &mut Session) -> Result<(), CommandError> {
    let config = Config::load_with_env(&args.config)?;
    let tenant = &tenant(&config, &args.tenant)?.id;
    let email = mailbox(&args.email)?;
    let reach = match &config.state.backend {
        // Gateways of other machines may have it in memory: one of them has to be told.
        Backend::Redis(_) => Reach::Running(Operator::reach(&config.admin, session).await?),
        Backend::Embedded { .. } => Reach::open(&config, session).await?,
    };
    let answer = match reach {
        Reach::Running(operator) => {
            let body = json!({ "tenant": tenant, "email": email });
            let answer = operator.ask(Method::POST, "api/customers/forget", Some(&body));
            answer.await?
        }
        Reach::Store(store, books) => {
            complain("note: no gateway runs on this state, so no status is kept");
            let importers = app::importers(&config, &Ledger::new(store));
            let homes = app::homes(&config);
            let forgetting = Forgetting {
                tenant,
                home: homes.get(tenant).ok_or_else(|| unknown(&config))?,
                importer: importers.get(tenant),
                email,
            };
            let removed = forgetting.run(books.scribe(), None).await;
            document(tenant, removed?)
        }
    };
    say(&answer.to_string())
}

async fn owner(args: &OwnerArgs, session: &mut Session) -> Result<(), CommandError> {
    let config = Config::load_with_env(&args.config)?;
    mailbox(&args.email)?;
    let owner = match Reach::open(&config, session).await? {
        Reach::Running(operator) => {
            let body = json!({ "account": args.account, "email": args.email });
            let answer = operator.ask(Method::POST, "api/customers/owner", Some(&body));
            owner_of(&answer.await?)?
        }
        Reach::Store(store, books) => {
            let importers = app::importers(&config, &Ledger::new(store));
            import::owner(&importers, books.scribe(), &args.account, &args.email).await?
        }
    };
    say(&match owner {
        None => "the ledger does not know this customer".to_owned(),
        Some(Owner { tenant, phase }) => match phase {
            Phase::Owned => format!("tenant {tenant} owns this customer"),
            Phase::Sending => format!(
                "tenant {tenant} holds this customer: its creation is under way, or was broken off \
                 after it was sent"
            ),
            Phase::Asking => format!(
                "tenant {tenant} holds this customer: its creation is asking DCAMS first, or was \
                 broken off there, before it was sent"
            ),
        },
    })
}

const OTHER_VERSION: &str = "the gateway's answer is not that of this version";

fn owner_of(answer: &Value) -> Result<Option<Owner>, CommandError> {
    let tenant = answer.get("tenant");
    if tenant.is_some_and(Value::is_null) {
        return Ok(None);
    }
    let phase = answer.get("phase").and_then(Value::as_str);
    let owner = || {
        Some(Owner {
            tenant: TenantId::try_from(tenant?.as_str()?).ok()?,
            phase: Phase::from_word(phase?)?,
        })
    };
    match owner() {
        Some(owner) => Ok(Some(owner)),
        None => Err(CommandError::Operator(OTHER_VERSION.to_owned())),
    }
}

/// How a batch gets at the ledger.
enum Way {
    Here(Box<Importer>, Books),
    Running(Operator, TenantId),
}

impl Way {
    async fn apply(&self, action: Action, emails: &[String]) -> Result<Vec<Outcome>, String> {
        let outcomes = match self {
            Self::Here(importer, books) => {
                let applied = applied(importer, books.scribe(), action, emails).await;
                applied.map_err(|error| error.to_string())?
            }
            Self::Running(operator, tenant) => {
                let body = json!({ "tenant": tenant.as_str(), "emails": emails });
                let path = match action {
                    Action::Import => "api/customers/import",
                    Action::Remove => "api/customers/remove",
                };
                let answer = operator.ask(Method::POST, path, Some(&body));
                outcomes(&answer.await.map_err(|error| error.to_string())?)
            }
        };
        let whole = outcomes.len() == emails.len();
        whole
            .then_some(outcomes)
            .ok_or_else(|| OTHER_VERSION.to_owned())
    }
}

fn outcomes(answer: &Value) -> Vec<Outcome> {
    let results = answer.get("results").and_then(Value::as_array);
    results
        .into_iter()
        .flatten()
        .filter_map(|word| Outcome::from_word(word.as_str()?))
        .collect()
}

#[derive(Default)]
struct Counts {
    done: u64,
    already_owned: u64,
    left: u64,
}

/// An action over a file, under way.
struct Run {
    action: Action,
    way: Way,
    bar: ProgressBar,
    counts: Counts,
}

impl Run {
    /// Goes over the file. Returns why there was nothing in it to do.
    async fn over(
        mut self,
        mut lines: Lines,
        stop: &CancellationToken,
    ) -> Result<Option<Flaw>, CommandError> {
        let stopped = loop {
            let first = lines.next_line();
            let (batch, flaw) = lines.batch();
            if batch.is_empty() && flaw.is_none() {
                break None;
            }
            if stop.is_cancelled() {
                break Some((first, "by a signal".to_owned()));
            }
            if let Err(why) = self.write(batch).await {
                break Some((first, why));
            }
            self.bar.set_position(lines.position());
            match flaw {
                None => {}
                Some(flaw) if matches!(flaw, Flaw::Nothing { .. }) => return Ok(Some(flaw)),
                Some(flaw) => break Some((lines.next_line(), flaw.to_string())),
            }
        };
        self.bar.finish_and_clear();
        let Counts {
            done,
            already_owned,
            left,
        } = self.counts;
        let (word, next) = match self.action {
            Action::Import => {
                say(&format!(
                    "imported: {done}, already this tenant's: {already_owned}, not imported: {left}"
                ))?;
                let next = "mend or remove them and run the import again, what is imported already \
                            is passed over";
                ("imported", next)
            }
            Action::Remove => {
                say(&format!("removed: {done}, not removed: {left}"))?;
                ("removed", "`customers owner` says whose a customer is")
            }
        };
        match stopped {
            Some((line, why)) => Err(CommandError::Stopped { line, why }),
            None if left > 0 => Err(CommandError::LinesLeft {
                done: word,
                count: left,
                next,
            }),
            None => Ok(None),
        }
    }

    /// Does one batch, and names what was left out in the order of the file.
    async fn write(&mut self, batch: Vec<Line>) -> Result<(), String> {
        let mut emails = Vec::with_capacity(batch.len());
        let mut numbers = Vec::with_capacity(batch.len());
        for Line { number, email } in batch {
            numbers.push((number, email.is_some()));
            emails.extend(email);
        }
        let outcomes = if emails.is_empty() {
            Vec::new()
        } else {
            self.way.apply(self.action, &emails).await?
        };
        let mut outcomes = outcomes.into_iter();
        for (line, asked) in numbers {
            let outcome = asked.then(|| outcomes.next()).flatten();
            match outcome.unwrap_or(Outcome::Invalid) {
                Outcome::AlreadyOwned => self.counts.already_owned += 1,
                Outcome::Imported | Outcome::Removed => self.counts.done += 1,
                Outcome::Invalid => self.left(line, "not an email address"),
                Outcome::NotOwned => self.left(line, "not this tenant's customer"),
                Outcome::Taken => self.left(line, "another tenant's customer"),
            }
        }
        Ok(())
    }

    fn left(&mut self, line: u64, why: &str) {
        self.counts.left += 1;
        self.bar
            .suspend(|| complain(&format!("line {line}: {why}")));
    }
}

/// Shown where standard error is a terminal, and nowhere else.
fn bar(bytes: Option<u64>) -> ProgressBar {
    let bar = bytes.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    let style = ProgressStyle::with_template("{bar:40} {percent}% ({eta} left)");
    match style {
        Ok(style) if bytes.is_some() => bar.with_style(style),
        Ok(_) | Err(_) => bar,
    }
}

/// The address of an argument, which no message repeats.
pub(super) fn mailbox(email: &str) -> Result<&str, CommandError> {
    let email = email.trim();
    is_mailbox(email).then_some(email).ok_or_else(|| {
        let why = "what stands behind --email is not an email address";
        CommandError::Usage(why.to_owned())
    })
}

fn tenant<'a>(config: &'a Config, name: &str) -> Result<&'a Tenant, CommandError> {
    let tenant = config
        .tenants
        .iter()
        .find(|tenant| tenant.id.as_str() == name);
    tenant.ok_or_else(|| unknown(config))
}

fn unknown(config: &Config) -> CommandError {
    let known: Vec<&str> = config.tenants.iter().map(|t| t.id.as_str()).collect();
    let known = known.join(", ");
    CommandError::Usage(format!("there is no such tenant; known: {known}"))
}

impl From<ForgetError> for CommandError {
    fn from(error: ForgetError) -> Self {
        Self::Operator(error.to_string())
    }
}

impl From<ImportError> for CommandError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::NoAccount => {
                let why = "--account names no account of a tenant with isolation = \"ledger\"";
                Self::Usage(why.to_owned())
            }
            ImportError::Invalid
            | ImportError::NoLedger
            | ImportError::TooMany
            | ImportError::Store(_)
            | ImportError::Unrecorded(_) => Self::Operator(error.to_string()),
        }
    }
}

fn no_ledger(tenant: &TenantId) -> CommandError {
    CommandError::Usage(format!(
        "tenant {tenant} keeps no ledger; write isolation = \"ledger\" under it first"
    ))
}
