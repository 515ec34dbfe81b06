//! The front of the card: issuer, portrait, the person's fields, signature.
//!
//! Invariant: the portrait has no face, and every field says that it means nobody.

use embedded_graphics::pixelcolor::Rgb888;

use super::{
    BLACK, CARD, GREY, HOLDER, NAVY, OCHRE, TEAL, WHITE,
    canvas::{At, Canvas, Ink, mix, real, rgb, whole},
    lettering::{Line, write},
    microprint, rosette,
};

/// Draws it on the paper.
pub(super) fn draw(canvas: &mut Canvas) {
    heading(canvas);
    portrait(canvas, [140, 300, 540, 810]);
    let holder = HOLDER;
    let (last, first) = (holder.last_name, holder.first_name);
    let place = format!("{}, {} {}", holder.city, holder.state, holder.zip);
    let fields = [
        (600.0, 300.0, "Surname", last),
        (600.0, 404.0, "Given names", first),
        (600.0, 508.0, "Date of birth", "01 Jan 1970"),
        (1_000.0, 508.0, "Sex", "X"),
        (600.0, 612.0, "Address", holder.street),
        (600.0, 790.0, "Card number", "SPEC-000-000-000"),
        (600.0, 894.0, "Valid until", "Never valid"),
    ];
    for (x, y, label, value) in fields {
        field(canvas, (x, y), label, value);
    }
    let value = Ink::new(BLACK, 0.95, 2.5);
    write(canvas, &place, Line::new(600.0, 700.0, 30.0), value);
    // The usual ghost image.
    let ghost = [1_430, 780, 1_590, 984];
    canvas.clipped([1_420, 770, 1_600, 994], |canvas| {
        canvas.translucent(0.45, |canvas| portrait(canvas, ghost));
    });
    signature(canvas);
    microprint(canvas, 1_046);
}

/// The band at the top with the issuer and a seal.
fn heading(canvas: &mut Canvas) {
    let [left, top, right, _] = CARD;
    canvas.clipped([left, top, right, 250], |canvas| {
        canvas.shade(|x, y, below| {
            let fine = if (x + 2 * y).rem_euclid(7) < 2 { 14 } else { 0 };
            let deep = rgb(
                20 + fine + (x - 80) / 70,
                46 + fine + (x - 80) / 40,
                98 + fine,
            );
            mix(below, deep, 0.94)
        });
        rosette(canvas, (206.0, 160.0), 112.0, OCHRE);
        rosette(canvas, (206.0, 160.0), 66.0, WHITE);
    });
    let pale = Ink::new(WHITE, 1.0, 4.0);
    let title = "Commonwealth of Nowhere";
    write(canvas, title, Line::new(330.0, 112.0, 52.0), pale);
    let thin = Ink::new(Rgb888::new(206, 222, 240), 1.0, 2.0);
    let subtitle = "Identity card - Specimen - Not a document";
    write(canvas, subtitle, Line::new(332.0, 192.0, 26.0), thin);
    let rule = [(80.0, 253.0), (1_680.0, 253.0)];
    canvas.stroke(&rule, Ink::new(OCHRE, 1.0, 3.0));
}

fn field(canvas: &mut Canvas, at: At, label: &str, value: &str) {
    let small = Ink::new(GREY, 0.95, 1.15);
    write(canvas, label, Line::new(at.0, at.1, 15.0), small);
    let line = Line::new(at.0, at.1 + 30.0, 38.0);
    write(canvas, value, line, Ink::new(BLACK, 0.95, 2.9));
}

/// A head and shoulders without a face.
fn portrait(canvas: &mut Canvas, frame: [i32; 4]) {
    let [left, top, right, bottom] = frame.map(real);
    let (middle, unit) = (f32::midpoint(left, right), (right - left) / 400.0);
    canvas.clipped(frame, |canvas| {
        canvas.shade(|x, y, _| {
            let glow = whole((real(y) - top) / unit / 9.0);
            let screen = if (x - y).rem_euclid(5) < 2 { 8 } else { 0 };
            rgb(200 - glow - screen, 216 - glow - screen, 228 - glow / 2)
        });
        for step in 0..18 {
            let radius = unit * (120.0 + real(step) * 22.0);
            ring(
                canvas,
                (middle, top + 230.0 * unit),
                radius,
                Ink::new(TEAL, 0.25, 0.7),
            );
        }
        let cloth = Ink::new(Rgb888::new(58, 74, 110), 1.0, 150.0 * unit);
        let skin = |radius: f32| Ink::new(Rgb888::new(150, 158, 176), 1.0, radius * unit);
        let hair = |radius: f32| Ink::new(Rgb888::new(74, 70, 84), 1.0, radius * unit);
        let at = |x: f32, y: f32| (middle + x * unit, top + y * unit);
        canvas.stroke(&[at(-62.0, 205.0), at(-66.0, 300.0)], hair(58.0));
        canvas.stroke(&[at(62.0, 205.0), at(66.0, 300.0)], hair(58.0));
        canvas.stroke(&[at(0.0, 170.0), at(0.0, 190.0)], hair(118.0));
        canvas.stroke(&[at(-75.0, 545.0), at(75.0, 545.0)], cloth);
        let shade = Ink::new(Rgb888::new(130, 138, 158), 1.0, 48.0 * unit);
        canvas.stroke(&[at(0.0, 300.0), at(0.0, 392.0)], shade);
        canvas.stroke(&[at(0.0, 196.0), at(0.0, 262.0)], skin(84.0));
        canvas.stroke(
            &[at(-70.0, 138.0), at(0.0, 112.0), at(72.0, 140.0)],
            hair(34.0),
        );
    });
    let edge = [
        (left, top),
        (right, top),
        (right, bottom),
        (left, bottom),
        (left, top),
    ];
    canvas.stroke(&edge, Ink::new(NAVY, 1.0, 2.2));
}

fn ring(canvas: &mut Canvas, center: At, radius: f32, ink: Ink) {
    let points: Vec<At> = (0..=90)
        .map(|step| (real(step) * 4.0).to_radians())
        .map(|angle| {
            (
                center.0 + radius * angle.cos(),
                center.1 + radius * angle.sin(),
            )
        })
        .collect();
    canvas.stroke(&points, ink);
}

/// A scribble that is nobody's hand.
fn signature(canvas: &mut Canvas) {
    let points: Vec<At> = (0..=170)
        .map(|step| {
            let t = real(step) / 170.0;
            let loops = (t * 46.0).sin() * 34.0 * (1.0 - t) + (t * 19.0).cos() * 13.0;
            let x = 175.0 + t * 310.0 + (t * 46.0).cos() * 17.0 * (1.0 - 0.6 * t);
            (x, 900.0 + loops)
        })
        .collect();
    canvas.stroke(&points, Ink::new(NAVY, 0.9, 2.0));
    let rule = [(140.0, 960.0), (540.0, 960.0)];
    canvas.stroke(&rule, Ink::new(GREY, 0.8, 0.9));
    let label = Ink::new(GREY, 0.95, 1.15);
    write(
        canvas,
        "Signature of nobody",
        Line::new(140.0, 976.0, 15.0),
        label,
    );
}
