//! Reads as much of an image file as tells its format, its dimensions, and that it is whole.
//!
//! Only the headers up to the dimensions and the end of the file are decoded, so that an image made
//! to exhaust a decoder costs no more than any other.

use std::borrow::Cow;

use super::ImageFormat;
use crate::payload::{
    Flaw,
    base64::{Checked, Reader},
};

/// How many segments (and fill bytes) a JPEG may have before its image data. Large EXIF and colour
/// profiles take some dozens; the bound keeps a file of nothing but headers cheap.
pub(super) const MAX_SEGMENTS: usize = 1024;

/// How many groups of base64 at the end of a JPEG are searched for its end: 4 KiB of what some
/// cameras and phones write after the image.
const TRAILER_GROUPS: usize = 4096_usize.div_ceil(3);

const NEITHER: Flaw = flaw("image_format", "expected a JPEG or PNG image");
const BAD_JPEG: Flaw = flaw("image_format", "expected a JPEG image with valid headers");
const BAD_PNG: Flaw = flaw("image_format", "expected a PNG image with a valid header");
const TRUNCATED: Flaw = flaw("image_truncated", "expected the whole image file");
const NO_DIMENSIONS: Flaw = flaw("image_dimensions", "expected a width and height above 0");

const fn flaw(code: &'static str, message: &'static str) -> Flaw {
    Flaw {
        code,
        message: Cow::Borrowed(message),
    }
}

/// The format and number of pixels, of a file that is complete.
pub(super) fn read(text: &Checked<'_>) -> Result<(ImageFormat, u64), Flaw> {
    let mut reader = text.reader();
    let (format, width, height) = match reader.array() {
        Some([0xff, 0xd8]) => {
            let (width, height) = read_jpeg(&mut reader)?;
            ends_as_jpeg(text, reader.position())?;
            (ImageFormat::Jpeg, u32::from(width), u32::from(height))
        }
        Some([0x89, b'P']) => {
            let (width, height) = read_png(&mut reader)?;
            ends_as_png(text)?;
            (ImageFormat::Png, width, height)
        }
        _ => return Err(NEITHER),
    };
    if width == 0 || height == 0 {
        return Err(NO_DIMENSIONS);
    }
    Ok((format, u64::from(width) * u64::from(height)))
}

/// Walks the segments after the start-of-image marker up to and including the first scan's header.
fn read_jpeg<'a>(
    reader: &mut Reader<'a, impl Iterator<Item = &'a [u8]>>,
) -> Result<(u16, u16), Flaw> {
    let mut size = None;
    let mut budget = 0..MAX_SEGMENTS;
    while budget.next().is_some() {
        if reader.byte().ok_or(TRUNCATED)? != 0xff {
            return Err(BAD_JPEG);
        }
        let mut marker = reader.byte().ok_or(TRUNCATED)?;
        // Fill bytes may stand before any marker.
        while marker == 0xff {
            budget.next().ok_or(BAD_JPEG)?;
            marker = reader.byte().ok_or(TRUNCATED)?;
        }
        let length = u16::from_be_bytes(reader.array().ok_or(TRUNCATED)?);
        let length = length.checked_sub(2).ok_or(BAD_JPEG)?;
        match marker {
            0xc0..=0xc2 if size.is_none() => size = Some(read_frame_header(reader, length)?),
            // Application data, comments, tables, restart interval.
            0xc4 | 0xdb | 0xdd | 0xe0..=0xef | 0xfe => reader.skip(length).ok_or(TRUNCATED)?,
            0xda => {
                reader.skip(length).ok_or(TRUNCATED)?;
                return size.ok_or(BAD_JPEG);
            }
            // A second frame header; lossless, hierarchical or arithmetic coding; a marker that
            // belongs elsewhere.
            _ => return Err(BAD_JPEG),
        }
    }
    Err(BAD_JPEG)
}

fn read_frame_header<'a>(
    reader: &mut Reader<'a, impl Iterator<Item = &'a [u8]>>,
    length: u16,
) -> Result<(u16, u16), Flaw> {
    let [_, h1, h0, w1, w0, components] = reader.array().ok_or(TRUNCATED)?;
    if !(1..=4).contains(&components) || length != 6 + 3 * u16::from(components) {
        return Err(BAD_JPEG);
    }
    reader.skip(length - 6).ok_or(TRUNCATED)?;
    Ok((u16::from_be_bytes([w1, w0]), u16::from_be_bytes([h1, h0])))
}

/// The end-of-image marker must be in the last 4 KiB, and after the headers: a thumbnail within
/// them has one too. Entropy-coded data never contains its two bytes.
fn ends_as_jpeg(text: &Checked<'_>, headers: u64) -> Result<(), Flaw> {
    const END: [u8; 2] = [0xff, 0xd9];
    let mut tail = text.tail(2);
    if !tail.ends_with(&END) {
        tail = text.tail(TRAILER_GROUPS);
    }
    let end = tail.windows(2).rposition(|bytes| bytes == END);
    let from_end = end.and_then(|end| u64::try_from(tail.len() - end).ok());
    let place = from_end.and_then(|from_end| text.bytes().checked_sub(from_end));
    if place.is_some_and(|place| place >= headers) {
        return Ok(());
    }
    Err(TRUNCATED)
}

/// Reads the rest of the signature and the header chunk, which is always the first.
fn read_png<'a>(
    reader: &mut Reader<'a, impl Iterator<Item = &'a [u8]>>,
) -> Result<(u32, u32), Flaw> {
    let signature: [u8; 6] = reader.array().ok_or(TRUNCATED)?;
    if signature != *b"NG\r\n\x1a\n" {
        return Err(NEITHER);
    }
    let chunk: [u8; 8] = reader.array().ok_or(TRUNCATED)?;
    let width = u32::from_be_bytes(reader.array().ok_or(TRUNCATED)?);
    let height = u32::from_be_bytes(reader.array().ok_or(TRUNCATED)?);
    let [depth, colour, compression, filter, interlace] = reader.array().ok_or(TRUNCATED)?;
    let sampled = match colour {
        0 => matches!(depth, 1 | 2 | 4 | 8 | 16),
        2 | 4 | 6 => matches!(depth, 8 | 16),
        3 => matches!(depth, 1 | 2 | 4 | 8),
        _ => false,
    };
    if chunk != *b"\0\0\0\x0dIHDR" || !sampled || compression != 0 || filter != 0 || interlace > 1 {
        return Err(BAD_PNG);
    }
    Ok((width, height))
}

/// The last twelve bytes of a PNG file are its empty IEND chunk.
fn ends_as_png(text: &Checked<'_>) -> Result<(), Flaw> {
    // Five groups: the last one may hold a single byte.
    if text.tail(5).ends_with(b"\0\0\0\0IEND\xae\x42\x60\x82") {
        return Ok(());
    }
    Err(TRUNCATED)
}
