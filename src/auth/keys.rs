//! The keys that an issuer's tokens are verified with, each bound to the algorithms that the
//! configuration lists; and, for development, the keys that tokens are signed with.
//!
//! Invariant: a key in a [`KeySet`] fits its algorithm and is strong enough for it; one that does
//! not, or that says of itself that it serves something else, is refused here, at load, and not at
//! the first token. Pure: takes bytes, reads no file. Errors and `Debug` show no key material.

mod jwk;
mod material;
mod suite;

use std::fmt;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, EncodingKey, Header, crypto::verify};
use rustls_pki_types::pem::SectionKind;
use thiserror::Error;

use self::{
    material::{curve_key, ec_signer, one_section, rsa_from_der},
    suite::{Kind, check_secret, public_suites, suites},
};
use super::json::Object;

/// The algorithm of this name, as the configuration and tokens write it; never `none`.
pub fn parse_algorithm(name: &str) -> Option<Algorithm> {
    suite::by_name(name).map(|suite| suite.algorithm)
}

/// The keys of one issuer.
pub struct KeySet {
    keys: Vec<VerifyingKey>,
}

/// One key for one algorithm.
pub(super) struct VerifyingKey {
    kid: Option<String>,
    algorithm: Algorithm,
    material: DecodingKey,
}

impl KeySet {
    /// The keys that a shared secret makes, one for each of these HMAC algorithms.
    pub fn from_secret(algorithms: &[Algorithm], secret: &[u8]) -> Result<Self, KeyError> {
        // Whoever has the public key could sign with it: the oldest of all forgeries.
        if secret.trim_ascii_start().starts_with(b"-----BEGIN ") {
            return Err(KeyError::SecretIsPem);
        }
        let mut keys = Vec::new();
        for suite in suites(algorithms)? {
            check_secret(suite, secret)?;
            keys.push(VerifyingKey {
                kid: None,
                algorithm: suite.algorithm,
                material: DecodingKey::from_secret(secret),
            });
        }
        Ok(Self { keys })
    }

    /// The key in one PEM section `PUBLIC KEY`, for each of these algorithms.
    pub fn from_public_pem(algorithms: &[Algorithm], pem: &[u8]) -> Result<Self, KeyError> {
        let suites = public_suites(algorithms)?;
        let (section, der) = one_section(pem)?;
        if section != SectionKind::PublicKey {
            return Err(KeyError::NotAPublicKey);
        }
        let mut keys = Vec::new();
        for suite in suites {
            let material = match suite.kind {
                Kind::Rsa => rsa_from_der(&der)?,
                Kind::Ed25519 | Kind::Hmac { .. } | Kind::P256 | Kind::P384 => {
                    curve_key(suite.kind, &der).ok_or(KeyFault::Unfit { name: suite.name })?
                }
            };
            keys.push(VerifyingKey {
                kid: None,
                algorithm: suite.algorithm,
                material,
            });
        }
        Ok(Self { keys })
    }

    /// The keys of a JSON Web Key Set (RFC 7517). One bad key refuses the set: the file is the
    /// operator's, who can mend it.
    pub fn from_jwks(algorithms: &[Algorithm], json: &[u8]) -> Result<Self, KeyError> {
        let suites = public_suites(algorithms)?;
        jwk::read(&suites, json).map(|keys| Self { keys })
    }

    /// Those keys of a set that an issuer publishes which serve these algorithms. Other keys are
    /// passed over; the set is refused whole where it gives a secret away, is ambiguous, or holds
    /// nothing for us.
    pub(super) fn from_published_jwks(
        algorithms: &[Algorithm],
        json: &[u8],
    ) -> Result<Self, KeyError> {
        let suites = public_suites(algorithms)?;
        jwk::read_published(&suites, json).map(|keys| Self { keys })
    }

