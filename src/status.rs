//! The status cache: what DCAMS said of a customer lately, so that it is not asked the same again.
//!
//! It knows the four services: what a getStatus found, and what the others say of a status, is kept for a
//! short time; a write removes it before it is sent. Invariant: whoever reads after a write was answered is
//! told nothing from before it (`slots`), and nobody is told of another tenant's customer (`key`).
//!
//! What is kept is an answer as it goes to clients (`entry`): no image, no credential, and of a person
//! no more than the tenant's clients see. What is not fresh is not told, but where the configuration says
//! so, and then labelled.

mod entry;
mod key;
mod slots;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use aws_lc_rs::rand;
use bytes::Bytes;
use moka::{Expiry, sync::Cache};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, interval},
};

pub use self::entry::{Entry, Freshness, Known};
use self::{
    entry::{Draft, Fit},
    key::StatusKey,
    slots::{Settled, Slots, Ticket},
};
use crate::{
    caching::{CacheSettings, Tag},
    clock,
    customer::EmailCase,
    error::GatewayError,
    ident::{AccountId, Pseudonym, PseudonymKey, Purpose, TenantId},
    store::StoreError,
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

/// What a read brings home, for all who waited for it.
pub type Landed = Result<Arc<Entry>, GatewayError>;

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
    pseudonyms: PseudonymKey,
    refreshes: Arc<Semaphore>,
}

/// The map, and its bounds.
struct Entries {
    map: Cache<StatusKey, Arc<Entry>>,
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

impl Customer {
    const fn fit(&self, disclosure: Disclosure) -> Fit {
        Fit {
            disclosure,
            spelling: self.spelling,
        }
    }
}

/// What a write came to.
pub enum Written {
    /// It is done, and this is what DCAMS knows now; none where that is not kept.
    Done(Option<Arc<Entry>>),
    /// Nothing was done, and that is certain.
    Undone,
    /// Nobody knows.
    Unknown,
}

impl StatusCache {
    /// An empty one. `timeout` is how long DCAMS may take at most to do what it was asked.
    pub fn new(settings: &CacheSettings, pseudonyms: PseudonymKey, timeout: Duration) -> Self {
        Self(Arc::new(Inner {
            entries: ArcSwap::from_pointee(Entries::new(settings)),
            slots: Slots::new(horizon(timeout)),
            eras: Mutex::default(),
            era: AtomicU64::new(0),
            pseudonyms,
            refreshes: Arc::new(Semaphore::new(REFRESHES)),
        }))
    }

    /// Puts other bounds in force; what was kept goes where they differ, or nothing is to be kept.
    pub fn configure(&self, settings: &CacheSettings, timeout: Duration) {
        self.0.slots.set_horizon(horizon(timeout));
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

    /// What is kept of a customer, fresh or not, for whom it is the right answer.
    pub fn recall(&self, of: &Customer, disclosure: Disclosure) -> Option<Arc<Entry>> {
        let entry = self.0.entries.load().map.get(&of.key)?;
        let valid = entry.fit == of.fit(disclosure) && entry.era == self.0.era_of(of);
        valid.then_some(entry)
    }

    /// Begins to ask DCAMS for a customer's status, or waits for a request that is asking.
    pub fn join(&self, of: &Customer, disclosure: Disclosure) -> Turn {
        let fit = Some(of.fit(disclosure));
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
        }
    }

    /// Begins to change a customer: what is kept of it goes.
    pub fn write(&self, of: &Customer) -> Writing {
        let remove = || self.0.remove(of.key);
        self.0.slots.begin_write(of.key, clock::instant(), remove);
        Writing {
            cache: Arc::clone(&self.0),
            of: of.clone(),
            ended: false,
        }
    }

    /// Room to ask for a status that no client waits for; none where many are being asked for.
    pub fn room_to_refresh(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0.refreshes).try_acquire_owned().ok()
    }

    /// What a getStatus, or the part of another answer that says the same, is to be kept as. None where it
    /// shows a person whose fields are not to be kept, or says what nobody knows whether it lasts.
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

    /// The same of DCAMS's word that it knows no such customer, where that is the documented one.
    pub fn entry_of_refusal(
        &self,
        of: &Customer,
        refusal: &GatewayError,
        disclosure: Disclosure,
        read_at: Instant,
        settings: &CacheSettings,
    ) -> Option<Arc<Entry>> {
        let GatewayError::Refuse(Refusal::NotFound { message }) = refusal else {
            return None;
        };
        // Another text might name the customer.
        let body = (message.as_str() == NOT_FOUND).then(Bytes::new)?;
        let known = Known::NotFound;
        Some(self.0.entry(of, known, body, disclosure, read_at, settings))
    }

    /// How many statuses are kept, and how many bytes they take, about.
    pub fn size(&self) -> (u64, u64) {
        let entries = self.0.entries.load();
        (entries.map.entry_count(), entries.map.weighted_size())
    }

    /// Forgets one customer of a tenant on this account, however the address is spelled. Whether
    /// something was kept.
    ///
    /// # Errors
    /// Other gateways could not be told; here it is forgotten, and they are told later.
    #[expect(clippy::unused_async, reason = "other gateways are to be told")]
    pub async fn forget_customer(
        &self,
        tenant: &TenantId,
        account: &AccountId,
        email: &str,
    ) -> Result<bool, StoreError> {
        let key = self.of(tenant, account).key(email);
        let mut kept = false;
        self.0.slots.disturb(key, clock::instant(), || {
            kept = self.0.entries.load().map.remove(&key).is_some();
        });
        Ok(kept)
    }

