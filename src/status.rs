//! The status cache: what DCAMS said of a customer lately, so that it is not asked the same again.
//!
//! It knows the four services: what a getStatus found, and what the others say of a status, is kept for a
//! short time; a write removes it before it is sent. Invariant: whoever reads after a write was answered is
//! told nothing from before it (`slots`, `under_way`), and nobody is told of another tenant's customer
//! (`key`). Between gateways the first holds but for a bound that the configuration sets (`fleet`).
//!
//! What is kept is an answer as it goes to clients (`entry`): no image, no credential, and of a person
//! no more than the tenant's clients see. What is not fresh is not told, but where the configuration says
//! so, and then labelled.

mod entry;
mod fleet;
mod key;
mod slots;
mod under_way;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use aws_lc_rs::rand;
use bytes::Bytes;
use moka::{Expiry, sync::Cache};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::spawn_blocking,
    time::{Instant, interval},
};

use self::{
    entry::{Draft, Fit},
    fleet::{Fleet, Heard},
    key::StatusKey,
    slots::{Slots, Ticket},
};
pub use self::{
    entry::{Entry, Freshness, Known},
    under_way::{Flight, Found, Landed, Reading, Turn, Writing, Written},
};
use crate::{
    caching::{CacheError, CacheSettings, Tag, UntoldWrites},
    clock,
    customer::EmailCase,
    error::GatewayError,
    ident::{AccountId, Pseudonym, PseudonymKey, Purpose, TenantId},
    store::{Store, StoreError},
    tenant::Disclosure,
    upstream::{
        answer::Answer,
        verdict::{NOT_FOUND, Refusal},
    },
};

/// What an entry takes beside its answer, in bytes: its key, its place in the map and in the queues that
/// decide what goes first. Measured (`benches/cache.rs`).
const OVERHEAD: usize = 500;
/// How many statuses are asked for anew at a time that no client waits for.
const REFRESHES: usize = 64;
/// How often what has run out is cleared away though nobody asks.
const TIDY: Duration = Duration::from_secs(5);
/// How far behind others a gateway may be that keeps nothing.
const IDLE: Duration = Duration::from_mins(1);

/// The cache of all tenants. A clone is the same.
#[derive(Clone)]
pub struct StatusCache(Arc<Inner>);

struct Inner {
    entries: ArcSwap<Entries>,
    slots: Slots<Landed>,
    // Held to look one up when the configuration is read, or a tenant is forgotten.
    eras: Mutex<HashMap<Pseudonym, Era>>,
    /// Counts how often everything was forgotten.
    era: AtomicU64,
    /// Whether a tenant was forgotten whose entries are still in memory.
    to_sweep: AtomicBool,
    pseudonyms: PseudonymKey,
    refreshes: Arc<Semaphore>,
    /// The others, where there may be any.
    fleet: Option<Fleet>,
    /// How far behind them this gateway may be, in milliseconds.
    lag: AtomicU64,
}

/// The map, and its bounds.
struct Entries {
    map: Cache<StatusKey, Arc<Entry>>,
    /// How many bytes they take, about.
    bytes: Arc<AtomicU64>,
    bounds: (u64, u64),
}

/// Counts how often a tenant was forgotten.
type Era = Arc<AtomicU64>;

/// The statuses of one tenant's customers.
#[derive(Clone)]
pub struct TenantStatuses {
    cache: Arc<Inner>,
    tenant: TenantId,
    account: AccountId,
    era: Era,
}

/// A customer, as a request names it.
#[derive(Clone)]
pub struct Customer {
    key: StatusKey,
    spelling: Pseudonym,
    tenant: TenantId,
    era: Era,
}

impl StatusCache {
    /// An empty one. Where `store` is shared it is coherent with those of other gateways; `state_key` seals
    /// what they share. `timeout` is how long DCAMS may take at most to do what it was asked.
    pub fn new(
        settings: &CacheSettings,
        store: &Store,
        state_key: &[u8; 32],
        pseudonyms: PseudonymKey,
        timeout: Duration,
    ) -> Self {
        let fleet = store.redis().map(|redis| {
            let (redis, pseudonyms) = (redis.clone(), pseudonyms.clone());
            Fleet::new(redis, state_key, pseudonyms, horizon(timeout))
        });
        Self(Arc::new(Inner {
            entries: ArcSwap::from_pointee(Entries::new(settings)),
            slots: Slots::new(horizon(timeout)),
            eras: Mutex::default(),
            era: AtomicU64::new(0),
            to_sweep: AtomicBool::new(false),
            pseudonyms,
            refreshes: Arc::new(Semaphore::new(REFRESHES)),
            fleet,
            lag: AtomicU64::new(lag_of(settings)),
        }))
    }

