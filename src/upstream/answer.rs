//! A successful answer, cut down to what its tenant may see, and the JSON that it becomes.
//!
//! Invariant: an answer holds documented fields only, each of its documented type, and with
//! [`Disclosure::Minimal`] no name, address, birth date, phone or link at all. Images are pieces of
//! the upstream's answer, relayed without a copy after a check that they are base64 text. Texts are
//! written anew. It does not print what it holds.

use std::fmt;

use bytes::Bytes;

use super::{
    document::{Members, Node, Presence},
    image::is_image,
    verdict::{Asked, CustomerStatus, Fault, Said},
};
use crate::{credential::EchoGuard, operation::Operation, segments::Segments, tenant::Disclosure};

/// The customer's fields, in the vendor's order.
const PERSON: [&str; 9] = [
    "fn", "ln", "addr", "city", "state", "zip", "dob", "email", "phone",
];
const SIDES: [&str; 2] = ["front", "back"];
const TYPES: [&str; 2] = ["createCustomer", "updateCustomer"];

/// What a tenant gets of a successful answer.
pub struct Answer {
    status: CustomerStatus,
    reference: Presence<String>,
    kind: Option<&'static str>,
    message: Presence<String>,
    link: Presence<String>,
    target: Option<Target>,
    dropped: usize,
}

struct Target {
    /// Fields of the person, those that were there: a name and a text or null.
    person: Vec<(&'static str, Option<String>)>,
    status: Option<CustomerStatus>,
    documents: Presence<Vec<Side>>,
}

struct Side {
    name: &'static str,
    /// Null where the vendor says null; pieces of raw JSON text otherwise, maybe none.
    image: Option<Vec<Bytes>>,
}

impl Answer {
    /// The customer's status, from either of the two places where the vendor has it.
    pub const fn customer_status(&self) -> CustomerStatus {
        self.status
    }

    /// How many members the upstream sent that are not documented for this service.
    pub const fn dropped(&self) -> usize {
        self.dropped
    }

    /// The JSON document for the client.
    pub fn render(&self) -> Segments {
        let mut out = Writer::default();
        out.text("result", Some("Success"));
        out.member("reference", &self.reference);
        out.text("status", Some(self.status.as_str()));
        if let Some(kind) = self.kind {
            out.text("type", Some(kind));
        }
        out.member("message", &self.message);
        out.member("customer_link", &self.link);
        if let Some(target) = &self.target {
            out.open("target");
            target.write(&mut out);
            out.close();
        }
        out.finish()
    }

    /// Whether it may be told again later: a message is about this one answer.
    pub fn lasts(&self) -> bool {
        self.message == Presence::Absent
    }

    /// What a getStatus would say; none where that is not certain. What a person's fields are after a
    /// write is said by a read alone: whether a write's answer has those that it left out is not documented.
    pub fn as_status(&self, operation: Operation, disclosure: Disclosure) -> Option<Self> {
        let reads = matches!(
            operation,
            Operation::GetDocumentImages | Operation::GetStatus
        );
        let full = disclosure == Disclosure::Full;
        if !self.lasts() || (full && !reads) {
            return None;
        }
        let target = self.target.as_ref().filter(|_| full);
        Some(Self {
            status: self.status,
            reference: self.reference.clone(),
            kind: None,
            message: Presence::Absent,
            link: Presence::Absent,
            target: target.map(|target| Target {
                person: target.person.clone(),
                status: None,
                documents: Presence::Absent,
            }),
            dropped: 0,
        })
    }

