//! `customers import`: writes down customers from before the gateway as a tenant's own.
//!
//! In batches, each one durable before the next begins, so that it can be stopped at any time and
//! run again. Invariant: no address is ever printed; a line is named by its number.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use csv::ByteRecord;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    CommandError, complain,
    reach::{Operator, Reach},
    say, shutdown_on_signal,
};
use crate::{
    app,
    config::Config,
    customer::{
        Ledger,
        import::{BATCH, Importer, Outcome},
    },
    ident::TenantId,
    payload::email::is_mailbox,
    tenant::Isolation,
};

#[derive(Debug, Args)]
pub(super) struct CustomersArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Import the email addresses of a CSV file: its column `email`, or its only one
    Import(ImportArgs),
}

#[derive(Debug, Args)]
struct ImportArgs {
    /// A TOML file, or a folder of them
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    config: Vec<PathBuf>,
    /// The tenant whose customers they are
    #[arg(long, value_name = "ID")]
    tenant: String,
    /// Pass over the lines before this one
    #[arg(long, value_name = "N", default_value_t = 1)]
    from_line: u64,
    /// The file
    #[arg(value_name = "FILE.csv")]
    file: PathBuf,
}

pub(super) async fn run(args: &CustomersArgs) -> Result<(), CommandError> {
    let Action::Import(args) = &args.action;
    let config = Config::load_with_env(&args.config)?;
    let tenant = tenant(&config, &args.tenant)?;
    let lines = Lines::open(&args.file, args.from_line)?;
    let way = match Reach::open(&config).await? {
        Reach::Running(operator) => Way::Running(operator, tenant),
        Reach::Store(store) => {
            let mut importers = app::importers(&config, &Ledger::new(store));
            let importer = importers.remove(&tenant);
            // It has a ledger, as was just seen.
            Way::Here(Box::new(importer.ok_or_else(|| no_ledger(&tenant))?))
        }
    };
    let run = Run {
        way,
        bar: bar(lines.bytes),
        counts: Counts::default(),
    };
    run.import(lines, &shutdown_on_signal()?).await
}

/// How a batch gets into the ledger.
enum Way {
    Here(Box<Importer>),
    Running(Operator, TenantId),
}

impl Way {
    async fn import(&self, emails: &[String]) -> Result<Vec<Outcome>, String> {
        let outcomes = match self {
            Self::Here(importer) => importer.import(emails).await.map_err(|e| e.to_string())?,
            Self::Running(operator, tenant) => {
                let body = json!({ "tenant": tenant.as_str(), "emails": emails });
                let answer = operator.ask(Method::POST, "api/customers/import", Some(&body));
                outcomes(&answer.await.map_err(|e| e.to_string())?)
            }
        };
        let whole = outcomes.len() == emails.len();
        whole
            .then_some(outcomes)
            .ok_or_else(|| "the gateway's answer is not that of this version".to_owned())
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
    imported: u64,
    already_owned: u64,
    bad: u64,
}

/// An import under way.
struct Run {
    way: Way,
    bar: ProgressBar,
    counts: Counts,
}

impl Run {
    async fn import(
        mut self,
        mut lines: Lines,
        stop: &CancellationToken,
    ) -> Result<(), CommandError> {
        let stopped = loop {
            let first = lines.next_line();
            let batch = lines.batch(&mut |line| self.bad(line, "not an email address"));
            let batch = match batch {
                Ok(batch) => batch,
                Err(error) => break Some((first, format!("the file cannot be read: {error}"))),
            };
            if stop.is_cancelled() {
                break Some((first, "by a signal".to_owned()));
            }
            if batch.is_empty() {
                break None;
            }
            if let Err(why) = self.write(batch).await {
                break Some((first, why));
            }
            self.bar.set_position(lines.position());
        };
        self.bar.finish_and_clear();
        let Counts {
            imported,
            already_owned,
            bad,
        } = self.counts;
        say(&format!(
            "imported: {imported}, already this tenant's: {already_owned}, not imported: {bad}"
        ))?;
        match stopped {
            Some((line, why)) => Err(CommandError::Import { line, why }),
            None if bad > 0 => Err(CommandError::LinesLeft(bad)),
            None => Ok(()),
        }
    }

