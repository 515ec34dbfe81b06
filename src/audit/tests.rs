//! The trail as a whole: real files, a process that ends at any byte.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::Write,
    num::NonZeroU32,
    path::Path,
};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tempfile::TempDir;

use super::{
    chain::{Chain, Mark, State},
    folder::{AuditFile, Folder, Next},
    key::AuditKey,
    line::Line,
    tree::Tree,
    *,
};
use crate::{address::Client, clock, ident::RequestId, limits::Rate};

/// An intent or an outcome, as short as they can be.
#[derive(Serialize)]
struct Step {
    time: Timestamp,
    phase: &'static str,
    request_id: RequestId,
}

impl Event for Step {
    fn mark(&self) -> Mark {
        match self.phase {
            "intent" => Mark::Opens(self.request_id),
            _ => Mark::Closes(self.request_id),
        }
    }
}

fn step(phase: &'static str, request_id: RequestId) -> Step {
    let time = clock::now();
    Step {
        time,
        phase,
        request_id,
    }
}

pub(super) fn settings(folder: &Path) -> AuditSettings {
    AuditSettings {
        node: Some("gw-1".try_into().unwrap()),
        write_timeout: Duration::from_secs(30),
        checkpoint_events: 10,
        checkpoint_every: Duration::from_hours(1),
        keep: None,
        rejected_rate: None,
        ..AuditSettings::new(folder, AuditKey::derive(&[7; 32]))
    }
}

