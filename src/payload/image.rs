//! Decides whether a text is an image that may be sent: a whole JPEG or PNG file in base64, of a
//! permitted size in bytes and pixels.
//!
//! Invariant: an [`Image`] is complete, of a known format and within the bounds. What its pixels
//! show is the upstream's business: nothing but its headers is decoded, and nothing is copied.

mod header;

use std::fmt;

use bytes::Bytes;

use super::{
    Flaw, Rules,
    base64::{Checked, Encoded, Text},
};

/// Which picture of a document it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The front.
    Front,
    /// The back.
    Back,
}

impl Side {
    /// The name of its member.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Front => "front",
            Self::Back => "back",
        }
    }
}

/// A format of images that DCAMS takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageFormat {
    /// JPEG (ITU T.81): baseline, extended or progressive, Huffman-coded.
    Jpeg,
    /// PNG.
    Png,
}

impl ImageFormat {
    /// Every format there is.
    pub const ALL: [Self; 2] = [Self::Jpeg, Self::Png];

    /// The format's name: the subtype of its media type.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "jpeg",
            Self::Png => "png",
        }
    }

    /// The format of this exact name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }
}

/// The formats that are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ImageTypes {
    jpeg: bool,
    png: bool,
}

impl ImageTypes {
    /// Both formats.
    pub const ALL: Self = Self {
        jpeg: true,
        png: true,
    };

    /// Whether the format is accepted.
    pub const fn contains(self, format: ImageFormat) -> bool {
        match format {
            ImageFormat::Jpeg => self.jpeg,
            ImageFormat::Png => self.png,
        }
    }

    /// Whether no format is accepted.
    pub const fn is_empty(self) -> bool {
        !self.jpeg && !self.png
    }
}

impl FromIterator<ImageFormat> for ImageTypes {
    fn from_iter<T: IntoIterator<Item = ImageFormat>>(formats: T) -> Self {
        let mut types = Self::default();
        for format in formats {
            match format {
                ImageFormat::Jpeg => types.jpeg = true,
                ImageFormat::Png => types.png = true,
            }
        }
        types
    }
}

/// What becomes of an image that is given as a `data:` URI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataUri {
    /// It is a violation.
    Refuse,
    /// Its prefix is cut off; the rest is sent.
    Strip,
}

/// A checked image, as base64 text in the frames it arrived in.
pub struct Image<'b> {
    side: Side,
    format: ImageFormat,
    text: Checked<'b>,
}

impl<'b> Image<'b> {
    pub(super) fn parse(side: Side, text: Text<'b>, rules: &Rules) -> Result<Self, Flaw> {
        let (text, declared) = cut_data_uri(Encoded::new(text), rules.data_uri)?;
        let text = text.check().map_err(|_| {
            Flaw::new(
                "base64",
                "expected standard base64 with padding, without white space",
            )
        })?;
        if text.bytes() > rules.max_image {
            let most = rules.max_image;
            return Err(Flaw::new(
                "image_size",
                format!("expected an image of at most {most} bytes"),
            ));
        }
        let (format, pixels) = header::read(&text)?;
        if !rules.image_types.contains(format) || declared.is_some_and(|other| other != format) {
            let message = match declared {
                Some(_) if rules.image_types.contains(format) => {
                    "expected the media type that the image is of"
                }
                _ => "expected an image of a permitted type",
            };
            return Err(Flaw::new("image_type", message));
        }
        if pixels > rules.max_image_pixels {
            let most = rules.max_image_pixels;
            return Err(Flaw::new(
                "image_pixels",
                format!("expected an image of at most {most} pixels"),
            ));
        }
        Ok(Self { side, format, text })
    }

    /// Which picture it is.
    pub const fn side(&self) -> Side {
        self.side
    }

    /// Its format, by its content.
    pub const fn format(&self) -> ImageFormat {
        self.format
    }

    /// Its size in bytes, decoded.
    pub const fn bytes(&self) -> u64 {
        self.text.bytes()
    }

    /// Its base64 text, in pieces; a slash may have a backslash before it.
    pub fn text(&self) -> impl Iterator<Item = &[u8]> {
        self.text.text().pieces()
    }

    /// Its base64 text as it stands between quotes in JSON (a slash may be escaped), in pieces
    /// that share the frames' memory.
    pub fn segments(&self) -> impl Iterator<Item = Bytes> {
        self.text.text().segments()
    }
}

impl fmt::Debug for Image<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image")
            .field("side", &self.side)
            .field("format", &self.format)
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

/// Cuts off the prefix of a `data:` URI, and tells which format it claims.
fn cut_data_uri(
    text: Encoded<'_>,
    data_uri: DataUri,
) -> Result<(Encoded<'_>, Option<ImageFormat>), Flaw> {
    // The longest prefix has 24 bytes with its slash escaped. A colon is not base64, so the
    // scheme is never the beginning of an image.
    let head: Vec<u8> = text.pieces().flatten().take(32).copied().collect();
    let scheme = head.first_chunk::<5>();
    if !scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"data:")) {
        return Ok((text, None));
    }
    if data_uri == DataUri::Refuse {
        return Err(Flaw::new(
            "data_uri",
            "expected plain base64, not a data URI",
        ));
    }
    let prefix = head
        .split_inclusive(|b| *b == b',')
        .next()
        .unwrap_or_default();
    let mut spelling = String::from_utf8_lossy(prefix).to_ascii_lowercase();
    if text.is_raw() {
        spelling = spelling.replace("\\/", "/");
    }
    let format = match spelling.as_str() {
        // Many clients write the second, though no such media type is registered.
        "data:image/jpeg;base64," | "data:image/jpg;base64," => ImageFormat::Jpeg,
        "data:image/png;base64," => ImageFormat::Png,
        _ => {
            return Err(Flaw::new(
                "data_uri",
                "expected data:image/jpeg;base64, or data:image/png;base64,",
            ));
        }
    };
    let cut = prefix.len();
    Ok((text.without_first(cut), Some(format)))
}

#[cfg(test)]
mod tests;
