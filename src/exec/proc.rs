//! `/proc` as the tree killer needs it: who is whose child, who carries our marker, who holds a pipe.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::environment::MARKER;

/// A process at the moment of the look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) pid: i32,
    pub(super) parent: i32,
    pub(super) group: i32,
    pub(super) session: i32,
    /// Clock ticks since boot when it started: with the pid this names a process for good.
    pub(super) started: u64,
    /// Whether it has ended and only waits to be reaped.
    pub(super) dead: bool,
    /// Whether it is a thread of the kernel, which has no program and no environment.
    pub(super) of_kernel: bool,
    pub(super) threads: u64,
    /// Pages of memory that are resident.
    pub(super) resident: u64,
}

/// The processes of one moment.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    pub(super) all: HashMap<i32, Stat>,
    /// The markers of those who carry any: entries of their environment.
    pub(super) markers: HashMap<i32, Vec<Box<[u8]>>>,
    /// Somebody went away while being looked at, maybe leaving a child that was not seen.
    pub(super) moved: bool,
}

impl Snapshot {
    /// Whether `pid` carries a marker that begins with this.
    pub(super) fn carries(&self, pid: i32, beginning: &[u8]) -> bool {
        let markers = self.markers.get(&pid).into_iter().flatten();
        markers.into_iter().any(|marker| marker.starts_with(beginning))
    }
}

/// Of the flags in `/proc/<pid>/stat`; `include/linux/sched.h`.
const PF_KTHREAD: u64 = 0x0020_0000;

/// What the environment of every process that a daemon has started begins an entry with.
const ANY_MARKER: &[u8] = MARKER.as_bytes();

/// Every process that can be seen, and who carries which markers. `NotFound` where nobody can be seen: no `/proc`, or an
/// empty directory of that name, as in a small root.
pub(super) fn snapshot() -> io::Result<Snapshot> {
    snapshot_without(&HashSet::new())
}

/// The same of everybody but these, who are not looked at.
pub(super) fn snapshot_without(strangers: &HashSet<i32>) -> io::Result<Snapshot> {
    let mut snapshot = Snapshot::default();
    for pid in pids()? {
        if strangers.contains(&pid) {
            continue;
        }
        let Some(stat) = stat(pid)? else {
            snapshot.moved = true;
            continue;
        };
        snapshot.all.insert(pid, stat);
        // Who has ended has none any more either.
        if stat.dead || stat.of_kernel {
            continue;
        }
        match environment(pid) {
            Ok(environment) => {
                let markers: Vec<Box<[u8]>> = entries(&environment, ANY_MARKER).map(Into::into).collect();
                if !markers.is_empty() {
                    snapshot.markers.insert(pid, markers);
                }
            }
            Err(error) if gone(&error) => snapshot.moved = true,
            // Not ours to read, then not ours to kill.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => return Err(error),
        }
    }
    if snapshot.all.is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(snapshot)
}

fn pids() -> io::Result<Vec<i32>> {
    let names = fs::read_dir("/proc")?.map(|entry| entry.map(|entry| entry.file_name()));
    names
        .filter_map(|name| name.map(|name| name.to_str()?.parse().ok()).transpose())
        .collect()
}

/// Whether reading about a process failed because it has ended.
fn gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

