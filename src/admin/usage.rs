//! `/api/usage`: what tenants may use and have used, more for one of them, the month's statement.
//!
//! Invariant: numbers come from the store; where it does not answer the answer says so, and a statement
//! is not given at all. Whoever reads or grants leaves an audit event, and nothing is granted where
//! that cannot be written.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
    slice,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::try_join_all;
use http::{Method, StatusCode, request::Parts};
use http_body::Body;
use jiff::{Timestamp, civil::Date, tz::TimeZone};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::api::{Answer, BoxError, Refusal, not_allowed, read};
use crate::{
    audit::operator::{About, Action, Found, Scribe, Unrecorded},
    clock,
    ident::{AccountId, GrantId, InvalidName, TenantId},
    limits::{
        Limits,
        calendar::{Calendar, Month, NoMonth},
    },
    quota::{Grant, GrantError, Quotas, Standing, Sums, TenantQuota, Wanted},
    reply::unit,
    store::StoreError,
    tenant::Tenant,
};

/// Most tenants in one answer.
pub(crate) const PAGE: usize = 1000;
/// For how many months before this one statements are given; their accounts are kept a little longer.
const MONTHS: i32 = 24;
/// How far the earliest time zone is ahead of UTC.
const EARLIEST: Duration = Duration::from_hours(14);

const GRANT: &str = "`policy`, `amount` and, if wanted, `id`";

/// The quotas, and the tenants that are configured.
pub struct Desk {
    /// What tenants have used.
    pub quotas: Quotas,
    tenants: BTreeMap<TenantId, Known>,
}

struct Known {
    account: AccountId,
    limits: Arc<Limits>,
}

/// What is to be granted.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GrantRequest {
    pub(crate) policy: String,
    pub(crate) amount: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
}

/// How tenants stand.
#[derive(Debug, Serialize)]
pub(crate) struct Usage {
    tenants: Vec<Used>,
    /// Whether the store did not answer, so that this is what the node knew before.
    stale: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<TenantId>,
}

#[derive(Debug, Serialize)]
struct Used {
    tenant: TenantId,
    time_zone: String,
    limits: Vec<UsedLimit>,
}

#[derive(Debug, Serialize)]
struct UsedLimit {
    policy: &'static str,
    unit: &'static str,
    limit: u64,
    granted: u64,
    used: u64,
    left: u64,
    resets_at: Option<Timestamp>,
}

/// What came of a grant.
#[derive(Debug, Serialize)]
pub(crate) struct Granted {
    /// False where one with the same id was made before.
    counted: bool,
    #[serde(flatten)]
    used: Used,
}

/// A month's statement, or a page of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Statement {
    pub(crate) month: String,
    pub(crate) tenants: Vec<Billed>,
    /// Of the tenants that are listed.
    pub(crate) total: Sums,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<TenantId>,
}

