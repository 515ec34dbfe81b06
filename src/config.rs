//! Reads the configuration: TOML files, folders of them, and the environment.
//!
//! Decides whether the gateway may start. Invariant: a [`Config`] is valid by construction: every
//! secret is there and strong enough, every reference resolves, every number is within bounds; if
//! not, there is no `Config` but a list of every mistake. It never prints or repeats a secret.

mod accounts;
mod audit;
mod bind;
mod cache;
mod cursor;
mod destination;
mod dpop;
mod entries;
mod field;
mod issuers;
mod layers;
mod listeners;
pub mod mistake;
pub mod origin;
mod quota;
mod revocations;
pub(crate) mod secret;
mod sections;
mod ship;
pub mod sources;
mod state;
mod vault;

#[cfg(test)]
mod tests;

use std::{collections::HashMap, fmt, path::PathBuf};

use jiff::Timestamp;

use self::{
    cursor::{Context, Section},
    entries::Common,
    issuers::Issuer,
    layers::Layers,
    listeners::Server,
    mistake::{Mistake, Mistakes, Report},
    origin::{Origin, Reading},
    sections::Limits,
    sources::{Seen, Sources},
};
use crate::{
    address::TrustedProxies,
    admin::AdminSettings,
    audit::AuditSettings,
    auth::{
        IssuerSettings,
        dpop::DpopSettings,
        keys::SigningKey,
        revocation::{
            Revocation,
            request::{IssuerTerms, Terms},
        },
    },
    body::BodySettings,
    caching::CacheSettings,
    credential::{Account, vault::VaultSettings},
    ident::{AccountId, IssuerId, PseudonymKey, TenantId},
    limits::Tariff,
    payload::Rules,
    reload::ReloadSettings,
    route::RouteSettings,
    server::ServerSettings,
    store::StateSettings,
    telemetry::TelemetrySettings,
    tenant::{Country, Tenant},
    upstream::client::UpstreamSettings,
};

/// A clock before this is not set: 2025-01-01T00:00:00Z.
const EARLIEST: i64 = 1_735_689_600;

/// Everything that the gateway is told, checked.
pub struct Config {
    /// The public listener.
    pub server: ServerSettings,
    /// Whose word on a client's address counts.
    pub proxies: TrustedProxies,
    /// What is served, and how its body may be framed.
    pub route: RouteSettings,
    /// The operators' listener.
    pub admin: AdminSettings,
    /// Where requests go, and how long they may take.
    pub upstream: UpstreamSettings,
    /// How a request body is read.
    pub body: BodySettings,
    /// What a request body must hold.
    pub rules: Rules,
    /// The Veratad accounts; each tenant's is among them.
    pub accounts: Vec<Account>,
    /// Where credentials are that are kept in Vault.
    pub vault: Option<VaultSettings>,
    /// The token issuers.
    pub issuers: Vec<IssuerSettings>,
    /// The keys that mint tokens, for those issuers whose secret or private key is configured.
    pub signing_keys: HashMap<IssuerId, SigningKey>,
    /// What proofs of possession are checked against.
    pub dpop: DpopSettings,
    /// The tenants; those that share an account have a ledger.
    pub tenants: Vec<Tenant>,
    /// What requests cost of their quotas.
    pub tariff: Tariff,
    /// Whom revocations may name.
    pub terms: Terms,
    /// The revocations that stand in the configuration.
    pub revocations: Vec<Revocation>,
    /// When files are looked at again.
    pub reload: ReloadSettings,
    /// How the gateway logs.
    pub telemetry: TelemetrySettings,
    /// What pseudonyms are made with (from `state.key`).
    pub pseudonyms: PseudonymKey,
    /// Where the state is kept, and what it is sealed with.
    pub state: StateSettings,
    /// What is kept of customers' statuses.
    pub cache: CacheSettings,
    /// The audit trail.
    pub audit: AuditSettings,
    /// What works but is unwise, in the form of mistakes.
    pub warnings: Vec<Mistake>,
    /// Where it comes from, to be read again.
    pub origin: Origin,
    /// What was looked at for it.
    pub sources: Sources,
}

