//! The composition root: a valid configuration and its edges in, a running gateway out.

use std::{
    collections::HashMap,
    io::{self, Write},
    sync::Arc,
};

use http::{Request, Response, StatusCode};
use thiserror::Error;
use tokio::{net::TcpListener, time::timeout_at};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    address::Client,
    admin::Admin,
    audit::AuditTrail,
    auth::{
        Authenticator, dpop::ProofChecker, jwks::RemoteKeys, register::Register,
        revocation::request::Terms,
    },
    body::ByteBudget,
    clock,
    config::Config,
    credential::Account,
    customer::{Ledger, import::Importer},
    ident::TenantId,
    metrics::Metrics,
    payload::Rules,
    pipeline::{Gateway, Grant},
    rotator::Rotator,
    segments::Segments,
    server::{self, ConnectionStats, Handle, Protocol, ProxyProtocol, RequestBody, ServerSettings},
    store::{OpenError, Store, StoreError},
    tenant::{Isolation, Tenant},
    trail::Observers,
    upstream::client::{UpstreamClient, UpstreamError},
};

/// What the gateway touches outside itself; a test hands in its own.
pub struct Edges {
    /// Where clients connect.
    pub public: TcpListener,
    /// Where operators connect.
    pub admin: TcpListener,
    /// Where audit events are written.
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
    /// The state store cannot be read.
    #[error("{0}")]
    Read(#[from] StoreError),
    /// The state store cannot be opened.
    #[error("{0}")]
    State(#[from] OpenError),
}

/// A gateway that is ready to run.
pub struct App {
    gateway: Arc<Gateway>,
    admin: Arc<Admin>,
    register: Arc<Register>,
    remote_keys: Vec<Arc<RemoteKeys>>,
    rotator: Arc<Rotator>,
    server: Arc<ServerSettings>,
    connections: Arc<ConnectionStats>,
    draining: CancellationToken,
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
        let store = Store::open(&config.state_path, &config.state_key)?;
        let (ledger, rotations) = (Ledger::new(store.clone()), store.clone());
        let importers = importers(&config, &ledger);
        let register = Register::open(store, config.pseudonyms.clone(), config.revocations);
        let register = Arc::new(register.await?);
        warn_of_lost(&register, &config.terms).await?;
        let observers = Arc::new(Observers {
            audit: AuditTrail::new(&config.audit_key, edges.audit),
            metrics: Metrics::new(),
            pseudonyms: config.pseudonyms.clone(),
        });
        let fixed_keys = config.issuers.iter().any(|i| i.keys.remote().is_none());
        let proofs = ProofChecker::new(config.dpop, clock::now());
        let authenticator = Authenticator::new(config.issuers, register.list(), proofs);
        let remote_keys: Vec<_> = authenticator.remote_keys().cloned().collect();
        let upstream = Arc::new(UpstreamClient::new(&config.upstream)?);
        let rotator = Rotator::open(
            rotations,
            Arc::clone(&observers),
            Arc::clone(&upstream),
            config.accounts.clone(),
        );
        let rotator = rotator.await?;
        let budget = ByteBudget::new(config.body.body_memory);
        let draining = CancellationToken::new();
        let connections = Arc::new(ConnectionStats::default());
        let admin = Admin {
            token: config.admin.token.clone(),
            importers,
            observers: Arc::clone(&observers),
            fixed_keys,
            remote_keys: remote_keys.clone(),
            register: Arc::clone(&register),
            rotator: Arc::clone(&rotator),
            terms: config.terms,
            budget: budget.clone(),
            connections: Arc::clone(&connections),
            draining: draining.clone(),
        };
        let gateway = Gateway {
            route: config.route,
            proxies: config.proxies,
            authenticator,
            tenants: grants(config.tenants, &config.accounts, &config.rules, &rotator),
            ledger,
            body: config.body,
            budget,
            upstream,
            observers,
            tasks: TaskTracker::new(),
        };
        Ok(Self {
            gateway: Arc::new(gateway),
            admin: Arc::new(admin),
            register,
            remote_keys,
            rotator,
            server: Arc::new(config.server),
            connections,
            draining,
            public_listener: edges.public,
            admin_listener: edges.admin,
        })
    }

    /// Serves until `shutdown`, then drains: readiness goes first, then the public listener, then
    /// requests in flight finish, and the admin listener goes last. Returns whether all finished
    /// within `drain_timeout`.
    pub async fn run(self, shutdown: CancellationToken) -> bool {
        let tasks = self.gateway.tasks.clone();
        // Ends with the admin listener: revocations are taken until the last request has finished.
        let upkeep = TaskTracker::new();
        let (admin, admin_stop) = (self.admin, CancellationToken::new());
        upkeep.spawn(self.register.keep_tidy(admin_stop.clone()));
        for keys in self.remote_keys {
            upkeep.spawn(keys.keep_fresh(admin_stop.clone()));
        }
        upkeep.spawn(self.rotator.run(Some(WATCH), admin_stop.clone()));
        let timeout = self.server.drain_timeout;
        let admin_server = ServerSettings {
            protocol: Protocol::Http1,
            // Operators and their scrapers connect by themselves.
            proxy_protocol: ProxyProtocol::Off,
            max_connections: ADMIN_CONNECTIONS,
            ..ServerSettings::clone(&self.server)
        };
        let operators = server::serve(
            self.admin_listener,
            Arc::new(admin_server),
            move |request| {
                let admin = Arc::clone(&admin);
                async move { admin.answer(request).await }
            },
            admin_stop.clone(),
            Arc::new(ConnectionStats::default()),
        );
        let clients = server::serve(
            self.public_listener,
            self.server,
            Public(self.gateway),
            self.draining.clone(),
            self.connections,
        );
        let drain = async {
            shutdown.cancelled().await;
            self.draining.cancel();
            clock::instant() + timeout
        };
        let public = async {
            let (drained, deadline) = tokio::join!(clients, drain);
            tasks.close();
            // Requests that were sent are settled even where their client has gone.
            let settled = timeout_at(deadline, tasks.wait()).await.is_ok();
            admin_stop.cancel();
            drained.is_complete() && settled
        };
        let (finished, _) = tokio::join!(public, operators);
        finished
    }
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

/// How often files are looked at.
const WATCH: std::time::Duration = std::time::Duration::from_secs(1);

/// Most connections of the admin listener: a few scrapers and probes, and room for people.
const ADMIN_CONNECTIONS: usize = 64;

/// The gateway as the server calls it.
#[derive(Clone)]
struct Public(Arc<Gateway>);

impl Handle for Public {
    fn handle(
        &self,
        request: Request<RequestBody>,
        peer: Client,
    ) -> impl Future<Output = Response<Segments>> + Send {
        Arc::clone(&self.0).handle(request, peer)
    }

    fn refuse(&self, status: StatusCode) -> Response<Segments> {
        self.0.refuse(status)
    }
}

/// What imports the customers of each tenant that has a ledger.
pub(crate) fn importers(config: &Config, ledger: &Ledger) -> HashMap<TenantId, Importer> {
    let importer = |tenant: &Tenant| {
        let mut accounts = config.accounts.iter();
        let account = accounts.find(|account| account.id == tenant.account)?;
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

fn grants(
    tenants: Vec<Tenant>,
    accounts: &[Account],
    rules: &Rules,
    rotator: &Rotator,
) -> HashMap<TenantId, Grant> {
    tenants
        .into_iter()
        .filter_map(|tenant| {
            let account = accounts
                .iter()
                .find(|account| account.id == tenant.account)?;
            let credentials = rotator.pool(&account.id)?;
            let rules = Rules {
                country: tenant.country,
                ..rules.clone()
            };
            Some((
                tenant.id.clone(),
                Grant {
                    tenant,
                    rules,
                    credentials,
                    email_case: account.email_case,
                },
            ))
        })
        .collect()
}
