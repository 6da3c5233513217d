//! Properties of the log: nothing is lost without being counted, and every reader is told the same.

use std::io;
use std::sync::Arc;

use proptest::prelude::*;

use super::super::cursor::Cursor;
use super::super::keep::Tail;
use super::super::record::{Gap, Holder, Item};
use super::*;

type Chunks = Vec<(bool, Vec<u8>)>;

const PIPES: [Channel; 2] = [Channel::Stdout, Channel::Stderr];

fn chunks() -> impl Strategy<Value = Chunks> {
    proptest::collection::vec(
        (any::<bool>(), proptest::collection::vec(any::<u8>(), 0..5000)),
        0..12,
    )
}

fn channel(stderr: bool) -> Channel {
    PIPES[usize::from(stderr)]
}

fn written(chunks: &Chunks, wanted: Channel) -> Vec<u8> {
    let of_it = chunks.iter().filter(|(stderr, _)| channel(*stderr) == wanted);
    of_it.flat_map(|(_, bytes)| bytes.clone()).collect()
}

fn append(log: &mut Log, (stderr, bytes): &(bool, Vec<u8>), now: u64) {
    log.append(channel(*stderr), Bytes::copy_from_slice(bytes), now);
}

/// What the disk would hold, in memory.
#[derive(Debug)]
struct Shelved(Vec<u8>);

impl Holder for Shelved {
    fn read(&self, position: u64, length: u32) -> io::Result<Bytes> {
        let begin = position as usize;
        Ok(Bytes::copy_from_slice(&self.0[begin..begin + length as usize]))
    }
}

fn spill(log: &mut Log, keep: u64) {
    let excess = log.excess(keep);
    let (mut all, mut places) = (Vec::new(), Vec::new());
    for (seq, channel, bytes) in excess {
        places.push((seq, channel, all.len() as u64, bytes.len() as u32));
        all.extend_from_slice(&bytes);
    }
    let holder = Arc::new(Shelved(all));
    for (seq, channel, position, length) in places {
        let holder: Arc<dyn Holder> = Arc::clone(&holder) as Arc<dyn Holder>;
        log.spilled(
            seq,
            channel,
            Spilled {
                holder,
                position,
                length,
            },
        );
    }
}

fn bytes_of(stored: &Stored) -> Bytes {
    match stored {
        Stored::Memory(bytes) => bytes.clone(),
        Stored::Spilled(spilled) => spilled.holder.read(spilled.position, spilled.length).unwrap(),
    }
}

/// What one reader has seen of one channel.
#[derive(Debug, Default)]
struct Seen {
    bytes: Vec<u8>,
    missing: u64,
}

/// Takes items as a client would, and checks that they join what was seen before.
fn take(seen: &mut [Seen; 2], last: &mut u64, items: Vec<Item<Stored>>) {
    for item in items {
        match item {
            Item::Record(record) => {
                assert!(record.seq > *last, "records come in order");
                *last = record.seq;
                let seen = &mut seen[record.channel.index()];
                assert_eq!(record.offset, seen.bytes.len() as u64 + seen.missing);
                seen.bytes.extend_from_slice(&bytes_of(&record.bytes));
            }
            Item::Gap(Gap {
                channel,
                from,
                to,
                bytes,
            }) => {
                assert!(from <= to && bytes > 0, "{from} {to} {bytes} {channel:?}");
                seen[channel.index()].missing += bytes;
            }
        }
    }
}

