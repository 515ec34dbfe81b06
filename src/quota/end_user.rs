//! One end user of a tenant on the way of one request: counted in memory, or in Redis where several nodes
//! share it. What Redis says is noted in memory, so that headers are true, and a node that finds it away
//! goes on from there.

use std::{sync::Arc, time::Duration};

use jiff::{Timestamp, civil::Date};

use super::{
    Denied, Inner, QuotaError, between,
    debts::Debt,
    redis::{self, SubjectOp, SubjectTold},
    subjects::{Known, SubjectKey},
};
use crate::{
    ident::{Pseudonym, TenantId},
    limits::{Limits, Policy},
    store::{StoreError, redis::settings::OnStoreFailure},
};

/// An end user.
pub(super) struct EndUser {
    pub(super) key: SubjectKey,
    /// Its name in Redis, where there is one.
    pub(super) name: Option<Pseudonym>,
    pub(super) tenant: TenantId,
    pub(super) limits: Arc<Limits>,
    pub(super) quotas: Arc<Inner>,
    /// Most end users that are told apart in memory.
    pub(super) room: usize,
}

/// What was taken of an end user's day.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    units: u64,
    /// The day's name in Redis, where it is counted there.
    day: Date,
    day_ends: Timestamp,
}

impl EndUser {
    /// Decides on its rate.
    pub(super) async fn admit(&self) -> Result<(), QuotaError> {
        let Some(rate) = self.limits.per_subject.rate else {
            return Ok(());
        };
        let op = SubjectOp {
            rate: Some(rate),
            day: None,
        };
        match self.ask(&op).await? {
            Some(told) if told.allowed => Ok(()),
            Some(told) => Err(QuotaError::Denied(Denied {
                policy: Policy::SubjectRate,
                retry_after: Duration::from_micros(told.wait),
            })),
            None => {
                let now = self.quotas.now();
                let subjects = &self.quotas.subjects;
                Ok(subjects.admit(self.key, &rate, &now, self.room)?)
            }
        }
    }

    /// Decides on its day. What was taken, where something is limited.
    pub(super) async fn charge(&self, units: u64) -> Result<Option<Taken>, QuotaError> {
        let Some(most) = self.limits.per_subject.daily else {
            return Ok(None);
        };
        let now = self.quotas.now();
        let in_memory = || {
            let subjects = &self.quotas.subjects;
            subjects.charge(self.key, &self.limits, units, &now, self.room)
        };
        if self.name.is_none() {
            let (day, day_ends) = (Date::ZERO, in_memory()?);
            return Ok(Some(Taken {
                units,
                day,
                day_ends,
            }));
        }
        let day = self.limits.calendar.day(now.wall);
        let taken = i64::try_from(units).unwrap_or(i64::MAX);
        let op = SubjectOp {
            rate: None,
            day: Some((day.first, most, taken)),
        };
        let of_day = |day_ends| {
            Some(Taken {
                units,
                day: day.first,
                day_ends,
            })
        };
        match self.ask(&op).await? {
            Some(told) if told.allowed => Ok(of_day(day.end)),
            Some(_) => Err(QuotaError::Denied(Denied {
                policy: Policy::SubjectDaily,
                retry_after: between(now.wall, day.end),
            })),
            None => {
                let ends = in_memory()?;
                // Where Redis did not answer this once, it is to know all the same.
                self.owe(day.first, taken);
                Ok(of_day(ends))
            }
        }
    }

    /// Gives back what did nothing.
    pub(super) fn refund(&self, taken: &Taken) {
        let subjects = &self.quotas.subjects;
        subjects.refund(self.key, taken.units, taken.day_ends);
        let units = i64::try_from(taken.units).unwrap_or(0);
        self.owe(taken.day, units.saturating_neg());
    }

    /// Has Redis told behind the request that so much more was used, or less.
    fn owe(&self, day: Date, units: i64) {
        let Some(name) = self.name else { return };
        self.quotas.owe(Debt::Of {
            tenant: self.tenant.clone(),
            subject: name,
            day,
            units,
        });
    }

    /// What Redis says; nothing where it is not asked, or is away and memory counts on.
    async fn ask(&self, op: &SubjectOp) -> Result<Option<SubjectTold>, QuotaError> {
        let (Some(server), Some(name)) = (&self.quotas.redis, self.name) else {
            return Ok(None);
        };
        match redis::subject(server, &self.tenant, name, op).await {
            Ok(told) => {
                self.note(op, &told);
                Ok(Some(told))
            }
            Err(StoreError::Damaged) => Err(QuotaError::Unavailable),
            Err(StoreError::Unavailable) => {
                let away = self.quotas.shared.map(|shared| shared.away);
                if away == Some(OnStoreFailure::Refuse) {
                    return Err(QuotaError::Unavailable);
                }
                Ok(None)
            }
        }
    }

    fn note(&self, op: &SubjectOp, told: &SubjectTold) {
        let now = self.quotas.now();
        let day_ends = self.limits.calendar.day(now.wall).end;
        let known = Known {
            fills_in: told.fills_in.saturating_mul(1_000),
            day: op.day.map(|_| (told.used, day_ends)),
        };
        self.quotas.subjects.note(self.key, &known, &now, self.room);
    }
}
