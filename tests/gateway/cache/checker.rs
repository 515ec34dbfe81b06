//! Clients that read and write the same few customers, at random, while DCAMS is slow, late or broken; and
//! whether any was told what it could not be told any more.
//!
//! Each write has a reference of its own, which names its tenant. Rounds run side by side in waves, each
//! wave under other faults. `CHECKER_ROUNDS` rounds of each configuration; `CHECKER_SEED` plays the same
//! plan again.

use std::{
    collections::BTreeMap,
    env, fmt,
    ops::Range,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use dcams_gateway::{
    operation::Operation::{GetDocumentImages, GetStatus},
    simulator::fault::{Fault, FaultKind},
};
use futures_util::future::join_all;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::{
    Dice, TENANTS, beside, body, course, direct, gateway, header, in_redis, is_stale,
    judge::{Lags, Read, Write, Writer, initial, judge},
    number, submission, tokens, update,
};
use crate::{
    redis::server::RedisServer,
    support::{Answer, World, answer},
};

/// What gateways are configured to.
#[derive(Debug, Clone, Copy)]
struct Setup {
    name: &'static str,
    /// On a Redis, where there are two.
    gateways: usize,
    /// How long a PASS or a FAIL is fresh, and how long a PENDING or nothing is.
    fresh: (u64, u64),
    stale_if_error: u64,
    stale_while_revalidate: u64,
    /// Whether answers are kept whole.
    full: bool,
    /// Whether gateways share what they know.
    shared: bool,
}

/// One gateway of which what is kept soon ends.
const SHORT: Setup = Setup {
    name: "one, short",
    gateways: 1,
    fresh: (150, 60),
    stale_if_error: 0,
    stale_while_revalidate: 0,
    full: false,
    shared: false,
};
/// The same, which tells what is stale.
const STALE: Setup = Setup {
    name: "one, stale",
    stale_if_error: 300,
    stale_while_revalidate: 100,
    full: true,
    ..SHORT
};
/// One that keeps what it should not have kept for as long as a round lasts.
const LONG: Setup = Setup {
    name: "one, long",
    fresh: (60_000, 60_000),
    ..SHORT
};
const TWO: Setup = Setup {
    name: "two, long",
    gateways: 2,
    full: true,
    ..LONG
};
const TWO_STALE: Setup = Setup {
    name: "two, stale",
    gateways: 2,
    ..STALE
};
const TWO_SHARED: Setup = Setup {
    name: "two, shared",
    shared: true,
    ..TWO
};

/// How long a gateway waits for DCAMS.
const TIMEOUT: u64 = 400;
const NODE_LAG: u64 = 300;
/// How many waves a gateway lives for.
const LIFE: u64 = 20;
/// The faults under which writes are lost.
const LOST_WRITES: u64 = 3;
/// The number of the write at a round's end, and how much later it is done than its client waits.
const LAST: u64 = 1_000;
const LATE: u64 = 150;
const STATUSES: [&str; 3] = ["PASS", "PENDING", "FAIL"];

const fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

impl Setup {
    fn toml(&self) -> String {
        format!(
            "[cache]\npass_ttl = \"{long}ms\"\nfail_ttl = \"{long}ms\"\npending_ttl = \"{short}ms\"\n\
             not_found_ttl = \"{short}ms\"\njitter = 0.1\nstale_if_error = \"{}ms\"\n\
             stale_while_revalidate = \"{}ms\"\nfull = {}\nshared = {}\nnode_lag = \"{NODE_LAG}ms\"\n\
             [upstream]\nconnect_timeout = \"{TIMEOUT}ms\"\ntimeout = \"{TIMEOUT}ms\"\n",
            self.stale_if_error,
            self.stale_while_revalidate,
            self.full,
            self.shared,
            long = self.fresh.0,
            short = self.fresh.1,
        )
    }

    const fn lags(&self) -> Lags {
        let stale = if self.stale_if_error > self.stale_while_revalidate {
            self.stale_if_error
        } else {
            self.stale_while_revalidate
        };
        Lags {
            node: ms(NODE_LAG),
            fresh: ms(if self.fresh.0 > self.fresh.1 {
                self.fresh.0
            } else {
                self.fresh.1
            }),
            stale: ms(stale),
            // And what a busy machine takes.
            flight: ms(TIMEOUT + 150),
        }
    }
}

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// Creates or updates, with a reference of this number.
    Submit(u64),
    Update(&'static str),
    /// The same, without a gateway.
    SubmitDirectly(u64),
    UpdateDirectly(&'static str),
    Read,
    /// Asks for what is new.
    ReadAnew,
    ReadImages,
    /// Asks for the customer of another tenant.
    Pry,
    /// Asks without a gateway.
    Look,
}

/// One thing that a client does, after a pause.
#[derive(Debug, Clone, Copy)]
struct Step {
    pause: u64,
    act: Act,
    gateway: usize,
    /// Which spelling of the address it uses.
    spelling: usize,
    /// After how long it hangs up, if it does.
    patience: Option<u64>,
}

/// What the clients of one customer do, each in turn.
struct Plan {
    /// Which of [`TENANTS`].
    tenant: usize,
    clients: Vec<Vec<Step>>,
}

impl Plan {
    fn draw(dice: &mut Dice, tenant: usize, gateways: usize) -> Self {
        let mut version = 0;
        let spread = u64::try_from(gateways).unwrap();
        let mut clients = Vec::new();
        for client in 0..4 {
            let mut steps = Vec::new();
            for _ in 0..if client < 2 { 7 } else { 14 } {
                steps.push(Step {
                    // Where writes take longer, there have to be times without any.
                    pause: dice.from(
                        0,
                        if client < 2 {
                            40 * spread * spread
                        } else {
                            40 * spread
                        },
                    ),
                    act: Self::act(dice, client, &mut version),
                    gateway: usize::try_from(dice.below(spread)).unwrap(),
                    spelling: usize::from(dice.percent(20)),
                    patience: dice.percent(4).then(|| dice.from(1, 40)),
                });
            }
            clients.push(steps);
        }
        Self { tenant, clients }
    }

    fn act(dice: &mut Dice, client: u64, version: &mut u64) -> Act {
        let luck = dice.below(100);
        if client < 2 {
            let status = dice.of(&STATUSES);
            *version += 1;
            return match luck {
                0..60 => Act::Submit(*version),
                60..85 => Act::Update(status),
                85..95 => Act::SubmitDirectly(*version),
                _ => Act::UpdateDirectly(status),
            };
        }
        match luck {
            0..80 => Act::Read,
            80..85 => Act::ReadAnew,
            85..94 => Act::ReadImages,
            _ => Act::Pry,
        }
    }
}

/// What was told of what one client asked for.
struct Entry {
    step: Step,
    sent: Duration,
    answered: Duration,
    /// None where it hung up.
    answer: Option<Answer>,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>10.1?} to {:>10.1?} gateway {} spelling {} {:?}: ",
            self.sent, self.answered, self.step.gateway, self.step.spelling, self.step.act
        )?;
        let Some(answer) = &self.answer else {
            return write!(f, "hung up");
        };
        let json: Value = serde_json::from_str(&answer.text).unwrap_or_default();
        write!(
            f,
            "{} {} {} {} | {} | age {}",
            answer.status,
            json["code"].as_str().unwrap_or_default(),
            json["reference"].as_str().unwrap_or_default(),
            json["status"].as_str().unwrap_or_default(),
            header(answer, "cache-status"),
            header(answer, "age"),
        )
    }
}

