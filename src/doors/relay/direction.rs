//! Frames on their way from one end of a channel to the other, in a ring bounded by bytes. Pure.
//!
//! A frame keeps the sequence that its sender gave it, so that whoever receives can say where to go on. The direction from
//! viewers is numbered anew for each of them: a viewer that begins at 0 is another one, and the producer is to see one
//! sequence that only grows.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::wire::proto::StreamFrame;
use crate::wire::relay::Message;

/// Some bytes of a stream, as the message that they came in: it is handed on as it is unless its number changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    /// Its number in its direction, from 0.
    pub(super) seq: u64,
    /// The whole message.
    pub(super) message: Bytes,
}

impl Frame {
    /// The same bytes under another number.
    fn numbered(self, seq: u64) -> Self {
        if self.seq == seq {
            return self;
        }
        let message = match Message::decode(self.message.clone()) {
            Ok(Message::Frame(frame)) => Message::Frame(StreamFrame { seq, ..frame }).encode(),
            // It was one when it came.
            Ok(_) | Err(_) => self.message,
        };
        Self { seq, message }
    }
}

/// One direction of a channel.
#[derive(Debug)]
pub(super) struct Direction {
    /// Frames that whoever receives may ask for again, and those it was not sent yet.
    ring: VecDeque<Frame>,
    /// Bytes in the ring, and how many they may be.
    bytes: usize,
    limit: usize,
    /// What comes next is numbered so at least.
    next: u64,
    /// Whether senders that begin anew are taken for others.
    renumbers: bool,
    /// Added to what the sender says.
    offset: u64,
    /// Whether the sender that is attached has sent a frame.
    begun: bool,
    /// Whether a frame was ever handed on.
    delivered: bool,
    /// There is somebody who receives, who is sent this one next and has so many bytes before it.
    receiving: bool,
    sent: u64,
    waiting: usize,
}

impl Direction {
    pub(super) fn new(limit: usize, renumbers: bool) -> Self {
        Self {
            ring: VecDeque::new(),
            bytes: 0,
            limit,
            next: 0,
            renumbers,
            offset: 0,
            begun: false,
            delivered: false,
            receiving: false,
            sent: 0,
            waiting: 0,
        }
    }

    /// Another sender is there, or the same one again.
    pub(super) fn sender_attached(&mut self) {
        self.begun = false;
    }

    /// Takes a frame of the sender; false when it was there already.
    pub(super) fn take(&mut self, frame: Frame) -> bool {
        if self.renumbers && !self.begun && frame.seq == 0 {
            self.offset = self.next;
        }
        self.begun = true;
        let seq = frame.seq.saturating_add(self.offset);
        if seq < self.next {
            return false;
        }
        self.next = seq.saturating_add(1);
        let frame = frame.numbered(seq);
        self.bytes += frame.message.len();
        if seq >= self.sent {
            self.waiting += frame.message.len();
        }
        self.ring.push_back(frame);
        self.shrink();
        true
    }

    /// Lets go of the oldest, but never of what somebody waits for.
    fn shrink(&mut self) {
        while self.bytes > self.limit
            && let Some(oldest) = self.ring.front()
            && !(self.receiving && oldest.seq >= self.sent)
        {
            self.bytes -= oldest.message.len();
            self.ring.pop_front();
        }
    }

    /// Somebody receives from `resume` on; answers the first sequence that it will be sent. It is larger where frames are lost.
    pub(super) fn receiver_attached(&mut self, resume: u64) -> u64 {
        if self.renumbers && !self.delivered {
            self.begin_at(resume);
        }
        let at = self.ring.partition_point(|frame| frame.seq < resume);
        let first = self.ring.get(at).map_or(self.next.max(resume), |frame| frame.seq);
        self.waiting = self.ring.range(at..).map(|frame| frame.message.len()).sum();
        self.sent = first;
        self.receiving = true;
        first
    }

    /// Whoever receives has seen more than we know of, because we began after it did: what a sender that begins at 0 has sent
    /// comes behind that.
    fn begin_at(&mut self, resume: u64) {
        let begins = self.ring.front().map_or(0, |frame| frame.seq);
        if begins > 0 || resume <= begins {
            return;
        }
        let ring = std::mem::take(&mut self.ring);
        self.ring = ring
            .into_iter()
            .map(|frame| {
                let seq = frame.seq + resume;
                frame.numbered(seq)
            })
            .collect();
        self.bytes = self.ring.iter().map(|frame| frame.message.len()).sum();
        if self.begun {
            self.offset += resume;
        }
        self.next += resume;
    }

