//! A permit as requests get it: from a token.

use std::{sync::Arc, time::Duration};

use dcams_gateway::{
    address::AddressRules,
    auth::{
        Authenticator, IssuerSettings,
        dpop::{DpopRules, DpopSettings, NonceKey, ProofChecker},
        install_crypto,
        jwks::KeySource,
        keys::{KeySet, SigningKey},
        permit::{Permit, authorize},
        revocation::RevocationList,
    },
    caching::TenantCaching,
    ident::{AccountId, IssuerId, TenantId},
    limits::Limits,
    operation::{Operation, Operations},
    tenant::{Country, Disclosure, Isolation, Tenant},
};
use futures_util::FutureExt;
use http::header::AUTHORIZATION;
use jiff::Timestamp;
use jsonwebtoken::Algorithm;
use serde_json::json;

/// A permit as requests get it: from a token.
pub(crate) fn permit() -> Permit {
    install_crypto();
    let secret = [7; 32];
    let keys = KeySet::from_secret(&[Algorithm::HS256], &secret).expect("a secret");
    let issuer = IssuerSettings {
        id: IssuerId::try_from("bench").expect("a name"),
        issuer: "bench".to_owned(),
        audiences: vec!["bench".to_owned()],
        keys: KeySource::Fixed(keys),
        tenants: [TenantId::try_from("acme").expect("a name")].into(),
        tenant_claim: "tenant".to_owned(),
        customer_claim: "customer_email".to_owned(),
        leeway: Duration::ZERO,
        max_ttl: Duration::from_hours(1),
        types: vec!["JWT".to_owned()],
        customer_services: Operations::default(),
        dpop: DpopRules {
            required: false,
            max_age: Duration::ZERO,
            nonce: false,
        },
        bind: Vec::new(),
    };
    let now = Timestamp::UNIX_EPOCH;
    let token = SigningKey::from_secret(Algorithm::HS256, &secret)
        .and_then(|key| {
            key.sign(&json!({
                "iss": "bench", "aud": "bench", "exp": 60, "tenant": "acme",
                "scope": Operation::CreateOrUpdateCustomer.scope(),
            }))
        })
        .expect("a token");
    let request = http::Request::post("/").header(AUTHORIZATION, format!("Bearer {token}"));
    let (parts, ()) = request.body(()).expect("a request").into_parts();
    let proofs = DpopSettings {
        public_urls: Vec::new(),
        nonces: NonceKey::derive(&secret),
    };
    let proofs = ProofChecker::new(proofs, now);
    let caller = Authenticator::new(vec![issuer], RevocationList::default(), proofs)
        .authenticate(&parts, now)
        .now_or_never()
        .expect("nothing to wait for")
        .expect("a good token");
    let tenant = tenant(caller.tenant().clone());
    let member = |_: &str| None;
    authorize(&caller, &tenant, Operation::CreateOrUpdateCustomer, member).expect("a permit")
}

fn tenant(id: TenantId) -> Tenant {
    Tenant {
        id,
        account: AccountId::try_from("main").expect("a name"),
        enabled: true,
        services: Operation::ALL.into_iter().collect(),
        response: Disclosure::Minimal,
        addresses: AddressRules::default(),
        country: Country::Us,
        isolation: Isolation::None,
        caching: TenantCaching::default(),
        limits: Arc::new(Limits::unlimited()),
    }
}
