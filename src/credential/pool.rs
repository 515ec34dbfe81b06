//! The live credentials of one account: which one a request is sent with, and what comes of it.
//!
//! A request asks for a [`Lease`] and says afterwards what DCAMS made of it. Invariants: nobody waits
//! for a lock to get one; a credential that DCAMS has refused is leased to nobody from that moment on;
//! one of which DCAMS has said nothing yet or not lately, or that it refused the last time, is tried by one
//! request at a time, so that a dead password is not tried a thousand times; a value is wiped when it is
//! retired and its last lease has ended.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicI64, AtomicU32, AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use thiserror::Error;
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

use super::{
    Credential,
    rotation::{
        Candidate, Login, Pace, Place, Reason, State, Step, Validity, next_step, next_time,
    },
};
use crate::ident::{AccountId, CredentialId};

/// How many retired credentials are remembered for people who ask; without their values.
const MAX_RETIRED: usize = 16;

/// Why a request gets no credential. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LeaseError {
    /// None of the account may be used now: DCAMS refused them, or their time has not come.
    #[error("no credential of the account may be used")]
    NoneUsable,
    /// The one that would be used is being tried by others, and DCAMS does not answer them.
    #[error("the credential is being tried, and DCAMS does not answer")]
    OnTrial,
}

impl LeaseError {
    /// One word for logs and audit events.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NoneUsable => "no_usable_credential",
            Self::OnTrial => "credential_on_trial",
        }
    }
}

/// The credentials of one account.
pub struct Pool {
    account: AccountId,
    routes: ArcSwap<Routes>,
    /// Counts requests while there is a canary, so that its share is exact and evenly spread.
    turn: AtomicU64,
    /// Told when the routes have changed or a trial has ended; for those who wait for one.
    changes: watch::Sender<u64>,
    /// Told when there is something to write down or to do.
    work: Arc<Notify>,
    /// Taken when DCAMS refuses, when a value comes or goes, and for the first good answer; never by
    /// the other requests, and never across an await.
    book: Mutex<Book>,
}

/// Whom requests go to.
#[derive(Default)]
struct Routes {
    active: Option<Arc<Value>>,
    canary: Option<Arc<Value>>,
    /// One that DCAMS has accepted, for those who would have to wait for the active one's trial.
    reserve: Option<Arc<Value>>,
    percent: u64,
}

/// One value that a credential has or had.
struct Value {
    id: CredentialId,
    generation: u64,
    credential: Arc<Credential>,
    in_flight: AtomicU32,
    /// DCAMS's last word was that it accepts it.
    proven: AtomicBool,
    /// It was that it refuses it.
    doubtful: AtomicBool,
    /// It accepts it, and has said so lately, so that all requests may use it.
    open: AtomicBool,
    /// The requests that are trying it, and how many may: more, where DCAMS answers and says nothing of it.
    trials: AtomicU32,
    width: AtomicU32,
    /// How often it was refused. An answer counts only if it was asked for since the last refusal: a
    /// hundred refusals of requests that were under way together are one.
    tide: AtomicU32,
    /// Milliseconds since 1970; 0 for never.
    accepted: AtomicI64,
    /// The same, for the end of the last call with it.
    used: AtomicI64,
    /// Since it has its state.
    accepted_since: AtomicBool,
    leaving: AtomicBool,
}

/// The most requests that try a value at a time.
const WIDEST: u32 = 16;

#[derive(Default)]
struct Book {
    pace: Option<Pace>,
    /// In the order in which they are preferred.
    entries: Vec<Entry>,
    retired: VecDeque<Standing>,
    changes: Vec<Change>,
    generations: BTreeMap<CredentialId, u64>,
    configured: Vec<(CredentialId, Validity)>,
}

