//! The step at which a customer's status is told: from what is kept of it, or by asking DCAMS; and at which
//! what is kept is removed and learnt anew, because DCAMS is asked to change it.
//!
//! Invariant: what is kept goes before a change is sent, and whatever comes of a read or a change is told
//! to the cache, also where its client has left.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use tokio::time::timeout_at;

use super::{Gateway, Job, Journey, Witness, did_nothing};
use crate::{
    audit::AuditUnavailable,
    caching::{Bypass, CacheError, CacheStatus, Course, Held, TenantCaching, Why, Wish},
    clock,
    error::GatewayError,
    ident::{CredentialId, RequestId},
    operation::Operation,
    quota::TenantQuota,
    segments::Segments,
    status::{Customer, Entry, Found, Freshness, Known, Landed, Reading, Turn, Written},
    tenant::Disclosure,
    trail::Errand,
    upstream::{
        answer::Answer,
        client::SendError,
        verdict::{Message, Refusal, Word},
    },
};

/// Whom a request is about, and what its client wants of the cache.
pub(super) struct Subject {
    pub(super) customer: Customer,
    pub(super) wish: Wish,
    pub(super) held: Held,
    pub(super) caching: TenantCaching,
}

/// Whether others than the tenant may change a customer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Grip {
    /// Nobody, through this gateway.
    Firm,
    /// They may, or that is not settled yet.
    Loose,
}

impl Gateway {
    /// Sends a request if it needs to be sent.
    pub(super) async fn forward(
        &self,
        job: &Job,
        journey: &mut Journey,
        grip: Grip,
    ) -> Result<Segments, GatewayError> {
        // Who waits for DCAMS waits on the heap: the future of a request that does not stays small.
        match job.operation() {
            Operation::GetStatus => self.tell(job, journey, grip).await,
            Operation::GetDocumentImages => Box::pin(self.show(job, journey, grip)).await,
            Operation::CreateOrUpdateCustomer | Operation::UpdateStatus => {
                Box::pin(self.change(job, journey, grip)).await
            }
        }
    }

    /// Why a customer's status is not kept, if it is not.
    fn bypass(&self, job: &Job, grip: Grip) -> Option<Bypass> {
        let settings = &self.caching;
        // First: what is said of another tenant's customer is said of an unknown one.
        if grip == Grip::Loose {
            Some(Bypass::NotOwned)
        } else if !settings.enabled || !job.subject.caching.enabled {
            Some(Bypass::Disabled)
        } else if job.disclosure == Disclosure::Full && !settings.full {
            Some(Bypass::Full)
        } else if !self.statuses.is_in_touch(settings) {
            Some(Bypass::OutOfTouch)
        } else {
            None
        }
    }

    /// A customer's status.
    async fn tell(
        &self,
        job: &Job,
        journey: &mut Journey,
        grip: Grip,
    ) -> Result<Segments, GatewayError> {
        let bypass = self.bypass(job, grip);
        let kept = match bypass {
            None => self.recall(job),
            Some(_) => None,
        };
        let wish = job.subject.wish;
        let why = match (bypass, kept) {
            (Some(bypass), _) => Why::Bypass(bypass),
            (None, None) => Why::Miss,
            (None, Some(entry)) => match self.look_at(&entry, job, journey) {
                Ok(course) => return told(&entry, course, journey),
                Err(why) => why,
            },
        };
        if wish.only_cached {
            if let Some((entry, left)) = Box::pin(self.look_up_alone(job, bypass)).await {
                let shared = true;
                return told(&entry, Course::Hit { left, shared }, journey);
            }
            return Err(absent(journey));
        }
        let answer = if bypass.is_some() {
            Box::pin(self.ask_alone(job, journey, why)).await
        } else {
            Box::pin(self.ask_together(job, journey, why)).await
        };
        match answer {
            Err(error) if error.code().status() >= 500 => self.rescue(error, job, journey),
            answer => answer,
        }
    }

    fn recall(&self, job: &Job) -> Option<Arc<Entry>> {
        let (customer, settings) = (&job.subject.customer, &self.caching);
        self.statuses.recall(customer, job.disclosure, settings)
    }

