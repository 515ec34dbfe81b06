use base64::{Engine, engine::general_purpose::STANDARD};
use http::StatusCode;

use super::{
    super::{
        UpstreamReply,
        verdict::{Refusal, interpret},
    },
    *,
};

fn ask(frames: Vec<Bytes>, disclosure: Disclosure) -> Result<Answer, Refusal> {
    let reply = UpstreamReply::new(StatusCode::OK, frames);
    let echo = EchoGuard::of("gateway-user", "s3cretPassw0rd");
    interpret(&reply, Operation::GetDocumentImages, disclosure, &echo)
}

fn body(documents: &str) -> String {
    format!(
        r#"{{"result":"Success","reference":"1","status":"PENDING","target":{{"fn":"A","documents":{documents}}}}}"#
    )
}

fn minimal(documents: &str) -> Result<String, Fault> {
    let verdict = ask(vec![body(documents).into()], Disclosure::Minimal);
    if let Err(Refusal::Malformed(fault)) = verdict {
        return Err(fault);
    }
    let Ok(answer) = verdict else {
        panic!("{verdict:?}");
    };
    let bytes: Vec<u8> = answer.render().iter().flatten().copied().collect();
    Ok(String::from_utf8(bytes).unwrap())
}

fn relayed(documents: &str) -> String {
    format!(
        r#"{{"result":"Success","reference":"1","status":"PENDING","target":{{"documents":{documents}}}}}"#
    )
}

#[test]
fn documents_are_relayed_as_the_upstream_has_them() {
    let long = STANDARD.encode(vec![0xff; 10_000]);
    let escaped = long.replace('/', r"\/");
    for documents in [
        "null".to_owned(),
        "{}".to_owned(),
        r#"{"front":null}"#.to_owned(),
        r#"{"front":"","back":null}"#.to_owned(),
        r#"{"front":"/9j/4AAQ","back":"aGk="}"#.to_owned(),
        r#"{"front":"data:image/jpeg;base64,/9j/4AAQ"}"#.to_owned(),
        format!(r#"{{"front":"{long}","back":"{escaped}"}}"#),
        format!(r#"{{"front":"data:image\/png;base64,{escaped}"}}"#),
    ] {
        assert_eq!(
            minimal(&documents),
            Ok(relayed(&documents)),
            "{documents:.60}"
        );
    }
    assert_eq!(minimal("[]"), Ok(relayed("{}")));
    assert_eq!(
        minimal(r#"{"front":"\/9j\/4AAQ"}"#),
        Ok(relayed(r#"{"front":"/9j/4AAQ"}"#))
    );
}

#[test]
fn an_image_that_is_not_base64_text_is_malformed() {
    let long = "QUJD".repeat(2000);
    for image in [
        "not base64!".to_owned(),
        "aGk=aGk=".to_owned(),
        "aGk===".to_owned(),
        "aGk-_w".to_owned(),
        r"\\".to_owned(),
        r"QUJD\\/".to_owned(),
        r"\u0041".to_owned() + "\u{e9}",
        "data:image/jpeg,x".to_owned(),
        "data:image/<svg>;base64,QUJD".to_owned(),
        // A prefix has room for nothing but the type: a credential was once relayed in one.
        "data:image/Hj7kQm2x-pass.9Lt;base64,QUJD".to_owned(),
        "data:api-user.7431;base64,QUJD".to_owned(),
        format!("{long}\u{e9}"),
        format!("{long}=="),
        format!(r"{long}\n"),
        format!(r"{long}\\/"),
        format!(r#"{long}\""#),
        format!(r"{long}\u0041"),
        format!("{long} {long}"),
        format!("{long}={long}"),
        format!("{long}===="),
        format!("{long}-_"),
        format!(r"data:image\qpng;base64,{long}"),
        format!(r"data:image\u002fpng;base64,{long}"),
        format!(r"data:image/png\;base64,{long}"),
        format!("data:image/png{long}"),
    ] {
        let fine = image == format!("{long}==");
        let answer = minimal(&format!(r#"{{"front":"{image}"}}"#));
        assert_eq!(answer.is_ok(), fine, "{image:.40}");
        if !fine {
            assert_eq!(answer, Err(Fault::Image), "{image:.40}");
        }
    }
    for (documents, fault) in [
        (r#"{"front":7}"#, Fault::WrongType),
        (r#"{"front":["QUJD"]}"#, Fault::WrongType),
        (r#""QUJD""#, Fault::WrongType),
        (r#"{"front":"QUJD","front":"QUJD"}"#, Fault::DuplicateMember),
    ] {
        assert_eq!(minimal(documents), Err(fault));
    }
}

#[test]
fn an_image_is_checked_across_any_border_and_never_copied() {
    let image = STANDARD.encode((0..5000_u32).flat_map(u32::to_be_bytes).collect::<Vec<_>>());
    let image = image.replace('/', r"\/");
    let whole = Bytes::from(body(&format!(r#"{{"front":"{image}"}}"#)));
    let range = whole.as_ptr_range();
    for size in [1, 2, 3, 5, 1000, 4096, whole.len()] {
        let frames = (0..whole.len())
            .step_by(size)
            .map(|at| whole.slice(at..whole.len().min(at + size)))
            .collect();
        let Ok(answer) = ask(frames, Disclosure::Full) else {
            panic!("{size}");
        };
        let segments = answer.render();
        let bytes: Vec<u8> = segments.iter().flatten().copied().collect();
        assert_eq!(bytes, &whole[..]);
        let shared: usize = segments
            .iter()
            .filter(|segment| range.contains(&segment.as_ptr()))
            .map(Bytes::len)
            .sum();
        assert_eq!(shared, image.len(), "{size}");
    }
}

#[test]
fn padding_ends_an_image_across_a_border() {
    let long = "QUJD".repeat(2000);
    for (rest, fine) in [
        ("", true),
        ("=", true),
        ("==", false),
        ("Q", false),
        (r"\/", false),
    ] {
        let start = format!(
            r#"{{"result":"Success","status":"PASS","target":{{"documents":{{"front":"{long}="#
        );
        let frames = vec![start.into(), format!(r#"{rest}"}}}}}}"#).into()];
        let verdict = ask(frames, Disclosure::Full);
        assert_eq!(verdict.is_ok(), fine, "{rest}");
    }
}

#[test]
fn an_escape_is_judged_across_a_border() {
    let long = "QUJD".repeat(2000);
    for (end, fine) in [("/", true), ("", false), ("n", false)] {
        let start = format!(
            r#"{{"result":"Success","status":"PASS","target":{{"documents":{{"front":"{long}\"#
        );
        let frames = vec![Bytes::from(start), Bytes::from(format!(r#"{end}"}}}}}}"#))];
        let verdict = ask(frames, Disclosure::Full);
        assert_eq!(verdict.is_ok(), fine, "{end}");
    }
}

#[test]
fn a_text_is_written_anew() {
    let body = concat!(
        r#"{"result":"Success","status":"PASS","reference":"\u003cb\u003e\u0041\/\ud83d\ude00\u0000","#,
        r#""target":{"ln":"\u00e9\"\\","zip":null}}"#
    );
    let Ok(answer) = ask(vec![body.into()], Disclosure::Full) else {
        panic!();
    };
    let bytes: Vec<u8> = answer.render().iter().flatten().copied().collect();
    let expected = concat!(
        r#"{"result":"Success","reference":"<b>A/😀\u0000","status":"PASS","#,
        r#""target":{"ln":"é\"\\","zip":null}}"#
    );
    assert_eq!(String::from_utf8(bytes).unwrap(), expected);
}