struct Entry {
    value: Arc<Value>,
    state: State,
    since: Timestamp,
    refused: Option<Timestamp>,
    refusals: u32,
    /// DCAMS has refused it since it has its state.
    refused_since: bool,
    chance: Option<Timestamp>,
    retry: bool,
    place: Place,
    validity: Validity,
}

/// What the configuration says of one credential.
pub struct Slot {
    /// Its name.
    pub id: CredentialId,
    /// When it may be used.
    pub validity: Validity,
    /// Its value, where it could be read; the former one stays otherwise.
    pub offer: Option<Offer>,
}

/// A value, and what is known of it already.
pub struct Offer {
    /// The value.
    pub credential: Arc<Credential>,
    /// Where the state store knew it.
    pub facts: Option<Facts>,
}

/// What is known of a value from before this process began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Its state.
    pub state: State,
    /// Since when.
    pub since: Timestamp,
    /// When DCAMS accepted it last.
    pub accepted: Option<Timestamp>,
    /// When DCAMS refused it last.
    pub refused: Option<Timestamp>,
    /// How often in a row it was refused.
    pub refusals: u32,
    /// Whether DCAMS's last word was that it accepts it.
    pub proven: bool,
}

/// A value, and what is known of it.
pub struct Known {
    /// Its account.
    pub account: AccountId,
    /// Its credential.
    pub id: CredentialId,
    /// Which of the credential's values, counted from 1.
    pub generation: u64,
    /// The value.
    pub credential: Arc<Credential>,
    /// What is known of it.
    pub facts: Facts,
}

impl Known {
    /// What it is called in all accounts.
    pub fn name(&self) -> ((AccountId, CredentialId), u64) {
        ((self.account.clone(), self.id.clone()), self.generation)
    }
}

/// A change of state that is to be written down.
#[derive(Debug, Clone)]
pub struct Change {
    /// The credential.
    pub id: CredentialId,
    /// Which of its values, counted from 1.
    pub generation: u64,
    /// The state before; none for a new one.
    pub from: Option<State>,
    /// The state since.
    pub to: State,
    /// Why.
    pub reason: Reason,
}

/// How a credential stands, for people.
#[derive(Debug, Clone)]
pub struct Standing {
    /// The credential.
    pub id: CredentialId,
    /// Which of its values, counted from 1.
    pub generation: u64,
    /// Where it stands.
    pub state: State,
    /// Since when.
    pub since: Timestamp,
    /// When the last call with it ended.
    pub used: Option<Timestamp>,
    /// When DCAMS accepted it last.
    pub accepted: Option<Timestamp>,
    /// When DCAMS refused it last.
    pub refused: Option<Timestamp>,
    /// When it is tried again after a refusal.
    pub retry_at: Option<Timestamp>,
    /// Requests under way.
    pub in_flight: u32,
    /// When it may be used.
    pub validity: Validity,
}