    /// Whether what is kept may be told, and as what; or why DCAMS has to be asked.
    fn look_at(&self, entry: &Entry, job: &Job, journey: &mut Journey) -> Result<Course, Why> {
        let (settings, now, wish) = (&self.caching, clock::instant(), job.subject.wish);
        match entry.freshness(now, settings) {
            Freshness::Fresh(left) => {
                if wish.max_age.is_some_and(|most| entry.age(now) >= most) {
                    return Err(Why::Requested);
                }
                journey.refresh = entry.is_awaited(left, settings);
                let shared = false;
                Ok(Course::Hit { left, shared })
            }
            Freshness::Stale(past) => {
                let late = entry.may_be_late(past, settings.stale_while_revalidate);
                if !late || !job.subject.takes_stale() {
                    return Err(Why::Stale);
                }
                journey.refresh = true;
                Ok(Course::Revalidating { past })
            }
        }
    }

    /// Asks DCAMS, and keeps nothing.
    async fn ask_alone(
        &self,
        job: &Job,
        journey: &mut Journey,
        why: Why,
    ) -> Result<Segments, GatewayError> {
        let answer = self
            .exchange(&job.sealed, job.operation(), job, journey)
            .await;
        journey.forwarded(why, false);
        let answer = answer?;
        let trail = &mut journey.trail;
        trail.understood(answer.customer_status(), answer.dropped());
        Ok(answer.render())
    }

    /// Asks DCAMS for all who want to know the same at this moment, or waits for the one who asks.
    async fn ask_together(
        &self,
        job: &Job,
        journey: &mut Journey,
        why: Why,
    ) -> Result<Segments, GatewayError> {
        let customer = &job.subject.customer;
        let deadline = clock::instant() + self.upstream.timeout();
        // Who wants what is newer than what is kept wants it newer than what is under way.
        if job.subject.wish.max_age.is_some() {
            let reading = self.statuses.read(customer);
            return self.lead(reading, job, journey, why).await;
        }
        loop {
            let flight = match self.statuses.join(customer, job.disclosure) {
                Turn::Join(flight) => flight,
                Turn::Lead(reading) => return self.lead(reading, job, journey, why).await,
            };
            journey.cached = Some(cached(Course::Joined { why }));
            return match timeout_at(deadline, flight.landed()).await {
                Ok(Some(Ok(entry))) => told(&entry, Course::Joined { why }, journey),
                Ok(Some(Err(error))) => Err(error),
                // It ended without a word: somebody has to ask anew.
                Ok(None) => continue,
                Err(_) => Err(SendError::Timeout.into()),
            };
        }
    }

    /// What gateways keep together, where that will do.
    async fn look_up(&self, reading: &mut Reading, job: &Job) -> Option<(Arc<Entry>, Duration)> {
        let entry = reading.look_up(job.disclosure, &self.caching).await?;
        let now = clock::instant();
        let wanted = job.subject.wish.max_age;
        match entry.freshness(now, &self.caching) {
            Freshness::Fresh(left) if wanted.is_none_or(|most| entry.age(now) < most) => {
                Some((entry, left))
            }
            Freshness::Fresh(_) | Freshness::Stale(_) => None,
        }
    }

    /// The same where DCAMS is not to be asked.
    async fn look_up_alone(
        &self,
        job: &Job,
        bypass: Option<Bypass>,
    ) -> Option<(Arc<Entry>, Duration)> {
        if bypass.is_some() {
            return None;
        }
        let mut reading = self.statuses.read(&job.subject.customer);
        let found = self.look_up(&mut reading, job).await?;
        reading.end(Some(&kept(&found.0)), None).await;
        Some(found)
    }

    async fn lead(
        &self,
        mut reading: Reading,
        job: &Job,
        journey: &mut Journey,
        why: Why,
    ) -> Result<Segments, GatewayError> {
        if let Some((entry, left)) = self.look_up(&mut reading, job).await {
            let landed = Ok(Arc::clone(&entry));
            reading.end(Some(&kept(&entry)), Some(landed)).await;
            let shared = true;
            return told(&entry, Course::Hit { left, shared }, journey);
        }
        let (landed, stored) = self.land(reading, job, journey).await;
        journey.forwarded(why, stored);
        let entry = landed?;
        if let Some(cached) = &mut journey.cached {
            cached.tag = Some(entry.tag());
        }
        Ok(entry.body().into())
    }

