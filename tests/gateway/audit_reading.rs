//! What people read of the audit trail: `audit tail`, `audit find`, and the schema of a line.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::Stdio,
    sync::LazyLock,
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use dcams_gateway::{
    audit::{AuditTrail, event::Event, key::AuditKey, line::Line},
    clock,
    config::Config,
    ident::{Purpose, RequestId, TenantId},
    operation::Operation,
    specimen::{self, Side},
};
use jsonschema::Validator;
use serde::Serialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::spawn_blocking;

use crate::{
    program::{Ended, Program, Served, command, run},
    support::{
        OTHER_TENANT, OTHER_USER, PASS, USER, answer, client, load, lookup, mint, simulator,
        write_secrets,
    },
};

/// A folder with a configuration, and a chain that the real writer writes.
struct Place {
    folder: TempDir,
    settings: String,
}

/// An event as it is written down.
#[derive(Serialize)]
#[serde(transparent)]
pub struct Written(pub Value);

impl Event for Written {}

/// A third tenant, to which letter case counts.
const EXACT_TENANT: &str = r#"
[[accounts]]
id = "exact"
email_case = "exact"
credentials = [{ id = "exact-1", user = { file = "elsewhere-user" }, pass = { file = "pass" } }]
[[issuers]]
id = "exact-idp"
issuer = "https://idp.exact.example/"
audiences = ["dcams-gateway"]
algorithms = ["HS256"]
secret = { file = "issuer.key" }
tenants = ["exact"]
[[tenants]]
id = "exact"
account = "exact"
services = ["getStatus"]
"#;
const AUDIT: &str = "[audit]\npath = \"audit\"\nnode = \"gw-1\"\n";
const OLD_KEY: [u8; 32] = *b"an older key of 32 bytes........";

impl Place {
    fn new(audit: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_secrets(folder.path());
        fs::write(
            folder.path().join("old.key"),
            BASE64_STANDARD.encode(OLD_KEY),
        )
        .unwrap();
        let settings = format!("{AUDIT}{audit}{OTHER_TENANT}{EXACT_TENANT}");
        let place = Self { folder, settings };
        place.configure("");
        place
    }

    /// Writes the configuration, with this in front of what it always has.
    fn configure(&self, more: &str) {
        let text = format!(
            "{}{}",
            self.settings.replacen(AUDIT, &format!("{AUDIT}{more}"), 1),
            ""
        );
        fs::write(self.folder.path().join("more.toml"), text).unwrap();
    }