impl Pool {
    /// The pool of an account, empty; `work` is told when there is something to write down or to do.
    pub fn new(account: AccountId, work: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self {
            account,
            routes: ArcSwap::default(),
            turn: AtomicU64::new(0),
            changes: watch::Sender::new(0),
            work,
            book: Mutex::default(),
        })
    }

    /// Whose credentials they are.
    pub const fn account(&self) -> &AccountId {
        &self.account
    }

    /// The credential for one request. Waits only where the one that would be used is just being
    /// tried by somebody else, and no longer than `patience`.
    pub async fn lease(self: &Arc<Self>, patience: Duration) -> Result<Lease, LeaseError> {
        match self.try_lease() {
            Some(leased) => leased,
            // On the heap, because it is rare and every request's future would be as large.
            None => Box::pin(timeout(patience, self.wait_for_lease()))
                .await
                .unwrap_or(Err(LeaseError::OnTrial)),
        }
    }

    async fn wait_for_lease(self: &Arc<Self>) -> Result<Lease, LeaseError> {
        let mut changes = self.changes.subscribe();
        loop {
            // After subscribing, so that no change is missed in between.
            if let Some(leased) = self.try_lease() {
                return leased;
            }
            // The sender is in the pool.
            changes.changed().await.ok();
        }
    }

    fn try_lease(self: &Arc<Self>) -> Option<Result<Lease, LeaseError>> {
        let routes = self.routes.load();
        if let Some(canary) = &routes.canary
            && self.is_canarys_turn(routes.percent)
            && let Some(lease) = self.enter(canary)
        {
            return Some(Ok(lease));
        }
        let Some(active) = &routes.active else {
            return Some(Err(LeaseError::NoneUsable));
        };
        let lease = self
            .enter(active)
            .or_else(|| self.enter(routes.reserve.as_ref()?));
        lease.map(Ok)
    }

    /// Of each hundred requests as many as it says, the first among them.
    fn is_canarys_turn(&self, percent: u64) -> bool {
        let turn = self.turn.fetch_add(1, Relaxed) % 100;
        turn * percent % 100 < percent
    }

    /// Nothing where others are trying this value.
    fn enter(self: &Arc<Self>, value: &Arc<Value>) -> Option<Lease> {
        // Before the gate: a refusal in between makes the answer count for nothing.
        let tide = value.tide.load(Acquire);
        let trial = !value.open.load(Acquire);
        if trial && !value.begin_trial() {
            return None;
        }
        value.in_flight.fetch_add(1, Relaxed);
        Some(Lease {
            tide,
            pool: Arc::clone(self),
            value: Arc::clone(value),
            trial,
        })
    }

    /// A lease of a value that is to be probed; nothing where somebody else is trying it just now.
    pub fn lease_to_probe(self: &Arc<Self>, id: &CredentialId, generation: u64) -> Option<Lease> {
        let value = {
            let book = self.book();
            let mut entries = book.entries.iter();
            let entry = entries.find(|e| {
                e.is_to_be_probed() && e.value.generation == generation && e.value.id == *id
            })?;
            Arc::clone(&entry.value)
        };
        self.enter(&value)
    }

    /// Sets what the configuration says: the credentials in the order in which they are preferred,
    /// and the values that they have, all in one step. What is not among them leaves.
    pub fn configure(&self, pace: Pace, slots: Vec<Slot>, now: Timestamp) {
        let mut book = self.book();
        book.pace = Some(pace);
        book.configured = slots.iter().map(|s| (s.id.clone(), s.validity)).collect();
        for Slot { id, offer, .. } in slots {
            if let Some(Offer { credential, facts }) = offer {
                book.take(&id, &credential, facts, now);
            }
        }
        self.advance(&mut book, now);
    }

    /// Takes the value that a credential has now. Nothing happens where it is the one that is known;
    /// otherwise it begins its way, and the former one stays until it is not needed any more.
    pub fn offer(&self, id: &CredentialId, offer: &Offer, now: Timestamp) {
        let mut book = self.book();
        book.take(id, &offer.credential, offer.facts, now);
        self.advance(&mut book, now);
    }

    /// Whether this is the value that a credential is known to have.
    pub fn holds(&self, id: &CredentialId, credential: &Credential) -> bool {
        self.book().holds(id, credential)
    }

    /// Whether a credential has a value.
    pub fn has(&self, id: &CredentialId) -> bool {
        self.book().entries.iter().any(|e| e.value.id == *id)
    }

    /// Whether any value of the account has this user.
    pub fn has_user_of(&self, credential: &Credential) -> bool {
        let book = self.book();
        let mut values = book.entries.iter().map(|entry| &entry.value.credential);
        values.any(|own| own.has_user_of(credential))
    }

    /// Ends a credential's rest after a refusal. Whether there was one.
    pub fn retry(&self, id: &CredentialId, now: Timestamp) -> bool {
        let mut book = self.book();
        let mut rests = false;
        for entry in &mut book.entries {
            let rested = matches!(entry.state, State::Probing | State::Rejected);
            if entry.value.id == *id && rested {
                entry.retry = true;
                rests = true;
            }
        }
        self.advance(&mut book, now);
        rests
    }

    /// Takes every step that is due. Returns when time alone may make the next one due.
    pub fn keep_up(&self, now: Timestamp) -> Option<Timestamp> {
        let mut book = self.book();
        self.advance(&mut book, now);
        let pace = book.pace?;
        next_time(&book.candidates(), &pace, now)
    }

    /// The changes since this was asked last.
    pub fn take_changes(&self) -> Vec<Change> {
        std::mem::take(&mut self.book().changes)
    }

    /// The values that are there, with what is known of them.
    pub fn facts(&self) -> Vec<Known> {
        let known = |entry: &Entry| Known {
            account: self.account.clone(),
            id: entry.value.id.clone(),
            generation: entry.value.generation,
            credential: Arc::clone(&entry.value.credential),
            facts: entry.facts(),
        };
        self.book().entries.iter().map(known).collect()
    }

    /// Lets everything go: the account is not configured any more.
    pub fn dismiss(&self, now: Timestamp) {
        let mut book = self.book();
        book.configured.clear();
        self.advance(&mut book, now);
    }

    /// The values that wait for a probe: in that state, or in use without a word of DCAMS's, so that no
    /// request has to be the first.
    pub fn probing(&self) -> Vec<(CredentialId, u64)> {
        let book = self.book();
        let entries = book.entries.iter();
        entries
            .filter(|entry| entry.is_to_be_probed())
            .map(|e| (e.value.id.clone(), e.value.generation))
            .collect()
    }

    /// How every credential stands, those that were retired lately at the end.
    pub fn standings(&self) -> Vec<Standing> {
        let book = self.book();
        // Without a probe it is left alone for as long as another one does the work.
        let probes = book.pace.filter(|pace| pace.probes || !self.is_usable());
        let standings = book.entries.iter().map(|e| e.standing(probes.as_ref()));
        standings.chain(book.retired.iter().cloned()).collect()
    }

    /// Whether requests can be sent, with a credential that DCAMS did not refuse the last time.
    pub fn is_usable(&self) -> bool {
        let routes = self.routes.load();
        let active = routes.active.as_ref();
        active.is_some_and(|value| !value.doubtful.load(Relaxed))
    }

    fn advance(&self, book: &mut Book, now: Timestamp) {
        let Some(pace) = book.pace else { return };
        book.arrange();
        let mut changed = false;
        while let Some(step) = next_step(&book.candidates(), &pace, now) {
            let Some(entry) = book.entries.get_mut(step.index) else {
                break;
            };
            let change = entry.enter(&step, &pace, now);
            if step.to == State::Canary {
                self.turn.store(0, Relaxed);
            }
            if step.to == State::Retired {
                let gone = book.entries.remove(step.index);
                book.remember(gone.standing(None));
            }
            book.changes.push(change);
            changed = true;
        }
        self.routes.store(Arc::new(book.routes(&pace, now)));
        if changed || !book.changes.is_empty() {
            self.announce();
        }
    }

    /// Wakes those who wait for a trial, and who writes things down.
    fn announce(&self) {
        self.changes
            .send_modify(|count| *count = count.wrapping_add(1));
        self.work.notify_one();
    }

    /// DCAMS has accepted a value: for the first time, or since it has its state.
    fn proven(&self, lease: &Lease, now: Timestamp) {
        let mut book = self.book();
        let value = &lease.value;
        // Asked again behind the lock: a refusal is not overtaken.
        if !lease.counts() {
            return;
        }
        value.proven.store(true, Release);
        value.doubtful.store(false, Relaxed);
        value.open.store(true, Release);
        value.accepted_since.store(true, Relaxed);
        if let Some(entry) = book.entry(value) {
            entry.refusals = 0;
        }
        self.advance(&mut book, now);
        self.announce();
    }

    fn refused(&self, lease: &Lease, now: Timestamp) {
        let mut book = self.book();
        let value = &lease.value;
        if !lease.counts() {
            return;
        }
        value.tide.fetch_add(1, Relaxed);
        value.open.store(false, Release);
        value.proven.store(false, Release);
        value.doubtful.store(true, Relaxed);
        value.width.store(1, Relaxed);
        // What was accepted in the future was so before the clock was set back.
        for entry in &book.entries {
            let accepted = &entry.value.accepted;
            accepted.fetch_min(now.as_millisecond(), Relaxed);
        }
        if let Some(entry) = book.entry(value) {
            entry.refused = Some(now);
            entry.refusals = entry.refusals.saturating_add(1);
            entry.refused_since = true;
        }
        self.advance(&mut book, now);
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("account", &self.account)
            .finish_non_exhaustive()
    }
}

