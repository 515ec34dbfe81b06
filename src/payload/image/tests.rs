use super::{header::MAX_SEGMENTS, *};
use crate::payload::sample::{self, base64, jpeg, jpeg_with, png};

fn parse_text(text: &str, rules: &Rules) -> Result<(ImageFormat, u64), &'static str> {
    let image = Image::parse(Side::Front, Text::Short(text.into()), rules);
    image
        .map(|image| (image.format(), image.bytes()))
        .map_err(|flaw| flaw.code)
}

fn parse(file: &[u8]) -> Result<(ImageFormat, u64), &'static str> {
    parse_text(&base64(file), &sample::rules())
}

fn size(file: &[u8]) -> u64 {
    file.len().try_into().unwrap()
}

/// A segment of any kind with so many bytes of content, which is full of end markers.
fn segment(marker: u8, bytes: u16) -> Vec<u8> {
    let mut segment = vec![0xff, marker];
    segment.extend((bytes + 2).to_be_bytes());
    segment.extend([0xff, 0xd9].iter().cycle().take(bytes.into()));
    segment
}

#[test]
fn the_format_is_known_by_the_content() {
    for bytes in 100..110 {
        let file = jpeg(640, 480, bytes);
        assert_eq!(parse(&file), Ok((ImageFormat::Jpeg, size(&file))));
        let file = png(640, 480, 100 + u32::try_from(bytes).unwrap());
        assert_eq!(parse(&file), Ok((ImageFormat::Png, size(&file))));
    }
    for other in [
        &b"GIF89a........"[..],
        b"BM............",
        b"RIFF....WEBPVP8 ",
        b"%PDF-1.7......",
        b"<svg xmlns=''/>",
        b"\0\0\0\x20ftypheic....",
        b"\xff",
        b"\x89PNH\r\n\x1a\n12345678901234567890",
        b"\x89PNG\n\n\x1a\n12345678901234567890",
        b"PK\x03\x04..........",
    ] {
        assert_eq!(parse(other), Err("image_format"), "{other:?}");
    }
}

#[test]
fn every_cut_off_file_is_refused() {
    for file in [jpeg(640, 480, 300), png(640, 480, 300)] {
        assert!(parse(&file).is_ok());
        for len in 2..file.len() {
            let code = parse(&file[..len]).unwrap_err();
            assert_eq!(code, "image_truncated", "{len} of {}", file.len());
        }
    }
}

#[test]
fn a_jpeg_may_have_large_segments_before_its_dimensions() {
    let (exif, icc, comment) = (segment(0xe1, 65533), segment(0xe2, 65533), segment(0xfe, 0));
    let tables = [segment(0xdb, 65), segment(0xc4, 30), segment(0xdd, 2)].concat();
    let fill = [0xff; 20];
    let file = jpeg_with(
        &[&exif, &icc, &icc, &comment, &tables, &fill],
        4000,
        3000,
        50,
    );
    assert_eq!(parse(&file), Ok((ImageFormat::Jpeg, size(&file))));
    // The end marker of a thumbnail in the headers is not the end of the image.
    assert_eq!(parse(&file[..exif.len() + 2]), Err("image_truncated"));
    assert_eq!(parse(&file[..file.len() - 2]), Err("image_truncated"));
}

#[test]
fn a_jpeg_of_nothing_but_headers_is_refused_early() {
    let many = segment(0xe0, 0).repeat(MAX_SEGMENTS);
    assert_eq!(parse(&jpeg_with(&[&many], 9, 9, 9)), Err("image_format"));
    let fill = vec![0xff; MAX_SEGMENTS];
    assert_eq!(parse(&jpeg_with(&[&fill], 9, 9, 9)), Err("image_format"));
    let few = segment(0xe0, 0).repeat(MAX_SEGMENTS - 2);
    assert!(parse(&jpeg_with(&[&few], 9, 9, 9)).is_ok());
}

#[test]
fn a_jpeg_has_one_frame_header_of_a_common_kind() {
    let file = jpeg_with(&[], 640, 480, 100);
    let with = |at: usize, byte: u8| {
        let mut file = file.clone();
        file[at] = byte;
        parse(&file)
    };
    assert_eq!(file[3], 0xc0);
    for marker in [0xc0, 0xc1, 0xc2] {
        assert!(with(3, marker).is_ok(), "{marker:x}");
    }
    for marker in (0xc3..=0xcf)
        .filter(|m| *m != 0xc4)
        .chain([0x00, 0x01, 0xd0, 0xd8, 0xd9, 0x42])
    {
        assert_eq!(with(3, marker), Err("image_format"), "{marker:x}");
    }
    // A segment of impossible length, no components, too many, and a header of another length.
    assert_eq!(with(5, 1), Err("image_format"));
    assert_eq!(with(5, 12), Err("image_format"));
    assert_eq!(with(11, 0), Err("image_format"));
    assert_eq!(with(11, 5), Err("image_format"));
    let second = [&[0xff, 0xc0, 0, 11, 8, 0, 1, 0, 1, 1, 1, 0x11, 0][..]].concat();
    assert_eq!(parse(&jpeg_with(&[&second], 9, 9, 9)), Err("image_format"));
    let none = [
        &[0xff, 0xd8, 0xff, 0xda, 0, 8, 1, 1, 0, 0, 63, 0][..],
        &[0; 99],
        &[0xff, 0xd9],
    ];
    assert_eq!(parse(&none.concat()), Err("image_format"));
}

