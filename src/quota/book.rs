//! One tenant's limits as this node keeps them: decides, from memory, about each request.
//!
//! Every decision is made under the tenant's own lock, over all of its limits at once: either all of
//! them let a request through and are charged, or none is. The lock is held for some dozens of
//! instructions, never across an await. Nothing here waits or asks: where allowance has to be had
//! first, it says so ([`Step::Wait`]), and the keeper fetches it.

mod decide;
mod exchange;
mod operators;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::{Timestamp, civil::Date};
use tokio::{sync::Notify, time::Instant};

use super::{
    Now, Shared,
    account::{Ending, Kind, Which},
    between,
    portion::Portion,
    subjects::fill_time,
    window::Window,
};
use crate::{
    ident::TenantId,
    limits::{
        Limits, Policy, Rate,
        bucket::{Bucket, Pace},
        calendar::Period,
    },
    operation::Operation,
};

pub use self::exchange::Crossed;
pub(super) use self::exchange::{Answered, Exchange, Look};

/// After so many nanoseconds others may have changed what is known of an account.
const STALE: u64 = 1_000_000_000;

/// A clock that is set back by more was wrong: days begun by it do not stand.
const SET_BACK: Duration = Duration::from_hours(24);

/// A limit that refuses a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied {
    /// Which.
    pub policy: Policy,
    /// After how long another try is let through, if nobody else comes before.
    pub retry_after: Duration,
}

/// What is decided, for now. `call`: the keeper is to look at the book.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It is let through.
    Admit { call: bool },
    /// A limit is reached.
    Deny(Denied),
    /// Nobody can be asked for allowance, and there is none left to go on with.
    Refuse,
    /// Allowance has to be had first.
    Wait { call: bool },
}

/// How good what is known of a tenant's accounts is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// They are so.
    Fresh,
    /// Nothing is known yet, or nothing new while other nodes may have changed them.
    Stale,
    /// The same, and the store did not answer a moment ago.
    Failed,
}

/// A charge of day and month, to be kept or given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Charged {
    pub(super) units: u64,
    pub(super) bytes: u64,
    // Their first days: the accounts that it was taken from.
    day: Date,
    month: Date,
}

/// How a limit stands, for headers and for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Which limit.
    pub policy: Policy,
    /// How much it is, with what was granted on top.
    pub limit: u64,
    /// What of that was granted, where something can be.
    pub granted: u64,
    /// What of it is used, or taken by nodes for requests to come; more than the limit, where that was
    /// lowered.
    pub used: u64,
    /// What of it is left.
    pub left: u64,
    /// The time that it is for: a day, a month, or what an empty bucket takes to fill. None for what is
    /// free again as soon as a request ends.
    pub window: Option<Duration>,
    /// How long until all of it is there again.
    pub resets: Duration,
    /// When its day or month ends.
    pub ends: Option<Timestamp>,
}

impl Standing {
    /// When all of it is there again, to the second; none for what is free as soon as a request ends.
    pub fn resets_at(&self, now: Timestamp) -> Option<Timestamp> {
        if self.ends.is_some() {
            return self.ends;
        }
        self.window?;
        let full = now.checked_add(self.resets).ok()?;
        let second = full.as_second() + i64::from(full.subsec_nanosecond() > 0);
        Timestamp::from_second(second).ok()
    }
}

/// The limits of one tenant, and what this node has of them.
pub(super) struct Book {
    pub(super) tenant: TenantId,
    // The lock of the decisions; see above.
    state: Mutex<State>,
    /// Wakes requests that wait for allowance.
    pub(super) refilled: Notify,
}

struct State {
    limits: Arc<Limits>,
    /// Nothing before the first request: of many tenants most are idle.
    active: Option<Box<Active>>,
}

/// What the keeper knows of a book, and whether it is to look at it.
#[derive(Debug, Default)]
struct Attention {
    /// Whether it was called and has not looked yet.
    called: bool,
    /// Whether it looks by itself now and then.
    awake: bool,
    /// Whether a request came since its last look, and for how many looks none did.
    touched: bool,
    quiet: u8,
    /// Since when it need not look, where it keeps that in mind.
    asleep_since: Option<Instant>,
}

