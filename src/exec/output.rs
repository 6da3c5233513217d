//! The output of one process while it runs and afterwards: one numbered log, one writer, any number of readers.
//!
//! ```text
//!   pump --append--> log --next(cursor)--> readers, each at its own pace
//!                     | ^
//!              settle v | next                gate: whether the pump may read more
//!                   spool
//! ```
//!
//! A reader that stops reading costs nobody anything: it holds a cursor, not a place in a queue. What does not fit into
//! memory goes to the spool; what is not to be kept is dropped and counted.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::fetch::in_memory;
use super::spool::{Segment, Spool};
use crate::error::Error;
use crate::stream::{Channel, Cursor, Item, Keep, Kept, Log, Survey, Tail, Totals};

/// What an output that has ended may hold in memory for good without a file of its own, bytes: a file costs a descriptor.
const RESTING: u64 = 1 << 20;

/// How long the pump waits for room that is worthwhile when there is some.
const PATIENCE: Duration = Duration::from_millis(50);

/// When the pump may read more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gate {
    /// A record.
    pub after: u64,
    /// Bytes that may stand behind it.
    pub window: u64,
    /// For fewer bytes than this the pump waits a moment: many small reads are many small records.
    pub worthwhile: u64,
    /// Bytes that may be kept in all.
    pub capacity: u64,
}

impl Gate {
    /// Always.
    pub const OPEN: Self = Self {
        after: 0,
        window: u64::MAX,
        worthwhile: 0,
        capacity: u64::MAX,
    };
}

/// Records that are too much for memory, oldest first.
type Excess = Vec<(u64, Channel, Bytes)>;

/// The shared log of one process.
#[derive(Debug)]
pub struct Output {
    state: Mutex<State>,
    /// Something was added, or the end came.
    news: Notify,
    /// The gate may be open now.
    room: Notify,
    /// Where it may grow beyond memory; `None` for logs that are bounded to fit.
    spool: Option<Arc<Spool>>,
}

#[derive(Debug)]
struct State {
    log: Log,
    gate: Gate,
    sealed: bool,
    /// Bytes that may be written at most.
    limit: u64,
    /// Taken by whoever writes to the spool.
    segment: Option<Segment>,
    /// The spool takes nothing: what is in memory is all there is room for.
    stuck: bool,
}

impl Output {
    /// An empty one that keeps this much in memory.
    pub fn in_memory(keep: Keep) -> Arc<Self> {
        Arc::new(Self::new(Log::new(keep), None))
    }

    /// An empty one that may grow into the spool.
    pub fn spooled(log: Log, spool: &Arc<Spool>) -> Arc<Self> {
        spool.join();
        Arc::new(Self::new(log, Some(Arc::clone(spool))))
    }

    fn new(log: Log, spool: Option<Arc<Spool>>) -> Self {
        Self {
            state: Mutex::new(State {
                log,
                gate: Gate::OPEN,
                sealed: false,
                limit: u64::MAX,
                segment: None,
                stuck: false,
            }),
            news: Notify::new(),
            room: Notify::new(),
            spool,
        }
    }

    /// Adds bytes as they arrive. What comes after the seal is no part of the log.
    pub fn append(&self, channel: Channel, bytes: Bytes) {
        let mut state = self.state.lock();
        if !state.sealed {
            state.log.append(channel, bytes, now_ms());
            drop(state);
            self.news.notify_waiters();
        }
    }

    /// Adds bytes as soon as they may be added, and sees to it that they do not stay in memory. For writers that are not a
    /// process. When it is cancelled the first of the bytes may be in.
    pub async fn write(&self, channel: Channel, mut bytes: Bytes) {
        while !bytes.is_empty() {
            let room = self.room(bytes.len()).await;
            self.append(channel, bytes.split_to(room.min(bytes.len())));
            self.settle().await;
        }
    }

    /// Adds a sign of life.
    pub fn mark(&self) {
        let mut state = self.state.lock();
        if !state.sealed {
            state.log.mark(now_ms());
            drop(state);
            self.news.notify_waiters();
        }
    }