#[test]
fn a_camera_may_write_a_little_after_the_end_of_a_jpeg() {
    let with_trailer = |bytes: usize| parse(&[jpeg(9, 9, 5000), vec![0; bytes]].concat());
    assert!(with_trailer(1).is_ok());
    assert!(with_trailer(4000).is_ok());
    assert_eq!(with_trailer(4200), Err("image_truncated"));
    let png = [png(9, 9, 500), vec![0]].concat();
    assert_eq!(parse(&png), Err("image_truncated"));
}

#[test]
fn dimensions_are_above_zero_and_bounded_in_pixels() {
    assert_eq!(parse(&jpeg(0, 480, 99)), Err("image_dimensions"));
    assert_eq!(parse(&jpeg(640, 0, 99)), Err("image_dimensions"));
    assert_eq!(parse(&png(0, 480, 99)), Err("image_dimensions"));
    assert_eq!(parse(&png(640, 0, 99)), Err("image_dimensions"));
    let rules = Rules {
        max_image_pixels: 640 * 480,
        ..sample::rules()
    };
    for (file, over) in [
        (jpeg(640, 480, 99), jpeg(640, 481, 99)),
        (png(640, 480, 99), png(641, 480, 99)),
    ] {
        assert!(parse_text(&base64(&file), &rules).is_ok());
        assert_eq!(parse_text(&base64(&over), &rules), Err("image_pixels"));
    }
    let bomb = png(u32::MAX, u32::MAX, 99);
    assert_eq!(parse_text(&base64(&bomb), &rules), Err("image_pixels"));
}

#[test]
fn a_png_header_makes_sense() {
    let file = png(640, 480, 99);
    for (at, byte) in [
        (8, 1),
        (11, 14),
        (12, b'i'),
        (24, 3),
        (25, 1),
        (25, 5),
        (26, 1),
        (27, 1),
        (28, 2),
    ] {
        let mut file = file.clone();
        file[at] = byte;
        assert_eq!(parse(&file), Err("image_format"), "byte {at} = {byte}");
    }
}

#[test]
fn the_size_is_bounded_in_decoded_bytes() {
    let file = jpeg(640, 480, 300);
    for (max_image, good) in [(size(&file), true), (size(&file) - 1, false)] {
        let rules = Rules {
            max_image,
            ..sample::rules()
        };
        let parsed = parse_text(&base64(&file), &rules);
        assert_eq!(parsed.err(), (!good).then_some("image_size"));
    }
}

#[test]
fn only_permitted_types_are_accepted() {
    for (types, jpeg_good, png_good) in [
        (vec![ImageFormat::Jpeg], true, false),
        (vec![ImageFormat::Png], false, true),
        (ImageFormat::ALL.to_vec(), true, true),
    ] {
        let rules = Rules {
            image_types: types.into_iter().collect(),
            ..sample::rules()
        };
        assert_eq!(
            parse_text(&base64(&jpeg(9, 9, 9)), &rules).is_ok(),
            jpeg_good
        );
        assert_eq!(parse_text(&base64(&png(9, 9, 9)), &rules).is_ok(), png_good);
    }
    assert!(ImageTypes::default().is_empty() && !ImageTypes::ALL.is_empty());
}

#[test]
fn a_data_uri_is_cut_or_refused_and_must_agree_with_the_content() {
    let (jpeg, png) = (base64(&jpeg(9, 9, 9)), base64(&png(9, 9, 9)));
    let strip = sample::rules();
    let refuse = Rules {
        data_uri: DataUri::Refuse,
        ..sample::rules()
    };
    for (prefix, text, code) in [
        ("", &jpeg, None),
        ("data:image/jpeg;base64,", &jpeg, None),
        ("data:image/jpg;base64,", &jpeg, None),
        ("DATA:Image/JPEG;Base64,", &jpeg, None),
        ("data:image/png;base64,", &png, None),
        ("data:image/png;base64,", &jpeg, Some("image_type")),
        ("data:image/jpeg;base64,", &png, Some("image_type")),
        ("data:image/gif;base64,", &png, Some("data_uri")),
        ("data:image/jpeg,", &jpeg, Some("data_uri")),
        ("data:;base64,", &jpeg, Some("data_uri")),
        (
            "data:image/jpeg;charset=utf-8;base64,",
            &jpeg,
            Some("data_uri"),
        ),
        ("data:image/jpeg;base64", &jpeg, Some("data_uri")),
        ("data: image/jpeg;base64,", &jpeg, Some("data_uri")),
        (" data:image/jpeg;base64,", &jpeg, Some("base64")),
        (
            "data:image/jpeg;base64,data:image/jpeg;base64,",
            &jpeg,
            Some("base64"),
        ),
        ("image/jpeg;base64,", &jpeg, Some("base64")),
    ] {
        let text = format!("{prefix}{text}");
        assert_eq!(parse_text(&text, &strip).err(), code, "{prefix}");
        let refused = match prefix.trim_start().get(..5) {
            Some(scheme) if scheme.eq_ignore_ascii_case("data:") && !prefix.starts_with(' ') => {
                Some("data_uri")
            }
            _ => code,
        };
        assert_eq!(parse_text(&text, &refuse).err(), refused, "{prefix}");
    }
    let escaped = format!(r"data:image\/jpeg;base64,{jpeg}");
    assert_eq!(
        parse_text(&escaped, &strip),
        Err("data_uri"),
        "no JSON escape, but a backslash"
    );
    for bad in ["", "data:", "data:image/jpeg;base64,", "data"] {
        assert!(parse_text(bad, &strip).is_err(), "{bad}");
    }
}

#[test]
fn debug_shows_side_format_and_size() {
    let text = base64(&jpeg(9, 9, 9));
    let image = Image::parse(Side::Back, Text::Short(text.into()), &sample::rules()).unwrap();
    let shown = format!("{image:?}");
    assert_eq!(shown, "Image { side: Back, format: Jpeg, bytes: 48, .. }");
}
