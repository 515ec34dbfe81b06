//! Decides whether the sender of a token holds the key that the token is bound to: DPoP (RFC 9449).
//!
//! Invariant: a proof passes once, within its time, for one method, one URL of ours and one token, by
//! the key that the token names. Where that cannot be known (no public URL is configured, the memory
//! of used proofs is full or was lost with a restart) the proof is refused. Takes `now`, reads no
//! clock; the one thing it keeps is which proofs were used.

mod nonce;
mod proof;
mod replay;
mod target;
mod thumbprint;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use jiff::{SignedDuration, Timestamp};
use thiserror::Error;

pub use self::{
    nonce::NonceKey,
    proof::ALGORITHMS,
    target::{PublicUrl, PublicUrlError},
    thumbprint::Thumbprint,
};
use self::{
    nonce::{Maker, Nonces},
    proof::Proof,
    replay::UsedProofs,
};
use super::{
    AuthError,
    keys::KeyFault,
    sha256,
    token::{AccessToken, Scheme},
};

/// The header of a proof.
pub const DPOP: HeaderName = HeaderName::from_static("dpop");

/// The header in which an answer carries a nonce for the next proof.
pub const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// What the configuration says of proofs for the process as a whole.
#[derive(Debug)]
pub struct DpopSettings {
    /// Where clients reach this gateway. A request's own `Host` does not count: whoever sends a
    /// captured proof writes that too.
    pub public_urls: Vec<PublicUrl>,
    /// What nonces are made with; nodes of one `state.key` accept each other's.
    pub nonces: NonceKey,
}

/// What an issuer's configuration says of proofs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DpopRules {
    /// Whether a token that is bound to no key is refused.
    pub required: bool,
    /// How old a proof may be.
    pub max_age: Duration,
    /// Whether each proof must carry a nonce of ours.
    pub nonce: bool,
}

/// What a verified token is bound to (its claim `cnf`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    /// The key of this thumbprint.
    Key(Thumbprint),
    /// Nothing: whoever has the token may use it.
    None,
}

impl DpopRules {
    /// How long after it was made a proof can pass, at the longest.
    pub const fn window(&self, leeway: Duration) -> Duration {
        self.max_age.saturating_add(leeway)
    }
}

impl Confirmation {
    /// The key whose holder must prove itself before such a token counts, if there is one.
    pub const fn demand(
        &self,
        scheme: Scheme,
        rules: &DpopRules,
    ) -> Result<Option<&Thumbprint>, AuthError> {
        match (self, scheme) {
            (Self::Key(key), Scheme::Dpop) => Ok(Some(key)),
            // A stolen token would be used like this.
            (Self::Key(_), Scheme::Bearer) => Err(AuthError::BoundKey),
            (Self::None, Scheme::Bearer) if !rules.required => Ok(None),
            (Self::None, Scheme::Bearer | Scheme::Dpop) => Err(AuthError::NotBound),
        }
    }
}

/// A request, as far as a proof speaks of it.
#[derive(Clone, Copy)]
pub struct Presented<'r> {
    /// The token that was sent.
    pub token: AccessToken<'r>,
    /// All headers, the proof's among them.
    pub headers: &'r HeaderMap,
    /// The method.
    pub method: &'r Method,
    /// The path, byte for byte as it is served.
    pub path: &'r str,
}

/// Checks proofs, and remembers those that passed. One serves all issuers.
pub struct ProofChecker {
    public_urls: Vec<PublicUrl>,
    nonces: Arc<Nonces>,
    used: Arc<UsedProofs>,
    started: Timestamp,
    /// The shortest time that proofs of an issuer's tokens could pass since `started`, by its `iss`. One
    /// entry for each issuer that a configuration has named since then.
    shortest: BTreeMap<String, Duration>,
}

impl ProofChecker {
    /// A checker that knows of no proof that was used before `started`.
    pub fn new(settings: DpopSettings, started: Timestamp) -> Self {
        Self {
            public_urls: settings.public_urls,
            nonces: Arc::new(Nonces::new(settings.nonces)),
            used: Arc::new(UsedProofs::new(replay::MAX_USED)),
            started,
            shortest: BTreeMap::new(),
        }
    }

    /// Where clients reach us.
    #[cfg(test)]
    pub(super) fn public_urls(&self) -> &[PublicUrl] {
        &self.public_urls
    }

