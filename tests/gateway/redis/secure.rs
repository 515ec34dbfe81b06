//! TLS, and a user who may do no more than is needed.

use std::fs;

use dcams_gateway::{
    auth,
    store::{
        Backend, Change, StateSettings, Store, Table,
        redis::{
            Redis,
            dial::Fault,
            settings::{Login, Mode, Password, RedisSettings},
        },
    },
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::{
    link::{count, fault, settings},
    server::{RedisServer, free_port},
};
use dcams_gateway::ident::{AccountId, PseudonymKey, Purpose};

/// A server that speaks TLS alone, and the authority of its certificate.
fn encrypted() -> (RedisServer, CertificateDer<'static>, tempfile::TempDir) {
    auth::install_crypto();
    let (authority, root) = authority();
    let names = vec!["127.0.0.1".into()];
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(names).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("cert"), certificate.pem()).unwrap();
    fs::write(path("key"), key.serialize_pem()).unwrap();
    let port = free_port();
    let (cert, key, number) = (path("cert"), path("key"), port.to_string());
    let server = RedisServer::on(
        port,
        &[
            "--port",
            "0",
            "--tls-port",
            &number,
            "--tls-cert-file",
            &cert,
            "--tls-key-file",
            &key,
            "--tls-ca-cert-file",
            &cert,
            "--tls-auth-clients",
            "no",
        ],
    );
    (server, root, folder)
}

fn authority() -> (CertifiedIssuer<'static, KeyPair>, CertificateDer<'static>) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let root = authority.der().clone();
    (authority, root)
}

#[tokio::test]
async fn a_server_is_believed_by_its_certificate_alone() {
    let (server, root, _folder) = encrypted();
    let url = server.url().replace("redis://", "rediss://");
    let mut with = settings(std::slice::from_ref(&url), Mode::Single);
    assert_eq!(fault(&with).await, Fault::Tls);
    with.roots = vec![authority().1];
    assert_eq!(fault(&with).await, Fault::Tls);
    with.roots = vec![root.clone()];
    let redis = Redis::connect(&with).await.unwrap();
    assert_eq!(count(&redis, "a").await, Ok(1));
    // Its certificate is for another name.
    let named = url.replace("127.0.0.1", "localhost");
    let mut other = settings(&[named], Mode::Single);
    other.roots = vec![root];
    assert_eq!(fault(&other).await, Fault::Tls);
    // A plain one there, and TLS to a plain one.
    assert_ne!(
        fault(&settings(&[server.url()], Mode::Single)).await,
        Fault::Tls
    );
    let plain = RedisServer::start().url().replace("redis://", "rediss://");
    assert!(
        [Fault::Tls, Fault::TooSlow, Fault::Unreachable]
            .contains(&fault(&settings(&[plain], Mode::Single)).await)
    );
}

/// The rules of the user in `docs/REDIS.md`.
fn documented_rules() -> Vec<String> {
    let page = include_str!("../../../docs/REDIS.md");
    let (_, rest) = page.split_once("ACL SETUSER dcams-gateway ").unwrap();
    let (rules, _) = rest.split_once("\n```").unwrap();
    let words = rules.split_whitespace().filter(|word| *word != "\\");
    words
        .map(|word| word.trim_matches('\'').to_owned())
        .collect()
}

#[tokio::test]
async fn the_user_of_the_documentation_may_do_what_is_needed_and_no_more() {
    let server = RedisServer::start();
    let rules = documented_rules();
    let mut said = vec!["ACL", "SETUSER", "dcams-gateway"];
    said.extend(rules.iter().map(String::as_str));
    assert_eq!(server.cli(&said), "OK", "{rules:?}");
    server.cli(&["ACL", "SETUSER", "dcams-gateway", ">canary-password"]);
    let login = Login {
        user: Some("dcams-gateway".to_owned()),
        password: Some(Password::new("canary-password".into())),
    };
    let open = async |prefix: &str| {
        let settings = RedisSettings {
            login: login.clone(),
            prefix: prefix.to_owned(),
            ..settings(&[server.url()], Mode::Single)
        };
        let key = Zeroizing::new([7; 32]);
        let backend = Backend::Redis(Box::new(settings));
        Store::open(&StateSettings { key, backend }).await
    };
    let store = open("dcams-gateway:").await.unwrap();
    let account = AccountId::try_from("main").unwrap();
    let key = PseudonymKey::derive(&[7; 32]).pseudonym(Purpose::Owner, &account, b"a");
    let put = |_: usize, _: Option<&[u8]>| Change::Put(b"1".to_vec());
    let remove = |_: usize, _: Option<&[u8]>| Change::Remove;
    for table in [Table::Customers, Table::Credentials, Table::Revocations] {
        assert_eq!(store.update(table, vec![key], put).await, Ok(vec![None]));
        assert_eq!(store.get(table, &key).await, Ok(Some(b"1".to_vec())));
        if table != Table::Customers {
            assert_eq!(store.scan(table).await, Ok(vec![(key, b"1".to_vec())]));
            assert_eq!(store.version(table).await, Ok(Some(1)));
        }
        store.update(table, vec![key], remove).await.unwrap();
    }
    let denied = server.cli(&["ACL", "LOG"]);
    assert!(denied.is_empty(), "{denied}");
    // Not under another name, and nothing besides.
    let elsewhere = open("other:").await.unwrap_err().to_string();
    assert!(elsewhere.contains("refuses"), "{elsewhere}");
    for command in ["FLUSHALL", "CONFIG GET *", "KEYS *", "SHUTDOWN"] {
        let words: Vec<&str> = command.split(' ').collect();
        let mut dry = vec!["ACL", "DRYRUN", "dcams-gateway"];
        dry.extend(words);
        assert!(server.cli(&dry).contains("no permissions"), "{command}");
    }
}
