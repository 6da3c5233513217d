//! The shape of the house, read from its source: which module may name which, where third-party types live, how long
//! a file may be. A wrong arrow fails here and not in a review.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What every module may name: plain values with no work behind them.
const GROUND: &[&str] = &[
    "capability",
    "cgroups",
    "error",
    "ids",
    "lifecycle",
    "memory",
    "stream",
    "telemetry",
    "tls",
    "web",
    "workspace",
];

/// Each module above the ground and what it may name besides itself and the ground. A new module gets its row here.
const ARROWS: &[(&str, &[&[&str]])] = &[
    ("sys", &[]),
    ("startup", &[&["sys"]]),
    ("state", &[&["sys"]]),
    ("exec", &[&["sys"]]),
    ("pty", &[&["exec", "sys"]]),
    ("fs", &[&["exec", "sys"]]),
    ("search", &[]),
    ("watch", &[]),
    ("git", &[&["exec"]]),
    ("kernel", &[&["exec"]]),
    ("desktop", &[&["exec"]]),
    ("host", &[&["exec", "sys"]]),
    ("update", &[&["exec"]]),
    ("ops", &[ROOMS]),
    ("wire", &[ROOMS, &["ops"]]),
    ("doors::nats", &[ROOMS, &["ops", "wire", "state", "doors::relay"]]),
    ("doors::http", &[ROOMS, &["ops", "wire", "state"]]),
    ("doors::relay", &[ROOMS, &["ops", "wire"]]),
    ("doors", &[&["doors::nats", "doors::http", "doors::relay"]]),
    ("config", &[ROOMS, DOORS, &["ops", "startup", "state"]]),
    (
        "daemon",
        &[
            ROOMS,
            DOORS,
            &["ops", "wire", "config", "service", "startup", "state", "sys"],
        ],
    ),
    ("enroll", &[DOORS]),
    ("service", &[&["exec"]]),
    (
        "cli",
        &[
            ROOMS,
            DOORS,
            &[
                "ops", "wire", "config", "startup", "state", "sys", "daemon", "enroll", "service",
            ],
        ],
    ),
];

/// What does the work.
const ROOMS: &[&str] = &[
    "exec", "pty", "fs", "search", "watch", "git", "kernel", "desktop", "host", "update",
];

/// What moves the bytes.
const DOORS: &[&str] = &["doors", "doors::nats", "doors::http", "doors::relay"];

/// The ground has arrows too, few enough to list.
const GROUND_ARROWS: &[(&str, &[&str])] = &[
    ("capability", &[]),
    ("cgroups", &[]),
    ("ids", &[]),
    ("error", &["ids"]),
    ("memory", &[]),
    ("tls", &[]),
    ("web", &["error", "tls"]),
    ("stream", &["error", "ids"]),
    ("workspace", &["error"]),
    ("lifecycle", &["error"]),
    ("telemetry", &["error", "ids"]),
];

/// Crates whose types stay in their rooms.
const AT_HOME: &[(&str, &[&str])] = &[
    ("axum", &["src/doors/http"]),
    ("utoipa", &["src/doors/http", "src/wire/json"]),
    ("utoipa_axum", &["src/doors/http"]),
    ("async_nats", &["src/doors/nats", "src/cli/call"]),
    ("ignore", &["src/search", "src/fs", "src/watch"]),
    ("grep_searcher", &["src/search"]),
    ("x11rb", &["src/desktop"]),
    ("git2", &["src/git"]),
    ("portable_pty", &["src/exec"]),
    ("alacritty_terminal", &["src/pty"]),
    (
        "tokio_tungstenite",
        &["src/doors/http", "src/doors/relay", "src/cli/call"],
    ),
    ("clap", &["src/cli"]),
    ("prost", &["src/wire", "src/doors/nats", "src/cli/call"]),
];

/// Files that are one table, which may run longer.
const TABLES: &[&str] = &["src/config/settings.rs", "src/ops/table.rs"];

/// One source file without comments, strings and tests.
struct Source {
    /// As in `src/fs/write.rs`.
    path: PathBuf,
    /// As in `["fs", "write"]`; empty for the crate's root.
    module: Vec<String>,
    text: String,
    /// Lines before the tests, comments and all.
    lines: usize,
    opens_with_doc: bool,
}

