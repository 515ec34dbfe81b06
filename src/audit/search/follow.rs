//! Follows a chain while it is written: over rotation, a file that is compressed and removed, and one that is
//! cut back.
//!
//! Invariant: each whole line is told once, in the order of the chain, and half a line not before it is whole.
//! Where a file is not what it was, it is read on after the last line that still stands as it was read.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Item, What, alone, scan, what};
use crate::audit::folder::{AuditFile, Folder};

/// Where somebody is in a chain that goes on.
pub struct Follow {
    chain: Chain,
    at: At,
}

enum Chain {
    Folder(Folder),
    File(AuditFile),
}

enum At {
    /// The file of this number is read, and all before it.
    After(u64),
    In(Growing),
}

impl Follow {
    /// At the newest of the files of a path ([`super::files`]), none of whose lines were read.
    pub fn newest(path: &Path, files: &[AuditFile]) -> Self {
        let newest = files.last().map_or(0, |file| file.number.saturating_sub(1));
        Self {
            chain: if path.is_dir() {
                Chain::Folder(Folder::new(path))
            } else {
                Chain::File(alone(path))
            },
            at: At::After(newest),
        }
    }

    /// Tells what has come since the last time: each event that is asked for, and whatever is no event.
    ///
    /// # Errors
    /// What `each` says, and where a file cannot be read.
    pub fn advance(
        &mut self,
        mut takes: impl FnMut(&[u8]) -> bool,
        mut each: impl FnMut(Item) -> io::Result<()>,
    ) -> io::Result<()> {
        loop {
            if let At::In(growing) = &mut self.at {
                growing.advance(&mut takes, &mut each)?;
            }
            let Some(next) = self.next()? else {
                return Ok(());
            };
            if let At::In(growing) = &mut self.at {
                // Nothing more comes where another file has begun. It may have before.
                growing.advance(&mut takes, &mut each)?;
                growing.rest(&mut each)?;
            }
            if !self.enter(&next, &mut takes, &mut each)? {
                return Ok(());
            }
        }
    }

    fn next(&self) -> io::Result<Option<AuditFile>> {
        let current = match &self.at {
            At::After(number) => *number,
            At::In(growing) => growing.number,
        };
        let files = match &self.chain {
            Chain::Folder(folder) => folder.files()?,
            Chain::File(file) => vec![file.clone()],
        };
        Ok(files.into_iter().find(|file| file.number > current))
    }

