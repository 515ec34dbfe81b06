//! Quotas: how fast, how much at a time, how much a day and a month, for each tenant and end user.
//!
//! A request is decided about in memory (`book`), out of allowance that was taken from the store before
//! (`account` says how much, `keeper` fetches it). So no request waits for a disk or a network but the
//! one that finds nothing left, and whoever is killed has taken more than it admitted, never less.
//! With the embedded store this node has its tenants alone; with Redis several nodes share them
//! (`portion`, `redis`).
//!
//! Invariant: what was admitted never exceeds a limit, with one exception that has a bound and is
//! written down in `docs/QUOTAS.md`: while Redis is away, where the configuration lets nodes go on.
//!
//! An [`Admission`] is the proof that a request may go on. It is settled by what happened, also when
//! it is dropped.

mod account;
mod book;
mod debts;
mod end_user;
mod grant;
mod keeper;
mod portion;
mod redis;
mod statement;
mod subjects;
mod usage;
mod window;

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use thiserror::Error;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

pub use self::{
    account::Ending,
    book::{Crossed, Denied, Standing},
    grant::{Grant, GrantError},
    keeper::Keeper,
    statement::{Counts, Services, Sums},
    usage::{Used, Wanted},
};
use self::{
    book::{Book, Charged, Freshness, Step},
    debts::Debt,
    end_user::{EndUser, Taken},
    keeper::Message,
    subjects::Subjects,
};
use crate::{
    auth::permit::Permit,
    clock,
    ident::{PseudonymKey, Purpose, TenantId},
    limits::{Billing, Limits, Tariff, bucket},
    operation::Operation,
    store::{
        Store,
        redis::{
            Redis,
            settings::{OnStoreFailure, RedisSettings},
        },
    },
};

/// Both clocks, read once for a decision.
#[derive(Debug, Clone, Copy)]
struct Now {
    wall: Timestamp,
    /// Nanoseconds since the quotas were opened.
    mono: u64,
}

/// The time from one moment to a later one.
fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// How nodes share their tenants.
#[derive(Debug, Clone, Copy)]
struct Shared {
    /// How many there are.
    nodes: NonZeroU32,
    /// For how long a node takes ahead, in nanoseconds.
    lease: u64,
    /// What holds while nobody can be asked.
    away: OnStoreFailure,
}

impl Shared {
    fn of(settings: &RedisSettings) -> Self {
        Self {
            nodes: NonZeroU32::new(u32::from(settings.nodes)).unwrap_or(NonZeroU32::MIN),
            lease: bucket::nanoseconds(settings.lease),
            away: settings.on_store_failure,
        }
    }
}

/// How long a request waits for its own disk.
const DISK_TIME: Duration = Duration::from_secs(5);

/// Why a request may not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum QuotaError {
    /// A limit is reached.
    #[error("a limit of the tenant's is reached")]
    Denied(Denied),
    /// It cannot be told whether one is.
    #[error("the state store does not answer")]
    Unavailable,
}

/// What came of a request that was admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was sent, and this came of it.
    Sent(Ending),
    /// It did nothing at DCAMS, and that is certain.
    Undone,
}

/// The quotas of all tenants. A clone is the same.
#[derive(Clone)]
pub struct Quotas(Arc<Inner>);

struct Inner {
    // Held to look one up or to put one in, when the configuration is read.
    books: Mutex<HashMap<TenantId, Arc<Book>>>,
    keeper: mpsc::UnboundedSender<Message>,
    debts: mpsc::UnboundedSender<Debt>,
    shared: Option<Shared>,
    /// Where end users are counted, where nodes share them.
    redis: Option<Redis>,
    pseudonyms: PseudonymKey,
    subjects: Subjects,
    /// How long a request waits for allowance.
    patience: Duration,
    opened: Instant,
}

/// The quotas of one tenant.
#[derive(Clone)]
pub struct TenantQuota {
    book: Arc<Book>,
    quotas: Arc<Inner>,
}

impl Quotas {
    /// The quotas that are kept in this store, and what fetches allowance for them.
    pub fn open(store: Store, pseudonyms: PseudonymKey) -> (Self, Keeper) {
        let (keeper, messages) = mpsc::unbounded_channel();
        let (debts, owed) = mpsc::unbounded_channel();
        let redis = store.redis().map(Redis::settings);
        let inner = Arc::new(Inner {
            books: Mutex::default(),
            keeper,
            debts,
            shared: redis.map(Shared::of),
            redis: store.redis().cloned(),
            pseudonyms: pseudonyms.clone(),
            subjects: Subjects::new(),
            patience: redis.map_or(DISK_TIME, |redis| redis.timeout),
            opened: clock::instant(),
        });
        let keeper = Keeper::new(store, pseudonyms, Arc::clone(&inner), messages, owed);
        (Self(inner), keeper)
    }

