//! The real daemon, in directories of its own.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::group::Group;
use super::ready::Watch;
use super::{Connection, Http, NatsServer, PATIENCE, processes, require};

/// The program under test.
pub(crate) const BOXD: &str = env!("CARGO_BIN_EXE_boxd");

/// A running daemon; everything it started is killed with it when this is dropped.
pub(crate) struct Daemon {
    builder: Builder,
    group: Group,
    directory: TempDir,
    /// The content of the ready file.
    pub(crate) ready: Value,
}

/// How a daemon is to be started.
pub(crate) struct Builder {
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    listeners: Vec<String>,
    connections: Vec<Connection>,
    config: Option<String>,
    state: Option<PathBuf>,
    prelude: Option<String>,
    program: PathBuf,
    namespaced: bool,
    /// In the environment of the daemon and of all that it starts, so that nothing outlives the test.
    mark: String,
}

impl Daemon {
    /// Port 0 on loopback, no links.
    pub(crate) fn builder() -> Builder {
        Builder {
            arguments: Vec::new(),
            environment: Vec::new(),
            listeners: vec!["127.0.0.1:0".to_owned()],
            connections: Vec::new(),
            config: None,
            state: None,
            prelude: None,
            program: BOXD.into(),
            namespaced: false,
            mark: format!("IT_DAEMON={}", uuid::Uuid::new_v4()),
        }
    }

    /// HTTP only, ready.
    #[track_caller]
    pub(crate) fn start() -> Self {
        Self::builder().start()
    }

    /// A daemon with one link to `broker`, and that link.
    #[track_caller]
    pub(crate) fn linked(broker: &NatsServer) -> (Self, Connection) {
        let link = Connection::to(&broker.url());
        (Self::builder().connection(&link).start(), link)
    }

    /// The directory that holds all others.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The workspace root.
    pub(crate) fn workspace(&self) -> PathBuf {
        self.directory().join("workspace")
    }

    /// The configuration directory; connection files go below it.
    pub(crate) fn config_directory(&self) -> PathBuf {
        self.directory().join("config")
    }

    /// The state directory.
    pub(crate) fn state_directory(&self) -> PathBuf {
        self.directory().join("state")
    }

    /// The HTTP token.
    #[track_caller]
    pub(crate) fn token(&self) -> String {
        let file = self.ready["tokenFile"]
            .as_str()
            .expect("the ready file names the token file");
        std::fs::read_to_string(file).unwrap().trim().to_owned()
    }

    /// A client of the first TCP listener, with the token.
    #[track_caller]
    pub(crate) fn http(&self) -> Http {
        Http {
            address: self.address(),
            token: Some(self.token()),
        }
    }

    /// Where the first TCP listener is bound.
    #[track_caller]
    pub(crate) fn address(&self) -> SocketAddr {
        let urls = self.ready["http"]
            .as_array()
            .expect("the ready file lists the listeners");
        let address = urls
            .iter()
            .find_map(|url| url.as_str()?.strip_prefix("http://")?.parse().ok());
        address.unwrap_or_else(|| panic!("no TCP listener in {}", self.ready))
    }

    /// The `<inst>` of the subjects.
    #[track_caller]
    pub(crate) fn instance(&self) -> String {
        self.ready["instance"]
            .as_str()
            .expect("the ready file names the instance")
            .to_owned()
    }

    /// The daemon's process id as this machine sees it.
    pub(crate) fn pid(&self) -> i32 {
        let started = self.group.pid().as_raw();
        if !self.builder.namespaced {
            return started;
        }
        // unshare waits outside of the namespace for the one child it made inside.
        processes::children(started).first().copied().unwrap_or(started)
    }

    /// The entry that marks the environment of everything this daemon starts (unless a request replaced it).
    pub(crate) fn mark(&self) -> &str {
        &self.builder.mark
    }

    /// Waits until the daemon, which becomes another executable in the same process, is ready again.
    #[track_caller]
    pub(crate) fn ready_again(&mut self) {
        let (file, before) = (self.directory().join("ready").join("ready.json"), self.instance());
        self.ready = super::eventually("the daemon to be ready again", PATIENCE, || {
            let ready: Value = serde_json::from_slice(&std::fs::read(&file).ok()?).ok()?;
            (ready["instance"] != before.as_str()).then_some(ready)
        });
    }

    /// Sends a signal to the daemon alone.
    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Asks it to stop and waits for its end.
    #[track_caller]
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait(PATIENCE)
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        self.group.wait(limit)
    }

    /// Whether it ended by itself.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.group.ended()
    }

    /// Kills the daemon alone, as a crash would; its children are left behind.
    #[track_caller]
    pub(crate) fn crash(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait(PATIENCE);
    }

    /// Starts it again, after it ended, with the same directories and arguments.
    #[track_caller]
    pub(crate) fn start_again(&mut self) {
        assert!(self.ended().is_some(), "the daemon still runs");
        (self.group, self.ready) = self.builder.launch(self.directory.path());
    }

    /// Everything it logged so far.
    pub(crate) fn log(&self) -> String {
        self.group.log()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.group.kill();
        processes::sweep(&self.builder.mark);
        if let Some(instance) = self.ready["instance"].as_str() {
            // Exact environments do not carry the mark.
            processes::sweep(&format!("BOXD_PROCESS={instance}"));
        }
    }
}

