//! What `audit.key` is used for: the MAC of each line, pseudonyms, digests of images, and the signature of
//! checkpoints.
//!
//! Invariant: the private half of the signing key does not leave here, and nothing in here prints a key.

use std::{fmt, sync::Arc};

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use super::{
    digest::DigestKey,
    note::{Checkpoint, PublicKey, Signature, SigningKey},
};
use crate::ident::{NodeId, PseudonymKey, hex, unhex};

/// One `audit.key`.
pub struct AuditKey {
    id: KeyId,
    mac: hmac::Key,
    pseudonyms: PseudonymKey,
    images: DigestKey,
    signing: SigningKey,
}

/// Tells which `audit.key` made a pseudonym or wrote a file; as text 8 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyId([u8; 4]);

/// The MAC of a line, HMAC-SHA-256; as text 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Mac([u8; 32]);

impl AuditKey {
    /// What is derived from these 32 bytes.
    pub fn derive(secret: &[u8; 32]) -> Self {
        let mac = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let pseudonyms = PseudonymKey::derive(secret);
        // No line begins like these, so that no MAC of a line is one of them.
        let seed = Zeroizing::new(sign(&mac, b"dcams-gateway audit checkpoint v1").0);
        let images = Zeroizing::new(sign(&mac, b"dcams-gateway audit image digest v1").0);
        Self {
            id: KeyId(pseudonyms.id()),
            signing: SigningKey::from_seed(&seed),
            images: DigestKey::new(images),
            mac,
            pseudonyms,
        }
    }

    /// Which key it is.
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// With which people become pseudonyms.
    pub const fn pseudonyms(&self) -> &PseudonymKey {
        &self.pseudonyms
    }

    /// With which images are known again.
    pub const fn images(&self) -> &DigestKey {
        &self.images
    }

    /// With which anyone checks the checkpoints of this node's chain.
    pub fn public(&self, node: &NodeId) -> PublicKey {
        self.signing.public(node)
    }

    pub(super) fn sign(&self, checkpoint: &Checkpoint) -> Signature {
        self.signing.sign(checkpoint)
    }

    /// What stands for the line before the first of a chain.
    pub(super) fn before_the_first(&self, node: &NodeId) -> Mac {
        sign(
            &self.mac,
            format!("dcams-gateway audit chain v1 {node}").as_bytes(),
        )
    }

    /// The MAC of a line.
    pub(super) fn mac(&self, covered: &[u8]) -> Mac {
        sign(&self.mac, covered)
    }
}

fn sign(key: &hmac::Key, text: &[u8]) -> Mac {
    let tag = hmac::sign(key, text);
    Mac(tag.as_ref().first_chunk().copied().unwrap_or([0; 32]))
}

impl Mac {
    /// Its hexadecimal digits.
    pub(super) fn digits(self) -> [u8; 64] {
        let mut text = [b'0'; 64];
        hex(&self.0, &mut text);
        text
    }

    /// Reads its digits.
    pub(super) fn parse(digits: &[u8]) -> Option<Self> {
        unhex(str::from_utf8(digits).ok()?).map(Self)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.digits()).unwrap_or_default())
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl KeyId {
    /// Reads what `Display` wrote.
    pub fn parse(text: &str) -> Option<Self> {
        unhex(text).map(Self)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuditKey({})", self.id)
    }
}

/// The key in use, and those that were before it: what they wrote is still read and found.
#[derive(Debug, Clone)]
pub struct AuditKeys {
    /// `audit.key`.
    pub current: Arc<AuditKey>,
    /// `audit.old_keys`.
    pub old: Vec<Arc<AuditKey>>,
}

impl From<AuditKey> for AuditKeys {
    fn from(current: AuditKey) -> Self {
        let current = Arc::new(current);
        Self {
            current,
            old: Vec::new(),
        }
    }
}

impl AuditKeys {
    /// The key in use, then the others.
    pub fn all(&self) -> impl Iterator<Item = &Arc<AuditKey>> {
        std::iter::once(&self.current).chain(&self.old)
    }

    /// The ids of those that are not in use any more.
    pub(super) fn ids(&self) -> impl Iterator<Item = KeyId> {
        self.old.iter().map(|key| key.id())
    }

    /// The one with this id.
    pub fn find(&self, id: KeyId) -> Option<&Arc<AuditKey>> {
        self.all().find(|key| key.id == id)
    }
}
