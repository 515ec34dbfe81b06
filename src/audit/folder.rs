//! The folder of one chain: files of lines, named by their number, compressed once they are closed.
//!
//! ```text
//! audit-00000001.jsonl.zst   closed
//! audit-00000002.jsonl       being written
//! audit-00000002.torn-…      what a start set aside: half a line of a crash, or lines that were damaged
//! ```

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

/// The folder of a chain.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

/// One file of a chain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuditFile {
    /// Its number, from 1.
    pub number: u64,
    /// Whether it is closed and compressed with zstd.
    pub compressed: bool,
    /// Where it is.
    pub path: PathBuf,
}

impl Folder {
    /// The folder at this path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where the file of this number is while it is being written.
    pub(super) fn plain(&self, number: u64) -> PathBuf {
        self.0.join(format!("audit-{number:08}.jsonl"))
    }

    /// Its files in the order of their numbers. A file that is there both ways, because it is just being
    /// compressed, is there once, as it was written.
    ///
    /// # Errors
    /// Where the folder cannot be read.
    pub fn files(&self) -> io::Result<Vec<AuditFile>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            files.extend(AuditFile::at(&entry?.path()));
        }
        files.sort();
        files.dedup_by_key(|file| file.number);
        Ok(files)
    }

    /// What was set aside of its files up to this number.
    pub(super) fn set_aside(&self, through: u64) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let of =
                name.and_then(|name| number(name).filter(|(_, rest)| rest.starts_with("torn-")));
            if of.is_some_and(|(number, _)| number <= through) {
                found.push(path);
            }
        }
        Ok(found)
    }
}

/// The number in a file's name, and what stands behind it.
fn number(name: &str) -> Option<(u64, &str)> {
    let (digits, ending) = name.strip_prefix("audit-")?.split_once('.')?;
    let plain = digits.len() >= 8 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.parse().ok().filter(|number| plain && *number > 0);
    Some((number?, ending))
}

impl AuditFile {
    /// The file at this path, if its name is one of a chain's files.
    pub fn at(path: &Path) -> Option<Self> {
        let (number, ending) = number(path.file_name()?.to_str()?)?;
        let compressed = match ending {
            "jsonl" => false,
            "jsonl.zst" => true,
            _ => return None,
        };
        Some(Self {
            number,
            compressed,
            path: path.to_owned(),
        })
    }

    /// Its lines from the beginning.
    ///
    /// # Errors
    /// Where it cannot be opened.
    pub fn lines(&self) -> io::Result<Lines> {
        let file = File::open(&self.path)?;
        let reader: Box<dyn BufRead + Send> = if self.compressed {
            Box::new(BufReader::with_capacity(BUFFER, zstd::Decoder::new(file)?))
        } else {
            Box::new(BufReader::with_capacity(BUFFER, file))
        };
        Ok(Lines {
            reader,
            line: Vec::new(),
        })
    }
}

const BUFFER: usize = 256 * 1024;
/// No line is longer: the longest event has the names of all fields, two images and every pseudonym; a
/// checkpoint or the first line of a file may list all requests that are under way.
const LONGEST: u64 = 8 * 1024 * 1024;

/// The lines of a file, one at a time.
pub struct Lines {
    reader: Box<dyn BufRead + Send>,
    line: Vec<u8>,
}

/// What a file has next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// A line, without its line break.
    Line(&'a [u8]),
    /// The rest of the file, which no line break ends.
    Torn(&'a [u8]),
}

impl Lines {
    /// The next line; nothing at the end. A line of more than 8 MiB is torn.
    ///
    /// # Errors
    /// Where the file cannot be read or decompressed.
    pub fn next_line(&mut self) -> io::Result<Option<Next<'_>>> {
        self.line.clear();
        let mut limited = io::Read::take(&mut self.reader, LONGEST);
        if limited.read_until(b'\n', &mut self.line)? == 0 {
            return Ok(None);
        }
        Ok(Some(match self.line.strip_suffix(b"\n") {
            Some(line) => Next::Line(line),
            None => Next::Torn(&self.line),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_names_alone_and_read_either_way() {
        let folder = tempfile::tempdir().unwrap();
        let text = b"one\ntwo\nhal";
        let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
        write("audit-00000010.jsonl", text);
        write(
            "audit-00000009.jsonl.zst",
            &zstd::encode_all(&text[..], 3).unwrap(),
        );
        write("audit-00000009.jsonl", text);
        for other in [
            "audit-1.jsonl",
            "audit-0000000x.jsonl",
            "audit-00000011.jsonl.zst.part",
        ] {
            write(other, b"");
        }
        let files = Folder::new(folder.path()).files().unwrap();
        let found: Vec<_> = files.iter().map(|f| (f.number, f.compressed)).collect();
        assert_eq!(found, [(9, false), (10, false)]);
        for name in ["audit-00000010.jsonl", "audit-00000009.jsonl.zst"] {
            let file = AuditFile::at(&folder.path().join(name)).unwrap();
            let mut lines = file.lines().unwrap();
            assert_eq!(lines.next_line().unwrap(), Some(Next::Line(b"one")));
            assert_eq!(lines.next_line().unwrap(), Some(Next::Line(b"two")));
            assert_eq!(lines.next_line().unwrap(), Some(Next::Torn(b"hal")));
            assert_eq!(lines.next_line().unwrap(), None);
        }
    }
}
