//! A disk that is full, read-only, slow or broken: nothing is sent of which there would be no record, nothing
//! that was done is without one, and when it is well again the gateway goes on by itself.
//!
//! The gateway has the folder on a file system of its own, in a mount namespace of its own; where a disk has
//! to be slow or to fail, strace has the system call answer so.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use dcams_gateway::operation::Operation;
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::{Recorded, verify};
use crate::{
    program::{Served, Site},
    support::{Answer, answer, client},
};

/// A gateway and its simulator.
struct Scene {
    served: Served,
    site: Site,
    token: String,
}

/// Longer than anything here takes.
const LATEST: Duration = Duration::from_secs(30);

impl Scene {
    /// A gateway that is started by this shell command with its own command line behind it.
    async fn start(wrapper: &str, toml: &str) -> Self {
        let site = Site::prepare().await;
        let folder = site.folder.path();
        let program = Served::command(folder, &site.simulator.url(), toml, &[]);
        let mut command = Command::new("sh");
        let script = wrapper.replace("FOLDER", &folder.join("audit").display().to_string());
        fs::create_dir(folder.join("audit")).unwrap();
        command
            .args(["-c", &script])
            .arg(program.get_program())
            .args(program.get_args());
        let variables = program
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?)));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .envs(variables);
        let served = Served::run(&mut command).await;
        let token = site.token(&[Operation::GetStatus]);
        Self {
            served,
            site,
            token,
        }
    }

    /// One with the folder on a file system of so many kilobytes.
    async fn on_a_disk_of(kilobytes: u32, toml: &str) -> Self {
        let mount =
            format!("mount -t tmpfs -o size={kilobytes}k tmpfs FOLDER && exec \"$0\" \"$@\"");
        let own = if is_root() {
            "unshare --mount"
        } else {
            "unshare --mount --map-root-user"
        };
        Self::start(&format!("exec {own} sh -c '{mount}' \"$0\" \"$@\""), toml).await
    }

    async fn ask(&self, email: &str) -> Answer {
        let body = json!({"service": "getStatus", "target": {"email": email}});
        let asked = client()
            .post(self.served.url())
            .bearer_auth(&self.token)
            .json(&body);
        answer(asked.send().await.unwrap()).await
    }

    /// The folder as the gateway sees it.
    fn trail(&self) -> PathBuf {
        let folder = self.site.folder.path().join("audit");
        let root = PathBuf::from(format!("/proc/{}/root", self.served.program.id));
        root.join(folder.strip_prefix("/").unwrap())
    }

    fn key(&self) -> PathBuf {
        self.site.folder.path().join("audit.key")
    }

    async fn readiness(&self) -> (u16, String) {
        let url = format!("http://{}/readyz", self.served.admin);
        let answer = answer(client().get(url).send().await.unwrap()).await;
        (answer.status, answer.text)
    }

    /// Asks until it is answered by DCAMS again.
    async fn recovered(&self) {
        let recovery = async {
            while self.ask("again@example.com").await.status != 404 {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LATEST, recovery)
            .await
            .expect("it recovers by itself");
        assert_eq!(self.readiness().await.0, 200);
    }

    /// Nothing is answered but that, nothing reaches DCAMS, and operators are told.
    async fn is_refused(&self) {
        let before = self.site.simulator.requests().len();
        for number in 0..5 {
            let answer = self.ask(&format!("refused-{number}@example.com")).await;
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (503, "audit_unavailable")
            );
            assert!(answer.headers.contains_key("retry-after"));
        }
        assert_eq!(self.site.simulator.requests().len(), before);
        let (status, text) = self.readiness().await;
        assert_eq!(status, 503);
        assert!(text.contains("audit"), "{text}");
    }

    /// Every request that reached DCAMS has an intent, and each intent one outcome.
    async fn is_recorded(&self, folder: &Path) -> Recorded {
        let recorded = Recorded::read(folder, &self.key());
        let begun = Recorded::texts(recorded.of_phase("intent"), "customer");
        for record in self.site.simulator.requests() {
            let body: serde_json::Value =
                serde_json::from_str(record.body.unwrap().as_str()).unwrap();
            let email = body["target"]["email"].as_str().unwrap();
            assert!(begun.contains(recorded.name_of(email).as_str()), "{email}");
        }
        let ended = Recorded::texts(recorded.of_phase("outcome"), "request_id");
        let ids = Recorded::texts(recorded.of_phase("intent"), "request_id");
        assert!(ids.is_subset(&ended));
        assert_eq!(ended.len(), recorded.of_phase("outcome").count());
        verify(folder, &self.key()).await;
        recorded
    }
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout == b"0\n"
}

