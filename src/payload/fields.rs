//! The fields of a request: their names, where they stand, and the rule of each text field.
//!
//! A [`FieldText`] has passed its field's rule. Rules judge a text as it is and never change it.

use std::{borrow::Cow, fmt};

use jiff::civil::Date;

use super::{Flaw, date, email, usa};
use crate::{operation::Operation, tenant::Country};

/// A field that a request may hold, in the order in which requests are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Field {
    /// The caller's own reference.
    Reference,
    /// The customer's email, which is the customer's key.
    Email,
    /// First name.
    Fn,
    /// Last name.
    Ln,
    /// Street address.
    Addr,
    /// City.
    City,
    /// State.
    State,
    /// Postal code.
    Zip,
    /// Birth date.
    Dob,
    /// Phone number.
    Phone,
    /// The status that a customer is to have.
    Status,
    /// Image of the document's front.
    Front,
    /// Image of the document's back.
    Back,
}

impl Field {
    /// Every field there is, in order.
    pub const ALL: [Self; 13] = [
        Self::Reference,
        Self::Email,
        Self::Fn,
        Self::Ln,
        Self::Addr,
        Self::City,
        Self::State,
        Self::Zip,
        Self::Dob,
        Self::Phone,
        Self::Status,
        Self::Front,
        Self::Back,
    ];

    /// The field of this name, if it is one that `createOrUpdateCustomer` may be configured to
    /// require.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| {
            field.name() == name && field.belongs_to(Operation::CreateOrUpdateCustomer)
        })
    }

    /// The name of its member.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::Email => "email",
            Self::Fn => "fn",
            Self::Ln => "ln",
            Self::Addr => "addr",
            Self::City => "city",
            Self::State => "state",
            Self::Zip => "zip",
            Self::Dob => "dob",
            Self::Phone => "phone",
            Self::Status => "status",
            Self::Front => "front",
            Self::Back => "back",
        }
    }

    /// Where it stands in a request, as a JSON pointer (RFC 6901).
    pub const fn pointer(self) -> &'static str {
        match self {
            Self::Reference => "/reference",
            Self::Email => "/target/email",
            Self::Fn => "/target/fn",
            Self::Ln => "/target/ln",
            Self::Addr => "/target/addr",
            Self::City => "/target/city",
            Self::State => "/target/state",
            Self::Zip => "/target/zip",
            Self::Dob => "/target/dob",
            Self::Phone => "/target/phone",
            Self::Status => "/target/status",
            Self::Front => "/target/documents/front",
            Self::Back => "/target/documents/back",
        }
    }

    /// Whether it is a text; the others are images.
    pub const fn is_text(self) -> bool {
        !matches!(self, Self::Front | Self::Back)
    }

    /// Whether requests to this service may hold it.
    pub const fn belongs_to(self, operation: Operation) -> bool {
        match operation {
            Operation::CreateOrUpdateCustomer => !matches!(self, Self::Status),
            Operation::GetDocumentImages | Operation::GetStatus => matches!(self, Self::Email),
            Operation::UpdateStatus => matches!(self, Self::Email | Self::Status),
        }
    }
}

/// What fields are judged by, beside themselves.
#[derive(Clone, Copy)]
pub(super) struct Circumstances {
    pub(super) country: Country,
    pub(super) today: Date,
}

/// The text of a field, within its field's rule.
pub(super) struct FieldText<'b>(Cow<'b, str>);

impl<'b> FieldText<'b> {
    pub(super) fn parse(
        field: Field,
        text: Cow<'b, str>,
        circumstances: Circumstances,
    ) -> Result<Self, Flaw> {
        let country = circumstances.country;
        match (field, country) {
            (Field::Email, _) => email::check(&text)?,
            (Field::Dob, _) => date::check(&text, circumstances.today)?,
            (Field::Status, _) => status(&text)?,
            (Field::State, Country::Us) => usa::state(&text)?,
            (Field::Zip, Country::Us) => usa::zip(&text)?,
            (Field::Phone, Country::Us) => usa::phone(&text)?,
            _ => plain(field, &text)?,
        }
        Ok(Self(text))
    }

