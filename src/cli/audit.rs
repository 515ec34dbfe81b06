//! `audit …`: what stands in the audit trail's files, for people, and what can be known from them.
//!
//! Invariant: nothing in here writes to the folder of a chain, so that all of it may be done while the
//! gateway runs.

mod find;
mod proof;
mod show;
mod tail;
mod verify;

use std::{
    fmt::Display,
    io,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};

use super::CommandError;
use crate::{
    audit::{
        folder::AuditFile,
        key::{AuditKey, AuditKeys},
        note::{InvalidPublicKey, PublicKey},
        search,
        verify::VerifyError,
    },
    config::{Config, mistake::Mistakes, secret},
    files,
};

#[derive(Debug, Args)]
pub(super) struct AuditArgs {
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// Check a proof that `prove` wrote, with the public key alone
    CheckProof(proof::CheckArgs),
    /// Print all events of one person, or of one request
    Find(find::FindArgs),
    /// Write a proof that the events of a request are in the trail, for who has the public key
    Prove(proof::ProveArgs),
    /// Print the public key with which anyone checks checkpoints and proofs
    PublicKey(proof::PublicKeyArgs),
    /// Print the last events, and go on with those to come
    Tail(tail::TailArgs),
    /// Verify that everything in the trail is as it was written, and that nothing is missing
    Verify(verify::VerifyArgs),
}

pub(super) async fn run(args: AuditArgs) -> Result<(), CommandError> {
    match args.command {
        AuditCommand::CheckProof(args) => proof::check(&args),
        AuditCommand::Find(args) => find::run(&args),
        AuditCommand::Prove(args) => proof::prove(&args),
        AuditCommand::PublicKey(args) => proof::public_key(&args),
        AuditCommand::Tail(args) => tail::run(args).await,
        AuditCommand::Verify(args) => verify::run(&args),
    }
}

/// What was written, where whoever read it has enough: a pager that was left, or `head`.
fn unless_closed(written: io::Result<()>) -> Result<(), CommandError> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(CommandError::io("cannot go on")),
    }
}

/// Where a chain is.
#[derive(Debug, Args)]
struct Source {
    /// Files and folders of one chain (before --config, or behind `--`); without, audit.path
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// A TOML file, or a folder of them
    #[arg(long, num_args = 1.., value_name = "PATH")]
    config: Vec<PathBuf>,
}

impl Source {
    fn config(&self) -> Result<Option<Config>, CommandError> {
        config(&self.config)
    }

    fn paths(&self, config: Option<&Config>) -> Result<Vec<PathBuf>, CommandError> {
        match config {
            _ if !self.paths.is_empty() => Ok(self.paths.clone()),
            Some(config) => Ok(vec![config.audit.folder.clone()]),
            None => Err(nowhere()),
        }
    }
}

/// The configuration at these paths, if there are any.
fn config(paths: &[PathBuf]) -> Result<Option<Config>, CommandError> {
    if paths.is_empty() {
        return Ok(None);
    }
    // 1 says that something is wrong with the trail.
    let refuse = |mistakes: Mistakes| CommandError::Usage(mistakes.to_string());
    Config::load_with_env(paths).map_err(refuse).map(Some)
}

fn nowhere() -> CommandError {
    CommandError::Usage("say where the trail is: files, a folder, or --config".to_owned())
}

/// The files at a path.
fn files_at(path: &Path) -> Result<Vec<AuditFile>, CommandError> {
    let refuse = |error| CommandError::Usage(format!("cannot read {}: {error}", path.display()));
    search::files(path).map_err(refuse)
}

/// The same, where there have to be some.
fn chain_at(path: &Path) -> Result<Vec<AuditFile>, CommandError> {
    let files = files_at(path)?;
    if files.is_empty() {
        let path = path.to_owned();
        return Err(VerifyError::Nothing { path }.into());
    }
    Ok(files)
}

/// Whether what was printed is all that there is.
fn all_read(unreadable: u64) -> Result<(), CommandError> {
    if unreadable == 0 {
        return Ok(());
    }
    Err(CommandError::Operator(format!(
        "files that could not be read to their end: {unreadable}; there may be more events than these"
    )))
}

/// No key or proof is larger, and the heads of five days are not either.
const LARGEST: u64 = 64 * 1024 * 1024;

fn read(path: &Path) -> Result<String, CommandError> {
    let refuse = |why: String| CommandError::Usage(format!("{}: {why}", path.display()));
    let content = files::read(path, LARGEST).map_err(|error| refuse(error.to_string()))?;
    String::from_utf8(content.bytes.to_vec()).map_err(|_| refuse("is not text".to_owned()))
}

/// A key as the file of `audit.key` holds it.
fn key_of_file(path: &Path) -> Result<AuditKey, CommandError> {
    let refuse = |why: String| CommandError::Usage(format!("--key {} {why}", path.display()));
    let content = files::read(path, files::MAX_SECRET)
        .and_then(files::Content::without_line_break)
        .map_err(|error| refuse(error.to_string()))?;
    let key = secret::decode(&content.bytes)
        .ok_or_else(|| refuse("is not the base64 of exactly 32 bytes".to_owned()))?;
    Ok(AuditKey::derive(&key))
}

/// The keys in these files: the last is the one in use.
fn mac_keys(paths: &[PathBuf]) -> Result<Option<AuditKeys>, CommandError> {
    let mut keys = Vec::new();
    for path in paths {
        keys.push(key_of_file(path)?.into());
    }
    let current = keys.pop();
    Ok(current.map(|current| AuditKeys { current, old: keys }))
}

/// A public key as text, or in a file of one key a line.
fn public_keys(given: &[String]) -> Result<Vec<PublicKey>, CommandError> {
    let mut keys = Vec::new();
    for given in given {
        if let Ok(key) = given.parse() {
            keys.push(key);
            continue;
        }
        let refuse =
            |why: &dyn Display| CommandError::Usage(format!("--public-key {given}: {why}"));
        let file = Path::new(given);
        // Nobody calls a file like this by mistake.
        if given.contains('+') && !file.exists() {
            let slip = "it was cut short or has a slip in it, or there is no such file";
            return Err(refuse(&format!("{InvalidPublicKey}; {slip}")));
        }
        let text = read(file).map_err(|error| {
            CommandError::Usage(format!(
                "{error}; --public-key takes a key or a file with one"
            ))
        })?;
        for (number, line) in (1..).zip(text.lines()) {
            if !line.trim().is_empty() {
                let key = line.parse::<PublicKey>();
                keys.push(key.map_err(|error| refuse(&format!("line {number}: {error}")))?);
            }
        }
    }
    let node = keys.first().map(PublicKey::node);
    if keys.iter().any(|key| Some(key.node()) != node) {
        let why = "the public keys are of several nodes; each has a chain of its own";
        return Err(CommandError::Usage(why.to_owned()));
    }
    Ok(keys)
}
