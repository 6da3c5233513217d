//! A real `nats-server` on a port of its own.

use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tempfile::TempDir;

use super::group::Group;
use super::ready::Watch;
use super::{PATIENCE, eventually, require};

/// The server; it can be killed and started again on the same port.
pub(crate) struct NatsServer {
    group: Option<Group>,
    directory: TempDir,
    settings: String,
    port: u16,
}

/// Settings of a server to be started.
#[derive(Default)]
pub(crate) struct Builder {
    settings: String,
}

impl Builder {
    /// The largest message, bytes; the server's own default is 1 MiB.
    pub(crate) fn max_payload(self, bytes: u64) -> Self {
        // Pending bytes of a connection must hold at least one message.
        let pending = bytes.saturating_mul(4).max(64 << 20);
        self.settings(&format!("max_payload: {bytes}\nmax_pending: {pending}"))
    }

    /// Every connection must present this token.
    pub(crate) fn token(self, token: &str) -> Self {
        self.settings(&format!("authorization {{ token: \"{token}\" }}"))
    }

    /// Lines of the server's configuration language: users, permissions, anything.
    pub(crate) fn settings(mut self, lines: &str) -> Self {
        self.settings.push_str(lines);
        self.settings.push('\n');
        self
    }

    /// Starts it and waits until it listens.
    #[track_caller]
    pub(crate) fn start(self) -> NatsServer {
        let mut server = NatsServer {
            group: None,
            directory: tempfile::tempdir().unwrap(),
            settings: self.settings,
            port: 0,
        };
        server.restart();
        server
    }
}

impl NatsServer {
    /// A server with default settings, to be changed.
    pub(crate) fn builder() -> Builder {
        Builder::default()
    }

    /// A server with default settings, running.
    #[track_caller]
    pub(crate) fn start() -> Self {
        Self::builder().start()
    }

    /// Where it listens, without credentials.
    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Where it listens for web sockets, when its settings say that it should, on any port.
    #[track_caller]
    pub(crate) fn websocket_url(&self) -> String {
        let ports = ports_in(&self.directory.path().join("ports")).expect("the server said its ports");
        ports["websocket"][0]
            .as_str()
            .expect("a WebSocket listener")
            .to_owned()
    }

    /// Sends it a signal: `SIGSTOP` makes it a broker that is there and says nothing.
    #[track_caller]
    pub(crate) fn signal(&mut self, signal: Signal) {
        self.group.as_mut().expect("a server that runs").signal(signal);
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Pid {
        self.group.as_ref().expect("a server that runs").pid()
    }

    /// Kills it where it stands.
    pub(crate) fn kill(&mut self) {
        self.group = None;
    }

    /// Starts it (again), on the port it had.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        self.kill();
        let directory = self.directory.path();
        let ports = directory.join("ports");
        let _ = std::fs::remove_dir_all(&ports);
        std::fs::create_dir(&ports).unwrap();
        let config = directory.join("nats.conf");
        std::fs::write(&config, self.configuration()).unwrap();
        let watch = Watch::new(&ports);
        let mut command = Command::new(require("nats-server"));
        command.arg("--config").arg(&config);
        let mut group = Group::spawn("nats-server", &mut command, &directory.join("nats.log"));
        self.port = watch.wait(&mut group, port_in);
        self.group = Some(group);
    }

    /// Replaces the settings of a running server, and waits until they count.
    #[track_caller]
    pub(crate) fn reload(&mut self, settings: &str) {
        self.settings = format!("{settings}\n");
        std::fs::write(self.directory.path().join("nats.conf"), self.configuration()).unwrap();
        let group = self.group.as_mut().expect("a server that runs");
        let reloads = |group: &Group| group.log().matches("Reloaded server configuration").count();
        let before = reloads(group);
        group.signal(Signal::SIGHUP);
        eventually("the server to take its new settings", PATIENCE, || {
            (reloads(group) > before).then_some(())
        });
    }

    fn configuration(&self) -> String {
        let port = if self.port == 0 { -1 } else { i32::from(self.port) };
        let ports = self.directory.path().join("ports");
        format!(
            "host: 127.0.0.1\nport: {port}\nports_file_dir: \"{}\"\n{}",
            ports.display(),
            self.settings
        )
    }
}

/// The port in the file that the server leaves once it listens.
fn port_in(directory: &Path) -> Option<u16> {
    ports_in(directory)?["nats"][0]
        .as_str()?
        .rsplit(':')
        .next()?
        .parse()
        .ok()
}

fn ports_in(directory: &Path) -> Option<serde_json::Value> {
    let entry = std::fs::read_dir(directory).ok()?.flatten().next()?;
    serde_json::from_slice(&std::fs::read(entry.path()).ok()?).ok()
}
