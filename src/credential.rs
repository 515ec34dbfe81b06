//! Our own credentials towards DCAMS, and the guard that keeps them from coming back to a client.
//!
//! Invariant: a credential is opened here once, when it is made. From then on it exists as the
//! escaped head of a request and as the guard's needles, both wiped when the last user of them is
//! gone. Nothing here prints a user, a password or the length of one.
//!
//! `rotation` decides (pure) what becomes of an account's credentials, `pool` has those that are live,
//! `source` reads them.

mod echo;
pub mod pool;
pub mod rotation;
pub mod source;
pub mod vault;

use std::{fmt, sync::Arc};

use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::Zeroizing;

pub use echo::EchoGuard;

use self::{
    rotation::{Pace, Validity},
    source::Source,
};
use crate::{
    customer::EmailCase,
    ident::{AccountId, CredentialId, Pseudonym, PseudonymKey, Purpose},
    redact::Redacted,
};

/// The longest user or password, in bytes of UTF-8.
const MAX_BYTES: usize = 1024;

/// Why a user and password pair is not a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CredentialError {
    /// The user or the password is empty: it would be sent as such.
    #[error("the {0} is empty")]
    Empty(&'static str),
    /// The user or the password is longer than any real one.
    #[error("the {0} is longer than {MAX_BYTES} bytes")]
    TooLong(&'static str),
}

/// A Veratad account, as configured: its credentials in the order in which they are preferred.
#[derive(Debug, Clone)]
pub struct Account {
    /// Its name in the configuration.
    pub id: AccountId,
    /// At least one credential, the preferred one first.
    pub credentials: Vec<CredentialSettings>,
    /// Whether addresses that differ in letter case alone are one customer.
    pub email_case: EmailCase,
    /// How its rotations are paced.
    pub pace: Pace,
    /// Whose status a probe asks for.
    pub probe: Option<Redacted<String>>,
}

/// One credential of an account, as configured.
#[derive(Debug, Clone)]
pub struct CredentialSettings {
    /// Its name.
    pub id: CredentialId,
    /// When it may be used.
    pub validity: Validity,
    /// Where its value comes from.
    pub source: Source,
    /// Its value at the time that the configuration was read, where that could be read with it.
    pub value: Option<Arc<Credential>>,
}

/// One user and password pair of an account, ready to be put in front of a request.
pub struct Credential {
    head: Bytes,
    /// Where the user ends in it.
    user_end: usize,
    echo: EchoGuard,
}

impl Credential {
    /// Opens the pair, escapes it once, and forgets the plain form.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where a DCAMS credential is opened: its sealed form is made here"
    )]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the caller gives the pair up, so that it is wiped when this returns"
    )]
    pub fn new(user: SecretString, pass: SecretString) -> Result<Arc<Self>, CredentialError> {
        let (user, pass) = (user.expose_secret(), pass.expose_secret());
        check("user", user)?;
        check("pass", pass)?;
        let (head, user_end) = escaped_head(user, pass);
        Ok(Arc::new(Self {
            head,
            user_end,
            echo: EchoGuard::new(user, pass),
        }))
    }

    /// Whether user and password are the same. Takes as long whatever they are.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.head.ct_eq(&other.head).into()
    }

    /// Whether the user is the same, and with it the account at DCAMS.
    pub fn has_user_of(&self, other: &Self) -> bool {
        self.user().ct_eq(other.user()).into()
    }

    /// What the state store knows it by: a keyed pseudonym that nobody else can make.
    pub fn identity(
        &self,
        key: &PseudonymKey,
        account: &AccountId,
        id: &CredentialId,
    ) -> Pseudonym {
        // No name holds a NUL, so no two pairs of name and value give the same input.
        let mut named = Zeroizing::new(Vec::with_capacity(id.as_str().len() + 1 + self.head.len()));
        named.extend_from_slice(id.as_str().as_bytes());
        named.push(0);
        named.extend_from_slice(&self.head);
        key.pseudonym(Purpose::Credential, account, &named)
    }

    fn user(&self) -> &[u8] {
        self.head.get(..self.user_end).unwrap_or_default()
    }

    /// The beginning of a request's body, `{"user":"…","pass":"…",`, to which the rest of the
    /// object is added. A clone shares the bytes; they are wiped when the last one is dropped.
    pub fn head(&self) -> Bytes {
        self.head.clone()
    }

    /// Finds this credential in what is about to be relayed.
    pub const fn echo(&self) -> &EchoGuard {
        &self.echo
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").finish_non_exhaustive()
    }
}

