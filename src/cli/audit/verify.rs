//! `audit verify`: whether the trail is whole, and where it is not.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::{Source, mac_keys, public_keys, read};
use crate::{
    audit::verify::{
        Trust, VerifyError,
        heads::{PublishedHead, read_heads},
        report::{Counts, Finding, Means, Note, Question, Report},
        verify,
    },
    cli::{CommandError, say},
    clock,
};

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    source: Source,
    /// A file with an audit.key, instead of those of the configuration; more than one after a change of
    /// keys, in any order
    #[arg(long, value_name = "FILE", conflicts_with = "public_key")]
    key: Vec<PathBuf>,
    /// Verify with the public key alone: the key as `audit public-key` prints it, or a file of such keys
    #[arg(long, value_name = "KEY|FILE")]
    public_key: Vec<String>,
    /// A file of heads that were published: signed notes, lines of checkpoints, or both; all are compared
    #[arg(long, value_name = "FILE")]
    head: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &VerifyArgs) -> Result<(), CommandError> {
    let config = args.source.config()?;
    let paths = args.source.paths(config.as_ref())?;
    let public = public_keys(&args.public_key)?;
    let trust = match (mac_keys(&args.key)?, config) {
        (Some(keys), _) => Trust::Keys(keys),
        (None, _) if !public.is_empty() => Trust::Public(public),
        (None, Some(config)) => Trust::Keys(config.audit.keys),
        (None, None) => {
            let why = "say what to verify with: --config, --key FILE or --public-key KEY";
            return Err(CommandError::Usage(why.to_owned()));
        }
    };
    let heads = args.head.as_deref().map(|path| heads(path, &trust));
    let heads = heads.transpose()?.unwrap_or_default();
    let (bar, began) = (bar(), clock::instant());
    let progress = &mut |counts: &Counts| {
        bar.set_position(counts.events);
    };
    let report = verify(&paths, &trust, &heads, progress);
    bar.finish_and_clear();
    let report = report?;
    if args.json {
        say(&serde_json::to_string(&report).unwrap_or_default())?;
    } else {
        for line in summary(&report, began.elapsed()) {
            say(&line)?;
        }
    }
    if report.is_whole() {
        return Ok(());
    }
    let first = report.findings.first();
    let first = first.map_or_else(String::new, |first| format!(", first at {}", first.place));
    Err(CommandError::Audit(format!(
        "the audit trail is not whole{first}: keep these files as they are, and compare them with copies"
    )))
}

impl From<VerifyError> for CommandError {
    fn from(error: VerifyError) -> Self {
        // Nothing was verified.
        Self::Usage(error.to_string())
    }
}

/// A spinner, where standard error is a terminal.
fn bar() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} {human_pos} events ({per_sec}), {elapsed}");
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// The heads that were published, each signed by a key that is believed.
fn heads(path: &Path, trust: &Trust) -> Result<Vec<PublishedHead>, CommandError> {
    let refuse = |why| CommandError::Usage(format!("--head {}: {why}", path.display()));
    read_heads(&read(path)?, trust).map_err(refuse)
}

/// The report for people.
fn summary(report: &Report, took: Duration) -> Vec<String> {
    let counts = &report.counts;
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let with = match report.checked_with {
        Means::MacKey => "the MAC of each line",
        Means::PublicKey => {
            "the public key alone: signed checkpoints vouch for the lines before them"
        }
    };
    let mut lines = vec![
        format!("node          {}", text(&report.node)),
        format!("checked with  {with}"),
        format!(
            "events        {} (files: {}, bytes: {}), seq {} to {}, {} to {}",
            counts.events,
            counts.files,
            counts.bytes,
            number(counts.first_seq),
            number(counts.last_seq),
            text(&counts.first_time),
            text(&counts.last_time),
        ),
        format!(
            "checkpoints   {}, the last covers seq 1 to {}",
            counts.checkpoints,
            number(counts.signed_through)
        ),
    ];
    if counts.heads > 0 {
        let (heads, compared) = (counts.heads, counts.heads_compared);
        lines.push(format!("heads         {compared} of {heads} compared"));
    }
    lines.extend([
        format!("speed         {}", speed(counts.events, took)),
        format!("integrity     {}{}", report.integrity, reach(report)),
        format!("completeness  {}{}", report.completeness, losses(counts)),
    ]);
    lines.extend(report.findings.iter().map(told));
    for (kind, count) in &report.further {
        let kind = serde_json::to_value(kind).unwrap_or_default();
        let kind = kind.as_str().unwrap_or_default().to_owned();
        lines.push(format!("              and {count} more of {kind}"));
    }
    let note = |note: &Note| format!("note: {}", note.what);
    lines.extend(report.notes.iter().map(note));
    if let Some(head) = &report.head {
        lines.push("head (publish it, and give it to --head next time):".to_owned());
        lines.extend(head.trim_end().lines().map(|line| format!("  {line}")));
    }
    lines
}

fn told(finding: &Finding) -> String {
    let against = match finding.against {
        Question::Completeness => "missing",
        Question::Integrity => "damaged",
    };
    format!("{against}: {}: {}", finding.place, finding.what)
}

fn reach(report: &Report) -> String {
    match (report.checked_with, report.counts.signed_through) {
        (Means::PublicKey, Some(through)) => format!(" (for seq up to {through})"),
        (Means::MacKey | Means::PublicKey, _) => String::new(),
    }
}

fn losses(counts: &Counts) -> String {
    match counts.lost {
        0 => String::new(),
        lost => format!(", but events were lost ({lost}), and the chain says so"),
    }
}

fn speed(events: u64, took: Duration) -> String {
    let millis = took.as_millis().max(1);
    let rate = u128::from(events) * 1000 / millis;
    format!("{rate} events/s ({millis} ms)")
}
