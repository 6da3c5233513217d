//! Where limits of single commands can be enforced by control groups, found once at the start, and the choice among
//! the ways for the limits of one command.
//!
//! A controller is in the unified hierarchy, in a hierarchy of its own (version one), or nowhere. In the unified one
//! its groups can be limited when it was passed on to us: the group that the daemon is in hands it down already, or is
//! the root of all, or can be made to, which the kernel allows when nobody is in that group itself. For that the daemon
//! moves into a group of its own, but only itself: where there are others, the hierarchy is used for membership alone.
//!
//! ```text
//!   version two, passed on    <daemon's group>/boxd-1b4e28ba/<id>          limits, membership, kill
//!   ... after moving            <its group>/boxd-1b4e28ba/daemon           the daemon and unlimited commands
//!   ... moved by its manager    <its group>/boxd.daemon                    the same
//!   version one               <daemon's group, or the top>/boxd-1b4e28ba/<id>   in each hierarchy that is needed
//! ```
//!
//! Groups are made when the first command needs one; `leaf` makes and removes them, `leaves` writes the limits of a
//! command. Nothing that others made is ever changed, but for the controllers that our own parent hands down.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::{AccessFlags, eaccess};
use parking_lot::Mutex;

use super::leaf::{self, Group, Leaf, Remains};
use super::limits::{Limits, Mechanism};
use crate::cgroups::{Place, Table, Version};
use crate::error::Error;
use crate::ids::InstanceId;

/// What limits something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Controller {
    Memory,
    Cpu,
    Pids,
}

impl Controller {
    const ALL: [Self; 3] = [Self::Memory, Self::Cpu, Self::Pids];

    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
        }
    }
}

/// The group of the daemon itself, once it had to move.
const DAEMON: &str = "daemon";

/// The group that a service manager puts the daemon into, inside of the one that it delegates.
pub const SUBGROUP: &str = "boxd.daemon";

/// Where groups can be made.
#[derive(Debug, Default)]
pub(super) struct Cgroups {
    /// The unified hierarchy, for membership.
    pub(super) unified: Option<Arc<Site>>,
    controllers: Vec<(Controller, Arc<Site>)>,
    /// Members of a tree can be counted without a group.
    watchable: bool,
    pub(super) remains: Arc<Remains>,
}

/// A group in which the daemon can have a group of its own.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) version: Version,
    parent: PathBuf,
    name: String,
    /// Controllers that leaves of the unified hierarchy have.
    passed_on: Vec<Controller>,
    /// Made when it is needed.
    group: Mutex<Option<Arc<Group>>>,
}

impl Cgroups {
    /// Looks around in the machine whose root directory is `root`, and removes what killed daemons have left. May move
    /// this process into a group of its own.
    pub(super) fn discover(root: &Path, instance: InstanceId) -> Self {
        let table = Table::read(root);
        let name = leaf::name_of(instance);
        let unified = table.unified().and_then(|place| Site::unified(&place, &name));
        let unified = unified.map(Arc::new);
        let mut sites: Vec<Arc<Site>> = unified.iter().cloned().collect();
        let mut controllers = Vec::new();
        for controller in Controller::ALL {
            let passed_on = unified
                .as_ref()
                .filter(|site| site.passed_on.contains(&controller));
            let site = passed_on.cloned().or_else(|| {
                let places = table.places(controller.name());
                let of_its_own = places.into_iter().find(|place| place.version == Version::One)?;
                let site = Site::of_version_one(&of_its_own, &name)?;
                // Several controllers can share a hierarchy.
                let known = sites.iter().find(|known| known.parent == site.parent).cloned();
                known.or_else(|| {
                    sites.push(Arc::new(site));
                    sites.last().cloned()
                })
            });
            controllers.extend(site.map(|site| (controller, site)));
        }
        let cgroups = Self {
            unified,
            controllers,
            watchable: root.join("proc/self/stat").exists(),
            remains: Arc::default(),
        };
        cgroups.sweep();
        cgroups
    }

    /// Removes what killed daemons have left and nobody is in (any more), and our own leaves that could not be removed
    /// before.
    pub(super) fn sweep(&self) {
        self.remains.tidy();
        for site in self.sites() {
            leaf::sweep(&site.parent);
        }
    }

    /// Removes every group of this daemon that nobody is in. The next command with limits makes them again.
    pub(super) fn close(&self) {
        self.remains.tidy();
        for site in self.sites() {
            site.group.lock().take();
        }
    }

