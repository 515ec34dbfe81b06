//! How many events a second `audit verify` verifies: lines of about 600 bytes, as they were written and
//! compressed, by MACs and by the public key alone.
//!
//! The files lie where `TMPDIR` says (a tmpfs keeps the disk out of it) and are written by the trail itself.
//! `cargo bench --bench verify`; on one core with `taskset -c 1`.

#![expect(clippy::expect_used, reason = "a bench stops where its input is wrong")]

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use criterion::{BatchSize, Criterion, Throughput};
use dcams_gateway::{
    audit::{
        AuditSettings, AuditTrail,
        event::Event,
        key::{AuditKey, AuditKeys},
        verify::{Trust, verify},
    },
    ident::NodeId,
};
use jiff::Timestamp;
use serde::Serialize;
use tokio::runtime::Builder;

const EVENTS: u64 = 200_000;
/// As long as an outcome with everything in it.
const MEMBERS: usize = 296;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(5))
        .sample_size(10)
        .configure_from_args();
    let folder = tempfile::tempdir().expect("a folder");
    let keys = AuditKeys {
        current: Arc::new(AuditKey::derive(&[7; 32])),
        old: Vec::new(),
    };
    let plain = folder.path().join("plain");
    let node = write(&plain, &keys);
    let compressed = compress(&plain, &folder.path().join("compressed"));
    let public = Trust::Public(vec![keys.current.public(&node)]);
    let mut group = criterion.benchmark_group("verify");
    for (form, folder) in [("plain", plain), ("compressed", compressed)] {
        for (means, trust) in [
            ("MACs", &Trust::Keys(keys.clone())),
            ("public key", &public),
        ] {
            let paths = [folder.clone()];
            let run = |()| verify(&paths, trust, &[], &mut |_| {}).expect("files");
            let report = run(());
            assert!(report.is_whole(), "{report:?}");
            group.throughput(Throughput::Elements(report.counts.events));
            group.bench_function(format!("{form}, {means}"), |bencher| {
                bencher.iter_batched(|| (), run, BatchSize::PerIteration);
            });
        }
    }
    group.finish();
    criterion.final_summary();
}

#[derive(Serialize)]
struct Line<'a> {
    time: &'a str,
    phase: &'a str,
    request_id: &'a str,
    tenant: &'a str,
    members: &'a str,
}

impl Event for Line<'_> {}

fn write(folder: &Path, keys: &AuditKeys) -> NodeId {
    let settings = AuditSettings {
        node: NodeId::try_from("gw-1").ok(),
        sync_interval: Duration::ZERO,
        write_timeout: Duration::from_mins(1),
        rotate_size: 1 << 30,
        ..AuditSettings::new(folder, keys.clone())
    };
    let trail = AuditTrail::open(&settings, None).expect("a trail");
    let time = Timestamp::UNIX_EPOCH.to_string();
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        for number in 0..EVENTS / 2 {
            let id = format!("00000000-0000-7000-8000-{number:012x}");
            // Pseudonyms, which do not compress.
            let noise =
                u128::from(number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
            let members = format!("{:m<MEMBERS$}{noise:032x}{:032x}", "", noise.reverse_bits());
            let line = |phase| Line {
                time: &time,
                phase,
                request_id: &id,
                tenant: "acme",
                members: &members,
            };
            drop(trail.record(&line("intent")));
            let last = trail.record(&line("outcome"));
            if number % 500 == 0 {
                last.durable().await.expect("a disk");
            }
        }
        assert!(trail.close(Duration::from_mins(1)).await, "closed in time");
    });
    trail.node().clone()
}

fn compress(from: &Path, to: &Path) -> PathBuf {
    fs::create_dir(to).expect("a folder");
    let name = "audit-00000001.jsonl";
    let file = File::open(from.join(name)).expect("the file");
    let copy = File::create(to.join(format!("{name}.zst"))).expect("a file");
    zstd::stream::copy_encode(file, copy, 3).expect("a disk");
    to.to_owned()
}
