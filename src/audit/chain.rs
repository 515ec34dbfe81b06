//! The chain of one node's events, and what the gateway writes into it to keep it.
//!
//! Invariant: each line has the next number and the MAC of the line before, and is the next leaf of the
//! tree. A state that was taken before lines that could not be written can be gone back to.

use std::{collections::BTreeSet, io, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    folder::{AuditFile, Next},
    key::{AuditKey, AuditKeys, KeyId, Mac},
    line::{Frame, Line, Position},
    note::{Checkpoint, Signature},
    tree::{Hash, Tree},
};
use crate::ident::{NodeId, RequestId};

/// A chain that is being written.
pub(super) struct Chain {
    node: NodeId,
    key: Arc<AuditKey>,
    state: State,
    /// Requests whose intent is in the chain, and whose outcome is not. As many as are under way.
    open: BTreeSet<RequestId>,
}

/// How far a chain is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    pub(super) prev: Mac,
    pub(super) tree: Tree,
}

impl State {
    /// Before the first line.
    pub(super) fn first(node: &NodeId, key: &AuditKey) -> Self {
        Self {
            prev: key.before_the_first(node),
            tree: Tree::default(),
        }
    }

    /// The number of the last line.
    pub(super) const fn seq(&self) -> u64 {
        self.tree.size()
    }
}

/// What an event says of a request under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Nothing.
    None,
    /// It goes upstream.
    Opens(RequestId),
    /// It has ended.
    Closes(RequestId),
    /// It has ended, and nothing of it went upstream.
    Refuses(RequestId),
}

/// So many requests under way fit into a line, however many there are. Far fewer are; but where outcomes are
/// lost, their requests stay open until the next start.
const MOST_OPEN: usize = 200_000;

impl Chain {
    pub(super) const fn new(
        node: NodeId,
        key: Arc<AuditKey>,
        state: State,
        open: BTreeSet<RequestId>,
    ) -> Self {
        Self {
            node,
            key,
            state,
            open,
        }
    }

    pub(super) const fn node(&self) -> &NodeId {
        &self.node
    }

    /// With what its checkpoints are checked.
    pub(super) fn public_key(&self) -> String {
        self.key.public(&self.node).to_string()
    }

    pub(super) const fn state(&self) -> &State {
        &self.state
    }

    /// Goes back to a state before lines that were not written.
    pub(super) fn restore(&mut self, state: State) {
        self.state = state;
    }

    /// Notes what a line that was written says.
    pub(super) fn mark(&mut self, mark: Mark) {
        match mark {
            Mark::None => {}
            Mark::Opens(id) => {
                self.open.insert(id);
            }
            Mark::Closes(id) | Mark::Refuses(id) => {
                self.open.remove(&id);
            }
        }
    }

    /// Appends the line of an event, an object in JSON.
    pub(super) fn append(&mut self, event: &[u8], out: &mut Vec<u8>) -> Position {
        let seq = self.state.seq() + 1;
        let frame = Frame {
            seq,
            node: self.node.as_str(),
            prev: self.state.prev,
        };
        let (mac, leaf) = frame.write(event, &self.key, out);
        self.state.prev = mac;
        self.state.tree.push(leaf);
        Position { seq, leaf }
    }

    /// Appends what the gateway notes for the chain's own sake.
    pub(super) fn keep(&mut self, time: Timestamp, upkeep: Upkeep, out: &mut Vec<u8>) -> Position {
        let kept = Kept::new(time, upkeep);
        // Strings, numbers and lists of them always are JSON.
        let event = serde_json::to_vec(&kept).unwrap_or_default();
        self.append(&event, out)
    }

    /// Appends a signed checkpoint of everything before it.
    pub(super) fn checkpoint(&mut self, time: Timestamp, out: &mut Vec<u8>) -> Position {
        let checkpoint = Checkpoint {
            node: self.node.clone(),
            size: self.state.tree.size(),
            root: self.state.tree.root(),
        };
        let signature = self.key.sign(&checkpoint);
        let upkeep = Upkeep::Checkpoint(Signed {
            size: checkpoint.size,
            root: checkpoint.root,
            subtrees: self.state.tree.subtrees().to_vec(),
            signature,
        });
        self.keep(time, upkeep, out)
    }

    /// Appends the first line of a file.
    pub(super) fn open_file(&mut self, file: u64, time: Timestamp, out: &mut Vec<u8>) -> Position {
        let upkeep = Upkeep::FileOpened(Opened {
            file,
            key: self.key.id().to_string(),
            public_key: self.public_key(),
            subtrees: self.state.tree.subtrees().to_vec(),
            open: self.open.iter().take(MOST_OPEN).copied().collect(),
        });
        self.keep(time, upkeep, out)
    }
}

/// An event about the chain itself: what stands in its line besides the frame.
#[derive(Debug, Serialize, Deserialize)]
pub struct Kept {
    /// When.
    pub time: Timestamp,
    /// Always `event`.
    pub phase: String,
    /// What.
    #[serde(flatten)]
    pub upkeep: Upkeep,
}