impl Config {
    /// Reads files and folders (of `*.toml`, in name order) on top of the built-in defaults, and
    /// the variables `DCAMS_GATEWAY__SECTION__KEY` of `environment` on top of those. Secrets that
    /// are given as `{ env = "NAME" }` come from `environment` too.
    pub fn load(
        paths: &[PathBuf],
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, Mistakes> {
        Origin::new(paths, environment).read().outcome
    }

    /// Reads files and folders, with the process's own environment. A variable whose name or value
    /// is not Unicode counts as not set.
    pub fn load_with_env(paths: &[PathBuf]) -> Result<Self, Mistakes> {
        Origin::with_env(paths).read().outcome
    }
}

impl Origin {
    /// Reads everything, as it is now. It reads files, and so does not belong on a thread that
    /// answers requests.
    pub fn read(&self) -> Reading {
        let (outcome, warnings, sources) =
            self.understand(|context, layers| assemble(context, layers, self));
        let outcome = outcome.map(|config| Config {
            warnings,
            sources: sources.clone(),
            ..config
        });
        Reading { outcome, sources }
    }

    /// Reads where operators are answered, and nothing besides: a secret that is missing elsewhere, or
    /// is not for this user, keeps nobody from asking the gateway how it is.
    pub fn read_admin(&self) -> Result<AdminSettings, Mistakes> {
        let (outcome, ..) = self.understand(|context, layers| {
            let mut root = Section::root(context, layers.sections);
            listeners::admin(root.section("admin"), None)
        });
        outcome
    }

