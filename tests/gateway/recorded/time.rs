//! A wall clock that is set back and forth under a running gateway, by libfaketime: the order of events is
//! that of their numbers, nothing is lost, and the chain says what the clock did.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use dcams_gateway::{audit::folder::Folder, operation::Operation};

use tokio::time::{sleep, timeout};

use super::{Recorded, verify};
use crate::{
    program::{Served, Site},
    support::{client, lookup},
};

/// Longer than anything here takes.
const LATEST: Duration = Duration::from_secs(30);
/// Less than the leeway of tokens.
const STEP: i64 = 20;

/// The library that tells a process another time.
fn library() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").unwrap().flatten();
    let library = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    library
        .into_iter()
        .find(|path| path.exists())
        .expect("scripts/test installs libfaketime")
}

/// Variables with which a gateway's clock is set by a file.
fn clock<'a>(library: &'a Path, file: &'a str) -> [(&'a str, &'a str); 4] {
    [
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("FAKETIME_TIMESTAMP_FILE", file),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("FAKETIME_NO_CACHE", "1"),
    ]
}

#[tokio::test]
async fn a_clock_that_is_far_ahead_removes_no_file_until_it_has_been_so_for_days() {
    const DAY: i64 = 24 * 60 * 60;
    let site = Site::prepare().await;
    let offset = site.folder.path().join("offset");
    let (library, file) = (library(), offset.display().to_string());
    let variables = clock(&library, &file);
    let trail = site.folder.path().join("audit");
    let first = || Folder::new(&trail).files().unwrap()[0].number;
    // Three starts as ever, two with a mistyped year, and one when nobody has minded that for four days.
    for days in [0, 0, 0, 3_650, 3_650, 3_654] {
        fs::write(&offset, format!("{:+}", days * DAY)).unwrap();
        let mut served = site.serve("", &variables).await;
        if days == 3_650 {
            let waits = "no file is removed for its age";
            served.program.err.says(waits, 1).await;
        }
        if days == 3_654 {
            let removal = async {
                while first() == 1 {
                    sleep(Duration::from_millis(20)).await;
                }
            };
            timeout(LATEST, removal)
                .await
                .expect("it believes the time");
        }
        served.program.signal("TERM");
        let ended = served.program.end().await;
        assert!(ended.status.success(), "{ended:?}");
        assert_eq!(first(), if days == 3_654 { 3 } else { 1 }, "{days}");
    }
    verify(&trail, &site.folder.path().join("audit.key")).await;
}

#[tokio::test]
async fn a_clock_that_is_set_back_loses_nothing_and_is_on_record() {
    let site = Site::prepare().await;
    let offset = site.folder.path().join("offset");
    let set = |seconds: i64| fs::write(&offset, format!("{seconds:+}")).unwrap();
    let (library, file) = (library(), offset.display().to_string());
    let variables = clock(&library, &file);
    let ask = async |served: &Served| {
        let token = site.token(&[Operation::GetStatus]);
        let ask = client().post(served.url()).bearer_auth(token);
        let asked = ask
            .json(&lookup(Operation::GetStatus))
            .send()
            .await
            .unwrap();
        assert_eq!(asked.status(), 404);
    };
    set(0);
    let served = site.serve("", &variables).await;
    for seconds in [0, -STEP, 0] {
        set(seconds);
        ask(&served).await;
    }
    served.program.signal("TERM");
    assert!(served.program.end().await.status.success());
    // And a start at a time before the last event's.
    set(-STEP);
    let served = site.serve("", &variables).await;
    ask(&served).await;
    let (trail, key) = ["audit", "audit.key"]
        .map(|name| site.folder.path().join(name))
        .into();
    verify(&trail, &key).await;
    let recorded = Recorded::read(&trail, &key);
    let steps = recorded.acts("clock_step");
    let ms: Vec<_> = steps
        .iter()
        .map(|step| step["ms"].as_i64().unwrap())
        .collect();
    let [back, forth, before] = ms[..] else {
        panic!("{ms:?}")
    };
    let near = |ms: i64, seconds: i64| (ms - seconds * 1_000).abs() < 500;
    assert!(near(back, -STEP) && near(forth, STEP), "{ms:?}");
    // Less what has passed since the last event.
    assert!((-STEP * 1_000..-1_000).contains(&before), "{ms:?}");
    assert_eq!(recorded.of_phase("intent").count(), 4);
    assert_eq!(recorded.of_phase("outcome").count(), 4);
}
