//! One channel of the relay: who is attached to its two ends, what flows between them, and who may not. Pure.
//!
//! ```text
//!   producer --frames--> [ to_viewer ring ] --> viewer        one of each at a time; a newer one replaces the older
//!   producer <-- [ to_producer ring ] <--frames, input-- viewer
//! ```

use std::collections::VecDeque;

use super::direction::{Direction, Frame};
use crate::wire::proto::{DesktopInput, StreamClose, StreamCloseReason, desktop_input};
use crate::wire::relay_token::Mode;

/// Pointer and key events that wait for a producer; more are too old to be of use.
const INPUTS: usize = 1024;
/// Bytes of the name or text of a key.
const KEY: usize = 4096;

/// An end of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The machine.
    Producer,
    /// Whoever looks.
    Viewer,
}

/// Somebody is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attached {
    /// Its own number.
    pub(super) id: u64,
    /// The first sequence that it will be sent.
    pub(super) first: u64,
}

/// Its lease is older than one that was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stale {
    /// The lowest that is let in.
    pub(super) floor: u64,
}

/// What to send to whoever is attached.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// This.
    Frame(Frame),
    /// A viewer's pointer and keys.
    Input(DesktopInput),
    /// The last message: the other end closed the channel.
    Close(StreamClose),
    /// Nothing now.
    Nothing,
    /// Somebody newer took its place.
    Replaced,
}

/// What became of what somebody sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// The other end gets it, or has it.
    Yes,
    /// It may only look.
    ViewOnly,
    /// Somebody newer took its place.
    Replaced,
    /// It is larger than anything that belongs here.
    TooLarge,
}

#[derive(Debug)]
struct Viewer {
    id: u64,
    mode: Mode,
}

/// A channel.
#[derive(Debug)]
pub(super) struct Channel {
    attachments: u64,
    producer: Option<u64>,
    viewer: Option<Viewer>,
    /// The highest lease of a viewer.
    floor: u64,
    to_viewer: Direction,
    to_producer: Direction,
    inputs: VecDeque<DesktopInput>,
    /// How the producer closed it: for the viewer, behind everything else.
    closed: Option<StreamClose>,
    /// How a viewer closed it: for the producer.
    left: Option<StreamClose>,
}

