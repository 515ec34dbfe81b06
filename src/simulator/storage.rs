//! Decides what DCAMS's storage API answers to one body. Pure: no IO, no clock.
//!
//! Invariant: what the vendor documents is answered as documented; where it is silent, a switch of
//! [`Behaviour`] decides. Nothing here knows how an answer travels.

use std::sync::Arc;

use http::StatusCode;

use super::{
    Login,
    behaviour::{Behaviour, Echo, OmittedFields, RequiredField, Status},
    customers::{ATTRIBUTES, Customer, Customers, key},
    fault::DocumentedError,
    inspect::Node,
    record::Credentials,
    reply::{Reply, Shape, Success},
};

/// What the body asks for, owned, so that it is read before the customers are locked.
pub(super) struct Ask {
    user: Option<String>,
    pass: Option<String>,
    pub(super) service: Option<String>,
    reference: Option<Arc<str>>,
    /// In the order of [`ATTRIBUTES`].
    attributes: [Option<Arc<str>>; ATTRIBUTES.len()],
    status: Option<String>,
    pub(super) front: Option<Arc<str>>,
    pub(super) back: Option<Arc<str>>,
}

impl Ask {
    /// Reads a document. Only strings that are not empty count; anything else is as if absent.
    pub(super) fn read(document: &Node<'_>) -> Self {
        let owned = |name| document.text(name).map(str::to_owned);
        let target = document.member("target");
        let field = |name| target.and_then(|target| target.text(name)).map(Arc::from);
        let documents = target.and_then(|target| target.member("documents"));
        let image = |side| documents.and_then(|both| both.text(side)).map(Arc::from);
        Self {
            user: owned("user"),
            pass: owned("pass"),
            service: owned("service"),
            reference: document.text("reference").map(Arc::from),
            attributes: ATTRIBUTES.map(field),
            status: target
                .and_then(|target| target.text("status"))
                .map(str::to_owned),
            front: image("front"),
            back: image("back"),
        }
    }

    /// Compares the pair with those accepted; the number is that of the pair with this user name.
    pub(super) fn login(&self, accepted: &[Login]) -> (Credentials, Option<usize>) {
        let (Some(user), Some(pass)) = (&self.user, &self.pass) else {
            return (Credentials::Missing, None);
        };
        let both = accepted.iter().position(|login| login.is(user, pass));
        if both.is_some() {
            return (Credentials::Accepted, both);
        }
        let index = accepted.iter().position(|login| login.user() == user);
        (Credentials::Refused, index)
    }

    fn attribute(&self, name: &str) -> Option<&Arc<str>> {
        let (_, value) = ATTRIBUTES
            .iter()
            .zip(&self.attributes)
            .find(|(own, _)| **own == name)?;
        value.as_ref()
    }

    fn has(&self, field: RequiredField) -> bool {
        match field {
            RequiredField::Addr => self.attribute("addr").is_some(),
            RequiredField::Back => self.back.is_some(),
            RequiredField::City => self.attribute("city").is_some(),
            RequiredField::Dob => self.attribute("dob").is_some(),
            RequiredField::Fn => self.attribute("fn").is_some(),
            RequiredField::Front => self.front.is_some(),
            RequiredField::Ln => self.attribute("ln").is_some(),
            RequiredField::Phone => self.attribute("phone").is_some(),
            RequiredField::Reference => self.reference.is_some(),
            RequiredField::State => self.attribute("state").is_some(),
            RequiredField::Zip => self.attribute("zip").is_some(),
        }
    }
}

/// What came of a body.
pub(super) struct Outcome {
    pub(super) answer: Answer,
    /// Whether a customer was created or changed.
    pub(super) stored: bool,
}

/// What to answer. Written as bytes apart, when the customers are no longer locked.
pub(super) enum Answer {
    Documented(DocumentedError),
    Ready(Reply),
    Shown(Box<Customer>, Shape),
}

/// Decides, and changes the customers where the service does.
pub(super) fn decide(
    ask: &Ask,
    credentials: Credentials,
    behaviour: &Behaviour,
    customers: &mut Customers,
) -> Outcome {
    let found = match credentials {
        Credentials::Accepted => serve(ask, behaviour, customers),
        Credentials::Missing => Err(Answer::Documented(DocumentedError::MissingInput)),
        Credentials::Refused => Err(Answer::Documented(DocumentedError::BadLogin)),
    };
    match found {
        Ok((customer, shape)) => Outcome {
            stored: !matches!(shape, Shape::Images(_) | Shape::Status),
            answer: Answer::Shown(Box::new(customer), shape),
        },
        Err(answer) => Outcome {
            stored: false,
            answer,
        },
    }
}

