//! I1: no byte of a client's credential reaches DCAMS, whatever a client calls it and wherever it
//! puts it. What reaches DCAMS has one `user` and one `pass`, ours.

mod cases;

use std::{fmt::Write as _, fs};

use base64::{Engine, prelude::BASE64_STANDARD};
use dcams_gateway::{
    operation::Operation,
    simulator::{
        Login,
        record::{Credentials, ImageRecord, Record},
    },
    specimen::{self, Side},
};
use serde_json::{Value, json};

use self::cases::{CANARIES, Case, Expect, cases};
use crate::{
    support::{Answer, EMAIL, OTHER_USER, PASS, PATH, USER, World, customer, lookup},
    wire::{Wire, customer_of, padded, tenant},
};

#[tokio::test]
async fn a_client_credential_never_goes_upstream() {
    let world = World::start().await;
    let token = world.full_token();
    assert_eq!(world.post(&token, &customer()).await.status, 200);
    let mut wrong = Vec::new();
    for case in cases() {
        world.simulator.clear_requests();
        let answer = play(&world, &token, &case).await;
        if let Err(why) = judge(&case, &answer, &world.simulator.requests()) {
            wrong.push(format!("{}: {why}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

async fn play(world: &World, token: &str, case: &Case) -> Answer {
    let mut wire = Wire::open(world.gateway).await;
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nHost: gateway.example\r\nAuthorization: Bearer {token}\r\n\
         {}Content-Length: {}\r\n\r\n",
        case.lines,
        case.body.len(),
    );
    wire.send([head.as_bytes(), &case.body].concat()).await;
    wire.answer().await
}

fn judge(case: &Case, answer: &Answer, records: &[Record]) -> Result<(), String> {
    let said = (answer.status, answer.code());
    let expected = match case.expect {
        Expect::Dropped => (200, String::new()),
        Expect::Refused(status, code) => (status, code.to_owned()),
    };
    if said != expected {
        return Err(format!("answered {said:?}: {}", answer.text));
    }
    if let Some(form) = form_in(&format!("{answer:?}")) {
        return Err(format!("the answer holds {form}"));
    }
    match (records, &case.expect) {
        ([], Expect::Refused(..)) => Ok(()),
        ([record], Expect::Dropped) => judge_record(record).and_then(|()| {
            let body = record.body.as_ref().unwrap().as_str();
            form_in(body).map_or(Ok(()), |form| Err(format!("{form} arrived")))
        }),
        _ => Err(format!("{} requests arrived", records.len())),
    }
}

/// One `user`, one `pass`, both ours.
fn judge_record(record: &Record) -> Result<(), String> {
    let counts = (record.user_members, record.pass_members, record.credentials);
    if counts != (1, 1, Credentials::Accepted) || record.malformed.is_some() {
        return Err(format!("arrived: {counts:?} {:?}", record.malformed));
    }
    let body = record.body.as_ref().unwrap().as_str();
    let read: Value = serde_json::from_str(body).unwrap();
    if (&read["user"], &read["pass"]) != (&json!(USER), &json!(PASS)) {
        return Err("another credential arrived".to_owned());
    }
    Ok(())
}

/// The form in which a text holds a piece of a canary.
fn form_in(text: &str) -> Option<&'static str> {
    let text = text.to_ascii_lowercase();
    for canary in CANARIES {
        for piece in canary.as_bytes().windows(8) {
            for (name, form) in [
                ("itself", String::from_utf8_lossy(piece).into_owned()),
                ("its JSON escapes", spell("\\u00", piece)),
                ("its percent code", spell("%", piece)),
                ("its hexadecimal digits", spell("", piece)),
            ] {
                if text.contains(&form) {
                    return Some(name);
                }
            }
        }
        for before in ["", "x", "xx"] {
            // Without the first and last groups, which depend on what stands beside it.
            let code = BASE64_STANDARD.encode(format!("{before}{canary}"));
            if text.contains(&code[4..code.len() - 4].to_ascii_lowercase()) {
                return Some("its base64");
            }
        }
    }
    None
}

/// Each byte as two hexadecimal digits behind a prefix.
fn spell(prefix: &str, bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        write!(text, "{prefix}{byte:02x}").unwrap();
    }
    text
}

#[test]
fn the_search_for_a_canary_finds_each_form() {
    let canary = CANARIES[1];
    for text in [
        canary.to_uppercase(),
        canary[3..12].to_owned(),
        spell("\\U00", canary.as_bytes()),
        spell("%", canary.as_bytes()).to_uppercase(),
        spell("", canary.as_bytes()),
    ] {
        assert!(form_in(&format!("a{text}b")).is_some(), "{text}");
    }
    for before in ["", "a", "ab", "abc"] {
        let text = BASE64_STANDARD.encode(format!("{before}{canary}{before}"));
        assert_eq!(form_in(&text), Some("its base64"));
    }
    assert_eq!(form_in("canary"), None);
}

#[tokio::test]
async fn both_images_arrive_and_come_back_byte_for_byte() {
    let world = World::start().await;
    let token = world.full_token();
    let [front, back] =
        [Side::Front, Side::Back].map(|side| BASE64_STANDARD.encode(specimen::jpeg(side)));
    // Plain; as data URIs; with the slashes escaped, as PHP writes them.
    let plain = customer();
    let mut uris = customer();
    uris["target"]["documents"] = json!({
        "front": format!("data:image/jpeg;base64,{front}"),
        "back": format!("data:image/jpg;base64,{back}"),
    });
    for body in [
        plain.to_string(),
        uris.to_string(),
        uris.to_string().replace('/', "\\/"),
    ] {
        world.simulator.clear_customers();
        world.simulator.clear_requests();
        assert_eq!(world.post_text(&token, body).await.status, 200);
        let images = world.only_record().images;
        assert_eq!(images.front, Some(ImageRecord::of(&front)));
        assert_eq!(images.back, Some(ImageRecord::of(&back)));
        let shown = world
            .post(&token, &lookup(Operation::GetDocumentImages))
            .await;
        assert_eq!(
            shown.json()["target"]["documents"],
            json!({"front": front, "back": back})
        );
    }
}

#[tokio::test]
async fn a_body_of_any_size_arrives_whole_with_our_credential() {
    let variables = [("LIMITS__MAX_BODY", "32MB"), ("LIMITS__MAX_IMAGE", "30MB")];
    let world = World::with("", &variables).await;
    let token = world.full_token();
    // Sizes at which other gateways lost fields, or the credential.
    for size in [8_193, 1 << 20, 25 << 20] {
        world.simulator.clear_requests();
        let body = customer_of(size);
        let mut expected: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(world.post_text(&token, body).await.status, 200, "{size}");
        let record = world.only_record();
        assert_eq!(judge_record(&record), Ok(()));
        let arrived: Value = serde_json::from_str(record.body.unwrap().as_str()).unwrap();
        expected["user"] = USER.into();
        expected["pass"] = PASS.into();
        assert!(arrived == expected, "{size}: fields differ");
    }
}

#[tokio::test]
async fn a_password_of_any_characters_arrives_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let odd = "\"\\\n\r\t\u{0}\u{7f}\u{2028}\u{fe0f}\u{1f600} user\":\"x\",\"pass\":\"";
    for pass in [odd.to_owned(), "p".repeat(1024), "\u{1f600}".repeat(256)] {
        let path = folder.path().join("pass");
        fs::write(&path, &pass).unwrap();
        let toml = tenant("other", r#"services = ["getStatus"]"#, "");
        let toml = toml.replace(r#"file = "pass""#, &format!("file = {path:?}"));
        let world = World::with(&toml, &[]).await;
        world
            .simulator
            .set_credentials(vec![Login::new(OTHER_USER, &pass)]);
        let token = world.token_of("other", &Operation::ALL, None);
        let answer = world.post(&token, &lookup(Operation::GetStatus)).await;
        assert_eq!(answer.code(), "customer_not_found");
        let body = world.only_record().body.unwrap();
        let body: Value = serde_json::from_str(body.as_str()).unwrap();
        let expected = json!({
            "user": OTHER_USER, "pass": pass,
            "service": "getStatus", "target": {"email": EMAIL},
        });
        assert_eq!(body, expected);
    }
}

/// A body that would be small only on the wire: refused before its bytes count.
#[tokio::test]
async fn an_encoded_body_is_refused_and_costs_nothing() {
    let world = World::start().await;
    let image = BASE64_STANDARD.encode(padded(3000));
    for encoding in ["gzip", "br", "deflate", "zstd", "identity, gzip", "x"] {
        let lines = format!("Content-Type: application/json\r\nContent-Encoding: {encoding}\r\n");
        let body = image.clone().into_bytes();
        let case = Case {
            name: encoding.to_owned(),
            lines,
            body,
            expect: Expect::Dropped,
        };
        let answer = play(&world, &world.full_token(), &case).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (415, "unsupported_media_type")
        );
        assert_eq!(world.metric("dcams_gateway_body_memory_bytes").await, 0);
    }
    assert!(world.simulator.requests().is_empty());
}
