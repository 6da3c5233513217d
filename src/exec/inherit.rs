//! What the daemon changes about itself at start, and what its children get back: the limits, the OOM score and the
//! nice value that the daemon was started with, and the duty to adopt orphans.

use std::ffi::CString;
use std::fs;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{getpid, getsid};
use rustix::process::{getpriority_process, setpriority_process};

use crate::error::Error;

/// What children are given back because the daemon changed it for itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Inherited {
    /// `RLIMIT_NOFILE` (soft, hard) of the daemon's start.
    pub(super) nofile: Option<(u64, u64)>,
    /// `oom_score_adj` of the daemon's start, when it was lowered, else so much more that they are killed before it.
    pub(super) oom_score_adj: Option<CString>,
    /// The same is what this process had itself.
    oom_score_was_lowered: bool,
    /// Nice value of the daemon's start, when it was lowered.
    pub(super) nice: Option<i32>,
    /// This process leaves no core dumps, and is to stay so whoever its children become.
    pub(super) undumpable: bool,
}

/// Where the kernel has it.
const OOM_SCORE: &str = "/proc/self/oom_score_adj";
/// Half the range below the children: they are to be killed first.
const DAEMON_OOM_SCORE: i32 = -500;
/// Nine times the weight of a child that has the usual nice value: among hundreds of them the daemon still answers.
const DAEMON_NICE: i32 = -10;

impl Inherited {
    /// Prepares this process for being the daemon: as many descriptors as the hard limit allows, last to be killed
    /// for memory and ahead of its children for a processor where that is permitted, no core dumps, and orphans come to
    /// it. Answers what children get back.
    pub(super) fn take_over() -> Result<Self, Error> {
        nix::sys::prctl::set_child_subreaper(true).map_err(|errno| Error::Io {
            doing: "become a subreaper".into(),
            source: errno.into(),
        })?;
        let (oom_score_adj, oom_score_was_lowered) = lower_oom_score().unzip();
        nix::sys::prctl::set_dumpable(false).map_err(|errno| Error::Io {
            doing: "switch core dumps off".into(),
            source: errno.into(),
        })?;
        Ok(Self {
            nofile: raise_descriptor_limit(),
            oom_score_adj,
            oom_score_was_lowered: oom_score_was_lowered.unwrap_or(false),
            nice: lower_nice(),
            undumpable: true,
        })
    }

    /// Undoes it: who takes the place of this process is to find what this one was started with, and not what it made of
    /// that. What cannot be undone stays, as it does for children.
    pub(super) fn give_back(&self) {
        if let Some((soft, hard)) = self.nofile {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, soft, hard);
        }
        if let Some(before) = self.oom_score_adj.as_ref().filter(|_| self.oom_score_was_lowered) {
            let _ = fs::write(OOM_SCORE, before.as_bytes());
        }
        if let Some(before) = self.nice {
            let _ = setpriority_process(None, before);
            share_among_sessions(before);
        }
    }
}

fn raise_descriptor_limit() -> Option<(u64, u64)> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).ok()?;
    Some((soft, hard))
}

/// Needs `CAP_SYS_RESOURCE`; without it the score stays, and so does that of children. Raising theirs needs nothing: where
/// whoever started us has lowered ours already, they get back what that took.
fn lower_oom_score() -> Option<(CString, bool)> {
    let before: i32 = fs::read_to_string(OOM_SCORE).ok()?.trim().parse().ok()?;
    if before <= DAEMON_OOM_SCORE {
        return Some((CString::new((before - DAEMON_OOM_SCORE).to_string()).ok()?, false));
    }
    fs::write(OOM_SCORE, DAEMON_OOM_SCORE.to_string()).ok()?;
    Some((CString::new(before.to_string()).ok()?, true))
}

/// Needs `CAP_SYS_NICE`; without it the daemon queues for a processor like everybody else.
fn lower_nice() -> Option<i32> {
    let before = getpriority_process(None)
        .ok()
        .filter(|nice| *nice > DAEMON_NICE)?;
    setpriority_process(None, DAEMON_NICE).ok()?;
    share_among_sessions(DAEMON_NICE);
    Some(before)
}

/// Where the kernel shares processors among sessions (`sched_autogroup_enabled`), a nice value counts within one only, and
/// every child leads its own. A session that is not ours is somebody's shell and what else it started.
fn share_among_sessions(nice: i32) {
    if getsid(None).is_ok_and(|session| session == getpid()) {
        let _ = fs::write("/proc/self/autogroup", nice.to_string());
    }
}
