//! Judges a document's fields: which a service has, which are required, and each by its rule.
//!
//! Invariant: everything that is wrong is told at once, and a submission comes out only where
//! nothing is.

use jiff::civil::Date;

use super::{
    Customer, Flaw, Lookup, PayloadError, Rules, StatusChange, Submission, Violation,
    base64::Text,
    document::{Document, Value},
    fields::{Circumstances, Field, FieldText},
    image::{Image, Side},
};
use crate::operation::Operation;

/// The fields of a customer that are texts about the person, in the order they are written in.
const PERSON: [Field; 8] = [
    Field::Fn,
    Field::Ln,
    Field::Addr,
    Field::City,
    Field::State,
    Field::Zip,
    Field::Dob,
    Field::Phone,
];

/// Makes a submission of a document in whose shape `violations` were found so far.
pub(super) fn judge<'b>(
    mut document: Document<'b>,
    violations: Vec<Violation>,
    rules: &Rules,
    today: Date,
) -> Result<Submission<'b>, PayloadError> {
    let mut judge = Judge {
        rules,
        today,
        violations,
    };
    let submission = match judge.service(&document.service)? {
        Some(operation) => judge.submission(operation, &mut document),
        None => judge.without_service(&mut document),
    };
    match submission {
        Some(submission) if judge.violations.is_empty() => Ok(submission),
        _ => Err(PayloadError::Invalid(judge.violations)),
    }
}

/// Collects what is wrong with a document's fields.
struct Judge<'r> {
    rules: &'r Rules,
    today: Date,
    violations: Vec<Violation>,
}

