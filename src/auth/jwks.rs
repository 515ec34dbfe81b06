//! The keys that an issuer publishes at a URL, kept fresh while the gateway runs.
//!
//! Invariants: reading them never waits; one task fetches, and only when `schedule` says so, so no
//! token can make the gateway hammer an issuer; a fetch that fails in any way changes no key; and keys
//! that were not confirmed for `max_stale` are gone, which refuses every token of the issuer.
//!
//! `schedule` and `freshness` decide when, `fetch` talks to the issuer's server, and which keys of a
//! set count is decided in [`keys`](super::keys).

mod fetch;
mod freshness;
mod schedule;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use aws_lc_rs::rand;
use jsonwebtoken::Algorithm;
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use tokio::{
    sync::{Notify, watch},
    time::{sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

pub use self::schedule::Rhythm;
use self::{
    fetch::{FetchError, Fetched, Fetcher, Location},
    schedule::{Cause, Dice, Round, Schedule, Step},
};
use super::keys::KeySet;
use crate::{
    clock,
    endpoint::{Endpoint, EndpointError},
    ident::IssuerId,
    tls::{NoClient, UnusableRoot},
};

/// Where an issuer's keys come from.
#[derive(Debug)]
pub enum KeySource {
    /// From the configuration; they change with it.
    Fixed(KeySet),
    /// From the issuer, who may change them at any time.
    Remote(Arc<RemoteKeys>),
}

impl KeySource {
    /// What counts at this moment. Never waits.
    pub(super) fn current(&self) -> Current<'_> {
        match self {
            Self::Fixed(keys) => Current::Fixed(keys),
            Self::Remote(remote) => Current::Remote(remote.current()),
        }
    }

    /// The keys that are fetched, where they are.
    pub fn remote(&self) -> Option<&Arc<RemoteKeys>> {
        match self {
            Self::Fixed(_) => None,
            Self::Remote(remote) => Some(remote),
        }
    }

    /// Goes on with `older`, where that fetches the same keys in the same way: what was fetched is
    /// kept, and nothing is asked for anew. Where only the way is another one, the keys are kept
    /// until the first fetch.
    pub fn continue_with(&mut self, older: &Arc<RemoteKeys>) {
        let Self::Remote(new) = self else { return };
        let (was, is) = (&older.settings, &new.settings);
        if new.issuer != older.issuer {
            return;
        }
        if was == is {
            *new = Arc::clone(older);
        } else if was.source == is.source && was.algorithms == is.algorithms {
            new.known.store(older.current());
            let confirmed = older.schedule().confirmed();
            new.schedule().confirm(confirmed);
        }
    }

    /// The names of the keys, where those are fixed; one without a name is left out.
    pub fn fixed_kids(&self) -> Option<Vec<String>> {
        match self {
            Self::Fixed(keys) => Some(keys.kids().map(str::to_owned).collect()),
            Self::Remote(_) => None,
        }
    }

    /// Whether a key for this algorithm may be there, or may come.
    pub(super) fn may_serve(&self, algorithm: Algorithm) -> bool {
        match self {
            Self::Fixed(keys) => keys.serves(algorithm),
            Self::Remote(remote) => remote.settings.algorithms.contains(&algorithm),
        }
    }
}

/// An issuer's keys at one moment.
pub(super) enum Current<'a> {
    Fixed(&'a KeySet),
    Remote(Arc<KnownKeys>),
}

impl Current<'_> {
    /// None where they could not be fetched, or not for too long.
    pub(super) fn keys(&self) -> Option<&KeySet> {
        match self {
            Self::Fixed(keys) => Some(keys),
            Self::Remote(known) => known.keys(),
        }
    }

    /// Another number than before only where tokens may be judged otherwise than before.
    pub(super) fn generation(&self) -> u64 {
        match self {
            Self::Fixed(_) => 0,
            Self::Remote(known) => known.generation(),
        }
    }
}

/// How an issuer's published keys are fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwksSettings {
    /// Where they are.
    pub source: JwksSource,
    /// What the issuer signs with; all public-key algorithms.
    pub algorithms: Vec<Algorithm>,
    /// How long one fetch may take, from connecting to the last byte, discovery included.
    pub timeout: Duration,
    /// How often there is one.
    pub rhythm: Rhythm,
    /// Roots that are trusted besides the system's.
    pub roots: Vec<CertificateDer<'static>>,
}

