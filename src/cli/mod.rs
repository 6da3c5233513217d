//! The command line: clap types, one small file per verb, and the way from an error to an exit code.

mod banner;
mod call;
mod completions;
mod connect;
mod doctor;
mod exit;
mod flags;
mod git_credential;
mod guard;
mod man;
mod openapi;
mod output;
mod rehearse;
mod relay;
mod run;
mod secret_file;
mod service;
mod token;
mod update;
mod version;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::config::{self, Sources};
use crate::startup::{self, Startup};

/// Hands for the owner of a machine: commands, files and more over NATS and HTTP, in one static binary.
#[derive(Debug, Parser)]
#[command(
    name = "boxd",
    version,
    max_term_width = 110,
    propagate_version = false,
    subcommand_required = true,
    after_help = "\
Exit codes:
  0   stopped as asked          73  something cannot be created
  64  usage                     75  another instance runs
  69  a service is unavailable  77  permission denied
  70  internal error            78  configuration
  `boxd call` exits with the remote command's code, and 125 when it failed by itself.

Examples:
  boxd run                                  serve this directory on http://127.0.0.1:2468
  boxd doctor                               what works here, and what would fix the rest
  boxd call exec -- uname -a                run a command through the daemon"
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Run(Box<run::Run>),
    Doctor(Box<doctor::Doctor>),
    Call(Box<call::Call>),
    Connect(Box<connect::Connect>),
    Connections(connect::Connections),
    Disconnect(connect::Disconnect),
    Service(Box<service::Service>),
    Relay(Box<relay::Relay>),
    Token(Box<token::Token>),
    Update(Box<update::Update>),
    Rehearse(rehearse::Rehearse),
    Guard(guard::Guard),
    GitCredential(git_credential::GitCredential),
    Openapi(openapi::Openapi),
    Completions(completions::Completions),
    Man(man::Manual),
    Version(version::Version),
}

/// The whole program: `main` returns what this returns.
pub fn main() -> ExitCode {
    let startup = startup::take(&config::secret_names());
    let cli = match Cli::try_parse_from(&startup.arguments) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, &startup),
    };
    let outcome = match cli.verb {
        Verb::Run(run) => run.run(startup),
        Verb::Doctor(doctor) => doctor.run(startup),
        Verb::Call(call) => return call.run(startup),
        Verb::Connect(connect) => connect.run(startup),
        Verb::Connections(connections) => connections.run(startup).map(|()| ExitCode::SUCCESS),
        Verb::Disconnect(disconnect) => disconnect.run(startup).map(|()| ExitCode::SUCCESS),
        Verb::Service(service) => service.run(startup),
        Verb::Relay(relay) => relay.run(startup),
        Verb::Token(token) => token.run().map(|()| ExitCode::SUCCESS),
        Verb::Update(update) => update.run(startup),
        Verb::Rehearse(rehearse) => rehearse.run(),
        Verb::Guard(guard) => guard.run(&startup),
        Verb::GitCredential(asked) => asked.run(),
        Verb::Openapi(_) => openapi::print().map(|()| ExitCode::SUCCESS),
        Verb::Completions(completions) => completions.run().map(|()| ExitCode::SUCCESS),
        Verb::Man(man) => man.run().map(|()| ExitCode::SUCCESS),
        Verb::Version(version) => version.run().map(|()| ExitCode::SUCCESS),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            output::complaint(&error);
            exit::of(&error)
        }
    }
}

/// Prints help or the usage error. `call` leaves every code but one to the remote command.
fn usage(error: &clap::Error, startup: &Startup) -> ExitCode {
    // There is nobody left to tell when the terminal is gone.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ if startup.arguments.get(1).is_some_and(|verb| verb == "call") => ExitCode::from(exit::CALL_FAILED),
        _ => ExitCode::from(exit::USAGE),
    }
}

/// The sources of configuration without flags.
fn sources(startup: Startup) -> Sources {
    Sources {
        flags: Vec::new(),
        environment: startup.environment,
        current_dir: std::env::current_dir().ok(),
        root: nix::unistd::Uid::effective().is_root(),
        client: false,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use clap::CommandFactory;

    use super::*;

    /// Every help text, below one another, as a terminal of 100 columns shows it.
    fn helps(command: &clap::Command, path: &str, text: &mut String) {
        let path = format!("{path} {}", command.get_name()).trim_start().to_owned();
        let help = command
            .clone()
            .bin_name(&path)
            .term_width(100)
            .render_long_help()
            .to_string();
        let _ = writeln!(text, "$ {path} --help\n{help}");
        for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
            helps(verb, &path, text);
        }
    }

    #[test]
    fn every_verb_has_help_with_examples() {
        let mut command = Cli::command();
        command.build();
        let mut text = String::new();
        helps(&command, "", &mut text);
        let verbs = text.lines().filter(|line| line.starts_with("$ boxd")).count();
        assert_eq!(
            text.matches("\nExamples:\n").count(),
            verbs,
            "a verb has no examples"
        );
        insta::assert_snapshot!(text);
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
