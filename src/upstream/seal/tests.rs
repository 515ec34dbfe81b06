use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    operation::Operation,
    payload::{
        lift::{SKELETON_LIMIT, lift},
        sample::{self, Sample, TODAY, requests, rules},
    },
};

const USER: &str = "gateway@veratad.example";
const PASS: &str = "\"pa\\ss\n\u{2028}\u{1f600}";

fn credential() -> Arc<Credential> {
    Credential::new(USER.into(), PASS.into()).unwrap()
}

fn sealed(frames: &[Bytes]) -> SealedRequest {
    let lifted = lift(frames, SKELETON_LIMIT).unwrap();
    let submission = Submission::parse(&lifted, &rules(), TODAY).unwrap();
    seal(&submission, &Permit::sample(submission.operation()))
}

fn text(sealed: &SealedRequest) -> String {
    let body: Vec<Bytes> = sealed.body(&credential()).iter().cloned().collect();
    String::from_utf8(body.concat()).unwrap()
}

/// The members of an object as they are written, doubled ones too.
fn members(json: &str) -> Vec<(String, Value)> {
    struct Members;
    impl<'de> serde::de::Visitor<'de> for Members {
        type Value = Vec<(String, Value)>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(
            self,
            mut map: A,
        ) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some(member) = map.next_entry()? {
                members.push(member);
            }
            Ok(members)
        }
    }
    let mut parser = serde_json::Deserializer::from_str(json);
    let members = serde::Deserializer::deserialize_map(&mut parser, Members).unwrap();
    parser.end().unwrap();
    members
}

#[test]
fn a_request_is_written_in_a_fixed_order() {
    let request = json!({
        "user": "client", "pass": "client", "reference": "a\"b",
        "target": {"phone": "1", "dob": "19700101", "zip": "2", "state": "3", "city": "4",
                   "addr": "5", "ln": "6", "fn": "7", "email": "a@b.example"},
        "service": "createOrUpdateCustomer",
    });
    let written = text(&sealed(&[request.to_string().into()]));
    let rest = written
        .strip_prefix(str::from_utf8(&credential().head()).unwrap())
        .unwrap();
    assert_eq!(
        rest,
        concat!(
            r#""service":"createOrUpdateCustomer","reference":"a\"b","target":{"#,
            r#""email":"a@b.example","fn":"7","ln":"6","addr":"5","city":"4","state":"3","#,
            r#""zip":"2","dob":"19700101","phone":"1"}}"#
        )
    );
    let change =
        json!({"service": "updateStatus", "target": {"status": "FAIL", "email": "a@b.example"}});
    let written = text(&sealed(&[change.to_string().into()]));
    let expected = r#""service":"updateStatus","target":{"email":"a@b.example","status":"FAIL"}}"#;
    assert!(written.ends_with(expected), "{written}");
}

#[test]
fn an_image_is_sent_in_the_slices_it_came_in() {
    let mut request = sample::customer();
    let front = request["target"]["documents"]["front"]
        .as_str()
        .unwrap()
        .to_owned();
    request["target"]["documents"]["front"] = format!("data:image/jpeg;base64,{front}").into();
    let json = Bytes::from(request.to_string());
    let start = request.to_string().find("/9j/").unwrap();
    let frames = [json.slice(..start + 3000), json.slice(start + 3000..)];
    let sealed = sealed(&frames);
    let body = sealed.body(&credential());
    let image: Vec<_> = body.iter().filter(|part| part.len() > 2500).collect();
    assert_eq!(
        image[0].as_ptr(),
        json[start..].as_ptr(),
        "the prefix is cut without a copy"
    );
    assert_eq!(image[1].as_ptr(), json[start + 3000..].as_ptr());
    assert!(text(&sealed).contains(&format!(r#""front":"{front}""#)));
}

#[test]
fn every_attempt_sends_the_same_bytes_and_their_exact_length() {
    let sealed = sealed(&[sample::customer().to_string().into()]);
    let other = Credential::new("other".into(), "pair".into()).unwrap();
    let (first, second) = (sealed.body(&credential()), sealed.body(&other));
    assert_eq!(first.len(), u64::try_from(text(&sealed).len()).unwrap());
    let behind = |body: &Segments| -> Vec<*const u8> {
        let segments = body.iter().skip(1);
        segments.map(|segment| segment.as_ptr()).collect()
    };
    assert_eq!(behind(&first), behind(&second));
    let (own, others) = (first.iter().next().unwrap(), second.iter().next().unwrap());
    assert_eq!((own, others), (&credential().head(), &other.head()));
}

proptest! {
    #[test]
    fn the_body_has_our_credential_once_and_every_other_value_unchanged(sample in requests()) {
        let Sample { frames, mut meaning, .. } = sample;
        let sealed = sealed(&frames);
        let written = text(&sealed);
        prop_assert_eq!(sealed.body(&credential()).len(), u64::try_from(written.len()).unwrap());
        prop_assert!(!written.contains("CANARY"), "a value of the client's user or pass");
        let members = members(&written);
        let names: Vec<_> = members.iter().map(|(name, _)| name.as_str()).collect();
        let expected: &[_] = match meaning.get("reference") {
            Some(_) => &["user", "pass", "service", "reference", "target"],
            None => &["user", "pass", "service", "target"],
        };
        prop_assert_eq!(names, expected);
        // A parser that ignores case or keeps the first of two sees nothing else either.
        let target = written.split_once(r#""target":"#).unwrap().1;
        let mut keys = Vec::new();
        for (name, value) in self::members(target.strip_suffix('}').unwrap()) {
            prop_assert!(!keys.contains(&name.to_lowercase()));
            prop_assert!(value.is_string() || name == "documents");
            keys.push(name.to_lowercase());
        }
        let mut body: Value = serde_json::from_str(&written).unwrap();
        let root = body.as_object_mut().unwrap();
        prop_assert_eq!(root.remove("user"), Some(USER.into()));
        prop_assert_eq!(root.remove("pass"), Some(PASS.into()));
        for side in ["front", "back"] {
            if let Some(image) = meaning.pointer_mut(&format!("/target/documents/{side}")) {
                let plain = image.as_str().unwrap().rsplit(',').next().unwrap().to_owned();
                *image = plain.into();
            }
        }
        prop_assert_eq!(body, meaning);
    }
}

#[test]
fn every_service_has_a_body() {
    for operation in Operation::ALL {
        let mut request = sample::customer();
        if operation != Operation::CreateOrUpdateCustomer {
            request = json!({"target": {"email": "a@b.example"}});
        }
        if operation == Operation::UpdateStatus {
            request["target"]["status"] = "PASS".into();
        }
        request["service"] = operation.name().into();
        let body: Value =
            serde_json::from_str(&text(&sealed(&[request.to_string().into()]))).unwrap();
        assert_eq!(body["service"], operation.name());
        assert_eq!(body["target"], request["target"]);
    }
}
