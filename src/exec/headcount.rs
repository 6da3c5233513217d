//! The default limit of processes: no tree may have more than a quarter of the room that the machine had for processes
//! when the daemon started, once half of that room is taken. It needs no control group and costs a command nothing: a
//! look at one line of `/proc` several times a second, and only when room gets scarce a look at everybody.
//!
//! Whoever asks kills the trees that are named here; `BOXD_PROCESS` names them. Members that cleared their environment
//! are found by their session, which a member made, or by their parents.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::environment::MARKER;
use super::proc::{self, Stat};
use crate::cgroups::Table;
use crate::error::Error;
use crate::ids::InstanceId;
use crate::lifecycle::Tasks;

/// One tree may have one part in so many of the room.
const SHARE: u64 = 4;
/// In however small a container, a tree may have this many.
const AT_LEAST: u64 = 64;
/// From one look to the next while there is much room, and while there is less.
const CALM: Duration = Duration::from_millis(100);
const ALERT: Duration = Duration::from_millis(20);
/// Looks at everybody in which nobody is to blame become rare.
const RARELY: Duration = Duration::from_secs(2);
/// Members of a session that are asked for their marker.
const ASKED: usize = 3;

/// Counts the processes of the machine.
#[derive(Debug)]
pub(super) struct Headcount {
    processes: PathBuf,
    /// What the markers of this daemon's trees begin with.
    prefix: Vec<u8>,
    bounds: Vec<Bound>,
}

/// Something that limits how many processes there can be.
#[derive(Debug)]
struct Bound {
    source: Source,
    used_at_start: u64,
}

#[derive(Debug)]
enum Source {
    /// The kernel, for everybody; the directory is `/proc`.
    Machine(PathBuf),
    /// A control group that this process is in.
    Group(PathBuf),
}

/// What a bound says now.
#[derive(Debug, Clone, Copy)]
struct Room {
    at_start: u64,
    now: u64,
}

/// A tree that has too many processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Culprit {
    /// The entry in the environment of its members: `BOXD_PROCESS=...`.
    pub(super) marker: Vec<u8>,
    /// Processes and threads.
    pub(super) tasks: u64,
    /// What it may have.
    pub(super) allowed: u64,
}

impl Headcount {
    /// Looks at the room that there is now, in the machine whose root directory is `root`.
    pub(super) fn new(root: &Path, instance: InstanceId) -> Self {
        let processes = root.join("proc");
        let groups = Table::read(root).places("pids").into_iter();
        let groups = groups.flat_map(|place| place.ancestry()).map(Source::Group);
        let sources = groups.chain([Source::Machine(processes.clone())]);
        let bounds = sources.filter_map(|source| {
            let used_at_start = source.used()?;
            Some(Bound {
                source,
                used_at_start,
            })
        });
        Self {
            bounds: bounds.collect(),
            processes,
            prefix: format!("{MARKER}={instance}:").into_bytes(),
        }
    }

    /// The scarcest room of all, in proportion; `None` where nothing tells.
    fn room(&self) -> Option<Room> {
        let rooms = self.bounds.iter().filter_map(Bound::room);
        // Compared as fractions, without a division.
        rooms.min_by(|one, other| {
            let left = u128::from(one.now) * u128::from(other.at_start);
            left.cmp(&(u128::from(other.now) * u128::from(one.at_start)))
        })
    }

    /// The trees that have too much of this room. Blocks while everybody is looked at.
    fn culprits(&self, room: Room) -> Vec<Culprit> {
        let allowed = room.allowed();
        let everybody = everybody(&self.processes);
        let own = std::process::id() as i32;
        let own_session = everybody
            .iter()
            .find(|stat| stat.pid == own)
            .map(|stat| stat.session);
        let marker = |pid: i32| {
            let environment = fs::read(self.processes.join(format!("{pid}/environ"))).ok()?;
            let mut entries = environment.split(|byte| *byte == 0);
            entries
                .find(|entry| entry.starts_with(&self.prefix))
                .map(<[u8]>::to_vec)
        };
        let counted = count(&everybody, own_session, marker).into_iter();
        let too_many = counted.filter(|(_, tasks)| *tasks > allowed);
        let mut culprits: Vec<Culprit> = too_many
            .map(|(marker, tasks)| Culprit {
                marker,
                tasks,
                allowed,
            })
            .collect();
        culprits.sort_by_key(|culprit| std::cmp::Reverse(culprit.tasks));
        culprits
    }

