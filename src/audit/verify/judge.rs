//! Judges the lines of a chain, one after the other. Decides; reads nothing.
//!
//! Invariant: a line counts as good only if its MAC, or in the end a signed root over it, says so and it
//! stands in its place. After a bad line the following ones are judged by what they say themselves, so that
//! one wound is one finding: the place is known again from the next good line, the tree from the next line
//! that lists its subtrees.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::report::{About, Draft, Kind, Means, Place, Report};
use crate::{
    audit::{
        chain::{Gap, Kept, Opened, Removed, Signed, Upkeep},
        key::{AuditKey, AuditKeys, KeyId, Mac},
        line::Line,
        note::{Checkpoint, PublicKey},
        tree::{Hash, Tree},
    },
    ident::{NodeId, RequestId},
};

/// What is believed.
#[derive(Debug, Clone)]
pub enum Trust {
    /// MACs, and signatures too, by these keys.
    Keys(AuditKeys),
    /// Signatures alone, by any of these keys, which are of one node.
    Public(Vec<PublicKey>),
}

/// Which bytes of which files are said not to count: from where on. Believed if, in the end, a good line has
/// said it.
pub(in crate::audit) type Cuts = BTreeMap<u64, u64>;

/// More requests than can be under way at once; what is above that is not followed.
const MOST_OPEN: usize = 1_000_000;
/// As many separate holes are told apart; a chain with more is a ruin whose first is named.
const MOST_HOLES: usize = 4096;

pub(super) struct Judge<'a> {
    trust: &'a Trust,
    /// A published head.
    head: Option<&'a Checkpoint>,
    /// The root at the head's size, once the lines got there.
    root_at_head: Option<Hash>,
    cuts: &'a Cuts,
    draft: Draft,
    /// The line that is judged.
    at: Place,
    /// Where in the file it begins.
    offset: u64,
    file: FileState,
    node: Option<String>,
    /// The last line that counts.
    last: Option<Last>,
    /// Bad lines since then: each may have had a place.
    doubtful: u64,
    /// The MAC of a line just before that did not count, because of its number.
    stray: Option<Mac>,
    /// The tree over all lines so far; none where one of them is not known.
    tree: Option<Tree>,
    holes: Vec<Hole>,
    removed: Option<Removed>,
    /// Tails that were passed over, with the first line of each.
    passed_over: BTreeMap<u64, Place>,
    open: BTreeSet<RequestId>,
}

struct Last {
    seq: u64,
    mac: Mac,
}

/// What is known of the file that is read.
#[derive(Default)]
struct FileState {
    compressed: bool,
    key: Option<Arc<AuditKey>>,
    /// Written with a key that nobody gave: its MACs say nothing.
    unchecked: bool,
    /// Its first line has been judged.
    begun: bool,
    /// The last file before it that is there.
    after: u64,
    torn: Option<(Place, u64)>,
}

/// Lines that are not there.
struct Hole {
    place: Place,
    from: u64,
    to: u64,
    /// How many bad lines stand where they belong.
    doubtful: u64,
    /// The files that are not there either.
    files: Option<(u64, u64)>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(trust: &'a Trust, head: Option<&'a Checkpoint>, cuts: &'a Cuts) -> Self {
        let node = match trust {
            Trust::Keys(_) => None,
            Trust::Public(keys) => keys.first().map(|key| key.node().to_string()),
        };
        Self {
            trust,
            head,
            root_at_head: None,
            cuts,
            draft: Draft::default(),
            at: Place::default(),
            offset: 0,
            file: FileState::default(),
            node,
            last: None,
            doubtful: 0,
            stray: None,
            tree: Some(Tree::default()),
            holes: Vec::new(),
            removed: None,
            passed_over: BTreeMap::new(),
            open: BTreeSet::new(),
        }
    }

    /// The next file, in the order of their numbers.
    pub(super) fn begin(&mut self, number: u64, name: &str, compressed: bool) {
        self.settle_torn(false);
        self.draft.counts.files += 1;
        self.file = FileState {
            compressed,
            after: self.at.number,
            ..FileState::default()
        };
        self.offset = 0;
        self.at = Place {
            number,
            file: name.to_owned(),
            line: 0,
            seq: None,
        };
    }

