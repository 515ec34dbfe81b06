//! Reads a proof: a token of its own, signed by the key that stands in its header (RFC 9449 4.2).
//!
//! Invariant: a [`Proof`] was signed by the private half of the key that the caller names, under an
//! algorithm that fits it, and says everything that a proof must say; whether that is true of the
//! request is judged by who asked. Nothing but the key's own members is read of the embedded key.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use jsonwebtoken::AlgorithmFamily;

use super::{ProofError, Thumbprint};
use crate::auth::{
    claims::time,
    json::{Object, Value},
    keys::{KeyFault, VerifyingKey, parse_algorithm},
};

/// The longest proof that is looked at. One with an RSA key of 4096 bits has 2 KiB.
const MAX_PROOF: usize = 8 * 1024;

/// The longest `jti` in bytes; a UUID has 36.
const MAX_ID: usize = 256;

/// The algorithms of proofs, as a challenge lists them: all that are made with a private key.
pub const ALGORITHMS: &str = "ES256 ES384 EdDSA PS256 PS384 PS512 RS256 RS384 RS512";

/// What a proof says, signed by the right key.
pub(super) struct Proof {
    /// `htm`: the method that it is for.
    pub(super) method: String,
    /// `htu`: the URL that it is for.
    pub(super) url: String,
    /// `ath`: the hash of the token that it is for, in base64url.
    pub(super) token_hash: String,
    /// `iat`.
    pub(super) issued: Timestamp,
    /// `jti`.
    pub(super) id: String,
    pub(super) nonce: Option<String>,
}

impl Proof {
    /// The proof that this text is, when it is one by `key`.
    pub(super) fn verify(text: &[u8], key: &Thumbprint) -> Result<Self, ProofError> {
        if text.len() > MAX_PROOF {
            return Err(ProofError::TooLong);
        }
        let text = str::from_utf8(text).map_err(|_| ProofError::Malformed)?;
        let (message, signature) = text.rsplit_once('.').ok_or(ProofError::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(ProofError::Malformed)?;
        let (header, payload) = (decode(header)?, decode(payload)?);
        let own = embedded_key(&header, key)?;
        if !own.has_signed(message.as_bytes(), signature) {
            return Err(ProofError::BadSignature);
        }
        let claims = Object::parse(&payload).map_err(|_| ProofError::Malformed)?;
        Self::read(&claims).ok_or(ProofError::InvalidClaim)
    }

    fn read(claims: &Object<'_>) -> Option<Self> {
        let text = |name| claims.get(name)?.text().map(str::to_owned);
        Some(Self {
            method: text("htm")?,
            url: text("htu")?,
            token_hash: text("ath")?,
            issued: time(claims, "iat").ok()??,
            id: text("jti").filter(|id| (1..=MAX_ID).contains(&id.len()))?,
            nonce: match claims.get("nonce") {
                Some(nonce) => Some(nonce.text()?.to_owned()),
                None => None,
            },
        })
    }
}

/// The key in a proof's header, which must be the one that is asked for. That is seen before the
/// signature is worked out, so that nobody chooses a key that is slow to use.
fn embedded_key(header: &[u8], asked: &Thumbprint) -> Result<VerifyingKey, ProofError> {
    let header = Object::parse(header).map_err(|_| ProofError::Malformed)?;
    let text = |name| header.get(name).and_then(Value::text);
    if text("typ") != Some("dpop+jwt") {
        return Err(ProofError::RefusedType);
    }
    // Each asks for other rules than a plain signed token's; nothing here knows those.
    if ["crit", "b64", "enc", "zip"].iter().any(|n| header.has(n)) {
        return Err(ProofError::RefusedHeader);
    }
    let algorithm = text("alg")
        .and_then(parse_algorithm)
        // Whoever can check a MAC can make one: it proves nothing to us.
        .filter(|algorithm| algorithm.family() != AlgorithmFamily::Hmac)
        .ok_or(ProofError::RefusedAlgorithm)?;
    let missing = ProofError::InvalidKey(KeyFault::Member { name: "jwk" });
    let jwk = header.get("jwk").and_then(Value::object).ok_or(missing)?;
    let key = VerifyingKey::from_jwk(algorithm, jwk).map_err(ProofError::InvalidKey)?;
    if Thumbprint::of(jwk).as_ref() != Some(asked) {
        return Err(ProofError::OtherKey);
    }
    Ok(key)
}

fn decode(part: &str) -> Result<Vec<u8>, ProofError> {
    // The engine refuses padding and non-zero spare bits, so that a proof has one spelling.
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| ProofError::Malformed)
}
