//! What it costs a request to wait until its record is on disk: two gateways that differ in
//! `audit.durability` alone take turns at the same load. All that both answered is on record.
//!
//! `AUDIT_RATE=1000 AUDIT_SECONDS=30` is the long form, whose figures nobody judges here. The gateways' folders
//! are where `TMPDIR` says.

use std::time::{Duration, Instant};

use dcams_gateway::audit::folder::{Folder, Next};
use tempfile::TempDir;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    Dcams, folder,
    load::{Shot, Target, fire, quantile},
    milliseconds, number, request,
};
use crate::program::Served;

/// How often each has its turn.
const TURNS: u32 = 5;

struct Side {
    served: Served,
    folder: TempDir,
    target: Target,
    shots: Vec<Shot>,
}

impl Side {
    async fn start(dcams: &Dcams, durability: &str, rate: u32) -> Self {
        let (folder, url) = (folder(), dcams.simulator.url());
        let toml = format!("[audit]\ndurability = \"{durability}\"\n");
        let served = Served::start(folder.path(), &url, &toml, &[]).await;
        let target = Target {
            node: 0,
            address: served.gateway,
            request: request(folder.path(), &url, ("demo", 1)).0.into(),
            rate,
            connections: 64,
        };
        Self {
            served,
            folder,
            target,
            shots: Vec::new(),
        }
    }

    async fn turn(&mut self, time: Duration) {
        let (begun, stop) = (Instant::now(), CancellationToken::new());
        let load = tokio::spawn(fire(self.target.clone(), begun, stop.clone()));
        sleep(time).await;
        stop.cancel();
        self.shots.extend(load.await.unwrap());
    }

    /// Median, and what 99 % take at most, in milliseconds.
    fn times(&self) -> (f64, f64) {
        let mut times: Vec<Duration> = self.shots.iter().map(Shot::took).collect();
        let mut at = |per_mille| milliseconds(quantile(&mut times, per_mille));
        (at(500), at(990))
    }

    /// Ends it; how many intents and outcomes it has recorded.
    async fn end(self) -> (usize, usize) {
        self.served.program.signal("TERM");
        assert!(self.served.program.end().await.status.success());
        let (mut intents, mut outcomes) = (0, 0);
        for file in Folder::new(self.folder.path().join("audit"))
            .files()
            .unwrap()
        {
            let mut lines = file.lines().unwrap();
            while let Some(Next::Line(line)) = lines.next_line().unwrap() {
                let text = std::str::from_utf8(line).unwrap();
                intents += usize::from(text.contains("\"phase\":\"intent\""));
                outcomes += usize::from(text.contains("\"phase\":\"outcome\""));
            }
        }
        (intents, outcomes)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_the_disk_leaves_no_request_without_a_record_at_any_load() {
    let (rate, seconds) = (number("AUDIT_RATE", 100), number("AUDIT_SECONDS", 2));
    let dcams = Dcams::start().await;
    let mut required = Side::start(&dcams, "required", rate).await;
    let mut best_effort = Side::start(&dcams, "best_effort", rate).await;
    // Connections, caches and files are warm before anything is compared.
    let warm = Duration::from_millis(500);
    required.turn(warm).await;
    best_effort.turn(warm).await;
    let (first, second) = (required.shots.len(), best_effort.shots.len());
    let time = Duration::from_secs(seconds.into()) / TURNS;
    for _ in 0..TURNS {
        required.turn(time).await;
        best_effort.turn(time).await;
    }
    for (name, side, warm) in [
        ("required", required, first),
        ("best_effort", best_effort, second),
    ] {
        let all = side.shots.len();
        assert!(side.shots.iter().all(Shot::is_admitted), "{name}");
        let side = Side {
            shots: side.shots[warm..].to_vec(),
            ..side
        };
        let (middle, most) = side.times();
        println!(
            "{name}: {} requests at {rate}/s, p50 {middle:.2} ms, p99 {most:.2} ms",
            side.shots.len()
        );
        assert_eq!(side.end().await, (all, all), "{name}");
    }
}
