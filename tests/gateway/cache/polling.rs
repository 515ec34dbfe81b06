//! Frontends that poll: many at once for one customer, through an outage of DCAMS, and as in real life, a
//! few customers often and many seldom.
//!
//! Each has a short form here, and a long one in `scripts/campaign` that prints its figures.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use dcams_gateway::{
    operation::Operation::{self, GetStatus},
    simulator::{
        behaviour::{Behaviour, Status},
        fault::{Fault, FaultKind},
    },
};
use futures_util::future::join_all;
use serde_json::Value;
use tokio::{
    task::JoinSet,
    time::{sleep_until, timeout},
};

use super::{
    Dice, beside, body, course, direct, gateway, header, number, submission, table, tokens, update,
};
use crate::support::{Answer, OTHER_TENANT, USER, World, answer};

const fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

fn email(customer: usize) -> String {
    format!("polled.{customer}@example.com")
}

/// Has DCAMS know this many customers, of which no gateway has heard.
async fn create(world: &World, customers: usize) {
    for customer in 0..customers {
        let body = direct(submission(&email(customer), &format!("r-{customer}")), USER);
        let request = world.client.post(world.simulator.url()).json(&body);
        let told = answer(request.send().await.unwrap()).await;
        assert_eq!(told.status, 200, "{}", told.text);
    }
}