impl Book {
    /// The order of preference: as configured, a newer value before an older one.
    fn arrange(&mut self) {
        let configured = &self.configured;
        let rank = |id: &CredentialId| configured.iter().position(|(known, _)| known == id);
        self.entries.sort_by_key(|e| {
            let rank = rank(&e.value.id).unwrap_or(usize::MAX);
            (rank, u64::MAX - e.value.generation)
        });
        let mut newest: Option<CredentialId> = None;
        for entry in &mut self.entries {
            let id = &entry.value.id;
            let found = configured.iter().find(|(known, _)| known == id);
            entry.place = match found {
                None => Place::Removed,
                Some(_) if newest.as_ref() == Some(id) => Place::Superseded,
                Some(_) => Place::Configured,
            };
            if let Some((_, validity)) = found {
                entry.validity = *validity;
            }
            newest = Some(id.clone());
        }
    }

    fn candidates(&self) -> Vec<Candidate> {
        self.entries.iter().map(Entry::candidate).collect()
    }

    fn routes(&self, pace: &Pace, now: Timestamp) -> Routes {
        let of = |state| {
            let mut entries = self.entries.iter();
            let entry = entries.find(|e| e.state == state)?;
            Some(Arc::clone(&entry.value))
        };
        let mut entries = self.entries.iter();
        let reserve = entries.find(|entry| {
            let known = entry.value.proven.load(Acquire);
            entry.state == State::Pending && known && entry.validity.covers(now)
        });
        Routes {
            active: of(State::Active),
            canary: of(State::Canary),
            reserve: reserve.map(|entry| Arc::clone(&entry.value)),
            // One that is a canary with none wanted was refused before: one request sees to it.
            percent: u64::from(pace.canary_percent).max(1),
        }
    }

