//! The credentials' part of the operators' interface.
//!
//! Invariant: what is shown names credentials and says how they stand. There is no value in reach
//! here, nor its length, nor anything made of it.

use std::sync::Arc;

use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::api::Refusal;
use crate::{
    audit::operator::{About, Action, Found, Scribe, Unrecorded},
    credential::{Credential, source::SourceError},
    ident::{AccountId, CredentialId},
    payload::email::is_mailbox,
    redact::Redacted,
    rotator::{AccountStanding, Probed, Question, Rotator},
    upstream::client::UpstreamClient,
};

/// Which credential is meant.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Named {
    /// Its account.
    pub(crate) account: AccountId,
    /// Its id there.
    pub(crate) credential: CredentialId,
}

/// Which credential is to be tested.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tested {
    account: AccountId,
    credential: CredentialId,
    /// Whose status is asked for; left out, that of the account's probe.
    email: Option<String>,
}

/// How every credential stands.
pub(super) fn list(rotator: &Rotator) -> Value {
    let accounts: Vec<Value> = rotator.standings().iter().map(account).collect();
    json!({ "accounts": accounts })
}

/// Ends a credential's rest after a refusal.
pub(super) async fn retry(
    rotator: &Rotator,
    scribe: Scribe<'_>,
    named: &Named,
) -> Result<Value, Refusal> {
    let Named {
        account,
        credential,
    } = named;
    let unknown = || Refusal::new(StatusCode::NOT_FOUND, "no account has such a credential");
    let known = rotator.standings().into_iter().any(|standing| {
        let mut credentials = standing.credentials.iter();
        standing.id == *account && credentials.any(|known| known.id == *credential)
    });
    // What is recorded are names of the configuration, whatever was sent.
    if !known {
        return Err(unknown());
    }
    let about = About {
        account: Some(account.as_str()),
        credential: Some(credential.as_str()),
        ..About::default()
    };
    let act = scribe.begins(Action::CredentialRetry, about).await?;
    let retried = rotator.retry(account, credential);
    let result = if retried == Some(true) {
        "done"
    } else {
        "refused"
    };
    act.ends(result, Found::default()).await;
    match retried {
        None => Err(unknown()),
        Some(false) => {
            let why = "it is not rejected: there is nothing to retry";
            Err(Refusal::new(StatusCode::CONFLICT, why))
        }
        Some(true) => {
            tracing::info!(
                account.id = %account, credential.id = %credential,
                "an operator has a rejected credential tried again"
            );
            Ok(json!({ "retried": named }))
        }
    }
}

/// Asks DCAMS with what is in a credential's source now; nothing changes by it.
pub(super) async fn test(
    rotator: &Rotator,
    scribe: Scribe<'_>,
    tested: Tested,
) -> Result<Value, Refusal> {
    let Tested {
        account,
        credential,
        email,
    } = tested;
    if email.as_deref().is_some_and(|email| !is_mailbox(email)) {
        let why = "`email` is no email address";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, why));
    }
    let known = rotator.source(&account, &credential).await;
    let unknown = "the gateway that runs has no such credential: reload its configuration first";
    let known = known.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, unknown))?;
    let email = email.map(Redacted::new).or(known.probe);
    let nobody = "the account has no [accounts.probe]: name an `email`";
    let email = email.ok_or_else(|| Refusal::new(StatusCode::BAD_REQUEST, nobody))?;
    let question = Question {
        audit: scribe.audit(),
        account: &account,
        id: &credential,
        email: &email,
    };
    Ok(ask(scribe, question, &known.upstream, known.value).await?)
}

/// Asks DCAMS about one credential, in an operator's name, and says what it said.
pub(crate) async fn ask(
    scribe: Scribe<'_>,
    question: Question<'_>,
    upstream: &UpstreamClient,
    value: Result<Arc<Credential>, SourceError>,
) -> Result<Value, Unrecorded> {
    let value = match value {
        Ok(value) => value,
        Err(error) => return Ok(json!({ "result": "unread", "reason": error.to_string() })),
    };
    let about = About {
        account: Some(question.account.as_str()),
        credential: Some(question.id.as_str()),
        ..About::default()
    };
    scribe.tells(Action::CredentialTest, about).await?;
    Ok(match question.ask(upstream, &value).await {
        Probed::Accepted => json!({ "result": "accepted" }),
        Probed::Refused => json!({ "result": "refused" }),
        Probed::Nothing(reason) => json!({ "result": "nothing", "reason": reason }),
    })
}

fn account(account: &AccountStanding) -> Value {
    let trouble = |id: &CredentialId| {
        let mut troubles = account.troubles.iter();
        troubles.find(|(of, _)| of == id).map(|(_, why)| *why)
    };
    let credentials: Vec<Shown<'_>> = account
        .credentials
        .iter()
        .map(|standing| Shown {
            id: &standing.id,
            generation: standing.generation,
            state: standing.state.as_str(),
            since: standing.since,
            last_used: standing.used,
            last_accepted: standing.accepted,
            last_refused: standing.refused,
            retry_at: standing.retry_at,
            in_flight: standing.in_flight,
            not_before: standing.validity.not_before,
            not_after: standing.validity.not_after,
            source_failure: trouble(&standing.id),
        })
        .collect();
    json!({ "id": account.id, "usable": account.usable, "credentials": credentials })
}

#[derive(Serialize)]
struct Shown<'a> {
    id: &'a CredentialId,
    generation: u64,
    state: &'static str,
    since: Timestamp,
    last_used: Option<Timestamp>,
    last_accepted: Option<Timestamp>,
    last_refused: Option<Timestamp>,
    retry_at: Option<Timestamp>,
    in_flight: u32,
    not_before: Option<Timestamp>,
    not_after: Option<Timestamp>,
    source_failure: Option<&'static str>,
}
