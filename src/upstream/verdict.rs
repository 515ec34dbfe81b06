//! Decides what an answer of the upstream means: status and body together.
//!
//! The vendor has no machine-readable error code: the HTTP status, the word in `result` and the
//! text in `message` are all there is, and any of them may contradict another. Invariant: what is
//! not documented is not guessed at but [`Refusal::Malformed`]; a success is HTTP 200 *and*
//! `"result":"Success"`; nothing that holds our credential is ever part of a verdict.

use std::fmt;

use http::StatusCode;

use super::{
    UpstreamReply,
    answer::Answer,
    document::{Members, Node, Presence},
};
use crate::{
    credential::{EchoGuard, rotation::Login},
    operation::Operation,
    payload::lift::{Lifted, lift},
    redact::Redacted,
    tenant::Disclosure,
};

/// The bound of an answer without its images; the vendor's longest has about 500 bytes.
const SKELETON_LIMIT: usize = 64 * 1024;
/// The longest message, in characters.
const MAX_MESSAGE: usize = 512;

/// The messages that the vendor documents.
const BAD_LOGIN: &str = "Either your username or password is incorrect";
/// What DCAMS says of a customer that it does not know.
pub const NOT_FOUND: &str = "The email address was not found";
const REFUSALS: [&str; 2] = ["The email address is invalid", "Missing a required input"];

/// Why an answer is not relayed as a success.
#[derive(Debug, Clone)]
pub enum Refusal {
    /// Our credential was not accepted, so nothing was done.
    CredentialsRejected,
    /// Something that was to be relayed holds our user or password: 502 and an alert.
    Echo,
    /// Not an answer that the vendor documents.
    Malformed(Fault),
    /// The customer does not exist.
    NotFound {
        /// The upstream's text.
        message: Message,
    },
    /// The upstream refuses the request's content.
    Refused {
        /// The upstream's text.
        message: Message,
    },
    /// The upstream cannot serve now (429 and 5xx).
    Unavailable {
        /// Its HTTP status.
        status: StatusCode,
    },
}

impl Refusal {
    /// One word for logs and audit events.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::CredentialsRejected => "credentials_rejected",
            Self::Echo => "credential_echoed",
            Self::Malformed(fault) => fault.reason(),
            Self::NotFound { .. } => "customer_not_found",
            Self::Refused { .. } => "refused_by_upstream",
            Self::Unavailable { .. } => "upstream_failing",
        }
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Malformed(fault)
    }
}

/// The upstream's own words: at most 512 characters, none of them a control character, without our
/// credential. They may name a customer, so they do not print.
#[derive(Debug, Clone)]
pub struct Message(Redacted<String>);

impl Message {
    /// What DCAMS says of a customer that it does not know.
    pub fn not_found() -> Self {
        Self(Redacted::new(NOT_FOUND.to_owned()))
    }

    /// The text, for the client.
    pub fn as_str(&self) -> &str {
        self.0.reveal()
    }
}

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Status, result and message contradict each other.
    Contradiction,
    /// A documented member stands there twice.
    DuplicateMember,
    /// A status that the vendor does not document.
    HttpStatus,
    /// An image is not base64 text.
    Image,
    /// No message where one is documented, or one that cannot be relayed.
    Message,
    /// Not one JSON object, or cut off, or not UTF-8.
    NotJson,
    /// `result` is missing, or neither `Success` nor `Error`.
    Result,
    /// The customer's status is missing or not a documented word.
    Status,
    /// A text of kilobytes where the vendor documents a short one.
    TextTooLong,
    /// Without its images the answer is still beyond any that is documented.
    TooLarge,
    /// A 200 whose error message is not documented.
    UnknownError,
    /// A documented member is not of its documented type.
    WrongType,
}

impl Fault {
    /// One word for logs, metrics and audit events.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Contradiction => "contradiction",
            Self::DuplicateMember => "duplicate_member",
            Self::HttpStatus => "unexpected_http_status",
            Self::Image => "image_not_base64",
            Self::Message => "unusable_message",
            Self::NotJson => "not_json",
            Self::Result => "unknown_result",
            Self::Status => "unknown_status",
            Self::TextTooLong => "text_too_long",
            Self::TooLarge => "document_too_large",
            Self::UnknownError => "unknown_error",
            Self::WrongType => "wrong_type",
        }
    }
}

/// A customer's status at DCAMS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CustomerStatus {
    /// Refused.
    Fail,
    /// Verified.
    Pass,
    /// Not decided.
    Pending,
}

impl CustomerStatus {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fail => "FAIL",
            Self::Pass => "PASS",
            Self::Pending => "PENDING",
        }
    }

    pub(super) fn from_word(word: &str) -> Option<Self> {
        [Self::Fail, Self::Pass, Self::Pending]
            .into_iter()
            .find(|status| status.as_str() == word)
    }
}

impl fmt::Display for CustomerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an answer says of the credential that it was asked with. A refusal of the data, or a failure,
/// may have come before anybody looked at the login, so nothing follows from it.
pub const fn said_of_login(judged: Result<&Answer, &Refusal>) -> Option<Login> {
    match judged {
        Ok(_) | Err(Refusal::NotFound { .. }) => Some(Login::Accepted),
        Err(Refusal::CredentialsRejected) => Some(Login::Refused),
        Err(
            Refusal::Echo
            | Refusal::Malformed(_)
            | Refusal::Refused { .. }
            | Refusal::Unavailable { .. },
        ) => None,
    }
}

/// What DCAMS calls an answer of its.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// It did not do what was asked for.
    Error,
    /// It did.
    Success,
}

impl Word {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "Error",
            Self::Success => "Success",
        }
    }
}