fn names(folder: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(folder).unwrap();
    names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn open(settings: &AuditSettings) -> AuditTrail {
    AuditTrail::open(settings, None).unwrap()
}

async fn close(trail: AuditTrail) {
    assert!(trail.close(Duration::from_secs(30)).await);
}

/// Records requests until the file of this number is written to.
async fn write_until_file(trail: &AuditTrail, number: u64) {
    while trail.durable().borrow().file < number {
        let id = RequestId::mint();
        trail.record(&step("intent", id)).durable().await.unwrap();
        trail.record(&step("outcome", id)).durable().await.unwrap();
    }
}

/// Waits until there are no more than six files, and these are as they are to be. What is not done when the
/// trail is closed is left for the next start.
async fn looked_after(folder: &Path, are: impl Fn(&[AuditFile]) -> bool) {
    let looking = async {
        loop {
            let files = Folder::new(folder).files().unwrap();
            if files.len() <= 6 && are(&files) {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(30), looking).await.unwrap();
}

/// All lines of the chain, after each was found to follow from the one before, with numbers of files and
/// checkpoints as they must be.
fn chain(folder: &Path) -> Vec<Value> {
    let key = AuditKey::derive(&[7; 32]);
    let node = "gw-1".try_into().unwrap();
    let public = key.public(&node);
    let mut prev = key.before_the_first(&node);
    let (mut tree, mut events) = (Tree::default(), Vec::new());
    for (index, file) in Folder::new(folder).files().unwrap().iter().enumerate() {
        assert_eq!(usize::try_from(file.number).unwrap(), index + 1);
        let mut lines = file.lines().unwrap();
        let mut first = true;
        while let Some(next) = lines.next_line().unwrap() {
            let Next::Line(bytes) = next else {
                panic!("a torn line in {file:?}")
            };
            let line = Line::parse(bytes).unwrap();
            assert!(line.is_by(&key));
            assert_eq!(
                (line.seq, line.prev, line.node),
                (tree.size() + 1, prev, "gw-1")
            );
            let event: Value = serde_json::from_slice(bytes).unwrap();
            assert_eq!(first, event["event"] == "file_opened");
            if event["event"] == "checkpoint" {
                let text = |name: &str| event[name].as_str().unwrap();
                let checkpoint = note::Checkpoint {
                    node: node.clone(),
                    size: tree.size(),
                    root: tree.root(),
                };
                let signature = note::Signature::parse(text("signature")).unwrap();
                assert_eq!(event["size"], tree.size());
                assert_eq!(text("root"), tree.root().to_string());
                assert!(public.made(&signature, &checkpoint));
            }
            tree.push(line.leaf());
            prev = line.mac;
            first = false;
            events.push(event);
        }
    }
    events
}

fn of_kind<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    let of_kind = |event: &&Value| event["event"] == kind || event["phase"] == kind;
    events.iter().filter(of_kind).collect()
}

#[tokio::test]
async fn what_is_durable_stands_where_it_was_said_to_and_a_stop_is_signed() {
    let folder = TempDir::new().unwrap();
    let trail = open(&settings(folder.path()));
    let mut filed = Vec::new();
    for _ in 0..25 {
        let id = RequestId::mint();
        filed.push((id, trail.record(&step("intent", id))));
    }
    let mut positions = Vec::new();
    for (id, filed) in filed {
        positions.push((id, filed.durable().await.unwrap().unwrap()));
    }
    // On disk now, and not at the end only.
    let events = chain(folder.path());
    for (id, position) in &positions {
        let event = &events[usize::try_from(position.seq).unwrap() - 1];
        assert_eq!(event["request_id"], id.to_string());
    }
    assert!(!of_kind(&events, "checkpoint").is_empty());
    assert_eq!(
        trail.durable().borrow().seq,
        u64::try_from(events.len()).unwrap()
    );
    close(trail).await;
    let events = chain(folder.path());
    let last: Vec<_> = events
        .iter()
        .rev()
        .take(2)
        .map(|event| &event["event"])
        .collect();
    assert_eq!(last, ["checkpoint", "stop"]);
}

#[tokio::test]
async fn a_second_process_is_refused_and_a_third_takes_over() {
    let folder = TempDir::new().unwrap();
    let settings = settings(folder.path());
    let trail = open(&settings);
    let second = AuditTrail::open(&settings, None);
    assert!(matches!(second, Err(OpenError::Locked(_))));
    close(trail).await;
    close(open(&settings)).await;
    let events = chain(folder.path());
    assert_eq!(of_kind(&events, "start").len(), 2);
    assert_eq!(of_kind(&events, "audit_gap").len(), 0);
}

#[tokio::test]
async fn a_file_that_ends_at_any_byte_is_gone_on_from_and_that_is_said() {
    let written = TempDir::new().unwrap();
    let trail = open(&settings(written.path()));
    let ids: Vec<_> = (0..4).map(|_| RequestId::mint()).collect();
    for id in &ids {
        trail.record(&step("intent", *id)).durable().await.unwrap();
    }
    for id in &ids[..2] {
        trail.record(&step("outcome", *id)).durable().await.unwrap();
    }
    let name = "audit-00000001.jsonl";
    let whole = fs::read(written.path().join(name)).unwrap();
    drop(trail);
    for length in 0..=whole.len() {
        // In memory, where there is such a thing: a few thousand times a start waits for its disk.
        let folder = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| TempDir::new())
            .unwrap();
        fs::write(folder.path().join(name), &whole[..length]).unwrap();
        close(open(&settings(folder.path()))).await;
        let events = chain(folder.path());
        // Whole lines are kept, and what is left of one is set aside.
        let lines = whole[..length].split(|byte| *byte == b'\n').count() - 1;
        let end = whole[..length].iter().rposition(|byte| *byte == b'\n');
        let rest = length - end.map_or(0, |end| end + 1);
        let gaps = of_kind(&events, "audit_gap");
        // Of a file that was just begun nobody was told anything.
        assert_eq!(gaps.len(), usize::from(rest > 0 && lines > 0), "{length}");
        if let Some(gap) = gaps.first() {
            assert_eq!(gap["cause"], "torn");
            assert_eq!(
                [&gap["file"], &gap["bytes"]],
                [&Value::from(1), &Value::from(rest)]
            );
            let aside = fs::read_dir(folder.path()).unwrap().flatten();
            let aside = aside
                .map(|file| file.path())
                .find(|path| path.to_string_lossy().contains("torn"));
            assert_eq!(
                fs::read(aside.unwrap()).unwrap(),
                whole[length - rest..length]
            );
        }
        assert_eq!(events[lines]["event"], "file_opened");
        // Who was under way has an end, each one.
        let started = of_kind(&events[..lines], "intent").len();
        let outcomes = of_kind(&events, "outcome");
        assert_eq!(outcomes.len(), started, "{length}");
        let ended: BTreeSet<_> = outcomes
            .iter()
            .map(|event| event["request_id"].as_str())
            .collect();
        assert_eq!(ended.len(), started);
    }
}

#[test]
fn the_first_line_of_a_file_is_one_that_can_be_read_however_much_is_under_way() {
    let folder = TempDir::new().unwrap();
    let (key, node) = (AuditKey::derive(&[7; 32]), "gw-1".try_into().unwrap());
    let state = State::first(&node, &key);
    let open = (0..250_000).map(|_| RequestId::mint()).collect();
    let mut bytes = Vec::new();
    Chain::new(node, Arc::new(key), state, open).open_file(1, clock::now(), &mut bytes);
    fs::write(folder.path().join("audit-00000001.jsonl"), &bytes).unwrap();
    let files = Folder::new(folder.path()).files().unwrap();
    let mut lines = files[0].lines().unwrap();
    assert!(matches!(lines.next_line(), Ok(Some(Next::Line(_)))));
}

#[tokio::test]
async fn what_is_set_aside_is_said_though_the_start_that_does_it_fails() {
    let folder = TempDir::new().unwrap();
    let settings = settings(folder.path());
    close(open(&settings)).await;
    let path = folder.path().join("audit-00000001.jsonl");
    let whole = fs::read(&path).unwrap();
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"{\"v\":1,\"seq\":").unwrap();
    // Twice it comes no further, for want of room, say.
    for _ in 0..2 {
        let recovered = recovery::recover(&settings, clock::now()).unwrap();
        assert!(recovered.unwrap().gap.is_some());
    }
    close(open(&settings)).await;
    let events = chain(folder.path());
    let gaps = of_kind(&events, "audit_gap");
    assert_eq!(gaps.len(), 1);
    assert_eq!(gaps[0]["from_byte"], whole.len());
    let names = fs::read_dir(folder.path()).unwrap().flatten();
    let aside = names.filter(|file| file.path().to_string_lossy().contains("torn"));
    assert_eq!(aside.count(), 1);
}

