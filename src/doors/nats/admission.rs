//! Whether the machine can take one more operation, and whose turn it is when it cannot.
//!
//! There is no fixed number of operations. An operation is let in while descriptors, processes and memory last; else
//! it waits, origins taking turns, and is refused when it waited too long or when what waits already is too much to
//! keep in memory. What needs no process does not wait behind what does: files can be read where nothing can be
//! started. Pings and operation control never come here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

use super::error::Breaker;
use super::fair::FairQueue;
use crate::error::Error;
use crate::host::{Capacity, Host};
use crate::lifecycle::Tasks;

/// How long a capacity reading is used; what was let in since is subtracted from it.
const READING_AGE: Duration = Duration::from_millis(50);
/// Longest wait for room.
const WAIT_LIMIT: Duration = Duration::from_secs(10);
/// Descriptors that stay free for connections, logs and health.
const RESERVED_DESCRIPTORS: u64 = 48;
/// Processes that stay free for the machine's owner.
const RESERVED_PROCESSES: u64 = 16;
/// Memory that stays free, bytes.
const RESERVED_MEMORY: u64 = 16 << 20;
/// Requests may wait in up to this part of the available memory.
const WAITING_PART: u64 = 8;

/// What an operation takes from the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    /// No child process: files, metrics.
    Light,
    /// A child process and its pipes.
    Heavy,
}

impl Weight {
    const ALL: [Self; 2] = [Self::Light, Self::Heavy];
}

/// What one operation is expected to need until the next reading shows what it took.
#[derive(Debug, Clone, Copy)]
struct Need {
    descriptors: u64,
    processes: u64,
    memory: u64,
}

impl Need {
    fn of(weight: Weight, request_bytes: usize) -> Self {
        let bytes = request_bytes as u64;
        match weight {
            Weight::Light => Self {
                descriptors: 2,
                processes: 0,
                memory: bytes + (64 << 10),
            },
            Weight::Heavy => Self {
                descriptors: 8,
                processes: 1,
                memory: bytes + (1 << 20),
            },
        }
    }

    /// Takes this from `capacity`, or names what is short.
    fn take(self, capacity: &mut Capacity) -> Result<(), &'static str> {
        let rest = |what: &'static str, have: u64, need: u64, reserved: u64| {
            let rest = have
                .checked_sub(need)
                .filter(|rest| need == 0 || *rest >= reserved);
            rest.ok_or(what)
        };
        let left = Capacity {
            fd_headroom: rest(
                "file descriptors",
                capacity.fd_headroom,
                self.descriptors,
                RESERVED_DESCRIPTORS,
            )?,
            pid_headroom: rest(
                "processes",
                capacity.pid_headroom,
                self.processes,
                RESERVED_PROCESSES,
            )?,
            mem_available: rest("memory", capacity.mem_available, self.memory, RESERVED_MEMORY)?,
            ..*capacity
        };
        *capacity = left;
        Ok(())
    }
}

/// Counts for heartbeats.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) light_running: u64,
    pub(super) light_queued: u64,
    pub(super) heavy_running: u64,
    pub(super) heavy_queued: u64,
}

struct Waiting {
    bytes: usize,
    admitted: oneshot::Sender<Permit>,
}

struct State {
    capacity: Capacity,
    read: Instant,
    counts: Counts,
    /// One for each weight, as [`Weight`] orders them.
    queues: [FairQueue<Waiting>; 2],
    waiting_bytes: u64,
    pumping: bool,
}

/// The gate in front of all operations of all links.
pub(super) struct Admission {
    host: Arc<Host>,
    tasks: Tasks,
    state: Mutex<State>,
}

/// One admitted operation; dropping it makes room.
pub(super) struct Permit {
    admission: Arc<Admission>,
    weight: Weight,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.admission.state.lock();
        match self.weight {
            Weight::Light => state.counts.light_running -= 1,
            Weight::Heavy => state.counts.heavy_running -= 1,
        }
    }
}

impl Admission {
    /// A gate that reads `host`.
    pub(super) fn new(host: Arc<Host>, tasks: Tasks) -> Arc<Self> {
        let state = State {
            capacity: host.capacity(),
            read: Instant::now(),
            counts: Counts::default(),
            queues: Default::default(),
            waiting_bytes: 0,
            pumping: false,
        };
        Arc::new(Self {
            host,
            tasks,
            state: Mutex::new(state),
        })
    }

