//! Decides whether a text is a mailbox.
//!
//! The grammar is that of RFC 5321, section 4.1.2 (`Dot-string` or `Quoted-string` before the `@`,
//! letter-digit-hyphen labels after it), with its lengths: 64 octets before the `@`, 254 in all.
//! Two parts of it are left out: address literals (`x@[192.0.2.1]` is nobody's mailbox) and the
//! characters beyond ASCII of RFC 6531. Nothing is folded, trimmed or rewritten here: how the vendor
//! compares addresses is undocumented. (Where tenants share an account, `customer` has one spelling
//! for each.)

use super::Flaw;

/// Refuses what is not a mailbox.
pub(super) fn check(text: &str) -> Result<(), Flaw> {
    if is_mailbox(text) {
        return Ok(());
    }
    Err(Flaw::new(
        "email_format",
        "expected an email address of at most 254 characters",
    ))
}

/// Whether a text is a mailbox.
pub fn is_mailbox(text: &str) -> bool {
    // The last one: a quoted local part may hold others, a domain none.
    let Some((local, domain)) = text.rsplit_once('@') else {
        return false;
    };
    text.len() <= 254 && is_local(local.as_bytes()) && is_domain(domain.as_bytes())
}

fn is_local(local: &[u8]) -> bool {
    if !(1..=64).contains(&local.len()) {
        return false;
    }
    match local {
        [b'"', quoted @ .., b'"'] => is_quoted(quoted),
        _ => local
            .split(|b| *b == b'.')
            .all(|atom| !atom.is_empty() && atom.iter().copied().all(is_atext)),
    }
}

fn is_atext(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte)
}

/// What may stand between the quotes: printable ASCII, with `"` and `\` after a backslash only.
fn is_quoted(mut text: &[u8]) -> bool {
    loop {
        text = match text {
            [] => return true,
            [b'\\', b' '..=b'~', rest @ ..] => rest,
            [b'\\' | b'"', ..] => return false,
            [b' '..=b'~', rest @ ..] => rest,
            _ => return false,
        };
    }
}

fn is_domain(domain: &[u8]) -> bool {
    domain.split(|b| *b == b'.').all(|label| {
        (1..=63).contains(&label.len())
            && label
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || *b == b'-')
            && !label.starts_with(b"-")
            && !label.ends_with(b"-")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mailbox_of_rfc_5321_is_accepted() {
        let longest_local = format!("{}@y.example", "a".repeat(64));
        let label = "d".repeat(63);
        let longest = format!(
            "{}@{label}.{label}.{}.example",
            "a".repeat(64),
            "e".repeat(53)
        );
        assert_eq!(longest.len(), 254);
        for good in [
            "test@veratad.com",
            "a@b",
            "A.b+c-d_e@X-1.example",
            "!#$%&'*+-/=?^_`{|}~@y.example",
            "1@1.2",
            r#""john doe"@y.example"#,
            r#""a@b"@y.example"#,
            r#""a\"b\\c"@y.example"#,
            r#"""@y.example"#,
            "x@xn--bcher-kva.example",
            &longest_local,
            &longest,
        ] {
            assert!(is_mailbox(good), "{good}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let long_local = format!("{}@y.example", "a".repeat(65));
        let long_label = format!("x@{}.example", "d".repeat(64));
        let label = "d".repeat(63);
        let long = format!(
            "{}@{label}.{label}.{}.example",
            "a".repeat(64),
            "e".repeat(54)
        );
        for bad in [
            "",
            "@",
            "a",
            "a@",
            "@b",
            "a b@y.example",
            " a@y.example",
            "a@y.example ",
            "a@y.example\n",
            "a\0@y.example",
            ".a@y.example",
            "a.@y.example",
            "a..b@y.example",
            "a@b@y.example",
            "a@.example",
            "a@y.",
            "a@y..example",
            "a@-y.example",
            "a@y-.example",
            "a@y_z.example",
            "a@[192.0.2.1]",
            "a@[IPv6:::1]",
            "é@y.example",
            "a@bücher.example",
            "\"a\"b@y.example",
            "\"a\"\"@y.example",
            "\"a\\\"@y.example",
            "\"@y.example",
            "\"a\tb\"@y.example",
            "a,b@y.example",
            "<a@y.example>",
            "a@y.example,b@y.example",
            "a@y.example\u{200d}",
            &long_local,
            &long_label,
            &long,
        ] {
            assert!(!is_mailbox(bad), "{bad:?}");
        }
    }
}
