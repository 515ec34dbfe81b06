//! A tenant's accounts and portions in Redis, which several nodes share: all of a tenant's limits in one
//! call of one script, on Redis's own clock.
//!
//! Keys carry the tenant as a hash tag, so that they are in one slot of a cluster. What is kept there
//! are numbers and tenants' ids, nothing of a person.

use jiff::{civil::Date, tz::TimeZone};
use redis::Value;

use super::{
    account::{Account, Kind, Op, Seen, Tally, Told, Which},
    book::{Answered, Exchange},
    portion::{PLACES_KEPT, PortionOp, PortionTold},
    subjects::fill_time,
};
use crate::{
    ident::{Pseudonym, TenantId},
    limits::Rate,
    store::{
        StoreError,
        redis::{Redis, Script},
    },
};

static EXCHANGE: Script = Script::new(include_str!("exchange.lua"));

/// How long accounts are kept after the last report, in seconds: a day's 40 days, a month's 25 months.
const DAY_KEPT: u64 = 40 * 86_400;
const MONTH_KEPT: u64 = 25 * 31 * 86_400;
/// How long portions are, in microseconds, where the rate does not need longer.
const PORTION_KEPT: u64 = 86_400_000_000;

/// How many numbers come back of a portion, and of an account.
const OF_PORTION: usize = 4;
const OF_ACCOUNT: usize = 14;

/// Takes one tenant's exchange to Redis.
pub(super) async fn exchange(
    redis: &Redis,
    tenant: &TenantId,
    (node, nodes): (u64, u32),
    exchange: &Exchange,
) -> Result<Answered, StoreError> {
    let prefix = redis.prefix();
    let mut keys = Vec::with_capacity(1 + exchange.ops.len());
    let mut args = Numbers(Vec::with_capacity(64));
    let ops = u64::try_from(exchange.ops.len()).unwrap_or(0);
    let portions = u64::from(exchange.portion.is_some());
    args.extend([node, u64::from(nodes), portions, ops]);
    if let Some(portion) = &exchange.portion {
        keys.push(format!("{prefix}quota:{{{tenant}}}:portions").into_bytes());
        args.portion(portion);
    }
    for op in &exchange.ops {
        keys.push(account_key(prefix, tenant, op.which));
        args.account(op);
    }
    let answer = redis.invoke(&EXCHANGE, &keys, &args.0).await?;
    understood(&answer, exchange).ok_or(StoreError::Damaged)
}

fn account_key(prefix: &str, tenant: &TenantId, which: Which) -> Vec<u8> {
    format!("{prefix}quota:{{{tenant}}}:{which}").into_bytes()
}

/// Arguments of the script.
struct Numbers(Vec<Vec<u8>>);

impl Numbers {
    fn extend(&mut self, numbers: impl IntoIterator<Item = u64>) {
        let texts = numbers.into_iter().map(|number| number.to_string());
        self.0.extend(texts.map(String::into_bytes));
    }

    fn portion(&mut self, op: &PortionOp) {
        let (count, period, burst) = op.rate.unwrap_or_default();
        let (most, want) = op.concurrency.unwrap_or_default();
        self.extend([op.seq, count, period, burst, u64::from(op.seen)]);
        self.extend([op.back, op.debt, op.want, PORTION_KEPT]);
        self.extend([most, want, PLACES_KEPT]);
    }

    fn account(&mut self, op: &Op) {
        let kept = match op.which.kind {
            Kind::Day => DAY_KEPT,
            Kind::Month => MONTH_KEPT,
        };
        self.extend([op.seq, u64::from(op.warn_at), kept]);
        for limit in op.limit {
            match limit {
                Some(limit) => self.extend([limit]),
                None => self.0.push(b"-1".to_vec()),
            }
        }
        let report = &op.report;
        for measures in [report.back, report.debt, report.grant] {
            self.extend(measures);
        }
        self.extend([report.grant_name.unwrap_or(0)]);
        self.extend(op.want);
        self.extend(op.need);
        self.extend(op.holds);
        self.extend([op.seen.epoch, op.seen.version]);
        self.extend(op.seen.taken);
        self.extend(op.seen.extra);
        let tally: Vec<u64> = report.tally.numbers().collect();
        if report.tally.is_empty() {
            self.extend([0]);
        } else {
            self.extend([u64::try_from(tally.len()).unwrap_or(0)]);
            self.extend(tally);
        }
    }
}

/// What the script's numbers mean; nothing where they are not what it returns.
fn understood(answer: &Value, exchange: &Exchange) -> Option<Answered> {
    let numbers = numbers(answer)?;
    let portions = if exchange.portion.is_some() {
        OF_PORTION
    } else {
        0
    };
    let (portion, accounts) = numbers.split_at_checked(portions)?;
    let portion = match *portion {
        [tokens, wait, left, places] => Some(PortionTold {
            tokens,
            wait,
            left,
            places,
        }),
        _ => None,
    };
    let told: Vec<Told> = accounts
        .chunks(OF_ACCOUNT)
        .map(of_account)
        .collect::<Option<_>>()?;
    (told.len() == exchange.ops.len()).then_some(Answered { told, portion })
}

