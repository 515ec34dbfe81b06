//! The request path. Read this first.
//!
//! Two halves, divided by the moment the first byte goes upstream. `prepare` may be abandoned at any
//! await: nothing has been done in the tenant's name. `settle` may not: where its client hangs up it
//! goes on as a task of its own, which a drain waits for.
//!
//! Each step takes what the step before it returned, so none can be left out or moved.

mod ownership;

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode, request::Parts};
use http_body::Body;
use tokio_util::task::TaskTracker;

use crate::{
    address::{Client, TrustedProxies},
    auth::{
        Authenticator, Caller,
        permit::{Permit, authorize},
    },
    body::{self, BodySettings, BudgetPermit, ByteBudget, RawBody, Size},
    clock,
    credential::Credential,
    customer::{CustomerKey, EmailCase, Ledger, OwnershipError},
    error::{ErrorCode, GatewayError},
    ident::TenantId,
    operation::Operation,
    payload::{
        PayloadError, Rules, Submission,
        lift::{Lifted, Lifter, SKELETON_LIMIT},
    },
    reply,
    route::{RouteSettings, route},
    segments::Segments,
    tenant::{Disclosure, Isolation, Tenant, Unowned},
    trail::{Observers, Trail},
    upstream::{
        answer::Answer,
        client::UpstreamClient,
        seal::{SealedRequest, seal, seal_question},
        verdict::{Refusal, interpret},
    },
};

use self::ownership::Ownership;

/// One running gateway: a handle for each step, and nothing that a request could change.
pub struct Gateway {
    /// What is served.
    pub route: RouteSettings,
    /// Whose word on a client's address counts.
    pub proxies: TrustedProxies,
    /// Who is believed.
    pub authenticator: Authenticator,
    /// What each tenant may do, and with which credential.
    pub tenants: HashMap<TenantId, Grant>,
    /// Which tenant owns which customer.
    pub ledger: Ledger,
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
    /// The rules its payloads must follow.
    pub rules: Rules,
    /// The credential its requests are sent with.
    pub credential: Arc<Credential>,
    /// How its account's customers are told apart.
    pub email_case: EmailCase,
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
}

