//! Reading events for people: those that somebody asks for, and all of one person.
//!
//! Decided on the bytes of a line, before any JSON is read: a member has one form ([`super::line`]), and a
//! quotation mark inside of a value is escaped, so that `"tenant":"acme"` stands where it is that member and
//! nowhere else.
//!
//! Invariant: of a person nothing but pseudonyms is looked for, and whatever a file holds is an [`Item`].

pub mod follow;

use std::{
    collections::{HashSet, VecDeque},
    fmt::Display,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use memchr::memmem::Finder;

use super::{
    folder::{AuditFile, Folder, Lines, Next},
    line::Line,
};
use crate::ident::{RequestId, TenantId};

/// Something in a file, and where it stands there.
#[derive(Debug)]
pub struct Item {
    /// The file.
    pub file: Arc<Path>,
    /// The line, from 1.
    pub line: u64,
    /// What it is.
    pub what: What,
}

/// What stands in a file.
#[derive(Debug)]
pub enum What {
    /// A line with the form of an event's; whether it is whole and true is for `audit verify` to say.
    Event(Vec<u8>),
    /// A line that is none.
    Stray(Vec<u8>),
    /// The rest of a file, which no line break ends.
    Torn(Vec<u8>),
    /// The file cannot be read on.
    Unreadable(io::Error),
    /// What was read after this line is not in the file any more.
    Changed,
}

/// Which events are asked for: those that have everything that was named.
#[derive(Debug)]
pub struct Filter {
    members: Vec<Finder<'static>>,
    upkeep: Vec<Finder<'static>>,
    since: Option<Timestamp>,
    time: Finder<'static>,
}

impl Filter {
    /// All events, but for those about the chain itself that come all the time.
    pub fn new() -> Self {
        let member = |name| Finder::new(&needle("event", name)).into_owned();
        Self {
            members: Vec::new(),
            upkeep: ["checkpoint", "file_opened"].map(member).into(),
            since: None,
            time: text_member("time"),
        }
    }

    /// Those too.
    #[must_use]
    pub fn with_upkeep(mut self) -> Self {
        self.upkeep.clear();
        self
    }

    /// Those alone in which this member has this value.
    #[must_use]
    pub fn having(mut self, member: &str, value: &str) -> Self {
        let needle = needle(member, value);
        self.members.push(Finder::new(&needle).into_owned());
        self
    }

    /// Those alone that are not older.
    #[must_use]
    pub fn since(mut self, since: Timestamp) -> Self {
        self.since = Some(since);
        self
    }

    /// Whether it is one of these events.
    pub fn takes(&self, line: &[u8]) -> bool {
        let has = |member: &Finder<'_>| member.find(line).is_some();
        let recent = |since| self.time_of(line).is_some_and(|time| time >= since);
        self.members.iter().all(has)
            && !self.upkeep.iter().any(has)
            && self.since.is_none_or(recent)
    }

    fn time_of(&self, line: &[u8]) -> Option<Timestamp> {
        str::from_utf8(value(line, &self.time)?).ok()?.parse().ok()
    }

    /// The files that may hold such events: from the last one on that begins before the time that is asked for.
    pub fn narrow<'a>(&self, files: &'a [AuditFile]) -> &'a [AuditFile] {
        let Some(since) = self.since else {
            return files;
        };
        let begins_before = |file: &AuditFile| {
            let mut lines = open(file).ok()??;
            let Ok(Some(Next::Line(line))) = lines.next_line() else {
                return None;
            };
            Some(self.time_of(line)? < since)
        };
        let first = files
            .iter()
            .rposition(|file| begins_before(file) == Some(true));
        files.get(first.unwrap_or(0)..).unwrap_or_default()
    }
}

impl Default for Filter {
    fn default() -> Self {
        Self::new()
    }
}

/// All of one person, of one image, or of one request.
pub struct Person {
    member: Finder<'static>,
    /// Under each key and in each tenant's name.
    values: HashSet<Vec<u8>>,
    /// In whose name alone.
    tenant: Option<Finder<'static>>,
    request: Finder<'static>,
    /// The requests that were found: as many as events are printed.
    requests: HashSet<Vec<u8>>,
}

/// In which member a person stands, or an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// As the customer.
    Customer,
    /// By an image's digest.
    Image,
    /// By the caller's reference.
    Reference,
    /// As the token's subject.
    Subject,
}

impl Person {
    /// Whoever has one of these pseudonyms, or which has one of these digests.
    pub fn new(role: Role, values: impl IntoIterator<Item: Display>) -> Self {
        let values = values.into_iter();
        Self {
            member: text_member(match role {
                Role::Customer => "customer",
                Role::Image => "digest",
                Role::Reference => "reference",
                Role::Subject => "subject",
            }),
            values: values.map(|v| v.to_string().into_bytes()).collect(),
            tenant: None,
            request: text_member("request_id"),
            requests: HashSet::new(),
        }
    }

