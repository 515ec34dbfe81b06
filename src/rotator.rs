//! Runs the rotations: watches where credentials come from, takes the steps that are due, asks DCAMS
//! with a probe, and writes every step down.
//!
//! `plan` takes what the configuration says, `sources` reads files and Vault, `memory` is what the store
//! knows. What is decided is decided in [`rotation`](crate::credential::rotation); what is in force is in a
//! [`Pool`]. Invariants: a source that cannot be read costs no value that is in use; every change of a
//! state leaves a line in the log and an audit event; what DCAMS said to a value is known again after a
//! restart. No value, and nothing made of one that could be turned back, leaves this module.

mod memory;
mod plan;
mod probe;
mod sources;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use jiff::Timestamp;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{memory::Note, plan::VaultLink};
pub use self::{
    plan::{Former, Plan, Unread},
    probe::{Probed, Question},
};
use crate::{
    audit::event::Deed,
    clock,
    credential::{
        Account, Credential,
        pool::{Change, Lease, Pool, Standing},
        rotation::{Login, State},
        source::SourceError,
    },
    ident::{AccountId, CredentialId, Pseudonym},
    redact::Redacted,
    store::Store,
    trail::Observers,
    upstream::client::UpstreamClient,
};

/// The credentials of every account, kept in rotation.
pub struct Rotator {
    store: Store,
    observers: Arc<Observers>,
    /// Nothing until the first snapshot is there.
    upstream: ArcSwapOption<UpstreamClient>,
    /// How often files are looked at; never with none.
    watch: watch::Sender<Option<Duration>>,
    vault: ArcSwapOption<VaultLink>,
    accounts: ArcSwap<BTreeMap<AccountId, Live>>,
    tasks: TaskTracker,
    work: Arc<Notify>,
    /// Told when every source is to be read at once.
    sources: watch::Sender<u64>,
    /// Accounts that are gone, and may have requests under way. Held for a few of them, and never
    /// across an await.
    leaving: Mutex<Vec<Arc<Pool>>>,
    /// Held where a value is compared with other accounts' and put in force, never across an await.
    exclusive: Mutex<()>,
    /// Why credentials' sources cannot be read, for as long as they cannot. Held for a look or an
    /// entry, never across an await.
    troubles: Mutex<HashMap<Name, &'static str>>,
}

/// An account that is in use.
#[derive(Clone)]
struct Live {
    settings: Arc<Account>,
    pool: Arc<Pool>,
}

/// What a credential is called in all accounts.
type Name = (AccountId, CredentialId);

/// How an account's credentials stand, for people.
#[derive(Debug)]
pub struct AccountStanding {
    /// The account.
    pub id: AccountId,
    /// Whether requests can be sent.
    pub usable: bool,
    /// The credentials, in the order in which they are preferred, retired ones behind.
    pub credentials: Vec<Standing>,
    /// The credentials whose source cannot be read, and why; their last good values are kept.
    pub troubles: Vec<(CredentialId, &'static str)>,
}

/// What there is to ask DCAMS about a credential with.
pub struct Testable {
    /// The client.
    pub upstream: Arc<UpstreamClient>,
    /// Whose status is asked for, where the account names somebody.
    pub probe: Option<Redacted<String>>,
    /// What is in the credential's source now.
    pub value: Result<Arc<Credential>, SourceError>,
}

impl Rotator {
    /// A rotator of no accounts.
    pub fn new(store: Store, observers: Arc<Observers>) -> Self {
        Self {
            store,
            observers,
            upstream: ArcSwapOption::empty(),
            watch: watch::Sender::new(None),
            vault: ArcSwapOption::empty(),
            accounts: ArcSwap::default(),
            tasks: TaskTracker::new(),
            work: Arc::default(),
            sources: watch::Sender::new(0),
            leaving: Mutex::default(),
            exclusive: Mutex::default(),
            troubles: Mutex::default(),
        }
    }

