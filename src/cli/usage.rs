//! `usage show|grant|statement`: what tenants may use and have used, more for one, the month's statement.
//!
//! Invariant: numbers come from the state store alone: through the gateway that runs, which has
//! everything written down first, or, where none runs, from the store itself.

mod csv;

use std::{io::Write, path::PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use super::{
    CommandError, Session, complain,
    credentials::align,
    reach::{Books, Operator, Reach},
    say,
};
use crate::{
    admin::usage::{Desk, GrantRequest, Statement, UsageError},
    config::Config,
    ident::TenantId,
    limits::calendar::Month,
    quota::{Quotas, Sums},
};

#[derive(Debug, Args)]
pub(super) struct UsageArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Grant a tenant an extra allowance, until the day or the billing month ends
    Grant(GrantArgs),
    /// Print what each tenant may use, and has used
    Show(Show),
    /// Print what tenants used in the billing month that begins in this calendar month
    Statement(StatementArgs),
}

#[derive(Debug, Args)]
struct Configured {
    /// A TOML file, or a folder of them
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    config: Vec<PathBuf>,
}

#[derive(Debug, Args)]
struct Show {
    #[command(flatten)]
    configured: Configured,
    /// Of this tenant alone
    #[arg(long, value_name = "ID", value_parser = tenant)]
    tenant: Option<TenantId>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct GrantArgs {
    #[command(flatten)]
    configured: Configured,
    /// The tenant's id
    #[arg(long, value_name = "ID", value_parser = tenant)]
    tenant: TenantId,
    /// The limit: `daily`, `monthly` or `bytes_daily`
    #[arg(long)]
    policy: String,
    /// How much
    #[arg(long, value_name = "N")]
    amount: u64,
    /// A name for this grant: repeated under it, it counts once a day or month
    #[arg(long, value_name = "NAME")]
    id: Option<String>,
}

#[derive(Debug, Args)]
struct StatementArgs {
    #[command(flatten)]
    configured: Configured,
    /// The calendar month, such as 2026-11
    #[arg(long, value_name = "YYYY-MM")]
    month: Month,
    /// Of these tenants alone; one that is not configured any more may be named too
    #[arg(long, value_name = "ID", value_parser = tenant)]
    tenant: Vec<TenantId>,
    /// How to print it
    #[arg(long, value_enum, default_value = "csv")]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// A header, and a line for each tenant (RFC 4180)
    Csv,
    /// One object, with the total
    Json,
}

pub(super) fn tenant(text: &str) -> Result<TenantId, String> {
    TenantId::try_from(text).map_err(|error| error.to_string())
}

pub(super) async fn run(args: UsageArgs, session: &mut Session) -> Result<(), CommandError> {
    match args.action {
        Action::Grant(args) => grant(args, session).await,
        Action::Show(args) => show(args, session).await,
        Action::Statement(args) => statement(args, session).await,
    }
}

async fn grant(args: GrantArgs, session: &mut Session) -> Result<(), CommandError> {
    let config = Config::load_with_env(&args.configured.config)?;
    let request = GrantRequest {
        policy: args.policy,
        amount: args.amount,
        id: args.id,
    };
    // Before anything is asked for: wrong usage is told apart from work that failed.
    let grant = request.parse()?;
    let way = Way::open(&config, session).await?;
    let granted = match &way {
        Way::Running(operator) => {
            let path = format!("api/usage/{}/grant", args.tenant);
            let body = serde_json::to_value(&request).unwrap_or_default();
            operator.ask(Method::POST, &path, Some(&body)).await
        }
        Way::Here { desk, books, .. } => {
            let granted = desk
                .grant(books.scribe(), args.tenant.as_str(), grant)
                .await;
            granted
                .map(|granted| document(&granted))
                .map_err(CommandError::from)
        }
    };
    way.close().await;
    let granted = granted?;
    if granted.get("counted") == Some(&Value::Bool(false)) {
        complain("note: a grant with this id was made before, and this one adds nothing");
    }
    say(&granted.to_string())
}

async fn show(args: Show, session: &mut Session) -> Result<(), CommandError> {
    let config = Config::load_with_env(&args.configured.config)?;
    let way = Way::open(&config, session).await?;
    let shown = show_all(&way, args.tenant.as_ref()).await;
    way.close().await;
    let (tenants, stale) = shown?;
    if stale {
        complain("warning: the state store does not answer; this is what the gateway knew before");
    }
    if args.json {
        return say(&json!({ "tenants": tenants, "stale": stale }).to_string());
    }
    for line in table(&tenants) {
        say(&line)?;
    }
    Ok(())
}

/// All pages, and whether one of them is not fresh.
async fn show_all(
    way: &Way,
    tenant: Option<&TenantId>,
) -> Result<(Vec<Value>, bool), CommandError> {
    let (mut tenants, mut stale, mut after) = (Vec::new(), false, None);
    loop {
        let mut page = match way {
            Way::Running(operator) => {
                let query = query(None, tenant, after.as_ref());
                let path = format!("api/usage?{query}");
                operator.ask(Method::GET, &path, None).await?
            }
            Way::Here { desk, books, .. } => {
                let usage = desk.show(books.scribe(), tenant, after.as_ref());
                document(&usage.await?)
            }
        };
        stale |= page.get("stale") == Some(&Value::Bool(true));
        if let Some(Value::Array(shown)) = page.get_mut("tenants") {
            tenants.append(shown);
        }
        after = page
            .get_mut("next")
            .map(|next| read(next.take()))
            .transpose()?;
        if after.is_none() {
            return Ok((tenants, stale));
        }
    }
}

async fn statement(args: StatementArgs, session: &mut Session) -> Result<(), CommandError> {
    let config = Config::load_with_env(&args.configured.config)?;
    let way = Way::open(&config, session).await?;
    let read = read_statement(&way, args.month, &args.tenant).await;
    way.close().await;
    let statement = read?;
    match args.format {
        Format::Csv => {
            let written = std::io::stdout()
                .lock()
                .write_all(&csv::statement(&statement));
            written.map_err(CommandError::io("cannot write the output"))
        }
        Format::Json => say(&document(&statement).to_string()),
    }
}

/// The statement of these tenants, in their order, or of all.
async fn read_statement(
    way: &Way,
    month: Month,
    tenants: &[TenantId],
) -> Result<Statement, CommandError> {
    let mut all = Statement {
        month: month.to_string(),
        tenants: Vec::new(),
        total: Sums::default(),
        next: None,
    };
    let mut named = tenants.iter();
    loop {
        // One at a time: a query has no room for very many.
        let tenant = named.next();
        if !tenants.is_empty() && tenant.is_none() {
            return Ok(all);
        }
        let page = match way {
            Way::Running(operator) => {
                let query = query(Some(month), tenant, all.next.as_ref());
                let path = format!("api/usage/statement?{query}");
                read(operator.ask(Method::GET, &path, None).await?)?
            }
            Way::Here { desk, books, .. } => {
                let tenants: Vec<TenantId> = tenant.into_iter().cloned().collect();
                let (scribe, after) = (books.scribe(), all.next.as_ref());
                desk.statement(scribe, month, &tenants, after).await?
            }
        };
        all.tenants.extend(page.tenants);
        all.total += &page.total;
        all.next = page.next;
        if tenants.is_empty() && all.next.is_none() {
            return Ok(all);
        }
    }
}

fn query(month: Option<Month>, tenant: Option<&TenantId>, after: Option<&TenantId>) -> String {
    let month = month.map(|month| format!("month={month}"));
    let tenant = tenant.map(|tenant| format!("tenant={tenant}"));
    let after = after.map(|after| format!("after={after}"));
    let pairs: Vec<String> = [month, tenant, after].into_iter().flatten().collect();
    pairs.join("&")
}

fn read<T: DeserializeOwned>(answer: Value) -> Result<T, CommandError> {
    serde_json::from_value(answer).map_err(|_| {
        let what = "the gateway's answer cannot be read: run the same version of this program";
        CommandError::Operator(what.to_owned())
    })
}

fn document(document: &impl serde::Serialize) -> Value {
    // Texts, times and numbers: making a document of them has nothing to fail on.
    serde_json::to_value(document).unwrap_or_default()
}

/// Where the quotas are.
enum Way {
    /// Here: nobody else has the store.
    Here {
        desk: Box<Desk>,
        keeper: JoinHandle<()>,
        books: Books,
    },
    /// In a gateway that runs.
    Running(Operator),
}

impl Way {
    async fn open(config: &Config, session: &mut Session) -> Result<Self, CommandError> {
        Ok(match Reach::open(config, session).await? {
            Reach::Running(operator) => Self::Running(operator),
            Reach::Store(store, books) => {
                let (quotas, keeper) = Quotas::open(store, config.pseudonyms.clone());
                let desk = Desk::new(quotas, &config.tenants);
                let keeper = TaskTracker::new().spawn(keeper.run(|_, _| {}));
                Self::Here {
                    desk: Box::new(desk),
                    keeper,
                    books,
                }
            }
        })
    }

