//! The image's own main command: started beside the doors, told of every signal, and, when asked for, the end of the
//! daemon.

use super::Main;
use crate::error::Error;
use crate::exec::{Attached, Command, Exit, Handle};
use crate::ops::Rooms;

/// A main command that was started.
#[derive(Debug)]
pub(super) struct MainCommand {
    process: Attached,
    exit: Option<Exit>,
    exit_with_main: bool,
}

impl MainCommand {
    pub(super) fn start(rooms: &Rooms, main: Main) -> Result<Self, Error> {
        let command = Command::Argv(main.command);
        let process = rooms.engine().attach(&command, &rooms.workspace().root)?;
        tracing::info!(id = %process.id(), "main command started");
        Ok(Self {
            process,
            exit: None,
            exit_with_main: main.exit_with_main,
        })
    }

    pub(super) fn handle(&self) -> Handle {
        self.process.handle()
    }

    /// Whether its end is the daemon's.
    pub(super) fn ends_the_daemon(&self) -> bool {
        self.exit_with_main
    }

    /// Resolves when it has ended; to be asked only while [`MainCommand::exit`] is `None`. Cancel-safe.
    pub(super) async fn ended(&mut self) -> Result<Exit, Error> {
        let exit = self.process.exit().await?;
        tracing::info!(?exit, "main command ended");
        self.exit = Some(exit);
        Ok(exit)
    }

    /// How it ended, when it has.
    pub(super) fn exit(&self) -> Option<Exit> {
        self.exit
    }
}
