//! Tests of whole configurations: what is read, from where, and what is refused.

mod audit;
mod broken;
mod quota;
mod redis;
mod remote;
mod ship;
mod vault;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use tempfile::TempDir;

use super::*;
use crate::{
    address::ForwardedHeader,
    operation::Operation,
    server::{Protocol, ProxyProtocol},
    tenant::{Country, Disclosure, Isolation, Unowned},
};

/// What no mistake may show, whatever is wrong.
const CANARIES: [&str; 5] = [
    "canary-user",
    "canary-pass",
    "canary-hmac",
    "canary-literal",
    "canary-token",
];

const BASE: &str = r#"
[state]
key = { file = "state-key" }
[audit]
key = { file = "audit-key" }
[[accounts]]
id = "main"
credentials = [{ id = "c1", user = { file = "user" }, pass = { file = "pass" } }]
[[issuers]]
id = "idp"
issuer = "https://idp.example/"
audiences = ["gw"]
algorithms = ["HS256"]
secret = { file = "hmac" }
tenants = ["acme"]
[[tenants]]
id = "acme"
account = "main"
services = ["getStatus"]
"#;

/// A folder with everything that [`BASE`] names.
struct Folder {
    folder: TempDir,
    environment: Vec<(String, String)>,
}

impl Folder {
    fn new() -> Self {
        let folder = Self {
            folder: tempfile::tempdir().unwrap(),
            environment: Vec::new(),
        };
        folder.write("state-key", key(1));
        folder.write("audit-key", format!("{}\n", key(2)));
        folder.write("user", "canary-user");
        folder.write("pass", "canary-pass\r\n");
        folder.write("hmac", "canary-hmac".repeat(6));
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        set_mode(&path, 0o600);
    }

    fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    fn load(&self, names: &[&str]) -> Result<Config, Mistakes> {
        let paths: Vec<PathBuf> = names.iter().map(|name| self.path(name)).collect();
        Config::load(&paths, self.environment.iter().cloned())
    }

    /// Loads [`BASE`] with something added.
    fn load_with(&self, addition: &str) -> Result<Config, Mistakes> {
        self.write("gateway.toml", format!("{addition}\n{BASE}"));
        self.load(&["gateway.toml"])
    }

    /// Origins (without the folder) and keys of all mistakes, after checking what holds for any.
    fn mistakes(&self, names: &[&str]) -> Vec<(String, String)> {
        let mistakes = self.load(names).unwrap_err();
        let text = mistakes.to_string();
        assert_eq!(text.lines().count(), mistakes.len(), "{text}");
        for canary in CANARIES.iter().copied().chain([key(1).as_str(), &key(2)]) {
            assert!(!text.contains(canary), "{text}");
            assert!(!format!("{mistakes:?}").contains(canary), "{text}");
        }
        let folder = format!("{}/", self.folder.path().display());
        mistakes
            .iter()
            .map(|m| (m.origin().replace(&folder, ""), m.key().to_owned()))
            .collect()
    }
}

#[cfg(unix)]
fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[cfg(not(unix))]
fn set_mode(_: &std::path::Path, _: u32) {}

/// The base64 of a key that is not the same byte 32 times.
fn key(seed: u8) -> String {
    let bytes: Vec<u8> = (0..32).map(|i| seed.wrapping_add(i)).collect();
    STANDARD.encode(bytes)
}

/// The part of [`BASE`] from one header on, up to another.
fn between(from: &str, to: Option<&str>) -> &'static str {
    let start = BASE.find(from).unwrap();
    let end = to.map_or(BASE.len(), |to| BASE.find(to).unwrap());
    BASE.get(start..end).unwrap()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected
        .iter()
        .map(|(origin, key)| ((*origin).to_owned(), (*key).to_owned()))
        .collect()
}