/// A tenant's billing month.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Billed {
    pub(crate) tenant: TenantId,
    /// The Veratad account that it uses; none where the tenant is not configured any more.
    pub(crate) account: Option<AccountId>,
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
    pub(crate) time_zone: String,
    #[serde(flatten)]
    pub(crate) sums: Sums,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum UsageError {
    #[error(transparent)]
    Grant(#[from] GrantError),
    #[error("`id`: {InvalidName}")]
    Id,
    #[error("`month`: {0}")]
    Month(#[from] NoMonth),
    #[error("that month has not begun")]
    NotBegun,
    #[error("statements go back {MONTHS} months: what was before that is not kept")]
    NotKept,
    #[error("the query takes {0}, each as name=value")]
    Query(&'static str),
    #[error("send `month`, such as ?month=2026-11")]
    NoMonth,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("`tenant`: {InvalidName}")]
    Tenant,
    #[error(transparent)]
    Unrecorded(#[from] Unrecorded),
    #[error("no such tenant is configured: `dcams-gateway usage show` lists them")]
    Unknown,
}

impl UsageError {
    /// Whether the same may be done later without another word.
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::Unknown => StatusCode::NOT_FOUND,
            Self::Unrecorded(_)
            | Self::Store(_)
            | Self::Grant(GrantError::Unavailable | GrantError::Unknown) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Grant(GrantError::NoLimit | GrantError::TooMuch) => StatusCode::CONFLICT,
            Self::Grant(GrantError::Amount | GrantError::Policy)
            | Self::Id
            | Self::Month(_)
            | Self::NoMonth
            | Self::NotBegun
            | Self::NotKept
            | Self::Query(_)
            | Self::Tenant => StatusCode::BAD_REQUEST,
        }
    }
}

impl From<UsageError> for Refusal {
    fn from(error: UsageError) -> Self {
        if let UsageError::Unrecorded(why) = error {
            return why.into();
        }
        Self::new(error.status(), error.to_string())
    }
}

/// What stands behind `/api/usage` in a path.
pub(super) fn below(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/api/usage")?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

/// Answers one request there.
pub(super) async fn answer<B>(
    desk: &Desk,
    scribe: Scribe<'_>,
    rest: &str,
    parts: &Parts,
    body: B,
) -> Answer
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    let query = parts.uri.query().unwrap_or_default();
    match (rest, &parts.method) {
        ("", &Method::GET) => {
            let asked = Asked::read(query, "`tenant` once, and `after`", false)?;
            let tenant = asked.tenants.first();
            let usage = desk.show(scribe, tenant, asked.after.as_ref()).await?;
            Ok(document(&usage))
        }
        ("/statement", &Method::GET) => {
            let asked = Asked::read(query, "`month`, `after`, and `tenant` for each", true)?;
            let month = asked.month.ok_or(UsageError::NoMonth)?;
            let after = asked.after.as_ref();
            let statement = desk.statement(scribe, month, &asked.tenants, after);
            Ok(document(&statement.await?))
        }
        ("" | "/statement", _) => Err(not_allowed("GET")),
        (rest, method) => {
            let tenant = rest
                .strip_prefix('/')
                .and_then(|rest| rest.strip_suffix("/grant"));
            let tenant = tenant
                .filter(|tenant| !tenant.contains('/'))
                .ok_or_else(|| {
                    let detail =
                        "served here: /api/usage, /api/usage/statement, /api/usage/TENANT/grant";
                    Refusal::new(StatusCode::NOT_FOUND, detail)
                })?;
            if *method != Method::POST {
                return Err(not_allowed("POST"));
            }
            let request: GrantRequest = read(&parts.headers, body, GRANT).await?;
            let granted = desk.grant(scribe, tenant, request.parse()?).await?;
            Ok(document(&granted))
        }
    }
}

/// Texts, times and numbers: making a document of them has nothing to fail on.
fn document(content: &impl Serialize) -> (StatusCode, serde_json::Value) {
    (
        StatusCode::OK,
        serde_json::to_value(content).unwrap_or_default(),
    )
}

/// What a query asks for.
struct Asked {
    tenants: Vec<TenantId>,
    after: Option<TenantId>,
    month: Option<Month>,
}

impl Asked {
    /// Reads a query of names and values that need no escapes. A statement may be about several tenants.
    fn read(query: &str, takes: &'static str, statement: bool) -> Result<Self, UsageError> {
        let mut asked = Self {
            tenants: Vec::new(),
            after: None,
            month: None,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let wrong = UsageError::Query(takes);
            let (name, value) = pair.split_once('=').ok_or(wrong)?;
            let tenant = |value| TenantId::try_from(value).map_err(|_| UsageError::Tenant);
            match name {
                "after" if asked.after.is_none() => asked.after = Some(tenant(value)?),
                "month" if statement && asked.month.is_none() => asked.month = Some(value.parse()?),
                "tenant" if statement || asked.tenants.is_empty() => {
                    asked.tenants.push(tenant(value)?);
                }
                _ => return Err(wrong),
            }
        }
        Ok(asked)
    }
}

/// Writes down that an operator reads something of these tenants, or of all.
async fn tells(
    scribe: Scribe<'_>,
    action: Action,
    tenants: &[TenantId],
    month: Option<&str>,
) -> Result<(), Unrecorded> {
    let named = tenants.iter().map(|tenant| Some(tenant.as_str()));
    let all = tenants.is_empty().then_some(None);
    let told = all.into_iter().chain(named).map(|tenant| {
        let about = About {
            tenant,
            month,
            ..About::default()
        };
        scribe.tells(action, about)
    });
    // All at a time: they share their way to the disk.
    try_join_all(told).await.map(|_| ())
}

impl GrantRequest {
    pub(crate) fn parse(&self) -> Result<Grant, UsageError> {
        let id = self.id.as_deref().map(GrantId::try_from).transpose();
        let id = id.map_err(|_| UsageError::Id)?;
        Ok(Grant::new(&self.policy, self.amount, id.as_ref())?)
    }
}

impl Granted {
    fn of(
        tenant: &str,
        counted: bool,
        quota: &TenantQuota,
        limits: &Limits,
    ) -> Result<Self, UsageError> {
        let tenant = TenantId::try_from(tenant).map_err(|_| UsageError::Tenant)?;
        let used = Used::of(&tenant, quota, limits, clock::now());
        Ok(Self { counted, used })
    }
}

impl Desk {
    /// What there is to say about these tenants.
    pub(crate) fn new(quotas: Quotas, tenants: &[Tenant]) -> Self {
        let known = |tenant: &Tenant| {
            let (account, limits) = (tenant.account.clone(), Arc::clone(&tenant.limits));
            (tenant.id.clone(), Known { account, limits })
        };
        Self {
            quotas,
            tenants: tenants.iter().map(known).collect(),
        }
    }

    /// How one tenant stands, or a page of all, from behind a name.
    pub(crate) async fn show(
        &self,
        scribe: Scribe<'_>,
        tenant: Option<&TenantId>,
        after: Option<&TenantId>,
    ) -> Result<Usage, UsageError> {
        let (shown, next) = match tenant {
            Some(tenant) => {
                let known = self.tenants.get_key_value(tenant);
                (vec![known.ok_or(UsageError::Unknown)?], None)
            }
            None => self.page(after),
        };
        let quota = |(id, known): &(&TenantId, &Known)| self.quotas.of(id, &known.limits);
        let quotas: Vec<TenantQuota> = shown.iter().map(quota).collect();
        let fresh = self.quotas.survey(&quotas).await;
        let now = clock::now();
        let used = shown.into_iter().zip(&quotas);
        let used = used.map(|((id, known), quota)| Used::of(id, quota, &known.limits, now));
        tells(
            scribe,
            Action::UsageRead,
            tenant.map_or(&[], slice::from_ref),
            None,
        )
        .await?;
        Ok(Usage {
            tenants: used.collect(),
            stale: !fresh,
            next,
        })
    }

    /// Grants a tenant more.
    pub(crate) async fn grant(
        &self,
        scribe: Scribe<'_>,
        tenant: &str,
        grant: Grant,
    ) -> Result<Granted, UsageError> {
        let (quota, limits) = self.quota(tenant)?;
        let (policy, amount) = (grant.policy.name(), grant.amount);
        let about = About {
            tenant: Some(tenant),
            policy: Some(policy),
            amount: Some(amount),
            ..About::default()
        };
        let act = scribe.begins(Action::UsageGrant, about).await?;
        let granted = quota.grant(grant).await;
        let result = match granted {
            Ok(true) => "granted",
            Ok(false) => "granted_before",
            Err(GrantError::Unknown) => "unknown",
            Err(_) => "refused",
        };
        act.ends(result, Found::default()).await;
        tracing::info!(
            tenant.id = tenant,
            policy,
            amount,
            result,
            "an operator grants more"
        );
        let counted = granted?;
        Granted::of(tenant, counted, &quota, &limits)
    }

    /// The statement of some tenants, or of a page of all, from behind a name.
    pub(crate) async fn statement(
        &self,
        scribe: Scribe<'_>,
        month: Month,
        named: &[TenantId],
        after: Option<&TenantId>,
    ) -> Result<Statement, UsageError> {
        within_reach(month, clock::now())?;
        let (tenants, next) = if named.is_empty() {
            let (page, next) = self.page(after);
            (page.into_iter().map(|(id, _)| id.clone()).collect(), next)
        } else {
            (named.to_vec(), None)
        };
        let all: Vec<Months> = tenants
            .into_iter()
            .map(|id| self.months(id, month))
            .collect();
        let read = self.quotas.months(all.iter().map(Months::wanted).collect());
        let mut billed = Vec::new();
        for (months, used) in all.into_iter().zip(read.await?) {
            billed.extend(months.billed(used.0));
        }
        let mut total = Sums::default();
        for billed in &billed {
            total += &billed.sums;
        }
        let month = month.to_string();
        tells(scribe, Action::StatementRead, named, Some(&month)).await?;
        Ok(Statement {
            month,
            tenants: billed,
            total,
            next,
        })
    }

    fn page(&self, after: Option<&TenantId>) -> (Vec<(&TenantId, &Known)>, Option<TenantId>) {
        let from = after.map_or(Unbounded, Excluded);
        let mut rest = self.tenants.range::<TenantId, _>((from, Unbounded));
        let page: Vec<_> = rest.by_ref().take(PAGE).collect();
        let more = rest.next().is_some();
        let last = page.last().filter(|_| more);
        let next = last.map(|(id, _)| (*id).clone());
        (page, next)
    }

    fn quota(&self, tenant: &str) -> Result<(TenantQuota, Arc<Limits>), UsageError> {
        let known = self.tenants.get_key_value(tenant);
        let (id, known) = known.ok_or(UsageError::Unknown)?;
        let quota = self.quotas.of(id, &known.limits);
        Ok((quota, Arc::clone(&known.limits)))
    }

    fn months(&self, tenant: TenantId, month: Month) -> Months {
        let known = self.tenants.get(&tenant);
        let calendar = known.map(|known| Arc::clone(&known.limits.calendar));
        Months {
            calendar: calendar.unwrap_or_else(|| Arc::new(Calendar::new(TimeZone::UTC, 1))),
            account: known.map(|known| known.account.clone()),
            tenant,
            month,
        }
    }
}

/// The billing months of a tenant that may begin in a calendar month: one, or several where its billing
/// day was changed.
struct Months {
    tenant: TenantId,
    account: Option<AccountId>,
    calendar: Arc<Calendar>,
    month: Month,
}

impl Months {
    fn wanted(&self) -> Wanted {
        let firsts = self.calendars().map(|calendar| self.first(&calendar));
        Wanted {
            tenant: self.tenant.clone(),
            firsts: firsts.collect(),
        }
    }

    /// The one that is configured, and those with something in them.
    fn billed(self, used: Vec<Option<Sums>>) -> Vec<Billed> {
        let ours = self.first(&self.calendar);
        let mut billed = Vec::new();
        for (calendar, sums) in self.calendars().zip(used) {
            let period = calendar.month_of(self.month);
            let something = sums.is_some_and(|sums| sums != Sums::default());
            if period.first != ours && !something {
                continue;
            }
            billed.push(Billed {
                tenant: self.tenant.clone(),
                account: self.account.clone(),
                from: period.start,
                to: period.end,
                time_zone: calendar.zone().to_owned(),
                sums: sums.unwrap_or_default(),
            });
        }
        billed
    }

    /// One for each day of the month: what was written under another billing day is not lost.
    fn calendars(&self) -> impl Iterator<Item = Calendar> {
        let days = 1..=self.month.days();
        days.map(|day| self.calendar.billed_on(day))
    }

    fn first(&self, calendar: &Calendar) -> Date {
        calendar.month_of(self.month).first
    }
}

fn within_reach(month: Month, now: Timestamp) -> Result<(), UsageError> {
    let latest = now.checked_add(EARLIEST).unwrap_or(now);
    if month.since(Month::of(latest)) > 0 {
        return Err(UsageError::NotBegun);
    }
    if Month::of(now).since(month) > MONTHS {
        return Err(UsageError::NotKept);
    }
    Ok(())
}

impl Used {
    fn of(tenant: &TenantId, quota: &TenantQuota, limits: &Limits, now: Timestamp) -> Self {
        let used = |standing: &Standing| UsedLimit {
            policy: standing.policy.name(),
            unit: unit(standing.policy).unwrap_or("requests"),
            limit: standing.limit,
            granted: standing.granted,
            used: standing.used,
            left: standing.left,
            resets_at: standing.resets_at(now),
        };
        Self {
            tenant: tenant.clone(),
            time_zone: limits.calendar.zone().to_owned(),
            limits: quota.limits().iter().map(used).collect(),
        }
    }
}