    /// The file's next line.
    pub(super) fn line(&mut self, bytes: &[u8]) {
        self.settle_torn(false);
        let from = self.offset;
        self.offset += u64::try_from(bytes.len()).unwrap_or(u64::MAX) + 1;
        self.at.line += 1;
        self.at.seq = None;
        self.draft.counts.events += 1;
        self.draft.counts.bytes += self.offset - from;
        if self.is_cut(self.offset) {
            return self.pass_over(self.offset - from);
        }
        match Line::parse(bytes) {
            Some(line) => self.judge(&line),
            None => self.bad(Kind::Malformed, "is not a line of a chain"),
        }
        self.file.begun = true;
    }

    /// The rest of the file, which no line break ends.
    pub(super) fn torn(&mut self, bytes: &[u8]) {
        self.settle_torn(false);
        let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.offset += count;
        self.at.line += 1;
        self.at.seq = None;
        if self.is_cut(self.offset) {
            return self.pass_over(count);
        }
        self.file.torn = Some((self.at.clone(), count));
    }

    /// The file cannot be read any further.
    pub(super) fn unreadable(&mut self, why: &str) {
        let mut place = self.at.clone();
        place.line += 1;
        place.seq = self.last.as_ref().map(|last| last.seq + 1);
        let what = format!("the file cannot be read from here on: {why}");
        self.draft.find(Kind::Unreadable, place, what);
        self.tree = None;
    }

    /// All files were read.
    pub(super) fn finish(mut self) -> Report {
        self.settle_torn(true);
        self.settle_holes();
        let mut confirmed = std::mem::take(&mut self.passed_over);
        for place in std::mem::take(&mut confirmed).into_values() {
            let what = "from here on the file was passed over, and no good line says that it does \
                        not count";
            self.draft.find(Kind::Unexplained, place, what);
        }
        self.settle_head();
        self.settle_signatures();
        let under_way = u64::try_from(self.open.len()).unwrap_or(u64::MAX);
        if let Some(id) = self.open.first() {
            self.draft.note(About::UnderWay, under_way, || {
                format!(
                    "requests with an intent and no outcome at the end, {id} first: they are under way, or \
                     were when the process was killed; the next start closes those"
                )
            });
        }
        let means = match self.trust {
            Trust::Keys(_) => Means::MacKey,
            Trust::Public(_) => Means::PublicKey,
        };
        self.draft.counts.last_seq = self.last.map(|last| last.seq);
        self.draft.finish(means, self.node)
    }

    fn find(&mut self, kind: Kind, what: impl Into<String>) {
        self.draft.find(kind, self.at.clone(), what);
    }

    /// A line that does not count: it may have had a place, or none.
    fn bad(&mut self, kind: Kind, what: &str) {
        self.at.seq = self.at.seq.or_else(|| self.next_seq());
        self.find(kind, what);
        self.doubtful += 1;
        self.tree = None;
    }

    fn next_seq(&self) -> Option<u64> {
        let next = self.last.as_ref().map_or(0, |last| last.seq) + 1 + self.doubtful;
        // Before the first good line of files from the middle nobody knows.
        (self.last.is_some() || self.at.number == 1).then_some(next)
    }
}