    /// What runs and waits now.
    pub(super) fn counts(&self) -> Counts {
        self.state.lock().counts
    }

    /// Lets an operation of `origin` in, at once or when its turn comes. The error says what is short, the breaker
    /// whether it was refused at the door or after waiting. A caller that is gone gives its place up.
    pub(super) async fn admit(
        self: &Arc<Self>,
        origin: &Arc<str>,
        weight: Weight,
        request_bytes: usize,
    ) -> Result<Permit, (Error, Breaker)> {
        let waiting = match self.try_admit(origin, weight, request_bytes)? {
            Admitted::Now(permit) => return Ok(permit),
            Admitted::Later(waiting) => waiting,
        };
        match tokio::time::timeout(WAIT_LIMIT, waiting).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err((self.short(weight, request_bytes), Breaker::Wait)),
        }
    }

    fn try_admit(
        self: &Arc<Self>,
        origin: &Arc<str>,
        weight: Weight,
        bytes: usize,
    ) -> Result<Admitted, (Error, Breaker)> {
        let mut state = self.state.lock();
        if state.queue(weight).is_empty() && self.take(&mut state, weight, bytes).is_ok() {
            return Ok(Admitted::Now(self.permit(&mut state, weight)));
        }
        let limit = state.capacity.mem_available / WAITING_PART;
        let size = waiting_size(bytes);
        if state.waiting_bytes + size > limit {
            let reason = format!(
                "requests of {} bytes are waiting, {limit} may",
                state.waiting_bytes
            );
            return Err((
                Error::Overloaded {
                    what: "the queue of operations",
                    reason,
                },
                Breaker::Queue,
            ));
        }
        let (admitted, waiting) = oneshot::channel();
        state.waiting_bytes += size;
        *state.counts.queued(weight) += 1;
        let next = Waiting { bytes, admitted };
        state.queue(weight).push(Arc::clone(origin), next);
        if !std::mem::replace(&mut state.pumping, true) {
            drop(self.tasks.detach("nats-admission", Arc::clone(self).pump()));
        }
        Ok(Admitted::Later(waiting))
    }

    /// Lets waiting operations in, in turn, each time a new reading is due, until none is left.
    async fn pump(self: Arc<Self>) {
        loop {
            tokio::time::sleep(READING_AGE).await;
            let mut state = self.state.lock();
            for weight in Weight::ALL {
                self.let_in(&mut state, weight);
            }
            if state.queues.iter().all(FairQueue::is_empty) {
                state.pumping = false;
                return;
            }
        }
    }

    /// Lets in what waits with that weight while there is room.
    fn let_in(self: &Arc<Self>, state: &mut MutexGuard<'_, State>, weight: Weight) {
        while let Some(next) = state.queue(weight).front() {
            let bytes = next.bytes;
            let abandoned = next.admitted.is_closed();
            if !abandoned && self.take(state, weight, bytes).is_err() {
                return;
            }
            let Some(next) = state.queue(weight).pop() else {
                return;
            };
            state.waiting_bytes -= waiting_size(bytes);
            *state.counts.queued(weight) -= 1;
            if !abandoned {
                let permit = self.permit(state, weight);
                // A receiver that went away this moment drops the permit; not under our lock.
                if let Err(unwanted) = next.admitted.send(permit) {
                    MutexGuard::unlocked(state, || drop(unwanted));
                }
            }
        }
    }

    fn permit(self: &Arc<Self>, state: &mut State, weight: Weight) -> Permit {
        match weight {
            Weight::Light => state.counts.light_running += 1,
            Weight::Heavy => state.counts.heavy_running += 1,
        }
        Permit {
            admission: Arc::clone(self),
            weight,
        }
    }

    fn take(&self, state: &mut State, weight: Weight, bytes: usize) -> Result<(), &'static str> {
        if state.read.elapsed() >= READING_AGE {
            state.capacity = self.host.capacity();
            state.read = Instant::now();
        }
        Need::of(weight, bytes).take(&mut state.capacity)
    }

    fn short(&self, weight: Weight, bytes: usize) -> Error {
        let mut capacity = self.host.capacity();
        let what = Need::of(weight, bytes)
            .take(&mut capacity)
            .err()
            .unwrap_or("the machine");
        let reason = format!("no room after {} s of waiting in turn", WAIT_LIMIT.as_secs());
        Error::Overloaded { what, reason }
    }
}

