//! Pipes that outlive their process: a background child goes on writing after the command was answered. Its pipe is
//! read to the end, so that it neither blocks nor dies of `SIGPIPE`; what it writes is no part of the command.

use std::sync::Arc;
use std::time::Duration;

use super::output::Output;
use super::pump::Tap;

/// Bytes read before a pause: a writer that never stops may take this much per [`PAUSE`] and no more of the processor.
const BURST: usize = 1024 * 1024;
const PAUSE: Duration = Duration::from_millis(50);

/// Reads until the last holder has closed it, into a log of its own.
pub(super) async fn to_the_end(mut tap: Tap, after_exit: Arc<Output>) {
    let mut burst = 0;
    while let Some(bytes) = tap.reader.next(usize::MAX).await {
        burst += bytes.len();
        after_exit.append(tap.channel, bytes);
        if burst >= BURST {
            burst = 0;
            tokio::time::sleep(PAUSE).await;
        }
    }
}
