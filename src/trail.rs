//! What is remembered of one request while it travels: the one source of its log line, its metrics
//! and its audit event.
//!
//! Invariant: a trail that is begun is ended exactly once, also when its request's future is
//! dropped (the client left) or unwinds. It is written by the path and never read by it.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::Arc,
    thread,
    time::Duration,
};

use http::{Response, StatusCode};
use tokio::time::Instant;
use tracing::Level;

use crate::{
    address::Client,
    audit::{
        AuditTrail, AuditUnavailable, Filed,
        event::{
            Act, Asker, Content, Decision, Deed, Event, Head, ImageNote, Intent, Outcome, Phase,
            Rejected,
        },
        receipt::Receipt,
        ship::Shipping,
    },
    auth::Caller,
    caching::CacheStatus,
    clock,
    customer::EmailCase,
    error::{Blame, ErrorCode, GatewayError},
    ident::{CredentialId, PseudonymKey, Purpose, RequestId, TenantId},
    metrics::{Finished, Metrics},
    payload::Submission,
    quota::QuotaError,
    segments::Segments,
    status::Known,
    upstream::verdict::{CustomerStatus, Word},
};

/// Where a request's end is reported to; shared by all requests.
pub struct Observers {
    /// The audit trail.
    pub audit: Arc<AuditTrail>,
    /// How the trail gets to its second place, if it has one.
    pub shipping: Option<Shipping>,
    /// The counters.
    pub metrics: Metrics,
    /// What people are turned into pseudonyms with, but in the audit trail.
    pub pseudonyms: PseudonymKey,
}

impl Observers {
    /// Writes down what the gateway did by itself, or an operator with it.
    pub fn record(&self, deed: Deed<'_>) -> Filed {
        self.file(&Act {
            time: clock::now(),
            phase: Phase::Event,
            deed,
        })
    }

    /// Writes down that somebody without the admin token asked something of the admin listener: an event
    /// of those of which there are only so many a second, a line of log, and a count.
    pub fn stranger(&self, peer: Client, reason: &'static str) {
        self.metrics.admin_refused();
        let (id, code) = (RequestId::mint(), "admin_token");
        tracing::warn!(
            request.id = %id, peer.network = %peer, code, reason,
            "somebody without the admin token was refused"
        );
        self.contain(|| {
            self.audit.reject(|left_out| Rejected {
                time: clock::now(),
                phase: Phase::Rejected,
                request_id: id,
                client: peer,
                code,
                reason: Some(reason),
                http_status: StatusCode::UNAUTHORIZED.as_u16(),
                left_out,
            });
        });
    }

    fn file(&self, event: &impl Event) -> Filed {
        let filed = self.contain(|| self.audit.record(event));
        // The trail itself counts what it loses, but not what it never got.
        filed.unwrap_or_else(|| self.audit.lose())
    }

    /// Observing must not steer: whatever panics in here costs its own record, never the answer. An
    /// unwinding trail would otherwise panic a second time and end the process.
    fn contain<T>(&self, observe: impl FnOnce() -> T) -> Option<T> {
        let observed = panic::catch_unwind(AssertUnwindSafe(observe));
        if observed.is_err() {
            self.metrics.panicked();
        }
        observed.ok()
    }
}

/// The record of one request.
pub struct Trail {
    observers: Arc<Observers>,
    id: RequestId,
    began: Instant,
    client_request_id: Option<String>,
    trace_id: Option<String>,
    client: Client,
    caller: Option<Arc<Caller>>,
    content: Option<Arc<Content>>,
    /// Whether the trail says that it goes upstream.
    intended: bool,
    sent: Option<Sent>,
    cached: Option<CacheStatus>,
    customer_status: Option<CustomerStatus>,
    /// Why DCAMS could not be asked, where an older answer did.
    rescued: Option<&'static str>,
    bytes_in: u64,
    ended: bool,
}

/// What is remembered of the call upstream.
struct Sent {
    credential: CredentialId,
    began: Instant,
    took: Option<Duration>,
    /// How often DCAMS was asked, this time included, and how long all other times took.
    attempts: u8,
    before: Duration,
    status: Option<u16>,
    word: Option<Word>,
}

impl Sent {
    /// How long DCAMS took, all times together. A call that did not come back was waited for until
    /// now.
    fn duration(&self, now: Instant) -> Duration {
        let last = self.took.unwrap_or(now.duration_since(self.began));
        self.before + last
    }
}

/// How a request ended.
struct End<'a> {
    outcome: &'static str,
    code: &'static str,
    error: Option<&'a GatewayError>,
    http_status: Option<u16>,
    bytes_out: u64,
}

