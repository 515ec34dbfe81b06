//! Decides who is calling: one bearer token in, one [`Caller`] out, or a refusal.
//!
//! Invariant: a `Caller` exists only where a configured key of the issuer that the token names has
//! verified it under the algorithm bound to that key, and every claim was checked. A remembered
//! token is checked against the time again on each use, and remembers its own rights only; whether
//! they suffice is decided on each request ([`permit`]). No token, subject or customer is printed.

mod claims;
mod json;
pub mod keys;
pub mod mint;
pub mod permit;
pub mod register;
pub mod revocation;
pub mod token;

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use aws_lc_rs::digest;
use http::HeaderMap;
use jiff::Timestamp;
use moka::sync::Cache;
use thiserror::Error;

use self::{
    claims::{Claims, Lifetime},
    json::{Object, Value},
    keys::KeySet,
    permit::{BindRule, Binding},
    revocation::{Marks, Named, RevocationList},
    token::{BearerToken, UnverifiedHeader},
};
use crate::{
    ident::{IssuerId, TenantId},
    operation::Operations,
};

/// Chooses the process's cryptography for tokens and TLS. `main` calls it first; again does no harm.
pub fn install_crypto() {
    // Each refuses only where a provider is installed already, and then it is this one.
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}

/// An issuer of tokens, as configured under `[[issuers]]`.
#[derive(Debug)]
pub struct IssuerSettings {
    /// Its id in the configuration.
    pub id: IssuerId,
    /// What `iss` must be, byte for byte. No two issuers have the same.
    pub issuer: String,
    /// The audiences that are us: `aud` names one of them.
    pub audiences: Vec<String>,
    /// The keys that it signs with, each bound to an algorithm.
    pub keys: KeySet,
    /// The tenants that it may speak for.
    pub tenants: Vec<TenantId>,
    /// The claim that names the tenant.
    pub tenant_claim: String,
    /// The claim that binds a token to one customer's email.
    pub customer_claim: String,
    /// How far its clock and ours may differ.
    pub leeway: Duration,
    /// How far away `exp` may be.
    pub max_ttl: Duration,
    /// The values of `typ` that are accepted; a token without `typ` counts as `JWT`.
    pub types: Vec<String>,
    /// The services that its customer-bound tokens may use.
    pub customer_services: Operations,
    /// Further claims that members of the body must equal.
    pub bind: Vec<BindRule>,
}

/// Verifies tokens, and remembers those that were good.
pub struct Authenticator {
    issuers: HashMap<String, IssuerSettings>,
    verified: Cache<[u8; 32], Arc<Caller>>,
    revoked: RevocationList,
}

impl Authenticator {
    /// An authenticator for these issuers. Of two with the same `issuer` the first counts (the
    /// configuration refuses such a pair). After a reload there is a new one with an empty memory,
    /// so that a key, tenant or issuer that was taken away is gone at once.
    pub fn new(settings: Vec<IssuerSettings>, revoked: RevocationList) -> Self {
        let mut issuers = HashMap::with_capacity(settings.len());
        for issuer in settings {
            issuers.entry(issuer.issuer.clone()).or_insert(issuer);
        }
        Self {
            issuers,
            // At most 10,000 entries of at most 766 bytes of subject and customer and about 500 of
            // everything else: 13 MB, whatever tokens are sent. The time to live bounds how long a
            // caller's name lies in memory; it has no say in whether a token is good.
            verified: Cache::builder()
                .max_capacity(10_000)
                .time_to_live(Duration::from_hours(1))
                .build(),
            revoked,
        }
    }

