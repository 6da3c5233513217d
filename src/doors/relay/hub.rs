//! All channels of a relay, and what it counts.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus::{Encoder, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};
use tokio::sync::{Notify, Semaphore};

use super::admit::{Key, Query, Role};
use super::channel::{Attached, Channel, Side};
use super::rate::Rate;
use crate::error::Error;

/// Channels at once: each may hold two rings.
const CHANNELS: usize = 8192;
/// Of these, channels of one workspace: whoever may open some must not close the relay for all others.
const OF_ONE: usize = 1024;
/// Connections that are not attached yet.
const WAITING: usize = 256;

/// The channels.
pub(super) struct Hub {
    channels: Mutex<HashMap<Key, Arc<Shared>>>,
    /// Bytes of a ring.
    ring: usize,
    /// Places for connections that are not attached yet.
    pub(super) waiting: Semaphore,
    pub(super) counts: Counts,
}

/// A channel, and news of it.
pub(super) struct Shared {
    pub(super) channel: Mutex<Channel>,
    /// There may be something to send.
    pub(super) news: Notify,
    /// There may be room for more.
    pub(super) room: Notify,
    /// What each end may still send: dialing again does not fill it up.
    producer_rate: Mutex<Option<Rate>>,
    viewer_rate: Mutex<Option<Rate>>,
    /// Since when nobody is attached.
    idle: Mutex<Option<Instant>>,
}

/// What is counted.
pub(super) struct Counts {
    registry: Registry,
    channels: IntGaugeVec,
    pub(super) attached: IntCounterVec,
    pub(super) bytes: IntCounterVec,
    pub(super) refused: IntCounterVec,
    pub(super) rate_limited: IntCounter,
    pub(super) replaced: IntCounter,
    pub(super) view_only: IntCounter,
    pub(super) doubted: IntCounter,
}

impl Hub {
    pub(super) fn new(ring: usize) -> Result<Self, Error> {
        Ok(Self {
            channels: Mutex::default(),
            ring,
            waiting: Semaphore::new(WAITING),
            counts: Counts::new().map_err(|error| metrics(&error))?,
        })
    }

    /// The channel that is live at an address that leaves it open, when there is exactly one.
    pub(super) fn only_live(&self, query: &Query) -> Option<String> {
        let channels = self.channels.lock();
        let mut live = channels
            .iter()
            .filter(|(key, shared)| query.fits(key) && shared.channel.lock().is_live());
        let found = live.next()?.0.channel.clone();
        live.next().is_none().then_some(found)
    }

    /// Attaches somebody.
    ///
    /// # Errors
    ///
    /// [`Error::Fenced`] when its lease is older than one that was seen.
    pub(super) fn attach(&self, key: Key, role: Role, resume: u64) -> Result<(Arc<Shared>, Attached), Error> {
        // Under one lock, so that nobody removes the channel in between.
        let mut channels = self.channels.lock();
        if !channels.contains_key(&key) {
            let of_one = channels.keys().filter(|known| known.workspace == key.workspace);
            let is_full = |what, limit| Error::Overloaded {
                what,
                reason: format!("{limit} are known; those that nobody is attached to go after two minutes"),
            };
            if channels.len() >= CHANNELS {
                return Err(is_full("the number of channels of this relay", CHANNELS));
            }
            if of_one.count() >= OF_ONE {
                return Err(is_full("the number of channels of one workspace", OF_ONE));
            }
        }
        let shared = Arc::clone(
            channels
                .entry(key)
                .or_insert_with(|| Arc::new(Shared::new(self.ring))),
        );
        let attached = match role {
            Role::Producer => shared.channel.lock().attach_producer(resume),
            Role::Viewer { viewer, epoch, mode } => {
                let attached = shared.channel.lock().attach_viewer(&viewer, epoch, mode, resume);
                attached.map_err(|stale| Error::Forbidden {
                    reason: format!("the lease {epoch} is older than {}", stale.floor),
                })?
            }
        };
        *shared.idle.lock() = None;
        drop(channels);
        // Whoever was there before is told that it was replaced.
        shared.news.notify_waiters();
        shared.room.notify_waiters();
        Ok((shared, attached))
    }

    /// Forgets channels that nobody is attached to since `limit`.
    pub(super) fn reap(&self, now: Instant, limit: Duration) {
        self.channels.lock().retain(|_, shared| {
            let idle = *shared.idle.lock();
            idle.is_none_or(|since| now.saturating_duration_since(since) < limit)
        });
    }