/// The bytes of a chain's only file after `intents` of them, and where its lines begin.
async fn written(intents: usize) -> (Vec<u8>, Vec<usize>) {
    let folder = TempDir::new().unwrap();
    let trail = open(&settings(folder.path()));
    for _ in 0..intents {
        let event = step("intent", RequestId::mint());
        trail.record(&event).durable().await.unwrap();
    }
    let bytes = fs::read(folder.path().join("audit-00000001.jsonl")).unwrap();
    let breaks = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    let begins = [0].into_iter().chain(breaks.map(|(at, _)| at + 1));
    let begins = begins.collect();
    (bytes, begins)
}

#[tokio::test]
async fn an_end_with_whole_lines_that_do_not_count_is_damaged_and_a_piece_of_one_is_torn() {
    let (bytes, begins) = written(4).await;
    let (other, _) = written(4).await;
    let [.., third, last, end] = begins[..] else {
        panic!("{begins:?}")
    };
    let mut changed = bytes.clone();
    changed[third + 40] ^= 1;
    // Good lines, in another chain of the same name and key.
    let foreign = [&bytes[..last], &other[last..]].concat();
    let inserted = [&bytes[..last], b"x\n", &bytes[last..]].concat();
    let doubled = [&bytes[..], &bytes[last..]].concat();
    let both = [&bytes[..end - 1], b"x\n{\"v\":1"].concat();
    for (what, bytes, from, cause) in [
        ("cut", bytes[..end - 1].to_vec(), last, "torn"),
        ("changed", changed, third, "damaged"),
        ("foreign", foreign, last, "damaged"),
        ("inserted", inserted, last, "damaged"),
        ("doubled", doubled, end, "damaged"),
        ("changed and cut", both, last, "damaged"),
    ] {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("audit-00000001.jsonl"), &bytes).unwrap();
        close(open(&settings(folder.path()))).await;
        let events = chain(folder.path());
        let gaps = of_kind(&events, "audit_gap");
        let told: Vec<_> = gaps
            .iter()
            .map(|gap| [&gap["cause"], &gap["from_byte"], &gap["bytes"]].map(Value::to_string))
            .collect();
        let expected = [
            format!("{cause:?}"),
            from.to_string(),
            (bytes.len() - from).to_string(),
        ];
        assert_eq!(told, [expected], "{what}");
        let aside = folder.path().join(format!("audit-00000001.torn-{from}"));
        assert_eq!(fs::read(aside).unwrap(), &bytes[from..], "{what}");
    }
}

