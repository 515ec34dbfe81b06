//! `audit verify`, `prove` and `check-proof` as they are run: what was done to the files is found and named,
//! by who has the key of the MACs and by who has the public key alone.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use dcams_gateway::{
    audit::{
        AuditSettings, AuditTrail, OpenError,
        event::Event,
        folder::{Folder, Next},
        key::{AuditKey, AuditKeys},
        line::Position,
    },
    clock,
    ident::{NodeId, RequestId},
};
use serde::Serialize;
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::yield_now;

use crate::{
    program::{Ended, run},
    support::write_secrets,
};

const SECRET: [u8; 32] = [7; 32];
const FILES: usize = 4;
/// Lines of requests in a file, after a `file_opened` and a `start`.
const LINES: usize = 10;

#[derive(Serialize)]
struct Step {
    time: String,
    phase: &'static str,
    request_id: String,
}

impl Event for Step {}

/// A folder with a chain in plain files, its key, a public key and a head; and outcomes' positions.
struct World {
    folder: TempDir,
    outcomes: Vec<(RequestId, Position)>,
}

fn keys(secret: &[u8; 32]) -> AuditKeys {
    AuditKeys {
        current: Arc::new(AuditKey::derive(secret)),
        old: Vec::new(),
    }
}

fn node() -> NodeId {
    "gw-1".try_into().unwrap()
}

/// Writes a chain as a gateway does that is started again and again.
async fn write(folder: &Path, secret: &[u8; 32]) -> Vec<(RequestId, Position)> {
    let settings = AuditSettings {
        node: Some(node()),
        sync_interval: Duration::ZERO,
        write_timeout: Duration::from_mins(1),
        checkpoint_events: 5,
        checkpoint_every: Duration::from_mins(10),
        ..AuditSettings::new(folder, keys(secret))
    };
    let mut outcomes = Vec::new();
    for _ in 0..FILES {
        // Another test's child has our files between fork and exec, and the lock with them.
        let trail = loop {
            match AuditTrail::open(&settings, None) {
                Err(OpenError::Locked(_)) => yield_now().await,
                opened => break opened.unwrap(),
            }
        };
        for _ in 0..LINES / 2 {
            let id = RequestId::mint();
            let step = |phase| Step {
                time: clock::now().to_string(),
                phase,
                request_id: id.to_string(),
            };
            trail.record(&step("intent")).durable().await.unwrap();
            let filed = trail.record(&step("outcome")).durable().await.unwrap();
            outcomes.push((id, filed.unwrap()));
        }
        assert!(trail.close(Duration::from_mins(1)).await);
    }
    // All of them as they were written, whether or not they were compressed by now.
    for file in Folder::new(folder).files().unwrap() {
        let (mut lines, mut text) = (file.lines().unwrap(), Vec::new());
        while let Some(Next::Line(line)) = lines.next_line().unwrap() {
            text.extend_from_slice(line);
            text.push(b'\n');
        }
        fs::remove_file(&file.path).unwrap();
        fs::write(path(folder, file.number), text).unwrap();
    }
    outcomes
}

fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("audit-{number:08}.jsonl"))
}

impl World {
    async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let outcomes = write(&folder.path().join("chain"), &SECRET).await;
        let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        put("key", &(BASE64_STANDARD.encode(SECRET) + "\n"));
        put("public", &keys(&SECRET).current.public(&node()).to_string());
        let world = Self { folder, outcomes };
        let whole = world
            .verify("chain", &["--key", &world.at("key"), "--json"])
            .await;
        let report: Value = serde_json::from_str(&whole.out).unwrap();
        assert_eq!(report["integrity"], "ok", "{}", whole.out);
        fs::write(world.at("head"), report["head"].as_str().unwrap()).unwrap();
        world
    }

    fn at(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    async fn verify(&self, folder: &str, more: &[&str]) -> Ended {
        let folder = self.at(folder);
        let arguments = [&["audit", "verify", &folder][..], more].concat();
        run(&arguments, &[]).await
    }

    /// Verifies a copy that something was done to, by MACs and by the public key, against the head.
    async fn damaged(&self, damage: impl Fn(&Path)) -> [Ended; 2] {
        let copy = self.folder.path().join("copy");
        fs::remove_dir_all(&copy).ok();
        fs::create_dir(&copy).unwrap();
        for file in Folder::new(self.at("chain")).files().unwrap() {
            fs::copy(&file.path, copy.join(file.path.file_name().unwrap())).unwrap();
        }
        damage(&copy);
        let (key, public, head) = (self.at("key"), self.at("public"), self.at("head"));
        let by_mac = ["--key", &key, "--head", &head];
        let by_key = ["--public-key", &public, "--head", &head];
        [
            self.verify("copy", &by_mac).await,
            self.verify("copy", &by_key).await,
        ]
    }
}