    fn sites(&self) -> impl Iterator<Item = &Arc<Site>> {
        let controllers = self.controllers.iter().map(|(_, site)| site);
        self.unified.iter().chain(controllers)
    }

    /// Where `controller` can limit a command.
    pub(super) fn site(&self, controller: Controller) -> Option<&Arc<Site>> {
        let found = self.controllers.iter().find(|(known, _)| *known == controller);
        found.map(|(_, site)| site)
    }

    /// What would enforce these limits here: `None` when none of them needs anything. What cannot be enforced is an
    /// error, never silence.
    pub(super) fn mechanism(&self, limits: &Limits) -> Result<Option<Mechanism>, Error> {
        let wanted = [
            (
                "memory_max",
                Controller::Memory,
                limits.memory_max,
                self.watchable,
            ),
            ("memory_high", Controller::Memory, limits.memory_high, false),
            ("cpu_millicores", Controller::Cpu, limits.cpu_millicores, false),
            ("pids_max", Controller::Pids, limits.pids_max, self.watchable),
        ];
        let wanted = wanted.into_iter().filter(|(_, _, limit, _)| limit.is_some());
        let mechanisms = wanted.map(|(field, controller, _, watchable)| {
            match self.site(controller).map(|site| site.version) {
                Some(Version::Two) => Ok(Mechanism::CgroupV2),
                Some(Version::One) => Ok(Mechanism::CgroupV1),
                None if watchable => Ok(Mechanism::Watchdog),
                None => Err(Error::Unsupported {
                    what: format!("the limit {field}"),
                    why: format!("there is no control group with {} to make one in", controller.name()),
                    fix: Some(
                        "delegate control groups to the daemon, as by Delegate=yes of systemd, or start it as root where \
                         /sys/fs/cgroup can be written to"
                            .into(),
                    ),
                }),
            }
        });
        // The least exact one.
        mechanisms
            .collect::<Result<Vec<_>, _>>()
            .map(|all| all.into_iter().max())
    }
}

impl Site {
    /// Where leaves of the unified hierarchy can be made, and what can limit them.
    fn unified(place: &Place, name: &str) -> Option<Self> {
        let parent = home(&place.directory);
        let domain = fs::read_to_string(parent.join("cgroup.type"));
        if !place.writable
            || !place.visible
            || !may_write(parent)
            || eaccess(&parent.join("cgroup.procs"), AccessFlags::W_OK).is_err()
            // A group of threads has no leaves with members of their own.
            || domain.is_ok_and(|kind| kind.trim() != "domain")
        {
            return None;
        }
        let listed = |file: &str| {
            let text = fs::read_to_string(parent.join(file)).unwrap_or_default();
            let names: Vec<&str> = text.split_ascii_whitespace().collect();
            let ours = Controller::ALL.into_iter();
            ours.filter(|controller| names.contains(&controller.name()))
                .collect::<Vec<_>>()
        };
        let mut site = Self {
            version: Version::Two,
            parent: parent.to_owned(),
            name: name.to_owned(),
            passed_on: listed("cgroup.subtree_control"),
            group: Mutex::default(),
        };
        let mut missing = listed("cgroup.controllers");
        missing.retain(|controller| !site.passed_on.contains(controller));
        if !missing.is_empty() {
            let is_outside = parent != place.directory;
            site.have_passed_on(&missing, is_outside);
        }
        Some(site)
    }

    /// Has the parent hand down more controllers, where nobody but this process is in the way; `is_outside` says that it
    /// is in a group of its own already.
    fn have_passed_on(&mut self, missing: &[Controller], is_outside: bool) {
        let root_of_all = !self.parent.join("cgroup.events").exists();
        if !root_of_all && !is_outside && !self.step_aside().unwrap_or(false) {
            return;
        }
        for controller in missing {
            if pass_on(&self.parent, *controller).is_ok() {
                self.passed_on.push(*controller);
            }
        }
        let Some(group) = self.group.get_mut() else { return };
        if self.passed_on.is_empty() || prepare(group, &self.passed_on, self.version).is_err() {
            // For nothing.
            self.passed_on.clear();
            self.step_back();
        }
    }

