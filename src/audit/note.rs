//! What a node says of its chain to who cannot read it, or does not believe it: so many lines, with this
//! root. A checkpoint as the signed note of C2SP (<https://c2sp.org/tlog-checkpoint>,
//! <https://c2sp.org/signed-note>), which the tools of transparency logs read.
//!
//! Invariant: a [`Checkpoint`] that came out of [`PublicKey::open`] was signed by who has the private key.

use std::{borrow::Cow, fmt, str::FromStr};

use aws_lc_rs::{
    digest::{self, SHA256},
    signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use super::tree::Hash;
use crate::ident::NodeId;

/// A chain at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Whose chain.
    pub node: NodeId,
    /// How many lines it has.
    pub size: u64,
    /// The root of the tree over them.
    pub root: Hash,
}

/// Why a note is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NoteError {
    /// It is no note, or not of a chain.
    #[error("is no checkpoint; one begins with the line `dcams-gateway/NODE`")]
    Malformed,
    /// No signature in it is by this key.
    #[error("is not signed by this key")]
    OtherKey,
    /// A signature claims to be by this key, and is not.
    #[error("has a signature that does not verify")]
    Forged,
}

/// With which checkpoints are signed.
pub struct SigningKey(Ed25519KeyPair);

/// With which anyone checks them: as text `dcams-gateway/NODE+ID+KEY`, a verifier key of signed notes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    node: NodeId,
    key: [u8; 32],
}

/// What each chain's name begins with.
const ORIGIN: &str = "dcams-gateway/";
/// Ed25519, in keys and signatures of notes.
const ALGORITHM: u8 = 1;

/// Whose chain a note is about that begins with this line.
pub(super) fn node_of(line: &str) -> Option<NodeId> {
    line.strip_prefix(ORIGIN)?.try_into().ok()
}

impl Checkpoint {
    /// What is signed.
    fn text(&self) -> String {
        let Self { node, size, root } = self;
        format!("{ORIGIN}{node}\n{size}\n{root}\n")
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let node = node_of(lines.next()?)?;
        let (size, root) = (lines.next()?, lines.next()?);
        let parsed = Self {
            node,
            size: size.parse().ok()?,
            root: Hash::parse(root)?,
        };
        // One checkpoint has one text: no sign before a number, no zeros, nothing after it.
        (parsed.text() == text).then_some(parsed)
    }

    /// The note: this checkpoint with one signature, as [`SigningKey::sign`] made it.
    pub fn note(&self, key: &PublicKey, signature: &Signature) -> String {
        let signed = [&key.id()[..], &signature.0].concat();
        let signed = BASE64_STANDARD.encode(signed);
        format!("{}\n\u{2014} {ORIGIN}{} {signed}\n", self.text(), key.node)
    }
}

/// An Ed25519 signature of a checkpoint; as text in base64.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; 64]);

impl Signature {
    /// Reads what `Display` wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = BASE64_STANDARD.decode(text).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom("expected 64 bytes in base64"))
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl SigningKey {
    /// The key of this seed.
    ///
    /// # Panics
    /// Never: any 32 bytes are a seed of Ed25519.
    #[expect(clippy::expect_used, reason = "see above")]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(seed).expect("32 bytes"))
    }

    /// Its public half, for the chain of this node.
    pub fn public(&self, node: &NodeId) -> PublicKey {
        let key = self.0.public_key().as_ref();
        PublicKey {
            node: node.clone(),
            key: key.first_chunk().copied().unwrap_or([0; 32]),
        }
    }

    /// Signs a checkpoint.
    pub fn sign(&self, checkpoint: &Checkpoint) -> Signature {
        let signature = self.0.sign(checkpoint.text().as_bytes());
        Signature(signature.as_ref().first_chunk().copied().unwrap_or([0; 64]))
    }
}

impl PublicKey {
    /// Whose chain it is for.
    pub const fn node(&self) -> &NodeId {
        &self.node
    }

