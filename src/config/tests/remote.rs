//! Issuers whose keys are fetched: `jwks_url`, `issuer_discovery` and `[issuers.jwks]`.

use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};

use super::*;
use crate::auth::jwks::{JwksSettings, JwksSource, KeySource};

const URL: &str = "jwks_url = \"https://idp.example/keys?p=1\"";

/// The configuration with these keys of its issuer, and this behind the issuer.
fn text(keys: &str, table: &str) -> String {
    BASE.replace("HS256", "ES256")
        .replace("secret = { file = \"hmac\" }", keys)
        .replace("[[tenants]]", &format!("{table}\n[[tenants]]"))
}

fn load(folder: &Folder, keys: &str, table: &str) -> JwksSettings {
    folder.write("gateway.toml", text(keys, table));
    let mut config = folder.load(&["gateway.toml"]).unwrap();
    assert!(config.signing_keys.is_empty());
    match config.issuers.remove(0).keys {
        KeySource::Remote(keys) => keys.settings().clone(),
        KeySource::Fixed(_) => panic!("no remote keys"),
    }
}

#[test]
fn keys_come_from_a_url_or_by_discovery() {
    let folder = Folder::new();
    let settings = load(&folder, URL, "");
    let JwksSource::Url(endpoint) = settings.source else {
        panic!("no URL");
    };
    assert_eq!(endpoint.uri().to_string(), "https://idp.example/keys?p=1");
    let settings = load(&folder, "issuer_discovery = true", "");
    assert_eq!(
        settings.source,
        JwksSource::discovery("https://idp.example/").unwrap()
    );
    // Off is not there.
    let settings = load(&folder, &format!("{URL}\nissuer_discovery = false"), "");
    assert!(matches!(settings.source, JwksSource::Url(_)));
}

#[test]
fn discovery_appends_its_path_to_the_issuer_without_its_last_slash() {
    for (issuer, document) in [
        (
            "https://idp.example",
            "https://idp.example/.well-known/openid-configuration",
        ),
        (
            "https://idp.example/",
            "https://idp.example/.well-known/openid-configuration",
        ),
        (
            "https://idp.example/t/1",
            "https://idp.example/t/1/.well-known/openid-configuration",
        ),
        (
            "http://127.0.0.1:8",
            "http://127.0.0.1:8/.well-known/openid-configuration",
        ),
    ] {
        let JwksSource::Discovery {
            document: found,
            issuer: kept,
        } = JwksSource::discovery(issuer).unwrap()
        else {
            panic!("no discovery");
        };
        assert_eq!(
            (found.uri().to_string().as_str(), kept.as_str()),
            (document, issuer)
        );
    }
}

#[test]
fn the_table_of_a_fetched_set_is_read_and_its_shown_defaults_hold() {
    let folder = Folder::new();
    let authority = KeyPair::generate().unwrap();
    let authority = CertificateParams::new(vec!["root".into()])
        .unwrap()
        .self_signed(&authority);
    folder.write("root.pem", authority.unwrap().pem());
    let table = "[issuers.jwks]\ntimeout = \"1s\"\ncooldown = \"2s\"\nmin_refresh = \"3s\"\n\
                 max_refresh = \"4s\"\nmax_stale = \"5s\"\nca = \"root.pem\"";
    let settings = load(&folder, URL, table);
    let rhythm = settings.rhythm;
    let read = [
        settings.timeout,
        rhythm.cooldown,
        rhythm.min_refresh,
        rhythm.max_refresh,
        rhythm.max_stale,
    ];
    assert_eq!(read, [1, 2, 3, 4, 5].map(Duration::from_secs));
    assert_eq!(settings.roots.len(), 1);

    let implied = load(&folder, URL, "");
    let (_, shown) = layers::DEFAULTS.split_once("# [issuers.jwks]\n").unwrap();
    let shown: Vec<&str> = shown
        .lines()
        .take_while(|line| !line.starts_with("# [["))
        .filter(|line| line.contains(" = \"") && !line.starts_with("# ca"))
        .map(|line| line.trim_start_matches("# "))
        .collect();
    assert_eq!(shown.len(), 5);
    let explicit = load(
        &folder,
        URL,
        &format!("[issuers.jwks]\n{}", shown.join("\n")),
    );
    assert_eq!(explicit.rhythm, implied.rhythm);
    assert_eq!(explicit.timeout, implied.timeout);
}