#[test]
fn a_small_configuration_is_completed_by_the_defaults() {
    let config = Folder::new().load_with("").unwrap();
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.server.protocol, Protocol::Http1);
    assert!(!config.route.chunked);
    assert_eq!(config.server.max_connections, 10_000);
    assert_eq!(config.server.max_header_bytes, 16 * 1024);
    assert_eq!(config.server.drain_timeout, Duration::from_secs(30));
    assert_eq!(config.server.http2.stream_window, 64 * 1024);
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:9090");
    assert!(config.admin.token.is_none());
    let url = "https://dcams.app/v3/stable/api/storage";
    assert_eq!(config.upstream.url.to_string(), url);
    assert!(config.upstream.roots.is_empty());
    assert_eq!(config.body.max_body, 10_000_000);
    assert_eq!(config.body.max_lookup_body, 16 * 1024);
    assert_eq!(config.body.body_memory, 256 * 1024 * 1024);
    assert_eq!(config.body.budget_wait, Duration::from_millis(250));
    assert_eq!(config.body.min_rate, 1024);
    assert_eq!(config.rules.required.len(), 10);
    assert_eq!(config.rules.country, Country::Any);
    assert_eq!(config.rules.image_types, crate::payload::ImageTypes::ALL);
    assert_eq!(config.rules.max_image_pixels, 100_000_000);
    assert_eq!(config.telemetry.level, tracing::Level::INFO);
    assert!(config.audit.folder.ends_with("audit"));
    let (folder, keys) = (&config.audit.folder, config.audit.keys.clone());
    let audit = AuditSettings::new(folder, keys);
    for (key, same) in audit.compared(&config.audit) {
        assert!(same, "{key}");
    }
    assert_eq!(config.accounts.len(), 1);
    let issuer = &config.issuers[0];
    assert_eq!(issuer.leeway, Duration::from_secs(30));
    assert_eq!(issuer.max_ttl, Duration::from_hours(24));
    assert_eq!(issuer.types, ["JWT", "at+jwt"]);
    assert!(!issuer.dpop.required && !issuer.dpop.nonce);
    assert_eq!(issuer.dpop.max_age, Duration::from_mins(1));
    assert!(config.dpop.public_urls.is_empty());
    assert_eq!(issuer.tenant_claim, "tenant");
    assert_eq!(issuer.customer_claim, "customer_email");
    let services: Vec<_> = issuer.customer_services.iter().collect();
    assert_eq!(
        services,
        [Operation::CreateOrUpdateCustomer, Operation::GetStatus]
    );
    assert!(config.signing_keys.contains_key("idp"));
    let tenant = &config.tenants[0];
    assert!(tenant.enabled);
    assert_eq!(tenant.response, Disclosure::Minimal);
    assert_eq!(
        tenant.services.iter().collect::<Vec<_>>(),
        [Operation::GetStatus]
    );
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn the_pace_of_rotations_has_the_shown_defaults_and_goes_to_its_bounds() {
    let folder = Folder::new();
    let account = |addition: &str| {
        let text = BASE.replace("[[issuers]]", &format!("{addition}\n[[issuers]]"));
        folder.write("gateway.toml", text);
        folder.load(&["gateway.toml"]).unwrap().accounts.remove(0)
    };
    let implied = account("");
    assert!(implied.probe.is_none() && !implied.pace.probes);
    let (_, shown) = layers::DEFAULTS
        .split_once("# [accounts.rotation]\n")
        .unwrap();
    let shown = ["canary_percent", "canary_time", "retry_after", "retry_max"].map(|key| {
        let start = format!("# {key} = ");
        let line = shown.lines().find(|line| line.starts_with(&start));
        line.unwrap().trim_start_matches("# ")
    });
    let explicit = account(&format!("[accounts.rotation]\n{}", shown.join("\n")));
    assert_eq!(explicit.pace, implied.pace);
    let bounds = account(
        "[accounts.probe]\nemail = \"a@b.example\"\n[accounts.rotation]\ncanary_percent = 50\n\
         canary_time = \"0s\"\nretry_after = \"24h\"\nretry_max = \"24h\"",
    );
    assert!(bounds.probe.is_some() && bounds.pace.probes);
    assert_eq!(bounds.pace.canary_percent, 50);
    assert_eq!(bounds.pace.canary_time, Duration::ZERO);
    assert_eq!(bounds.pace.retry_after, bounds.pace.retry_max);
}

#[test]
fn an_issuer_may_require_proofs_once_the_public_url_is_known() {
    let folder = Folder::new();
    let issuer =
        "tenants = [\"acme\"]\nrequire_dpop = true\ndpop_max_age = \"5s\"\ndpop_nonce = true";
    let text = BASE.replace("tenants = [\"acme\"]", issuer);
    folder.write("gateway.toml", &text);
    folder.write(
        "urls.toml",
        "[server]\npublic_urls = [\"https://gateway.example\", \"http://127.0.0.1:8080\"]",
    );
    let mistakes = folder.load(&["gateway.toml"]).unwrap_err().to_string();
    assert!(mistakes.contains("issuers[idp]"), "{mistakes}");
    let config = folder.load(&["gateway.toml", "urls.toml"]).unwrap();
    assert_eq!(config.dpop.public_urls.len(), 2);
    let rules = config.issuers[0].dpop;
    assert!(rules.required && rules.nonce);
    assert_eq!(rules.max_age, Duration::from_secs(5));
}

