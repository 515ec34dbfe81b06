//! The request path. Read this first.
//!
//! Two halves, divided by the moment the first byte goes upstream. `prepare` may be abandoned at any
//! await: nothing has been done in the tenant's name. `settle` may not: where its client hangs up it
//! goes on as a task of its own, which a drain waits for.
//!
//! Each step takes what the step before it returned, so none can be left out or moved.

mod ownership;
mod status;

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use http_body::Body;
use tokio_util::task::TaskTracker;

use crate::{
    address::{Client, TrustedProxies},
    audit::AuditUnavailable,
    auth::{
        Authenticator, Caller,
        permit::{Permit, authorize},
    },
    body::{self, BodySettings, BudgetPermit, ByteBudget, RawBody, Size},
    caching::{CacheSettings, CacheStatus, Wish},
    clock,
    credential::pool::Pool,
    customer::{CustomerKey, EmailCase, Ledger, OwnershipError},
    error::{ErrorCode, GatewayError},
    ident::{CredentialId, RequestId, TenantId},
    limits::{Limits, Tariff},
    operation::Operation,
    payload::{
        PayloadError, Rules, Submission,
        lift::{Lifted, Lifter, SKELETON_LIMIT},
    },
    quota::{Admission, Ending, Outcome, Standing, TenantQuota},
    reply,
    route::{Declared, RouteSettings, Target, route},
    segments::Segments,
    status::{StatusCache, TenantStatuses},
    tenant::{Disclosure, Isolation, Tenant, Unowned},
    trail::{Ended, Observers, Trail},
    upstream::{
        UpstreamReply,
        answer::Answer,
        client::UpstreamClient,
        seal::{SealedRequest, seal, seal_question},
        verdict::{Refusal, Word, interpret, said_of_login, word_of},
    },
};

use self::{
    ownership::Ownership,
    status::{Grip, Subject},
};

/// One running gateway: a handle for each step, and nothing that a request could change.
pub struct Gateway {
    /// What is served.
    pub route: RouteSettings,
    /// Whose word on a client's address counts.
    pub proxies: TrustedProxies,
    /// Who is believed.
    pub authenticator: Authenticator,
    /// What each tenant may do, and with which credential.
    pub tenants: HashMap<TenantId, Box<Grant>>,
    /// What requests cost of their tenant's quotas.
    pub tariff: Tariff,
    /// Which tenant owns which customer.
    pub ledger: Ledger,
    /// What is kept of customers' statuses, and for how long it is told.
    pub statuses: StatusCache,
    /// See `statuses`.
    pub caching: CacheSettings,
    /// How bodies are read.
    pub body: BodySettings,
    /// How much of them may be held at once.
    pub budget: ByteBudget,
    /// How the upstream is reached.
    pub upstream: Arc<UpstreamClient>,
    /// Where a request's end is reported to.
    pub observers: Arc<Observers>,
    /// The tasks that a drain waits for.
    pub tasks: TaskTracker,
}

/// A tenant, ready to serve.
pub struct Grant {
    /// Its configuration.
    pub tenant: Tenant,
    /// The rules its payloads must follow; tenants share them.
    pub rules: Arc<Rules>,
    /// The credentials that its requests are sent with.
    pub credentials: Arc<Pool>,
    /// How its account's customers are told apart.
    pub email_case: EmailCase,
    /// What it may use, and has used.
    pub quota: TenantQuota,
    /// What is kept of its customers' statuses.
    pub statuses: TenantStatuses,
}

impl Grant {
    /// Where spellings count as one customer, that one spelling is what goes upstream: a tenant that
    /// owns a customer by one of them must not reach whom DCAMS knows by another.
    fn spell<'b>(&self, submission: Submission<'b>) -> Submission<'b> {
        match self.tenant.isolation {
            Isolation::Ledger(_) => {
                submission.respelled(|email| self.email_case.canonical(email).into_owned())
            }
            Isolation::None => submission,
        }
    }

    /// What a client's wishes count for.
    const fn heed(&self, wish: Wish) -> Wish {
        if self.tenant.caching.no_cache {
            wish
        } else {
            wish.without_freshness()
        }
    }
}

/// Everything that the second half needs, and nothing of the connection.
struct Job {
    sealed: SealedRequest,
    permit: Permit,
    disclosure: Disclosure,
    credentials: Arc<Pool>,
    /// Whom it is about, and what its client wants of the cache.
    subject: Subject,
    /// What is to be known of the customer first; nothing where the tenant has its account alone.
    ownership: Option<Ownership>,
    /// The body's share of the byte budget, held until the upstream has answered.
    _share: BudgetPermit,
}