    pub(super) fn read(said: &Said<'_>, asked: &Asked<'_>) -> Result<Self, Fault> {
        let full = asked.disclosure == Disclosure::Full;
        let creates = asked.operation == Operation::CreateOrUpdateCustomer;
        let text = |name| said.members.text(name, said.lifted);
        let target = Node::members(said.members.get("target")?)?;
        let status = status(said, target, asked.operation)?;
        // Of the type only the documented words are relayed: it is free text otherwise.
        let kind = if creates { text("type")?.value() } else { None };
        let known = kind.and_then(|kind| TYPES.into_iter().find(|word| *word == kind));
        let link = if creates {
            text("customer_link")?
        } else {
            Presence::Absent
        };
        let unknown = usize::from(kind.is_some() && known.is_none());
        Ok(Self {
            status,
            reference: text("reference")?.into(),
            kind: known,
            message: said.message.clone().into(),
            link: if full { link.into() } else { Presence::Absent },
            target: Target::read(target, said, asked, status)?,
            dropped: unknown + count_dropped(said.members, target, asked.operation)?,
        })
    }

    /// Whether anything that `render` would write holds our user or password.
    pub(super) fn holds_credential(&self, echo: &EchoGuard) -> bool {
        let person = self.target.iter().flat_map(|target| &target.person);
        let sides = self.target.iter().flat_map(Target::sides);
        [&self.reference, &self.message, &self.link]
            .into_iter()
            .filter_map(Presence::as_text)
            .chain(person.filter_map(|(_, text)| text.as_deref()))
            .any(|text| echo.finds_in(text))
            || sides
                .filter_map(|side| side.image.as_deref())
                .any(|image| echo.finds_in_image(image))
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("status", &self.status)
            .field("dropped", &self.dropped)
            .finish_non_exhaustive()
    }
}

impl Target {
    /// What is relayed of `target`: nothing, the documents, or all of it. What is not relayed is
    /// checked all the same, so that an answer is malformed for every tenant or for none.
    fn read(
        members: Members<'_>,
        said: &Said<'_>,
        asked: &Asked<'_>,
        status: CustomerStatus,
    ) -> Result<Option<Self>, Fault> {
        let full = asked.disclosure == Disclosure::Full;
        let updates = asked.operation == Operation::UpdateStatus;
        let images = asked.operation == Operation::GetDocumentImages;
        let mut person = Vec::new();
        for name in PERSON {
            match members.text(name, said.lifted)? {
                Presence::Absent => {}
                Presence::Null => person.push((name, None)),
                Presence::Is(text) => person.push((name, Some(text.to_owned()))),
            }
        }
        let documents = if images {
            read_documents(members, said)?
        } else {
            Presence::Absent
        };
        if !full {
            person.clear();
        }
        Ok((full || images).then_some(Self {
            person,
            status: (full && updates).then_some(status),
            documents,
        }))
    }

    fn sides(&self) -> &[Side] {
        match &self.documents {
            Presence::Is(sides) => sides,
            Presence::Absent | Presence::Null => &[],
        }
    }

    fn write(&self, out: &mut Writer) {
        for (name, text) in &self.person {
            out.text(name, text.as_deref());
        }
        if let Some(status) = self.status {
            out.text("status", Some(status.as_str()));
        }
        match &self.documents {
            Presence::Absent => {}
            Presence::Null => out.text("documents", None),
            Presence::Is(sides) => {
                out.open("documents");
                for side in sides {
                    out.image(side.name, side.image.as_deref());
                }
                out.close();
            }
        }
    }
}

/// updateStatus has the status in `target`, and maybe at the top as well; all others have it at the
/// top only.
fn status(
    said: &Said<'_>,
    target: Members<'_>,
    operation: Operation,
) -> Result<CustomerStatus, Fault> {
    let read = |members: Members<'_>| match members.text("status", said.lifted)? {
        Presence::Absent => Ok(None),
        Presence::Null => Err(Fault::Status),
        Presence::Is(word) => CustomerStatus::from_word(word)
            .map(Some)
            .ok_or(Fault::Status),
    };
    let top = read(said.members)?;
    if operation != Operation::UpdateStatus {
        return top.ok_or(Fault::Status);
    }
    match (read(target)?, top) {
        (Some(inner), Some(top)) if inner != top => Err(Fault::Contradiction),
        (inner, top) => inner.or(top).ok_or(Fault::Status),
    }
}

