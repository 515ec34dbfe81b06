//! The simulator's answers as bytes: DCAMS's documented success and error bodies.
//!
//! Invariant: member names, texts and codes are the vendor's, byte for byte. What is not
//! documented says in its text that the simulator made it up.

use bytes::Bytes;
use http::StatusCode;
use serde::{
    Serialize, Serializer,
    ser::{SerializeMap, SerializeStruct},
};
use serde_json::json;

use super::{
    behaviour::{MissingDocuments, Undocumented},
    customers::{ATTRIBUTES, Customer},
    fault::DocumentedError,
};

/// One answer.
#[derive(Clone)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    /// Further headers.
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Bytes,
}

const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";

impl Reply {
    /// A JSON answer. A body that cannot be written (there is none) would be an empty one.
    pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Self {
        Self::raw(status, JSON, serde_json::to_vec(body).unwrap_or_default())
    }

    /// An answer of these bytes.
    pub(super) fn raw(
        status: StatusCode,
        content_type: &'static str,
        body: impl Into<Bytes>,
    ) -> Self {
        Self {
            status,
            content_type,
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// An error in DCAMS's form.
    pub(super) fn error(status: StatusCode, message: &str) -> Self {
        Self::json(status, &Failure { message })
    }

    /// A page such as a proxy or a web server in front of DCAMS would send.
    pub(super) fn html(status: StatusCode) -> Self {
        let page = format!(
            "<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>\n"
        );
        Self::raw(status, HTML, page)
    }

    /// No body at all.
    pub(super) fn empty(status: StatusCode) -> Self {
        Self::raw(status, JSON, Bytes::new())
    }

    /// The answer that a switch chose for an undocumented case.
    pub(super) fn undocumented(choice: Undocumented) -> Self {
        match choice {
            Undocumented::EmptyOk => Self::empty(StatusCode::OK),
            Undocumented::Html => Self::html(StatusCode::INTERNAL_SERVER_ERROR),
            Undocumented::MissingInput => DocumentedError::MissingInput.reply(),
            Undocumented::ServerError => Self::error(
                StatusCode::INTERNAL_SERVER_ERROR,
                "An unexpected error occurred (simulated)",
            ),
            Undocumented::UnknownMessage => Self::error(
                StatusCode::BAD_REQUEST,
                "The request cannot be processed (simulated)",
            ),
        }
    }
}

struct Failure<'a> {
    message: &'a str,
}

impl Serialize for Failure<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut body = serializer.serialize_struct("Failure", 2)?;
        body.serialize_field("result", "Error")?;
        body.serialize_field("message", self.message)?;
        body.end()
    }
}

impl DocumentedError {
    /// The documented status.
    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::BadLogin => StatusCode::UNAUTHORIZED,
            Self::InvalidEmail | Self::MissingInput => StatusCode::BAD_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
        }
    }

    pub(super) const fn message(self) -> &'static str {
        match self {
            Self::BadLogin => "Either your username or password is incorrect",
            Self::InvalidEmail => "The email address is invalid",
            Self::MissingInput => "Missing a required input",
            Self::NotFound => "The email address was not found",
        }
    }

    pub(super) fn reply(self) -> Reply {
        Reply::error(self.status(), self.message())
    }
}

/// A success of one of the four services.
pub(super) struct Success<'a> {
    pub(super) customer: &'a Customer,
    pub(super) shape: Shape,
    /// In place of the stored reference.
    pub(super) reference: Option<String>,
    /// In place of the stored first name.
    pub(super) first_name: Option<String>,
    pub(super) message: Option<String>,
    /// Added to the customer's link.
    pub(super) link_suffix: String,
    pub(super) extra_fields: bool,
}

/// What a success shows beside the customer's attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Created,
    Images(MissingDocuments),
    Status,
    StatusUpdated,
    Updated,
}

impl Serialize for Success<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut body = serializer.serialize_map(None)?;
        body.serialize_entry("result", "Success")?;
        if let Some(message) = &self.message {
            body.serialize_entry("message", message)?;
        }
        let stored: &str = &self.customer.reference;
        body.serialize_entry("reference", self.reference.as_deref().unwrap_or(stored))?;
        // The one service whose answer has its status under `target` instead.
        if self.shape != Shape::StatusUpdated {
            body.serialize_entry("status", self.customer.status.name())?;
        }
        let written = match self.shape {
            Shape::Created => Some("createCustomer"),
            Shape::Updated => Some("updateCustomer"),
            Shape::Images(_) | Shape::Status | Shape::StatusUpdated => None,
        };
        if let Some(kind) = written {
            body.serialize_entry("type", kind)?;
            let link = format!("{CUSTOMER_LINK}{}{}", self.customer.id, self.link_suffix);
            body.serialize_entry("customer_link", &link)?;
        }
        if self.extra_fields {
            body.serialize_entry("confirmation", &48_151_623)?;
            body.serialize_entry("meta", &json!({"company": "Specimen Company"}))?;
        }
        body.serialize_entry("target", &Target(self))?;
        body.end()
    }
}

const CUSTOMER_LINK: &str = "https://register.veratad.com/admin/customers.php?a=edit&id=";

struct Target<'a>(&'a Success<'a>);

impl Serialize for Target<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Success {
            customer,
            shape,
            first_name,
            extra_fields,
            ..
        } = self.0;
        let mut target = serializer.serialize_map(None)?;
        for (name, value) in ATTRIBUTES.iter().zip(&customer.attributes) {
            let stored: &str = value;
            let replaced = first_name.as_deref().filter(|_| *name == "fn");
            target.serialize_entry(name, replaced.unwrap_or(stored))?;
        }
        match shape {
            Shape::StatusUpdated => target.serialize_entry("status", customer.status.name())?,
            Shape::Images(missing) => documents::<S>(&mut target, customer, *missing)?,
            Shape::Created | Shape::Status | Shape::Updated => {}
        }
        if *extra_fields {
            target.serialize_entry("id", &customer.id)?;
            target.serialize_entry("additionalData", &json!({"note": "not documented"}))?;
        }
        target.end()
    }
}

fn documents<S: Serializer>(
    target: &mut S::SerializeMap,
    customer: &Customer,
    missing: MissingDocuments,
) -> Result<(), S::Error> {
    let (front, back) = (customer.front.as_deref(), customer.back.as_deref());
    let none = front.is_none() && back.is_none();
    match missing {
        MissingDocuments::Absent if none => Ok(()),
        MissingDocuments::Null if none => target.serialize_entry("documents", &()),
        MissingDocuments::Absent | MissingDocuments::Empty | MissingDocuments::Null => target
            .serialize_entry(
                "documents",
                &Documents {
                    front,
                    back,
                    missing,
                },
            ),
    }
}

struct Documents<'a> {
    front: Option<&'a str>,
    back: Option<&'a str>,
    missing: MissingDocuments,
}

impl Serialize for Documents<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut documents = serializer.serialize_map(None)?;
        for (name, image) in [("front", self.front), ("back", self.back)] {
            match (image, self.missing) {
                (Some(image), _) => documents.serialize_entry(name, image)?,
                (None, MissingDocuments::Absent) => {}
                (None, MissingDocuments::Empty) => documents.serialize_entry(name, "")?,
                (None, MissingDocuments::Null) => documents.serialize_entry(name, &())?,
            }
        }
        documents.end()
    }
}