impl Trail {
    /// Begins the record of a request that has just arrived, and names it.
    pub fn begin(observers: &Arc<Observers>) -> Self {
        Self {
            observers: Arc::clone(observers),
            id: RequestId::mint(),
            began: clock::instant(),
            client_request_id: None,
            trace_id: None,
            client: Client::Unknown,
            caller: None,
            content: None,
            intended: false,
            sent: None,
            cached: None,
            customer_status: None,
            rescued: None,
            bytes_in: 0,
            ended: false,
        }
    }

    /// The gateway's id of the request.
    pub const fn id(&self) -> RequestId {
        self.id
    }

    /// Notes the client's own ids of the request and its trace, which the route step found plain and short.
    pub fn named_by_client(&mut self, id: Option<String>, trace: Option<String>) {
        self.client_request_id = id;
        self.trace_id = trace;
    }

    /// Notes where the request came from.
    pub fn called_from(&mut self, client: Client) {
        self.client = client;
    }

    /// Notes who calls; from here on the request leaves an audit event.
    pub fn authenticated(&mut self, caller: &Arc<Caller>) {
        self.caller = Some(Arc::clone(caller));
    }

    /// Notes the size of the body.
    pub fn received(&mut self, bytes: u64) {
        self.bytes_in = bytes;
    }

    /// Notes what a valid body asks for.
    pub fn submitted(&mut self, submission: &Submission<'_>, case: EmailCase) {
        let Some(caller) = &self.caller else { return };
        let pseudonym = |purpose, value: &str| {
            let pseudonyms = self.observers.audit.pseudonyms();
            pseudonyms.pseudonym(purpose, caller.tenant(), value.as_bytes())
        };
        let email = submission.email();
        self.content = Some(Arc::new(Content {
            service: submission.operation().name(),
            // One customer, one pseudonym, however the address was typed.
            customer: pseudonym(Purpose::Customer, &case.canonical(email)),
            reference: submission
                .reference()
                .map(|r| pseudonym(Purpose::Reference, r)),
            fields: submission.fields().collect(),
            images: submission
                .images()
                .iter()
                .map(|image| ImageNote {
                    side: image.side().name(),
                    format: image.format().name(),
                    bytes: image.bytes(),
                    digest: None,
                })
                .collect(),
        }));
    }

    /// Notes which images they are of what may go. What is refused is not looked at so closely.
    pub fn permitted(&mut self, submission: &Submission<'_>) {
        let content = self.content.as_mut().and_then(Arc::get_mut);
        let (Some(content), Some(key)) = (content, self.observers.audit.images()) else {
            return;
        };
        for (note, image) in content.images.iter_mut().zip(submission.images()) {
            note.digest = Some(key.digest(image.text()));
        }
    }

    /// Writes down that it is about to go upstream, if that is not written yet.
    ///
    /// # Errors
    /// [`AuditUnavailable`] where that is not on disk: it must not go.
    pub async fn intend(&mut self, credential: &CredentialId) -> Result<(), AuditUnavailable> {
        if self.intended {
            return Ok(());
        }
        let Some(caller) = &self.caller else {
            return Ok(());
        };
        let filed = self.observers.file(&Intent {
            head: self.head(Phase::Intent, caller),
            credential: credential.as_str(),
            cause: None,
        });
        filed.durable().await?;
        self.intended = true;
        Ok(())
    }

    fn head<'a>(&'a self, phase: Phase, caller: &'a Caller) -> Head<'a> {
        Head {
            time: clock::now(),
            phase,
            request_id: self.id,
            client_request_id: self.client_request_id.as_deref(),
            trace_id: self.trace_id.as_deref(),
            tenant: caller.tenant().as_str(),
            asker: Some(self.asker(caller)),
            content: self.content.as_deref(),
        }
    }

