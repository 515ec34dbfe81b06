//! What operators do with the ledger: customers from before the gateway become a tenant's own, or
//! are taken out again, and somebody can be asked about.
//!
//! Invariant: what an operator says is done whole or not at all, a batch at a time; a customer that
//! another tenant has stays with that one. Doing it again changes nothing.

use super::{CustomerKey, EmailCase, Ledger, Outcome, Owner};
use crate::{
    ident::{AccountId, PseudonymKey, TenantId},
    payload::email::is_mailbox,
    store::StoreError,
};

/// Most customers in one batch, which is one commit.
pub const BATCH: usize = 1000;

/// What it takes to import a tenant's customers, or to take them out.
#[derive(Debug)]
pub struct Importer {
    /// Where they are written down.
    pub ledger: Ledger,
    /// What their addresses are turned into pseudonyms with.
    pub pseudonyms: PseudonymKey,
    /// The account that knows them.
    pub account: AccountId,
    /// How it compares addresses.
    pub email_case: EmailCase,
    /// Whose they are.
    pub tenant: TenantId,
}

/// What an operator does with customers of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Writes them down as the tenant's own.
    Import,
    /// Takes them out of the ledger, so that they are nobody's.
    Remove,
}

impl Importer {
    /// Does it to these customers in one commit; says of each, in their order, what came of it.
    pub async fn apply(
        &self,
        action: Action,
        emails: &[String],
    ) -> Result<Vec<Outcome>, StoreError> {
        let keys: Vec<Option<CustomerKey>> = emails
            .iter()
            .map(|email| is_mailbox(email.trim()).then(|| self.key(email)))
            .collect();
        let customers: Vec<CustomerKey> = keys.iter().copied().flatten().collect();
        let applied = self.ledger.apply(action, &customers, &self.tenant).await?;
        let mut applied = applied.into_iter();
        let outcome = |key: Option<CustomerKey>| {
            let applied = key.and_then(|_| applied.next());
            applied.unwrap_or(Outcome::Invalid)
        };
        Ok(keys.into_iter().map(outcome).collect())
    }

    /// Who has this customer of the account, whichever tenant it is.
    pub async fn owner(&self, email: &str) -> Result<Option<Owner>, StoreError> {
        self.ledger.owner(self.key(email)).await
    }

    fn key(&self, email: &str) -> CustomerKey {
        CustomerKey::new(&self.pseudonyms, &self.account, self.email_case, email)
    }
}

/// One that knows the customers of this account: each of its tenants' does.
pub fn of_account<'a>(
    mut importers: impl Iterator<Item = &'a Importer>,
    account: &str,
) -> Option<&'a Importer> {
    importers.find(|importer| importer.account.as_str() == account)
}
