use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    lift::{SKELETON_LIMIT, lift},
    sample::{TODAY, base64, customer, jpeg, lifted, refusal, requests, rules},
    *,
};

fn codes(document: &Value, rules: &Rules) -> Vec<(String, &'static str)> {
    let mut found = refusal(document.to_string().as_bytes(), rules).unwrap();
    found.sort();
    found
}

fn assert_codes(document: &Value, rules: &Rules, expected: &[(&str, &'static str)]) {
    let mut expected: Vec<_> = expected
        .iter()
        .map(|(p, c)| ((*p).to_owned(), *c))
        .collect();
    expected.sort();
    assert_eq!(
        codes(document, rules),
        expected,
        "{}",
        document.to_string().len()
    );
}

fn at<'v>(document: &'v mut Value, pointer: &str) -> &'v mut Value {
    document.pointer_mut(pointer).unwrap()
}

fn remove(document: &mut Value, parent: &str, name: &str) {
    at(document, parent)
        .as_object_mut()
        .unwrap()
        .remove(name)
        .unwrap();
}

#[test]
fn a_complete_request_is_accepted_and_tells_what_it_holds() {
    let json = customer().to_string();
    let lifted = lifted(json.as_bytes());
    let submission = Submission::parse(&lifted, &rules(), TODAY).unwrap();
    assert_eq!(submission.operation(), Operation::CreateOrUpdateCustomer);
    assert_eq!(submission.email(), "test@customer.example");
    assert_eq!(submission.reference(), Some("888888812"));
    let fields: Vec<_> = submission.fields().collect();
    assert_eq!(
        fields,
        [
            "reference",
            "email",
            "fn",
            "ln",
            "addr",
            "city",
            "state",
            "zip",
            "dob",
            "phone",
            "front",
            "back"
        ]
    );
    let images = submission.images().iter();
    let images: Vec<_> = images.map(|i| (i.side(), i.format(), i.bytes())).collect();
    assert_eq!(
        images[0],
        (
            Side::Front,
            ImageFormat::Jpeg,
            jpeg(640, 480, 6000).len().try_into().unwrap()
        )
    );
    assert_eq!((images[1].0, images[1].1), (Side::Back, ImageFormat::Png));
}

#[test]
fn every_violation_is_told_at_once() {
    let document = json!({
        "service": "createOrUpdateCustomer", "reference": "", "User": 1, "extra": {},
        "target": {
            "email": "nobody", "fn": 1, "ln": "a\tb", "addr": null, "city": "x".repeat(256),
            "state": [], "dob": "19700230", "phone": "", "status": "PASS", "user": "x",
            "documents": {"back": "AAAA", "side": 1},
        },
    });
    assert_codes(
        &document,
        &rules(),
        &[
            ("/User", "unknown_member"),
            ("/extra", "unknown_member"),
            ("/reference", "length"),
            ("/target/email", "email_format"),
            ("/target/fn", "wrong_type"),
            ("/target/ln", "control_character"),
            ("/target/addr", "wrong_type"),
            ("/target/city", "length"),
            ("/target/state", "wrong_type"),
            ("/target/zip", "required"),
            ("/target/dob", "date_format"),
            ("/target/phone", "length"),
            ("/target/status", "not_allowed"),
            ("/target/user", "unknown_member"),
            ("/target/documents/side", "unknown_member"),
            ("/target/documents/front", "required"),
            ("/target/documents/back", "image_format"),
        ],
    );
}

#[test]
fn each_service_has_its_own_members() {
    let target = json!({"email": "a@b.example"});
    for service in ["getStatus", "getDocumentImages"] {
        let plain = json!({"service": service, "target": target});
        assert_codes(&plain, &rules(), &[]);
        let mut all = customer();
        all["service"] = service.into();
        all["target"]["status"] = "PASS".into();
        let others = [
            "/reference",
            "/target/fn",
            "/target/ln",
            "/target/addr",
            "/target/city",
            "/target/state",
            "/target/zip",
            "/target/dob",
            "/target/phone",
            "/target/status",
            "/target/documents",
        ];
        assert_codes(
            &all,
            &rules(),
            &others.map(|pointer| (pointer, "not_allowed")),
        );
    }
    let mut change = json!({"service": "updateStatus", "target": target});
    assert_codes(&change, &rules(), &[("/target/status", "required")]);
    for (status, expected) in [
        (json!("FAIL"), None),
        (json!("pass"), Some("status_value")),
        (json!(null), Some("wrong_type")),
    ] {
        change["target"]["status"] = status;
        let expected: Vec<_> = expected
            .map(|code| ("/target/status", code))
            .into_iter()
            .collect();
        assert_codes(&change, &rules(), &expected);
    }
    change["reference"] = "r".into();
    change["target"]["documents"] = json!({});
    change["target"]["status"] = "PASS".into();
    let expected = [
        ("/reference", "not_allowed"),
        ("/target/documents", "not_allowed"),
    ];
    assert_codes(&change, &rules(), &expected);
}

