//! Reads a skeleton into the members that requests have, and refuses whatever is not plain JSON
//! of that shape.
//!
//! Invariant: every member is seen, none is guessed at. A name that occurs twice in one object, at
//! any depth and however it is escaped, is an error: two parsers could take different ones. What
//! stands under the client's `user` and `pass` is checked in the same way and never kept.
//! `serde_json` does the parsing; its errors quote the input, so none of them is ever formatted.

mod node;

use std::{borrow::Cow, mem, str};

use memchr::memchr_iter;
use serde::de::{DeserializeSeed as _, Error};

use self::node::Node;
use super::{
    PayloadError, Violation,
    fields::Field,
    lift::{Lifted, LongString},
    path::{Path, Step},
};

/// How deep objects and arrays may nest; a request needs 3.
const DEPTH: usize = 8;
/// How many members a document may have in all; a request needs 18.
const MEMBERS: usize = 64;
/// How many bytes a member's name may have.
const NAME: usize = 64;

/// Reads a skeleton. The violations are those of the document's shape: names that no request has,
/// and limits. Anything may still be missing or of the wrong type.
pub(super) fn read(lifted: &Lifted) -> Result<(Document<'_>, Vec<Violation>), PayloadError> {
    let skeleton = lifted.skeleton();
    let text = str::from_utf8(skeleton).map_err(|error| malformed(lifted, error.valid_up_to()))?;
    let mut walk = Walk {
        lifted,
        document: Document::default(),
        members: 0,
        violations: Vec::new(),
        fault: None,
    };
    let mut parser = serde_json::Deserializer::from_str(text);
    let root = Node {
        walk: &mut walk,
        place: Place::Root,
        path: &Path::ROOT,
        depth: 0,
    };
    let outcome = root
        .deserialize(&mut parser)
        .and_then(|value| parser.end().map(|()| value));
    match (outcome, walk.fault) {
        (_, Some(Fault::Duplicate(pointer))) => Err(PayloadError::DuplicateMember(pointer)),
        (_, Some(Fault::Limit)) => Err(PayloadError::Invalid(walk.violations)),
        (Ok(Value::Object), None) => Ok((walk.document, walk.violations)),
        (Ok(_), None) => Err(PayloadError::Invalid(vec![Violation::wrong_type(
            String::new(),
            "expected an object",
        )])),
        (Err(error), None) => Err(malformed(lifted, offset(skeleton, &error))),
    }
}

/// The members of a request, of whatever type the client gave them.
#[derive(Default)]
pub(super) struct Document<'b> {
    pub(super) service: Value<'b>,
    pub(super) target: Value<'b>,
    pub(super) documents: Value<'b>,
    fields: [Value<'b>; Field::ALL.len()],
    user: bool,
    pass: bool,
}

impl<'b> Document<'b> {
    /// Takes what stands at a field's place.
    pub(super) fn take(&mut self, field: Field) -> Value<'b> {
        self.slot(field).map(mem::take).unwrap_or_default()
    }

    fn slot(&mut self, field: Field) -> Option<&mut Value<'b>> {
        let mut slots = Field::ALL.iter().zip(&mut self.fields);
        slots
            .find(|(name, _)| **name == field)
            .map(|(_, slot)| slot)
    }
}

/// What stands at a member's place.
#[derive(Default)]
pub(super) enum Value<'b> {
    #[default]
    Absent,
    /// A string that was lifted out.
    Long(&'b LongString),
    Object,
    /// A number, an array, `true`, `false` or `null`.
    Other,
    Text(Cow<'b, str>),
}

impl Value<'_> {
    pub(super) const fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

/// Why reading stopped, where it was not the JSON's fault.
enum Fault {
    Duplicate(String),
    /// A violation says which.
    Limit,
}

struct Walk<'b> {
    lifted: &'b Lifted,
    document: Document<'b>,
    members: usize,
    violations: Vec<Violation>,
    fault: Option<Fault>,
}

