//! The process engine: every child process of the daemon is born, read, limited, killed and reaped here.
//!
//! `engine` is the handle; `spawn` prepares a birth and `sys` performs it; `run` accompanies the process, `read` and
//! `drain` move its output into the numbered log of [`crate::stream`]; `reap` owns every wait; `kill` ends trees;
//! `prepare` makes this process fit to be the daemon; `seats` keeps what the daemon has open away from newborns;
//! `terminal` opens pseudo-terminals.

mod attached;
mod birth;
mod drain;
mod engine;
mod environment;
mod feed;
mod inherit;
mod kill;
mod members;
mod prepare;
mod proc;
mod pump;
mod read;
mod reap;
mod run;
mod seats;
mod spawn;
mod spec;
mod sprint;
mod sys;
mod terminal;
mod watch;

pub use crate::stream::{ChannelTotals, Keep, Kept};
pub use attached::{Attached, Handle};
pub use engine::{Config, Engine, Started};
pub use environment::MARKER;
pub use prepare::Prepared;
pub use spec::{Command, EndRecord, Environment, Exit, Finished, Oom, Owner, RunSpec, signal_name};
pub use terminal::{Opened, Size, Terminal};