#[tokio::test]
async fn requests_that_were_under_way_are_ended_though_their_intent_is_in_an_older_file() {
    let folder = TempDir::new().unwrap();
    let settings = AuditSettings {
        rotate_size: 4 * 1024,
        ..settings(folder.path())
    };
    let (trail, lost) = (open(&settings), RequestId::mint());
    trail.record(&step("intent", lost)).durable().await.unwrap();
    write_until_file(&trail, 4).await;
    close(trail).await;
    close(open(&settings)).await;
    let events = chain(folder.path());
    let ends = of_kind(&events, "outcome");
    let end = ends
        .iter()
        .filter(|event| event["request_id"] == lost.to_string());
    let end: Vec<_> = end
        .map(|event| [&event["code"], &event["reason"]])
        .collect();
    assert_eq!(end, [["unknown", "interrupted"]]);
    // Once: the next start knows that.
    close(open(&settings)).await;
    assert_eq!(of_kind(&chain(folder.path()), "outcome").len(), ends.len());
}

#[tokio::test]
async fn damage_in_the_middle_stays_where_it_is_and_the_chain_goes_on_from_the_last_checkpoint() {
    let folder = TempDir::new().unwrap();
    let settings = settings(folder.path());
    let trail = open(&settings);
    for _ in 0..40 {
        let id = RequestId::mint();
        trail.record(&step("intent", id)).durable().await.unwrap();
        trail.record(&step("outcome", id)).durable().await.unwrap();
    }
    close(trail).await;
    let path = folder.path().join("audit-00000001.jsonl");
    let mut bytes = fs::read(&path).unwrap();
    let whole = chain(folder.path()).len();
    // In the third line, long before a checkpoint.
    let second = bytes
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'\n')
        .nth(1)
        .unwrap()
        .0;
    bytes[second + 40] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let trail = open(&settings);
    assert!(trail.durable().borrow().seq > u64::try_from(whole).unwrap());
    close(trail).await;
    let after = fs::read(&path);
    // Compressed by now, or just about to be.
    assert!(after.is_err() || after.is_ok_and(|after| after == bytes));
    let gaps = fs::read_dir(folder.path()).unwrap().flatten();
    assert_eq!(
        gaps.filter(|file| file.path().to_string_lossy().contains("torn"))
            .count(),
        0
    );
}

#[tokio::test]
async fn a_chain_is_gone_on_with_another_key_where_the_old_one_is_known() {
    let folder = TempDir::new().unwrap();
    let before = settings(folder.path());
    close(open(&before)).await;
    let new = Arc::new(AuditKey::derive(&[8; 32]));
    let with = |old: Vec<_>| AuditSettings {
        keys: AuditKeys {
            current: Arc::clone(&new),
            old,
        },
        ..before.clone()
    };
    let refused = AuditTrail::open(&with(Vec::new()), None);
    assert!(matches!(refused, Err(OpenError::Key { .. })));
    let trail = open(&with(vec![Arc::clone(&before.keys.current)]));
    let id = RequestId::mint();
    let position = trail.record(&step("intent", id)).durable().await.unwrap();
    // Five lines of the first process: opened, start, stop, checkpoint; and two of this one.
    assert_eq!(position.unwrap().seq, 7);
    let other = AuditSettings {
        node: Some("gw-2".try_into().unwrap()),
        ..with(vec![Arc::clone(&before.keys.current)])
    };
    close(trail).await;
    assert!(matches!(
        AuditTrail::open(&other, None),
        Err(OpenError::Node { .. })
    ));
    // Who has got hold of the old one cannot go on with it.
    let back = AuditSettings {
        keys: AuditKeys {
            current: Arc::clone(&before.keys.current),
            old: vec![new],
        },
        ..before
    };
    let Err(OpenError::RetiredKey { path, .. }) = AuditTrail::open(&back, None) else {
        panic!("a key that was replaced came back")
    };
    assert!(path.ends_with("audit-00000001.jsonl") || path.ends_with("audit-00000001.jsonl.zst"));
}

