//! Turns one value of the configuration into what it means.
//!
//! Invariant: what comes out is of the right type and within bounds, or a mistake was recorded. No
//! value is ever repeated, because a secret may have been put in the wrong place.

use std::{
    collections::HashSet,
    hash::Hash,
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use config::{Value, ValueKind};
use jiff::Timestamp;

use crate::{
    address::{Network, NetworkError},
    config::{
        cursor::{Context, Section},
        layers::Entry,
        mistake::{Mistake, is_variable},
        sources::Purpose,
    },
    files::{Content, FileError, MAX_SECRET},
    ident::TenantId,
    units::{parse_duration, parse_rate, parse_size, show_duration, show_size},
};

/// More than any key set or certificate bundle needs.
const MAX_PLAIN_FILE: u64 = 4 << 20;

/// One value, with its path and where it came from.
pub(super) struct Field<'a> {
    context: Context<'a>,
    path: String,
    origin: String,
    value: Value,
}

impl<'a> Field<'a> {
    /// A value at `path`, from the file or variable that it remembers, or else `parent`.
    pub(super) fn new(context: Context<'a>, path: String, value: Value, parent: &str) -> Self {
        Self {
            context,
            path,
            origin: value.origin().unwrap_or(parent).to_owned(),
            value,
        }
    }

    /// An entry of one of the three lists; it is called by its id where it has a proper one.
    pub(super) fn entry(context: Context<'a>, list: &str, entry: Entry) -> Self {
        let label = label(&entry.value, entry.index);
        let path = format!("{list}[{label}]");
        Self::new(context, path, entry.value, context.name)
    }

    /// Records a mistake about this value.
    pub(super) fn mistake(&self, problem: impl Into<String>, mend: &str) {
        let mistake = Mistake::new(&self.origin, &self.path, problem, mend);
        self.context.report.mistake(mistake);
    }

    /// Records a warning about this value.
    pub(super) fn warning(&self, problem: &str, mend: &str) {
        let warning = Mistake::new(&self.origin, &self.path, problem, mend);
        self.context.report.warning(warning);
    }