/// Gateways in front of one DCAMS.
struct Fleet {
    setup: Setup,
    worlds: Vec<World>,
    tokens: [String; 4],
    seed: u64,
    begun: Instant,
    _redis: Option<RedisServer>,
}

impl Fleet {
    async fn start(setup: Setup, seed: u64) -> Self {
        let redis = (setup.gateways > 1).then(RedisServer::start);
        let state = redis.as_ref().map(|redis| in_redis(&redis.url()));
        let toml = setup.toml() + &state.unwrap_or_default();
        let mut worlds = vec![gateway(&toml, setup.full, &[]).await];
        for _ in 1..setup.gateways {
            let other = beside(&worlds[0], &toml, setup.full, &[]).await;
            worlds.push(other);
        }
        Self {
            setup,
            tokens: tokens(&worlds[0]),
            worlds,
            seed,
            begun: Instant::now(),
            _redis: redis,
        }
    }

    /// A customer's address, in one of two spellings.
    fn email(&self, round: u64, tenant: usize, spelling: usize) -> String {
        // Two tenants have a customer of the same name, in accounts of their own; two share an account, and
        // each asks for the other's customer too.
        let place = ["alone", "alone", "one", "two"][tenant];
        let name = ["person", "Person"][spelling];
        format!("{name}.{place}.{}.{round}@example.com", self.seed)
    }

