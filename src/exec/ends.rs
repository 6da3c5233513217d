//! The two ends of what a process reads and writes: its own three descriptors, and what the daemon keeps of them.

use std::os::fd::OwnedFd;

use bytes::Bytes;

use super::feed::Feeder;
use super::input::Input;
use super::pump::Tap;
use super::read::Reader;
use super::spawn::Pipes;
use super::spec::Stdin;
use super::terminal::{Opened, Size, Terminal};
use crate::error::Error;
use crate::stream::Channel;

/// Both ends.
pub(super) struct Ends {
    /// Standard input, output and error of the child; to be closed when it is born.
    pub(super) child: [OwnedFd; 3],
    /// Input that is known from the start.
    pub(super) stdin: Feeder,
    /// Input that comes later.
    pub(super) input: Input,
    /// Output.
    pub(super) taps: [Tap; 2],
    /// What the terminal is resized by, where there is one.
    pub(super) terminal: Option<Terminal>,
}

impl Ends {
    /// Pipes, or a terminal of this size.
    pub(super) fn open(stdin: Stdin, tty: Option<Size>) -> Result<Self, Error> {
        match tty {
            None => Self::pipes(stdin),
            Some(size) => Self::terminal(stdin, size),
        }
    }

    fn pipes(stdin: Stdin) -> Result<Self, Error> {
        let with_input = !matches!(&stdin, Stdin::Bytes(bytes) if bytes.is_empty());
        let pipes = Pipes::open(with_input)?;
        let (stdin, input) = match (stdin, pipes.stdin) {
            (Stdin::Open, Some(pipe)) => (Feeder::new(None, Bytes::new()), Input::pipe(pipe)),
            (Stdin::Open, None) => (Feeder::new(None, Bytes::new()), Input::closed()),
            (Stdin::Bytes(bytes), pipe) => (Feeder::new(pipe, bytes), Input::closed()),
        };
        Ok(Self {
            child: pipes.child,
            stdin,
            input,
            taps: [
                Tap {
                    channel: Channel::Stdout,
                    reader: Reader::new(pipes.stdout),
                },
                Tap {
                    channel: Channel::Stderr,
                    reader: Reader::new(pipes.stderr),
                },
            ],
            terminal: None,
        })
    }

    fn terminal(stdin: Stdin, size: Size) -> Result<Self, Error> {
        let Opened {
            terminal,
            master,
            child,
        } = Terminal::open(size)?;
        let again = |end: &OwnedFd| {
            end.try_clone().map_err(|source| Error::Io {
                doing: "duplicate a terminal".into(),
                source,
            })
        };
        let child = [again(&child)?, again(&child)?, child];
        let typed = match stdin {
            Stdin::Open => Bytes::new(),
            Stdin::Bytes(bytes) => bytes,
        };
        // Typed ahead: a terminal has no end of file but the character for it.
        let own = (!typed.is_empty()).then(|| again(&master)).transpose()?;
        Ok(Self {
            child,
            stdin: Feeder::new(own, typed),
            // Room for input and the coming of output are watched apart: the runtime watches a descriptor once.
            input: Input::tty(again(&master)?),
            taps: [
                Tap {
                    channel: Channel::Tty,
                    reader: Reader::new(master),
                },
                Tap {
                    channel: Channel::Stderr,
                    reader: Reader::none(),
                },
            ],
            terminal: Some(terminal),
        })
    }
}
