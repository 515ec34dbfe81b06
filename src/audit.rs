//! The audit trail: what was done with people's data, on disk before it is done, in a chain that a
//! stranger can check.
//!
//! An [`event`] becomes a [`mod@line`] of this node's [`chain`], which one thread writes to numbered files of a
//! [`folder`]. Who has to know that an event is on disk waits for what [`AuditTrail::record`] returned.
//!
//! Invariant: an event whose [`Filed::durable`] was answered `Ok` with a position is on disk, and stays
//! where it is in the chain.

pub mod chain;
pub mod digest;
pub mod event;
pub mod folder;
mod hold;
mod keeper;
pub mod key;
pub mod line;
pub mod note;
pub mod operator;
pub mod proof;
mod queue;
pub mod receipt;
mod recovery;
mod rejections;
pub mod search;
pub mod ship;
pub mod tree;
pub mod verify;
mod writer;

use std::{
    io::{self, Write},
    num::NonZeroU32,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use thiserror::Error;
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};

use self::{
    digest::DigestKey,
    event::{Event, Rejected},
    folder::Folder,
    key::AuditKeys,
    line::Position,
    operator::Via,
    queue::Queue,
    receipt::Receipt,
    rejections::Rejections,
    ship::{ShipSettings, ShipSetupError, Shipper},
    writer::Writer,
};
use crate::{
    clock,
    ident::{NodeId, PseudonymKey},
    limits::Rate,
    outbox::Outbox,
    units::MIB,
};

/// What `[audit]` says of the trail.
#[derive(Debug, Clone)]
pub struct AuditSettings {
    /// Where the files are.
    pub folder: PathBuf,
    /// What the chain is called; a new chain is called after the computer where nothing is said.
    pub node: Option<NodeId>,
    /// With what it is sealed.
    pub keys: AuditKeys,
    /// Whether what cannot be recorded is done.
    pub durability: Durability,
    /// How often the disk is made to keep what was written, at most.
    pub sync_interval: Duration,
    /// How long is waited for the disk.
    pub write_timeout: Duration,
    /// After how many lines a checkpoint is made.
    pub checkpoint_events: u64,
    /// And after which time, if there were any.
    pub checkpoint_every: Duration,
    /// From which size on a file is closed.
    pub rotate_size: u64,
    /// And at which age.
    pub rotate_every: Duration,
    /// For how long a file is kept; nothing: for ever.
    pub keep: Option<Duration>,
    /// How many are kept; nothing: all.
    pub keep_files: Option<u64>,
    /// Whether a client is told where the outcome of its request stands.
    pub receipt: bool,
    /// How many requests without a good token leave an event; nothing: none does, they are counted.
    pub rejected_rate: Option<Rate>,
    /// Whether an event says by a digest which images they were.
    pub image_digests: bool,
    /// Whether each durable line goes to standard output, too.
    pub stdout: bool,
    /// Where its lines go besides.
    pub ship: Option<ShipSettings>,
    /// Which way its writer comes, where that is no gateway; no key of `[audit]`.
    pub via: Option<Via>,
}

impl AuditSettings {
    /// What `config/default.toml` says, for this folder and these keys.
    pub fn new(folder: impl Into<PathBuf>, keys: impl Into<AuditKeys>) -> Self {
        Self {
            folder: folder.into(),
            node: None,
            keys: keys.into(),
            durability: Durability::Required,
            sync_interval: Duration::from_millis(2),
            write_timeout: Duration::from_secs(1),
            checkpoint_events: 1_000,
            checkpoint_every: Duration::from_secs(10),
            rotate_size: 64 * MIB,
            rotate_every: Duration::from_hours(24),
            keep: Some(Duration::from_hours(24 * 365)),
            keep_files: None,
            receipt: false,
            rejected_rate: NonZeroU32::new(10)
                .map(|count| Rate::new(count, Duration::from_secs(1), None)),
            image_digests: true,
            stdout: false,
            ship: None,
            via: None,
        }
    }

