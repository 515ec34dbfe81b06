//! Everything that the audit trail gets to: its files, its second place, and what commands print of it.

use std::{fs, path::Path};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, prelude::BASE64_STANDARD};
use dcams_gateway::{
    audit::{
        AuditTrail,
        folder::{Folder, Next},
        ship::Place,
    },
    auth,
    endpoint::Endpoint,
    ident::{Purpose, TenantId},
    operation::Operation,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{BTreeSet, Canaries, Duration, Search};
use crate::{
    audit_reading::{Written, id, outcome, with},
    program::run,
    shipping::{
        Shipped, TOKEN,
        nats::{Nats, messages},
        receiver::{Reaction, Receiver, TAKEN, lines},
        settings,
    },
    support::load,
};

/// A place that the trail gets to, and what is there.
type Sink = (String, Vec<u8>);

/// What would tell, without a key, that these are the images: digests of the file and of its text.
pub(super) fn digests_without_a_key(image: &str) -> Vec<Vec<u8>> {
    let file = BASE64_STANDARD.decode(image).unwrap();
    let of = |bytes: &[u8]| {
        [
            digest(&SHA256, bytes).as_ref().to_vec(),
            blake3::hash(bytes).as_bytes().to_vec(),
        ]
    };
    [of(&file), of(image.as_bytes())].concat()
}

/// Each file below a folder, a compressed one unpacked as well.
fn files(folder: &Path) -> Vec<Sink> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
            continue;
        }
        let mut content = fs::read(&path).unwrap();
        if path.extension().is_some_and(|ending| ending == "zst") {
            content.extend(zstd::decode_all(&content[..]).unwrap());
        }
        all.push((path.display().to_string(), content));
    }
    all
}

/// What the second place was sent, but for the token that it asks for.
fn received(receiver: &Receiver) -> Vec<u8> {
    let mut all = Vec::new();
    for mut heard in receiver.heard() {
        heard.headers.remove("authorization");
        all.extend(format!("{:?}\n", heard.headers).into_bytes());
        all.extend_from_slice(&heard.body);
    }
    all
}

/// What other kinds of a second place are sent of the same files.
async fn other_places(folder: &Path) -> Vec<Sink> {
    let first = Folder::new(folder).files().unwrap().remove(0);
    let mut lines = first.lines().unwrap();
    let Some(Next::Line(line)) = lines.next_line().unwrap() else {
        panic!("a file without a line");
    };
    let line: Value = serde_json::from_slice(line).unwrap();
    let node = line["node"].as_str().unwrap();

    let collector = Receiver::start(|_| Reaction::Answer(200, "", "{}")).await;
    let otlp = Place::Otlp(Endpoint::parse(&collector.url()).unwrap());
    let shipped = Shipped::anew(&settings(otlp), folder, node);
    shipped.until_all().await;

    let server = Nats::start(&["--auth", TOKEN]).await;
    let mut stream = server.stream().await;
    let shipped = Shipped::anew(&server.settings("http"), folder, node);
    shipped.until_all().await;
    let mut stored = Vec::new();
    for message in messages(&mut stream).await {
        let head = format!("{} {:?}\n", message.subject, message.headers);
        stored.extend_from_slice(head.as_bytes());
        stored.extend_from_slice(&message.payload);
    }
    vec![
        ("a collector".to_owned(), received(&collector)),
        ("a stream".to_owned(), stored),
    ]
}

/// What the commands that read the trail print and write.
async fn commands(folder: &Path, canaries: &Canaries) -> Vec<Sink> {
    let path = |name: &str| folder.join(name).display().to_string();
    let (first, second) = (path("demo.toml"), path("more.toml"));
    let config = ["--config", &first, &second];
    let (image, proof) = (path("image.jpg"), path("proof.json"));
    fs::write(&image, BASE64_STANDARD.decode(canaries.image()).unwrap()).unwrap();
    let mut all: Vec<Sink> = Vec::new();
    let [email, subject, reference] = ["email", "subject", "reference"].map(|at| canaries.text(at));
    let (mut request, mut key) = (String::new(), String::new());
    for (index, arguments) in [
        &["tail", "--json", "--all", "-n", "100000"][..],
        &["public-key"],
        &["tail", "--all", "-n", "100000"],
        &["verify"],
        &["verify", "--json"],
        &["find", "--email", email],
        &["find", "--json", "--email", email],
        &["find", "--json", "--subject", subject],
        &["find", "--json", "--reference", reference],
        &["find", "--json", "--image", &image],
    ]
    .into_iter()
    .enumerate()
    {
        let ended = run(&[&["audit"], arguments, &config].concat(), &TRACE).await;
        assert!(ended.status.success(), "{arguments:?}: {}", ended.err);
        match index {
            0 => request = last_outcome(&ended.out),
            1 => ended.out.trim().clone_into(&mut key),
            _ => {}
        }
        let said = [ended.out, ended.err].concat().into_bytes();
        all.push((format!("{index}: audit {}", arguments[0]), said));
    }
    let proving = ["audit", "prove", "--request-id", &request, "--out", &proof];
    let checking = ["audit", "check-proof", &proof, "--public-key", &key];
    for arguments in [&[&proving[..], &config].concat()[..], &checking] {
        let ended = run(arguments, &TRACE).await;
        assert!(ended.status.success(), "{arguments:?}: {}", ended.err);
        let said = [ended.out, ended.err].concat().into_bytes();
        all.push((format!("audit {}", arguments[1]), said));
    }
    let proof = fs::read(&proof).unwrap();
    all.push(("a proof".to_owned(), proof));
    all
}

