//! Signals: what asks the daemon to stop, and what is passed on to the main command.

use std::collections::VecDeque;

use nix::sys::signal::{SigSet, Signal as OsSignal};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::Error;

/// Every signal that the daemon listens to.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    user1: Signal,
    user2: Signal,
    window: Signal,
    /// Those that came before anything could be done about them.
    early: VecDeque<Meaning>,
}

/// What a signal means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Stop; a second one skips ahead.
    Stop(i32),
    /// The main command gets it. To the daemon HUP means that connection files have changed, any other nothing.
    PassOn(i32),
}

/// Those that would end a process that does not listen yet.
const DEADLY: [OsSignal; 6] = [
    OsSignal::SIGTERM,
    OsSignal::SIGINT,
    OsSignal::SIGQUIT,
    OsSignal::SIGHUP,
    OsSignal::SIGUSR1,
    OsSignal::SIGUSR2,
];

/// They wait for the program that this process becomes next, until that listens. To be called where one thread is left.
pub fn hold() {
    // It is a set of signals that exist.
    let _ = DEADLY.into_iter().collect::<SigSet>().thread_block();
}

impl Signals {
    /// From now on none of them ends the process by itself, and those that were held come.
    pub(super) fn listen() -> Result<Self, Error> {
        let listen = |kind| {
            signal(kind).map_err(|source| Error::Io {
                doing: "listen for signals".into(),
                source,
            })
        };
        let signals = Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            quit: listen(SignalKind::quit())?,
            hangup: listen(SignalKind::hangup())?,
            user1: listen(SignalKind::user_defined1())?,
            user2: listen(SignalKind::user_defined2())?,
            window: listen(SignalKind::window_change())?,
            early: VecDeque::new(),
        };
        let _ = DEADLY.into_iter().collect::<SigSet>().thread_unblock();
        Ok(signals)
    }

    /// The next signal. Cancel-safe.
    pub(super) async fn next(&mut self) -> Meaning {
        if let Some(early) = self.early.pop_front() {
            return early;
        }
        self.receive().await
    }

    /// Resolves when one asks to stop; [`Signals::next`] tells of it and of all that came before it. Cancel-safe.
    pub(super) async fn stop_foreseen(&mut self) {
        while !matches!(self.early.back(), Some(Meaning::Stop(_))) {
            let early = self.receive().await;
            self.early.push_back(early);
        }
    }

    /// Whether one has asked to stop by now.
    pub(super) async fn stop_has_come(&mut self) -> bool {
        tokio::select! {
            biased;
            () = self.next_stop() => true,
            () = std::future::ready(()) => false,
        }
    }

    async fn receive(&mut self) -> Meaning {
        tokio::select! {
            _ = self.terminate.recv() => Meaning::Stop(libc::SIGTERM),
            _ = self.interrupt.recv() => Meaning::Stop(libc::SIGINT),
            _ = self.quit.recv() => Meaning::Stop(libc::SIGQUIT),
            _ = self.hangup.recv() => Meaning::PassOn(libc::SIGHUP),
            _ = self.user1.recv() => Meaning::PassOn(libc::SIGUSR1),
            _ = self.user2.recv() => Meaning::PassOn(libc::SIGUSR2),
            _ = self.window.recv() => Meaning::PassOn(libc::SIGWINCH),
        }
    }

    /// The next signal that asks to stop; others are ignored. Cancel-safe.
    pub(super) async fn next_stop(&mut self) {
        while !matches!(self.next().await, Meaning::Stop(_)) {}
    }
}