    /// Puts other bounds in force; what was kept goes where they differ, or nothing is to be kept.
    pub fn configure(&self, settings: &CacheSettings, timeout: Duration) {
        self.0.slots.set_horizon(horizon(timeout));
        if let Some(fleet) = &self.0.fleet {
            fleet.set_horizon(horizon(timeout));
        }
        self.0.lag.store(lag_of(settings), SeqCst);
        let bounds = Entries::bounds(settings);
        if self.0.entries.load().bounds != bounds {
            self.0.entries.store(Arc::new(Entries::new(settings)));
        }
        if !settings.enabled {
            self.forget_everything();
        }
    }

    /// The statuses of a tenant's customers on this account.
    pub fn of(&self, tenant: &TenantId, account: &AccountId) -> TenantStatuses {
        let name = self.0.name(tenant);
        let mut eras = self.0.eras.lock().unwrap_or_else(PoisonError::into_inner);
        TenantStatuses {
            cache: Arc::clone(&self.0),
            tenant: tenant.clone(),
            account: account.clone(),
            era: Arc::clone(eras.entry(name).or_default()),
        }
    }

    /// Whether it is known what other gateways did until `node_lag` ago; without that, nothing that is
    /// kept may be told.
    pub fn is_in_touch(&self, settings: &CacheSettings) -> bool {
        self.0.is_in_touch(settings.node_lag)
    }

    /// The same by the settings in force.
    pub fn is_in_touch_now(&self) -> bool {
        let lag = Duration::from_millis(self.0.lag.load(SeqCst));
        self.0.is_in_touch(lag)
    }

    /// What is kept of a customer, fresh or not, for whom it is the right answer; nothing where this gateway
    /// is out of touch.
    pub fn recall(
        &self,
        of: &Customer,
        disclosure: Disclosure,
        settings: &CacheSettings,
    ) -> Option<Arc<Entry>> {
        // First: what is found after it is no older.
        if !self.is_in_touch(settings) {
            return None;
        }
        let entry = self.0.entries.load().map.get(&of.key)?;
        (entry.fit == self.0.fit(of, disclosure)).then_some(entry)
    }

    /// Begins to ask DCAMS for a customer's status, or waits for a request that is asking.
    pub fn join(&self, of: &Customer, disclosure: Disclosure) -> Turn {
        let fit = Some(self.0.fit(of, disclosure));
        match self.0.slots.begin_read(of.key, fit, clock::instant()) {
            slots::Turn::Join(landed) => Turn::Join(Flight { landed }),
            slots::Turn::Lead(ticket, tell) => Turn::Lead(self.reading(of, ticket, tell)),
        }
    }

    /// Begins to ask DCAMS for what nobody else waits for.
    pub fn read(&self, of: &Customer) -> Reading {
        match self.0.slots.begin_read(of.key, None, clock::instant()) {
            slots::Turn::Lead(ticket, tell) => self.reading(of, ticket, tell),
            // Nothing fits none.
            slots::Turn::Join(_) => self.reading(of, Ticket::void(), None),
        }
    }

    fn reading(
        &self,
        of: &Customer,
        ticket: Ticket,
        tell: Option<watch::Sender<Option<Landed>>>,
    ) -> Reading {
        Reading {
            cache: Arc::clone(&self.0),
            era: self.0.era_of(of),
            of: of.clone(),
            ticket: Some(ticket),
            tell,
            seen: None,
        }
    }