#[tokio::test]
async fn rotation_loses_nothing_and_what_is_too_much_goes_after_that_was_said() {
    let folder = TempDir::new().unwrap();
    let settings = AuditSettings {
        rotate_size: 4 * 1024,
        keep_files: Some(5),
        ..settings(folder.path())
    };
    for number in [1, 3, 99] {
        let aside = format!("audit-{number:08}.torn-17");
        fs::write(folder.path().join(aside), "x").unwrap();
    }
    let trail = open(&settings);
    write_until_file(&trail, 12).await;
    let is_tidy = |files: &[AuditFile]| files.iter().filter(|file| !file.compressed).count() == 1;
    looked_after(folder.path(), is_tidy).await;
    close(trail).await;
    let names = names(folder.path());
    let aside: Vec<_> = names.iter().filter(|name| name.contains("torn")).collect();
    assert_eq!(aside, ["audit-00000099.torn-17"]);
    let files = Folder::new(folder.path()).files().unwrap();
    assert!(files.len() <= 6, "{files:?}");
    let (last, closed) = files.split_last().unwrap();
    assert!(!last.compressed);
    assert!(closed.iter().all(|file| file.compressed), "{files:?}");
    let mut removed = None;
    for file in &files {
        let mut lines = file.lines().unwrap();
        while let Some(Next::Line(line)) = lines.next_line().unwrap() {
            let event: Value = serde_json::from_slice(line).unwrap();
            if event["event"] == "files_removed" {
                removed = Some((
                    event["through_file"].as_u64().unwrap(),
                    event["through_seq"].as_u64().unwrap(),
                ));
            }
        }
    }
    let mut lines = files[0].lines().unwrap();
    let Some(Next::Line(first)) = lines.next_line().unwrap() else {
        panic!("an empty file")
    };
    let first = Line::parse(first).unwrap().seq;
    assert_eq!(removed, Some((files[0].number - 1, first - 1)));
}

#[tokio::test]
async fn a_file_that_cannot_be_compressed_keeps_no_other_from_being_compressed_or_removed() {
    let folder = TempDir::new().unwrap();
    let settings = AuditSettings {
        rotate_size: 4 * 1024,
        keep_files: Some(5),
        ..settings(folder.path())
    };
    // Where its copy would be written there is something else.
    fs::create_dir(folder.path().join("audit-00000002.jsonl.zst.part")).unwrap();
    let trail = open(&settings);
    write_until_file(&trail, 12).await;
    let is_one = |files: &[AuditFile]| files.iter().any(|file| file.compressed);
    looked_after(folder.path(), is_one).await;
    close(trail).await;
    let files = Folder::new(folder.path()).files().unwrap();
    assert!(files.len() <= 6, "{files:?}");
    assert!(files.iter().any(|file| file.compressed), "{files:?}");
}

#[tokio::test]
async fn a_compressed_file_is_not_cut_where_it_is_the_last() {
    let folder = TempDir::new().unwrap();
    let settings = settings(folder.path());
    let trail = open(&settings);
    let id = RequestId::mint();
    trail.record(&step("intent", id)).durable().await.unwrap();
    let plain = folder.path().join("audit-00000001.jsonl");
    let whole = fs::read(&plain).unwrap();
    close(trail).await;
    fs::remove_file(&plain).unwrap();
    let compressed = folder.path().join("audit-00000001.jsonl.zst");
    // Half of its first line, and half of its last.
    for length in [40, whole.len() - 40] {
        let bytes = zstd::encode_all(&whole[..length], 3).unwrap();
        fs::write(&compressed, &bytes).unwrap();
        let refused = AuditTrail::open(&settings, None);
        assert!(matches!(refused, Err(OpenError::NoChain(_))), "{length}");
        assert_eq!(fs::read(&compressed).unwrap(), bytes);
    }
}