    fn reference(&self, round: u64, tenant: usize, version: u64) -> String {
        format!("{}.{}.{round}.{version}", TENANTS[tenant].0, self.seed)
    }

    /// Plays a round: what was asked of each tenant's customer, and told.
    async fn round(&self, round: u64, dice: &mut Dice) -> Vec<(usize, Vec<Entry>)> {
        let draw = |tenant| Plan::draw(dice, tenant, self.setup.gateways);
        let plans: Vec<Plan> = (0..TENANTS.len()).map(draw).collect();
        let played = plans.into_iter().map(|plan| async move {
            let mut log = Vec::new();
            if plan.tenant >= 2 {
                log = self.first(round, plan.tenant).await;
                if !log.last().is_some_and(Entry::is_success) {
                    return (plan.tenant, log);
                }
            }
            let clients = plan.clients.iter();
            let logs = clients.map(|steps| self.client(round, plan.tenant, steps));
            log.extend(join_all(logs).await.into_iter().flatten());
            (plan.tenant, log)
        });
        join_all(played).await
    }

    /// One more write of a customer, which is done only when nobody waits for its answer any more; what
    /// is read before that; and what is read when it was seen to be done.
    async fn epilogue(&self, round: u64, tenant: usize) -> Vec<Entry> {
        let step = |act, gateway: usize, pause| Step {
            pause,
            act,
            gateway: gateway % self.setup.gateways,
            spelling: 0,
            patience: None,
        };
        let settled = self.setup.lags().flight.as_millis().try_into().unwrap();
        let steps = [
            step(Act::Submit(LAST), 0, 0),
            step(Act::Read, 0, 10),
            step(Act::Read, 1, 0),
            step(Act::Look, 0, LATE),
            step(Act::Read, 0, settled),
            step(Act::Read, 1, 0),
        ];
        self.client(round, tenant, &steps).await
    }

    /// Plays rounds side by side: how many answers there were of which kind, or what is wrong with one.
    async fn wave(&self, rounds: Range<u64>, weather: u64, dice: &mut Dice) -> Tally {
        self.faults(weather, dice);
        let rounds = rounds.map(|round| {
            let mut dice = Dice(dice.roll());
            async move { (round, self.round(round, &mut dice).await) }
        });
        let mut played = join_all(rounds).await;
        if weather == LOST_WRITES {
            self.everything_late();
            let ends = played.iter_mut().flat_map(|(round, logs)| {
                let round = *round;
                logs.iter_mut().map(move |(tenant, log)| async move {
                    log.extend(self.epilogue(round, *tenant).await);
                })
            });
            join_all(ends).await;
        }
        let mut tally = Tally::default();
        for (round, logs) in &mut played {
            for (tenant, log) in logs {
                log.sort_by_key(|entry| entry.sent);
                tally.add(log);
                if let Some(found) = self.verdict(*round, *tenant, log) {
                    panic!("{}", self.report(*round, *tenant, log, &found));
                }
            }
        }
        tally
    }

    fn report(&self, round: u64, tenant: usize, log: &[Entry], found: &str) -> String {
        let log: Vec<String> = log.iter().map(ToString::to_string).collect();
        format!(
            "{}, CHECKER_SEED={}, round {round}, tenant {}: {found}\n{}",
            self.setup.name,
            self.seed,
            TENANTS[tenant].0,
            log.join("\n")
        )
    }