    fn config(&self) -> Config {
        load(self.folder.path(), "http://127.0.0.1:1/v3", &[])
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn trail(&self) -> AuditTrail {
        AuditTrail::open(&self.config().audit, None).unwrap()
    }

    /// Writes these events with this key, or the one of the configuration.
    async fn write(&self, events: impl IntoIterator<Item = Value>) {
        let trail = self.trail();
        for event in events {
            record(&trail, event).await;
        }
        assert!(trail.close(Duration::from_secs(30)).await);
    }

    /// Runs `audit` with these arguments and the configuration.
    async fn audit(&self, arguments: &[&str]) -> Ended {
        let paths = [self.path("demo.toml"), self.path("more.toml")];
        let config = ["--config", &paths[0], &paths[1]];
        run(&[&["audit"], arguments, &config[..]].concat(), &[]).await
    }

    /// The lines of the file that is being written, without their line breaks.
    fn newest(&self) -> (PathBuf, Vec<String>) {
        let mut files: Vec<_> = fs::read_dir(self.folder.path().join("audit"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "jsonl"))
            .collect();
        files.sort();
        let path = files.pop().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        (path, text.lines().map(str::to_owned).collect())
    }
}

async fn record(trail: &AuditTrail, event: Value) {
    trail.record(&Written(event)).durable().await.unwrap();
}

/// A customer's pseudonym of this spelling under a key.
fn pseudonym(key: &[u8; 32], purpose: Purpose, tenant: &str, value: &str) -> String {
    let tenant = TenantId::try_from(tenant).unwrap();
    let key = AuditKey::derive(key);
    let pseudonym = key
        .pseudonyms()
        .pseudonym(purpose, &tenant, value.as_bytes());
    pseudonym.to_string()
}

/// The key of `support::write_secrets`.
fn key(place: &Place) -> [u8; 32] {
    let text = fs::read_to_string(place.path("audit.key")).unwrap();
    BASE64_STANDARD.decode(text).unwrap().try_into().unwrap()
}

/// A whole outcome, whatever of it does not matter here.
pub fn outcome(tenant: &str, customer: Option<&str>) -> Value {
    let mut event = json!({
        "time": clock::now().to_string(),
        "phase": "outcome",
        "request_id": RequestId::mint().to_string(),
        "tenant": tenant,
        "issuer": "idp",
        "client": "203.0.113.0/24",
        "decision": "forward",
        "code": "ok",
        "attempts": 1,
        "http_status": 200,
        "upstream_status": 200,
        "bytes_in": 10,
        "bytes_out": 20,
        "ms": 12.5,
    });
    if let Some(customer) = customer {
        event["service"] = json!("getStatus");
        event["fields"] = json!(["email"]);
        event["customer"] = json!(customer);
    }
    event
}

pub fn with(mut event: Value, members: Value) -> Value {
    for (name, value) in members.as_object().unwrap() {
        event[name] = value.clone();
    }
    event
}

pub fn id(event: &Value) -> String {
    event["request_id"].as_str().unwrap().to_owned()
}

/// The request ids of the lines that a command printed.
fn found(ended: &Ended) -> Vec<String> {
    assert!(ended.status.success(), "{ended:?}");
    printed(ended)
}

/// The same where the command had not all keys of the trail, and says so.
fn found_in_part(ended: &Ended) -> Vec<String> {
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(
        ended.err.contains("lines under keys that were not given"),
        "{ended:?}"
    );
    printed(ended)
}

fn printed(ended: &Ended) -> Vec<String> {
    let lines = ended
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    lines.map(|line: Value| id(&line)).collect()
}

fn ids(events: &[&Value]) -> Vec<String> {
    events.iter().map(|event| id(event)).collect()
}

#[tokio::test]
async fn find_lists_exactly_the_customers_events_over_tenants_spellings_keys_and_crashes() {
    let place = Place::new("");
    let (new, ann) = (key(&place), "ann@example.com");
    let of = |key, tenant, email| pseudonym(key, Purpose::Customer, tenant, email);
    // Under the key of before.
    let before = outcome("demo", Some(&of(&OLD_KEY, "demo", ann)));
    let cut_off = outcome("other", Some(&of(&OLD_KEY, "other", ann)));
    let others = [
        outcome("demo", Some(&of(&OLD_KEY, "demo", "bob@example.com"))),
        // Her pseudonym in one tenant's name, in the other's.
        outcome("demo", Some(&of(&OLD_KEY, "other", "ann@example.org"))),
        outcome("demo", None),
    ];
    fs::rename(place.path("audit.key"), place.path("new.key")).unwrap();
    fs::rename(place.path("old.key"), place.path("audit.key")).unwrap();
    place
        .write([
            others[0].clone(),
            before.clone(),
            others[1].clone(),
            cut_off.clone(),
        ])
        .await;
    fs::rename(place.path("audit.key"), place.path("old.key")).unwrap();
    fs::rename(place.path("new.key"), place.path("audit.key")).unwrap();
    place.configure("old_keys = [{ file = \"old.key\" }]\n");
    // And under that of now.
    let closing = json!({
        "time": clock::now().to_string(), "phase": "outcome", "request_id": id(&cut_off),
        "decision": "forward", "code": "unknown", "reason": "interrupted",
    });
    let now = outcome("demo", Some(&of(&new, "demo", ann)));
    let lower = outcome("exact", Some(&of(&new, "exact", ann)));
    let upper = outcome("exact", Some(&of(&new, "exact", "Ann@Example.com")));
    let past = outcome("gone", Some(&of(&new, "gone", ann)));
    let subject = pseudonym(&new, Purpose::Subject, "demo", ann);
    let reference = pseudonym(&new, Purpose::Reference, "other", ann);
    let (by_subject, by_reference) = (
        with(outcome("demo", None), json!({"subject": subject})),
        with(outcome("other", None), json!({"reference": reference})),
    );
    let events = [
        &closing,
        &others[2],
        &lower,
        &now,
        &upper,
        &past,
        &by_subject,
        &by_reference,
    ];
    place.write(events.map(Clone::clone)).await;

    let config = place
        .audit(&["find", "--email", "ANN@example.COM", "--json"])
        .await;
    assert_eq!(found(&config), ids(&[&before, &cut_off, &closing, &now]));
    let config = place.audit(&["find", "--email", ann, "--json"]).await;
    assert_eq!(
        found(&config),
        ids(&[&before, &cut_off, &closing, &lower, &now])
    );
    for (arguments, expected) in [
        (
            vec!["--email", "Ann@Example.com", "--tenant", "exact"],
            vec![&upper],
        ),
        (
            vec!["--email", "Ann@Example.com", "--tenant", "demo"],
            vec![&before, &now],
        ),
        (
            vec!["--email", "Ann@Example.com", "--tenant", "gone"],
            vec![&past],
        ),
        (vec!["--email", "bob@example.org"], vec![]),
        (vec!["--subject", ann], vec![&by_subject]),
        (vec!["--reference", ann], vec![&by_reference]),
        (
            vec!["--request-id", &id(&cut_off)],
            vec![&cut_off, &closing],
        ),
    ] {
        let ended = place
            .audit(&[&["find", "--json"], &arguments[..]].concat())
            .await;
        assert_eq!(found(&ended), ids(&expected), "{arguments:?}");
    }
    // Whoever has a key, and no configuration.
    let (old, files) = (place.path("old.key"), place.path("audit"));
    let arguments = [
        "audit", "find", &files, "--email", ann, "--tenant", "other", "--key", &old, "--json",
    ];
    assert_eq!(
        found_in_part(&run(&arguments, &[]).await),
        ids(&[&cut_off, &closing])
    );

    let table = place.audit(&["find", "--email", "Ann@Example.com"]).await;
    for id in ids(&[&before, &cut_off, &now, &upper]) {
        assert!(table.out.contains(&id), "{}", table.out);
    }
    let summary = "events: 5, requests: 4, by tenant: demo 2, exact 1, other 1; read: ";
    assert!(table.out.contains(summary), "{}", table.out);
    let said = format!("{}{}", table.out, table.err).to_lowercase();
    assert!(
        !said.contains("ann@") && !said.contains("example.com"),
        "{said}"
    );
}

#[tokio::test]
async fn find_lists_the_events_with_an_image_on_either_side_under_any_key() {
    let place = Place::new("");
    place.configure("old_keys = [{ file = \"old.key\" }]\n");
    let (mine, other) = (specimen::jpeg(Side::Front), specimen::jpeg(Side::Back));
    let image = |key: &[u8; 32], side: &str, file: &[u8]| {
        let text = BASE64_STANDARD.encode(file);
        let digest = AuditKey::derive(key).images().digest([text.as_bytes()]);
        json!({"side": side, "format": "jpeg", "bytes": file.len(), "digest": digest.to_string()})
    };
    let of = |tenant, images: &[Value]| with(outcome(tenant, None), json!({"images": images}));
    let new = key(&place);
    let front = of("demo", &[image(&new, "front", &mine)]);
    let sides = [image(&new, "front", &other), image(&new, "back", &mine)];
    let back = of("other", &sides);
    let before = of("demo", &[image(&OLD_KEY, "front", &mine)]);
    let without = of(
        "demo",
        &[json!({"side": "front", "format": "jpeg", "bytes": mine.len()})],
    );
    let closing = json!({
        "time": clock::now().to_string(), "phase": "outcome", "request_id": id(&back),
        "decision": "forward", "code": "unknown", "reason": "interrupted",
    });
    let another = of("demo", &[image(&new, "front", &other)]);
    let events = [&before, &front, &without, &back, &another, &closing];
    place.write(events.map(Clone::clone)).await;
    let path = place.path("mine.jpg");
    fs::write(&path, &mine).unwrap();
    let find = ["find", "--json", "--image", &path];
    let all = place.audit(&find).await;
    assert_eq!(found(&all), ids(&[&before, &front, &back, &closing]));
    let demo = place
        .audit(&[&find[..], &["--tenant", "demo"]].concat())
        .await;
    assert_eq!(found(&demo), ids(&[&before, &front]));
    // Whoever has a key and no configuration needs no tenant's name.
    let (old, files) = (place.path("old.key"), place.path("audit"));
    let arguments = [
        "audit", "find", &files, "--image", &path, "--key", &old, "--json",
    ];
    assert_eq!(found_in_part(&run(&arguments, &[]).await), ids(&[&before]));
}

#[tokio::test]
async fn find_refuses_what_it_cannot_look_for_and_says_when_files_cannot_be_read() {
    let place = Place::new("");
    place.write([outcome("demo", None)]).await;
    for arguments in [
        &["find"][..],
        &["find", "--email", "a@example.com", "--subject", "b"],
        &["find", "--email", "no address"],
        &["find", "--email", "a@example.com", "--key", "/nowhere"],
        &["find", "--image", "/nowhere"],
        &["find", "--image", "/nowhere", "--subject", "b"],
    ] {
        let ended = place.audit(arguments).await;
        assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    }
    // With a key that is none of the trail's nobody is found, and that is no answer.
    let other = place.folder.path().join("state.key").display().to_string();
    let folder = place.folder.path().join("audit").display().to_string();
    let arguments = [
        "audit",
        "find",
        "--json",
        "--email",
        "a@example.com",
        "--tenant",
        "demo",
        "--key",
        &other,
        &folder,
    ];
    assert_eq!(found_in_part(&run(&arguments, &[]).await), [""; 0]);
    let compressed = zstd_of(&vec![b'x'; 100_000]);
    let broken = place.folder.path().join("audit/audit-00000002.jsonl.zst");
    fs::write(broken, &compressed[..compressed.len() / 2]).unwrap();
    let ended = place.audit(&["find", "--email", "a@example.com"]).await;
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.err.contains("audit-00000002.jsonl.zst"), "{ended:?}");
    assert!(ended.err.contains("there may be more events"), "{ended:?}");
    let ended = place.audit(&["tail"]).await;
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(
        ended
            .out
            .contains("audit-00000002.jsonl.zst:1 cannot be read"),
        "{ended:?}"
    );
    // Of nothing at all nobody is told that there is nothing of a person.
    let empty = tempfile::tempdir().unwrap();
    let empty = empty.path().display().to_string();
    for command in [&["find", "--email", "a@example.com"][..], &["tail"]] {
        let ended = place.audit(&[command, &[&*empty]].concat()).await;
        assert_eq!(ended.status.code(), Some(2), "{ended:?}");
        assert!(ended.err.contains("has no audit files"), "{ended:?}");
        let nowhere = run(&[&["audit"], command].concat(), &[]).await;
        assert_eq!(nowhere.status.code(), Some(2), "{nowhere:?}");
    }
}