impl Job {
    const fn operation(&self) -> Operation {
        self.permit.operation()
    }

    /// Whether DCAMS is not to be asked.
    fn wants_only_what_is_kept(&self) -> bool {
        self.operation() == Operation::GetStatus && self.subject.wish.only_cached
    }
}

/// What there is to do when the first half is through.
#[expect(
    clippy::large_enum_variant,
    reason = "it is moved once, and the rare one is the small one"
)]
enum Prepared {
    /// Tell the tenant how it stands.
    Report(TenantId),
    /// Send this.
    Send(Job, Admission),
}

/// What a request takes with it on its way: what is remembered of it, and the place and the charge that
/// its tenant's limits gave it.
struct Journey {
    trail: Trail,
    admission: Admission,
    /// The last answer's.
    upstream_status: Option<StatusCode>,
    /// What part the status cache had, where it was asked.
    cached: Option<CacheStatus>,
    /// What went wrong, where something older was told.
    rescued: Option<GatewayError>,
    /// Whether what was told is to be asked for anew.
    refresh: bool,
}

/// Who has to know of a call upstream.
trait Witness {
    fn id(&self) -> RequestId;
    /// Writes down that a call is about to be made, unless that is done.
    fn intend(
        &mut self,
        credential: &CredentialId,
    ) -> impl Future<Output = Result<(), AuditUnavailable>> + Send;
    fn sending(&mut self, credential: &CredentialId, operation: Operation);
    /// It is over; with a status if it was answered. `arrived`: a byte of it may have.
    fn replied(&mut self, operation: Operation, status: Option<StatusCode>, arrived: bool);
    /// What DCAMS called its answer.
    fn called(&mut self, word: Option<Word>);
    fn understood(&mut self, answer: &Answer);
}

impl Witness for Journey {
    fn id(&self) -> RequestId {
        self.trail.id()
    }

    async fn intend(&mut self, credential: &CredentialId) -> Result<(), AuditUnavailable> {
        self.trail.intend(credential).await
    }

    fn sending(&mut self, credential: &CredentialId, operation: Operation) {
        self.trail.sending(credential);
        self.admission.sending(operation);
    }

    fn replied(&mut self, _operation: Operation, status: Option<StatusCode>, arrived: bool) {
        self.admission.replied(arrived);
        self.trail.replied(status.map(|status| status.as_u16()));
        self.upstream_status = status;
    }

    fn called(&mut self, word: Option<Word>) {
        self.trail.called(word);
    }

    fn understood(&mut self, answer: &Answer) {
        self.trail
            .understood(answer.customer_status(), answer.dropped());
    }
}

/// Whose limits an answer names.
struct Metered {
    caller: Arc<Caller>,
    limits: Arc<Limits>,
    quota: TenantQuota,
}

impl Metered {
    fn standings(&self) -> Vec<Standing> {
        self.quota.standings(self.caller.subject(), &self.limits)
    }
}