#[test]
fn five_mistakes_are_all_named() {
    let folder = Folder::new();
    let text = BASE
        .replace(
            "algorithms = [\"HS256\"]",
            "algorithms = [\"HS256\"]\nlewway = \"1s\"",
        )
        .replace("{ file = \"pass\" }", "\"canary-literal\"")
        .replace("account = \"main\"", "account = \"mian\"")
        .replace("{ file = \"hmac\" }", "{ file = \"short\" }");
    folder.write("short", "canary-hmac");
    folder.write(
        "gateway.toml",
        format!("[server]\nmax_connections = \"many\"\n{text}"),
    );
    assert_eq!(
        folder.mistakes(&["gateway.toml"]),
        pairs(&[
            ("gateway.toml", "server.max_connections"),
            ("gateway.toml", "accounts[main].credentials[c1].pass"),
            ("gateway.toml", "issuers[idp].secret"),
            ("gateway.toml", "issuers[idp].lewway"),
            ("gateway.toml", "tenants[acme].account"),
        ])
    );
    let text = folder.load(&["gateway.toml"]).unwrap_err().to_string();
    assert!(text.contains("did you mean `leeway`?"), "{text}");
    assert!(text.contains("did you mean `main`?"), "{text}");
}

#[test]
fn later_files_win_and_their_lists_append() {
    let folder = Folder::new();
    folder.write(
        "conf/10-base.toml",
        format!("[server]\nmax_headers = 10\n{BASE}"),
    );
    folder.write(
        "conf/20-more.toml",
        "[server]\nmax_headers = 20\n[limits]\nmax_body = 50000",
    );
    folder.write("conf/.30-hidden.toml", "broken");
    folder.write("conf/README.md", "broken");
    for name in ["state-key", "audit-key", "user", "pass", "hmac"] {
        fs::copy(folder.path(name), folder.path(&format!("conf/{name}"))).unwrap();
    }
    folder.write("user2", "another-user");
    folder.write(
        "later.toml",
        r#"
        [server]
        max_headers = 30
        [[accounts]]
        id = "second"
        credentials = [{ id = "c1", user = { file = "user2" }, pass = { file = "pass" } }]
        [[tenants]]
        id = "beta"
        account = "second"
        services = ["updateStatus"]
        country = "US"
        enabled = false
        response = "full"
        "#,
    );
    let config = folder.load(&["conf"]).unwrap();
    assert_eq!(config.server.max_headers, 20);
    assert_eq!(config.body.max_body, 50_000);
    let config = folder.load(&["conf", "later.toml"]).unwrap();
    assert_eq!(config.server.max_headers, 30);
    let ids: Vec<&str> = config.tenants.iter().map(|t| t.id.as_str()).collect();
    assert_eq!(ids, ["acme", "beta"]);
    let beta = &config.tenants[1];
    assert_eq!((beta.country, beta.enabled), (Country::Us, false));
    assert_eq!(beta.response, Disclosure::Full);
    let warned: Vec<&str> = config.warnings.iter().map(Mistake::key).collect();
    assert_eq!(warned, ["tenants[beta]"], "no issuer speaks for it");
}

#[test]
fn an_id_that_stands_in_two_files_names_both() {
    let folder = Folder::new();
    folder.write("a.toml", BASE);
    folder.write("b.toml", between("[[accounts]]", None));
    let found = folder.mistakes(&["a.toml", "b.toml"]);
    for key in ["accounts[main].id", "issuers[idp].id", "tenants[acme].id"] {
        assert!(
            found.contains(&("b.toml".to_owned(), key.to_owned())),
            "{found:?}"
        );
    }
    let text = folder.load(&["a.toml", "b.toml"]).unwrap_err().to_string();
    let line = text
        .lines()
        .find(|l| l.contains("accounts[main].id"))
        .unwrap();
    assert!(line.contains("a.toml") && line.contains("b.toml"), "{line}");
}

#[test]
fn the_environment_overrides_scalars() {
    let mut folder = Folder::new();
    folder.set("DCAMS_GATEWAY__SERVER__LISTEN", "127.0.0.1:1234");
    folder.set("DCAMS_GATEWAY__SERVER__MAX_CONNECTIONS", "7");
    folder.set("DCAMS_GATEWAY__SERVER__HTTP2__STREAM_WINDOW", "32KiB");
    folder.set("DCAMS_GATEWAY__LIMITS__MAX_BODY", "2000000");
    folder.set("DCAMS_GATEWAY__TELEMETRY__LOG_FORMAT", "json");
    folder.set("DCAMS_GATEWAY_OTHER", "not ours");
    let config = folder
        .load_with("[server]\nlisten = \"127.0.0.1:1\"")
        .unwrap();
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:1234");
    assert_eq!(config.server.max_connections, 7);
    assert_eq!(config.server.http2.stream_window, 32 * 1024);
    assert_eq!(config.server.http2.connection_window, 1 << 20);
    assert_eq!(config.body.max_body, 2_000_000);
}

