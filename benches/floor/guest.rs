//! Everything the bench brings to the machine and takes away again: directories, the broker, nginx, the floor processes
//! and the daemon under measurement. Ports are chosen by the kernel, processes live in groups killed on drop.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take to get ready before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(10);

/// A process of ours with all its children.
pub(crate) struct Guest {
    child: Child,
}

impl Guest {
    fn start(command: &mut Command) -> Result<Self> {
        let child = command
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.get_program()))?;
        Ok(Self { child })
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Asks it to stop and returns how long that took.
    pub(crate) fn stop(mut self) -> Result<Duration> {
        let start = Instant::now();
        kill(self.pid(), Signal::SIGTERM)?;
        let status = self.child.wait()?;
        let took = start.elapsed();
        ensure!(status.success(), "it stopped with {status}");
        Ok(took)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = killpg(self.pid(), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// A floor process: this program in another role.
pub(crate) struct Floor {
    _guest: Guest,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// What it said when it was ready: a port, or `ready`.
    pub(crate) greeting: String,
}

impl Floor {
    pub(crate) fn start(role: &str, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(format!("role:{role}")).args(arguments);
        let mut guest = Guest::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let stdin = guest.child.stdin.take().context("no stdin")?;
        let stdout = BufReader::new(guest.child.stdout.take().context("no stdout")?);
        let mut floor = Self {
            _guest: guest,
            stdin,
            stdout,
            greeting: String::new(),
        };
        floor.greeting = floor.read_line()?;
        Ok(floor)
    }

    /// Says one line and waits for the line that answers it.
    pub(crate) fn ask(&mut self, line: &str) -> Result<String> {
        writeln!(self.stdin, "{line}")?;
        self.read_line()
    }

    fn read_line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        ensure!(!line.is_empty(), "a floor process ended early");
        Ok(line.trim().to_owned())
    }
}

/// The directories and the broker that all rows share.
pub(crate) struct Lab {
    /// On tmpfs where there is one, so that no disk is measured.
    pub(crate) memory: TempDir,
    state: TempDir,
    /// The static binary that `make bench` has built.
    pub(crate) binary: PathBuf,
    pub(crate) nats_url: String,
    _broker: Guest,
}

/// The daemon under measurement, ready.
pub(crate) struct Daemon {
    pub(crate) guest: Guest,
    pub(crate) port: u16,
    pub(crate) token: String,
}

/// The link that the daemon has; any two UUIDs do.
pub(crate) const WORKSPACE_ID: &str = "5b0d6a52-3a74-4f0e-9d5a-6d1f3c9b7e10";
/// See [`WORKSPACE_ID`].
pub(crate) const AGENT_ID: &str = "c2f1e0aa-94c3-4be2-8a0f-52f8f5f0b7d3";

impl Lab {
    pub(crate) async fn open() -> Result<Self> {
        let binary = std::env::var("BOXD_BENCH_BINARY").map_or_else(
            |_| Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/boxd"),
            PathBuf::from,
        );
        ensure!(
            binary.is_file(),
            "{} is missing: run `make bench`",
            binary.display()
        );
        let shared_memory = Path::new("/dev/shm");
        let memory = if shared_memory.is_dir() {
            TempDir::with_prefix_in("boxd-bench-", shared_memory)?
        } else {
            TempDir::with_prefix("boxd-bench-")?
        };
        let state = TempDir::with_prefix("boxd-bench-")?;
        let (broker, nats_url) = start_broker(state.path()).await?;
        Ok(Self {
            memory,
            state,
            binary,
            nats_url,
            _broker: broker,
        })
    }

    /// The directory in memory, for the argument of a role.
    pub(crate) fn memory_path(&self) -> Result<&str> {
        self.memory
            .path()
            .to_str()
            .context("the directory for temporary files is not UTF-8")
    }

    /// The daemon with both doors open: HTTP on a free port, one link to the broker.
    pub(crate) async fn daemon(&self) -> Result<Daemon> {
        let directory = self.fresh_directory()?;
        let ready_file = directory.join("ready.json");
        let guest = Guest::start(
            self.command(&directory)
                .args(["--http", "127.0.0.1:0", "--ready-file"])
                .arg(&ready_file)
                .args([
                    "--nats-url",
                    &self.nats_url,
                    "--workspace-id",
                    WORKSPACE_ID,
                    "--agent-id",
                    AGENT_ID,
                ]),
        )?;
        let ready = until("the ready file", || {
            let text = std::fs::read_to_string(&ready_file).ok()?;
            serde_json::from_str::<Value>(&text).ok()
        })
        .await?;
        let url = ready["http"][0].as_str().context("the ready file has no URL")?;
        let port = url.rsplit(':').next().context("the URL has no port")?.parse()?;
        let token = std::fs::read_to_string(directory.join("token"))?
            .trim()
            .to_owned();
        Ok(Daemon { guest, port, token })
    }

    /// The daemon with one link and no HTTP.
    pub(crate) fn daemon_on_nats(&self) -> Result<Guest> {
        Guest::start(self.command(&self.fresh_directory()?).args([
            "--http",
            "off",
            "--nats-url",
            &self.nats_url,
            "--workspace-id",
            WORKSPACE_ID,
            "--agent-id",
            AGENT_ID,
        ]))
    }

    /// The daemon on one unix socket and nothing else.
    pub(crate) fn daemon_on_socket(&self) -> Result<(Guest, PathBuf)> {
        let directory = self.fresh_directory()?;
        let socket = directory.join("boxd.sock");
        let mut listen = std::ffi::OsString::from("unix:");
        listen.push(&socket);
        Ok((
            Guest::start(self.command(&directory).arg("--http").arg(listen))?,
            socket,
        ))
    }

    /// `boxd run` with state, configuration, token and log in one directory and an environment that is not the caller's.
    fn command(&self, directory: &Path) -> Command {
        let mut command = Command::new(&self.binary);
        let log = std::fs::File::create(directory.join("log"));
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", directory)
            .arg("run")
            .args(["--log", "warn", "--state-dir"])
            .arg(directory.join("state"))
            .arg("--config-dir")
            .arg(directory.join("config"))
            .arg("--token-file")
            .arg(directory.join("token"))
            .arg("--workspace-root")
            .arg(self.memory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.map_or_else(|_| Stdio::null(), Stdio::from));
        command
    }

    fn fresh_directory(&self) -> Result<PathBuf> {
        let directory = TempDir::new_in(self.state.path())?.keep();
        let token = directory.join("token");
        std::fs::write(&token, uuid::Uuid::new_v4().simple().to_string())?;
        std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        Ok(directory)
    }

    /// The relay of the same binary, and its port.
    pub(crate) async fn relay(&self) -> Result<(Guest, u16)> {
        let directory = self.fresh_directory()?;
        let (secret, ready) = (directory.join("secret"), directory.join("ready.json"));
        std::fs::write(&secret, crate::relay::SECRET)?;
        std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        let mut command = Command::new(&self.binary);
        command
            .env_clear()
            .env("HOME", &directory)
            .args(["relay", "--bind", "127.0.0.1:0", "--rate", "100000000000"])
            .arg("--secret-file")
            .arg(secret)
            .arg("--ready-file")
            .arg(&ready)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let guest = Guest::start(&mut command)?;
        let port = until("the relay", || {
            let text = std::fs::read(&ready).ok()?;
            let ready: serde_json::Value = serde_json::from_slice(&text).ok()?;
            ready["address"].as_str()?.rsplit(':').next()?.parse().ok()
        });
        Ok((guest, port.await?))
    }

    /// nginx serving the directory on tmpfs, and its port.
    pub(crate) async fn nginx(&self) -> Result<(Guest, u16)> {
        // nginx cannot bind port 0, so a free port is found first.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let prefix = self.fresh_directory()?;
        let configuration = prefix.join("nginx.conf");
        std::fs::write(
            &configuration,
            nginx_configuration(&prefix, self.memory.path(), port),
        )?;
        let mut command = Command::new("nginx");
        command
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .arg("-p")
            .arg(&prefix)
            .arg("-c")
            .arg(&configuration)
            .args(["-e", "stderr"])
            .stdin(Stdio::null());
        let guest = Guest::start(&mut command)?;
        until("nginx", || TcpStream::connect(("127.0.0.1", port)).ok()).await?;
        Ok((guest, port))
    }
}

fn nginx_configuration(prefix: &Path, root: &Path, port: u16) -> String {
    let user = if nix::unistd::geteuid().is_root() {
        "user root;"
    } else {
        ""
    };
    let prefix = prefix.display();
    let root = root.display();
    format!(
        "daemon off; {user} worker_processes 1; pid {prefix}/pid;
         events {{ worker_connections 64; }}
         http {{
           access_log off; sendfile on; tcp_nopush on; default_type application/octet-stream;
           client_body_temp_path {prefix}/body; proxy_temp_path {prefix}/proxy; fastcgi_temp_path {prefix}/fastcgi;
           uwsgi_temp_path {prefix}/uwsgi; scgi_temp_path {prefix}/scgi;
           server {{ listen 127.0.0.1:{port}; root {root}; }}
         }}"
    )
}

async fn start_broker(directory: &Path) -> Result<(Guest, String)> {
    let broker = Guest::start(
        Command::new("nats-server")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .args(["--addr", "127.0.0.1", "--port", "-1", "--ports_file_dir"])
            .arg(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    )?;
    let ports = directory.join(format!("nats-server_{}.ports", broker.pid()));
    let url = until("the ports file of nats-server", || {
        let text = std::fs::read_to_string(&ports).ok()?;
        let parsed: Value = serde_json::from_str(&text).ok()?;
        parsed["nats"][0].as_str().map(str::to_owned)
    })
    .await?;
    Ok((broker, url))
}

/// Looks again every half millisecond, which disturbs a start less than a busy loop would.
pub(crate) async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if start.elapsed() > PATIENCE {
            bail!("{what} was not there after {PATIENCE:?}");
        }
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
}
