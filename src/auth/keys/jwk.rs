//! Reads a JSON Web Key Set: key by key, each checked against what it says of itself.
//!
//! Invariant: a key comes out for an algorithm only if `kty`, `crv`, `alg`, `use` and `key_ops` all
//! agree that it verifies signatures of that algorithm, and the issuer's configuration lists it.
//! Certificates and URLs in a key are not read. An operator's file is read strictly, whole or not at
//! all; of a set that an issuer publishes for everybody, keys that are not for us are passed over.

use std::collections::HashSet;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::DecodingKey;

use super::{
    KeyError, KeyFault, VerifyingKey,
    material::{curve_key, rsa_key},
    suite::{Kind, Suite},
};
use crate::auth::{
    json::{Object, Value},
    token::MAX_KID,
};

/// More keys than any issuer publishes; all of them are kept in memory.
const MAX_KEYS: usize = 100;

/// The keys of an operator's set, each bound to those of `suites` that it serves.
pub(super) fn read(suites: &[&'static Suite], json: &[u8]) -> Result<Vec<VerifyingKey>, KeyError> {
    let set = parse(json)?;
    let members = members(&set)?;
    let mut keys = Vec::new();
    for (index, member) in members.iter().enumerate() {
        let read = read_member(suites, member).map_err(|fault| refused(index, member, fault))?;
        keys.push((index, member, read));
    }
    distinct(members, keys)
}

/// The keys of a published set that serve one of `suites`. A key that is none of ours, or malformed,
/// does not cost us the others; one that says that its publisher has lost control does.
pub(super) fn read_published(
    suites: &[&'static Suite],
    json: &[u8],
) -> Result<Vec<VerifyingKey>, KeyError> {
    let set = parse(json)?;
    let members = members(&set)?;
    let mut keys = Vec::new();
    for (index, member) in members.iter().enumerate() {
        match read_member(suites, member) {
            Ok(read) => keys.push((index, member, read)),
            // A secret that everybody can read: whoever published it may sign with it elsewhere.
            Err(fault @ (KeyFault::Private | KeyFault::Symmetric)) => {
                return Err(refused(index, member, fault));
            }
            Err(
                KeyFault::Ambiguous
                | KeyFault::Member { .. }
                | KeyFault::Operations
                | KeyFault::Unfit { .. }
                | KeyFault::Unlisted
                | KeyFault::Use
                | KeyFault::WeakRsa,
            ) => {}
        }
    }
    if keys.is_empty() {
        return Err(KeyError::NothingUsable);
    }
    distinct(members, keys)
}

fn parse(json: &[u8]) -> Result<Object<'_>, KeyError> {
    Object::parse(json).map_err(|fault| KeyError::Json {
        line: fault.line,
        column: fault.column,
    })
}

fn members<'s, 'j>(set: &'s Object<'j>) -> Result<&'s [Value<'j>], KeyError> {
    match set.get("keys") {
        Some(Value::Array(members)) if (1..=MAX_KEYS).contains(&members.len()) => Ok(members),
        _ => Err(KeyError::NotASet),
    }
}