#[test]
fn every_fault_of_where_a_set_is_fetched_is_named_and_causes_no_other() {
    let discovery = "issuer_discovery = true";
    let mut cases: Vec<(String, String)> = Vec::new();
    for bad in [
        "\"http://idp.example/keys\"",
        "\"https://canary:canary@idp.example/\"",
        "\"https://idp.example/#canary\"",
        "\"https://idp.example:0/\"",
        "\"/keys\"",
        "\"\"",
        "7",
    ] {
        cases.push((format!("jwks_url = {bad}"), "issuers[idp].jwks_url".into()));
    }
    for (beside, key) in [
        (discovery, "issuer_discovery"),
        ("jwks_file = \"user\"", "jwks_file"),
        ("public_key = \"user\"", "public_key"),
        ("secret = { file = \"hmac\" }", "secret"),
        ("private_key = { file = \"user\" }", "private_key"),
    ] {
        cases.push((format!("{URL}\n{beside}"), format!("issuers[idp].{key}")));
    }
    let flag = "issuers[idp].issuer_discovery".to_owned();
    cases.push(("issuer_discovery = \"yes\"".into(), flag));
    for (keys, key) in cases {
        let folder = Folder::new();
        folder.write("gateway.toml", text(&keys, ""));
        let expected = pairs(&[("gateway.toml", &key)]);
        assert_eq!(folder.mistakes(&["gateway.toml"]), expected, "{keys}");
    }
}

#[test]
fn every_fault_of_how_a_set_is_fetched_is_named_and_causes_no_other() {
    for (line, key) in [
        ("timeout = \"99ms\"", "timeout"),
        ("timeout = \"31s\"", "timeout"),
        ("cooldown = \"999ms\"", "cooldown"),
        ("cooldown = \"901s\"", "cooldown"),
        ("min_refresh = \"0s\"", "min_refresh"),
        ("max_refresh = \"25h\"", "max_refresh"),
        ("min_refresh = \"2h\"", "min_refresh"),
        ("max_refresh = \"59s\"", "min_refresh"),
        ("max_stale = \"721h\"", "max_stale"),
        ("max_stale = \"59m\"", "max_refresh"),
        ("ca = \"user\"", "ca"),
        ("ca = \"none.pem\"", "ca"),
        ("zz = 1", "zz"),
    ] {
        let folder = Folder::new();
        folder.write(
            "gateway.toml",
            text(URL, &format!("[issuers.jwks]\n{line}")),
        );
        let expected = pairs(&[("gateway.toml", &format!("issuers[idp].jwks.{key}"))]);
        assert_eq!(folder.mistakes(&["gateway.toml"]), expected, "{line}");
    }
}

#[test]
fn the_table_of_a_fetched_set_stands_beside_no_other_keys() {
    let folder = Folder::new();
    let text = BASE.replace("[[tenants]]", "[issuers.jwks]\n[[tenants]]");
    folder.write("gateway.toml", text);
    let expected = pairs(&[("gateway.toml", "issuers[idp].jwks")]);
    assert_eq!(folder.mistakes(&["gateway.toml"]), expected);
}

#[test]
fn discovery_needs_an_issuer_that_is_a_url_and_no_secret_serves_a_fetched_set() {
    for issuer in [
        "acme",
        "http://idp.example/",
        "https://idp.example/?tenant=1",
        "https://idp.example/#x",
    ] {
        let folder = Folder::new();
        let text = text("issuer_discovery = true", "").replace("https://idp.example/", issuer);
        folder.write("gateway.toml", text);
        let expected = pairs(&[("gateway.toml", "issuers[idp].issuer_discovery")]);
        assert_eq!(folder.mistakes(&["gateway.toml"]), expected, "{issuer}");
    }
    for (keys, key) in [
        (URL, "jwks_url"),
        ("issuer_discovery = true", "issuer_discovery"),
    ] {
        let folder = Folder::new();
        folder.write("gateway.toml", text(keys, "").replace("ES256", "HS256"));
        let expected = pairs(&[("gateway.toml", &format!("issuers[idp].{key}"))]);
        assert_eq!(folder.mistakes(&["gateway.toml"]), expected);
    }
}
