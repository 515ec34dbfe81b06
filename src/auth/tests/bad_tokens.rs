//! Bad tokens by kind of fault, each with the reason that the audit trail gets; and random bytes.
#![expect(
    clippy::string_slice,
    clippy::too_many_lines,
    reason = "tables of cases, cut from ASCII text"
)]

use proptest::prelude::*;

use super::*;

type Case = (String, HeaderMap, AuthError);

fn case(name: impl Into<String>, token: &str, reason: AuthError) -> Case {
    (name.into(), bearer(token), reason)
}

#[test]
fn every_bad_token_is_refused_and_for_its_own_reason() {
    let authenticator = authenticator();
    let mut cases = shapes();
    cases.extend(encodings());
    cases.extend(token_headers());
    cases.extend(kids());
    cases.extend(signatures());
    cases.extend(required_claims());
    cases.extend(times());
    cases.extend(other_claims());
    for (name, headers, reason) in &cases {
        // Twice: the first refusal must not have taught it anything.
        for _ in 0..2 {
            let result = authenticator.judge(headers, now());
            assert_eq!(result.err(), Some(*reason), "{name}");
        }
    }
    assert!(cases.len() >= 300, "{}", cases.len());
    assert_eq!(authenticator.verified.iter().count(), 0);
}

#[test]
fn what_stands_close_to_a_bad_token_and_is_none_passes() {
    let authenticator = authenticator();
    let header = Members::header("HS256");
    let claims = Members::good(HS);
    let foreign_key = jwk(&KEYS.other_p256, None).to_string();
    let pass: Vec<(&str, HeaderMap)> = vec![
        ("plain", bearer(&good())),
        (
            "lower case",
            headers(&[format!("bearer {}", good()).as_bytes()]),
        ),
        (
            "capitals",
            headers(&[format!("BEARER {}", good()).as_bytes()]),
        ),
        (
            "typ JWT",
            bearer(&hs(&header.clone().set("typ", r#""JWT""#), &claims)),
        ),
        (
            "typ jwt",
            bearer(&hs(&header.clone().set("typ", r#""jwt""#), &claims)),
        ),
        (
            "typ at+jwt",
            bearer(&hs(&header.clone().set("typ", r#""at+JWT""#), &claims)),
        ),
        (
            "typ application/at+jwt",
            bearer(&hs(
                &header.clone().set("typ", r#""Application/at+jwt""#),
                &claims,
            )),
        ),
        (
            "kid at a secret",
            bearer(&hs(&header.clone().set("kid", r#""any""#), &claims)),
        ),
        (
            "key headers change nothing",
            bearer(&hs(
                &header
                    .clone()
                    .set("jku", r#""https://evil.example/jwks""#)
                    .set("x5u", r#""https://evil.example/x5u""#)
                    .set("x5c", r#"["AAAA"]"#)
                    .set("jwk", &foreign_key),
                &claims,
            )),
        ),
        (
            "aud ours among others",
            bearer(&hs_claims(
                &claims.clone().set("aud", r#"["a","dcams-gateway"]"#),
            )),
        ),
        (
            "exp within leeway",
            bearer(&hs_claims(
                &claims.clone().set("exp", &(NOW - 29).to_string()),
            )),
        ),
        (
            "exp at max_ttl and leeway",
            bearer(&hs_claims(
                &claims.clone().set("exp", &(NOW + 3630).to_string()),
            )),
        ),
        (
            "nbf within leeway",
            bearer(&hs_claims(
                &claims.clone().set("nbf", &(NOW + 30).to_string()),
            )),
        ),
        (
            "iat within leeway",
            bearer(&hs_claims(
                &claims.clone().set("iat", &(NOW + 30).to_string()),
            )),
        ),
        (
            "the issuer's other tenant",
            bearer(&hs_claims(&claims.clone().set("tenant", r#""initech""#))),
        ),
        ("exactly 8 KiB", bearer(&of_length(8192))),
        (
            "ES256 by kid",
            bearer(&es(
                &Members::header("ES256").set("kid", r#""two""#),
                &ec(&KEYS.other_p256),
            )),
        ),
        (
            "RS256, one key, no kid",
            bearer(&rs(&Members::header("RS256"), Algorithm::RS256)),
        ),
    ];
    for (name, headers) in &pass {
        let result = authenticator.judge(headers, now());
        assert_eq!(result.err(), None, "{name}");
    }
}

#[test]
fn a_token_elsewhere_than_in_authorization_does_not_exist() {
    let authenticator = authenticator();
    for name in [
        "x-authorization",
        "proxy-authorization",
        "cookie",
        "x-access-token",
        "token",
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(
            name,
            HeaderValue::from_str(&format!("Bearer {}", good())).unwrap(),
        );
        let result = authenticator.judge(&headers, now());
        assert_eq!(result.err(), Some(AuthError::Missing), "{name}");
    }
}

#[test]
fn an_issuer_that_lists_at_jwt_alone_refuses_untyped_tokens() {
    let mut issuer = hs_issuer();
    issuer.types = vec!["at+jwt".to_owned()];
    let authenticator = of_issuers(vec![issuer]);
    let typed = Members::header("HS256").set("typ", r#""at+jwt""#);
    assert!(
        authenticator
            .judge(&bearer(&hs(&typed, &Members::good(HS))), now())
            .is_ok()
    );
    for token in [
        good(),
        hs(&typed.set("typ", r#""JWT""#), &Members::good(HS)),
    ] {
        let result = authenticator.judge(&bearer(&token), now());
        assert_eq!(result.err(), Some(AuthError::RefusedType));
    }
}

proptest! {
    #[test]
    fn random_bytes_never_authenticate(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let authenticator = of_issuers(vec![hs_issuer()]);
        for prefix in [&b""[..], b"Bearer ", b"Bearer eyJhbGciOiJIUzI1NiJ9."] {
            let value = [prefix, &bytes].concat();
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                let mut headers = HeaderMap::new();
                headers.insert(AUTHORIZATION, value);
                prop_assert!(authenticator.judge(&headers, now()).is_err());
            }
        }
    }

    #[test]
    fn random_parts_never_authenticate(
        header in proptest::collection::vec(any::<u8>(), 0..80),
        claims in proptest::collection::vec(any::<u8>(), 0..200),
        text in "[ -~]{0,80}",
    ) {
        let authenticator = of_issuers(vec![hs_issuer()]);
        let good_header = Members::header("HS256").json();
        for (header, claims) in [
            (&header[..], &claims[..]),
            (good_header.as_bytes(), &claims[..]),
            (good_header.as_bytes(), text.as_bytes()),
        ] {
            let token = sign(header, claims, &KEYS.hmac(), Algorithm::HS256);
            prop_assert!(authenticator.judge(&bearer(&token), now()).is_err());
        }
    }

    #[test]
    fn a_good_token_with_any_byte_changed_is_bad(place in any::<prop::sample::Index>(), byte in 33u8..127) {
        let authenticator = of_issuers(vec![hs_issuer()]);
        let mut token = good().into_bytes();
        authenticator.judge(&bearer(&good()), now()).unwrap();
        let place = place.index(token.len());
        prop_assume!(token[place] != byte);
        token[place] = byte;
        let token = String::from_utf8(token).unwrap();
        prop_assert!(authenticator.judge(&bearer(&token), now()).is_err());
    }
}

fn es(header: &Members, key: &EncodingKey) -> String {
    let claims = Members::good(ES).json();
    sign(header.json(), claims, key, Algorithm::ES256)
}

fn rs(header: &Members, algorithm: Algorithm) -> String {
    let key = EncodingKey::from_rsa_pem(KEYS.rsa.serialize_pem().as_bytes()).unwrap();
    sign(header.json(), Members::good(RS).json(), &key, algorithm)
}

/// A good token of exactly this length. A payload byte more is 1 or 2 characters more, so the
/// header takes what is missing.
fn of_length(length: usize) -> String {
    for extra in 0..4 {
        let header = Members::header("HS256").set("x", &format!("\"{}\"", "x".repeat(extra)));
        for pad in (0..length).rev() {
            let claims = Members::good(HS).set("pad", &format!("\"{}\"", "x".repeat(pad)));
            let size = |text: String| (text.len() * 4).div_ceil(3);
            let total = size(header.json()) + size(claims.json()) + 43 + 2;
            if total == length {
                return hs(&header, &claims);
            }
            if total < length {
                break;
            }
        }
    }
    panic!("no token of {length} characters");
}

fn shapes() -> Vec<Case> {
    use AuthError::{DoubledHeader, MalformedToken, Missing, NotBearer, TooLong};
    let good = good();
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (header, claims) = message.split_once('.').unwrap();
    let with =
        |name: &str, value: &str, reason| (name.to_owned(), headers(&[value.as_bytes()]), reason);
    let json =
        format!(r#"{{"payload":"{claims}","protected":"{header}","signature":"{signature}"}}"#);
    vec![
        ("none".to_owned(), HeaderMap::new(), Missing),
        with("empty", "", NotBearer),
        with("Basic", "Basic dXNlcjpwYXNz", NotBearer),
        with("no scheme", &good, NotBearer),
        with("Bearer alone", "Bearer", NotBearer),
        with("Bearer and a space", "Bearer ", MalformedToken),
        with("Bearers", &format!("Bearers {good}"), NotBearer),
        with("Bearer:", &format!("Bearer: {good}"), NotBearer),
        with("no space", &format!("Bearer{good}"), NotBearer),
        with("tab", &format!("Bearer\t{good}"), NotBearer),
        with("two spaces", &format!("Bearer  {good}"), MalformedToken),
        with("leading space", &format!(" Bearer {good}"), NotBearer),
        with("trailing space", &format!("Bearer {good} "), MalformedToken),
        with(
            "comma",
            &format!("Bearer {good}, Bearer {good}"),
            MalformedToken,
        ),
        with("trailing comma", &format!("Bearer {good},"), MalformedToken),
        with("quoted", &format!("Bearer \"{good}\""), MalformedToken),
        with("parameter", &format!("Bearer token={good}"), MalformedToken),
        with(
            "JSON serialization",
            &format!("Bearer {json}"),
            MalformedToken,
        ),
        with(
            "percent-encoded",
            &format!("Bearer {}", good.replace('.', "%2E")),
            MalformedToken,
        ),
        (
            "not ASCII".to_owned(),
            headers(&["Bearer é.é.é".as_bytes()]),
            MalformedToken,
        ),
        (
            "not UTF-8".to_owned(),
            headers(&[b"Bearer \xff.\xff.\xff"]),
            MalformedToken,
        ),
        (
            "two headers".to_owned(),
            headers(&[format!("Bearer {good}").as_bytes(); 2]),
            DoubledHeader,
        ),
        (
            "two headers, one Basic".to_owned(),
            headers(&[format!("Bearer {good}").as_bytes(), b"Basic eA=="]),
            DoubledHeader,
        ),
        case("1 part", header, MalformedToken),
        case("2 parts", message, MalformedToken),
        case("4 parts", &format!("{good}.x"), MalformedToken),
        case("5 parts", &format!("{good}.x.x"), MalformedToken),
        case("dot before", &format!(".{good}"), MalformedToken),
        case("dot after", &format!("{good}."), MalformedToken),
        case(
            "empty header",
            &format!(".{claims}.{signature}"),
            AuthError::MalformedHeader,
        ),
        case(
            "empty payload",
            &format!("{header}..{signature}"),
            AuthError::InvalidClaim,
        ),
        case("empty signature", &format!("{message}."), MalformedToken),
        case("dots alone", "..", MalformedToken),
        case("8 KiB and 1", &format!("{}x", of_length(8192)), TooLong),
        case("1 MiB", &"x".repeat(1 << 20), TooLong),
    ]
}

fn encodings() -> Vec<Case> {
    use AuthError::{BadSignature, MalformedToken};
    let good = good();
    let parts: Vec<&str> = good.split('.').collect();
    let rebuilt = |place: usize, text: &str| {
        let mut parts = parts.clone();
        parts[place] = text;
        parts.join(".")
    };
    // The library decodes the signature, and is as strict; the reason is its own.
    let reasons = [MalformedToken, MalformedToken, BadSignature];
    let mut cases = Vec::new();
    for (place, reason) in reasons.into_iter().enumerate() {
        let part = parts[place];
        cases.push(case(
            format!("padding {place}"),
            &rebuilt(place, &format!("{part}=")),
            reason,
        ));
        cases.push(case(
            format!("padding twice {place}"),
            &rebuilt(place, &format!("{part}==")),
            reason,
        ));
        cases.push(case(
            format!("plus {place}"),
            &rebuilt(place, &format!("+{}", &part[1..])),
            reason,
        ));
        cases.push(case(
            format!("slash {place}"),
            &rebuilt(place, &format!("/{}", &part[1..])),
            reason,
        ));
        cases.push(case(
            format!("tilde {place}"),
            &rebuilt(place, &format!("{part}~")),
            reason,
        ));
        for (name, inserted) in [("question mark", "?"), ("space", " "), ("tab", "\t")] {
            let text = format!("{}{inserted}{}", &part[..4], &part[4..]);
            cases.push(case(
                format!("{name} {place}"),
                &rebuilt(place, &text),
                MalformedToken,
            ));
        }
    }
    // 43 characters hold 256 bits and two to spare, which must be zero.
    let last = parts[2].chars().last().unwrap();
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let index = alphabet.find(last).unwrap();
    let spare = format!("{}{}", &parts[2][..42], &alphabet[index + 1..index + 2]);
    cases.push(case(
        "spare bits in the signature",
        &rebuilt(2, &spare),
        BadSignature,
    ));
    cases.push(case(
        "spare bits in the header",
        &rebuilt(0, "eyJh"),
        AuthError::MalformedHeader,
    ));
    cases.push(case("spare bits", &rebuilt(0, "e31"), MalformedToken));
    cases.push(case("length 1 mod 4", &rebuilt(0, "e30xx"), MalformedToken));
    cases
}

fn token_headers() -> Vec<Case> {
    use AuthError::{MalformedHeader, RefusedAlgorithm, RefusedHeader, RefusedType};
    let claims = Members::good(HS);
    let base = Members::header("HS256");
    let raw = |name: &str, header: &str, reason| {
        let token = sign(header, claims.json(), &KEYS.hmac(), Algorithm::HS256);
        case(format!("header {name}"), &token, reason)
    };
    let mut cases = vec![
        raw("not JSON", "alg=HS256", MalformedHeader),
        raw("BOM", "\u{feff}{\"alg\":\"HS256\"}", MalformedHeader),
        raw("array", r#"["HS256"]"#, MalformedHeader),
        raw("string", r#""HS256""#, MalformedHeader),
        raw("null", "null", MalformedHeader),
        raw("empty object", "{}", MalformedHeader),
        raw("two objects", r#"{"alg":"HS256"}{}"#, MalformedHeader),
        raw("trailing bytes", r#"{"alg":"HS256"}x"#, MalformedHeader),
        raw("single quotes", "{'alg':'HS256'}", MalformedHeader),
        raw(
            "duplicate alg",
            r#"{"alg":"none","alg":"HS256"}"#,
            MalformedHeader,
        ),
        raw(
            "duplicate alg, escaped",
            r#"{"alg":"HS256","\u0061lg":"HS256"}"#,
            MalformedHeader,
        ),
        raw(
            "duplicate kid",
            r#"{"alg":"HS256","kid":"a","kid":"b"}"#,
            MalformedHeader,
        ),
        raw(
            "duplicate of no meaning",
            r#"{"alg":"HS256","x":1,"x":1}"#,
            MalformedHeader,
        ),
        raw("Alg", r#"{"Alg":"HS256"}"#, MalformedHeader),
    ];
    let invalid = sign(
        b"{\"alg\":\"HS256\",\"x\":\"\xff\"}",
        claims.json(),
        &KEYS.hmac(),
        Algorithm::HS256,
    );
    cases.push(case("header not UTF-8", &invalid, MalformedHeader));
    let mut with = |name: &str, raw: &str, reason| {
        let token = hs(&base.clone().set(name, raw), &claims);
        cases.push(case(format!("{name} {raw}"), &token, reason));
    };
    for alg in [
        "none",
        "None",
        "NONE",
        "nOnE",
        "",
        "hs256",
        "HS1",
        "HS256 ",
        "HS2560",
        "HS384",
        "HS512",
        "RS256",
        "PS256",
        "ES256",
        "ES256K",
        "ES512",
        "EdDSA",
        "Ed25519",
        "A128KW",
        "dir",
        "HS256\\u0000",
    ] {
        with("alg", &format!("\"{alg}\""), RefusedAlgorithm);
    }
    for wrong in ["null", "256", "[\"HS256\"]", "{}", "true"] {
        with("alg", wrong, MalformedHeader);
        with("kid", wrong, MalformedHeader);
        with("typ", wrong, MalformedHeader);
        with("cty", wrong, MalformedHeader);
    }
    for name in ["crit", "b64", "enc", "zip"] {
        for value in [
            "null",
            "[]",
            "[\"exp\"]",
            "[\"b64\"]",
            "false",
            "true",
            "\"DEF\"",
            "1",
        ] {
            with(name, value, RefusedHeader);
        }
    }
    for cty in ["JWT", "jwt", "application/jwt"] {
        with("cty", &format!("\"{cty}\""), RefusedHeader);
    }
    for kind in [
        "",
        "JWS",
        "JOSE",
        "dpop+jwt",
        "logout+jwt",
        "at+jwt ",
        "text/jwt",
        "application/",
        "JWT/x",
        "id_token",
        "\u{ff2a}WT",
    ] {
        with("typ", &format!("\"{kind}\""), RefusedType);
    }
    with("kid", &format!("\"{}\"", "k".repeat(257)), MalformedHeader);
    cases
}

fn kids() -> Vec<Case> {
    let key = ec(&KEYS.p256);
    let header = Members::header("ES256");
    let mut cases = vec![
        case(
            "kid absent, two keys",
            &es(&header, &key),
            AuthError::UnknownKey,
        ),
        case(
            "kid of the other key",
            &es(&header.clone().set("kid", r#""two""#), &key),
            AuthError::BadSignature,
        ),
        // The same kid at another issuer, with that issuer's key.
        case(
            "key of another issuer under the same kid",
            &sign(
                Members::header("RS256").set("kid", r#""one""#).json(),
                Members::good(RS).json(),
                &EncodingKey::from_rsa_pem(
                    KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048)
                        .unwrap()
                        .serialize_pem()
                        .as_bytes(),
                )
                .unwrap(),
                Algorithm::RS256,
            ),
            AuthError::BadSignature,
        ),
        case(
            "algorithm of another issuer under the same kid",
            &sign(
                header.clone().set("kid", r#""one""#).json(),
                Members::good(RS).json(),
                &key,
                Algorithm::ES256,
            ),
            AuthError::RefusedAlgorithm,
        ),
        case(
            "another issuer's name over one's own signature",
            &sign(
                Members::header("HS256").json(),
                Members::good(ES).json(),
                &KEYS.hmac(),
                Algorithm::HS256,
            ),
            AuthError::RefusedAlgorithm,
        ),
        case(
            "embedded jwk that verifies",
            &es(
                &header
                    .clone()
                    .set("kid", r#""two""#)
                    .set("jwk", &jwk(&KEYS.p256, None).to_string()),
                &key,
            ),
            AuthError::BadSignature,
        ),
    ];
    for kid in [
        "",
        "ONE",
        "one ",
        "one\\u0000",
        "../../x",
        "/dev/null",
        "' OR 1=1 --",
        "three",
        "\\u043ene",
        "http://evil.example/",
    ] {
        cases.push(case(
            format!("kid {kid}"),
            &es(&header.clone().set("kid", &format!("\"{kid}\"")), &key),
            AuthError::UnknownKey,
        ));
    }
    cases
}

/// The order of P-256's group.
const ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6,
    0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

fn signatures() -> Vec<Case> {
    let header = Members::header("ES256").set("kid", r#""one""#);
    let token = es(&header, &ec(&KEYS.p256));
    let (message, signature) = token.rsplit_once('.').unwrap();
    let raw = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let (r, s) = raw.split_at(32);
    let mut below = ORDER;
    below[31] -= 1;
    let flipped = |bit: usize| {
        let mut raw = raw.clone();
        raw[bit / 8] ^= 1 << (bit % 8);
        raw
    };
    let hmac = good();
    let (hmac_message, hmac_signature) = hmac.rsplit_once('.').unwrap();
    let hmac_raw = URL_SAFE_NO_PAD.decode(hmac_signature).unwrap();
    let forged: Vec<(&str, &str, Vec<u8>)> = vec![
        ("first bit", message, flipped(0)),
        ("middle bit", message, flipped(300)),
        ("last bit", message, flipped(511)),
        ("r zero", message, [&[0; 32], s].concat()),
        ("s zero", message, [r, &[0; 32]].concat()),
        ("both zero", message, vec![0; 64]),
        ("r the order", message, [&ORDER, s].concat()),
        ("s the order", message, [r, &ORDER].concat()),
        ("s one below the order", message, [r, &below].concat()),
        ("r and s swapped", message, [s, r].concat()),
        ("r alone", message, r.to_vec()),
        ("a byte short", message, raw[..63].to_vec()),
        ("a byte long", message, [&raw[..], &[0]].concat()),
        ("leading zero", message, [&[0], &raw[..]].concat()),
        ("twice", message, [&raw[..], &raw[..]].concat()),
        ("DER", message, der(r, s)),
        ("one byte", message, vec![0]),
        (
            "HMAC cut to 16 bytes",
            hmac_message,
            hmac_raw[..16].to_vec(),
        ),
        (
            "HMAC and a byte",
            hmac_message,
            [&hmac_raw[..], &[0]].concat(),
        ),
        ("HMAC of zeros", hmac_message, vec![0; 32]),
        ("HMAC of another token", hmac_message, raw.clone()),
    ];
    let mut cases: Vec<Case> = forged
        .into_iter()
        .map(|(name, message, signature)| {
            let token = format!("{message}.{}", b64(signature));
            case(format!("signature {name}"), &token, AuthError::BadSignature)
        })
        .collect();
    let rsa = rs(&Members::header("RS256"), Algorithm::RS256);
    let (message, signature) = rsa.rsplit_once('.').unwrap();
    let raw = URL_SAFE_NO_PAD.decode(signature).unwrap();
    for (name, signature) in [
        ("RSA a byte short", raw[..255].to_vec()),
        ("RSA leading zero", [&[0], &raw[..]].concat()),
        ("RSA trailing zero", [&raw[..], &[0]].concat()),
        ("RSA zero", vec![0; 256]),
        ("RSA one", [&[0; 255][..], &[1]].concat()),
        ("RSA all ones", vec![0xff; 256]),
    ] {
        let token = format!("{message}.{}", b64(signature));
        cases.push(case(name, &token, AuthError::BadSignature));
    }
    let pss = rs(&Members::header("RS256"), Algorithm::PS256);
    cases.push(case("PSS for RS", &pss, AuthError::BadSignature));
    let hash = rs(&Members::header("RS256"), Algorithm::RS512);
    cases.push(case("SHA-512 for RS256", &hash, AuthError::BadSignature));
    let other = EncodingKey::from_secret(&[7; 64]);
    let token = sign(
        Members::header("HS256").json(),
        Members::good(HS).json(),
        &other,
        Algorithm::HS256,
    );
    cases.push(case("another secret", &token, AuthError::BadSignature));
    let empty = EncodingKey::from_secret(b"");
    let token = sign(
        Members::header("HS256").json(),
        Members::good(HS).json(),
        &empty,
        Algorithm::HS256,
    );
    cases.push(case("an empty secret", &token, AuthError::BadSignature));
    // Expired or not, a forgery is a forgery: nothing is said of its times.
    let expired = Members::good(HS).set("exp", "1").json();
    let token = sign(
        Members::header("HS256").json(),
        expired,
        &other,
        Algorithm::HS256,
    );
    cases.push(case("expired and forged", &token, AuthError::BadSignature));
    cases
}

fn der(r: &[u8], s: &[u8]) -> Vec<u8> {
    let integer = |bytes: &[u8]| {
        let sign: &[u8] = if bytes[0] > 127 { &[0] } else { &[] };
        let length = u8::try_from(bytes.len() + sign.len()).unwrap();
        [&[2, length], sign, bytes].concat()
    };
    let body = [integer(r), integer(s)].concat();
    [&[0x30, u8::try_from(body.len()).unwrap()], &body[..]].concat()
}

fn required_claims() -> Vec<Case> {
    use AuthError::{ForeignTenant, InvalidClaim, UnknownIssuer, WrongAudience};
    let good = Members::good(HS);
    let mut cases = Vec::new();
    for (name, absent, other) in [
        ("iss", UnknownIssuer, UnknownIssuer),
        ("aud", InvalidClaim, WrongAudience),
        ("tenant", InvalidClaim, ForeignTenant),
    ] {
        let value = good.0.iter().find(|(n, _)| n == name).unwrap().1.clone();
        let text = value.trim_matches('"').to_owned();
        let mut with = |what: &str, claims: Members, reason| {
            cases.push(case(format!("{name} {what}"), &hs_claims(&claims), reason));
        };
        with("absent", good.clone().remove(name), absent);
        for wrong in ["null", "7", "1.5", "true", "{}", "[7]", "[null]"] {
            with(wrong, good.clone().set(name, wrong), absent);
        }
        with("empty", good.clone().set(name, r#""""#), other);
        with("duplicate", good.clone().add(name, &value), InvalidClaim);
        with(
            "duplicate, other",
            good.clone().add(name, r#""x""#),
            InvalidClaim,
        );
        with(
            "duplicate, null",
            good.clone().add(name, "null"),
            InvalidClaim,
        );
        let upper = name.to_uppercase();
        with(
            "name in capitals",
            good.clone().remove(name).set(&upper, &value),
            absent,
        );
        for (what, changed) in [
            ("capitals", text.to_uppercase()),
            ("trailing slash", format!("{text}/")),
            ("trailing NUL", format!("{text}\\u0000")),
            ("trailing space", format!("{text} ")),
            ("leading space", format!(" {text}")),
            ("look-alike", text.replacen(['a', 'e'], "\u{0430}", 1)),
            ("cut", text[..text.len() - 1].to_owned()),
        ] {
            with(
                what,
                good.clone().set(name, &format!("\"{changed}\"")),
                other,
            );
        }
    }
    for (name, wrong, reason) in [
        ("iss", format!("[\"{HS}\"]"), UnknownIssuer),
        ("aud", "[]".to_owned(), WrongAudience),
        ("aud", r#"["other","another"]"#.to_owned(), WrongAudience),
        ("aud", r#"["dcams-gateway",7]"#.to_owned(), InvalidClaim),
        ("aud", r#"["dcams-gateway",["x"]]"#.to_owned(), InvalidClaim),
        ("aud", r#"{"0":"dcams-gateway"}"#.to_owned(), InvalidClaim),
        ("aud", r#""other dcams-gateway""#.to_owned(), WrongAudience),
        ("tenant", r#"["acme"]"#.to_owned(), InvalidClaim),
        ("tenant", r#""globex""#.to_owned(), ForeignTenant),
    ] {
        let token = hs_claims(&good.clone().set(name, &wrong));
        cases.push(case(format!("{name} {wrong}"), &token, reason));
    }
    cases
}

fn times() -> Vec<Case> {
    use AuthError::{Expired, InvalidClaim, IssuedInFuture, LivesTooLong, NotYetValid};
    let good = Members::good(HS);
    let mut cases = Vec::new();
    let mut with = |name: &str, raw: &str, reason| {
        let token = hs_claims(&good.clone().set(name, raw));
        cases.push(case(format!("{name} {raw}"), &token, reason));
    };
    for name in ["exp", "nbf", "iat"] {
        for raw in [
            "null",
            "\"\"",
            "\"1800000000\"",
            "-1",
            "1800000000.5",
            "1800000000.0",
            "18e8",
            "1e300",
            "[]",
            "[1800000000]",
            "{}",
            "true",
            "18446744073709551615",
            "18446744073709551616",
            "253402300800",
        ] {
            with(name, raw, InvalidClaim);
        }
    }
    with("exp", "0", Expired);
    with("exp", &(NOW - 31).to_string(), Expired);
    with("exp", &(NOW - 30).to_string(), Expired);
    with("exp", &(NOW + 3631).to_string(), LivesTooLong);
    with("exp", "253402000000", LivesTooLong);
    with("nbf", &(NOW + 31).to_string(), NotYetValid);
    with("nbf", &(NOW + 601).to_string(), InvalidClaim);
    with("iat", &(NOW + 31).to_string(), IssuedInFuture);
    with("iat", &(NOW + 601).to_string(), InvalidClaim);
    let absent = hs_claims(&good.clone().remove("exp"));
    cases.push(case("exp absent", &absent, InvalidClaim));
    let twice = hs_claims(&good.clone().add("exp", &(NOW + 10).to_string()));
    cases.push(case("exp duplicate", &twice, InvalidClaim));
    // "expired" is said of a token only that had nothing else wrong with it.
    let expired = good.set("exp", "1000");
    for (name, raw, reason) in [
        ("aud", r#""other""#, AuthError::WrongAudience),
        ("tenant", r#""globex""#, AuthError::ForeignTenant),
        ("customer_email", "null", InvalidClaim),
    ] {
        let token = hs_claims(&expired.clone().set(name, raw));
        cases.push(case(format!("expired, {name} {raw}"), &token, reason));
    }
    cases
}

fn other_claims() -> Vec<Case> {
    use AuthError::InvalidClaim;
    let good = Members::good(HS);
    let header = Members::header("HS256").json();
    let mut cases = Vec::new();
    for (name, raw) in [
        ("not JSON", "iss=x".to_owned()),
        ("array", format!("[{}]", good.json())),
        ("string", r#""x""#.to_owned()),
        ("trailing bytes", format!("{}x", good.json())),
        ("two objects", format!("{}{{}}", good.json())),
        ("BOM", format!("\u{feff}{}", good.json())),
        (
            "lone surrogate",
            good.clone().set("x", r#""\ud800""#).json(),
        ),
        (
            "nested 2,900 deep",
            good.clone().set("x", &"[".repeat(2900)).json(),
        ),
        (
            "nested 1,400 deep, closed",
            good.clone()
                .set("x", &format!("{}{}", "[".repeat(1400), "]".repeat(1400)))
                .json(),
        ),
        (
            "duplicate of no meaning",
            good.clone().add("x", "1").add("x", "2").json(),
        ),
        (
            "duplicate within a claim",
            good.clone().add("x", r#"{"y":1,"y":2}"#).json(),
        ),
        (
            "duplicate, escaped",
            good.clone().add("ten\\u0061nt", r#""initech""#).json(),
        ),
    ] {
        let token = sign(&header, raw, &KEYS.hmac(), Algorithm::HS256);
        cases.push(case(format!("claims {name}"), &token, InvalidClaim));
    }
    let bytes = [
        good.json().trim_end_matches('}').as_bytes(),
        b",\"x\":\"\xff\"}",
    ]
    .concat();
    let token = sign(&header, bytes, &KEYS.hmac(), Algorithm::HS256);
    cases.push(case("claims not UTF-8", &token, InvalidClaim));
    for (name, long) in [("sub", 513), ("customer_email", 255)] {
        for raw in [
            "null",
            "7",
            "true",
            "[]",
            "[\"ann@example.com\"]",
            "{}",
            "\"\"",
        ] {
            let token = hs_claims(&good.clone().set(name, raw));
            cases.push(case(format!("{name} {raw}"), &token, InvalidClaim));
        }
        let token = hs_claims(&good.clone().set(name, &format!("\"{}\"", "x".repeat(long))));
        cases.push(case(format!("{name} too long"), &token, InvalidClaim));
        let token = hs_claims(&good.clone().add(name, "\"x\"").add(name, "\"x\""));
        cases.push(case(format!("{name} duplicate"), &token, InvalidClaim));
    }
    for (name, raw) in [
        ("scope", "null"),
        ("scope", "7"),
        ("scope", r#"["dcams:status:read"]"#),
        ("scope", r#"{"dcams:status:read":true}"#),
        ("scp", "null"),
        ("scp", r#""dcams:status:read""#),
        ("scp", r#"["dcams:status:read",7]"#),
        ("scp", r#"[{"name":"dcams:status:read"}]"#),
        ("scp", r#"[["dcams:status:read"]]"#),
    ] {
        let token = hs_claims(&good.clone().set(name, raw));
        cases.push(case(format!("{name} {raw}"), &token, InvalidClaim));
    }
    cases
}
