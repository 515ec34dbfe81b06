//! Events as a person reads them: a line each, in columns.
//!
//! Invariant: nothing that a file holds reaches the terminal but as letters. What moves the cursor, or turns the
//! direction of writing, is shown by its number; and what is no pseudonym is not shown in a pseudonym's place.

use std::io::{self, IsTerminal, Stdout, Write};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use jiff::{Timestamp, civil::Date, tz::TimeZone};
use serde_json::{Map, Value};

use crate::{
    audit::search::{Item, What},
    ident::Pseudonym,
};

type Event = Map<String, Value>;

/// Most columns stand under the name of their member; the last is a sentence, and has no width.
const COLUMNS: [&str; 10] = [
    "TIME", "PHASE", "TENANT", "SERVICE", "CODE", "HTTP", "MS", "CACHE", "CUSTOMER", "REQUEST",
];
/// What fits the usual values, so that columns seldom move. The widest so far counts where it is more.
const WIDTHS: [usize; COLUMNS.len()] = [12, 8, 8, 22, 12, 4, 9, 5, 9, 36];
/// The number is written to the right.
const RIGHT: usize = 6;
/// Which column has a colour.
const CODE: usize = 4;
/// How much of a line that is no event is shown.
const GLIMPSE: usize = 120;
/// No name is longer.
const LONGEST: usize = 80;

/// Where events are printed.
pub(super) struct Table<W> {
    out: W,
    colours: bool,
    widths: [usize; COLUMNS.len()],
    begun: bool,
    day: Option<Date>,
}

/// Standard output, in colours where that is a terminal and nobody minds.
pub(super) fn on_stdout() -> Table<Stdout> {
    let out = io::stdout();
    // The choice knows NO_COLOR; it would also paint a file where CLICOLOR_FORCE is set.
    let colours = out.is_terminal() && AutoStream::choice(&out) != ColorChoice::Never;
    Table::new(out, colours)
}

struct Row {
    time: Timestamp,
    cells: [String; COLUMNS.len()],
    colour: Option<AnsiColor>,
    words: String,
}

impl<W: Write> Table<W> {
    const fn new(out: W, colours: bool) -> Self {
        Self {
            out,
            colours,
            widths: WIDTHS,
            begun: false,
            day: None,
        }
    }

    /// Makes columns that fit all of these.
    pub(super) fn widen(&mut self, items: &[Item]) {
        for row in items.iter().filter_map(read) {
            self.fit(&row);
        }
    }

    /// Prints what was found.
    pub(super) fn item(&mut self, item: &Item) -> io::Result<()> {
        if self.event(item)? {
            return Ok(());
        }
        self.stray(item)
    }

    /// Prints an event; whether it is one.
    pub(super) fn event(&mut self, item: &Item) -> io::Result<bool> {
        let Some(row) = read(item) else {
            return Ok(false);
        };
        self.row(&row)?;
        Ok(true)
    }

    /// Prints a sentence below.
    pub(super) fn say(&mut self, words: &str) -> io::Result<()> {
        writeln!(self.out, "{words}")
    }

