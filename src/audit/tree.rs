//! The Merkle tree over the lines of a chain (RFC 9162, section 2.1): line `seq` is the leaf `seq - 1`.
//!
//! What is kept of a tree is the roots of its complete subtrees, one a bit of its size. That is enough to
//! go on, and to say the root.

use std::{borrow::Cow, fmt, ops::Range};

use aws_lc_rs::digest::{self, SHA256};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A SHA-256 hash of a leaf or a node; as text in base64.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash([u8; 32]);

impl Hash {
    /// The hash of a leaf: a line without its line break.
    pub fn of_leaf(line: &[u8]) -> Self {
        // Leaves and nodes begin differently, so that neither can stand for the other.
        Self::of(&[&[0], line])
    }

    fn of_node(left: Self, right: Self) -> Self {
        Self::of(&[&[1], &left.0, &right.0])
    }

    fn of(parts: &[&[u8]]) -> Self {
        let mut context = digest::Context::new(&SHA256);
        for part in parts {
            context.update(part);
        }
        let digest = context.finish();
        Self(digest.as_ref().first_chunk().copied().unwrap_or([0; 32]))
    }

    /// Reads what `Display` wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = BASE64_STANDARD.decode(text).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom("expected 32 bytes in base64"))
    }
}

/// A tree that grows to the right.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    /// The roots of the complete subtrees, the largest first.
    subtrees: Vec<Hash>,
}

impl Tree {
    /// A tree of so many leaves from the roots of its complete subtrees, the largest first; nothing where
    /// that is not how many there must be.
    pub fn restore(size: u64, subtrees: Vec<Hash>) -> Option<Self> {
        let fits = u32::try_from(subtrees.len()).is_ok_and(|count| count == size.count_ones());
        fits.then_some(Self { size, subtrees })
    }

    /// How many leaves it has.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The roots of its complete subtrees, the largest first.
    pub fn subtrees(&self) -> &[Hash] {
        &self.subtrees
    }

    /// Puts a leaf at the right end.
    pub fn push(&mut self, leaf: Hash) {
        let mut grown = leaf;
        // As when adding one to a binary number: each full subtree carries.
        for _ in 0..self.size.trailing_ones() {
            let Some(left) = self.subtrees.pop() else {
                break;
            };
            grown = Hash::of_node(left, grown);
        }
        self.subtrees.push(grown);
        self.size += 1;
    }

    /// The tree's root; of an empty one the hash of nothing.
    pub fn root(&self) -> Hash {
        let mut from_the_right = self.subtrees.iter().rev();
        let Some(last) = from_the_right.next() else {
            return Hash::of(&[]);
        };
        from_the_right.fold(*last, |right, left| Hash::of_node(*left, right))
    }
}

/// Gathers the inclusion proof (RFC 9162, section 2.1.3) of one leaf from one pass over the leaves.
#[derive(Debug)]
pub struct Prover {
    next: u64,
    /// What the path is made of, in the order of the proof.
    siblings: Vec<(Range<u64>, Tree)>,
}

impl Prover {
    /// For the leaf at `index` in a tree of `size` leaves, those before `from` known as the tree that they
    /// make; nothing where the leaf is not among those that are still to come.
    pub fn new(index: u64, size: u64, from: &Tree) -> Option<Self> {
        if index < from.size || index >= size {
            return None;
        }
        let begun = |range: Range<u64>| {
            let tree = known_of(&range, from);
            (range, tree)
        };
        Some(Self {
            next: from.size,
            siblings: siblings(index, 0..size).into_iter().map(begun).collect(),
        })
    }

    /// The next leaf.
    pub fn push(&mut self, leaf: Hash) {
        for (range, tree) in &mut self.siblings {
            if range.contains(&self.next) {
                tree.push(leaf);
            }
        }
        self.next += 1;
    }

    /// The path from the leaf to the root, once all leaves were pushed; nothing before.
    pub fn path(&self) -> Option<Vec<Hash>> {
        let hash = |(range, tree): &(Range<u64>, Tree)| {
            (tree.size == range.end - range.start).then(|| tree.root())
        };
        self.siblings.iter().map(hash).collect()
    }
}

/// Of which leaves the hashes on the path of a leaf are, from the leaf up.
fn siblings(index: u64, range: Range<u64>) -> Vec<Range<u64>> {
    let size = range.end - range.start;
    if size <= 1 {
        return Vec::new();
    }
    // The largest power of two below the size.
    let middle = range.start + (1 << (size - 1).ilog2());
    let (left, right) = (range.start..middle, middle..range.end);
    let (inside, sibling) = if index < middle {
        (left, right)
    } else {
        (right, left)
    };
    let mut path = siblings(index, inside);
    path.push(sibling);
    path
}

