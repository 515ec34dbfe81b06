//! The second place of the audit chain: what a receiver has, whatever happens to it, the gateway, or the
//! files.

mod collector;
mod followed;
pub mod nats;
pub mod receiver;
mod served;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use dcams_gateway::{
    audit::{
        AuditSettings, AuditTrail, Durable,
        event::{Act, Deed, Phase},
        folder::{Folder, Next},
        key::AuditKey,
        operator::Via,
        ship::{Bounds, Place, ShipHealth, ShipSettings, ShipToken, Shipper, Shipping, What},
    },
    clock,
    endpoint::Endpoint,
    ident::NodeId,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use self::receiver::{Heard, Reaction, Receiver, TAKEN, lines};
use crate::support::Lines;

const NODE: &str = "gw-1";
pub const TOKEN: &str = "canary-ship-token";

/// A chain that is written as the gateway writes it.
struct Written {
    folder: TempDir,
    trail: AuditTrail,
}

impl Written {
    fn begin(rotate_size: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let trail = open(folder.path(), rotate_size);
        Self { folder, trail }
    }

    /// Writes so many events, one after the other.
    async fn write(&self, count: usize) {
        for number in 0..count {
            let act = Act {
                time: clock::now(),
                phase: Phase::Event,
                deed: Deed::ConfigReloaded {
                    result: "ok",
                    actor: &Via::Signal.into(),
                    mistakes: number,
                },
            };
            self.trail.record(&act).durable().await.unwrap();
        }
    }