/// Changes the lines of a file.
fn edit(folder: &Path, number: u64, change: impl Fn(&mut Vec<Vec<u8>>)) {
    let text = fs::read(path(folder, number)).unwrap();
    let mut lines: Vec<_> = text
        .split_inclusive(|byte| *byte == b'\n')
        .map(<[u8]>::to_vec)
        .collect();
    change(&mut lines);
    fs::write(path(folder, number), lines.concat()).unwrap();
}

type Damage = Box<dyn Fn(&Path)>;

#[tokio::test]
async fn whatever_was_done_to_the_files_is_found_and_named() {
    let world = World::new().await;
    let other = TempDir::new().unwrap();
    write(other.path(), &[9; 32]).await;
    let other = other.path().to_owned();
    let (second, third) = ("audit-00000002.jsonl", "audit-00000003.jsonl");
    let compress = move |folder: &Path, damage: bool| {
        let mut bytes = zstd::encode_all(&*fs::read(path(folder, 2)).unwrap(), 3).unwrap();
        if damage {
            bytes.truncate(bytes.len() / 2);
        }
        fs::remove_file(path(folder, 2)).unwrap();
        fs::write(folder.join(format!("{second}.zst")), bytes).unwrap();
    };
    for ended in world.damaged(|folder| compress(folder, false)).await {
        assert_eq!(ended.status.code(), Some(0), "{} {}", ended.out, ended.err);
        assert!(ended.out.contains("integrity     ok") && ended.out.contains("completeness  ok"));
        assert!(!ended.out.contains("beside"), "{}", ended.out);
    }
    let both = |folder: &Path| {
        let plain = fs::read(path(folder, 2)).unwrap();
        compress(folder, true);
        fs::write(path(folder, 2), plain).unwrap();
    };
    for ended in world.damaged(both).await {
        assert_eq!(ended.status.code(), Some(0), "{} {}", ended.out, ended.err);
        let beside =
            format!("compressed files beside plain ones: 1; {second}.zst first, which was");
        assert!(ended.out.contains(&beside), "{}", ended.out);
    }
    // What was done; what is said of it with the MACs, and with the public key alone.
    let table: [(Damage, &str, &str); 10] = [
        (
            Box::new(move |folder| edit(folder, 2, |lines| lines[4][80] ^= 1)),
            "damaged: audit-00000002.jsonl:5 (seq",
            "is not what was written",
        ),
        (
            Box::new(move |folder| edit(folder, 2, |lines| drop(lines.remove(4)))),
            "missing: audit-00000002.jsonl:5 (seq",
            "missing: audit-00000002.jsonl:5 (seq",
        ),
        (
            Box::new(move |folder| edit(folder, 2, |lines| lines.swap(4, 5))),
            "damaged: audit-00000002.jsonl:5 (seq",
            "damaged: audit-00000002.jsonl:5 (seq",
        ),
        (
            Box::new(move |folder| edit(folder, 2, |lines| lines.insert(4, lines[3].clone()))),
            "damaged: audit-00000002.jsonl:5 (seq",
            "is the line before once more",
        ),
        (
            Box::new(move |folder| fs::remove_file(path(folder, 2)).unwrap()),
            "missing: audit-00000003.jsonl:1 (seq",
            "file 2 is missing",
        ),
        (
            Box::new(move |folder| {
                let swap = folder.join("swap");
                fs::rename(path(folder, 2), &swap).unwrap();
                fs::rename(folder.join(third), folder.join(second)).unwrap();
                fs::rename(swap, folder.join(third)).unwrap();
            }),
            "audit-00000002.jsonl:1",
            "the file of this name says that its number is 3",
        ),
        (
            Box::new(move |folder| edit(folder, 4, |lines| lines.truncate(6))),
            "the published head has",
            "was cut off",
        ),
        (
            Box::new(move |folder| fs::remove_file(path(folder, 4)).unwrap()),
            "the published head has",
            "was cut off",
        ),
        (
            Box::new(move |folder| {
                for number in 1..=4 {
                    fs::copy(path(&other, number), path(folder, number)).unwrap();
                }
            }),
            "damaged: audit-00000001.jsonl:1 (seq 1): none of the given keys",
            "damaged: audit-00000001.jsonl:1 (seq 1): none of the given public keys",
        ),
        (
            Box::new(move |folder| compress(folder, true)),
            "damaged: audit-00000002.jsonl.zst:",
            "cannot be read from here on",
        ),
    ];
    for (damage, by_mac, by_key) in table {
        let ended = world.damaged(damage).await;
        for (ended, told) in ended.iter().zip([by_mac, by_key]) {
            assert_eq!(ended.status.code(), Some(1), "{told}: {}", ended.out);
            assert!(ended.out.contains(told), "{told} is not in {}", ended.out);
            assert!(
                ended
                    .err
                    .contains("the audit trail is not whole, first at audit-")
            );
        }
    }
}

