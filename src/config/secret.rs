//! Secrets: `{ file = "…" }` or `{ env = "…" }`, never a literal.
//!
//! Invariant: a secret is not empty, its bytes are wiped when dropped, and no mistake repeats
//! anything of it, nor the path or variable name that stands in its place: that may be a secret
//! which was pasted there. The key and its file say where to look.

use std::{path::PathBuf, str};

use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::{
    config::{cursor::Section, field::Field},
    credential::source::Part,
    files::{FileError, MAX_SECRET},
};

const FORM: &str = "write { file = \"PATH\" } or { env = \"NAME\" } instead";

/// A secret's bytes, at least one. It has no `Debug`.
pub(super) struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// The bytes, for making a key or a credential of them.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A secret, and where it can be read again.
pub(super) struct Located {
    pub(super) secret: Secret,
    /// The file; none where it is a variable or a pipe, which do not change.
    file: Option<PathBuf>,
}

impl Located {
    /// Where the secret comes from while the gateway runs.
    pub(super) fn part(self) -> Option<Part> {
        match self.file {
            Some(path) => Some(Part::File(path)),
            None => of_bytes(self.secret.bytes()).map(Part::Fixed),
        }
    }
}

/// A secret as bytes.
pub(super) fn bytes(field: Field<'_>) -> Option<Secret> {
    located(field).map(|located| located.secret)
}

/// A secret as bytes, and the file that it stands in.
pub(super) fn located(field: Field<'_>) -> Option<Located> {
    if !field.is_table() {
        field.mistake("is a secret and may not be written here", FORM);
        return None;
    }
    let mut section = field.section();
    let from_file = section.optional("file");
    let from_variable = section.optional("env");
    let secret = match (from_file, from_variable) {
        (Some(field), None) => of_file(&field),
        (None, Some(field)) => {
            let file = None;
            of_variable(&field).map(|secret| Located { secret, file })
        }
        (Some(_), Some(_)) => {
            section.mistake("file", "stands beside `env`", "keep one of the two");
            None
        }
        (None, None) => {
            section.mistake("file", "is missing, and so is `env`", FORM);
            None
        }
    };
    section.finish();
    secret
}

/// A secret as text; `key` is where it stood in `section`.
pub(super) fn text(section: &Section<'_>, key: &str, secret: &Secret) -> Option<SecretString> {
    let text = of_bytes(secret.bytes());
    if text.is_none() {
        section.mistake(key, "is not UTF-8 text", "save the secret as UTF-8");
    }
    text
}

fn of_bytes(bytes: &[u8]) -> Option<SecretString> {
    let text = str::from_utf8(bytes).ok()?;
    // Exactly as long as the text, so that boxing it leaves no copy behind.
    Some(SecretString::from(text.to_owned()))
}

/// A key of 32 bytes, in base64.
pub(super) fn key(section: &mut Section<'_>, key: &'static str) -> Option<Zeroizing<[u8; 32]>> {
    let Some(field) = section.optional(key) else {
        section.missing(
            key,
            "point it to a file that was made with: openssl rand -base64 32",
        );
        return None;
    };
    key_of(section, key, field)
}

/// The same, of a field that stands under `key` in `section`.
pub(super) fn key_of(
    section: &Section<'_>,
    key: &str,
    field: Field<'_>,
) -> Option<Zeroizing<[u8; 32]>> {
    let mend = "make one with: openssl rand -base64 32";
    let secret = bytes(field)?;
    let Some(secret) = decode(secret.bytes()) else {
        section.mistake(key, "is not the base64 of exactly 32 bytes", mend);
        return None;
    };
    if secret.iter().all(|byte| Some(byte) == secret.first()) {
        section.mistake(key, "is the same byte 32 times", mend);
        return None;
    }
    Some(secret)
}

/// The 32 bytes whose base64 this is.
pub(crate) fn decode(text: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    let mut decoded = Zeroizing::new([0; 33]);
    let length = STANDARD.decode_slice(text, decoded.as_mut_slice());
    let (bytes, _) = decoded
        .split_first_chunk::<32>()
        .filter(|_| length == Ok(32))?;
    let mut secret = Zeroizing::new([0; 32]);
    secret.copy_from_slice(bytes);
    Some(secret)
}

fn of_file(field: &Field<'_>) -> Option<Located> {
    let path = field.path()?;
    match field.read_secret(&path) {
        Ok(content) => {
            if content.world_readable {
                field.warning(
                    "names a secret file that every user of this machine may read",
                    "take the right from others: chmod o-r",
                );
            }
            Some(Located {
                secret: Secret(content.bytes),
                // A pipe says it only once.
                file: content.regular.then_some(path),
            })
        }
        Err(FileError::Empty) => {
            field.mistake("names a file with nothing in it", "put the secret there");
            None
        }
        Err(error) => {
            let folder = match field.folder() {
                folder if folder.as_os_str().is_empty() => "the working directory".to_owned(),
                folder => folder.display().to_string(),
            };
            let mend = format!("mend the file or its path (a relative one starts at {folder})");
            field.mistake(format!("names a file that {error}"), &mend);
            None
        }
    }
}

fn of_variable(field: &Field<'_>) -> Option<Secret> {
    let name = field.text()?;
    let Some(value) = field.context().environment.get(name) else {
        field.mistake(
            "names an environment variable that is not set",
            "set it, or use { file = \"PATH\" }",
        );
        return None;
    };
    if value.is_empty() {
        field.mistake("names an environment variable that is empty", "set it");
        return None;
    }
    if u64::try_from(value.len()).is_ok_and(|length| length > MAX_SECRET) {
        field.mistake("is larger than 64KiB", "shorten it");
        return None;
    }
    Some(Secret(Zeroizing::new(value.clone().into_bytes())))
}
