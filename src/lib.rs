//! boxd: one daemon that gives the owner of a sandbox or machine hands inside it.

pub mod capability;
pub mod cgroups;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod doors;
pub mod enroll;
pub mod error;
pub mod exec;
pub mod fs;
pub mod host;
pub mod ids;
pub mod lifecycle;
pub mod memory;
pub mod ops;
pub mod pty;
pub mod service;
pub mod startup;
pub mod state;
pub mod stream;
pub mod telemetry;
pub mod tls;
pub mod update;
pub mod web;
pub mod wire;
pub mod workspace;
