//! Keys that must not be loaded, and what is said of them. All keys are made when the tests run.
#![expect(
    clippy::string_slice,
    clippy::too_many_lines,
    reason = "tables of cases, cut from ASCII text"
)]

use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
    RsaKeySize,
};
use serde_json::{Value as Json, json};

use super::*;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::Jwk;

const EVERY: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

fn p256() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

fn p384() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap()
}

fn ed25519() -> KeyPair {
    KeyPair::generate_for(&PKCS_ED25519).unwrap()
}

fn rsa() -> KeyPair {
    KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap()
}

fn ec_jwk(pair: &KeyPair) -> Json {
    let key = DecodingKey::from_ec_pem(pair.public_key_pem().as_bytes()).unwrap();
    serde_json::to_value(Jwk::from_decoding_key(&key, None).unwrap()).unwrap()
}

/// An RSA JWK with a made-up modulus: nothing signs with it, but it loads as far as it may.
fn rsa_jwk(bits: usize) -> Json {
    let mut n = vec![0xff; bits.div_ceil(8)];
    n[0] >>= n.len() * 8 - bits;
    json!({ "kty": "RSA", "n": URL_SAFE_NO_PAD.encode(n), "e": "AQAB" })
}

fn with(mut jwk: Json, name: &str, value: Json) -> Json {
    jwk[name] = value;
    jwk
}

fn without(mut jwk: Json, name: &str) -> Json {
    jwk.as_object_mut().unwrap().remove(name);
    jwk
}

fn load(keys: &[Json]) -> Result<KeySet, KeyError> {
    KeySet::from_jwks(&EVERY, json!({ "keys": keys }).to_string().as_bytes())
}

fn fault(key: Json) -> Option<KeyFault> {
    match load(&[key]) {
        Err(KeyError::Jwk { fault, .. }) => Some(fault),
        Err(other) => panic!("{other}"),
        Ok(_) => None,
    }
}

#[test]
fn a_secret_is_as_long_as_its_hash_at_least() {
    for (algorithm, name, needed) in [
        (Algorithm::HS256, "HS256", 32),
        (Algorithm::HS384, "HS384", 48),
        (Algorithm::HS512, "HS512", 64),
    ] {
        assert!(KeySet::from_secret(&[algorithm], &vec![7; needed]).is_ok());
        for length in [0, 1, needed - 1] {
            let result = KeySet::from_secret(&[algorithm], &vec![7; length]);
            assert_eq!(result.err(), Some(KeyError::WeakSecret { name, needed }));
        }
    }
    // The strongest algorithm of the list decides.
    let both = [Algorithm::HS256, Algorithm::HS512];
    assert!(KeySet::from_secret(&both, &[7; 63]).is_err());
    assert!(KeySet::from_secret(&both, &[7; 64]).is_ok());
}

#[test]
fn a_public_key_is_no_secret() {
    let pem = p256().public_key_pem();
    for secret in [pem.clone(), format!("\n {pem}")] {
        let result = KeySet::from_secret(&[Algorithm::HS256], secret.as_bytes());
        assert_eq!(result.err(), Some(KeyError::SecretIsPem));
    }
}

#[test]
fn algorithms_of_two_families_are_refused_together() {
    let pem = rsa().public_key_pem();
    let mixed = [Algorithm::HS256, Algorithm::RS256];
    assert_eq!(
        KeySet::from_secret(&mixed, &[7; 64]).err(),
        Some(KeyError::MixedFamilies)
    );
    assert_eq!(
        KeySet::from_public_pem(&mixed, pem.as_bytes()).err(),
        Some(KeyError::MixedFamilies)
    );
    assert_eq!(
        KeySet::from_jwks(&mixed, b"{}").err(),
        Some(KeyError::MixedFamilies)
    );
    assert_eq!(
        KeySet::from_secret(&[], &[7; 64]).err(),
        Some(KeyError::NoAlgorithm)
    );
    assert_eq!(
        KeySet::from_secret(&[Algorithm::ES256], &[7; 64]).err(),
        Some(KeyError::SecretForPublicKey { name: "ES256" })
    );
    assert_eq!(
        KeySet::from_public_pem(&[Algorithm::HS384], pem.as_bytes()).err(),
        Some(KeyError::PublicKeyForHmac { name: "HS384" })
    );
    assert_eq!(
        KeySet::from_jwks(&[Algorithm::HS256], b"{}").err(),
        Some(KeyError::PublicKeyForHmac { name: "HS256" })
    );
}