/// What is passed over, and what hangs over the end of a file.
impl Judge<'_> {
    /// Whether bytes up to here are said not to count.
    fn is_cut(&self, end: u64) -> bool {
        let cut = self.cuts.get(&self.at.number);
        cut.is_some_and(|from| end > *from)
    }

    fn pass_over(&mut self, bytes: u64) {
        let place = self.at.clone();
        let first = self.passed_over.entry(place.number).or_insert(place);
        let place = first.to_string();
        self.draft.note(About::SetAside, bytes, || {
            format!("bytes at the end of a file do not count, as the chain says: from {place}")
        });
    }

    /// Half a line was at the end of what was read: is that the end of everything?
    fn settle_torn(&mut self, at_the_end: bool) {
        let Some((place, bytes)) = self.file.torn.take() else {
            return;
        };
        if at_the_end && !self.file.compressed {
            return self.draft.note(About::HalfLine, bytes, || {
                format!(
                    "bytes of half a line end the last file, at {place}: it is being written, or the process \
                     was killed and the next start sets it aside"
                )
            });
        }
        let what = "half a line, and nothing in the chain says why";
        self.draft.find(Kind::Unexplained, place, what);
        self.doubtful += 1;
        self.tree = None;
    }

    /// Which holes are those of files that were removed, and which are damage.
    fn settle_holes(&mut self) {
        for mut hole in std::mem::take(&mut self.holes) {
            if let (Some(removed), Some((_, last))) = (&self.removed, hole.files)
                && last <= removed.through_file
            {
                let (file, seq) = (removed.through_file, removed.through_seq);
                let count = seq.min(hole.to) + 1 - hole.from.min(seq + 1);
                self.draft.note(About::Removed, count, || {
                    format!("events were removed with their files, up to file {file} and seq {seq}, as the chain says")
                });
                hole.from = hole.from.max(seq + 1);
                hole.files = None;
            }
            if hole.from > hole.to {
                continue;
            }
            let lines = match hole.to - hole.from {
                0 => format!("line {} of the chain is missing", hole.from),
                _ => format!("lines {} to {} of the chain are missing", hole.from, hole.to),
            };
            let but = match hole.doubtful {
                0 => String::new(),
                bad => format!(", up to bad lines that stand there ({bad})"),
            };
            let (kind, what) = match hole.files {
                Some((first, last)) if first == last => {
                    (Kind::MissingFiles, format!("file {first} is missing, and {lines}{but}"))
                }
                Some((first, last)) => (
                    Kind::MissingFiles,
                    format!("files {first} to {last} are missing, and {lines}{but}"),
                ),
                None => (Kind::Missing, format!("{lines}{but}")),
            };
            hole.place.seq = Some(hole.from);
            self.draft.find(kind, hole.place, what);
        }
    }

    /// What the published head says of the whole.
    fn settle_head(&mut self) {
        let Some(head) = self.head else {
            return self.draft.note(About::Head, 1, || {
                "no published head was given (--head), so nothing shows whether the newest lines, or the newest \
                 files, were cut off whole"
                    .to_owned()
            });
        };
        let end = self.last.as_ref().map_or(0, |last| last.seq);
        let place = Place {
            seq: Some(head.size),
            ..self.at.clone()
        };
        if self.node.as_deref().is_some_and(|node| node != head.node.as_str()) {
            let what = format!("the published head is of node {}", head.node);
            return self.draft.find(Kind::Rewritten, place, what);
        }
        if head.size > end {
            let what = format!(
                "the published head has {} lines and the chain ends with line {end}: what came after it was \
                 cut off",
                head.size
            );
            let seq = Some(end + 1);
            return self.draft.find(Kind::Truncated, Place { seq, ..place }, what);
        }
        match self.root_at_head {
            Some(root) if root == head.root => {}
            Some(_) => {
                let what = format!(
                    "the first {} lines are not those of the published head: the history was rewritten",
                    head.size
                );
                self.draft.find(Kind::Rewritten, place, what);
            }
            None => self.draft.note(About::Head, 1, || {
                format!(
                    "the published head ({} lines) could not be compared: its lines are not all there",
                    head.size
                )
            }),
        }
    }

    /// What signatures say of the end.
    fn settle_signatures(&mut self) {
        let (signed, end) = (
            self.draft.counts.signed_through.unwrap_or(0),
            self.last.as_ref().map_or(0, |last| last.seq),
        );
        if matches!(self.trust, Trust::Public(_)) && self.draft.counts.checkpoints == 0 {
            let what = "no checkpoint is signed by the public key, so nothing vouches for any line";
            return self.find(Kind::Unvouched, what);
        }
        if end > signed {
            let by = match self.trust {
                Trust::Keys(_) => "their MACs alone vouch for them",
                Trust::Public(_) => "the public key alone cannot tell whether they are genuine",
            };
            self.draft.note(About::Unsigned, end - signed, || {
                format!("lines after the last checkpoint, from seq {}: {by}", signed + 1)
            });
        }
    }
}

