//! What is in force: everything that the configuration says, as one snapshot.
//!
//! Invariant: a reload replaces the snapshot in one store. Who loads it (each request once, at its
//! start) never sees one part of the old configuration beside another of the new, and keeps what it
//! has loaded to its end.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwap;
use http::{Request, Response, StatusCode};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{grants, homes, importers};
use crate::{
    address::Client,
    admin::{Admin, AdminSettings, usage::Desk},
    auth::{
        Authenticator, IssuerSettings, dpop::ProofChecker, jwks::RemoteKeys, register::Register,
    },
    body::ByteBudget,
    clock,
    config::{Config, sources::Fingerprint},
    customer::{Ledger, import::Importer},
    ident::TenantId,
    pipeline::Gateway,
    quota::Quotas,
    reload::{ReloadSettings, Reloads},
    rotator::{Former, Plan, Rotator},
    segments::Segments,
    server::{ConnectionStats, Handle, Protocol, ProxyProtocol, RequestBody, ServerSettings},
    status::StatusCache,
    store::Store,
    trail::Observers,
    upstream::client::{UpstreamClient, UpstreamError, UpstreamSettings},
};

/// Most connections of the admin listener: a few scrapers and probes, and room for people.
const ADMIN_CONNECTIONS: usize = 64;

/// What outlives every configuration.
pub(super) struct Lasting {
    pub(super) store: Store,
    pub(super) ledger: Ledger,
    pub(super) quotas: Quotas,
    pub(super) statuses: StatusCache,
    pub(super) register: Arc<Register>,
    pub(super) observers: Arc<Observers>,
    pub(super) reloads: Reloads,
    pub(super) rotator: Arc<Rotator>,
    /// The public listener's connections.
    pub(super) connections: Arc<ConnectionStats>,
    /// The tasks that a drain waits for.
    pub(super) tasks: TaskTracker,
    /// Those that it does not.
    pub(super) upkeep: TaskTracker,
    /// Cancelled when a drain begins.
    pub(super) draining: CancellationToken,
    /// Cancelled at its end.
    pub(super) ending: CancellationToken,
}

/// What is in force at the moment.
pub(super) struct Live(ArcSwap<Snapshot>);

impl Live {
    pub(super) fn new(snapshot: Snapshot) -> Self {
        Self(ArcSwap::from_pointee(snapshot))
    }

    pub(super) fn current(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    /// Puts another one in force, and returns the one before.
    pub(super) fn replace(&self, snapshot: Snapshot) -> Arc<Snapshot> {
        self.0.swap(Arc::new(snapshot))
    }
}

/// One configuration, ready to serve.
pub(super) struct Snapshot {
    pub(super) gateway: Arc<Gateway>,
    pub(super) admin: Admin,
    /// How the public listener behaves, and how the operators' does.
    pub(super) server: Arc<ServerSettings>,
    pub(super) operators: Arc<ServerSettings>,
    pub(super) reload: ReloadSettings,
    pub(super) fingerprint: Fingerprint,
    upstream: UpstreamSettings,
    /// The accounts that the next one leaves out; they go with the last request of this one.
    pub(super) parting: OnceLock<Parting>,
    fetching: Vec<Arc<Fetching>>,
}

impl Snapshot {
    /// Puts the parts together, and takes over from the snapshot `before` what goes on unchanged: keys
    /// that were fetched, open connections to DCAMS, the bytes that bodies may take, used proofs.
    pub(super) fn build(
        mut config: Config,
        accounts: &Plan,
        lasting: &Lasting,
        before: Option<&Self>,
    ) -> Result<Self, UpstreamError> {
        let fetching = take_over(&mut config.issuers, before, &lasting.ending);
        let budget = match before {
            Some(before) if before.gateway.body.body_memory == config.body.body_memory => {
                before.gateway.budget.clone()
            }
            // Bodies of requests under way stay in the budget that they were charged to.
            Some(_) | None => ByteBudget::new(config.body.body_memory),
        };
        let upstream = match before {
            Some(before) if before.upstream == config.upstream => {
                Arc::clone(&before.gateway.upstream)
            }
            Some(_) | None => Arc::new(UpstreamClient::new(&config.upstream)?),
        };
        let importers = importers(&config, &lasting.ledger);
        let admin = admin(&config, lasting, importers, &fetching, &budget);
        let operators = operators(&config.server, &config.admin);
        let windows = config.issuers.iter();
        let windows = windows.map(|i| (i.issuer.clone(), i.dpop.window(i.leeway)));
        let now = clock::now();
        let proofs = match before {
            Some(before) => {
                let older = before.gateway.authenticator.proofs();
                older.at(config.dpop.public_urls).serving(windows, now)
            }
            None => ProofChecker::new(config.dpop, now).serving(windows, now),
        };
        let gateway = Gateway {
            route: config.route,
            proxies: config.proxies,
            authenticator: Authenticator::new(config.issuers, lasting.register.list(), proofs),
            tenants: grants(config.tenants, accounts, &config.rules, lasting),
            tariff: config.tariff,
            ledger: lasting.ledger.clone(),
            statuses: lasting.statuses.clone(),
            caching: config.cache,
            body: config.body,
            budget,
            upstream,
            observers: Arc::clone(&lasting.observers),
            tasks: lasting.tasks.clone(),
        };
        Ok(Self {
            gateway: Arc::new(gateway),
            admin,
            server: Arc::new(config.server),
            operators: Arc::new(operators),
            reload: config.reload,
            fingerprint: config.sources.fingerprint,
            upstream: config.upstream,
            parting: OnceLock::new(),
            fetching,
        })
    }

