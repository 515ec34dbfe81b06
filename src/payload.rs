//! Turns a request's body into a [`Submission`]: one of the four services, with every field
//! checked.
//!
//! Invariants: a submission has no place where a credential of the client could live; its text
//! values are what the client's JSON says, its images are the client's bytes. An error names
//! members and never holds a value.

use std::borrow::Cow;

use jiff::civil::Date;
use serde::Serialize;
use thiserror::Error;

pub use self::{
    fields::Field,
    image::{DataUri, Image, ImageFormat, ImageTypes, Side},
};
use self::{
    fields::FieldText,
    lift::{LiftError, Lifted},
};
use crate::{operation::Operation, tenant::Country};

mod base64;
mod date;
mod document;
pub mod email;
mod fields;
mod image;
mod judge;
pub mod lift;
mod path;
#[cfg(test)]
pub(crate) mod sample;
mod usa;

/// What submissions are judged by.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The fields that `createOrUpdateCustomer` must have, beside the email.
    pub required: Vec<Field>,
    /// Whose formats `state`, `zip` and `phone` must have.
    pub country: Country,
    /// What becomes of an image given as a `data:` URI.
    pub data_uri: DataUri,
    /// The image formats that are accepted.
    pub image_types: ImageTypes,
    /// How many bytes an image may have, decoded.
    pub max_image: u64,
    /// How many pixels an image may have.
    pub max_image_pixels: u64,
}

/// Why a body is not a submission.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PayloadError {
    /// A name occurs twice in one object.
    #[error("a member occurs twice: {0}")]
    DuplicateMember(
        /// Where, as a JSON pointer.
        String,
    ),
    /// The document is JSON of another shape, or fields of it break their rules.
    #[error("{} violations", .0.len())]
    Invalid(
        /// All of them.
        Vec<Violation>,
    ),
    /// The body is not one JSON document in UTF-8.
    #[error("malformed JSON at line {line}, column {column}")]
    MalformedJson {
        /// The line in which reading stopped, from 1.
        line: usize,
        /// The byte in that line, from 1.
        column: usize,
    },
    /// The service is none of the four.
    #[error("unknown service")]
    UnknownService,
}

impl From<LiftError> for PayloadError {
    fn from(error: LiftError) -> Self {
        let LiftError::SkeletonTooLarge { limit } = error;
        Self::Invalid(vec![Violation {
            pointer: String::new(),
            code: "document_size",
            message: format!("expected at most {limit} bytes beside the images"),
        }])
    }
}

/// One rule that a document breaks. It never holds a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Where, as a JSON pointer (RFC 6901).
    pub pointer: String,
    /// Which rule, as a stable word.
    pub code: &'static str,
    /// What is expected there, in English.
    pub message: String,
}

impl Violation {
    fn required(pointer: String) -> Self {
        Self {
            pointer,
            code: "required",
            message: "expected this member to be present".to_owned(),
        }
    }

    fn wrong_type(pointer: String, expected: &str) -> Self {
        Self {
            pointer,
            code: "wrong_type",
            message: expected.to_owned(),
        }
    }
}

/// A rule that a value breaks, wherever it stands.
#[derive(Debug)]
struct Flaw {
    code: &'static str,
    message: Cow<'static, str>,
}

