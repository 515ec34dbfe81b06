//! A picture in memory, with smooth strokes that embedded-graphics does not have.
//!
//! Invariant: what lies outside the picture, or outside the clip, is left out without a fault.

use std::convert::Infallible;

use embedded_graphics::{
    pixelcolor::Rgb888,
    prelude::{DrawTarget, OriginDimensions, Pixel, RgbColor, Size},
    primitives::Rectangle,
};

/// A point of a stroke, in pixels.
pub(super) type At = (f32, f32);

/// How a stroke looks.
#[derive(Clone, Copy)]
pub(super) struct Ink {
    pub(super) color: Rgb888,
    /// 0 (invisible) to 1 (covers).
    pub(super) opacity: f32,
    /// Half the width of a line.
    pub(super) radius: f32,
}

impl Ink {
    pub(super) const fn new(color: Rgb888, opacity: f32, radius: f32) -> Self {
        Self {
            color,
            opacity,
            radius,
        }
    }
}

/// Pixels, row by row.
pub(super) struct Canvas {
    width: i32,
    height: i32,
    pixels: Vec<[u8; 3]>,
    /// Left, top, right, bottom; the last two are outside.
    clip: [i32; 4],
}

impl Canvas {
    pub(super) fn new(width: i32, height: i32) -> Self {
        let count = usize::try_from(width.saturating_mul(height)).unwrap_or(0);
        Self {
            width,
            height,
            pixels: vec![[255; 3]; count],
            clip: [0, 0, width, height],
        }
    }

    /// Calls the function with drawing limited to a rectangle.
    pub(super) fn clipped(&mut self, clip: [i32; 4], draw: impl FnOnce(&mut Self)) {
        let before = self.clip;
        let [left, top, right, bottom] = before;
        self.clip = [
            clip[0].max(left),
            clip[1].max(top),
            clip[2].min(right),
            clip[3].min(bottom),
        ];
        draw(self);
        self.clip = before;
    }

    /// Colours each pixel anew.
    pub(super) fn shade(&mut self, shade: impl Fn(i32, i32, [u8; 3]) -> [u8; 3]) {
        let [left, top, right, bottom] = self.clip;
        for y in top..bottom {
            // Counted by hand: a zipped iterator makes unoptimised builds twice as slow.
            let mut x = left - 1;
            for pixel in self.row(y, left, right) {
                x += 1;
                *pixel = shade(x, y, *pixel);
            }
        }
    }

    /// Calls the function, and lets what was there before shine through what it drew. Strokes that
    /// cross do not add up.
    pub(super) fn translucent(&mut self, opacity: f32, draw: impl FnOnce(&mut Self)) {
        let [left, top, right, bottom] = self.clip;
        let rows = (top..bottom).map(|y| (y, self.row(y, left, right).to_vec()));
        let before: Vec<(i32, Vec<[u8; 3]>)> = rows.collect();
        draw(self);
        for (y, then) in before {
            for (now, then) in self.row(y, left, right).iter_mut().zip(then) {
                if *now != then {
                    *now = mix(then, *now, opacity);
                }
            }
        }
    }

    /// A line through these points with round ends, smooth at its edges.
    pub(super) fn stroke(&mut self, points: &[At], ink: Ink) {
        for pair in points.windows(2) {
            if let [from, to] = pair {
                self.segment(*from, *to, ink);
            }
        }
    }

