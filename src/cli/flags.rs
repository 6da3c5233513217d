//! Flags that set settings, generated from the table of settings for clap.

use std::ffi::OsString;
use std::marker::PhantomData;

use clap::error::Error as ClapError;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};

use crate::config::{Given, SETTINGS, Setting};

/// Which settings a verb takes as flags.
pub(super) trait Selection: Clone + Send + Sync + 'static {
    /// Whether `setting` is among them.
    fn has(setting: &Setting) -> bool;
    /// Whether the flags may also stand after a verb below.
    const GLOBAL: bool;
}

/// Flags of a daemon.
#[derive(Debug, Clone)]
pub(super) struct Daemon;

impl Selection for Daemon {
    fn has(setting: &Setting) -> bool {
        !setting.key.starts_with("call.")
    }
    const GLOBAL: bool = false;
}

/// Flags of a client: how to reach a daemon and what to show it.
#[derive(Debug, Clone)]
pub(super) struct Client;

impl Selection for Client {
    fn has(setting: &Setting) -> bool {
        [
            "call.url",
            "config.file",
            "config.dir",
            "state.dir",
            "http.token_file",
            "link.nats_urls",
            "link.workspace_id",
            "link.agent_id",
            "link.nats_token",
            "link.nats_token_file",
            "link.nats_creds",
        ]
        .contains(&setting.key)
    }
    const GLOBAL: bool = true;
}

/// The values of the flags of a selection, by the key of their setting.
#[derive(Debug, Clone)]
pub(super) struct SettingFlags<S> {
    pub(super) given: Vec<(&'static str, Given)>,
    selection: PhantomData<S>,
}

fn selected<S: Selection>() -> impl Iterator<Item = (&'static Setting, &'static str)> {
    SETTINGS
        .iter()
        .filter(|setting| S::has(setting))
        .filter_map(|setting| Some((setting, setting.flag?)))
}

impl<S: Selection> Args for SettingFlags<S> {
    fn augment_args(command: Command) -> Command {
        selected::<S>().fold(command, |command, (setting, flag)| {
            let help = match setting.variable {
                Some(variable) => format!("{} [env: {variable}]", setting.doc.trim_end_matches('.')),
                None => setting.doc.trim_end_matches('.').to_owned(),
            };
            let argument = Arg::new(setting.key).long(flag).help(help).global(S::GLOBAL);
            command.arg(match setting.value {
                None => argument.action(ArgAction::SetTrue),
                Some(value) => {
                    let action = if setting.repeatable {
                        ArgAction::Append
                    } else {
                        ArgAction::Set
                    };
                    argument
                        .action(action)
                        .value_name(value)
                        .value_parser(value_parser!(OsString))
                }
            })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<S: Selection> FromArgMatches for SettingFlags<S> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, ClapError> {
        let given = selected::<S>()
            .filter_map(|(setting, _)| {
                let given = if setting.value.is_none() {
                    matches.get_flag(setting.key).then_some(Given::Present)?
                } else {
                    Given::Words(matches.get_many::<OsString>(setting.key)?.cloned().collect())
                };
                Some((setting.key, given))
            })
            .collect();
        Ok(Self {
            given,
            selection: PhantomData,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), ClapError> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