/// One process, `None` when it has gone.
pub(super) fn stat(pid: i32) -> io::Result<Option<Stat>> {
    match fs::read(format!("/proc/{pid}/stat")) {
        Ok(line) => Ok(parse_stat(&line)),
        Err(error) if gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Parses `/proc/<pid>/stat`: the program's name stands in parentheses and may hold anything, also parentheses.
pub(super) fn parse_stat(line: &[u8]) -> Option<Stat> {
    let open = line.iter().position(|byte| *byte == b'(')?;
    let close = line.iter().rposition(|byte| *byte == b')')?;
    let pid = std::str::from_utf8(&line[..open]).ok()?.trim().parse().ok()?;
    let rest = std::str::from_utf8(line.get(close + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Stat {
        pid,
        dead: matches!(*fields.first()?, "Z" | "X" | "x"),
        of_kernel: fields.get(6)?.parse::<u64>().ok()? & PF_KTHREAD != 0,
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
        threads: fields.get(17)?.parse().ok()?,
        resident: fields.get(21)?.parse().ok()?,
    })
}

/// Whether the environment of `pid` has an entry that begins with `marker`.
pub(super) fn carries(pid: i32, marker: &[u8]) -> io::Result<bool> {
    Ok(entries(&environment(pid)?, marker).next().is_some())
}

fn environment(pid: i32) -> io::Result<Vec<u8>> {
    fs::read(format!("/proc/{pid}/environ"))
}

fn entries<'a>(environment: &'a [u8], beginning: &[u8]) -> impl Iterator<Item = &'a [u8]> {
    environment
        .split(|byte| *byte == 0)
        .filter(move |entry| entry.starts_with(beginning))
}

/// Every process but this one that can write to one of these pipes (inode numbers), as far as that can be seen.
pub(super) fn holders(inodes: &[u64]) -> Vec<u32> {
    let own = std::process::id() as i32;
    let mut holding: Vec<u32> = pids()
        .unwrap_or_default()
        .into_iter()
        .filter(|pid| *pid != own && holds_pipe(*pid, inodes))
        .map(|pid| pid as u32)
        .collect();
    holding.sort_unstable();
    holding
}

/// The pipes (inode numbers) that are the standard output and error of `pid`. Needs no descriptor.
pub(super) fn output_pipes(pid: i32) -> Vec<u64> {
    [1, 2]
        .into_iter()
        .filter_map(|fd| fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok())
        .filter_map(|target| pipe_inode(&target))
        .collect()
}

/// The process or thread that was born last in this process namespace.
pub(super) fn newest() -> io::Result<i32> {
    let line = fs::read_to_string("/proc/loadavg")?;
    let last = line.split_ascii_whitespace().next_back();
    last.and_then(|pid| pid.parse().ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Whether `pid` can write to one of these pipes (inode numbers). Who can only read is none of those that were given
/// it: a child of ours that is being born has all our descriptors for a moment.
pub(super) fn holds_pipe(pid: i32, inodes: &[u64]) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    entries
        .flatten()
        .filter(|entry| {
            let target = fs::read_link(entry.path());
            target.is_ok_and(|target| pipe_inode(&target).is_some_and(|inode| inodes.contains(&inode)))
        })
        .any(|entry| is_writable(&entry))
}

/// The permissions of a link below `fd` are the mode that the file was opened with.
fn is_writable(link: &fs::DirEntry) -> bool {
    link.metadata()
        .is_ok_and(|link| link.permissions().mode() & 0o200 != 0)
}

/// The inode in `pipe:[12345]`.
fn pipe_inode(target: &Path) -> Option<u64> {
    target
        .to_str()?
        .strip_prefix("pipe:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_program_name_does_not_confuse_the_parser() {
        let line = b"42 (a) R 1 (b\n) S 7 42 41 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 998877 1 2 3";
        let expected = Stat {
            pid: 42,
            parent: 7,
            group: 42,
            session: 41,
            started: 998_877,
            dead: false,
            of_kernel: false,
            threads: 1,
            resident: 2,
        };
        assert_eq!(parse_stat(line), Some(expected));
        let kthreadd = b"2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 1 0 0 20 0 1 0 9 0 0 1";
        assert!(parse_stat(kthreadd).unwrap().of_kernel);
        assert_eq!(parse_stat(b""), None);
        assert_eq!(parse_stat(b"12 (x"), None);
        assert_eq!(parse_stat(b"12 (x) S"), None);
    }

    #[test]
    fn this_process_is_in_the_snapshot() {
        let me = std::process::id() as i32;
        let snapshot = snapshot().unwrap();
        let stat = snapshot.all[&me];
        assert!(
            stat.pid == me && stat.threads > 1 && stat.resident > 100,
            "{stat:?}"
        );
    }

    #[test]
    fn markers_are_told_apart_by_what_they_begin_with() {
        let environment = b"A=BOXD_PROCESS=x\0BOXD_PROCESS=me:1\0\0BOXD_PROCESS=you:2\0";
        let found: Vec<Box<[u8]>> = entries(environment, ANY_MARKER).map(Into::into).collect();
        assert_eq!(found.len(), 2);
        let snapshot = Snapshot {
            markers: HashMap::from([(7, found)]),
            ..Snapshot::default()
        };
        assert!(snapshot.carries(7, b"BOXD_PROCESS=me:") && snapshot.carries(7, b"BOXD_PROCESS=you:2"));
        assert!(!snapshot.carries(7, b"BOXD_PROCESS=me:2") && !snapshot.carries(8, b""));
    }
}
