//! A moment in which nothing runs and nothing begins, for what must not fall between two commands.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::birth::{SPARE_BIRTHS, usual_births};
use super::engine::Engine;

/// How often it is looked whether anything lives.
const LOOK: Duration = Duration::from_millis(200);

/// Nothing lives and nothing is born while this is held.
#[derive(Debug)]
#[must_use]
pub struct Rest {
    _births: OwnedSemaphorePermit,
    _spare_births: OwnedSemaphorePermit,
}

impl Engine {
    /// Resolves when no process lives, and keeps all others from being born for as long as its answer is held: whoever
    /// asks for one waits. Cancel-safe.
    pub async fn at_rest(&self) -> Rest {
        loop {
            if let Some(rest) = self.rest().filter(|_| self.living() == 0) {
                return rest;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Not by waiting in the queue, where one birth that hangs would hold up all that come later.
    fn rest(&self) -> Option<Rest> {
        let all = |births: &Arc<Semaphore>, count: usize| {
            let count = u32::try_from(count).ok()?;
            Arc::clone(births).try_acquire_many_owned(count).ok()
        };
        Some(Rest {
            _births: all(&self.births, usual_births())?,
            _spare_births: all(&self.spare_births, SPARE_BIRTHS)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Command, Config, Environment, ProcessSpec};
    use super::*;
    use crate::ids::InstanceId;
    use crate::lifecycle::Tasks;
    use crate::stream::Keep;

    fn command(line: &str) -> ProcessSpec {
        let words = ["/bin/sh", "-c", line].map(Into::into).to_vec();
        let keep = Keep::both_ends(64);
        ProcessSpec {
            environment: Environment::Exact(Vec::new()),
            ..ProcessSpec::new(Command::Argv(words), "/", keep)
        }
    }

    #[tokio::test]
    async fn a_birth_of_either_kind_that_is_under_way_is_no_rest() {
        let tasks = Tasks::new();
        let engine = Engine::start(Config::default(), InstanceId::mint(), &tasks);
        for births in [&engine.births, &engine.spare_births] {
            let birth = births.try_acquire().unwrap();
            assert!(engine.rest().is_none());
            drop(birth);
            assert!(engine.rest().is_some());
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_comes_during_a_rest_waits_for_its_end_and_a_rest_for_the_end_of_who_was_there() {
        let tasks = Tasks::new();
        let engine = Engine::start(Config::default(), InstanceId::mint(), &tasks);
        let keep = Keep::both_ends(64);
        let directory = tempfile::tempdir().unwrap();
        let ended = directory.path().join("ended");
        let early = command(&format!("sleep 0.5; : >{}", ended.display()));
        let (early, rest) = tokio::join!(engine.run(early, keep), async {
            while engine.living() == 0 {
                tokio::task::yield_now().await;
            }
            let rest = engine.at_rest().await;
            assert!(ended.exists());
            rest
        });
        early.unwrap();
        let mut late = Box::pin(engine.run(command("true"), keep));
        assert!(tokio::time::timeout(2 * LOOK, &mut late).await.is_err());
        drop(rest);
        late.await.unwrap();
    }
}
