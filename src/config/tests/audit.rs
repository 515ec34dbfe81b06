//! `[audit]`: what stands beside it, and what a mistake in it says.

use std::time::Duration;

use super::*;

/// The one mistake that this configuration has.
fn mistake(folder: &Folder) -> String {
    let mistakes = folder.load(&["base.toml"]).unwrap_err();
    let lines: Vec<String> = mistakes.iter().map(Mistake::to_string).collect();
    let [line] = &lines[..] else {
        panic!("{lines:#?}")
    };
    line.clone()
}

#[test]
fn state_and_trail_have_each_a_folder_of_its_own() {
    for (state, audit, problem) in [
        ("both", "both", Some("is the folder of `state.path`, too")),
        ("both", "both/", Some("is the folder of `state.path`, too")),
        ("one", "one/audit", Some("is inside of the folder")),
        ("one/state", "one", Some("has the folder of `state.path`")),
        ("one/state", "one/audit", None),
        ("state", "state-audit", None),
    ] {
        let folder = Folder::new();
        let base = BASE.replace("[state]", &format!("[state]\npath = \"{state}\""));
        let base = base.replace("[audit]", &format!("[audit]\npath = \"{audit}\""));
        folder.write("base.toml", base);
        match problem {
            None => drop(folder.load(&["base.toml"]).unwrap()),
            Some(problem) => {
                let line = mistake(&folder);
                assert!(
                    line.contains("audit.path") && line.contains(problem),
                    "{line}"
                );
                assert!(line.contains("a folder of its own"), "{line}");
            }
        }
    }
}

#[test]
fn a_mistake_says_what_would_be_right() {
    for (from, to, said) in [
        (
            "[audit]",
            "[audit]\nkeep = \"1y\"",
            &["audit.keep", "in ms, s, m, h or d"][..],
        ),
        (
            "[audit]",
            "[audit.ship]\nkind = \"http\"\nurl = \"https://a.example/\"\n[audit]",
            &["audit.ship.what", "is missing", "\"events\", \"heads\""],
        ),
        (
            "{ file = \"audit-key\" }",
            "{ file = \"state-key\" }",
            &["audit.key", "`state.key`", "signatures", "seals", "openssl"],
        ),
    ] {
        let folder = Folder::new();
        folder.write("base.toml", BASE.replace(from, to));
        let line = mistake(&folder);
        for said in said {
            assert!(line.contains(said), "{said} is not in {line}");
        }
    }
}

#[test]
fn who_keeps_files_for_less_than_a_day_is_warned_and_days_are_written_as_such() {
    for (keep, hours, warned) in [
        ("30d", Some(30 * 24), false),
        ("1d", Some(24), false),
        ("23h", Some(23), true),
        ("0s", None, false),
    ] {
        let folder = Folder::new();
        folder.write(
            "base.toml",
            BASE.replace("[audit]", &format!("[audit]\nkeep = \"{keep}\"")),
        );
        let config = folder.load(&["base.toml"]).unwrap();
        assert_eq!(config.audit.keep, hours.map(Duration::from_hours));
        let keys: Vec<_> = config.warnings.iter().map(Mistake::key).collect();
        assert_eq!(keys == ["audit.keep"], warned, "{keep}: {keys:?}");
    }
}