/// The keys, if no token can mean two of them: the first would verify, the second never.
fn distinct(
    members: &[Value<'_>],
    keys: Vec<(usize, &Value<'_>, Vec<VerifyingKey>)>,
) -> Result<Vec<VerifyingKey>, KeyError> {
    let mut all = Vec::new();
    let mut taken = HashSet::new();
    for (index, member, keys) in keys {
        for key in keys {
            if !taken.insert((key.kid.clone(), key.algorithm)) {
                return Err(refused(index, member, KeyFault::Ambiguous));
            }
            all.push(key);
        }
    }
    check_kids(members).map(|()| all)
}

fn refused(index: usize, member: &Value<'_>, fault: KeyFault) -> KeyError {
    KeyError::Jwk {
        key: describe(index, member),
        fault,
    }
}

/// A `kid` names one key, whatever algorithms the keys are for.
fn check_kids(members: &[Value<'_>]) -> Result<(), KeyError> {
    let mut seen = HashSet::new();
    for (index, member) in members.iter().enumerate() {
        if kid_of(member).is_some_and(|kid| !seen.insert(kid)) {
            return Err(refused(index, member, KeyFault::Ambiguous));
        }
    }
    Ok(())
}

fn read_member(
    suites: &[&'static Suite],
    member: &Value<'_>,
) -> Result<Vec<VerifyingKey>, KeyFault> {
    let jwk = member.object().ok_or(KeyFault::Member { name: "kty" })?;
    read_one(suites, jwk)
}

/// One key, bound to each of `suites` that it serves: at least one.
pub(super) fn read_one(
    suites: &[&'static Suite],
    jwk: &Object<'_>,
) -> Result<Vec<VerifyingKey>, KeyFault> {
    // Before all else: what is wrong besides must not hide that a secret stands here.
    check_public(jwk)?;
    let kid = optional(jwk, "kid")?;
    if kid.is_some_and(|kid| !(1..=MAX_KID).contains(&kid.len())) {
        return Err(KeyFault::Member { name: "kid" });
    }
    let kind = kind(jwk)?;
    check_purpose(jwk)?;
    let alg = optional(jwk, "alg")?;
    let material = material(kind, jwk)?;
    let keys: Vec<VerifyingKey> = suites
        .iter()
        .filter(|suite| suite.kind == kind && alg.is_none_or(|alg| alg == suite.name))
        .map(|suite| VerifyingKey {
            kid: kid.map(str::to_owned),
            algorithm: suite.algorithm,
            material: material.clone(),
        })
        .collect();
    if keys.is_empty() {
        return Err(KeyFault::Unlisted);
    }
    Ok(keys)
}

fn check_public(jwk: &Object<'_>) -> Result<(), KeyFault> {
    if jwk.get("kty").and_then(Value::text) == Some("oct") || jwk.has("k") {
        return Err(KeyFault::Symmetric);
    }
    // `priv` is that of kty AKP (post-quantum signatures); the others are of RFC 7518.
    let private = ["d", "p", "q", "dp", "dq", "qi", "oth", "priv"];
    if private.iter().any(|name| jwk.has(name)) {
        return Err(KeyFault::Private);
    }
    Ok(())
}

fn kind(jwk: &Object<'_>) -> Result<Kind, KeyFault> {
    let kty = optional(jwk, "kty")?.ok_or(KeyFault::Member { name: "kty" })?;
    match (kty, optional(jwk, "crv")?) {
        ("RSA", None) => Ok(Kind::Rsa),
        ("EC", Some("P-256")) => Ok(Kind::P256),
        ("EC", Some("P-384")) => Ok(Kind::P384),
        ("OKP", Some("Ed25519")) => Ok(Kind::Ed25519),
        _ => Err(KeyFault::Unlisted),
    }
}

fn check_purpose(jwk: &Object<'_>) -> Result<(), KeyFault> {
    if optional(jwk, "use")?.is_some_and(|purpose| purpose != "sig") {
        return Err(KeyFault::Use);
    }
    let Some(operations) = jwk.get("key_ops") else {
        return Ok(());
    };
    match operations.texts().as_deref() {
        Some(["verify"]) => Ok(()),
        Some(_) | None => Err(KeyFault::Operations),
    }
}

fn material(kind: Kind, jwk: &Object<'_>) -> Result<DecodingKey, KeyFault> {
    let name = match kind {
        Kind::Rsa => return rsa_key(&bytes(jwk, "n")?, &bytes(jwk, "e")?),
        Kind::Ed25519 => "EdDSA",
        Kind::P256 => "ES256",
        Kind::P384 => "ES384",
        Kind::Hmac { .. } => return Err(KeyFault::Symmetric),
    };
    let point = match kind {
        Kind::P256 => point(jwk, 32)?,
        Kind::P384 => point(jwk, 48)?,
        Kind::Ed25519 | Kind::Hmac { .. } | Kind::Rsa => coordinate(jwk, "x", 32)?,
    };
    curve_key(kind, &point).ok_or(KeyFault::Unfit { name })
}

/// An uncompressed point (SEC 1, 2.3.3).
fn point(jwk: &Object<'_>, length: usize) -> Result<Vec<u8>, KeyFault> {
    let mut point = vec![4];
    point.extend(coordinate(jwk, "x", length)?);
    point.extend(coordinate(jwk, "y", length)?);
    Ok(point)
}

/// A coordinate of exactly the curve's length: two of wrong lengths might make up for each other.
fn coordinate(jwk: &Object<'_>, name: &'static str, length: usize) -> Result<Vec<u8>, KeyFault> {
    let bytes = bytes(jwk, name)?;
    if bytes.len() != length {
        return Err(KeyFault::Member { name });
    }
    Ok(bytes)
}

fn bytes(jwk: &Object<'_>, name: &'static str) -> Result<Vec<u8>, KeyFault> {
    let text = optional(jwk, name)?.ok_or(KeyFault::Member { name })?;
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| KeyFault::Member { name })
}

/// A member that is absent or a string.
fn optional<'o>(jwk: &'o Object<'_>, name: &'static str) -> Result<Option<&'o str>, KeyFault> {
    jwk.get(name)
        .map(|value| value.text().ok_or(KeyFault::Member { name }))
        .transpose()
}

fn kid_of<'o>(member: &'o Value<'_>) -> Option<&'o str> {
    match member {
        Value::Object(jwk) => jwk.get("kid").and_then(Value::text),
        Value::Array(_) | Value::Other | Value::Text(_) | Value::Whole(_) => None,
    }
}

/// Which key is meant: its place from 1, and its `kid` where that can do no harm in a log.
fn describe(index: usize, member: &Value<'_>) -> String {
    let place = index.saturating_add(1);
    let shown = kid_of(member).filter(|kid| {
        (1..=64).contains(&kid.len())
            && kid
                .bytes()
                .all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\')
    });
    match shown {
        Some(kid) => format!("key {place} (kid \"{kid}\")"),
        None => format!("key {place}"),
    }
}