    /// Whether it made this signature of this checkpoint, of its own node.
    pub fn made(&self, signature: &Signature, checkpoint: &Checkpoint) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, self.key);
        let verified = key.verify(checkpoint.text().as_bytes(), &signature.0);
        checkpoint.node == self.node && verified.is_ok()
    }

    /// The checkpoint of a note that this key signed; other signatures are passed over.
    ///
    /// # Errors
    /// [`NoteError`]
    pub fn open(&self, note: &str) -> Result<Checkpoint, NoteError> {
        let (text, signatures) = note.split_once("\n\n").ok_or(NoteError::Malformed)?;
        let checkpoint = Checkpoint::parse(&format!("{text}\n")).ok_or(NoteError::Malformed)?;
        let own = |line: &str| {
            let (name, signed) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
            let signed = BASE64_STANDARD.decode(signed).ok()?;
            let (id, signature) = signed.split_first_chunk::<4>()?;
            let ours = name.strip_prefix(ORIGIN) == Some(self.node.as_str()) && *id == self.id();
            ours.then(|| signature.try_into().ok().map(Signature))
        };
        match signatures.lines().find_map(own) {
            None => Err(NoteError::OtherKey),
            Some(Some(signature)) if self.made(&signature, &checkpoint) => Ok(checkpoint),
            Some(_) => Err(NoteError::Forged),
        }
    }

    /// By which signatures and keys find each other.
    fn id(&self) -> [u8; 4] {
        let mut context = digest::Context::new(&SHA256);
        context.update(format!("{ORIGIN}{}\n", self.node).as_bytes());
        context.update(&[ALGORITHM]);
        context.update(&self.key);
        let digest = context.finish();
        digest.as_ref().first_chunk().copied().unwrap_or([0; 4])
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = u32::from_be_bytes(self.id());
        let key = BASE64_STANDARD.encode([&[ALGORITHM], &self.key[..]].concat());
        write!(f, "{ORIGIN}{}+{id:08x}+{key}", self.node)
    }
}

/// A text that is no public key's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "expected a public key as `dcams-gateway audit public-key` prints it: dcams-gateway/NODE+ID+KEY"
)]
pub struct InvalidPublicKey;

impl FromStr for PublicKey {
    type Err = InvalidPublicKey;

    /// Reads what `Display` wrote.
    fn from_str(text: &str) -> Result<Self, InvalidPublicKey> {
        let parse = || {
            let (name, rest) = text.trim().split_once('+')?;
            let bytes = BASE64_STANDARD.decode(rest.split_once('+')?.1).ok()?;
            let key = bytes.strip_prefix(&[ALGORITHM])?;
            Some(Self {
                node: name.strip_prefix(ORIGIN)?.try_into().ok()?,
                key: key.try_into().ok()?,
            })
        };
        // Its id is part of the text, and shows a slip.
        parse()
            .filter(|key: &Self| key.to_string() == text.trim())
            .ok_or(InvalidPublicKey)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed() -> (PublicKey, Checkpoint, String) {
        let node = NodeId::try_from("gw-1").unwrap();
        let key = SigningKey::from_seed(&[7; 32]);
        let checkpoint = Checkpoint {
            root: Hash::of_leaf(b"a line"),
            node: node.clone(),
            size: 17,
        };
        let signature = key.sign(&checkpoint);
        let public = key.public(&node);
        let note = checkpoint.note(&public, &signature);
        (public, checkpoint, note)
    }

    #[test]
    fn a_note_is_opened_with_its_key_as_text_and_not_when_anything_in_it_is_changed() {
        let (key, checkpoint, note) = signed();
        let key: PublicKey = key.to_string().parse().unwrap();
        assert_eq!(key.open(&note), Ok(checkpoint));
        for index in 0..note.len() {
            let mut bytes = note.clone().into_bytes();
            bytes[index] ^= 1;
            if let Ok(changed) = String::from_utf8(bytes) {
                assert!(key.open(&changed).is_err(), "{changed:?}");
            }
        }
        for (from, to) in [("\n17\n", "\n+17\n"), ("\n17\n", "\n017\n")] {
            assert_eq!(key.open(&note.replace(from, to)), Err(NoteError::Malformed));
        }
    }

    #[test]
    fn a_signature_counts_for_its_key_and_node_only_and_others_are_passed_over() {
        let (key, checkpoint, note) = signed();
        let other = SigningKey::from_seed(&[8; 32]);
        let signature = other.sign(&checkpoint);
        let theirs = other.public(key.node());
        assert_eq!(theirs.open(&note), Err(NoteError::OtherKey));
        let (_, line) = checkpoint
            .note(&theirs, &signature)
            .split_once("\n\n")
            .map(|(text, line)| (text.to_owned(), line.to_owned()))
            .unwrap();
        assert_eq!(
            key.open(&note.replace("\n\n", &format!("\n\n{line}"))),
            Ok(checkpoint.clone())
        );
        let elsewhere = SigningKey::from_seed(&[7; 32]).public(&"gw-2".try_into().unwrap());
        assert_eq!(elsewhere.open(&note), Err(NoteError::OtherKey));
        assert!(!elsewhere.made(
            &SigningKey::from_seed(&[7; 32]).sign(&checkpoint),
            &checkpoint
        ));
    }

    #[test]
    fn a_public_key_with_a_slip_is_refused() {
        let text = signed().0.to_string();
        assert!(text.starts_with("dcams-gateway/gw-1+"), "{text}");
        for index in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[index] ^= 1;
            let changed = String::from_utf8(bytes).unwrap();
            assert!(changed.parse::<PublicKey>().is_err(), "{changed}");
        }
    }
}
