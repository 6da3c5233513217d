//! The code that ran before stands guard while the new one starts, because what hangs or dies before its first line
//! can not take itself back.
//!
//! ```text
//!   boxd (old) --orders, socket pair--> boxd.previous guard
//!       | <-----------on guard---------------|
//!       `-- becomes boxd (new)               |
//!             serves: the trial is over ---->| ends
//!             is told to stop: still on trial| ends
//!             dies, or never serves -------->| puts the one before in place again, ends what hangs, and becomes
//!                                            | the daemon itself where no service manager starts it
//! ```
//!
//! A service manager that ends everything when the daemon has ended runs `guard --after-stop` instead (`ExecStopPost=` of
//! the systemd unit). The first process of a container takes its guard with it when it dies, and cannot be killed from
//! inside: there the rehearsal before, and the starts that the new code counts, have to do.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, getppid, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::origin::{Origin, Start};
use super::place::Place;
use super::trial::{self, OnTrial, Record};
use crate::error::Error;

/// How long the guard has to take its post.
const POSTING: Duration = Duration::from_secs(10);
/// How often it looks at the record.
const LOOK: Duration = Duration::from_millis(100);
/// How long whoever changes the record is waited for before the daemon is ended.
const LET_GO: Duration = Duration::from_secs(5);
/// What it leaves to whoever else restarts a daemon that has died.
const SOMEBODY_ELSE: Duration = Duration::from_secs(2);

/// What the guard is told.
#[derive(Serialize, Deserialize)]
struct Orders {
    executable: std::path::PathBuf,
    start: Start,
}

/// Leaves the code that runs on guard over the executable that is on trial; nothing where none is. The caller is to become
/// the new one next.
///
/// # Errors
///
/// [`Error::Io`] when nobody stands guard.
pub fn post(origin: &Origin) -> Result<(), Error> {
    let place = &origin.place;
    if Record::read(place).trial.is_none() {
        return Ok(());
    }
    let failed = |source| Error::Io {
        doing: format!("post {:?} as a guard of the update", place.previous()),
        source,
    };
    let (mut ours, theirs) = UnixStream::pair().map_err(failed)?;
    #[expect(
        clippy::disallowed_methods,
        reason = "the engine has ended, and this one is to outlive the process's program"
    )]
    let mut guard = Command::new(place.previous())
        .arg("guard")
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .map_err(failed)?;
    let orders = Orders {
        executable: place.executable(),
        start: origin.start.clone(),
    };
    let mut posted = || {
        ours.set_read_timeout(Some(POSTING))?;
        ours.set_write_timeout(Some(POSTING))?;
        serde_json::to_writer(&ours, &orders)?;
        ours.shutdown(Shutdown::Write)?;
        ours.read_exact(&mut [0])
    };
    posted().map_err(|error| {
        let _ = guard.kill();
        failed(error)
    })
}

/// Stands guard over our parent, which is about to become the executable on trial. Answers what is to be become when it
/// did not come up and nobody else would start the one before.
///
/// # Errors
///
/// [`Error::Protocol`] for orders that make no sense, [`Error::Io`] when the parent cannot be watched or the one before
/// not be restored.
pub fn stand(mut orders: UnixStream, complain: impl Fn(&str)) -> Result<Option<Origin>, Error> {
    let failed = |doing: &'static str| {
        move |source| Error::Io {
            doing: doing.into(),
            source,
        }
    };
    // A terminal's signals are for the daemon.
    let _ = rustix::process::setsid();
    let mut text = Vec::new();
    orders
        .read_to_end(&mut text)
        .map_err(failed("read the orders of the guard"))?;
    let told: Orders = serde_json::from_slice(&text).map_err(|error| Error::Protocol {
        reason: format!("standard input holds no orders of a guard: {error}"),
    })?;
    let place = Place::at(&told.executable);
    let daemon = Watched::parent()?;
    let Some(trial) = take_charge(&place, &daemon)? else {
        return Ok(None);
    };
    orders
        .write_all(b"!")
        .map_err(failed("tell the daemon that the guard is posted"))?;
    drop(orders);
    let Some(why) = watch(&place, &trial, &daemon)? else {
        return Ok(None);
    };
    let version = &trial.update.version;
    match take_back(&place, &trial, &daemon, &complain)? {
        Back::InPlace => complain(&format!(
            "the update to {version} {why}: the one before is in place again"
        )),
        Back::Ended => complain(&format!(
            "the update to {version} {why}: what is in place by now is started"
        )),
        Back::LeftAlone => return Ok(None),
    }
    if daemon.is_first_process() || told.start.has_manager() {
        return Ok(None);
    }
    std::thread::sleep(SOMEBODY_ELSE);
    Ok(Some(Origin {
        place,
        start: told.start,
    }))
}

/// What the guard did.
enum Back {
    /// The one before is in place again.
    InPlace,
    /// Somebody put something else in place, and the daemon was ended.
    Ended,
    /// The same, and the daemon was let be.
    LeftAlone,
}

/// Puts the one before in place again, unless somebody put another one there, and ends the daemon.
fn take_back(
    place: &Place,
    trial: &OnTrial,
    daemon: &Watched,
    complain: &impl Fn(&str),
) -> Result<Back, Error> {
    let mut was_ended = false;
    let _turn = loop {
        match place.turn_within(LET_GO) {
            // What hangs may be what has it. From then on there is no daemon, and no other way than to go on.
            Err(Error::Conflict { .. }) => {
                daemon.end()?;
                was_ended = true;
            }
            turn => break turn?,
        }
    };
    if !is_in_place(place, trial)? {
        return Ok(if was_ended { Back::Ended } else { Back::LeftAlone });
    }
    place.restore()?;
    daemon.end()?;
    // The digest tells it as well, where nothing can be written.
    if let Err(error) = trial::restored(place, Record::read(place)) {
        complain(&error.to_string());
    }
    Ok(Back::InPlace)
}

