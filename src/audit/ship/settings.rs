//! What `[audit.ship]` says: where lines go besides the chain's own files, and how.
//!
//! Invariant: the token is wiped when it is dropped, and nothing in here prints it.

use std::{fmt, time::Duration};

use http::HeaderValue;
use rustls::pki_types::CertificateDer;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::endpoint::Endpoint;

/// The `[audit.ship]` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShipSettings {
    /// Where to.
    pub place: Place,
    /// Which lines.
    pub what: What,
    /// What the receiver knows us by.
    pub token: Option<ShipToken>,
    /// Roots that are trusted besides the system's.
    pub roots: Vec<CertificateDer<'static>>,
    /// How long one batch may take, from connecting to the last byte of the answer.
    pub timeout: Duration,
    /// How much goes at once.
    pub batch: Bounds,
    /// The pause after a first failure; each further one is twice as long, up to the second.
    pub retry: (Duration, Duration),
}

/// Who takes the lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A server that takes lines of JSON by POST.
    Http(Endpoint),
    /// A stream of NATS.
    Nats {
        /// The server, with `https` for `tls` and `http` for `nats`.
        server: Endpoint,
        /// The subject that the stream has.
        subject: Subject,
    },
    /// A collector of OpenTelemetry's logs.
    Otlp(Endpoint),
}

/// Which lines are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// All.
    Events,
    /// Checkpoints alone: who keeps them sees whether anything before was changed, and learns nothing.
    Heads,
}

/// How much is sent at once. It is what the shipper holds in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Lines.
    pub lines: usize,
    /// Bytes of them; a longer line goes alone.
    pub bytes: usize,
    /// How long the first waits for others.
    pub wait: Duration,
}

/// A subject that can be published to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject(String);

/// A text is no subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("is not a subject that can be published to")]
pub struct NotASubject;

impl Subject {
    /// Reads a subject: words with one dot between them, none of the server's own.
    pub fn parse(text: &str) -> Result<Self, NotASubject> {
        let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'*' | b'>');
        let sound = |word: &str| !word.is_empty() && word.bytes().all(plain);
        let ours = !text.starts_with('$') && text.len() <= 256;
        if !ours || !text.split('.').all(sound) {
            return Err(NotASubject);
        }
        Ok(Self(text.to_owned()))
    }

    /// The subject.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What the receiver knows the gateway by.
#[derive(Clone)]
pub struct ShipToken(SecretString);

/// A text is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("is empty, or holds something else than visible ASCII characters")]
pub struct NotAToken;

impl ShipToken {
    /// Takes a token.
    #[expect(clippy::disallowed_methods, reason = "its characters are checked")]
    pub fn new(text: SecretString) -> Result<Self, NotAToken> {
        let sound = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        if !sound(text.expose_secret()) {
            return Err(NotAToken);
        }
        Ok(Self(text))
    }

    /// As the `Authorization` of a request.
    #[expect(clippy::disallowed_methods, reason = "the header is made of it here")]
    pub(super) fn bearer(&self) -> Option<HeaderValue> {
        let text = Zeroizing::new(format!("Bearer {}", self.0.expose_secret()));
        let mut header = HeaderValue::from_str(&text).ok()?;
        header.set_sensitive(true);
        Some(header)
    }

    /// As the library of NATS takes it, which keeps a copy.
    #[expect(clippy::disallowed_methods, reason = "the library needs it")]
    pub(super) fn plain(&self) -> String {
        self.0.expose_secret().to_owned()
    }
}

impl PartialEq for ShipToken {
    #[expect(
        clippy::disallowed_methods,
        reason = "two secrets are compared, in constant time"
    )]
    fn eq(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.0.expose_secret(), other.0.expose_secret());
        ours.as_bytes().ct_eq(theirs.as_bytes()).into()
    }
}

impl Eq for ShipToken {}

impl fmt::Debug for ShipToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShipToken([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_one_that_can_be_published_to() {
        for good in ["audit", "audit.gw-1.events", "a.$b"] {
            assert_eq!(Subject::parse(good).unwrap().as_str(), good);
        }
        let long = "x".repeat(257);
        for bad in [
            "", ".", "a.", ".a", "a..b", "a.*", "a.>", "a b", "a\r\nPUB", "$JS.API", "\u{e9}",
            &long,
        ] {
            assert_eq!(Subject::parse(bad), Err(NotASubject), "{bad:?}");
        }
    }

    #[test]
    fn a_token_is_what_a_header_can_carry_and_does_not_print() {
        let token = ShipToken::new("canary~!".into()).unwrap();
        assert_eq!(token.bearer().unwrap(), "Bearer canary~!");
        assert!(!format!("{token:?} {:?}", token.bearer()).contains("canary"));
        assert_eq!(token, ShipToken::new("canary~!".into()).unwrap());
        assert_ne!(token, ShipToken::new("canary~?".into()).unwrap());
        for bad in ["", "a b", "a\n", "\u{e9}"] {
            assert_eq!(ShipToken::new(bad.into()), Err(NotAToken), "{bad:?}");
        }
    }
}
