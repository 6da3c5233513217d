//! How much of a log stands where, told without touching the bytes: what a reader gets, and what it leaves out.

use super::log::Log;
use super::record::Channel;

/// What of some channels stands in a part of a log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Survey {
    /// Records that are kept.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that were dropped.
    pub missing: u64,
}

impl Log {
    /// What of `channels` stands behind record `after`, up to record `until`.
    pub fn survey(&mut self, channels: &[Channel], after: u64, until: u64) -> Survey {
        self.close_pending();
        let mut survey = Survey::default();
        for channel in channels {
            let shelf = &self.shelves[channel.index()];
            let records = shelf
                .from(after.saturating_add(1))
                .take_while(|record| record.seq <= until);
            for record in records {
                survey.records += 1;
                survey.bytes += record.bytes.len();
            }
            // Where a reader stands within what was dropped is not known: then all of it counts.
            let hole = shelf.hole().filter(|hole| hole.to > after && hole.from <= until);
            survey.missing += hole.map_or(0, |hole| hole.bytes);
        }
        survey
    }

    /// The sequence behind which exactly the newest `count` records of `channels` stand; 0 when there are no more.
    pub fn before_newest(&mut self, channels: &[Channel], count: u64) -> u64 {
        self.close_pending();
        let mut newest: Vec<_> = channels
            .iter()
            .map(|channel| {
                let (head, tail) = self.shelves[channel.index()].parts();
                let seqs = head.chain(tail).map(|record| record.seq);
                seqs.rev().peekable()
            })
            .collect();
        let mut next = || {
            let ways = newest.iter_mut().enumerate();
            let seqs = ways.filter_map(|(way, seqs)| Some((*seqs.peek()?, way)));
            let (_, way) = seqs.max()?;
            newest[way].next()
        };
        for _ in 0..count {
            if next().is_none() {
                return 0;
            }
        }
        next().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::stream::Keep;

    const ALL: &[Channel] = &[Channel::Stdout, Channel::Stderr];

    fn log(keep: Keep) -> Log {
        let mut log = Log::new(keep);
        for step in 0..10_u64 {
            let channel = ALL[(step % 2) as usize];
            log.append(channel, Bytes::from(vec![b'x'; 10]), step);
        }
        log
    }

    #[test]
    fn what_stands_where_is_counted() {
        let mut log = log(Keep::all());
        let all = log.survey(ALL, 0, u64::MAX);
        assert_eq!((all.records, all.bytes, all.missing), (10, 100, 0));
        let some = log.survey(&[Channel::Stderr], 2, 6);
        assert_eq!((some.records, some.bytes), (2, 20));
        assert_eq!(log.survey(ALL, u64::MAX, u64::MAX), Survey::default());
    }

    #[test]
    fn what_was_dropped_is_counted_apart() {
        let mut log = log(Keep::newest(40));
        let all = log.survey(ALL, 0, u64::MAX);
        assert_eq!((all.records, all.bytes, all.missing), (4, 40, 60));
        assert_eq!(log.survey(ALL, 6, u64::MAX).missing, 0);
    }

    #[test]
    fn the_newest_records_of_some_channels_stand_behind_their_sequence() {
        let mut log = log(Keep::all());
        for (channels, count) in [(ALL, 3), (&ALL[..1], 2), (&ALL[1..], 5), (ALL, 10)] {
            let before = log.before_newest(channels, count);
            assert_eq!(log.survey(channels, before, u64::MAX).records, count, "{count}");
        }
        assert_eq!(log.before_newest(ALL, 11), 0);
        assert_eq!(log.before_newest(&[Channel::Tty], 1), 0);
    }
}