fn check(what: &'static str, value: &str) -> Result<(), CredentialError> {
    if value.is_empty() {
        return Err(CredentialError::Empty(what));
    }
    if value.len() > MAX_BYTES {
        return Err(CredentialError::TooLong(what));
    }
    Ok(())
}

/// The head, and where the user ends in it.
fn escaped_head(user: &str, pass: &str) -> (Bytes, usize) {
    // Six bytes is the longest escape of one byte (`\u001f`). With the room taken beforehand the
    // buffer never grows, so it leaves no copy behind that is not wiped.
    let room = 6 * (user.len() + pass.len()) + 32;
    let mut head = Zeroizing::new(Vec::with_capacity(room));
    head.extend_from_slice(b"{\"user\":");
    write_string(&mut head, user);
    let user_end = head.len();
    head.extend_from_slice(b",\"pass\":");
    write_string(&mut head, pass);
    head.push(b',');
    debug_assert!(head.len() <= room, "the buffer grew");
    (Bytes::from_owner(head), user_end)
}

fn write_string(buffer: &mut Vec<u8>, text: &str) {
    let written = serde_json::to_writer(buffer, text);
    debug_assert!(written.is_ok(), "writing a string to memory cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(user: &str, pass: &str) -> Result<Arc<Credential>, CredentialError> {
        Credential::new(user.into(), pass.into())
    }

    #[test]
    fn a_pair_is_neither_empty_nor_endless() {
        let longest = "x".repeat(MAX_BYTES);
        assert!(credential(&longest, &longest).is_ok());
        let longer = "x".repeat(MAX_BYTES + 1);
        for (user, pass, error) in [
            ("", "p", CredentialError::Empty("user")),
            ("u", "", CredentialError::Empty("pass")),
            (longer.as_str(), "p", CredentialError::TooLong("user")),
            ("u", longer.as_str(), CredentialError::TooLong("pass")),
        ] {
            assert_eq!(credential(user, pass).unwrap_err(), error);
        }
    }

    #[test]
    fn any_text_survives_the_escaping() {
        let all: String = (0..0x80).map(char::from).collect();
        let kib = "\u{1}".repeat(MAX_BYTES);
        for value in [
            "plain",
            "q\"uote",
            "back\\slash",
            "line\nbreak\r\t",
            "sep\u{2028}\u{2029}",
            "emoji 🔑 é",
            "\u{0}",
            "{\"user\":\"x\"}",
            &all,
            &kib,
        ] {
            let credential = credential(value, value).unwrap();
            let mut body = credential.head().to_vec();
            body.extend_from_slice(b"\"service\":\"getStatus\"}");
            let read: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(read["user"], value);
            assert_eq!(read["pass"], value);
        }
    }

    #[test]
    fn the_head_is_shared_and_not_copied() {
        let credential = credential("user", "pass").unwrap();
        assert_eq!(credential.head().as_ptr(), credential.head().as_ptr());
    }

    #[test]
    fn a_pair_is_told_from_others() {
        let one = credential("u", "p").unwrap();
        for (user, pass, same, same_user) in [
            ("u", "p", true, true),
            ("u", "q", false, true),
            ("v", "p", false, false),
            ("u\",\"pass\":\"p", "p", false, false),
        ] {
            let other = credential(user, pass).unwrap();
            assert_eq!(one.is_same_as(&other), same, "{user} {pass}");
            assert_eq!(one.has_user_of(&other), same_user, "{user} {pass}");
        }
    }

    #[test]
    fn a_credential_prints_nothing() {
        let credential = credential("canary-user", "canary-pass").unwrap();
        let shown = format!("{credential:?} {:?}", credential.echo());
        assert!(!shown.contains("canary"), "{shown}");
    }
}