#[tokio::test]
async fn a_file_that_is_moved_away_is_noticed_before_anything_is_said_to_be_on_disk() {
    let folder = TempDir::new().unwrap();
    let trail = open(&AuditSettings {
        rotate_size: 4 * 1024,
        ..settings(folder.path())
    });
    let id = RequestId::mint();
    trail.record(&step("intent", id)).durable().await.unwrap();
    let name = folder.path().join("audit-00000001.jsonl");
    fs::rename(&name, folder.path().join("elsewhere")).unwrap();
    let refused = trail
        .record(&step("intent", RequestId::mint()))
        .durable()
        .await;
    assert_eq!(
        refused,
        Err(AuditUnavailable::Disk(io::ErrorKind::NotFound))
    );
    assert!(trail.available().is_err());
    // It begins another file by itself.
    let mut durable = trail.durable();
    durable.wait_for(|durable| durable.file == 2).await.unwrap();
    trail.record(&step("outcome", id)).durable().await.unwrap();
    assert!(trail.available().is_ok());
    fs::rename(folder.path().join("elsewhere"), &name).unwrap();
    write_until_file(&trail, 4).await;
    close(trail).await;
    // What was written into the file that was moved does not stand in it, and the gap is said once.
    let events = chain(folder.path());
    let gaps = of_kind(&events, "audit_gap");
    assert_eq!(
        (gaps.len(), &gaps[0]["cause"]),
        (1, &Value::from("write_failed"))
    );
    assert_eq!(of_kind(&events, "intent")[0]["request_id"], id.to_string());
    assert_eq!(
        of_kind(&events, "intent").len(),
        of_kind(&events, "outcome").len()
    );
}

#[tokio::test]
async fn a_folder_that_was_replaced_is_not_written_to_and_gone_on_with_when_it_is_back() {
    let outer = TempDir::new().unwrap();
    let (folder, elsewhere) = (outer.path().join("audit"), outer.path().join("elsewhere"));
    let trail = open(&settings(&folder));
    let (id, other) = (RequestId::mint(), RequestId::mint());
    trail.record(&step("intent", id)).durable().await.unwrap();
    fs::rename(&folder, &elsewhere).unwrap();
    let gone = Err(AuditUnavailable::Disk(io::ErrorKind::NotFound));
    let refused = trail.record(&step("intent", other)).durable().await;
    assert_eq!(refused, gone);
    // An empty one, and a copy: neither is held by this process.
    fs::create_dir(&folder).unwrap();
    let mut syncs = trail.health().syncs;
    for name in ["lock", "audit-00000001.jsonl"] {
        let refused = trail.record(&step("outcome", id)).durable().await;
        assert_eq!(refused, gone);
        fs::copy(elsewhere.join(name), folder.join(name)).unwrap();
    }
    // It tries twice in that time.
    let mut durable = trail.durable();
    let begun = durable.wait_for(|durable| durable.file == 2);
    assert!(timeout(Duration::from_millis(1_200), begun).await.is_err());
    assert_eq!(names(&folder).len(), 2);
    assert_eq!(
        (trail.available(), trail.health().syncs),
        (gone.map(|_| ()), syncs)
    );
    fs::rename(&folder, outer.path().join("copy")).unwrap();
    fs::rename(&elsewhere, &folder).unwrap();
    durable.wait_for(|durable| durable.file == 2).await.unwrap();
    syncs += 1;
    assert_eq!(trail.health().syncs, syncs);
    close(trail).await;
    let events = chain(&folder);
    // What was not begun has no intent; what had ended has its outcomes.
    assert_eq!(of_kind(&events, "intent").len(), 1);
    assert_eq!(of_kind(&events, "outcome").len(), 2);
}

