//! The admin listener: is the process alive, does it take requests, what has it counted; and what
//! operators ask of it (`api`).
//!
//! Invariant: nothing here shows a secret or a person. Where a token is configured, everything but
//! the two probes needs it.

pub(crate) mod api;
pub(crate) mod credentials;
pub(crate) mod forget;
pub(crate) mod import;
pub(crate) mod revocations;
pub(crate) mod usage;

use std::{collections::HashMap, fmt::Write as _, io::ErrorKind, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE},
};
use http_body::Body;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use tokio_util::sync::CancellationToken;

use self::{api::BoxError, forget::Home, usage::Desk};
use crate::{
    address::Client,
    audit::{
        AuditUnavailable,
        ship::{ShipHealth, Shipping},
    },
    auth::{jwks::RemoteKeys, register::Register, revocation::request::Terms},
    body::ByteBudget,
    credential::rotation::State,
    customer::import::Importer,
    ident::TenantId,
    metrics::Levels,
    reload::Reloads,
    rotator::{AccountStanding, Rotator},
    segments::Segments,
    server::ConnectionStats,
    status::StatusCache,
    store::{Standing, Store, redis::Redis},
    trail::Observers,
};

/// The `[admin]` section.
#[derive(Debug, Clone)]
pub struct AdminSettings {
    /// Where to listen.
    pub listen: SocketAddr,
    /// What `Authorization: Bearer` must carry; the configuration requires one off loopback.
    pub token: Option<SecretString>,
}

/// What the admin listener answers from.
pub struct Admin {
    /// What `Authorization: Bearer` must carry.
    pub token: Option<SecretString>,
    /// The counters.
    pub observers: Arc<Observers>,
    /// Whether any issuer's keys stand in the configuration.
    pub fixed_keys: bool,
    /// The keys that are fetched.
    pub remote_keys: Vec<Arc<RemoteKeys>>,
    /// The credentials towards DCAMS.
    pub rotator: Arc<Rotator>,
    /// The revocations.
    pub register: Arc<Register>,
    /// Where the state is.
    pub store: Store,
    /// What is kept of customers' statuses.
    pub statuses: StatusCache,
    /// By whom the configuration is read again.
    pub reloads: Reloads,
    /// Whom revocations may name.
    pub terms: Terms,
    /// What writes down older customers, for each tenant that has a ledger.
    pub importers: HashMap<TenantId, Importer>,
    /// Where each tenant's customers are.
    pub homes: HashMap<TenantId, Home>,
    /// What tenants have used, and more for them.
    pub usage: Desk,
    /// The bodies held now.
    pub budget: ByteBudget,
    /// The public listener's connections.
    pub connections: Arc<ConnectionStats>,
    /// Cancelled when the gateway begins to drain.
    pub draining: CancellationToken,
}