    /// Nobody receives any more.
    pub(super) fn receiver_left(&mut self) {
        self.receiving = false;
        self.sent = 0;
        self.waiting = 0;
        self.shrink();
    }

    /// What is to be sent next to whoever receives.
    pub(super) fn next(&mut self) -> Option<Frame> {
        if !self.receiving {
            return None;
        }
        let at = self.ring.partition_point(|frame| frame.seq < self.sent);
        let frame = self.ring.get(at)?.clone();
        self.sent = frame.seq + 1;
        self.waiting -= frame.message.len();
        self.delivered = true;
        self.shrink();
        Some(frame)
    }

    /// Whether more may be taken from the sender: always while nobody receives, when the oldest goes; else as fast as that one
    /// takes it.
    pub(super) fn has_room(&self) -> bool {
        !self.receiving || self.waiting < self.limit / 2 || self.waiting == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(seq: u64, data: &str) -> Frame {
        let frame = Message::Frame(StreamFrame {
            channel_id: String::new(),
            seq,
            data: Bytes::copy_from_slice(data.as_bytes()),
            produced_at_ms: 0,
        });
        Frame {
            seq,
            message: frame.encode(),
        }
    }

    /// What a frame says: its number and bytes, as they are in its message.
    fn says(frame: &Frame) -> (u64, String) {
        let Message::Frame(said) = Message::decode(frame.message.clone()).unwrap() else {
            panic!("no frame");
        };
        assert_eq!(said.seq, frame.seq);
        (said.seq, String::from_utf8_lossy(&said.data).into_owned())
    }

    fn all(direction: &mut Direction) -> Vec<(u64, String)> {
        std::iter::from_fn(|| direction.next())
            .map(|frame| says(&frame))
            .collect()
    }

    fn told(frames: &[(u64, &str)]) -> Vec<(u64, String)> {
        frames
            .iter()
            .map(|(seq, data)| (*seq, (*data).to_owned()))
            .collect()
    }

    #[test]
    fn frames_wait_for_who_comes_later_and_are_sent_again() {
        let mut direction = Direction::new(100, false);
        assert!(direction.take(frame(0, "a")) && direction.take(frame(1, "b")));
        assert_eq!(direction.receiver_attached(0), 0);
        assert_eq!(all(&mut direction), told(&[(0, "a"), (1, "b")]));
        assert!(!direction.take(frame(1, "b")), "it is there");
        direction.take(frame(2, "c"));
        direction.receiver_left();
        assert_eq!(direction.receiver_attached(1), 1);
        assert_eq!(all(&mut direction), told(&[(1, "b"), (2, "c")]));
    }

    #[test]
    fn what_is_lost_is_said() {
        let mut direction = Direction::new(2 * frame(1, "bb").message.len(), false);
        for (seq, data) in [(0, "aa"), (1, "bb"), (2, "cc")] {
            direction.take(frame(seq, data));
        }
        assert_eq!(direction.receiver_attached(0), 1, "frame 0 went");
        assert_eq!(all(&mut direction), told(&[(1, "bb"), (2, "cc")]));
        // A relay that began in the middle.
        let mut direction = Direction::new(100, false);
        assert_eq!(direction.receiver_attached(3), 3);
        direction.take(frame(7, "late"));
        assert_eq!(
            all(&mut direction),
            told(&[(7, "late")]),
            "its number tells the gap"
        );
    }

    #[test]
    fn a_slow_receiver_slows_its_sender_and_an_absent_one_does_not() {
        let mut direction = Direction::new(2 * frame(9, "four").message.len(), false);
        for seq in 0..10 {
            assert!(direction.has_room());
            direction.take(frame(seq, "four"));
        }
        assert_eq!(direction.receiver_attached(0), 8);
        assert!(!direction.has_room());
        direction.take(frame(10, "too much, and kept all the same"));
        assert_eq!(direction.ring.len(), 3, "somebody waits for them");
        assert_eq!(all(&mut direction).len(), 3);
        assert!(direction.has_room() && direction.bytes <= direction.limit);
    }

    #[test]
    fn viewers_one_after_the_other_are_one_sequence_for_the_producer() {
        let mut direction = Direction::new(100, true);
        direction.receiver_attached(0);
        direction.sender_attached();
        direction.take(frame(0, "a"));
        direction.take(frame(1, "b"));
        // The same one goes on after its connection was cut; what it says again is known.
        direction.sender_attached();
        assert!(!direction.take(frame(1, "b")));
        assert!(direction.take(frame(2, "c")));
        // Another one begins at 0.
        direction.sender_attached();
        direction.take(frame(0, "d"));
        direction.take(frame(1, "e"));
        let seen = all(&mut direction);
        assert_eq!(seen, told(&[(0, "a"), (1, "b"), (2, "c"), (3, "d"), (4, "e")]));
    }

    #[test]
    fn after_a_restart_of_the_relay_the_producer_hears_the_viewer_that_was_first() {
        let mut direction = Direction::new(100, true);
        direction.sender_attached();
        direction.take(frame(0, "x"));
        direction.take(frame(1, "y"));
        assert_eq!(direction.receiver_attached(50), 50);
        direction.take(frame(2, "z"));
        assert_eq!(all(&mut direction), told(&[(50, "x"), (51, "y"), (52, "z")]));
        // One that goes on with its own numbers.
        let mut direction = Direction::new(100, true);
        direction.sender_attached();
        direction.take(frame(49, "known"));
        direction.take(frame(50, "new"));
        assert_eq!(direction.receiver_attached(50), 50);
        assert_eq!(all(&mut direction), told(&[(50, "new")]));
        // The producer first, then a new viewer.
        let mut direction = Direction::new(100, true);
        assert_eq!(direction.receiver_attached(50), 50);
        direction.sender_attached();
        direction.take(frame(0, "x"));
        assert_eq!(all(&mut direction), told(&[(50, "x")]));
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// The sender sends so many; the link may lose the newest of them, and it says those again.
        Send(u64),
        /// It comes back and says again what it is not sure of.
        SenderBack(u64),
        Receive(u64),
        /// The link of the receiver breaks and loses so many of what was sent to it.
        ReceiverBack(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1..5_u64).prop_map(Step::Send),
            1 => (0..5_u64).prop_map(Step::SenderBack),
            4 => (1..6_u64).prop_map(Step::Receive),
            1 => (0..5_u64).prop_map(Step::ReceiverBack),
        ]
    }