impl Gateway {
    /// Answers one request that came from `peer`. A panic on the way is that request's 500 and a
    /// counter.
    pub async fn handle<B>(self: Arc<Self>, request: Request<B>, peer: Client) -> Response<Segments>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let mut trail = Trail::begin(&self.observers);
        let id = trail.id();
        let mut metered = None;
        let prepared = AssertUnwindSafe(self.prepare(request, peer, &mut trail, &mut metered))
            .catch_unwind()
            .await;
        let error = match prepared {
            Ok(Ok(Prepared::Send(job, admission))) => {
                let journey = Journey {
                    trail,
                    admission,
                    upstream_status: None,
                    cached: None,
                    rescued: None,
                    refresh: false,
                };
                let settled = Unstoppable::new(Arc::clone(&self).settle(job, journey), &self.tasks);
                let settled = AssertUnwindSafe(settled).catch_unwind().await;
                // A panic was recorded by the trail that it unwound through.
                let response =
                    settled.unwrap_or_else(|_| reply::problem(&GatewayError::Internal, id));
                return self.addressed(response, metered.as_ref(), false);
            }
            Ok(Ok(Prepared::Report(tenant))) => {
                let standings = metered.as_ref().map(Metered::standings).unwrap_or_default();
                let response = reply::usage(&tenant, &standings, id);
                let response = recorded(trail.succeed(&response), response, id).await;
                return self.addressed(response, metered.as_ref(), false);
            }
            Ok(Err(error)) => error,
            Err(_panic) => {
                self.observers.metrics.panicked();
                GatewayError::Internal
            }
        };
        let response = reply::problem(&error, id);
        let response = recorded(trail.fail(&error, &response), response, id).await;
        let needs_nonce = error.code() == ErrorCode::UseDpopNonce;
        self.addressed(response, metered.as_ref(), needs_nonce)
    }

    /// A response with what its caller is to know besides: how its limits stand, and a nonce for its
    /// next proof where it needs one.
    fn addressed(
        &self,
        response: Response<Segments>,
        to: Option<&Metered>,
        needs_nonce: bool,
    ) -> Response<Segments> {
        let standings = to.map(Metered::standings).unwrap_or_default();
        let response = reply::with_limits(response, &standings);
        if needs_nonce || to.is_some_and(|to| to.caller.needs_nonce()) {
            return reply::with_nonce(response, self.authenticator.nonce(clock::now()));
        }
        response
    }

    /// Answers a head that could not be parsed.
    pub fn refuse(&self, status: StatusCode) -> Response<Segments> {
        let trail = Trail::begin(&self.observers);
        let error = GatewayError::Head(status);
        let response = reply::problem(&error, trail.id());
        // Nobody is known in whose name it came, so it leaves no event to wait for.
        drop(trail.fail(&error, &response));
        response
    }

    /// From the head of a request to a body that is ready to be sent.
    async fn prepare<B>(
        &self,
        request: Request<B>,
        peer: Client,
        trail: &mut Trail,
        metered: &mut Option<Metered>,
    ) -> Result<Prepared, GatewayError>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let (parts, body) = request.into_parts();
        let routed = route(&parts, self.route)?;
        let client = self.proxies.client(peer, &parts.headers);
        trail.called_from(client);
        let caller = self
            .authenticator
            .authenticate(&parts, clock::now())
            .await?;
        trail.authenticated(&caller);
        // What cannot be recorded is not begun.
        self.observers.audit.available()?;
        let grant = self.grant(&caller, client)?;
        let (quota, limits) = (&grant.quota, &grant.tenant.limits);
        let metered = metered.insert(Metered {
            caller: Arc::clone(&caller),
            limits: Arc::clone(limits),
            quota: quota.clone(),
        });
        if routed.target() == Target::Usage {
            // What it says is free, so that who waits can see for how long.
            metered.quota.look().await?;
            return Ok(Prepared::Report(grant.tenant.id.clone()));
        }
        let subject = caller.subject();
        let mut admission = quota.admit(subject, limits, self.tariff).await?;
        let declared = routed.declare()?;
        trail.named_by_client(
            declared.client_request_id.clone(),
            declared.trace_id.clone(),
        );
        // The scopes bound the body before a byte of it is read: who may not create customers has
        // nothing large to say.
        let creates = caller
            .operations()
            .contains(Operation::CreateOrUpdateCustomer);
        let limit = if creates {
            self.body.max_body
        } else {
            self.body.max_lookup_body
        };
        let size = Size {
            declared: declared.content_length,
            limit,
        };
        let mut lifter = Lifter::new(SKELETON_LIMIT);
        let watch = |frames: &[Bytes]| lifter.advance(frames);
        let raw = body::read(body, size, &self.budget, &self.body, watch).await?;
        trail.received(raw.len());
        let lifted = lifter.finish(raw.frames()).map_err(PayloadError::from)?;
        let bytes = raw.len();
        let job = self.accept(raw, &lifted, declared, &caller, grant, trail)?;
        // Only what could be sent is paid for.
        admission.charge(&job.permit, bytes).await?;
        Ok(Prepared::Send(job, admission))
    }

    /// What the caller's tenant may do, if it may be called from where the client is.
    fn grant(&self, caller: &Caller, client: Client) -> Result<&Grant, GatewayError> {
        let grant = self
            .tenants
            .get(caller.tenant())
            .map(Box::as_ref)
            .filter(|grant| grant.tenant.enabled)
            .ok_or(GatewayError::TenantDisabled)?;
        grant.tenant.addresses.check(client)?;
        Ok(grant)
    }

    /// From the bytes of a body to the sealed request. Nothing in here waits.
    fn accept(
        &self,
        raw: RawBody,
        lifted: &Lifted,
        declared: Declared,
        caller: &Caller,
        grant: &Grant,
        trail: &mut Trail,
    ) -> Result<Job, GatewayError> {
        let today = clock::now().to_zoned(jiff::tz::TimeZone::UTC).date();
        let submission = Submission::parse(lifted, &grant.rules, today)?;
        let operation = submission.operation();
        if operation != Operation::CreateOrUpdateCustomer && raw.len() > self.body.max_lookup_body {
            return Err(GatewayError::OverService(self.body.max_lookup_body));
        }
        trail.submitted(&submission, grant.email_case);
        let member = |pointer: &str| submission.text_at(pointer);
        let permit = authorize(caller, &grant.tenant, operation, member)?;
        trail.permitted(&submission);
        let submission = grant.spell(submission);
        let sealed = seal(&submission, &permit);
        Ok(Job {
            sealed,
            ownership: self.ownership(&submission, permit, grant),
            subject: Subject {
                customer: grant.statuses.customer(submission.email()),
                wish: grant.heed(declared.wish),
                held: declared.held,
                caching: grant.tenant.caching,
            },
            permit,
            disclosure: grant.tenant.response,
            credentials: Arc::clone(&grant.credentials),
            _share: raw.into_parts().1,
        })
    }

    fn ownership(
        &self,
        submission: &Submission<'_>,
        permit: Permit,
        grant: &Grant,
    ) -> Option<Ownership> {
        let Isolation::Ledger(unowned) = grant.tenant.isolation else {
            return None;
        };
        let account = &grant.tenant.account;
        let pseudonyms = &self.observers.pseudonyms;
        let creates = permit.operation() == Operation::CreateOrUpdateCustomer;
        Some(Ownership {
            customer: CustomerKey::new(pseudonyms, account, grant.email_case, submission.email()),
            tenant: grant.tenant.id.clone(),
            unowned,
            question: (creates && unowned == Unowned::Refuse)
                .then(|| seal_question(submission, &permit)),
        })
    }

    /// From the first byte upstream to the response. Runs to its end whatever the client does.
    async fn settle(self: Arc<Self>, job: Job, mut journey: Journey) -> Response<Segments> {
        let asked = AssertUnwindSafe(self.ask(&job, &mut journey)).catch_unwind();
        let asked = asked.await.unwrap_or_else(|_panic| {
            self.observers.metrics.panicked();
            Err(GatewayError::Internal)
        });
        if let Err(GatewayError::Own(OwnershipError::Store(_))) = asked {
            // Nothing was looked for.
            journey.cached = None;
        }
        let id = journey.trail.id();
        let (response, error) = match asked {
            Ok(body) if journey.has_changed(&job.subject) => (reply::answer(body, id), None),
            Ok(_) => (reply::not_modified(id), None),
            Err(error) => (reply::problem(&error, id), Some(error)),
        };
        let response = match &journey.cached {
            Some(cached) => reply::with_cache(response, cached),
            None => response,
        };
        if journey.refresh {
            Arc::clone(&self).refresh(job, &journey);
        }
        let Journey {
            mut trail,
            admission,
            cached,
            rescued,
            ..
        } = journey;
        let outcome = outcome_of(error.as_ref().or(rescued.as_ref()), &admission);
        admission.settle(outcome);
        if let Some(cached) = &cached {
            trail.cached(cached);
        }
        let ended = match error {
            None => trail.succeed(&response),
            Some(error) => {
                alert(&error, &trail);
                trail.fail(&error, &response)
            }
        };
        recorded(ended, response, id).await
    }

    async fn ask(&self, job: &Job, journey: &mut Journey) -> Result<Segments, GatewayError> {
        if job.operation() == Operation::GetStatus {
            journey.cached = Some(status::unknown());
        }
        match &job.ownership {
            Some(own) => self.ask_as_owner(own, job, journey).await,
            None => self.forward(job, journey, Grip::Firm).await,
        }
    }

    /// One request upstream and what its answer means. A refused credential did nothing there, so the
    /// same bytes are sent once more, with the next one.
    async fn exchange(
        &self,
        sealed: &SealedRequest,
        operation: Operation,
        job: &Job,
        witness: &mut impl Witness,
    ) -> Result<Answer, GatewayError> {
        let answer = self.attempt(sealed, operation, job, witness).await;
        if let Err(GatewayError::Refuse(Refusal::CredentialsRejected)) = answer {
            return self.attempt(sealed, operation, job, witness).await;
        }
        answer
    }

    async fn attempt(
        &self,
        sealed: &SealedRequest,
        operation: Operation,
        job: &Job,
        witness: &mut impl Witness,
    ) -> Result<Answer, GatewayError> {
        let lease = job.credentials.lease(self.upstream.timeout()).await?;
        witness.intend(lease.id()).await?;
        witness.sending(lease.id(), operation);
        let sent = self.upstream.send(sealed, lease.credential()).await;
        let arrived = sent.as_ref().map_or_else(|error| error.sent(), |_| true);
        let status = sent.as_ref().ok().map(UpstreamReply::status);
        witness.replied(operation, status, arrived);
        let echo = lease.credential().echo();
        let answer = interpret(&sent?, operation, job.disclosure, echo);
        if let Err(Refusal::Echo) = answer {
            tracing::error!(
                request.id = %witness.id(), credential.id = %lease.id(),
                "DCAMS repeated the credential in an answer, which was not relayed: rotate it"
            );
        }
        witness.called(word_of(answer.as_ref()));
        lease.end(said_of_login(answer.as_ref()), clock::now());
        Ok(answer?)
    }
}

