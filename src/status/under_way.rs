//! Questions to DCAMS and changes there that are under way, until it is known what came of them.
//!
//! Invariant: each ends in its slot once, also where it is dropped: then a read has found nothing, and of a
//! change nobody knows whether it was made.

use std::sync::Arc;

use tokio::sync::watch;

use super::{
    Customer, Inner,
    entry::Entry,
    fleet::{self, End, Learnt, Seen},
    slots::{Settled, Ticket},
};
use crate::{caching::CacheSettings, clock, error::GatewayError, tenant::Disclosure};

/// What a read found.
pub struct Found {
    /// It.
    pub entry: Arc<Entry>,
    /// Whether it may be kept.
    pub keep: bool,
}

impl Found {
    pub(super) fn lasts(&self) -> bool {
        self.keep && !self.entry.keep.is_zero()
    }
}

/// What a write came to.
pub enum Written {
    /// It is done, and this is what DCAMS knows now; none where that is not kept.
    Done(Option<Arc<Entry>>),
    /// Nothing was done, and that is certain.
    Undone,
    /// Nobody knows.
    Unknown,
}

/// What a read brings home, for all who waited for it.
pub type Landed = Result<Arc<Entry>, GatewayError>;

/// Whether a request asks DCAMS, or waits for one that does.
#[expect(
    clippy::large_enum_variant,
    reason = "it is moved once, and the large one waits for a network"
)]
pub enum Turn {
    /// It waits.
    Join(Flight),
    /// It asks.
    Lead(Reading),
}

/// A request that asks DCAMS the same.
pub struct Flight {
    pub(super) landed: watch::Receiver<Option<Landed>>,
}

impl Flight {
    /// What it brought home; none where it ended without a word.
    pub async fn landed(mut self) -> Option<Landed> {
        let landed = self.landed.wait_for(Option::is_some).await.ok()?;
        landed.clone()
    }
}

/// A question to DCAMS that is under way. Dropped, it brings nothing home, and who waits asks again.
pub struct Reading {
    pub(super) cache: Arc<Inner>,
    pub(super) of: Customer,
    pub(super) era: u64,
    pub(super) ticket: Option<Ticket>,
    pub(super) tell: Option<watch::Sender<Option<Landed>>>,
    /// What gateways have together, where that was asked, and what was made of it.
    pub(super) seen: Option<(Seen, Option<Arc<Entry>>)>,
}

impl Reading {
    /// What gateways keep of the customer together, for whom it is the right answer; where that is not
    /// there, what this read finds is kept for the others too.
    pub async fn look_up(
        &mut self,
        disclosure: Disclosure,
        settings: &CacheSettings,
    ) -> Option<Arc<Entry>> {
        let fleet = self.cache.fleet.as_ref().filter(|_| settings.shared)?;
        let seen = fleet.look_up(&self.of.tenant, self.of.key).await.ok()?;
        let entry = seen.value.as_ref().and_then(|(value, age)| {
            let read_at = clock::instant().checked_sub(*age)?;
            let fit = self.cache.fit(&self.of, disclosure);
            let tag = |body: &[u8]| self.cache.tag(&self.of, body);
            let fit = (fit, Arc::clone(&self.of.era));
            Entry::read(value, fit, read_at, tag, settings).map(Arc::new)
        });
        self.seen = Some((seen, entry.clone()));
        entry
    }

