//! Reads the addresses of a CSV file, each with its line as an editor shows it.
//!
//! Invariant: a file of any size is read in the memory of one batch; what cannot be told for sure
//! (another separator, another encoding, a quote left open) stops the reading, and is never guessed.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, ErrorKind},
    mem,
    path::Path,
};

use csv_core::{ReadRecordResult, Terminator};
use memchr::memchr2;
use thiserror::Error;

use crate::{customer::import::BATCH, payload::email::is_mailbox};

/// Most bytes of a record, which quotes may spread over lines.
const MAX_RECORD: usize = 64 * 1024;

/// Most columns.
const MAX_COLUMNS: usize = 1024;

/// Why a file is not read on; each says what to mend.
#[derive(Debug, Error)]
pub enum Flaw {
    /// Nothing stands in it.
    #[error("the file is empty")]
    Empty,
    /// The first line has several columns, and none that is known.
    #[error("the first line names no column `email`; add one")]
    NoColumn,
    /// The first line is neither.
    #[error(
        "the first line is neither a header with `email` nor an address; write the header, or mend \
         the address"
    )]
    NoHeader,
    /// Nothing follows the header, or what was asked to be passed over.
    #[error("no customer stands in it from line {from} on; its last line is {last}")]
    Nothing {
        /// The line to begin with.
        from: u64,
        /// The last one.
        last: u64,
    },
    /// Another character than the comma seems to stand between the columns.
    #[error("its columns seem to be separated by {0}; save it with commas")]
    Separator(&'static str),
    /// A quote has no end.
    #[error("the quote that opens in line {0} is not closed; mend it")]
    Quote(u64),
    /// It cannot be read.
    #[error("it cannot be read ({0})")]
    Read(#[from] io::Error),
    /// Too long to be a customer.
    #[error("line {0} is longer than 64 KiB, or has more than 1,024 columns; mend or remove it")]
    TooLong(u64),
    /// The header names two columns.
    #[error("its header names `email` more than once; rename the others")]
    TwoColumns,
    /// Another encoding.
    #[error("it is not in UTF-8 but seems to be in UTF-16; save it as CSV in UTF-8")]
    Utf16,
}

/// One line of a file. It has no `Debug`: it holds a person's address.
pub(super) struct Line {
    pub(super) number: u64,
    /// Nothing where there is none.
    pub(super) email: Option<String>,
}

/// A file that is being read.
pub(super) struct Lines {
    records: Records,
    column: usize,
    from: u64,
    /// The first line, where it is an address and no header.
    first: Option<Line>,
    /// The line that comes next.
    next: u64,
    any: bool,
}

impl Lines {
    /// Opens a file and finds its column.
    pub(super) fn open(path: &Path, from: u64) -> Result<Self, Flaw> {
        let mut records = Records::open(path)?;
        let number = records.read()?.ok_or(Flaw::Empty)?;
        let fields: Vec<&[u8]> = records.fields().collect();
        let mut named = fields.iter().enumerate().filter(|(_, f)| is_header(f));
        let (column, first) = match (named.next(), named.next(), &fields[..]) {
            (Some(_), Some(_), _) => return Err(Flaw::TwoColumns),
            (Some((column, _)), None, _) => (column, None),
            (None, _, [field]) => match address(field) {
                None => return Err(separator(field).unwrap_or(Flaw::NoHeader)),
                email => (0, Some(Line { number, email })),
            },
            (None, _, fields) => {
                let hint = fields.iter().find_map(|field| separator(field));
                return Err(hint.unwrap_or(Flaw::NoColumn));
            }
        };
        Ok(Self {
            next: first.as_ref().map_or(records.line + 1, |line| line.number),
            records,
            column,
            from,
            first,
            any: false,
        })
    }

    /// Where to go on if nothing of what comes next is done.
    pub(super) fn next_line(&self) -> u64 {
        self.next.max(self.from)
    }

    /// How many bytes there are, where that is known.
    pub(super) const fn size(&self) -> Option<u64> {
        self.records.size
    }

    /// How many bytes have been read.
    pub(super) const fn position(&self) -> u64 {
        self.records.bytes
    }

    /// The next lines, as many as are done at once; none at the end. What stops the reading comes
    /// after the lines before it.
    pub(super) fn batch(&mut self) -> (Vec<Line>, Option<Flaw>) {
        let mut batch = Vec::new();
        while batch.len() < BATCH {
            match self.line() {
                Ok(Some(line)) => batch.push(line),
                Ok(None) => break,
                Err(flaw) => return (batch, Some(flaw)),
            }
        }
        (batch, None)
    }

    fn line(&mut self) -> Result<Option<Line>, Flaw> {
        loop {
            let line = match self.first.take() {
                Some(line) => line,
                None => match self.records.read()? {
                    Some(number) => Line {
                        number,
                        email: self.records.fields().nth(self.column).and_then(address),
                    },
                    None if self.any => return Ok(None),
                    None => {
                        let (from, last) = (self.from, self.records.line);
                        return Err(Flaw::Nothing { from, last });
                    }
                },
            };
            self.next = self.records.line + 1;
            if line.number >= self.from {
                self.any = true;
                return Ok(Some(line));
            }
        }
    }
}

fn address(field: &[u8]) -> Option<String> {
    let email = str::from_utf8(field).ok()?.trim();
    is_mailbox(email).then(|| email.to_owned())
}

/// Whether a field of the first line says that its column holds addresses.
fn is_header(field: &[u8]) -> bool {
    field.trim_ascii().eq_ignore_ascii_case(b"email")
}

/// What seems to stand between columns in a field that should have been several.
fn separator(field: &[u8]) -> Option<Flaw> {
    [(b';', "semicolons"), (b'\t', "tabs"), (b'|', "bars")]
        .into_iter()
        .find(|(byte, _)| field.contains(byte))
        .map(|(_, name)| Flaw::Separator(name))
}

/// The records of a file.
struct Records {
    file: BufReader<File>,
    size: Option<u64>,
    bytes: u64,
    /// The number of the line that was read last.
    line: u64,
    /// The last line ended with CR, to which an LF may belong.
    after_cr: bool,
    /// That line.
    text: Vec<u8>,
    parser: csv_core::Reader,
    /// The last record's fields, one behind the other: [`MAX_RECORD`] bytes.
    content: Vec<u8>,
    /// Where each of them ends: [`MAX_COLUMNS`] places of 8 bytes.
    ends: Vec<usize>,
    columns: usize,
}

impl Records {
    fn open(path: &Path) -> Result<Self, Flaw> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        let mut parser = csv_core::ReaderBuilder::new();
        Ok(Self {
            file: BufReader::new(file),
            size: metadata.is_file().then_some(metadata.len()),
            bytes: 0,
            line: 0,
            after_cr: false,
            text: Vec::new(),
            parser: parser.terminator(Terminator::Any(b'\n')).build(),
            content: vec![0; MAX_RECORD],
            ends: vec![0; MAX_COLUMNS],
            columns: 0,
        })
    }

    /// The fields of the last record.
    fn fields(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().take(self.columns).map(move |end| {
            let field = self.content.get(start..*end).unwrap_or_default();
            start = *end;
            field
        })
    }

    /// Reads the next record; the number of its first line, or nothing at the end. Lines that hold
    /// nothing are passed over.
    fn read(&mut self) -> Result<Option<u64>, Flaw> {
        let (mut written, mut opened, mut start) = (0, 0, None);
        self.columns = 0;
        while self.read_line(start.map(|_| opened))? {
            if start.is_none() && self.text.trim_ascii().is_empty() {
                continue;
            }
            let (content, ends) = (
                self.content.get_mut(written..).unwrap_or_default(),
                self.ends.get_mut(self.columns..).unwrap_or_default(),
            );
            self.text.push(b'\n');
            let (result, _, bytes, fields) = self.parser.read_record(&self.text, content, ends);
            written += bytes;
            self.columns += fields;
            let first = *start.get_or_insert(self.line);
            match result {
                ReadRecordResult::Record => return Ok(Some(first)),
                // Only within quotes does a line's end not end the record.
                ReadRecordResult::InputEmpty | ReadRecordResult::End => {
                    if first == self.line || fields > 0 {
                        opened = self.line;
                    }
                }
                ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => {
                    return Err(too_long(self.line, (first != self.line).then_some(opened)));
                }
            }
        }
        start.map_or(Ok(None), |_| Err(Flaw::Quote(opened)))
    }

    /// Reads a line, without its end: LF, CR LF, or CR alone. False at the end of the file.
    fn read_line(&mut self, quoted_since: Option<u64>) -> Result<bool, Flaw> {
        self.text.clear();
        let mut begun = false;
        loop {
            let piece = match self.file.fill_buf() {
                Ok(piece) => piece,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            if piece.is_empty() {
                break;
            }
            if mem::take(&mut self.after_cr) && piece.first() == Some(&b'\n') {
                self.consume(1);
                continue;
            }
            if !begun {
                (begun, self.line) = (true, self.line + 1);
            }
            let (text, end) = match memchr2(b'\r', b'\n', piece) {
                Some(at) => piece.split_at_checked(at).unwrap_or_default(),
                None => (piece, &[][..]),
            };
            let (room, taken) = (MAX_RECORD.saturating_sub(self.text.len()), text.len());
            if taken >= room {
                return Err(too_long(self.line, quoted_since));
            }
            self.text.extend_from_slice(text);
            let ended = !end.is_empty();
            self.after_cr = end.first() == Some(&b'\r');
            self.consume(taken + usize::from(ended));
            if ended {
                break;
            }
        }
        self.check_first()?;
        Ok(begun)
    }

    /// The encoding shows in the first line; spreadsheets put a mark in front of it.
    fn check_first(&mut self) -> Result<(), Flaw> {
        if self.line > 1 {
            return Ok(());
        }
        if self.text.starts_with(b"\xEF\xBB\xBF") {
            self.text.drain(..3);
        }
        let utf16 = [b"\xFF\xFE", b"\xFE\xFF"];
        let marked = utf16.iter().any(|mark| self.text.starts_with(*mark));
        if marked || self.text.contains(&0) {
            return Err(Flaw::Utf16);
        }
        Ok(())
    }

    fn consume(&mut self, bytes: usize) {
        self.file.consume(bytes);
        self.bytes += u64::try_from(bytes).unwrap_or(0);
    }
}

const fn too_long(line: u64, quoted_since: Option<u64>) -> Flaw {
    match quoted_since {
        Some(opened) => Flaw::Quote(opened),
        None => Flaw::TooLong(line),
    }
}
