//! What the shipper makes of files and cursors in every state.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::*;

#[tokio::test]
async fn from_a_cursor_that_does_not_fit_all_is_sent_again() {
    let receiver = Receiver::start(|_| TAKEN).await;
    let chain = Written::begin(4_096);
    chain.write(50).await;
    chain.close().await;
    let settings = http(&receiver);
    let shipped = chain.ship(&settings);
    shipped.until_all().await;
    shipped.stop().await;
    let all = chain.lines();
    let cursor = fs::read_to_string(chain.path("ship.cursor")).unwrap();
    let seq = all.len();
    assert!(cursor.contains(&format!("\"seq\":{seq},")), "{cursor}");
    for (cause, written) in [
        ("damaged", "{\"v\":1".to_owned()),
        ("damaged", String::new()),
        ("foreign", cursor.replace(NODE, "gw-2")),
        (
            "ahead",
            cursor.replace(&seq.to_string(), &(seq + 1).to_string()),
        ),
    ] {
        let log = Lines::default();
        let _guard = log.collect_log();
        let before = receiver.lines().len();
        fs::write(chain.path("ship.cursor"), &written).unwrap();
        let shipped = chain.ship(&settings);
        shipped.until_all().await;
        assert_same(&receiver.lines()[before..], &all);
        assert_eq!(count(&log, &format!("\"cause\":\"{cause}\"")), 1);
        shipped.stop().await;
        let now = fs::read_to_string(chain.path("ship.cursor")).unwrap();
        assert_eq!(now, cursor);
    }
    // And from one that fits nothing is.
    let before = receiver.heard().len();
    let shipped = chain.ship(&settings);
    let health = shipped.until(|health| health.last_taken_seq > 0).await;
    assert_eq!((health.behind_events, receiver.heard().len()), (0, before));
}

#[tokio::test]
async fn files_that_were_removed_too_early_are_counted_and_the_rest_is_sent() {
    let receiver = Receiver::start(|_| TAKEN).await;
    let chain = Written::begin(4_096);
    chain.write(5).await;
    let settings = http(&receiver);
    let shipped = chain.ship(&settings);
    let taken = shipped.until_all().await.last_taken_seq;
    shipped.stop().await;
    chain.write(100).await;
    chain.close().await;
    let all = chain.lines();
    let last = chain.files().last().unwrap().0;
    for file in Folder::new(chain.folder.path()).files().unwrap() {
        if file.number < last {
            fs::remove_file(file.path).unwrap();
        }
    }
    let log = Lines::default();
    let _guard = log.collect_log();
    let shipped = chain.ship(&settings);
    let health = shipped.until_all().await;
    let left = chain.lines();
    let missed = seq(&left[0]) - taken - 1;
    assert_eq!(health.missed_events, missed);
    assert!(missed > 0 && all.ends_with(&left));
    assert!(receiver.lines().ends_with(&left));
    assert_eq!(count(&log, "before the second place had them"), 1);
}

/// What is removed while the second place is away is counted then, and not once more when it is back.
#[tokio::test]
async fn what_is_removed_while_the_second_place_is_away_is_counted_at_once() {
    for caught_up in [true, false] {
        let away = Arc::new(AtomicBool::new(false));
        let is_away = Arc::clone(&away);
        let receiver = Receiver::start(move |_| {
            if is_away.load(Relaxed) {
                Reaction::Answer(503, "", "")
            } else {
                TAKEN
            }
        })
        .await;
        let chain = Written::begin(4_096);
        let mut settings = http(&receiver);
        settings.batch.lines = 2;
        chain.write(if caught_up { 3 } else { 100 }).await;
        away.store(!caught_up, Relaxed);
        let log = Lines::default();
        let _guard = log.collect_log();
        let shipped = chain.ship(&settings);
        if caught_up {
            shipped.until_all().await;
            away.store(true, Relaxed);
            chain.write(100).await;
        }
        shipped.until(|health| health.reason.is_some()).await;
        chain.close().await;
        let all = chain.lines();
        // Twice, as retention does: some, and then some more.
        let files = Folder::new(chain.folder.path()).files().unwrap();
        let mut missed = 0;
        for gone in [&files[..3], &files[3..5]] {
            for file in gone {
                fs::remove_file(&file.path).unwrap();
            }
            let health = shipped.until(|health| health.missed_events > missed).await;
            missed = health.missed_events;
        }
        assert!(missed < u64::try_from(all.len()).unwrap());
        away.store(false, Relaxed);
        let health = shipped.until_all().await;
        let received = first_times(&receiver.lines());
        assert_eq!(health.missed_events, missed);
        assert_eq!(all.len() - received.len(), usize::try_from(missed).unwrap());
        assert_eq!(count(&log, "before the second place had them"), 2);
        shipped.stop().await;
    }
}

