//! Checks the base64 text of an image where it lies, and decodes the few bytes that are looked at.
//!
//! Invariant: a [`Checked`] text is standard base64 (RFC 4648, section 4) in its one canonical
//! spelling: alphabet, padding and spare bits. In a lifted string a `/` may be written `\/`, as
//! PHP does; no other escape may occur. Nothing is decoded but what a reader asks for.

mod reader;

use std::borrow::Cow;

use base64_simd::{STANDARD, STANDARD_NO_PAD};
use bytes::Bytes;
use memchr::memchr_iter;

pub(super) use self::reader::Reader;
use super::lift::LongString;

/// How much of a text with escapes is checked at a time: little enough to stay in the cache.
const BLOCK: usize = 4096;

/// The text of a string member, wherever it lies.
pub(super) enum Text<'b> {
    /// Raw JSON text in the frames.
    Long(&'b LongString),
    /// Text without escapes.
    Short(Cow<'b, str>),
}

/// A text that is not canonical base64.
#[derive(Debug)]
pub(super) struct NotBase64;

/// A text from some byte on.
pub(super) struct Encoded<'b> {
    text: Text<'b>,
    /// The slice that it begins in, and where in that slice.
    first: usize,
    at: usize,
}

impl<'b> Encoded<'b> {
    pub(super) const fn new(text: Text<'b>) -> Self {
        Self {
            text,
            first: 0,
            at: 0,
        }
    }

    /// The same text without its first `count` bytes. Nothing is copied.
    pub(super) fn without_first(self, count: usize) -> Self {
        let (mut first, mut at) = (0, count);
        if let Text::Long(long) = &self.text {
            for slice in long.slices() {
                let Some(left) = at.checked_sub(slice.len()) else {
                    break;
                };
                at = left;
                first += 1;
            }
        }
        Self { first, at, ..self }
    }

    /// The text, in pieces.
    pub(super) fn pieces(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        let (short, long) = match &self.text {
            Text::Long(long) => (None, long.slices().get(self.first..)),
            Text::Short(text) => (text.as_bytes().get(self.at..), None),
        };
        let long = long.unwrap_or_default().iter().enumerate();
        let long = long.map(|(index, slice)| match index {
            0 => slice.get(self.at..).unwrap_or_default(),
            _ => slice,
        });
        short.into_iter().chain(long)
    }

    /// The text for sending, sharing the frames' memory where it lies there.
    pub(super) fn segments(&self) -> impl Iterator<Item = Bytes> {
        let (short, long) = match &self.text {
            Text::Long(long) => (None, long.slices().get(self.first..)),
            Text::Short(text) => (text.as_bytes().get(self.at..), None),
        };
        let long = long.unwrap_or_default().iter().enumerate();
        let long = long.map(|(index, slice)| match index {
            0 => slice.slice(self.at.min(slice.len())..),
            _ => slice.clone(),
        });
        short.map(Bytes::copy_from_slice).into_iter().chain(long)
    }

    /// Checks every byte.
    pub(super) fn check(self) -> Result<Checked<'b>, NotBase64> {
        let (bytes, escaped) = match self.decoded_len() {
            Err(NotBase64) if self.escaped() => (self.decoded_len_unescaped()?, true),
            outcome => (outcome?, false),
        };
        Ok(Checked {
            text: self,
            bytes,
            escaped,
        })
    }

    /// Whether it is raw JSON text, in which a slash may be escaped.
    pub(super) const fn is_raw(&self) -> bool {
        matches!(self.text, Text::Long(_))
    }

    /// Whether a piece needs no look at its characters: they had theirs when it arrived.
    fn is_plain(&self, piece: usize) -> bool {
        matches!(&self.text, Text::Long(long) if long.is_plain(self.first + piece))
    }

    fn escaped(&self) -> bool {
        matches!(&self.text, Text::Long(long) if long.escaped())
    }

    fn decoded_len(&self) -> Result<u64, NotBase64> {
        let mut checker = Checker::default();
        for (index, piece) in self.pieces().enumerate() {
            checker.feed(piece, self.is_plain(index))?;
        }
        checker.finish()
    }

    /// The same for a text in which slashes are escaped.
    ///
    /// Going from one escape to the next, 64 characters apart, would cost twice the time of these
    /// loops without branches, which the compiler turns into vector instructions.
    fn decoded_len_unescaped(&self) -> Result<u64, NotBase64> {
        let last = self.last_characters(4);
        let padding = last.iter().rev().take_while(|b| **b == b'=').count();
        let ending = STANDARD.decode_to_vec(&last).map_err(|_| NotBase64)?;
        let mut left = self.len() - padding;
        let mut characters = padding;
        let mut escaping = false;
        let mut buffer = [b'A'; BLOCK];
        for block in self.pieces().flat_map(|piece| piece.chunks(BLOCK)) {
            let block = block.get(..left).unwrap_or(block);
            left -= block.len();
            if escapes_other_than_slashes(block, escaping) {
                return Err(NotBase64);
            }
            characters += block.len() - memchr_iter(b'\\', block).count();
            for (slot, byte) in buffer.iter_mut().zip(block) {
                *slot = if *byte == b'\\' { b'/' } else { *byte };
            }
            // A multiple of four, because only the alphabet is asked about: where the groups
            // begin and end, the backslashes hide.
            let filled = buffer.get(..block.len().next_multiple_of(4));
            let checked = STANDARD_NO_PAD.check(filled.ok_or(NotBase64)?);
            checked.map_err(|_| NotBase64)?;
            escaping = block.ends_with(b"\\") || (escaping && block.is_empty());
        }
        if escaping || characters % 4 != 0 {
            return Err(NotBase64);
        }
        let whole = (characters / 4).checked_sub(1).ok_or(NotBase64)?;
        u64::try_from(whole * 3 + ending.len()).map_err(|_| NotBase64)
    }

    fn len(&self) -> usize {
        self.pieces().map(<[u8]>::len).sum()
    }

    /// The last `count` characters, or all where there are fewer. Every backslash that may be
    /// there stands before a slash and means nothing.
    fn last_characters(&self, count: usize) -> Vec<u8> {
        let backwards = self.pieces().rev().flat_map(|piece| piece.iter().rev());
        let characters = backwards.filter(|character| **character != b'\\');
        let mut text: Vec<u8> = characters.take(count).copied().collect();
        text.reverse();
        text
    }
}

