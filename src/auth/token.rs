//! From the request's headers to a token's three parts, and its own header before verification.
//!
//! Decides shape only: one header, one scheme, bounded length, strict base64url, a header that asks
//! for nothing we don't do. What is read here is written by whoever sent it: it may choose among
//! configured keys, and proves nothing. Key material and URLs in a token's header are never used.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, header::AUTHORIZATION};
use jsonwebtoken::Algorithm;

use super::{
    AuthError,
    json::{Object, Value},
    keys::parse_algorithm,
};

/// The longest token that is looked at, before anything of it is decoded.
pub const MAX_TOKEN: usize = 8 * 1024;

/// The longest `kid`, in a token and in a key set.
pub(super) const MAX_KID: usize = 256;

/// How a token is presented: what its `Authorization` header says in front of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `Bearer` (RFC 6750): whoever has the token may use it.
    Bearer,
    /// `DPoP` (RFC 9449): with a proof that the sender holds the token's key.
    Dpop,
}

/// The text of an access token and its scheme: not verified, and never printed.
#[derive(Clone, Copy)]
pub struct AccessToken<'a> {
    scheme: Scheme,
    text: &'a [u8],
}

impl<'a> AccessToken<'a> {
    /// The token of the one `Authorization` header; a token anywhere else does not exist.
    pub fn from_headers(headers: &'a HeaderMap) -> Result<Self, AuthError> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let value = values.next().ok_or(AuthError::Missing)?.as_bytes();
        // Two tokens, one checked here and the other believed elsewhere: a known way in.
        if values.next().is_some() {
            return Err(AuthError::DoubledHeader);
        }
        let (scheme, token) = [("bearer ", Scheme::Bearer), ("dpop ", Scheme::Dpop)]
            .into_iter()
            .find_map(|(name, scheme)| Some((scheme, after(name, value)?)))
            .ok_or(AuthError::NotBearer)?;
        if token.len() > MAX_TOKEN {
            return Err(AuthError::TooLong);
        }
        // All of them without an early end: the compiler makes vector code of it.
        let odd = token.iter().filter(|b| !is_token_character(**b)).count();
        if token.is_empty() || odd > 0 {
            return Err(AuthError::MalformedToken);
        }
        Ok(Self {
            scheme,
            text: token,
        })
    }

    /// How it is presented.
    pub const fn scheme(self) -> Scheme {
        self.scheme
    }

    pub(super) const fn as_bytes(self) -> &'a [u8] {
        self.text
    }

    /// Header and payload, decoded; the signature is left to who verifies it.
    pub(super) fn decode(self) -> Result<(Vec<u8>, Vec<u8>), AuthError> {
        let mut parts = self.text.split(|b| *b == b'.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(AuthError::MalformedToken);
        };
        if signature.is_empty() {
            return Err(AuthError::MalformedToken);
        }
        Ok((decode(header)?, decode(payload)?))
    }

    /// What was signed, and the signature as text.
    pub(super) fn signed(self) -> Option<(&'a [u8], &'a str)> {
        let text = str::from_utf8(self.text).ok()?;
        let (message, signature) = text.rsplit_once('.')?;
        Some((message.as_bytes(), signature))
    }
}

impl fmt::Debug for AccessToken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// What follows this name, which is in lower case here and in any case there.
fn after<'v>(name: &str, value: &'v [u8]) -> Option<&'v [u8]> {
    let (start, rest) = value.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name.as_bytes()).then_some(rest)
}

/// `b64token` of RFC 6750, which is RFC 9110's `token68`; what of it is no base64url falls when the parts are decoded.
fn is_token_character(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=')
}

fn decode(part: &[u8]) -> Result<Vec<u8>, AuthError> {
    // The engine refuses padding and non-zero spare bits, so that a token has one spelling.
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| AuthError::MalformedToken)
}

/// What a token's header says of itself, before verification: good for choosing a key only.
pub(super) struct UnverifiedHeader {
    pub(super) algorithm: Algorithm,
    pub(super) kid: Option<String>,
    kind: Option<String>,
}

impl UnverifiedHeader {
    pub(super) fn parse(json: &[u8]) -> Result<Self, AuthError> {
        let object = Object::parse(json).map_err(|_| AuthError::MalformedHeader)?;
        // Each asks for other rules than a plain signed token's; nothing here knows those.
        if ["crit", "b64", "enc", "zip"].iter().any(|n| object.has(n)) {
            return Err(AuthError::RefusedHeader);
        }
        let algorithm = text(&object, "alg")?.ok_or(AuthError::MalformedHeader)?;
        let algorithm = parse_algorithm(algorithm).ok_or(AuthError::RefusedAlgorithm)?;
        let kid = text(&object, "kid")?;
        if kid.is_some_and(|kid| kid.len() > MAX_KID) {
            return Err(AuthError::MalformedHeader);
        }
        if text(&object, "cty")?.is_some_and(|kind| same_type(kind, "JWT")) {
            return Err(AuthError::RefusedHeader);
        }
        Ok(Self {
            algorithm,
            kid: kid.map(str::to_owned),
            kind: text(&object, "typ")?.map(str::to_owned),
        })
    }

    /// Whether the token's `typ` is among an issuer's; a token without one is a plain `JWT`.
    pub(super) fn is_one_of(&self, types: &[String]) -> bool {
        let kind = self.kind.as_deref().unwrap_or("JWT");
        types.iter().any(|known| same_type(kind, known))
    }
}

/// A member that is absent or a string.
fn text<'o>(object: &'o Object<'_>, name: &str) -> Result<Option<&'o str>, AuthError> {
    object
        .get(name)
        .map(|value| Value::text(value).ok_or(AuthError::MalformedHeader))
        .transpose()
}

/// Media types as RFC 7515 4.1.9 compares them: in any letter case, `application/` left out or not.
fn same_type(one: &str, other: &str) -> bool {
    bare_type(one).eq_ignore_ascii_case(bare_type(other))
}

fn bare_type(kind: &str) -> &str {
    match kind.split_once('/') {
        Some((tree, bare)) if tree.eq_ignore_ascii_case("application") => bare,
        _ => kind,
    }
}