    /// Creates the customer of a tenant with a ledger through a gateway: otherwise it is nobody's. As many
    /// attempts as it takes; where it cannot be done, the customer is left alone.
    async fn first(&self, round: u64, tenant: usize) -> Vec<Entry> {
        let step = Step {
            pause: 0,
            act: Act::Submit(0),
            gateway: 0,
            spelling: 0,
            patience: None,
        };
        let mut log = Vec::new();
        while log.len() < 5 && !log.last().is_some_and(Entry::is_success) {
            log.extend(self.client(round, tenant, &[step]).await);
        }
        log
    }

    async fn client(&self, round: u64, tenant: usize, steps: &[Step]) -> Vec<Entry> {
        let mut log = Vec::new();
        for step in steps {
            sleep(ms(step.pause)).await;
            let request = self.request(round, tenant, step).build().unwrap();
            let sent = self.begun.elapsed();
            let asking = async {
                let told = self.worlds[0].client.execute(request).await.ok()?;
                Some(answer(told).await)
            };
            let patience = ms(step.patience.unwrap_or(60_000));
            let told = timeout(patience, asking).await;
            log.push(Entry {
                step: *step,
                sent,
                answered: self.begun.elapsed(),
                answer: told.ok().flatten(),
            });
        }
        log
    }

    fn request(&self, round: u64, tenant: usize, step: &Step) -> reqwest::RequestBuilder {
        let email = self.email(round, tenant, step.spelling);
        let (_, user) = TENANTS[tenant];
        let world = &self.worlds[step.gateway];
        let gateway = |body: Value| {
            let request = world
                .client
                .post(world.url())
                .bearer_auth(&self.tokens[tenant]);
            request.json(&body)
        };
        let dcams = |body| {
            let simulator = world.client.post(world.simulator.url());
            simulator.json(&direct(body, user))
        };
        let submission = |version| submission(&email, &self.reference(round, tenant, version));
        match step.act {
            Act::Submit(version) => gateway(submission(version)),
            Act::Update(status) => gateway(update(&email, status)),
            Act::SubmitDirectly(version) => dcams(submission(version)),
            Act::UpdateDirectly(status) => dcams(update(&email, status)),
            Act::Read => gateway(body(GetStatus, &email)),
            Act::ReadAnew => gateway(body(GetStatus, &email)).header("cache-control", "no-cache"),
            Act::ReadImages => gateway(body(GetDocumentImages, &email)),
            Act::Look => dcams(body(GetStatus, &email)),
            Act::Pry => {
                // Those with accounts of their own have customers of the same name.
                let other = [1, 0, 3, 2][tenant];
                gateway(body(GetStatus, &self.email(round, other, step.spelling)))
            }
        }
    }

    /// What is wrong with what the clients of one customer were told.
    fn verdict(&self, round: u64, tenant: usize, log: &[Entry]) -> Option<String> {
        let own = |version| Some(self.reference(round, tenant, version));
        let mut references = (vec![initial(None)], Vec::new());
        // What a creation makes of the status is what it was, or PASS at first.
        let mut statuses = (vec![initial("PASS".to_owned())], Vec::new());
        for entry in log {
            let (step, sent) = (entry.step, entry.sent);
            let answered = entry.is_success().then_some(entry.answered);
            let through = matches!(step.act, Act::Submit(_) | Act::Update(_));
            let by = if through {
                Writer::Gateway(step.gateway)
            } else {
                Writer::Dcams
            };
            match step.act {
                Act::Submit(version) | Act::SubmitDirectly(version) => references.0.push(Write {
                    value: own(version),
                    sent,
                    answered,
                    by,
                }),
                Act::Update(status) | Act::UpdateDirectly(status) => statuses.0.push(Write {
                    value: status.to_owned(),
                    sent,
                    answered,
                    by,
                }),
                Act::Look | Act::Pry | Act::Read | Act::ReadAnew | Act::ReadImages => {
                    let Some(answer) = &entry.answer else {
                        continue;
                    };
                    if let Some(wrong) = self.labels(step.act, answer) {
                        return Some(format!("{wrong}: {entry}"));
                    }
                    if !is_told(step.act, tenant, answer) {
                        continue;
                    }
                    let told = answer.json();
                    let text = |name: &str| told[name].as_str().map(str::to_owned);
                    references.1.push(entry.reads(text("reference"), answer));
                    if let Some(status) = text("status").filter(|_| answer.status == 200) {
                        statuses.1.push(entry.reads(status, answer));
                    }
                }
            }
        }
        let lags = self.setup.lags();
        // Anything of another tenant's is no value that was ever written here.
        judge(&references.0, &references.1, &lags, true)
            .or_else(|| judge(&statuses.0, &statuses.1, &lags, false))
    }

