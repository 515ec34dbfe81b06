//! Reads the configuration again and puts it in force.
//!
//! Invariant: one reload at a time. What can fail is done beside what is in force; then one store
//! replaces it, and nothing after that can fail. Whatever goes wrong before changes nothing.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};

use super::{
    fixed::Fixed,
    listeners::Listeners,
    live::{Lasting, Live, Parting, Snapshot},
    warn_of_lost,
    watching::Watched,
};
use crate::{
    audit::{
        event::Deed,
        operator::{Actor, Unrecorded, Via},
    },
    auth::revocation::{Revocation, request::Terms},
    clock,
    config::{
        Config,
        mistake::Mistake,
        origin::Origin,
        sources::{Fingerprint, Sources},
    },
    pipeline::{Gateway, Grant},
    reload::{Refused, Reloaded, Request},
    rotator::{Plan, Unread},
    tenant::Tenant,
};

/// How long the files may take to be read.
const READ_TIME: Duration = Duration::from_secs(20);

/// Does what is asked for by [`Reloads`](crate::reload::Reloads).
pub(super) struct Reloader {
    pub(super) live: Arc<Live>,
    pub(super) lasting: Arc<Lasting>,
    pub(super) listeners: Listeners,
    pub(super) fixed: Arc<Fixed>,
    pub(super) origin: Origin,
    /// What the last reading found.
    pub(super) last: Fingerprint,
    pub(super) watched: watch::Sender<Watched>,
    /// A reading that took too long, and may go on.
    pub(super) stuck: Option<JoinHandle<Draft>>,
}

