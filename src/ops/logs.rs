//! Reading what a process wrote: record by record at the reader's own pace, a page of records, or a text that was chosen
//! from its lines.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Rooms;
use crate::error::Error;
use crate::exec::{Output, Process};
use crate::ids::ProcessId;
use crate::pty::LogFollower;
use crate::stream::{Channel, Chosen, Cursor, Item, Lines, Select, Survey, View};

/// Bytes that are read at once.
const PIECE: u64 = 64 << 10;
/// Logs that one principal may follow at once.
const FOLLOWERS: usize = 1024;

/// Which part of what a process writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// All of it, in its order.
    Combined,
    /// The terminal.
    Pty,
    /// What descendants wrote after its end, which has a log of its own.
    AfterExit,
}

impl LogStream {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Stdout,
        Self::Stderr,
        Self::Combined,
        Self::Pty,
        Self::AfterExit,
    ];

    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Combined => "combined",
            Self::Pty => "pty",
            Self::AfterExit => "after_exit",
        }
    }

    fn channels(self) -> &'static [Channel] {
        match self {
            Self::Stdout => &[Channel::Stdout],
            Self::Stderr => &[Channel::Stderr],
            Self::Pty => &[Channel::Tty],
            Self::Combined | Self::AfterExit => &[Channel::Stdout, Channel::Stderr, Channel::Tty],
        }
    }
}

/// What is to be read.
#[derive(Debug, Clone)]
pub struct Logs {
    /// Of which process.
    pub id: ProcessId,
    /// Which part.
    pub stream: LogStream,
    /// Behind this record.
    pub since: u64,
    /// In which form.
    pub form: LogForm,
}

/// In which form it is answered.
#[derive(Debug, Clone)]
pub enum LogForm {
    /// Record by record: the caller reads at its own pace.
    Records(LogLimits),
    /// Record by record, to the end of the process.
    Follow {
        /// Of those that are there, the newest so many.
        tail: Option<u64>,
    },
    /// Some records at once.
    Page(LogLimits),
    /// Lines.
    Text {
        /// Which ones.
        select: Box<Select>,
        /// As they look in a terminal.
        collapse: bool,
    },
}

/// How many records are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogLimits {
    /// The newest so many; of these, the limits below.
    pub tail: Option<u64>,
    /// The first so many.
    pub head: Option<u64>,
    /// Bytes at most, and at least one record.
    pub max_bytes: Option<u64>,
}

/// The answer.
#[derive(Debug)]
pub enum LogsReply {
    /// To be read by the door.
    Reader(Box<LogReader>),
    /// What was read, and what was not.
    Page(LogPage),
    /// The chosen lines.
    Text(LogText),
}

/// Some records.
#[derive(Debug)]
pub struct LogPage {
    /// Of which process.
    pub id: ProcessId,
    /// Which part.
    pub stream: LogStream,
    /// Records and gaps.
    pub items: Vec<Item>,
    /// What stands before them and behind them.
    pub left_out: LeftOut,
}

/// Records that a limit left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Between where reading was to begin and where it did.
    pub before: Survey,
    /// Behind which record that lies.
    pub before_since: u64,
    /// Behind the last one that was read.
    pub behind: Survey,
    /// The last one that was read.
    pub behind_since: u64,
}

/// The chosen lines.
#[derive(Debug)]
pub struct LogText {
    /// Of which process.
    pub id: ProcessId,
    /// Which part.
    pub stream: LogStream,
    /// Behind which record the lines begin.
    pub since: u64,
    /// What was looked for.
    pub grep: Option<String>,
    /// Lines around it.
    pub context: u64,
    /// As they look in a terminal.
    pub collapse: bool,
    /// The lines.
    pub chosen: Chosen,
}

