//! The process engine: every child process of the daemon is born here.

mod spec;

pub use spec::{
    Captured, ChannelEnd, Command, EndRecord, Environment, Exit, Finished, Keep, Oom, Owner, RunSpec,
};