#[tokio::test]
async fn a_start_does_not_have_it_forgotten_that_the_end_was_changed() {
    let world = World::new().await;
    let chain = world.folder.path().join("chain");
    edit(&chain, 4, |lines| {
        let last = lines.len() - 3;
        lines[last..].iter_mut().for_each(|line| line[80] ^= 1);
    });
    write(&chain, &SECRET).await;
    for (option, key) in [("--key", "key"), ("--public-key", "public")] {
        let ended = world.verify("chain", &[option, &world.at(key)]).await;
        assert_eq!(ended.status.code(), Some(1), "{} {}", ended.out, ended.err);
        assert!(ended.out.contains("completeness  broken"), "{}", ended.out);
        let (_, told) = ended.out.split_once("their copy (").unwrap();
        let (copy, _) = told.split_once(')').unwrap();
        assert!(chain.join(copy).exists(), "{copy}");
    }
}

#[tokio::test]
async fn what_no_line_can_show_is_said_and_wrong_usage_is_told_apart() {
    let world = World::new().await;
    // A whole end is gone, and nobody has published a head.
    fs::remove_file(path(&world.folder.path().join("chain"), 4)).unwrap();
    let (key, public, head) = (world.at("key"), world.at("public"), world.at("head"));
    let ended = world.verify("chain", &["--key", &key]).await;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.out);
    assert!(
        ended.out.contains("no published head was given"),
        "{}",
        ended.out
    );
    fs::write(world.at("notes.txt"), "x").unwrap();
    fs::create_dir(world.at("empty")).unwrap();
    let published = fs::read_to_string(&head).unwrap();
    let size = published.lines().nth(1).unwrap();
    let forged = published.replacen(&format!("\n{size}\n"), "\n7\n", 1);
    fs::write(world.at("forged"), forged).unwrap();
    fs::write(world.at("garbage"), format!("{published}and so on\n")).unwrap();
    let slip = fs::read_to_string(&public)
        .unwrap()
        .replacen("gw-1", "gw-2", 1);
    let (forged, garbage) = (world.at("forged"), world.at("garbage"));
    for (path, more, told) in [
        ("chain", vec![], "--public-key KEY"),
        ("nowhere", vec!["--key", &key], "cannot read"),
        ("notes.txt", vec!["--key", &key], "is no audit file"),
        ("empty", vec!["--key", &key], "has no audit files"),
        (
            "chain",
            vec!["--key", &public],
            "the base64 of exactly 32 bytes",
        ),
        (
            "chain",
            vec!["--public-key", &key],
            "key: line 1: expected a public key",
        ),
        (
            "chain",
            vec!["--public-key", &slip],
            "there is no such file",
        ),
        (
            "chain",
            vec!["--key", &key, "--head", &public],
            "public: line 1 is no head",
        ),
        (
            "chain",
            vec!["--key", &key, "--head", &garbage],
            "garbage: line 6 is no head",
        ),
        (
            "chain",
            vec!["--key", &key, "--head", &forged],
            "does not verify",
        ),
    ] {
        let ended = world.verify(path, &more).await;
        assert_eq!(ended.status.code(), Some(2), "{told}: {}", ended.err);
        assert!(ended.err.contains(told), "{told} is not in {}", ended.err);
        assert_eq!(ended.out, "");
    }
}

