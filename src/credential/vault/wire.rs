//! Reads Vault's answers, and writes what a login sends.
//!
//! Invariants: a name stands once in each object that is looked into; what is taken out is of its type
//! and within its bounds, or there is nothing; and a secret is copied only into memory that is wiped.
//! `serde_json` would leave a string with escapes in it in a buffer of its own, and Vault escapes `<`,
//! `>` and `&`; so it only tells values apart here (raw), and strings are unescaped below. Pure.

use std::{fmt, str, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::{AuthToken, Part, VaultError, VaultPair, VaultPath, tenure::Grant};

/// A token that a login brought, and what Vault says of it.
pub(super) struct Login {
    pub(super) token: AuthToken,
    pub(super) grant: Grant,
}

/// The answer to the reading of a secret.
pub(super) fn pair(answer: &[u8], path: &VaultPath) -> Result<VaultPair, VaultError> {
    let root = Members::parse(answer).ok_or(VaultError::Malformed)?;
    let data = root.object("data").ok_or(VaultError::Malformed)?;
    let metadata = data.object("metadata").ok_or(VaultError::Malformed)?;
    let version = metadata.whole("version").ok_or(VaultError::Malformed)?;
    let Some(members) = data.object("data") else {
        return Err(gone(&metadata).unwrap_or(VaultError::Malformed));
    };
    Ok(VaultPair {
        user: field(&members, path.user_field(), Part::User)?,
        pass: field(&members, path.pass_field(), Part::Pass)?,
        version,
    })
}

/// What a 404 to the reading of a secret means: there is a version that was taken back, or nothing.
pub(super) fn absence(answer: &[u8]) -> VaultError {
    let gone =
        Members::parse(answer).and_then(|root| gone(&root.object("data")?.object("metadata")?));
    gone.unwrap_or(VaultError::NotFound)
}

/// The answer to a login.
pub(super) fn login(answer: &[u8]) -> Result<Login, VaultError> {
    let parsed = || {
        let root = Members::parse(answer)?;
        let auth = root.object("auth")?;
        let token = AuthToken::new(auth.text("client_token")?).ok()?;
        let ttl = auth.whole("lease_duration")?;
        let renewable = auth.flag("renewable")?;
        // A root token has no lease at all.
        let endless = ttl == 0 && !renewable;
        Some(Login {
            token,
            grant: Grant {
                ttl: (!endless).then_some(Duration::from_secs(ttl)),
                renewable,
            },
        })
    };
    parsed().ok_or(VaultError::Malformed)
}

/// The answer to a renewal.
pub(super) fn renewal(answer: &[u8]) -> Result<Grant, VaultError> {
    let parsed = || {
        let root = Members::parse(answer)?;
        let auth = root.object("auth")?;
        Some(Grant {
            // Less than a second is told as none; it is not a lease without an end.
            ttl: Some(Duration::from_secs(auth.whole("lease_duration")?)),
            renewable: auth.flag("renewable")?,
        })
    };
    parsed().ok_or(VaultError::Malformed)
}

/// The answer to the question what the token is.
pub(super) fn lookup(answer: &[u8]) -> Result<Grant, VaultError> {
    let parsed = || {
        let root = Members::parse(answer)?;
        let data = root.object("data")?;
        let ttl = data.whole("ttl")?;
        // Also less than a second is told as none.
        let endless = ttl == 0 && data.whole("creation_ttl").unwrap_or(0) == 0;
        Some(Grant {
            ttl: (!endless).then_some(Duration::from_secs(ttl)),
            // A token that has no lease may say nothing of renewing it.
            renewable: data.flag("renewable").unwrap_or(false),
        })
    };
    parsed().ok_or(VaultError::Malformed)
}

/// The body of a login: an object of these two texts.
pub(super) fn two_texts(first: (&str, &str), second: (&str, &str)) -> Zeroizing<Vec<u8>> {
    // Six bytes is the longest escape of one byte, so the buffer never grows and leaves no copy.
    let texts = [first.0, first.1, second.0, second.1];
    let room = 6 * texts.iter().map(|text| text.len()).sum::<usize>() + 32;
    let mut body = Zeroizing::new(Vec::with_capacity(room));
    for (text, before) in texts.into_iter().zip(["{", ":", ",", ":"]) {
        body.extend_from_slice(before.as_bytes());
        let written = serde_json::to_writer(&mut *body, text);
        debug_assert!(written.is_ok(), "writing a string to memory cannot fail");
    }
    body.push(b'}');
    debug_assert!(body.len() <= room, "the buffer grew");
    body
}

/// What a version's metadata say of its absence.
fn gone(metadata: &Members<'_>) -> Option<VaultError> {
    if metadata.flag("destroyed") == Some(true) {
        return Some(VaultError::Destroyed);
    }
    let deleted = metadata.get("deletion_time")?.get();
    (deleted.len() > 2 && deleted.starts_with('"')).then_some(VaultError::Deleted)
}

#[expect(
    clippy::disallowed_methods,
    reason = "its length is measured, nothing else"
)]
fn field(members: &Members<'_>, name: &str, part: Part) -> Result<SecretString, VaultError> {
    if members.get(name).is_none() {
        return Err(VaultError::MissingField(part));
    }
    let text = members.text(name).ok_or(VaultError::NotText(part))?;
    match text.expose_secret().len() {
        0 => Err(VaultError::EmptyField(part)),
        length if length > super::super::MAX_BYTES => Err(VaultError::TooLong(part)),
        _ => Ok(text),
    }
}