    /// The pillar: has `punish` called for each tree that has too much, the largest first, until process trees are
    /// killed anyway. It is called on a thread that exists from the start, because when it is needed there may be no
    /// other to be had; it may block.
    pub(super) async fn run(
        self,
        tasks: Tasks,
        punish: impl FnMut(&Culprit) + Send + 'static,
    ) -> Result<(), Error> {
        let stop = Arc::new(Stop::default());
        // Also when this is dropped: the runtime waits for its threads.
        let _told = TellAtTheEnd(Arc::clone(&stop));
        let mut watching = tokio::task::spawn_blocking(move || self.watch(&stop, punish));
        tokio::select! {
            () = tasks.killing() => Ok(()),
            ended = &mut watching => Err(Error::Internal {
                reason: format!("the headcount ended: {ended:?}"),
            }),
        }
    }

    fn watch(&self, stop: &Stop, mut punish: impl FnMut(&Culprit)) {
        let mut quiet = Quiet::default();
        let mut pause = CALM;
        while !stop.told_within(pause) {
            let Some(room) = self.room() else { continue };
            pause = if room.now > room.at_start / 4 * 3 {
                CALM
            } else {
                ALERT
            };
            if !room.is_scarce() {
                quiet = Quiet::default();
            } else if quiet.is_over(room) {
                let looked = Instant::now();
                let culprits = self.culprits(room);
                quiet.after_a_look(room, looked, culprits.is_empty());
                culprits.iter().for_each(&mut punish);
            }
        }
    }
}

impl Source {
    fn used(&self) -> Option<u64> {
        match self {
            Self::Machine(proc) => entities(&fs::read_to_string(proc.join("loadavg")).ok()?),
            Self::Group(group) => number(&group.join("pids.current")),
        }
    }

    fn limit(&self) -> Option<u64> {
        match self {
            Self::Machine(proc) => ["sys/kernel/pid_max", "sys/kernel/threads-max"]
                .into_iter()
                .filter_map(|file| number(&proc.join(file)))
                .min(),
            // None where it says `max`.
            Self::Group(group) => number(&group.join("pids.max")),
        }
    }
}

impl Bound {
    fn room(&self) -> Option<Room> {
        let limit = self.source.limit()?;
        Some(Room {
            at_start: limit.saturating_sub(self.used_at_start),
            now: limit.saturating_sub(self.source.used()?),
        })
    }
}

impl Room {
    fn is_scarce(self) -> bool {
        self.now < self.at_start / 2
    }

    fn allowed(self) -> u64 {
        (self.at_start / SHARE).max(AT_LEAST)
    }
}

/// The time after a look at everybody in which there is no other.
#[derive(Debug, Default)]
struct Quiet {
    until: Option<Instant>,
    pause: Duration,
    room: u64,
}

impl Quiet {
    fn is_over(&self, room: Room) -> bool {
        // Whoever takes a lot more of it meanwhile is looked for at once.
        let shrinks = room.now + room.at_start / 16 < self.room;
        shrinks || self.until.is_none_or(|until| Instant::now() >= until)
    }

    fn after_a_look(&mut self, room: Room, began: Instant, in_vain: bool) {
        // A fifth of one processor at most.
        let rest = began.elapsed() * 4;
        self.pause = if in_vain {
            (self.pause * 2).clamp(CALM, RARELY)
        } else {
            ALERT
        };
        self.until = Some(Instant::now() + self.pause.max(rest));
        self.room = room.now;
    }
}

/// Tells a thread to stop.
#[derive(Debug, Default)]
struct Stop {
    told: Mutex<bool>,
    news: Condvar,
}

#[derive(Debug)]
struct TellAtTheEnd(Arc<Stop>);

impl Drop for TellAtTheEnd {
    fn drop(&mut self) {
        *self.0.told.lock() = true;
        self.0.news.notify_all();
    }
}

impl Stop {
    fn told_within(&self, time: Duration) -> bool {
        let mut told = self.told.lock();
        if !*told {
            self.news.wait_for(&mut told, time);
        }
        *told
    }
}

/// The number of tasks in a line like `0.55 1.07 0.60 1/84 9607`.
fn entities(loadavg: &str) -> Option<u64> {
    let (_running, all) = loadavg.split_ascii_whitespace().nth(3)?.split_once('/')?;
    all.parse().ok()
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn everybody(processes: &Path) -> Vec<Stat> {
    let entries = fs::read_dir(processes).into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            entry
                .file_name()
                .as_encoded_bytes()
                .iter()
                .all(u8::is_ascii_digit)
        })
        .filter_map(|entry| proc::parse_stat(&fs::read(entry.path().join("stat")).ok()?))
        .collect()
}

