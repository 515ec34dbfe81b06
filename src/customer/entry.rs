//! Decides what becomes of one customer's entry in the ledger. Pure: an entry in, an entry out.
//!
//! Invariant: an entry changes its owner in one case only, an operator's import over a hold whose
//! holder has nothing yet. Only an operator takes out what is owned. A hold is counted, so that of two
//! creations at a time the one that is refused does not give back what the other stands on; and a
//! hold that nobody gives back (the process died) stays, which keeps others out.

use super::EVEN;
use crate::{
    ident::TenantId,
    store::{Change, StoreError},
};

/// How far a tenant's claim to a customer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The upstream is being asked whether the customer was there before. Nothing may be done with
    /// the customer yet: it may be somebody else's, from before the gateway.
    Asking,
    /// A request that makes the customer the holder's may be under way.
    Sending,
    /// The customer is the tenant's.
    Owned,
}

impl Phase {
    const ALL: [Self; 3] = [Self::Asking, Self::Sending, Self::Owned];

    const fn byte(self) -> u8 {
        match self {
            Self::Asking => 1,
            Self::Sending => 2,
            Self::Owned => 3,
        }
    }

    /// The word in the admin listener's answer.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Asking => "asking",
            Self::Sending => "sending",
            Self::Owned => "owned",
        }
    }

    /// The phase of this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == word)
    }
}

/// Who has a customer, and how far the claim has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The tenant.
    pub tenant: TenantId,
    /// How far.
    pub phase: Phase,
}

/// What is written down about one customer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    owner: TenantId,
    phase: Phase,
    /// Requests that stand on it, until it is owned.
    in_flight: u32,
}

/// What a customer is to a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// Another tenant's.
    AnotherTenants,
    /// The tenant's, as far as requests that are under way will have it.
    Held,
    /// The tenant's.
    Owned,
    /// Nobody's that the ledger knows.
    Unknown,
}

/// What came of asking for a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// It stands, in this phase, and is to be settled.
    Held(Phase),
    /// None is needed.
    Owned,
    /// The customer is another tenant's.
    Taken,
}

/// What came of what an operator asked for one customer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// To be imported, and the tenant's before.
    AlreadyOwned,
    /// The tenant's now.
    Imported,
    /// Not an email address.
    Invalid,
    /// To be taken out, and not this tenant's.
    NotOwned,
    /// The tenant's before, and nobody's now.
    Removed,
    /// To be imported, and another tenant's.
    Taken,
}

impl Outcome {
    const ALL: [Self; 6] = [
        Self::AlreadyOwned,
        Self::Imported,
        Self::Invalid,
        Self::NotOwned,
        Self::Removed,
        Self::Taken,
    ];

    /// The word in the admin listener's answer.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AlreadyOwned => "already_owned",
            Self::Imported => "imported",
            Self::Invalid => "invalid",
            Self::NotOwned => "not_owned",
            Self::Removed => "removed",
            Self::Taken => "taken",
        }
    }

    /// The outcome of this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == word)
    }
}

pub(super) fn view(entry: Option<&Entry>, tenant: &TenantId) -> View {
    match entry {
        None => View::Unknown,
        Some(entry) if entry.owner != *tenant => View::AnotherTenants,
        Some(entry) => match entry.phase {
            Phase::Asking => View::Unknown,
            Phase::Sending => View::Held,
            Phase::Owned => View::Owned,
        },
    }
}

pub(super) fn hold(entry: Option<Entry>, tenant: &TenantId, phase: Phase) -> (Change, Hold) {
    let held = match entry {
        Some(entry) if entry.owner != *tenant => return (Change::Keep, Hold::Taken),
        Some(entry) if entry.phase == Phase::Owned => return (Change::Keep, Hold::Owned),
        Some(entry) => Entry {
            phase: entry.phase.max(phase),
            in_flight: entry.in_flight.saturating_add(1),
            ..entry
        },
        None => Entry {
            owner: tenant.clone(),
            phase,
            in_flight: 1,
        },
    };
    (held.put(), Hold::Held(held.phase))
}

