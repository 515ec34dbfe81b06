//! What the configuration says of credentials, from a plan that can still fail to what is in force.
//!
//! Invariant: no two accounts have one user, whatever files and Vault say; and what was read with the
//! configuration never takes over from what is in use, as it may be older.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use thiserror::Error;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Live, Name, Rotator};
use crate::{
    clock,
    credential::{
        Account, Credential, CredentialSettings,
        pool::{Pool, Slot},
        source::{Source, SourceError},
        vault::{Vault, VaultSettings, VaultSetupError},
    },
    ident::{AccountId, CredentialId},
};

/// Their tenants would reach each other's customers.
pub(super) const ANOTHERS: &str = "user_of_another_account";
const ANOTHERS_TEXT: &str = "its user is that of another account: give each one of its own";

/// Vault, and the task that keeps its token, which ends with this.
pub(super) struct VaultLink {
    pub(super) vault: Arc<Vault>,
    settings: VaultSettings,
    stop: CancellationToken,
    _stop: DropGuard,
}

/// Accounts, each with the pool that its requests are sent from.
pub struct Plan {
    accounts: Vec<Account>,
    pools: Vec<Arc<Pool>>,
    vault: Option<Arc<VaultLink>>,
}

/// A credential that cannot be used as it is planned.
#[derive(Debug, Clone, Error)]
#[error("accounts[{account}].credentials[{credential}]: {why}")]
pub struct Unread {
    /// Its account.
    pub account: AccountId,
    /// Its id.
    pub credential: CredentialId,
    /// Why; nothing of a secret.
    pub why: String,
}

impl Plan {
    /// The values whose user another account has, as planned or at the moment.
    fn conflicts(&self) -> Vec<Unread> {
        let values = self.accounts.iter().flat_map(|account| {
            let own = account.credentials.iter();
            own.filter_map(|c| Some((&account.id, &c.id, c.value.as_ref()?)))
        });
        let values: Vec<_> = values.collect();
        let is_anothers = |account: &AccountId, value: &Credential| {
            let mut planned = values.iter().filter(|(other, ..)| *other != account);
            let mut live = self.pools.iter().filter(|pool| pool.account() != account);
            planned.any(|(_, _, other)| other.has_user_of(value))
                || live.any(|pool| pool.has_user_of(value))
        };
        let conflicts = values
            .iter()
            .filter(|(of, _, value)| is_anothers(of, value));
        conflicts
            .map(|(account, credential, _)| Unread {
                account: AccountId::clone(account),
                credential: CredentialId::clone(credential),
                why: ANOTHERS_TEXT.to_owned(),
            })
            .collect()
    }

    fn put(&mut self, account: &AccountId, id: &CredentialId, value: Arc<Credential>) {
        let accounts = self
            .accounts
            .iter_mut()
            .filter(|known| known.id == *account);
        let mut credentials = accounts.flat_map(|known| &mut known.credentials);
        if let Some(credential) = credentials.find(|c| c.id == *id) {
            credential.value = Some(value);
        }
    }

    /// Each account and its pool.
    pub fn by_id(&self) -> HashMap<&AccountId, (&Account, &Arc<Pool>)> {
        let pairs = self.accounts.iter().zip(&self.pools);
        let named = pairs.map(|(account, pool)| (&account.id, (account, pool)));
        named.collect()
    }
}

/// Accounts that are not configured any more, until nothing refers to them.
#[must_use = "their credentials stay in use until they leave"]
pub struct Former(Vec<Arc<Pool>>);

impl VaultLink {
    fn new(settings: VaultSettings) -> Result<Self, VaultSetupError> {
        let stop = CancellationToken::new();
        Ok(Self {
            vault: Arc::new(Vault::new(settings.clone())?),
            settings,
            _stop: stop.clone().drop_guard(),
            stop,
        })
    }
}

impl Rotator {
    /// Finds each account its pool, and Vault its client. Nothing is changed.
    ///
    /// # Errors
    /// Where Vault's client cannot be made.
    pub fn plan(
        &self,
        accounts: Vec<Account>,
        vault: Option<VaultSettings>,
    ) -> Result<Plan, VaultSetupError> {
        let known_vault = self.vault.load_full();
        let link = |settings: VaultSettings| match known_vault.filter(|v| v.settings == settings) {
            Some(link) => Ok(link),
            None => VaultLink::new(settings).map(Arc::new),
        };
        let known = self.accounts.load();
        let pool = |account: &Account| match known.get(&account.id) {
            Some(live) => Arc::clone(&live.pool),
            None => Pool::new(account.id.clone(), Arc::clone(&self.work)),
        };
        Ok(Plan {
            pools: accounts.iter().map(pool).collect(),
            accounts,
            vault: vault.map(link).transpose()?,
        })
    }

    /// Reads what is new in Vault, and sees to it that no two accounts have one user.
    ///
    /// # Errors
    /// The credentials that would be without a value, or with another account's.
    pub async fn complete(&self, plan: &mut Plan) -> Result<(), Vec<Unread>> {
        let mut unread = Vec::new();
        for ((account, credential), read) in self.read_new_of_vault(plan).await {
            match read {
                Ok(value) => plan.put(&account, &credential, value),
                Err(error) => unread.push(Unread {
                    account,
                    credential,
                    why: format!("there is no value to begin with: {error}"),
                }),
            }
        }
        unread.extend(plan.conflicts());
        if unread.is_empty() {
            return Ok(());
        }
        Err(unread)
    }