fn read_documents(target: Members<'_>, said: &Said<'_>) -> Result<Presence<Vec<Side>>, Fault> {
    let node = match target.get("documents")? {
        None => return Ok(Presence::Absent),
        Some(Node::Null) => return Ok(Presence::Null),
        node => node,
    };
    let members = Node::members(node)?;
    let mut sides = Vec::new();
    for name in SIDES {
        let image = match members.image(name, said.lifted)? {
            Presence::Absent => continue,
            Presence::Null => None,
            Presence::Is(image) if is_image(&image) => Some(image),
            Presence::Is(_) => return Err(Fault::Image),
        };
        sides.push(Side { name, image });
    }
    Ok(Presence::Is(sides))
}

fn count_dropped(
    top: Members<'_>,
    target: Members<'_>,
    operation: Operation,
) -> Result<usize, Fault> {
    let inner_status = operation == Operation::UpdateStatus;
    let creates = operation == Operation::CreateOrUpdateCustomer;
    let mut documented = vec!["result", "reference", "status", "message", "target"];
    if creates {
        documented.extend(["type", "customer_link"]);
    }
    let mut in_target = PERSON.to_vec();
    if inner_status {
        in_target.push("status");
    }
    let mut dropped = top.count_others(&documented);
    if operation == Operation::GetDocumentImages {
        in_target.push("documents");
        dropped += Node::members(target.get("documents")?)?.count_others(&SIDES);
    }
    Ok(dropped + target.count_others(&in_target))
}

impl From<Presence<&str>> for Presence<String> {
    fn from(text: Presence<&str>) -> Self {
        match text {
            Presence::Absent => Self::Absent,
            Presence::Is(text) => Self::Is(text.to_owned()),
            Presence::Null => Self::Null,
        }
    }
}

impl Presence<String> {
    fn as_text(&self) -> Option<&str> {
        match self {
            Self::Is(text) => Some(text),
            Self::Absent | Self::Null => None,
        }
    }
}

/// Writes nested objects: what is text is gathered, what is image goes between as it is.
struct Writer {
    segments: Segments,
    text: Vec<u8>,
    first: bool,
}

impl Default for Writer {
    fn default() -> Self {
        Self {
            segments: Segments::default(),
            text: b"{".to_vec(),
            first: true,
        }
    }
}

impl Writer {
    /// A name of ours, which needs no escape.
    fn name(&mut self, name: &'static str) {
        if !std::mem::take(&mut self.first) {
            self.text.push(b',');
        }
        self.text.push(b'"');
        self.text.extend_from_slice(name.as_bytes());
        self.text.extend_from_slice(b"\":");
    }

    fn member(&mut self, name: &'static str, text: &Presence<String>) {
        if *text != Presence::Absent {
            self.text(name, text.as_text());
        }
    }

    fn text(&mut self, name: &'static str, text: Option<&str>) {
        self.name(name);
        let written = serde_json::to_writer(&mut self.text, &text);
        debug_assert!(written.is_ok(), "writing a string to memory cannot fail");
    }

    fn image(&mut self, name: &'static str, pieces: Option<&[Bytes]>) {
        let Some(pieces) = pieces else {
            return self.text(name, None);
        };
        self.name(name);
        self.text.push(b'"');
        self.flush();
        for piece in pieces {
            self.segments.push(piece.clone());
        }
        self.text.push(b'"');
    }

    fn open(&mut self, name: &'static str) {
        self.name(name);
        self.text.push(b'{');
        self.first = true;
    }

    fn close(&mut self) {
        self.text.push(b'}');
        self.first = false;
    }

    fn flush(&mut self) {
        self.segments.push(std::mem::take(&mut self.text).into());
    }

    fn finish(mut self) -> Segments {
        self.close();
        self.flush();
        self.segments
    }
}

#[cfg(test)]
mod tests;