    /// Moves this process out of the parent, when nobody else is in there; says whether nobody is now.
    fn step_aside(&mut self) -> io::Result<bool> {
        let members = fs::read_to_string(self.parent.join("cgroup.procs"))?;
        let own = std::process::id().to_string();
        // Not even for the sake of an empty one does it go elsewhere.
        if members.is_empty() || members.split_ascii_whitespace().any(|pid| pid != own) {
            return Ok(false);
        }
        let group = Group::make(&self.parent, &self.name)?;
        let ours = group.directory().join(DAEMON);
        fs::create_dir(&ours)?;
        fs::write(ours.join("cgroup.procs"), "0")?;
        *self.group.get_mut() = Some(Arc::new(group));
        Ok(true)
    }

    fn step_back(&mut self) {
        // Where that fails, it stays where it is: nobody minds.
        let _ = fs::write(self.parent.join("cgroup.procs"), "0");
        self.group.get_mut().take();
    }

    /// Where leaves of a hierarchy of version one can be made: in the daemon's group, else at the top.
    fn of_version_one(place: &Place, name: &str) -> Option<Self> {
        let candidates = [&place.directory, &place.top];
        let parent = candidates.into_iter().find(|parent| may_write(parent));
        let parent = parent.filter(|_| place.writable)?;
        Some(Self {
            version: Version::One,
            parent: parent.clone(),
            name: name.to_owned(),
            passed_on: Vec::new(),
            group: Mutex::default(),
        })
    }

    /// Makes a leaf, and the daemon's group around it when it is the first one.
    pub(super) fn leaf(&self, name: &str, remains: &Arc<Remains>) -> io::Result<Leaf> {
        let make = || {
            let leaf = Leaf::make(&*self.group()?, name, remains)?;
            inherit_processors(leaf.directory(), self.version);
            Ok(leaf)
        };
        match make() {
            // Somebody has removed the daemon's group: it was empty.
            Err(error) if is_gone(&error) => {
                self.group.lock().take();
                make()
            }
            made => made,
        }
    }

    fn group(&self) -> io::Result<Arc<Group>> {
        let mut group = self.group.lock();
        if let Some(made) = group.as_ref() {
            return Ok(Arc::clone(made));
        }
        let made = Group::make(&self.parent, &self.name)?;
        prepare(&made, &self.passed_on, self.version)?;
        Ok(Arc::clone(group.insert(Arc::new(made))))
    }
}

