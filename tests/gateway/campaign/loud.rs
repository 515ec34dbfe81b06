//! A tenant that asks fifty times as often as it may, and another one beside it.
//!
//! `LOUD_SECONDS=30` is the long form; it shows how long the quiet tenant's requests take, which here
//! nobody judges. The two take turns, so that what else this machine does falls on both.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    Dcams, configure, float, folder,
    load::{Shot, Target, fire, quantile},
    milliseconds, noon, number, request,
};
use crate::{program::Served, support::OTHER_TENANT};

const LIMIT: u32 = 20;
const BURST: u32 = 20;
const QUIET: u32 = 50;
/// How often each is alone and beside the other.
const TURNS: u32 = 5;

/// All shots of these while they fire for so long.
async fn together(targets: Vec<Target>, time: Duration) -> Vec<Vec<Shot>> {
    let (begun, stop) = (Instant::now(), CancellationToken::new());
    let fire = |target| tokio::spawn(fire(target, begun, stop.clone()));
    let loads: Vec<_> = targets.into_iter().map(fire).collect();
    sleep(time).await;
    stop.cancel();
    let mut all = Vec::new();
    for load in loads {
        all.push(load.await.unwrap());
    }
    all
}

/// Median, and what 99 % take at most, in milliseconds.
fn times(shots: &[Shot]) -> (f64, f64) {
    let mut times: Vec<Duration> = shots.iter().map(Shot::took).collect();
    (
        milliseconds(quantile(&mut times, 500)),
        milliseconds(quantile(&mut times, 990)),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_far_over_its_limit_is_held_to_it_and_the_other_one_is_served() {
    let time = Duration::from_secs(number("LOUD_SECONDS", 2).into());
    let (dcams, folder) = (Dcams::start().await, folder());
    let url = dcams.simulator.url();
    let toml = format!(
        "{OTHER_TENANT}[tenants.quota]\nrate = \"{LIMIT}/s\"\nburst = {BURST}\ndaily = 1_000_000\n\
         time_zone = \"{}\"\n",
        noon()
    );
    configure(folder.path(), &toml);
    let target = |served: &Served, tenant, rate, connections| Target {
        node: 0,
        address: served.gateway,
        request: request(folder.path(), &url, (tenant, 1)).0.into(),
        rate,
        connections,
    };
    let served = Served::start(folder.path(), &url, &toml, &[]).await;
    let quiet = target(&served, "demo", QUIET, 4);
    let loud = target(&served, "other", 50 * LIMIT, 50);
    // Connections, caches and files are warm before anything is compared.
    together(vec![quiet.clone()], time / 4).await;
    let (mut alone, mut beside, mut asked) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        alone.extend(together(vec![quiet.clone()], time / TURNS).await.remove(0));
        let mut both = together(vec![quiet.clone(), loud.clone()], time / TURNS).await;
        let turn = both.remove(1);
        held(&turn);
        asked.extend(turn);
        beside.extend(both.remove(0));
    }
    report(&alone, &beside, &asked, time);
    for shot in alone.iter().chain(&beside) {
        assert!(shot.is_admitted(), "{shot:?}");
    }
}

/// No more than its limit was let through, and of the others each was told why.
fn held(loud: &[Shot]) {
    let admitted = loud.iter().filter(|shot| shot.is_admitted()).count();
    let refused = |shot: &&Shot| {
        let code = shot.reply.as_ref().map(|reply| reply.code.as_str());
        code == Some("rate_limited")
    };
    assert_eq!(loud.iter().filter(refused).count(), loud.len() - admitted);
    let last = loud.iter().map(|shot| shot.answered).max().unwrap();
    let most = f64::from(LIMIT) * last.as_secs_f64() + f64::from(BURST);
    assert!(float(admitted) <= most, "{admitted} in {last:?}");
}

fn report(alone: &[Shot], beside: &[Shot], loud: &[Shot], time: Duration) {
    let admitted = loud.iter().filter(|shot| shot.is_admitted()).count();
    let ((p50, p99), (p50_beside, p99_beside)) = (times(alone), times(beside));
    println!(
        "alone {} requests: p50 {p50:.2} ms, p99 {p99:.2} ms; beside a tenant that asked {} times in {time:?} \
         and was admitted {admitted} times: {} requests, p50 {p50_beside:.2} ms, p99 {p99_beside:.2} ms; \
         p99 in ratio {:.2}",
        alone.len(),
        loud.len(),
        beside.len(),
        p99_beside / p99
    );
}