#[test]
fn a_pem_key_fits_every_listed_algorithm_or_is_refused() {
    let pems = [
        (p256().public_key_pem(), &EVERY[6..7]),
        (p384().public_key_pem(), &EVERY[7..8]),
        (ed25519().public_key_pem(), &EVERY[8..9]),
        (rsa().public_key_pem(), &EVERY[0..6]),
    ];
    for (pem, fitting) in &pems {
        for algorithm in EVERY {
            let result = KeySet::from_public_pem(&[algorithm], pem.as_bytes());
            assert_eq!(
                result.is_ok(),
                fitting.contains(&algorithm),
                "{algorithm:?}"
            );
        }
        assert!(KeySet::from_public_pem(fitting, pem.as_bytes()).is_ok());
        assert!(KeySet::from_public_pem(&EVERY, pem.as_bytes()).is_err());
    }
}

#[test]
fn a_pem_file_holds_one_public_key_and_nothing_else() {
    let (one, two) = (p256(), p256());
    let refuse = |pem: &str| KeySet::from_public_pem(&[Algorithm::ES256], pem.as_bytes()).err();
    assert_eq!(refuse(&one.serialize_pem()), Some(KeyError::NotAPublicKey));
    let both = format!("{}{}", one.public_key_pem(), two.public_key_pem());
    assert_eq!(refuse(&both), Some(KeyError::Pem));
    let certificate = rcgen::CertificateParams::new(vec![])
        .unwrap()
        .self_signed(&one)
        .unwrap();
    assert_eq!(refuse(&certificate.pem()), Some(KeyError::NotAPublicKey));
    for broken in [
        "",
        "x",
        "-----BEGIN PUBLIC KEY-----\n",
        &one.public_key_pem()[..80],
    ] {
        assert_eq!(refuse(broken), Some(KeyError::Pem), "{broken}");
    }
    let empty = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
    assert_eq!(
        refuse(empty),
        Some(KeyFault::Unfit { name: "ES256" }.into())
    );
}

#[test]
fn an_rsa_key_has_2048_bits_at_least_and_a_sound_exponent() {
    for (bits, refused) in [
        (512, true),
        (1024, true),
        (2047, true),
        (2048, false),
        (4096, false),
        (8192, false),
        (8200, true),
    ] {
        let expected = refused.then_some(KeyFault::WeakRsa);
        assert_eq!(fault(rsa_jwk(bits)), expected, "{bits}");
    }
    let good = rsa_jwk(2048);
    // Exponents 1, 2 and an even one; and what only looks long, or is not encoded as it must be.
    for e in ["AQ", "Ag", "AQAA"] {
        assert_eq!(
            fault(with(good.clone(), "e", e.into())),
            Some(KeyFault::Unfit { name: "RSA" }),
            "{e}"
        );
    }
    for e in ["", "AA", "AAEAAQ", "AQAB=", "A"] {
        assert_eq!(
            fault(with(good.clone(), "e", e.into())),
            Some(KeyFault::Member { name: "e" }),
            "{e}"
        );
    }
    // A modulus that is even, and an exponent as long as the modulus.
    let mut even = vec![0xff; 256];
    even[255] = 0xfe;
    for (name, value) in [("n", even), ("e", vec![0xff; 256])] {
        assert_eq!(
            fault(with(
                good.clone(),
                name,
                URL_SAFE_NO_PAD.encode(value).into()
            )),
            Some(KeyFault::Unfit { name: "RSA" }),
            "{name}"
        );
    }
    let mut padded = vec![0];
    padded.extend([0xff; 128]);
    padded.resize(256, 0xff);
    assert_eq!(
        fault(with(good, "n", URL_SAFE_NO_PAD.encode(padded).into())),
        Some(KeyFault::Member { name: "n" })
    );
}

