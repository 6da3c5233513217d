//! What a link says of itself unasked while it stands: Hello, heartbeats, how far an update is, and that another process
//! answers as the same agent.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::time::MissedTickBehavior;

use super::generation::{End, Generation};
use super::hello;
use super::outbound::Gone;
use crate::wire::proto::Hello;

impl Generation {
    /// Says how far an update is.
    pub(super) fn say_progress(&self, agent_id: &str) -> Result<(), Gone> {
        let progress = self.link.door.rooms.updater().status().progress;
        let event = progress.and_then(|progress| hello::update_progress(agent_id, &progress));
        event.map_or(Ok(()), |event| self.publish_event(&event))
    }

    /// Hello as it would be said now, without the executable's digest.
    pub(super) fn hello(&self) -> Hello {
        let door = &self.link.door;
        hello::hello(door, &self.link.config(), &door.rooms.capabilities())
    }

    /// Says hello on every family; says whether the executable's digest was in it.
    pub(super) async fn say_hello(&self, hello: Hello, wait: Duration) -> Result<bool, Gone> {
        let digest = self.link.door.digest.within(wait).await;
        let known = digest.is_some();
        let binary_sha256 = digest.unwrap_or_default();
        let hello = Hello {
            binary_sha256,
            ..hello
        };
        let payload = Bytes::from(hello.encode_to_vec());
        self.families
            .iter()
            .try_for_each(|family| self.publish(&family.hello, &payload))?;
        Ok(known)
    }

    /// Goes on from the Hello that was said, and whether the digest was in it.
    pub(super) async fn beat_until_gone(self: Arc<Self>, said: Hello, digest_said: bool) {
        if Arc::clone(&self).beat(said, digest_said).await.is_err() {
            self.finish(End::Lost);
        }
    }

    /// Heartbeats, the progress of updates, and Hello again when a capability or a consent changed or the digest became
    /// known.
    async fn beat(self: Arc<Self>, mut said: Hello, mut digest_said: bool) -> Result<(), Gone> {
        let door = Arc::clone(&self.link.door);
        let agent_id = self.link.config().agent_id.clone();
        let mut ticks = tokio::time::interval(door.config.heartbeat);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut seq = 0;
        let mut updates = door.rooms.updater().changes();
        if let Some(update) = door.rooms.updater().status().rolled_back {
            self.publish_event(&hello::rolled_back(&agent_id, &update))?;
        }
        loop {
            let is_tick = tokio::select! {
                _ = ticks.tick() => true,
                Ok(()) = updates.changed() => false,
            };
            if door.is_offline() {
                return Ok(());
            }
            if !is_tick {
                self.say_progress(&agent_id)?;
                continue;
            }
            let now = self.hello();
            if now != said || (!digest_said && door.digest.within(Duration::ZERO).await.is_some()) {
                said = now.clone();
                digest_said |= self.say_hello(now, Duration::ZERO).await?;
            }
            seq += 1;
            // Not flushed: that would wait for every reply before it. A connection that takes nothing is found out by
            // the pings of its client.
            self.publish_event(&hello::heartbeat(&door, &self.link.ops, &agent_id, seq))?;
        }
    }

    /// Says so when another process answers as this agent, and lets it hear of us.
    pub(super) async fn hear_hello(&self, subject: &str) {
        let Some(other) = self.link.door.doubles.hear(subject) else {
            return;
        };
        tracing::error!(
            agent = self.link.config().agent_id,
            other,
            "another boxd answers as this agent, and every request is performed by both: a machine was copied with its \
             identity; stop one of them, or enroll it again with `boxd connect --force`"
        );
        // When this is lost with the connection, the next Hello tells it.
        let _ = self.say_hello(self.hello(), Duration::ZERO).await;
    }
}
