//! Several gateways on one Redis, under uneven load that is more than their rate, or without a rate, until
//! their day is used up: while all is well, while Redis stands still, after it was emptied, with one of them cut off, and
//! with one of them killed.
//!
//! `NODES_SECONDS=60` is the long form: four gateways, 500 a second, 20,000 a day. `NODES_TIMEOUT` is how
//! long they wait for Redis; here so long that a busy machine keeps to it.

use std::{
    env,
    time::{Duration, Instant},
};

use dcams_gateway::store::redis::{Redis, settings::Mode};
use tempfile::TempDir;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    Dcams, configure, float, folder,
    load::{Shot, Target, fire, most_within, quantile},
    milliseconds, noon, number, percent, request,
};
use crate::{
    program::Served,
    redis::{
        link::{count, settings},
        proxy::Proxy,
        server::RedisServer,
    },
    support::OTHER_TENANT,
};

/// What is offered to whom, and what of it they may let through.
struct Size {
    offered: &'static [u32],
    rate: u32,
    burst: u32,
    /// Whether there is a rate at all.
    rated: bool,
    daily: usize,
    time: Duration,
    outage: Duration,
}

impl Size {
    fn of(rated: bool) -> Self {
        let seconds = number("NODES_SECONDS", 0);
        if seconds == 0 {
            return Self {
                offered: &[150, 70, 20],
                rate: 150,
                burst: 30,
                rated,
                daily: 300,
                time: Duration::from_secs(5),
                outage: Duration::from_millis(1_500),
            };
        }
        Self {
            offered: &[450, 270, 135, 45],
            rate: 500,
            burst: 100,
            rated,
            daily: 20_000,
            time: Duration::from_secs(seconds.into()),
            outage: Duration::from_secs(10),
        }
    }

    fn nodes(&self) -> usize {
        self.offered.len()
    }

    fn quota(&self) -> String {
        let rate = if self.rated {
            format!("rate = \"{}/s\"\nburst = {}\n", self.rate, self.burst)
        } else {
            String::new()
        };
        format!(
            "[tenants.quota]\n{rate}daily = {}\ntime_zone = \"{}\"\n",
            self.daily,
            noon()
        )
    }
}

/// What happens when a share of the day is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    CutOff,
    CutOffAgainAndAgain,
    Emptied,
    Killed,
    Nothing,
    Stopped,
}

/// Gateways, what they share, and what DCAMS sees of them.
struct Fleet {
    size: Size,
    dcams: Dcams,
    redis: RedisServer,
    /// Between the first gateway and Redis.
    proxy: Proxy,
    served: Vec<Served>,
    request: Vec<u8>,
    _folders: Vec<TempDir>,
}

/// What came of it.
struct Run {
    shots: Vec<Shot>,
    begun: Instant,
    /// How many had reached DCAMS by when.
    counted: Vec<(Duration, usize)>,
    /// From when to when there was trouble.
    trouble: Option<(Duration, Duration)>,
}

impl Fleet {
    async fn start(size: Size, away: &str, timeout: &str) -> Self {
        let timeout = env::var("NODES_TIMEOUT").unwrap_or_else(|_| timeout.to_owned());
        let (dcams, redis) = (Dcams::start().await, RedisServer::start());
        let (url, proxy) = (dcams.simulator.url(), Proxy::start(redis.port).await);
        let toml = |redis: &str| {
            format!(
                "[state]\nbackend = \"redis\"\n[state.redis]\nurls = [\"{redis}\"]\nnodes = {}\n\
                 timeout = \"{timeout}\"\non_store_failure = \"{away}\"\n{OTHER_TENANT}{}",
                size.nodes(),
                size.quota(),
            )
        };
        let folders: Vec<TempDir> = size.offered.iter().map(|_| folder()).collect();
        let mut served = Vec::new();
        for (node, folder) in folders.iter().enumerate() {
            let toml = toml(&if node == 0 { proxy.url() } else { redis.url() });
            served.push(Served::start(folder.path(), &url, &toml, &[]).await);
        }
        configure(folders[0].path(), &toml(&redis.url()));
        let (request, _) = request(folders[0].path(), &url, ("other", 1));
        Self {
            size,
            dcams,
            redis,
            proxy,
            served,
            request,
            _folders: folders,
        }
    }