    /// Sends probes with this client from now on.
    pub fn set_upstream(&self, upstream: Arc<UpstreamClient>) {
        self.upstream.store(Some(upstream));
    }

    /// How everything stands.
    pub fn standings(&self) -> Vec<AccountStanding> {
        let accounts = self.accounts.load_full();
        let troubles = self.troubles();
        let of = |account: &AccountId| {
            let own = troubles.iter().filter(|((id, _), _)| id == account);
            own.map(|((_, id), reason)| (id.clone(), *reason)).collect()
        };
        let standing = |(id, live): (&AccountId, &Live)| AccountStanding {
            id: id.clone(),
            usable: live.pool.is_usable(),
            credentials: live.pool.standings(),
            troubles: of(id),
        };
        accounts.iter().map(standing).collect()
    }

    /// Ends a credential's rest after a refusal. Whether it rested; nothing where there is none.
    pub fn retry(&self, account: &AccountId, credential: &CredentialId) -> Option<bool> {
        let accounts = self.accounts.load();
        let live = accounts.get(account)?;
        let mut configured = live.settings.credentials.iter();
        configured.find(|c| c.id == *credential)?;
        // Perhaps what is to be tried stands there already, and is not known yet.
        self.sources.send_modify(|count| *count += 1);
        Some(live.pool.retry(credential, clock::now()))
    }

    /// What is in a credential's source now, whatever is in use, and with which DCAMS is asked about it.
    /// Nothing where there is no such credential.
    pub async fn source(&self, account: &AccountId, credential: &CredentialId) -> Option<Testable> {
        let live = self.accounts.load().get(account).cloned()?;
        let mut configured = live.settings.credentials.iter();
        let source = configured.find(|c| c.id == *credential)?.source.clone();
        Some(Testable {
            upstream: self.upstream.load_full()?,
            probe: live.settings.probe.clone(),
            value: self.read(source).await,
        })
    }

    /// Keeps everything in rotation until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut journal = Journal::default();
        let rounds = async {
            loop {
                let pause = self.round(&mut journal).await;
                tokio::select! {
                    () = self.work.notified() => {}
                    () = sleep(pause) => {}
                }
            }
        };
        // Beside each other: a disk or a server that does not answer holds no step up.
        let all = async { tokio::join!(rounds, self.watch_files(), self.watch_vault()) };
        stop.run_until_cancelled(all).await;
        self.write_down(&mut journal).await;
    }

    /// Takes the steps that are due and writes them down. Returns how long there is nothing to do.
    async fn round(self: &Arc<Self>, journal: &mut Journal) -> Duration {
        let now = clock::now();
        let accounts = self.accounts.load_full();
        let mut pauses = vec![LONGEST];
        for live in accounts.values() {
            let next = live.pool.keep_up(now).map(|time| time.duration_since(now));
            pauses.extend(next.and_then(|pause| Duration::try_from(pause).ok()));
        }
        // Before anybody is told: what was told is known after a crash.
        self.write_down(journal).await;
        for live in accounts.values() {
            self.receipts(&live.pool);
            if journal.complain(&live.pool) {
                // Perhaps somebody has put the right one there already.
                self.sources.send_modify(|count| *count += 1);
            }
            pauses.extend(self.probe(live, journal));
        }
        self.see_off(now);
        // Never none: a time that has come is one that was looked at a moment ago.
        pauses.into_iter().min().unwrap_or(LONGEST).max(MOMENT)
    }

    /// Follows the accounts that are gone, until their last request has ended.
    fn see_off(&self, now: Timestamp) {
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        leaving.retain(|pool| {
            pool.keep_up(now);
            self.receipts(pool);
            !pool.facts().is_empty()
        });
    }

