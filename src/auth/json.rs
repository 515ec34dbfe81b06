//! Strict JSON for tokens and key sets: an object in which no name stands twice, at any depth.
//!
//! Invariant: what is read here is what every other careful parser reads. The common trick of two
//! members of one name, of which one parser takes the first and another the last, does not get in.
//! Input is bounded by the caller; depth is bounded by `serde_json` (128).

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};

/// A JSON object: its members in the order in which they stand, each name once.
pub(super) struct Object<'a>(Vec<(Cow<'a, str>, Value<'a>)>);

/// A JSON value as far as tokens and keys need it.
pub(super) enum Value<'a> {
    Array(Vec<Self>),
    Object(Object<'a>),
    /// `null`, a boolean, or a number that is negative, fractional, in exponent form, or above `u64`.
    Other,
    Text(Cow<'a, str>),
    Whole(u64),
}

/// Where the text stops being a strict JSON object. It has no room for the text itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl<'a> Object<'a> {
    /// Reads one object and nothing after it.
    pub(super) fn parse(json: &'a [u8]) -> Result<Self, Fault> {
        // First the whole as UTF-8: `serde_json` would not look at strings that nobody reads.
        let text = std::str::from_utf8(json).map_err(|_| Fault { line: 0, column: 0 })?;
        serde_json::from_str(text).map_err(|error| Fault {
            line: error.line(),
            column: error.column(),
        })
    }

    /// The member of this name (letter case counts).
    pub(super) fn get(&self, name: &str) -> Option<&Value<'a>> {
        self.0
            .iter()
            .find(|(member, _)| member == name)
            .map(|(_, value)| value)
    }

    /// The member of this name, when there is no other.
    pub(super) fn sole(&self, name: &str) -> Option<&Value<'a>> {
        match self.0.as_slice() {
            [(member, value)] if member == name => Some(value),
            _ => None,
        }
    }

    /// Whether there is a member of this name, `null` included.
    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }
}

impl Value<'_> {
    /// The string, when the value is one.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Array(_) | Self::Object(_) | Self::Other | Self::Whole(_) => None,
        }
    }

    /// The object, when the value is one.
    pub(super) fn object(&self) -> Option<&Object<'_>> {
        match self {
            Self::Object(object) => Some(object),
            Self::Array(_) | Self::Other | Self::Text(_) | Self::Whole(_) => None,
        }
    }

    /// The strings, when the value is an array of nothing else.
    pub(super) fn texts(&self) -> Option<Vec<&str>> {
        match self {
            Self::Array(values) => values.iter().map(Value::text).collect(),
            Self::Object(_) | Self::Other | Self::Text(_) | Self::Whole(_) => None,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<'de>, A::Error> {
                members(map)
            }
        }

        deserializer.deserialize_map(Members)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Value<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value<'de>, E> {
        Ok(Value::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value<'de>, E> {
        Ok(Value::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value<'de>, E> {
        Ok(Value::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value<'de>, E> {
        Ok(Value::Other)
    }

    fn visit_u64<E>(self, whole: u64) -> Result<Value<'de>, E> {
        Ok(Value::Whole(whole))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Value<'de>, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = array.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value<'de>, A::Error> {
        members(map).map(Value::Object)
    }
}

fn members<'de, A: MapAccess<'de>>(mut map: A) -> Result<Object<'de>, A::Error> {
    let mut members: Vec<(Cow<'de, str>, Value<'de>)> = Vec::new();
    while let Some(Name(name)) = map.next_key()? {
        members.push((name, map.next_value()?));
    }
    // Sorted rather than each against each: a token of 8 KiB has room for a thousand names.
    let mut names: Vec<&str> = members.iter().map(|(name, _)| name.as_ref()).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair.first() == pair.last()) {
        return Err(A::Error::custom("a name stands twice"));
    }
    Ok(Object(members))
}

struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyName;

        impl<'de> Visitor<'de> for AnyName {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }

        deserializer.deserialize_str(AnyName)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_stands_twice_is_refused_at_any_depth_and_however_it_is_written() {
        for bad in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"b":2,"c":3,"a":{}}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"a":{"b":1,"b":1}}"#,
            r#"{"a":[{"b":1,"b":1}]}"#,
        ] {
            assert!(Object::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(Object::parse(br#"{"a":1,"A":2,"b":{"a":3}}"#).is_ok());
    }

    #[test]
    fn only_one_object_of_valid_utf_8_is_read() {
        let deep = format!("{{\"a\":{}}}", "[".repeat(6000));
        for bad in [
            "",
            "[]",
            "1",
            "\"a\"",
            "{",
            "{}x",
            "{} {}",
            "\u{feff}{}",
            "{'a':1}",
            "{\"a\":NaN}",
            "{\"a\":\"\\ud800\"}",
            "{\"a\":\"\n\"}",
            &deep,
        ] {
            assert!(Object::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(Object::parse(b"{\"a\":[\"\xff\"]}").is_err());
    }

    #[test]
    fn only_plain_whole_numbers_count_as_whole() {
        for (text, whole) in [
            ("0", Some(0)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("1.0", None),
            ("1e3", None),
            ("-1", None),
            ("-0", None),
            ("null", None),
            ("true", None),
            ("\"1\"", None),
        ] {
            let json = format!("{{\"n\":{text}}}");
            let object = Object::parse(json.as_bytes()).unwrap();
            let found = match object.get("n") {
                Some(Value::Whole(whole)) => Some(*whole),
                _ => None,
            };
            assert_eq!(found, whole, "{text}");
        }
    }

    #[test]
    fn an_array_of_strings_holds_nothing_else() {
        let object = Object::parse(br#"{"a":["x","y"],"b":["x",1],"c":[],"d":"x"}"#).unwrap();
        let texts = |name| object.get(name).unwrap().texts();
        assert_eq!(texts("a"), Some(vec!["x", "y"]));
        assert_eq!(texts("b"), None);
        assert_eq!(texts("c"), Some(vec![]));
        assert_eq!(texts("d"), None);
    }
}
