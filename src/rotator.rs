//! Runs the rotations: watches where credentials come from, takes the steps that are due, asks DCAMS
//! with a probe, and writes every step down.
//!
//! What is decided is decided in [`rotation`](crate::credential::rotation); what is in force is in a
//! [`Pool`]. Invariants: a source that cannot be read costs no value that is in use; every change of a
//! state leaves a line in the log and an audit event; what DCAMS said to a value is known again after a
//! restart. No value, and nothing made of one that could be turned back, leaves this module.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::future::join_all;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    audit::Deed,
    clock,
    credential::{
        Account, Credential, CredentialSettings,
        pool::{Change, Facts, Known, Lease, Offer, Pool, Slot, Standing},
        rotation::{Login, State},
        source::{Source, SourceError},
        vault::{Vault, VaultSettings, VaultSetupError},
    },
    ident::{AccountId, CredentialId, Pseudonym},
    operation::Operation,
    redact::Redacted,
    store::{self, Store, StoreError, Table},
    tenant::Disclosure,
    trail::Observers,
    upstream::{
        client::{SendError, UpstreamClient},
        seal::seal_probe,
        verdict::{interpret, said_of_login},
    },
    watch::{Look, Settled},
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

/// Vault, and the task that keeps its token, which ends with this.
struct VaultLink {
    vault: Arc<Vault>,
    settings: VaultSettings,
    stop: CancellationToken,
    _stop: DropGuard,
}

/// Accounts, each with the pool that its requests are sent from.
pub struct Plan {
    accounts: Vec<Account>,
    pools: Vec<Arc<Pool>>,
    vault: Option<Arc<VaultLink>>,
}

/// A credential that cannot be used as it is planned.
#[derive(Debug, Clone, Error)]
#[error("accounts[{account}].credentials[{credential}]: {why}")]
pub struct Unread {
    /// Its account.
    pub account: AccountId,
    /// Its id.
    pub credential: CredentialId,
    /// Why; nothing of a secret.
    pub why: String,
}

impl Plan {
    /// The values whose user another account has, as planned or at the moment.
    fn conflicts(&self) -> Vec<Unread> {
        let values = self.accounts.iter().flat_map(|account| {
            let own = account.credentials.iter();
            own.filter_map(|c| Some((&account.id, &c.id, c.value.as_ref()?)))
        });
        let values: Vec<_> = values.collect();
        let is_anothers = |account: &AccountId, value: &Credential| {
            let mut planned = values.iter().filter(|(other, ..)| *other != account);
            let mut live = self.pools.iter().filter(|pool| pool.account() != account);
            planned.any(|(_, _, other)| other.has_user_of(value))
                || live.any(|pool| pool.has_user_of(value))
        };
        let conflicts = values
            .iter()
            .filter(|(of, _, value)| is_anothers(of, value));
        conflicts
            .map(|(account, credential, _)| Unread {
                account: AccountId::clone(account),
                credential: CredentialId::clone(credential),
                why: ANOTHERS_TEXT.to_owned(),
            })
            .collect()
    }

    fn put(&mut self, account: &AccountId, id: &CredentialId, value: Arc<Credential>) {
        let accounts = self
            .accounts
            .iter_mut()
            .filter(|known| known.id == *account);
        let mut credentials = accounts.flat_map(|known| &mut known.credentials);
        if let Some(credential) = credentials.find(|c| c.id == *id) {
            credential.value = Some(value);
        }
    }

    /// An account and its pool.
    pub fn of(&self, account: &AccountId) -> Option<(&Account, &Arc<Pool>)> {
        let mut pairs = self.accounts.iter().zip(&self.pools);
        pairs.find(|(known, _)| known.id == *account)
    }
}

/// Accounts that are not configured any more, until nothing refers to them.
#[must_use = "their credentials stay in use until they leave"]
pub struct Former(Vec<Arc<Pool>>);

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

