//! Names of things, bounded and safe wherever a name travels: a log field, a metric label, a key.
//!
//! Invariant: a value of these types is already valid. Nothing here holds a person's data; a person
//! appears only as a [`Pseudonym`], which needs the key to be made and cannot be turned back.

use std::{
    borrow::{Borrow, Cow},
    fmt,
    str::FromStr,
    sync::Arc,
};

use aws_lc_rs::hmac;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;
use uuid::Uuid;

/// A name that is not 1 to 64 of `[A-Za-z0-9._-]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a name is 1 to 64 characters of A-Z a-z 0-9 . _ -")]
pub struct InvalidName;

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<&str> for $type {
            type Error = InvalidName;

            fn try_from(text: &str) -> Result<Self, InvalidName> {
                is_name(text).then(|| Self(text.into())).ok_or(InvalidName)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                // The message is that of `InvalidName`, which repeats nothing of the text.
                let text = Cow::<str>::deserialize(deserializer)?;
                Self::try_from(text.as_ref()).map_err(de::Error::custom)
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// A Veratad account of the configuration.
    AccountId
}
name! {
    /// One user and password pair of an account; says nothing about either.
    CredentialId
}
name! {
    /// What an operator calls a grant, so that it counts once.
    GrantId
}
name! {
    /// A token issuer of the configuration (not its `iss`).
    IssuerId
}
name! {
    /// A gateway among others, and its audit chain.
    NodeId
}
name! {
    /// What an operator calls himself. It has no room for an email address.
    OperatorName
}
name! {
    /// A tenant: the company or product whose frontends call the gateway.
    TenantId
}

fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// The gateway's own id of one request (UUID version 7, RFC 9562): never the client's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(Uuid);

impl RequestId {
    /// A new id; ids of one process sort by the time they were made.
    pub fn mint() -> Self {
        Self(Uuid::now_v7())
    }
}

impl FromStr for RequestId {
    type Err = uuid::Error;

    /// Reads what `Display` wrote.
    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(Self)
    }
}

impl Serialize for RequestId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RequestId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse()
            .map_err(|_| de::Error::custom("expected a UUID"))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What a pseudonym stands for. The same value under two purposes gives two pseudonyms, so that
/// those who read one record cannot follow it into another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// An answer, as its entity tag.
    Answer,
    /// A credential's value, as the name of what is known of it.
    Credential,
    /// A customer's email in an audit event.
    Customer,
    /// A customer's email in the ledger of who owns it.
    Owner,
    /// A caller's reference in an audit event.
    Reference,
    /// What a revocation covers, as its entry's name.
    Revocation,
    /// A tenant's customer, as the name of the status that is kept of it; also the tenant alone.
    Status,
    /// A token's subject in an audit event.
    Subject,
    /// A tenant's day or month, as the name of its account of quotas.
    Usage,
}

impl Purpose {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Answer => b"answer",
            Self::Credential => b"credential",
            Self::Customer => b"customer",
            Self::Owner => b"owner",
            Self::Reference => b"reference",
            Self::Revocation => b"revocation",
            Self::Status => b"status",
            Self::Subject => b"subject",
            Self::Usage => b"usage",
        }
    }
}

/// Within what one value has one pseudonym: a name, so that it holds no NUL.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a>(&'a str);

impl Scope<'_> {
    /// The whole gateway; no name is empty.
    pub const GATEWAY: Self = Self("");
}

impl<'a> From<&'a TenantId> for Scope<'a> {
    fn from(tenant: &'a TenantId) -> Self {
        Self(tenant.as_str())
    }
}

impl<'a> From<&'a AccountId> for Scope<'a> {
    fn from(account: &'a AccountId) -> Self {
        Self(account.as_str())
    }
}

/// A key that pseudonyms are made with, derived from `state.key` or, in the audit trail, `audit.key`.
#[derive(Clone)]
pub struct PseudonymKey {
    /// Shared, because it is large and every tenant has one.
    key: Arc<hmac::Key>,
    id: [u8; 4],
}

impl PseudonymKey {
    /// Derives the key, and the short id that tells which key made a pseudonym.
    pub fn derive(secret: &[u8; 32]) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derived = hmac::sign(&root, b"dcams-gateway pseudonym v1");
        let key = hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref());
        let id = first(hmac::sign(&key, b"id").as_ref());
        let key = Arc::new(key);
        Self { key, id }
    }

    /// Which key it is: what its pseudonyms begin with.
    pub const fn id(&self) -> [u8; 4] {
        self.id
    }

    /// The pseudonym of `value` for one purpose and within one scope, a tenant or an account:
    /// HMAC-SHA-256 cut to 128 bits.
    pub fn pseudonym<'a>(
        &self,
        purpose: Purpose,
        scope: impl Into<Scope<'a>>,
        value: &[u8],
    ) -> Pseudonym {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(purpose.label());
        // Neither a label nor a name holds a NUL, so no two tuples give the same input.
        context.update(b"\0");
        context.update(scope.into().0.as_bytes());
        context.update(b"\0");
        context.update(value);
        Pseudonym {
            key: self.id,
            tag: first(context.sign().as_ref()),
        }
    }
}

