//! Redis or Valkey, shared by several gateways: one server, sentinels, or a cluster.
//!
//! A question is one script, which Redis runs as a whole. Invariant: whoever asks has an answer within
//! `timeout`, or is told that there is none; while Redis is away, at once. What is sent holds no plain
//! value, and nothing here logs a login or what a server said beyond the word that its errors begin with.

mod cluster;
pub mod dial;
pub(super) mod entries;
mod info;
mod line;
mod script;
#[cfg(test)]
#[path = "../../tests/gateway/redis/server.rs"]
#[expect(
    dead_code,
    unreachable_pub,
    reason = "the tests of the gateway use all of it"
)]
pub(crate) mod server;
pub mod settings;
mod slots;
mod undo;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use redis::{Cmd, Value};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

pub use self::script::Script;
use self::{
    cluster::Cluster,
    dial::{Dialer, Fault},
    line::{Finder, Line, Shared, Trouble},
    settings::{Mode, RedisSettings, Server},
    slots::slot,
};
use super::{OpenError, StoreError};
use crate::clock;

/// How often it is said at most that Redis answers with an error.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// The connection to Redis. A clone is the same one; it is closed with the last.
#[derive(Clone)]
pub struct Redis(Arc<Inner>);

struct Inner {
    settings: Arc<RedisSettings>,
    links: Links,
    shared: Arc<Shared>,
    up: watch::Receiver<bool>,
    /// Whether an error was said lately.
    said: Arc<AtomicBool>,
    tasks: TaskTracker,
    _stop: DropGuard,
}

#[derive(Clone)]
enum Links {
    Cluster(Arc<Cluster>),
    One(Arc<Line>),
}

impl Redis {
    /// Connects, or says why that cannot be.
    ///
    /// # Errors
    /// [`OpenError::Redis`] with the server and what is wrong with it.
    pub async fn connect(settings: &RedisSettings) -> Result<Self, OpenError> {
        let settings = Arc::new(settings.clone());
        let tasks = TaskTracker::new();
        let dialer = Dialer::new(&settings, &tasks);
        let dialer = dialer.map_err(|_unusable| OpenError::System("TLS"))?;
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            dialer,
            changed: Notify::new(),
            connections: AtomicU64::new(0),
            round_trips: AtomicU64::new(0),
            stop: stop.clone(),
        });
        let guard = stop.clone().drop_guard();
        let links = Links::open(&settings, &shared, &tasks).await;
        let links = links.map_err(|(server, fault)| OpenError::Redis { server, fault })?;
        let (tell, up) = watch::channel(true);
        let watching = watch_over(links.clone(), Arc::clone(&shared), tell);
        drop(tasks.spawn(stop.run_until_cancelled_owned(watching)));
        Ok(Self(Arc::new(Inner {
            settings,
            links,
            shared,
            up,
            said: Arc::default(),
            tasks,
            _stop: guard,
        })))
    }

    /// Runs a script within `timeout`, in one round trip but for the first time on a server.
    ///
    /// All keys must be in one slot of a cluster: give them one hash tag, such as `{tenant}`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where Redis is away, slow or refuses. The script may have run.
    pub async fn invoke(
        &self,
        script: &'static Script,
        keys: &[Vec<u8>],
        args: &[Vec<u8>],
    ) -> Result<Value, StoreError> {
        let deadline = clock::instant() + self.0.settings.timeout;
        self.invoke_before(deadline, script, keys, args).await
    }

    /// The same with another bound, for work that no request waits for.
    pub(super) async fn invoke_before(
        &self,
        deadline: Instant,
        script: &'static Script,
        keys: &[Vec<u8>],
        args: &[Vec<u8>],
    ) -> Result<Value, StoreError> {
        let place = keys.first().map_or(0, |key| slot(key));
        let by_name = script.by_name(keys, args);
        let mut answer = self.0.links.ask(place, &by_name, deadline).await;
        // After a restart or a failover; the server keeps it from now on.
        if matches!(&answer, Err(Trouble::Said(error)) if error.code() == Some("NOSCRIPT")) {
            let by_text = script.by_text(keys, args);
            answer = self.0.links.ask(place, &by_text, deadline).await;
        }
        answer.map_err(|trouble| self.unavailable(&trouble))
    }

    /// One command about this key.
    async fn ask(&self, key: &[u8], command: &Cmd, deadline: Instant) -> Result<Value, StoreError> {
        let answer = self.0.links.ask(slot(key), command, deadline).await;
        answer.map_err(|trouble| self.unavailable(&trouble))
    }

    /// One command to one master.
    async fn ask_line(
        &self,
        line: &Line,
        command: &Cmd,
        deadline: Instant,
    ) -> Result<Value, StoreError> {
        let answer = line.ask(command, deadline).await;
        answer.map_err(|trouble| self.unavailable(&trouble))
    }

    /// Every master.
    fn lines(&self) -> Vec<Arc<Line>> {
        match &self.0.links {
            Links::Cluster(cluster) => cluster.masters(),
            Links::One(line) => vec![Arc::clone(line)],
        }
    }

    /// How many connections there have been.
    fn connections(&self) -> u64 {
        self.0.shared.connections.load(Relaxed)
    }

    /// Whether all of it can be asked. Of a cluster's nodes each one that is away takes its own keys
    /// with it, and those alone.
    pub fn is_up(&self) -> bool {
        self.0.links.is_up()
    }

    /// Whether all of it can be asked, as it changes.
    pub fn changes(&self) -> watch::Receiver<bool> {
        self.0.up.clone()
    }

    /// How many commands were sent so far.
    pub fn round_trips(&self) -> u64 {
        self.0.shared.round_trips.load(Relaxed)
    }

    /// What every key begins with.
    pub fn prefix(&self) -> &str {
        &self.0.settings.prefix
    }

    /// What the configuration says of it.
    pub fn settings(&self) -> &RedisSettings {
        &self.0.settings
    }

    fn unavailable(&self, trouble: &Trouble) -> StoreError {
        if let Trouble::Said(error) = trouble
            && !self.0.said.swap(true, Relaxed)
        {
            // Its first word alone: what follows may repeat what was sent.
            let code = error.code().unwrap_or("none");
            tracing::error!(
                code,
                "Redis refuses what it is asked; look up this code in docs/REDIS.md"
            );
            let said = Arc::clone(&self.0.said);
            drop(self.0.tasks.spawn(async move {
                sleep(SAY_AGAIN).await;
                said.store(false, Relaxed);
            }));
        }
        StoreError::Unavailable
    }
}