/// What came of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probed {
    /// DCAMS knew user and password.
    Accepted,
    /// It gave no answer that says anything of them; why, in a word.
    Nothing(&'static str),
    /// It refused them.
    Refused,
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

    /// Finds each account its pool, and Vault its client. Nothing is changed.
    ///
    /// # Errors
    /// Where Vault's client cannot be made.
    pub fn plan(
        &self,
        accounts: Vec<Account>,
        vault: Option<VaultSettings>,
    ) -> Result<Plan, VaultSetupError> {
        let known_vault = self.vault.load_full();
        let link = |settings: VaultSettings| match known_vault.filter(|v| v.settings == settings) {
            Some(link) => Ok(link),
            None => VaultLink::new(settings).map(Arc::new),
        };
        let known = self.accounts.load();
        let pool = |account: &Account| match known.get(&account.id) {
            Some(live) => Arc::clone(&live.pool),
            None => Pool::new(account.id.clone(), Arc::clone(&self.work)),
        };
        Ok(Plan {
            pools: accounts.iter().map(pool).collect(),
            accounts,
            vault: vault.map(link).transpose()?,
        })
    }

    /// Reads what is new in Vault, and sees to it that no two accounts have one user.
    ///
    /// # Errors
    /// The credentials that would be without a value, or with another account's.
    pub async fn complete(&self, plan: &mut Plan) -> Result<(), Vec<Unread>> {
        let mut unread = Vec::new();
        for ((account, credential), read) in self.read_new_of_vault(plan).await {
            match read {
                Ok(value) => plan.put(&account, &credential, value),
                Err(error) => unread.push(Unread {
                    account,
                    credential,
                    why: format!("there is no value to begin with: {error}"),
                }),
            }
        }
        unread.extend(plan.conflicts());
        if unread.is_empty() {
            return Ok(());
        }
        Err(unread)
    }

    async fn read_new_of_vault(
        &self,
        plan: &Plan,
    ) -> Vec<(Name, Result<Arc<Credential>, SourceError>)> {
        let Some(link) = &plan.vault else {
            return Vec::new();
        };
        let in_vault = |account: &AccountId, c: &CredentialSettings| match &c.source {
            Source::Vault(path) if !self.goes_on(account, c, Some(link)) => {
                Some(((account.clone(), c.id.clone()), path.clone()))
            }
            Source::Local { .. } | Source::Vault(_) => None,
        };
        let wanted = plan.accounts.iter().flat_map(|account| {
            let own = account.credentials.iter();
            own.filter_map(|credential| in_vault(&account.id, credential))
        });
        let reads = wanted.map(|(name, path)| {
            let vault = Arc::clone(&link.vault);
            async move { (name, Source::read_vault(&path, &vault).await) }
        });
        join_all(reads).await
    }

    /// Puts what was planned in force, and takes up the rotations that the state store knows of.
    /// Accounts that are not configured any more are given back: they [leave](Self::dismiss) when
    /// nobody sends with them.
    pub async fn configure(&self, plan: Plan, watch: Option<Duration>) -> Former {
        let known = self.accounts.load_full();
        let mut ready = Vec::with_capacity(plan.accounts.len());
        for (mut account, pool) in plan.accounts.into_iter().zip(plan.pools) {
            let mut slots = Vec::with_capacity(account.credentials.len());
            for credential in &mut account.credentials {
                // Taken, so that nothing but the pool keeps a value alive. Where its place is the one
                // of before it is read again there, by the one task that reads: what was read
                // with the configuration may be older than what that has taken since.
                let goes_on = self.goes_on(&account.id, credential, plan.vault.as_ref());
                let offer = match credential.value.take().filter(|_| !goes_on) {
                    Some(value) => Some(self.recall(&pool, &credential.id, value).await),
                    None => None,
                };
                slots.push(Slot {
                    id: credential.id.clone(),
                    validity: credential.validity,
                    offer,
                });
            }
            ready.push((account, pool, slots));
        }
        let _alone = self.exclusive();
        let mut live = BTreeMap::new();
        for (account, pool, mut slots) in ready {
            let others = || {
                known
                    .values()
                    .filter(|other| other.settings.id != account.id)
            };
            for slot in &mut slots {
                // It was not so when the plan was looked at.
                let conflict = slot.offer.as_ref().is_some_and(|offer| {
                    others().any(|other| other.pool.has_user_of(&offer.credential))
                });
                if conflict {
                    slot.offer = None;
                    self.trouble(&(account.id.clone(), slot.id.clone()), ANOTHERS);
                }
            }
            pool.configure(account.pace, slots, clock::now());
            let settings = Arc::new(account);
            live.insert(settings.id.clone(), Live { settings, pool });
        }
        let former = known.iter().filter(|(id, _)| !live.contains_key(*id));
        let former = former.map(|(_, live)| Arc::clone(&live.pool)).collect();
        let configured = |(account, id): &Name| {
            let account = live.get(account);
            account.is_some_and(|a| a.settings.credentials.iter().any(|c| c.id == *id))
        };
        self.troubles().retain(|name, _| configured(name));
        self.accounts.store(Arc::new(live));
        let before = self.vault.swap(plan.vault.clone());
        if let Some(link) = plan.vault
            && before.is_none_or(|before| !Arc::ptr_eq(&before, &link))
        {
            let vault = Arc::clone(&link.vault);
            self.tasks.spawn(vault.keep_token(link.stop.clone()));
        }
        self.watch.send_replace(watch);
        // A reload reads everything once more, and at once.
        self.sources.send_modify(|count| *count += 1);
        self.work.notify_one();
        Former(former)
    }

    /// Whether a credential has a value already, from the place where the configuration has it now.
    fn goes_on(
        &self,
        account: &AccountId,
        credential: &CredentialSettings,
        vault: Option<&Arc<VaultLink>>,
    ) -> bool {
        let same_vault = match (&*self.vault.load(), vault) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            (None, Some(_)) | (Some(_), None) => false,
        };
        if matches!(credential.source, Source::Vault(_)) && !same_vault {
            return false;
        }
        let accounts = self.accounts.load();
        let Some(live) = accounts.get(account) else {
            return false;
        };
        let mut known = live.settings.credentials.iter();
        let known = known.find(|known| known.id == credential.id);
        known.is_some_and(|known| known.source.is_same_place(&credential.source))
            && live.pool.has(&credential.id)
    }

    /// Lets accounts go that nothing refers to any more.
    pub fn dismiss(&self, former: Former) {
        for pool in former.0 {
            pool.dismiss(clock::now());
            let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
            leaving.push(pool);
        }
        self.work.notify_one();
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

    async fn watch_files(&self) {
        let mut files = Files::default();
        let mut asked = self.sources.subscribe();
        loop {
            let every = *self.watch.borrow();
            tokio::select! {
                () = pause(every) => {}
                _ = asked.changed() => files = Files::default(),
            }
            self.look(&mut files).await;
        }
    }

    async fn watch_vault(&self) {
        let mut asked = self.sources.subscribe();
        loop {
            let refresh = self.vault.load_full().map(|link| link.vault.refresh());
            // What could not be read is not left for an hour.
            let every = refresh.map(|refresh| {
                if self.troubles().is_empty() {
                    refresh
                } else {
                    refresh.min(AGAIN)
                }
            });
            tokio::select! {
                () = pause(every) => {}
                _ = asked.changed() => {}
            }
            self.read_vault().await;
        }
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
            self.observers.record(Deed::CredentialChanged {
                account: account.as_str(),
                credential: change.id.as_str(),
                generation: change.generation,
                from: change.from.map(State::as_str),
                to: change.to.as_str(),
                reason: change.reason.as_str(),
            });
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
            let probing = async move { rotator.send_probe(lease, &email).await };
            drop(self.tasks.spawn(probing));
        }
        next
    }

    async fn send_probe(&self, lease: Lease, email: &Redacted<String>) {
        let Some(upstream) = self.upstream.load_full() else {
            return;
        };
        let probed = ask(&upstream, lease.credential(), email).await;
        let said = match probed {
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

    /// A value with what the store knows of it, where the pool does not know it yet. Where the store
    /// says nothing, DCAMS will.
    async fn recall(&self, pool: &Pool, id: &CredentialId, credential: Arc<Credential>) -> Offer {
        let mut facts = None;
        if !pool.holds(id, &credential) {
            let key = credential.identity(&self.observers.pseudonyms, pool.account(), id);
            match self.store.get(Table::Credentials, &key).await {
                Ok(stored) => facts = stored.and_then(|note| Note::decode(&note)),
                Err(error) => tracing::warn!(
                    account.id = %pool.account(), credential.id = %id, %error,
                    "what is known of a credential was not read; it begins anew"
                ),
            }
        }
        Offer { credential, facts }
    }

    /// Forgets what the store says of values that are not there any more.
    pub async fn tidy(&self) {
        if let Err(error) = self.forget_others().await {
            tracing::warn!(%error, "what was known of former credentials was not removed");
        }
    }

    async fn forget_others(&self) -> Result<(), StoreError> {
        let accounts = self.accounts.load_full();
        let known: HashSet<Pseudonym> = accounts
            .values()
            .flat_map(|live| live.pool.facts())
            .map(|known| self.identity(&known))
            .collect();
        let stored = self.store.scan(Table::Credentials).await?;
        let gone = stored.into_iter().map(|(key, _)| key);
        let gone: Vec<Pseudonym> = gone.filter(|key| !known.contains(key)).collect();
        let remove = |_: usize, _: Option<&[u8]>| store::Change::Remove;
        if !gone.is_empty() {
            self.store.update(Table::Credentials, gone, remove).await?;
        }
        Ok(())
    }

    fn identity(&self, known: &Known) -> Pseudonym {
        let key = &self.observers.pseudonyms;
        known.credential.identity(key, &known.account, &known.id)
    }

    /// Brings the store in step with the pools. Where it fails, it is done again with the next change:
    /// all that is lost by a crash until then is what DCAMS will say again.
    async fn write_down(&self, journal: &mut Journal) {
        let accounts = self.accounts.load_full();
        let known = accounts.values().flat_map(|live| live.pool.facts());
        let mut left = std::mem::take(&mut journal.stored);
        let (mut keys, mut changes) = (Vec::new(), Vec::new());
        for known in known {
            let note = Note::of(&known.facts);
            let stored = left.remove(&known.name());
            let key = match &stored {
                Some((key, _)) => *key,
                None => self.identity(&known),
            };
            if !stored.is_some_and(|(_, stored)| stored.is_as_good_as(&note)) {
                keys.push(key);
                changes.push(store::Change::Put(note.encode()));
            }
            journal.stored.insert(known.name(), (key, note));
        }
        let stored = &journal.stored;
        journal.probed.retain(|name, _| stored.contains_key(name));
        for (key, _) in left.into_values() {
            // A value that went and came back has the same key under another name.
            if !journal.stored.values().any(|(kept, _)| *kept == key) {
                keys.push(key);
                changes.push(store::Change::Remove);
            }
        }
        if keys.is_empty() {
            return;
        }
        let change = move |index: usize, _: Option<&[u8]>| {
            changes.get(index).cloned().unwrap_or(store::Change::Keep)
        };
        if let Err(error) = self.store.update(Table::Credentials, keys, change).await {
            journal.stored.clear();
            tracing::warn!(%error, "what is known of credentials was not written down");
        }
    }

    /// Reads the sources again whose files have changed, or could not be read the last time.
    async fn look(&self, files: &mut Files) {
        let accounts = self.accounts.load_full();
        let sources = accounts.values().flat_map(|live| {
            let own = live.settings.credentials.iter();
            own.map(|c| ((live.settings.id.clone(), c.id.clone()), c.source.clone()))
        });
        let sources: Vec<(Name, Source)> = sources.collect();
        let looked = self.tasks.spawn_blocking(move || {
            let look = |(name, source): (Name, Source)| {
                let files = source.files();
                (!files.is_empty()).then(|| (name, Look::at(&files), source))
            };
            sources.into_iter().filter_map(look).collect::<Vec<_>>()
        });
        let Ok(looked) = looked.await else { return };
        let mut watched = std::mem::take(&mut files.0);
        for (name, look, source) in looked {
            let known = watched.remove(&name);
            // One that is new was read before it was looked at for the first time.
            let fresh = known.is_none();
            let mut settled = known.unwrap_or_else(|| Settled::new(look.clone()));
            let moved = settled.observe(look);
            if moved || fresh || self.troubles().contains_key(&name) {
                self.read_again(&name, source).await;
            }
            files.0.insert(name, settled);
        }
    }

    async fn read_again(&self, name: &Name, source: Source) {
        let from = source.clone();
        let read = self.tasks.spawn_blocking(move || from.read_local()).await;
        let Ok(read) = read else { return };
        self.judge(name, &source, read).await;
    }

    /// Reads everything that is in Vault once more.
    async fn read_vault(&self) {
        let Some(link) = self.vault.load_full() else {
            return;
        };
        for live in self.accounts.load_full().values() {
            for credential in &live.settings.credentials {
                if let Source::Vault(path) = &credential.source {
                    let read = Source::read_vault(path, &link.vault).await;
                    let same = self.vault.load_full();
                    if same.is_none_or(|now| !Arc::ptr_eq(&now, &link)) {
                        return;
                    }
                    let name = (live.settings.id.clone(), credential.id.clone());
                    self.judge(&name, &credential.source, read).await;
                }
            }
        }
    }

    /// Takes what was read, or says why it cannot be.
    async fn judge(
        &self,
        name: &Name,
        source: &Source,
        read: Result<Arc<Credential>, SourceError>,
    ) {
        let taken = match read {
            Ok(credential) => self.take(name, source, credential).await,
            Err(error) if self.is_configured(name, source) => Err(error.reason()),
            Err(_) => return,
        };
        match taken {
            Ok(()) => self.relieve(name),
            Err(reason) => self.trouble(name, reason),
        }
    }

    /// Whether a credential is to be read there: a reload may have moved it while that was done.
    fn is_configured(&self, (account, id): &Name, source: &Source) -> bool {
        let accounts = self.accounts.load();
        let known = accounts.get(account).and_then(|live| {
            let mut credentials = live.settings.credentials.iter();
            credentials.find(|credential| credential.id == *id)
        });
        known.is_some_and(|known| known.source.is_same_place(source))
    }

    /// Hands a value to its pool.
    async fn take(
        &self,
        name: &Name,
        source: &Source,
        credential: Arc<Credential>,
    ) -> Result<(), &'static str> {
        let (account, id) = name;
        let pool = self
            .accounts
            .load()
            .get(account)
            .map(|l| Arc::clone(&l.pool));
        let Some(pool) = pool else { return Ok(()) };
        if pool.holds(id, &credential) {
            return Ok(());
        }
        let offer = self.recall(&pool, id, credential).await;
        let _alone = self.exclusive();
        if !self.is_configured(name, source) {
            return Ok(());
        }
        let accounts = self.accounts.load();
        let mut others = accounts
            .values()
            .filter(|live| live.settings.id != *account);
        // Their tenants would reach each other's customers.
        if others.any(|other| other.pool.has_user_of(&offer.credential)) {
            return Err(ANOTHERS);
        }
        pool.offer(id, &offer, clock::now());
        Ok(())
    }

    fn exclusive(&self) -> MutexGuard<'_, ()> {
        self.exclusive
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self, name: &Name, reason: &'static str) {
        if self.troubles().insert(name.clone(), reason) == Some(reason) {
            return;
        }
        let (account, id) = name;
        self.observers.metrics.credential_unread(account, id);
        tracing::warn!(
            account.id = %account, credential.id = %id, reason,
            "the credential's source cannot be read; its last good value is kept"
        );
    }

    fn relieve(&self, name: &Name) {
        if self.troubles().remove(name).is_some() {
            tracing::info!(
                account.id = %name.0, credential.id = %name.1,
                "the credential's source can be read again"
            );
        }
    }

    fn troubles(&self) -> MutexGuard<'_, HashMap<Name, &'static str>> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks DCAMS a harmless question with this credential: the status of that customer, who need not