    /// How many keys there are, one that serves several algorithms counted for each.
    pub(super) const fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether every token is judged alike by both, in whatever order the keys stand.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        let has = |key: &VerifyingKey| other.keys.iter().any(|known| known.is_same_as(key));
        // No two keys of a set share `kid` and algorithm, so equal numbers make it a bijection.
        self.len() == other.len() && self.keys.iter().all(has)
    }

    /// The names of the keys that have one.
    pub(super) fn kids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().filter_map(VerifyingKey::kid)
    }

    /// Whether any key is bound to this algorithm.
    pub(super) fn serves(&self, algorithm: Algorithm) -> bool {
        self.of(algorithm).next().is_some()
    }

    /// The one key that a token of this algorithm and `kid` can mean: the key of that name, or the
    /// only candidate among those that have no name (all of them, where the token names none).
    pub(super) fn find(&self, algorithm: Algorithm, kid: Option<&str>) -> Option<&VerifyingKey> {
        let named = |key: &&VerifyingKey| kid.is_some() && key.kid.as_deref() == kid;
        if let Some(key) = self.of(algorithm).find(named) {
            return Some(key);
        }
        let mut candidates = self
            .of(algorithm)
            .filter(|key| kid.is_none() || key.kid.is_none());
        let key = candidates.next()?;
        candidates.next().is_none().then_some(key)
    }

    pub(super) fn of(&self, algorithm: Algorithm) -> impl Iterator<Item = &VerifyingKey> {
        self.keys
            .iter()
            .filter(move |key| key.algorithm == algorithm)
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.keys.iter().map(|key| key.algorithm))
            .finish()
    }
}

impl VerifyingKey {
    /// Whether this key has made the signature (base64url) of this message, under the one algorithm
    /// that it is bound to. Nothing of a token's own header has a say in it.
    pub(super) fn has_signed(&self, message: &[u8], signature: &str) -> bool {
        // A signature that is no base64url, or a key that doesn't work, has signed nothing.
        verify(signature, message, &self.material, self.algorithm).unwrap_or(false)
    }

    /// The key of one JWK for one public-key algorithm, where all that it says of itself agrees.
    pub(super) fn from_jwk(algorithm: Algorithm, jwk: &Object<'_>) -> Result<Self, KeyFault> {
        let suites = public_suites(&[algorithm]).map_err(|_| KeyFault::Symmetric)?;
        let key = jwk::read_one(&suites, jwk)?.pop();
        key.ok_or(KeyFault::Unlisted)
    }

    pub(super) fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    fn is_same_as(&self, other: &Self) -> bool {
        use DecodingKeyKind::{RsaModulusExponent, SecretOrDer};
        let same_material = match (self.material.kind(), other.material.kind()) {
            (SecretOrDer(one), SecretOrDer(two)) => one == two,
            (RsaModulusExponent { n, e }, RsaModulusExponent { n: n2, e: e2 }) => {
                n == n2 && e == e2
            }
            (SecretOrDer(_), RsaModulusExponent { .. })
            | (RsaModulusExponent { .. }, SecretOrDer(_)) => false,
        };
        same_material && self.algorithm == other.algorithm && self.kid == other.kid
    }
}

/// A key that signs tokens: for development issuers and tests.
pub struct SigningKey {
    algorithm: Algorithm,
    material: EncodingKey,
}

impl SigningKey {
    /// A key made of a shared secret.
    pub fn from_secret(algorithm: Algorithm, secret: &[u8]) -> Result<Self, KeyError> {
        for suite in suites(&[algorithm])? {
            check_secret(suite, secret)?;
        }
        Ok(Self {
            algorithm,
            material: EncodingKey::from_secret(secret),
        })
    }

    /// The private key of a PEM file: PKCS#8, or what OpenSSL calls `RSA` or `EC PRIVATE KEY`.
    pub fn from_private_pem(algorithm: Algorithm, pem: &[u8]) -> Result<Self, KeyError> {
        let (section, der) = one_section(pem)?;
        if ![
            SectionKind::PrivateKey,
            SectionKind::RsaPrivateKey,
            SectionKind::EcPrivateKey,
        ]
        .contains(&section)
        {
            return Err(KeyError::NotAPrivateKey);
        }
        let suites = public_suites(&[algorithm])?;
        let suite = suites.first().ok_or(KeyError::NoAlgorithm)?;
        let unfit = KeyFault::Unfit { name: suite.name };
        let material = match suite.kind {
            Kind::Hmac { .. } => None,
            Kind::P256 => ec_signer(&ECDSA_P256_SHA256_FIXED_SIGNING, &der),
            Kind::P384 => ec_signer(&ECDSA_P384_SHA384_FIXED_SIGNING, &der),
            Kind::Ed25519 => Some(EncodingKey::from_ed_der(&der)),
            Kind::Rsa => EncodingKey::from_rsa_pem(pem).ok(),
        };
        let material = material.ok_or(unfit)?;
        // The library looks at the key only when it signs, so let it.
        jsonwebtoken::crypto::sign(b"trial", &material, algorithm).map_err(|_| unfit)?;
        Ok(Self {
            algorithm,
            material,
        })
    }

