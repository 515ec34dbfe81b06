//! How far the second place has the chain: `ship.cursor` in the chain's folder.
//!
//! Invariant: the file is whole or the one before it, whatever ends the process; it is replaced only
//! after the receiver took the lines.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::{audit::folder::Folder, ident::NodeId};

const NAME: &str = "ship.cursor";
/// Longer than any of ours.
const LONGEST: u64 = 1024;

/// The last line that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    /// Its number.
    pub(super) seq: u64,
    /// The file that it is in.
    pub(super) file: u64,
}

/// Why there is no cursor to go on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoCursor {
    /// It is no cursor, or not readable.
    Damaged,
    /// It is of another node's chain.
    Foreign,
    /// There is none: nothing was sent yet.
    Missing,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    v: u8,
    node: String,
    seq: u64,
    file: u64,
}

/// Reads it.
pub(super) fn read(folder: &Folder, node: &NodeId) -> Result<Cursor, NoCursor> {
    let file = match File::open(folder.path().join(NAME)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(NoCursor::Missing),
        Err(_) => return Err(NoCursor::Damaged),
    };
    let limited = io::Read::take(file, LONGEST);
    let written: Written = serde_json::from_reader(limited).map_err(|_| NoCursor::Damaged)?;
    let Written { seq, file, .. } = written;
    if written.v != 1 || file == 0 {
        return Err(NoCursor::Damaged);
    }
    if written.node != node.as_str() {
        return Err(NoCursor::Foreign);
    }
    Ok(Cursor { seq, file })
}

/// Replaces it; it is on the disk when this returns.
pub(super) fn write(folder: &Folder, node: &NodeId, cursor: Cursor) -> io::Result<()> {
    let written = Written {
        v: 1,
        node: node.to_string(),
        seq: cursor.seq,
        file: cursor.file,
    };
    let mut file = NamedTempFile::with_prefix_in(".ship.cursor-", folder.path())?;
    file.write_all(&serde_json::to_vec(&written)?)?;
    file.as_file().sync_all()?;
    file.persist(folder.path().join(NAME))?;
    sync_folder(folder.path())
}

/// Removes what an earlier process left of a cursor that it did not finish.
pub(super) fn tidy(folder: &Folder) -> io::Result<()> {
    for entry in fs::read_dir(folder.path())? {
        let entry = entry?;
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with(".ship.cursor-")
        {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_back_and_anything_else_is_none() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::new(temp.path());
        let node = NodeId::try_from("gw-1").unwrap();
        assert_eq!(read(&folder, &node), Err(NoCursor::Missing));
        let cursor = Cursor { seq: 17, file: 2 };
        write(&folder, &node, Cursor { seq: 9, file: 1 }).unwrap();
        write(&folder, &node, cursor).unwrap();
        assert_eq!(read(&folder, &node), Ok(cursor));
        let other = NodeId::try_from("gw-2").unwrap();
        assert_eq!(read(&folder, &other), Err(NoCursor::Foreign));
        let path = temp.path().join(NAME);
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(read(&folder, &node), Err(NoCursor::Damaged), "{length}");
        }
        fs::write(temp.path().join(".ship.cursor-x"), "").unwrap();
        tidy(&folder).unwrap();
        let left = fs::read_dir(temp.path()).unwrap().count();
        assert_eq!(left, 1);
    }
}
