//! What operators do, as events: the one way for the admin listener, and for commands that work on the
//! state themselves.
//!
//! Invariant: what changes something leaves an event that is durable before it takes effect, and one that
//! says how it ended; what is read leaves one that is durable before it is told. Where the first cannot be
//! written in time nothing is done, and a result says so later. Nobody is named but an operator who names himself.

use http::{HeaderMap, HeaderValue};
use serde::{Serialize, Serializer};
use thiserror::Error;

use super::{
    AuditTrail, AuditUnavailable, Filed,
    event::{Act, Deed, Phase, as_text_option},
};
use crate::{
    address::Client,
    clock,
    ident::{InvalidName, OperatorName, Pseudonym, PseudonymKey},
};

/// By which an operator may name himself.
pub const NAME_HEADER: &str = "x-operator";

/// Who does something.
#[derive(Debug, Clone, Serialize)]
pub struct Actor {
    /// Which way he comes.
    pub via: Via,
    /// From where, on the admin listener: a network, never an address.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "origin")]
    client: Option<Client>,
    /// Why he may, there.
    #[serde(skip_serializing_if = "Option::is_none")]
    authenticated: Option<Authenticated>,
    /// What he calls himself; nobody vouches for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    operator: Option<OperatorName>,
}

/// Which way an operator comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// The admin listener.
    Api,
    /// A command that works on the state itself, as no gateway runs.
    Cli,
    /// A file that has changed.
    File,
    /// SIGHUP.
    Signal,
}

/// Why somebody may do something on the admin listener.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
enum Authenticated {
    /// There is no token, and the listener is on loopback.
    Loopback,
    /// He has the admin token.
    Token,
}

impl Via {
    /// In one word, for logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Cli => "cli",
            Self::File => "file",
            Self::Signal => "signal",
        }
    }
}

impl From<Via> for Actor {
    fn from(via: Via) -> Self {
        Self {
            via,
            client: None,
            authenticated: None,
            operator: None,
        }
    }
}

impl Actor {
    /// Who sent these headers to the admin listener, and was let in: with the token, where there is one.
    ///
    /// # Errors
    /// [`InvalidName`] where he calls himself something that is no name.
    pub fn at_api(headers: &HeaderMap, peer: Client, token: bool) -> Result<Self, InvalidName> {
        let name = |value: &HeaderValue| OperatorName::try_from(value.to_str().unwrap_or_default());
        let mut names = headers.get_all(NAME_HEADER).iter().map(name);
        let operator = names.next().transpose()?;
        if names.next().is_some() {
            return Err(InvalidName);
        }
        Ok(Self {
            via: Via::Api,
            client: Some(peer),
            authenticated: Some(if token {
                Authenticated::Token
            } else {
                Authenticated::Loopback
            }),
            operator,
        })
    }

    /// Who runs a command.
    pub fn at_cli(operator: Option<OperatorName>) -> Self {
        Self {
            operator,
            ..Self::from(Via::Cli)
        }
    }
}

/// This machine has no network that it could come from.
#[expect(clippy::ref_option, reason = "serde hands a field over by reference")]
fn origin<S: Serializer>(client: &Option<Client>, s: S) -> Result<S::Ok, S::Error> {
    match client {
        Some(Client::Known(address)) if address.is_loopback() => s.serialize_str("loopback"),
        client => as_text_option(client, s),
    }
}

/// What operators do, or ask for.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Statuses are kept no more.
    CachePurge,
    /// A rejected credential is tried again.
    CredentialRetry,
    /// DCAMS is asked whether it accepts a credential; the question has events of its own.
    CredentialTest,
    /// What the gateway has of a person is removed.
    CustomerForget,
    /// Customers become a tenant's own.
    CustomerImport,
    /// Whose a customer is.
    CustomerOwner,
    /// Customers are taken out of the ledger.
    CustomerRemove,
    /// Tokens are refused before they expire.
    RevocationAdd,
    /// What is refused.
    RevocationList,
    /// A revocation is taken back.
    RevocationRemove,
    /// What was used in a month.
    StatementRead,
    /// A tenant gets more.
    UsageGrant,
    /// What tenants have used.
    UsageRead,
}

