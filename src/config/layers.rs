//! The layers: what each of them gives, which one wins, and what none of them may contain.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Sources;
use super::settings::{SETTINGS, Setting, setting};
use super::value::Given;

/// Where a value came from, weakest first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// Built in.
    Default,
    /// The configuration file.
    File(PathBuf),
    /// An environment variable.
    Variable(&'static str),
    /// A flag, without its dashes.
    Flag(&'static str),
}

impl fmt::Display for Layer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::File(path) => write!(formatter, "file {}", path.display()),
            Self::Variable(name) => write!(formatter, "variable {name}"),
            Self::Flag(name) => write!(formatter, "flag --{name}"),
        }
    }
}

impl Layer {
    fn rank(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::File(_) => 1,
            Self::Variable(_) => 2,
            Self::Flag(_) => 3,
        }
    }
}

/// A value that a layer gives to a setting.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) setting: &'static Setting,
    pub(super) layer: Layer,
    pub(super) given: Given,
}

/// The variable that the process engine marks its children with; a boxd inside a boxd sees it.
const PROCESS_MARKER: &str = "BOXD_PROCESS";
/// The variable that an enrollment token may come in, for `boxd connect`.
pub const ENROLL_TOKEN: &str = "BOXD_ENROLL_TOKEN";

/// The value of a setting that is needed before the file is read.
pub(super) fn early(sources: &Sources, key: &str, problems: &mut Vec<String>) -> Option<PathBuf> {
    let setting = setting(key)?;
    let candidate = from_flags(sources, setting).or_else(|| from_environment(sources, setting))?;
    match candidate.given.path() {
        Ok(path) => Some(path),
        Err(problem) => {
            problems.push(format!("{}: {key} {problem}", candidate.layer));
            None
        }
    }
}

/// For each setting the value of its highest layer, less those that another one of its group outranks.
pub(super) fn choose(sources: &Sources, file: &Path, problems: &mut Vec<String>) -> Vec<Candidate> {
    unknown_variables(sources, problems);
    let table = read_file(sources, file, problems);
    if let Some(table) = &table {
        unknown_keys(table, "", file, problems);
    }
    let winners: Vec<Candidate> = SETTINGS
        .iter()
        .filter_map(|setting| {
            from_flags(sources, setting)
                .or_else(|| from_environment(sources, setting))
                .or_else(|| from_file(table.as_ref()?, file, setting))
        })
        .collect();
    settle_groups(winners, problems)
}

fn from_flags(sources: &Sources, setting: &'static Setting) -> Option<Candidate> {
    let (_, given) = sources.flags.iter().find(|(key, _)| *key == setting.key)?;
    // A flag exists for every value that came through one; `call` names its own by the same table.
    let layer = Layer::Flag(setting.flag.unwrap_or(setting.key));
    Some(Candidate {
        setting,
        layer,
        given: given.clone(),
    })
}

/// An empty variable is one that is not set: image builders can not unset a variable of a base image.
fn from_environment(sources: &Sources, setting: &'static Setting) -> Option<Candidate> {
    let name = setting.variable?;
    let value = sources
        .environment
        .get(OsStr::new(name))
        .filter(|value| !value.is_empty())?;
    Some(Candidate {
        setting,
        layer: Layer::Variable(name),
        given: Given::Variable(value.clone()),
    })
}

fn from_file(table: &toml::Table, file: &Path, setting: &'static Setting) -> Option<Candidate> {
    let (section, name) = setting.key.split_once('.')?;
    let value = table.get(section)?.as_table()?.get(name)?;
    Some(Candidate {
        setting,
        layer: Layer::File(file.to_owned()),
        given: Given::File(value.clone()),
    })
}

