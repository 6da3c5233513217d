//! The limits of one command, from before its birth to its end, whatever enforces them here.
//!
//! ```text
//!   Warden::confine --> placement, birth --> attend --> breached? (the daemon kills) --> verdict --> dropped: groups go
//! ```

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::cgroup::{Cgroups, Controller};
use super::cradle::Placement;
use super::leaves::{Leaves, Reach};
use super::limits::{Hit, Limits, Mechanism};
use super::members::Tree;
use super::oom::OomEvents;
use super::spec::{Oom, Promise};
use super::watchdog::{Allowance, Lookout, Watchdog};
use crate::capability::Capability;
use crate::error::Error;
use crate::ids::InstanceId;

/// After the news that memory ran out, how long the kernel has for choosing its victim.
const VICTIM: Duration = Duration::from_secs(2);

/// What the daemon has for keeping commands within their limits.
#[derive(Debug, Default)]
pub(super) struct Warden {
    cgroups: Cgroups,
    lookout: Arc<Lookout>,
}

impl Warden {
    /// Finds out what there is in the machine whose root directory is `root`, and removes what killed daemons left of
    /// it. May move this process into a control group of its own, so that it comes before the first birth.
    pub(super) fn discover(root: &Path, instance: InstanceId) -> Self {
        Self {
            cgroups: Cgroups::discover(root, instance),
            lookout: Arc::default(),
        }
    }

    /// What would enforce these limits; an error when nothing could. `None` when they need nothing.
    pub(super) fn mechanism(&self, limits: &Limits) -> Result<Option<Mechanism>, Error> {
        self.cgroups.mechanism(limits)
    }

    /// Which limits can be kept here, each with a row of its own.
    pub(super) fn capabilities(&self) -> Vec<Capability> {
        let one = Some(1);
        let none = Limits::default;
        [
            (
                "process.limits.memory_max",
                Limits {
                    memory_max: one,
                    ..none()
                },
            ),
            (
                "process.limits.memory_high",
                Limits {
                    memory_high: one,
                    ..none()
                },
            ),
            (
                "process.limits.cpu_millicores",
                Limits {
                    cpu_millicores: one,
                    ..none()
                },
            ),
            (
                "process.limits.pids_max",
                Limits {
                    pids_max: one,
                    ..none()
                },
            ),
        ]
        .map(|(name, limits)| match self.mechanism(&limits) {
            Ok(_) => Capability::available(name),
            Err(Error::Unsupported { why, fix, .. }) => Capability::missing(name, why, fix),
            Err(other) => Capability::missing(name, other.to_string(), None),
        })
        .into()
    }

    /// Prepares everything for a command; `id` is its alone in this daemon. Blocks for a few system calls per limit.
    pub(super) fn confine(&self, limits: &Limits, id: &str) -> Result<Confinement, Error> {
        limits.validate()?;
        let mechanism = self.mechanism(limits)?;
        let leaves = Leaves::make(&self.cgroups, limits, id)?;
        let unless_in_group =
            |limit: Option<u64>, controller| limit.filter(|_| self.cgroups.site(controller).is_none());
        Ok(Confinement {
            mechanism,
            out_of_memory: leaves.memory_of_version_one().map(OomEvents::of),
            leaves,
            allowance: Allowance {
                memory: unless_in_group(limits.memory_max, Controller::Memory),
                pids: unless_in_group(limits.pids_max, Controller::Pids),
            },
            lookout: Arc::clone(&self.lookout),
            watchdog: None,
            breach: None,
        })
    }

    /// Removes what nobody is in any more: after the leftovers of a killed daemon were ended, and from time to time.
    /// Blocks for a few system calls.
    pub(super) fn sweep(&self) {
        self.cgroups.sweep();
    }

    /// Removes all groups of this daemon: at its end, when nobody is left.
    pub(super) fn close(&self) {
        self.cgroups.close();
    }
}

