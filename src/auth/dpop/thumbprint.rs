//! The thumbprint of a public key (RFC 7638, SHA-256): how a token names the key that it is bound to.
//!
//! Invariant: always worked out here, of the members that make the key and of nothing else.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::auth::{
    json::{Object, Value},
    sha256,
};

/// What a key is known by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Thumbprint([u8; 32]);

impl Thumbprint {
    /// Reads a `jkt`: base64url of 32 bytes, in its one spelling.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        bytes.try_into().ok().map(Self)
    }

    /// The thumbprint of a public key. Its members must have been read as a key before: then they
    /// hold base64url and names of curves, which JSON writes as they are.
    pub(super) fn of(jwk: &Object<'_>) -> Option<Self> {
        let member = |name| jwk.get(name).and_then(Value::text);
        let kind = member("kty")?;
        // In the order of their letters, without a space (RFC 7638 3.2 and 3.3, RFC 8037 2).
        let names: &[&str] = match kind {
            "EC" => &["crv", "kty", "x", "y"],
            "OKP" => &["crv", "kty", "x"],
            "RSA" => &["e", "kty", "n"],
            _ => return None,
        };
        let members: Option<Vec<String>> = names
            .iter()
            .map(|name| Some(format!("\"{name}\":\"{}\"", member(name)?)))
            .collect();
        let json = format!("{{{}}}", members?.join(","));
        Some(Self(sha256(json.as_bytes())))
    }

    pub(super) const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It would follow one person's device through the logs.
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(jwk: &str) -> String {
        let object = Object::parse(jwk.as_bytes()).unwrap();
        URL_SAFE_NO_PAD.encode(Thumbprint::of(&object).unwrap().0)
    }

    #[test]
    fn the_thumbprints_of_the_standards_examples_are_theirs() {
        // RFC 9449 4.1 (key) and 6.1 (its thumbprint).
        let dpop = r#"{"kty":"EC","x":"l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs","y":"9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA","crv":"P-256"}"#;
        assert_eq!(of(dpop), "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I");
        // RFC 7638 3.1, with members that do not count.
        let rsa = r#"{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}"#;
        assert_eq!(of(rsa), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
        // RFC 8037 A.3.
        let okp =
            r#"{"crv":"Ed25519","kty":"OKP","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
        assert_eq!(of(okp), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn a_thumbprint_is_32_bytes_in_one_spelling() {
        let good = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";
        assert!(Thumbprint::parse(good).is_some());
        for bad in [
            "",
            "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4",
            "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I=",
            "0ZcOCORZNYy+DWpqq30jZyJGHTN0d2HglBV3uiguA4I",
            // The same 32 bytes with a spare bit set.
            "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4J",
            "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4IA",
            " 0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I",
        ] {
            assert_eq!(Thumbprint::parse(bad), None, "{bad}");
        }
    }
}
