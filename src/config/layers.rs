//! Puts the configuration's layers on top of each other: the built-in defaults, each file in turn,
//! then the environment.
//!
//! Invariant: every value keeps the name of the file or variable that it came from. A later layer
//! replaces a value, except that the lists (`accounts`, `issuers`, …) grow. Nothing of a
//! file's content is ever quoted.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    str,
};

use config::{Environment, FileFormat, Format, Map, Source, Value, ValueKind};

use crate::{
    config::{
        mistake::{Mistake, Report, variable},
        sources::{Purpose, Seen},
    },
    files::FileError,
};

/// The lowest layer: every key of the fixed sections, with its default.
pub(super) const DEFAULTS: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/config/default.toml"));

/// The tables whose entries add up over files.
pub(super) const LISTS: [&str; 4] = ["accounts", "issuers", "revocations", "tenants"];

/// Secret references: one in a later layer replaces the one before as a whole, because `file` from
/// one layer beside `env` from another would be neither.
const SECRETS: [&str; 5] = [
    "admin.token",
    "state.key",
    "audit.key",
    "vault.token",
    "vault.secret_id",
];

/// Three times what 100,000 tenants need; a device or a wrong file is not read for ever.
const MAX_FILE: u64 = 64 << 20;

const PREFIX: &str = "DCAMS_GATEWAY";
const SEPARATOR: &str = "__";

/// All layers as one.
pub(super) struct Layers {
    /// The fixed sections.
    pub(super) sections: Map<String, Value>,
    /// The entries of each of [`LISTS`], in the order of the files.
    pub(super) entries: BTreeMap<&'static str, Vec<Entry>>,
    /// Whether all files could be read. Where not, what seems to be missing may just be unread.
    pub(super) complete: bool,
    /// What the whole is called in a mistake: its only file, or `configuration`.
    pub(super) name: String,
}

/// One table of a list and its place in its own file.
pub(super) struct Entry {
    pub(super) index: usize,
    pub(super) value: Value,
}

/// Reads the files and folders at `paths`, and the variables that begin with `DCAMS_GATEWAY__`.
pub(super) fn read(
    paths: &[PathBuf],
    environment: &BTreeMap<String, String>,
    report: &Report,
    seen: &Seen,
) -> Layers {
    let mut stack = Stack {
        report,
        seen,
        layers: Layers {
            sections: Map::new(),
            entries: BTreeMap::new(),
            complete: true,
            name: "configuration".to_owned(),
        },
    };
    let files: Vec<PathBuf> = paths.iter().flat_map(|path| stack.list(path)).collect();
    if let [only] = files.as_slice() {
        stack.layers.name = only.display().to_string();
    }
    // A default that is at odds with what the files say is theirs to mend.
    let name = stack.layers.name.clone();
    stack.push_text(&name, DEFAULTS);
    if paths.is_empty() {
        stack.broken(
            "command line",
            "names no configuration",
            "pass --config PATH",
        );
    }
    for file in &files {
        stack.push_file(file);
    }
    stack.push_environment(environment);
    stack.layers
}

struct Stack<'a> {
    report: &'a Report,
    seen: &'a Seen,
    layers: Layers,
}

