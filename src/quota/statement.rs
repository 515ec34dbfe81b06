//! What a tenant used in a billing month, for its bill. Pure.
//!
//! Invariant: every number comes from an account of the ledger, which counts what happened, not what
//! was logged of it.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use super::account::{Account, Tally};
use crate::operation::Operation;

/// The requests of one service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// What went to DCAMS: repetitions, and questions of our own, too.
    pub calls: u64,
    /// Requests that DCAMS did.
    pub succeeded: u64,
    /// Requests that it refused.
    pub refused: u64,
    /// Requests of which nobody knows.
    pub unknown: u64,
    /// Requests that it answered with 429 or 503.
    pub unavailable: u64,
}

/// The requests of each service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Services {
    create_or_update_customer: Counts,
    get_document_images: Counts,
    get_status: Counts,
    update_status: Counts,
}

/// Everything that a statement sums up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    /// Requests.
    pub services: Services,
    /// What they cost of the month, by `[quota.cost]` and `[quota.charge]`.
    pub charged: u64,
    /// Bytes of the bodies of those that went to DCAMS.
    pub bytes: u64,
    /// What was granted on top of the month's limit.
    pub granted: u64,
    /// What of the month's limit is gone and was not charged: processes that were cut off had it.
    pub unaccounted: u64,
}

impl Services {
    /// The requests of one.
    pub const fn of(&self, operation: Operation) -> &Counts {
        match operation {
            Operation::CreateOrUpdateCustomer => &self.create_or_update_customer,
            Operation::GetDocumentImages => &self.get_document_images,
            Operation::GetStatus => &self.get_status,
            Operation::UpdateStatus => &self.update_status,
        }
    }

    const fn of_mut(&mut self, operation: Operation) -> &mut Counts {
        match operation {
            Operation::CreateOrUpdateCustomer => &mut self.create_or_update_customer,
            Operation::GetDocumentImages => &mut self.get_document_images,
            Operation::GetStatus => &mut self.get_status,
            Operation::UpdateStatus => &mut self.update_status,
        }
    }
}

impl Sums {
    /// What an account says; `outstanding` of it is in use.
    pub(super) fn of(account: &Account, outstanding: u64) -> Self {
        let Tally {
            calls,
            endings,
            charged,
            bytes,
        } = account.tally;
        let mut services = Services::default();
        let counted = Operation::ALL.into_iter().zip(calls).zip(endings);
        for ((operation, calls), [succeeded, refused, unknown, unavailable]) in counted {
            *services.of_mut(operation) = Counts {
                calls,
                succeeded,
                refused,
                unknown,
                unavailable,
            };
        }
        let ([taken, _], [granted, _]) = (account.taken, account.extra);
        Self {
            services,
            charged,
            bytes,
            granted,
            unaccounted: taken.saturating_sub(charged).saturating_sub(outstanding),
        }
    }
}

impl AddAssign<&Counts> for Counts {
    fn add_assign(&mut self, other: &Self) {
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
        add(&mut self.calls, other.calls);
        add(&mut self.succeeded, other.succeeded);
        add(&mut self.refused, other.refused);
        add(&mut self.unknown, other.unknown);
        add(&mut self.unavailable, other.unavailable);
    }
}

impl AddAssign<&Self> for Sums {
    fn add_assign(&mut self, other: &Self) {
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
        for operation in Operation::ALL {
            *self.services.of_mut(operation) += other.services.of(operation);
        }
        add(&mut self.charged, other.charged);
        add(&mut self.bytes, other.bytes);
        add(&mut self.granted, other.granted);
        add(&mut self.unaccounted, other.unaccounted);
    }
}