fn serve(
    ask: &Ask,
    behaviour: &Behaviour,
    customers: &mut Customers,
) -> Result<(Customer, Shape), Answer> {
    let missing = Answer::Documented(DocumentedError::MissingInput);
    let Some(service) = ask.service.as_deref() else {
        return Err(missing);
    };
    if !SERVICES.contains(&service) {
        return Err(Answer::Ready(Reply::undocumented(
            behaviour.unknown_service,
        )));
    }
    let Some(email) = ask.attribute("email") else {
        return Err(missing);
    };
    if !looks_like_email(email) {
        return Err(Answer::Documented(DocumentedError::InvalidEmail));
    }
    let mut key = key(email, behaviour.email_folding);
    if let (true, Some(user)) = (behaviour.per_user, &ask.user) {
        // No address holds a line break.
        key = format!("{user}\n{key}");
    }
    if service == CREATE_OR_UPDATE {
        if !behaviour.required.iter().all(|field| ask.has(*field)) {
            return Err(missing);
        }
        return Ok(create_or_update(ask, key, behaviour, customers));
    }
    let status = ask.status.as_deref();
    if service == UPDATE_STATUS && status.is_none() {
        return Err(missing);
    }
    let Some(found) = customers.find(&key).cloned() else {
        return Err(Answer::Documented(DocumentedError::NotFound));
    };
    match service {
        GET_STATUS => Ok((found, Shape::Status)),
        GET_DOCUMENT_IMAGES => Ok((found, Shape::Images(behaviour.missing_documents))),
        _ => {
            let Some(status) = status.and_then(Status::from_name) else {
                return Err(Answer::Ready(Reply::undocumented(behaviour.invalid_status)));
            };
            let changed = Customer { status, ..found };
            customers.store(key, changed.clone());
            Ok((changed, Shape::StatusUpdated))
        }
    }
}

const CREATE_OR_UPDATE: &str = "createOrUpdateCustomer";
const GET_DOCUMENT_IMAGES: &str = "getDocumentImages";
const GET_STATUS: &str = "getStatus";
const UPDATE_STATUS: &str = "updateStatus";

/// The documented services.
pub(super) const SERVICES: [&str; 4] = [
    CREATE_OR_UPDATE,
    GET_DOCUMENT_IMAGES,
    GET_STATUS,
    UPDATE_STATUS,
];

fn create_or_update(
    ask: &Ask,
    key: String,
    behaviour: &Behaviour,
    customers: &mut Customers,
) -> (Customer, Shape) {
    let old = customers.find(&key).cloned();
    let shape = if old.is_some() {
        Shape::Updated
    } else {
        Shape::Created
    };
    let empty: Arc<str> = "".into();
    let before = old.unwrap_or_else(|| Customer {
        id: customers.next_id(),
        reference: Arc::clone(&empty),
        status: behaviour.initial_status,
        attributes: std::array::from_fn(|_| Arc::clone(&empty)),
        front: None,
        back: None,
    });
    let base = match behaviour.omitted_fields {
        OmittedFields::Keep => before,
        OmittedFields::Blank => Customer {
            reference: Arc::clone(&empty),
            attributes: std::array::from_fn(|_| Arc::clone(&empty)),
            front: None,
            back: None,
            ..before
        },
    };
    let mut attributes = base.attributes;
    for (stored, sent) in attributes.iter_mut().zip(&ask.attributes) {
        if let Some(sent) = sent {
            *stored = Arc::clone(sent);
        }
    }
    let after = Customer {
        reference: ask.reference.clone().unwrap_or(base.reference),
        attributes,
        front: ask.front.clone().or(base.front),
        back: ask.back.clone().or(base.back),
        ..base
    };
    customers.store(key, after.clone());
    (after, shape)
}

/// Writes an answer, with the quirks that the switches ask for.
pub(super) fn write(answer: Answer, ask: &Ask, behaviour: &Behaviour) -> Reply {
    let echo = |place| {
        let wanted = behaviour.echo == place;
        let text = || {
            let part = |text: &Option<String>| text.clone().unwrap_or_default();
            format!("{} {}", part(&ask.user), part(&ask.pass))
        };
        wanted.then(text)
    };
    match answer {
        Answer::Ready(reply) => reply,
        Answer::Documented(error) => {
            let status = if behaviour.errors_as_200 {
                StatusCode::OK
            } else {
                error.status()
            };
            echo(Echo::Message).map_or_else(
                || Reply::error(status, error.message()),
                |echo| Reply::error(status, &format!("{} {echo}", error.message())),
            )
        }
        Answer::Shown(customer, shape) => Reply::json(
            StatusCode::OK,
            &Success {
                customer: &customer,
                shape,
                reference: echo(Echo::Reference),
                first_name: echo(Echo::Target),
                message: echo(Echo::Message),
                link_suffix: echo(Echo::Link)
                    .map_or_else(String::new, |echo| format!("&by={echo}")),
                extra_fields: behaviour.extra_fields,
            },
        ),
    }
}

/// Not a full reading of RFC 5321 on purpose: DCAMS's own rule is unknown, so this refuses only
/// what no mail system would take.
fn looks_like_email(email: &str) -> bool {
    let Some((local, domain)) = email.rsplit_once('@') else {
        return false;
    };
    let quoted = local.len() > 2 && local.starts_with('"') && local.ends_with('"');
    let plain = |text: &str| !text.contains(|c: char| c.is_whitespace() || c.is_control());
    let host = domain.starts_with('[') && domain.ends_with(']')
        || domain.contains('.') && domain.split('.').all(|label| !label.is_empty());
    email.len() <= 320
        && !local.is_empty()
        && (quoted || plain(local) && !local.contains('@'))
        && plain(domain)
        && host
}
