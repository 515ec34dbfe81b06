//! Decodes base64 from front to back, a few bytes at a time, and passes over what nobody looks at.
//!
//! It reads texts that were checked: a backslash in them stands before a slash and means nothing.

use base64_simd::{AsOut as _, STANDARD};
use memchr::memchr_iter;

/// Decodes a checked text front to back; `None` means that it ends before.
pub(in crate::payload) struct Reader<'a, I> {
    pieces: I,
    /// Whether a backslash may stand anywhere.
    escaped: bool,
    current: &'a [u8],
    /// The last group of four characters that was decoded, and how much of it was used.
    group: [u8; 3],
    decoded: usize,
    used: usize,
    position: u64,
}

impl<'a, I: Iterator<Item = &'a [u8]>> Reader<'a, I> {
    pub(super) const fn new(pieces: I, escaped: bool) -> Self {
        Self {
            pieces,
            escaped,
            current: &[],
            group: [0; 3],
            decoded: 0,
            used: 0,
            position: 0,
        }
    }

    /// How many bytes were read or skipped.
    pub(in crate::payload) const fn position(&self) -> u64 {
        self.position
    }

    pub(in crate::payload) fn byte(&mut self) -> Option<u8> {
        if self.used == self.decoded {
            self.decode_group()?;
        }
        let byte = *self.group.get(self.used)?;
        self.used += 1;
        self.position += 1;
        Some(byte)
    }

    pub(in crate::payload) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        for byte in &mut bytes {
            *byte = self.byte()?;
        }
        Some(bytes)
    }

    /// Passes over `count` bytes without decoding them.
    pub(in crate::payload) fn skip(&mut self, count: u16) -> Option<()> {
        let count = usize::from(count);
        let at_hand = count.min(self.decoded - self.used);
        self.used += at_hand;
        self.position += u64::try_from(at_hand).ok()?;
        let left = count - at_hand;
        self.skip_characters(left / 3 * 4)?;
        self.position += u64::try_from(left / 3 * 3).ok()?;
        for _ in 0..left % 3 {
            self.byte()?;
        }
        Some(())
    }

    fn decode_group(&mut self) -> Option<()> {
        let mut text = [0; 4];
        for character in &mut text {
            *character = self.character()?;
        }
        let decoded = STANDARD.decode(&text, self.group.as_mut_slice().as_out());
        self.decoded = decoded.ok()?.len();
        self.used = 0;
        Some(())
    }

    fn character(&mut self) -> Option<u8> {
        loop {
            match self.current {
                [] => self.current = self.pieces.next()?,
                [b'\\', rest @ ..] => self.current = rest,
                [character, rest @ ..] => {
                    self.current = rest;
                    return Some(*character);
                }
            }
        }
    }

    fn skip_characters(&mut self, mut count: usize) -> Option<()> {
        while count > 0 {
            if self.current.is_empty() {
                self.current = self.pieces.next()?;
            }
            // Counting takes vector instructions where going from one to the next would not. What
            // the backslashes leave over is at most half, so that few rounds do.
            let window = self.current.get(..count).unwrap_or(self.current);
            count -= window.len();
            if self.escaped {
                count += memchr_iter(b'\\', window).count();
            }
            self.current = self.current.get(window.len()..).unwrap_or_default();
        }
        Some(())
    }
}
