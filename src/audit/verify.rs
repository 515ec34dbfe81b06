//! Verifies a chain that lies in files: hands their lines, in order, to the judge.
//!
//! Invariant: a folder may be verified while a gateway writes it. What is verified are the files that were
//! there at the beginning, and the last of them as far as it was written when it was read; a file that was
//! compressed meanwhile is read compressed, and if one was removed meanwhile everything begins anew.

pub mod heads;
mod judge;
pub mod report;
mod walk;

use std::{io, path::PathBuf};

use thiserror::Error;

pub use self::judge::Trust;
use self::{
    heads::PublishedHead,
    judge::{Cuts, Judge, cut_of},
    report::{Counts, Report},
    walk::list,
};
pub(in crate::audit) use self::{
    judge::upkeep_of,
    walk::{Block, Broken, lines_of, walk},
};
use super::folder::{AuditFile, Next};

/// Why nothing was verified.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// Two chains, or one chain twice.
    #[error(
        "{} and {} have the same number: verify one chain at a time, and each file once",
        one.display(), other.display()
    )]
    Ambiguous {
        /// One file.
        one: PathBuf,
        /// The other.
        other: PathBuf,
    },
    /// A path leads nowhere.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not one of a chain, by its name.
    #[error(
        "{} is no audit file: name a folder, or files such as audit-00000001.jsonl or \
         audit-00000001.jsonl.zst",
        path.display()
    )]
    NoAuditFile {
        /// The file.
        path: PathBuf,
    },
    /// A folder has nothing to verify in it.
    #[error("{} has no audit files; audit.path is the folder that has", path.display())]
    Nothing {
        /// The folder, or the first of the paths.
        path: PathBuf,
    },
    /// Files were removed again and again while they were read.
    #[error("files are removed faster than they are read: verify a copy of the folder")]
    Vanishing,
}

/// So many of a file's first lines may say what does not count of those before it.
const HEAD_LINES: usize = 16;
/// How often is begun anew because files were removed meanwhile.
const ATTEMPTS: usize = 5;

/// Verifies the files at these paths (files and folders), which are one chain, and compares it with all of
/// these heads. Tells `progress` now and then how far it is.
///
/// # Errors
/// [`VerifyError`], where there is nothing to report on.
pub fn verify(
    paths: &[PathBuf],
    trust: &Trust,
    heads: &[PublishedHead],
    progress: &mut dyn FnMut(&Counts),
) -> Result<Report, VerifyError> {
    reading(paths, |files| attempt(files, trust, heads, progress))
}

/// Does something with the files at these paths, anew where one was removed meanwhile.
pub(in crate::audit) fn reading<T>(
    paths: &[PathBuf],
    mut read: impl FnMut(&[AuditFile]) -> Result<T, Broken>,
) -> Result<T, VerifyError> {
    for _ in 0..ATTEMPTS {
        match read(&list(paths)?) {
            Ok(read) => return Ok(read),
            Err(Broken::Vanished) => {}
            Err(Broken::Io { path, source }) => return Err(VerifyError::Io { path, source }),
        }
    }
    Err(VerifyError::Vanishing)
}

fn attempt(
    files: &[AuditFile],
    trust: &Trust,
    heads: &[PublishedHead],
    progress: &mut dyn FnMut(&Counts),
) -> Result<Report, Broken> {
    let cuts = cuts_of(files)?;
    let mut judge = Judge::new(trust, heads, &cuts);
    for file in files {
        if let Some(other) = walk::beside(file) {
            judge.left_over(&other);
        }
    }
    walk(files, |block| {
        match block {
            Block::Begin {
                number,
                name,
                compressed,
            } => judge.begin(number, &name, compressed),
            Block::Lines(lines) => lines_of(&lines).for_each(|line| judge.line(line)),
            Block::Torn(rest) => judge.torn(&rest),
            Block::Unreadable(why) => judge.unreadable(&why),
        }
        progress(judge.counts());
    })?;
    Ok(judge.finish())
}

/// Which tails do not count, by what the files after them begin with. The judge believes it when it comes to
/// those lines.
fn cuts_of(files: &[AuditFile]) -> Result<Cuts, Broken> {
    let mut cuts = Cuts::new();
    for file in files {
        // What cannot be read is found when it is verified.
        let mut lines = walk::open(file)?;
        for _ in 0..HEAD_LINES {
            let Ok(Some(Next::Line(line))) = lines.next_line() else {
                break;
            };
            if let Some((cut, from)) = cut_of(file.number, line) {
                cuts.entry(cut).or_insert(from);
            }
        }
    }
    Ok(cuts)
}