/// Where a key set is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwksSource {
    /// Where the issuer's discovery document says (`OpenID` Connect Discovery 1.0).
    Discovery {
        /// The `iss` of its tokens; the document must name the same.
        issuer: String,
        /// Where the document is.
        document: Endpoint,
    },
    /// At this URL.
    Url(Endpoint),
}

impl JwksSource {
    /// The source that an issuer's name, which is a URL then, leads to.
    pub fn discovery(issuer: &str) -> Result<Self, EndpointError> {
        let base = issuer.strip_suffix('/').unwrap_or(issuer);
        // Of the name itself, so that nothing of what is appended can mend it.
        if Endpoint::parse(base)?.has_query() {
            return Err(EndpointError::Query);
        }
        let document = format!("{base}/.well-known/openid-configuration");
        Ok(Self::Discovery {
            issuer: issuer.to_owned(),
            document: Endpoint::parse(&document)?,
        })
    }

    const fn endpoint(&self) -> &Endpoint {
        match self {
            Self::Discovery { document, .. } => document,
            Self::Url(endpoint) => endpoint,
        }
    }
}

/// One issuer's published keys.
pub struct RemoteKeys {
    issuer: IssuerId,
    settings: JwksSettings,
    fetcher: Fetcher,
    known: ArcSwap<KnownKeys>,
    /// A lock, because requests and the task decide on one state. It is held for a few comparisons,
    /// by requests that met an unknown key only, and never across an await.
    schedule: Mutex<Schedule>,
    asked: Notify,
    ended: watch::Sender<Round>,
}

impl RemoteKeys {
    /// Prepares to fetch; nothing is sent until [`keep_fresh`](Self::keep_fresh) runs.
    pub fn new(issuer: IssuerId, settings: JwksSettings) -> Result<Self, SetupError> {
        Ok(Self {
            issuer,
            known: ArcSwap::from_pointee(KnownKeys {
                generation: 0,
                keys: None,
            }),
            schedule: Mutex::new(Schedule::new(settings.rhythm, clock::instant())),
            asked: Notify::new(),
            ended: watch::Sender::new(Round::NONE),
            fetcher: Fetcher::new(settings.clone())?,
            settings,
        })
    }

    /// Whose they are.
    pub const fn issuer(&self) -> &IssuerId {
        &self.issuer
    }

    /// How they are fetched.
    pub const fn settings(&self) -> &JwksSettings {
        &self.settings
    }

    /// What is known at this moment. Never waits.
    pub fn current(&self) -> Arc<KnownKeys> {
        self.known.load_full()
    }

    /// A token named this key, and it is not among the current ones. Waits for the fetch that may
    /// bring it, if there may be one now; all who wait at a time wait for the same. Look again then.
    pub async fn look_for(&self, kid: Option<&str>) {
        let round = self.schedule().ask(kid, clock::instant());
        let Some(round) = round else {
            return;
        };
        self.asked.notify_one();
        let mut ended = self.ended.subscribe();
        // The fetch has this timeout itself, and may have been under way for some of it.
        let ended = timeout(
            self.settings.timeout,
            ended.wait_for(|ended| *ended >= round),
        );
        ended.await.ok();
    }

    /// Fetches at once, and then whenever it is time, until `stop`. One task runs this.
    pub async fn keep_fresh(self: Arc<Self>, stop: CancellationToken) {
        let mut location = None;
        loop {
            // By itself: the lock must be gone before anything is awaited.
            let step = self.schedule().next(clock::instant());
            match step {
                Step::Fetch(cause) => tokio::select! {
                    () = stop.cancelled() => break,
                    () = self.fetch(cause, &mut location) => {}
                },
                Step::Wait(until) => tokio::select! {
                    () = stop.cancelled() => break,
                    () = sleep_until(until) => {}
                    () = self.asked.notified() => {}
                },
                Step::Withdraw => self.withdraw(),
            }
        }
        self.schedule().stop();
        self.ended.send_replace(Round::LAST);
    }

