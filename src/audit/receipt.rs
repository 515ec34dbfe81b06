//! What a client is given of the record of its request: where in the chain its outcome stands, and its hash.
//!
//! It is a dictionary (RFC 9651) in the header `Audit-Receipt`. With the request's proof (`audit prove`) and the
//! public key it shows that the record is the one that was made then.

use std::{
    fmt::{self, Display, Formatter},
    str::FromStr,
};

use thiserror::Error;

use super::{line::Position, tree::Hash};
use crate::ident::NodeId;

/// A receipt: `node="gw-1", seq=1234, leaf=:BASE64:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Whose chain it is.
    pub node: NodeId,
    /// Where the outcome stands in it.
    pub position: Position,
}

/// What was read is no receipt. It repeats nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(r#"expected the value of an Audit-Receipt header: node="gw-1", seq=1234, leaf=:BASE64:"#)]
pub struct NoReceipt;

impl Display for Receipt {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Position { seq, leaf } = self.position;
        // A node's name has no character that a string of RFC 9651 would escape.
        write!(f, "node=\"{}\", seq={seq}, leaf=:{leaf}:", self.node)
    }
}

impl FromStr for Receipt {
    type Err = NoReceipt;

    fn from_str(value: &str) -> Result<Self, NoReceipt> {
        parse(value).ok_or(NoReceipt)
    }
}

fn parse(value: &str) -> Option<Receipt> {
    let (mut node, mut seq, mut leaf) = (None, None, None);
    for member in value.split(',') {
        let (name, value) = member.trim().split_once('=')?;
        match name {
            "node" => node = NodeId::try_from(value.strip_prefix('"')?.strip_suffix('"')?).ok(),
            "seq" => seq = value.parse().ok(),
            "leaf" => leaf = Hash::parse(value.strip_prefix(':')?.strip_suffix(':')?),
            // Members that a later version has.
            _ => {}
        }
    }
    let (seq, leaf) = (seq?, leaf?);
    Some(Receipt {
        node: node?,
        position: Position { seq, leaf },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_reads_as_it_was_written_and_nothing_else_does() {
        let leaf = Hash::of_leaf(b"a line");
        let receipt = Receipt {
            node: "gw-1".try_into().unwrap(),
            position: Position { seq: 1_234, leaf },
        };
        let text = receipt.to_string();
        assert_eq!(text, format!(r#"node="gw-1", seq=1234, leaf=:{leaf}:"#));
        assert_eq!(text.parse(), Ok(receipt.clone()));
        let more = format!("later=?1,{text}");
        assert_eq!(more.parse(), Ok(receipt));
        for (from, to) in [
            ("seq=1234", "seq=x"),
            ("seq=1234, ", ""),
            ("\"gw-1\"", "gw-1"),
            ("=:", "=:x"),
            ("leaf=", "leaf"),
        ] {
            let other = text.replacen(from, to, 1);
            assert_ne!(other, text);
            assert_eq!(other.parse::<Receipt>(), Err(NoReceipt), "{other}");
        }
    }
}
