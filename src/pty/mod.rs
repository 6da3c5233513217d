//! Terminals: what their screens show, who may write to them, and how long they stay without anybody.
//!
//! [`Grid`] emulates what a program writes, so that a viewer who comes late gets one frame that redraws the exact
//! screen, and a model gets text; [`Budget`] bounds the memory of all of them together. `scanner` cuts the bytes, `emulation`, `handler` and `screen` are the emulation, `restore` draws the frame.
//! [`Scopes`] is who is who, and [`Terminals`] all of this for the processes that have one.
//!
//! Not here: opening a terminal and everything with a process in it (`exec`), moving the bytes (the process's log), and
//! sockets (the doors).

mod answers;
mod budget;
mod cells;
mod emulation;
#[cfg(test)]
mod fixture;
mod flood;
mod grid;
#[cfg(test)]
mod grid_tests;
mod handler;
mod history;
mod modes;
mod resize;
mod restore;
mod scanner;
mod scope;
mod screen;
#[cfg(test)]
mod screen_tests;
mod session;
mod terminals;
mod writer;

pub use budget::Budget;
pub use cells::{Color, Cursor, Run, Snapshot, Style, Underline};
pub use grid::Grid;
pub use history::{Limits, Page};
pub use scope::{Scopes, Viewer};
pub use terminals::{
    Attachment, Config, LogFollower, Promise, Restored, Scoped, Shown, SnapshotRequest, Terminals,
};
pub use writer::{LONGEST_LEASE, Writer};
