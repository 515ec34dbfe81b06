//! What has to outlive the process: who owns a customer, which tokens were revoked, what DCAMS said to
//! a credential, what tenants have used.
//!
//! A few tables of small entries behind three calls. Invariant: nothing in it can be read without
//! `state.key`, and nothing of a person can get in as a key: an entry is found by a [`Pseudonym`],
//! and its value is sealed together with its table and its key. What an update returned
//! is on disk. A store that cannot be read is an error, never an empty store. It is a file of this process
//! alone, or a Redis that several gateways share.

mod embedded;
pub mod redis;
pub(crate) mod seal;
#[cfg(test)]
mod tests;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;
use tokio::time::timeout;
use zeroize::Zeroizing;

use self::{
    embedded::Embedded,
    redis::{
        Redis,
        dial::Fault,
        entries::Entries,
        settings::{RedisSettings, Server},
    },
};
use crate::ident::Pseudonym;

/// How long an update may take, waiting for its turn included. A disk that takes longer is as good
/// as gone: the caller fails closed, and the update may still happen.
const UPDATE_TIME: Duration = Duration::from_secs(10);

/// The size of every value in a table whose absences must not show: where an entry is not there,
/// another one of the table, or a decoy of this size, is opened in its place.
pub const EVEN: usize = 72;

/// Where the state is, and what it is sealed with.
pub struct StateSettings {
    /// What values are sealed with.
    pub key: Zeroizing<[u8; 32]>,
    /// Where they are.
    pub backend: Backend,
}

/// Where the state is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// In a folder of this process alone.
    Embedded {
        /// Which one.
        path: PathBuf,
    },
    /// In a Redis that several gateways share.
    Redis(Box<RedisSettings>),
}

impl Backend {
    /// How many gateways share it, where more than one may.
    pub fn nodes(&self) -> Option<u16> {
        match self {
            Self::Embedded { .. } => None,
            Self::Redis(redis) => Some(redis.nodes),
        }
    }

    /// The folder, where it is one.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::Embedded { path } => Some(path),
            Self::Redis(_) => None,
        }
    }
}

/// The state store. A clone is the same store; the last one that goes frees the files.
#[derive(Clone)]
pub struct Store(Kind);

/// Futures of Redis go on the heap: they are much larger than a file's, and wait for the network.
#[derive(Clone)]
enum Kind {
    Embedded(Embedded),
    Redis(Entries),
}

/// Whether the store can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Redis does not answer.
    Away,
    /// Redis lost what was in it.
    Lost,
    /// It can be asked, as far as is known.
    Up,
}

/// The tables there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// What is known of credentials' values.
    Credentials,
    /// Which tenant owns a customer.
    Customers,
    /// Which tokens are not to be believed any more.
    Revocations,
    /// What tenants have used of their quotas.
    Usage,
}

impl Table {
    /// The name in the file or in Redis; it is sealed into each value too.
    const fn name(self) -> &'static str {
        match self {
            Self::Credentials => "credentials",
            Self::Customers => "customers",
            Self::Revocations => "revocations",
            Self::Usage => "usage",
        }
    }
}

/// What an update makes of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Leaves it as it is, or absent.
    Keep,
    /// Writes this value.
    Put(Vec<u8>),
    /// Removes it.
    Remove,
}

/// Why the store could not be asked. The entry is as it was, or an update happened all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum StoreError {
    /// What is stored is not what was written.
    #[error(
        "an entry of the state store is damaged or lost; restore `state.path`, or Redis, from a backup"
    )]
    Damaged,
    /// The disk is full or gone, Redis is, or one of them took too long.
    #[error(
        "the state store cannot be read or written; look at the disk of `state.path`, or at Redis"
    )]
    Unavailable,
}

/// Why there is no store. Each says what to do next; none of them changed anything.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Not a store, or not what was written.
    #[error(
        "{} is damaged: restore it from a backup. Without one, move it away; every tenant's customers \
         then have to be imported again", .0.display()
    )]
    Damaged(PathBuf),
    /// Another process has it.
    #[error(
        "{} is in use by another process: stop that one, or set another `state.path`", .0.display()
    )]
    InUse(PathBuf),
    /// The folder or a file in it cannot be had.
    #[error(
        "{} cannot be used as the state folder ({source}): give it to this user, or set another \
         `state.path`", path.display()
    )]
    Folder {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A newer version wrote it.
    #[error(
        "{} was written by a newer version (format {found}, this one knows {}): run that version, or \
         restore a backup from before it", path.display(), embedded::SCHEMA
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Redis cannot be used.
    #[error(
        "Redis{} cannot be used ({fault}): mend that or `state.redis`, and start again; without its \
         state the gateway does not start", of(server.as_ref())
    )]
    Redis {
        /// The server that was asked.
        server: Option<Server>,
        /// What is wrong with it.
        fault: Fault,
    },
    /// What stands in Redis is not a store.
    #[error(
        "what Redis holds under {0:?} is not a state store, or a damaged one: restore it, or set \
         another `state.redis.prefix` for an empty store"
    )]
    RedisDamaged(String),
    /// `state.key` is not the one that it was written with.
    #[error(
        "`state.key` is not the key that the state in Redis under {0:?} was written with: put the former \
         key back (all gateways have the same), or set another `state.redis.prefix` for an empty store"
    )]
    RedisKey(String),
    /// A newer version wrote it.
    #[error(
        "the state in Redis under {prefix:?} was written by a newer version (format {found}, this one \
         knows {}): run that version, or set another `state.redis.prefix`",
        redis::entries::SCHEMA
    )]
    RedisNewer {
        /// What its keys begin with.
        prefix: String,
        /// Its format.
        found: u32,
    },
    /// It answers, and refuses to be written to.
    #[error(
        "Redis refuses to be written to: look at its memory and disk, whether it is a master, and what \
         its user may do (docs/REDIS.md)"
    )]
    RedisRefuses,
    /// No cryptography, or no thread.
    #[error("the system gives no {0}: try again, and look at its limits")]
    System(&'static str),
    /// `state.key` is not the one that it was written with.
    #[error(
        "`state.key` is not the key that {} was written with: put the former key back, or set another \
         `state.path` for an empty store", .0.display()
    )]
    WrongKey(PathBuf),
}