    /// Who sent these headers, at this time.
    pub fn authenticate(
        &self,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Result<Arc<Caller>, AuthError> {
        let token = BearerToken::from_headers(headers)?;
        let caller = self.recognise(token, now)?;
        // On every request, a remembered token's too.
        if self.revoked.covers(&caller.marks, now) {
            return Err(AuthError::Revoked);
        }
        Ok(caller)
    }

    /// Who a token speaks for: remembered from an earlier request, or verified now.
    fn recognise(&self, token: BearerToken<'_>, now: Timestamp) -> Result<Arc<Caller>, AuthError> {
        // All of the token: a key made of a part of it would let one signature vouch for another.
        let key = sha256(token.as_bytes());
        if let Some(caller) = self.verified.get(&key) {
            let checked = caller.lifetime.check(now);
            if checked == Err(AuthError::Expired) {
                self.verified.invalidate(&key);
            }
            return checked.map(|()| caller);
        }
        // Only good tokens are remembered: bad ones would let a stranger fill the memory.
        let caller = Arc::new(self.verify(token, now)?);
        self.verified.insert(key, Arc::clone(&caller));
        Ok(caller)
    }

    fn verify(&self, token: BearerToken<'_>, now: Timestamp) -> Result<Caller, AuthError> {
        let (header, payload) = token.decode()?;
        let header = UnverifiedHeader::parse(&header)?;
        let claims = Object::parse(&payload).map_err(|_| AuthError::InvalidClaim)?;
        // Not trusted yet: it only says whose keys must have signed the token.
        let issuer = claims.get("iss").and_then(Value::text);
        let issuer = issuer.and_then(|issuer| self.issuers.get(issuer));
        let issuer = issuer.ok_or(AuthError::UnknownIssuer)?;
        if !header.is_one_of(&issuer.types) {
            return Err(AuthError::RefusedType);
        }
        if !issuer.keys.serves(header.algorithm) {
            return Err(AuthError::RefusedAlgorithm);
        }
        let key = issuer.keys.find(header.algorithm, header.kid.as_deref());
        let key = key.ok_or(AuthError::UnknownKey)?;
        let signed = token.signed().ok_or(AuthError::MalformedToken)?;
        if !key.has_signed(signed.0, signed.1) {
            return Err(AuthError::BadSignature);
        }
        let claims = Claims::read(&claims, issuer)?;
        claims.lifetime.check(now)?;
        Ok(Caller::new(claims, issuer, header.kid.as_deref()))
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator")
            .field("issuers", &self.issuers.len())
            .finish_non_exhaustive()
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, bytes);
    let mut key = [0; 32];
    for (to, from) in key.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    key
}

/// An authenticated caller: proof that a token of a configured issuer was verified.
pub struct Caller {
    tenant: TenantId,
    issuer: IssuerId,
    subject: Option<Box<str>>,
    operations: Operations,
    bindings: Box<[Binding]>,
    customer_services: Operations,
    expires: Timestamp,
    lifetime: Lifetime,
    marks: Marks,
}

impl Caller {
    fn new(claims: Claims, issuer: &IssuerSettings, kid: Option<&str>) -> Self {
        let marks = Marks::of(&Named {
            issuer: &issuer.id,
            tenant: &claims.tenant,
            subject: claims.subject.as_deref(),
            jti: claims.id.as_deref(),
            kid,
            issued: claims.issued,
        });
        Self {
            tenant: claims.tenant,
            issuer: issuer.id.clone(),
            subject: claims.subject,
            operations: claims.operations,
            bindings: claims.bindings,
            customer_services: issuer.customer_services,
            expires: claims.expires,
            lifetime: claims.lifetime,
            marks,
        }
    }

    /// The tenant that the call is made for.
    pub const fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// The issuer that vouches for it.
    pub const fn issuer(&self) -> &IssuerId {
        &self.issuer
    }

    /// The token's `sub`. It may name a person: it goes into a pseudonym and nowhere else.
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }

    /// The services that the token's scopes cover.
    pub const fn operations(&self) -> Operations {
        self.operations
    }

    /// The one customer's email that the token is bound to, if it is.
    pub fn customer(&self) -> Option<&str> {
        self.bindings.first().and_then(Binding::email)
    }

