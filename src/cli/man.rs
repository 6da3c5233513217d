//! `boxd man`: the manual pages, made from the same definitions as `--help`.

use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;

use super::{Cli, output};
use crate::error::Error;

/// Print the manual page, or write those of every verb.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  boxd man | man -l -\n  boxd man /usr/local/share/man/man1")]
pub(super) struct Manual {
    /// Write a page for every verb there, as boxd-VERB.1.
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

impl Manual {
    pub(super) fn run(&self) -> Result<(), Error> {
        let mut command = Cli::command();
        command.build();
        match &self.directory {
            None => output::answer(&page(&command)?),
            Some(directory) => write_all(&command, directory),
        }
    }
}

/// The page of a command and those of the verbs below it; what is hidden has none.
fn write_all(command: &Command, directory: &Path) -> Result<(), Error> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let path = directory.join(format!("{name}.1"));
    std::fs::write(&path, page(command)?)
        .map_err(|error| Error::from_path_io("manual page", "write", &path, error))?;
    let verbs = command.get_subcommands();
    verbs
        .filter(|verb| !verb.is_hide_set() && verb.get_name() != "help")
        .try_for_each(|verb| write_all(verb, directory))
}

fn page(command: &Command) -> Result<Vec<u8>, Error> {
    let mut page = Vec::new();
    let rendered = Man::new(command.clone()).render(&mut page);
    rendered.map(|()| page).map_err(|source| Error::Io {
        doing: "make a manual page".into(),
        source,
    })
}
