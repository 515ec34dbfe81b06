//! Our own credentials towards DCAMS, and the guard that keeps them from coming back to a client.
//!
//! Invariant: a credential is opened here once, when it is made. From then on it exists as the
//! escaped head of a request and as the guard's needles, both wiped when the last user of them is
//! gone. Nothing here prints a user, a password or the length of one.

mod echo;
pub mod vault;

use std::{fmt, sync::Arc};

use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;
use zeroize::Zeroizing;

pub use echo::EchoGuard;

use crate::{
    customer::EmailCase,
    ident::{AccountId, CredentialId},
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

/// A Veratad account: its credentials in the order in which they are tried.
#[derive(Debug, Clone)]
pub struct Account {
    /// Its name in the configuration.
    pub id: AccountId,
    /// At least one credential, the preferred one first.
    pub credentials: Vec<Arc<Credential>>,
    /// Whether addresses that differ in letter case alone are one customer.
    pub email_case: EmailCase,
}

/// One user and password pair of an account, ready to be put in front of a request.
pub struct Credential {
    id: CredentialId,
    head: Bytes,
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
    pub fn new(
        id: CredentialId,
        user: SecretString,
        pass: SecretString,
    ) -> Result<Arc<Self>, CredentialError> {
        check("user", user.expose_secret())?;
        check("pass", pass.expose_secret())?;
        Ok(Arc::new(Self {
            id,
            head: escaped_head(user.expose_secret(), pass.expose_secret()),
            echo: EchoGuard::new(user.expose_secret(), pass.expose_secret()),
        }))
    }

    /// What it is called in logs, metrics and audit events.
    pub const fn id(&self) -> &CredentialId {
        &self.id
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
        f.debug_struct("Credential")
            .field("id", &self.id)
            .finish_non_exhaustive()
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

fn escaped_head(user: &str, pass: &str) -> Bytes {
    // Six bytes is the longest escape of one byte (`\u001f`). With the room taken beforehand the
    // buffer never grows, so it leaves no copy behind that is not wiped.
    let room = 6 * (user.len() + pass.len()) + 32;
    let mut head = Zeroizing::new(Vec::with_capacity(room));
    head.extend_from_slice(b"{\"user\":");
    write_string(&mut head, user);
    head.extend_from_slice(b",\"pass\":");
    write_string(&mut head, pass);
    head.push(b',');
    debug_assert!(head.len() <= room, "the buffer grew");
    Bytes::from_owner(head)
}

fn write_string(buffer: &mut Vec<u8>, text: &str) {
    let written = serde_json::to_writer(buffer, text);
    debug_assert!(written.is_ok(), "writing a string to memory cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(user: &str, pass: &str) -> Result<Arc<Credential>, CredentialError> {
        Credential::new(
            CredentialId::try_from("2026-11").unwrap(),
            user.into(),
            pass.into(),
        )
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
    fn a_credential_prints_its_id_only() {
        let account = Account {
            id: AccountId::try_from("main").unwrap(),
            credentials: vec![credential("canary-user", "canary-pass").unwrap()],
            email_case: EmailCase::Ignore,
        };
        let shown = format!("{account:?} {:?}", account.credentials[0].echo());
        assert!(shown.contains("2026-11") && shown.contains("main"));
        assert!(!shown.contains("canary"), "{shown}");
    }
}
