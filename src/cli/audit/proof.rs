//! `audit prove|check-proof|public-key`: what a stranger can check of single events.

use std::{fs, path::PathBuf};

use clap::Args;

use super::{Source, public_keys, read};
use crate::{
    audit::{
        folder::{Folder, Next},
        line::Line,
        proof::{Proof, ProveError, prove as prove_request},
        receipt::Receipt,
    },
    cli::{CommandError, complain, say},
    ident::{NodeId, RequestId},
};

#[derive(Debug, Args)]
pub(super) struct ProveArgs {
    #[command(flatten)]
    source: Source,
    /// The request's id, as its answer had it in X-Request-Id
    #[arg(long, value_name = "ID")]
    request_id: RequestId,
    /// Where to write the proof; without, standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The proof
    file: PathBuf,
    /// The public key as `audit public-key` prints it, or a file of such keys; not from who gave the proof
    #[arg(long, required = true, value_name = "KEY|FILE")]
    public_key: Vec<String>,
    /// The value of the answer's Audit-Receipt header, which must be of one of the events
    #[arg(long, value_name = "VALUE")]
    receipt: Option<Receipt>,
}

#[derive(Debug, Args)]
pub(super) struct PublicKeyArgs {
    /// A TOML file, or a folder of them
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    config: Vec<PathBuf>,
}

pub(super) fn prove(args: &ProveArgs) -> Result<(), CommandError> {
    let config = args.source.config()?;
    let paths = args.source.paths(config.as_ref())?;
    let proof = prove_request(&paths, args.request_id)?;
    let text = serde_json::to_string_pretty(&proof).unwrap_or_default();
    for without in without_end(&proof) {
        complain(&without);
    }
    let Some(out) = &args.out else {
        return say(&text);
    };
    let failed = |error| CommandError::Usage(format!("cannot write {}: {error}", out.display()));
    fs::write(out, text + "\n").map_err(failed)?;
    complain(&format!(
        "{} holds {} events; check it with: dcams-gateway audit check-proof {} --public-key KEY",
        out.display(),
        proof.events.len(),
        out.display()
    ));
    Ok(())
}

impl From<ProveError> for CommandError {
    fn from(error: ProveError) -> Self {
        match error {
            ProveError::Read(error) => error.into(),
            ProveError::Broken(_) | ProveError::NotFound | ProveError::Uncovered(_) => {
                Self::Audit(error.to_string())
            }
        }
    }
}

/// What a proof does not tell of its requests.
fn without_end(proof: &Proof) -> impl Iterator<Item = String> {
    let requests = proof.without_end().into_iter();
    requests.map(|request| {
        format!(
            "not proved: how request {} ended; its outcome is not in this proof",
            request.escape_debug()
        )
    })
}

pub(super) fn check(args: &CheckArgs) -> Result<(), CommandError> {
    let keys = public_keys(&args.public_key)?;
    let proof: Proof = serde_json::from_str(&read(&args.file)?).map_err(|error| {
        // Not the error's own text, which repeats what it read.
        let (line, column) = (error.line(), error.column());
        let file = args.file.display();
        CommandError::Audit(format!(
            "{file} is no proof as `audit prove` writes it: line {line}, column {column}"
        ))
    })?;
    let certain = proof
        .check(&keys)
        .map_err(|error| CommandError::Audit(format!("the proof proves nothing: {error}")))?;
    if let Some(Receipt { node, position }) = &args.receipt {
        let of_this = certain.iter().any(|event| event.position == *position);
        if *node != proof.node || !of_this {
            let why = "the receipt is of another event than those of the proof";
            return Err(CommandError::Audit(why.to_owned()));
        }
    }
    for event in &certain {
        let (seq, size) = (event.position.seq, event.checkpoint.size);
        say(event.line)?;
        say(&format!(
            "proved: line {seq} of the chain of node {}, under its signed checkpoint of {size} lines",
            event.checkpoint.node
        ))?;
    }
    for without in without_end(&proof) {
        say(&without)?;
    }
    Ok(())
}

pub(super) fn public_key(args: &PublicKeyArgs) -> Result<(), CommandError> {
    let source = Source {
        paths: Vec::new(),
        config: args.config.clone(),
    };
    let Some(config) = source.config()? else {
        return Ok(());
    };
    let settings = &config.audit;
    // The chain's name counts: the configuration may have come after it, and a computer has another name.
    let node = written(&settings.folder).or_else(|| settings.node.clone());
    let node = node.ok_or_else(|| {
        let folder = settings.folder.display();
        CommandError::Usage(format!(
            "{folder} has no chain yet and audit.node is not set, so nobody knows the node's name: start the \
             gateway once, or set audit.node"
        ))
    })?;
    for key in settings.keys.all() {
        say(&key.public(&node).to_string())?;
    }
    Ok(())
}

/// The node that the first line in a folder names.
fn written(folder: &std::path::Path) -> Option<NodeId> {
    let files = Folder::new(folder).files().ok()?;
    let mut lines = files.first()?.lines().ok()?;
    match lines.next_line().ok()?? {
        Next::Line(line) => NodeId::try_from(Line::parse(line)?.node).ok(),
        Next::Torn(_) => None,
    }
}
