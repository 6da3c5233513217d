//! Waiting for a reason to stop, and stopping in order.
//!
//! ```text
//!   1 refuse   doors take no new work, links say "going offline", the main command gets the signal
//!   2 wait     running work ends, at most `shutdown.grace`
//!   3 kill     TERM, then KILL, to every process tree
//!   4 flush    replies of what was killed, then the links close
//!   5 end      the runtime (in `run`)
//! ```
//!
//! A second signal skips from 2 to 3.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{Fuse, FusedFuture};

use super::main_command::MainCommand;
use super::signals::{Meaning, Signals};
use super::{Daemon, End, exit_code};
use crate::error::Error;
use crate::exec::Exit;

/// How long killed work may take to be told and answered.
const AFTER_KILL: Duration = Duration::from_secs(2);

/// Longest that a stop takes beside its grace periods: farewells, what is killed and reaped, links that flush.
const AROUND_GRACE: Duration = Duration::from_secs(15);

/// The most that a stop takes with these grace periods, for whoever waits for it.
pub(super) fn longest(grace: Duration, kill_grace: Duration) -> Duration {
    grace.saturating_add(kill_grace).saturating_add(AROUND_GRACE)
}

/// Why the daemon stops.
enum Reason {
    Signal(i32),
    MainEnded(Exit),
    Pillar(&'static str, Result<(), Error>),
    Update,
}

impl Daemon {
    /// Runs until there is a reason to stop, then stops; answers how.
    pub(super) async fn serve(mut self, mut signals: Signals) -> Result<End, Error> {
        let reason = self.reason_to_stop(&mut signals).await?;
        match &reason {
            Reason::Signal(signal) => {
                tracing::info!(signal, "stopping");
                self.pass_on(*signal);
            }
            Reason::MainEnded(_) => tracing::info!("stopping with the main command"),
            Reason::Update => tracing::info!("stopping for an update"),
            Reason::Pillar(name, _) => tracing::error!(name, "a part of the daemon ended by itself"),
        }
        match &reason {
            // The process stays, and says READY again as the new executable.
            Reason::Update => self.manager.reloading().await,
            _ => self.manager.stopping(self.longest_stop).await,
        }
        let survivors = self.stop(&mut signals).await;
        // Whoever told us to stop during an update wants us to stop.
        let was_told = signals.stop_has_come().await;
        let end = match reason {
            Reason::Update if !was_told => {
                if !survivors.is_empty() {
                    tracing::error!(?survivors, "processes could not be killed before the restart");
                }
                return Ok(End::Restart);
            }
            reason => End::Exit(self.exit_code(reason)?),
        };
        Ok(if survivors.is_empty() {
            end
        } else {
            End::Survived(survivors)
        })
    }

    async fn reason_to_stop(&mut self, signals: &mut Signals) -> Result<Reason, Error> {
        let updater = Arc::clone(self.rooms.updater());
        let nats = Arc::clone(&self.nats);
        let mut reloaded = pin!(Fuse::terminated());
        loop {
            tokio::select! {
                meaning = signals.next() => match meaning {
                    Meaning::Stop(signal) => return Ok(Reason::Signal(signal)),
                    Meaning::PassOn(signal) => {
                        self.pass_on(signal);
                        if signal == libc::SIGHUP {
                            self.manager.reloading().await;
                            reloaded.set(nats.look_again().fuse());
                        }
                    }
                },
                () = reloaded.as_mut(), if !reloaded.is_terminated() => self.manager.reloaded().await,
                exit = next_end(&mut self.main) => {
                    let exit = exit?;
                    if self.ends_with_main() {
                        return Ok(Reason::MainEnded(exit));
                    }
                }
                () = updater.restart_wanted() => return Ok(Reason::Update),
                Some((name, end)) = self.tasks.next_pillar() => return Ok(Reason::Pillar(name, end)),
            }
        }
    }