/// One line.
impl Judge<'_> {
    fn judge(&mut self, line: &Line<'_>) {
        if !self.is_authentic(line) {
            // Its number may be what was changed.
            return self.bad(Kind::Changed, "was changed: its MAC is of other bytes");
        }
        self.at.seq = Some(line.seq);
        let node = self.node.get_or_insert_with(|| line.node.to_owned());
        if node != line.node {
            let what = format!("is a line of node {}, in the chain of node {node}", line.node);
            return self.find(Kind::Foreign, what);
        }
        let kept = match upkeep_of(line) {
            Ok(kept) => kept,
            Err(()) => {
                self.find(Kind::Upkeep, "is about the chain itself, and cannot be understood");
                None
            }
        };
        if !self.take_place(line, kept.as_ref()) {
            self.stray = Some(line.mac);
            return;
        }
        self.stray = None;
        if let Some(kept) = kept {
            self.hear(line, kept);
        } else {
            self.follow_request(line);
        }
        if let Some(tree) = &mut self.tree {
            tree.push(line.leaf());
        }
        self.look_at_head();
        let counts = &mut self.draft.counts;
        if counts.first_seq.is_none() {
            counts.first_seq = Some(line.seq);
            counts.first_time = line.text(TIME).map(str::to_owned);
        }
        // Only the last one stays, so only its place is kept until then.
        if let Some(time) = line.text(TIME) {
            let last = counts.last_time.get_or_insert_default();
            last.clear();
            last.push_str(time);
        }
    }

    fn look_at_head(&mut self) {
        if let (Some(head), Some(tree)) = (self.head, &self.tree)
            && head.size == tree.size()
        {
            self.root_at_head = Some(tree.root());
        }
    }

    /// Whether the file's key made its MAC; by public keys alone nobody can tell, and signed roots will.
    fn is_authentic(&mut self, line: &Line<'_>) -> bool {
        let Trust::Keys(keys) = self.trust else {
            return true;
        };
        if let Some(key) = &self.file.key {
            return line.is_by(key);
        }
        if let Some(key) = keys.all().find(|key| line.is_by(key)) {
            self.file.key = Some(Arc::clone(key));
            return true;
        }
        if !self.file.begun
            && let Ok(Some(Kept {
                upkeep: Upkeep::FileOpened(opened),
                ..
            })) = upkeep_of(line)
            && KeyId::parse(&opened.key).is_none_or(|id| keys.find(id).is_none())
        {
            self.at.seq = Some(line.seq);
            let known: Vec<String> = keys.all().map(|key| key.id().to_string()).collect();
            let what = format!(
                "the file says that it is written with the key {}, which was not given (given: {}): either it \
                 was written by somebody else, or that key is missing in audit.old_keys",
                opened.key.escape_debug(),
                known.join(", ")
            );
            self.find(Kind::UnknownKey, what);
            self.file.unchecked = true;
        }
        self.file.unchecked
    }

    /// Whether a line stands where it belongs, or after lines that are missing.
    fn take_place(&mut self, line: &Line<'_>, kept: Option<&Kept>) -> bool {
        let (last, mac) = match &self.last {
            Some(last) => (last.seq, Some(last.mac)),
            None => (0, self.before_the_first(line)),
        };
        let next = last + 1;
        if line.seq < next {
            return self.is_late(line);
        }
        let doubt = std::mem::take(&mut self.doubtful);
        // A number that was changed: what follows goes on from the line that did not count.
        let renumbered = line.seq == next + 1 && self.stray == Some(line.prev);
        if line.seq > next + doubt && !renumbered {
            self.open_hole(line.seq, next, doubt);
        } else if doubt == 0 && line.seq == next && mac.is_some_and(|mac| mac != line.prev) {
            self.find(
                Kind::Unlinked,
                "does not follow the line before: that is not the one whose MAC it names",
            );
        }
        if line.seq != next || doubt > 0 {
            self.tree = None;
        }
        self.check_beginning(kept);
        self.last = Some(Last {
            seq: line.seq,
            mac: line.mac,
        });
        true
    }

    fn before_the_first(&self, line: &Line<'_>) -> Option<Mac> {
        let node = NodeId::try_from(line.node).ok()?;
        Some(self.file.key.as_ref()?.before_the_first(&node))
    }

    /// A line whose number has been passed: doubled, or out of its place.
    fn is_late(&mut self, line: &Line<'_>) -> bool {
        let last = self.last.as_ref();
        if last.is_some_and(|last| last.seq == line.seq && last.mac == line.mac) {
            self.find(Kind::Doubled, "is the line before once more");
            return false;
        }
        let Some(at) = self
            .holes
            .iter()
            .position(|hole| (hole.from..=hole.to).contains(&line.seq))
        else {
            let what = "stands after lines that come after it: it was copied or moved, or is of another history";
            self.find(Kind::Disordered, what);
            return false;
        };
        let hole = self.holes.swap_remove(at);
        if last.is_some_and(|last| last.seq == hole.to + 1 && last.mac == line.prev)
            && line.seq == hole.from + 1
        {
            // It goes on where it was before the jump, so the number that jumped is what was changed.
            let what = "was changed: the next line follows it, and not its number";
            self.draft.find(Kind::Changed, hole.place, what);
            self.last = Some(Last {
                seq: line.seq,
                mac: line.mac,
            });
            return true;
        }
        let place = Place {
            seq: Some(hole.to + 1),
            ..hole.place.clone()
        };
        let what = format!(
            "stands before line {} of the chain, which comes at {}:{}",
            line.seq, self.at.file, self.at.line
        );
        self.draft.find(Kind::Disordered, place, what);
        self.split(hole, line.seq);
        false
    }

    /// What is left of a hole once one of its lines was found elsewhere.
    fn split(&mut self, hole: Hole, seq: u64) {
        for (from, to) in [(hole.from, seq - 1), (seq + 1, hole.to)] {
            if from <= to {
                let (place, files) = (hole.place.clone(), hole.files);
                self.add_hole(Hole {
                    place,
                    from,
                    to,
                    doubtful: hole.doubtful,
                    files,
                });
            }
        }
    }

    fn open_hole(&mut self, seq: u64, next: u64, doubtful: u64) {
        let first = !self.file.begun || self.at.line == 1;
        let files = (first && self.at.number > self.file.after + 1)
            .then(|| (self.file.after + 1, self.at.number - 1));
        self.add_hole(Hole {
            place: self.at.clone(),
            from: next,
            to: seq - 1,
            doubtful,
            files,
        });
        self.stray = None;
    }

    fn add_hole(&mut self, hole: Hole) {
        if self.holes.len() < MOST_HOLES {
            self.holes.push(hole);
        } else {
            self.draft.find(Kind::Missing, hole.place, "further lines of the chain are missing");
        }
    }

    /// Whether a file begins with the line that files begin with. One that is missing has been found.
    fn check_beginning(&mut self, kept: Option<&Kept>) {
        let opened = matches!(kept, Some(Kept { upkeep: Upkeep::FileOpened(_), .. }));
        let follows = self.tree.is_some();
        if opened && self.file.begun {
            self.find(Kind::Headless, "is the first line of a file, and stands inside of one");
        } else if !opened && !self.file.begun && follows {
            self.find(Kind::Headless, "the file does not begin with a file_opened");
        }
    }

    /// Notes which requests are under way.
    fn follow_request(&mut self, line: &Line<'_>) {
        let opens = line.has(r#""phase":"intent""#);
        if !opens && !line.has(r#""phase":"outcome""#) && !line.has(r#""event":"status_refreshed""#) {
            return;
        }
        let Some(id) = line.text(REQUEST).and_then(|id| id.parse().ok()) else {
            return;
        };
        if !opens {
            self.open.remove(&id);
        } else if self.open.len() < MOST_OPEN {
            self.open.insert(id);
        }
    }
}

