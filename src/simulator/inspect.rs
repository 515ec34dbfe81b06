//! Reads a body without leaving anything out: every member name in order, duplicates included.
//!
//! Invariant: independent of the gateway's own reader, which it judges. It lists what it saw even
//! where the document breaks off later, and it shows names and places, never a value.

use std::{borrow::Cow, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

/// A JSON value that keeps duplicate members. Strings are borrowed where they hold no escape.
pub(super) enum Node<'a> {
    /// `[…]`; its elements are never asked for, only listed.
    Array,
    Object(Vec<(String, Node<'a>)>),
    /// A number, a boolean or `null`.
    Plain,
    Text(Cow<'a, str>),
}

impl<'a> Node<'a> {
    /// The member of this name; of duplicates the last, as PHP's `json_decode` reads them.
    pub(super) fn member(&self, name: &str) -> Option<&Node<'a>> {
        let Self::Object(members) = self else {
            return None;
        };
        let (_, node) = members.iter().rev().find(|(own, _)| own == name)?;
        Some(node)
    }

    /// The text of the member of this name, where it is a string that is not empty.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self.member(name)? {
            Self::Text(text) if !text.is_empty() => Some(text),
            Self::Array | Self::Object(_) | Self::Plain | Self::Text(_) => None,
        }
    }
}

/// What one body holds.
pub(super) struct Inspection<'a> {
    /// The document, where the body is one that is complete and an object.
    pub(super) document: Option<Node<'a>>,
    /// Member names, also those before a mistake.
    pub(super) seen: Seen,
    /// What is wrong with it, with line and column.
    pub(super) malformed: Option<String>,
}

/// The member names of one body.
#[derive(Default)]
pub(super) struct Seen {
    /// JSON pointers (RFC 6901) in the order of the text. The list ends after 16 KiB of names.
    pub(super) members: Vec<String>,
    /// All members, those beyond the list too.
    pub(super) total: u64,
    /// Members that some reader could take for `user`, at any depth.
    pub(super) user: u64,
    /// Members that some reader could take for `pass`, at any depth.
    pub(super) pass: u64,
    listed_bytes: usize,
    nodes: u32,
}

/// Bounds what a record of one request holds.
const MAX_LISTED_BYTES: usize = 16 * 1024;
/// Bounds the tree of a hostile body (about 50 MB).
const MAX_NODES: u32 = 1_000_000;

/// Reads the whole body.
pub(super) fn inspect(body: &[u8]) -> Inspection<'_> {
    let mut seen = Seen::default();
    let mut json = serde_json::Deserializer::from_slice(body);
    let read = Walk {
        seen: &mut seen,
        pointer: &mut String::new(),
    }
    .deserialize(&mut json)
    .and_then(|node| json.end().map(|()| node));
    let (document, malformed) = match read {
        Ok(node @ Node::Object(_)) => (Some(node), None),
        Ok(Node::Array | Node::Plain | Node::Text(_)) => (None, Some("not an object".to_owned())),
        Err(error) => (None, Some(place(&error))),
    };
    Inspection {
        document,
        seen,
        malformed,
    }
}

/// The kind and the place of a mistake; the error's own text could repeat the input.
fn place(error: &serde_json::Error) -> String {
    let kind = match error.classify() {
        Category::Data => "more than a million values",
        Category::Eof => "the document breaks off",
        Category::Io | Category::Syntax => "not JSON",
    };
    format!("{kind} at line {} column {}", error.line(), error.column())
}

impl Seen {
    fn note(&mut self, name: &str, pointer: &str) {
        self.total += 1;
        // Upper case also maps the long s (U+017F), which Go takes for an s when it matches names.
        match name.to_uppercase().as_str() {
            "USER" => self.user += 1,
            "PASS" => self.pass += 1,
            _ => {}
        }
        self.listed_bytes = self.listed_bytes.saturating_add(pointer.len());
        if self.listed_bytes <= MAX_LISTED_BYTES {
            self.members.push(pointer.to_owned());
        }
    }
}

/// Reads one value and notes the members below it.
struct Walk<'s> {
    seen: &'s mut Seen,
    pointer: &'s mut String,
}

