//! What operators ask the keeper for: how tenants stand, more for one of them, a month's numbers.
//!
//! Each waits no longer than [`PATIENCE`], whatever the disk does.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use jiff::civil::Date;
use tokio::{
    sync::oneshot,
    time::{timeout, timeout_at},
};

use super::{
    Quotas, TenantQuota,
    account::{Kind, Which},
    book::{Book, Standing},
    grant::{Grant, GrantError},
    keeper::Message,
    statement::Sums,
};
use crate::{clock, ident::TenantId, store::StoreError};

/// How long an operator waits for the store.
const PATIENCE: Duration = Duration::from_secs(15);
/// How many tenants' months are read at a time: requests that wait for allowance come in between.
const TENANTS: usize = 32;

/// A tenant's billing months: the account of each is named by its first day.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Whose.
    pub tenant: TenantId,
    /// The first days that a month may have.
    pub firsts: Vec<Date>,
}

/// What a tenant used in each month that was asked about; none where nothing was ever written down.
#[derive(Debug)]
pub struct Used(pub Vec<Option<Sums>>);

/// The same as the keeper is asked for it.
pub(super) struct Asked {
    pub(super) tenant: TenantId,
    /// Where there was a request for it in this process.
    pub(super) book: Option<Arc<Book>>,
    pub(super) months: Vec<Which>,
}

impl Quotas {
    /// Has all these looked up in the store; whether it has said how they stand now.
    pub async fn survey(&self, tenants: &[TenantQuota]) -> bool {
        let books = tenants.iter().map(|tenant| Arc::clone(&tenant.book));
        let (done, known) = oneshot::channel();
        drop(self.0.keeper.send(Message::Survey(books.collect(), done)));
        matches!(timeout(PATIENCE, known).await, Ok(Ok(true)))
    }

    /// What each tenant used in these months, in their order. First everything is written down that
    /// has happened.
    pub async fn months(&self, wanted: Vec<Wanted>) -> Result<Vec<Used>, StoreError> {
        let deadline = clock::instant() + PATIENCE;
        let mut months = Vec::with_capacity(wanted.len());
        let mut wanted = wanted.into_iter();
        loop {
            let some = wanted.by_ref().take(TENANTS);
            let some: Vec<Asked> = some.map(|wanted| self.asked(wanted)).collect();
            if some.is_empty() {
                return Ok(months);
            }
            let (done, read) = oneshot::channel();
            drop(self.0.keeper.send(Message::Months(some, done)));
            let read = timeout_at(deadline, read).await;
            let read = read.map_err(|_| StoreError::Unavailable)?;
            months.extend(read.map_err(|_| StoreError::Unavailable)??);
        }
    }

    fn asked(&self, wanted: Wanted) -> Asked {
        let books = self.0.books.lock().unwrap_or_else(PoisonError::into_inner);
        let book = books.get(&wanted.tenant).filter(|book| book.is_active());
        let kind = Kind::Month;
        let months = wanted.firsts.into_iter();
        Asked {
            book: book.cloned(),
            months: months.map(|first| Which { kind, first }).collect(),
            tenant: wanted.tenant,
        }
    }
}

impl TenantQuota {
    /// How the tenant's own limits stand, as far as this node knows.
    pub fn limits(&self) -> Vec<Standing> {
        let (now, shared) = (self.quotas.now(), self.quotas.shared.as_ref());
        self.book.standings(&now, shared)
    }

    /// Grants something on top of a limit, and has it written down; false where a grant with the same
    /// id was made before.
    pub async fn grant(&self, grant: Grant) -> Result<bool, GrantError> {
        let (done, granted) = oneshot::channel();
        let message = Message::Grant(Arc::clone(&self.book), grant, done);
        drop(self.quotas.keeper.send(message));
        let granted = timeout(PATIENCE, granted).await;
        granted.map_or(Err(GrantError::Unknown), |granted| {
            // The keeper has ended, and was not told before.
            granted.unwrap_or(Err(GrantError::Unavailable))
        })
    }
}