/// What is known of the leaves in `range`, from the tree of all leaves before some point.
fn known_of(range: &Range<u64>, from: &Tree) -> Tree {
    let mut known = Tree::default();
    let mut offset = 0;
    let bits = (0..u64::BITS).rev().filter(|bit| from.size >> bit & 1 == 1);
    for (bit, subtree) in bits.zip(&from.subtrees) {
        let end = offset + (1 << bit);
        // Ranges and subtrees are aligned alike: one is in the other, or they are apart.
        if range.start <= offset && end <= range.end {
            known.size += end - offset;
            known.subtrees.push(*subtree);
        }
        offset = end;
    }
    known
}

/// Whether a leaf is at `index` in the tree of `size` leaves with this root (RFC 9162, section 2.1.3.2).
pub fn includes(root: Hash, size: u64, index: u64, leaf: Hash, path: &[Hash]) -> bool {
    if index >= size {
        return false;
    }
    let (mut place, mut last, mut hash) = (index, size - 1, leaf);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if place & 1 == 1 || place == last {
            hash = Hash::of_node(*sibling, hash);
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            hash = Hash::of_node(hash, *sibling);
        }
        place >>= 1;
        last >>= 1;
    }
    last == 0 && hash == root
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(count: u64) -> Vec<Hash> {
        (0..count)
            .map(|number| Hash::of_leaf(&number.to_be_bytes()))
            .collect()
    }

    fn tree(leaves: &[Hash]) -> Tree {
        let mut tree = Tree::default();
        for leaf in leaves {
            tree.push(*leaf);
        }
        tree
    }

    /// As the RFC defines it.
    fn defined(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Hash::of(&[]),
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                Hash::of_node(defined(left), defined(right))
            }
        }
    }

    #[test]
    fn the_root_is_what_the_rfc_defines() {
        let all = leaves(130);
        for size in 0..=all.len() {
            assert_eq!(tree(&all[..size]).root(), defined(&all[..size]), "{size}");
        }
        // Of the empty tree, and of one empty leaf: section 2.1.1 and any other implementation.
        let empty = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        assert_eq!(Tree::default().root().to_string(), empty);
        let leaf = "bjQLnP+zepicpUTmu3gKLHiQHT+zNzh2hRGjBhevoB0=";
        assert_eq!(tree(&[Hash::of_leaf(b"")]).root().to_string(), leaf);
    }

    #[test]
    fn every_leaf_is_proved_from_every_known_beginning_and_no_other_passes() {
        let all = leaves(33);
        for size in 1..=33_u64 {
            let leaves = &all[..usize::try_from(size).unwrap()];
            let root = tree(leaves).root();
            for index in 0..size {
                for start in 0..=index {
                    let (known, rest) = leaves.split_at(usize::try_from(start).unwrap());
                    let mut prover = Prover::new(index, size, &tree(known)).unwrap();
                    for leaf in rest {
                        prover.push(*leaf);
                    }
                    let path = prover.path().unwrap();
                    let leaf = leaves[usize::try_from(index).unwrap()];
                    assert!(includes(root, size, index, leaf, &path));
                    assert!(!includes(root, size, index, Hash::of_leaf(b"x"), &path));
                    assert!(!includes(root, size, index + 1, leaf, &path));
                    let wrong = Hash::of_leaf(b"root");
                    assert!(!includes(wrong, size, index, leaf, &path));
                    if let Some((_, shorter)) = path.split_last() {
                        let shorter = &path[..shorter.len()];
                        assert!(!includes(root, size, index, leaf, shorter));
                    }
                    let longer = [&path[..], &[leaf]].concat();
                    assert!(!includes(root, size, index, leaf, &longer));
                }
            }
        }
        assert!(Prover::new(3, 3, &Tree::default()).is_none());
        assert!(Prover::new(1, 3, &tree(&all[..2])).is_none());
    }

    #[test]
    fn a_tree_goes_on_from_its_subtrees() {
        let all = leaves(70);
        for size in 0..all.len() {
            let known = tree(&all[..size]);
            let mut restored = Tree::restore(known.size(), known.subtrees().to_vec()).unwrap();
            for leaf in &all[size..] {
                restored.push(*leaf);
            }
            assert_eq!(restored, tree(&all));
            let more = [known.subtrees(), &[all[0]]].concat();
            assert_eq!(Tree::restore(known.size(), more), None);
        }
    }
}
