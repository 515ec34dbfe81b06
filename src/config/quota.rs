//! What tenants may use: `[quota]`, and `[tenants.quota]` and `[tenants.per_subject]` of each.
//!
//! Invariant: a limit is within its bounds or a mistake was recorded; what is left out is no limit.
//! Tenants with equal limits share them, so that a long list of tenants stays small.

use std::{collections::HashSet, hash::Hash, num::NonZeroU32, sync::Arc};

use jiff::tz::{self, TimeZone};

use crate::{
    config::{
        cursor::{Context, Section},
        field::Field,
        mistake::{Mistake, nearest},
    },
    limits::{Billing, LARGEST, Limits, Rate, SubjectLimits, Tariff, calendar::Calendar},
    operation::Operation,
    tenant::Tenant,
};

/// The most that a rate, a burst or a number of requests at a time may be, and a request may cost.
const MOST: u64 = 1_000_000;
const WARN_AT: u8 = 80;

/// What `charge` may say.
const BILLING: [(&str, Billing); 2] = [("keep", Billing::Keep), ("refund", Billing::Refund)];

/// Reads `[quota]`, which holds for all tenants.
pub(super) fn tariff(mut section: Section<'_>) -> Option<Tariff> {
    let max_subjects = section.count("max_subjects", 1_000..=10_000_000);
    let mut costs = section.section("cost");
    let read = Operation::ALL.map(|operation| costs.count(operation.name(), 0..=MOST));
    costs.finish();
    let mut charge = section.section("charge");
    let refused = charge.choice("refused", &BILLING);
    let unknown = charge.choice("unknown", &BILLING);
    let unavailable = charge.choice("unavailable", &BILLING);
    charge.finish();
    section.finish();
    let mut cost = [1; Operation::ALL.len()];
    for (cost, read) in cost.iter_mut().zip(read) {
        *cost = read?;
    }
    Some(Tariff {
        cost,
        refused: refused?,
        unknown: unknown?,
        unavailable: unavailable?,
        max_subjects: max_subjects?,
    })
}

/// Warns of limits that some request never passes.
pub(super) fn warn_of_narrow(
    context: Context<'_>,
    tenants: &[Tenant],
    tariff: &Tariff,
    nodes: Option<u16>,
) {
    let warn = |tenant: &Tenant, key: &str, problem: &str, mend: &str| {
        let key = format!("tenants[{}].quota.{key}", tenant.id);
        let warning = Mistake::new(context.name, &key, problem, mend);
        context.report.warning(warning);
    };
    for tenant in tenants {
        let limits = &tenant.limits;
        let dearest = tenant.services.iter().map(|service| tariff.cost(service));
        let dearest = dearest.max().unwrap_or(0);
        for (key, limit) in [("daily", limits.daily), ("monthly", limits.monthly)] {
            if limit.is_some_and(|limit| limit < dearest) {
                let problem = "is lower than the cost of one of its services, which never passes";
                warn(tenant, key, problem, "raise it, or lower that `quota.cost`");
            }
        }
        let places = limits.concurrency.map_or(u32::MAX, NonZeroU32::get);
        if nodes.is_some_and(|nodes| places < u32::from(nodes)) {
            let problem = "is lower than `state.redis.nodes`, so gateways wait for each other";
            warn(tenant, "concurrency", problem, "raise it");
        }
    }
}

/// The limits and calendars that were read so far, each once.
#[derive(Default)]
pub(super) struct Shared {
    limits: HashSet<Arc<Limits>>,
    calendars: HashSet<Arc<Calendar>>,
}

