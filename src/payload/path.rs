//! Where in a document a value stands, and how that is told to the client.
//!
//! Invariant: a pointer repeats only such names as cannot be mistaken for a value: short and plain.

/// How many bytes a name may have that is repeated.
const PLAIN: usize = 64;

/// Where a value stands. Lives on the stack: nothing is allocated until it must be told.
pub(super) struct Path<'p> {
    parent: Option<&'p Self>,
    pub(super) step: Step<'p>,
}

pub(super) enum Step<'p> {
    Element(usize),
    Member(&'p str),
    Root,
}

impl<'p> Path<'p> {
    pub(super) const ROOT: Self = Self {
        parent: None,
        step: Step::Root,
    };

    pub(super) const fn child(&'p self, step: Step<'p>) -> Self {
        Self {
            parent: Some(self),
            step,
        }
    }

    /// The place as a JSON pointer, up to the first name that is not short and plain: what a
    /// client wrote is repeated to it only where it cannot be a value.
    pub(super) fn pointer(&self) -> String {
        let mut pointer = String::new();
        self.write(&mut pointer);
        pointer
    }

    fn write(&self, pointer: &mut String) -> bool {
        if !self.parent.is_none_or(|parent| parent.write(pointer)) {
            return false;
        }
        match self.step {
            Step::Element(index) => pointer.extend(["/", &index.to_string()]),
            Step::Member(name) if is_plain(name) => pointer.extend(["/", name]),
            Step::Member(_) => return false,
            Step::Root => {}
        }
        true
    }
}

fn is_plain(name: &str) -> bool {
    (1..=PLAIN).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}