/// The limits of one command.
#[derive(Debug)]
pub(super) struct Confinement {
    mechanism: Option<Mechanism>,
    leaves: Leaves,
    out_of_memory: Option<OomEvents>,
    allowance: Allowance,
    lookout: Arc<Lookout>,
    watchdog: Option<Watchdog>,
    /// The limit for which the daemon ends the tree.
    breach: Option<Hit>,
}

impl Confinement {
    /// Where it is to be born.
    pub(super) fn placement(&self) -> Result<Placement, Error> {
        self.leaves.placement()
    }

    /// What enforces the limits; `None` when they need nothing.
    pub(super) fn mechanism(&self) -> Option<Mechanism> {
        self.mechanism
    }

    /// To be called when it was born.
    pub(super) fn attend(&mut self, tree: &Tree) {
        if self.allowance != Allowance::default() {
            self.watchdog = Some(Watchdog::new(tree, self.allowance, &self.lookout));
        }
    }

    /// Resolves when the daemon has to kill the tree; never where the kernel does by itself. Cancel-safe.
    pub(super) async fn breached(&mut self) -> Hit {
        let (leaves, events) = (&self.leaves, &mut self.out_of_memory);
        let by_kernel = async {
            match events {
                Some(events) => out_of_memory(leaves, events).await,
                None => std::future::pending().await,
            }
        };
        let by_watchdog = async {
            match &mut self.watchdog {
                Some(watchdog) => watchdog.breached().await,
                None => std::future::pending().await,
            }
        };
        let hit = tokio::select! {
            hit = by_kernel => hit,
            hit = by_watchdog => hit,
        };
        self.breach = Some(hit);
        hit
    }

    /// Whether it was killed for want of memory, and which limit it met. To be asked when it has ended.
    pub(super) fn verdict(&self) -> (Oom, Option<Hit>) {
        let ran_out = || self.leaves.is_out_of_memory().then_some(Hit::Memory);
        let oom = match (self.leaves.oom(), self.breach) {
            // It stood still instead.
            (Oom::No, Some(Hit::Memory)) => Oom::Yes,
            (oom, _) => oom,
        };
        let killed = (oom == Oom::Yes).then(ran_out).flatten();
        let refused = || self.leaves.is_out_of_pids().then_some(Hit::Pids);
        (oom, self.breach.or(killed).or_else(refused))
    }

    /// The most memory that the whole tree used at once, bytes, where a group has counted it.
    pub(super) fn peak_memory(&self) -> Option<u64> {
        self.leaves.peak_memory()
    }

    /// By what everybody of it is reached, however they hide; `None` without a group.
    pub(super) fn reach(&self) -> Option<Reach> {
        self.leaves.reach()
    }

    /// What a stop of this tree can promise.
    pub(super) fn tree(&self) -> Promise {
        if self.leaves.is_empty() {
            Promise::BestEffort
        } else {
            Promise::Cgroup
        }
    }
}

