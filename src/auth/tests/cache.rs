//! What a remembered token may do, and for how long.

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

#[test]
fn a_remembered_token_is_refused_from_the_second_in_which_it_expires() {
    let authenticator = authenticator();
    let headers = bearer(&good());
    let end = NOW + 600 + 30;
    for second in [NOW, NOW + 599, NOW + 600, NOW + 601, end - 1] {
        assert!(authenticator.judge(&headers, at(second)).is_ok());
        assert_eq!(authenticator.verified.iter().count(), 1);
    }
    for second in [end, end + 1, end + 86_400] {
        let result = authenticator.judge(&headers, at(second));
        assert_eq!(result.err(), Some(AuthError::Expired), "{second}");
        assert_eq!(authenticator.verified.iter().count(), 0);
    }
}

#[test]
fn a_remembered_token_obeys_a_clock_that_was_set_back() {
    let authenticator = authenticator();
    let claims = Members::good(HS).set("nbf", &NOW.to_string());
    let headers = bearer(&hs_claims(&claims));
    authenticator.judge(&headers, now()).unwrap();
    let result = authenticator.judge(&headers, at(NOW - 31));
    assert_eq!(result.err(), Some(AuthError::NotYetValid));
    let result = authenticator.judge(&headers, at(NOW - 3600));
    assert_eq!(result.err(), Some(AuthError::NotYetValid));
    assert!(authenticator.judge(&headers, now()).is_ok());
}

#[test]
fn a_token_is_verified_once_and_then_remembered() {
    let authenticator = authenticator();
    let headers = bearer(&good());
    let first = authenticator.judge(&headers, now()).unwrap();
    let second = authenticator.judge(&headers, now()).unwrap();
    assert!(Arc::ptr_eq(&first, &second));
}

#[test]
fn remembered_tokens_keep_their_own_rights_only() {
    let authenticator = authenticator();
    let base = Members::good(HS);
    let tokens = [
        (base.clone(), "acme", "getStatus", None),
        (
            base.clone().set("tenant", r#""initech""#),
            "initech",
            "getStatus",
            None,
        ),
        (
            base.clone().set("scope", r#""dcams:status:write""#),
            "acme",
            "updateStatus",
            None,
        ),
        (
            base.clone().set("customer_email", r#""ann@example.com""#),
            "acme",
            "getStatus",
            Some("ann@example.com"),
        ),
        (
            base.set("customer_email", r#""bob@example.com""#),
            "acme",
            "getStatus",
            Some("bob@example.com"),
        ),
    ];
    for _ in 0..3 {
        for (claims, tenant, operation, customer) in &tokens {
            let headers = bearer(&hs_claims(claims));
            let caller = authenticator.judge(&headers, now()).unwrap();
            let operations: Vec<_> = caller.operations().iter().map(Operation::name).collect();
            assert_eq!(caller.tenant().as_str(), *tenant);
            assert_eq!(operations, [*operation]);
            assert_eq!(caller.customer(), *customer);
        }
    }
    assert_eq!(authenticator.verified.iter().count(), tokens.len());
}

#[test]
fn a_remembered_token_vouches_for_no_other_that_shares_its_signature_or_claims() {
    let authenticator = authenticator();
    let first = good();
    authenticator.judge(&bearer(&first), now()).unwrap();
    let second = hs_claims(&Members::good(HS).set("tenant", r#""initech""#));
    let parts = |token: &str| token.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (first, second) = (parts(&first), parts(&second));
    for crossed in [
        [&first[0], &second[1], &first[2]],
        [&first[0], &first[1], &second[2]],
    ] {
        let token = crossed.map(String::as_str).join(".");
        let result = authenticator.judge(&bearer(&token), now());
        assert_eq!(result.err(), Some(AuthError::BadSignature));
    }
}

#[test]
fn a_key_or_tenant_that_a_reload_took_away_is_refused_at_once() {
    let token = bearer(&good());
    assert!(authenticator().judge(&token, now()).is_ok());
    let refuse = |issuer: IssuerSettings| {
        let authenticator = of_issuers(vec![issuer]);
        authenticator.judge(&token, now()).err()
    };
    let mut issuer = hs_issuer();
    issuer.tenants.pop_first();
    assert_eq!(refuse(issuer), Some(AuthError::ForeignTenant));
    let mut issuer = hs_issuer();
    let other = KeySet::from_secret(&[Algorithm::HS256], &[7; 32]).unwrap();
    issuer.keys = KeySource::Fixed(other);
    assert_eq!(refuse(issuer), Some(AuthError::BadSignature));
    assert_eq!(refuse(es_issuer()), Some(AuthError::UnknownIssuer));
}

#[test]
fn the_memory_is_bounded() {
    let authenticator = authenticator();
    assert_eq!(authenticator.verified.policy().max_capacity(), Some(10_000));
    for number in 0..10_100 {
        let claims = Members::good(HS).set("jti", &format!("\"{number}\""));
        let headers = bearer(&hs_claims(&claims));
        assert!(authenticator.judge(&headers, now()).is_ok());
    }
    authenticator.verified.run_pending_tasks();
    assert!(authenticator.verified.entry_count() <= 10_000);
}
