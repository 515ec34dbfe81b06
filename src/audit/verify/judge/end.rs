//! What can be judged at the end of a file, or of all of them: what is missing for good, and what no signature covers.

use super::{About, Hole, Judge, Kind, Trust};

/// What is passed over, and what hangs over the end of a file.
impl Judge<'_> {
    /// Whether bytes up to here are said not to count.
    pub(super) fn is_cut(&self, end: u64) -> bool {
        let cut = self.cuts.get(&self.at.number);
        cut.is_some_and(|from| end > *from)
    }

    pub(super) fn pass_over(&mut self, bytes: u64) {
        let place = self.at.clone();
        let first = self.passed_over.entry(place.number).or_insert(place);
        let place = first.to_string();
        self.draft.note(About::SetAside, bytes, || {
            format!("at the end of a file, as the chain says: from {place}")
        });
    }

    /// Half a line was at the end of what was read: is that the end of everything?
    pub(super) fn settle_torn(&mut self, at_the_end: bool) {
        let Some((place, bytes)) = self.file.torn.take() else {
            return;
        };
        if at_the_end && !self.file.compressed {
            return self.draft.note(About::HalfLine, bytes, || {
                format!(
                    "at the end of the last file, at {place}: it is being written, or the process \
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
    pub(super) fn settle_holes(&mut self) {
        for mut hole in std::mem::take(&mut self.holes) {
            self.settle_removed(&mut hole);
            if hole.to < hole.from + hole.doubtful {
                continue;
            }
            let lines = match hole.to - hole.from {
                0 => format!("line {} of the chain is missing", hole.from),
                _ => format!(
                    "lines {} to {} of the chain are missing",
                    hole.from, hole.to
                ),
            };
            let but = match hole.doubtful {
                0 => String::new(),
                bad => format!(", up to bad lines that stand there ({bad})"),
            };
            let (kind, what) = match hole.files {
                Some((first, last)) if first == last => (
                    Kind::MissingFiles,
                    format!("file {first} is missing, and {lines}{but}"),
                ),
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

    /// Takes off a hole what was removed with its files, which only a hole of whole files begins with.
    fn settle_removed(&mut self, hole: &mut Hole) {
        let (Some(removed), Some((first, last))) = (&self.removed, hole.files) else {
            return;
        };
        let (file, seq) = (removed.through_file, removed.through_seq);
        if first > file || hole.from > seq {
            return;
        }
        let count = seq.min(hole.to) + 1 - hole.from;
        self.draft.note(About::Removed, count, || {
            format!("with their files, up to file {file} and seq {seq}, as the chain says")
        });
        hole.from = seq + 1;
        hole.files = (last > file).then_some((file + 1, last));
    }

    /// What signatures say of the end.
    pub(super) fn settle_signatures(&mut self) {
        // Nothing was checked at all, or nothing at the end: which has been said.
        if self.file.unchecked {
            return;
        }
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
                format!("from seq {}: {by}", signed + 1)
            });
        }
    }
}