    /// What is wrong with what an answer says of itself.
    fn labels(&self, act: Act, answer: &Answer) -> Option<String> {
        let says = header(answer, "cache-status");
        let told = answer.status == 200 || answer.status == 404;
        if matches!(act, Act::Look | Act::ReadImages) || !told {
            return None;
        }
        let stale = is_stale(answer);
        let labelled = says.contains("stale-if-error") || says.contains("stale-while-revalidate");
        let may = self.setup.stale_if_error > 0 || self.setup.stale_while_revalidate > 0;
        let kept = stale || says.contains("; hit");
        let wrong = match () {
            // Who owns nothing of that name is told so before anything is looked up.
            () if says.is_empty() && answer.status == 404 => return None,
            () if says.is_empty() => "no Cache-Status",
            () if header(answer, "age").parse::<u64>().is_err() => "no Age",
            () if stale != labelled => "labelled in one place",
            () if stale && !may => "stale, which nobody wanted",
            () if says.contains("ttl=-") && !stale => "past, and not labelled",
            () if act == Act::ReadAnew && kept => "kept, where what is new was wanted",
            () => return None,
        };
        Some(wrong.to_owned())
    }

    /// Has DCAMS do what it is asked to write only when nobody waits for its answer any more.
    fn everything_late(&self) {
        let simulator = &self.worlds[0].simulator;
        simulator.clear_faults();
        let late = FaultKind::Late { ms: TIMEOUT + LATE };
        let fault = Fault::always(late).for_service("createOrUpdateCustomer");
        simulator.add_fault(fault).unwrap();
    }

    /// Makes DCAMS behave badly in one of four ways.
    fn faults(&self, weather: u64, dice: &mut Dice) {
        const SUBMIT: &str = "createOrUpdateCustomer";
        const READ: &str = "getStatus";
        let simulator = &self.worlds[0].simulator;
        simulator.clear_faults();
        let set = |kind: FaultKind, service: &'static str, percent: u32| {
            let share = f64::from(percent) / 100.0;
            let fault = Fault::always(kind).for_service(service).for_share(share);
            simulator.add_fault(fault).unwrap();
        };
        let status = |status| FaultKind::Status {
            status,
            message: "Simulated".to_owned(),
            retry_after: None,
        };
        // In each: answers to reads that are under way while others write.
        let (first, second) = (dice.from(20, 60), dice.from(30, 120));
        set(FaultKind::Delay { ms: first }, READ, 30);
        set(FaultKind::Delay { ms: second }, READ, 15);
        match weather {
            0 => {}
            1 => {
                set(FaultKind::Late { ms: second }, READ, 20);
                set(FaultKind::Delay { ms: first }, SUBMIT, 30);
                set(FaultKind::Late { ms: first }, SUBMIT, 20);
                set(FaultKind::Delay { ms: first }, "updateStatus", 30);
            }
            2 => {
                set(status(503), READ, 20);
                set(FaultKind::Reset {}, READ, 10);
                set(FaultKind::Delay { ms: TIMEOUT + 100 }, READ, 5);
                set(FaultKind::Delay { ms: first }, SUBMIT, 20);
            }
            LOST_WRITES => {
                let late = TIMEOUT + dice.from(20, 300);
                set(FaultKind::Late { ms: late }, SUBMIT, 7);
                set(FaultKind::Reset {}, SUBMIT, 5);
                set(status(503), SUBMIT, 5);
                set(FaultKind::Malformed {}, "updateStatus", 5);
                set(FaultKind::Late { ms: late }, "updateStatus", 10);
            }
            _ => unreachable!(),
        }
    }
}