impl Stack<'_> {
    /// The files that one `--config` stands for.
    fn list(&mut self, path: &Path) -> Vec<PathBuf> {
        if !path.is_dir() {
            return vec![path.to_owned()];
        }
        let name = path.display().to_string();
        self.seen.folder(path);
        let entries = match fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
            Ok(entries) => entries,
            Err(error) => {
                let problem = FileError::from(error).to_string();
                self.broken(
                    &name,
                    &problem,
                    "let this user list the folder, or name a file",
                );
                return Vec::new();
            }
        };
        let mut files: Vec<PathBuf> = entries
            .into_iter()
            .filter(|entry| is_configuration(Path::new(&entry.file_name())))
            .map(|entry| entry.path())
            .collect();
        files.sort();
        if files.is_empty() {
            self.broken(
                &name,
                "holds no *.toml file",
                "put one there, or name another folder",
            );
        }
        files
    }

    fn push_file(&mut self, path: &Path) {
        let name = path.display().to_string();
        let bytes = match self.seen.read(path, MAX_FILE, Purpose::Setting) {
            Ok(content) => content.bytes,
            // A file of which everything is commented out says nothing; so does an empty one.
            Err(FileError::Empty) => return,
            Err(error) => {
                self.broken(
                    &name,
                    &error.to_string(),
                    "name a readable TOML file or a folder of them",
                );
                return;
            }
        };
        match str::from_utf8(&bytes) {
            Ok(text) => self.push_text(&name, text.trim_start_matches('\u{feff}')),
            Err(_) => self.broken(&name, "is not UTF-8 text", "save it as UTF-8"),
        }
    }

    fn push_text(&mut self, name: &str, text: &str) {
        let mut table = match FileFormat::Toml.parse(Some(&name.to_owned()), text) {
            Ok(table) => table,
            Err(error) => {
                let place = position(&error.to_string());
                let problem = format!("is not valid TOML{place}");
                self.broken(name, &problem, "mend the syntax there (or just before)");
                return;
            }
        };
        for list in LISTS {
            if let Some(value) = table.remove(list) {
                self.append(list, value, name);
            }
        }
        merge(&mut self.layers.sections, table, "", &SECRETS);
    }

    fn append(&mut self, list: &'static str, value: Value, origin: &str) {
        let ValueKind::Array(values) = value.kind else {
            let mend = format!("write each entry under [[{list}]]");
            self.report
                .mistake(Mistake::new(origin, list, "is not a list of tables", &mend));
            self.layers.complete = false;
            return;
        };
        let entries = self.layers.entries.entry(list).or_default();
        let added = values.into_iter().enumerate();
        entries.extend(added.map(|(index, value)| Entry { index, value }));
    }

    fn push_environment(&mut self, environment: &BTreeMap<String, String>) {
        let mut layer = Map::new();
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in environment {
            let Some((key, text)) = override_of(name, value) else {
                continue;
            };
            let origin = variable(name);
            let key = self.respelled(&key);
            let root = key.split('.').next().unwrap_or_default();
            if LISTS.contains(&root) {
                let problem = "is a list, which the environment cannot change";
                let mend = "unset the variable and write the list in a file";
                self.report
                    .mistake(Mistake::new(&origin, root, problem, mend));
                continue;
            }
            if let Some(other) = seen.insert(key.clone(), name.clone()) {
                let problem = format!("is set by {other} too");
                self.report
                    .mistake(Mistake::new(&origin, &key, problem, "unset one of the two"));
            }
            merge(&mut layer, nest(&key, text, &origin), "", &[]);
        }
        merge(&mut self.layers.sections, layer, "", &SECRETS);
    }

    /// A variable's name has no case: what is meant is the key that the layers below have, `getStatus`
    /// say, however it is spelled.
    fn respelled(&self, key: &str) -> String {
        let mut table = Some(&self.layers.sections);
        let parts = key.split('.').map(|part| {
            let mut known = table.into_iter().flatten();
            let known = known.find(|(known, _)| known.eq_ignore_ascii_case(part));
            table = known.and_then(|(_, value)| {
                if let ValueKind::Table(inner) = &value.kind {
                    return Some(inner);
                }
                None
            });
            known.map_or(part, |(known, _)| known)
        });
        let parts: Vec<&str> = parts.collect();
        parts.join(".")
    }

    fn broken(&mut self, origin: &str, problem: &str, mend: &str) {
        self.layers.complete = false;
        self.report.mistake(Mistake::new(origin, "", problem, mend));
    }
}

/// Whether a folder's file of this name belongs to the configuration. Hidden ones are leftovers of
/// editors, or the machinery of a mounted volume.
fn is_configuration(name: &Path) -> bool {
    let hidden = name.as_os_str().as_encoded_bytes().starts_with(b".");
    !hidden
        && name
            .extension()
            .is_some_and(|extension| extension == "toml")
}

/// ` at line 3, column 7`: the TOML parser's text begins so, and quotes the file after that.
fn position(error: &str) -> String {
    let place = error
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("TOML parse error at line "))
        .and_then(|rest| rest.split_once(", column "))
        .and_then(|(line, column)| Some((line.parse::<u64>().ok()?, column.parse::<u64>().ok()?)));
    place.map_or_else(String::new, |(line, column)| {
        format!(" at line {line}, column {column}")
    })
}

/// The dotted key that a variable sets, if it is one of ours.
fn override_of(name: &str, value: &str) -> Option<(String, String)> {
    let source = Environment::with_prefix(PREFIX)
        .prefix_separator(SEPARATOR)
        .separator(SEPARATOR)
        .source(Some(Map::from([(name.to_owned(), value.to_owned())])));
    let (key, value) = source.collect().ok()?.into_iter().next()?;
    value.into_string().ok().map(|text| (key, text))
}

/// `a.b.c` and a text as the table that a file would give.
fn nest(key: &str, text: String, origin: &str) -> Map<String, Value> {
    let origin = origin.to_owned();
    let mut parts = key.rsplit('.');
    let last = parts.next().unwrap_or_default().to_owned();
    let innermost = Map::from([(last, Value::new(Some(&origin), text))]);
    parts.fold(innermost, |inner, part| {
        Map::from([(part.to_owned(), Value::new(Some(&origin), inner))])
    })
}

/// Lays `layer` over `base`: tables merge key by key, apart from those in `whole`.
fn merge(base: &mut Map<String, Value>, layer: Map<String, Value>, path: &str, whole: &[&str]) {
    for (key, value) in layer {
        let path = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        let below = base.get_mut(&key).map(|old| &mut old.kind);
        let merges = !whole.contains(&path.as_str());
        if let (true, Some(ValueKind::Table(old)), ValueKind::Table(new)) =
            (merges, below, &value.kind)
        {
            merge(old, new.clone(), &path, whole);
            continue;
        }
        base.insert(key, value);
    }
}