#[test]
fn a_short_rsa_key_in_pem_form_is_refused_too() {
    // SubjectPublicKeyInfo of a made-up modulus of 1024 bits, written by hand.
    let mut der = vec![
        0x30, 0x81, 0x9f, 0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01,
        0x01, 0x05, 0x00, 0x03, 0x81, 0x8d, 0x00, 0x30, 0x81, 0x89, 0x02, 0x81, 0x81, 0x00,
    ];
    der.extend([0xff; 128]);
    der.extend([0x02, 0x03, 0x01, 0x00, 0x01]);
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n");
    let result = KeySet::from_public_pem(&[Algorithm::RS256], pem.as_bytes());
    assert_eq!(result.err(), Some(KeyFault::WeakRsa.into()));
}

#[test]
fn a_jwk_that_disagrees_with_itself_is_refused() {
    let ec = ec_jwk(&p256());
    let ed = json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(ed25519().public_key_raw()) });
    let rsa = rsa_jwk(2048);
    for good in [&ec, &ed, &rsa, &ec_jwk(&p384())] {
        assert_eq!(fault(good.clone()), None);
        let full = with(
            with(good.clone(), "use", "sig".into()),
            "key_ops",
            json!(["verify"]),
        );
        assert_eq!(fault(full), None);
    }
    assert_eq!(fault(with(ec.clone(), "alg", "ES256".into())), None);
    let unlisted = Some(KeyFault::Unlisted);
    let unfit = |name| Some(KeyFault::Unfit { name });
    let member = |name| Some(KeyFault::Member { name });
    let x = ec["x"].clone();
    for (what, key, expected) in [
        ("kty absent", without(ec.clone(), "kty"), member("kty")),
        (
            "kty null",
            with(ec.clone(), "kty", Json::Null),
            member("kty"),
        ),
        (
            "kty unknown",
            with(ec.clone(), "kty", "ec".into()),
            unlisted,
        ),
        (
            "kty of another",
            with(ec.clone(), "kty", "RSA".into()),
            unlisted,
        ),
        (
            "kty OKP with P-256",
            with(ec.clone(), "kty", "OKP".into()),
            unlisted,
        ),
        (
            "oct",
            json!({ "kty": "oct", "k": "AAAA" }),
            Some(KeyFault::Symmetric),
        ),
        (
            "EC with k",
            with(ec.clone(), "k", "AAAA".into()),
            Some(KeyFault::Symmetric),
        ),
        (
            "private EC",
            with(ec.clone(), "d", "AAAA".into()),
            Some(KeyFault::Private),
        ),
        (
            "private RSA",
            with(rsa.clone(), "p", "AAAA".into()),
            Some(KeyFault::Private),
        ),
        ("crv absent", without(ec.clone(), "crv"), unlisted),
        (
            "crv number",
            with(ec.clone(), "crv", 256.into()),
            member("crv"),
        ),
        (
            "crv of another length",
            with(ec.clone(), "crv", "P-384".into()),
            member("x"),
        ),
        (
            "crv unsupported",
            with(ec.clone(), "crv", "P-521".into()),
            unlisted,
        ),
        (
            "crv secp256k1",
            with(ec.clone(), "crv", "secp256k1".into()),
            unlisted,
        ),
        (
            "crv X25519",
            with(ed.clone(), "crv", "X25519".into()),
            unlisted,
        ),
        (
            "RSA with crv",
            with(rsa.clone(), "crv", "P-256".into()),
            unlisted,
        ),
        (
            "point off the curve",
            with(ec.clone(), "y", x.clone()),
            unfit("ES256"),
        ),
        (
            "x too short",
            with(ec.clone(), "x", "AAAA".into()),
            member("x"),
        ),
        ("y absent", without(ec.clone(), "y"), member("y")),
        ("y number", with(ec.clone(), "y", 1.into()), member("y")),
        (
            "Ed25519 x too short",
            with(ed.clone(), "x", "AAAA".into()),
            member("x"),
        ),
        (
            "alg of another family",
            with(ec.clone(), "alg", "RS256".into()),
            unlisted,
        ),
        (
            "alg of another curve",
            with(ec.clone(), "alg", "ES384".into()),
            unlisted,
        ),
        ("alg none", with(ec.clone(), "alg", "none".into()), unlisted),
        (
            "alg HMAC",
            with(rsa.clone(), "alg", "HS256".into()),
            unlisted,
        ),
        (
            "alg for encryption",
            with(rsa.clone(), "alg", "RSA-OAEP".into()),
            unlisted,
        ),
        (
            "alg number",
            with(rsa.clone(), "alg", 256.into()),
            member("alg"),
        ),
        (
            "use enc",
            with(ec.clone(), "use", "enc".into()),
            Some(KeyFault::Use),
        ),
        (
            "use empty",
            with(ec.clone(), "use", "".into()),
            Some(KeyFault::Use),
        ),
        (
            "use array",
            with(ec.clone(), "use", json!(["sig"])),
            member("use"),
        ),
        (
            "key_ops encrypt",
            with(rsa.clone(), "key_ops", json!(["encrypt"])),
            Some(KeyFault::Operations),
        ),
        (
            "key_ops both",
            with(rsa.clone(), "key_ops", json!(["verify", "encrypt"])),
            Some(KeyFault::Operations),
        ),
        (
            "key_ops empty",
            with(rsa.clone(), "key_ops", json!([])),
            Some(KeyFault::Operations),
        ),
        (
            "key_ops string",
            with(rsa.clone(), "key_ops", "verify".into()),
            Some(KeyFault::Operations),
        ),
        (
            "kid number",
            with(ec.clone(), "kid", 1.into()),
            member("kid"),
        ),
        (
            "kid empty",
            with(ec.clone(), "kid", "".into()),
            member("kid"),
        ),
        (
            "kid too long",
            with(ec.clone(), "kid", "k".repeat(257).into()),
            member("kid"),
        ),
        ("a string", json!("key"), member("kty")),
    ] {
        assert_eq!(fault(key), expected, "{what}");
    }
}

