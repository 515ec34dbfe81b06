//! Checks that an image of the upstream's answer is base64 text, in the pieces that it came in.
//!
//! Invariant: text that passes can stand between the quotes of a JSON string as it is. Nothing is
//! decoded and nothing is copied; what the image shows is the customer's and the vendor's matter.

use bytes::Bytes;
use memchr::memchr;

/// Whether these pieces of raw JSON text are a base64 image: the standard alphabet, `=` at the end
/// only, `/` written plainly or as `\/`. Whether it is stored with a `data:` prefix or without the
/// vendor does not say, so either is relayed as it is.
pub(super) fn is_image(pieces: &[Bytes]) -> bool {
    let Some(prefix) = data_uri_prefix(pieces) else {
        return false;
    };
    let mut check = Base64Check::default();
    let mut skip = prefix;
    pieces.iter().all(|piece| {
        let skipped = skip.min(piece.len());
        skip -= skipped;
        check.accepts(piece.get(skipped..).unwrap_or_default())
    }) && !check.escape
}

/// How many bytes at the beginning are the prefix of a `data:` URI; none if it is one that no image
/// of a document has. Only these few are known, so that a prefix has no place for anything else.
fn data_uri_prefix(pieces: &[Bytes]) -> Option<usize> {
    const PREFIXES: [&[u8]; 6] = [
        b"data:image/jpeg;base64,",
        b"data:image/jpg;base64,",
        b"data:image/png;base64,",
        b"data:image\\/jpeg;base64,",
        b"data:image\\/jpg;base64,",
        b"data:image\\/png;base64,",
    ];
    let start: Vec<u8> = pieces.iter().flatten().take(32).copied().collect();
    if !start.starts_with(b"data:") {
        return Some(0);
    }
    let mut known = PREFIXES.iter().filter(|prefix| start.starts_with(prefix));
    known.next().map(|prefix| prefix.len())
}

#[derive(Default)]
struct Base64Check {
    /// A backslash was the last byte.
    escape: bool,
    padding: usize,
}

impl Base64Check {
    fn accepts(&mut self, piece: &[u8]) -> bool {
        let mut rest = piece;
        while let Some((first, after)) = rest.split_first() {
            if self.escape {
                if *first != b'/' || self.padding > 0 {
                    return false;
                }
                self.escape = false;
                rest = after;
                continue;
            }
            let length = memchr(b'\\', rest).unwrap_or(rest.len());
            let (run, after) = rest.split_at(length);
            if !self.accepts_run(run) {
                return false;
            }
            self.escape = !after.is_empty();
            rest = after.get(1..).unwrap_or_default();
        }
        true
    }

    fn accepts_run(&mut self, run: &[u8]) -> bool {
        let padding = run.iter().rev().take_while(|byte| **byte == b'=').count();
        let text = run.split_at(run.len() - padding).0;
        if self.padding > 0 && !text.is_empty() {
            return false;
        }
        self.padding += padding;
        self.padding <= 2 && is_alphabet(text)
    }
}

fn is_alphabet(text: &[u8]) -> bool {
    let (blocks, tail) = text.split_at(text.len() - text.len() % 4);
    base64_simd::STANDARD_NO_PAD.check(blocks).is_ok()
        && tail
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
}