    /// Goes on with another file; not where it is gone, just compressed and listed as that the next time.
    fn enter(
        &mut self,
        file: &AuditFile,
        takes: &mut impl FnMut(&[u8]) -> bool,
        each: &mut impl FnMut(Item) -> io::Result<()>,
    ) -> io::Result<bool> {
        if file.compressed {
            scan(file, false, takes, each)?;
            self.at = At::After(file.number);
            return Ok(true);
        }
        match File::open(&file.path) {
            Ok(open) => self.at = At::In(Growing::new(file, open)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }
}

/// A file that is being written.
struct Growing {
    number: u64,
    path: PathBuf,
    name: Arc<Path>,
    open: File,
    /// The ends of the last lines that were read.
    marks: VecDeque<Mark>,
}

/// The end of a line.
struct Mark {
    /// Behind its line break.
    end: u64,
    line: u64,
    /// Its last bytes, a MAC and more. By them it is known again.
    tail: Vec<u8>,
}

/// More lines than a disk that fails takes back.
const MARKS: usize = 4096;
/// The digits of a MAC, and what ends a line.
const TAIL: usize = 67;
const CHUNK: usize = 256 * 1024;
/// No line is longer.
const LONGEST: usize = 8 * 1024 * 1024;

impl Growing {
    fn new(file: &AuditFile, open: File) -> Self {
        Self {
            number: file.number,
            path: file.path.clone(),
            name: Arc::from(file.path.as_path()),
            open,
            marks: VecDeque::new(),
        }
    }

    fn advance(
        &mut self,
        takes: &mut impl FnMut(&[u8]) -> bool,
        each: &mut impl FnMut(Item) -> io::Result<()>,
    ) -> io::Result<()> {
        self.read(takes, each)?;
        let same = |found: &fs::Metadata, open: &fs::Metadata| {
            (found.dev(), found.ino()) == (open.dev(), open.ino())
        };
        // A file that is gone is compressed, or removed. It can still be read here.
        let Ok(found) = fs::metadata(&self.path) else {
            return Ok(());
        };
        if same(&found, &self.open.metadata()?) {
            return Ok(());
        }
        // Another one has its name. What came into the old one before that counts.
        self.read(takes, each)?;
        self.open = File::open(&self.path)?;
        self.read(takes, each)
    }

    /// Reads what follows the last mark that still holds.
    fn read(
        &mut self,
        takes: &mut impl FnMut(&[u8]) -> bool,
        each: &mut impl FnMut(Item) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut pending = Vec::new();
        loop {
            let (end, line) = self.place();
            let read = self.append(end, &mut pending)?;
            // Only now: what was read counts if it still stood behind the last mark after that.
            if self.go_back()? {
                pending.clear();
                self.tell(self.place().1, What::Changed, each)?;
                continue;
            }
            if read == 0 {
                return Ok(());
            }
            let whole = memchr::memrchr(b'\n', &pending).map_or(0, |at| at + 1);
            let length = if pending.len() > LONGEST {
                pending.len()
            } else {
                whole
            };
            let rest = pending.split_off(length);
            let mut at = (end, line);
            for text in pending.split_inclusive(|byte| *byte == b'\n') {
                at = (at.0 + u64::try_from(text.len()).unwrap_or(0), at.1 + 1);
                self.mark(at, text);
                let text = text.strip_suffix(b"\n").unwrap_or(text);
                if let Some(what) = what(text, &mut *takes) {
                    self.tell(at.1, what, each)?;
                }
            }
            pending = rest;
        }
    }

    /// Appends what the file has behind `end` and behind what is pending already.
    fn append(&self, end: u64, pending: &mut Vec<u8>) -> io::Result<usize> {
        let begin = pending.len();
        pending.resize(begin + CHUNK, 0);
        let from = end + u64::try_from(begin).unwrap_or(0);
        let read = self
            .open
            .read_at(pending.get_mut(begin..).unwrap_or_default(), from)?;
        pending.truncate(begin + read);
        Ok(read)
    }

    /// Tells what stands behind the last line break of a file to which nothing more comes.
    fn rest(&self, each: &mut impl FnMut(Item) -> io::Result<()>) -> io::Result<()> {
        let (end, line) = self.place();
        let mut rest = Vec::new();
        if self.append(end, &mut rest)? == 0 {
            return Ok(());
        }
        self.tell(line + 1, What::Torn(rest), each)
    }

    fn tell(
        &self,
        line: u64,
        what: What,
        each: &mut impl FnMut(Item) -> io::Result<()>,
    ) -> io::Result<()> {
        let file = Arc::clone(&self.name);
        each(Item { file, line, what })
    }

    /// Behind which byte it goes on, and how many lines are before that.
    fn place(&self) -> (u64, u64) {
        self.marks
            .back()
            .map_or((0, 0), |mark| (mark.end, mark.line))
    }

    fn mark(&mut self, (end, line): (u64, u64), text: &[u8]) {
        if self.marks.len() == MARKS {
            self.marks.pop_front();
        }
        let tail = text
            .get(text.len().saturating_sub(TAIL)..)
            .unwrap_or_default()
            .to_vec();
        self.marks.push_back(Mark { end, line, tail });
    }

    /// Gives up marks that do not hold any more; whether there were any.
    fn go_back(&mut self) -> io::Result<bool> {
        let mut gone = false;
        while let Some(mark) = self.marks.back() {
            let mut tail = vec![0; mark.tail.len()];
            let from = mark.end - u64::try_from(tail.len()).unwrap_or(0);
            match self.open.read_exact_at(&mut tail, from) {
                Ok(()) if tail == mark.tail => break,
                Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
                Ok(()) | Err(_) => {}
            }
            self.marks.pop_back();
            gone = true;
        }
        Ok(gone)
    }
}