impl Source {
    fn shown(&self) -> String {
        self.path.display().to_string()
    }

    /// The row of [`ARROWS`] it belongs to: the door, or the top-level module.
    fn room(&self) -> String {
        room_of(&self.module)
    }
}

fn room_of(module: &[String]) -> String {
    match module {
        [first, second, ..] if first == "doors" && is_door(second) => format!("doors::{second}"),
        [first, ..] => first.clone(),
        [] => String::new(),
    }
}

fn is_door(name: &str) -> bool {
    ARROWS
        .iter()
        .any(|(row, _)| row.strip_prefix("doors::") == Some(name))
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pending = vec![root.join("src")];
    let mut found = Vec::new();
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(directory).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(source(root, &path));
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    assert!(
        found.len() > 10,
        "the source was not found: {} files",
        found.len()
    );
    found
}

fn source(root: &Path, path: &Path) -> Source {
    let whole = std::fs::read_to_string(path).unwrap();
    let without_tests = whole.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let path = path.strip_prefix(root).unwrap().to_path_buf();
    let mut module: Vec<String> = path
        .with_extension("")
        .components()
        .skip(1)
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect();
    if module
        .last()
        .is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str()))
    {
        module.pop();
    }
    Source {
        module,
        text: plain(without_tests),
        lines: without_tests.lines().count(),
        opens_with_doc: whole.starts_with("//!"),
        path,
    }
}

/// The code alone: comments and the content of string literals become blanks.
fn plain(code: &str) -> String {
    let mut text = String::with_capacity(code.len());
    for line in code.lines() {
        let mut rest = line.chars().peekable();
        let mut quoted = false;
        while let Some(character) = rest.next() {
            match character {
                '\\' if quoted => {
                    rest.next();
                }
                // The character literal '"' does not open a string.
                '\'' if !quoted && rest.peek() == Some(&'"') => {
                    rest.next();
                }
                '"' => quoted = !quoted,
                '/' if !quoted && rest.peek() == Some(&'/') => break,
                _ if quoted => {}
                other => text.push(other),
            }
        }
        text.push('\n');
    }
    text
}

/// Every module of ours that the code names, as a path from the crate's root.
fn named(source: &Source) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    for (anchor, base) in [("crate::", Vec::new()), ("super::", source.module.clone())] {
        for (at, _) in source.text.match_indices(anchor) {
            if source.text[..at]
                .ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == ':')
            {
                continue;
            }
            let mut base = base.clone();
            let mut rest = &source.text[at..];
            while let Some(after) = rest.strip_prefix("super::") {
                base.pop();
                rest = after;
            }
            rest = rest.strip_prefix("crate::").unwrap_or(rest);
            for tail in first_names(rest) {
                found.insert(base.iter().cloned().chain(tail).collect());
            }
        }
    }
    found
}

/// The one or two leading names of a path, of each member when it is a `{group}`.
fn first_names(path: &str) -> Vec<Vec<String>> {
    let Some(group) = path.strip_prefix('{') else {
        let end = path.find(|character: char| !(character.is_alphanumeric() || "_:".contains(character)));
        let names = path[..end.unwrap_or(path.len())]
            .split("::")
            .filter(|name| !name.is_empty());
        let names: Vec<String> = names.take(2).map(str::to_owned).collect();
        let continues = path[end.unwrap_or(path.len())..]
            .strip_prefix('{')
            .filter(|_| names.len() == 1);
        return match continues {
            // `doors::{http, nats}` names two doors.
            Some(group) => members(group)
                .into_iter()
                .map(|tail| vec![names[0].clone(), tail[0].clone()])
                .collect(),
            None => vec![names],
        };
    };
    members(group)
}

/// The members of a group whose opening brace was read.
fn members(group: &str) -> Vec<Vec<String>> {
    let mut depth = 0_usize;
    let mut start = 0;
    let mut found = Vec::new();
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                let member = group[start..at].trim();
                if !member.is_empty() {
                    found.extend(first_names(member));
                }
                start = at + 1;
                if character == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    found
}

