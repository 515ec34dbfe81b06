//! What is written down of one tenant and one day or billing month. Pure: [`Account::apply`] decides
//! what a node is given, and the Redis script does the same.
//!
//! Invariant: what was given to nodes and not put back is never more than the limit and what an operator
//! granted on top. A node takes allowance before it admits, so a node that is gone took more than it
//! admitted, never less. A report that comes twice counts once.

use std::{fmt, ops::AddAssign};

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::{operation::Operation, store::StoreError};

/// What is counted in a period: weighted requests, then bytes of bodies.
pub(super) const MEASURES: usize = 2;

/// The kinds of periods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// A day of the tenant's.
    Day,
    /// A billing month.
    Month,
}

/// Which of a tenant's accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Which {
    pub(super) kind: Kind,
    /// The period's first day.
    pub(super) first: Date,
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Day => "day",
            Kind::Month => "month",
        };
        write!(f, "{kind}:{}", self.first)
    }
}

/// How a request that was charged has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// DCAMS refused the data, or does not know the customer.
    Refused,
    /// DCAMS did it.
    Succeeded,
    /// DCAMS answered 429 or 503.
    Unavailable,
    /// Nobody knows whether DCAMS did it.
    Unknown,
}

/// The kinds of endings.
pub(super) const ENDINGS: usize = 4;

impl Ending {
    const fn place(self) -> usize {
        match self {
            Self::Succeeded => 0,
            Self::Refused => 1,
            Self::Unknown => 2,
            Self::Unavailable => 3,
        }
    }
}

/// What happened, by service (in the order of [`Operation::ALL`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tally {
    /// Requests that went to DCAMS: questions of our own and repetitions too.
    pub(super) calls: [u64; Operation::ALL.len()],
    /// Requests by how they ended: succeeded, refused, unknown, unavailable.
    pub(super) endings: [[u64; ENDINGS]; Operation::ALL.len()],
    /// What stayed charged.
    pub(super) charged: u64,
    /// Bytes of the bodies of the requests that went to DCAMS.
    pub(super) bytes: u64,
}

/// The place of a service in a tally.
fn place(operation: Operation) -> usize {
    let mut all = Operation::ALL.iter();
    all.position(|o| *o == operation).unwrap_or(0)
}

impl Tally {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn called(&mut self, operation: Operation) {
        if let Some(calls) = self.calls.get_mut(place(operation)) {
            *calls += 1;
        }
    }

    pub(super) fn ended(&mut self, operation: Operation, ending: Ending) {
        let of_service = self.endings.get_mut(place(operation));
        if let Some(count) = of_service.and_then(|e| e.get_mut(ending.place())) {
            *count += 1;
        }
    }

    /// All its numbers in a fixed order, as the Redis hash has them.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        let endings = self.endings.iter().flatten();
        let counts = self.calls.iter().chain(endings);
        counts.copied().chain([self.charged, self.bytes])
    }

    /// The tally of these numbers.
    pub(super) fn of(numbers: impl IntoIterator<Item = u64>) -> Self {
        let (mut tally, mut numbers) = (Self::default(), numbers.into_iter());
        let mut next = || numbers.next().unwrap_or(0);
        tally.calls.iter_mut().for_each(|calls| *calls = next());
        let endings = tally.endings.iter_mut().flatten();
        endings.for_each(|ending| *ending = next());
        (tally.charged, tally.bytes) = (next(), next());
        tally
    }
}

impl AddAssign<&Self> for Tally {
    fn add_assign(&mut self, other: &Self) {
        let sums = self.numbers().zip(other.numbers());
        *self = Self::of(
            sums.map(|(one, other)| one.saturating_add(other))
                .collect::<Vec<_>>(),
        );
    }
}

/// What a node has to say of an account since its last report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// Allowance that it does not need any more.
    pub(super) back: [u64; MEASURES],
    /// What it admitted without allowance, while nobody could be asked for any.
    pub(super) debt: [u64; MEASURES],
    /// What an operator grants on top of the limit, until the period ends.
    pub(super) grant: [u64; MEASURES],
    /// The name of that grant, where the operator gave it one: under one name an account takes one grant.
    pub(super) grant_name: Option<u64>,
    /// What happened.
    pub(super) tally: Tally,
}

impl Report {
    pub(super) fn is_empty(&self) -> bool {
        [self.back, self.debt, self.grant] == [[0; MEASURES]; 3] && self.tally.is_empty()
    }
}

/// What a node knows of an account from the last time; what is there now may be older, where the store
/// has lost something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Of the store's copy: another one is another epoch.
    pub(super) epoch: u64,
    /// Counts the changes of that copy.
    pub(super) version: u64,
    pub(super) taken: [u64; MEASURES],
    pub(super) extra: [u64; MEASURES],
}

impl Seen {
    /// What was taken and what was granted of one measure.
    pub(super) fn at(&self, measure: usize) -> (u64, u64) {
        let at = |values: &[u64; MEASURES]| values.get(measure).copied().unwrap_or(0);
        (at(&self.taken), at(&self.extra))
    }
}