    /// Ends it: keeps what was found, if that is to be kept and the customer did not change meanwhile, and
    /// tells who waits. Whether it is kept. What is found and not kept takes away what was kept before.
    pub async fn end(mut self, found: Option<&Found>, landed: Option<Landed>) -> bool {
        let kept = self.settle(found);
        // Before this nobody is told, so that who asks next finds what is kept.
        if let (Some(tell), Some(landed)) = (self.tell.take(), landed) {
            tell.send_replace(Some(landed));
        }
        let (Some(found), Some((seen, old)), Some(fleet)) = (found, &self.seen, &self.cache.fleet)
        else {
            return kept;
        };
        let (tenant, key, entry) = (&self.of.tenant, self.of.key, &found.entry);
        if kept && old.as_ref().is_none_or(|old| !Arc::ptr_eq(old, entry)) {
            let value = entry.write();
            // Where that fails the others ask by themselves.
            let _kept = fleet.keep(tenant, key, seen, learnt(entry, &value)).await;
        } else if !found.lasts()
            && seen.value.is_some()
            && !old.as_ref().is_some_and(|old| old.says_what(entry))
        {
            // Where that fails it is owed.
            let _removed = fleet.forget(tenant, key).await;
        }
        kept
    }

    fn settle(&mut self, found: Option<&Found>) -> bool {
        let Some(ticket) = self.ticket.take() else {
            return false;
        };
        let (cache, of) = (&self.cache, &self.of);
        // What was to be forgotten while it was asked for, or is in doubt as others know.
        let in_doubt = self.seen.as_ref().is_some_and(|(seen, _)| seen.is_in_doubt);
        let era = self.era;
        let found = found
            .filter(|found| found.entry.fit.era == era && era == cache.era_of(of) && !in_doubt);
        let mut kept = false;
        let keep = || kept = found.is_some_and(|found| cache.replace(of.key, found));
        let leads = self.tell.is_some();
        cache
            .slots
            .end_read(of.key, ticket, leads, clock::instant(), keep);
        kept
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let _kept = self.settle(None);
    }
}

/// A change that is under way. Dropped, nobody knows what became of it.
pub struct Writing {
    pub(super) cache: Arc<Inner>,
    pub(super) of: Customer,
    pub(super) era: u64,
    pub(super) ticket: Option<Ticket>,
    /// What the others are told of it.
    pub(super) told: Option<fleet::Write>,
}

impl Writing {
    /// Ends it, and keeps what it says where it is the last word. The others know when this returns, or are
    /// told later.
    pub async fn end(mut self, written: &Written, settings: &CacheSettings) {
        let kept = self.settle(written);
        let (Some(told), Some(fleet)) = (self.told.take(), &self.cache.fleet) else {
            return;
        };
        let entry = match written {
            Written::Done(entry) => entry.as_ref(),
            Written::Undone => None,
            Written::Unknown => return fleet.end(told, End::Unknown).await,
        };
        let entry = entry.filter(|_| kept && settings.shared);
        let value = entry.map(|entry| (entry, entry.write()));
        let learnt = value.as_ref().map(|(entry, value)| learnt(entry, value));
        fleet.end(told, End::Settled(learnt)).await;
    }

    /// Whether what it says is kept.
    fn settle(&mut self, written: &Written) -> bool {
        let Some(ticket) = self.ticket.take() else {
            return false;
        };
        let (cache, of) = (&self.cache, &self.of);
        let (settled, entry) = match written {
            Written::Done(entry) => (Settled::Certain, entry.as_ref()),
            Written::Undone => (Settled::Certain, None),
            Written::Unknown => (Settled::Unknown, None),
        };
        // What was to be forgotten while it was under way.
        let entry = entry.filter(|entry| entry.fit.era == self.era);
        let mut kept = false;
        let keep = || {
            kept = entry.is_some_and(|entry| {
                let (entry, keep) = (Arc::clone(entry), true);
                cache.replace(of.key, &Found { entry, keep })
            });
        };
        let slots = &cache.slots;
        slots.end_write(of.key, ticket, settled, clock::instant(), keep);
        kept
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let _kept = self.settle(&Written::Unknown);
    }
}

/// An entry as gateways keep it together.
fn learnt<'a>(entry: &Entry, value: &'a [u8]) -> Learnt<'a> {
    let age = entry.age(clock::instant());
    let ttl = entry.keep.saturating_sub(age);
    Learnt { value, age, ttl }
}