    /// Writes one batch.
    async fn write(&mut self, batch: Vec<(u64, String)>) -> Result<(), String> {
        let (numbers, emails): (Vec<u64>, Vec<String>) = batch.into_iter().unzip();
        let outcomes = self.way.import(&emails).await?;
        for (line, outcome) in numbers.into_iter().zip(outcomes) {
            match outcome {
                Outcome::AlreadyOwned => self.counts.already_owned += 1,
                Outcome::Imported => self.counts.imported += 1,
                Outcome::Invalid => self.bad(line, "not an email address"),
                Outcome::Taken => self.bad(line, "another tenant's customer"),
            }
        }
        Ok(())
    }

    fn bad(&mut self, line: u64, why: &str) {
        self.counts.bad += 1;
        self.bar
            .suspend(|| complain(&format!("line {line}: {why}")));
    }
}

/// The addresses of a file, with their lines.
struct Lines {
    reader: csv::Reader<Box<dyn Read + Send>>,
    column: usize,
    from: u64,
    bytes: Option<u64>,
    /// The first line, where it is an address and no header.
    first: Option<ByteRecord>,
}

impl Lines {
    /// Opens a file and finds its column.
    fn open(path: &Path, from: u64) -> Result<Self, CommandError> {
        let what = || format!("cannot read {}", path.display());
        let file = File::open(path).map_err(CommandError::io(what()))?;
        let metadata = file.metadata().map_err(CommandError::io(what()))?;
        let bytes = metadata.is_file().then_some(metadata.len());
        let file: Box<dyn Read + Send> = Box::new(file);
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .from_reader(file);
        let mut first = ByteRecord::new();
        let read = reader.read_byte_record(&mut first);
        let any = read.map_err(|error| CommandError::io(what())(io::Error::other(error)))?;
        let named = first.iter().position(is_header);
        let alone = (first.len() <= 1).then_some(0);
        let column = named.or(alone).ok_or_else(|| {
            let path = path.display();
            CommandError::Usage(format!(
                "{path} has no column `email` in its first line; add one"
            ))
        })?;
        Ok(Self {
            reader,
            column,
            from,
            bytes,
            first: (any && named.is_none()).then_some(first),
        })
    }

    /// The number of the line that comes next.
    fn next_line(&self) -> u64 {
        let next = self.first.as_ref().and_then(ByteRecord::position);
        let line = next.map_or(self.reader.position().line(), csv::Position::line);
        line.max(self.from)
    }

    fn position(&self) -> u64 {
        self.reader.position().byte()
    }

    fn next(&mut self) -> Result<Option<ByteRecord>, csv::Error> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        let mut next = ByteRecord::new();
        let any = self.reader.read_byte_record(&mut next)?;
        Ok(any.then_some(next))
    }

    /// The next addresses, as many as are imported at once; tells of what is none.
    fn batch(&mut self, bad: &mut impl FnMut(u64)) -> Result<Vec<(u64, String)>, csv::Error> {
        let mut batch = Vec::with_capacity(BATCH);
        while batch.len() < BATCH {
            let Some(record) = self.next()? else { break };
            let line = record.position().map_or(0, csv::Position::line);
            if line < self.from {
                continue;
            }
            let text = record.get(self.column).unwrap_or_default();
            match str::from_utf8(text).map(str::trim) {
                Ok(email) if is_mailbox(email) => batch.push((line, email.to_owned())),
                Ok(_) | Err(_) => bad(line),
            }
        }
        Ok(batch)
    }
}

/// Whether a field of the first line says that its column holds addresses; spreadsheets put a mark
/// in front of a file.
fn is_header(field: &[u8]) -> bool {
    let field = field.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(field);
    field.trim_ascii().eq_ignore_ascii_case(b"email")
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

fn tenant(config: &Config, name: &str) -> Result<TenantId, CommandError> {
    let tenant = config
        .tenants
        .iter()
        .find(|tenant| tenant.id.as_str() == name);
    let Some(tenant) = tenant else {
        let known: Vec<&str> = config.tenants.iter().map(|t| t.id.as_str()).collect();
        let known = known.join(", ");
        let why = format!("there is no such tenant; known: {known}");
        return Err(CommandError::Usage(why));
    };
    match tenant.isolation {
        Isolation::Ledger(_) => Ok(tenant.id.clone()),
        Isolation::None => Err(no_ledger(&tenant.id)),
    }
}

fn no_ledger(tenant: &TenantId) -> CommandError {
    CommandError::Usage(format!(
        "tenant {tenant} keeps no ledger; write isolation = \"ledger\" under it first"
    ))
}