    fn exit_code(&self, reason: Reason) -> Result<u8, Error> {
        match reason {
            Reason::MainEnded(exit) => Ok(exit_code(exit)),
            Reason::Signal(_) if self.ends_with_main() => Ok(self
                .main
                .as_ref()
                .and_then(MainCommand::exit)
                .map_or(0, exit_code)),
            Reason::Signal(_) | Reason::Update => Ok(0),
            Reason::Pillar(_, Err(error)) => Err(error),
            Reason::Pillar(name, Ok(())) => Err(Error::Internal {
                reason: format!("{name} ended before it was told to"),
            }),
        }
    }

    fn ends_with_main(&self) -> bool {
        self.main.as_ref().is_some_and(MainCommand::ends_the_daemon)
    }

    fn pass_on(&self, signal: i32) {
        if let Some(main) = &self.main {
            main.handle().signal(signal);
        }
    }

    /// Stops in order; answers the processes that would not end.
    async fn stop(&mut self, signals: &mut Signals) -> Vec<i32> {
        let (nats, tasks, grace) = (Arc::clone(&self.nats), self.tasks.clone(), self.grace);
        step("refuse new work", async {
            tasks.stop();
            Box::pin(nats.going_offline()).await;
        })
        .await;
        step("wait for work", async {
            let ended = async { tokio::join!(tasks.idle(grace), within(grace, all_ended(&mut self.main))) };
            tokio::select! {
                _ = ended => {}
                () = signals.next_stop() => tracing::info!("told again, not waiting any longer"),
            }
        })
        .await;
        let mut survivors = Vec::new();
        step("kill process trees", async {
            survivors = self.kill_trees().await;
        })
        .await;
        step("flush links", nats.close()).await;
        survivors
    }

    /// TERM, then KILL, to everything that was ever started; answers what would not end.
    async fn kill_trees(&mut self) -> Vec<i32> {
        self.tasks.kill();
        let engine = Arc::clone(self.rooms.engine());
        let survivors = if engine.bore_any() {
            engine.kill_everything().await
        } else {
            Vec::new()
        };
        // Where /proc cannot be read, it is reached by its descriptor alone; commands are, by whoever accompanies them.
        if let Some(main) = self.main.as_ref().map(MainCommand::handle) {
            let _ = tokio::task::spawn_blocking(move || main.kill()).await;
        }
        tokio::join!(
            self.tasks.idle(AFTER_KILL),
            within(AFTER_KILL, all_ended(&mut self.main))
        );
        survivors
    }
}

/// Resolves with the end of the main command; never without one or when its end is known already. Cancel-safe.
async fn next_end(main: &mut Option<MainCommand>) -> Result<Exit, Error> {
    match main {
        Some(main) if main.exit().is_none() => main.ended().await,
        _ => std::future::pending().await,
    }
}

/// Resolves when no main command runs (any more).
async fn all_ended(main: &mut Option<MainCommand>) {
    if let Some(main) = main.as_mut().filter(|main| main.exit().is_none())
        && let Err(error) = main.ended().await
    {
        tracing::warn!(%error, "the end of the main command is not known");
    }
}

async fn within(limit: Duration, future: impl Future<Output = ()>) {
    if tokio::time::timeout(limit, future).await.is_err() {
        tracing::debug!(?limit, "did not end in time");
    }
}

/// One step of the stop, logged with the time it took.
async fn step(name: &'static str, future: impl Future<Output = ()>) {
    let started = Instant::now();
    future.await;
    tracing::info!(step = name, took = ?started.elapsed(), "stop");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};
    use crate::service::STOP_TIMEOUT;

    #[test]
    fn a_manager_waits_longer_than_a_stop_takes_by_default() {
        let config = load(&Sources::default()).unwrap().config;
        assert!(longest(config.shutdown_grace, config.exec.kill_grace) < STOP_TIMEOUT);
    }
}