    /// Asks DCAMS for a status, keeps it, and tells all who wait.
    async fn land(
        &self,
        reading: Reading,
        job: &Job,
        witness: &mut impl Witness,
    ) -> (Landed, bool) {
        let (customer, settings) = (&job.subject.customer, &self.caching);
        let began = clock::instant();
        let answer = self
            .exchange(&job.sealed, Operation::GetStatus, job, witness)
            .await;
        let (statuses, disclosure) = (&self.statuses, job.disclosure);
        let (landed, found) = match answer {
            Ok(answer) => {
                witness.understood(&answer);
                let entry = statuses.entry_of(customer, &answer, disclosure, began, settings);
                let found = Found {
                    entry: Arc::clone(&entry),
                    keep: answer.lasts(),
                };
                (Ok(entry), Some(found))
            }
            Err(error) => {
                let found = statuses.absence(customer, &error, disclosure, began, settings);
                (Err(error), found)
            }
        };
        let found = found.map(|found| job.subject.wished(found));
        let stored = reading.end(found.as_ref(), Some(landed.clone())).await;
        (landed, stored)
    }

    /// Where DCAMS cannot be asked, what was kept before may do; not if the customer was changed since.
    fn rescue(
        &self,
        error: GatewayError,
        job: &Job,
        journey: &mut Journey,
    ) -> Result<Segments, GatewayError> {
        // Who wants what is new is not told what is not.
        let takes = job.subject.wish.max_age.is_none() && !is_bypassed(journey);
        let Some(entry) = takes.then(|| self.recall(job)).flatten() else {
            return Err(error);
        };
        let late = |past| {
            job.subject.takes_stale() && entry.may_be_late(past, self.caching.stale_if_error)
        };
        let course = match entry.freshness(clock::instant(), &self.caching) {
            // Another request has found it out meanwhile.
            Freshness::Fresh(left) => Course::Hit {
                left,
                shared: false,
            },
            Freshness::Stale(past) if late(past) => {
                let status = journey.upstream_status.map(|status| status.as_u16());
                Course::Stale { status }
            }
            Freshness::Stale(_) => return Err(error),
        };
        journey.trail.rescued(&error);
        journey.rescued = Some(error);
        told(&entry, course, journey)
    }

    /// A customer's images. Their answer says its status too.
    async fn show(
        &self,
        job: &Job,
        journey: &mut Journey,
        grip: Grip,
    ) -> Result<Segments, GatewayError> {
        let reading = match self.bypass(job, grip) {
            None => {
                let mut reading = self.statuses.read(&job.subject.customer);
                // What it finds is for the others too, if nothing happens meanwhile.
                drop(self.look_up(&mut reading, job).await);
                Some((reading, clock::instant()))
            }
            Some(_) => None,
        };
        let answer = self
            .exchange(&job.sealed, job.operation(), job, journey)
            .await;
        if let Some((reading, began)) = reading {
            let (customer, settings) = (&job.subject.customer, &self.caching);
            let (statuses, disclosure) = (&self.statuses, job.disclosure);
            let found = match &answer {
                Ok(answer) => {
                    let status = answer.as_status(job.operation(), disclosure);
                    let said = status.as_ref().unwrap_or(answer);
                    Some(Found {
                        entry: statuses.entry_of(customer, said, disclosure, began, settings),
                        keep: status.is_some(),
                    })
                }
                Err(error) => statuses.absence(customer, error, disclosure, began, settings),
            };
            let found = found.map(|found| job.subject.wished(found));
            reading.end(found.as_ref(), None).await;
        }
        let answer = answer?;
        let trail = &mut journey.trail;
        trail.understood(answer.customer_status(), answer.dropped());
        Ok(answer.render())
    }

    /// A customer, or its status, anew.
    async fn change(
        &self,
        job: &Job,
        journey: &mut Journey,
        grip: Grip,
    ) -> Result<Segments, GatewayError> {
        let (customer, settings) = (&job.subject.customer, &self.caching);
        let writing = self.statuses.write(customer, settings).await?;
        let began = clock::instant();
        let answer = self
            .exchange(&job.sealed, job.operation(), job, journey)
            .await;
        let keeps = self.bypass(job, grip).is_none() && !job.subject.wish.no_store;
        let written = match &answer {
            Ok(answer) => {
                let status = answer.as_status(job.operation(), job.disclosure);
                let status = status.filter(|_| keeps);
                Written::Done(status.map(|status| {
                    let (statuses, disclosure) = (&self.statuses, job.disclosure);
                    statuses.entry_of(customer, &status, disclosure, began, settings)
                }))
            }
            Err(error) if did_nothing(error) => Written::Undone,
            Err(_) => Written::Unknown,
        };
        writing.end(&written, settings).await;
        let answer = answer?;
        let trail = &mut journey.trail;
        trail.understood(answer.customer_status(), answer.dropped());
        Ok(answer.render())
    }

