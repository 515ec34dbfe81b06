//! What the audit trail takes: events a second through the writer, with everyone waiting for the disk, in
//! memory (a tmpfs) and on a disk; and how long one that waits alone waits.
//!
//! `cargo bench --bench audit`; `AUDIT_DISK` names a folder on the disk to measure, /dev/shm is the tmpfs.

#![expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a bench stops where its input is wrong, and its figures are its output"
)]

use std::{
    env,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use dcams_gateway::{
    audit::{AuditSettings, AuditTrail, chain::Mark, event::Event, key::AuditKey},
    ident::RequestId,
};
use serde::Serialize;
use tokio::runtime::Builder;

/// An event of some 600 bytes in its line, as an outcome is.
#[derive(Serialize)]
struct Sample {
    time: &'static str,
    phase: &'static str,
    request_id: RequestId,
    rest: &'static str,
}

impl Event for Sample {
    fn mark(&self) -> Mark {
        match self.phase {
            "intent" => Mark::Opens(self.request_id),
            _ => Mark::Closes(self.request_id),
        }
    }
}

fn sample(phase: &'static str, request_id: RequestId) -> Sample {
    Sample {
        time: "2026-11-23T12:00:00.000000000Z",
        phase,
        request_id,
        rest: REST,
    }
}

const REST: &str = "0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 \
    0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 \
    0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 01";

/// How many events go through, by how many that wait at once.
const EVENTS: usize = 200_000;
const AT_ONCE: usize = 512;
const ALONE: usize = 2_000;

fn main() {
    let disk = env::var_os("AUDIT_DISK").map_or_else(env::temp_dir, PathBuf::from);
    for (name, folder) in [("tmpfs", Path::new("/dev/shm")), ("disk", &disk)] {
        let many = throughput(folder, Duration::from_millis(2));
        println!(
            "{name}: {many:.0} events/s, each waited for, {AT_ONCE} at once, sync_interval 2ms"
        );
        let one = alone(folder, Duration::ZERO);
        println!(
            "{name}: one alone waits {:.0} µs in the middle, {:.0} µs at the 99th percentile, sync_interval 0ms",
            one[ALONE / 2].as_secs_f64() * 1e6,
            one[ALONE * 99 / 100].as_secs_f64() * 1e6,
        );
    }
}

fn settings(folder: &Path, sync_interval: Duration) -> AuditSettings {
    AuditSettings {
        sync_interval,
        write_timeout: Duration::from_secs(10),
        ..AuditSettings::new(folder, AuditKey::derive(&[7; 32]))
    }
}

/// Does something with a new trail, and ends that.
fn with_trail<T>(
    parent: &Path,
    sync_interval: Duration,
    measure: impl AsyncFnOnce(&Arc<AuditTrail>) -> T,
) -> T {
    let folder = tempfile::tempdir_in(parent).expect("a folder");
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let trail = AuditTrail::open(&settings(folder.path(), sync_interval), None);
        let trail = Arc::new(trail.expect("a trail"));
        let measured = measure(&trail).await;
        trail.close(Duration::from_secs(10)).await;
        measured
    })
}

fn throughput(parent: &Path, sync_interval: Duration) -> f64 {
    with_trail(parent, sync_interval, async |trail| {
        let begun = Instant::now();
        let tasks: Vec<_> = (0..AT_ONCE)
            .map(|_| tokio::spawn(requests(Arc::clone(trail))))
            .collect();
        for task in tasks {
            task.await.expect("a task");
        }
        (EVENTS / AT_ONCE / 2 * AT_ONCE * 2) as f64 / begun.elapsed().as_secs_f64()
    })
}

/// A client's share of the events, one request after the other.
async fn requests(trail: Arc<AuditTrail>) {
    for _ in 0..EVENTS / AT_ONCE / 2 {
        let id = RequestId::mint();
        for phase in ["intent", "outcome"] {
            let filed = trail.record(&sample(phase, id));
            filed.durable().await.expect("on disk");
        }
    }
}

/// How long each waited, sorted.
fn alone(parent: &Path, sync_interval: Duration) -> Vec<Duration> {
    with_trail(parent, sync_interval, async |trail| {
        let mut waits = Vec::new();
        for _ in 0..ALONE {
            let begun = Instant::now();
            let filed = trail.record(&sample("outcome", RequestId::mint()));
            filed.durable().await.expect("on disk");
            waits.push(begun.elapsed());
        }
        waits.sort_unstable();
        waits
    })
}
