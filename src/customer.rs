//! The ledger: which tenant owns a customer, where tenants share an account.
//!
//! DCAMS knows a customer by the email within an account, and nothing of our tenants. So the tenant
//! that creates a customer through the gateway owns it, and nobody else reaches it. Invariant: two
//! tenants never own one customer, and a customer whose creation may have happened is owned: the
//! claim is on disk before the first byte goes upstream, and goes away only on a certain refusal, or
//! on an operator's word.
//!
//! Whose customer it is must not show in the time of an answer. [`Ledger::view`] is one look-up;
//! every entry has one size ([`EVEN`]), and where there is none the store opens the one next to its
//! place, so both cost one walk down the tree and one opening (measured: 2.01 and 2.02 µs). Both
//! then become the same answer, built in the same way.

mod entry;
pub mod import;

use std::borrow::Cow;

use thiserror::Error;

pub use self::entry::{Hold, Outcome, Owner, Phase, View};
use self::{entry::Entry, import::Action};
use crate::{
    ident::{AccountId, Pseudonym, PseudonymKey, Purpose, TenantId},
    payload::email::is_mailbox,
    store::{Change, EVEN, Store, StoreError, Table},
};

/// Which spellings of an address are one customer.
///
/// How DCAMS compares them is undocumented. So nothing rests on it: where several spellings are one
/// customer here, all of them are sent in one spelling, and no other one ever reaches DCAMS. If DCAMS
/// takes two of them for two customers, the other one is out of everybody's reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmailCase {
    /// `Ann@` and `ann@` are two customers, and sent as they are. If DCAMS takes them for one, a
    /// tenant could reach another's customer by typing it differently.
    Exact,
    /// They are one.
    Ignore,
}

impl EmailCase {
    /// The one spelling of an address: in lower case, and without quotes that it does not need
    /// (RFC 5321 4.1.2). What follows a plus sign stays: that is another mailbox.
    pub fn canonical(self, email: &str) -> Cow<'_, str> {
        let email = email.trim();
        match self {
            Self::Exact => Cow::Borrowed(email),
            Self::Ignore => Cow::Owned(unquoted(email).to_ascii_lowercase()),
        }
    }
}

fn unquoted(email: &str) -> Cow<'_, str> {
    let quoted = email
        .strip_prefix('"')
        .and_then(|rest| rest.rsplit_once("\"@"));
    let Some((local, domain)) = quoted else {
        return Cow::Borrowed(email);
    };
    let mut plain = String::with_capacity(email.len());
    let mut characters = local.chars();
    while let Some(character) = characters.next() {
        // Behind a backslash stands what it is put in front of.
        let meant = if character == '\\' {
            characters.next()
        } else {
            Some(character)
        };
        plain.extend(meant);
    }
    plain.push('@');
    plain.push_str(domain);
    if plain.starts_with('"') || !is_mailbox(&plain) {
        return Cow::Borrowed(email);
    }
    Cow::Owned(plain)
}

/// A customer of an account, by a pseudonym.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CustomerKey(Pseudonym);

impl CustomerKey {
    /// The customer whom this account knows by this address.
    pub fn new(key: &PseudonymKey, account: &AccountId, case: EmailCase, email: &str) -> Self {
        let email = case.canonical(email);
        Self(key.pseudonym(Purpose::Owner, account, email.as_bytes()))
    }
}

/// Why a tenant does not get at a customer. The first three are one answer to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OwnershipError {
    /// Another tenant owns it.
    #[error("the customer is another tenant's")]
    AnotherTenants,
    /// The upstream does not know it.
    #[error("the upstream knows no such customer")]
    NotAtUpstream,
    /// The ledger does not know it, and the tenant may have only what is its own.
    #[error("the customer is not in the ledger")]
    NotInLedger,
    /// It was to be created, and was there before the gateway was.
    #[error("the customer existed before")]
    Existed,
    /// It was to be created, and is another tenant's.
    #[error("the customer to be created is another tenant's")]
    Taken,
    /// The ledger cannot be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl OwnershipError {
    /// One word for the operator's log and the audit event.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::AnotherTenants | Self::Taken => "owned_by_another",
            Self::Existed => "existed_before",
            Self::NotAtUpstream => "customer_not_found",
            Self::NotInLedger => "not_in_ledger",
            Self::Store(StoreError::Damaged) => "state_damaged",
            Self::Store(StoreError::Unavailable) => "state_unavailable",
        }
    }
}

/// Who owns whom.
#[derive(Debug, Clone)]
pub struct Ledger {
    store: Store,
}

