//! Tokens of our own making, judged as any other.

use super::*;
use crate::auth::{
    jwks::{JwksSettings, JwksSource, RemoteKeys, Rhythm},
    keys::{KeyError, SigningKey},
    mint::{Grant, MintError},
};

fn grant(tenant: &TenantId) -> Grant<'_> {
    Grant {
        tenant,
        operations: Operation::ALL.into_iter().collect(),
        subject: Some("dev"),
        customer: Some("ann@example.com"),
        ttl: Duration::from_mins(15),
    }
}

#[test]
fn a_minted_token_says_what_was_granted_and_passes() {
    let acme = TenantId::try_from("acme").unwrap();
    let key = SigningKey::from_secret(Algorithm::HS256, &KEYS.secret).unwrap();
    let token = grant(&acme).mint(&hs_issuer(), &key, now()).unwrap();
    let caller = authenticator().judge(&bearer(&token), now()).unwrap();
    assert_eq!(caller.tenant(), &acme);
    assert_eq!(caller.subject(), Some("dev"));
    assert_eq!(caller.customer(), Some("ann@example.com"));
    assert_eq!(caller.operations().iter().count(), 4);
    assert_eq!(caller.expires().as_second(), NOW + 900);
}

#[test]
fn a_minted_token_names_the_key_that_verifies_it() {
    let globex = TenantId::try_from("globex").unwrap();
    for pair in [&KEYS.p256, &KEYS.other_p256] {
        let pem = pair.serialize_pem();
        let key = SigningKey::from_private_pem(Algorithm::ES256, pem.as_bytes()).unwrap();
        let mut issuer = es_issuer();
        issuer.types = vec!["at+jwt".to_owned()];
        let token = grant(&globex).mint(&issuer, &key, now()).unwrap();
        let authenticator = of_issuers(vec![issuer]);
        assert!(authenticator.judge(&bearer(&token), now()).is_ok());
    }
}

#[test]
fn no_token_is_minted_that_would_be_refused() {
    let acme = TenantId::try_from("acme").unwrap();
    let globex = TenantId::try_from("globex").unwrap();
    let key = SigningKey::from_secret(Algorithm::HS256, &KEYS.secret).unwrap();
    let refused = |grant: Grant<'_>, issuer: &IssuerSettings| grant.mint(issuer, &key, now()).err();
    let issuer = hs_issuer();
    assert_eq!(
        refused(grant(&globex), &issuer),
        Some(MintError::Refused(AuthError::ForeignTenant))
    );
    for ttl in [Duration::from_secs(3631), Duration::MAX] {
        let grant = Grant {
            ttl,
            ..grant(&acme)
        };
        assert_eq!(
            refused(grant, &issuer),
            Some(MintError::Refused(AuthError::LivesTooLong))
        );
    }
    let long = "x".repeat(513);
    for grant in [
        Grant {
            subject: Some(&long),
            ..grant(&acme)
        },
        Grant {
            customer: Some(""),
            ..grant(&acme)
        },
    ] {
        assert_eq!(
            refused(grant, &issuer),
            Some(MintError::Refused(AuthError::InvalidClaim))
        );
    }
    // A claim under a fixed claim's name would lose to it, and bind the token to nobody.
    let mut issuer = hs_issuer();
    issuer.customer_claim = "jti".to_owned();
    assert_eq!(
        refused(grant(&acme), &issuer),
        Some(MintError::Refused(AuthError::InvalidClaim))
    );
}

#[test]
fn no_unbound_token_is_minted_where_tokens_must_be_bound() {
    let acme = TenantId::try_from("acme").unwrap();
    let key = SigningKey::from_secret(Algorithm::HS256, &KEYS.secret).unwrap();
    let mut issuer = hs_issuer();
    issuer.dpop.required = true;
    let refused = grant(&acme).mint(&issuer, &key, now());
    assert_eq!(refused, Err(MintError::Refused(AuthError::NotBound)));
}

#[test]
fn a_signing_key_that_is_not_the_issuers_mints_nothing() {
    let acme = TenantId::try_from("acme").unwrap();
    let other = SigningKey::from_secret(Algorithm::HS256, &[7; 32]).unwrap();
    let longer = SigningKey::from_secret(Algorithm::HS384, &KEYS.secret).unwrap();
    for key in [other, longer] {
        let minted = grant(&acme).mint(&hs_issuer(), &key, now());
        assert_eq!(minted, Err(MintError::KeyMismatch));
    }
}

#[test]
fn no_token_is_minted_for_an_issuer_that_publishes_its_keys() {
    let acme = TenantId::try_from("acme").unwrap();
    let key = SigningKey::from_secret(Algorithm::HS256, &KEYS.secret).unwrap();
    let mut issuer = hs_issuer();
    issuer.keys = KeySource::Remote(Arc::new(
        RemoteKeys::new(
            issuer.id.clone(),
            JwksSettings {
                source: JwksSource::discovery("https://hs.example/").unwrap(),
                algorithms: vec![Algorithm::ES256],
                timeout: Duration::from_secs(5),
                rhythm: Rhythm {
                    cooldown: Duration::from_secs(30),
                    min_refresh: Duration::from_mins(1),
                    max_refresh: Duration::from_hours(1),
                    max_stale: Duration::from_hours(24),
                },
                roots: Vec::new(),
            },
        )
        .unwrap(),
    ));
    let minted = grant(&acme).mint(&issuer, &key, now());
    assert_eq!(minted, Err(MintError::RemoteKeys));
}

#[test]
fn a_signing_key_signs_any_claims_for_tests_and_tools() {
    let key = SigningKey::from_secret(Algorithm::HS256, &KEYS.secret).unwrap();
    let claims: Json = serde_json::from_str(&Members::good(HS).json()).unwrap();
    let token = key.sign(&claims).unwrap();
    assert!(authenticator().judge(&bearer(&token), now()).is_ok());
    assert_eq!(
        SigningKey::from_secret(Algorithm::HS512, &[7; 63]).err(),
        Some(KeyError::WeakSecret {
            name: "HS512",
            needed: 64
        })
    );
}