impl Admin {
    /// Answers one request of this peer.
    pub async fn answer<B>(&self, request: Request<B>, peer: Client) -> Response<Segments>
    where
        B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
    {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path();
        let probe = matches!(path, "/livez" | "/readyz");
        if !probe && !self.is_allowed(&parts.headers) {
            let named = parts.headers.contains_key(AUTHORIZATION);
            let reason = if named { "wrong" } else { "missing" };
            self.observers.stranger(peer, reason);
            let why = "send Authorization: Bearer with the admin token\n";
            let mut response = text(StatusCode::UNAUTHORIZED, why);
            let challenge = HeaderValue::from_static(r#"Bearer realm="dcams-gateway admin""#);
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            return response;
        }
        // A page in a browser on this machine could reach us by a name of its own.
        if !probe && self.token.is_none() && !api::names_loopback(&parts.headers) {
            let why = "without admin.token only a loopback Host is served: use http://127.0.0.1\n";
            return text(StatusCode::FORBIDDEN, why);
        }
        if path.starts_with("/api/") {
            return api::answer(self, peer, &parts, body).await;
        }
        if parts.method != Method::GET {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n");
            response
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET"));
            return response;
        }
        match path {
            "/livez" => text(StatusCode::OK, "live\n"),
            "/readyz" => self.readiness(&parts.headers),
            "/metrics" => self.metrics(),
            _ => text(
                StatusCode::NOT_FOUND,
                "served here: /livez, /readyz, /metrics, /api/cache/purge, /api/credentials, /api/customers/{forget,import,owner,remove}, /api/reload, /api/revocations, /api/usage, /api/usage/statement, /api/usage/TENANT/grant\n",
            ),
        }
    }

    /// Whether requests are taken. Not, while no issuer has keys: every token would be refused.
    /// Operators are told of each issuer whose keys are fetched; a bare probe gets one word.
    fn readiness(&self, headers: &HeaderMap) -> Response<Segments> {
        let usable = |keys: &RemoteKeys| keys.status().usable;
        let believes = self.fixed_keys || self.remote_keys.iter().any(|keys| usable(keys));
        let (status, word) = if self.draining.is_cancelled() {
            (StatusCode::SERVICE_UNAVAILABLE, "draining")
        } else if !believes {
            (StatusCode::SERVICE_UNAVAILABLE, "no issuer has keys")
        } else if self.observers.audit.available().is_err() {
            let word = "what is done cannot be recorded";
            (StatusCode::SERVICE_UNAVAILABLE, word)
        } else {
            (StatusCode::OK, "ready")
        };
        let mut page = format!("{word}\n");
        if self.is_allowed(headers) {
            for keys in &self.remote_keys {
                page.push_str(&describe(keys));
            }
            for account in self.rotator.standings() {
                page.push_str(&describe_account(&account));
            }
            if let Err(why) = self.observers.audit.health().available {
                let mend = mend(why);
                // Writing into a string has nothing to fail on.
                let _ = writeln!(page, "audit: {why}: {mend}");
            }
            if let Some(shipping) = &self.observers.shipping {
                page.push_str(&describe_shipping(&shipping.health()));
            }
            page.push_str(match self.store.standing() {
                Standing::Away => {
                    "state store: Redis does not answer; what needs it is refused, known revocations are in force\n"
                }
                Standing::Lost => {
                    "state store: Redis has lost its data; restore it, or restart every gateway\n"
                }
                Standing::Up => "",
            });
            if let Some(refused) = self.reloads.last_refusal() {
                page.push_str(
                    "configuration: the last reload was refused, and the one before is in force\n",
                );
                for line in refused.lines() {
                    page.push_str("configuration: ");
                    page.push_str(line);
                    page.push('\n');
                }
            }
        }
        respond(status, TEXT, page.into_bytes().into())
    }

    fn metrics(&self) -> Response<Segments> {
        for keys in &self.remote_keys {
            let metrics = &self.observers.metrics;
            metrics.issuer_keys(keys.issuer(), &keys.status());
        }
        self.observers.metrics.clear_credentials();
        for account in self.rotator.standings() {
            let metrics = &self.observers.metrics;
            metrics.account(&account.id, account.usable);
            for standing in &account.credentials {
                metrics.credential(&account.id, standing);
            }
        }
        self.observers.metrics.quotas(&self.usage.quotas.active());
        let (cache_entries, cache_bytes) = self.statuses.size();
        let audit = self.observers.audit.health();
        let shipping = self.observers.shipping.as_ref().map(Shipping::health);
        let page = self.observers.metrics.render(&Levels {
            audit_available: u64::from(audit.available.is_ok()),
            audit_waiting: u64::try_from(audit.waiting).unwrap_or(u64::MAX),
            audit_lost: audit.lost,
            audit_rejections_left_out: audit.left_out,
            audit_uncopied: audit.uncopied,
            audit_syncs: audit.syncs,
            audit_unshipped: shipping.map_or(0, |shipping| shipping.behind_events),
            audit_shipping: u64::from(shipping.is_none_or(|shipping| shipping.reason.is_none())),
            audit_missed: shipping.map_or(0, |shipping| shipping.missed_events),
            cache_entries,
            cache_bytes,
            cache_in_touch: u64::from(self.statuses.is_in_touch_now()),
            body_memory: self.budget.in_use(),
            body_memory_limit: self.budget.total(),
            connections: u64::try_from(self.connections.now_open()).unwrap_or(u64::MAX),
            connections_refused: self.connections.refused(),
            connections_distrusted: self.connections.distrusted(),
            connections_unannounced: self.connections.unannounced(),
            state_store_up: u64::from(self.store.standing() == Standing::Up),
            state_store_round_trips: self.store.redis().map_or(0, Redis::round_trips),
        });
        respond(
            StatusCode::OK,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            page.into(),
        )
    }

    fn is_allowed(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else {
            return true;
        };
        headers
            .get(AUTHORIZATION)
            .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "))
            .is_some_and(|given| given.ct_eq(expose(token)).into())
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "compared in constant time, never shown"
)]
fn expose(token: &SecretString) -> &[u8] {
    token.expose_secret().as_bytes()
}

/// What to do where audit events do not get onto the disk.
const fn mend(why: AuditUnavailable) -> &'static str {
    match why {
        AuditUnavailable::Closed => "the gateway has ended; start it again",
        AuditUnavailable::Disk(ErrorKind::NotFound) => {
            "put it back, and the gateway goes on by itself; or start it again, and it begins there anew"
        }
        AuditUnavailable::Disk(_) => {
            "make room on the disk of `audit.path`, or mend it; the gateway goes on by itself"
        }
        AuditUnavailable::Full | AuditUnavailable::Slow => {
            "look at the disk of `audit.path`: the gateway goes on by itself as soon as that is fast enough"
        }
    }
}

