//! Durations, sizes and rates as people write them: `30s`, `500ms`, `10MB`, `12MiB`, `20/s`.
//!
//! Invariant: a number, one unit, nothing between or around them. What could be read in two ways
//! (`10mb`, `1.5s`, `30`) is refused, because a limit that is a thousand times off protects nothing.

use std::time::Duration;

use thiserror::Error;

/// 1,024 bytes.
pub(crate) const KIB: u64 = 1 << 10;
/// 1,048,576 bytes.
pub(crate) const MIB: u64 = 1 << 20;
/// 1,073,741,824 bytes.
pub(crate) const GIB: u64 = 1 << 30;

/// Why a duration or size was not understood. It repeats nothing of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UnitError {
    /// It does not begin with a whole number.
    #[error("does not begin with a whole number")]
    Number,
    /// The unit is missing or not one of those known.
    #[error("has no unit that is known here")]
    Unit,
    /// It is more than can be represented.
    #[error("is too large")]
    TooLarge,
}

/// Units in milliseconds, the largest first.
const DURATIONS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// What a rate is per, in seconds.
const PERIODS: [(&str, u64); 3] = [("/h", 3_600), ("/m", 60), ("/s", 1)];

/// Units in bytes; for showing a size the first that divides it is taken.
const SIZES: [(&str, u64); 7] = [
    ("GiB", GIB),
    ("GB", 1_000_000_000),
    ("MiB", MIB),
    ("MB", 1_000_000),
    ("KiB", KIB),
    ("KB", 1_000),
    ("B", 1),
];

/// Reads a duration: a whole number and `ms`, `s`, `m`, `h` or `d` (24 hours).
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    parse(text, &DURATIONS).map(Duration::from_millis)
}

/// Reads a size in bytes: a whole number and `B`, `KB`, `MB`, `GB` (powers of 1,000), `KiB`, `MiB`
/// or `GiB` (powers of 1,024), or a whole number alone.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().map_err(|_| UnitError::TooLarge);
    }
    parse(text, &SIZES)
}

/// Reads a rate, how many per how much time: a whole number and `/s`, `/m` or `/h`.
pub fn parse_rate(text: &str) -> Result<(u64, Duration), UnitError> {
    let (count, period) = split(text, &PERIODS)?;
    Ok((count, Duration::from_secs(period)))
}

/// Writes a duration in the largest unit that divides it, up to hours.
pub fn show_duration(duration: Duration) -> String {
    show(
        u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        DURATIONS
            .split_first()
            .map_or(&[], |(_days, others)| others),
        "s",
    )
}

/// Writes a size in the largest unit that divides it.
pub fn show_size(bytes: u64) -> String {
    show(bytes, &SIZES, "B")
}

fn parse(text: &str, units: &[(&str, u64)]) -> Result<u64, UnitError> {
    let (number, factor) = split(text, units)?;
    number.checked_mul(factor).ok_or(UnitError::TooLarge)
}

/// The number, and what its unit stands for.
fn split(text: &str, units: &[(&str, u64)]) -> Result<(u64, u64), UnitError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).ok_or(UnitError::Number)?;
    if number.is_empty() {
        return Err(UnitError::Number);
    }
    let number: u64 = number.parse().map_err(|_| UnitError::TooLarge)?;
    let factor = units
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, factor)| *factor)
        .ok_or(UnitError::Unit)?;
    Ok((number, factor))
}

fn show(amount: u64, units: &[(&str, u64)], zero: &str) -> String {
    if amount == 0 {
        return format!("0{zero}");
    }
    units
        .iter()
        .find(|(_, factor)| amount.is_multiple_of(*factor))
        .map_or_else(
            || amount.to_string(),
            |(name, factor)| format!("{}{name}", amount / factor),
        )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_duration_is_a_number_and_a_unit() {
        for (text, millis) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("15m", 900_000),
            ("24h", 86_400_000),
            ("365d", 31_536_000_000),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)));
        }
    }

    #[test]
    fn a_duration_that_could_be_misread_is_refused() {
        for (text, error) in [
            ("", UnitError::Number),
            ("s", UnitError::Number),
            ("-1s", UnitError::Number),
            (" 1s", UnitError::Number),
            ("٣s", UnitError::Number),
            ("30", UnitError::Unit),
            ("1.5s", UnitError::Unit),
            ("1 s", UnitError::Unit),
            ("1S", UnitError::Unit),
            ("1w", UnitError::Unit),
            ("1m30s", UnitError::Unit),
            ("1s\n", UnitError::Unit),
            ("99999999999999999999s", UnitError::TooLarge),
            ("18446744073709551615h", UnitError::TooLarge),
        ] {
            assert_eq!(parse_duration(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn a_size_counts_in_thousands_or_in_1024s() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("17B", 17),
            ("10MB", 10_000_000),
            ("12MiB", 12 * 1024 * 1024),
            ("512KiB", 512 * 1024),
            ("1KB", 1_000),
            ("2GB", 2_000_000_000),
            ("1GiB", 1 << 30),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for (text, error) in [
            ("", UnitError::Number),
            ("MB", UnitError::Number),
            ("10mb", UnitError::Unit),
            ("10 MB", UnitError::Unit),
            ("1.5MB", UnitError::Unit),
            ("10M", UnitError::Unit),
            ("99999999999999999999", UnitError::TooLarge),
            ("18446744073709551615KB", UnitError::TooLarge),
        ] {
            assert_eq!(parse_size(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn a_rate_is_a_number_per_second_minute_or_hour() {
        for (text, count, seconds) in [("20/s", 20, 1), ("600/m", 600, 60), ("1000/h", 1000, 3600)]
        {
            let rate = Ok((count, Duration::from_secs(seconds)));
            assert_eq!(parse_rate(text), rate, "{text}");
        }
        for (text, error) in [
            ("", UnitError::Number),
            ("/s", UnitError::Number),
            ("-1/s", UnitError::Number),
            (" 1/s", UnitError::Number),
            ("\u{663}/s", UnitError::Number),
            ("20", UnitError::Unit),
            ("20s", UnitError::Unit),
            ("20 /s", UnitError::Unit),
            ("20/ s", UnitError::Unit),
            ("20/S", UnitError::Unit),
            ("20/d", UnitError::Unit),
            ("20/ms", UnitError::Unit),
            ("20/s ", UnitError::Unit),
            ("20/sec", UnitError::Unit),
            ("1.5/s", UnitError::Unit),
            ("20/1s", UnitError::Unit),
            ("99999999999999999999/s", UnitError::TooLarge),
        ] {
            assert_eq!(parse_rate(text), Err(error), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_rate_reads_as_it_is_written_and_nothing_else_does(
            count in any::<u64>(),
            (unit, seconds) in prop::sample::select(vec![("s", 1), ("m", 60), ("h", 3600)]),
            other in "[0-9]{0,3}[ -~]{0,4}",
        ) {
            let rate = Ok((count, Duration::from_secs(seconds)));
            prop_assert_eq!(parse_rate(&format!("{count}/{unit}")), rate);
            if parse_rate(&other).is_ok() {
                let (number, unit) = other.split_once('/').unwrap();
                prop_assert!(!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()));
                prop_assert!(["s", "m", "h"].contains(&unit));
            }
        }

        #[test]
        fn what_is_shown_reads_back_as_the_same(amount in 0..u64::MAX / 2) {
            prop_assert_eq!(parse_size(&show_size(amount)), Ok(amount));
            let duration = Duration::from_millis(amount);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }
    }
}