#[tokio::test]
async fn a_file_that_is_compressed_or_removed_while_it_is_read_is_read_to_its_end() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let gated = Arc::clone(&gate);
    let receiver = Receiver::start(move |_| match gated.try_acquire() {
        Ok(permit) => {
            permit.forget();
            TAKEN
        }
        Err(_) => Reaction::Answer(503, "", ""),
    })
    .await;
    let chain = Written::begin(4_096);
    chain.write(100).await;
    chain.close().await;
    let mut settings = http(&receiver);
    settings.batch.lines = 2;
    let all = chain.lines();
    let shipped = chain.ship(&settings);
    gate.add_permits(1);
    shipped.until(|health| health.last_taken_seq == 2).await;
    // The second batch is in memory, the file is open.
    let first = Folder::new(chain.folder.path()).files().unwrap().remove(0);
    fs::remove_file(first.path).unwrap();
    gate.add_permits(10_000);
    let health = shipped.until_all().await;
    assert_eq!(health.missed_events, 0);
    assert_same(&first_times(&receiver.lines()), &all);
}

/// Lines of a chain as text, from this number on.
fn text(from: u64, count: u64, word: &str) -> String {
    let digits = "0".repeat(64);
    let mut lines = Vec::new();
    for seq in from..from + count {
        lines.push(format!(
            "{{\"v\":1,\"seq\":{seq},\"node\":\"{NODE}\",\"phase\":\"event\",\"event\":\"{word}\",\
             \"prev\":\"{digits}\",\"mac\":\"{digits}\"}}\n"
        ));
    }
    lines.concat()
}

fn size(text: &str) -> u64 {
    u64::try_from(text.len()).unwrap()
}

#[tokio::test]
async fn what_is_not_durable_is_not_sent_and_what_a_failed_write_left_neither() {
    let receiver = Receiver::start(|_| TAKEN).await;
    let folder = tempfile::tempdir().unwrap();
    let file = |number: u64| folder.path().join(format!("audit-{number:08}.jsonl"));
    let good = text(1, 5, "good");
    // Three lines that were written and never synced, and half of one.
    let bad = text(6, 3, "bad");
    let torn = &bad[..bad.len() - 9];
    fs::write(file(1), format!("{good}{torn}")).unwrap();
    let durable = |file, bytes: &str, seq| Durable {
        file,
        bytes: size(bytes),
        seq,
    };
    let (sender, durably) = watch::channel(durable(1, &good, 5));
    let shipped = Shipped::start(&http(&receiver), folder.path(), durably);
    shipped.until_all().await;
    assert_eq!(receiver.lines().concat(), good.replace('\n', ""));
    // The writer could not cut it back, and went on in other files, the first of which failed too.
    fs::write(file(2), "").unwrap();
    let more = text(6, 4, "good");
    fs::write(file(3), format!("{more}{{\"v\":1,")).unwrap();
    sender.send(durable(3, &more, 9)).unwrap();
    let health = shipped.until_all().await;
    assert_eq!(
        receiver.lines().concat(),
        format!("{good}{more}").replace('\n', "")
    );
    assert_eq!(health.missed_events, 0);
    // The same for who begins anew.
    shipped.kill().await;
    fs::remove_file(folder.path().join("ship.cursor")).unwrap();
    let again = Receiver::start(|_| TAKEN).await;
    let shipped = Shipped::start(&http(&again), folder.path(), sender.subscribe());
    shipped.until_all().await;
    assert_eq!(
        again.lines().concat(),
        format!("{good}{more}").replace('\n', "")
    );
}

#[tokio::test]
async fn a_damaged_line_is_counted_and_a_damaged_file_stops_the_shipping_until_it_is_mended() {
    let receiver = Receiver::start(|_| TAKEN).await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let (one, two) = (text(1, 2, "one"), text(4, 2, "two"));
    fs::write(file("audit-00000001.jsonl.zst"), "no zstd at all").unwrap();
    fs::write(file("audit-00000002.jsonl"), text(6, 1, "three")).unwrap();
    let (_sender, durably) = watch::channel(Durable {
        file: 2,
        bytes: size(&text(6, 1, "three")),
        seq: 6,
    });
    let shipped = Shipped::start(&http(&receiver), folder.path(), durably);
    let health = shipped.until(|health| health.reason.is_some()).await;
    assert_eq!(health.reason, Some("unreadable"));
    assert!(receiver.heard().is_empty());
    let damaged = format!("{one}{}\n{two}", text(3, 1, "gone").replace("mac", "cam"));
    let mended = zstd::encode_all(damaged.as_bytes(), 3).unwrap();
    fs::write(file("new"), mended).unwrap();
    fs::rename(file("new"), file("audit-00000001.jsonl.zst")).unwrap();
    let health = shipped.until_all().await;
    assert_eq!((health.missed_events, health.reason), (1, None));
    let seqs: Vec<_> = receiver.lines().iter().map(|line| seq(line)).collect();
    assert_eq!(seqs, [1, 2, 4, 5, 6]);
}