    /// Each of the settings by its key, and whether others have it the same.
    pub fn compared(&self, other: &Self) -> [(&'static str, bool); 18] {
        [
            ("audit.path", self.folder == other.folder),
            ("audit.node", self.node == other.node),
            (
                "audit.key",
                self.keys.current.id() == other.keys.current.id(),
            ),
            ("audit.old_keys", self.keys.ids().eq(other.keys.ids())),
            ("audit.durability", self.durability == other.durability),
            (
                "audit.sync_interval",
                self.sync_interval == other.sync_interval,
            ),
            (
                "audit.write_timeout",
                self.write_timeout == other.write_timeout,
            ),
            (
                "audit.checkpoint_events",
                self.checkpoint_events == other.checkpoint_events,
            ),
            (
                "audit.checkpoint_every",
                self.checkpoint_every == other.checkpoint_every,
            ),
            ("audit.rotate_size", self.rotate_size == other.rotate_size),
            (
                "audit.rotate_every",
                self.rotate_every == other.rotate_every,
            ),
            ("audit.keep", self.keep == other.keep),
            ("audit.keep_files", self.keep_files == other.keep_files),
            ("audit.receipt", self.receipt == other.receipt),
            (
                "audit.rejected_rate",
                self.rejected_rate == other.rejected_rate,
            ),
            (
                "audit.image_digests",
                self.image_digests == other.image_digests,
            ),
            ("audit.stdout", self.stdout == other.stdout),
            ("audit.ship", self.ship == other.ship),
        ]
    }
}

/// Whether what cannot be recorded is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It is; what is lost is counted, and the count recorded.
    BestEffort,
    /// It is not.
    Required,
}

/// Why an event is not on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AuditUnavailable {
    /// The gateway has ended.
    #[error("the audit trail is closed")]
    Closed,
    /// The disk refuses to take it, with this kind of error.
    #[error("{}", of_disk(*.0))]
    Disk(io::ErrorKind),
    /// Too much waits for the disk.
    #[error("too many audit events wait for the disk")]
    Full,
    /// The disk takes longer than `audit.write_timeout`.
    #[error("the disk takes longer than audit.write_timeout to keep an audit event")]
    Slow,
}

fn of_disk(kind: io::ErrorKind) -> String {
    if kind == io::ErrorKind::NotFound {
        return "the folder of `audit.path`, or a file in it, was moved, removed or replaced"
            .into();
    }
    format!("the disk does not take audit events: {kind}")
}

/// Why a trail cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A file or the folder.
    #[error("cannot {what} {}: {source}; give the gateway the right to, or set another `audit.path`", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file was written with a key that is not there.
    #[error(
        "{} was written with another `audit.key` (id {key}): name its secret in `audit.old_keys`, or move \
         the folder away and begin a new chain",
        path.display()
    )]
    Key {
        /// The file.
        path: PathBuf,
        /// The key's id.
        key: String,
    },
    /// Another process has the folder.
    #[error("{} belongs to a gateway that runs: each needs an `audit.path` of its own", .0.display())]
    Locked(PathBuf),
    /// The chain has another name.
    #[error(
        "{} is the chain of node `{node}`, and `audit.node` is another: change it back, or move the folder \
         away and begin a new chain",
        path.display()
    )]
    Node {
        /// The folder.
        path: PathBuf,
        /// Its node.
        node: String,
    },
    /// The last file cannot be understood from its first line on, and may not be overwritten.
    #[error(
        "{} is no file of an audit chain: move it away; `audit verify` says what there is",
        .0.display()
    )]
    NoChain(PathBuf),
    /// There is a file where the folder should be.
    #[error("{} is a file, and `audit.path` names a folder", .0.display())]
    NoFolder(PathBuf),
    /// The folder's chain is another user's, who could not read what this one writes.
    #[error(
        "the audit trail in {} belongs to user id {owner}, and this process is {user}: run it as that user (`sudo -u '#{owner}' …`), \
         or give the folder and all that is in it to {user}",
        path.display()
    )]
    Owner {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Whose this process is.
        user: u32,
    },
    /// The key wrote files before another one replaced it.
    #[error(
        "{} was written with this `audit.key` (id {key}), and another key has replaced it since: one that was \
         replaced does not come back; make a new key, and leave both in `audit.old_keys`",
        path.display()
    )]
    RetiredKey {
        /// One of the files.
        path: PathBuf,
        /// The key's id.
        key: String,
    },
    /// The system gives no thread.
    #[error("cannot start the thread that writes audit events: {0}")]
    Thread(#[source] io::Error),
}