    /// Whoever it was, one request.
    pub fn of_request(id: RequestId) -> Self {
        let mut nobody = Self::new(Role::Customer, [""; 0]);
        nobody.requests.insert(id.to_string().into_bytes());
        nobody
    }

    /// In this tenant's name alone: a digest, other than a pseudonym, is the same in all.
    #[must_use]
    pub fn of_tenant(mut self, tenant: &TenantId) -> Self {
        let needle = needle("tenant", tenant.as_str());
        self.tenant = Some(Finder::new(&needle).into_owned());
        self
    }

    /// Whether an event is the person's: it has one of the pseudonyms, or the id of a request that had one
    /// in an earlier line. What ends a request after a crash has nothing but that id.
    pub fn is_in(&mut self, line: &[u8]) -> bool {
        let tenant = self.tenant.as_ref();
        let named = values(line, &self.member).any(|it| self.values.contains(it))
            && tenant.is_none_or(|tenant| tenant.find(line).is_some());
        if !named && self.requests.is_empty() {
            return false;
        }
        let request = value(line, &self.request);
        if let Some(id) = request.filter(|_| named) {
            self.requests.insert(id.to_vec());
        }
        named || request.is_some_and(|id| self.requests.contains(id))
    }
}

/// The text of a member of this name and value.
fn needle(member: &str, value: &str) -> String {
    format!("\"{member}\":{}", serde_json::Value::from(value))
}

/// Finds what stands before the text of a member.
fn text_member(name: &str) -> Finder<'static> {
    Finder::new(&format!("\"{name}\":\"")).into_owned()
}

/// The text of a member, as it stands in the line.
fn value<'a>(line: &'a [u8], member: &Finder<'_>) -> Option<&'a [u8]> {
    values(line, member).next()
}

/// The same of a member that more than one object of the line may have.
fn values<'a>(line: &'a [u8], member: &Finder<'_>) -> impl Iterator<Item = &'a [u8]> {
    let found = member.find_iter(line);
    found.filter_map(move |at| {
        let rest = line.get(at + member.needle().len()..)?;
        rest.get(..memchr::memchr(b'"', rest)?)
    })
}

/// The files at a path that a person names: those of a chain's folder, or the one that it is.
///
/// # Errors
/// Where nothing can be read there.
pub fn files(path: &Path) -> io::Result<Vec<AuditFile>> {
    if fs::metadata(path)?.is_dir() {
        return Folder::new(path).files();
    }
    Ok(vec![alone(path)])
}

/// One file by itself, whatever its name.
fn alone(path: &Path) -> AuditFile {
    AuditFile {
        number: 1,
        compressed: path.extension().is_some_and(|ending| ending == "zst"),
        path: path.to_owned(),
    }
}

/// The lines of a file that may have been compressed since it was listed; nothing where it was removed.
fn open(file: &AuditFile) -> io::Result<Option<Lines>> {
    let missing = |result: &io::Result<Lines>| {
        let error = result.as_ref().err();
        error.is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
    };
    let mut lines = file.lines();
    if missing(&lines) && !file.compressed {
        let compressed = AuditFile {
            compressed: true,
            path: PathBuf::from(format!("{}.zst", file.path.display())),
            number: file.number,
        };
        lines = compressed.lines();
    }
    if missing(&lines) {
        return Ok(None);
    }
    lines.map(Some)
}

/// Tells of each event of a file that is asked for, and of whatever is no event. Returns how many lines
/// it has. The end of a file that is being written may be half a line, which is nothing yet.
///
/// # Errors
/// What `each` says.
pub fn scan(
    file: &AuditFile,
    being_written: bool,
    mut takes: impl FnMut(&[u8]) -> bool,
    mut each: impl FnMut(Item) -> io::Result<()>,
) -> io::Result<u64> {
    let (mut count, name) = (0, Arc::from(file.path.as_path()));
    let mut tell = |line, what| {
        let file = Arc::clone(&name);
        each(Item { file, line, what })
    };
    let mut lines = match open(file) {
        Ok(Some(lines)) => lines,
        Ok(None) => return Ok(0),
        Err(error) => return tell(0, What::Unreadable(error)).map(|()| 0),
    };
    loop {
        let what = match lines.next_line() {
            Ok(Some(Next::Line(line))) => what(line, &mut takes),
            Ok(Some(Next::Torn(_))) if being_written && !file.compressed => return Ok(count),
            Ok(Some(Next::Torn(rest))) => Some(What::Torn(rest.to_vec())),
            Ok(None) => return Ok(count),
            Err(error) => return tell(count + 1, What::Unreadable(error)).map(|()| count),
        };
        count += 1;
        if let Some(what) = what {
            tell(count, what)?;
        }
    }
}

