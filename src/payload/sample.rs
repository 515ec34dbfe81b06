//! Requests for the unit tests: written by hand, or generated with everything that a client may
//! vary: order, white space, escapes, frames, credentials of its own.

use base64_simd::STANDARD;
use bytes::Bytes;
use jiff::civil::{Date, date};
use proptest::{collection::vec, prelude::*, sample::Index};
use serde_json::{Map, Value, json};

use super::{
    DataUri, Field, ImageTypes, PayloadError, Rules, Violation,
    lift::{Lifted, SKELETON_LIMIT, lift},
};
use crate::tenant::Country;

pub(crate) const TODAY: Date = date(2026, 11, 23);

pub(crate) fn rules() -> Rules {
    Rules {
        required: vec![
            Field::Reference,
            Field::Email,
            Field::Fn,
            Field::Ln,
            Field::Addr,
            Field::City,
            Field::State,
            Field::Zip,
            Field::Dob,
            Field::Phone,
        ],
        country: Country::Any,
        data_uri: DataUri::Strip,
        image_types: ImageTypes::ALL,
        max_image: 1 << 20,
        max_image_pixels: 100_000_000,
    }
}

/// A complete request to create a customer, with two images.
pub(crate) fn customer() -> Value {
    json!({
        "service": "createOrUpdateCustomer",
        "reference": "888888812",
        "target": {
            "email": "test@customer.example", "fn": "Barbara", "ln": "Miller",
            "addr": "123 Main Street", "city": "Stratford", "state": "CT", "zip": "06614",
            "dob": "19700101", "phone": "2015106000",
            "documents": {
                "front": base64(&jpeg(640, 480, 6000)), "back": base64(&png(320, 200, 4000)),
            },
        },
    })
}

pub(crate) fn lifted(json: &[u8]) -> Lifted {
    lift(&[Bytes::copy_from_slice(json)], SKELETON_LIMIT).unwrap()
}

/// What a document is refused with: its violations as pointer and code, or another error.
pub(crate) fn refusal(
    json: &[u8],
    rules: &Rules,
) -> Result<Vec<(String, &'static str)>, PayloadError> {
    let parsed = lift(&[Bytes::copy_from_slice(json)], SKELETON_LIMIT)
        .map_err(PayloadError::from)
        .and_then(|lifted| super::Submission::parse(&lifted, rules, TODAY).map(drop));
    match parsed {
        Ok(()) => Ok(Vec::new()),
        Err(PayloadError::Invalid(violations)) => {
            assert!(!violations.is_empty());
            Ok(violations.into_iter().map(plain).collect())
        }
        Err(error) => Err(error),
    }
}

fn plain(violation: Violation) -> (String, &'static str) {
    assert!(violation.message.starts_with("expected "), "{violation:?}");
    (violation.pointer, violation.code)
}

pub(crate) fn base64(file: &[u8]) -> String {
    STANDARD.encode_to_string(file)
}

/// A JPEG file of these dimensions with about `bytes` bytes of image data.
pub(crate) fn jpeg(width: u16, height: u16, bytes: usize) -> Vec<u8> {
    let exif: [&[u8]; 2] = [&[0xff, 0xe1, 0x00, 0x0a], b"Exif\0\0xx"];
    jpeg_with(&[&exif.concat()], width, height, bytes)
}

pub(crate) fn jpeg_with(segments: &[&[u8]], width: u16, height: u16, bytes: usize) -> Vec<u8> {
    let mut file = vec![0xff, 0xd8];
    for segment in segments {
        file.extend(*segment);
    }
    file.extend([0xff, 0xc0, 0, 11, 8]);
    file.extend(height.to_be_bytes());
    file.extend(width.to_be_bytes());
    file.extend([1, 1, 0x11, 0, 0xff, 0xda, 0, 8, 1, 1, 0, 0, 63, 0]);
    // No 0xff in it, and all of base64's alphabet.
    let data = (0..bytes).map(|at| u8::try_from(at * 7 % 255).unwrap());
    file.extend(data);
    file.extend([0xff, 0xd9]);
    file
}

/// A PNG file of these dimensions with `bytes` bytes of image data. Its checksums are not right.
pub(crate) fn png(width: u32, height: u32, bytes: u32) -> Vec<u8> {
    let mut file = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    file.extend(width.to_be_bytes());
    file.extend(height.to_be_bytes());
    file.extend([8, 2, 0, 0, 0, 1, 2, 3, 4]);
    file.extend(bytes.to_be_bytes());
    file.extend(b"IDAT");
    file.extend((0..bytes).map(|at| u8::try_from(at * 11 % 256).unwrap()));
    file.extend([5, 6, 7, 8]);
    file.extend(b"\0\0\0\0IEND\xae\x42\x60\x82");
    file
}

/// A request as a client might write it, and what it means.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) json: Vec<u8>,
    pub(crate) frames: Vec<Bytes>,
    /// The document without `user` and `pass`.
    pub(crate) meaning: Value,
}

/// Valid requests for every service.
pub(crate) fn requests() -> impl Strategy<Value = Sample> {
    let meaning = prop_oneof![
        3 => customers(),
        1 => (email(), prop_oneof!["getStatus", "getDocumentImages"])
            .prop_map(|(email, service)| json!({"service": service, "target": {"email": email}})),
        1 => (email(), prop_oneof!["PASS", "PENDING", "FAIL"]).prop_map(|(email, status)| {
            json!({"service": "updateStatus", "target": {"email": email, "status": status}})
        }),
    ];
    let theirs = (option(json_value()), option(json_value()));
    (
        meaning,
        theirs,
        vec(any::<u8>(), 32..200),
        vec(any::<Index>(), 0..20),
    )
        .prop_map(|(meaning, (user, pass), style, cuts)| {
            let mut document = meaning.clone();
            let root = document.as_object_mut().unwrap();
            root.extend(user.map(|user| ("user".to_owned(), user)));
            root.extend(pass.map(|pass| ("pass".to_owned(), pass)));
            let mut json = String::new();
            write(&document, &mut json, &mut style.iter().copied().cycle());
            let json = json.into_bytes();
            Sample {
                frames: cut(&json, &cuts),
                json,
                meaning,
            }
        })
}