#[tokio::test]
async fn every_head_in_a_file_is_compared_however_it_was_published() {
    let world = World::new().await;
    let key = world.at("key");
    let published = |line: &str| line.contains("\"event\":\"checkpoint\"");
    let checkpoints = |folder: &str| -> Vec<String> {
        let text = |number| fs::read_to_string(path(Path::new(&world.at(folder)), number)).unwrap();
        let text: String = (1..=4).map(text).collect();
        let lines = text.lines().filter(|line| published(line));
        lines.map(|line| format!("{line}\n")).collect()
    };
    // What was shipped, what `verify` printed for people, and what its report has.
    let told = world.verify("chain", &["--key", &key]).await.out;
    let (_, printed) = told.split_once("next time):\n").unwrap();
    let note = fs::read_to_string(world.at("head")).unwrap();
    let shipped = checkpoints("chain");
    let all = format!("{}\n{printed}\n{note}", shipped.concat());
    fs::write(world.at("heads"), &all).unwrap();
    // The key made these, too, in another history.
    write(&world.folder.path().join("other"), &SECRET).await;
    let other = checkpoints("other");
    fs::write(world.at("others"), format!("{all}{}", other[3])).unwrap();
    let (heads, others) = (world.at("heads"), world.at("others"));
    let ended = world
        .verify("chain", &["--key", &key, "--head", &heads])
        .await;
    assert_eq!(ended.status.code(), Some(0), "{} {}", ended.out, ended.err);
    let count = shipped.len() + 2;
    let compared = format!("heads         {count} of {count} compared");
    assert!(ended.out.contains(&compared), "{}", ended.out);
    let ended = world
        .verify("chain", &["--key", &key, "--head", &others])
        .await;
    assert_eq!(ended.status.code(), Some(1), "{} {}", ended.out, ended.err);
    let line = format!(
        "(line {} of its file): the history was",
        all.lines().count() + 1
    );
    assert!(ended.out.contains(&line), "{line}: {}", ended.out);
}

#[tokio::test]
async fn what_a_second_place_has_is_verified_as_the_documentation_says() {
    let world = World::new().await;
    let documentation = include_str!("../../docs/AUDIT.md");
    let (_, script) = documentation
        .split_once("```sh\nexport LC_ALL=C\n")
        .unwrap();
    let (script, _) = script.split_once("```").unwrap();
    let chain = world.folder.path().join("chain");
    let text = |number| fs::read_to_string(path(&chain, number)).unwrap();
    let files: Vec<String> = (1..=4).map(text).collect();
    let (key, head) = (world.at("key"), world.at("head"));
    let verify = async |lines: &str| {
        fs::remove_dir_all(world.at("copy")).ok();
        fs::write(world.at("lines.ndjson"), lines).unwrap();
        let mut shell = Command::new("sh");
        let shell = shell.args(["-ec", script]).env("LC_ALL", "C");
        assert!(
            shell
                .current_dir(world.folder.path())
                .status()
                .unwrap()
                .success()
        );
        world
            .verify("copy", &["--key", &key, "--head", &head])
            .await
    };
    // Lines of two nodes, some of them twice, and what was sent again last.
    let other = files[0].replace("\"gw-1\"", "\"gw-2\"");
    let half = &files[1][..=files[1][..files[1].len() / 2].rfind('\n').unwrap()];
    let lines: [&str; 7] = [
        &files[2], &files[3], &other, &files[0], half, &files[1], &files[2],
    ];
    let lines = lines.concat();
    let ended = verify(&lines).await;
    assert_eq!(ended.status.code(), Some(0), "{} {}", ended.out, ended.err);
    for (number, file) in (1..).zip(&files) {
        let copy = fs::read_to_string(path(Path::new(&world.at("copy")), number)).unwrap();
        assert_eq!(copy, *file);
    }
    let (_, last) = half.trim_end().rsplit_once('\n').unwrap();
    let ended = verify(&lines.replace(&format!("{last}\n"), "")).await;
    assert_eq!(ended.status.code(), Some(1), "{} {}", ended.out, ended.err);
    assert!(
        ended.out.contains("missing: audit-00000002.jsonl:"),
        "{}",
        ended.out
    );
}