fn of_account(numbers: &[u64]) -> Option<Told> {
    let (counts, held) = numbers.split_at_checked(OF_ACCOUNT - 4)?;
    let [g0, g1, t0, t1, x0, x1, c0, c1, epoch, version] = *counts else {
        return None;
    };
    let [held, parts, part0, part1] = *held else {
        return None;
    };
    Some(Told {
        given: [g0, g1],
        held: held > 0,
        part: (parts > 0).then_some([part0, part1]),
        seen: Seen {
            epoch,
            version,
            taken: [t0, t1],
            extra: [x0, x1],
        },
        crossed: [c0 > 0, c1 > 0],
        ..Told::default()
    })
}

/// What is asked about one end user.
#[derive(Debug, Clone, Copy)]
pub(super) struct SubjectOp {
    /// Whether its rate is asked to let a request through.
    pub(super) rate: Option<Rate>,
    /// Its day's name and limit, and what is taken of it; negative where it is given back.
    pub(super) day: Option<(Date, u64, i64)>,
}

/// What Redis says of an end user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SubjectTold {
    pub(super) allowed: bool,
    /// After how many microseconds the rate lets another through, and in how many it is full.
    pub(super) wait: u64,
    pub(super) fills_in: u64,
    /// What is used of the day.
    pub(super) used: u64,
}

static SUBJECT: Script = Script::new(include_str!("subject.lua"));

/// How long an end user is remembered, in seconds: a day of any time zone, and longer for a slow rate.
const SUBJECT_KEPT: u64 = 2 * 86_400;

/// Asks about one end user, who has this pseudonym.
pub(super) async fn subject(
    redis: &Redis,
    tenant: &TenantId,
    subject: Pseudonym,
    op: &SubjectOp,
) -> Result<SubjectTold, StoreError> {
    let key = format!("{}quota:{{{tenant}}}:subject:{subject}", redis.prefix());
    let mut args = Numbers(Vec::with_capacity(7));
    let of_rate = |rate: &Rate| {
        let period = u64::try_from(rate.period.as_micros()).unwrap_or(u64::MAX);
        [
            u64::from(rate.count.get()),
            period,
            u64::from(rate.burst.get()),
        ]
    };
    args.extend(op.rate.as_ref().map_or([0; 3], of_rate));
    let (day, limit, units) = match op.day {
        Some((day, limit, units)) => (number_of(day).to_string(), limit.to_string(), units),
        None => ("0".to_owned(), "-1".to_owned(), 0),
    };
    let texts = [day, limit, units.to_string()];
    args.0.extend(texts.map(String::into_bytes));
    let fills_in = op.rate.map_or(0, |rate| fill_time(&rate).as_secs());
    args.extend([SUBJECT_KEPT.max(fills_in.saturating_add(1))]);
    let answer = redis.invoke(&SUBJECT, &[key.into_bytes()], &args.0).await?;
    let numbers = numbers(&answer).ok_or(StoreError::Damaged)?;
    let [allowed, wait, fills_in, used] = *numbers else {
        return Err(StoreError::Damaged);
    };
    Ok(SubjectTold {
        allowed: allowed > 0,
        wait,
        fills_in,
        used,
    })
}

/// A day as a number that is one more for the next.
fn number_of(day: Date) -> i64 {
    let midnight = day.to_zoned(TimeZone::UTC);
    midnight.map_or(0, |zoned| zoned.timestamp().as_second().div_euclid(86_400))
}

fn numbers(answer: &Value) -> Option<Box<[u64]>> {
    let Value::Array(values) = answer else {
        return None;
    };
    let number = |value: &Value| {
        let Value::Int(number) = value else {
            return None;
        };
        u64::try_from(*number).ok()
    };
    values.iter().map(number).collect()
}

/// What an account holds, for a statement.
pub(super) async fn read(
    redis: &Redis,
    tenant: &TenantId,
    which: Which,
) -> Result<Option<Account>, StoreError> {
    let key = account_key(redis.prefix(), tenant, which);
    let answer = redis.invoke(&READ, &[key], &[]).await?;
    let Value::Array(values) = answer else {
        return Err(StoreError::Damaged);
    };
    let number = |value: &Value| {
        if *value == Value::Nil {
            return Some(0);
        }
        let Value::BulkString(text) = value else {
            return None;
        };
        std::str::from_utf8(text).ok()?.parse().ok()
    };
    let numbers: Option<Vec<u64>> = values.iter().map(number).collect();
    let numbers = numbers.ok_or(StoreError::Damaged)?;
    let [epoch, taken, bytes, extra, extra_bytes, tally @ ..] = numbers.as_slice() else {
        return Ok(None);
    };
    let mut account = Account::default();
    account.which = Some(which);
    account.taken = [*taken, *bytes];
    account.extra = [*extra, *extra_bytes];
    account.tally = Tally::of(tally.iter().copied());
    Ok((*epoch > 0).then_some(account))
}

static READ: Script = Script::new(
    "local fields = { 'e', 'r', 'b', 'x', 'y' }\n\
     for i = 1, 22 do fields[#fields + 1] = 't' .. i end\n\
     return redis.call('HMGET', KEYS[1], unpack(fields))",
);
