//! `audit tail`: the last events, and those to come, for a person.

use std::{
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use tokio::{io::Interest, net::unix::pipe, time::MissedTickBehavior};

use super::{
    all_read, chain_at, config, files_at, nowhere,
    show::{Table, on_stdout, stray},
    unless_closed,
};
use crate::{
    audit::{
        folder::AuditFile,
        search::{Filter, Item, Latest, What, follow::Follow, last, scan},
    },
    cli::{CommandError, complain, shutdown_on_signal},
    clock,
    units::parse_duration,
};

#[derive(Debug, Args)]
pub(in crate::cli) struct TailArgs {
    /// A folder of audit files, or one file [default: `audit.path` of the configuration]
    #[arg(value_name = "PATH")]
    path: Option<PathBuf>,
    /// A TOML file, or a folder of them
    #[arg(long, num_args = 1.., value_name = "PATH")]
    config: Vec<PathBuf>,
    /// Go on with what is written from now on
    #[arg(long, short)]
    follow: bool,
    /// Print the last so many [default: 20; with --since all]
    #[arg(short = 'n', value_name = "N")]
    number: Option<usize>,
    /// Of this tenant alone
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
    /// Of this service alone
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// With this code alone: `ok`, or an error's
    #[arg(long)]
    code: Option<String>,
    /// Of this phase alone
    #[arg(long, value_enum)]
    phase: Option<Phase>,
    /// Not older than this: 15m, or 2026-11-23T10:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Print the lines themselves
    #[arg(long)]
    json: bool,
    /// Print what keeps the chain as well: checkpoints, and where files begin
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Phase {
    /// A request is about to go upstream
    Intent,
    /// A request has ended
    Outcome,
    /// A token was refused
    Rejected,
    /// The gateway's own act
    Event,
}

impl Phase {
    const fn name(self) -> &'static str {
        match self {
            Self::Intent => "intent",
            Self::Outcome => "outcome",
            Self::Rejected => "rejected",
            Self::Event => "event",
        }
    }
}

const USUAL: usize = 20;
/// A person does not notice less.
const POLL: Duration = Duration::from_millis(150);

pub(super) async fn run(args: TailArgs) -> Result<(), CommandError> {
    let filter = filter(&args, clock::now())?;
    let path = match &args.path {
        Some(path) => path.clone(),
        None => config(&args.config)?.ok_or_else(nowhere)?.audit.folder,
    };
    let mut printer = Printer {
        table: on_stdout(),
        json: args.json,
        events: 0,
        unreadable: 0,
    };
    let count = match (args.number, args.since.is_some()) {
        (Some(count), _) => Some(count),
        (None, true) => None,
        (None, false) => Some(USUAL),
    };
    if args.follow {
        return follow(&path, &filter, count, &mut printer).await;
    }
    let files = chain_at(&path)?;
    unless_closed(print(&files, &filter, count, &mut printer))?;
    if printer.events == 0 && count != Some(0) {
        complain(&format!(
            "note: no event of {} files is so:{}",
            files.len(),
            asked(&args)
        ));
    }
    all_read(printer.unreadable)
}

/// Which events were asked for, as it was said.
fn asked(args: &TailArgs) -> String {
    let given = [
        ("--tenant", args.tenant.as_deref()),
        ("--service", args.service.as_deref()),
        ("--code", args.code.as_deref()),
        ("--phase", args.phase.map(Phase::name)),
        ("--since", args.since.as_deref()),
    ];
    let given = given
        .into_iter()
        .filter_map(|(option, value)| Some(format!(" {option} {}", value?)));
    given.collect()
}

fn filter(args: &TailArgs, now: Timestamp) -> Result<Filter, CommandError> {
    let mut filter = Filter::new();
    let phase = args.phase.map(Phase::name);
    let members = [
        ("tenant", args.tenant.as_deref()),
        ("service", args.service.as_deref()),
        ("code", args.code.as_deref()),
        ("phase", phase),
    ];
    for (member, value) in members {
        if let Some(value) = value {
            filter = filter.having(member, value);
        }
    }
    if args.all {
        filter = filter.with_upkeep();
    }
    if let Some(since) = &args.since {
        filter = filter.since(moment(since, now)?);
    }
    Ok(filter)
}

/// A time, or how long ago it was.
fn moment(text: &str, now: Timestamp) -> Result<Timestamp, CommandError> {
    let ago = parse_duration(text).ok();
    let moment = ago.map_or_else(|| text.parse().ok(), |ago| now.checked_sub(ago).ok());
    moment.ok_or_else(|| {
        let usage = "--since takes a time such as 2026-11-23T10:00:00Z, or a duration such as 15m";
        CommandError::Usage(usage.to_owned())
    })
}

struct Printer {
    table: Table<io::Stdout>,
    json: bool,
    /// How many events were printed.
    events: u64,
    /// How many files could not be read to their end.
    unreadable: u64,
}

impl Printer {
    fn item(&mut self, item: &Item) -> io::Result<()> {
        match item.what {
            What::Event(_) => self.events += 1,
            What::Unreadable(_) => self.unreadable += 1,
            What::Stray(_) | What::Torn(_) | What::Changed => {}
        }
        if !self.json {
            return self.table.item(item);
        }
        if !self.table.raw(item)? {
            // Whoever reads the lines with a program is told beside them.
            complain(&format!("warning: {}", stray(item)));
        }
        Ok(())
    }

    fn all(&mut self, items: &[Item]) -> io::Result<()> {
        if !self.json {
            self.table.widen(items);
        }
        items.iter().try_for_each(|item| self.item(item))
    }
}

fn print(
    files: &[AuditFile],
    filter: &Filter,
    count: Option<usize>,
    printer: &mut Printer,
) -> io::Result<()> {
    match count {
        Some(count) => printer.all(&last(files, true, filter, count).into_items())?,
        None => print_since(filter.narrow(files), true, filter, printer)?,
    }
    printer.table.flush()
}

/// All that the filter takes.
fn print_since(
    files: &[AuditFile],
    being_written: bool,
    filter: &Filter,
    printer: &mut Printer,
) -> io::Result<()> {
    for (index, file) in files.iter().enumerate() {
        let being_written = being_written && index + 1 == files.len();
        let takes = |line: &[u8]| filter.takes(line);
        scan(file, being_written, takes, |item| printer.item(&item))?;
    }
    Ok(())
}

async fn follow(
    path: &Path,
    filter: &Filter,
    count: Option<usize>,
    printer: &mut Printer,
) -> Result<(), CommandError> {
    let files = files_at(path)?;
    let mut follow = Follow::newest(path, &files);
    let older = filter.narrow(&files).split_last();
    let older = older.map(|(_, older)| older).unwrap_or_default();
    if let Err(error) = begin(&mut follow, older, (filter, count), printer) {
        return unless_closed(Err(error));
    }
    let shutdown = shutdown_on_signal()?;
    let mut turns = tokio::time::interval(POLL);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let closed = closed();
    tokio::pin!(closed);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = &mut closed => return Ok(()),
            _ = turns.tick() => {}
        }
        let takes = |line: &[u8]| filter.takes(line);
        let told = follow.advance(takes, |item| printer.item(&item));
        if let Err(error) = told.and_then(|()| printer.table.flush()) {
            return unless_closed(Err(error));
        }
    }
}

/// Prints what is there when the following begins.
fn begin(
    follow: &mut Follow,
    older: &[AuditFile],
    (filter, count): (&Filter, Option<usize>),
    printer: &mut Printer,
) -> io::Result<()> {
    let takes = |line: &[u8]| filter.takes(line);
    if let Some(count) = count {
        let mut latest = Latest::new(count);
        let each = |item| {
            latest.push(item);
            Ok(())
        };
        follow.advance(takes, each)?;
        latest.prepend(last(older, false, filter, latest.room()));
        printer.all(&latest.into_items())?;
    } else {
        print_since(older, false, filter, printer)?;
        follow.advance(takes, |item| printer.item(&item))?;
    }
    printer.table.flush()
}

/// Waits until nobody reads standard output any more, which a quiet chain would not tell by failing to
/// write; for ever where that cannot be known, as of a file.
async fn closed() {
    // A pipe of our own to the same place, of which nothing but its end is wanted. It stays as it is: what
    // makes it not block would make standard output not block.
    let out = io::stdout().as_fd().try_clone_to_owned();
    let pipe = out.and_then(|out| pipe::Sender::from_file_unchecked(out.into()));
    if let Ok(pipe) = pipe
        && pipe.ready(Interest::ERROR).await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}