/// What a line is, unless it is an event that nobody asks for.
fn what(line: &[u8], takes: impl FnOnce(&[u8]) -> bool) -> Option<What> {
    if Line::parse(line).is_none() {
        return Some(What::Stray(line.to_vec()));
    }
    takes(line).then(|| What::Event(line.to_vec()))
}

/// The last of many items, as many as there is room for.
#[derive(Debug)]
pub struct Latest {
    items: VecDeque<Item>,
    room: usize,
}

impl Latest {
    /// Nothing yet.
    pub const fn new(room: usize) -> Self {
        Self {
            items: VecDeque::new(),
            room,
        }
    }

    /// One more, in the place of the first where there is no room.
    pub fn push(&mut self, item: Item) {
        if self.items.len() == self.room {
            drop(self.items.pop_front());
        }
        if self.items.len() < self.room {
            self.items.push_back(item);
        }
    }

    /// How many more there is room for.
    pub fn room(&self) -> usize {
        self.room.saturating_sub(self.items.len())
    }

    /// Puts what was before these in front of them.
    pub fn prepend(&mut self, earlier: Self) {
        for item in earlier.items.into_iter().rev() {
            self.items.push_front(item);
        }
    }

    /// They, the oldest first.
    pub fn into_items(self) -> Vec<Item> {
        self.items.into()
    }
}

/// The last so many of these files; the newest of them is being written, or is not. Files are read from the
/// newest backwards, each one from its beginning, and no more of them than it takes.
pub fn last(files: &[AuditFile], being_written: bool, filter: &Filter, count: usize) -> Latest {
    let mut found = Latest::new(count);
    let mut being_written = being_written;
    for file in filter.narrow(files).iter().rev() {
        if found.room() == 0 {
            break;
        }
        let mut of_file = Latest::new(found.room());
        let each = |item| {
            of_file.push(item);
            Ok(())
        };
        // What is kept in memory does not fail.
        drop(scan(file, being_written, |line| filter.takes(line), each));
        being_written = false;
        found.prepend(of_file);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{key::AuditKey, line::Frame};

    /// Lines of these events.
    fn lines(events: &[&str]) -> Vec<u8> {
        let (key, mut out) = (AuditKey::derive(&[7; 32]), Vec::new());
        for event in events {
            let (seq, node, prev) = (1, "gw-1", key.mac(b""));
            Frame { seq, node, prev }.write(event.as_bytes(), &key, &mut out);
        }
        out
    }

    const FIRST: &str = r#"{"time":"2026-11-23T10:00:00Z","phase":"outcome","tenant":"a"}"#;
    const SECOND: &str = r#"{"time":"2026-11-23T10:00:01.5Z","phase":"outcome","tenant":"ab"}"#;
    const QUOTED: &str =
        r#"{"time":"2026-11-23T10:00:02Z","phase":"event","reason":"x\",\"tenant\":\"a\""}"#;

    #[test]
    fn a_member_is_found_where_it_is_one_and_not_where_its_text_is_quoted() {
        let of_a = Filter::new().having("tenant", "a");
        let taken = |filter: &Filter| [FIRST, SECOND, QUOTED].map(|e| filter.takes(e.as_bytes()));
        assert_eq!(taken(&of_a), [true, false, false]);
        let since = Filter::new().since("2026-11-23T10:00:01.5Z".parse().unwrap());
        assert_eq!(taken(&since), [false, true, true]);
    }

    #[test]
    fn the_last_events_are_read_from_the_newest_file_and_no_other_without_need() {
        let folder = tempfile::tempdir().unwrap();
        let mut broken = zstd::encode_all(&lines(&[FIRST; 99])[..], 3).unwrap();
        broken.truncate(40);
        fs::write(folder.path().join("audit-00000001.jsonl.zst"), broken).unwrap();
        let text = [lines(&[FIRST, SECOND, QUOTED]), b"half a li".to_vec()].concat();
        fs::write(folder.path().join("audit-00000002.jsonl"), text).unwrap();
        let files = files(folder.path()).unwrap();
        let told = |filter: Filter, count| -> Vec<(u64, bool)> {
            let items = last(&files, true, &filter, count).into_items().into_iter();
            items
                .map(|item| (item.line, matches!(item.what, What::Event(_))))
                .collect()
        };
        assert_eq!(told(Filter::new(), 2), [(2, true), (3, true)]);
        assert_eq!(told(Filter::new().having("tenant", "a"), 1), [(1, true)]);
        let all = told(Filter::new(), 4);
        assert_eq!(all, [(1, false), (1, true), (2, true), (3, true)]);
    }
}
