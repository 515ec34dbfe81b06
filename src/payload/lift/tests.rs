use proptest::{collection::vec, prelude::*, sample::Index};

use super::*;
use crate::payload::sample::cut;

/// The document that a lifted one was made of.
fn put_back(lifted: &Lifted) -> Vec<u8> {
    let mut document = Vec::new();
    let mut from = 0;
    for long in lifted.long_strings() {
        document.extend(&lifted.skeleton()[from..long.place]);
        document.extend(long.slices().concat());
        from = long.place;
    }
    document.extend(&lifted.skeleton()[from..]);
    document
}

/// Every string of more than `LONG` bytes, found one byte at a time.
fn long_strings(document: &[u8]) -> Vec<Vec<u8>> {
    let (mut found, mut text, mut inside, mut escaped) = (Vec::new(), Vec::new(), false, false);
    for &byte in document {
        match byte {
            b'"' if inside && !escaped => {
                inside = false;
                found.push(std::mem::take(&mut text));
            }
            b'"' if !inside => inside = true,
            _ if inside => {
                escaped = byte == b'\\' && !escaped;
                text.push(byte);
            }
            _ => {}
        }
    }
    found.retain(|text: &Vec<u8>| text.len() > LONG);
    found
}

fn assert_lifted(frames: &[Bytes]) {
    let document = frames.concat();
    let lifted = lift(frames, usize::MAX).unwrap();
    let found: Vec<_> = lifted
        .long_strings()
        .iter()
        .map(|long| long.slices().concat())
        .collect();
    assert_eq!(found, long_strings(&document));
    for long in lifted.long_strings() {
        assert_eq!(long.len(), long.slices().concat().len());
        assert_eq!(long.escaped(), long.slices().concat().contains(&b'\\'));
        assert!(long.slices().iter().all(|slice| !slice.is_empty()));
        assert_eq!(&lifted.skeleton()[long.place - 1..=long.place], b"\"\"");
    }
    assert_eq!(put_back(&lifted), document);
    assert_lifted_as_it_arrives(frames, &lifted);
}

fn assert_lifted_as_it_arrives(frames: &[Bytes], at_once: &Lifted) {
    let mut lifter = Lifter::new(usize::MAX);
    for so_far in 0..=frames.len() {
        lifter.advance(&frames[..so_far]);
    }
    let lifted = lifter.finish(frames).unwrap();
    assert_eq!(lifted.skeleton(), at_once.skeleton());
    assert_eq!(lifted.long.len(), at_once.long.len());
    for (long, other) in lifted.long.iter().zip(&at_once.long) {
        assert_eq!((long.place, &long.slices), (other.place, &other.slices));
        for (index, slice) in long.slices.iter().enumerate() {
            let base64 = |b: &u8| b.is_ascii_alphanumeric() || b"+/".contains(b);
            assert!(!long.is_plain(index) || slice.iter().all(base64));
        }
    }
}

#[test]
fn what_lies_in_a_string_from_end_to_end_is_known_to_be_base64_when_it_has_arrived() {
    for (text, plain) in [("Az09+/".repeat(800), true), ("Az09-_".repeat(800), false)] {
        let frames = in_frames_of(1000, &format!("[\"{text}\"]"));
        let mut lifter = Lifter::new(SKELETON_LIMIT);
        lifter.advance(&frames);
        let lifted = lifter.finish(&frames).unwrap();
        let long = &lifted.long_strings()[0];
        assert_eq!(
            [0, 1, 3, 4].map(|slice| long.is_plain(slice)),
            [false, plain, plain, false]
        );
    }
}

fn in_frames_of(size: usize, document: &str) -> Vec<Bytes> {
    document
        .as_bytes()
        .chunks(size)
        .map(Bytes::copy_from_slice)
        .collect()
}

