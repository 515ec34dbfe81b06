//! What a verification found: two verdicts, where each kind of damage begins, and what to know besides.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

/// The result of a verification.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Whether everything that is there is as it was written.
    pub integrity: Verdict,
    /// Whether nothing is missing.
    pub completeness: Verdict,
    /// What was checked with: MACs, or signatures alone.
    pub checked_with: Means,
    /// Whose chain it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// What is wrong, in the order of the files: of each kind the first [`SHOWN`] places.
    pub findings: Vec<Finding>,
    /// How many places of a kind there are besides.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub further: BTreeMap<Kind, u64>,
    /// What is worth knowing, and not wrong.
    pub notes: Vec<Note>,
    /// How much there was.
    pub counts: Counts,
    /// The last checkpoint that was found good, as a signed note: what to publish, and to give to the next
    /// verification as its head. None where the chain is damaged, or ends before a head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
}

/// So many places of one kind are listed; further ones are counted.
pub const SHOWN: u64 = 10;

impl Report {
    /// Whether both verdicts are good.
    pub fn is_whole(&self) -> bool {
        self.integrity == Verdict::Ok && self.completeness == Verdict::Ok
    }
}

/// What became of one of the two questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// No finding speaks against it.
    Ok,
    /// A finding does.
    Broken,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Broken => "broken",
        })
    }
}

/// What vouches for a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Means {
    /// The MAC of each line.
    MacKey,
    /// The signed root of a later checkpoint.
    PublicKey,
}

/// Something that is wrong, and where it begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind.
    pub kind: Kind,
    /// Which verdict it is against.
    pub against: Question,
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// In words.
    pub what: String,
}

/// A line of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// The file's number.
    #[serde(skip)]
    pub number: u64,
    /// The file's name.
    pub file: String,
    /// The line in it, from 1; 0 for the file as a whole.
    pub line: u64,
    /// The number that the event there has, or ought to have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        self.seq.map_or(Ok(()), |seq| write!(f, " (seq {seq})"))
    }
}

/// The two questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Question {
    /// Is everything that is there as it was written?
    Integrity,
    /// Is nothing missing?
    Completeness,
}

/// The kinds of damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A line is not what its MAC, or the number of the next one, says.
    Changed,
    /// A line stands where another belongs.
    Disordered,
    /// A line is there twice.
    Doubled,
    /// A line is of another node's chain.
    Foreign,
    /// A file does not begin as files do.
    Headless,
    /// A line has not the form of a line.
    Malformed,
    /// The number in a file is not that of its name.
    Misnamed,
    /// Lines are missing.
    Missing,
    /// Files are missing.
    MissingFiles,
    /// A file is written with a key again that another had replaced.
    RetiredKey,
    /// The published head is of another history.
    Rewritten,
    /// A checkpoint or the first line of a file does not fit the lines before it.
    Root,
    /// Whole lines were set aside when the gateway started, because they were not as they had been written.
    SetAside,
    /// A checkpoint is not signed by the key.
    Signature,
    /// There is less than the published head says.
    Truncated,
    /// Bytes at the end of a file, and nothing says why they are there.
    Unexplained,
    /// A line does not name the MAC of the one before.
    Unlinked,
    /// A published head could not be compared with the chain.
    Uncompared,
    /// A file is written with a key that was not given.
    UnknownKey,
    /// A file cannot be read or decompressed to its end.
    Unreadable,
    /// A line about the chain itself cannot be understood.
    Upkeep,
    /// Nothing vouches for lines, since others between the same checkpoints are missing.
    Unvouched,
}

impl Kind {
    /// Which verdict it is against.
    pub const fn against(self) -> Question {
        match self {
            Self::Missing
            | Self::MissingFiles
            | Self::SetAside
            | Self::Truncated
            | Self::Uncompared => Question::Completeness,
            Self::Changed
            | Self::Disordered
            | Self::Doubled
            | Self::Foreign
            | Self::Headless
            | Self::Malformed
            | Self::Misnamed
            | Self::RetiredKey
            | Self::Rewritten
            | Self::Root
            | Self::Signature
            | Self::Unexplained
            | Self::Unlinked
            | Self::UnknownKey
            | Self::Unreadable
            | Self::Upkeep
            | Self::Unvouched => Question::Integrity,
        }
    }
}