    /// Begins to change a customer: what is kept of it goes, here and at other gateways.
    ///
    /// # Errors
    /// [`CacheError::Untold`] where they cannot be told, and the configuration wants that first.
    pub async fn write(
        &self,
        of: &Customer,
        settings: &CacheSettings,
    ) -> Result<Writing, CacheError> {
        let era = self.0.era_of(of);
        let remove = || self.0.remove(of.key);
        let ticket = self.0.slots.begin_write(of.key, clock::instant(), remove);
        let mut writing = Writing {
            cache: Arc::clone(&self.0),
            of: of.clone(),
            era,
            ticket: Some(ticket),
            told: None,
        };
        // Also where nothing is kept here: others may keep it, or this gateway later.
        let Some(fleet) = &self.0.fleet else {
            return Ok(writing);
        };
        let told = fleet.begin(&of.tenant, of.key).await;
        let refused = !told.is_told() && settings.untold_writes == UntoldWrites::Refuse;
        writing.told = Some(told);
        if refused {
            writing.end(&Written::Undone, settings).await;
            return Err(CacheError::Untold);
        }
        Ok(writing)
    }

    /// Room to ask for a status that no client waits for; none where many are being asked for.
    pub fn room_to_refresh(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0.refreshes).try_acquire_owned().ok()
    }

    /// A getStatus's answer, or the part of another that says the same, as it is told and kept.
    pub fn entry_of(
        &self,
        of: &Customer,
        answer: &Answer,
        disclosure: Disclosure,
        read_at: Instant,
        settings: &CacheSettings,
    ) -> Arc<Entry> {
        let mut body = answer.render();
        // A status has no image, so its answer is one piece.
        let body = body.pop(usize::MAX).unwrap_or_default();
        let known = Known::Found(answer.customer_status());
        self.0.entry(of, known, body, disclosure, read_at, settings)
    }

    /// What DCAMS's word is to be kept as that it knows no such customer.
    pub fn absence(
        &self,
        of: &Customer,
        refusal: &GatewayError,
        disclosure: Disclosure,
        read_at: Instant,
        settings: &CacheSettings,
    ) -> Option<Found> {
        let GatewayError::Refuse(Refusal::NotFound { message }) = refusal else {
            return None;
        };
        let (known, body) = (Known::NotFound, Bytes::new());
        Some(Found {
            entry: self.0.entry(of, known, body, disclosure, read_at, settings),
            // Another text might name the customer.
            keep: message.as_str() == NOT_FOUND,
        })
    }

    /// How many statuses are kept, and how many bytes they take, about.
    pub fn size(&self) -> (u64, u64) {
        let entries = self.0.entries.load();
        (entries.map.entry_count(), entries.bytes.load(Relaxed))
    }

    /// Forgets one customer of a tenant on this account, however the address is spelled, here and at
    /// other gateways. Whether something was kept.
    ///
    /// # Errors
    /// Where the others cannot be told now. This gateway has forgotten it, and tells them when it can.
    pub async fn forget_customer(
        &self,
        tenant: &TenantId,
        account: &AccountId,
        email: &str,
    ) -> Result<bool, StoreError> {
        let key = self.of(tenant, account).key(email);
        let kept = self.0.forget(key);
        let Some(fleet) = &self.0.fleet else {
            return Ok(kept);
        };
        let kept_there = fleet.forget(tenant, key).await;
        // A read may have found it there until now.
        self.0.forget(key);
        kept_there.map(|there| kept || there)
    }

    /// Forgets a tenant's customers, here and at other gateways.
    ///
    /// # Errors
    /// As of [`StatusCache::forget_customer`].
    pub async fn forget_tenant(&self, tenant: &TenantId) -> Result<(), StoreError> {
        let name = self.0.name(tenant);
        self.0.forget_tenant(name);
        let Some(fleet) = &self.0.fleet else {
            return Ok(());
        };
        let told = fleet.forget_tenant(tenant).await;
        // A read may have found some of it there until now.
        self.0.forget_tenant(name);
        told
    }

    fn forget_everything(&self) {
        self.0.era.fetch_add(1, SeqCst);
        self.0.entries.load().map.invalidate_all();
    }

    /// Follows what other gateways do, for as long as the process runs.
    pub async fn follow(self) {
        let Some(fleet) = &self.0.fleet else {
            return;
        };
        let lag = || Duration::from_millis(self.0.lag.load(SeqCst));
        fleet.follow(lag, |heard| self.act_on(&heard)).await;
    }

    fn act_on(&self, heard: &Heard) {
        let (slots, now) = (&self.0.slots, clock::instant());
        match *heard {
            Heard::Begun(key, token, doubt) => {
                slots.begin_elsewhere(key, token, doubt, now, || self.0.remove(key));
            }
            Heard::Ended(key, token) => {
                slots.disturb(key, Some(token), now, || self.0.remove(key));
            }
            Heard::TenantForgotten(name) => self.0.forget_tenant(name),
            Heard::Everything => self.forget_everything(),
        }
    }

    /// Clears away what has run out, for as long as the process runs.
    pub async fn keep_tidy(self) {
        let mut ticks = interval(TIDY);
        loop {
            ticks.tick().await;
            let cache = Arc::clone(&self.0);
            let tidying = spawn_blocking(move || {
                cache.slots.settle(clock::instant());
                if cache.to_sweep.swap(false, SeqCst) {
                    cache.sweep();
                }
                cache.entries.load().map.run_pending_tasks();
            });
            // A panic in it costs one round.
            drop(tidying.await);
        }
    }
}

