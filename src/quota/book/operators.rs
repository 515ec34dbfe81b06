//! What operators do to a book and want to know of it.

use super::{Active, Book, Kind, State, opened};
use crate::{
    limits::{LARGEST, Limits},
    quota::{
        Now,
        account::Which,
        grant::{Grant, GrantError},
        window::Window,
    },
};

impl Book {
    /// Has a grant reported with the next exchange. None may be on its way: two of them in one report
    /// could not be told apart.
    pub(in crate::quota) fn grant(&self, grant: &Grant, now: &Now) -> Result<(), GrantError> {
        let mut state = self.lock();
        let State { limits, active } = &mut *state;
        let active = opened(active, limits, now);
        active.roll(limits, now);
        let window = active.of_grant(grant);
        grant.limit(limits).ok_or(GrantError::NoLimit)?;
        let before = window.seen.map_or(0, |seen| seen.at(grant.measure).1);
        if before.saturating_add(grant.amount) > LARGEST {
            return Err(GrantError::TooMuch);
        }
        if let Some(place) = window.pending.grant.get_mut(grant.measure) {
            *place = grant.amount;
        }
        window.pending.grant_name = grant.name;
        Ok(())
    }

    /// What was granted in the period of this kind, as of the store's last answer.
    pub(in crate::quota) fn granted(&self, grant: &Grant) -> u64 {
        let mut state = self.lock();
        let active = state.active.as_deref_mut();
        let seen = active.and_then(|active| active.of_grant(grant).seen);
        seen.map_or(0, |seen| seen.at(grant.measure).1)
    }

    /// Whether a grant is not written down yet.
    pub(in crate::quota) fn owes_grant(&self) -> bool {
        let state = self.lock();
        let active = state.active.as_deref();
        active.is_some_and(|active| active.windows().any(Window::owes_grant))
    }

    /// What this node has taken out of an account that is neither charged nor lost.
    pub(in crate::quota) fn outstanding(&self, which: Which) -> u64 {
        let state = self.lock();
        let Some(active) = state.active.as_deref() else {
            return 0;
        };
        let mut windows = active.windows().filter(|window| window.which == which);
        windows.next().map_or(0, Window::outstanding)
    }
}

impl Active {
    const fn of_grant(&mut self, grant: &Grant) -> &mut Window {
        match grant.kind {
            Kind::Day => &mut self.day,
            Kind::Month => &mut self.month,
        }
    }

    fn windows(&self) -> impl Iterator<Item = &Window> {
        [&self.day, &self.month].into_iter().chain(&self.closed)
    }
}

impl Grant {
    /// The limit that it is granted on top of.
    fn limit(&self, limits: &Limits) -> Option<u64> {
        let limits = Window::limits(self.kind, limits);
        limits.get(self.measure).copied().flatten()
    }
}