/// Whether the rate's bucket is here, and the store was told that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loaded {
    /// It was not read yet.
    Never,
    /// It is here.
    Here,
    /// It was written down, and goes on from here when the store was told so.
    Resting,
}

/// What a node has of a tenant's limits.
struct Active {
    attention: Attention,
    /// Whether there ever was a request: an operator's question makes no tenant a busy one.
    used: bool,
    /// Whether the store has said what an earlier process left.
    loaded: Loaded,
    /// Whether the store did not answer the last time, and when that was.
    away: bool,
    asked: u64,
    in_flight: u32,
    bucket: Bucket,
    /// What it has of rate and concurrency, where nodes share them.
    portion: Portion,
    day: Window,
    month: Window,
    /// Periods that are over and not reported yet.
    closed: Vec<Window>,
}

impl Book {
    pub(super) fn new(tenant: TenantId, limits: Arc<Limits>) -> Self {
        let active = None;
        Self {
            tenant,
            state: Mutex::new(State { limits, active }),
            refilled: Notify::new(),
        }
    }

    /// Puts other limits in force. What was used stays used.
    pub(super) fn limit(&self, limits: &Arc<Limits>, now: &Now) {
        let mut state = self.lock();
        let other_calendar = state.limits.calendar != limits.calendar;
        state.limits = Arc::clone(limits);
        if let Some(active) = &mut state.active
            && other_calendar
        {
            active.begin_day(limits, now);
            active.begin_month(limits, now);
        }
    }

    /// Decides on rate and concurrency.
    pub(super) fn admit(&self, now: &Now, shared: Option<&Shared>) -> Step {
        let mut state = self.lock();
        let State { limits, active } = &mut *state;
        // Also where nothing is limited: a limit may come while it is under way.
        let active = opened(active, limits, now);
        active.touch();
        match shared {
            None => active.admit(limits, now),
            Some(shared) => active.admit_shared(limits, now, shared),
        }
    }

    /// Decides on day, month and bytes, all of them together.
    pub(super) fn charge(
        &self,
        (units, bytes): (u64, u64),
        now: &Now,
        shared: Option<&Shared>,
    ) -> (Step, Charged) {
        let mut state = self.lock();
        let State { limits, active } = &mut *state;
        let active = opened(active, limits, now);
        active.touch();
        active.roll(limits, now);
        let charged = Charged {
            units,
            bytes,
            day: active.day.which.first,
            month: active.month.which.first,
        };
        (active.charge(limits, (units, bytes), now, shared), charged)
    }

    /// A request that was admitted has ended.
    pub(super) fn release(&self) {
        if let Some(active) = &mut self.lock().active {
            active.in_flight = active.in_flight.saturating_sub(1);
        }
    }

    /// Gives a charge back, unless its day or month is over.
    pub(super) fn refund(&self, charged: &Charged) {
        let mut state = self.lock();
        let Some(active) = &mut state.active else {
            return;
        };
        let Active { day, month, .. } = &mut **active;
        let [requests, bytes] = &mut day.meters;
        let [monthly, _] = &mut month.meters;
        if day.which.first == charged.day {
            requests.take_back(charged.units);
            bytes.take_back(charged.bytes);
        }
        if month.which.first == charged.month {
            monthly.take_back(charged.units);
        }
    }

    /// Counts a request that leaves for DCAMS. Returns whether the keeper is to look.
    pub(super) fn called(&self, operation: Operation, now: &Now) -> bool {
        self.note(now, |month| month.pending.tally.called(operation))
    }

    /// Counts how a request ended that was sent, and what of its charge stays. Returns the same.
    pub(super) fn ended(
        &self,
        (operation, ending): (Operation, Ending),
        kept: Option<&Charged>,
        bytes: u64,
        now: &Now,
    ) -> bool {
        self.note(now, |month| {
            let tally = &mut month.pending.tally;
            tally.ended(operation, ending);
            tally.bytes += bytes;
            if let Some(charged) = kept {
                tally.charged += charged.units;
                let here = charged.month == month.which.first;
                month.kept += if here { charged.units } else { 0 };
            }
        })
    }