    fn holds(&self, id: &CredentialId, credential: &Credential) -> bool {
        let own = self.entries.iter().filter(|e| e.value.id == *id);
        let newest = own.max_by_key(|e| e.value.generation);
        newest.is_some_and(|e| e.value.credential.is_same_as(credential))
    }

    fn take(
        &mut self,
        id: &CredentialId,
        credential: &Arc<Credential>,
        facts: Option<Facts>,
        now: Timestamp,
    ) {
        let configured = self.configured.iter().find(|(known, _)| known == id);
        let Some((_, validity)) = configured else {
            return;
        };
        if validity.not_after.is_some_and(|end| now >= end) || self.holds(id, credential) {
            return;
        }
        let generation = self.generations.entry(id.clone()).or_default();
        *generation += 1;
        let lately = self.pace.map_or(Duration::ZERO, |pace| pace.retry_after);
        let entry = Entry::new((id, *generation), credential, facts, now, lately);
        self.changes.push(Change {
            id: id.clone(),
            generation: *generation,
            from: None,
            to: entry.state,
            reason: Reason::Loaded,
        });
        self.entries.push(entry);
    }

    fn entry(&mut self, value: &Arc<Value>) -> Option<&mut Entry> {
        let mut entries = self.entries.iter_mut();
        entries.find(|e| Arc::ptr_eq(&e.value, value))
    }

