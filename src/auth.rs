//! Decides who is calling: one token in, one [`Caller`] out, or a refusal.
//!
//! Invariant: a `Caller` exists only where a configured key of the issuer that the token names has
//! verified it under the algorithm bound to that key, and every claim was checked. A remembered
//! token is checked against the time again on each use, and remembers its own rights only; whether
//! they suffice is decided on each request ([`permit`]). No token, subject or customer is printed.

mod claims;
pub mod dpop;
mod json;
pub mod jwks;
pub mod keys;
pub mod mint;
pub mod permit;
pub mod register;
pub mod revocation;
pub mod token;

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::digest;
use http::{HeaderValue, request::Parts};
use jiff::Timestamp;
use moka::sync::Cache;
use thiserror::Error;

use self::{
    claims::{Claims, Lifetime},
    dpop::{Confirmation, DpopRules, Presented, ProofChecker, ProofError},
    json::{Object, Value},
    jwks::{KeySource, RemoteKeys},
    permit::{BindRule, Binding},
    revocation::{Marks, Named, RevocationList},
    token::{AccessToken, UnverifiedHeader},
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
    pub keys: KeySource,
    /// The tenants that it may speak for.
    pub tenants: BTreeSet<TenantId>,
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
    /// Whether and how the holders of its tokens prove that they are.
    pub dpop: DpopRules,
}

/// Verifies tokens, and remembers those that were good.
pub struct Authenticator {
    issuers: HashMap<String, Arc<IssuerSettings>>,
    verified: Cache<[u8; 32], Arc<Caller>>,
    revoked: RevocationList,
    proofs: ProofChecker,
}

impl Authenticator {
    /// An authenticator for these issuers. Of two with the same `issuer` the first counts (the
    /// configuration refuses such a pair). After a reload there is a new one that remembers no token,
    /// so that a key, tenant or issuer that was taken away is gone at once.
    pub fn new(
        settings: Vec<IssuerSettings>,
        revoked: RevocationList,
        proofs: ProofChecker,
    ) -> Self {
        let mut issuers = HashMap::with_capacity(settings.len());
        for issuer in settings {
            let name = issuer.issuer.clone();
            issuers.entry(name).or_insert_with(|| Arc::new(issuer));
        }
        Self {
            issuers,
            // At most 10,000 entries. Each has at most 1.8 KB of subject (twice), id, key name and
            // customer, 2 KB of bound claims and about 1 KB of everything else: 50 MB at worst,
            // whatever tokens are sent.
            // The time to live bounds how long a caller's name lies in memory; it has no say in
            // whether a token is good.
            verified: Cache::builder()
                .max_capacity(10_000)
                .time_to_live(Duration::from_hours(1))
                .build(),
            revoked,
            proofs,
        }
    }

    /// Who sent this request, at this time.
    pub async fn authenticate(
        &self,
        request: &Parts,
        now: Timestamp,
    ) -> Result<Arc<Caller>, AuthError> {
        let token = AccessToken::from_headers(&request.headers)?;
        let mut known = self.recognise(token, now);
        // The one case in which a request waits here: its issuer may have a new key since.
        if matches!(
            known,
            Err(AuthError::KeysUnavailable | AuthError::UnknownKey)
        ) && let Some((remote, kid)) = self.signed_by(token)
        {
            // Boxed, because it is rare and every request's future would be as large.
            Box::pin(remote.look_for(kid.as_deref())).await;
            known = self.recognise(token, now);
        }
        let caller = known?;
        // On every request, a remembered token's too.
        if self.revoked.covers(&caller.marks, now) {
            return Err(AuthError::Revoked);
        }
        self.check_proof(&caller, token, request, now)?;
        Ok(caller)
    }

    /// What is to be known of proofs by the authenticator that takes this one's place.
    pub const fn proofs(&self) -> &ProofChecker {
        &self.proofs
    }

    /// A nonce for the proofs to come, for the header `DPoP-Nonce`.
    pub fn nonce(&self, now: Timestamp) -> HeaderValue {
        self.proofs.nonce(now)
    }

