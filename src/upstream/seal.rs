//! Builds the body that goes upstream: the only place where a submission and a credential meet.
//!
//! Invariant: the body has one `user` and one `pass`, ours, in front. Everything but the images is
//! written anew from the submission's checked values; no JSON text of the client is spliced in.
//! The images follow as the slices they arrived in. Nothing here may be logged.

use bytes::Bytes;

use crate::{
    auth::permit::Permit,
    credential::Credential,
    operation::Operation,
    payload::{Field, Submission},
    segments::Segments,
};

/// A complete upstream body. Every attempt sends the same bytes.
///
/// It has neither `Debug` nor `Serialize`: it holds a credential and a person's data. The bytes of
/// the credential are wiped when the last body is dropped, by the buffer they come in.
pub struct SealedRequest {
    body: Segments,
}

impl SealedRequest {
    /// The body, for one attempt; the bytes are shared.
    pub fn body(&self) -> Segments {
        self.body.clone()
    }

    /// The body's exact length, for `Content-Length`.
    pub const fn len(&self) -> u64 {
        self.body.len()
    }

    /// Never: there is a credential in it.
    pub const fn is_empty(&self) -> bool {
        self.body.is_empty()
    }
}

/// Seals a submission with the credential it is sent with.
///
/// # Panics
///
/// If the permit is for another service: no request may be let out on it.
pub fn seal(
    submission: &Submission<'_>,
    permit: &Permit,
    credential: &Credential,
) -> SealedRequest {
    assert_eq!(permit.operation(), submission.operation());
    // The credential's segment ends with a comma: the members below follow `user` and `pass`.
    let mut body = Segments::from(credential.head());
    let mut text = Vec::with_capacity(capacity(submission));
    write_name(&mut text, "service");
    write_string(&mut text, submission.operation().name());
    if let Some(reference) = submission.reference() {
        text.push(b',');
        write_name(&mut text, "reference");
        write_string(&mut text, reference);
    }
    text.extend_from_slice(b",\"target\":{");
    for (index, (field, value)) in submission.target().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        write_name(&mut text, field.name());
        write_string(&mut text, value);
    }
    let images = submission.images();
    if !images.is_empty() {
        text.extend_from_slice(b",\"documents\":{");
    }
    for (index, image) in images.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        write_name(&mut text, image.side().name());
        // The image's text is what stands between the quotes, already in JSON's spelling.
        text.push(b'"');
        body.push(Bytes::from(std::mem::take(&mut text)));
        for segment in image.segments() {
            body.push(segment);
        }
        text.push(b'"');
    }
    text.extend_from_slice(if images.is_empty() { b"}}" } else { b"}}}" });
    body.push(Bytes::from(text));
    SealedRequest { body }
}

/// Seals a question of our own about a submission's customer: what a getStatus would be.
///
/// # Panics
///
/// If the permit is for another service: nobody's customer is asked for without one.
pub fn seal_question(
    submission: &Submission<'_>,
    permit: &Permit,
    credential: &Credential,
) -> SealedRequest {
    assert_eq!(permit.operation(), submission.operation());
    let mut text = Vec::with_capacity(submission.email().len() + 96);
    write_name(&mut text, "service");
    write_string(&mut text, Operation::GetStatus.name());
    text.extend_from_slice(b",\"target\":{");
    write_name(&mut text, Field::Email.name());
    write_string(&mut text, submission.email());
    text.extend_from_slice(b"}}");
    let mut body = Segments::from(credential.head());
    body.push(Bytes::from(text));
    SealedRequest { body }
}

/// Enough for what is written before the first image, if no value needs many escapes.
fn capacity(submission: &Submission<'_>) -> usize {
    let values: usize = submission.target().map(|(_, value)| value.len() + 12).sum();
    values + submission.reference().map_or(0, str::len) + 96
}

/// Writes a name of ours, which needs no escapes, and its colon.
fn write_name(text: &mut Vec<u8>, name: &str) {
    text.push(b'"');
    text.extend_from_slice(name.as_bytes());
    text.extend_from_slice(b"\":");
}

#[expect(
    clippy::expect_used,
    reason = "writing a string into memory cannot fail, and a body without it must not be sent"
)]
fn write_string(text: &mut Vec<u8>, value: &str) {
    serde_json::to_writer(text, value).expect("a string is JSON and memory takes it");
}

#[cfg(test)]
mod tests;
