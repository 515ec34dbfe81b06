//! What a tenant may use, as configured: how fast, how much at a time, how much a day and a month.
//!
//! Invariant: a limit is never zero and never so large that counting towards it could overflow. Nothing
//! here counts; `quota` does, with the arithmetic of `bucket`.

pub(crate) mod bucket;
pub mod calendar;

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use jiff::tz::TimeZone;

use self::calendar::Calendar;
use crate::operation::Operation;

/// The most that a daily or monthly limit may be, so that sums of them fit every type on the way
/// (a double among them, which counts whole numbers up to 2^53).
pub const LARGEST: u64 = 1_000_000_000_000_000;

/// A limit's name, in headers, metrics, answers and audit events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Policy {
    /// Requests per second, minute or hour.
    Rate,
    /// Requests at a time.
    Concurrency,
    /// Requests per day, weighted.
    Daily,
    /// Bytes of request bodies per day.
    BytesDaily,
    /// Requests per billing month, weighted.
    Monthly,
    /// `Rate` of one end user.
    SubjectRate,
    /// `Daily` of one end user.
    SubjectDaily,
}

impl Policy {
    /// Every limit there is.
    pub const ALL: [Self; 7] = [
        Self::Rate,
        Self::Concurrency,
        Self::Daily,
        Self::BytesDaily,
        Self::Monthly,
        Self::SubjectRate,
        Self::SubjectDaily,
    ];

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Concurrency => "concurrency",
            Self::Daily => "daily",
            Self::BytesDaily => "bytes_daily",
            Self::Monthly => "monthly",
            Self::SubjectRate => "subject_rate",
            Self::SubjectDaily => "subject_daily",
        }
    }
}

/// So many requests per so much time, and so many at once after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// How many.
    pub count: NonZeroU32,
    /// Per how much time: a second, a minute or an hour.
    pub period: Duration,
    /// How many may come at once.
    pub burst: NonZeroU32,
}

impl Rate {
    /// A rate whose burst, where none is said, is what one second is worth, and at least one.
    pub fn new(count: NonZeroU32, period: Duration, burst: Option<NonZeroU32>) -> Self {
        let a_second = u64::from(count.get()) / period.as_secs().max(1);
        let a_second = u32::try_from(a_second).ok().and_then(NonZeroU32::new);
        Self {
            count,
            period,
            burst: burst.or(a_second).unwrap_or(NonZeroU32::MIN),
        }
    }
}

/// The limits of one tenant; what is absent is not limited.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Limits {
    /// How fast.
    pub rate: Option<Rate>,
    /// How many at a time.
    pub concurrency: Option<NonZeroU32>,
    /// How much a day.
    pub daily: Option<u64>,
    /// How many bytes of request bodies a day.
    pub bytes_daily: Option<u64>,
    /// How much a billing month.
    pub monthly: Option<u64>,
    /// What each of its end users may use.
    pub per_subject: SubjectLimits,
    /// Of a hundred parts of a day's or month's limit, after how many somebody is told.
    pub warn_at: u8,
    /// When its days and months begin.
    pub calendar: Arc<Calendar>,
}

impl Limits {
    /// No limit at all, and days of Greenwich.
    pub fn unlimited() -> Self {
        Self {
            rate: None,
            concurrency: None,
            daily: None,
            bytes_daily: None,
            monthly: None,
            per_subject: SubjectLimits::default(),
            warn_at: 80,
            calendar: Arc::new(Calendar::new(TimeZone::UTC, 1)),
        }
    }
}

/// The limits of each end user of a tenant, by the token's subject. Tokens without a subject share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SubjectLimits {
    /// How fast.
    pub rate: Option<Rate>,
    /// How much a day.
    pub daily: Option<u64>,
}

impl SubjectLimits {
    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.rate.is_none() && self.daily.is_none()
    }
}

/// What a request costs of `daily` and `monthly`, and when it is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tariff {
    /// Of each service, in the order of [`Operation::ALL`].
    pub cost: [u32; Operation::ALL.len()],
    /// Whether DCAMS's refusal of the data is charged.
    pub refused: Billing,
    /// Whether a request is charged of which nobody knows whether it was done.
    pub unknown: Billing,
    /// Whether one is charged that DCAMS answered with 429 or 503.
    pub unavailable: Billing,
    /// Most end users that are told apart, of all tenants together.
    pub max_subjects: usize,
}

impl Tariff {
    /// What one request for this service costs.
    pub fn cost(&self, operation: Operation) -> u64 {
        let place = Operation::ALL.iter().position(|o| *o == operation);
        let cost = place.and_then(|place| self.cost.get(place));
        cost.copied().map_or(1, u64::from)
    }
}

/// What becomes of a charge when the request has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Billing {
    /// It stays.
    Keep,
    /// It is given back.
    Refund,
}