/// How far the chain is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durable {
    /// The number of the last file.
    pub file: u64,
    /// How many bytes of it count.
    pub bytes: u64,
    /// The number of the last line.
    pub seq: u64,
}

/// How the trail is.
#[derive(Debug, Clone, Copy)]
pub struct Health {
    /// Whether events get onto the disk, and if not, why.
    pub available: Result<(), AuditUnavailable>,
    /// How many events were lost since the start.
    pub lost: u64,
    /// How many rejections left no event, since the start.
    pub left_out: u64,
    /// How many lines standard output did not take.
    pub uncopied: u64,
    /// How many bytes of events wait for the disk.
    pub waiting: usize,
    /// How often it was written and synced.
    pub syncs: u64,
}

/// The audit trail of one gateway. One thread of its own writes; it is told to end with
/// [`AuditTrail::close`].
pub struct AuditTrail {
    queue: Arc<Queue>,
    keys: AuditKeys,
    node: NodeId,
    settings: Terms,
    durable: watch::Receiver<Durable>,
}

#[derive(Clone, Copy)]
struct Terms {
    durability: Durability,
    write_timeout: Duration,
    receipt: bool,
    image_digests: bool,
}

impl AuditTrail {
    /// Opens the folder's chain, puts in order what a crash has left, and begins a file. Each durable line
    /// goes to `copy`, too, if somebody reads there.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn open(
        settings: &AuditSettings,
        copy: Option<Box<dyn Write + Send>>,
    ) -> Result<Self, OpenError> {
        let copy = copy.map(|out| Outbox::new("audit copy", out));
        let copy = copy.transpose().map_err(OpenError::Thread)?;
        let rejections = Rejections::new(
            settings.rejected_rate.as_ref(),
            settings.checkpoint_every,
            clock::instant(),
        );
        let queue = Arc::new(Queue::new(settings.write_timeout, rejections));
        let (writer, durable) = Writer::open(settings, Arc::clone(&queue), copy)?;
        let node = writer.node().clone();
        writer.start()?;
        Ok(Self {
            queue,
            keys: settings.keys.clone(),
            node,
            settings: Terms {
                durability: settings.durability,
                write_timeout: settings.write_timeout,
                receipt: settings.receipt,
                image_digests: settings.image_digests,
            },
            durable,
        })
    }

    /// Has an event written. It does not wait: see [`Filed::durable`].
    pub fn record(&self, event: &impl Event) -> Filed {
        let Ok(bytes) = serde_json::to_vec(event) else {
            return self.lose();
        };
        let (done, receiver) = match self.settings.durability {
            Durability::BestEffort => (None, None),
            Durability::Required => {
                let (sender, receiver) = oneshot::channel();
                (Some(sender), Some(receiver))
            }
        };
        match (self.queue.push(bytes, event.mark(), done), receiver) {
            (Ok(()), Some(receiver)) => {
                Filed(Filing::Awaited(receiver, self.settings.write_timeout))
            }
            (Ok(()), None) => Filed(Filing::Unawaited),
            (Err(why), Some(_)) => Filed::refused(why),
            // It was counted; nobody wants to wait.
            (Err(_), None) => Filed(Filing::Lost),
        }
    }

    /// Has it written that a request was refused before anybody knew who asks, as often as
    /// `audit.rejected_rate` allows; the others are counted, and the count is written. The event is told
    /// how many were left out before it. Nobody waits for it.
    pub fn reject(&self, event: impl FnOnce(u64) -> Rejected) {
        self.queue
            .reject(|left_out| serde_json::to_vec(&event(left_out)).ok());
    }

    /// Counts an event that could not be made.
    pub fn lose(&self) -> Filed {
        let why = self.queue.unwritable();
        match self.settings.durability {
            Durability::BestEffort => Filed(Filing::Lost),
            Durability::Required => Filed::refused(why),
        }
    }

    /// Whether what is done now would be recorded. With `best_effort` nobody asks.
    ///
    /// # Errors
    /// [`AuditUnavailable`], as [`AuditTrail::health`] has it.
    pub fn available(&self) -> Result<(), AuditUnavailable> {
        match self.settings.durability {
            Durability::BestEffort => Ok(()),
            Durability::Required => self.queue.health().available,
        }
    }

    /// How it is.
    pub fn health(&self) -> Health {
        self.queue.health()
    }

    /// Whether what cannot be recorded is done.
    pub const fn durability(&self) -> Durability {
        self.settings.durability
    }

    /// Whose chain it is.
    pub const fn node(&self) -> &NodeId {
        &self.node
    }

    /// What a client is given of the outcome that stands there, if clients are given anything.
    pub fn receipt(&self, position: Position) -> Option<Receipt> {
        let node = self.settings.receipt.then(|| self.node.clone())?;
        Some(Receipt { node, position })
    }

    /// With which people become pseudonyms in it.
    pub fn pseudonyms(&self) -> &PseudonymKey {
        self.keys.current.pseudonyms()
    }

    /// With which images are known again in it, where that is wanted.
    pub fn images(&self) -> Option<&DigestKey> {
        let wanted = self.settings.image_digests;
        wanted.then(|| self.keys.current.images())
    }

    /// How far it is on disk, now and from now on.
    pub fn durable(&self) -> watch::Receiver<Durable> {
        self.durable.clone()
    }

    /// What sends it to a second place, if the settings name one.
    ///
    /// # Errors
    /// [`ShipSetupError`] where the client for it cannot be made.
    pub fn shipper(&self, settings: &AuditSettings) -> Result<Option<Shipper>, ShipSetupError> {
        let folder = Folder::new(&settings.folder);
        let shipper = |ship| Shipper::new(ship, folder, self.node.clone(), self.durable());
        settings.ship.as_ref().map(shipper).transpose()
    }

    /// Writes everything that waits, `stop` and a checkpoint, and lets go of the folder; whether that was
    /// done within `limit`.
    pub async fn close(&self, limit: Duration) -> bool {
        let closed = self.queue.close();
        timeout(limit, closed).await.is_ok()
    }
}