impl Kept {
    /// This, at this time.
    pub(super) fn new(time: Timestamp, upkeep: Upkeep) -> Self {
        let phase = "event".into();
        Self {
            time,
            phase,
            upkeep,
        }
    }
}

/// What the gateway writes into a chain for its own sake (`event`).
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Upkeep {
    /// Events are missing, or might be.
    AuditGap(Gap),
    /// A signed root of everything before it.
    Checkpoint(Signed),
    /// The wall clock was set, or the computer slept.
    ClockStep {
        /// By how many milliseconds, forward or (below zero) back.
        ms: i64,
    },
    /// The first line of a file.
    FileOpened(Opened),
    /// Files were removed, because they were old or too many: all up to here.
    FilesRemoved(Removed),
    /// Requests were refused before anybody knew who asks, and left no event: there were too many.
    RejectionsLeftOut {
        /// How many, that no `rejected` event says.
        count: u64,
    },
    /// The gateway begins, or a command that works on the state itself.
    Start {
        /// Its version.
        version: String,
        /// `cli`: it is a command.
        #[serde(skip_serializing_if = "Option::is_none")]
        via: Option<String>,
    },
    /// It ends, and has written everything.
    Stop {
        /// As in `start`.
        #[serde(skip_serializing_if = "Option::is_none")]
        via: Option<String>,
    },
    /// What others wrote.
    #[serde(other, skip_serializing)]
    Other,
}

/// See [`Upkeep::Checkpoint`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Signed {
    /// How many lines it covers: all before it.
    pub size: u64,
    /// The root of the tree over them.
    pub root: Hash,
    /// The roots of the tree's complete subtrees, the largest first.
    pub subtrees: Vec<Hash>,
    /// The signature of the checkpoint as a note ([`Checkpoint`]).
    pub signature: Signature,
}

/// See [`Upkeep::FileOpened`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Opened {
    /// The file's number.
    pub file: u64,
    /// The id of the `audit.key` that it is written with.
    pub key: String,
    /// With which its checkpoints are checked.
    pub public_key: String,
    /// The tree over all lines of earlier files, as the roots of its complete subtrees.
    pub subtrees: Vec<Hash>,
    /// Requests that were under way: with an intent in an earlier file and no outcome yet.
    pub open: Vec<RequestId>,
}

/// The line that a file begins with.
pub struct First {
    /// When it was written.
    pub time: Timestamp,
    /// Its number in the chain.
    pub seq: u64,
    /// What it says.
    pub opened: Opened,
}

impl First {
    /// That of this file, as it stands there: its MAC is for others to check.
    ///
    /// # Errors
    /// Where the file cannot be read, or does not begin with such a line.
    pub fn of(file: &AuditFile) -> io::Result<Self> {
        Self::read(file, |_, _| true)
    }

    /// The same, where it is this node's, a known key made it and it is of a file of this number: what
    /// anybody could have put there says nothing.
    pub(super) fn by(file: &AuditFile, node: &NodeId, keys: &AuditKeys) -> io::Result<Self> {
        Self::read(file, |line, opened| {
            let key = KeyId::parse(&opened.key).and_then(|id| keys.find(id));
            let is_its = line.node == node.as_str() && opened.file == file.number;
            is_its && key.is_some_and(|key| line.is_by(key))
        })
    }

    fn read(
        file: &AuditFile,
        believes: impl FnOnce(&Line<'_>, &Opened) -> bool,
    ) -> io::Result<Self> {
        let mut lines = file.lines()?;
        let first = match lines.next_line()? {
            Some(Next::Line(line)) => line,
            _ => &[],
        };
        let kept: Result<Kept, _> = serde_json::from_slice(first);
        match (Line::parse(first), kept) {
            (
                Some(line),
                Ok(Kept {
                    time,
                    upkeep: Upkeep::FileOpened(opened),
                    ..
                }),
            ) if believes(&line, &opened) => Ok(Self {
                time,
                seq: line.seq,
                opened,
            }),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// See [`Upkeep::FilesRemoved`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Removed {
    /// The number of the last file that was removed; all before it were, too.
    pub through_file: u64,
    /// The number of its last line.
    pub through_seq: u64,
    /// `age` or `count`.
    pub cause: String,
}

/// See [`Upkeep::AuditGap`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Gap {
    /// `torn`: what a crash left half-written was set aside. `damaged`: so were whole lines that are not as
    /// they were written. `write_failed`: the disk did not take what was written. `lost`: there was no room
    /// to wait for the disk in.
    pub cause: String,
    /// How many events are lost; none where that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
    /// In which file bytes after a certain point do not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<u64>,
    /// That point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_byte: Option<u64>,
    /// How many bytes there were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

impl Gap {
    /// So many events are lost.
    pub(super) fn lost(events: u64) -> Self {
        Self {
            cause: "lost".into(),
            lost: Some(events),
            ..Self::default()
        }
    }
}
