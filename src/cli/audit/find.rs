//! `audit find`: all events of one person, by what the person is known by, of one image, or of one request.
//!
//! The pseudonyms that the person has are made again, with each key and in each tenant's name, and looked for;
//! an image's digests likewise, with each key.
//! Invariant: no address, reference or subject is printed, and no line that is not the person's.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64_simd::STANDARD;
use clap::{ArgGroup, Args};
use jiff::Timestamp;
use serde::Deserialize;

use super::{
    all_read, chain_at, config, key_of_file, nowhere,
    show::{Table, on_stdout},
    unless_closed,
};
use crate::{
    audit::{
        chain::First,
        digest::ImageDigest,
        folder::AuditFile,
        key::{AuditKey, KeyId},
        search::{Item, Person, Role, What, scan},
    },
    cli::{CommandError, complain, usage::tenant},
    config::Config,
    customer::EmailCase,
    files,
    ident::{Purpose, RequestId, TenantId},
    payload::email::is_mailbox,
    units::GIB,
};

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("sought").required(true))]
pub(in crate::cli) struct FindArgs {
    /// Folders of audit files, or files [default: `audit.path` of the configuration]
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// A TOML file, or a folder of them
    #[arg(long, num_args = 1.., value_name = "PATH")]
    config: Vec<PathBuf>,
    /// The customer with this address
    #[arg(long, value_name = "ADDRESS", group = "sought")]
    email: Option<String>,
    /// The requests with this reference
    #[arg(long, group = "sought")]
    reference: Option<String>,
    /// The requests with tokens of this subject
    #[arg(long, group = "sought")]
    subject: Option<String>,
    /// The requests with the image that is in this file
    #[arg(long, value_name = "FILE", group = "sought")]
    image: Option<PathBuf>,
    /// This request
    #[arg(long, value_name = "ID", group = "sought")]
    request_id: Option<RequestId>,
    /// In this tenant's name alone; one that is not configured any more may be named too
    #[arg(long, value_name = "ID", value_parser = tenant)]
    tenant: Option<TenantId>,
    /// An `audit.key` of another time, besides those of the configuration
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    /// Print the lines themselves
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &FindArgs) -> Result<(), CommandError> {
    let config = config(&args.config)?;
    let keys = match args.request_id {
        // A request's id is no pseudonym.
        Some(_) => None,
        None => Some(keys(args, config.as_ref())?),
    };
    let mut person = person(args, config.as_ref(), keys.as_deref().unwrap_or_default())?;
    let mut paths = args.paths.clone();
    if paths.is_empty() {
        let config = config.as_ref().ok_or_else(nowhere)?;
        paths.push(config.audit.folder.clone());
    }
    let chains = paths.iter().map(|path| chain_at(path));
    let chains: Vec<Vec<AuditFile>> = chains.collect::<Result<_, _>>()?;
    let mut search = Search {
        table: on_stdout(),
        json: args.json,
        keys: keys.map(|keys| keys.iter().map(|key| key.id()).collect()),
        tally: Tally::default(),
    };
    unless_closed(search.run(&chains, &mut person))?;
    search.tally.verdict()
}

/// Who is looked for.
fn person(
    args: &FindArgs,
    config: Option<&Config>,
    keys: &[Arc<AuditKey>],
) -> Result<Person, CommandError> {
    if let Some(id) = args.request_id {
        return Ok(Person::of_request(id));
    }
    if let Some(path) = &args.image {
        let images = Person::new(Role::Image, digests(path, keys)?);
        return Ok(match &args.tenant {
            Some(tenant) => images.of_tenant(tenant),
            None => images,
        });
    }
    let tenants = tenants(args.tenant.as_ref(), config)?;
    let (role, purpose, values) = match (&args.email, &args.reference, &args.subject) {
        (Some(email), _, _) => {
            if !is_mailbox(email.trim()) {
                let usage = "--email takes one address, such as jane@example.com";
                return Err(CommandError::Usage(usage.to_owned()));
            }
            (Role::Customer, Purpose::Customer, email)
        }
        (_, Some(reference), _) => (Role::Reference, Purpose::Reference, reference),
        (_, _, subject) => {
            let subject = subject.as_ref().ok_or_else(|| {
                CommandError::Usage("say whom to look for, such as --email ADDRESS".to_owned())
            })?;
            (Role::Subject, Purpose::Subject, subject)
        }
    };
    let mut pseudonyms = Vec::new();
    for (tenant, case) in &tenants {
        for spelling in spellings(role, values, *case) {
            let of = |key: &Arc<AuditKey>| {
                key.pseudonyms()
                    .pseudonym(purpose, tenant, spelling.as_bytes())
            };
            pseudonyms.extend(keys.iter().map(of));
        }
    }
    Ok(Person::new(role, pseudonyms))
}

