//! Every way in which lines are not taken.
//!
//! Invariant: a failure is one of a closed set and holds nothing that the receiver said.

use std::time::Duration;

use thiserror::Error;

use crate::tls;

/// Why a batch was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum Failure {
    #[error("the receiver's certificate was refused; name its authority in `audit.ship.ca`")]
    Certificate,
    #[error("the answer is compressed; take out what changes the receiver's answers on their way")]
    Encoded,
    #[error("the connection ended before the answer")]
    Interrupted,
    #[error("the receiver asks for fewer requests (429)")]
    Limited,
    #[error("the answer is not a collector's; check that `audit.ship.url` ends in /v1/logs")]
    Malformed,
    #[error("no stream of JetStream has the subject; make one, or mend `audit.ship.subject`")]
    NoStream,
    #[error("the stream did not store it; see the server's log and the stream's limits")]
    NotStored,
    #[error("the answer is a redirect, and none is followed; name the receiver itself")]
    Redirected,
    #[error("the receiver refuses the lines themselves (400, 413, or as rejected records)")]
    Refused,
    #[error("the receiver failed (5xx)")]
    Server,
    #[error("the status has no meaning here; check `audit.ship.url`")]
    Status,
    #[error("it took longer than `audit.ship.timeout`")]
    TimedOut,
    #[error("no TLS connection came about; check that `audit.ship.url` speaks TLS")]
    Tls,
    #[error("the answer is larger than 64 KiB")]
    TooLarge,
    #[error("the receiver does not know us (401, 403); mend `audit.ship.token`")]
    Unauthorized,
    #[error("the receiver was not reached; check `audit.ship.url` and the network")]
    Unreachable,
    #[error("a file of the chain cannot be read; `dcams-gateway audit verify` says more")]
    Unreadable,
    #[error("`ship.cursor` cannot be written; mend the folder of the audit trail")]
    CursorUnwritable,
}

impl Failure {
    /// Why a request brought no answer.
    pub(super) fn of(error: &reqwest::Error) -> Self {
        if error.is_timeout() {
            return Self::TimedOut;
        }
        Self::of_tls(error).unwrap_or(if error.is_connect() {
            Self::Unreachable
        } else {
            Self::Interrupted
        })
    }

    /// Whether it is TLS that failed.
    pub(super) fn of_tls(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let found = tls::causes(error).find_map(|cause| cause.downcast_ref::<rustls::Error>());
        let refused = |error| matches!(error, &rustls::Error::InvalidCertificate(_));
        found.map(|error| {
            if refused(error) {
                Self::Certificate
            } else {
                Self::Tls
            }
        })
    }

    /// The reason in one word, for logs and metrics.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::CursorUnwritable => "cursor_unwritable",
            Self::Encoded => "encoded",
            Self::Interrupted => "interrupted",
            Self::Limited => "rate_limited",
            Self::Malformed => "malformed_answer",
            Self::NoStream => "no_stream",
            Self::NotStored => "not_stored",
            Self::Redirected => "redirected",
            Self::Refused => "line_refused",
            Self::Server => "server_error",
            Self::Status => "status",
            Self::TimedOut => "timed_out",
            Self::Tls => "tls",
            Self::TooLarge => "too_large",
            Self::Unauthorized => "unauthorized",
            Self::Unreachable => "unreachable",
            Self::Unreadable => "unreadable",
        }
    }
}

/// A failure, and how long the receiver asks to be left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotTaken {
    pub(super) failure: Failure,
    pub(super) retry_after: Option<Duration>,
}

impl From<Failure> for NotTaken {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            retry_after: None,
        }
    }
}
