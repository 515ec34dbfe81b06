//! Fetches allowance from the store, and takes reports there: one task for all tenants.
//!
//! Whoever needs something calls it; all that have called by then go to the store together. Each second
//! it also looks at the tenants that were called for lately, so that what happened is written down and
//! what is not used goes back.

use std::{collections::VecDeque, mem, slice, sync::Arc, time::Duration};

use futures_util::{StreamExt, future::join_all, stream};
use jiff::{Span, Timestamp, civil::Date, tz::TimeZone};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval},
};
use uuid::Uuid;

use super::{
    Inner,
    account::{Account, Kind, Op, Told, Which},
    book::{Answered, Book, Crossed, Exchange, Freshness, Look},
    debts::{self, Debt},
    grant::{Grant, GrantError},
    redis,
    statement::Sums,
    usage::{Asked, Used},
};
use crate::{
    clock,
    ident::{Pseudonym, PseudonymKey, Purpose, TenantId},
    store::{Change, Store, StoreError, Table, redis::Redis},
};

/// How often it looks by itself.
const TICK: Duration = Duration::from_secs(1);
/// How many go to the store together, at most: of those that called, and of those that did not.
const BATCH: usize = 1024;
const PIECE: usize = 128;
/// Of how many of those Redis is asked at a time.
const AT_ONCE: usize = 64;
/// After how long a tenant that nobody asks for is forgotten here; until then metrics show it.
const FORGOTTEN: Duration = Duration::from_mins(10);
/// How often accounts that nobody asks for any more are removed, and how old they are then.
const TIDY_TICKS: u64 = 6 * 3600;
const DAYS_KEPT: i64 = 40;
const MONTHS_KEPT: i64 = 25;

/// What the keeper is asked for.
pub(super) enum Message {
    /// An operator grants something on top of a limit. Told whether it counts, once it is written down.
    Grant(Arc<Book>, Grant, oneshot::Sender<Result<bool, GrantError>>),
    /// A book needs something.
    Look(Arc<Book>),
    /// Somebody wants to know what was used in these months.
    Months(Vec<Asked>, oneshot::Sender<Result<Vec<Used>, StoreError>>),
    /// A tenant wants to know how it stands. Told whether the store has said it, lately.
    Refresh(Arc<Book>, oneshot::Sender<bool>),
    /// An operator wants to know how these stand. Told whether the store has said it.
    Survey(Vec<Arc<Book>>, oneshot::Sender<bool>),
    /// The process ends: everything is to be written down.
    Close(oneshot::Sender<()>),
}

/// Fetches allowance and takes reports.
pub struct Keeper {
    store: Store,
    pseudonyms: PseudonymKey,
    quotas: Arc<Inner>,
    messages: mpsc::UnboundedReceiver<Message>,
    /// Until it runs.
    debts: Option<mpsc::UnboundedReceiver<Debt>>,
    /// This process, among all that ever wrote to the store.
    node: u64,
    awake: Vec<Arc<Book>>,
    /// Those that need no look any more, and since which tick.
    asleep: VecDeque<(Instant, Arc<Book>)>,
    /// Those of the awake whose turn it still is.
    due: Vec<Arc<Book>>,
}

impl Keeper {
    pub(super) fn new(
        store: Store,
        pseudonyms: PseudonymKey,
        quotas: Arc<Inner>,
        messages: mpsc::UnboundedReceiver<Message>,
        debts: mpsc::UnboundedReceiver<Debt>,
    ) -> Self {
        let (_, random) = Uuid::now_v7().as_u64_pair();
        Self {
            store,
            pseudonyms,
            quotas,
            messages,
            debts: Some(debts),
            // Below 2^53, where numbers of every kind are exact; never 0.
            node: (random >> 11).max(1),
            awake: Vec::new(),
            asleep: VecDeque::new(),
            due: Vec::new(),
        }
    }

