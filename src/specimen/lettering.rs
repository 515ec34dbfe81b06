//! A small stroke alphabet of our own, because bitmap fonts look torn at the size of a headline.
//!
//! Invariant: capitals, digits and a few signs; small letters are drawn as capitals, and a sign
//! that is not here is a gap.

use super::canvas::{At, Canvas, Ink, real};

/// Where and how large a text is.
#[derive(Clone, Copy)]
pub(super) struct Line {
    /// The left end of the upper edge.
    pub(super) at: At,
    /// The height of a capital.
    pub(super) height: f32,
    /// Turned by this angle (radians, downwards) around its left end.
    pub(super) turn: f32,
    /// Every sign has the same width.
    pub(super) even: bool,
}

impl Line {
    pub(super) const fn new(x: f32, y: f32, height: f32) -> Self {
        Self {
            at: (x, y),
            height,
            turn: 0.0,
            even: false,
        }
    }
}

/// A capital is 8 wide and 12 high.
const HEIGHT: f32 = 12.0;
const GAP: f32 = 4.0;
const SPACE: f32 = 5.0;

/// Draws a text.
pub(super) fn write(canvas: &mut Canvas, text: &str, line: Line, ink: Ink) {
    let scale = line.height / HEIGHT;
    let (sin, cos) = line.turn.sin_cos();
    let mut pen = 0.0;
    for sign in text.chars() {
        let strokes = glyph(sign.to_ascii_uppercase());
        let (left, width) = extent(&strokes, line.even);
        for stroke in &strokes {
            let placed: Vec<At> = stroke
                .iter()
                .map(|(x, y)| ((x - left + pen) * scale, y * scale))
                .map(|(x, y)| (line.at.0 + x * cos - y * sin, line.at.1 + x * sin + y * cos))
                .collect();
            canvas.stroke(&placed, ink);
        }
        pen += width + GAP;
    }
}

/// How wide a text would be.
pub(super) fn width(text: &str, line: Line) -> f32 {
    let advance = |sign: char| extent(&glyph(sign.to_ascii_uppercase()), line.even).1 + GAP;
    let all: f32 = text.chars().map(advance).sum();
    (all - GAP).max(0.0) * line.height / HEIGHT
}

/// Where a glyph begins, and its width.
fn extent(strokes: &[Vec<At>], even: bool) -> (f32, f32) {
    if even {
        return (0.0, 8.0);
    }
    let xs = strokes.iter().flatten().map(|(x, _)| *x);
    let left = xs.clone().fold(f32::INFINITY, f32::min);
    let right = xs.fold(f32::NEG_INFINITY, f32::max);
    if left > right {
        return (0.0, SPACE);
    }
    (left, right - left)
}

/// The strokes of a sign. In the table a stroke is a row of points, each two hexadecimal digits
/// for x and y; strokes are parted by `|`, and those that begin with `~` are rounded.
fn glyph(sign: char) -> Vec<Vec<At>> {
    let table = GLYPHS
        .iter()
        .find(|(own, _)| *own == sign)
        .map_or("", |(_, table)| table);
    table
        .split('|')
        .filter(|stroke| !stroke.is_empty())
        .map(|stroke| match stroke.strip_prefix('~') {
            Some(round) => smooth(smooth(smooth(points(round)))),
            None => points(stroke),
        })
        .collect()
}

fn points(stroke: &str) -> Vec<At> {
    stroke
        .split(' ')
        .filter_map(|pair| {
            let both = i32::from_str_radix(pair, 16).ok()?;
            Some((real(both / 16), real(both % 16)))
        })
        .collect()
}

/// Cuts the corners of a line and keeps its ends (Chaikin).
fn smooth(line: Vec<At>) -> Vec<At> {
    let (Some(first), Some(last)) = (line.first().copied(), line.last().copied()) else {
        return line;
    };
    let cut = |a: At, b: At| (0.75 * a.0 + 0.25 * b.0, 0.75 * a.1 + 0.25 * b.1);
    let mut round = vec![first];
    for pair in line.windows(2) {
        if let [a, b] = pair {
            round.push(cut(*a, *b));
            round.push(cut(*b, *a));
        }
    }
    round.push(last);
    round
}

#[rustfmt::skip]
const GLYPHS: [(char, &str); 46] = [
    ('A', "0c 40 8c|18 78"),
    ('B', "46 06|4c 0c 00 40|~40 70 76 46|~46 86 8c 4c"),
    ('C', "~82 80 00 0c 8c 8a"),
    ('D', "30 00 0c 3c|~3c 8c 80 30"),
    ('E', "80 00 0c 8c|06 66"),
    ('F', "80 00 0c|06 66"),
    ('G', "~82 80 00 0c 8c 87|87 57"),
    ('H', "00 0c|80 8c|06 86"),
    ('I', "40 4c"),
    ('J', "60 68|~68 6c 0c 09"),
    ('K', "00 0c|80 07|34 8c"),
    ('L', "00 0c 7c"),
    ('M', "0c 00 47 80 8c"),
    ('N', "0c 00 8c 80"),
    ('O', "~40 80 8c 0c 00 40"),
    ('P', "0c 00 40|~40 80 87 47|47 07"),
    ('Q', "~40 80 8c 0c 00 40|59 8c"),
    ('R', "0c 00 40|~40 80 87 47|47 07|47 8c"),
    ('S', "~82 80 00 06 86 8c 0c 0a"),
    ('T', "00 80|40 4c"),
    ('U', "00 07|~07 0c 8c 87|87 80"),
    ('V', "00 4c 80"),
    ('W', "00 2c 43 6c 80"),
    ('X', "00 8c|80 0c"),
    ('Y', "00 46 80|46 4c"),
    ('Z', "00 80 0c 8c"),
    ('0', "~40 80 8c 0c 00 40"),
    ('1', "13 40 4c"),
    ('2', "~03 00 80 85 0c|0c 8c"),
    ('3', "~02 00 80 86 36|~36 86 8c 0c 0a"),
    ('4', "6c 60 09 89"),
    ('5', "80 10 05|~05 84 8c 0c 0a"),
    ('6', "~46 86 8c 0c 06 46|~70 01 09"),
    ('7', "00 80 3c"),
    ('8', "~40 70 76 16 10 40|~46 86 8c 0c 06 46"),
    ('9', "~46 86 80 00 06 46|~83 8b 1c"),
    ('-', "17 77"),
    ('.', "4c 4c"),
    (',', "4b 3e"),
    ('/', "0c 80"),
    (':', "44 44|4b 4b"),
    ('<', "72 16 7a"),
    ('\'', "40 43"),
    ('(', "~60 30 3c 6c"),
    (')', "~20 50 5c 2c"),
    ('+', "17 77|44 4a"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_letter_and_digit_has_strokes_within_its_cell() {
        for sign in ('A'..='Z').chain('0'..='9') {
            let strokes = glyph(sign);
            assert!(!strokes.is_empty(), "{sign}");
            for (x, y) in strokes.iter().flatten() {
                assert!(
                    (0.0..=8.0).contains(x) && (0.0..=14.0).contains(y),
                    "{sign}"
                );
            }
            assert!(strokes.iter().all(|stroke| stroke.len() >= 2), "{sign}");
        }
        assert!(glyph('é').is_empty());
    }

    #[test]
    fn a_wide_letter_takes_more_room_than_a_narrow_one_unless_even() {
        let line = Line::new(0.0, 0.0, 12.0);
        assert!(width("WW", line) > width("II", line));
        let even = Line { even: true, ..line };
        assert!((width("WW", even) - width("II", even)).abs() < 0.01);
    }
}