#[test]
fn a_mistake_in_the_environment_names_the_variable() {
    for (name, value, key) in [
        (
            "DCAMS_GATEWAY__SERVER__LISEN",
            "127.0.0.1:1",
            "server.lisen",
        ),
        ("DCAMS_GATEWAY__SERVER__LISTEN", "", "server.listen"),
        ("DCAMS_GATEWAY__SERVER__LISTEN__X", "1", "server.listen"),
        ("DCAMS_GATEWAY__SERVER", "1", "server"),
        (
            "DCAMS_GATEWAY__SERVER__MAX_HEADERS",
            "1e3",
            "server.max_headers",
        ),
        ("DCAMS_GATEWAY__SERVER__TLS__CERT", "x", "server.tls"),
        (
            "DCAMS_GATEWAY__VALIDATION__REQUIRED",
            "email",
            "validation.required",
        ),
        ("DCAMS_GATEWAY__TENANTS__0__ID", "acme", "tenants"),
        ("DCAMS_GATEWAY__STATE__KEY", "canary-literal", "state.key"),
        (
            "DCAMS_GATEWAY__STATE__KEY__FILE",
            "canary-literal",
            "state.key.file",
        ),
        (
            "DCAMS_GATEWAY__STATE__KEY__ENV",
            "canary-literal",
            "state.key.env",
        ),
        ("DCAMS_GATEWAY__CACHE__ENABLED", "maybe", "cache.enabled"),
        ("dcams_gateway__nothing", "1", "nothing"),
        ("DCAMS_GATEWAY__", "1", ""),
    ] {
        let mut folder = Folder::new();
        folder.set(name, value);
        folder.write("gateway.toml", BASE);
        let origin = format!("environment variable {name}");
        assert_eq!(
            folder.mistakes(&["gateway.toml"]),
            pairs(&[(&origin, key)]),
            "{name}"
        );
    }
}

#[test]
fn a_variable_sets_a_flag_and_a_share_as_text() {
    let mut folder = Folder::new();
    folder.set("DCAMS_GATEWAY__CACHE__ENABLED", "false");
    folder.set("DCAMS_GATEWAY__CACHE__JITTER", "0.25");
    folder.write("gateway.toml", BASE);
    let config = folder.load(&["gateway.toml"]).unwrap();
    assert_eq!((config.cache.enabled, config.cache.jitter), (false, 25));
}

#[test]
fn a_key_that_two_variables_set_is_a_mistake() {
    let mut folder = Folder::new();
    folder.set("DCAMS_GATEWAY__SERVER__MAX_HEADERS", "10");
    folder.set("dcams_gateway__server__max_headers", "20");
    folder.write("gateway.toml", BASE);
    let found = folder.mistakes(&["gateway.toml"]);
    let origin = "environment variable dcams_gateway__server__max_headers";
    assert_eq!(found, pairs(&[(origin, "server.max_headers")]));
}

#[test]
fn a_secret_comes_from_a_file_or_a_variable_and_a_later_layer_replaces_it() {
    let mut folder = Folder::new();
    folder.set("STATE", &key(7));
    let text = BASE.replace("{ file = \"state-key\" }", "{ env = \"STATE\" }");
    folder.write("gateway.toml", &text);
    let tenant = TenantId::try_from("acme").unwrap();
    let pseudonym = |config: &Config| {
        let purpose = crate::ident::Purpose::Customer;
        config
            .pseudonyms
            .pseudonym(purpose, &tenant, b"x")
            .to_string()
    };
    let by_variable = pseudonym(&folder.load(&["gateway.toml"]).unwrap());
    folder.write("over.toml", "[state]\nkey = { file = \"state-key\" }");
    let by_file = pseudonym(&folder.load(&["gateway.toml", "over.toml"]).unwrap());
    assert_ne!(by_variable, by_file);
    let path = folder.path("over-key");
    folder.write("over-key", key(7));
    folder.set("DCAMS_GATEWAY__STATE__KEY__FILE", path.to_str().unwrap());
    let by_override = pseudonym(&folder.load(&["gateway.toml", "over.toml"]).unwrap());
    assert_eq!(by_override, by_variable);
}

#[test]
fn one_line_break_at_the_end_of_a_secret_is_cut_and_nothing_else() {
    // 32 bytes are enough for HS256; the line break does not count as one of them.
    for (content, accepted) in [
        ("x".repeat(31) + "y", true),
        ("x".repeat(31) + "\n", false),
        ("x".repeat(30) + "\r\n", false),
        ("x".repeat(31) + "\n\n", true),
        ("x".repeat(31) + "\r", true),
        ("x".repeat(31) + " \n", true),
    ] {
        let folder = Folder::new();
        folder.write("hmac", &content);
        assert_eq!(folder.load_with("").is_ok(), accepted, "{content:?}");
    }
}