/// What this image is in an event, under each key.
fn digests(path: &Path, keys: &[Arc<AuditKey>]) -> Result<Vec<ImageDigest>, CommandError> {
    let image = files::read(path, GIB)
        .map_err(|error| CommandError::Usage(format!("--image {} {error}", path.display())))?;
    let text = STANDARD.encode_to_string(&*image.bytes);
    let of = |key: &Arc<AuditKey>| key.images().digest([text.as_bytes()]);
    Ok(keys.iter().map(of).collect())
}

/// What a pseudonym may have been made of. Where letter case does not count, the spelling as given is of the
/// same customer: it counted when the account was configured so.
fn spellings(role: Role, value: &str, case: EmailCase) -> Vec<String> {
    if role != Role::Customer {
        return vec![value.to_owned()];
    }
    let exact = EmailCase::Exact.canonical(value).into_owned();
    match case {
        EmailCase::Exact => vec![exact],
        EmailCase::Ignore => vec![EmailCase::Ignore.canonical(value).into_owned(), exact],
    }
}

fn keys(args: &FindArgs, config: Option<&Config>) -> Result<Vec<Arc<AuditKey>>, CommandError> {
    let configured = config.map(|config| config.audit.keys.all().cloned());
    let mut keys: Vec<Arc<AuditKey>> = configured.into_iter().flatten().collect();
    for path in &args.key {
        keys.push(Arc::new(key_of_file(path)?));
    }
    if keys.is_empty() {
        let usage =
            "pseudonyms and digests are made with audit.key: name a --config, or --key FILE";
        return Err(CommandError::Usage(usage.to_owned()));
    }
    Ok(keys)
}

/// In whose names, and which spellings are one customer to each.
fn tenants(
    named: Option<&TenantId>,
    config: Option<&Config>,
) -> Result<Vec<(TenantId, EmailCase)>, CommandError> {
    let configured = config.map(|config| {
        let case = |account| {
            let mut accounts = config.accounts.iter();
            let account = accounts.find(|configured| configured.id == account);
            account.map_or(EmailCase::Ignore, |account| account.email_case)
        };
        let tenants = config.tenants.iter();
        tenants.map(move |tenant| (tenant.id.clone(), case(tenant.account.clone())))
    });
    let mut tenants: Vec<_> = configured.into_iter().flatten().collect();
    if let Some(named) = named {
        tenants.retain(|(tenant, _)| tenant == named);
        if tenants.is_empty() {
            complain(
                "note: this tenant is not configured: looking for the address as it is given, and in lower case",
            );
            tenants.push((named.clone(), EmailCase::Ignore));
        }
    }
    if tenants.is_empty() {
        let usage = "each tenant has pseudonyms of its own: name a --config, or --tenant ID";
        return Err(CommandError::Usage(usage.to_owned()));
    }
    Ok(tenants)
}

struct Search {
    table: Table<io::Stdout>,
    json: bool,
    /// Those by which the person was looked for; none where no key is needed.
    keys: Option<Vec<KeyId>>,
    tally: Tally,
}

/// What was found, and in how much.
#[derive(Debug, Default)]
struct Tally {
    /// How many events in each tenant's name; what ends a request after a crash names none.
    tenants: BTreeMap<String, u64>,
    events: u64,
    requests: BTreeSet<String>,
    files: u64,
    lines: u64,
    strays: u64,
    unreadable: u64,
    /// How many lines were written under each key that was not given.
    unknown: BTreeMap<String, u64>,
}

/// What is counted of an event.
#[derive(Deserialize)]
struct Counted<'a> {
    #[serde(borrow)]
    tenant: Option<Cow<'a, str>>,
    #[serde(borrow)]
    request_id: Option<Cow<'a, str>>,
}