/// A future that runs to its end even if it is dropped: its waiter polls it where it is, without a
/// task and the switches that come with one, and what is left on drop becomes a task.
struct Unstoppable<F: Future<Output: Send> + Send + 'static> {
    rest: Option<Pin<Box<F>>>,
    tasks: TaskTracker,
}

impl<F: Future<Output: Send> + Send + 'static> Unstoppable<F> {
    fn new(future: F, tasks: &TaskTracker) -> Self {
        let rest = Some(Box::pin(future));
        let tasks = tasks.clone();
        Self { rest, tasks }
    }
}

impl<F: Future<Output: Send> + Send + 'static> Future for Unstoppable<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // Taken out for the poll: a future that panics in it is not put back, and not run again.
        let Some(mut future) = self.rest.take() else {
            return Poll::Pending;
        };
        let polled = future.as_mut().poll(cx);
        if polled.is_pending() {
            self.rest = Some(future);
        }
        polled
    }
}

impl<F: Future<Output: Send> + Send + 'static> Drop for Unstoppable<F> {
    fn drop(&mut self) {
        if let Some(future) = self.rest.take() {
            drop(self.tasks.spawn(future));
        }
    }
}

/// The response, once its outcome is on disk; another one where it does not get there.
async fn recorded(ended: Ended, response: Response<Segments>, id: RequestId) -> Response<Segments> {
    match ended.on_disk().await {
        Ok(None) => response,
        Ok(Some(receipt)) => reply::with_receipt(response, &receipt),
        Err(error) => reply::problem(&error, id),
    }
}

