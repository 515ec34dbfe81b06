//! Keeps the register of revocations: durable in the state store, and in force on every request.
//!
//! Invariant: what was acknowledged is in the store and in force. Where the store does not answer in time,
//! what was asked for is in force all the same, until the store has been looked at again. What another
//! gateway writes into a store that they share is in force here about a second later; while that store is
//! away, or where it has forgotten, what is known stays in force.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::future::try_join_all;
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

/// How often it is asked whether another gateway has changed something.
const FOLLOW: Duration = Duration::from_secs(1);

/// How many entries of the store are asked for at once.
const TOGETHER: usize = 500;

/// How often entries that have ended are removed.
const TIDY: Duration = Duration::from_mins(1);

/// The register of revocations.
pub struct Register {
    store: Store,
    pseudonyms: PseudonymKey,
    /// What stands in the configuration; replaced as a whole when that is read again.
    configured: ArcSwap<Vec<Revocation>>,
    list: RevocationList,
    /// Whether an update ended in doubt, so that the list may differ from the store.
    behind: AtomicBool,
    /// Up to which change the store's entries are in the list.
    seen: AtomicU64,
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

/// What came of taking a revocation back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It stands in the configuration, and is removed there.
    Configured,
    /// It is gone from the register, and the same one stands in the configuration.
    ConfiguredToo,
    /// It is gone.
    Done,
    /// There was none.
    Unknown,
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
        // Before the entries: what changes in between is looked at again.
        let seen = store.version(Table::Revocations).await?.unwrap_or(0);
        for (_, value) in store.scan(Table::Revocations).await? {
            revoked.add(decode(&value)?);
        }
        let list = RevocationList::default();
        list.replace(revoked);
        Ok(Self {
            store,
            pseudonyms,
            configured: ArcSwap::from_pointee(configured),
            list,
            behind: AtomicBool::new(false),
            seen: AtomicU64::new(seen),
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
        let in_force = revocation.clone();
        let change = move |_: usize, stored: Option<&[u8]>| {
            let joined = match stored.map(decode) {
                Some(Ok(known)) => revocation.clone().with(&known),
                // What can't be read can't be joined; what is asked for now is in force.
                Some(Err(_)) | None => revocation.clone(),
            };
            Change::Put(encode(&joined))
        };
        // In force before it is written: a disk that takes too long may write it or not, and until
        // that is known (`keep_tidy`) the strict side is the safe one.
        self.list.add(&[in_force]);
        let written = self.store.update(Table::Revocations, vec![id], change);
        self.note(written.await)?;
        let stored = self.apply(&[(id, target)]).await?.pop().flatten();
        Ok(Entry {
            id,
            revocation: stored.ok_or(StoreError::Unavailable)?,
            configured: false,
        })
    }

    /// Takes a revocation back.
    pub async fn remove(&self, id: Pseudonym) -> Result<Removal, RegisterError> {
        let configured = self.configured.load_full();
        let configured = configured.iter().any(|r| self.id(&r.target) == id);
        let stored = self.store.get(Table::Revocations, &id).await?;
        let Some(stored) = stored.as_deref().map(decode).transpose()? else {
            return Ok(if configured {
                Removal::Configured
            } else {
                Removal::Unknown
            });
        };
        let change = |_: usize, _: Option<&[u8]>| Change::Remove;
        let written = self.store.update(Table::Revocations, vec![id], change);
        self.note(written.await)?;
        self.apply(&[(id, stored.target)]).await?;
        Ok(if configured {
            Removal::ConfiguredToo
        } else {
            Removal::Done
        })
    }

    /// Puts in force what a new configuration says, beside what the present one does: from here on
    /// no request sees less than either. [`replace_configured`](Self::replace_configured) follows.
    pub fn announce(&self, configured: &[Revocation]) {
        let both = [self.configured.load().as_slice(), configured].concat();
        self.configured.store(Arc::new(both));
        self.list.add(configured);
    }

    /// Takes a new configuration's entries in the place of the present ones, which end where they do
    /// not stand in it, or in the store, too.
    ///
    /// # Errors
    /// What the store says. What was configured before is in force a little longer then, until the
    /// store has been looked at again.
    pub async fn replace_configured(&self, configured: Vec<Revocation>) -> Result<(), StoreError> {
        let configured = Arc::new(configured);
        let before = self.configured.swap(Arc::clone(&configured));
        let targets = before.iter().chain(configured.iter()).map(|r| &r.target);
        let targets: HashSet<&Target> = targets.collect();
        let named = targets.into_iter().map(|t| (self.id(t), t.clone()));
        let named: Vec<_> = named.collect();
        self.note(self.apply(&named).await).map(drop)
    }

    /// Everything in force.
    pub async fn entries(&self, now: Timestamp) -> Result<Vec<Entry>, StoreError> {
        let configured = self.configured.load_full();
        let configured = configured.iter().map(|revocation| Entry {
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

    /// Takes over what other gateways change, every second, until `stop`; nothing to do where there can
    /// be no other.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        if self.store.redis().is_none() {
            return;
        }
        let mut ticks = interval(FOLLOW);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let followed = self.follow_once(clock::now()).await;
            match &followed {
                Err(error) if !failing => tracing::error!(
                    %error,
                    "what other gateways revoke is not learnt; what is known stays in force"
                ),
                Ok(()) if failing => tracing::info!("what other gateways revoke is learnt again"),
                Ok(()) | Err(_) => {}
            }
            failing = followed.is_err();
        }
    }

    async fn follow_once(&self, now: Timestamp) -> Result<(), StoreError> {
        let Some(version) = self.store.version(Table::Revocations).await? else {
            return Ok(());
        };
        let seen = self.seen.load(Relaxed);
        if version == seen {
            return Ok(());
        }
        let mut stored = Revoked::default();
        for (_, value) in self.store.scan(Table::Revocations).await? {
            stored.add(decode(&value)?);
        }
        if version < seen {
            self.restore(&stored, now).await?;
        }
        let mut expected = stored;
        expected.extend(self.configured.load().iter().cloned());
        let known = self.list.snapshot();
        let all = known.targets().into_iter().chain(expected.targets());
        let differing: HashSet<Target> = all.filter(|t| known.of(t) != expected.of(t)).collect();
        // One by one, because one that is being written here may not have been there yet.
        let differing: Vec<_> = differing.into_iter().map(|t| (self.id(&t), t)).collect();
        if !differing.is_empty() {
            self.apply(&differing).await?;
        }
        self.seen.store(version, Relaxed);
        Ok(())
    }

    /// Writes again what a store has forgotten: an older copy of it has taken its place.
    async fn restore(&self, stored: &Revoked, now: Timestamp) -> Result<(), StoreError> {
        let configured = self.configured.load_full();
        let known = self.list.snapshot();
        let in_configuration = |target: &Target| {
            configured
                .iter()
                .any(|revocation| revocation.target == *target)
        };
        let targets = known.targets().into_iter();
        let lost = targets.filter(|t| stored.of(t).is_none() && !in_configuration(t));
        let lost = lost.filter_map(|target| known.of(&target).cloned());
        let lost: Vec<Revocation> = lost.filter(|r| !r.has_ended(now)).collect();
        tracing::error!(
            revocations = lost.len(),
            "the state store went back in time; the revocations that it has forgotten are written again"
        );
        let keys = lost.iter().map(|r| self.id(&r.target)).collect();
        let change = move |place: usize, stored: Option<&[u8]>| match (stored, lost.get(place)) {
            (None, Some(revocation)) => Change::Put(encode(revocation)),
            (Some(_), _) | (None, None) => Change::Keep,
        };
        self.store
            .update(Table::Revocations, keys, change)
            .await
            .map(drop)
    }

    /// Remembers that the list may differ from the store, where that was asked in vain.
    fn note<T>(&self, asked: Result<T, StoreError>) -> Result<T, StoreError> {
        asked.inspect_err(|_| self.behind.store(true, Relaxed))
    }

    /// Brings the whole list in step, where an update ended in doubt since the last time.
    async fn catch_up(&self) -> Result<(), StoreError> {
        if !self.behind.swap(false, Relaxed) {
            return Ok(());
        }
        let stored = self.note(self.store.scan(Table::Revocations).await)?;
        let mut targets = self.list.snapshot().targets();
        for (_, value) in stored {
            targets.insert(decode(&value)?.target);
        }
        let targets: Vec<_> = targets.into_iter().map(|t| (self.id(&t), t)).collect();
        self.note(self.apply(&targets).await).map(drop)
    }

    async fn tidy(&self, now: Timestamp) -> Result<(), StoreError> {
        self.catch_up().await?;
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
    /// store or configuration have moved on does it again, so that the last to write the list is right.
    async fn apply(
        &self,
        targets: &[(Pseudonym, Target)],
    ) -> Result<Vec<Option<Revocation>>, StoreError> {
        let in_question: HashSet<&Target> = targets.iter().map(|(_, target)| target).collect();
        let mut stored = self.stored(targets).await?;
        loop {
            let configured = self.configured.load_full();
            let standing = configured.iter().cloned();
            let kept = standing.filter(|r| in_question.contains(&r.target));
            let in_force: Vec<Revocation> = kept.chain(stored.iter().flatten().cloned()).collect();
            self.list.set(&in_question, &in_force);
            let since = self.stored(targets).await?;
            let current = Arc::ptr_eq(&configured, &self.configured.load());
            if since == stored && current {
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
        for some in targets.chunks(TOGETHER) {
            let asked = some
                .iter()
                .map(|(id, _)| self.store.get(Table::Revocations, id));
            for value in try_join_all(asked).await? {
                stored.push(value.as_deref().map(decode).transpose()?);
            }
        }
        Ok(stored)
    }

    /// What a revocation of these tokens is called.
    pub fn id(&self, target: &Target) -> Pseudonym {
        entry_id(&self.pseudonyms, target)
    }
}

/// The name of a target's entry. A subject may name a person, so it is a pseudonym like every other
/// key of the store.
pub fn entry_id(pseudonyms: &PseudonymKey, target: &Target) -> Pseudonym {
    let value = serde_json::to_vec(target).unwrap_or_default();
    pseudonyms.pseudonym(Purpose::Revocation, Scope::GATEWAY, &value)
}

fn encode(revocation: &Revocation) -> Vec<u8> {
    // Strings and times: writing them into memory has nothing to fail on.
    serde_json::to_vec(revocation).unwrap_or_default()
}

fn decode(value: &[u8]) -> Result<Revocation, StoreError> {
    serde_json::from_slice(value).map_err(|_| StoreError::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{auth::revocation::Revoked, ident::TenantId};

    const AT: i64 = 1_800_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn of(tenant: &str, ends: i64) -> Revocation {
        let tenant = TenantId::try_from(tenant).unwrap();
        Revocation {
            target: Target::Tenant { tenant },
            issued_before: None,
            ends: Some(at(ends)),
        }
    }

    async fn register(store: &Store, configured: Vec<Revocation>) -> Register {
        let pseudonyms = PseudonymKey::derive(&[1; 32]);
        let opened = Register::open(store.clone(), pseudonyms, configured);
        opened.await.unwrap()
    }

    fn in_force(register: &Register) -> Vec<String> {
        let targets = register.list.snapshot().targets();
        let name = |target: &Target| {
            let Target::Tenant { tenant } = target else {
                return target.kind().to_owned();
            };
            tenant.to_string()
        };
        let mut names: Vec<String> = targets.iter().map(name).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn what_has_ended_is_removed_and_what_was_renewed_or_is_configured_stays() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::embedded(folder.path(), &[7; 32]).unwrap();
        let register = register(&store, vec![of("configured", AT + 99)]).await;
        for revocation in [
            of("a", AT),
            of("b", AT),
            of("configured", AT),
            of("c", AT + 1),
        ] {
            register.add(revocation).await.unwrap();
        }
        register.add(of("b", AT + 1)).await.unwrap();
        register.tidy(at(AT)).await.unwrap();
        assert_eq!(in_force(&register), ["b", "c", "configured"]);
        let entries = register.entries(at(AT)).await.unwrap();
        assert_eq!(entries.len(), 3);
        // The same from the file.
        let reopened = self::register(&store, Vec::new()).await;
        assert_eq!(in_force(&reopened), ["b", "c"]);
    }

    #[tokio::test]
    async fn a_new_configurations_entries_take_the_place_of_the_old_ones() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::embedded(folder.path(), &[7; 32]).unwrap();
        let old = ["both", "old", "old-and-stored"].map(|name| of(name, AT));
        let register = register(&store, old.to_vec()).await;
        register.add(of("old-and-stored", AT)).await.unwrap();
        register.add(of("stored", AT)).await.unwrap();
        let new = ["both", "new"].map(|name| of(name, AT));
        register.announce(&new);
        let all = ["both", "new", "old", "old-and-stored", "stored"];
        assert_eq!(in_force(&register), all);
        // An operator who takes one back meanwhile takes none of the configuration's with it.
        let id = entry_id(&register.pseudonyms, &of("new", AT).target);
        assert_eq!(register.remove(id).await.unwrap(), Removal::Configured);
        assert_eq!(in_force(&register), all);
        register.replace_configured(new.to_vec()).await.unwrap();
        let left = ["both", "new", "old-and-stored", "stored"];
        assert_eq!(in_force(&register), left);
        let entries = register.entries(at(AT - 1)).await.unwrap();
        let configured = entries.iter().filter(|e| e.configured).count();
        assert_eq!((entries.len(), configured), (4, 2));
        register.replace_configured(Vec::new()).await.unwrap();
        assert_eq!(in_force(&register), ["old-and-stored", "stored"]);
    }

    #[tokio::test]
    async fn an_entry_of_both_configurations_is_never_out_of_force() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::embedded(folder.path(), &[7; 32]).unwrap();
        let register = Arc::new(register(&store, vec![of("both", AT)]).await);
        let (watcher, stop) = (Arc::clone(&register), CancellationToken::new());
        let stopped = stop.clone();
        let both = of("both", AT).target;
        let watching = std::thread::spawn(move || {
            let mut looks = 0;
            while !stopped.is_cancelled() {
                let targets = watcher.list.snapshot().targets();
                assert!(targets.contains(&both), "after {looks} looks");
                looks += 1;
            }
            looks
        });
        for round in 0..200 {
            let new = vec![of("both", AT), of(&round.to_string(), AT)];
            register.announce(&new);
            register.replace_configured(new).await.unwrap();
        }
        stop.cancel();
        assert!(watching.join().unwrap() > 0);
        assert_eq!(in_force(&register), ["199", "both"]);
    }

    #[tokio::test]
    async fn after_an_update_in_doubt_the_list_follows_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::embedded(folder.path(), &[7; 32]).unwrap();
        let (one, two) = (
            register(&store, Vec::new()).await,
            register(&store, Vec::new()).await,
        );
        // Written, though nobody heard of it; and in force, though it was not written.
        two.add(of("written", AT + 9)).await.unwrap();
        one.list.add(&[of("unwritten", AT + 9)]);
        one.tidy(at(AT)).await.unwrap();
        assert_eq!(in_force(&one), ["unwritten"]);
        one.note::<()>(Err(StoreError::Unavailable)).unwrap_err();
        one.tidy(at(AT)).await.unwrap();
        assert_eq!(in_force(&one), ["written"]);
    }

    #[tokio::test]
    async fn there_is_a_most_of_entries() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::embedded(folder.path(), &[7; 32]).unwrap();
        let register = register(&store, Vec::new()).await;
        let mut full = Revoked::default();
        full.extend((0..MAX_ENTRIES).map(|number| of(&number.to_string(), AT)));
        register.list.replace(full);
        let added = register.add(of("one-more", AT)).await;
        assert_eq!(added.err(), Some(RegisterError::Full));
        assert_eq!(store.scan(Table::Revocations).await.unwrap().len(), 0);
    }
}