    fn remember(&mut self, standing: Standing) {
        self.retired.push_front(standing);
        self.retired.truncate(MAX_RETIRED);
    }
}

impl Entry {
    fn new(
        (id, generation): (&CredentialId, u64),
        credential: &Arc<Credential>,
        facts: Option<Facts>,
        now: Timestamp,
        lately: Duration,
    ) -> Self {
        let facts = facts.unwrap_or(Facts {
            state: State::Pending,
            since: now,
            accepted: None,
            refused: None,
            refusals: 0,
            proven: false,
        });
        let canary = facts.state == State::Canary;
        let accepted = facts.accepted.map(|then| then.min(now));
        let value = Value {
            id: id.clone(),
            generation,
            credential: Arc::clone(credential),
            in_flight: AtomicU32::new(0),
            proven: AtomicBool::new(facts.proven),
            doubtful: AtomicBool::new(!facts.proven && facts.refused.is_some()),
            open: AtomicBool::new(false),
            trials: AtomicU32::new(0),
            width: AtomicU32::new(1),
            tide: AtomicU32::new(0),
            accepted: AtomicI64::new(accepted.map_or(0, Timestamp::as_millisecond)),
            used: AtomicI64::new(0),
            accepted_since: AtomicBool::new(canary && accepted > Some(facts.since)),
            leaving: AtomicBool::new(false),
        };
        value.judge(now, lately);
        Self {
            value: Arc::new(value),
            // What had left is offered again, so it begins again.
            state: match facts.state {
                State::Draining | State::Pending | State::Retired => State::Pending,
                state @ (State::Active | State::Canary | State::Probing | State::Rejected) => state,
            },
            since: facts.since,
            refused: facts.refused,
            refusals: facts.refusals,
            refused_since: false,
            chance: None,
            retry: false,
            place: Place::Configured,
            validity: Validity::default(),
        }
    }

    fn enter(&mut self, step: &Step, pace: &Pace, now: Timestamp) -> Change {
        let Step { to, reason, .. } = *step;
        let from = std::mem::replace(&mut self.state, to);
        self.since = now;
        self.refused_since = false;
        self.retry = false;
        if reason == Reason::OperatorRetry {
            self.refusals = 0;
        }
        if reason == Reason::SecondChance {
            self.chance = Some(now);
        }
        if matches!(to, State::Active | State::Canary) {
            self.value.judge(now, pace.retry_after);
        }
        self.value.accepted_since.store(false, Relaxed);
        let leaving = matches!(to, State::Draining | State::Retired);
        self.value.leaving.store(leaving, Relaxed);
        Change {
            id: self.value.id.clone(),
            generation: self.value.generation,
            from: Some(from),
            to,
            reason,
        }
    }

    fn is_to_be_probed(&self) -> bool {
        let asked = matches!(self.state, State::Active | State::Probing);
        asked && !self.value.open.load(Acquire)
    }

    fn accepted(&self) -> Option<Timestamp> {
        known(&self.value.accepted)
    }

    fn candidate(&self) -> Candidate {
        let said = if self.refused_since {
            Some(Login::Refused)
        } else {
            let accepted = self.value.accepted_since.load(Relaxed);
            accepted.then_some(Login::Accepted)
        };
        Candidate {
            state: self.state,
            since: self.since,
            said,
            proven: self.value.proven.load(Acquire),
            accepted: self.accepted(),
            refused: self.refused,
            refusals: self.refusals,
            chance: self.chance,
            retry: self.retry,
            place: self.place,
            validity: self.validity,
            in_flight: self.value.in_flight.load(Relaxed) > 0,
        }
    }