#[tokio::test]
async fn an_event_is_proved_to_who_has_the_public_key_alone() {
    let world = World::new().await;
    let (chain, public, proof) = (world.at("chain"), world.at("public"), world.at("proof"));
    for (id, position) in &world.outcomes {
        let id = id.to_string();
        let prove = [
            "audit",
            "prove",
            &chain,
            "--request-id",
            &id,
            "--out",
            &proof,
        ];
        let ended = run(&prove, &[]).await;
        assert_eq!(ended.status.code(), Some(0), "{}", ended.err);
        let receipt = |seq: u64| format!("node=\"gw-1\", seq={seq}, leaf=:{}:", position.leaf);
        let check = async |receipt: &str| {
            let check = ["audit", "check-proof", &proof, "--public-key", &public];
            run(&[&check[..], &["--receipt", receipt]].concat(), &[]).await
        };
        let ended = check(&receipt(position.seq)).await;
        assert_eq!(ended.status.code(), Some(0), "{}", ended.err);
        let proved = format!("proved: line {} of the chain of node gw-1", position.seq);
        assert!(ended.out.contains(&proved), "{}", ended.out);
        assert_eq!(
            ended.out.matches("proved: ").count(),
            2,
            "intent and outcome"
        );
        let ended = check(&receipt(position.seq + 1)).await;
        assert_eq!(ended.status.code(), Some(1), "{}", ended.out);
        assert!(ended.err.contains("another event"), "{}", ended.err);
    }
    let text = fs::read_to_string(&proof).unwrap();
    let of_proof: Value = serde_json::from_str(&text).unwrap();
    // One of the two alone is proved as well as both.
    for (left, untold) in [("/events/1", false), ("/events/0", true)] {
        let mut one = of_proof.clone();
        let left = one.pointer(left).unwrap().clone();
        one["events"] = Value::Array(vec![left]);
        fs::write(&proof, one.to_string()).unwrap();
        let check = ["audit", "check-proof", &proof, "--public-key", &public];
        let ended = run(&check, &[]).await;
        assert_eq!(ended.status.code(), Some(0), "{}", ended.err);
        let id = world.outcomes.last().unwrap().0;
        let told = format!("not proved: how request {id} ended; its outcome");
        assert_eq!(ended.out.contains(&told), untold, "{}", ended.out);
    }
    let mut changes = Vec::new();
    for (pointer, value) in [
        ("/events/0/index", Value::from(3)),
        ("/events/1/path/0", of_proof["events"][0]["path"][1].clone()),
        ("/events/0/line", of_proof["events"][1]["line"].clone()),
        ("/node", Value::from("gw-2")),
        ("/events", Value::Array(Vec::new())),
    ] {
        let mut changed = of_proof.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        changes.push(changed.to_string());
    }
    changes.push(text.replacen(r#"\"phase\":\"intent\""#, r#"\"phase\":\"reject\""#, 1));
    let mut others = vec![keys(&[9; 32]).current.public(&node()).to_string()];
    others.push(public.clone());
    for (index, change) in changes.iter().enumerate() {
        fs::write(&proof, change).unwrap();
        let ended = run(
            &["audit", "check-proof", &proof, "--public-key", &public],
            &[],
        )
        .await;
        assert_eq!(ended.status.code(), Some(1), "{index}: {}", ended.out);
        assert!(
            ended.err.contains("proves nothing"),
            "{index}: {}",
            ended.err
        );
    }
    fs::write(&proof, &text).unwrap();
    for (key, code) in others.iter().zip([1, 0]) {
        let ended = run(&["audit", "check-proof", &proof, "--public-key", key], &[]).await;
        assert_eq!(ended.status.code(), Some(code), "{}", ended.err);
    }
    let unknown = RequestId::mint().to_string();
    let ended = run(&["audit", "prove", &chain, "--request-id", &unknown], &[]).await;
    assert_eq!(ended.status.code(), Some(1));
    assert!(
        ended.err.contains("no event of this request"),
        "{}",
        ended.err
    );
    // A request under way: what there is of it is proved.
    let begin = |seq: u64, text: &str| text.find(&format!("{{\"v\":1,\"seq\":{seq},")).unwrap();
    let last = path(Path::new(&chain), 4);
    let text = fs::read_to_string(&last).unwrap();
    let covered = |(_, position): &&(RequestId, Position)| {
        text.find(&format!(
            "\"seq\":{},\"node\":\"gw-1\",\"time\"",
            position.seq
        ))
        .is_some()
            && text[begin(position.seq - 1, &text)..begin(position.seq, &text)]
                .contains("checkpoint")
    };
    let (id, position) = world.outcomes.iter().find(covered).unwrap();
    fs::write(&last, &text[..begin(position.seq, &text)]).unwrap();
    let prove = ["audit", "prove", &chain, "--request-id", &id.to_string()];
    let ended = run(&prove, &[]).await;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.err);
    assert!(
        ended.err.contains(&format!("not proved: how request {id}")),
        "{}",
        ended.err
    );
    fs::write(&last, &text).unwrap();
    // The last request, whose checkpoint has not been made.
    let (id, position) = world.outcomes.last().unwrap();
    fs::write(&last, &text[..begin(position.seq + 1, &text)]).unwrap();
    let ended = run(
        &["audit", "prove", &chain, "--request-id", &id.to_string()],
        &[],
    )
    .await;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.out);
    assert!(ended.err.contains("checkpoint_every"), "{}", ended.err);
}