/// Reads the log of one process. It stands for itself: a slow reader holds up nobody.
#[derive(Debug)]
pub struct LogReader {
    process: Arc<Process>,
    stream: LogStream,
    output: Arc<Output>,
    cursor: Cursor,
    /// Where reading was to begin, and where it does.
    since: (u64, u64),
    /// The last record that was there when reading began; `None` follows to the end of the process.
    until: Option<u64>,
    /// Records and bytes that may still be read.
    left: (u64, u64),
    /// The last record that was read.
    last: u64,
    is_over: bool,
    /// A terminal stays while its log is followed.
    following: Option<LogFollower>,
}

impl LogReader {
    fn open(process: Arc<Process>, logs: &Logs) -> Result<Self, Error> {
        let (limits, follow) = match &logs.form {
            LogForm::Records(limits) | LogForm::Page(limits) => (*limits, false),
            LogForm::Follow { tail } => {
                let tail = *tail;
                (
                    LogLimits {
                        tail,
                        ..LogLimits::default()
                    },
                    true,
                )
            }
            LogForm::Text { .. } => (LogLimits::default(), false),
        };
        let output = match logs.stream {
            LogStream::AfterExit => process.after_exit(),
            _ => process.output(),
        };
        let output = Arc::clone(output);
        if follow && logs.stream == LogStream::AfterExit {
            return Err(Error::Invalid {
                field: "follow",
                reason: "what is written after the end has no end of its own; read it with since".into(),
            });
        }
        // The end record has a number too: who has seen it may say so.
        let newest = output.next_seq() - u64::from(!output.is_sealed());
        if logs.since > newest {
            return Err(Error::Invalid {
                field: "since",
                reason: format!("{} lies behind the newest record, which is {newest}", logs.since),
            });
        }
        let channels = logs.stream.channels();
        let newest = limits.tail.map(|count| output.before_newest(channels, count));
        let begin = newest.map_or(logs.since, |before| before.max(logs.since));
        Ok(Self {
            cursor: Cursor::after(begin).only(channels),
            stream: logs.stream,
            since: (logs.since, begin),
            until: (!follow).then(|| output.next_seq() - 1),
            left: (
                limits.head.unwrap_or(u64::MAX),
                limits.max_bytes.unwrap_or(u64::MAX),
            ),
            last: begin,
            is_over: false,
            following: None,
            output,
            process,
        })
    }

    /// Whose log it is.
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// Which part is read.
    pub fn stream(&self) -> LogStream {
        self.stream
    }

    /// What there is to be read now.
    pub fn survey(&self) -> Survey {
        let until = self.until.unwrap_or(u64::MAX);
        self.output.survey(self.stream.channels(), self.last, until)
    }

    /// Some more records and gaps; empty at the end. Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the spool cannot be read.
    pub async fn next(&mut self) -> Result<Vec<Item>, Error> {
        if self.is_over {
            return Ok(Vec::new());
        }
        let piece = PIECE.min(self.left.1);
        let mut items = match self.until {
            None => self.output.next(&mut self.cursor, piece).await?,
            Some(_) => self.output.read(&mut self.cursor, piece).await?,
        };
        let fits = items.iter().position(|item| !self.take(item));
        if let Some(fits) = fits {
            items.truncate(fits);
        }
        self.is_over = fits.is_some() || items.is_empty();
        Ok(items)
    }

    /// Counts an item that is read; says whether it still is to be.
    fn take(&mut self, item: &Item) -> bool {
        let Item::Record(record) = item else {
            return true;
        };
        let (records, bytes) = self.left;
        let length = record.bytes.len() as u64;
        let is_first = self.last == self.since.1;
        if self.until.is_some_and(|until| record.seq > until) || records == 0 || (length > bytes && !is_first)
        {
            return false;
        }
        self.left = (records - 1, bytes.saturating_sub(length));
        self.last = record.seq;
        true
    }

    /// What the limits left out, once the end was reached.
    pub fn left_out(&self) -> LeftOut {
        let channels = self.stream.channels();
        let (since, begin) = self.since;
        LeftOut {
            before: self.output.survey(channels, since, begin),
            before_since: since,
            behind: self.survey(),
            behind_since: self.last,
        }
    }