    /// A token of these claims, with `typ` JWT and no `kid`.
    pub fn sign(&self, claims: &serde_json::Value) -> Result<String, KeyError> {
        self.sign_under(&Header::new(self.algorithm), claims)
    }

    pub(super) fn sign_under(
        &self,
        header: &Header,
        claims: &serde_json::Value,
    ) -> Result<String, KeyError> {
        jsonwebtoken::encode(header, claims, &self.material).map_err(|_| KeyError::Signing)
    }

    /// The algorithm that it signs with.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Why a key, or a file of keys, is refused. Names the key and the matter, never a byte of it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    /// The text is not JSON, or an object in it has a name twice.
    #[error("line {line}, column {column}: this is not JSON, or a name stands twice in an object")]
    Json {
        /// Line, from 1; 0 where the text is not UTF-8.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// A key of a set is refused.
    #[error("{key}: {fault}")]
    Jwk {
        /// Which one: its place, and its `kid` where that is fit to be shown.
        key: String,
        /// Why.
        fault: KeyFault,
    },
    /// The one key of the file is refused.
    #[error(transparent)]
    Key(#[from] KeyFault),
    /// HMAC and public-key algorithms are listed side by side.
    #[error("HMAC and public-key algorithms are listed together; list one family")]
    MixedFamilies,
    /// No algorithm is listed.
    #[error("no algorithm is listed")]
    NoAlgorithm,
    /// The PEM text holds something else than one private key.
    #[error("expected a PRIVATE KEY in PEM form, not encrypted")]
    NotAPrivateKey,
    /// The PEM text holds something else than one public key.
    #[error("expected a PUBLIC KEY in PEM form, not a private key or certificate")]
    NotAPublicKey,
    /// The JSON is no key set.
    #[error("expected an object with an array `keys` of 1 to 100 keys")]
    NotASet,
    /// No key of the set serves the issuer's algorithms.
    #[error("no key serves the issuer's algorithms")]
    NothingUsable,
    /// The text does not hold exactly one PEM section.
    #[error("expected exactly one key in PEM form")]
    Pem,
    /// An HMAC algorithm is listed for a public key.
    #[error("a public key does not serve {name}; it takes a secret")]
    PublicKeyForHmac {
        /// The algorithm.
        name: &'static str,
    },
    /// A public-key algorithm is listed for a secret.
    #[error("a secret does not serve {name}; it takes a public key")]
    SecretForPublicKey {
        /// The algorithm.
        name: &'static str,
    },
    /// The secret is a key in PEM form, which others may know.
    #[error("the secret is a key in PEM form; use public_key for it, or a random secret")]
    SecretIsPem,
    /// The key would not sign.
    #[error("the key does not sign")]
    Signing,
    /// An algorithm that is not supported.
    #[error("an algorithm is not supported")]
    UnknownAlgorithm,
    /// The secret is too short.
    #[error("a secret for {name} needs at least {needed} bytes")]
    WeakSecret {
        /// The algorithm.
        name: &'static str,
        /// How many bytes it takes.
        needed: usize,
    },
}

/// What is wrong with one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyFault {
    /// `kid` stands at two keys, or two keys without one serve the same algorithm.
    #[error("another key has the same kid, or neither has one to tell them apart")]
    Ambiguous,
    /// A member has another type, length or encoding than RFC 7518 gives it.
    #[error("`{name}` is missing or malformed")]
    Member {
        /// The member.
        name: &'static str,
    },
    /// `key_ops` is not about verifying.
    #[error("`key_ops` does not say verify alone")]
    Operations,
    /// There is private material in it.
    #[error("it holds a private key; publish the public half only")]
    Private,
    /// It is a shared secret.
    #[error("it is a symmetric key; a key set holds public keys")]
    Symmetric,
    /// It serves none of the issuer's algorithms.
    #[error("its kty, crv and alg fit none of the issuer's algorithms")]
    Unlisted,
    /// The key cannot be used with the algorithm.
    #[error("the key does not fit {name}, or is no valid key")]
    Unfit {
        /// The algorithm.
        name: &'static str,
    },
    /// `use` is not `sig`.
    #[error("`use` is not sig")]
    Use,
    /// An RSA key that is too short, or longer than is supported.
    #[error("an RSA key has 2048 to 8192 bits")]
    WeakRsa,
}

#[cfg(test)]
mod tests;
