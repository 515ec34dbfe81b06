//! Splits a JSON document, as the frames it arrived in, into its long strings and the rest.
//!
//! It knows of JSON only where a string begins and ends; everything else is judged by the parser
//! that reads the rest. A long string is taken out as slices of the frames, and leaves an empty
//! string in the skeleton. It is found again by *where* that empty string stands, so that nothing
//! a peer can write imitates one. No byte of a long string is copied.

use std::fmt;

use bytes::Bytes;
use memchr::{memchr, memchr_iter};
use thiserror::Error;

use super::base64;

/// A string with more bytes than this between its quotes is lifted out.
///
/// 255 characters, each written as two `\uXXXX` escapes, are 3,060 bytes: whatever can be a valid
/// text field stays in the skeleton, however it is written.
pub const LONG: usize = 3 * 1024;

/// The bound of a skeleton that requests are read with.
///
/// Above what a lookup may have by default (16 KiB), so that one which is a little too long is still
/// known for a lookup, and told so.
pub const SKELETON_LIMIT: usize = 32 * 1024;

/// How far the scanner goes byte by byte after an escaped quote.
const BY_BYTE: usize = 64;

/// Why a document could not be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LiftError {
    /// What is left without the long strings exceeds the bound.
    #[error("the document without its long strings exceeds {limit} bytes")]
    SkeletonTooLarge {
        /// The bound, in bytes.
        limit: usize,
    },
}

/// Takes the long strings out of the document that `frames` are, one after the other.
///
/// Takes time in proportion to the bytes plus the frames. Whoever reads frames off a connection
/// gathers the small ones first, because each slice of a long string costs some bytes of its own.
pub fn lift(frames: &[Bytes], skeleton_limit: usize) -> Result<Lifted, LiftError> {
    Lifter::new(skeleton_limit).finish(frames)
}

/// Does what [`lift`] does while the document arrives, so that each frame is read while the
/// processor's cache still has it. Each call gets all frames so far; memory is read from end to
/// end but once more, by the kernel that sends it.
pub struct Lifter {
    limit: usize,
    skeleton: Vec<u8>,
    long: Vec<LongString>,
    open: Option<Open>,
    /// How many frames were read.
    done: usize,
    /// Which of those are known to be of base64's alphabet throughout.
    plain: Vec<bool>,
    failed: Option<LiftError>,
}

impl Lifter {
    /// At the beginning of a document.
    pub const fn new(skeleton_limit: usize) -> Self {
        Self {
            limit: skeleton_limit,
            skeleton: Vec::new(),
            long: Vec::new(),
            open: None,
            done: 0,
            plain: Vec::new(),
            failed: None,
        }
    }

    /// Reads the frames that are new. A mistake is told at the end.
    pub fn advance(&mut self, frames: &[Bytes]) {
        if self.failed.is_some() {
            return;
        }
        self.failed = self.read(frames, true).err();
    }

    /// Reads what is left and takes the document apart.
    pub fn finish(mut self, frames: &[Bytes]) -> Result<Lifted, LiftError> {
        if let [only] = frames
            && only.len() <= LONG.min(self.limit)
        {
            // No string in it can be long, so the frame is its own skeleton.
            return Ok(Lifted {
                skeleton: only.clone(),
                long: Vec::new(),
            });
        }
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        self.read(frames, false)?;
        self.end(frames)
    }
}

/// A document without its long strings, and the long strings.
pub struct Lifted {
    skeleton: Bytes,
    /// In the order of their places, which are distinct.
    long: Vec<LongString>,
}

impl Lifted {
    /// The document with an empty string in each long string's place.
    pub fn skeleton(&self) -> &[u8] {
        &self.skeleton
    }

    /// The long string whose place `text` is, where `text` was borrowed from the skeleton by a
    /// parser. A string that was empty from the start has no such place.
    pub fn find(&self, text: &str) -> Option<&LongString> {
        if !text.is_empty() || self.long.is_empty() {
            return None;
        }
        let start = self.skeleton.as_ptr().addr();
        let place = text.as_ptr().addr().checked_sub(start)?;
        let found = self.long.binary_search_by_key(&place, |long| long.place);
        found.ok().and_then(|index| self.long.get(index))
    }

    /// The long strings, in the order in which they stand in the document.
    pub fn long_strings(&self) -> &[LongString] {
        &self.long
    }

    /// Line and column in the document of a byte of the skeleton, both counted from 1.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let before = self.skeleton.get(..offset).unwrap_or(&self.skeleton);
        let line = memchr_iter(b'\n', before).count() + 1;
        let line_start = memchr::memrchr(b'\n', before).map_or(0, |newline| newline + 1);
        let lifted: usize = self
            .long
            .iter()
            .filter(|long| (line_start..before.len()).contains(&long.place))
            .map(LongString::len)
            .sum();
        (line, before.len() - line_start + lifted + 1)
    }
}

impl fmt::Debug for Lifted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lifted")
            .field("skeleton", &self.skeleton.len())
            .field("long", &self.long)
            .finish()
    }
}

/// A string that was taken out: the raw text between its quotes, escapes and all, unchecked.
pub struct LongString {
    place: usize,
    len: usize,
    slices: Vec<Bytes>,
    /// Which slices were seen to be of base64's alphabet throughout.
    plain: Vec<bool>,
}

impl LongString {
    /// The text, in pieces of the frames it arrived in; no piece is empty.
    pub fn slices(&self) -> &[Bytes] {
        &self.slices
    }