#[tokio::test]
async fn a_full_disk_stops_requests_before_they_are_sent_and_room_lets_them_go_on() {
    let scene = Scene::on_a_disk_of(256, "").await;
    assert_eq!(scene.ask("before@example.com").await.status, 404);
    let filler = scene.trail().join("filler");
    // Everything but what was reserved in the last page of the file that is being written.
    drop(fs::write(&filler, vec![0; 512 * 1024]));
    let mut full = false;
    for _ in 0..100 {
        let answer = scene.ask("filling@example.com").await;
        full |= answer.status == 503;
        if full {
            break;
        }
    }
    assert!(full, "the disk never was full");
    scene.is_refused().await;
    fs::remove_file(&filler).unwrap();
    scene.recovered().await;
    let recorded = scene.is_recorded(&scene.trail()).await;
    let gaps: Vec<_> = recorded
        .acts("audit_gap")
        .iter()
        .map(|gap| &gap["cause"])
        .collect();
    assert_eq!(gaps, ["write_failed"]);
    // Who was refused is on record, too.
    let refused = recorded
        .of_phase("outcome")
        .filter(|event| event["code"] == "audit_unavailable");
    assert!(refused.count() >= 5);
}

/// A wrapper by which a system call on the first two files of the chain is answered otherwise.
fn traced(call: &str, injection: &str) -> String {
    format!(
        "exec strace -D -f -qq -o /dev/null -P FOLDER/audit-00000001.jsonl -P FOLDER/audit-00000002.jsonl \
         -e trace={call} -e inject={call}:{injection} \"$0\" \"$@\""
    )
}

#[tokio::test]
async fn a_disk_that_becomes_read_only_stops_requests_until_it_is_writable_again() {
    // Behind what is written at the start and for a first request.
    let scene = Scene::start(&traced("write", "error=EROFS:when=7..16"), "").await;
    assert_eq!(scene.ask("before@example.com").await.status, 404);
    while scene.ask("noticed@example.com").await.status == 404 {}
    scene.is_refused().await;
    scene.recovered().await;
    scene
        .is_recorded(&scene.site.folder.path().join("audit"))
        .await;
}

#[tokio::test]
async fn a_slow_disk_is_waited_for_no_longer_than_was_said() {
    // Three syncs take two seconds each.
    let scene = Scene::start(
        &traced("fdatasync", "delay_enter=2000000:when=2..4"),
        "[audit]\nwrite_timeout = \"300ms\"\n",
    )
    .await;
    let mut refused = 0;
    for number in 0..10 {
        let begun = Instant::now();
        let answer = scene.ask(&format!("slow-{number}@example.com")).await;
        refused += usize::from(answer.status == 503);
        // Once for the intent and once for the outcome, and what a traced process takes besides.
        assert!(
            begun.elapsed() < Duration::from_millis(1_900),
            "{:?}",
            begun.elapsed()
        );
    }
    assert!(refused > 0);
    scene.recovered().await;
    scene
        .is_recorded(&scene.site.folder.path().join("audit"))
        .await;
}

