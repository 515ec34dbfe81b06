//! Reads a chain's lines in their order, from a cursor on and up to what is durable, while the chain is
//! written, its files are compressed and old ones are removed.
//!
//! Invariants: no line is passed on before it is durable, and none twice; lines that are missing are
//! counted. One batch is held, never a file.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    ops::Range,
};

use super::{
    batch::{Batch, Entry},
    cursor::Cursor,
    settings::{Bounds, What},
};
use crate::audit::{
    Durable,
    folder::{AuditFile, Folder, Lines, Next},
    line::Line,
};

/// What a checkpoint's line has and no other.
const CHECKPOINT: &str = "\"event\":\"checkpoint\"";
/// No line is longer (see [`Lines`]).
const LONGEST: u64 = 8 * 1024 * 1024;

/// Where reading is.
pub(super) struct Reader {
    folder: Folder,
    what: What,
    /// The last line that was read; none before the first.
    at: Option<Cursor>,
    open: Option<Open>,
    /// Lines that were removed before they were read, and were counted then.
    lost: Option<Range<u64>>,
}

/// A file that is being read. It stays open when its name goes: compressed or removed, its lines are
/// still to be had.
struct Open {
    number: u64,
    lines: Source,
    /// The number of the first line behind it, once that is written.
    end: Option<u64>,
}

enum Source {
    Compressed(Lines),
    /// As it was written, read up to this byte.
    Plain(File, u64),
}

/// What becomes of reading after a line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The next line, if there is one.
    Next,
    /// The batch is full.
    Full,
    /// The rest of the file does not count, or there is none.
    Over,
}

impl Reader {
    pub(super) const fn new(folder: Folder, what: What, at: Option<Cursor>) -> Self {
        Self {
            folder,
            what,
            at,
            open: None,
            lost: None,
        }
    }

    /// The next lines, as far as they are durable. Blocks.
    ///
    /// # Errors
    /// Where a file cannot be read; nothing is passed over then, and it can be tried again.
    pub(super) fn next(&mut self, durable: Durable, bounds: Bounds) -> io::Result<Batch> {
        // Where it fails the file is opened anew the next time, and read up to the same line.
        self.gather(durable, bounds)
    }

    /// How many lines were removed before they were read, that nobody was told of yet. Blocks.
    pub(super) fn removed(&mut self) -> io::Result<u64> {
        let Some(at) = self.at else { return Ok(0) };
        let files = self.folder.files()?;
        let reading = self.open.as_ref().map_or(at.file, |open| open.number);
        let Some(oldest) = files.first().filter(|oldest| oldest.number > reading) else {
            return Ok(0);
        };
        let first = self.open(oldest.number)?.lines.first()?;
        let from = match (&self.lost, &self.open) {
            (Some(lost), _) => Some(lost.start),
            // What is open is still to be had.
            (None, Some(open)) => open.end.or(open.lines.end(at.seq + 1)?),
            (None, None) => Some(at.seq + 1),
        };
        let (Some(first), Some(from)) = (first, from) else {
            return Ok(0);
        };
        let told = self.lost.as_ref().map_or(from, |lost| lost.end);
        let end = first.max(told);
        self.lost = Some(from..end);
        Ok(end - told)
    }

    fn gather(&mut self, durable: Durable, bounds: Bounds) -> io::Result<Batch> {
        if self.at.is_some_and(|at| at.seq >= durable.seq) {
            return Ok(Batch::default());
        }
        let Some(mut open) = self.take_or_open(durable)? else {
            return Ok(Batch::default());
        };
        let closed = open.number < durable.file;
        // What a failed write left at the end of a file does not count, and its numbers were given
        // again: to the lines of the next file.
        let next = closed.then(|| self.first_after(open.number)).transpose()?;
        open.end = next.as_ref().map(|(_, seq)| *seq);
        let limit = if closed { u64::MAX } else { durable.bytes };
        let mut gathered = Gathered {
            at: self.at,
            what: self.what,
            file: open.number,
            end: open.end,
            bounds,
            bytes: Vec::new(),
            lines: Vec::new(),
            missing: 0,
            counted: self.lost.clone().unwrap_or_default(),
        };
        let step = open.lines.each(limit, |line| gathered.take(line))?;
        self.at = gathered.at;
        let passed = |lost: &Range<u64>| self.at.is_some_and(|at| at.seq >= lost.end);
        if self.lost.as_ref().is_some_and(passed) {
            self.lost = None;
        }
        self.open = match next {
            Some((next, _)) if step == Step::Over => Some(next),
            _ => Some(open),
        };
        Ok(gathered.batch(step == Step::Full || closed))
    }

    /// The file in which the next line is, from its beginning where it is not open yet.
    fn take_or_open(&mut self, durable: Durable) -> io::Result<Option<Open>> {
        if let Some(open) = self.open.take() {
            return Ok(Some(open));
        }
        let from = self.at.map_or(0, |at| at.file);
        let files = self.folder.files()?;
        let mut wanted = (files.iter().map(|file| file.number)).filter(|number| *number >= from);
        match wanted.next() {
            Some(number) if number <= durable.file => self.open(number).map(Some),
            _ => Ok(None),
        }
    }