impl Reloader {
    /// Answers requests until a drain begins.
    pub(super) async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let draining = self.lasting.draining.clone();
        while let Some(Some(request)) = draining.run_until_cancelled(requests.recv()).await {
            let reloaded = self.reload(&request.actor).await;
            drop(request.answer.send(reloaded));
        }
    }

    async fn reload(&mut self, actor: &Actor) -> Reloaded {
        let draining = self.lasting.draining.clone();
        let drafted = match draining.run_until_cancelled(self.draft()).await {
            Some(Ok(draft)) => draft,
            Some(Err(refused)) => return self.report(actor, Reloaded::Refused(refused)).await,
            None => return Reloaded::Refused(Refused::Draining),
        };
        let found = std::mem::replace(&mut self.last, drafted.sources.fingerprint);
        if actor.via == Via::File && found == self.last {
            // It was touched, or was read already on somebody's word, who was told then.
            let refused = self.lasting.reloads.last_refusal();
            return refused.map_or(Reloaded::InForce { changed: false }, |refused| {
                Reloaded::Refused(Refused::clone(&refused))
            });
        }
        let reloaded = match drafted.outcome {
            Ok(Some(next)) => self.take(actor, *next).await,
            Ok(None) => Reloaded::InForce { changed: false },
            Err(refused) => Reloaded::Refused(refused),
        };
        if let Reloaded::Refused(Refused::Unrecorded(_)) = reloaded {
            // The same files may be taken when there is room to say so.
            self.last = found;
        }
        let settings = self.live.current().reload;
        self.watch(match reloaded {
            Reloaded::InForce { .. } => Watched::of(&drafted.sources, settings),
            Reloaded::Refused(_) => Watched::of_failed(&drafted.sources, settings),
        });
        self.report(actor, reloaded).await
    }

    /// Reads everything and puts it together, on a thread that may wait for a disk.
    async fn draft(&mut self) -> Result<Draft, Refused> {
        let slow = || {
            let problem = "was not read in time";
            let mend = "look at the disk that it is on, then try again";
            refused([Mistake::new("configuration", "", problem, mend)])
        };
        // Another one would only wait beside it.
        if self
            .stuck
            .as_ref()
            .is_some_and(|reading| !reading.is_finished())
        {
            return Err(slow());
        }
        let (origin, fixed) = (self.origin.clone(), Arc::clone(&self.fixed));
        let (live, lasting) = (Arc::clone(&self.live), Arc::clone(&self.lasting));
        let upkeep = &self.lasting.upkeep;
        let mut reading =
            upkeep.spawn_blocking(move || Draft::make(&origin, &fixed, &lasting, &live.current()));
        match timeout(READ_TIME, &mut reading).await {
            Ok(Ok(draft)) => Ok(draft),
            Ok(Err(_)) => {
                let problem = "could not be understood";
                let mistake = Mistake::new("configuration", "", problem, "report this as a fault");
                Err(refused([mistake]))
            }
            Err(_) => {
                self.stuck = Some(reading);
                Err(slow())
            }
        }
    }

    /// Puts a configuration in force.
    async fn take(&mut self, actor: &Actor, mut next: Next) -> Reloaded {
        if self.lasting.draining.is_cancelled() {
            return Reloaded::Refused(Refused::Draining);
        }
        if let Err(unread) = self.lasting.rotator.complete(&mut next.accounts).await {
            return Reloaded::Refused(Refused::Mistakes(
                unread.iter().map(Unread::to_string).collect(),
            ));
        }
        let moves = match self.listeners.bind(&next.snapshot) {
            Ok(moves) => moves,
            Err(mistakes) => return Reloaded::Refused(refused(mistakes)),
        };
        if let Err(why) = self.record(actor, "begun", 0).await {
            return Reloaded::Refused(Refused::Unrecorded(why));
        }
        // Nothing fails from here on. What outlives configurations is told of the new one: before it
        // is in force, of what it adds, so that no request misses that.
        self.lasting.register.announce(&next.revocations);
        let upkeep = &self.lasting.upkeep;
        next.snapshot
            .start_fetching(Some(&self.live.current()), upkeep);
        let rotator = &self.lasting.rotator;
        let watch = next.snapshot.reload.watch;
        let former = rotator.configure(next.accounts, watch).await;
        let gateway = &next.snapshot.gateway;
        let timeout = gateway.upstream.timeout();
        self.lasting.statuses.configure(&gateway.caching, timeout);
        self.forget_statuses(gateway).await;
        let before = self.live.replace(next.snapshot);
        for grant in self.live.current().gateway.tenants.values() {
            grant.quota.limit(&grant.tenant.limits);
        }
        self.listeners.switch(moves);
        // And after that, of what it leaves out: when the last request of the one before has ended.
        let parting = Parting {
            rotator: Arc::clone(rotator),
            former: Some(former),
        };
        drop(before.parting.set(parting));
        rotator.set_upstream(Arc::clone(&self.live.current().gateway.upstream));
        self.forget_issuers_of(&before);
        drop(before);
        self.replace_revocations(next.revocations, &next.terms)
            .await;
        for warning in &next.warnings {
            tracing::warn!("{warning}");
        }
        Reloaded::InForce { changed: true }
    }

    /// Has those tenants' statuses kept no more that had their customers elsewhere, or otherwise apart: who
    /// comes back later would be told what was before others' changes.
    async fn forget_statuses(&self, next: &Gateway) {
        let now = self.live.current();
        let before = &now.gateway;
        let same_place = before.upstream.url() == next.upstream.url();
        let stays = |grant: &Grant| {
            let (tenant, next) = (&grant.tenant, next.tenants.get(&grant.tenant.id));
            let place = |tenant: &Tenant| (tenant.account.clone(), tenant.isolation);
            same_place && next.is_some_and(|next| place(&next.tenant) == place(tenant))
        };
        let moved = before.tenants.values().filter(|grant| !stays(grant));
        let statuses = &self.lasting.statuses;
        let told = join_all(moved.map(|grant| statuses.forget_tenant(&grant.tenant.id))).await;
        if told.iter().any(Result::is_err) {
            tracing::warn!(
                "tenants were moved, and other gateways cannot be told to keep their statuses no more: they \
                 are told when Redis is back"
            );
        }
    }

    fn forget_issuers_of(&self, before: &Snapshot) {
        let now = self.live.current();
        for gone in before.remote_keys().map(|keys| keys.issuer()) {
            if !now.remote_keys().any(|keys| keys.issuer() == gone) {
                self.lasting.observers.metrics.forget_issuer(gone);
            }
        }
    }

    async fn replace_revocations(&self, configured: Vec<Revocation>, terms: &Terms) {
        let register = &self.lasting.register;
        let replaced = register.replace_configured(configured).await;
        let looked_at = warn_of_lost(register, terms).await;
        if let Err(error) = replaced.and(looked_at) {
            tracing::warn!(
                %error,
                "revocations that the configuration had before may be in force for a minute more"
            );
        }
    }

    fn watch(&self, next: Watched) {
        self.watched.send_if_modified(|watched| {
            let differs = *watched != next;
            *watched = next;
            differs
        });
    }

    /// Tells everybody what came of it. Who asked is told when it is recorded, or cannot be.
    async fn report(&self, actor: &Actor, reloaded: Reloaded) -> Reloaded {
        let cause = actor.via.as_str();
        let (result, mistakes): (_, &[String]) = match &reloaded {
            Reloaded::InForce { changed: true } => {
                tracing::info!(cause, "the configuration was reloaded");
                ("ok", &[])
            }
            Reloaded::InForce { changed: false } => {
                tracing::info!(cause, "the configuration was read again and is the same");
                ("ok", &[])
            }
            Reloaded::Refused(Refused::Draining) => return reloaded,
            Reloaded::Refused(refused) => {
                let mistakes = refused.lines().len();
                tracing::error!(cause, mistakes, "the configuration was not reloaded");
                if let Refused::Unrecorded(why) = refused {
                    tracing::error!("{why}");
                }
                for line in refused.lines() {
                    tracing::error!("{line}");
                }
                ("refused", refused.lines())
            }
        };
        self.lasting.reloads.note(&reloaded);
        let observers = &self.lasting.observers;
        observers.metrics.reloaded(result, clock::now());
        // It is in force or not, whether or not that can be recorded.
        let _ = self.record(actor, result, mistakes.len()).await;
        reloaded
    }

    async fn record(
        &self,
        actor: &Actor,
        result: &'static str,
        mistakes: usize,
    ) -> Result<(), Unrecorded> {
        let observers = &self.lasting.observers;
        let filed = observers.record(Deed::ConfigReloaded {
            result,
            actor,
            mistakes,
        });
        filed.durable().await?;
        Ok(())
    }
}