fn of(server: Option<&Server>) -> String {
    server.map_or_else(String::new, |server| format!(" at {server}"))
}

impl Store {
    /// Opens the store, or makes an empty one where there is none.
    pub async fn open(settings: &StateSettings) -> Result<Self, OpenError> {
        match &settings.backend {
            Backend::Embedded { path } => Self::embedded(path, &settings.key),
            Backend::Redis(redis) => {
                let entries = Box::pin(Entries::open(redis, &settings.key)).await?;
                Ok(Self(Kind::Redis(entries)))
            }
        }
    }

    /// Opens the store in a folder, or makes one where there is none. Waits for the disk; it reads
    /// all of the file, so that damage shows now and not under a request.
    pub fn embedded(folder: &Path, key: &[u8; 32]) -> Result<Self, OpenError> {
        Embedded::open(folder, key).map(|embedded| Self(Kind::Embedded(embedded)))
    }

    /// The Redis that it is in, for what is counted there too.
    pub fn redis(&self) -> Option<&Redis> {
        match &self.0 {
            Kind::Embedded(_) => None,
            Kind::Redis(entries) => Some(entries.redis()),
        }
    }

    /// Whether it can be asked; of a file that is found out by asking.
    pub fn standing(&self) -> Standing {
        match &self.0 {
            Kind::Embedded(_) => Standing::Up,
            Kind::Redis(entries) if entries.is_lost() => Standing::Lost,
            Kind::Redis(entries) if entries.redis().is_up() => Standing::Up,
            Kind::Redis(_) => Standing::Away,
        }
    }

    /// A number that changes with each change of a small table, also by another gateway; none where
    /// there can be no other.
    pub async fn version(&self, table: Table) -> Result<Option<u64>, StoreError> {
        match &self.0 {
            Kind::Embedded(_) => Ok(None),
            Kind::Redis(entries) => Box::pin(entries.version(table)).await.map(Some),
        }
    }

    /// The value of one entry.
    pub async fn get(&self, table: Table, key: &Pseudonym) -> Result<Option<Vec<u8>>, StoreError> {
        match &self.0 {
            Kind::Embedded(embedded) => embedded.get(table, key),
            Kind::Redis(entries) => Box::pin(entries.get(table, key)).await,
        }
    }

    /// Changes entries, and returns what each held before. Each change is atomic; all are durable
    /// when this returns, and none happened where it returns [`StoreError::Damaged`].
    ///
    /// `change` is given an entry's place in `keys` and its value. It may be called more than once
    /// for the same entry, so it decides by what it is given alone. Once asked for, the update
    /// happens even if this future is dropped.
    pub async fn update(
        &self,
        table: Table,
        keys: Vec<Pseudonym>,
        change: impl Fn(usize, Option<&[u8]>) -> Change + Send + Sync + 'static,
    ) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        self.ask(table, keys, Decide(Box::new(change)), None).await
    }

    /// The same for one entry, and where nobody waits for the outcome any more when it has happened
    /// (the disk took too long), `undo` is done after it.
    pub async fn update_or_undo(
        &self,
        table: Table,
        key: Pseudonym,
        change: impl Fn(Option<&[u8]>) -> Change + Send + Sync + 'static,
        undo: impl Fn(Option<&[u8]>) -> Change + Send + Sync + 'static,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let change = Decide(Box::new(move |_, value| change(value)));
        let undo = Decide(Box::new(move |_, value| undo(value)));
        let former = self.ask(table, vec![key], change, Some(undo)).await?;
        Ok(former.into_iter().next().flatten())
    }

    async fn ask(
        &self,
        table: Table,
        keys: Vec<Pseudonym>,
        change: Decide,
        undo: Option<Decide>,
    ) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let updated = async {
            match &self.0 {
                Kind::Embedded(embedded) => embedded.update(table, keys, change, undo).await,
                Kind::Redis(entries) => Box::pin(entries.update(table, keys, change, undo)).await,
            }
        };
        let updated = timeout(UPDATE_TIME, updated).await;
        let Former(former) = updated.unwrap_or(Err(StoreError::Unavailable))?;
        Ok(former)
    }

    /// All entries of a table that is known to be small.
    pub async fn scan(&self, table: Table) -> Result<Vec<(Pseudonym, Vec<u8>)>, StoreError> {
        match &self.0 {
            Kind::Embedded(embedded) => embedded.scan(table),
            Kind::Redis(entries) => Box::pin(entries.scan(table)).await,
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

/// What entries held before an update, in the order of its keys.
struct Former(Vec<Option<Vec<u8>>>);

#[expect(clippy::type_complexity, reason = "this is the name of that type")]
/// Decides what becomes of the entry at a place of the keys, by its value.
struct Decide(Box<dyn Fn(usize, Option<&[u8]>) -> Change + Send + Sync>);