    fn bindings(&self) -> &[Binding] {
        &self.bindings
    }

    /// The services that a token of this issuer may use when it is bound to a customer.
    pub const fn customer_services(&self) -> Operations {
        self.customer_services
    }

    /// The token's `exp`, without leeway.
    pub const fn expires(&self) -> Timestamp {
        self.expires
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("tenant", &self.tenant)
            .field("issuer", &self.issuer)
            .field("operations", &self.operations)
            .finish_non_exhaustive()
    }
}

/// Why nobody is authenticated. For the audit trail: a client learns of `Missing` and `Expired`, and
/// of everything else only that the token is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AuthError {
    /// The signature is not the configured key's.
    #[error("the signature is not valid")]
    BadSignature,
    /// There are several `Authorization` headers.
    #[error("there is more than one authorization header")]
    DoubledHeader,
    /// The token was good, and its time is over.
    #[error("the token has expired")]
    Expired,
    /// The issuer may not speak for the tenant.
    #[error("the issuer does not speak for the tenant")]
    ForeignTenant,
    /// A claim is missing, of the wrong type, doubled or out of bounds.
    #[error("a claim is missing or malformed")]
    InvalidClaim,
    /// `iat` lies in the future.
    #[error("the token was issued in the future")]
    IssuedInFuture,
    /// `exp` is further away than the issuer's `max_ttl`.
    #[error("the token lives too long")]
    LivesTooLong,
    /// The token's header is not the JSON that it must be.
    #[error("the token's header is malformed")]
    MalformedHeader,
    /// The token is not three parts of base64url.
    #[error("the token is malformed")]
    MalformedToken,
    /// There is no `Authorization` header.
    #[error("there is no authorization header")]
    Missing,
    /// The `Authorization` header's scheme is another.
    #[error("the authorization is not a bearer token")]
    NotBearer,
    /// `nbf` lies in the future.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// The algorithm is unknown, or none of the issuer's.
    #[error("the algorithm is not the issuer's")]
    RefusedAlgorithm,
    /// The header asks for what is not done here: `crit`, `b64`, `enc`, `zip`, a nested token.
    #[error("the token's header asks for what is not supported")]
    RefusedHeader,
    /// The token was revoked.
    #[error("the token was revoked")]
    Revoked,
    /// `typ` is none of the issuer's.
    #[error("the token is of another type")]
    RefusedType,
    /// The token is longer than is looked at.
    #[error("the token is too long")]
    TooLong,
    /// `iss` is missing, or is no configured issuer's.
    #[error("the issuer is not known")]
    UnknownIssuer,
    /// The issuer has no such key, or several that could be meant.
    #[error("the key is not known")]
    UnknownKey,
    /// `aud` does not name us.
    #[error("the token is for another audience")]
    WrongAudience,
}

impl AuthError {
    /// The reason in one word, of a closed set: for audit events and counters.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::BadSignature => "bad_signature",
            Self::DoubledHeader => "doubled_header",
            Self::Expired => "expired",
            Self::ForeignTenant => "foreign_tenant",
            Self::InvalidClaim => "invalid_claim",
            Self::IssuedInFuture => "issued_in_future",
            Self::LivesTooLong => "lives_too_long",
            Self::MalformedHeader => "malformed_header",
            Self::MalformedToken => "malformed_token",
            Self::Missing => "missing",
            Self::NotBearer => "not_bearer",
            Self::NotYetValid => "not_yet_valid",
            Self::RefusedAlgorithm => "refused_algorithm",
            Self::RefusedHeader => "refused_header",
            Self::RefusedType => "refused_type",
            Self::Revoked => "revoked",
            Self::TooLong => "too_long",
            Self::UnknownIssuer => "unknown_issuer",
            Self::UnknownKey => "unknown_key",
            Self::WrongAudience => "wrong_audience",
        }
    }
}

#[cfg(test)]
mod tests;
