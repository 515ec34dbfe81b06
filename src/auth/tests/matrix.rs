//! Algorithm and key come from the configuration: of all combinations only the diagonal passes.

use super::*;

const ALL: [&str; 12] = [
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256",
    "ES384", "EdDSA",
];

fn algorithm(name: &str) -> Algorithm {
    keys::parse_algorithm(name).unwrap()
}

fn pair(name: &str) -> Option<&'static KeyPair> {
    match name {
        "ES256" => Some(&KEYS.p256),
        "ES384" => Some(&KEYS.p384),
        "EdDSA" => Some(&KEYS.ed25519),
        name if name.starts_with("HS") => None,
        _ => Some(&KEYS.rsa),
    }
}

/// An issuer with one algorithm, once from PEM or secret, once from a key set.
fn issuers(name: &str) -> Vec<IssuerSettings> {
    let algorithms = [algorithm(name)];
    let sets = match pair(name) {
        None => vec![KeySet::from_secret(&algorithms, &KEYS.secret).unwrap()],
        Some(pair) => vec![
            KeySet::from_public_pem(&algorithms, pair.public_key_pem().as_bytes()).unwrap(),
            KeySet::from_jwks(&algorithms, &jwks(&[jwk(pair, Some("k"))])).unwrap(),
        ],
    };
    sets.into_iter()
        .map(|keys| issuer("hs", HS, keys, &["acme"]))
        .collect()
}

fn signing_key(name: &str) -> EncodingKey {
    let pem = pair(name).map(KeyPair::serialize_pem).unwrap_or_default();
    let key = match name {
        "ES256" | "ES384" => EncodingKey::from_ec_pem(pem.as_bytes()),
        "EdDSA" => EncodingKey::from_ed_pem(pem.as_bytes()),
        name if name.starts_with("HS") => Ok(KEYS.hmac()),
        _ => EncodingKey::from_rsa_pem(pem.as_bytes()),
    };
    key.unwrap()
}

fn token(alg: &str, key: &EncodingKey, signed: Algorithm) -> String {
    let header = Members::header(alg).json();
    sign(header, Members::good(HS).json(), key, signed)
}

#[test]
fn only_the_configured_algorithm_with_its_own_key_passes() {
    let mut passed = Vec::new();
    for configured in ALL {
        for issuer in issuers(configured) {
            let authenticator = of_issuers(vec![issuer]);
            for (signed, claimed) in ALL.iter().flat_map(|s| ALL.iter().map(move |c| (*s, *c))) {
                let token = token(claimed, &signing_key(signed), algorithm(signed));
                let result = authenticator.judge(&bearer(&token), now());
                let diagonal = configured == signed && configured == claimed;
                assert_eq!(result.is_ok(), diagonal, "{configured} {signed} {claimed}");
                if diagonal {
                    passed.push(configured);
                }
            }
        }
    }
    // 3 HMAC issuers, and 9 public-key ones in two forms each.
    assert_eq!(passed.len(), 21);
}

#[test]
fn no_form_of_a_public_key_serves_as_a_secret() {
    for configured in ALL {
        let Some(pair) = pair(configured) else {
            continue;
        };
        let pem = pair.public_key_pem();
        let jwk = jwk(pair, Some("k"));
        let modulus = jwk.get("n").or(jwk.get("x")).unwrap().as_str().unwrap();
        let forms: Vec<Vec<u8>> = vec![
            pem.clone().into_bytes(),
            pem.trim_end().as_bytes().to_vec(),
            pem.replace('\n', "").into_bytes(),
            rcgen::PublicKeyData::subject_public_key_info(pair),
            pair.public_key_raw().to_vec(),
            jwk.to_string().into_bytes(),
            modulus.as_bytes().to_vec(),
            URL_SAFE_NO_PAD.decode(modulus).unwrap(),
            vec![],
        ];
        for issuer in issuers(configured) {
            let authenticator = of_issuers(vec![issuer]);
            for form in &forms {
                for hmac in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
                    let key = EncodingKey::from_secret(form);
                    for claimed in [configured, "HS256", "HS384", "HS512"] {
                        let token = token(claimed, &key, hmac);
                        let result = authenticator.judge(&bearer(&token), now());
                        assert!(result.is_err(), "{configured} {claimed}");
                    }
                }
            }
        }
    }
}

#[test]
fn one_key_may_serve_several_algorithms_when_all_are_listed() {
    let algorithms = [Algorithm::RS256, Algorithm::PS256, Algorithm::RS256];
    let pem = KEYS.rsa.public_key_pem();
    let set = jwks(&[jwk(&KEYS.rsa, Some("k"))]);
    for keys in [
        KeySet::from_public_pem(&algorithms, pem.as_bytes()).unwrap(),
        KeySet::from_jwks(&algorithms, &set).unwrap(),
    ] {
        let authenticator = of_issuers(vec![issuer("hs", HS, keys, &["acme"])]);
        for name in ALL {
            let token = token(name, &signing_key(name), algorithm(name));
            let result = authenticator.judge(&bearer(&token), now());
            assert_eq!(result.is_ok(), ["RS256", "PS256"].contains(&name), "{name}");
        }
    }
}

#[test]
fn algorithms_have_exact_names_and_none_is_none_of_them() {
    for name in ALL {
        assert!(keys::parse_algorithm(name).is_some());
        let other = if name == "EdDSA" {
            "EDDSA".to_owned()
        } else {
            name.to_lowercase()
        };
        assert_eq!(keys::parse_algorithm(&other), None);
    }
    for name in ["none", "None", "", "ES512", "ES256K", "Ed25519", "HS256 "] {
        assert_eq!(keys::parse_algorithm(name), None);
    }
}