/// What is used of a tenant's limit of requests at a time.
async fn under_way(world: &World, token: &str) -> u64 {
    let url = format!("http://{}/v1/usage", world.gateway);
    let asked = world.client.get(url).bearer_auth(token).send().await;
    let document = answer(asked.unwrap()).await.json();
    let limits = document["limits"].as_array().unwrap();
    let limit = limits.iter().find(|limit| limit["policy"] == "concurrency");
    limit.unwrap()["used"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_who_ask_the_same_at_once_cost_one_call() {
    const CLIENTS: usize = 500;
    let tenant = OTHER_TENANT.replace(r#""full""#, r#""minimal""#);
    let toml = tenant + "[tenants.quota]\nconcurrency = 1000\n";
    let world = World::with_other(&toml, &[("CACHE__ENABLED", "true")]).await;
    let token = world.token_of("other", &Operation::ALL, None);
    create(&world, 1).await;
    world.simulator.clear_requests();
    let asked = email(0);
    world
        .simulator
        .add_fault(Fault::always(FaultKind::Delay { ms: 600_000 }))
        .unwrap();
    let body = body(GetStatus, &asked).to_string();
    let asking = (0..CLIENTS).map(|_| async {
        let request = world.client.post(world.url()).bearer_auth(&token);
        let request = request.header("content-type", "application/json");
        answer(request.body(body.clone()).send().await.unwrap()).await
    });
    let all_there = async {
        let count = u64::try_from(CLIENTS).unwrap();
        let mut looks = 1;
        while under_way(&world, &token).await < count {
            looks += 1;
        }
        world.simulator.clear_faults();
        looks
    };
    let (answers, came) =
        tokio::join!(join_all(asking), timeout(Duration::from_mins(1), all_there));
    let looks = came.expect("not all were under way at a time");
    let mut courses: BTreeMap<&str, usize> = BTreeMap::new();
    for told in &answers {
        assert_eq!((told.status, &told.text), (200, &answers[0].text));
        *courses.entry(course(told)).or_default() += 1;
    }
    println!("{CLIENTS} at once: {courses:?}");
    assert_eq!(world.simulator.requests().len(), 1);
    assert_eq!(courses["asked"], 1);
    assert_eq!(courses["joined"], CLIENTS - 1);
    // Each has an event of its own, and a number of its own.
    // Those who asked how many there are have theirs too.
    let mut events = world.audit.until(CLIENTS + looks).await;
    events.retain(|event| event["service"] == "getStatus");
    assert_eq!(events.len(), CLIENTS);
    let joined = |event: &&Value| event["cache"] == "collapsed";
    assert_eq!(events.iter().filter(joined).count(), CLIENTS - 1);
}

/// What one poller was told, and when.
struct Told {
    customer: usize,
    at: Duration,
    took: Duration,
    course: &'static str,
    status: u16,
    code: String,
    said: Option<String>,
    age: u64,
}

impl Told {
    /// The column of a table.
    fn column(&self) -> String {
        if self.status == 200 {
            return self.course.to_owned();
        }
        format!("{} {}", self.status, self.code)
    }
}

/// Asks so often a second for customers of this choice, until the end, over so many workers.
async fn poll(
    world: &World,
    token: &str,
    (rate, workers): (u64, u64),
    (begun, end): (Instant, Duration),
    choose: impl Fn(&mut Dice) -> usize + Clone + Send + 'static,
) -> Vec<Told> {
    let mut all = JoinSet::new();
    for worker in 0..workers {
        let (client, url) = (world.client.clone(), world.url());
        let (token, choose) = (token.to_owned(), choose.clone());
        all.spawn(async move {
            let mut dice = Dice(worker + 1);
            let mut told = Vec::new();
            let mut number = worker;
            loop {
                let due = ms(number * 1_000 / rate);
                number += workers;
                if due >= end {
                    return told;
                }
                sleep_until((begun + due).into()).await;
                let customer = choose(&mut dice);
                let at = begun.elapsed();
                let asked = client.post(&url).bearer_auth(&token);
                let asked = asked.json(&body(GetStatus, &email(customer))).send();
                told.push(Told::of(
                    customer,
                    at,
                    begun,
                    answer(asked.await.unwrap()).await,
                ));
            }
        });
    }
    let mut told: Vec<Told> = all.join_all().await.into_iter().flatten().collect();
    told.sort_by_key(|told| told.at);
    told
}

impl Told {
    fn of(customer: usize, at: Duration, begun: Instant, answer: Answer) -> Self {
        let json: Value = serde_json::from_str(&answer.text).unwrap_or_default();
        let text = |name: &str| json[name].as_str().map(str::to_owned);
        Self {
            customer,
            at,
            took: begun.elapsed().saturating_sub(at),
            course: course(&answer),
            status: answer.status,
            code: text("code").unwrap_or_default(),
            said: text("status"),
            age: header(&answer, "age").parse().unwrap_or_default(),
        }
    }
}

/// How many were told what, by stretches of time.
fn by_time(told: &[Told], stretch: Duration) -> String {
    let mut columns: Vec<String> = told.iter().map(Told::column).collect();
    columns.sort_unstable();
    columns.dedup();
    let mut rows: BTreeMap<u128, BTreeMap<String, usize>> = BTreeMap::new();
    for told in told {
        let row = rows
            .entry(told.at.as_millis() / stretch.as_millis())
            .or_default();
        *row.entry(told.column()).or_default() += 1;
    }
    let head = [vec!["from s".to_owned()], columns.clone()].concat();
    let rows = rows.iter().map(|(at, counts)| {
        let from = f64::from(u32::try_from(*at).unwrap()) * stretch.as_secs_f64();
        let cells = columns
            .iter()
            .map(|column| counts.get(column).unwrap_or(&0).to_string());
        let mut row = vec![format!("{from:.1}")];
        row.extend(cells);
        row
    });
    let rows: Vec<Vec<String>> = [head].into_iter().chain(rows).collect();
    let widest = columns.iter().map(String::len).max().unwrap_or(0).max(8) + 2;
    table(&rows, widest)
}

/// The faults of an outage, one after the other: refused, broken off, silent.
fn outage(number: u64) -> FaultKind {
    match number % 3 {
        0 => FaultKind::Status {
            status: 503,
            message: "Simulated".to_owned(),
            retry_after: None,
        },
        1 => FaultKind::Reset {},
        _ => FaultKind::Hang {},
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_bridged_with_what_is_labelled_and_ends_with_what_is_fresh() {
    const CUSTOMERS: usize = 50;
    let outage_ms = number("OUTAGE_SECONDS", 0) * 1_000;
    let long = outage_ms > 0;
    // As long as is told; in the short form all times are a fifteenth or less.
    let (outage_ms, stale_ms, fresh_ms, rate, wait_ms) = if long {
        (outage_ms, 45_000, 5_000, 200, 1_000)
    } else {
        (4_000, 2_000, 400, 60, 250)
    };
    let (before, after) = (ms(outage_ms / 6), ms(outage_ms / 3));
    let toml = format!(
        "[cache]\npass_ttl = \"{fresh_ms}ms\"\nstale_if_error = \"{stale_ms}ms\"\n\
         [upstream]\nconnect_timeout = \"{wait_ms}ms\"\ntimeout = \"{wait_ms}ms\"\n"
    );
    let world = gateway(&toml, false, &[]).await;
    create(&world, CUSTOMERS).await;
    let token = &tokens(&world)[0];
    // Each is known before it begins.
    for customer in 0..CUSTOMERS {
        let told = world.post(token, &body(GetStatus, &email(customer))).await;
        assert_eq!(told.status, 200, "{}", told.text);
    }
    let begun = Instant::now();
    let end = before + ms(outage_ms) + after;
    let choose =
        |dice: &mut Dice| usize::try_from(dice.below(u64::try_from(CUSTOMERS).unwrap())).unwrap();
    // Enough that none waits for those who wait for DCAMS.
    let workers = rate * wait_ms / 1_000 + 20;
    let polling = poll(&world, token, (rate, workers), (begun, end), choose);
    let steering = async {
        sleep_until((begun + before).into()).await;
        for third in 0..3 {
            // What hangs is let go as the next begins.
            world.simulator.clear_faults();
            let fault = Fault::always(outage(third));
            world.simulator.add_fault(fault).unwrap();
            let until = begun + before + ms(outage_ms * (third + 1) / 3);
            sleep_until(until.into()).await;
        }
        world.simulator.clear_faults();
        begun.elapsed()
    };
    let (told, recovered) = tokio::join!(polling, steering);
    let stretch = if long { ms(5_000) } else { ms(500) };
    println!(
        "outage from {before:.1?} to {recovered:.1?}, fresh {fresh_ms} ms, stale {stale_ms} ms more:\n{}",
        by_time(&told, stretch)
    );
    judge_outage(
        &told,
        (before, recovered),
        (ms(fresh_ms), ms(stale_ms), ms(wait_ms)),
        CUSTOMERS,
    );
}

fn judge_outage(
    told: &[Told],
    (from, to): (Duration, Duration),
    (fresh, stale, wait): (Duration, Duration, Duration),
    customers: usize,
) {
    let during = |told: &&Told| told.at > from && told.at + told.took < to;
    // Nobody is told anything but the truth or an error, and nothing old without a label.
    for told in told {
        if told.status == 200 {
            assert_eq!(told.said.as_deref(), Some("PASS"), "{}", told.column());
        } else {
            assert!([502, 503, 504].contains(&told.status), "{}", told.column());
        }
        assert!(
            told.course != "stale" || told.status == 200,
            "{}",
            told.column()
        );
    }
    for told in told.iter().filter(during) {
        let asked_in_it = told.at > from + wait;
        // DCAMS says nothing in it: what is said is kept, and labelled where it is not fresh.
        assert!(
            told.status != 200 || !asked_in_it || told.course == "hit" || told.course == "stale",
            "{} at {:?}",
            told.column(),
            told.at
        );
        let past = told.at > from + wait + fresh;
        assert!(!past || told.course != "hit", "fresh at {:?}", told.at);
        // Ages are whole seconds.
        assert!(
            told.age <= (fresh + stale).as_secs() + 1 + wait.as_secs(),
            "{}",
            told.age
        );
    }
    let count = |course: &str| {
        told.iter()
            .filter(during)
            .filter(|t| t.course == course)
            .count()
    };
    assert!(count("stale") > 0, "nothing was told while DCAMS was away");
    // What is too old is not told any more.
    let ended = told.iter().filter(during);
    let ended: Vec<&Told> = ended
        .filter(|t| t.at > from + wait + fresh + stale)
        .collect();
    assert!(!ended.is_empty() && ended.iter().all(|told| told.status != 200));
    // Who asks after it, is told what is new at once: what fails in its first moment was under way.
    let since = told.iter().filter(|told| told.at > to + wait);
    let mut fresh_from = BTreeMap::new();
    for told in since {
        assert_eq!(told.status, 200, "{} at {:?}", told.column(), told.at);
        assert_ne!(told.course, "stale", "at {:?}", told.at);
        fresh_from.entry(told.customer).or_insert(told.at);
    }
    let last_bad = told.iter().filter(|told| told.at > to);
    let last_bad = last_bad.filter(|told| told.status != 200 || told.course == "stale");
    let last_bad = last_bad
        .map(|told| (told.at + told.took).saturating_sub(to))
        .max();
    println!(
        "after recovery: last that was not fresh {:?}; {} of {customers} customers asked for",
        last_bad.unwrap_or_default(),
        fresh_from.len()
    );
    assert!(fresh_from.len() > customers / 2, "{}", fresh_from.len());
}

/// Which customer is asked for: the first twice as often as the second, three times as often as the
/// third (Zipf, s = 1).
fn zipf(customers: usize) -> impl Fn(&mut Dice) -> usize + Clone + Send + 'static {
    let mut sums = Vec::new();
    let mut sum = 0;
    for rank in 1..=u64::try_from(customers).unwrap() {
        sum += 1_000_000_000 / rank;
        sums.push(sum);
    }
    move |dice| {
        let point = dice.below(sum);
        sums.partition_point(|end| *end <= point)
    }
}

/// What polling cost, and how it was told.
struct Load {
    told: Vec<Told>,
    calls: usize,
    changes: usize,
}

impl Load {
    fn share(&self, course: &str) -> f64 {
        let kept = self.told.iter().filter(|told| told.course == course);
        percent(kept.count(), self.told.len())
    }

    fn median(&self) -> Duration {
        let mut took: Vec<Duration> = self.told.iter().map(|told| told.took).collect();
        took.sort_unstable();
        took.get(took.len() / 2).copied().unwrap_or_default()
    }
}

fn percent(part: usize, whole: usize) -> f64 {
    let [part, whole] = [part, whole.max(1)].map(|n| f64::from(u32::try_from(n).unwrap()));
    part * 100.0 / whole
}

/// Polls a gateway, while customers turn from PENDING to PASS through it, and sees that nobody is told
/// PENDING who asks when that is done.
async fn load(
    world: &World,
    (customers, rate, changes): (usize, u64, u64),
    time: Duration,
) -> Load {
    let token = tokens(world)[0].clone();
    let begun = Instant::now();
    let polling = poll(world, &token, (rate, 64), (begun, time), zipf(customers));
    let changing = async {
        let mut done = BTreeMap::new();
        let (mut dice, choose) = (Dice(77), zipf(customers));
        let pause = Duration::from_secs(1) / u32::try_from(changes).unwrap();
        let mut due = begun + pause;
        while begun.elapsed() + pause < time {
            sleep_until(due.into()).await;
            due += pause;
            let customer = choose(&mut dice);
            let told = world.post(&token, &update(&email(customer), "PASS")).await;
            assert_eq!(told.status, 200, "{}", told.text);
            done.entry(customer).or_insert(begun.elapsed());
        }
        done
    };
    let calls = world
        .simulator
        .requests()
        .last()
        .map_or(0, |last| last.sequence);
    let (told, done) = tokio::join!(polling, changing);
    let after = world
        .simulator
        .requests()
        .last()
        .map_or(0, |last| last.sequence);
    for told in &told {
        assert_eq!(told.status, 200, "{}", told.code);
        let passed = done.get(&told.customer).is_some_and(|at| *at < told.at);
        let expected = if passed { "PASS" } else { "PENDING" };
        let right = told.said.as_deref() == Some(expected);
        // It may have turned while it was asked for.
        let turned = done.contains_key(&told.customer) && !passed;
        assert!(
            right || turned,
            "{:?}, and not {expected}, at {:?}",
            told.said,
            told.at
        );
    }
    let writes = usize::try_from(time.as_secs() * changes).unwrap();
    Load {
        told,
        calls: usize::try_from(after - calls).unwrap(),
        changes: writes,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn polling_costs_a_fraction_of_the_calls() {
    let seconds = number("POLLING_SECONDS", 0);
    let long = seconds > 0;
    let (customers, rate, changes, time) = if long {
        (
            1_000,
            number("POLLING_RATE", 500),
            5,
            Duration::from_secs(seconds),
        )
    } else {
        (50, 60, 5, Duration::from_secs(3))
    };
    // A tenth of what is configured by default, as ten minutes take one.
    let toml = "[cache]\npass_ttl = \"3s\"\nfail_ttl = \"3s\"\npending_ttl = \"200ms\"\n\
                not_found_ttl = \"200ms\"\n";
    let with = gateway(toml, false, &[]).await;
    with.simulator.set_behaviour(Behaviour {
        initial_status: Status::Pending,
        ..with.simulator.behaviour()
    });
    create(&with, customers).await;
    let cached = load(&with, (customers, rate, changes), time).await;
    // The same again, without: behind another gateway, before customers that are as they were at first.
    with.simulator.clear_customers();
    create(&with, customers).await;
    let without = beside(&with, toml, false, &[("CACHE__ENABLED", "false")]).await;
    let bare = load(&without, (customers, rate, changes), time).await;
    let mut rows = vec![
        [
            "", "asked", "calls", "hit %", "joined %", "saved %", "median",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for (name, load) in [("with", &cached), ("without", &bare)] {
        let saved = 100.0 - percent(load.calls, load.told.len() + load.changes);
        rows.push(vec![
            name.to_owned(),
            load.told.len().to_string(),
            load.calls.to_string(),
            format!("{:.1}", load.share("hit")),
            format!("{:.1}", load.share("joined")),
            format!("{saved:.1}"),
            format!("{:.1?}", load.median()),
        ]);
    }
    println!(
        "{customers} customers, {rate}/s for {time:?}, {changes} changes a second:\n{}",
        table(&rows, 11)
    );
    // Without, each is a call. With, none that was a hit is; what is asked ahead is one more.
    assert!(bare.calls >= bare.told.len());
    assert!(bare.share("hit") < 0.1);
    assert!(cached.share("hit") > 5.0, "{}", cached.share("hit"));
    assert!(cached.calls < cached.told.len() + cached.changes);
}
