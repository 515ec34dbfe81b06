//! Modules import only from modules that stand before them, so that no step of the path can see
//! what a later one knows: a step cannot build a response, a decision cannot reach a socket.

#![expect(
    clippy::expect_used,
    clippy::string_slice,
    reason = "a test stops at the first surprise"
)]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The import order of `docs/ARCHITECTURE.md`.
const ORDER: &[&str] = &[
    "ident",
    "redact",
    "clock",
    "watch",
    "operation",
    "limits",
    "units",
    "files",
    "outbox",
    "tls",
    "store",
    "address",
    "caching",
    "tenant",
    "segments",
    "endpoint",
    "route",
    "auth",
    "body",
    "payload",
    "customer",
    "quota",
    "credential",
    "upstream",
    "audit",
    "error",
    "status",
    "metrics",
    "trail",
    "rotator",
    "reply",
    "pipeline",
    "telemetry",
    "reload",
    "server",
    "admin",
    "config",
    "app",
    "simulator",
    "specimen",
    "cli",
    "main",
];

#[test]
fn imports_point_backwards() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = Vec::new();
    let mut wrong = Vec::new();
    for file in rust_files(&root) {
        let relative = file.strip_prefix(&root).expect("a file of src");
        let module = module_of(relative);
        if module == "lib" {
            continue;
        }
        let Some(own) = place(&module) else {
            wrong.push(format!(
                "{}: module {module} is not in the order",
                relative.display()
            ));
            continue;
        };
        seen.push(module);
        for import in imports(&fs::read_to_string(&file).expect("readable source")) {
            if place(&import).is_none_or(|place| place > own) {
                wrong.push(format!("{}: imports crate::{import}", relative.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for module in ORDER {
        assert!(
            seen.iter().any(|s| s == module),
            "{module} is in the order but not in src"
        );
    }
}

fn place(module: &str) -> Option<usize> {
    ORDER.iter().position(|name| *name == module)
}

fn module_of(relative: &Path) -> String {
    let first = relative.components().next().expect("a path");
    let name = PathBuf::from(first.as_os_str());
    name.file_stem()
        .expect("a name")
        .to_string_lossy()
        .into_owned()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of src") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The modules that a source text names as `crate::name` or in `use crate::{name, …}`.
fn imports(source: &str) -> Vec<String> {
    // Tests at the end of a file may use whatever they need.
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    let code: String = code
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n");
    let mut found = Vec::new();
    for (at, prefix) in code.match_indices("crate::") {
        let rest = &code[at + prefix.len()..];
        if let Some(group) = rest.strip_prefix('{') {
            found.extend(heads(group));
        } else {
            found.push(word(rest));
        }
    }
    found
}

/// The first names of a `use` group's members, at its outermost depth.
fn heads(group: &str) -> Vec<String> {
    let (mut depth, mut starts, mut found) = (0_i32, true, Vec::new());
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => starts = true,
            c if starts && !c.is_whitespace() => {
                starts = false;
                found.push(word(&group[at..]));
            }
            _ => {}
        }
    }
    found
}

fn word(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

#[test]
fn a_group_of_imports_is_read() {
    let source = "use crate::{\n    a::{x, y}, // c::z\n    b,\n};\nfn f() { crate::d::g() }";
    assert_eq!(imports(source), ["a", "b", "d"]);
}