impl Channel {
    /// With rings of `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            attachments: 0,
            producer: None,
            viewer: None,
            floor: 0,
            to_viewer: Direction::new(limit, false),
            to_producer: Direction::new(limit, true),
            inputs: VecDeque::new(),
            closed: None,
            left: None,
        }
    }

    fn number(&mut self) -> u64 {
        self.attachments += 1;
        self.attachments
    }

    /// The machine attaches, in the place of whoever did before.
    pub(super) fn attach_producer(&mut self, resume: u64) -> Attached {
        let id = self.number();
        self.producer = Some(id);
        self.closed = None;
        Attached {
            id,
            first: self.to_producer.receiver_attached(resume),
        }
    }

    /// The viewer called `viewer` attaches, in the place of whoever did before. One that has seen nothing yet counts its
    /// own frames from 0; one that has goes on.
    pub(super) fn attach_viewer(
        &mut self,
        viewer: &str,
        epoch: u64,
        mode: Mode,
        resume: u64,
    ) -> Result<Attached, Stale> {
        if epoch < self.floor {
            return Err(Stale { floor: self.floor });
        }
        self.floor = epoch;
        let id = self.number();
        self.viewer = Some(Viewer { id, mode });
        self.to_producer.sender_attached(viewer, resume == 0);
        Ok(Attached {
            id,
            first: self.to_viewer.receiver_attached(resume),
        })
    }

    fn is_current(&self, side: Side, id: u64) -> bool {
        match side {
            Side::Producer => self.producer == Some(id),
            Side::Viewer => self.viewer.as_ref().is_some_and(|viewer| viewer.id == id),
        }
    }

    /// The connection of an attachment is gone.
    pub(super) fn detach(&mut self, side: Side, id: u64) {
        if !self.is_current(side, id) {
            return;
        }
        match side {
            Side::Producer => {
                self.producer = None;
                self.inputs.clear();
                self.to_producer.receiver_left();
            }
            Side::Viewer => {
                self.viewer = None;
                self.to_viewer.receiver_left();
            }
        }
    }

    /// Whether nobody is attached.
    pub(super) fn is_idle(&self) -> bool {
        self.producer.is_none() && self.viewer.is_none()
    }

    /// Whether a machine is attached.
    pub(super) fn is_live(&self) -> bool {
        self.producer.is_some()
    }

    fn may_write(&self, side: Side, id: u64) -> Taken {
        match (&self.viewer, side) {
            _ if !self.is_current(side, id) => Taken::Replaced,
            (Some(viewer), Side::Viewer) if viewer.mode == Mode::View => Taken::ViewOnly,
            _ => Taken::Yes,
        }
    }

    /// Takes a frame from one end for the other.
    pub(super) fn frame(&mut self, side: Side, id: u64, frame: Frame) -> Taken {
        let taken = self.may_write(side, id);
        if taken == Taken::Yes {
            match side {
                Side::Producer => self.to_viewer.take(frame),
                Side::Viewer => self.to_producer.take(frame),
            };
        }
        taken
    }

    /// How many frames of viewers were left out, since this was asked, that seem to have been handed on before the relay was
    /// restarted.
    pub(super) fn take_doubted(&mut self) -> u64 {
        self.to_producer.take_doubted()
    }

    /// Takes pointer and keys from a viewer; the oldest of too many go.
    pub(super) fn input(&mut self, id: u64, input: DesktopInput) -> Taken {
        let taken = self.may_write(Side::Viewer, id);
        let size = match &input.event {
            Some(desktop_input::Event::Key(key)) => key.key.len(),
            _ => 0,
        };
        if size > KEY {
            return Taken::TooLarge;
        }
        // A click of before is worth nothing to a machine that comes back.
        if taken == Taken::Yes && self.producer.is_some() {
            if self.inputs.len() == INPUTS {
                self.inputs.pop_front();
            }
            self.inputs.push_back(input);
        }
        taken
    }

    /// One end closes the channel.
    pub(super) fn close(&mut self, side: Side, id: u64, close: StreamClose) -> Taken {
        let taken = self.may_write(side, id);
        match (taken, side) {
            (Taken::Yes, Side::Producer) => self.closed = Some(close),
            // Why a connection of the producer ends is the relay's to say.
            (Taken::Yes, Side::Viewer) => {
                self.left = Some(StreamClose {
                    reason: StreamCloseReason::Normal.into(),
                    ..close
                });
            }
            // Who only looks leaves without a word.
            (Taken::ViewOnly | Taken::Replaced | Taken::TooLarge, _) => {}
        }
        taken
    }

    /// Whether more may be read from this end.
    pub(super) fn may_read(&self, side: Side) -> bool {
        match side {
            Side::Producer => self.to_viewer.has_room(),
            Side::Viewer => self.to_producer.has_room(),
        }
    }

    /// The producer was told that the viewer closed the channel: only then, because its connection may break before.
    pub(super) fn told_of_close(&mut self, id: u64) {
        if self.producer == Some(id) {
            self.left = None;
        }
    }

    /// What to send to an attachment next.
    pub(super) fn next(&mut self, side: Side, id: u64) -> Next {
        if !self.is_current(side, id) {
            return Next::Replaced;
        }
        let next = match side {
            Side::Producer => (self.to_producer.next().map(Next::Frame))
                .or_else(|| self.inputs.pop_front().map(Next::Input))
                .or_else(|| self.left.clone().map(Next::Close)),
            // Whoever comes later is told of the end, too.
            Side::Viewer => {
                (self.to_viewer.next().map(Next::Frame)).or_else(|| self.closed.clone().map(Next::Close))
            }
        };
        next.unwrap_or(Next::Nothing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::proto::StreamFrame;
    use crate::wire::relay::Message;

    fn frame(seq: u64) -> Frame {
        let frame = StreamFrame {
            seq,
            ..StreamFrame::default()
        };
        Frame {
            seq,
            message: Message::Frame(frame).encode(),
        }
    }

    fn close() -> StreamClose {
        StreamClose {
            channel_id: "c".into(),
            reason: StreamCloseReason::ProcessExit.into(),
            message: String::new(),
        }
    }

    #[test]
    fn a_producer_that_comes_back_has_not_closed() {
        let mut channel = Channel::new(1000);
        let producer = channel.attach_producer(0).id;
        channel.close(Side::Producer, producer, close());
        // It does not know whether we heard that, and says it again.
        let producer = channel.attach_producer(0).id;
        let viewer = channel.attach_viewer("v", 0, Mode::Control, 0).unwrap().id;
        assert_eq!(channel.next(Side::Viewer, viewer), Next::Nothing);
        channel.frame(Side::Producer, producer, frame(0));
        channel.close(Side::Producer, producer, close());
        assert_eq!(channel.next(Side::Viewer, viewer), Next::Frame(frame(0)));
        assert_eq!(channel.next(Side::Viewer, viewer), Next::Close(close()));
    }

    #[test]
    fn bytes_pass_both_ways_and_the_end_comes_last() {
        let mut channel = Channel::new(1000);
        let producer = channel.attach_producer(0).id;
        assert_eq!(channel.frame(Side::Producer, producer, frame(0)), Taken::Yes);
        assert_eq!(channel.close(Side::Producer, producer, close()), Taken::Yes);
        for _ in 0..2 {
            let viewer = channel.attach_viewer("v", 0, Mode::Control, 0).unwrap();
            assert_eq!(viewer.first, 0);
            assert_eq!(channel.next(Side::Viewer, viewer.id), Next::Frame(frame(0)));
            assert_eq!(channel.next(Side::Viewer, viewer.id), Next::Close(close()));
            assert_eq!(channel.frame(Side::Viewer, viewer.id, frame(0)), Taken::Yes);
            assert_eq!(channel.input(viewer.id, DesktopInput::default()), Taken::Yes);
            assert_eq!(channel.close(Side::Viewer, viewer.id, close()), Taken::Yes);
            let Next::Frame(_) = channel.next(Side::Producer, producer) else {
                panic!("no frame");
            };
            assert_eq!(
                channel.next(Side::Producer, producer),
                Next::Input(DesktopInput::default())
            );
            let left = StreamClose {
                reason: StreamCloseReason::Normal.into(),
                ..close()
            };
            for _ in 0..2 {
                let told = channel.next(Side::Producer, producer);
                assert_eq!(told, Next::Close(left.clone()), "until it is");
            }
            channel.told_of_close(producer);
            assert_eq!(channel.next(Side::Producer, producer), Next::Nothing);
        }
    }

    #[test]
    fn who_comes_later_takes_the_place_unless_its_lease_is_older() {
        let mut channel = Channel::new(1000);
        let first = channel.attach_viewer("v", 2, Mode::Control, 0).unwrap();
        assert_eq!(
            channel.attach_viewer("v", 1, Mode::Control, 0),
            Err(Stale { floor: 2 })
        );
        assert_eq!(channel.next(Side::Viewer, first.id), Next::Nothing, "it stays");
        let second = channel.attach_viewer("v", 2, Mode::Control, 0).unwrap();
        assert_eq!(channel.next(Side::Viewer, first.id), Next::Replaced);
        assert_eq!(channel.frame(Side::Viewer, first.id, frame(0)), Taken::Replaced);
        channel.detach(Side::Viewer, first.id);
        assert_eq!(
            channel.next(Side::Viewer, second.id),
            Next::Nothing,
            "it is not told to go"
        );
        let producer = channel.attach_producer(0).id;
        let newer = channel.attach_producer(0).id;
        assert_eq!(channel.next(Side::Producer, producer), Next::Replaced);
        channel.detach(Side::Producer, newer);
        channel.detach(Side::Viewer, second.id);
        assert!(channel.is_idle());
    }

    #[test]
    fn who_may_only_look_sends_nothing() {
        let mut channel = Channel::new(1000);
        let producer = channel.attach_producer(0).id;
        let viewer = channel.attach_viewer("v", 0, Mode::View, 0).unwrap().id;
        assert_eq!(channel.frame(Side::Viewer, viewer, frame(0)), Taken::ViewOnly);
        assert_eq!(channel.input(viewer, DesktopInput::default()), Taken::ViewOnly);
        assert_eq!(channel.close(Side::Viewer, viewer, close()), Taken::ViewOnly);
        assert_eq!(channel.next(Side::Producer, producer), Next::Nothing);
    }
}
