//! What lines say about the chain itself, and whether it fits what was read.

use super::{
    About, Checkpoint, Gap, Hash, Judge, Kept, Kind, Line, MOST_OPEN, NodeId, Opened, PublicKey,
    Signed, Tree, Trust, Upkeep,
};

/// The cause of a gap that somebody made who changed a file.
const DAMAGED: &str = "damaged";

/// What lines say about the chain itself.
impl Judge<'_> {
    pub(super) fn hear(&mut self, line: &Line<'_>, kept: Kept) {
        match kept.upkeep {
            Upkeep::AuditGap(gap) => self.hear_gap(&gap),
            Upkeep::Checkpoint(signed) => self.hear_checkpoint(line, signed),
            Upkeep::ClockStep { ms } => {
                let place = self.at.to_string();
                self.draft.note(About::ClockSteps, 1, || {
                    format!("the first by {ms} ms, at {place}")
                });
            }
            Upkeep::FileOpened(opened) => self.hear_opened(line, opened),
            Upkeep::FilesRemoved(removed) => {
                if removed.through_file >= self.at.number || removed.through_seq >= line.seq {
                    self.find(
                        Kind::Upkeep,
                        "says that lines were removed that come after it",
                    );
                } else if matches!(self.trust, Trust::Keys(_)) {
                    self.removed = Some(removed);
                } else {
                    // Anybody may have written it who can write: files are missing until a root over it is
                    // signed.
                    self.unsigned_removal = Some(removed);
                }
            }
            Upkeep::Other
            | Upkeep::RejectionsLeftOut { .. }
            | Upkeep::Start { .. }
            | Upkeep::Stop { .. } => {}
        }
    }

    fn hear_gap(&mut self, gap: &Gap) {
        let place = self.at.to_string();
        if let Some(lost) = gap.lost.filter(|lost| *lost > 0) {
            // A line that only its chain vouches for may say any number.
            let lost_so_far = &mut self.draft.counts.lost;
            *lost_so_far = lost_so_far.saturating_add(lost);
            self.draft.note(About::Lost, lost, || {
                format!("as the gateway itself recorded, first at {place}")
            });
        }
        let Some(file) = gap.file else {
            return;
        };
        let cut = self.cuts.get(&file);
        if gap.from_byte.is_some() && cut == gap.from_byte.as_ref() {
            match self.trust {
                Trust::Keys(_) => drop(self.passed_over.remove(&file)),
                // As with removed files: anybody may have written it.
                Trust::Public(_) => self.unsigned_gaps.push(file),
            }
        }
        let bytes = gap.bytes.unwrap_or(0);
        if gap.cause == DAMAGED {
            let from = gap.from_byte.unwrap_or(0);
            let what = format!(
                "{bytes} bytes of file {file}, from byte {from} on, were set aside when the gateway started, with at \
                 least one whole line among them: no crash leaves that. Compare their copy (audit-{file:08}.torn-{from}) \
                 with the second place, or the chain with a published head"
            );
            return self.find(Kind::SetAside, what);
        }
        if bytes == 0 {
            return;
        }
        self.draft.note(About::SetAside, bytes, || {
            format!(
                "at the end of a file, as recorded at {place} ({})",
                gap.cause.escape_debug()
            )
        });
    }

    fn hear_opened(&mut self, line: &Line<'_>, opened: Opened) {
        match self.trust {
            Trust::Keys(_) => self.check_key(line, &opened),
            Trust::Public(keys) => {
                let named = |key: &&PublicKey| key.to_string() == opened.public_key;
                self.file.public = keys.iter().find(named).cloned();
                if self.file.public.is_some() {
                    self.meet_known(&opened.public_key);
                } else {
                    self.meet_unknown(&opened.public_key);
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
        if key.id().to_string() != opened.key || key.public(&node).to_string() != opened.public_key
        {
            return self.find(
                Kind::UnknownKey,
                "names another key than the one it is written with",
            );
        }
        self.meet_known(&opened.public_key);
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
        self.look_at_heads();
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
        if self.file.unchecked {
            return self.check_tree(line, signed.subtrees);
        }
        let signer = self.signers(&checkpoint.node).into_iter();
        let signer = signer.filter(|key| key.made(&signed.signature, &checkpoint));
        let Some(signer) = signer.last() else {
            let what = match self.trust {
                Trust::Keys(_) => "the checkpoint is not signed by the key of its file",
                Trust::Public(_) => "the checkpoint is not signed by the public key of its file",
            };
            self.find(Kind::Signature, what);
            return self.check_tree(line, signed.subtrees);
        };
        let listed = Tree::restore(signed.size, signed.subtrees.clone());
        let fits = listed.is_some_and(|tree| tree.root() == signed.root);
        let unknown = self.tree.is_none();
        if !fits || signed.size != line.seq - 1 {
            return self.find(Kind::Root, "the checkpoint contradicts itself");
        }
        if unknown && matches!(self.trust, Trust::Public(_)) {
            let what = format!(
                "its root cannot be compared, since lines before it are missing or bad: {}, or is missing",
                self.suspects()
            );
            self.find(Kind::Unvouched, what);
        }
        self.check_tree(line, signed.subtrees);
        self.removed = self.unsigned_removal.take().or(self.removed.take());
        for file in self.unsigned_gaps.drain(..) {
            self.passed_over.remove(&file);
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
            (Trust::Public(keys), _) => match &self.file.public {
                Some(key) => vec![key.clone()],
                None => keys.clone(),
            },
        }
    }
}