    /// Works until it is closed. `tell` hears of each soft limit that is crossed.
    ///
    /// Requests wait for messages, and for nothing else: the look at all that are awake is taken in
    /// pieces, with the messages of the meantime in between.
    pub async fn run(mut self, tell: impl Fn(&TenantId, &Crossed) + Send) {
        let Some(debts) = self.debts.take() else {
            return;
        };
        let redis = self.store.redis().cloned();
        // Beside it: no tenant's allowance waits for what is owed of another's end users.
        tokio::select! {
            () = self.keep(tell) => {}
            () = debts::pay(redis, debts) => {}
        }
    }

    async fn keep(mut self, tell: impl Fn(&TenantId, &Crossed) + Send) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut until_tidy = 0;
        loop {
            let message = if self.due.is_empty() {
                tokio::select! {
                    message = self.messages.recv() => {
                        let Some(message) = message else { return };
                        Some(message)
                    }
                    _ = ticks.tick() => {
                        self.due = mem::take(&mut self.awake);
                        if until_tidy == 0 {
                            until_tidy = TIDY_TICKS;
                            self.tidy(clock::now()).await;
                        }
                        until_tidy -= 1;
                        None
                    }
                }
            } else {
                self.messages.try_recv().ok()
            };
            if let Some(message) = message
                && let Some(done) = self.answer(message, &tell).await
            {
                return self.close(done, &tell).await;
            }
            self.look(&tell).await;
        }
    }

    /// Does what is asked. Returns whom to tell that everything is written down, where the process ends.
    async fn answer(
        &mut self,
        message: Message,
        tell: &(impl Fn(&TenantId, &Crossed) + Send),
    ) -> Option<oneshot::Sender<()>> {
        let mut next = Some(message);
        while let Some(message) = next.take() {
            match message {
                Message::Look(book) => next = self.look_at(book, tell).await,
                Message::Grant(book, grant, done) => {
                    let granted = self.grant(&book, &grant, tell).await;
                    let _ = done.send(granted);
                }
                Message::Months(asked, done) => {
                    drop(done.send(self.months(&asked, tell).await));
                }
                Message::Survey(books, done) => {
                    let known = self.survey(&books, tell).await;
                    let _ = done.send(known);
                }
                Message::Refresh(book, done) => {
                    let known = self.refresh(&book, tell).await;
                    let _ = done.send(known);
                }
                Message::Close(done) => return Some(done),
            }
        }
        None
    }

    /// Looks at this book, and at all others that have called by now. Returns what came after them.
    async fn look_at(
        &mut self,
        first: Arc<Book>,
        tell: &(impl Fn(&TenantId, &Crossed) + Send),
    ) -> Option<Message> {
        let mut batch = Vec::new();
        let mut other = None;
        let mut next = Some(first);
        while let Some(book) = next.take() {
            self.add(&mut batch, book, Look::Called);
            if batch.len() < BATCH {
                match self.messages.try_recv() {
                    Ok(Message::Look(book)) => next = Some(book),
                    Ok(message) => other = Some(message),
                    Err(_) => {}
                }
            }
        }
        self.take_to_store(batch, tell).await;
        other
    }

    /// Asks for everything about a book, unless whoever came before has just done so: many who want to
    /// know at once are one question, also where nobody answers it.
    async fn refresh(
        &mut self,
        book: &Arc<Book>,
        tell: &(impl Fn(&TenantId, &Crossed) + Send),
    ) -> bool {
        let shared = self.quotas.shared.is_some();
        match book.freshness(&self.quotas.now(), shared) {
            Freshness::Fresh => true,
            Freshness::Failed => false,
            Freshness::Stale => self.survey(slice::from_ref(book), tell).await,
        }
    }

    /// Asks for everything about these.
    async fn survey(
        &mut self,
        books: &[Arc<Book>],
        tell: &(impl Fn(&TenantId, &Crossed) + Send),
    ) -> bool {
        let mut known = true;
        for books in books.chunks(BATCH) {
            let mut batch = Vec::new();
            for book in books {
                self.add(&mut batch, Arc::clone(book), Look::All);
            }
            known &= self.take_to_store(batch, tell).await;
        }
        known
    }

    /// Grants something on top of a limit.
    async fn grant(
        &mut self,
        book: &Arc<Book>,
        grant: &Grant,
        tell: &(impl Fn(&TenantId, &Crossed) + Send),
    ) -> Result<bool, GrantError> {
        // One that the store was not told of goes first.
        if !self.write_grants(book, tell).await {
            return Err(GrantError::Unavailable);
        }
        let before = book.granted(grant);
        book.grant(grant, &self.quotas.now())?;
        if !self.write_grants(book, tell).await {
            return Err(GrantError::Unknown);
        }
        Ok(book.granted(grant) > before)
    }

    /// Has the store say everything about a book, until it knows what was granted.
    async fn write_grants(
        &mut self,
        book: &Arc<Book>,
        tell: &(impl Fn(&TenantId, &Crossed) + Send),
    ) -> bool {
        // The first look may only repeat a report that was lost.
        for _ in 0..2 {
            if !self.survey(slice::from_ref(book), tell).await {
                return false;
            }
            if !book.owes_grant() {
                return true;
            }
        }
        false
    }

    /// Reads what was used in these months, all that is known here included.
    async fn months(
        &mut self,
        asked: &[Asked],
        tell: &(impl Fn(&TenantId, &Crossed) + Send),
    ) -> Result<Vec<Used>, StoreError> {
        let active: Vec<Arc<Book>> = asked
            .iter()
            .filter_map(|asked| asked.book.clone())
            .collect();
        // The second look takes what came while the first was under way.
        for _ in 0..2 {
            if !self.survey(&active, tell).await {
                return Err(StoreError::Unavailable);
            }
        }
        let mut all = Vec::with_capacity(asked.len());
        for asked in asked {
            let mut months = Vec::with_capacity(asked.months.len());
            // All at once: requests wait for the keeper meanwhile.
            let accounts = asked.months.iter();
            let accounts = accounts.map(|which| self.account(&asked.tenant, *which));
            let accounts = join_all(accounts).await;
            for (which, account) in asked.months.iter().copied().zip(accounts) {
                let account = account?;
                let book = asked.book.as_ref();
                let outstanding = book.map_or(0, |book| book.outstanding(which));
                months.push(account.map(|account| Sums::of(&account, outstanding)));
            }
            all.push(Used(months));
        }
        Ok(all)
    }

    async fn account(
        &self,
        tenant: &TenantId,
        which: Which,
    ) -> Result<Option<Account>, StoreError> {
        if let Some(redis) = self.store.redis() {
            return redis::read(redis, tenant, which).await;
        }
        let stored = self
            .store
            .get(Table::Usage, &self.key(tenant, which))
            .await?;
        stored.as_deref().map(Account::decode).transpose()
    }

    /// Looks at some of those whose turn it is.
    async fn look(&mut self, tell: &(impl Fn(&TenantId, &Crossed) + Send)) {
        let rest = self.due.len().saturating_sub(PIECE);
        let books = self.due.split_off(rest);
        if books.is_empty() {
            return;
        }
        self.take_along(&books, Look::Now, tell).await;
        let now = clock::instant();
        for book in books {
            if !book.sleeps() {
                self.awake.push(book);
            } else if book.rests(now) {
                self.asleep.push_back((now, book));
            }
        }
        while let Some((since, _)) = self.asleep.front()
            && now.saturating_duration_since(*since) > FORGOTTEN
            && let Some((since, book)) = self.asleep.pop_front()
        {
            // It stands in the list once, so behind those that went to sleep before it did again.
            if let Some(later) = book.forget(since) {
                self.asleep.push_back((later, book));
            }
        }
    }

    async fn take_along(
        &mut self,
        books: &[Arc<Book>],
        look: Look,
        tell: &(impl Fn(&TenantId, &Crossed) + Send),
    ) {
        for books in books.chunks(BATCH) {
            let mut batch = Vec::new();
            for book in books {
                self.add(&mut batch, Arc::clone(book), look);
            }
            self.take_to_store(batch, tell).await;
        }
    }

    async fn close(
        mut self,
        done: oneshot::Sender<()>,
        tell: &(impl Fn(&TenantId, &Crossed) + Send),
    ) {
        let mut all = mem::take(&mut self.awake);
        all.append(&mut self.due);
        // The second look takes what was not acknowledged, or came while the first was under way.
        for _ in 0..2 {
            self.take_along(&all, Look::Last, tell).await;
        }
        let (paid, all) = oneshot::channel();
        if self.quotas.debts.send(Debt::End(paid)).is_ok() {
            drop(all.await);
        }
        let _ = done.send(());
    }

    fn add(&mut self, batch: &mut Vec<(Arc<Book>, Exchange)>, book: Arc<Book>, look: Look) {
        let now = self.quotas.now();
        let shared = self.quotas.shared.as_ref();
        let (exchange, woken) = book.exchange(look, self.node, &now, shared);
        if woken {
            self.awake.push(Arc::clone(&book));
        }
        batch.extend(exchange.map(|exchange| (book, exchange)));
    }

    async fn take_to_store(
        &self,
        batch: Vec<(Arc<Book>, Exchange)>,
        tell: &(impl Fn(&TenantId, &Crossed) + Send),
    ) -> bool {
        if batch.is_empty() {
            return true;
        }
        let answers = match self.store.redis() {
            Some(redis) => Ok(self.ask_redis(redis, &batch).await),
            None => self.ask_own(&batch).await,
        };
        if let Err(error) = &answers {
            tracing::error!(%error, tenants = batch.len(), "quotas cannot be kept");
        }
        let mut answers = answers.unwrap_or_default().into_iter();
        let now = self.quotas.now();
        let mut answered = true;
        for (book, exchange) in &batch {
            let answer = answers.next().flatten();
            answered &= answer.is_some();
            let shared = self.quotas.shared.as_ref();
            for crossed in book.answered(exchange, answer.as_ref(), &now, shared) {
                tell(&book.tenant, &crossed);
            }
        }
        answered
    }

    /// All of it in one commit.
    async fn ask_own(
        &self,
        batch: &[(Arc<Book>, Exchange)],
    ) -> Result<Vec<Option<Answered>>, StoreError> {
        let (keys, ops) = self.accounts_of(batch);
        let applied = ops.clone();
        let change = move |place: usize, stored: Option<&[u8]>| {
            let op = applied.get(place);
            let changed = op.and_then(|op| Some(apply(op, stored).ok()?.0));
            changed.map_or(Change::Keep, |account| Change::Put(account.encode()))
        };
        let former = self.store.update(Table::Usage, keys, change).await?;
        Ok(told(batch, &ops, &former))
    }

    /// Each tenant's in a call of its own, some at once. Redis says by itself when it is away.
    async fn ask_redis(
        &self,
        redis: &Redis,
        batch: &[(Arc<Book>, Exchange)],
    ) -> Vec<Option<Answered>> {
        let nodes = self.quotas.shared.map_or(1, |shared| shared.nodes.get());
        let mut calls = Vec::with_capacity(batch.len());
        for (book, exchange) in batch {
            let asking = (self.node, nodes);
            calls.push(redis::exchange(redis, &book.tenant, asking, exchange));
        }
        // More at once would wait for each other, longer than Redis has time to answer.
        let answers: Vec<_> = stream::iter(calls).buffered(AT_ONCE).collect().await;
        let answers = answers.into_iter().zip(batch);
        let answers = answers.map(|(answer, (book, _))| match answer {
            Ok(answered) => Some(answered),
            Err(StoreError::Unavailable) => None,
            Err(StoreError::Damaged) => damaged(book),
        });
        answers.collect()
    }

    fn accounts_of(&self, batch: &[(Arc<Book>, Exchange)]) -> (Vec<Pseudonym>, Vec<Op>) {
        let mut accounts = (Vec::new(), Vec::new());
        for (book, exchange) in batch {
            for op in &exchange.ops {
                accounts.0.push(self.key(&book.tenant, op.which));
                accounts.1.push(*op);
            }
        }
        accounts
    }

    fn key(&self, tenant: &TenantId, which: Which) -> Pseudonym {
        account_key(&self.pseudonyms, tenant, which)
    }

    /// Removes accounts that nobody will ask for.
    async fn tidy(&self, now: Timestamp) {
        // There they end by themselves.
        if self.store.redis().is_some() {
            return;
        }
        let removed = async {
            let stored = self.store.scan(Table::Usage).await?;
            let old = old_ones(stored, now)?;
            for keys in old.chunks(BATCH) {
                let remove = |_: usize, _: Option<&[u8]>| Change::Remove;
                self.store
                    .update(Table::Usage, keys.to_vec(), remove)
                    .await?;
            }
            Ok::<_, StoreError>(())
        };
        if let Err(error) = removed.await {
            tracing::warn!(%error, "old accounts of quotas were not removed; they do no harm");
        }
    }
}