impl Search {
    fn run(&mut self, chains: &[Vec<AuditFile>], person: &mut Person) -> io::Result<()> {
        if let [chain] = chains {
            self.chain(chain, person, |search, item| search.print(&item))?;
        } else {
            let mut found = Vec::new();
            for chain in chains {
                self.chain(chain, person, |_, item| {
                    found.push((time_of(&item), item));
                    Ok(())
                })?;
            }
            // Each chain has its own order; events of one time stay in it.
            found.sort_by_key(|(time, _)| *time);
            found.iter().try_for_each(|(_, item)| self.print(item))?;
        }
        let summary = self.tally.summary();
        if self.json {
            complain(&summary);
        } else {
            self.table.say(&summary)?;
        }
        self.table.flush()
    }

    fn chain(
        &mut self,
        files: &[AuditFile],
        person: &mut Person,
        mut each: impl FnMut(&mut Self, Item) -> io::Result<()>,
    ) -> io::Result<()> {
        for (index, file) in files.iter().enumerate() {
            let being_written = index + 1 == files.len();
            let takes = |line: &[u8]| person.is_in(line);
            let lines = scan(file, being_written, takes, |item| match &item.what {
                What::Event(_) => each(self, item),
                What::Unreadable(error) => {
                    let path = item.file.display();
                    complain(&format!("cannot read on in {path}:{}: {error}", item.line));
                    self.tally.unreadable += 1;
                    Ok(())
                }
                What::Stray(_) | What::Torn(_) | What::Changed => {
                    self.tally.strays += 1;
                    Ok(())
                }
            })?;
            self.tally.files += 1;
            self.tally.lines += lines;
            if let (Some(keys), Some(id)) = (&self.keys, key_of(file))
                && !keys.contains(&id)
            {
                *self.tally.unknown.entry(id.to_string()).or_default() += lines;
            }
        }
        Ok(())
    }

    fn print(&mut self, item: &Item) -> io::Result<()> {
        let printed = if self.json {
            self.table.raw(item)?
        } else {
            self.table.event(item)?
        };
        if printed {
            self.tally.count(item);
        } else {
            self.tally.strays += 1;
        }
        Ok(())
    }
}

/// Under which key a file was written, as its first line says.
fn key_of(file: &AuditFile) -> Option<KeyId> {
    KeyId::parse(&First::of(file).ok()?.opened.key)
}

fn time_of(item: &Item) -> Option<Timestamp> {
    #[derive(Deserialize)]
    struct Timed {
        time: Timestamp,
    }
    let What::Event(line) = &item.what else {
        return None;
    };
    let timed: Timed = serde_json::from_slice(line).ok()?;
    Some(timed.time)
}

impl Tally {
    fn count(&mut self, item: &Item) {
        self.events += 1;
        let What::Event(line) = &item.what else {
            return;
        };
        let Ok(counted) = serde_json::from_slice::<Counted<'_>>(line) else {
            return;
        };
        self.requests
            .extend(counted.request_id.map(Cow::into_owned));
        if let Some(tenant) = counted.tenant {
            *self.tenants.entry(tenant.into_owned()).or_default() += 1;
        }
    }

    fn summary(&self) -> String {
        let tenants = self.tenants.iter();
        let tenants: Vec<_> = tenants
            .map(|(tenant, events)| format!("{tenant} {events}"))
            .collect();
        let tenants = if tenants.is_empty() {
            "none".to_owned()
        } else {
            tenants.join(", ")
        };
        format!(
            "events: {}, requests: {}, by tenant: {tenants}; read: {} lines in {} files",
            self.events,
            self.requests.len(),
            self.lines,
            self.files
        )
    }

    /// Whether this is all that there is.
    fn verdict(&self) -> Result<(), CommandError> {
        if self.strays > 0 {
            complain(&format!(
                "warning: lines that are no events: {}; `audit verify` says what became of them",
                self.strays
            ));
        }
        all_read(self.unreadable)?;
        if !self.unknown.is_empty() {
            let unknown = self.unknown.iter();
            let unknown: Vec<_> = unknown
                .map(|(id, lines)| format!("{id}: {lines}"))
                .collect();
            return Err(CommandError::Operator(format!(
                "lines under keys that were not given, in which nobody can be found ({}): name these keys in \
                 `audit.old_keys`, or by --key FILE",
                unknown.join(", ")
            )));
        }
        Ok(())
    }
}