impl Builder {
    /// One more argument of `boxd run`.
    pub(crate) fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// An entry of the daemon's environment.
    pub(crate) fn environment(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Listens there instead of on any loopback port; `off` for nowhere.
    pub(crate) fn listen(mut self, listeners: &[&str]) -> Self {
        self.listeners = listeners.iter().map(|listener| (*listener).to_owned()).collect();
        self
    }

    /// A connection file that is there from the start.
    pub(crate) fn connection(mut self, connection: &Connection) -> Self {
        self.connections.push(connection.clone());
        self
    }

    /// The text of `config.toml`.
    pub(crate) fn config(mut self, text: &str) -> Self {
        self.config = Some(text.to_owned());
        self
    }

    /// The shell runs `script` first and then becomes the daemon: for limits and signals that it is to inherit.
    pub(crate) fn prelude(mut self, script: &str) -> Self {
        self.prelude = Some(script.to_owned());
        self
    }

    /// Runs the executable there instead of the one under test: a copy of it.
    pub(crate) fn program(mut self, program: &Path) -> Self {
        self.program = program.to_path_buf();
        self
    }

    /// Runs the daemon as PID 1 of its own process namespace with its own mounts; `script` is run by the shell in
    /// there first, with `$WORKSPACE` set, and may mount what it likes: the machine does not see it.
    pub(crate) fn namespace(mut self, script: &str) -> Self {
        self.namespaced = true;
        self.prelude(script)
    }

    /// Keeps its state there instead of in a directory of its own.
    pub(crate) fn state_directory(mut self, directory: &Path) -> Self {
        self.state = Some(directory.to_path_buf());
        self
    }

    /// Makes the directories, lets `prepare(directory)` add to them, and starts it.
    #[track_caller]
    pub(crate) fn start_in(self, prepare: impl FnOnce(&Path)) -> Daemon {
        let directory = self.directories(prepare);
        let (group, ready) = self.launch(directory.path());
        Daemon {
            builder: self,
            group,
            directory,
            ready,
        }
    }

    /// Starts it where it cannot run, and waits for its end: the exit code and everything it said.
    #[track_caller]
    pub(crate) fn refused_in(self, prepare: impl FnOnce(&Path)) -> (i32, String) {
        let directory = self.directories(prepare);
        let log = directory.path().join("boxd.log");
        let mut group = Group::spawn("boxd", &mut self.command(directory.path()), &log);
        let status = group.wait(PATIENCE);
        let code = status.code().unwrap_or_else(|| panic!("ended with {status}"));
        (code, group.log())
    }

    #[track_caller]
    fn directories(&self, prepare: impl FnOnce(&Path)) -> TempDir {
        let directory = tempfile::tempdir().unwrap();
        for name in ["home", "state", "config", "workspace", "ready"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        let config = directory.path().join("config");
        if let Some(text) = &self.config {
            std::fs::write(config.join("config.toml"), text).unwrap();
        }
        for connection in &self.connections {
            connection.write(&config);
        }
        prepare(directory.path());
        directory
    }

    /// Starts it and waits until it says that it is ready.
    #[track_caller]
    pub(crate) fn start(self) -> Daemon {
        self.start_in(|_| {})
    }

    #[track_caller]
    fn launch(&self, directory: &Path) -> (Group, Value) {
        let ready_file = directory.join("ready").join("ready.json");
        let _ = std::fs::remove_file(&ready_file);
        let watch = Watch::new(&directory.join("ready"));
        let mut group = Group::spawn("boxd", &mut self.command(directory), &directory.join("boxd.log"));
        let ready = watch.wait(&mut group, |_| std::fs::read(&ready_file).ok());
        let ready = serde_json::from_slice(&ready).expect("the ready file is JSON and written whole");
        (group, ready)
    }

    /// The command that starts the daemon in `directory`.
    fn command(&self, directory: &Path) -> Command {
        let workspace = directory.join("workspace");
        let mut command = match &self.prelude {
            None => Command::new(&self.program),
            Some(script) => {
                let mut command = Command::new(require(if self.namespaced { "unshare" } else { "sh" }));
                if self.namespaced {
                    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh"]);
                }
                command
                    .arg("-ec")
                    .arg(format!("{script}\nexec \"$0\" \"$@\""))
                    .arg(&self.program);
                command
            }
        };
        command
            .arg("run")
            .args(self.listeners.iter().flat_map(|listener| ["--http", listener]));
        command.arg("--workspace-root").arg(&workspace);
        command.arg("--config-dir").arg(directory.join("config"));
        let state = self.state.clone().unwrap_or_else(|| directory.join("state"));
        command.arg("--state-dir").arg(state);
        command
            .arg("--ready-file")
            .arg(directory.join("ready").join("ready.json"));
        command.args(["--log", "debug"]).args(&self.arguments);
        let (name, value) = self.mark.split_once('=').expect("NAME=value");
        command.env_clear().env(name, value);
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
        command
            .env("PATH", path)
            .env("HOME", directory.join("home"))
            .env("WORKSPACE", &workspace);
        command
            .envs(self.environment.iter().cloned())
            .current_dir(&workspace);
        command
    }
}
