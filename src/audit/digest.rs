//! By what equal images are known, to whoever has `audit.key` and to nobody else.
//!
//! Decision: what is digested is an image's base64 text. It has one spelling, since no other is accepted
//! ([`crate::payload`]), so that nothing has to be decoded; and without the key nobody can try images out.

use std::fmt;

use blake3::Hasher;
use memchr::{memchr, memchr_iter};
use serde::{Serialize, Serializer};
use zeroize::Zeroizing;

use crate::ident::hex;

/// How much of a text with escapes is gathered before it is digested: pieces of other lengths would leave
/// BLAKE3 few vector instructions, and take four times as long.
const BLOCK: usize = 64 * 1024;

/// With what images are digested. It does not print.
pub struct DigestKey(Zeroizing<[u8; 32]>);

/// The digest of an image, BLAKE3 with a key; as text 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ImageDigest([u8; 32]);

impl DigestKey {
    pub(super) const fn new(key: Zeroizing<[u8; 32]>) -> Self {
        Self(key)
    }

    /// The digest of the image whose base64 text these pieces are, as it may stand in JSON: a backslash is
    /// never part of it, and is passed over.
    pub fn digest<'a>(&self, text: impl IntoIterator<Item = &'a [u8]>) -> ImageDigest {
        let mut hasher = Hasher::new_keyed(&self.0);
        let mut block = Vec::new();
        for piece in text {
            if block.is_empty() && memchr(b'\\', piece).is_none() {
                hasher.update(piece);
            } else {
                gather(piece, &mut block, &mut hasher);
            }
        }
        hasher.update(&block);
        ImageDigest(*hasher.finalize().as_bytes())
    }
}

/// Adds a piece without its backslashes to the block, which is digested each time that it is full.
fn gather(piece: &[u8], block: &mut Vec<u8>, hasher: &mut Hasher) {
    let mut begin = 0;
    for end in memchr_iter(b'\\', piece).chain([piece.len()]) {
        let mut run = piece.get(begin..end).unwrap_or_default();
        begin = end + 1;
        while !run.is_empty() {
            let (fits, rest) = run.split_at(run.len().min(BLOCK - block.len()));
            block.extend_from_slice(fits);
            run = rest;
            if block.len() == BLOCK {
                hasher.update(block);
                block.clear();
            }
        }
    }
}

impl fmt::Display for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [b'0'; 64];
        hex(&self.0, &mut text);
        f.write_str(str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ImageDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::audit::key::AuditKey;

    proptest! {
        #[test]
        fn the_digest_is_of_the_text_however_it_is_cut_and_escaped(
            bytes in proptest::collection::vec(any::<u8>(), 0..150_000),
            at in 1..170_000_usize,
            escaped in any::<bool>(),
        ) {
            let key = AuditKey::derive(&[7; 32]);
            let text = base64_simd::STANDARD.encode_to_string(&bytes);
            let expected = blake3::keyed_hash(&key.images().0, text.as_bytes()).to_hex();
            let sent = if escaped { text.replace('/', r"\/") } else { text };
            let digest = key.images().digest(sent.as_bytes().chunks(at));
            prop_assert_eq!(digest.to_string(), expected.as_str());
        }
    }

    #[test]
    fn each_key_has_digests_of_its_own_and_none_is_made_without() {
        let text = [&b"aGVsbG8="[..]];
        let by = |secret| AuditKey::derive(&[secret; 32]).images().digest(text);
        let without = ImageDigest(*blake3::hash(text[0]).as_bytes());
        let raw = ImageDigest(*blake3::keyed_hash(&[7; 32], text[0]).as_bytes());
        let all = [by(7), by(8), without, raw];
        for (index, one) in all.iter().enumerate() {
            assert!(!all[..index].contains(one), "{index}");
        }
        assert_eq!(by(7), by(7));
    }
}