/// The daemon has ended, and with it the guard, as a service manager sees to it: does what is left to do. Answers which
/// version was taken back.
///
/// # Errors
///
/// [`Error::Io`] when the one before cannot be put in place.
pub fn after_stop(place: &Place) -> Result<Option<String>, Error> {
    let _turn = place.turn()?;
    let record = Record::read(place);
    let Some(trial) = &record.trial else {
        return Ok(None);
    };
    // Another daemon of this executable may be on trial.
    let lives = trial.pid.is_some_and(|pid| place.is_run_by(pid));
    if lives || !is_in_place(place, trial)? {
        return Ok(None);
    }
    let version = trial.update.version.clone();
    place.restore()?;
    trial::restored(place, record)?;
    Ok(Some(version))
}

/// Notes that the executable on trial has a guard.
fn take_charge(place: &Place, daemon: &Watched) -> Result<Option<OnTrial>, Error> {
    let _turn = place.turn()?;
    let mut record = Record::read(place);
    let Some(trial) = &mut record.trial else {
        return Ok(None);
    };
    trial.is_guarded = true;
    trial.pid = Some(daemon.pid.as_raw_nonzero().get());
    trial.starts = 0;
    let trial = trial.clone();
    let _ = fs::remove_file(place.guarded());
    let failed = |error| Error::from_path_io("mark of the guard", "make", &place.guarded(), error);
    place.make(&place.guarded(), 0o600).map_err(failed)?;
    record.write(place)?;
    Ok(Some(trial))
}

/// Watches until the trial is over, or answers why the one before has to come back.
fn watch(place: &Place, trial: &OnTrial, daemon: &Watched) -> Result<Option<String>, Error> {
    let begun = Instant::now();
    loop {
        // In this order: one that came up and died since is not on trial.
        let has_ended = daemon.has_ended_within(LOOK)?;
        if !is_on_trial(place, trial) {
            return Ok(None);
        }
        if has_ended {
            return Ok(Some("ended before it served".into()));
        }
        if begun.elapsed() >= trial.limit() {
            return Ok(Some(format!("did not serve within {:?}", trial.limit())));
        }
    }
}

/// Whether it is still on trial and under guard.
fn is_on_trial(place: &Place, trial: &OnTrial) -> bool {
    let found = Record::read(place).trial.filter(|_| place.guarded().exists());
    found.is_some_and(|found| found.is_guarded && found.update.sha256 == trial.update.sha256)
}

/// The same, and it is what stands there: nobody put something else in place.
fn is_in_place(place: &Place, trial: &OnTrial) -> Result<bool, Error> {
    Ok(is_on_trial(place, trial) && place.digest()? == trial.update.sha256)
}

/// The process that becomes the new one.
struct Watched {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Watched {
    fn parent() -> Result<Self, Error> {
        let failed = |source: std::io::Error| Error::Io {
            doing: "watch the daemon".into(),
            source,
        };
        let pid = getppid().ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| failed(errno.into()))?;
        if getppid() != Some(pid) {
            return Err(failed(std::io::ErrorKind::NotFound.into()));
        }
        Ok(Self { pid, pidfd })
    }

    /// Of a container, which has nobody who starts it again from inside.
    fn is_first_process(&self) -> bool {
        self.pid == Pid::INIT
    }

    fn has_ended_within(&self, limit: Duration) -> Result<bool, Error> {
        readable(self.pidfd.as_fd(), limit).map_err(|source| Error::Io {
            doing: "wait for the end of the daemon".into(),
            source,
        })
    }

    /// Nothing stops the first process of a container but itself.
    fn end(&self) -> Result<(), Error> {
        let signal = if self.is_first_process() {
            Signal::TERM
        } else {
            Signal::KILL
        };
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(Error::Io {
                doing: "end the new daemon".into(),
                source: errno.into(),
            }),
        }
    }
}

fn readable(fd: BorrowedFd<'_>, limit: Duration) -> std::io::Result<bool> {
    let limit = Timespec::try_from(limit).map_err(std::io::Error::other)?;
    match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&limit)) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::trial::Completed;
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "another process, of nobody's")]
    fn the_end_of_one_daemon_takes_nothing_back_from_another() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::at(&directory.path().join("boxd"));
        let mut other = Command::new("sleep").arg("60").spawn().unwrap();
        // What stands there is what the other process runs.
        let running = fs::read_link(format!("/proc/{}/exe", other.id())).unwrap();
        std::os::unix::fs::symlink(running, place.executable()).unwrap();
        fs::write(place.previous(), "old").unwrap();
        place.make(&place.guarded(), 0o600).unwrap();
        let update = Completed {
            operation_id: "op".into(),
            version: "9.0.0".into(),
            sha256: place.digest().unwrap(),
        };
        let trial = OnTrial {
            starts: 1,
            pid: Some(other.id().cast_signed()),
            is_guarded: true,
            ..OnTrial::of(update, Duration::ZERO, None)
        };
        let record = Record {
            trial: Some(trial),
            ..Record::default()
        };
        record.write(&place).unwrap();
        assert_eq!(after_stop(&place).unwrap(), None);
        other.kill().unwrap();
        // A reaper of another test may have been first.
        let _ = other.wait();
        assert_eq!(after_stop(&place).unwrap().unwrap(), "9.0.0");
        assert_eq!(fs::read_to_string(place.executable()).unwrap(), "old");
    }
}
