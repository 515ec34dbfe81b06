//! The composition root: a valid configuration and its edges in, a running gateway out.
//!
//! `live` is what the configuration says, as one snapshot that a reload replaces; `listeners` are the
//! sockets, `reload` reads again and replaces, `watching` notices that files have changed.

mod fixed;
mod listeners;
mod live;
mod reload;
mod watching;

use std::{
    collections::HashMap,
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use thiserror::Error;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time::{timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    fixed::Fixed,
    listeners::Listeners,
    live::{Lasting, Live, Snapshot},
    reload::Reloader,
    watching::{Watched, keep_watch},
};
use crate::{
    admin::forget::Home,
    audit::{
        self, AuditTrail,
        event::Deed,
        ship::{ShipSetupError, Shipper},
    },
    auth::{register::Register, revocation::request::Terms},
    clock,
    config::{Config, origin::Origin, sources::Fingerprint},
    credential::{Account, vault::VaultSetupError},
    customer::{Ledger, import::Importer},
    ident::{AccountId, TenantId},
    metrics::Metrics,
    payload::Rules,
    pipeline::Grant,
    quota::{Crossed, Keeper, Quotas},
    reload::{Reloads, Request},
    rotator::{Plan, Rotator, Unread},
    server::{self, Cut},
    status::StatusCache,
    store::{OpenError, Store, StoreError},
    tenant::{Country, Isolation, Tenant},
    trail::Observers,
    upstream::client::UpstreamError,
};

/// What the gateway touches outside itself; a test hands in its own.
pub struct Edges {
    /// Where clients connect.
    pub public: TcpListener,
    /// Where operators connect.
    pub admin: TcpListener,
    /// Where a copy of audit events goes, if the configuration wants one.
    pub audit: Box<dyn Write + Send>,
}

impl Edges {
    /// Listens where the configuration says.
    ///
    /// # Errors
    /// [`StartError::Listen`] with the address that could not be had.
    pub fn bind(config: &Config, audit: Box<dyn Write + Send>) -> Result<Self, StartError> {
        let listen = |address| {
            server::bind(address).map_err(|source| StartError::Listen { address, source })
        };
        Ok(Self {
            public: listen(config.server.listen)?,
            admin: listen(config.admin.listen)?,
            audit,
        })
    }
}

/// Why a gateway with a valid configuration could not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The audit trail cannot be opened.
    #[error("{0}")]
    Audit(#[from] audit::OpenError),
    /// The client for the audit trail's second place cannot be made.
    #[error(
        "cannot prepare the connection to the audit trail's second place: {0}; look at `audit.ship`"
    )]
    Ship(#[from] ShipSetupError),
    /// The client for the upstream could not be made.
    #[error("cannot prepare the connection to DCAMS: {0}")]
    Client(#[from] UpstreamError),
    /// An address is taken or not ours.
    #[error("cannot listen on {address}: {source}; free it or set another `listen`")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Credentials are in Vault, and could not be read.
    #[error("{}", lines(.0))]
    Credentials(Vec<Unread>),
    /// The state store cannot be read.
    #[error("{0}")]
    Read(#[from] StoreError),
    /// The state store cannot be opened.
    #[error("{0}")]
    State(#[from] OpenError),
    /// Vault's client cannot be made.
    #[error("cannot prepare the connection to Vault: {0}")]
    Vault(#[from] VaultSetupError),
}

impl From<Vec<Unread>> for StartError {
    fn from(unread: Vec<Unread>) -> Self {
        Self::Credentials(unread)
    }
}

fn lines(unread: &[Unread]) -> String {
    let lines: Vec<String> = unread.iter().map(Unread::to_string).collect();
    lines.join("\n")
}

/// A gateway that is ready to run.
pub struct App {
    live: Arc<Live>,
    lasting: Arc<Lasting>,
    keeper: Keeper,
    fixed: Fixed,
    origin: Origin,
    fingerprint: Fingerprint,
    watched: watch::Sender<Watched>,
    requests: mpsc::Receiver<Request>,
    shipper: Option<Shipper>,
    public_listener: TcpListener,
    admin_listener: TcpListener,
}

impl App {
    /// Puts the parts together. Nothing is answered before [`App::run`].
    ///
    /// # Errors
    /// [`StartError::Client`] where the upstream's TLS roots cannot be used, [`StartError::State`]
    /// and [`StartError::Read`] where the state store cannot be.
    pub async fn build(config: Config, edges: Edges) -> Result<Self, StartError> {
        let Edges {
            public,
            admin,
            audit,
        } = edges;
        let store = Store::open(&config.state).await?;
        let copy = config.audit.stdout.then_some(audit);
        let audit = Arc::new(AuditTrail::open(&config.audit, copy)?);
        let shipper = audit.shipper(&config.audit)?;
        let observers = Arc::new(Observers {
            audit: Arc::clone(&audit),
            shipping: shipper.as_ref().map(Shipper::shipping),
            metrics: Metrics::new(),
            pseudonyms: config.pseudonyms.clone(),
        });
        let built = Box::pin(Self::assemble(config, store, observers, (public, admin))).await;
        if built.is_err() {
            audit.close(LAST_EVENTS).await;
        }
        built.map(|app| Self { shipper, ..app })
    }

    async fn assemble(
        mut config: Config,
        store: Store,
        observers: Arc<Observers>,
        (public_listener, admin_listener): (TcpListener, TcpListener),
    ) -> Result<Self, StartError> {
        let (ledger, known) = (Ledger::new(store.clone()), store.clone());
        let (quotas, keeper) = Quotas::open(store.clone(), config.pseudonyms.clone());
        let revocations = std::mem::take(&mut config.revocations);
        let register = Register::open(store.clone(), config.pseudonyms.clone(), revocations);
        let register = Arc::new(register.await?);
        warn_of_lost(&register, &config.terms).await?;
        observers.metrics.configured(clock::now());
        let timeout = config.upstream.timeout;
        let (key, pseudonyms) = (&config.state.key, config.pseudonyms.clone());
        let statuses = StatusCache::new(&config.cache, &store, key, pseudonyms, timeout);
        let rotator = Arc::new(Rotator::new(known, Arc::clone(&observers)));
        let accounts = rotator.plan(config.accounts.clone(), config.vault.clone());
        let mut accounts = accounts?;
        rotator.complete(&mut accounts).await?;
        let (reloads, requests) = Reloads::channel();
        let lasting = Arc::new(Lasting {
            store,
            ledger,
            quotas,
            statuses,
            register,
            observers,
            reloads,
            rotator: Arc::clone(&rotator),
            connections: Arc::default(),
            tasks: TaskTracker::new(),
            upkeep: TaskTracker::new(),
            draining: CancellationToken::new(),
            ending: CancellationToken::new(),
        });
        let watched = Watched::of(&config.sources, config.reload);
        let (fixed, origin) = (Fixed::of(&config), config.origin.clone());
        let fingerprint = config.sources.fingerprint;
        let watch = config.reload.watch;
        let snapshot = Snapshot::build(config, &accounts, &lasting, None)?;
        drop(rotator.configure(accounts, watch).await);
        rotator.set_upstream(Arc::clone(&snapshot.gateway.upstream));
        rotator.tidy().await;
        Ok(Self {
            live: Arc::new(Live::new(snapshot)),
            lasting,
            keeper,
            fixed,
            origin,
            fingerprint,
            watched: watch::Sender::new(watched),
            requests,
            shipper: None,
            public_listener,
            admin_listener,
        })
    }

    /// By which the configuration can be read again while the gateway runs.
    pub fn reloads(&self) -> Reloads {
        self.lasting.reloads.clone()
    }

    /// The audit trail. Whoever has dropped what [`App::run`] left unfinished closes it.
    pub fn audit(&self) -> Arc<AuditTrail> {
        Arc::clone(&self.lasting.observers.audit)
    }

    /// Serves until `shutdown`, then drains: readiness goes first, then the public listener, then
    /// requests in flight finish, and the admin listener goes last. Returns whether all finished
    /// within `drain_timeout`.
    pub async fn run(self, shutdown: CancellationToken) -> bool {
        let Self { live, lasting, .. } = self;
        let (upkeep, ending) = (&lasting.upkeep, &lasting.ending);
        keep_up(&live, &lasting, self.keeper);
        let listeners = Listeners::open(
            Arc::clone(&live),
            Arc::clone(&lasting),
            self.public_listener,
            self.admin_listener,
        );
        let (public, operators) = listeners.tasks();
        let watching = keep_watch(lasting.reloads.clone(), self.watched.subscribe());
        let draining = lasting.draining.clone();
        upkeep.spawn(async move { draining.run_until_cancelled(watching).await });
        let reloader = Reloader {
            live: Arc::clone(&live),
            lasting: Arc::clone(&lasting),
            listeners,
            fixed: Arc::new(self.fixed),
            origin: self.origin,
            last: self.fingerprint,
            watched: self.watched,
            stuck: None,
        };
        let reloading = upkeep.spawn(reloader.run(self.requests));
        let shipping = Shipment::start(self.shipper);

        shutdown.cancelled().await;
        let deadline = clock::instant() + live.current().server.drain_timeout;
        let cut = || lasting.connections.cut(Cut::Drain);
        let before = cut();
        lasting.draining.cancel();
        // Until here it could open another listener.
        drop(reloading.await);
        public.close();
        public.wait().await;
        lasting.tasks.close();
        // Requests that were sent are settled even where their client has gone.
        let settled = timeout_at(deadline, lasting.tasks.wait()).await.is_ok();
        ending.cancel();
        operators.close();
        operators.wait().await;
        // What is known of credentials is written down once more, and what was used of quotas.
        lasting.upkeep.close();
        let last = async { tokio::join!(lasting.quotas.close(), lasting.upkeep.wait()) };
        if timeout(LAST_WRITE, last).await.is_err() {
            tracing::warn!(
                "the last state of some credentials or quotas was not written; of a quota that is no more \
                 than what was taken ahead"
            );
        }
        if settled {
            // Nobody is left who has something to record.
            lasting.observers.audit.close(LAST_EVENTS).await;
        }
        shipping.finish().await;
        settled && cut() == before
    }
}

/// The audit chain on its way to a second place: the last that ends, so that the chain's end goes along.
struct Shipment {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Shipment {
    fn start(shipper: Option<Shipper>) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        if let Some(shipper) = shipper {
            tasks.spawn(shipper.run(stop.clone()));
        }
        tasks.close();
        Self { tasks, stop }
    }

    /// It gives itself a bounded moment.
    async fn finish(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

/// Starts what goes on in the background. It ends with the admin listener: revocations are taken until the
/// last request has finished.
fn keep_up(live: &Live, lasting: &Lasting, keeper: Keeper) {
    let (upkeep, ending) = (&lasting.upkeep, &lasting.ending);
    let register = Arc::clone(&lasting.register);
    upkeep.spawn(Arc::clone(&register).follow(ending.clone()));
    upkeep.spawn(register.keep_tidy(ending.clone()));
    live.current().start_fetching(None, upkeep);
    upkeep.spawn(Arc::clone(&lasting.rotator).run(ending.clone()));
    let observers = Arc::clone(&lasting.observers);
    let tell = move |tenant: &TenantId, crossed: &Crossed| warn(&observers, tenant, crossed);
    upkeep.spawn(keeper.run(tell));
    let statuses = &lasting.statuses;
    let (tidying, following) = (statuses.clone().keep_tidy(), statuses.clone().follow());
    upkeep.spawn(ending.clone().run_until_cancelled_owned(tidying));
    upkeep.spawn(ending.clone().run_until_cancelled_owned(following));
}

/// How long what goes on in the background may take to end.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// How long the disk may take to keep the last events.
pub(crate) const LAST_EVENTS: Duration = Duration::from_secs(2);

/// Tells of a soft limit that was crossed.
fn warn(observers: &Observers, tenant: &TenantId, crossed: &Crossed) {
    let (policy, limit, taken) = (crossed.policy.name(), crossed.limit, crossed.taken);
    tracing::warn!(
        tenant.id = %tenant, policy, limit, taken,
        "a tenant comes close to a limit: grant more (`usage grant`), or raise it"
    );
    observers.metrics.quota_warned(tenant, crossed.policy);
    drop(observers.record(Deed::QuotaWarning {
        tenant: tenant.as_str(),
        policy,
        limit,
        taken,
    }));
}

/// A revocation is kept by its issuer's id; under another one it would silently be gone.
async fn warn_of_lost(register: &Register, terms: &Terms) -> Result<(), StoreError> {
    let entries = register.entries(clock::now()).await?;
    let lost = entries
        .iter()
        .filter(|e| !terms.knows(&e.revocation.target));
    let lost = lost.count();
    if lost > 0 {
        tracing::warn!(
            revocations = lost,
            "revocations name issuers or tenants that are not configured any more, and cover \
             nothing: where one was renamed, give it its former id back"
        );
    }
    Ok(())
}

/// What imports the customers of each tenant that has a ledger.
pub(crate) fn importers(config: &Config, ledger: &Ledger) -> HashMap<TenantId, Importer> {
    let accounts = config.accounts.iter().map(|account| (&account.id, account));
    let accounts: HashMap<&AccountId, &Account> = accounts.collect();
    let importer = |tenant: &Tenant| {
        let account = accounts.get(&tenant.account)?;
        let importer = Importer {
            ledger: ledger.clone(),
            pseudonyms: config.pseudonyms.clone(),
            account: account.id.clone(),
            email_case: account.email_case,
            tenant: tenant.id.clone(),
        };
        Some((tenant.id.clone(), importer))
    };
    config
        .tenants
        .iter()
        .filter(|tenant| tenant.isolation != Isolation::None)
        .filter_map(importer)
        .collect()
}

/// Where each tenant's customers are.
pub(crate) fn homes(config: &Config) -> HashMap<TenantId, Home> {
    let accounts = config.accounts.iter().map(|account| (&account.id, account));
    let accounts: HashMap<&AccountId, &Account> = accounts.collect();
    let home = |tenant: &Tenant| {
        let account = accounts.get(&tenant.account)?;
        let home = Home {
            account: account.id.clone(),
            email_case: account.email_case,
        };
        Some((tenant.id.clone(), home))
    };
    config.tenants.iter().filter_map(home).collect()
}

fn grants(
    tenants: Vec<Tenant>,
    accounts: &Plan,
    rules: &Rules,
    lasting: &Lasting,
) -> HashMap<TenantId, Box<Grant>> {
    let of_country = |country| {
        Arc::new(Rules {
            country,
            ..rules.clone()
        })
    };
    let (any, us) = (of_country(Country::Any), of_country(Country::Us));
    let accounts = accounts.by_id();
    let grant = |tenant: Tenant| {
        let (account, pool) = accounts.get(&tenant.account)?;
        let rules = match tenant.country {
            Country::Any => &any,
            Country::Us => &us,
        };
        let grant = Grant {
            rules: Arc::clone(rules),
            credentials: Arc::clone(pool),
            email_case: account.email_case,
            quota: lasting.quotas.of(&tenant.id, &tenant.limits),
            statuses: lasting.statuses.of(&tenant.id, &tenant.account),
            tenant,
        };
        Some((grant.tenant.id.clone(), Box::new(grant)))
    };
    tenants.into_iter().filter_map(grant).collect()
}
