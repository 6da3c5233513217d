//! A file system that hangs, seen by one daemon only: FUSE whose server, this test, answers for its root directory and
//! then says nothing, until it is told where all its names lead. One file in it can be opened; then it hangs.
//!
//! It cannot outlive the test: when the test goes away, however it does, the kernel ends the connection with its
//! descriptor, and every request that hangs in it fails.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Daemon, eventually, require};

/// The mounted file system. To be declared after its daemon, so that it lets go of it first.
pub(crate) struct HungFileSystem {
    path: PathBuf,
    looked_up: Arc<AtomicUsize>,
    read: Arc<AtomicUsize>,
    flushed: Arc<AtomicUsize>,
    target: Arc<OnceLock<String>>,
    over: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl HungFileSystem {
    /// The name of the file that can be opened.
    pub(crate) const FILE: &str = "opens";

    /// Mounts it as `hung` in the workspace of a daemon that has mounts of its own.
    #[track_caller]
    pub(crate) fn mount(daemon: &Daemon) -> Self {
        let path = daemon.workspace().join("hung");
        std::fs::create_dir(&path).unwrap();
        let device = File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .expect("this test needs /dev/fuse");
        let (looked_up, over) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (read, flushed) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let target = Arc::<OnceLock<String>>::default();
        let server = Server {
            device: device.try_clone().unwrap(),
            hanging: Vec::new(),
            looked_up: Arc::clone(&looked_up),
            read: Arc::clone(&read),
            flushed: Arc::clone(&flushed),
            target: Arc::clone(&target),
            over: Arc::clone(&over),
        };
        let mounted = Self {
            server: Some(std::thread::spawn(move || server.serve())),
            path,
            looked_up,
            read,
            flushed,
            target,
            over,
        };
        mount(daemon.pid(), device, &mounted.path);
        mounted
    }

    /// A path in it; whoever looks it up hangs.
    pub(crate) fn path(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    /// Hangs no longer: every name is a symbolic link to `target`.
    pub(crate) fn recover(&self, target: &Path) {
        self.target.set(target.display().to_string()).unwrap();
    }

    /// Waits until the file was read from this many times.
    #[track_caller]
    pub(crate) fn wait_for_reads(&self, count: usize) {
        eventually("hanging reads", Duration::from_secs(20), || {
            (self.read.load(Ordering::Relaxed) >= count).then_some(())
        });
    }

    /// How often a descriptor of the file was closed.
    pub(crate) fn flushes(&self) -> usize {
        self.flushed.load(Ordering::Relaxed)
    }

    /// Waits until this many names were looked up since the start.
    #[track_caller]
    pub(crate) fn wait_for_lookups(&self, count: usize) {
        eventually("hanging look-ups", Duration::from_secs(20), || {
            (self.looked_up.load(Ordering::Relaxed) >= count).then_some(())
        });
    }
}

impl Drop for HungFileSystem {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

/// Mounts by a program that is run with the mounts of `pid`: the device is its standard input.
#[track_caller]
fn mount(pid: i32, device: File, path: &Path) {
    let status = Command::new(require("nsenter"))
        .args(["--mount", "--target"])
        .arg(pid.to_string())
        .args(["mount", "-i", "-t", "fuse.hung", "-o"])
        .arg("fd=0,rootmode=40000,user_id=0,group_id=0,allow_other")
        .arg("hung")
        .arg(path)
        .stdin(Stdio::from(device))
        .status()
        .unwrap();
    assert!(status.success(), "mount: {status}");
}

/// The other side of the device.
struct Server {
    device: File,
    /// Ids of look-ups without an answer.
    hanging: Vec<u64>,
    looked_up: Arc<AtomicUsize>,
    read: Arc<AtomicUsize>,
    flushed: Arc<AtomicUsize>,
    target: Arc<OnceLock<String>>,
    over: Arc<AtomicBool>,
}

impl Server {
    const LOOKUP: u32 = 1;
    const GETATTR: u32 = 3;
    const READLINK: u32 = 5;
    const OPEN: u32 = 14;
    const READ: u32 = 15;
    const FLUSH: u32 = 25;
    const INIT: u32 = 26;

    fn serve(mut self) {
        let mut request = vec![0; 1 << 20];
        while !self.over.load(Ordering::Relaxed) {
            if let Some(target) = self.target.clone().get() {
                for id in std::mem::take(&mut self.hanging) {
                    self.reply(id, &link_entry(target));
                }
            }
            // The time limit is for noticing that it is over. Before the mount the device tells an error.
            let mut events = [PollFd::new(self.device.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut events, PollTimeout::from(20_u8)).unwrap_or(0) > 0;
            let readable = events[0]
                .revents()
                .is_some_and(|events| events.contains(PollFlags::POLLIN));
            if !ready || !readable {
                continue;
            }
            let Ok(length) = self.device.read(&mut request) else {
                continue;
            };
            self.answer(&request[..length]);
        }
    }

    /// `struct fuse_in_header` begins with length, opcode (u32 each) and a unique id (u64).
    fn answer(&mut self, request: &[u8]) {
        let opcode = u32::from_ne_bytes(request[4..8].try_into().unwrap());
        let id = u64::from_ne_bytes(request[8..16].try_into().unwrap());
        match opcode {
            Self::INIT => self.reply(id, &init()),
            Self::GETATTR => self.reply(id, &root_attributes()),
            // The name stands behind the header of 40 bytes, with a NUL at its end.
            Self::LOOKUP if request[40..].starts_with(HungFileSystem::FILE.as_bytes()) => {
                self.reply(id, &file_entry());
            }
            // A handle and its flags.
            Self::OPEN => self.reply(id, &words(&[1, 0, 0, 0])),
            Self::READ => drop(self.read.fetch_add(1, Ordering::Relaxed)),
            Self::FLUSH => drop(self.flushed.fetch_add(1, Ordering::Relaxed)),
            Self::LOOKUP => {
                self.looked_up.fetch_add(1, Ordering::Relaxed);
                self.hanging.push(id);
            }
            Self::READLINK => {
                let target = self.target.clone();
                self.reply(id, target.get().expect("a link that was told of").as_bytes());
            }
            _ => {}
        }
    }

    fn reply(&mut self, id: u64, body: &[u8]) {
        let mut reply = words(&[16 + body.len() as u32, 0]);
        reply.extend_from_slice(&id.to_ne_bytes());
        reply.extend_from_slice(body);
        // Who asked may have been killed meanwhile.
        let _ = self.device.write_all(&reply);
    }
}

/// `struct fuse_init_out` of protocol 7.31, with look-ups in one directory side by side.
fn init() -> Vec<u8> {
    const PARALLEL_DIROPS: u32 = 1 << 18;
    let mut body = words(&[7, 31, 65_536, PARALLEL_DIROPS]);
    // As many in the background as there may be, then the largest write.
    body.extend_from_slice(&words(&[0, 65_536]));
    body.resize(64, 0);
    body
}

/// How long an answer is valid, a u64.
const VALID_SECONDS: [u32; 2] = [1000, 0];

/// `struct fuse_attr_out` of a directory that everybody may enter.
fn root_attributes() -> Vec<u8> {
    let mut body = words(&VALID_SECONDS);
    body.extend_from_slice(&words(&[0, 0]));
    body.extend_from_slice(&attributes(1, 0, 0o40_755));
    body
}

/// Of a symbolic link.
fn link_entry(target: &str) -> Vec<u8> {
    entry(2, target.len() as u32, 0o120_777)
}

/// Of a file with something to read.
fn file_entry() -> Vec<u8> {
    entry(3, 1_000_000, 0o100_644)
}

/// `struct fuse_entry_out`.
fn entry(inode: u32, size: u32, mode: u32) -> Vec<u8> {
    // The inode, its generation, and for how long the name and its attributes are valid.
    let mut body = words(&[inode, 0, 0, 0]);
    body.extend_from_slice(&words(&VALID_SECONDS));
    body.extend_from_slice(&words(&VALID_SECONDS));
    body.extend_from_slice(&words(&[0, 0]));
    body.extend_from_slice(&attributes(inode, size, mode));
    body
}

/// `struct fuse_attr`.
fn attributes(inode: u32, size: u32, mode: u32) -> Vec<u8> {
    let mut body = words(&[inode, 0, size, 0]);
    // Blocks and three times.
    body.resize(body.len() + 32, 0);
    // Three nanoseconds, mode, links, owner, group, device, block size, padding.
    body.extend_from_slice(&words(&[0, 0, 0, mode, 1, 0, 0, 0, 4096, 0]));
    body
}

/// Little-endian machines only, where a u64 is its lower half and then its upper half.
fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
