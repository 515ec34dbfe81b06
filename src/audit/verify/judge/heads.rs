//! Whether the chain is the one whose heads were published.

use std::collections::BTreeMap;

use super::{About, Checkpoint, Hash, Judge, Kind, Place, PublishedHead};

/// The published heads, and what the lines make of them.
pub(super) struct Heads<'a> {
    given: &'a [PublishedHead],
    /// For each size that one of them has, once the lines got there: the root, and where that is.
    roots: BTreeMap<u64, Option<(Hash, Place)>>,
}

impl<'a> Heads<'a> {
    pub(super) fn new(given: &'a [PublishedHead]) -> Self {
        let sizes = given.iter().map(|head| (head.checkpoint.size, None));
        Self {
            given,
            roots: sizes.collect(),
        }
    }
}

/// What comparing some of the heads came to.
#[derive(Default)]
struct Compared<'a> {
    same: Vec<&'a PublishedHead>,
    other: Vec<(&'a PublishedHead, Place)>,
    /// Of more lines than there are.
    beyond: Vec<&'a PublishedHead>,
    /// Nobody knows the tree of their sizes.
    unknown: Vec<&'a PublishedHead>,
}

impl<'a> Judge<'a> {
    /// The tree has grown, or is known again.
    pub(super) fn look_at_heads(&mut self) {
        let Some(tree) = &self.tree else {
            return;
        };
        if let Some(found) = self.heads.roots.get_mut(&tree.size()) {
            let place = found.take().map_or_else(|| self.at.clone(), |(_, at)| at);
            *found = Some((tree.root(), place));
        }
    }

    /// What the published heads say of the whole.
    pub(super) fn settle_heads(&mut self) {
        let Some(first) = self.heads.given.first() else {
            return self.draft.note(About::Head, 1, || {
                "no published head was given (--head), so nothing shows whether the newest lines, or the newest \
                 files, were cut off whole"
                    .to_owned()
            });
        };
        let (all, theirs) = (self.heads.given.len(), first.checkpoint.node.as_str());
        self.draft.counts.heads = count(all);
        if let Some(ours) = self.node.as_deref().filter(|ours| *ours != theirs) {
            let what = format!(
                "the published head is of node {theirs}, the chain is of node {}: give a head of this chain; if \
                 it is one, these are not its files",
                ours.escape_debug()
            );
            return self.find(Kind::Foreign, what);
        }
        let compared = self.compare();
        self.draft.counts.heads_compared = count(all - compared.unknown.len());
        self.tell_other(&compared);
        self.tell_beyond(&compared);
        self.tell_unknown(&compared);
    }

    /// Each group is in the order of the sizes.
    fn compare(&mut self) -> Compared<'a> {
        let mut heads: Vec<_> = self.heads.given.iter().collect();
        heads.sort_by_key(|head| head.checkpoint.size);
        let mut compared = Compared::default();
        for head in heads {
            let Checkpoint { size, root, .. } = &head.checkpoint;
            match self.heads.roots.get(size).cloned().flatten() {
                _ if *size > self.end() => compared.beyond.push(head),
                Some((found, _)) if found == *root => compared.same.push(head),
                Some((_, place)) => compared.other.push((head, place)),
                None => compared.unknown.push(head),
            }
        }
        compared
    }

    fn tell_other(&mut self, compared: &Compared<'_>) {
        let Some((head, place)) = compared.other.first() else {
            return;
        };
        let what = format!(
            "the first {} lines are not those of the published head{}: the history was rewritten",
            head.checkpoint.size,
            self.which(head)
        );
        self.draft.find(Kind::Rewritten, place.clone(), what);
    }

    fn tell_beyond(&mut self, compared: &Compared<'_>) {
        let Some(newest) = compared.beyond.last() else {
            return;
        };
        let what = format!(
            "the published head{} has {} lines and the chain ends with line {}: what came after it was cut off",
            self.which(newest),
            newest.checkpoint.size,
            self.end()
        );
        let place = Place {
            line: self.at.line + 1,
            seq: Some(self.end() + 1 + self.doubtful),
            ..self.at.clone()
        };
        self.draft.find(Kind::Truncated, place, what);
    }

    /// Old ones whose lines were removed say nothing that a newer one does not say.
    fn tell_unknown(&mut self, compared: &Compared<'_>) {
        let removed = self
            .removed
            .as_ref()
            .map_or(0, |removed| removed.through_seq);
        let newest_same = compared.same.last().map_or(0, |head| head.checkpoint.size);
        let past = removed.min(newest_same);
        let past = compared
            .unknown
            .partition_point(|head| head.checkpoint.size <= past);
        if past > 0 {
            self.draft.note(About::OldHeads, count(past), || {
                "their lines were removed with their files, and a newer head was compared"
                    .to_owned()
            });
        }
        let Some(newest) = compared.unknown.get(past..).and_then(<[_]>::last) else {
            return;
        };
        let what = format!(
            "the published head{} of {} lines could not be compared, since not all of them are there: give a newer \
             one, or more of the files",
            self.which(newest),
            newest.checkpoint.size
        );
        self.find(Kind::Uncompared, what);
    }

    /// Which of several a head is.
    fn which(&self, head: &PublishedHead) -> String {
        if self.heads.given.len() == 1 {
            return String::new();
        }
        format!(" (line {} of its file)", head.line)
    }

    /// The number of the last line.
    fn end(&self) -> u64 {
        self.last.as_ref().map_or(0, |last| last.seq)
    }
}

fn count(heads: usize) -> u64 {
    u64::try_from(heads).unwrap_or(u64::MAX)
}