    /// The counts in the text format of Prometheus.
    pub(super) fn metrics(&self) -> Result<String, Error> {
        let (mut live, mut idle) = (0, 0);
        for shared in self.channels.lock().values() {
            let count = if shared.channel.lock().is_idle() {
                &mut idle
            } else {
                &mut live
            };
            *count += 1;
        }
        self.counts.channels.with_label_values(&["attached"]).set(live);
        self.counts.channels.with_label_values(&["idle"]).set(idle);
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.counts.registry.gather(), &mut text)
            .map_err(|error| metrics(&error))?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

impl Shared {
    fn new(ring: usize) -> Self {
        Self {
            channel: Mutex::new(Channel::new(ring)),
            news: Notify::new(),
            room: Notify::new(),
            producer_rate: Mutex::default(),
            viewer_rate: Mutex::default(),
            idle: Mutex::default(),
        }
    }

    /// Whether one end may send so many bytes now.
    pub(super) fn allows(&self, side: Side, bytes: usize, (rate, burst): (u64, u64), now: Instant) -> bool {
        let mut bucket = match side {
            Side::Producer => self.producer_rate.lock(),
            Side::Viewer => self.viewer_rate.lock(),
        };
        bucket
            .get_or_insert_with(|| Rate::new(rate, burst, now))
            .allows(bytes, now)
    }

    /// The connection of an attachment is gone.
    pub(super) fn detach(&self, side: Side, id: u64, now: Instant) {
        {
            let mut channel = self.channel.lock();
            channel.detach(side, id);
            if channel.is_idle() {
                self.idle.lock().get_or_insert(now);
            }
        }
        self.room.notify_waiters();
    }
}

impl Counts {
    fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let vector = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            prometheus::Result::Ok(counter)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            prometheus::Result::Ok(counter)
        };
        let channels = IntGaugeVec::new(
            Opts::new(
                "boxd_relay_channels",
                "Channels that are known, by whether somebody is attached.",
            ),
            &["state"],
        )?;
        registry.register(Box::new(channels.clone()))?;
        Ok(Self {
            channels,
            attached: vector("boxd_relay_attached_total", "Attachments, by side.", &["side"])?,
            bytes: vector(
                "boxd_relay_bytes_total",
                "Payload bytes taken, by the side that sent them.",
                &["side"],
            )?,
            refused: vector(
                "boxd_relay_refused_total",
                "Attachments refused, by reason.",
                &["reason"],
            )?,
            rate_limited: counter(
                "boxd_relay_rate_limited_total",
                "Connections closed because they sent too fast.",
            )?,
            replaced: counter(
                "boxd_relay_replaced_total",
                "Attachments that a newer one took the place of.",
            )?,
            view_only: counter(
                "boxd_relay_view_only_total",
                "Messages dropped because their sender may only look.",
            )?,
            doubted: counter(
                "boxd_relay_doubted_total",
                "Frames of viewers left out because they seem to have come before the relay was restarted.",
            )?,
            registry,
        })
    }
}

fn metrics(error: &prometheus::Error) -> Error {
    Error::Internal {
        reason: format!("metrics: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_workspace_does_not_take_the_channels_of_all() {
        let hub = Hub::new(1024).unwrap();
        let attach = |workspace: &str, channel: usize| {
            let key = Key {
                workspace: workspace.into(),
                agent: "a".into(),
                port: 7681,
                channel: channel.to_string(),
            };
            hub.attach(key, Role::Producer, 0).map(|_| ())
        };
        (0..OF_ONE).for_each(|channel| attach("w", channel).unwrap());
        let error = attach("w", OF_ONE).unwrap_err();
        assert!(matches!(error, Error::Overloaded { .. }), "{error}");
        attach("w", 0).unwrap();
        attach("another", 0).unwrap();
    }

    #[test]
    fn a_channel_is_forgotten_when_nobody_was_attached_for_long_enough() {
        const LIMIT: Duration = Duration::from_secs(120);
        let hub = Hub::new(1024).unwrap();
        let key = || Key {
            workspace: "w".into(),
            agent: "a".into(),
            port: 7681,
            channel: "c".into(),
        };
        let known = || hub.channels.lock().len();
        let (shared, attached) = hub.attach(key(), Role::Producer, 0).unwrap();
        let start = Instant::now();
        hub.reap(start + 10 * LIMIT, LIMIT);
        assert_eq!(known(), 1, "somebody is there");
        shared.detach(Side::Producer, attached.id, start);
        hub.reap(start + LIMIT / 2, LIMIT);
        assert_eq!(known(), 1, "it may come back");
        let (shared, attached) = hub.attach(key(), Role::Producer, 0).unwrap();
        hub.reap(start + 10 * LIMIT, LIMIT);
        assert_eq!(known(), 1, "it came back");
        shared.detach(Side::Producer, attached.id, start + LIMIT);
        hub.reap(start + LIMIT + LIMIT / 2, LIMIT);
        assert_eq!(known(), 1);
        hub.reap(start + 2 * LIMIT, LIMIT);
        assert_eq!(known(), 0);
    }
}