/// How many tasks each tree has. A session belongs to the tree of whoever made it, so few have to be asked for their
/// marker; a session without one belongs to the tree that one of its members was born in.
fn count(
    everybody: &[Stat],
    own_session: Option<i32>,
    mut marker: impl FnMut(i32) -> Option<Vec<u8>>,
) -> HashMap<Vec<u8>, u64> {
    let mut sessions: HashMap<i32, Vec<&Stat>> = HashMap::new();
    let mut children: HashMap<i32, Vec<&Stat>> = HashMap::new();
    for stat in everybody {
        // Session 0 is outside of this process namespace, or the kernel's.
        if stat.session != 0 && Some(stat.session) != own_session {
            sessions.entry(stat.session).or_default().push(stat);
            children.entry(stat.parent).or_default().push(stat);
        }
    }
    let mut owners: HashMap<i32, Arc<[u8]>> = HashMap::new();
    for (session, members) in &sessions {
        // Who is ending has no environment any more.
        let asked = members.iter().filter(|stat| !stat.dead).take(ASKED);
        let found = asked.into_iter().find_map(|stat| marker(stat.pid));
        owners.extend(found.map(|marker| (*session, marker.into())));
    }
    let mut pending: Vec<i32> = owners.keys().copied().collect();
    while let Some(session) = pending.pop() {
        let owner = Arc::clone(&owners[&session]);
        let born = sessions[&session]
            .iter()
            .filter_map(|stat| children.get(&stat.pid));
        for child in born.flatten() {
            owners.entry(child.session).or_insert_with(|| {
                pending.push(child.session);
                Arc::clone(&owner)
            });
        }
    }
    let mut counted: HashMap<Vec<u8>, u64> = HashMap::new();
    for (session, owner) in owners {
        // One that has ended and was not waited for takes its place all the same.
        let tasks = sessions[&session].iter().map(|stat| stat.threads.max(1));
        *counted.entry(owner.to_vec()).or_default() += tasks.sum::<u64>();
    }
    counted
}

#[cfg(test)]
mod tests {
    use tokio::io::Interest;

    use super::*;
    use crate::exec::birth::Birth;
    use crate::exec::cradle::Born;
    use crate::exec::environment::{Base, Surroundings};
    use crate::exec::kill;
    use crate::exec::members::{Leader, Tree};
    use crate::exec::prepare::Prepared;
    use crate::exec::spawn::{Pipes, Start};
    use crate::exec::spec::{Command, Environment};
    use crate::exec::sys;
    use crate::exec::watch::Watch;

    /// A machine's root directory with these figures.
    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn write(root: &tempfile::TempDir, name: &str, text: &str) {
        fs::write(root.path().join(name), text).unwrap();
    }

    const KERNEL: [(&str, &str); 3] = [
        ("proc/loadavg", "0.1 0.1 0.1 1/1000 77\n"),
        ("proc/sys/kernel/pid_max", "32768\n"),
        ("proc/sys/kernel/threads-max", "9000\n"),
    ];

    #[test]
    fn room_is_scarce_when_half_of_that_at_the_start_is_taken() {
        let root = machine(&KERNEL);
        let headcount = Headcount::new(root.path(), InstanceId::mint());
        let room = headcount.room().unwrap();
        assert_eq!((room.at_start, room.now, room.allowed()), (8000, 8000, 2000));
        write(&root, "proc/loadavg", "0.1 0.1 0.1 1/5000 77\n");
        assert!(!headcount.room().unwrap().is_scarce());
        write(&root, "proc/loadavg", "0.1 0.1 0.1 1/5001 77\n");
        assert!(headcount.room().unwrap().is_scarce());
        write(&root, "proc/loadavg", "garbage");
        assert!(headcount.room().is_none());
    }

    #[test]
    fn the_scarcest_of_all_bounds_counts() {
        let mut files = KERNEL.to_vec();
        files.extend([
            ("proc/self/cgroup", "0::/pod/box\n"),
            (
                "proc/self/mountinfo",
                "29 23 0:26 / /cg rw - cgroup2 cgroup2 rw\n",
            ),
            ("cg/pod/box/pids.max", "max\n"),
            ("cg/pod/box/pids.current", "10\n"),
            ("cg/pod/pids.max", "510\n"),
            ("cg/pod/pids.current", "10\n"),
        ]);
        let root = machine(&files);
        let headcount = Headcount::new(root.path(), InstanceId::mint());
        write(&root, "cg/pod/pids.current", "300\n");
        let room = headcount.room().unwrap();
        assert_eq!((room.at_start, room.now, room.allowed()), (500, 210, 125));
        assert!(room.is_scarce());
        write(&root, "proc/loadavg", "0.1 0.1 0.1 1/8999 77\n");
        assert_eq!(headcount.room().unwrap().now, 1);
    }

