//! The formats that addresses and phone numbers of the United States have.
//!
//! Format only: whether a ZIP code lies in the state is not asked.

use super::Flaw;

/// USPS Publication 28, appendix B: states, the District of Columbia, possessions and freely
/// associated states, and the three military "states".
const STATES: [&str; 62] = [
    "AA", "AE", "AK", "AL", "AP", "AR", "AS", "AZ", "CA", "CO", "CT", "DC", "DE", "FL", "FM", "GA",
    "GU", "HI", "IA", "ID", "IL", "IN", "KS", "KY", "LA", "MA", "MD", "ME", "MH", "MI", "MN", "MO",
    "MP", "MS", "MT", "NC", "ND", "NE", "NH", "NJ", "NM", "NV", "NY", "OH", "OK", "OR", "PA", "PR",
    "PW", "RI", "SC", "SD", "TN", "TX", "UT", "VA", "VI", "VT", "WA", "WI", "WV", "WY",
];

/// Refuses what is not a USPS state code in capitals.
pub(super) fn state(text: &str) -> Result<(), Flaw> {
    if STATES.binary_search(&text).is_ok() {
        return Ok(());
    }
    Err(Flaw::new(
        "state_code",
        "expected a two-letter USPS state code in capitals",
    ))
}

/// Refuses what is not `12345`, `12345-6789` or `123456789`.
pub(super) fn zip(text: &str) -> Result<(), Flaw> {
    let well_formed = match text.split_once('-') {
        Some((area, plus_four)) => digits(area, &[5]) && digits(plus_four, &[4]),
        None => digits(text, &[5, 9]),
    };
    if well_formed {
        return Ok(());
    }
    Err(Flaw::new(
        "zip_format",
        "expected a ZIP code of 5 or 9 digits",
    ))
}

/// Refuses what is not ten digits.
pub(super) fn phone(text: &str) -> Result<(), Flaw> {
    if digits(text, &[10]) {
        return Ok(());
    }
    Err(Flaw::new(
        "phone_format",
        "expected a phone number of 10 digits",
    ))
}

fn digits(text: &str, lengths: &[usize]) -> bool {
    lengths.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_codes_are_those_of_the_postal_service() {
        assert!(STATES.is_sorted(), "they are searched by halves");
        for good in ["CT", "DC", "PR", "GU", "AE", "AP", "AA", "WY"] {
            assert!(state(good).is_ok(), "{good}");
        }
        for bad in ["", "C", "ct", "CTX", "XX", "UK", " CT", "Connecticut"] {
            assert_eq!(state(bad).unwrap_err().code, "state_code", "{bad}");
        }
    }

    #[test]
    fn a_zip_code_has_five_or_nine_digits() {
        for good in ["06614", "06614-1234", "066141234"] {
            assert!(zip(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "6614",
            "066144",
            "06614-",
            "06614-123",
            "-06614",
            "0661a",
            "06614 1234",
            "０６６１４",
            "06614-1234-",
            "066141234-",
        ] {
            assert_eq!(zip(bad).unwrap_err().code, "zip_format", "{bad}");
        }
    }

    #[test]
    fn a_phone_number_has_ten_digits() {
        assert!(phone("2015106000").is_ok());
        for bad in [
            "",
            "201510600",
            "20151060000",
            "201-510-6000",
            "+12015106000",
            "201510600x",
        ] {
            assert_eq!(phone(bad).unwrap_err().code, "phone_format", "{bad}");
        }
    }
}