    /// Offers the load for its time, and makes the trouble once so many have reached DCAMS.
    async fn run(&mut self, trouble: Trouble, at: usize) -> Run {
        let (begun, stop) = (Instant::now(), CancellationToken::new());
        let mut loads = Vec::new();
        for (node, (served, rate)) in self.served.iter().zip(self.size.offered).enumerate() {
            let target = Target {
                node,
                address: served.gateway,
                request: self.request.as_slice().into(),
                rate: *rate,
                connections: usize::try_from(rate / 10).unwrap().clamp(4, 24),
            };
            loads.push(tokio::spawn(fire(target, begun, stop.clone())));
        }
        let mut run = Run {
            shots: Vec::new(),
            begun,
            counted: Vec::new(),
            trouble: None,
        };
        while begun.elapsed() < self.size.time {
            self.wait(&mut run, Duration::from_millis(50)).await;
            let arrived = run.counted.last().map_or(0, |(_, arrived)| *arrived);
            if trouble != Trouble::Nothing && run.trouble.is_none() && arrived >= at {
                let from = begun.elapsed();
                self.trouble(trouble, &mut run).await;
                run.trouble = Some((from, begun.elapsed()));
            }
        }
        stop.cancel();
        for load in loads {
            run.shots.extend(load.await.unwrap());
        }
        self.wait(&mut run, Duration::from_millis(300)).await;
        run
    }

    /// Counts all the while.
    async fn wait(&mut self, run: &mut Run, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            sleep(time.min(Duration::from_millis(50))).await;
            run.counted.push((run.begun.elapsed(), self.dcams.count()));
        }
    }

    async fn trouble(&mut self, trouble: Trouble, run: &mut Run) {
        let outage = self.size.outage;
        match trouble {
            Trouble::CutOff => {
                self.proxy.cut();
                self.wait(run, outage).await;
                self.proxy.heal();
            }
            Trouble::CutOffAgainAndAgain => {
                let until = Instant::now() + outage;
                while Instant::now() < until {
                    self.proxy.cut();
                    self.wait(run, Duration::from_millis(700)).await;
                    self.proxy.heal();
                    self.wait(run, Duration::from_millis(300)).await;
                }
            }
            Trouble::Emptied => {
                self.redis.kill();
                self.redis.forget();
                self.wait(run, outage / 5).await;
                self.redis.run();
            }
            Trouble::Killed => self.served[self.size.nodes() - 2].program.signal("KILL"),
            Trouble::Nothing => {}
            Trouble::Stopped => {
                self.redis.signal("STOP");
                self.wait(run, outage).await;
                self.redis.signal("CONT");
            }
        }
    }

    /// How often each gateway took Redis for away.
    fn losses(&self) -> Vec<usize> {
        let losses = |served: &Served| {
            let log = served.program.err.text();
            log.matches("Redis does not answer").count()
        };
        self.served.iter().map(losses).collect()
    }
}

impl Run {
    fn total(&self) -> usize {
        self.counted.last().map_or(0, |(_, arrived)| *arrived)
    }

    /// What had reached DCAMS by then.
    fn arrived_by(&self, time: Duration) -> usize {
        let before = self.counted.iter().take_while(|(at, _)| *at <= time);
        before.last().map_or(0, |(_, arrived)| *arrived)
    }

    /// What DCAMS got in each second.
    fn seconds(&self, time: Duration) -> Vec<usize> {
        let by = |second| self.arrived_by(Duration::from_secs(second));
        (0..time.as_secs()).map(|s| by(s + 1) - by(s)).collect()
    }

    /// What was free of the day when a gateway last looked, at least a second and a bit before the trouble
    /// began; and what was free then, as DCAMS's side shows it.
    fn free(&self, daily: usize) -> (usize, usize) {
        let from = self.trouble.map_or(Duration::ZERO, |(from, _)| from);
        let looked = from.saturating_sub(Duration::from_millis(1_200));
        let free = |time| daily.saturating_sub(self.arrived_by(time));
        (free(looked), free(from))
    }

    /// How many answers there were of each kind.
    fn answers(&self) -> Vec<(String, usize)> {
        let mut answers: Vec<(String, usize)> = Vec::new();
        for shot in &self.shots {
            let code = shot.reply.as_ref().map_or("broken", |reply| &reply.code);
            match answers.iter_mut().find(|(known, _)| known == code) {
                Some((_, count)) => *count += 1,
                None => answers.push((code.to_owned(), 1)),
            }
        }
        answers
    }

