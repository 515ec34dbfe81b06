//! `[vault]`, and the tables that name a secret there.

use std::{collections::BTreeMap, time::Duration};

use config::{FileFormat, Format};
use rcgen::{CertificateParams, KeyPair};

use super::*;
use crate::config::sources::Seen;
use crate::{
    config::{field::Field, vault},
    credential::vault::{ApiPath, AuthToken, VaultAuth, VaultPath, VaultSettings},
};

const ADDRESS: &str = "address = \"https://vault.example:8200/base\"\n";
const TOKEN: &str = "auth = \"token\"\ntoken = { file = \"vault-secret\" }\n";
const APP_ROLE: &str =
    "auth = \"approle\"\nrole_id = \"canary-role\"\nsecret_id = { file = \"vault-secret\" }\n";
const KUBERNETES: &str = "auth = \"kubernetes\"\nrole = \"gw\"\njwt_file = \"sa/token\"\n";

fn folder() -> Folder {
    let folder = Folder::new();
    folder.write("vault-secret", "canary-token\n");
    folder
}

fn load(folder: &Folder, keys: &str) -> VaultSettings {
    let config = folder.load_with(&format!("[vault]\n{ADDRESS}{keys}"));
    config.unwrap().vault.unwrap()
}

fn path(text: &str) -> VaultPath {
    VaultPath::parse("secret", text, "user", "pass").unwrap()
}

#[test]
fn without_its_section_there_is_no_vault() {
    assert!(folder().load_with("").unwrap().vault.is_none());
}

#[test]
fn each_way_to_log_in_is_read_and_prints_no_secret() {
    let folder = folder();
    let mount = |name| ApiPath::parse(name).unwrap();
    let app_role = |name| VaultAuth::AppRole {
        mount: mount(name),
        role_id: "canary-role".to_owned(),
        secret_id: "canary-token".into(),
    };
    let kubernetes = |name| VaultAuth::Kubernetes {
        mount: mount(name),
        role: "gw".to_owned(),
        jwt_file: folder.path("sa/token"),
    };
    let elsewhere = "auth_mount = \"team/login\"\n";
    for (keys, auth) in [
        (
            TOKEN.to_owned(),
            VaultAuth::Token(AuthToken::new("canary-token".into()).unwrap()),
        ),
        (APP_ROLE.to_owned(), app_role("approle")),
        (format!("{APP_ROLE}{elsewhere}"), app_role("team/login")),
        (KUBERNETES.to_owned(), kubernetes("kubernetes")),
        (format!("{KUBERNETES}{elsewhere}"), kubernetes("team/login")),
    ] {
        let settings = load(&folder, &keys);
        assert_eq!(settings.auth, auth, "{keys}");
        assert!(!format!("{settings:?}").contains("canary"), "{settings:?}");
        assert_eq!(settings, load(&folder, &keys));
    }
    let before = load(&folder, TOKEN);
    folder.write("vault-secret", "canary-other");
    assert_ne!(before, load(&folder, TOKEN));
}

#[test]
fn the_rest_of_the_section_is_read_and_its_shown_defaults_hold() {
    let folder = folder();
    let authority = KeyPair::generate().unwrap();
    let authority = CertificateParams::new(vec!["root".into()])
        .unwrap()
        .self_signed(&authority);
    folder.write("root.pem", authority.unwrap().pem());
    let rest = "namespace = \"team/a\"\nca = \"root.pem\"\nrefresh = \"2s\"\ntimeout = \"3s\"\n";
    let settings = load(&folder, &format!("{TOKEN}{rest}"));
    let address = settings.address.uri().to_string();
    assert_eq!(address, "https://vault.example:8200/base");
    assert_eq!(settings.namespace, Some(ApiPath::parse("team/a").unwrap()));
    assert_eq!(settings.roots.len(), 1);
    assert_eq!(settings.refresh, Duration::from_secs(2));
    assert_eq!(settings.timeout, Duration::from_secs(3));

    let implied = load(&folder, APP_ROLE);
    let (_, shown) = layers::DEFAULTS.split_once("# [vault]\n").unwrap();
    let shown: Vec<&str> = ["auth_mount", "refresh", "timeout"]
        .into_iter()
        .map(|key| {
            let start = format!("# {key} = ");
            let line = shown.lines().find(|line| line.starts_with(&start));
            line.unwrap().trim_start_matches("# ")
        })
        .collect();
    let explicit = load(&folder, &format!("{APP_ROLE}{}", shown.join("\n")));
    assert_eq!(explicit, implied);
}