    fn note(&self, now: &Now, note: impl FnOnce(&mut Window)) -> bool {
        let mut state = self.lock();
        let State { limits, active } = &mut *state;
        let active = opened(active, limits, now);
        active.touch();
        active.roll(limits, now);
        note(&mut active.month);
        !active.attention.awake && active.call()
    }

    /// Whether there was a request for it.
    pub(super) fn is_active(&self) -> bool {
        self.lock()
            .active
            .as_ref()
            .is_some_and(|active| active.used)
    }

    /// Whether what is known of its accounts is what they are, and if it is not whether the store was
    /// just asked in vain.
    pub(super) fn freshness(&self, now: &Now, shared: bool) -> Freshness {
        let mut state = self.lock();
        let State { limits, active } = &mut *state;
        let active = opened(active, limits, now);
        active.roll(limits, now);
        let day = limits.daily.or(limits.bytes_daily).is_some();
        let month = limits.monthly.is_some();
        let unknown = (day && active.day.seen.is_none()) || (month && active.month.seen.is_none());
        let old = shared && now.mono.saturating_sub(active.asked) > STALE;
        let stale = unknown || (old && (day || month));
        let in_vain = active.away && now.mono.saturating_sub(active.asked) < decide::LEFT_ALONE;
        match (stale, in_vain) {
            (false, _) => Freshness::Fresh,
            (true, false) => Freshness::Stale,
            (true, true) => Freshness::Failed,
        }
    }

    /// Notes that a request has waited in vain for the store.
    pub(super) fn lost(&self, now: &Now) {
        if let Some(active) = &mut self.lock().active {
            active.away = true;
            active.asked = now.mono;
        }
    }

    /// How all of its limits stand.
    pub(super) fn standings(&self, now: &Now, shared: Option<&Shared>) -> Vec<Standing> {
        let mut state = self.lock();
        let State { limits, active } = &mut *state;
        if let Some(active) = active {
            active.roll(limits, now);
        }
        let active = active.as_deref();
        let mut standings = Vec::with_capacity(5);
        if let Some(rate) = &limits.rate {
            standings.push(rate_standing(rate, active, now, shared));
        }
        if let Some(most) = limits.concurrency {
            let used = active.map_or(0, |active| active.in_flight);
            standings.push(Standing {
                policy: Policy::Concurrency,
                limit: u64::from(most.get()),
                granted: 0,
                used: u64::from(used),
                left: u64::from(most.get().saturating_sub(used)),
                window: None,
                resets: Duration::ZERO,
                ends: None,
            });
        }
        period_standings(limits, active, now, &mut standings);
        standings
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn opened<'a>(active: &'a mut Option<Box<Active>>, limits: &Limits, now: &Now) -> &'a mut Active {
    active.get_or_insert_with(|| Box::new(Active::new(limits, now)))
}

impl Active {
    fn new(limits: &Limits, now: &Now) -> Self {
        Self {
            attention: Attention::default(),
            used: false,
            loaded: Loaded::Never,
            away: false,
            asked: 0,
            in_flight: 0,
            bucket: Bucket::FULL,
            portion: Portion::default(),
            day: Window::of(Kind::Day, limits.calendar.day(now.wall), now),
            month: Window::of(Kind::Month, limits.calendar.month(now.wall), now),
            closed: Vec::new(),
        }
    }

    fn touch(&mut self) {
        (self.used, self.attention.touched) = (true, true);
    }

    /// Has the keeper called, unless it was.
    fn call(&mut self) -> bool {
        !std::mem::replace(&mut self.attention.called, true)
    }

    /// Begins the next day or month when its time has come. A clock that is set back changes nothing:
    /// what has begun goes on. Only where it is days off, because it was wrong before, does the day or
    /// month that it is now go on.
    fn roll(&mut self, limits: &Limits, now: &Now) {
        let wrong = |begun: Timestamp| between(now.wall, begun) > SET_BACK;
        if now.wall >= self.day.end || wrong(self.day.start) {
            self.begin_day(limits, now);
        }
        if now.wall >= self.month.end || wrong(self.month.start) {
            self.begin_month(limits, now);
        }
    }