/// Resolves when memory has run out because of the group's own limit.
async fn out_of_memory(leaves: &Leaves, events: &mut OomEvents) -> Hit {
    loop {
        events.next().await;
        // The news comes before the kernel's choice, and also when a group around this one is at its end.
        let mut waited = Duration::ZERO;
        let mut pause = Duration::from_millis(1);
        while waited < VICTIM {
            if leaves.is_out_of_memory() && (leaves.oom() == Oom::Yes || leaves.is_stuck()) {
                return Hit::Memory;
            }
            tokio::time::sleep(pause).await;
            waited += pause;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::io::Read;
    use std::path::PathBuf;
    use std::time::Instant;

    use tokio::io::Interest;

    use super::*;
    use crate::cgroups::{Place, Table};
    use crate::exec::birth::Birth;
    use crate::exec::environment::{Base, Surroundings};
    use crate::exec::kill;
    use crate::exec::leaf;
    use crate::exec::members::Leader;
    use crate::exec::prepare::Prepared;
    use crate::exec::spawn::{Pipes, Start};
    use crate::exec::spec::{Command, Environment, Exit};
    use crate::exec::sys::{self, Ended};
    use crate::exec::watch::Watch;

    const MIB: u64 = 1 << 20;
    const NOBODY: Vec<i32> = Vec::new();
    /// 200 MiB of memory for a while, and a shell that would wait for long afterwards.
    const HOG: &str =
        "head -c 209715200 /dev/zero | tail | { sleep 5; cat > /dev/null; }; echo survived; sleep 100";

    fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
        let mut limits = Limits::default();
        change(&mut limits);
        limits
    }

    /// The daemon's side on this machine, and the name of its groups.
    struct Here {
        warden: Warden,
        name: String,
    }

    impl Here {
        fn of(root: &Path) -> Self {
            let instance = InstanceId::mint();
            Self {
                warden: Warden::discover(root, instance),
                name: leaf::name_of(instance),
            }
        }

        /// Its groups in every hierarchy.
        fn groups(&self) -> Vec<PathBuf> {
            let table = Table::read(Path::new("/"));
            let places = ["memory", "cpu", "pids"].map(|controller| table.places(controller));
            let directories = places.iter().flatten().flat_map(Place::ancestry);
            let groups: BTreeSet<_> = directories.map(|directory| directory.join(&self.name)).collect();
            groups.into_iter().filter(|group| group.exists()).collect()
        }

        fn leaves(&self) -> Vec<PathBuf> {
            let groups = self.groups().into_iter();
            let entries = groups.flat_map(|group| fs::read_dir(group).unwrap().flatten());
            let directories = entries.filter(|entry| entry.file_type().unwrap().is_dir());
            directories.map(|entry| entry.path()).collect()
        }
    }

    /// This machine with only those mounts of control groups that `keep` says yes to.
    fn machine(keep: impl Fn(&str) -> bool) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let proc = root.path().join("proc/self");
        fs::create_dir_all(&proc).unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let kept: Vec<&str> = mounts.lines().filter(|line| keep(line)).collect();
        fs::write(proc.join("mountinfo"), kept.join("\n")).unwrap();
        fs::copy("/proc/self/cgroup", proc.join("cgroup")).unwrap();
        fs::write(proc.join("stat"), "").unwrap();
        std::os::unix::fs::symlink("/sys", root.path().join("sys")).unwrap();
        root
    }

    struct Run {
        confinement: Confinement,
        tree: Tree,
        pipes: Pipes,
    }

    struct Outcome {
        exit: Exit,
        cpu: Duration,
        breach: Option<Hit>,
        said: String,
    }

    impl Run {
        fn start(here: &Here, limits: &Limits, line: &str) -> Self {
            let marker = format!("test:{:016x}", fastrand::u64(..));
            let environment =
                Base::new(Vec::new()).build(&Environment::Overlay(Vec::new()), &marker, Surroundings::Pipes);
            let command = Command::Argv(["/bin/sh", "-c", line].map(Into::into).into());
            let start = Start::prepare(&command, Path::new("/"), environment.unwrap()).unwrap();
            let mut confinement = here.warden.confine(limits, "one").unwrap();
            let pipes = Pipes::open(false).unwrap();
            let start = start.placed(confinement.placement().unwrap());
            let born = start.spawn(&pipes.child, &Birth::default(), &Prepared::default());
            let born = born.map_err(|failure| start.blame(failure)).unwrap();
            let tree = Tree {
                leader: Some(Leader {
                    pid: born.pid,
                    pidfd: Arc::new(born.pidfd),
                }),
                marker: format!("BOXD_PROCESS={marker}").into_bytes(),
                orphans: false,
                siblings: None,
            };
            confinement.attend(&tree);
            Self {
                confinement,
                tree,
                pipes,
            }
        }

        fn kill(&self) {
            if let Some(reach) = self.confinement.reach() {
                assert_eq!(reach.kill(), NOBODY, "these would not end");
            }
            kill::kill_tree(&self.tree);
        }

        /// To the leader's end, and what it has said until then.
        async fn finish(&mut self) -> Outcome {
            let pidfd = Arc::clone(&self.tree.leader.as_ref().unwrap().pidfd);
            let mut exit = Watch::new(pidfd, Interest::READABLE);
            let in_time = Duration::from_secs(30);
            let first = tokio::time::timeout(in_time, async {
                tokio::select! {
                    ended = exit.until_ready(sys::wait) => Ok(ended.unwrap()),
                    hit = self.confinement.breached() => Err(hit),
                }
            });
            let (ended, breach): (Ended, _) = match first.await {
                Ok(Ok(ended)) => (ended, None),
                Ok(Err(hit)) => {
                    self.kill();
                    (exit.until_ready(sys::wait).await.unwrap(), Some(hit))
                }
                Err(_) => {
                    self.kill();
                    panic!("it neither ended nor met a limit");
                }
            };
            let mut said = String::new();
            for pipe in [&self.pipes.stdout, &self.pipes.stderr] {
                let mut pipe = fs::File::from(pipe.try_clone().unwrap());
                // What is in the pipe; background children may hold it open.
                let _ = pipe.read_to_string(&mut said);
            }
            Outcome {
                exit: ended.exit,
                cpu: ended.user_cpu + ended.system_cpu,
                breach,
                said,
            }
        }
    }

    async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while !holds() {
            assert!(Instant::now() < deadline, "{what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    const KILLED: Exit = Exit::Signal {
        number: libc::SIGKILL,
        core_dumped: false,
    };

    /// A hog on a machine with these mounts; says what kept it in its limit.
    async fn tame_a_hog(root: &Path) -> Option<Mechanism> {
        let here = Here::of(root);
        let small = limits(|limits| limits.memory_max = Some(64 * MIB));
        let mut run = Run::start(&here, &small, HOG);
        let mechanism = run.confinement.mechanism();
        let outcome = run.finish().await;
        assert_eq!(outcome.exit, KILLED, "{mechanism:?}");
        assert!(!outcome.said.contains("survived"), "{}", outcome.said);
        let (oom, hit) = run.confinement.verdict();
        let expected = match mechanism {
            Some(Mechanism::Watchdog) => (Oom::Unknown, Promise::BestEffort),
            _ => (Oom::Yes, Promise::Cgroup),
        };
        assert_eq!((oom, run.confinement.tree()), expected, "{mechanism:?}");
        assert_eq!(hit, Some(Hit::Memory), "{mechanism:?}");
        if oom == Oom::Yes {
            let peak = run.confinement.peak_memory().unwrap();
            assert!((32 * MIB..=64 * MIB).contains(&peak), "{peak}");
        }
        run.kill();
        drop(run);
        eventually("the leaves are removed", || here.leaves().is_empty()).await;
        here.warden.close();
        assert_eq!(here.groups(), Vec::<PathBuf>::new());
        mechanism
    }

    #[tokio::test]
    async fn a_hog_is_killed_with_its_tree_and_the_reason_told() {
        let mechanism = tame_a_hog(Path::new("/")).await;
        eprintln!("this machine does it by {mechanism:?}");
    }

    #[tokio::test]
    async fn a_hog_is_killed_where_there_is_no_unified_hierarchy() {
        let root = machine(|mount| !mount.contains(" - cgroup2 "));
        let mechanism = tame_a_hog(root.path()).await;
        assert_ne!(mechanism, Some(Mechanism::CgroupV2));
    }

    #[tokio::test]
    async fn a_hog_is_killed_where_there_is_no_control_group_at_all() {
        let root = machine(|_| false);
        let mechanism = tame_a_hog(root.path()).await;
        assert_eq!(mechanism, Some(Mechanism::Watchdog));
    }

    #[tokio::test]
    async fn a_tree_that_stands_still_for_want_of_memory_is_killed() {
        let here = Here::of(Path::new("/"));
        let small = limits(|limits| limits.memory_max = Some(64 * MIB));
        let mut run = Run::start(&here, &small, &format!("sleep 0.5; {HOG}"));
        if run.confinement.mechanism() != Some(Mechanism::CgroupV1) {
            eprintln!("this machine has no memory in version one");
            run.kill();
            return;
        }
        let memory = run.confinement.leaves.memory_of_version_one().unwrap();
        memory.set("memory.oom_control", "1").unwrap();
        let outcome = run.finish().await;
        assert_eq!((outcome.exit, outcome.breach), (KILLED, Some(Hit::Memory)));
        assert_eq!(run.confinement.verdict(), (Oom::Yes, Some(Hit::Memory)));
    }

    #[tokio::test]
    async fn who_uses_little_is_left_alone_and_said_to_be_well() {
        let here = Here::of(Path::new("/"));
        let plenty = limits(|limits| {
            limits.memory_max = Some(512 * MIB);
            limits.pids_max = Some(100);
        });
        let mut run = Run::start(
            &here,
            &plenty,
            "head -c 1048576 /dev/zero | tail > /dev/null; exit 7",
        );
        let outcome = run.finish().await;
        assert_eq!((outcome.exit, outcome.breach), (Exit::Code(7), None));
        let oom = match run.confinement.mechanism() {
            Some(Mechanism::Watchdog) => Oom::Unknown,
            _ => Oom::No,
        };
        assert_eq!(run.confinement.verdict(), (oom, None));
    }

    const BOMB: &str = "i=0; while [ $i -lt 40 ]; do sleep 100 & i=$((i+1)); done; echo forty; sleep 100";

    #[tokio::test]
    async fn forks_beyond_the_limit_fail_and_what_they_left_is_reached() {
        let here = Here::of(Path::new("/"));
        let few = limits(|limits| limits.pids_max = Some(20));
        let mut run = Run::start(&here, &few, BOMB);
        let outcome = run.finish().await;
        assert_eq!(run.confinement.verdict().1, Some(Hit::Pids));
        assert!(!outcome.said.contains("forty"), "{}", outcome.said);
        if run.confinement.mechanism() == Some(Mechanism::Watchdog) {
            eprintln!("this machine has the watchdog only");
            return;
        }
        assert!(outcome.said.contains("fork"), "{}", outcome.said);
        assert_eq!((outcome.exit, outcome.breach), (Exit::Code(2), None));
        let reach = run.confinement.reach().unwrap();
        assert_eq!(reach.members().len(), 19, "background children live on");
        drop(run);
        eventually("it was tried for a while", || {
            !here.warden.cgroups.remains.is_empty()
        })
        .await;
        assert!(!here.leaves().is_empty(), "a group with members stays");
        assert_eq!(reach.kill(), NOBODY);
        // The kernel lets go of a group a moment after its last member.
        let gone = || {
            here.warden.sweep();
            here.leaves().is_empty()
        };
        eventually("what was left is removed later", gone).await;
    }

    #[tokio::test]
    async fn a_crowd_is_killed_where_forks_cannot_be_forbidden() {
        let root = machine(|_| false);
        let here = Here::of(root.path());
        let few = limits(|limits| limits.pids_max = Some(20));
        let mut run = Run::start(&here, &few, BOMB);
        let outcome = run.finish().await;
        assert_eq!((outcome.exit, outcome.breach), (KILLED, Some(Hit::Pids)));
        assert_eq!(run.confinement.verdict(), (Oom::Unknown, Some(Hit::Pids)));
    }

    /// `setsid` and a cleared environment hide from every other search.
    const HIDE: &str = "env -i setsid sh -c 'sleep 100 & sleep 100' < /dev/null > /dev/null 2>&1 & exit 0";

    #[tokio::test]
    async fn nobody_hides_from_a_group() {
        for root in [machine(|_| true), machine(|mount| !mount.contains(" - cgroup2 "))] {
            let here = Here::of(root.path());
            let some = limits(|limits| limits.memory_max = Some(64 * MIB));
            let mut run = Run::start(&here, &some, HIDE);
            assert_eq!(run.finish().await.exit, Exit::Code(0));
            let Some(reach) = run.confinement.reach() else {
                assert_eq!(run.confinement.tree(), Promise::BestEffort);
                run.kill();
                continue;
            };
            eventually("all of them run", || reach.members().len() == 3).await;
            assert_eq!(reach.kill(), NOBODY);
            assert_eq!(reach.members(), NOBODY);
            assert_eq!(run.confinement.verdict(), (Oom::No, None), "that was no limit");
        }
    }

    #[tokio::test]
    async fn a_fifth_of_a_processor_is_a_fifth_of_the_time() {
        let here = Here::of(Path::new("/"));
        let slow = limits(|limits| limits.cpu_millicores = Some(200));
        if let Err(error) = here.warden.mechanism(&slow) {
            eprintln!("not on this machine: {error}");
            return;
        }
        let spin = "timeout -s KILL 1 sh -c 'while :; do :; done'; cat /proc/self/cgroup";
        let mut run = Run::start(&here, &slow, spin);
        let outcome = run.finish().await;
        assert!(
            outcome.said.contains(&format!("{}/one", here.name)),
            "{}",
            outcome.said
        );
        let most = Duration::from_millis(350);
        assert!(outcome.cpu < most, "{:?} of a second", outcome.cpu);
        let throttled = here.leaves().iter().any(|leaf| {
            let stat = fs::read_to_string(leaf.join("cpu.stat")).unwrap_or_default();
            let times = stat.lines().find_map(|line| line.strip_prefix("nr_throttled "));
            times.is_some_and(|times| times != "0")
        });
        assert!(throttled, "the kernel held it back");
    }

    #[tokio::test]
    async fn a_group_that_cannot_be_entered_is_blamed() {
        let here = Here::of(Path::new("/"));
        let some = limits(|limits| limits.pids_max = Some(10));
        let confinement = here.warden.confine(&some, "one").unwrap();
        if confinement.reach().is_none() {
            eprintln!("this machine has the watchdog only");
            return;
        }
        let environment =
            Base::new(Vec::new()).build(&Environment::Exact(Vec::new()), "m", Surroundings::Pipes);
        let command = Command::Argv(vec!["true".into()]);
        let start = Start::prepare(&command, Path::new("/"), environment.unwrap()).unwrap();
        let start = start.placed(confinement.placement().unwrap());
        for leaf in here.leaves() {
            fs::remove_dir(leaf).unwrap();
        }
        let pipes = Pipes::open(false).unwrap();
        let failure = start
            .spawn(&pipes.child, &Birth::default(), &Prepared::default())
            .unwrap_err();
        assert_eq!(failure.stage, crate::exec::birth::Stage::Placement);
        assert_eq!(failure.errno, libc::ENODEV);
    }

    #[tokio::test]
    async fn what_a_killed_daemon_left_is_gone_after_the_next_start() {
        let here = Here::of(Path::new("/"));
        let some = limits(|limits| limits.pids_max = Some(10));
        let confinement = here.warden.confine(&some, "one").unwrap();
        let killed = leaf::name_of(InstanceId::mint());
        let groups: Vec<PathBuf> = here
            .groups()
            .iter()
            .map(|group| group.with_file_name(&killed))
            .collect();
        for group in &groups {
            fs::create_dir_all(group.join("one")).unwrap();
        }
        let _next = Here::of(Path::new("/"));
        assert!(groups.iter().all(|group| !group.exists()), "{groups:?}");
        if confinement.reach().is_some() {
            assert!(!here.leaves().is_empty(), "a living daemon keeps its own");
        }
    }
}