/// Whether an answer says what the tenant's own customer is like.
fn is_told(act: Act, tenant: usize, answer: &Answer) -> bool {
    // The other's customer of the same account: any success is a value of another tenant's.
    let other = act == Act::Pry && tenant >= 2;
    answer.status == 200
        || (!other && answer.status == 404 && answer.code() == "customer_not_found")
}

impl Entry {
    /// Whether it was done. An answer that breaks off, as who asks DCAMS directly may get it, says nothing.
    fn is_success(&self) -> bool {
        let said = |answer: &Answer| serde_json::from_str(&answer.text).unwrap_or(Value::Null);
        let answer = self.answer.as_ref().filter(|answer| answer.status == 200);
        answer.is_some_and(|answer| said(answer)["result"] == "Success")
    }

    fn reads<T>(&self, value: T, answer: &Answer) -> Read<T> {
        Read {
            value,
            sent: self.sent,
            answered: self.answered,
            gateway: self.step.gateway,
            stale: is_stale(answer),
        }
    }
}

/// How many answers there were of which kind.
#[derive(Debug, Default)]
struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    fn add(&mut self, log: &[Entry]) {
        for entry in log {
            let kind = match (entry.step.act, &entry.answer) {
                (_, None) => "hung up",
                (Act::Read | Act::Pry, Some(answer)) => course(answer),
                (Act::Look | Act::ReadAnew | Act::ReadImages, Some(_)) => "other reads",
                (_, Some(answer)) if answer.status == 200 => "writes",
                (_, Some(_)) => "failed writes",
            };
            self.count(kind, 1);
        }
    }

    fn count(&mut self, kind: &'static str, more: u64) {
        *self.0.entry(kind).or_default() += more;
    }

    fn of(&self, kind: &str) -> u64 {
        self.0.get(kind).copied().unwrap_or_default()
    }
}

/// Plays so many rounds, and stops where one shows what must not be.
async fn check(setup: Setup, short: u64) {
    let rounds = number("CHECKER_ROUNDS", short);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = number("CHECKER_SEED", now.as_secs() % 1_000_000);
    let only = env::var("CHECKER_SETUP").unwrap_or_default();
    if !setup.name.contains(&only) {
        return;
    }
    // As many as a machine with two cores can bear; unoptimized, that is less.
    let side_by_side = if rounds > short { 12 } else { 4 };
    let (mut dice, mut tally) = (Dice(seed), Tally::default());
    let begun = Instant::now();
    println!("{}: {rounds} rounds, CHECKER_SEED={seed}", setup.name);
    let mut fleet = Fleet::start(setup, seed).await;
    let mut first = 0;
    for wave in 0.. {
        if first >= rounds {
            break;
        }
        if wave > 0 && wave % LIFE == 0 {
            fleet = Fleet::start(setup, seed).await;
        }
        let next = rounds.min(first + side_by_side);
        let told = fleet.wave(first..next, (seed + wave) % 4, &mut dice).await;
        for (kind, count) in told.0 {
            tally.count(kind, count);
        }
        first = next;
    }
    println!("{}: {:?} in {:.1?}", setup.name, tally.0, begun.elapsed());
    // A cache that keeps nothing tells nothing wrong.
    for kind in ["hit", "asked", "writes"] {
        assert!(tally.of(kind) * 50 > rounds, "{}: {tally:?}", setup.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_gateway_tells_nothing_that_is_older_than_a_write() {
    for (setup, rounds) in [(LONG, 16), (STALE, 8), (SHORT, 4)] {
        check(setup, rounds).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_tell_nothing_that_is_older_than_a_write_by_more_than_their_lag() {
    for (setup, rounds) in [(TWO, 8), (TWO_SHARED, 8), (TWO_STALE, 4)] {
        check(setup, rounds).await;
    }
}