    /// The quotas of a tenant; what it has used goes on. Other limits than before are in force when
    /// [`TenantQuota::limit`] says so.
    pub fn of(&self, tenant: &TenantId, limits: &Arc<Limits>) -> TenantQuota {
        let mut books = self.0.books.lock().unwrap_or_else(PoisonError::into_inner);
        let book = books
            .entry(tenant.clone())
            .or_insert_with(|| Arc::new(Book::new(tenant.clone(), Arc::clone(limits))));
        TenantQuota {
            book: Arc::clone(book),
            quotas: Arc::clone(&self.0),
        }
    }

    /// How the limits of those tenants stand that were active, as far as this node knows.
    pub fn active(&self) -> Vec<(TenantId, Vec<Standing>)> {
        let (now, shared) = (self.0.now(), self.0.shared.as_ref());
        let books = self.0.books.lock().unwrap_or_else(PoisonError::into_inner);
        let active = books.values().filter(|book| book.is_active());
        active
            .map(|book| (book.tenant.clone(), book.standings(&now, shared)))
            .collect()
    }

    /// Has what is not used written down, and everything that happened.
    pub async fn close(&self) {
        let (done, ended) = oneshot::channel();
        if self.0.keeper.send(Message::Close(done)).is_ok() {
            drop(ended.await);
        }
    }
}

impl From<Denied> for QuotaError {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

impl Inner {
    fn now(&self) -> Now {
        let passed = clock::instant().saturating_duration_since(self.opened);
        Now {
            wall: clock::now(),
            mono: bucket::nanoseconds(passed),
        }
    }

    /// Has Redis told of an end user, behind the request.
    fn owe(&self, debt: Debt) {
        drop(self.debts.send(debt));
    }

    fn call(&self, book: &Arc<Book>) {
        // The keeper ends last; what comes after it is not written down any more.
        drop(self.keeper.send(Message::Look(Arc::clone(book))));
    }
}

impl TenantQuota {
    /// Puts limits in force.
    pub fn limit(&self, limits: &Arc<Limits>) {
        self.book.limit(limits, &self.quotas.now());
    }

    /// Decides on rate and concurrency, for a caller whose token has this subject.
    pub async fn admit(
        &self,
        subject: Option<&str>,
        limits: &Arc<Limits>,
        tariff: Tariff,
    ) -> Result<Admission, QuotaError> {
        let shared = self.quotas.shared.as_ref();
        let subject = self.end_user(subject, limits, tariff.max_subjects);
        // First, so that one end user who is too fast takes nothing of the tenant's rate.
        if let Some(subject) = &subject {
            subject.admit().await?;
        }
        let at = self.decide(|now| self.book.admit(now, shared)).await?;
        Ok(Admission {
            quota: self.clone(),
            subject,
            tariff,
            of_subject: None,
            charged: None,
            operation: None,
            under_way: None,
            bytes: 0,
            sent: false,
            at,
        })
    }

    /// Has it looked at what was used before this process, or by other nodes, where that is not known.
    pub async fn look(&self) -> Result<(), QuotaError> {
        let now = self.quotas.now();
        if self.book.freshness(&now, self.quotas.shared.is_some()) == Freshness::Fresh {
            return Ok(());
        }
        let (done, looked) = oneshot::channel();
        let message = Message::Refresh(Arc::clone(&self.book), done);
        drop(self.quotas.keeper.send(message));
        match timeout_at(clock::instant() + self.quotas.patience, looked).await {
            Ok(Ok(true)) => Ok(()),
            Ok(_) | Err(_) => Err(QuotaError::Unavailable),
        }
    }

    /// Counts a request to DCAMS that no request of the tenant's asked for; it costs nothing.
    pub fn called(&self, operation: Operation) {
        if self.book.called(operation, &self.quotas.now()) {
            self.quotas.call(&self.book);
        }
    }

    /// How the limits stand, for a caller with this subject.
    pub fn standings(&self, subject: Option<&str>, limits: &Limits) -> Vec<Standing> {
        let (now, shared) = (self.quotas.now(), self.quotas.shared.as_ref());
        let mut standings = self.book.standings(&now, shared);
        if !limits.per_subject.is_empty() {
            let subjects = &self.quotas.subjects;
            let key = subjects.key(&self.book.tenant, subject);
            standings.extend(subjects.standings(key, limits, &now));
        }
        standings
    }

    fn end_user(
        &self,
        subject: Option<&str>,
        limits: &Arc<Limits>,
        room: usize,
    ) -> Option<EndUser> {
        if limits.per_subject.is_empty() {
            return None;
        }
        let (tenant, quotas) = (&self.book.tenant, &self.quotas);
        let name = || {
            let subject = subject.unwrap_or_default().as_bytes();
            quotas
                .pseudonyms
                .pseudonym(Purpose::Subject, tenant, subject)
        };
        Some(EndUser {
            key: quotas.subjects.key(tenant, subject),
            name: quotas.redis.is_some().then(name),
            tenant: tenant.clone(),
            limits: Arc::clone(limits),
            quotas: Arc::clone(quotas),
            room,
        })
    }