#[test]
fn a_key_for_an_algorithm_that_is_not_listed_is_refused() {
    let set = json!({ "keys": [ec_jwk(&p256())] }).to_string();
    let refused = |algorithms: &[Algorithm]| KeySet::from_jwks(algorithms, set.as_bytes()).is_err();
    assert!(!refused(&[Algorithm::ES256]));
    assert!(refused(&[Algorithm::ES384]));
    assert!(refused(&[Algorithm::RS256, Algorithm::EdDSA]));
}

#[test]
fn keys_of_a_set_are_told_apart_by_their_kids() {
    let (one, two) = (ec_jwk(&p256()), ec_jwk(&p256()));
    let kid = |jwk: &Json, kid: &str| with(jwk.clone(), "kid", kid.into());
    assert!(load(&[kid(&one, "a"), kid(&two, "b")]).is_ok());
    // A kid is one key's, whatever the keys are for.
    for set in [
        vec![kid(&one, "a"), kid(&two, "a")],
        vec![kid(&one, "a"), kid(&rsa_jwk(2048), "a")],
        vec![one.clone(), two.clone()],
    ] {
        let error = load(&set).err().unwrap();
        assert!(
            matches!(&error, KeyError::Jwk { key, fault: KeyFault::Ambiguous } if key.starts_with("key 2")),
            "{error}"
        );
    }
    let set = load(&[kid(&one, "a"), two, rsa_jwk(2048)]).unwrap();
    let found = |algorithm, kid| set.find(algorithm, kid).map(VerifyingKey::kid);
    assert_eq!(found(Algorithm::ES256, Some("a")), Some(Some("a")));
    assert_eq!(found(Algorithm::ES256, Some("other")), Some(None));
    assert_eq!(found(Algorithm::ES256, None), None);
    assert_eq!(found(Algorithm::RS256, None), Some(None));
    assert_eq!(found(Algorithm::RS256, Some("a")), Some(None));
    assert_eq!(found(Algorithm::HS256, None), None);
}

