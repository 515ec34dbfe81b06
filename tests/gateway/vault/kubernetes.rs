//! Logins with a service account: the auth method is the real server's own. The cluster's API, which it
//! asks whether the account's token is good (`TokenReview`), is played by a server of ours.

use std::{fs, path::Path};

use base64::{Engine, prelude::BASE64_STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::json;

use super::*;
use crate::idp::{Answer, Idp};

const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// The cluster itself, which is whom its accounts' tokens are for.
const AUDIENCE: &str = "https://kubernetes.default.svc";

/// A cluster's API that knows every account.
fn cluster() -> Idp {
    let cluster = Idp::start_tls();
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "status": {
            "authenticated": true,
            "audiences": [AUDIENCE],
            "user": {"username": "system:serviceaccount:dcams:gateway", "uid": "uid-1"},
        },
    });
    let answer = Answer::ok(review.to_string()).status(201);
    cluster.answer(REVIEWS, answer.header("Content-Type: application/json"));
    cluster
}

/// What a cluster puts into the file, but for its signature.
fn account_token(serial: &str) -> String {
    let part = |part: Value| BASE64_URL_SAFE_NO_PAD.encode(part.to_string());
    let claims = json!({
        "iss": AUDIENCE,
        "aud": [AUDIENCE],
        "iat": 1_700_000_000,
        "nbf": 1_700_000_000,
        "exp": 4_000_000_000_u64,
        "jti": serial,
        "sub": "system:serviceaccount:dcams:gateway",
        "kubernetes.io": {
            "namespace": "dcams",
            "serviceaccount": {"name": "gateway", "uid": "uid-1"},
        },
    });
    let header = json!({"alg": "RS256", "kid": "cluster"});
    let signature = BASE64_URL_SAFE_NO_PAD.encode([7; 256]);
    format!("{}.{}.{signature}", part(header), part(claims))
}

async fn enable(server: &Bao, cluster: &Idp) {
    let body = json!({"type": "kubernetes"});
    server.root("POST", "sys/auth/kubernetes", body).await;
    let root = BASE64_STANDARD.encode(cluster.root.as_ref().unwrap());
    let body = json!({
        "kubernetes_host": cluster.url(""),
        "kubernetes_ca_cert":
            format!("-----BEGIN CERTIFICATE-----\n{root}\n-----END CERTIFICATE-----\n"),
        "disable_local_ca_jwt": true,
    });
    server.root("POST", "auth/kubernetes/config", body).await;
    let body = json!({
        "bound_service_account_names": ["gateway"],
        "bound_service_account_namespaces": ["dcams"],
        "token_policies": ["gateway"],
        "token_ttl": "1h",
    });
    let path = "auth/kubernetes/role/dcams-gateway";
    server.root("POST", path, body).await;
}

fn service_account(role: &str, file: &Path) -> VaultAuth {
    VaultAuth::Kubernetes {
        mount: ApiPath::parse("kubernetes").unwrap(),
        role: role.to_owned(),
        jwt_file: file.to_owned(),
    }
}

#[tokio::test]
async fn a_service_account_logs_in_with_the_token_that_is_in_its_file_now() {
    let (server, cluster) = (Bao::start().await, cluster());
    enable(&server, &cluster).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let settings = server.settings(service_account("dcams-gateway", &file));
    let vault = Vault::new(settings).unwrap();
    for serial in ["first", "second"] {
        let jwt = account_token(serial);
        fs::write(&file, &jwt).unwrap();
        assert_eq!(vault.read(&main_path()).await.unwrap().version, 1);
        let reviewed = cluster.heard().pop().unwrap();
        assert!(reviewed.contains(&jwt), "{serial}: {reviewed}");
        // So that the next reading needs another login.
        server.revoke_all().await;
    }
    assert_eq!(cluster.asked(REVIEWS), 2);
}

#[tokio::test]
async fn a_service_account_without_a_token_or_a_role_does_not_log_in() {
    let (server, cluster) = (Bao::start().await, cluster());
    enable(&server, &cluster).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let read = |role: &str| {
        let settings = server.settings(service_account(role, &file));
        let vault = Vault::new(settings).unwrap();
        async move { vault.read(&main_path()).await.unwrap_err() }
    };
    assert_eq!(read("dcams-gateway").await, VaultError::Jwt);
    fs::write(&file, account_token("1")).unwrap();
    assert_eq!(read("another").await, VaultError::LoginRefused);
    fs::write(&file, "no.token").unwrap();
    assert_eq!(read("dcams-gateway").await, VaultError::LoginRefused);
    // The cluster does not know it (any more).
    fs::write(&file, account_token("1")).unwrap();
    let unknown = json!({"status": {"authenticated": false, "error": "unknown"}});
    let answer = Answer::ok(unknown.to_string()).status(201);
    cluster.answer(REVIEWS, answer.header("Content-Type: application/json"));
    assert_eq!(cluster.asked(REVIEWS), 0);
    assert_eq!(read("dcams-gateway").await, VaultError::LoginRefused);
    assert_eq!(cluster.asked(REVIEWS), 1);
}
