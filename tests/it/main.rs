//! One test binary: real processes, real servers, one module per room and door.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on says where by panicking"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "tests start processes and tasks of their own"
)]
#![allow(
    clippy::print_stderr,
    reason = "a failing test shows the logs of its processes"
)]

mod arrows;
mod cli;
mod clients;
mod daemon_main;
mod daemon_start;
mod daemon_stop;
mod enroll;
mod exec_bulk;
mod exec_caps;
mod exec_child;
mod exec_ends;
mod exec_exit;
mod exec_hung;
mod exec_init;
mod exec_kill;
mod exec_limits;
mod exec_no_proc;
mod exec_once;
mod exec_scale;
mod fs_archives;
mod fs_changing;
mod fs_faults;
mod fs_guards;
mod fs_kinds;
mod fs_links;
mod fs_names;
mod fs_reach;
mod fs_uploads;
mod fs_watch;
mod git_credentials;
mod git_hostile;
mod git_index;
mod git_kinds;
mod git_repositories;
mod git_servers;
mod git_sizes;
mod harness;
mod harness_test;
mod host;
mod http_changes;
mod http_files;
mod http_process_follow;
mod http_process_life;
mod http_process_logs;
mod http_processes;
mod http_refusals;
mod http_unix;
mod http_viewer;
mod install;
mod install_faults;
mod install_roots;
mod load;
mod memory;
mod nats_credentials;
mod nats_faults;
mod nats_links;
mod nats_load;
mod nats_opstream;
mod nats_opstream_credit;
mod nats_opstream_cuts;
mod nats_opstream_files;
mod nats_opstream_ids;
mod nats_requests;
mod nats_slow;
mod parity;
mod parity_git;
mod relay;
mod relay_terminal;
mod service;
mod service_notify;
mod terminal_reach;
mod terminal_screens;
mod terminals;
mod uninstall;
mod update;
mod update_daemon;
mod update_guard;
mod update_trials;
mod update_waits;
mod wire_vectors;