/// What DCAMS called an answer, of which something follows from that. A refused credential is known
/// without it.
pub const fn word_of(judged: Result<&Answer, &Refusal>) -> Option<Word> {
    match judged {
        Ok(_) => Some(Word::Success),
        Err(Refusal::NotFound { .. } | Refusal::Refused { .. }) => Some(Word::Error),
        Err(
            Refusal::CredentialsRejected
            | Refusal::Echo
            | Refusal::Malformed(_)
            | Refusal::Unavailable { .. },
        ) => None,
    }
}

/// Understands an answer to `operation`. Of a success it keeps what `disclosure` lets through and
/// nothing else, so that a field which is not relayed exists nowhere afterwards.
pub fn interpret(
    reply: &UpstreamReply,
    operation: Operation,
    disclosure: Disclosure,
    echo: &EchoGuard,
) -> Result<Answer, Refusal> {
    let status = reply.status();
    if status == StatusCode::UNAUTHORIZED {
        return Err(Refusal::CredentialsRejected);
    }
    let asked = Asked {
        operation,
        disclosure,
        echo,
    };
    match read(reply, &asked) {
        // Whatever a server that is down or overloaded says besides.
        Err(Refusal::Malformed(_)) if is_unavailable(status) => {
            Err(Refusal::Unavailable { status })
        }
        judged => judged,
    }
}

fn read(reply: &UpstreamReply, asked: &Asked<'_>) -> Result<Answer, Refusal> {
    let lifted = lift(reply.frames(), SKELETON_LIMIT).map_err(|_error| Fault::TooLarge)?;
    let root = Node::read(&lifted)?;
    let said = Said::read(&root, &lifted)?;
    judge(reply.status(), &said, asked)
}

/// Whether the status alone says what there is to know, so that a body is not missed.
pub(super) fn decided_by(status: StatusCode) -> bool {
    status == StatusCode::UNAUTHORIZED || is_unavailable(status)
}

fn is_unavailable(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
}

/// What was asked, and by whom.
pub(super) struct Asked<'a> {
    pub(super) operation: Operation,
    pub(super) disclosure: Disclosure,
    pub(super) echo: &'a EchoGuard,
}

/// The members that every documented answer has.
pub(super) struct Said<'b> {
    pub(super) members: Members<'b>,
    pub(super) lifted: &'b Lifted,
    pub(super) message: Presence<&'b str>,
    result: Option<&'b str>,
}

impl<'b> Said<'b> {
    fn read(root: &'b Node<'b>, lifted: &'b Lifted) -> Result<Self, Fault> {
        if !matches!(root, Node::Object(_)) {
            return Err(Fault::NotJson);
        }
        let members = Node::members(Some(root))?;
        let result = members.text("result", lifted)?.value();
        let message = members.text("message", lifted)?;
        Ok(Self {
            members,
            lifted,
            message,
            result,
        })
    }

    fn says(&self, documented: &str) -> bool {
        matches!(self.message, Presence::Is(message) if is_message(message, documented))
    }
}

fn judge(status: StatusCode, said: &Said<'_>, asked: &Asked<'_>) -> Result<Answer, Refusal> {
    let success = said.result == Some("Success");
    // Before the status: a bad login under any of them did nothing, and concerns us alone.
    if said.says(BAD_LOGIN) {
        return if success {
            Err(Fault::Contradiction.into())
        } else {
            Err(Refusal::CredentialsRejected)
        };
    }
    if is_unavailable(status) {
        return Err(Refusal::Unavailable { status });
    }
    match (status, said.result) {
        (StatusCode::OK, Some("Success")) => succeed(said, asked),
        (StatusCode::OK | StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND, Some("Error")) => {
            refuse(status, said, asked.echo)
        }
        (StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND, Some("Success")) => {
            Err(Fault::Contradiction.into())
        }
        (StatusCode::OK | StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND, _) => {
            Err(Fault::Result.into())
        }
        _ => Err(Fault::HttpStatus.into()),
    }
}

fn succeed(said: &Said<'_>, asked: &Asked<'_>) -> Result<Answer, Refusal> {
    if let Presence::Is(message) = said.message {
        check_message(message)?;
    }
    let answer = Answer::read(said, asked)?;
    if answer.holds_credential(asked.echo) {
        return Err(Refusal::Echo);
    }
    Ok(answer)
}

fn refuse(status: StatusCode, said: &Said<'_>, echo: &EchoGuard) -> Result<Answer, Refusal> {
    let Presence::Is(message) = said.message else {
        return Err(Fault::Message.into());
    };
    check_message(message)?;
    let not_found = match status {
        StatusCode::NOT_FOUND => true,
        StatusCode::BAD_REQUEST => false,
        // Under 200 the text is all there is to go by, so it must be one of the documented.
        _ if said.says(NOT_FOUND) => true,
        _ if REFUSALS.iter().any(|refusal| said.says(refusal)) => false,
        _ => return Err(Fault::UnknownError.into()),
    };
    if echo.finds_in(message) {
        return Err(Refusal::Echo);
    }
    let message = Message(Redacted::new(message.to_owned()));
    Err(if not_found {
        Refusal::NotFound { message }
    } else {
        Refusal::Refused { message }
    })
}

/// A control character has no place in a sentence; whoever writes one has something else in mind.
fn check_message(message: &str) -> Result<(), Fault> {
    let usable = message.chars().count() <= MAX_MESSAGE && !message.chars().any(char::is_control);
    usable.then_some(()).ok_or(Fault::Message)
}

/// Whether a message is the documented one: letter case, space around it and a full stop at its end
/// do not make it another.
fn is_message(message: &str, documented: &str) -> bool {
    message
        .trim()
        .trim_end_matches('.')
        .eq_ignore_ascii_case(documented)
}

#[cfg(test)]
mod tests;
