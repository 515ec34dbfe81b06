//! A gateway with the embedded store, killed at any moment under load, over and over within one day and
//! month: what reached DCAMS is never more than what was charged, and never more than the limit.
//!
//! `QUOTA_KILLS=100` is the long form. What a kill costs is allowance that was taken and not used.

use std::{
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    Dcams, configure, float, folder,
    load::{Line, Reply, Target, fire},
    noon, number, percent, request, used,
};
use crate::{program::Served, support::OTHER_TENANT};

/// Requests a second.
const RATE: u32 = 250;
/// A body's bytes where they are counted: a day of them may not be less than one large body.
const BODY: usize = 8_000;

/// What is limited: so many requests, each of which takes so much of it.
struct Limited {
    policy: &'static str,
    requests: usize,
    each: usize,
}

/// A tenant's day or month, over all lives of its gateway.
struct Day {
    dcams: Dcams,
    limited: Limited,
    token: String,
    /// What was lost by the last restart.
    lost: usize,
}

impl Day {
    /// What arrived so far; it never exceeds what was charged, and that never the limit.
    async fn check(&mut self, served: &Served) -> (usize, usize) {
        let arrived = self.dcams.count();
        let used = used(served, &self.token, self.limited.policy).await;
        let used = usize::try_from(used).unwrap() / self.limited.each;
        let Limited {
            policy, requests, ..
        } = self.limited;
        assert!(
            arrived <= used,
            "{policy}: {arrived} arrived, {used} charged"
        );
        assert!(used <= requests, "{policy}: {used} of {requests}");
        (arrived, used)
    }
}

/// At any moment within so many milliseconds.
async fn any_moment(most: u64) {
    let random = RandomState::new().hash_one(most);
    sleep(Duration::from_millis(random % most)).await;
}

/// Asks until nothing is left.
async fn use_up(served: &Served, request: &[u8]) {
    let mut lines: Vec<Line> = (0..32).map(|_| Line::to(served.gateway)).collect();
    loop {
        let asked = lines.iter_mut().map(|line| line.ask(request));
        let replies = join_all(asked).await;
        if !replies.iter().flatten().any(Reply::is_admitted) {
            let refused = replies
                .iter()
                .flatten()
                .all(|r| r.code == "quota_exhausted");
            assert!(refused, "{replies:?}");
            return;
        }
    }
}

async fn killed_over_and_over(policy: &'static str, kills: u32) {
    let requests = 400 * usize::try_from(kills).unwrap();
    let each = if policy == "bytes_daily" { BODY } else { 1 };
    let limited = Limited {
        policy,
        requests,
        each,
    };
    let toml = format!(
        "{OTHER_TENANT}[tenants.quota]\n{policy} = {}\ntime_zone = \"{}\"\n",
        requests * each,
        noon()
    );
    let (dcams, folder) = (Dcams::start().await, folder());
    let url = dcams.simulator.url();
    configure(folder.path(), &toml);
    let (request, token) = request(folder.path(), &url, ("other", each));
    let mut day = Day {
        dcams,
        limited,
        token,
        lost: 0,
    };
    let (mut losses, mut seconds) = (Vec::new(), 0.0);
    for kill in 0..=kills {
        let served = Served::start(folder.path(), &url, &toml, &[]).await;
        let (arrived, used) = day.check(&served).await;
        if kill > 0 {
            losses.push(used - arrived - day.lost);
            day.lost = used - arrived;
        }
        if kill == kills {
            use_up(&served, &request).await;
            day.check(&served).await;
            break;
        }
        let target = Target {
            node: 0,
            address: served.gateway,
            request: request.as_slice().into(),
            rate: RATE,
            connections: 16,
        };
        let (begun, stop) = (Instant::now(), CancellationToken::new());
        let load = tokio::spawn(fire(target, begun, stop.clone()));
        any_moment(500).await;
        day.check(&served).await;
        any_moment(500).await;
        served.program.signal("KILL");
        seconds += begun.elapsed().as_secs_f64();
        stop.cancel();
        load.await.unwrap();
    }
    report(&mut day, &mut losses, seconds);
}

fn report(day: &mut Day, losses: &mut [usize], seconds: f64) {
    let (
        arrived,
        Limited {
            policy, requests, ..
        },
    ) = (day.dcams.count(), &day.limited);
    losses.sort_unstable();
    let (lost, kills) = (requests - arrived, losses.len());
    println!(
        "{policy}: {kills} kills in {seconds:.1} s under load of {RATE}/s, limit {requests} requests: {arrived} \
         reached DCAMS, 0 over; lost {lost} ({:.2} % of the limit), by kill {:.1} on average, {} in the \
         middle, {} at most",
        percent(lost, *requests),
        float(lost) / float(kills),
        losses[kills / 2],
        losses[kills - 1],
    );
    assert!(arrived <= *requests);
    // The last life uses up all that is left: nothing is lost but what kills cost.
    assert_eq!(lost, day.lost, "{policy}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_is_never_exceeded_however_often_the_gateway_is_killed() {
    killed_over_and_over("daily", number("QUOTA_KILLS", 4)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_is_a_month_nor_a_day_of_bytes() {
    let kills = number("QUOTA_KILLS", 8).div_ceil(4);
    for policy in ["monthly", "bytes_daily"] {
        killed_over_and_over(policy, kills).await;
    }
}
