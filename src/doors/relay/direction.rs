//! Frames on their way from one end of a channel to the other, in a ring bounded by bytes. Pure.
//!
//! A frame keeps the sequence that its sender gave it, so that whoever receives can say where to go on. The direction from
//! viewers is numbered anew: each viewer counts its own frames, goes on with them when it comes back, also behind others, and
//! the producer is to see one sequence that only grows.

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

/// Senders that are known at once; who was here longest ago is a new one when it comes back.
const SENDERS: usize = 64;
/// A relay that was restarted does not know how far a viewer was. One whose first frame lies so close before what the
/// producer expects says again what it is not sure of; else it counts otherwise, because it was not the first.
const UNSURE: u64 = 16;

/// One of several that send in the same direction, one after the other.
#[derive(Debug)]
struct Sender {
    name: String,
    /// In its own numbers: the first frame that came, and what comes next.
    numbers: Option<(u64, u64)>,
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
    /// Senders are told apart, and their frames numbered here.
    renumbers: bool,
    /// Those that are known, the one that is attached last.
    senders: Vec<Sender>,
    /// Whether a frame was ever handed on.
    delivered: bool,
    /// Frames that were left out because they may have come before we began: see [`UNSURE`].
    doubted: u64,
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
            senders: Vec::new(),
            delivered: false,
            doubted: 0,
            receiving: false,
            sent: 0,
            waiting: 0,
        }
    }

    /// Somebody sends from now on; `begins` says that it counts from its first frame, whatever came of it before.
    pub(super) fn sender_attached(&mut self, name: &str, begins: bool) {
        let known = self.senders.iter().position(|sender| sender.name == name);
        let mut sender = match known {
            Some(at) => self.senders.remove(at),
            None => Sender {
                name: name.to_owned(),
                numbers: None,
            },
        };
        if begins {
            sender.numbers = None;
        }
        if self.senders.len() == SENDERS {
            self.senders.remove(0);
        }
        self.senders.push(sender);
    }

    /// Takes a frame of the sender; false when it was there already.
    pub(super) fn take(&mut self, frame: Frame) -> bool {
        // The last number there is has none behind it.
        let Some(seq) = self.number(frame.seq).filter(|seq| *seq < u64::MAX) else {
            return false;
        };
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

    /// The number of a frame that its sender calls `seq`; `None` when it was there already.
    fn number(&mut self, seq: u64) -> Option<u64> {
        let sender = self.senders.last_mut().filter(|_| self.renumbers);
        let Some(sender) = sender else {
            return (seq >= self.next).then_some(seq);
        };
        let after = seq.saturating_add(1);
        let number = match &mut sender.numbers {
            Some((_, next)) if seq < *next => return None,
            Some((_, next)) => {
                let missing = seq - *next;
                *next = after;
                self.next.saturating_add(missing)
            }
            none => {
                *none = Some((seq, after));
                if is_unsure(seq, self.next) && !self.delivered && self.ring.is_empty() {
                    // What comes before is known to whoever receives, or it is of a sender that counts otherwise.
                    self.doubted += u64::from(seq < self.next);
                    return (seq >= self.next).then_some(seq);
                }
                self.next
            }
        };
        Some(number)
    }

    /// How many frames were left out that may be new, since this was asked: to be said.
    pub(super) fn take_doubted(&mut self) -> u64 {
        std::mem::take(&mut self.doubted)
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

    /// Whoever receives has seen more than we know of, because we began after it did: what has come here counts on behind
    /// that, unless it is said again.
    fn begin_at(&mut self, resume: u64) {
        let begins = self.ring.front().map_or(0, |frame| frame.seq);
        if begins > 0 || resume <= begins || self.next.checked_add(resume).is_none() {
            return;
        }
        let first = match self.senders.as_slice() {
            [only] => only.numbers.map(|(first, _)| first),
            _ => None,
        };
        let shift = first.filter(|first| is_unsure(*first, resume)).unwrap_or(resume);
        let ring = std::mem::take(&mut self.ring);
        self.ring = ring
            .into_iter()
            .map(|frame| {
                let seq = frame.seq + shift;
                frame.numbered(seq)
            })
            .collect();
        self.doubted += self.ring.iter().filter(|frame| frame.seq < resume).count() as u64;
        self.bytes = self.ring.iter().map(|frame| frame.message.len()).sum();
        self.next += shift;
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

/// Whether a sender that begins at `first` says again what lies before `expected`.
fn is_unsure(first: u64, expected: u64) -> bool {
    first > 0 && first <= expected && expected - first <= UNSURE
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

    #[test]
    fn numbers_at_the_end_of_their_range_are_handed_on_once_or_not_at_all() {
        for renumbers in [false, true] {
            let mut direction = Direction::new(1000, renumbers);
            direction.sender_attached("v", true);
            direction.receiver_attached(0);
            for seq in [0, u64::MAX - 2, u64::MAX - 1, u64::MAX, u64::MAX] {
                direction.take(frame(seq, "x"));
            }
            direction.sender_attached("w", true);
            direction.take(frame(0, "x"));
            direction.take(frame(u64::MAX, "x"));
            let mut handed_on = Vec::new();
            while let Some(frame) = direction.next() {
                handed_on.push(frame.seq);
                assert!(handed_on.len() < 10, "{handed_on:?}");
            }
            assert_eq!(handed_on, [0, u64::MAX - 2, u64::MAX - 1], "{renumbers}");
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
        let mut direction = Direction::new(1000, true);
        direction.receiver_attached(0);
        direction.sender_attached("a", true);
        direction.take(frame(0, "a"));
        direction.take(frame(1, "b"));
        // The same one goes on after its connection was cut; what it says again is known, also the first.
        direction.sender_attached("a", false);
        for known in ["a", "b"].iter().zip(0..) {
            assert!(!direction.take(frame(known.1, known.0)));
        }
        assert!(direction.take(frame(2, "c")));
        // Another one begins at 0.
        direction.sender_attached("b", true);
        direction.take(frame(0, "d"));
        direction.take(frame(1, "e"));
        // The first comes back, and goes on with its own numbers.
        direction.sender_attached("a", false);
        assert!(!direction.take(frame(2, "c")));
        assert!(direction.take(frame(3, "f")));
        // Its page is loaded anew.
        direction.sender_attached("a", true);
        assert!(direction.take(frame(0, "g")));
        let seen = all(&mut direction);
        let expected = [
            (0, "a"),
            (1, "b"),
            (2, "c"),
            (3, "d"),
            (4, "e"),
            (5, "f"),
            (6, "g"),
        ];
        assert_eq!(seen, told(&expected));
    }

    #[test]
    fn after_a_restart_of_the_relay_the_producer_hears_every_viewer() {
        let mut direction = Direction::new(1000, true);
        direction.sender_attached("a", true);
        direction.take(frame(0, "x"));
        direction.take(frame(1, "y"));
        assert_eq!(direction.receiver_attached(50), 50);
        direction.take(frame(2, "z"));
        assert_eq!(all(&mut direction), told(&[(50, "x"), (51, "y"), (52, "z")]));
        // One that was the first, and says again what it is not sure of.
        for producer_first in [true, false] {
            let mut direction = Direction::new(1000, true);
            if producer_first {
                assert_eq!(direction.receiver_attached(50), 50);
            }
            direction.sender_attached("a", false);
            direction.take(frame(49, "known"));
            direction.take(frame(50, "new"));
            if !producer_first {
                assert_eq!(direction.receiver_attached(50), 50);
            }
            assert_eq!(all(&mut direction), told(&[(50, "new")]), "{producer_first}");
            assert_eq!((direction.take_doubted(), direction.take_doubted()), (1, 0));
        }
        // One that was not, and goes on with numbers of its own.
        for producer_first in [true, false] {
            let mut direction = Direction::new(1000, true);
            if producer_first {
                assert_eq!(direction.receiver_attached(50), 50);
            }
            direction.sender_attached("b", false);
            direction.take(frame(6, "x"));
            direction.take(frame(7, "y"));
            if !producer_first {
                assert_eq!(direction.receiver_attached(50), 50);
            }
            assert_eq!(
                all(&mut direction),
                told(&[(50, "x"), (51, "y")]),
                "{producer_first}"
            );
            assert_eq!(direction.take_doubted(), 0);
        }
        // The producer first, then a new viewer.
        let mut direction = Direction::new(1000, true);
        assert_eq!(direction.receiver_attached(50), 50);
        direction.sender_attached("a", true);
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
            direction.sender_attached("a", true);
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
                    Step::SenderBack(again) => {
                        direction.sender_attached("a", false);
                        for seq in next.saturating_sub(again)..next {
                            prop_assert!(!direction.take(sent(seq)));
                        }
                    }
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