    /// Of what was asked during the trouble: how often, and the median, 99 % and the slowest.
    fn during(&self) -> Option<(usize, [f64; 3])> {
        let (from, to) = self.trouble?;
        let during = self.shots.iter().filter(|s| s.sent >= from && s.sent <= to);
        let mut times: Vec<Duration> = during.map(Shot::took).collect();
        let all = [500, 990, 1000].map(|share| milliseconds(quantile(&mut times, share)));
        Some((times.len(), all))
    }

    /// Each of these stretches, the most that were admitted in it, and what may be.
    fn stretches(&self, size: &Size) -> Vec<(u64, usize, u32)> {
        let stretch = |ms: u64| {
            let most = most_within(&self.shots, Duration::from_millis(ms));
            let allowed = u64::from(size.rate) * ms / 1000;
            (ms, most, u32::try_from(allowed).unwrap() + size.burst)
        };
        [100, 1_000, 10_000].map(stretch).into()
    }

    fn report(&self, name: &str, fleet: &Fleet, bound: usize) {
        let Size { daily, time, .. } = fleet.size;
        let (total, offered) = (self.total(), self.shots.len());
        let over = total.saturating_sub(daily);
        println!("== {name}");
        println!(
            "offered {offered} in {time:?} ({:.0}/s of {}/s); reached DCAMS {total} of {daily}: {over} over \
             ({:.2} %), bound {bound} ({:.2} %), not used {}",
            float(offered) / time.as_secs_f64(),
            fleet.size.offered.iter().sum::<u32>(),
            percent(over, daily),
            percent(bound, daily),
            daily.saturating_sub(total),
        );
        println!(
            "answers {:?}; Redis away, by gateway: {:?}",
            self.answers(),
            fleet.losses()
        );
        println!("each second {:?}", self.seconds(time));
        if fleet.size.rated {
            for (ms, most, allowed) in self.stretches(&fleet.size) {
                println!("most within {ms} ms: {most}, allowed {allowed}");
            }
        }
        let mut times: Vec<Duration> = self.shots.iter().map(Shot::took).collect();
        let all = [500, 990, 1000].map(|share| milliseconds(quantile(&mut times, share)));
        println!(
            "answers took, in ms: p50 {:.1}, p99 {:.1}, slowest {:.1}",
            all[0], all[1], all[2]
        );
        if let (Some((from, to)), Some((asked, [p50, p99, slowest]))) =
            (self.trouble, self.during())
        {
            println!(
                "trouble from {from:.1?} to {to:.1?}: {asked} asked, {} reached DCAMS; answers took, in ms: \
                 p50 {p50:.1}, p99 {p99:.1}, slowest {slowest:.1}",
                self.arrived_by(to) - self.arrived_by(from),
            );
            let refused = |s: &&Shot| {
                s.reply
                    .as_ref()
                    .is_some_and(|r| r.code == "state_unavailable")
            };
            let last = self.shots.iter().filter(refused).map(|s| s.answered).max();
            let after = last.unwrap_or_default().saturating_sub(to);
            println!("the last state_unavailable came {after:.1?} after that");
        }
    }

    fn keeps_to(&self, daily: usize, bound: usize) {
        let total = self.total();
        assert!(total <= daily + bound, "{total} of {daily}, bound {bound}");
    }