#[tokio::test]
async fn a_sync_that_failed_is_not_believed_the_next_time() {
    // Behind what nobody waits for at the start: whoever asks then, or within half a second, is refused.
    let scene = Scene::start(&traced("fdatasync", "error=EIO:when=5"), "").await;
    let mut asked = 0;
    while scene.ask("broken@example.com").await.status != 503 {
        asked += 1;
        assert!(asked < 100, "it is never noticed");
    }
    scene.recovered().await;
    let folder = scene.site.folder.path().join("audit");
    let recorded = scene.is_recorded(&folder).await;
    let gaps = recorded.acts("audit_gap");
    assert_eq!(
        [&gaps[0]["cause"], &gaps[0]["file"]],
        [&json!("write_failed"), &json!(1)]
    );
    // It went on in another file.
    assert!(recorded.acts("file_opened").len() >= 2);
}

#[tokio::test]
async fn where_no_other_file_can_be_begun_it_goes_on_in_the_old_one() {
    let wrapper = "exec strace -D -f -qq -o /dev/null -P FOLDER/audit-00000002.jsonl \
        -e trace=openat -e inject=openat:error=ENOSPC:when=1..3 \"$0\" \"$@\"";
    let toml = "[audit]\nrotate_size = \"16KiB\"\nwrite_timeout = \"10s\"\n";
    let scene = Scene::start(wrapper, toml).await;
    let trail = scene.site.folder.path().join("audit");
    let rotation = async {
        while !trail.join("audit-00000003.jsonl").exists() {
            assert_eq!(scene.ask("on@example.com").await.status, 404);
        }
    };
    timeout(LATEST, rotation).await.expect("it rotates again");
    let recorded = scene.is_recorded(&trail).await;
    assert!(recorded.acts("audit_gap").is_empty());
}

#[tokio::test]
async fn where_nobody_knows_whether_another_file_is_there_it_does_not_go_on_in_the_old_one() {
    // Each thread has a count of its own. The one that writes has begun file 2; the folder does not say that
    // it has file 3, nor that it has none.
    let wrapper = "exec strace -D -f -qq -o /dev/null -P FOLDER -e trace=fsync \
        -e inject=fsync:error=EIO:when=2..5 \"$0\" \"$@\"";
    let scene = Scene::start(wrapper, "[audit]\nrotate_size = \"16KiB\"\n").await;
    let trail = scene.site.folder.path().join("audit");
    let mut refused = false;
    let rotation = async {
        while !trail.join("audit-00000004.jsonl").exists() {
            refused |= scene.ask("on@example.com").await.status == 503;
        }
    };
    timeout(LATEST, rotation)
        .await
        .expect("it goes on by itself");
    assert!(refused);
    scene.recovered().await;
    let recorded = scene.is_recorded(&trail).await;
    let gaps = recorded.acts("audit_gap");
    let said: Vec<_> = gaps
        .iter()
        .map(|gap| [&gap["cause"], &gap["file"]])
        .collect();
    assert_eq!(said, [[&json!("write_failed"), &json!(2)]]);
}

#[tokio::test]
async fn another_folder_in_the_place_of_the_first_gets_nothing_and_operators_are_told() {
    let scene = Scene::start("exec \"$0\" \"$@\"", "").await;
    assert_eq!(scene.ask("before@example.com").await.status, 404);
    let folder = |name: &str| scene.site.folder.path().join(name);
    fs::rename(folder("audit"), folder("elsewhere")).unwrap();
    fs::create_dir(folder("audit")).unwrap();
    // It tries more than once in that time.
    let until = Instant::now() + Duration::from_millis(1_200);
    while Instant::now() < until {
        assert_eq!(scene.ask("noticed@example.com").await.status, 503);
    }
    scene.is_refused().await;
    let (_, text) = scene.readiness().await;
    assert!(
        text.contains("moved, removed or replaced") && text.contains("put it back"),
        "{text}"
    );
    assert_eq!(fs::read_dir(folder("audit")).unwrap().count(), 0);
    // Without a folder, and with the first one again.
    fs::remove_dir(folder("audit")).unwrap();
    scene.is_refused().await;
    fs::rename(folder("elsewhere"), folder("audit")).unwrap();
    scene.recovered().await;
    scene.is_recorded(&folder("audit")).await;
}