/// Something worth knowing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// What about.
    pub about: About,
    /// How often, or how many events or requests.
    pub count: u64,
    /// In words, with the first of them.
    pub what: String,
}

/// What notes are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum About {
    /// Events that the gateway says it could not record.
    Lost,
    /// Tails that do not count, because the chain says so.
    SetAside,
    /// Where a clock was set.
    ClockSteps,
    /// Files that were removed, as the chain says.
    Removed,
    /// Compressed files that are there as plain ones, too.
    LeftOver,
    /// Requests under way.
    UnderWay,
    /// The end of the last file is half a line.
    HalfLine,
    /// Lines that no signature covers yet.
    Unsigned,
    /// What a head would tell.
    Head,
    /// Heads whose lines were removed since.
    OldHeads,
}

impl About {
    /// What is counted, if that is told.
    const fn counted(self) -> Option<&'static str> {
        match self {
            Self::Lost => Some("lost events"),
            Self::SetAside => Some("bytes that do not count"),
            Self::ClockSteps => Some("steps of the clock"),
            Self::Removed => Some("removed events"),
            Self::LeftOver => Some("compressed files beside plain ones"),
            Self::UnderWay => Some("requests under way"),
            Self::HalfLine => Some("bytes of half a line"),
            Self::Unsigned => Some("lines behind the last checkpoint"),
            Self::Head => None,
            Self::OldHeads => Some("heads that were not compared"),
        }
    }
}

/// How much was verified.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Files.
    pub files: u64,
    /// Lines, good and bad.
    pub events: u64,
    /// Bytes of lines, decompressed.
    pub bytes: u64,
    /// Checkpoints with a good signature.
    pub checkpoints: u64,
    /// The number of the first line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_seq: Option<u64>,
    /// Its time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_time: Option<String>,
    /// The number of the last line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seq: Option<u64>,
    /// Its time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_time: Option<String>,
    /// Up to which number signed checkpoints cover the lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed_through: Option<u64>,
    /// Events that are lost, as the chain itself says.
    pub lost: u64,
    /// Published heads that were given.
    pub heads: u64,
    /// Of these, how many could be compared with the chain.
    pub heads_compared: u64,
}

/// A report that is being made.
#[derive(Debug, Default)]
pub(super) struct Draft {
    findings: Vec<Finding>,
    seen: BTreeMap<Kind, u64>,
    notes: BTreeMap<About, (u64, String)>,
    pub(super) counts: Counts,
    pub(super) head: Option<String>,
}

impl Draft {
    pub(super) fn find(&mut self, kind: Kind, place: Place, what: impl Into<String>) {
        let seen = self.seen.entry(kind).or_default();
        *seen += 1;
        if *seen <= SHOWN {
            self.findings.push(Finding {
                kind,
                against: kind.against(),
                place,
                what: what.into(),
            });
        }
    }

    pub(super) fn note(&mut self, about: About, count: u64, what: impl FnOnce() -> String) {
        let note = self.notes.entry(about).or_insert_with(|| (0, what()));
        note.0 = note.0.saturating_add(count);
    }

    pub(super) fn finish(mut self, checked_with: Means, node: Option<String>) -> Report {
        self.findings.sort_by(|a, b| a.place.cmp(&b.place));
        let verdict = |question: Question| {
            // A kind that was seen at all is in the list.
            let against = self.seen.keys().any(|kind| kind.against() == question);
            if against {
                Verdict::Broken
            } else {
                Verdict::Ok
            }
        };
        let further = self.seen.iter().filter(|(_, seen)| **seen > SHOWN);
        let note = |(about, (count, what)): (About, (u64, String))| Note {
            about,
            count,
            what: match about.counted() {
                Some(counted) => format!("{counted}: {count}; {what}"),
                None => what,
            },
        };
        let integrity = verdict(Question::Integrity);
        // What is damaged, or ends before a head that was published, has none to publish.
        let good = integrity == Verdict::Ok && !self.seen.contains_key(&Kind::Truncated);
        Report {
            integrity,
            completeness: verdict(Question::Completeness),
            checked_with,
            node,
            further: further.map(|(kind, seen)| (*kind, seen - SHOWN)).collect(),
            findings: self.findings,
            notes: self.notes.into_iter().map(note).collect(),
            counts: self.counts,
            head: self.head.filter(|_| good),
        }
    }
}
