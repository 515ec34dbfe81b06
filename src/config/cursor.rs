//! Walks the configuration's tables key by key.
//!
//! serde is not used for this: it stops at the first mistake, and its message repeats the value.
//! Invariant: each key is asked for by name, so a key that nobody asked for is unknown; every
//! mistake is recorded and reading goes on. `None` always means that a mistake was recorded, or
//! that an optional key is absent.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use config::{Map, Value};

use crate::config::{
    field::{Field, listed},
    mistake::{Mistake, Report, suggest},
    sources::Seen,
};

/// What every part of the reading shares.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) report: &'a Report,
    pub(super) seen: &'a Seen,
    pub(super) environment: &'a BTreeMap<String, String>,
    /// Whether all layers were read; if not, nothing is reported as missing.
    pub(super) complete: bool,
    /// What the configuration as a whole is called in a mistake.
    pub(super) name: &'a str,
}

/// A table that is being read key by key.
pub(super) struct Section<'a> {
    context: Context<'a>,
    path: String,
    origin: String,
    values: Map<String, Value>,
    /// Of keys that came from elsewhere than the table.
    origins: BTreeMap<&'static str, String>,
    asked: Vec<&'static str>,
    /// Whether there is a table at all; if not, that was reported and nothing else is missing.
    sound: bool,
}

impl<'a> Section<'a> {
    /// The table of all fixed sections.
    pub(super) fn root(context: Context<'a>, values: Map<String, Value>) -> Self {
        Self::new(context, "", context.name, Some(values))
    }

    /// A table at `path` from `origin`. Without values it is no table at all: that was reported,
    /// so nothing in it counts as missing.
    pub(super) fn new(
        context: Context<'a>,
        path: &str,
        origin: &str,
        values: Option<Map<String, Value>>,
    ) -> Self {
        Self {
            context,
            path: path.to_owned(),
            origin: origin.to_owned(),
            sound: values.is_some(),
            values: values.unwrap_or_default(),
            origins: BTreeMap::new(),
            asked: Vec::new(),
        }
    }

    /// The path that stands in mistakes about this table.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The file or variable that this table came from.
    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    /// A key that may be absent.
    pub(super) fn optional(&mut self, key: &'static str) -> Option<Field<'a>> {
        self.asked.push(key);
        let value = self.values.remove(key)?;
        let field = Field::new(self.context, self.path_of(key), value, &self.origin);
        if field.origin() != self.origin {
            self.origins.insert(key, field.origin().to_owned());
        }
        Some(field)
    }

    /// A key that may be absent, and what holds then.
    pub(super) fn or<T>(
        &mut self,
        key: &'static str,
        default: T,
        read: impl Fn(&Field<'a>) -> Option<T>,
    ) -> Option<T> {
        self.optional(key)
            .map_or(Some(default), |field| read(&field))
    }

    /// A key that must be there.
    pub(super) fn required(&mut self, key: &'static str) -> Option<Field<'a>> {
        let field = self.optional(key);
        if field.is_none() && self.sound {
            self.missing(key, "add it");
        }
        field
    }

    /// Records that a key is absent, unless it may stand in a file that could not be read.
    pub(super) fn missing(&self, key: &str, mend: &str) {
        let may_be_elsewhere = !self.path.contains('[') && !self.context.complete;
        if self.sound && !may_be_elsewhere {
            self.mistake(key, "is missing", mend);
        }
    }

    /// A sub-table; one that is absent reads as an empty one.
    pub(super) fn section(&mut self, key: &'static str) -> Self {
        if let Some(field) = self.optional(key) {
            return field.section();
        }
        let values = self.sound.then(Map::new);
        Self::new(self.context, &self.path_of(key), &self.origin, values)
    }

    /// A duration within bounds.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        bounds: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        self.required(key)?.duration(&bounds)
    }

    /// A size in bytes within bounds, in the type that holds it.
    pub(super) fn size<T: TryFrom<u64>>(
        &mut self,
        key: &'static str,
        bounds: RangeInclusive<u64>,
    ) -> Option<T> {
        T::try_from(self.required(key)?.size(&bounds)?).ok()
    }

    /// A whole number within bounds, in the type that holds it.
    pub(super) fn count<T: TryFrom<u64>>(
        &mut self,
        key: &'static str,
        bounds: RangeInclusive<u64>,
    ) -> Option<T> {
        self.required(key)?.count(&bounds)
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let field = self.optional(key);
        if field.is_none() && self.sound {
            let words = choices.iter().map(|(word, _)| *word);
            self.missing(key, &format!("add it: one of {}", listed(words)));
        }
        field?.choice(choices)
    }

    /// Refuses keys that stand in the documentation of what is to come: a protection that is
    /// written down but not in force would be worse than none.
    pub(super) fn unavailable(&mut self, keys: &[&'static str]) {
        for key in keys {
            let Some(value) = self.values.remove(*key) else {
                continue;
            };
            let origin = value.origin().unwrap_or(&self.origin).to_owned();
            self.origins.insert(key, origin);
            self.mistake(key, "is not available in this version", "remove it");
        }
    }

    /// Names that are known here though they are read elsewhere; they are suggested only.
    pub(super) fn known(&mut self, keys: &[&'static str]) {
        self.asked.extend_from_slice(keys);
    }

    /// Whether a key is there and not yet taken.
    pub(super) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Records a mistake about a key of this table, taken or absent.
    pub(super) fn mistake(&self, key: &str, problem: impl Into<String>, mend: &str) {
        let origin = self.origins.get(key).unwrap_or(&self.origin);
        let mistake = Mistake::new(origin, &self.path_of(key), problem, mend);
        self.context.report.mistake(mistake);
    }

    /// Records a warning about a key of this table that was taken.
    pub(super) fn warning(&self, key: &str, problem: &str, mend: &str) {
        let origin = self.origins.get(key).unwrap_or(&self.origin);
        let warning = Mistake::new(origin, &self.path_of(key), problem, mend);
        self.context.report.warning(warning);
    }

    /// Records every key that was not asked for. Each table ends with this.
    pub(super) fn finish(self) {
        let mut unknown: Vec<(&String, &Value)> = self.values.iter().collect();
        unknown.sort_by_key(|(key, _)| *key);
        for (key, value) in unknown {
            let origin = value.origin().unwrap_or(&self.origin);
            let mend = suggest(key, self.asked.iter().copied());
            let path = self.path_of(key);
            let mistake = Mistake::new(origin, &path, "is not a known key", &mend);
            self.context.report.mistake(mistake);
        }
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            return key.to_owned();
        }
        format!("{}.{key}", self.path)
    }
}