fn zstd_of(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

#[tokio::test]
async fn tail_prints_the_last_events_in_columns_and_filters_them() {
    let place = Place::new("");
    let customer = pseudonym(&key(&place), Purpose::Customer, "demo", "a@example.com");
    let time = |text: &str| json!({"time": text});
    let first = with(
        outcome("demo", Some(&customer)),
        time("2031-01-01T23:59:59.9999Z"),
    );
    let second = with(
        outcome("other", None),
        json!({
            "time": "2031-01-02T00:00:01.25Z", "code": "upstream_unavailable", "http_status": 502,
            "upstream_status": 503, "reason": "refused", "attempts": 2, "cache": "miss",
        }),
    );
    let third = json!({
        "time": "2031-01-02T00:00:02Z", "phase": "event", "event": "credential_changed",
        "account": "demo", "credential": "demo-1", "generation": 1, "from": "active",
        "to": "rejected", "reason": "refused_by_upstream",
    });
    place.write([first.clone(), second.clone(), third]).await;

    let ended = place.audit(&["tail"]).await;
    assert!(ended.status.success(), "{ended:?}");
    let short = format!("{}\u{2026}", &customer[9..17]);
    let lines: Vec<Vec<&str>> = ended
        .out
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let position = |what: &str| {
        let found = lines.iter().position(|line| line.contains(&what));
        found.unwrap_or_else(|| panic!("no {what} in {}", ended.out))
    };
    assert_eq!(
        lines[position("23:59:59.999")],
        [
            "23:59:59.999",
            "outcome",
            "demo",
            "getStatus",
            "ok",
            "200",
            "12.500",
            "-",
            &short,
            &id(&first),
        ]
    );
    assert_eq!(
        lines[position("00:00:01.250")],
        [
            "00:00:01.250",
            "outcome",
            "other",
            "-",
            "upstream_unavailable",
            "502",
            "12.500",
            "miss",
            "-",
            &id(&second),
            "refused,",
            "upstream",
            "503,",
            "attempts",
            "2",
        ]
    );
    assert!(
        ended
            .out
            .contains("credential demo-1 of demo: active -> rejected (refused_by_upstream)")
    );
    assert_eq!(position("2031-01-01") + 1, position("23:59:59.999"));
    assert_eq!(position("2031-01-02") + 1, position("00:00:01.250"));
    // The columns stand below each other.
    let column = |id: &str| {
        let line = ended.out.lines().find(|line| line.contains(id)).unwrap();
        line[..line.find(id).unwrap()].chars().count()
    };
    assert_eq!(column(&id(&first)), column(&id(&second)));
    assert!(!ended.out.contains("checkpoint") && !ended.out.contains("file 1 begins"));

    let (first, second) = (id(&first), id(&second));
    for (arguments, expected) in [
        (&["--tenant", "demo"][..], &[&first][..]),
        (&["--service", "getStatus"], &[&first]),
        (&["--code", "upstream_unavailable"], &[&second]),
        (&["--phase", "outcome"], &[&first, &second]),
        (&["--phase", "outcome", "-n", "1"], &[&second]),
        (&["--phase", "outcome", "-n", "0"], &[]),
        (
            &["--phase", "outcome", "--since", "2031-01-02T00:00:00Z"],
            &[&second],
        ),
        (
            &["--phase", "outcome", "--since", "15m", "--code", "none"],
            &[],
        ),
    ] {
        let ended = place
            .audit(&[&["tail", "--json"], arguments].concat())
            .await;
        assert_eq!(
            found(&ended),
            expected.iter().map(|id| (*id).clone()).collect::<Vec<_>>()
        );
    }
    let all = place.audit(&["tail", "--all"]).await.out;
    assert!(
        all.contains("checkpoint of ") && all.contains("file 1 begins, key "),
        "{all}"
    );
    let mistyped = place.audit(&["tail", "--tenant", "dmeo"]).await;
    assert_eq!(mistyped.out, "");
    assert!(
        mistyped
            .err
            .contains("no event of 1 files is so: --tenant dmeo"),
        "{mistyped:?}"
    );
    let usage = place.audit(&["tail", "--since", "yesterday"]).await;
    assert_eq!(usage.status.code(), Some(2));
}

#[tokio::test]
async fn what_a_tampered_file_holds_does_not_reach_the_terminal() {
    let place = Place::new("");
    place.write([outcome("demo", None)]).await;
    let (path, lines) = place.newest();
    let line = lines
        .iter()
        .find(|line| line.contains("\"outcome\""))
        .unwrap();
    let escaped = line.replace("\"code\":\"ok\"", r#""code":"\u001b[31m\u202eok""#);
    let raw = line.replace("\"code\":\"ok\"", "\"code\":\"\u{1b}]0;title\u{7}\"");
    let named = line.replace(
        "\"outcome\"",
        "\"outcome\",\"customer\":\"jane@example.com\"",
    );
    let text = format!("{escaped}\n{raw}\n{named}\n\u{1b}[2Jno event\n\u{9b}31m\n");
    fs::write(&path, text.as_bytes()).unwrap();
    let mut file = File::options().append(true).open(&path).unwrap();
    file.write_all(b"\xFF\xFE\0\n{\"half\":").unwrap();

    let ended = place.audit(&["tail"]).await;
    assert!(ended.status.success(), "{ended:?}");
    let unseen = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    assert!(!ended.out.contains(unseen), "{:?}", ended.out);
    assert!(ended.out.contains(r"\u{1b}[31m\u{202e}ok"), "{}", ended.out);
    let name = path.display();
    for number in [2, 4, 5, 6] {
        let sign = format!("? {name}:{number} is no event: ");
        assert!(ended.out.contains(&sign), "{sign} is not in {}", ended.out);
    }
    // Half a line may become a whole one, and an address is no pseudonym.
    assert!(!ended.out.contains(&format!("{name}:7")), "{}", ended.out);
    assert!(!ended.out.contains("jane@"), "{}", ended.out);
    let json = place.audit(&["tail", "--json"]).await;
    assert!(!json.out.contains(unseen), "{:?}", json.out);
    assert_eq!(json.out.lines().count(), 2);
    assert!(
        json.err.contains(&format!("{name}:4 is no event")),
        "{}",
        json.err
    );
}

#[tokio::test]
async fn follow_tells_each_event_once_over_rotation_compression_and_rewriting() {
    let place = Place::new("rotate_size = \"16KiB\"\n");
    let old = outcome("demo", None);
    place.write([old.clone()]).await;
    let files = place.path("audit");
    let mut tail = Program::start(&mut command(
        &[
            "audit", "tail", &files, "-f", "--json", "--phase", "outcome",
        ],
        &[],
    ));
    tail.out.says(&id(&old), 1).await;
    let trail = place.trail();
    let mut expected = vec![id(&old)];
    for _ in 0..300 {
        let event = outcome("demo", None);
        expected.push(id(&event));
        record(&trail, event).await;
    }
    assert!(trail.close(Duration::from_secs(30)).await);
    tail.out.says("\"outcome\"", expected.len()).await;
    let names: BTreeSet<_> = fs::read_dir(&files)
        .unwrap()
        .map(|f| f.unwrap().file_name())
        .collect();
    assert!(names.len() > 5, "{names:?}");

    // Half a line waits for the other half.
    let (path, lines) = place.newest();
    let line = lines.iter().rfind(|line| line.contains("\"outcome\""));
    let line = line.map_or_else(|| panic!("no outcome in {lines:?}"), Clone::clone);
    let length = fs::metadata(&path).unwrap().len();
    let mut file = File::options().append(true).open(&path).unwrap();
    let other = outcome("demo", None);
    let parsed: Value = serde_json::from_str(&line).unwrap();
    let line = line.replace(&id(&parsed), &id(&other));
    let (half, rest) = line.split_at(line.len() / 2);
    file.write_all(half.as_bytes()).unwrap();
    file.write_all(format!("{rest}\n").as_bytes()).unwrap();
    tail.out.says(&id(&other), 1).await;
    expected.push(id(&other));
    // Cut back to where it was, and something else of another length written, while it is being read.
    for round in 0..20 {
        file.set_len(length).unwrap();
        let another = outcome("other", None);
        let name = format!("\"a-longer-name-{}\"", "x".repeat(round));
        let line = line
            .replace(&id(&other), &id(&another))
            .replace("\"demo\"", &name);
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
        tail.out.says(&id(&another), 1).await;
        expected.push(id(&another));
    }

    tail.signal("INT");
    let ended = tail.end().await;
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(found(&ended), expected);
}

#[tokio::test]
async fn nobody_reading_any_more_is_a_good_end() {
    let place = Place::new("");
    place.write((0..2_000).map(|_| outcome("demo", None))).await;
    let files = place.path("audit");
    // More than a pipe holds.
    let pipe = "set -o pipefail; \"$0\" audit tail \"$1\" -n 2000 | head -n 1";
    let binary = env!("CARGO_BIN_EXE_dcams-gateway");
    let left = spawn_blocking({
        let files = files.clone();
        move || {
            let mut bash = std::process::Command::new("bash");
            bash.args(["-c", pipe, binary, &files]).output().unwrap()
        }
    });
    let left = left.await.unwrap();
    assert!(left.status.success(), "{left:?}");
    assert_eq!(String::from_utf8_lossy(&left.stderr), "");
    // Also where nothing is to be written.
    let arguments = ["audit", "tail", &files, "--follow", "-n", "1"];
    let mut quiet = command(&arguments, &[])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let ended = spawn_blocking(move || {
        let mut out = BufReader::new(quiet.stdout.take().unwrap());
        out.read_line(&mut String::new()).unwrap();
        drop(out);
        quiet.wait().unwrap()
    });
    let ended = tokio::time::timeout(Duration::from_secs(30), ended).await;
    assert!(ended.unwrap().unwrap().success());
}

#[tokio::test]
async fn colours_are_for_terminals_of_those_who_want_them() {
    let place = Place::new("");
    place.write([outcome("demo", None)]).await;
    let files = place.path("audit");
    let binary = env!("CARGO_BIN_EXE_dcams-gateway");
    let on_terminal = |no_colour: Option<&'static str>| {
        let line = format!("{binary} audit tail {files}");
        let mut script = std::process::Command::new("script");
        script
            .args(["-qec", &line, "/dev/null"])
            .stdin(Stdio::null());
        script.env("TERM", "xterm").env_remove("NO_COLOR");
        if let Some(value) = no_colour {
            script.env("NO_COLOR", value);
        }
        script.output().unwrap()
    };
    let coloured = |output: std::process::Output| {
        assert!(output.status.success(), "{output:?}");
        output.stdout.contains(&0x1B)
    };
    assert!(coloured(on_terminal(None)));
    assert!(!coloured(on_terminal(Some("1"))));
    let piped = run(&["audit", "tail", &files], &[("CLICOLOR_FORCE", "1")]).await;
    assert!(!piped.out.contains('\u{1b}'));
}

/// The schema, with what it says of formats.
static SCHEMA: LazyLock<Validator> = LazyLock::new(|| {
    let schema = include_str!("../../docs/audit-event.schema.json");
    let schema = serde_json::from_str(schema).unwrap();
    jsonschema::draft202012::meta::validate(&schema).unwrap();
    let options = jsonschema::draft202012::options();
    options
        .should_validate_formats(true)
        .build(&schema)
        .unwrap()
});

/// Why a line does not fit.
pub fn flaws(line: &Value) -> Vec<String> {
    SCHEMA
        .iter_errors(line)
        .map(|error| error.to_string())
        .collect()
}

#[tokio::test]
async fn every_line_that_a_gateway_writes_fits_the_schema() {
    let stop = tokio_util::sync::CancellationToken::new();
    let simulator = simulator(
        dcams_gateway::simulator::Login::new(USER, PASS),
        stop.clone(),
    )
    .await;
    let logins = [USER, OTHER_USER].map(|user| dcams_gateway::simulator::Login::new(user, PASS));
    simulator.set_credentials(logins.into());
    let folder = tempfile::tempdir().unwrap();
    write_secrets(folder.path());
    let toml = format!("{AUDIT}rotate_size = \"16KiB\"\nrejected_rate = \"1/h\"\n{OTHER_TENANT}");
    let served = Served::start(folder.path(), &simulator.url(), &toml, &[]).await;
    let config = load(folder.path(), &simulator.url(), &[]);
    let client = client();
    let post = |token: String, body: Value| {
        let request = client.post(served.url()).bearer_auth(token).json(&body);
        async move { answer(request.send().await.unwrap()).await }
    };
    for (index, operation) in (0..12).flat_map(|round| Operation::ALL.map(|o| (round % 2, o))) {
        post(mint(&config, index, &[operation], None), lookup(operation)).await;
    }
    post(mint(&config, 0, &[], None), lookup(Operation::GetStatus)).await;
    for _ in 0..3 {
        post("no token".to_owned(), lookup(Operation::GetStatus)).await;
    }
    let operator = |path: &str, body: Value| {
        let request = client
            .post(format!("http://{}{path}", served.admin))
            .json(&body);
        async move { answer(request.send().await.unwrap()).await }
    };
    operator("/api/reload", json!({})).await;
    operator("/api/cache/purge", json!({"tenant": "demo"})).await;
    served.program.signal("TERM");
    assert!(served.program.end().await.status.success());

    let all = ["audit", "tail", "--json", "--all", "-n", "100000"];
    let path = folder.path().join("audit").display().to_string();
    let ended = run(&[&all[..], &[&path]].concat(), &[]).await;
    let lines: Vec<Value> = ended
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(lines.len() > 50, "{}", lines.len());
    for (line, text) in lines.iter().zip(ended.out.lines()) {
        assert_eq!(flaws(line), [""; 0], "{text}");
        assert!(Line::parse(text.as_bytes()).is_some());
    }
    let kinds: BTreeSet<_> = lines.iter().map(kind).collect();
    for kind in [
        "intent",
        "outcome",
        "rejected",
        "rejections_left_out",
        "file_opened",
        "checkpoint",
        "start",
        "stop",
        "config_reloaded",
        "admin",
    ] {
        assert!(kinds.contains(kind), "{kind} is not in {kinds:?}");
    }
    for line in &lines {
        refuses_what_does_not_belong(line);
    }
}

fn kind(line: &Value) -> String {
    let kind = line["event"].as_str().or(line["phase"].as_str());
    kind.unwrap().to_owned()
}

/// A line of which the least thing is otherwise.
fn refuses_what_does_not_belong(line: &Value) {
    let mut more = line.clone();
    more["email"] = json!("jane@example.com");
    assert!(!flaws(&more).is_empty(), "{more}");
    let others = [
        json!(null),
        json!(true),
        json!({"a": 1}),
        json!("jane@example.com"),
        json!(-1.5),
    ];
    for (name, value) in line.as_object().unwrap() {
        let mut refused = 0;
        for other in &others {
            let mut changed = line.clone();
            changed[name] = other.clone();
            refused += usize::from(!flaws(&changed).is_empty());
        }
        // A step of the clock goes both ways; nothing else takes any of these.
        assert_eq!(
            refused,
            others.len(),
            "{name} of {line} takes something other than {value}"
        );
    }
    for name in ["v", "seq", "node", "time", "phase", "prev", "mac"] {
        let mut less = line.clone();
        less.as_object_mut().unwrap().remove(name);
        assert!(!flaws(&less).is_empty(), "without {name}: {less}");
    }
}

#[test]
fn the_schema_knows_what_no_run_of_a_test_writes() {
    let pseudonym = format!("0011aaff:{}", "ab".repeat(16));
    let frame = json!({
        "v": 1, "seq": 7, "node": "gw-1", "time": "2026-11-23T10:00:00.5Z",
        "prev": "0".repeat(64), "mac": "f".repeat(64),
    });
    let id = RequestId::mint().to_string();
    let request = json!({
        "request_id": id, "client_request_id": "abc-1", "trace_id": "0af7651916cd43dd8448eb211c80319c", "tenant": "demo", "issuer": "idp",
        "subject": pseudonym, "client": "2001:db8::/48", "service": "getStatus",
        "customer": pseudonym, "reference": pseudonym, "fields": ["email", "front"],
        "images": [{"side": "front", "format": "png", "bytes": 5, "digest": "a".repeat(64)}],
    });
    let intent = with(
        request.clone(),
        json!({"phase": "intent", "credential": "demo-1", "cause": "refresh"}),
    );
    let mut refresh = intent.clone();
    for who in ["issuer", "subject", "client"] {
        refresh.as_object_mut().unwrap().remove(who);
    }
    let event =
        |kind: &str, members: Value| with(json!({"phase": "event", "event": kind}), members);
    for members in [
        intent,
        refresh,
        json!({"phase": "rejected", "request_id": id, "client": "unknown", "code": "invalid_token",
            "reason": "unknown_key", "http_status": 401, "left_out": 3}),
        json!({"phase": "outcome", "request_id": id, "decision": "forward", "code": "unknown",
            "reason": "interrupted"}),
        event(
            "answer_withheld",
            json!({"request_id": id, "http_status": 503}),
        ),
        event("clock_step", json!({"ms": -3_600_000})),
        event("rejections_left_out", json!({"count": 7})),
        event(
            "audit_gap",
            json!({"cause": "torn", "file": 2, "from_byte": 17, "bytes": 4}),
        ),
        event("audit_gap", json!({"cause": "lost", "lost": 4})),
        event(
            "files_removed",
            json!({"through_file": 2, "through_seq": 17, "cause": "age"}),
        ),
        event(
            "quota_warning",
            json!({"tenant": "demo", "policy": "daily", "limit": 10, "taken": 8}),
        ),
        event(
            "credential_changed",
            json!({"account": "a", "credential": "c", "generation": 1,
            "from": "active", "to": "rejected", "reason": "refused_by_upstream"}),
        ),
        event(
            "status_refreshed",
            json!({"request_id": id, "tenant": "demo", "customer": pseudonym,
            "credential": "c", "attempts": 1, "upstream_status": 200, "result": "ok"}),
        ),
        event(
            "admin",
            json!({"action": "usage_grant", "via": "api", "client": "192.0.2.0/24", "authenticated": "token",
            "operator": "night-shift", "tenant": "demo", "policy": "daily",
            "amount": 5, "result": "granted"}),
        ),
        event(
            "admin",
            json!({"action": "customer_import", "via": "cli", "tenant": "demo", "customers": 1000,
            "done": 998, "result": "done"}),
        ),
        event(
            "admin",
            json!({"action": "revocation_add", "via": "api", "client": "loopback",
            "authenticated": "loopback", "revocation": pseudonym, "kind": "subject",
            "issuer": "idp", "result": "begun"}),
        ),
        event(
            "admin",
            json!({"action": "credential_retry", "via": "api", "client": "unknown",
            "authenticated": "token", "account": "a", "credential": "c", "result": "interrupted"}),
        ),
    ] {
        let line = with(frame.clone(), members);
        assert_eq!(flaws(&line), [""; 0], "{line}");
        for (member, wrong) in [
            ("customer", json!("jane@example.com")),
            ("event", json!("other")),
            ("trace", json!(1)),
        ] {
            assert!(
                !flaws(&with(line.clone(), json!({member: wrong}))).is_empty(),
                "{member} of {line}"
            );
        }
    }
}