#[cfg(unix)]
#[test]
fn a_secret_file_that_everyone_may_read_is_warned_about() {
    let folder = Folder::new();
    set_mode(&folder.path("pass"), 0o644);
    let config = folder.load_with("").unwrap();
    assert_eq!(config.warnings.len(), 1);
    assert_eq!(
        config.warnings[0].key(),
        "accounts[main].credentials[c1].pass.file"
    );
    set_mode(&folder.path("pass"), 0o640);
    assert!(folder.load_with("").unwrap().warnings.is_empty());
}

#[test]
fn an_account_that_nobody_uses_is_warned_about() {
    let folder = Folder::new();
    folder.write("user2", "another-user");
    let config = folder
        .load_with(
            "[[accounts]]\nid = \"spare\"\n\
             credentials = [{ id = \"c\", user = { file = \"user2\" }, pass = { file = \"pass\" } }]",
        )
        .unwrap();
    let warned: Vec<&str> = config.warnings.iter().map(Mistake::key).collect();
    assert_eq!(warned, ["accounts[spare]"]);
}

#[test]
fn public_keys_are_plain_paths_and_a_private_key_signs_but_is_warned_about() {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let folder = Folder::new();
    folder.write("idp.pem", pair.public_key_pem());
    folder.write("private.pem", pair.serialize_pem());
    folder.write("idp.json", jwks(&pair));
    let asymmetric = BASE.replace("HS256", "ES256");
    for kind in ["public_key = \"idp.pem\"", "jwks_file = \"idp.json\""] {
        let text = asymmetric.replace("secret = { file = \"hmac\" }", kind);
        folder.write("gateway.toml", &text);
        let config = folder.load(&["gateway.toml"]).unwrap();
        assert!(config.signing_keys.is_empty());
        assert!(config.warnings.is_empty());
        let signing = format!("{kind}\nprivate_key = {{ file = \"private.pem\" }}");
        folder.write("gateway.toml", text.replace(kind, &signing));
        let config = folder.load(&["gateway.toml"]).unwrap();
        assert!(config.signing_keys.contains_key("idp"));
        assert_eq!(config.warnings[0].key(), "issuers[idp].private_key");
    }
}

/// The JWK set of one P-256 key.
#[test]
fn who_may_call_is_read_and_lists_that_cannot_tell_callers_apart_are_warned_about() {
    let folder = Folder::new();
    let addresses = BASE.replace(
        "account = \"main\"",
        "account = \"main\"\nallow = [\"192.0.2.0/24\", \"2001:db8::1\"]\ndeny = [\"192.0.2.7\"]",
    );
    let warned = |server: &str| -> (Config, Vec<String>) {
        folder.write("gateway.toml", format!("{server}\n{addresses}"));
        let config = folder.load(&["gateway.toml"]).unwrap();
        let keys = config.warnings.iter().map(|w| w.key().to_owned()).collect();
        (config, keys)
    };
    let (config, keys) = warned("");
    assert_eq!(keys, ["tenants[acme].allow"]);
    let rules = &config.tenants[0].addresses;
    for (address, admitted) in [
        ("192.0.2.1", true),
        ("192.0.2.7", false),
        ("2001:db8::1", true),
        ("2001:db8::2", false),
    ] {
        let client = address.parse::<std::net::IpAddr>().unwrap().into();
        assert_eq!(rules.check(client).is_ok(), admitted, "{address}");
    }
    let (_, keys) = warned("[server]\nlisten = \"0.0.0.0:80\"");
    assert!(keys.is_empty(), "{keys:?}");
    let (config, keys) = warned(
        "[server]\ntrusted_proxies = [\"::1\"]\nforwarded_header = \"forwarded\"\n\
         proxy_protocol = \"required\"",
    );
    assert!(keys.is_empty(), "{keys:?}");
    assert_eq!(config.proxies.header, ForwardedHeader::Forwarded);
    let networks = config.proxies.networks;
    assert!(networks.contains("::1".parse().unwrap()));
    assert_eq!(
        config.server.proxy_protocol,
        ProxyProtocol::Required(networks)
    );
    let (_, keys) = warned("[server]\ntrusted_proxies = [\"0.0.0.0/0\"]");
    assert_eq!(keys, ["server.trusted_proxies[0]"]);
}

fn jwks(pair: &KeyPair) -> String {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let point = pair.public_key_raw();
    let (x, y) = (&point[1..33], &point[33..65]);
    serde_json::json!({ "keys": [{
        "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "k1",
        "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
    }] })
    .to_string()
}