/// Keeps of each group only the highest layer; two of one group in the same layer are a problem.
fn settle_groups(winners: Vec<Candidate>, problems: &mut Vec<String>) -> Vec<Candidate> {
    // A switch that is off gives nothing.
    let gives =
        |candidate: &Candidate| candidate.setting.value.is_some() || candidate.given.switch() != Ok(false);
    let outranked = |candidate: &Candidate| {
        candidate.setting.group.is_some()
            && winners.iter().any(|other| {
                other.setting.group == candidate.setting.group
                    && gives(other)
                    && other.layer.rank() > candidate.layer.rank()
            })
    };
    let kept: Vec<bool> = winners.iter().map(|candidate| !outranked(candidate)).collect();
    let mut kept_of_group: Vec<&Candidate> = Vec::new();
    for (candidate, _) in winners.iter().zip(&kept).filter(|(_, kept)| **kept) {
        let Some(group) = candidate.setting.group.filter(|_| gives(candidate)) else {
            continue;
        };
        if let Some(other) = kept_of_group
            .iter()
            .find(|other| other.setting.group == Some(group))
        {
            problems.push(format!(
                "{}: {} excludes {} ({})",
                candidate.layer, candidate.setting.key, other.setting.key, other.layer
            ));
        }
        kept_of_group.push(candidate);
    }
    winners
        .into_iter()
        .zip(kept)
        .filter(|(_, kept)| *kept)
        .map(|(candidate, _)| candidate)
        .collect()
}

fn unknown_variables(sources: &Sources, problems: &mut Vec<String>) {
    for name in sources
        .environment
        .keys()
        .filter(|name| name.as_bytes().starts_with(b"BOXD_"))
    {
        let known = name == PROCESS_MARKER
            || name == ENROLL_TOKEN
            || SETTINGS
                .iter()
                .any(|setting| setting.variable.is_some_and(|variable| name == variable));
        if !known {
            problems.push(format!(
                "variable {}: is not known, `boxd doctor --print-config` lists those that are",
                name.to_string_lossy()
            ));
        }
    }
}

/// The parsed file. One that was not named may be missing.
fn read_file(sources: &Sources, file: &Path, problems: &mut Vec<String>) -> Option<toml::Table> {
    let named = setting("config.file").is_some_and(|setting| {
        from_flags(sources, setting)
            .or_else(|| from_environment(sources, setting))
            .is_some()
    });
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error)
            if !named
                && matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
        {
            return None;
        }
        Err(error) => {
            problems.push(format!("file {}: {error}", file.display()));
            return None;
        }
    };
    match toml::from_str(&text) {
        Ok(table) => Some(table),
        Err(error) => {
            // The error's own text quotes the line, which may hold a token.
            let line = error
                .span()
                .map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            problems.push(format!(
                "file {} line {line}: {}",
                file.display(),
                error.message()
            ));
            None
        }
    }
}

fn unknown_keys(table: &toml::Table, section: &str, file: &Path, problems: &mut Vec<String>) {
    for (name, value) in table {
        let key = if section.is_empty() {
            name.clone()
        } else {
            format!("{section}.{name}")
        };
        let prefix = format!("{key}.");
        let is_section = SETTINGS
            .iter()
            .any(|setting| setting.in_file && setting.key.starts_with(&prefix));
        match value {
            toml::Value::Table(inner) if is_section => unknown_keys(inner, &key, file, problems),
            _ if is_section => {
                problems.push(format!(
                    "file {}: {key} is a section, write [{key}]",
                    file.display()
                ));
            }
            _ if setting(&key).is_some_and(|setting| setting.in_file) => {}
            _ => problems.push(format!(
                "file {}: {key} is not known{}",
                file.display(),
                neighbours(section)
            )),
        }
    }
}

/// The keys or sections that would have been known in that place.
fn neighbours(section: &str) -> String {
    let mut known: Vec<&str> = SETTINGS
        .iter()
        .filter(|setting| setting.in_file)
        .filter_map(|setting| setting.key.split_once('.'))
        .filter(|(prefix, _)| section.is_empty() || *prefix == section)
        .map(|(prefix, name)| if section.is_empty() { prefix } else { name })
        .collect();
    known.dedup();
    if known.is_empty() {
        String::new()
    } else {
        format!(" (known here: {})", known.join(", "))
    }
}
