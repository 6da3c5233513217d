//! The producer's end of one channel, over connections that break: what it sent and is not sure of, and what it received.
//! Pure.
//!
//! The frames of a stream have no acknowledgement. But a `WebSocket` answers each ping behind everything that was sent
//! before it, so a pong tells that the relay has those frames in its ring. What no pong covers is sent again over the
//! next connection, under the numbers that it had; whoever has it already knows it by them.

use std::collections::VecDeque;

use bytes::Bytes;

/// Bytes that may be sent and not confirmed.
const WINDOW: usize = 1 << 20;

/// A frame that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sent {
    /// Its number.
    pub(super) seq: u64,
    pub(super) data: Bytes,
    /// Unix time, milliseconds.
    pub(super) produced_at_ms: i64,
}

/// What a frame of the other end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    /// The next one.
    New,
    /// It was here before.
    Known,
    /// A later one: so many before it are lost.
    Behind(u64),
}

/// Both cursors.
#[derive(Debug, Default)]
pub(super) struct Session {
    /// The number of the next frame that is sent.
    next_sent: u64,
    /// The number of the next frame that is expected.
    next_received: u64,
    /// Sent, and not known to have arrived.
    unconfirmed: VecDeque<Sent>,
    bytes: usize,
    /// A ping that is on its way: its number, and the number of the first frame behind it.
    asked: Option<(u64, u64)>,
    pings: u64,
    /// Frames that were confirmed or received: whether a connection was of use.
    progress: u64,
}

impl Session {
    /// What to ask the relay to send from.
    pub(super) fn resume_from(&self) -> u64 {
        self.next_received
    }

    /// A connection is there: the relay sends from `first`, and gets again what it may not have. Answers how many frames are
    /// lost.
    pub(super) fn connected(&mut self, first: u64) -> u64 {
        self.asked = None;
        let lost = first.saturating_sub(self.next_received);
        self.next_received = self.next_received.max(first);
        lost
    }

    /// What the relay may not have, oldest first.
    pub(super) fn unconfirmed(&self) -> impl Iterator<Item = &Sent> {
        self.unconfirmed.iter()
    }

    /// Whether more may be sent before the relay confirms.
    pub(super) fn has_room(&self) -> bool {
        self.bytes < WINDOW
    }

    /// Numbers what is to be sent.
    pub(super) fn send(&mut self, data: Bytes, produced_at_ms: i64) -> Sent {
        let sent = Sent {
            seq: self.next_sent,
            data,
            produced_at_ms,
        };
        self.next_sent += 1;
        self.bytes += sent.data.len();
        self.unconfirmed.push_back(sent.clone());
        sent
    }

    /// The payload of a ping, where there is something to confirm and none is on its way.
    pub(super) fn ask(&mut self) -> Option<Bytes> {
        self.ask_behind(self.next_sent)
    }

    /// The same, for the frames before `behind`: what is said again has not all been sent yet.
    pub(super) fn ask_behind(&mut self, behind: u64) -> Option<Bytes> {
        if self.unconfirmed.is_empty() || self.asked.is_some() {
            return None;
        }
        self.pings += 1;
        self.asked = Some((self.pings, behind));
        Some(Bytes::copy_from_slice(&self.pings.to_be_bytes()))
    }

    /// A pong came.
    pub(super) fn answered(&mut self, payload: &[u8]) {
        let Some((ping, behind)) = self.asked.filter(|(ping, _)| payload == ping.to_be_bytes()) else {
            return;
        };
        tracing::trace!(ping, behind, "the relay has the frames before");
        self.asked = None;
        while let Some(oldest) = self.unconfirmed.front().filter(|sent| sent.seq < behind) {
            self.bytes -= oldest.data.len();
            self.unconfirmed.pop_front();
            self.progress += 1;
        }
    }

    /// Frames that were confirmed or received so far.
    pub(super) fn progress(&self) -> u64 {
        self.progress
    }