    /// Nothing is added any more. `end` gets the sequence of the end record and the totals, and what it keeps is there
    /// before any reader learns of the end.
    pub fn seal<T>(&self, end: impl FnOnce(u64, Totals) -> T) -> T {
        let mut state = self.state.lock();
        let kept = end(state.log.next_seq(), state.log.totals());
        state.sealed = true;
        state.log.finish();
        drop(state);
        self.news.notify_waiters();
        self.room.notify_waiters();
        kept
    }

    /// Whether the end is in.
    pub fn is_sealed(&self) -> bool {
        self.state.lock().sealed
    }

    /// What stands behind `cursor`, about `max` bytes of it, as soon as there is something; empty at the end. Cancel-safe:
    /// the cursor moves with the answer.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the spool cannot be read.
    pub async fn next(&self, cursor: &mut Cursor, max: u64) -> Result<Vec<Item>, Error> {
        loop {
            let mut news = std::pin::pin!(self.news.notified());
            news.as_mut().enable();
            let mut ahead = cursor.clone();
            let (items, sealed) = {
                let mut state = self.state.lock();
                (state.log.read(&mut ahead, max), state.sealed)
            };
            if !items.is_empty() || sealed {
                let items = in_memory(items).await?;
                *cursor = ahead;
                return Ok(items);
            }
            news.await;
        }
    }

    /// What stands behind `cursor` now, about `max` bytes of it.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the spool cannot be read.
    pub async fn read(&self, cursor: &mut Cursor, max: u64) -> Result<Vec<Item>, Error> {
        let mut ahead = cursor.clone();
        let items = self.state.lock().log.read(&mut ahead, max);
        let items = in_memory(items).await?;
        *cursor = ahead;
        Ok(items)
    }

    /// The position of a reader that has the first `offset` bytes of `channel` and reads nothing else.
    pub fn cursor_at(&self, channel: Channel, offset: u64) -> Cursor {
        self.state.lock().log.cursor_at(channel, offset)
    }

    /// Resolves when a record stands behind `seq`, or at the end; says whether there is one. Cancel-safe.
    pub async fn wait_behind(&self, seq: u64) -> bool {
        loop {
            let mut news = std::pin::pin!(self.news.notified());
            news.as_mut().enable();
            {
                let mut state = self.state.lock();
                if state.log.next_seq() > seq + 1 {
                    return true;
                }
                if state.sealed {
                    return false;
                }
            }
            news.await;
        }
    }

    /// Resolves when the pump may read more, to how many bytes that are: `most`, as many as are worthwhile, or after
    /// `PATIENCE` what there is. Cancel-safe.
    pub async fn room(&self, most: usize) -> usize {
        let worthwhile = self.room_of(|state| state.gate.worthwhile.min(most as u64));
        let there_is = async { self.room_of(|_| 1).await };
        tokio::select! {
            biased;
            bytes = worthwhile => bytes,
            () = tokio::time::sleep(PATIENCE) => there_is.await,
        }
    }

    /// Resolves when there is room for as many bytes as `enough` says, and for one at least. Cancel-safe.
    async fn room_of(&self, enough: impl Fn(&State) -> u64) -> usize {
        loop {
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            let (bytes, enough) = {
                let state = self.state.lock();
                (self.room_in(&state), enough(&state))
            };
            if bytes > 0 && bytes as u64 >= enough {
                return bytes;
            }
            room.await;
        }
    }

    /// How many bytes the pump may read now.
    pub fn room_now(&self) -> usize {
        self.room_in(&self.state.lock())
    }

    fn room_in(&self, state: &State) -> usize {
        if state.gate == Gate::OPEN && !state.stuck {
            return usize::MAX;
        }
        if self.has_no_memory(state) {
            return 0;
        }
        let window = state
            .gate
            .window
            .saturating_sub(state.log.behind(state.gate.after));
        let capacity = state.gate.capacity.saturating_sub(state.log.retained());
        usize::try_from(window.min(capacity)).unwrap_or(usize::MAX)
    }

    /// Decides when the pump may read more from now on.
    pub fn set_gate(&self, gate: Gate) {
        self.state.lock().gate = gate;
        self.room.notify_waiters();
    }

