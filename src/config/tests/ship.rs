//! `[audit.ship]`.

use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};

use super::*;
use crate::audit::ship::{Bounds, Place, ShipSettings, What};

const HTTP: &str = "kind = \"http\"\nurl = \"https://siem.example/in\"\nwhat = \"events\"\n";
const NATS: &str =
    "kind = \"nats\"\nurl = \"tls://nats.example\"\nwhat = \"heads\"\nsubject = \"audit.a\"\n";

fn folder() -> Folder {
    let folder = Folder::new();
    folder.write("ship-token", "canary-token\n");
    folder
}

fn load(folder: &Folder, keys: &str) -> ShipSettings {
    let config = folder.load_with(&format!("[audit.ship]\n{keys}"));
    config.unwrap().audit.ship.unwrap()
}

#[test]
fn without_its_section_there_is_no_second_place() {
    assert!(folder().load_with("").unwrap().audit.ship.is_none());
}

#[test]
fn each_kind_is_read_and_prints_no_secret() {
    let folder = folder();
    let authority = CertificateParams::new(vec!["root".into()])
        .unwrap()
        .self_signed(&KeyPair::generate().unwrap());
    folder.write("root.pem", authority.unwrap().pem());
    let rest = "token = { file = \"ship-token\" }\nca = \"root.pem\"\ntimeout = \"3s\"\n\
                batch_lines = 7\nbatch_bytes = \"2KiB\"\nbatch_wait = \"0s\"\n\
                retry_min = \"2s\"\nretry_max = \"2s\"\n";
    let settings = load(&folder, &format!("{HTTP}{rest}"));
    assert!(!format!("{settings:?}").contains("canary"), "{settings:?}");
    assert_eq!((settings.roots.len(), settings.token.is_some()), (1, true));
    let bounds = Bounds {
        lines: 7,
        bytes: 2048,
        wait: Duration::ZERO,
    };
    let two = Duration::from_secs(2);
    assert_eq!((settings.batch, settings.retry), (bounds, (two, two)));
    let Place::Http(endpoint) = &settings.place else {
        panic!("{settings:?}");
    };
    assert_eq!(endpoint.uri(), "https://siem.example/in");

    let settings = load(&folder, NATS);
    assert_eq!(settings.what, What::Heads);
    let Place::Nats { server, subject } = &settings.place else {
        panic!("{settings:?}");
    };
    assert!(server.is_https() && subject.as_str() == "audit.a");
    let plain = load(
        &folder,
        &NATS.replace("tls://nats.example", "nats://[::1]:1"),
    );
    assert!(matches!(plain.place, Place::Nats { server, .. } if !server.is_https()));

    let otlp = HTTP.replace("http\"", "otlp\"");
    let config = folder.load_with(&format!("[audit.ship]\n{otlp}")).unwrap();
    assert_eq!(config.warnings.len(), 1, "the path of logs is missing");
    assert!(matches!(config.audit.ship.unwrap().place, Place::Otlp(_)));
    load(&folder, &otlp.replace("/in", "/v1/logs"));
}

#[test]
fn its_shown_defaults_hold() {
    let folder = folder();
    let (_, shown) = layers::DEFAULTS.split_once("# [audit.ship]\n").unwrap();
    let keys = [
        "timeout",
        "batch_lines",
        "batch_bytes",
        "batch_wait",
        "retry_min",
        "retry_max",
    ];
    let shown = keys.map(|key| {
        let start = format!("# {key} = ");
        let line = shown.lines().find(|line| line.starts_with(&start));
        line.unwrap().trim_start_matches("# ")
    });
    let explicit = load(&folder, &format!("{HTTP}{}", shown.join("\n")));
    assert_eq!(explicit, load(&folder, HTTP));
}

#[test]
fn every_fault_of_the_section_is_named_and_causes_no_other() {
    let folder = folder();
    folder.write("spaced", "canary token");
    for (right, from, to, key) in [
        (HTTP, "kind = \"http\"\n", "", "kind"),
        (HTTP, "\"http\"", "\"syslog\"", "kind"),
        (HTTP, "what = \"events\"\n", "", "what"),
        (HTTP, "\"events\"", "\"all\"", "what"),
        (HTTP, "url = \"https://siem.example/in\"\n", "", "url"),
        (HTTP, "https:", "http:", "url"),
        (HTTP, "https:", "tls:", "url"),
        (HTTP, "https://", "https://canary:canary@", "url"),
        (HTTP, "", "subject = \"a\"\n", "subject"),
        (HTTP, "", "token = \"canary-literal\"\n", "token"),
        (HTTP, "", "token = { file = \"spaced\" }\n", "token"),
        (HTTP, "", "ca = \"user\"\n", "ca"),
        (HTTP, "", "timeout = \"99ms\"\n", "timeout"),
        (HTTP, "", "batch_lines = 0\n", "batch_lines"),
        (HTTP, "", "batch_bytes = \"1023\"\n", "batch_bytes"),
        (HTTP, "", "batch_wait = \"61s\"\n", "batch_wait"),
        (HTTP, "", "retry_min = \"31s\"\n", "retry_min"),
        (HTTP, "", "retry_max = \"9ms\"\n", "retry_max"),
        (HTTP, "", "zz = 1\n", "zz"),
        (NATS, "subject = \"audit.a\"\n", "", "subject"),
        (NATS, "audit.a", "audit.*", "subject"),
        (NATS, "tls:", "nats:", "url"),
        (NATS, "tls:", "https:", "url"),
        (NATS, "nats.example", "canary@nats.example", "url"),
        (NATS, "nats.example", "nats.example/path", "url"),
    ] {
        assert!(right.contains(from), "{from}");
        let wrong = if from.is_empty() {
            format!("{right}{to}")
        } else {
            right.replacen(from, to, 1)
        };
        folder.write("gateway.toml", format!("[audit.ship]\n{wrong}\n{BASE}"));
        let expected = pairs(&[("gateway.toml", &format!("audit.ship.{key}"))]);
        assert_eq!(folder.mistakes(&["gateway.toml"]), expected, "{wrong}");
    }
}

#[test]
fn a_root_for_a_connection_that_is_not_encrypted_is_a_mistake() {
    let folder = folder();
    let authority = CertificateParams::new(vec!["root".into()])
        .unwrap()
        .self_signed(&KeyPair::generate().unwrap());
    folder.write("root.pem", authority.unwrap().pem());
    let plain = HTTP.replace("https://siem.example", "http://127.0.0.1:1");
    load(&folder, &plain);
    folder.write(
        "gateway.toml",
        format!("[audit.ship]\n{plain}ca = \"root.pem\"\n{BASE}"),
    );
    let expected = pairs(&[("gateway.toml", "audit.ship.ca")]);
    assert_eq!(folder.mistakes(&["gateway.toml"]), expected);
}
