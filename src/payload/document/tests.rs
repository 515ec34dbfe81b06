use std::{hint::black_box, thread};

use super::*;
use crate::payload::{
    Submission,
    sample::{TODAY, base64, customer, jpeg, lifted, refusal, rules},
};

const PERSON: &str = concat!(
    r#""reference":"r","target":{"email":"a@b.example","fn":"A","ln":"B","addr":"C","city":"D","#,
    r#""state":"E","zip":"F","dob":"19700101","phone":"G"}"#
);

/// A valid request with these members in front of its own.
fn with(members: &str) -> String {
    format!(r#"{{{members}"service":"createOrUpdateCustomer",{PERSON}}}"#)
}

/// A valid lookup with these members in its target.
fn within(members: &str) -> String {
    format!(r#"{{"service":"getStatus","target":{{"email":"a@b.example"{members}}}}}"#)
}

fn outcome(json: impl AsRef<[u8]>) -> Result<Vec<(String, &'static str)>, PayloadError> {
    refusal(json.as_ref(), &rules())
}

fn assert_violation(json: impl AsRef<[u8]>, pointer: &str, code: &'static str) {
    assert_eq!(
        outcome(&json),
        Ok(vec![(pointer.to_owned(), code)]),
        "{}",
        text(&json)
    );
}

fn text(json: &impl AsRef<[u8]>) -> String {
    String::from_utf8_lossy(json.as_ref())
        .chars()
        .take(200)
        .collect()
}

#[test]
fn a_name_that_occurs_twice_is_refused_wherever_and_however_it_is_written() {
    let whole = with("");
    let inner = whole.trim_start_matches('{').trim_end_matches('}');
    for (json, pointer) in [
        (with(r#""user":"a","user":"a","#), "/user"),
        (with(r#""user":"a","pass":1,"user":null,"#), "/user"),
        (with(r#""user":"a","\u0075ser":"b","#), "/user"),
        (with(r#""us\u0065r":{},"user":[],"#), "/user"),
        (
            with(r#""pass":"a","\u0070\u0061\u0073\u0073":"b","#),
            "/pass",
        ),
        (with(r#""service":"createOrUpdateCustomer","#), "/service"),
        (with(r#""service":"getStatus","#), "/service"),
        (with(r#""service":1,"#), "/service"),
        (with(r#""reference":"r","#), "/reference"),
        (with(r#""target":{},"#), "/target"),
        (with(r#""target":null,"#), "/target"),
        (
            format!(r#"{{{inner}}},"user":1,"pass":2,"x":3,"user":4}}"#),
            "/user",
        ),
        (within(r#","email":"a@b.example""#), "/target/email"),
        (within(r#","em\u0061il":"c@d.example""#), "/target/email"),
        (
            within(r#","documents":{},"documents":{}"#),
            "/target/documents",
        ),
        (
            within(r#","documents":{"front":"","front":""}"#),
            "/target/documents/front",
        ),
        (
            within(r#","documents":{"back":1,"bac\u006b":""}"#),
            "/target/documents/back",
        ),
        (with(r#""x":1,"x":2,"#), "/x"),
        (with(r#""user":{"a":[{"b":1,"b":1}]},"#), "/user/a/0/b"),
        (with(r#""pass":[1,{"c":{},"d":0,"c":{}}],"#), "/pass/1/c"),
        (with(r#""user":{"":1,"":2},"#), "/user"),
        (with(r#""a b":1,"a\u0020b":2,"#), ""),
        (with(r#""a b":{"x":1,"x":2},"#), ""),
        (r#"[{"user":1,"user":1}]"#.to_owned(), "/0/user"),
    ] {
        let expected = Err(PayloadError::DuplicateMember(pointer.to_owned()));
        assert_eq!(outcome(&json), expected, "{json}");
    }
}

#[test]
fn a_clients_credentials_of_any_type_are_dropped() {
    for value in [
        r#""""#,
        r#""x""#,
        "null",
        "true",
        "false",
        "0",
        "-1.5e3",
        "[]",
        "{}",
        r#"["user",{"user":1}]"#,
        r#"{"user":"x","pass":{"pass":[]}}"#,
        r#""\u0000\ud83d\ude00""#,
    ] {
        for json in [
            with(&format!(r#""user":{value},"#)),
            with(&format!(r#""pass":{value},"#)),
            with(&format!(r#""us\u0065r":{value},"pass":{value},"#)),
        ] {
            assert_eq!(outcome(&json), Ok(vec![]), "{json}");
        }
    }
}

#[test]
fn a_clients_credential_is_bounded() {
    let long = "x".repeat(1 << 20);
    assert_violation(with(&format!(r#""user":"{long}","#)), "/user", "length");
    assert_violation(
        with(&format!(r#""pass":[0,"{long}"],"#)),
        "/pass/1",
        "length",
    );
    assert_violation(
        with(&format!(r#""pass":{{"{long}":1}},"#)),
        "/pass",
        "name_length",
    );
}

#[test]
fn a_name_is_known_by_its_exact_spelling_and_place() {
    for name in [
        "User",
        "USER",
        "Pass",
        "PASS",
        "Service",
        "SERVICE",
        "Target",
        "email",
        "documents",
        "password",
        "__proto__",
        "service.",
        "test_key",
    ] {
        let pointer = format!("/{name}");
        assert_violation(
            with(&format!(r#""{name}":"x","#)),
            &pointer,
            "unknown_member",
        );
    }
    for name in [
        "user ",
        " user",
        r"user\u0000",
        r"\uff55\uff53\uff45\uff52",
        "us\u{435}r",
        "us\u{200d}er",
        "",
        "a/b",
        "a~b",
        r"\n",
        "constructor()",
        "\u{feff}user",
    ] {
        assert_violation(with(&format!(r#""{name}":"x","#)), "", "unknown_member");
    }
    for name in [
        "user",
        "pass",
        "service",
        "reference",
        "Email",
        "target",
        "front",
        "first_name",
    ] {
        let pointer = format!("/target/{name}");
        assert_violation(
            within(&format!(r#","{name}":"x""#)),
            &pointer,
            "unknown_member",
        );
    }
    let image = base64(&jpeg(9, 9, 9));
    let documents = format!(r#""documents":{{"front":"{image}","user":"x"}},"email":"#);
    let json = with("").replace(r#""email":"#, &documents);
    assert_violation(json, "/target/documents/user", "unknown_member");
}

#[test]
fn only_an_object_is_a_request() {
    for json in [
        "[]",
        "null",
        "1",
        r#""x""#,
        "true",
        r#"[{"user":"x"}]"#,
        r#""{\"service\":\"getStatus\"}""#,
    ] {
        assert_violation(json, "", "wrong_type");
    }
    assert_violation(format!("\"{}\"", "x".repeat(5000)), "", "wrong_type");
}

/// What no parser may let through, and what some do.
const MALFORMED: &[&str] = &[
    "",
    " ",
    "{",
    "}",
    "{}}",
    "[",
    "]",
    "[1,]",
    "{,}",
    r#"{"a"}"#,
    r#"{"a":}"#,
    r#"{"a":1,}"#,
    r#"{"a" 1}"#,
    "{a:1}",
    "{'a':1}",
    r#"{"a":1 "b":2}"#,
    r#"{"a":1,,"b":2}"#,
    "{1:1}",
    "{null:1}",
    r#"{"a":tru}"#,
    r#"{"a":True}"#,
    r#"{"a":NaN}"#,
    r#"{"a":Infinity}"#,
    r#"{"a":-}"#,
    r#"{"a":01}"#,
    r#"{"a":+1}"#,
    r#"{"a":.5}"#,
    r#"{"a":1.}"#,
    r#"{"a":1e}"#,
    r#"{"a":0x1}"#,
    r#"{"a":1_0}"#,
    r#"{"a":"x}"#,
    r#"{"a":"\x"}"#,
    r#"{"a":"\u12"}"#,
    r#"{"a":"\ud800"}"#,
    r#"{"a":"\udc00"}"#,
    r#"{"a":"\ud800\u0041"}"#,
    r#"{"a":"\ud800\ud800"}"#,
    r#"{"\ud800":1}"#,
    r#"{"\udfff\ud800":1}"#,
    r#"{"user":"\ud800"}"#,
    r#"{"user":{"a":["\udfff"]}}"#,
    "{\"a\":\"\n\"}",
    "{\"a\":\"\t\"}",
    "{\"a\":\"\0\"}",
    "{\"user\":\"\u{1f}\"}",
    "{\"a\n\":1}",
    "{\"a\":1}\0",
    "{\"a\":1}x",
    "{\"a\":1}{}",
    "{\"a\":1}\n{\"a\":1}",
    "{\"a\":1},",
    "\u{feff}{}",
    "// x\n{}",
    "/* x */{}",
    "{}//",
    "#\n{}",
    "{\u{a0}}",
    "{\u{2028}}",
    "{\u{b}}",
    "{\u{c}}",
    "service=getStatus&user=x",
    "--x\r\nContent-Disposition: form-data",
    "<a/>",
    r#"{"a":1e400}"#,
];

#[test]
fn what_is_not_one_json_document_in_utf_8_is_malformed() {
    let valid = with("");
    let mut cases: Vec<Vec<u8>> = MALFORMED
        .iter()
        .map(|text| text.as_bytes().to_vec())
        .collect();
    for bad in [
        &b"\xff"[..],
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xe2\x82",
        b"\x80",
        b"\xf8\x88\x80\x80\x80",
    ] {
        for around in [
            r#"{"user":"?"}"#,
            r#"{"?":1}"#,
            r#"{"target":{"email":"?"}}"#,
            "{}?",
            "?{}",
        ] {
            let (before, after) = around.split_once('?').unwrap();
            cases.push([before.as_bytes(), bad, after.as_bytes()].concat());
        }
    }
    let utf_16 = valid.encode_utf16().flat_map(u16::to_le_bytes);
    cases.push([0xff, 0xfe].into_iter().chain(utf_16.clone()).collect());
    cases.push(utf_16.collect());
    cases.extend(
        [
            format!("\u{feff}{valid}"),
            format!("{valid}\n{valid}"),
            format!("{valid},"),
        ]
        .map(Into::into),
    );
    for end in 0..valid.len() {
        cases.push(valid.as_bytes()[..end].to_vec());
    }
    for json in cases {
        let found = outcome(&json);
        assert!(
            matches!(found, Err(PayloadError::MalformedJson { .. })),
            "{}: {found:?}",
            text(&json)
        );
    }
    assert_eq!(outcome(format!(" \t\r\n{valid} \t\r\n")), Ok(vec![]));
}

#[test]
fn a_syntax_error_is_placed_in_the_document_as_it_was_sent() {
    let image = "A".repeat(5000);
    for (json, line, column) in [
        ("{".to_owned(), 1, 1),
        ("{\n \"a\": ?}".to_owned(), 2, 7),
        ("\u{feff}{}".to_owned(), 1, 1),
        (format!("{{\"a\":\"{image}\",?"), 1, 5009),
        (format!("{{\"a\":\n\"{image}\",\n\n ?"), 4, 2),
    ] {
        assert_eq!(
            outcome(&json),
            Err(PayloadError::MalformedJson { line, column }),
            "{}",
            text(&json)
        );
    }
    let found = outcome(b"{\n\"a\":\"\xff\"}");
    assert_eq!(
        found,
        Err(PayloadError::MalformedJson { line: 2, column: 6 })
    );
}

#[test]
fn nesting_members_and_names_are_bounded_exactly() {
    let nested = |depth: usize| {
        with(&format!(
            r#""user":{}{},"#,
            "[".repeat(depth),
            "]".repeat(depth)
        ))
    };
    assert_eq!(outcome(nested(DEPTH - 1)), Ok(vec![]));
    assert_violation(nested(DEPTH), "/user/0/0/0/0/0/0/0", "nesting");
    let objects = |depth: usize| {
        with(&format!(
            r#""user":{}1{},"#,
            r#"{"a":"#.repeat(depth),
            "}".repeat(depth)
        ))
    };
    assert_eq!(outcome(objects(DEPTH - 1)), Ok(vec![]));
    assert_violation(objects(DEPTH), "/user/a/a/a/a/a/a/a", "nesting");

    let members = |count: usize| {
        let members: Vec<_> = (0..count)
            .map(|number| format!(r#""{number}":0"#))
            .collect();
        with(&format!(r#""user":{{{}}},"#, members.join(",")))
    };
    // `with` has 12 members of its own, and `user`.
    assert_eq!(outcome(members(MEMBERS - 13)), Ok(vec![]));
    assert_violation(members(MEMBERS - 12), "", "member_count");

    let named = |len: usize| with(&format!(r#""user":{{"{}":0}},"#, "n".repeat(len)));
    assert_eq!(outcome(named(NAME)), Ok(vec![]));
    assert_violation(named(NAME + 1), "/user", "name_length");
    assert_violation(
        within(&format!(r#","{}":1"#, "n".repeat(9000))),
        "/target",
        "name_length",
    );
}

#[test]
fn a_hundred_thousand_members_or_elements_are_refused() {
    let members: Vec<_> = (0..100_000)
        .map(|number| format!(r#""{number}":0"#))
        .collect();
    assert_violation(format!("{{{}}}", members.join(",")), "", "document_size");
    let long = format!("\"{}\"", "x".repeat(4000));
    let many = vec![long.as_str(); 2000].join(",");
    let found = outcome(with(&format!(r#""user":[{many}],"#))).unwrap();
    assert_eq!(found.len(), MEMBERS, "what is told is bounded, too");
}

#[test]
fn deep_nesting_is_refused_on_a_small_stack() {
    let refused = |json: String| {
        let json = black_box(json);
        assert!(
            !matches!(outcome(&json), Ok(violations) if violations.is_empty()),
            "{}",
            text(&json)
        );
    };
    let run = move || {
        for depth in [9, 100, 5_000, 100_000, 1_000_000] {
            for (open, close) in [("[", "]"), (r#"{"a":"#, "}"), (r#"[{"user":"#, "}]")] {
                let opened = open.repeat(depth);
                refused(opened.clone());
                refused(format!("{opened}1{}", close.repeat(depth)));
                refused(with(&format!(
                    r#""user":{opened}1{},"#,
                    close.repeat(depth)
                )));
                refused(within(&format!(r#","documents":{opened}"#)));
            }
        }
    };
    let small = thread::Builder::new().stack_size(256 * 1024).spawn(run);
    small.unwrap().join().unwrap();
}

#[test]
fn an_error_never_holds_a_value() {
    let canary = "CANARY-7f3a";
    let mut sample = customer();
    sample["target"]["email"] = format!("{canary} x").into();
    sample["target"]["dob"] = canary.into();
    sample["target"]["fn"] = format!("{canary}\n").into();
    sample["target"]["documents"]["front"] = canary.into();
    sample[format!("{canary} name")] = canary.into();
    sample["user"] = canary.into();
    let mut cases = vec![sample.to_string()];
    cases.push(format!(r#"{{"service":"{canary}"}}"#));
    cases.push(format!(r#"{{"{canary} a":1,"{canary} a":1}}"#));
    cases.push(format!(r#"{{"user":"{canary}" "pass"}}"#));
    cases.push(format!(r#"{{"user":{canary}}}"#));
    for json in cases {
        let lifted = lifted(json.as_bytes());
        let error = Submission::parse(&lifted, &rules(), TODAY).unwrap_err();
        let shown = format!("{error} {error:?} {lifted:?}");
        assert!(!shown.contains(canary), "{shown}");
    }
}