    fn asker<'a>(&self, caller: &'a Caller) -> Asker<'a> {
        let subject = caller.subject().map(|subject| {
            let pseudonyms = self.observers.audit.pseudonyms();
            pseudonyms.pseudonym(Purpose::Subject, caller.tenant(), subject.as_bytes())
        });
        Asker {
            issuer: caller.issuer().as_str(),
            subject,
            client: self.client,
        }
    }

    /// Notes that a request goes upstream now, this one or a question of our own before it.
    pub fn sending(&mut self, credential: &CredentialId) {
        let now = clock::instant();
        let (attempts, before) = self.sent.as_ref().map_or((0, Duration::ZERO), |sent| {
            (sent.attempts, sent.duration(now))
        });
        self.sent = Some(Sent {
            credential: credential.clone(),
            began: now,
            took: None,
            attempts: attempts.saturating_add(1),
            before,
            status: None,
            word: None,
        });
    }

    /// Notes that the call upstream is over, and with which status if it was answered.
    pub fn replied(&mut self, status: Option<u16>) {
        if let Some(sent) = &mut self.sent {
            sent.took = Some(clock::instant().duration_since(sent.began));
            sent.status = status;
        }
    }

    /// Notes what DCAMS called its answer.
    pub fn called(&mut self, word: Option<Word>) {
        if let Some(sent) = &mut self.sent {
            sent.word = word;
        }
    }

    /// Notes what the upstream's answer says of the customer.
    pub fn understood(&mut self, customer_status: CustomerStatus, dropped_fields: usize) {
        self.observers.metrics.dropped_fields(dropped_fields);
        self.customer_status = Some(customer_status);
    }

    /// Notes what is answered of a customer's status without this request having asked for it.
    pub fn recalled(&mut self, known: Known) {
        if let Known::Found(status) = known {
            self.customer_status = Some(status);
        }
    }

    /// Notes what part the status cache had.
    pub fn cached(&mut self, cached: &CacheStatus) {
        self.cached = Some(*cached);
    }

    /// Notes that DCAMS could not be asked, and an older answer has to do.
    pub fn rescued(&mut self, error: &GatewayError) {
        self.rescued = Some(error.reason());
    }

    /// The record of a question about the same customer that no client waits for.
    pub fn errand(&self) -> Option<Errand> {
        let caller = self.caller.as_ref()?;
        Some(Errand {
            observers: Arc::clone(&self.observers),
            id: RequestId::mint(),
            tenant: caller.tenant().clone(),
            content: self.content.clone(),
            intended: false,
            credential: None,
            attempts: 0,
            upstream_status: None,
            ended: false,
        })
    }

    /// Ends the record: the customer's data was answered.
    pub fn succeed(mut self, response: &Response<Segments>) -> Ended {
        let outcome = self.end(&End {
            outcome: "ok",
            code: "ok",
            error: None,
            http_status: Some(response.status().as_u16()),
            bytes_out: response.body().len(),
        });
        self.ended(outcome)
    }

    /// Ends the record: an error was answered.
    pub fn fail(mut self, error: &GatewayError, response: &Response<Segments>) -> Ended {
        let code = error.code();
        if let GatewayError::Quota(QuotaError::Denied(denied)) = error
            && let Some(caller) = &self.caller
        {
            let metrics = &self.observers.metrics;
            metrics.quota_denied(caller.tenant(), denied.policy);
        }
        let outcome = self.end(&End {
            outcome: code.blame().as_str(),
            code: code.as_str(),
            error: Some(error),
            http_status: Some(response.status().as_u16()),
            bytes_out: response.body().len(),
        });
        // That nothing can be recorded is answered without waiting for the record of it.
        let waits = code != ErrorCode::AuditUnavailable;
        self.ended(outcome.filter(|_| waits))
    }

    fn ended(&self, outcome: Option<Filed>) -> Ended {
        Ended {
            observers: Arc::clone(&self.observers),
            id: self.id,
            outcome,
            sent: self.sent.is_some(),
        }
    }

    fn end(&mut self, end: &End<'_>) -> Option<Filed> {
        self.ended = true;
        let now = clock::instant();
        let total = now.duration_since(self.began);
        let upstream = self.sent.as_ref().map(|sent| sent.duration(now));
        let gateway = total.saturating_sub(upstream.unwrap_or_default());
        self.observers.metrics.finished(&Finished {
            tenant: self.caller.as_ref().map(|caller| caller.tenant()),
            service: self.content.as_ref().map(|content| content.service),
            outcome: end.outcome,
            code: end.code,
            gateway,
            upstream,
            bytes_in: self.bytes_in,
            bytes_out: end.bytes_out,
        });
        if let (Some(caller), Some(cached)) = (&self.caller, &self.cached) {
            let metrics = &self.observers.metrics;
            metrics.status_told(caller.tenant(), cached.word());
        }
        self.observers.contain(|| self.log(end, gateway, upstream));
        self.observers.contain(|| self.audit(end, total)).flatten()
    }

    fn log(&self, end: &End<'_>, gateway: Duration, upstream: Option<Duration>) {
        let tenant = self.caller.as_ref().map(|caller| caller.tenant().as_str());
        let upstream_status = self.sent.as_ref().and_then(|sent| sent.status);
        let reason = end.error.map(GatewayError::reason).or(self.rescued);
        macro_rules! line {
            ($level:expr) => {
                tracing::event!(
                    $level,
                    request.id = %self.id,
                    client_request_id = self.client_request_id.as_deref(),
                    trace.id = self.trace_id.as_deref(),
                    tenant.id = tenant,
                    service = self.content.as_ref().map(|content| content.service),
                    status = end.http_status,
                    code = end.code,
                    cache = self.cached.as_ref().map(CacheStatus::word),
                    reason = reason.filter(|reason| *reason != end.code),
                    upstream.status = upstream_status,
                    bytes_in = self.bytes_in,
                    bytes_out = end.bytes_out,
                    gateway_ms = milliseconds(gateway),
                    upstream_ms = upstream.map(milliseconds),
                    "request",
                )
            };
        }
        // What the caller did wrong is everyday; what we or the vendor did is worth a look.
        match end.error.map(|error| error.code().blame()) {
            None | Some(Blame::Caller) => line!(Level::INFO),
            Some(Blame::Gateway | Blame::Upstream) => line!(Level::WARN),
        }
    }

    /// What was refused for its token, proof or issuer leaves an event, if there are not too many, or
    /// is counted. What never came so far leaves nothing.
    fn reject(&self, end: &End<'_>) {
        let Some(error @ GatewayError::Authenticate(_)) = end.error else {
            return;
        };
        let (code, reason) = (error.code(), error.reason());
        self.observers.audit.reject(|left_out| Rejected {
            time: clock::now(),
            phase: Phase::Rejected,
            request_id: self.id,
            client: self.client,
            code: code.as_str(),
            reason: Some(reason).filter(|reason| *reason != code.as_str()),
            http_status: code.status(),
            left_out,
        });
    }

    /// Only a request that passed authentication leaves an outcome: before that there is no tenant
    /// in whose name anything could have been done.
    fn audit(&self, end: &End<'_>, total: Duration) -> Option<Filed> {
        let Some(caller) = self.caller.as_ref() else {
            self.reject(end);
            return None;
        };
        let sent = self.sent.as_ref();
        Some(
            self.observers.file(&Outcome {
                head: self.head(Phase::Outcome, caller),
                decision: match (sent, end.error) {
                    (Some(_), _) => Decision::Forward,
                    (None, None) if end.http_status.is_some() => Decision::Answer,
                    (None, _) if self.cached.is_some_and(|cached| cached.is_kept()) => {
                        Decision::Answer
                    }
                    (None, _) => Decision::Refuse,
                },
                cache: self.cached.as_ref().map(CacheStatus::word),
                code: end.code,
                reason: end
                    .error
                    .map(GatewayError::reason)
                    .or(self.rescued)
                    .filter(|reason| *reason != end.code),
                credential: sent.map(|sent| sent.credential.as_str()),
                attempts: sent.map_or(0, |sent| sent.attempts),
                http_status: end.http_status,
                upstream_status: sent.and_then(|sent| sent.status),
                result: sent.and_then(|sent| sent.word).map(Word::as_str),
                customer_status: self.customer_status.map(CustomerStatus::as_str),
                bytes_in: self.bytes_in,
                bytes_out: end.bytes_out,
                ms: milliseconds(total),
            }),
        )
    }
}

