//! Draws both sides of an identity card that nobody holds, for the demo and the tests.
//!
//! Invariant: the person, the issuer and the number do not exist, and `SPECIMEN` is written across
//! both sides. The same picture comes out every time, byte for byte.

use embedded_graphics::{
    mono_font::{MonoTextStyle, ascii::FONT_5X8},
    pixelcolor::Rgb888,
    prelude::{Drawable, Point},
    text::Text,
};
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

use canvas::{At, Canvas, Ink, mix, real, rgb, whole};
use lettering::{Line, width, write};

mod back;
mod canvas;
mod front;
mod lettering;

/// A side of the card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Barcode and machine-readable lines.
    Back,
    /// Portrait and person.
    Front,
}

/// The person on the card, for requests that go with it. Nobody has this name, this street, this
/// phone number (reserved for fiction) or this address (a reserved domain).
pub const HOLDER: Holder = Holder {
    first_name: "Jane",
    last_name: "Nobody",
    street: "1 Specimen Street",
    city: "Nowhere",
    state: "CT",
    zip: "00000",
    born: "19700101",
    email: "jane.nobody@specimen.example",
    phone: "2015550100",
};

/// A person who does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// First name.
    pub first_name: &'static str,
    /// Last name.
    pub last_name: &'static str,
    /// Street and number.
    pub street: &'static str,
    /// City.
    pub city: &'static str,
    /// State, two letters.
    pub state: &'static str,
    /// Postal code, five digits.
    pub zip: &'static str,
    /// Date of birth as `YYYYMMDD`.
    pub born: &'static str,
    /// Email.
    pub email: &'static str,
    /// Phone, ten digits.
    pub phone: &'static str,
}

const WIDTH: u16 = 1_760;
const HEIGHT: u16 = 1_150;
const QUALITY: u8 = 84;

/// One side as a JPEG file of a few hundred kilobytes.
pub fn jpeg(side: Side) -> Vec<u8> {
    let mut canvas = Canvas::new(i32::from(WIDTH), i32::from(HEIGHT));
    canvas.clipped(CARD, |canvas| {
        paper(canvas, side);
        match side {
            Side::Back => back::draw(canvas),
            Side::Front => front::draw(canvas),
        }
        overprint(canvas);
    });
    desk(&mut canvas);
    encode(&canvas.into_rgb())
}

fn encode(rgb: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, QUALITY);
    encoder.set_sampling_factor(SamplingFactor::R_4_2_0);
    // It fails for a wrong size of the picture or a failing writer; here both are ours.
    if encoder.encode(rgb, WIDTH, HEIGHT, ColorType::Rgb).is_err() {
        return Vec::new();
    }
    file
}

/// The card on the desk: 1,600 by 1,010, the proportions of a bank card (ID-1).
const CARD: [i32; 4] = [80, 70, 1_680, 1_080];
const MIDDLE: At = (880.0, 575.0);
const CORNER: f32 = 56.0;

const NAVY: Rgb888 = Rgb888::new(24, 44, 92);
const TEAL: Rgb888 = Rgb888::new(20, 112, 124);
const ROSE: Rgb888 = Rgb888::new(176, 92, 128);
const OCHRE: Rgb888 = Rgb888::new(176, 132, 44);
const RED: Rgb888 = Rgb888::new(196, 24, 36);
const BLACK: Rgb888 = Rgb888::new(22, 24, 30);
const GREY: Rgb888 = Rgb888::new(82, 94, 112);
const WHITE: Rgb888 = Rgb888::new(250, 252, 252);

/// How far a pixel is outside the rounded card; negative inside.
fn outside(x: i32, y: i32) -> f32 {
    let dx = (real(x) + 0.5 - MIDDLE.0).abs() - 800.0 + CORNER;
    let dy = (real(y) + 0.5 - MIDDLE.1).abs() - 505.0 + CORNER;
    if dx <= 0.0 || dy <= 0.0 {
        return dx.max(dy) - CORNER;
    }
    dx.hypot(dy) - CORNER
}

/// Dark felt around the card, with a shadow; it also cuts the card's corners.
fn desk(canvas: &mut Canvas) {
    let [left, top, right, bottom] = CARD;
    let (width, height, corner) = (i32::from(WIDTH), i32::from(HEIGHT), 60);
    for area in [
        [0, 0, width, top],
        [0, bottom, width, height],
        [0, top, left, bottom],
        [right, top, width, bottom],
        [left, top, left + corner, top + corner],
        [right - corner, top, right, top + corner],
        [left, bottom - corner, left + corner, bottom],
        [right - corner, bottom - corner, right, bottom],
    ] {
        canvas.clipped(area, |canvas| canvas.shade(felt));
    }
}

fn felt(x: i32, y: i32, card: [u8; 3]) -> [u8; 3] {
    let light = 70 + noise(x, y) % 14 - (x + y) / 120;
    let felt = rgb(light - 6, light, light + 8);
    let shadow = 1.0 - outside(x - 5, y - 8).max(0.0) / 26.0;
    let felt = mix(felt, [12, 14, 18], shadow.max(0.0) * 0.75);
    mix(card, felt, outside(x, y) + 0.5)
}