/// Each waiting request holds its payload and a task.
fn waiting_size(bytes: usize) -> u64 {
    bytes as u64 + 2048
}

impl State {
    fn queue(&mut self, weight: Weight) -> &mut FairQueue<Waiting> {
        &mut self.queues[weight as usize]
    }
}

enum Admitted {
    Now(Permit),
    Later(oneshot::Receiver<Permit>),
}

impl Counts {
    fn queued(&mut self, weight: Weight) -> &mut u64 {
        match weight {
            Weight::Light => &mut self.light_queued,
            Weight::Heavy => &mut self.heavy_queued,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacity(fd_headroom: u64, pid_headroom: u64, mem_available: u64) -> Capacity {
        Capacity {
            mem_available,
            disk_free: 0,
            fd_headroom,
            pid_headroom,
            nproc: 1,
        }
    }

    #[test]
    fn what_is_short_is_named_and_nothing_is_taken_for_a_refusal() {
        let plenty = 1 << 30;
        let cases = [
            (capacity(50, plenty, plenty), "file descriptors"),
            (capacity(plenty, 16, plenty), "processes"),
            (capacity(plenty, plenty, 16 << 20), "memory"),
        ];
        for (mut capacity, what) in cases {
            assert_eq!(Need::of(Weight::Heavy, 0).take(&mut capacity), Err(what));
        }
    }

    #[test]
    fn what_was_let_in_counts_until_the_next_reading() {
        let mut capacity = capacity(RESERVED_DESCRIPTORS + 16, 1 << 20, 1 << 40);
        let need = Need::of(Weight::Heavy, 0);
        assert_eq!(
            [(); 3].map(|()| need.take(&mut capacity).is_ok()),
            [true, true, false]
        );
    }

    #[test]
    fn a_light_operation_does_not_need_a_process() {
        assert!(
            Need::of(Weight::Light, 0)
                .take(&mut capacity(1 << 20, 0, 1 << 40))
                .is_ok()
        );
    }

    /// A machine of that many processes, so that none is left when there are a hundred.
    fn machine(most: u32) -> (tempfile::TempDir, Arc<Admission>) {
        let root = tempfile::tempdir().unwrap();
        let kernel = root.path().join("proc/sys/kernel");
        std::fs::create_dir_all(&kernel).unwrap();
        std::fs::write(root.path().join("proc/loadavg"), "0.00 0.00 0.00 1/100 1\n").unwrap();
        let memory = "MemTotal: 8388608 kB\nMemAvailable: 8000000 kB\n";
        std::fs::write(root.path().join("proc/meminfo"), memory).unwrap();
        std::fs::write(kernel.join("pid_max"), most.to_string()).unwrap();
        let host = Arc::new(Host::of_machine(root.path(), root.path().to_path_buf()));
        (root, Admission::new(host, Tasks::new()))
    }

    #[tokio::test]
    async fn what_needs_no_process_does_not_wait_behind_what_does() {
        let (_root, admission) = machine(100);
        let origin: Arc<str> = "origin".into();
        let heavy = admission.try_admit(&origin, Weight::Heavy, 0);
        assert!(matches!(heavy, Ok(Admitted::Later(_))));
        let light = admission.try_admit(&origin, Weight::Light, 0);
        assert!(matches!(light, Ok(Admitted::Now(_))));
    }

    #[tokio::test]
    async fn what_waits_and_what_runs_is_counted_and_let_go_of() {
        let (root, admission) = machine(100);
        let origin: Arc<str> = "origin".into();
        let waiting = admission.admit(&origin, Weight::Heavy, 1000);
        let asked = async {
            let queued = Counts {
                heavy_queued: 1,
                ..Counts::default()
            };
            assert_eq!(admission.counts(), queued);
            assert!(admission.state.lock().waiting_bytes >= 1000);
            std::fs::write(root.path().join("proc/sys/kernel/pid_max"), "1000").unwrap();
        };
        let (permit, ()) = tokio::join!(biased; waiting, asked);
        let running = Counts {
            heavy_running: 1,
            ..Counts::default()
        };
        assert_eq!(admission.counts(), running);
        assert_eq!(admission.state.lock().waiting_bytes, 0);
        drop(permit.map_err(|(error, _)| error).unwrap());
        assert_eq!(admission.counts(), Counts::default());
    }
}
