//! Writes down customers from before the gateway as a tenant's own.
//!
//! Invariant: what an operator says is done whole or not at all, a batch at a time; a customer that
//! another tenant has stays with that one. Doing it again changes nothing.

use super::{CustomerKey, EmailCase, Import, Ledger};
use crate::{
    ident::{AccountId, PseudonymKey, TenantId},
    payload::email::is_mailbox,
    store::StoreError,
};

/// Most customers in one batch, which is one commit.
pub const BATCH: usize = 1000;

/// What it takes to import a tenant's customers.
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

/// What came of one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was the tenant's before.
    AlreadyOwned,
    /// It is the tenant's now.
    Imported,
    /// Not an email address.
    Invalid,
    /// It is another tenant's.
    Taken,
}

impl Outcome {
    const ALL: [Self; 4] = [
        Self::AlreadyOwned,
        Self::Imported,
        Self::Invalid,
        Self::Taken,
    ];

    /// The word in the admin listener's answer.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AlreadyOwned => "already_owned",
            Self::Imported => "imported",
            Self::Invalid => "invalid",
            Self::Taken => "taken",
        }
    }

    /// The outcome of this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == word)
    }
}

impl Importer {
    /// Imports these customers in one commit; says of each, in their order, what came of it.
    pub async fn import(&self, emails: &[String]) -> Result<Vec<Outcome>, StoreError> {
        let keys: Vec<Option<CustomerKey>> = emails
            .iter()
            .map(|email| is_mailbox(email.trim()).then(|| self.key(email)))
            .collect();
        let customers: Vec<CustomerKey> = keys.iter().copied().flatten().collect();
        let imported = self.ledger.import(&customers, &self.tenant).await?;
        let mut imported = imported.into_iter();
        let outcome = |key: Option<CustomerKey>| match key.and_then(|_| imported.next()) {
            None => Outcome::Invalid,
            Some(Import::AlreadyOwned) => Outcome::AlreadyOwned,
            Some(Import::Imported) => Outcome::Imported,
            Some(Import::Taken) => Outcome::Taken,
        };
        Ok(keys.into_iter().map(outcome).collect())
    }

    fn key(&self, email: &str) -> CustomerKey {
        CustomerKey::new(&self.pseudonyms, &self.account, self.email_case, email)
    }
}