/// One line on the audit trail's second place, where it does not have everything.
fn describe_shipping(health: &ShipHealth) -> String {
    let (Some(reason), Some(since)) = (health.reason, health.failing_since) else {
        return String::new();
    };
    let (behind, missed) = (health.behind_events, health.missed_events);
    let lost = if missed > 0 {
        format!("; {missed} were removed, or damaged, before it had them")
    } else {
        String::new()
    };
    format!(
        "audit: its second place takes nothing since {since:.0} ({reason}), and lacks {behind} events; they stay \
         on disk for as long as audit.keep and audit.keep_files say{lost}\n"
    )
}

/// One line on an issuer whose keys are fetched.
fn describe(keys: &RemoteKeys) -> String {
    let (id, status) = (keys.issuer(), keys.status());
    let mut line = match status.age {
        Some(age) => format!(
            "issuer {id}: keys {}, confirmed {} s ago",
            status.keys,
            age.as_secs()
        ),
        None => format!("issuer {id}: no keys, its tokens are refused"),
    };
    if let Some(reason) = status.last_failure {
        line.push_str(", last fetch failed: ");
        line.push_str(reason);
    }
    line.push('\n');
    line
}

/// What of an account's credentials needs a person; nothing where all is well.
fn describe_account(account: &AccountStanding) -> String {
    let id = &account.id;
    let unusable = (!account.usable)
        .then(|| "no credential may be used, its requests are answered 502".to_owned());
    let rejected = account.credentials.iter();
    let rejected = rejected
        .filter(|credential| credential.state == State::Rejected)
        .map(|credential| format!("DCAMS refuses the credential {}", credential.id));
    let unread = account.troubles.iter().map(|(credential, why)| {
        format!("the source of {credential} cannot be read ({why}), its last value is kept")
    });
    let lines = unusable.into_iter().chain(rejected).chain(unread);
    lines.fold(String::new(), |page, line| {
        page + "account " + id.as_str() + ": " + &line + "\n"
    })
}

const TEXT: &str = "text/plain; charset=utf-8";

fn text(status: StatusCode, body: &'static str) -> Response<Segments> {
    respond(status, TEXT, body.into())
}

fn respond(status: StatusCode, kind: &'static str, body: Segments) -> Response<Segments> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