    /// Puts back what was taken out to look at it.
    async fn close(self) {
        if let Self::Here { desk, keeper, .. } = self {
            desk.quotas.close().await;
            drop(keeper.await);
        }
    }
}

impl From<UsageError> for CommandError {
    fn from(error: UsageError) -> Self {
        if error.status().is_client_error() {
            return Self::Usage(error.to_string());
        }
        Self::Operator(error.to_string())
    }
}

/// A line for each limit, in columns.
fn table(tenants: &[Value]) -> Vec<String> {
    let head = [
        "TENANT",
        "POLICY",
        "UNIT",
        "LIMIT",
        "GRANTED",
        "USED",
        "LEFT",
        "RESETS AT",
        "TIME ZONE",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    let text = |value: &Value, name: &str| match value.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => "-".to_owned(),
    };
    for tenant in tenants {
        let (id, zone) = (text(tenant, "tenant"), text(tenant, "time_zone"));
        let limits = tenant.get("limits").and_then(Value::as_array);
        let limits = limits.map(Vec::as_slice).unwrap_or_default();
        if limits.is_empty() {
            let mut row = [const { String::new() }; 9];
            let [first, second, ..] = &mut row;
            (*first, *second) = (id.clone(), "(no limits)".to_owned());
            rows.push(row);
        }
        for limit in limits {
            let of = |name: &str| text(limit, name);
            rows.push([
                id.clone(),
                of("policy"),
                of("unit"),
                of("limit"),
                of("granted"),
                of("used"),
                of("left"),
                of("resets_at"),
                zone.clone(),
            ]);
        }
    }
    align(&rows)
}