    /// Ends the chain, so that its files stay as they are.
    async fn close(&self) {
        assert!(self.trail.close(Duration::from_secs(20)).await);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn files(&self) -> Vec<(u64, bool)> {
        let files = Folder::new(self.folder.path()).files().unwrap();
        files.iter().map(|f| (f.number, f.compressed)).collect()
    }

    /// All lines that are in the files.
    fn lines(&self) -> Vec<String> {
        let mut all = Vec::new();
        for file in Folder::new(self.folder.path()).files().unwrap() {
            let mut lines = file.lines().unwrap();
            while let Some(Next::Line(line)) = lines.next_line().unwrap() {
                all.push(String::from_utf8(line.to_vec()).unwrap());
            }
        }
        all
    }

    fn ship(&self, settings: &ShipSettings) -> Shipped {
        Shipped::start(settings, self.folder.path(), self.trail.durable())
    }
}

/// The lines that the second place has said it has.
fn taken(heard: &[Heard]) -> Vec<String> {
    let taken: Vec<_> = heard.iter().filter(|heard| heard.taken).cloned().collect();
    lines(&taken)
}

fn open(folder: &Path, rotate_size: u64) -> AuditTrail {
    let key = AuditKey::derive(b"0123456789abcdefghijklmnopqrstuv");
    let settings = AuditSettings {
        node: Some(NodeId::try_from(NODE).unwrap()),
        sync_interval: Duration::ZERO,
        write_timeout: Duration::from_secs(10),
        checkpoint_events: 10,
        checkpoint_every: Duration::from_mins(1),
        rotate_size,
        ..AuditSettings::new(folder, key)
    };
    AuditTrail::open(&settings, None).unwrap()
}

/// A shipper that runs until this is dropped.
pub struct Shipped {
    shipping: Shipping,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Shipped {
    /// Of a chain that is not written any more, and of which nothing was sent yet.
    pub fn anew(settings: &ShipSettings, folder: &Path, node: &str) -> Self {
        fs::remove_file(folder.join("ship.cursor")).unwrap();
        let last = Folder::new(folder).files().unwrap().pop().unwrap();
        let (mut lines, mut seq_of_last) = (last.lines().unwrap(), 0);
        while let Some(Next::Line(line)) = lines.next_line().unwrap() {
            seq_of_last = seq(str::from_utf8(line).unwrap());
        }
        let durable = watch::Sender::new(Durable {
            file: last.number,
            bytes: fs::metadata(&last.path).unwrap().len(),
            seq: seq_of_last,
        });
        Self::of_node(settings, folder, node, durable.subscribe())
    }

    fn start(settings: &ShipSettings, folder: &Path, durable: watch::Receiver<Durable>) -> Self {
        Self::of_node(settings, folder, NODE, durable)
    }

    fn of_node(
        settings: &ShipSettings,
        folder: &Path,
        node: &str,
        durable: watch::Receiver<Durable>,
    ) -> Self {
        let (folder, node) = (Folder::new(folder), NodeId::try_from(node).unwrap());
        let shipper = Shipper::new(settings, folder, node, durable).unwrap();
        let (shipping, stop) = (shipper.shipping(), CancellationToken::new());
        let task = tokio::spawn(shipper.run(stop.clone()));
        Self {
            shipping,
            stop,
            task,
        }
    }

    async fn until(&self, is: impl Fn(&ShipHealth) -> bool) -> ShipHealth {
        let becomes = async {
            let mut ticks = tokio::time::interval(Duration::from_millis(1));
            while !is(&self.shipping.health()) {
                ticks.tick().await;
            }
        };
        let became = timeout(Duration::from_secs(30), becomes).await;
        assert!(became.is_ok(), "{:?}", self.shipping.health());
        self.shipping.health()
    }

    pub async fn until_all(&self) -> ShipHealth {
        self.until(|health| health.behind_events == 0).await
    }

    async fn stop(mut self) {
        self.stop.cancel();
        (&mut self.task).await.unwrap();
    }

    /// As a kill does.
    async fn kill(mut self) {
        self.task.abort();
        assert!((&mut self.task).await.is_err());
    }
}

impl Drop for Shipped {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn settings(place: Place) -> ShipSettings {
    ShipSettings {
        place,
        what: What::Events,
        token: Some(ShipToken::new(TOKEN.into()).unwrap()),
        roots: Vec::new(),
        timeout: Duration::from_secs(5),
        batch: Bounds {
            lines: 1_000,
            bytes: 1 << 20,
            wait: Duration::from_millis(1),
        },
        retry: (Duration::from_millis(2), Duration::from_millis(10)),
    }
}

fn http(receiver: &Receiver) -> ShipSettings {
    settings(Place::Http(Endpoint::parse(&receiver.url()).unwrap()))
}

fn seq(line: &str) -> u64 {
    let line: Value = serde_json::from_str(line).unwrap();
    line["seq"].as_u64().unwrap()
}

/// Each line the first time that it came; they come in the order of the chain.
fn first_times(lines: &[String]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let firsts: Vec<String> = lines
        .iter()
        .filter(|line| seen.insert(seq(line)))
        .cloned()
        .collect();
    assert!(firsts.is_sorted_by_key(|line| seq(line)), "out of order");
    firsts
}

/// Whether both are the same lines, said in few words.
fn assert_same(sent: &[String], written: &[String]) {
    let seqs = |lines: &[String]| lines.iter().map(|line| seq(line)).collect::<Vec<_>>();
    assert_eq!(seqs(sent), seqs(written));
    assert!(
        sent == written,
        "the numbers are the same, and the lines are not"
    );
}

fn count(log: &Lines, text: &str) -> usize {
    log.text().matches(text).count()
}

#[tokio::test]
async fn every_line_arrives_as_it_stands_in_the_file_once_and_in_order() {
    let receiver = Receiver::start(|_| TAKEN).await;
    let chain = Written::begin(u64::MAX);
    let mut settings = http(&receiver);
    settings.batch.lines = 7;
    chain.write(100).await;
    let shipped = chain.ship(&settings);
    chain.write(100).await;
    let health = shipped.until_all().await;
    let lines = chain.lines();
    assert_same(&receiver.lines(), &lines);
    assert_eq!(health.last_taken_seq, u64::try_from(lines.len()).unwrap());
    assert_eq!((health.failing_since, health.missed_events), (None, 0));
    let mut next = 1;
    for heard in receiver.heard() {
        let sent = std::str::from_utf8(&heard.body).unwrap();
        let count = sent.lines().count();
        assert!((1..=7).contains(&count) && sent.ends_with('\n'));
        let last = next + count - 1;
        let header = |name: &str| heard.headers[name].to_str().unwrap().to_owned();
        assert_eq!(header("content-type"), "application/x-ndjson");
        assert_eq!(header("authorization"), format!("Bearer {TOKEN}"));
        assert_eq!(
            header("idempotency-key"),
            format!("\"{NODE}:{next}-{last}\"")
        );
        next = last + 1;
    }
}

#[tokio::test]
async fn of_heads_only_checkpoints_leave() {
    let receiver = Receiver::start(|_| TAKEN).await;
    let chain = Written::begin(4_096);
    chain.write(100).await;
    chain.close().await;
    let mut settings = http(&receiver);
    settings.what = What::Heads;
    let shipped = chain.ship(&settings);
    shipped.until_all().await;
    let heads = |lines: Vec<String>| -> Vec<String> {
        let is_head = |line: &String| line.contains("\"event\":\"checkpoint\"");
        lines.into_iter().filter(is_head).collect()
    };
    assert!(heads(chain.lines()).len() > 10);
    assert_same(&receiver.lines(), &heads(chain.lines()));
}

#[tokio::test]
async fn whatever_a_receiver_does_it_has_every_line_in_the_end() {
    let mut turn = 0;
    let receiver = Receiver::start(move |_| {
        turn += 1;
        match turn % 11 {
            0 => Reaction::Answer(503, "Retry-After: 0", ""),
            1 => Reaction::Cut,
            2 => Reaction::Answer(302, "Location: /elsewhere", ""),
            3 => Reaction::Answer(429, "", ""),
            4 if turn < 50 => Reaction::Hang,
            5 => Reaction::Answer(401, "", ""),
            6 => Reaction::Answer(404, "", ""),
            _ => TAKEN,
        }
    })
    .await;
    let chain = Written::begin(8_192);
    let mut settings = http(&receiver);
    settings.timeout = Duration::from_millis(200);
    settings.batch.lines = 5;
    let shipped = chain.ship(&settings);
    // Files are closed, and compressed, while it goes on.
    chain.write(300).await;
    chain.close().await;
    shipped.until_all().await;
    assert!(chain.files().iter().any(|(_, compressed)| *compressed));
    let lines = chain.lines();
    assert_same(&first_times(&receiver.lines()), &lines);
    let taken: Vec<_> = receiver.heard().into_iter().filter(|h| h.taken).collect();
    // What was answered well was not sent again.
    assert_same(&receiver::lines(&taken), &lines);
}

#[tokio::test]
async fn over_kills_and_starts_nothing_is_left_out() {
    let receiver = Receiver::start(|_| TAKEN).await;
    let chain = Written::begin(8_192);
    let mut settings = http(&receiver);
    settings.batch.lines = 3;
    for round in 1..=10 {
        let shipped = chain.ship(&settings);
        chain.write(20).await;
        receiver
            .until(|heard| lines(heard).len() > round * 10)
            .await;
        shipped.kill().await;
    }
    chain.close().await;
    let shipped = chain.ship(&settings);
    shipped.until_all().await;
    assert_same(&first_times(&receiver.lines()), &chain.lines());
    // What came twice is what was under way at a kill.
    let doubles = receiver.lines().len() - chain.lines().len();
    assert!(doubles <= 10 * 3, "{doubles}");
}

#[tokio::test]
async fn a_batch_that_is_refused_is_halved_and_a_line_that_is_refused_is_not_passed_over() {
    for status in [400, 413] {
        let receiver = Receiver::start(move |body| {
            if body.contains("\"mistakes\":33,") {
                return Reaction::Answer(status, "", "");
            }
            TAKEN
        })
        .await;
        let log = Lines::default();
        let _guard = log.collect_log();
        let chain = Written::begin(u64::MAX);
        chain.write(60).await;
        let lines = chain.lines();
        let bad = lines
            .iter()
            .position(|l| l.contains("\"mistakes\":33,"))
            .unwrap();
        let shipped = chain.ship(&http(&receiver));
        let health = shipped.until(|health| health.reason.is_some()).await;
        assert_eq!(health.reason, Some("line_refused"));
        assert_eq!(health.last_taken_seq, seq(&lines[bad]) - 1);
        // It is tried again, alone, and nothing behind it is.
        let before = receiver.heard().len();
        receiver.until(|heard| heard.len() >= before + 3).await;
        let heard = receiver.heard();
        for heard in &heard[before..] {
            assert_eq!(
                receiver::lines(std::slice::from_ref(heard)),
                [lines[bad].clone()]
            );
        }
        assert_eq!(count(&log, "refuses a line of the audit chain"), 1);
        receiver.react(|_| TAKEN);
        shipped.until_all().await;
        assert_same(&taken(&receiver.heard()), &lines);
        assert_eq!(shipped.shipping.health().reason, None);
    }
}

#[tokio::test]
async fn a_receiver_that_asks_for_a_pause_gets_it() {
    let mut first = true;
    let receiver = Receiver::start(move |_| {
        if std::mem::take(&mut first) {
            return Reaction::Answer(503, "Retry-After: 1", "");
        }
        TAKEN
    })
    .await;
    let chain = Written::begin(u64::MAX);
    let shipped = chain.ship(&http(&receiver));
    receiver.until(|heard| heard.len() == 1).await;
    let asked = std::time::Instant::now();
    shipped.until_all().await;
    assert!(asked.elapsed() > Duration::from_millis(900));
}

#[tokio::test]
async fn a_failure_is_said_once_and_its_end_too_and_no_secret_is_in_it() {
    let receiver = Receiver::start(|_| Reaction::Answer(500, "", "canary-answer")).await;
    let log = Lines::default();
    let _guard = log.collect_log();
    let chain = Written::begin(u64::MAX);
    let settings = http(&receiver);
    assert!(!format!("{settings:?}").contains("canary"), "{settings:?}");
    let shipped = chain.ship(&settings);
    receiver.until(|heard| heard.len() > 5).await;
    let health = shipped.shipping.health();
    assert_eq!(health.reason, Some("server_error"));
    assert!(health.failing_since.is_some() && health.behind_events > 0);
    receiver.react(|_| TAKEN);
    shipped.until(|health| health.reason.is_none()).await;
    shipped.until_all().await;
    assert_eq!(count(&log, "takes nothing; it is tried again"), 1);
    assert_eq!(count(&log, "takes it again"), 1);
    assert!(!log.text().contains("canary"), "{}", log.text());
}

#[tokio::test]
async fn at_the_end_the_rest_is_sent_and_not_waited_for_too_long() {
    let receiver = Receiver::start(|_| TAKEN).await;
    let chain = Written::begin(u64::MAX);
    let mut settings = http(&receiver);
    settings.batch.wait = Duration::from_mins(1);
    let shipped = chain.ship(&settings);
    shipped.until_all().await;
    chain.write(10).await;
    assert!(chain.trail.close(Duration::from_secs(10)).await);
    shipped.stop().await;
    let lines = chain.lines();
    assert!(lines.last().unwrap().contains("\"event\":\"checkpoint\""));
    assert_same(&receiver.lines(), &lines);

    let stuck = Receiver::start(|_| Reaction::Hang).await;
    let chain = Written::begin(u64::MAX);
    let shipped = chain.ship(&http(&stuck));
    stuck.until(|heard| heard.len() == 1).await;
    let asked = std::time::Instant::now();
    shipped.stop().await;
    let took = asked.elapsed();
    assert!(
        took > Duration::from_secs(1) && took < Duration::from_secs(4),
        "{took:?}"
    );
}