/// What a node reports to an account and wants of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Op {
    pub(super) which: Which,
    /// Where there is no limit nothing is ever wanted.
    pub(super) limit: [Option<u64>; MEASURES],
    /// The process that asks, and its report's number; a report of a number that was seen is not
    /// counted again.
    pub(super) node: u64,
    pub(super) seq: u64,
    pub(super) report: Report,
    /// What it would like to have, and what of that requests wait for.
    pub(super) want: [u64; MEASURES],
    pub(super) need: [u64; MEASURES],
    /// What it has and has not used.
    pub(super) holds: [u64; MEASURES],
    /// Of a hundred parts of the limit.
    pub(super) warn_at: u8,
    pub(super) seen: Seen,
    /// In how many milliseconds since 1970 the rate's bucket is full, where the process ends now.
    pub(super) bucket: Option<i64>,
}

/// What a node is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// What it may admit from now on.
    pub(super) given: [u64; MEASURES],
    /// Whether there is more, that is held back until other nodes have said what they used.
    pub(super) held: bool,
    /// What this node may still use until then, should nobody be there to be asked.
    pub(super) part: Option<[u64; MEASURES]>,
    /// What all nodes together have taken, this time included, and what was granted on top.
    pub(super) seen: Seen,
    /// Whether the soft limit was crossed just now.
    pub(super) crossed: [bool; MEASURES],
    /// What an earlier process left of the rate's bucket.
    pub(super) bucket: Left,
}

/// What is known of a bucket from before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Left {
    /// The process ended in order: when it is full, in milliseconds since 1970.
    At(i64),
    /// Nobody used it in this period.
    #[default]
    Nothing,
    /// The process was cut off: it may have been emptied a moment ago.
    Unknown,
}

/// What the store keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Account {
    pub(super) which: Option<Which>,
    pub(super) taken: [u64; MEASURES],
    pub(super) extra: [u64; MEASURES],
    /// The limits at which somebody was told that they come close; 0 where nobody was.
    warned: [u64; MEASURES],
    pub(super) tally: Tally,
    node: u64,
    seq: u64,
    bucket: Option<i64>,
    /// The last grants that had a name, the newest at the end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    named: Vec<u64>,
}

/// How many grants an account knows by name.
const NAMED: usize = 16;

impl Account {
    /// As it is stored.
    pub(super) fn encode(&self) -> Vec<u8> {
        // Numbers and dates: there is nothing to fail on.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// What was stored.
    pub(super) fn decode(text: &[u8]) -> Result<Self, StoreError> {
        serde_json::from_slice(text).map_err(|_| StoreError::Damaged)
    }

    /// Counts a report and gives what may be given to a node, one of so many.
    pub(super) fn apply(&mut self, op: &Op, nodes: u64) -> Told {
        let bucket = self.bucket_before();
        let known = self.node == op.node && op.seq <= self.seq;
        let grants = !known && self.is_new(op.report.grant_name);
        let mut told = Told {
            bucket,
            ..Told::default()
        };
        if !known {
            self.tally += &op.report.tally;
        }
        for measure in 0..MEASURES {
            let at = |values: &[u64; MEASURES]| values.get(measure).copied().unwrap_or(0);
            let (mut taken, mut extra) = (at(&self.taken), at(&self.extra));
            if !known {
                taken = taken.saturating_sub(at(&op.report.back));
                taken = taken.saturating_add(at(&op.report.debt));
            }
            if grants {
                extra = extra.saturating_add(at(&op.report.grant));
            }
            let mut given = 0;
            if let Some(limit) = op.limit.get(measure).copied().flatten() {
                let all = limit.saturating_add(extra);
                let left = all.saturating_sub(taken);
                // Nobody takes more than half of its part at once, but for what it needs now.
                let fair = at(&op.need).max(left / nodes.saturating_mul(2).max(1));
                given = at(&op.want).min(fair).min(left);
                taken = taken.saturating_add(given);
                let soft = soft_limit(all, op.warn_at);
                if let (Some(warned), Some(crossed)) =
                    (self.warned.get_mut(measure), told.crossed.get_mut(measure))
                {
                    // What nodes hold is not used; of other nodes that is not known here.
                    let used = taken.saturating_sub(given).saturating_sub(at(&op.holds));
                    *crossed = used >= soft && *warned < all;
                    *warned = if used >= soft { all } else { *warned };
                }
            }
            put(&mut told.given, measure, given);
            put(&mut self.taken, measure, taken);
            put(&mut self.extra, measure, extra);
        }
        // Never a lower number again: an older question may arrive late, on a connection of its own.
        let seq = if self.node == op.node {
            self.seq.max(op.seq)
        } else {
            op.seq
        };
        (self.node, self.seq, self.bucket) = (op.node, seq, op.bucket);
        self.which = Some(op.which);
        told.seen.taken = self.taken;
        told.seen.extra = self.extra;
        told
    }

    /// Whether a grant of this name was not made yet; notes that it is now.
    fn is_new(&mut self, name: Option<u64>) -> bool {
        let Some(name) = name else { return true };
        if self.named.contains(&name) {
            return false;
        }
        if self.named.len() >= NAMED {
            self.named.remove(0);
        }
        self.named.push(name);
        true
    }

    const fn bucket_before(&self) -> Left {
        match self.bucket {
            Some(full_at) => Left::At(full_at),
            // Not written to before.
            None if self.which.is_none() => Left::Nothing,
            None => Left::Unknown,
        }
    }
}

/// From where on somebody is told.
pub(super) fn soft_limit(limit: u64, percent: u8) -> u64 {
    let parts = u128::from(limit) * u128::from(percent);
    u64::try_from(parts.div_ceil(100)).unwrap_or(u64::MAX)
}

fn put(values: &mut [u64; MEASURES], at: usize, value: u64) {
    if let Some(place) = values.get_mut(at) {
        *place = value;
    }
}