    /// How the fetching goes, for probes and metrics.
    pub fn status(&self) -> KeysStatus {
        let known = self.known.load();
        let schedule = self.schedule();
        KeysStatus {
            generation: known.generation,
            keys: known.keys.as_ref().map_or(0, KeySet::len),
            usable: known.keys.is_some(),
            age: schedule.age(clock::instant()),
            fetches: schedule.fetches(),
            failures: schedule.failures(),
            last_failure: schedule.last_failure(),
        }
    }

    async fn fetch(&self, cause: Cause, location: &mut Option<Location>) {
        let result = self.fetcher.fetch(cause, location, clock::instant()).await;
        let ended = match result {
            Ok(fetched) => self.accept(fetched),
            Err(error) => self.bear(&error),
        };
        // After the keys were published, so that who wakes finds them.
        self.ended.send_replace(ended);
    }

    fn accept(&self, Fetched { keys, lifetime }: Fetched) -> Round {
        let known = self.known.load();
        let same = known.keys.as_ref().is_some_and(|old| old.is_same_as(&keys));
        if !same {
            let number = keys.len();
            let generation = self.publish(Some(keys));
            tracing::info!(
                issuer.id = %self.issuer,
                keys = number,
                generation,
                "the issuer's keys are new"
            );
        }
        let (ended, failed) = self.schedule().succeed(lifetime, clock::instant(), dice());
        if failed > 0 {
            tracing::info!(issuer.id = %self.issuer, failed, "the issuer's keys are fetched again");
        }
        ended
    }

    fn bear(&self, error: &FetchError) -> Round {
        let reason = error.reason();
        let (ended, failures) = self.schedule().fail(reason, clock::instant(), dice());
        if failures == 1 {
            let none = self.known.load().keys.is_none();
            tracing::warn!(
                issuer.id = %self.issuer,
                reason,
                consequence = if none { "its tokens are refused" } else { "the last keys are kept" },
                "fetching the issuer's keys failed; it is repeated"
            );
        } else {
            tracing::debug!(issuer.id = %self.issuer, reason, failures, "fetching failed again");
        }
        ended
    }

    fn withdraw(&self) {
        let generation = self.publish(None);
        tracing::error!(
            issuer.id = %self.issuer,
            generation,
            "the issuer's keys were not confirmed for `max_stale` and are withdrawn: all its tokens \
             are refused until its key server answers"
        );
    }

    /// Only the one task publishes, so no generation is given twice.
    fn publish(&self, keys: Option<KeySet>) -> u64 {
        let generation = self.known.load().generation.saturating_add(1);
        self.known.store(Arc::new(KnownKeys { generation, keys }));
        generation
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for RemoteKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteKeys")
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}

/// Only evens out when gateways call, so a source of chance that fails does no harm.
fn dice() -> Dice {
    let mut bytes = [0; 2];
    rand::fill(&mut bytes).ok();
    Dice(u16::from_le_bytes(bytes))
}

/// What is known of an issuer's keys at one moment.
#[derive(Debug)]
pub struct KnownKeys {
    generation: u64,
    keys: Option<KeySet>,
}

impl KnownKeys {
    /// Another number than before only where tokens may be judged otherwise than before.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// The keys: none before the first fetch succeeded, and none once they are too old.
    pub const fn keys(&self) -> Option<&KeySet> {
        self.keys.as_ref()
    }
}

/// How the fetching of one issuer's keys goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeysStatus {
    /// How many times the keys have changed.
    pub generation: u64,
    /// How many keys there are, one that serves several algorithms counted for each.
    pub keys: usize,
    /// Whether tokens can be verified.
    pub usable: bool,
    /// The time since the keys were confirmed; none where there are none.
    pub age: Option<Duration>,
    /// Fetches that have ended.
    pub fetches: u64,
    /// Those of them that failed.
    pub failures: u64,
    /// Why the last fetch failed, in a word of a closed set; none where it succeeded.
    pub last_failure: Option<&'static str>,
}

/// Why keys cannot be fetched at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SetupError {
    /// The client was not built.
    #[error("the client that fetches keys cannot be built")]
    Client,
    /// A root is not usable.
    #[error(transparent)]
    Root(#[from] UnusableRoot),
}

impl From<NoClient> for SetupError {
    fn from(error: NoClient) -> Self {
        match error {
            NoClient::Build => Self::Client,
            NoClient::Root(root) => Self::Root(root),
        }
    }
}
