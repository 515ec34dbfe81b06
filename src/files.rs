//! Reads the files that a configuration names, secrets among them: bounded, and with errors that
//! quote nothing.
//!
//! Invariant: no more than the limit is ever read, and what was read is wiped when it is dropped,
//! since the same code reads secrets.

use std::{
    fs::{File, Metadata},
    io::{self, Read},
    path::Path,
};

use thiserror::Error;
use zeroize::Zeroizing;

use crate::units::show_size;

/// Why a file's content is not to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FileError {
    /// There is none.
    #[error("does not exist")]
    Missing,
    /// It belongs to somebody else.
    #[error("may not be read by this user")]
    Forbidden,
    /// The system failed to read it.
    #[error("could not be read ({0})")]
    Unreadable(io::ErrorKind),
    /// Nothing is in it.
    #[error("is empty")]
    Empty,
    /// It is larger than this many bytes.
    #[error("is larger than {}", show_size(*.0))]
    TooLarge(u64),
}

impl From<io::Error> for FileError {
    fn from(error: io::Error) -> Self {
        let kind = error.kind();
        if kind == io::ErrorKind::NotFound {
            return Self::Missing;
        }
        if kind == io::ErrorKind::PermissionDenied {
            return Self::Forbidden;
        }
        Self::Unreadable(kind)
    }
}

/// A file's content and what its metadata says of it.
pub(crate) struct Content {
    pub(crate) bytes: Zeroizing<Vec<u8>>,
    /// Whether it can be read again: it is no pipe.
    pub(crate) regular: bool,
    /// Whether every user of the machine may read it.
    pub(crate) world_readable: bool,
}

impl Content {
    /// As a secret: editors and `echo` end a file with a line break that is no part of it; one is cut.
    pub(crate) fn without_line_break(mut self) -> Result<Self, FileError> {
        if self.bytes.last() == Some(&b'\n') {
            self.bytes.pop();
            if self.bytes.last() == Some(&b'\r') {
                self.bytes.pop();
            }
        }
        if self.bytes.is_empty() {
            return Err(FileError::Empty);
        }
        Ok(self)
    }
}

/// The largest secret.
pub(crate) const MAX_SECRET: u64 = 64 * 1024;

/// Reads a whole file of 1 to `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Content, FileError> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    // Room for everything from the start: growing would leave copies behind that nobody wipes. A
    // pipe does not say how much it holds.
    let expected = if metadata.is_file() {
        metadata.len().min(limit)
    } else {
        limit
    };
    let capacity = usize::try_from(expected.saturating_add(64)).unwrap_or(0);
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.is_empty() {
        return Err(FileError::Empty);
    }
    if u64::try_from(bytes.len()).is_ok_and(|length| length > limit) {
        return Err(FileError::TooLarge(limit));
    }
    Ok(Content {
        bytes,
        regular: metadata.is_file(),
        world_readable: is_world_readable(&metadata),
    })
}

#[cfg(unix)]
fn is_world_readable(metadata: &Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;

    // A pipe has no name by which others could open it.
    metadata.is_file() && metadata.permissions().mode() & 0o004 != 0
}

#[cfg(not(unix))]
fn is_world_readable(_: &Metadata) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_limit_and_no_further() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        assert_eq!(read(&path, 4).err(), Some(FileError::Missing));
        fs::write(&path, "").unwrap();
        assert_eq!(read(&path, 4).err(), Some(FileError::Empty));
        fs::write(&path, "1234").unwrap();
        assert_eq!(*read(&path, 4).unwrap().bytes, b"1234");
        fs::write(&path, "12345").unwrap();
        assert_eq!(read(&path, 4).err(), Some(FileError::TooLarge(4)));
        assert!(matches!(
            read(folder.path(), 4).err(),
            Some(FileError::Unreadable(_))
        ));
    }
}