#[test]
fn a_file_that_cannot_be_read_does_not_make_everything_else_seem_missing() {
    let folder = Folder::new();
    let expected = [("none.toml", "")];
    assert_eq!(folder.mistakes(&["none.toml"]), pairs(&expected));
    folder.write("syntax.toml", "[server]\nlisten = canary-literal\n");
    assert_eq!(
        folder.mistakes(&["syntax.toml"]),
        pairs(&[("syntax.toml", "")])
    );
    let text = folder.load(&["syntax.toml"]).unwrap_err().to_string();
    assert!(text.contains("line 2, column 10"), "{text}");
    folder.write("latin1.toml", b"# caf\xe9\n");
    assert_eq!(
        folder.mistakes(&["latin1.toml"]),
        pairs(&[("latin1.toml", "")])
    );
    folder.write(
        "number.toml",
        "[server]\nmax_headers = 99999999999999999999",
    );
    assert_eq!(
        folder.mistakes(&["number.toml"]),
        pairs(&[("number.toml", "")])
    );
    fs::create_dir(folder.path("empty")).unwrap();
    let found = folder.mistakes(&["empty"]);
    assert_eq!(found, pairs(&[("empty", "")]));
}

#[test]
fn no_file_and_an_empty_file_are_told_apart() {
    let folder = Folder::new();
    assert_eq!(folder.mistakes(&[]), pairs(&[("command line", "")]));
    folder.write("empty.toml", "");
    let missing = ["accounts", "issuers", "tenants", "state.key", "audit.key"];
    let expected: Vec<_> = missing.iter().map(|key| ("empty.toml", *key)).collect();
    assert_eq!(folder.mistakes(&["empty.toml"]), pairs(&expected));
}

/// The keys of a TOML text by section, with those that are commented out: the lines that begin
/// with `key = ` behind at most one `# `.
fn written_keys(text: &str) -> BTreeSet<String> {
    let mut section = String::new();
    let mut keys = BTreeSet::new();
    for line in text.lines() {
        let line = line.strip_prefix("# ").unwrap_or(line);
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']).to_owned();
        }
        let Some((key, _)) = line.split_once(" = ") else {
            continue;
        };
        if key.chars().all(|c| c.is_ascii_alphabetic() || c == '_') {
            keys.insert(format!("{section}.{key}"));
        }
    }
    keys
}

/// The keys that the code asks for: what it suggests for an unknown key in each section.
fn asked_keys() -> BTreeSet<String> {
    let folder = Folder::new();
    let sections = "admin audit cache limits quota quota.charge quota.cost reload server server.http2 state telemetry \
         upstream validation";
    let text: String = BASE
        .lines()
        .map(|line| format!("{line}\n"))
        .flat_map(|line| {
            let probe = line.starts_with("[[").then(|| "zz = 1\n".to_owned());
            [Some(line), probe].into_iter().flatten()
        })
        .collect();
    let remote = "[[issuers]]\nid = \"remote\"\nissuer = \"https://remote.example/\"\n\
                  audiences = [\"gw\"]\nalgorithms = [\"ES256\"]\ntenants = [\"acme\"]\n\
                  issuer_discovery = true\n[issuers.jwks]\nzz = 1\n\
                  [[issuers.bind]]\nclaim = \"ref\"\npointer = \"/reference\"\nzz = 1\n\
                  [[revocations]]\ntenant = \"acme\"\nzz = 1\n\
                  [[accounts]]\nid = \"second\"\n[accounts.probe]\nemail = \"a@b.example\"\nzz = 1\n\
                  [accounts.rotation]\nzz = 1\n[[accounts.credentials]]\nid = \"c2\"\nzz = 1\n\
                  user = { file = \"hmac\" }\npass = { file = \"pass\" }\n";
    let quota = "[tenants.cache]\nzz = 1\n[tenants.quota]\nzz = 1\n[tenants.per_subject]\nzz = 1\n";
    let vault = "[vault]\naddress = \"https://vault.example\"\nauth = \"token\"\n\
                 token = { file = \"hmac\" }\nzz = 1\n";
    let redis = "[state]\nbackend = \"redis\"\n\
                 [state.redis]\nurls = [\"redis://127.0.0.1\"]\nnodes = 1\nzz = 1\n";
    folder.write("redis.toml", redis);
    let ship = "[audit.ship]\nkind = \"nats\"\nurl = \"nats://[::1]\"\nsubject = \"a\"\nwhat = \"heads\"\nzz = 1\n";
    folder.write("ship.toml", ship);
    let text = text + quota + remote + vault;
    folder.write("gateway.toml", text);
    let probes: Vec<String> = sections
        .split(' ')
        .map(|s| {
            format!(
                "[{s}]
zz = 1
"
            )
        })
        .collect();
    folder.write("probes.toml", probes.concat());
    let mistakes = folder
        .load(&["gateway.toml", "probes.toml", "redis.toml", "ship.toml"])
        .unwrap_err();
    let mut keys = BTreeSet::new();
    for mistake in &mistakes {
        let section = mistake.key().strip_suffix(".zz").unwrap();
        // `issuers[remote].bind[0]` is called `issuers.bind`.
        let parts = section.split(['[', ']']).step_by(2);
        let section: String = parts.collect();
        let line = mistake.to_string();
        let (_, known) = line.split_once("nearest first: ").unwrap();
        keys.extend(known.split(", ").map(|key| format!("{section}.{key}")));
    }
    keys
}