    /// Asks DCAMS anew for a status that was told just now, behind the client's back, if there is room and
    /// nobody else is asking.
    pub(super) fn refresh(self: Arc<Self>, job: Job, journey: &Journey) {
        let Some(room) = self.statuses.room_to_refresh() else {
            return;
        };
        let Turn::Lead(reading) = self.statuses.join(&job.subject.customer, job.disclosure) else {
            return;
        };
        let Some(errand) = journey.trail.errand() else {
            return;
        };
        let quota = journey.admission.of_tenant().clone();
        let tasks = self.tasks.clone();
        drop(tasks.spawn(async move {
            let mut behind = Behind { errand, quota };
            let (landed, _) = self.land(reading, &job, &mut behind).await;
            behind.errand.end(landed.as_ref().err());
            drop(room);
        }));
    }
}

/// A question behind a client's back: it is noted, and costs the tenant nothing.
struct Behind {
    errand: Errand,
    quota: TenantQuota,
}

impl Witness for Behind {
    fn id(&self) -> RequestId {
        self.errand.id()
    }

    async fn intend(&mut self, credential: &CredentialId) -> Result<(), AuditUnavailable> {
        self.errand.intend(credential).await
    }

    fn sending(&mut self, credential: &CredentialId, _operation: Operation) {
        self.errand.sending(credential);
    }

    fn replied(&mut self, operation: Operation, status: Option<StatusCode>, arrived: bool) {
        self.errand.replied(status.map(|status| status.as_u16()));
        if arrived {
            self.quota.called(operation);
        }
    }

    fn called(&mut self, _word: Option<Word>) {}

    fn understood(&mut self, _answer: &Answer) {}
}

/// What was kept already.
fn kept(entry: &Arc<Entry>) -> Found {
    Found {
        entry: Arc::clone(entry),
        keep: true,
    }
}

impl Subject {
    /// What is found, to be kept if the client does not mind.
    fn wished(&self, found: Found) -> Found {
        Found {
            keep: found.keep && !self.wish.no_store,
            ..found
        }
    }

    const fn takes_stale(&self) -> bool {
        self.caching.stale && self.wish.max_age.is_none() && !self.wish.only_cached
    }
}

impl Journey {
    /// Whether its client does not have the answer already.
    pub(super) fn has_changed(&self, subject: &Subject) -> bool {
        let tag = self.cached.and_then(|cached| cached.tag);
        !tag.is_some_and(|tag| subject.held.has(tag))
    }

    fn forwarded(&mut self, why: Why, stored: bool) {
        // Whether DCAMS was asked would tell an unknown customer from another tenant's.
        let unsaid = why == Why::Bypass(Bypass::NotOwned);
        let status = self.upstream_status.filter(|_| !unsaid);
        self.cached = Some(cached(Course::Forwarded {
            why,
            status: status.map(|status| status.as_u16()),
            stored,
        }));
    }
}

/// What is said of a status before anything is known of its customer.
pub(super) const fn unknown() -> CacheStatus {
    cached(Course::Forwarded {
        why: Why::Bypass(Bypass::NotOwned),
        status: None,
        stored: false,
    })
}

/// The answer where nothing is kept, and the client wanted nothing else.
pub(super) fn absent(journey: &mut Journey) -> GatewayError {
    journey.cached = Some(cached(Course::Absent));
    CacheError::Absent.into()
}

const fn cached(course: Course) -> CacheStatus {
    CacheStatus {
        course,
        age: Duration::ZERO,
        tag: None,
    }
}

fn is_bypassed(journey: &Journey) -> bool {
    let course = journey.cached.map(|cached| cached.course);
    matches!(
        course,
        Some(Course::Forwarded {
            why: Why::Bypass(_),
            ..
        })
    )
}

/// An answer of what is known.
fn told(entry: &Entry, course: Course, journey: &mut Journey) -> Result<Segments, GatewayError> {
    let known = entry.known();
    journey.trail.recalled(known);
    journey.cached = Some(CacheStatus {
        age: entry.age(clock::instant()),
        tag: (known != Known::NotFound).then(|| entry.tag()),
        ..cached(course)
    });
    match known {
        Known::Found(_) => Ok(entry.body().into()),
        Known::NotFound => {
            let message = Message::not_found();
            Err(Refusal::NotFound { message }.into())
        }
    }
}
