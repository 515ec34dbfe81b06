//! Faults that the simulator plays on request, as JSON and as types.
//!
//! Invariant: predictable. A share is spread evenly and without chance, so that a test that sends
//! 100 calls through a share of 0.2 meets the fault exactly 20 times. No member is accepted that
//! its kind would not use.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use super::storage::SERVICES;

/// What goes wrong. Times are milliseconds, sizes bytes; each member has a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum FaultKind {
    /// Closes the connection before the first byte of an answer.
    Close {},
    /// Waits before the answer (delays add up).
    Delay {
        /// How long.
        #[serde(default = "a_second")]
        ms: u64,
    },
    /// Sends the answer in small pieces, then closes the connection.
    Drip {
        /// The size of a piece.
        #[serde(default = "one")]
        bytes: u64,
        /// The pause between two.
        #[serde(default = "a_tenth")]
        ms: u64,
    },
    /// A success without a body.
    Empty {},
    /// A documented error with its documented status.
    Error {
        /// Which one.
        #[serde(default)]
        error: DocumentedError,
    },
    /// A documented error under HTTP 200.
    #[serde(rename = "error_with_200")]
    ErrorWith200 {
        /// Which one.
        #[serde(default)]
        error: DocumentedError,
    },
    /// Reads the request and never answers. `DELETE /_sim/faults` lets go.
    Hang {},
    /// The answer with a header block of this size, then closes the connection.
    Headers {
        /// The size of the one long header.
        #[serde(default = "sixty_four_kib")]
        bytes: u64,
    },
    /// A page of HTML in place of JSON.
    Html {
        /// Its status.
        #[serde(default = "bad_gateway")]
        status: u16,
    },
    /// Waits before the work, and so before the request is recorded (times add up). The work is done
    /// also for a client that has given up meanwhile.
    Late {
        /// How long.
        #[serde(default = "a_second")]
        ms: u64,
    },
    /// A success whose JSON breaks off, in a complete HTTP message.
    Malformed {},
    /// Bytes that are not HTTP, then closes the connection.
    NotHttp {},
    /// A success with a very long message, then closes the connection.
    Oversize {
        /// The size of the body.
        #[serde(default = "sixty_four_mib")]
        bytes: u64,
        /// Without `Content-Length`, in chunks.
        #[serde(default)]
        chunked: bool,
    },
    /// A redirect.
    Redirect {
        /// Its status.
        #[serde(default = "found")]
        status: u16,
        /// Its target.
        #[serde(default = "elsewhere")]
        location: String,
    },
    /// Resets the connection before the first byte of an answer.
    Reset {},
    /// Resets the connection inside the answer's body.
    ResetInBody {
        /// After how many bytes of the body.
        #[serde(default = "ten")]
        bytes: u64,
    },
    /// Does not read the request's body, and never answers. `DELETE /_sim/faults` lets go.
    Stall {},
    /// An error that no page documents.
    Status {
        /// Its status.
        #[serde(default = "internal")]
        status: u16,
        /// Its `message`.
        #[serde(default = "simulated")]
        message: String,
        /// Seconds in a `Retry-After` header.
        #[serde(default)]
        retry_after: Option<u64>,
    },
    /// Closes the connection inside the answer's body, short of its `Content-Length`.
    Truncate {
        /// After how many bytes of the body.
        #[serde(default = "ten")]
        bytes: u64,
    },
}

/// The errors that DCAMS documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DocumentedError {
    /// 401 `Either your username or password is incorrect`
    BadLogin,
    /// 400 `The email address is invalid`
    InvalidEmail,
    /// 400 `Missing a required input`
    MissingInput,
    /// 404 `The email address was not found`
    #[default]
    NotFound,
}

/// Where in the way of an answer a fault sits. One request meets at most one of each, but all
/// delays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Instead of what DCAMS would have answered.
    Answer,
    /// Before the body is read.
    Arrival,
    /// How the answer travels.
    Delivery,
    /// How long it takes, before the work or after it.
    Pace,
}