/// What was read, and what can be made of it.
pub(super) struct Draft {
    sources: Sources,
    /// None where it is what is in force already.
    outcome: Result<Option<Box<Next>>, Refused>,
}

/// A configuration that could be in force.
struct Next {
    snapshot: Snapshot,
    accounts: Plan,
    revocations: Vec<Revocation>,
    terms: Terms,
    warnings: Vec<Mistake>,
}

impl Draft {
    fn make(origin: &Origin, fixed: &Fixed, lasting: &Lasting, now: &Snapshot) -> Self {
        let reading = origin.read();
        let outcome = match reading.outcome {
            Ok(config) if config.sources.fingerprint == now.fingerprint => Ok(None),
            Ok(config) => Next::make(config, fixed, lasting, now).map(|next| Some(Box::new(next))),
            Err(mistakes) => Err(refused(mistakes.iter().cloned())),
        };
        Self {
            sources: reading.sources,
            outcome,
        }
    }
}

impl Next {
    fn make(
        mut config: Config,
        fixed: &Fixed,
        lasting: &Lasting,
        now: &Snapshot,
    ) -> Result<Self, Refused> {
        let changed = fixed.changed_in(&config);
        if !changed.is_empty() {
            return Err(Refused::Restart(lines(changed)));
        }
        let revocations = std::mem::take(&mut config.revocations);
        let warnings = std::mem::take(&mut config.warnings);
        let terms = config.terms.clone();
        let accounts = lasting
            .rotator
            .plan(config.accounts.clone(), config.vault.clone())
            .map_err(|error| {
                let mend = "mend it, or change it back";
                let problem = error.to_string();
                refused([Mistake::new("configuration", "vault", problem, mend)])
            })?;
        let snapshot = Snapshot::build(config, &accounts, lasting, Some(now)).map_err(|error| {
            let mend = "mend it, or change it back";
            refused([Mistake::new(
                "configuration",
                "upstream",
                error.to_string(),
                mend,
            )])
        })?;
        Ok(Self {
            snapshot,
            accounts,
            revocations,
            terms,
            warnings,
        })
    }
}

fn refused(mistakes: impl IntoIterator<Item = Mistake>) -> Refused {
    Refused::Mistakes(lines(mistakes))
}

fn lines(mistakes: impl IntoIterator<Item = Mistake>) -> Arc<[String]> {
    mistakes.into_iter().map(|m| m.to_string()).collect()
}