    /// Resolves when no more can be written because neither memory nor disk takes it. Cancel-safe.
    pub async fn full(&self) {
        loop {
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            if self.has_no_memory(&self.state.lock()) {
                return;
            }
            room.await;
        }
    }

    /// Whether neither memory nor disk takes more.
    pub fn is_full(&self) -> bool {
        self.has_no_memory(&self.state.lock())
    }

    fn has_no_memory(&self, state: &State) -> bool {
        let share = self.spool.as_ref().map_or(u64::MAX, |spool| spool.share());
        state.stuck && state.log.in_memory() >= share
    }

    /// Lets go of the records up to `seq`.
    pub fn release(&self, seq: u64) {
        {
            let mut state = self.state.lock();
            let before = state.log.retained();
            state.log.release(seq);
            // The disk may take something again, which is found out by trying.
            state.stuck &= state.log.retained() == before;
        }
        self.room.notify_waiters();
    }

    /// Lets go of the oldest records, of those up to `seq` only, until at most `bytes` are kept; answers the last one that
    /// went.
    pub fn release_down_to(&self, bytes: u64, seq: u64) -> Option<u64> {
        let last = {
            let mut state = self.state.lock();
            let last = state.log.release_down_to(bytes, seq);
            state.stuck &= last.is_none();
            last
        };
        self.room.notify_waiters();
        last
    }

    /// Bytes that are kept now.
    pub fn retained(&self) -> u64 {
        self.state.lock().log.retained()
    }

    /// Bytes behind record `seq`.
    pub fn behind(&self, seq: u64) -> u64 {
        self.state.lock().log.behind(seq)
    }

    /// The sequence that the next record, or the end record, gets.
    pub fn next_seq(&self) -> u64 {
        self.state.lock().log.next_seq()
    }

    /// What of `channels` stands behind record `after`, up to record `until`.
    pub fn survey(&self, channels: &[Channel], after: u64, until: u64) -> Survey {
        self.state.lock().log.survey(channels, after, until)
    }

    /// The sequence behind which the newest `count` records of `channels` stand.
    pub fn before_newest(&self, channels: &[Channel], count: u64) -> u64 {
        self.state.lock().log.before_newest(channels, count)
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.state.lock().log.written()
    }

    /// Totals and digests so far.
    pub fn totals(&self) -> Totals {
        self.state.lock().log.totals()
    }

    /// What was kept of a channel, put together as far as `keep` goes.
    pub fn kept(&self, channel: Channel, keep: Keep) -> Kept {
        self.state.lock().log.kept(channel, keep)
    }

    /// Whether some of it may be on the disk.
    pub(super) fn has_spool(&self) -> bool {
        self.spool.is_some()
    }

    /// Bounds what may be written, bytes. The lowest of several bounds counts.
    pub(super) fn limit(&self, bytes: u64) {
        let mut state = self.state.lock();
        state.limit = state.limit.min(bytes);
    }

    /// Whether more was written than may be.
    pub(super) fn is_over(&self) -> bool {
        let state = self.state.lock();
        state.log.written() > state.limit
    }

    /// Moves out of memory what is too much for it. Cancel-safe: nothing is lost, what was not moved is in memory.
    pub(super) async fn settle(&self) {
        let Some(spool) = &self.spool else { return };
        let share = spool.share();
        let spilled = self.spill(spool, share, share / 2).await;
        let mut state = self.state.lock();
        state.stuck = spilled.is_err();
        if let Err((error, excess)) = spilled {
            tracing::debug!(%error, "output stays in memory");
            self.without_disk(&mut state, &excess);
        }
    }

    /// Moves what is left in memory of an output that has ended to the disk, where it is worth a file. What the disk
    /// does not take stays.
    pub(super) async fn rest(&self) {
        let Some(spool) = self.spool.as_ref().filter(|_| self.is_sealed()) else {
            return;
        };
        let has_file = self.state.lock().segment.is_some();
        let most = if has_file { 0 } else { RESTING };
        if let Err((error, _)) = self.spill(spool, most, 0).await {
            tracing::debug!(%error, "output stays in memory");
        }
    }