    /// Decides, and where allowance has to be had first waits for it, once for a time. Returns when it
    /// was let through.
    async fn decide(&self, mut decide: impl FnMut(&Now) -> Step) -> Result<Now, QuotaError> {
        let mut deadline = None;
        loop {
            // Before the decision: what is fetched from here on wakes it.
            let refilled = self.book.refilled.notified();
            let now = self.quotas.now();
            let step = decide(&now);
            if let Step::Admit { call: true } | Step::Wait { call: true } = step {
                self.quotas.call(&self.book);
            }
            match step {
                Step::Admit { .. } => return Ok(now),
                Step::Deny(denied) => return Err(QuotaError::Denied(denied)),
                Step::Refuse => return Err(QuotaError::Unavailable),
                // It has waited as long as it may, and was asked once more.
                Step::Wait { .. } if deadline.is_some_and(|(_, over)| over) => {
                    return Err(QuotaError::Unavailable);
                }
                Step::Wait { .. } => {}
            }
            let (until, _) =
                deadline.unwrap_or_else(|| (clock::instant() + self.quotas.patience, false));
            let over = timeout_at(until, refilled).await.is_err();
            if over {
                self.book.lost(&self.quotas.now());
            }
            deadline = Some((until, over));
        }
    }
}

/// Proof that a tenant's limits let a request through. What it was charged is settled by what comes of
/// it; dropped before anything was sent, it costs nothing but its place in the rate.
pub struct Admission {
    quota: TenantQuota,
    /// Whose it is, where end users have limits.
    subject: Option<EndUser>,
    tariff: Tariff,
    /// What it was charged, until it is settled.
    of_subject: Option<Taken>,
    charged: Option<Charged>,
    operation: Option<Operation>,
    /// What is being sent, and may have arrived.
    under_way: Option<Operation>,
    bytes: u64,
    /// Whether anything was.
    sent: bool,
    /// When it was charged. What comes of it is counted as of then: a clock costs more than the count.
    at: Now,
}

impl Admission {
    /// Charges day, month and bytes for a request that is permitted.
    pub async fn charge(&mut self, permit: &Permit, bytes: u64) -> Result<(), QuotaError> {
        let cost = (self.tariff.cost(permit.operation()), bytes);
        let quota = self.quota.clone();
        if let Some(subject) = &self.subject {
            // Noted before anything is waited for: who hangs up then has it back.
            self.of_subject = subject.charge(cost.0).await?;
        }
        let shared = quota.quotas.shared.as_ref();
        let charged = &mut self.charged;
        let decided = quota
            .decide(|now| {
                let (step, charge) = quota.book.charge(cost, now, shared);
                if let Step::Admit { .. } = step {
                    *charged = Some(charge);
                }
                step
            })
            .await;
        match decided {
            Ok(at) => self.at = at,
            Err(refused) => {
                self.refund_subject();
                return Err(refused);
            }
        }
        self.operation = Some(permit.operation());
        self.bytes = bytes;
        Ok(())
    }

    /// The tenant's quotas.
    pub const fn of_tenant(&self) -> &TenantQuota {
        &self.quota
    }

    /// Whether anything was sent for it.
    pub const fn was_sent(&self) -> bool {
        self.sent
    }

    /// Notes that a request is about to leave for DCAMS.
    pub fn sending(&mut self, operation: Operation) {
        self.under_way = Some(operation);
    }

    /// Notes that it is answered, or has failed; `sent`: a byte of it may have arrived.
    pub fn replied(&mut self, sent: bool) {
        let Some(operation) = self.under_way.take() else {
            return;
        };
        if sent {
            self.sent = true;
            let quota = &self.quota;
            if quota.book.called(operation, &self.at) {
                quota.quotas.call(&quota.book);
            }
        }
    }

    /// Keeps the charge or gives it back.
    pub fn settle(mut self, outcome: Outcome) {
        self.end(outcome);
    }

    fn refund(&mut self, charged: &Charged) {
        self.quota.book.refund(charged);
        self.refund_subject();
    }

    fn refund_subject(&mut self) {
        if let (Some(subject), Some(taken)) = (&self.subject, self.of_subject.take()) {
            subject.refund(&taken);
        }
    }

    fn end(&mut self, outcome: Outcome) {
        let Some(charged) = self.charged.take() else {
            return self.refund_subject();
        };
        let ending = match outcome {
            Outcome::Sent(ending) => ending,
            Outcome::Undone => return self.refund(&charged),
        };
        let billing = match ending {
            Ending::Succeeded => Billing::Keep,
            Ending::Refused => self.tariff.refused,
            Ending::Unavailable => self.tariff.unavailable,
            Ending::Unknown => self.tariff.unknown,
        };
        if billing == Billing::Refund {
            self.refund(&charged);
        }
        self.of_subject = None;
        let Some(operation) = self.operation else {
            return;
        };
        let kept = (billing == Billing::Keep).then_some(&charged);
        let quota = &self.quota;
        if quota
            .book
            .ended((operation, ending), kept, self.bytes, &self.at)
        {
            quota.quotas.call(&quota.book);
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        // The process ends, or a defect: what was on its way may have arrived.
        self.replied(true);
        self.end(if self.sent {
            Outcome::Sent(Ending::Unknown)
        } else {
            Outcome::Undone
        });
        self.quota.book.release();
    }
}

#[cfg(test)]
mod tests;
