//! Reads the files of a chain, one after the other, on a thread of its own: what is read and decompressed
//! there is judged here at the same time.

use std::{
    fs, io, mem,
    path::{Path, PathBuf},
    sync::mpsc::{SyncSender, sync_channel},
    thread,
};

use super::VerifyError;
use crate::audit::folder::{AuditFile, Folder, Lines, Next};

/// What was read of a chain's files, in order.
pub(in crate::audit) enum Block {
    /// A file begins.
    Begin {
        number: u64,
        name: String,
        compressed: bool,
    },
    /// Whole lines.
    Lines(Vec<u8>),
    /// The end of a file, without a line break.
    Torn(Vec<u8>),
    /// The file cannot be read any further.
    Unreadable(String),
}

/// Why files could not be read.
pub(in crate::audit) enum Broken {
    /// A file that was there is not any more.
    Vanished,
    Io {
        path: PathBuf,
        source: io::Error,
    },
}

/// Lines are handed over in pieces of about this size, and so many of them wait at most.
const BLOCK: usize = 256 * 1024;
const WAITING: usize = 8;

/// The files at these paths, in the order of their numbers.
pub(super) fn list(paths: &[PathBuf]) -> Result<Vec<AuditFile>, VerifyError> {
    let mut files = Vec::new();
    for path in paths {
        let failed = |source| VerifyError::Io {
            path: path.clone(),
            source,
        };
        if fs::metadata(path).map_err(failed)?.is_dir() {
            files.extend(Folder::new(path).files().map_err(failed)?);
        } else {
            let file = AuditFile::at(path);
            files.push(file.ok_or_else(|| VerifyError::NoAuditFile { path: path.clone() })?);
        }
    }
    files.sort();
    files.dedup();
    // As in a folder: one that is just being compressed is there once.
    files.dedup_by(|next, file| {
        next.number == file.number && next.path.parent() == file.path.parent()
    });
    for pair in files.windows(2) {
        if let [one, other] = pair
            && one.number == other.number
        {
            let (one, other) = (one.path.clone(), other.path.clone());
            return Err(VerifyError::Ambiguous { one, other });
        }
    }
    if files.is_empty() {
        let path = paths.first().cloned().unwrap_or_default();
        return Err(VerifyError::Nothing { path });
    }
    Ok(files)
}

/// Reads all files, and hands what was read to `take` on this thread.
pub(in crate::audit) fn walk(
    files: &[AuditFile],
    mut take: impl FnMut(Block),
) -> Result<(), Broken> {
    thread::scope(|scope| {
        let (sender, receiver) = sync_channel(WAITING);
        let reader = scope.spawn(move || {
            for file in files {
                read(file, &sender)?;
            }
            Ok(())
        });
        receiver.iter().for_each(&mut take);
        // A thread that panicked has read nothing to rely on.
        reader.join().unwrap_or(Err(Broken::Vanished))
    })
}

/// Opens a file, under its other name where it was just compressed.
pub(super) fn open(file: &AuditFile) -> Result<Lines, Broken> {
    open_either(file).map(|(_, lines)| lines)
}

fn open_either(file: &AuditFile) -> Result<(AuditFile, Lines), Broken> {
    for file in [file.clone(), other_form(file)] {
        match file.lines() {
            Ok(lines) => return Ok((file, lines)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                let path = file.path;
                return Err(Broken::Io { path, source });
            }
        }
    }
    Err(Broken::Vanished)
}

/// The name of a plain file's compressed form, where that is there as well.
pub(super) fn beside(file: &AuditFile) -> Option<String> {
    let other = other_form(file);
    (other.compressed && other.path.exists()).then(|| name_of(&other.path))
}

fn other_form(file: &AuditFile) -> AuditFile {
    let compressed = !file.compressed;
    let path = if compressed {
        file.path.with_added_extension("zst")
    } else {
        file.path.with_extension("")
    };
    AuditFile {
        number: file.number,
        compressed,
        path,
    }
}

fn read(file: &AuditFile, sender: &SyncSender<Block>) -> Result<(), Broken> {
    let (file, mut lines) = open_either(file)?;
    // Nobody takes them any more only where that thread panicked.
    let send = |block| drop(sender.send(block));
    send(Block::Begin {
        number: file.number,
        name: name_of(&file.path),
        compressed: file.compressed,
    });
    let mut block = Vec::with_capacity(BLOCK);
    let last = loop {
        match lines.next_line() {
            Ok(Some(Next::Line(line))) => {
                block.extend_from_slice(line);
                block.push(b'\n');
                if block.len() >= BLOCK {
                    let full = mem::replace(&mut block, Vec::with_capacity(BLOCK));
                    send(Block::Lines(full));
                }
            }
            Ok(Some(Next::Torn(rest))) => {
                send(Block::Lines(mem::take(&mut block)));
                send(Block::Torn(rest.to_vec()));
            }
            Ok(None) => break None,
            Err(error) => break Some(Block::Unreadable(error.to_string())),
        }
    };
    send(Block::Lines(block));
    last.into_iter().for_each(send);
    Ok(())
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

/// The lines of a block, without their line breaks.
pub(in crate::audit) fn lines_of(block: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut from = 0;
    memchr::memchr_iter(b'\n', block).filter_map(move |end| {
        let line = block.get(from..end);
        from = end + 1;
        line
    })
}