impl Flaw {
    fn new(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

/// A request to DCAMS, checked.
#[derive(Debug)]
pub enum Submission<'b> {
    /// Creates a customer or changes one.
    CreateOrUpdateCustomer(Customer<'b>),
    /// Reads a customer's fields and images.
    GetDocumentImages(Lookup<'b>),
    /// Reads a customer's fields.
    GetStatus(Lookup<'b>),
    /// Sets a customer's status.
    UpdateStatus(StatusChange<'b>),
}

/// A customer to be created or changed.
#[derive(Debug)]
pub struct Customer<'b> {
    email: FieldText<'b>,
    reference: Option<FieldText<'b>>,
    /// The other text fields, in the order of [`Field::ALL`].
    person: Vec<(Field, FieldText<'b>)>,
    images: Vec<Image<'b>>,
}

/// A customer to be read.
#[derive(Debug)]
pub struct Lookup<'b> {
    email: FieldText<'b>,
}

/// A customer's new status.
#[derive(Debug)]
pub struct StatusChange<'b> {
    email: FieldText<'b>,
    status: FieldText<'b>,
}

impl<'b> Submission<'b> {
    /// Reads a submission, or tells everything that is wrong with the document.
    pub fn parse(lifted: &'b Lifted, rules: &Rules, today: Date) -> Result<Self, PayloadError> {
        let (document, violations) = document::read(lifted)?;
        judge::judge(document, violations, rules, today)
    }

    /// The same about the customer of another spelling of the address: one that is as valid.
    #[must_use]
    pub fn respelled(mut self, spell: impl FnOnce(&str) -> String) -> Self {
        let email = match &mut self {
            Self::CreateOrUpdateCustomer(customer) => &mut customer.email,
            Self::GetDocumentImages(lookup) | Self::GetStatus(lookup) => &mut lookup.email,
            Self::UpdateStatus(change) => &mut change.email,
        };
        *email = email.respelled(spell);
        self
    }

    /// The service that is asked for.
    pub const fn operation(&self) -> Operation {
        match self {
            Self::CreateOrUpdateCustomer(_) => Operation::CreateOrUpdateCustomer,
            Self::GetDocumentImages(_) => Operation::GetDocumentImages,
            Self::GetStatus(_) => Operation::GetStatus,
            Self::UpdateStatus(_) => Operation::UpdateStatus,
        }
    }

    /// The email of the customer that it is about.
    pub fn email(&self) -> &str {
        let email = match self {
            Self::CreateOrUpdateCustomer(customer) => &customer.email,
            Self::GetDocumentImages(lookup) | Self::GetStatus(lookup) => &lookup.email,
            Self::UpdateStatus(change) => &change.email,
        };
        email.as_str()
    }

    /// The caller's own reference.
    pub fn reference(&self) -> Option<&str> {
        match self {
            Self::CreateOrUpdateCustomer(customer) => {
                customer.reference.as_ref().map(FieldText::as_str)
            }
            Self::GetDocumentImages(_) | Self::GetStatus(_) | Self::UpdateStatus(_) => None,
        }
    }

    /// The text members of its target, in the order in which they are written.
    pub fn target(&self) -> impl Iterator<Item = (Field, &str)> {
        let (person, status) = match self {
            Self::CreateOrUpdateCustomer(customer) => (customer.person.as_slice(), None),
            Self::GetDocumentImages(_) | Self::GetStatus(_) => (&[][..], None),
            Self::UpdateStatus(change) => (&[][..], Some((Field::Status, change.status.as_str()))),
        };
        let person = person.iter().map(|(field, text)| (*field, text.as_str()));
        [(Field::Email, self.email())]
            .into_iter()
            .chain(person)
            .chain(status)
    }

    /// The text of the member at this JSON pointer.
    pub fn text_at(&self, pointer: &str) -> Option<&str> {
        let reference = self.reference().map(|text| (Field::Reference, text));
        let mut members = self.target().chain(reference);
        members.find_map(|(field, text)| (field.pointer() == pointer).then_some(text))
    }

    /// Its images: none, the front, or both.
    pub fn images(&self) -> &[Image<'b>] {
        match self {
            Self::CreateOrUpdateCustomer(customer) => &customer.images,
            Self::GetDocumentImages(_) | Self::GetStatus(_) | Self::UpdateStatus(_) => &[],
        }
    }

    /// The names of the fields it has, in a fixed order.
    pub fn fields(&self) -> impl Iterator<Item = &'static str> {
        let reference = self.reference().map(|_| Field::Reference.name());
        let target = self.target().map(|(field, _)| field.name());
        let images = self.images().iter().map(|image| image.side().name());
        reference.into_iter().chain(target).chain(images)
    }
}

#[cfg(test)]
mod tests;
