//! Decides whether a text is a birth date: `YYYYMMDD`, a day of the calendar, from 1900 to today.

use jiff::civil::{Date, date};

use super::Flaw;

const EARLIEST: Date = date(1900, 1, 1);

/// Refuses what is not a day that somebody now alive may be born on.
pub(super) fn check(text: &str, today: Date) -> Result<(), Flaw> {
    let Some(day) = read(text) else {
        return Err(Flaw::new(
            "date_format",
            "expected a calendar date as YYYYMMDD",
        ));
    };
    if (EARLIEST..=today).contains(&day) {
        return Ok(());
    }
    Err(Flaw::new(
        "date_range",
        "expected a date from 19000101 to today",
    ))
}

fn read(text: &str) -> Option<Date> {
    let digits = text.as_bytes();
    if digits.len() != 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Date::new(
        text.get(..4)?.parse().ok()?,
        text.get(4..6)?.parse().ok()?,
        text.get(6..)?.parse().ok()?,
    )
    .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_birth_date_is_a_real_day_from_1900_to_today() {
        let today = date(2026, 11, 23);
        for good in ["19000101", "19700101", "20000229", "20240229", "20261123"] {
            assert!(check(good, today).is_ok(), "{good}");
        }
        for (bad, code) in [
            ("18991231", "date_range"),
            ("20261124", "date_range"),
            ("99991231", "date_range"),
            ("00010101", "date_range"),
            ("19000229", "date_format"),
            ("20230229", "date_format"),
            ("20231301", "date_format"),
            ("20230001", "date_format"),
            ("20230132", "date_format"),
            ("20230100", "date_format"),
            ("2023011", "date_format"),
            ("202301011", "date_format"),
            ("2023-1-1", "date_format"),
            ("+2300101", "date_format"),
            (" 2300101", "date_format"),
            ("19700101 ", "date_format"),
            ("١٩٧٠", "date_format"),
            ("", "date_format"),
        ] {
            assert_eq!(check(bad, today).unwrap_err().code, code, "{bad}");
        }
    }
}