impl Inner {
    fn is_in_touch(&self, lag: Duration) -> bool {
        let fleet = self.fleet.as_ref();
        fleet.is_none_or(|fleet| fleet.is_in_touch(clock::instant(), lag))
    }

    /// The name of a tenant among other gateways.
    fn name(&self, tenant: &TenantId) -> Pseudonym {
        self.pseudonyms.pseudonym(Purpose::Status, tenant, b"")
    }

    fn fit(&self, of: &Customer, disclosure: Disclosure) -> Fit {
        Fit {
            disclosure,
            spelling: of.spelling,
            era: self.era_of(of),
        }
    }

    /// Of two numbers that only grow the sum is the same only where both are.
    fn era_of(&self, of: &Customer) -> u64 {
        self.era.load(SeqCst) + of.era.load(SeqCst)
    }

    /// Whether something was kept of a customer, which is not any more.
    fn forget(&self, key: StatusKey) -> bool {
        let mut kept = false;
        self.slots.disturb(key, None, clock::instant(), || {
            let removed = self.entries.load().map.remove(&key);
            kept = removed.is_some_and(|entry| !self.is_forgotten(&entry));
        });
        kept
    }

    fn forget_tenant(&self, name: Pseudonym) {
        let eras = self.eras.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(era) = eras.get(&name) {
            era.fetch_add(1, SeqCst);
            self.to_sweep.store(true, SeqCst);
        }
    }

    /// Whether nobody is told of it any more, because its tenant's are to be forgotten, or all are.
    fn is_forgotten(&self, entry: &Entry) -> bool {
        entry.fit.era != self.era.load(SeqCst) + entry.tenant_era.load(SeqCst)
    }

    /// Frees what is forgotten.
    fn sweep(&self) {
        let entries = self.entries.load();
        for (key, entry) in &entries.map {
            if self.is_forgotten(&entry) {
                entries.map.invalidate(&*key);
            }
        }
    }

    fn remove(&self, key: StatusKey) {
        self.entries.load().map.invalidate(&key);
    }

    /// Puts what was found in the place of what is kept, unless DCAMS was asked for that later. Whether it
    /// is kept.
    fn replace(&self, key: StatusKey, found: &Found) -> bool {
        let entries = self.entries.load();
        let former = entries.map.get(&key);
        let newer = |former: &Arc<Entry>| found.entry.is_before(former);
        let former = former.filter(|former| !self.is_forgotten(former));
        if former.as_ref().is_some_and(newer) {
            return false;
        }
        if found.lasts() {
            entries.keep(key, &found.entry);
        } else if !former.is_some_and(|former| former.says_what(&found.entry)) {
            entries.map.invalidate(&key);
        }
        found.lasts()
    }

    fn entry(
        &self,
        of: &Customer,
        known: Known,
        body: Bytes,
        disclosure: Disclosure,
        read_at: Instant,
        settings: &CacheSettings,
    ) -> Arc<Entry> {
        let mut dice = [0; 2];
        // Without randomness all are fresh for as long as they may be.
        rand::fill(&mut dice).unwrap_or_default();
        let draft = Draft {
            known,
            tag: self.tag(of, &body),
            body,
            fit: self.fit(of, disclosure),
            tenant_era: Arc::clone(&of.era),
            read_at,
            dice: u16::from_be_bytes(dice),
        };
        Arc::new(Entry::new(draft, settings))
    }

