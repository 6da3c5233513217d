//! The environment of a child: the daemon's cleaned one with the caller's on top, or exactly the caller's, and the
//! marker by which the tree is found again.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::spec::Environment;
use crate::error::Error;

/// The variable that marks every process of a tree. The only `BOXD_*` that a child ever sees.
pub const MARKER: &str = "BOXD_PROCESS";

/// Where programs are looked up when neither the daemon nor the caller has a `PATH`: what login gives.
const LOGIN_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// For commands without a terminal: a pager or a prompt would wait for ever.
const QUIET: [(&str, &str); 3] = [
    ("PAGER", "cat"),
    ("GIT_PAGER", "cat"),
    ("GIT_TERMINAL_PROMPT", "0"),
];

/// The cleaned environment of the daemon, shared by all children.
#[derive(Debug, Clone)]
pub(super) struct Base(BTreeMap<OsString, OsString>);

/// The environment of one child, ready for `execve`.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) strings: Vec<CString>,
    /// `PATH` of the child, for looking up its program.
    pub(super) path: OsString,
    /// `SHELL` of the child.
    pub(super) shell: OsString,
}

impl Base {
    /// From the daemon's environment without its secrets; the quiet settings apply unless it has its own.
    pub(super) fn new(cleaned: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut base: BTreeMap<_, _> = QUIET.iter().map(|(k, v)| (k.into(), v.into())).collect();
        base.insert("PATH".into(), LOGIN_PATH.into());
        base.extend(cleaned);
        Self(base)
    }

    /// The environment of one child, with `marker` as the value of [`MARKER`].
    pub(super) fn build(&self, wanted: &Environment, marker: &str) -> Result<Built, Error> {
        let (mut all, given) = match wanted {
            Environment::Overlay(given) => (self.0.clone(), given),
            Environment::Exact(given) => (BTreeMap::new(), given),
        };
        for (name, value) in given {
            check(name, value)?;
            all.insert(name.clone(), value.clone());
        }
        all.insert(MARKER.into(), marker.into());
        let value = |name: &str, default: &str| {
            all.get(OsStr::new(name))
                .filter(|value| !value.is_empty())
                .cloned()
                .unwrap_or_else(|| default.into())
        };
        let (path, shell) = (value("PATH", LOGIN_PATH), value("SHELL", "/bin/sh"));
        let strings = all
            .into_iter()
            .map(|(name, value)| join(&name, &value))
            .collect::<Result<_, _>>()?;
        Ok(Built { strings, path, shell })
    }
}

fn check(name: &OsStr, value: &OsStr) -> Result<(), Error> {
    let reason = if name.is_empty() {
        "a name is empty".to_owned()
    } else if name.as_bytes().contains(&b'=') {
        format!("the name {name:?} contains '='")
    } else if name.as_bytes().contains(&0) || value.as_bytes().contains(&0) {
        format!("{name:?} contains a NUL byte")
    } else {
        return Ok(());
    };
    Err(Error::Invalid { field: "env", reason })
}

fn join(name: &OsStr, value: &OsStr) -> Result<CString, Error> {
    let mut text = Vec::with_capacity(name.len() + value.len() + 2);
    text.extend_from_slice(name.as_bytes());
    text.push(b'=');
    text.extend_from_slice(value.as_bytes());
    CString::new(text).map_err(|error| Error::Invalid {
        field: "env",
        reason: format!("{:?} contains a NUL byte", OsString::from_vec(error.into_vec())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(given: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        given.iter().map(|(k, v)| (k.into(), v.into())).collect()
    }

    fn text(built: &Built) -> Vec<String> {
        built
            .strings
            .iter()
            .map(|entry| entry.to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn an_overlay_wins_over_the_base_and_the_marker_over_both() {
        let base = Base::new(pairs(&[("A", "1"), ("B", "2")]));
        let built = base
            .build(
                &Environment::Overlay(pairs(&[("B", "3"), (MARKER, "forged")])),
                "m",
            )
            .unwrap();
        let text = text(&built);
        for expected in [
            "A=1",
            "B=3",
            "PAGER=cat",
            "GIT_TERMINAL_PROMPT=0",
            "BOXD_PROCESS=m",
        ] {
            assert!(text.contains(&expected.to_owned()), "{expected} in {text:?}");
        }
        assert_eq!(built.path, LOGIN_PATH);
    }

    #[test]
    fn an_exact_environment_gets_the_marker_and_nothing_else() {
        let built = Base::new(pairs(&[("A", "1")]))
            .build(&Environment::Exact(vec![]), "m")
            .unwrap();
        assert_eq!(text(&built), ["BOXD_PROCESS=m"]);
    }

    #[test]
    fn names_that_cannot_be_are_refused_by_name() {
        let base = Base::new(vec![]);
        for (name, value, said) in [("", "x", "empty"), ("A=B", "x", "A=B"), ("A", "x\0y", "NUL")] {
            let error = base
                .build(&Environment::Overlay(pairs(&[(name, value)])), "m")
                .unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
    }
}