    /// The issuers whose keys are fetched.
    pub fn remote_keys(&self) -> impl Iterator<Item = &Arc<RemoteKeys>> {
        self.issuers
            .values()
            .filter_map(|issuer| issuer.keys.remote())
    }

    /// Who a token speaks for: remembered from an earlier request, or verified now.
    fn recognise(&self, token: AccessToken<'_>, now: Timestamp) -> Result<Arc<Caller>, AuthError> {
        // All of the token: a key made of a part of it would let one signature vouch for another.
        let key = sha256(token.as_bytes());
        if let Some(caller) = self.verified.get(&key) {
            let current = caller.issuer.keys.current();
            // A key that the issuer has taken back vouches for nobody any more.
            if current.generation() == caller.generation {
                let checked = caller.lifetime.check(now);
                if checked == Err(AuthError::Expired) {
                    self.verified.invalidate(&key);
                }
                return checked.map(|()| caller);
            }
        }
        // Only good tokens are remembered: bad ones would let a stranger fill the memory.
        let caller = Arc::new(self.verify(token, now)?);
        self.verified.insert(key, Arc::clone(&caller));
        Ok(caller)
    }

    fn verify(&self, token: AccessToken<'_>, now: Timestamp) -> Result<Caller, AuthError> {
        let (header, payload) = token.decode()?;
        let header = UnverifiedHeader::parse(&header)?;
        let claims = Object::parse(&payload).map_err(|_| AuthError::InvalidClaim)?;
        let issuer = self.issuer(&claims)?;
        if !header.is_one_of(&issuer.types) {
            return Err(AuthError::RefusedType);
        }
        let current = issuer.keys.current();
        let keys = current.keys().ok_or(AuthError::KeysUnavailable)?;
        let kid = header.kid.as_deref();
        let key = keys.find(header.algorithm, kid).ok_or_else(|| {
            if issuer.keys.may_serve(header.algorithm) {
                AuthError::UnknownKey
            } else {
                AuthError::RefusedAlgorithm
            }
        })?;
        let (message, signature) = token.signed().ok_or(AuthError::MalformedToken)?;
        if !key.has_signed(message, signature) {
            return Err(AuthError::BadSignature);
        }
        let claims = Claims::read(&claims, issuer)?;
        claims.lifetime.check(now)?;
        // By both names: whoever has the key writes the header.
        let kids = [kid, key.kid()];
        Ok(Caller::new(claims, issuer, kids, current.generation()))
    }

    /// The issuer that a token names. Not trusted yet: it only says whose keys must have signed it.
    fn issuer(&self, claims: &Object<'_>) -> Result<&Arc<IssuerSettings>, AuthError> {
        let name = claims.get("iss").and_then(Value::text);
        let issuer = name.and_then(|name| self.issuers.get(name));
        issuer.ok_or(AuthError::UnknownIssuer)
    }

    /// The fetched keys that a token says it was signed with, and which of them.
    fn signed_by(&self, token: AccessToken<'_>) -> Option<(&Arc<RemoteKeys>, Option<String>)> {
        let (header, payload) = token.decode().ok()?;
        let header = UnverifiedHeader::parse(&header).ok()?;
        let claims = Object::parse(&payload).ok()?;
        let remote = self.issuer(&claims).ok()?.keys.remote()?;
        Some((remote, header.kid))
    }

    /// Whether the sender holds the key that the token is bound to, where it is bound to one.
    fn check_proof(
        &self,
        caller: &Caller,
        token: AccessToken<'_>,
        request: &Parts,
        now: Timestamp,
    ) -> Result<(), AuthError> {
        let IssuerSettings { dpop, leeway, .. } = &*caller.issuer;
        let Some(key) = caller.confirmation.demand(token.scheme(), dpop)? else {
            return Ok(());
        };
        let presented = Presented {
            token,
            headers: &request.headers,
            method: &request.method,
            path: request.uri.path(),
        };
        self.proofs.check(&presented, key, dpop, *leeway, now)?;
        Ok(())
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
    issuer: Arc<IssuerSettings>,
    subject: Option<Box<str>>,
    operations: Operations,
    bindings: Box<[Binding]>,
    confirmation: Confirmation,
    expires: Timestamp,
    lifetime: Lifetime,
    marks: Marks,
    /// Of the issuer's keys, when the signature was checked.
    generation: u64,
}

impl Caller {
    fn new(
        claims: Claims,
        issuer: &Arc<IssuerSettings>,
        kids: [Option<&str>; 2],
        generation: u64,
    ) -> Self {
        let marks = Marks::of(&Named {
            issuer: &issuer.id,
            tenant: &claims.tenant,
            subject: claims.subject.as_deref(),
            jti: claims.id.as_deref(),
            kids,
            issued: claims.issued,
        });
        Self {
            tenant: claims.tenant,
            issuer: Arc::clone(issuer),
            subject: claims.subject,
            operations: claims.operations,
            bindings: claims.bindings,
            confirmation: claims.confirmation,
            expires: claims.expires,
            lifetime: claims.lifetime,
            marks,
            generation,
        }
    }