#[test]
fn a_variable_replaces_the_token_as_a_whole() {
    let mut folder = folder();
    let before = load(&folder, TOKEN);
    folder.set("DCAMS_GATEWAY__VAULT__TOKEN__ENV", "OTHER");
    folder.set("OTHER", "canary-literal");
    assert_ne!(load(&folder, TOKEN), before);
}

/// What is right, what in it is replaced by what (added where nothing is), and the key at fault.
type Fault = (&'static str, &'static str, &'static str, &'static str);

const NO_MATTER_HOW: &[Fault] = &[
    (TOKEN, ADDRESS, "", "address"),
    (TOKEN, ADDRESS, "address = 7\n", "address"),
    (TOKEN, "https:", "http:", "address"),
    (TOKEN, "https://", "https://canary:canary@", "address"),
    (TOKEN, "/base", "/?canary", "address"),
    (TOKEN, "https://", "", "address"),
    (TOKEN, "", "namespace = \"team a\"", "namespace"),
    (TOKEN, "", "namespace = \"\"", "namespace"),
    (TOKEN, "", "ca = \"user\"", "ca"),
    (TOKEN, "", "refresh = \"999ms\"", "refresh"),
    (TOKEN, "", "refresh = \"25h\"", "refresh"),
    (TOKEN, "", "timeout = \"99ms\"", "timeout"),
    (TOKEN, "", "timeout = \"31s\"", "timeout"),
    (TOKEN, "", "zz = 1", "zz"),
];

const METHODS: &[Fault] = &[
    ("", "", "", "auth"),
    (TOKEN, "\"token\"", "\"ldap\"", "auth"),
    (KUBERNETES, "\"kubernetes\"", "\"ldap\"", "auth"),
    ("auth = \"token\"", "", "", "token"),
    (
        TOKEN,
        "{ file = \"vault-secret\" }",
        "\"canary-literal\"",
        "token",
    ),
    (TOKEN, "vault-secret", "spaced", "token"),
    (TOKEN, "vault-secret", "none", "token.file"),
    (TOKEN, "", "auth_mount = \"token\"", "auth_mount"),
    (TOKEN, "", "role_id = \"r\"", "role_id"),
    (TOKEN, "", "jwt_file = \"sa/token\"", "jwt_file"),
    (APP_ROLE, "role_id = \"canary-role\"", "", "role_id"),
    (APP_ROLE, "\"canary-role\"", "\"\"", "role_id"),
    (
        APP_ROLE,
        "secret_id = { file = \"vault-secret\" }",
        "",
        "secret_id",
    ),
    (
        APP_ROLE,
        "{ file = \"vault-secret\" }",
        "\"canary-literal\"",
        "secret_id",
    ),
    (APP_ROLE, "", "token = { file = \"vault-secret\" }", "token"),
    (APP_ROLE, "", "role = \"r\"", "role"),
    (APP_ROLE, "", "auth_mount = \"/a\"", "auth_mount"),
    (KUBERNETES, "role = \"gw\"", "", "role"),
    (KUBERNETES, "jwt_file = \"sa/token\"", "", "jwt_file"),
    (KUBERNETES, "\"sa/token\"", "\"\"", "jwt_file"),
    (
        KUBERNETES,
        "",
        "secret_id = \"canary-literal\"",
        "secret_id",
    ),
    (KUBERNETES, "", "auth_mount = \"a/../b\"", "auth_mount"),
];

