//! Where a credential's value comes from, and how it is read again while the gateway runs.
//!
//! Invariant: what cannot be read as a whole pair is an error, never a credential; errors repeat
//! nothing of a secret, nor of the path or name that stands in its place.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    str,
    sync::Arc,
};

use secrecy::SecretString;
use thiserror::Error;

use super::{
    Credential, CredentialError,
    vault::{Vault, VaultError, VaultPath},
};
use crate::files::{self, Content, FileError, MAX_SECRET};

/// Where a user and password come from.
#[derive(Clone)]
pub enum Source {
    /// Files, or the environment.
    Local {
        /// The user.
        user: Part,
        /// The password.
        pass: Part,
    },
    /// A secret in Vault, which holds both.
    Vault(VaultPath),
}

/// Where one of the two comes from.
#[derive(Clone)]
pub enum Part {
    /// A file, which may be written anew at any time.
    File(PathBuf),
    /// A variable of the process's environment: what it was at the start.
    Fixed(SecretString),
}

/// Why there is no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SourceError {
    /// It is in Vault, and Vault is not configured.
    #[error("it is in Vault, which is not configured")]
    Elsewhere,
    /// A file cannot be read.
    #[error("the file of the {0} {1}")]
    File(&'static str, FileError),
    /// There is something else in its place.
    #[error("the {0} is in no regular file any more")]
    NoFile(&'static str),
    /// It is not a pair that could be sent.
    #[error(transparent)]
    Pair(#[from] CredentialError),
    /// Not text.
    #[error("the {0} is not UTF-8 text")]
    Text(&'static str),
    /// Vault does not give it.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

impl SourceError {
    /// One word for answers, metrics and log lines.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Elsewhere => "no_vault",
            Self::File(_, FileError::Empty) => "file_empty",
            Self::File(_, FileError::Forbidden) => "file_forbidden",
            Self::File(_, FileError::Missing) => "file_missing",
            Self::File(_, FileError::TooLarge(_)) => "file_too_large",
            Self::File(_, FileError::Unreadable(_)) => "file_unreadable",
            Self::NoFile(_) => "no_regular_file",
            Self::Pair(CredentialError::Empty(_)) => "empty",
            Self::Pair(CredentialError::TooLong(_)) => "too_long",
            Self::Text(_) => "not_text",
            Self::Vault(error) => error.reason(),
        }
    }
}

impl Source {
    /// The files that it is read from.
    pub fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::Local { user, pass } => {
                let files = [user, pass].into_iter().filter_map(Part::file);
                files.map(Path::to_owned).collect()
            }
            Self::Vault(_) => Vec::new(),
        }
    }

    /// Whether it is the same place as another one's, that can be looked at again at any time.
    pub fn is_same_place(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Vault(one), Self::Vault(other)) => one == other,
            (Self::Local { user, pass }, Self::Local { user: u, pass: p }) => {
                let same = |one: &Part, other: &Part| one.file() == other.file();
                let files = user.file().is_some() && pass.file().is_some();
                files && same(user, u) && same(pass, p)
            }
            (Self::Local { .. }, Self::Vault(_)) | (Self::Vault(_), Self::Local { .. }) => false,
        }
    }

    /// Reads files and environment. Waits for the disk.
    pub fn read_local(&self) -> Result<Arc<Credential>, SourceError> {
        match self {
            Self::Local { user, pass } => {
                Ok(Credential::new(user.read("user")?, pass.read("password")?)?)
            }
            Self::Vault(_) => Err(SourceError::Elsewhere),
        }
    }

    /// Reads a secret of Vault.
    pub async fn read_vault(
        path: &VaultPath,
        vault: &Vault,
    ) -> Result<Arc<Credential>, SourceError> {
        let pair = vault.read(path).await?;
        Ok(Credential::new(pair.user, pair.pass)?)
    }
}

impl Part {
    fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Fixed(_) => None,
        }
    }

    fn read(&self, what: &'static str) -> Result<SecretString, SourceError> {
        let path = match self {
            Self::File(path) => path,
            Self::Fixed(value) => return Ok(value.clone()),
        };
        // A pipe would be waited for.
        let look = fs::metadata(path).map_err(|error| SourceError::File(what, error.into()))?;
        if !look.is_file() {
            return Err(SourceError::NoFile(what));
        }
        let content = files::read(path, MAX_SECRET).and_then(Content::without_line_break);
        let content = content.map_err(|error| SourceError::File(what, error))?;
        let text = str::from_utf8(&content.bytes).map_err(|_| SourceError::Text(what))?;
        // Exactly as long as the text, so that boxing it leaves no copy behind.
        Ok(SecretString::from(text.to_owned()))
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").finish_non_exhaustive()
    }
}