/// exist.
pub async fn ask(
    upstream: &UpstreamClient,
    credential: &Credential,
    email: &Redacted<String>,
) -> Probed {
    let question = seal_probe(email.reveal());
    let reply = match upstream.send(&question, credential).await {
        Ok(reply) => reply,
        Err(error) => return Probed::Nothing(SendError::reason(error)),
    };
    let (operation, disclosure) = (Operation::GetStatus, Disclosure::Minimal);
    let judged = interpret(&reply, operation, disclosure, credential.echo());
    match (said_of_login(judged.as_ref()), judged) {
        (Some(Login::Accepted), _) => Probed::Accepted,
        (Some(Login::Refused), _) => Probed::Refused,
        (None, Err(refusal)) => Probed::Nothing(refusal.reason()),
        (None, Ok(_)) => Probed::Nothing("nothing"),
    }
}

async fn pause(time: Option<Duration>) {
    match time {
        Some(time) => sleep(time).await,
        None => pending().await,
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

/// The files of each credential, as they were looked at last.
#[derive(Default)]
struct Files(HashMap<Name, Settled>);

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

impl VaultLink {
    fn new(settings: VaultSettings) -> Result<Self, VaultSetupError> {
        let stop = CancellationToken::new();
        Ok(Self {
            vault: Arc::new(Vault::new(settings.clone())?),
            settings,
            _stop: stop.clone().drop_guard(),
            stop,
        })
    }
}

/// Their tenants would reach each other's customers.
const ANOTHERS: &str = "user_of_another_account";
const ANOTHERS_TEXT: &str = "its user is that of another account: give each one of its own";

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

impl Note {
    fn of(facts: &Facts) -> Self {
        Self {
            state: facts.state.as_str().to_owned(),
            since: facts.since,
            accepted: facts.accepted,
            refused: facts.refused,
            refusals: facts.refusals,
            proven: facts.proven,
        }
    }

    /// Whether they differ in nothing but when the value was last accepted, which it is all the time.
    fn is_as_good_as(&self, newer: &Self) -> bool {
        let since = Self {
            accepted: newer.accepted,
            ..self.clone()
        };
        since == *newer
    }

    fn encode(&self) -> Vec<u8> {
        // Words, numbers and times: there is nothing to fail on.
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn decode(text: &[u8]) -> Option<Facts> {
        let note: Self = serde_json::from_slice(text).ok()?;
        Some(Facts {
            state: State::from_word(&note.state)?,
            since: note.since,
            accepted: note.accepted,
            refused: note.refused,
            refusals: note.refusals,
            proven: note.proven,
        })
    }
}

/// What the store holds of a value. None of it is the value, nor made of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    state: String,
    since: Timestamp,
    accepted: Option<Timestamp>,
    refused: Option<Timestamp>,
    refusals: u32,
    proven: bool,
}

/// The longest sleep: a clock that was set is noticed then. And the shortest.
const LONGEST: Duration = Duration::from_mins(1);
const MOMENT: Duration = Duration::from_millis(10);
/// How soon Vault is asked again where something could not be read.
const AGAIN: Duration = Duration::from_secs(5);
