//! The switches for everything that the vendor leaves undocumented.
//!
//! Invariant: with [`Behaviour::default`] every answer is one that DCAMS documents, wherever it
//! documents one. A switch never changes what is recorded about a request.

use serde::{Deserialize, Serialize};

/// How the simulator answers where the documentation is silent. As JSON
/// (`PUT /_sim/behaviour`) each absent member takes its default; an unknown one is an error.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// Whether two spellings of an email are one customer. Default `exact`.
    pub email_folding: EmailFolding,
    /// The status of a customer that was just created. Default `PASS`, as in the vendor's sample.
    pub initial_status: Status,
    /// Each user name has customers of its own. Default false: all of them see the same customers.
    pub per_user: bool,
    /// What an update does to the fields that it does not name. Default `keep`.
    pub omitted_fields: OmittedFields,
    /// What `getDocumentImages` shows for an image that was never sent. Default `null`.
    pub missing_documents: MissingDocuments,
    /// Fields that createOrUpdateCustomer insists on besides `target.email`. Default none.
    pub required: Vec<RequiredField>,
    /// Documented errors come with HTTP 200. Default false.
    pub errors_as_200: bool,
    /// Answers carry members that no page documents. Default false.
    pub extra_fields: bool,
    /// The answer repeats the request's user and password in this place. Default `none`.
    pub echo: Echo,
    /// The answer to a `service` that is none of the four. Default `missing_input`.
    pub unknown_service: Undocumented,
    /// The answer to a body that is not a JSON object. Default `missing_input`.
    pub malformed_json: Undocumented,
    /// The answer to updateStatus with a status that is none of the three. Default `missing_input`.
    pub invalid_status: Undocumented,
}

/// Whether two spellings of an email are one customer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmailFolding {
    /// Byte for byte.
    #[default]
    Exact,
    /// Letter case does not count.
    Lowercase,
}

/// A customer's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// Refused.
    Fail,
    /// Accepted.
    #[default]
    Pass,
    /// Not decided yet.
    Pending,
}

impl Status {
    /// The status of this exact name (letter case counts).
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Fail, Self::Pass, Self::Pending]
            .into_iter()
            .find(|status| status.name() == name)
    }

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fail => "FAIL",
            Self::Pass => "PASS",
            Self::Pending => "PENDING",
        }
    }
}

/// What an update does to the fields that it does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OmittedFields {
    /// They become empty, images too.
    Blank,
    /// They stay as they are.
    #[default]
    Keep,
}

/// What `getDocumentImages` shows for an image that was never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissingDocuments {
    /// The member is not there; without any image, `documents` is not there.
    Absent,
    /// An empty string.
    Empty,
    /// `null`; without any image, `documents` is `null`.
    #[default]
    Null,
}

/// A field that createOrUpdateCustomer may insist on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequiredField {
    /// `target.addr`
    Addr,
    /// `target.documents.back`
    Back,
    /// `target.city`
    City,
    /// `target.dob`
    Dob,
    /// `target.fn`
    Fn,
    /// `target.documents.front`
    Front,
    /// `target.ln`
    Ln,
    /// `target.phone`
    Phone,
    /// `reference`
    Reference,
    /// `target.state`
    State,
    /// `target.zip`
    Zip,
}

/// Where an answer repeats the request's user and password, to see who lets that through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Echo {
    /// In `customer_link` (createOrUpdateCustomer only).
    Link,
    /// In `message`, of successes and errors.
    Message,
    /// Nowhere.
    #[default]
    None,
    /// In `reference`.
    Reference,
    /// In `target.fn`.
    Target,
}

/// An answer to what the vendor does not document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Undocumented {
    /// 200 without a body.
    EmptyOk,
    /// 500 with a page of HTML.
    Html,
    /// 400 `Missing a required input`, a documented text.
    #[default]
    MissingInput,
    /// 500 with a JSON error of a text that no page shows.
    ServerError,
    /// 400 with a text that no page shows.
    UnknownMessage,
}
