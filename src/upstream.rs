//! What goes to DCAMS and what comes back.
//!
//! A submission is sealed with our credential (`seal`), sent (`client`, over what `connect` opens),
//! and the answer is understood (`verdict`) or refused. Invariant: the upstream is trusted with
//! what it stores and with nothing else; every byte of its answer is parsed as hostile input, and
//! nothing of it is relayed that is not understood.

pub mod answer;
pub mod client;
mod connect;
mod document;
mod image;
pub mod seal;
pub mod verdict;

use std::fmt;

use bytes::Bytes;
use http::StatusCode;

/// What the upstream answered: bounded by the client that read it, and not yet understood.
pub struct UpstreamReply {
    status: StatusCode,
    frames: Vec<Bytes>,
    len: u64,
}

impl UpstreamReply {
    /// An answer of this status and body; none of the upstream's headers is kept.
    pub fn new(status: StatusCode, frames: Vec<Bytes>) -> Self {
        let len = frames
            .iter()
            .map(|frame| u64::try_from(frame.len()).unwrap_or(u64::MAX))
            .fold(0, u64::saturating_add);
        Self {
            status,
            frames,
            len,
        }
    }

    /// The HTTP status.
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// The body, as it arrived.
    pub fn frames(&self) -> &[Bytes] {
        &self.frames
    }

    /// How many bytes the body has.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether there was no body.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl fmt::Debug for UpstreamReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamReply")
            .field("status", &self.status.as_u16())
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}