impl Ledger {
    /// The ledger that is kept in this store.
    pub const fn new(store: Store) -> Self {
        Self { store }
    }

    /// What a customer is to a tenant.
    pub async fn view(&self, of: CustomerKey, tenant: &TenantId) -> Result<View, StoreError> {
        let value = self.store.get(Table::Customers, &of.0).await?;
        Ok(entry::view(Entry::read(value.as_deref())?.as_ref(), tenant))
    }

    /// Holds a customer for a tenant, beginning in this phase, unless it is another's. A hold that
    /// comes too late to be waited for is given back.
    pub async fn hold(
        &self,
        of: CustomerKey,
        tenant: &TenantId,
        phase: Phase,
    ) -> Result<Hold, StoreError> {
        let (holder, giver) = (tenant.clone(), tenant.clone());
        let held = self.store.update_or_undo(
            Table::Customers,
            of.0,
            move |value| decided(value, |entry| entry::hold(entry, &holder, phase).0),
            move |value| decided(value, |entry| entry::release(entry, &giver).0),
        );
        let former = held.await?;
        Ok(entry::hold(Entry::read(former.as_deref())?, tenant, phase).1)
    }

    /// Notes that the upstream did not know a held customer: whatever it knows from now on is the
    /// holder's. Returns whether the hold still stands.
    pub async fn clear(&self, of: CustomerKey, tenant: &TenantId) -> Result<bool, StoreError> {
        self.decide(of, tenant, entry::clear).await
    }

    /// Notes that the upstream knew a held customer already. Returns whether that was the holder's
    /// own doing in the meantime; if not, the hold is given back.
    pub async fn withdraw(&self, of: CustomerKey, tenant: &TenantId) -> Result<bool, StoreError> {
        self.decide(of, tenant, entry::withdraw).await
    }

    /// Gives a hold back: what it was taken for certainly did not happen.
    pub async fn release(&self, of: CustomerKey, tenant: &TenantId) -> Result<(), StoreError> {
        self.decide(of, tenant, entry::release).await
    }

    /// Makes a held customer the tenant's own.
    pub async fn confirm(&self, of: CustomerKey, tenant: &TenantId) -> Result<(), StoreError> {
        self.decide(of, tenant, entry::confirm).await
    }

    /// Who has a customer. For operators: a tenant is told nothing but its [`Ledger::view`].
    pub async fn owner(&self, of: CustomerKey) -> Result<Option<Owner>, StoreError> {
        let value = self.store.get(Table::Customers, &of.0).await?;
        Ok(entry::owner(Entry::read(value.as_deref())?))
    }

    /// Does what an operator says to customers of a tenant, all in one commit.
    pub async fn apply(
        &self,
        action: Action,
        customers: &[CustomerKey],
        tenant: &TenantId,
    ) -> Result<Vec<Outcome>, StoreError> {
        let decide = match action {
            Action::Import => entry::import,
            Action::Remove => entry::remove,
        };
        self.decide_all(customers, tenant, decide).await
    }

    async fn decide<T>(
        &self,
        of: CustomerKey,
        tenant: &TenantId,
        decide: impl Fn(Option<Entry>, &TenantId) -> (Change, T) + Clone + Send + Sync + 'static,
    ) -> Result<T, StoreError> {
        let outcome = self.decide_all(&[of], tenant, decide).await?.pop();
        outcome.ok_or(StoreError::Damaged)
    }

    /// A decision is made twice: by the store, where it counts, and again from what the store had,
    /// to learn what was decided.
    async fn decide_all<T>(
        &self,
        customers: &[CustomerKey],
        tenant: &TenantId,
        decide: impl Fn(Option<Entry>, &TenantId) -> (Change, T) + Clone + Send + Sync + 'static,
    ) -> Result<Vec<T>, StoreError> {
        let keys = customers.iter().map(|customer| customer.0).collect();
        let (again, owner) = (decide.clone(), tenant.clone());
        let change = move |_, value: Option<&[u8]>| decided(value, |entry| decide(entry, &owner).0);
        let former = self.store.update(Table::Customers, keys, change).await?;
        former
            .iter()
            .map(|value| Ok(again(Entry::read(value.as_deref())?, tenant).1))
            .collect()
    }
}

/// A decision on what is stored; what cannot be read is left as it is.
fn decided(value: Option<&[u8]>, decide: impl FnOnce(Option<Entry>) -> Change) -> Change {
    match Entry::read(value) {
        Ok(entry) => decide(entry),
        Err(StoreError::Damaged | StoreError::Unavailable) => Change::Keep,
    }
}

#[cfg(test)]
mod tests;