#[test]
fn a_refused_set_names_the_key_and_shows_none_of_it() {
    let bad = with(
        with(ec_jwk(&p256()), "kid", "prod-2026".into()),
        "use",
        "enc".into(),
    );
    let error = load(&[rsa_jwk(2048), bad.clone()])
        .err()
        .unwrap()
        .to_string();
    assert_eq!(error, r#"key 2 (kid "prod-2026"): `use` is not sig"#);
    assert!(!error.contains(bad["x"].as_str().unwrap()));
    let odd = with(bad, "kid", "a\n\u{1b}[31m".into());
    let error = load(&[odd]).err().unwrap().to_string();
    assert_eq!(error, "key 1: `use` is not sig");
}

#[test]
fn a_set_is_an_object_with_1_to_100_keys() {
    let refuse = |text: &str| KeySet::from_jwks(&EVERY, text.as_bytes()).err();
    for text in [
        "{}",
        r#"{"keys":[]}"#,
        r#"{"keys":{}}"#,
        r#"{"keys":null}"#,
        r#"{"Keys":[]}"#,
    ] {
        assert_eq!(refuse(text), Some(KeyError::NotASet), "{text}");
    }
    let many: Vec<Json> = (0..101)
        .map(|n| with(rsa_jwk(2048), "kid", n.to_string().into()))
        .collect();
    assert_eq!(load(&many).err(), Some(KeyError::NotASet));
    assert!(load(&many[..100]).is_ok());
    assert_eq!(
        refuse("{\"keys\":[\n{\"kty\":\"EC\",\"kty\":\"EC\"}]}"),
        Some(KeyError::Json {
            line: 2,
            column: 23
        })
    );
    for text in ["", "[]", "{", "{\"keys\":[]}{}", "\u{feff}{}"] {
        assert!(
            matches!(refuse(text), Some(KeyError::Json { .. })),
            "{text}"
        );
    }
}

#[test]
fn a_private_key_signs_for_its_own_algorithm_only() {
    let pems = [
        (p256().serialize_pem(), &EVERY[6..7]),
        (p384().serialize_pem(), &EVERY[7..8]),
        (ed25519().serialize_pem(), &EVERY[8..9]),
        (rsa().serialize_pem(), &EVERY[0..6]),
    ];
    for (pem, fitting) in &pems {
        for algorithm in EVERY {
            let result = SigningKey::from_private_pem(algorithm, pem.as_bytes());
            assert_eq!(
                result.is_ok(),
                fitting.contains(&algorithm),
                "{algorithm:?}"
            );
        }
        let result = SigningKey::from_private_pem(Algorithm::HS256, pem.as_bytes());
        assert_eq!(
            result.err(),
            Some(KeyError::PublicKeyForHmac { name: "HS256" })
        );
    }
    let public = p256().public_key_pem();
    let result = SigningKey::from_private_pem(Algorithm::ES256, public.as_bytes());
    assert_eq!(result.err(), Some(KeyError::NotAPrivateKey));
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let result = SigningKey::from_private_pem(Algorithm::ES256, encrypted.as_bytes());
    assert_eq!(result.err(), Some(KeyError::Pem));
}

#[test]
fn the_private_keys_that_openssl_writes_by_default_are_read() {
    use aws_lc_rs::{
        encoding::{AsDer, EcPrivateKeyRfc5915Der},
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
    };
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let der: EcPrivateKeyRfc5915Der<'_> = pair.private_key().as_der().unwrap();
    let text = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
    // `openssl ecparam -genkey` puts the curve's name before the key.
    let pem = format!(
        "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n\
         -----BEGIN EC PRIVATE KEY-----\n{text}\n-----END EC PRIVATE KEY-----\n"
    );
    let key = SigningKey::from_private_pem(Algorithm::ES256, pem.as_bytes()).unwrap();
    assert!(key.sign(&json!({})).is_ok());
    assert!(SigningKey::from_private_pem(Algorithm::ES384, pem.as_bytes()).is_err());
}
