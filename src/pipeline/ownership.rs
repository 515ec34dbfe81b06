//! The step that keeps tenants of one account apart: whose customer is it, and whose will it be.
//!
//! It stands in the half that cannot be abandoned, because it writes a claim down before the first
//! byte goes upstream and has to settle it afterwards. Invariant: a request about another tenant's
//! customer does not leave, and its answer is that of an unknown one.

use super::{
    Gateway, Job, Journey, did_nothing,
    status::{self, Grip},
};
use crate::{
    customer::{CustomerKey, Hold, OwnershipError, Phase, View},
    error::GatewayError,
    ident::TenantId,
    operation::Operation,
    segments::Segments,
    store::StoreError,
    tenant::Unowned,
    trail::Trail,
    upstream::{seal::SealedRequest, verdict::Refusal},
};

/// What a request of a tenant with a ledger needs to know of its customer.
pub(super) struct Ownership {
    pub(super) customer: CustomerKey,
    pub(super) tenant: TenantId,
    pub(super) unowned: Unowned,
    /// A getStatus of our own, for a creation that has to ask first.
    pub(super) question: Option<SealedRequest>,
}

/// How a customer is held for a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// It is the tenant's.
    Owned,
    /// It will be, or will not, at the request's end.
    Pending,
    /// It is nobody's, and used all the same.
    Unowned,
}

impl Gateway {
    /// Sends the request if its customer is the tenant's, and settles what it claimed.
    pub(super) async fn ask_as_owner(
        &self,
        own: &Ownership,
        job: &Job,
        journey: &mut Journey,
    ) -> Result<Segments, GatewayError> {
        let creates = job.operation() == Operation::CreateOrUpdateCustomer;
        let claim = if creates {
            self.claim_to_create(own, job, journey).await?
        } else {
            match self.claim_to_use(own).await {
                // Of a customer that is not the tenant's nothing is kept, whoever's it is.
                Err(OwnershipError::AnotherTenants | OwnershipError::NotInLedger)
                    if job.wants_only_what_is_kept() =>
                {
                    return Err(status::absent(journey));
                }
                claim => claim?,
            }
        };
        let grip = match claim {
            Claim::Owned => Grip::Firm,
            // What a tenant creates nobody else does meanwhile.
            Claim::Pending if creates => Grip::Firm,
            Claim::Pending | Claim::Unowned => Grip::Loose,
        };
        let answer = self.forward(job, journey, grip).await;
        if claim == Claim::Pending {
            let keep = match &answer {
                Ok(_) => true,
                Err(error) => creates && !did_nothing(error),
            };
            self.settle_claim(own, keep, &journey.trail).await;
        }
        match answer {
            // In the words that another tenant's customer is answered with, whatever DCAMS's are.
            Err(GatewayError::Refuse(Refusal::NotFound { .. })) if !creates => {
                Err(OwnershipError::NotAtUpstream.into())
            }
            answer => answer,
        }
    }

    /// May this tenant read the customer, or set its status?
    async fn claim_to_use(&self, own: &Ownership) -> Result<Claim, OwnershipError> {
        let view = self.ledger.view(own.customer, &own.tenant).await?;
        match (view, own.unowned) {
            (View::AnotherTenants, _) => Err(OwnershipError::AnotherTenants),
            (View::Unknown, Unowned::Refuse) => Err(OwnershipError::NotInLedger),
            (View::Owned, _) | (View::Held, Unowned::Allow | Unowned::Refuse) => Ok(Claim::Owned),
            (View::Unknown, Unowned::Allow) => Ok(Claim::Unowned),
            // Also beside a request of our own that may yet give its hold back.
            (View::Held | View::Unknown, Unowned::Claim) => {
                // A hold that is left over by a crash is one that an import may lift.
                let hold = self.ledger.hold(own.customer, &own.tenant, Phase::Asking);
                match hold.await? {
                    Hold::Held(_) => Ok(Claim::Pending),
                    Hold::Owned => Ok(Claim::Owned),
                    Hold::Taken => Err(OwnershipError::AnotherTenants),
                }
            }
        }
    }

    /// May this tenant create the customer, or change it?
    async fn claim_to_create(
        &self,
        own: &Ownership,
        job: &Job,
        journey: &mut Journey,
    ) -> Result<Claim, GatewayError> {
        let view = self.ledger.view(own.customer, &own.tenant).await;
        // What is owned stays owned, so the everyday change of a customer waits for no writer.
        if view.map_err(OwnershipError::from)? == View::Owned {
            return Ok(Claim::Owned);
        }
        let phase = match own.unowned {
            Unowned::Refuse => Phase::Asking,
            Unowned::Allow | Unowned::Claim => Phase::Sending,
        };
        let hold = self.ledger.hold(own.customer, &own.tenant, phase);
        match (hold.await.map_err(OwnershipError::from)?, &own.question) {
            (Hold::Taken, _) => Err(OwnershipError::Taken.into()),
            (Hold::Owned, _) => Ok(Claim::Owned),
            (Hold::Held(Phase::Asking), Some(question)) => {
                Box::pin(self.ask_first(own, question, job, journey)).await?;
                Ok(Claim::Pending)
            }
            (Hold::Held(_), _) => Ok(Claim::Pending),
        }
    }

    /// Asks DCAMS whether it knows the customer already. To "create" one from before the gateway,
    /// and then read its images, would be to take it over.
    async fn ask_first(
        &self,
        own: &Ownership,
        question: &SealedRequest,
        job: &Job,
        journey: &mut Journey,
    ) -> Result<(), GatewayError> {
        let (customer, tenant) = (own.customer, &own.tenant);
        let answer = self
            .exchange(question, Operation::GetStatus, job, journey)
            .await;
        let refusal = match answer {
            Ok(_) => {
                let ours = self.ledger.withdraw(customer, tenant).await;
                (!ours.map_err(OwnershipError::from)?).then_some(OwnershipError::Existed)
            }
            Err(GatewayError::Refuse(Refusal::NotFound { .. })) => {
                match self.ledger.clear(customer, tenant).await {
                    Ok(stands) => (!stands).then_some(OwnershipError::Taken),
                    Err(error) => {
                        self.settle_claim(own, false, &journey.trail).await;
                        Some(error.into())
                    }
                }
            }
            Err(error) => {
                self.settle_claim(own, false, &journey.trail).await;
                return Err(error);
            }
        };
        refusal.map_or(Ok(()), |refusal| Err(refusal.into()))
    }

    /// Where this fails, the claim stays as it is: it keeps others out, and the tenant in.
    async fn settle_claim(&self, own: &Ownership, keep: bool, trail: &Trail) {
        let settled = if keep {
            self.ledger.confirm(own.customer, &own.tenant).await
        } else {
            self.ledger.release(own.customer, &own.tenant).await
        };
        if let Err(error) = settled {
            warn(error, trail);
        }
    }
}

fn warn(error: StoreError, trail: &Trail) {
    tracing::warn!(
        request.id = %trail.id(), error = %error,
        "a claim to a customer was not settled in the ledger; it stays with its tenant"
    );
}
