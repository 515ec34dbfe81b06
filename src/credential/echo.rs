//! Finds our user or password in text that is about to be relayed to a client.
//!
//! The vendor's other services are known to answer with what they were sent, so the storage API is
//! not trusted to keep quiet either. Each value is looked for as it is, as JSON and HTML escape it,
//! percent-encoded, in hex of both cases, and in both base64 alphabets at the three alignments it
//! can have within a longer encoded text. The needles are plain copies, wiped on drop; that is why
//! this is a handful of `memmem` searches and not an automaton, whose tables could not be wiped.
//!
//! A value of fewer than four characters is looked for as a whole value only: inside longer text
//! it would be found by chance. Likewise an image is searched only for a value of eight characters
//! or more: as it is if it is of the base64 alphabet, in hex, and base64-encoded.

use std::{fmt, ops::Range};

use base64::{
    Engine,
    engine::general_purpose::{GeneralPurpose, STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use memchr::{memchr, memmem};
use zeroize::Zeroizing;

/// Below this many characters a value counts only as a whole.
const SHORT: usize = 4;
/// Below this many characters a value is not looked for in an image.
const SHORT_IN_IMAGE: usize = 8;

/// The forms in which one credential could be echoed.
pub struct EchoGuard {
    anywhere: Vec<Needle>,
    whole: Vec<Needle>,
    in_images: Vec<Needle>,
}

type Needle = Zeroizing<Vec<u8>>;

impl EchoGuard {
    pub(super) fn new(user: &str, pass: &str) -> Self {
        let mut guard = Self {
            anywhere: Vec::new(),
            whole: Vec::new(),
            in_images: Vec::new(),
        };
        for value in [user, pass] {
            guard.look_for(value);
        }
        guard
    }

    /// The guard of a pair that no credential was made of.
    #[cfg(test)]
    pub(crate) fn of(user: &str, pass: &str) -> Self {
        Self::new(user, pass)
    }

    /// Whether user or password stand in `text`, in any form.
    pub fn finds_in(&self, text: &str) -> bool {
        let text = text.as_bytes();
        if self.finds_plain(text) {
            return true;
        }
        // Only where there is something to decode; a text may be encoded in part, in either case.
        memchr(b'%', text).is_some() && self.finds_plain(&percent_decoded(text))
    }

    /// Whether user or password stand in an image's base64 text, across the borders of `slices`
    /// too. `/` may be written as `\/` there.
    pub fn finds_in_image(&self, slices: &[Bytes]) -> bool {
        let Some(longest) = self.in_images.iter().map(|needle| needle.len()).max() else {
            return false;
        };
        // The end of what was searched already: where a needle may begin that ends in this slice.
        let mut before: Vec<u8> = Vec::with_capacity(2 * longest);
        for slice in slices {
            let reach = slice.len().min(longest - 1);
            before.extend_from_slice(slice.get(..reach).unwrap_or_default());
            if self.finds_needle(&before) || self.finds_needle(slice) {
                return true;
            }
            if reach == slice.len() {
                let excess = before.len().saturating_sub(longest - 1);
                before.drain(..excess);
            } else {
                before.clear();
                let tail = slice.len() - reach;
                before.extend_from_slice(slice.get(tail..).unwrap_or_default());
            }
        }
        false
    }

    fn look_for(&mut self, value: &str) {
        let short = value.chars().count() < SHORT;
        let needles = if short {
            &mut self.whole
        } else {
            &mut self.anywhere
        };
        for form in forms(value) {
            add(needles, form);
        }
        if short {
            for engine in [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
                add(needles, base64_of(engine, value.as_bytes(), 0..usize::MAX));
            }
        } else {
            for (engine, lead) in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD]
                .into_iter()
                .flat_map(|engine| (0..3).map(move |lead| (engine, lead)))
            {
                add(needles, base64_within(engine, value, lead));
            }
        }
        if value.len() >= SHORT_IN_IMAGE {
            self.look_for_in_images(value);
        }
    }

    /// What an image's text can hold: the value itself where it is of the base64 alphabet, its hex,
    /// and what it is encoded to inside the image's bytes; `/` written plainly or as `\/`.
    fn look_for_in_images(&mut self, value: &str) {
        let encoded = (0..3).map(|lead| base64_within(&STANDARD_NO_PAD, value, lead));
        let images = &mut self.in_images;
        for form in forms(value).into_iter().chain(encoded) {
            if form.iter().copied().all(is_base64) {
                add(images, escaped_slashes(&form));
                add(images, form);
            }
        }
    }

    fn finds_plain(&self, text: &[u8]) -> bool {
        self.whole.iter().any(|needle| needle.as_slice() == text) || finds(&self.anywhere, text)
    }

    fn finds_needle(&self, image: &[u8]) -> bool {
        finds(&self.in_images, image)
    }
}

impl fmt::Debug for EchoGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EchoGuard([redacted])")
    }
}