    /// The same, where clients reach us at these URLs from now on. What was used is used for both.
    #[must_use]
    pub fn at(&self, public_urls: Vec<PublicUrl>) -> Self {
        Self {
            public_urls,
            nonces: Arc::clone(&self.nonces),
            used: Arc::clone(&self.used),
            started: self.started,
            shortest: self.shortest.clone(),
        }
    }

    /// The same for the tokens of these issuers: each by its `iss`, with the longest time in which a
    /// proof can pass.
    ///
    /// Where that is longer than it was, a proof that was forgotten in good time could pass again. So
    /// it is as after a restart then: a proof that may be old needs a nonce of from now on.
    #[must_use]
    pub fn serving(
        mut self,
        issuers: impl Iterator<Item = (String, Duration)>,
        now: Timestamp,
    ) -> Self {
        let windows: BTreeMap<String, Duration> = issuers.collect();
        let before = |issuer| self.shortest.get(issuer);
        let grown = |(issuer, window)| before(issuer).is_some_and(|shortest| shortest < window);
        if windows.iter().any(grown) {
            self.nonces = Arc::new(self.nonces.of_another_process());
            self.started = now;
            self.shortest = windows;
            return self;
        }
        for (issuer, window) in windows {
            let shortest = self.shortest.entry(issuer).or_insert(window);
            *shortest = window.min(*shortest);
        }
        self
    }

    /// Whether the request carries a proof by this key, good now and not used before (RFC 9449
    /// 4.3). The token itself must have been verified; `leeway` is its issuer's.
    pub fn check(
        &self,
        presented: &Presented<'_>,
        key: &Thumbprint,
        rules: &DpopRules,
        leeway: Duration,
        now: Timestamp,
    ) -> Result<(), ProofError> {
        if self.public_urls.is_empty() {
            return Err(ProofError::NoPublicUrl);
        }
        let proof = Proof::verify(the_one(presented.headers)?, key)?;
        if proof.method != presented.method.as_str() {
            return Err(ProofError::OtherMethod);
        }
        let leads_here = |url: &PublicUrl| url.leads_to(&proof.url, presented.path);
        if !self.public_urls.iter().any(leads_here) {
            return Err(ProofError::OtherUrl);
        }
        if proof.token_hash != URL_SAFE_NO_PAD.encode(sha256(presented.token.as_bytes())) {
            return Err(ProofError::OtherToken);
        }
        let ends = fresh_until(proof.issued, rules.max_age, leeway, now)?;
        self.check_nonce(&proof, rules, leeway, now)?;
        // Last, so that only what passes takes memory, and a client that must add a nonce may keep
        // the rest of its proof.
        self.used.insert(key, &proof.id, ends, now.as_second())
    }

    /// A nonce for the next proofs, for the header [`DPOP_NONCE`].
    pub fn nonce(&self, now: Timestamp) -> HeaderValue {
        let nonce = self.nonces.make(now);
        // Letters, digits, `-` and `_`: there is nothing to refuse.
        HeaderValue::try_from(nonce).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    fn check_nonce(
        &self,
        proof: &Proof,
        rules: &DpopRules,
        leeway: Duration,
        now: Timestamp,
    ) -> Result<(), ProofError> {
        // A proof of before the start may have been used then, and nobody remembers; one that was
        // issued later than any clock that we bear with could say then was not. So a proof that may
        // be old needs a nonce that did not exist before.
        let may_be_old = proof.issued.duration_since(self.started) <= signed(leeway);
        let maker = match proof.nonce.as_deref() {
            None if may_be_old || rules.nonce => return Err(ProofError::NonceRequired),
            None => return Ok(()),
            Some(nonce) => self.nonces.maker(nonce, now),
        };
        match maker {
            Some(Maker::ThisProcess) => Ok(()),
            Some(Maker::AnotherProcess) if !may_be_old => Ok(()),
            // One that has run out is the common case, which a new one mends (RFC 9449, 9).
            Some(Maker::AnotherProcess) | None => Err(ProofError::NonceRequired),
        }
    }
}

impl fmt::Debug for ProofChecker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProofChecker")
            .field("public_urls", &self.public_urls)
            .finish_non_exhaustive()
    }
}

