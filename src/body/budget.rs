//! The process-wide bound on the bytes of bodies held at once.
//!
//! Invariant: bytes are granted in the order they were asked for, so that a large body is not
//! starved by small ones; nobody waits longer than it was told to.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::BodyError;

/// How much a body of unknown length is charged at a time.
const STEP: u64 = 256 * 1024;

/// Bytes that all bodies of the process share. A clone is the same budget.
#[derive(Debug, Clone)]
pub struct ByteBudget {
    free: Arc<Semaphore>,
    total: u64,
}

impl ByteBudget {
    /// A budget of this many bytes (at most what the platform's semaphore counts, 2^61 on 64 bits).
    pub fn new(bytes: u64) -> Self {
        let permits = usize::try_from(bytes)
            .unwrap_or(usize::MAX)
            .min(Semaphore::MAX_PERMITS);
        Self {
            free: Arc::new(Semaphore::new(permits)),
            total: u64::try_from(permits).unwrap_or(u64::MAX),
        }
    }

    /// The whole of it.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// How many bytes are charged now.
    pub fn in_use(&self) -> u64 {
        let free = u64::try_from(self.free.available_permits()).unwrap_or(u64::MAX);
        self.total.saturating_sub(free)
    }

    /// Charges `bytes`, waiting in line for at most `wait`.
    pub async fn charge(&self, bytes: u64, wait: Duration) -> Result<BudgetPermit, BodyError> {
        let mut permit = BudgetPermit {
            budget: self.clone(),
            held: None,
            bytes: 0,
        };
        permit.add(bytes, wait).await?;
        Ok(permit)
    }
}

/// A share of the budget, given back on drop.
#[derive(Debug)]
pub struct BudgetPermit {
    budget: ByteBudget,
    held: Option<OwnedSemaphorePermit>,
    bytes: u64,
}

impl BudgetPermit {
    /// How many bytes it stands for.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes it stand for at least `bytes`: in steps, but never for more than `limit`.
    pub(super) async fn cover(
        &mut self,
        bytes: u64,
        limit: u64,
        wait: Duration,
    ) -> Result<(), BodyError> {
        let Some(missing) = bytes.checked_sub(self.bytes).filter(|missing| *missing > 0) else {
            return Ok(());
        };
        let room = limit.saturating_sub(self.bytes);
        self.add(missing.max(STEP.min(room)), wait).await
    }

    async fn add(&mut self, bytes: u64, wait: Duration) -> Result<(), BodyError> {
        if bytes == 0 {
            return Ok(());
        }
        let overloaded = BodyError::Overloaded {
            retry_after: wait.max(Duration::from_secs(1)),
        };
        // More than there will ever be: waiting would not help.
        if self.bytes.saturating_add(bytes) > self.budget.total {
            return Err(overloaded);
        }
        let count = u32::try_from(bytes).map_err(|_| overloaded)?;
        let free = &self.budget.free;
        // Tried first, so that no timer is set while there is room. It cannot overtake anyone:
        // what is free while others wait already belongs to the first of them.
        let added = match Arc::clone(free).try_acquire_many_owned(count) {
            Ok(added) => added,
            Err(_) => match timeout(wait, Arc::clone(free).acquire_many_owned(count)).await {
                Ok(Ok(added)) => added,
                Ok(Err(_)) | Err(_) => return Err(overloaded),
            },
        };
        match &mut self.held {
            Some(held) => held.merge(added),
            held @ None => *held = Some(added),
        }
        self.bytes += bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(200);

    fn overloaded(result: &Result<BudgetPermit, BodyError>) -> bool {
        matches!(result, Err(BodyError::Overloaded { .. }))
    }

    #[tokio::test(start_paused = true)]
    async fn the_budget_is_never_exceeded_and_comes_back_on_drop() {
        let budget = ByteBudget::new(100);
        let first = budget.charge(60, WAIT).await.unwrap();
        assert_eq!((budget.in_use(), first.bytes()), (60, 60));
        assert!(overloaded(&budget.charge(41, WAIT).await));
        assert_eq!(budget.in_use(), 60);
        drop(first);
        assert_eq!(budget.in_use(), 0);
        assert!(budget.charge(100, WAIT).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_could_never_fit_is_refused_at_once() {
        let budget = ByteBudget::new(100);
        let before = crate::clock::instant();
        assert!(overloaded(&budget.charge(101, WAIT).await));
        assert_eq!(crate::clock::instant(), before);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_is_in_line_and_bounded() {
        let budget = ByteBudget::new(100);
        let held = budget.charge(50, WAIT).await.unwrap();
        let mut large = Box::pin(budget.charge(80, WAIT));
        assert!(futures_util::poll!(&mut large).is_pending());
        // There would be room for it, but it came later.
        let mut small = Box::pin(budget.charge(10, WAIT));
        assert!(futures_util::poll!(&mut small).is_pending());
        drop(held);
        assert_eq!(large.await.unwrap().bytes(), 80);
        assert_eq!(small.await.unwrap().bytes(), 10);
        let before = crate::clock::instant();
        let _held = budget.charge(100, WAIT).await.unwrap();
        assert!(overloaded(&budget.charge(1, WAIT).await));
        let waited = crate::clock::instant() - before;
        assert!(waited >= WAIT && waited < WAIT * 2, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_length_is_charged_in_steps_up_to_the_limit() {
        let budget = ByteBudget::new(2 * STEP);
        let mut permit = budget.charge(0, WAIT).await.unwrap();
        permit.cover(1, 10 * STEP, WAIT).await.unwrap();
        assert_eq!(permit.bytes(), STEP);
        permit.cover(STEP, 10 * STEP, WAIT).await.unwrap();
        assert_eq!(permit.bytes(), STEP);
        permit.cover(STEP + 1, STEP + 10, WAIT).await.unwrap();
        assert_eq!(budget.in_use(), STEP + 10);
        let refused = permit.cover(2 * STEP + 1, 10 * STEP, WAIT).await;
        assert!(matches!(refused, Err(BodyError::Overloaded { .. })));
    }
}