const TIME: &str = "\"time\":\"";
const REQUEST: &str = "\"request_id\":\"";

/// What a line says about the chain itself; nothing where it is about something else.
pub(in crate::audit) fn upkeep_of(line: &Line<'_>) -> Result<Option<Kept>, ()> {
    match line.text("\"event\":\"") {
        Some("audit_gap" | "checkpoint" | "clock_step" | "file_opened" | "files_removed") => {
            serde_json::from_slice(line.bytes()).map(Some).map_err(drop)
        }
        Some(_) | None => Ok(None),
    }
}

/// What lines say about the chain itself.
impl Judge<'_> {
    fn hear(&mut self, line: &Line<'_>, kept: Kept) {
        match kept.upkeep {
            Upkeep::AuditGap(gap) => self.hear_gap(&gap),
            Upkeep::Checkpoint(signed) => self.hear_checkpoint(line, signed),
            Upkeep::ClockStep { ms } => {
                let place = self.at.to_string();
                self.draft.note(About::ClockSteps, 1, || {
                    format!("times jump where the clock was set, first by {ms} ms at {place}")
                });
            }
            Upkeep::FileOpened(opened) => self.hear_opened(line, opened),
            Upkeep::FilesRemoved(removed) => {
                if removed.through_file >= self.at.number || removed.through_seq >= line.seq {
                    self.find(Kind::Upkeep, "says that lines were removed that come after it");
                } else {
                    self.removed = Some(removed);
                }
            }
            Upkeep::Other => {}
        }
    }

    fn hear_gap(&mut self, gap: &Gap) {
        let place = self.at.to_string();
        if let Some(lost) = gap.lost.filter(|lost| *lost > 0) {
            self.draft.counts.lost += lost;
            self.draft.note(About::Lost, lost, || {
                format!("events are lost, as the gateway itself recorded, first at {place}")
            });
        }
        let Some(file) = gap.file else {
            return;
        };
        let cut = self.cuts.get(&file);
        if gap.from_byte.is_some() && cut == gap.from_byte.as_ref() {
            self.passed_over.remove(&file);
        }
        let bytes = gap.bytes.unwrap_or(0);
        self.draft.note(About::SetAside, bytes, || {
            format!("bytes at the end of a file were set aside, as recorded at {place} ({})", gap.cause.escape_debug())
        });
    }

    fn hear_opened(&mut self, line: &Line<'_>, opened: Opened) {
        if opened.file != self.at.number {
            let what = format!("the file of this name says that its number is {}", opened.file);
            self.find(Kind::Misnamed, what);
        }
        match self.trust {
            Trust::Keys(_) => self.check_key(line, &opened),
            Trust::Public(keys) => {
                let given = |key: &PublicKey| key.to_string() == opened.public_key;
                if !keys.iter().any(given) {
                    let what = format!(
                        "the file says that it is signed with another public key, {}: either the chain was \
                         written by somebody else, or audit.key was changed here and both keys must be given",
                        opened.public_key.escape_debug()
                    );
                    self.find(Kind::UnknownKey, what);
                }
            }
        }
        self.check_tree(line, opened.subtrees);
        if self.draft.counts.first_seq.is_none() {
            self.open = opened.open.into_iter().take(MOST_OPEN).collect();
        }
    }

    fn check_key(&mut self, line: &Line<'_>, opened: &Opened) {
        let (Some(key), Ok(node)) = (&self.file.key, NodeId::try_from(line.node)) else {
            return;
        };
        if key.id().to_string() != opened.key || key.public(&node).to_string() != opened.public_key {
            self.find(Kind::UnknownKey, "names another key than the one it is written with");
        }
    }

    /// Compares the tree that a line lists with the one that the lines before it make, or goes on with it
    /// where those are not known.
    fn check_tree(&mut self, line: &Line<'_>, subtrees: Vec<Hash>) {
        let listed = Tree::restore(line.seq - 1, subtrees);
        if listed.is_none() || self.tree.is_some() && self.tree != listed {
            self.find(
                Kind::Root,
                format!("does not fit the lines before it: {}", self.suspects()),
            );
        }
        self.tree = listed;
        self.look_at_head();
    }

    /// Between which lines something was changed, where a root shows it.
    fn suspects(&self) -> String {
        let signed = self.draft.counts.signed_through.unwrap_or(0);
        let end = self.at.seq.map_or(0, |seq| seq - 1);
        let from = (signed + 1).max(self.draft.counts.first_seq.unwrap_or(1));
        format!("one of the lines {from} to {end} is not what was written")
    }

    fn hear_checkpoint(&mut self, line: &Line<'_>, signed: Signed) {
        let Ok(node) = NodeId::try_from(line.node) else {
            return;
        };
        let checkpoint = Checkpoint {
            node,
            size: signed.size,
            root: signed.root,
        };
        let signer = self.signers(&checkpoint.node).into_iter();
        let signer = signer.filter(|key| key.made(&signed.signature, &checkpoint));
        let Some(signer) = signer.last() else {
            let what = match self.trust {
                Trust::Keys(_) => "the checkpoint is not signed by the key of its file",
                Trust::Public(_) => "the checkpoint is not signed by the public key that was given",
            };
            self.find(Kind::Signature, what);
            return self.check_tree(line, signed.subtrees);
        };
        let listed = Tree::restore(signed.size, signed.subtrees.clone());
        let fits = listed.is_some_and(|tree| tree.root() == signed.root);
        let unknown = self.tree.is_none();
        if !fits || signed.size != line.seq - 1 {
            self.find(Kind::Root, "the checkpoint contradicts itself");
        } else {
            if unknown && matches!(self.trust, Trust::Public(_)) {
                let what = format!(
                    "its root cannot be compared, since lines before it are missing or bad: {}, or is missing",
                    self.suspects()
                );
                self.find(Kind::Unvouched, what);
            }
            self.check_tree(line, signed.subtrees);
        }
        let counts = &mut self.draft.counts;
        counts.checkpoints += 1;
        counts.signed_through = Some(signed.size);
        self.draft.head = Some(checkpoint.note(&signer, &signed.signature));
    }

    /// Who may have signed a checkpoint here.
    fn signers(&self, node: &NodeId) -> Vec<PublicKey> {
        match (self.trust, &self.file.key) {
            (Trust::Keys(_), Some(key)) => vec![key.public(node)],
            (Trust::Keys(keys), None) => keys.all().map(|key| key.public(node)).collect(),
            (Trust::Public(keys), _) => keys.clone(),
        }
    }
}