fn finds(needles: &[Needle], text: &[u8]) -> bool {
    needles
        .iter()
        .any(|needle| needle.len() <= text.len() && memmem::find(text, needle).is_some())
}

fn add(needles: &mut Vec<Needle>, needle: Needle) {
    if !needle.is_empty() && !needles.contains(&needle) {
        needles.push(needle);
    }
}

/// The value as it is, and as JSON (ours and PHP's way), HTML, a form and hex write it.
fn forms(value: &str) -> [Needle; 7] {
    let mut json = room(value);
    let mut php = room(value);
    let mut html = room(value);
    let mut form = room(value);
    let mut lower = room(value);
    let mut upper = room(value);
    for character in value.chars() {
        write_json(&mut json, character, false);
        write_json(&mut php, character, true);
        write_html(&mut html, character);
        write_char(&mut form, if character == ' ' { '+' } else { character });
    }
    for byte in value.bytes() {
        for digit in [byte >> 4, byte & 0x0f] {
            let digit = hex_digit(digit);
            lower.push(digit);
            upper.push(digit.to_ascii_uppercase());
        }
    }
    [copy(value.as_bytes()), json, php, html, form, lower, upper]
}

/// Room for the longest form, so that no needle is moved while it is written.
fn room(value: &str) -> Needle {
    Zeroizing::new(Vec::with_capacity(6 * value.len()))
}

fn copy(bytes: &[u8]) -> Needle {
    Zeroizing::new(bytes.to_vec())
}

fn write_char(needle: &mut Needle, character: char) {
    let mut buffer = [0; 4];
    needle.extend_from_slice(character.encode_utf8(&mut buffer).as_bytes());
}

/// A character inside a JSON string: escaped where it must be, or in everything that PHP's
/// `json_encode` escapes unless told otherwise (slashes, and all but ASCII).
fn write_json(needle: &mut Needle, character: char, php: bool) {
    match character {
        '"' | '\\' => needle.extend_from_slice(&[b'\\', ascii(character)]),
        '/' if php => needle.extend_from_slice(b"\\/"),
        '\n' => needle.extend_from_slice(b"\\n"),
        '\r' => needle.extend_from_slice(b"\\r"),
        '\t' => needle.extend_from_slice(b"\\t"),
        '\u{8}' => needle.extend_from_slice(b"\\b"),
        '\u{c}' => needle.extend_from_slice(b"\\f"),
        _ if character < ' ' || (php && !character.is_ascii()) => {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                needle.extend_from_slice(b"\\u");
                for byte in unit.to_be_bytes() {
                    needle.extend_from_slice(&[hex_digit(byte >> 4), hex_digit(byte & 0x0f)]);
                }
            }
        }
        _ => write_char(needle, character),
    }
}

fn write_html(needle: &mut Needle, character: char) {
    match character {
        '&' => needle.extend_from_slice(b"&amp;"),
        '<' => needle.extend_from_slice(b"&lt;"),
        '>' => needle.extend_from_slice(b"&gt;"),
        '"' => needle.extend_from_slice(b"&quot;"),
        '\'' => needle.extend_from_slice(b"&#039;"),
        _ => write_char(needle, character),
    }
}

fn ascii(character: char) -> u8 {
    u8::try_from(character).unwrap_or(b'?')
}

fn hex_digit(nibble: u8) -> u8 {
    match nibble {
        0..=9 => b'0' + nibble,
        _ => b'a' + (nibble - 10),
    }
}

/// The characters that the value decides by itself when `lead` bytes (0, 1 or 2) stand before it in
/// a group of three: those that share bits with a neighbour are left out.
fn base64_within(engine: &GeneralPurpose, value: &str, lead: usize) -> Needle {
    let first = (8 * lead).div_ceil(6);
    let end = 8 * (lead + value.len()) / 6;
    let mut padded = Zeroizing::new(vec![0; lead + value.len()]);
    if let Some(place) = padded.get_mut(lead..) {
        place.copy_from_slice(value.as_bytes());
    }
    base64_of(engine, &padded, first..end)
}

fn base64_of(engine: &GeneralPurpose, bytes: &[u8], range: Range<usize>) -> Needle {
    let mut encoded = Zeroizing::new(vec![0; bytes.len().div_ceil(3) * 4]);
    let length = engine.encode_slice(bytes, &mut encoded).unwrap_or(0);
    let range = range.start..range.end.min(length);
    copy(encoded.get(range).unwrap_or_default())
}

const fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=')
}

fn escaped_slashes(form: &[u8]) -> Needle {
    let mut needle = Zeroizing::new(Vec::with_capacity(2 * form.len()));
    for byte in form {
        if *byte == b'/' {
            needle.push(b'\\');
        }
        needle.push(*byte);
    }
    needle
}

fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match (first, after) {
            (b'%', [high, low, after @ ..]) => match (nibble(*high), nibble(*low)) {
                (Some(high), Some(low)) => {
                    decoded.push(high << 4 | low);
                    rest = after;
                }
                _ => decoded.push(b'%'),
            },
            _ => decoded.push(*first),
        }
    }
    decoded
}