    /// A frame of the other end came.
    pub(super) fn received(&mut self, seq: u64) -> Received {
        // The last number there is has none behind it.
        if seq < self.next_received || seq == u64::MAX {
            return Received::Known;
        }
        let lost = seq - self.next_received;
        self.next_received = seq.saturating_add(1);
        self.progress += 1;
        if lost == 0 {
            Received::New
        } else {
            Received::Behind(lost)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn sent(session: &mut Session, data: &'static str) -> u64 {
        session.send(Bytes::from_static(data.as_bytes()), 0).seq
    }

    #[test]
    fn a_pong_confirms_what_was_sent_before_its_ping() {
        let mut session = Session::default();
        assert_eq!(session.ask(), None, "there is nothing to confirm");
        assert_eq!((sent(&mut session, "a"), sent(&mut session, "b")), (0, 1));
        let ping = session.ask().unwrap();
        assert_eq!(session.ask(), None, "one is on its way");
        sent(&mut session, "c");
        session.answered(b"another");
        session.answered(&ping);
        let left: Vec<u64> = session.unconfirmed().map(|sent| sent.seq).collect();
        assert_eq!(left, [2]);
        // A pong of the connection before says nothing of this one.
        let old = session.ask().unwrap();
        session.connected(0);
        session.answered(&old);
        assert!(session.unconfirmed().next().is_some());
        let new = session.ask().unwrap();
        session.answered(&new);
        assert!(session.unconfirmed().next().is_none());
    }

    #[test]
    fn what_may_be_unconfirmed_is_bounded() {
        let mut session = Session::default();
        while session.has_room() {
            session.send(Bytes::from(vec![0; 8192]), 0);
        }
        assert_eq!(session.bytes, WINDOW);
        let ping = session.ask().unwrap();
        session.answered(&ping);
        assert!(session.has_room() && session.bytes == 0);
    }

    #[test]
    fn frames_that_come_again_are_known_and_gaps_are_counted() {
        let mut session = Session::default();
        assert_eq!(session.received(0), Received::New);
        assert_eq!(session.received(0), Received::Known);
        assert_eq!(session.received(3), Received::Behind(2));
        assert_eq!(session.connected(6), 2);
        assert_eq!(session.resume_from(), 6);
        assert_eq!(session.received(5), Received::Known);
        assert_eq!(session.connected(2), 0);
        assert_eq!(session.resume_from(), 6);
    }

    #[test]
    fn the_last_number_there_is_comes_never() {
        let mut session = Session::default();
        assert_eq!(session.received(u64::MAX), Received::Known);
        assert_eq!(session.received(u64::MAX - 1), Received::Behind(u64::MAX - 1));
        assert_eq!(session.received(u64::MAX - 1), Received::Known);
        assert_eq!(session.received(u64::MAX), Received::Known);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Send,
        Ping,
        /// So many of what is on its way arrive.
        Arrive(usize),
        /// So many pongs come back.
        Pong(usize),
        /// The connection breaks, and everything on it is lost.
        Cut,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => Just(Step::Send),
            3 => Just(Step::Ping),
            5 => (1..5_usize).prop_map(Step::Arrive),
            3 => (1..3_usize).prop_map(Step::Pong),
            1 => Just(Step::Cut),
        ]
    }

    #[derive(Debug)]
    enum Way {
        Frame(u64),
        Ping(Bytes),
    }

    proptest! {
        #[test]
        fn whatever_breaks_the_relay_gets_every_frame_in_order_or_knows_it(
            steps in proptest::collection::vec(step(), 1..120),
        ) {
            let mut session = Session::default();
            let (mut way, mut pongs) = (Vec::new(), Vec::new());
            let (mut relay, mut total) = (BTreeSet::new(), 0_u64);
            let arrive = |packet: Way, relay: &mut BTreeSet<u64>, pongs: &mut Vec<Bytes>| match packet {
                Way::Frame(seq) => {
                    let next = relay.len() as u64;
                    assert!(seq <= next, "frame {seq} before frame {next}");
                    relay.insert(seq);
                }
                Way::Ping(payload) => pongs.push(payload),
            };
            for step in steps {
                match step {
                    Step::Send => {
                        way.push(Way::Frame(session.send(Bytes::from_static(b"x"), 0).seq));
                        total += 1;
                    }
                    Step::Ping => way.extend(session.ask().map(Way::Ping)),
                    Step::Arrive(packets) => {
                        for packet in way.drain(..packets.min(way.len())) {
                            arrive(packet, &mut relay, &mut pongs);
                        }
                    }
                    Step::Pong(count) => {
                        for pong in pongs.drain(..count.min(pongs.len())) {
                            session.answered(&pong);
                        }
                    }
                    Step::Cut => {
                        (way, pongs) = (Vec::new(), Vec::new());
                        session.connected(0);
                        way.extend(session.unconfirmed().map(|sent| Way::Frame(sent.seq)));
                    }
                }
            }
            session.connected(0);
            for sent in session.unconfirmed() {
                arrive(Way::Frame(sent.seq), &mut relay, &mut pongs);
            }
            prop_assert_eq!(relay.len() as u64, total);
        }
    }
}
