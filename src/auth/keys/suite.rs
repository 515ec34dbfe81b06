//! The algorithms that are supported at all, and what each asks of a key.
//!
//! Invariant: a closed table. `none` is not in it, and what is not in it does not exist here.

use jsonwebtoken::Algorithm;

use super::KeyError;

/// What an algorithm asks of a key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ed25519,
    Hmac { bytes: usize },
    P256,
    P384,
    Rsa,
}

pub(super) struct Suite {
    pub(super) name: &'static str,
    pub(super) algorithm: Algorithm,
    pub(super) kind: Kind,
}

const fn suite(name: &'static str, algorithm: Algorithm, kind: Kind) -> Suite {
    Suite {
        name,
        algorithm,
        kind,
    }
}

/// A secret is as long as its hash at least (RFC 7518 3.2).
static SUITES: [Suite; 12] = [
    suite("HS256", Algorithm::HS256, Kind::Hmac { bytes: 32 }),
    suite("HS384", Algorithm::HS384, Kind::Hmac { bytes: 48 }),
    suite("HS512", Algorithm::HS512, Kind::Hmac { bytes: 64 }),
    suite("RS256", Algorithm::RS256, Kind::Rsa),
    suite("RS384", Algorithm::RS384, Kind::Rsa),
    suite("RS512", Algorithm::RS512, Kind::Rsa),
    suite("PS256", Algorithm::PS256, Kind::Rsa),
    suite("PS384", Algorithm::PS384, Kind::Rsa),
    suite("PS512", Algorithm::PS512, Kind::Rsa),
    suite("ES256", Algorithm::ES256, Kind::P256),
    suite("ES384", Algorithm::ES384, Kind::P384),
    suite("EdDSA", Algorithm::EdDSA, Kind::Ed25519),
];

/// The suite of this exact name (letter case counts).
pub(super) fn by_name(name: &str) -> Option<&'static Suite> {
    SUITES.iter().find(|suite| suite.name == name)
}

/// The suites of a configured list, each once, all of one family.
pub(super) fn suites(algorithms: &[Algorithm]) -> Result<Vec<&'static Suite>, KeyError> {
    let mut found: Vec<&'static Suite> = Vec::new();
    for algorithm in algorithms {
        let suite = SUITES.iter().find(|suite| suite.algorithm == *algorithm);
        let suite = suite.ok_or(KeyError::UnknownAlgorithm)?;
        if !found.iter().any(|other| other.algorithm == *algorithm) {
            found.push(suite);
        }
    }
    let is_hmac = |suite: &&Suite| matches!(suite.kind, Kind::Hmac { .. });
    let hmac = found.iter().filter(|suite| is_hmac(suite)).count();
    if found.is_empty() {
        return Err(KeyError::NoAlgorithm);
    }
    if hmac != 0 && hmac != found.len() {
        return Err(KeyError::MixedFamilies);
    }
    Ok(found)
}

pub(super) fn public_suites(algorithms: &[Algorithm]) -> Result<Vec<&'static Suite>, KeyError> {
    let suites = suites(algorithms)?;
    match suites.iter().find(|s| matches!(s.kind, Kind::Hmac { .. })) {
        Some(suite) => Err(KeyError::PublicKeyForHmac { name: suite.name }),
        None => Ok(suites),
    }
}

pub(super) fn check_secret(suite: &Suite, secret: &[u8]) -> Result<(), KeyError> {
    let name = suite.name;
    let Kind::Hmac { bytes: needed } = suite.kind else {
        return Err(KeyError::SecretForPublicKey { name });
    };
    if secret.len() < needed {
        return Err(KeyError::WeakSecret { name, needed });
    }
    Ok(())
}
