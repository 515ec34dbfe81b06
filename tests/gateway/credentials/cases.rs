//! Every way to hand over a credential of one's own, or to make two readers see different ones.

use crate::{support::EMAIL, wire::customer_of};

/// What must not be seen again: a user, a password, and a number.
pub const CANARIES: [&str; 3] = [
    "canary-user-7f3a9c51",
    "canary-pass-51d0e2b8",
    "7312094451766",
];

/// One body.
pub struct Case {
    pub name: String,
    /// The `Content-Type` line, and others.
    pub lines: String,
    pub body: Vec<u8>,
    pub expect: Expect,
}

pub enum Expect {
    /// Answered as if it were not there.
    Dropped,
    /// Refused, with this status and code.
    Refused(u16, &'static str),
}

const JSON: &str = "Content-Type: application/json\r\n";
const DUPLICATE: Expect = Expect::Refused(400, "duplicate_member");
const INVALID: Expect = Expect::Refused(400, "invalid_payload");
const MALFORMED: Expect = Expect::Refused(400, "malformed_json");

/// All of them.
pub fn cases() -> Vec<Case> {
    let mut list = List(Vec::new());
    every_type(&mut list);
    spellings(&mut list);
    look_alikes(&mut list);
    doubled(&mut list);
    places(&mut list);
    documents(&mut list);
    encodings(&mut list);
    sizes(&mut list);
    media(&mut list);
    list.0
}

/// Puts the canaries in the places of `%U`, `%P` and `%N`.
fn fill(text: &str) -> String {
    let [user, pass, number] = CANARIES;
    text.replace("%U", user)
        .replace("%P", pass)
        .replace("%N", number)
}

/// A lookup with these members in front of its own.
fn lookup(members: &str) -> String {
    let comma = if members.is_empty() { "" } else { "," };
    format!(r#"{{{members}{comma}"service":"getStatus","target":{{"email":"{EMAIL}"}}}}"#)
}

/// A customer with an image and with these members in front of its own.
fn create(members: &str) -> String {
    let customer = String::from_utf8(customer_of(8_000)).unwrap();
    format!("{{{members},{}", &customer.trim_end()[1..])
}

struct List(Vec<Case>);

impl List {
    fn push(&mut self, name: &str, body: impl AsRef<[u8]>, expect: Expect) {
        self.0.push(Case {
            name: name.to_owned(),
            lines: JSON.to_owned(),
            body: body.as_ref().to_owned(),
            expect,
        });
    }

    fn dropped(&mut self, members: &str) {
        let members = fill(members);
        self.push(&members, lookup(&members), Expect::Dropped);
        self.push(
            &format!("{members} with an image"),
            create(&members),
            Expect::Dropped,
        );
    }

    fn refused(&mut self, text: &str, expect: Expect) {
        let text = fill(text);
        self.push(&text, &text, expect);
    }
}

fn every_type(list: &mut List) {
    for members in [
        r#""user":"%U","pass":"%P""#,
        r#""user":"%U""#,
        r#""pass":"%P""#,
        r#""pass":%N,"user":-%N.5e-3"#,
        r#""user":true,"pass":false"#,
        r#""user":null,"pass":null"#,
        r#""user":"","pass":"""#,
        r#""user":["%U",["%U",{"user":"%U"}]],"pass":[]"#,
        r#""user":{"user":"%U","pass":"%P"},"pass":{"a":{"b":{"c":"%P"}}}"#,
        r#""user":{"service":"updateStatus","target":{"email":"%U"}},"pass":{}"#,
    ] {
        list.dropped(members);
    }
    list.dropped(&format!(r#""user":"%U{}""#, "x".repeat(3000)));
}

fn spellings(list: &mut List) {
    for members in [
        r#""us\u0065r":"%U""#,
        r#""\u0075\u0073\u0065\u0072":"%U","p\u0061ss":"%P""#,
        r#""\u0070\u0061\u0073\u0073" : "%P""#,
        r#""user":"\u0063anary-user-7f3a9c51","pass":"\"%P\\\/\u2028\ud83d\ude00""#,
    ] {
        list.dropped(members);
    }
    let after = lookup("");
    let after = after.trim_end_matches('}');
    let behind = fill(&format!(r#"{after}}},"user":"%U","pass":"%P"}}"#));
    list.push("behind the target", behind, Expect::Dropped);
    let spaced = fill("{ \"user\"\t:\r\n\"%U\" , \"service\":\"getStatus\",");
    let spaced = format!("{spaced}\"target\":{{\"email\":\"{EMAIL}\"}},\"pass\":[]}}\n\n");
    list.push("among white space", spaced, Expect::Dropped);
}

/// Names that another reader may take for `user` or `pass`.
fn look_alikes(list: &mut List) {
    for name in [
        "User",
        "USER",
        "uSer",
        "Pass",
        "PASS",
        "user ",
        " user",
        "user\\u0000",
        "user\\t",
        "us\\u200der",
        "user\\ufeff",
        "\u{ff55}\u{ff53}\u{ff45}\u{ff52}",
        "u\u{455}er",
        "p\u{430}ss",
        "us\u{e9}r",
        "username",
        "password",
        "user[]",
        "user.name",
        "",
        "__proto__",
        "constructor",
        "\\u0055SER",
        "credentials",
    ] {
        let members = fill(&format!(r#""{name}":"%U""#));
        list.push(&members, lookup(&members), INVALID);
        list.push(
            &format!("{members} with an image"),
            create(&members),
            INVALID,
        );
    }
}

fn doubled(list: &mut List) {
    for members in [
        r#""pass":"%P","pass":"%P""#,
        r#""pass":"%P","user":"%U","pass":"other""#,
        r#""user":"%U","user":"%U""#,
        r#""user":"%U","us\u0065r":"%U""#,
        r#""us\u0065r":"%U","\u0075ser":"%U""#,
        r#""\u0070ass":1,"pass":null"#,
        r#""user":{"a":"%U","a":"%U"}"#,
        r#""user":[{"user":1,"user":2}]"#,
        r#""service":"getStatus""#,
        r#""s\u0065rvice":"updateStatus""#,
        r#""target":{"email":"x@y.example"}"#,
        r#""target":{"email":"x@y.example","email":"x@y.example"}"#,
        r#""User":"%U","User":"%U""#,
    ] {
        let members = fill(members);
        list.push(&members, lookup(&members), DUPLICATE);
        list.push(
            &format!("{members} with an image"),
            create(&members),
            DUPLICATE,
        );
    }
    let far = create(r#""user":1"#);
    let far = fill(&format!(r#"{},"user":"%U"}}"#, &far[..far.len() - 1]));
    list.push("user before and behind the image", far, DUPLICATE);
    list.refused(
        r#"{"service":"getStatus","target":{"email":"%U@a.example","em\u0061il":"%U@b.example"}}"#,
        DUPLICATE,
    );
}

fn places(list: &mut List) {
    for (text, expect) in [
        (
            r#"{"service":"getStatus","target":{"email":"a@b.example","user":"%U","pass":"%P"}}"#,
            INVALID,
        ),
        (r#"{"service":"getStatus","target":["user","%U"]}"#, INVALID),
        (
            r#"{"service":"getStatus","target":[{"email":"a@b.example","user":"%U"}]}"#,
            INVALID,
        ),
        (
            r#"{"service":"getStatus","target":"{\"user\":\"%U\"}"}"#,
            INVALID,
        ),
        (
            r#"{"service":["getStatus"],"user":"%U","target":{"email":"a@b.example"}}"#,
            INVALID,
        ),
        (
            r#"{"request":{"service":"getStatus","user":"%U","target":{"email":"a@b.example"}}}"#,
            INVALID,
        ),
        (
            r#"[{"user":"%U","pass":"%P","service":"getStatus","target":{"email":"a@b.example"}}]"#,
            INVALID,
        ),
        (r#"["user","%U","pass","%P"]"#, INVALID),
        (r#""{\"user\":\"%U\",\"service\":\"getStatus\"}""#, INVALID),
        ("%N", INVALID),
        ("null", INVALID),
        (
            r#"{"service":"%U","user":"%U","target":{"email":"a@b.example"}}"#,
            Expect::Refused(400, "unknown_service"),
        ),
        (
            r#"{"service":"login","user":"%U","pass":"%P"}"#,
            Expect::Refused(400, "unknown_service"),
        ),
    ] {
        list.refused(text, expect);
    }
    let [user, ..] = CANARIES;
    let inside = create(r#""reference":"r""#).replace(r#""reference":"reference-0001","#, "");
    let instead = format!(r#""front":"{user}","side":""#);
    let beside = format!(r#""user":"{user}","front":""#);
    list.push(
        "beside an image",
        inside.replace(r#""front":""#, &beside),
        INVALID,
    );
    list.push(
        "instead of an image",
        inside.replace(r#""front":""#, &instead),
        INVALID,
    );
}

/// Bodies that are not one JSON document.
fn documents(list: &mut List) {
    let good = lookup(r#""user":"%U""#);
    for (name, text) in [
        ("a second document", format!(r#"{good}{{"pass":"%P"}}"#)),
        ("lines of documents", format!("{good}\n{good}\n")),
        ("a trailing comma", format!("{good},")),
        ("a trailing word", format!("{good} %P")),
        ("a trailing NUL", format!("{good}\0")),
        ("a leading NUL", format!("\0{good}")),
        ("a comment", good.replacen('{', r#"{/*"pass":"%P"*/"#, 1)),
        ("a line comment", good.replacen('{', "{//%P\n", 1)),
        ("single quotes", good.replace('"', "'")),
        ("names without quotes", good.replace(r#""user""#, "user")),
        ("NaN", good.replace(r#""%U""#, "NaN")),
        ("a number with a plus", good.replace(r#""%U""#, "+%N")),
        (
            "a number that begins with 0",
            good.replace(r#""%U""#, "0%N"),
        ),
        ("a comma before the end", good.replace("}}", "},}")),
        ("no end", good[..good.len() - 1].to_owned()),
        (
            "an open string",
            r#"{"user":"%U","service":"getStatus"#.to_owned(),
        ),
        ("an unknown escape", good.replace("%U", "%U\\x41")),
        ("a raw line break in a value", good.replace("%U", "%U\n")),
        ("a raw tab in a name", good.replace("user", "us\ter")),
        (
            "a lone surrogate in a value",
            good.replace("%U", "%U\\ud800"),
        ),
        (
            "a lone low surrogate in a value",
            good.replace("%U", "%U\\udc00x"),
        ),
        (
            "a lone surrogate in a name",
            good.replace("user", "user\\udfff"),
        ),
        ("nothing", String::new()),
        ("white space", " \n".to_owned()),
        (
            "a form",
            format!("service=getStatus&user=%U&pass=%P&target[email]={EMAIL}"),
        ),
        (
            "a multipart form",
            "--x\r\nContent-Disposition: form-data; name=\"user\"\r\n\r\n%U\r\n--x--\r\n"
                .to_owned(),
        ),
        ("XML", "<user>%U</user>".to_owned()),
    ] {
        list.push(name, fill(&text), MALFORMED);
    }
}

fn encodings(list: &mut List) {
    let good = fill(&lookup(r#""user":"%U""#));
    let units: Vec<u16> = good.encode_utf16().collect();
    let little: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    let big: Vec<u8> = units.iter().flat_map(|unit| unit.to_be_bytes()).collect();
    let invalid = |bytes: &[u8]| {
        let at = good.find("canary").unwrap();
        [&good.as_bytes()[..at], bytes, &good.as_bytes()[at..]].concat()
    };
    for (name, body) in [
        (
            "a byte order mark",
            [b"\xEF\xBB\xBF", good.as_bytes()].concat(),
        ),
        ("UTF-16, little end first", little.clone()),
        (
            "UTF-16 with a mark",
            [b"\xFF\xFE".to_vec(), little].concat(),
        ),
        ("UTF-16, big end first", big),
        ("a byte that is no UTF-8", invalid(b"\xFF")),
        ("Latin 1", invalid(b"\xE9")),
        ("an overlong quote", invalid(b"\xC0\xA2")),
        ("a surrogate in UTF-8", invalid(b"\xED\xA0\x80")),
        ("a character beyond Unicode", invalid(b"\xF4\x90\x80\x80")),
    ] {
        list.push(name, body, MALFORMED);
    }
}

fn sizes(list: &mut List) {
    let long = format!(r#""user":"%U{}""#, "x".repeat(1 << 20));
    list.push("a user of 1 MB", create(&fill(&long)), INVALID);
    let name = format!(r#""{}user":"%U""#, "x".repeat(1 << 20));
    list.push("a name of 1 MB", create(&fill(&name)), INVALID);
    let many: Vec<_> = (0..100_000).map(|at| format!(r#""m{at}":1"#)).collect();
    list.push("100,000 members", create(&many.join(",")), INVALID);
    let some = many[..70].join(",");
    list.push("70 members", lookup(&some), INVALID);
    for depth in [9, 200, 5000] {
        let deep = format!(r#""pass":{}"%P"{}"#, "[".repeat(depth), "]".repeat(depth));
        list.push(&format!("{depth} deep"), lookup(&fill(&deep)), INVALID);
    }
    list.push("1,000,000 open arrays", "[".repeat(1_000_000), INVALID);
    list.push(
        "200,000 open objects",
        r#"{"user":"#.repeat(200_000),
        INVALID,
    );
}

fn media(list: &mut List) {
    let body = fill(&lookup(r#""user":"%U""#)).into_bytes();
    let unsupported = || Expect::Refused(415, "unsupported_media_type");
    for (lines, expect) in [
        (
            "Content-Type: application/json\r\nContent-Encoding: gzip\r\n",
            unsupported(),
        ),
        (
            "Content-Type: application/json; charset=utf-16\r\n",
            unsupported(),
        ),
        (
            "Content-Type: application/json; charset=utf-7\r\n",
            unsupported(),
        ),
        (
            "Content-Type: application/x-www-form-urlencoded\r\n",
            unsupported(),
        ),
        (
            "Content-Type: multipart/form-data; boundary=x\r\n",
            unsupported(),
        ),
        ("Content-Type: text/plain\r\n", unsupported()),
        (
            "Content-Type: application/json, text/plain\r\n",
            unsupported(),
        ),
        ("", unsupported()),
        (
            "Content-Type: application/json\r\nContent-Type: text/plain\r\n",
            Expect::Refused(400, "bad_request"),
        ),
    ] {
        let (name, lines) = (lines.to_owned(), lines.to_owned());
        list.0.push(Case {
            name,
            lines,
            body: body.clone(),
            expect,
        });
    }
}
