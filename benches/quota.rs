//! What a tenant's quotas cost a request: rate, concurrency, day, bytes and month decided, charged and
//! settled; with one tenant and with 100,000, and what a tenant takes of memory.
//!
//! With the embedded store on a disk of its own, the keeper running beside it: a decision that finds
//! little left calls it. `cargo bench --bench quota`.

#![expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a bench stops where its input is wrong, and its figures are its output"
)]

#[path = "support/permit.rs"]
mod permit;

use std::{
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use dcams_gateway::{
    auth::permit::Permit,
    ident::{PseudonymKey, TenantId},
    limits::{Billing, LARGEST, Limits, Rate, SubjectLimits, Tariff},
    operation::Operation,
    quota::{Ending, Outcome, Quotas, TenantQuota},
    store::Store,
};
use futures_util::future::join_all;
use peak_alloc::PeakAlloc;
use tokio::runtime::Builder;
use tokio_util::task::TaskTracker;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const KEY: [u8; 32] = [7; 32];
const MANY: usize = 100_000;
/// How often a decision is timed, and how many decisions that is each time: a clock is no finer.
const SAMPLES: usize = 5_000;
const AT_ONCE: usize = 20;

fn main() {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::embedded(folder.path(), &KEY).expect("a store");
    let (quotas, keeper) = Quotas::open(store, PseudonymKey::derive(&KEY));
    let tasks = TaskTracker::new();
    tasks.spawn_on(keeper.run(|_, _| {}), runtime.handle());

    let permit = permit::permit();
    let limits = Arc::new(limits(SubjectLimits::default()));
    let one = [quotas.of(&name(0), &limits)];
    runtime.block_on(measure("one tenant", &one, &limits, &permit));
    let per_subject = SubjectLimits {
        rate: limits.rate,
        daily: limits.daily,
    };
    let with_subjects = Arc::new(self::limits(per_subject));
    let tenant = [quotas.of(&name(1), &with_subjects)];
    runtime.block_on(measure("with end users", &tenant, &with_subjects, &permit));

    let before = ALLOCATOR.current_usage();
    let many: Vec<TenantQuota> = (0..MANY).map(|n| quotas.of(&name(n), &limits)).collect();
    let idle = ALLOCATOR.current_usage() - before;
    runtime.block_on(async {
        for tenants in many.chunks(1_000) {
            join_all(
                tenants
                    .iter()
                    .map(|tenant| request(tenant, &limits, &permit)),
            )
            .await;
        }
        // Each look of the keeper, until all are quiet and written down.
        tokio::time::sleep(Duration::from_secs(5)).await;
    });
    let active = ALLOCATOR.current_usage() - before;
    let each = |bytes: usize| bytes / MANY;
    println!(
        "bytes a tenant: {} idle, {} after a request",
        each(idle),
        each(active)
    );
    runtime.block_on(measure("100,000 tenants", &many, &limits, &permit));
}

/// Times whole decisions, over all of these tenants in turns.
async fn measure(name: &str, tenants: &[TenantQuota], limits: &Arc<Limits>, permit: &Permit) {
    let mut samples = Vec::with_capacity(SAMPLES);
    let mut grown = 0;
    for sample in 0..SAMPLES {
        // A prime, so that tenants come in no order that a cache likes.
        let tenant = &tenants[sample * 7_919 % tenants.len()];
        // Some at once, and one more: by then it holds as much ahead as these were.
        let ahead = (0..AT_ONCE * 3).map(|_| request(tenant, limits, permit));
        join_all(ahead).await;
        request(tenant, limits, permit).await;
        ALLOCATOR.reset_peak_usage();
        let held = ALLOCATOR.current_usage();
        let began = Instant::now();
        for _ in 0..AT_ONCE {
            request(tenant, limits, permit).await;
        }
        samples.push(began.elapsed().as_nanos() as f64 / AT_ONCE as f64);
        grown += usize::from(ALLOCATOR.peak_usage() > held);
    }
    samples.sort_by(f64::total_cmp);
    let at = |share: f64| samples[(samples.len() as f64 * share) as usize];
    println!(
        "{name}: {:.0} ns a request (median), {:.0} (p99), {:.0} (p99.9); in {grown} of {SAMPLES} samples \
         anything was allocated",
        at(0.5),
        at(0.99),
        at(0.999),
    );
}

/// Everything that a request asks of the quotas.
async fn request(tenant: &TenantQuota, limits: &Arc<Limits>, permit: &Permit) {
    let mut admission = loop {
        // The rate is as high as may be, and a bench is faster.
        if let Ok(admission) = tenant.admit(Some("ann"), limits, TARIFF).await {
            break admission;
        }
    };
    admission.charge(permit, 1_000).await.expect("allowance");
    admission.sending(Operation::CreateOrUpdateCustomer);
    admission.replied(true);
    admission.settle(Outcome::Sent(Ending::Succeeded));
}

fn limits(per_subject: SubjectLimits) -> Limits {
    let million = NonZeroU32::new(1_000_000).expect("a number");
    Limits {
        rate: Some(Rate {
            count: million,
            period: Duration::from_secs(1),
            burst: million,
        }),
        concurrency: Some(million),
        daily: Some(LARGEST),
        bytes_daily: Some(LARGEST),
        monthly: Some(LARGEST),
        per_subject,
        ..Limits::unlimited()
    }
}

fn name(n: usize) -> TenantId {
    TenantId::try_from(format!("tenant-{n}").as_str()).expect("a name")
}

const TARIFF: Tariff = Tariff {
    cost: [1; 4],
    refused: Billing::Keep,
    unknown: Billing::Keep,
    unavailable: Billing::Refund,
    max_subjects: 100_000,
};