#[test]
fn default_toml_shows_every_key_and_no_other() {
    let mut asked = asked_keys();
    // Tables of their own, not keys.
    assert!(asked.remove("server.http2"));
    assert!(asked.remove("state.redis"));
    assert!(asked.remove("audit.ship"));
    assert!(asked.remove("issuers.jwks"));
    assert!(asked.remove("issuers.bind"));
    assert!(asked.remove("accounts.credentials"));
    assert!(asked.remove("accounts.probe"));
    assert!(asked.remove("accounts.rotation"));
    assert!(asked.remove("quota.charge"));
    assert!(asked.remove("quota.cost"));
    assert!(asked.remove("tenants.cache"));
    assert!(asked.remove("tenants.per_subject"));
    assert!(asked.remove("tenants.quota"));
    assert_eq!(written_keys(layers::DEFAULTS), asked);
}

#[test]
fn the_defaults_that_default_toml_shows_for_the_lists_are_those_of_the_code() {
    let folder = Folder::new();
    let shown = |key: &str| {
        let line = layers::DEFAULTS
            .lines()
            .find(|line| line.starts_with(&format!("# {key} = ")));
        line.unwrap().trim_start_matches("# ").to_owned()
    };
    let issuer = [
        "tenant_claim",
        "customer_claim",
        "leeway",
        "max_ttl",
        "types",
        "require_dpop",
        "dpop_max_age",
        "dpop_nonce",
    ];
    let issuer = issuer.map(shown).join("\n") + "\n" + &shown("customer_services");
    let tenant = ["enabled", "response", "isolation"].map(shown).join("\n");
    let text = BASE
        .replace("[[tenants]]", &format!("{issuer}\n[[tenants]]\n{tenant}"))
        .replace(
            "[[accounts]]",
            &format!("[[accounts]]\n{}", shown("email_case")),
        );
    folder.write("gateway.toml", text);
    let explicit = folder.load(&["gateway.toml"]).unwrap();
    let implied = folder.load_with("").unwrap();
    let of_issuer = |config: &Config| {
        let i = &config.issuers[0];
        (
            i.tenant_claim.clone(),
            i.customer_claim.clone(),
            i.leeway,
            i.max_ttl,
            i.types.clone(),
            i.customer_services,
            i.dpop,
        )
    };
    assert_eq!(of_issuer(&explicit), of_issuer(&implied));
    let of_tenant = |config: &Config| {
        let t = &config.tenants[0];
        (t.enabled, t.response, t.isolation)
    };
    assert_eq!(of_tenant(&explicit), of_tenant(&implied));
    let case = |config: &Config| config.accounts[0].email_case;
    assert_eq!(case(&explicit), case(&implied));
    // `unowned` needs a ledger beside it.
    let ledger = "isolation = \"ledger\"\n";
    let of = |unowned: &str| {
        let tenant = format!("account = \"main\"\n{ledger}{unowned}");
        folder.write("gateway.toml", BASE.replace("account = \"main\"", &tenant));
        folder.load(&["gateway.toml"]).unwrap().tenants[0].isolation
    };
    assert_eq!(of(&shown("unowned")), of(""));
}

#[test]
fn the_production_example_holds_once_its_files_exist() {
    let folder = Folder::new();
    let example = include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/config/production.example.toml"
    ));
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    folder.write("production.toml", example);
    folder.write("keys/acme.pem", pair.public_key_pem());
    folder.write("secrets/state-key", key(3) + "\n");
    folder.write("secrets/audit-key", key(4) + "\n");
    folder.write("secrets/admin-token", "canary-token".repeat(3) + "\n");
    folder.write("secrets/veratad-user", "canary-user");
    assert_eq!(
        folder.mistakes(&["production.toml"]),
        pairs(&[(
            "production.toml",
            "accounts[acme-veratad].credentials[2026-11].pass.file"
        )])
    );
    folder.write("secrets/veratad-pass", "canary-pass");
    let config = folder.load(&["production.toml"]).unwrap();
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    assert!(config.admin.token.is_some());
    assert!(!format!("{config:?}").contains("canary"));
}

#[test]
fn a_clock_that_was_never_set_is_refused() {
    let at = |second| Timestamp::from_second(second).unwrap();
    assert!(check_clock(at(0)).is_err());
    assert!(check_clock(at(EARLIEST - 1)).is_err());
    assert!(check_clock(at(EARLIEST)).is_ok());
}

