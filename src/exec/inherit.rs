//! What the daemon changes about itself at start, and what its children get back: the limits and the OOM score that
//! the daemon was started with, and the duty to adopt orphans.

use std::ffi::CString;
use std::fs;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::error::Error;

/// What children are given back because the daemon changed it for itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Inherited {
    /// `RLIMIT_NOFILE` (soft, hard) of the daemon's start.
    pub(super) nofile: Option<(u64, u64)>,
    /// `oom_score_adj` of the daemon's start, when it was lowered.
    pub(super) oom_score_adj: Option<CString>,
    /// This process leaves no core dumps, and is to stay so whoever its children become.
    pub(super) undumpable: bool,
}

/// Half the range below the children: they are to be killed first.
const DAEMON_OOM_SCORE: i32 = -500;

impl Inherited {
    /// Prepares this process for being the daemon: as many descriptors as the hard limit allows, last to be killed
    /// for memory where that is permitted, no core dumps, and orphans come to it. Answers what children get back.
    pub(super) fn take_over() -> Result<Self, Error> {
        nix::sys::prctl::set_child_subreaper(true).map_err(|errno| Error::Io {
            doing: "become a subreaper".into(),
            source: errno.into(),
        })?;
        let oom_score_adj = lower_oom_score();
        nix::sys::prctl::set_dumpable(false).map_err(|errno| Error::Io {
            doing: "switch core dumps off".into(),
            source: errno.into(),
        })?;
        Ok(Self {
            nofile: raise_descriptor_limit(),
            oom_score_adj,
            undumpable: true,
        })
    }
}

fn raise_descriptor_limit() -> Option<(u64, u64)> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).ok()?;
    Some((soft, hard))
}

/// Needs `CAP_SYS_RESOURCE`; without it the score stays, and so does that of children.
fn lower_oom_score() -> Option<CString> {
    let path = "/proc/self/oom_score_adj";
    let before = fs::read_to_string(path).ok()?;
    let lower: i32 = before
        .trim()
        .parse()
        .ok()
        .filter(|score| *score > DAEMON_OOM_SCORE)?;
    fs::write(path, DAEMON_OOM_SCORE.to_string()).ok()?;
    CString::new(lower.to_string()).ok()
}
