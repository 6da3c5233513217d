//! `boxd call exec`: runs a command to its end and behaves as if it had run here.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::remote::{ExecAnswer, ExecRequest, Remote};
use super::{Shown, output};
use crate::error::Error;

/// What a command killed by its time limit exits with, as `timeout` has it.
const TIMED_OUT: u8 = 124;

/// Run a command to its end and print what it printed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  boxd call exec -- uname -a
  boxd call exec --shell -- 'ls | wc -l'
  boxd call exec --cwd src --env CI=1 --timeout 5m -- make test
  tar c . | boxd call exec --stdin - -- tar x -C /tmp")]
pub(super) struct Exec {
    /// Directory to run it in; the workspace root when not given.
    #[arg(long, value_name = "DIR", default_value = "", hide_default_value = true)]
    cwd: String,
    /// Set a variable for it; repeatable.
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Give it this file as standard input; `-` is our own.
    #[arg(long, value_name = "FILE")]
    stdin: Option<OsString>,
    /// Kill it and everything that it started after this time: 500ms, 5m.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
    /// Join the words with spaces and let the shell run them.
    #[arg(long)]
    shell: bool,
    /// A repeat with the same id gets the first outcome instead of running it again.
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// The command.
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Splits `NAME=VALUE`.
pub(super) fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it like NAME=VALUE".into()),
    }
}

impl Exec {
    pub(super) async fn perform(self, remote: &Remote, json: bool) -> Result<Shown, Error> {
        let stdin = self
            .stdin
            .map_or_else(|| Ok(Vec::new()), |path| read_all(&path))?;
        let answer = remote
            .exec(ExecRequest {
                command: self.command,
                shell: self.shell,
                cwd: self.cwd,
                env: self.env,
                stdin: stdin.into(),
                timeout: self.timeout,
                request_id: self.request_id,
            })
            .await?;
        if json {
            output::json(&answer.json)?;
        } else {
            output::answer(&answer.stdout)?;
            output::diagnostic(&answer.stderr)?;
        }
        report_omissions(&answer)?;
        Ok(Shown {
            exit: exit_code(&answer)?,
        })
    }
}

fn read_all(path: &OsStr) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let read = if path == "-" {
        std::io::stdin().lock().read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut bytes))
    };
    read.map_err(|source| Error::Io {
        doing: format!("read standard input from {path:?}"),
        source,
    })?;
    Ok(bytes)
}

/// Output that the daemon left out is said, never hidden.
fn report_omissions(answer: &ExecAnswer) -> Result<(), Error> {
    for (name, omitted) in [
        ("standard output", answer.omitted.0),
        ("standard error", answer.omitted.1),
    ] {
        if omitted > 0 {
            let note = format!(
                "boxd: {omitted} bytes in the middle of {name} were left out by the daemon; write to a file there \
                 and `boxd call read` it\n"
            );
            output::diagnostic(note.as_bytes())?;
        }
    }
    Ok(())
}

fn exit_code(answer: &ExecAnswer) -> Result<ExitCode, Error> {
    ended(answer.timed_out, answer.signal, answer.exit_code)
}

/// The exit code that stands for how a command ended.
pub(super) fn ended(timed_out: bool, signal: Option<i32>, code: Option<i32>) -> Result<ExitCode, Error> {
    if timed_out {
        output::diagnostic(b"boxd: the command was killed by its time limit\n")?;
        return Ok(ExitCode::from(TIMED_OUT));
    }
    if let Some(signal) = signal {
        return Ok(ExitCode::from(128_u8.wrapping_add(signal as u8)));
    }
    match code.and_then(|code| u8::try_from(code).ok()) {
        Some(code) => Ok(ExitCode::from(code)),
        None => Err(Error::Protocol {
            reason: "the command was killed by a signal that the daemon does not name".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> ExecAnswer {
        ExecAnswer {
            stdout: Vec::new(),
            stderr: Vec::new(),
            exit_code: None,
            signal: None,
            timed_out: false,
            omitted: (0, 0),
            json: serde_json::Value::Null,
        }
    }

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        let shown = |answer: &ExecAnswer| format!("{:?}", exit_code(answer).unwrap());
        let code = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!(
            shown(&ExecAnswer {
                exit_code: Some(7),
                ..answer()
            }),
            code(7)
        );
        assert_eq!(
            shown(&ExecAnswer {
                signal: Some(15),
                ..answer()
            }),
            code(143)
        );
        assert_eq!(
            shown(&ExecAnswer {
                timed_out: true,
                signal: Some(9),
                ..answer()
            }),
            code(124)
        );
        assert!(exit_code(&answer()).is_err());
    }

    #[test]
    fn a_variable_needs_a_name() {
        assert_eq!(variable("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert!(variable("=b").is_err() && variable("A").is_err());
    }
}
