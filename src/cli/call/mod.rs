//! `boxd call`: drives a running boxd, over HTTP or over NATS, from a shell.
//!
//! What the remote command printed is printed, and its exit code is ours. Failures of our own, among them every error
//! that the daemon answers, exit 125.

mod address;
mod attach;
mod exec;
mod files;
mod follow;
mod git;
mod http;
mod nats;
mod nats_stream;
mod processes;
mod remote;
mod run;
mod search;
mod simple;
mod streamed;
mod terminal;
mod watch;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::flags::{Client, SettingFlags};
use super::{exit, output};
use crate::config::{self, Config, Layer, Loaded, Sources};
use crate::error::Error;
use crate::lifecycle;
use crate::startup::Startup;
use remote::Remote;

/// Drive a running boxd over HTTP, or over NATS with --nats-url.
#[derive(Debug, Args)]
#[command(after_help = "\
The daemon is found by --url or BOXD_URL, else by the ready file in the state
directory; the token by --token-file, BOXD_TOKEN_FILE or BOXD_TOKEN, else by the
file that the ready file names.

Exit codes:
  that of the remote command, 128+n after signal n, 124 after its time limit;
  125 when the call itself failed

Examples:
  boxd call exec -- uname -a
  boxd call run -- make test
  boxd call ps
  echo hello | boxd call exec --stdin - -- tr a-z A-Z
  boxd call read /etc/os-release
  boxd call write notes.txt < notes.txt
  boxd call search 'fn main' src
  boxd call watch src
  boxd call git status
  boxd call op host.capabilities
  boxd call --url http://127.0.0.1:2468 --token-file ./token ping
  boxd call --nats-url nats://127.0.0.1:4222 --workspace-id W --agent-id A exec -- id")]
pub(super) struct Call {
    #[command(flatten)]
    flags: SettingFlags<Client>,
    /// Print the whole answer as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    operation: Operation,
}

#[derive(Debug, Subcommand)]
enum Operation {
    Exec(exec::Exec),
    Run(run::Run),
    Ps(processes::Ps),
    Logs(processes::Logs),
    Kill(processes::Kill),
    Attach(attach::Attach),
    Read(files::Read),
    Write(files::Write),
    Ls(files::Ls),
    Stat(files::Stat),
    Mkdir(files::Mkdir),
    Mv(files::Mv),
    Rm(files::Rm),
    Search(search::Search),
    Watch(watch::Watch),
    Git(git::Git),
    Ping(simple::Ping),
    Metrics(simple::Metrics),
    Op(simple::Op),
}

/// What an operation answered and how it is to be shown.
struct Shown {
    exit: ExitCode,
}

impl Shown {
    /// Success.
    const OK: Self = Self {
        exit: ExitCode::SUCCESS,
    };
}

impl Call {
    /// Runs the operation and answers the exit code; failures were printed.
    pub(super) fn run(self, startup: Startup) -> ExitCode {
        match self.perform(startup) {
            Ok(shown) => shown.exit,
            Err(error) => {
                output::complaint(&error);
                ExitCode::from(exit::CALL_FAILED)
            }
        }
    }

    fn perform(self, startup: Startup) -> Result<Shown, Error> {
        let loaded = config::load(&Sources {
            flags: self.flags.given,
            client: true,
            ..super::sources(startup)
        })?;
        let runtime = lifecycle::runtime()?;
        let json = self.json;
        let outcome = runtime.block_on(async {
            let remote = connect(&loaded).await?;
            match self.operation {
                Operation::Exec(exec) => exec.perform(&remote, json).await,
                Operation::Run(run) => run.perform(&remote, json).await,
                Operation::Ps(ps) => ps.perform(&remote, json).await,
                Operation::Logs(logs) => logs.perform(&remote, json).await,
                Operation::Kill(kill) => kill.perform(&remote, json).await,
                Operation::Attach(attach) => attach.perform(&remote).await,
                Operation::Read(read) => read.perform(&remote).await,
                Operation::Write(write) => write.perform(&remote, json).await,
                Operation::Ls(ls) => ls.perform(&remote, json).await,
                Operation::Stat(stat) => stat.perform(&remote, json).await,
                Operation::Mkdir(mkdir) => mkdir.perform(&remote, json).await,
                Operation::Mv(mv) => mv.perform(&remote, json).await,
                Operation::Rm(rm) => rm.perform(&remote, json).await,
                Operation::Watch(watch) => watch.perform(&remote, json).await,
                Operation::Git(git) => git.perform(&remote, json).await,
                Operation::Search(search) => search.perform(&remote, json).await,
                Operation::Ping(ping) => ping.perform(&remote, json).await,
                Operation::Metrics(metrics) => metrics.perform(&remote, json).await,
                Operation::Op(op) => op.perform(&remote).await,
            }
        });
        // A read of standard input that nobody waits for any more must not keep us.
        runtime.shutdown_background();
        outcome
    }
}

/// The daemon that runs here, for verbs that need it.
pub(super) struct Here(http::Http);

impl Here {
    /// Finds it; who it is was not asked yet.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] when none runs.
    pub(super) fn find(config: &Config) -> Result<Self, Error> {
        http::Http::find(config).map(Self)
    }

    /// Does an operation there by its stable name.
    pub(super) async fn operation(&self, name: &str, payload: &Value) -> Result<Value, Error> {
        self.0.operation(name, payload).await
    }
}

/// NATS when a broker was named on the command line; a variable may be the daemon's own and does not choose it.
async fn connect(loaded: &Loaded) -> Result<Remote, Error> {
    let by_flag = |key| {
        loaded
            .origins
            .iter()
            .any(|(setting, layer)| setting.key == key && matches!(layer, Layer::Flag(_)))
    };
    let config: &Config = &loaded.config;
    if by_flag("link.nats_urls") {
        nats::Nats::connect(config).await.map(Remote::Nats)
    } else {
        http::Http::find(config).map(Remote::Http)
    }
}

/// Prints the answer of an operation whose success says it all: nothing, or JSON when asked for.
fn show_done(value: &Value, json: bool) -> Result<Shown, Error> {
    if json {
        output::json(value)?;
    }
    Ok(Shown::OK)
}