    /// One line and one event for each change.
    fn receipts(&self, pool: &Pool) {
        let account = pool.account();
        for change in pool.take_changes() {
            log(account, &change);
            self.observers
                .metrics
                .credential_changed(account, change.to);
            drop(self.observers.record(Deed::CredentialChanged {
                account: account.as_str(),
                credential: change.id.as_str(),
                generation: change.generation,
                from: change.from.map(State::as_str),
                to: change.to.as_str(),
                reason: change.reason.as_str(),
            }));
        }
    }

    /// Probes what waits for it, each value no sooner than `retry_after` after the last time. Returns
    /// how long until the next is due.
    fn probe(self: &Arc<Self>, live: &Live, journal: &mut Journal) -> Option<Duration> {
        let email = live.settings.probe.as_ref()?;
        let now = clock::instant();
        let mut next = None;
        for (id, generation) in live.pool.probing() {
            let key = ((live.settings.id.clone(), id.clone()), generation);
            let due = journal
                .probed
                .get(&key)
                .map(|last| *last + live.settings.pace.retry_after);
            if let Some(due) = due.filter(|due| now < *due) {
                next = next.into_iter().chain([due - now]).min();
                continue;
            }
            let Some(lease) = live.pool.lease_to_probe(&id, generation) else {
                continue;
            };
            journal.probed.insert(key, now);
            let (rotator, email) = (Arc::clone(self), email.clone());
            let account = live.settings.id.clone();
            let probing = async move { rotator.send_probe(&account, lease, &email).await };
            drop(self.tasks.spawn(probing));
        }
        next
    }

    async fn send_probe(&self, account: &AccountId, lease: Lease, email: &Redacted<String>) {
        let Some(upstream) = self.upstream.load_full() else {
            return;
        };
        let question = Question {
            audit: &self.observers.audit,
            account,
            id: lease.id(),
            email,
        };
        let said = match question.ask(&upstream, lease.credential()).await {
            Probed::Accepted => Some(Login::Accepted),
            Probed::Refused => Some(Login::Refused),
            Probed::Nothing(reason) => {
                tracing::warn!(
                    credential.id = %lease.id(), reason,
                    "a probe says nothing of the credential; it is repeated"
                );
                None
            }
        };
        lease.end(said, clock::now());
        self.work.notify_one();
    }
}

fn log(account: &AccountId, change: &Change) {
    let from = change.from.map(State::as_str);
    let (to, reason) = (change.to.as_str(), change.reason.as_str());
    if change.to == State::Rejected {
        tracing::error!(
            account.id = %account, credential.id = %change.id, change.generation, from, to, reason,
            "DCAMS refuses the credential: check user and pass with the vendor (docs/OPERATIONS.md)"
        );
        return;
    }
    tracing::info!(
        account.id = %account, credential.id = %change.id, change.generation, from, to, reason,
        "a credential changes its state"
    );
}

/// What the one task that runs the rotations remembers.
#[derive(Default)]
struct Journal {
    /// What the store holds, by name and generation.
    stored: HashMap<(Name, u64), (Pseudonym, Note)>,
    /// When values were probed last.
    probed: HashMap<(Name, u64), Instant>,
    /// The accounts that cannot be used, of which somebody was told.
    unusable: HashSet<AccountId>,
}

impl Journal {
    /// Tells a person when an account has no credential left, once. Whether it did.
    fn complain(&mut self, pool: &Pool) -> bool {
        let account = pool.account();
        if pool.is_usable() {
            if self.unusable.remove(account) {
                tracing::info!(account.id = %account, "the account can be used again");
            }
            return false;
        }
        let new = self.unusable.insert(account.clone());
        if new {
            tracing::error!(
                account.id = %account,
                "no credential of the account may be used: its requests are answered 502 \
                 upstream_credentials_rejected (docs/OPERATIONS.md)"
            );
        }
        new
    }
}

/// The longest sleep: a clock that was set is noticed then. And the shortest.
const LONGEST: Duration = Duration::from_mins(1);
const MOMENT: Duration = Duration::from_millis(10);
