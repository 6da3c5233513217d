//! What the manager's own program is asked to do, and asking it: `systemctl` and `launchctl` as children of the engine, on
//! our own standard input and output, so that what they say is seen as they said it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::launchd::LABEL;
use super::systemd::UNIT;
use super::{Manager, Scope};
use crate::error::Error;
use crate::exec::{self, Command, Engine, Exit};
use crate::ids::InstanceId;
use crate::lifecycle::{self, Tasks};

/// What a manager can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// To read the unit that was just written, and to start it with the machine or the session.
    Enable,
    /// To stop it and to start it no longer.
    Disable,
    /// To read that the unit is gone.
    Forget,
    /// To start it now.
    Start,
    /// To stop it now.
    Stop,
    /// To stop it and start it.
    Restart,
    /// To tell how it is.
    Status,
}

/// Where systemd says that it runs this machine: see `sd_booted(3)`.
const BOOTED: &str = "/run/systemd/system";

/// Whether `manager` runs here.
///
/// # Errors
///
/// [`Error::Unavailable`], saying what to do instead.
pub fn available(manager: Manager, environment: &[(OsString, OsString)]) -> Result<(), Error> {
    let (what, missing) = match manager {
        Manager::Systemd if Path::new(BOOTED).is_dir() => return Ok(()),
        Manager::Systemd => ("systemd", format!("{BOOTED} is missing")),
        Manager::Launchd if is_on_path("launchctl", environment) => return Ok(()),
        Manager::Launchd => ("launchd", "there is no launchctl".to_owned()),
    };
    Err(Error::Unavailable {
        what: what.into(),
        reason: format!(
            "no service manager runs here ({missing}); in a container `boxd run` is the entry point"
        ),
    })
}

fn is_on_path(program: &str, environment: &[(OsString, OsString)]) -> bool {
    let path = environment.iter().find(|(name, _)| name == "PATH");
    path.is_some_and(|(_, path)| {
        std::env::split_paths(path).any(|directory| directory.join(program).is_file())
    })
}

/// The commands that do it, one after the other. Pure but for the user's number, which launchd wants to know.
fn commands(manager: Manager, scope: Scope, action: Action, unit: &Path) -> Vec<Vec<OsString>> {
    match manager {
        Manager::Systemd => systemctl(scope, action),
        Manager::Launchd => launchctl(scope, action, unit, nix::unistd::getuid().as_raw()),
    }
}

fn systemctl(scope: Scope, action: Action) -> Vec<Vec<OsString>> {
    let lines: &[&[&str]] = match action {
        Action::Enable => &[&["daemon-reload"], &["enable", UNIT]],
        Action::Disable => &[&["disable", "--now", UNIT]],
        Action::Forget => &[&["daemon-reload"]],
        Action::Start => &[&["start", UNIT]],
        Action::Stop => &[&["stop", UNIT]],
        Action::Restart => &[&["restart", UNIT]],
        Action::Status => &[&["--no-pager", "status", UNIT]],
    };
    let user = match scope {
        Scope::System => None,
        Scope::User => Some("--user"),
    };
    let line = |words: &&[&str]| {
        let words = ["systemctl"].into_iter().chain(user).chain(words.iter().copied());
        words.map(OsString::from).collect()
    };
    lines.iter().map(line).collect()
}

fn launchctl(scope: Scope, action: Action, unit: &Path, user: u32) -> Vec<Vec<OsString>> {
    let domain = match scope {
        Scope::System => "system".to_owned(),
        Scope::User => format!("gui/{user}"),
    };
    let job = format!("{domain}/{LABEL}");
    let line = |words: &[&str]| -> Vec<OsString> {
        let words = ["launchctl"].iter().chain(words);
        words.map(OsString::from).collect()
    };
    match action {
        Action::Enable => vec![line(&["enable", &job])],
        // One that is not loaded is stopped already, which bootout calls an error; disabling it settles the future.
        Action::Disable => vec![line(&["disable", &job]), line(&["bootout", &job])],
        Action::Forget => Vec::new(),
        Action::Start => {
            let mut bootstrap = line(&["bootstrap", &domain]);
            bootstrap.push(unit.into());
            vec![bootstrap]
        }
        Action::Stop => vec![line(&["bootout", &job])],
        Action::Restart => vec![line(&["kickstart", "-k", &job])],
        Action::Status => vec![line(&["print", &job])],
    }
}

/// Has the manager do it; answers the code of the first program that was not content, else 0. `environment` is what the
/// programs get.
///
/// # Errors
///
/// [`Error::NotFound`] when the program is not installed.
pub fn perform(
    (manager, scope): (Manager, Scope),
    action: Action,
    unit: &Path,
    environment: Vec<(OsString, OsString)>,
) -> Result<u8, Error> {
    let runtime = lifecycle::runtime()?;
    runtime.block_on(async {
        let tasks = Tasks::new();
        let engine = exec::Config {
            environment,
            ..exec::Config::default()
        };
        let engine = Engine::start(engine, InstanceId::mint(), &tasks);
        let mut code = 0;
        for command in commands(manager, scope, action, unit) {
            code = run(&engine, command).await?;
            if code != 0 {
                break;
            }
        }
        tasks.stop();
        Ok(code)
    })
}

async fn run(engine: &Engine, command: Vec<OsString>) -> Result<u8, Error> {
    let mut child = engine.attach(&Command::Argv(command), &PathBuf::from("/"))?;
    Ok(match child.exit().await? {
        Exit::Code(code) => u8::try_from(code).unwrap_or(u8::MAX),
        Exit::Signal { number, .. } => u8::try_from(128 + number).unwrap_or(u8::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACTIONS: [Action; 7] = [
        Action::Enable,
        Action::Disable,
        Action::Forget,
        Action::Start,
        Action::Stop,
        Action::Restart,
        Action::Status,
    ];

    #[test]
    fn managers_are_asked_in_their_own_words() {
        let mut asked = String::new();
        for (scope, unit) in [
            (Scope::System, "/Library/LaunchDaemons/boxd.plist"),
            (Scope::User, "/Users/me/Library/LaunchAgents/boxd.plist"),
        ] {
            for action in ACTIONS {
                let launchctl = launchctl(scope, action, Path::new(unit), 501);
                for words in systemctl(scope, action).into_iter().chain(launchctl) {
                    asked.push_str(&words.join("\u{20}".as_ref()).into_string().unwrap());
                    asked.push('\n');
                }
            }
        }
        insta::assert_snapshot!(asked);
    }
}