    /// The next file after this one that has a line, and the number of that line.
    fn first_after(&self, number: u64) -> io::Result<(Open, u64)> {
        for file in self.folder.files()? {
            if file.number <= number {
                continue;
            }
            let mut first = None;
            let mut open = self.open(file.number)?;
            open.lines.each(u64::MAX, |line| {
                first = Line::parse(line).map(|line| line.seq);
                if first.is_some() {
                    Step::Full
                } else {
                    Step::Next
                }
            })?;
            if let Some(first) = first {
                return Ok((self.open(file.number)?, first));
            }
        }
        // It was written already, so it is there: this was a moment between two names.
        Err(io::ErrorKind::NotFound.into())
    }

    fn open(&self, number: u64) -> io::Result<Open> {
        let files = self.folder.files()?.into_iter();
        let file = files.into_iter().find(|file| file.number == number);
        let file = file.ok_or(io::ErrorKind::NotFound)?;
        let lines = match Source::open(&file) {
            // It was compressed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let files = self.folder.files()?.into_iter();
                let file = files.into_iter().find(|file| file.number == number);
                Source::open(&file.ok_or(io::ErrorKind::NotFound)?)?
            }
            other => other?,
        };
        Ok(Open {
            number,
            lines,
            end: None,
        })
    }
}

/// A batch while it is read.
struct Gathered {
    at: Option<Cursor>,
    what: What,
    file: u64,
    /// From which number on lines do not count.
    end: Option<u64>,
    bounds: Bounds,
    bytes: Vec<u8>,
    lines: Vec<Entry>,
    missing: u64,
    /// Which of those that are missing were counted before.
    counted: Range<u64>,
}

impl Gathered {
    /// Takes a line, if it is one that is sent.
    fn take(&mut self, line: &[u8]) -> Step {
        // What is no line has no number. It is missed when the next one has too high a number.
        let Some(parsed) = Line::parse(line) else {
            return Step::Next;
        };
        let seq = parsed.seq;
        if self.end.is_some_and(|end| seq >= end) {
            return Step::Over;
        }
        let expected = self.at.map_or(seq, |at| at.seq + 1);
        let Some(missing) = seq.checked_sub(expected) else {
            return Step::Next;
        };
        let counted = self
            .counted
            .end
            .min(seq)
            .saturating_sub(self.counted.start.max(expected));
        self.missing += missing - counted;
        let at = Cursor {
            seq,
            file: self.file,
        };
        self.at = Some(at);
        if self.what == What::Events || parsed.has(CHECKPOINT) {
            self.bytes.extend_from_slice(line);
            self.bytes.push(b'\n');
            let end = self.bytes.len();
            self.lines.push(Entry { at, end });
        }
        if self.lines.len() >= self.bounds.lines || self.bytes.len() >= self.bounds.bytes {
            return Step::Full;
        }
        Step::Next
    }

    fn batch(self, more: bool) -> Batch {
        Batch {
            bytes: self.bytes.into(),
            lines: self.lines,
            through: self.at,
            missing: self.missing,
            more,
        }
    }
}

impl Source {
    fn open(file: &AuditFile) -> io::Result<Self> {
        if file.compressed {
            return Ok(Self::Compressed(file.lines()?));
        }
        Ok(Self::Plain(File::open(&file.path)?, 0))
    }

    /// The number of its first line.
    fn first(&mut self) -> io::Result<Option<u64>> {
        let mut first = None;
        self.each(u64::MAX, |line| {
            first = Line::parse(line).map(|line| line.seq);
            Step::Full
        })?;
        Ok(first)
    }

    /// The number behind its last line, where that can be looked for without reading on. The next one is known.
    fn end(&self, next: u64) -> io::Result<Option<u64>> {
        let Self::Plain(file, offset) = self else {
            return Ok(None);
        };
        let mut end = next;
        Self::Plain(file.try_clone()?, *offset).each(u64::MAX, |line| {
            end = Line::parse(line).map_or(end, |line| line.seq + 1);
            Step::Next
        })?;
        Ok(Some(end))
    }

    /// Hands over each whole line up to this byte, until one says otherwise; it can be gone on after it.
    fn each(&mut self, limit: u64, mut take: impl FnMut(&[u8]) -> Step) -> io::Result<Step> {
        match self {
            Self::Compressed(lines) => {
                while let Some(Next::Line(line)) = lines.next_line()? {
                    let step = take(line);
                    if step != Step::Next {
                        return Ok(step);
                    }
                }
            }
            Self::Plain(file, offset) => {
                file.seek(SeekFrom::Start(*offset))?;
                let mut reader = BufReader::new(file.take(limit.saturating_sub(*offset)));
                let mut line = Vec::new();
                loop {
                    line.clear();
                    let read = (&mut reader).take(LONGEST).read_until(b'\n', &mut line)?;
                    let Some(whole) = line.strip_suffix(b"\n") else {
                        break;
                    };
                    *offset += u64::try_from(read).unwrap_or(u64::MAX);
                    let step = take(whole);
                    if step != Step::Next {
                        return Ok(step);
                    }
                }
            }
        }
        Ok(Step::Over)
    }
}