    /// Whether a slice is known to hold nothing but the 64 characters of base64.
    pub(super) fn is_plain(&self, slice: usize) -> bool {
        self.plain.get(slice).copied().unwrap_or_default()
    }

    /// How many bytes it has as written.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Never: only strings longer than [`LONG`] are lifted.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether any character of it is written as an escape. Reads the text.
    pub fn escaped(&self) -> bool {
        self.slices
            .iter()
            .any(|slice| memchr(b'\\', slice).is_some())
    }
}

impl fmt::Debug for LongString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len)
    }
}

/// A string whose end has not been seen.
#[derive(Clone, Copy)]
struct Open {
    /// Where its text begins: number of the frame, and offset in it.
    frame: usize,
    at: usize,
    /// How much of its text earlier frames hold, and whether that ends in a backslash that
    /// escapes what follows.
    before: usize,
    escaping: bool,
}

impl Lifter {
    /// Reads what was not read yet. A frame that has just arrived (`fresh`) and lies in a string
    /// from end to end is asked for base64's alphabet too, which costs little now and much later.
    fn read(&mut self, frames: &[Bytes], fresh: bool) -> Result<(), LiftError> {
        while let Some(frame) = frames.get(self.done) {
            if self.done == 0 {
                self.skeleton.reserve(LONG.min(self.limit));
            }
            let plain = fresh && self.open.is_some() && base64::is_plain(frame);
            self.plain.push(plain);
            self.frame(frames, frame)?;
            self.done += 1;
        }
        Ok(())
    }

    fn frame(&mut self, frames: &[Bytes], frame: &Bytes) -> Result<(), LiftError> {
        let number = self.done;
        let mut at = 0;
        loop {
            let rest = frame.get(at..).unwrap_or_default();
            let Some(open) = self.open.take() else {
                let Some(quote) = memchr(b'"', rest) else {
                    return self.keep(rest);
                };
                self.keep(rest.get(..=quote).unwrap_or_default())?;
                at += quote + 1;
                self.open = Some(Open {
                    frame: number,
                    at,
                    before: 0,
                    escaping: false,
                });
                continue;
            };
            let Some(quote) = closing_quote(rest, open.escaping) else {
                self.open = Some(Open {
                    before: open.before + rest.len(),
                    escaping: ends_escaping(rest, open.escaping),
                    ..open
                });
                return Ok(());
            };
            self.text(open, frames, at + quote, open.before + quote)?;
            self.keep(b"\"")?;
            at += quote + 1;
        }
    }

    /// Ends a string of `len` bytes whose text goes up to `end` of the frame that is being read.
    fn text(
        &mut self,
        open: Open,
        frames: &[Bytes],
        end: usize,
        len: usize,
    ) -> Result<(), LiftError> {
        let last = frames.len().min(self.done + 1) - 1;
        let frames = frames.get(open.frame..=last).unwrap_or_default();
        let pieces = (open.frame..).zip(frames).map(|(number, frame)| {
            let from = if number == open.frame { open.at } else { 0 };
            let to = if number == last { end } else { frame.len() };
            (frame, from..to)
        });
        if len > LONG {
            let plain = self.plain.get(open.frame..).unwrap_or_default();
            let slices = pieces
                .zip(plain)
                .filter(|((_, range), _)| !range.is_empty());
            let slices = slices.map(|((frame, range), plain)| (frame.slice(range), *plain));
            let (slices, plain) = slices.unzip();
            self.long.push(LongString {
                place: self.skeleton.len(),
                len,
                slices,
                plain,
            });
            return Ok(());
        }
        for (frame, range) in pieces {
            self.keep(frame.get(range).unwrap_or_default())?;
        }
        Ok(())
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), LiftError> {
        if self.skeleton.len() + bytes.len() > self.limit {
            return Err(LiftError::SkeletonTooLarge { limit: self.limit });
        }
        self.skeleton.extend_from_slice(bytes);
        Ok(())
    }

    fn end(mut self, frames: &[Bytes]) -> Result<Lifted, LiftError> {
        // A string without an end: what is left of it makes the parser say so, in the right place.
        if let Some(open) = self.open
            && open.before <= LONG
            && let Some(last) = frames.last()
        {
            self.text(open, frames, last.len(), open.before)?;
        }
        Ok(Lifted {
            skeleton: self.skeleton.into(),
            long: self.long,
        })
    }
}

/// Where the quote stands that ends the string which `text` continues.
///
/// Looking for quotes alone, and then back over the backslashes before each, is quicker than
/// stopping at every backslash: there is one in every 64 characters of base64 as PHP writes it.
fn closing_quote(text: &[u8], mut escaping: bool) -> Option<usize> {
    let mut at = 0;
    loop {
        let rest = text.get(at..)?;
        let quote = memchr(b'"', rest)?;
        if !ends_escaping(rest.get(..quote)?, escaping) {
            return Some(at + quote);
        }
        at += quote + 1;
        escaping = false;
        // Where one quote is escaped there may be many: a text full of them is read byte by byte.
        for byte in text.get(at..)?.iter().take(BY_BYTE) {
            match (escaping, byte) {
                (false, b'"') => return Some(at),
                (false, b'\\') => escaping = true,
                _ => escaping = false,
            }
            at += 1;
        }
    }
}

/// Whether what follows `text` is escaped: it ends in an odd run of backslashes. `escaping` says
/// the same of what came before `text`, and counts where the run is all of it.
fn ends_escaping(text: &[u8], escaping: bool) -> bool {
    let run = text.iter().rev().take_while(|b| **b == b'\\').count();
    (run % 2 == 1) != (run == text.len() && escaping)
}

#[cfg(test)]
mod tests;