/// Everything that the second half needs, and nothing of the connection.
struct Job {
    sealed: SealedRequest,
    operation: Operation,
    disclosure: Disclosure,
    credential: Arc<Credential>,
    /// Whether the caller's next proof needs a nonce.
    needs_nonce: bool,
    /// What is to be known of the customer first; nothing where the tenant has its account alone.
    ownership: Option<Ownership>,
    /// The body's share of the byte budget, held until the upstream has answered.
    _share: BudgetPermit,
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
        let (parts, body) = request.into_parts();
        let prepared = AssertUnwindSafe(self.prepare(&parts, body, peer, &mut trail))
            .catch_unwind()
            .await;
        let error = match prepared {
            Ok(Ok(job)) => {
                let needs_nonce = job.needs_nonce;
                let settled = Unstoppable::new(Arc::clone(&self).settle(job, trail), &self.tasks);
                let settled = AssertUnwindSafe(settled).catch_unwind().await;
                // A panic was recorded by the trail that it unwound through.
                let response =
                    settled.unwrap_or_else(|_| reply::problem(&GatewayError::Internal, id));
                return self.with_nonce(response, needs_nonce);
            }
            Ok(Err(error)) => error,
            Err(_panic) => {
                self.observers.metrics.panicked();
                GatewayError::Internal
            }
        };
        let response = reply::problem(&error, id);
        trail.fail(&error, &response);
        self.with_nonce(response, error.code() == ErrorCode::UseDpopNonce)
    }

    /// An answer with a nonce for the client's next proof, where it needs one.
    fn with_nonce(&self, response: Response<Segments>, needed: bool) -> Response<Segments> {
        if needed {
            return reply::with_nonce(response, self.authenticator.nonce(clock::now()));
        }
        response
    }

    /// Answers a head that could not be parsed.
    pub fn refuse(&self, status: StatusCode) -> Response<Segments> {
        let trail = Trail::begin(&self.observers);
        let error = GatewayError::Head(status);
        let response = reply::problem(&error, trail.id());
        trail.fail(&error, &response);
        response
    }

    /// From the head of a request to a body that is ready to be sent.
    async fn prepare<B>(
        &self,
        parts: &Parts,
        body: B,
        peer: Client,
        trail: &mut Trail,
    ) -> Result<Job, GatewayError>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let routed = route(parts, self.route)?;
        let client = self.proxies.client(peer, &parts.headers);
        trail.called_from(client);
        let caller = self.authenticator.authenticate(parts, clock::now()).await?;
        trail.authenticated(&caller);
        let grant = self.grant(&caller, client)?;
        let declared = routed.declare()?;
        trail.named_by_client(declared.client_request_id);
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
        self.accept(raw, &lifted, &caller, grant, trail)
    }

    /// What the caller's tenant may do, if it may be called from where the client is.
    fn grant(&self, caller: &Caller, client: Client) -> Result<&Grant, GatewayError> {
        let grant = self
            .tenants
            .get(caller.tenant())
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
        let submission = grant.spell(submission);
        let sealed = seal(&submission, &permit, &grant.credential);
        Ok(Job {
            sealed,
            ownership: self.ownership(&submission, permit, grant),
            operation,
            disclosure: grant.tenant.response,
            credential: Arc::clone(&grant.credential),
            needs_nonce: caller.needs_nonce(),
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
                .then(|| seal_question(submission, &permit, &grant.credential)),
        })
    }

    /// From the first byte upstream to the response. Runs to its end whatever the client does.
    async fn settle(self: Arc<Self>, job: Job, mut trail: Trail) -> Response<Segments> {
        match self.ask(&job, &mut trail).await {
            Ok(body) => {
                let response = reply::answer(body, trail.id());
                trail.succeed(&response);
                response
            }
            Err(error) => {
                let response = reply::problem(&error, trail.id());
                alert(&error, &job, &trail);
                trail.fail(&error, &response);
                response
            }
        }
    }

    async fn ask(&self, job: &Job, trail: &mut Trail) -> Result<Segments, GatewayError> {
        match &job.ownership {
            Some(own) => self.ask_as_owner(own, job, trail).await,
            None => self.forward(job, trail).await,
        }
    }

    async fn forward(&self, job: &Job, trail: &mut Trail) -> Result<Segments, GatewayError> {
        let answer = self
            .exchange(&job.sealed, job.operation, job, trail)
            .await?;
        trail.understood(answer.customer_status(), answer.dropped());
        Ok(answer.render())
    }

    /// One request upstream and what its answer means.
    async fn exchange(
        &self,
        sealed: &SealedRequest,
        operation: Operation,
        job: &Job,
        trail: &mut Trail,
    ) -> Result<Answer, GatewayError> {
        trail.sending(job.credential.id());
        let sent = self.upstream.send(sealed).await;
        trail.replied(sent.as_ref().ok().map(|reply| reply.status().as_u16()));
        let echo = job.credential.echo();
        Ok(interpret(&sent?, operation, job.disclosure, echo)?)
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

/// Tells a person what only a person can mend.
fn alert(error: &GatewayError, job: &Job, trail: &Trail) {
    let (request, credential) = (trail.id(), job.credential.id());
    if let GatewayError::Refuse(Refusal::CredentialsRejected) = error {
        tracing::error!(
            request.id = %request, credential.id = %credential,
            "DCAMS refuses the credential: check user and pass of this account"
        );
    }
    if let GatewayError::Own(OwnershipError::Store(state)) = error {
        tracing::error!(request.id = %request, error = %state, "requests are refused");
    }
    if let GatewayError::Refuse(Refusal::Echo) = error {
        tracing::error!(
            request.id = %request, credential.id = %credential,
            "DCAMS repeated the credential in an answer, which was not relayed: rotate it"
        );
    }
}
