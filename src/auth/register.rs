//! Keeps the register of revocations: durable in the state store, and in force on every request.
//!
//! Invariant: what was asked for is on disk and in force when the call returns. The list that
//! requests look at is never behind the store for longer than the call that changed it.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use thiserror::Error;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::revocation::{Revocation, RevocationList, Revoked, Target};
use crate::{
    clock,
    ident::{Pseudonym, PseudonymKey, Purpose, Scope},
    store::{Change, Store, StoreError, Table},
};

/// Most entries: at up to 800 bytes each, with their targets held twice, about 80 MB.
const MAX_ENTRIES: usize = 50_000;

/// How often entries that have ended are removed.
const TIDY: Duration = Duration::from_mins(1);

/// The register of revocations.
pub struct Register {
    store: Store,
    pseudonyms: PseudonymKey,
    configured: Vec<Revocation>,
    list: RevocationList,
}

/// An entry, as operators see it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name: a keyed pseudonym of its target.
    pub id: Pseudonym,
    /// What it says.
    pub revocation: Revocation,
    /// Whether it stands in the configuration, where alone it can be removed.
    pub configured: bool,
}

/// Why the register was not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RegisterError {
    /// There are as many entries as there may be.
    #[error(
        "there are {MAX_ENTRIES} revocations already: revoke by tenant, by key or by issued_before"
    )]
    Full,
    /// It could not be written or read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Register {
    /// The register in this store, and what stands in the configuration beside it.
    ///
    /// # Errors
    /// What the store says: without its revocations nothing may start.
    pub async fn open(
        store: Store,
        pseudonyms: PseudonymKey,
        configured: Vec<Revocation>,
    ) -> Result<Self, StoreError> {
        let mut revoked = Revoked::default();
        revoked.extend(configured.iter().cloned());
        for (_, value) in store.scan(Table::Revocations).await? {
            revoked.add(decode(&value)?);
        }
        let list = RevocationList::default();
        list.replace(revoked);
        Ok(Self {
            store,
            pseudonyms,
            configured,
            list,
        })
    }

    /// The list that requests look at.
    pub fn list(&self) -> RevocationList {
        self.list.clone()
    }

    /// Revokes, and returns what is in force now: a second revocation never weakens the first.
    pub async fn add(&self, revocation: Revocation) -> Result<Entry, RegisterError> {
        if self.list.snapshot().len() >= MAX_ENTRIES {
            return Err(RegisterError::Full);
        }
        let (id, target) = (self.id(&revocation.target), revocation.target.clone());
        let change = move |_: usize, stored: Option<&[u8]>| {
            let joined = match stored.map(decode) {
                Some(Ok(known)) => revocation.clone().with(&known),
                // What can't be read can't be joined; what is asked for now is in force.
                Some(Err(_)) | None => revocation.clone(),
            };
            Change::Put(encode(&joined))
        };
        self.store
            .update(Table::Revocations, vec![id], change)
            .await?;
        let stored = self.apply(&[(id, target)]).await?.pop().flatten();
        Ok(Entry {
            id,
            revocation: stored.ok_or(StoreError::Unavailable)?,
            configured: false,
        })
    }

    /// Takes a revocation back; whether there was one.
    pub async fn remove(&self, id: Pseudonym) -> Result<bool, RegisterError> {
        let stored = self.store.get(Table::Revocations, &id).await?;
        let Some(stored) = stored.as_deref().map(decode).transpose()? else {
            return Ok(false);
        };
        let change = |_: usize, _: Option<&[u8]>| Change::Remove;
        self.store
            .update(Table::Revocations, vec![id], change)
            .await?;
        self.apply(&[(id, stored.target)]).await?;
        Ok(true)
    }

    /// Everything in force.
    pub async fn entries(&self, now: Timestamp) -> Result<Vec<Entry>, StoreError> {
        let configured = self.configured.iter().map(|revocation| Entry {
            id: self.id(&revocation.target),
            revocation: revocation.clone(),
            configured: true,
        });
        let mut entries: Vec<Entry> = configured.collect();
        for (id, value) in self.store.scan(Table::Revocations).await? {
            let revocation = decode(&value)?;
            if !revocation.has_ended(now) {
                entries.push(Entry {
                    id,
                    revocation,
                    configured: false,
                });
            }
        }
        Ok(entries)
    }

    /// Removes what has ended, every minute, until `stop`.
    pub async fn keep_tidy(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = interval(TIDY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            if let Err(error) = self.tidy(clock::now()).await {
                tracing::warn!(%error, "ended revocations were not removed; they cover nothing");
            }
        }
    }

    async fn tidy(&self, now: Timestamp) -> Result<(), StoreError> {
        let mut ended = Vec::new();
        for (id, value) in self.store.scan(Table::Revocations).await? {
            let revocation = decode(&value)?;
            if revocation.has_ended(now) {
                ended.push((id, revocation.target));
            }
        }
        if ended.is_empty() {
            return Ok(());
        }
        // Looked at again where it is written: it may have been renewed since.
        let change = move |_: usize, stored: Option<&[u8]>| match stored.map(decode) {
            Some(Ok(revocation)) if revocation.has_ended(now) => Change::Remove,
            Some(_) | None => Change::Keep,
        };
        let ids = ended.iter().map(|(id, _)| *id).collect();
        self.store.update(Table::Revocations, ids, change).await?;
        self.apply(&ended).await.map(drop)
    }

    /// Brings the list in step with what is stored of these targets, and returns that.
    ///
    /// Two changes of one target may overtake each other between store and list; whoever finds that
    /// the store has moved on does it again, so that the last one to write the list is right.
    async fn apply(
        &self,
        targets: &[(Pseudonym, Target)],
    ) -> Result<Vec<Option<Revocation>>, StoreError> {
        let mut stored = self.stored(targets).await?;
        loop {
            let standing = self.configured.iter().cloned();
            let kept = standing.filter(|r| targets.iter().any(|(_, target)| r.target == *target));
            let in_force: Vec<Revocation> = kept.chain(stored.iter().flatten().cloned()).collect();
            self.list
                .set(targets.iter().map(|(_, target)| target), &in_force);
            let since = self.stored(targets).await?;
            if since == stored {
                return Ok(stored);
            }
            stored = since;
        }
    }

    async fn stored(
        &self,
        targets: &[(Pseudonym, Target)],
    ) -> Result<Vec<Option<Revocation>>, StoreError> {
        let mut stored = Vec::with_capacity(targets.len());
        for (id, _) in targets {
            let value = self.store.get(Table::Revocations, id).await?;
            stored.push(value.as_deref().map(decode).transpose()?);
        }
        Ok(stored)
    }

    /// The entry's key. A subject may name a person, so it is a pseudonym like every other key.
    fn id(&self, target: &Target) -> Pseudonym {
        let value = serde_json::to_vec(target).unwrap_or_default();
        self.pseudonyms
            .pseudonym(Purpose::Revocation, Scope::GATEWAY, &value)
    }
}

fn encode(revocation: &Revocation) -> Vec<u8> {
    // Strings and times: writing them into memory has nothing to fail on.
    serde_json::to_vec(revocation).unwrap_or_default()
}

fn decode(value: &[u8]) -> Result<Revocation, StoreError> {
    serde_json::from_slice(value).map_err(|_| StoreError::Damaged)
}
