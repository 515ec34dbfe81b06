//! Reads the upstream's answer into nodes that borrow from it, without believing anything of it.
//!
//! Invariant: a documented member is found by its exact name and counted; two of that name are an
//! error. Parsing is the work of `serde_json`, whose errors quote the input and are never formatted;
//! it bounds the depth (128) as the skeleton's limit bounds the size, so a node tree stays small.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::verdict::Fault;
use crate::payload::lift::Lifted;

/// One JSON value of an answer, as far as answers matter.
pub(super) enum Node<'b> {
    /// `[]`: what PHP writes for an object without members.
    EmptyList,
    Null,
    Object(Vec<(Cow<'b, str>, Node<'b>)>),
    /// A number, a truth value, a list.
    Other,
    Text(Cow<'b, str>),
}

impl<'b> Node<'b> {
    /// The whole of an answer.
    pub(super) fn read(lifted: &'b Lifted) -> Result<Self, Fault> {
        serde_json::from_slice(lifted.skeleton()).map_err(|_error| Fault::NotJson)
    }

    /// The members of an object; null, an empty list and nothing at all count as one without any.
    pub(super) fn members(node: Option<&'b Self>) -> Result<Members<'b>, Fault> {
        match node {
            None | Some(Self::Null | Self::EmptyList) => Ok(Members(&[])),
            Some(Self::Object(members)) => Ok(Members(members)),
            Some(Self::Other | Self::Text(_)) => Err(Fault::WrongType),
        }
    }
}

/// An object's members.
#[derive(Clone, Copy)]
pub(super) struct Members<'b>(&'b [(Cow<'b, str>, Node<'b>)]);

impl<'b> Members<'b> {
    /// The member of this name, if there is exactly one.
    pub(super) fn get(self, name: &str) -> Result<Option<&'b Node<'b>>, Fault> {
        let mut found = self.0.iter().filter(|(member, _)| member == name);
        let first = found.next().map(|(_, node)| node);
        match found.next() {
            None => Ok(first),
            Some(_) => Err(Fault::DuplicateMember),
        }
    }

    /// A text member. The outer option says whether it is there, the inner one whether it is null.
    pub(super) fn text(self, name: &str, lifted: &Lifted) -> Result<Presence<&'b str>, Fault> {
        match self.get(name)? {
            None => Ok(Presence::Absent),
            Some(Node::Null) => Ok(Presence::Null),
            Some(Node::Text(text)) if lifted.find(text).is_some() => Err(Fault::TextTooLong),
            Some(Node::Text(text)) => Ok(Presence::Is(text)),
            Some(Node::EmptyList | Node::Object(_) | Node::Other) => Err(Fault::WrongType),
        }
    }

    /// An image member, as the pieces of its text.
    pub(super) fn image(self, name: &str, lifted: &Lifted) -> Result<Presence<Vec<Bytes>>, Fault> {
        match self.get(name)? {
            None => Ok(Presence::Absent),
            Some(Node::Null) => Ok(Presence::Null),
            Some(Node::Text(text)) => match lifted.find(text) {
                Some(long) => Ok(Presence::Is(long.slices().to_vec())),
                // Short, so the parser has undone its escapes already: none can be left.
                None if text.contains('\\') => Err(Fault::Image),
                None => Ok(Presence::Is(vec![Bytes::copy_from_slice(text.as_bytes())])),
            },
            Some(Node::EmptyList | Node::Object(_) | Node::Other) => Err(Fault::WrongType),
        }
    }

    /// How many members have a name that is not among `documented`.
    pub(super) fn count_others(self, documented: &[&str]) -> usize {
        self.0
            .iter()
            .filter(|(name, _)| !documented.contains(&name.as_ref()))
            .count()
    }
}

/// What stands at a member's place. An answer is relayed with the same distinctions.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Presence<T> {
    Absent,
    Is(T),
    Null,
}

impl<T> Presence<T> {
    /// The value, where there is one.
    pub(super) fn value(self) -> Option<T> {
        match self {
            Self::Is(value) => Some(value),
            Self::Absent | Self::Null => None,
        }
    }
}

impl<'de> Deserialize<'de> for Node<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

/// serde borrows a string only from a visitor that asks for it; a lifted string is known by the
/// place that it is borrowed from.
struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Node<'de>, E> {
        Ok(Node::Other)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Node<'de>, E> {
        Ok(Node::Other)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Node<'de>, E> {
        Ok(Node::Other)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Node<'de>, E> {
        Ok(Node::Other)
    }

    fn visit_unit<E: Error>(self) -> Result<Node<'de>, E> {
        Ok(Node::Null)
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Node<'de>, E> {
        Ok(Node::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Node<'de>, E> {
        Ok(Node::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node<'de>, A::Error> {
        let mut node = Node::EmptyList;
        while list.next_element::<IgnoredAny>()?.is_some() {
            node = Node::Other;
        }
        Ok(node)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Node<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some(Name(name)) = object.next_key()? {
            members.push((name, object.next_value()?));
        }
        Ok(Node::Object(members))
    }
}

/// `Cow` by itself is always read as owned.
#[derive(Deserialize)]
struct Name<'b>(#[serde(borrow)] Cow<'b, str>);
