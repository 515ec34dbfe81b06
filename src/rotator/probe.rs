//! A harmless question to DCAMS, which shows whether it accepts a credential.
//!
//! Invariant: as everything that goes upstream it is in the audit trail before its first byte leaves, and
//! what is there has an end, also where the question is dropped.

use std::thread;

use crate::{
    audit::{
        AuditTrail, AuditUnavailable,
        event::{Decision, Phase, Probe, ProbeEnd},
    },
    clock,
    credential::{Credential, rotation::Login},
    error::GatewayError,
    ident::{AccountId, CredentialId, RequestId},
    operation::Operation,
    redact::Redacted,
    tenant::Disclosure,
    upstream::{
        client::{SendError, UpstreamClient},
        seal::seal_probe,
        verdict::{Refusal, interpret, said_of_login},
    },
};

/// What came of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probed {
    /// DCAMS knew user and password.
    Accepted,
    /// It gave no answer that says anything of them, or was not asked; why, in a word.
    Nothing(&'static str),
    /// It refused them.
    Refused,
}

/// Which credential is asked about, and how.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// Where it is written down.
    pub audit: &'a AuditTrail,
    /// Whose credential it is.
    pub account: &'a AccountId,
    /// What it is called there.
    pub id: &'a CredentialId,
    /// The status of this customer is asked for, who need not exist. It is in no event.
    pub email: &'a Redacted<String>,
}

impl Question<'_> {
    /// Asks DCAMS with this value, once it is on record that it is about to be asked.
    pub async fn ask(self, upstream: &UpstreamClient, credential: &Credential) -> Probed {
        let mut record = Record::new(self);
        if let Err(why) = record.intend().await {
            let error = GatewayError::from(why);
            record.end(error.code().as_str(), None);
            return Probed::Nothing(error.code().as_str());
        }
        record.sent = true;
        let question = seal_probe(self.email.reveal());
        let reply = match upstream.send(&question, credential).await {
            Ok(reply) => reply,
            Err(error) => {
                let reason = SendError::reason(error);
                record.end(GatewayError::Send(error).code().as_str(), Some(reason));
                return Probed::Nothing(reason);
            }
        };
        record.upstream_status = Some(reply.status().as_u16());
        let (operation, disclosure) = (Operation::GetStatus, Disclosure::Minimal);
        let judged = interpret(&reply, operation, disclosure, credential.echo());
        let said = said_of_login(judged.as_ref());
        let error = judged.err().filter(|_| said != Some(Login::Accepted));
        let reason = error.as_ref().map(Refusal::reason);
        let code = error.map(|refusal| GatewayError::Refuse(refusal).code().as_str());
        record.end(code.unwrap_or("ok"), reason);
        match said {
            Some(Login::Accepted) => Probed::Accepted,
            Some(Login::Refused) => Probed::Refused,
            None => Probed::Nothing(reason.unwrap_or("nothing")),
        }
    }
}

/// The record of one question. Ended once, also where its future is dropped.
struct Record<'a> {
    question: Question<'a>,
    request_id: RequestId,
    sent: bool,
    upstream_status: Option<u16>,
    ended: bool,
}

impl<'a> Record<'a> {
    fn new(question: Question<'a>) -> Self {
        Self {
            question,
            request_id: RequestId::mint(),
            sent: false,
            upstream_status: None,
            ended: false,
        }
    }

    async fn intend(&self) -> Result<(), AuditUnavailable> {
        let intent = self.question.audit.record(&self.event(Phase::Intent, None));
        intent.durable().await.map(drop)
    }

    fn end(&mut self, code: &'static str, reason: Option<&'static str>) {
        self.ended = true;
        let (decision, attempts) = if self.sent {
            (Decision::Forward, 1)
        } else {
            (Decision::Refuse, 0)
        };
        let end = ProbeEnd {
            decision,
            code,
            reason: reason.filter(|reason| *reason != code),
            attempts,
            upstream_status: self.upstream_status,
        };
        let outcome = self.event(Phase::Outcome, Some(end));
        drop(self.question.audit.record(&outcome));
    }

    fn event(&self, phase: Phase, end: Option<ProbeEnd>) -> Probe<'_> {
        Probe {
            time: clock::now(),
            phase,
            request_id: self.request_id,
            account: self.question.account.as_str(),
            service: Operation::GetStatus.name(),
            end,
            credential: self.question.id.as_str(),
            cause: "probe",
        }
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let code = if thread::panicking() {
            GatewayError::Internal.code().as_str()
        } else {
            "shutting_down"
        };
        self.end(code, None);
    }
}