impl Links {
    async fn open(
        settings: &RedisSettings,
        shared: &Arc<Shared>,
        tasks: &TaskTracker,
    ) -> Result<Self, (Option<Server>, Fault)> {
        let database = settings.database;
        let servers = settings.servers.clone();
        let first = servers.first().cloned();
        let finder = match (&settings.mode, &first) {
            (Mode::Cluster, _) => {
                let cluster = Cluster::open(servers, shared, tasks).await;
                let cluster = cluster.map_err(|(server, fault)| (Some(server), fault))?;
                return Ok(Self::Cluster(cluster));
            }
            (Mode::Sentinel { master }, _) => Finder::Sentinels {
                sentinels: servers,
                master: master.clone(),
                database,
            },
            (Mode::Single, Some(server)) => Finder::Fixed {
                server: server.clone(),
                database,
            },
            (Mode::Single, None) => return Err((None, Fault::Unreachable)),
        };
        let line = Arc::new(Line::new(finder, shared));
        line.connect().await.map_err(|fault| (first, fault))?;
        line.keep(tasks);
        Ok(Self::One(line))
    }

    async fn ask(&self, slot: u16, command: &Cmd, deadline: Instant) -> Result<Value, Trouble> {
        match self {
            Self::Cluster(cluster) => cluster.ask(slot, command, deadline).await,
            Self::One(line) => line.ask(command, deadline).await,
        }
    }

    fn is_up(&self) -> bool {
        match self {
            Self::Cluster(cluster) => cluster.is_up(),
            Self::One(line) => line.is_up(),
        }
    }
}

/// Tells everybody, and the log once, when Redis goes and comes.
async fn watch_over(links: Links, shared: Arc<Shared>, tell: watch::Sender<bool>) {
    loop {
        shared.changed.notified().await;
        let up = links.is_up();
        if let (false, Links::Cluster(cluster)) = (up, &links) {
            cluster.doubt();
        }
        let changed = tell.send_if_modified(|told| std::mem::replace(told, up) != up);
        if changed && up {
            tracing::info!("Redis is back");
        } else if changed {
            tracing::error!("Redis does not answer; what needs the state store is refused");
        }
    }
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").finish_non_exhaustive()
    }
}