    /// The flaw of a text so long that it was lifted out: too long for any field.
    pub(super) fn overlong(field: Field) -> Flaw {
        let most = most_characters(field);
        Flaw::new("length", format!("expected 1 to {most} characters"))
    }

    pub(super) fn respelled(&self, spell: impl FnOnce(&str) -> String) -> Self {
        Self(Cow::Owned(spell(&self.0)))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for FieldText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

fn status(text: &str) -> Result<(), Flaw> {
    if matches!(text, "PASS" | "PENDING" | "FAIL") {
        return Ok(());
    }
    Err(Flaw::new("status_value", "expected PASS, PENDING or FAIL"))
}

const fn most_characters(field: Field) -> usize {
    if matches!(field, Field::Reference) {
        return 128;
    }
    if matches!(field, Field::Email) {
        return 254;
    }
    255
}

/// Characters, not bytes, are counted: what a person sees as the length of a name.
fn plain(field: Field, text: &str) -> Result<(), Flaw> {
    let most = most_characters(field);
    // Bytes first: counting characters is for texts that may be too long.
    if text.is_empty() || (text.len() > most && text.chars().count() > most) {
        return Err(FieldText::overlong(field));
    }
    if text.chars().any(char::is_control) {
        return Err(Flaw::new(
            "control_character",
            "expected no control characters",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    fn flaw(field: Field, text: &str, country: Country) -> Option<&'static str> {
        let circumstances = Circumstances {
            country,
            today: date(2026, 11, 23),
        };
        let parsed = FieldText::parse(field, Cow::Borrowed(text), circumstances);
        parsed.err().map(|flaw| flaw.code)
    }

    #[test]
    fn a_text_has_1_to_255_characters_and_a_reference_128() {
        for (field, most) in [
            (Field::Fn, 255),
            (Field::Addr, 255),
            (Field::Reference, 128),
        ] {
            for character in ["x", "é", "中", "😀"] {
                assert_eq!(flaw(field, &character.repeat(most), Country::Any), None);
                let over = character.repeat(most + 1);
                assert_eq!(flaw(field, &over, Country::Any), Some("length"));
            }
            assert_eq!(flaw(field, "", Country::Any), Some("length"));
        }
    }

    #[test]
    fn a_control_character_is_refused_wherever_it_stands() {
        for control in ["\0", "\n", "\t", "\u{1b}", "\u{7f}", "\u{85}", "\u{9f}"] {
            for text in [
                control.to_owned(),
                format!("a{control}"),
                format!("{control}b"),
            ] {
                let found = flaw(Field::Ln, &text, Country::Any);
                assert_eq!(found, Some("control_character"), "{text:?}");
            }
        }
        assert_eq!(
            flaw(Field::Ln, "O'Neill-Müller \\ \"x\"", Country::Any),
            None
        );
    }

    #[test]
    fn a_status_is_one_of_three_words() {
        for good in ["PASS", "PENDING", "FAIL"] {
            assert_eq!(flaw(Field::Status, good, Country::Any), None);
        }
        for bad in ["", "pass", "PASS ", "REVIEW"] {
            assert_eq!(flaw(Field::Status, bad, Country::Any), Some("status_value"));
        }
    }

    #[test]
    fn the_formats_of_a_country_apply_in_that_country_only() {
        for (field, code) in [
            (Field::State, "state_code"),
            (Field::Zip, "zip_format"),
            (Field::Phone, "phone_format"),
        ] {
            assert_eq!(flaw(field, "Berlin", Country::Any), None);
            assert_eq!(flaw(field, "Berlin", Country::Us), Some(code));
        }
    }

    #[test]
    fn a_field_that_can_be_required_is_found_by_its_name() {
        for field in Field::ALL {
            let found = Field::from_name(field.name());
            assert_eq!(found, (field != Field::Status).then_some(field));
        }
        assert_eq!(Field::from_name("Email"), None);
        assert_eq!(Field::Front.pointer(), "/target/documents/front");
        assert_eq!(Field::Reference.pointer(), "/reference");
    }
}
