//! Makes and judges the nonces that clients put into their proofs (RFC 9449, 8 and 9).
//!
//! Invariant: a nonce that counts was made under this `state.key`, in the current or the previous
//! slot of time. Nothing is stored: what a nonce says is sealed in it, so that any node of the same
//! key can judge it. It also says which process made it, because a process knows only the proofs
//! that it has seen itself.

use std::{collections::hash_map::RandomState, fmt, hash::BuildHasher};

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;

/// Seconds of a slot, so that a nonce counts for one to two minutes: long enough that a client which
/// sends something every minute is not asked twice for each request, and not much longer than the
/// proofs themselves live.
const SLOT: i64 = 60;

/// Bytes before the seal: the slot and the process.
const CONTENT: usize = 16;

/// What nonces are sealed with, derived from `state.key`.
pub struct NonceKey(hmac::Key);

impl NonceKey {
    /// Derives the key.
    pub fn derive(secret: &[u8; 32]) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derived = hmac::sign(&root, b"dcams-gateway dpop nonce v1");
        Self(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()))
    }
}

impl fmt::Debug for NonceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Who made a nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Maker {
    /// A process of the same key: another node, or this one before its restart.
    AnotherProcess,
    /// The one that asks.
    ThisProcess,
}

/// The nonces of one process.
pub(super) struct Nonces {
    key: NonceKey,
    process: [u8; 8],
}

impl Nonces {
    pub(super) fn new(key: NonceKey) -> Self {
        // The seed of a hash map is the standard library's only randomness, and all that is wanted:
        // a number that no other process has. The seal is what keeps a nonce from being guessed.
        let process = RandomState::new().hash_one(SLOT).to_be_bytes();
        Self { key, process }
    }

    /// Nonces of the same key, to which these are another process's.
    pub(super) fn of_another_process(&self) -> Self {
        Self::new(NonceKey(self.key.0.clone()))
    }

    /// The nonce of this moment's slot.
    pub(super) fn make(&self, now: Timestamp) -> String {
        let mut content = slot(now).to_be_bytes().to_vec();
        content.extend(self.process);
        let seal = hmac::sign(&self.key.0, &content);
        content.extend(seal.as_ref());
        URL_SAFE_NO_PAD.encode(content)
    }

    /// Who made this nonce, if it counts now.
    pub(super) fn maker(&self, nonce: &str, now: Timestamp) -> Option<Maker> {
        let bytes = URL_SAFE_NO_PAD.decode(nonce).ok()?;
        let (content, seal) = bytes.split_at_checked(CONTENT)?;
        hmac::verify(&self.key.0, content, seal).ok()?;
        let (made, process) = content.split_first_chunk::<8>()?;
        let age = slot(now).checked_sub(i64::from_be_bytes(*made))?;
        if !(0..=1).contains(&age) {
            return None;
        }
        Some(if *process == self.process {
            Maker::ThisProcess
        } else {
            Maker::AnotherProcess
        })
    }
}

fn slot(now: Timestamp) -> i64 {
    now.as_second().div_euclid(SLOT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nonces(key: u8) -> Nonces {
        Nonces::new(NonceKey::derive(&[key; 32]))
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_nonce_counts_in_its_slot_and_the_next() {
        let (ours, start) = (nonces(1), 100 * SLOT);
        for made in [start, start + SLOT - 1] {
            let nonce = ours.make(at(made));
            for (second, counts) in [
                (start - 1, false),
                (start, true),
                (start + 2 * SLOT - 1, true),
                (start + 2 * SLOT, false),
                (i64::from(i32::MAX), false),
            ] {
                let maker = ours.maker(&nonce, at(second));
                assert_eq!(maker, counts.then_some(Maker::ThisProcess), "{second}");
            }
        }
    }

    #[test]
    fn nodes_of_one_key_accept_each_others_nonces_and_tell_them_from_their_own() {
        let (one, two, stranger) = (nonces(1), nonces(1), nonces(2));
        let nonce = one.make(at(0));
        assert_eq!(one.maker(&nonce, at(0)), Some(Maker::ThisProcess));
        assert_eq!(two.maker(&nonce, at(0)), Some(Maker::AnotherProcess));
        assert_eq!(stranger.maker(&nonce, at(0)), None);
    }

    #[test]
    fn a_nonce_that_was_changed_anywhere_does_not_count() {
        let ours = nonces(1);
        let nonce = ours.make(at(0));
        for place in 0..nonce.len() {
            let mut changed = nonce.clone().into_bytes();
            changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(ours.maker(&changed, at(0)), None, "{place}");
            let cut = nonce.get(..place).unwrap();
            assert_eq!(ours.maker(cut, at(0)), None, "{place}");
        }
        assert_eq!(ours.maker(&format!("{nonce}AAAA"), at(0)), None);
        assert_eq!(ours.maker("", at(0)), None);
    }
}