impl Walk<'_> {
    fn below(&mut self) -> Walk<'_> {
        Walk {
            seen: self.seen,
            pointer: self.pointer,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Node<'de>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Node<'de>, D::Error> {
        self.seen.nodes += 1;
        if self.seen.nodes > MAX_NODES {
            return Err(D::Error::custom("too many values"));
        }
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Node<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node<'de>, E> {
        Ok(Node::Plain)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node<'de>, E> {
        Ok(Node::Plain)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node<'de>, E> {
        Ok(Node::Plain)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node<'de>, E> {
        Ok(Node::Plain)
    }

    fn visit_unit<E>(self) -> Result<Node<'de>, E> {
        Ok(Node::Plain)
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Node<'de>, E> {
        Ok(Node::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node<'de>, E> {
        Ok(Node::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<Node<'de>, A::Error> {
        let above = self.pointer.len();
        for index in 0_u64.. {
            self.pointer.push('/');
            self.pointer.push_str(&index.to_string());
            let element = elements.next_element_seed(self.below())?;
            self.pointer.truncate(above);
            if element.is_none() {
                break;
            }
        }
        Ok(Node::Array)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<Node<'de>, A::Error> {
        let above = self.pointer.len();
        let mut members = Vec::new();
        while let Some(name) = entries.next_key::<String>()? {
            self.pointer.push('/');
            self.pointer
                .push_str(&name.replace('~', "~0").replace('/', "~1"));
            self.seen.note(&name, self.pointer);
            let node = entries.next_value_seed(self.below())?;
            self.pointer.truncate(above);
            members.push((name, node));
        }
        Ok(Node::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_member_is_listed_in_order_with_duplicates_and_depth() {
        let body =
            br#"{"user":"a","Pass":1,"us\u0065r":[{"x/y~":{"USER":null}},2],"e":"","user":{}}"#;
        let inspection = inspect(body);
        assert_eq!(
            inspection.seen.members,
            [
                "/user",
                "/Pass",
                "/user",
                "/user/0/x~1y~0",
                "/user/0/x~1y~0/USER",
                "/e",
                "/user"
            ]
        );
        assert_eq!(inspection.seen.total, 7);
        assert_eq!((inspection.seen.user, inspection.seen.pass), (4, 1));
        let document = inspection.document.unwrap();
        assert!(matches!(document.member("user"), Some(Node::Object(_))));
        assert!(document.text("e").is_none());
    }

    #[test]
    fn a_name_that_go_would_match_is_counted() {
        let inspection = inspect(r#"{"u\u017fer":1,"paſs":2,"pas":3}"#.as_bytes());
        assert_eq!((inspection.seen.user, inspection.seen.pass), (1, 1));
    }

    #[test]
    fn members_before_a_mistake_are_kept_and_no_value_is_shown() {
        for (body, expected) in [
            (r#"{"user":"hunter2""#, "the document breaks off"),
            (r#"{"user":"hunter2",}"#, "not JSON"),
            (r#"{"user":"hunter2"}{}"#, "not JSON"),
            (r#"{"user":"hunter2","a":hunter2}"#, "not JSON"),
        ] {
            let inspection = inspect(body.as_bytes());
            assert!(inspection.document.is_none(), "{body}");
            assert_eq!(inspection.seen.user, 1, "{body}");
            let malformed = inspection.malformed.unwrap();
            assert!(malformed.starts_with(expected), "{malformed}");
            assert!(!malformed.contains("hunter2"), "{malformed}");
        }
        for body in ["[]", "1", "\"user\"", "null"] {
            assert_eq!(inspect(body.as_bytes()).malformed.unwrap(), "not an object");
        }
        assert!(inspect(b"").malformed.is_some());
        assert!(inspect(b"\xff").malformed.is_some());
    }

    #[test]
    fn the_list_of_names_is_bounded_and_the_count_is_not() {
        let body = format!("{{{}\"pass\":0}}", "\"name\":1,".repeat(10_000));
        let seen = inspect(body.as_bytes()).seen;
        assert_eq!(seen.total, 10_001);
        assert_eq!(seen.pass, 1);
        assert!(seen.members.iter().map(String::len).sum::<usize>() <= MAX_LISTED_BYTES);
    }

    #[test]
    fn a_plain_long_string_is_borrowed() {
        let body = format!(r#"{{"a":"{}"}}"#, "x".repeat(9_000));
        let document = inspect(body.as_bytes()).document.unwrap();
        assert!(matches!(
            document.member("a"),
            Some(Node::Text(Cow::Borrowed(_)))
        ));
    }
}