/// A record that is ended, and on its way to the disk.
#[must_use = "the answer waits for it"]
pub struct Ended {
    observers: Arc<Observers>,
    id: RequestId,
    /// None where nobody waits: before authentication, or where nothing can be recorded.
    outcome: Option<Filed>,
    sent: bool,
}

impl Ended {
    /// Waits until the outcome is on disk, and says where, if clients are told.
    ///
    /// # Errors
    /// What is to be answered instead, where that does not happen in time.
    pub async fn on_disk(self) -> Result<Option<Receipt>, GatewayError> {
        let Some(outcome) = self.outcome else {
            return Ok(None);
        };
        let why = match outcome.durable().await {
            Ok(position) => {
                let audit = &self.observers.audit;
                return Ok(position.and_then(|position| audit.receipt(position)));
            }
            Err(why) => why,
        };
        let error = if self.sent {
            GatewayError::Withheld(why)
        } else {
            GatewayError::Audit(why)
        };
        self.observers.metrics.answer_withheld();
        tracing::error!(request.id = %self.id, error = %why, "an answer was withheld");
        drop(self.observers.record(Deed::AnswerWithheld {
            request_id: self.id,
            http_status: error.code().status(),
        }));
        Err(error)
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let (outcome, code, http_status) = if thread::panicking() {
            self.observers.metrics.panicked();
            let internal = GatewayError::Internal.code();
            let blame = internal.blame().as_str();
            (blame, internal.as_str(), Some(internal.status()))
        } else if self.sent.is_some() {
            // A client cannot end what was sent; only the process's own end does.
            (Blame::Gateway.as_str(), "shutting_down", None)
        } else {
            ("client_gone", "client_gone", None)
        };
        drop(self.end(&End {
            outcome,
            code,
            error: None,
            http_status,
            bytes_out: 0,
        }));
    }
}

