//! Reads the lists of `X-Forwarded-For` and `Forwarded` (RFC 7239), element by element, from the end.
//!
//! Pure. Invariant: an element is an address that is written as its header writes one, or it is
//! [`Client::Unknown`]; nothing is guessed or repaired. What is wrong with one element says nothing
//! about those behind it, which another proxy wrote.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Client;

/// The elements of one line of `X-Forwarded-For`, the last one first: addresses, each with or without
/// a port.
pub(super) fn plain_elements(line: &[u8]) -> impl Iterator<Item = Client> {
    line.rsplit(|byte| *byte == b',').map(|element| {
        let text = str::from_utf8(element.trim_ascii()).ok();
        let bare = |text: &str| text.parse::<IpAddr>().ok();
        let address = text.and_then(|text| bare(text).or_else(|| node(text, is_port)));
        address.map_or(Client::Unknown, Client::from)
    })
}

/// The elements of one line of `Forwarded`, each by its `for`, the last one first.
pub(super) fn elements(line: &[u8]) -> impl Iterator<Item = Client> {
    // What is quoted shows only from the front. At most one slice of 16 bytes for each of the 64 KiB
    // that a head may have: 1 MiB, for as long as this takes.
    let elements: Vec<&[u8]> = split(line, b',').collect();
    elements.into_iter().rev().map(|element| {
        let address = element_for(element.trim_ascii());
        address.map_or(Client::Unknown, Client::from)
    })
}

/// The address in the one `for` of an element, if all of the element follows the grammar.
fn element_for(element: &[u8]) -> Option<IpAddr> {
    let mut found = None;
    // The grammar allows for empty pairs.
    for pair in split(element, b';').filter(|pair| !pair.is_empty()) {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (name, rest) = pair.split_at_checked(equals)?;
        let value = value(rest.strip_prefix(b"=")?)?;
        if !is_token(name) {
            return None;
        }
        if name.eq_ignore_ascii_case(b"for") && found.replace(value).is_some() {
            return None;
        }
    }
    let found = found?;
    let text = str::from_utf8(&found).ok()?;
    let bare = text.parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    bare.or_else(|| node(text, |port| is_port(port) || is_obfuscated(port)))
}

/// `1.2.3.4:567`, `[::1]` or `[::1]:567`.
fn node(text: &str, is_port: impl Fn(&str) -> bool) -> Option<IpAddr> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']')?;
        let sound = rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
        return address
            .parse::<Ipv6Addr>()
            .ok()
            .filter(|_| sound)
            .map(IpAddr::V6);
    }
    let (address, port) = text.split_once(':')?;
    let address = address.parse::<Ipv4Addr>().ok()?;
    is_port(port).then_some(IpAddr::V4(address))
}

fn is_port(text: &str) -> bool {
    (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// What a proxy writes in a port's place to keep it to itself.
fn is_obfuscated(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    text.strip_prefix('_')
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(plain))
}

/// A token, or what a quoted string quotes.
fn value(text: &[u8]) -> Option<Vec<u8>> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        return is_token(text).then(|| text.to_vec());
    };
    let mut value = Vec::new();
    let mut bytes = quoted.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => value.push(*bytes.next()?),
            // Behind the closing quote nothing may follow.
            b'"' => return bytes.as_slice().is_empty().then_some(value),
            other => value.push(*other),
        }
    }
    None
}

/// A token of RFC 9110.
fn is_token(text: &[u8]) -> bool {
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(fits)
}

/// Splits where the separator stands outside quoted strings.
fn split(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    // Forwards only: each byte is seen once, in order.
    text.split(move |byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => return !quoted && *byte == separator,
        }
        false
    })
}
