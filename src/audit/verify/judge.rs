//! Judges the lines of a chain, one after the other. Decides; reads nothing.
//!
//! Invariant: a line counts as good only if its MAC, or in the end a signed root over it, says so and it
//! stands in its place. After a bad line the following ones are judged by what they say themselves, so that
//! one wound is one finding: the place is known again from the next good line, the tree from the next line
//! that lists its subtrees.

mod end;
mod heads;
mod hear;
mod keys;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use self::{heads::Heads, keys::Keys};
use super::{
    PublishedHead,
    report::{About, Counts, Draft, Kind, Means, Place, Report},
};
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
    heads: Heads<'a>,
    keys: Keys,
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
    /// What a line says of removed files that no signed root vouches for yet.
    unsigned_removal: Option<Removed>,
    /// Files of which a line says that their tails do not count, and no signed root vouches for it yet.
    unsigned_gaps: Vec<u64>,
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
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a question of its own"
)]
struct FileState {
    compressed: bool,
    key: Option<Arc<AuditKey>>,
    /// By whom its checkpoints are signed, as it says, where only public keys are believed.
    public: Option<PublicKey>,
    /// Written with a key that nobody gave: its MACs and signatures say nothing.
    unchecked: bool,
    /// Its first line has been judged.
    begun: bool,
    /// The last file before it that is there.
    after: u64,
    torn: Option<(Place, u64)>,
    unreadable: Option<Place>,
    /// One of its lines counts.
    counted: bool,
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
    /// Lines of it stand elsewhere, which has been said.
    told: bool,
}

impl<'a> Judge<'a> {
    pub(super) fn new(trust: &'a Trust, heads: &'a [PublishedHead], cuts: &'a Cuts) -> Self {
        let node = match trust {
            Trust::Keys(_) => None,
            Trust::Public(keys) => keys.first().map(|key| key.node().to_string()),
        };
        Self {
            trust,
            heads: Heads::new(heads),
            keys: Keys::default(),
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
            unsigned_removal: None,
            unsigned_gaps: Vec::new(),
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
        self.draft.find(Kind::Unreadable, place.clone(), what);
        self.file.unreadable = Some(place);
        self.tree = None;
    }

    /// Both forms of a file are there, and this one is not looked at.
    pub(super) fn left_over(&mut self, name: &str) {
        self.draft.note(About::LeftOver, 1, || {
            format!("{name} first, which was not looked at: it is being written just now, or was left over")
        });
    }

    /// How much there was so far.
    pub(super) const fn counts(&self) -> &Counts {
        &self.draft.counts
    }

    /// All files were read.
    pub(super) fn finish(mut self) -> Report {
        self.settle_torn(true);
        self.settle_holes();
        for place in std::mem::take(&mut self.passed_over).into_values() {
            let what =
                "from here on the file was passed over, and no good line says that it may be";
            self.draft.find(Kind::Unexplained, place, what);
        }
        if let Some(place) = self.file.unreadable.take() {
            let what = "nobody knows how many lines there were behind what could be read";
            self.draft.find(Kind::Missing, place, what);
        }
        self.settle_keys();
        self.settle_heads();
        self.settle_signatures();
        let under_way = u64::try_from(self.open.len()).unwrap_or(u64::MAX);
        if let Some(id) = self.open.first() {
            self.draft.note(About::UnderWay, under_way, || {
                format!(
                    "with an intent and no outcome at the end, {id} first: they are under way, or were when the \
                     process was killed; the next start closes those"
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
            let what = format!(
                "is a line of node {}, in the chain of node {node}",
                line.node.escape_debug()
            );
            return self.find(Kind::Foreign, what);
        }
        let kept = upkeep_of(line).unwrap_or_else(|()| {
            self.find(
                Kind::Upkeep,
                "is about the chain itself, and cannot be understood",
            );
            None
        });
        self.check_name(kept.as_ref());
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
        self.look_at_heads();
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
            self.meet_unknown(&opened.key);
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
                "names another MAC for the line before than that has: one of the two is not as it was written",
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
        self.file.counted = true;
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
        if !hole.told {
            let place = Place {
                seq: Some(hole.to + 1),
                ..hole.place.clone()
            };
            let what = format!(
                "stands before line {} of the chain, which comes at {}:{}",
                line.seq, self.at.file, self.at.line
            );
            self.draft.find(Kind::Disordered, place, what);
        }
        self.split(&hole, line.seq);
        false
    }

    /// What is left of a hole once one of its lines was found elsewhere.
    fn split(&mut self, hole: &Hole, seq: u64) {
        for (from, to) in [(hole.from, seq - 1), (seq + 1, hole.to)] {
            if from <= to {
                let (place, files) = (hole.place.clone(), hole.files);
                self.add_hole(Hole {
                    place,
                    from,
                    to,
                    doubtful: 0,
                    files,
                    told: true,
                });
            }
        }
    }

    fn open_hole(&mut self, seq: u64, next: u64, doubtful: u64) {
        let files = (!self.file.counted && self.at.number > self.file.after + 1)
            .then(|| (self.file.after + 1, self.at.number - 1));
        self.add_hole(Hole {
            place: self.at.clone(),
            from: next,
            to: seq - 1,
            doubtful,
            files,
            told: false,
        });
        self.stray = None;
    }

    fn add_hole(&mut self, hole: Hole) {
        if self.holes.len() < MOST_HOLES {
            self.holes.push(hole);
        } else {
            self.draft.find(
                Kind::Missing,
                hole.place,
                "further lines of the chain are missing",
            );
        }
    }

    /// Whether a file is the one that its name says; also where it stands among others' numbers.
    fn check_name(&mut self, kept: Option<&Kept>) {
        if let Some(Kept {
            upkeep: Upkeep::FileOpened(opened),
            ..
        }) = kept
            && opened.file != self.at.number
        {
            let what = format!(
                "the file of this name says that its number is {}",
                opened.file
            );
            self.find(Kind::Misnamed, what);
        }
    }

    /// Whether a file begins with the line that files begin with. One that is missing has been found.
    fn check_beginning(&mut self, kept: Option<&Kept>) {
        let opened = matches!(
            kept,
            Some(Kept {
                upkeep: Upkeep::FileOpened(_),
                ..
            })
        );
        let follows = self.tree.is_some();
        if opened && self.file.begun {
            self.find(
                Kind::Headless,
                "is the first line of a file, and stands inside of one",
            );
        } else if !opened && !self.file.begun && follows {
            self.find(Kind::Headless, "the file does not begin with a file_opened");
        }
    }

    /// Notes which requests are under way.
    fn follow_request(&mut self, line: &Line<'_>) {
        let opens = line.has(r#""phase":"intent""#);
        if !opens && !line.has(r#""phase":"outcome""#) && !line.has(r#""event":"status_refreshed""#)
        {
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

/// What a line at the beginning of a file says does not count of a file before it.
pub(super) fn cut_of(number: u64, line: &[u8]) -> Option<(u64, u64)> {
    let kept = upkeep_of(&Line::parse(line)?).ok()??;
    let Upkeep::AuditGap(gap) = kept.upkeep else {
        return None;
    };
    Some((gap.file.filter(|cut| *cut < number)?, gap.from_byte?))
}