/// Tinted paper with fine lines and guilloches.
fn paper(canvas: &mut Canvas, side: Side) {
    let wave: Vec<i32> = (0..i32::from(WIDTH))
        .map(|x| whole(9.0 * (real(x) / 61.0).sin() + 5.0 * (real(x) / 23.0).cos()))
        .collect();
    canvas.shade(|x, y, _| {
        let bend = usize::try_from(x).ok().and_then(|x| wave.get(x)).copied();
        let line = (y + bend.unwrap_or(0)).rem_euclid(6);
        let dark = if line < 2 { 13 } else { 0 } + noise(x, y) % 9;
        let tone = (x - CARD[0]) * 100 / (CARD[2] - CARD[0]);
        let (red, green, blue) = (214 + tone / 5, 236 - tone / 9, 240 - tone / 6);
        rgb(red - dark, green - dark, blue - dark)
    });
    for step in 0..26 {
        let lift = real(step) * 9.0;
        waves(canvas, 380.0 + lift, 70.0, real(step) * 0.16, TEAL);
        waves(canvas, 420.0 + lift, 54.0, 2.4 - real(step) * 0.12, ROSE);
    }
    let center = match side {
        Side::Back => (1_390.0, 330.0),
        Side::Front => (1_400.0, 640.0),
    };
    rosette(canvas, center, 236.0, OCHRE);
    rosette(canvas, center, 150.0, TEAL);
}

/// One long wave across the card.
fn waves(canvas: &mut Canvas, y: f32, height: f32, phase: f32, color: Rgb888) {
    let points: Vec<At> = (0..=134)
        .map(|step| {
            let x = real(CARD[0] + step * 12);
            let swing = (x / 118.0 + phase).sin() + 0.35 * (x / 41.0 - phase).sin();
            (x, y + height * swing)
        })
        .collect();
    canvas.stroke(&points, Ink::new(color, 0.26, 0.55));
}

/// A ring of interlaced curves, as banknotes have.
fn rosette(canvas: &mut Canvas, center: At, radius: f32, color: Rgb888) {
    for turn in 0..9 {
        let shift = real(turn) * 0.078;
        let points: Vec<At> = (0..=480)
            .map(|step| {
                let angle = real(step) * std::f32::consts::TAU / 480.0;
                let petals = 0.22 * (9.0 * (angle + shift)).sin();
                let ripple = 0.05 * (36.0 * angle - shift).sin();
                let reach = radius * (0.73 + petals + ripple);
                (
                    center.0 + reach * angle.cos(),
                    center.1 + reach * angle.sin(),
                )
            })
            .collect();
        canvas.stroke(&points, Ink::new(color, 0.42, 0.6));
    }
}

/// A line that only a magnifying glass reads.
fn microprint(canvas: &mut Canvas, y: i32) {
    let words = "SPECIMEN * NOT A DOCUMENT * DRAWN BY SOFTWARE * THIS PERSON DOES NOT EXIST * ";
    let style = MonoTextStyle::new(&FONT_5X8, NAVY);
    let line = words.repeat(4);
    canvas.clipped([CARD[0] + 60, y - 20, CARD[2] - 60, y + 20], |canvas| {
        let Ok(_) = Text::new(&line, Point::new(CARD[0] + 60, y), style).draw(canvas);
    });
}

/// `SPECIMEN` across the card.
fn overprint(canvas: &mut Canvas) {
    let text = "Specimen";
    let flat = Line::new(0.0, 0.0, 190.0);
    let turn = -0.34_f32;
    let (sin, cos) = turn.sin_cos();
    let (half, rise) = (width(text, flat) / 2.0, flat.height / 2.0);
    let [left, top, right, bottom] = CARD.map(real);
    let center = (
        f32::midpoint(left, right),
        f32::midpoint(top, bottom) + 40.0,
    );
    let at = (
        center.0 - half * cos + rise * sin,
        center.1 - half * sin - rise * cos,
    );
    let line = Line { at, turn, ..flat };
    // Two faint layers, so that the fields below stay legible.
    canvas.translucent(0.2, |canvas| {
        write(canvas, text, line, Ink::new(RED, 1.0, 17.0));
    });
    canvas.translucent(0.4, |canvas| {
        write(canvas, text, line, Ink::new(RED, 1.0, 3.0));
    });
}

/// The same grain every time.
fn noise(x: i32, y: i32) -> i32 {
    let mixed = x.wrapping_mul(374_761_393) ^ y.wrapping_mul(668_265_263);
    let mixed = (mixed ^ (mixed >> 13)).wrapping_mul(1_274_126_177);
    (mixed >> 16) & 0x7fff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_is_a_jpeg_of_a_few_hundred_kilobytes() {
        for side in [Side::Front, Side::Back] {
            let file = jpeg(side);
            assert!(file.starts_with(&[0xff, 0xd8, 0xff]) && file.ends_with(&[0xff, 0xd9]));
            assert!((200_000..600_000).contains(&file.len()), "{}", file.len());
            assert_eq!(file, jpeg(side));
        }
    }
}