/// The record of a customer's status that is asked for anew, on a request's account but behind its back.
/// Written once, also where its future is dropped.
pub struct Errand {
    observers: Arc<Observers>,
    /// Its own: a request that is answered already has nothing to do with how it ends.
    id: RequestId,
    tenant: TenantId,
    content: Option<Arc<Content>>,
    intended: bool,
    credential: Option<CredentialId>,
    attempts: u8,
    upstream_status: Option<u16>,
    ended: bool,
}

impl Errand {
    /// Its id.
    pub const fn id(&self) -> RequestId {
        self.id
    }

    /// As [`Trail::intend`].
    ///
    /// # Errors
    /// As there.
    pub async fn intend(&mut self, credential: &CredentialId) -> Result<(), AuditUnavailable> {
        if self.intended {
            return Ok(());
        }
        let filed = self.observers.file(&Intent {
            head: Head {
                time: clock::now(),
                phase: Phase::Intent,
                request_id: self.id,
                client_request_id: None,
                trace_id: None,
                tenant: self.tenant.as_str(),
                asker: None,
                content: self.content.as_deref(),
            },
            credential: credential.as_str(),
            cause: Some("refresh"),
        });
        filed.durable().await?;
        self.intended = true;
        Ok(())
    }

    /// Notes that it goes upstream now.
    pub fn sending(&mut self, credential: &CredentialId) {
        self.credential = Some(credential.clone());
        self.attempts = self.attempts.saturating_add(1);
        self.upstream_status = None;
    }

    /// Notes that the call is over, and with which status if it was answered.
    pub fn replied(&mut self, status: Option<u16>) {
        self.upstream_status = status;
    }

    /// Ends the record.
    pub fn end(mut self, error: Option<&GatewayError>) {
        self.record(error.map_or("ok", |error| error.code().as_str()));
    }

    fn record(&mut self, result: &'static str) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.observers
            .metrics
            .status_refreshed(&self.tenant, result);
        drop(self.observers.record(Deed::StatusRefreshed {
            request_id: self.id,
            tenant: self.tenant.as_str(),
            customer: self.content.as_ref().map(|content| content.customer),
            credential: self.credential.as_ref().map(CredentialId::as_str),
            attempts: self.attempts,
            upstream_status: self.upstream_status,
            result,
        }));
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if thread::panicking() {
            self.observers.metrics.panicked();
            self.record(GatewayError::Internal.code().as_str());
        } else {
            self.record("shutting_down");
        }
    }
}

fn milliseconds(duration: Duration) -> f64 {
    // Whole microseconds are exact enough, and print short.
    (duration.as_secs_f64() * 1_000_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tempfile::TempDir;

    use super::*;
    use crate::audit::{AuditSettings, key::AuditKey};

    #[test]
    fn an_errand_that_unwinds_is_a_panic_and_one_that_is_dropped_the_end_of_the_process() {
        let folder = TempDir::new().unwrap();
        let key = AuditKey::derive(&[7; 32]);
        let audit = AuditTrail::open(&AuditSettings::new(folder.path(), key), None).unwrap();
        let observers = Arc::new(Observers {
            pseudonyms: audit.pseudonyms().clone(),
            audit: Arc::new(audit),
            shipping: None,
            metrics: Metrics::new(),
        });
        let errand = || Errand {
            observers: Arc::clone(&observers),
            id: RequestId::mint(),
            tenant: TenantId::try_from("acme").unwrap(),
            content: None,
            intended: false,
            credential: None,
            attempts: 0,
            upstream_status: None,
            ended: false,
        };
        let unwinding = errand();
        let unwound = panic::catch_unwind(AssertUnwindSafe(|| {
            let _errand = unwinding;
            panic!("as a task may");
        }));
        assert!(unwound.is_err());
        drop(errand());
        errand().end(None);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        let closing = observers.audit.close(Duration::from_secs(20));
        assert!(runtime.unwrap().block_on(closing));
        let text = std::fs::read_to_string(folder.path().join("audit-00000001.jsonl")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        let ends = lines.filter(|line: &Value| line["event"] == "status_refreshed");
        let results: Vec<Value> = ends.map(|line| line["result"].clone()).collect();
        assert_eq!(results, ["internal_error", "shutting_down", "ok"]);
    }
}
