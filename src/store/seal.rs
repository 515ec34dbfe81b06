//! Seals the values of the store: AES-256-GCM-SIV under a key that is derived from `state.key`.
//!
//! Invariant: a value opens only in the table and under the key that it was sealed for, so whoever
//! can write to the file can move nothing in it. An older value of the same entry does open: only a
//! store that counts elsewhere could tell. Nothing here prints a key or a value.

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    error::Unspecified,
    hmac,
};
use thiserror::Error;
use zeroize::Zeroizing;

use super::EVEN;

/// Bytes that a sealed value has over the plain one: its nonce in front, its tag behind.
const OVERHEAD: usize = NONCE_LEN + 16;

/// A value was not sealed with this key for this place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a value does not open")]
pub(crate) struct DoesNotOpen;

/// Seals and opens values.
pub(crate) struct Sealer {
    key: RandomizedNonceKey,
    decoy: Vec<u8>,
}

impl Sealer {
    /// Derives the key.
    pub(crate) fn derive(secret: &[u8; 32]) -> Result<Self, Unspecified> {
        let root = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derived = hmac::sign(&root, b"dcams-gateway state seal v1");
        let mut bytes = Zeroizing::new([0; 32]);
        bytes.copy_from_slice(derived.as_ref());
        let mut sealer = Self {
            key: RandomizedNonceKey::new(&AES_256_GCM_SIV, bytes.as_slice())?,
            decoy: Vec::new(),
        };
        sealer.decoy = sealer.seal("", b"decoy", &[0; EVEN])?;
        Ok(sealer)
    }

    /// Seals a value for one place. Its nonce is random; should two ever be equal, this cipher only
    /// shows whether two values were.
    pub(crate) fn seal(
        &self,
        table: &str,
        entry: &[u8],
        value: &[u8],
    ) -> Result<Vec<u8>, Unspecified> {
        let mut text = value.to_vec();
        let place = Aad::from(place(table, entry));
        let nonce = self.key.seal_in_place_append_tag(place, &mut text)?;
        let mut sealed = Vec::with_capacity(OVERHEAD + value.len());
        sealed.extend_from_slice(nonce.as_ref());
        sealed.extend_from_slice(&text);
        Ok(sealed)
    }

    /// Opens what was sealed for this place.
    pub(crate) fn open(
        &self,
        table: &str,
        entry: &[u8],
        sealed: &[u8],
    ) -> Result<Vec<u8>, DoesNotOpen> {
        let (nonce, text) = sealed.split_first_chunk().ok_or(DoesNotOpen)?;
        let mut text = text.to_vec();
        let opened = self
            .key
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(place(table, entry)),
                &mut text,
            )
            .map_err(|Unspecified| DoesNotOpen)?
            .len();
        text.truncate(opened);
        Ok(text)
    }

    /// Does the work of opening a value of [`EVEN`] bytes.
    pub(super) fn open_decoy(&self) -> Result<(), DoesNotOpen> {
        std::hint::black_box(self.open("", b"decoy", &self.decoy)).map(drop)
    }
}

/// No table's name holds a NUL, so no two places give the same bytes.
fn place(table: &str, entry: &[u8]) -> Vec<u8> {
    [table.as_bytes(), b"\0", entry].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_opens_only_with_its_key_in_its_table_and_under_its_entry() {
        let sealer = Sealer::derive(&[1; 32]).unwrap();
        let sealed = sealer.seal("t", b"entry", b"canary value").unwrap();
        assert_eq!(
            sealer.open("t", b"entry", &sealed).unwrap(),
            b"canary value"
        );
        assert_eq!(sealed.len(), b"canary value".len() + OVERHEAD);
        assert!(!sealed.windows(6).any(|w| w == b"canary"));
        assert_eq!(sealer.open("u", b"entry", &sealed), Err(DoesNotOpen));
        assert_eq!(sealer.open("t", b"entrx", &sealed), Err(DoesNotOpen));
        let other = Sealer::derive(&[2; 32]).unwrap();
        assert_eq!(other.open("t", b"entry", &sealed), Err(DoesNotOpen));
        for at in 0..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[at] ^= 1;
            assert_eq!(sealer.open("t", b"entry", &flipped), Err(DoesNotOpen));
            assert_eq!(sealer.open("t", b"entry", &sealed[..at]), Err(DoesNotOpen));
        }
        sealer.open_decoy().unwrap();
    }

    #[test]
    fn the_same_value_is_never_sealed_to_the_same_bytes() {
        let sealer = Sealer::derive(&[1; 32]).unwrap();
        let seal = || sealer.seal("t", b"entry", b"value").unwrap();
        assert_ne!(seal(), seal());
    }
}
