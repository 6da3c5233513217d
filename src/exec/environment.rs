//! The environment of a child: the daemon's cleaned one with the caller's on top, or exactly the caller's, and the
//! marker by which the tree is found again.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;

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

/// What a terminal is called unless the caller says otherwise.
const TERM: (&str, &str) = ("TERM", "xterm-256color");

/// What a child reads and writes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Surroundings {
    /// Nobody is there to answer a pager or a prompt.
    Pipes,
    /// Somebody may be.
    Terminal,
}

/// The cleaned environment of the daemon: each name with the `NAME=value` that every child shares.
#[derive(Debug)]
pub(super) struct Base {
    entries: BTreeMap<OsString, Arc<CStr>>,
    /// Names of [`QUIET`] that the daemon's environment does not have itself.
    quiet: Vec<&'static OsStr>,
}

/// The environment of one child, ready for `execve`.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) strings: Vec<Arc<CStr>>,
    /// `PATH` of the child, for looking up its program.
    pub(super) path: OsString,
    /// `SHELL` of the child.
    pub(super) shell: OsString,
}

impl Base {
    /// From the daemon's environment without its secrets; the quiet settings apply unless it has its own.
    pub(super) fn new(cleaned: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut base = BTreeMap::from([("PATH".into(), LOGIN_PATH.into())]);
        base.extend(cleaned);
        let quiet = QUIET
            .iter()
            .filter(|(name, _)| !base.contains_key(OsStr::new(name)));
        let quiet: Vec<_> = quiet.collect();
        base.extend(quiet.iter().map(|(name, value)| (name.into(), value.into())));
        let joined = base.into_iter().filter_map(|(name, value)| {
            // What came in an environment holds no NUL.
            let entry = join(&name, &value).ok()?;
            Some((name, entry))
        });
        Self {
            entries: joined.collect(),
            quiet: quiet.into_iter().map(|(name, _)| OsStr::new(name)).collect(),
        }
    }

    /// The environment of one child, with `marker` as the value of [`MARKER`].
    pub(super) fn build(
        &self,
        wanted: &Environment,
        marker: &str,
        surroundings: Surroundings,
    ) -> Result<Built, Error> {
        let (inherited, given) = match wanted {
            Environment::Overlay(given) => (Some(&self.entries), given),
            Environment::Exact(given) => (None, given),
        };
        let on_terminal = surroundings == Surroundings::Terminal && inherited.is_some();
        let term = on_terminal.then(|| (TERM.0.as_ref(), TERM.1.as_ref()));
        let given = given
            .iter()
            .map(|(name, value)| (name.as_os_str(), value.as_os_str()));
        let own: BTreeMap<&OsStr, &OsStr> = term
            .into_iter()
            .chain(given)
            .chain([(MARKER.as_ref(), marker.as_ref())])
            .collect();
        let mut strings: Vec<_> = inherited
            .into_iter()
            .flatten()
            .filter(|(name, _)| !own.contains_key(name.as_os_str()))
            .filter(|(name, _)| !(on_terminal && self.quiet.contains(&name.as_os_str())))
            .map(|(_, entry)| Arc::clone(entry))
            .collect();
        for (name, value) in &own {
            check(name, value)?;
            strings.push(join(name, value)?);
        }
        let value = |name: &str, default: &str| {
            let own = own.get(OsStr::new(name)).copied();
            let inherited = || Some(value_of(inherited?.get(OsStr::new(name))?));
            own.or_else(inherited)
                .filter(|value| !value.is_empty())
                .unwrap_or(default.as_ref())
                .to_owned()
        };
        Ok(Built {
            path: value("PATH", LOGIN_PATH),
            shell: value("SHELL", "/bin/sh"),
            strings,
        })
    }
}

/// What stands behind the first `=` of an entry that [`join`] made.
fn value_of(entry: &CStr) -> &OsStr {
    let bytes = entry.to_bytes();
    let value = bytes
        .iter()
        .position(|byte| *byte == b'=')
        .map_or(bytes.len(), |at| at + 1);
    OsStr::from_bytes(&bytes[value..])
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

fn join(name: &OsStr, value: &OsStr) -> Result<Arc<CStr>, Error> {
    let mut text = Vec::with_capacity(name.len() + value.len() + 2);
    text.extend_from_slice(name.as_bytes());
    text.push(b'=');
    text.extend_from_slice(value.as_bytes());
    let entry = CString::new(text).map_err(|error| Error::Invalid {
        field: "env",
        reason: format!("{:?} contains a NUL byte", OsString::from_vec(error.into_vec())),
    })?;
    Ok(entry.into())
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
                Surroundings::Pipes,
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
    fn a_terminal_has_a_name_and_may_page_and_prompt() {
        let base = Base::new(pairs(&[("TERM", "dumb"), ("GIT_PAGER", "less")]));
        let built = |given: &[(&str, &str)], surroundings| {
            let given = Environment::Overlay(pairs(given));
            text(&base.build(&given, "m", surroundings).unwrap())
        };
        let terminal = built(&[], Surroundings::Terminal);
        assert!(
            terminal.contains(&"TERM=xterm-256color".to_owned()),
            "{terminal:?}"
        );
        assert!(terminal.contains(&"GIT_PAGER=less".to_owned()), "{terminal:?}");
        assert!(
            !terminal.iter().any(|entry| entry.starts_with("PAGER=")),
            "{terminal:?}"
        );
        let named = built(&[("TERM", "vt100")], Surroundings::Terminal);
        assert!(named.contains(&"TERM=vt100".to_owned()), "{named:?}");
        let pipes = built(&[], Surroundings::Pipes);
        assert!(
            pipes.contains(&"TERM=dumb".to_owned()) && pipes.contains(&"PAGER=cat".to_owned()),
            "{pipes:?}"
        );
    }

    #[test]
    fn an_exact_environment_gets_the_marker_and_nothing_else() {
        let built = Base::new(pairs(&[("A", "1")]))
            .build(&Environment::Exact(vec![]), "m", Surroundings::Terminal)
            .unwrap();
        assert_eq!(text(&built), ["BOXD_PROCESS=m"]);
    }

    #[test]
    fn names_that_cannot_be_are_refused_by_name() {
        let base = Base::new(vec![]);
        for (name, value, said) in [("", "x", "empty"), ("A=B", "x", "A=B"), ("A", "x\0y", "NUL")] {
            let error = base
                .build(
                    &Environment::Overlay(pairs(&[(name, value)])),
                    "m",
                    Surroundings::Pipes,
                )
                .unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
    }
}