#[test]
fn the_state_is_beside_the_file_that_names_it_or_in_the_working_directory() {
    let folder = Folder::new();
    let implied = folder.load_with("").unwrap();
    assert_eq!(implied.state.backend.folder(), Some(Path::new("state")));
    folder.write(
        "here.toml",
        BASE.replace("[state]", "[state]\npath = \"mine\""),
    );
    let named = folder.load(&["here.toml"]).unwrap();
    assert_eq!(
        named.state.backend.folder(),
        Some(&*folder.folder.path().join("mine"))
    );
}

impl Folder {
    /// One reading, and what it looked at, by names in this folder.
    fn read(&self, names: &[&str]) -> (Reading, Vec<String>, Vec<String>) {
        let paths: Vec<PathBuf> = names.iter().map(|name| self.path(name)).collect();
        let reading = Origin::new(&paths, self.environment.iter().cloned()).read();
        let relative = |paths: &[PathBuf]| {
            let paths = paths.iter();
            let relative = paths.map(|p| p.strip_prefix(self.folder.path()).unwrap());
            relative.map(|p| p.display().to_string()).collect()
        };
        let files = relative(&reading.sources.files);
        let credentials = relative(&reading.sources.credentials);
        (reading, files, credentials)
    }
}

#[test]
fn a_reading_tells_what_it_looked_at_and_credentials_apart() {
    let folder = Folder::new();
    let issuer = "id = \"idp\"";
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    folder.write("more/idp.pem", pair.public_key_pem());
    let second = "[[issuers]]\nid = \"two\"\nissuer = \"https://two.example/\"\n\
                  audiences = [\"gw\"]\nalgorithms = [\"ES256\"]\ntenants = [\"acme\"]\n\
                  public_key = \"idp.pem\"\n";
    folder.write("more/second.toml", second);
    folder.write("gateway.toml", BASE);
    let (reading, files, credentials) = folder.read(&["gateway.toml", "more"]);
    assert!(reading.outcome.is_ok());
    let read = [
        "audit-key",
        "gateway.toml",
        "hmac",
        "more",
        "more/idp.pem",
        "more/second.toml",
        "state-key",
    ];
    assert_eq!(files, read);
    assert_eq!(credentials, ["pass", "user"]);
    assert!(!reading.sources.once);
    // What fails says so too, and of what is not there.
    fs::remove_file(folder.path("hmac")).unwrap();
    folder.write("gateway.toml", BASE.replace(issuer, "id = 7"));
    let (reading, files, _) = folder.read(&["gateway.toml", "elsewhere.toml"]);
    assert!(reading.outcome.is_err());
    assert_eq!(files[..3], ["audit-key", "elsewhere.toml", "gateway.toml"]);
    assert!(files.contains(&"hmac".to_owned()), "{files:?}");
}

#[test]
fn a_fingerprint_is_another_one_exactly_where_something_else_was_found() {
    let folder = Folder::new();
    fs::create_dir(folder.path("more")).unwrap();
    folder.write(
        "more/gateway.toml",
        BASE.replace("file = \"", "file = \"../"),
    );
    let print = || folder.read(&["more"]).0.sources.fingerprint;
    let mut before = print();
    folder.write("user", "canary-user");
    folder.write("unread", "x");
    assert!(print() == before, "nothing of it was read");
    for (name, content) in [
        ("user", "canary-another"),
        ("pass", "canary-another"),
        ("hmac", &"canary-another".repeat(6)),
        ("more/empty.toml", ""),
        ("more/empty.toml", "[server]\n"),
    ] {
        folder.write(name, content);
        let after = print();
        assert!(after != before, "{name}");
        before = after;
    }
    fs::remove_file(folder.path("hmac")).unwrap();
    assert!(print() != before);
}

#[test]
fn what_comes_from_a_pipe_cannot_be_read_again() {
    let folder = Folder::new();
    folder.write("gateway.toml", BASE);
    let pipe = folder.path("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let writer = std::thread::spawn(move || fs::write(pipe, "[server]\n").unwrap());
    let (reading, ..) = folder.read(&["gateway.toml", "pipe"]);
    writer.join().unwrap();
    assert!(reading.outcome.is_ok() && reading.sources.once);
}

#[test]
fn files_are_watched_every_second_unless_that_is_switched_off() {
    let folder = Folder::new();
    let watch = |toml: &str| folder.load_with(toml).unwrap().reload.watch;
    assert_eq!(watch(""), Some(Duration::from_secs(1)));
    let shortest = Duration::from_millis(100);
    assert_eq!(watch("[reload]\nwatch = \"100ms\""), Some(shortest));
    assert_eq!(watch("[reload]\nwatch = \"0s\""), None);
    folder.write(
        "gateway.toml",
        format!("[reload]\nwatch = \"99ms\"\n{BASE}"),
    );
    let found = folder.mistakes(&["gateway.toml"]);
    assert_eq!(found, pairs(&[("gateway.toml", "reload.watch")]));
}