/// Cuts a document into frames, empty ones among them.
pub(crate) fn cut(json: &[u8], cuts: &[Index]) -> Vec<Bytes> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(json.len() + 1)).collect();
    places.extend([0, json.len()]);
    places.sort_unstable();
    let whole = Bytes::copy_from_slice(json);
    places
        .windows(2)
        .map(|pair| whole.slice(pair[0]..pair[1]))
        .collect()
}

fn option<T: Clone + std::fmt::Debug>(
    strategy: impl Strategy<Value = T>,
) -> impl Strategy<Value = Option<T>> {
    proptest::option::of(strategy)
}

fn customers() -> impl Strategy<Value = Value> {
    let texts = vec(text(), 6);
    let dob = (1900..2026, 1..=12, 1..=28);
    let images = option((image(), option(image())));
    (email(), text(), texts, dob, images).prop_map(|(email, phone, texts, (y, m, d), images)| {
        let mut target = Map::new();
        target.insert("email".to_owned(), email.into());
        for (name, text) in ["fn", "ln", "addr", "city", "state", "zip"]
            .iter()
            .zip(&texts)
        {
            target.insert((*name).to_owned(), text.as_str().into());
        }
        target.insert("dob".to_owned(), format!("{y:04}{m:02}{d:02}").into());
        target.insert("phone".to_owned(), phone.into());
        if let Some((front, back)) = images {
            let mut documents = Map::new();
            documents.insert("front".to_owned(), front.into());
            documents.extend(back.map(|back| ("back".to_owned(), back.into())));
            target.insert("documents".to_owned(), documents.into());
        }
        let reference: String = texts.concat().chars().take(128).collect();
        json!({"service": "createOrUpdateCustomer", "reference": reference, "target": target})
    })
}

fn email() -> impl Strategy<Value = String> {
    "[a-z0-9!#$%&'*+/=?^_`{|}~-]{1,20}(\\.[A-Z]{1,5})?@[a-z]([a-z0-9-]{0,8}[a-z0-9])?\\.example"
}

fn text() -> impl Strategy<Value = String> {
    // Quotes, backslashes, both planes of Unicode, and what JSON could be mistaken for.
    prop_oneof![
        4 => "[a-zA-Z0-9 .,'-]{1,40}",
        2 => "\\PC{1,60}",
        1 => "[\"\\\\/{}:,\u{2028}\u{1f600}]{1,85}",
        1 => Just("\",\"user\":\"x".to_owned()),
    ]
}

fn image() -> impl Strategy<Value = String> {
    let file = prop_oneof![
        (1..9000_u16, 1..9000_u16, 0..6000_usize).prop_map(|(w, h, bytes)| jpeg(w, h, bytes)),
        (1..9000_u32, 1..9000_u32, 0..6000_u32).prop_map(|(w, h, bytes)| png(w, h, bytes)),
    ];
    (file, any::<bool>()).prop_map(|(file, uri)| {
        let format = if file.starts_with(&[0xff]) {
            "jpeg"
        } else {
            "png"
        };
        let prefix = if uri {
            format!("data:image/{format};base64,")
        } else {
            String::new()
        };
        prefix + &base64(&file)
    })
}

/// Any JSON that is not too deep and has few members: what a client may have as its `user`.
fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,20}".prop_map(Value::from),
        Just(Value::from("CANARY\"\\u0000")),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((prop_oneof!["user", "pass", "[a-z]{0,6}"], inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Writes a document in a style that the random bytes choose.
fn write(value: &Value, out: &mut String, style: &mut impl Iterator<Item = u8>) {
    space(out, style);
    match value {
        Value::Array(elements) => {
            out.push('[');
            for (index, element) in elements.iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                write(element, out, style);
            }
            out.push(']');
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            let turn = usize::from(style.next().unwrap()) % members.len().max(1);
            members.rotate_left(turn);
            out.push('{');
            for (index, (name, member)) in members.into_iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                space(out, style);
                write_text(name, out, style.next().unwrap());
                space(out, style);
                out.push(':');
                write(member, out, style);
            }
            out.push('}');
        }
        Value::String(text) => write_text(text, out, style.next().unwrap()),
        Value::Null | Value::Bool(_) | Value::Number(_) => out.push_str(&value.to_string()),
    }
    space(out, style);
}

fn space(out: &mut String, style: &mut impl Iterator<Item = u8>) {
    out.push_str(["", "", "", " ", "\n", "\t \r\n"][usize::from(style.next().unwrap() % 6)]);
}

fn write_text(text: &str, out: &mut String, style: u8) {
    let plain = Value::from(text).to_string();
    match style % 4 {
        0 => out.push_str(&plain.replace('/', "\\/")),
        // Long strings are images, and those may escape nothing but slashes.
        1 if text.len() < 256 => {
            out.push('"');
            for unit in text.encode_utf16() {
                out.extend(["\\u", &format!("{unit:04x}")]);
            }
            out.push('"');
        }
        _ => out.push_str(&plain),
    }
}
