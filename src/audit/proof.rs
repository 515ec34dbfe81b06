//! Proofs that an event is in the chain, for who has the public key and nothing else.
//!
//! Invariant: what [`Proof::check`] returns was signed for by the key: the event's line, byte for byte, is
//! the leaf of its number under the root of a signed checkpoint. A proof holds nothing besides that line, and
//! hashes of others.

use std::{collections::BTreeSet, path::PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    chain::{Kept, Signed, Upkeep},
    line::{Line, Position},
    note::{Checkpoint, NoteError, PublicKey},
    tree::{Hash, Prover, Tree, includes},
    verify::{Block, VerifyError, lines_of, reading, upkeep_of, walk},
};
use crate::ident::{NodeId, RequestId};

/// What a proof file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// The version of this form.
    pub v: u8,
    /// Whose chain.
    pub node: NodeId,
    /// The events, in their order.
    pub events: Vec<Proved>,
}

/// One event of a proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proved {
    /// The event's line, without its line break.
    pub line: String,
    /// Which leaf of the tree it is: its number less one.
    pub index: u64,
    /// The inclusion path (RFC 9162, section 2.1.3), from the leaf up.
    pub path: Vec<Hash>,
    /// The signed checkpoint, as a note.
    pub checkpoint: String,
}

/// The version of a proof's form.
pub const VERSION: u8 = 1;

/// Why there is no proof.
#[derive(Debug, Error)]
pub enum ProveError {
    /// The files do not fit together.
    #[error("{0}; find out what is wrong with: dcams-gateway audit verify")]
    Broken(&'static str),
    /// The request is not in these files.
    #[error(
        "no event of this request is in these files; events are found by the id that the gateway gave: X-Request-Id"
    )]
    NotFound,
    /// The files cannot be read.
    #[error("{0}")]
    Read(#[from] VerifyError),
    /// No checkpoint covers the event.
    #[error(
        "event {0} is there, and no checkpoint covers it yet: a running gateway makes one at the latest \
         audit.checkpoint_every (10s) later, and when it stops; try again then"
    )]
    Uncovered(u64),
}

/// Why a proof proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProofError {
    /// The checkpoint is not what it says it is.
    #[error("the checkpoint {0}")]
    Checkpoint(#[from] NoteError),
    /// There is no event in it.
    #[error("there is no event in it")]
    Empty,
    /// What is in it does not fit together.
    #[error("its event is not a line of the chain of the node that it names")]
    OtherChain,
    /// The path leads elsewhere.
    #[error("the event is not what the checkpoint covers: it, its number or the path was changed")]
    OtherRoot,
    /// It is of a later version.
    #[error("it is of another version than 1, which this program knows")]
    Version,
}

/// What a proof proves of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certain<'a> {
    /// Where its line stands, and what it is.
    pub position: Position,
    /// The line.
    pub line: &'a str,
    /// What was signed.
    pub checkpoint: Checkpoint,
}

impl Proof {
    /// What it proves to who trusts one of these keys.
    ///
    /// # Errors
    /// [`ProofError`], where it proves nothing.
    pub fn check(&self, keys: &[PublicKey]) -> Result<Vec<Certain<'_>>, ProofError> {
        if self.v != VERSION {
            return Err(ProofError::Version);
        }
        if self.events.is_empty() {
            return Err(ProofError::Empty);
        }
        let events = self.events.iter();
        events
            .map(|proved| proved.check(&self.node, keys))
            .collect()
    }

    /// The requests that its events say were sent, or answered in vain, and of which it has no end.
    pub fn without_end(&self) -> BTreeSet<&str> {
        let lines = self.events.iter();
        let lines = lines.filter_map(|event| Line::parse(event.line.as_bytes()));
        let (mut begun, mut ended) = (BTreeSet::new(), BTreeSet::new());
        for line in lines {
            let Some(request) = line.text("\"request_id\":\"") else {
                continue;
            };
            if line.has(r#""phase":"outcome""#) || line.has(r#""event":"status_refreshed""#) {
                ended.insert(request);
            } else if line.has(r#""phase":"intent""#) || line.has(r#""event":"answer_withheld""#) {
                begun.insert(request);
            }
        }
        &begun - &ended
    }
}

impl Proved {
    fn check(&self, node: &NodeId, keys: &[PublicKey]) -> Result<Certain<'_>, ProofError> {
        let mut opened = Err(NoteError::OtherKey);
        for key in keys {
            opened = key.open(&self.checkpoint);
            if opened != Err(NoteError::OtherKey) {
                break;
            }
        }
        let checkpoint = opened?;
        let line = Line::parse(self.line.as_bytes()).filter(|line| {
            line.node == node.as_str()
                && *node == checkpoint.node
                && line.seq.checked_sub(1) == Some(self.index)
        });
        let line = line.ok_or(ProofError::OtherChain)?;
        let (root, leaf) = (checkpoint.root, line.leaf());
        if !includes(root, checkpoint.size, self.index, leaf, &self.path) {
            return Err(ProofError::OtherRoot);
        }
        let seq = line.seq;
        Ok(Certain {
            position: Position { seq, leaf },
            line: &self.line,
            checkpoint,
        })
    }
}

