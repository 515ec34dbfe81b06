//! When a tenant's days and billing months begin and end. Pure: takes `now`.
//!
//! Invariant: every moment lies in exactly one day and one month of a calendar, and the next one begins
//! where it ends. A billing day that a month does not have is its last day; the month after has the
//! day again. Days are those of the clock on the wall, so one of them may have 23 or 25 hours.

use std::{fmt, str::FromStr};

use jiff::{Span, Timestamp, civil::Date, tz::TimeZone};
use thiserror::Error;

/// When days and months begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calendar {
    zone: TimeZone,
    billing_day: i8,
}

impl std::hash::Hash for Calendar {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.zone.iana_name().hash(state);
        self.billing_day.hash(state);
    }
}

/// A day or a billing month.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// Its first day.
    pub first: Date,
    /// When it begins.
    pub start: Timestamp,
    /// When the next one begins.
    pub end: Timestamp,
}

/// A calendar month, such as 2026-11.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Month {
    first: Date,
}

/// Not such a month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a month is a year and a month, such as 2026-11")]
pub struct NoMonth;

impl FromStr for Month {
    type Err = NoMonth;

    fn from_str(text: &str) -> Result<Self, NoMonth> {
        let (year, month) = text.split_once('-').ok_or(NoMonth)?;
        let digits = |text: &str, count| {
            text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit())
        };
        if !digits(year, 4) || !digits(month, 2) {
            return Err(NoMonth);
        }
        let (year, month) = (year.parse(), month.parse());
        let first = Date::new(year.map_err(|_| NoMonth)?, month.map_err(|_| NoMonth)?, 1);
        let first = first.map_err(|_| NoMonth)?;
        Ok(Self { first })
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.first.year(), self.first.month())
    }
}

impl Month {
    /// The calendar month in which a moment lies, by UTC.
    pub fn of(now: Timestamp) -> Self {
        let today = TimeZone::UTC.to_datetime(now).date();
        Self {
            first: today.first_of_month(),
        }
    }

    /// How many months later than another one it is.
    pub fn since(self, other: Self) -> i32 {
        let months =
            |month: Self| i32::from(month.first.year()) * 12 + i32::from(month.first.month());
        months(self) - months(other)
    }

    /// How many days it has.
    pub fn days(self) -> i8 {
        self.first.days_in_month()
    }
}

impl Period {
    /// Whether it is not over, and not to come.
    pub fn contains(&self, now: Timestamp) -> bool {
        self.start <= now && now < self.end
    }
}

impl Calendar {
    /// Days of this zone, months that begin on this day of it (1 to 31).
    pub fn new(zone: TimeZone, billing_day: i8) -> Self {
        Self {
            zone,
            billing_day: billing_day.clamp(1, 31),
        }
    }

    /// The zone's name, as it is configured.
    pub fn zone(&self) -> &str {
        self.zone.iana_name().unwrap_or("UTC")
    }

    /// The day in which this moment lies.
    pub fn day(&self, now: Timestamp) -> Period {
        let first = self.zone.to_datetime(now).date();
        self.period(first, first.tomorrow().unwrap_or(first))
    }

    /// The billing month in which this moment lies.
    pub fn month(&self, now: Timestamp) -> Period {
        let today = self.zone.to_datetime(now).date();
        let this = self.anchor(today);
        let first = if this <= today {
            this
        } else {
            self.anchor(shifted(today, -1))
        };
        self.period(first, self.anchor(shifted(first, 1)))
    }

    /// The billing month that begins in this calendar month.
    pub fn month_of(&self, month: Month) -> Period {
        let first = self.anchor(month.first);
        self.period(first, self.anchor(shifted(first, 1)))
    }

    /// The same days, with months that begin on another one of them.
    #[must_use]
    pub fn billed_on(&self, billing_day: i8) -> Self {
        Self::new(self.zone.clone(), billing_day)
    }

    /// The billing day in the calendar month of this date.
    fn anchor(&self, date: Date) -> Date {
        let day = self.billing_day.min(date.days_in_month());
        Date::new(date.year(), date.month(), day).unwrap_or(date)
    }

    fn period(&self, first: Date, next: Date) -> Period {
        Period {
            first,
            start: self.beginning(first),
            end: self.beginning(next),
        }
    }

    /// The first moment of a date: where midnight is left out for summer time, what follows it.
    fn beginning(&self, date: Date) -> Timestamp {
        let midnight = date.to_zoned(self.zone.clone());
        let first = midnight.and_then(|zoned| zoned.start_of_day());
        first.map_or(Timestamp::MAX, |zoned| zoned.timestamp())
    }
}

/// A date in the month before or after: its first day, so that no day is missing there.
fn shifted(date: Date, months: i64) -> Date {
    let first = date.first_of_month();
    first
        .checked_add(Span::new().months(months))
        .unwrap_or(first)
}

#[cfg(test)]
mod tests;