    proptest! {
        #[test]
        fn in_any_order_of_cuts_nothing_is_lost_or_doubled_while_the_ring_lasts(
            steps in proptest::collection::vec(step(), 1..80), renumbers in any::<bool>(),
        ) {
            let mut direction = Direction::new(1 << 20, renumbers);
            direction.sender_attached();
            direction.receiver_attached(0);
            let data = |seq: u64| seq.to_string();
            let sent = |seq| frame(seq, &data(seq));
            let (mut next, mut expected) = (0, 0);
            for step in steps {
                match step {
                    Step::Send(frames) => for _ in 0..frames {
                        prop_assert!(direction.take(sent(next)));
                        next += 1;
                    },
                    // It has begun: one that says 0 again would be another.
                    Step::SenderBack(again) if next > again => {
                        direction.sender_attached();
                        for seq in (next - again).max(1)..next {
                            prop_assert!(!direction.take(sent(seq)));
                        }
                    }
                    Step::SenderBack(_) => {}
                    Step::Receive(frames) => for _ in 0..frames {
                        let Some(frame) = direction.next() else { break };
                        prop_assert_eq!(frame.seq, expected);
                        prop_assert_eq!(says(&frame).1, data(expected));
                        expected += 1;
                    },
                    Step::ReceiverBack(lost) => {
                        direction.receiver_left();
                        expected -= lost.min(expected);
                        prop_assert_eq!(direction.receiver_attached(expected), expected);
                    }
                }
            }
            while let Some(frame) = direction.next() {
                prop_assert_eq!(frame.seq, expected);
                expected += 1;
            }
            prop_assert_eq!(expected, next);
        }
    }
}