/// What it is about, as far as that is known.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct About<'a> {
    /// Whose; none where it is about all tenants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<&'a str>,
    /// Of which account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<&'a str>,
    /// Which of its credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<&'a str>,
    /// Which customer, as in outcome events.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "as_text_option"
    )]
    pub customer: Option<Pseudonym>,
    /// How many customers were named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub customers: Option<usize>,
    /// Which revocation: its id, which is a keyed pseudonym of what it is about.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "as_text_option"
    )]
    pub revocation: Option<Pseudonym>,
    /// What kind of tokens it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    /// Whose tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<&'a str>,
    /// Of which month.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub month: Option<&'a str>,
    /// Of which limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<&'static str>,
    /// How much of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amount: Option<u64>,
}

/// What came of it, besides its result.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Found {
    /// With how many customers it was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub done: Option<usize>,
    /// Whether a status was kept: `removed`, `none`, or `untold` where other gateways are yet to be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<&'static str>,
    /// Whether the ledger had the customer: `removed`, `not_owned`, `no_ledger`, or `unknown` where the
    /// ledger did not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ownership: Option<&'static str>,
}

/// What an operator does, or asks for, as an event.
#[derive(Debug, Serialize)]
pub struct Doing<'a> {
    action: Action,
    #[serde(flatten)]
    actor: &'a Actor,
    #[serde(flatten)]
    about: About<'a>,
    #[serde(flatten)]
    found: Found,
    /// `begun`, then how it ended; none of what is only read, or `refused` where it was not told after all.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'static str>,
}

/// Nothing was done, as it could not be written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "the audit trail cannot be written, and nothing was done or told ({0}): mend that, then try again"
)]
pub struct Unrecorded(#[from] AuditUnavailable);

/// Writes down what one operator does.
#[derive(Clone, Copy)]
pub struct Scribe<'a> {
    audit: &'a AuditTrail,
    actor: &'a Actor,
}

impl<'a> Scribe<'a> {
    /// In this trail, of this operator.
    pub const fn new(audit: &'a AuditTrail, actor: &'a Actor) -> Self {
        Self { audit, actor }
    }

    /// Who it is.
    pub const fn actor(self) -> &'a Actor {
        self.actor
    }

    /// Where it is written down.
    pub const fn audit(self) -> &'a AuditTrail {
        self.audit
    }

    /// With which people become pseudonyms in the trail.
    pub fn pseudonyms(self) -> &'a PseudonymKey {
        self.audit.pseudonyms()
    }

    /// Writes down that he is told something.
    ///
    /// # Errors
    /// [`Unrecorded`]: it must not be told.
    pub async fn tells(self, action: Action, about: About<'_>) -> Result<(), Unrecorded> {
        self.announces(action, about, None).await
    }

    /// Writes down that something begins.
    ///
    /// # Errors
    /// [`Unrecorded`]: it must not be done.
    pub async fn begins(
        self,
        action: Action,
        about: About<'a>,
    ) -> Result<Underway<'a>, Unrecorded> {
        self.announces(action, about, Some("begun")).await?;
        Ok(Underway {
            scribe: self,
            action,
            about,
            ended: false,
        })
    }

    /// Writes down what is about to be done or told. Where that is not on disk in time it may be there
    /// later, though nothing was: then there is a result behind it that says so.
    async fn announces(
        self,
        action: Action,
        about: About<'_>,
        result: Option<&'static str>,
    ) -> Result<(), Unrecorded> {
        let announced = self.file(action, about, Found::default(), result);
        if let Err(why) = announced.durable().await {
            drop(self.file(action, about, Found::default(), Some("refused")));
            return Err(why.into());
        }
        Ok(())
    }

    fn file(
        self,
        action: Action,
        about: About<'_>,
        found: Found,
        result: Option<&'static str>,
    ) -> Filed {
        self.audit.record(&Act {
            time: clock::now(),
            phase: Phase::Event,
            deed: Deed::Admin(Doing {
                action,
                actor: self.actor,
                about,
                found,
                result,
            }),
        })
    }
}

/// Something that has begun. Where it is dropped (who asked has left, the process ends) nobody knows how
/// it ended, and its event says so.
#[must_use = "say how it ended"]
pub struct Underway<'a> {
    scribe: Scribe<'a>,
    action: Action,
    about: About<'a>,
    ended: bool,
}

impl Underway<'_> {
    /// Writes down how it ended, and waits for that: it is done, whether or not it can be recorded.
    pub async fn ends(mut self, result: &'static str, found: Found) {
        self.ended = true;
        let filed = self
            .scribe
            .file(self.action, self.about, found, Some(result));
        let _ = filed.durable().await;
    }
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let found = Found::default();
            let last = Some("interrupted");
            drop(self.scribe.file(self.action, self.about, found, last));
        }
    }
}