impl fmt::Debug for PseudonymKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Correlates what one customer or subject did within a tenant, for whoever holds the log only.
///
/// Keyed, because a plain hash of an email is guessed in minutes. Shown as `key-id:tag` in hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pseudonym {
    key: [u8; 4],
    tag: [u8; 16],
}

impl Pseudonym {
    /// How many bytes it has.
    pub const LEN: usize = 20;

    /// All of it, to be stored.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let (key, tag) = bytes.split_at_mut(self.key.len());
        key.copy_from_slice(&self.key);
        tag.copy_from_slice(&self.tag);
        bytes
    }

    /// What [`Pseudonym::to_bytes`] gave; nothing else has its length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (key, tag) = bytes.split_first_chunk()?;
        let tag = tag.try_into().ok()?;
        Some(Self { key: *key, tag })
    }
}

impl fmt::Display for Pseudonym {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As one piece of text: an audit event holds three of these.
        let mut text = [b':'; 41];
        let (key, rest) = text.split_at_mut(8);
        hex(&self.key, key);
        hex(&self.tag, rest.get_mut(1..).unwrap_or_default());
        f.write_str(str::from_utf8(&text).unwrap_or_default())
    }
}

/// Writes bytes as hexadecimal digits, two each, as far as `text` has room.
pub fn hex(bytes: &[u8], text: &mut [u8]) {
    let digit = |nibble: u8| match nibble {
        0..=9 => b'0' + nibble,
        _ => b'a' - 10 + nibble,
    };
    for (byte, digits) in bytes.iter().zip(text.chunks_exact_mut(2)) {
        digits.copy_from_slice(&[digit(byte >> 4), digit(byte & 0xF)]);
    }
}

impl FromStr for Pseudonym {
    type Err = InvalidPseudonym;

    /// Reads what `Display` wrote.
    fn from_str(text: &str) -> Result<Self, InvalidPseudonym> {
        let (key, tag) = text.split_once(':').ok_or(InvalidPseudonym)?;
        Ok(Self {
            key: unhex(key).ok_or(InvalidPseudonym)?,
            tag: unhex(tag).ok_or(InvalidPseudonym)?,
        })
    }
}

/// A text that is no pseudonym's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("expected 8 and 32 hexadecimal digits with a colon between them")]
pub struct InvalidPseudonym;

/// The bytes of exactly as many lower-case hexadecimal digits.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let mut bytes = [0; N];
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

impl fmt::Debug for Pseudonym {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The first `N` bytes of a MAC (32 bytes here); zeros where there are fewer.
fn first<const N: usize>(mac: &[u8]) -> [u8; N] {
    mac.first_chunk().copied().unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_bounded_and_plain() {
        for good in ["a", "acme-1.prod_eu", &"x".repeat(64)] {
            assert!(TenantId::try_from(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a\n", "é", "a/b", "a\0", &"x".repeat(65)] {
            assert_eq!(TenantId::try_from(bad), Err(InvalidName), "{bad:?}");
        }
    }

    #[test]
    fn a_pseudonym_depends_on_key_purpose_and_scope() {
        let (one, two) = (
            PseudonymKey::derive(&[1; 32]),
            PseudonymKey::derive(&[2; 32]),
        );
        let (a, b) = (
            TenantId::try_from("a").unwrap(),
            TenantId::try_from("b").unwrap(),
        );
        let base = one.pseudonym(Purpose::Customer, &a, b"x@y.example");
        assert_eq!(base, one.pseudonym(Purpose::Customer, &a, b"x@y.example"));
        assert_ne!(base, two.pseudonym(Purpose::Customer, &a, b"x@y.example"));
        assert_ne!(base, one.pseudonym(Purpose::Subject, &a, b"x@y.example"));
        assert_ne!(base, one.pseudonym(Purpose::Customer, &b, b"x@y.example"));
        assert!(!base.to_string().contains("x@y"));
        assert_eq!(Pseudonym::from_bytes(&base.to_bytes()), Some(base));
        assert_eq!(Pseudonym::from_bytes(&base.to_bytes()[1..]), None);
        assert_eq!(
            Pseudonym::from_bytes(&[&base.to_bytes()[..], b"x"].concat()),
            None
        );
        let shown = Pseudonym {
            key: [0, 1, 0x9A, 0xFF],
            tag: [0xB0; 16],
        };
        assert_eq!(shown.to_string(), format!("00019aff:{}", "b0".repeat(16)));
    }
}