/// Makes the daemon's group hand on what it has.
fn prepare(group: &Group, passed_on: &[Controller], version: Version) -> io::Result<()> {
    inherit_processors(group.directory(), version);
    let mut passed_on = passed_on.iter();
    passed_on.try_for_each(|controller| pass_on(group.directory(), *controller))
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

fn pass_on(group: &Path, controller: Controller) -> io::Result<()> {
    fs::write(
        group.join("cgroup.subtree_control"),
        format!("+{}", controller.name()),
    )
}

/// The group to make groups in: not the one that the daemon has moved into, under this instance or the one before it, or
/// that its manager has put it into.
fn home(directory: &Path) -> &Path {
    let outside = || {
        let group = directory.parent()?;
        if directory.file_name()? == SUBGROUP {
            return Some(group);
        }
        let moved = directory.file_name()? == DAEMON && leaf::is_ours(group.file_name()?.to_str()?);
        group.parent().filter(|_| moved)
    };
    outside().unwrap_or(directory)
}

fn may_write(group: &Path) -> bool {
    eaccess(group, AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
}

/// Where processors are handed out in the same hierarchy, nobody can be in a group that was given none.
fn inherit_processors(group: &Path, version: Version) {
    if version == Version::Two {
        return;
    }
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let given = fs::read_to_string(group.join(file));
        if given.is_ok_and(|given| given.trim().is_empty()) {
            let parent = group.parent().map(|parent| fs::read_to_string(parent.join(file)));
            if let Some(Ok(parent)) = parent {
                // Whoever is placed there is told when it failed.
                let _ = fs::write(group.join(file), parent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::exec::leaves::Leaves;

    const EVERYTHING: Limits = Limits {
        memory_max: Some(1 << 26),
        memory_high: Some(1 << 25),
        cpu_millicores: Some(500),
        pids_max: Some(20),
        nofile: None,
        output_max: None,
    };
    const MEMORY: Limits = Limits {
        memory_max: Some(1),
        memory_high: None,
        cpu_millicores: None,
        pids_max: None,
        nofile: None,
        output_max: None,
    };
    const UNIFIED: &str = "29 23 0:26 / /cg rw - cgroup2 cgroup2 rw\n";

    /// A machine's root directory with only the named files in it.
    struct Machine(tempfile::TempDir);

    impl Machine {
        fn with(memberships: &str, mounts: &str, files: &[(&str, &str)]) -> Self {
            let machine = Self(tempfile::tempdir().unwrap());
            machine.write("proc/self/cgroup", memberships);
            machine.write("proc/self/mountinfo", mounts);
            machine.write("proc/self/stat", "");
            for (name, text) in files {
                machine.write(name, text);
            }
            machine
        }

        /// With the daemon in `/box` of a unified hierarchy that has all controllers, beside whom `procs` says.
        fn unified(procs: &str, passed_on: &str) -> Self {
            let files = [
                ("cg/box/cgroup.controllers", "cpuset cpu io memory pids\n"),
                ("cg/box/cgroup.subtree_control", passed_on),
                ("cg/box/cgroup.procs", procs),
                ("cg/box/cgroup.type", "domain\n"),
                ("cg/box/cgroup.events", "populated 1\n"),
            ];
            Self::with("0::/box\n", UNIFIED, &files)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn read(&self, name: &str) -> String {
            fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
        }

        fn discover(&self) -> (Cgroups, String) {
            let instance = InstanceId::mint();
            let cgroups = Cgroups::discover(self.0.path(), instance);
            (cgroups, leaf::name_of(instance))
        }

        /// The groups of daemons, wherever they are.
        fn groups(&self) -> BTreeSet<PathBuf> {
            let mut pending = vec![self.0.path().to_owned()];
            let mut found = BTreeSet::new();
            while let Some(directory) = pending.pop() {
                for entry in fs::read_dir(directory).unwrap().flatten() {
                    if entry.file_type().unwrap().is_dir() {
                        pending.push(entry.path());
                    }
                    if leaf::is_ours(entry.file_name().to_str().unwrap()) {
                        found.insert(entry.path());
                    }
                }
            }
            found
        }
    }

    fn refused(cgroups: &Cgroups, limits: Limits) -> String {
        let error = cgroups.mechanism(&limits).unwrap_err();
        assert_eq!(error.code(), crate::error::Code::Unsupported);
        assert!(error.hint().is_some_and(|hint| hint.contains("delegate")));
        error.to_string()
    }

    #[test]
    fn a_unified_hierarchy_that_was_delegated_does_it_all() {
        let machine = Machine::unified("7\n", "cpu memory pids\n");
        let (cgroups, name) = machine.discover();
        assert_eq!(cgroups.mechanism(&EVERYTHING).unwrap(), Some(Mechanism::CgroupV2));
        assert!(machine.groups().is_empty(), "none is made before it is needed");
        let leaves = Leaves::make(&cgroups, &EVERYTHING, "one").unwrap();
        let set = |file: &str| machine.read(&format!("cg/box/{name}/one/{file}"));
        assert_eq!(set("memory.max"), "67108864");
        assert_eq!(set("memory.high"), "33554432");
        assert_eq!(set("memory.swap.max"), "0");
        assert_eq!(set("memory.oom.group"), "1");
        assert_eq!(set("cpu.max"), "50000 100000");
        assert_eq!(set("pids.max"), "20");
        assert!(
            machine
                .path(&format!("cg/box/{name}/cgroup.subtree_control"))
                .exists()
        );
        assert_eq!(
            machine.read("cg/box/cgroup.subtree_control"),
            "cpu memory pids\n",
            "as it was"
        );
        drop(leaves);
        let slow = Limits {
            cpu_millicores: Some(1),
            ..Limits::default()
        };
        let _leaves = Leaves::make(&cgroups, &slow, "two").unwrap();
        assert_eq!(
            machine.read(&format!("cg/box/{name}/two/cpu.max")),
            "1000 1000000"
        );
        assert!(!machine.path(&format!("cg/box/{name}/two/memory.max")).exists());
    }

    #[test]
    fn a_daemon_that_is_alone_steps_aside_and_one_that_is_not_moves_nobody() {
        let alone = Machine::unified(&format!("{}\n", std::process::id()), "");
        let (cgroups, name) = alone.discover();
        let handed_on = format!("cg/box/{name}/cgroup.subtree_control");
        assert!(alone.read(&handed_on).starts_with('+'));
        assert_eq!(cgroups.mechanism(&EVERYTHING).unwrap(), Some(Mechanism::CgroupV2));
        assert_eq!(alone.read(&format!("cg/box/{name}/daemon/cgroup.procs")), "0");
        assert!(alone.read("cg/box/cgroup.subtree_control").starts_with('+'));

        let crowded = Machine::unified(&format!("{}\n7\n", std::process::id()), "");
        let (cgroups, _) = crowded.discover();
        assert_eq!(cgroups.mechanism(&MEMORY).unwrap(), Some(Mechanism::Watchdog));
        assert!(cgroups.unified.is_some(), "members can be gathered all the same");
        assert!(refused(&cgroups, EVERYTHING).contains("memory_high"));
        assert_eq!(crowded.read("cg/box/cgroup.subtree_control"), "");
        assert!(crowded.groups().is_empty());
    }

    #[test]
    fn a_manager_that_put_the_daemon_into_a_subgroup_left_the_group_to_it() {
        let machine = Machine::unified("", "");
        machine.write("proc/self/cgroup", "0::/box/boxd.daemon\n");
        machine.write(
            "cg/box/boxd.daemon/cgroup.procs",
            &format!("{}\n", std::process::id()),
        );
        let (cgroups, name) = machine.discover();
        assert_eq!(cgroups.mechanism(&EVERYTHING).unwrap(), Some(Mechanism::CgroupV2));
        assert!(machine.read("cg/box/cgroup.subtree_control").starts_with('+'));
        assert!(machine.groups().is_empty(), "nobody moves");
        let _leaves = Leaves::make(&cgroups, &EVERYTHING, "one").unwrap();
        assert_eq!(machine.read(&format!("cg/box/{name}/one/pids.max")), "20");
    }

    #[test]
    fn the_root_of_all_needs_nobody_to_move() {
        let files = [
            ("cg/cgroup.controllers", "memory\n"),
            ("cg/cgroup.procs", "1\n2\n"),
        ];
        let machine = Machine::with("0::/\n", UNIFIED, &files);
        let (cgroups, _) = machine.discover();
        assert_eq!(cgroups.mechanism(&MEMORY).unwrap(), Some(Mechanism::CgroupV2));
        assert_eq!(machine.read("cg/cgroup.subtree_control"), "+memory");
        assert!(machine.groups().is_empty());
    }

    #[test]
    fn a_daemon_that_was_moved_before_stays_beside_its_groups() {
        assert_eq!(
            home(Path::new("/cg/box/boxd-1b4e28ba/daemon")),
            Path::new("/cg/box")
        );
        assert_eq!(home(Path::new("/cg/box/boxd.daemon")), Path::new("/cg/box"));
        for other in ["/cg/box/daemon", "/cg/boxd-1b4e28ba", "/cg/boxd-1b4e28ba/7", "/"] {
            assert_eq!(home(Path::new(other)), Path::new(other));
        }
    }

    #[test]
    fn what_cannot_be_written_to_is_not_used() {
        let read_only = "29 23 0:26 / /cg ro - cgroup2 cgroup2 rw\n\
                         35 31 0:32 / /v1/memory ro - cgroup cgroup rw,memory\n";
        let files = [
            ("cg/cgroup.procs", ""),
            ("cg/cgroup.controllers", "memory\n"),
            ("v1/memory/cgroup.procs", ""),
        ];
        let machine = Machine::with("4:memory:/\n0::/\n", read_only, &files);
        let (cgroups, _) = machine.discover();
        assert!(cgroups.unified.is_none());
        assert_eq!(cgroups.mechanism(&MEMORY).unwrap(), Some(Mechanism::Watchdog));

        let threads = Machine::unified("", "cpu memory pids\n");
        threads.write("cg/box/cgroup.type", "domain threaded\n");
        assert!(threads.discover().0.unified.is_none());
    }

    #[test]
    fn nothing_at_all_refuses_what_nobody_can_enforce() {
        let machine = Machine::with("", "", &[]);
        let (cgroups, _) = machine.discover();
        assert_eq!(cgroups.mechanism(&MEMORY).unwrap(), Some(Mechanism::Watchdog));
        let of_each_process = Limits {
            nofile: Some(10),
            output_max: Some(10),
            ..Limits::default()
        };
        assert_eq!(cgroups.mechanism(&of_each_process).unwrap(), None);
        for (name, limits) in [
            (
                "memory_high",
                Limits {
                    memory_high: Some(1),
                    ..Limits::default()
                },
            ),
            (
                "cpu_millicores",
                Limits {
                    cpu_millicores: Some(1),
                    ..Limits::default()
                },
            ),
        ] {
            assert!(refused(&cgroups, limits).contains(name));
        }
        fs::remove_file(machine.path("proc/self/stat")).unwrap();
        assert!(refused(&machine.discover().0, MEMORY).contains("memory_max"));
    }

    fn hybrid() -> Machine {
        let mounts = "32 31 0:29 / /v1/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                      35 31 0:32 / /v1/memory rw - cgroup cgroup rw,memory\n\
                      39 31 0:36 / /v1/pids rw - cgroup cgroup rw,pids\n\
                      41 31 0:38 / /cg rw - cgroup2 cgroup2 rw\n";
        let files = [
            ("v1/cpu/tasks", ""),
            ("v1/memory/api/box/tasks", ""),
            ("v1/pids/tasks", ""),
            ("cg/cgroup.controllers", "hugetlb\n"),
            ("cg/cgroup.procs", ""),
        ];
        // The group for pids cannot be seen from here.
        let memberships = "8:pids:/elsewhere\n4:memory:/api/box\n2:cpu,cpuacct:/\n0::/\n";
        Machine::with(memberships, mounts, &files)
    }

    #[test]
    fn a_hybrid_host_limits_in_each_hierarchy_and_gathers_in_the_unified_one() {
        let machine = hybrid();
        let (cgroups, name) = machine.discover();
        assert_eq!(cgroups.mechanism(&EVERYTHING).unwrap(), Some(Mechanism::CgroupV1));
        let leaves = Leaves::make(&cgroups, &EVERYTHING, "one").unwrap();
        let set = |group: &str, file: &str| machine.read(&format!("{group}/{name}/one/{file}"));
        assert_eq!(set("v1/memory/api/box", "memory.limit_in_bytes"), "67108864");
        assert_eq!(
            set("v1/memory/api/box", "memory.memsw.limit_in_bytes"),
            "67108864"
        );
        assert_eq!(set("v1/memory/api/box", "memory.soft_limit_in_bytes"), "33554432");
        assert_eq!(set("v1/cpu", "cpu.cfs_period_us"), "100000");
        assert_eq!(set("v1/cpu", "cpu.cfs_quota_us"), "50000");
        assert_eq!(set("v1/pids", "pids.max"), "20", "at the top of what can be seen");
        assert!(machine.path(&format!("cg/{name}/one")).exists());
        assert!(machine.read("cg/cgroup.procs").is_empty(), "nobody was moved");
        assert_eq!(
            leaves.oom(),
            crate::exec::spec::Oom::Unknown,
            "there is no kernel behind it"
        );
        assert_eq!(machine.groups().len(), 4);
    }

    #[test]
    fn an_error_half_way_leaves_nothing_that_is_not_swept() {
        let machine = hybrid();
        let (cgroups, name) = machine.discover();
        // No room for one of the files.
        let in_the_way = machine.path(&format!("v1/pids/{name}/one/pids.max/x"));
        fs::create_dir_all(in_the_way).unwrap();
        let error = Leaves::make(&cgroups, &EVERYTHING, "one").unwrap_err();
        assert!(error.to_string().contains("control group"), "{error}");
        fs::remove_dir_all(machine.path(&format!("v1/pids/{name}"))).unwrap();
        drop(cgroups);
        assert_eq!(machine.groups(), BTreeSet::new());
    }

    #[test]
    fn groups_that_somebody_removed_are_made_again() {
        let machine = Machine::unified("7\n", "cpu memory pids\n");
        let (cgroups, name) = machine.discover();
        for _ in 0..2 {
            let leaf = cgroups
                .unified
                .as_ref()
                .unwrap()
                .leaf("one", &cgroups.remains)
                .unwrap();
            assert!(leaf.directory().exists());
            drop(leaf);
            fs::remove_dir_all(machine.path(&format!("cg/box/{name}"))).unwrap();
        }
    }

    #[test]
    fn processors_are_handed_down_where_a_group_would_have_none() {
        let machine = Machine::with(
            "",
            "",
            &[
                ("g/cpuset.cpus", "0-1\n"),
                ("g/cpuset.mems", "0\n"),
                ("g/leaf/cpuset.cpus", "\n"),
                ("g/leaf/cpuset.mems", "1\n"),
            ],
        );
        inherit_processors(&machine.path("g/leaf"), Version::One);
        assert_eq!(machine.read("g/leaf/cpuset.cpus"), "0-1\n");
        assert_eq!(machine.read("g/leaf/cpuset.mems"), "1\n");
    }
}
