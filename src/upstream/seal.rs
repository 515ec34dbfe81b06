//! Builds the body that goes upstream: the only place where a submission and a credential meet.
//!
//! Invariant: the body has one `user` and one `pass`, ours, in front. Everything but the images is
//! written anew from the submission's checked values, once; no JSON text of the client is spliced in.
//! The images follow as the slices they arrived in. Nothing here may be logged.

use bytes::Bytes;

use crate::{
    auth::permit::Permit,
    credential::Credential,
    operation::Operation,
    payload::{Field, Submission},
    segments::Segments,
};

/// An upstream body, complete but for the credential in front of it. Every attempt sends the same
/// bytes.
///
/// It has neither `Debug` nor `Serialize`: it holds a person's data.
pub struct SealedRequest {
    /// From the first member after the credential to the closing brace.
    rest: Segments,
}

impl SealedRequest {
    /// The body of one attempt; the bytes are shared. Those of the credential are wiped when the last
    /// body with them is dropped, by the buffer they come in.
    pub fn body(&self, credential: &Credential) -> Segments {
        let mut body = self.rest.clone();
        // It ends with a comma: the members behind it follow `user` and `pass`.
        body.push_front(credential.head());
        body
    }
}

/// Seals a submission.
///
/// # Panics
///
/// If the permit is for another service: no request may be let out on it.
pub fn seal(submission: &Submission<'_>, permit: &Permit) -> SealedRequest {
    assert_eq!(permit.operation(), submission.operation());
    let mut rest = Segments::default();
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
        rest.push(Bytes::from(std::mem::take(&mut text)));
        for segment in image.segments() {
            rest.push(segment);
        }
        text.push(b'"');
    }
    text.extend_from_slice(if images.is_empty() { b"}}" } else { b"}}}" });
    rest.push(Bytes::from(text));
    SealedRequest { rest }
}

/// Seals a question of our own about a submission's customer: what a getStatus would be.
///
/// # Panics
///
/// If the permit is for another service: nobody's customer is asked for without one.
pub fn seal_question(submission: &Submission<'_>, permit: &Permit) -> SealedRequest {
    assert_eq!(permit.operation(), submission.operation());
    seal_probe(submission.email())
}

/// Seals a question about the customer that the configuration names for it: it changes nothing, and
/// shows whether DCAMS accepts a credential.
pub fn seal_probe(email: &str) -> SealedRequest {
    let mut text = Vec::with_capacity(email.len() + 96);
    write_name(&mut text, "service");
    write_string(&mut text, Operation::GetStatus.name());
    text.extend_from_slice(b",\"target\":{");
    write_name(&mut text, Field::Email.name());
    write_string(&mut text, email);
    text.extend_from_slice(b"}}");
    SealedRequest {
        rest: Segments::from(text),
    }
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
