//! The back of the card: stripe, notes, bars without data, machine-readable lines.
//!
//! Invariant: nothing here decodes to anything; the lines are of ICAO's example state Utopia.

use embedded_graphics::{
    pixelcolor::Rgb888,
    prelude::{Drawable, Point, Primitive, Size},
    primitives::{PrimitiveStyle, Rectangle},
};

use super::{
    BLACK, CARD, GREY, HOLDER, NAVY,
    canvas::{Canvas, Ink, mix, real},
    lettering::{Line, write},
    microprint, noise,
};

/// Draws it on the paper.
pub(super) fn draw(canvas: &mut Canvas) {
    let [left, top, right, _] = CARD;
    let strip = Rectangle::new(
        Point::new(left, top + 54),
        Size::new(u32::try_from(right - left).unwrap_or(0), 116),
    );
    let Ok(()) = strip
        .into_styled(PrimitiveStyle::with_fill(Rgb888::new(34, 30, 32)))
        .draw(canvas);
    let notes = [
        "This card was drawn by software to test software.",
        "It names a person who does not exist, was issued by",
        "nobody, and proves nothing. If you found it, somebody",
        "forgot to switch off a demonstration.",
    ];
    let ink = Ink::new(BLACK, 0.9, 1.6);
    for (index, note) in (0..).zip(notes) {
        let y = 280.0 + real(index) * 40.0;
        write(canvas, note, Line::new(140.0, y, 21.0), ink);
    }
    barcode(canvas, [140, 470, 1_080, 670]);
    let label = Ink::new(GREY, 0.95, 1.15);
    let below = "These bars carry no data";
    write(canvas, below, Line::new(140.0, 686.0, 15.0), label);
    let seal = Line::new(1_314.0, 322.0, 20.0);
    write(canvas, "Specimen", seal, Ink::new(NAVY, 0.9, 1.8));
    machine_readable(canvas);
    microprint(canvas, 736);
}

/// Looks like a stacked barcode; the bars are noise between two guards.
fn barcode(canvas: &mut Canvas, area: [i32; 4]) {
    let [left, top, right, bottom] = area;
    let (module, row) = (5, 10);
    let guard = [true, true, true, true, false, true, false, true, false];
    canvas.clipped([left - 14, top - 14, right + 14, bottom + 14], |canvas| {
        canvas.shade(|_, _, below| mix(below, [250, 251, 250], 0.92));
    });
    let columns = (right - left) / module;
    canvas.clipped(area, |canvas| {
        canvas.shade(|x, y, below| {
            let (column, line) = ((x - left) / module, (y - top) / row);
            let edge = column.min(columns - 1 - column);
            let fixed = usize::try_from(edge).ok().and_then(|edge| guard.get(edge));
            let bar = fixed.copied().unwrap_or(noise(column, line) % 2 == 0);
            if bar { [26, 26, 30] } else { below }
        });
    });
}

/// Three lines in the form of ICAO 9303, of its own example state Utopia.
fn machine_readable(canvas: &mut Canvas) {
    let [left, _, right, bottom] = CARD;
    canvas.clipped([left, 770, right, bottom], |canvas| {
        canvas.shade(|_, _, below| mix(below, [248, 250, 248], 0.72));
    });
    let lines = [
        "I<UTOSPECIMEN00".to_owned(),
        format!("{}0X0000000UTO", HOLDER.born.get(2..).unwrap_or_default()),
        format!("{}<<{}<SPECIMEN", HOLDER.last_name, HOLDER.first_name),
    ];
    let ink = Ink::new(BLACK, 0.95, 2.9);
    for (index, text) in (0..).zip(lines) {
        let line = Line {
            even: true,
            ..Line::new(140.0, 806.0 + real(index) * 86.0, 49.5)
        };
        write(canvas, &format!("{text:<<30}"), line, ink);
    }
}