/// What came of a request, for its charge.
fn outcome_of(error: Option<&GatewayError>, admission: &Admission) -> Outcome {
    // What another request asked for, or was known, is free.
    if !admission.was_sent() {
        return Outcome::Undone;
    }
    let ending = match error {
        None => Ending::Succeeded,
        Some(GatewayError::Refuse(refusal)) => match refusal {
            // A login that was refused did nothing.
            Refusal::CredentialsRejected => return Outcome::Undone,
            Refusal::NotFound { .. } | Refusal::Refused { .. } => Ending::Refused,
            // By these two it says that it did nothing; after another failure it may have.
            Refusal::Unavailable {
                status: StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS,
            } => Ending::Unavailable,
            Refusal::Echo | Refusal::Malformed(_) | Refusal::Unavailable { .. } => Ending::Unknown,
        },
        Some(GatewayError::Send(error)) if error.sent() => Ending::Unknown,
        // It stopped in the middle.
        Some(GatewayError::Internal) => Ending::Unknown,
        // A question of our own was answered, and that was the end of it.
        Some(GatewayError::Own(_)) => Ending::Refused,
        Some(_) => return Outcome::Undone,
    };
    Outcome::Sent(ending)
}

/// Whether it is certain that DCAMS did nothing. Everything else it may have done: an answer that did not
/// come, or that says nothing which the vendor documents.
const fn did_nothing(error: &GatewayError) -> bool {
    if let GatewayError::Send(error) = error {
        return !error.sent();
    }
    // Not sent for want of a credential, or because it could not be recorded or others not be told; or
    // refused with one before.
    if let GatewayError::Audit(_) | GatewayError::Lease(_) | GatewayError::Cache(_) = error {
        return true;
    }
    let GatewayError::Refuse(refusal) = error else {
        return false;
    };
    match refusal {
        Refusal::CredentialsRejected | Refusal::NotFound { .. } | Refusal::Refused { .. } => true,
        Refusal::Echo | Refusal::Malformed(_) | Refusal::Unavailable { .. } => false,
    }
}

/// Tells a person what only a person can mend.
fn alert(error: &GatewayError, trail: &Trail) {
    if let GatewayError::Own(OwnershipError::Store(state)) = error {
        tracing::error!(request.id = %trail.id(), error = %state, "requests are refused");
    }
}