impl Shared {
    /// Reads the two tables of a tenant. `max_body` is the largest body that is read at all.
    pub(super) fn limits(
        &mut self,
        tenant: &mut Section<'_>,
        max_body: Option<u64>,
    ) -> Option<Arc<Limits>> {
        let mut section = tenant.section("quota");
        let rate = rate(&mut section);
        let concurrency = limit(&mut section, "concurrency", several);
        let daily = limit(&mut section, "daily", |f| f.count(&(1..=LARGEST)));
        let monthly = limit(&mut section, "monthly", |f| f.count(&(1..=LARGEST)));
        let bytes_daily = limit(&mut section, "bytes_daily", |f| f.size(&(1..=LARGEST)));
        let warn_at = section.optional("warn_at");
        let warn_at = warn_at.map_or(Some(WARN_AT), |f| f.percent(&(1..=100)));
        let calendar = self.calendar(&mut section);
        if let (Ok(Some(day)), Ok(Some(month))) = (&daily, &monthly)
            && month < day
        {
            let problem = "is lower than `daily`, so no day ever reaches that";
            section.warning("monthly", problem, "raise it, or lower `daily`");
        }
        if let (Ok(Some(bytes)), Some(max_body)) = (&bytes_daily, max_body)
            && *bytes < max_body
        {
            let problem = "is smaller than `limits.max_body`, so the largest body never passes";
            section.warning("bytes_daily", problem, "raise it, or lower `max_body`");
        }
        section.finish();
        let per_subject = per_subject(tenant.section("per_subject"));
        let limits = Limits {
            rate: rate.ok()?,
            concurrency: concurrency.ok()?,
            daily: daily.ok()?,
            bytes_daily: bytes_daily.ok()?,
            monthly: monthly.ok()?,
            per_subject: per_subject?,
            warn_at: warn_at?,
            calendar: calendar?,
        };
        Some(only_one(&mut self.limits, limits))
    }

    /// When a tenant's days and months begin.
    fn calendar(&mut self, section: &mut Section<'_>) -> Option<Arc<Calendar>> {
        let zone = section.optional("time_zone");
        let zone = zone.map_or(Some(TimeZone::UTC), |f| time_zone(&f));
        let day = section.optional("billing_day");
        let day = day.map_or(Some(1), |f| f.count::<i8>(&(1..=31)));
        Some(only_one(&mut self.calendars, Calendar::new(zone?, day?)))
    }
}

/// The one of its kind that equals this.
fn only_one<T: Hash + Eq>(known: &mut HashSet<Arc<T>>, new: T) -> Arc<T> {
    if let Some(same) = known.get(&new) {
        return Arc::clone(same);
    }
    let new = Arc::new(new);
    known.insert(Arc::clone(&new));
    new
}

/// Reads what each end user of a tenant may use.
fn per_subject(mut section: Section<'_>) -> Option<SubjectLimits> {
    let rate = rate(&mut section);
    let daily = limit(&mut section, "daily", |f| f.count(&(1..=LARGEST)));
    section.finish();
    Some(SubjectLimits {
        rate: rate.ok()?,
        daily: daily.ok()?,
    })
}

/// A mistake was recorded, which is something else than a limit that is left out.
struct Recorded;

/// Reads a limit that may be left out.
fn limit<T>(
    section: &mut Section<'_>,
    key: &'static str,
    read: impl FnOnce(&Field<'_>) -> Option<T>,
) -> Result<Option<T>, Recorded> {
    let field = section.optional(key);
    field.map(|f| read(&f).ok_or(Recorded)).transpose()
}

/// Reads `rate` and `burst`.
fn rate(section: &mut Section<'_>) -> Result<Option<Rate>, Recorded> {
    let written = limit(section, "rate", |f| {
        let (count, period) = f.rate(&(1..=MOST))?;
        Some((NonZeroU32::new(count)?, period))
    });
    let burst = limit(section, "burst", several);
    if let (Ok(None), Ok(Some(_))) = (&written, &burst) {
        let problem = "has no meaning without `rate`";
        section.mistake("burst", problem, "remove it, or write `rate` beside it");
        return Err(Recorded);
    }
    let (written, burst) = (written?, burst?);
    Ok(written.map(|(count, period)| Rate::new(count, period, burst)))
}

fn several(field: &Field<'_>) -> Option<NonZeroU32> {
    NonZeroU32::new(field.count(&(1..=MOST))?)
}

fn time_zone(field: &Field<'_>) -> Option<TimeZone> {
    let name = field.text()?;
    // The one that most tenants have, without a look into the system's zones.
    if name == "UTC" {
        return Some(TimeZone::UTC);
    }
    let zone = tz::db().get(name).ok();
    if zone.is_none() {
        let known: Vec<String> = tz::db().available().map(|n| n.to_string()).collect();
        let hint = nearest(name, known.iter().map(String::as_str));
        let hint = hint.map_or_else(String::new, |hint| format!("; did you mean `{hint}`?"));
        let mend = format!("write an IANA name such as \"America/New_York\"{hint}");
        field.mistake("is not a time zone that is known here", &mend);
    }
    zone
}