proptest! {
    #[test]
    fn head_tail_gap_and_digest_account_for_every_byte(
        head in 0_u64..6000, tail in 0_u64..6000, chunks in chunks(),
    ) {
        let keep = Keep { head, tail: Tail::EachChannel(tail) };
        let mut log = Log::new(keep);
        for chunk in &chunks {
            append(&mut log, chunk, 1);
        }
        for channel in PIPES {
            let all = written(&chunks, channel);
            let kept = log.kept(channel, keep);
            let totals = log.totals();
            prop_assert_eq!(totals[channel].total, all.len() as u64);
            prop_assert_eq!(totals[channel].digest, blake3::hash(&all));
            prop_assert_eq!(kept.head.len() as u64 + kept.omitted + kept.tail.len() as u64, all.len() as u64);
            prop_assert!(all.starts_with(&kept.head) && all.ends_with(&kept.tail));
            prop_assert_eq!(kept.omitted, (all.len() as u64).saturating_sub(head + tail));
        }
    }

    /// A reader that reads now and then, one that comes late, and one that knows a sequence only.
    #[test]
    fn every_reader_gets_every_byte_or_a_gap_of_exactly_what_is_missing(
        limit in 0_u64..9000, head in 0_u64..3000, together in any::<bool>(), spilling in any::<bool>(),
        max in 1_u64..9000, chunks in chunks(), reads in proptest::collection::vec(any::<bool>(), 12),
    ) {
        let tail = if together { Tail::Together(limit) } else { Tail::EachChannel(limit) };
        let mut log = Log::new(Keep { head, tail }).with_record_limit(3000);
        let (mut cursor, mut seen, mut last) = (Cursor::start(), <[Seen; 2]>::default(), 0);
        for (chunk, read) in chunks.iter().zip(reads) {
            append(&mut log, chunk, 1);
            if spilling {
                spill(&mut log, limit / 2);
                prop_assert!(log.in_memory() <= limit / 2 + log.pending_bytes() + 5000);
            }
            if read {
                take(&mut seen, &mut last, log.read(&mut cursor, max));
            }
        }
        let mut again = Cursor::after(cursor.seq);
        loop {
            let items = log.read(&mut cursor, max);
            if items.is_empty() {
                break;
            }
            take(&mut seen, &mut last, items);
        }
        let mut late = (<[Seen; 2]>::default(), 0);
        take(&mut late.0, &mut late.1, log.read(&mut Cursor::start(), u64::MAX));
        for seen in [&seen, &late.0] {
            for channel in PIPES {
                let all = written(&chunks, channel);
                let seen = &seen[channel.index()];
                prop_assert_eq!(seen.bytes.len() as u64 + seen.missing, all.len() as u64);
                prop_assert!(all.ends_with(&seen.bytes) || seen.missing > 0 || seen.bytes == all);
            }
        }
        let next = log.next_seq();
        let mut behind = 0;
        for item in log.read(&mut again, u64::MAX) {
            if let Item::Record(record) = item {
                prop_assert!(record.seq < next);
                behind = record.seq;
            }
        }
        prop_assert!(behind == 0 || behind == last);
        prop_assert!(!together || log.retained() <= limit.max(1));
    }

    #[test]
    fn what_is_released_is_gone_and_the_rest_is_counted(chunks in chunks(), release in 0_u64..12) {
        let mut log = Log::new(Keep::all()).with_record_limit(2000);
        for chunk in &chunks {
            append(&mut log, chunk, 1);
        }
        let next = log.next_seq();
        let release = release.min(next - 1);
        let behind = log.behind(release);
        log.release(release);
        prop_assert_eq!(log.retained(), behind);
        prop_assert_eq!(log.in_memory(), behind);
        let mut cursor = Cursor::after(release);
        let items = log.read(&mut cursor, u64::MAX);
        prop_assert_eq!(items.len() as u64, next - 1 - release, "no gap behind what was released");
        let gaps = log.read(&mut Cursor::start(), u64::MAX).into_iter().filter_map(|item| match item {
            Item::Gap(gap) => Some(gap.bytes),
            Item::Record(_) => None,
        });
        let all: usize = chunks.iter().map(|(_, bytes)| bytes.len()).sum();
        prop_assert_eq!(gaps.sum::<u64>() + behind, all as u64);
    }
}

#[test]
fn byte_by_byte_output_is_gathered() {
    let keep = Keep::first(1 << 20);
    let mut log = Log::new(keep);
    for _ in 0..100_000 {
        log.append(Channel::Stdout, Bytes::from_static(b"x"), 5);
    }
    assert!(log.next_seq() < 10, "{} records", log.next_seq());
    assert_eq!(log.kept(Channel::Stdout, keep).head.len(), 100_000);
}

#[test]
fn alternating_bytes_are_gathered_and_the_order_across_milliseconds_is_kept() {
    let mut log = Log::new(Keep::first(1 << 20));
    for step in 0..100_000 {
        log.append(PIPES[step % 2], Bytes::from_static(b"x"), step as u64 / 10_000);
    }
    assert!(log.next_seq() < 50, "{} records", log.next_seq());
    let mut log = Log::new(Keep::first(100));
    for (at, channel) in [(1, Channel::Stderr), (2, Channel::Stdout), (3, Channel::Stderr)] {
        log.append(channel, Bytes::from_static(b"x"), at);
    }
    let order = log
        .read(&mut Cursor::start(), u64::MAX)
        .into_iter()
        .map(|item| match item {
            Item::Record(record) => record.channel,
            Item::Gap(gap) => gap.channel,
        });
    assert_eq!(
        order.collect::<Vec<_>>(),
        [Channel::Stderr, Channel::Stdout, Channel::Stderr]
    );
}

#[test]
fn a_sign_of_life_has_a_number_and_no_bytes() {
    let mut log = Log::new(Keep::all());
    log.append(Channel::Stdout, Bytes::from_static(b"x"), 1);
    log.mark(2);
    log.append(Channel::Stdout, Bytes::from_static(b"y"), 3);
    let mut cursor = Cursor::start();
    let seqs = log
        .read(&mut cursor, u64::MAX)
        .into_iter()
        .map(|item| match item {
            Item::Record(record) => (record.seq, record.channel, record.offset),
            Item::Gap(gap) => panic!("{gap:?}"),
        });
    let seqs: Vec<_> = seqs.collect();
    assert_eq!(
        seqs,
        [
            (1, Channel::Stdout, 0),
            (2, Channel::Progress, 0),
            (3, Channel::Stdout, 1)
        ]
    );
    let only = log.read(&mut Cursor::start().only(&[Channel::Stderr]), u64::MAX);
    assert!(only.is_empty());
}
