//! One line of a chain: an event between its number and its MAC.
//!
//! ```text
//! {"v":1,"seq":17,"node":"gw-1", <the event's members> ,"prev":"<64 hex>","mac":"<64 hex>"}
//! ```
//!
//! These bytes are the canonical form: members stand in the order of the event's struct, without white
//! space. `prev` is the `mac` of the line before; `mac` is the HMAC-SHA-256 under `audit.key` of the line
//! up to the comma before `"mac"`. The line without its line break is a leaf of the Merkle tree.

use std::io::Write;

use super::{
    key::{AuditKey, Mac},
    tree::Hash,
};

/// The version of the form (`v`).
pub const VERSION: u8 = 1;

/// Where a line stands, and what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Counts the lines of the node's chain from 1.
    pub seq: u64,
    /// Its leaf in the Merkle tree.
    pub leaf: Hash,
}

/// What surrounds an event in its line.
pub(super) struct Frame<'a> {
    pub(super) seq: u64,
    pub(super) node: &'a str,
    pub(super) prev: Mac,
}

impl Frame<'_> {
    /// Appends the line of an event, an object in JSON with at least one member, to `out`. Returns its MAC
    /// and its leaf.
    pub(super) fn write(&self, event: &[u8], key: &AuditKey, out: &mut Vec<u8>) -> (Mac, Hash) {
        let (begin, Self { seq, node, prev }) = (out.len(), self);
        let members = event
            .strip_prefix(b"{")
            .and_then(|rest| rest.strip_suffix(b"}"));
        // Memory takes whatever is written.
        drop(write!(
            out,
            "{{\"v\":{VERSION},\"seq\":{seq},\"node\":\"{node}\","
        ));
        out.extend_from_slice(members.unwrap_or_default());
        out.extend_from_slice(PREV);
        out.extend_from_slice(&prev.digits());
        out.push(b'"');
        let mac = key.mac(out.get(begin..).unwrap_or_default());
        out.extend_from_slice(MAC);
        out.extend_from_slice(&mac.digits());
        out.extend_from_slice(END);
        let leaf = Hash::of_leaf(out.get(begin..).unwrap_or_default());
        out.push(b'\n');
        (mac, leaf)
    }
}

const PREV: &[u8] = b",\"prev\":\"";
const MAC: &[u8] = b",\"mac\":\"";
const END: &[u8] = b"\"}";

/// A line as it was read.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// Its number.
    pub seq: u64,
    /// Whose chain it says it is of.
    pub node: &'a str,
    /// The MAC of the line before, as it says.
    pub prev: Mac,
    /// Its own MAC, as it says.
    pub mac: Mac,
    whole: &'a [u8],
    covered: &'a [u8],
    members: &'a [u8],
}

impl<'a> Line<'a> {
    /// Reads the frame of a line (without its line break), and no JSON; nothing where it has none.
    pub fn parse(whole: &'a [u8]) -> Option<Self> {
        let (covered, mac) = cut(whole.strip_suffix(END)?, MAC)?;
        let (front, prev) = cut(covered.strip_suffix(b"\"")?, PREV)?;
        let rest = front.strip_prefix(b"{\"v\":1,\"seq\":")?;
        let (seq, rest) = rest.split_at_checked(memchr::memchr(b',', rest)?)?;
        let rest = rest.strip_prefix(b",\"node\":\"")?;
        let (node, rest) = rest.split_at_checked(memchr::memchr(b'"', rest)?)?;
        Some(Self {
            seq: number(seq)?,
            node: str::from_utf8(node).ok()?,
            prev,
            mac,
            whole,
            covered,
            members: rest.strip_prefix(b"\",")?,
        })
    }

    /// Whether this key made its MAC.
    pub fn is_by(&self, key: &AuditKey) -> bool {
        key.mac(self.covered) == self.mac
    }

    /// Its leaf in the Merkle tree.
    pub fn leaf(&self) -> Hash {
        Hash::of_leaf(self.whole)
    }

    /// All of it.
    pub const fn bytes(&self) -> &'a [u8] {
        self.whole
    }

    /// Whether it has this text among the event's members. A quotation mark inside of a value is escaped,
    /// so that text with one is found where it is a member and nowhere else.
    pub fn has(&self, member: &str) -> bool {
        memchr::memmem::find(self.members, member.as_bytes()).is_some()
    }

    /// The text behind a member's name (given as `"name":"`), where it is a text without escapes.
    pub fn text(&self, member: &str) -> Option<&'a str> {
        let at = memchr::memmem::find(self.members, member.as_bytes())?;
        let rest = self.members.get(at + member.len()..)?;
        str::from_utf8(rest.get(..memchr::memchr(b'"', rest)?)?).ok()
    }
}

/// Numbers are below this, so that a few more can be added to one that anybody may have written.
const END_OF_NUMBERS: u64 = 1 << 62;

/// A line's number: from 1, and as it is written. Another spelling would be another line.
fn number(digits: &[u8]) -> Option<u64> {
    let plain = digits.iter().all(u8::is_ascii_digit) && digits.first() != Some(&b'0');
    let number = str::from_utf8(digits).ok()?.parse().ok()?;
    (plain && number < END_OF_NUMBERS).then_some(number)
}

/// What stands before a member of 64 digits at the end, and the digits.
fn cut<'a>(text: &'a [u8], member: &[u8]) -> Option<(&'a [u8], Mac)> {
    let (rest, digits) = text.split_last_chunk::<64>()?;
    Some((rest.strip_suffix(member)?, Mac::parse(digits)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_as_it_was_written_and_any_other_byte_is_noticed() {
        let (key, other) = (AuditKey::derive(&[7; 32]), AuditKey::derive(&[8; 32]));
        let prev = key.mac(b"before");
        let frame = Frame {
            seq: 17,
            node: "gw-1",
            prev,
        };
        let mut out = b"earlier\n".to_vec();
        let (mac, leaf) = frame.write(br#"{"phase":"outcome","code":"ok"}"#, &key, &mut out);
        let text = String::from_utf8(out).unwrap();
        let whole = text.lines().nth(1).unwrap();
        let expected = format!(
            r#"{{"v":1,"seq":17,"node":"gw-1","phase":"outcome","code":"ok","prev":"{prev}","mac":"{mac}"}}"#
        );
        assert_eq!(whole, expected);
        let line = Line::parse(whole.as_bytes()).unwrap();
        assert_eq!(
            (line.seq, line.node, line.prev, line.mac),
            (17, "gw-1", prev, mac)
        );
        assert!(line.is_by(&key) && !line.is_by(&other) && line.leaf() == leaf);
        assert!(line.has(r#""phase":"outcome""#) && !line.has("gw-1"));
        assert_eq!(line.text("\"code\":\""), Some("ok"));
        assert_eq!(line.text("\"seq\":\""), None);
        for number in ["+17", "017", "0", "-1", "", "1e3", "18446744073709551615"] {
            let other = whole.replacen(":17,", &format!(":{number},"), 1);
            assert!(Line::parse(other.as_bytes()).is_none(), "{other}");
        }
        for index in 0..whole.len() {
            let mut bytes = whole.as_bytes().to_vec();
            bytes[index] ^= 1;
            assert!(
                !Line::parse(&bytes).is_some_and(|line| line.is_by(&key)),
                "{index}"
            );
        }
    }
}