impl Judge<'_> {
    fn service(&mut self, service: &Value<'_>) -> Result<Option<Operation>, PayloadError> {
        match service {
            Value::Text(name) => match Operation::from_name(name) {
                Some(operation) => return Ok(Some(operation)),
                None => return Err(PayloadError::UnknownService),
            },
            Value::Long(_) => return Err(PayloadError::UnknownService),
            Value::Absent => self.push(Violation::required("/service".to_owned())),
            Value::Object | Value::Other => self.wrong_type("/service", "expected a string"),
        }
        Ok(None)
    }

    fn submission<'b>(
        &mut self,
        operation: Operation,
        document: &mut Document<'b>,
    ) -> Option<Submission<'b>> {
        self.strangers(operation, document);
        let customer = matches!(operation, Operation::CreateOrUpdateCustomer);
        let reference = customer.then(|| self.optional(document, Field::Reference));
        if !self.has_target(document) {
            return None;
        }
        let email = self.text(document, Field::Email, true);
        Some(match operation {
            Operation::CreateOrUpdateCustomer => {
                let (person, images) = (self.person(document), self.images(document));
                Submission::CreateOrUpdateCustomer(Customer {
                    email: email?,
                    reference: reference?,
                    person,
                    images,
                })
            }
            Operation::GetDocumentImages => Submission::GetDocumentImages(Lookup { email: email? }),
            Operation::GetStatus => Submission::GetStatus(Lookup { email: email? }),
            Operation::UpdateStatus => {
                let status = self.text(document, Field::Status, true);
                Submission::UpdateStatus(StatusChange {
                    email: email?,
                    status: status?,
                })
            }
        })
    }

    /// Judges what every service has in common.
    fn without_service<'b>(&mut self, document: &mut Document<'b>) -> Option<Submission<'b>> {
        if self.has_target(document) {
            self.text(document, Field::Email, true);
        }
        None
    }

    /// Refuses members that other services have.
    fn strangers(&mut self, operation: Operation, document: &mut Document<'_>) {
        let customer = matches!(operation, Operation::CreateOrUpdateCustomer);
        if !customer && !document.documents.is_absent() {
            self.not_allowed("/target/documents".to_owned(), operation);
        }
        for field in Field::ALL {
            let within = matches!(field, Field::Front | Field::Back);
            if !within && !field.belongs_to(operation) && !document.take(field).is_absent() {
                self.not_allowed(field.pointer().to_owned(), operation);
            }
        }
    }

    fn has_target(&mut self, document: &Document<'_>) -> bool {
        match document.target {
            Value::Object => return true,
            Value::Absent => self.push(Violation::required("/target".to_owned())),
            Value::Long(_) | Value::Other | Value::Text(_) => {
                self.wrong_type("/target", "expected an object");
            }
        }
        false
    }

    fn person<'b>(&mut self, document: &mut Document<'b>) -> Vec<(Field, FieldText<'b>)> {
        let mut person = Vec::with_capacity(PERSON.len());
        for field in PERSON {
            if let Some(text) = self.optional(document, field) {
                person.push((field, text));
            }
        }
        person
    }

    fn images<'b>(&mut self, document: &mut Document<'b>) -> Vec<Image<'b>> {
        let present = match document.documents {
            Value::Absent => false,
            Value::Object => true,
            Value::Long(_) | Value::Other | Value::Text(_) => {
                self.wrong_type("/target/documents", "expected an object");
                return Vec::new();
            }
        };
        let front = present || self.requires(Field::Front);
        let front = self.image(document, Side::Front, front);
        let back = self.image(document, Side::Back, self.requires(Field::Back));
        front.into_iter().chain(back).collect()
    }

    fn image<'b>(
        &mut self,
        document: &mut Document<'b>,
        side: Side,
        required: bool,
    ) -> Option<Image<'b>> {
        let field = match side {
            Side::Front => Field::Front,
            Side::Back => Field::Back,
        };
        let text = match document.take(field) {
            Value::Absent => return self.absent(field, required),
            Value::Long(long) => Text::Long(long),
            Value::Object | Value::Other => return self.not_a_string(field),
            Value::Text(text) => Text::Short(text),
        };
        let image = Image::parse(side, text, self.rules);
        image.map_err(|flaw| self.flaw(field, flaw)).ok()
    }

    /// A text field of a customer, which may be left out unless the rules require it.
    fn optional<'b>(&mut self, document: &mut Document<'b>, field: Field) -> Option<FieldText<'b>> {
        self.text(document, field, self.requires(field))
    }

    fn text<'b>(
        &mut self,
        document: &mut Document<'b>,
        field: Field,
        required: bool,
    ) -> Option<FieldText<'b>> {
        let circumstances = Circumstances {
            country: self.rules.country,
            today: self.today,
        };
        let text = match document.take(field) {
            Value::Absent => return self.absent(field, required),
            Value::Long(_) => Err(FieldText::overlong(field)),
            Value::Object | Value::Other => return self.not_a_string(field),
            Value::Text(text) => FieldText::parse(field, text, circumstances),
        };
        text.map_err(|flaw| self.flaw(field, flaw)).ok()
    }

    fn requires(&self, field: Field) -> bool {
        self.rules.required.contains(&field)
    }

    fn absent<T>(&mut self, field: Field, required: bool) -> Option<T> {
        if required {
            self.push(Violation::required(field.pointer().to_owned()));
        }
        None
    }

    fn not_a_string<T>(&mut self, field: Field) -> Option<T> {
        self.wrong_type(field.pointer(), "expected a string");
        None
    }

    fn not_allowed(&mut self, pointer: String, operation: Operation) {
        self.push(Violation {
            pointer,
            code: "not_allowed",
            message: format!("expected no such member in {operation}"),
        });
    }

    fn wrong_type(&mut self, pointer: &str, expected: &str) {
        self.push(Violation::wrong_type(pointer.to_owned(), expected));
    }

    fn flaw(&mut self, field: Field, flaw: Flaw) {
        self.push(Violation {
            pointer: field.pointer().to_owned(),
            code: flaw.code,
            message: flaw.message.into_owned(),
        });
    }

    fn push(&mut self, violation: Violation) {
        self.violations.push(violation);
    }
}
