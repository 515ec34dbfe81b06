//! Reads credentials' files and secrets again and again, and hands over what is new.
//!
//! Invariant: a source that cannot be read costs nothing that is in use, and shows; a value counts only
//! for the place where the configuration has it at that moment.

use std::{
    collections::HashMap,
    future::pending,
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::sleep;

use super::{Name, Rotator, plan::ANOTHERS};
use crate::{
    clock,
    credential::{
        Credential,
        source::{Source, SourceError},
    },
    watch::{Look, Settled},
};

/// How soon Vault is asked again where something could not be read.
const AGAIN: Duration = Duration::from_secs(5);

impl Rotator {
    pub(super) async fn watch_files(&self) {
        let mut files = Files::default();
        let mut asked = self.sources.subscribe();
        loop {
            let every = *self.watch.borrow();
            tokio::select! {
                () = pause(every) => {}
                _ = asked.changed() => files = Files::default(),
            }
            self.look(&mut files).await;
        }
    }

    pub(super) async fn watch_vault(&self) {
        let mut asked = self.sources.subscribe();
        loop {
            let refresh = self.vault.load_full().map(|link| link.vault.refresh());
            // What could not be read is not left for an hour.
            let every = refresh.map(|refresh| {
                if self.troubles().is_empty() {
                    refresh
                } else {
                    refresh.min(AGAIN)
                }
            });
            tokio::select! {
                () = pause(every) => {}
                _ = asked.changed() => {}
            }
            self.read_vault().await;
        }
    }

    /// Reads the sources again whose files have changed, or could not be read the last time.
    async fn look(&self, files: &mut Files) {
        let accounts = self.accounts.load_full();
        let sources = accounts.values().flat_map(|live| {
            let own = live.settings.credentials.iter();
            own.map(|c| ((live.settings.id.clone(), c.id.clone()), c.source.clone()))
        });
        let sources: Vec<(Name, Source)> = sources.collect();
        let looked = self.tasks.spawn_blocking(move || {
            let look = |(name, source): (Name, Source)| {
                let files = source.files();
                (!files.is_empty()).then(|| (name, Look::at(&files), source))
            };
            sources.into_iter().filter_map(look).collect::<Vec<_>>()
        });
        let Ok(looked) = looked.await else { return };
        let mut watched = std::mem::take(&mut files.0);
        for (name, look, source) in looked {
            let known = watched.remove(&name);
            // One that is new was read before it was looked at for the first time.
            let fresh = known.is_none();
            let mut settled = known.unwrap_or_else(|| Settled::new(look.clone()));
            let moved = settled.observe(look);
            if moved || fresh || self.troubles().contains_key(&name) {
                self.read_again(&name, source).await;
            }
            files.0.insert(name, settled);
        }
    }

    /// What is there now.
    pub(super) async fn read(&self, source: Source) -> Result<Arc<Credential>, SourceError> {
        if let Source::Vault(path) = &source {
            let link = self.vault.load_full().ok_or(SourceError::Elsewhere)?;
            return Source::read_vault(path, &link.vault).await;
        }
        let read = self.tasks.spawn_blocking(move || source.read_local());
        read.await.unwrap_or(Err(SourceError::Elsewhere))
    }

    async fn read_again(&self, name: &Name, source: Source) {
        let from = source.clone();
        let read = self.tasks.spawn_blocking(move || from.read_local()).await;
        let Ok(read) = read else { return };
        self.judge(name, &source, read).await;
    }

    /// Reads everything that is in Vault once more.
    async fn read_vault(&self) {
        let Some(link) = self.vault.load_full() else {
            return;
        };
        for live in self.accounts.load_full().values() {
            for credential in &live.settings.credentials {
                if let Source::Vault(path) = &credential.source {
                    let read = Source::read_vault(path, &link.vault).await;
                    let same = self.vault.load_full();
                    if same.is_none_or(|now| !Arc::ptr_eq(&now, &link)) {
                        return;
                    }
                    let name = (live.settings.id.clone(), credential.id.clone());
                    self.judge(&name, &credential.source, read).await;
                }
            }
        }
    }

    /// Takes what was read, or says why it cannot be.
    async fn judge(
        &self,
        name: &Name,
        source: &Source,
        read: Result<Arc<Credential>, SourceError>,
    ) {
        let taken = match read {
            Ok(credential) => self.take(name, source, credential).await,
            Err(error) if self.is_configured(name, source) => Err(error.reason()),
            Err(_) => return,
        };
        match taken {
            Ok(()) => self.relieve(name),
            Err(reason) => self.trouble(name, reason),
        }
    }

    /// Whether a credential is to be read there: a reload may have moved it while that was done.
    fn is_configured(&self, (account, id): &Name, source: &Source) -> bool {
        let accounts = self.accounts.load();
        let known = accounts.get(account).and_then(|live| {
            let mut credentials = live.settings.credentials.iter();
            credentials.find(|credential| credential.id == *id)
        });
        known.is_some_and(|known| known.source.is_same_place(source))
    }

    /// Hands a value to its pool.
    async fn take(
        &self,
        name: &Name,
        source: &Source,
        credential: Arc<Credential>,
    ) -> Result<(), &'static str> {
        let (account, id) = name;
        let pool = self
            .accounts
            .load()
            .get(account)
            .map(|l| Arc::clone(&l.pool));
        let Some(pool) = pool else { return Ok(()) };
        if pool.holds(id, &credential) {
            return Ok(());
        }
        let offer = self.recall(&pool, id, credential).await;
        let _alone = self.exclusive();
        if !self.is_configured(name, source) {
            return Ok(());
        }
        let accounts = self.accounts.load();
        let mut others = accounts
            .values()
            .filter(|live| live.settings.id != *account);
        // Their tenants would reach each other's customers.
        if others.any(|other| other.pool.has_user_of(&offer.credential)) {
            return Err(ANOTHERS);
        }
        pool.offer(id, &offer, clock::now());
        Ok(())
    }

    pub(super) fn exclusive(&self) -> MutexGuard<'_, ()> {
        self.exclusive
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn trouble(&self, name: &Name, reason: &'static str) {
        if self.troubles().insert(name.clone(), reason) == Some(reason) {
            return;
        }
        let (account, id) = name;
        self.observers.metrics.credential_unread(account, id);
        tracing::warn!(
            account.id = %account, credential.id = %id, reason,
            "the credential's source cannot be read; its last good value is kept"
        );
    }

    fn relieve(&self, name: &Name) {
        if self.troubles().remove(name).is_some() {
            tracing::info!(
                account.id = %name.0, credential.id = %name.1,
                "the credential's source can be read again"
            );
        }
    }

    pub(super) fn troubles(&self) -> MutexGuard<'_, HashMap<Name, &'static str>> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn pause(time: Option<Duration>) {
    match time {
        Some(time) => sleep(time).await,
        None => pending().await,
    }
}

/// The files of each credential, as they were looked at last.
#[derive(Default)]
struct Files(HashMap<Name, Settled>);