#[tokio::test]
async fn the_public_key_is_that_of_the_chains_node_and_a_configuration_is_enough() {
    let folder = TempDir::new().unwrap();
    write_secrets(folder.path());
    let config = folder.path().join("demo.toml").display().to_string();
    let secret = fs::read_to_string(folder.path().join("audit.key")).unwrap();
    let secret: [u8; 32] = BASE64_STANDARD
        .decode(secret.trim())
        .unwrap()
        .try_into()
        .unwrap();
    let chain = folder.path().join("chain");
    let variables = [("DCAMS_GATEWAY__AUDIT__PATH", chain.to_str().unwrap())];
    let public_key = ["audit", "public-key", "--config", &config];
    let before = run(&public_key, &variables).await;
    assert_eq!(before.status.code(), Some(2), "{}", before.out);
    assert!(before.err.contains("audit.node"), "{}", before.err);
    let outcomes = write(&chain, &secret).await;
    // A slip in the configuration says nothing of the trail.
    let slip = [variables[0], ("DCAMS_GATEWAY__AUDIT__DURABILITY", "much")];
    let id = outcomes[0].0.to_string();
    let (out, prove) = (
        folder.path().join("no/proof").display().to_string(),
        ["audit", "prove", "--request-id", &id],
    );
    for (command, more, variables, told) in [
        (
            &["audit", "verify"][..],
            &[][..],
            &slip[..],
            "audit.durability",
        ),
        (&prove, &[], &slip, "audit.durability"),
        (&prove, &["--out", &out], &variables, "cannot write"),
    ] {
        let ended = run(&[command, &["--config", &config], more].concat(), variables).await;
        assert_eq!(ended.status.code(), Some(2), "{command:?}: {}", ended.err);
        assert!(ended.err.contains(told), "{told} is not in {}", ended.err);
    }
    let told = run(&public_key, &variables).await;
    let expected = keys(&secret).current.public(&node()).to_string();
    assert_eq!(told.out.trim(), expected, "{}", told.err);
    for more in [vec![], vec!["--public-key", &expected]] {
        let verify = ["audit", "verify", "--config", &config];
        let ended = run(&[&verify[..], &more].concat(), &variables).await;
        assert_eq!(ended.status.code(), Some(0), "{} {}", ended.out, ended.err);
    }
}