/// Whether a backslash stands before anything but a slash. `escaping` says that one stands right
/// before the block.
fn escapes_other_than_slashes(block: &[u8], escaping: bool) -> bool {
    let first = escaping && block.first().is_some_and(|first| *first != b'/');
    let next = block.get(1..).unwrap_or_default();
    let pairs = block.iter().zip(next);
    let found = pairs.fold(u8::from(first), |found, (byte, next)| {
        found | (u8::from(*byte == b'\\') & u8::from(*next != b'/'))
    });
    found != 0
}

/// Whether a text holds nothing but the 64 characters of base64: no padding, no escape.
pub(super) fn is_plain(text: &[u8]) -> bool {
    // Of groups of four, whose spare bits are none, the check asks for the alphabet alone.
    let (groups, rest) = text.split_at(text.len() / 4 * 4);
    let mut last = [b'A'; 4];
    for (slot, character) in last.iter_mut().zip(rest) {
        *slot = *character;
    }
    STANDARD_NO_PAD.check(groups).is_ok() && STANDARD_NO_PAD.check(&last).is_ok()
}

/// Checks base64 that comes in pieces of any length.
#[derive(Default)]
struct Checker {
    /// The last one to four characters so far. Only at the end is it known which rule holds for
    /// them: padding may stand in the last group of four and nowhere else.
    tail: [u8; 4],
    held: usize,
    characters: u64,
}

impl Checker {
    /// `plain` says that the piece is of the alphabet throughout.
    fn feed(&mut self, piece: &[u8], plain: bool) -> Result<(), NotBase64> {
        self.characters += u64::try_from(piece.len()).map_err(|_| NotBase64)?;
        let missing = self.tail.len() - self.held;
        let Some((filling, rest)) = piece.split_at_checked(missing).filter(|s| !s.1.is_empty())
        else {
            self.hold(piece);
            return Ok(());
        };
        if self.held == 0 {
            return self.middle(piece, plain);
        }
        self.hold(filling);
        STANDARD_NO_PAD.check(&self.tail).map_err(|_| NotBase64)?;
        self.held = 0;
        self.middle(rest, plain)
    }

    /// Checks whole groups of four at once, and keeps the last one back.
    fn middle(&mut self, piece: &[u8], plain: bool) -> Result<(), NotBase64> {
        let groups = piece.len().saturating_sub(1) / 4 * 4;
        let (whole, rest) = piece.split_at_checked(groups).ok_or(NotBase64)?;
        if !plain {
            STANDARD_NO_PAD.check(whole).map_err(|_| NotBase64)?;
        }
        self.hold(rest);
        Ok(())
    }

    fn hold(&mut self, characters: &[u8]) {
        let free = self.tail.iter_mut().skip(self.held);
        for (slot, character) in free.zip(characters) {
            *slot = *character;
        }
        self.held += characters.len();
    }

    /// How many bytes the text decodes to.
    fn finish(self) -> Result<u64, NotBase64> {
        if self.held != self.tail.len() {
            return Err(NotBase64);
        }
        let last = STANDARD.decode_to_vec(self.tail).map_err(|_| NotBase64)?;
        let last = u64::try_from(last.len()).map_err(|_| NotBase64)?;
        Ok((self.characters / 4 - 1) * 3 + last)
    }
}

/// Canonical base64.
pub(super) struct Checked<'b> {
    text: Encoded<'b>,
    bytes: u64,
    escaped: bool,
}

impl<'b> Checked<'b> {
    /// How many bytes it decodes to.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The text itself.
    pub(super) const fn text(&self) -> &Encoded<'b> {
        &self.text
    }

    /// Decodes from the beginning, as far as is asked for.
    pub(super) fn reader(&self) -> Reader<'_, impl Iterator<Item = &[u8]>> {
        Reader::new(self.text.pieces(), self.escaped)
    }

    /// Decodes the last `groups` groups of four characters, or all where there are no more.
    pub(super) fn tail(&self, groups: usize) -> Vec<u8> {
        let text = self.text.last_characters(groups * 4);
        STANDARD.decode_to_vec(text).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
