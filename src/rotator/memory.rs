//! What the store knows of credentials: what DCAMS said to each value, by a keyed pseudonym of it.
//!
//! Invariant: none of it is a value, nor made of one without the key. Where the store says nothing, DCAMS
//! will.

use std::{collections::HashSet, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Journal, Rotator};
use crate::{
    credential::{
        Credential,
        pool::{Facts, Known, Offer, Pool},
        rotation::State,
    },
    ident::{CredentialId, Pseudonym},
    store::{self, StoreError, Table},
};

impl Rotator {
    /// A value with what the store knows of it, where the pool does not know it yet. Where the store
    /// says nothing, DCAMS will.
    pub(super) async fn recall(
        &self,
        pool: &Pool,
        id: &CredentialId,
        credential: Arc<Credential>,
    ) -> Offer {
        let mut facts = None;
        if !pool.holds(id, &credential) {
            let key = credential.identity(&self.observers.pseudonyms, pool.account(), id);
            match self.store.get(Table::Credentials, &key).await {
                Ok(stored) => facts = stored.and_then(|note| Note::decode(&note)),
                Err(error) => tracing::warn!(
                    account.id = %pool.account(), credential.id = %id, %error,
                    "what is known of a credential was not read; it begins anew"
                ),
            }
        }
        Offer { credential, facts }
    }

    /// Forgets what the store says of values that are not there any more.
    pub async fn tidy(&self) {
        if let Err(error) = self.forget_others().await {
            tracing::warn!(%error, "what was known of former credentials was not removed");
        }
    }

    async fn forget_others(&self) -> Result<(), StoreError> {
        let accounts = self.accounts.load_full();
        let known: HashSet<Pseudonym> = accounts
            .values()
            .flat_map(|live| live.pool.facts())
            .map(|known| self.identity(&known))
            .collect();
        let stored = self.store.scan(Table::Credentials).await?;
        let gone = stored.into_iter().map(|(key, _)| key);
        let gone: Vec<Pseudonym> = gone.filter(|key| !known.contains(key)).collect();
        let remove = |_: usize, _: Option<&[u8]>| store::Change::Remove;
        if !gone.is_empty() {
            self.store.update(Table::Credentials, gone, remove).await?;
        }
        Ok(())
    }

    fn identity(&self, known: &Known) -> Pseudonym {
        let key = &self.observers.pseudonyms;
        known.credential.identity(key, &known.account, &known.id)
    }

    /// Brings the store in step with the pools. Where it fails, it is done again with the next change:
    /// all that is lost by a crash until then is what DCAMS will say again.
    pub(super) async fn write_down(&self, journal: &mut Journal) {
        let accounts = self.accounts.load_full();
        let known = accounts.values().flat_map(|live| live.pool.facts());
        let mut left = std::mem::take(&mut journal.stored);
        let (mut keys, mut changes) = (Vec::new(), Vec::new());
        for known in known {
            let note = Note::of(&known.facts);
            let stored = left.remove(&known.name());
            let key = match &stored {
                Some((key, _)) => *key,
                None => self.identity(&known),
            };
            if !stored.is_some_and(|(_, stored)| stored.is_as_good_as(&note)) {
                keys.push(key);
                changes.push(store::Change::Put(note.encode()));
            }
            journal.stored.insert(known.name(), (key, note));
        }
        let stored = &journal.stored;
        journal.probed.retain(|name, _| stored.contains_key(name));
        for (key, _) in left.into_values() {
            // A value that went and came back has the same key under another name.
            if !journal.stored.values().any(|(kept, _)| *kept == key) {
                keys.push(key);
                changes.push(store::Change::Remove);
            }
        }
        if keys.is_empty() {
            return;
        }
        let change = move |index: usize, _: Option<&[u8]>| {
            changes.get(index).cloned().unwrap_or(store::Change::Keep)
        };
        if let Err(error) = self.store.update(Table::Credentials, keys, change).await {
            journal.stored.clear();
            tracing::warn!(%error, "what is known of credentials was not written down");
        }
    }
}

impl Note {
    fn of(facts: &Facts) -> Self {
        Self {
            state: facts.state.as_str().to_owned(),
            since: facts.since,
            accepted: facts.accepted,
            refused: facts.refused,
            refusals: facts.refusals,
            proven: facts.proven,
        }
    }

    /// Whether they differ in nothing but when the value was last accepted, which it is all the time.
    fn is_as_good_as(&self, newer: &Self) -> bool {
        let since = Self {
            accepted: newer.accepted,
            ..self.clone()
        };
        since == *newer
    }

    fn encode(&self) -> Vec<u8> {
        // Words, numbers and times: there is nothing to fail on.
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn decode(text: &[u8]) -> Option<Facts> {
        let note: Self = serde_json::from_slice(text).ok()?;
        Some(Facts {
            state: State::from_word(&note.state)?,
            since: note.since,
            accepted: note.accepted,
            refused: note.refused,
            refusals: note.refusals,
            proven: note.proven,
        })
    }
}

/// What the store holds of a value. None of it is the value, nor made of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Note {
    state: String,
    since: Timestamp,
    accepted: Option<Timestamp>,
    refused: Option<Timestamp>,
    refusals: u32,
    proven: bool,
}
