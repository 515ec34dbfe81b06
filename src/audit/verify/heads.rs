//! Published heads, as a file holds them: signed notes, lines of `checkpoint` events, or both, with blank
//! lines between them.
//!
//! Invariant: a [`PublishedHead`] that came out of [`read_heads`] is signed by a key that is believed; and a
//! file of which any line was not understood gives none, so that no head is passed over in silence.

use thiserror::Error;

use super::Trust;
use crate::{
    audit::{
        chain::{Kept, Upkeep},
        line::Line,
        note::{Checkpoint, NoteError, PublicKey, node_of},
    },
    ident::NodeId,
};

/// What was known of a chain somewhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedHead {
    /// The line of its file where it begins, from 1.
    pub line: usize,
    /// What was signed.
    pub checkpoint: Checkpoint,
}

/// Why a file of heads is not believed.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("line {line} {flaw}")]
pub struct HeadError {
    /// The line of the file, from 1.
    pub line: usize,
    /// What is the matter.
    pub flaw: HeadFlaw,
}

/// See [`HeadError`].
#[derive(Debug, PartialEq, Eq, Error)]
pub enum HeadFlaw {
    /// A signed note ends before its signature.
    #[error(
        "begins a signed note that is not whole: node, size, root, a blank line and a signature must follow \
         each other; copy it once more"
    )]
    Cut,
    /// Nothing is in it.
    #[error("has no head, and neither has any other line")]
    Empty,
    /// It is something else.
    #[error(
        "is no head: one is a signed note, which begins with `dcams-gateway/NODE`, or the whole line of a \
         checkpoint event; take out what is neither"
    )]
    Foreign,
    /// It is a line of a chain.
    #[error("is another event than a checkpoint: give the lines of checkpoints alone")]
    OtherEvent,
    /// Heads of two chains.
    #[error("is a head of node {this}, and others are of node {other}: give those of one chain")]
    OtherNode {
        /// Whose head it is.
        this: NodeId,
        /// Whose it ought to be.
        other: NodeId,
    },
    /// It is not of the chain that the public key is for.
    #[error(
        "is a head of node {this}, and the public key is of node {other}: give the heads of {other}"
    )]
    OtherNodesKey {
        /// Whose head it is.
        this: NodeId,
        /// Whose key was given.
        other: NodeId,
    },
    /// Nobody knows who signed it.
    #[error("has a head that is not signed by a key that was given: give the key of then, too")]
    OtherKey,
    /// It was changed, or forged.
    #[error("has a head whose signature does not verify: it is not what was published")]
    Forged,
}

/// The heads in a file of this text.
///
/// # Errors
/// [`HeadError`], where any of it is no head that is believed, or not all are of one chain.
pub fn read_heads(text: &str, trust: &Trust) -> Result<Vec<PublishedHead>, HeadError> {
    // As `audit verify` prints it a note is indented.
    let mut lines = (1..).zip(text.lines().map(str::trim)).peekable();
    let mut heads: Vec<PublishedHead> = Vec::new();
    while let Some((line, text)) = lines.next() {
        if text.is_empty() {
            continue;
        }
        let mut note = vec![text];
        let read = if node_of(text).is_some() {
            note.extend(lines.by_ref().take(3).map(|(_, text)| text));
            let is_signature = |(_, text): &(usize, &str)| text.starts_with('\u{2014}');
            note.extend(std::iter::from_fn(|| lines.next_if(is_signature)).map(|(_, text)| text));
            of_note(&note, trust)
        } else {
            of_line(text, trust)
        };
        let of_one_chain = |checkpoint: Checkpoint| match heads.first() {
            Some(first) if first.checkpoint.node != checkpoint.node => Err(HeadFlaw::OtherNode {
                this: checkpoint.node,
                other: first.checkpoint.node.clone(),
            }),
            Some(_) | None => Ok(checkpoint),
        };
        let checkpoint = read.and_then(of_one_chain);
        let checkpoint = checkpoint.map_err(|flaw| HeadError { line, flaw })?;
        heads.push(PublishedHead { line, checkpoint });
    }
    if heads.is_empty() {
        let flaw = HeadFlaw::Empty;
        return Err(HeadError { line: 1, flaw });
    }
    Ok(heads)
}

/// The head of a signed note's lines.
fn of_note(note: &[&str], trust: &Trust) -> Result<Checkpoint, HeadFlaw> {
    let node = note.first().and_then(|origin| node_of(origin));
    let keys = keys_of(trust, &node.ok_or(HeadFlaw::Foreign)?)?;
    if note.len() < 5 {
        return Err(HeadFlaw::Cut);
    }
    let note = note.join("\n") + "\n";
    let mut flaw = HeadFlaw::OtherKey;
    for key in keys {
        match key.open(&note) {
            Ok(checkpoint) => return Ok(checkpoint),
            Err(NoteError::OtherKey) => {}
            Err(NoteError::Malformed) => flaw = HeadFlaw::Cut,
            Err(NoteError::Forged) => flaw = HeadFlaw::Forged,
        }
    }
    Err(flaw)
}

/// The head of a `checkpoint` event's line.
fn of_line(text: &str, trust: &Trust) -> Result<Checkpoint, HeadFlaw> {
    let line = Line::parse(text.as_bytes()).ok_or(HeadFlaw::Foreign)?;
    let node = NodeId::try_from(line.node).map_err(|_| HeadFlaw::Foreign)?;
    let kept: Kept = serde_json::from_str(text).map_err(|_| HeadFlaw::OtherEvent)?;
    let Upkeep::Checkpoint(signed) = kept.upkeep else {
        return Err(HeadFlaw::OtherEvent);
    };
    let keys = keys_of(trust, &node)?;
    let checkpoint = Checkpoint {
        node,
        size: signed.size,
        root: signed.root,
    };
    let mut keys = keys.iter();
    let made = keys.any(|key| key.made(&signed.signature, &checkpoint));
    made.then_some(checkpoint).ok_or(HeadFlaw::OtherKey)
}

