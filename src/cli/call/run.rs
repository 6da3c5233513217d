//! `boxd call run`: runs a command and prints what it prints as it comes, also over a connection that breaks.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::task::Poll;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Shown;
use super::exec::variable;
use super::remote::{ExecRequest, Remote};
use super::streamed::Printer;
use crate::error::Error;

/// Bytes that the daemon keeps for a terminal that is slower than the command.
const RETENTION: u64 = 256 << 20;

/// Run a command and print its output as it comes; a lost connection is taken up again.
#[derive(Debug, Args)]
#[command(after_help = "\
An interrupt (Ctrl-C), TERM or HUP is passed on to the command; a second one leaves it running. Whoever closes our
output (| head) ends it.

Examples:
  boxd call run -- make test
  boxd call run --shell -- 'for i in 1 2 3; do date; sleep 1; done'
  boxd call run --json -- ls")]
pub(super) struct Run {
    /// Directory to run it in; the workspace root when not given.
    #[arg(long, value_name = "DIR", default_value = "", hide_default_value = true)]
    cwd: String,
    /// Set a variable for it; repeatable.
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Kill it and everything that it started after this time: 500ms, 5m.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
    /// Join the words with spaces and let the shell run them.
    #[arg(long)]
    shell: bool,
    /// A repeat with the same id goes on with the same command instead of running it again.
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// Print output as it comes; it always does, `exec` does not.
    #[arg(long)]
    stream: bool,
    /// The command.
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Run {
    pub(super) async fn perform(self, remote: &Remote, json: bool) -> Result<Shown, Error> {
        let request = ExecRequest {
            command: self.command,
            shell: self.shell,
            cwd: self.cwd,
            env: self.env,
            stdin: bytes::Bytes::new(),
            timeout: self.timeout,
            request_id: Some(
                self.request_id
                    .unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string()),
            ),
        };
        let mut printer = Printer {
            json,
            ..Printer::default()
        };
        let ending = tokio::select! {
            ending = remote.run(&request, &mut printer) => ending?,
            interrupt = impatient() => Ending::Left(interrupt),
        };
        Ok(Shown {
            exit: printer.code(ending)?,
        })
    }
}

/// How long a second signal may take to be heard where streams are read.
const PATIENCE: Duration = Duration::from_secs(1);

/// Resolves some time after the second signal, wherever we are stuck. Cancel-safe.
async fn impatient() -> Interrupt {
    let mut interrupts = Interrupts::listen();
    loop {
        let (interrupt, is_first) = interrupts.next().await;
        if !is_first {
            tokio::time::sleep(PATIENCE).await;
            return interrupt;
        }
    }
}

/// How a stream was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The command has ended.
    Ended,
    /// We were told to leave, by this signal.
    Left(Interrupt),
}

/// A signal that is passed on to the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interrupt {
    /// Ctrl-C.
    Int,
    /// The terminal is gone.
    Hup,
    /// Somebody ends us.
    Term,
}

impl Interrupt {
    fn kind(self) -> SignalKind {
        match self {
            Self::Int => SignalKind::interrupt(),
            Self::Hup => SignalKind::hangup(),
            Self::Term => SignalKind::terminate(),
        }
    }

    /// Its name without `SIG`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Int => "INT",
            Self::Hup => "HUP",
            Self::Term => "TERM",
        }
    }

    /// What it leaves behind, as a shell has it.
    pub(super) fn exit_code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Int => 130,
            Self::Hup => 129,
            Self::Term => 143,
        })
    }
}

/// What is to be passed on: nothing is missed from the moment this is there.
#[derive(Debug)]
pub(super) struct Interrupts {
    signals: Vec<(Interrupt, Signal)>,
    count: u32,
}

impl Interrupts {
    /// Begins to listen; these signals do not end us any more. Those that whoever started us has ignored (`nohup`) stay
    /// ignored.
    pub(super) fn listen() -> Self {
        let ignored = ignored();
        let listen = |interrupt: Interrupt| {
            let kind = interrupt.kind();
            if ignored >> (kind.as_raw_value() - 1) & 1 == 1 {
                return None;
            }
            // Without signals there is nothing to pass on.
            signal(kind).ok().map(|signal| (interrupt, signal))
        };
        Self {
            signals: [Interrupt::Int, Interrupt::Hup, Interrupt::Term]
                .into_iter()
                .filter_map(listen)
                .collect(),
            count: 0,
        }
    }

    /// Resolves at the next one; says whether it is the first. Cancel-safe.
    pub(super) async fn next(&mut self) -> (Interrupt, bool) {
        let come = std::future::poll_fn(|context| {
            let mut signals = self.signals.iter_mut();
            let come = signals.find_map(|(interrupt, signal)| match signal.poll_recv(context) {
                Poll::Ready(Some(())) => Some(*interrupt),
                Poll::Ready(None) | Poll::Pending => None,
            });
            come.map_or(Poll::Pending, Poll::Ready)
        });
        let come = come.await;
        self.count += 1;
        (come, self.count == 1)
    }
}

/// The signals that are ignored, a bit for each; none where the kernel does not tell.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

/// The payload of `process.create`.
pub(super) fn payload(request: &ExecRequest) -> serde_json::Value {
    let mut words = request.command.iter();
    let mut payload = json!({
        "command": words.next(),
        "args": words.collect::<Vec<_>>(),
        "shell": request.shell,
        "env": request.env.iter().cloned().collect::<BTreeMap<_, _>>(),
        "idempotencyKey": request.request_id,
        "timeoutMs": request.timeout.map_or(0, |timeout| timeout.as_millis().max(1) as u64),
        "retention": { "bytes": RETENTION },
        "labels": { "via": "boxd call run" },
    });
    if !request.cwd.is_empty() {
        payload["cwd"] = request.cwd.as_str().into();
    }
    payload
}