    async fn read_new_of_vault(
        &self,
        plan: &Plan,
    ) -> Vec<(Name, Result<Arc<Credential>, SourceError>)> {
        let Some(link) = &plan.vault else {
            return Vec::new();
        };
        let in_vault = |account: &AccountId, c: &CredentialSettings| match &c.source {
            Source::Vault(path) if !self.goes_on(account, c, Some(link)) => {
                Some(((account.clone(), c.id.clone()), path.clone()))
            }
            Source::Local { .. } | Source::Vault(_) => None,
        };
        let wanted = plan.accounts.iter().flat_map(|account| {
            let own = account.credentials.iter();
            own.filter_map(|credential| in_vault(&account.id, credential))
        });
        let reads = wanted.map(|(name, path)| {
            let vault = Arc::clone(&link.vault);
            async move { (name, Source::read_vault(&path, &vault).await) }
        });
        join_all(reads).await
    }

    /// Puts what was planned in force, and takes up the rotations that the state store knows of.
    /// Accounts that are not configured any more are given back: they [leave](Self::dismiss) when
    /// nobody sends with them.
    pub async fn configure(&self, plan: Plan, watch: Option<Duration>) -> Former {
        let known = self.accounts.load_full();
        let mut ready = Vec::with_capacity(plan.accounts.len());
        for (mut account, pool) in plan.accounts.into_iter().zip(plan.pools) {
            let slots = self.slots(&mut account, &pool, plan.vault.as_ref()).await;
            ready.push((account, pool, slots));
        }
        let _alone = self.exclusive();
        let mut live = BTreeMap::new();
        // An account that is renamed is not in its own way.
        let planned: Vec<AccountId> = ready
            .iter()
            .map(|(account, ..)| account.id.clone())
            .collect();
        for (account, pool, mut slots) in ready {
            let others = || {
                let others = planned.iter().filter(|id| **id != account.id);
                others.filter_map(|id| known.get(id))
            };
            for slot in &mut slots {
                // It was not so when the plan was looked at.
                let conflict = slot.offer.as_ref().is_some_and(|offer| {
                    others().any(|other| other.pool.has_user_of(&offer.credential))
                });
                if conflict {
                    slot.offer = None;
                    self.trouble(&(account.id.clone(), slot.id.clone()), ANOTHERS);
                }
            }
            pool.configure(account.pace, slots, clock::now());
            let settings = Arc::new(account);
            live.insert(settings.id.clone(), Live { settings, pool });
        }
        let former = known.iter().filter(|(id, _)| !live.contains_key(*id));
        let former = former.map(|(_, live)| Arc::clone(&live.pool)).collect();
        let configured = |(account, id): &Name| {
            let account = live.get(account);
            account.is_some_and(|a| a.settings.credentials.iter().any(|c| c.id == *id))
        };
        self.troubles().retain(|name, _| configured(name));
        self.accounts.store(Arc::new(live));
        let before = self.vault.swap(plan.vault.clone());
        if let Some(link) = plan.vault
            && before.is_none_or(|before| !Arc::ptr_eq(&before, &link))
        {
            let vault = Arc::clone(&link.vault);
            self.tasks.spawn(vault.keep_token(link.stop.clone()));
        }
        self.watch.send_replace(watch);
        // A reload reads everything once more, and at once.
        self.sources.send_modify(|count| *count += 1);
        self.work.notify_one();
        Former(former)
    }

    /// What the configuration says of an account's credentials. Their values are taken from it, so that
    /// nothing but the pool keeps one alive.
    async fn slots(
        &self,
        account: &mut Account,
        pool: &Pool,
        vault: Option<&Arc<VaultLink>>,
    ) -> Vec<Slot> {
        let mut slots = Vec::with_capacity(account.credentials.len());
        for credential in &mut account.credentials {
            // Where its place is the one of before it is read again there, by the one task that reads:
            // what was read with the configuration may be older than what that has taken since.
            let goes_on = self.goes_on(&account.id, credential, vault);
            let offer = match credential.value.take().filter(|_| !goes_on) {
                Some(value) => Some(self.recall(pool, &credential.id, value).await),
                None => None,
            };
            slots.push(Slot {
                id: credential.id.clone(),
                validity: credential.validity,
                offer,
            });
        }
        slots
    }

    /// Whether a credential has a value already, from the place where the configuration has it now.
    fn goes_on(
        &self,
        account: &AccountId,
        credential: &CredentialSettings,
        vault: Option<&Arc<VaultLink>>,
    ) -> bool {
        let same_vault = match (&*self.vault.load(), vault) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            (None, Some(_)) | (Some(_), None) => false,
        };
        if matches!(credential.source, Source::Vault(_)) && !same_vault {
            return false;
        }
        let accounts = self.accounts.load();
        let Some(live) = accounts.get(account) else {
            return false;
        };
        let mut known = live.settings.credentials.iter();
        let known = known.find(|known| known.id == credential.id);
        known.is_some_and(|known| known.source.is_same_place(&credential.source))
            && live.pool.has(&credential.id)
    }

    /// Lets accounts go that nothing refers to any more.
    pub fn dismiss(&self, former: Former) {
        for pool in former.0 {
            pool.dismiss(clock::now());
            let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
            leaving.push(pool);
        }
        self.work.notify_one();
    }
}