impl Drop for AuditTrail {
    fn drop(&mut self) {
        drop(self.queue.close());
    }
}

/// An event on its way to the disk.
#[must_use = "ask whether it is on disk, or drop it"]
pub struct Filed(Filing);

enum Filing {
    Awaited(
        oneshot::Receiver<Result<Position, AuditUnavailable>>,
        Duration,
    ),
    Lost,
    Refused(AuditUnavailable),
    Unawaited,
}

impl Filed {
    const fn refused(why: AuditUnavailable) -> Self {
        Self(Filing::Refused(why))
    }

    /// Waits until the event is on disk, and says where. With `best_effort` nobody waits, and there is no
    /// position.
    ///
    /// # Errors
    /// [`AuditUnavailable`] with `required`, where that did not happen within `audit.write_timeout`; it
    /// may still happen later.
    pub async fn durable(self) -> Result<Option<Position>, AuditUnavailable> {
        match self.0 {
            Filing::Unawaited | Filing::Lost => Ok(None),
            Filing::Refused(why) => Err(why),
            Filing::Awaited(receiver, limit) => match timeout(limit, receiver).await {
                Ok(Ok(written)) => written.map(Some),
                Ok(Err(_)) => Err(AuditUnavailable::Closed),
                Err(_) => Err(AuditUnavailable::Slow),
            },
        }
    }
}

#[cfg(test)]
mod tests;
