//! What is done to this process before any thread is started, so that it can be the daemon.

use super::inherit::Inherited;
use super::reap::hold_child_signals;
use super::seats::Seats;
use crate::error::Error;

/// This process, prepared: what the engine needs from the time before there were threads.
#[derive(Debug, Default)]
pub struct Prepared {
    pub(super) inherited: Inherited,
    pub(super) seats: Seats,
}

impl Prepared {
    /// Changes this process and keeps what children get back. To be called while there is one thread: signals are blocked
    /// for those that come, and the kernel makes the table of descriptors larger without waiting for anybody.
    pub fn before_threads() -> Result<Self, Error> {
        hold_child_signals()?;
        let inherited = Inherited::take_over()?;
        Ok(Self {
            seats: Seats::reserve(super::birth::births_at_most()),
            inherited,
        })
    }

    /// What this process was started with.
    pub fn before(&self) -> Before {
        Before(self.inherited.clone())
    }
}

/// What a process was started with, before it was prepared.
#[derive(Debug)]
pub struct Before(Inherited);

impl Before {
    /// Has this process be so again, for who takes its place.
    pub fn restore(&self) {
        self.0.give_back();
    }
}