/// The name of an account in the store.
pub(super) fn account_key(pseudonyms: &PseudonymKey, tenant: &TenantId, which: Which) -> Pseudonym {
    pseudonyms.pseudonym(Purpose::Usage, tenant, which.to_string().as_bytes())
}

fn apply(op: &Op, stored: Option<&[u8]>) -> Result<(Account, Told), StoreError> {
    let mut account = stored.map(Account::decode).transpose()?.unwrap_or_default();
    let told = account.apply(op, 1);
    Ok((account, told))
}

/// Decides a second time, from what the store had, to learn what was decided.
fn told(
    batch: &[(Arc<Book>, Exchange)],
    ops: &[Op],
    former: &[Option<Vec<u8>>],
) -> Vec<Option<Answered>> {
    let decided = ops.iter().zip(former);
    let mut told = decided.map(|(op, stored)| Some(apply(op, stored.as_deref()).ok()?.1));
    let answered = |(book, exchange): &(Arc<Book>, Exchange)| {
        let told: Vec<Option<Told>> = told.by_ref().take(exchange.ops.len()).collect();
        let told: Option<Vec<Told>> = told.into_iter().collect();
        let portion = None;
        told.map_or_else(|| damaged(book), |told| Some(Answered { told, portion }))
    };
    batch.iter().map(answered).collect()
}

/// What is stored of a tenant makes no sense: that is nothing to the others.
fn damaged(book: &Book) -> Option<Answered> {
    tracing::error!(tenant.id = %book.tenant, "an account of its quota is damaged");
    None
}

/// The accounts of days and months that are long over.
fn old_ones(
    stored: Vec<(Pseudonym, Vec<u8>)>,
    now: Timestamp,
) -> Result<Vec<Pseudonym>, StoreError> {
    let today = TimeZone::UTC.to_datetime(now).date();
    let before = |span: Span| today.checked_sub(span).unwrap_or(Date::MIN);
    let day = before(Span::new().days(DAYS_KEPT));
    let month = before(Span::new().months(MONTHS_KEPT));
    let mut old = Vec::new();
    for (key, value) in stored {
        let which = Account::decode(&value)?.which;
        let is_old = which.is_some_and(|which| match which.kind {
            Kind::Day => which.first < day,
            Kind::Month => which.first < month,
        });
        old.extend(is_old.then_some(key));
    }
    Ok(old)
}
