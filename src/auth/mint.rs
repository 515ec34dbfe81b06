//! Makes tokens for development issuers: the claims of one, signed by the issuer's own key.
//!
//! Invariant: a token that comes out is one that this gateway accepts at that moment; it is read
//! back by the same code that will judge it. Whoever asks chooses tenant, scopes, subject, customer
//! and lifetime, and nothing else: the fixed claims win.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::Header;
use serde_json::{Map, Value};
use thiserror::Error;
use uuid::Uuid;

use super::{
    AuthError, IssuerSettings,
    claims::Claims,
    json::Object,
    jwks::KeySource,
    keys::{KeyError, SigningKey},
    permit::Binding,
    token::Scheme,
};
use crate::{
    ident::TenantId,
    operation::{Operation, Operations},
};

/// What a token is to say.
#[derive(Clone, Copy)]
pub struct Grant<'a> {
    /// The tenant that its bearer speaks for.
    pub tenant: &'a TenantId,
    /// The services that its scopes cover.
    pub operations: Operations,
    /// Who its bearer is.
    pub subject: Option<&'a str>,
    /// The one customer's email that it is bound to.
    pub customer: Option<&'a str>,
    /// How long it lives, in whole seconds.
    pub ttl: Duration,
}

/// Why no token was made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MintError {
    /// The key did not sign.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The signing key is not the private half of any key of the issuer.
    #[error("none of the issuer's keys verifies what the signing key signs")]
    KeyMismatch,
    /// The issuer publishes its keys, so they sign elsewhere.
    #[error("the issuer signs its tokens itself; ask it for one")]
    RemoteKeys,
    /// The gateway would refuse the token.
    #[error("the gateway would refuse the token: {0}")]
    Refused(AuthError),
}

impl Grant<'_> {
    /// A token of this issuer, signed by its key, with the `kid` under which that key is known.
    pub fn mint(
        &self,
        issuer: &IssuerSettings,
        key: &SigningKey,
        now: Timestamp,
    ) -> Result<String, MintError> {
        let claims = self.claims(issuer, now)?;
        // The issuer's own keys are elsewhere, and only it has their private halves.
        let KeySource::Fixed(keys) = &issuer.keys else {
            return Err(MintError::RemoteKeys);
        };
        for known in keys.of(key.algorithm()) {
            let mut header = Header::new(key.algorithm());
            header.typ = issuer.types.first().cloned();
            header.kid = known.kid().map(str::to_owned);
            let token = key.sign_under(&header, &claims)?;
            let verified = token.rsplit_once('.').is_some_and(|(message, signature)| {
                known.has_signed(message.as_bytes(), signature)
            });
            if verified {
                return Ok(token);
            }
        }
        Err(MintError::KeyMismatch)
    }

    /// The claims of such a token.
    pub fn claims(&self, issuer: &IssuerSettings, now: Timestamp) -> Result<Value, MintError> {
        let mut claims = Map::new();
        claims.insert(issuer.tenant_claim.clone(), self.tenant.as_str().into());
        if let Some(customer) = self.customer {
            claims.insert(issuer.customer_claim.clone(), customer.into());
        }
        if let Some(subject) = self.subject {
            claims.insert("sub".to_owned(), subject.into());
        }
        let scopes: Vec<&str> = self.operations.iter().map(Operation::scope).collect();
        claims.insert("scope".to_owned(), scopes.join(" ").into());
        let expires = SignedDuration::try_from(self.ttl)
            .ok()
            .and_then(|ttl| now.checked_add(ttl).ok())
            .ok_or(MintError::Refused(AuthError::LivesTooLong))?;
        claims.insert("iss".to_owned(), issuer.issuer.as_str().into());
        claims.insert("aud".to_owned(), issuer.audiences.first().cloned().into());
        claims.insert("iat".to_owned(), now.as_second().into());
        claims.insert("exp".to_owned(), expires.as_second().into());
        claims.insert("jti".to_owned(), Uuid::now_v7().to_string().into());
        let claims = Value::Object(claims);
        self.read_back(&claims, issuer, now)
            .map_err(MintError::Refused)?;
        Ok(claims)
    }

    fn read_back(
        &self,
        claims: &Value,
        issuer: &IssuerSettings,
        now: Timestamp,
    ) -> Result<(), AuthError> {
        let json = claims.to_string();
        let object = Object::parse(json.as_bytes()).map_err(|_| AuthError::InvalidClaim)?;
        let read = Claims::read(&object, issuer)?;
        read.lifetime.check(now)?;
        // Such an issuer's tokens are bound to a key of their holder's, which is not known here.
        read.confirmation.demand(Scheme::Bearer, &issuer.dpop)?;
        // A claim may be configured under a name that a fixed claim has.
        let customer = read.bindings.first().and_then(Binding::email);
        if read.tenant != *self.tenant || customer != self.customer {
            return Err(AuthError::InvalidClaim);
        }
        Ok(())
    }
}
