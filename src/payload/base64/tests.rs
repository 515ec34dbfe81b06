use bytes::Bytes;
use proptest::{collection::vec, prelude::*, sample::Index};

use super::*;
use crate::payload::{
    lift::{Lifted, Lifter, SKELETON_LIMIT, lift},
    sample::cut,
};

/// A text as a lifted string, in the pieces that the cuts make.
fn as_long(text: &str, cuts: &[Index]) -> Lifted {
    let document = format!("[\"{text}\"]");
    let frames = cut(document.as_bytes(), cuts);
    let mut lifter = Lifter::new(SKELETON_LIMIT);
    lifter.advance(&frames);
    let lifted = lifter.finish(&frames).unwrap();
    assert_eq!(
        lifted.long_strings().len(),
        1,
        "{} bytes are not long",
        text.len()
    );
    lifted
}

fn long(lifted: &Lifted) -> Encoded<'_> {
    Encoded::new(Text::Long(&lifted.long_strings()[0]))
}

fn short(text: &str) -> Encoded<'_> {
    Encoded::new(Text::Short(Cow::Borrowed(text)))
}

#[test]
fn only_canonical_standard_base64_is_accepted() {
    for (good, bytes) in [
        ("AAAA", 3),
        ("AAA=", 2),
        ("AA==", 1),
        ("+/09", 3),
        ("/+8=", 2),
    ] {
        assert_eq!(
            short(good).check().map(|c| c.bytes()).ok(),
            Some(bytes),
            "{good}"
        );
    }
    for bad in [
        "", "A", "AA", "AAA", "AAAAA", "====", "A===", "AA=A", "=AAA", "AAA==", "AAAA=",
        "AAAA====", "AA==AAAA", "AAA=AAAA", "AB==", "AAB=", "-_AA", "AA A", "AAAA\n", "AAA\0",
        "AAAé", "AA\\/A",
    ] {
        assert!(short(bad).check().is_err(), "{bad:?}");
    }
}

#[test]
fn a_lifted_text_may_escape_its_slashes_and_nothing_else() {
    let filling = "A/+9".repeat(1000);
    for (end, good) in [
        ("", true),
        (r"\/AAA", true),
        (r"\/\/\/\/", true),
        (r"A\/8=", true),
        (r"\/w==", true),
        (r"\\AAA", false),
        (r"\/AA", false),
        (r"\nAAA", false),
        (r"\u002fAAA", false),
        (r"\\/AAA", false),
        (r"A\=AA", false),
        (r#"\"AAA"#, false),
        ("AAé", false),
        ("AA=A", false),
        ("AA==AAAA", false),
    ] {
        for text in [
            format!("{filling}{end}"),
            format!("{}{end}", filling.replace('/', r"\/")),
        ] {
            let lifted = as_long(&text, &[]);
            assert_eq!(long(&lifted).check().is_ok(), good, "{end}");
            let document = Bytes::from(format!("[\"{text}\"]"));
            let frames: Vec<_> = (0..document.len())
                .map(|at| document.slice(at..=at))
                .collect();
            let lifted = lift(&frames, SKELETON_LIMIT).unwrap();
            assert_eq!(long(&lifted).check().is_ok(), good, "{end} in single bytes");
        }
    }
}

proptest! {
    #[test]
    fn any_text_is_judged_as_a_check_of_the_whole_would(
        units in vec(0..64_usize, 3073..5000),
        faults in vec((any::<Index>(), "[=A_ /]"), 0..2),
        end in "(=|==|)",
        cuts in vec(any::<Index>(), 0..30),
    ) {
        let mut text: Vec<u8> = units.iter().map(|unit| STANDARD.charset()[*unit]).collect();
        for (at, fault) in faults {
            let at = at.index(text.len());
            text[at] = fault.as_bytes()[0];
        }
        let text = String::from_utf8(text).unwrap() + &end;
        let expected = STANDARD.decode_to_vec(&text).ok().map(|bytes| u64::try_from(bytes.len()).unwrap());
        let lifted = as_long(&text, &cuts);
        prop_assert_eq!(long(&lifted).check().map(|c| c.bytes()).ok(), expected);
        let escaped = as_long(&text.replace('/', r"\/"), &cuts);
        prop_assert_eq!(long(&escaped).check().map(|c| c.bytes()).ok(), expected);
    }

    #[test]
    fn reading_skipping_and_tails_agree_with_decoding_everything(
        bytes in vec(any::<u8>(), 2400..4000),
        escape in any::<bool>(),
        cuts in vec(any::<Index>(), 0..30),
        steps in vec((0..200_u16, any::<bool>()), 0..60),
        groups in 0..40_usize,
    ) {
        let mut text = STANDARD.encode_to_string(&bytes);
        if escape {
            text = text.replace('/', r"\/");
        }
        let lifted = as_long(&text, &cuts);
        let checked = long(&lifted).check().unwrap();
        let mut reader = checked.reader();
        let mut at = 0;
        for (count, skip) in steps {
            let to = at + usize::from(count);
            if to > bytes.len() {
                break;
            }
            if skip {
                reader.skip(count).unwrap();
            } else {
                let read: Option<Vec<u8>> = (at..to).map(|_| reader.byte()).collect();
                prop_assert_eq!(read.unwrap(), &bytes[at..to]);
            }
            at = to;
            prop_assert_eq!(reader.position(), u64::try_from(at).unwrap());
        }
        let tail = checked.tail(groups);
        prop_assert!(bytes.ends_with(&tail));
        prop_assert!(tail.len() + 2 >= groups * 3 && tail.len() <= groups * 3);
        while reader.byte().is_some() {}
        prop_assert_eq!(reader.position(), u64::try_from(bytes.len()).unwrap());
        prop_assert!(reader.array::<1>().is_none());
    }

    #[test]
    fn cutting_a_prefix_leaves_the_rest(
        text in "[A-Z]{3100}",
        count in 0..3000_usize,
        cuts in vec(any::<Index>(), 0..30),
    ) {
        let lifted = as_long(&text, &cuts);
        let rest = long(&lifted).without_first(count);
        prop_assert_eq!(rest.pieces().collect::<Vec<_>>().concat(), &text.as_bytes()[count..]);
        prop_assert_eq!(rest.segments().collect::<Vec<_>>().concat(), &text.as_bytes()[count..]);
        let rest = short(&text).without_first(count);
        prop_assert_eq!(rest.pieces().collect::<Vec<_>>().concat(), &text.as_bytes()[count..]);
    }
}