#[test]
fn every_fault_of_the_section_is_named_and_causes_no_other() {
    for (auth, from, to, key) in [NO_MATTER_HOW, METHODS].into_iter().flatten() {
        let folder = folder();
        folder.write("spaced", "canary token");
        let right = format!("[vault]\n{ADDRESS}{auth}");
        assert!(right.contains(from), "{from}");
        let wrong = if from.is_empty() {
            format!("{right}{to}")
        } else {
            right.replacen(from, to, 1)
        };
        folder.write("gateway.toml", format!("{wrong}\n{BASE}"));
        let expected = pairs(&[("gateway.toml", &format!("vault.{key}"))]);
        assert_eq!(folder.mistakes(&["gateway.toml"]), expected, "{wrong}");
    }
    let folder = folder();
    folder.write("gateway.toml", format!("vault = 7\n{BASE}"));
    let expected = pairs(&[("gateway.toml", "vault")]);
    assert_eq!(folder.mistakes(&["gateway.toml"]), expected);
}

/// What a table that names a secret reads as, and the keys of its mistakes.
fn read(table: &str) -> (Option<VaultPath>, Vec<String>) {
    let report = Report::default();
    let environment = BTreeMap::new();
    let context = Context {
        report: &report,
        environment: &environment,
        complete: true,
        name: "test",
        seen: &Seen::default(),
    };
    let text = format!("vault = {table}");
    let parsed = FileFormat::Toml.parse(None, &text);
    let value = parsed.unwrap().remove("vault").unwrap();
    let path = vault::path(Field::new(context, "vault".to_owned(), value, "test"));
    let (mistakes, _) = report.into_parts();
    let keys = mistakes.iter().map(|m| m.key().to_owned()).collect();
    (path, keys)
}

#[test]
fn a_table_names_a_secret_and_its_fields() {
    let (found, mistakes) = read("{ path = \"veratad/main\" }");
    assert_eq!(found, Some(path("veratad/main")));
    assert!(mistakes.is_empty());
    let (found, mistakes) =
        read("{ mount = \"kv/team\", path = \"a\", user = \"login\", pass = \"word\" }");
    assert_eq!(
        found,
        VaultPath::parse("kv/team", "a", "login", "word").ok()
    );
    assert!(mistakes.is_empty());
    for (table, key) in [
        ("\"secret/veratad\"", "vault"),
        ("{}", "vault.path"),
        ("{ path = 7 }", "vault.path"),
        ("{ path = \"/a\" }", "vault.path"),
        ("{ path = \"a\", mount = \"\" }", "vault.mount"),
        ("{ path = \"a\", user = \"\" }", "vault.user"),
        ("{ path = \"a\", pass = \"\" }", "vault.pass"),
        ("{ path = \"a\", pass = \"user\" }", "vault.pass"),
        ("{ path = \"a\", field = \"user\" }", "vault.field"),
    ] {
        let (found, mistakes) = read(table);
        assert_eq!(mistakes, [key], "{table}");
        // A key too many spoils nothing that is read.
        assert!(found.is_none() || key == "vault.field", "{table}");
    }
}

#[test]
fn a_pair_is_in_vault_or_in_files_and_not_both() {
    let folder = folder();
    let vault = format!("[vault]\n{ADDRESS}{TOKEN}");
    let both = BASE.replace("{ id = \"c1\",", "{ id = \"c1\", vault = { path = \"a\" },");
    folder.write("gateway.toml", format!("{vault}{both}"));
    let expected = ["user", "pass"].map(|key| format!("accounts[main].credentials[c1].{key}"));
    let expected: Vec<_> = expected
        .iter()
        .map(|key| ("gateway.toml", key.as_str()))
        .collect();
    assert_eq!(folder.mistakes(&["gateway.toml"]), pairs(&expected));
}

#[test]
fn a_vault_that_no_credential_is_in_is_warned_about() {
    let folder = folder();
    let warned = |base: &str| -> Vec<String> {
        folder.write("gateway.toml", format!("[vault]\n{ADDRESS}{TOKEN}{base}"));
        let config = folder.load(&["gateway.toml"]).unwrap();
        config.warnings.iter().map(|w| w.key().to_owned()).collect()
    };
    assert_eq!(warned(BASE), ["vault"]);
    let in_files = "user = { file = \"user\" }, pass = { file = \"pass\" }";
    let in_vault = BASE.replace(in_files, "vault = { path = \"veratad/main\" }");
    assert_ne!(in_vault, BASE);
    assert!(warned(&in_vault).is_empty());
}
