//! What is wrong with a configuration: every mistake at once, each on one line.
//!
//! Invariant: a mistake names a file or environment variable and a key, never the value of a
//! secret, and never spans two lines whatever a file or a key is called.

use std::{cell::RefCell, fmt};

use thiserror::Error;

/// Starts the origin of everything that an environment variable set.
const VARIABLE: &str = "environment variable ";

/// One thing to mend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    origin: String,
    key: String,
    problem: String,
    mend: String,
}

impl Mistake {
    /// A mistake at `key` of `origin`: a file, a variable, or the configuration as a whole.
    pub fn new(origin: &str, key: &str, problem: impl Into<String>, mend: &str) -> Self {
        Self {
            origin: origin.to_owned(),
            key: key.to_owned(),
            problem: problem.into(),
            mend: mend.to_owned(),
        }
    }

    /// The file, or `environment variable NAME`.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The key's path, such as `issuers[acme-idp].leeway`; empty where a whole file is meant.
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl std::error::Error for Mistake {}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = if self.key.is_empty() {
            String::new()
        } else {
            format!(" `{}`", self.key)
        };
        let line = format!("{}:{key} {}; {}", self.origin, self.problem, self.mend);
        // File names and quoted keys may hold line breaks or terminal escapes.
        for c in line.chars() {
            if c.is_control() {
                write!(f, "{}", c.escape_unicode())?;
            } else {
                fmt::Write::write_char(f, c)?;
            }
        }
        Ok(())
    }
}

/// Every mistake of one configuration, in the order they were found; at least one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    pub(super) fn new(mistakes: Vec<Mistake>) -> Self {
        Self(mistakes)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none (there never is).
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The mistakes, in the order they were found.
    pub fn iter(&self) -> std::slice::Iter<'_, Mistake> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Mistakes {
    type Item = &'a Mistake;
    type IntoIter = std::slice::Iter<'a, Mistake>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            let line_break = if index == 0 { "" } else { "\n" };
            write!(f, "{line_break}{mistake}")?;
        }
        Ok(())
    }
}

/// Gathers mistakes and warnings while a configuration is read.
#[derive(Default)]
pub(super) struct Report {
    mistakes: RefCell<Vec<Mistake>>,
    warnings: RefCell<Vec<Mistake>>,
}

impl Report {
    pub(super) fn mistake(&self, mistake: Mistake) {
        self.mistakes.borrow_mut().push(mistake);
    }

    /// Something that works but is unwise.
    pub(super) fn warning(&self, warning: Mistake) {
        self.warnings.borrow_mut().push(warning);
    }

    /// The mistakes, then the warnings.
    pub(super) fn into_parts(self) -> (Vec<Mistake>, Vec<Mistake>) {
        (self.mistakes.into_inner(), self.warnings.into_inner())
    }
}

/// The origin of what the environment variable `name` set.
pub(super) fn variable(name: &str) -> String {
    format!("{VARIABLE}{name}")
}

/// Whether an environment variable is where it comes from.
pub(super) fn is_variable(origin: &str) -> bool {
    origin.starts_with(VARIABLE)
}

/// ` (did you mean …)`, or which names there are where none is near.
pub(super) fn suggest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let mut known: Vec<(f64, &str)> = scored(given, known).collect();
    known.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    match known.as_slice() {
        [] => "remove it".to_owned(),
        [(score, nearest), ..] if *score >= NEAR => format!("did you mean `{nearest}`?"),
        all => {
            let names: Vec<&str> = all.iter().map(|(_, name)| *name).collect();
            format!("known here, nearest first: {}", names.join(", "))
        }
    }
}

/// The known name that may have been meant, of too many to list.
pub(super) fn nearest<'a>(
    given: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let best = scored(given, known).max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.filter(|(score, _)| *score >= NEAR)
        .map(|(_, name)| name)
}

/// How alike two names are, from 0 to 1, where one may have been meant by the other.
const NEAR: f64 = 0.75;

fn scored<'a>(
    given: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> impl Iterator<Item = (f64, &'a str)> {
    known
        .into_iter()
        .map(move |name| (strsim::jaro_winkler(given, name), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_one_line_whatever_its_parts_hold() {
        let mistake = Mistake::new("a\nb\u{1b}[0m", "k\r\n", "is wrong", "mend it");
        let line = mistake.to_string();
        assert!(!line.contains(char::is_control), "{line:?}");
        let both = Mistakes::new(vec![mistake.clone(), mistake]);
        assert_eq!(both.to_string().lines().count(), 2);
        assert_eq!(both.len(), 2);
    }

    #[test]
    fn the_nearest_name_is_suggested() {
        let known = ["listen", "protocol", "max_connections"];
        assert_eq!(suggest("lisen", known), "did you mean `listen`?");
        assert_eq!(
            suggest("max_conection", known),
            "did you mean `max_connections`?"
        );
        assert!(suggest("zzz", known).contains("known here"));
        assert_eq!(suggest("zzz", []), "remove it");
    }
}