    fn begin_day(&mut self, limits: &Limits, now: &Now) {
        let period = limits.calendar.day(now.wall);
        if self.day.which.first == period.first {
            return self.day.move_to(period);
        }
        let next = self.begin(Kind::Day, period, now);
        let over = std::mem::replace(&mut self.day, next);
        self.close(over);
    }

    fn begin_month(&mut self, limits: &Limits, now: &Now) {
        let period = limits.calendar.month(now.wall);
        if self.month.which.first == period.first {
            return self.month.move_to(period);
        }
        let next = self.begin(Kind::Month, period, now);
        let over = std::mem::replace(&mut self.month, next);
        self.close(over);
    }

    /// A window for this period. There are never two for one account, or the answer to one of them
    /// would be taken for the other's: one that was closed, and is not done, goes on.
    fn begin(&mut self, kind: Kind, period: Period, now: &Now) -> Window {
        let which = Which {
            kind,
            first: period.first,
        };
        let before = self.closed.iter().position(|over| over.which == which);
        before.map_or_else(
            || Window::of(kind, period, now),
            |place| {
                let mut window = self.closed.swap_remove(place);
                window.move_to(period);
                window
            },
        )
    }

    fn close(&mut self, mut over: Window) {
        over.put_back();
        if !over.is_done() {
            self.closed.push(over);
        }
    }
}

fn rate_standing(
    rate: &Rate,
    active: Option<&Active>,
    now: &Now,
    shared: Option<&Shared>,
) -> Standing {
    let pace = Pace::of(rate);
    let bucket = active.map_or(Bucket::FULL, |active| active.bucket);
    let (left, resets) = match (active, shared) {
        (Some(active), Some(_)) => active.portion.standing(rate),
        _ => (bucket.left(pace, now.mono), bucket.fills_in(now.mono)),
    };
    Standing {
        policy: Policy::Rate,
        limit: u64::from(rate.burst.get()),
        granted: 0,
        used: u64::from(rate.burst.get()).saturating_sub(left),
        left,
        window: Some(fill_time(rate)),
        resets: Duration::from_nanos(resets),
        ends: None,
    }
}

/// Day, bytes and month.
fn period_standings(
    limits: &Limits,
    active: Option<&Active>,
    now: &Now,
    standings: &mut Vec<Standing>,
) {
    let periods = [
        (Policy::Daily, limits.daily, Kind::Day, 0),
        (Policy::BytesDaily, limits.bytes_daily, Kind::Day, 1),
        (Policy::Monthly, limits.monthly, Kind::Month, 0),
    ];
    for (policy, limit, kind, place) in periods {
        let Some(limit) = limit else { continue };
        let window = active.map(|active| match kind {
            Kind::Day => &active.day,
            Kind::Month => &active.month,
        });
        let at = |values: &[u64]| values.get(place).copied().unwrap_or(0);
        let seen = window.and_then(|window| window.seen).unwrap_or_default();
        let held = window.and_then(|window| window.meters.get(place));
        let all = limit.saturating_add(at(&seen.extra));
        let held = held.map_or(0, |meter| meter.left);
        let (start, end) = match (window, kind) {
            (Some(window), _) => (window.start, window.end),
            (None, Kind::Day) => bounds(limits.calendar.day(now.wall)),
            (None, Kind::Month) => bounds(limits.calendar.month(now.wall)),
        };
        standings.push(Standing {
            policy,
            limit: all,
            granted: at(&seen.extra),
            used: at(&seen.taken).saturating_sub(held),
            left: all
                .saturating_sub(at(&seen.taken))
                .saturating_add(held)
                .min(all),
            window: Some(between(start, end)),
            resets: between(now.wall, end),
            ends: Some(end),
        });
    }
}

fn bounds(period: Period) -> (Timestamp, Timestamp) {
    (period.start, period.end)
}