#[tokio::test]
async fn with_best_effort_what_the_disk_did_not_take_is_written_later_intents_too() {
    let folder = TempDir::new().unwrap();
    let trail = open(&AuditSettings {
        durability: Durability::BestEffort,
        ..settings(folder.path())
    });
    let name = folder.path().join("audit-00000001.jsonl");
    fs::rename(&name, folder.path().join("elsewhere")).unwrap();
    drop(trail.record(&step("intent", RequestId::mint())));
    let mut durable = trail.durable();
    durable.wait_for(|durable| durable.file == 2).await.unwrap();
    fs::rename(folder.path().join("elsewhere"), &name).unwrap();
    assert_eq!(trail.health().lost, 0);
    close(trail).await;
    assert_eq!(of_kind(&chain(folder.path()), "intent").len(), 1);
}

#[tokio::test]
async fn what_was_lost_is_said_once_and_checkpoints_come_as_often_as_was_said() {
    let folder = TempDir::new().unwrap();
    let trail = open(&settings(folder.path()));
    assert!(trail.lose().durable().await.is_err());
    for _ in 0..38 {
        let event = step("intent", RequestId::mint());
        trail.record(&event).durable().await.unwrap();
    }
    let events = chain(folder.path());
    let gaps = of_kind(&events, "audit_gap");
    let said: Vec<_> = gaps
        .iter()
        .map(|gap| [&gap["cause"], &gap["lost"]])
        .collect();
    assert_eq!(said, [[&Value::from("lost"), &Value::from(1)]]);
    // Of 41 lines, one each ten.
    assert_eq!(of_kind(&events, "checkpoint").len(), 4);
    close(trail).await;
}

#[tokio::test]
async fn at_a_start_time_may_have_gone_on_and_a_clock_that_is_behind_the_chain_was_set() {
    for (minutes, steps) in [(-60, 0), (60, 1)] {
        let folder = TempDir::new().unwrap();
        let settings = settings(folder.path());
        let (key, node) = (AuditKey::derive(&[7; 32]), "gw-1".try_into().unwrap());
        let state = State::first(&node, &key);
        let mut bytes = Vec::new();
        let then = clock::now() + jiff::SignedDuration::from_mins(minutes);
        Chain::new(node, Arc::new(key), state, [].into()).open_file(1, then, &mut bytes);
        fs::write(folder.path().join("audit-00000001.jsonl"), &bytes).unwrap();
        close(open(&settings)).await;
        let events = chain(folder.path());
        assert_eq!(of_kind(&events, "clock_step").len(), steps, "{minutes}");
    }
}

#[tokio::test]
async fn a_file_of_somebody_elses_where_the_next_one_is_to_be_is_set_aside() {
    let folder = TempDir::new().unwrap();
    let settings = AuditSettings {
        rotate_size: 4 * 1024,
        ..settings(folder.path())
    };
    let trail = open(&settings);
    fs::write(folder.path().join("audit-00000002.jsonl"), "restored").unwrap();
    write_until_file(&trail, 2).await;
    close(trail).await;
    assert!(of_kind(&chain(folder.path()), "audit_gap").is_empty());
    let names = names(folder.path());
    let aside = names
        .iter()
        .find(|name| name.starts_with("audit-00000002.torn-"));
    let aside = fs::read_to_string(folder.path().join(aside.unwrap()));
    assert_eq!(aside.unwrap(), "restored");
}

#[tokio::test]
#[expect(
    clippy::print_stdout,
    reason = "who runs it as another user is to know"
)]
async fn what_belongs_to_another_user_is_left_alone() {
    use std::os::unix::fs::chown;
    let folder = TempDir::new().unwrap();
    let settings = settings(folder.path());
    let nobody = Some(65_534);
    if chown(folder.path(), nobody, None).is_err() {
        println!("only root gives a folder away: nothing was looked at");
        return;
    }
    let is_refused = |settings| {
        let refused = AuditTrail::open(settings, None);
        let refused = refused.err().unwrap();
        assert!(
            matches!(
                refused,
                OpenError::Owner {
                    owner: 65_534,
                    user: 0,
                    ..
                }
            ),
            "{refused}"
        );
        assert!(
            refused.to_string().contains("sudo -u '#65534'"),
            "{refused}"
        );
    };
    // Before its first start and after it.
    is_refused(&settings);
    assert!(names(folder.path()).is_empty());
    chown(folder.path(), Some(0), None).unwrap();
    close(open(&settings)).await;
    let lock = folder.path().join("lock");
    chown(&lock, nobody, None).unwrap();
    let before = names(folder.path());
    is_refused(&settings);
    assert_eq!(names(folder.path()), before);
    chown(&lock, Some(0), None).unwrap();
    // A folder may be a group's, or of who mounted it, once the chain is ours.
    chown(folder.path(), nobody, None).unwrap();
    close(open(&settings)).await;
    let file = AuditSettings {
        folder: lock,
        ..settings
    };
    assert!(matches!(
        AuditTrail::open(&file, None),
        Err(OpenError::NoFolder(_))
    ));
}