impl FaultKind {
    /// The name in JSON.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Close {} => "close",
            Self::Delay { .. } => "delay",
            Self::Drip { .. } => "drip",
            Self::Empty {} => "empty",
            Self::Error { .. } => "error",
            Self::ErrorWith200 { .. } => "error_with_200",
            Self::Hang {} => "hang",
            Self::Headers { .. } => "headers",
            Self::Html { .. } => "html",
            Self::Late { .. } => "late",
            Self::Malformed {} => "malformed",
            Self::NotHttp {} => "not_http",
            Self::Oversize { .. } => "oversize",
            Self::Redirect { .. } => "redirect",
            Self::Reset {} => "reset",
            Self::ResetInBody { .. } => "reset_in_body",
            Self::Stall {} => "stall",
            Self::Status { .. } => "status",
            Self::Truncate { .. } => "truncate",
        }
    }

    /// Where it strikes.
    pub(super) const fn place(&self) -> Place {
        match self {
            Self::Stall {} => Place::Arrival,
            Self::Delay { .. } | Self::Late { .. } => Place::Pace,
            Self::Empty {}
            | Self::Error { .. }
            | Self::ErrorWith200 { .. }
            | Self::Html { .. }
            | Self::Malformed {}
            | Self::Redirect { .. }
            | Self::Status { .. } => Place::Answer,
            Self::Close {}
            | Self::Drip { .. }
            | Self::Hang {}
            | Self::Headers { .. }
            | Self::NotHttp {}
            | Self::Oversize { .. }
            | Self::Reset {}
            | Self::ResetInBody { .. }
            | Self::Truncate { .. } => Place::Delivery,
        }
    }

    /// Whether its numbers are within what the simulator can play.
    fn check(&self) -> Result<(), FaultError> {
        let (ms, bytes, status) = match self {
            Self::Delay { ms } | Self::Late { ms } => (*ms, 1, 200),
            Self::Drip { bytes, ms } => (*ms, *bytes, 200),
            Self::Headers { bytes }
            | Self::Oversize { bytes, .. }
            | Self::ResetInBody { bytes }
            | Self::Truncate { bytes } => (0, *bytes, 200),
            Self::Html { status } | Self::Redirect { status, .. } | Self::Status { status, .. } => {
                (0, 1, *status)
            }
            Self::Close {}
            | Self::Empty {}
            | Self::Error { .. }
            | Self::ErrorWith200 { .. }
            | Self::Hang {}
            | Self::Malformed {}
            | Self::NotHttp {}
            | Self::Reset {}
            | Self::Stall {} => (0, 1, 200),
        };
        if ms > MAX_MS {
            return Err(FaultError::Ms);
        }
        if !(1..=MAX_BYTES).contains(&bytes) {
            return Err(FaultError::Bytes);
        }
        if !(200..=599).contains(&status) {
            return Err(FaultError::Status);
        }
        Ok(())
    }
}

const MAX_MS: u64 = 600_000;
const MAX_BYTES: u64 = 256 * 1024 * 1024;

fn a_second() -> u64 {
    1_000
}
fn a_tenth() -> u64 {
    100
}
fn one() -> u64 {
    1
}
fn ten() -> u64 {
    10
}
fn sixty_four_kib() -> u64 {
    64 * 1024
}
fn sixty_four_mib() -> u64 {
    64 * 1024 * 1024
}
fn bad_gateway() -> u16 {
    502
}
fn found() -> u16 {
    302
}
fn internal() -> u16 {
    500
}
fn elsewhere() -> String {
    "/elsewhere".to_owned()
}
fn simulated() -> String {
    "Simulated fault".to_owned()
}

/// A fault, and which calls it strikes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fault {
    #[serde(flatten)]
    pub(super) kind: FaultKind,
    /// How many calls are left for it; `null` is without end.
    pub(super) times: Option<u64>,
    /// The share of the calls that it strikes.
    share: Option<f64>,
    /// The one service that it strikes.
    pub(super) service: Option<&'static str>,
    /// Whether DCAMS does its work before things go wrong.
    pub(super) work: bool,
    /// The share that is owed, between 0 and 1.
    #[serde(skip)]
    owed: f64,
}

/// Why a fault cannot be played.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FaultError {
    /// A size out of bounds.
    #[error("`bytes` must be 1 to 268435456")]
    Bytes,
    /// A member that the kind does not have, a wrong type, or an unknown kind.
    #[error("{0}")]
    Kind(String),
    /// A time out of bounds.
    #[error("`ms` must be at most 600000")]
    Ms,
    /// Not a JSON object.
    #[error("a fault is a JSON object such as {{\"kind\":\"status\",\"status\":503,\"times\":2}}")]
    NotAnObject,
    /// A service that no page documents.
    #[error(
        "`service` must be createOrUpdateCustomer, getDocumentImages, getStatus or updateStatus"
    )]
    Service,
    /// A share out of bounds.
    #[error("`share` must be a number above 0 and at most 1")]
    Share,
    /// A service named for a fault that strikes before the service is known.
    #[error("`stall` strikes before the body is read, so it cannot have a `service`")]
    StallService,
    /// A status out of bounds.
    #[error("`status` must be 200 to 599")]
    Status,
    /// A count out of bounds.
    #[error("`times` must be a whole number of at least 1")]
    Times,
    /// Too many at once.
    #[error("100 faults are waiting already: DELETE /_sim/faults first")]
    TooMany,
    /// Not a truth value.
    #[error("`work` must be true or false")]
    Work,
}

impl Fault {
    /// A fault for the next call.
    pub fn once(kind: FaultKind) -> Self {
        Self::times(kind, 1)
    }

    /// A fault for the next calls.
    pub fn times(kind: FaultKind, times: u64) -> Self {
        Self {
            times: Some(times),
            ..Self::always(kind)
        }
    }

    /// A fault for every call until the faults are cleared.
    pub fn always(kind: FaultKind) -> Self {
        let work = kind.place() != Place::Answer;
        Self {
            kind,
            times: None,
            share: None,
            service: None,
            work,
            owed: 0.0,
        }
    }

