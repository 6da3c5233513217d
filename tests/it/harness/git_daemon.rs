//! `git daemon` on loopback: repositories over `git://`, for everybody, to read and to write.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use super::require;

/// The server; its thread ends with the test binary, a process of it with its connection.
pub(crate) struct GitDaemon {
    port: u16,
}

impl GitDaemon {
    /// Serves the repositories below `directory`. It is started for each connection, as inetd does, because it cannot say
    /// which port it has chosen.
    pub(crate) fn start(directory: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let git = require("git");
        let directory = directory.to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = OwnedFd::from(stream.unwrap());
                let mut command = Command::new(&git);
                command
                    .args(["daemon", "--inetd", "--export-all", "--informative-errors"])
                    .arg("--enable=receive-pack")
                    .arg(format!("--base-path={}", directory.display()))
                    .arg(&directory)
                    .stdin(stream.try_clone().unwrap())
                    .stdout(stream)
                    .stderr(Stdio::null());
                let mut child = command.spawn().unwrap();
                // The command holds the connection open, too.
                drop(command);
                std::thread::spawn(move || drop(child.wait()));
            }
        });
        Self { port }
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        format!("git://127.0.0.1:{}", self.port)
    }
}