    /// Begins to fetch the keys that were not fetched `before`.
    pub(super) fn start_fetching(&self, before: Option<&Self>, tasks: &TaskTracker) {
        for new in &self.fetching {
            if before.is_none_or(|before| !before.fetches(&new.keys)) {
                tasks.spawn(Arc::clone(&new.keys).keep_fresh(new.stop.clone()));
            }
        }
    }

    /// The keys that are fetched for this one.
    pub(super) fn remote_keys(&self) -> impl Iterator<Item = &Arc<RemoteKeys>> {
        self.fetching.iter().map(|fetching| &fetching.keys)
    }

    fn fetches(&self, keys: &Arc<RemoteKeys>) -> bool {
        self.remote_keys().any(|own| Arc::ptr_eq(own, keys))
    }
}

/// Accounts on their way out.
pub(super) struct Parting {
    pub(super) rotator: Arc<Rotator>,
    pub(super) former: Option<Former>,
}

impl Drop for Parting {
    fn drop(&mut self) {
        if let Some(former) = self.former.take() {
            self.rotator.dismiss(former);
        }
    }
}

/// Keys that one task fetches. It ends with the last snapshot that they belong to, which is when the
/// last request that began under it has ended.
struct Fetching {
    keys: Arc<RemoteKeys>,
    stop: CancellationToken,
    _stop: DropGuard,
}

/// Has issuers that are fetched as before go on with the same keys, and says of all that are fetched.
fn take_over(
    issuers: &mut [IssuerSettings],
    before: Option<&Snapshot>,
    ending: &CancellationToken,
) -> Vec<Arc<Fetching>> {
    let older = before.map_or(&[][..], |before| &before.fetching);
    let mut fetching = Vec::new();
    for issuer in issuers {
        for old in older {
            issuer.keys.continue_with(&old.keys);
        }
        let Some(keys) = issuer.keys.remote() else {
            continue;
        };
        let same = older.iter().find(|old| Arc::ptr_eq(&old.keys, keys));
        fetching.push(same.map_or_else(
            || {
                let stop = ending.child_token();
                Arc::new(Fetching {
                    keys: Arc::clone(keys),
                    _stop: stop.clone().drop_guard(),
                    stop,
                })
            },
            Arc::clone,
        ));
    }
    fetching
}

fn admin(
    config: &Config,
    lasting: &Lasting,
    importers: HashMap<TenantId, Importer>,
    fetching: &[Arc<Fetching>],
    budget: &ByteBudget,
) -> Admin {
    Admin {
        token: config.admin.token.clone(),
        importers,
        homes: homes(config),
        observers: Arc::clone(&lasting.observers),
        fixed_keys: config.issuers.iter().any(|i| i.keys.remote().is_none()),
        statuses: lasting.statuses.clone(),
        remote_keys: fetching.iter().map(|f| Arc::clone(&f.keys)).collect(),
        register: Arc::clone(&lasting.register),
        store: lasting.store.clone(),
        reloads: lasting.reloads.clone(),
        rotator: Arc::clone(&lasting.rotator),
        terms: config.terms.clone(),
        usage: Desk::new(lasting.quotas.clone(), &config.tenants),
        budget: budget.clone(),
        connections: Arc::clone(&lasting.connections),
        draining: lasting.draining.clone(),
    }
}

/// How the operators' listener behaves: as the public one, but for what its clients are.
fn operators(server: &ServerSettings, admin: &AdminSettings) -> ServerSettings {
    ServerSettings {
        listen: admin.listen,
        protocol: Protocol::Http1,
        // Operators and their scrapers connect by themselves.
        proxy_protocol: ProxyProtocol::Off,
        max_connections: ADMIN_CONNECTIONS,
        ..server.clone()
    }
}

/// The gateway as the server calls it.
#[derive(Clone)]
pub(super) struct Public(pub(super) Arc<Live>);

impl Handle for Public {
    fn handle(
        &self,
        request: Request<RequestBody>,
        peer: Client,
    ) -> impl Future<Output = Response<Segments>> + Send {
        // Held to the end of the request, and with it the fetching of keys that it may wait for.
        let snapshot = self.0.current();
        async move { Arc::clone(&snapshot.gateway).handle(request, peer).await }
    }

    fn refuse(&self, status: StatusCode) -> Response<Segments> {
        self.0.current().gateway.refuse(status)
    }
}

/// The operators' pages as the server calls them.
#[derive(Clone)]
pub(super) struct Operators(pub(super) Arc<Live>);

impl Handle for Operators {
    fn handle(
        &self,
        request: Request<RequestBody>,
        peer: Client,
    ) -> impl Future<Output = Response<Segments>> + Send {
        let snapshot = self.0.current();
        async move { snapshot.admin.answer(request, peer).await }
    }
}