pub(super) fn clear(entry: Option<Entry>, tenant: &TenantId) -> (Change, bool) {
    match entry {
        Some(entry) if entry.owner == *tenant => {
            let phase = entry.phase.max(Phase::Sending);
            let cleared = Entry { phase, ..entry };
            (cleared.put(), true)
        }
        Some(_) | None => (Change::Keep, false),
    }
}

pub(super) fn withdraw(entry: Option<Entry>, tenant: &TenantId) -> (Change, bool) {
    match &entry {
        // Another request of the holder found it absent, and has created it since.
        Some(entry) if entry.owner == *tenant && entry.phase > Phase::Asking => {
            (Change::Keep, true)
        }
        Some(_) | None => (release(entry, tenant).0, false),
    }
}

pub(super) fn release(entry: Option<Entry>, tenant: &TenantId) -> (Change, ()) {
    let change = match entry {
        Some(entry) if entry.owner == *tenant && entry.phase != Phase::Owned => {
            let in_flight = entry.in_flight.saturating_sub(1);
            if in_flight == 0 {
                Change::Remove
            } else {
                Entry { in_flight, ..entry }.put()
            }
        }
        Some(_) | None => Change::Keep,
    };
    (change, ())
}

pub(super) fn confirm(entry: Option<Entry>, tenant: &TenantId) -> (Change, ()) {
    let change = match entry {
        Some(entry) if entry.owner != *tenant || entry.phase == Phase::Owned => Change::Keep,
        Some(_) | None => Entry::owned(tenant).put(),
    };
    (change, ())
}

pub(super) fn import(entry: Option<Entry>, tenant: &TenantId) -> (Change, Outcome) {
    match entry {
        Some(entry) if entry.owner == *tenant && entry.phase == Phase::Owned => {
            (Change::Keep, Outcome::AlreadyOwned)
        }
        // A holder that is still asking has no right to the customer yet, and may have died so.
        Some(entry) if entry.owner != *tenant && entry.phase != Phase::Asking => {
            (Change::Keep, Outcome::Taken)
        }
        Some(_) | None => (Entry::owned(tenant).put(), Outcome::Imported),
    }
}

/// In every phase, because a hold may be what a crash has left. A creation whose hold this was goes
/// no further than [`clear`], or is written down again by [`confirm`] once it has succeeded, unless
/// another tenant holds the customer by then.
pub(super) fn remove(entry: Option<Entry>, tenant: &TenantId) -> (Change, Outcome) {
    match entry {
        Some(entry) if entry.owner == *tenant => (Change::Remove, Outcome::Removed),
        Some(_) | None => (Change::Keep, Outcome::NotOwned),
    }
}

pub(super) fn owner(entry: Option<Entry>) -> Option<Owner> {
    entry.map(|entry| Owner {
        tenant: entry.owner,
        phase: entry.phase,
    })
}

/// The first byte of an entry of this form.
const FORM: u8 = 1;

impl Entry {
    fn owned(tenant: &TenantId) -> Self {
        Self {
            owner: tenant.clone(),
            phase: Phase::Owned,
            in_flight: 0,
        }
    }

    fn put(&self) -> Change {
        let name = self.owner.as_str().as_bytes();
        let mut bytes = Vec::with_capacity(EVEN);
        bytes.extend_from_slice(&[FORM, self.phase.byte()]);
        bytes.extend_from_slice(&self.in_flight.to_le_bytes());
        // A name has 64 bytes at most.
        bytes.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(name);
        bytes.resize(EVEN, 0);
        Change::Put(bytes)
    }

    /// What [`Entry::put`] wrote, or nothing where nothing is.
    pub(super) fn read(value: Option<&[u8]>) -> Result<Option<Self>, StoreError> {
        let Some(value) = value else { return Ok(None) };
        Self::parse(value).map(Some).ok_or(StoreError::Damaged)
    }

    fn parse(value: &[u8]) -> Option<Self> {
        let (&[form, phase], rest) = value.split_first_chunk()?;
        let (in_flight, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first()?;
        let name = rest.get(..usize::from(*length))?;
        (form == FORM && value.len() == EVEN).then_some(())?;
        Some(Self {
            owner: TenantId::try_from(str::from_utf8(name).ok()?).ok()?,
            phase: Phase::ALL.into_iter().find(|p| p.byte() == phase)?,
            in_flight: u32::from_le_bytes(*in_flight),
        })
    }
}
