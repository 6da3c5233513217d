//! Installation in other roots: one with busybox and nothing else, one where systemd seems to run, and a fresh Debian, where
//! one line goes all the way from a directory of releases to a command over NATS.