const TRACE: [(&str, &str); 2] = [("RUST_LOG", "trace"), ("RUST_BACKTRACE", "1")];

/// The request that ended last.
fn last_outcome(lines: &str) -> String {
    let lines = lines.lines().rev();
    let mut lines = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
    id(&lines.find(|line| line["phase"] == "outcome").unwrap())
}

/// Searches all of it, once the gateway has ended.
pub(super) async fn assert_clean(
    folder: &Path,
    canaries: &Canaries,
    receiver: &Receiver,
    search: &Search,
) {
    let mut sinks = files(&folder.join("audit"));
    for ending in [".jsonl", ".jsonl.zst", "ship.cursor"] {
        let there = sinks.iter().any(|(name, _)| name.ends_with(ending));
        assert!(there, "no {ending} was searched");
    }
    assert!(lines(&receiver.heard()).len() > 150, "nothing was shipped");
    sinks.push(("the second place".to_owned(), received(receiver)));
    sinks.extend(commands(folder, canaries).await);
    sinks.extend(other_places(&folder.join("audit")).await);
    for (name, content) in &sinks {
        assert_eq!(search.find(content), BTreeSet::new(), "{name}");
        assert!(!content.is_empty() || name.ends_with("/lock"), "{name}");
    }
}

/// A trail of a node, and of outcomes, that have what no trail may have.
async fn leak(folder: &Path, canaries: &Canaries) {
    let config = load(folder, "http://127.0.0.1:1/", &[]);
    let demo = TenantId::try_from("demo").unwrap();
    let key = &config.audit.keys.current;
    let pseudonym = |purpose, name| {
        let value = canaries.text(name).as_bytes();
        json!(
            key.pseudonyms()
                .pseudonym(purpose, &demo, value)
                .to_string()
        )
    };
    let image = canaries.image();
    let image = key.images().digest([image.as_bytes()]).to_string();
    let members = json!({
        "service": Operation::GetStatus.name(), "reason": canaries.text("city"),
        "customer": pseudonym(Purpose::Customer, "email"),
        "subject": pseudonym(Purpose::Subject, "subject"),
        "reference": pseudonym(Purpose::Reference, "reference"),
        "images": [{"side": "front", "format": "jpeg", "bytes": 5, "digest": image}],
    });
    let trail = AuditTrail::open(&config.audit, None).unwrap();
    let stop = CancellationToken::new();
    let shipper = trail.shipper(&config.audit).unwrap().unwrap();
    let shipping = tokio::spawn(shipper.run(stop.clone()));
    for _ in 0..60 {
        let event = Written(with(outcome("demo", None), members.clone()));
        trail.record(&event).durable().await.unwrap();
    }
    assert!(trail.close(Duration::from_secs(30)).await);
    drop(trail);
    stop.cancel();
    shipping.await.unwrap();
}

#[tokio::test]
async fn a_leak_is_found_in_each_place_that_the_trail_gets_to() {
    auth::install_crypto();
    let canaries = Canaries::hatch();
    let search = Search::new(&canaries);
    let folder = TempDir::new().unwrap();
    canaries.write_secrets(folder.path());
    let receiver = Receiver::start(|_| TAKEN).await;
    let toml = format!(
        "[audit]\nnode = \"{}\"\nrotate_size = \"16KiB\"\n{}",
        canaries.text("stray"),
        second_place(&receiver)
    );
    fs::write(folder.path().join("more.toml"), toml).unwrap();
    leak(folder.path(), &canaries).await;
    // As after a kill, in the middle of a line.
    let audit = folder.path().join("audit");
    let last = Folder::new(&audit).files().unwrap().pop().unwrap().path;
    let torn = format!("{{\"v\":1,\"reason\":\"{}", canaries.text("city"));
    let content = [fs::read(&last).unwrap(), torn.into_bytes()].concat();
    fs::write(last, content).unwrap();
    leak(folder.path(), &canaries).await;

    let mut sinks = files(&audit);
    for part in ["01.jsonl", ".jsonl.zst", ".torn-", "ship.cursor"] {
        let there = sinks.iter().any(|(name, _)| name.contains(part));
        assert!(
            there,
            "no {part} among {:?}",
            sinks.iter().map(|s| &s.0).collect::<Vec<_>>()
        );
    }
    sinks.push(("the second place".to_owned(), received(&receiver)));
    sinks.extend(commands(folder.path(), &canaries).await);
    sinks.extend(other_places(&audit).await);
    for (name, content) in &sinks {
        let found = !search.find(content).is_empty();
        // It says where the proof is.
        let exempt = name.ends_with("/lock") || name == "audit prove";
        assert!(
            found || exempt,
            "{name}: not found in {}",
            String::from_utf8_lossy(content)
        );
    }
    // The one place where its token is to be is not searched for it, and no other is left out.
    let token = canaries.text("ship token");
    assert!(receiver.heard().iter().all(|heard| {
        heard.headers["authorization"]
            .to_str()
            .unwrap()
            .ends_with(token)
    }));
}

/// The second place, in the configuration.
pub(super) fn second_place(receiver: &Receiver) -> String {
    let url = receiver.url();
    format!(
        "[audit.ship]\nkind = \"http\"\nwhat = \"events\"\nurl = \"{url}\"\nbatch_wait = \"10ms\"\n\
         token = {{ file = \"ship-token\" }}\n"
    )
}
