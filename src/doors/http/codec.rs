//! Where JSON is decoded and encoded: what is small at once, what is large on the blocking pool, so that tens of megabytes
//! of one request do not keep the others waiting.

use crate::error::Error;
use crate::exec::Finished;
use crate::ops::{BatchOutcome, LogsReply, Reply};
use crate::stream::Item;

/// From how many bytes on a hand-over to another thread is worth its cost.
const LARGE: usize = 256 << 10;

/// Does `work`, which is about so many `bytes` of JSON.
pub(super) async fn at_length<T, F>(bytes: usize, work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, Error> + Send + 'static,
{
    if bytes < LARGE {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(reason) => Err(Error::Internal {
            reason: format!("work on JSON ended early: {reason}"),
        }),
    }
}

/// About how many bytes a reply has as JSON.
pub(super) fn length(reply: &Reply) -> usize {
    const ENTRY: usize = 200;
    match reply {
        Reply::Ran(finished) => written(finished),
        Reply::Batch(outcomes) => outcomes
            .iter()
            .map(|outcome| match outcome {
                BatchOutcome::Ran { finished, .. } => written(finished),
                BatchOutcome::Failed(_) | BatchOutcome::Skipped => ENTRY,
            })
            .sum(),
        Reply::Logs(LogsReply::Page(page)) => {
            let items = page.items.iter().map(|item| match item {
                Item::Record(record) => ENTRY + record.bytes.len(),
                Item::Gap(_) => ENTRY,
            });
            items.sum()
        }
        Reply::Listing(listing) => ENTRY * listing.entries.len(),
        Reply::Searched(answer) => ENTRY * answer.found.len(),
        _ => 0,
    }
}

fn written(finished: &Finished) -> usize {
    [&finished.stdout, &finished.stderr]
        .map(|kept| kept.head.len() + kept.tail.len())
        .iter()
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_is_large_leaves_the_thread() {
        let here = std::thread::current().id();
        let thread = |bytes| at_length(bytes, || Ok(std::thread::current().id()));
        assert_eq!(thread(100).await.unwrap(), here);
        assert_ne!(thread(LARGE).await.unwrap(), here);
    }
}
