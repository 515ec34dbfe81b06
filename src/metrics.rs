//! Counters and times for Prometheus, named `dcams_gateway_*`.
//!
//! Invariant: labels come from the configuration and from closed sets (tenant, service, outcome,
//! code), so their number is bounded; never a customer, a subject or a token.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use jiff::Timestamp;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text},
    metrics::{
        counter::Counter, family::Family, family::MetricConstructor, gauge::Gauge,
        histogram::Histogram,
    },
    registry::{Registry, Unit},
};

use crate::{
    auth::jwks::KeysStatus,
    credential::{pool::Standing, rotation::State},
    ident::{AccountId, CredentialId, IssuerId, TenantId},
    limits::Policy,
    quota,
};

/// What is counted; one instance a process.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    gateway_seconds: Family<ServiceLabels, Histogram, Seconds>,
    upstream_seconds: Family<ServiceLabels, Histogram, Seconds>,
    bytes_in: Family<ServiceLabels, Counter>,
    bytes_out: Family<ServiceLabels, Counter>,
    panics: Counter,
    dropped_fields: Counter,
    answers_withheld: Counter,
    admin_refused: Counter,
    issuer_keys: Family<IssuerLabels, Gauge>,
    issuer_keys_age: Family<IssuerLabels, Gauge<f64, AtomicU64>>,
    issuer_key_fetches: Family<FetchLabels, Counter>,
    credential_state: Family<StateLabels, Gauge>,
    credential_in_flight: Family<CredentialLabels, Gauge>,
    credential_not_after: Family<CredentialLabels, Gauge>,
    credential_changes: Family<ChangeLabels, Counter>,
    credential_unread: Family<CredentialLabels, Counter>,
    account_usable: Family<AccountLabels, Gauge>,
    quota_denied: Family<PolicyLabels, Counter>,
    quota_warnings: Family<PolicyLabels, Counter>,
    quota_limit: Family<PolicyLabels, Gauge>,
    quota_left: Family<PolicyLabels, Gauge>,
    quota_granted: Family<PolicyLabels, Gauge>,
    cache_requests: Family<CacheLabels, Counter>,
    cache_refreshes: Family<CacheLabels, Counter>,
    config_reloads: Family<ReloadLabels, Counter>,
    config_last_reload_success: Gauge,
    config_last_success: Gauge,
    levels: Vec<Level>,
}

/// A number that is kept elsewhere, and copied when a scrape comes.
struct Level {
    metric: LevelMetric,
    read: fn(&Levels) -> u64,
}

enum LevelMetric {
    /// Since the start.
    Counter(Counter),
    /// At the moment.
    Gauge(Gauge),
}

impl Level {
    fn copy(&self, now: &Levels) {
        let value = (self.read)(now);
        match &self.metric {
            LevelMetric::Counter(counter) => counter.inner().store(value, Relaxed),
            LevelMetric::Gauge(gauge) => {
                gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            }
        }
    }
}

/// One finished request.
#[derive(Debug, Clone, Copy)]
pub struct Finished<'a> {
    /// The tenant; none before authentication.
    pub tenant: Option<&'a TenantId>,
    /// The service; none before the body is read.
    pub service: Option<&'static str>,
    /// `ok`, or who has to act.
    pub outcome: &'static str,
    /// `ok`, an error's code, or `client_gone`.
    pub code: &'static str,
    /// Time in the gateway: all of it less the upstream's.
    pub gateway: Duration,
    /// Time from the first byte upstream to the answer's last; none where nothing was sent.
    pub upstream: Option<Duration>,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
}