/// By whom a head of this node may be signed.
fn keys_of(trust: &Trust, node: &NodeId) -> Result<Vec<PublicKey>, HeadFlaw> {
    let keys = match trust {
        Trust::Keys(keys) => keys.all().map(|key| key.public(node)).collect(),
        Trust::Public(keys) => keys.clone(),
    };
    match keys.first() {
        Some(key) if key.node() != node => Err(HeadFlaw::OtherNodesKey {
            this: node.clone(),
            other: key.node().clone(),
        }),
        Some(_) | None => Ok(keys),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{
        chain::{Chain, Signed, State},
        key::{AuditKey, AuditKeys},
    };

    /// Lines of checkpoints of a chain, and each as a signed note.
    fn heads(node: &str, secret: u8) -> Vec<(String, String)> {
        let (node, key) = (
            NodeId::try_from(node).unwrap(),
            AuditKey::derive(&[secret; 32]),
        );
        let public = key.public(&node);
        let key = std::sync::Arc::new(key);
        let state = State::first(&node, &key);
        let mut chain = Chain::new(node.clone(), key, state, [].into());
        let checkpoint = |_| {
            let mut out = Vec::new();
            chain.append(br#"{"phase":"outcome"}"#, &mut out);
            out.clear();
            chain.checkpoint(jiff::Timestamp::UNIX_EPOCH, &mut out);
            let kept: Kept = serde_json::from_slice(&out).unwrap();
            let Upkeep::Checkpoint(Signed {
                size,
                root,
                signature,
                ..
            }) = kept.upkeep
            else {
                panic!("no checkpoint")
            };
            let checkpoint = Checkpoint {
                node: node.clone(),
                size,
                root,
            };
            let line = String::from_utf8(out).unwrap();
            (line, checkpoint.note(&public, &signature))
        };
        (0..4).map(checkpoint).collect()
    }

    fn trust(secret: u8) -> [Trust; 2] {
        let key = AuditKey::derive(&[secret; 32]);
        let public = key.public(&NodeId::try_from("gw-1").unwrap());
        [
            Trust::Keys(AuditKeys::from(key)),
            Trust::Public(vec![public]),
        ]
    }

    #[test]
    fn heads_are_read_in_each_of_their_forms_and_all_of_them() {
        let heads = heads("gw-1", 7);
        let (lines, notes): (Vec<_>, Vec<_>) = heads.into_iter().unzip();
        let indented = format!("  {}\n", notes[1].trim_end().replace('\n', "\n  "));
        let mixed = format!("\n{}{indented}\n{}\n\n{}", lines[0], notes[2], lines[3]);
        for trust in trust(7) {
            for text in [
                lines.concat(),
                notes.concat(),
                notes.join("\n\n"),
                mixed.clone(),
            ] {
                let read = read_heads(&text, &trust).unwrap();
                let sizes: Vec<_> = read.iter().map(|head| head.checkpoint.size).collect();
                assert_eq!(sizes, [1, 3, 5, 7], "{text}");
            }
            let read = read_heads(&mixed, &trust).unwrap();
            let places: Vec<_> = read.iter().map(|head| head.line).collect();
            assert_eq!(places, [2, 3, 9, 16]);
        }
    }

    #[test]
    fn what_is_no_head_is_named_with_its_line_wherever_it_stands() {
        let own = heads("gw-1", 7);
        let (line, note) = &own[0];
        let other = &heads("gw-2", 7)[0];
        let with_other_key = &heads("gw-1", 8)[0];
        let event = line.replace("checkpoint", "clock_step");
        let unsigned: String = note.split_inclusive('\n').take(4).collect();
        for (text, at, flaw) in [
            (format!("{line}x\n"), 2, HeadFlaw::Foreign),
            (format!("{note}x\n"), 6, HeadFlaw::Foreign),
            (format!("head:\n{note}"), 1, HeadFlaw::Foreign),
            (format!("{line}{event}"), 2, HeadFlaw::OtherEvent),
            (format!("{line}\n{unsigned}"), 3, HeadFlaw::Cut),
            (format!("{unsigned}{line}"), 1, HeadFlaw::Cut),
            (note.replace("\n1\n", "\n01\n"), 1, HeadFlaw::Cut),
            (note.replace("\n1\n", "\n2\n"), 1, HeadFlaw::Forged),
            (
                line.replace("\"size\":1,", "\"size\":2,"),
                1,
                HeadFlaw::OtherKey,
            ),
            (format!("{line}{}", with_other_key.0), 2, HeadFlaw::OtherKey),
            (format!("{line}{}", with_other_key.1), 2, HeadFlaw::OtherKey),
            (" \n\n".to_owned(), 1, HeadFlaw::Empty),
        ] {
            for trust in trust(7) {
                let refused = read_heads(&text, &trust).unwrap_err();
                assert_eq!((refused.line, &refused.flaw), (at, &flaw), "{text}");
            }
        }
        for other in [&other.0, &other.1] {
            let [keys, public] = trust(7);
            let told = read_heads(&format!("{line}{other}"), &keys).unwrap_err();
            assert_eq!(
                told.to_string(),
                "line 2 is a head of node gw-2, and others are of node gw-1: give those of one chain"
            );
            let told = read_heads(other, &public).unwrap_err().to_string();
            assert!(
                told.contains("gw-2, and the public key is of node gw-1"),
                "{told}"
            );
            // Only the chain's lines will tell.
            assert!(read_heads(other, &keys).is_ok());
        }
    }
}