/// Proves that all events of a request that are in these files are in their chain.
///
/// # Errors
/// [`ProveError`]
pub fn prove(paths: &[PathBuf], request: RequestId) -> Result<Proof, ProveError> {
    let gather = reading(paths, |files| {
        let mut gather = Gather::new(request);
        walk(files, |block| match block {
            Block::Lines(lines) => lines_of(&lines).for_each(|line| gather.line(line)),
            // What is not there, or not whole, is noticed where it is needed.
            Block::Begin { .. } | Block::Torn(_) | Block::Unreadable(_) => {}
        })?;
        Ok(gather)
    })?;
    gather.finish()
}

/// One pass over the lines. What is kept are the leaves since the last line that lists its subtrees.
struct Gather {
    member: String,
    public: Option<PublicKey>,
    from: Tree,
    leaves: Vec<Hash>,
    /// Events that no checkpoint covers yet.
    waiting: Vec<(u64, String)>,
    node: Option<NodeId>,
    proved: Vec<Proved>,
    broken: Option<&'static str>,
}

impl Gather {
    fn new(request: RequestId) -> Self {
        Self {
            member: format!("\"request_id\":\"{request}\""),
            public: None,
            from: Tree::default(),
            leaves: Vec::new(),
            waiting: Vec::new(),
            node: None,
            proved: Vec::new(),
            broken: None,
        }
    }

    fn line(&mut self, bytes: &[u8]) {
        let Some(line) = Line::parse(bytes) else {
            return;
        };
        match upkeep_of(&line).ok().flatten() {
            Some(Kept {
                upkeep: Upkeep::Checkpoint(signed),
                ..
            }) => {
                if !self.waiting.is_empty() {
                    let note = self.note(&line, &signed);
                    match note {
                        Some((checkpoint, note)) => self.cover(&checkpoint, &note),
                        None => {
                            self.broken = Some("the checkpoint behind the event does not verify");
                        }
                    }
                }
                self.go_on(line.seq - 1, signed.subtrees);
            }
            Some(Kept {
                upkeep: Upkeep::FileOpened(opened),
                ..
            }) => {
                self.public = opened.public_key.parse().ok();
                if self.waiting.is_empty() {
                    self.go_on(line.seq - 1, opened.subtrees);
                }
            }
            Some(_) | None => {}
        }
        self.leaves.push(line.leaf());
        if line.has(&self.member)
            && let Ok(text) = str::from_utf8(bytes)
        {
            self.node = NodeId::try_from(line.node).ok();
            self.waiting.push((line.seq - 1, text.to_owned()));
        }
    }

    fn go_on(&mut self, size: u64, subtrees: Vec<Hash>) {
        if let Some(tree) = Tree::restore(size, subtrees) {
            self.from = tree;
            self.leaves.clear();
        }
    }

    fn note(&self, line: &Line<'_>, signed: &Signed) -> Option<(Checkpoint, String)> {
        let checkpoint = Checkpoint {
            node: NodeId::try_from(line.node).ok()?,
            size: signed.size,
            root: signed.root,
        };
        let public = self.public.as_ref()?;
        let note = checkpoint.note(public, &signed.signature);
        public
            .made(&signed.signature, &checkpoint)
            .then_some((checkpoint, note))
    }

    /// A checkpoint covers what waits for one.
    fn cover(&mut self, checkpoint: &Checkpoint, note: &str) {
        for (index, line) in std::mem::take(&mut self.waiting) {
            let Some(mut prover) = Prover::new(index, checkpoint.size, &self.from) else {
                self.broken = Some("lines between the event and its checkpoint are missing");
                continue;
            };
            self.leaves.iter().for_each(|leaf| prover.push(*leaf));
            let leaf = Hash::of_leaf(line.as_bytes());
            let path = prover.path().unwrap_or_default();
            if includes(checkpoint.root, checkpoint.size, index, leaf, &path) {
                self.proved.push(Proved {
                    line,
                    index,
                    path,
                    checkpoint: note.to_owned(),
                });
            } else {
                self.broken =
                    Some("the event, or one of those near it, is not what the checkpoint covers");
            }
        }
    }

    fn finish(self) -> Result<Proof, ProveError> {
        if let Some(broken) = self.broken {
            return Err(ProveError::Broken(broken));
        }
        if let Some((index, _)) = self.waiting.first() {
            return Err(ProveError::Uncovered(index + 1));
        }
        let node = self.node.ok_or(ProveError::NotFound)?;
        Ok(Proof {
            v: VERSION,
            node,
            events: self.proved,
        })
    }
}