fn allowed(room: &str) -> Option<BTreeSet<&'static str>> {
    if let Some((_, below)) = GROUND_ARROWS.iter().find(|(name, _)| *name == room) {
        return Some(below.iter().copied().collect());
    }
    let (_, below) = ARROWS.iter().find(|(name, _)| *name == room)?;
    Some(below.iter().copied().flatten().chain(GROUND).copied().collect())
}

fn wrong_arrows(source: &Source) -> Vec<String> {
    let room = source.room();
    if room.is_empty() {
        return Vec::new();
    }
    let Some(allowed) = allowed(&room) else {
        return vec![format!(
            "{}: `{room}` has no row in tests/it/arrows.rs; give it its place",
            source.shown()
        )];
    };
    let is_module = |name: &str| GROUND.contains(&name) || ARROWS.iter().any(|(row, _)| *row == name);
    named(source)
        .iter()
        .map(|path| room_of(path))
        .filter(|other| *other != room && is_module(other) && !allowed.contains(other.as_str()))
        .map(|other| format!("{}: `{room}` may not name `{other}`", source.shown()))
        .collect()
}

#[track_caller]
fn none(what: &str, wrong: &[String]) {
    assert!(wrong.is_empty(), "{what}:\n{}", wrong.join("\n"));
}

#[test]
fn imports_point_one_way() {
    let wrong: Vec<String> = sources().iter().flat_map(wrong_arrows).collect();
    none("wrong arrows", &wrong);
}

#[test]
fn third_party_types_stay_in_their_rooms() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (package, homes) in AT_HOME {
            let uses = source.text.match_indices(&format!("{package}::")).any(|(at, _)| {
                !source.text[..at].ends_with(|before: char| before.is_alphanumeric() || "_:".contains(before))
            });
            if uses && !homes.iter().any(|home| source.shown().starts_with(home)) {
                wrong.push(format!("{}: {package} lives in {homes:?}", source.shown()));
            }
        }
    }
    none("types away from home", &wrong);
}

#[test]
fn children_are_born_in_exec_alone() {
    let wrong: Vec<String> = sources()
        .iter()
        .filter(|source| source.room() != "exec")
        .filter(|source| {
            ["process::Command", "posix_spawn", "libc::fork", "unistd::fork"]
                .iter()
                .any(|word| source.text.contains(word))
        })
        .map(Source::shown)
        .collect();
    none("children born outside of exec", &wrong);
}

#[test]
fn files_are_short_documented_and_named_for_what_they_hold() {
    let mut wrong = Vec::new();
    for source in sources() {
        if source.lines > 500 && !TABLES.contains(&source.shown().as_str()) {
            wrong.push(format!(
                "{}: {} lines without tests, look for a seam",
                source.shown(),
                source.lines
            ));
        }
        if !source.opens_with_doc {
            wrong.push(format!("{}: opens without `//!`", source.shown()));
        }
        if source
            .module
            .iter()
            .any(|name| ["helpers", "utils", "util", "common", "misc"].contains(&name.as_str()))
        {
            wrong.push(format!("{}: a name that says nothing", source.shown()));
        }
        if source.module.len() > 3 {
            wrong.push(format!("{}: more than two levels deep", source.shown()));
        }
    }
    none("files", &wrong);
}

#[test]
fn the_reader_of_arrows_sees_every_form() {
    let code = "use crate::{error::Error, doors::{http, nats::Link}};\n\
                use super::super::host::Sample; // crate::exec\n\
                fn f() { crate::fs::write(\"crate::git\"); other_crate::pty::x(); }\n";
    let source = Source {
        path: "src/ops/perform.rs".into(),
        module: vec!["ops".into(), "perform".into()],
        text: plain(code),
        lines: 3,
        opens_with_doc: true,
    };
    let rooms: BTreeSet<String> = named(&source).iter().map(|path| room_of(path)).collect();
    let expected = ["doors::http", "doors::nats", "error", "fs", "host"];
    assert_eq!(rooms, expected.map(str::to_owned).into());
    let wrong = wrong_arrows(&source);
    assert_eq!(wrong.len(), 2, "the two doors: {wrong:?}");
}
