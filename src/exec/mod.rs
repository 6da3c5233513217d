//! The process engine: every child process of the daemon is born, read, limited, killed and reaped here.
//!
//! `engine` is the handle; `spawn` prepares a birth and `cradle` performs it; `process` is what others see of it and
//! `registry` knows them all; `run` accompanies it, `read` and `drain` move its output into `output`, which is the numbered
//! log of [`crate::stream`] with its readers, and `spool` takes what does not fit in memory; `reap` owns every wait; `kill`
//! ends trees; `prepare` makes this process fit to be the daemon; `seats` keeps what the daemon has open away from
//! newborns.

mod attached;
mod birth;
mod cgroup;
mod confine;
mod cradle;
mod crowds;
mod drain;
mod ends;
mod engine;
mod environment;
mod feed;
mod fetch;
mod headcount;
mod inherit;
mod input;
mod kill;
mod leaf;
mod leaves;
mod leftovers;
mod limits;
mod members;
mod oom;
mod output;
mod prepare;
mod proc;
mod process;
mod pump;
mod read;
mod reap;
mod registry;
mod rest;
mod run;
mod seats;
mod spawn;
mod spec;
mod spool;
mod sprint;
mod sys;
mod terminal;
mod user;
mod watch;
mod watchdog;

pub use crate::stream::{Keep, Kept};
pub use attached::{Attached, Handle};
pub use cgroup::SUBGROUP;
pub use engine::{Config, Engine, Started};
pub use environment::MARKER;
pub use limits::{Hit, LimitNames, Limits, Mechanism};
pub use output::{Gate, Output};
pub use prepare::Prepared;
pub use process::{About, Process, Scope, Signalled};
pub use registry::{Registry, RegistryLimits, RowKey};
pub use rest::Rest;
pub use spec::{
    Command, EndRecord, Environment, Exit, Finished, OnExit, Oom, Owner, ProcessSpec, Promise, Retention,
    Stdin, signal_name, signal_number,
};
pub use spool::Spool;
pub use terminal::Size;
