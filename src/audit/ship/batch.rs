//! Lines on their way, in the order of the chain.

use bytes::Bytes;

use super::cursor::Cursor;
use crate::ident::NodeId;

/// Some lines, and how far they lead.
#[derive(Default)]
pub(super) struct Batch {
    /// All of them, each with its line break.
    pub(super) bytes: Bytes,
    pub(super) lines: Vec<Entry>,
    /// The last line that was read, sent or not.
    pub(super) through: Option<Cursor>,
    /// How many lines were not there to be read.
    pub(super) missing: u64,
    /// Whether there may be more already.
    pub(super) more: bool,
}

/// A line of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) at: Cursor,
    /// Where it ends, its line break included.
    pub(super) end: usize,
}

/// Lines of a batch that are sent together, at least one.
#[derive(Clone, Copy)]
pub(super) struct Slice<'b> {
    node: &'b NodeId,
    bytes: &'b Bytes,
    lines: &'b [Entry],
    begin: usize,
}

impl Batch {
    /// At most so many lines after the first ones.
    pub(super) fn slice<'b>(&'b self, node: &'b NodeId, after: usize, count: usize) -> Slice<'b> {
        let (before, rest) = self.lines.split_at(after.min(self.lines.len()));
        Slice {
            node,
            bytes: &self.bytes,
            lines: rest.split_at(count.min(rest.len())).0,
            begin: before.last().map_or(0, |entry| entry.end),
        }
    }
}

impl<'b> Slice<'b> {
    pub(super) const fn len(&self) -> usize {
        self.lines.len()
    }

    pub(super) const fn node(&self) -> &'b NodeId {
        self.node
    }

    /// The last line.
    pub(super) fn last(&self) -> Option<Cursor> {
        self.lines.last().map(|entry| entry.at)
    }

    /// What tells this request from any other: `"NODE:FIRST-LAST"`.
    pub(super) fn key(&self) -> String {
        let seq = |entry: Option<&Entry>| entry.map_or(0, |entry| entry.at.seq);
        let (first, last) = (seq(self.lines.first()), seq(self.lines.last()));
        format!("\"{}:{first}-{last}\"", self.node)
    }

    /// All lines, each with its line break.
    pub(super) fn bytes(&self) -> Bytes {
        let end = self.lines.last().map_or(self.begin, |entry| entry.end);
        self.bytes.slice(self.begin..end)
    }

    /// Each line without its line break, with its number.
    pub(super) fn each(&self) -> impl Iterator<Item = (u64, Bytes)> + use<'b> {
        let (bytes, mut begin) = (self.bytes, self.begin);
        self.lines.iter().map(move |entry| {
            let line = bytes.slice(begin..entry.end.saturating_sub(1));
            begin = entry.end;
            (entry.at.seq, line)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_has_its_lines_and_is_called_after_them() {
        let node = NodeId::try_from("gw-1").unwrap();
        let at = |seq| Cursor { seq, file: 1 };
        let batch = Batch {
            bytes: Bytes::from_static(b"a\nbb\nccc\n"),
            lines: vec![
                Entry { at: at(7), end: 2 },
                Entry { at: at(8), end: 5 },
                Entry { at: at(9), end: 9 },
            ],
            ..Batch::default()
        };
        let slice = batch.slice(&node, 1, 9);
        assert_eq!((slice.len(), slice.last()), (2, Some(at(9))));
        assert_eq!(slice.key(), "\"gw-1:8-9\"");
        assert_eq!(slice.bytes(), "bb\nccc\n");
        let lines: Vec<_> = slice.each().collect();
        assert_eq!(lines, [(8, "bb".into()), (9, "ccc".into())]);
        assert_eq!(batch.slice(&node, 0, 1).bytes(), "a\n");
    }
}