    /// Prints the line itself, where it is an event's; whether it is.
    pub(super) fn raw(&mut self, item: &Item) -> io::Result<bool> {
        let (What::Event(line), Some(_)) = (&item.what, read(item)) else {
            return Ok(false);
        };
        self.out.write_all(line)?;
        self.out.write_all(b"\n")?;
        Ok(true)
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn row(&mut self, row: &Row) -> io::Result<()> {
        self.fit(row);
        if !self.begun {
            let head = COLUMNS.map(str::to_owned);
            let line = self.line(&head, "WHAT", None);
            writeln!(self.out, "{line}")?;
            self.begun = true;
        }
        let day = row.time.to_zoned(TimeZone::UTC).date();
        if self.day != Some(day) {
            writeln!(self.out, "-- {day} (UTC)")?;
            self.day = Some(day);
        }
        let line = self.line(&row.cells, &row.words, row.colour);
        writeln!(self.out, "{line}")
    }

    fn fit(&mut self, row: &Row) {
        for (width, cell) in self.widths.iter_mut().zip(&row.cells) {
            *width = (*width).max(cell.chars().count());
        }
    }

    fn line(&self, cells: &[String], words: &str, colour: Option<AnsiColor>) -> String {
        let mut line = String::new();
        for (column, (cell, width)) in cells.iter().zip(self.widths).enumerate() {
            let cell = if column == RIGHT {
                format!("{cell:>width$}")
            } else {
                format!("{cell:width$}")
            };
            let colour = colour.filter(|_| column == CODE && self.colours);
            line.push_str(&colour.map_or_else(|| cell.clone(), |colour| painted(&cell, colour)));
            line.push_str("  ");
        }
        line.push_str(words);
        line.truncate(line.trim_end().len());
        line
    }

    /// A line for what is no event.
    fn stray(&mut self, item: &Item) -> io::Result<()> {
        let sign = if self.colours {
            painted("?", AnsiColor::Magenta)
        } else {
            "?".to_owned()
        };
        writeln!(self.out, "{sign} {}", stray(item))
    }
}

/// What is no event, and where.
pub(super) fn stray(item: &Item) -> String {
    let mut place = plain(&item.file.to_string_lossy(), usize::MAX);
    if item.line > 0 {
        place = format!("{place}:{}", item.line);
    }
    let words = match &item.what {
        What::Event(text) | What::Stray(text) => format!("is no event: {}", glimpse(text)),
        What::Torn(text) => format!("is half a line: {}", glimpse(text)),
        What::Unreadable(error) => {
            format!("cannot be read: {}", plain(&error.to_string(), LONGEST))
        }
        What::Changed => "was the last line that still stands as it was read".to_owned(),
    };
    format!("{place} {words}")
}

fn painted(text: &str, colour: AnsiColor) -> String {
    let style = Style::new().fg_color(Some(colour.into()));
    format!("{}{text}{}", style.render(), style.render_reset())
}

fn glimpse(text: &[u8]) -> String {
    plain(&String::from_utf8_lossy(text), GLIMPSE)
}

/// A text in which every character is seen and stays in its place, cut where it is too long.
fn plain(text: &str, longest: usize) -> String {
    let mut shown = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == longest {
            shown.push('\u{2026}');
            break;
        }
        if seen(character) {
            shown.push(character);
        } else {
            shown.extend(character.escape_unicode());
        }
    }
    shown
}

/// Whether a character takes one place, and leaves those of others as they are.
fn seen(character: char) -> bool {
    let turns = matches!(character,
        '\u{AD}' | '\u{61C}' | '\u{180E}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}'
        | '\u{2060}'..='\u{206F}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}'
        | '\u{E0000}'..='\u{E0FFF}');
    !character.is_control() && !turns
}

/// An event's row; nothing where it is none after all.
fn read(item: &Item) -> Option<Row> {
    let What::Event(line) = &item.what else {
        return None;
    };
    // The gateway writes none of these as they are.
    let line = str::from_utf8(line)
        .ok()
        .filter(|text| text.chars().all(seen))?;
    let event: Event = serde_json::from_str(line).ok()?;
    let time: Timestamp = event.get("time")?.as_str()?.parse().ok()?;
    let clock = time
        .to_zoned(TimeZone::UTC)
        .strftime("%H:%M:%S%.3f")
        .to_string();
    let mut cells = COLUMNS.map(|_| String::new());
    let shown = [
        clock,
        text(&event, "phase"),
        text(&event, "tenant"),
        text(&event, "service"),
        text(&event, "code"),
        text(&event, "http_status"),
        milliseconds(&event),
        text(&event, "cache"),
        customer(&event),
        text(&event, "request_id"),
    ];
    for (cell, shown) in cells.iter_mut().zip(shown) {
        *cell = if shown.is_empty() {
            "-".to_owned()
        } else {
            shown
        };
    }
    Some(Row {
        time,
        cells,
        colour: colour(&event),
        words: words(&event),
    })
}

/// A member as text, empty where there is none.
fn text(event: &Event, name: &str) -> String {
    match event.get(name) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => plain(text, LONGEST),
        Some(other) => plain(&other.to_string(), LONGEST),
    }
}

fn milliseconds(event: &Event) -> String {
    let ms = event.get("ms").and_then(Value::as_f64);
    // A step of the clock has milliseconds of another kind.
    let ms = ms.filter(|_| event.contains_key("http_status") || event.contains_key("code"));
    ms.map(|ms| format!("{ms:.3}")).unwrap_or_default()
}

/// Enough of the pseudonym to tell one customer from another, and to look for it in the file.
fn customer(event: &Event) -> String {
    let Some(customer) = event.get("customer") else {
        return String::new();
    };
    let known: Option<Pseudonym> = customer.as_str().and_then(|text| text.parse().ok());
    known.map_or_else(
        || "?".to_owned(),
        |pseudonym| {
            let text = pseudonym.to_string();
            let tag = text.split_once(':').map_or("", |(_, tag)| tag);
            format!("{}\u{2026}", tag.get(..8).unwrap_or_default())
        },
    )
}

fn colour(event: &Event) -> Option<AnsiColor> {
    let code = event.get("code")?.as_str()?;
    let status = event.get("http_status").and_then(Value::as_u64);
    Some(match status {
        _ if code == "ok" => AnsiColor::Green,
        Some(400..500) => AnsiColor::Yellow,
        _ => AnsiColor::Red,
    })
}