    async fn page(mut self) -> Result<LogPage, Error> {
        let mut all = Vec::new();
        loop {
            let items = self.next().await?;
            if items.is_empty() {
                break;
            }
            all.extend(items);
        }
        Ok(LogPage {
            id: self.process.id(),
            stream: self.stream,
            items: all,
            left_out: self.left_out(),
        })
    }

    async fn text(mut self, select: Select, collapse: bool) -> Result<LogText, Error> {
        let grep = select.grep.as_ref().map(|grep| grep.as_str().to_owned());
        let context = select.context;
        let mut view = View::new(select);
        let mut lines = Channel::ALL.map(|_| Lines::new(collapse));
        loop {
            let items = self.next().await?;
            if items.is_empty() {
                break;
            }
            for item in items {
                match item {
                    Item::Record(record) => {
                        let lines = &mut lines[record.channel as usize];
                        lines.push(&record.bytes, |line| view.line(line));
                    }
                    Item::Gap(gap) => {
                        let begun = lines[gap.channel as usize].finish();
                        if let Some(line) = begun {
                            view.line(line);
                        }
                        let channel = gap.channel.as_str();
                        let bytes = gap.bytes;
                        view.note(format!(
                            "[... {bytes} bytes of {channel} are not kept any more ...]"
                        ));
                    }
                }
            }
            // A long log must not keep the others waiting.
            tokio::task::yield_now().await;
        }
        let begun = lines.iter_mut().filter_map(Lines::finish);
        begun.for_each(|line| view.line(line));
        Ok(LogText {
            id: self.process.id(),
            stream: self.stream,
            since: self.since.0,
            grep,
            context,
            collapse,
            chosen: view.finish(),
        })
    }
}

impl Rooms {
    pub(super) async fn logs(&self, logs: Logs) -> Result<LogsReply, Error> {
        let process = self.processes.get(logs.id)?;
        let mut reader = LogReader::open(process, &logs)?;
        if reader.until.is_none() {
            reader.following = self.terminals.follow_log(logs.id);
        }
        match logs.form {
            LogForm::Records(_) | LogForm::Follow { .. } => Ok(LogsReply::Reader(Box::new(reader))),
            LogForm::Page(_) => reader.page().await.map(LogsReply::Page),
            LogForm::Text { select, collapse } => reader.text(*select, collapse).await.map(LogsReply::Text),
        }
    }

    /// A place among the logs that `principal` follows; given back when dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Overloaded`] when it follows too many.
    pub fn follow(&self, principal: &Arc<str>) -> Result<Following, Error> {
        self.followers.take(principal)
    }
}

/// How many logs each principal follows.
#[derive(Debug, Clone, Default)]
pub(super) struct Followers(Arc<Mutex<HashMap<Arc<str>, usize>>>);

/// See [`Rooms::follow`].
#[derive(Debug)]
pub struct Following {
    followers: Followers,
    principal: Arc<str>,
}

impl Followers {
    fn take(&self, principal: &Arc<str>) -> Result<Following, Error> {
        let mut counts = self.0.lock();
        let count = counts.entry(Arc::clone(principal)).or_default();
        if *count >= FOLLOWERS {
            return Err(Error::Overloaded {
                what: "the number of followed logs of one caller",
                reason: format!("{count} are followed, {FOLLOWERS} may be"),
            });
        }
        *count += 1;
        Ok(Following {
            followers: self.clone(),
            principal: Arc::clone(principal),
        })
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let mut counts = self.followers.0.lock();
        if let Some(count) = counts.get_mut(&self.principal) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.principal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn a_principal_follows_so_many_and_others_do_not_mind() {
        let followers = Followers::default();
        let (somebody, other) = (Arc::from("somebody"), Arc::from("other"));
        let mut places: Vec<_> = (0..FOLLOWERS)
            .map(|_| followers.take(&somebody).unwrap())
            .collect();
        assert_eq!(followers.take(&somebody).unwrap_err().code(), Code::Overloaded);
        assert!(followers.take(&other).is_ok());
        places.pop();
        assert!(followers.take(&somebody).is_ok());
        drop(places);
        assert!(followers.0.lock().is_empty());
    }
}
