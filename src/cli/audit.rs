//! `audit tail|find`: what stands in the audit files, for people.
//!
//! Invariant: a command only reads, so that it can be run beside a gateway that writes.

mod find;
mod show;
mod tail;

use std::{io, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use super::CommandError;
use crate::{
    audit::key::AuditKey,
    files::{self, Content, MAX_SECRET},
};

#[derive(Debug, Args)]
pub(super) struct AuditArgs {
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// Print all events of one person, or of one request
    Find(find::FindArgs),
    /// Print the last events, and go on with those to come
    Tail(tail::TailArgs),
}

pub(super) async fn run(args: AuditArgs) -> Result<(), CommandError> {
    match args.command {
        AuditCommand::Find(args) => find::run(&args),
        AuditCommand::Tail(args) => tail::run(args).await,
    }
}

/// Reads a key as `audit.key` names it: 32 bytes in base64.
fn key_of_file(path: &Path) -> Result<AuditKey, CommandError> {
    let content = files::read(path, MAX_SECRET).and_then(Content::without_line_break);
    let content = content
        .map_err(|error| CommandError::Usage(format!("--key {} {error}", path.display())))?;
    let mut decoded = Zeroizing::new([0; 33]);
    let length = STANDARD.decode_slice(&content.bytes, decoded.as_mut_slice());
    let secret = decoded.first_chunk().filter(|_| length == Ok(32));
    secret.map(AuditKey::derive).ok_or_else(|| {
        let path = path.display();
        CommandError::Usage(format!(
            "--key {path} is not the base64 of exactly 32 bytes"
        ))
    })
}

/// What was written, where whoever read it has enough: a pager that was left, or `head`.
fn unless_closed(written: io::Result<()>) -> Result<(), CommandError> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(CommandError::io("cannot go on")),
    }
}