#[test]
fn a_string_is_lifted_when_it_is_longer_than_the_bound_only() {
    for (len, count) in [
        (0, 0),
        (LONG - 1, 0),
        (LONG, 0),
        (LONG + 1, 1),
        (9 * LONG, 1),
    ] {
        let document = format!(r#"{{"a":"{}","b":""}}"#, "x".repeat(len));
        for size in [1, 7, LONG, LONG + 6, 100_000] {
            let lifted = lift(&in_frames_of(size, &document), usize::MAX).unwrap();
            assert_eq!(
                lifted.long_strings().len(),
                count,
                "{len} in frames of {size}"
            );
            assert_eq!(put_back(&lifted), document.as_bytes());
        }
    }
}

#[test]
fn escapes_are_read_across_frame_borders() {
    let x = "x".repeat(LONG);
    for text in [
        format!(r#"["{x}\"","{x}"]"#),
        format!(r#"["{x}\\","{x}y"]"#),
        format!(r#"["{x}\\\"{x}\\\\","\\\"{x}"]"#),
        format!(r#"["\"{x}\\\\\\","\\",{x}]"#),
        format!(r#"{{"{x}\\y":"\\{x}"}}"#),
    ] {
        for size in 1..9 {
            assert_lifted(&in_frames_of(size, &text));
        }
        for first in (0..text.len()).step_by(13).chain(LONG..LONG + 12) {
            let whole = Bytes::from(text.clone());
            let first = first.min(whole.len());
            assert_lifted(&[whole.slice(..first), Bytes::new(), whole.slice(first..)]);
        }
    }
}

#[test]
fn a_lifted_string_is_found_by_its_place_alone() {
    let document = format!(
        r#"["","{}","",{{"":"\u0000"}},"{}"]"#,
        "x".repeat(LONG + 1),
        "y".repeat(LONG + 2)
    );
    let lifted = lift(&in_frames_of(100, &document), SKELETON_LIMIT).unwrap();
    let texts: Vec<serde_json::Value> = serde_json::from_slice(lifted.skeleton()).unwrap();
    assert_eq!(texts.len(), 5);
    let skeleton = str::from_utf8(lifted.skeleton()).unwrap();
    let found: Vec<usize> = (0..=skeleton.len())
        .filter_map(|at| lifted.find(skeleton.get(at..at)?).map(LongString::len))
        .collect();
    assert_eq!(found, [LONG + 1, LONG + 2]);
    assert!(lifted.find("").is_none());
    assert!(lifted.find(skeleton).is_none());
    // The parser's own empty strings stand where we look for them.
    let borrowed: [&str; 2] =
        serde_json::from_str::<(&str, &str, &str, serde::de::IgnoredAny, &str)>(skeleton)
            .map(|texts| [texts.1, texts.4])
            .unwrap();
    assert_eq!(
        borrowed.map(|text| lifted.find(text).unwrap().len()),
        [LONG + 1, LONG + 2]
    );
}

#[test]
fn no_byte_of_a_long_string_is_copied() {
    let document = Bytes::from(format!(r#"["{}"]"#, "x".repeat(10 * LONG)));
    let frames = [document.slice(..LONG), document.slice(LONG..)];
    let lifted = lift(&frames, SKELETON_LIMIT).unwrap();
    let slices = lifted.long_strings()[0].slices();
    assert_eq!(slices[0].as_ptr(), document[2..].as_ptr());
    assert_eq!(slices[1].as_ptr(), document[LONG..].as_ptr());
}

#[test]
fn a_small_document_in_one_frame_is_its_own_skeleton() {
    let frame = Bytes::from_static(br#"{"a":"b"}"#);
    let lifted = lift(std::slice::from_ref(&frame), SKELETON_LIMIT).unwrap();
    assert_eq!(lifted.skeleton().as_ptr(), frame.as_ptr());
}

#[test]
fn the_skeleton_is_bounded_exactly() {
    let long = format!(r#"["{}"]"#, "x".repeat(LONG + 1));
    for (document, skeleton) in [(long.as_str(), 4), (r#"["xy"]"#, 6), ("[[[[", 4)] {
        for size in [1, 3, 100_000] {
            let frames = in_frames_of(size, document);
            assert!(lift(&frames, skeleton).is_ok());
            let limit = skeleton - 1;
            let refused = lift(&frames, limit).unwrap_err();
            assert_eq!(refused, LiftError::SkeletonTooLarge { limit });
        }
    }
}

#[test]
fn a_position_counts_the_lifted_bytes_of_its_line() {
    let x = "x".repeat(LONG + 1);
    let document = format!("{{\"a\":\"{x}\",\n\"b\":\"{x}\", ?}}");
    let lifted = lift(&[document.clone().into()], SKELETON_LIMIT).unwrap();
    let offset = lifted.skeleton().iter().position(|b| *b == b'?').unwrap();
    let in_line = document.lines().nth(1).unwrap().find('?').unwrap();
    assert_eq!(lifted.position(offset), (2, in_line + 1));
    assert_eq!(lifted.position(0), (1, 1));
    assert_eq!(lifted.position(usize::MAX).0, 2);
}

#[test]
fn debug_shows_lengths_only() {
    let document = format!(r#"["{}","secret"]"#, "x".repeat(LONG + 1));
    let lifted = lift(&[document.into()], SKELETON_LIMIT).unwrap();
    assert_eq!(
        format!("{lifted:?}"),
        "Lifted { skeleton: 13, long: [3073 bytes] }"
    );
}

#[test]
fn a_million_escaped_quotes_one_byte_at_a_time_take_linear_time() {
    // Quadratic work would take hours.
    let document = format!(r#"["{}"]"#, r#"\""#.repeat(1_000_000));
    let whole = Bytes::from(document);
    let frames: Vec<Bytes> = (0..whole.len()).map(|at| whole.slice(at..=at)).collect();
    assert_eq!(
        lift(&frames, SKELETON_LIMIT).unwrap().long_strings()[0].len(),
        2_000_000
    );
    assert_eq!(
        lift(&[whole], SKELETON_LIMIT).unwrap().long_strings()[0].len(),
        2_000_000
    );
    let backslashes = Bytes::from(format!(r#"["{}"]"#, r"\\".repeat(1_000_000)));
    assert_eq!(
        lift(&[backslashes], SKELETON_LIMIT)
            .unwrap()
            .long_strings()
            .len(),
        1
    );
}

proptest! {
    #[test]
    fn lifting_loses_nothing_however_the_document_is_cut(
        pieces in vec(prop_oneof![
            3 => Just("\"".to_owned()), 3 => Just("\\".to_owned()), 2 => Just("\",\"".to_owned()),
            1 => Just("\\\"".to_owned()), 1 => Just("é\n{".to_owned()),
            2 => (LONG - 3..LONG + 3).prop_map(|len| "x".repeat(len)),
        ], 0..40),
        cuts in vec(any::<Index>(), 0..30),
    ) {
        let mut document = pieces.concat();
        // Without an end, a long string is left out of the skeleton: the parser refuses it anyway.
        if lift(&[document.clone().into()], usize::MAX).is_ok_and(|l| put_back(&l) != document.as_bytes()) {
            document.push_str("x\"");
        }
        assert_lifted(&cut(document.as_bytes(), &cuts));
    }
}
