//! Pipes that outlive their process: a background child goes on writing after the command was answered. Its pipe is
//! read to the end, so that it neither blocks nor dies of `SIGPIPE`; what it writes is no part of the command.

use std::time::Duration;

use bytes::BytesMut;
use tokio::net::unix::pipe;

/// Bytes read before a pause: a writer that never stops may take this much per [`PAUSE`] and no more of the processor.
const BURST: usize = 1024 * 1024;
const PAUSE: Duration = Duration::from_millis(50);

/// Reads until the last holder has closed it.
pub(super) async fn to_the_end(pipe: pipe::Receiver) {
    let mut buffer = BytesMut::new();
    let mut burst = 0;
    loop {
        if pipe.readable().await.is_err() {
            return;
        }
        buffer.clear();
        buffer.reserve(16 * 1024);
        match pipe.try_read_buf(&mut buffer) {
            Ok(0) => return,
            Ok(read) => burst += read,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => return,
        }
        if burst >= BURST {
            burst = 0;
            tokio::time::sleep(PAUSE).await;
        }
    }
}
