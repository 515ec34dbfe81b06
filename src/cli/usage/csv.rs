//! A statement as CSV (RFC 4180). Pure.

use csv_core::{Terminator, WriteResult, Writer, WriterBuilder};

use crate::{
    admin::usage::{Billed, Statement},
    operation::Operation,
    quota::Counts,
};

/// What is counted of each service, as the columns are named.
const COUNTED: [&str; 5] = ["calls", "succeeded", "refused", "unknown", "unavailable"];

/// The same, in that order.
fn counted(counts: &Counts) -> [u64; 5] {
    let Counts {
        calls,
        succeeded,
        refused,
        unknown,
        unavailable,
    } = *counts;
    [calls, succeeded, refused, unknown, unavailable]
}

/// A header, and a line for each tenant.
pub(super) fn statement(statement: &Statement) -> Vec<u8> {
    let mut lines = Lines::new();
    lines.line(&header());
    for billed in &statement.tenants {
        lines.line(&line(billed));
    }
    lines.text
}

fn header() -> Vec<String> {
    let mut names: Vec<String> = ["tenant", "account", "from", "to", "time_zone"]
        .map(str::to_owned)
        .to_vec();
    for operation in Operation::ALL {
        for counted in COUNTED {
            names.push(format!("{}_{counted}", operation.name()));
        }
    }
    names.extend(["charged", "bytes", "granted", "unaccounted"].map(str::to_owned));
    names
}

fn line(billed: &Billed) -> Vec<String> {
    let account = billed
        .account
        .as_ref()
        .map_or("", |account| account.as_str());
    let mut fields = vec![
        billed.tenant.to_string(),
        account.to_owned(),
        billed.from.to_string(),
        billed.to.to_string(),
        billed.time_zone.clone(),
    ];
    let sums = &billed.sums;
    for operation in Operation::ALL {
        let counts = sums.services.of(operation);
        fields.extend(counted(counts).map(|count| count.to_string()));
    }
    let whole = [sums.charged, sums.bytes, sums.granted, sums.unaccounted];
    fields.extend(whole.map(|sum| sum.to_string()));
    fields
}

struct Lines {
    writer: Writer,
    text: Vec<u8>,
}

impl Lines {
    fn new() -> Self {
        let writer = WriterBuilder::new().terminator(Terminator::CRLF).build();
        let text = Vec::new();
        Self { writer, text }
    }

    fn line(&mut self, fields: &[String]) {
        for (place, field) in fields.iter().enumerate() {
            if place > 0 {
                self.write(|writer, out| {
                    let (result, written) = writer.delimiter(out);
                    (result, 0, written)
                });
            }
            let mut rest = field.as_bytes();
            while !rest.is_empty() {
                let read = self.write(|writer, out| writer.field(rest, out));
                rest = rest.get(read..).unwrap_or_default();
            }
        }
        self.write(|writer, out| {
            let (result, written) = writer.terminator(out);
            (result, 0, written)
        });
    }

    /// Writes until the writer has said all; how much it has read.
    fn write(
        &mut self,
        mut write: impl FnMut(&mut Writer, &mut [u8]) -> (WriteResult, usize, usize),
    ) -> usize {
        let mut out = [0; 256];
        let mut read = 0;
        loop {
            let (result, more, written) = write(&mut self.writer, &mut out);
            read += more;
            self.text.extend(out.iter().take(written));
            // A field is begun anew from what is left of it.
            if result == WriteResult::InputEmpty || more > 0 {
                return read;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_where_they_must_be_and_lines_end_as_they_should() {
        let mut lines = Lines::new();
        let long = "x\"".repeat(500);
        lines.line(&[
            "a".into(),
            "b,c".into(),
            String::new(),
            "d\"e".into(),
            long.clone(),
        ]);
        lines.line(&["\r\n".into()]);
        let quoted = long.replace('"', "\"\"");
        let expected = format!("a,\"b,c\",,\"d\"\"e\",\"{quoted}\"\r\n\"\r\n\"\r\n");
        assert_eq!(String::from_utf8(lines.text).unwrap(), expected);
    }
}