#[test]
fn an_unknown_service_is_refused_by_name() {
    for service in [
        "",
        "deleteCustomer",
        "GetStatus",
        "getStatus ",
        "getStatus\0",
        &"x".repeat(5000),
    ] {
        let document = json!({"service": service, "target": {}, "extra": 1});
        let found = refusal(document.to_string().as_bytes(), &rules());
        assert_eq!(found, Err(PayloadError::UnknownService), "{service:?}");
    }
    let email = ("/target/email", "required");
    for service in [
        json!(null),
        json!(1),
        json!(["getStatus"]),
        json!({"getStatus": 1}),
    ] {
        let document = json!({"service": service, "target": {}});
        assert_codes(&document, &rules(), &[("/service", "wrong_type"), email]);
    }
    assert_codes(
        &json!({"target": {}}),
        &rules(),
        &[("/service", "required"), email],
    );
    let missing = [("/service", "required"), ("/target", "required")];
    assert_codes(&json!({}), &rules(), &missing);
}

#[test]
fn a_target_is_an_object() {
    for (target, code) in [
        (json!(null), "wrong_type"),
        (json!([]), "wrong_type"),
        (json!("x"), "wrong_type"),
        (json!("x".repeat(5000)), "wrong_type"),
    ] {
        let document = json!({"service": "getStatus", "target": target});
        assert_codes(&document, &rules(), &[("/target", code)]);
    }
    let document = json!({"service": "createOrUpdateCustomer"});
    let missing = [("/reference", "required"), ("/target", "required")];
    assert_codes(&document, &rules(), &missing);
}

#[test]
fn what_is_required_is_configured_but_for_the_email() {
    let none = Rules {
        required: Vec::new(),
        ..rules()
    };
    let bare = json!({"service": "createOrUpdateCustomer", "target": {"email": "a@b.example"}});
    assert_codes(&bare, &none, &[]);
    let empty = json!({"service": "createOrUpdateCustomer", "target": {}});
    assert_codes(&empty, &none, &[("/target/email", "required")]);
    for field in Field::ALL {
        if field == Field::Status {
            continue;
        }
        let one = Rules {
            required: vec![field],
            ..rules()
        };
        let pointer = field.pointer();
        let expected: &[_] = &[(pointer, "required")];
        assert_codes(
            &bare,
            &one,
            if field == Field::Email { &[] } else { expected },
        );
        assert_codes(&customer(), &one, &[]);
    }
}

#[test]
fn documents_are_optional_and_have_a_front() {
    let mut document = customer();
    remove(&mut document, "/target/documents", "back");
    assert_codes(&document, &rules(), &[]);
    remove(&mut document, "/target/documents", "front");
    assert_codes(
        &document,
        &rules(),
        &[("/target/documents/front", "required")],
    );
    remove(&mut document, "/target", "documents");
    assert_codes(&document, &rules(), &[]);
    for other in [json!(null), json!([]), json!("x"), json!("x".repeat(5000))] {
        document["target"]["documents"] = other;
        assert_codes(&document, &rules(), &[("/target/documents", "wrong_type")]);
    }
    for other in [json!(null), json!([]), json!({"front": ""}), json!(1)] {
        document["target"]["documents"] = json!({"front": other});
        assert_codes(
            &document,
            &rules(),
            &[("/target/documents/front", "wrong_type")],
        );
    }
}

#[test]
fn an_image_is_judged_alike_in_a_short_string_and_in_a_long_one() {
    for bytes in [100, 9000] {
        let file = jpeg(640, 480, bytes);
        let mut document = customer();
        for (text, code) in [
            (base64(&file), None),
            (format!("data:image/jpeg;base64,{}", base64(&file)), None),
            (
                format!("data:image/png;base64,{}", base64(&file)),
                Some("image_type"),
            ),
            (base64(&file[..file.len() - 2]), Some("image_truncated")),
            (base64(&jpeg(0, 1, bytes)), Some("image_dimensions")),
            (format!("{}=", base64(&file)), Some("base64")),
            (format!("{} ", base64(&file)), Some("base64")),
            (format!("{}\n", base64(&file)), Some("base64")),
            (base64(&file).replacen('A', "-", 1), Some("base64")),
            (base64(&file).replacen('A', "é", 1), Some("base64")),
        ] {
            *at(&mut document, "/target/documents/front") = text.into();
            let expected: Vec<_> = code
                .map(|c| ("/target/documents/front", c))
                .into_iter()
                .collect();
            assert_codes(&document, &rules(), &expected);
            let escaped = document.to_string().replace('/', r"\/");
            let found = refusal(escaped.as_bytes(), &rules()).unwrap();
            let found: Vec<_> = found.iter().map(|(p, c)| (p.as_str(), *c)).collect();
            assert_eq!(found, expected, "with slashes escaped");
        }
    }
}