    /// What every part of the reading shares.
    pub(super) fn context(&self) -> Context<'a> {
        self.context
    }

    /// The file or variable that it came from.
    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    /// Whether it is a table.
    pub(super) fn is_table(&self) -> bool {
        matches!(self.value.kind, ValueKind::Table(_))
    }

    /// The text itself.
    pub(super) fn text(&self) -> Option<&str> {
        if let ValueKind::String(text) = &self.value.kind {
            return Some(text);
        }
        self.mistake("is not a text", "write it in quotes");
        None
    }

    /// A text of 1 to 512 printable characters.
    pub(super) fn printable(&self) -> Option<String> {
        let text = self.text()?;
        let sound = !text.is_empty() && text.len() <= 512 && !text.contains(char::is_control);
        if !sound {
            self.mistake(
                "is empty, too long or holds control characters",
                "write 1 to 512 printable characters",
            );
        }
        sound.then(|| text.to_owned())
    }

    /// A name of the kind that ids are.
    pub(super) fn name<T: for<'t> TryFrom<&'t str>>(&self) -> Option<T> {
        let name = T::try_from(self.text()?).ok();
        if name.is_none() {
            self.mistake(
                "is not a name",
                "write 1 to 64 characters of A-Z a-z 0-9 . _ -",
            );
        }
        name
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let words = choices.iter().map(|(word, _)| *word);
        let ValueKind::String(text) = &self.value.kind else {
            let mend = format!("write one of {}", listed(words));
            self.mistake("is not a text", &mend);
            return None;
        };
        let chosen = choices.iter().find(|(word, _)| word == text);
        if chosen.is_none() {
            let mend = format!("write one of {}", listed(words));
            self.mistake("is not one of the values that it may have", &mend);
        }
        chosen.map(|(_, choice)| *choice)
    }

    /// `true` or `false`.
    pub(super) fn flag(&self) -> Option<bool> {
        if let ValueKind::Boolean(flag) = self.value.kind {
            return Some(flag);
        }
        let flag = self.variable().and_then(|text| text.parse().ok());
        if flag.is_none() {
            self.mistake("is not true or false", "write true or false, unquoted");
        }
        flag
    }

    /// The text of an environment variable, which has numbers and flags as text too.
    fn variable(&self) -> Option<&str> {
        if let ValueKind::String(text) = &self.value.kind
            && is_variable(&self.origin)
        {
            return Some(text);
        }
        None
    }

    /// Whether it is `false` and nothing else.
    pub(super) fn is_false(&self) -> bool {
        matches!(self.value.kind, ValueKind::Boolean(false))
    }

    /// An address to listen on.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        let address = self.text()?.parse().ok();
        if address.is_none() {
            self.mistake(
                "is not an IP address and a port",
                "write it as \"127.0.0.1:8080\" or \"[::1]:8080\"",
            );
        }
        address
    }

    /// An instant of time.
    pub(super) fn instant(&self) -> Option<Timestamp> {
        let instant = self.text()?.parse().ok();
        if instant.is_none() {
            self.mistake(
                "is not an instant (RFC 3339)",
                "write it as \"2026-11-23T08:00:00Z\"",
            );
        }
        instant
    }

    /// A network in prefix notation, or one address.
    pub(super) fn network(&self) -> Option<Network> {
        let parsed = self.text()?.parse();
        let mend = match parsed {
            Err(NetworkError::HostBits) => {
                "clear them, as in \"10.0.0.0/8\", or write the address without a prefix"
            }
            Ok(_) | Err(NetworkError::Malformed) => {
                "write it as \"10.0.0.0/8\", \"2001:db8::/32\" or \"192.0.2.7\""
            }
        };
        parsed
            .inspect_err(|error| self.mistake(error.to_string(), mend))
            .ok()
    }

    /// A duration within bounds.
    pub(super) fn duration(&self, bounds: &RangeInclusive<Duration>) -> Option<Duration> {
        let range = span(
            &show_duration(*bounds.start()),
            &show_duration(*bounds.end()),
        );
        let mend = format!("write a duration such as \"30s\" (in ms, s, m, h or d), {range}");
        let ValueKind::String(text) = &self.value.kind else {
            self.mistake("is not a duration", &mend);
            return None;
        };
        let duration = parse_duration(text)
            .inspect_err(|error| self.mistake(error.to_string(), &mend))
            .ok()?;
        self.bounded(duration, bounds, &mend)
    }

    /// A size in bytes within bounds.
    pub(super) fn size(&self, bounds: &RangeInclusive<u64>) -> Option<u64> {
        let range = span(&show_size(*bounds.start()), &show_size(*bounds.end()));
        let mend = format!("write a size such as \"10MB\" or \"64KiB\", {range}");
        let size = if let ValueKind::String(text) = &self.value.kind {
            parse_size(text)
                .inspect_err(|error| self.mistake(error.to_string(), &mend))
                .ok()?
        } else {
            let number = self.whole();
            if number.is_none() {
                self.mistake("is not a size", &mend);
            }
            number?
        };
        self.bounded(size, bounds, &mend)
    }

    /// How many per how much time, the number within bounds.
    pub(super) fn rate(&self, bounds: &RangeInclusive<u64>) -> Option<(u32, Duration)> {
        let range = span(&bounds.start().to_string(), &bounds.end().to_string());
        let mend =
            format!("write a rate such as \"20/s\", \"600/m\" or \"1000/h\", {range} of them");
        let ValueKind::String(text) = &self.value.kind else {
            self.mistake("is not a rate", &mend);
            return None;
        };
        let (count, period) = parse_rate(text)
            .inspect_err(|error| self.mistake(error.to_string(), &mend))
            .ok()?;
        let count = self.bounded(count, bounds, &mend)?;
        Some((u32::try_from(count).ok()?, period))
    }

    /// A share within bounds, in hundredths. It has a decimal point: `1` could be one of a hundred.
    pub(super) fn percent(&self, bounds: &RangeInclusive<u8>) -> Option<u8> {
        let share_of = |percent: u8| f64::from(percent) / 100.0;
        let (least, most) = (share_of(*bounds.start()), share_of(*bounds.end()));
        let mend = format!(
            "write a share with one or two decimals such as {most:?}, from {least:?} to {most:?}"
        );
        let share = if let ValueKind::Float(share) = self.value.kind {
            Some(share)
        } else {
            // As in a file, with a decimal point.
            let text = self.variable().filter(|text| text.contains('.'));
            text.and_then(|text| text.parse().ok())
        };
        let Some(share) = share else {
            self.mistake("is not a share", &mend);
            return None;
        };
        let share = self.bounded(share, &(least..=most), &mend)?;
        let is = |percent: &u8| (share_of(*percent) - share).abs() < 1e-9;
        let percent = bounds.clone().find(is);
        if percent.is_none() {
            self.mistake("has more than two decimals", &mend);
        }
        percent
    }

    /// A whole number within bounds, in the type that holds it.
    pub(super) fn count<T: TryFrom<u64>>(&self, bounds: &RangeInclusive<u64>) -> Option<T> {
        let range = span(&bounds.start().to_string(), &bounds.end().to_string());
        let mend = format!("write a whole number {range}");
        let number = self.whole();
        if number.is_none() {
            self.mistake("is not a whole number", &mend);
        }
        let number = self.bounded(number?, bounds, &mend)?;
        T::try_from(number).ok()
    }

    /// A number that is not negative.
    fn whole(&self) -> Option<u64> {
        match &self.value.kind {
            ValueKind::I64(number) => u64::try_from(*number).ok(),
            ValueKind::U64(number) => Some(*number),
            ValueKind::String(_) => self.variable()?.parse().ok(),
            ValueKind::Nil
            | ValueKind::Boolean(_)
            | ValueKind::I128(_)
            | ValueKind::U128(_)
            | ValueKind::Float(_)
            | ValueKind::Table(_)
            | ValueKind::Array(_) => None,
        }
    }

    fn bounded<T: PartialOrd>(
        &self,
        value: T,
        bounds: &RangeInclusive<T>,
        mend: &str,
    ) -> Option<T> {
        let inside = bounds.contains(&value);
        if !inside {
            self.mistake("is out of range", mend);
        }
        inside.then_some(value)
    }

    /// The elements of a list.
    pub(super) fn items(self) -> Option<Vec<Self>> {
        if !matches!(self.value.kind, ValueKind::Array(_)) {
            let mend = if is_variable(&self.origin) {
                "unset the variable and write the list in a file"
            } else {
                "write it in brackets, as in [\"a\", \"b\"]"
            };
            self.mistake("is not a list", mend);
            return None;
        }
        let ValueKind::Array(values) = self.value.kind else {
            return None;
        };
        let items = values.into_iter().enumerate().map(|(index, value)| {
            let path = format!("{}[{}]", self.path, label(&value, index));
            Self::new(self.context, path, value, &self.origin)
        });
        Some(items.collect())
    }

    /// A list without doubles, read element by element.
    pub(super) fn list<T: Clone + Eq + Hash>(
        self,
        may_be_empty: bool,
        read: impl Fn(&Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let (context, path, origin) = (self.context, self.path.clone(), self.origin.clone());
        let items = self.items()?;
        if items.is_empty() && !may_be_empty {
            let mistake = Mistake::new(&origin, &path, "is empty", "write at least one");
            context.report.mistake(mistake);
            return None;
        }
        let mut list: Vec<T> = Vec::with_capacity(items.len());
        let mut seen: HashSet<T> = HashSet::new();
        let mut sound = true;
        for item in items {
            let Some(element) = read(&item) else {
                sound = false;
                continue;
            };
            if !seen.insert(element.clone()) {
                item.mistake("stands in the list twice", "remove one of the two");
                sound = false;
            }
            list.push(element);
        }
        sound.then_some(list)
    }

    /// The table that it is; something else reads as an empty table without missing keys.
    pub(super) fn section(self) -> Section<'a> {
        if !self.is_table() {
            self.mistake("is not a table", "write its keys under a [table] header");
        }
        let values = if let ValueKind::Table(values) = self.value.kind {
            Some(values)
        } else {
            None
        };
        Section::new(self.context, &self.path, &self.origin, values)
    }

    /// The path that it names; a relative one starts at the folder of the file that names it.
    pub(super) fn path(&self) -> Option<PathBuf> {
        let text = self.text()?;
        if text.is_empty() {
            self.mistake("is empty", "write a path");
            return None;
        }
        Some(self.folder().join(text))
    }

    /// The content of a file that holds nothing secret.
    pub(super) fn content(&self) -> Option<Vec<u8>> {
        let path = self.path()?;
        self.context
            .seen
            .read(&path, MAX_PLAIN_FILE, Purpose::Setting)
            .inspect_err(|error| {
                let mend = format!("mend the file or its path, now {}", path.display());
                self.mistake(format!("names a file that {error}"), &mend);
            })
            .map(|content| content.bytes.to_vec())
            .ok()
    }

    /// Reads the file of a secret that stands here.
    pub(super) fn read_secret(&self, path: &Path) -> Result<Content, FileError> {
        // An account holds no other secrets than its credentials' users and passwords.
        let purpose = if self.path.starts_with("accounts[") {
            Purpose::Credential
        } else {
            Purpose::Setting
        };
        let content = self.context.seen.read(path, MAX_SECRET, purpose)?;
        content.without_line_break()
    }

    /// Where relative paths start.
    pub(super) fn folder(&self) -> &Path {
        if is_variable(&self.origin) {
            return Path::new("");
        }
        Path::new(&self.origin).parent().unwrap_or(Path::new(""))
    }
}

/// What an entry is called in a path: its id, if it has one that is safe to print, or its place.
fn label(value: &Value, index: usize) -> String {
    if let ValueKind::Table(table) = &value.kind
        && let Some(ValueKind::String(id)) = table.get("id").map(|id| &id.kind)
        && TenantId::try_from(id.as_str()).is_ok()
    {
        return id.clone();
    }
    index.to_string()
}

fn span(from: &str, to: &str) -> String {
    format!("from {from} to {to}")
}

pub(super) fn listed<'w>(words: impl Iterator<Item = &'w str>) -> String {
    let quoted: Vec<String> = words.map(|word| format!("\"{word}\"")).collect();
    quoted.join(", ")
}
