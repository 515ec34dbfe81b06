//! Remembers which proofs were used, so that none is used twice.
//!
//! Invariant: of all requests with one proof at most one is told that it is the first. Nothing that
//! could still pass is ever forgotten: where there is no room, proofs are refused. What has run out
//! is forgotten in small portions, a few with each call.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Mutex, PoisonError},
};

use super::{ProofError, Thumbprint};
use crate::auth::sha256;

/// How many used proofs are remembered. With the default `dpop_max_age` and `leeway` each lives two
/// minutes at most, so this is room for 1,600 requests a second. A proof takes 17 bytes in the set,
/// which may be grown to 2^19 places (9 MB, and half of that again while it grows), and up to 32 in
/// the lists by time (6.4 MB): 20 MB at worst, whatever is sent.
pub(super) const MAX_USED: usize = 200_000;

/// The most that one call forgets. Each remembers one at most, so this keeps well ahead.
const STEPS: usize = 64;

/// The proofs that have passed and could pass again.
pub(super) struct UsedProofs {
    max: usize,
    // A std mutex: it is held for some hash table operations, and never across an await.
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    ids: HashSet<Id>,
    /// The same by the last second in which each could pass.
    by_end: BTreeMap<i64, Vec<Id>>,
    /// The latest of these seconds of which something was forgotten.
    forgotten: Option<i64>,
}

/// What a proof is known by: half of a SHA-256 over the key and the proof's own `jti`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Id([u8; 16]);

impl UsedProofs {
    /// An empty memory with room for `max` proofs.
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            memory: Mutex::default(),
        }
    }

    /// Remembers a proof until the second `ends` is over, or says why it may not pass.
    pub(super) fn insert(
        &self,
        key: &Thumbprint,
        jti: &str,
        ends: i64,
        now: i64,
    ) -> Result<(), ProofError> {
        let id = Id::of(key, jti);
        // A panic while it was held cannot leave more behind than an id without its end, which
        // refuses that proof for longer.
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.forget(now);
        // The clock went back behind what was forgotten: nobody knows whether this one was used.
        if memory.forgotten.is_some_and(|second| ends <= second) {
            return Err(ProofError::Stale);
        }
        if memory.ids.contains(&id) {
            return Err(ProofError::Replayed);
        }
        if memory.ids.len() >= self.max {
            return Err(ProofError::Full);
        }
        memory.ids.insert(id);
        memory.by_end.entry(ends).or_default().push(id);
        Ok(())
    }
}

impl Memory {
    fn forget(&mut self, now: i64) {
        for _ in 0..STEPS {
            let Some(mut oldest) = self.by_end.first_entry() else {
                return;
            };
            let ends = *oldest.key();
            if ends >= now {
                return;
            }
            self.forgotten = self.forgotten.max(Some(ends));
            match oldest.get_mut().pop() {
                Some(id) => {
                    self.ids.remove(&id);
                }
                None => {
                    oldest.remove();
                }
            }
        }
    }
}

impl Id {
    fn of(key: &Thumbprint, jti: &str) -> Self {
        // The thumbprint has one length, so no two pairs give the same bytes.
        let digest = sha256(&[key.as_bytes(), jti.as_bytes()].concat());
        let mut id = [0; 16];
        for (to, from) in id.iter_mut().zip(digest) {
            *to = from;
        }
        Self(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(letter: char) -> Thumbprint {
        Thumbprint::parse(&format!("{}A", letter.to_string().repeat(42))).unwrap()
    }

    #[test]
    fn a_proof_is_remembered_until_it_could_no_longer_pass() {
        let used = UsedProofs::new(10);
        assert_eq!(used.insert(&key('A'), "1", 100, 50), Ok(()));
        for now in [50, 99, 100] {
            let again = used.insert(&key('A'), "1", 100, now);
            assert_eq!(again, Err(ProofError::Replayed), "{now}");
        }
        assert_eq!(used.insert(&key('A'), "2", 100, 50), Ok(()));
        assert_eq!(used.insert(&key('B'), "1", 100, 50), Ok(()));
        assert_eq!(used.insert(&key('A'), "1", 201, 101), Ok(()));
    }

    #[test]
    fn a_clock_that_goes_back_does_not_make_a_forgotten_proof_new() {
        let used = UsedProofs::new(10);
        assert_eq!(used.insert(&key('A'), "1", 100, 50), Ok(()));
        assert_eq!(used.insert(&key('A'), "2", 300, 200), Ok(()));
        let again = used.insert(&key('A'), "1", 100, 50);
        assert_eq!(again, Err(ProofError::Stale));
        // What is later than all that was forgotten still passes.
        assert_eq!(used.insert(&key('A'), "3", 101, 50), Ok(()));
    }

    #[test]
    fn a_full_memory_refuses_and_forgets_nothing_that_could_pass() {
        let used = UsedProofs::new(100);
        for jti in 0..100 {
            let ends = if jti < 50 { 10 } else { 20 };
            assert_eq!(used.insert(&key('A'), &jti.to_string(), ends, 0), Ok(()));
        }
        assert_eq!(used.insert(&key('A'), "new", 20, 10), Err(ProofError::Full));
        for jti in 0..100 {
            let ends = if jti < 50 { 10 } else { 20 };
            let again = used.insert(&key('A'), &jti.to_string(), ends, 10);
            assert_eq!(again, Err(ProofError::Replayed), "{jti}");
        }
        // The first half has run out.
        for jti in 100..150 {
            assert_eq!(used.insert(&key('A'), &jti.to_string(), 30, 11), Ok(()));
        }
        assert_eq!(used.insert(&key('A'), "new", 30, 11), Err(ProofError::Full));
        let again = used.insert(&key('A'), "99", 20, 11);
        assert_eq!(again, Err(ProofError::Replayed));
    }

    #[test]
    fn a_long_idle_full_memory_takes_proofs_again_at_once() {
        let used = UsedProofs::new(1_000);
        for jti in 0..1_000 {
            assert_eq!(used.insert(&key('A'), &jti.to_string(), jti % 7, 0), Ok(()));
        }
        for jti in 0..1_000 {
            let new = used.insert(&key('A'), &format!("n{jti}"), 1_100, 1_000);
            assert_eq!(new, Ok(()), "{jti}");
        }
        let memory = used.memory.lock().unwrap();
        let listed: usize = memory.by_end.values().map(Vec::len).sum();
        assert_eq!((memory.ids.len(), listed), (1_000, 1_000));
    }
}