    /// Moves the oldest out of memory until `rest` bytes are left there, when it is more than `most`; the error is what the
    /// disk does not take.
    async fn spill(&self, spool: &Arc<Spool>, most: u64, rest: u64) -> Result<(), (io::Error, Excess)> {
        let (excess, segment) = {
            let mut state = self.state.lock();
            if state.log.in_memory() <= most {
                return Ok(());
            }
            (state.log.excess(rest), state.segment.take())
        };
        let (spool, pieces) = (
            Arc::clone(spool),
            excess.iter().map(|(.., bytes)| bytes.clone()).collect(),
        );
        let writing = tokio::task::spawn_blocking(move || {
            let (mut segment, pieces): (_, Vec<Bytes>) = (segment, pieces);
            let written = spool.write(&mut segment, &pieces);
            (written, segment)
        });
        let Ok((written, segment)) = writing.await else {
            return Ok(());
        };
        let mut state = self.state.lock();
        state.segment = segment;
        let places = match written {
            Ok(places) => places,
            Err(error) => return Err((error, excess)),
        };
        for ((seq, channel, _), place) in excess.into_iter().zip(places) {
            state.log.spilled(seq, channel, place);
        }
        Ok(())
    }

    /// What is to be dropped sooner or later is dropped now; what may not be dropped closes the gate, where somebody is to
    /// release it. Where nobody ever will, this is as much as may be written.
    fn without_disk(&self, state: &mut State, excess: &Excess) {
        if let (Tail::Together(_), Some((seq, ..))) = (state.log.keep().tail, excess.last()) {
            state.log.release(*seq);
            state.stuck = false;
        } else if state.gate == Gate::OPEN {
            tracing::warn!(
                "output that may not be dropped fits neither in memory nor on disk, its command is ended"
            );
            state.limit = 0;
        }
        self.room.notify_waiters();
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(spool) = &self.spool {
            spool.leave();
        }
    }
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::super::fetch::gathered;
    use super::*;

    fn text(items: &[Item]) -> String {
        let texts = items.iter().map(|item| match item {
            Item::Record(record) => String::from_utf8_lossy(&record.bytes).into_owned(),
            Item::Gap(gap) => format!("<{}>", gap.bytes),
        });
        texts.collect()
    }

    #[tokio::test]
    async fn a_reader_waits_for_what_is_new_and_for_the_end() {
        let output = Output::in_memory(Keep::newest(100));
        let (mut cursor, writer) = (Cursor::start(), Arc::clone(&output));
        let next = async { text(&output.next(&mut cursor, 100).await.unwrap()) };
        let write = async { writer.append(Channel::Stdout, Bytes::from("new")) };
        assert_eq!(tokio::join!(next, write).0, "new");
        let end = async { output.next(&mut cursor, 100).await.unwrap().len() };
        let seal = async { writer.seal(|seq, _| seq) };
        assert_eq!(tokio::join!(end, seal), (0, 2));
        writer.append(Channel::Stdout, Bytes::from("late"));
        assert_eq!(output.totals()[Channel::Stdout].total, 3, "the end was sealed");
    }