    /// In no stretch of time was more admitted than the rate and the burst.
    fn keeps_to_the_rate(&self, size: &Size) {
        for (ms, most, allowed) in self.stretches(size) {
            assert!(
                most <= usize::try_from(allowed).unwrap(),
                "{most} within {ms} ms"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_on_one_redis_keep_to_one_rate_and_one_day() {
    let mut fleet = Fleet::start(Size::of(true), "lease", "5s").await;
    let run = fleet.run(Trouble::Nothing, 0).await;
    run.report("all is well", &fleet, 0);
    run.keeps_to(fleet.size.daily, 0);
    run.keeps_to_the_rate(&fleet.size);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_killed_takes_its_lease_with_it_and_nothing_more() {
    let mut fleet = Fleet::start(Size::of(true), "lease", "5s").await;
    let half = fleet.size.daily / 2;
    let run = fleet.run(Trouble::Killed, half).await;
    run.report("one gateway is killed", &fleet, 0);
    run.keeps_to(fleet.size.daily, 0);
    run.keeps_to_the_rate(&fleet.size);
}

/// What is left is used up before the outage ends: the tenth part with a rate, the fifth without.
async fn outage(name: &str, trouble: Trouble, away: &str) {
    outage_of(name, trouble, away, true).await;
}

async fn unrated_outage(name: &str, trouble: Trouble) {
    outage_of(name, trouble, "lease", false).await;
}

async fn outage_of(name: &str, trouble: Trouble, away: &str, rated: bool) {
    let mut fleet = Fleet::start(Size::of(rated), away, "500ms").await;
    let daily = fleet.size.daily;
    let left = daily / if rated { 10 } else { 5 };
    let run = fleet.run(trouble, daily - left).await;
    let (seen, free) = run.free(daily);
    let nodes = fleet.size.nodes();
    let bound = match (trouble, away) {
        (_, "refuse") => 0,
        // The others use up what was free, and this one its part of what it saw.
        (Trouble::CutOff | Trouble::CutOffAgainAndAgain, _) => seen / nodes,
        // Who has used less than its part of the day has that part.
        (_, "local_share") => {
            let part = daily / nodes;
            let own = |node| {
                let from = run.trouble.map_or(Duration::ZERO, |(from, _)| from);
                let mine = |s: &&Shot| s.node == node && s.is_admitted() && s.answered <= from;
                run.shots.iter().filter(mine).count()
            };
            let parts = (0..nodes).map(|node| part.saturating_sub(own(node)).max(seen / nodes));
            parts.sum::<usize>().saturating_sub(free)
        }
        _ => seen - free,
    };
    run.report(name, &fleet, bound);
    // A busy machine may have kept one of them from Redis for longer than it waits, beside all this.
    let strict = number("NODES_SECONDS", 0) > 0 || bound == 0;
    run.keeps_to(daily, if strict { bound } else { bound + seen / nodes });
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_stands_still_no_more_is_admitted_than_was_free() {
    outage("Redis stands still", Trouble::Stopped, "lease").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_redis_was_emptied_no_more_is_admitted_than_was_free() {
    outage("Redis is killed and emptied", Trouble::Emptied, "lease").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_cut_off_has_no_more_than_its_part() {
    outage("one gateway is cut off", Trouble::CutOff, "lease").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_where_no_rate_holds_anybody_back() {
    unrated_outage("Redis stands still, no rate", Trouble::Stopped).await;
    unrated_outage("Redis is killed and emptied, no rate", Trouble::Emptied).await;
    unrated_outage("one gateway is cut off, no rate", Trouble::CutOff).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_cut_off_again_and_again_has_no_more_than_its_part() {
    let trouble = Trouble::CutOffAgainAndAgain;
    unrated_outage("one gateway is cut off again and again, no rate", trouble).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_that_is_wanted_nothing_is_admitted_without_redis() {
    outage("Redis stands still, \"refuse\"", Trouble::Stopped, "refuse").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_that_is_wanted_each_goes_on_with_its_part_of_the_day() {
    outage(
        "Redis stands still, \"local_share\"",
        Trouble::Stopped,
        "local_share",
    )
    .await;
}

/// How long a call takes while all is well, beside the load.
#[tokio::test(flavor = "multi_thread")]
async fn calls_to_a_healthy_redis_are_answered() {
    let mut fleet = Fleet::start(Size::of(true), "lease", "5s").await;
    let redis = Redis::connect(&settings(&[fleet.redis.url()], Mode::Single))
        .await
        .unwrap();
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let asking = tokio::spawn(async move {
        let mut times = Vec::new();
        while !stopped.is_cancelled() {
            let asked = Instant::now();
            count(&redis, "healthy").await.ok();
            times.push(asked.elapsed());
            sleep(Duration::from_millis(5)).await;
        }
        times
    });
    let run = fleet.run(Trouble::Nothing, 0).await;
    stop.cancel();
    let mut times = asking.await.unwrap();
    let late = times
        .iter()
        .filter(|time| **time > Duration::from_millis(20))
        .count();
    let all = [500, 990, 999, 1000].map(|share| milliseconds(quantile(&mut times, share)));
    run.report("calls beside the load", &fleet, 0);
    println!(
        "{} calls of a process of its own: {late} took more than 20 ms ({:.3} %); p50 {:.2} ms, p99 {:.2} ms, \
         p99.9 {:.2} ms, slowest {:.2} ms",
        times.len(),
        percent(late, times.len()),
        all[0],
        all[1],
        all[2],
        all[3]
    );
}