    /// Forgets a tenant's customers.
    ///
    /// # Errors
    /// As of [`StatusCache::forget_customer`].
    #[expect(clippy::unused_async, reason = "other gateways are to be told")]
    pub async fn forget_tenant(&self, tenant: &TenantId) -> Result<(), StoreError> {
        self.0.forget_tenant(self.0.name(tenant));
        Ok(())
    }

    fn forget_everything(&self) {
        self.0.era.fetch_add(1, SeqCst);
        self.0.entries.load().map.invalidate_all();
    }

    /// Clears away what has run out, for as long as the process runs.
    pub async fn keep_tidy(self) {
        let mut ticks = interval(TIDY);
        loop {
            ticks.tick().await;
            self.0.slots.settle(clock::instant());
            self.0.entries.load().map.run_pending_tasks();
        }
    }
}

impl Inner {
    /// The name of a tenant among other gateways.
    fn name(&self, tenant: &TenantId) -> Pseudonym {
        self.pseudonyms.pseudonym(Purpose::Status, tenant, b"")
    }

    /// Of two numbers that only grow the sum is the same only where both are.
    fn era_of(&self, of: &Customer) -> u64 {
        self.era.load(SeqCst) + of.era.load(SeqCst)
    }

    fn forget_tenant(&self, name: Pseudonym) {
        let eras = self.eras.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(era) = eras.get(&name) {
            era.fetch_add(1, SeqCst);
        }
    }

    fn remove(&self, key: StatusKey) {
        self.entries.load().map.invalidate(&key);
    }

    fn keep(&self, key: StatusKey, entry: &Arc<Entry>) {
        if !entry.keep.is_zero() {
            self.entries.load().map.insert(key, Arc::clone(entry));
        }
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
            fit: of.fit(disclosure),
            read_at,
            era: self.era_of(of),
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
        // Weighed so that neither bound is exceeded.
        let least = max_bytes / max_entries.max(1);
        let map = Cache::builder()
            .max_capacity(max_bytes)
            .weigher(move |_key, entry: &Arc<Entry>| {
                let bytes = u64::try_from(OVERHEAD + entry.len()).unwrap_or(u64::MAX);
                u32::try_from(bytes.max(least)).unwrap_or(u32::MAX)
            })
            .expire_after(WorthKeeping)
            .build();
        Self { map, bounds }
    }

    const fn bounds(settings: &CacheSettings) -> (u64, u64) {
        (settings.max_entries, settings.max_bytes)
    }
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

/// Whether a request asks DCAMS, or waits for one that does.
pub enum Turn {
    /// It waits.
    Join(Flight),
    /// It asks.
    Lead(Reading),
}

/// A request that asks DCAMS the same.
pub struct Flight {
    landed: watch::Receiver<Option<Landed>>,
}

impl Flight {
    /// What it brought home; none where it ended without a word.
    pub async fn landed(mut self) -> Option<Landed> {
        let landed = self.landed.wait_for(Option::is_some).await.ok()?;
        landed.clone()
    }
}

/// A question to DCAMS that is under way. Dropped, it brings nothing home, and who waits asks again.
pub struct Reading {
    cache: Arc<Inner>,
    of: Customer,
    era: u64,
    ticket: Option<Ticket>,
    tell: Option<watch::Sender<Option<Landed>>>,
}

impl Reading {
    /// Ends it: keeps an entry, unless the customer changed meanwhile, and tells who waits. Whether it is
    /// kept.
    pub fn end(mut self, entry: Option<&Arc<Entry>>, landed: Option<Landed>) -> bool {
        let kept = self.settle(entry);
        // Before this nobody is told, so that who asks next finds what is kept.
        if let (Some(tell), Some(landed)) = (self.tell.take(), landed) {
            tell.send_replace(Some(landed));
        }
        kept
    }

    fn settle(&mut self, entry: Option<&Arc<Entry>>) -> bool {
        let Some(ticket) = self.ticket.take() else {
            return false;
        };
        let (cache, of) = (&self.cache, &self.of);
        // What was to be forgotten while it was asked for.
        let entry = entry.filter(|_| self.era == cache.era_of(of));
        let keep = || {
            if let Some(entry) = entry {
                cache.keep(of.key, entry);
            }
        };
        let leads = self.tell.is_some();
        let may = cache
            .slots
            .end_read(of.key, ticket, leads, clock::instant(), keep);
        may && entry.is_some_and(|entry| !entry.keep.is_zero())
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.settle(None);
    }
}

/// A change that is under way. Dropped, nobody knows what became of it.
pub struct Writing {
    cache: Arc<Inner>,
    of: Customer,
    ended: bool,
}

impl Writing {
    /// Ends it, and keeps what it says where it is the last word.
    pub fn end(mut self, written: &Written) {
        self.settle(written);
    }

    fn settle(&mut self, written: &Written) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let (cache, of) = (&self.cache, &self.of);
        let (settled, entry) = match written {
            Written::Done(entry) => (Settled::Certain, entry.as_ref()),
            Written::Undone => (Settled::Certain, None),
            Written::Unknown => (Settled::Unknown, None),
        };
        let keep = || {
            if let Some(entry) = entry {
                cache.keep(of.key, entry);
            }
        };
        cache
            .slots
            .end_write(of.key, settled, clock::instant(), keep);
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.settle(&Written::Unknown);
    }
}

/// How long it may take until what DCAMS was asked has happened, or will not: a minute, or twice as long
/// as an answer is waited for.
fn horizon(timeout: Duration) -> Duration {
    (timeout * 2).max(Duration::from_mins(1))
}