/// What there is to say besides the columns.
fn words(event: &Event) -> String {
    let phase = event.get("phase").and_then(Value::as_str);
    let of = |name| text(event, name);
    let said = |before: &str, name: &str| {
        let text = text(event, name);
        (!text.is_empty()).then(|| format!("{before}{text}"))
    };
    let parts = match phase {
        Some("event") => vec![Some(deed(event))],
        Some("intent") => vec![said("with ", "credential"), said("because of a ", "cause")],
        Some("rejected") => {
            let more = said("", "left_out").filter(|left_out| left_out != "0");
            vec![
                said("", "reason"),
                said("from ", "client"),
                more.map(|more| format!("and {more} more since the last")),
            ]
        }
        _ => vec![
            said("", "reason"),
            said("", "customer_status"),
            said("upstream ", "upstream_status")
                .filter(|_| of("upstream_status") != of("http_status")),
            said("attempts ", "attempts")
                .filter(|_| !["0", "1"].contains(&of("attempts").as_str())),
        ],
    };
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    parts.join(", ")
}

/// What the gateway did, in words.
fn deed(event: &Event) -> String {
    let of = |name| text(event, name);
    let kind = of("event");
    match kind.as_str() {
        "start" => format!("started, version {}", of("version")),
        "stop" => "stopped".to_owned(),
        "admin" => admin(event),
        "config_reloaded" if of("mistakes") != "0" => {
            format!(
                "configuration {} for {} mistakes ({})",
                of("result"),
                of("mistakes"),
                actor(event)
            )
        }
        "config_reloaded" => format!(
            "configuration read again: {} ({})",
            of("result"),
            actor(event)
        ),
        "credential_changed" => {
            let from = Some(of("from")).filter(|from| !from.is_empty());
            format!(
                "credential {} of {}: {} -> {} ({})",
                of("credential"),
                of("account"),
                from.as_deref().unwrap_or("new"),
                of("to"),
                of("reason")
            )
        }
        "status_refreshed" => format!("status asked for anew: {}", of("result")),
        "quota_warning" => format!(
            "{} of {} taken of {}",
            of("taken"),
            of("limit"),
            of("policy")
        ),
        "answer_withheld" => "answer withheld: its outcome could not be written in time".to_owned(),
        _ => upkeep(event, &kind),
    }
}

/// What was noted for the chain's own sake.
fn upkeep(event: &Event, kind: &str) -> String {
    let of = |name| text(event, name);
    match kind {
        "audit_gap" => {
            let cause = match of("cause").as_str() {
                "torn" => "a crash left half a line".to_owned(),
                "damaged" => "lines at the end were not as they were written".to_owned(),
                "write_failed" => "the disk did not take what was written".to_owned(),
                "lost" => "there was no room to wait for the disk".to_owned(),
                other => other.to_owned(),
            };
            let mut words = format!("gap: {cause}");
            let named = [
                ("lost", "events lost"),
                ("file", "file"),
                ("from_byte", "from byte"),
                ("bytes", "bytes"),
            ];
            for (member, name) in named
                .iter()
                .filter(|(member, _)| event.contains_key(*member))
            {
                words.extend([", ", name, " ", &of(member)]);
            }
            words
        }
        "clock_step" => format!("the clock was set, by {} ms", of("ms")),
        "checkpoint" => format!("checkpoint of {} lines", of("size")),
        "file_opened" => format!("file {} begins, key {}", of("file"), of("key")),
        "files_removed" => format!(
            "files up to {} removed, lines up to {} ({})",
            of("through_file"),
            of("through_seq"),
            of("cause")
        ),
        "rejections_left_out" => format!(
            "{} more requests without a good token, which left no event",
            of("count")
        ),
        other => other.to_owned(),
    }
}

/// Who did it, and which way he came.
fn actor(event: &Event) -> String {
    let said = ["operator", "via"].map(|name| text(event, name));
    let said: Vec<_> = said.into_iter().filter(|said| !said.is_empty()).collect();
    said.join(" by ")
}

/// What an operator did or asked for.
fn admin(event: &Event) -> String {
    let mut words = format!("operator ({}): {}", actor(event), text(event, "action"));
    for name in [
        "account",
        "credential",
        "customers",
        "revocation",
        "kind",
        "policy",
        "amount",
        "month",
        "done",
        "cache",
        "ownership",
        "result",
    ] {
        let text = text(event, name);
        if !text.is_empty() {
            words.extend([", ", name, " ", &text]);
        }
    }
    words
}