    fn segment(&mut self, from: At, to: At, ink: Ink) {
        let reach = ink.radius + 1.0;
        let left = whole(from.0.min(to.0) - reach).max(self.clip[0]);
        let right = whole(from.0.max(to.0) + reach + 1.0).min(self.clip[2]);
        let top = whole(from.1.min(to.1) - reach).max(self.clip[1]);
        let bottom = whole(from.1.max(to.1) + reach + 1.0).min(self.clip[3]);
        let (along_x, along_y) = (to.0 - from.0, to.1 - from.1);
        let length2 = (along_x * along_x + along_y * along_y).max(1e-6);
        let outside2 = (ink.radius + 0.5) * (ink.radius + 0.5);
        let color = [ink.color.r(), ink.color.g(), ink.color.b()];
        for y in top..bottom {
            let off_y = real(y) + 0.5 - from.1;
            let mut off_x = real(left) - 0.5 - from.0;
            for pixel in self.row(y, left, right) {
                off_x += 1.0;
                let part = ((off_x * along_x + off_y * along_y) / length2).clamp(0.0, 1.0);
                let (dx, dy) = (off_x - part * along_x, off_y - part * along_y);
                let distance2 = dx * dx + dy * dy;
                if distance2 < outside2 {
                    let cover = (ink.radius + 0.5 - distance2.sqrt()).clamp(0.0, 1.0);
                    *pixel = mix(*pixel, color, cover * ink.opacity);
                }
            }
        }
    }

    /// The pixels of a row between two columns; none where that is outside the picture.
    fn row(&mut self, y: i32, left: i32, right: i32) -> &mut [[u8; 3]] {
        let place = |x: i32| usize::try_from(y * self.width + x).ok();
        let inside = (0..self.height).contains(&y) && 0 <= left && right <= self.width;
        let range = inside.then(|| Some(place(left)?..place(right)?)).flatten();
        range
            .and_then(|range| self.pixels.get_mut(range))
            .unwrap_or_default()
    }

    /// The picture as red, green and blue bytes.
    pub(super) fn into_rgb(self) -> Vec<u8> {
        self.pixels.into_flattened()
    }
}

/// A colour between two.
pub(super) fn mix(below: [u8; 3], above: [u8; 3], opacity: f32) -> [u8; 3] {
    let share = whole(opacity.clamp(0.0, 1.0) * 256.0);
    [
        between(below[0], above[0], share),
        between(below[1], above[1], share),
        between(below[2], above[2], share),
    ]
}

fn between(below: u8, above: u8, share: i32) -> u8 {
    let (below, above) = (i32::from(below), i32::from(above));
    u8::try_from(below + (above - below) * share / 256).unwrap_or(u8::MAX)
}

/// A colour; what is out of range becomes the nearest there is.
pub(super) fn rgb(red: i32, green: i32, blue: i32) -> [u8; 3] {
    [clamped(red), clamped(green), clamped(blue)]
}

fn clamped(value: i32) -> u8 {
    u8::try_from(value.clamp(0, 255)).unwrap_or(u8::MAX)
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        let side = |length| u32::try_from(length).unwrap_or(0);
        Size::new(side(self.width), side(self.height))
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I>(&mut self, pixels: I) -> Result<(), Infallible>
    where
        I: IntoIterator<Item = Pixel<Rgb888>>,
    {
        for Pixel(point, color) in pixels {
            let [left, top, right, bottom] = self.clip;
            if !(left..right).contains(&point.x) || !(top..bottom).contains(&point.y) {
                continue;
            }
            for pixel in self.row(point.y, point.x, point.x + 1) {
                *pixel = [color.r(), color.g(), color.b()];
            }
        }
        Ok(())
    }

    fn fill_solid(&mut self, area: &Rectangle, color: Rgb888) -> Result<(), Infallible> {
        let Some(last) = area.bottom_right() else {
            return Ok(());
        };
        let area = [area.top_left.x, area.top_left.y, last.x + 1, last.y + 1];
        self.clipped(area, |canvas| {
            canvas.shade(|_, _, _| [color.r(), color.g(), color.b()]);
        });
        Ok(())
    }
}

/// Rounds down.
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "std has no other way from a float; `as` saturates, and a picture is small"
)]
pub(super) fn whole(value: f32) -> i32 {
    value.floor() as i32
}

/// A pixel's place as a float.
#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "std has no other way to a float; exact for the size of a picture"
)]
pub(super) fn real(value: i32) -> f32 {
    value as f32
}