    #[tokio::test]
    async fn what_does_not_fit_in_memory_comes_back_from_the_spool() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::new(Some(directory.path().to_owned()), 0);
        let output = Output::spooled(Log::new(Keep::all()), &spool);
        let mut all = Vec::new();
        for step in 0..200_u8 {
            let piece = vec![step; 100_000];
            all.extend_from_slice(&piece);
            output.append(Channel::Stdout, piece.into());
            output.settle().await;
        }
        assert!(output.state.lock().log.in_memory() <= spool.share());
        assert!(spool.used() > 15_000_000, "{}", spool.used());
        output.seal(|_, _| ());
        let (mut cursor, mut read) = (Cursor::start(), Vec::new());
        loop {
            let items = output.next(&mut cursor, 1 << 20).await.unwrap();
            let Some(last) = items.last() else { break };
            assert!(matches!(last, Item::Record(_)));
            for item in items {
                if let Item::Record(record) = item {
                    read.extend_from_slice(&record.bytes);
                }
            }
        }
        assert_eq!(blake3::hash(&read), blake3::hash(&all));
        output.release(u64::MAX);
        drop(output);
        assert_eq!(spool.used(), 0);
    }

    #[tokio::test]
    async fn what_has_ended_rests_on_the_disk() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::new(Some(directory.path().to_owned()), 0);
        let output = Output::spooled(Log::new(Keep::newest(u64::MAX)), &spool);
        let (small, large) = (vec![b's'; 1000], vec![b'l'; 2 << 20]);
        for piece in [&small, &large] {
            output.append(Channel::Stdout, piece.clone().into());
        }
        output.rest().await;
        assert_eq!(spool.used(), 0, "it has not ended");
        output.seal(|_, _| ());
        output.rest().await;
        assert_eq!(
            (spool.used(), output.state.lock().log.in_memory()),
            (2_098_152, 0)
        );
        let kept = gathered(&output, Channel::Stdout, Keep::all(), 2_098_152).await;
        assert_eq!(kept.unwrap().head.as_ref(), [small.as_slice(), &large].concat());
        let little = Output::spooled(Log::new(Keep::all()), &spool);
        little.append(Channel::Stdout, small.into());
        little.seal(|_, _| ());
        little.rest().await;
        assert_eq!(
            little.state.lock().log.in_memory(),
            1000,
            "it is not worth a file"
        );
    }

    #[tokio::test]
    async fn without_a_disk_the_oldest_are_dropped_or_the_gate_closes() {
        let spool = Spool::new(None, 0);
        let share = spool.share();
        let (dropping, blocking) = (
            Output::spooled(Log::new(Keep::newest(u64::MAX)), &spool),
            Output::spooled(Log::new(Keep::all()), &spool),
        );
        let mut written = 0;
        while written < 3 * share {
            for output in [&dropping, &blocking] {
                if output.room_now() > 0 {
                    output.append(Channel::Stdout, vec![b'x'; 100_000].into());
                    output.settle().await;
                }
            }
            written += 100_000;
        }
        assert!(dropping.retained() <= share && dropping.room_now() > 0);
        assert!(blocking.room_now() == 0 && blocking.retained() < share + 200_000);
        let first = dropping.read(&mut Cursor::start(), 1).await.unwrap();
        assert!(matches!(first[0], Item::Gap(_)), "what was dropped is told");
        blocking.release(blocking.next_seq() - 1);
        assert!(blocking.room_now() > 0);
    }

    #[tokio::test]
    async fn the_gate_opens_when_records_are_released() {
        let output = Output::in_memory(Keep::all());
        let gate = |after| Gate {
            after,
            window: 4,
            worthwhile: 1,
            capacity: 100,
        };
        output.set_gate(gate(0));
        output.append(Channel::Stdout, Bytes::from("four"));
        assert_eq!(output.room_now(), 0);
        assert_eq!(output.next_seq(), 2, "what was gathered is a record now");
        let (room, release) = (output.room(usize::MAX), async { output.set_gate(gate(1)) });
        tokio::join!(room, release);
        output.set_gate(Gate {
            capacity: 4,
            ..gate(1)
        });
        assert_eq!(output.room_now(), 0, "as much is kept as may be");
        output.release(1);
        assert_eq!(output.room_now(), 4);
    }

    #[tokio::test]
    async fn little_room_is_waited_on_for_a_moment_unless_it_is_enough() {
        let output = Output::in_memory(Keep::all());
        let gate = |window| Gate {
            window,
            worthwhile: 50,
            ..Gate::OPEN
        };
        output.set_gate(gate(10));
        assert_eq!(output.room(8).now_or_never(), Some(10), "all that is wanted fits");
        let (room, grow) = (output.room(usize::MAX), async { output.set_gate(gate(60)) });
        assert_eq!(tokio::join!(room, grow).0, 60);
        output.set_gate(gate(10));
        let begun = std::time::Instant::now();
        assert_eq!(output.room(usize::MAX).await, 10, "better than nothing");
        assert!(begun.elapsed() >= PATIENCE);
    }
}