    fn stat(pid: i32, parent: i32, session: i32, threads: u64) -> Stat {
        Stat {
            pid,
            parent,
            session,
            threads,
            group: session,
            started: 1,
            dead: false,
            of_kernel: false,
            resident: 1,
        }
    }

    #[test]
    fn who_hides_its_marker_counts_where_it_came_from() {
        let everybody = [
            stat(1, 0, 1, 9),
            stat(10, 1, 10, 1),
            stat(11, 10, 10, 3),
            // A session of its own without a marker, and one made by that.
            stat(12, 11, 12, 2),
            stat(13, 12, 13, 4),
            // Another tree.
            stat(20, 1, 20, 5),
            // A stranger, the daemon's own session, and the kernel.
            stat(30, 1, 30, 100),
            stat(40, 1, 40, 100),
            stat(41, 40, 40, 100),
            stat(2, 0, 0, 100),
        ];
        let marker = |pid: i32| match pid {
            10 | 11 => Some(b"m=1".to_vec()),
            20 => Some(b"m=2".to_vec()),
            40 => Some(b"m=3".to_vec()),
            _ => None,
        };
        let counted = count(&everybody, Some(40), marker);
        let expected = HashMap::from([(b"m=1".to_vec(), 10), (b"m=2".to_vec(), 5)]);
        assert_eq!(counted, expected);
    }

    #[test]
    fn looks_in_vain_become_rare_until_room_shrinks_again() {
        let room = |now| Room { at_start: 1600, now };
        let mut quiet = Quiet::default();
        assert!(quiet.is_over(room(700)));
        for _ in 0..10 {
            quiet.after_a_look(room(700), Instant::now(), true);
        }
        assert_eq!(quiet.pause, RARELY);
        assert!(!quiet.is_over(room(700)) && !quiet.is_over(room(600)));
        assert!(quiet.is_over(room(599)));
        quiet.after_a_look(room(599), Instant::now(), false);
        assert_eq!(quiet.pause, ALERT);
    }

    /// A hundred processes of this machine, in sessions of their own and without an environment, and figures that make
    /// them too many.
    #[tokio::test]
    async fn the_tree_that_takes_the_room_is_named_and_can_be_killed() {
        let root = machine(&KERNEL);
        let instance = InstanceId::mint();
        let mut headcount = Headcount::new(root.path(), instance);
        headcount.processes = "/proc".into();
        write(&root, "proc/sys/kernel/threads-max", "1300\n");

        let marker = format!("{instance}:bomb");
        let environment =
            Base::new(Vec::new()).build(&Environment::Overlay(Vec::new()), &marker, Surroundings::Pipes);
        let line = "for i in $(seq 100); do env -i setsid sleep 100 & done; echo all; sleep 100";
        let start =
            Start::prepare(&Command::Shell(line.into()), Path::new("/"), environment.unwrap()).unwrap();
        let pipes = Pipes::open(false).unwrap();
        let born = start.spawn(&pipes.child, &Birth::default(), &Prepared::default());
        let Born { pid, pidfd } = born.unwrap();
        let pidfd = Arc::new(pidfd);
        let marker = format!("{MARKER}={marker}").into_bytes();
        let tree = Tree {
            leader: Some(Leader {
                pid,
                pidfd: Arc::clone(&pidfd),
            }),
            marker: marker.clone(),
            orphans: false,
            siblings: None,
        };
        let (named, mut culprit) = tokio::sync::mpsc::unbounded_channel();
        let tasks = Tasks::new();
        tasks.pillar(
            "headcount",
            headcount.run(tasks.clone(), move |culprit| drop(named.send(culprit.clone()))),
        );
        let mut output = Watch::new(pipes.stdout, Interest::READABLE);
        let said = output.until_ready(|fd| Ok(nix::unistd::read(fd, &mut [0; 8])?));
        assert_eq!(said.await.unwrap(), "all\n".len());
        tokio::time::sleep(CALM * 3).await;
        assert!(culprit.try_recv().is_err(), "there is room");
        write(&root, "proc/loadavg", "0.1 0.1 0.1 1/1200 77\n");
        let named = tokio::time::timeout(Duration::from_secs(10), culprit.recv()).await;
        let killed = kill::kill_tree(&tree);
        sys::wait_for_end(std::os::fd::AsFd::as_fd(&*pidfd));
        let named = named.unwrap().unwrap();
        let expected = Culprit {
            marker,
            tasks: 102,
            allowed: 75,
        };
        assert_eq!(named, expected);
        assert_eq!(killed.pids.len(), 102, "{killed:?}");
        tasks.kill();
        assert!(matches!(tasks.next_pillar().await, Some(("headcount", Ok(())))));
    }
}
