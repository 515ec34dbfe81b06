//! Turns bytes into keys, and refuses what is no valid key of its kind.
//!
//! Invariant: a key that comes out was parsed by the library that will use it, lies on its curve,
//! and is long enough. Private bytes are wiped when they have been read.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, EcdsaKeyPair, EcdsaSigningAlgorithm,
    ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, VerificationAlgorithm,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    DecodingKey, EncodingKey,
    jwk::{AlgorithmParameters, Jwk},
};
use rustls_pki_types::pem::{PemObject, SectionKind};
use zeroize::Zeroizing;

use super::{KeyError, KeyFault, suite::Kind};

/// The kind and content of the one section of a PEM text.
pub(super) fn one_section(pem: &[u8]) -> Result<(SectionKind, Zeroizing<Vec<u8>>), KeyError> {
    let mut sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(pem);
    let (Some(Ok((kind, der))), None) = (sections.next(), sections.next()) else {
        return Err(KeyError::Pem);
    };
    Ok((kind, Zeroizing::new(der)))
}

/// A key on a curve, from a point or a `SubjectPublicKeyInfo`, when it is a valid one of that curve.
pub(super) fn curve_key(kind: Kind, key: &[u8]) -> Option<DecodingKey> {
    let valid =
        |suite: &'static dyn VerificationAlgorithm| ParsedPublicKey::new(suite, key).is_ok();
    match kind {
        Kind::P256 => valid(&ECDSA_P256_SHA256_FIXED).then(|| DecodingKey::from_ec_der(key)),
        Kind::P384 => valid(&ECDSA_P384_SHA384_FIXED).then(|| DecodingKey::from_ec_der(key)),
        Kind::Ed25519 => valid(&ED25519).then(|| DecodingKey::from_ed_der(key)),
        Kind::Hmac { .. } | Kind::Rsa => None,
    }
}

/// An RSA key in `SubjectPublicKeyInfo` or PKCS#1 form.
pub(super) fn rsa_from_der(der: &[u8]) -> Result<DecodingKey, KeyFault> {
    let unfit = KeyFault::Unfit { name: "RSA" };
    let key = DecodingKey::from_rsa_der(der);
    let jwk = Jwk::from_decoding_key(&key, None).map_err(|_| unfit)?;
    let AlgorithmParameters::RSA(parts) = jwk.algorithm else {
        return Err(unfit);
    };
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| unfit);
    rsa_key(&decode(&parts.n)?, &decode(&parts.e)?)
}

/// An RSA key of this modulus and exponent.
pub(super) fn rsa_key(n: &[u8], e: &[u8]) -> Result<DecodingKey, KeyFault> {
    // The least number of octets (RFC 7518 6.3.1), so that length means strength.
    if n.first().is_none_or(|b| *b == 0) {
        return Err(KeyFault::Member { name: "n" });
    }
    if e.first().is_none_or(|b| *b == 0) {
        return Err(KeyFault::Member { name: "e" });
    }
    let bytes = n.len();
    let short = bytes == 256 && n.first().is_some_and(|b| b.leading_zeros() > 0);
    if !(256..=1024).contains(&bytes) || short {
        return Err(KeyFault::WeakRsa);
    }
    // The library takes an exponent of 1 (a message would be its own signature) or of any length, and
    // an even modulus.
    let is_even = |bytes: &[u8]| bytes.last().is_none_or(|b| b % 2 == 0);
    if e == [1] || e.len() > 4 || is_even(e) || is_even(n) {
        return Err(KeyFault::Unfit { name: "RSA" });
    }
    RsaPublicKeyComponents { n, e }
        .to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256)
        .map_err(|_| KeyFault::Unfit { name: "RSA" })?;
    Ok(DecodingKey::from_rsa_raw_components(n, e))
}

/// A signing key of this curve, in PKCS#8 or SEC 1 form.
pub(super) fn ec_signer(suite: &'static EcdsaSigningAlgorithm, der: &[u8]) -> Option<EncodingKey> {
    let pair = EcdsaKeyPair::from_private_key_der(suite, der).ok()?;
    let pkcs8 = pair.to_pkcs8v1().ok()?;
    Some(EncodingKey::from_ec_der(pkcs8.as_ref()))
}