    /// What is made of all layers, unless there was a mistake; the warnings, and what was looked at.
    fn understand<T>(
        &self,
        make: impl FnOnce(Context<'_>, Layers) -> Option<T>,
    ) -> (Result<T, Mistakes>, Vec<Mistake>, Sources) {
        let (report, seen) = (Report::default(), Seen::default());
        let environment = self.environment();
        let layers = layers::read(&self.paths, &environment, &report, &seen);
        let name = layers.name.clone();
        let context = Context {
            report: &report,
            seen: &seen,
            environment: &environment,
            complete: layers.complete,
            name: &name,
        };
        let made = make(context, layers);
        let (mistakes, warnings) = report.into_parts();
        let outcome = match made {
            Some(made) if mistakes.is_empty() => Ok(made),
            Some(_) => Err(Mistakes::new(mistakes)),
            None => Err(Mistakes::new(at_least_one(mistakes, &name))),
        };
        (outcome, warnings, seen.into_sources())
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").finish_non_exhaustive()
    }
}

/// Refuses a clock that was never set: tokens would be judged by it.
pub fn check_clock(now: Timestamp) -> Result<(), Mistake> {
    if now.as_second() >= EARLIEST {
        return Ok(());
    }
    let problem = "stands before the year 2025";
    Err(Mistake::new(
        "system clock",
        "",
        problem,
        "set it, and keep it in step",
    ))
}

/// Reading must not fail without a word, whatever slip is made in it.
fn at_least_one(mut mistakes: Vec<Mistake>, name: &str) -> Vec<Mistake> {
    if mistakes.is_empty() {
        let problem = "could not be understood";
        mistakes.push(Mistake::new(name, "", problem, "report this as a fault"));
    }
    mistakes
}

fn assemble(context: Context<'_>, mut layers: Layers, origin: &Origin) -> Option<Config> {
    let mut entries = |list: &'static str| layers.entries.remove(list).unwrap_or_default();
    let accounts = entries::open::<AccountId>(context, "accounts", entries("accounts"));
    let issuers = entries::open::<IssuerId>(context, "issuers", entries("issuers"));
    let tenants = entries::open::<TenantId>(context, "tenants", entries("tenants"));
    let revocations = entries("revocations");

    let sections = fixed(Section::root(context, layers.sections));
    let listed_accounts = accounts::accounts(accounts.sections, sections.vault_written);
    if sections.vault_written {
        accounts::warn_of_unused_vault(context, listed_accounts.as_deref());
    }
    let listed_issuers = issuers::issuers(issuers.sections, &tenants.ids);
    let listed_tenants = entries::tenants(tenants.sections, &accounts.ids, sections.common());
    if let (Some(tenants), Some(tariff)) = (&listed_tenants, &sections.tariff) {
        let nodes = sections
            .state
            .as_ref()
            .and_then(|state| state.backend.nodes());
        quota::warn_of_narrow(context, tenants, tariff, nodes);
    }
    let terms = terms(listed_issuers.as_deref(), listed_tenants.as_deref());
    let revocations = revocations::revocations(context, revocations, terms.as_ref());

    let state = sections.state?;
    let server = sections.server?;
    let body = body(&server, &sections.limits?);
    let mut signing_keys = HashMap::new();
    let mut issuers = Vec::new();
    for issuer in listed_issuers? {
        if let Some(key) = issuer.signing {
            signing_keys.insert(issuer.settings.id.clone(), key);
        }
        issuers.push(issuer.settings);
    }
    let dpop = dpop::settings(context, server.public_urls, &issuers, &state.key);
    Some(Config {
        server: server.settings,
        proxies: server.proxies,
        route: server.route,
        admin: sections.admin?,
        upstream: sections.upstream?,
        body,
        rules: sections.rules?,
        accounts: listed_accounts?,
        vault: sections.vault,
        issuers,
        dpop,
        signing_keys,
        tenants: listed_tenants?,
        tariff: sections.tariff?,
        terms: terms?,
        revocations: revocations?,
        reload: sections.reload?,
        telemetry: sections.telemetry?,
        pseudonyms: PseudonymKey::derive(&state.key),
        state,
        cache: sections.cache?,
        audit: sections.audit?,
        // Both are known when all of this was read.
        warnings: Vec::new(),
        sources: Sources::none(),
        origin: origin.clone(),
    })
}

/// Whom revocations may name: every issuer and tenant.
fn terms(issuers: Option<&[Issuer]>, tenants: Option<&[Tenant]>) -> Option<Terms> {
    let of_issuer = |issuer: &Issuer| IssuerTerms {
        id: issuer.settings.id.clone(),
        max_ttl: issuer.settings.max_ttl,
        leeway: issuer.settings.leeway,
        kids: issuer.settings.keys.fixed_kids(),
    };
    Some(Terms {
        issuers: issuers?.iter().map(of_issuer).collect(),
        tenants: tenants?.iter().map(|tenant| tenant.id.clone()).collect(),
    })
}

/// The fixed sections, each where it had no mistake.
struct Fixed {
    server: Option<Server>,
    admin: Option<AdminSettings>,
    upstream: Option<UpstreamSettings>,
    limits: Option<Limits>,
    rules: Option<Rules>,
    tariff: Option<Tariff>,
    state: Option<StateSettings>,
    cache: Option<CacheSettings>,
    audit: Option<AuditSettings>,
    reload: Option<ReloadSettings>,
    telemetry: Option<TelemetrySettings>,
    /// Also where there is no such section.
    vault: Option<VaultSettings>,
    vault_written: bool,
}

impl Fixed {
    /// What they say of every tenant.
    fn common(&self) -> Common {
        let (rules, server) = (self.rules.as_ref(), self.server.as_ref());
        Common {
            country: rules.map_or(Country::Any, |rules| rules.country),
            one_address: server.is_some_and(Server::sees_one_address),
            max_body: self.limits.as_ref().map(|limits| limits.max_body),
        }
    }
}

fn fixed(mut root: Section<'_>) -> Fixed {
    let server = listeners::server(root.section("server"));
    let listen = server.as_ref().map(|server| server.settings.listen);
    let admin = listeners::admin(root.section("admin"), listen);
    let upstream = destination::upstream(root.section("upstream"));
    let limits = sections::limits(root.section("limits"));
    let rules = sections::validation(root.section("validation"), limits.as_ref());
    let tariff = quota::tariff(root.section("quota"));
    let state = state::state(root.section("state"));
    let cache = cache::cache(root.section("cache"), state.as_ref());
    let audit = audit::audit(root.section("audit"), state.as_ref());
    let reload = sections::reload(root.section("reload"));
    let telemetry = sections::telemetry(root.section("telemetry"));
    let vault_written = root.has("vault");
    let vault = vault::settings(&mut root);
    root.known(&layers::LISTS);
    root.finish();
    Fixed {
        server,
        admin,
        upstream,
        limits,
        rules,
        tariff,
        state,
        cache,
        audit,
        reload,
        telemetry,
        vault,
        vault_written,
    }
}

fn body(server: &Server, limits: &Limits) -> BodySettings {
    BodySettings {
        max_body: limits.max_body,
        max_lookup_body: limits.max_lookup_body,
        body_memory: limits.body_memory,
        budget_wait: limits.body_wait,
        body_timeout: server.body_timeout,
        idle: server.body_idle_timeout,
        min_rate: server.min_body_rate,
    }
}