/// The members of a JSON object, each name once; their values as they stand in the answer.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Members<'a> {
    fn parse(answer: &'a [u8]) -> Option<Self> {
        serde_json::from_str(str::from_utf8(answer).ok()?).ok()
    }

    fn get(&self, name: &str) -> Option<&'a RawValue> {
        let found = self.0.iter().find(|(member, _)| member == name);
        found.map(|(_, value)| *value)
    }

    fn object(&self, name: &str) -> Option<Self> {
        serde_json::from_str(self.get(name)?.get()).ok()
    }

    fn whole(&self, name: &str) -> Option<u64> {
        self.get(name)?.get().parse().ok()
    }

    fn flag(&self, name: &str) -> Option<bool> {
        self.get(name)?.get().parse().ok()
    }

    fn text(&self, name: &str) -> Option<SecretString> {
        let text = unescape(self.get(name)?.get())?;
        // Exactly as long as the text, so that boxing it leaves no copy behind.
        Some(SecretString::from(text.as_str().to_owned()))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyMembers;

        impl<'de> Visitor<'de> for AnyMembers {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members: Vec<(String, &'de RawValue)> = Vec::new();
                while let Some(name) = map.next_key()? {
                    members.push((name, map.next_value()?));
                }
                // Sorted rather than each against each: an answer has room for thousands of names.
                members.sort_by(|(one, _), (other, _)| one.cmp(other));
                let doubled =
                    |pair: &[(String, _)]| matches!(pair, [(one, _), (other, _)] if one == other);
                if members.windows(2).any(doubled) {
                    return Err(A::Error::custom("a name stands twice"));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(AnyMembers)
    }
}

/// The text of a JSON string that was found to be one; nothing where it is something else, or where
/// its escapes are no text.
fn unescape(raw: &str) -> Option<Zeroizing<String>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    // Escapes are longer than what they stand for, so it never grows.
    let mut text = Zeroizing::new(String::with_capacity(inner.len()));
    let mut rest = inner.chars();
    while let Some(c) = rest.next() {
        text.push(if c == '\\' { escaped(&mut rest)? } else { c });
    }
    Some(text)
}

fn escaped(rest: &mut str::Chars<'_>) -> Option<char> {
    match rest.next()? {
        c @ ('"' | '\\' | '/') => Some(c),
        'b' => Some('\u{8}'),
        'f' => Some('\u{c}'),
        'n' => Some('\n'),
        'r' => Some('\r'),
        't' => Some('\t'),
        'u' => of_units(rest),
        _ => None,
    }
}

fn of_units(rest: &mut str::Chars<'_>) -> Option<char> {
    let first = unit(rest)?;
    if !(0xD800..0xDC00).contains(&first) {
        return char::from_u32(u32::from(first));
    }
    if rest.next()? != '\\' || rest.next()? != 'u' {
        return None;
    }
    char::decode_utf16([first, unit(rest)?]).next()?.ok()
}

fn unit(rest: &mut str::Chars<'_>) -> Option<u16> {
    let mut unit = 0_u32;
    for _ in 0..4 {
        unit = unit * 16 + rest.next()?.to_digit(16)?;
    }
    u16::try_from(unit).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn path() -> VaultPath {
        VaultPath::parse("secret", "veratad/main", "user", "pass").unwrap()
    }

    fn answer(data: &str) -> Vec<u8> {
        let metadata = r#"{"version":7,"deletion_time":"","destroyed":false}"#;
        format!(r#"{{"data":{{"data":{data},"metadata":{metadata}}},"auth":null}}"#).into_bytes()
    }

    #[expect(clippy::disallowed_methods, reason = "to see that it is the right one")]
    fn opened(pair: &VaultPair) -> (&str, &str, u64) {
        let (user, pass) = (pair.user.expose_secret(), pair.pass.expose_secret());
        (user, pass, pair.version)
    }

    #[test]
    fn a_pair_is_taken_out_of_its_secret_whatever_else_is_in_it() {
        let read = pair(
            &answer(
                r#"{"user":"u","more":{"user":"no"},"pass":"\u003cp\"\\\/\u00e9\ud83d\udd11>","n":1}"#,
            ),
            &path(),
        );
        assert_eq!(opened(&read.unwrap()), ("u", "<p\"\\/é🔑>", 7));
    }

    #[test]
    fn each_fault_of_a_secret_has_its_own_error() {
        let longest = "x".repeat(1024);
        let good = answer(&json!({"user": "é".repeat(512), "pass": longest}).to_string());
        assert!(pair(&good, &path()).is_ok());
        let longer = json!({"user": "é".repeat(512) + "x", "pass": "p"}).to_string();
        for (data, error) in [
            (r#"{"pass":"p"}"#, VaultError::MissingField(Part::User)),
            (r#"{"user":"u"}"#, VaultError::MissingField(Part::Pass)),
            (
                r#"{"user":"u","Pass":"p"}"#,
                VaultError::MissingField(Part::Pass),
            ),
            (r#"{"user":7,"pass":"p"}"#, VaultError::NotText(Part::User)),
            (
                r#"{"user":"u","pass":null}"#,
                VaultError::NotText(Part::Pass),
            ),
            (
                r#"{"user":"u","pass":["p"]}"#,
                VaultError::NotText(Part::Pass),
            ),
            (
                r#"{"user":"u","pass":"\ud83d"}"#,
                VaultError::NotText(Part::Pass),
            ),
            (
                r#"{"user":"u","pass":"\ud83dx"}"#,
                VaultError::NotText(Part::Pass),
            ),
            (
                r#"{"user":"u","pass":"\udd11"}"#,
                VaultError::NotText(Part::Pass),
            ),
            (
                r#"{"user":"","pass":"p"}"#,
                VaultError::EmptyField(Part::User),
            ),
            (
                r#"{"user":"u","pass":""}"#,
                VaultError::EmptyField(Part::Pass),
            ),
            (longer.as_str(), VaultError::TooLong(Part::User)),
            ("[]", VaultError::Malformed),
            ("null", VaultError::Malformed),
            (
                r#"{"user":"u","pass":"p","pass":"q"}"#,
                VaultError::Malformed,
            ),
            (
                r#"{"user":"u","pass":"p","\u0070ass":"q"}"#,
                VaultError::Malformed,
            ),
            (
                r#"{"user":"u","pass":"p","x":1,"x":1}"#,
                VaultError::Malformed,
            ),
            (r#"{"user":"u","pass":"\x"}"#, VaultError::Malformed),
            (r#"{"user":"u","pass":"p",}"#, VaultError::Malformed),
        ] {
            assert_eq!(pair(&answer(data), &path()).unwrap_err(), error, "{data}");
        }
    }

    #[test]
    fn an_answer_that_is_no_secret_is_malformed() {
        let good = String::from_utf8(answer(r#"{"user":"u","pass":"p"}"#)).unwrap();
        assert!(pair(good.as_bytes(), &path()).is_ok());
        for (from, to) in [
            ("\"version\":7", "\"version\":\"7\""),
            ("\"version\":7", "\"version\":-7"),
            ("\"version\":7", "\"version\":7.0"),
            ("\"version\":7", "\"version\":18446744073709551616"),
            ("\"version\":7", "\"v\":7"),
            ("\"version\":7", "\"version\":7,\"version\":8"),
            ("{\"data\":{", "{\"data\":null,\"data\":{"),
            ("\"auth\":null}", "\"auth\":null}x"),
            ("\"metadata\"", "\"meta\""),
        ] {
            assert!(good.contains(from), "{from}");
            let bad = good.replacen(from, to, 1);
            let error = pair(bad.as_bytes(), &path()).unwrap_err();
            assert_eq!(error, VaultError::Malformed, "{bad}");
        }
        for bad in ["", "<html>", "[]", "{}", "\"a\"", "{\"data\":[]}"] {
            let error = pair(bad.as_bytes(), &path()).unwrap_err();
            assert_eq!(error, VaultError::Malformed, "{bad}");
        }
        let mut latin = good.into_bytes();
        latin.splice(2..3, [0xff]);
        assert_eq!(pair(&latin, &path()).unwrap_err(), VaultError::Malformed);
        let deep = format!("{{\"data\":{}", "[".repeat(60_000));
        assert_eq!(
            pair(deep.as_bytes(), &path()).unwrap_err(),
            VaultError::Malformed
        );
    }

    #[test]
    fn a_version_that_was_taken_back_is_told_from_one_that_never_was() {
        let of = |metadata: &str| {
            let answer = format!(r#"{{"data":{{"data":null,"metadata":{metadata}}}}}"#);
            absence(answer.as_bytes())
        };
        let time = r#""deletion_time":"2026-11-23T10:57:05Z""#;
        assert_eq!(
            of(&format!("{{{time},\"destroyed\":false}}")),
            VaultError::Deleted
        );
        assert_eq!(
            of(&format!("{{{time},\"destroyed\":true}}")),
            VaultError::Destroyed
        );
        assert_eq!(
            of(r#"{"deletion_time":"","destroyed":false}"#),
            VaultError::NotFound
        );
        assert_eq!(of(r#"{"deletion_time":7}"#), VaultError::NotFound);
        for nothing in [r#"{"errors":[]}"#, "", "<html>", "{\"data\":{}}"] {
            assert_eq!(absence(nothing.as_bytes()), VaultError::NotFound);
        }
    }

    #[test]
    fn a_login_brings_a_token_that_can_be_sent() {
        let of = |auth: serde_json::Value| login(json!({ "auth": auth }).to_string().as_bytes());
        let good = json!({"client_token": "s.1", "lease_duration": 60, "renewable": true});
        let Login { grant, .. } = of(good.clone()).ok().unwrap();
        assert_eq!(grant.ttl, Some(Duration::from_mins(1)));
        assert!(grant.renewable);
        let root = json!({"client_token": "s.1", "lease_duration": 0, "renewable": false});
        assert_eq!(of(root).ok().unwrap().grant.ttl, None);
        for (name, bad) in [
            ("client_token", json!("")),
            ("client_token", json!("s.1\r\nX: y")),
            ("client_token", json!("s 1")),
            ("client_token", json!("é")),
            ("client_token", json!(null)),
            ("lease_duration", json!(-1)),
            ("lease_duration", json!("60")),
            ("renewable", json!("true")),
        ] {
            let mut auth = good.clone();
            auth[name] = bad;
            assert_eq!(
                of(auth.clone()).err(),
                Some(VaultError::Malformed),
                "{auth}"
            );
        }
    }

    #[test]
    fn a_lookup_tells_a_token_without_an_end_from_one_that_is_about_to_end() {
        let of = |data: serde_json::Value| lookup(json!({ "data": data }).to_string().as_bytes());
        let root = of(json!({"ttl": 0, "creation_ttl": 0, "renewable": false})).unwrap();
        assert_eq!((root.ttl, root.renewable), (None, false));
        let ending = of(json!({"ttl": 0, "creation_ttl": 60, "renewable": true})).unwrap();
        assert_eq!(ending.ttl, Some(Duration::ZERO));
        assert_eq!(of(json!({"renewable": true})), Err(VaultError::Malformed));
    }

    #[test]
    fn a_renewal_of_less_than_a_second_is_no_lease_without_an_end() {
        let grant = renewal(br#"{"auth":{"lease_duration":0,"renewable":true}}"#).unwrap();
        assert_eq!(grant.ttl, Some(Duration::ZERO));
        assert_eq!(renewal(b"{\"auth\":null}"), Err(VaultError::Malformed));
    }

    proptest! {
        #[test]
        fn any_text_survives(text in "\\PC*", control in ".*") {
            for text in [text, control] {
                let plain = serde_json::to_string(&text).unwrap();
                prop_assert_eq!(&*unescape(&plain).unwrap(), &text);
                let units = text.encode_utf16().map(|unit| format!("\\u{unit:04X}"));
                let escaped = format!("\"{}\"", units.collect::<String>());
                prop_assert_eq!(&*unescape(&escaped).unwrap(), &text);
                let body = two_texts(("a", &text), (&text, "b"));
                let read: serde_json::Value = serde_json::from_slice(&body).unwrap();
                prop_assume!(text != "a");
                prop_assert_eq!(read, json!({"a": &text, text: "b"}));
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(pair(&bytes, &path()).is_err());
            prop_assert!(login(&bytes).is_err() && lookup(&bytes).is_err());
        }
    }
}