    /// The tenant that the call is made for.
    pub const fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// The issuer that vouches for it.
    pub fn issuer(&self) -> &IssuerId {
        &self.issuer.id
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

    /// The services that a token of this issuer may use when it is bound to a customer.
    pub fn customer_services(&self) -> Operations {
        self.issuer.customer_services
    }

    /// The token's `exp`, without leeway.
    pub const fn expires(&self) -> Timestamp {
        self.expires
    }

    /// Whether its next proof needs a nonce, so that an answer had better carry one.
    pub fn needs_nonce(&self) -> bool {
        self.issuer.dpop.nonce && self.confirmation != Confirmation::None
    }

    fn bindings(&self) -> &[Binding] {
        &self.bindings
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("tenant", &self.tenant)
            .field("issuer", &self.issuer.id)
            .field("operations", &self.operations)
            .finish_non_exhaustive()
    }
}

/// Why nobody is authenticated. For the audit trail: a client learns of `Missing`, `Expired`, under
/// which scheme a good token belongs and that a proof is not valid or needs a nonce; of everything
/// else only that the token is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AuthError {
    /// The signature is not the configured key's.
    #[error("the signature is not valid")]
    BadSignature,
    /// The token is bound to a key, and was sent as if it were not.
    #[error("the token is bound to a key and was sent without a proof")]
    BoundKey,
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
    /// The issuer's keys could not be fetched, or not for longer than they are believed.
    #[error("the issuer's keys are not available")]
    KeysUnavailable,
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
    #[error("the authorization is neither a Bearer nor a DPoP token")]
    NotBearer,
    /// The token is bound to no key, and should be: by its issuer's rules, or for its scheme.
    #[error("the token is bound to no key")]
    NotBound,
    /// `nbf` lies in the future.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// The token was good, and the proof that its sender holds its key was not.
    #[error(transparent)]
    Proof(#[from] ProofError),
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
    /// `cnf` binds the token to what cannot be checked here.
    #[error("the token is bound to what cannot be checked here")]
    UncheckedConfirmation,
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
            Self::BoundKey => "bound_key",
            Self::DoubledHeader => "doubled_header",
            Self::Expired => "expired",
            Self::ForeignTenant => "foreign_tenant",
            Self::InvalidClaim => "invalid_claim",
            Self::IssuedInFuture => "issued_in_future",
            Self::KeysUnavailable => "keys_unavailable",
            Self::LivesTooLong => "lives_too_long",
            Self::MalformedHeader => "malformed_header",
            Self::MalformedToken => "malformed_token",
            Self::Missing => "missing",
            Self::NotBearer => "not_bearer",
            Self::NotBound => "not_bound",
            Self::NotYetValid => "not_yet_valid",
            Self::Proof(error) => error.reason(),
            Self::RefusedAlgorithm => "refused_algorithm",
            Self::RefusedHeader => "refused_header",
            Self::RefusedType => "refused_type",
            Self::Revoked => "revoked",
            Self::TooLong => "too_long",
            Self::UncheckedConfirmation => "unchecked_confirmation",
            Self::UnknownIssuer => "unknown_issuer",
            Self::UnknownKey => "unknown_key",
            Self::WrongAudience => "wrong_audience",
        }
    }
}

#[cfg(test)]
mod tests;