impl<'b> Walk<'b> {
    /// Counts a member, and refuses it if its object has had one of this name.
    fn announce<E: Error>(
        &mut self,
        member: Member,
        path: &Path<'_>,
        others: &[Cow<'b, str>],
    ) -> Result<(), E> {
        self.members += 1;
        if self.members > MEMBERS {
            return Err(self.limit(&Path::ROOT, "member_count", "expected at most 64 members"));
        }
        let document = &mut self.document;
        let seen = match member {
            Member::Documents => !document.documents.is_absent(),
            Member::Field(field) => document.slot(field).is_some_and(|slot| !slot.is_absent()),
            Member::Overlong => false,
            Member::Pass => mem::replace(&mut document.pass, true),
            Member::Service => !document.service.is_absent(),
            Member::Target => !document.target.is_absent(),
            Member::Unasked | Member::Unknown => {
                matches!(path.step, Step::Member(name) if others.iter().any(|other| other == name))
            }
            Member::User => mem::replace(&mut document.user, true),
        };
        if seen {
            self.fault = Some(Fault::Duplicate(path.pointer()));
            return Err(E::custom("duplicate member"));
        }
        if matches!(member, Member::Overlong) {
            self.violation(path, "name_length", "expected names of at most 64 bytes");
        }
        if matches!(member, Member::Unknown) {
            self.violation(path, "unknown_member", "expected no member of this name");
        }
        Ok(())
    }

    /// Keeps what a request may hold, and lets go of the rest.
    fn put(&mut self, member: Member, path: &Path<'_>, value: Value<'b>) {
        match member {
            Member::Documents => self.document.documents = value,
            Member::Field(field) => {
                if let Some(slot) = self.document.slot(field) {
                    *slot = value;
                }
            }
            Member::Service => self.document.service = value,
            Member::Target => self.document.target = value,
            Member::Overlong | Member::Pass | Member::Unasked | Member::Unknown | Member::User => {
                self.discard(path, &value);
            }
        }
    }

    /// A value that is not kept: all that is asked of it is that it is short.
    fn discard(&mut self, path: &Path<'_>, value: &Value<'b>) {
        if matches!(value, Value::Long(_)) {
            self.violation(path, "length", "expected at most 3072 bytes");
        }
    }

    fn enter<E: Error>(&mut self, path: &Path<'_>, depth: usize) -> Result<usize, E> {
        if depth == DEPTH {
            return Err(self.limit(path, "nesting", "expected at most 8 levels of nesting"));
        }
        Ok(depth + 1)
    }

    fn limit<E: Error>(&mut self, path: &Path<'_>, code: &'static str, message: &'static str) -> E {
        self.violation(path, code, message);
        self.fault = Some(Fault::Limit);
        E::custom(code)
    }

    fn violation(&mut self, path: &Path<'_>, code: &'static str, message: &'static str) {
        let pointer = path.pointer();
        let same = |seen: &Violation| seen.code == code && seen.pointer == pointer;
        // Members are bounded, elements of arrays are not.
        if self.violations.len() < MEMBERS && !self.violations.iter().any(same) {
            self.violations.push(Violation {
                pointer,
                code,
                message: message.to_owned(),
            });
        }
    }
}

/// What a member's name means where it stands.
#[derive(Clone, Copy)]
enum Member {
    Documents,
    Field(Field),
    /// Its name is too long to be looked at.
    Overlong,
    Pass,
    Service,
    Target,
    /// Within a value that is refused or dropped as a whole.
    Unasked,
    Unknown,
    User,
}

impl Member {
    fn of(place: Place, name: &str) -> Self {
        match (place, name) {
            (Place::Root, "service") => Self::Service,
            (Place::Root, "target") => Self::Target,
            (Place::Root, "user") => Self::User,
            (Place::Root, "pass") => Self::Pass,
            (Place::Root, "reference") => Self::Field(Field::Reference),
            (Place::Target, "email") => Self::Field(Field::Email),
            (Place::Target, "fn") => Self::Field(Field::Fn),
            (Place::Target, "ln") => Self::Field(Field::Ln),
            (Place::Target, "addr") => Self::Field(Field::Addr),
            (Place::Target, "city") => Self::Field(Field::City),
            (Place::Target, "state") => Self::Field(Field::State),
            (Place::Target, "zip") => Self::Field(Field::Zip),
            (Place::Target, "dob") => Self::Field(Field::Dob),
            (Place::Target, "phone") => Self::Field(Field::Phone),
            (Place::Target, "status") => Self::Field(Field::Status),
            (Place::Target, "documents") => Self::Documents,
            (Place::Documents, "front") => Self::Field(Field::Front),
            (Place::Documents, "back") => Self::Field(Field::Back),
            (Place::Elsewhere, _) => Self::Unasked,
            _ => Self::Unknown,
        }
    }

    /// What its value is read as.
    const fn place(self) -> Place {
        match self {
            Self::Documents => Place::Documents,
            Self::Target => Place::Target,
            Self::Field(_)
            | Self::Overlong
            | Self::Pass
            | Self::Service
            | Self::Unasked
            | Self::Unknown
            | Self::User => Place::Elsewhere,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Documents,
    Elsewhere,
    Root,
    Target,
}

fn malformed(lifted: &Lifted, offset: usize) -> PayloadError {
    let (line, column) = lifted.position(offset);
    PayloadError::MalformedJson { line, column }
}

/// The byte of the skeleton that a parser's error is about.
fn offset(skeleton: &[u8], error: &serde_json::Error) -> usize {
    let before = error.line().checked_sub(2);
    let newline = before.and_then(|lines| memchr_iter(b'\n', skeleton).nth(lines));
    newline.map_or(0, |newline| newline + 1) + error.column().saturating_sub(1)
}

#[cfg(test)]
mod tests;
