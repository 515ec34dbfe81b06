//! Which of the waiting faults a call meets.
//!
//! Invariant: at most 100 faults wait. A fault is used up only by a call that it struck.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::fault::{Fault, FaultError, FaultKind, Place};

/// Faults that may wait at once.
const MAX_ARMED: usize = 100;

/// The faults that wait for calls, in the order in which they were set.
#[derive(Default)]
pub(super) struct Faults {
    armed: Vec<Fault>,
    released: CancellationToken,
}

/// The faults that one call meets.
#[derive(Default)]
pub(super) struct Struck {
    /// The wait before the work.
    pub(super) late: Duration,
    /// The wait after it.
    pub(super) delay: Duration,
    pub(super) answer: Option<FaultKind>,
    pub(super) delivery: Option<FaultKind>,
    pub(super) work: bool,
    pub(super) names: Vec<&'static str>,
}

impl Faults {
    pub(super) fn arm(&mut self, fault: Fault) -> Result<(), FaultError> {
        fault.check()?;
        if self.armed.len() >= MAX_ARMED {
            return Err(FaultError::TooMany);
        }
        self.armed.push(fault);
        Ok(())
    }

    pub(super) fn list(&self) -> &[Fault] {
        &self.armed
    }

    /// Forgets all faults, and lets go of the calls that hang.
    pub(super) fn clear(&mut self) {
        self.armed.clear();
        self.released.cancel();
        self.released = CancellationToken::new();
    }

    /// Cancelled when the faults are cleared.
    pub(super) fn released(&self) -> CancellationToken {
        self.released.clone()
    }

    /// Whether this call's body is not to be read.
    pub(super) fn stalls(&mut self) -> bool {
        let stalls = self
            .armed
            .iter_mut()
            .filter(|fault| fault.kind.place() == Place::Arrival)
            .any(Fault::strikes);
        self.drop_spent();
        stalls
    }

    /// The faults of a call whose body was read. A fault whose place is taken by one that was set
    /// earlier is not used up: two `status` faults of one call each strike one after the other.
    pub(super) fn strike(&mut self, service: Option<&str>) -> Struck {
        let mut struck = Struck {
            work: true,
            ..Struck::default()
        };
        for fault in &mut self.armed {
            let taken = match fault.kind.place() {
                Place::Answer => struck.answer.is_some(),
                Place::Arrival => true,
                Place::Delivery => struck.delivery.is_some(),
                Place::Pace => false,
            };
            let meant = fault.service.is_none() || fault.service == service;
            if taken || !meant || !fault.strikes() {
                continue;
            }
            struck.names.push(fault.kind.name());
            struck.work &= fault.work;
            if let FaultKind::Delay { ms } = fault.kind {
                struck.delay += Duration::from_millis(ms);
                continue;
            }
            if let FaultKind::Late { ms } = fault.kind {
                struck.late += Duration::from_millis(ms);
                continue;
            }
            let place = match fault.kind.place() {
                Place::Answer => &mut struck.answer,
                Place::Arrival | Place::Delivery | Place::Pace => &mut struck.delivery,
            };
            *place = Some(fault.kind.clone());
        }
        self.drop_spent();
        struck
    }

    fn drop_spent(&mut self) {
        self.armed.retain(|fault| fault.times != Some(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16) -> FaultKind {
        FaultKind::Status {
            status,
            message: String::new(),
            retry_after: None,
        }
    }

    #[test]
    fn a_share_is_exact_and_ends_after_its_times() {
        for (share, expected) in [(0.2, 20), (0.1, 10), (1.0, 100), (0.5, 50), (0.37, 37)] {
            let mut faults = Faults::default();
            faults
                .arm(Fault::always(status(500)).for_share(share))
                .unwrap();
            let met = (0..100).filter(|_| faults.strike(None).answer.is_some());
            assert_eq!(met.count(), expected, "{share}");
        }
        let mut faults = Faults::default();
        faults
            .arm(Fault::times(status(500), 3).for_share(0.5))
            .unwrap();
        let met = (0..100).filter(|_| faults.strike(None).answer.is_some());
        assert_eq!(met.count(), 3);
        assert!(faults.list().is_empty());
    }

    #[test]
    fn faults_of_one_place_follow_each_other_and_places_combine() {
        let mut faults = Faults::default();
        for fault in [
            Fault::once(status(500)),
            Fault::once(status(503)),
            Fault::times(FaultKind::Delay { ms: 5 }, 2),
            Fault::once(FaultKind::Delay { ms: 6 }),
            Fault::once(FaultKind::Late { ms: 7 }),
            Fault::once(FaultKind::Reset {}),
        ] {
            faults.arm(fault).unwrap();
        }
        let first = faults.strike(None);
        assert_eq!(first.answer, Some(status(500)));
        assert_eq!(first.delivery, Some(FaultKind::Reset {}));
        assert_eq!(first.delay, Duration::from_millis(11));
        assert_eq!(first.late, Duration::from_millis(7));
        assert_eq!(first.names, ["status", "delay", "delay", "late", "reset"]);
        assert!(!first.work);
        let second = faults.strike(None);
        assert_eq!(second.answer, Some(status(503)));
        assert_eq!(second.delay, Duration::from_millis(5));
        assert!(faults.list().is_empty());
    }

    #[test]
    fn a_fault_of_one_service_leaves_the_others_alone() {
        let mut faults = Faults::default();
        faults
            .arm(Fault::once(status(500)).for_service("getStatus"))
            .unwrap();
        assert!(faults.strike(Some("updateStatus")).answer.is_none());
        assert!(faults.strike(None).answer.is_none());
        assert!(faults.strike(Some("getStatus")).answer.is_some());
    }

    #[test]
    fn the_number_of_waiting_faults_is_bounded() {
        let mut faults = Faults::default();
        for _ in 0..MAX_ARMED {
            faults.arm(Fault::once(status(500))).unwrap();
        }
        let refused = faults.arm(Fault::once(status(500)));
        assert_eq!(refused, Err(FaultError::TooMany));
    }
}