/// The one proof of a request: of two, one might be checked here and the other believed elsewhere.
fn the_one(headers: &HeaderMap) -> Result<&[u8], ProofError> {
    let mut values = headers.get_all(DPOP).iter();
    let value = values.next().ok_or(ProofError::Missing)?;
    if values.next().is_some() {
        return Err(ProofError::Doubled);
    }
    Ok(value.as_bytes())
}

/// The last second in which a proof of this time can pass, when it can now.
fn fresh_until(
    issued: Timestamp,
    max_age: Duration,
    leeway: Duration,
    now: Timestamp,
) -> Result<i64, ProofError> {
    let age = now.duration_since(issued);
    let longest = signed(max_age.saturating_add(leeway));
    if age > longest {
        return Err(ProofError::Stale);
    }
    if age < -signed(leeway) {
        return Err(ProofError::FromFuture);
    }
    let started_second = i64::from(longest.subsec_nanos() > 0);
    let seconds = longest.as_secs().saturating_add(started_second);
    Ok(issued.as_second().saturating_add(seconds))
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

/// Why the sender of a good token did not prove that the token is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProofError {
    /// The signature is not the embedded key's.
    #[error("the proof's signature is not valid")]
    BadSignature,
    /// There are several headers.
    #[error("there is more than one proof")]
    Doubled,
    /// `iat` lies in the future.
    #[error("the proof was made in the future")]
    FromFuture,
    /// As many proofs are remembered as fit; one that could not be remembered could be used twice.
    #[error("no more used proofs can be remembered")]
    Full,
    /// A claim is missing, of the wrong type or too long.
    #[error("a claim of the proof is missing or malformed")]
    InvalidClaim,
    /// The embedded key is none, or not one that may be used.
    #[error("the proof's key is refused: {0}")]
    InvalidKey(KeyFault),
    /// Not three parts of base64url, or not JSON.
    #[error("the proof is malformed")]
    Malformed,
    /// There is no proof.
    #[error("there is no proof")]
    Missing,
    /// No nonce, or none that counts now.
    #[error("the proof needs a nonce of the gateway's")]
    NonceRequired,
    /// Nobody said where clients reach us, so no proof can be told to be for us.
    #[error("server.public_urls is empty, so no proof can be checked")]
    NoPublicUrl,
    /// The token is bound to another key.
    #[error("the proof is by another key than the token's")]
    OtherKey,
    /// `htm` is another method.
    #[error("the proof is for another method")]
    OtherMethod,
    /// `ath` is another token's.
    #[error("the proof is for another token")]
    OtherToken,
    /// `htu` is another URL.
    #[error("the proof is for another url")]
    OtherUrl,
    /// Not a public-key algorithm that is supported.
    #[error("the proof's algorithm is not accepted")]
    RefusedAlgorithm,
    /// The header asks for what is not done here: `crit`, `b64`, `enc`, `zip`.
    #[error("the proof's header asks for what is not supported")]
    RefusedHeader,
    /// `typ` is another.
    #[error("the proof is of another type")]
    RefusedType,
    /// It passed before.
    #[error("the proof was used before")]
    Replayed,
    /// `iat` lies too far back.
    #[error("the proof is too old")]
    Stale,
    /// The proof is longer than is looked at.
    #[error("the proof is too long")]
    TooLong,
}

impl ProofError {
    /// The reason in one word, of a closed set: for audit events and counters.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::BadSignature => "proof_bad_signature",
            Self::Doubled => "proof_doubled",
            Self::FromFuture => "proof_from_future",
            Self::Full => "proof_memory_full",
            Self::InvalidClaim => "proof_invalid_claim",
            Self::InvalidKey(_) => "proof_invalid_key",
            Self::Malformed => "proof_malformed",
            Self::Missing => "proof_missing",
            Self::NonceRequired => "proof_nonce_required",
            Self::NoPublicUrl => "proof_no_public_url",
            Self::OtherKey => "proof_other_key",
            Self::OtherMethod => "proof_other_method",
            Self::OtherToken => "proof_other_token",
            Self::OtherUrl => "proof_other_url",
            Self::RefusedAlgorithm => "proof_refused_algorithm",
            Self::RefusedHeader => "proof_refused_header",
            Self::RefusedType => "proof_refused_type",
            Self::Replayed => "proof_replayed",
            Self::Stale => "proof_stale",
            Self::TooLong => "proof_too_long",
        }
    }
}
