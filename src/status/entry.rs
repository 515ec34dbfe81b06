//! What is kept of a customer, and until when it may be told. Pure: it is told what time it is.
//!
//! Invariant: an answer is told only as it was given: to a tenant that sees as much of a person, about
//! the spelling of the address that DCAMS was asked with.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    caching::{CacheSettings, Tag},
    ident::Pseudonym,
    tenant::Disclosure,
    upstream::verdict::CustomerStatus,
};

/// A PENDING is asked for often that was told as many times.
const OFTEN: u32 = 3;

/// What DCAMS said of a customer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It has this status.
    Found(CustomerStatus),
    /// There is no such customer.
    NotFound,
}

/// For whom an answer is the right one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fit {
    /// How much of a person it shows.
    pub(super) disclosure: Disclosure,
    /// The address as DCAMS was asked for it.
    pub(super) spelling: Pseudonym,
    /// Counts what was to be forgotten.
    pub(super) era: u64,
}

/// What DCAMS said of a customer, and when.
///
/// It has no `Debug`: it may hold a person's fields.
pub struct Entry {
    known: Known,
    /// The answer as it goes to clients; empty where there is no such customer.
    body: Bytes,
    tag: Tag,
    pub(super) fit: Fit,
    /// What its tenant's part of `fit.era` is by now.
    pub(super) tenant_era: Arc<AtomicU64>,
    /// When DCAMS was asked: what it says may be as old.
    read_at: Instant,
    /// By how much less it is fresh, in parts of a thousand.
    jitter: u16,
    /// For how long it is worth its place, from `read_at`.
    pub(super) keep: Duration,
    /// How often it was told.
    told: AtomicU32,
}

/// What makes an entry.
pub(super) struct Draft {
    pub(super) known: Known,
    pub(super) body: Bytes,
    pub(super) tag: Tag,
    pub(super) fit: Fit,
    pub(super) tenant_era: Arc<AtomicU64>,
    pub(super) read_at: Instant,
    /// A random number.
    pub(super) dice: u16,
}

/// How an entry stands at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// For so long still.
    Fresh(Duration),
    /// For so long not any more.
    Stale(Duration),
}

impl Entry {
    pub(super) fn new(draft: Draft, settings: &CacheSettings) -> Self {
        let ttl = ttl(draft.known, settings);
        let late = settings.stale_if_error.max(settings.stale_while_revalidate);
        let late = match draft.known {
            Known::Found(_) => late,
            Known::NotFound => Duration::ZERO,
        };
        Self {
            known: draft.known,
            body: draft.body,
            tag: draft.tag,
            fit: draft.fit,
            tenant_era: draft.tenant_era,
            read_at: draft.read_at,
            jitter: draft.dice % (u16::from(settings.jitter) * 10 + 1),
            keep: if ttl.is_zero() { ttl } else { ttl + late },
            told: AtomicU32::new(0),
        }
    }

    /// As other gateways keep it: a version, what DCAMS said, for whom it is, and the answer.
    pub(super) fn write(&self) -> Vec<u8> {
        let word = WORDS.iter().find(|(known, _)| *known == self.known);
        let word = word.map_or(0, |(_, word)| *word);
        let head = [VERSION, word, word_of(self.fit.disclosure)];
        [&head[..], &self.fit.spelling.to_bytes(), &self.body].concat()
    }

    /// Reads what [`Entry::write`] wrote, for whom it fits.
    pub(super) fn read(
        written: &[u8],
        (fit, tenant_era): (Fit, Arc<AtomicU64>),
        read_at: Instant,
        tag: impl Fn(&[u8]) -> Tag,
        settings: &CacheSettings,
    ) -> Option<Self> {
        let ([version, word, disclosure], rest) = written.split_first_chunk()?;
        let (spelling, body) = rest.split_at_checked(Pseudonym::LEN)?;
        let (known, _) = WORDS.iter().find(|(_, known)| known == word)?;
        let fits = *version == VERSION
            && *disclosure == word_of(fit.disclosure)
            && *spelling == fit.spelling.to_bytes();
        let draft = Draft {
            known: *known,
            body: Bytes::copy_from_slice(body),
            tag: tag(body),
            fit,
            tenant_era,
            read_at,
            dice: 0,
        };
        fits.then(|| Self::new(draft, settings))
    }

    /// What DCAMS said.
    pub const fn known(&self) -> Known {
        self.known
    }

    /// The answer, as it goes to clients.
    pub fn body(&self) -> Bytes {
        self.body.clone()
    }

    /// What names it.
    pub const fn tag(&self) -> Tag {
        self.tag
    }

    /// Whether it is the same answer for the same clients.
    pub(super) fn says_what(&self, other: &Self) -> bool {
        (self.known, self.fit, &self.body) == (other.known, other.fit, &other.body)
    }

    /// Whether DCAMS was asked for the other one later.
    pub(super) fn is_before(&self, other: &Self) -> bool {
        self.read_at < other.read_at
    }

    /// How long ago DCAMS was asked.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.read_at)
    }

    /// Whether it is fresh, as the configuration has it now.
    pub fn freshness(&self, now: Instant, settings: &CacheSettings) -> Freshness {
        let ttl = ttl(self.known, settings);
        let ttl = ttl.saturating_sub(ttl * u32::from(self.jitter) / 1000);
        let age = self.age(now);
        match ttl.checked_sub(age) {
            Some(left) if !left.is_zero() => Freshness::Fresh(left),
            Some(_) | None => Freshness::Stale(age.saturating_sub(ttl)),
        }
    }

    /// Whether it is worth asking for before it is stale: it may soon be another, and somebody waits.
    pub fn is_awaited(&self, left: Duration, settings: &CacheSettings) -> bool {
        let told = self.told.fetch_add(1, Relaxed).saturating_add(1);
        let pending = self.known == Known::Found(CustomerStatus::Pending);
        settings.refresh_pending && pending && told >= OFTEN && left < ttl(self.known, settings) / 4
    }

    /// Whether it may be told for so long after it was fresh: a customer who was not there may be by now.
    pub fn may_be_late(&self, past: Duration, at_most: Duration) -> bool {
        self.known != Known::NotFound && past < at_most
    }

    /// How many bytes it holds.
    pub(super) fn len(&self) -> usize {
        self.body.len()
    }
}

/// The form of what other gateways keep.
const VERSION: u8 = 1;

/// What DCAMS may say, in one byte.
const WORDS: [(Known, u8); 4] = [
    (Known::NotFound, 0),
    (Known::Found(CustomerStatus::Fail), 1),
    (Known::Found(CustomerStatus::Pass), 2),
    (Known::Found(CustomerStatus::Pending), 3),
];

const fn word_of(disclosure: Disclosure) -> u8 {
    match disclosure {
        Disclosure::Full => 1,
        Disclosure::Minimal => 0,
    }
}

/// How long what DCAMS said is fresh.
fn ttl(known: Known, settings: &CacheSettings) -> Duration {
    match known {
        Known::Found(CustomerStatus::Fail) => settings.fail_ttl,
        Known::Found(CustomerStatus::Pass) => settings.pass_ttl,
        Known::Found(CustomerStatus::Pending) => settings.pending_ttl,
        Known::NotFound => settings.not_found_ttl,
    }
}
