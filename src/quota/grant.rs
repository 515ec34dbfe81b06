//! What an operator grants on top of a limit. Pure.
//!
//! Invariant: a grant names a limit of a day or month, and is neither nothing nor too much to count.

use aws_lc_rs::digest::{SHA256, digest};
use thiserror::Error;

use super::account::Kind;
use crate::{
    ident::GrantId,
    limits::{LARGEST, Policy},
};

/// An extra allowance, until the day or month ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// On top of which limit.
    pub policy: Policy,
    /// How much.
    pub amount: u64,
    pub(super) kind: Kind,
    pub(super) measure: usize,
    pub(super) name: Option<u64>,
}

/// Why nothing was granted, or why that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum GrantError {
    /// Nothing, or too much.
    #[error("`amount` is a whole number from 1 to {LARGEST}")]
    Amount,
    /// The tenant is not limited there.
    #[error("the tenant has no such limit, so there is nothing to grant on top of it")]
    NoLimit,
    /// No limit of a day or month.
    #[error("`policy` is one of daily, monthly and bytes_daily")]
    Policy,
    /// Together with what was granted before.
    #[error("all that is granted in one day or month is at most {LARGEST}")]
    TooMuch,
    /// The store does not answer, and was not told yet.
    #[error("the state store does not answer, and nothing was granted: look at it, then try again")]
    Unavailable,
    /// The store did not answer.
    #[error(
        "the state store does not answer. The grant may have taken effect, and may yet do so while this \
         gateway runs: look at GET /api/usage before you repeat it, or repeat it with the same `id`"
    )]
    Unknown,
}

impl Grant {
    /// So much on top of a limit; under one id a day or month takes one grant.
    pub fn new(policy: &str, amount: u64, id: Option<&GrantId>) -> Result<Self, GrantError> {
        let all = [
            (Policy::Daily, Kind::Day, 0),
            (Policy::BytesDaily, Kind::Day, 1),
            (Policy::Monthly, Kind::Month, 0),
        ];
        let found = all.into_iter().find(|(of, ..)| of.name() == policy);
        let (policy, kind, measure) = found.ok_or(GrantError::Policy)?;
        if !(1..=LARGEST).contains(&amount) {
            return Err(GrantError::Amount);
        }
        let name = id.map(|id| name(policy, id));
        Ok(Self {
            policy,
            amount,
            kind,
            measure,
            name,
        })
    }
}

/// An id as an account knows it: a number that is exact in every type on the way (below 2^53).
fn name(policy: Policy, id: &GrantId) -> u64 {
    let text = format!("{} {}", policy.name(), id.as_str());
    let hash = digest(&SHA256, text.as_bytes());
    let first = hash.as_ref().first_chunk().copied().unwrap_or_default();
    u64::from_be_bytes(first) >> 11
}