    /// Strikes this share of the calls only, evenly spread.
    #[must_use]
    pub fn for_share(self, share: f64) -> Self {
        Self {
            share: Some(share),
            ..self
        }
    }

    /// Strikes calls of this service only.
    #[must_use]
    pub fn for_service(self, service: &'static str) -> Self {
        Self {
            service: Some(service),
            ..self
        }
    }

    /// Whether DCAMS does its work before things go wrong. By default it does, except where the
    /// fault stands in for its answer.
    #[must_use]
    pub fn with_work(self, work: bool) -> Self {
        Self { work, ..self }
    }

    /// Reads the body of `POST /_sim/faults`.
    pub(super) fn from_json(body: &[u8]) -> Result<Self, FaultError> {
        let mut members: Map<String, Value> =
            serde_json::from_slice(body).map_err(|_| FaultError::NotAnObject)?;
        let times = members.remove("times");
        let share = members.remove("share");
        let service = members.remove("service");
        let work = members.remove("work");
        // The text names members and what is allowed; what it repeats is this control call's own.
        let kind: FaultKind = serde_json::from_value(Value::Object(members))
            .map_err(|error| FaultError::Kind(error.to_string()))?;
        // Neither count nor share: one call.
        let mut fault = match (times, &share) {
            (None, None) => Self::once(kind),
            (None, Some(_)) => Self::always(kind),
            (Some(times), _) => Self::times(kind, times.as_u64().ok_or(FaultError::Times)?),
        };
        if let Some(share) = share {
            fault.share = Some(share.as_f64().ok_or(FaultError::Share)?);
        }
        if let Some(service) = service {
            let known = SERVICES.into_iter().find(|known| service == *known);
            fault.service = Some(known.ok_or(FaultError::Service)?);
        }
        if let Some(work) = work {
            fault.work = work.as_bool().ok_or(FaultError::Work)?;
        }
        Ok(fault)
    }

    /// Whether it can be played.
    pub(super) fn check(&self) -> Result<(), FaultError> {
        self.kind.check()?;
        if self.times == Some(0) {
            return Err(FaultError::Times);
        }
        if self
            .share
            .is_some_and(|share| !(share > 0.0 && share <= 1.0))
        {
            return Err(FaultError::Share);
        }
        if self
            .service
            .is_some_and(|service| !SERVICES.contains(&service))
        {
            return Err(FaultError::Service);
        }
        if self.service.is_some() && self.kind.place() == Place::Arrival {
            return Err(FaultError::StallService);
        }
        Ok(())
    }

    /// Counts a call that it could strike; true where it does.
    pub(super) fn strikes(&mut self) -> bool {
        if let Some(share) = self.share {
            self.owed += share;
            // A share such as 0.1 does not add up to 1 exactly.
            if self.owed < 1.0 - 1e-9 {
                return false;
            }
            self.owed -= 1.0;
        }
        self.times = self.times.map(|left| left.saturating_sub(1));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_known_by_its_name_alone() {
        for name in [
            "close",
            "delay",
            "drip",
            "empty",
            "error",
            "error_with_200",
            "hang",
            "headers",
            "html",
            "late",
            "malformed",
            "not_http",
            "oversize",
            "redirect",
            "reset",
            "reset_in_body",
            "stall",
            "status",
            "truncate",
        ] {
            let fault = Fault::from_json(format!(r#"{{"kind":"{name}"}}"#).as_bytes()).unwrap();
            assert_eq!(fault.kind.name(), name);
            assert_eq!(fault.times, Some(1));
            fault.check().unwrap();
        }
    }

    #[test]
    fn a_fault_that_cannot_be_played_is_refused() {
        for (body, expected) in [
            ("", FaultError::NotAnObject),
            ("[]", FaultError::NotAnObject),
            (r#"{"kind":"status","status":99}"#, FaultError::Status),
            (r#"{"kind":"delay","ms":600001}"#, FaultError::Ms),
            (r#"{"kind":"drip","bytes":0}"#, FaultError::Bytes),
            (r#"{"kind":"reset","times":0}"#, FaultError::Times),
            (r#"{"kind":"reset","times":"1"}"#, FaultError::Times),
            (r#"{"kind":"reset","share":1.5}"#, FaultError::Share),
            (r#"{"kind":"reset","share":0}"#, FaultError::Share),
            (r#"{"kind":"reset","work":1}"#, FaultError::Work),
            (
                r#"{"kind":"reset","service":"getstatus"}"#,
                FaultError::Service,
            ),
            (
                r#"{"kind":"stall","service":"getStatus"}"#,
                FaultError::StallService,
            ),
        ] {
            let outcome = Fault::from_json(body.as_bytes()).and_then(|fault| fault.check());
            assert_eq!(outcome, Err(expected), "{body}");
        }
        for body in [
            r#"{"kind":"nap"}"#,
            r#"{"kind":"reset","ms":5}"#,
            r#"{"ms":5}"#,
        ] {
            let refused = Fault::from_json(body.as_bytes());
            assert!(matches!(refused, Err(FaultError::Kind(_))), "{body}");
        }
    }
}