#[test]
fn a_long_string_is_refused_where_no_image_belongs() {
    for field in Field::ALL {
        let mut document = customer();
        if field == Field::Status {
            document = json!({"service": "updateStatus", "target": {"email": "a@b.example"}});
        }
        let pointer = field.pointer();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        at(&mut document, parent)[name] = "x".repeat(4000).into();
        let image = matches!(field, Field::Front | Field::Back);
        let code = if image { "image_format" } else { "length" };
        assert_codes(&document, &rules(), &[(pointer, code)]);
    }
    let mut document = customer();
    document["extra"] = json!({"a": ["x".repeat(4000)]});
    let expected = [("/extra", "unknown_member"), ("/extra/a/0", "length")];
    assert_codes(&document, &rules(), &expected);
}

#[test]
fn the_longest_valid_text_is_read_however_it_is_escaped() {
    let escaped = r"\ud83d\ude00".repeat(255);
    let json = customer().to_string().replace("123 Main Street", &escaped);
    assert_eq!(refusal(json.as_bytes(), &rules()), Ok(vec![]));
    let json = customer()
        .to_string()
        .replace("123 Main Street", &format!(r"{escaped}\u0061"));
    let expected = vec![("/target/addr".to_owned(), "length")];
    assert_eq!(refusal(json.as_bytes(), &rules()), Ok(expected));
}

#[test]
fn the_formats_of_the_united_states_are_checked_where_configured() {
    let us = Rules {
        country: Country::Us,
        ..rules()
    };
    assert_codes(&customer(), &us, &[]);
    let mut document = customer();
    document["target"]["state"] = "Bayern".into();
    document["target"]["zip"] = "8033".into();
    document["target"]["phone"] = "+49 89 1".into();
    assert_codes(&document, &rules(), &[]);
    let expected = [
        ("/target/state", "state_code"),
        ("/target/zip", "zip_format"),
        ("/target/phone", "phone_format"),
    ];
    assert_codes(&document, &us, &expected);
}

#[test]
fn debug_of_a_submission_shows_no_value() {
    let document = customer();
    let lifted = lifted(document.to_string().as_bytes());
    let shown = format!("{:?}", Submission::parse(&lifted, &rules(), TODAY).unwrap());
    let target = document["target"].as_object().unwrap();
    for (name, value) in target.iter().filter(|(_, value)| value.is_string()) {
        assert!(!shown.contains(value.as_str().unwrap()), "{name}: {shown}");
    }
    assert!(!shown.contains("888888812"), "{shown}");
}

proptest! {
    #[test]
    fn what_is_read_equals_what_serde_json_reads(sample in requests()) {
        let document: Value = serde_json::from_slice(&sample.json).unwrap();
        let lifted = lift(&sample.frames, SKELETON_LIMIT).unwrap();
        let submission = match Submission::parse(&lifted, &rules(), TODAY) {
            Ok(submission) => submission,
            Err(error) => return Err(TestCaseError::fail(format!("{error:?}"))),
        };
        prop_assert_eq!(submission.operation().name(), document["service"].as_str().unwrap());
        prop_assert_eq!(submission.reference(), document["reference"].as_str());
        let mut target = document["target"].clone();
        for (field, text) in submission.target() {
            let theirs = target.as_object_mut().unwrap().remove(field.name());
            prop_assert_eq!(theirs, Some(text.into()));
        }
        for image in submission.images() {
            let text = image.segments().collect::<Vec<_>>().concat();
            let text = String::from_utf8(text).unwrap().replace(r"\/", "/");
            let theirs = target["documents"].as_object_mut().unwrap().remove(image.side().name());
            prop_assert!(theirs.unwrap().as_str().unwrap().ends_with(&text));
        }
        prop_assert!(target == json!({}) || target == json!({"documents": {}}), "left over");
    }

    #[test]
    fn no_bytes_whatever_make_it_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        at in any::<proptest::sample::Index>(),
        replaced in 0..40_usize,
    ) {
        drop(refusal(&bytes, &rules()));
        // The same bytes amid a valid document reach much further.
        let mut json = customer().to_string().into_bytes();
        let at = at.index(json.len());
        let end = json.len().min(at + replaced);
        json.splice(at..end, bytes.iter().copied().take(40));
        drop(refusal(&json, &rules()));
    }

    #[test]
    fn no_json_whatever_makes_it_panic(pieces in proptest::collection::vec(prop_oneof![
        "[\\[\\]{},:]", "\"[a-z\\\\/]{0,3}\"", "(null|true|0|-1|1e9|\\\\|\")",
        Just("\"service\":\"createOrUpdateCustomer\"".to_owned()), Just("\"target\":{".to_owned()),
        Just("\"documents\":{\"front\":\"".to_owned()), Just("/9j/".repeat(1000)),
    ], 0..30)) {
        drop(refusal(pieces.concat().as_bytes(), &rules()));
        drop(refusal(format!("{{{}}}", pieces.join(",")).as_bytes(), &rules()));
    }
}