    /// Keyed, so that who reads headers cannot try out which answer they belong to.
    fn tag(&self, of: &Customer, body: &[u8]) -> Tag {
        let digest = self.pseudonyms.pseudonym(Purpose::Answer, &of.tenant, body);
        let bytes = digest.to_bytes();
        Tag(bytes.last_chunk().copied().map_or(0, u64::from_be_bytes))
    }
}

impl Entries {
    fn new(settings: &CacheSettings) -> Self {
        let bounds @ (max_entries, max_bytes) = Self::bounds(settings);
        let bytes = Arc::new(AtomicU64::new(0));
        let taken = Arc::clone(&bytes);
        // Weighed so that neither bound is exceeded.
        let least = max_bytes / max_entries.max(1);
        let map = Cache::builder()
            .max_capacity(max_bytes)
            .weigher(move |_key, entry: &Arc<Entry>| {
                u32::try_from(bytes_of(entry).max(least)).unwrap_or(u32::MAX)
            })
            .expire_after(WorthKeeping)
            .eviction_listener(move |_key, entry: Arc<Entry>, _cause| {
                taken.fetch_sub(bytes_of(&entry), Relaxed);
            })
            .build();
        Self { map, bytes, bounds }
    }

    fn keep(&self, key: StatusKey, entry: &Arc<Entry>) {
        self.bytes.fetch_add(bytes_of(entry), Relaxed);
        self.map.insert(key, Arc::clone(entry));
    }

    const fn bounds(settings: &CacheSettings) -> (u64, u64) {
        (settings.max_entries, settings.max_bytes)
    }
}

/// How many bytes an entry takes, about.
fn bytes_of(entry: &Entry) -> u64 {
    u64::try_from(OVERHEAD + entry.len()).unwrap_or(u64::MAX)
}

/// When an entry's memory is free again. Whether it may be told is decided apart from this.
struct WorthKeeping;

impl Expiry<StatusKey, Arc<Entry>> for WorthKeeping {
    fn expire_after_create(
        &self,
        _key: &StatusKey,
        entry: &Arc<Entry>,
        _now: std::time::Instant,
    ) -> Option<Duration> {
        Some(entry.keep)
    }

    fn expire_after_update(
        &self,
        _key: &StatusKey,
        entry: &Arc<Entry>,
        _now: std::time::Instant,
        _left: Option<Duration>,
    ) -> Option<Duration> {
        Some(entry.keep)
    }
}

impl TenantStatuses {
    /// A customer by its address, as DCAMS is asked for it.
    pub fn customer(&self, email: &str) -> Customer {
        let (key, folded) = (self.key(email), EmailCase::Ignore.canonical(email));
        let of_spelling = || {
            let pseudonyms = &self.cache.pseudonyms;
            pseudonyms.pseudonym(Purpose::Status, &self.tenant, email.as_bytes())
        };
        Customer {
            // Most are written as they are folded.
            spelling: if folded == email {
                key.name()
            } else {
                of_spelling()
            },
            key,
            tenant: self.tenant.clone(),
            era: Arc::clone(&self.era),
        }
    }

    /// One key for all spellings: how DCAMS tells them apart is not documented, so a change of one of them
    /// is taken to be a change of all.
    fn key(&self, email: &str) -> StatusKey {
        let folded = EmailCase::Ignore.canonical(email);
        StatusKey::new(&self.cache.pseudonyms, &self.tenant, &self.account, &folded)
    }
}

fn lag_of(settings: &CacheSettings) -> u64 {
    let lag = if settings.enabled {
        settings.node_lag
    } else {
        IDLE
    };
    u64::try_from(lag.as_millis()).unwrap_or(u64::MAX)
}

/// How long it may take until what DCAMS was asked has happened, or will not: a minute, or twice as long
/// as an answer is waited for.
fn horizon(timeout: Duration) -> Duration {
    (timeout * 2).max(Duration::from_mins(1))
}

#[cfg(test)]
mod tests;