#[tokio::test]
async fn what_is_no_chain_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("audit-00000001.jsonl");
    fs::write(&path, "{\"somebody\":\"else's\"}\n").unwrap();
    let refused = AuditTrail::open(&settings(folder.path()), None);
    assert!(matches!(refused, Err(OpenError::NoChain(_))));
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"x").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 2);
}

fn rejected(left_out: u64) -> Rejected {
    Rejected {
        time: clock::now(),
        phase: event::Phase::Rejected,
        request_id: RequestId::mint(),
        client: Client::Unknown,
        code: "invalid_token",
        reason: None,
        http_status: 401,
        left_out,
    }
}

/// How many rejections a chain has events of, and how many it says were left out.
fn rejections(events: &[Value]) -> (usize, u64) {
    let of = |member| {
        events
            .iter()
            .filter_map(move |event| event[member].as_u64())
    };
    let written = events.iter().filter(|event| event["phase"] == "rejected");
    (written.count(), of("left_out").chain(of("count")).sum())
}

#[tokio::test]
async fn a_flood_of_rejections_writes_no_more_than_its_bound_and_each_is_an_event_or_counted() {
    for (count, events) in [(1, 1), (0, 0)] {
        let folder = tempfile::tempdir().unwrap();
        let settings = AuditSettings {
            rejected_rate: NonZeroU32::new(count)
                .map(|count| Rate::new(count, Duration::from_hours(1), None)),
            ..settings(folder.path())
        };
        let trail = open(&settings);
        for _ in 0..100_000 {
            trail.reject(rejected);
        }
        assert_eq!(trail.health().left_out, 100_000 - events);
        close(trail).await;
        let chain = chain(folder.path());
        let (written, left_out) = rejections(&chain);
        assert_eq!(
            (u64::try_from(written).unwrap(), left_out),
            (events, 100_000 - events)
        );
        // A file's first line, start, what was left out, stop, a checkpoint.
        assert!(chain.len() <= written + 5, "{}", chain.len());
    }
}

#[tokio::test]
async fn without_rejections_nothing_is_said_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let trail = open(&AuditSettings {
        rejected_rate: Some(Rate::new(NonZeroU32::MIN, Duration::from_hours(1), None)),
        ..settings(folder.path())
    });
    trail.reject(rejected);
    close(trail).await;
    let chain = chain(folder.path());
    assert_eq!(rejections(&chain), (1, 0));
    assert!(
        !chain
            .iter()
            .any(|event| event["event"] == "rejections_left_out")
    );
    assert!(chain.iter().all(|event| event.get("left_out").is_none()));
}

#[tokio::test]
async fn what_was_left_out_is_said_while_the_gateway_runs_though_nothing_else_happens() {
    let folder = tempfile::tempdir().unwrap();
    let trail = open(&AuditSettings {
        checkpoint_every: Duration::from_millis(50),
        ..settings(folder.path())
    });
    let mut durable = trail.durable();
    // What was there to say of the start: from now on the writer sleeps.
    durable.wait_for(|durable| durable.seq > 2).await.unwrap();
    trail.reject(rejected);
    let said = durable.wait_for(|_| rejections(&chain(folder.path())).1 > 0);
    drop(timeout(Duration::from_secs(30), said).await.unwrap());
    assert_eq!(rejections(&chain(folder.path())), (0, 1));
    close(trail).await;
    assert_eq!(rejections(&chain(folder.path())), (0, 1), "it is said once");
}