const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    const USER: &str = "api-user@acme";
    const PASS: &str = "p+s/\"\\wörd>>?&";

    fn guard() -> EchoGuard {
        EchoGuard::new(USER, PASS)
    }

    fn hex(text: &str, before: &str) -> String {
        text.bytes().fold(String::new(), |mut hex, byte| {
            write!(hex, "{before}{byte:02x}").unwrap();
            hex
        })
    }

    #[test]
    fn every_form_is_found_in_the_middle_of_a_text() {
        for value in [USER, PASS] {
            let json = serde_json::to_string(value).unwrap();
            let mut found = vec![
                value.to_owned(),
                json.trim_matches('"').to_owned(),
                hex(value, "%"),
                hex(value, "%").to_uppercase(),
                value.replace(['>', '+'], "%3E").replace("%3Es", "%2Bs"),
                hex(value, ""),
                hex(value, "").to_uppercase(),
            ];
            for before in ["", "x", "xy", "xyz", "login "] {
                let text = format!("{before}{value} tail");
                found.push(STANDARD.encode(&text));
                found.push(URL_SAFE_NO_PAD.encode(&text));
            }
            for form in found.iter().filter(|form| !form.contains("%3E>")) {
                let text = format!("bad login: {form}, sorry");
                assert!(guard().finds_in(form), "{form}");
                assert!(guard().finds_in(&text), "{text}");
            }
        }
    }

    #[test]
    fn phps_json_and_html_are_found() {
        let text = r#"{"pass":"p+s\/\"\\w\u00f6rd>>?&"}"#;
        assert!(guard().finds_in(text));
        let text = "p+s/&quot;\\wörd&gt;&gt;?&amp;";
        assert!(guard().finds_in(text));
        assert!(EchoGuard::new("user", "a key 🔑").finds_in(r"a key \ud83d\udd11"));
        assert!(EchoGuard::new("user", "a pass word").finds_in("pass=a+pass+word&x=%20"));
    }

    #[test]
    fn other_text_is_not_found() {
        for text in [
            "",
            "The email address was not found",
            "api-user",
            "Acme",
            "100 %",
            "%zz%",
            "%4",
            &STANDARD.encode("api-user at acme"),
        ] {
            assert!(!guard().finds_in(text), "{text}");
        }
    }

    #[test]
    fn a_short_value_counts_as_a_whole_only() {
        let guard = EchoGuard::new("abc", "xy/");
        for text in ["abc", "YWJj", "616263", "%61bc", "xy/", "eHkv"] {
            assert!(guard.finds_in(text), "{text}");
        }
        for text in ["abcd", "an abc", "YWJjZA"] {
            assert!(!guard.finds_in(text), "{text}");
        }
        assert!(!guard.finds_in_image(&[Bytes::from_static(b"abcabcabcxy/")]));
    }

    fn slices(text: &str, size: usize) -> Vec<Bytes> {
        text.as_bytes()
            .chunks(size)
            .map(Bytes::copy_from_slice)
            .collect()
    }

    #[test]
    fn a_value_is_found_in_an_image_across_any_border() {
        let guard = EchoGuard::new("someUser+1", "s3cret/pass/w0rd");
        let filler = "/9j/4AAQSkZJRg".repeat(5);
        for value in ["someUser+1", "s3cret/pass/w0rd", r"s3cret\/pass\/w0rd"] {
            let text = format!("{filler}{value}{filler}");
            for size in 1..=text.len() {
                assert!(guard.finds_in_image(&slices(&text, size)), "{value} {size}");
            }
            let end = format!("{filler}{value}");
            assert!(guard.finds_in_image(&slices(&end, 7)));
        }
        for size in 1..filler.len() {
            assert!(!guard.finds_in_image(&slices(&filler, size)));
        }
        assert!(!guard.finds_in_image(&[]));
    }

    #[test]
    fn a_value_is_found_in_an_image_that_encodes_it() {
        let guard = EchoGuard::new("api-user.7431", "Hj7k-pass.9Lt");
        for value in ["api-user.7431", "Hj7k-pass.9Lt"] {
            for lead in ["", "x", "xy"] {
                let image = STANDARD.encode(format!("\u{ff}\u{d8}{lead}{value} and more"));
                let php = image.replace('/', r"\/");
                assert!(guard.finds_in_image(&slices(&image, 5)), "{lead}{value}");
                assert!(guard.finds_in_image(&slices(&php, 5)), "{lead}{value}");
            }
            let digits = value.bytes().flat_map(|byte| [byte >> 4, byte & 15]);
            let hex: String = digits.map(|nibble| char::from(hex_digit(nibble))).collect();
            assert!(guard.finds_in_image(&slices(&hex, 5)));
        }
    }

    #[test]
    fn a_value_that_no_image_can_hold_is_not_looked_for_there() {
        let guard = EchoGuard::new("user@acme", "sevench");
        assert!(!guard.finds_in_image(&slices("user@acmesevench", 4)));
    }
}
