//! How `serde_json` hands over a document: value by value, names first.

use std::{borrow::Cow, fmt};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::{Member, NAME, Place, Value, Walk};
use crate::payload::path::{Path, Step};

/// One value of the document, to be read.
pub(super) struct Node<'w, 'p, 'b> {
    pub(super) walk: &'w mut Walk<'b>,
    pub(super) place: Place,
    pub(super) path: &'p Path<'p>,
    /// How many objects and arrays it stands in.
    pub(super) depth: usize,
}

impl<'b> DeserializeSeed<'b> for Node<'_, '_, 'b> {
    type Value = Value<'b>;

    fn deserialize<D: Deserializer<'b>>(self, parser: D) -> Result<Value<'b>, D::Error> {
        parser.deserialize_any(self)
    }
}

impl<'b> Visitor<'b> for Node<'_, '_, 'b> {
    type Value = Value<'b>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_borrowed_str<E>(self, text: &'b str) -> Result<Value<'b>, E> {
        Ok(match self.walk.lifted.find(text) {
            Some(long) => Value::Long(long),
            None => Value::Text(Cow::Borrowed(text)),
        })
    }

    fn visit_str<E>(self, text: &str) -> Result<Value<'b>, E> {
        Ok(Value::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value<'b>, E> {
        Ok(Value::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value<'b>, E> {
        Ok(Value::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Value<'b>, E> {
        Ok(Value::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value<'b>, E> {
        Ok(Value::Other)
    }

    fn visit_unit<E>(self) -> Result<Value<'b>, E> {
        Ok(Value::Other)
    }

    fn visit_seq<A: SeqAccess<'b>>(self, mut seq: A) -> Result<Value<'b>, A::Error> {
        let depth = self.walk.enter(self.path, self.depth)?;
        for index in 0.. {
            let path = self.path.child(Step::Element(index));
            let element = Node {
                walk: &mut *self.walk,
                place: Place::Elsewhere,
                path: &path,
                depth,
            };
            let Some(value) = seq.next_element_seed(element)? else {
                break;
            };
            self.walk.discard(&path, &value);
        }
        Ok(Value::Other)
    }

    fn visit_map<A: MapAccess<'b>>(self, mut map: A) -> Result<Value<'b>, A::Error> {
        let walk = self.walk;
        let depth = walk.enter(self.path, self.depth)?;
        // Names that no slot of the document remembers.
        let mut others = Vec::new();
        while let Some(name) = map.next_key_seed(Name)? {
            let path = self.path.child(Step::Member(&name));
            let member = if name.len() > NAME || walk.lifted.find(&name).is_some() {
                Member::Overlong
            } else {
                Member::of(self.place, &name)
            };
            walk.announce(member, &path, &others)?;
            let value = map.next_value_seed(Node {
                walk: &mut *walk,
                place: member.place(),
                path: &path,
                depth,
            })?;
            walk.put(member, &path, value);
            if matches!(member, Member::Unasked | Member::Unknown) {
                others.push(name);
            }
        }
        Ok(Value::Object)
    }
}

/// A member's name, without its escapes.
struct Name;

impl<'b> DeserializeSeed<'b> for Name {
    type Value = Cow<'b, str>;

    fn deserialize<D: Deserializer<'b>>(self, parser: D) -> Result<Cow<'b, str>, D::Error> {
        parser.deserialize_str(self)
    }
}

impl<'b> Visitor<'b> for Name {
    type Value = Cow<'b, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, name: &'b str) -> Result<Cow<'b, str>, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E>(self, name: &str) -> Result<Cow<'b, str>, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}
