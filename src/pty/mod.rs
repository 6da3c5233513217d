//! Terminals: who may write to them, and how long they stay without anybody.
//!
//! [`Scopes`] is who is who. Not here: opening a terminal and everything with a process in it (`exec`), moving the bytes
//! (the process's log), and sockets (the doors).

mod scope;
mod writer;

pub use scope::{Reserved, Scopes, Viewer};
pub use writer::{LONGEST_LEASE, Writer};