    fn facts(&self) -> Facts {
        Facts {
            state: self.state,
            since: self.since,
            accepted: self.accepted(),
            refused: self.refused,
            refusals: self.refusals,
            proven: self.value.proven.load(Acquire),
        }
    }

    fn standing(&self, pace: Option<&Pace>) -> Standing {
        let rests = self.state == State::Rejected;
        let retry_at = |pace: &Pace| {
            let refused = self.refused.filter(|_| rests)?;
            Some(pace.retry_at(refused, self.refusals))
        };
        Standing {
            id: self.value.id.clone(),
            generation: self.value.generation,
            state: self.state,
            since: self.since,
            used: known(&self.value.used),
            accepted: self.accepted(),
            refused: self.refused,
            retry_at: pace.and_then(retry_at),
            in_flight: self.value.in_flight.load(Relaxed),
            validity: self.validity,
        }
    }
}

impl Value {
    /// Lets all requests in where DCAMS has accepted it lately, and one at a time otherwise: what was good
    /// a year ago may be dead.
    fn judge(&self, now: Timestamp, lately: Duration) {
        let proven = self.proven.load(Acquire);
        let recent = known(&self.accepted).is_some_and(|then| {
            let until = then.checked_add(lately).unwrap_or(Timestamp::MAX);
            now <= until
        });
        self.open.store(proven && recent, Release);
    }

    fn begin_trial(&self) -> bool {
        let width = self.width.load(Relaxed);
        let more = |trials: u32| (trials < width).then_some(trials + 1);
        self.trials.fetch_update(AcqRel, Acquire, more).is_ok()
    }

    /// DCAMS answers, and says nothing of the credential: more may try, so that a vendor that is failing
    /// does not make them stand in line.
    fn widen(&self) {
        let wider = |width: u32| (width < WIDEST).then_some(width * 2);
        self.width.fetch_update(Relaxed, Relaxed, wider).ok();
    }
}

/// A time that is kept in milliseconds since 1970, where there is one.
fn known(time: &AtomicI64) -> Option<Timestamp> {
    let time = time.load(Relaxed);
    (time > 0).then(|| Timestamp::from_millisecond(time).ok())?
}

/// A credential for one call upstream. What DCAMS made of it is said with [`Lease::end`]; a lease that
/// is dropped without a word says nothing of the credential.
pub struct Lease {
    pool: Arc<Pool>,
    value: Arc<Value>,
    tide: u32,
    trial: bool,
}

impl Lease {
    /// What the credential is called.
    pub fn id(&self) -> &CredentialId {
        &self.value.id
    }

    /// The credential.
    pub fn credential(&self) -> &Credential {
        &self.value.credential
    }

    /// Says what DCAMS made of the credential, where it said anything. A refused one did nothing.
    pub fn end(self, said: Option<Login>, now: Timestamp) {
        self.value.used.store(now.as_millisecond(), Relaxed);
        // Of an answer to a question from before the last refusal nothing follows for today.
        if !self.counts() {
            return;
        }
        match said {
            None => self.value.widen(),
            Some(Login::Accepted) => self.accepted(now),
            Some(Login::Refused) => self.pool.refused(&self, now),
        }
    }

    fn accepted(&self, now: Timestamp) {
        let value = &self.value;
        value.accepted.store(now.as_millisecond(), Relaxed);
        let known = value.open.load(Relaxed) && value.accepted_since.load(Relaxed);
        if !known {
            self.pool.proven(self, now);
        }
    }

    /// Whether it was not refused since this lease began.
    fn counts(&self) -> bool {
        self.value.tide.load(Relaxed) == self.tide
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let value = &self.value;
        if self.trial {
            value.trials.fetch_sub(1, AcqRel);
            if !value.open.load(Acquire) {
                // Nothing was said: the next one tries.
                self.pool.announce();
            }
        }
        let last = value.in_flight.fetch_sub(1, AcqRel) == 1;
        if last && value.leaving.load(Relaxed) {
            self.pool.work.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
