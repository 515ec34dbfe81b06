//! What a reading of the configuration looked at, and with which result.
//!
//! Invariant: two readings with the same fingerprint found the same, so that nothing is built or
//! reported anew because a file was merely touched. It is kept in memory alone, as secrets are part
//! of it, and does not print.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{Context, SHA256};

use crate::files::{self, Content, FileError};

/// What a reading looked at.
#[derive(Clone)]
pub struct Sources {
    /// The files and folders that decide what the configuration is, missing ones too; without the
    /// accounts' users and passwords, which change by themselves.
    pub files: Vec<PathBuf>,
    /// The files of the accounts' users and passwords.
    pub credentials: Vec<PathBuf>,
    /// Whether something that was read is gone with that: a pipe says everything only once.
    pub once: bool,
    /// Stands for all that was found.
    pub fingerprint: Fingerprint,
}

/// Stands for everything that a reading found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Sources {
    /// Where nothing was looked at yet.
    pub(super) fn none() -> Self {
        Seen::default().into_sources()
    }
}

/// What a file is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// An account's user or password.
    Credential,
    /// Everything else.
    Setting,
}

/// Reads files, and remembers what was found where.
pub(super) struct Seen(RefCell<Notes>);

struct Notes {
    files: BTreeSet<PathBuf>,
    credentials: BTreeSet<PathBuf>,
    once: bool,
    digest: Context,
}

impl Default for Seen {
    fn default() -> Self {
        Self(RefCell::new(Notes {
            files: BTreeSet::new(),
            credentials: BTreeSet::new(),
            once: false,
            digest: Context::new(&SHA256),
        }))
    }
}

impl Seen {
    /// Reads a whole file of 1 to `limit` bytes.
    pub(super) fn read(
        &self,
        path: &Path,
        limit: u64,
        purpose: Purpose,
    ) -> Result<Content, FileError> {
        let content = files::read(path, limit);
        let mut notes = self.0.borrow_mut();
        match purpose {
            Purpose::Credential => notes.credentials.insert(path.to_owned()),
            Purpose::Setting => notes.files.insert(path.to_owned()),
        };
        notes.add(path.as_os_str().as_encoded_bytes());
        match &content {
            Ok(content) => {
                notes.once |= !content.regular;
                notes.add(&content.bytes);
            }
            Err(error) => notes.add(format!("{error:?}").as_bytes()),
        }
        content
    }

    /// Notes a folder, before it is listed. Its files are noted as they are read.
    pub(super) fn folder(&self, path: &Path) {
        let mut notes = self.0.borrow_mut();
        notes.files.insert(path.to_owned());
        notes.add(path.as_os_str().as_encoded_bytes());
    }

    pub(super) fn into_sources(self) -> Sources {
        let notes = self.0.into_inner();
        let digest = notes.digest.finish();
        let mut fingerprint = [0; 32];
        for (to, from) in fingerprint.iter_mut().zip(digest.as_ref()) {
            *to = *from;
        }
        Sources {
            files: notes.files.into_iter().collect(),
            credentials: notes.credentials.into_iter().collect(),
            once: notes.once,
            fingerprint: Fingerprint(fingerprint),
        }
    }
}

impl Notes {
    /// With its length before it, so that no two series of pieces are the same bytes.
    fn add(&mut self, bytes: &[u8]) {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.digest.update(&length.to_be_bytes());
        self.digest.update(bytes);
    }
}