/// What is read when a scrape comes, rather than counted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Levels {
    /// Bytes of bodies held now.
    pub body_memory: u64,
    /// Bytes of bodies that may be held.
    pub body_memory_limit: u64,
    /// Open connections of the public listener.
    pub connections: u64,
    /// Connections closed at once because there were too many open, since the start.
    pub connections_refused: u64,
    /// Connections closed at once because they came from no trusted proxy, since the start.
    pub connections_distrusted: u64,
    /// Connections closed because they did not begin with a PROXY header, since the start.
    pub connections_unannounced: u64,
    /// Statuses that are kept, about.
    pub cache_entries: u64,
    /// Bytes that they take, about.
    pub cache_bytes: u64,
    /// Whether it is known what other gateways write, 1 or 0.
    pub cache_in_touch: u64,
    /// Whether audit events get onto the disk, 1 or 0.
    pub audit_available: u64,
    /// Bytes of audit events that wait for the disk.
    pub audit_waiting: u64,
    /// Requests without a good token that left no audit event, since the start.
    pub audit_rejections_left_out: u64,
    /// Audit events that were lost, since the start.
    pub audit_lost: u64,
    /// Lines of the audit trail that standard output did not take, since the start.
    pub audit_uncopied: u64,
    /// How often the audit trail was synced, since the start.
    pub audit_syncs: u64,
    /// Audit events that the second place does not have yet.
    pub audit_unshipped: u64,
    /// Whether the second place takes them, 1 or 0; 1 where there is none.
    pub audit_shipping: u64,
    /// Audit events that were removed or damaged before they could be sent there, since the start.
    pub audit_missed: u64,
    /// Whether the state store can be asked, 1 or 0.
    pub state_store_up: u64,
    /// Questions to Redis, since the start.
    pub state_store_round_trips: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    tenant: TenantLabel,
    service: &'static str,
    outcome: &'static str,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServiceLabels {
    tenant: TenantLabel,
    service: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IssuerLabels {
    issuer: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FetchLabels {
    issuer: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AccountLabels {
    account: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CredentialLabels {
    account: String,
    credential: String,
}

impl CredentialLabels {
    fn new(account: &AccountId, credential: &CredentialId) -> Self {
        Self {
            account: account.to_string(),
            credential: credential.to_string(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    account: String,
    credential: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ChangeLabels {
    account: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PolicyLabels {
    tenant: TenantLabel,
    policy: &'static str,
}

impl PolicyLabels {
    fn new(tenant: &TenantId, policy: Policy) -> Self {
        Self {
            tenant: TenantLabel(Some(tenant.clone())),
            policy: policy.name(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CacheLabels {
    tenant: TenantLabel,
    result: &'static str,
}

impl CacheLabels {
    fn new(tenant: &TenantId, result: &'static str) -> Self {
        Self {
            tenant: TenantLabel(Some(tenant.clone())),
            result,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct TenantLabel(Option<TenantId>);

impl EncodeLabelValue for TenantLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        self.0
            .as_ref()
            .map_or(NONE, TenantId::as_str)
            .encode(encoder)
    }
}

/// The label of what is not known (yet): a tenant before authentication, a service before parsing.
const NONE: &str = "none";

impl Metrics {
    /// Everything at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("dcams_gateway");
        let mut metrics = Self {
            requests: Family::default(),
            gateway_seconds: Family::new_with_constructor(Seconds),
            upstream_seconds: Family::new_with_constructor(Seconds),
            bytes_in: Family::default(),
            bytes_out: Family::default(),
            panics: Counter::default(),
            dropped_fields: Counter::default(),
            answers_withheld: Counter::default(),
            admin_refused: Counter::default(),
            issuer_keys: Family::default(),
            issuer_keys_age: Family::default(),
            issuer_key_fetches: Family::default(),
            credential_state: Family::default(),
            credential_in_flight: Family::default(),
            credential_not_after: Family::default(),
            credential_changes: Family::default(),
            credential_unread: Family::default(),
            account_usable: Family::default(),
            quota_denied: Family::default(),
            quota_warnings: Family::default(),
            quota_limit: Family::default(),
            quota_left: Family::default(),
            quota_granted: Family::default(),
            cache_requests: Family::default(),
            cache_refreshes: Family::default(),
            config_reloads: Family::default(),
            config_last_reload_success: Gauge::default(),
            config_last_success: Gauge::default(),
            levels: Vec::new(),
            registry: Registry::default(),
        };
        metrics.register(&mut registry);
        metrics.levels = levels(&mut registry);
        Self {
            registry,
            ..metrics
        }
    }

    fn register(&self, registry: &mut Registry) {
        registry.register(
            "requests",
            "Requests, by how they ended",
            self.requests.clone(),
        );
        registry.register_with_unit(
            "gateway",
            "Time of a request in the gateway, without the upstream's",
            Unit::Seconds,
            self.gateway_seconds.clone(),
        );
        registry.register_with_unit(
            "upstream",
            "Time from the first byte sent upstream to the last of its answer",
            Unit::Seconds,
            self.upstream_seconds.clone(),
        );
        registry.register("bytes_in", "Bytes of request bodies", self.bytes_in.clone());
        registry.register(
            "bytes_out",
            "Bytes of answer bodies",
            self.bytes_out.clone(),
        );
        registry.register(
            "panics",
            "Requests that ended in a panic",
            self.panics.clone(),
        );
        registry.register(
            "dropped_fields",
            "Fields of upstream answers that the vendor does not document, not relayed",
            self.dropped_fields.clone(),
        );
        registry.register(
            "answers_withheld",
            "Answers that were kept back because their outcome could not be recorded in time",
            self.answers_withheld.clone(),
        );
        registry.register(
            "admin_refused",
            "Requests to the admin listener without the admin token, or with another",
            self.admin_refused.clone(),
        );
        self.register_issuers(registry);
        self.register_credentials(registry);
        self.register_quotas(registry);
        self.register_cache(registry);
    }

    fn register_cache(&self, registry: &mut Registry) {
        registry.register(
            "cache_requests",
            "Requests for a status, by what part the cache had in the answer",
            self.cache_requests.clone(),
        );
        registry.register(
            "cache_refreshes",
            "Statuses that were asked for anew before a client did, by how that ended",
            self.cache_refreshes.clone(),
        );
    }

    /// Counts a request for a status.
    pub fn status_told(&self, tenant: &TenantId, result: &'static str) {
        let labels = CacheLabels::new(tenant, result);
        self.cache_requests.get_or_create(&labels).inc();
    }

    /// Counts a status that was asked for anew.
    pub fn status_refreshed(&self, tenant: &TenantId, result: &'static str) {
        let labels = CacheLabels::new(tenant, result);
        self.cache_refreshes.get_or_create(&labels).inc();
    }

    fn register_credentials(&self, registry: &mut Registry) {
        registry.register(
            "account_usable",
            "Whether an account has a credential that may be used; 0 answers all its requests 502",
            self.account_usable.clone(),
        );
        registry.register(
            "credential_state",
            "The state that a credential is in",
            self.credential_state.clone(),
        );
        registry.register(
            "credential_in_flight",
            "Requests under way with a credential",
            self.credential_in_flight.clone(),
        );
        registry.register_with_unit(
            "credential_not_after_timestamp",
            "When a credential may not be used any more, where the configuration says so",
            Unit::Seconds,
            self.credential_not_after.clone(),
        );
        registry.register(
            "credential_changes",
            "Changes of credentials' states",
            self.credential_changes.clone(),
        );
        registry.register(
            "credential_source_failures",
            "How often a credential's source turned out not to be readable",
            self.credential_unread.clone(),
        );
        self.register_reloads(registry);
    }

    fn register_quotas(&self, registry: &mut Registry) {
        registry.register(
            "quota_denied",
            "Requests that a limit of their tenant's refused",
            self.quota_denied.clone(),
        );
        registry.register(
            "quota_warnings",
            "How often a tenant came close to a limit (`warn_at`)",
            self.quota_warnings.clone(),
        );
        registry.register(
            "quota_limit",
            "A limit of a tenant that was active, with what was granted on top",
            self.quota_limit.clone(),
        );
        registry.register(
            "quota_left",
            "What is left of it, as far as this node knows",
            self.quota_left.clone(),
        );
        registry.register(
            "quota_granted",
            "What operators granted on top of a day's or month's limit, until it ends",
            self.quota_granted.clone(),
        );
    }

    /// Counts a request that a limit refused.
    pub fn quota_denied(&self, tenant: &TenantId, policy: Policy) {
        self.quota_denied
            .get_or_create(&PolicyLabels::new(tenant, policy))
            .inc();
    }

    /// Counts a soft limit that was crossed.
    pub fn quota_warned(&self, tenant: &TenantId, policy: Policy) {
        self.quota_warnings
            .get_or_create(&PolicyLabels::new(tenant, policy))
            .inc();
    }

    /// Puts how limits stand in the place of how they stood.
    pub fn quotas(&self, standings: &[(TenantId, Vec<quota::Standing>)]) {
        self.quota_limit.clear();
        self.quota_left.clear();
        self.quota_granted.clear();
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        for (tenant, standings) in standings {
            for standing in standings {
                let labels = PolicyLabels::new(tenant, standing.policy);
                let limit = self.quota_limit.get_or_create(&labels);
                limit.set(gauge(standing.limit));
                drop(limit);
                let left = self.quota_left.get_or_create(&labels);
                left.set(gauge(standing.left));
                drop(left);
                if standing.ends.is_some() {
                    let granted = self.quota_granted.get_or_create(&labels);
                    granted.set(gauge(standing.granted));
                }
            }
        }
    }

    fn register_issuers(&self, registry: &mut Registry) {
        registry.register(
            "issuer_keys",
            "Keys of an issuer that publishes them; 0 refuses all its tokens",
            self.issuer_keys.clone(),
        );
        registry.register_with_unit(
            "issuer_keys_age",
            "Time since an issuer's keys were last confirmed",
            Unit::Seconds,
            self.issuer_keys_age.clone(),
        );
        registry.register(
            "issuer_key_fetches",
            "Fetches of an issuer's keys, by how they ended",
            self.issuer_key_fetches.clone(),
        );
    }

    fn register_reloads(&self, registry: &mut Registry) {
        // From the start, so that the first refusal is a change that an alert sees.
        for result in ["ok", "refused"] {
            drop(self.config_reloads.get_or_create(&ReloadLabels { result }));
        }
        registry.register(
            "config_reloads",
            "Times that the configuration was read again, by how that ended",
            self.config_reloads.clone(),
        );
        registry.register(
            "config_last_reload_success",
            "1 where the configuration that was read last is in force, 0 where it was refused",
            self.config_last_reload_success.clone(),
        );
        registry.register_with_unit(
            "config_last_success_timestamp",
            "When the configuration in force was read last",
            Unit::Seconds,
            self.config_last_success.clone(),
        );
    }

    /// Notes that the configuration which was read is in force.
    pub fn configured(&self, now: Timestamp) {
        self.config_last_reload_success.set(1);
        self.config_last_success.set(now.as_second());
    }

    /// Counts a reload that ended like this, `ok` or `refused`.
    pub fn reloaded(&self, result: &'static str, now: Timestamp) {
        self.config_reloads
            .get_or_create(&ReloadLabels { result })
            .inc();
        if result == "ok" {
            self.configured(now);
        } else {
            self.config_last_reload_success.set(0);
        }
    }

    /// Drops what is told of an issuer whose keys are not fetched any more.
    pub fn forget_issuer(&self, issuer: &IssuerId) {
        let issuer = issuer.as_str().to_owned();
        for result in ["ok", "failed"] {
            let issuer = issuer.clone();
            self.issuer_key_fetches
                .remove(&FetchLabels { issuer, result });
        }
        let labels = IssuerLabels { issuer };
        self.issuer_keys.remove(&labels);
        self.issuer_keys_age.remove(&labels);
    }

    /// Counts a finished request.
    pub fn finished(&self, request: &Finished<'_>) {
        let tenant = TenantLabel(request.tenant.cloned());
        let service = request.service.unwrap_or(NONE);
        let of_service = ServiceLabels {
            tenant: tenant.clone(),
            service,
        };
        let (outcome, code) = (request.outcome, request.code);
        self.requests
            .get_or_create(&RequestLabels {
                tenant,
                service,
                outcome,
                code,
            })
            .inc();
        self.gateway_seconds
            .get_or_create(&of_service)
            .observe(request.gateway.as_secs_f64());
        if let Some(upstream) = request.upstream {
            self.upstream_seconds
                .get_or_create(&of_service)
                .observe(upstream.as_secs_f64());
        }
        self.bytes_in
            .get_or_create(&of_service)
            .inc_by(request.bytes_in);
        self.bytes_out
            .get_or_create(&of_service)
            .inc_by(request.bytes_out);
    }

    /// Counts a request whose handler panicked.
    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// Counts fields of an answer that were not relayed because no page documents them.
    pub fn dropped_fields(&self, count: usize) {
        self.dropped_fields
            .inc_by(u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// Counts an answer that was kept back because its outcome could not be recorded.
    pub fn answer_withheld(&self) {
        self.answers_withheld.inc();
    }

    /// Counts somebody who has not got the admin token.
    pub fn admin_refused(&self) {
        self.admin_refused.inc();
    }

    /// Notes how the fetching of one issuer's keys goes, before a page is rendered.
    pub fn issuer_keys(&self, issuer: &IssuerId, status: &KeysStatus) {
        let issuer = issuer.as_str().to_owned();
        let labels = IssuerLabels {
            issuer: issuer.clone(),
        };
        let keys = i64::try_from(status.keys).unwrap_or(i64::MAX);
        self.issuer_keys.get_or_create(&labels).set(keys);
        // Without keys it is as bad as can be, so that an alert on the age keeps firing.
        let age = status.age.map_or(f64::INFINITY, |age| age.as_secs_f64());
        self.issuer_keys_age.get_or_create(&labels).set(age);
        let failures = status.failures;
        for (result, count) in [
            ("ok", status.fetches.saturating_sub(failures)),
            ("failed", failures),
        ] {
            let issuer = issuer.clone();
            let fetches = self
                .issuer_key_fetches
                .get_or_create(&FetchLabels { issuer, result });
            // Counted where the fetching is done; here it is copied, so that two pages agree.
            fetches.inner().store(count, Relaxed);
        }
    }

    /// Counts a credential that has come into this state.
    pub fn credential_changed(&self, account: &AccountId, state: State) {
        let labels = ChangeLabels {
            account: account.to_string(),
            state: state.as_str(),
        };
        self.credential_changes.get_or_create(&labels).inc();
    }

    /// Counts a source of a credential that cannot be read.
    pub fn credential_unread(&self, account: &AccountId, credential: &CredentialId) {
        let labels = CredentialLabels::new(account, credential);
        self.credential_unread.get_or_create(&labels).inc();
    }

    /// Forgets how credentials stand, before it is noted anew for a page.
    pub fn clear_credentials(&self) {
        self.account_usable.clear();
        self.credential_state.clear();
        self.credential_in_flight.clear();
        self.credential_not_after.clear();
    }

    /// Notes whether an account can be used.
    pub fn account(&self, account: &AccountId, usable: bool) {
        let labels = AccountLabels {
            account: account.to_string(),
        };
        self.account_usable
            .get_or_create(&labels)
            .set(usable.into());
    }

    /// Notes how one value of a credential stands. Those of one credential add up.
    pub fn credential(&self, account: &AccountId, standing: &Standing) {
        let labels = CredentialLabels::new(account, &standing.id);
        let in_flight = self.credential_in_flight.get_or_create(&labels);
        in_flight.inc_by(standing.in_flight.into());
        // There from the start, so that the first failure is an increase.
        drop(self.credential_unread.get_or_create(&labels));
        let retired = standing.state == State::Retired;
        if let Some(end) = standing.validity.not_after.filter(|_| !retired) {
            let not_after = self.credential_not_after.get_or_create(&labels);
            not_after.set(end.as_second());
        }
        let CredentialLabels {
            account,
            credential,
        } = labels;
        let labels = StateLabels {
            account,
            credential,
            state: standing.state.as_str(),
        };
        self.credential_state.get_or_create(&labels).set(1);
    }

    /// Everything, in the text form that Prometheus scrapes (`OpenMetrics` 1.0).
    pub fn render(&self, now: &Levels) -> String {
        for level in &self.levels {
            level.copy(now);
        }
        let mut page = String::new();
        // Writing into a string has nothing to fail on.
        let _ = text::encode(&mut page, &self.registry);
        page
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Registers what is copied when a scrape comes.
/// A name, what it says, and where it is read.
type Read = (&'static str, &'static str, fn(&Levels) -> u64);

/// What is as it is at the moment.
const GAUGES: [Read; 11] = [
    (
        "audit_available",
        "1 while audit events get onto the disk, 0 while they do not and requests are refused (with durability = required)",
        |now| now.audit_available,
    ),
    (
        "audit_waiting_bytes",
        "Bytes of audit events that wait for the disk",
        |now| now.audit_waiting,
    ),
    (
        "audit_shipping",
        "1 while the audit trail's second place takes events, or there is none; 0 while it does not",
        |now| now.audit_shipping,
    ),
    (
        "audit_unshipped",
        "Audit events that the second place does not have yet",
        |now| now.audit_unshipped,
    ),
    ("body_memory_bytes", "Bytes of bodies held now", |now| {
        now.body_memory
    }),
    (
        "body_memory_limit_bytes",
        "Bytes of bodies that may be held",
        |now| now.body_memory_limit,
    ),
    (
        "connections",
        "Open connections of the public listener",
        |now| now.connections,
    ),
    ("cache_entries", "Statuses that are kept, about", |now| {
        now.cache_entries
    }),
    ("cache_bytes", "Bytes that they take, about", |now| {
        now.cache_bytes
    }),
    (
        "cache_in_touch",
        "1 while it is known what other gateways write, 0 while nothing is told from the cache for want of that",
        |now| now.cache_in_touch,
    ),
    (
        "state_store_up",
        "1 while the state store can be asked, 0 while Redis is away or has lost its data",
        |now| now.state_store_up,
    ),
];

/// What is counted since the start.
const COUNTERS: [Read; 9] = [
    (
        "audit_lost",
        "Audit events that could not be written",
        |now| now.audit_lost,
    ),
    (
        "audit_rejections_left_out",
        "Requests refused for their token that left no audit event of their own: there were too many",
        |now| now.audit_rejections_left_out,
    ),
    (
        "audit_uncopied",
        "Lines of the audit trail that standard output did not take",
        |now| now.audit_uncopied,
    ),
    (
        "audit_syncs",
        "How often the audit trail was written and synced",
        |now| now.audit_syncs,
    ),
    (
        "audit_missed",
        "Audit events that were removed or damaged before the second place had them",
        |now| now.audit_missed,
    ),
    (
        "connections_refused",
        "Connections closed at once: too many were open",
        |now| now.connections_refused,
    ),
    (
        "connections_distrusted",
        "Connections closed at once: they came from no trusted proxy",
        |now| now.connections_distrusted,
    ),
    (
        "connections_unannounced",
        "Connections closed: they did not begin with a good PROXY header",
        |now| now.connections_unannounced,
    ),
    ("state_store_round_trips", "Questions to Redis", |now| {
        now.state_store_round_trips
    }),
];

fn levels(registry: &mut Registry) -> Vec<Level> {
    let gauges = GAUGES.map(|(name, help, read)| {
        let gauge = Gauge::default();
        registry.register(name, help, gauge.clone());
        let metric = LevelMetric::Gauge(gauge);
        Level { metric, read }
    });
    let counters = COUNTERS.map(|(name, help, read)| {
        let counter = Counter::default();
        registry.register(name, help, counter.clone());
        let metric = LevelMetric::Counter(counter);
        Level { metric, read }
    });
    gauges.into_iter().chain(counters).collect()
}

/// Makes the histograms of times: from 50 µs, what a small request takes here, to the half minute
/// that an upstream call may last.
#[derive(Clone)]
struct Seconds;

impl MetricConstructor<Histogram> for Seconds {
    fn new_metric(&self) -> Histogram {
        Histogram::new([
            0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1,
            0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finished_request_shows_in_every_family() {
        let metrics = Metrics::new();
        let tenant = TenantId::try_from("acme").unwrap();
        metrics.finished(&Finished {
            tenant: Some(&tenant),
            service: Some("getStatus"),
            outcome: "ok",
            code: "ok",
            gateway: Duration::from_micros(80),
            upstream: Some(Duration::from_millis(3)),
            bytes_in: 70,
            bytes_out: 300,
        });
        let page = metrics.render(&Levels {
            body_memory: 5,
            ..Levels::default()
        });
        for line in [
            r#"dcams_gateway_requests_total{tenant="acme",service="getStatus",outcome="ok",code="ok"} 1"#,
            r#"dcams_gateway_bytes_in_total{tenant="acme",service="getStatus"} 70"#,
            r#"dcams_gateway_gateway_seconds_count{tenant="acme",service="getStatus"} 1"#,
            r#"dcams_gateway_upstream_seconds_sum{tenant="acme",service="getStatus"} 0.003"#,
            "dcams_gateway_body_memory_bytes 5",
        ] {
            assert!(page.contains(line), "{line} not in\n{page}");
        }
    }
}
